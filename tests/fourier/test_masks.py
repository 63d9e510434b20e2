from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import (
    band_mask,
    found_share,
    half_plane_mask,
    hermitian_part,
    orbit_mask,
    radial_mask,
    rank_orbits,
    require_hermitian,
    sector_mask,
    square_mask,
    top_share,
)

sizes = st.tuples(st.integers(2, 13), st.integers(2, 13))


def full_plane(mask: torch.Tensor, width: int) -> np.ndarray:
    """The mask over all bins, as the inverse transform understands the half plane."""
    half = mask.numpy()
    height = half.shape[0]
    full = np.zeros((height, width), dtype=bool)
    for u in range(height):
        for v in range(width):
            full[u, v] = half[u, v] if v < half.shape[1] else half[-u % height, -v % width]
    return full


@given(sizes, st.integers(0, 2**32 - 1))
def test_every_mask_is_hermitian(size: tuple[int, int], seed: int) -> None:
    grid = FrequencyGrid(*size)
    chosen = np.random.default_rng(seed).random(grid.n_orbits) < 0.4
    full = full_plane(half_plane_mask(grid, chosen), grid.width)
    mirrored = np.roll(np.flip(full), (1, 1), axis=(0, 1))
    np.testing.assert_array_equal(full, mirrored)
    assert full.sum() == grid.members[chosen].sum()


@given(sizes, st.integers(0, 2**32 - 1), st.floats(0.001, 1))
def test_the_top_share_is_the_longest_prefix_within_the_share(
    size: tuple[int, int], seed: int, share: float
) -> None:
    grid = FrequencyGrid(*size)
    rankable = np.arange(grid.n_orbits) > 0
    importance = np.random.default_rng(seed).standard_normal(grid.n_orbits)
    rank = rank_orbits(importance, rankable)
    chosen = top_share(grid, rank, share)
    assert not chosen[0]
    assert chosen.any()
    assert importance[chosen].min() >= importance[rankable & ~chosen].max(initial=-np.inf)
    found = found_share(grid, chosen, rankable)
    assert found <= share + 1e-9 or chosen.sum() == 1
    left = rankable & ~chosen
    if left.any():
        following = grid.members[left][np.argmax(importance[left])]
        assert found + following / grid.members[rankable].sum() > share - 1e-9


def test_ranks_count_from_one_and_skip_what_is_not_ranked() -> None:
    rank = rank_orbits(np.array([9.0, 1.0, 3.0, 3.0, 2.0]), np.array([False, True, True, True, True]))
    assert rank.tolist() == [0, 4, 1, 2, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=30))
def test_coarse_values_rank_first_and_importance_among_equals(rows: list[tuple[int, int, bool]]) -> None:
    importance, coarse, rankable = (np.array(column) for column in zip(*rows, strict=True))
    rank = rank_orbits(importance.astype(float), rankable, coarse.astype(float))
    candidates = [orbit for orbit, row in enumerate(rows) if row[2]]
    order = sorted(candidates, key=lambda orbit: (-rows[orbit][1], -rows[orbit][0], orbit))
    assert [rank[orbit] for orbit in order] == list(range(1, len(order) + 1))
    assert (rank[~rankable] == 0).all()


def test_the_whole_share_keeps_all_ranked_orbits() -> None:
    grid = FrequencyGrid(6, 5)
    rankable = np.arange(grid.n_orbits) > 0
    chosen = top_share(grid, rank_orbits(np.arange(grid.n_orbits, dtype=float), rankable), 1.0)
    assert (chosen == rankable).all()
    assert found_share(grid, chosen, rankable) == 1.0


def test_a_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="10 orbits"):
        half_plane_mask(FrequencyGrid(4, 4), np.ones(9, dtype=bool))


def bins_of(grid: FrequencyGrid, chosen: np.ndarray) -> set[tuple[int, int]]:
    """Every bin of the full plane that a choice of orbits holds."""
    pairs = zip(grid.rows[chosen].tolist(), grid.columns[chosen].tolist(), strict=True)
    return {
        bin_
        for row, column in pairs
        for bin_ in ((row, column), (-row % grid.height, -column % grid.width))
    }


def signed(index: int, size: int) -> int:
    return index - size if 2 * index > size else index


borders = st.floats(0, 9).map(lambda value: round(value, 1))


