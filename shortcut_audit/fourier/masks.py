"""Masks over the Fourier plane, Hermitian by construction.

A mask is a choice of orbits. It is spread to the half plane through the grid's own orbit numbers,
so that both members of a pair always share their fate, also in the columns v = 0 and v = W/2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = [
    "BoolArray",
    "band_mask",
    "found_share",
    "half_plane_mask",
    "hermitian_part",
    "matched_ranks",
    "orbit_mask",
    "radial_mask",
    "rank_orbits",
    "require_hermitian",
    "sector_mask",
    "square_mask",
    "top_share",
]

BoolArray = NDArray[np.bool_]

# Borders that a user writes in decimals should catch the bins that lie on them.
_HAIR = 1e-9


def half_plane_mask(grid: FrequencyGrid, chosen: BoolArray) -> Tensor:
    """Spread a choice of orbits to the half plane of `rfft2`.

    `chosen` (..., n_orbits) bool. Returns bool (..., H, W//2+1).

    >>> half_plane_mask(FrequencyGrid(4, 4), np.arange(10) == 0).sum().item()
    1
    """
    if chosen.shape[-1] != grid.n_orbits:
        raise ValueError(f"a mask needs {grid.n_orbits} orbits, not {chosen.shape[-1]}")
    return torch.from_numpy(np.ascontiguousarray(chosen[..., grid.orbit_of_bin]))


def rank_orbits(
    importance: NDArray[np.floating],
    rankable: BoolArray,
    coarse: NDArray[np.floating] | None = None,
) -> NDArray[np.int64]:
    """Rank orbits by falling importance, 1 = most important, 0 = not ranked.

    `importance` (n_orbits,), `rankable` (n_orbits,). With `coarse` (n_orbits,), by that first and by
    importance among equals. Ties keep the order of the grid.
    """
    candidates = np.flatnonzero(rankable)
    keys = (
        (-importance[candidates],) if coarse is None else (-importance[candidates], -coarse[candidates])
    )
    order = candidates[np.lexsort(keys)]
    rank = np.zeros(len(importance), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def matched_ranks(
    grid: FrequencyGrid, rank: NDArray[np.integer], n: int, generator: np.random.Generator
) -> NDArray[np.int32]:
    """`rank` (n_orbits,) shuffled `n` times among orbits of equal radius, (n, n_orbits).

    Radii are rounded to whole cycles. The first m orbits of a shuffled ranking are a random set with
    as many orbits at every radius as the first m of `rank` have; sets of smaller m lie within those of
    larger ones. Orbits that are not ranked (0) stay so.

    >>> grid = FrequencyGrid(8, 8)
    >>> rank = np.arange(grid.n_orbits)
    >>> shuffled = matched_ranks(grid, rank, 1, np.random.default_rng(0))[0]
    >>> bool(grid.radius[shuffled == 5].round() == grid.radius[rank == 5].round())
    True
    """
    ranked = np.flatnonzero(rank)
    ring = np.rint(grid.radius[ranked]).astype(np.int64)
    by_ring = np.argsort(ring, kind="stable")
    places, rings = ranked[by_ring], ring[by_ring]
    shuffled = np.zeros((n, grid.n_orbits), dtype=np.int32)
    for row in shuffled:
        row[places[np.lexsort((generator.random(len(places)), rings))]] = rank[places]
    return shuffled


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


def radial_mask(grid: FrequencyGrid, low: float, high: float = math.inf) -> BoolArray:
    """Orbits of radius low <= r < high, bool (n_orbits,); DC, at radius 0, among them where low is 0.

    Radii in cycles per shorter side, up to the plane's corner; `high` inf for an open end.
    Raises SettingsError for reversed borders, and for borders beyond the plane.

    >>> int(radial_mask(FrequencyGrid(8, 8), 0, 1.2).sum())  # DC, (0, 1) and (1, 0)
    3
    """
    corner = float(grid.radius.max())
    if not 0 <= low < high:
        raise SettingsError(
            f"Radii {low:g} to {high:g} are no band.", "Give the lower one first, from 0: radius:4-8"
        )
    if low > corner + _HAIR or (math.isfinite(high) and high > corner + _HAIR):
        raise SettingsError(
            f"Radii {low:g} to {high:g} leave the plane of {_size(grid)} images, whose corner has radius"
            f" {corner:.2f}.",
            f"For all above {low:g}, leave the end open: radius:{low:g}-"
            if low <= corner
            else f"Stay below {corner:.2f} cycles per shorter side.",
        )
    return (grid.radius >= low - _HAIR) & (grid.radius < high - _HAIR)


def band_mask(grid: FrequencyGrid, band: int, n_bands: int = 4) -> BoolArray:
    """Orbits of one of `n_bands` rings of equal width, bool (n_orbits,), without DC.

    `band` counts from 1 (lowest); the last one also holds the corners, as in `FrequencyGrid.bands`.
    Raises SettingsError when there is no such band.
    """
    if n_bands < 1 or not 1 <= band <= n_bands:
        raise SettingsError(
            f"There is no band {band} of {n_bands}.", "Bands count from 1, the lowest: band:2/4"
        )
    chosen: BoolArray = grid.bands(n_bands) == band - 1
    return chosen


def sector_mask(grid: FrequencyGrid, low: float, high: float) -> BoolArray:
    """Orbits whose wave points low <= angle < high, bool (n_orbits,), without DC, which points nowhere.

    Degrees as `FrequencyGrid.angle`: 0 is a wave along the width (upright stripes), 90 one along the
    height. A direction and its opposite are one, so a sector may run over 90: 80 to 100 and
    80 to -80 are the same. Raises SettingsError for angles beyond +-180 and for an empty sector.
    """
    if not (abs(low) <= 180 and abs(high) <= 180):
        raise SettingsError(
            f"Angles {low:g} to {high:g} leave the plane.", "Directions are degrees from -90 to 90."
        )
    width = high - low
    if width < 0:
        width %= 180
    if width == 0:
        raise SettingsError(
            f"A sector from {low:g} to {high:g} degrees is empty.", "Give two directions: angle:30-60"
        )
    if width > 180:
        raise SettingsError(
            f"A sector from {low:g} to {high:g} degrees is wider than the 180 there are.",
            "Give two directions: angle:30-60",
        )
    # Rounded before the remainder: a hair below 0 would become a hair below 180.
    chosen: BoolArray = np.round(grid.angle - low, 9) % 180 < width - _HAIR
    chosen[0] = False
    return chosen


def square_mask(grid: FrequencyGrid, cutoff: float) -> BoolArray:
    """Orbits within a square around DC, DC among them, bool (n_orbits,).

    |u| <= cutoff * H/2 and |v| <= cutoff * W/2, `cutoff` in [0, 1]: the low pass of accuracy curves
    (Gavrikov & Keuper, 2024), with both members of every pair on its border.
    Raises SettingsError for other cut-offs.
    """
    if not 0 <= cutoff <= 1:
        raise SettingsError(
            f"A square low pass of cut-off {cutoff:g} leaves the plane.",
            "Cut-offs are shares of the Nyquist frequency, from 0 to 1: square:0.3",
        )
    inside_rows = np.abs(grid.u) <= cutoff * grid.height / 2 + _HAIR
    return inside_rows & (grid.v <= cutoff * grid.width / 2 + _HAIR)


def orbit_mask(grid: FrequencyGrid, orbits: Iterable[tuple[int, int]]) -> BoolArray:
    """The orbits that hold the bins `orbits` (u, v), either member of each, bool (n_orbits,).

    Raises SettingsError for a bin outside the plane: |u| > H/2 or |v| > W/2.
    """
    chosen = np.zeros(grid.n_orbits, dtype=np.bool_)
    for u, v in orbits:
        if 2 * abs(u) > grid.height or 2 * abs(v) > grid.width:
            raise SettingsError(
                f"Orbit ({u}, {v}) lies outside the plane of {_size(grid)} images.",
                f"There, u goes from -{grid.height // 2} to {grid.height // 2} (cycles per height) and v"
                f" from -{grid.width // 2} to {grid.width // 2} (cycles per width).",
            )
        chosen[grid.orbit_of(u, v)] = True
    return chosen


def hermitian_part(plane: NDArray[np.generic], *, centred: bool = False) -> NDArray[np.generic]:
    """The smallest Hermitian mask that holds `plane` (H, W): each pair takes its larger value.

    `centred`: zero frequency lies in the middle (`np.fft.fftshift`), not at [0, 0] (`np.fft.fft2`).

    >>> hermitian_part(np.eye(1, 5, 1, dtype=bool)).astype(int)
    array([[0, 1, 0, 0, 1]])
    """
    whole = np.maximum(plane, _mirrored(plane, centred=centred))
    return np.asarray(whole)


def require_hermitian(
    plane: NDArray[np.generic], *, centred: bool = False, what: str = "The mask"
) -> NDArray[np.generic]:
    """`plane` (H, W), uncentred, when every bin agrees with its conjugate.

    Raises SettingsError that names bins which do not, and says how to symmetrise.
    """
    uncentred = np.fft.ifftshift(plane) if centred else plane
    odd = np.argwhere(uncentred != _mirrored(uncentred, centred=False))
    if len(odd) == 0:
        return np.asarray(uncentred)
    # Both members of a pair disagree; the first one met names it.
    sizes = np.array(plane.shape)
    numbers = odd @ (sizes[1], 1), (-odd % sizes) @ (sizes[1], 1)
    first = odd[numbers[0] < numbers[1]]
    named = np.where(2 * first > sizes, first - sizes, first).tolist()
    shown = ", ".join(f"({u}, {v}) and ({-u}, {-v})" for u, v in named[:3])
    more = f" and {len(named) - 3:,} more" if len(named) > 3 else ""
    raise SettingsError(
        f"{what} is not Hermitian, so what it leaves of an image is not real: {_pairs(len(named))} of"
        f" conjugate bins (u, v) differ{'s' if len(named) == 1 else ''}, {shown}{more}.",
        _symmetrise(centred),
    )


def _pairs(n: int) -> str:
    return "1 pair" if n == 1 else f"{n:,} pairs"


def _symmetrise(centred: bool) -> str:
    if centred:
        return (
            "Symmetrise it: m = np.fft.ifftshift(mask); mask = np.fft.fftshift(np.maximum(m,"
            " np.roll(m[::-1, ::-1], 1, (0, 1))))"
        )
    return "Symmetrise it: mask = np.maximum(mask, np.roll(mask[::-1, ::-1], 1, (0, 1)))"


def _mirrored(plane: NDArray[np.generic], *, centred: bool) -> NDArray[np.generic]:
    """Each bin's conjugate, for odd and even sizes."""
    uncentred = np.fft.ifftshift(plane) if centred else plane
    mirrored = np.roll(np.flip(uncentred), (1, 1), axis=(0, 1))
    return np.asarray(np.fft.fftshift(mirrored) if centred else mirrored)


def _size(grid: FrequencyGrid) -> str:
    return f"{grid.height} x {grid.width}"
