"""Outcomes of single images, as arrays of a result: what paired comparisons of two audits go by.

Rows are those of `AuditImages`: class by class, the search images before the judgement images. Rates of
the findings follow from these arrays; nothing is measured for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.measures.cases import Case, trial_of
from shortcut_audit.measures.interface import Arrays, Outline
from shortcut_audit.measures.kept_maps import KeptCounts
from shortcut_audit.results.shortcut_findings import ClassShortcut

__all__ = [
    "NAME",
    "image_numbers",
    "outcomes_of_images",
    "outcomes_of_transplants",
    "outcomes_under_maps",
]

NAME = "outcomes"


def image_numbers(digests: Sequence[str]) -> NDArray[np.uint64]:
    """What tells images again: the first 8 bytes of the digests of their pixels, the highest first, (n,).

    >>> image_numbers(["00000000000001ff" + "0" * 16]).tolist()
    [511]
    """
    return np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64)


def outcomes_of_images(images: AuditImages, predicted: NDArray[np.int32]) -> Arrays:
    """Every image used, with what it is called. `predicted` (n_used,): outputs, by row."""
    rows = [*zip(images.search_rows, images.judge_rows, strict=True)]
    sizes = [[stop - start for start, stop in splits] for splits in rows]
    return {
        f"{NAME}/image": image_numbers(images.store.digests[: images.n_used]),
        f"{NAME}/class": np.repeat(np.arange(len(sizes), dtype=np.int32), [sum(own) for own in sizes]),
        f"{NAME}/split": np.concatenate([np.repeat(np.arange(2, dtype=np.uint8), own) for own in sizes]),
        f"{NAME}/predicted": predicted.astype(np.int32),
    }


def outcomes_under_maps(outline: Outline, counts: KeptCounts) -> Arrays:
    """Which judgement images each map's class is called for, when only the map is left of them.

    A bit an image (n_searched, n_bytes), the first one the highest; and, as an image is not judged under
    every map where there are many, a bit a class of the data: whether its images were.
    """
    n_searched = len(outline.searched)
    sizes = [stop - start for start, stop in outline.judge_rows]
    starts = np.cumsum([0, *sizes])
    kept = np.zeros((n_searched, -(-int(starts[-1]) // 8)), dtype=np.uint8)
    judged = np.zeros((n_searched, outline.n_classes), dtype=np.bool_)
    for index, columns in counts.columns.items():
        judged[columns, index] = True
    # Map by map: all of them, a byte an image, would not fit into memory where there are many classes.
    for column in range(n_searched):
        called = np.zeros(int(starts[-1]), dtype=np.bool_)
        for index in np.flatnonzero(judged[column]).tolist():
            place = int(np.flatnonzero(counts.columns[index] == column)[0])
            called[starts[index] : starts[index + 1]] = counts.kept[index][place]
        kept[column] = np.packbits(called)
    return {f"{NAME}/kept": kept, f"{NAME}/kept_judged": np.packbits(judged, axis=1)}


def outcomes_of_transplants(
    outline: Outline,
    images: AuditImages,
    cases: Sequence[Case],
    items: Sequence[ClassShortcut],
    counts: KeptCounts,
) -> Arrays:
    """Pairs of images that the orbits of a class's best rung were tried on, class by class, and whether
    the receiver is called by the class: bit 0 as it is, bit 1 with the donor's orbits."""
    receivers, donors, turned = [], [], []
    for case, item in zip(cases, items, strict=True):
        if item.best is None:
            continue
        after = case.outcome(0, trial_of("transplant", item.best))
        assert after is not None
        start, _ = outline.judge_rows[case.class_index]
        own = case.partners[0].receivers[: len(after)]
        before = counts.called(outline, images.outputs[case.class_index])[own]
        receivers.append(own)
        donors.append(start + np.arange(len(after)))
        turned.append(before.astype(np.uint8) | after.astype(np.uint8) << 1)
    return {
        f"{NAME}/receiver": np.concatenate([np.zeros(0), *receivers]).astype(np.int32),
        f"{NAME}/donor": np.concatenate([np.zeros(0), *donors]).astype(np.int32),
        f"{NAME}/turned": np.concatenate([np.zeros(0), *turned]).astype(np.uint8),
    }
