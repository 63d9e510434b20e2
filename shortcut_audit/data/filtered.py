"""DFT-masked copies of natural images: what is left when some orbits are kept, or removed."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from shortcut_audit.data.mask_files import ClassMasks, read_masks
from shortcut_audit.data.pixels import make_transform
from shortcut_audit.data.sources import FilesSource, UnreadableImageError
from shortcut_audit.data.splits import OpenedSplit, open_splits
from shortcut_audit.data.writing import SetWriter, SplitWriter
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import BoolArray, found_share, half_plane_mask
from shortcut_audit.fourier.transform import apply_mask, spectrum_of
from shortcut_audit.results.truth import GroundTruth
from shortcut_audit.version import __version__

__all__ = [
    "UNCLIPPED",
    "DcRule",
    "FilterSettings",
    "FilteredSet",
    "eight_bits",
    "filter_set",
    "filtered_pixels",
    "left_orbits",
    "orbits_left_in",
]

DcRule = Literal["keep", "drop", "mask"]
# An array of this name in an `.npz` says that its floats may leave [0,1].
UNCLIPPED = "unclipped"
_N_BANDS = 4
_BLOCK_BYTES = 16 << 20


def left_orbits(chosen: BoolArray, *, keep: bool, dc: DcRule = "keep") -> BoolArray:
    """The orbits that stay, (..., n_orbits) bool: those `chosen`, or all others.

    `dc`: DC stays (`keep`), goes (`drop`), or does as the mask says (`mask`).
    """
    left = chosen.copy() if keep else ~chosen
    if dc != "mask":
        left[..., 0] = dc == "keep"
    return left


def filtered_pixels(pixels: Tensor, left: Tensor) -> Tensor:
    """Real `pixels` (..., H, W) with only the bins under `left`, (..., H, W//2+1) bool, not clipped."""
    return apply_mask(spectrum_of(pixels), left, pixels.shape[-1])


def eight_bits(pixels: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (n, ...) of unit range as uint8, and how many values of each image were clipped, (n,).

    Rounded first: a value clipped is one that would not round into 0..255.
    """
    values = np.rint(pixels * 255)
    inside = np.clip(values, 0, 255)
    n_clipped = (values != inside).reshape(len(values), -1).sum(axis=1)
    return inside.astype(np.uint8), n_clipped.astype(np.int64)


class FilterSettings(BaseModel):
    """What to filter of which images, and how. Keyword-only and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mask: Annotated[str, Field(description="Which orbits, as `read_masks` reads it.")]
    action: Annotated[Literal["keep", "remove"], Field(description="Keep its orbits, or remove them.")]
    dc: Annotated[
        DcRule,
        Field(description="The mean colour: kept, dropped, or as the mask says."),
    ] = "keep"
    size: Annotated[
        tuple[int, int] | None, Field(description="(H, W) to bring images to; else all have one size.")
    ] = None
    classes: Annotated[tuple[str, ...] | None, Field(description="Filter only these classes.")] = None
    skip_unreadable: Annotated[
        bool, Field(description="Leave out images that cannot be decoded, and count them.")
    ] = False


@dataclass(frozen=True)
class FilteredSet:
    """A filtered set on disk.

    By class: `left_share` of the bins (DC aside) that stayed; `clipped_share` of the values written
    to files, empty where only arrays were.
    """

    folder: Path
    truth: GroundTruth
    n_images: int
    n_skipped: int
    left_share: dict[str, float]
    clipped_share: dict[str, float]


def filter_set(
    data: str,
    out: Path,
    settings: FilterSettings,
    formats: Sequence[str] = ("png",),
    *,
    replace: bool = False,
    on_image: Callable[[int, int], None] | None = None,
) -> FilteredSet:
    """Write DFT-masked copies of the images that `data` names, with their truth, to the folder `out`.

    Pixels of unit range are filtered channel by channel. PNG files are rounded and clipped to 0..255;
    arrays hold float32 and are not clipped. `on_image(done, total)` reports.

    Raises AuditError, before anything is written for all that can be known before; a set appears
    whole or not at all.
    """
    splits = [_chosen(split, settings.classes) for split in open_splits(data, settings.size)]
    names = _class_names(splits)
    pre = splits[0].split.preprocessing
    masks = read_masks(settings.mask, FrequencyGrid(pre.height, pre.width), names)
    left = left_orbits(masks.chosen, keep=settings.action == "keep", dc=settings.dc)
    if not left.any(axis=1).all():
        raise SettingsError(
            f"Nothing is left of the images: {settings.action} {settings.mask!r}, --dc {settings.dc}.",
            "Keep more, remove less, or keep DC: --dc keep",
        )
    writer = SetWriter(out, names, formats, replace=replace)
    if settings.skip_unreadable:
        splits = [split.readable() for split in splits]
    job = _Job(names, half_plane_mask(masks.grid, left), tuple(formats), on_image)
    job.total = sum(len(split.rows) for split in splits)
    with writer:
        for split in splits:
            job.write(split, writer)
        if "npz" in formats:
            writer.add_array(UNCLIPPED, np.ones(1, dtype=np.uint8))
        truth = GroundTruth(
            version=__version__,
            kind="filtered",
            name=out.name,
            height=pre.height,
            width=pre.width,
            channels=pre.channels,
            class_names=names,
            bands=_bands(masks.grid),
            clipped_share=job.clipped_in_all(),
            source=data,
            details=_details(settings, masks, left, job),
        )
        writer.finish(truth, checksums=True)
    return FilteredSet(
        folder=out,
        truth=truth.model_copy(update={"files": writer.files, "n_by_split": writer.n_by_split}),
        n_images=job.done,
        n_skipped=sum(split.n_skipped for split in splits),
        left_share=_left_shares(masks, left),
        clipped_share=job.clipped_shares(),
    )


@dataclass(frozen=True)
class _ChosenRows:
    """The images of a split that are to be filtered."""

    split: OpenedSplit
    rows: NDArray[np.int64]
    n_skipped: int = 0

    def readable(self) -> _ChosenRows:
        """Without the images that cannot be decoded; each is decoded once to know that."""
        transform = make_transform(self.split.preprocessing)
        fine = []
        for row in self.rows.tolist():
            try:
                transform(self.split.source.read(row), self.split.source.name(row))
            except UnreadableImageError:
                continue
            fine.append(row)
        if not fine:
            raise DataError(f"None of the images of {self.split.source.spec} can be read.", "Mend them.")
        return _ChosenRows(self.split, np.asarray(fine), len(self.rows) - len(fine))

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Rows, and their pixels (b, C, H, W), uint8 or float32, in blocks of bounded memory."""
        source, pre = self.split.source, self.split.preprocessing
        transform = make_transform(pre)
        shape = (pre.channels, pre.height, pre.width)
        step = max(1, _BLOCK_BYTES // (4 * int(np.prod(shape))))
        for start in range(0, len(self.rows), step):
            rows = self.rows[start : start + step]
            images = [transform(source.read(row), source.name(row)) for row in rows.tolist()]
            for row, image in zip(rows.tolist(), images, strict=True):
                if image.shape != shape:
                    raise DataError(
                        f"Image {source.name(row)} has {image.shape[1]} x {image.shape[2]} pixels, and"
                        f" others {pre.height} x {pre.width}.",
                        "Bring all images to one size with --size.",
                    )
            yield rows, np.stack(images)


def _chosen(split: OpenedSplit, classes: Sequence[str] | None) -> _ChosenRows:
    names, labels = split.source.class_names, split.source.labels
    if classes is None:
        return _ChosenRows(split, np.arange(len(labels)))
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DataError(
            f"{split.source.spec} has no class {unknown[0]!r}.",
            f"Its classes are: {', '.join(sorted(names)[:20])}.",
        )
    rows = np.flatnonzero(np.isin(labels, [names.index(name) for name in classes]))
    if len(rows) == 0:
        raise DataError(f"{split.source.spec} has no image of these classes.", "Choose others.")
    return _ChosenRows(split, rows)


def _class_names(splits: Sequence[_ChosenRows]) -> tuple[str, ...]:
    """Names of the classes with an image in some split, in label order."""
    present = {int(label) for each in splits for label in each.split.source.labels[each.rows]}
    names = splits[0].split.source.class_names
    return tuple(name for label, name in enumerate(names) if label in present)


@contextmanager
def _opened(
    writer: SetWriter, name: str, n_images: int, shape: tuple[int, int, int]
) -> Iterator[SplitWriter]:
    """A split of the set: of floats in arrays, where there are any, else of 8 bits in files.

    The writer takes arrays and files of one type only; where both are wanted, it is opened for arrays.
    """
    formats = writer.formats
    arrays = "npz" in formats
    writer.formats = ("npz",) if arrays else formats
    try:
        with writer.split(name, n_images, shape, np.float32 if arrays else np.uint8) as target:
            yield target
    finally:
        writer.formats = formats


@dataclass
class _Job:
    """Filters split after split, and counts what is clipped on the way."""

    names: tuple[str, ...]
    left: Tensor
    formats: tuple[str, ...]
    on_image: Callable[[int, int], None] | None
    total: int = 0
    done: int = 0
    n_clipped: dict[str, int] = field(default_factory=dict)
    n_values: dict[str, int] = field(default_factory=dict)

    def write(self, chosen: _ChosenRows, writer: SetWriter) -> None:
        split = chosen.split
        number = {split.source.class_names.index(name): new for new, name in enumerate(self.names)}
        stems = dict(zip(chosen.rows.tolist(), _stems(chosen), strict=True))
        name = re.sub(r"[^\w.-]+", "-", split.name)
        with _opened(writer, name, len(chosen.rows), split.shape) as target:
            for rows, pixels in chosen.blocks():
                labels = np.asarray([number[int(label)] for label in split.source.labels[rows]])
                self._add(
                    target, self._filtered(pixels, labels), labels, [stems[r] for r in rows.tolist()]
                )
                self.done += len(rows)
                if self.on_image is not None:
                    self.on_image(self.done, self.total)

    def _filtered(self, pixels: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Filtered copies (b, H, W, C) of `pixels` (b, C, H, W)."""
        unit = pixels.astype(np.float32)
        if pixels.dtype == np.uint8:
            unit /= 255
        left = self.left[torch.from_numpy(labels)][:, None]
        found: NDArray[np.float32] = filtered_pixels(torch.from_numpy(unit), left).numpy()
        return np.ascontiguousarray(found.transpose(0, 2, 3, 1))

    def _add(
        self,
        target: SplitWriter,
        images: NDArray[np.float32],
        labels: NDArray[np.int64],
        stems: list[str],
    ) -> None:
        if "png" not in self.formats:
            target.add(images, labels)
            return
        rounded, n_clipped = eight_bits(images)
        for label, clipped in zip(labels.tolist(), n_clipped.tolist(), strict=True):
            name = self.names[label]
            self.n_clipped[name] = self.n_clipped.get(name, 0) + clipped
            self.n_values[name] = self.n_values.get(name, 0) + images[0].size
        if "npz" in self.formats:
            target._add_files(rounded, labels, stems)
            target.add(images, labels)
        else:
            target.add(rounded, labels, stems)

    def clipped_in_all(self) -> float | None:
        """Share of all values clipped in writing; None where no file was written."""
        return sum(self.n_clipped.values()) / sum(self.n_values.values()) if self.n_values else None

    def clipped_shares(self) -> dict[str, float]:
        """Share of values clipped in writing, by class; empty where no file was written."""
        return {name: self.n_clipped[name] / self.n_values[name] for name in self.names if self.n_values}


def _stems(chosen: _ChosenRows) -> list[str]:
    """Names of the files: those of the originals where they are fit, else the running number."""
    source, rows = chosen.split.source, chosen.rows.tolist()
    numbered = [f"{row:05d}" for row in rows]
    if not isinstance(source, FilesSource) or source.name(rows[0]).startswith(source.spec):
        return numbered
    stems, seen = [], set()
    for row in rows:
        name = source.class_names[source.labels[row]]
        parts = PurePosixPath(source.name(row)).with_suffix("").parts
        stem = "__".join(parts[1:] if len(parts) > 1 and parts[0] == name else parts)
        if not re.fullmatch(r"[\w][\w .()\[\]+,=@~-]{0,150}", stem) or (name, stem.casefold()) in seen:
            return numbered
        seen.add((name, stem.casefold()))
        stems.append(stem)
    return stems


def _left_shares(masks: ClassMasks, left: BoolArray) -> dict[str, float]:
    """Share of the bins, DC aside, that stays in images of each class."""
    waves = np.arange(masks.grid.n_orbits) > 0
    shares = [found_share(masks.grid, own, waves) for own in (left if masks.per_class else left[:1])]
    return dict(zip(masks.class_names, shares * (1 if masks.per_class else len(left)), strict=True))


def _bands(grid: FrequencyGrid) -> tuple[tuple[float, float], ...]:
    edges = np.linspace(0, min(grid.height, grid.width) / 2, _N_BANDS + 1).tolist()
    return tuple(itertools.pairwise(edges))


def _details(settings: FilterSettings, masks: ClassMasks, left: BoolArray, job: _Job) -> dict[str, Any]:
    """The mask as asked for and as found; under `*` where all classes share it."""
    found = dict(zip(masks.class_names, left, strict=True)) if masks.per_class else {"*": left[0]}
    shares = _left_shares(masks, left)
    return {
        **settings.model_dump(mode="json"),
        "domain": "pixels",
        "left_share": {name: shares.get(name, next(iter(shares.values()))) for name in found},
        "n_orbits_left": {name: int(own.sum()) for name, own in found.items()},
        "orbits_left": {name: _packed(own) for name, own in found.items()},
        "clipped_values": {name: job.n_clipped[name] for name in job.names if job.n_values},
        "written_values": {name: job.n_values[name] for name in job.names if job.n_values},
    }


def _packed(orbits: BoolArray) -> str:
    return base64.b64encode(np.packbits(orbits).tobytes()).decode()


def orbits_left_in(truth: GroundTruth, class_name: str) -> BoolArray:
    """The orbits that a filtered set was left with in images of a class, bool (n_orbits,)."""
    packed = truth.details["orbits_left"]
    bits = np.frombuffer(base64.b64decode(packed.get(class_name, packed.get("*", ""))), dtype=np.uint8)
    n_orbits = FrequencyGrid(truth.height, truth.width).n_orbits
    return np.unpackbits(bits, count=n_orbits).astype(np.bool_)
