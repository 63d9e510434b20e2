"""Few images are no pass, and no false failure either."""

from __future__ import annotations

import numpy as np
import pytest
from audited import Made, made_audit
from gate_checks import TODAY, checked, frozen, only, policy_of

from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.evaluation import trials_of
from shortcut_audit.gate.freeze import VERDICT_RULE
from shortcut_audit.gate.policy_file import parse_policy
from shortcut_audit.results.changes import Apart, Proportion, holm
from shortcut_audit.results.comparison import compared_numbers
from shortcut_audit.results.run_numbers import numbers_of


def test_an_audit_of_so_few_images_that_nothing_could_fail_is_no_pass() -> None:
    policy = frozen(Made(n=600))
    for n in (6, 10):
        report = checked(policy, Made(n=n))
        missing = {check.rule for check in report.checks if check.outcome == "missing"}
        assert "orbits turn no more images" in missing
        assert VERDICT_RULE in missing
        assert (report.exit_code, report.verdict) == (3, "incomplete")
        told = only(report, rule="orbits turn no more images")
        assert "so few images" in told.reason
        assert "would tell" in told.needed
    # Of as few images in the baseline, only what can be held is in the policy.
    assert checked(frozen(Made(n=20)), Made(n=20, first=1)).exit_code == 0
    # Whoever lets what is inconclusive pass has said so.
    assert checked(policy.model_copy(update={"on_inconclusive": "pass"}), Made(n=6)).exit_code == 0
    assert checked(policy, Made(n=200)).exit_code == 0


def test_what_is_surely_within_its_limit_passes_however_few_the_images() -> None:
    """No ten images could show an accuracy below 0.01; 9 of 10 show that it is above."""
    lax = policy_of({"kind": "accuracy", "at_least": 0.01}, baseline=None)
    report = checked(lax, Made(n=10))
    assert {check.outcome for check in report.checks} == {"passed"}
    assert report.exit_code == 0
    poor = checked(lax, Made(n=10, accuracy=(0.0, 0.0, 0.0)))
    assert [check.outcome for check in poor.checks] == ["missing"] * 3
    assert poor.exit_code == 3


def test_a_class_that_shrank_to_a_few_images_is_missing() -> None:
    """Among many others that did not; whatever became of it."""
    policy = frozen(Made(n=400))
    result, small = made_audit(Made(n=400)), made_audit(Made(n=4))
    numbers, few = numbers_of(result), numbers_of(small)
    shrunk = numbers.model_copy(update={"classes": (few.classes[0], *numbers.classes[1:])})
    policy_of_few = parse_policy(
        {"rule": [{"kind": "accuracy", "may_worsen_by": 0.05}, {"kind": "flip", "may_worsen_by": 0.05}]},
        "It",
    )
    comparison = compared_numbers(policy.baseline or numbers, shrunk)
    trials = [trial for rule in policy_of_few.rules for trial in trials_of(rule, shrunk, comparison)]
    assert [trial.shrunk for trial in trials] == [True, False, False] * 2
    result._derived["numbers"] = shrunk
    report = check_gate(result, policy, today=TODAY)
    assert report.exit_code == 3
    assert {c.class_name for c in report.checks if c.outcome == "missing"} == {"horse"}


def test_a_few_images_fewer_are_no_matter() -> None:
    for half in (0.6, 0.9):
        policy = frozen(Made(n=400, half=(half,) * 3))
        assert checked(policy, Made(n=300, half=(half,) * 3)).exit_code == 0


@pytest.mark.parametrize(
    ("n_base", "n_run", "accuracy", "tolerance"),
    [(1000, 100, 0.99, 0.02), (2000, 50, 0.99, 0.03), (400, 400, 0.95, 0.03), (60, 600, 0.95, 0.03)],
)
def test_any_false_failure_is_as_rare_as_the_policy_says(
    n_base: int, n_run: int, accuracy: float, tolerance: float
) -> None:
    """The truth lies right at the tolerance, for each of 20 classes, and the audits differ in size."""
    generator = np.random.default_rng(5)
    before = generator.binomial(n_base, accuracy, (2000, 20))
    now = generator.binomial(n_run, accuracy - tolerance, (2000, 20))
    false = 0
    for old, new in zip(before.tolist(), now.tolist(), strict=True):
        pairs = zip(old, new, strict=True)
        p_values = [
            Apart(Proportion(a, n_base), Proportion(b, n_run)).p_over(tolerance) for a, b in pairs
        ]
        false += min(holm(p_values)) <= 0.005
    # 10 are expected at most, of 2,000 checks.
    assert false <= 20
