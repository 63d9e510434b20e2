"""Builds a set by its recipe: raw files in, a folder that `--data` reads out, with its card."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shortcut_audit.data.cards import Card
from shortcut_audit.data.downloads import Progress, RawFile, fetch, raw_file, unpack
from shortcut_audit.data.pixels import common_shape, make_transform
from shortcut_audit.data.recipes import Recipe, RecipeSplit, how_to_get
from shortcut_audit.data.sources import ArraySource, FilesSource, open_source
from shortcut_audit.data.writing import CARD_FILE, SetWriter, check_target
from shortcut_audit.errors import DataError
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.version import __version__

__all__ = ["BUILT_FOLDER", "build_set", "raw_differences"]

BUILT_FOLDER = Path("datasets") / "built"
_BLOCK = 512
_PLAIN = re.compile(r"[^\w.()+,=@ -]")
# Endings of what Pillow opens, for images whose names have none.
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "PPM": ".ppm"}


def build_set(
    recipe: Recipe,
    out: Path,
    *,
    root: Path,
    limit: int | None = None,
    formats: Sequence[str] = (),
    replace: bool = False,
    on_progress: Progress | None = None,
) -> Card:
    """Build the set of `recipe` in the folder `out`, from raw files in `root`; downloads what is missing.

    Encoded images are copied byte by byte. Arrays are written as `formats`, by default `npz`.
    `limit`: the first so many images of each class and split. Returns the card, which is saved with
    the set. Raises DataError, saying what to get and where to put it, when files are missing or are
    not those of the recipe.
    """
    check_target(out, replace=replace)
    _get(recipe, root, on_progress)
    raw_files = _found_files(recipe, root)
    splits = {name: _open_split(recipe, name, root) for name in recipe.splits}
    encoded = _checked(recipe, splits, limit)
    if encoded and formats:
        raise DataError(
            f"{recipe.name} is made of encoded images, which are copied as they are.",
            "Leave --format out.",
        )
    class_names = next(iter(splits.values())).class_names
    forms = ("png",) if encoded else tuple(formats) or ("npz",)
    with SetWriter(out, class_names, forms, replace=replace) as writer:
        for name, source in splits.items():
            rows = _first(source.labels, limit)
            for done in _copied(writer, name, source, rows):
                if on_progress is not None:
                    on_progress(f"Writing {name}", done, len(rows))
        card = Card(
            version=__version__,
            name=recipe.name,
            kind=recipe.kind,
            description=recipe.description,
            source=recipe.source,
            citation=recipe.citation,
            licence=recipe.licence,
            preprocessing=recipe.preprocessing,
            class_names=class_names,
            n_by_split=writer.n_by_split,
            limit=limit,
            raw_files=raw_files,
        )
        writer.add_file(CARD_FILE, card.as_text())
        writer.finish(checksums=True)
    return card


def raw_differences(recipe: Recipe, root: Path) -> tuple[list[str], int]:
    """What differs between raw files in `root` and the recipe, and how many were compared."""
    found: list[str] = []
    there = [each for each in (*recipe.downloads, *recipe.files) if (root / each.path).is_file()]
    for each in there:
        try:
            raw_file(each, root)
        except DataError as error:
            found.append(error.problem.rstrip("."))
    missing = [each.path for each in recipe.files if not (root / each.path).is_file()]
    if there and missing and len(missing) < len(recipe.files):
        found += [f"{root / path} is missing" for path in missing]
    return found, len(there)


def _get(recipe: Recipe, root: Path, on_progress: Progress | None) -> None:
    """Download and unpack what is not there."""
    for each in recipe.downloads:
        if each.gives and (root / each.gives).exists():
            continue
        plain = root / each.path.removesuffix(".gz")
        if each.path.endswith(".gz") and not each.gives and plain.is_file():
            continue
        fetch(each, root, on_progress)
        if each.gives:
            unpack(each, root)


def _found_files(recipe: Recipe, root: Path) -> tuple[RawFile, ...]:
    """Digests of the raw files that are there, compared with the published ones.

    Raises DataError for a file of the set that is missing or another one.
    """
    archives = [each for each in recipe.downloads if (root / each.path).is_file()]
    return tuple(raw_file(each, root) for each in (*archives, *recipe.files))


def _open_split(recipe: Recipe, split: str, root: Path) -> FilesSource | ArraySource:
    entry, spec = recipe.splits[split], recipe.split_source(split, root)
    try:
        source = _labelled(entry, spec, root) if entry.labels_file else open_source(spec)
    except DataError as error:
        if recipe.downloads:
            raise
        raise DataError(
            f"{recipe.name} has no split {split} in {root}: {error.problem}", how_to_get(recipe, root)
        ) from error
    assert isinstance(source, FilesSource | ArraySource)
    if recipe.class_folders:
        return _chosen_classes(recipe, source)
    numbered = source.class_names == tuple(str(n) for n in range(len(source.class_names)))
    if numbered and len(recipe.classes) == len(source.class_names):
        return dataclasses.replace(source, class_names=recipe.classes)
    return source


def _labelled(entry: RecipeSplit, spec: str, root: Path) -> FilesSource:
    """A folder of images whose classes stand in a file: image name and class, then anything, a line."""
    path = Path(entry.labels_file.replace("{root}", str(root)))
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"{path} cannot be read: {reason}.", "Unpack the archive again.") from error
    if not lines or any(len(words) < 2 for words in lines):
        raise DataError(f"{path} does not name an image and its class a line.", "Unpack it again.")
    class_names = tuple(sorted({words[1] for words in lines}))
    paths = [Path(spec) / words[0] for words in lines]
    return FilesSource(
        spec=spec,
        class_names=class_names,
        labels=np.asarray([class_names.index(words[1]) for words in lines], dtype=np.int64),
        names=[words[0] for words in lines],
        open_bytes=lambda index: paths[index].read_bytes(),
    )


def _chosen_classes(recipe: Recipe, source: FilesSource | ArraySource) -> FilesSource | ArraySource:
    """The classes that the recipe names, in the order of their folders."""
    missing = [name for name in recipe.class_folders if name not in source.class_names]
    if missing:
        raise DataError(
            f"{source.spec} has no class {missing[0]}, which {recipe.name} needs.",
            f"Its classes are to be: {', '.join(recipe.class_folders)}.",
        )
    if not isinstance(source, FilesSource):
        raise DataError(f"{source.spec} has no class folders.", "Recipes choose classes by their folder.")
    chosen = sorted(zip(recipe.class_folders, recipe.classes, strict=True))
    new_label = {source.class_names.index(folder): new for new, (folder, _) in enumerate(chosen)}
    rows = np.flatnonzero(np.isin(source.labels, list(new_label))).tolist()
    return FilesSource(
        spec=source.spec,
        class_names=tuple(f"{folder}-{name}" for folder, name in chosen),
        labels=np.asarray([new_label[int(source.labels[row])] for row in rows], dtype=np.int64),
        names=[source.names[row] for row in rows],
        open_bytes=lambda index: source.open_bytes(rows[index]),
    )


def _checked(recipe: Recipe, splits: Mapping[str, FilesSource | ArraySource], limit: int | None) -> bool:
    """Whether all splits are encoded images. Raises DataError where they are not what the recipe says."""
    for name, source in splits.items():
        expected = recipe.splits[name].n_images
        if limit is None and expected is not None and len(source.labels) != expected:
            raise DataError(
                f"Split {name} of {recipe.name} has {len(source.labels):,} images in {source.spec}, and"
                f" the recipe says {expected:,}.",
                "Files are missing or too many; --limit builds a part without counting.",
            )
        if len(source.class_names) != recipe.n_classes:
            raise DataError(
                f"Split {name} of {recipe.name} has {len(source.class_names)} classes, and the recipe"
                f" says {recipe.n_classes}.",
                "Is another folder among them?",
            )
        wanted = set(recipe.classes) if not recipe.class_folders else set()
        if wanted and wanted != set(source.class_names):
            odd = sorted(set(source.class_names) - wanted)
            raise DataError(
                f"Split {name} of {recipe.name} has a class {odd[0]!r}, which the recipe does not name.",
                f"Its classes are: {', '.join(recipe.classes)}.",
            )
    if len({source.class_names for source in splits.values()}) > 1:
        raise DataError(f"The splits of {recipe.name} differ in their classes.", "Is a folder missing?")
    kinds = {isinstance(source, FilesSource) for source in splits.values()}
    if len(kinds) > 1:
        raise DataError(
            f"{recipe.name} has splits of files and splits of arrays.", "Write a recipe for each."
        )
    return kinds == {True}


def _first(labels: NDArray[np.int64], limit: int | None) -> list[int]:
    """Rows of the first `limit` images of each class, in the order of the source."""
    taken: Counter[int] = Counter()
    rows = []
    for row, label in enumerate(labels.tolist()):
        if limit is None or taken[label] < limit:
            rows.append(row)
            taken[label] += 1
    return rows


def _copied(
    writer: SetWriter, split: str, source: FilesSource | ArraySource, rows: Sequence[int]
) -> Iterator[int]:
    """Write `rows` of `source`; yields how many are done."""
    if isinstance(source, FilesSource):
        return _copied_files(writer, split, source, rows)
    return _copied_arrays(writer, split, source, rows)


def _copied_files(
    writer: SetWriter, split: str, source: FilesSource, rows: Sequence[int]
) -> Iterator[int]:
    taken: set[str] = set()
    for done, row in enumerate(rows, start=1):
        class_name = source.class_names[int(source.labels[row])]
        name = _file_name(source, row)
        stem, ending = Path(name).stem, Path(name).suffix
        number = 1
        while f"{class_name}/{name}".casefold() in taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        taken.add(f"{class_name}/{name}".casefold())
        writer.add_encoded(split, class_name, name, source.content(row))
        yield done


def _file_name(source: FilesSource, row: int) -> str:
    """A plain file name for an encoded image, like its own."""
    own = _PLAIN.sub("_", source.names[row].rsplit("/", 1)[-1]).lstrip(".") or f"{row:05d}"
    if Path(own).suffix:
        return own
    picture = source.peek(row)
    kind = picture.format if isinstance(picture, Image.Image) else None
    return f"{own}{_ENDINGS.get(kind or '', '.png')}"


def _copied_arrays(
    writer: SetWriter, split: str, source: ArraySource, rows: Sequence[int]
) -> Iterator[int]:
    shape = common_shape(source, rows)
    assert shape is not None, "rows of one array have one shape"
    channels, height, width = shape
    ones = (1.0,) * channels
    transform = make_transform(
        Preprocessing(
            channels=channels,
            height=height,
            width=width,
            geometry="as they are",
            mean=ones,
            std=ones,
            source="the set itself",
        )
    )
    dtype = transform(source.read(rows[0]), source.name(rows[0])).dtype
    with writer.split(split, len(rows), (height, width, channels), dtype) as sink:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            images = np.stack([transform(source.read(row), source.name(row)) for row in block])
            sink.add(images.transpose(0, 2, 3, 1), source.labels[list(block)])
            yield start + len(block)
