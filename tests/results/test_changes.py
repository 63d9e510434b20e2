"""Tests and intervals of changes, against scipy, simulation by counting, and closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, fisher_exact

from shortcut_audit.results.changes import (
    Apart,
    Exceeds,
    MapReliability,
    NetShare,
    Proportion,
    SameImages,
    SameReceivers,
    effective_share,
    fisher_p_value,
    holm,
    sign_p_value,
)
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.statistics import (
    paired_interval,
    paired_p_value,
    spearman_brown,
    unpaired_interval,
)

counts = st.integers(0, 60)
# Other work on the machine is no fault of a test.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(counts, counts)
def test_sign_test_is_the_binomial_tail(ups: int, downs: int) -> None:
    assert sign_p_value(ups, downs) == pytest.approx(paired_p_value(ups, downs), rel=1e-9)


@patient
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_fisher_is_scipys(n: int, other_n: int, data: st.DataObject) -> None:
    hits, other = data.draw(st.integers(0, n)), data.draw(st.integers(0, other_n))
    table = [[hits, n - hits], [other, other_n - other]]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert fisher_p_value(hits, n, other, other_n) == pytest.approx(expected, rel=1e-7)


@patient
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_bonferroni_step_by_step(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    running = 0.0
    for rank, k in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[k]))
        assert adjusted[k] == pytest.approx(running)


@patient
@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_apart_is_newcombes_interval_of_two_shares(n: int, m: int, data: st.DataObject) -> None:
    hits, other = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    change = Apart(Proportion(hits, n), Proportion(other, m))
    assert change.value == pytest.approx(hits / n - other / m)
    low, high = unpaired_interval(hits, n, other, m)
    assert (max(-1, change.interval()[0]), min(1, change.interval()[1])) == pytest.approx((low, high))


@st.composite
def tables(draw: st.DrawFn, most: int = 120) -> Paired:
    both, first, second, neither = (draw(st.integers(0, most)) for _ in range(4))
    return Paired(n=both + first + second + neither + 1, both=both, only_first=first, only_second=second)


@patient
@given(tables())
def test_same_images_is_newcombes_interval_of_pairs_and_at_least_mcnemars_p(pair: Paired) -> None:
    change = SameImages(pair)
    expected = paired_interval(pair.both, pair.only_first, pair.only_second, pair.n)
    assert change.interval() == pytest.approx(expected)
    exact = sign_p_value(pair.only_first, pair.only_second)
    assert change.p_over(0.0) >= exact or pair.difference <= 0


@patient
@given(tables(), st.sampled_from([0.0, 0.02, 0.1, 0.3]))
def test_p_is_where_the_interval_just_reaches_the_tolerance(pair: Paired, tolerance: float) -> None:
    """Without the exact test, which only makes p larger, 1 - 2p is the confidence of that interval."""
    change = SameImages(pair)
    p = change.p_over(tolerance)
    if pair.difference <= tolerance:
        assert p == 1.0
        return
    if p <= 1e-12 or p >= 0.49:
        return
    low = change.interval(1 - 2 * p * 1.01)[0]
    exact = sign_p_value(pair.only_first, pair.only_second)
    assert low == pytest.approx(tolerance, abs=2e-3) or p == exact


@patient
@given(tables(), st.floats(0, 0.4), st.floats(0, 0.4))
def test_a_wider_tolerance_is_never_surer_exceeded(pair: Paired, one: float, other: float) -> None:
    for change in (
        SameImages(pair),
        Apart(NetShare(pair), Proportion(1, 50)),
        SameReceivers(pair, Paired(n=pair.n, both=0, only_first=0, only_second=0), 9, 2),
    ):
        assert change.p_over(max(one, other)) >= change.p_over(min(one, other)) - 1e-9


def test_the_test_against_a_tolerance_keeps_its_level() -> None:
    """Exactly, by adding up all tables: 60 pairs, a true change of just the tolerance."""
    n, tolerance = 60, 0.1
    for base in (0.0, 0.05, 0.2):
        p_first, p_second = base + tolerance, base
        beyond = 0.0
        for first in range(n + 1):
            chance = binom.pmf(first, n, p_first)
            if chance < 1e-9:
                continue
            for second in range(n - first + 1):
                rest = binom.pmf(second, n - first, p_second / (1 - p_first))
                if chance * rest < 1e-10:
                    continue
                pair = Paired(n=n, both=0, only_first=first, only_second=second)
                beyond += chance * rest * (SameImages(pair).p_over(tolerance) <= 0.005)
        assert beyond <= 0.0065


@patient
@given(st.integers(1, 500), st.floats(0, 1))
def test_images_under_one_map_are_worth_less(n: int, reliability: float) -> None:
    worth = effective_share(n, reliability) * n
    assert worth == pytest.approx(n / (1 + (n - 1) * (1 - reliability)))
    assert 1 - 1e-9 <= worth <= n + 1e-9
    assert effective_share(n, None) == effective_share(n, -0.3) == pytest.approx(1 / n)


def test_draws_of_the_same_images_do_not_narrow_the_interval() -> None:
    once = Paired(n=50, both=1, only_first=20, only_second=2)
    thrice = Paired(n=150, both=3, only_first=60, only_second=6)
    assert NetShare(thrice, draws=3).interval(0.95) == pytest.approx(NetShare(once).interval(0.95))
    assert NetShare(thrice, draws=3).n == 50
    assert NetShare(once, weight=0.5).value == pytest.approx(0.18)


def test_reliability_of_maps_by_fishers_z() -> None:
    low, high = MapReliability(0.6, 100).interval(0.95)
    reach = 1.959964 / math.sqrt(47)
    z = math.atanh(0.6)
    assert low == pytest.approx(spearman_brown(math.tanh(z - reach)), rel=1e-6)
    assert high == pytest.approx(spearman_brown(math.tanh(z + reach)), rel=1e-6)
    assert MapReliability(1.0, 10).interval(0.95)[1] <= 1


def test_a_limit_is_held_against_one_estimate() -> None:
    over = Exceeds(Proportion(30, 50), 0.4)
    assert over.value == pytest.approx(0.2)
    assert over.p_over(0.0) < 0.005
    below = Exceeds(Proportion(30, 50), 0.7, above=False)
    assert below.value == pytest.approx(0.1)
    assert 0.005 < below.p_over(0.0) < 0.1
    assert Exceeds(Proportion(30, 50), 0.6).p_over(0.0) == 1.0


def test_more_images_of_the_same_kind_make_it_surer() -> None:
    for change in (
        Apart(Proportion(12, 50), Proportion(6, 50)),
        SameImages(Paired(n=50, both=20, only_first=8, only_second=3)),
        SameReceivers(
            Paired(n=50, both=20, only_first=8, only_second=3),
            Paired(n=50, both=1, only_first=0, only_second=0),
            8,
            3,
        ),
        Exceeds(Proportion(12, 50), 0.2),
    ):
        assert change.times(6).p_over(0.02) < change.p_over(0.02)
