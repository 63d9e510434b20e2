"""Drives a search without a run folder, and keeps what it would have said after every round."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from shortcut_audit.measures.interface import Shard, Subject, Totals
from shortcut_audit.measures.searches import SEARCHES
from shortcut_audit.measures.searches.interface import SearchOutcome
from shortcut_audit.results.settings import SearchName

__all__ = ["Driven", "Finished", "driven"]


@dataclass
class Finished:
    """A round that was run on the spot."""

    totals: dict[int, list[tuple[Shard, Totals]]] = field(default_factory=dict)
    n_passes: int = 0
    seconds: float = 0.0

    def of(self, class_index: int) -> Iterator[tuple[Shard, Totals]]:
        """As a measure reads it."""
        return iter(self.totals.get(class_index, ()))


@dataclass(frozen=True)
class Driven:
    """A finished search: what it found, and on the way, (image passes, outcome) after each round."""

    outcome: SearchOutcome
    n_passes: int
    seconds: float
    on_the_way: tuple[tuple[int, SearchOutcome], ...]


def driven(subject: Subject, name: SearchName) -> Driven:
    """Run a search on the search images of `subject`, shard by shard."""
    search = SEARCHES[name]
    rounds = search.rounds(subject.outline)
    asked, n_passes, started = next(rounds), 0, time.perf_counter()
    on_the_way: list[tuple[int, SearchOutcome]] = []
    while True:
        if asked.so_far is not None:
            on_the_way.append((n_passes, asked.so_far()))
        done, began = Finished(), time.perf_counter()
        for shard in asked.shards:
            block = subject.block(shard.rows)
            totals = search.run(shard, subject, block, lambda n: None)
            done.totals.setdefault(shard.class_index, []).append((shard, totals))
            done.n_passes += shard.n_passes
        done.seconds = time.perf_counter() - began
        n_passes += done.n_passes
        try:
            asked = rounds.send(done)
        except StopIteration as stop:
            seconds = time.perf_counter() - started
            on_the_way.append((n_passes, stop.value))
            return Driven(stop.value, n_passes, seconds, tuple(on_the_way))
