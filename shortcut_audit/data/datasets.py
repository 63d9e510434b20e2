"""Data sets of the user's own (torch Dataset, DataLoader, any iterable) as image sources."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shortcut_audit.data.arrays import ArrayFile
from shortcut_audit.data.sources import ArraySource, ImageSource, Picture
from shortcut_audit.errors import DataError

__all__ = ["source_from", "spool"]

Moments = tuple[tuple[float, ...], tuple[float, ...]]


def source_from(
    images: Any,
    class_names: Sequence[str] | None = None,
    *,
    spec: str | None = None,
    normalized_with: Moments | None = None,
) -> ImageSource:
    """An image source over a data set, a DataLoader or any iterable of (images, labels).

    - a data set with `len` and indexing yields (image, label); its labels are taken from
      `targets` or `labels` where it has them, else by going through it once;
    - any other iterable yields (image, label) or batches of them, and is read once, in its order,
      to a temporary file.

    Images are PIL images, uint8 or float arrays or tensors; floats lie in [0,1]. Class names come
    from `class_names`, else the set's own `classes`, else are numbers. `normalized_with` (mean, std)
    per channel: the images come normalised like this, and are brought back. Raises DataError.
    """
    name = spec or type(images).__name__
    names = class_names if class_names is not None else getattr(images, "classes", None)
    if names is None:
        names = getattr(getattr(images, "dataset", None), "classes", None)
    known = tuple(str(n) for n in names) if names is not None else None
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return _indexed(images, known, name, normalized_with)
    if isinstance(images, Iterable):
        return spool(images, spec=name, class_names=known, normalized_with=normalized_with)
    raise DataError(
        f"Images of type {type(images).__name__} cannot be iterated.",
        "Give a Dataset, a DataLoader, or an iterable of (image, label).",
    )


@dataclass(frozen=True)
class DatasetSource:
    """A data set with `len` and indexing, whose images all have one shape."""

    uniform: ClassVar[bool] = True
    spec: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    dataset: Any
    normalized_with: Moments | None
    _last: dict[int, Picture] = field(default_factory=dict)

    def name(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    def read(self, index: int) -> Picture:
        return self._last.pop(index) if index in self._last else self._decode(index)

    def _decode(self, index: int) -> Picture:
        return _picture(self.dataset[index][0], self.normalized_with)

    def peek(self, index: int) -> Picture:
        # A data set cannot show a header alone, so what is decoded here waits for `read`.
        self._last.clear()
        self._last[index] = self._decode(index)
        return self._last[index]


def _indexed(
    dataset: Any, known: tuple[str, ...] | None, spec: str, normalized_with: Moments | None
) -> ImageSource:
    stated = getattr(dataset, "targets", None)
    if stated is None:
        stated = getattr(dataset, "labels", None)
    if stated is None or len(stated) != len(dataset):
        stated = [dataset[index][1] for index in range(len(dataset))]
    labels = np.asarray([int(label) for label in stated], dtype=np.int64)
    return DatasetSource(spec, _names(known, labels, spec), labels, dataset, normalized_with)


def _names(known: tuple[str, ...] | None, labels: NDArray[np.int64], spec: str) -> tuple[str, ...]:
    if len(labels) == 0:
        raise DataError(f"{spec} holds no image.", "Give labelled images.")
    if labels.min() < 0:
        raise DataError(f"{spec} has negative labels.", "Labels count from 0.")
    n_classes = int(labels.max()) + 1
    if known is None:
        return tuple(str(label) for label in range(n_classes))
    if len(known) < n_classes:
        raise DataError(
            f"{len(known)} class names are given, and labels go up to {n_classes - 1}.",
            "Name every class, in label order.",
        )
    return known


def _picture(image: Any, normalized_with: Moments | None) -> Picture:
    if isinstance(image, Image.Image):
        return image
    on_cpu = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    array: NDArray[Any] = np.asarray(on_cpu)
    if normalized_with is None or array.dtype == np.uint8:
        return array
    mean, std = (np.asarray(values, dtype=array.dtype) for values in normalized_with)
    if array.ndim != 3 or len(mean) not in {1, array.shape[0]}:
        raise DataError(
            f"A normalised image has shape {array.shape}, the mean {len(mean)} values.",
            "Normalised images are (C, H, W), with one mean and std a channel.",
        )
    # Rounding may leave a pixel a hair outside [0,1]; more than a hair is refused further on.
    pixels: NDArray[Any] = array * std[:, None, None] + mean[:, None, None]
    return pixels


def spool(
    pairs: Iterable[Any],
    *,
    spec: str,
    class_names: tuple[str, ...] | None = None,
    normalized_with: Moments | None = None,
) -> ImageSource:
    """Read an iterable of (image, label), or of batches of them, once, to a temporary file.

    Memory holds one batch at a time. Raises DataError when images differ in shape or type.
    """
    # Closed by the garbage collector with the source; the file has no name to be left behind.
    stream = tempfile.TemporaryFile(prefix="shortcut-audit-")  # noqa: SIM115
    labels: list[int] = []
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None
    for pair in pairs:
        for image, label in _singles(pair, spec, normalized_with):
            if shape is None:
                shape, dtype = image.shape, image.dtype
            if image.shape != shape or image.dtype != dtype:
                raise DataError(
                    f"Image {len(labels)} of {spec} is {image.dtype} {image.shape}, the ones before"
                    f" it {dtype} {shape}.",
                    "Yield images of one shape and type.",
                )
            stream.write(np.ascontiguousarray(image).tobytes())
            labels.append(label)
    stream.flush()
    found = np.asarray(labels, dtype=np.int64)
    names = _names(class_names, found, spec)
    assert shape is not None
    assert dtype is not None
    return ArraySource(spec, names, found, ArrayFile(stream, 0, (len(labels), *shape), dtype))


def _singles(pair: Any, spec: str, normalized_with: Moments | None) -> list[tuple[NDArray[Any], int]]:
    try:
        images, labels = pair[0], pair[1]
    except (TypeError, IndexError, KeyError) as error:
        raise DataError(
            f"{spec} yields {type(pair).__name__}, not (image, label).",
            "Yield pairs of an image and its label, or batches of them.",
        ) from error
    if isinstance(images, Image.Image) or np.ndim(labels) == 0:
        images, labels = [images], [labels]
    return [
        (np.asarray(_picture(image, normalized_with)), int(label))
        for image, label in zip(images, labels, strict=True)
    ]
