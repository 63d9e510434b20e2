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

from shortcut_audit.fourier.cells import Neighbours, comb_orbits
from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = [
    "LEAST_STEP",
    "AddedPower",
    "ClassContrast",
    "Comb",
    "ContrastSums",
    "contrast_of_combs",
    "contrast_of_orbits",
    "leave_one_out_median",
    "power_floor",
    "power_moments",
    "robust_variance",
]

Floats = NDArray[np.float64]

# Added power has to exceed that of the other classes by this many standard errors, and this factor.
_LEAST_ADDED_Z = 4.0
_LEAST_ADDED_RATIO = 1.25
_BLOCK_SIZES = (4, 8, 16)
# Of the steps up from two kinds of surroundings, the lesser has to be this share of the difference.
LEAST_STEP = 0.5


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
        self.moments = np.zeros((len(_MOMENTS), shape))
        self.combs = _combs(self.grid, self.neighbours)
        self.comb_sums = {block: np.zeros((2, 2)) for block in self.combs}

    def add(self, power: Floats) -> None:
        """Add a block of images."""
        floor = power_floor(self.grid)
        log_power = np.log(power + floor)
        contrast = log_power - self.neighbours.mean(log_power)
        self.n += len(power)
        self.log_power += log_power.sum(axis=0)
        self.contrast += contrast.sum(axis=0)
        self.contrast_square += (contrast**2).sum(axis=0)
        for block, comb in self.combs.items():
            for row, orbits in enumerate((comb.lines, comb.own_lines)):
                mean = contrast[:, orbits].mean(axis=1)
                self.comb_sums[block][row] += mean.sum(), (mean**2).sum()
        self.moments += power_moments(power, self.neighbours.mean(power), floor)


@dataclass(frozen=True)
class Comb:
    """Orbits of the lines between blocks; `own_lines` without those that blocks half as large have."""

    lines: NDArray[np.int64]
    own_lines: NDArray[np.int64]


