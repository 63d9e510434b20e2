"""How far the rings of each class stand out between their flanks, in all directions together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.fourier.cells import SpectrumCells
from shortcut_audit.measures.contrasts import (
    AddedPower,
    ClassContrast,
    leave_one_out_median,
    power_moments,
)

__all__ = ["RingWindow", "contrast_of_rings", "ring_windows"]

Floats = NDArray[np.float64]

_LOWEST_RING = 2
# Of a step up from both flanks, the lesser has to be this share of the difference from their mean.
_LEAST_STEP = 0.5


@dataclass(frozen=True)
class RingWindow:
    """Rings first..last-1 between flanks on both sides (or one), as weights over rings."""

    first: int
    last: int
    inside: Floats
    below: Floats
    above: Floats
    share_below: float


def ring_windows(cells: SpectrumCells, without: NDArray[np.bool_]) -> list[RingWindow]:
    """Windows of 1 ring up to an octave, each with flanks half as wide and at least two rings.

    The lowest rings are left out: there a thing's outline is all there is, and classes differ by right.
    """
    weights: Floats = np.bincount(
        cells.ring_of_orbit[1:],
        weights=np.where(without, 0.0, cells.grid.members)[1:],
        minlength=len(cells.n_in_ring),
    ).astype(np.float64)
    # Rings beyond Nyquist are cut by the corners, and lack the directions that the others have.
    n_rings = cells.n_rings
    windows = []
    for width in (1, 2, 3, 4, 6, 8, 12, 16):
        if width > cells.n_rings // 2:
            break
        flank = max(2, width // 2)
        for first in range(_LOWEST_RING, n_rings - width + 1, max(1, width // 2)):
            last = first + width
            # Over more than an octave, classes differ by the mere curvature of their spectra.
            if last > 2 * first + 1:
                continue
            parts = [
                _part(weights, first, last),
                _part(weights, max(0, first - flank), first),
                _part(weights, last, min(n_rings, last + flank)),
            ]
            if parts[0] is None or (parts[1] is None and parts[2] is None):
                continue
            windows.append(_window(first, last, flank, *parts))
    return windows


def _part(weights: Floats, first: int, last: int) -> Floats | None:
    """Weights over rings of one side, or None where it holds too little to average."""
    if weights[first:last].sum() < 8:
        return None
    part = np.zeros(len(weights))
    part[first:last] = weights[first:last] / weights[first:last].sum()
    return part


def _window(
    first: int,
    last: int,
    flank: int,
    inside: Floats | None,
    below: Floats | None,
    above: Floats | None,
) -> RingWindow:
    assert inside is not None
    if below is None or above is None:
        only = above if below is None else below
        assert only is not None
        return RingWindow(first, last, inside, only, only, 1.0)
    # Power laws are straight over log radius, so flanks are interpolated there.
    centre, low, high = (
        np.log(radius) for radius in ((first + last) / 2, max(first - flank / 2, 0.5), last + flank / 2)
    )
    return RingWindow(first, last, inside, below, above, float((high - centre) / (high - low)))


def contrast_of_rings(
    windows: list[RingWindow], log_rings: list[Floats], power_rings: list[Floats], floor: float
) -> ClassContrast:
    """Contrasts of windows of rings with their flanks.

    `log_rings`, `power_rings`: for every class, the mean log power and the mean power of each ring in
    each image, (n, n_rings). `floor`: power of rounding.
    """
    inside, below, above = (
        np.stack([getattr(w, side) for w in windows], axis=1) for side in ("inside", "below", "above")
    )
    share = np.array([w.share_below for w in windows])
    around = below * share + above * (1 - share)
    n = np.array([len(each) for each in log_rings])
    logs = [np.nan_to_num(each) @ (inside - around) for each in log_rings]
    mean = np.stack([each.mean(axis=0) for each in logs])
    moments, laws = [], []
    for log_power, power in zip(log_rings, power_rings, strict=True):
        within = np.nan_to_num(power)
        flanks = [np.log(within @ side + floor) for side in (below, above)]
        background = np.exp(flanks[0] * share + flanks[1] * (1 - share))
        moments.append(power_moments(within @ inside + floor, background, 0.0))
        laws.append(_law_of_windows(windows, log_power.mean(axis=0)))
    # Windows of one width and of like radius are of one kind.
    width = np.array([w.last - w.first for w in windows])
    octave = np.rint(2 * np.log2(np.array([(w.first + w.last) / 2 for w in windows])))
    # What has a flank on one side only differs more by nature: slopes enter.
    one_sided = np.array([w.below is w.above for w in windows])
    level = np.stack([np.nan_to_num(each).mean(axis=0) for each in log_rings])
    level -= leave_one_out_median(level)
    difference = mean - leave_one_out_median(mean)
    lesser_step = np.minimum(level @ (inside - below), level @ (inside - above))
    return ClassContrast(
        n=n,
        difference=difference,
        variance=np.stack([each.var(axis=0, ddof=1) for each in logs]),
        added=AddedPower(np.stack(moments), np.stack(laws)),
        place=(one_sided * 10_000 + width * 100 + octave).astype(np.int64),
        # Each window overlaps the next by half.
        independent=0.5,
        # Where another class has a pattern in one of the flanks, there is a step on that side alone.
        clear=lesser_step >= _LEAST_STEP * difference,
    )


def _law_of_windows(windows: list[RingWindow], log_power: Floats) -> Floats:
    """Power inside over that of the flanks, were the spectrum a power of the radius.

    Between two flanks it is interpolated so already.
    """
    radius = np.arange(len(log_power)) + 0.5
    there = np.isfinite(log_power) & (radius > 1)
    slope = 0.0
    if there.sum() > 1:
        slope = float(np.polyfit(np.log(radius[there]), log_power[there], 1)[0])
    law = radius ** min(slope, 0.0)
    return np.array([law @ w.inside / (law @ w.below) if w.below is w.above else 1.0 for w in windows])
