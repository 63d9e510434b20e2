"""Random orbits of the same radii: what every shuffled ranking keeps of the ranking it stands for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import radius_of

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import matched_ranks

sizes = st.tuples(st.integers(2, 12), st.integers(2, 12))


def some_ranking(grid: FrequencyGrid, generator: np.random.Generator, share: float) -> np.ndarray:
    """A random ranking of a share of the orbits without DC, at least one; the others 0."""
    rankable = np.arange(1, grid.n_orbits)
    chosen = generator.permutation(rankable)[: max(1, round(share * len(rankable)))]
    rank = np.zeros(grid.n_orbits, dtype=np.int64)
    rank[chosen] = np.arange(1, len(chosen) + 1)
    return rank


def rounded_radii(grid: FrequencyGrid) -> np.ndarray:
    """Radius of each orbit in whole cycles, from its name alone."""
    names = zip(grid.u.tolist(), grid.v.tolist(), strict=True)
    return np.array([round(radius_of(grid.height, grid.width, name)) for name in names])


@settings(deadline=None)
@given(sizes, st.integers(0, 2**32 - 1), st.floats(0.05, 1))
def test_every_prefix_has_as_many_orbits_at_every_radius(
    size: tuple[int, int], seed: int, share: float
) -> None:
    grid, generator = FrequencyGrid(*size), np.random.default_rng(seed)
    rank = some_ranking(grid, generator, share)
    radii = rounded_radii(grid)
    for shuffled in matched_ranks(grid, rank, 3, generator):
        # A permutation of the same orbits: what was not ranked is not.
        assert sorted(shuffled.tolist()) == sorted(rank.tolist())
        np.testing.assert_array_equal(shuffled == 0, rank == 0)
        before: set[int] = set()
        for m in range(1, rank.max() + 1):
            ours, theirs = (np.flatnonzero((r > 0) & (r <= m)) for r in (shuffled, rank))
            assert sorted(radii[ours].tolist()) == sorted(radii[theirs].tolist())
            assert before < set(ours.tolist())
            before = set(ours.tolist())


def test_every_orbit_of_a_radius_stands_in_as_often_as_any_other() -> None:
    grid = FrequencyGrid(12, 12)
    rank = some_ranking(grid, np.random.default_rng(0), 1.0)
    radii = rounded_radii(grid)
    first = int(np.flatnonzero(rank == 1)[0])
    alike = np.flatnonzero((radii == radii[first]) & (rank > 0))
    assert len(alike) >= 5
    n = 4000
    shuffled = matched_ranks(grid, rank, n, np.random.default_rng(1))
    counts = np.array([(shuffled[:, orbit] == 1).sum() for orbit in alike])
    assert counts.sum() == n
    # Multinomial counts stay within five standard deviations of even shares.
    share = 1 / len(alike)
    assert np.abs(counts - n * share).max() < 5 * np.sqrt(n * share * (1 - share))


def test_the_same_random_numbers_give_the_same_sets_and_others_give_others() -> None:
    grid = FrequencyGrid(11, 8)
    rank = some_ranking(grid, np.random.default_rng(0), 0.8)
    one, same, other = (matched_ranks(grid, rank, 2, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one[0] != one[1]).any()
