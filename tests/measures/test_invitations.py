from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shortcut_audit.fourier.cells import SpectrumCells
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.contrasts import Comb
from shortcut_audit.measures.invitations import (
    LEAST_EXCESS,
    invitations,
    named_combs,
    named_orbits,
    named_rings,
)
from shortcut_audit.measures.ring_contrasts import ring_windows
from shortcut_audit.results.findings import Invitation

GRID = FrequencyGrid(16, 16)


class Found:
    """What a contrast says, with any numbers one likes: (C, n) each."""

    def __init__(self, z: Any, difference: Any = 1.0, passes: Any = True) -> None:
        self.z = np.asarray(z, dtype=float)
        self.difference = np.broadcast_to(np.asarray(difference, dtype=float), self.z.shape)
        self.passes = np.broadcast_to(np.asarray(passes), self.z.shape)
        self.n = np.full(len(self.z), 50)
        self.added = self
        self.unusual = (np.full(self.z.shape, 4.0), np.zeros(self.z.shape))


def test_an_orbit_has_to_be_clear_large_and_its_class_own() -> None:
    z = np.zeros((3, GRID.n_orbits))
    z[0, 5], z[1, 7], z[2, 9] = 6.5, 5.9, 30.0
    named = list(named_orbits(Found(z), 6.0))  # type: ignore[arg-type]
    assert [(one.class_index, one.orbits.tolist(), one.z) for one in named] == [
        (0, [5], 6.5),
        (2, [9], 30),
    ]
    assert {one.added for one in named} == {4.0}
    assert not list(named_orbits(Found(z, difference=LEAST_EXCESS - 0.01), 6.0))  # type: ignore[arg-type]
    assert not list(named_orbits(Found(z, passes=False), 6.0))  # type: ignore[arg-type]


def combs(whole: dict[int, float], own: dict[int, float], median: float = 0.5) -> list[Any]:
    lines = {block: Comb(np.arange(k, k + 6), np.arange(k, k + 3)) for k, block in enumerate(whole, 1)}
    contrasts = {block: (Found([[whole[block]], [0.0]]), Found([[own[block]], [0.0]])) for block in whole}
    by_orbit = Found(np.zeros((2, GRID.n_orbits)), difference=median)
    return list(named_combs(contrasts, lines, by_orbit, 6.0))  # type: ignore[arg-type]


def test_the_largest_block_whose_own_lines_stand_out_is_the_grids() -> None:
    # A grid of 8: the comb of 16 shares its lines, and has others that do not stand out.
    (named,) = combs({4: 9.0, 8: 14.0, 16: 10.0}, {4: 9.0, 8: 12.0, 16: 0.5})
    assert (named.class_index, named.evidence, named.z) == (0, "block grid", 14.0)
    assert named.orbits.tolist() == [2, 3, 4, 5, 6, 7]
    (named,) = combs({4: 9.0, 8: 14.0, 16: 10.0}, {4: 9.0, 8: 12.0, 16: 8.0})
    assert named.z == 10.0
    assert combs({4: 5.0, 8: 5.0}, {4: 5.0, 8: 5.0}) == []


def test_one_strong_wave_on_a_comb_makes_no_grid() -> None:
    assert combs({8: 14.0}, {8: 12.0}, median=-0.01) == []
    assert combs({}, {}) == []


def test_windows_of_a_class_are_taken_by_clearness_and_do_not_touch() -> None:
    cells = SpectrumCells(FrequencyGrid(32, 32), 16, 1)
    windows = ring_windows(cells, np.zeros(cells.grid.n_orbits, bool))
    generator = np.random.default_rng(0)
    z = generator.uniform(3, 20, (3, len(windows)))
    named = list(named_rings(Found(z), windows, cells, 6.0))  # type: ignore[arg-type]
    for label in range(3):
        own = [one for one in named if one.class_index == label]
        assert own[0].z == z[label].max()
        assert [one.z for one in own] == sorted((one.z for one in own), reverse=True)
        taken: set[int] = set()
        for one in own:
            assert one.window is not None
            rings = set(range(one.window.first, one.window.last))
            assert not taken & {ring + step for ring in rings for step in (-1, 0, 1)}
            taken |= rings
            inside = (cells.ring_of_orbit >= one.window.first) & (cells.ring_of_orbit < one.window.last)
            assert one.orbits.tolist() == np.flatnonzero(inside).tolist()
            assert one.z >= 6


@pytest.mark.parametrize("reason", ["", "nothing to compare"])
def test_the_clearest_comes_first_and_the_probe_last(reason: str) -> None:
    def item(name: str, z: float | None, band: int = 1) -> Invitation:
        evidence = "probe" if z is None else "orbits"
        return Invitation(
            class_name=name, band=band, evidence=evidence, n_orbits=1, radius=(1.0, 1.0), z=z
        )

    items = [item("b", None), item("a", 7.0), item("c", 30.0), item("a", 7.0, band=0 + 2)]
    finding = invitations(items, 100, 6.0, reason)
    assert [(i.class_name, i.z, i.band) for i in finding.items] == [
        ("c", 30.0, 1),
        ("a", 7.0, 1),
        ("a", 7.0, 2),
        ("b", None, 1),
    ]
    assert (finding.n_tests, finding.threshold, finding.reason) == (100, 6.0, reason)
