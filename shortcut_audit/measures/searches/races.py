"""Races: which orbits are in the top share, from a first-order guess and as few exact probes as it takes.

A random sample of orbits, probed exactly, says how first order and truth hang together: the guess for all
other orbits, and how far off it tends to be. Guess and probes of an orbit then weigh against each other
as normal distributions do. Whoever is not surely in or out of the top share runs on, over further images.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.fourier.masks import BoolArray
from shortcut_audit.results.findings import Fidelity

__all__ = ["Guess", "Probed", "calibrated", "fidelity_of", "stratified_sample", "undecided", "weighed"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Units of the sample are guessed from the others in this many groups, to see how far off guesses are.
_GROUPS = 8
# Guesses err with heavier tails than a normal distribution; their variance is taken this much larger.
_CAUTION = 2.0
# And a guess errs by a factor too: what it puts highest is not to be taken for settled.
_RELATIVE_ERROR = 0.5
# What the common spread of responses weighs against an orbit's own, in images.
_IMAGES_OF_COMMON_SPREAD = 4.0
_RIDGE = 1e-3


@dataclass(frozen=True)
class Probed:
    """Exact probes of units: images `n`, mean response and sum of squares about it, (n_units,) each."""

    n: FloatArray
    mean: FloatArray
    scatter: FloatArray

    @classmethod
    def of_sums(cls, n: FloatArray, sums: FloatArray, squares: FloatArray) -> Probed:
        """From counts, sums and sums of squares."""
        mean = np.divide(sums, n, out=np.zeros_like(sums), where=n > 0)
        return cls(n, mean, np.maximum(squares - n * mean**2, 0.0))


@dataclass(frozen=True)
class Guess:
    """What first order says of every unit before it is probed, in the units of one response.

    `mean`, `deviation` (n_units,): of the normal distribution that the truth is thought to come from;
    `spread` (n_units,): standard deviation of single images' responses. `fit` (6,): coefficients of
    the columns of `design` that `mean` is made with.
    """

    mean: FloatArray
    deviation: FloatArray
    spread: FloatArray
    fit: FloatArray = field(default_factory=lambda: np.zeros(0))


def design(features: FloatArray, like: FloatArray | None = None) -> FloatArray:
    """Columns (n_units, 6) that responses are guessed from.

    `features` (3, n_units): first-order response, first-order squared logit change, energy of the wave.
    Beside the response itself stands the size of the logit change: networks bend, and what moves the
    logits far in any direction mostly moves them away from the class. Columns are scaled by their mean
    size, or by that which they have for features `like`.
    """
    columns = _columns(features)
    scales = [float(np.abs(column).mean()) for column in _columns(features if like is None else like)]
    scaled = [column / max(scale, 1e-300) for column, scale in zip(columns, scales, strict=True)]
    return np.stack([np.ones_like(columns[0]), *scaled], axis=1)


def _columns(features: FloatArray) -> list[FloatArray]:
    response, squared, energy = features
    size, amplitude = np.sqrt(np.maximum(squared, 0)), np.sqrt(np.maximum(energy, 0))
    return [response, np.abs(response), size, size**2, amplitude]


def calibrated(
    columns: FloatArray,
    size: FloatArray,
    sample: IntArray,
    probed: Probed,
    paired: FloatArray | None = None,
    spread_of: Probed | None = None,
) -> tuple[Guess, FloatArray, FloatArray]:
    """A guess for every unit; for those of `sample` one in which their own probes have no part; and
    the same of the very images that they were probed on.

    `columns` (n_units, 6) from `design`; `size` (n_units,) first-order size of the logit change, which
    errors and spreads are taken in proportion to; `sample` (m,) units; `probed` covers all units.
    `paired`: the columns on the very images that were probed, if these are not all of them: what
    differs from image to image is then no error. `spread_of`: what spreads are taken from, if not
    from `probed` (a half may hold a single image).
    """
    # Where no gradient reaches the pixels all sizes are 0, and any one will do.
    size = np.maximum(size, 1e-12 * (float(size.max()) or 1.0))
    own, mean, widths = size[sample], probed.mean[sample], probed if spread_of is None else spread_of
    variance = widths.scatter[sample] / np.maximum(widths.n[sample] - 1, 1)
    spread = float(np.median(np.sqrt(variance) / own))
    seen = (columns if paired is None else paired)[sample]
    # Nor is a unit that hardly moves anything to outweigh all others.
    weights = 1 / np.maximum(own, 1e-3 * float(np.median(own))) ** 2
    group = np.arange(len(sample)) % _GROUPS
    others = group != np.arange(min(_GROUPS, len(sample)))[:, None]
    fits = _fitted(seen, mean, others * weights)[0][group]
    there: FloatArray = (seen * fits).sum(axis=1)
    off = (mean - there) ** 2 / own**2
    # Of errors in proportion to size, with the largest tenth cut: one odd orbit is no rule.
    rest = float(np.mean(np.minimum(off, np.quantile(off, 0.9))))
    (fit,), (doubt,) = _fitted(seen, mean, weights[None])
    told = columns @ fit
    # Beyond what the sample covers, the fit itself is in doubt.
    extrapolated = rest * np.maximum(((columns @ doubt) * columns).sum(axis=1), 0)
    deviation: FloatArray = np.sqrt(_CAUTION * (rest * size**2 + extrapolated))
    deviation = np.maximum(deviation, _RELATIVE_ERROR * np.abs(told))
    apart: FloatArray = (columns[sample] * fits).sum(axis=1)
    return Guess(mean=told, deviation=deviation, spread=spread * size, fit=fit), apart, there


def followed(told: FloatArray, found: FloatArray, size: FloatArray) -> tuple[float, float]:
    """How far exact responses follow guesses from images to images: slope in [0, 1], and the share of
    their variance that guesses leave open.

    `told`, `found` (n_parts, m): mean guess and mean response of m units on the images of each part;
    `size` (m,) what both are counted in. Nothing is known from a single part: slope 0, all open.
    """
    if len(told) < 2:
        return 0.0, 1.0
    # A unit that hardly moves anything is not to outweigh all others.
    unit = np.maximum(size, max(1e-3 * float(np.median(size)), 1e-12 * float(size.max()), 1e-100))
    x, y = (((each - each.mean(axis=0)) / unit).ravel() for each in (told, found))
    xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
    if xx <= 0 or yy <= 0 or xy <= 0:
        return 0.0, 1.0
    slope = min(xy / xx, 1.0)
    return slope, float(np.clip((yy - 2 * slope * xy + slope**2 * xx) / yy, 1e-6, 1.0))


def _fitted(
    columns: FloatArray, target: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Weighted ridge regressions: coefficients (g, k) and their covariances (g, k, k).

    `columns` (m, k), `target` (m,), and `weights` (g, m) of g regressions, one over variances.
    """
    total = np.maximum(weights.sum(axis=1), 1e-300)
    shares = weights / total[:, None]
    normal = (columns.T * shares[:, None, :]) @ columns
    diagonal = np.maximum(np.einsum("gii->gi", normal), 1e-12)
    normal = normal + _RIDGE * diagonal[:, :, None] * np.eye(columns.shape[1])
    inverse = np.linalg.inv(normal)
    solution: FloatArray = inverse @ ((shares * target) @ columns)[:, :, None]
    return solution[:, :, 0], inverse / total[:, None, None]


