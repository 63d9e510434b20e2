"""Policies on disk: read back as they were written, refused with the right word where they are wrong."""

from __future__ import annotations

import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from audited import Made, made_audit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortcut_audit.errors import SettingsError
from shortcut_audit.gate.freeze import frozen_policy
from shortcut_audit.gate.policy import Debt, Policy, Rule, policy_schema
from shortcut_audit.gate.policy_file import find_policy, parse_policy, read_policy
from shortcut_audit.gate.policy_text import policy_text

TODAY = date(2026, 11, 22)
RULE: dict[str, Any] = {"kind": "accuracy", "may_worsen_by": 0.05}

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
# At the ends a rule could never fail.
shares = st.floats(0, 1, allow_nan=False, exclude_min=True, exclude_max=True)
days = st.dates(date(2000, 1, 1), date(2100, 1, 1))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    kind = draw(st.sampled_from(["accuracy", "flip", "verdict", "ood_accuracy", "reliability"]))
    limit = {
        "accuracy": "at_least",
        "ood_accuracy": "at_least",
        "reliability": "at_least",
        "flip": "at_most",
    }
    values: dict[str, Any] = {"kind": kind, "name": draw(names), "comment": draw(names)}
    if kind == "verdict" and draw(st.booleans()):
        values["may_be"] = ("no shortcut", "inconclusive")
    elif kind in limit and draw(st.booleans()):
        values[limit[kind]] = draw(shares)
    else:
        values["may_worsen_by"] = draw(shares)
    if draw(st.booleans()):
        values["class"] = draw(st.lists(names, min_size=1, max_size=3))
    elif kind in ("accuracy", "ood_accuracy"):
        values["together"] = draw(st.booleans())
    if kind == "ood_accuracy":
        values["set"] = draw(names)
    if kind in ("verdict", "flip"):
        values["band"] = draw(st.sampled_from(["low", "high", None]))
    values["severity"] = draw(st.sampled_from(["fail", "warn"]))
    values["on_inconclusive"] = draw(st.sampled_from(["fail", "pass", None]))
    values["ratchet"] = draw(st.booleans())
    values["expires"] = draw(st.none() | days)
    return Rule.model_validate(values)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    held = draw(st.lists(rules(), min_size=1, max_size=4, unique_by=lambda rule: rule.name))
    debts = [
        Debt.model_validate(
            {
                "class": name,
                "rule": draw(st.sampled_from(held)).name,
                "reason": draw(names),
                "date": draw(days),
                "expires": draw(st.none() | days),
            }
        )
        for name in draw(st.lists(names, max_size=3, unique=True))
    ]
    own = draw(st.lists(names, min_size=3, max_size=3, unique=True))
    made = Made(names=(own[0], own[1], own[2]), ood={draw(names): (0.5, 0.25, 1.0)}, model=draw(names))
    baseline = frozen_policy(made_audit(made), TODAY)[0].baseline if draw(st.booleans()) else None
    return Policy.model_validate(
        {
            "rule": held,
            "debt": debts,
            "significance": draw(st.floats(1e-6, 0.05)),
            "on_inconclusive": draw(st.sampled_from(["fail", "warn", "pass"])),
            "data": draw(st.sampled_from(["same", "any"])),
        }
    ).with_baseline(baseline)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies(), st.lists(names, max_size=2))
def test_a_policy_is_read_back_as_it_was_written(policy: Policy, notes: list[str]) -> None:
    text = policy_text(policy, notes)
    assert parse_policy(tomllib.loads(text), "It") == policy
    assert policy_text(policy, notes) == text


