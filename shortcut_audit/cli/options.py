"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from shortcut_audit.errors import SettingsError

__all__ = [
    "parse_batch_size",
    "parse_counts",
    "parse_named",
    "parse_names",
    "parse_numbers",
    "parse_resolution",
    "parse_size",
    "read_names",
    "refuse_nesting",
]


def refuse_nesting(data: str, out: Path, option: str = "data") -> None:
    """Raise SettingsError for an output folder among the images, where it would count as a class."""
    folder = Path(data.partition("::")[0])
    if folder.is_dir() and out.absolute().is_relative_to(folder.absolute()):
        raise SettingsError(
            f"--out {out} lies inside --{option} {folder}, and would be taken for a class of images.",
            "Choose an --out folder elsewhere.",
        )


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`N` or `HxW` as (H, W). Raises SettingsError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(re.fullmatch("[1-9][0-9]{0,5}", part) for part in parts):
        raise SettingsError(f"--size {text!r} is not a size.", "For example: --size 224 or 192x256.")
    return int(parts[0]), int(parts[-1])


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """Class names with commas between. Raises SettingsError."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise SettingsError(f"--classes {text!r} has an empty name.", "For example: --classes cat,dog")
    return names


def parse_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Values of `--mean` or `--std`, one or one a channel. Raises SettingsError."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(
            f"--{name} {text!r} is not a list of numbers.",
            f"For example: --{name} 0.485,0.456,0.406",
        ) from None
    if name == "std" and not all(value > 0 for value in values):
        raise SettingsError(
            f"--std {text!r} has a value that is not positive.", "For example: --std 0.229,0.224,0.225"
        )
    return values


def parse_named(option: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE of an option that may be repeated, by name. Raises SettingsError."""
    found: dict[str, str] = {}
    for text in texts:
        name, is_there, value = (part.strip() for part in text.partition("="))
        if not (name and is_there and value):
            raise SettingsError(
                f"--{option} {text!r} is not NAME=VALUE.",
                f"For example: --{option} sketches=photos/drawn",
            )
        if not name.isprintable():
            raise SettingsError(
                f"--{option} {text!r} has a name that cannot be printed.", "Name it in plain letters."
            )
        if name in found:
            raise SettingsError(f"--{option} names {name!r} twice.", "Give each a name of its own.")
        found[name] = value
    return found


def parse_counts(name: str, text: str | None, example: str) -> tuple[int, ...] | None:
    """Whole numbers above 0 with commas between, one a stage. Raises SettingsError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[1-9][0-9]{0,8}", part) for part in parts):
        raise SettingsError(
            f"--{name} {text!r} is not a list of whole numbers above 0, one a stage.",
            f"For example: --{name} {example}",
        )
    return tuple(int(part) for part in parts)


def parse_resolution(text: str) -> str:
    """What is ranked, by name; whether it fits the images is known later. Raises SettingsError."""
    if not re.fullmatch(r"auto|orbits|patches:[0-9]+|tiles:[0-9]+x[0-9]+", text):
        raise SettingsError(
            f"--resolution {text!r} is not known.",
            "Give auto, orbits, patches:SIDE or tiles:RINGSxSECTORS, as in --resolution tiles:8x12",
        )
    return text


def parse_batch_size(text: str) -> int | None:
    """A number, or None for `auto`. Raises SettingsError."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise SettingsError(
            f"--batch-size {text!r} is neither a number nor auto.", "Try --batch-size auto."
        ) from None


def read_names(path: Path | None) -> list[str] | None:
    """Names of the outputs from the file of `--output-names`, one a line. Raises SettingsError."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(
            f"--output-names {path} cannot be read: {reason}.", "Give a text file, one name a line."
        ) from error
    return [line.strip() for line in lines if line.strip()]
