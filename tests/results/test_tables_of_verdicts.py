"""Tables of verdicts: numbers are those of the counts, what was not measured is missing, not zero."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from judged import NOTHING, SHORTCUT, UNJUDGED, with_verdicts
from routes import audit_by

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.export import EXPORTERS


@pytest.fixture(scope="module")
def judged() -> AuditResult:
    return with_verdicts(audit_by("exact"), SHORTCUT, UNJUDGED, NOTHING)


def test_classes_have_the_verdict_and_the_numbers_of_the_best_rung(judged: AuditResult) -> None:
    row = judged.table("classes").loc[0]
    assert row[["verdict", "kind", "confounds"]].tolist() == [
        "shortcut",
        "mid band, narrow, one direction",
        "default class,colour",
    ]
    assert row["reason"] == "3 orbits <i>turn</i> them."
    assert row[["q_value", "p_value", "score", "strength_share"]].tolist() == [0.0003, 0.0001, 0.5, 0.02]
    assert row["transplant_flip"] == pytest.approx((24 - 2) / 40)
    assert row["transplant_null_foreign"] == pytest.approx((4 - 2) / 40)
    assert row["transplant_null_random"] == pytest.approx((3 - 2) / 40)
    assert row["necessity_drop"] == pytest.approx((38 - 20) / 40)
    assert (row["n_orbits_best"], row["share_best"]) == (3, 0.02)


def test_what_was_not_measured_is_missing(judged: AuditResult) -> None:
    table = judged.table("classes")
    assert table.loc[0, ["sufficient_share", "needed"]].isna().all()
    unjudged = table.loc[1]
    assert unjudged["verdict"] == "not judged"
    columns = ["q_value", "p_value", "score", "transplant_flip", "n_orbits_best", "kind", "confounds"]
    assert unjudged[columns].isna().all()
    # The best rung of a class without nulls.
    assert table.loc[2, "transplant_flip"] == pytest.approx(8 / 40)
    assert table.loc[2, ["transplant_null_foreign", "transplant_null_random"]].isna().all()
    assert table["n_orbits_best"].dtype == "Int64"


def test_the_ladder_has_a_row_a_class_and_rung_with_its_counts(judged: AuditResult) -> None:
    table = judged.table("ladder")
    names = judged.class_names
    assert table["class"].tolist() == [names[0]] * 3 + [names[2]] * 3
    assert table["rung"].tolist() == [0, 1, 2] * 2
    assert table["best"].tolist() == [False, True, False, True, False, False]
    best = table.loc[1]
    counts = {
        "flips": ("n after before", [40, 24, 2]),
        "flips_over_foreign": ("n own null", [40, 24, 4]),
        "flips_over_random": ("n own null", [40, 24, 3]),
        "losses": ("n before after", [40, 38, 20]),
        "losses_over_random": ("n null own", [40, 36, 20]),
        "kept_over_random": ("n own null", [40, 30, 12]),
        "kept": ("n hits", [40, 30]),
        "kept_foreign": ("n hits", [40, 4]),
    }
    for name, (columns, values) in counts.items():
        assert best[[f"{name}_{column}" for column in columns.split()]].tolist() == values
    assert best["flips_difference"] == pytest.approx(0.55)
    assert best["flips_low"] < 0.55 < best["flips_high"]
    assert best["flips_p_value"] == pytest.approx(2.0**-22)
    assert best["kept_rate"] == 0.75
    assert best["sufficiency"] == pytest.approx(30 / 40 - 4 / 40)
    ring = table.loc[2]
    assert (ring["ring"], ring["radius_low"], ring["radius_high"]) == (4, 3.0, 4.5)
    assert ring[["losses_n", "losses_difference", "kept_rate", "sufficiency"]].isna().all()
    # Of 20 images 1 was called so before, of 40 with a null 2.
    assert ring["transplant_null_foreign"] == pytest.approx(0.0)


def test_a_result_without_ladders_has_an_empty_table() -> None:
    result = with_verdicts(audit_by("exact"), UNJUDGED, UNJUDGED, UNJUDGED)
    table = result.table("ladder")
    full = with_verdicts(audit_by("exact"), SHORTCUT, SHORTCUT, SHORTCUT).table("ladder")
    assert len(table) == 0
    assert list(table.columns) == list(full.columns)
    stream = io.BytesIO()
    EXPORTERS["csv"](result, "ladder", stream)
    assert stream.getvalue().decode().splitlines() == [",".join(full.columns)]
    assert result.table("classes")["verdict"].tolist() == ["not judged"] * 3


@pytest.mark.parametrize("table", ["classes", "ladder"])
@pytest.mark.parametrize("format_name", EXPORTERS)
def test_every_format_holds_the_same_table(table: str, format_name: str, judged: AuditResult) -> None:
    stream = io.BytesIO()
    EXPORTERS[format_name](judged, table, stream)
    content = stream.getvalue()
    if format_name == "csv":
        back = pd.read_csv(io.BytesIO(content))
    elif format_name == "json":
        back = pd.DataFrame(json.loads(content))
    else:
        back = pd.read_parquet(io.BytesIO(content))
    expected = judged.table(table)
    assert list(back.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(
        back.astype(expected.dtypes), expected, check_exact=False, rtol=1e-6, atol=1e-6
    )


def test_an_audit_of_data_alone_has_no_ladder_and_says_so(judged: AuditResult) -> None:
    provenance = judged.provenance.model_copy(update={"model": None})
    of_data = judged.model_copy(update={"provenance": provenance}).with_arrays(judged.arrays)
    with pytest.raises(ResultError, match="data alone no table 'ladder'.*classes, orbits, bands"):
        of_data.table("ladder")


def test_columns_of_verdicts_are_documented(judged: AuditResult) -> None:
    page = (Path(__file__).parents[2] / "docs" / "result-format.md").read_text()
    ladder = set(judged.table("ladder").columns)
    ends = ["n", "after", "before", "own", "null", "hits", "difference", "rate", "low", "high", "p_value"]
    names = {re.sub(rf"_({'|'.join(ends)})$", "", column) for column in ladder}
    for column in {*names, *judged.table("classes").columns[7:23]}:
        assert re.search(rf"\b{column}\b", page), column
    for end in ends:
        assert f"`_{end}`" in page, end
