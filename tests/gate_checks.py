"""Audits made by hand held against policies, for tests of the gate."""

from __future__ import annotations

from datetime import date
from typing import Any

from audited import Made, made_audit

from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.freeze import frozen_policy
from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.policy import Policy
from shortcut_audit.gate.policy_file import parse_policy

__all__ = ["HORSE", "PLANTED", "SETS", "TODAY", "checked", "frozen", "only", "policy_of"]

TODAY = date(2026, 11, 22)
_MADE = Made()
SETS = {"there": (0.8, 0.8, 0.8)}
HORSE: Any = ("shortcut", "no shortcut", "no shortcut")
# A horse that hangs on a shortcut.
PLANTED = Made(turned=(0.6, 0.02, 0.02), verdicts=HORSE)


def policy_of(*rules: dict[str, Any], baseline: Made | None = _MADE, **more: Any) -> Policy:
    policy = parse_policy({"rule": list(rules), **more}, "The policy")
    if baseline is None:
        return policy
    frozen = frozen_policy(made_audit(baseline), TODAY)[0].baseline
    return policy.with_baseline(frozen)


def checked(policy: Policy, run: Made, baseline: Made | None = None, **more: Any) -> GateReport:
    other = None if baseline is None else made_audit(baseline)
    return check_gate(made_audit(run), policy, baseline=other, **{"today": TODAY, **more})


def only(report: GateReport, class_name: str | None = "horse", rule: str | None = None) -> Check:
    found = [
        check for check in report.checks if check.class_name == class_name and rule in (None, check.rule)
    ]
    assert len(found) == 1
    return found[0]


def frozen(made: Made) -> Policy:
    return frozen_policy(made_audit(made), TODAY)[0]
