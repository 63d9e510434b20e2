"""The frequency grid of an image size: the one owner of every Fourier convention.

A real image has X(-u, -v) = conj X(u, v), so the unit of every search is the *orbit*
{(u, v), (-u, -v)}: one plane wave. Orbits are numbered in the row-major order of the half plane
that `rfft2` returns, and the first of the two members met there names the orbit. Orbit 0 is DC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrequencyGrid"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class FrequencyGrid:
    """All orbits of images of `height` x `width` pixels.

    An even n x n grid has (n**2 + 4) / 2 orbits: 514 at 32 x 32, 25,090 at 224 x 224; odd and
    non-square sizes follow the same rule of conjugate pairs.

    >>> grid = FrequencyGrid(32, 32)
    >>> grid.n_orbits, int(grid.members.sum())
    (514, 1024)
    >>> int(grid.u[1]), int(grid.v[1]), float(grid.radius[1])
    (0, 1, 1.0)
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid needs at least 1 x 1 pixels, not {self.height} x {self.width}")

    @property
    def n_half_columns(self) -> int:
        """Columns of the half plane that `rfft2` returns."""
        return self.width // 2 + 1

    @cached_property
    def _half_plane(self) -> tuple[IntArray, IntArray, IntArray]:
        """Orbit of each half-plane bin (H, W//2+1), then row and column of each orbit."""
        rows, columns = np.mgrid[0 : self.height, 0 : self.n_half_columns]
        own = rows * self.width + columns
        mirrored = (-rows % self.height) * self.width + (-columns % self.width)
        # Where both members lie in the half plane (v = 0, and v = W/2 for even W), the earlier
        # one names the orbit; elsewhere the mirror image lies outside and cannot be met again.
        name = np.where((-columns % self.width) < self.n_half_columns, np.minimum(own, mirrored), own)
        names, orbit_of_bin = np.unique(name, return_inverse=True)
        return (
            orbit_of_bin.reshape(rows.shape).astype(np.int64),
            (names // self.width).astype(np.int64),
            (names % self.width).astype(np.int64),
        )

    @property
    def orbit_of_bin(self) -> IntArray:
        """Orbit number of every bin of the half plane, shape (H, W//2+1)."""
        return self._half_plane[0]

    @property
    def rows(self) -> IntArray:
        """Row of each orbit in the half plane, 0..H-1."""
        return self._half_plane[1]

    @property
    def columns(self) -> IntArray:
        """Column of each orbit in the half plane, 0..W//2."""
        return self._half_plane[2]

    @property
    def n_orbits(self) -> int:
        """Number of orbits, DC included."""
        return len(self.rows)

    @cached_property
    def u(self) -> IntArray:
        """Signed vertical frequency of each orbit, cycles per image height, in (-H/2, H/2]."""
        return np.where(self.rows > self.height // 2, self.rows - self.height, self.rows)

    @cached_property
    def v(self) -> IntArray:
        """Horizontal frequency of each orbit, cycles per image width, in [0, W/2]."""
        return self.columns.copy()

    @cached_property
    def members(self) -> IntArray:
        """Bins of the full plane in each orbit: 2, or 1 where a bin is its own conjugate."""
        own_row = (2 * self.rows) % self.height == 0
        own_column = (2 * self.columns) % self.width == 0
        return np.where(own_row & own_column, 1, 2).astype(np.int64)

    @cached_property
    def radius(self) -> NDArray[np.float64]:
        """Radial frequency, in cycles per shorter image side.

        sqrt((u/H)^2 + (v/W)^2) * min(H, W): on a square image plain cycles per image; on any
        other, waves that are equally fine in pixels have equal radius.
        """
        shorter = min(self.height, self.width)
        return np.hypot(self.u / self.height, self.v / self.width) * shorter

    @cached_property
    def angle(self) -> NDArray[np.float64]:
        """Direction of the wave vector in degrees, (-90, 90]; 0 is a wave along the width."""
        return np.degrees(np.arctan2(self.u / self.height, self.v / self.width))

    def orbit_of(self, u: int, v: int) -> int:
        """Number of the orbit that holds the bin (u, v); any sign, either member.

        >>> FrequencyGrid(8, 8).orbit_of(-2, -3) == FrequencyGrid(8, 8).orbit_of(2, 3)
        True
        """
        row, column = u % self.height, v % self.width
        if column >= self.n_half_columns:
            row, column = -row % self.height, -column % self.width
        return int(self.orbit_of_bin[row, column])

    def bands(self, n_bands: int = 4) -> IntArray:
        """Radial band of each orbit, 0 (low) .. n_bands-1 (high), and -1 for DC.

        Rings of equal width up to the Nyquist radius min(H, W)/2; the last band also takes the
        corners beyond it (Wang et al., ICCV 2023, use four).
        """
        width = min(self.height, self.width) / 2 / n_bands
        # A hair of tolerance: a radius right on a border may fall below it in floating point.
        band = np.minimum((self.radius / width + 1e-9).astype(np.int64), n_bands - 1)
        band[0] = -1
        return band
