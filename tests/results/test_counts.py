"""Counts of paired images: the rates, differences and tests that follow from them, and their sums."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.statistics import paired_interval, paired_p_value

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


def paired_of(pairs: list[tuple[bool, bool]]) -> Paired:
    """Counts of outcomes, one image at a time."""
    both = sum(1 for first, second in pairs if first and second)
    only_first = sum(1 for first, second in pairs if first and not second)
    only_second = sum(1 for first, second in pairs if second and not first)
    return Paired(n=len(pairs), both=both, only_first=only_first, only_second=only_second)


@given(outcomes)
def test_rates_and_difference_are_those_of_the_images(pairs: list[tuple[bool, bool]]) -> None:
    counted = paired_of(pairs)
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    assert counted.first == Rate(hits=sum(first), n=len(pairs))
    assert counted.second == Rate(hits=sum(second), n=len(pairs))
    expected = np.mean(first) - np.mean(second) if pairs else 0.0
    assert counted.difference == pytest.approx(expected)
    assert counted.interval == paired_interval(
        counted.both, counted.only_first, counted.only_second, len(pairs)
    )
    assert counted.p_value == paired_p_value(counted.only_first, counted.only_second)


def test_sources_decide_where_images_share_them() -> None:
    """Four images of each of five donors: as sure as five, not as twenty."""
    counted = Paired(n=20, both=0, only_first=20, only_second=0, leaning_first=5, leaning_second=0)
    assert counted.p_value == pytest.approx(2**-5)
    assert counted.difference == 1.0


def test_the_p_value_asks_whether_the_first_is_the_more_frequent() -> None:
    assert Paired(n=20, both=3, only_first=9, only_second=0).p_value == pytest.approx(2**-9)
    assert Paired(n=20, both=3, only_first=0, only_second=9).p_value == 1.0
    # Images on which both agree say nothing about it.
    assert Paired(n=2000, both=900, only_first=9, only_second=0).p_value == pytest.approx(2**-9)


@pytest.mark.parametrize(
    "counts",
    [
        {"n": 3, "both": 2, "only_first": 1, "only_second": 1},
        {"n": 3, "both": -1, "only_first": 1, "only_second": 1},
        {"n": -1, "both": 0, "only_first": 0, "only_second": 0},
        {"n": 3, "both": 1, "only_first": 1, "only_second": 1, "neither": 0},
    ],
)
def test_counts_that_cannot_be_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Paired(**counts)


def test_paired_counts_and_rates_come_back_from_json_as_they_were() -> None:
    counted = Paired(n=12, both=4, only_first=3, only_second=1)
    assert Paired.model_validate_json(counted.model_dump_json()) == counted
    rate = Rate(hits=3, n=8)
    written = json.loads(rate.model_dump_json())
    assert written["value"] == 0.375
    assert Rate.model_validate(written) == rate


def test_more_hits_than_images_are_refused() -> None:
    with pytest.raises(ValidationError, match="4 hits among 3"):
        Rate(hits=4, n=3)


def test_a_copy_with_other_counts_has_other_intervals() -> None:
    rate, pair = Rate(hits=3, n=10), Paired(n=10, both=1, only_first=5, only_second=0)
    assert (rate.low, pair.interval) == (Rate(hits=3, n=10).low, pair.interval)
    copied = rate.model_copy(update={"hits": 9})
    assert copied == Rate(hits=9, n=10)
    assert (copied.low, copied.high) == (Rate(hits=9, n=10).low, Rate(hits=9, n=10).high)
    other = Paired(n=10, both=1, only_first=1, only_second=4)
    moved = pair.model_copy(update={"only_first": 1, "only_second": 4})
    assert (moved.interval, moved.p_value) == (other.interval, other.p_value)
