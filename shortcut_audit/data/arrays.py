"""Arrays in `.npz` files, read row by row so that memory does not grow with the file."""

from __future__ import annotations

import math
import os
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import DataError

__all__ = ["ArrayFile", "NpzArrays"]

# What zipfile, zlib and numpy raise for content that is cut, overwritten, encrypted or exotic.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
)


@dataclass(frozen=True)
class ArrayFile:
    """One array in a file, C order: `shape` and `dtype` at `offset` of an open `stream`."""

    stream: IO[bytes]
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        weakref.finalize(self, self.stream.close)

    def __len__(self) -> int:
        return self.shape[0]

    def span(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start..stop-1."""
        row_shape = self.shape[1:]
        row_bytes = int(np.prod(row_shape, dtype=np.int64)) * self.dtype.itemsize
        # Read, not mapped: pages of a memory map would count as memory of this process.
        self.stream.seek(self.offset + start * row_bytes)
        content = self.stream.read((stop - start) * row_bytes)
        return np.frombuffer(content, dtype=self.dtype).reshape(stop - start, *row_shape)

    def row(self, index: int) -> NDArray[Any]:
        """One row."""
        row: NDArray[Any] = self.span(index, index + 1)[0]
        return row

    def whole(self) -> NDArray[Any]:
        """All of it; for labels and names, not for images."""
        return self.span(0, len(self))


@dataclass(frozen=True)
class NpzArrays(Mapping[str, ArrayFile]):
    """The arrays of an `.npz` file by name; each is unpacked to a temporary file when asked for.

    Raises DataError for damaged files and for arrays of Python objects (which are pickles).
    """

    path: Path
    _names: list[str] = field(default_factory=list)
    _unpacked: dict[str, ArrayFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self._archive() as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
        self._names.extend(name.removesuffix(".npy") for name in names)

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except _DAMAGES as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        reason = f"{error}".splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        return DataError(f"{self.path} is damaged: {reason}.", "Copy or pack it again.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> ArrayFile:
        if name not in self:
            raise KeyError(name)
        if name not in self._unpacked:
            try:
                with self._archive() as archive:
                    self._unpacked[name] = self._unpack(archive, archive.getinfo(f"{name}.npy"))
            except _DAMAGES as error:
                raise self._damaged(error) from error
        return self._unpacked[name]

    def _unpack(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayFile:
        # Held open for as long as the array lives; unlinked already, so nothing is left behind.
        stream = tempfile.TemporaryFile(prefix="shortcut-audit-")  # noqa: SIM115
        try:
            with archive.open(info) as packed:
                _copy(packed, stream)
            return self._array_in(stream, info.filename.removesuffix(".npy"))
        except BaseException:
            stream.close()
            raise

    def _array_in(self, stream: IO[bytes], name: str) -> ArrayFile:
        stream.seek(0)
        version = np.lib.format.read_magic(stream)
        header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = header(stream)
        if dtype.hasobject:
            raise DataError(
                f"Array {name} in {self.path} holds Python objects: a pickle, which could run code.",
                "Save plain numbers or text: np.array(names, dtype=str), np.stack(images).",
            )
        if fortran_order and len(shape) > 1:
            raise DataError(
                f"Array {name} in {self.path} is in Fortran order, and is read row by row.",
                "Save np.ascontiguousarray(array) instead.",
            )
        array = ArrayFile(stream, stream.tell(), shape or (1,), dtype)
        n_bytes = math.prod(array.shape) * dtype.itemsize
        if min(array.shape) < 0:
            raise ValueError(f"array {name} has shape {array.shape}")
        if stream.seek(0, os.SEEK_END) - array.offset < n_bytes:
            raise EOFError(f"array {name} ends before its last row")
        return array


def _copy(packed: IO[bytes], stream: IO[bytes]) -> None:
    """Copy all of `packed`; a full disk is no fault of the file."""
    while content := packed.read(1 << 20):
        try:
            stream.write(content)
            stream.flush()
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()} does not take the unpacked images: {error.strerror}.",
                "Free some space there, or name another folder in TMPDIR.",
            ) from error
