"""The language of masks: `band:2/4 & !angle:30-60`, as typed on a command line.

    MASK  = PART {("+" | ",") PART}        union
    PART  = ITEM {"&" ITEM}                intersection, which binds tighter
    ITEM  = "!" ITEM | "(" MASK ")" | WORD

    WORD  = band:2/4       band:2-3/4      rings of equal width, 1 = lowest; the last holds the corners
          | radius:4-8     radius:4-       radius:-8        cycles per shorter side, 4 <= r < 8
          | angle:30-60    angle:-30-30    angle:80-100     degrees, 0 = a wave along the width
          | square:0.3                     |u|, |v| up to a share of the Nyquist frequency
          | orbits:(5,9),(-11,4)           (u, v) in cycles per height and width
          | dc  | all
          | NAME:ARGUMENT                  of `loaders`, for masks that come from files

The argument of a loader runs to the next operator that stands before another word, so that names
and paths may hold commas and plus signs; in quotes it may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import (
    BoolArray,
    band_mask,
    orbit_mask,
    radial_mask,
    sector_mask,
    square_mask,
)

__all__ = ["Loader", "parse_mask"]

# loader(argument, grid)
Loader = Callable[[str, FrequencyGrid], BoolArray]

_NUMBER = r"(?:\d{1,9}(?:\.\d*)?|\.\d+)"
_RANGE = rf"(-?{_NUMBER})?\s*(?:-|\.\.)\s*(-?{_NUMBER})?"
_PAIR = r"\(\s*(-?\d{1,6})\s*,\s*(-?\d{1,6})\s*\)"
_PAIRS = re.compile(rf"{_PAIR}(?:\s*,\s*{_PAIR})*")
_MOST_NESTED = 50
_EXAMPLES = "For example: band:1/4, radius:4-8, angle:30-60, square:0.3, orbits:(5,9), !dc."


def parse_mask(text: str, grid: FrequencyGrid, loaders: Mapping[str, Loader] | None = None) -> BoolArray:
    """The orbits that `text` names, bool (n_orbits,), on `grid`; DC among them where the words hold it.

    `loaders`: further words, and how their argument becomes a mask; one for `orbits` takes what is
    no list of pairs. Raises SettingsError for text that is no mask, for words that lie outside the
    plane, and for words or a whole that hold no orbit.

    >>> grid = FrequencyGrid(32, 32)
    >>> int(parse_mask("radius:-1.2 + orbits:(5,9)", grid).sum())
    4
    """
    parser = _Parser(text, grid, dict(loaders or {}))
    chosen = parser.union(0)
    parser.skip_space()
    if parser.at < len(text):
        raise parser.refused(f"ends before {text[parser.at :]!r}")
    if not chosen.any():
        raise _hollow(text, grid)
    return chosen


def _hollow(text: str, grid: FrequencyGrid) -> SettingsError:
    return SettingsError(
        f"Mask {text!r} holds no orbit of {grid.height} x {grid.width} images.",
        f"Widen it; radii go up to {grid.radius.max():.2f} cycles per shorter side.",
    )


@dataclass
class _Parser:
    """One reading of `text`, from left to right."""

    text: str
    grid: FrequencyGrid
    loaders: dict[str, Loader]
    at: int = 0
    # Where the argument of a loader ends: an operator with another word after it, or a bracket.
    boundary: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        kinds = "|".join(sorted({*_WORDS, *self.loaders}))
        word = rf"(?:!\s*|\(\s*)*(?:(?:{kinds})\s*:|(?:dc|all)\s*(?:$|[+,&)]))"
        self.boundary = re.compile(rf"\s*(?:[+,&]\s*{word}|\)\s*(?:$|[+,&)]))", re.IGNORECASE)

    def refused(self, why: str) -> SettingsError:
        return SettingsError(f"Mask {self.text!r} cannot be read: it {why}.", _EXAMPLES)

    def skip_space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def taken(self, signs: str) -> bool:
        """Whether one of `signs` comes next; it is passed."""
        self.skip_space()
        found = self.at < len(self.text) and self.text[self.at] in signs
        self.at += found
        return found

    def union(self, depth: int) -> BoolArray:
        chosen = self.intersection(depth)
        while self.taken("+,"):
            chosen = chosen | self.intersection(depth)
        return chosen

    def intersection(self, depth: int) -> BoolArray:
        chosen = self.item(depth)
        while self.taken("&"):
            chosen = chosen & self.item(depth)
        return chosen

    def item(self, depth: int) -> BoolArray:
        flipped = False
        while self.taken("!"):
            flipped = not flipped
        if self.taken("("):
            if depth == _MOST_NESTED:
                raise self.refused(f"has more than {_MOST_NESTED} brackets in each other")
            chosen = self.union(depth + 1)
            if not self.taken(")"):
                raise self.refused("has an open bracket")
        else:
            chosen = self.word(depth)
        return ~chosen if flipped else chosen

    def word(self, depth: int) -> BoolArray:
        found = re.compile(r"\s*([A-Za-z]+)\s*(:?)\s*").match(self.text, self.at)
        if found is None:
            rest = self.text[self.at :].strip()
            raise self.refused(f"wants a mask before {rest!r}" if rest else "ends where a mask should be")
        start, kind, colon = found.start(1), found[1].lower(), found[2]
        self.at = found.end()
        if not colon:
            if kind not in {"dc", "all"}:
                raise self.refused(f"holds {found[1]!r}, which is no mask")
            return _dc(self.grid) if kind == "dc" else np.ones(self.grid.n_orbits, dtype=np.bool_)
        chosen = self.chosen_by(kind, depth, found[1])
        if not chosen.any():
            raise _hollow(self.text[start : self.at].strip(), self.grid)
        return chosen

    def chosen_by(self, kind: str, depth: int, spelling: str) -> BoolArray:
        pairs = _PAIRS.match(self.text, self.at) if kind == "orbits" else None
        if pairs is not None:
            self.at = pairs.end()
            return _orbits(pairs[0], self.grid)
        if kind in self.loaders:
            return self.loaders[kind](self.argument(depth), self.grid)
        if kind not in _WORDS:
            known = ", ".join(sorted({*_WORDS, *self.loaders}))
            raise self.refused(f"holds {spelling + ':'!r}, and there are {known}, dc and all")
        end = re.compile(r"[^+,&()!]*").match(self.text, self.at)
        assert end is not None
        self.at = end.end()
        return _WORDS[kind](end[0].strip(), self.grid)

    def argument(self, depth: int) -> str:
        """What belongs to a loader: in quotes, or up to where it can be seen to end."""
        quote = self.text[self.at : self.at + 1]
        if quote and quote in "\"'":
            end = self.text.find(quote, self.at + 1)
            if end < 0:
                raise self.refused(f"has an open quotation mark ({quote})")
            argument, self.at = self.text[self.at + 1 : end], end + 1
            return argument
        for border in self.boundary.finditer(self.text, self.at):
            # A closing bracket with none open belongs to the name.
            if depth > 0 or ")" not in border[0].lstrip()[:1]:
                argument, self.at = self.text[self.at : border.start()], border.start()
                return argument.strip()
        argument, self.at = self.text[self.at :], len(self.text)
        return argument.strip()


def _dc(grid: FrequencyGrid) -> BoolArray:
    return orbit_mask(grid, [(0, 0)])


def _band(text: str, grid: FrequencyGrid) -> BoolArray:
    found = re.fullmatch(r"(\d{1,6})(?:\s*(?:-|\.\.)\s*(\d{1,6}))?\s*/\s*(\d{1,6})", text)
    if found is None:
        raise SettingsError(
            f"band:{text} names no band of a number of bands.", "For example: band:2/4 or band:3-4/4"
        )
    first, last, n_bands = int(found[1]), int(found[2] or found[1]), int(found[3])
    if first > last:
        raise SettingsError(f"band:{text} is reversed.", f"For example: band:{last}-{first}/{n_bands}")
    ends = band_mask(grid, first, n_bands) | band_mask(grid, last, n_bands)
    rings = grid.bands(n_bands)
    between: BoolArray = (rings >= first - 1) & (rings <= last - 1)
    return ends | between


def _radius(text: str, grid: FrequencyGrid) -> BoolArray:
    found = re.fullmatch(_RANGE, text)
    if found is None or (found[1] is None and found[2] is None):
        raise SettingsError(
            f"radius:{text} is no range of radii.", "For example: radius:4-8, radius:4- or radius:-8"
        )
    return radial_mask(grid, float(found[1] or 0), float(found[2]) if found[2] else float("inf"))


def _angle(text: str, grid: FrequencyGrid) -> BoolArray:
    found = re.fullmatch(_RANGE, text)
    if found is None or found[1] is None or found[2] is None:
        raise SettingsError(
            f"angle:{text} is no range of directions.", "For example: angle:30-60 or angle:-15-15"
        )
    return sector_mask(grid, float(found[1]), float(found[2]))


def _square(text: str, grid: FrequencyGrid) -> BoolArray:
    if re.fullmatch(_NUMBER, text) is None:
        raise SettingsError(f"square:{text} has no cut-off.", "For example: square:0.3")
    return square_mask(grid, float(text))


def _orbits(text: str, grid: FrequencyGrid) -> BoolArray:
    pairs = [(int(u), int(v)) for u, v in re.findall(_PAIR, text)]
    if not pairs:
        raise SettingsError(f"orbits:{text} names no orbit.", "For example: orbits:(5,9),(-11,4)")
    return orbit_mask(grid, pairs)


_WORDS: dict[str, Loader] = {
    "angle": _angle,
    "band": _band,
    "orbits": _orbits,
    "radius": _radius,
    "square": _square,
}