@given(sizes, borders, borders)
def test_a_radial_mask_holds_the_bins_between_its_borders(
    size: tuple[int, int], one: float, other: float
) -> None:
    grid = FrequencyGrid(*size)
    low, high = min(one, other), max(one, other)
    shorter = min(size)
    expected = set()
    radii = {}
    for u, v in np.ndindex(*size):
        radii[u, v] = math.hypot(signed(u, size[0]) / size[0], signed(v, size[1]) / size[1]) * shorter
        if low <= radii[u, v] < high:
            expected.add((u, v))
    corner = max(radii.values())
    # Bins on a border within rounding may fall on either side of a computation in floats.
    if (
        low == high
        or high > corner
        or any(abs(r - b) < 1e-6 for r in radii.values() for b in (low, high))
    ):
        return
    assert bins_of(grid, radial_mask(grid, low, high)) == expected


def test_a_bin_on_a_border_belongs_to_the_band_above_it() -> None:
    grid = FrequencyGrid(10, 10)
    assert radial_mask(grid, 3, 5)[grid.orbit_of(0, 3)]
    assert not radial_mask(grid, 0, 3)[grid.orbit_of(0, 3)]
    # (4, 3) has radius 5, in floats a hair less or more.
    assert radial_mask(grid, 5)[grid.orbit_of(4, 3)]
    assert not radial_mask(grid, 0, 5)[grid.orbit_of(4, 3)]


@given(sizes, st.integers(1, 6))
def test_bands_share_out_all_orbits_but_dc(size: tuple[int, int], n_bands: int) -> None:
    grid = FrequencyGrid(*size)
    times = sum(band_mask(grid, band, n_bands).astype(int) for band in range(1, n_bands + 1))
    assert times.tolist() == [0] + [1] * (grid.n_orbits - 1)
    width = min(size) / 2 / n_bands
    for band in range(1, n_bands):
        inner = radial_mask(grid, (band - 1) * width, band * width)
        inner[0] = False
        # Which side a bin on the very border falls on is up to rounding.
        clear = np.abs(grid.radius / width - np.rint(grid.radius / width)) > 1e-6
        np.testing.assert_array_equal(band_mask(grid, band, n_bands)[clear], inner[clear])


@given(sizes, st.integers(-180, 180), st.integers(1, 180))
def test_a_sector_holds_the_waves_that_point_into_it(size: tuple[int, int], low: int, width: int) -> None:
    grid = FrequencyGrid(*size)
    if low + width > 180:
        return
    chosen = sector_mask(grid, low, low + width)
    for orbit in range(1, grid.n_orbits):
        u, v = grid.u[orbit] / size[0], grid.v[orbit] / size[1]
        # Turned back by `low`, a wave inside points between 0 and `width`, itself or its opposite.
        turned = complex(v, u) * complex(math.cos(math.radians(-low)), math.sin(math.radians(-low)))
        angle = math.degrees(math.atan2(turned.imag, turned.real))
        inside = any(-1e-7 <= a < width - 1e-7 for a in (angle, angle + 180, angle - 180, angle + 360))
        assert chosen[orbit] == inside
    assert not chosen[0]


@pytest.mark.parametrize("low", [-90, -37.5, 0, 30, 45, 89.9])
def test_two_sectors_share_out_the_plane_and_angles_wrap(low: float) -> None:
    grid = FrequencyGrid(9, 12)
    one, other = sector_mask(grid, low, low + 60), sector_mask(grid, low + 60, low)
    assert not (one & other).any()
    assert (one | other).sum() == grid.n_orbits - 1
    np.testing.assert_array_equal(sector_mask(grid, 80, 100), sector_mask(grid, 80, -80))
    assert sector_mask(grid, 80, 100)[grid.orbit_of(3, 0)]
    assert not sector_mask(grid, 80, 100)[grid.orbit_of(0, 3)]
    assert sector_mask(grid, -90, 90).sum() == grid.n_orbits - 1


@given(sizes, st.floats(0, 1))
def test_a_square_low_pass_is_a_square(size: tuple[int, int], cutoff: float) -> None:
    grid = FrequencyGrid(*size)
    reach = math.floor(cutoff * size[0] / 2 + 1e-9), math.floor(cutoff * size[1] / 2 + 1e-9)
    expected = {
        (u % size[0], v % size[1])
        for u in range(-reach[0], reach[0] + 1)
        for v in range(-reach[1], reach[1] + 1)
    }
    assert bins_of(grid, square_mask(grid, cutoff)) == expected


