"""Tolerances from the noise of an audit."""

from __future__ import annotations

from datetime import date
from statistics import median

import pytest
from audited import Made, made_audit

from shortcut_audit.gate.freeze import VERDICT_RULE, frozen_policy, noise_of
from shortcut_audit.results.counts import Rate
from shortcut_audit.results.run_numbers import numbers_of

TODAY = date(2026, 11, 22)


def test_a_tolerance_is_half_of_the_interval_that_a_class_has() -> None:
    made = Made(accuracy=(0.5, 0.9, 0.95))
    widths = [(rate.high - rate.low) / 2 for rate in (Rate(hits=h, n=200) for h in (100, 180, 190))]
    noise = noise_of("accuracy", numbers_of(made_audit(made)))
    assert noise is not None
    assert median(widths) <= noise <= median(widths) + 0.01
    assert round(100 * noise, 6) == int(round(100 * noise, 6))


def test_more_images_make_finer_tolerances() -> None:
    for kind in ("accuracy", "flip", "verdict", "reliability"):
        coarse, fine = (noise_of(kind, numbers_of(made_audit(Made(n=n)))) for n in (40, 2000))  # type: ignore[arg-type]
        assert coarse is not None
        assert fine is not None
        assert fine < coarse / 3


def test_rules_are_those_that_the_audit_can_hold() -> None:
    plain, _ = frozen_policy(made_audit(), TODAY)
    assert "ood_accuracy" not in {rule.kind for rule in plain.rules}
    elsewhere, _ = frozen_policy(made_audit(Made(ood={"there": (0.5, 0.5, 0.5)})), TODAY)
    assert "ood_accuracy" in {rule.kind for rule in elsewhere.rules}
    vague, notes = frozen_policy(made_audit(Made(half=(0.1, 0.1, 0.1))), TODAY)
    assert not {"tpr_kept", "fpr_kept"} & {rule.kind for rule in vague.rules}
    assert any("tpr_kept" in note for note in notes)


def test_shortcuts_that_are_there_are_debts_with_reason_and_date() -> None:
    made = Made(
        turned=(0.6, 0.02, 0.5),
        verdicts=("shortcut", "no shortcut", "shortcut"),
    )
    policy, _ = frozen_policy(made_audit(made), TODAY)
    assert [debt.class_name for debt in policy.debts] == ["horse", "frog"]
    for debt in policy.debts:
        assert debt.rule == VERDICT_RULE
        assert debt.since == TODAY
        assert debt.reason
    assert "60%" in policy.debts[0].reason


def test_the_baseline_is_the_audit_in_numbers() -> None:
    result = made_audit()
    policy, _ = frozen_policy(result, TODAY)
    assert policy.baseline == numbers_of(result)
    assert policy.baseline is not None
    assert policy.baseline.data_digest == result.provenance.data.digest
    assert policy.baseline.class_names == result.class_names
    assert policy.baseline.numerics.torch == pytest.approx("2.15.0")


def test_debts_of_rules_that_are_left_out_are_left_out() -> None:
    """Of classes that were judged on a transplant or two, nothing can be said of any verdict."""
    result = made_audit(
        Made(n=4, turned=(0.5, 0.0, 0.0), verdicts=("shortcut", "no shortcut", "no shortcut"))
    )
    policy, _ = frozen_policy(result, TODAY)
    assert all(debt.rule in {rule.name for rule in policy.rules} for debt in policy.debts)
    assert not any(rule.kind == "verdict" for rule in policy.rules)
