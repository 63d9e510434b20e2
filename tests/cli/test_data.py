from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from conftest import random_images, save_npz
from PIL import Image

import shortcut_audit as sa
from shortcut_audit.cli.main import main
from shortcut_audit.data.synthetic import SyntheticRecipe, write_synthetic
from shortcut_audit.results.settings import DataAuditSettings
from shortcut_audit.results.store import result_schema


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of known truth: waves in one class."""
    recipe = SyntheticRecipe.model_validate(
        {
            "kind": "synthetic",
            "name": "known",
            "size": (16, 16),
            "n_by_split": {"test": 40},
            "classes": {
                "a [x]": {"special": ({"orbits": ((5, 3),), "strength": 8.0},)},
                "b": {},
                "c": {},
            },
        }
    )
    folder = tmp_path_factory.mktemp("made") / "set"
    write_synthetic(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def finished(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "data", f"{made}::test", "--out", folder) == 0
    return folder


def test_a_look_says_what_invites_a_shortcut_and_what_was_known(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(monkeypatch, "data", f"{made}::test", "--out", out) == 0
    captured = capfd.readouterr()
    said = captured.out
    assert "120 images of 3 classes." in said
    assert "1 class-band pair in 1 class invites a shortcut" in said
    assert "“a [x]”, band 3 (radius 5.8 cycles): wave (5, 3);" in said
    assert "Planted in “a [x]”: special orbits of a [x], band 3; named: 3." in said
    assert "Nothing was named that was not planted." in said
    assert said.rstrip().endswith(f"Page: {out / 'report.html'}")
    assert {entry.name for entry in out.iterdir()} == {
        "result.json",
        "arrays.safetensors",
        "report.html",
        "run.json",
    }
    # The long form is the same.
    assert run(monkeypatch, "data", "look", f"{made}::test", "--out", tmp_path / "again") == 0
    assert sa.load_result(out).invitations == sa.load_result(tmp_path / "again").invitations


def test_arrays_and_files_of_a_set_look_alike(made: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "data", f"{made / 'images.npz'}::test", "--out", tmp_path / "run") == 0
    one, other = sa.load_result(finished), sa.load_result(tmp_path / "run")
    assert {(i.class_name, i.band) for i in one.invitations.items} == {("a [x]", 3)}
    assert one.truth == other.truth
    np.testing.assert_allclose(one.arrays["invitations/z"], other.arrays["invitations/z"], atol=1e-3)


def test_the_result_matches_the_schema_and_is_exported_and_rendered_again(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    jsonschema.validate(json.loads((finished / "result.json").read_text()), result_schema())
    for table, n_rows in (("classes", 3), ("bands", 12), ("orbits", 3 * 130)):
        target = tmp_path / f"{table}.csv"
        assert run(monkeypatch, "export", finished, "--table", table, "--output", target) == 0
        frame = pd.read_csv(target)
        assert len(frame) == n_rows
        assert set(frame["class"]) == {"a [x]", "b", "c"}
    target = tmp_path / "again.html"
    assert run(monkeypatch, "report", finished, "--output", target) == 0
    assert target.read_bytes() == (finished / "report.html").read_bytes()


def test_every_setting_is_an_option_with_the_same_default(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "data", "look", "--help") == 0
    said = " ".join(capfd.readouterr().out.split())
    for name, field in DataAuditSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in said
        if not isinstance(field.default, bool):
            assert f"[default: {field.default}]" in said


def test_help_names_what_data_can_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "data", "--help") == 0
    said = capfd.readouterr().out
    for command in ("look", "list", "build", "verify"):
        assert f"  {command} " in said


def test_settings_reach_the_audit(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--images-per-class", 20, "--folds", 3, "--seed", 2, "--significance", 0.2]
    assert run(monkeypatch, "data", f"{made}::test", "--out", tmp_path / "run", *words) == 0
    result = sa.load_result(tmp_path / "run")
    assert result.settings == DataAuditSettings(images_per_class=20, folds=3, seed=2, significance=0.2)
    assert result.provenance.data.n_used == 60
    assert result.spectrum_probe.n_folds == 3
    assert result.provenance.command.startswith("shortcut-audit data")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere"),
        (["SET::train"], "train"),
        (["SET::test", "--images-per-class", "2"], "--images-per-class"),
        (["SET::test", "--folds", "1"], "--folds"),
        (["SET::test", "--significance", "0.9"], "--significance"),
        (["SET::test", "--size", "big"], "--size"),
        (["SET::test", "--size", "3"], "pixels have no bands"),
    ],
)
def test_mistakes_end_in_a_sentence_and_leave_nothing(
    words: list[str],
    says: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = [word.replace("SET", str(made)) for word in words]
    assert run(monkeypatch, "data", *given, "--out", tmp_path / "run") == 2
    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_elses_and_the_images_themselves_are_no_place_for_a_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run(monkeypatch, "data", f"{made}::test", "--out", tmp_path) == 2
    assert "not made by shortcut-audit" in capfd.readouterr().err
    assert run(monkeypatch, "data", f"{made}::test", "--out", made / "test" / "run") == 2
    assert not (made / "test" / "run").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_unreadable_images_are_left_out_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for (image, label), number in zip(random_images(6, 2, (3, 12, 12)), range(12), strict=True):
        folder = tmp_path / "files" / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    (tmp_path / "files" / "a" / "bad.png").write_bytes(b"no picture")
    words = ["data", tmp_path / "files", "--out", tmp_path / "run"]
    assert run(monkeypatch, *words) == 2
    assert "bad.png" in capfd.readouterr().err
    assert run(monkeypatch, *words, "--skip-unreadable") == 0
    assert "Note: 1 unreadable images were left out" in capfd.readouterr().out


def test_a_result_without_a_model_is_told_from_one_with(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = save_npz(tmp_path / "images.npz", random_images(8, 2, (3, 16, 16)))
    words = ["--data", data, "--keep", f"map:{finished}", "--out", tmp_path / "out"]
    assert run(monkeypatch, "filter", *words) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "internal" not in said
