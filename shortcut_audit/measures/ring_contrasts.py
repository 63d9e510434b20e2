"""How far the rings of each class stand out between their flanks, in all directions together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.fourier.cells import SpectrumCells
from shortcut_audit.measures.contrasts import (
    LEAST_STEP,
    AddedPower,
    ClassContrast,
    leave_one_out_median,
    power_moments,
    robust_variance,
)

__all__ = ["RingWindow", "contrast_of_rings", "ring_windows"]

Floats = NDArray[np.float64]

_LOWEST_RING = 2
# Windows whose differences make the yardstick of one.
_LIKE_WINDOWS = 12


@dataclass(frozen=True)
class RingWindow:
    """Rings first..last-1 and two flanks, as weights over rings that sum to 1.

    The flanks lie on both sides, or, where the plane ends, one behind the other on one side. At
    `share_near` of `near` and the rest of `far`, a power law gives the level inside.
    """

    first: int
    last: int
    inside: Floats
    near: Floats
    far: Floats
    share_near: float

    @property
    def around(self) -> Floats:
        """Weights over rings whose mean is what a power law has inside."""
        return self.near * self.share_near + self.far * (1 - self.share_near)

    def touches(self, other: RingWindow) -> bool:
        """Whether this window or its flanks hold a ring of the inside of `other`."""
        own = (self.inside > 0) | (self.near > 0) | (self.far > 0)
        return bool(own[other.first : other.last].any())


def ring_windows(cells: SpectrumCells, without: NDArray[np.bool_]) -> list[RingWindow]:
    """Windows of 1 ring up to an octave, with flanks half as wide and at least two rings.

    The lowest rings are left out: there a thing's outline is all there is, and classes differ by right.
    """
    weights: Floats = np.bincount(
        cells.ring_of_orbit[1:],
        weights=np.where(without, 0.0, cells.grid.members)[1:],
        minlength=len(cells.n_in_ring),
    ).astype(np.float64)
    # Rings beyond Nyquist are cut by the corners, and lack the directions that the others have.
    weights[cells.n_rings :] = 0
    windows = []
    for width in (1, 2, 3, 4, 6, 8, 12, 16):
        if width > cells.n_rings // 2:
            break
        for first in range(_LOWEST_RING, cells.n_rings - width + 1, max(1, width // 2)):
            last = first + width
            # Over more than an octave, classes differ by the mere curvature of their spectra.
            if last > 2 * first + 1:
                continue
            window = _window(weights, first, last, max(2, width // 2))
            if window is not None:
                windows.append(window)
    return windows


def _window(weights: Floats, first: int, last: int, flank: int) -> RingWindow | None:
    """Between flanks on both sides, else beside two on one; None where they hold too little."""
    for near, far in (
        ((first - flank, first), (last, last + flank)),
        ((first - flank, first), (first - 2 * flank, first - flank)),
        ((last, last + flank), (last + flank, last + 2 * flank)),
    ):
        parts = [_part(weights, *rings) for rings in ((first, last), near, far)]
        if parts[0] is None or parts[1] is None or parts[2] is None:
            continue
        inside, close, away = parts[0], parts[1], parts[2]
        # Power laws are straight over log radius.
        centre, at_near, at_far = (
            np.log(max(sum(rings) / 2, 0.5)) for rings in ((first, last), near, far)
        )
        share = float((at_far - centre) / (at_far - at_near))
        return RingWindow(first, last, inside, close, away, share)
    return None


def _part(weights: Floats, first: int, last: int) -> Floats | None:
    """Weights over rings of one part, or None where it leaves the plane or holds too little."""
    part = np.zeros(len(weights))
    part[max(first, 0) : last] = weights[max(first, 0) : last]
    total = float(part.sum())
    return None if total < 8 else part / total


def contrast_of_rings(
    windows: list[RingWindow], log_rings: list[Floats], power_rings: list[Floats], floor: float
) -> ClassContrast:
    """Contrasts of windows of rings with their flanks.

    `log_rings`, `power_rings`: for every class, the mean log power and the mean power of each ring in
    each image, (n, n_rings). `floor`: power of rounding.
    """
    inside, near, far, around = (
        np.stack([getattr(w, part) for w in windows], axis=1)
        for part in ("inside", "near", "far", "around")
    )
    share = np.array([w.share_near for w in windows])
    logs = [np.nan_to_num(each) @ (inside - around) for each in log_rings]
    mean = np.stack([each.mean(axis=0) for each in logs])
    moments = []
    for each in power_rings:
        power = np.nan_to_num(each)
        background = np.exp(
            np.log(power @ near + floor) * share + np.log(power @ far + floor) * (1 - share)
        )
        moments.append(power_moments(power @ inside + floor, background, 0.0))
    level = np.stack([np.nan_to_num(each).mean(axis=0) for each in log_rings])
    level -= leave_one_out_median(level)
    difference = mean - leave_one_out_median(mean)
    lesser_step = np.minimum(level @ (inside - near), level @ (inside - far))
    # Windows of one width and of like radius are of one kind.
    width = np.array([w.last - w.first for w in windows])
    octave = np.rint(2 * np.log2(np.array([(w.first + w.last) / 2 for w in windows])))
    contrast = ClassContrast(
        n=np.array([len(each) for each in log_rings]),
        difference=difference,
        variance=np.stack([each.var(axis=0, ddof=1) for each in logs]),
        added=AddedPower(np.stack(moments), np.ones(mean.shape)),
        place=(width * 100 + octave).astype(np.int64),
        # Where another class has a pattern in one of the flanks, there is a step on that side alone.
        clear=lesser_step >= LEAST_STEP * difference,
    )
    return replace(contrast, natural=_spread_elsewhere(contrast, windows))


def _spread_elsewhere(contrast: ClassContrast, windows: list[RingWindow]) -> Floats:
    """Spread of natural differences for each window, from those of like kind that do not touch it.

    A pattern in a ring is in every window around it, and would hide itself: of few classes it is half of
    all differences there. Natural differences are smooth over log radius, so windows that span as much of
    it are of like kind.
    """
    spread = np.zeros(contrast.difference.shape)
    span = np.log([w.last / w.first for w in windows])
    for number, window in enumerate(windows):
        apart = np.flatnonzero([not other.touches(window) for other in windows])
        nearest = apart[np.argsort(np.abs(span[apart] - span[number]), kind="stable")][:_LIKE_WINDOWS]
        if len(nearest) < 2:
            nearest = np.arange(len(windows))
        variance = robust_variance(contrast.difference[:, nearest].ravel())
        variance -= float(np.median(contrast.error[:, nearest] ** 2))
        spread[:, number] = np.sqrt(max(variance, 0.0))
    return spread
