"""What a gate found: the only thing that its outputs read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from shortcut_audit.results.comparison import Difference
from shortcut_audit.results.counts import Frozen

__all__ = ["OUTCOMES", "Check", "GateReport", "Outcome"]

# Worst first.
Outcome = Literal["failed", "missing", "inconclusive", "known", "passed"]
OUTCOMES: tuple[Outcome, ...] = ("failed", "missing", "inconclusive", "known", "passed")


class Check(Frozen):
    """One rule held against one class (None: all together), and one set where there are several.

    `level`: what comes of it: `error` fails the gate, `warning` is told, `note` is neither. `before`,
    `now`: values, or words of verdicts; `tolerance`, widened where numerics differ, or `limit`; `change`
    now - before with its 95% interval `low`, `high`; `p_value` of being within the tolerance, and
    `p_adjusted` over all checks; `n` images, `paired` where these are the same ones, `blind` where they
    are so few that it could not have failed. `reason` in one
    sentence, `needed`: what would decide an inconclusive one. None where there is no such number.
    """

    rule: str
    kind: str
    class_name: str | None
    set: str = ""
    outcome: Outcome
    level: Literal["error", "warning", "note"]
    before: float | str | None = None
    now: float | str | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    limit: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    n: int = 0
    paired: bool = False
    blind: bool = False
    reason: str = ""
    needed: str = ""
    comment: str = ""

    @property
    def about(self) -> str:
        """The class, and the set: plain text of the user's."""
        name = "all classes" if self.class_name is None else self.class_name
        return f"{name} on {self.set}" if self.set else name


class GateReport(Frozen):
    """One check of a gate. `checks` stand worst first.

    `images`: how far the images are the baseline's; `differences`: what the two audits do not share;
    `notes`: what a reader must know. `exit_code`: 0 passed, 1 failed, 3 incomplete.
    """

    format: Literal[1] = 1
    run: str
    policy: str
    baseline: str
    model: str
    significance: float
    images: str
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if any(check.level == "error" and check.outcome != "missing" for check in self.checks):
            return 1
        return 3 if any(check.outcome == "missing" for check in self.checks) or not self.checks else 0

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and nothing is missing."""
        return self.exit_code == 0

    @property
    def verdict(self) -> str:
        """One word."""
        return {0: "passed", 1: "failed"}.get(self.exit_code, "incomplete")

    def of(self, *levels: str) -> tuple[Check, ...]:
        """Checks of some levels, worst first."""
        return tuple(check for check in self.checks if check.level in levels)

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        n = {outcome: sum(c.outcome == outcome for c in self.checks) for outcome in OUTCOMES}
        told = [f"{n[outcome]} {outcome}" for outcome in OUTCOMES if n[outcome]]
        return f"Gate {self.verdict}: {_list(told)} of {len(self.checks)} checks."


def _list(parts: Iterable[str]) -> str:
    *most, last = list(parts) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
