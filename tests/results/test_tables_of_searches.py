"""Tables of every search: what is estimated says so, what does not apply is empty, in every format."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from routes import OPTIONS, audit_by, fidelity, with_maps

from shortcut_audit.results.export import EXPORTERS
from shortcut_audit.results.tables import TABLES

SCORES = {
    "importance_log_odds",
    "importance_cross_entropy",
    "importance_squared_logit_change",
}


@pytest.mark.parametrize("route", OPTIONS)
def test_classes_name_search_resolution_and_images_that_would_be_enough(route: str) -> None:
    result = audit_by(route)
    finding = result.dominant_frequencies
    table = result.table("classes").set_index("class")
    assert set(table["search"]) == {finding.search}
    for item in finding.by_class:
        row = table.loc[item.class_name]
        assert row["resolution"] == item.resolution
        enough = None if pd.isna(row["images_enough"]) else row["images_enough"]
        assert enough == item.n_images_enough
    assert table["images_enough"].dtype == "Int64"


def test_fidelity_is_that_of_each_map_and_empty_where_there_is_none() -> None:
    own = fidelity(0.25, 0.75)
    result = with_maps(audit_by("screened"), {"fidelity": own}, {"fidelity": fidelity(None, None)})
    table = result.table("classes")
    columns = ["fidelity_rank_correlation", "fidelity_overlap", "fidelity_loss_mass"]
    assert table.loc[0, columns].tolist() == [0.25, 0.75, 0.75]
    assert table.loc[1, columns].isna().all()
    assert table.loc[2, columns].notna().all()
    assert audit_by("exact").table("classes")[columns].isna().all(axis=None)
    # What was measured as 0 is no gap.
    nought = with_maps(audit_by("screened"), {"fidelity": fidelity(0.0, 0.0)}).table("classes")
    assert nought.loc[0, columns].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("route", OPTIONS)
def test_orbits_say_on_how_many_images_an_estimate_was_probed(route: str) -> None:
    result = audit_by(route)
    table = result.table("orbits")
    if route != "screened":
        assert table["n_probed"].isna().all()
        return
    probed = result.arrays["dominant_frequencies/n_probed"]
    np.testing.assert_array_equal(table["n_probed"].to_numpy(dtype=int), probed.ravel())
    assert probed.max() > 0


@pytest.mark.parametrize("route", OPTIONS)
def test_orbits_have_the_scores_that_the_search_measures(route: str) -> None:
    table = audit_by(route).table("orbits")
    joint = route in ("hierarchical", "learned")
    scores = {column for column in table if column.startswith("importance_")}
    assert scores == ({"importance_joint"} if joint else SCORES)
    same = "importance_joint" if joint else "importance_log_odds"
    pd.testing.assert_series_equal(table["importance"], table[same], check_names=False)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("format_name", EXPORTERS)
@pytest.mark.parametrize("route", ["screened", "hierarchical"])
def test_every_format_holds_the_same_table(route: str, table: str, format_name: str) -> None:
    result = audit_by(route)
    stream = io.BytesIO()
    EXPORTERS[format_name](result, table, stream)
    content = stream.getvalue()
    if format_name == "csv":
        back = pd.read_csv(io.BytesIO(content))
    elif format_name == "json":
        back = pd.DataFrame(json.loads(content))
    else:
        back = pd.read_parquet(io.BytesIO(content))
    expected = result.table(table)
    assert list(back.columns) == list(expected.columns)
    # Text has no types of missing numbers.
    back = back.astype(expected.dtypes)
    pd.testing.assert_frame_equal(back, expected, check_exact=False, rtol=1e-6, atol=1e-6)


def test_columns_of_searches_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "result-format.md").read_text()
    columns = {
        *(c for route in OPTIONS for c in audit_by(route).table("orbits")),
        *audit_by("screened").table("classes").columns[-6:],
    }
    for column in columns - SCORES:
        assert re.search(rf"\b{column}\b", page), column
