"""Cases: what is tried of one class, in which order, and the counts that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import found_share
from shortcut_audit.measures.interface import (
    Advance,
    Arrays,
    Block,
    Outline,
    Shard,
    Subject,
    Totals,
    Work,
)
from shortcut_audit.measures.kept_maps import KeptCounts
from shortcut_audit.measures.searches.interface import MEASURE as MAPS
from shortcut_audit.measures.trials import (
    ARMS_OF_RINGS,
    PAIRS_FROM,
    Partners,
    Trial,
    called_in_trials,
    light_order,
    ring_members,
    rings_of,
    without_lines,
)
from shortcut_audit.measures.verdicts import WORTH_A_NULL
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.shortcut_findings import ClassShortcut, Rung

__all__ = [
    "FURTHER",
    "TRIALS",
    "Batch",
    "Case",
    "at_best",
    "case_of",
    "effects",
    "importance_of",
    "ladder_of",
    "n_own",
    "n_side",
    "n_trials",
    "nulls",
    "orbits_of",
    "pair_of",
    "partners_of",
    "ring_numbers",
    "run_trials",
    "rungs_tried",
    "take_in",
    "trial_of",
    "trials_work",
    "with_choice",
]

TRIALS = "trials"
# Orbits of the last rung, as a share of the ranked ones, and rungs up to there.
_DEEPEST, _N_RUNGS = 0.10, 6
# Energy of an image that the orbits of a ladder may hold together, and that a ring may, or a pair of
# neighbouring rings: a texture seldom keeps to the borders of one.
_LIGHT, _LIGHT_RING, _LIGHT_PAIR = 0.06, 0.10, 0.16
_N_RINGS = 8
# The last ring is that of the corners; pairs are named after the first of both.
_RINGS = range(1, _N_RINGS + 2)
_PAIRS = range(PAIRS_FROM + 1, PAIRS_FROM + _N_RINGS + 1)
# Nulls are drawn at the rungs of the largest effects only.
_N_NULLS, _N_RING_NULLS = 3, 2
# Other orbits of the same radii that there must be, in multiples of those that they stand for.
_LEAST_CHOICE = 3
# What decides nothing by itself is tried at every other rung, and on half of the images where these
# are many.
_FEW_IMAGES = 50
# Further images of other classes for classes that are open, in multiples of the class's own.
FURTHER = (1, 2)

Called = dict[Trial, NDArray[np.bool_]]


def ladder_of(n_orbits: int) -> tuple[int, ...]:
    """Orbits of each rung: from one to a tenth of `n_orbits` (`_DEEPEST`), in even ratios.

    >>> ladder_of(513)
    (1, 2, 5, 11, 23, 51)
    """
    deepest = max(1, round(_DEEPEST * n_orbits))
    return tuple(sorted({round(deepest ** (step / (_N_RUNGS - 1))) for step in range(_N_RUNGS)}))


@dataclass
class Case:
    """One class under test: what is tried, and what came of it.

    `order`: light orbits, the most important first. `partners` and `called` by draw: the first for all
    trials, further ones for more images of other classes.
    """

    column: int
    class_index: int
    order: NDArray[np.int64]
    energy_share: NDArray[np.float64]
    rungs: tuple[int, ...]
    rings: tuple[int, ...]
    partners: list[Partners] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)
    # How often its verdict was taken: once more whenever more images were taken.
    looks: int = 1

    def outcome(self, draw: int, trial: Trial) -> NDArray[np.bool_] | None:
        return self.called[draw].get(trial) if draw < len(self.called) else None


def case_of(
    outline: Outline,
    column: int,
    rank: NDArray[np.integer],
    energies: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> Case:
    """What is tried of a class: the light orbits of its ranking, and the rings that are light."""
    index, grid = outline.searched[column], outline.grid
    sums, n_images = energies
    others = np.arange(outline.n_classes) != index
    foreign = sums[others].sum(axis=0) / n_images[others].sum()
    own = sums[index] / n_images[index]
    # An exchange takes out what is there and puts in what comes: of unrelated phases both add up.
    changed = (own + foreign) / max(foreign[1:].sum(), 1e-300)
    # What an orbit holds beyond its neighbours is a line: no shape makes one, and a loud shortcut does.
    shapely = (without_lines(grid, own) + without_lines(grid, foreign)) / max(foreign[1:].sum(), 1e-300)
    shapely[0] = np.inf
    rungs = ladder_of(grid.n_orbits - 1)
    order = light_order(rank, shapely, together=_LIGHT, at_most=rungs[-1])
    ring = ring_numbers(grid)
    rings = tuple(
        number
        for numbers, most in ((_RINGS, _LIGHT_RING), (_PAIRS, _LIGHT_PAIR))
        for number in numbers
        if _is_whole(ring, number) and shapely[ring_members(ring, number)].sum() <= most
    )
    short = [n for n in rungs if n < len(order)]
    return Case(column, index, order, changed, (*short, len(order)), rings)


def _is_whole(ring: NDArray[np.int32], number: int) -> bool:
    """Whether the grid has the ring, or both rings of the pair."""
    members = np.unique(ring[ring_members(ring, number)])
    return len(members) == (2 if number > PAIRS_FROM else 1)


# Trials.


def n_own(outline: Outline, case: Case) -> int:
    """Judgement images of a class that are tried: no more than there are others, each used once."""
    sizes = [stop - start for start, stop in outline.judge_rows]
    own = sizes[case.class_index]
    return min(own, sum(sizes) - own)


def n_side(n_images: int) -> int:
    """Images of a class that what decides nothing by itself is tried on."""
    return min(n_images, max(_FEW_IMAGES, n_images // 2))


def _every_other(rungs: Sequence[int]) -> list[int]:
    """The first rung, the last one, and every other between them."""
    return sorted({*rungs[::2], rungs[-1]})


def n_trials(n_rungs: int) -> tuple[int, int]:
    """Trials of a class where every null is worth drawing: on all images, and on some."""
    n_nulls = min(_N_NULLS, n_rungs)
    half = len(_every_other(range(n_rungs)))
    return n_rungs + half + 4 * n_nulls + 3 * _N_RING_NULLS + 1, 2 * half + len(_RINGS) + len(
        _PAIRS
    ) + 2 + 1


Batch = tuple[list[Trial], int]


def effects(outline: Outline, images: AuditImages, case: Case, counts: KeptCounts) -> list[Batch]:
    """What is tried of every class."""
    del images, counts
    n_images = n_own(outline, case)
    side = _every_other(case.rungs)
    deciding = [Trial("transplant", n) for n in case.rungs] + [Trial("remove", n) for n in side]
    telling = [Trial(arm, n) for n in side for arm in ("keep", "keep foreign")]
    telling += [
        *(Trial("ring", number) for number in case.rings),
        Trial("colour"),
        Trial("colour foreign"),
    ]
    return [(deciding, n_images), (telling, n_side(n_images))]


def nulls(outline: Outline, images: AuditImages, case: Case, counts: KeptCounts) -> list[Batch]:
    """Nulls of the largest effects, and what else is worth knowing of these rungs."""
    n_images = n_own(outline, case)
    rungs, _ = rungs_tried(outline, images, case, counts)
    ladder = [rung for rung in rungs if rung.ring is None]
    turning = _largest(ladder, [rung.flip_rate for rung in ladder], _N_NULLS)
    losing = _largest(ladder, [rung.necessity_drop or 0.0 for rung in ladder], 1)
    keeping = _largest(ladder, [rung.sufficiency or 0.0 for rung in ladder], 1)
    trials = [Trial(arm, r.n_orbits) for r in turning for arm in ("transplant foreign", "erase")]
    # Where the radii have no other orbits, random ones are the same ones.
    trials += [Trial("transplant random", n) for n in _with_choice(outline, case, turning)]
    trials += [Trial("remove", rung.n_orbits) for rung in turning if rung.losses is None]
    trials += [Trial("remove random", n) for n in _with_choice(outline, case, [*turning[:1], *losing])]
    rings = [rung for rung in rungs if rung.ring is not None]
    for rung in _largest(rings, [rung.flip_rate for rung in rings], _N_RING_NULLS):
        trials += [trial_of(what, rung) for what in ("transplant foreign", "erase", "remove")]
        if rung.flips.n < n_images:
            trials.append(trial_of("transplant", rung))
    kept = [Trial("keep random", n) for n in _with_choice(outline, case, keeping)]
    return [(trials, n_images), (kept, n_side(n_images))]


def _with_choice(outline: Outline, case: Case, rungs: Sequence[Rung]) -> list[int]:
    """Orbits of those rungs whose radii have enough others to draw from."""
    return [
        n for n in sorted({rung.n_orbits for rung in rungs}) if with_choice(outline.grid, case.order[:n])
    ]


def with_choice(grid: FrequencyGrid, orbits: NDArray[np.int64]) -> bool:
    """Whether the radii of these orbits have enough others to draw from.

    Where a radius has no other orbit at all (the corner), random ones would be the very same.
    """
    radius = np.rint(grid.radius).astype(np.int64)
    n_there = np.bincount(radius[1:], minlength=radius.max() + 1)
    own = np.bincount(radius[orbits], minlength=len(n_there))
    there = n_there[own > 0]
    return bool(there.sum() >= _LEAST_CHOICE * len(orbits) and (there > own[own > 0]).all())


def ring_numbers(grid: FrequencyGrid) -> NDArray[np.int32]:
    """Ring of each orbit (n_orbits,), as rungs name them; 0 for DC alone."""
    return rings_of(grid, _N_RINGS)


def _largest(rungs: Sequence[Rung], effects: Sequence[float], most: int) -> list[Rung]:
    """The rungs of the largest effects, the smaller rung among equals, where they are worth it."""
    order = sorted(range(len(rungs)), key=lambda n: (-effects[n], rungs[n].n_orbits))
    return [rungs[n] for n in order[:most] if effects[n] >= WORTH_A_NULL]


def trial_of(what: str, rung: Rung) -> Trial:
    """A trial of a rung, or the one of a ring that stands for it."""
    if rung.ring is None:
        return Trial(what, rung.n_orbits)  # type: ignore[arg-type]
    return Trial(ARMS_OF_RINGS[what], ring_number(rung))


def ring_number(rung: Rung) -> int:
    """What a trial calls the ring, or the pair of rings, of a rung that is one."""
    assert rung.ring is not None
    return rung.ring if rung.n_rings == 1 else PAIRS_FROM + rung.ring


def at_best(item: ClassShortcut) -> list[Trial]:
    """What an open class needs more of: the transplant of its best rung, and the nulls."""
    assert item.best is not None
    arms = ["transplant", "transplant foreign", "erase"]
    if item.best.ring is None:
        arms.append("transplant random")
    return [trial_of(arm, item.best) for arm in arms]


def partners_of(outline: Outline, images: AuditImages, class_index: int, draw: int) -> Partners:
    output = images.outputs[class_index]
    generator = np.random.default_rng([outline.settings.seed, output, draw])
    others = [rows for index, rows in enumerate(outline.judge_rows) if index != class_index]
    return Partners.drawn(outline.judge_rows[class_index], others, generator)


def trials_work(
    outline: Outline, images: AuditImages, case: Case, trials: Sequence[Trial], draw: int
) -> Work:
    partners = case.partners[draw]
    ranks = np.zeros(outline.grid.n_orbits, dtype=np.int32)
    ranks[case.order] = np.arange(1, len(case.order) + 1)
    digests = [images.store.digests[row] for row in (*partners.receivers, *partners.foreign)]
    return Work(
        TRIALS,
        {
            "trials": np.array([trial.code for trial in trials], dtype=np.int64),
            "ranks": ranks,
            "receivers": partners.receivers,
            "foreign": partners.foreign,
            # Rows alone do not say which images lie there.
            "digests": np.array(digests, dtype="S32"),
            "draw": np.array([draw]),
        },
    )


def run_trials(shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
    assert shard.work is not None
    given = shard.work.arrays
    start, _ = subject.outline.judge_rows[shard.class_index]
    if "origin" in given:
        # Images of another set, which are no judgement images.
        start = int(given["origin"][0])
    own = slice(shard.rows[0] - start, shard.rows[1] - start)
    output, seed, draw = (
        subject.output_of(shard.class_index),
        subject.settings.seed,
        int(given["draw"][0]),
    )
    called = called_in_trials(
        subject,
        block,
        given["ranks"],
        ring_numbers(subject.grid),
        [Trial.of(code) for code in given["trials"].tolist()],
        Partners(given["receivers"][own], given["foreign"][own]),
        # An image draws its own nulls, whichever block it comes in.
        lambda image: np.random.default_rng([seed, output, draw, own.start + image]),
        output,
        advance,
    )
    return {"called": called}


def take_in(
    cases: Sequence[Case], draw: int, done_of: Callable[[int], Iterator[tuple[Shard, Totals]]]
) -> None:
    """Outcomes of a round, image by image, into the cases."""
    for case in cases:
        while len(case.called) <= draw:
            case.called.append({})
        parts: dict[Trial, list[NDArray[np.bool_]]] = {}
        for shard, total in done_of(case.class_index):
            assert shard.work is not None
            trials = [Trial.of(code) for code in shard.work.arrays["trials"].tolist()]
            for trial, outcome in zip(trials, total["called"].astype(np.bool_), strict=True):
                parts.setdefault(trial, []).append(outcome)
        case.called[draw].update({trial: np.concatenate(found) for trial, found in parts.items()})


# From outcomes to counts.


def _paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Counts over the images that have both outcomes: the first ones of the class."""
    n = min(len(first), len(second))
    first, second = first[:n], second[:n]
    return Paired(
        n=len(first),
        both=int((first & second).sum()),
        only_first=int((first & ~second).sum()),
        only_second=int((~first & second).sum()),
    )


