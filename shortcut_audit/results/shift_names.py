"""Shifts as people write them: `jpeg:1-5,haze`, and the names that they come to, `jpeg-3`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from shortcut_audit.errors import SettingsError

__all__ = ["ALL", "CORRUPTION_NAMES", "parse_severities", "shift_names", "split_shift"]

# What `data/corruptions.py` has; here too, because settings are read without torch.
CORRUPTION_NAMES = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "jpeg",
    "contrast",
    "brightness",
    "saturate",
    "pixelate",
    "haze",
    "elastic",
    "band_noise_1",
    "band_noise_2",
    "band_noise_3",
    "band_noise_4",
)
# Every corruption that does something to the images at hand.
ALL = "all"
_HOW = "Severities are 1 to 5, and 0 for the image as it is: 3, 1-5 or 1,3,5."
_EXAMPLE = "For example: --shift jpeg:1-5,gaussian_noise:3, or --shift all."


def parse_severities(text: str) -> tuple[int, ...]:
    """`3`, `1-5` or `1,3,5` as severities, each once, rising; 0 is the image as it is.

    Raises SettingsError for anything else.

    >>> parse_severities("1,3-5")
    (1, 3, 4, 5)
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-5])(?:\s*-\s*([0-5]))?\s*", part)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(first) > int(last):
            raise SettingsError(f"{text!r} names no severities.", _HOW)
        found.update(range(int(first), int(last) + 1))
    return tuple(sorted(found))


def shift_names(value: str | Iterable[Any] | None) -> tuple[str, ...]:
    """Shifts of an audit, `NAME-SEVERITY`, each once and in the order named.

    `value`: `jpeg:1-5,haze` or several of such, or `jpeg-3`. A name without severities has all five;
    hyphens do for underscores; `all` stands for every corruption, and is resolved once it is known
    whether images have colour. Raises SettingsError.

    >>> shift_names("jpeg:1-2,gaussian-noise:3")
    ('jpeg-1', 'jpeg-2', 'gaussian_noise-3')
    """
    if value is None:
        return ()
    parts = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if not all(isinstance(part, str) for part in parts):
        raise SettingsError(f"Shifts are names, not {value!r}.", _EXAMPLE)
    found: list[str] = []
    for text in parts:
        # A comma may also stand between severities: jpeg:1,3 goes on where no name begins.
        for part in re.split(r",(?!\s*[0-9])", text):
            name, severities = _read(part)
            found += [f"{name}-{severity}" for severity in severities]
    return tuple(dict.fromkeys(found))


def split_shift(shift: str) -> tuple[str, int]:
    """Name and severity of `jpeg-3`."""
    name, _, severity = shift.rpartition("-")
    return name, int(severity)


def _read(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and severities of one part."""
    written, colon, severities = (piece.strip() for piece in text.partition(":"))
    name = written.replace("-", "_")
    if not colon and name not in (*CORRUPTION_NAMES, ALL):
        # As results write it: jpeg-3. Names may end in a number, too: band-noise-1.
        match = re.fullmatch(r"(.+)-([0-9]+)", written)
        if match:
            name, severities = match[1].replace("-", "_"), match[2]
    _check(name)
    if colon and not severities:
        raise SettingsError(f"{text.strip()!r} names no severities.", _HOW)
    chosen = parse_severities(severities or "1-5")
    if 0 in chosen:
        raise SettingsError(
            f"{text.strip()!r} asks for severity 0; images as they are get judged in any case.",
            "Severities of --shift are 1 to 5.",
        )
    return name, chosen


def _check(name: str) -> None:
    if name in (*CORRUPTION_NAMES, ALL):
        return
    if not name:
        raise SettingsError("There is an empty name among the shifts.", _EXAMPLE)
    near = difflib.get_close_matches(name, CORRUPTION_NAMES, n=1)
    raise SettingsError(
        f"There is no corruption {name!r}{f'; {near[0]} comes near' if near else ''}.",
        f"Corruptions are: {', '.join(CORRUPTION_NAMES)}; or all.",
    )
