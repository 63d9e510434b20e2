"""Other sets as wholes: HFSS's groups of classes, and classes that a label map may have exchanged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages, ShiftedImages
from shortcut_audit.results.counts import Rate
from shortcut_audit.results.transfer_findings import ClassTransfer, GroupPoint

__all__ = ["groups_of", "mismapped"]

_THRESHOLDS = tuple(n / 10 for n in range(1, 10))
# A class whose images go to one other class so often, and hardly ever to its own, may be mapped wrongly.
_MISMAPPED, _HARDLY, _WELL_AT_HOME = 0.6, 0.2, 0.6


def groups_of(items: Sequence[ClassTransfer]) -> tuple[GroupPoint, ...]:
    """HFSS's curves: classes that their map alone recalls at home, against the others."""
    points = []
    for threshold in _THRESHOLDS:
        above = [item for item in items if (item.tpr_kept_home.value or 0.0) > threshold]
        below = [item for item in items if (item.tpr_kept_home.value or 0.0) <= threshold]
        points.append(
            GroupPoint(
                threshold=threshold,
                n_above=len(above),
                n_below=len(below),
                full_above=_mean([item.recall for item in above]),
                full_below=_mean([item.recall for item in below]),
                kept_above=_mean([item.tpr_kept for item in above]),
                kept_below=_mean([item.tpr_kept for item in below]),
            )
        )
    return tuple(points)


def _mean(rates: Sequence[Rate]) -> float | None:
    values = [rate.value for rate in rates if rate.value is not None]
    return float(np.mean(values)) if values else None


def mismapped(images: AuditImages, there: ShiftedImages, predicted: NDArray[np.int32]) -> dict[str, str]:
    """Classes whose images go to one other class as a rule, and no other class's do: a wrong label map
    looks like this. Where several go to one, that is a class that takes what the model does not know."""
    names = dict(zip(images.outputs, images.class_names, strict=True))
    first_of: dict[int, tuple[int, float]] = {}
    for index, rows in enumerate(there.rows):
        if rows[0] < rows[1]:
            calls, counts = np.unique(predicted[slice(*rows)], return_counts=True)
            first_of[index] = int(calls[counts.argmax()]), float(counts.max() / counts.sum())
    taken = [first for first, _ in first_of.values()]
    found = {}
    for index, (first, share) in first_of.items():
        output = images.outputs[index]
        own = float(np.mean(predicted[slice(*there.rows[index])] == output))
        home = float(np.mean(predicted[slice(*images.judge_rows[index])] == output))
        if home < _WELL_AT_HOME or first == output or taken.count(first) > 1:
            continue
        if share >= _MISMAPPED and own < _HARDLY:
            called = names.get(first, f"output {first}")
            found[names[output]] = (
                f"{100 * share:.0f}% of the images that stand for “{names[output]}” in {there.name} are"
                f" called “{called}”, and {100 * own:.0f}% by their class: is the label map right?"
            )
    return found
