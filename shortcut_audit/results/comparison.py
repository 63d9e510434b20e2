"""Two audits side by side: whether they may be compared, and what changed, with intervals and tests.

`compared` takes two results; `compared_numbers` their numbers alone (`results/run_numbers.py`), and the
outcomes of single images where both have them. Differences are second - first: the first is the older
one. Without torch, pandas or scipy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import (
    Apart,
    Estimate,
    NetShare,
    SameImages,
    Worsening,
    effective_share,
)
from shortcut_audit.results.counts import Frozen
from shortcut_audit.results.outcomes import (
    Matcher,
    Outcomes,
    outcomes_of,
    pair_of,
    pair_of_rows,
    receivers_of,
)
from shortcut_audit.results.run_numbers import (
    ClassNumbers,
    RunNumbers,
    numbers_of,
    paired,
    proportion,
)

__all__ = [
    "QUANTITIES",
    "Change",
    "Comparison",
    "Difference",
    "ImageOverlap",
    "Quantity",
    "compared",
    "compared_numbers",
    "most_turned_below",
    "strength_worsening",
    "worse_when",
]

Quantity = Literal[
    "accuracy",
    "verdict",
    "score",
    "flip",
    "strength",
    "tpr_kept",
    "fpr_kept",
    "reliability",
    "ood_accuracy",
]
# What is compared, and whether more or less of it is worse.
QUANTITIES: dict[Quantity, Literal["higher", "lower"]] = {
    "accuracy": "lower",
    "verdict": "higher",
    "score": "higher",
    "flip": "higher",
    "strength": "lower",
    "tpr_kept": "higher",
    "fpr_kept": "higher",
    "reliability": "lower",
    "ood_accuracy": "lower",
}
_NO_OUTCOMES = "outcomes of single images are not kept on both sides: taken as different images"
_NOT_ON_BOTH = "not measured on both"
_HALF = 0.5


def worse_when(quantity: Quantity) -> Literal["higher", "lower"]:
    """Which direction of a quantity is the worse one."""
    return QUANTITIES[quantity]


class Difference(Frozen):
    """Something that two audits do not share. `matters`: numbers may differ because of it alone."""

    what: str
    first: str
    second: str
    matters: bool


class ImageOverlap(Frozen):
    """How far two audits used the same images: `unknown` where neither outcomes nor digests tell."""

    kind: Literal["equal", "overlapping", "disjoint", "unknown"]
    n_first: int
    n_second: int
    n_shared: int | None

    def __str__(self) -> str:
        if self.kind == "overlapping":
            return f"{self.n_shared} images in common, of {self.n_first} and {self.n_second}"
        told = {"equal": "the same", "disjoint": "other", "unknown": "not known to be the same"}
        return f"{told[self.kind]} images"


@dataclass(frozen=True)
class Change:
    """A quantity of a class (None: all classes together), of a set where there are several.

    `first`, `second`: values, words of verdicts; `difference` second - first; `low`, `high` its 95%
    interval; `p_value` one-sided, of it being no worse; `n`: images it rests on, of the smaller side.
    Where `paired`, values and n are of the images that both audits share. None where there is nothing
    to compare, and `note` says why. `worsening` answers at any tolerance.
    """

    class_name: str | None
    quantity: Quantity
    set: str = ""
    first: float | str | None = None
    second: float | str | None = None
    n: int = 0
    paired: bool = False
    note: str = ""
    worsening: Worsening | None = field(default=None, repr=False)

    @property
    def worse(self) -> Literal["higher", "lower"]:
        """The direction that is worse."""
        return worse_when(self.quantity)

    @property
    def _sign(self) -> int:
        return 1 if self.worse == "higher" else -1

    @property
    def difference(self) -> float | None:
        """second - first, where these are numbers that can be told apart."""
        if self.worsening is not None:
            return self._sign * self.worsening.value
        if isinstance(self.first, float) and isinstance(self.second, float):
            return self.second - self.first
        return None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the difference."""
        if self.worsening is None:
            return None
        low, high = (self._sign * end for end in self.worsening.interval())
        return min(low, high), max(low, high)

    @property
    def p_value(self) -> float | None:
        """Of the second being no worse than the first."""
        return None if self.worsening is None else self.worsening.p_over(0.0)

    @property
    def became_shortcut(self) -> bool:
        """Whether the verdict is `shortcut`, and was another one."""
        return self.quantity == "verdict" and self.second == "shortcut" != self.first


