"""Counts and rates of a cue-conflict test, and its file."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from cues import HOSTILE, made
from pydantic import ValidationError

from shortcut_audit.errors import ResultError, SettingsError
from shortcut_audit.results.cue_conflict import (
    CueConflictResult,
    CueCounts,
    ExactRate,
    LeftOut,
    left_out_text,
    load_cue_conflict,
    save_cue_conflict,
)
from shortcut_audit.results.cue_settings import cue_settings_from


def test_rates_follow_from_counts() -> None:
    counts = CueCounts(n_shape=3, n_texture=9, n_neither=8)
    assert (counts.n, counts.n_either) == (20, 12)
    assert counts.shape_bias.value == pytest.approx(0.25)
    assert counts.accuracy.value == pytest.approx(0.15)
    assert counts.neither.value == pytest.approx(0.4)


def test_p_is_the_exact_binomial_one() -> None:
    n, hits = 12, 3
    tail = sum(math.comb(n, k) for k in range(hits + 1)) / 2**n
    assert CueCounts(n_shape=hits, n_texture=n - hits).p_value == pytest.approx(2 * tail)
    assert CueCounts(n_neither=4).p_value is None


@pytest.mark.parametrize(("hits", "n"), [(3, 12), (0, 9), (9, 9), (31, 40)])
def test_the_interval_is_clopper_and_pearsons(hits: int, n: int) -> None:
    """At either end, as much as was seen would be seen with a chance of 2.5%."""
    rate = ExactRate(hits=hits, n=n)

    def at_least(k: int, p: float) -> float:
        return sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))

    assert (at_least(hits, rate.low) if hits else 0.025) == pytest.approx(0.025, abs=1e-9)
    assert (1 - at_least(hits + 1, rate.high) if hits < n else 0.025) == pytest.approx(0.025, abs=1e-9)
    assert (rate.low == 0.0) is (hits == 0)
    assert (rate.high == 1.0) is (hits == n)


def test_a_rate_of_nothing_says_nothing() -> None:
    rate = CueCounts(n_neither=3).shape_bias
    assert (rate.value, rate.low, rate.high) == (None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "word"),
    [
        ((40, 5, 3), "shape"),
        ((5, 40, 3), "texture"),
        ((9, 11, 3), "undecided"),
        ((251, 249, 3), "both"),
        ((0, 0, 3), "not measured"),
    ],
)
def test_what_a_model_goes_by(counts: tuple[int, int, int], word: str) -> None:
    result = made(counts, (0, 0, 0))
    assert result.goes_by == word
    assert (result.why_not_measured == "") is (word != "not measured")


def test_nothing_left_has_a_reason() -> None:
    assert made((0, 0, 0)).why_not_measured == (
        "none of the 7 images is left"
        " (5 of a class without a group, 2 with shape and texture of one class)"
    )
    assert "called none of the 4 images" in made((0, 0, 4)).why_not_measured
    assert left_out_text(LeftOut()) == "none"


def test_all_images_are_the_sum_of_the_classes() -> None:
    result = made((3, 4, 5), (1, 0, 2), (0, 6, 0))
    assert result.among_groups == CueCounts(n_shape=4, n_texture=10, n_neither=7)
    assert result.among_all == CueCounts(n_shape=0, n_texture=10, n_neither=11)


def test_counts_that_do_not_add_up_are_refused() -> None:
    good = made((3, 4, 5))
    content = good.model_dump()
    content["left_out"]["unmapped"] += 1
    with pytest.raises(ValidationError, match="12 used and 8 left out of 19"):
        CueConflictResult.model_validate(content)
    content = good.model_dump()
    content["by_class"][0]["among_all"]["n_neither"] += 1
    with pytest.raises(ValidationError, match="13 images counted of 12 used"):
        CueConflictResult.model_validate(content)


def test_a_saved_test_is_read_back(tmp_path: Path) -> None:
    result = made((3, 4, 5), (1, 0, 2))
    save_cue_conflict(result, tmp_path / "out")
    assert load_cue_conflict(tmp_path / "out") == result
    assert load_cue_conflict(tmp_path / "out" / "cue_conflict.json") == result
    content = json.loads((tmp_path / "out" / "cue_conflict.json").read_text())
    assert content["format"] == 1
    # Whoever reads the file by hand finds the rates.
    assert content["by_class"][0]["among_groups"]["shape_bias"]["value"] == pytest.approx(3 / 7)


def test_saving_again_removes_the_page_of_the_old_numbers(tmp_path: Path) -> None:
    save_cue_conflict(made((3, 4, 5)), tmp_path)
    (tmp_path / "report.html").write_text("old")
    save_cue_conflict(made((4, 4, 5)), tmp_path)
    assert not (tmp_path / "report.html").exists()
    assert load_cue_conflict(tmp_path) == made((4, 4, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2; this version reads up to 1"),
        ({"format": 0}, "is not a cue-conflict test of this tool: format"),
        ({"tool": "another"}, "is not a cue-conflict test of this tool: tool"),
        ({"extra": 1}, "extra"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_cue_conflict(made((3, 4, 5)), tmp_path)
    file = tmp_path / "cue_conflict.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ResultError, match=message):
        load_cue_conflict(tmp_path)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        load_cue_conflict(tmp_path)
    (tmp_path / "cue_conflict.json").write_text("{")
    with pytest.raises(ResultError, match="is damaged"):
        load_cue_conflict(tmp_path)
    (tmp_path / "cue_conflict.json").write_text("[]")
    with pytest.raises(ResultError, match="is not a cue-conflict test"):
        load_cue_conflict(tmp_path)


def test_the_table_has_a_row_a_class_and_one_of_all() -> None:
    rows = list(csv.DictReader(io.StringIO(made((3, 4, 5), (0, 0, 2)).as_csv())))
    assert [(row["rows"], row["class"]) for row in rows] == [
        ("class", HOSTILE),
        ("class", "class1"),
        ("all", ""),
    ]
    assert [row["n"] for row in rows] == ["12", "2", "14"]
    assert float(rows[0]["shape_bias"]) == 3 / 7
    assert float(rows[2]["shape_bias_low"]) == ExactRate(hits=3, n=7).low
    assert rows[1]["shape_bias"] == ""
    assert rows[1]["p_value"] == ""
    assert [row["n_neither_among_all_outputs"] for row in rows] == ["8", "2", "10"]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(SettingsError, match=r"images_per_class \(--images-per-class\) was given as 0"):
        cue_settings_from({"images_per_class": 0})
    with pytest.raises(SettingsError, match="colour"):
        cue_settings_from({"colour": 1})
