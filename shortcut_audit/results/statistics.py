"""Intervals and reliabilities: thin over scipy, which is imported only when a number is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "adjusted_p_values",
    "auc_interval",
    "exact_interval",
    "halvings",
    "images_for_reliability",
    "paired_interval",
    "paired_p_value",
    "proportion_interval",
    "spearman",
    "spearman_brown",
    "split_half_correlation",
    "unpaired_interval",
    "unpaired_p_value",
]


def proportion_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion `hits`/`n`.

    Wilson (1927): close to its nominal coverage also at 0 and 1, where the textbook interval has no
    width. Returns (low, high) in [0, 1]; n = 0 says nothing: (0, 1).

    >>> low, high = proportion_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if n == 0:
        return 0.0, 1.0
    # In closed form: an audit of hundreds of classes asks for a hundred thousand of them, and scipy's
    # tests take a hundred times as long.
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return (
        0.0 if hits == 0 else max(0.0, centre - half),
        1.0 if hits == n else min(1.0, centre + half),
    )


@lru_cache(maxsize=65536)
def exact_interval(hits: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a proportion `hits`/`n`; parts of images count.

    Without scipy, whose quantiles these are: a gate runs in CI where only what it loads is installed.
    It never covers less than it says (Clopper and Pearson, 1934). Wilson's does, far out on the short
    side of a skewed share: at three and a half standard errors ten times as often.

    >>> low, high = exact_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.444, 0.975)
    """
    if n <= 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if hits <= 0 else _beta_quantile(tail, hits, n - hits + 1)
    high = 1.0 if hits >= n else 1 - _beta_quantile(tail, n - hits, hits + 1)
    return low, high


def _beta_quantile(tail: float, a: float, b: float) -> float:
    """Where the distribution function of the beta distribution is `tail`, by safeguarded Newton steps."""
    low, high = 0.0, 1.0
    # Wilson's limit is near enough to start from.
    x = min(max(proportion_interval(a, a + b, 1 - 2 * tail)[0], 1e-12), 1 - 1e-12)  # type: ignore[arg-type]
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(60):
        found = _incomplete_beta(x, a, b, scale)
        low, high = (x, high) if found < tail else (low, x)
        # Of the logarithm, which is nearly straight far out.
        density = math.exp(scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x))
        step = math.log(max(found, 1e-300) / tail) * found / max(density, 1e-300)
        nearer = x - step
        if not low < nearer < high:
            nearer = (low + high) / 2
        if abs(nearer - x) < 1e-9 * max(x, 1e-12):
            return nearer
        x = nearer
    return x


def _incomplete_beta(x: float, a: float, b: float, scale: float) -> float:
    """The regularised incomplete beta function, from the side where its fraction converges fast."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_fraction(1 - x, b, a, scale)
    return _beta_fraction(x, a, b, scale)


def _beta_fraction(x: float, a: float, b: float, scale: float) -> float:
    """The same by its continued fraction (Lentz's method)."""
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), 1e-300)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or 1e-300)
            c = 1 + term / c or 1e-300
            fraction *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return front * fraction


def paired_p_value(only_first: int, only_second: int) -> float:
    """Exact one-sided McNemar test that the first of two outcomes is the more frequent one.

    `only_first`, `only_second`: pairs in which one outcome is there and the other is not. The chance
    of at least `only_first` among them if either were as likely (McNemar, 1947; exact binomial).

    >>> paired_p_value(5, 0)
    0.03125
    """
    if only_first == 0:
        return 1.0
    from scipy.special import bdtrc

    # The upper tail of the binomial distribution.
    return float(bdtrc(only_first - 1, only_first + only_second, 0.5))


def paired_interval(
    both: int,
    only_first: int,
    only_second: int,
    n: int,
    confidence: float = 0.95,
    interval: Callable[[int, int, float], tuple[float, float]] = proportion_interval,
) -> tuple[float, float]:
    """Interval of the difference of two proportions of the same `n` pairs, first - second.

    Newcombe (1998), method 10: Wilson intervals of both proportions (or others: `interval`), combined
    with their correlation. Returns (low, high) in [-1, 1]; n = 0 says nothing: (-1, 1).
    """
    if n == 0:
        return -1.0, 1.0
    neither = n - both - only_first - only_second
    first, second = both + only_first, both + only_second
    low_1, high_1 = interval(first, n, confidence)
    low_2, high_2 = interval(second, n, confidence)
    p_1, p_2 = first / n, second / n
    margins = first * (n - first) * second * (n - second)
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(product - n / 2, 0)
    correlation = product / math.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    difference = p_1 - p_2
    low = difference - reach(p_1 - low_1, high_2 - p_2)
    high = difference + reach(high_1 - p_1, p_2 - low_2)
    return max(-1.0, low), min(1.0, high)