def weighed(guess: Guess, probed: Probed, n_images: int) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each unit's importance, guess and probes together, (n_units,) each.

    A unit that was probed on all `n_images` has its exact importance, and nothing left to find out.
    """
    n = probed.n
    variance = (_IMAGES_OF_COMMON_SPREAD * guess.spread**2 + probed.scatter) / (
        _IMAGES_OF_COMMON_SPREAD + np.maximum(n - 1, 0)
    )
    from_guess = 1 / np.maximum(guess.deviation**2, 1e-300)
    from_probes = n / np.maximum(variance, 1e-300)
    total = from_guess + from_probes
    mean = (guess.mean * from_guess + probed.mean * from_probes) / total
    whole = n >= n_images
    return np.where(whole, probed.mean, mean), np.where(whole, 0.0, 1 / np.sqrt(total))


def undecided(
    mean: FloatArray, deviation: FloatArray, rankable: BoolArray, n_top: int, confidence: float
) -> IntArray:
    """Units not yet surely in or out of the `n_top` leading ones, the least sure first."""
    from scipy.stats import norm

    ranked = np.sort(mean[rankable])[::-1]
    if n_top >= len(ranked):
        return np.zeros(0, dtype=np.int64)
    border = (ranked[n_top - 1] + ranked[n_top]) / 2
    distance = np.abs(mean - border) / np.maximum(deviation, 1e-300)
    running = np.flatnonzero(rankable & (deviation > 0) & (distance < norm.isf(1 - confidence)))
    order: IntArray = running[np.argsort(distance[running], kind="stable")]
    return order


def stratified_sample(
    size: FloatArray, rankable: BoolArray, n_top: int, n_sampled: int, generator: np.random.Generator
) -> tuple[IntArray, FloatArray]:
    """Units to calibrate by, (m,), and how many units each stands for, (m,).

    A quarter of them are the units that move the logits most, and stand for themselves: no guess
    then has to reach beyond all that was seen. The rest are drawn at random, half of them from the
    leading 3 `n_top`, where the top share will be found, half from all others. Who is drawn hangs by
    a lot of each unit's own, so that a rounding error that swaps two units changes no draw.
    """
    candidates = np.flatnonzero(rankable)
    order = candidates[np.argsort(-size[candidates], kind="stable")]
    n_leaders = min(n_sampled // 4, len(order))
    n_close = max(3 * n_top, n_leaders)
    strata = order[:n_leaders], order[n_leaders:n_close], order[n_close:]
    n_drawn = min(n_sampled, len(order)) - n_leaders
    n_far = min(n_drawn - n_drawn // 2, len(strata[2]))
    n_near = min(n_drawn - n_far, len(strata[1]))
    quota = n_leaders, n_near, n_drawn - n_near
    lot = generator.random(len(size))
    chosen = [
        np.sort(stratum[np.argsort(lot[stratum], kind="stable")[:number]])
        for stratum, number in zip(strata, quota, strict=True)
    ]
    stands_for = [
        np.full(number, len(stratum) / max(number, 1))
        for stratum, number in zip(strata, quota, strict=True)
    ]
    return np.concatenate(chosen), np.concatenate(stands_for)


def fidelity_of(
    told: FloatArray,
    exact: FloatArray,
    stands_for: FloatArray,
    border: float,
    n_images: int,
    told_there: FloatArray | None = None,
    exact_there: FloatArray | None = None,
) -> Fidelity:
    """How near the map comes to exact probes of sampled units, each standing for `stands_for` others.

    `told` (m,): what the map says of them without their own probes; `exact` (m,) from `n_images` images;
    `border`: the least importance in the map's top share, which exact importances are held against too.
    `told_there`, `exact_there` (m,): the same of those very images, not carried to all, which the rank
    correlation is of: what differs from image to image is then not held against the map.
    """
    in_map, in_exact = told >= border, exact >= border
    mass = np.maximum(exact, 0) * stands_for
    n_leading = float(stands_for[in_exact].sum())
    held = float(mass[in_exact].sum())
    ranked = (
        told if told_there is None else told_there,
        exact if exact_there is None else exact_there,
    )
    return Fidelity(
        rank_correlation=_weighted_spearman(*ranked, stands_for),
        overlap=float(stands_for[in_exact & in_map].sum()) / n_leading if n_leading else None,
        loss_mass=min(1.0, float(mass[in_map].sum()) / held) if held > 0 else None,
        n_orbits=len(exact),
        n_images=n_images,
        reason="" if n_leading else "no orbit of the sample is in the top share",
    )


def _weighted_spearman(a: FloatArray, b: FloatArray, weights: FloatArray) -> float | None:
    """Spearman correlation of units that stand for `weights` units each."""
    if len(a) < 3:
        return None
    # Ranks as they would be in the whole: a unit lies behind all that those before it stand for.
    ranks = [_weighted_ranks(values, weights) for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    centred = [rank - np.average(rank, weights=weights) for rank in ranks]
    covariance = float(np.sum(weights * centred[0] * centred[1]))
    return covariance / float(np.sqrt(np.prod([np.sum(weights * c**2) for c in centred])))


def _weighted_ranks(values: FloatArray, weights: FloatArray) -> FloatArray:
    levels, level = np.unique(values, return_inverse=True)
    total = np.bincount(level, weights=weights, minlength=len(levels))
    ranks: FloatArray = (np.cumsum(total) - total / 2)[level]
    return ranks
