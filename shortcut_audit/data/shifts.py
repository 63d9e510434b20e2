"""Shifted images: corruptions seeded per image, and sets of corrupted copies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.arrays import ArrayFile
from shortcut_audit.data.corruptions import CORRUPTIONS, SEVERITIES
from shortcut_audit.data.datasets import spool
from shortcut_audit.data.shift_spectra import ShiftRecord, ShiftSpectrum, SpectrumTotals
from shortcut_audit.data.sources import ArraySource
from shortcut_audit.data.splits import OpenedSplit, open_splits
from shortcut_audit.data.writing import SetWriter, SplitWriter
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.results.shift_names import parse_severities
from shortcut_audit.results.store import write_arrays
from shortcut_audit.version import __version__

__all__ = [
    "SPECTRA_ARRAYS",
    "SPECTRA_FILE",
    "Shift",
    "corrupt",
    "corruption_spectrum",
    "one_thread",
    "parse_severities",
    "parse_shifts",
    "write_shifts",
]

SPECTRA_FILE = "spectra.json"
SPECTRA_ARRAYS = "spectra.safetensors"
_BLOCK_VALUES = 2**22

# (what, done, total)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, order=True)
class Shift:
    """A corruption at a severity, 0 (none) to 5."""

    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name}-{self.severity}"


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    seed: int,
    indices: Sequence[int | str],
    *,
    clip: bool = True,
    eight_bit: bool = False,
) -> Tensor:
    """Corrupted copies of `images`.

    `images` (B, C, H, W), floats in [0,1], C 1 or 3. `severity` 1..5; 0 gives them back as they are.
    `indices`: what identifies each image, its number in the set or its name. Random numbers hang on
    `seed`, `name` and the image's own index alone, so that batches of any size and order give the
    same bits; the severities of one image share them. `clip`: back to [0,1]. `eight_bit`: clipped, and
    rounded to steps of 1/255, as a written copy is. Computed on the CPU; returned where and in the
    type that the images came. Raises SettingsError or DataError.
    """
    _check(images, name, severity, indices)
    home, dtype = images.device, images.dtype
    pixels = images.detach().cpu()
    if severity > 0:
        corruption = CORRUPTIONS[name]
        pixels = pixels if dtype in {torch.float32, torch.float64} else pixels.float()
        values = corruption.values(severity, *pixels.shape[-2:])
        # One by one: no library's choice of algorithm for a batch can reach into an image.
        done = [
            corruption.apply(pixels[row : row + 1], _generator(seed, name, index), **values)
            for row, index in enumerate(indices)
        ]
        pixels = torch.cat(done) if done else pixels
    if clip or eight_bit:
        pixels = pixels.clamp(0, 1)
    if eight_bit:
        pixels = (pixels * 255).round() / 255
    return pixels.to(home, dtype)


def _generator(seed: int, name: str, index: int | str) -> np.random.Generator:
    """Random numbers of one image: a counter-based stream under a key of its own."""
    digest = hashlib.sha256(f"{seed}\n{name}\n{index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _check(images: Tensor, name: str, severity: int, indices: Sequence[int | str]) -> None:
    _check_name(name)
    if severity not in (0, *SEVERITIES):
        raise SettingsError(f"There is no severity {severity}.", "Severities are 1 to 5, and 0 for none.")
    if images.ndim != 4 or images.shape[1] not in {1, 3} or not images.is_floating_point():
        raise DataError(
            f"Images to be corrupted are {images.dtype} of shape {tuple(images.shape)}.",
            "Give floating-point tensors (B, C, H, W) in [0,1], with 1 or 3 channels.",
        )
    if len(indices) != len(images):
        raise DataError(
            f"{len(images)} images came with {len(indices)} indices.",
            "Give each image the number or name that identifies it in its set.",
        )
    if severity == 0 or len(images) == 0:
        return
    if min(images.shape[-2:]) < 2:
        raise DataError(
            f"Images of {images.shape[2]} x {images.shape[3]} pixels are too small to corrupt.",
            "Take images of at least 2 x 2 pixels.",
        )
    if CORRUPTIONS[name].needs_colour and images.shape[1] == 1:
        raise DataError(f"The corruption {name} does nothing to grey images.", "Leave it out.")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise DataError(
            f"Images to be corrupted must lie in [0,1]; these go from {low:.3g} to {high:.3g}.",
            "Corrupt pixels before they are normalised.",
        )


def _check_name(name: str) -> None:
    if name not in CORRUPTIONS:
        raise SettingsError(
            f"There is no corruption {name!r}.", f"Corruptions are: {', '.join(CORRUPTIONS)}."
        )


def parse_shifts(text: str, severities: str = "1-5", n_channels: int = 3) -> tuple[Shift, ...]:
    """`jpeg:1-5,contrast:3` or `all` as shifts, in the order named.

    A name without severities of its own takes `severities`. `all`: every corruption that does
    something to images of `n_channels`. Raises SettingsError.

    >>> [str(shift) for shift in parse_shifts("jpeg:1-2,contrast", "5")]
    ['jpeg-1', 'jpeg-2', 'contrast-5']
    """
    common = parse_severities(severities)
    shifts: list[Shift] = []
    # A comma may also stand between severities: jpeg:1,3 goes on where no name begins.
    for part in re.split(r",(?!\s*[0-9])", text):
        name, _, own = (piece.strip() for piece in part.partition(":"))
        if name != "all":
            _check_name(name)
        chosen = parse_severities(own) if own else common
        names: tuple[str, ...] = (name,)
        if name == "all":
            names = tuple(n for n, c in CORRUPTIONS.items() if n_channels == 3 or not c.needs_colour)
        shifts += [Shift(each, severity) for each in names for severity in chosen]
    return tuple(dict.fromkeys(shifts))


def corruption_spectrum(
    images: Tensor,
    name: str,
    severity: int,
    seed: int = 0,
    indices: Sequence[int | str] | None = None,
    *,
    clip: bool = True,
    eight_bit: bool = False,
) -> SpectrumTotals:
    """The power spectrum of a corruption, measured on `images` (B, C, H, W) in [0,1].

    `indices`: 0..B-1 by default; the rest as for `corrupt`. Totals of several calls add up.
    """
    keys = range(len(images)) if indices is None else indices
    raw = corrupt(images, name, severity, seed, keys, clip=False)
    seen = corrupt(images, name, severity, seed, keys, eight_bit=True) if eight_bit else raw
    if clip and not eight_bit:
        seen = raw.clamp(0, 1)
    return SpectrumTotals.of(images, seen, raw)


def write_shifts(
    data: str,
    out: Path,
    shifts: str,
    severities: str = "1-5",
    *,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    formats: Sequence[str] = ("png",),
    on_progress: Progress | None = None,
) -> ShiftRecord:
    """Write corrupted copies of the set `data` into `out`, and their measured spectra beside them.

    `shifts`, `severities`: as `parse_shifts` reads them. Each shift becomes a split (`jpeg-3`;
    `test-jpeg-3` where `data` has several). An image's random numbers hang on its number in its
    split. Spectra are those of the 8-bit copies, measured against the images they were made from.
    Returns what `spectra.json` holds. Raises DataError, SettingsError and RunFolderError.
    """
    parse_shifts(shifts, severities)
    splits = open_splits(data, size)
    height, width, channels = splits[0].shape
    chosen = parse_shifts(shifts, severities, channels)
    for shift in chosen:
        # What an image of this shape cannot have done to it is said before anything is written.
        corrupt(torch.zeros(1, channels, height, width), shift.name, shift.severity, seed, [0])
    classes = _written_classes(splits, formats)
    totals: dict[str, SpectrumTotals] = {}
    found: list[ShiftSpectrum] = []
    with SetWriter(out, classes, formats) as writer, one_thread():
        for split in splits:
            images = _decoded(split)
            labels = np.array([classes.index(split.source.class_names[n]) for n in images.labels])
            for shift in chosen:
                name = str(shift) if len(splits) == 1 else f"{split.name}-{shift}"
                with writer.split(name, len(labels), split.shape) as sink:
                    totals[name] = _write(sink, images.rows, labels, shift, seed, on_progress)
                found.append(_summary(name, shift, totals[name]))
        record = ShiftRecord(
            version=__version__,
            source=data,
            seed=seed,
            channels=channels,
            height=height,
            width=width,
            n_images=sum(len(split) for split in splits),
            shifts=tuple(found),
        )
        writer.add_file(SPECTRA_FILE, record.as_text())
        writer.finish()
    write_arrays(out / SPECTRA_ARRAYS, _arrays(totals), {"format": "1"})
    return record


@contextmanager
def one_thread() -> Iterator[None]:
    """Images are small work for many threads: on a busy machine these wait for each other instead."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _written_classes(splits: Sequence[OpenedSplit], formats: Sequence[str]) -> tuple[str, ...]:
    """Classes of the copies: where they become folders, those that have images."""
    names = splits[0].source.class_names
    if "png" not in formats:
        return names
    present = {int(label) for split in splits for label in np.unique(split.source.labels)}
    return tuple(name for label, name in enumerate(names) if label in present)


