"""Units of a search: what is removed and ranked as one; single orbits, patches, or tiles.

Single orbits are too fine where there are few images: their importances are small and noisy, and
neighbours share what they matter for. Patches are squares of the centred plane, each with its mirror
image; tiles are cut along radius and angle. DC is always a unit of its own, unit 0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import BoolArray

__all__ = ["ORBITS", "Units"]

IntArray = NDArray[np.int64]

ORBITS = "orbits"
_NAME = re.compile(r"(?:patches:(?P<patch>\d+)|tiles:(?P<rings>\d+)x(?P<sectors>\d+))")
# Borders of rings and sectors catch what lies on them, floating point or not.
_HAIR = 1e-9


@dataclass(frozen=True, eq=False)
class Units:
    """A partition of the orbits of `grid`: `unit_of_orbit` (n_orbits,), every unit with some orbit.

    `name`: `orbits`, `patches:SIDE` (bins) or `tiles:RINGSxSECTORS`.
    """

    grid: FrequencyGrid
    name: str
    unit_of_orbit: IntArray

    @classmethod
    def named(cls, name: str, grid: FrequencyGrid) -> Units:
        """Units by name; `auto` and `orbits` are single orbits.

        Raises SettingsError for a name that is none, and for units beyond the plane.

        >>> Units.named("tiles:2x4", FrequencyGrid(16, 16)).n_units
        9
        >>> Units.named("patches:16", FrequencyGrid(32, 32)).n_units
        6
        """
        if name in ("auto", ORBITS):
            return cls(grid, ORBITS, np.arange(grid.n_orbits))
        match = _NAME.fullmatch(name)
        if match is None:
            raise SettingsError(
                f"Resolution {name!r} is not known.",
                "Give auto, orbits, patches:SIDE (patches:4) or tiles:RINGSxSECTORS (tiles:8x12).",
            )
        if match["patch"] is not None:
            return cls._compact(grid, name, _patches(grid, int(match["patch"])))
        return cls._compact(grid, name, _tiles(grid, int(match["rings"]), int(match["sectors"])))

    @classmethod
    def _compact(cls, grid: FrequencyGrid, name: str, label: IntArray) -> Units:
        """Units numbered 1.. in the order of `label` (n_orbits,), DC apart as 0."""
        _, number = np.unique(label[1:], return_inverse=True)
        return cls(grid, name, np.concatenate([[0], number + 1]).astype(np.int64))

    @property
    def single(self) -> bool:
        """Whether every orbit is a unit of its own."""
        return self.name == ORBITS

    @property
    def kind(self) -> str:
        """What units are, in a word: orbits, patches or tiles."""
        return self.name.partition(":")[0]

    @cached_property
    def n_units(self) -> int:
        """Number of units, DC included."""
        return int(self.unit_of_orbit.max()) + 1

    @cached_property
    def n_orbits_of_unit(self) -> IntArray:
        """Orbits in each unit, (n_units,)."""
        return np.bincount(self.unit_of_orbit, minlength=self.n_units)

    @cached_property
    def members(self) -> IntArray:
        """Bins of the full plane in each unit, (n_units,)."""
        counted = np.bincount(self.unit_of_orbit, weights=self.grid.members, minlength=self.n_units)
        return counted.astype(np.int64)

    def sums(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sum over the orbits of each unit: (..., n_orbits) to (..., n_units)."""
        if self.single:
            return np.asarray(values, dtype=np.float64)
        order = np.argsort(self.unit_of_orbit, kind="stable")
        starts = np.concatenate([[0], np.cumsum(self.n_orbits_of_unit)[:-1]])
        summed: NDArray[np.float64] = np.add.reduceat(
            np.asarray(values, dtype=np.float64)[..., order], starts, axis=-1
        )
        return summed

    def per_orbit(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """A unit's value shared evenly by its orbits: (..., n_units) to (..., n_orbits).

        Ranked by this, units come by importance per orbit: a large one does not win by its size.
        """
        shared: NDArray[np.float64] = (values / self.n_orbits_of_unit)[..., self.unit_of_orbit]
        return shared

    def chosen(self, units: IntArray) -> BoolArray:
        """Orbits of single units as masks, (n, n_orbits) bool, for unit numbers (n,)."""
        mask: BoolArray = self.unit_of_orbit == np.asarray(units)[:, None]
        return mask


def _patches(grid: FrequencyGrid, side: int) -> IntArray:
    """Label of the centred-plane square of `side` bins that each orbit lies in, or its mirror image.

    Squares are laid symmetrically about DC, so that the mirror image of a square is a square.
    """
    if not 1 <= side <= min(grid.height, grid.width):
        raise SettingsError(
            f"Patches of {side} bins do not fit images of {grid.height} x {grid.width} pixels.",
            f"Sides go from 1 to {min(grid.height, grid.width)}.",
        )
    row = np.floor(np.abs(grid.u) / side + 0.5 - _HAIR).astype(np.int64) * np.sign(grid.u)
    column = np.floor(grid.v / side + 0.5 - _HAIR).astype(np.int64)
    # In column 0 the two members of an orbit may bear mirrored row numbers; one name for both.
    row = np.where(column == 0, np.abs(row), row)
    return (row + grid.height) * (grid.width + 1) + column


def _tiles(grid: FrequencyGrid, n_rings: int, n_sectors: int) -> IntArray:
    """Label of ring and sector of each orbit: rings of equal width, sectors of equal angle.

    The last ring takes the corners beyond the Nyquist radius too; sectors are centred on the axes,
    so that the axes' own orbits, where borders and grids of pixels show, are not cut in two.
    """
    nyquist = min(grid.height, grid.width) / 2
    if n_rings < 1 or n_sectors < 1 or n_rings > nyquist or n_sectors > 180:
        raise SettingsError(
            f"Tiles of {n_rings} rings and {n_sectors} sectors do not fit images of {grid.height} x"
            f" {grid.width} pixels.",
            f"Give 1 to {math.floor(nyquist)} rings and 1 to 180 sectors.",
        )
    ring = np.minimum((grid.radius / (nyquist / n_rings) + _HAIR).astype(np.int64), n_rings - 1)
    turned = np.round((grid.angle + 90 / n_sectors) % 180, 9)
    sector = np.minimum((turned / (180 / n_sectors) + _HAIR).astype(np.int64), n_sectors - 1)
    return ring * n_sectors + sector
