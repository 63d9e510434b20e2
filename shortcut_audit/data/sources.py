"""Image sources: folders, arrays, packed files, timm readers and data sets of the user's own.

A source knows labels and class names at once and decodes single images on demand, so that only
the images an audit uses are ever read.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shortcut_audit.data.arrays import ArrayFile, NpzArrays
from shortcut_audit.errors import DataError, printable

__all__ = [
    "ArraySource",
    "FilesSource",
    "ImageSource",
    "UnreadableImageError",
    "named_classes",
    "open_source",
]

Picture = Image.Image | NDArray[Any]

_READERS = ("hfds/", "hfids/", "tfds/", "wds/")
# Labels beyond this are no class numbers, but hashes or row numbers.
_MOST_NUMBERED_CLASSES = 100_000


class UnreadableImageError(DataError):
    """One image cannot be decoded; `--skip-unreadable` leaves it out."""

    slug = "unreadable-image"

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(
            f"Image {image} cannot be read: {reason}.",
            "Mend or remove it, or leave such images out with --skip-unreadable.",
        )
        self.image = image
        self.reason = reason


class ImageSource(Protocol):
    """Labelled images that are decoded one at a time.

    `uniform`: all images have the shape of the first.
    """

    uniform: ClassVar[bool]

    @property
    def spec(self) -> str:
        """As the user named it."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) integers."""
        ...

    def read(self, index: int) -> Picture:
        """A PIL image, or an array (H, W), (H, W, C) or (C, H, W), uint8 or float in [0,1]."""
        ...

    def peek(self, index: int) -> Picture:
        """The same picture with at least its mode and size known, as cheaply as can be."""
        ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...


@dataclass(frozen=True)
class FilesSource:
    """Encoded images: a function opens the bytes of each."""

    uniform: ClassVar[bool] = False
    spec: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    names: Sequence[str]
    open_bytes: Callable[[int], bytes]

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Picture:
        return decode(self._content(index), self.names[index])

    def peek(self, index: int) -> Picture:
        return _open(self._content(index), self.names[index])

    def _content(self, index: int) -> bytes:
        try:
            return self.open_bytes(index)
        except Exception as error:  # each reader, archive and file system raises its own kinds
            reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{error!r}"
            raise UnreadableImageError(self.names[index], reason) from error


@dataclass(frozen=True)
class ArraySource:
    """Images as rows of one array."""

    uniform: ClassVar[bool] = True
    spec: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    rows: ArrayFile

    def name(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    def read(self, index: int) -> Picture:
        return self.rows.row(index)

    def peek(self, index: int) -> Picture:
        return self.rows.row(index)


def decode(content: bytes, name: str) -> Image.Image:
    """Decode one encoded image, every pixel of it.

    Raises UnreadableImageError for empty, damaged or truncated content.
    """
    image = _open(content, name)
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(name, str(error).rstrip(".")) from error
    return image


def _open(content: bytes, name: str) -> Image.Image:
    """The image with its header read, its pixels not yet decoded."""
    if not content:
        raise UnreadableImageError(name, "it has zero bytes")
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "it is not an image that Pillow knows") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(name, str(error).rstrip(".")) from error


def open_source(spec: str) -> ImageSource:
    """Open the images that `spec` names.

    - a folder of class folders (classes in alphabetical order, as torchvision sorts them);
    - `FILE.npz` with `x`, `y`, `classes`, or packed files `blob`, `offsets`, `y`, `classes`;
      `FILE.npz::test` takes `x_test`, `y_test`, or the images whose `split` is 1 (`::train`: 0);
    - `FILE.tar`, `hfds/NAME`, `tfds/NAME`, `wds/DIR` (each with `::split`): timm's readers.

    Raises DataError, in one sentence, for everything that is missing or malformed.
    """
    where, _, split = spec.partition("::")
    from shortcut_audit.data.readers import from_reader, from_tar

    if where.startswith(_READERS):
        return from_reader(spec, where, split or "validation")
    path = Path(where)
    if not path.exists():
        raise DataError(f"{where} does not exist.", "Name a folder of class folders, or an .npz file.")
    if path.is_file() and path.suffix == ".npz":
        return _from_arrays(spec, path, split)
    if path.is_file() and path.suffix == ".tar":
        return from_tar(spec, path, split)
    if not path.is_dir():
        raise DataError(
            f"{where} is neither a folder, an .npz nor a .tar file.",
            "Name a folder of class folders, an .npz file, or a timm reader such as hfds/NAME.",
        )
    return _from_folder(spec, path / split if split else path)