@dataclass(frozen=True)
class Comparison:
    """Two audits: what they do not share, how far their images are the same, and every change."""

    first: RunNumbers
    second: RunNumbers
    images: ImageOverlap
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]

    @property
    def same_classes(self) -> bool:
        """Whether both are of the same classes; without, nothing can be compared."""
        return set(self.first.class_names) == set(self.second.class_names)

    @property
    def same_numerics(self) -> bool:
        """Whether device, dtype, torch and batch size agree."""
        return self.first.numerics == self.second.numerics

    def of(self, quantity: Quantity, class_name: str | None, name: str = "") -> Change | None:
        """The change of a quantity of a class, on the other set `name` where it is one of those."""
        return self._by_key.get((quantity, class_name, name))

    @cached_property
    def _by_key(self) -> dict[tuple[Quantity, str | None, str], Change]:
        return {(each.quantity, each.class_name, each.set): each for each in self.changes}


def compared(first: AuditResult, second: AuditResult) -> Comparison:
    """Two results, the older one first. Raises ResultError for audits of data alone."""
    numbers, outcomes = (numbers_of(first), numbers_of(second)), (outcomes_of(first), outcomes_of(second))
    return compared_numbers(*numbers, *outcomes)


def compared_numbers(
    first: RunNumbers,
    second: RunNumbers,
    first_outcomes: Outcomes | None = None,
    second_outcomes: Outcomes | None = None,
) -> Comparison:
    """Two audits in numbers; paired where outcomes of both are given."""
    matcher = None
    if first_outcomes is not None and second_outcomes is not None:
        matcher = Matcher(first_outcomes, second_outcomes)
    images = _overlap(first, second, first_outcomes, second_outcomes, matcher)
    sides = _Sides(first, second, first_outcomes, second_outcomes, images, matcher)
    changes: list[Change] = [sides.overall()]
    there = second.by_name
    for item in first.classes:
        if item.name in there:
            changes += sides.of_class(item, there[item.name])
    for place in first.sets:
        if place in second.sets:
            changes.append(sides.ood(None, place))
    return Comparison(first, second, images, tuple(_differences(first, second, images)), tuple(changes))


def _overlap(
    first: RunNumbers,
    second: RunNumbers,
    one: Outcomes | None,
    other: Outcomes | None,
    matcher: Matcher | None,
) -> ImageOverlap:
    n_first, n_second = (sum(item.accuracy[1] for item in run.classes) for run in (first, second))
    if one is None or other is None or matcher is None:
        same = first.data_digest == second.data_digest
        shared = n_first if same else None
        return ImageOverlap(
            kind="equal" if same else "unknown", n_first=n_first, n_second=n_second, n_shared=shared
        )
    theirs = dict(zip(second.class_names, other.rows_by_class(len(second.class_names)), strict=True))
    none = np.zeros(0, dtype=np.int64)
    n_shared = sum(
        len(matcher.shared(rows, theirs.get(name, none))[0])
        for name, rows in zip(first.class_names, one.rows_by_class(len(first.class_names)), strict=True)
    )
    sizes = {
        len(np.unique(np.stack([each.image, each.label.astype(np.uint64)]), axis=1).T)
        for each in (one, other)
    }
    whole = sizes == {n_shared} and n_first == n_second
    kind: Any = "equal" if whole else "overlapping" if n_shared else "disjoint"
    return ImageOverlap(kind=kind, n_first=n_first, n_second=n_second, n_shared=n_shared)


def _differences(first: RunNumbers, second: RunNumbers, images: ImageOverlap) -> list[Difference]:
    found = []

    def told(what: str, one: object, other: object, matters: bool = True) -> None:
        if one != other:
            found.append(Difference(what=what, first=str(one), second=str(other), matters=matters))

    ours, theirs = set(first.class_names), set(second.class_names)
    if ours != theirs:
        gone, new = sorted(ours - theirs), sorted(theirs - ours)
        told("classes", f"{len(ours)}, {_some(gone)}", f"{len(theirs)}, {_some(new)}")
    if images.kind != "equal":
        told("images", f"{images.n_first} images", f"{images.n_second} images ({images})")
    for what in ("device", "dtype", "torch", "batch_size"):
        name = what.replace("_", " ")
        told(name, getattr(first.numerics, what), getattr(second.numerics, what))
    for what in first.settings.keys() | second.settings.keys():
        # Another seed takes other images, which is said above; by itself it changes little.
        one, other = first.settings.get(what, "unknown"), second.settings.get(what, "unknown")
        told(what.replace("_", " "), one, other, what != "seed")
    found.sort(key=lambda each: (not each.matters, each.what))
    told("other sets", ", ".join(first.sets) or "none", ", ".join(second.sets) or "none", matters=False)
    told("format of the result", first.format, second.format, matters=False)
    told("version of the tool", first.tool, second.tool, matters=False)
    told("model", first.model, second.model, matters=False)
    return found


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"alone with {shown}{more}" if names else "all of them there"


