"""The gate's decisions, on audits made by hand."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from audited import Made, made_audit
from gate_checks import HORSE, PLANTED, SETS, TODAY, checked, frozen, only, policy_of

from shortcut_audit.errors import ResultError, SettingsError
from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.freeze import VERDICT_RULE, frozen_policy
from shortcut_audit.gate.policy_file import parse_policy


def test_a_frozen_audit_passes_its_own_gate() -> None:
    for made in (Made(), Made(ood=SETS), PLANTED):
        report = checked(frozen(made), made)
        assert report.exit_code == 0
        assert report.verdict == "passed"
        assert {check.outcome for check in report.checks} <= {"passed", "known"}


def test_a_class_that_becomes_a_shortcut_fails_and_is_named() -> None:
    for baseline in (None, Made()):
        report = checked(frozen(Made()), PLANTED, baseline)
        assert report.exit_code == 1
        worst = report.checks[0]
        failed = {check.class_name for check in report.checks if check.outcome == "failed"}
        assert failed == {"horse"}
        verdict = only(report, rule=VERDICT_RULE)
        assert (verdict.outcome, verdict.level) == ("failed", "error")
        assert "+58 points" in verdict.reason
        assert "surely so" in verdict.reason
        assert worst.outcome == "failed"


def test_a_verdict_that_flickers_by_a_little_does_not_fail() -> None:
    before = Made(turned=(0.09, 0.02, 0.02))
    after = Made(turned=(0.13, 0.02, 0.02), verdicts=HORSE)
    check = only(checked(frozen(before), after), rule=VERDICT_RULE)
    assert check.outcome == "inconclusive"
    assert "within the tolerance" in check.reason
    more = Made(turned=(0.25, 0.02, 0.02), verdicts=HORSE)
    check = only(checked(frozen(before), more), rule=VERDICT_RULE)
    assert check.outcome == "inconclusive"
    assert "chance" in check.reason
    assert "images" in check.needed


def test_a_known_shortcut_is_a_debt_and_does_not_fail() -> None:
    policy = frozen(PLANTED)
    (debt,) = policy.debts
    assert (debt.class_name, debt.rule, debt.since) == ("horse", VERDICT_RULE, TODAY)
    check = only(checked(policy, PLANTED), rule=VERDICT_RULE)
    assert (check.outcome, check.level) == ("known", "note")
    assert debt.reason in check.reason
    without = policy.model_copy(update={"debts": ()})
    check = only(checked(without, PLANTED), rule=VERDICT_RULE)
    assert check.outcome == "failed"
    assert "no debt accepts it" in check.reason


def test_an_expired_debt_fails_again() -> None:
    policy = frozen(PLANTED)
    debt = policy.debts[0].model_copy(update={"expires": date(2026, 11, 21)})
    check = only(checked(policy.model_copy(update={"debts": (debt,)}), PLANTED), rule=VERDICT_RULE)
    assert check.outcome == "failed"
    assert "expired on 2026-11-21" in check.reason
    debt = debt.model_copy(update={"expires": TODAY})
    check = only(checked(policy.model_copy(update={"debts": (debt,)}), PLANTED), rule=VERDICT_RULE)
    assert check.outcome == "known"


KINDS = [
    ("accuracy", {"accuracy": (0.5, 0.9, 0.9)}),
    ("flip", {"turned": (0.6, 0.02, 0.02)}),
    ("strength", {"turned": (0.8, 0.02, 0.02)}),
    ("tpr_kept", {"kept": (0.98, 0.5, 0.5)}),
    ("fpr_kept", {"kept_foreign": (0.8, 0.1, 0.1)}),
    ("reliability", {"half": (0.05, 0.99, 0.99)}),
    ("ood_accuracy", {"ood": {"there": (0.2, 0.8, 0.8)}}),
]


@pytest.mark.parametrize(("kind", "worse"), KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("paired", [False, True])
def test_every_kind_fails_on_what_is_worse_and_on_nothing_else(
    kind: str, worse: dict[str, Any], paired: bool
) -> None:
    sure = Made(ood=SETS, half=(0.99, 0.99, 0.99))
    policy = policy_of({"kind": kind, "may_worsen_by": 0.05}, baseline=sure)
    report = checked(policy, sure.but(**worse), sure if paired else None)
    horse = only(report)
    assert horse.outcome == "failed", horse
    assert horse.p_adjusted is not None
    assert horse.p_adjusted <= 0.005
    assert {check.outcome for check in report.checks if check.class_name != "horse"} == {"passed"}
    better = checked(policy, sure, sure.but(**worse))
    assert only(better).outcome == "passed"
    assert better.exit_code == 0


@pytest.mark.parametrize(
    ("limits", "made", "outcome"),
    [
        ({"kind": "accuracy", "at_least": 0.8}, Made(), "passed"),
        ({"kind": "accuracy", "at_least": 0.8}, Made(accuracy=(0.5, 0.9, 0.9)), "failed"),
        ({"kind": "accuracy", "at_least": 0.91}, Made(), "inconclusive"),
        ({"kind": "flip", "at_most": 0.1}, PLANTED, "failed"),
        ({"kind": "flip", "at_most": 0.55}, PLANTED, "inconclusive"),
        ({"kind": "fpr_kept", "at_most": 0.3}, Made(half=(1, 1, 1), kept_foreign=(0.9, 0, 0)), "failed"),
        ({"kind": "tpr_kept", "at_most": 0.6}, Made(half=(1, 1, 1)), "passed"),
        ({"kind": "reliability", "at_least": 0.9}, Made(half=(0.1, 0.99, 0.99)), "failed"),
        ({"kind": "strength", "at_least": 0.1}, Made(turned=(0.9, 0, 0)), "failed"),
        ({"kind": "strength", "at_least": 0.1}, Made(turned=(0.52, 0, 0)), "inconclusive"),
        ({"kind": "strength", "at_least": 0.01}, Made(turned=(0.9, 0, 0)), "passed"),
        ({"kind": "ood_accuracy", "at_least": 0.5}, Made(ood={"there": (0.2, 0.9, 0.9)}), "failed"),
        ({"kind": "verdict", "may_be": ["no shortcut"]}, PLANTED, "failed"),
        ({"kind": "verdict", "may_be": ["no shortcut", "shortcut"]}, PLANTED, "passed"),
        (
            {"kind": "verdict", "may_be": ["no shortcut"]},
            Made(verdicts=("inconclusive", "no shortcut", "no shortcut")),
            "inconclusive",
        ),
    ],
)  # fmt: skip
def test_limits_need_no_baseline(limits: dict[str, Any], made: Made, outcome: str) -> None:
    report = checked(policy_of(limits, baseline=None), made)
    assert only(report).outcome == outcome
    assert report.exit_code == (1 if outcome == "failed" else 0)


def test_together_is_all_classes_as_one() -> None:
    policy = policy_of({"kind": "accuracy", "may_worsen_by": 0.02, "together": True})
    report = checked(policy, Made(accuracy=(0.8, 0.8, 0.8)))
    (check,) = report.checks
    assert (check.class_name, check.outcome, check.about) == (None, "failed", "all classes")
    elsewhere = Made(ood=SETS)
    policy = policy_of({"kind": "ood_accuracy", "at_least": 0.95, "together": True}, baseline=elsewhere)
    assert only(checked(policy, elsewhere), None).outcome == "failed"


@pytest.mark.parametrize(
    ("band", "outcome"), [("mid", "failed"), ("high", "passed"), ("low", "passed"), ("all", "passed")]
)
def test_rules_of_a_band_are_about_orbits_there(band: str, outcome: str) -> None:
    policy = policy_of({"kind": "verdict", "may_worsen_by": 0.05, "band": band})
    report = checked(policy, PLANTED)
    assert only(report).outcome == outcome
    assert only(report, "ship").outcome == "passed"


def test_rules_are_about_classes_and_sets_by_pattern() -> None:
    worse = Made(accuracy=(0.5, 0.5, 0.5))
    policy = policy_of({"kind": "accuracy", "may_worsen_by": 0.05, "class": ["h*", "frog"]})
    assert {check.class_name for check in checked(policy, worse).checks} == {"horse", "frog"}
    odd = Made(names=("a[1]*", "b", "c"))
    policy = policy_of({"kind": "accuracy", "may_worsen_by": 0.05, "class": "a[1]*"}, baseline=odd)
    assert {check.class_name for check in checked(policy, odd).checks} == {"a[1]*"}
    sets = Made(ood={"near": (0.8, 0.8, 0.8), "far": (0.8, 0.8, 0.8)})
    policy = policy_of({"kind": "ood_accuracy", "may_worsen_by": 0.05, "set": "n*"}, baseline=sets)
    assert {check.set for check in checked(policy, sets).checks} == {"near"}


def test_severity_and_inconclusive_are_switches_of_the_policy() -> None:
    worse = Made(accuracy=(0.5, 0.9, 0.9))
    warned = checked(policy_of({"kind": "accuracy", "may_worsen_by": 0.05, "severity": "warn"}), worse)
    assert warned.exit_code == 0
    assert (only(warned).outcome, only(warned).level) == ("failed", "warning")
    rule = {"kind": "accuracy", "may_worsen_by": 0.05}
    doubtful = Made(accuracy=(0.82, 0.9, 0.9))
    for switch, level, code in (("fail", "error", 1), ("warn", "warning", 0), ("pass", "note", 0)):
        for policy in (
            policy_of(rule, on_inconclusive=switch),
            policy_of({**rule, "on_inconclusive": switch}),
        ):
            report = checked(policy, doubtful)
            assert only(report).outcome == "inconclusive"
            assert (only(report).level, report.exit_code) == (level, code)
            assert "images" in only(report).needed


def test_as_many_images_as_were_said_to_be_needed_decide_it() -> None:
    rule = {"kind": "accuracy", "may_worsen_by": 0.05}
    worse = (0.79, 0.9, 0.9)
    few = only(checked(policy_of(rule), Made(accuracy=worse)))
    assert few.outcome == "inconclusive"
    assert few.needed == "The baseline has too few images of it to tell (200)."
    # Of pairs, both audits have to have them.
    pairs = only(checked(policy_of(rule), Made(accuracy=(0.84, 0.9, 0.9)), Made()))
    n = int(pairs.needed.split()[1])
    assert "in both audits would tell (here 200)" in pairs.needed
    more = Made(n=n)
    report = checked(policy_of(rule, baseline=more), more.but(accuracy=(0.84, 0.9, 0.9)), more)
    assert only(report).outcome == "failed"
    # Of a baseline of enough images, it is this audit that has too few.
    large = policy_of(rule, baseline=Made(n=4000))
    few = only(checked(large, Made(accuracy=worse)))
    n = int(few.needed.split()[1])
    assert "images of it would tell (here 200)" in few.needed
    assert only(checked(large, Made(n=n, accuracy=worse))).outcome == "failed"
    assert only(checked(large, Made(n=n // 2, accuracy=worse))).outcome == "missing"


def test_expired_rules_are_held_no_more() -> None:
    worse = Made(accuracy=(0.5, 0.9, 0.9))
    old = {"kind": "accuracy", "may_worsen_by": 0.05, "expires": date(2026, 11, 21)}
    other = {"kind": "flip", "may_worsen_by": 0.05}
    report = checked(policy_of(old, other), worse)
    assert report.exit_code == 0
    assert any("Expired" in note for note in report.notes)
    with pytest.raises(SettingsError, match="Every rule of the policy has expired"):
        checked(policy_of(old), worse)
    today = checked(policy_of({**old, "expires": TODAY}), worse)
    assert today.exit_code == 1


def test_other_numerics_widen_and_say_so_or_end_with_2() -> None:
    other = Made(device="cuda", accuracy=(0.9, 0.9, 0.9))
    policy = policy_of({"kind": "accuracy", "may_worsen_by": 0.05})
    report = checked(policy, other)
    assert only(report).tolerance == pytest.approx(0.06)
    assert any("widened by 0.01" in note for note in report.notes)
    assert {each.what for each in report.differences} == {"device"}
    few = policy_of({"kind": "accuracy", "may_worsen_by": 0.05}, baseline=Made(n=40))
    assert only(checked(few, other.but(n=40))).tolerance == pytest.approx(0.075)
    with pytest.raises(ResultError, match="computed otherwise"):
        checked(policy, other, strict_numerics=True)
    assert checked(policy, Made(), strict_numerics=True).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"names": ("horse", "ship", "toad")}, "classes are not those"),
        ({"settings": {"kept_share": 0.1}}, "kept share"),
        ({"settings": {"response": "cross-entropy"}}, "response"),
        ({"settings": {"clip": True}}, "clip"),
    ],
)
def test_different_data_or_meaning_is_never_compared(changes: dict[str, Any], what: str) -> None:
    policy = policy_of({"kind": "accuracy", "may_worsen_by": 0.05})
    with pytest.raises(ResultError, match=what):
        checked(policy, Made(**changes))


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "accuracy", "may_worsen_by": 0.05, "class": "hrose"},
        {"kind": "ood_accuracy", "may_worsen_by": 0.05},
        {"kind": "ood_accuracy", "at_least": 0.05, "together": True},
    ],
)
def test_a_rule_about_nothing_is_an_error(rule: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="about nothing"):
        checked(policy_of(rule), Made())


def test_a_relative_rule_without_a_baseline_is_an_error() -> None:
    with pytest.raises(SettingsError, match="need a baseline"):
        checked(policy_of({"kind": "accuracy", "may_worsen_by": 0.05}, baseline=None), Made())


def test_what_is_not_measured_is_incomplete_never_passed() -> None:
    lacking = Made(ood=SETS)
    policy = policy_of({"kind": "ood_accuracy", "may_worsen_by": 0.05}, baseline=lacking)
    report = checked(policy, Made())
    assert report.exit_code == 3
    assert {check.outcome for check in report.checks} == {"missing"}
    unjudged = Made(verdicts=("not judged", "no shortcut", "no shortcut"))
    report = checked(policy_of({"kind": "verdict", "may_worsen_by": 0.05}), unjudged)
    assert report.exit_code == 3
    assert only(report).outcome == "missing"
    # Something that surely failed is worse than something missing.
    both = policy_of(
        {"kind": "ood_accuracy", "may_worsen_by": 0.05},
        {"kind": "accuracy", "may_worsen_by": 0.05},
        baseline=lacking,
    )
    assert checked(both, Made(accuracy=(0.5, 0.9, 0.9))).exit_code == 1


def test_too_few_images_to_ever_fail_is_no_pass() -> None:
    tiny = Made(n=4)
    report = checked(policy_of({"kind": "accuracy", "may_worsen_by": 0.05}, baseline=tiny), tiny)
    assert {check.outcome for check in report.checks} == {"missing"}
    assert report.exit_code == 3
    # Of a rule that only warns, it is one doubt among others.
    warns = policy_of({"kind": "accuracy", "may_worsen_by": 0.05, "severity": "warn"}, baseline=tiny)
    report = checked(warns, tiny)
    assert {check.outcome for check in report.checks} == {"inconclusive"}
    assert "no change could be told from chance" in only(report).reason
    assert report.exit_code == 0
    policy, notes = frozen_policy(made_audit(tiny), TODAY)
    assert [rule.name for rule in policy.rules] == ["accuracy over all classes"]
    assert any(note.startswith("No rule about verdict") for note in notes)


def test_p_is_adjusted_over_all_classes_and_rules() -> None:
    worse = Made(accuracy=(0.77, 0.9, 0.9))
    rule = {"kind": "accuracy", "may_worsen_by": 0.01}
    alone = only(checked(policy_of({**rule, "class": "horse"}), worse))
    among = only(
        checked(policy_of(rule, {"kind": "flip", "may_worsen_by": 0.01}), worse), rule="accuracy"
    )
    assert alone.p_value == among.p_value
    assert alone.p_adjusted == alone.p_value
    assert among.p_adjusted == pytest.approx(6 * (alone.p_value or 0))


def test_other_images_or_searches_are_told() -> None:
    policy = policy_of({"kind": "accuracy", "may_worsen_by": 0.05})
    report = checked(policy, Made(first=1), Made())
    assert any("other images" in note for note in report.notes)
    assert not only(report).paired
    assert only(checked(policy, Made(), Made())).paired


def test_a_class_that_was_not_searched_is_missing_where_a_limit_is_about_it() -> None:
    result = made_audit(PLANTED)
    kept = {
        finding.measure: finding.model_copy(update={"by_class": finding.by_class[1:]})  # type: ignore[union-attr]
        for finding in result.findings
        if finding.measure in ("shortcuts", "dominant_frequencies")
    }
    findings = tuple(kept.get(finding.measure, finding) for finding in result.findings)
    subset = result.model_copy(update={"findings": findings}).with_arrays(result.arrays)
    limits = parse_policy({"rule": [{"kind": "flip", "at_most": 0.1}]}, "The policy")
    assert check_gate(result, limits, today=TODAY).exit_code == 1
    report = check_gate(subset, limits, today=TODAY)
    assert only(report).outcome == "missing"
    assert report.exit_code == 3


def test_many_rules_about_numbers_do_not_hide_a_new_shortcut() -> None:
    verdict = {"kind": "verdict", "may_worsen_by": 0.1}
    many = [{"kind": "accuracy", "name": f"a{n}", "may_worsen_by": 0.3} for n in range(200)]
    alone, among = (
        only(checked(policy_of(verdict, *more), PLANTED), rule="verdict") for more in ([], many)
    )
    assert alone.p_adjusted is not None
    assert among.p_adjusted == pytest.approx(2 * alone.p_adjusted)


def test_brackets_in_names_of_classes_stand_for_themselves() -> None:
    named = Made(names=("horse [brown]", "ship", "frog"))
    policy = policy_of(
        {"kind": "accuracy", "at_least": 0.5, "class": "horse [brown]"},
        {"name": "b", "kind": "accuracy", "at_least": 0.5, "class": "*[brown]"},
        baseline=None,
    )
    assert {check.class_name for check in checked(policy, named).checks} == {"horse [brown]"}
    with pytest.raises(SettingsError, match="about nothing"):
        checked(
            policy_of({"kind": "accuracy", "at_least": 0.5, "class": "[hsf]*"}, baseline=None), Made()
        )


def test_a_debt_of_no_class_is_told() -> None:
    policy = frozen(PLANTED)
    slip = policy.debts[0].model_copy(update={"class_name": "hrse"})
    report = checked(policy.model_copy(update={"debts": (slip,)}), PLANTED)
    assert report.exit_code == 1
    assert any("'hrse'" in note for note in report.notes)


def test_a_class_that_the_other_set_never_had_is_not_missing_there() -> None:
    sets = {"there": (0.8, 0.8, None)}
    policy, report = frozen(Made(ood=sets)), checked(frozen(Made(ood=sets)), Made(ood=sets))
    assert report.exit_code == 0
    assert {c.class_name for c in report.checks if c.set == "there"} == {"horse", "ship"}
    # One that it had is.
    had = frozen(Made(ood=SETS))
    assert checked(had, Made(ood=sets)).exit_code == 3
    assert len(policy.rules) == len(had.rules)


def test_an_open_verdict_with_a_score_that_rose_is_no_pass() -> None:
    rule = {"kind": "verdict", "may_worsen_by": 0.1}
    opened = Made(turned=(0.6, 0.02, 0.02), verdicts=("inconclusive", "no shortcut", "no shortcut"))
    check = only(checked(policy_of(rule), opened))
    assert check.outcome == "inconclusive"
    assert "its verdict is open now, and its score changed by +58 points" in check.reason
    assert only(checked(policy_of(rule, baseline=opened), opened)).outcome == "passed"


def test_no_interval_goes_beyond_what_a_share_can_be() -> None:
    check = only(
        checked(policy_of({"kind": "flip", "may_worsen_by": 0.1}), Made(turned=(1.0, 0.02, 0.02)))
    )
    assert check.high is not None
    assert check.high <= 1.0


@pytest.mark.parametrize("named", [False, True])
def test_a_limit_does_not_forget_a_class_or_a_set_that_is_gone(named: bool) -> None:
    before = Made(n=400, ood={"a": (0.3, 0.9, 0.9), "b": (0.9, 0.9, 0.9)})
    policy = policy_of({"kind": "ood_accuracy", "at_least": 0.2}, baseline=before)
    for sets, gone in (({"a": (None, 0.9, 0.9), "b": (0.9,) * 3}, 1), ({"a": (0.3, 0.9, 0.9)}, 3)):
        report = checked(policy, before.but(ood=sets), before if named else None)
        assert report.exit_code == 3
        assert sum(check.outcome == "missing" for check in report.checks) == gone


@pytest.mark.parametrize("asked", [{"may_worsen_by": 0.05}, {"at_least": 0.7}])
def test_all_classes_as_one_are_all_that_the_baseline_had(asked: dict[str, float]) -> None:
    """The others fell, and it does not show, since the worst one is gone."""
    before, now = Made(n=400, ood={"x": (0.9, 0.9, 0.5)}), Made(n=400, ood={"x": (0.75, 0.75, None)})
    check = only(
        checked(policy_of({"kind": "ood_accuracy", "together": True, **asked}, baseline=before), now),
        None,
    )
    assert check.outcome == "missing"
    assert "the baseline had images of frog there" in check.reason
