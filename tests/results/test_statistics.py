from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import beta

from shortcut_audit.results.statistics import (
    _incomplete_beta,
    auc_interval,
    exact_interval,
    proportion_interval,
    spearman,
    spearman_brown,
    split_half_correlation,
)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons_closed_form(counts: tuple[int, int]) -> None:
    hits, n = counts
    z = stats.norm.ppf(0.975)
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    low, high = proportion_interval(hits, n)
    assert low == pytest.approx(max(0, centre - half), abs=1e-9)
    assert high == pytest.approx(min(1, centre + half), abs=1e-9)
    assert 0 <= low <= hits / n <= high <= 1


def test_no_images_say_nothing() -> None:
    assert proportion_interval(0, 0) == (0.0, 1.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_is_scipys_also_with_ties(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    ours = spearman(a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert ours is None
    else:
        assert ours == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_brown_doubles_the_length_and_leaves_negatives_alone() -> None:
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert spearman_brown(1.0) == 1.0
    assert spearman_brown(-0.6) == -0.6


@pytest.mark.parametrize(("n_folds", "n_splits"), [(2, 1), (4, 3), (6, 10), (8, 35)])
def test_all_halvings_of_the_folds_are_averaged(n_folds: int, n_splits: int) -> None:
    generator = np.random.default_rng(n_folds)
    sums, counts = generator.standard_normal((n_folds, 20)), generator.integers(1, 4, n_folds)
    expected = []
    for left in itertools.combinations(range(n_folds), n_folds // 2):
        right = [fold for fold in range(n_folds) if fold not in left]
        halves = [sums[list(half)].sum(0) / counts[list(half)].sum() for half in (left, right)]
        expected.append(stats.spearmanr(*halves).statistic)
    value, counted = split_half_correlation(sums, counts)
    assert counted == n_splits == len(expected) // 2
    assert value == pytest.approx(np.mean(expected))


def test_the_corrected_half_correlation_estimates_the_agreement_of_two_whole_maps() -> None:
    """Known truth: signal and noise of equal variance per image give a known correlation of maps."""
    generator = np.random.default_rng(0)
    n_orbits, n_images = 4000, 16
    signal = generator.standard_normal(n_orbits)
    estimates, agreements = [], []
    for _ in range(5):
        first, second = signal + 3 * generator.standard_normal((2, n_images, n_orbits))
        folds = first.reshape(n_images // 8, 8, n_orbits).sum(axis=0)
        value, _ = split_half_correlation(folds, np.full(8, n_images // 8))
        assert value is not None
        estimates.append(spearman_brown(value))
        agreements.append(stats.spearmanr(first.mean(0), second.mean(0)).statistic)
    assert np.mean(estimates) == pytest.approx(np.mean(agreements), abs=0.02)


def test_constant_maps_have_no_correlation() -> None:
    assert split_half_correlation(np.zeros((4, 5)), np.ones(4, dtype=int)) == (None, 0)


def auc_by_pairs(own: list[float], others: list[float]) -> float:
    wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(own, others)]
    return sum(wins) / len(wins)


values = st.lists(st.integers(0, 6), min_size=1, max_size=20)


@given(values, values)
def test_the_auc_is_the_share_of_pairs_told_in_order(own: list[int], others: list[int]) -> None:
    auc, low, high = auc_interval(np.array(own, dtype=float), np.array(others, dtype=float))
    assert auc == pytest.approx(auc_by_pairs(list(map(float, own)), list(map(float, others))))
    assert 0 <= low <= auc <= high <= 1
    mirrored = auc_interval(-np.array(own, dtype=float), -np.array(others, dtype=float))[0]
    assert auc + mirrored == pytest.approx(1)


def test_the_interval_of_an_auc_is_hanley_and_mcneils_closed_form() -> None:
    generator = np.random.default_rng(0)
    own, others = generator.normal(1, 1, 40), generator.normal(0, 1, 90)
    auc, low, high = auc_interval(own, others)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + 39 * (q1 - auc**2) + 89 * (q2 - auc**2)) / (40 * 90)
    half = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert (low, high) == (pytest.approx(auc - half), pytest.approx(auc + half))


def test_the_interval_of_an_auc_covers_the_truth_as_often_as_it_says() -> None:
    """Known truth: two normal variables a standard deviation apart."""
    truth = stats.norm.cdf(1 / math.sqrt(2))
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        _, low, high = auc_interval(generator.normal(1, 1, 30), generator.normal(0, 1, 60))
        covered += low <= truth <= high
    assert 0.91 <= covered / 400 <= 0.99


def test_an_auc_that_is_perfect_has_no_width_beyond_one() -> None:
    assert auc_interval(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, 1.0, 1.0)
    assert auc_interval(np.array([1.0, 1.0]), np.array([1.0, 1.0]))[0] == 0.5


@pytest.mark.parametrize("n", [1, 3, 20, 187, 4000])
def test_exact_limits_are_quantiles_of_the_beta_distribution(n: int) -> None:
    for hits in {0, 1, n // 3, n // 2, n - 1, n}:
        for tail in (0.2, 0.025, 1e-4, 1e-9):
            low, high = exact_interval(hits, n, 1 - 2 * tail)
            tail = (1 - (1 - 2 * tail)) / 2
            assert low == pytest.approx(beta.ppf(tail, hits, n - hits + 1) if hits else 0.0, rel=1e-6)
            assert high == pytest.approx(
                beta.isf(tail, hits + 1, n - hits) if hits < n else 1.0, rel=1e-6
            )


def test_the_incomplete_beta_function_turns_over_once() -> None:
    a, b, x = 0.3321790940696419, 11.612786192455498, 0.09553118754314227
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    assert _incomplete_beta(x, a, b, scale) == pytest.approx(beta.cdf(x, a, b), rel=1e-9)
