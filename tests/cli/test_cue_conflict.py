"""`shortcut-audit cue-conflict`, from the command line to the folder."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from cues import NAMES, all_pairs, save_cues

from shortcut_audit.cli.main import main
from shortcut_audit.results.cue_conflict import load_cue_conflict

MODELS = """
import torch
from cues import Reads, one_output_each

def by_shape():
    return Reads(0, one_output_each())

def by_texture():
    return Reads(1, one_output_each())
"""


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", "cue-conflict", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "120")
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("inputs")
    save_cues(here / "cues.npz", all_pairs() * 2)
    save_cues(here / "odd.npz", all_pairs() * 2, ["ant", "bee [x]", "cow\x1b[31m", "dog"])
    (here / "models.py").write_text(MODELS)
    (here / "names.txt").write_text("\n".join(NAMES))
    (here / "groups.toml").write_text("[groups]\nant = 'ant'\nbee = ['bee', 2]\n")
    return here


def test_verdict_table_and_files(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    model = f"{inputs}/models.py:by_texture"
    assert run(monkeypatch, model, "--data", f"{inputs}/cues.npz", "--out", out) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "by_texture goes by texture: of 24 images that it called by either, 0% by shape"
        " (95% interval 0–14%)."
    )
    assert "Left out: 8 of 32 images: 8 with shape and texture of one class." in said
    assert "Note: Nobody says what the model's outputs are called" in said
    assert str(out / "report.html") in said.replace("\n", "")
    assert {entry.name for entry in out.iterdir()} == {
        "cue_conflict.json",
        "cue_conflict.csv",
        "report.html",
        "run.json",
    }
    result = load_cue_conflict(out)
    assert result.among_groups.n_texture == 24
    assert result.command.startswith("shortcut-audit cue-conflict ")
    with (out / "cue_conflict.csv").open() as stream:
        assert [row["n_texture"] for row in csv.DictReader(stream)] == ["6", "6", "6", "6", "24"]


def test_every_option_reaches_the_result(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--groups", inputs / "groups.toml", "--output-names", inputs / "names.txt"]
    words += ["--images-per-class", 1, "--seed", 5, "--dtype", "float64", "--batch-size", 3]
    words += ["--mean", "0", "--std", "1", "--size", "4", "--device", "cpu", "--skip-unreadable"]
    model = f"{inputs}/models.py:by_shape"
    out = tmp_path / "out"
    assert run(monkeypatch, model, "--data", inputs / "cues.npz", "--out", out, *words) == 0
    result = load_cue_conflict(out)
    assert [(group.name, group.outputs) for group in result.groups] == [("ant", (0,)), ("bee", (1, 2))]
    assert [item.among_groups.n for item in result.by_class] == [1, 1]
    assert result.settings.model_dump() == {
        "images_per_class": 1,
        "seed": 5,
        "device": "cpu",
        "dtype": "float64",
        "batch_size": 3,
        "skip_unreadable": True,
    }
    assert result.batch_size == 3
    assert "Classes without a group: cow, dog." in capsys.readouterr().out


def test_the_same_command_may_be_run_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"{inputs}/models.py:by_shape", "--data", inputs / "cues.npz", "--out", tmp_path / "out"]
    assert run(monkeypatch, *words) == 0
    first = (tmp_path / "out" / "cue_conflict.csv").read_bytes()
    assert run(monkeypatch, *words) == 0
    assert (tmp_path / "out" / "cue_conflict.csv").read_bytes() == first


def test_names_steer_no_terminal(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"{inputs}/models.py:by_shape"
    assert run(monkeypatch, model, "--data", inputs / "odd.npz", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "bee [x]" in said
    assert "cow\\x1b[31m" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--groups", "none.toml"], "error[settings]: The grouping none.toml cannot be read"),
        (
            ["--groups", "groups-imagenet1k-to-cue-conflict"],
            "for a model of 1000 outputs, and this one has 4",
        ),
        (["--groups", "labels-pacs-to-cue-conflict"], "error[model]"),
        (["--batch-size", "many"], "neither a number nor auto"),
        (["--images-per-class", "0"], "--images-per-class) was given as 0"),
        (["--output-names", "none.txt"], "--output-names none.txt cannot be read"),
        (["--data", "none.npz"], "error[data]: none.npz does not exist"),
        (["--device", "abacus"], "Device 'abacus' cannot be used"),
        (["--size", "big"], "--size 'big' is not a size"),
    ],
)
def test_input_that_has_to_change_ends_with_2_and_leaves_nothing(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    model = f"{inputs}/models.py:by_shape"
    assert run(monkeypatch, model, "--data", inputs / "cues.npz", "--out", out, *words) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_among_the_images_is_refused(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, f"{inputs}/models.py:by_shape", "--data", tmp_path, "--out", out) == 2
    assert "lies inside --data" in capsys.readouterr().err
