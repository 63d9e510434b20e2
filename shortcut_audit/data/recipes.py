"""Recipes of data sets, `datasets/NAME.toml`: what a set is, where it is from, what its files must be."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shortcut_audit.data.synthetic import SyntheticRecipe, read_synthetic
from shortcut_audit.data.toml_files import read_toml
from shortcut_audit.errors import AuditError, SettingsError

__all__ = [
    "RECIPES_VARIABLE",
    "Download",
    "ExpectedFile",
    "Licence",
    "ListedRecipe",
    "PixelFacts",
    "Recipe",
    "RecipeSplit",
    "all_recipes",
    "find_recipe",
    "how_to_get",
    "load_recipe",
]

RECIPES_VARIABLE = "SHORTCUT_AUDIT_RECIPES"
Kind = Literal["torchvision", "folder", "arrays", "reader", "download-archive"]
Md5 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
SplitName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$")]


def _below_root(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or any(part in {"", ".", ".."} for part in parts):
        raise ValueError("a path below the root, such as FOLDER/FILE, is wanted")
    return path


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Licence(_Part):
    """Under what terms the images may be used."""

    name: Annotated[str, Field(min_length=1)]
    url: str = ""
    note: str = ""


class PixelFacts(_Part):
    """Images as they come, and the normalisation that models of them commonly use.

    `size`: (H, W), left out where images differ. `mean`, `std`: one a channel, of pixels in [0,1].
    """

    channels: Literal[1, 3]
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    note: str = ""

    @model_validator(mode="after")
    def _one_a_channel(self) -> PixelFacts:
        if len(self.mean) not in {0, self.channels} or len(self.std) != len(self.mean):
            raise ValueError("mean and std have one value a channel")
        return self


class ExpectedFile(_Part):
    """A file that the set is read from, below the root; `md5`, `sha256` where they are published."""

    path: str
    md5: Md5 | None = None
    sha256: Sha256 | None = None

    _path = field_validator("path")(_below_root)


class Download(ExpectedFile):
    """A file to download to `path`. `gives`: what unpacking it in the root leaves there."""

    url: Annotated[str, Field(pattern="^https?://")]
    n_bytes: Annotated[int, Field(ge=1)] | None = None
    gives: str = ""

    @field_validator("gives")
    @classmethod
    def _gives_below_root(cls, path: str) -> str:
        return _below_root(path) if path else path

    @property
    def facts(self) -> str:
        """Size and checksum, for messages."""
        sums = [f"{kind} {value}" for kind in ("md5", "sha256") if (value := getattr(self, kind))]
        return ", ".join([f"{self.n_bytes:,} bytes"] * (self.n_bytes is not None) + sums)


class RecipeSplit(_Part):
    """One split. `source`: as `--data` takes it, `{root}` standing for the folder of the raw files.

    `labels_file`: a file with the name of an image and of its class a line, for a folder of images
    without class folders.
    """

    source: Annotated[str, Field(min_length=1)]
    n_images: Annotated[int, Field(ge=1)] | None = None
    labels_file: str = ""


class Recipe(_Part):
    """A set that somebody publishes.

    `class_folders`: names that the classes have in the source, in the order of `classes`; other
    classes of the source are left out, and built folders are called FOLDER-CLASS, so that their
    order stays that of the source. `by_hand`: what to do where nothing can be downloaded.
    """

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]*$")]
    description: str
    kind: Kind
    source: str
    citation: str
    licence: Licence
    n_classes: Annotated[int, Field(ge=2)]
    classes: tuple[str, ...] = ()
    class_folders: tuple[str, ...] = ()
    splits: dict[SplitName, RecipeSplit]
    downloads: tuple[Download, ...] = ()
    files: tuple[ExpectedFile, ...] = ()
    preprocessing: PixelFacts
    by_hand: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        for field in ("classes", "class_folders"):
            names = getattr(self, field)
            if names and len(names) != self.n_classes:
                raise ValueError(f"{field} has {len(names)} names, and n_classes is {self.n_classes}")
            if len({name.casefold() for name in names}) < len(names):
                raise ValueError(f"{field} names two classes alike")
        if not self.splits:
            raise ValueError("a set has at least one split")
        if self.class_folders and not self.classes:
            raise ValueError("class_folders goes with classes")
        needs_files = any("{root}" in split.source for split in self.splits.values())
        if needs_files and not self.downloads and not self.by_hand:
            raise ValueError("without downloads, by_hand says how to get the files")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of all images, None where they differ."""
        return self.preprocessing.size

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.preprocessing.channels

    @property
    def n_images(self) -> int | None:
        """Of all splits, None where a split does not say."""
        counts = [split.n_images for split in self.splits.values()]
        return None if None in counts else sum(count for count in counts if count is not None)

    def split_source(self, split: str, root: Path) -> str:
        """What to open for a split, with the raw files in `root`."""
        return self.splits[split].source.replace("{root}", str(root))


