"""Badges in the schema of shields.io: one word that is never greener than the gate."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.outputs.badge import as_badge, error_badge


def badge_of(*told: tuple[str | None, str, str]) -> dict[str, Any]:
    """Of checks as (class, outcome, level)."""
    checks = [
        Check.model_validate(
            {"rule": "r", "kind": "flip", "class_name": name, "outcome": outcome, "level": level}
        )
        for name, outcome, level in told
    ]
    report = GateReport(
        run="run", policy="p", baseline="b", model="m", significance=0.005, images="",
        checks=tuple(checks),
    )  # fmt: skip
    return dict(json.loads(as_badge(report)))


PASSED, KNOWN = ("a", "passed", "note"), ("b", "known", "note")
WARNED = ("c", "failed", "warning")
FAILED, OTHER = ("d", "failed", "error"), ("e", "inconclusive", "error")
ALL, MISSING = (None, "failed", "error"), ("f", "missing", "error")


@pytest.mark.parametrize(
    ("told", "message", "colour"),
    [
        ([PASSED], "passed", "brightgreen"),
        ([KNOWN, KNOWN, PASSED], "passed, 2 known", "brightgreen"),
        ([WARNED, KNOWN, PASSED], "passed, 1 known, 1 warned", "brightgreen"),
        ([FAILED, FAILED, PASSED], "failed, 1 class", "red"),
        ([FAILED, OTHER, WARNED], "failed, 2 classes", "red"),
        ([ALL, PASSED], "failed, 1 rule", "red"),
        ([FAILED, MISSING], "failed, 1 class", "red"),
        ([MISSING, PASSED], "incomplete", "orange"),
        ([], "incomplete", "orange"),
    ],
)
def test_a_badge_says_what_came_of_it(
    told: list[tuple[str | None, str, str]], message: str, colour: str
) -> None:
    assert badge_of(*told) == {
        "schemaVersion": 1, "label": "frequency shortcuts", "message": message, "color": colour
    }  # fmt: skip


def test_names_of_classes_stand_in_no_badge() -> None:
    assert "<script>" not in json.dumps(badge_of(("<script>", "failed", "error")))


def test_a_gate_that_was_not_held_has_a_badge_that_is_not_green() -> None:
    badge = json.loads(error_badge())
    assert badge["schemaVersion"] == 1
    assert (badge["message"], badge["color"]) == ("not checked", "lightgrey")
