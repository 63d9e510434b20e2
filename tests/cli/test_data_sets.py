"""`data list`, `build` and `verify`: what they print, write and refuse."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from PIL import Image
from published import write_cifar10
from typer.testing import CliRunner

from shortcut_audit.cli.data_sets import build, list_sets, verify
from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import AuditError, DataError, RunFolderError, SettingsError

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command("list")(list_sets)
APP.command("build")(build)
APP.command("verify")(verify)

FOLDER_RECIPE = """
name = "mine"
description = "Two classes"
kind = "folder"
source = "https://example.org"
citation = "Me, 2026"
n_classes = 2
by_hand = "Put the class folders into {root}/mine."
[licence]
name = "CC0"
note = "Free for all."
[preprocessing]
channels = 3
[splits.test]
source = "{root}/mine"
n_images = 6
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe of its own, and the images of it in `data`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("SHORTCUT_AUDIT_ROOT", raising=False)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.toml").write_text(FOLDER_RECIPE)
    for number in range(6):
        content = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "JPEG")
        path = tmp_path / "data" / "mine" / ("ant", "bee")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words])


def refusal(*words: object) -> AuditError:
    done = run(*words)
    assert isinstance(done.exception, AuditError), done.exception
    assert done.exception.exit_code == 2
    assert "\n" not in str(done.exception)
    return done.exception


def rows(text: str) -> dict[str, list[str]]:
    """Rows of a listing by name."""
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_the_list_has_every_recipe_and_says_what_is_built(work: Path) -> None:
    before = run("list")
    assert before.exit_code == 0, before.output
    listed = rows(before.stdout)
    assert listed["cifar10"][1:5] == ["torchvision", "10", "60,000", "32x32"]
    assert listed["imagenette-160"][1:5] == ["archive", "10", "13,394", "differ"]
    assert listed["syn1"][1:5] == ["synthetic", "4", "3,000", "32x32"]
    assert listed["mine"][1:] == ["folder", "2", "6", "differ", "CC0", "no"]
    assert run("build", "mine").exit_code == 0
    assert rows(run("list").stdout)["mine"][-1] == "datasets/built/mine"
    assert run("build", "mine", "--limit", 1, "--replace").exit_code == 0
    assert "datasets/built/mine (1 a class)" in run("list").stdout
    (work / "datasets" / "built" / "mine" / "card.json").write_text("{")
    assert "its card is damaged" in run("list").stdout


def test_a_recipe_that_cannot_be_read_is_left_out_and_named(work: Path) -> None:
    (work / "datasets" / "broken.toml").write_text("name =")
    done = run("list")
    assert done.exit_code == 0
    assert "broken" not in rows(done.stdout)
    assert "Left out: The recipe datasets/broken.toml is not TOML" in done.stderr


def test_building_says_where_how_many_under_what_licence_and_what_to_cite(work: Path) -> None:
    done = run("build", "mine")
    assert done.exit_code == 0, done.output
    assert "datasets/built/mine: 6 images in 2 classes; splits test (6)." in done.stdout
    assert "Licence: CC0. Free for all." in done.stdout
    assert "Cite: Me, 2026." in done.stdout
    assert "--data datasets/built/mine::test" in done.stdout
    assert open_source("datasets/built/mine::test").class_names == ("ant", "bee")
    assert isinstance(refusal("build", "mine"), RunFolderError)
    assert run("build", "mine", "--replace").exit_code == 0


def test_root_and_out_are_taken_as_given(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "data").rename(work / "raw")
    assert "data/mine" in refusal("build", "mine").next_step
    assert run("build", "mine", "--root", "raw", "--out", "here").exit_code == 0
    monkeypatch.setenv("SHORTCUT_AUDIT_ROOT", "raw")
    assert run("build", "mine", "--out", "there").exit_code == 0
    assert (work / "here" / "card.json").read_bytes() == (work / "there" / "card.json").read_bytes()


