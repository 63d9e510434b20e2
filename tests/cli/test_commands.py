from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
from commands import run_command
from conftest import random_images, save_npz
from safetensors.torch import save_file

import shortcut_audit as sa
from shortcut_audit.cli.main import COMMANDS
from shortcut_audit.models.small import small_cnn
from shortcut_audit.results.settings import AuditSettings
from shortcut_audit.results.truth import load_truth

FACTORY = "shortcut_audit.models.small:small_cnn"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_npz(folder / "images.npz", random_images(8, 3, (3, 12, 12)), ["ant", "bee", "cow [x]"])
    save_file({k: v.contiguous() for k, v in small_cnn(3).state_dict().items()}, folder / "w.safetensors")
    return folder


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        words = [
            "--model",
            f"{inputs}/w.safetensors",
            "--arch",
            FACTORY,
            "--data",
            f"{inputs}/images.npz",
        ]
        assert run_command("audit", *words, "--out", str(run), "--size", "12", monkeypatch=patch) == 0
    return run


def test_an_audit_leaves_numbers_a_page_and_a_summary(finished: Path) -> None:
    assert {entry.name for entry in finished.iterdir()} == {
        "result.json",
        "arrays.safetensors",
        "report.html",
        "run.json",
        "shards",
    }
    result = sa.load_result(finished)
    assert result.provenance.command.startswith("shortcut-audit audit --model")
    assert result.provenance.data.class_names == ("ant", "bee", "cow [x]")


def test_the_summary_names_every_class_and_file_as_they_are(
    finished: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", f"{inputs}/w.safetensors", "--arch", FACTORY, "--data", f"{inputs}/images.npz"]
    assert (
        run_command("audit", *words, "--out", str(finished), "--size", "12", monkeypatch=monkeypatch) == 0
    )
    said = capfd.readouterr().out
    for name in ("ant", "bee", "cow [x]", "result.json", "report.html"):
        assert name in said
    assert "Note:" in said


@pytest.mark.parametrize("format_name", ["csv", "json"])
@pytest.mark.parametrize("table", ["classes", "orbits", "bands"])
def test_export_writes_to_standard_output(
    table: str,
    format_name: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> None:
    words = ["export", str(finished), "--table", table, "--format", format_name]
    assert run_command(*words, monkeypatch=monkeypatch) == 0
    printed = capfdbinary.readouterr().out
    target = tmp_path / "table"
    assert run_command(*words, "--output", str(target), monkeypatch=monkeypatch) == 0
    assert printed == target.read_bytes()
    rows = pd.read_csv(target) if format_name == "csv" else pd.DataFrame(json.loads(printed))
    assert set(rows["class"]) == {"ant", "bee", "cow [x]"}


def test_export_of_parquet_to_a_file(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["export", str(finished), "--format", "parquet", "--output", str(tmp_path / "t.parquet")]
    assert run_command(*words, monkeypatch=monkeypatch) == 0
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--table", "pixels"], "no table"),
        (["--format", "xml"], "no format"),
        (["--output", "/nowhere/at/all.csv"], "cannot be written"),
    ],
)
def test_export_refuses_with_a_sentence(
    words: list[str],
    says: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run_command("export", str(finished), *words, monkeypatch=monkeypatch) == 2
    assert says in capfd.readouterr().err


def test_schema_prints_what_results_match(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("schema", monkeypatch=monkeypatch) == 0
    schema = json.loads(capfd.readouterr().out)
    jsonschema.validate(json.loads((finished / "result.json").read_text()), schema)


def test_report_renders_the_same_page_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "again.html"
    assert run_command("report", str(finished), "--output", str(target), monkeypatch=monkeypatch) == 0
    assert target.read_bytes() == (finished / "report.html").read_bytes()


def test_every_setting_is_an_option_with_the_same_default(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("audit", "--help", monkeypatch=monkeypatch) == 0
    said = " ".join(capfd.readouterr().out.split())
    for name, field in AuditSettings.model_fields.items():
        # One at a time, as --shift may be repeated.
        option = {"shifts": "shift"}.get(name, name.replace("_", "-"))
        assert f"--{option}" in said
        if isinstance(field.default, float | str):
            assert f"[default: {field.default}]" in said


def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("--help", monkeypatch=monkeypatch) == 0
    said = capfd.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in said
    assert run_command("--version", monkeypatch=monkeypatch) == 0
    assert sa.__version__ in capfd.readouterr().out


def test_a_fault_of_ours_is_told_apart_from_bad_input(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("shortcut_audit.report.html.load_result", broken)
    assert run_command("report", str(finished), monkeypatch=monkeypatch) == 3
    assert "error[internal]" in capfd.readouterr().err


@pytest.mark.slow
def test_the_demo_finds_what_it_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("demo", "--out", str(tmp_path / "demo"), monkeypatch=monkeypatch) == 0
    said = capfd.readouterr().out
    page = tmp_path / "demo" / "run" / "report.html"
    assert said.rstrip().endswith(str(page))
    assert page.is_file()
    truth = load_truth(tmp_path / "demo" / "shapes" / "truth.json")
    (pattern,) = truth.patterns
    (name,) = pattern.classes
    result = sa.load_result(tmp_path / "demo" / "run")
    assert (result.predictions.accuracy.value or 0) > 0.9
    orbits = result.table("orbits")
    own = orbits[orbits["class"] == name].nsmallest(len(pattern.orbits), "rank")
    found = {(abs(u), abs(v), u * v > 0) for u, v in zip(own.u, own.v, strict=True)}
    assert found == {(abs(u), abs(v), u * v > 0) for u, v in pattern.orbits}
    planted = next(i for i in result.shortcuts.by_class if i.class_name == name)
    assert (planted.tpr_kept.value or 0) - (planted.fpr_kept.value or 0) > 0.8
    # The truth lies beside the images, so that the audit was told, and says, what it should have found.
    assert result.truth is not None
    (recovery,) = result.truth.by_pattern
    assert (recovery.class_name, recovery.ranks) == (name, (1, 2))
    assert recovery.n_in_map == len(pattern.orbits)
    assert f"Planted in “{name}”: {pattern.name}" in said
    assert f"Planted in “{name}”: {pattern.name}" in page.read_text()
