"""Rounds of a search, answered without a model to see what it asks, or run through with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.interface import Done, Outline, Round, Rounds, Shard, Subject, Totals
from shortcut_audit.measures.searches.folds import totals_by_fold
from shortcut_audit.measures.searches.interface import Search, SearchOutcome
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


# Totals by all that a shard is told apart by.
Kept = dict[tuple[Any, ...], Totals]


@dataclass
class RunThrough:
    """A search that was run to its end; `ran` are the shards whose totals were not kept before."""

    outcome: SearchOutcome
    rounds: list[Round[SearchOutcome]]
    done: list[Done]
    ran: list[Shard] = field(default_factory=list)

    def importance(self, number: int = 0) -> np.ndarray:
        """Importance of a class by the joint score."""
        return self.outcome.by_class[number].importance["joint"]


def run_through(
    search: Search, subject: Subject, seconds_per_pass: float = 0.0, ledger: Kept | None = None
) -> RunThrough:
    """A search on a model; every shard has to report the passes that it said it would take."""
    kept = {} if ledger is None else ledger
    asked: list[Round[SearchOutcome]] = []
    done: list[Done] = []
    ran: list[Shard] = []
    rounds = search.rounds(subject.outline)
    asked.append(next(rounds))
    while True:
        totals = []
        for shard in asked[-1].shards:
            work = "" if shard.work is None else shard.work.digest
            key = (shard.class_index, shard.rows, shard.orbits, work)
            if key not in kept:
                reported: list[int] = []
                kept[key] = search.run(shard, subject, subject.block(shard.rows), reported.append)
                ran.append(shard)
                assert sum(reported) == shard.n_passes
            totals.append((shard, kept[key]))
        n_passes = sum(shard.n_passes for shard in asked[-1].shards)
        done.append(Answered(totals, n_passes * seconds_per_pass))
        try:
            asked.append(rounds.send(done[-1]))
        except StopIteration as stop:
            return RunThrough(stop.value, asked, done, ran)
