from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import conjugate_pairs

from shortcut_audit.fourier.grid import FrequencyGrid

sizes = st.tuples(st.integers(1, 17), st.integers(1, 17))


@given(sizes)
def test_orbits_are_the_conjugate_pairs_each_once(size: tuple[int, int]) -> None:
    grid = FrequencyGrid(*size)
    height, width = size
    ours = [
        {(u % height, v % width), (-u % height, -v % width)}
        for u, v in zip(grid.u.tolist(), grid.v.tolist(), strict=True)
    ]
    theirs = conjugate_pairs(height, width)
    assert len(ours) == len(theirs)
    assert {frozenset(pair) for pair in ours} == {frozenset(pair) for pair in theirs}
    assert grid.members.tolist() == [len(pair) for pair in ours]


@pytest.mark.parametrize(
    ("height", "width", "n_orbits"), [(32, 32, 514), (224, 224, 25090), (64, 64, 2050), (7, 7, 25)]
)
def test_numbers_of_orbits_known_from_the_definition(height: int, width: int, n_orbits: int) -> None:
    assert FrequencyGrid(height, width).n_orbits == n_orbits


@given(sizes)
def test_frequencies_are_signed_and_radius_is_that_of_the_nearest_alias(size: tuple[int, int]) -> None:
    grid = FrequencyGrid(*size)
    height, width = size
    assert (2 * np.abs(grid.u) <= height).all()
    assert (grid.v >= 0).all()
    assert (2 * grid.v <= width).all()
    # np.fft.fftfreq knows the signed frequency of each bin in cycles per pixel.
    fy, fx = np.abs(np.fft.fftfreq(height)), np.abs(np.fft.fftfreq(width))
    expected = np.hypot(fy[grid.rows], fx[grid.columns]) * min(size)
    np.testing.assert_allclose(grid.radius, expected, atol=1e-12)


@given(sizes, st.integers(-40, 40), st.integers(-40, 40))
def test_both_members_of_a_pair_have_one_orbit(size: tuple[int, int], u: int, v: int) -> None:
    grid = FrequencyGrid(*size)
    orbit = grid.orbit_of(u, v)
    assert orbit == grid.orbit_of(-u, -v)
    assert ((grid.u[orbit] - u) % size[0], (grid.v[orbit] - v) % size[1]) == (0, 0) or (
        (grid.u[orbit] + u) % size[0],
        (grid.v[orbit] + v) % size[1],
    ) == (0, 0)


def test_dc_is_orbit_zero_and_belongs_to_no_band() -> None:
    grid = FrequencyGrid(16, 16)
    assert (grid.u[0], grid.v[0], grid.radius[0]) == (0, 0, 0)
    bands = grid.bands(4)
    assert bands[0] == -1
    assert set(bands[1:].tolist()) == {0, 1, 2, 3}
    # Rings are two cycles wide here; corners beyond Nyquist go to the last.
    assert bands[grid.orbit_of(0, 1)] == 0
    assert bands[grid.orbit_of(0, 2)] == 1
    assert bands[grid.orbit_of(8, 8)] == 3


def test_equally_fine_waves_have_equal_radius_on_a_wide_image() -> None:
    grid = FrequencyGrid(8, 16)
    assert grid.radius[grid.orbit_of(2, 0)] == grid.radius[grid.orbit_of(0, 4)] == 2


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="1 x 1"):
        FrequencyGrid(0, 4)
