"""Masks over the Fourier plane, Hermitian by construction.

A mask is a choice of orbits. It is spread to the half plane through the grid's own orbit numbers,
so that both members of a pair always share their fate, also in the columns v = 0 and v = W/2.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = ["found_share", "half_plane_mask", "rank_orbits", "top_share"]

BoolArray = NDArray[np.bool_]


def half_plane_mask(grid: FrequencyGrid, chosen: BoolArray) -> Tensor:
    """Spread a choice of orbits to the half plane of `rfft2`.

    `chosen` (..., n_orbits) bool. Returns bool (..., H, W//2+1).

    >>> half_plane_mask(FrequencyGrid(4, 4), np.arange(10) == 0).sum().item()
    1
    """
    if chosen.shape[-1] != grid.n_orbits:
        raise ValueError(f"a mask needs {grid.n_orbits} orbits, not {chosen.shape[-1]}")
    return torch.from_numpy(np.ascontiguousarray(chosen[..., grid.orbit_of_bin]))


def rank_orbits(importance: NDArray[np.floating], rankable: BoolArray) -> NDArray[np.int64]:
    """Rank orbits by falling importance, 1 = most important, 0 = not ranked.

    `importance` (n_orbits,), `rankable` (n_orbits,). Ties keep the order of the grid.
    """
    candidates = np.flatnonzero(rankable)
    order = candidates[np.argsort(-importance[candidates], kind="stable")]
    rank = np.zeros(len(importance), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def top_share(grid: FrequencyGrid, rank: NDArray[np.int64], share: float) -> BoolArray:
    """The leading orbits of a ranking that make up at most `share` of the ranked bins.

    `rank` (n_orbits,) as from `rank_orbits`; `share` in (0, 1]. Orbits count with their members;
    the longest prefix that does not exceed the share is kept, and never less than one orbit.
    Returns bool (n_orbits,).
    """
    order = np.argsort(rank, kind="stable")[np.count_nonzero(rank == 0) :]
    members = np.cumsum(grid.members[order])
    # A hair of tolerance: 0.05 * 1020 is 51.000000000000007 in floating point.
    n_kept = max(1, int(np.count_nonzero(members <= share * members[-1] * (1 + 1e-12))))
    chosen = np.zeros(grid.n_orbits, dtype=np.bool_)
    chosen[order[:n_kept]] = True
    return chosen


def found_share(grid: FrequencyGrid, chosen: BoolArray, rankable: BoolArray) -> float:
    """Share of the rankable bins that a choice of orbits holds, weighted by members, in [0, 1]."""
    members = grid.members
    return float(members[chosen & rankable].sum() / members[rankable].sum())
