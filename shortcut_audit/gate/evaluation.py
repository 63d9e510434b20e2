"""One rule against one class: how much worse it is, and how sure that is. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from shortcut_audit.errors import ResultError
from shortcut_audit.gate.policy import Kind, Rule
from shortcut_audit.results.changes import (
    Apart,
    Estimate,
    Exceeds,
    MapReliability,
    NetShare,
    Proportion,
    SameImages,
    SameReceivers,
    Worsening,
    effective_share,
)
from shortcut_audit.results.comparison import (
    Comparison,
    Quantity,
    most_turned_below,
    strength_worsening,
    worse_when,
)
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.run_numbers import ClassNumbers, RunNumbers, paired, proportion

__all__ = ["Trial", "images_needed", "require_comparable", "trials_of", "widening"]

# What other arithmetic may do to a share of images, at least one of them: half types move more.
_OTHER_MACHINE, _OTHER_TYPE = 0.01, 0.03
# A class has more or fewer images in another sample; of less than half, it is hardly audited any more.
_FAR_FEWER = 0.5
_FACTORS = (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Trial:
    """A rule held against a class (None: all together), on one set where there are several.

    `before`, `now`: values, or verdicts. What the rule forbids is more than `tolerance`, and `worsening`
    surely beyond `test_at`. `worse_by`: how much worse it is in the rule's own unit, where that is not
    the worsening's; `potential`: the worst that there could be, where nothing is worse. `shrunk`: whether
    the audit took far fewer images than the baseline did. `settled`: what is known without a test, an
    outcome with its `reason`.
    """

    rule: Rule
    class_name: str | None
    set: str = ""
    before: float | str | None = None
    now: float | str | None = None
    worsening: Worsening | None = None
    worse_by: float | None = None
    tolerance: float = 0.0
    test_at: float = 0.0
    potential: Worsening | None = None
    paired: bool = False
    shrunk: bool = False
    settled: str = ""
    reason: str = ""

    @property
    def excess(self) -> float:
        """How far it lies beyond the tolerance."""
        if self.worse_by is not None:
            return self.worse_by - self.tolerance
        return -1.0 if self.worsening is None else self.worsening.value - self.tolerance

    @property
    def p_value(self) -> float:
        """Of its truly being no worse than `test_at`."""
        if self.worsening is None or self.settled or self.excess <= 0:
            return 1.0
        return self.worsening.p_over(self.test_at)

    @property
    def surely_within(self) -> bool:
        """Whether the 95% interval of the worsening ends below the tolerance."""
        known = self.worsening is not None and self.worse_by is None and self.excess <= 0
        return known and self.worsening.interval(0.95)[1] <= self.tolerance  # type: ignore[union-attr]

    def at_worst(self) -> Trial | None:
        """The same with the worst that these images could have shown; None where that is allowed."""
        if self.potential is not None:
            return replace(self, worsening=self.potential, worse_by=None, tolerance=0.0, potential=None)
        if self.worsening is None or self.worse_by is not None:
            return None
        higher = worse_when(self.rule.kind) == "higher"
        worst = replace(self, worsening=_at_worst(self.worsening, higher))
        return worst if worst.excess > 0 else None

    def blind(self, level: float) -> bool:
        """Whether even that would pass as chance, at `level`; but where it is surely within tolerance."""
        worst = self.at_worst()
        if worst is None or worst.worsening is None or self.surely_within:
            return False
        return worst.worsening.low(level) <= self.test_at


def _at_worst(worsening: Worsening, higher: bool) -> Worsening:
    if isinstance(worsening, SameImages):
        pair = worsening.pair
        old = pair.both + pair.only_second
        return replace(worsening, pair=Paired(n=pair.n, both=old, only_first=pair.n - old, only_second=0))
    if isinstance(worsening, SameReceivers):
        n, old = worsening.n, worsening.after.both + worsening.after.only_second
        after = Paired(n=n, both=old, only_first=n - old, only_second=0)
        return replace(worsening, after=after, rises=n - old, falls=0)
    if isinstance(worsening, Exceeds):
        return replace(worsening, estimate=_extreme(worsening.estimate, worsening.above))
    if higher:
        return replace(worsening, worse=_extreme(worsening.worse, high=True))
    return replace(worsening, better=_extreme(worsening.better, high=False))


def _extreme(estimate: Estimate, high: bool) -> Estimate:
    if isinstance(estimate, Proportion):
        return replace(estimate, hits=estimate.n if high else 0)
    if isinstance(estimate, NetShare):
        n = estimate.pair.n
        full, none = (n, 0) if high else (0, n)
        return replace(estimate, pair=Paired(n=n, both=0, only_first=full, only_second=none))
    return MapReliability(0.999 if high else 0.0, estimate.n)


def widening(comparison: Comparison, n: int) -> float:
    """What is added to tolerances where both audits were computed otherwise; 0 where they were not."""
    if comparison.same_numerics:
        return 0.0
    one, other = comparison.first.numerics, comparison.second.numerics
    return max(_OTHER_MACHINE if one.dtype == other.dtype else _OTHER_TYPE, 1 / max(n, 1))


def trials_of(rule: Rule, run: RunNumbers, comparison: Comparison | None) -> Iterator[Trial]:
    """Every class (and set) that a rule is about. `comparison`: with the baseline, where there is one."""
    before = {} if comparison is None else comparison.first.by_name
    for place in _sets(rule, run, comparison):
        if rule.together:
            yield _trial(rule, None, None, place, run, comparison)
            continue
        for item in run.classes:
            if not rule.is_about(item.name):
                continue
            held = rule.kind in ("accuracy", "ood_accuracy") or item.searched
            old = before.get(item.name)
            if place and not (_is_on(item, place) or _is_on(old, place)):
                # The other set has no images of the class, and never had.
                continue
            # A class that neither audit searched is none of the rule's; one that only this audit left
            # out, or that there is no baseline for, is missing.
            if held or old is None or old.searched:
                yield _trial(rule, old, item, place, run, comparison)


def _is_on(item: ClassNumbers | None, place: str) -> bool:
    return item is not None and item.ood.get(place, (0, 0))[1] > 0


def _sets(rule: Rule, run: RunNumbers, comparison: Comparison | None) -> list[str]:
    if rule.kind != "ood_accuracy":
        return [""]
    names = list(run.sets)
    if comparison is not None:
        names += [name for name in comparison.first.sets if name not in names]
    return [name for name in names if rule.is_about_set(name)]


def _trial(
    rule: Rule,
    old: ClassNumbers | None,
    item: ClassNumbers | None,
    place: str,
    run: RunNumbers,
    comparison: Comparison | None,
) -> Trial:
    trial = Trial(rule, None if item is None else item.name, place)
    if item is None and place and comparison is not None:
        # Without its worst class, a set looks better than it is.
        here = run.by_name
        gone = [old.name for old in comparison.first.classes if _is_on(old, place)]
        gone = [name for name in gone if not _is_on(here.get(name), place)]
        if gone:
            return _missing(trial, f"the baseline had images of {', '.join(gone[:5])} there")
    if rule.may_be is not None:
        assert item is not None
        return _may_be(trial, item)
    if rule.limit is not None:
        return _in_band(_limited(trial, item, run), item)
    assert comparison is not None
    if old is not None and item is not None:
        asked, found = (_n_images(rule.kind, each, place) for each in (old, item))
        trial = replace(trial, shrunk=found < _FAR_FEWER * asked)
    if rule.kind == "strength":
        assert item is not None
        return _in_band(_stronger(trial, old, item, comparison), item)
    quantity: Quantity = rule.kind
    change = comparison.of(quantity, trial.class_name, place)
    if change is None or change.worsening is None:
        return _missing(trial, "not measured in both audits")
    tolerance = (rule.may_worsen_by or 0.0) + widening(comparison, change.n)
    trial = replace(
        trial,
        before=change.first,
        now=change.second,
        worsening=change.worsening,
        tolerance=tolerance,
        test_at=tolerance,
        paired=change.paired,
    )
    return _in_band(trial, item)


def _n_images(kind: Kind, item: ClassNumbers, place: str) -> int:
    """Images of a class that an audit took for such a number."""
    if kind == "accuracy":
        return item.accuracy[1]
    if kind == "ood_accuracy":
        return item.ood[place][1] if place in item.ood else 0
    return item.n_search if kind == "reliability" else item.n_judge


def _missing(trial: Trial, reason: str) -> Trial:
    return replace(trial, settled="missing", reason=reason)


def _in_band(trial: Trial, item: ClassNumbers | None) -> Trial:
    """Rules about a band pass where the verdict's orbits lie elsewhere, or there are none."""
    if trial.rule.band is None or trial.settled or item is None or item.band == trial.rule.band:
        return trial
    elsewhere = f"its orbits lie in the {item.band} band" if item.band else "it has no such orbits"
    return replace(trial, settled="passed", reason=elsewhere)


