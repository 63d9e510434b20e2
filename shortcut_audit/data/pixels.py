"""The images of one audit: chosen by seed, decoded once, kept on disk, split for search and judgement."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shortcut_audit.data.sources import (
    ImageSource,
    Picture,
    UnclippedPixels,
    UnreadableImageError,
)
from shortcut_audit.errors import DataError, RunFolderError
from shortcut_audit.results.audit_result import SkippedImage
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import AuditSettings
from shortcut_audit.results.transfer_findings import ShiftedSet

__all__ = [
    "AuditImages",
    "JoinedStore",
    "PixelStore",
    "ShiftedImages",
    "StoreWriter",
    "choose_images",
    "collect_images",
    "common_shape",
    "grey_or_rgb",
    "make_transform",
]

# transform(picture, name of the image for messages)
Transform = Callable[[Picture, str], NDArray[Any]]
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class PixelStore:
    """Decoded images of one shape, on disk; memory holds only the block that is asked for.

    `shape` (C, H, W); `dtype` uint8 or float32; `digests` one per image, over its pixels.
    """

    stream: IO[bytes]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    digests: list[str]

    def __post_init__(self) -> None:
        weakref.finalize(self, self.stream.close)

    def __len__(self) -> int:
        return len(self.digests)

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Pixels (stop-start, C, H, W) in [0,1], float32."""
        image_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.stream.seek(start * image_bytes)
        content = self.stream.read((stop - start) * image_bytes)
        raw = np.frombuffer(content, dtype=self.dtype).reshape(stop - start, *self.shape)
        if self.dtype == np.uint8:
            return raw.astype(np.float32) / np.float32(255)
        return raw.astype(np.float32)


