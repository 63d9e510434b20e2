"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST from the files that are published for them.

The files of CIFAR are pickles, and a pickle can run any code. torchvision guards itself by their MD5,
which is no guard (MD5 can be forged) and shuts out files of one's own. Here no pickle is ever given a
function: what a batch needs is rebuilt by the few stand-ins below, and anything else is refused.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.arrays import ArrayFile
from shortcut_audit.data.sources import ArraySource, ImageSource, named_classes
from shortcut_audit.errors import DataError

__all__ = [
    "FASHION_CLASSES",
    "ROOT_VARIABLE",
    "SETS",
    "default_root",
    "from_torchvision",
    "from_unpacked",
    "read_batch",
    "unpacked_set",
]

ROOT_VARIABLE = "SHORTCUT_AUDIT_ROOT"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Where torchvision unpacks each set below its root; the first that is there is taken.
SETS: dict[str, tuple[str, ...]] = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("cifar-100-python", "cifar-100-binary"),
    "fashion_mnist": ("FashionMNIST/raw", "FashionMNIST"),
    "mnist": ("MNIST/raw", "MNIST"),
}
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_BYTES = 3 * 32 * 32

# Yields images (n, ...) uint8 and labels (n,), file by file.
_Parts = Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]


@dataclass(frozen=True)
class _Layout:
    """One kind of unpacked folder: its files by split, and how they are read.

    `marks`: it is known by one file of each group.
    """

    name: str
    marks: tuple[tuple[str, ...], ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    parts: Callable[[Path, Sequence[str]], _Parts]
    classes: Callable[[Path], list[str] | None]


def default_root() -> Path:
    """Where published files are looked for: the folder that SHORTCUT_AUDIT_ROOT names, else `data`."""
    return Path(os.environ.get(ROOT_VARIABLE) or "data")


def from_torchvision(spec: str, what: str, split: str) -> ImageSource:
    """Open `NAME` or `NAME@ROOT` (after `torchvision:`), `split` being train or test.

    Raises DataError, saying what to download and where to put it, for files that are not there.
    """
    written, _, given = what.partition("@")
    plain = re.sub("[^a-z0-9]", "", written.lower())
    name = next((each for each in SETS if each.replace("_", "") == plain), None)
    if name is None:
        raise DataError(
            f"torchvision:{written} is not among the sets of torchvision that are read here.",
            f"They are: {', '.join(SETS)}; give others as a folder of class folders or an .npz.",
        )
    root = Path(given) if given else default_root()
    for folder in SETS[name]:
        if unpacked_set(root / folder) == name:
            return from_unpacked(spec, root / folder, split)
    from shortcut_audit.data.recipes import Recipe, find_recipe, how_to_get, load_recipe

    recipe = load_recipe(find_recipe(name))
    assert isinstance(recipe, Recipe)
    raise DataError(
        f"{root} has no files of {name} (looked for {' and '.join(SETS[name])}).",
        how_to_get(recipe, root),
    )


def unpacked_set(folder: Path) -> str | None:
    """Name of the set that was unpacked in `folder`; None where it is nothing known."""
    found = _layout(folder)
    return found[0].name if found else None


def _layout(folder: Path) -> tuple[_Layout, Path] | None:
    """What lies in `folder`, and where the files are: there, or in `raw`."""
    for layout in _LAYOUTS:
        if all(any((folder / name).is_file() for name in group) for group in layout.marks):
            return _fashion_or_digits(layout, folder), folder
    return _layout(folder / "raw") if folder.name != "raw" and (folder / "raw").is_dir() else None


def _fashion_or_digits(layout: _Layout, folder: Path) -> _Layout:
    """Sets of MNIST's format are told apart by the folder's name alone."""
    names = {re.sub("[^a-z]", "", part.lower()) for part in folder.absolute().parts[-2:]}
    if layout.name == "mnist" and "fashionmnist" in names:
        return replace(layout, name="fashion_mnist", classes=lambda _: list(FASHION_CLASSES))
    return layout


def from_unpacked(spec: str, folder: Path, split: str) -> ImageSource:
    """Open a folder that `unpacked_set` knows; `split` is train or test."""
    found = _layout(folder)
    assert found is not None, "asked only for what unpacked_set knows"
    layout, place = found
    if split not in {"train", "test"}:
        base = spec.partition("::")[0]
        raise DataError(
            f"{base} has no split {split!r}." if split else f"{base} has two splits.",
            f"Say which: {base}::train or {base}::test.",
        )
    files = layout.train if split == "train" else layout.test
    stream = tempfile.TemporaryFile(prefix="shortcut-audit-")  # noqa: SIM115 (the source closes it)
    try:
        shape, labels = _spooled(layout.parts(place, files), stream)
        names = named_classes(layout.classes(place), labels, str(place))
    except BaseException:
        stream.close()
        raise
    return ArraySource(spec, names, labels, ArrayFile(stream, 0, shape, np.dtype(np.uint8)))


def _spooled(parts: _Parts, stream: IO[bytes]) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Write images to `stream`, one file of them in memory at a time; returns shape and labels."""
    labels: list[NDArray[np.int64]] = []
    shape: tuple[int, ...] = ()
    for images, found in parts:
        try:
            stream.write(images.tobytes())
            stream.flush()
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()} does not take the unpacked images: {error.strerror}.",
                "Free some space there, or name another folder in TMPDIR.",
            ) from error
        labels.append(found)
        shape = images.shape[1:]
    together = np.concatenate(labels)
    return (len(together), *shape), together


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read: {reason}.", "Copy, unpack or download it again.")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or "it cannot be opened") from error


def _checked_labels(path: Path, labels: Any, n_images: int) -> NDArray[np.int64]:
    numbers = np.asarray(labels)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or len(numbers) != n_images:
        raise _damaged(path, f"its {n_images} images do not have a label each")
    return numbers.astype(np.int64)


# --- CIFAR as Python pickles ---------------------------------------------------------------------


class _RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that no batch needs."""


class _Dtype:
    """Stands in for numpy.dtype: a code and an order of bytes."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def real(self) -> np.dtype[Any]:
        code = self.code if isinstance(self.code, str) else ""
        if code not in {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"} or self.order not in "|<>=":
            raise _RefusedError(f"an array of type {code[:20]!r}")
        return np.dtype(f"{self.order}{code}")


class _Array:
    """Stands in for numpy.ndarray; `real` makes the array, of numbers alone."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, content = state
        self.state = (content, dtype, shape, "F" if fortran_order else "C")

    def real(self) -> NDArray[Any]:
        content, dtype, shape, order = self.state
        raw = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(raw, dtype=dtype.real()).reshape(shape, order=order)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.state = (content, dtype, shape, order)
    return array


def _scalar(dtype: _Dtype, content: Any) -> int:
    raw = content.encode("latin1") if isinstance(content, str) else content
    return int(np.frombuffer(raw, dtype=dtype.real())[0])


def _encode(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise _RefusedError(f"text as {str(codec)[:20]!r}")
    return text.encode("latin1")


# Python 2 and 3, numpy 1 and 2 and all protocols name the same few things differently.
_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{
        (f"{package}.{module}", name): stand_in
        for package in ("numpy.core", "numpy._core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def read_batch(path: Path) -> dict[str, Any]:
    """A pickled batch of CIFAR: arrays, lists, numbers and text by name. Nothing of it is run.

    Raises DataError for a damaged file, and for a pickle that asks for anything else.
    """
    try:
        # Batches were written by Python 2, whose strings are bytes.
        found = _Unpickler(io.BytesIO(_content(path)), encoding="latin1").load()
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}, not a batch")
        return {
            key.decode("latin1") if isinstance(key, bytes) else str(key): (
                value.real() if isinstance(value, _Array) else value
            )
            for key, value in found.items()
        }
    except _RefusedError as error:
        raise DataError(
            f"{path} is a pickle that asks for {error}, as no batch of CIFAR does; nothing of it was"
            " run.",
            "Download it from where it is published.",
        ) from error
    except DataError:
        raise
    except Exception as error:  # damaged pickles fail in every way there is
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise _damaged(path, f"it is no batch of CIFAR ({reason})") from error


def _pickled_parts(folder: Path, files: Sequence[str]) -> _Parts:
    for name in files:
        path = folder / name
        batch = read_batch(path)
        data = batch.get("data")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
            raise _damaged(path, "it has no images")
        if data.shape[1] != _CIFAR_BYTES:
            raise _damaged(path, f"its images have {data.shape[1]} values, not {_CIFAR_BYTES}")
        labels = batch["labels"] if "labels" in batch else batch.get("fine_labels")
        yield data.reshape(-1, *_CIFAR_SHAPE), _checked_labels(path, labels, len(data))


def _pickled_classes(file: str, key: str) -> Callable[[Path], list[str]]:
    def classes(folder: Path) -> list[str]:
        names = read_batch(folder / file).get(key)
        if not isinstance(names, list):
            raise _damaged(folder / file, f"it has no {key}")
        return [n.decode("latin1") if isinstance(n, bytes) else str(n) for n in names]

    return classes


# --- CIFAR as plain bytes ------------------------------------------------------------------------


def _binary_parts(n_labels: int) -> Callable[[Path, Sequence[str]], _Parts]:
    """Rows of `n_labels` label bytes (the last one counts) and 3,072 values."""

    def parts(folder: Path, files: Sequence[str]) -> _Parts:
        for name in files:
            raw = np.frombuffer(_content(folder / name), dtype=np.uint8)
            row = n_labels + _CIFAR_BYTES
            if len(raw) == 0 or len(raw) % row:
                raise _damaged(folder / name, f"its {len(raw):,} bytes are no rows of {row:,}")
            rows = raw.reshape(-1, row)
            yield rows[:, n_labels:].reshape(-1, *_CIFAR_SHAPE), rows[:, n_labels - 1].astype(np.int64)

    return parts


def _lines(file: str) -> Callable[[Path], list[str]]:
    def classes(folder: Path) -> list[str]:
        return _content(folder / file).decode("latin1").split()

    return classes


# --- MNIST's format ------------------------------------------------------------------------------


def _idx_parts(folder: Path, files: Sequence[str]) -> _Parts:
    images, labels = (_idx(folder, name) for name in files)
    if images.ndim != 3 or labels.ndim != 1:
        raise _damaged(folder / files[0], "it holds no images")
    yield images, _checked_labels(folder / files[1], labels, len(images))


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """An array of bytes: two zeros, type 8, number of axes, big-endian lengths, values."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), folder / name)
    try:
        with (
            path.open("rb") as file,
            gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file as stream,
        ):
            zeros, kind, n_axes = struct.unpack(">HBB", stream.read(4))
            if zeros or kind != 8 or not 1 <= n_axes <= 3:
                raise ValueError("it does not begin as such files do")
            shape = struct.unpack(f">{n_axes}I", stream.read(4 * n_axes))
            n_bytes = int(np.prod(shape, dtype=np.int64))
            content = _exactly(stream, n_bytes)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error).rstrip(".")) from error
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _exactly(stream: IO[bytes] | gzip.GzipFile, n_bytes: int) -> bytes:
    # Piece by piece: a header may promise more than any memory holds.
    pieces, left = [], n_bytes
    while left and (piece := stream.read(min(left, 1 << 22))):
        pieces.append(piece)
        left -= len(piece)
    if left or stream.read(1):
        raise ValueError(f"it does not hold the {n_bytes:,} values that its header promises")
    return b"".join(pieces)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = (
    _Layout(
        name="cifar10",
        marks=(("data_batch_1", "test_batch"),),
        train=_BATCHES,
        test=("test_batch",),
        parts=_pickled_parts,
        classes=_pickled_classes("batches.meta", "label_names"),
    ),
    _Layout(
        name="cifar100",
        marks=(("meta",), ("train", "test")),
        train=("train",),
        test=("test",),
        parts=_pickled_parts,
        classes=_pickled_classes("meta", "fine_label_names"),
    ),
    _Layout(
        name="cifar10",
        marks=(("batches.meta.txt",), ("data_batch_1.bin", "test_batch.bin")),
        train=tuple(f"{name}.bin" for name in _BATCHES),
        test=("test_batch.bin",),
        parts=_binary_parts(1),
        classes=_lines("batches.meta.txt"),
    ),
    _Layout(
        name="cifar100",
        marks=(("fine_label_names.txt",), ("train.bin", "test.bin")),
        train=("train.bin",),
        test=("test.bin",),
        parts=_binary_parts(2),
        classes=_lines("fine_label_names.txt"),
    ),
    _Layout(
        name="mnist",
        marks=(
            tuple(f"{part}-images-idx3-ubyte{end}" for part in ("train", "t10k") for end in ("", ".gz")),
        ),
        train=("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        test=("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        parts=_idx_parts,
        classes=lambda _: None,
    ),
)
