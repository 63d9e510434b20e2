"""Outcomes of single images, as two audits share them: what a paired comparison is made of.

They are kept since format 6 (docs/result-format.md); results before have none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import SameReceivers
from shortcut_audit.results.counts import Paired

__all__ = ["Matcher", "Outcomes", "outcomes_of", "pair_of", "pair_of_rows", "receivers_of"]

_JUDGE = 1
# Of the larger side's images, those that pairs have to be made of.
_NEARLY_ALL = 0.99


@dataclass(frozen=True)
class Outcomes:
    """Single images of an audit: content identity and class (n,) each, and what became of them.

    `right` (n,): called by their class. `kept` by searched class: rows of the judgement images that were
    judged under its map, and whether they are called by it when only the map is left. `flips` by class:
    rows of receivers, called by the class as they are, and with the orbits of its best rung. `shifted`
    by set: identity, class and `right`.
    """

    image: NDArray[np.uint64]
    label: NDArray[np.int32]
    right: NDArray[np.bool_]
    kept: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]]
    flips: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]]
    shifted: dict[str, tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.bool_]]]

    def rows_by_class(self, n_classes: int) -> list[NDArray[np.int64]]:
        """Rows of each class, in their order."""
        order = np.argsort(self.label, kind="stable")
        ends = np.searchsorted(self.label[order], np.arange(n_classes + 1))
        return [order[start:stop] for start, stop in itertools.pairwise(ends.tolist())]


def outcomes_of(result: AuditResult) -> Outcomes | None:
    """The outcomes that a result holds; None of a format before 6.

    Raises ResultError where they contradict each other.
    """
    if "outcomes/image" not in result.arrays:
        return None
    try:
        return result.derived("outcomes", lambda: _read(result))
    except (KeyError, IndexError, ValueError) as error:
        raise ResultError(
            f"The outcomes of single images in this result do not hold together: {error}.",
            "Run the audit again.",
        ) from error


def _read(result: AuditResult) -> Outcomes:
    arrays = result.arrays
    names, outputs = result.class_names, np.asarray(result.provenance.data.outputs)
    image, label = arrays["outcomes/image"], arrays["outcomes/class"]
    predicted = arrays["outcomes/predicted"]
    if not len(image) == len(label) == len(predicted) == len(arrays["outcomes/split"]):
        raise ValueError("arrays of different lengths")
    return Outcomes(
        image=image,
        label=label,
        right=np.asarray(predicted == outputs[label]),
        kept=_kept(result, label),
        flips=_flips(arrays, names, label),
        shifted=_shifted(result, outputs),
    )


def _kept(
    result: AuditResult, label: NDArray[np.int32]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    rows = np.flatnonzero(result.arrays["outcomes/split"] == _JUDGE)
    searched = [item.class_name for item in result.shortcuts.by_class]
    packed = result.arrays["outcomes/kept"]
    n_classes = len(result.class_names)
    every = np.full((len(packed), -(-n_classes // 8)), 255, dtype=np.uint8)
    judged_of = result.arrays.get("outcomes/kept_judged", every)
    if not len(packed) == len(judged_of) == len(searched):
        raise ValueError("kept images of other classes than were searched")
    found = {}
    for name, bits, classes in zip(searched, packed, judged_of, strict=True):
        called = np.unpackbits(bits, count=len(rows)).astype(np.bool_)
        judged = np.unpackbits(classes, count=n_classes).astype(np.bool_)[label[rows]]
        found[name] = (rows[judged], called[judged])
    return found


def _flips(
    arrays: Any, names: tuple[str, ...], label: NDArray[np.int32]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]]:
    if "outcomes/receiver" not in arrays:
        return {}
    receiver = arrays["outcomes/receiver"].astype(np.int64)
    turned = arrays["outcomes/turned"]
    into = label[arrays["outcomes/donor"]]
    if not len(receiver) == len(turned) == len(into):
        raise ValueError("arrays of different lengths")
    if len(receiver) and not 0 <= receiver.min() <= receiver.max() < len(label):
        raise ValueError("receivers beyond the images")
    found = {}
    for k in np.unique(into).tolist():
        own = into == k
        found[names[k]] = (receiver[own], (turned[own] & 1) > 0, (turned[own] & 2) > 0)
    return found


def _shifted(
    result: AuditResult, outputs: NDArray[Any]
) -> dict[str, tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.bool_]]]:
    found = {}
    for number, item in enumerate(() if result.transfer is None else result.transfer.by_set):
        name = f"outcomes/shifted/{number}"
        if f"{name}/image" in result.arrays:
            label = result.arrays[f"{name}/class"]
            right = np.asarray(result.arrays[f"{name}/predicted"] == outputs[label])
            found[item.set.name] = (result.arrays[f"{name}/image"], label, right)
    return found


class Matcher:
    """Finds the images that two audits share, class after class.

    Identities are numbered once; then each of many small questions is a look into a table.
    """

    def __init__(self, first: Outcomes, second: Outcomes) -> None:
        every = np.concatenate([first.image, second.image])
        known, numbers = np.unique(every, return_inverse=True)
        self._numbers = numbers[: len(first.image)], numbers[len(first.image) :]
        self._table = np.full(len(known), -1, dtype=np.int64)

    def shared(
        self, first: NDArray[np.int64], second: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in rows of the first audit and in rows of the second one of the images of both; an
        image that stands in several rows is that of the first of them."""
        mine, theirs = self._numbers[0][first], self._numbers[1][second]
        # The last to be written stays.
        self._table[theirs[::-1]] = np.arange(len(theirs))[::-1]
        found = self._table[mine]
        self._table[theirs] = -1
        places = np.flatnonzero(found >= 0)
        self._table[mine[places[::-1]]] = places[::-1]
        places = places[self._table[mine[places]] == places]
        self._table[mine[places]] = -1
        return places, found[places]


