"""Images with two labels, a shape and a texture: where both are read from, and which images take part."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.arrays import ArrayFile, NpzArrays
from shortcut_audit.data.cue_groups import CueGroups
from shortcut_audit.data.pixels import make_transform
from shortcut_audit.data.sources import (
    ArraySource,
    FilesSource,
    ImageSource,
    UnreadableImageError,
    named_classes,
    open_source,
)
from shortcut_audit.errors import DataError, printable
from shortcut_audit.results.audit_result import SkippedImage
from shortcut_audit.results.provenance import Preprocessing

__all__ = ["CueImages", "PixelReader", "SortedImages", "open_cue_conflict", "sort_images"]

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
# cat7-elephant3: a class and a number, twice.
_TWO_CLASSES = re.compile(r"(?P<shape>.*?\D)(?P<number>\d+)-(?P<texture>.+)")
_NAMES_SAY = "Name files like cat7-elephant3.png (shape, number, texture, number)"
_OTHER_WAYS = (
    "or give an .npz with x, y_shape, y_texture and classes, or a .csv with columns file, shape, texture."
)
_DIGITS = "0123456789"
_COLUMNS = ("file", "shape", "texture")


@dataclass(frozen=True)
class CueImages:
    """Images and what they show: `shape` and `texture` (n,) int64 count in `class_names`."""

    source: ImageSource
    class_names: tuple[str, ...]
    shape: NDArray[np.int64]
    texture: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not (len(self.shape) == len(self.texture) == len(self.source.labels)):
            raise DataError(
                f"{self.source.spec} has {len(self.source.labels)} images, {len(self.shape)} shapes and"
                f" {len(self.texture)} textures.",
                "Give each image one shape and one texture.",
            )
        if min(self.shape.min(initial=0), self.texture.min(initial=0)) < 0:
            raise DataError(f"{self.source.spec} has negative labels.", "Labels count from 0.")

    @property
    def carried(self) -> tuple[str, ...]:
        """Classes that at least one image shows, in label order."""
        seen = np.union1d(self.shape, self.texture)
        return tuple(self.class_names[label] for label in seen)


def open_cue_conflict(spec: str) -> CueImages:
    """Open the images that `spec` names, each with its shape and its texture.

    - `FILE.npz` with `x`, `y_shape`, `y_texture` and `classes` (`FILE.npz::test`: `x_test`, ...);
    - `FILE.csv` with columns file, shape, texture; files are found from the folder of the .csv;
    - whatever `open_source` opens and names its files like `cat7-elephant3.png` (Geirhos et al., 2019);
      folders, where there are any, are shapes. A folder of such files without class folders will do.

    Raises DataError, in one sentence, for everything that is missing or malformed.
    """
    where, _, split = spec.partition("::")
    path = Path(where)
    if path.is_file() and path.suffix == ".npz" and _has_both(path):
        return _from_npz(spec, path, split)
    if path.is_file() and path.suffix == ".csv":
        return _from_table(spec, path)
    loose = _loose_files(path / split) if path.is_dir() else []
    if loose:
        return _by_names(_files(spec, loose, path / split), ())
    source = open_source(spec)
    return _by_names(source, source.class_names)


def _has_both(path: Path) -> bool:
    return any(name.startswith(("y_shape", "y_texture")) for name in NpzArrays(path))


def _from_npz(spec: str, path: Path, split: str) -> CueImages:
    arrays = NpzArrays(path)
    suffix = f"_{split}" if split else ""
    for name in ("x", "y_shape", "y_texture"):
        if f"{name}{suffix}" not in arrays:
            raise DataError(
                f"{path} has no array {name}{suffix}.",
                "A cue-conflict .npz holds x (images), y_shape, y_texture (labels) and classes (names).",
            )
    rows = arrays[f"x{suffix}"]
    shape, texture = (
        _labels(path, name, arrays[name]) for name in (f"y_shape{suffix}", f"y_texture{suffix}")
    )
    names = None
    if "classes" in arrays:
        stored = arrays["classes"].whole().ravel()
        names = [
            each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in stored
        ]
    classes = named_classes(names, np.concatenate([shape, texture]), str(path))
    source = ArraySource(spec, classes, np.zeros(len(rows), dtype=np.int64), rows)
    return CueImages(source, classes, shape, texture)


def _labels(path: Path, name: str, array: ArrayFile) -> NDArray[np.int64]:
    labels = array.whole()
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} in {path} has shape {labels.shape} and type {labels.dtype}.",
            "Labels are one integer an image.",
        )
    return labels.astype(np.int64)


def _from_table(spec: str, path: Path) -> CueImages:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            found = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in _COLUMNS if name not in found]
            if missing:
                raise DataError(
                    f"{path} has no column {missing[0]!r}; its first line is {', '.join(found)[:80]!r}.",
                    f"The first line names the columns: {','.join(_COLUMNS)}",
                )
            reader.fieldnames = found
            rows = [tuple((row[name] or "").strip() for name in _COLUMNS) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or f"{error}"
        raise DataError(f"{path} cannot be read: {reason}.", "Give a .csv file in UTF-8.") from error
    for line, row in enumerate(rows, start=2):
        if not all(row):
            raise DataError(
                f"Line {line} of {path} lacks a {_COLUMNS[row.index('')]}.", "Fill in every column."
            )
    source = _files(spec, [path.parent / row[0] for row in rows], path.parent)
    return _labelled(source, [(row[1], row[2]) for row in rows])


def _loose_files(folder: Path) -> list[Path]:
    """Image files right in `folder`; none where it has folders of its own instead.

    Raises DataError for both: the files would be left out without a word.
    """
    if not folder.is_dir():
        return []
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    files = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in _ENDINGS]
    if files and any(entry.is_dir() for entry in entries):
        raise DataError(
            f"{folder} has {len(files)} image{'s' if len(files) > 1 else ''} beside its folders"
            f" ({files[0].name}).",
            "Put all images into folders of shapes, or all of them right here.",
        )
    return files


def _files(spec: str, paths: Sequence[Path], root: Path) -> FilesSource:
    return FilesSource(
        spec=spec,
        class_names=("images",),
        labels=np.zeros(len(paths), dtype=np.int64),
        names=[
            printable(str(path.relative_to(root) if path.is_relative_to(root) else path))
            for path in paths
        ],
        open_bytes=lambda index: paths[index].read_bytes(),
    )


def _by_names(source: ImageSource, folders: tuple[str, ...]) -> CueImages:
    """Shape and texture as the files' names say them; `folders`: its classes, which are shapes."""
    pairs = []
    for index, label in enumerate(source.labels.tolist()):
        name = source.name(index)
        if name == f"{source.spec}[{index}]":
            # Numbered by us: what could be read off it would be the name of the whole file.
            raise DataError(
                f"{source.spec} has images without file names, and no y_shape and y_texture.",
                f"{_NAMES_SAY}, {_OTHER_WAYS}",
            )
        stem = Path(name.rpartition("/")[2]).stem
        pairs.append(_parsed(stem, name, folders[label] if folders else None, folders))
    return _labelled(source, pairs)