def test_a_build_of_a_recipe_file_and_of_cifar_from_files_in_place(work: Path) -> None:
    assert run("build", work / "datasets" / "mine.toml", "--out", "a").exit_code == 0
    write_cifar10(work / "data")
    # These are no published files, and the recipe knows the checksums of those.
    error = refusal("build", "cifar10")
    assert "batches.meta has the md5" in error.problem
    assert not (work / "datasets" / "built" / "cifar10").exists()


def test_without_a_network_the_error_says_what_to_download_and_where_to_put_it(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    error = refusal("build", "cifar100", "--root", "raw")
    assert "cifar-100-python.tar.gz cannot be downloaded: Network is unreachable" in error.problem
    assert "169,001,437 bytes, md5 eb9058c3a382ffc7106e4002c42a8d85" in error.next_step
    assert "raw/cifar-100-python.tar.gz" in error.next_step


def test_a_synthetic_recipe_is_built_and_verified_by_the_same_commands(work: Path) -> None:
    text = (Path(__file__).parent.parent.parent / "datasets" / "syn2.toml").read_text()
    small = text.replace('name = "syn2"', 'name = "small"').replace("train = 500, test = 250", "test = 3")
    (work / "datasets" / "small.toml").write_text(small)
    done = run("build", "small", "--format", "npz")
    assert done.exit_code == 0, done.output
    assert "12 images" in done.stdout
    assert rows(run("list").stdout)["small"][-1] == "datasets/built/small"
    assert run("verify", "small").exit_code == 0
    first = (work / "datasets" / "built" / "small" / "images.npz").read_bytes()
    assert run("build", "small", "--format", "npz", "--seed", 9, "--replace").exit_code == 0
    assert (work / "datasets" / "built" / "small" / "images.npz").read_bytes() != first
    for option in (("--limit", 3), ("--root", "raw")):
        assert "takes neither --root nor --limit" in refusal("build", "small", *option).problem
    assert "is not made by a seed" in refusal("build", "mine", "--seed", 1).problem


def test_verify_agrees_with_an_untouched_set_by_name_and_by_folder(work: Path) -> None:
    assert run("build", "mine").exit_code == 0
    for name in ("mine", "datasets/built/mine"):
        done = run("verify", name)
        assert done.exit_code == 0, done.output
        assert f"{name} is as it was made: compared" in done.stdout
        assert "7 checksums" in done.stdout


def test_verify_names_what_differs_and_fails(work: Path) -> None:
    assert run("build", "mine").exit_code == 0
    (work / "datasets" / "built" / "mine" / "test" / "ant" / "0.jpg").unlink()
    done = run("verify", "mine")
    assert done.exit_code != 0
    assert isinstance(done.exception, DataError)
    assert done.exception.exit_code == 2
    assert "mine differs in 2 points" in done.exception.problem
    assert "test/ant/0.jpg is missing" in done.stderr
    assert "class ant of datasets/built/mine::test has 2 images, and had 3" in done.stderr


def test_verify_of_many_changes_shows_the_first_and_counts_the_rest(work: Path) -> None:
    assert run("build", "mine").exit_code == 0
    for number in range(30):
        (work / "datasets" / "built" / "mine" / f"extra{number:02d}.txt").write_text("x")
    done = run("verify", "mine")
    assert "extra19.txt is new" in done.stderr
    assert "extra20.txt" not in done.stderr
    assert "... and 10 more" in done.stderr


def test_verify_looks_at_raw_files_too(work: Path) -> None:
    write_cifar10(work / "data")
    done = run("verify", "cifar10")
    assert isinstance(done.exception, DataError)
    assert "data/cifar-10-batches-py/data_batch_1 has the md5" in done.stderr
    assert "differs in 7 points" in done.exception.problem
    assert "nothing to verify" in refusal("verify", "cifar100").problem


def test_names_that_are_no_recipe_and_folders_that_are_no_set(work: Path) -> None:
    for command in ("build", "verify"):
        error = refusal(command, "nothing")
        assert isinstance(error, SettingsError)
        assert "cifar10" in error.next_step
    assert "nothing to compare it with" in refusal("verify", "data").problem
    assert "not a format" in refusal("build", "mine", "--format", "jpg").problem
    assert "copied as they are" in refusal("build", "mine", "--format", "npz").problem
