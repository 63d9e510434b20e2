from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import random_images, save_npz
from PIL import Image

from shortcut_audit.cli.main import main
from shortcut_audit.results.truth import load_truth

NAMES = ["ant", "bee", "cow [x]"]
PLAN = """
name = "stripes"
headroom = 20

[[plant]]
kind = "cosines"
orbits = [[3, 4]]
strength = 6.0
classes = ["bee"]
share = 0.5

[[plant]]
kind = "block-grid"
strength = 4.0
classes = "all"

[[plant]]
kind = "cast"
offset = [5.0]
classes = ["cow [x]"]
"""


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", "plant", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return save_npz(tmp_path / "in" / "images.npz", random_images(8, 3, (3, 16, 16)), NAMES)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "plan.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLAN)
    return path


def test_patterns_are_planted_and_described(
    data: Path,
    plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "planted set"
    assert run(monkeypatch, "--data", data, "--plan", plan, "--out", out) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    said = captured.out
    assert f"{out}: 24 images of 16 x 16 pixels in 3 classes; splits all (24)." in said
    assert "bee: cosines 1 on orbits (3, 4) (band 3), amplitude " in said
    assert "in 50% of its images" in said
    assert "all classes: block-grid 2 on orbits" in said
    assert "; a decoy, no shortcut" in said
    assert "cow [x]: cast 3; a shortcut that no orbit is to blame for" in said
    truth = load_truth(out / "truth.json")
    assert truth.source == str(data)
    assert len(truth.patterns[0].carriers["all"]) == 4
    with np.load(out / "images.npz") as arrays, np.load(data) as before:
        changed = np.abs(arrays["x_all"].astype(int) - before["x"]).max(axis=(1, 2, 3)) > 0
        assert changed.all()


def test_images_of_other_sizes_are_brought_to_one(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "files" / name).mkdir(parents=True)
        for number, size in enumerate((20, 30)):
            pixels = generator.integers(60, 190, (size, size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "files" / name / f"{number}.png")
    words = ["--data", tmp_path / "files", "--plan", plan, "--out", tmp_path / "out"]
    assert run(monkeypatch, *words) == 2
    assert "differ in size" in capfd.readouterr().err
    assert run(monkeypatch, *words, "--size", "24x16", "--format", "npz") == 0
    assert "6 images of 24 x 16 pixels" in capfd.readouterr().out
    assert load_truth(tmp_path / "out" / "truth.json").details["geometry"] == "resize and crop"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('["bee"]', '["zebra"]'), "in class 'zebra', which the images do not have"),
        (("[[3, 4]]", "[[30, 4]]"), "Orbit (30, 4) of 'cosines 1' lies outside the grid of 16 x 16"),
        (("[[3, 4]]", "[[3, 4], [-3, -4]]"), "is named twice"),
        (("strength = 6.0", "strength = 0.2"), "is lost in rounding to 8 bits"),
        (("strength = 6.0", "strength = 120.0"), "would clip"),
        (("strength = 6.0", 'strength = "6"'), ""),
        (('"cosines"', '"stripes"'), "'stripes'"),
        (("share = 0.5", "share = 1.5"), "share"),
        (("share = 0.5", "share = 0.01"), "is not one image"),
        (("headroom = 20", "headroom = 20\ncolour = 1"), "colour is not known"),
        (("headroom = 20", "headroom ="), "is not TOML"),
        (("[5.0]", "[5.0, 1.0]"), "has 2 values, and images 3 channels"),
    ],
)
def test_a_plan_that_does_not_hold_is_one_sentence_and_leaves_nothing(
    change: tuple[str, str],
    says: str,
    data: Path,
    plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert change[0] in PLAN
    plan.write_text(PLAN.replace(*change))
    code = run(monkeypatch, "--data", data, "--plan", plan, "--out", tmp_path / "out")
    said = capfd.readouterr().err
    if not says:
        # A number in quotes is read as the number.
        assert code == 0
        return
    assert code == 2
    assert says in said
    assert said.startswith("error[")
    assert len(said.strip().splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_set_is_not_written_into_its_own_images(
    data: Path,
    plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    generator = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "files" / name).mkdir(parents=True)
        for number in range(2):
            pixels = generator.integers(60, 190, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "files" / name / f"{number}.png")
    out = tmp_path / "files" / "planted"
    assert run(monkeypatch, "--data", tmp_path / "files", "--plan", plan, "--out", out) == 2
    assert not out.exists()
    assert "Traceback" not in capfd.readouterr().err
