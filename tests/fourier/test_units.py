"""Units share out the orbits: each in one, DC alone, and both members of a pair together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import patch_of, tile_of

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.units import Units

sizes = st.tuples(st.integers(2, 17), st.integers(2, 17))


@st.composite
def units(draw: st.DrawFn) -> Units:
    height, width = draw(sizes)
    shorter = min(height, width)
    name = draw(
        st.one_of(
            st.just("orbits"),
            st.integers(1, shorter).map("patches:{}".format),
            st.tuples(st.integers(1, shorter // 2), st.integers(1, 20)).map(
                lambda n: f"tiles:{n[0]}x{n[1]}"
            ),
        )
    )
    return Units.named(name, FrequencyGrid(height, width))


def plane_of(found: Units) -> np.ndarray:
    """Unit of every bin (H, W) of the full plane, each looked up by itself."""
    grid = found.grid
    plane = np.zeros((grid.height, grid.width), dtype=int)
    for u, v in np.ndindex(*plane.shape):
        plane[u, v] = found.unit_of_orbit[grid.orbit_of(u, v)]
    return plane


@settings(deadline=None)
@given(units())
def test_every_orbit_lies_in_one_unit_and_dc_is_alone(found: Units) -> None:
    grid = found.grid
    assert found.unit_of_orbit.shape == (grid.n_orbits,)
    assert sorted(set(found.unit_of_orbit.tolist())) == list(range(found.n_units))
    assert found.unit_of_orbit[0] == 0
    assert (found.unit_of_orbit[1:] > 0).all()
    assert found.n_orbits_of_unit.min() >= 1
    assert found.n_orbits_of_unit.sum() == grid.n_orbits
    bins = np.bincount(plane_of(found).ravel(), minlength=found.n_units)
    np.testing.assert_array_equal(found.members, bins)
    masks = found.chosen(np.arange(found.n_units))
    assert masks.shape == (found.n_units, grid.n_orbits)
    assert (masks.sum(axis=0) == 1).all()


@settings(deadline=None)
@given(units())
def test_both_members_of_a_pair_lie_in_one_unit(found: Units) -> None:
    plane = plane_of(found)
    np.testing.assert_array_equal(plane, np.roll(np.flip(plane), (1, 1), axis=(0, 1)))


@settings(deadline=None)
@given(units(), st.integers(0, 2**32 - 1))
def test_sums_add_up_and_shared_evenly_come_back(found: Units, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((2, 3, found.grid.n_orbits))
    sums = found.sums(values)
    assert sums.shape == (2, 3, found.n_units)
    for unit in range(found.n_units):
        own = values[..., found.unit_of_orbit == unit].sum(axis=-1)
        np.testing.assert_allclose(sums[..., unit], own, atol=1e-12)
    shared = found.per_orbit(sums)
    assert shared.shape == values.shape
    np.testing.assert_allclose(found.sums(shared), sums, atol=1e-12)
    for unit in range(found.n_units):
        assert np.ptp(shared[..., found.unit_of_orbit == unit], axis=-1).max() == 0


def partition(found: Units) -> set[frozenset[tuple[int, int]]]:
    """The bins of every unit but DC's."""
    plane = plane_of(found)
    groups: dict[int, set[tuple[int, int]]] = {}
    for bin_ in np.ndindex(*plane.shape):
        groups.setdefault(int(plane[bin_]), set()).add(bin_)
    return {frozenset(bins) for unit, bins in groups.items() if unit != 0}


def grouped(grid: FrequencyGrid, name_of: Callable[[tuple[int, int]], object]) -> set[frozenset[object]]:
    """Bins but DC by their name."""
    groups: dict[object, set[object]] = {}
    for bin_ in np.ndindex(grid.height, grid.width):
        if bin_ != (0, 0):
            groups.setdefault(name_of(bin_), set()).add(bin_)
    return {frozenset(bins) for bins in groups.values()}


@settings(deadline=None)
@given(sizes, st.integers(1, 9))
def test_patches_are_mirrored_squares_of_the_centred_plane(size: tuple[int, int], side: int) -> None:
    side = min(side, *size)
    found = Units.named(f"patches:{side}", FrequencyGrid(*size))
    assert partition(found) == grouped(found.grid, lambda bin_: patch_of(*size, side, bin_))


