"""The report as JUnit XML: a test suite a rule, a test case a class."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from shortcut_audit.errors import printable
from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.outputs.words import allowed_text, change_text, number_text, value_text

__all__ = ["as_junit"]

# What XML 1.0 cannot hold at all, not even as an entity.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(report: GateReport) -> str:
    """Failures of the gate are failures, what is missing is an error, warnings and debts are skipped."""
    suites: dict[str, list[Check]] = {}
    for check in report.checks:
        suites.setdefault(check.rule, []).append(check)
    root = ElementTree.Element(
        "testsuites", _counts(list(report.checks)) | {"name": "shortcut-audit gate"}
    )
    for rule, checks in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", {"name": _legal(rule)} | _counts(checks))
        for check in checks:
            _case(suite, check)
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _counts(checks: list[Check]) -> dict[str, str]:
    kinds = [_kind(check) for check in checks]
    return {
        "tests": str(len(checks)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
    }


def _kind(check: Check) -> str:
    if check.outcome == "missing":
        return "error"
    if check.level == "error":
        return "failure"
    return "" if check.outcome == "passed" else "skipped"


def _case(suite: ElementTree.Element, check: Check) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": _legal(f"gate.{check.rule}"), "name": _legal(check.about)}
    )
    kind = _kind(check)
    if not kind:
        return
    message = _legal(f"{check.outcome}: {check.reason}")
    told = ElementTree.SubElement(case, kind, {"message": message, "type": check.outcome})
    if kind != "skipped":
        told.text = _legal(_details(check))


def _details(check: Check) -> str:
    lines = [
        f"before and now: {value_text(check)}",
        f"change, with its 95% interval: {change_text(check)}",
        f"allowed: {allowed_text(check)}",
        f"p, adjusted over all checks: {number_text(check.p_adjusted)}",
        f"images: {check.n}{' (the same ones)' if check.paired else ''}",
    ]
    return "\n".join([*lines, *filter(None, (check.needed, check.comment))])


def _legal(text: str) -> str:
    """Characters that XML cannot hold, spelt out."""
    return _ILLEGAL.sub(lambda found: repr(found.group())[1:-1], printable(text))
