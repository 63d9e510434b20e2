from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from shortcut_audit.cli.main import main
from shortcut_audit.results.truth import load_truth

RECIPE = """
[set]
kind = "synthetic"
name = "mine"
size = [16, 16]
n_by_split = {{ train = 6, test = 3 }}
{top}

[set.classes.low]
special = [{{ {special} }}]

[set.classes."high [x]"]
gains = [{{ band = 4, gain = 2.0 }}]
"""
SPECIAL = "orbits = [[5, 3], [-2, 6]], strength = 5.0"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def write(folder: Path, top: str = "", special: str = SPECIAL) -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(top=top, special=special))
    return path


def test_a_set_is_made_and_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert run(monkeypatch, "synth", write(tmp_path), "--out", out) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    said = captured.out
    assert f"{out}: 18 images of 16 x 16 pixels in 2 classes; splits train (12), test (6)." in said
    assert "low: special orbits of low on orbits (5, 3), (-2, 6) (band 3, 4), amplitude 5.00/255" in said
    assert "high [x]: gain 2 of high [x] on orbits (0, 6)" in said
    assert "more (band 4)" in said
    assert f"Truth: {out / 'truth.json'}" in said
    assert f"shortcut-audit data {out}::test --out RUN" in said
    assert len(list(out.rglob("*.png"))) == 18
    truth = load_truth(out / "truth.json")
    assert truth.class_names == ("low", "high [x]")


def test_seed_and_format_are_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(tmp_path)
    for name, words in {
        "own": [],
        "zero": ["--seed", 0],
        "one": ["--seed", 1],
    }.items():
        assert run(monkeypatch, "synth", recipe, "--out", tmp_path / name, "--format", "npz", *words) == 0
    content = {name: (tmp_path / name / "images.npz").read_bytes() for name in ("own", "zero", "one")}
    assert content["own"] == content["zero"] != content["one"]
    assert not (tmp_path / "own" / "train").exists()
    assert run(monkeypatch, "synth", recipe, "--out", tmp_path / "files", "--format", "png") == 0
    assert not (tmp_path / "files" / "images.npz").exists()


def test_the_papers_sets_come_along_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "synth", "syn2", "--out", tmp_path / "syn2", "--format", "npz") == 0
    assert "3,000 images of 32 x 32 pixels in 4 classes" in capfd.readouterr().out
    with np.load(tmp_path / "syn2" / "images.npz") as arrays:
        assert arrays["x_train"].shape == (2000, 32, 32, 3)
    truth = load_truth(tmp_path / "syn2" / "truth.json")
    special = [pattern for pattern in truth.patterns if pattern.kind == "special orbits"]
    assert [(pattern.classes, pattern.bands) for pattern in special] == [(("C0",), (2,))]


@pytest.mark.parametrize(
    ("top", "special", "says"),
    [
        ("bands = [[1, 4], [3, 8]]", SPECIAL, "bands 1-4 and 3-8 overlap"),
        ("bands = [[1, 4], [4, 9]]", SPECIAL, "band 4-9 leaves the plane: the Nyquist radius is 8"),
        (
            "",
            "orbits = [[9, 0]], strength = 2.0",
            "class 'low' lies outside the grid of 16 x 16",
        ),
        ("", "orbits = [[0, 0]], strength = 2.0", "is DC: the mean, not a wave"),
        ("", "orbits = [[1, 2], [-1, -2]], strength = 2.0", "is named twice"),
        (
            "",
            "band = 1, n_orbits = 99, strength = 2.0",
            "asks for 99 special orbits of band 1",
        ),
        ("", "band = 9, n_orbits = 2, strength = 2.0", "there is no band 9: the set has 4"),
        ("contrast = 0.45", SPECIAL, "of pixel values to 0..255"),
        ("colour = 3", SPECIAL, "set.colour is not known"),
        ('contrast = "much"', SPECIAL, "set.contrast: input should be a valid number"),
        ("slope = [1]", SPECIAL, "set.slope: input should be a valid number"),
        ("size = [16]", SPECIAL, "set.size"),
    ],
)
def test_a_recipe_that_does_not_hold_is_one_sentence_and_leaves_nothing(
    top: str,
    special: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = write(tmp_path, top, special)
    if "size" in top:
        recipe.write_text(recipe.read_text().replace("size = [16, 16]\n", ""))
    if "bands" in top:
        recipe.write_text(recipe.read_text().replace("band = 4", "band = 2"))
    assert run(monkeypatch, "synth", recipe, "--out", tmp_path / "set") == 2
    captured = capfd.readouterr()
    assert says in captured.err
    assert captured.err.startswith("error[")
    assert len(captured.err.strip().splitlines()) == 2
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.toml"], "nowhere.toml"),
        (["syn9"], "syn9"),
        (["RECIPE", "--format", "jpeg"], "'jpeg' is not a format"),
        (["RECIPE", "--seed", "-1"], "seed"),
    ],
)
def test_other_mistakes_end_likewise(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = write(tmp_path)
    given = [str(recipe) if word == "RECIPE" else word for word in words]
    assert run(monkeypatch, "synth", *given, "--out", tmp_path / "set") == 2
    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_what_is_there_is_replaced_when_asked_and_never_what_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, out = write(tmp_path), tmp_path / "set"
    assert run(monkeypatch, "synth", recipe, "--out", out) == 0
    assert run(monkeypatch, "synth", recipe, "--out", out) == 2
    assert "--replace" in capfd.readouterr().err
    assert run(monkeypatch, "synth", recipe, "--out", out, "--replace", "--seed", 4) == 0
    assert load_truth(out / "truth.json").seed == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert run(monkeypatch, "synth", recipe, "--out", tmp_path / "mine", "--replace") == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
