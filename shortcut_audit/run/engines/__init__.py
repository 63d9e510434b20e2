"""Engines: who runs the missing shards. An engine knows tasks, workers and a ledger; no measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from shortcut_audit.measures.interface import Advance, Totals
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.plan import Task

__all__ = ["Engine", "OnTask", "Worker"]

# Runs one task to its totals. Several of them may live at once, each with a model of its own.
Worker = Callable[[Task, Advance], Totals]
OnTask = Callable[[Task], None]


class Engine(Protocol):
    """Runs `tasks`, in any order and anywhere, and puts the totals of each into the ledger."""

    def __call__(
        self,
        tasks: Sequence[Task],
        worker: Worker,
        ledger: Ledger,
        advance: Advance,
        on_task: OnTask,
    ) -> None:
        """Run all tasks. `advance(n)` reports image passes, `on_task` each finished task."""
        ...