def _may_be(trial: Trial, item: ClassNumbers) -> Trial:
    allowed = trial.rule.may_be or ()
    trial = replace(trial, now=item.verdict)
    if not item.searched or (item.verdict == "not judged" and "not judged" not in allowed):
        return _missing(trial, "this audit holds no verdict of it")
    if item.verdict in allowed:
        return replace(trial, settled="passed")
    settled = "failed" if item.verdict != "inconclusive" else "inconclusive"
    trial = replace(trial, settled=settled, reason=f"its verdict is {item.verdict}")
    return _in_band(trial, item)


def _limited(trial: Trial, item: ClassNumbers | None, run: RunNumbers) -> Trial:
    """Against a limit of this audit alone."""
    rule = trial.rule
    assert rule.limit is not None
    if rule.kind == "strength":
        assert item is not None
        return _strength_limited(trial, item)
    estimate = _estimate(rule, item, trial.set, run)
    if estimate is None:
        return _missing(trial, "not measured in this audit")
    exceeds = Exceeds(estimate, rule.limit, above=rule.at_most is not None)
    return replace(trial, now=estimate.value, worsening=exceeds)


def _strength_limited(trial: Trial, item: ClassNumbers) -> Trial:
    """Whether a share below the limit turns half of other images."""
    limit = trial.rule.limit or 0.0
    if not item.searched or not item.curve:
        return _missing(trial, "not measured in this audit")
    now = 1.0 if item.strength_share is None else item.strength_share
    below = [point for point in item.curve if point.share < limit]
    if not below or now >= limit:
        return replace(trial, now=now, settled="passed")
    most = max((NetShare(paired(point.flips)) for point in below), key=lambda each: each.value)
    return replace(trial, now=now, worsening=Exceeds(most, 0.5), worse_by=limit - now)