def test_a_frozen_policy_is_readable_and_the_same_twice() -> None:
    policy, notes = frozen_policy(made_audit(), TODAY)
    text = policy_text(policy, notes)
    assert text == policy_text(*frozen_policy(made_audit(), TODAY))
    assert all(len(line) < 120 or line.startswith(("#", "settings")) for line in text.splitlines())
    assert "# ---- Rules" in text
    assert 'name = "horse"' in text


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"rule": [{**RULE, "may_worsen": 0.1}]}, "did you mean may_worsen_by?"),
        ({"rule": [{**RULE, "clas": "a"}]}, "did you mean class?"),
        ({"rules": [RULE]}, "did you mean rule?"),
        ({"rule": [RULE], "debt": [{"clss": "a"}]}, "did you mean class?"),
        ({"rule": [RULE], "on_inconclusiv": "fail"}, "did you mean on_inconclusive?"),
        ({"rule": [{"kind": "acuracy", "may_worsen_by": 0.1}]}, "did you mean accuracy?"),
        ({"rule": [{"kind": "tpr", "may_worsen_by": 0.1}]}, "tpr_kept"),
        ({"rule": [{"kind": "accuracy"}]}, "exactly one of"),
        ({"rule": [{**RULE, "at_least": 0.5}]}, "exactly one of"),
        ({"rule": [{"kind": "accuracy", "at_most": 0.5}]}, "at_most is not for accuracy"),
        ({"rule": [{"kind": "flip", "at_least": 0.5}]}, "at_least is not for flip"),
        ({"rule": [{**RULE, "band": "mid"}]}, "band is for"),
        ({"rule": [{**RULE, "set": "a"}]}, "set is for"),
        ({"rule": [{**RULE, "together": True, "class": "a"}]}, "leave class out"),
        ({"rule": [{"kind": "flip", "may_worsen_by": 0.1, "together": True}]}, "together is for"),
        ({"rule": [RULE, RULE]}, "two rules are called 'accuracy'"),
        ({"rule": []}, "at least 1 item"),
        ({}, "rule is missing"),
        ({"rule": [{**RULE, "may_worsen_by": float("nan")}]}, "finite"),
        ({"rule": [{**RULE, "may_worsen_by": True}]}, "valid number"),
        ({"rule": [{**RULE, "may_worsen_by": "0.1"}]}, "valid number"),
        ({"rule": [{**RULE, "may_worsen_by": 1.5}]}, "less than or equal to 1"),
        ({"rule": [{**RULE, "may_worsen_by": -0.1}]}, "greater than or equal to 0"),
        ({"rule": [RULE], "significance": 0.5}, "less than or equal to 0.05"),
        ({"rule": [RULE], "significance": 0}, "greater than or equal to 0.000001"),
        (
            {"rule": [RULE], "debt": [{"class": "a", "rule": "b", "reason": "c", "date": TODAY}]},
            "names the rule 'b'",
        ),
        ({"rule": [{**RULE, "together": "yes"}]}, "valid boolean"),
        ({"rule": [{**RULE, "expires": 20270331}]}, "valid date"),
        ({"rule": [{**RULE, "expires": "2027-03-31"}]}, "valid date"),
        ({"rule": [RULE], "baseline_sha256": "0"}, "[baseline] is missing"),
        ({"rule": [RULE], "format": True}, "it has to be a number"),
        ({"rule": [{**RULE, "name": ""}]}, "it must not be empty"),
        ({"rule": [{**RULE, "may_worsen_by": 1.0}]}, "could never fail"),
        ({"rule": [{"kind": "accuracy", "at_least": 0.0}]}, "could never fail"),
        (
            {
                "rule": [
                    {
                        "kind": "verdict",
                        "may_be": ["shortcut", "no shortcut", "inconclusive", "not judged"],
                    }
                ]
            },
            "could never fail",
        ),
        ({"rule": [{**RULE, "class": 3}]}, "it has to be a list"),
        ({"rule": [RULE], "format": 2}, "has format 2"),
        ({"rule": [RULE], "format": "1"}, "format"),
        (["rule"], "as a whole"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(entries: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_policy(entries, "The policy")
    assert told in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("rule", "faults"),
    [
        (
            {**RULE, "may_worsen": 1},
            "rule 1 (accuracy).may_worsen is not known (did you mean may_worsen_by?).",
        ),
        (
            {"kind": "accuracy", "at_least": float("nan")},
            "rule 1 (accuracy).at_least: input should be a finite number.",
        ),
    ],
)
def test_one_fault_is_told_once(rule: Any, faults: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_policy({"rule": [rule]}, "It")
    assert caught.value.problem == f"It does not hold: {faults}"


def test_a_fault_says_which_rule_it_is_in() -> None:
    with pytest.raises(SettingsError, match=r"rule 2 \(recall\)\.may_worsen is not known"):
        parse_policy({"rule": [RULE, {**RULE, "name": "recall", "may_worsen": 1}]}, "It")


def test_policies_are_found_here_or_in_the_project(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no policy here"):
        find_policy(tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'a'\n")
    with pytest.raises(SettingsError, match="no policy here"):
        find_policy(tmp_path)
    with pytest.raises(SettingsError, match=r"no table \[tool.shortcut_audit.gate\]"):
        read_policy(project)
    project.write_text("[[tool.shortcut_audit.gate.rule]]\nkind = 'flip'\nmay_worsen_by = 0.125\n")
    assert find_policy(tmp_path) == project
    assert read_policy(project).rules[0].may_worsen_by == 0.125
    own = tmp_path / "gate.toml"
    own.write_text(policy_text(read_policy(project)))
    assert find_policy(tmp_path) == own
    assert read_policy(own) == read_policy(project)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"rule = [", b"[[rule]]\n", b"rule = 3\n"])
def test_damaged_policies_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gate.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError):
        read_policy(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_policy(tmp_path / "other.toml")


def test_a_policy_cut_short_anywhere_is_refused() -> None:
    policy, notes = frozen_policy(made_audit(), TODAY)
    text = policy_text(policy, notes)
    lines = text.splitlines(keepends=True)
    last_rule = max(n for n, line in enumerate(lines) if line == "[[rule]]\n")
    baseline = lines.index("[baseline]\n")
    assert last_rule < baseline
    for n in range(len(lines)):
        with pytest.raises((SettingsError, tomllib.TOMLDecodeError)):
            parse_policy(tomllib.loads("".join(lines[:n])), "It")
    assert parse_policy(tomllib.loads(text), "It") == policy


def test_a_baseline_that_was_changed_is_refused() -> None:
    policy, notes = frozen_policy(made_audit(), TODAY)
    text = policy_text(policy, notes)
    for before, after in (
        ("accuracy = [180, 200]", "accuracy = [181, 200]"),
        ('"device" = "cpu"', '"device" = "cpv"'),
        (f'baseline_sha256 = "{policy.baseline_sha256}"\n', ""),
    ):
        assert before in text
        with pytest.raises(SettingsError, match="baseline"):
            parse_policy(tomllib.loads(text.replace(before, after, 1)), "It")


def test_the_schema_takes_what_the_reader_takes() -> None:
    schema = policy_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    policy, _ = frozen_policy(made_audit(Made(ood={"there": (0.5, 0.5, 0.5)})), TODAY)
    content = json.loads(json.dumps(tomllib.loads(policy_text(policy)), default=str))
    jsonschema.validate(content, schema)
    jsonschema.validate({"rule": [{**RULE, "class": "ship"}, {**RULE, "class": ["a", "b"]}]}, schema)
    for wrong in ({"may_worsen": 1}, {"at_least": 0.5}, {"class": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"rule": [{**RULE, **wrong}]}, schema)
