"""Paired tests and adjusted p, against full enumeration, published figures and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shortcut_audit.results.statistics import adjusted_p_values, paired_interval, paired_p_value


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Counts of a fourfold table (both, only first, only second), and n."""
    cells = [draw(st.integers(0, 60)) for _ in range(4)]
    cells[3] += sum(cells) == 0
    return cells[0], cells[1], cells[2], sum(cells)


def wilson(hits: int, n: int, z: float) -> tuple[float, float]:
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return centre - half, centre + half


def newcombe(e: int, f: int, g: int, h: int, confidence: float = 0.95) -> tuple[float, float]:
    """Method 10 of Newcombe (1998), in the paper's letters: cells ++, +-, -+, --."""
    z = float(stats.norm.isf((1 - confidence) / 2))
    n = e + f + g + h
    difference = (f - g) / n
    l_2, u_2 = wilson(e + f, n, z)
    l_3, u_3 = wilson(e + g, n, z)
    product = (e + f) * (g + h) * (e + g) * (f + h)
    top = e * h - f * g
    if top > 0:
        top = max(top - n / 2, 0)
    phi = top / math.sqrt(product) if product else 0.0
    p_2, p_3 = (e + f) / n, (e + g) / n
    a, b = p_2 - l_2, u_3 - p_3
    c, d = u_2 - p_2, p_3 - l_3
    delta = math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0))
    epsilon = math.sqrt(max(c * c - 2 * phi * c * d + d * d, 0))
    return difference - delta, difference + epsilon


@given(st.integers(0, 80), st.integers(0, 80))
def test_the_paired_p_is_that_of_the_exact_binomial_test(first: int, second: int) -> None:
    expected = (
        stats.binomtest(first, first + second, alternative="greater").pvalue if first + second else 1.0
    )
    assert paired_p_value(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(f, s) for f in range(8) for s in range(8) if f + s <= 10])
def test_the_paired_p_counts_the_ways_in_which_signs_could_have_fallen(first: int, second: int) -> None:
    n = first + second
    ways = [sum(signs) >= first for signs in itertools.product((0, 1), repeat=n)]
    assert paired_p_value(first, second) == pytest.approx(sum(ways) / 2**n, abs=1e-12)


def test_pairs_that_never_differ_are_no_evidence() -> None:
    assert paired_p_value(0, 0) == 1.0
    assert paired_p_value(0, 9) == 1.0


# Worked tables of Newcombe (1998), method 10, to four decimals; the first has an empty cell.
@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
    ],
)
def test_the_paired_interval_is_the_published_one(
    cells: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    e, f, g, h = cells
    assert paired_interval(e, f, g, e + f + g + h) == pytest.approx(expected, abs=6e-5)


@given(tables(), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_paired_interval_is_the_formula_written_out(
    table: tuple[int, int, int, int], confidence: float
) -> None:
    both, first, second, n = table
    neither = n - both - first - second
    low, high = newcombe(both, first, second, neither, confidence)
    ours = paired_interval(both, first, second, n, confidence)
    assert ours == pytest.approx((max(-1.0, low), min(1.0, high)), abs=1e-9)


@given(tables())
def test_the_paired_interval_holds_the_difference_and_turns_round_with_it(
    table: tuple[int, int, int, int],
) -> None:
    both, first, second, n = table
    low, high = paired_interval(both, first, second, n)
    assert -1 <= low <= (first - second) / n <= high <= 1
    assert paired_interval(both, second, first, n) == pytest.approx((-high, -low), abs=1e-12)
    # More of the same images narrow it.
    low_4, high_4 = paired_interval(4 * both, 4 * first, 4 * second, 4 * n)
    assert high_4 - low_4 < high - low


def test_no_pairs_say_nothing() -> None:
    assert paired_interval(0, 0, 0, 0) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("n", "chances"),
    [
        (50, (0.3, 0.25, 0.05)),
        (50, (0.02, 0.10, 0.02)),
        (100, (0.6, 0.1, 0.1)),
        (200, (0.01, 0.02, 0.0)),
        (30, (0.0, 0.5, 0.0)),
    ],
)
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(
    n: int, chances: tuple[float, float, float]
) -> None:
    """Known truth: fourfold tables drawn from given chances of both, only first, only second."""
    generator = np.random.default_rng(int(sum(chances) * 1000) + n)
    truth = chances[1] - chances[2]
    drawn = generator.multinomial(n, [*chances, 1 - sum(chances)], size=600)
    covered = 0
    for both, first, second, _ in drawn.tolist():
        low, high = paired_interval(both, first, second, n)
        covered += low <= truth <= high
    # Newcombe found 0.93 to 0.99 over all tables; 600 draws add 0.018 to either side.
    assert 0.915 <= covered / 600 <= 1.0


@pytest.mark.parametrize("n", [10, 40, 100])
@pytest.mark.parametrize("differing", [0.1, 0.5])
def test_no_more_than_five_percent_of_paired_p_are_below_005_where_there_is_nothing(
    n: int, differing: float
) -> None:
    """Exact size: both outcomes equally frequent, `differing` the share of pairs that differ."""
    size = 0.0
    for n_differ in range(n + 1):
        weight = stats.binom.pmf(n_differ, n, differing)
        for first in range(n_differ + 1):
            if paired_p_value(first, n_differ - first) <= 0.05:
                size += weight * stats.binom.pmf(first, n_differ, 0.5)
    assert size <= 0.05
    # And it is a test: with a true difference it finds it.
    assert paired_p_value(round(0.8 * n), round(0.1 * n)) < 0.05


def test_adjusted_p_are_those_worked_out_by_hand() -> None:
    # Benjamini and Hochberg (1995): p(i) * m / i, and no larger than the next one's.
    given_p = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert adjusted_p_values(given_p) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.9])


def test_what_was_not_tested_is_none_and_does_not_count() -> None:
    assert adjusted_p_values([None, 0.02, None, 0.5]) == [None, pytest.approx(0.04), None, 0.5]
    assert adjusted_p_values([None, None]) == [None, None]
    assert adjusted_p_values([]) == []
    assert adjusted_p_values([0.03]) == [pytest.approx(0.03)]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=20))
def test_adjusted_p_follow_the_definition_and_keep_the_order(p_values: list[float | None]) -> None:
    ours = adjusted_p_values(p_values)
    present = sorted(p for p in p_values if p is not None)
    m = len(present)
    for p, q in zip(p_values, ours, strict=True):
        if p is None:
            assert q is None
            continue
        rank = sum(other <= p for other in present)
        expected = min(1.0, min(present[i - 1] * m / i for i in range(1, m + 1) if i >= rank))
        assert q == pytest.approx(expected)
        assert q is not None
        assert q >= p - 1e-12