def _decoded(split: OpenedSplit) -> ArraySource:
    """The images of a split, decoded once, (H, W, C) uint8 in a temporary file."""
    labels = split.source.labels.tolist()
    pairs = ((images, labels[rows]) for rows, images in split.blocks())
    source = spool(pairs, spec=split.source.spec, class_names=split.source.class_names)
    assert isinstance(source, ArraySource)
    return source


def _write(
    sink: SplitWriter,
    rows: ArrayFile,
    labels: NDArray[np.int64],
    shift: Shift,
    seed: int,
    on_progress: Progress | None,
) -> SpectrumTotals:
    """Corrupt, write and measure one split, a block at a time."""
    height, width, channels = sink.shape
    step = max(1, min(256, _BLOCK_VALUES // (height * width * channels)))
    total: SpectrumTotals | None = None
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        stored = torch.from_numpy(rows.span(start, stop).transpose(0, 3, 1, 2).copy())
        clean = stored.float() / 255
        raw = corrupt(clean, shift.name, shift.severity, seed, range(start, stop), clip=False)
        written = (raw.clamp(0, 1) * 255).round()
        sink.add(written.to(torch.uint8).permute(0, 2, 3, 1).numpy(), labels[start:stop])
        part = SpectrumTotals.of(clean, written / 255, raw)
        total = part if total is None else total + part
        if on_progress is not None:
            on_progress(str(shift), stop, len(rows))
    assert total is not None, "a source holds images"
    return total


def _summary(split: str, shift: Shift, total: SpectrumTotals) -> ShiftSpectrum:
    values: dict[str, float] = {}
    if shift.severity > 0:
        values = CORRUPTIONS[shift.name].values(shift.severity, total.grid.height, total.grid.width)
    return ShiftSpectrum(
        split=split,
        corruption=shift.name,
        severity=shift.severity,
        parameters=values,
        n_images=total.n_images,
        clipped_share=total.clipped_share,
        bands=total.bands(),
    )


def _arrays(totals: dict[str, SpectrumTotals]) -> dict[str, NDArray[Any]]:
    """Arrays by orbit: of the grid, and `SPLIT/...` of each shift; single precision."""
    grid = next(iter(totals.values())).grid
    arrays: dict[str, NDArray[Any]] = {
        "orbits/u": grid.u,
        "orbits/v": grid.v,
        "orbits/members": grid.members,
        "orbits/radius": grid.radius,
        "orbits/band": grid.bands(),
    }
    for split, total in totals.items():
        transfer = total.transfer
        arrays |= {
            f"{split}/clean_power": total.clean_power.astype(np.float32),
            f"{split}/corrupted_power": total.corrupted_power.astype(np.float32),
            f"{split}/difference_power": total.difference_power.astype(np.float32),
            f"{split}/transfer_real": transfer.real.astype(np.float32),
            f"{split}/transfer_imag": transfer.imag.astype(np.float32),
            f"{split}/coherence": total.coherence.astype(np.float32),
        }
    return arrays
