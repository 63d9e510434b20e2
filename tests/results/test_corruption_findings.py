from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shifted import NAMES, audit_under

import shortcut_audit as sa
from shortcut_audit.errors import ResultError
from shortcut_audit.results.corruption_findings import energy_shares, orbit_shares
from shortcut_audit.results.export import EXPORTERS

SHIFTS = "jpeg:3,5,gaussian_noise:5,haze,contrast:5"


def test_a_result_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    result = audit_under(SHIFTS)
    assert result.corruptions is not None
    loaded = sa.load_result(result.save(tmp_path / "run"))
    assert loaded == result
    assert loaded.settings.shifts == result.settings.shifts
    assert loaded.corruptions == result.corruptions


def test_shares_are_of_clean_energy_and_nothing_of_nothing() -> None:
    energy = np.array([[4.0, 1.0, 2.0, 3.0, 0.1, 0.2, 0.3], np.zeros(7)])
    np.testing.assert_array_equal(energy_shares(energy), [[0.25, 0.5, 0.75], [np.nan] * 3])
    np.testing.assert_array_equal(orbit_shares(energy), [[0.1, 0.2, 0.3], [np.nan] * 3])


def test_energies_obey_what_energies_must() -> None:
    """Bands and regions add up; contrast takes away and adds nothing; what rises and falls bounds the
    difference: sqrt(E') lies between sqrt(E) - sqrt(D) and sqrt(E) + sqrt(D)."""
    result = audit_under(SHIFTS)
    finding = result.corruptions
    assert finding is not None
    energy = dict(
        zip(finding.regions, np.moveaxis(result.arrays["corruptions/energy"], 2, 0), strict=True)
    )
    bands = sum(energy[f"band {n}"][..., :4] for n in range(1, 5))
    np.testing.assert_allclose(bands, energy["all"][..., :4], rtol=1e-9)
    contrast = [str(shift) for shift in finding.shifts].index("contrast-5")
    removed, added, changed = np.moveaxis(energy_shares(energy["all"][:, contrast]), -1, 0)
    assert (added < 1e-3).all()
    # But for rounding to 8 bits.
    np.testing.assert_allclose(removed, 1 - 0.15**2, atol=6e-3)
    np.testing.assert_allclose(changed, (1 - 0.15) ** 2, atol=6e-3)
    clean, lost, gained, difference = np.moveaxis(energy["all"][..., :4], -1, 0)
    after = clean - lost + gained
    assert (np.sqrt(after) <= np.sqrt(clean) + np.sqrt(difference) + 1e-9).all()
    assert (np.sqrt(after) >= np.sqrt(clean) - np.sqrt(difference) - 1e-9).all()


def test_the_table_has_a_row_a_class_and_shift() -> None:
    result = audit_under(SHIFTS)
    finding, table = result.corruptions, result.table("corruptions")
    assert finding is not None
    assert len(table) == 3 * len(finding.shifts) == 3 * 9
    assert list(dict.fromkeys(table["class"])) == NAMES
    energy = result.arrays["corruptions/energy"]
    for _, row in table.iterrows():
        index = NAMES.index(row["class"])
        number = [str(s) for s in finding.shifts].index(f"{row['corruption']}-{row['severity']}")
        pair = finding.by_class[index].by_shift[number].recall
        assert (row["n"], row["called_clean"]) == (pair.n, pair.both + pair.only_first)
        assert row["called_shifted"] == pair.both + pair.only_second
        assert row["drop"] == pytest.approx(row["recall_clean"] - row["recall_shifted"])
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
        own = energy[index, number]
        assert row["dominant_removed"] == own[0, 1] / own[0, 0]
        assert row["all_changed_by_orbit"] == own[finding.regions.index("all"), 6]
        assert row["band_4_added"] == own[-1, 2] / own[-1, 0]
        if finding.by_class[index].n_orbits_shortcut == 0:
            assert np.isnan(row["shortcut_removed"])
    jpeg = table[table["corruption"] == "jpeg"]
    assert set(jpeg["parameters"]) == {"quality=58", "quality=40"}


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_the_table_is_exported(kind: str) -> None:
    result, stream = audit_under(SHIFTS), io.BytesIO()
    EXPORTERS[kind](result, "corruptions", stream)
    stream.seek(0)
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[kind]
    assert len(read(stream)) == 27


def test_without_corruptions_there_is_no_table_and_it_says_so() -> None:
    plain = audit_under("")
    assert plain.corruptions is None
    with pytest.raises(ResultError, match="no corruptions in this audit.*--shift jpeg"):
        plain.table("corruptions")
    with pytest.raises(ResultError, match="Tables are: classes, orbits, bands, ladder, corruptions"):
        plain.table("corruption")
