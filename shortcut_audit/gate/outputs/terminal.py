"""The report as plain text for a terminal: worst first, without colours, markup or escapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.outputs.words import (
    allowed_text,
    change_text,
    number_text,
    plain_text,
    shortened,
    value_text,
)

__all__ = ["as_terminal"]

_MOST_ROWS, _MOST_REASONS, _NAME = 40, 12, 28
_HEAD = ("outcome", "class", "rule", "before → now", "change [95%]", "allowed", "p adj.")


def as_terminal(report: GateReport) -> str:
    """A headline, a table of what did not pass, reasons, notes."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: GateReport) -> Iterator[str]:
    yield plain_text(report.headline)
    yield plain_text(f"{report.run} against {report.baseline}, by {report.policy}.")
    told = [check for check in report.checks if check.outcome != "passed"]
    if told:
        yield ""
        yield from _table([_HEAD, *(_row(check) for check in told[:_MOST_ROWS])])
    if len(told) > _MOST_ROWS:
        yield f"... and {len(told) - _MOST_ROWS} more; --json has all of them."
    reasons = [check for check in told if check.reason]
    if reasons:
        yield ""
    for check in reasons[:_MOST_REASONS]:
        sentence = f"{check.about}, {check.rule}: {check.reason}. {check.needed}"
        yield plain_text(sentence.rstrip())
    if len(reasons) > _MOST_REASONS:
        yield f"... and {len(reasons) - _MOST_REASONS} more reasons."
    for note in report.notes:
        yield plain_text(f"Note: {note}")


def _row(check: Check) -> tuple[str, ...]:
    outcome = check.outcome
    if outcome == "failed" and check.level == "warning":
        outcome += " (warns)"  # type: ignore[assignment]
    return (
        outcome,
        shortened(plain_text(check.about), _NAME),
        shortened(plain_text(check.rule), _NAME),
        value_text(check),
        change_text(check),
        allowed_text(check),
        number_text(check.p_adjusted) if check.p_adjusted is not None else "–",
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
