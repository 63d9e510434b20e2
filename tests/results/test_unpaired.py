"""Two proportions of different images: interval and exact test against known values and properties."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from conftest import linear_model, random_images
from elsewhere import request_of, with_noise
from hypothesis import given
from hypothesis import strategies as st

import shortcut_audit as sa
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.statistics import proportion_interval, unpaired_interval, unpaired_p_value
from shortcut_audit.results.transfer_findings import TransferFinding
from shortcut_audit.run.audit import run_audit


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17:873-890, table II, method 10.
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0000),
        ((10, 10, 0, 10), 0.6075, 1.0000),
    ],
)
def test_intervals_are_the_published_ones(counts: Any, low: float, high: float) -> None:
    found = unpaired_interval(*counts)
    assert found == pytest.approx((low, high), abs=6e-5)


def chance_of_at_least(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Of so many of all hits among the first, by counting hands of cards."""
    total = hits + other_hits
    ways = math.comb(n + other_n, total)
    return (
        sum(math.comb(n, k) * math.comb(other_n, total - k) for k in range(hits, min(n, total) + 1))
        / ways
    )


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    n, other_n = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return draw(st.integers(0, n)), n, draw(st.integers(0, other_n)), other_n


@given(counts())
def test_p_is_the_chance_that_so_many_hits_fall_to_the_first(of: tuple[int, int, int, int]) -> None:
    assert unpaired_p_value(*of) == pytest.approx(chance_of_at_least(*of), rel=1e-9)


@given(counts())
def test_the_interval_holds_the_difference_and_turns_with_the_sides(
    of: tuple[int, int, int, int],
) -> None:
    hits, n, other_hits, other_n = of
    low, high = unpaired_interval(*of)
    assert -1 <= low <= hits / n - other_hits / other_n <= high <= 1
    turned = unpaired_interval(other_hits, other_n, hits, n)
    assert turned == pytest.approx((-high, -low), abs=1e-12)
    wide = unpaired_interval(*of, confidence=0.99)
    assert wide[0] <= low + 1e-12
    assert wide[1] >= high - 1e-12


@given(counts())
def test_four_times_as_many_images_say_more(of: tuple[int, int, int, int]) -> None:
    low, high = unpaired_interval(*of)
    more_low, more_high = unpaired_interval(*(4 * count for count in of))
    assert more_high - more_low < high - low


@given(counts())
def test_one_more_hit_makes_p_smaller(of: tuple[int, int, int, int]) -> None:
    hits, n, other_hits, other_n = of
    if hits < n:
        assert unpaired_p_value(hits + 1, n, other_hits, other_n) <= unpaired_p_value(*of) + 1e-12


@given(st.integers(0, 40))
def test_against_very_many_images_it_is_the_interval_of_one_proportion(hits: int) -> None:
    low, high = unpaired_interval(hits, 40, 0, 10**9)
    assert (low, high) == pytest.approx(proportion_interval(hits, 40), abs=1e-6)


@pytest.mark.parametrize("of", [(0, 0, 3, 5), (3, 5, 0, 0), (0, 0, 0, 0)])
def test_without_images_nothing_is_said(of: Any) -> None:
    assert unpaired_interval(*of) == (-1.0, 1.0)
    assert unpaired_p_value(*of) == 1.0


def test_under_no_difference_p_is_seldom_small_and_the_interval_seldom_misses() -> None:
    generator = np.random.default_rng(0)
    small = missed = 0
    for _ in range(400):
        n, other_n, rate = *generator.integers(5, 60, 2), generator.uniform(0.1, 0.9)
        of = (
            int(generator.binomial(n, rate)),
            int(n),
            int(generator.binomial(other_n, rate)),
            int(other_n),
        )
        small += unpaired_p_value(*of) <= 0.05
        low, high = unpaired_interval(*of)
        missed += not low <= 0 <= high
    assert small <= 20
    # 5% of 400 are 20; more than 34 in one of a thousand runs.
    assert missed <= 34


# Saved and loaded ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result() -> AuditResult:
    home = random_images(8, 3, (1, 8, 8))
    sets = {"copies": with_noise(home), "other": random_images(5, 3, (1, 8, 8), 2)}
    return run_audit(request_of(linear_model(3, (1, 8, 8)), home, sets))


def test_what_became_of_other_sets_survives_saving_and_loading(
    result: AuditResult, tmp_path: Path
) -> None:
    loaded = sa.load_result(result.save(tmp_path / "run"))
    assert loaded.format == 7
    assert isinstance(loaded.transfer, TransferFinding)
    assert loaded.transfer == result.transfer
    assert [each.set.name for each in loaded.transfer.by_set] == ["copies", "other"]
    copies, other = loaded.transfer.by_set
    assert copies.by_class[0].change is not None
    assert other.by_class[0].change is None
    assert loaded == result


def test_the_result_fits_its_schema(result: AuditResult) -> None:
    schema = AuditResult.model_json_schema(mode="serialization")
    content = result.model_dump(mode="json")
    jsonschema.validate(content, schema)
    finding = next(each for each in content["findings"] if each["measure"] == "transfer")
    finding["by_set"][0]["by_class"][0]["effect"] = "miracle"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_an_audit_without_other_sets_has_no_transfer(tmp_path: Path) -> None:
    home = random_images(6, 3, (1, 6, 6))
    alone = run_audit(request_of(linear_model(3, (1, 6, 6)), home, {}))
    assert alone.transfer is None
    assert sa.load_result(alone.save(tmp_path / "run")).transfer is None
