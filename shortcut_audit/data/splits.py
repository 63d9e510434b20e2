"""The splits of a set, and its images at one size, for commands that make a new set of an old one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.arrays import NpzArrays
from shortcut_audit.data.pixels import common_shape, make_transform
from shortcut_audit.data.sources import ImageSource, open_source
from shortcut_audit.data.survey import survey
from shortcut_audit.errors import DataError
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.truth import TRUTH_FILE, load_truth

__all__ = ["OpenedSplit", "notes_on_splits", "open_splits"]

_SPLITS = ("train", "val", "validation", "test")
_ONE_SPLIT = "all"


@dataclass(frozen=True)
class OpenedSplit:
    """One split of a set, its images brought to one shape (C, H, W)."""

    name: str
    source: ImageSource
    preprocessing: Preprocessing

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C), as sets are written."""
        return self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels

    def __len__(self) -> int:
        return len(self.source.labels)

    def blocks(self, most: int = 256) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Rows, and their pixels (b, H, W, C) uint8; at most `most` images, and 64 MiB, at a time."""
        transform = make_transform(self.preprocessing)
        step = max(1, min(most, (64 << 20) // int(np.prod(self.shape))))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            images = [
                _eight_bits(transform(self.source.read(index), self.source.name(index)))
                for index in range(rows.start, rows.stop)
            ]
            yield rows, self._stacked(images, start)

    def _stacked(self, images: list[NDArray[np.uint8]], start: int) -> NDArray[np.uint8]:
        height, width, channels = self.shape
        for offset, image in enumerate(images):
            if image.shape != (channels, height, width):
                raise DataError(
                    f"Image {self.source.name(start + offset)} has {image.shape[1]} x {image.shape[2]}"
                    f" pixels, and others {height} x {width}.",
                    "Bring all images to one size with --size.",
                )
        return np.stack(images).transpose(0, 2, 3, 1)


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    rounded: NDArray[np.uint8] = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return rounded


def open_splits(spec: str, size: tuple[int, int] | None = None) -> list[OpenedSplit]:
    """The splits of the set that `spec` names; one, called `all`, where it has none.

    `size` (H, W): images of another size go through timm's evaluation transform; without it all
    images must have one size. Raises DataError.
    """
    sources = {name: open_source(each) for name, each in _split_specs(spec).items()}
    shapes = [common_shape(source, range(len(source.labels))) for source in sources.values()]
    names = {source.class_names for source in sources.values()}
    if len(names) > 1:
        raise DataError(f"The splits of {spec} do not have the same classes.", "Name one split.")
    sizes = {shape[1:] if shape else None for shape in shapes}
    if size is None and (None in sizes or len(sizes) > 1):
        raise DataError(
            f"The images of {spec} differ in size, and a frequency is a frequency of one size.",
            "Bring them to one with --size N (resized and cropped as timm does for evaluation).",
        )
    found = max(shape for shape in shapes if shape) if None not in shapes else None
    height, width = size if size is not None else found[1:]  # type: ignore[index]
    preprocessing = Preprocessing(
        channels=found[0] if found else 3,
        height=height,
        width=width,
        geometry="as they are" if size is None or sizes == {size} else "resize and crop",
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="center",
        mean=(0.0,),
        std=(1.0,),
        source="the images" if size is None else "the user",
    )
    return [OpenedSplit(name, source, preprocessing) for name, source in sources.items()]


def notes_on_splits(spec: str) -> tuple[str, ...]:
    """What is worth knowing about the encoded images of all splits, from their headers (`survey`)."""
    notes: dict[str, None] = {}
    for each in _split_specs(spec).values():
        source = open_source(each)
        notes.update(dict.fromkeys(survey(source, range(len(source.labels)))))
    return tuple(notes)


def _split_specs(spec: str) -> dict[str, str]:
    """Split names and the spec of each."""
    where, _, split = spec.partition("::")
    if split:
        return {split: spec}
    path = Path(where)
    if path.is_dir() and (path / TRUTH_FILE).is_file():
        return {name: f"{where}::{name}" for name in load_truth(path / TRUTH_FILE).n_by_split}
    if path.is_dir():
        folders = [e.name for e in path.iterdir() if e.is_dir() and not e.name.startswith(".")]
        if folders and set(folders) <= set(_SPLITS):
            return {name: f"{where}::{name}" for name in _SPLITS if name in folders}
    if path.is_file() and path.suffix == ".npz":
        arrays = NpzArrays(path)
        found = [name[2:] for name in arrays if name.startswith("x_") and f"y_{name[2:]}" in arrays]
        if "x" not in arrays and found:
            return {name: f"{where}::{name}" for name in found}
        if "blob" in arrays and "split" in arrays:
            present = set(np.unique(arrays["split"].whole()).tolist())
            both = {0: "train", 1: "test"}
            if present <= set(both):
                return {name: f"{where}::{name}" for key, name in both.items() if key in present}
    return {_ONE_SPLIT: spec}
