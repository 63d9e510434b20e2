"""What must not get worse: rules, known debts, and the numbers that they are held against.

All of it is one frozen model: the TOML file, `[tool.shortcut_audit.gate]` and the JSON schema are this.
"""

from __future__ import annotations

import json
from datetime import date
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shortcut_audit.results.run_numbers import RunNumbers
from shortcut_audit.results.shortcut_findings import Verdict

__all__ = [
    "POLICY_FORMAT",
    "Debt",
    "Kind",
    "OnInconclusive",
    "Policy",
    "Rule",
    "Severity",
    "baseline_digest",
    "is_named",
    "policy_schema",
]

POLICY_FORMAT = 1

Kind = Literal[
    "verdict", "strength", "flip", "accuracy", "ood_accuracy", "tpr_kept", "fpr_kept", "reliability"
]
Severity = Literal["fail", "warn"]
OnInconclusive = Literal["fail", "warn", "pass"]
# The side on which a number is bad.
_TOO_MUCH = ("flip", "tpr_kept", "fpr_kept")
_OF_VERDICTS = ("verdict", "strength", "flip")
_OF_ALL = ("accuracy", "ood_accuracy")
# Strict, so that `true` is no share of 1, and a number no day.
Day = Annotated[date, Field(strict=True)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


_ASKED = ("may_worsen_by", "at_most", "at_least", "may_be")


def _as_it_is_read(schema: dict[str, Any]) -> None:
    """Of what a rule may ask for, exactly one (TOML has no null that would be none); a single name needs
    no list."""
    schema["oneOf"] = [{"required": [name]} for name in _ASKED]
    for name in ("class", "set"):
        own = schema["properties"][name]
        many = {key: own.pop(key) for key in ("items", "minItems", "type") if key in own}
        own["anyOf"] = [{"type": "string"}, many]


class Rule(_Closed):
    """One thing that must hold of every class it is about.

    Exactly one of `may_worsen_by`, `at_most`, `at_least` and `may_be`.
    """

    model_config = ConfigDict(json_schema_extra=_as_it_is_read)

    kind: Annotated[Kind, Field(description="What is held: a verdict, or a number of a class.")]
    name: Annotated[str, Field(min_length=1, description="What reports call it. [default: its kind]")] = (
        ""
    )
    may_worsen_by: Annotated[
        Share | None,
        Field(description="Tolerance against the baseline, as a share; of verdicts, of their score."),
    ] = None
    at_most: Annotated[Share | None, Field(description="Limit of flip, tpr_kept and fpr_kept.")] = None
    at_least: Annotated[
        Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=True)] | None,
        Field(description="Limit of accuracy, ood_accuracy, reliability and strength."),
    ] = None
    may_be: Annotated[
        tuple[Verdict, ...] | None,
        Field(min_length=1, description="Verdicts that a class may have, whatever the baseline."),
    ] = None
    classes: Annotated[
        tuple[str, ...],
        Field(
            alias="class",
            min_length=1,
            description="Names of classes, with * and ? as wildcards.",
        ),
    ] = ("*",)
    together: Annotated[
        bool, Field(strict=True, description="All classes as one, of accuracy and ood_accuracy.")
    ] = False
    band: Annotated[
        Literal["low", "mid", "high", "all"] | None,
        Field(description="Only where the verdict's orbits lie in this band."),
    ] = None
    sets: Annotated[
        tuple[str, ...],
        Field(
            alias="set",
            min_length=1,
            description="Names of other sets, of ood_accuracy.",
        ),
    ] = ("*",)
    severity: Annotated[Severity, Field(description="Whether it fails, or only warns.")] = "fail"
    on_inconclusive: Annotated[
        OnInconclusive | None, Field(description="As for the policy, for this rule alone.")
    ] = None
    ratchet: Annotated[
        bool, Field(strict=True, description="Whether `gate update` may make it stricter.")
    ] = True
    expires: Annotated[Day | None, Field(description="Last day on which it counts.")] = None
    comment: str = ""

    @field_validator("classes", "sets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _named_by_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("kind"), str):
            return {**data, "name": data["kind"]}
        return data

    @model_validator(mode="after")
    def _holds(self) -> Rule:
        given = [name for name in _ASKED if getattr(self, name) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise ValueError(
                f"it needs exactly one of may_worsen_by, at_most, at_least and may_be (here: {told})"
            )
        allowed = {"may_worsen_by", "may_be" if self.kind == "verdict" else self.bad_side}
        if given[0] not in allowed:
            raise ValueError(f"{given[0]} is not for {self.kind}; {' or '.join(sorted(allowed))} is")
        if self.band is not None and self.kind not in _OF_VERDICTS:
            raise ValueError(f"band is for {', '.join(_OF_VERDICTS)}")
        if self.together and self.kind not in _OF_ALL:
            raise ValueError(f"together is for {', '.join(_OF_ALL)}")
        if self.together and self.classes != ("*",):
            raise ValueError("together is of all classes; leave class out")
        if self.sets != ("*",) and self.kind != "ood_accuracy":
            raise ValueError("set is for ood_accuracy")
        worst = {"may_worsen_by": 1.0, "at_most": 1.0}.get(
            given[0], -1.0 if self.kind == "reliability" else 0.0
        )
        if self.may_be is None and getattr(self, given[0]) in (worst, -1.0):
            raise ValueError(f"with {given[0]} = {getattr(self, given[0]):g} it could never fail")
        if self.may_be is not None and set(get_args(Verdict)) <= set(self.may_be):
            raise ValueError("with every verdict in may_be it could never fail")
        return self

    @property
    def bad_side(self) -> str:
        """The limit that this kind may have."""
        return "at_most" if self.kind in _TOO_MUCH else "at_least"

    @property
    def limit(self) -> float | None:
        """The limit, of a rule that has one."""
        return self.at_most if self.at_most is not None else self.at_least

    @property
    def relative(self) -> bool:
        """Whether it is held against a baseline."""
        return self.may_worsen_by is not None

    def is_about(self, class_name: str) -> bool:
        """Whether a class is among its `classes`."""
        return any(is_named(class_name, pattern) for pattern in self.classes)

    def is_about_set(self, name: str) -> bool:
        """Whether a set is among its `sets`."""
        return any(is_named(name, pattern) for pattern in self.sets)


class Debt(_Closed):
    """Something known to be bad, that does not fail until it `expires`."""

    class_name: Annotated[str, Field(alias="class", description="The class, by its exact name.")]
    rule: Annotated[str, Field(description="Name of the rule that it breaks.")]
    reason: Annotated[str, Field(min_length=1, description="Why it is accepted.")]
    since: Annotated[Day, Field(alias="date", description="When it was accepted.")]
    expires: Annotated[Day | None, Field(description="Last day on which it is accepted.")] = None


class Policy(_Closed):
    """Rules, known debts, and the baseline in numbers."""

    format: Annotated[Literal[1], Field(description="Format number of the policy.")] = 1
    significance: Annotated[
        float,
        Field(
            ge=1e-6,
            le=0.05,
            strict=True,
            description="Chance of any false failure in one check, over all rules and classes.",
        ),
    ] = 0.005
    on_inconclusive: Annotated[
        OnInconclusive,
        Field(description="What becomes of changes over the tolerance that too few images show."),
    ] = "warn"
    data: Annotated[
        Literal["same", "any"],
        Field(description="Whether images have to be drawn from the baseline's data."),
    ] = "same"
    baseline_sha256: Annotated[
        str, Field(description="Digest of [baseline]: what is cut short or changed is told by it.")
    ] = ""
    rules: Annotated[tuple[Rule, ...], Field(alias="rule", min_length=1)]
    debts: Annotated[tuple[Debt, ...], Field(alias="debt")] = ()
    baseline: Annotated[
        RunNumbers | None, Field(description="The audit it was frozen from, in numbers.")
    ] = None

    @field_validator("format", mode="before")
    @classmethod
    def _a_number(cls, value: Any) -> Any:
        # To Python, true is 1.
        if isinstance(value, bool):
            raise ValueError("it has to be a number")
        return value

    @model_validator(mode="after")
    def _names_hold(self) -> Policy:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules are called {twice[0]!r}; give each a name of its own")
        for debt in self.debts:
            if debt.rule not in names:
                raise ValueError(
                    f"the debt of {debt.class_name!r} names the rule {debt.rule!r}, which is not there"
                )
        keys = [(debt.class_name, debt.rule) for debt in self.debts]
        if len(set(keys)) < len(keys):
            raise ValueError("a class has two debts of one rule")
        return self

    @model_validator(mode="after")
    def _baseline_whole(self) -> Policy:
        told = "" if self.baseline is None else baseline_digest(self.baseline)
        if self.baseline_sha256 != told:
            what = "is missing" if self.baseline is None else "is not what was frozen"
            raise ValueError(
                f"[baseline] {what}, as baseline_sha256 says; freeze it anew with `gate init`"
            )
        return self

    def with_baseline(self, numbers: RunNumbers | None) -> Policy:
        """The same rules over other numbers."""
        told = "" if numbers is None else baseline_digest(numbers)
        return self.model_copy(update={"baseline": numbers, "baseline_sha256": told})

    def debt_of(self, class_name: str | None, rule: str) -> Debt | None:
        """The debt of a class under a rule."""
        return next((d for d in self.debts if d.class_name == class_name and d.rule == rule), None)


def baseline_digest(numbers: RunNumbers) -> str:
    """Digest of a baseline in numbers, however a file lays them out.

    Without what has its default: a field that a later version adds leaves older baselines whole.
    """
    found = numbers.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(found, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def is_named(name: str, pattern: str) -> bool:
    """Whether a pattern, with * and ? as wildcards, is one of `name`; brackets stand for themselves."""
    return pattern == name or fnmatchcase(name, pattern.replace("[", "[[]"))


def policy_schema() -> dict[str, Any]:
    """JSON schema of a policy."""
    schema = Policy.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