def unpaired_p_value(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Fisher's exact test, one-sided, that the first of two proportions of different images is larger.

    >>> round(unpaired_p_value(5, 5, 0, 5), 4)
    0.004
    """
    from scipy.stats import fisher_exact

    table = [[hits, n - hits], [other_hits, other_n - other_hits]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def unpaired_interval(
    hits: int, n: int, other_hits: int, other_n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two proportions of different images, first - second.

    Newcombe (1998), method 10 for independent samples: Wilson intervals of both, combined. Returns
    (low, high) in [-1, 1]; without images on one side it says nothing: (-1, 1).
    """
    if n == 0 or other_n == 0:
        return -1.0, 1.0
    p_1, p_2 = hits / n, other_hits / other_n
    low_1, high_1 = proportion_interval(hits, n, confidence)
    low_2, high_2 = proportion_interval(other_hits, other_n, confidence)
    low = p_1 - p_2 - math.hypot(p_1 - low_1, high_2 - p_2)
    high = p_1 - p_2 + math.hypot(high_1 - p_1, p_2 - low_2)
    return max(-1.0, low), min(1.0, high)


def adjusted_p_values(p_values: Sequence[float | None]) -> list[float | None]:
    """Benjamini-Hochberg adjusted p over those that are there; None stays None.

    The share of false findings to expect among all that are at least as extreme (Benjamini and
    Hochberg, 1995).
    """
    present = [p for p in p_values if p is not None]
    if not present:
        return list(p_values)
    from scipy.stats import false_discovery_control

    adjusted = iter(false_discovery_control(present, method="bh").tolist())
    return [None if p is None else float(next(adjusted)) for p in p_values]


def auc_interval(
    own: NDArray[np.floating], others: NDArray[np.floating], confidence: float = 0.95
) -> tuple[float, float, float]:
    """How well a number tells `own` (n,) from `others` (m,): area under the ROC curve, low, high.

    The share of pairs in which the own value is the larger, ties half. Interval after Hanley and
    McNeil (1982), within [0, 1]. Both samples must hold something.
    """
    from scipy.stats import norm, rankdata

    n, m = len(own), len(others)
    ranks = rankdata(np.concatenate([own, others]))
    auc = float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    both_own, both_others = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n - 1) * (both_own - auc**2) + (m - 1) * (both_others - auc**2)
    half = float(norm.isf((1 - confidence) / 2)) * float(np.sqrt(max(variance, 0.0) / (n * m)))
    return auc, max(0.0, auc - half), min(1.0, auc + half)


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float | None:
    """Spearman rank correlation of two (n,) arrays; None where one of them is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def spearman_brown(half_correlation: float) -> float:
    """Reliability of the whole from the correlation r of its halves: 2r / (1 + r).

    Spearman (1910), Brown (1910). The formula is for true reliabilities, which are not negative;
    a negative r is returned as it is, not stretched towards minus infinity.
    """
    if half_correlation <= 0:
        return half_correlation
    return 2 * half_correlation / (1 + half_correlation)


def images_for_reliability(found: float | None, n_images: int, target: float) -> int | None:
    """Images that would carry a map from reliability `found`, at `n_images`, to `target`.

    The Spearman-Brown formula the other way round: n * target (1 - found) / (found (1 - target)),
    rounded up to two digits, because it is no more exact than that. None where the target is
    reached already, or where nothing can be carried further: no reliability, or none above 0.

    >>> images_for_reliability(0.5, 50, 0.8)
    200
    """
    if found is None or not 0 < found < target:
        return None
    needed = n_images * target * (1 - found) / (found * (1 - target))
    step = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return int(math.ceil(round(needed / step, 9)) * step)


def halvings(n_folds: int) -> Iterator[tuple[list[int], list[int]]]:
    """Every way of halving an even number of folds, each once: 35 for eight."""
    # Fold 0 always goes left, so that no split is met twice in mirror image.
    for rest in combinations(range(1, n_folds), n_folds // 2 - 1):
        left = [0, *rest]
        yield left, [fold for fold in range(n_folds) if fold not in left]


def split_half_correlation(
    fold_sums: NDArray[np.floating], n_by_fold: NDArray[np.integer]
) -> tuple[float | None, int]:
    """Mean Spearman correlation over all ways of halving the folds.

    `fold_sums` (n_folds, n) sums over the images of each fold, `n_by_fold` (n_folds,) their image
    counts; n_folds even. Averaging over the splits (35 for eight folds) takes the luck of one
    particular halving out of the figure. Returns the mean, or None where a half has no image or
    no variation in any split, and the number of splits that counted.
    """
    found: list[float] = []
    for left, right in halvings(len(n_by_fold)):
        n_left, n_right = int(n_by_fold[left].sum()), int(n_by_fold[right].sum())
        if n_left == 0 or n_right == 0:
            continue
        correlation = spearman(
            fold_sums[left].sum(axis=0) / n_left, fold_sums[right].sum(axis=0) / n_right
        )
        if correlation is not None:
            found.append(correlation)
    return (float(np.mean(found)), len(found)) if found else (None, 0)
