from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import found_share, half_plane_mask, rank_orbits, top_share

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


def test_the_whole_share_keeps_all_ranked_orbits() -> None:
    grid = FrequencyGrid(6, 5)
    rankable = np.arange(grid.n_orbits) > 0
    chosen = top_share(grid, rank_orbits(np.arange(grid.n_orbits, dtype=float), rankable), 1.0)
    assert (chosen == rankable).all()
    assert found_share(grid, chosen, rankable) == 1.0


def test_a_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="10 orbits"):
        half_plane_mask(FrequencyGrid(4, 4), np.ones(9, dtype=bool))
