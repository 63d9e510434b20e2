"""Writes a set of images: class folders of PNG files, arrays in an `.npz`, and the truth beside them.

A set appears under its name whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import DataError, RunFolderError, SettingsError
from shortcut_audit.results.truth import TRUTH_FILE, GroundTruth

__all__ = [
    "ARRAYS_NAME",
    "CARD_FILE",
    "CHECKSUMS_FILE",
    "FORMATS",
    "SetWriter",
    "SplitWriter",
    "check_target",
    "file_digest",
    "png_bytes",
    "set_formats",
]

FORMATS = ("png", "npz")
ARRAYS_NAME = "images.npz"
# Where a set came from, and the SHA-256 of all its files as `sha256sum` writes them.
CARD_FILE = "card.json"
CHECKSUMS_FILE = "checksums.sha256"
# Names that some file system cannot hold, or would take for a path.
_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
# A fixed date: equal content gives equal bytes.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def set_formats(text: str) -> tuple[str, ...]:
    """`png`, `npz` or `png,npz` as the formats to write.

    Raises SettingsError for anything else.
    """
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not formats or any(each not in FORMATS for each in formats):
        raise SettingsError(f"--format {text!r} is not a format.", f"Take {', '.join(FORMATS)} or both.")
    return formats


class SetWriter:
    """Writes splits of labelled images and the truth of them into one new folder.

    `folder` must not exist, or be empty; with `replace`, a set of ours there is replaced once the new
    one is whole. Splits become `SPLIT/CLASS/NAME.png` and `x_SPLIT`, `y_SPLIT` of `images.npz`.
    Used in a `with` block; `finish(truth)` ends it, and without that call nothing is left behind.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as base, SetWriter(Path(base) / "set", ["a", "b"]) as writer:
    ...     with writer.split("test", 2, (4, 4, 3)) as split:
    ...         split.add(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]))
    ...     sorted(p.name for p in writer.finish().rglob("*.png"))
    ['00000.png', '00001.png']
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        formats: Sequence[str] = FORMATS,
        *,
        replace: bool = False,
        compress: bool = False,
    ) -> None:
        check_target(folder, replace=replace)
        if "png" in formats:
            _check_class_names(class_names)
        self.folder = folder
        self.class_names = tuple(class_names)
        self.formats = tuple(formats)
        self.compress = compress
        self.n_by_split: dict[str, dict[str, int]] = {}
        self._extra: dict[str, NDArray[Any]] = {}
        self._aside: Path | None = None
        self._archive: zipfile.ZipFile | None = None
        self._done = False

    def __enter__(self) -> SetWriter:
        with _readable_errors(self.folder):
            self.folder.absolute().parent.mkdir(parents=True, exist_ok=True)
            self._aside = Path(
                tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.absolute().parent)
            )
            if "npz" in self.formats:
                self._archive = zipfile.ZipFile(self._aside / ARRAYS_NAME, "w", zipfile.ZIP_STORED)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._archive is not None:
            # Closing writes the directory of the archive; on a full disk that fails a second time.
            with _quietly():
                self._archive.close()
        if not self._done and self._aside is not None:
            shutil.rmtree(self._aside, ignore_errors=True)

    @property
    def files(self) -> tuple[str, ...]:
        """What the truth describes: names of the splits' folders and of the arrays."""
        folders = tuple(self.n_by_split) if "png" in self.formats else ()
        return folders + ((ARRAYS_NAME,) if "npz" in self.formats else ())

    @contextmanager
    def split(
        self, name: str, n_images: int, shape: tuple[int, int, int], dtype: Any = np.uint8
    ) -> Iterator[SplitWriter]:
        """A split of `n_images` images of `shape` (H, W, C); fill it with `SplitWriter.add`.

        Raises DataError for PNG files of anything but uint8.
        """
        assert self._aside is not None, "a set is written in a with block"
        if "png" in self.formats and np.dtype(dtype) != np.uint8:
            raise DataError(
                f"PNG files hold whole values from 0 to 255, and these images are {np.dtype(dtype)}.",
                "Write arrays alone: --format npz.",
            )
        with _readable_errors(self.folder):
            writer = SplitWriter(name, n_images, shape, np.dtype(dtype), self._aside, self)
            if self._archive is None:
                yield writer
            else:
                with _npz_entry(self._archive, f"x_{name}", (n_images, *shape), writer.dtype) as stream:
                    writer.stream = stream
                    yield writer
                self._put(f"y_{name}", np.asarray(writer.labels, dtype=np.int64))
            if len(writer.labels) != n_images:
                raise ValueError(f"split {name} was given {len(writer.labels)} of {n_images} images")
        counts = Counter(writer.labels)
        self.n_by_split[name] = {c: counts[label] for label, c in enumerate(self.class_names)}

    def add_array(self, name: str, array: NDArray[Any]) -> None:
        """One more array for the `.npz`, beside images and labels."""
        self._extra[name] = array

    def add_file(self, name: str, content: str) -> None:
        """One more text file beside the splits."""
        assert self._aside is not None
        with _readable_errors(self.folder):
            (self._aside / name).write_text(content, encoding="utf-8")

    def add_encoded(self, split: str, class_name: str, file_name: str, content: bytes) -> None:
        """One encoded image as it is, for sets that are copied and not made; needs no `split`."""
        assert self._aside is not None
        _check_file_name(file_name)
        with _readable_errors(self.folder):
            path = self._aside / split / class_name / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(content)
        counts = self.n_by_split.setdefault(split, dict.fromkeys(self.class_names, 0))
        counts[class_name] += 1

    def finish(self, truth: GroundTruth | None = None, *, checksums: bool = False) -> Path:
        """Write the truth, and let the set appear in its place; returns the folder.

        `checksums`: write the SHA-256 of every file beside them.
        """
        assert self._aside is not None
        with _readable_errors(self.folder):
            if self._archive is not None:
                self._put("classes", np.array(self.class_names))
                for name, array in self._extra.items():
                    self._put(name, array)
                self._archive.close()
                self._archive = None
            if truth is not None:
                complete = truth.model_copy(update={"files": self.files, "n_by_split": self.n_by_split})
                (self._aside / TRUTH_FILE).write_text(complete.as_text(), encoding="utf-8")
            if checksums:
                (self._aside / CHECKSUMS_FILE).write_text(_checksums(self._aside), encoding="utf-8")
            mask = os.umask(0)
            os.umask(mask)
            self._aside.chmod(0o777 & ~mask)
            self._swap()
        self._done = True
        return self.folder

    def _swap(self) -> None:
        assert self._aside is not None
        if self.folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self._aside.parent))
            self.folder.rename(old / "old")
            try:
                self._aside.rename(self.folder)
            except OSError:
                (old / "old").rename(self.folder)
                old.rmdir()
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            self._aside.rename(self.folder)

    def _put(self, name: str, array: NDArray[Any]) -> None:
        assert self._archive is not None
        with _npz_entry(self._archive, name, array.shape, array.dtype) as stream:
            stream.write(np.ascontiguousarray(array).tobytes())


