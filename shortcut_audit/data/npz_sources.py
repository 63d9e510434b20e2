"""Images in `.npz` files: arrays of pixels, or packed image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.arrays import ArrayFile, NpzArrays
from shortcut_audit.data.sources import ArraySource, FilesSource, ImageSource, named_classes
from shortcut_audit.errors import DataError

__all__ = ["from_npz"]


def from_npz(spec: str, path: Path, split: str) -> ImageSource:
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
    names = _class_names(path, arrays, labels)
    return ArraySource(
        spec,
        names,
        labels,
        rows,
        unclipped="unclipped" in arrays,
        identities=_identities(arrays, (f"i{suffix}", f"index{suffix}"), len(rows)),
    )


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
    numbers = _identities(arrays, ("i", "index"), len(labels))
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
        identities=None if numbers is None else numbers[chosen],
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


def _identities(arrays: NpzArrays, names: tuple[str, ...], n_images: int) -> NDArray[np.int64] | None:
    """Numbers that name the images, of the first array of those `names` that has one an image."""
    for name in names:
        if name in arrays:
            numbers = arrays[name].whole()
            if numbers.shape == (n_images,) and numbers.dtype.kind in "iu":
                return numbers.astype(np.int64)
    return None


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
