"""From counts to a verdict: effect sizes and adjusted significance together, never one of them alone.

A class hangs on a frequency shortcut when a sliver of the spectrum, which holds little of an image,
turns images of other classes into it: more than they were called so before, and more than the same
orbits of images of other classes do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.shortcut_findings import ClassShortcut, Confound, Extent, Rung, Verdict
from shortcut_audit.results.statistics import adjusted_p_values, paired_interval, paired_p_value

__all__ = [
    "EFFECT",
    "SIGNIFICANT",
    "WORTH_A_NULL",
    "comparisons_of",
    "decided",
    "extent_of",
    "p_value_of",
    "score_of",
    "with_scores",
]

# Share of other images that has to be turned, over every null, before it is called a shortcut. Classes
# of clean networks stay below 0.07; what counts as a used plant turns 0.2.
EFFECT = 0.10
# What must be ruled out before it is called none.
RULED_OUT = 0.15
SIGNIFICANT = 0.05
# A larger share of the spectrum is no sliver: what it does counts for less, so that it has to turn half
# as many images again. Broad regions carry some of what any class looks like, and random orbits of the
# same radii, a null for slivers, do not exist for them.
SLIVER, BROAD = 0.10, 2 / 3
# Below, an effect is not worth a null.
WORTH_A_NULL = 0.05
# Half of the images, and half of the way from chance to certainty.
_HALF = 0.5
# Of what the best rung does, a smaller one that does so much tells where it lies.
_MOST = 0.8
# Nearly empty images of other classes that land in the class; images of the class that any removal of
# the kind loses; images that another's colour turns.
_DEFAULT, _FRAGILE, _COLOUR = 0.3, 0.2, 0.1
# Waves that may be named one by one.
_NARROW = 8


def comparisons_of(rung: Rung) -> list[Paired]:
    """What a rung has to beat: other images as they are, foreign donors, nothing in the orbits' place
    (images of a class that loses its own shortcut go to another by that alone), and random orbits of
    the same radii where there are any to draw. Empty where no null was drawn."""
    if rung.flips_over_foreign is None:
        return []
    nulls = [rung.flips, rung.flips_over_foreign, rung.flips_over_erased, rung.flips_over_random]
    return [null for null in nulls if null is not None]


def score_of(rung: Rung) -> float:
    """Share of other images turned into the class, over every null that applies.

    Without nulls an effect counts as no more than what is not worth one; of more than a sliver of the
    spectrum it counts for less (`BROAD`).
    """
    beaten = comparisons_of(rung)
    if not beaten:
        return min(rung.flips.difference, WORTH_A_NULL)
    return _weight(rung) * min(pair.difference for pair in beaten)


def _weight(rung: Rung) -> float:
    return 1.0 if rung.share <= SLIVER else BROAD


def p_value_of(rungs: Sequence[Rung], looks: int = 1) -> float:
    """Of no rung turning more images than its nulls do, corrected for the number of rungs and `looks`.

    Exact McNemar tests; a rung stands by the largest of its p (every null has to fall), a ladder by
    the smallest of its rungs' times their number (Bonferroni), and once more for every time that more
    images were taken because the case was open. A rung whose null was not drawn had nothing to compare:
    its p is 1.
    """
    found = [max(pair.p_value for pair in beaten) for rung in rungs if (beaten := comparisons_of(rung))]
    return min(1.0, looks * len(rungs) * min(found, default=1.0))


def with_scores(item: ClassShortcut, looks: int = 1) -> ClassShortcut:
    """`item` with what its own counts say: p, score and best rung, strength and sufficiency.

    `looks`: how often a verdict was taken of it, this time included.
    """
    rungs = item.ladder
    if not rungs:
        return item
    best = _smallest_of_most(rungs)
    halves = sorted(rung.share for rung in rungs if rung.flip_rate >= _HALF)
    enough = sorted(r.share for r in rungs if r.sufficiency is not None and r.sufficiency >= _HALF)
    return item.model_copy(
        update={
            "p_value": p_value_of(rungs, looks),
            "score": max(score_of(rungs[place]) for place in _with_nulls(rungs)),
            "rung": best,
            "strength_share": halves[0] if halves else None,
            "sufficient_share": enough[0] if enough else None,
        }
    )


def _smallest_of_most(rungs: Sequence[Rung]) -> int:
    """Place of the smallest rung that does most of what the best one does.

    Where nulls were drawn, they were drawn at the largest effects; rungs without stay out of it.
    """
    scores = {place: score_of(rungs[place]) for place in _with_nulls(rungs)}
    best = max(scores.values())
    enough = [place for place, score in scores.items() if score >= min(_MOST * best, best)]
    return min(enough, key=lambda place: (rungs[place].share, place))


def _with_nulls(rungs: Sequence[Rung]) -> list[int]:
    """Places of the rungs that count: those with a null, all where there is none."""
    return [n for n, rung in enumerate(rungs) if comparisons_of(rung)] or list(range(len(rungs)))


@dataclass(frozen=True)
class _Case:
    """A class on trial."""

    item: ClassShortcut
    rung: Rung
    q_value: float

    @property
    def score(self) -> float:
        return self.item.score or 0.0

    @property
    def comparisons(self) -> list[Paired]:
        return comparisons_of(self.rung) or [self.rung.flips]

    @property
    def high(self) -> float:
        """Upper end of the score: of the comparison that limits it most."""
        return _weight(self.rung) * min(pair.interval[1] for pair in self.comparisons)

    @property
    def low(self) -> float:
        return _weight(self.rung) * min(pair.interval[0] for pair in self.comparisons)

    @property
    def verdict(self) -> Verdict:
        if self.score >= EFFECT and self.q_value <= SIGNIFICANT and self.low > 0:
            return "shortcut"
        return "no shortcut" if self.score < EFFECT and self.high < RULED_OUT else "inconclusive"


def decided(items: Sequence[ClassShortcut]) -> list[ClassShortcut]:
    """`items` (`with_scores`) with adjusted p, verdict, what else it could be, and the reason."""
    adjusted = adjusted_p_values([item.p_value for item in items])
    told = []
    for item, q_value in zip(items, adjusted, strict=True):
        if item.best is None or q_value is None:
            told.append(item)
            continue
        case = _Case(item, item.best, q_value)
        confounds = _confounds(item)
        told.append(
            item.model_copy(
                update={
                    "q_value": q_value,
                    "verdict": case.verdict,
                    "confounds": confounds,
                    "extent": item.extent if case.verdict != "no shortcut" else None,
                    "reason": _reason(case, confounds),
                    "needed": _needed(case) if case.verdict == "inconclusive" else "",
                }
            )
        )
    return told


def extent_of(
    rungs: Sequence[Rung],
    orbits: Sequence[np.ndarray],
    importance: np.ndarray,
    grid: FrequencyGrid,
) -> Extent:
    """Which orbits turn the images: those of the smallest rung that does most of what the best one does.

    `orbits`: numbers of each rung's orbits, the most important first; `importance` (n_orbits,).
    """
    place = _smallest_of_most(rungs)
    rung, own = rungs[place], np.asarray(orbits[place])
    ladder = max((o for o, r in zip(orbits, rungs, strict=True) if r.ring is None), key=len, default=own)
    if rung.ring is not None:
        own = own[np.argsort(-importance[own], kind="stable")]
    else:
        # Orbits further down that matter nearly as much belong to it.
        also = np.asarray(ladder)[len(own) : _NARROW]
        own = np.concatenate([own, also[importance[also] >= importance[own[0]] / 4]])
    radius = grid.radius[own]
    members = grid.members[own].astype(float)
    return Extent(
        band=_band(radius, members, grid),
        narrow=rung.ring is None and len(own) <= _NARROW and not _any_wave_will_do(rung, own, grid),
        direction=_direction(own, members, grid),
        radius=(float(radius.min()), float(radius.max())),
        orbits=tuple((int(grid.u[o]), int(grid.v[o])) for o in own[:_NARROW]),
        n_orbits=len(own),
    )


def _band(radius: np.ndarray, members: np.ndarray, grid: FrequencyGrid) -> str:
    nyquist = min(grid.height, grid.width) / 2
    share = radius / nyquist
    held = {
        "low": members[share < 0.25].sum(),
        "mid": members[(share >= 0.25) & (share < 0.75)].sum(),
        "high": members[share >= 0.75].sum(),
    }
    name = max(held, key=lambda each: held[each])
    return name if held[name] >= 2 / 3 * members.sum() else "all"


def _any_wave_will_do(rung: Rung, own: np.ndarray, grid: FrequencyGrid) -> bool:
    """Whether random waves of the same radii turn as many images, where there are others to draw."""
    if rung.flips_over_random is None:
        return False
    rings = np.rint(grid.radius)
    n_there = int(np.isin(rings, np.unique(rings[own])).sum())
    return n_there >= 4 * len(own) and rung.flips_over_random.difference < rung.flip_rate / 2


def _direction(own: np.ndarray, members: np.ndarray, grid: FrequencyGrid) -> float | None:
    """Mean direction in degrees where all waves run within about 20 degrees of it."""
    doubled = np.exp(2j * np.radians(grid.angle[own]))
    mean = (members * doubled).sum() / members.sum()
    if abs(mean) < math.cos(math.radians(40)):
        return None
    return round(float(np.degrees(np.angle(mean)) / 2), 1)


def _confounds(item: ClassShortcut) -> tuple[Confound, ...]:
    found: list[Confound] = []
    ladder = [rung for rung in item.ladder if rung.ring is None]
    empty = min(ladder, key=lambda rung: rung.n_orbits)
    if empty.kept_foreign is not None and (empty.kept_foreign.value or 0) >= _DEFAULT:
        found.append("default class")
    colour = item.colour
    if colour is not None and colour.difference >= _COLOUR and colour.p_value <= SIGNIFICANT:
        found.append("colour")
    nulls = [r for r in ladder if r.losses is not None and r.losses_over_random is not None]
    if any(
        (r.losses.first.value or 0) - (r.losses_over_random.first.value or 0) >= _FRAGILE  # type: ignore[union-attr]
        and r.losses_over_random.difference < r.losses.difference / 2  # type: ignore[union-attr]
        for r in nulls
    ):
        found.append("fragile")
    return tuple(found)


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%" if value == 0 or abs(value) > 0.0095 else f"{100 * value:.1f}%"


def _what(item: ClassShortcut, rung: Rung) -> str:
    """The orbits in words: `3 orbits near 15 cycles/image, 0.6% of the spectrum`."""
    count = f"{rung.n_orbits} orbit{'s' if rung.n_orbits > 1 else ''}"
    low, high = rung.radius
    where = f"near {low:.0f}" if high - low < 1.5 else f"of {low:.0f}–{high:.0f}"
    share = f"{100 * rung.share:.2g}% of the spectrum"
    return f"{count} {where} cycles/image, {share}"


def _reason(case: _Case, confounds: Sequence[Confound]) -> str:
    item, rung = case.item, case.rung
    name = f"“{item.class_name}”"
    what = _what(item, rung)
    turned = f"turn{'s' if rung.n_orbits == 1 else ''}"
    text = f"{what}, {turned} {_percent(max(rung.flip_rate, 0))} of other images into {name}"
    null = _null_words(rung)
    if case.verdict == "shortcut":
        text += null
        drop = rung.necessity_drop
        if drop is not None:
            text += (
                f"; removing them costs {name} {100 * drop:.0f} points"
                if drop >= 0.005
                else f"; {name} does not fall when they are removed"
            )
        text += "."
    elif case.verdict == "no shortcut":
        text = (
            f"No sliver of the spectrum turns other images into {name}: at most"
            f" {_percent(max(case.score, 0))} over every null (up to"
            f" {_percent(max(case.high, case.score, 0))} cannot be excluded)."
        )
    else:
        text += (
            f"{null}; too few images to tell"
            f" ({_percent(case.low)} to {_percent(case.high)} over the nulls, q {case.q_value:.2g})."
        )
    return " ".join([text, *(_confound_words(each, item) for each in confounds)])


def _null_words(rung: Rung) -> str:
    said = []
    if rung.flips_over_foreign is not None:
        null = (rung.flips_over_foreign.second.value or 0) - (rung.flips.second.value or 0)
        said.append(f"the same of other images {_percent(max(null, 0))}")
    if rung.flips_over_erased is not None:
        null = (rung.flips_over_erased.second.value or 0) - (rung.flips.second.value or 0)
        if null >= WORTH_A_NULL:
            said.append(f"nothing in their place {_percent(null)}")
    if rung.flips_over_random is not None:
        null = (rung.flips_over_random.second.value or 0) - (rung.flips.second.value or 0)
        said.append(f"random ones of the same radii {_percent(max(null, 0))}")
    return f" ({', '.join(said)})" if said else ""


def _confound_words(confound: Confound, item: ClassShortcut) -> str:
    name = f"“{item.class_name}”"
    if confound == "default class":
        empty = min((r for r in item.ladder if r.ring is None), key=lambda rung: rung.n_orbits)
        assert empty.kept_foreign is not None
        return (
            f"{_percent(empty.kept_foreign.value or 0)} of nearly empty images of other classes are"
            f" called {name}: a default class, so that its rates under a mask say little."
        )
    if confound == "colour":
        assert item.colour is not None
        return (
            f"Mean colour alone turns {_percent(item.colour.difference)} of other images into {name}: a"
            " colour cue, which no orbit is to blame for."
        )
    return f"{name} is fragile: removing random orbits of the same radii costs it about as much."


def _needed(case: _Case) -> str:
    """What would decide it: judgement images at which the interval would be narrow enough."""
    item, pair = case.item, min(case.comparisons, key=lambda each: each.interval[0])
    n, rate = pair.n, min(max(case.score, 0.0), 1.0)
    # What corrections have made of p so far they will make of it then.
    made = case.q_value / pair.p_value if pair.p_value > 0 else 0.0
    corrections = max(made, len(item.ladder))
    more = n
    for factor in (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        both, first, second = (
            round(count * factor) for count in (pair.both, pair.only_first, pair.only_second)
        )
        # Each rounded up by half, they may come to more than the whole.
        more = max(math.ceil(n * factor), both + first + second)
        low, high = paired_interval(both, first, second, more)
        sure = corrections * paired_p_value(first, second) <= SIGNIFICANT and low > 0
        if (rate >= EFFECT and sure) or (rate < EFFECT and _weight(case.rung) * high < RULED_OUT):
            break
    more = math.ceil(more / n * item.n_judge)
    step = 10 ** max(0, math.floor(math.log10(more)) - 1)
    enough = math.ceil(more / step) * step
    return (
        f"About {enough} judgement images of “{case.item.class_name}”, and as many of other classes,"
        f" would decide it (here {case.item.n_judge})."
    )
