from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import conv_model, random_images, save_npz
from PIL import Image

import shortcut_audit as sa
from shortcut_audit.cli import main as command_line
from shortcut_audit.cli.filter import filter_
from shortcut_audit.results.truth import load_truth

NAMES = ["ant", "bee", "cow [x]"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line that has this command, whatever the table of commands says."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("filter")(filter_)
    app.callback()(lambda: None)
    monkeypatch.setattr(command_line, "app", app)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = random_images(8, 3, (3, 12, 12))
    return save_npz(tmp_path_factory.mktemp("inputs") / "images.npz", pairs, NAMES)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", "filter", *map(str, words)])
    try:
        command_line.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_set_is_filtered_described_and_can_be_audited(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "low pass"
    assert run(monkeypatch, "--data", data, "--remove", "band:1/4 + dc", "--out", out) == 0
    captured = capfd.readouterr()
    said = captured.out
    assert captured.err == ""
    truth = load_truth(out / "truth.json")
    assert f"{out}: 24 images of 3 x 12 x 12 in 3 classes; splits all (24)." in said
    share = 100 * truth.details["left_share"]["*"]
    assert "Removed band:1/4 + dc, in pixels; DC kept." in said
    assert f"Left: {truth.details['n_orbits_left']['*']} orbits, {share:.3g}% of the bins" in said
    assert truth.clipped_share is not None
    assert truth.clipped_share > 0
    assert f"{100 * truth.clipped_share:.3g}% of the values in PNG files were clipped" in said
    assert f"--data '{out}::all' --out RUN" in said
    result = sa.audit(conv_model(3, 3), f"{out}::all", batch_size=64)
    assert result.class_names == tuple(NAMES)


def test_each_class_can_keep_the_map_that_an_audit_found(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sa.audit(conv_model(3, 3), data, batch_size=64).save(tmp_path / "run")
    words = ["--keep", f"map:{tmp_path / 'run'}:own@0.2", "--dc", "drop", "--format", "npz"]
    assert run(monkeypatch, "--data", data, *words, "--out", tmp_path / "out") == 0
    said = capfd.readouterr().out
    truth = load_truth(tmp_path / "out" / "truth.json")
    for name in NAMES:
        share = 100 * truth.details["left_share"][name]
        assert 15 < share <= 20
        assert f"{name} {share:.3g}% ({truth.details['n_orbits_left'][name]} orbits)" in said
    assert "classes have masks of their own" in said
    assert "DC dropped" in said
    assert "not clipped" in said
    assert f"{tmp_path / 'out' / 'images.npz'}::all" in said
    assert np.abs(np.load(tmp_path / "out" / "images.npz")["x_all"].mean(axis=(1, 2))).max() < 1e-6


def test_options_reach_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate("aabbcc"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (10 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "data" / "a" / "broken.png").write_bytes(b"")
    words = ["--data", tmp_path / "data", "--keep", "radius:-3", "--size", "8x9", "--classes", "a, c"]
    words += ["--skip-unreadable", "--format", "png,npz", "--out", tmp_path / "out"]
    assert run(monkeypatch, *words) == 0
    assert "1 unreadable image was left out" in capfd.readouterr().out
    truth = json.loads((tmp_path / "out" / "truth.json").read_text())
    assert truth["n_by_split"] == {"all": {"a": 2, "c": 2}}
    assert (truth["height"], truth["width"]) == (8, 9)
    assert np.load(tmp_path / "out" / "images.npz")["x_all"].shape == (4, 8, 9, 3)
    assert run(monkeypatch, *words) == 2
    assert "already holds a set of images" in capfd.readouterr().err
    assert run(monkeypatch, *words, "--replace") == 0


BAD: dict[str, tuple[list[str], str]] = {
    "neither": ([], "Say either --keep or --remove"),
    "both": (["--keep", "dc", "--remove", "dc"], "exclude each other"),
    "dc": (["--keep", "band:1/4", "--dc", "maybe"], "--dc 'maybe' is no rule"),
    "format": (["--keep", "band:1/4", "--format", "jpg"], "--format 'jpg' is not a format"),
    "size": (["--keep", "band:1/4", "--size", "big"], "--size 'big' is not a size"),
    "classes": (["--keep", "band:1/4", "--classes", "ant,,bee"], "has an empty name"),
    "class": (["--keep", "band:1/4", "--classes", "dog"], "has no class 'dog'"),
    "grammar": (["--keep", "bands:1/4"], "holds 'bands:'"),
    "empty": (["--keep", ""], "ends where a mask should be"),
    "outside": (["--keep", "radius:9-12"], "leave the plane"),
    "reversed": (["--keep", "radius:3-2"], "3 to 2 are no band"),
    "orbit": (["--remove", "orbits:(7,0)"], "lies outside the plane of 12 x 12"),
    "nothing": (["--remove", "all", "--dc", "drop"], "Nothing is left"),
    "run": (["--keep", "map:nowhere:own"], "nowhere holds no audit"),
    "layout": (["--keep", "file:m.npy"], "does not say where zero frequency lies"),
    "file": (["--keep", "file:m.npy@centred"], "m.npy cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(
    kind: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words, message = BAD[kind]
    assert run(monkeypatch, "--data", data, *words, "--out", tmp_path / "out") == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("error[")
    assert len(captured.err.strip().splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_out_among_the_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    words = ["--data", tmp_path, "--keep", "band:1/4", "--out", tmp_path / "out"]
    assert run(monkeypatch, *words) == 2
    assert "lies inside --data" in capfd.readouterr().err
