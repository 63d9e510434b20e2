"""The report as Markdown for step summaries and comments: under 1 MiB, worst first."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.outputs.words import (
    allowed_text,
    change_text,
    number_text,
    plain_text,
    shortened,
    value_text,
)

__all__ = ["MOST_BYTES", "as_markdown"]

# What step summaries take, with room to spare.
MOST_BYTES = 1_000_000
_NAME = 200
_SIGNS = {"failed": "❌", "missing": "❔", "inconclusive": "⚠️", "known": "📌", "passed": "✅"}


def as_markdown(report: GateReport) -> str:
    """Headline, table, notes. Rows that do not fit are counted."""
    head = "\n".join(_head(report))
    tail = "\n".join(_tail(report))
    room = MOST_BYTES - len(head.encode()) - len(tail.encode()) - 200
    rows: list[str] = []
    for check in report.checks:
        row = _row(check)
        room -= len(row.encode()) + 1
        if room < 0:
            rows.append(f"\n… and {len(report.checks) - len(rows)} more checks, none worse.")
            break
        rows.append(row)
    return "\n".join([head, *rows, tail])


def _head(report: GateReport) -> Iterator[str]:
    sign = {0: "✅", 1: "❌"}.get(report.exit_code, "❔")
    yield f"## {sign} {_cell(report.headline)}"
    yield ""
    yield f"{_cell(report.run)} against {_cell(report.baseline)}, by {_cell(report.policy)}."
    yield ""
    yield "| | class | rule | before → now | change [95%] | allowed | p adj. | n | |"
    yield "|---|---|---|---|---|---|---|---|---|"


def _row(check: Check) -> str:
    cells = (
        f"{_SIGNS[check.outcome]} {check.outcome}",
        _cell(check.about),
        _cell(check.rule),
        value_text(check),
        change_text(check),
        allowed_text(check),
        number_text(check.p_adjusted),
        f"{check.n}{' paired' if check.paired else ''}" if check.n else "–",
        _cell(f"{check.reason} {check.needed}".strip(), 600),
    )
    return f"| {' | '.join(cells)} |"


def _tail(report: GateReport) -> Iterator[str]:
    yield ""
    for note in report.notes[:50]:
        yield f"- {_cell(note, 2000)}"
    for each in report.differences[:50]:
        yield f"- {_cell(each.what)}: {_cell(each.first)} → {_cell(each.second)}"
    yield ""


def _cell(text: str, most: int = _NAME) -> str:
    """Text of the user's that is no markup: HTML is escaped, and so is what Markdown reads."""
    text = shortened(plain_text(text), most)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", text)