@dataclass(frozen=True)
class JoinedStore:
    """Stores of the same shape one behind the other; rows count through."""

    stores: tuple[PixelStore, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of every image, (C, H, W)."""
        return self.stores[0].shape

    @cached_property
    def digests(self) -> list[str]:
        """One an image, over its pixels."""
        return [digest for store in self.stores for digest in store.digests]

    def __len__(self) -> int:
        return len(self.digests)

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Pixels (stop-start, C, H, W) in [0,1], float32."""
        parts, origin = [], 0
        for store in self.stores:
            first, last = max(start - origin, 0), min(stop - origin, len(store))
            if first < last:
                parts.append(store.block(first, last))
            origin += len(store)
        return np.concatenate(parts)


@dataclass(frozen=True)
class ShiftedImages:
    """Images of another set under the labels of the audit; nothing is searched on them.

    `rows`: (start, stop) rows of each class of the audit, empty where the set has none of it.
    `counterparts`: of a set that holds other copies of the audit's judgement images, the row of the
    audit's image for each row, in order; None where they are other images. `record`: what is to be
    told of the set.
    """

    name: str
    spec: str
    rows: tuple[tuple[int, int], ...]
    counterparts: NDArray[np.int64] | None = None
    record: ShiftedSet | None = None


@dataclass(frozen=True)
class AuditImages:
    """The images an audit uses. Row numbers run class by class, search images before judgement ones;
    those of `shifted` sets follow.

    `class_names` of the classes that have images; `outputs` the model output of each;
    `search_rows`, `judge_rows`: (start, stop) rows of each class. `indices`: number of each image in
    its source.
    """

    spec: str
    store: PixelStore | JoinedStore
    class_names: tuple[str, ...]
    outputs: tuple[int, ...]
    search_rows: tuple[tuple[int, int], ...]
    judge_rows: tuple[tuple[int, int], ...]
    names: Sequence[str]
    n_available: int
    skipped: tuple[SkippedImage, ...]
    indices: Sequence[int] = ()
    shifted: tuple[ShiftedImages, ...] = ()

    @property
    def n_used(self) -> int:
        """Images of the audit's own set, search and judgement together."""
        return sum(stop - start for start, stop in (*self.search_rows, *self.judge_rows))

    @property
    def digest(self) -> str:
        """Digest of content, labels and splits of all images used."""
        parts = [f"{self.store.shape}"]
        for index, name in enumerate(self.class_names):
            for rows in (self.search_rows[index], self.judge_rows[index]):
                parts += [f"{name!r} {self.outputs[index]}", *self.store.digests[slice(*rows)]]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def n_leaked(self) -> int:
        """Judgement images that are exact copies of some search image."""
        seen = {digest for rows in self.search_rows for digest in self.store.digests[slice(*rows)]}
        return sum(
            digest in seen for rows in self.judge_rows for digest in self.store.digests[slice(*rows)]
        )


def common_shape(source: ImageSource, chosen: Sequence[int]) -> tuple[int, int, int] | None:
    """The shape (C, H, W) that all `chosen` images have, or None where they differ.

    Of encoded images only the headers are looked at. Unreadable ones are passed over here; they
    are named when they are decoded.
    """
    shapes: set[tuple[int, int, int]] = set()
    for index in chosen[:1] if source.uniform else chosen:
        try:
            shapes.add(_header_shape(source, index))
        except UnreadableImageError:
            continue
        if len({shape[1:] for shape in shapes}) > 1:
            return None
    if not shapes:
        return None
    # Grey and colour files may be mixed; the size is what has to agree.
    return max(shapes)


def _header_shape(source: ImageSource, index: int) -> tuple[int, int, int]:
    picture = source.peek(index)
    if isinstance(picture, Image.Image):
        return (1 if picture.mode in {"L", "1"} else 3), picture.height, picture.width
    channels, height, width = _channels_first(picture, source.name(index)).shape
    return channels, height, width


def choose_images(
    source: ImageSource, settings: AuditSettings
) -> tuple[list[int], list[NDArray[np.int64]]]:
    """Classes that have images, and the shuffled image indices of each.

    Raises DataError for fewer than two classes and for a class with too few images to split.
    """
    present = [int(label) for label in np.unique(source.labels)]
    if len(present) < 2:
        only = f"images of one class only ({source.class_names[present[0]]})" if present else "no images"
        raise DataError(
            f"{source.spec} has {only}.",
            "An audit compares classes: give at least two.",
        )
    if settings.classes is not None:
        names = {source.class_names[label] for label in present}
        unknown = [name for name in settings.classes if name not in names]
        if unknown:
            raise DataError(
                f"{source.spec} has no images of class {unknown[0]!r}.",
                f"Its classes are: {', '.join(sorted(names)[:20])}.",
            )
    order: list[NDArray[np.int64]] = []
    for label in present:
        indices = np.flatnonzero(source.labels == label)
        if len(indices) < 4:
            raise DataError(
                f"Class {source.class_names[label]!r} has {_count(len(indices), 'image')};"
                " a split needs at least 4 (2 to search on, 2 to judge on).",
                "Add images of it, or leave the class out.",
            )
        # One stream of random numbers per class: images of one class never move another's.
        generator = np.random.default_rng([settings.seed, label])
        order.append(generator.permutation(indices))
    return present, order


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def collect_images(
    source: ImageSource,
    settings: AuditSettings,
    preprocessing: Preprocessing,
    outputs: Sequence[int],
    *,
    folder: Path | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> AuditImages:
    """Choose, decode and split the images of an audit; each image is decoded once.

    `outputs`: model output of every label of `source`. `folder`: where the unnamed temporary file
    with the decoded pixels lies (it vanishes with the process). `on_image(done, total)` reports.

    Raises DataError, naming the image or class, for what cannot be used.
    """
    present, order = choose_images(source, settings)
    total = sum(min(len(indices), settings.images_per_class) for indices in order)
    search_rows, judge_rows = [], []
    with StoreWriter(source, settings, preprocessing, folder) as writer:
        for label, indices in zip(present, order, strict=True):
            start = len(writer.names)
            for _ in writer.add_class(indices, settings.images_per_class):
                if on_image is not None:
                    on_image(len(writer.names), total)
            n_found = len(writer.names) - start
            if n_found < 4:
                raise DataError(
                    f"Class {source.class_names[label]!r} has {_count(n_found, 'readable image')};"
                    " a split needs at least 4.",
                    "Mend the unreadable images, or leave the class out.",
                )
            n_search = min(max(round(n_found * settings.search_share), 2), n_found - 2)
            search_rows.append((start, start + n_search))
            judge_rows.append((start + n_search, start + n_found))
        return AuditImages(
            spec=source.spec,
            store=writer.finish(),
            class_names=tuple(source.class_names[label] for label in present),
            outputs=tuple(int(outputs[label]) for label in present),
            search_rows=tuple(search_rows),
            judge_rows=tuple(judge_rows),
            names=writer.names,
            n_available=len(source.labels),
            skipped=tuple(writer.skipped),
            indices=writer.indices,
        )


class StoreWriter:
    """Appends decoded images to an unnamed file; closes it when something goes wrong."""

    def __init__(
        self,
        source: ImageSource,
        settings: AuditSettings,
        preprocessing: Preprocessing,
        folder: Path | None,
    ) -> None:
        self.source = source
        self.skip_unreadable = settings.skip_unreadable
        self.transform = make_transform(preprocessing)
        self.shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
        self.dtype: np.dtype[Any] | None = None
        self.digests: list[str] = []
        self.names: list[str] = []
        self.indices: list[int] = []
        self.skipped: list[SkippedImage] = []
        # Closed here on failure, else with the store that takes it over.
        self.folder = folder
        try:
            self.stream = tempfile.TemporaryFile(prefix=".shortcut-audit-", dir=folder)  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # On a full disk, closing tries to write once more, and fails once more.
            with contextlib.suppress(OSError):
                self.stream.close()

    def add_class(self, indices: NDArray[np.int64], n_wanted: int) -> Iterator[None]:
        """Add `n_wanted` images of one class in the order given; yields after each."""
        for index in indices.tolist():
            if n_wanted == 0:
                return
            name = self.source.name(index)
            try:
                self._append(self.transform(self.source.read(index), name), name)
            except UnreadableImageError as error:
                if not self.skip_unreadable:
                    raise
                self.skipped.append(SkippedImage(image=error.image, reason=error.reason))
                continue
            self.indices.append(index)
            n_wanted -= 1
            yield

    def _append(self, pixels: NDArray[Any], name: str) -> None:
        if pixels.shape != self.shape:
            raise DataError(
                f"Image {name} has {pixels.shape[1]} x {pixels.shape[2]} pixels, and others"
                f" {self.shape[1]} x {self.shape[2]}.",
                "Bring all images to one size first; a data set of your own can do so itself.",
            )
        if self.dtype is None:
            self.dtype = pixels.dtype
        elif self.dtype != pixels.dtype:
            raise DataError(
                f"Image {name} has {pixels.dtype} pixels, the ones before it {self.dtype}.",
                "Store all images alike.",
            )
        content = np.ascontiguousarray(pixels).tobytes()
        self.digests.append(hashlib.sha256(content).hexdigest()[:32])
        self.names.append(name)
        try:
            self.stream.write(content)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunFolderError:
        return RunFolderError(
            f"{self.folder or tempfile.gettempdir()} does not take the decoded images:"
            f" {error.strerror or error}.",
            "Make that folder writable or free some space, or choose another --out folder.",
        )

    def finish(self) -> PixelStore:
        """The store, which owns the file from now on."""
        try:
            self.stream.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        assert self.dtype is not None
        return PixelStore(self.stream, self.shape, self.dtype, self.digests)


def make_transform(preprocessing: Preprocessing) -> Transform:
    """From what a source reads to pixels (C, H, W), uint8 or float32 in [0,1].

    Resizing and cropping is timm's evaluation transform, on files as on arrays.
    """
    geometry = None
    if preprocessing.geometry != "as they are":
        from timm.data import create_transform

        geometry = create_transform(
            input_size=(preprocessing.channels, preprocessing.height, preprocessing.width),
            is_training=False,
            use_prefetcher=True,
            interpolation=preprocessing.interpolation or "bicubic",
            crop_pct=preprocessing.crop_pct,
            crop_mode=preprocessing.crop_mode,
        )

    def transform(picture: Picture, name: str) -> NDArray[Any]:
        if isinstance(picture, Image.Image):
            image = grey_or_rgb(picture, name).convert("L" if preprocessing.channels == 1 else "RGB")
            array = np.asarray(geometry(image) if geometry else image)
            if geometry is None:
                array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
            return array
        checked = _checked_range(_channels_first(picture, name), name)
        array = _to_channels(checked, preprocessing.channels)
        if geometry is None:
            return array
        if array.dtype != np.uint8:
            raise DataError(
                f"Image {name} is of floating point, with {array.shape[1]} x {array.shape[2]} pixels,"
                f" and is not resized to {preprocessing.height} x {preprocessing.width}.",
                "Bring such images to the model's size first, or store them as uint8.",
            )
        mode_array = array[0] if preprocessing.channels == 1 else array.transpose(1, 2, 0)
        return np.asarray(geometry(Image.fromarray(np.ascontiguousarray(mode_array))))

    return transform


def grey_or_rgb(image: Image.Image, name: str) -> Image.Image:
    """`image` in Pillow's mode L or RGB, transparency left out.

    Raises DataError for images of more than 8 bits a channel, which Pillow would clip in silence.
    """
    if image.mode not in _EIGHT_BIT_MODES:
        raise DataError(
            f"Image {name} does not have 8 bits a channel of grey or colour (its mode is {image.mode}).",
            "Save it as 8-bit grey or RGB.",
        )
    if image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns that the transparency is lost; it is meant to be.
        image = image.convert("RGBA")
    return image.convert("L" if image.mode in {"L", "1"} else "RGB")


def _channels_first(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.ndim == 2 and array.size > 0:
        return array[None]
    if array.ndim == 3 and array.size > 0 and array.shape[0] in {1, 3} and array.shape[2] not in {1, 3}:
        return array
    if array.ndim == 3 and array.size > 0 and array.shape[2] in {1, 3}:
        # (3, H, 3) is read as channels last; nobody has images three pixels wide.
        return array.transpose(2, 0, 1)
    raise DataError(
        f"Image {name} is an array of shape {array.shape}.",
        "Arrays are (H, W), (H, W, C) or (C, H, W), with 1 or 3 channels.",
    )


def _checked_range(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise DataError(
            f"Image {name} is an array of type {array.dtype}, which has no range.",
            "Store uint8 in 0..255, or floats in [0,1].",
        )
    low, high = float(array.min()), float(array.max())
    if isinstance(array, UnclippedPixels) and np.isfinite((low, high)).all():
        return np.asarray(array, dtype=np.float32)
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise DataError(
            f"Floating-point images must lie in [0,1]; {name} goes from {low:.3g} to {high:.3g}.",
            "If they are normalised, say so (normalized=True with the mean and std), or undo it.",
        )
    return array.astype(np.float32)


def _to_channels(array: NDArray[Any], channels: int) -> NDArray[Any]:
    if len(array) == channels:
        return array
    if len(array) == 1 and channels == 3:
        return np.repeat(array, 3, axis=0)
    if len(array) == 3 and channels == 1:
        grey = np.tensordot(_LUMA, array.astype(np.float32), axes=1)[None]
        return np.rint(grey).astype(np.uint8) if array.dtype == np.uint8 else grey
    raise DataError(
        f"The images have {len(array)} channels, and the model takes {channels}.",
        "Only grey and RGB images are converted.",
    )
