"""Samples of the same data are known by a few of their images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from shortcut_audit.results.sketches import common_by_chance, expected_share, shared_of, sketch_of


def sample(generator: np.random.Generator, pool: np.ndarray, n: int) -> np.ndarray:
    return generator.choice(pool, n, replace=False)


def identities(generator: np.random.Generator, n: int) -> np.ndarray:
    return np.unique(generator.integers(0, 2**64, n, dtype=np.uint64))


def test_sketches_of_small_samples_tell_exactly_what_is_shared() -> None:
    one, other = (np.array(each, np.uint64) << np.uint64(32) for each in ([3, 1, 2, 9], [2, 3, 5]))
    assert shared_of(sketch_of(one), sketch_of(other)) == (2, 5)
    assert shared_of(sketch_of(one), sketch_of(one)) == (4, 4)
    assert sketch_of(None) == ""
    assert shared_of("", "") == shared_of("", sketch_of(one)) == (0, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(400, 400), (300, 900), (2000, 2000)]))
def test_sketches_estimate_the_share_that_is_in_both(seed: int, sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(seed)
    pool = identities(generator, 3000)
    one, other = (sample(generator, pool, n) for n in sizes)
    found, told = shared_of(sketch_of(one), sketch_of(other))
    assert told >= 256
    # A damaged one says nothing.
    assert shared_of(sketch_of(one)[:-1], sketch_of(other)) == (0, 0)
    true = len(np.intersect1d(one, other)) / len(np.union1d(one, other))
    assert found / told == pytest.approx(true, abs=5 * np.sqrt(0.25 / told))
    assert expected_share(*sizes, len(pool)) == pytest.approx(true, abs=0.1)
    # Never said of samples of one pool, always of samples of two.
    assert common_by_chance(found, told, expected_share(*sizes, len(pool))) > 1e-6
    elsewhere = sample(generator, identities(generator, 3000), sizes[1])
    found, told = shared_of(sketch_of(one), sketch_of(elsewhere))
    if expected_share(*sizes, len(pool)) > 0.2:
        assert common_by_chance(found, told, expected_share(*sizes, len(pool))) < 1e-6


@pytest.mark.parametrize(
    ("found", "n", "share"), [(0, 64, 0.2), (3, 128, 0.1), (700, 1200, 0.6), (0, 5, 0.0)]
)
def test_the_probability_is_the_binomial_one(found: int, n: int, share: float) -> None:
    assert common_by_chance(found, n, share) == pytest.approx(binom.cdf(found, n, share), rel=1e-9)


def test_where_all_are_expected_all_have_to_be_there() -> None:
    assert common_by_chance(10, 10, 1.0) == 1.0
    assert common_by_chance(9, 10, 1.0) == 0.0