def pair_of(
    first: tuple[NDArray[np.uint64], NDArray[np.bool_]],
    second: tuple[NDArray[np.uint64], NDArray[np.bool_]],
    *,
    worse_is: bool,
) -> Paired | None:
    """Outcomes on the images of both sides as counts, oriented as `SameImages` has it.

    Each side: identities (n,) and whether the outcome holds. `worse_is`: the outcome that is the worse
    one. The newer side comes first in the counts. None unless nearly all of the larger side's images are
    shared (`_NEARLY_ALL`): the rest of them must not go unseen.
    """
    _, mine, theirs = np.intersect1d(first[0], second[0], return_indices=True)
    return _pair(first[1], second[1], mine, theirs, worse_is)


def pair_of_rows(
    matcher: Matcher,
    first: tuple[NDArray[np.int64], NDArray[np.bool_]],
    second: tuple[NDArray[np.int64], NDArray[np.bool_]],
    *,
    worse_is: bool,
) -> Paired | None:
    """As `pair_of`, of rows of both audits in the place of identities."""
    mine, theirs = matcher.shared(first[0], second[0])
    return _pair(first[1], second[1], mine, theirs, worse_is)


def _pair(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    mine: NDArray[np.int64],
    theirs: NDArray[np.int64],
    worse_is: bool,
) -> Paired | None:
    if not len(mine) or len(mine) < _NEARLY_ALL * max(len(first), len(second)):
        return None
    old, new = first[mine] == worse_is, second[theirs] == worse_is
    return _table(new, old)


def _table(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> Paired:
    return Paired(
        n=len(new),
        both=int((new & old).sum()),
        only_first=int((new & ~old).sum()),
        only_second=int((~new & old).sum()),
    )


def receivers_of(
    first: Outcomes, second: Outcomes, class_name: str, matcher: Matcher
) -> SameReceivers | None:
    """Flip rates of a class on the receivers that both audits have; None of fewer than nearly all."""
    if class_name not in first.flips or class_name not in second.flips:
        return None
    (rows, before, after), (rows_2, before_2, after_2) = (
        first.flips[class_name],
        second.flips[class_name],
    )
    mine, theirs = matcher.shared(rows, rows_2)
    if not len(mine) or len(mine) < _NEARLY_ALL * max(len(rows), len(rows_2)):
        return None
    old_after, old_before = after[mine], before[mine]
    new_after, new_before = after_2[theirs], before_2[theirs]
    own = (new_after.astype(int) - new_before) - (old_after.astype(int) - old_before)
    return SameReceivers(
        after=_table(new_after, old_after),
        before=_table(new_before, old_before),
        rises=int((own > 0).sum()),
        falls=int((own < 0).sum()),
    )
