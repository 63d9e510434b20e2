"""What the formats share: numbers in words, and names of the user's that steer nothing."""

from __future__ import annotations

from shortcut_audit.errors import printable
from shortcut_audit.gate.gate_report import Check

__all__ = ["allowed_text", "change_text", "number_text", "plain_text", "shortened", "value_text"]


def plain_text(text: str) -> str:
    """One line of plain text: control and formatting characters, and line ends, are spelt out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in printable(text))


def shortened(text: str, most: int) -> str:
    """At most so many characters, with an ellipsis where some are missing."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def number_text(value: float | str | None, signed: bool = False) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def value_text(check: Check) -> str:
    """Before and now."""
    now = number_text(check.now)
    return now if check.before is None else f"{number_text(check.before)} → {now}"


def change_text(check: Check) -> str:
    """The change, with its interval."""
    if check.change is None:
        return "–"
    told = number_text(check.change, signed=True)
    if check.low is None or check.high is None:
        return told
    return f"{told} [{check.low:+.3f}, {check.high:+.3f}]"


def allowed_text(check: Check) -> str:
    """What the rule allows."""
    if check.limit is not None:
        return f"limit {check.limit:g}"
    return "–" if check.tolerance is None else f"{check.tolerance:.3g} worse"