def pair_of(case: Case, draw: int, first: Trial, second: Trial) -> Paired | None:
    a, b = case.outcome(draw, first), case.outcome(draw, second)
    return None if a is None or b is None else _paired(a, b)


def _over_draws(case: Case, first: Trial, second: Trial) -> Paired | None:
    """Both outcomes of all draws that have them."""
    outcomes = [
        (a, b)
        for draw in range(len(case.called))
        if (a := case.outcome(draw, first)) is not None and (b := case.outcome(draw, second)) is not None
    ]
    return _pooled(outcomes) if outcomes else None


def _pooled(outcomes: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> Paired:
    """Counts over draws, each of the class's own images once in each of them.

    Images that were given orbits of the same donor are not independent: further draws make the rates
    surer, and the test counts donors.
    """
    if len(outcomes) == 1:
        return _paired(*outcomes[0])
    pairs = [_paired(*pair) for pair in outcomes]
    n = max(min(len(a), len(b)) for a, b in outcomes)
    lean = np.zeros(n, dtype=np.int64)
    for first, second in outcomes:
        m = min(len(first), len(second))
        lean[:m] += first[:m].astype(np.int64) - second[:m].astype(np.int64)
    return Paired(
        n=sum(pair.n for pair in pairs),
        both=sum(pair.both for pair in pairs),
        only_first=sum(pair.only_first for pair in pairs),
        only_second=sum(pair.only_second for pair in pairs),
        leaning_first=int((lean > 0).sum()),
        leaning_second=int((lean < 0).sum()),
    )


def rungs_tried(
    outline: Outline, images: AuditImages, case: Case, counts: KeptCounts
) -> tuple[tuple[Rung, ...], list[NDArray[np.int64]]]:
    """The rungs of a class as far as they were tried, and the orbits of each."""
    grid = outline.grid
    called = counts.called(outline, images.outputs[case.class_index])
    clean = called[slice(*outline.judge_rows[case.class_index])]
    before = [called[partners.receivers] for partners in case.partners]
    everywhere = np.arange(grid.n_orbits) > 0
    ring_of_orbit = ring_numbers(grid)
    rungs, orbits = [], []
    for place, number in enumerate((*case.rungs, *case.rings)):
        ring = place >= len(case.rungs)
        own = np.flatnonzero(ring_members(ring_of_orbit, number)) if ring else case.order[:number]
        chosen = np.zeros(grid.n_orbits, dtype=np.bool_)
        chosen[own] = True
        put = Trial("ring", number) if ring else Trial("transplant", number)
        foreign = Trial("ring foreign" if ring else "transplant foreign", number)
        flips = [
            (after, before[draw])
            for draw in range(len(case.called))
            if (after := case.outcome(draw, put)) is not None
        ]
        removed = case.outcome(0, Trial("remove ring" if ring else "remove", number))
        left = None if ring else case.outcome(0, Trial("keep", number))
        left_foreign = None if ring else case.outcome(0, Trial("keep foreign", number))
        rungs.append(
            Rung(
                n_orbits=len(own),
                share=found_share(grid, chosen, everywhere),
                energy_share=float(case.energy_share[own].sum()),
                radius=(float(grid.radius[own].min()), float(grid.radius[own].max())),
                ring=number % PAIRS_FROM if ring else None,
                n_rings=2 if ring and number > PAIRS_FROM else 1,
                flips=_pooled(flips),
                flips_over_foreign=_over_draws(case, put, foreign),
                flips_over_erased=_over_draws(
                    case, put, Trial("erase ring" if ring else "erase", number)
                ),
                flips_over_random=None
                if ring
                else _over_draws(case, put, Trial("transplant random", number)),
                losses=None if removed is None else _paired(clean, removed),
                losses_over_random=None
                if ring
                else pair_of(case, 0, Trial("remove random", number), Trial("remove", number)),
                kept=None if left is None else _rate(left),
                kept_foreign=None if left_foreign is None else _rate(left_foreign),
                kept_over_random=None
                if ring
                else pair_of(case, 0, Trial("keep", number), Trial("keep random", number)),
            )
        )
        orbits.append(own)
    return tuple(rungs), orbits


def _rate(outcome: NDArray[np.bool_]) -> Rate:
    return Rate(hits=int(outcome.sum()), n=len(outcome))


def importance_of(outline: Outline, found: Arrays, column: int) -> NDArray[np.float64]:
    """Importance of each orbit for a class, by the score that ranks."""
    joint = f"{MAPS}/importance/joint"
    name = joint if joint in found else f"{MAPS}/importance/{outline.settings.response}"
    importance: NDArray[np.float64] = found[name][column].astype(np.float64)
    return importance


def orbits_of(case: Case, rung: Rung, grid: FrequencyGrid) -> NDArray[np.int64]:
    if rung.ring is None:
        return case.order[: rung.n_orbits]
    return np.flatnonzero(ring_members(ring_numbers(grid), ring_number(rung)))