def _parsed(stem: str, name: str, folder: str | None, known: Sequence[str]) -> tuple[str, str]:
    """Shape and texture of one file name.

    The folder says where the shape ends, also for classes whose names end in digits. The texture is the
    known class that leaves nothing but digits; where none is known, what stands before the digits.
    """
    if folder is not None and (fits := re.fullmatch(rf"{re.escape(folder)}\d*-(?P<texture>.+)", stem)):
        return folder, _texture(fits["texture"], name, known)
    match = _TWO_CLASSES.fullmatch(stem)
    if match is None:
        raise DataError(
            f"The file name of {name} does not say shape and texture.", f"{_NAMES_SAY}, {_OTHER_WAYS}"
        )
    if folder is not None:
        raise DataError(
            f"Image {name} lies in folder {folder!r}, and its file name says shape {match['shape']!r}.",
            f"Folders are shapes. {_NAMES_SAY}, {_OTHER_WAYS}",
        )
    return match["shape"], _texture(match["texture"], name, known)


def _texture(text: str, name: str, known: Sequence[str]) -> str:
    fits = [each for each in known if re.fullmatch(rf"{re.escape(each)}\d*", text)]
    if len(fits) > 1:
        raise DataError(
            f"The texture of {name} may be {fits[0]!r} or {fits[1]!r}.",
            f"Name classes so that none is another with digits behind it, {_OTHER_WAYS}",
        )
    if not fits and not text.rstrip(_DIGITS):
        raise DataError(
            f"The file name of {name} does not say a texture.", f"{_NAMES_SAY}, {_OTHER_WAYS}"
        )
    return fits[0] if fits else text.rstrip(_DIGITS)


def _labelled(source: ImageSource, pairs: Sequence[tuple[str, str]]) -> CueImages:
    if not pairs:
        raise DataError(f"{source.spec} holds no image.", f"{_NAMES_SAY}, {_OTHER_WAYS}")
    names = tuple(sorted({name for pair in pairs for name in pair}))
    folded: dict[str, str] = {}
    for name in names:
        if folded.setdefault(name.casefold(), name) != name:
            raise DataError(
                f"Classes {folded[name.casefold()]!r} and {name!r} of {source.spec} differ in case"
                " alone.",
                "Spell each class in one way.",
            )
    number = {name: label for label, name in enumerate(names)}
    shape, texture = (np.array([number[pair[side]] for pair in pairs], dtype=np.int64) for side in (0, 1))
    return CueImages(source, names, shape, texture)