@dataclass
class SplitWriter:
    """One split being written; `add` takes its images in order, in blocks of any size."""

    name: str
    n_images: int
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    root: Path
    owner: SetWriter
    labels: list[int] = field(default_factory=list)
    stream: IO[bytes] | None = None
    _taken: set[tuple[int, str]] = field(default_factory=set)

    def add(
        self, images: NDArray[Any], labels: NDArray[np.integer], names: Sequence[str] | None = None
    ) -> None:
        """Append `images` (b, H, W, C), uint8 for PNG, with `labels` (b,).

        `names`: stems of the files; the running number by default. Raises DataError for two of a
        class that are alike, or differ in case alone, and for one that is no plain file name.
        """
        if images.shape[1:] != self.shape or images.dtype != self.dtype:
            raise ValueError(f"images {images.dtype} {images.shape[1:]} in {self.dtype} {self.shape}")
        if self.stream is not None:
            self.stream.write(np.ascontiguousarray(images).tobytes())
        if "png" in self.owner.formats:
            self._add_files(images, labels, names)
        self.labels += [int(label) for label in labels]

    def _add_files(
        self, images: NDArray[Any], labels: NDArray[np.integer], names: Sequence[str] | None
    ) -> None:
        start = len(self.labels)
        for offset, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = self.root / self.name / self.owner.class_names[int(label)]
            # A class without an image gets no folder: an empty one is an error when it is read.
            folder.mkdir(parents=True, exist_ok=True)
            stem = names[offset] if names is not None else f"{start + offset:05d}"
            self._claim(int(label), stem)
            path = folder / f"{stem}.png"
            path.write_bytes(png_bytes(image, compress=self.owner.compress))

    def _claim(self, label: int, stem: str) -> None:
        _check_file_name(f"{stem}.png")
        if (label, stem.casefold()) in self._taken:
            raise DataError(
                f"Two images of class {self.owner.class_names[label]!r} would be written as"
                f" {self.name}/{self.owner.class_names[label]}/{stem}.png.",
                "Rename one of them; names that differ in case alone count as alike.",
            )
        self._taken.add((label, stem.casefold()))