@dataclass(frozen=True)
class ListedRecipe:
    """A recipe that was found, in one line."""

    path: Path
    recipe: Recipe | SyntheticRecipe

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def kind(self) -> str:
        return self.recipe.kind

    @property
    def n_classes(self) -> int:
        if isinstance(self.recipe, SyntheticRecipe):
            return len(self.recipe.classes)
        return self.recipe.n_classes

    @property
    def n_images(self) -> int | None:
        if isinstance(self.recipe, SyntheticRecipe):
            return sum(self.recipe.n_by_split.values()) * len(self.recipe.classes)
        return self.recipe.n_images

    @property
    def licence(self) -> str:
        licence = self.recipe.licence
        return licence if isinstance(licence, str) else licence.name


def _recipe_folders() -> list[Path]:
    """Where recipes lie, first come first served: one's own, then the package's."""
    package = Path(__file__).parent.parent
    folders = [Path("datasets")]
    if os.environ.get(RECIPES_VARIABLE):
        folders.append(Path(os.environ[RECIPES_VARIABLE]))
    # Beside an installed package, `datasets` would be some other package.
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "datasets")
    folders.append(package / "datasets")
    found: dict[Path, Path] = {}
    for folder in folders:
        if folder.is_dir():
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _recipe_files() -> dict[str, Path]:
    """Files that look like recipes, by name."""
    found: dict[str, Path] = {}
    for folder in _recipe_folders():
        for path in sorted(folder.glob("*.toml")):
            if path.stem not in found and _kind_of(path) is not None:
                found[path.stem] = path
    return found


def _kind_of(path: Path) -> str | None:
    """`synthetic`, `published`, or None for other TOML files: label maps, plans. Damaged ones count."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None if path.stem.startswith("labels-") else "published"
    table = content.get("set")
    if isinstance(table, dict) and table.get("kind") == "synthetic":
        return "synthetic"
    return "published" if "kind" in content and "splits" in content else None


def all_recipes() -> tuple[list[ListedRecipe], list[str]]:
    """All recipes that are found, by name, and a sentence on each file that cannot be read."""
    listed: list[ListedRecipe] = []
    problems: list[str] = []
    for _, path in sorted(_recipe_files().items()):
        try:
            listed.append(ListedRecipe(path, load_recipe(path)))
        except AuditError as error:
            problems.append(error.problem)
    return listed, problems


def find_recipe(name: str) -> Path:
    """The file of the recipe called `name`, or at that path.

    Raises SettingsError, with the names there are.
    """
    if name.endswith(".toml") or "/" in name or os.sep in name:
        if not Path(name).is_file():
            raise SettingsError(f"There is no recipe {name}.", "See `shortcut-audit data list`.")
        return Path(name)
    files = _recipe_files()
    if name not in files:
        near = [other for other in files if _letters(other) == _letters(name)]
        raise SettingsError(
            f"There is no recipe called {name!r}.",
            f"Did you mean {near[0]}?" if near else f"Recipes are: {', '.join(sorted(files)) or 'none'}.",
        )
    return files[name]


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def load_recipe(path: Path) -> Recipe | SyntheticRecipe:
    """Read one recipe.

    Raises SettingsError, in one sentence, for a file that is missing, no TOML or no recipe.
    """
    recipe: Recipe | SyntheticRecipe
    recipe = read_synthetic(path) if _kind_of(path) == "synthetic" else read_toml(path, Recipe, "recipe")
    if recipe.name != path.stem:
        raise SettingsError(
            f"The recipe {path} calls itself {recipe.name!r}.", f"Name the file {recipe.name}.toml."
        )
    return recipe


def how_to_get(recipe: Recipe, root: Path) -> str:
    """What to do to have the raw files of `recipe` in `root`, in a sentence or two."""
    steps = []
    for each in recipe.downloads:
        facts = f" ({each.facts})" if each.facts else ""
        unpack = f" and unpack it there, to {root / each.gives}" if each.gives else ""
        steps.append(f"{each.url}{facts} to {root / each.path}{unpack}")
    if not steps:
        return recipe.by_hand.replace("{root}", str(root))
    return f"Run `shortcut-audit data build {recipe.name} --root {root}`, or download {'; '.join(steps)}."
