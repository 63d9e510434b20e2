"""Names in sentences, whatever direction they run in: no name turns the words around it."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["legible"]

# Characters that steer the direction of what follows them, be it numbers or commands.
_STEERING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# First strong isolate, and its end: what stands between has a direction of its own.
_ISOLATE, _END = "\u2068", "\u2069"
_QUOTED = re.compile("“([^”]*)”")


def legible(text: str) -> str:
    """`text` with steering characters spelt out and right-to-left names set apart.

    Names stand in “quotes” in sentences; a text without quotes is taken to be a name.

    >>> legible("a\\u202eb")
    'a\\\\u202eb'
    """
    spelt = _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if not any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in spelt):
        return spelt
    if _QUOTED.search(spelt):
        return _QUOTED.sub(lambda found: f"“{_ISOLATE}{found[1]}{_END}”", spelt)
    return f"{_ISOLATE}{spelt}{_END}"
