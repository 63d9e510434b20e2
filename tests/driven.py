"""Rounds of a search answered without a model, to see what it asks and what it concludes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.interface import Outline, Round, Rounds, Shard, Totals
from shortcut_audit.measures.searches.folds import totals_by_fold
from shortcut_audit.results.settings import RESPONSES, settings_from

# (n_responses, n_images, n_units) of the images and units that a shard asks for.
Answer = Callable[[Shard], np.ndarray]


def outline_of_sizes(
    sizes: Sequence[int],
    size: int | tuple[int, int] = 16,
    searched: Sequence[int] = (),
    n_judge: int = 2,
    **values: Any,
) -> Outline:
    """Classes with `sizes` search images each, and `n_judge` to judge by."""
    starts = np.cumsum([0, *(n + n_judge for n in sizes)])
    search = tuple((int(start), int(start) + n) for start, n in zip(starts, sizes, strict=False))
    height, width = (size, size) if isinstance(size, int) else size
    return Outline(
        settings=settings_from({"search": "exact", **values}),
        grid=FrequencyGrid(height, width),
        n_channels=1,
        n_outputs=len(sizes),
        n_classes=len(sizes),
        search_rows=search,
        judge_rows=tuple((stop, stop + n_judge) for _, stop in search),
        searched=tuple(searched) or tuple(range(len(sizes))),
    )


@dataclass(frozen=True)
class Answered:
    """A round that somebody ran."""

    done: Sequence[tuple[Shard, Totals]]
    seconds: float

    @property
    def n_passes(self) -> int:
        return sum(shard.n_passes for shard, _ in self.done)

    def of(self, class_index: int) -> Iterator[tuple[Shard, Totals]]:
        return (item for item in self.done if item[0].class_index == class_index)


def nothing(shard: Shard) -> np.ndarray:
    """No image cares for anything."""
    return np.zeros((len(RESPONSES), shard.n_images, shard.orbits[1] - shard.orbits[0]))


def driven(
    rounds: Rounds[Any],
    outline: Outline,
    answer: Answer = nothing,
    seconds: Callable[[int, int], float] = lambda number, n_passes: n_passes * 1e-3,
) -> tuple[Any, list[Round[Any]], list[Any]]:
    """What a search concludes, the rounds that it asked for, and what it knew before each of them.

    `seconds(number, n_passes)`: how long a round takes.
    """
    asked: list[Round[Any]] = [next(rounds)]
    so_far: list[Any] = []
    while True:
        look, shards = asked[-1].so_far, asked[-1].shards
        so_far.append(None if look is None else look())
        done = [
            (shard, totals_by_fold(answer(shard), shard.rows, outline.search_rows[shard.class_index]))
            for shard in shards
        ]
        n_passes = sum(shard.n_passes for shard in shards)
        try:
            asked.append(rounds.send(Answered(done, seconds(len(asked) - 1, n_passes))))
        except StopIteration as stop:
            return stop.value, asked, so_far
