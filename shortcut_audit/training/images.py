"""The images of a training: chosen by seed, decoded once, held in memory or on disk as bytes."""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.pixels import make_transform
from shortcut_audit.data.sources import ImageSource, UnreadableImageError
from shortcut_audit.errors import DataError, RunFolderError
from shortcut_audit.results.audit_result import SkippedImage
from shortcut_audit.results.provenance import Preprocessing

__all__ = ["StoredImages", "choose_rows", "labels_by_name", "store_images"]

# Sets up to this size are held in memory; larger ones lie in an unnamed file.
MOST_BYTES_IN_MEMORY = 256 << 20


@dataclass(frozen=True)
class StoredImages:
    """Labelled images of one shape (C, H, W), read by row number in any order.

    `labels` (n,); `digest` over pixels, labels and class names; `place` an array in memory, or an
    open file without a name.
    """

    spec: str
    shape: tuple[int, int, int]
    labels: Tensor
    class_names: tuple[str, ...]
    digest: str
    skipped: tuple[SkippedImage, ...]
    place: _Memory | _File

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Pixels (len(rows), C, H, W): uint8, or float32 in [0,1]."""
        return torch.from_numpy(self.place.rows(rows))

    @property
    def n_by_class(self) -> tuple[int, ...]:
        """Images of each class, in label order."""
        return tuple(np.bincount(self.labels.numpy(), minlength=len(self.class_names)).tolist())


@dataclass(frozen=True)
class _Memory:
    array: NDArray[Any]

    def put(self, row: int, pixels: NDArray[Any]) -> None:
        self.array[row] = pixels

    def rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        taken: NDArray[Any] = self.array[rows]
        return taken


@dataclass(frozen=True)
class _File:
    stream: IO[bytes]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        weakref.finalize(self, self.stream.close)

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def put(self, row: int, pixels: NDArray[Any]) -> None:
        content = memoryview(np.ascontiguousarray(pixels).data).cast("B")
        offset = row * self._row_bytes
        while content:
            written = os.pwrite(self.stream.fileno(), content, offset)
            content, offset = content[written:], offset + written

    def rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        taken = np.empty((len(rows), *self.shape), dtype=self.dtype)
        # Read, not mapped: pages of a memory map would count as memory of this process.
        for place, row in enumerate(rows.tolist()):
            os.preadv(self.stream.fileno(), [taken[place]], row * self._row_bytes)
        return taken


def choose_rows(
    source: ImageSource, *, images_per_class: int | None, val_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the images to train on and to validate on, each ascending; chosen by `seed`.

    `images_per_class` counts both together; `val_share` is taken of each class, and leaves at least
    one image of it to train on. Raises DataError for fewer than two classes with images, and for a
    share that leaves nothing to validate on.
    """
    present = np.unique(source.labels)
    if len(present) < 2:
        only = (
            f"images of one class only ({source.class_names[present[0]]})"
            if len(present)
            else "no images"
        )
        raise DataError(f"{source.spec} has {only}.", "A classifier needs at least two classes.")
    train, val = [], []
    for label in present.tolist():
        # One stream of random numbers per class: images of one class never move another's.
        generator = np.random.default_rng([seed, label])
        chosen = generator.permutation(np.flatnonzero(source.labels == label))[:images_per_class]
        n_val = min(round(val_share * len(chosen)), len(chosen) - 1)
        val.append(chosen[:n_val])
        train.append(chosen[n_val:])
    if val_share > 0 and not any(len(rows) for rows in val):
        raise DataError(
            f"A share of {val_share:g} of {source.spec} leaves no image to validate on.",
            "Give a larger --val-share, or images of their own with --val.",
        )
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def labels_by_name(source: ImageSource, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Labels of `source` as places in `class_names`, matched by name.

    Raises DataError for a class that is not among them.
    """
    places = {name: place for place, name in enumerate(class_names)}
    unknown = [
        source.class_names[label]
        for label in np.unique(source.labels).tolist()
        if source.class_names[label] not in places
    ]
    if unknown:
        raise DataError(
            f"{source.spec} has images of class {unknown[0]!r}, which the training images do not have.",
            f"Name classes alike in both sets; those trained on are: {', '.join(class_names[:20])}.",
        )
    table = np.array([places.get(name, -1) for name in source.class_names], dtype=np.int64)
    return table[source.labels]


def store_images(
    source: ImageSource,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    *,
    skip_unreadable: bool = False,
    folder: Path | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> StoredImages:
    """Decode the images `rows` of `source`, each once, at the size that `preprocessing` states.

    `labels` (len(rows),): places in `class_names`. `folder`: where the unnamed file of a large set
    lies. `on_image(done, total)` reports. Raises DataError naming the image that cannot be used.
    """
    transform = make_transform(preprocessing)
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    content = hashlib.sha256(repr((shape, class_names)).encode())
    place: _Memory | _File | None = None
    dtype: np.dtype[Any] | None = None
    kept: list[int] = []
    skipped: list[SkippedImage] = []
    for done, (row, label) in enumerate(zip(rows.tolist(), labels.tolist(), strict=True), start=1):
        name = source.name(row)
        try:
            pixels = transform(source.read(row), name)
        except UnreadableImageError as error:
            if not skip_unreadable:
                raise
            skipped.append(SkippedImage(image=error.image, reason=error.reason))
            continue
        _require_like(pixels, shape, dtype, name)
        if place is None:
            dtype = pixels.dtype
            place = _new_place(len(rows), shape, dtype, folder)
        try:
            place.put(len(kept), pixels)
        except OSError as error:
            raise _unwritable(folder, error) from error
        content.update(f"{label} {pixels.dtype.str}".encode())
        content.update(np.ascontiguousarray(pixels).tobytes())
        kept.append(label)
        if on_image is not None:
            on_image(done, len(rows))
    if place is None:
        raise DataError(f"{source.spec} has no readable image.", "Check the files.")
    return StoredImages(
        spec=source.spec,
        shape=shape,
        labels=torch.tensor(kept, dtype=torch.int64),
        class_names=class_names,
        digest=content.hexdigest(),
        skipped=tuple(skipped),
        place=place,
    )


def _require_like(
    pixels: NDArray[Any], shape: tuple[int, int, int], dtype: np.dtype[Any] | None, name: str
) -> None:
    if pixels.shape != shape:
        raise DataError(
            f"Image {name} has {pixels.shape[1]} x {pixels.shape[2]} pixels, and others"
            f" {shape[1]} x {shape[2]}.",
            "Bring all images to one size, with --size.",
        )
    if dtype is not None and pixels.dtype != dtype:
        raise DataError(
            f"Image {name} has {pixels.dtype} pixels, the ones before it {dtype}.",
            "Store all images alike.",
        )


def _new_place(
    n_images: int, shape: tuple[int, int, int], dtype: np.dtype[Any], folder: Path | None
) -> _Memory | _File:
    if n_images * int(np.prod(shape)) * dtype.itemsize <= MOST_BYTES_IN_MEMORY:
        return _Memory(np.empty((n_images, *shape), dtype=dtype))
    try:
        # Closed with the place that takes it over; without a name, so that nothing is left behind.
        stream = tempfile.TemporaryFile(prefix=".shortcut-audit-", dir=folder)  # noqa: SIM115
    except OSError as error:
        raise _unwritable(folder, error) from error
    return _File(stream, shape, dtype)


def _unwritable(folder: Path | None, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{folder or tempfile.gettempdir()} does not take the decoded images: {error.strerror or error}.",
        "Make that folder writable or free some space, or choose another --out folder.",
    )