@dataclass(frozen=True)
class _Sides:
    first: RunNumbers
    second: RunNumbers
    one: Outcomes | None
    other: Outcomes | None
    images: ImageOverlap
    matcher: Matcher | None

    @cached_property
    def _sides(self) -> list[tuple[Outcomes, dict[str, int]]]:
        """Outcomes of both, and the place of each class, where both have outcomes."""
        return [
            (outcomes, {name: place for place, name in enumerate(run.class_names)})
            for outcomes, run in ((self.one, self.first), (self.other, self.second))
            if self.one is not None and self.other is not None and outcomes is not None
        ]

    @cached_property
    def _rows(self) -> list[list[NDArray[np.int64]]]:
        """Rows of each class, of both."""
        return [outcomes.rows_by_class(len(places)) for outcomes, places in self._sides]

    def overall(self) -> Change:
        """Accuracy over all classes."""
        totals = [
            (sum(item.accuracy[0] for item in run.classes), sum(item.accuracy[1] for item in run.classes))
            for run in (self.first, self.second)
        ]
        same = None
        if self.one is not None and self.other is not None:
            same = pair_of(
                (self.one.image, self.one.right), (self.other.image, self.other.right), worse_is=False
            )
        return self._change(None, "accuracy", totals[0], totals[1], same)

    def of_class(self, old: ClassNumbers, new: ClassNumbers) -> list[Change]:
        """Every quantity of one class."""
        name = old.name
        found = [self._accuracy(old, new)]
        if old.searched or new.searched:
            found += [
                self._verdict(old, new),
                _of_estimates(name, "score", old.score, new.score),
                self._flip(old, new),
                _strength(old, new),
                self._kept(old, new, "tpr_kept"),
                self._kept(old, new, "fpr_kept"),
                _of_estimates(name, "reliability", old.reliability, new.reliability),
            ]
        return found + [self.ood(name, place) for place in old.ood if place in new.ood]

    def _accuracy(self, old: ClassNumbers, new: ClassNumbers) -> Change:
        same = None
        if self.matcher is not None:
            sides = [
                (own, each.right[own])
                for (each, places), rows in zip(self._sides, self._rows, strict=True)
                for own in [rows[places[old.name]]]
            ]
            same = pair_of_rows(self.matcher, *sides, worse_is=False)
        return self._change(old.name, "accuracy", old.accuracy, new.accuracy, same)

    def _kept(self, old: ClassNumbers, new: ClassNumbers, quantity: Quantity) -> Change:
        ours, theirs = getattr(old, quantity), getattr(new, quantity)
        same = None
        if self.matcher is not None and ours is not None and theirs is not None:
            sides = []
            for each, places in self._sides:
                rows, called = each.kept[old.name]
                labels = each.label[rows] == places[old.name]
                own = labels if quantity == "tpr_kept" else ~labels
                sides.append((rows[own], called[own]))
            same = pair_of_rows(self.matcher, *sides, worse_is=True)
        # The maps are of different images or models: their own noise is in both.
        reliability = min(
            (each.reliability.value if each.reliability else 0.0 for each in (old, new)), default=0.0
        )
        return self._change(old.name, quantity, ours, theirs, same, reliability)

    def ood(self, name: str | None, place: str) -> Change:
        """Recall on another set, of a class or of all."""
        totals = []
        for run in (self.first, self.second):
            counts = [
                item.ood[place] for item in run.classes if place in item.ood and name in (None, item.name)
            ]
            totals.append((sum(hits for hits, _ in counts), sum(n for _, n in counts)))
        same = None
        if self._sides and all(place in each.shifted for each, _ in self._sides):
            sides = []
            for each, places in self._sides:
                image, label, right = each.shifted[place]
                own = label == places[name] if name is not None else label >= 0
                sides.append((image[own], right[own]))
            same = pair_of(*sides, worse_is=False)
        return self._change(name, "ood_accuracy", totals[0], totals[1], same, place=place)

    def _flip(self, old: ClassNumbers, new: ClassNumbers) -> Change:
        same = None
        if self.one is not None and self.other is not None and self.matcher is not None:
            same = receivers_of(self.one, self.other, old.name, self.matcher)
        if same is None:
            return _of_estimates(old.name, "flip", old.net_flips, new.net_flips, self._why_unpaired())
        values = (
            (same.after.second.value or 0.0) - (same.before.second.value or 0.0),
            (same.after.first.value or 0.0) - (same.before.first.value or 0.0),
        )
        return Change(old.name, "flip", "", *values, same.n, True, "", same)

    def _verdict(self, old: ClassNumbers, new: ClassNumbers) -> Change:
        """Tested by the score: it decides the verdict."""
        score = _of_estimates(old.name, "score", old.score, new.score)
        return Change(
            old.name, "verdict", "", old.verdict, new.verdict, score.n, False, score.note, score.worsening
        )

    def _why_unpaired(self) -> str:
        if self.one is None or self.other is None:
            return _NO_OUTCOMES
        return "" if self.images.kind == "disjoint" else "few images in common: taken as different ones"

    def _change(
        self,
        name: str | None,
        quantity: Quantity,
        ours: tuple[int, int] | None,
        theirs: tuple[int, int] | None,
        same: Any,
        map_reliability: float | None = 1.0,
        place: str = "",
    ) -> Change:
        """A change of shares: on the same images where there are any, else of different ones."""
        if same is not None:
            worth = effective_share(same.n, map_reliability)
            first, second = same.second.value, same.first.value
            if worse_when(quantity) == "lower":
                first, second = 1 - first, 1 - second
            return Change(name, quantity, place, first, second, same.n, True, "", SameImages(same, worth))
        if ours is None or theirs is None or 0 in (ours[1], theirs[1]):
            return Change(name, quantity, place, _value(ours), _value(theirs), note=_NOT_ON_BOTH)
        one, other = (
            proportion(counts, effective_share(counts[1], map_reliability)) for counts in (ours, theirs)
        )
        return _of_estimates(name, quantity, one, other, self._why_unpaired(), place)


