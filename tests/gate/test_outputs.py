"""Reports in every format, with names that try to be more than names."""

from __future__ import annotations

import json
from datetime import date
from typing import Any
from xml.etree import ElementTree

import pytest
from audited import Made, made_audit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.freeze import frozen_policy
from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.outputs import as_json, as_junit, as_markdown, as_terminal
from shortcut_audit.gate.outputs.markdown import MOST_BYTES

TODAY = date(2026, 11, 22)
NAMES = ("<b>&\x00\x1b[31m|\n# x", "ship]]>\ufffe\ud800", "a" * 300)
FORMATS = [as_terminal, as_json, as_markdown, as_junit]


def check_of(**changes: Any) -> Check:
    values: dict[str, Any] = {
        "rule": "accuracy", "kind": "accuracy", "class_name": "horse", "outcome": "failed",
        "level": "error", "before": 0.9, "now": 0.5, "change": -0.4, "low": -0.5, "high": -0.3,
        "tolerance": 0.05, "p_value": 1e-9, "p_adjusted": 1e-8, "n": 200, "paired": True,
        "reason": "0.9 before, 0.5 now",
    }  # fmt: skip
    return Check.model_validate({**values, **changes})


def report_of(*checks: Check, **changes: Any) -> GateReport:
    values: dict[str, Any] = {
        "run": "runs/now", "policy": "gate.toml", "baseline": "runs/before", "model": "resnet",
        "significance": 0.005, "images": "the same images", "checks": checks,
    }  # fmt: skip
    return GateReport.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def hostile() -> GateReport:
    made = Made(names=NAMES)
    policy = frozen_policy(made_audit(made), TODAY)[0]
    worse = made.but(accuracy=(0.5, 0.5, 0.5))
    names = ("run\n\x1b]0;x\x07", "policy|<i>", "")
    return check_gate(made_audit(worse), policy, today=TODAY, names=names)


@pytest.mark.parametrize("form", FORMATS)
def test_names_are_inert_in_every_format(form: Any, hostile: GateReport) -> None:
    text = form(hostile)
    assert text == form(hostile)
    assert text.encode("utf-8")
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert "\x7f" not in text


def test_terminal_says_the_outcome_first_and_a_line_a_check(hostile: GateReport) -> None:
    lines = as_terminal(hostile).splitlines()
    assert lines[0].startswith("Gate failed: ")
    head = next(n for n, line in enumerate(lines) if line.startswith("outcome"))
    failed = sum(check.outcome != "passed" for check in hostile.checks)
    rows = lines[head + 1 : head + 1 + failed]
    assert [row.split()[0] for row in rows] == [
        check.outcome for check in hostile.checks if check.outcome != "passed"
    ]
    # Columns stand under each other.
    column = lines[head].index("rule")
    assert all(row[column - 2 : column] == "  " for row in rows)


def test_terminal_is_short_and_counts_the_rest() -> None:
    many = report_of(*(check_of(class_name=f"class {n}") for n in range(500)))
    lines = as_terminal(many).splitlines()
    assert len(lines) < 70
    assert any("460 more" in line for line in lines)


def test_json_is_the_whole_report(hostile: GateReport) -> None:
    content = json.loads(as_json(hostile))
    assert content["exit_code"] == hostile.exit_code == 1
    assert content["outcome"] == "failed"
    for key in ("outcome", "exit_code", "headline"):
        content.pop(key)
    assert len(content["checks"]) == len(hostile.checks)
    plain = report_of(check_of())
    again = json.loads(as_json(plain))
    for key in ("outcome", "exit_code", "headline"):
        again.pop(key)
    assert GateReport.model_validate(again) == plain


def test_junit_counts_failures_and_keeps_every_name(hostile: GateReport) -> None:
    root = ElementTree.fromstring(as_junit(hostile))
    cases = list(root.iter("testcase"))
    assert int(root.attrib["tests"]) == len(cases) == len(hostile.checks)
    failed = [check for check in hostile.checks if check.level == "error"]
    assert int(root.attrib["failures"]) == len(list(root.iter("failure"))) == len(failed) >= 3
    assert {case.attrib["name"] for case in cases} >= {"a" * 300, "<b>&\\x00\\x1b[31m|\n# x"}
    for suite in root.iter("testsuite"):
        assert int(suite.attrib["tests"]) == len(list(suite))


def test_junit_tells_missing_known_and_warned_apart() -> None:
    report = report_of(
        check_of(outcome="missing", level="error"),
        check_of(outcome="failed", level="warning", class_name="b"),
        check_of(outcome="known", level="note", class_name="c"),
        check_of(outcome="inconclusive", level="error", class_name="d"),
        check_of(outcome="passed", level="note", class_name="e"),
    )
    root = ElementTree.fromstring(as_junit(report))
    assert {k: root.attrib[k] for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "1", "errors": "1", "skipped": "2",
    }  # fmt: skip
    assert report.exit_code == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_legal_xml_and_one_row_of_markdown(name: str, reason: str) -> None:
    report = report_of(check_of(class_name=name, reason=reason, rule="r"))
    case = next(ElementTree.fromstring(as_junit(report)).iter("testcase"))
    assert case.attrib["classname"] == "gate.r"
    rows = [line for line in as_markdown(report).splitlines() if line.startswith("| ❌")]
    assert len(rows) == 1
    # An unescaped bar would make another cell.
    assert rows[0].replace("\\|", "").count("|") == 10
    assert "<" not in rows[0].replace("&lt;", "")


def test_markdown_stays_under_its_size_worst_first_with_a_count() -> None:
    checks = [check_of(class_name=f"{n} " + "漢" * 150, reason="because " * 60) for n in range(4000)]
    text = as_markdown(report_of(*checks))
    assert len(text.encode()) < MOST_BYTES
    rows = [line for line in text.splitlines() if line.startswith("| ❌")]
    assert f"… and {4000 - len(rows)} more checks" in text
    assert rows[0].startswith("| ❌ failed | 0 ")


@pytest.mark.parametrize(
    ("checks", "code", "word"),
    [
        ([check_of(outcome="passed", level="note")], 0, "passed"),
        ([check_of(outcome="known", level="note")], 0, "passed"),
        ([check_of(outcome="failed", level="warning")], 0, "passed"),
        ([check_of()], 1, "failed"),
        ([check_of(outcome="inconclusive")], 1, "failed"),
        ([check_of(outcome="missing")], 3, "incomplete"),
        ([check_of(outcome="missing"), check_of()], 1, "failed"),
        ([], 3, "incomplete"),
    ],
)
def test_exit_codes_follow_from_the_checks(checks: list[Check], code: int, word: str) -> None:
    report = report_of(*checks)
    assert (report.exit_code, report.verdict) == (code, word)
    assert report.passed is (code == 0)
    assert word in report.headline
