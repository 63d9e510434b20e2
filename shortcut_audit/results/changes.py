"""By how much a share of images has changed, and how sure that is: in closed form, without scipy.

A gate runs in a second, most of which loading scipy would take. The tests here are sums of whole numbers
or inversions of the intervals of `results/statistics.py`.

An *estimate* is one number of one audit with its interval; a *worsening* is a difference of two, oriented
so that above 0 is worse. Every worsening has `value`, `interval(confidence)` to be shown,
`p_over(tolerance)`, the one-sided p of its true value being no more than `tolerance`, and `low(level)`,
what its true value is surely above at that level.

What is shown are Wilson's intervals. Far out, where a gate decides, they are too short for shares near 0
and 1, and for audits of unequal size that adds up: tests of different images rest on exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

from shortcut_audit.results.counts import Paired
from shortcut_audit.results.statistics import (
    exact_interval,
    paired_interval,
    proportion_interval,
    spearman_brown,
)

__all__ = [
    "Apart",
    "Estimate",
    "Exceeds",
    "MapReliability",
    "NetShare",
    "Proportion",
    "SameImages",
    "SameReceivers",
    "Worsening",
    "effective_share",
    "fisher_p_value",
    "holm",
    "sign_p_value",
]

# Beyond, a confidence cannot be told from 1 in floating point; p of it is 3e-14.
_LEAST_P = 3e-14
_STEPS, _NEAR = 60, 1e-6
# Above, no decision hangs on p, and Wilson's intervals do.
_DECIDES = 0.06
_NORMAL = NormalDist()


def sign_p_value(ups: int, downs: int) -> float:
    """Exact one-sided sign test (McNemar's, of the pairs that differ): P(at least `ups` of all).

    >>> sign_p_value(5, 0)
    0.03125
    """
    n = ups + downs
    term, tail = math.comb(n, ups), 0
    for k in range(ups, n + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return float(tail / 2**n)


def fisher_p_value(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Fisher's exact test, one-sided, that the first of two shares of different images is larger.

    >>> round(fisher_p_value(5, 5, 0, 5), 4)
    0.004
    """
    total = hits + other_hits
    most = min(n, total)
    term = math.comb(n, hits) * math.comb(other_n, total - hits)
    tail = 0
    for k in range(hits, most + 1):
        tail += term
        rest = other_n - total + k + 1
        if rest > 0:
            term = term * (n - k) * (total - k) // ((k + 1) * rest)
    return tail / math.comb(n + other_n, total)


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted so that one false finding among all of them is as rare as is asked (Holm, 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, k in enumerate(order):
        largest = max(largest, (len(p_values) - place) * p_values[k])
        adjusted[k] = min(1.0, largest)
    return adjusted


def effective_share(n: int, reliability: float | None) -> float:
    """How many images `n` images are worth that all share one map, as a share of n.

    Outcomes under one map hang together: on other images the map comes out otherwise, and all outcomes
    move at once. Of the variance of a map, 1 - reliability is noise; with that as the correlation
    within, n images are worth n / (1 + (n - 1)(1 - reliability)) (Kish, 1965). Unknown counts as 0.
    """
    shared = 1.0 - min(max(reliability or 0.0, 0.0), 1.0)
    return 1.0 / (1.0 + max(n - 1, 0) * shared)


def _paired_interval(
    pair: Paired, worth: float, confidence: float, exact: bool = False
) -> tuple[float, float]:
    """Newcombe's interval of `pair`, as of `worth` times as many images."""
    limits = exact_interval if exact else proportion_interval
    both, first, second = (worth * k for k in (pair.both, pair.only_first, pair.only_second))
    # Parts of images may come to a hair more than the whole.
    n = max(worth * pair.n, both + first, both + second)
    return paired_interval(both, first, second, n, confidence, limits)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Proportion:
    """`hits` of `n` images; `worth`: share of n that counts as independent."""

    hits: int
    n: int
    worth: float = 1.0

    @property
    def value(self) -> float:
        return self.hits / self.n

    def interval(self, confidence: float, exact: bool = False) -> tuple[float, float]:
        """Wilson's, or Clopper and Pearson's."""
        # The formulas hold for parts of images as well.
        hits, n = self.hits * self.worth, self.n * self.worth
        if exact:
            return exact_interval(hits, n, confidence)
        return proportion_interval(hits, n, confidence)  # type: ignore[arg-type]

    def times(self, factor: float) -> Proportion:
        """The same share of `factor` times as many images."""
        hits = round(self.hits * factor)
        return replace(self, hits=hits, n=max(math.ceil(self.n * factor), hits))


@dataclass(frozen=True)
class NetShare:
    """Share of images that have a first outcome less the share with a second one, `weight` times.

    `draws`: each image stands in so many pairs, which then count as one.
    """

    pair: Paired
    weight: float = 1.0
    draws: int = 1

    @property
    def n(self) -> int:
        return math.ceil(self.pair.n / self.draws)

    @property
    def value(self) -> float:
        return self.weight * self.pair.difference

    def interval(self, confidence: float, exact: bool = False) -> tuple[float, float]:
        """Newcombe's."""
        low, high = _paired_interval(self.pair, 1 / self.draws, confidence, exact)
        return self.weight * low, self.weight * high

    def times(self, factor: float) -> NetShare:
        """The same shares of `factor` times as many images."""
        both, first, second = (
            round(count * factor)
            for count in (self.pair.both, self.pair.only_first, self.pair.only_second)
        )
        n = max(math.ceil(self.pair.n * factor), both + first + second)
        return replace(self, pair=Paired(n=n, both=both, only_first=first, only_second=second))


@dataclass(frozen=True)
class MapReliability:
    """Split-half reliability of a map from `n` images, whose halves correlate by `half`.

    The interval is Fisher's z of the correlation between halves, of as many independent parts as a half
    has images, carried to the whole by Spearman and Brown's formula.
    """

    half: float
    n: int

    @property
    def value(self) -> float:
        return spearman_brown(self.half)

    def interval(self, confidence: float, exact: bool = False) -> tuple[float, float]:
        """Fisher's z interval, carried to the whole; there is no other."""
        reach = _NORMAL.inv_cdf(0.5 + confidence / 2) / math.sqrt(max(self.n / 2 - 3, 1.0))
        z = math.atanh(min(max(self.half, -0.999), 0.999))
        return spearman_brown(math.tanh(z - reach)), spearman_brown(math.tanh(z + reach))

    def times(self, factor: float) -> MapReliability:
        """The same reliability of `factor` times as many images."""
        return replace(self, n=math.ceil(self.n * factor))


Estimate = Proportion | NetShare | MapReliability


def _p_by_inversion(
    low_at: Callable[[float], float], tolerance: float, at_least: float = _LEAST_P
) -> float:
    """The one-sided p, no smaller than `at_least`, at which an interval's lower end just reaches
    `tolerance`; by false position, its older end halved where one end stays (Illinois)."""

    def above(sigmas: float) -> float:
        return low_at(2 * _NORMAL.cdf(sigmas) - 1) - tolerance

    left, right = 0.0, -_NORMAL.inv_cdf(at_least)
    at_left, at_right = above(left), above(right)
    if at_right > 0:
        return at_least
    if at_left <= 0:
        return 0.5
    kept, sigmas = 0, left
    for _ in range(_STEPS):
        sigmas = (left * at_right - right * at_left) / (at_right - at_left)
        found = above(sigmas)
        if found > 0:
            left, at_left, at_right = sigmas, found, at_right / 2 if kept == 1 else at_right
            kept = 1
        else:
            right, at_right, at_left = sigmas, found, at_left / 2 if kept == -1 else at_left
            kept = -1
        if right - left < _NEAR or abs(found) < _NEAR * 1e-3:
            break
    return _NORMAL.cdf(-sigmas)


@dataclass(frozen=True)
class Apart:
    """`worse` less `better`, of different images.

    Interval: those of both, combined (the method of variance estimates recovery; of two shares
    Newcombe's, 1998, method 10 for independent samples). p inverts that of exact intervals, and of two
    shares is no smaller than Fisher's.
    """

    worse: Estimate
    better: Estimate

    @property
    def value(self) -> float:
        return self.worse.value - self.better.value

    @property
    def n(self) -> int:
        return min(self.worse.n, self.better.n)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        return _combined(self.worse, self.better, confidence)

    def low(self, level: float) -> float:
        ends = (_combined(self.worse, self.better, 1 - 2 * level, exact)[0] for exact in (True, False))
        low = min(ends)
        one, other = self.worse, self.better
        if low > 0 and isinstance(one, Proportion) and isinstance(other, Proportion):
            # What is no difference is none beyond any tolerance.
            return low if fisher_p_value(one.hits, one.n, other.hits, other.n) <= level else 0.0
        return low

    def p_over(self, tolerance: float) -> float:
        return _p_apart(self, tolerance)

    def times(self, factor: float) -> Apart:
        return Apart(self.worse.times(factor), self.better.times(factor))


def _combined(
    one: Estimate, other: Estimate, confidence: float, exact: bool = False
) -> tuple[float, float]:
    (low_1, high_1), (low_2, high_2) = (each.interval(confidence, exact) for each in (one, other))
    difference = one.value - other.value
    low = difference - math.hypot(one.value - low_1, high_2 - other.value)
    high = difference + math.hypot(high_1 - one.value, other.value - low_2)
    if isinstance(one, MapReliability):
        return low, high
    # Shares differ by no more than 1.
    return max(-1.0, low), min(1.0, high)


def _exact_low(change: Apart, confidence: float) -> float:
    return _combined(change.worse, change.better, confidence, exact=True)[0]


@lru_cache(maxsize=4096)
def _p_apart(change: Apart, tolerance: float) -> float:
    if change.value <= tolerance:
        return 1.0
    p = _p_by_inversion(lambda confidence: change.interval(confidence)[0], tolerance)
    if p > _DECIDES:
        return p
    p = _p_by_inversion(lambda confidence: _exact_low(change, confidence), tolerance, p)
    one, other = change.worse, change.better
    if isinstance(one, Proportion) and isinstance(other, Proportion):
        p = max(p, fisher_p_value(one.hits, one.n, other.hits, other.n))
    return p


@dataclass(frozen=True)
class SameImages:
    """Shares of the same images: `pair.first` is the outcome whose growth is worse.

    Interval: Newcombe's of pairs; p is no smaller than the exact McNemar test's. `worth`: see Proportion.
    """

    pair: Paired
    worth: float = 1.0

    @property
    def value(self) -> float:
        return self.pair.difference

    @property
    def n(self) -> int:
        return self.pair.n

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        return _paired_interval(self.pair, self.worth, confidence)

    def low(self, level: float) -> float:
        return self.interval(1 - 2 * level)[0]

    def p_over(self, tolerance: float) -> float:
        return _p_same(self, tolerance)

    def times(self, factor: float) -> SameImages:
        return replace(self, pair=NetShare(self.pair).times(factor).pair)


@lru_cache(maxsize=4096)
def _p_same(change: SameImages, tolerance: float) -> float:
    if change.value <= tolerance:
        return 1.0
    p = _p_by_inversion(lambda confidence: change.interval(confidence)[0], tolerance)
    return max(p, sign_p_value(change.pair.only_first, change.pair.only_second))


@dataclass(frozen=True)
class SameReceivers:
    """Flip rates on the same images of other classes: change of `after` less change of `before`.

    Both compare the newer audit (first) with the older one. `rises`, `falls`: images whose own
    difference (after - before) grew and shrank; p is no smaller than the sign test's over them.
    """

    after: Paired
    before: Paired
    rises: int
    falls: int

    @property
    def value(self) -> float:
        return self.after.difference - self.before.difference

    @property
    def n(self) -> int:
        return self.after.n

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        return _combined(NetShare(self.after), NetShare(self.before), confidence)

    def low(self, level: float) -> float:
        return self.interval(1 - 2 * level)[0]

    def p_over(self, tolerance: float) -> float:
        if self.value <= tolerance:
            return 1.0
        p = _p_by_inversion(lambda confidence: self.interval(confidence)[0], tolerance)
        return max(p, sign_p_value(self.rises, self.falls))

    def times(self, factor: float) -> SameReceivers:
        return SameReceivers(
            NetShare(self.after).times(factor).pair,
            NetShare(self.before).times(factor).pair,
            round(self.rises * factor),
            round(self.falls * factor),
        )


@dataclass(frozen=True)
class Exceeds:
    """One estimate against a fixed `limit`: how far it lies on the wrong side of it."""

    estimate: Estimate
    limit: float
    above: bool = True

    @property
    def value(self) -> float:
        return self._beyond(self.estimate.value)

    @property
    def n(self) -> int:
        return self.estimate.n

    def _beyond(self, number: float) -> float:
        return number - self.limit if self.above else self.limit - number

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        low, high = sorted(self._beyond(end) for end in self.estimate.interval(confidence))
        return low, high

    def low(self, level: float) -> float:
        ends = (self.estimate.interval(1 - 2 * level, exact) for exact in (True, False))
        return min(self._beyond(end) for pair in ends for end in pair)

    def _exact_low(self, confidence: float) -> float:
        return min(self._beyond(end) for end in self.estimate.interval(confidence, exact=True))

    def p_over(self, tolerance: float) -> float:
        if self.value <= tolerance:
            return 1.0
        p = _p_by_inversion(lambda confidence: self.interval(confidence)[0], tolerance)
        if p > _DECIDES:
            return p
        return _p_by_inversion(lambda confidence: self._exact_low(confidence), tolerance, p)

    def times(self, factor: float) -> Exceeds:
        return replace(self, estimate=self.estimate.times(factor))


Worsening = Apart | SameImages | SameReceivers | Exceeds