def _from_folder(spec: str, root: Path) -> ImageSource:
    from timm.data.readers.img_extensions import get_img_extensions

    if not root.is_dir():
        raise DataError(f"{root} does not exist.", "Name a folder of class folders.")
    endings = get_img_extensions(as_set=True)
    try:
        entries = list(root.iterdir())
    except OSError as error:
        raise DataError(f"{root} cannot be opened: {error.strerror}.", "Check its rights.") from error
    class_names = sorted(entry.name for entry in entries if _is_class_folder(entry))
    if not class_names:
        loose = any(entry.suffix.lower() in endings for entry in entries)
        raise DataError(
            f"{root} has {'images but no class folders' if loose else 'no class folders'} in it.",
            "Put the images of each class into a folder of its own, named after the class.",
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(p for p in (root / name).rglob("*") if _is_image(p, root / name, endings))
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(
            f"{root} has {len(class_names)} class folder{'' if len(class_names) == 1 else 's'} and no"
            " image in any.",
            f"Image files end in one of: {', '.join(sorted(endings))}.",
        )
    hollow = [name for label, name in enumerate(class_names) if label not in set(labels)]
    if hollow:
        raise DataError(
            f"Class folder {root / hollow[0]} has no image in it.",
            "Add images of it; to audit some of a model's classes, remove the folder and give"
            " --output-names.",
        )
    return FilesSource(
        spec=spec,
        class_names=tuple(printable(name) for name in class_names),
        labels=np.asarray(labels, dtype=np.int64),
        names=[printable(str(path.relative_to(root))) for path in paths],
        open_bytes=_FileOpener(paths),
    )


def _is_class_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _is_image(path: Path, folder: Path, endings: Set[str]) -> bool:
    # Hidden files and folders are editors' and systems' own: copies, thumbnails, resource forks.
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in endings and not hidden and not path.is_dir()


@dataclass(frozen=True)
class _FileOpener:
    paths: Sequence[Path]

    def __call__(self, index: int) -> bytes:
        return self.paths[index].read_bytes()


def _from_arrays(spec: str, path: Path, split: str) -> ImageSource:
    arrays = NpzArrays(path)
    suffix = f"_{split}" if split else ""
    if "blob" in arrays:
        return _from_packed(spec, arrays, split)
    if f"x{suffix}" not in arrays or f"y{suffix}" not in arrays:
        splits = sorted(name[2:] for name in arrays if name.startswith("x_"))
        hint = (
            f"Say which: {', '.join(f'{path}::{name}' for name in splits)}."
            if splits
            else ("An .npz holds x (images), y (labels) and classes (names), or packed blob and offsets.")
        )
        raise DataError(f"{path} has no arrays x{suffix} and y{suffix}.", hint)
    rows = arrays[f"x{suffix}"]
    labels = _labels(path, f"y{suffix}", arrays[f"y{suffix}"], len(rows))
    return ArraySource(spec, _class_names(path, arrays, labels), labels, rows)


def _from_packed(spec: str, arrays: NpzArrays, split: str) -> ImageSource:
    path = Path(spec.partition("::")[0])
    for needed in ("offsets", "y"):
        if needed not in arrays:
            raise DataError(f"{path} has packed images (blob) but no {needed}.", "Pack it again.")
    blob, offsets = arrays["blob"], arrays["offsets"].whole()
    if not _is_packing(blob, offsets):
        raise DataError(
            f"{path} has packed images (blob) whose offsets do not fit.",
            "`blob` is one row of uint8, and `offsets` its n + 1 ascending borders.",
        )
    labels = _labels(path, "y", arrays["y"], len(offsets) - 1)
    chosen = _chosen(path, arrays, split, len(labels))
    names = [f"{spec}[{index}]" for index in chosen]
    if "names" in arrays:
        own = _texts(path, "names", arrays)
        if len(own) != len(labels):
            raise DataError(f"{path} has {len(labels)} images and {len(own)} names.", "Pack it again.")
        names = [own[index] for index in chosen]
    return FilesSource(
        spec=spec,
        class_names=_class_names(path, arrays, labels),
        labels=labels[chosen],
        names=names,
        open_bytes=_PackedOpener(blob, offsets.astype(np.int64), chosen),
    )


def _is_packing(blob: ArrayFile, offsets: NDArray[Any]) -> bool:
    flat = len(blob.shape) == 1 and blob.dtype == np.uint8
    if not flat or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) == 0:
        return False
    borders = offsets.astype(np.int64)
    return bool(borders[0] >= 0 and borders[-1] <= len(blob) and (np.diff(borders) >= 0).all())


