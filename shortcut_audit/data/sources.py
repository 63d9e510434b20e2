"""Image sources: folders, arrays, packed files, timm readers and data sets of the user's own.

A source knows labels and class names at once and decodes single images on demand, so that only
the images an audit uses are ever read.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shortcut_audit.data.arrays import ArrayFile, NpzArrays
from shortcut_audit.data.writing import ARRAYS_NAME, CARD_FILE
from shortcut_audit.errors import DataError, printable
from shortcut_audit.results.truth import TRUTH_FILE

__all__ = [
    "ArraySource",
    "FilesSource",
    "ImageSource",
    "UnclippedPixels",
    "UnreadableImageError",
    "named_classes",
    "open_source",
]

Picture = Image.Image | NDArray[Any]

_READERS = ("hfds/", "hfids/", "tfds/", "wds/")
_TORCHVISION = "torchvision:"
# What torchvision's folders take beyond timm's; a set of such files is one to either of their users.
_MORE_ENDINGS = frozenset({".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp"})
# Images that neither reads: left out, and said so.
_OTHER_IMAGES = frozenset({".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".svg", ".tga"})
# Formats that Pillow hands to an interpreter on this machine.
_PROGRAMS = frozenset({"EPS", "WMF"})
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "eval", "test", "testing"})
# Labels beyond this are no class numbers, but hashes or row numbers.
_MOST_NUMBERED_CLASSES = 100_000


class UnreadableImageError(DataError):
    """One image cannot be decoded; `--skip-unreadable` leaves it out."""

    slug = "unreadable-image"

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(
            f"Image {image} cannot be read: {reason}.",
            "Mend or remove it; commands that take --skip-unreadable can leave such images out.",
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
    """Encoded images: a function opens the bytes of each.

    `passed_over`: how many files of each ending lie among them and are read by nobody. `identities`
    (n,): numbers by which other copies of the same images are known, where the file has them.
    """

    uniform: ClassVar[bool] = False
    spec: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    names: Sequence[str]
    open_bytes: Callable[[int], bytes]
    passed_over: Mapping[str, int] = field(default_factory=dict)
    identities: NDArray[np.int64] | None = None

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Picture:
        return decode(self.content(index), self.names[index])

    def peek(self, index: int) -> Picture:
        return _open(self.content(index), self.names[index])

    def content(self, index: int) -> bytes:
        """The encoded image as it is. Raises UnreadableImageError."""
        try:
            return self.open_bytes(index)
        except Exception as error:  # each reader, archive and file system raises its own kinds
            reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{error!r}"
            raise UnreadableImageError(self.names[index], reason) from error


class UnclippedPixels(np.ndarray[Any, Any]):
    """Pixels of unit range that may leave [0,1]: they were filtered, and the file says `unclipped`."""


@dataclass(frozen=True)
class ArraySource:
    """Images as rows of one array; `identities` as of `FilesSource`."""

    uniform: ClassVar[bool] = True
    spec: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    rows: ArrayFile
    unclipped: bool = False
    identities: NDArray[np.int64] | None = None

    def name(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    def read(self, index: int) -> Picture:
        row = self.rows.row(index)
        return row.view(UnclippedPixels) if self.unclipped and row.dtype.kind == "f" else row

    def peek(self, index: int) -> Picture:
        return self.rows.row(index)


def decode(content: bytes, name: str) -> Image.Image:
    """Decode one encoded image, every pixel of it; of an animation, the first frame.

    As timm and torchvision do, it is not turned as its EXIF data says. Raises UnreadableImageError
    for empty, damaged or truncated content and for a decompression bomb.
    """
    image = _open(content, name)
    with _decoding(name):
        image.load()
    return image


def _open(content: bytes, name: str) -> Image.Image:
    """The image with its header read, its pixels not yet decoded."""
    if not content:
        raise UnreadableImageError(name, "it has zero bytes")
    with _decoding(name):
        image = Image.open(io.BytesIO(content))
    if image.format in _PROGRAMS:
        raise UnreadableImageError(name, f"it is {image.format}, a program and no image")
    return image


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Holds back Pillow's warnings (data/survey.py counts what matters), and turns errors into ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "it is not an image that Pillow knows") from error
    except Exception as error:  # each of Pillow's formats raises its own kinds on damaged content
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UnreadableImageError(name, reason) from error


def open_source(spec: str) -> ImageSource:
    """Open the images that `spec` names.

    - a folder of class folders (classes in alphabetical order, as torchvision sorts them);
      `DIR::train` is the folder `train` in it, or the split of that name in its `images.npz`;
    - `FILE.npz` with `x`, `y`, `classes`, or packed files `blob`, `offsets`, `y`, `classes`;
      `FILE.npz::test` takes `x_test`, `y_test`, or the images whose `split` is 1 (`::train`: 0);
    - `torchvision:cifar10::test` (cifar100, fashion_mnist, mnist; `torchvision:cifar10@ROOT::test`
      for files in ROOT), and the folders that unpacking them gives;
    - `FILE.tar`, `hfds/NAME`, `hfids/NAME`, `tfds/NAME`, `wds/DIR` (each with `::split`): timm's
      readers.

    Raises DataError, in one sentence, for everything that is missing or malformed.
    """
    where, _, split = spec.partition("::")
    if where.startswith(_READERS):
        from shortcut_audit.data.readers import from_reader

        return from_reader(spec, where, split or "validation")
    if where.startswith(_TORCHVISION):
        from shortcut_audit.data.torchvision_sets import from_torchvision

        return from_torchvision(spec, where.removeprefix(_TORCHVISION), split)
    path = Path(where)
    if not path.exists():
        raise DataError(f"{where} does not exist.", "Name a folder of class folders, or an .npz file.")
    if path.is_file() and path.suffix == ".npz":
        from shortcut_audit.data.npz_sources import from_npz

        return from_npz(spec, path, split)
    if path.is_file() and path.suffix == ".tar":
        from shortcut_audit.data.readers import from_tar

        return from_tar(spec, path, split)
    if not path.is_dir():
        raise DataError(
            f"{where} is neither a folder, an .npz nor a .tar file.",
            "Name a folder of class folders, an .npz file, or a timm reader such as hfds/NAME.",
        )
    return _from_set(spec, path, split)


def _from_set(spec: str, root: Path, split: str) -> ImageSource:
    """A folder: a set as torchvision unpacks it, a split of a set, or class folders."""
    from shortcut_audit.data.torchvision_sets import from_unpacked, unpacked_set

    if unpacked_set(root) is not None:
        return from_unpacked(spec, root, split)
    if not split:
        _refuse_splits_as_classes(root)
        return _from_folder(spec, root)
    if not (root / split).is_dir() and (root / ARRAYS_NAME).is_file():
        from shortcut_audit.data.npz_sources import from_npz

        return from_npz(spec, root / ARRAYS_NAME, split)
    return _from_folder(spec, root / split)


def _entries(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"{root} cannot be opened: {error.strerror}.", "Check its rights.") from error


def _refuse_splits_as_classes(root: Path) -> None:
    """Raise DataError where the folders in `root` are splits, each with class folders of its own."""
    from shortcut_audit.data.torchvision_sets import unpacked_set

    entries = _entries(root)
    folders = [entry for entry in entries if _is_class_folder(entry)]
    names = [folder.name for folder in folders]
    for folder in folders:
        if unpacked_set(folder) is not None:
            raise DataError(f"{root} holds {folder.name}.", f"Give {folder}::train or {folder}::test.")
    ours = any(entry.name in {TRUTH_FILE, CARD_FILE} for entry in entries)
    if not folders and ours and (root / ARRAYS_NAME).is_file():
        names = [name[2:] for name in NpzArrays(root / ARRAYS_NAME) if name.startswith("x_")]
    elif not ours and not all(_is_split(folder) for folder in folders):
        return
    if names:
        raise DataError(
            f"{root} holds {'a split' if len(names) == 1 else 'splits'} and no classes:"
            f" {', '.join(names)}.",
            f"Say which: {', '.join(f'{root}::{name}' for name in names)}.",
        )


def _is_split(folder: Path) -> bool:
    """Whether `folder` is called like a split, and holds folders alone (and at least one)."""
    if folder.name.lower() not in _SPLITS:
        return False
    entries = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    return any(map(_is_class_folder, entries)) and not any(
        entry.suffix.lower() in _MORE_ENDINGS | {".png", ".jpg", ".jpeg"} and entry.is_file()
        for entry in entries
    )


def _from_folder(spec: str, root: Path) -> ImageSource:
    from timm.data.readers.img_extensions import get_img_extensions

    if not root.is_dir():
        raise DataError(f"{root} does not exist.", "Name a folder of class folders.")
    endings = get_img_extensions(as_set=True) | _MORE_ENDINGS
    entries = _entries(root)
    class_names = [entry.name for entry in entries if _is_class_folder(entry)]
    if not class_names:
        loose = any(entry.suffix.lower() in endings for entry in entries)
        raise DataError(
            f"{root} has {'images but no class folders' if loose else 'no class folders'} in it.",
            "Put the images of each class into a folder of its own, named after the class.",
        )
    paths: list[Path] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, name in enumerate(class_names):
        files = sorted(p for p in (root / name).rglob("*") if _is_seen(p, root / name))
        found = [path for path in files if path.suffix.lower() in endings]
        others.update(
            path.suffix.lower() for path in files if path.suffix.lower() in _OTHER_IMAGES - endings
        )
        paths += found
        labels += [label] * len(found)
    _refuse_hollow(root, class_names, labels, endings)
    return FilesSource(
        spec=spec,
        class_names=tuple(printable(name) for name in class_names),
        labels=np.asarray(labels, dtype=np.int64),
        names=[printable(str(path.relative_to(root))) for path in paths],
        open_bytes=_FileOpener(paths),
        passed_over=dict(sorted(others.items())),
    )


def _refuse_hollow(root: Path, class_names: list[str], labels: list[int], endings: Set[str]) -> None:
    """Raise DataError where there is no image at all, or none of some class."""
    if not labels:
        raise DataError(
            f"{root} has {len(class_names)} class folder{'' if len(class_names) == 1 else 's'} and no"
            " image in any.",
            f"Image files end in one of: {', '.join(sorted(endings))}.",
        )
    with_images = set(labels)
    hollow = [name for label, name in enumerate(class_names) if label not in with_images]
    if hollow:
        raise DataError(
            f"Class folder {root / hollow[0]} has no image in it.",
            "Add images of it; to audit some of a model's classes, remove the folder and give"
            " --output-names.",
        )


def _is_class_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _is_seen(path: Path, folder: Path) -> bool:
    # Hidden files and folders are editors' and systems' own: copies, thumbnails, resource forks.
    return not any(part.startswith(".") for part in path.relative_to(folder).parts) and not path.is_dir()


@dataclass(frozen=True)
class _FileOpener:
    paths: Sequence[Path]

    def __call__(self, index: int) -> bytes:
        return self.paths[index].read_bytes()


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
