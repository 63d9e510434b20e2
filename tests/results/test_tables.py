from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from shortcut_audit.errors import ResultError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.units import Units
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.export import EXPORTERS
from shortcut_audit.results.tables import TABLES


def test_classes_has_a_row_a_class_and_the_promised_columns(result: AuditResult) -> None:
    table = result.table("classes")
    promised = "class n_search n_judge accuracy verdict kept_share tpr_kept fpr_kept map_reliability"
    assert set(promised.split()) <= set(table.columns)
    assert list(table["class"]) == list(result.class_names)
    assert table["verdict"].tolist() == [item.verdict for item in result.shortcuts.by_class]
    for row, item in zip(table.itertuples(), result.shortcuts.by_class, strict=True):
        assert row.tpr_kept == item.tpr_kept.hits / item.tpr_kept.n
        assert row.tpr_kept_low <= row.tpr_kept <= row.tpr_kept_high
        assert row.n_search + row.n_judge == 12


def test_orbits_has_a_row_a_class_and_orbit_and_agrees_with_the_arrays(result: AuditResult) -> None:
    table = result.table("orbits")
    assert list(table.columns[:3]) == ["class", "u", "v"]
    assert {"radius", "importance", "rank", "kept"} <= set(table.columns)
    assert len(table) == 3 * result.grid.n_orbits
    grid = FrequencyGrid(result.grid.height, result.grid.width)
    for name, own in table.groupby("class"):
        ranked = own.dropna(subset="rank").sort_values("rank")
        found = next(m for m in result.dominant_frequencies.by_class if m.class_name == name)
        # Orbits of a tile share a rank's worth, and come one after the other by their own importance.
        tile = Units.named(found.resolution, grid).unit_of_orbit[ranked.index - own.index[0]]
        if found.resolution == "orbits":
            tile = np.zeros(len(ranked), dtype=int)
        assert len(list(itertools.groupby(tile))) == len(set(tile))
        for number in set(tile):
            assert ranked["importance"][tile == number].is_monotonic_decreasing
        n_kept = found.n_orbits_kept
        assert ranked["kept"].tolist() == [True] * n_kept + [False] * (len(ranked) - n_kept)
        np.testing.assert_array_equal(own["importance"], result.importance(str(name)))


def test_bands_add_up_to_all_orbits_but_dc(result: AuditResult) -> None:
    table = result.table("bands")
    for _, own in table.groupby("class"):
        assert own["n_orbits"].sum() == result.grid.n_orbits - 1
        assert own["share_of_map"].sum() == pytest.approx(1)
        assert (own["radius_low"].to_numpy()[1:] >= own["radius_high"].to_numpy()[:-1]).all()


def test_an_unknown_table_names_the_known_ones(result: AuditResult) -> None:
    with pytest.raises(ResultError, match="classes, orbits, bands"):
        result.table("pixels")
    with pytest.raises(ResultError, match="no map of class"):
        result.importance("nobody")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("format_name", EXPORTERS)
def test_every_format_holds_the_same_table(table: str, format_name: str, result: AuditResult) -> None:
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
    for column, kind in expected.dtypes.items():
        # Text has no number that may be missing.
        if format_name != "parquet" and kind in ("Int64", "float64", "string"):
            back[column] = back[column].astype(kind)
    assert list(back.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(
        back, expected, check_dtype=False, check_exact=False, rtol=1e-6, atol=1e-6
    )
