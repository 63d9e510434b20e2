"""The report as JSON: every check, worst first."""

from __future__ import annotations

import json

from shortcut_audit.gate.gate_report import GateReport

__all__ = ["as_json"]


def as_json(report: GateReport) -> str:
    """The whole report, with what it comes to; valid JSON without NaN."""
    content = {
        "outcome": report.verdict,
        "exit_code": report.exit_code,
        "headline": report.headline,
        **report.model_dump(mode="json"),
    }
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
