"""From outcomes on another set to counts, class by class and over the set, and what follows from them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages, ShiftedImages
from shortcut_audit.measures.interface import Outline
from shortcut_audit.measures.transfer_bands import BandSums, band_changes
from shortcut_audit.measures.transfer_groups import groups_of, mismapped
from shortcut_audit.measures.transfer_questions import effects_of
from shortcut_audit.measures.trials import PAIRS_FROM, Trial
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.shortcut_findings import Verdict
from shortcut_audit.results.statistics import paired_p_value, unpaired_interval, unpaired_p_value
from shortcut_audit.results.transfer_findings import ClassTransfer, CurvePoint, SetTransfer

__all__ = ["ClassOutcomes", "Parts", "set_transfer"]

Outcome = NDArray[np.bool_]
Outcomes = Mapping[Trial, Outcome]


@dataclass(frozen=True)
class Parts:
    """Outcomes, trial by trial, of what is tried of a class (`measures/transfer.py` says on what)."""

    own: Outcomes
    map: Outcomes
    restored: Outcomes
    others: Outcomes
    home: Outcomes
    wide: Outcomes
    wide_of_its_own: Outcomes


@dataclass(frozen=True)
class ClassOutcomes:
    """One searched class on another set: what was tried, and whether images were called by it.

    `trial(what)`: the trial of the best rung; `n_wide` orbits, `wide_share` of the spectrum: all waves of
    its radii, 0 where these are no more; `rungs`: (n_orbits, share, ring) of the curve;
    `before_restored`, `before_others`: called by the class as they are, of the images that took orbits.
    """

    class_index: int
    verdict: Verdict
    n_orbits: int
    share: float
    trial: Callable[[str], Trial]
    with_random: bool
    n_kept: int
    n_wide: int
    wide_share: float
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
        **_counted_wide(each, own),
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


def _counted_wide(each: ClassOutcomes, own: Outcome) -> dict[str, Any]:
    """The counts of all waves of the shortcut's radii; `own`: called by the class as they are."""
    if not each.n_wide:
        return {}
    replaced = each.parts.wide[exchanged := Trial("transplant foreign", each.n_wide)]
    return {
        "wide_orbits": each.n_wide,
        "wide_share": each.wide_share,
        "wide_replaced": _paired(own, replaced),
        "wide_removed": _paired(own, each.parts.wide[Trial("remove", each.n_wide)]),
        "wide_over_own": _paired(each.parts.wide_of_its_own[exchanged], replaced),
    }


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


def _doubted(item: ClassTransfer, doubt: str | None) -> ClassTransfer:
    """A class that may be mapped wrongly has no effect that could be relied on."""
    if doubt is None or item.effect == "no effect":
        return item
    return item.model_copy(update={"effect": "inconclusive", "reason": doubt, "needed": ""})
