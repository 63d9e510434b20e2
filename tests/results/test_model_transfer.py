from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from transferred import EVERY, VERDICTS, made

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.model_transfer import (
    agreement_rows,
    class_rows,
    load_transfer,
    save_transfer,
)


def test_what_becomes_of_a_class_follows_from_both_verdicts(result: AuditResult) -> None:
    items = made(result, EVERY).judged[0].by_class
    found = {(item.here.verdict, item.there.verdict): item.outcome for item in items}
    for there, outcome in [
        ("shortcut", "travels"),
        ("no shortcut", "stays behind"),
        ("inconclusive", "open there"),
    ]:
        assert found["shortcut", there] == outcome
    for there, outcome in [
        ("shortcut", "there alone"),
        ("no shortcut", "neither"),
        ("inconclusive", "open there alone"),
    ]:
        assert found["no shortcut", there] == outcome
    assert {found[here, there] for here in ("inconclusive", "not judged") for there in VERDICTS} == {
        "open here"
    }


def test_only_shortcuts_of_the_run_count_as_travelling(result: AuditResult) -> None:
    judged = made(result, EVERY).judged[0]
    assert (judged.n_travelling, len(judged.shortcuts)) == (1, 4)
    # Best rungs of shortcut, inconclusive and no shortcut turn 22, 22 and 8 of 40; the last has none.
    assert judged.turned == pytest.approx((22 / 40 + 22 / 40 + 8 / 40) / 3)
    assert judged.turned_here == pytest.approx(22 / 40)
    none = made(result, [("no shortcut", "shortcut")]).judged[0]
    assert none.turned is None
    assert none.n_travelling == 0


def test_the_rung_that_was_best_here_is_found_there(result: AuditResult) -> None:
    item = made(result, [("shortcut", "no shortcut")]).judged[0].by_class[0]
    assert item.here.best is not None
    assert item.there.best is not None
    assert item.there.best.n_orbits != item.here.best.n_orbits
    assert item.same_rung == item.here.best
    shorter = item.model_copy(update={"there": item.there.model_copy(update={"ladder": ()})})
    assert shorter.same_rung is None


def test_the_matrix_is_that_of_the_pairs_with_reliability_on_the_diagonal(result: AuditResult) -> None:
    found = made(result, [("shortcut", "shortcut")], ("one", "two", "three"))
    matrix = found.agreement_matrix()
    assert [matrix[n][n] for n in range(3)] == [pytest.approx(0.7)] * 3
    for i in range(3):
        for j in range(i):
            pair = found.agreement_of(found.runs[i].name, found.runs[j].name)
            assert pair is not None
            assert matrix[i][j] == matrix[j][i] == pair.rank_correlation
            assert pair.rank_correlation == pytest.approx((0.1 * (i + j) + 0.2) / 2)
    assert found.turned_matrix() == [[pytest.approx(22 / 40)], [None], [None]]
    alone = found.model_copy(update={"agreements": ()})
    assert alone.agreement_matrix()[0][1] is None


def test_saved_and_read_back_it_is_the_same_in_json_and_tables(
    result: AuditResult, tmp_path: Path
) -> None:
    found = made(result, EVERY)
    save_transfer(found, tmp_path)
    assert load_transfer(tmp_path) == found
    assert load_transfer(tmp_path / "transfer.json") == found
    with (tmp_path / "transfer-classes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(EVERY)
    expected = next(class_rows(found))
    assert {name: "" if value is None else str(value) for name, value in expected.items()} == rows[0]
    assert rows[0]["data_class"] == "other name"
    assert float(rows[0]["here_turned"]) == 22 / 40
    assert rows[0]["there_null_erased"] == ""
    with (tmp_path / "transfer-maps.csv").open(newline="") as stream:
        maps = list(csv.DictReader(stream))
    assert [row["class"] for row in maps] == [row["class"] for row in agreement_rows(found)]
    assert [row["over_ceiling"] for row in maps] == ["0.125", "", ""]
    assert found.dropped[0].class_name == "gone"


def test_without_judgements_there_is_no_table_of_them(result: AuditResult, tmp_path: Path) -> None:
    found = made(result, EVERY).model_copy(update={"judged": (), "models": ()})
    save_transfer(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["transfer-maps.csv", "transfer.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "cannot be read"),
        ("{", "is damaged"),
        ({"format": 2}, "has format 2; this version reads up to 1"),
        ({"runs": []}, "is no transfer of this tool: runs"),
        ({"surprise": 1}, "is no transfer of this tool: surprise"),
    ],
)
def test_what_cannot_be_read_is_told(result: AuditResult, tmp_path: Path, change: Any, told: str) -> None:
    if change is not None:
        save_transfer(made(result, EVERY), tmp_path)
        file = tmp_path / "transfer.json"
        text = (
            change if isinstance(change, str) else json.dumps({**json.loads(file.read_text()), **change})
        )
        file.write_text(text)
    with pytest.raises(ResultError, match=told):
        load_transfer(tmp_path)
