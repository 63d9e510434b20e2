"""A policy as TOML that people read and change: commented, and always in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Any

from shortcut_audit.errors import printable
from shortcut_audit.gate.policy import Debt, Policy, Rule
from shortcut_audit.results.run_numbers import ClassNumbers, RunNumbers

__all__ = ["head_notes", "policy_text"]

_HEAD = """\
# What must not get worse; checked with `shortcut-audit gate check RUN` (docs/gate.md).
# A number fails when it is worse than the baseline by more than its tolerance, and surely so."""
_RULES = (
    "# ---- Rules: change tolerances and limits as you like; `gate update` only makes them stricter. ----"
)
_DEBTS = "# ---- Known debts: accepted, each with a reason; only what is not listed fails. ----"
_BASELINE = """\
# ---- The baseline in numbers, as measured: not to be changed by hand. ----
# [hits, images]; pairs are [images, both, only with the orbits, only without]."""
_WIDTH = 96


def policy_text(policy: Policy, notes: Sequence[str] = ()) -> str:
    """The file; `notes` stand in its head as comments."""
    lines = [_HEAD, *(f"# {_line(note)}" for note in notes), ""]
    lines += [
        f"format = {policy.format}",
        f"significance = {_value(policy.significance)}  # chance of any false failure in one check",
        f'on_inconclusive = "{policy.on_inconclusive}"  # fail, warn or pass where images are too few',
        f'data = "{policy.data}"  # same: images of other data are refused; any: compared all the same',
        *([f'baseline_sha256 = "{policy.baseline_sha256}"'] if policy.baseline_sha256 else []),
        "",
        _RULES,
    ]
    for rule in policy.rules:
        lines += ["", *_rule(rule)]
    lines += ["", _DEBTS]
    if not policy.debts:
        lines.append("# None.")
    for debt in policy.debts:
        lines += ["", *_debt(debt)]
    if policy.baseline is not None:
        lines += ["", _BASELINE, "", *_baseline(policy.baseline)]
    return "\n".join(lines) + "\n"


def head_notes(text: str) -> list[str]:
    """The notes in the head of a file that `policy_text` wrote."""
    head = text.split("\n\n", 1)[0].split("\n")
    return [line.removeprefix("# ") for line in head[len(_HEAD.split("\n")) :] if line.startswith("# ")]


def _line(text: str) -> str:
    """Text of one line, with control characters spelt out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in printable(text))


def _rule(rule: Rule) -> Iterator[str]:
    yield "[[rule]]"
    if rule.name != rule.kind:
        yield f"name = {_value(rule.name)}"
    yield f"kind = {_value(rule.kind)}"
    for key in ("may_worsen_by", "at_most", "at_least", "may_be"):
        if getattr(rule, key) is not None:
            yield f"{key} = {_value(getattr(rule, key))}"
    if rule.classes != ("*",):
        yield f"class = {_value(_single(rule.classes))}"
    if rule.together:
        yield "together = true"
    if rule.band is not None:
        yield f"band = {_value(rule.band)}"
    if rule.sets != ("*",):
        yield f"set = {_value(_single(rule.sets))}"
    if rule.severity != "fail":
        yield f"severity = {_value(rule.severity)}"
    if rule.on_inconclusive is not None:
        yield f"on_inconclusive = {_value(rule.on_inconclusive)}"
    if not rule.ratchet:
        yield "ratchet = false"
    if rule.expires is not None:
        yield f"expires = {_value(rule.expires)}"
    if rule.comment:
        yield f"comment = {_value(rule.comment)}"


def _debt(debt: Debt) -> Iterator[str]:
    yield "[[debt]]"
    yield f"class = {_value(debt.class_name)}"
    yield f"rule = {_value(debt.rule)}"
    yield f"reason = {_value(debt.reason)}"
    yield f"date = {_value(debt.since)}"
    if debt.expires is not None:
        yield f"expires = {_value(debt.expires)}"


def _baseline(numbers: RunNumbers) -> Iterator[str]:
    yield "[baseline]"
    for key in ("model", "model_digest", "data_digest", "n_available", "pillow"):
        yield f"{key} = {_value(getattr(numbers, key))}"
    if numbers.sketch:
        yield 'sketch = """\\'
        for start in range(0, len(numbers.sketch), _WIDTH):
            yield f"  {numbers.sketch[start : start + _WIDTH]}\\"
        yield '  """'
    for key in ("format", "tool", "sets"):
        yield f"{key} = {_value(getattr(numbers, key))}"
    yield f"numerics = {_table(numbers.numerics.model_dump())}"
    yield f"settings = {_table(dict(sorted(numbers.settings.items())))}"
    for item in numbers.classes:
        yield ""
        yield "[[baseline.classes]]"
        yield from _class(item)


def _class(item: ClassNumbers) -> Iterator[str]:
    for key, field in ClassNumbers.model_fields.items():
        value = getattr(item, key)
        if value is None or value == field.get_default(call_default_factory=True):
            continue
        if key == "curve":
            points = ", ".join(
                f"{{ share = {_value(point.share)}, flips = {_value(point.flips)} }}" for point in value
            )
            yield f"curve = [{points}]"
        elif isinstance(value, dict):
            yield f"{key} = {_table(value)}"
        else:
            yield f"{key} = {_value(value)}"


def _table(values: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{_text(key)} = {_value(value)}" for key, value in values.items()) + " }"


def _single(values: tuple[str, ...]) -> str | tuple[str, ...]:
    return values[0] if len(values) == 1 else values


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    assert isinstance(value, Iterable)
    return "[" + ", ".join(_value(each) for each in value) + "]"


def _text(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    return json.dumps(printable(value), ensure_ascii=False).replace("\x7f", "\\u007f")
