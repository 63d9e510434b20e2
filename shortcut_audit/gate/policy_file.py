"""Policies on disk: `gate.toml`, or `[tool.shortcut_audit.gate]` of a pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from shortcut_audit.errors import SettingsError
from shortcut_audit.gate.policy import POLICY_FORMAT, Debt, Kind, Policy, Rule
from shortcut_audit.results.run_numbers import ClassNumbers, Numerics, RunNumbers

__all__ = ["POLICY_FILE", "find_policy", "parse_policy", "read_policy"]

POLICY_FILE = "gate.toml"
_PROJECT_FILE = "pyproject.toml"
_MOST_FAULTS = 8
# What the library says of lists and texts, in the words of the file.
_PLAIN = {
    "tuple_type": "it has to be a list",
    "too_short": "it has to hold at least 1 item",
    "string_too_short": "it must not be empty",
    "model_type": "it has to be a table",
}
# Where a table of the file leads, for suggestions.
_TABLES: dict[str, type[BaseModel]] = {
    "rule": Rule,
    "debt": Debt,
    "baseline": RunNumbers,
    "numerics": Numerics,
    "classes": ClassNumbers,
}


def find_policy(folder: Path) -> Path:
    """The policy of a folder: its gate.toml, else its pyproject.toml that has a table of ours.

    Raises SettingsError where there is none.
    """
    own = folder / POLICY_FILE
    # A link to nowhere is a policy that cannot be read, and no reason to take another one.
    if own.is_symlink() or own.exists():
        return own
    project = folder / _PROJECT_FILE
    if project.is_file() and _table_of(_content(project)) is not None:
        return project
    raise SettingsError(
        f"There is no policy here: no {POLICY_FILE}, and no [tool.shortcut_audit.gate] in"
        f" {_PROJECT_FILE}.",
        f"Freeze one with `shortcut-audit gate init RUN -o {POLICY_FILE}`, or name it with --policy.",
    )


def read_policy(path: Path) -> Policy:
    """The policy in a file. Raises SettingsError, in one sentence, where it does not hold."""
    content = _content(path)
    if path.name == _PROJECT_FILE:
        table = _table_of(content)
        if table is None:
            raise SettingsError(
                f"{path} has no table [tool.shortcut_audit.gate].",
                f"Add one, or name a {POLICY_FILE} with --policy.",
            )
        content = table
    return parse_policy(content, f"The policy {path}")


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"The policy {path} cannot be read: {error.strerror or error}.",
            "Freeze one with `shortcut-audit gate init RUN`, or name another with --policy.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"The policy {path} is not TOML: {error}.", "Mend that line.") from error


def _table_of(content: dict[str, Any]) -> Any:
    """`tool.shortcut_audit.gate`, where it is there."""
    table: Any = content
    for key in ("tool", "shortcut_audit", "gate"):
        if not isinstance(table, dict) or key not in table:
            return None
        table = table[key]
    return table


def parse_policy(content: Any, what: str) -> Policy:
    """`content` as a policy; `what` starts the sentence of a SettingsError."""
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is int and found > POLICY_FORMAT:
        raise SettingsError(
            f"{what} has format {found}; this version reads up to {POLICY_FORMAT}.",
            "Upgrade shortcut-audit.",
        )
    try:
        # By the names of the file alone: `rules` is a slip of `rule` there.
        return Policy.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        faults = [_fault(each, content) for each in _own(error.errors())]
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise SettingsError(
            f"{what} does not hold: {'; '.join(faults[:_MOST_FAULTS])}{more}.",
            "Mend it; docs/gate.md says what each entry means, `shortcut-audit gate schema` prints it.",
        ) from error


def _own(faults: list[Any]) -> list[Any]:
    """Faults without those that only follow from others: a list is too short for its faulty items, and
    a number that is none is also no share."""
    found, places = [], set()
    for fault in faults:
        within = any(
            other["loc"][: len(fault["loc"])] == fault["loc"] for other in faults if other != fault
        )
        if (fault["type"] == "too_short" and within) or fault["loc"] in places:
            continue
        places.add(fault["loc"])
        found.append(fault)
    return found


def _fault(fault: Any, content: Any) -> str:
    loc = list(fault["loc"])
    where = ".".join(_steps(loc, content)) or "as a whole"
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(str(loc[-1]), _known_at(loc[:-1]), n=1, cutoff=0.5)
        return f"{where} is not known" + (f" (did you mean {near[0]}?)" if near else "")
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] == "literal_error" and loc and loc[-1] == "kind":
        near = get_close_matches(str(fault["input"]), get_args(Kind), n=1, cutoff=0.5)
        told = f" (did you mean {near[0]}?)" if near else ""
        return (
            f"{where}: {fault['input']!r} is no kind of rule{told}; there are {', '.join(get_args(Kind))}"
        )
    if fault["type"] in _PLAIN:
        return f"{where}: {_PLAIN[fault['type']]}"
    message = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{where}: {message[:1].lower()}{message[1:]}"


def _steps(loc: list[Any], content: Any) -> Iterator[str]:
    """Entries on the way to a fault: `rule 2 (accuracy)`, by the number people count and its name."""
    for place, step in enumerate(loc):
        if isinstance(step, int):
            continue
        number = loc[place + 1] if place + 1 < len(loc) else None
        if not isinstance(number, int):
            yield str(step)
            continue
        name = None
        if place == 0 and isinstance(content, dict) and isinstance(content.get(step), list | tuple):
            entry = content[step][number] if number < len(content[step]) else None
            name = (entry.get("name") or entry.get("kind")) if isinstance(entry, dict) else None
        yield f"{step} {number + 1}" + (f" ({name})" if isinstance(name, str) else "")


def _known_at(loc: list[Any]) -> list[str]:
    tables = [step for step in loc if isinstance(step, str) and step in _TABLES]
    model = _TABLES[tables[-1]] if tables else Policy
    return [field.alias or name for name, field in model.model_fields.items()]