def _estimate(rule: Rule, item: ClassNumbers | None, place: str, run: RunNumbers) -> Estimate | None:
    of = run.classes if item is None else (item,)
    if rule.kind in ("accuracy", "ood_accuracy"):
        counts = [
            each.accuracy if rule.kind == "accuracy" else each.ood[place]
            for each in of
            if rule.kind == "accuracy" or place in each.ood
        ]
        return proportion((sum(hits for hits, _ in counts), sum(n for _, n in counts)))
    assert item is not None
    if rule.kind == "flip":
        return item.net_flips
    if rule.kind == "reliability":
        return item.reliability
    hits = item.tpr_kept if rule.kind == "tpr_kept" else item.fpr_kept
    found = item.reliability
    worth = 1.0 if hits is None else effective_share(hits[1], None if found is None else found.value)
    return proportion(hits, worth)


def _stronger(trial: Trial, old: ClassNumbers | None, new: ClassNumbers, comparison: Comparison) -> Trial:
    """Whether a smaller share than before turns half of other images."""
    if old is None or not (old.searched and new.searched and old.curve and new.curve):
        return _missing(trial, "not measured in both audits")
    before, now = (1.0 if e.strength_share is None else e.strength_share for e in (old, new))
    tolerance = (trial.rule.may_worsen_by or 0.0) + widening(comparison, new.curve[0].flips[0])
    worsening = strength_worsening(old, new, tolerance)
    potential = None
    if worsening is None and before > tolerance:
        # As if the smallest rung turned every image.
        first = NetShare(paired(new.curve[0].flips))
        potential = Apart(_extreme(first, high=True), most_turned_below(old, before))
    return replace(
        trial,
        before=before,
        now=now,
        worsening=worsening,
        worse_by=before - now,
        potential=potential,
        tolerance=tolerance,
        # A share that jumps from rung to rung is tested by what the same share turned before.
        test_at=0.0,
    )