def png_bytes(image: NDArray[np.uint8], *, compress: bool = False) -> bytes:
    """`image` (H, W, C), C 1 or 3, uint8, as a PNG file.

    Not compressed, unless asked: what a compressor makes differs between versions of zlib, and
    stored blocks do not, so that equal pixels give equal bytes on every machine (RFC 1950, 2083).
    """
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)
    rows[:, 1:] = image.reshape(height, -1)
    raw = rows.tobytes()
    packed = zlib.compress(raw, 6) if compress else _stored(raw)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _stored(raw: bytes) -> bytes:
    """`raw` as a zlib stream of stored blocks."""
    blocks = [raw[start : start + 65535] for start in range(0, len(raw), 65535)]
    parts = [b"\x78\x01"]
    for number, block in enumerate(blocks, start=1):
        parts += [struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF), block]
    return b"".join(parts) + struct.pack(">I", zlib.adler32(raw))


@contextmanager
def _npz_entry(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[IO[bytes]]:
    """A stream for the rows of one array of an `.npz`, little-endian and dated alike everywhere."""
    entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE)
    entry.create_system = 3
    with archive.open(entry, "w", force_zip64=True) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        yield stream


def check_target(folder: Path, *, replace: bool) -> None:
    """Raise RunFolderError for a folder that a new set may not take the place of."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file, not a folder.", "Choose another --out folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    ours = (folder / TRUTH_FILE).is_file() or (folder / CARD_FILE).is_file()
    if not ours:
        raise RunFolderError(
            f"{folder} is not empty and holds no set of shortcut-audit.",
            "Choose another --out folder; nothing in this one was touched.",
        )
    if not replace:
        raise RunFolderError(
            f"{folder} already holds a set of images.", "Choose another --out folder, or add --replace."
        )


def _check_class_names(names: Sequence[str]) -> None:
    """Raise DataError for names that cannot be folders side by side."""
    folded: dict[str, str] = {}
    for name in names:
        if (
            not name.strip()
            or name in {".", ".."}
            or name.startswith((".", "__"))
            or _UNSAFE.search(name)
        ):
            raise DataError(
                f"Class {name!r} cannot be the name of a folder.",
                "Rename it, or write arrays alone: --format npz.",
            )
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"Classes {other!r} and {name!r} differ in case alone, and would share a folder on many"
                " file systems.",
                "Merge or rename them, or write arrays alone: --format npz.",
            )


def _check_file_name(name: str) -> None:
    """Raise DataError for a name that would leave its folder, or that some file system cannot hold."""
    if name.startswith(".") or _UNSAFE.search(name):
        raise DataError(f"An image cannot be written as {name!r}.", "Give it a plain file name.")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksums(folder: Path) -> str:
    """The SHA-256 of every file below `folder`, as `sha256sum` writes and checks them."""
    files = sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    return "".join(f"{file_digest(path)}  {name}\n" for name, path in files)


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written: {error.strerror or error}.",
            "Free some space, mend its rights or choose another --out folder; nothing is left behind.",
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        return
