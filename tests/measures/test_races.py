"""Races against closed forms, brute force and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shortcut_audit.measures.searches.races import (
    Guess,
    Probed,
    calibrated,
    design,
    fidelity_of,
    stratified_sample,
    undecided,
    weighed,
)

seeds = st.integers(0, 2**32 - 1)


def probed_of(responses: np.ndarray) -> Probed:
    """Probes of (n_images, n_units) responses; NaN where an image was not probed."""
    known = ~np.isnan(responses)
    held = np.where(known, responses, 0.0)
    return Probed.of_sums(known.sum(axis=0).astype(float), held.sum(axis=0), (held**2).sum(axis=0))


# Guess and probes -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(seeds, st.integers(2, 9))
def test_guess_and_probes_weigh_as_two_normal_distributions(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    responses = generator.normal(1, 2, (n, 5))
    guess = Guess(generator.normal(size=5), generator.uniform(0.1, 3, 5), generator.uniform(0.1, 3, 5))
    mean, deviation = weighed(guess, probed_of(responses), n + 1)
    for unit in range(5):
        own = responses[:, unit]
        # A spread of their own, and the common one as if from 4 images more.
        variance = (4 * guess.spread[unit] ** 2 + ((own - own.mean()) ** 2).sum()) / (n + 3)
        prior, data = guess.deviation[unit] ** 2, variance / n
        assert mean[unit] == pytest.approx(
            (guess.mean[unit] * data + own.mean() * prior) / (prior + data), abs=1e-9
        )
        assert deviation[unit] == pytest.approx(np.sqrt(prior * data / (prior + data)), abs=1e-9)


def test_without_probes_the_guess_stands_and_with_all_of_them_the_exact_mean() -> None:
    guess = Guess(np.array([1.0, 1.0, 1.0]), np.array([0.5, 0.5, 0.5]), np.ones(3))
    responses = np.array([[3.0, 3.0, np.nan], [5.0, np.nan, np.nan]])
    mean, deviation = weighed(guess, probed_of(responses), 2)
    assert (mean[0], deviation[0]) == (4.0, 0.0)
    assert 1 < mean[1] < 3
    assert 0 < deviation[1] < 0.5
    assert (mean[2], deviation[2]) == (pytest.approx(1.0), pytest.approx(0.5))


@given(seeds)
def test_probes_are_counted_averaged_and_spread(seed: int) -> None:
    responses = np.random.default_rng(seed).normal(3, 1, (7, 4))
    probed = probed_of(responses)
    np.testing.assert_array_equal(probed.n, 7)
    np.testing.assert_allclose(probed.mean, responses.mean(axis=0))
    np.testing.assert_allclose(probed.scatter, responses.var(axis=0) * 7, atol=1e-9)


# Who races on ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(seeds, st.integers(1, 12), st.floats(0.55, 0.999))
def test_undecided_are_those_whose_chance_to_be_on_the_other_side_is_too_large(
    seed: int, n_top: int, confidence: float
) -> None:
    generator = np.random.default_rng(seed)
    mean, deviation = generator.normal(size=12), generator.uniform(0, 1, 12)
    deviation[generator.integers(12)] = 0
    rankable = generator.random(12) < 0.8
    ranked = sorted((m for m, r in zip(mean, rankable, strict=True) if r), reverse=True)
    expected = []
    if n_top < len(ranked):
        border = (ranked[n_top - 1] + ranked[n_top]) / 2
        for unit in range(12):
            if rankable[unit] and deviation[unit] > 0:
                above = stats.norm.sf(border, mean[unit], deviation[unit])
                if max(above, 1 - above) < confidence:
                    expected.append((abs(above - 0.5), unit))
    found = undecided(mean, deviation, rankable, n_top, confidence)
    assert found.tolist() == [unit for _, unit in sorted(expected)]


# Calibration ----------------------------------------------------------------------------------------


def features_of(n_units: int, seed: int = 0) -> np.ndarray:
    """Response, squared logit change and energy of `n_units` units, of several orders of size."""
    generator = np.random.default_rng(seed)
    size = np.exp(generator.normal(0, 1, n_units))
    return np.stack(
        [size * generator.normal(size=n_units), size**2, np.exp(generator.normal(size=n_units))]
    )


def test_a_known_linear_relation_is_recovered_also_far_from_the_sample() -> None:
    features = features_of(400)
    columns, size = design(features), np.sqrt(features[1])
    truth = columns @ np.array([0.1, 2.0, -0.3, 0.5, 0.2, -0.1])
    sample = np.random.default_rng(1).choice(400, 60, replace=False)
    noise = np.random.default_rng(2).normal(size=(20, 400)) * 0.05 * size
    guess, apart, _ = calibrated(columns, size, sample, probed_of(truth + noise - noise.mean(axis=0)))
    assert np.corrcoef(guess.mean, truth)[0, 1] > 0.999
    assert np.corrcoef(apart, truth[sample])[0, 1] > 0.999
    np.testing.assert_allclose(guess.spread / size, 0.05, rtol=0.3)


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(0, 29))
def test_what_is_said_apart_from_a_units_own_probes_does_not_hang_on_them(seed: int, unit: int) -> None:
    generator = np.random.default_rng(seed)
    features = features_of(80, seed)
    columns, size = design(features), np.sqrt(features[1])
    sample = generator.choice(80, 30, replace=False)
    responses = columns @ generator.normal(size=6) + generator.normal(size=(12, 80)) * size
    # Their own probes only move the weights that errors are taken in proportion to; these are held.
    others = responses.copy()
    others[:, sample[unit]] += 100 * size[sample[unit]]
    one, other = (calibrated(columns, size, sample, probed_of(r))[1] for r in (responses, others))
    guessed, changed = (calibrated(columns, size, sample, probed_of(r))[0] for r in (responses, others))
    moved = abs(changed.mean[sample[unit]] - guessed.mean[sample[unit]])
    assert abs(other[unit] - one[unit]) < 0.2 * moved


def test_a_guess_far_beyond_the_sample_is_in_doubt() -> None:
    features = features_of(200)
    outlier = 7
    features[0, outlier], features[1, outlier], features[2, outlier] = 0.0, 400.0**2, 400.0
    columns, size = design(features), np.sqrt(features[1])
    responses = features[0] + np.random.default_rng(3).normal(size=(8, 200)) * size
    others = np.setdiff1d(np.arange(200), [outlier])
    sample = np.random.default_rng(4).choice(others, 16, replace=False)
    guess, *_ = calibrated(columns, size, sample, probed_of(responses))
    # More than errors in proportion to size, which the sample itself has, and half of what is told.
    usual = np.median(guess.deviation[sample] / size[sample])
    assert guess.deviation[outlier] > 1.2 * max(usual * size[outlier], 0.5 * abs(guess.mean[outlier]))


def test_a_network_that_answers_nothing_has_a_guess_of_nothing() -> None:
    columns, size = design(np.zeros((3, 50))), np.zeros(50)
    guess, apart, _ = calibrated(columns, size, np.arange(20), probed_of(np.zeros((4, 50))))
    mean, _ = weighed(guess, probed_of(np.zeros((4, 50))), 9)
    for values in (guess.mean, guess.deviation, guess.spread, apart, mean):
        np.testing.assert_allclose(values, 0, atol=1e-9)


# The sample -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(seeds, st.integers(5, 200), st.data())
def test_a_sample_stands_for_all_units_and_serves_every_stratum(
    seed: int, n_units: int, data: st.DataObject
) -> None:
    generator = np.random.default_rng(seed)
    size, rankable = generator.random(n_units), np.ones(n_units, dtype=np.bool_)
    rankable[0] = data.draw(st.booleans())
    n_rankable = int(rankable.sum())
    n_top = data.draw(st.integers(1, n_rankable))
    n_sampled = data.draw(st.integers(4, min(n_rankable, 60)))
    sample, stands_for = stratified_sample(size, rankable, n_top, n_sampled, generator)
    assert len(sample) == len(set(sample.tolist())) == n_sampled
    assert rankable[sample].all()
    assert stands_for.sum() == pytest.approx(n_rankable)
    order = [unit for unit in np.argsort(-size, kind="stable").tolist() if rankable[unit]]
    # The leading quarter stands for itself.
    n_leaders = n_sampled // 4
    assert set(order[:n_leaders]) <= set(sample.tolist())
    assert (stands_for[np.isin(sample, order[:n_leaders])] == 1).all()
    near, far = order[n_leaders : 3 * n_top], order[max(3 * n_top, n_leaders) :]
    for stratum in (near, far):
        served = np.isin(sample, stratum)
        assert served.any() or not stratum
        assert stands_for[served].sum() == pytest.approx(len(stratum))


def test_every_unit_of_a_stratum_is_as_likely_as_another_and_a_seed_fixes_all() -> None:
    size, rankable = np.linspace(1, 0, 60), np.ones(60, dtype=np.bool_)
    drawn = np.zeros(60)
    for seed in range(600):
        sample, _ = stratified_sample(size, rankable, 5, 16, np.random.default_rng(seed))
        again, _ = stratified_sample(size, rankable, 5, 16, np.random.default_rng(seed))
        assert sample.tolist() == again.tolist()
        drawn[sample] += 1
    assert (drawn[:4] == 600).all()
    for stratum in (slice(4, 15), slice(15, 60)):
        assert stats.chisquare(drawn[stratum]).pvalue > 1e-3


def test_rounding_that_swaps_units_within_a_stratum_changes_no_draw() -> None:
    generator = np.random.default_rng(0)
    size, rankable = np.sort(generator.random(300))[::-1].copy(), np.ones(300, dtype=np.bool_)
    swapped = size.copy()
    for unit in (20, 24, 100, 150, 222):
        swapped[[unit, unit + 1]] = size[[unit + 1, unit]]
    one, other = (
        stratified_sample(values, rankable, 12, 40, np.random.default_rng(5))[0]
        for values in (size, swapped)
    )
    assert one.tolist() == other.tolist()


# Fidelity -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(seeds, st.integers(10, 80), st.floats(0.05, 0.5), st.booleans())
def test_of_all_units_the_fidelity_is_that_of_its_definitions(
    seed: int, n: int, share: float, ties: bool
) -> None:
    generator = np.random.default_rng(seed)
    exact = generator.normal(size=n)
    told = exact + generator.normal(size=n)
    if ties:
        exact, told = exact.round(), told.round()
    border = float(np.sort(told)[::-1][max(1, int(share * n)) - 1])
    in_map, leading = told >= border, exact >= border
    found = fidelity_of(told, exact, np.ones(n), border, 9)
    assert (found.n_orbits, found.n_images) == (n, 9)
    if leading.any():
        assert found.overlap == pytest.approx((in_map & leading).sum() / leading.sum())
    else:
        assert found.overlap is None
        assert found.reason
    if np.ptp(exact) and np.ptp(told):
        assert found.rank_correlation == pytest.approx(stats.spearmanr(told, exact).statistic, abs=1e-9)
    positive = np.maximum(exact, 0)
    if positive[leading].sum() > 0:
        expected = positive[in_map].sum() / positive[leading].sum()
        assert found.loss_mass == pytest.approx(min(1, expected))
    else:
        assert found.loss_mass is None


@given(seeds)
def test_a_unit_that_stands_for_three_counts_as_three(seed: int) -> None:
    generator = np.random.default_rng(seed)
    exact, told = generator.permutation(12).astype(float), generator.permutation(12).astype(float)
    stands_for = generator.integers(1, 4, 12).astype(float)
    many = np.repeat(np.arange(12), stands_for.astype(int))
    one = fidelity_of(told, exact, stands_for, 8.0, 5).rank_correlation
    assert one == pytest.approx(stats.spearmanr(told[many], exact[many]).statistic, abs=1e-9)


def test_the_rank_correlation_is_with_what_is_told_of_the_same_images() -> None:
    generator = np.random.default_rng(6)
    exact, told, there = generator.normal(size=(3, 60))
    found = fidelity_of(told, exact, np.ones(60), 1.0, 8, there)
    assert found.rank_correlation == pytest.approx(stats.spearmanr(there, exact).statistic)


def test_a_constant_map_has_no_rank_correlation() -> None:
    found = fidelity_of(np.zeros(9), np.arange(9.0), np.ones(9), 2.0, 5)
    assert found.rank_correlation is None
    assert fidelity_of(np.ones(9), np.zeros(9), np.ones(9), 0.5, 5).loss_mass is None
