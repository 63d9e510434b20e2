"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path

from shortcut_audit.errors import SettingsError

__all__ = ["parse_size", "refuse_nesting"]


def refuse_nesting(data: str, out: Path) -> None:
    """Raise SettingsError for an output folder among the images, where it would count as a class."""
    folder = Path(data.partition("::")[0])
    if folder.is_dir() and out.absolute().is_relative_to(folder.absolute()):
        raise SettingsError(
            f"--out {out} lies inside --data {folder}, and would be taken for a class of images.",
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
