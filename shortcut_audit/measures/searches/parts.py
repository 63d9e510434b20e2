"""Parts of a class's images, which orbits race over: rows, shards, and what was probed on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.measures.interface import (
    FLOATS_PER_BLOCK,
    PASSES_PER_SHARD,
    Done,
    Outline,
    Shard,
    Work,
)
from shortcut_audit.measures.searches.first_order import N_FEATURES, first_order_passes
from shortcut_audit.measures.searches.interface import MEASURE
from shortcut_audit.measures.searches.races import Probed

__all__ = [
    "Probes",
    "features_of",
    "gradient_shards",
    "halves_of_parts",
    "n_by_part",
    "n_parts",
    "n_search",
    "part_rows",
    "probe_shards",
    "sums_by_part",
]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# A class's images are dealt into so many parts, which orbits race over; fewer where maps are large.
_PARTS, _PARTS_OF_LARGE_MAPS, _LARGE_MAP = 16, 8, 8192


def n_search(outline: Outline, class_index: int) -> int:
    """Search images of a class."""
    start, stop = outline.search_rows[class_index]
    return stop - start


def n_parts(outline: Outline, class_index: int) -> int:
    """Parts that a class's images are dealt into: even, so that halves can be told apart."""
    most = _PARTS if outline.units.n_units <= _LARGE_MAP else _PARTS_OF_LARGE_MAPS
    n_images = n_search(outline, class_index)
    return min(most, n_images - n_images % 2)


def part_rows(outline: Outline, class_index: int, part: int) -> tuple[int, int]:
    """Rows of one part; images were drawn in random order, so that consecutive ones are a sample."""
    start, stop = outline.search_rows[class_index]
    n = n_parts(outline, class_index)
    first, last = (start + (stop - start) * k // n for k in (part, part + 1))
    return first, last


def cut_rows(rows: tuple[int, int], most: int) -> Iterator[tuple[int, int]]:
    """`rows` in pieces of at most `most`."""
    for row in range(rows[0], rows[1], most):
        yield row, min(row + most, rows[1])


def n_by_part(outline: Outline, class_index: int) -> IntArray:
    """Images of each part."""
    rows = [part_rows(outline, class_index, p) for p in range(n_parts(outline, class_index))]
    return np.array([stop - start for start, stop in rows])


def gradient_shards(outline: Outline, logits: int) -> list[Shard]:
    """First order on every image, in blocks over many parts: small batches are slow."""
    image = outline.n_channels * outline.grid.height * outline.grid.width
    per_image = first_order_passes(logits)
    most = max(1, min(FLOATS_PER_BLOCK // image, PASSES_PER_SHARD // per_image))
    work = Work("first order", {"logits": np.array([logits])})
    return [
        Shard(
            measure=MEASURE,
            split="search",
            class_index=index,
            rows=rows,
            orbits=(0, outline.units.n_units),
            n_passes=per_image * (rows[1] - rows[0]),
            n_backward=logits * (rows[1] - rows[0]),
            work=work,
        )
        for index in outline.searched
        for rows in cut_rows(outline.search_rows[index], most)
    ]


def sums_by_part(outline: Outline, shard: Shard, values: Tensor) -> tuple[IntArray, IntArray, FloatArray]:
    """Sums of `values` (k, n_images, n_units) over the images of each part that a shard meets.

    Parts (p,), images of each in the shard (p,), and sums (p, k, n_units).
    """
    stops = np.cumsum(n_by_part(outline, shard.class_index)) + outline.search_rows[shard.class_index][0]
    part_of_row = np.searchsorted(stops, np.arange(*shard.rows), side="right")
    parts, n_images = np.unique(part_of_row, return_counts=True)
    stop_of_part = np.cumsum(n_images)
    sums = [values[:, stop - n : stop].sum(dim=1) for n, stop in zip(n_images, stop_of_part, strict=True)]
    return parts, n_images, torch.stack(sums).double().cpu().numpy()


def features_of(outline: Outline, class_index: int, first: Done) -> FloatArray:
    """Sums of first-order features over each part, (n_parts, N_FEATURES, n_units)."""
    sums = np.zeros((n_parts(outline, class_index), N_FEATURES, outline.units.n_units))
    for _, total in first.of(class_index):
        sums[total["part"]] += total["features"]
    return sums


def probe_shards(
    outline: Outline, class_index: int, parts: tuple[int, int], units: IntArray
) -> list[Shard]:
    """Exact probes of `units`, each on every image of a range of parts, with one clean pass an image."""
    image = outline.n_channels * outline.grid.height * outline.grid.width
    most = max(1, min(FLOATS_PER_BLOCK // image, PASSES_PER_SHARD // len(units)))
    work = Work("probes", {"units": np.sort(units)})
    first, last = (part_rows(outline, class_index, part) for part in (parts[0], parts[1] - 1))
    return [
        Shard(
            measure=MEASURE,
            split="search",
            class_index=class_index,
            rows=rows,
            orbits=(0, outline.units.n_units),
            n_passes=(len(units) + 1) * (rows[1] - rows[0]),
            work=work,
        )
        for rows in cut_rows((first[0], last[1]), most)
    ]


def halves_of_parts(n: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Ways of halving the parts in which neighbours part, so that short races count on both sides."""
    parts = np.arange(n)
    seen: set[bytes] = set()
    for shift in (np.zeros_like(parts), parts // 2, parts // 4, parts // 2 + parts // 4):
        left = (parts + shift) % 2 == 0
        # Of few parts some ways are the same.
        if 2 * left.sum() == n and left.tobytes() not in seen:
            seen.add(left.tobytes())
            yield parts[left], parts[~left]


@dataclass
class Probes:
    """Exact probes of one class so far: per part of a shard its units, images, sums and squares.

    Kept as they came, since few of all units are ever probed; read from the ledger once.
    """

    of_parts: list[tuple[int, IntArray, int, FloatArray, FloatArray]] = field(default_factory=list)

    def add(self, outline: Outline, class_index: int, done: Done) -> None:
        """Take in a round."""
        for shard, total in done.of(class_index):
            assert shard.work is not None
            units = shard.work.arrays["units"]
            rows = (total[name] for name in ("part", "n_images", "sums", "squares"))
            for part, n_images, sums, squares in zip(*rows, strict=True):
                self.of_parts.append((int(part), units, int(n_images), sums, squares))

    def together(
        self,
        n_units: int,
        response: int,
        parts: IntArray | None = None,
        parts_run: IntArray | None = None,
        correction: FloatArray | None = None,
        open_share: float = 1.0,
    ) -> Probed:
        """Probes of each unit as one, (n_units,); of the images of `parts` where they are given.

        `parts_run` (n_units,): only as far as each unit ran in races. `correction` (n_parts, n_units):
        what carries the mean response of a part's images to all images, which leaves `open_share` of
        the variance.
        """
        count, sums, squares, shifts = (np.zeros(n_units) for _ in range(4))
        wanted = None if parts is None else set(parts.tolist())
        for part, units, n_images, shard_sums, shard_squares in self.of_parts:
            if wanted is not None and part not in wanted:
                continue
            counts = np.ones(len(units), np.bool_) if parts_run is None else part < parts_run[units]
            count[units] += n_images * counts
            sums[units] += shard_sums[response] * counts
            squares[units] += shard_squares[response] * counts
            if correction is not None:
                shifts[units] += n_images * counts * correction[part, units]
        plain = Probed.of_sums(count, sums, squares)
        mean = plain.mean + np.divide(shifts, count, out=shifts, where=count > 0)
        return Probed(plain.n, mean, plain.scatter * open_share)
