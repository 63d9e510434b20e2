"""Data sets of the user's own (torch Dataset, DataLoader, any iterable) as image sources."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Subset

from shortcut_audit.data.arrays import ArrayFile
from shortcut_audit.data.pixels import grey_or_rgb
from shortcut_audit.data.sources import (
    ArraySource,
    ImageSource,
    Picture,
    UnreadableImageError,
    named_classes,
)
from shortcut_audit.errors import AuditError, DataError, printable

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
      `targets` or `labels` where it (or the set that it is a Subset of) has them, else by going
      through it once;
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
    known = tuple(printable(str(n)) for n in names) if names is not None else None
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
        return _picture(_item(self.dataset, index, self.spec)[0], self.normalized_with)

    def peek(self, index: int) -> Picture:
        # A data set cannot show a header alone, so what is decoded here waits for `read`.
        self._last.clear()
        self._last[index] = self._decode(index)
        return self._last[index]


def _indexed(
    dataset: Any, known: tuple[str, ...] | None, spec: str, normalized_with: Moments | None
) -> ImageSource:
    stated = _stated_labels(dataset)
    if stated is None:
        stated = [_item(dataset, index, spec)[1] for index in range(len(dataset))]
    labels = np.asarray([_label(label, spec) for label in stated], dtype=np.int64)
    return DatasetSource(spec, named_classes(known, labels, spec), labels, dataset, normalized_with)


def _stated_labels(dataset: Any) -> Any:
    """Labels that a data set knows without decoding an image; None where it does not say."""
    if isinstance(dataset, Subset):
        whole = _stated_labels(dataset.dataset)
        return None if whole is None else [whole[index] for index in dataset.indices]
    stated = getattr(dataset, "targets", None)
    if stated is None:
        stated = getattr(dataset, "labels", None)
    if stated is None or len(stated) != len(dataset):
        return None
    # torchvision's data sets change labels on the way out, and keep `targets` as they were.
    change = getattr(dataset, "target_transform", None)
    return stated if change is None else [change(label) for label in stated]


def _item(dataset: Any, index: int, spec: str) -> tuple[Any, Any]:
    """Image and label number `index`."""
    try:
        item = dataset[index]
    except Exception as error:  # anything may go wrong in a user's own code
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise UnreadableImageError(f"{spec}[{index}]", reason) from error
    return _pair(item, spec)


def _pair(item: Any, spec: str) -> tuple[Any, Any]:
    try:
        return item[0], item[1]
    except (TypeError, IndexError, KeyError) as error:
        raise DataError(
            f"{spec} yields {type(item).__name__}, not (image, label).",
            "Yield pairs of an image and its label, or batches of them.",
        ) from error


def _label(label: Any, spec: str) -> int:
    try:
        number = int(label)
        if number == label:
            return number
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise DataError(
        f"{spec} yields a label that is no whole number: {' '.join(repr(label).split())[:80]}.",
        "Yield (image, label) with class numbers; of arrays x and y, give zip(x, y).",
    )


def _picture(image: Any, normalized_with: Moments | None) -> Picture:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        # numpy has no bfloat16.
        image = image.detach().cpu()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    array: NDArray[Any] = np.asarray(image)
    if normalized_with is None or array.dtype.kind != "f":
        return array
    mean, std = (np.asarray(values, dtype=array.dtype) for values in normalized_with)
    if array.ndim != 3 or len(mean) not in {1, array.shape[0]} or len(std) not in {1, array.shape[0]}:
        raise DataError(
            f"A normalised image has shape {array.shape}, the mean {len(mean)} and the std"
            f" {len(std)} values.",
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

    Memory holds one batch at a time. Raises DataError when images differ in shape or type, and when
    the iterable itself fails.
    """
    # The file has no name to be left behind; the source's ArrayFile closes it.
    stream = tempfile.TemporaryFile(prefix="shortcut-audit-")  # noqa: SIM115
    labels: list[int] = []
    try:
        shape, dtype = _write_all(pairs, stream, labels, spec, normalized_with)
        found = np.asarray(labels, dtype=np.int64)
        names = named_classes(class_names, found, spec)
        return ArraySource(spec, names, found, ArrayFile(stream, 0, (len(labels), *shape), dtype))
    except AuditError:
        stream.close()
        raise
    except Exception as error:  # anything may go wrong in a user's own code
        stream.close()
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise DataError(
            f"{spec} cannot be read beyond image {len(labels)}: {reason}.", "Mend what it yields."
        ) from error


def _write_all(
    pairs: Iterable[Any],
    stream: IO[bytes],
    labels: list[int],
    spec: str,
    normalized_with: Moments | None,
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Append images to `stream` and labels to `labels`; returns the images' shape and type."""
    shape: tuple[int, ...] = ()
    dtype = np.dtype(np.uint8)
    for pair in pairs:
        for image, label in _singles(pair, spec, normalized_with):
            if not labels:
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
    return shape, dtype


def _singles(pair: Any, spec: str, normalized_with: Moments | None) -> list[tuple[NDArray[Any], int]]:
    images, labels = _pair(pair, spec)
    if isinstance(images, Image.Image) or np.ndim(labels) == 0:
        images, labels = [images], [labels]
    if len(images) != len(labels):
        raise DataError(
            f"{spec} yields a batch of {len(images)} images and {len(labels)} labels.",
            "Yield as many labels as images.",
        )
    return [
        (_array(_picture(image, normalized_with), spec), _label(label, spec))
        for image, label in zip(images, labels, strict=True)
    ]


def _array(picture: Picture, spec: str) -> NDArray[Any]:
    # The pixels of palette and other modes would be no grey or RGB values.
    return np.asarray(grey_or_rgb(picture, spec) if isinstance(picture, Image.Image) else picture)