def images_needed(trial: Trial, level: float) -> str:
    """How many images would show the change that is seen (where none is: the worst there could be), at
    a level of significance; in words."""
    seen = trial if trial.excess > 0 else trial.at_worst()
    if seen is None or seen.worsening is None:
        return ""
    if _worth(seen.worsening) < 1 and trial.rule.kind in ("tpr_kept", "fpr_kept"):
        return "Its map repeats too badly to compare what is under it: use more search images."
    higher = worse_when(trial.rule.kind) == "higher"
    pairs = isinstance(seen.worsening, SameImages | SameReceivers)
    n = _n_now(seen.worsening, higher)
    of = "of it in both audits " if pairs else "of it "
    for factor in _FACTORS:
        if _of_more(seen.worsening, factor, higher).low(level) > seen.test_at:
            return f"About {_round_up(factor * n)} images {of}would tell (here {n})."
    if isinstance(seen.worsening, Apart) and seen.worsening.times(_FACTORS[-1]).low(level) > seen.test_at:
        return f"The baseline has too few images of it to tell ({_n_before(seen.worsening, higher)})."
    return f"More than {_round_up(_FACTORS[-1] * n)} images {of}would be needed (here {n})."


def _of_more(worsening: Worsening, factor: float, higher: bool) -> Worsening:
    """The same change with more images of this audit; of pairs, and so of both."""
    if not isinstance(worsening, Apart):
        return worsening.times(factor)
    if higher:
        return replace(worsening, worse=worsening.worse.times(factor))
    return replace(worsening, better=worsening.better.times(factor))


def _n_now(worsening: Worsening, higher: bool) -> int:
    if not isinstance(worsening, Apart):
        return worsening.n
    return worsening.worse.n if higher else worsening.better.n


def _n_before(worsening: Apart, higher: bool) -> int:
    return worsening.better.n if higher else worsening.worse.n


def _worth(worsening: Worsening) -> float:
    """What an image counts, where all of them share one map."""
    if isinstance(worsening, SameImages):
        return worsening.worth
    estimates: tuple[Estimate, ...] = ()
    if isinstance(worsening, Apart):
        estimates = (worsening.worse, worsening.better)
    elif isinstance(worsening, Exceeds):
        estimates = (worsening.estimate,)
    return min((each.worth for each in estimates if isinstance(each, Proportion)), default=1.0)


def _round_up(number: float) -> int:
    step = int(10 ** max(0, len(str(int(number))) - 2))
    return -(-int(number) // step) * step


def require_comparable(comparison: Comparison) -> None:
    """Raise ResultError where numbers of both audits mean different things."""
    if not comparison.same_classes:
        told = next(each for each in comparison.differences if each.what == "classes")
        raise ResultError(
            f"The classes are not those of the baseline: {told.first} there, {told.second} here.",
            "Audit the same classes, or freeze a new policy with `shortcut-audit gate init`.",
        )
    for each in comparison.differences:
        if each.what in _CHANGE_MEANING:
            raise ResultError(
                f"The {each.what} is not that of the baseline: {each.first} there, {each.second} here.",
                "Audit with the baseline's settings, or freeze a new policy with `gate init`.",
            )


# Settings that change what a number means, not only how sure it is.
_CHANGE_MEANING = frozenset(
    {"kept share", "response", "resolution", "dc", "domain", "clip", "image size", "geometry"}
)