@given(sizes, st.integers(0, 2**32 - 1))
def test_an_orbit_is_named_by_either_member(size: tuple[int, int], seed: int) -> None:
    grid = FrequencyGrid(*size)
    generator = np.random.default_rng(seed)
    u = int(generator.integers(-(size[0] // 2), size[0] // 2 + 1))
    v = int(generator.integers(-(size[1] // 2), size[1] // 2 + 1))
    chosen = orbit_mask(grid, [(u, v)])
    np.testing.assert_array_equal(chosen, orbit_mask(grid, [(-u, -v), (u, v)]))
    assert bins_of(grid, chosen) == {(u % size[0], v % size[1]), (-u % size[0], -v % size[1])}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: radial_mask(g, 8, 4), "8 to 4 are no band"),
        (lambda g: radial_mask(g, 4, 4), "4 to 4 are no band"),
        (lambda g: radial_mask(g, -1, 4), "-1 to 4 are no band"),
        (lambda g: radial_mask(g, math.nan, 4), "nan to 4 are no band"),
        (
            lambda g: radial_mask(g, 30, 40),
            "leave the plane of 32 x 24 images, whose corner has radius 16.97",
        ),
        (lambda g: radial_mask(g, 4, 40), "leave the end open: radius:4-"),
        (lambda g: band_mask(g, 5), "no band 5 of 4"),
        (lambda g: band_mask(g, 0), "no band 0 of 4"),
        (lambda g: sector_mask(g, 30, 30), "empty"),
        (lambda g: sector_mask(g, 0, 270), "leave the plane"),
        (lambda g: sector_mask(g, -170, 170), "wider than the 180"),
        (lambda g: sector_mask(g, math.nan, 3), "leave the plane"),
        (lambda g: square_mask(g, 1.01), "leaves the plane"),
        (lambda g: square_mask(g, -0.1), "leaves the plane"),
        (
            lambda g: orbit_mask(g, [(1, 2), (17, 2)]),
            r"Orbit \(17, 2\) lies outside .* u goes from -16 to 16",
        ),
        (lambda g: orbit_mask(g, [(1, -13)]), r"Orbit \(1, -13\) lies outside .* v .*from -12 to 12"),
    ],
)
def test_masks_outside_the_plane_are_refused_in_a_sentence(
    make: Callable[[FrequencyGrid], np.ndarray], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        make(FrequencyGrid(32, 24))


# Planes of the user's own --------------------------------------------------------------------------


def is_hermitian(plane: np.ndarray) -> bool:
    """By definition: filtering a real image with it leaves a real image."""
    image = np.random.default_rng(0).standard_normal(plane.shape)
    return bool(np.abs(np.fft.ifft2(np.fft.fft2(image) * plane).imag).max() < 1e-9)


@given(sizes, st.integers(0, 2**32 - 1), st.booleans())
def test_the_hermitian_part_is_the_smallest_hermitian_mask_around(
    size: tuple[int, int], seed: int, centred: bool
) -> None:
    plane = np.random.default_rng(seed).random(size) < 0.3
    expected = np.array(
        [
            [plane[u, v] or plane[-u % size[0], -v % size[1]] for v in range(size[1])]
            for u in range(size[0])
        ]
    )
    given_plane = np.fft.fftshift(plane) if centred else plane
    found = hermitian_part(given_plane, centred=centred)
    np.testing.assert_array_equal(np.fft.ifftshift(found) if centred else found, expected)
    np.testing.assert_array_equal(require_hermitian(found, centred=centred), expected)
    assert is_hermitian(expected)


@given(sizes, st.integers(0, 2**32 - 1), st.booleans())
def test_a_plane_that_is_not_hermitian_is_refused_with_bins_and_a_cure_that_works(
    size: tuple[int, int], seed: int, centred: bool
) -> None:
    plane = np.random.default_rng(seed).random(size) < 0.3
    mask = np.fft.fftshift(plane) if centred else plane
    if is_hermitian(plane):
        np.testing.assert_array_equal(require_hermitian(mask, centred=centred), plane)
        return
    with pytest.raises(SettingsError) as caught:
        require_hermitian(mask, centred=centred)
    numbers = re.findall(r"\((-?\d+), (-?\d+)\) and \((-?\d+), (-?\d+)\)", caught.value.problem)
    for u, v, other_u, other_v in ([int(text) for text in pair] for pair in numbers):
        assert (u, v) == (-other_u, -other_v)
        assert plane[u % size[0], v % size[1]] != plane[other_u % size[0], other_v % size[1]]
    stated = re.search(r"([\d,]+) pairs?", caught.value.problem)
    assert stated is not None
    expected = sum(plane[u, v] != plane[-u % size[0], -v % size[1]] for u, v in np.ndindex(*size))
    assert 2 * int(stated[1].replace(",", "")) == expected
    names = {"mask": mask, "np": np}
    exec(caught.value.next_step.removeprefix("Symmetrise it: "), names)
    cured = np.asarray(names["mask"])
    np.testing.assert_array_equal(require_hermitian(cured, centred=centred), hermitian_part(plane))