def _value(counts: tuple[int, int] | None) -> float | None:
    return counts[0] / counts[1] if counts is not None and counts[1] else None


def _of_estimates(
    name: str | None,
    quantity: Quantity,
    old: Estimate | None,
    new: Estimate | None,
    note: str = "",
    place: str = "",
) -> Change:
    """A change of two numbers of different images."""
    if old is None or new is None:
        ours, theirs = (None if each is None else each.value for each in (old, new))
        return Change(name, quantity, place, ours, theirs, note=_NOT_ON_BOTH)
    worsening = Apart(new, old) if worse_when(quantity) == "higher" else Apart(old, new)
    return Change(name, quantity, place, old.value, new.value, worsening.n, False, note, worsening)


def _strength(old: ClassNumbers, new: ClassNumbers) -> Change:
    """Smallest share of the spectrum that turns half of other images; 1 where none does.

    There is no interval of a share that jumps from rung to rung: see `strength_worsening`.
    """
    ours, theirs = (
        (1.0 if each.strength_share is None else each.strength_share) if each.searched else None
        for each in (old, new)
    )
    return Change(
        old.name, "strength", "", ours, theirs, note="no interval: shares jump from rung to rung"
    )


def strength_worsening(old: ClassNumbers, new: ClassNumbers, tolerance: float) -> Worsening | None:
    """Whether a smaller share does now what took more before, `tolerance` of the spectrum aside.

    The most images that any rung turns now whose share is below the one that it took before to turn half
    of them, less `tolerance`; against the most that any rung turned then below that. None where no such
    rung turns half now, or nothing was measured.
    """
    if not (old.curve and new.curve):
        return None
    before = 1.0 if old.strength_share is None else old.strength_share
    now = [point for point in new.curve if point.share < before - tolerance]
    # Rungs of a curve turn more the larger they are; see `run_numbers`.
    if not now or NetShare(paired(now[-1].flips)).value < _HALF:
        return None
    return Apart(NetShare(paired(now[-1].flips)), most_turned_below(old, before))


def most_turned_below(item: ClassNumbers, share: float) -> NetShare:
    """The most images that any rung of a curve turns below `share`: else, that its smallest one turns."""
    below = [point for point in item.curve if point.share < share] or [item.curve[0]]
    return NetShare(paired(below[-1].flips))
