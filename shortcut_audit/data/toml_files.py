"""TOML files of the user's as validated models: one sentence for whatever is wrong in them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from shortcut_audit.errors import SettingsError

__all__ = ["read_toml", "validated"]

M = TypeVar("M", bound=BaseModel)
_PAGE = "docs/data-sets.md"


def read_toml(path: Path, model: type[M], what: str, page: str = _PAGE) -> M:
    """The file at `path` as a `model`; `what` names its kind in messages ("recipe", "plan").

    Raises SettingsError, in one sentence, when it is missing, no TOML, or does not hold.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"The {what} {path} cannot be read: {error.strerror or error}.", f"Name a {what} (TOML)."
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"The {what} {path} is not TOML: byte {error.start + 1} of it is no UTF-8 text.",
            f"Name a {what} (TOML), or save this one as UTF-8.",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The {what} {path} is not TOML: {error}.", "Mend that line.") from error
    return validated(content, model, f"The {what} {path}", page)


def validated(content: dict[str, Any], model: type[M], what: str, page: str = _PAGE) -> M:
    """`content` as a `model`. Raises SettingsError naming every fault; `what` starts the sentence."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise SettingsError(
            f"{what} does not hold: {'; '.join(_fault(each) for each in error.errors())}.",
            f"Mend it; {page} says what each entry means.",
        ) from error


def _fault(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part != "root") or "as a whole"
    message = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{where} is not known"
    return f"{where}: {message[:1].lower()}{message[1:]}"
