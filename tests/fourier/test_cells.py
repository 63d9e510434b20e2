from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import block_lines_of

from shortcut_audit.fourier.cells import Neighbours, SpectrumCells, comb_orbits
from shortcut_audit.fourier.grid import FrequencyGrid

sizes = st.tuples(st.integers(2, 14), st.integers(2, 14))


def neighbours_of(grid: FrequencyGrid, orbit: int) -> set[int]:
    """The slow way: every bin of the full plane within 2.5 of a member, on the same axis or off both."""

    def axis(u: int, v: int) -> str:
        return "v" if u % grid.height == 0 else "u" if v % grid.width == 0 else ""

    u, v = int(grid.u[orbit]), int(grid.v[orbit])
    found = set()
    for du in range(-3, 4):
        for dv in range(-3, 4):
            a, b = u + du, v + dv
            if (axis(u, v) == "v" and du != 0) or (axis(u, v) == "u" and dv != 0):
                continue
            if math.hypot(du, dv) <= 2.5 and axis(a, b) == axis(u, v):
                found.add(grid.orbit_of(a, b))
    return found - {0, orbit}


@settings(deadline=None)
@given(sizes)
def test_neighbours_are_the_orbits_around_and_stay_on_their_axis(size: tuple[int, int]) -> None:
    grid = FrequencyGrid(*size)
    neighbours = Neighbours(grid)
    for orbit in range(1, grid.n_orbits):
        listed = neighbours.table[orbit]
        assert set(listed[listed >= 0].tolist()) == neighbours_of(grid, orbit)
        assert neighbours.count[orbit] == len(neighbours_of(grid, orbit))
    assert neighbours.count[0] == 0
    np.testing.assert_array_equal(neighbours.comparable, neighbours.count >= 2)


@settings(deadline=None)
@given(sizes, st.integers(0, 2**32 - 1))
def test_means_and_medians_are_those_of_the_neighbours(size: tuple[int, int], seed: int) -> None:
    grid = FrequencyGrid(*size)
    neighbours = Neighbours(grid)
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((2, grid.n_orbits))
    without = generator.random(grid.n_orbits) < 0.4
    mean, median = neighbours.mean(values), neighbours.median(values)
    some = neighbours.median(values, without)
    for orbit in range(grid.n_orbits):
        around = sorted(neighbours_of(grid, orbit)) if orbit else []
        expected = values[:, around]
        wanted = (expected.mean(axis=1), np.median(expected, axis=1)) if around else (0, 0)
        np.testing.assert_allclose(mean[:, orbit], wanted[0], atol=1e-12)
        np.testing.assert_allclose(median[:, orbit], wanted[1], atol=1e-12)
        left = values[:, [each for each in around if not without[each]]]
        np.testing.assert_allclose(some[:, orbit], np.median(left, axis=1) if left.size else 0)


def test_a_wave_of_32_pixels_has_as_many_neighbours_as_the_plane_lets_it() -> None:
    grid = FrequencyGrid(32, 32)
    neighbours = Neighbours(grid)
    # 20 bins lie within 2.5; on an axis there are 4.
    assert neighbours.count[grid.orbit_of(8, 8)] == 20
    assert neighbours.count[grid.orbit_of(0, 8)] == 4
    assert neighbours.count[grid.orbit_of(8, 0)] == 4
    # (1, 0) has (2, 0) and (3, 0), and its own mirror image is none.
    assert neighbours.count[grid.orbit_of(1, 0)] == 2
    assert neighbours.comparable[1:].all()


@settings(deadline=None)
@given(sizes, st.integers(1, 6), st.integers(1, 8))
def test_every_orbit_but_dc_lies_in_one_cell_of_its_ring_and_sector(
    size: tuple[int, int], n_rings: int, n_sectors: int
) -> None:
    grid = FrequencyGrid(*size)
    cells = SpectrumCells(grid, n_rings, n_sectors)
    step = 180 / n_sectors
    place: dict[int, tuple[int, int]] = {}
    for orbit in range(1, grid.n_orbits):
        ring = int(grid.radius[orbit] / (min(size) / 2 / n_rings))
        # Sectors are centred on multiples of the step, and opposite directions are one.
        sector = math.floor((grid.angle[orbit] + step / 2) / step) % n_sectors
        assert cells.ring_of_orbit[orbit] == ring
        assert place.setdefault(int(cells.cell_of_orbit[orbit]), (ring, sector)) == (ring, sector)
    assert cells.cell_of_orbit[0] == cells.ring_of_orbit[0] == -1
    assert sorted(place) == list(range(cells.n_cells))
    assert len(set(place.values())) == cells.n_cells
    counted = [
        int(grid.members[1:][cells.ring_of_orbit[1:] == k].sum()) for k in range(len(cells.n_in_ring))
    ]
    assert cells.n_in_ring.tolist() == counted


@settings(deadline=None)
@given(sizes, st.integers(0, 2**32 - 1))
def test_pooling_is_the_mean_over_bins(size: tuple[int, int], seed: int) -> None:
    grid = FrequencyGrid(*size)
    cells = SpectrumCells(grid, 3, 4)
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((2, grid.n_orbits))
    without = generator.random(grid.n_orbits) < 0.3
    pooled, rings = cells.pool(values), cells.pool_rings(values, without)
    for cell in range(cells.n_cells):
        within = cells.cell_of_orbit == cell
        expected = np.average(values[:, within], axis=1, weights=grid.members[within])
        np.testing.assert_allclose(pooled[:, cell], expected, atol=1e-12)
        assert cells.radius_of_cell[cell] == pytest.approx(grid.radius[within].mean())
    for ring in range(rings.shape[1]):
        within = (cells.ring_of_orbit == ring) & ~without
        if not within.any():
            assert np.isnan(rings[:, ring]).all()
            continue
        expected = np.average(values[:, within], axis=1, weights=grid.members[within])
        np.testing.assert_allclose(rings[:, ring], expected, atol=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (16, 24), (24, 40), (64, 64)])
@pytest.mark.parametrize("block", [4, 8, 16])
def test_a_comb_is_where_the_lines_between_blocks_lie(size: tuple[int, int], block: int) -> None:
    grid = FrequencyGrid(*size)
    comb = comb_orbits(grid, block)
    along = [length for length in size if length % block == 0 and length >= 2 * block]
    if len(along) < 2:
        assert len(comb) == (block // 2 if along else 0)
        return
    power = np.abs(np.fft.rfft2(block_lines_of(*size, block))) ** 2
    lit = np.flatnonzero(power[grid.rows, grid.columns] > 1e-9)
    assert set(comb.tolist()) == set(lit.tolist())
    assert 0 not in comb
