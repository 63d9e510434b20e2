"""How far each class's spectrum stands out from its surroundings, and from the other classes.

Every orbit, comb of orbits and ring is compared with its surroundings within the class, and that
contrast with the same contrast in the other classes. The yardstick is not the sampling error alone but
also how much such contrasts differ between classes elsewhere at that radius (an empirical null, Efron
2004). Amplitudes alone are used, never phases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from shortcut_audit.fourier.cells import Neighbours, SpectrumCells, comb_orbits
from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = [
    "ClassContrast",
    "ContrastSums",
    "RingWindow",
    "contrast_of_combs",
    "contrast_of_orbits",
    "contrast_of_rings",
    "leave_one_out_median",
    "power_floor",
    "ring_windows",
]

Floats = NDArray[np.float64]

# Added power has to exceed that of the other classes by this many standard errors, and this factor.
_LEAST_ADDED_Z = 4.0
_LEAST_ADDED_RATIO = 1.25
_BLOCK_SIZES = (4, 8, 16)
_LOWEST_RING = 2


def power_floor(grid: FrequencyGrid) -> Floats:
    """Squared wave amplitude, in (1/255)^2, that rounding to 8 bits alone puts on each orbit.

    Rounding adds white noise of variance 1/12, of which orbit o receives |X|^2 = HW/12.
    """
    floor: Floats = grid.members**2 / (12 * grid.height * grid.width)
    return floor


@dataclass
class ContrastSums:
    """Sums over the images of one class of its contrasts; `add` takes blocks of images.

    Powers are squared wave amplitudes (n, n_orbits) in (1/255)^2, averaged over channels.
    """

    grid: FrequencyGrid
    neighbours: Neighbours
    n: int = 0

    def __post_init__(self) -> None:
        shape = self.grid.n_orbits
        self.log_power, self.contrast, self.contrast_square = (np.zeros(shape) for _ in range(3))
        self.weight, self.weighted, self.square_weight = (np.zeros(shape) for _ in range(3))
        self.square_weighted, self.square_both = np.zeros(shape), np.zeros(shape)
        self.combs = {
            block: orbits for block in _BLOCK_SIZES if len(orbits := self._comparable_comb(block)) >= 3
        }
        self.comb_sums = {block: np.zeros(2) for block in self.combs}

    def _comparable_comb(self, block: int) -> NDArray[np.int64]:
        orbits = comb_orbits(self.grid, block)
        return orbits[self.neighbours.comparable[orbits]]

    def add(self, power: Floats) -> None:
        """Add a block of images."""
        floor = power_floor(self.grid)
        log_power = np.log(power + floor)
        contrast = log_power - self.neighbours.mean(log_power)
        self.n += len(power)
        self.log_power += log_power.sum(axis=0)
        self.contrast += contrast.sum(axis=0)
        self.contrast_square += (contrast**2).sum(axis=0)
        for block, orbits in self.combs.items():
            mean = contrast[:, orbits].mean(axis=1)
            self.comb_sums[block] += mean.sum(), (mean**2).sum()
        around = self.neighbours.mean(power)
        added, weight = power - around, 1 / (around + floor) ** 2
        self.weight += weight.sum(axis=0)
        self.weighted += (weight * added).sum(axis=0)
        self.square_weight += (weight**2).sum(axis=0)
        self.square_weighted += (weight**2 * added).sum(axis=0)
        self.square_both += (weight**2 * added**2).sum(axis=0)


@dataclass(frozen=True)
class ClassContrast:
    """Contrasts of all classes with their surroundings, and with one another.

    Rows are classes; columns orbits, rings or combs. `mean` of the log contrast, `variance` of it over
    single images, `added`: power above the surroundings, weighted towards images with little power of
    their own, which show it best, and `added_error` its standard error. `difference`: of the log
    contrast from that of the other classes. `natural`: spread of natural differences, where it is
    known from elsewhere.
    """

    n: NDArray[np.int64]
    difference: Floats
    variance: Floats
    added: Floats
    added_error: Floats
    place: NDArray[np.int64]
    natural: Floats | None = None
    own_yardstick: bool = False

    @cached_property
    def _error(self) -> Floats:
        """Standard error of `difference`."""
        error = self.variance / self.n[:, None]
        n_others = len(self.n) - 1
        # The median of several means is less efficient than their mean, by pi/2 in variance.
        loss = np.pi / 2 if n_others > 2 else 1.0
        others = (error.sum(axis=0) - error) / n_others
        total: Floats = np.sqrt(error + loss * others / n_others)
        return total

    @cached_property
    def spread(self) -> Floats:
        """Standard deviation of natural differences, by class and column.

        From the spread of the differences at the same `place` over all classes, less what sampling
        explains; with `own_yardstick` that of the class alone, where it is larger: a class that is wild
        all over, as objects on an empty ground are, stands out nowhere.
        """
        if self.natural is not None:
            return self.natural
        spread = np.zeros(self.difference.shape)
        for place in np.unique(self.place):
            here = _wide_enough(self.place, place)
            differences = self.difference[:, here]
            sampling = self._error[:, here] ** 2
            variance = np.full(len(self.n), _robust_variance(differences.ravel()) - np.median(sampling))
            if self.own_yardstick:
                own = [_robust_variance(row) for row in differences] - np.median(sampling, axis=1)
                variance = np.maximum(variance, own)
            spread[:, self.place == place] = np.sqrt(np.maximum(variance, 0.0))[:, None]
        return spread

    @cached_property
    def z(self) -> Floats:
        """`difference` in standard errors, natural differences included, as of a normal variable."""
        scale = np.sqrt(self._error**2 + self.spread**2)
        ratio = np.divide(self.difference, scale, out=np.zeros_like(scale), where=scale > 0)
        # Few images make the tails heavier; the same probability under a normal law is comparable.
        tail = student.logsf(np.abs(ratio), np.maximum(self.n - 1, 1)[:, None])
        return np.sign(ratio) * np.minimum(_normal_isf(tail), np.abs(ratio))

    @cached_property
    def added_passes(self) -> NDArray[np.bool_]:
        """Where the added power exceeds that of the other classes."""
        reference = leave_one_out_median(self.added)
        error = np.sqrt(self.added_error**2 + leave_one_out_median(self.added_error) ** 2)
        enough = self.added - reference >= _LEAST_ADDED_Z * error
        return enough & (self.added > 0) & (self.added >= _LEAST_ADDED_RATIO * reference)


def _robust_variance(values: Floats) -> float:
    """Variance of the bulk of `values`, from the median absolute deviation of a normal law."""
    return float((1.4826 * np.median(np.abs(values - np.median(values)))) ** 2)


def _wide_enough(place: NDArray[np.int64], centre: int) -> NDArray[np.bool_]:
    """Columns at `centre`, and at as many places around it as it takes to have eight."""
    for reach in range(int(place.max()) + 2):
        here: NDArray[np.bool_] = np.abs(place - centre) <= reach
        if here.sum() >= 8:
            break
    return here


def _normal_isf(log_tail: Floats) -> Floats:
    """z with log P(Z > z) = `log_tail`; beyond z = 37, where doubles end, by its asymptote."""
    z = np.full_like(log_tail, np.inf)
    near = log_tail > -680
    z[near] = norm.isf(np.exp(log_tail[near]))
    far = ~near & np.isfinite(log_tail)
    # log P(Z > z) is about -z^2/2 - log z - log(2 pi)/2.
    square = -2 * log_tail[far] - np.log(2 * np.pi)
    z[far] = np.sqrt(square - np.log(square))
    return z


def leave_one_out_median(values: Floats) -> Floats:
    """For every row, the median of all other rows, column by column: (C, n) from (C, n), C >= 2.

    >>> leave_one_out_median(np.array([[1.0], [5.0], [2.0], [9.0]])).ravel().tolist()
    [5.0, 2.0, 5.0, 2.0]
    """
    order = np.sort(values, axis=0)
    rank = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable")
    n_others = len(values) - 1
    middle = [(n_others - 1) // 2, n_others // 2]
    picked = [np.where(rank > m, order[m], order[m + 1]) for m in middle]
    median: Floats = (picked[0] + picked[1]) / 2
    return median


def contrast_of_orbits(sums: list[ContrastSums]) -> ClassContrast:
    """Contrasts of every orbit with its neighbours.

    Classes are compared first, orbit by orbit, and surroundings after: a strong pattern of one class
    would otherwise lower the contrast of its neighbours, and lend other classes an excess there.
    """
    neighbours = sums[0].neighbours
    n = np.array([each.n for each in sums])
    mean = np.stack([each.log_power / each.n for each in sums])
    raw = mean - leave_one_out_median(mean)
    added, error = _added(sums)
    return ClassContrast(
        n=n,
        difference=np.where(neighbours.comparable, raw - neighbours.median(raw), 0.0),
        variance=np.stack([_variance(each.contrast, each.contrast_square, each.n) for each in sums]),
        added=added,
        added_error=error,
        place=np.rint(neighbours.grid.radius / _place_width(neighbours.grid)).astype(np.int64),
        own_yardstick=True,
    )


def _place_width(grid: FrequencyGrid) -> float:
    """Width of the rings within which natural differences are pooled."""
    return max(1.0, min(grid.height, grid.width) / 32)


def _variance(total: Floats, squares: Floats, n: int) -> Floats:
    variance: Floats = np.maximum(squares - total**2 / n, 0) / max(n - 1, 1)
    return variance


def _added(sums: list[ContrastSums]) -> tuple[Floats, Floats]:
    weight = np.stack([each.weight for each in sums])
    added = np.stack([each.weighted for each in sums]) / weight
    square = (
        np.stack([each.square_both for each in sums])
        - 2 * added * np.stack([each.square_weighted for each in sums])
        + added**2 * np.stack([each.square_weight for each in sums])
    )
    return added, np.sqrt(np.maximum(square, 0)) / weight


def contrast_of_combs(sums: list[ContrastSums], by_orbit: ClassContrast) -> dict[int, ClassContrast]:
    """Contrasts of the lines between blocks of pixels, each comb as one unit."""
    found = {}
    for block, orbits in sums[0].combs.items():
        mean = np.array([each.comb_sums[block][0] / each.n for each in sums])[:, None]
        variance = np.array(
            [_variance(each.comb_sums[block][:1], each.comb_sums[block][1:], each.n)[0] for each in sums]
        )
        # Natural differences of single orbits, as if they were independent along the comb.
        natural = np.sqrt((by_orbit.spread[:, orbits] ** 2).mean(axis=1) / len(orbits))
        precision = 1 / np.maximum(by_orbit.added_error[:, orbits] ** 2, 1e-300)
        total = precision.sum(axis=1)
        found[block] = ClassContrast(
            n=by_orbit.n,
            difference=mean - leave_one_out_median(mean),
            variance=variance[:, None],
            added=((by_orbit.added[:, orbits] * precision).sum(axis=1) / total)[:, None],
            added_error=1 / np.sqrt(total)[:, None],
            place=np.zeros(1, dtype=np.int64),
            natural=natural[:, None],
        )
    return found


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
    """Windows of 1 ring up to half of all, each with flanks half as wide and at least two rings.

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
    added, errors = [], []
    for each in power_rings:
        power = np.nan_to_num(each)
        flanks = [np.log(power @ side + floor) for side in (below, above)]
        background = np.exp(flanks[0] * share + flanks[1] * (1 - share))
        weight = 1 / background**2
        excess = power @ inside + floor - background
        estimate = (weight * excess).sum(axis=0) / weight.sum(axis=0)
        added.append(estimate)
        square = (weight**2 * (excess - estimate) ** 2).sum(axis=0)
        errors.append(np.sqrt(square) / weight.sum(axis=0))
    # Windows of one width and of like radius are of one kind.
    width = np.array([w.last - w.first for w in windows])
    octave = np.rint(2 * np.log2(np.array([(w.first + w.last) / 2 for w in windows])))
    # What has a flank on one side only differs more by nature: slopes enter.
    one_sided = np.array([w.below is w.above for w in windows])
    return ClassContrast(
        n=n,
        difference=mean - leave_one_out_median(mean),
        variance=np.stack([each.var(axis=0, ddof=1) for each in logs]),
        added=np.stack(added),
        added_error=np.stack(errors),
        place=(one_sided * 10_000 + width * 100 + octave).astype(np.int64),
    )
