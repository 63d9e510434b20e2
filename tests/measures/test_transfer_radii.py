"""Which waves are as fine as a shortcut's, and light: against a slow replica, and known cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.cases import ring_numbers
from shortcut_audit.measures.transfer_radii import energy_shares, with_its_radii
from shortcut_audit.measures.trials import without_lines

GRID = FrequencyGrid(16, 16)
RING = ring_numbers(GRID)
# Every orbit light, so that rings are limited by nothing.
FEATHERS = np.full(GRID.n_orbits, 1e-6)
FEATHERS[0] = np.inf


def ladder(*orbits: int) -> tuple[np.ndarray, np.ndarray]:
    """`best` and `order` of a rung of these orbits, the most important first."""
    order = np.zeros(GRID.n_orbits, dtype=np.int32)
    order[list(orbits)] = np.arange(1, len(orbits) + 1)
    return order > 0, order


def in_ring(*numbers: int) -> list[int]:
    return np.flatnonzero(np.isin(RING, numbers)).tolist()


def chosen(best: np.ndarray, order: np.ndarray, shares: np.ndarray) -> list[int]:
    return np.flatnonzero(with_its_radii(GRID, best, order, shares)).tolist()


def slow(best: np.ndarray, order: np.ndarray, shares: np.ndarray) -> list[int]:
    """By the words of the docstring, with sets."""
    own = set(np.flatnonzero(best).tolist())
    rings = {n: set(in_ring(n)) for n in range(1, RING.max() + 1)}
    most = max(len(own & members) for members in rings.values())
    main = min(n for n, members in rings.items() if len(own & members) == most)
    near = [n for n in (main - 1, main + 1) if n in rings]
    if len(near) == 2 and len(own & rings[near[1]]) > len(own & rings[near[0]]):
        near.reverse()
    taken: set[int] = set()
    for number in (main, *near):
        if sum(shares[n] for n in taken | rings[number]) <= 0.16:
            taken |= rings[number]
    for orbit in sorted(own - taken, key=lambda n: order[n]):
        if sum(shares[n] for n in taken) + shares[orbit] <= 0.16:
            taken.add(orbit)
    return sorted(taken) if taken - own else []


def test_one_wave_brings_its_ring_and_the_rings_next_to_it() -> None:
    assert chosen(*ladder(in_ring(5)[3]), FEATHERS) == in_ring(4, 5, 6)
    assert chosen(*ladder(in_ring(2)[0]), FEATHERS) == in_ring(2, 3)
    assert chosen(*ladder(in_ring(9)[0]), FEATHERS) == in_ring(8, 9)


def test_waves_elsewhere_stay_with_it() -> None:
    two, far = in_ring(3)[:2], in_ring(8)[0]
    assert chosen(*ladder(far, *two), FEATHERS) == sorted([*in_ring(2, 3, 4), far])


def test_what_is_heavy_stays_out() -> None:
    shares = FEATHERS.copy()
    shares[in_ring(4)] = 0.2
    wave = in_ring(5)[3]
    assert chosen(*ladder(wave), shares) == in_ring(5, 6)
    # The ring next to it that holds more of the rung comes first, and leaves no room for the other.
    shares = FEATHERS.copy()
    shares[in_ring(4)] = 0.1 / len(in_ring(4))
    shares[in_ring(6)] = 0.1 / len(in_ring(6))
    assert chosen(*ladder(*in_ring(5)[:3], in_ring(6)[0]), shares) == in_ring(5, 6)
    assert chosen(*ladder(*in_ring(5)[:3], in_ring(4)[0]), shares) == in_ring(4, 5)


def test_where_nothing_light_is_near_there_is_nothing_wide() -> None:
    shares = FEATHERS.copy()
    shares[in_ring(4, 5, 6)] = 0.05
    best, order = ladder(in_ring(5)[3], in_ring(8)[0])
    assert chosen(best, order, shares) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(-3.0, 0.5))
@settings(max_examples=40, deadline=None)
def test_it_is_that_of_the_slow_replica_and_light(seed: int, n: int, weight: float) -> None:
    generator = np.random.default_rng(seed)
    best, order = ladder(*(1 + generator.permutation(GRID.n_orbits - 1)[:n]).tolist())
    shares = generator.exponential(size=GRID.n_orbits) * 10**weight / GRID.n_orbits
    shares[0] = np.inf
    found = chosen(best, order, shares)
    assert found == slow(best, order, shares)
    assert 0 not in found
    assert shares[found].sum() <= 0.16 + 1e-9
    assert not found or set(found) - set(np.flatnonzero(best).tolist())


def test_energies_are_those_of_a_class_and_of_all_others_over_the_latter() -> None:
    generator = np.random.default_rng(3)
    sums, n_images = generator.exponential(size=(3, GRID.n_orbits)), np.array([2, 5, 3])
    own, foreign = sums[1] / 5, (sums[0] + sums[2]) / 5
    expected = (without_lines(GRID, own) + without_lines(GRID, foreign)) / foreign[1:].sum()
    found = energy_shares(GRID, 1, (sums, n_images))
    assert found[1:] == pytest.approx(expected[1:])
    assert found[0] == np.inf


def test_a_line_weighs_no_more_than_its_neighbours() -> None:
    """A loud stripe is light; a texture as loud in the whole ring is not."""
    flat = np.ones((2, GRID.n_orbits)) / GRID.n_orbits * GRID.members
    stripe, texture = flat.copy(), flat.copy()
    stripe[0, in_ring(5)[3]] += 1.0
    texture[0, in_ring(5)] += 0.1
    ones = np.array([1, 1])
    base = energy_shares(GRID, 0, (flat, ones))[in_ring(5)].sum()
    assert energy_shares(GRID, 0, (stripe, ones))[in_ring(5)].sum() < base * 1.2
    assert energy_shares(GRID, 0, (texture, ones))[in_ring(5)].sum() > base + 0.5