@settings(deadline=None)
@given(sizes)
def test_patches_of_one_bin_are_the_orbits(size: tuple[int, int]) -> None:
    found = Units.named("patches:1", FrequencyGrid(*size))
    assert found.n_units == found.grid.n_orbits
    assert (found.n_orbits_of_unit == 1).all()
    assert not found.single


def test_patches_by_hand() -> None:
    """8 x 8 in squares of 3: rows -1..1, 2..4 (and mirrored), columns 0..1, 2..4."""
    grid = FrequencyGrid(8, 8)
    found = Units.named("patches:3", grid)
    unit = {(u, v): found.unit_of_orbit[grid.orbit_of(u, v)] for u in range(-4, 5) for v in range(-4, 5)}
    groups: dict[int, set[tuple[int, int]]] = {}
    for place, number in unit.items():
        groups.setdefault(int(number), set()).add(place)
    centre = {(u, v) for u in (-1, 0, 1) for v in (-1, 0, 1)} - {(0, 0)}
    assert groups.pop(0) == {(0, 0)}
    assert centre in groups.values()
    corner = {(u, v) for u in (2, 3, 4) for v in (2, 3)}
    assert any(corner <= group for group in groups.values())
    assert len(groups) == 5


@settings(deadline=None)
@given(sizes, st.integers(1, 6), st.integers(1, 12))
def test_tiles_are_cut_along_radius_and_angle(size: tuple[int, int], rings: int, sectors: int) -> None:
    rings = min(rings, min(size) // 2)
    found = Units.named(f"tiles:{rings}x{sectors}", FrequencyGrid(*size))
    assert partition(found) == grouped(found.grid, lambda bin_: tile_of(*size, rings, sectors, bin_))


def test_the_axes_are_not_cut_in_two() -> None:
    grid = FrequencyGrid(32, 32)
    found = Units.named("tiles:1x4", grid)
    assert found.n_units == 5
    beside = [found.unit_of_orbit[grid.orbit_of(u, 9)] for u in (-2, 0, 2)]
    assert len(set(beside)) == 1


def test_the_number_of_units_of_usual_sizes() -> None:
    grid = FrequencyGrid(224, 224)
    assert Units.named("orbits", grid).n_units == Units.named("auto", grid).n_units == 25_090
    assert Units.named("tiles:8x12", grid).n_units == 97
    assert (Units.named("orbits", grid).kind, Units.named("tiles:8x12", grid).kind) == ("orbits", "tiles")
    assert Units.named("auto", grid).single
    assert Units.named("patches:56", grid).kind == "patches"


@pytest.mark.parametrize(
    ("name", "says", "next_step"),
    [
        ("bins", "Resolution 'bins' is not known", "patches:SIDE"),
        ("patches", "'patches' is not known", "patches:4"),
        ("patches:-1", "is not known", "patches:4"),
        ("patches:4x4", "is not known", "patches:4"),
        ("tiles:8", "is not known", "tiles:8x12"),
        ("tiles:8x12 ", "is not known", "tiles:8x12"),
        ("Orbits", "is not known", "orbits"),
        ("", "is not known", "auto"),
        ("patches:0", "Patches of 0 bins do not fit images of 6 x 9", "from 1 to 6"),
        ("patches:7", "Patches of 7 bins do not fit images of 6 x 9", "from 1 to 6"),
        ("tiles:0x4", "Tiles of 0 rings and 4 sectors do not fit", "1 to 3 rings"),
        ("tiles:4x4", "Tiles of 4 rings and 4 sectors do not fit", "1 to 3 rings"),
        ("tiles:3x0", "Tiles of 3 rings and 0 sectors do not fit", "1 to 180 sectors"),
        ("tiles:3x181", "Tiles of 3 rings and 181 sectors do not fit", "1 to 180 sectors"),
    ],
)
def test_units_that_are_none_are_refused(name: str, says: str, next_step: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        Units.named(name, FrequencyGrid(6, 9))
    assert next_step in caught.value.next_step