def _chosen(path: Path, arrays: NpzArrays, split: str, n_images: int) -> NDArray[np.int64]:
    """Numbers of the packed images in a split."""
    if not split:
        return np.arange(n_images)
    number = {"train": 0, "val": 1, "test": 1, "validation": 1}.get(split)
    if "split" not in arrays or number is None:
        raise DataError(
            f"{path} has no split {split!r}.",
            "Packed files with an array `split` (0 or 1) take ::train and ::test.",
        )
    numbers = arrays["split"].whole()
    if numbers.shape != (n_images,):
        raise DataError(f"{path} has {n_images} images and {numbers.size} splits.", "Pack it again.")
    chosen: NDArray[np.int64] = np.flatnonzero(numbers == number)
    if len(chosen) == 0:
        raise DataError(f"{path} has no image in split {split!r}.", "Take the other split, or none.")
    return chosen


@dataclass(frozen=True)
class _PackedOpener:
    blob: ArrayFile
    offsets: NDArray[np.int64]
    chosen: NDArray[np.int64]

    def __call__(self, index: int) -> bytes:
        start, stop = self.offsets[self.chosen[index]], self.offsets[self.chosen[index] + 1]
        return self.blob.span(int(start), int(stop)).tobytes()


def _labels(path: Path, name: str, array: ArrayFile, n_images: int) -> NDArray[np.int64]:
    labels = array.whole()
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"{name} in {path} has shape {labels.shape} and type {labels.dtype}.",
            "Labels are one integer an image.",
        )
    if len(labels) != n_images:
        raise DataError(f"{path} has {n_images} images and {len(labels)} labels.", "Pack it again.")
    return labels.astype(np.int64)


def _texts(path: Path, name: str, arrays: NpzArrays) -> list[str]:
    """A row of text."""
    array = arrays[name].whole()
    if array.ndim != 1:
        raise DataError(f"{name} in {path} has shape {array.shape}.", "Store one text each.")
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in array
    ]


def _class_names(path: Path, arrays: NpzArrays, labels: NDArray[np.int64]) -> tuple[str, ...]:
    names = _texts(path, "classes", arrays) if "classes" in arrays else None
    return named_classes(names, labels, str(path))


def named_classes(names: Sequence[str] | None, labels: NDArray[np.int64], what: str) -> tuple[str, ...]:
    """Class names in label order: `names`, or numbers where there are none.

    Raises DataError when there are no labels, when they do not count from 0, or when `names` are
    too few or not distinct; `what` is the data set's name in the message.
    """
    if len(labels) == 0:
        raise DataError(f"{what} holds no image.", "Give labelled images of at least two classes.")
    if labels.min() < 0:
        raise DataError(f"{what} has negative labels.", "Labels count from 0.")
    n_classes = int(labels.max()) + 1
    if names is None:
        if n_classes > _MOST_NUMBERED_CLASSES:
            raise DataError(
                f"{what} has labels up to {n_classes - 1:,}.", "Number the classes from 0 without gaps."
            )
        return tuple(str(label) for label in range(n_classes))
    if len(names) < n_classes:
        raise DataError(
            f"{what} names {len(names)} classes, and its labels go up to {n_classes - 1}.",
            "Name every class, in label order.",
        )
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{what} names {count} classes {name!r}.", "Give each class its own name.")
    return tuple(names)
