"""The progress bar: a rich bar on a terminal, a line now and then elsewhere (logs, CI)."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from shortcut_audit.report.summary import duration

__all__ = ["Bar"]

_SECONDS_BETWEEN_LINES = 30.0


class Bar:
    """Shows how far an audit has come, and the time left; called as (stage, done, total)."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tasks: dict[str, Any] = {}
        self.started: dict[str, tuple[float, int]] = {}
        self.line_at = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report `done` of `total` steps of a stage."""
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total)
            # What was there at the first report was reused, and says nothing of the speed.
            self.started[stage] = (time.monotonic(), done)
        self.progress.update(self.tasks[stage], completed=done, total=total)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.line_at > _SECONDS_BETWEEN_LINES:
            self.line_at = now
            self.console.print(self._line(stage, done, total, now), markup=False)

    def _line(self, stage: str, done: int, total: int, now: float) -> str:
        began, offset = self.started[stage]
        speed = (done - offset) / max(now - began, 1e-9)
        left = f", about {duration((total - done) / speed)} left" if speed > 0 else ""
        return f"{stage}: {done:,} of {total:,}{left}"