def _combs(grid: FrequencyGrid, neighbours: Neighbours) -> dict[int, Comb]:
    """Combs of the usual block sizes that the grid holds at least three comparable lines of."""
    found: dict[int, Comb] = {}
    for block in _BLOCK_SIZES:
        lines = comb_orbits(grid, block)
        lines = lines[neighbours.comparable[lines]]
        own = lines[~np.isin(lines, comb_orbits(grid, block // 2))]
        if len(lines) >= 3 and len(own) >= 2:
            found[block] = Comb(lines, own)
    return found


# Sums over images of weights w, power P and power of the surroundings A, in this order.
_MOMENTS = ("w", "wP", "wA", "ww", "wwP", "wwA", "wwPP", "wwPA", "wwAA")


def power_moments(power: Floats, around: Floats, floor: Floats | float) -> Floats:
    """Sums (9, n) over images of `power` and that of the surroundings `around`, both (n_images, n).

    Images are weighted by 1 / (around + floor): those with little power of their own show best what was
    added. The square of that would be best if all images carried it, but rests on a few of them.
    """
    w = 1 / (around + floor)
    parts = (w, w * power, w * around)
    squares = (w * w, w * w * power, w * w * around)
    both = (squares[1] * power, squares[1] * around, squares[2] * around)
    return np.stack([part.sum(axis=0) for part in (*parts, *squares, *both)])


@dataclass(frozen=True)
class AddedPower:
    """Power of every class beyond that of its surroundings.

    `moments` (C, 9, n): sums over images. `law` (C, n): what the class's own spectrum, which falls as a
    power of the radius, lets expect, in units of its surroundings.
    """

    moments: Floats
    law: Floats

    def _beyond(self, share: Floats) -> tuple[Floats, Floats]:
        """Mean power beyond `share` of the surroundings, and its standard error, (C, n)."""
        w, wp, wa, ww, wwp, wwa, wwpp, wwpa, wwaa = self.moments.swapaxes(0, 1)
        mean = (wp - share * wa) / w
        square = wwpp - 2 * share * wwpa + share**2 * wwaa - 2 * mean * (wwp - share * wwa) + mean**2 * ww
        return mean, np.sqrt(np.maximum(square, 0)) / w

    @cached_property
    def unusual(self) -> tuple[Floats, Floats]:
        """Power beyond the share of the surroundings that is usual in other classes, and its error."""
        w, wp, wa = self.moments.swapaxes(0, 1)[:3]
        around = wa / w
        share = np.divide(wp, wa, out=np.ones_like(wp), where=wa > 0)
        of_share = np.divide(self._beyond(share)[1], around, out=np.zeros_like(w), where=wa > 0)
        mean, error = self._beyond(leave_one_out_median(share))
        return mean, np.hypot(error, leave_one_out_median(of_share) * around)

    @cached_property
    def passes(self) -> NDArray[np.bool_]:
        """Where a class has power that neither its surroundings nor the other classes explain.

        Natural spectra differ in level: the same share of the surroundings is natural. A pattern that
        all classes carry adds the same power to all: the same power is none of a class's own. With one
        or two other classes, what they lack may be a pattern of theirs in the surroundings: then the
        class has to stand out by itself, too.
        """
        added, error = self._beyond(self.law)
        reference = leave_one_out_median(added)
        both = np.hypot(error, leave_one_out_median(error))
        alike = (added - reference >= _LEAST_ADDED_Z * both) & (added >= _LEAST_ADDED_RATIO * reference)
        unusual, its_error = self.unusual
        passes: NDArray[np.bool_] = alike & (unusual > 0) & (unusual >= _LEAST_ADDED_Z * its_error)
        if len(added) <= 3:
            passes &= (added > 0) & (added >= _LEAST_ADDED_Z * error)
        return passes


@dataclass(frozen=True)
class ClassContrast:
    """Contrasts of all classes with their surroundings, and with one another.

    Rows are classes; columns orbits, rings or combs. `difference`: of the log contrast from that of the
    other classes; `variance` of the log contrast over single images. `added`: power beyond the
    surroundings. `place`: columns of one place have one yardstick. `natural`: spread of natural
    differences, where it is known from elsewhere. `clear`: where the difference is the class's own, and
    none of another class in the surroundings.
    """

    n: NDArray[np.int64]
    difference: Floats
    variance: Floats
    added: AddedPower
    place: NDArray[np.int64]
    natural: Floats | None = None
    own_yardstick: bool = False
    clear: NDArray[np.bool_] | None = None

    @property
    def passes(self) -> NDArray[np.bool_]:
        """Where something was added to the class, and to no other."""
        passes = self.added.passes
        return passes if self.clear is None else passes & self.clear

    @cached_property
    def _null_variance(self) -> Floats:
        """Variance of the log contrast over single images, were nothing added.

        Where only some images carry a pattern, they differ all the more for it; so the class's own
        variance counts as it is at the same `place`, and that of the other classes where they are.
        """
        usual = np.zeros(self.variance.shape)
        for place in np.unique(self.place):
            here = _wide_enough(self.place, place)
            usual[:, self.place == place] = np.median(self.variance[:, here], axis=1)[:, None]
        return np.maximum(usual, leave_one_out_median(self.variance, low=True))

    @cached_property
    def error(self) -> Floats:
        """Standard error of `difference`, were nothing added."""
        error = self._null_variance / self.n[:, None]
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
            sampling = self.error[:, here] ** 2
            variance = np.full(len(self.n), robust_variance(differences.ravel()) - np.median(sampling))
            if self.own_yardstick:
                own = [robust_variance(row) for row in differences] - np.median(sampling, axis=1)
                variance = np.maximum(variance, own)
            spread[:, self.place == place] = np.sqrt(np.maximum(variance, 0.0))[:, None]
        return spread

    @cached_property
    def z(self) -> Floats:
        """`difference` in standard errors, natural differences included, as of a normal variable."""
        scale = np.sqrt(self.error**2 + self.spread**2)
        ratio = np.divide(self.difference, scale, out=np.zeros_like(scale), where=scale > 0)
        # Few images make the tails heavier; the same probability under a normal law is comparable.
        tail = student.logsf(np.abs(ratio), np.maximum(self.n - 1, 1)[:, None])
        return np.sign(ratio) * np.minimum(_normal_isf(tail), np.abs(ratio))


def robust_variance(values: Floats) -> float:
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


def leave_one_out_median(values: Floats, *, low: bool = False) -> Floats:
    """For every row, the median of all other rows, column by column: (C, n) from (C, n), C >= 2.

    `low`: of an even number of others the lower of the middle two, not their mean.

    >>> leave_one_out_median(np.array([[1.0], [5.0], [2.0], [9.0]])).ravel().tolist()
    [5.0, 2.0, 5.0, 2.0]
    """
    order = np.sort(values, axis=0)
    rank = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable")
    n_others = len(values) - 1
    middle = [(n_others - 1) // 2, n_others // 2]
    picked = [np.where(rank > m, order[m], order[m + 1]) for m in middle]
    median: Floats = picked[0] if low else (picked[0] + picked[1]) / 2
    return median


def contrast_of_orbits(
    sums: list[ContrastSums], without: NDArray[np.bool_] | None = None
) -> ClassContrast:
    """Contrasts of every orbit with its neighbours, but those in `without`.

    Classes are compared first, orbit by orbit, and surroundings after: a strong pattern of one class
    would otherwise lower the contrast of its neighbours, and lend other classes an excess there.
    """
    neighbours = sums[0].neighbours
    n = np.array([each.n for each in sums])
    mean = np.stack([each.log_power / each.n for each in sums])
    raw = mean - leave_one_out_median(mean)
    difference = np.where(neighbours.comparable, raw - neighbours.median(raw, without), 0.0)
    place = np.rint(neighbours.grid.radius / _place_width(neighbours.grid)).astype(np.int64)
    usual = np.stack([np.median(raw[:, _wide_enough(place, k)], axis=1) for k in range(place.max() + 1)])
    return ClassContrast(
        n=n,
        difference=difference,
        variance=np.stack([_variance(each.contrast, each.contrast_square, each.n) for each in sums]),
        added=AddedPower(
            np.stack([each.moments for each in sums]),
            np.stack([_falling(neighbours, each) for each in mean]),
        ),
        place=place,
        own_yardstick=True,
        # Beside a stop band it is the neighbours that lack power, and a wave is as others of its ring.
        clear=raw - usual[place].T >= LEAST_STEP * difference,
    )


def _place_width(grid: FrequencyGrid) -> float:
    """Width of the rings within which natural differences are pooled."""
    return max(1.0, min(grid.height, grid.width) / 32)


def _variance(total: Floats, squares: Floats, n: int) -> Floats:
    variance: Floats = np.maximum(squares - total**2 / n, 0) / max(n - 1, 1)
    return variance


def _falling(neighbours: Neighbours, log_power: Floats) -> Floats:
    """Power of every orbit over that of its neighbours, were the spectrum a power of the radius."""
    grid = neighbours.grid
    ring = np.rint(grid.radius).astype(np.int64)
    rings = range(1, max(2, min(grid.height, grid.width) // 2) + 1)
    there = [k for k in rings if (ring == k).any()]
    slope = 0.0
    if len(there) > 1:
        slope = float(np.polyfit(np.log(there), [log_power[ring == k].mean() for k in there], 1)[0])
    law = np.maximum(grid.radius, 1e-9) ** min(slope, 0.0)
    law[0] = 0
    around = neighbours.mean(law)
    return np.divide(law, around, out=np.ones_like(law), where=around > 0)


def contrast_of_combs(
    sums: list[ContrastSums], by_orbit: ClassContrast
) -> dict[int, tuple[ClassContrast, ClassContrast]]:
    """Contrasts of the lines between blocks of pixels, each comb as one unit: all and own lines."""
    return {
        block: (
            _of_comb(sums, by_orbit, block, 0, comb.lines),
            _of_comb(sums, by_orbit, block, 1, comb.own_lines),
        )
        for block, comb in sums[0].combs.items()
    }


def _of_comb(
    sums: list[ContrastSums], by_orbit: ClassContrast, block: int, row: int, orbits: NDArray[np.int64]
) -> ClassContrast:
    mean = np.array([each.comb_sums[block][row, 0] / each.n for each in sums])[:, None]
    variance = [
        _variance(each.comb_sums[block][row, :1], each.comb_sums[block][row, 1:], each.n)[0]
        for each in sums
    ]
    # Natural differences of single orbits, as if they were independent along the comb.
    natural = np.sqrt((by_orbit.spread[:, orbits] ** 2).mean(axis=1) / len(orbits))
    return ClassContrast(
        n=by_orbit.n,
        difference=mean - leave_one_out_median(mean),
        variance=np.array(variance)[:, None],
        added=AddedPower(
            by_orbit.added.moments[:, :, orbits].sum(axis=2, keepdims=True),
            by_orbit.added.law[:, orbits].mean(axis=1, keepdims=True),
        ),
        place=np.zeros(1, dtype=np.int64),
        natural=natural[:, None],
    )
