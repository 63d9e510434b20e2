"""The in-process engine: one task after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shortcut_audit.measures.interface import Advance
from shortcut_audit.run.engines import OnTask, Worker
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.plan import Task

__all__ = ["run_local"]


def run_local(
    tasks: Sequence[Task], worker: Worker, ledger: Ledger, advance: Advance, on_task: OnTask
) -> None:
    """Run `tasks` here and now, in order; each is kept the moment it is done."""
    for task in tasks:
        started = time.perf_counter()
        totals = worker(task, advance)
        ledger.put(task.key, totals, time.perf_counter() - started)
        on_task(task)