@dataclass(frozen=True)
class SortedImages:
    """Which images take part.

    `shape`, `texture` (n,): group of each image, -1 of none. `used` (n,) bool: both have a group, and not
    the same one. `n_unmapped`, `n_same`: images left out because they lack a group, or have one alone.
    """

    shape: NDArray[np.int64]
    texture: NDArray[np.int64]
    used: NDArray[np.bool_]
    n_unmapped: int
    n_same: int

    def drawn(self, images_per_class: int | None, seed: int) -> list[NDArray[np.int64]]:
        """Rows of each shape group in the order in which they are taken: as they lie, or by `seed`.

        One stream of random numbers a group: images of one never move another's.
        """
        n_groups = int(max(self.shape.max(initial=-1), self.texture.max(initial=-1))) + 1
        rows = [np.flatnonzero(self.used & (self.shape == group)) for group in range(n_groups)]
        if images_per_class is None:
            return rows
        return [np.random.default_rng([seed, group]).permutation(each) for group, each in enumerate(rows)]


def sort_images(images: CueImages, groups: CueGroups) -> SortedImages:
    """Shape and texture of every image as groups; which images take part, and how many do not."""
    group_of = {name: row for row, group in enumerate(groups.groups) for name in group.classes}
    table = np.array([group_of.get(name, -1) for name in images.class_names], dtype=np.int64)
    shape, texture = table[images.shape], table[images.texture]
    mapped = (shape >= 0) & (texture >= 0)
    same = mapped & (shape == texture)
    return SortedImages(shape, texture, mapped & ~same, int((~mapped).sum()), int(same.sum()))


@dataclass
class PixelReader:
    """Decodes the images that take part, a batch at a time, each once.

    `rows` holds rows of each group, of which the first `images_per_class` that can be read are taken.
    Afterwards `digest` names what was read, and `skipped` what could not be.
    """

    images: CueImages
    preprocessing: Preprocessing
    rows: Sequence[NDArray[np.int64]]
    images_per_class: int | None
    skip_unreadable: bool
    skipped: list[SkippedImage] = field(default_factory=list)
    _digests: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Images that will be read where all can be."""
        return sum(len(rows[: self.images_per_class]) for rows in self.rows)

    @property
    def digest(self) -> str:
        """Over pixels, shape and texture of every image read, whatever their order."""
        return hashlib.sha256("\n".join(sorted(self._digests)).encode()).hexdigest()

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(rows, pixels (B, C, H, W) in [0,1]) of at most `size` images. Raises DataError."""
        rows: list[int] = []
        pixels: list[NDArray[np.float32]] = []
        for row, image in self._read():
            rows.append(row)
            pixels.append(image)
            if len(rows) == size:
                yield np.array(rows), np.stack(pixels)
                rows, pixels = [], []
        if rows:
            yield np.array(rows), np.stack(pixels)

    def _read(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        transform = make_transform(self.preprocessing)
        source = self.images.source
        for rows in self.rows:
            n_wanted = len(rows) if self.images_per_class is None else self.images_per_class
            for row in rows.tolist():
                if n_wanted == 0:
                    break
                try:
                    pixels = transform(source.read(row), source.name(row))
                except UnreadableImageError as error:
                    if not self.skip_unreadable:
                        raise
                    self.skipped.append(SkippedImage(image=error.image, reason=error.reason))
                    continue
                n_wanted -= 1
                yield row, self._checked(row, pixels)

    def _checked(self, row: int, pixels: NDArray[Any]) -> NDArray[np.float32]:
        wanted = (self.preprocessing.channels, self.preprocessing.height, self.preprocessing.width)
        if pixels.shape != wanted:
            raise DataError(
                f"Image {self.images.source.name(row)} has {pixels.shape[1]} x {pixels.shape[2]} pixels,"
                f" and others {wanted[1]} x {wanted[2]}.",
                "Bring all images to one size first.",
            )
        names = self.images.class_names
        labels = f"{names[self.images.shape[row]]!r} {names[self.images.texture[row]]!r}"
        content = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
        self._digests.append(f"{labels} {pixels.dtype} {pixels.shape} {content}")
        if pixels.dtype == np.uint8:
            return pixels.astype(np.float32) / np.float32(255)
        return pixels.astype(np.float32)
