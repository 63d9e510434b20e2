"""`synth`, `plant` and `data` as users call them: made, looked at, and given bad input."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import random_images, save_npz

import shortcut_audit as sa
from shortcut_audit.cli.main import main
from shortcut_audit.results.truth import load_truth

RECIPE = """
[set]
kind = "synthetic"
name = "small"
size = [16, 16]
bands = 4
n_by_split = { train = 40, test = 60 }
seed = 3
[set.classes.plain]
[set.classes.other]
[set.classes.third]
[set.classes.striped]
special = [{ orbits = [[3, 5], [-4, 2]], strength = 12.0 }]
"""
PLAN = """
[[plant]]
name = "stripes"
kind = "cosines"
classes = ["striped"]
orbits = [[5, 3]]
strength = 6.0
"""


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def made(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert run(monkeypatch, "synth", recipe, "--out", tmp_path / "set") == 0
    return tmp_path / "set"


def test_a_set_is_made_looked_at_and_its_truth_found(
    capfd: pytest.CaptureFixture[str], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = capfd.readouterr().out
    assert "400 images of 16 x 16 pixels in 4 classes; splits train (160), test (240)." in said
    assert (
        "striped: special orbits of striped on orbits (3, 5), (-4, 2) (band 3), amplitude 12.00/255"
        in said
    )
    assert f"shortcut-audit data {made}::test --out RUN" in said
    out = tmp_path / "run"
    assert run(monkeypatch, "data", f"{made}::test", "--out", out) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "“striped”, band 3" in captured.out
    assert "Planted in “striped”: special orbits of striped, band 3; named: 3." in captured.out
    assert "Nothing was named that was not planted." in captured.out
    result = sa.load_result(out)
    assert result.of_data
    assert {(item.class_name, item.band) for item in result.invitations.items} == {("striped", 3)}
    assert set(result.invitations.items[0].orbits) == {(3, 5), (-4, 2)}
    assert (out / "report.html").stat().st_size > 10_000
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


def test_the_same_command_gives_the_same_result_and_other_folders_are_left_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for _ in range(2):
        assert run(monkeypatch, "data", f"{made}::train", "--out", out) == 0
    first = (out / "arrays.safetensors").read_bytes()
    assert run(monkeypatch, "data", "look", f"{made}::train", "--out", out) == 0
    assert (out / "arrays.safetensors").read_bytes() == first
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    capfd.readouterr()
    assert run(monkeypatch, "data", f"{made}::train", "--out", mine) == 2
    assert "was not made by shortcut-audit" in capfd.readouterr().err
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("table", ["classes", "orbits", "bands"])
def test_tables_of_data_are_exported(
    table: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "data", f"{made}::train", "--out", tmp_path / "run") == 0
    target = tmp_path / "table.csv"
    words = ("export", tmp_path / "run", "--table", table, "--format", "csv", "--output", target)
    assert run(monkeypatch, *words) == 0
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert {row["class"] for row in rows} == {"plain", "other", "third", "striped"}
    assert len(rows) == {"classes": 4, "orbits": 4 * 130, "bands": 16}[table]
    if table == "bands":
        named = [(row["class"], row["band"]) for row in rows if row["named"] == "True"]
        assert set(named) <= {("striped", "3")}


def test_a_plan_is_planted_in_all_splits_and_found(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    out = tmp_path / "planted"
    assert run(monkeypatch, "plant", "--data", made / "images.npz", "--plan", plan, "--out", out) == 0
    said = capfd.readouterr().out
    assert "striped: stripes on orbits (5, 3) (band 3), amplitude" in said
    truth = load_truth(out / "truth.json")
    assert truth.n_by_split == load_truth(made / "truth.json").n_by_split
    before, after = np.load(made / "images.npz"), np.load(out / "images.npz")
    label = truth.class_names.index("striped")
    for split in ("train", "test"):
        changed = (before[f"x_{split}"] != after[f"x_{split}"]).any(axis=(1, 2, 3))
        assert (changed == (before[f"y_{split}"] == label)).all()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("bands = 4", "bands = [[0, 4], [3, 8]]"),
        ("bands = 4", "bands = [[0, 4], [4, 9]]"),
        ("[3, 5]", "[3, 9]"),
        ("[3, 5]", "[0, 0]"),
        ("[3, 5]", "[4, -2]"),
        ("strength = 12.0", "strength = 120.0"),
        ("size = [16, 16]", "size = [16]"),
        ("seed = 3", "seed = -1"),
        ("seed = 3", "sead = 3"),
    ],
)
def test_recipes_that_do_not_hold_end_in_one_sentence(
    broken: str,
    said: str,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe.write_text(RECIPE.replace(broken, said, 1))
    assert run(monkeypatch, "synth", recipe, "--out", tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert error.startswith("error[")
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.toml"]


@pytest.mark.parametrize(
    ("broken", "said", "message"),
    [
        ('["striped"]', '["zebra"]', "in class 'zebra', which the images do not have"),
        ("[[5, 3]]", "[[5, 9]]", "lies outside the grid of 16 x 16"),
        ("strength = 6.0", "strength = 250", "would clip"),
        ("strength = 6.0", "strength = 0.2", "is lost in rounding to 8 bits"),
        ('"cosines"', '"sinus"', "plant.0"),
        ("strength = 6.0", "strenght = 6.0", "strenght is not known"),
    ],
)
def test_plans_that_do_not_fit_end_in_one_sentence(
    broken: str,
    said: str,
    message: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace(broken, said, 1))
    capfd.readouterr()
    words = ("plant", "--data", made / "images.npz", "--plan", plan, "--out", tmp_path / "out")
    assert run(monkeypatch, *words) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_control_names_nothing_and_a_model_audit_reads_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "control.toml"
    recipe.write_text(RECIPE.split("special =")[0])
    assert run(monkeypatch, "synth", recipe, "--out", tmp_path / "control", "--format", "npz") == 0
    data = f"{tmp_path / 'control' / 'images.npz'}::test"
    assert run(monkeypatch, "data", data, "--out", tmp_path / "run") == 0
    said = capfd.readouterr().out
    assert "No band stands out in any class" in said
    assert "Nothing was named that was not planted." in said


def test_a_folder_called_list_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    save_npz(tmp_path / "verify.npz", random_images(8, 2, (3, 8, 8)))
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "data", "./verify.npz", "--out", "run") == 0
    assert "16 images of 2 classes." in capfd.readouterr().out
    assert run(monkeypatch, "data", "verify.npz", "--out", "verify.npz") == 2
    assert run(monkeypatch, "data", "nowhere", "--out", "other") == 2
    assert "nowhere does not exist" in capfd.readouterr().err
