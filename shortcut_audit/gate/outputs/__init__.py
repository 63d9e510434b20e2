"""A gate's report in the formats that others read: one file a format, from the report to text."""

from __future__ import annotations

from collections.abc import Callable

from shortcut_audit.gate.gate_report import GateReport
from shortcut_audit.gate.outputs.as_json import as_json
from shortcut_audit.gate.outputs.badge import as_badge
from shortcut_audit.gate.outputs.junit import as_junit
from shortcut_audit.gate.outputs.markdown import as_markdown
from shortcut_audit.gate.outputs.terminal import as_terminal

__all__ = ["OUTPUTS", "as_badge", "as_json", "as_junit", "as_markdown", "as_terminal"]

# What the command line writes to a file, by option.
OUTPUTS: dict[str, Callable[[GateReport], str]] = {
    "junit": as_junit,
    "markdown": as_markdown,
    "json": as_json,
    "badge": as_badge,
}
