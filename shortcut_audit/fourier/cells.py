"""Coarser units of the Fourier plane: surroundings of orbits, rings, cells of radius and direction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = ["Neighbours", "SpectrumCells", "comb_orbits"]

IntArray = NDArray[np.int64]
_REACH = 2.5
_FEWEST_NEIGHBOURS = 2


@dataclass(frozen=True)
class Neighbours:
    """The orbits around each orbit, within 2.5 bins; on the axes, those along the same axis.

    Photographs have ridges along both axes (edges of the frame, walls, horizons), so a wave on an
    axis is compared with others on it, and one beside it with none of them.
    """

    grid: FrequencyGrid

    @cached_property
    def table(self) -> IntArray:
        """Neighbours of each orbit, (n_orbits, k), filled up with -1."""
        grid = self.grid
        found = [self._of(orbit) for orbit in range(grid.n_orbits)]
        table = np.full((grid.n_orbits, max(len(each) for each in found)), -1, dtype=np.int64)
        for orbit, each in enumerate(found):
            table[orbit, : len(each)] = each
        return table

    def _of(self, orbit: int) -> list[int]:
        if orbit == 0:
            return []
        grid = self.grid
        u, v = int(grid.u[orbit]), int(grid.v[orbit])
        axis = self._axis(u, v)
        reach = int(_REACH)
        steps = range(-reach, reach + 1)
        if axis == "v":
            near = [(0, v + dv) for dv in steps]
        elif axis == "u":
            near = [(u + du, 0) for du in steps]
        else:
            near = [(u + du, v + dv) for du in steps for dv in steps if np.hypot(du, dv) <= _REACH]
        numbers = {
            grid.orbit_of(a, b)
            for a, b in near
            if self._axis(a, b) == axis and (a % grid.height or b % grid.width)
        }
        return sorted(numbers - {0, orbit})

    def _axis(self, u: int, v: int) -> str:
        if u % self.grid.height == 0:
            return "v"
        return "u" if v % self.grid.width == 0 else ""

    @cached_property
    def count(self) -> IntArray:
        """Neighbours of each orbit."""
        count: IntArray = (self.table >= 0).sum(axis=1)
        return count

    @property
    def comparable(self) -> NDArray[np.bool_]:
        """Orbits with enough neighbours to be compared with."""
        return np.asarray(self.count >= _FEWEST_NEIGHBOURS)

    def mean(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean over the neighbours of each orbit, (..., n_orbits); 0 where it has none."""
        total = np.zeros(values.shape, dtype=np.float64)
        for column in self.table.T:
            there = column >= 0
            total[..., there] += values[..., column[there]]
        return total / np.maximum(self.count, 1)

    def median(
        self, values: NDArray[np.floating], without: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Median over the neighbours of each orbit, but those in `without`, (..., n_orbits); else 0."""
        median = np.zeros(values.shape, dtype=np.float64)
        left = (self.table >= 0) & (True if without is None else ~without[self.table])
        # Those that count stand at the front of each row.
        table = np.take_along_axis(self.table, np.argsort(~left, axis=1, kind="stable"), axis=1)
        count = left.sum(axis=1)
        for size in np.unique(count):
            if size:
                orbits = np.flatnonzero(count == size)
                median[..., orbits] = np.median(values[..., table[orbits, :size]], axis=-1)
        return median


@dataclass(frozen=True)
class SpectrumCells:
    """Rings of equal width, cut into sectors of equal angle; sector 0 is centred on waves along v.

    `n_rings` reach up to the Nyquist radius; rings beyond it hold the corners.
    """

    grid: FrequencyGrid
    n_rings: int
    n_sectors: int

    @property
    def ring_width(self) -> float:
        """In cycles per shorter side."""
        return min(self.grid.height, self.grid.width) / 2 / self.n_rings

    @cached_property
    def ring_of_orbit(self) -> IntArray:
        """Ring of each orbit; -1 for DC."""
        ring = (self.grid.radius / self.ring_width).astype(np.int64)
        ring[0] = -1
        return ring

    @cached_property
    def cell_of_orbit(self) -> IntArray:
        """Cell of each orbit, numbered without gaps; -1 for DC."""
        step = 180 / self.n_sectors
        sector = np.floor((self.grid.angle + step / 2) / step).astype(np.int64) % self.n_sectors
        full = self.ring_of_orbit * self.n_sectors + sector
        cell = np.full(self.grid.n_orbits, -1, dtype=np.int64)
        cell[1:] = np.unique(full[1:], return_inverse=True)[1]
        return cell

    @property
    def n_cells(self) -> int:
        """Cells that hold an orbit."""
        return int(self.cell_of_orbit.max()) + 1

    @cached_property
    def radius_of_cell(self) -> NDArray[np.float64]:
        """Mean radius of the orbits of each cell."""
        radius: NDArray[np.float64] = self.pool(self.grid.radius[None], weighted=False)[0]
        return radius

    def pool(self, values: NDArray[np.floating], *, weighted: bool = True) -> NDArray[np.float64]:
        """Mean over the orbits of each cell, weighted by members: (n, n_orbits) to (n, n_cells)."""
        members = self.grid.members[1:].astype(np.float64)
        weights = members if weighted else np.ones_like(members)
        return _pooled(values[:, 1:], self.cell_of_orbit[1:], weights, self.n_cells)

    def pool_rings(
        self, values: NDArray[np.floating], without: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Mean over the orbits of each ring but those in `without`: (n, n_orbits) to (n, n_all_rings).

        A ring that has no orbit left gets NaN.
        """
        weights = self.grid.members.astype(np.float64)
        if without is not None:
            weights = np.where(without, 0, weights)
        n_rings = int(self.ring_of_orbit.max()) + 1
        return _pooled(values[:, 1:], self.ring_of_orbit[1:], weights[1:], n_rings)

    @cached_property
    def n_in_ring(self) -> IntArray:
        """Bins (orbits with their members) of each ring."""
        return np.bincount(self.ring_of_orbit[1:], weights=self.grid.members[1:]).astype(np.int64)


def _pooled(
    values: NDArray[np.floating], group: IntArray, weights: NDArray[np.floating], n_groups: int
) -> NDArray[np.float64]:
    from scipy.sparse import csr_array

    orbits = np.arange(len(group))
    spread = csr_array((weights.astype(np.float64), (orbits, group)), shape=(len(group), n_groups))
    total = np.bincount(group, weights=weights, minlength=n_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled: NDArray[np.float64] = (values @ spread) / total
    return pooled


def comb_orbits(grid: FrequencyGrid, block: int) -> IntArray:
    """Orbits on which a grid of lines every `block` pixels lies; none where blocks do not fit twice."""
    found: set[int] = set()
    for length, along in ((grid.height, "u"), (grid.width, "v")):
        if length % block or length < 2 * block:
            continue
        for k in range(1, block // 2 + 1):
            step = k * length // block
            found.add(grid.orbit_of(step, 0) if along == "u" else grid.orbit_of(0, step))
    return np.asarray(sorted(found), dtype=np.int64)
