"""From outcomes on another set to what a shortcut does there: holds the score up, is missed, or neither.

Two questions, each against nulls. Does the shortcut hold recall up there? Then the class falls when its
orbits give way to those of other classes, and falls more than without random ones. Is it missing there?
Then recall is lower than at home, and comes back once images hold the orbits of the audit's own images
of the class, and not those of other classes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages, ShiftedImages
from shortcut_audit.measures.interface import Outline
from shortcut_audit.measures.transfer_bands import BandSums, band_changes
from shortcut_audit.measures.transfer_groups import groups_of, mismapped
from shortcut_audit.measures.trials import PAIRS_FROM, Trial
from shortcut_audit.measures.verdicts import EFFECT, RULED_OUT, SIGNIFICANT
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.shortcut_findings import Verdict
from shortcut_audit.results.statistics import (
    adjusted_p_values,
    paired_p_value,
    unpaired_interval,
    unpaired_p_value,
)
from shortcut_audit.results.transfer_findings import (
    ClassTransfer,
    CurvePoint,
    Effect,
    SetTransfer,
)

__all__ = ["ClassOutcomes", "Parts", "effects_of", "set_transfer"]

Outcome = NDArray[np.bool_]
Outcomes = Mapping[Trial, Outcome]

# Two questions are asked of every class.
_N_QUESTIONS = 2
# Multiples of the images there were that are looked at for what would decide an open case.
_FACTORS = (1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)


@dataclass(frozen=True)
class Parts:
    """Outcomes, trial by trial, of what is tried of a class (`measures/transfer.py` says on what)."""

    own: Outcomes
    map: Outcomes
    restored: Outcomes
    others: Outcomes
    home: Outcomes


@dataclass(frozen=True)
class ClassOutcomes:
    """One searched class on another set: what was tried, and whether images were called by it.

    `trial(what)`: the trial of the best rung; `rungs`: (n_orbits, share, ring) of the curve;
    `before_restored`, `before_others`: called by the class as they are, of the images that took orbits.
    """

    class_index: int
    verdict: Verdict
    n_orbits: int
    share: float
    trial: Callable[[str], Trial]
    with_random: bool
    n_kept: int
    rungs: tuple[tuple[int, float, int | None], ...]
    parts: Parts
    before_restored: Outcome
    before_others: Outcome


def set_transfer(
    outline: Outline,
    images: AuditImages,
    set_index: int,
    predicted: NDArray[np.int32],
    outcomes: Sequence[ClassOutcomes],
    bands: Mapping[int, BandSums],
) -> SetTransfer:
    """What became of all classes on one other set. `predicted`: outputs of images by row; `bands` by
    class."""
    there = images.shifted[set_index]
    assert there.record is not None
    restored = {n: _put_back(images, there, predicted, n, sums) for n, sums in bands.items()}
    counted = [
        _counted(images, there, predicted, each).model_copy(
            update={
                "bands": band_changes(outline.grid, bands[each.class_index], restored[each.class_index])
            }
        )
        for each in outcomes
    ]
    doubts = mismapped(images, there, predicted)
    classes = [_doubted(item, doubts.get(item.class_name)) for item in effects_of(counted)]
    in_set = [n for n, (start, stop) in enumerate(there.rows) if start < stop]
    home = _rows_at_home(images, there, in_set)
    notes = (*doubts.values(), *there.record.notes)
    return SetTransfer(
        set=there.record.model_copy(update={"notes": notes}),
        accuracy=_accuracy(images, predicted, {n: np.arange(*there.rows[n]) for n in in_set}),
        accuracy_home=_accuracy(images, predicted, home),
        by_class=tuple(classes),
        bands=band_changes(
            outline.grid, reduce(operator.add, bands.values()), _all_put_back(list(restored.values()))
        ),
        groups=groups_of(classes),
    )


def _put_back(
    images: AuditImages,
    there: ShiftedImages,
    predicted: NDArray[np.int32],
    index: int,
    sums: BandSums,
) -> tuple[Paired, ...] | None:
    """Images of a class called by it with each band of their copy, against as they are."""
    if sums.predicted is None:
        return None
    output = images.outputs[index]
    own = predicted[slice(*there.rows[index])] == output
    return tuple(_paired(after == output, own) for after in sums.predicted)


def _all_put_back(found: Sequence[tuple[Paired, ...] | None]) -> tuple[Paired, ...] | None:
    """The same over all classes: counts that add."""
    present = [each for each in found if each is not None]
    if not present:
        return None
    names = ("n", "both", "only_first", "only_second")
    return tuple(
        Paired(**{name: sum(getattr(pair, name) for pair in of_band) for name in names})
        for of_band in zip(*present, strict=True)
    )


def _rows_at_home(
    images: AuditImages, there: ShiftedImages, in_set: Sequence[int]
) -> dict[int, NDArray[np.int64]]:
    """Rows of the judgement images of each class: of a set of copies, those that are copied."""
    if there.counterparts is None:
        return {n: np.arange(*images.judge_rows[n]) for n in in_set}
    first = there.rows[0][0]
    return {n: there.counterparts[there.rows[n][0] - first : there.rows[n][1] - first] for n in in_set}


def _accuracy(
    images: AuditImages, predicted: NDArray[np.int32], rows: Mapping[int, NDArray[np.int64]]
) -> Rate:
    hits = sum(int((predicted[each] == images.outputs[n]).sum()) for n, each in rows.items())
    return Rate(hits=hits, n=sum(len(each) for each in rows.values()))


def _counted(
    images: AuditImages, there: ShiftedImages, predicted: NDArray[np.int32], each: ClassOutcomes
) -> ClassTransfer:
    """Counts of one class, without what follows from them."""
    index, output, parts = each.class_index, images.outputs[each.class_index], each.parts
    own_rows = np.arange(*there.rows[index])
    home_rows = _rows_at_home(images, there, [index])[index]
    own, home = predicted[own_rows] == output, predicted[home_rows] == output
    foreign = np.concatenate(
        [predicted[slice(*rows)] == output for n, rows in enumerate(there.rows) if n != index]
    )
    change = _paired(own, home) if there.counterparts is not None else None
    put, removed = each.trial("transplant"), each.trial("remove")
    from_foreign = each.trial("transplant foreign")
    others, kept = parts.others, Trial("keep", each.n_kept)
    curve = [
        (n, share, ring, others[put if ring is not None else Trial("transplant", n)])
        for n, share, ring in each.rungs
    ]
    return ClassTransfer(
        class_name=images.class_names[index],
        verdict=each.verdict,
        n_images=len(own_rows),
        recall=_rate(own),
        recall_home=_rate(home),
        change=change,
        change_p_value=_fall_p_value(own, home, change),
        change_interval=change.interval
        if change is not None
        else unpaired_interval(int(own.sum()), len(own), int(home.sum()), len(home)),
        false_calls=_rate(foreign),
        tpr_kept=_rate(parts.map[kept]),
        # Where there are fewer images of other classes than own ones, they come around again.
        fpr_kept=_rate(parts.map[Trial("keep foreign", each.n_kept)][: len(foreign)]),
        tpr_kept_home=_rate(parts.home[kept]),
        n_orbits=each.n_orbits,
        share=each.share,
        replaced=_paired(own, parts.own[from_foreign]),
        removed=_paired(own, parts.own[removed]),
        removed_over_random=_paired(parts.own[each.trial("remove random")], parts.own[removed])
        if each.with_random
        else None,
        restored=_paired(parts.restored[put], each.before_restored),
        restored_over_foreign=_paired(parts.restored[put], parts.restored[from_foreign]),
        flips=_paired(others[put], each.before_others),
        flips_over_foreign=_paired(others[put], others[from_foreign]),
        flips_over_erased=_paired(others[put], others[each.trial("erase")]),
        flips_over_random=_paired(others[put], others[each.trial("transplant random")])
        if each.with_random
        else None,
        curve=tuple(
            CurvePoint(
                n_orbits=n,
                share=share,
                ring=None if ring is None else ring % PAIRS_FROM,
                n_rings=2 if ring is not None and ring > PAIRS_FROM else 1,
                flips=_paired(after, each.before_others),
            )
            for n, share, ring, after in curve
        ),
    )


def _rate(outcome: Outcome) -> Rate:
    return Rate(hits=int(outcome.sum()), n=len(outcome))


def _paired(first: Outcome, second: Outcome) -> Paired:
    return Paired(
        n=len(first),
        both=int((first & second).sum()),
        only_first=int((first & ~second).sum()),
        only_second=int((~first & second).sum()),
    )


def _fall_p_value(own: Outcome, home: Outcome, change: Paired | None) -> float:
    """Of recall being no lower there than at home."""
    if change is not None:
        return paired_p_value(change.only_second, change.only_first)
    return unpaired_p_value(int(home.sum()), len(home), int(own.sum()), len(own))


# What follows from the counts.


@dataclass(frozen=True)
class _Question:
    """One of the two: its size over every null, whether it is sure, and what cannot be excluded."""

    size: float
    p_value: float
    low: float
    high: float


def _props(item: ClassTransfer) -> _Question:
    """Does the shortcut hold recall up there?"""
    pairs = [item.replaced, item.removed]
    if item.removed_over_random is not None:
        pairs.append(item.removed_over_random)
    return _Question(
        size=min(pair.difference for pair in pairs),
        p_value=max(pair.p_value for pair in pairs),
        low=min(pair.interval[0] for pair in pairs),
        high=min(pair.interval[1] for pair in pairs),
    )


def _taken_out(item: ClassTransfer) -> _Question:
    """Does recall hang on the orbits there, whoever else has the like of them?"""
    pairs = [item.removed]
    if item.removed_over_random is not None:
        pairs.append(item.removed_over_random)
    return _Question(
        size=min(pair.difference for pair in pairs),
        p_value=max(pair.p_value for pair in pairs),
        low=min(pair.interval[0] for pair in pairs),
        high=min(pair.interval[1] for pair in pairs),
    )


def _is_everywhere(item: ClassTransfer) -> bool:
    """Whether the class hangs on the orbits there, and images of other classes serve as well."""
    taken = _taken_out(item)
    return (
        taken.low > 0
        and taken.size >= EFFECT
        and item.replaced.difference < taken.size / 2
        and (item.false_calls.value or 0.0) >= EFFECT
    )


def _lacks(item: ClassTransfer) -> _Question:
    """Is it missing there, so that the class falls?"""
    pairs = [item.restored, item.restored_over_foreign]
    # The interval is of recall there less that at home.
    fall_low, fall_high = -item.change_interval[1], -item.change_interval[0]
    p_value = item.change_p_value if item.change_p_value is not None else 1.0
    return _Question(
        size=min(item.drop, *(pair.difference for pair in pairs)),
        p_value=max(p_value, *(pair.p_value for pair in pairs)),
        low=min(fall_low, *(pair.interval[0] for pair in pairs)),
        high=min(fall_high, *(pair.interval[1] for pair in pairs)),
    )


def effects_of(items: Sequence[ClassTransfer]) -> list[ClassTransfer]:
    """`items` with both effects, p, q over the classes of the set, and what the shortcut does there."""
    questions = [(_props(item), _lacks(item)) for item in items]
    # A class without a shortcut of its own has none that could travel, and is no comparison.
    tested = [item.verdict != "no shortcut" for item in items]
    p_values = [
        min(1.0, _N_QUESTIONS * min(props.p_value, lacks.p_value)) if asked else None
        for (props, lacks), asked in zip(questions, tested, strict=True)
    ]
    q_values = adjusted_p_values(p_values)
    told = []
    for item, (props, lacks), p_value, q_value in zip(items, questions, p_values, q_values, strict=True):
        effect = _effect(item, props, lacks, q_value)
        found = item.model_copy(
            update={
                "props": props.size,
                "lacks": lacks.size,
                "effect": effect,
                "p_value": p_value,
                "q_value": q_value,
                "reason": _reason(item, effect),
            }
        )
        # Where other classes carry the cue too, more images would tell no more.
        is_open = effect == "inconclusive" and item.verdict == "shortcut" and not _is_everywhere(item)
        told.append(found.model_copy(update={"needed": _needed(found)}) if is_open else found)
    return told


def _effect(item: ClassTransfer, props: _Question, lacks: _Question, q_value: float | None) -> Effect:
    if item.verdict == "no shortcut":
        return "no effect"
    sure = [
        (question.size, effect)
        for question, effect in ((props, "illusion"), (lacks, "drop"))
        if question.size >= EFFECT
        and question.low > 0
        and q_value is not None
        and q_value <= SIGNIFICANT
        and _N_QUESTIONS * question.p_value <= SIGNIFICANT
    ]
    if item.verdict == "shortcut" and sure:
        return max(sure)[1]  # type: ignore[return-value]
    asked = (props, lacks, _taken_out(item)) if item.verdict == "shortcut" else (props, lacks)
    none = all(question.size < EFFECT and question.high < RULED_OUT for question in asked)
    return "no effect" if none else "inconclusive"


def _percent(value: float | None) -> str:
    return f"{100 * (value or 0.0):.0f}%"


def _points(value: float) -> str:
    points = round(100 * value)
    return f"{points} point{'s' if abs(points) != 1 else ''}"


def _reason(item: ClassTransfer, effect: Effect) -> str:
    name = f"“{item.class_name}”"
    if item.verdict == "no shortcut":
        return f"On its own images {name} hangs on no shortcut, so that none travels."
    if item.verdict != "shortcut" and effect != "no effect":
        return f"Whether {name} hangs on a shortcut is open on its own images; so is what it does here."
    recall, home = _percent(item.recall.value), _percent(item.recall_home.value)
    if effect == "illusion":
        return (
            f"The shortcut is here too and holds the score up: {name} is recalled in {recall} of its"
            f" images (at home {home}), and in {_percent(item.replaced.second.value)} once these orbits"
            " are those of other classes."
        )
    if effect == "drop":
        return (
            f"The shortcut is missing here: {name} falls from {home} to {recall}, and comes back to"
            f" {_percent(item.restored.first.value)} with these orbits of the audit's own images (with"
            f" those of other classes {_percent(item.restored_over_foreign.second.value)})."
        )
    if effect == "no effect":
        return (
            f"The shortcut does little here: recall is {recall} (at home {home}), exchanging its orbits"
            f" costs {_points(item.replaced.difference)}, and those of the audit's own images bring back"
            f" {_points(item.restored.difference)}."
        )
    if _is_everywhere(item):
        return (
            f"Recall is {recall} (at home {home}) and hangs on the shortcut's orbits: without them"
            f" it falls by {_points(item.removed.difference)}. But those of other classes here do as"
            f" well, and {_percent(item.false_calls.value)} of their images are called {name}: more than"
            " one class here carries the cue, and recall says little."
        )
    return (
        f"Not clear: recall is {recall} (at home {home}); exchanging the shortcut's orbits costs"
        f" {_points(item.replaced.difference)}, and those of the audit's own images bring back"
        f" {_points(item.restored.difference)}."
    )


def _needed(item: ClassTransfer) -> str:
    """Images at which the same rates would be sure, or rule out what matters."""
    # What the adjustment has made of p so far it will make of it then.
    made = (item.q_value or 1.0) / item.p_value if item.p_value else 1.0
    for factor in _FACTORS:
        larger = _larger(item, factor)
        props, lacks = _props(larger), _lacks(larger)
        q_value = min(1.0, made * _N_QUESTIONS * min(props.p_value, lacks.p_value))
        if _effect(larger, props, lacks, q_value) != "inconclusive":
            break
    else:
        return (
            f"Even {_FACTORS[-1]} times as many images might not decide it: what it does is borderline."
        )
    wanted = item.n_images * factor
    step = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    enough = math.ceil(wanted / step) * step
    if enough <= item.recall_home.n:
        what, there_were = "", f"{item.n_images}"
    else:
        what, there_were = (
            ", and as many to judge by at home,",
            f"{item.n_images} and {item.recall_home.n}",
        )
    return (
        f"About {enough} images of “{item.class_name}” here{what} would decide it (there were"
        f" {there_were})."
    )


def _larger(item: ClassTransfer, factor: float) -> ClassTransfer:
    """The same rates of `factor` times as many images, and at home of no fewer than there."""
    names = ("change", "replaced", "removed", "removed_over_random", "restored", "restored_over_foreign")
    pairs = {name: _scaled(pair, factor) for name in names if (pair := getattr(item, name)) is not None}
    own, home = item.recall, item.recall_home
    at_home = max(1.0, factor * own.n / home.n)
    counts = _times(own, factor), _times(home, at_home)
    change = pairs.get("change")
    return item.model_copy(
        update={
            **pairs,
            "change_p_value": unpaired_p_value(*counts[1], *counts[0])
            if change is None
            else paired_p_value(change.only_second, change.only_first),
            "change_interval": unpaired_interval(*counts[0], *counts[1])
            if change is None
            else change.interval,
        }
    )


def _times(rate: Rate, factor: float) -> tuple[int, int]:
    return math.floor(rate.hits * factor), math.ceil(rate.n * factor)


def _scaled(pair: Paired, factor: float) -> Paired:
    both, first, second = (
        math.floor(count * factor) for count in (pair.both, pair.only_first, pair.only_second)
    )
    return Paired(n=math.ceil(pair.n * factor), both=both, only_first=first, only_second=second)


def _doubted(item: ClassTransfer, doubt: str | None) -> ClassTransfer:
    """A class that may be mapped wrongly has no effect that could be relied on."""
    if doubt is None or item.effect == "no effect":
        return item
    return item.model_copy(update={"effect": "inconclusive", "reason": doubt, "needed": ""})
