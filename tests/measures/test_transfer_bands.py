"""Bands: which orbit is in which, what they hold, and sums that add."""

from __future__ import annotations

import math

import numpy as np
import pytest
from replicas import radius_of

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.transfer_bands import BAND_NAMES, BandSums, band_changes, bands_of_orbits
from shortcut_audit.measures.verdicts import extent_of
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.shortcut_findings import Rung

SIZES = [(8, 8), (9, 7), (16, 16), (12, 32), (5, 4), (2, 2), (32, 32)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_orbit_but_dc_is_in_the_band_of_its_radius(height: int, width: int) -> None:
    grid = FrequencyGrid(height, width)
    band = bands_of_orbits(grid)
    assert band[0] == -1
    nyquist = min(height, width) / 2
    for orbit in range(1, grid.n_orbits):
        share = radius_of(height, width, (int(grid.u[orbit]), int(grid.v[orbit]))) / nyquist
        # A radius on a border belongs to the band above it.
        expected = 0 if share < 0.25 else 1 if share < 0.75 else 2
        assert band[orbit] == expected, (grid.u[orbit], grid.v[orbit])


@pytest.mark.parametrize("size", [8, 16, 32, 9])
def test_an_orbit_is_in_the_band_that_a_verdict_names(size: int) -> None:
    """A single orbit as the extent of a shortcut, those right on a border among them."""
    grid = FrequencyGrid(size, size)
    band, importance = bands_of_orbits(grid), np.ones(grid.n_orbits)
    rung = Rung(
        n_orbits=1,
        share=0.01,
        energy_share=0.01,
        radius=(1.0, 1.0),
        ring=1,
        flips=Paired(n=4, both=0, only_first=4, only_second=0),
    )
    for orbit in range(1, grid.n_orbits):
        extent = extent_of([rung], [np.array([orbit])], importance, grid)
        assert extent.band == BAND_NAMES[band[orbit]]


def sums(power: list[float], home: list[float], n_images: int, n_home: int) -> BandSums:
    found = BandSums.empty(3, n_images, 0)
    found.take((0, n_images), {"power": np.array(power)})
    found.take_home((0, n_home), {"power": np.array(home)})
    return found


def test_energies_are_means_over_images_on_both_sides() -> None:
    low, mid, high = band_changes(FrequencyGrid(9, 9), sums([6.0, 8.0, 0.0], [4.0, 2.0, 0.0], 3, 4), None)
    assert low.power == pytest.approx(2.0)
    assert mid.power == pytest.approx((8 / 3) / (2 / 4))
    # Of nothing at home there is no share.
    assert high.power is None
    assert (low.radius[0], high.radius[1]) == (1.0, pytest.approx(math.hypot(4, 4)))
    assert low.radius[1] < 1.0 + 1e-9 < mid.radius[0] + 1e-9
    assert all(change.moved is None and change.restored is None for change in (low, mid, high))


def test_bands_that_a_small_grid_lacks_are_left_out() -> None:
    changes = band_changes(FrequencyGrid(2, 2), sums([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 1, 1), None)
    assert [change.band for change in changes] == ["high"]


def test_blocks_of_copies_add_up_wherever_they_begin() -> None:
    whole = BandSums.empty(3, 5, 100)
    for rows, value in (((103, 105), 2.0), ((100, 103), 3.0)):
        n = rows[1] - rows[0]
        whole.take(
            rows,
            {
                "power": np.full(3, value),
                "home": np.full(3, 1.0),
                "moved": np.full(3, 0.5),
                "predicted": np.arange(rows[0], rows[1])[None].repeat(3, 0),
            },
        )
        assert n in (2, 3)
    assert whole.n_home == 5
    assert whole.power.tolist() == [5.0] * 3
    assert whole.moved is not None
    assert whole.moved.tolist() == [1.0] * 3
    assert whole.predicted is not None
    assert whole.predicted[1].tolist() == [100, 101, 102, 103, 104]
    both = whole + whole
    assert (both.n_images, both.n_home) == (10, 10)
    assert both.power.tolist() == [10.0] * 3
    assert both.moved is not None
    assert both.moved.tolist() == [2.0] * 3
    changes = band_changes(FrequencyGrid(9, 9), both, None)
    assert [change.power for change in changes] == [pytest.approx(2.5)] * 3
    assert [change.moved for change in changes] == [pytest.approx(0.5)] * 3
