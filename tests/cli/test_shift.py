"""`shift`: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from conftest import random_images, save_npz
from PIL import Image
from typer.testing import CliRunner

from shortcut_audit.cli.shift import shift
from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import AuditError

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(shift)


def run(*words: object) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    return save_npz(folder / "images.npz", random_images(4, 3, (3, 16, 16)), ["ant", "bee", "cow [x]"])


@pytest.mark.parametrize("formats", ["png", "npz", "png,npz"])
def test_shift_writes_sets_that_open_and_their_spectra(
    images: Path, tmp_path: Path, formats: str
) -> None:
    out = tmp_path / "shifted"
    done = run(
        "--data",
        images,
        "--corruption",
        "jpeg,haze:5",
        "--severity",
        "1-2",
        "--out",
        out,
        "--format",
        formats,
    )
    assert done.exit_code == 0, done.output
    for split in ("jpeg-1", "jpeg-2", "haze-5"):
        assert split in done.stdout
        for where in [out] * ("png" in formats) + [out / "images.npz"] * ("npz" in formats):
            source = open_source(f"{where}::{split}")
            assert source.class_names == ("ant", "bee", "cow [x]")
            assert np.asarray(source.read(11)).shape == (16, 16, 3)
    spectra = json.loads((out / "spectra.json").read_text())
    assert [each["split"] for each in spectra["shifts"]] == ["jpeg-1", "jpeg-2", "haze-5"]
    assert {each["n_images"] for each in spectra["shifts"]} == {12}
    assert spectra["shifts"][0]["parameters"] == {"quality": 80.0}
    for name in ("spectra.json", "spectra.safetensors", "--data"):
        assert name in done.stdout
    assert open_source(done.stdout.split("--data ")[-1].strip()).class_names[0] == "ant"


def test_all_takes_every_corruption_and_prints_no_more_rows_than_fit(
    images: Path, tmp_path: Path
) -> None:
    done = run("--data", images, "--corruption", "all", "--out", tmp_path / "out", "--format", "npz")
    assert done.exit_code == 0, done.output
    assert "more shifts" in done.stdout
    spectra = json.loads((tmp_path / "out" / "spectra.json").read_text())
    assert len(spectra["shifts"]) == 17 * 5


def test_the_seed_changes_noise_and_nothing_else(images: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(
            "--data",
            images,
            "--corruption",
            "gaussian_noise,jpeg",
            "--severity",
            3,
            "--out",
            tmp_path / f"{seed}",
            "--seed",
            seed,
        )
    name = Path("ant") / "00000.png"
    noise, codec = (
        [(tmp_path / f"{seed}" / split / name).read_bytes() for seed in (0, 1)]
        for split in ("gaussian_noise-3", "jpeg-3")
    )
    assert noise[0] != noise[1]
    assert codec[0] == codec[1]


def test_images_of_different_sizes_are_brought_to_one_when_asked(tmp_path: Path) -> None:
    for label, size in (("a", (20, 24)), ("b", (32, 20))):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("RGB", size, "teal").save(tmp_path / "set" / label / "1.png")
    words = [
        "--data",
        tmp_path / "set",
        "--corruption",
        "contrast",
        "--severity",
        1,
        "--out",
        tmp_path / "out",
    ]
    refused = run(*words)
    assert isinstance(refused.exception, AuditError)
    assert "differ in size" in refused.exception.problem
    assert not (tmp_path / "out").exists()
    assert run(*words, "--size", 16).exit_code == 0
    assert np.asarray(open_source(f"{tmp_path / 'out'}::contrast-1").read(0)).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--corruption", "fog"], "no corruption 'fog'"),
        (["--corruption", "jpeg", "--severity", "6"], "names no severities"),
        (["--corruption", "jpeg", "--format", "gif"], "'gif' is not a format"),
        (["--corruption", "jpeg", "--size", "big"], "is not a size"),
        (["--corruption", "band_noise_1", "--size", "6"], "6 x 6 pixels hold no wave in band 1"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    images: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    done = run("--data", images, "--out", tmp_path / "out", *words)
    assert isinstance(done.exception, AuditError)
    assert says in done.exception.problem
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(images: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = run("--data", images, "--corruption", "jpeg", "--severity", 1, "--out", tmp_path)
    assert isinstance(done.exception, AuditError)
    assert "not empty" in done.exception.problem
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unreadable_image_leaves_nothing_behind(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("RGB", (16, 16), "teal").save(tmp_path / "set" / label / "1.png")
    whole = (tmp_path / "set" / "b" / "1.png").read_bytes()
    (tmp_path / "set" / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    done = run("--data", tmp_path / "set", "--corruption", "jpeg", "--out", tmp_path / "out")
    assert isinstance(done.exception, AuditError)
    assert "b/1.png" in done.exception.problem
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_out_among_the_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    done = run("--data", tmp_path, "--corruption", "jpeg", "--out", tmp_path / "out")
    assert isinstance(done.exception, AuditError)
    assert "inside --data" in done.exception.problem
