"""Recipes: the shipped ones agree with what others publish, and faulty ones are refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from published import TEN

from shortcut_audit.data.recipes import (
    ListedRecipe,
    Recipe,
    all_recipes,
    find_recipe,
    how_to_get,
    load_recipe,
)
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.synthetic import SyntheticRecipe
from shortcut_audit.data.torchvision_sets import FASHION_CLASSES, SETS
from shortcut_audit.errors import SettingsError

SHIPPED = REPOSITORY / "datasets"
PUBLISHED = sorted(
    path.stem
    for path in SHIPPED.glob("*.toml")
    if "kind" in tomllib.loads(path.read_text(encoding="utf-8"))
)

VALID = """
name = "mine"
description = "Two classes"
kind = "folder"
source = "https://example.org"
citation = "Me, 2026"
n_classes = 2
classes = ["ant", "bee"]
by_hand = "Put them into {root}/mine."

[licence]
name = "CC0"

[preprocessing]
channels = 3
size = [8, 9]
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]

[splits.test]
source = "{root}/mine"
n_images = 4
"""


@pytest.fixture
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without recipes of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("SHORTCUT_AUDIT_RECIPES", raising=False)
    return tmp_path / "work"


def published(name: str) -> Recipe:
    recipe = load_recipe(SHIPPED / f"{name}.toml")
    assert isinstance(recipe, Recipe)
    return recipe


def test_the_sets_that_were_promised_have_recipes() -> None:
    promised = {"cifar10", "cifar100", "fashion_mnist", "imagenette", "imagenette-160", "imagenette-320"}
    promised |= {"tiny-imagenet", "pacs", "cue-conflict", "imagenet-10", "imagenet-sct"}
    assert promised <= set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_recipe_says_all_that_matters(name: str) -> None:
    recipe = published(name)
    assert recipe.licence.name
    assert recipe.citation
    assert recipe.source.startswith("http")
    assert len(recipe.preprocessing.mean) == len(recipe.preprocessing.std) == recipe.channels
    assert recipe.downloads or "{root}" in recipe.by_hand
    for each in recipe.downloads:
        assert each.n_bytes is not None
        assert each.md5 or each.sha256
    assert "{root}" not in how_to_get(recipe, Path("data"))


@pytest.mark.parametrize(("name", "theirs"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_addresses_and_checksums_of_cifar_are_torchvisions(name: str, theirs: str) -> None:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, theirs)
    recipe = published(name)
    (archive,) = recipe.downloads
    assert (archive.url, archive.path, archive.md5) == (kind.url, kind.filename, kind.tgz_md5)
    assert archive.gives == kind.base_folder == SETS[name][0]
    members = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    assert {each.path: each.md5 for each in recipe.files} == {
        f"{kind.base_folder}/{file}": md5 for file, md5 in members
    }


@pytest.mark.parametrize(("name", "theirs"), [("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_addresses_and_checksums_of_mnists_format_are_torchvisions(name: str, theirs: str) -> None:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, theirs)
    recipe = published(name)
    assert {each.url: each.md5 for each in recipe.downloads} == {
        f"{kind.mirrors[0]}{file}": md5 for file, md5 in kind.resources
    }
    assert {each.path for each in recipe.downloads} == {
        f"{theirs}/raw/{file}" for file, _ in kind.resources
    }


def test_imagenettes_archives_and_classes_are_torchvisions() -> None:
    from torchvision.datasets import Imagenette

    names = {"full": "imagenette", "320px": "imagenette-320", "160px": "imagenette-160"}
    for size, (url, md5) in Imagenette._ARCHIVES.items():
        recipe = published(names[size])
        (archive,) = recipe.downloads
        assert (archive.url, archive.md5) == (url, md5)
        theirs = {wnid: words[0] for wnid, words in Imagenette._WNID_TO_CLASS.items()}
        assert dict(zip(recipe.class_folders, recipe.classes, strict=True)) == theirs
        assert recipe.n_images == 9469 + 3925


def test_the_ten_classes_of_imagenet_are_those_with_these_names() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    recipe = published("imagenet-10")
    synsets = set(info.label_names())
    for folder, name in zip(recipe.class_folders, recipe.classes, strict=True):
        assert folder in synsets
        words = info.label_name_to_description(folder).lower().replace("-", "").replace(" ", "")
        assert name.replace(" ", "") in words, (folder, name, words)


def test_class_names_are_those_of_the_files() -> None:
    assert published("cifar10").classes == TEN
    assert published("fashion_mnist").classes == FASHION_CLASSES


def test_statistics_of_fashion_mnist_are_those_of_its_images(shared_data: Path) -> None:
    source = open_source(f"{shared_data / 'fashion_mnist.npz'}::train")
    images = np.stack([np.asarray(source.read(i)) for i in range(0, len(source.labels), 5)]) / 255
    facts = published("fashion_mnist").preprocessing
    assert images.shape[1:3] == facts.size
    assert images.mean() == pytest.approx(facts.mean[0], abs=0.005)
    assert images.std() == pytest.approx(facts.std[0], abs=0.005)


def test_recipes_are_found_by_name_from_anywhere(empty_place: Path) -> None:
    listed, problems = all_recipes()
    assert problems == []
    assert {each.name for each in listed} >= {*PUBLISHED, "syn1", "syn4"}
    assert find_recipe("cifar10").resolve() == (SHIPPED / "cifar10.toml").resolve()
    assert not any(each.name.startswith("labels-") for each in listed)


def test_own_recipes_come_first_the_working_folders_before_the_named_ones(
    empty_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, own = tmp_path / "named", empty_place / "datasets"
    for folder in (named, own):
        folder.mkdir()
    (named / "mine.toml").write_text(VALID)
    with pytest.raises(SettingsError, match="no recipe called 'mine'"):
        find_recipe("mine")
    monkeypatch.setenv("SHORTCUT_AUDIT_RECIPES", str(named))
    assert find_recipe("mine") == named / "mine.toml"
    (own / "mine.toml").write_text(VALID)
    assert find_recipe("mine") == Path("datasets/mine.toml")
    assert [each.path for each in all_recipes()[0] if each.name == "mine"] == [Path("datasets/mine.toml")]


def test_other_toml_files_are_no_recipes_and_damaged_ones_are_named(empty_place: Path) -> None:
    own = empty_place / "datasets"
    own.mkdir()
    (own / "labels-a-to-b.toml").write_text("[map]\ncat = 'tabby'")
    (own / "plan.toml").write_text("[[plant]]\nkind = 'cosine'")
    (own / "broken.toml").write_text("name = ")
    (own / "short.toml").write_text("kind = 'folder'\n[splits]\n")
    listed, problems = all_recipes()
    assert {each.name for each in listed} == {*PUBLISHED, "syn1", "syn2", "syn3", "syn4"}
    assert len(problems) == 2
    assert "broken.toml is not TOML" in problems[0]
    assert "short.toml does not hold: name is missing" in problems[1]


def test_a_listed_recipe_counts_classes_and_images() -> None:
    listed = {each.name: each for each in all_recipes()[0]}
    assert (listed["cifar10"].n_classes, listed["cifar10"].n_images) == (10, 60000)
    assert listed["imagenet-10"].n_images is None
    syn1 = listed["syn1"]
    assert isinstance(syn1.recipe, SyntheticRecipe)
    assert (syn1.kind, syn1.n_classes, syn1.n_images) == ("synthetic", 4, 3000)
    assert isinstance(listed["cifar10"], ListedRecipe)
    assert listed["pacs"].licence == "none stated"


@pytest.mark.parametrize("name", ["CIFAR-10", "cifar_10", "Cifar10"])
def test_a_name_nearly_right_is_guessed(name: str) -> None:
    with pytest.raises(SettingsError, match="There is no recipe called") as caught:
        find_recipe(name)
    assert "Did you mean cifar10?" in caught.value.next_step


def test_a_recipe_is_loaded_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(VALID)
    assert load_recipe(find_recipe(str(tmp_path / "mine.toml"))).name == "mine"
    with pytest.raises(SettingsError, match="There is no recipe"):
        find_recipe(str(tmp_path / "other.toml"))
    (tmp_path / "mine.toml").rename(tmp_path / "yours.toml")
    with pytest.raises(SettingsError, match="calls itself 'mine'"):
        load_recipe(tmp_path / "yours.toml")


DOWNLOAD = '[[downloads]]\nurl = "https://example.org/a.tgz"\npath = "a.tgz"\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("n_classes = 2", "n_classes = 3"), "classes has 2 names, and n_classes is 3"),
        (('"bee"]', '"Ant"]'), "two classes alike"),
        (("n_classes = 2", "n_classes = 1"), "n_classes: input should be greater"),
        (('kind = "folder"', 'kind = "cloud"'), "kind: input should be"),
        (('name = "mine"', 'name = "../mine"'), "name: string should match"),
        (("mean = [0.5, 0.5, 0.5]", "mean = [0.5]"), "one value a channel"),
        (("channels = 3", "channels = 4"), "preprocessing.channels"),
        (('[licence]\nname = "CC0"', "[licence]"), "licence.name is missing"),
        (("[splits.test]", '[splits."../x"]'), "splits"),
        (("n_images = 4", "n_pictures = 4"), "n_pictures is not known"),
        (('by_hand = "Put them into {root}/mine."', ""), "by_hand says how"),
        (("", DOWNLOAD.replace("https", "file")), "downloads.0.url"),
        (("", DOWNLOAD.replace('"a.tgz"', '"../a.tgz"')), "a path below the root"),
        (("", DOWNLOAD.replace('"a.tgz"', '"/etc/a.tgz"')), "a path below the root"),
        (("", DOWNLOAD + 'md5 = "xyz"'), "downloads.0.md5"),
        (("", DOWNLOAD + 'gives = "../.."'), "gives"),
        (("", '[[files]]\npath = "a\\\\b"'), "a path below the root"),
    ],
)
def test_a_faulty_recipe_is_refused_in_one_sentence(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    old, new = change
    text = VALID.replace(old, new) if old else f"{VALID}\n{new}"
    assert text != VALID
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_recipe(tmp_path / "mine.toml")
    assert message in caught.value.problem
    assert "\n" not in caught.value.problem


def test_how_to_get_names_every_file_its_size_its_checksum_and_its_place(tmp_path: Path) -> None:
    hint = how_to_get(published("fashion_mnist"), Path("data"))
    for each in published("fashion_mnist").downloads:
        assert f"{each.url} ({each.n_bytes:,} bytes, md5 {each.md5}) to data/{each.path}" in hint
    assert "data/imagenette2-160" in how_to_get(published("imagenette-160"), Path("data"))
    by_hand: Any = how_to_get(published("pacs"), Path("/sets"))
    assert "/sets/PACS" in by_hand
