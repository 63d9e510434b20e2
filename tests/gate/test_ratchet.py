"""The ratchet only moves forwards."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
from audited import Made, made_audit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortcut_audit.errors import SettingsError
from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.freeze import frozen_policy
from shortcut_audit.gate.policy import Policy
from shortcut_audit.gate.policy_file import parse_policy
from shortcut_audit.gate.ratchet import _nowhere_more, ratcheted
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.run_numbers import ClassNumbers

TODAY = date(2026, 11, 22)
HORSE: Any = ("shortcut", "no shortcut", "no shortcut")
BAD = Made(turned=(0.6, 0.02, 0.02), verdicts=HORSE, accuracy=(0.5, 0.9, 0.9))


def policy_of(made: Made) -> Policy:
    return frozen_policy(made_audit(made), TODAY)[0]


def moved(policy: Policy, made: Made) -> Policy:
    return ratcheted(policy, made_audit(made), TODAY)[0]


shares = st.lists(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.9, 0.97]), min_size=3, max_size=3)
sizes = st.sampled_from([40, 200, 600])


@st.composite
def audits(draw: st.DrawFn) -> Made:
    turned = draw(shares)
    return Made(
        n=draw(sizes),
        first=draw(st.integers(0, 2)),
        accuracy=draw(shares),
        turned=turned,
        kept=draw(shares),
        kept_foreign=draw(shares),
        half=draw(shares),
        verdicts=tuple("shortcut" if share >= 0.3 else "no shortcut" for share in turned),  # type: ignore[misc]
        ood={"there": draw(shares)},
    )


LIMITS: list[dict[str, Any]] = [
    {"name": "a", "kind": "flip", "at_most": 0.5},
    {"name": "b", "kind": "accuracy", "at_least": 0.3},
    {"name": "c", "kind": "accuracy", "at_least": 0.3, "together": True},
    {"name": "d", "kind": "reliability", "at_least": -0.5},
    {"name": "e", "kind": "tpr_kept", "at_most": 0.9},
    {"name": "f", "kind": "ood_accuracy", "at_least": 0.1, "set": "th*"},
    {"name": "g", "kind": "accuracy", "at_least": 0.1, "ratchet": False},
    {"name": "h", "kind": "verdict", "may_be": ["no shortcut", "shortcut"]},
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(audits(), audits())
def test_update_never_loosens(before: Made, after: Made) -> None:
    frozen = policy_of(before)
    policy = frozen.model_copy(
        update={"rules": (*frozen.rules, *parse_policy({"rule": LIMITS}, "It").rules)}
    )
    updated = moved(policy, after)
    assert [rule.name for rule in updated.rules] == [rule.name for rule in policy.rules]
    for old, new in zip(policy.rules, updated.rules, strict=True):
        if old.may_worsen_by is not None:
            assert new.may_worsen_by is not None
            assert new.may_worsen_by <= old.may_worsen_by
        if old.at_most is not None:
            assert new.at_most is not None
            assert new.at_most <= old.at_most
        if old.at_least is not None:
            assert new.at_least is not None
            assert new.at_least >= old.at_least
        rest = {"may_worsen_by", "at_most", "at_least"}
        assert new.model_dump(exclude=rest) == old.model_dump(exclude=rest)
        assert old.ratchet or new == old
    assert set(updated.debts) <= set(policy.debts)
    assert policy.baseline is not None
    assert updated.baseline is not None
    for old_class, new_class in zip(policy.baseline.classes, updated.baseline.classes, strict=True):
        assert new_class.accuracy[0] / new_class.accuracy[1] >= (
            old_class.accuracy[0] / old_class.accuracy[1]
        )
        score, was = new_class.score, old_class.score
        assert score is not None
        assert was is not None
        assert score.value <= was.value


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(audits(), audits(), audits())
def test_what_an_updated_policy_lets_through_the_old_one_did_not_fail(
    before: Made, after: Made, later: Made
) -> None:
    policy = policy_of(before)
    updated = moved(policy, after)

    def failed(held: Policy) -> set[tuple[str, str | None]]:
        report = check_gate(made_audit(later), held, today=TODAY)
        return {(c.rule, c.class_name) for c in report.checks if c.outcome == "failed"}

    # A debt that was paid takes a place among the tests: p adjusted for it may be a little larger.
    if updated.debts == policy.debts:
        assert failed(policy) <= failed(updated)


def test_a_second_update_with_the_same_audit_changes_nothing() -> None:
    once = moved(policy_of(BAD), Made(n=600))
    assert moved(once, Made(n=600)) == once


def test_what_is_surely_better_becomes_the_baseline_and_pays_its_debt() -> None:
    policy = policy_of(BAD)
    assert len(policy.debts) == 1
    updated, told = ratcheted(policy, made_audit(Made()), TODAY)
    assert updated.debts == ()
    assert updated.baseline is not None
    horse = updated.baseline.of("horse")
    assert horse is not None
    assert (horse.accuracy, horse.verdict) == ((180, 200), "no shortcut")
    assert any("debt of 'horse'" in sentence for sentence in told)
    # And it holds: what was accepted before fails now.
    assert check_gate(made_audit(BAD), policy, today=TODAY).exit_code == 0
    assert check_gate(made_audit(BAD), updated, today=TODAY).exit_code == 1


def test_a_number_of_fewer_images_does_not_become_the_baseline() -> None:
    policy = policy_of(Made(accuracy=(0.5, 0.9, 0.9)))
    better = Made(accuracy=(0.95, 0.9, 0.9))
    assert moved(policy, better).baseline != policy.baseline
    assert moved(policy, better.but(n=150)).baseline == policy.baseline


def test_each_number_moves_by_its_own_test() -> None:
    """A score that fell because its null rose says nothing of flips."""
    policy = policy_of(BAD)
    audit = made_audit(BAD)
    (shortcuts,) = (each for each in audit.findings if each.measure == "shortcuts")
    horse, *others = shortcuts.by_class  # type: ignore[union-attr]
    risen = Paired(n=100, both=58, only_first=2, only_second=0)
    rung = horse.ladder[0].model_copy(update={"flips_over_foreign": risen})  # type: ignore[union-attr]
    horse = horse.model_copy(update={"ladder": (rung,), "score": 0.02, "verdict": "no shortcut"})
    finding = shortcuts.model_copy(update={"by_class": (horse, *others)})
    findings = tuple(finding if each is shortcuts else each for each in audit.findings)
    confounded = audit.model_copy(update={"findings": findings}).with_arrays(audit.arrays)
    updated, told = ratcheted(policy, confounded, TODAY)
    assert policy.baseline is not None
    assert updated.baseline is not None
    was, now = policy.baseline.of("horse"), updated.baseline.of("horse")
    assert was is not None
    assert now is not None
    assert told == ["The baseline of 'horse' moves: verdict and score.", *told[1:]]
    assert now.verdict == "no shortcut"
    assert (now.flips, now.strength_share, now.curve) == (was.flips, was.strength_share, was.curve)


def test_debts_are_held_against_a_baseline_that_is_named() -> None:
    """Of a policy without numbers of its own."""
    policy = policy_of(BAD).with_baseline(None)
    assert policy.baseline_sha256 == ""
    with pytest.raises(SettingsError, match="need a baseline"):
        ratcheted(policy, made_audit(Made()), TODAY)
    updated, told = ratcheted(policy, made_audit(Made()), TODAY, made_audit(BAD))
    assert updated.baseline is None
    assert updated.debts == ()
    assert any("is paid" in sentence for sentence in told)


def test_luck_moves_nothing() -> None:
    policy = policy_of(Made())
    lucky = Made(accuracy=(0.93, 0.92, 0.91), turned=(0.0, 0.01, 0.0))
    assert moved(policy, lucky).baseline == policy.baseline
    flickering = policy_of(Made(turned=(0.12, 0.02, 0.02), verdicts=HORSE))
    assert moved(flickering, Made(turned=(0.08, 0.02, 0.02))).debts == flickering.debts


def test_an_audit_computed_otherwise_moves_no_numbers() -> None:
    policy = policy_of(BAD)
    updated, told = ratcheted(policy, made_audit(Made(device="cuda")), TODAY)
    assert updated.baseline == policy.baseline
    assert updated.debts == policy.debts
    assert any("computed otherwise" in sentence for sentence in told)


def test_an_audit_that_is_named_moves_no_number_of_the_policy() -> None:
    """Better than that one, and worse than the policy: only debts go by it."""
    best = policy_of(Made(n=400, accuracy=(0.95, 0.9, 0.9)))
    middling, poor = (Made(n=400, accuracy=(share, 0.9, 0.9)) for share in (0.9, 0.75))
    updated, _ = ratcheted(best, made_audit(middling), TODAY, made_audit(poor))
    assert updated.baseline == best.baseline
    assert check_gate(made_audit(Made(n=400, accuracy=(0.84, 0.9, 0.9))), updated, today=TODAY).exit_code


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(audits(), audits(), st.sampled_from(["fail", "warn"]), st.sampled_from([0.25, 0.4]))
def test_an_updated_policy_passes_the_audit_that_made_it(
    before: Made, after: Made, on_inconclusive: Any, tolerance: float
) -> None:
    """However wide the tolerances were that a hand had written."""
    wide = [{**each} for each in LIMITS] + [
        {"name": f"wide {kind}", "kind": kind, "may_worsen_by": tolerance}
        for kind in ("accuracy", "flip", "verdict", "tpr_kept", "reliability", "ood_accuracy", "strength")
    ]
    policy = parse_policy({"rule": wide, "on_inconclusive": on_inconclusive}, "It")
    policy = policy.with_baseline(policy_of(before).baseline)
    if check_gate(made_audit(after), policy, today=TODAY).exit_code == 0:
        updated = moved(policy, after)
        assert check_gate(made_audit(after), updated, today=TODAY).exit_code == 0


def test_a_tolerance_is_not_tightened_below_what_was_just_accepted() -> None:
    policy = parse_policy({"rule": [{"kind": "accuracy", "may_worsen_by": 0.25}]}, "It")
    policy = policy.with_baseline(policy_of(Made(n=600)).baseline)
    worse = Made(n=600, accuracy=(0.72, 0.9, 0.9))
    assert check_gate(made_audit(worse), policy, today=TODAY).exit_code == 0
    updated, told = ratcheted(policy, made_audit(worse), TODAY)
    assert (updated, told) == (policy, [])


def ruled(baseline: Made, *rules: dict[str, Any], debts: list[dict[str, Any]] | None = None) -> Policy:
    policy = parse_policy({"rule": list(rules), "debt": debts or []}, "It")
    return policy.with_baseline(policy_of(baseline).baseline)


def owed(kind: str) -> list[dict[str, Any]]:
    return [{"class": "horse", "rule": kind, "reason": "old", "date": TODAY}]


def test_updates_pass_by_the_policy_s_own_numbers_too() -> None:
    """What is no worse than the audit that is named may be worse than those."""
    policy = ruled(Made(n=5000), {"kind": "accuracy", "may_worsen_by": 0.06})
    run, other = (made_audit(Made(n=5000, accuracy=(0.852, 0.9, 0.9), model=m)) for m in ("run", "other"))
    updated, _ = ratcheted(policy, run, TODAY, other)
    assert check_gate(run, updated, baseline=other, today=TODAY).exit_code == 0
    assert check_gate(run, updated, today=TODAY).exit_code == 0


def test_a_debt_stays_until_its_rule_passes_without_it() -> None:
    still = {"kind": "accuracy", "may_worsen_by": 0.05, "ratchet": False}
    policy = ruled(Made(n=400), still, debts=owed("accuracy"))
    run, weak = (made_audit(Made(n=400, accuracy=(share, 0.9, 0.9))) for share in (0.75, 0.6))
    assert ratcheted(policy, run, TODAY, weak)[0].debts == policy.debts
    # Better than it was, and beyond the limit still.
    limit = {"kind": "accuracy", "at_least": 0.6, "ratchet": False}
    policy = ruled(Made(n=400, accuracy=(0.3, 0.9, 0.9)), limit, debts=owed("accuracy"))
    better = made_audit(Made(n=400, accuracy=(0.55, 0.9, 0.9)))
    assert ratcheted(policy, better, TODAY)[0].debts == policy.debts
    assert ratcheted(policy, made_audit(Made(n=400)), TODAY)[0].debts == ()


def test_a_debt_is_not_paid_where_nothing_was_measured() -> None:
    before = Made(n=400, ood={"a": (0.3, 0.9, 0.9)})
    limit = {"kind": "ood_accuracy", "at_least": 0.6, "ratchet": False}
    policy = ruled(before, limit, debts=owed("ood_accuracy"))
    gone = made_audit(before.but(ood={"a": (None, 0.9, 0.9)}))
    assert ratcheted(policy, gone, TODAY)[0].debts == policy.debts


def test_a_curve_moves_whole_or_not_at_all() -> None:
    def numbers(*rungs: tuple[float, int]) -> ClassNumbers:
        curve = [{"share": share, "flips": (800, 0, turned, 0)} for share, turned in rungs]
        half = next((share for share, turned in rungs if turned >= 400), None)
        return ClassNumbers.model_validate(
            {
                "name": "horse",
                "searched": True,
                "accuracy": (1, 1),
                "strength_share": half,
                "curve": curve,
            }
        )

    own, better = numbers((0.02, 80), (0.1, 520)), numbers((0.02, 40), (0.1, 380))
    assert _nowhere_more(better, own)
    assert not _nowhere_more(own, better)
    # Better where it counts, and worse beyond.
    assert not _nowhere_more(numbers((0.02, 40), (0.1, 380), (0.4, 560)), own)


def test_limits_do_not_wind_up_by_luck() -> None:
    """A hundred audits of one model, and then a thousand that the policy must let pass."""
    generator = np.random.default_rng(2)
    policy = parse_policy({"rule": [{"kind": "accuracy", "at_least": 0.5}]}, "It")

    def audit() -> Any:
        return made_audit(Made(accuracy=tuple(generator.binomial(200, 0.8, 3) / 200)))

    for _ in range(100):
        policy = ratcheted(policy, audit(), TODAY)[0]
    assert policy.rules[0].at_least is not None
    assert 0.5 < policy.rules[0].at_least < 0.75
    outcomes = [check_gate(audit(), policy, today=TODAY) for _ in range(300)]
    assert {report.exit_code for report in outcomes} == {0}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(audits(), audits(), st.sampled_from([None, "other"]))
def test_a_second_update_never_finds_more(before: Made, after: Made, named: str | None) -> None:
    result = made_audit(after)
    other = None if named is None else made_audit(before.but(model="other"))
    policy = policy_of(before)
    once, _ = ratcheted(policy, result, TODAY, other)
    assert ratcheted(once, result, TODAY, other) == (once, [])
