"""The outcome as a badge: JSON for the endpoint badges of shields.io."""

from __future__ import annotations

import json

from shortcut_audit.gate.gate_report import GateReport

__all__ = ["as_badge", "error_badge"]

_LABEL = "frequency shortcuts"
_COLOURS = {"passed": "brightgreen", "failed": "red", "incomplete": "orange"}


def as_badge(report: GateReport) -> str:
    """One word, and how many classes fail, warn or are known debts."""
    return _badge(_message(report), _COLOURS[report.verdict])


def error_badge() -> str:
    """The badge of a gate that could not be held: never an earlier one that is green."""
    return _badge("not checked", "lightgrey")


def _message(report: GateReport) -> str:
    if report.verdict == "failed":
        return f"failed, {_counted(report, 'failed', 'inconclusive')}"
    if report.verdict == "incomplete":
        return "incomplete"
    known = sum(check.outcome == "known" for check in report.checks)
    warned = len(report.of("warning"))
    told = [f"{known} known" if known else "", f"{warned} warned" if warned else ""]
    return ", ".join(["passed", *filter(None, told)])


def _counted(report: GateReport, *outcomes: str) -> str:
    """Classes that fail; of rules about all classes together, rules."""
    failing = [check for check in report.of("error") if check.outcome in outcomes]
    classes = {check.class_name for check in failing} - {None}
    if classes:
        return "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    return "1 rule" if len(failing) == 1 else f"{len(failing)} rules"


def _badge(message: str, colour: str) -> str:
    content = {"schemaVersion": 1, "label": _LABEL, "message": message, "color": colour}
    return json.dumps(content) + "\n"
