"""Plants known patterns into real images, and records what was planted where, as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.plans import (
    BlockGrid,
    Cast,
    Checkerboard,
    Contrast,
    Cosines,
    Plan,
    Planted,
    Shading,
    Texture,
    role_of,
)
from shortcut_audit.data.splits import OpenedSplit, open_splits
from shortcut_audit.data.waves import orbit_numbers, stream_of, to_half_plane, uniform, wave_values
from shortcut_audit.data.writing import FORMATS, SetWriter
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.truth import GroundTruth, Pattern
from shortcut_audit.version import __version__

__all__ = ["plant"]

# Below half a step of 8 bits, rounding takes a pattern away whole.
_LEAST_STRENGTH = 0.5
Floats = NDArray[np.float64]


def plant(
    data: str,
    plan: Plan,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    formats: tuple[str, ...] = FORMATS,
    replace: bool = False,
) -> GroundTruth:
    """Write a copy of the set `data`, all its splits, with the patterns of `plan` in it.

    The copy is quantised to 8 bits; amplitudes in the returned truth are those found in the written
    pixels. Raises SettingsError for a plan that does not fit the images, DataError where more than
    `plan.max_clipped` of the pixel values of carriers would be clipped.
    """
    splits = open_splits(data, size)
    class_names = splits[0].source.class_names
    grid = FrequencyGrid(*splits[0].shape[:2])
    entries = tuple(
        _Entry(number, entry, grid, class_names, plan.seed) for number, entry in enumerate(plan.plant)
    )
    for entry in entries:
        entry.check(splits[0].shape[2], dither=plan.dither)
    carriers = [
        [entry.carriers_of(number, split.source.labels) for entry in entries]
        for number, split in enumerate(splits)
    ]
    tally = _Tally.over(plan, splits, carriers)
    for number, entry in enumerate(entries):
        for split, of_entries in zip(splits, carriers, strict=True):
            entry.note(split, of_entries[number])
        entry.refuse_no_carriers()
    with SetWriter(out, class_names, formats, replace=replace, compress=True) as writer:
        for number, split in enumerate(splits):
            with writer.split(split.name, len(split), split.shape) as sink:
                for rows, images in split.blocks():
                    labels = split.source.labels[rows]
                    of_rows = [carries[rows] for carries in carriers[number]]
                    sink.add(
                        _planted(plan, entries, of_rows, rows, images, number, labels, tally), labels
                    )
                    tally.refuse_clipping(class_names)
        truth = GroundTruth(
            version=__version__,
            kind="planted",
            name=plan.name,
            seed=plan.seed,
            height=grid.height,
            width=grid.width,
            channels=splits[0].shape[2],
            class_names=class_names,
            n_by_split=writer.n_by_split,
            files=writer.files,
            bands=tuple((edge, edge + _band_width(grid)) for edge in np.arange(4) * _band_width(grid)),
            patterns=tuple(entry.pattern() for entry in entries),
            clipped_share=tally.share,
            source=data,
            details={
                "plan": plan.model_dump(mode="json"),
                "geometry": splits[0].preprocessing.geometry,
            },
        )
        writer.finish(truth, checksums=True)
    return truth


def _band_width(grid: FrequencyGrid) -> float:
    return min(grid.height, grid.width) / 8


@dataclass
class _Tally:
    """Pixel values of the images of each class that carry a pattern, and those that were clipped.

    `total` is known before the first image is written, so that a class is refused as soon as it is
    certain that it clips too much, and never because of the images that happen to come first.
    """

    plan: Plan
    clipped: NDArray[np.int64]
    total: NDArray[np.int64]

    @classmethod
    def over(
        cls,
        plan: Plan,
        splits: Sequence[OpenedSplit],
        carriers: Sequence[Sequence[NDArray[np.bool_]]],
    ) -> _Tally:
        n_classes = len(splits[0].source.class_names)
        total = np.zeros(n_classes, dtype=np.int64)
        for split, of_entries in zip(splits, carriers, strict=True):
            labels = split.source.labels[np.any(np.stack(of_entries), axis=0)]
            total += np.bincount(labels, minlength=n_classes) * int(np.prod(split.shape))
        return cls(plan, np.zeros(n_classes, dtype=np.int64), total)

    @property
    def share(self) -> float:
        return float(self.clipped.sum() / max(int(self.total.sum()), 1))

    def refuse_clipping(self, class_names: Sequence[str]) -> None:
        share = self.clipped / np.maximum(self.total, 1)
        worst = int(share.argmax())
        if share[worst] > self.plan.max_clipped:
            raise DataError(
                f"The plan {self.plan.name!r} would clip more than {100 * self.plan.max_clipped:g}% of"
                f" the pixel values of the images of {class_names[worst]!r} that carry a pattern (at"
                f" least {100 * share[worst]:.2g}%), and would plant other frequencies than it says.",
                "Lower the strength, set headroom in the plan (it squeezes all images of all classes), or"
                " allow more with max_clipped.",
            )


@dataclass
class _Entry:
    """One pattern of a plan over the grid of the images."""

    number: int
    planted: Planted
    grid: FrequencyGrid
    class_names: tuple[str, ...]
    seed: int
    n_carriers: dict[str, int] = field(default_factory=dict)
    carriers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    power: Floats = field(default_factory=lambda: np.zeros(0))
    n_measured: int = 0

    @property
    def name(self) -> str:
        return self.planted.name or f"{self.planted.kind} {self.number + 1}"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names if self.planted.classes == "all" else tuple(self.planted.classes)

    def check(self, channels: int, *, dither: bool) -> None:
        """Raise SettingsError for what these images cannot carry."""
        planted = self.planted
        unknown = [name for name in self.classes if name not in self.class_names]
        if unknown:
            raise SettingsError(
                f"The plan plants {self.name!r} in class {unknown[0]!r}, which the images do not have.",
                f"Their classes are: {', '.join(self.class_names[:20])}.",
            )
        if isinstance(planted, Cast) and len(planted.offset) not in {1, channels}:
            raise SettingsError(
                f"The offset of {self.name!r} has {len(planted.offset)} values, and images"
                f" {channels} channel{'s' if channels > 1 else ''}.",
                "Give one value, or one a channel.",
            )
        if isinstance(planted, Cast | Contrast):
            return
        if not len(self.orbits):
            raise SettingsError(
                f"No orbit of {self.name!r} lies within images of {self.grid.height} x"
                f" {self.grid.width} pixels.",
                f"Radii go up to {self.grid.radius.max():.1f}; blocks are smaller than the image.",
            )
        if planted.strength < _LEAST_STRENGTH and not dither:
            raise SettingsError(
                f"A strength of {planted.strength:g}/255 ({self.name!r}) is lost in rounding to 8 bits.",
                "Plant at least 0.5, or set dither = true in the plan.",
            )

    @cached_property
    def orbits(self) -> NDArray[np.int64]:
        """Numbers of the orbits the pattern lies on; none for what touches DC or all alike."""
        planted, grid = self.planted, self.grid
        if isinstance(planted, Cosines):
            return orbit_numbers(grid, planted.orbits, repr(self.name))
        if isinstance(planted, Texture):
            low, high = planted.radius
            return np.flatnonzero((grid.radius >= max(low, 1e-9)) & (grid.radius < high))
        if isinstance(planted, Checkerboard):
            if grid.height % 2 or grid.width % 2:
                raise SettingsError(
                    f"A checkerboard needs even sizes, and images are {grid.height} x {grid.width}.",
                    "Bring them to even sizes with --size.",
                )
            return orbit_numbers(grid, ((grid.height // 2, grid.width // 2),), repr(self.name))
        if isinstance(planted, Shading):
            steps = {"vertical": (1, 0), "horizontal": (0, 1), "diagonal": (1, 1)}
            return orbit_numbers(grid, (steps[planted.direction],), repr(self.name))
        if isinstance(planted, BlockGrid):
            return self._comb(planted.block)
        return np.zeros(0, dtype=np.int64)

    def _comb(self, block: int) -> NDArray[np.int64]:
        """Orbits that hold a share of the grid's power worth naming."""
        if block >= min(self.grid.height, self.grid.width):
            return np.zeros(0, dtype=np.int64)
        pattern = np.abs(np.fft.rfft2(_grid_lines(self.grid, block, 0, 0)))
        amplitude = pattern[self.grid.rows, self.grid.columns]
        # The mean is no wave, though blocks that do not divide the image may change it.
        amplitude[0] = 0
        # Where blocks do not divide the image, power leaks beside the comb; that is no line of it.
        return np.flatnonzero(amplitude > 0.2 * amplitude.max())

    def carriers_of(self, split: int, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images of a split carry the pattern: the share of each class, to the nearest image."""
        carries = np.zeros(len(labels), dtype=np.bool_)
        for name in self.classes:
            label = self.class_names.index(name)
            rows = np.flatnonzero(labels == label)
            order = np.argsort(uniform(self._stream(1, split, label), len(rows)), kind="stable")
            carries[rows[order[: round(self.planted.share * len(rows))]]] = True
        return carries

    def note(self, split: OpenedSplit, carries: NDArray[np.bool_]) -> None:
        """Remember who carries it, for the truth."""
        labels = split.source.labels
        for name in self.classes:
            n = int((carries & (labels == self.class_names.index(name))).sum())
            self.n_carriers[name] = self.n_carriers.get(name, 0) + n
        if self.planted.share < 1:
            # The names under which they are written.
            self.carriers[split.name] = tuple(f"{row:05d}" for row in np.flatnonzero(carries))

    def refuse_no_carriers(self) -> None:
        """Raise SettingsError where the share of a class comes to no image at all."""
        for name, n in self.n_carriers.items():
            if n == 0:
                raise SettingsError(
                    f"A share of {self.planted.share:g} of the images of {name!r} is not one image"
                    f" ({self.name!r}).",
                    "Raise the share, or plant into more images.",
                )

    def _stream(self, *key: int) -> np.random.Generator:
        return stream_of(self.seed, 4, self.number, *key)

    def add_to(self, images: Floats, split: int, rows: Sequence[int]) -> None:
        """Add the pattern to `images` (b, H, W, C), in 0..255, which are numbers `rows` of a split.

        What is drawn for an image depends on its number alone, not on the block it comes in.
        """
        planted = self.planted
        if isinstance(planted, Cast):
            images += np.asarray(planted.offset)
        elif isinstance(planted, Contrast):
            mean = images.mean(axis=(1, 2), keepdims=True)
            images += (planted.factor - 1) * (images - mean)
        elif isinstance(planted, BlockGrid):
            for image, row in zip(images, rows, strict=True):
                image += self._lines(planted, split, row)[:, :, None]
        else:
            images += self._waves(planted, split, rows)[..., None]

    def _lines(self, planted: BlockGrid, split: int, row: int) -> Floats:
        shift = (0, 0)
        if planted.phase == "random":
            drawn = uniform(self._stream(2, split, row), 2)
            shift = (int(drawn[0] * planted.block), int(drawn[1] * planted.block))
        return planted.strength * _grid_lines(self.grid, planted.block, *shift)

    def _waves(
        self, planted: Cosines | Texture | Checkerboard | Shading, split: int, rows: Sequence[int]
    ) -> Floats:
        """The pattern (b, H, W), in 1/255."""
        grid, orbits = self.grid, self.orbits
        phase = np.stack(
            [
                uniform(
                    self._stream(2, split, row) if planted.phase == "random" else self._stream(3),
                    len(orbits),
                )
                for row in rows
            ]
        ) * (2 * np.pi)
        if planted.phase == "fixed" and not isinstance(planted, Texture):
            # All waves start at the corner, so that the pattern is the same whatever the seed.
            phase = np.zeros_like(phase)
        strength = planted.strength
        if isinstance(planted, Texture):
            # A cosine of amplitude a has the mean square a^2 / 2, or a^2 where it is its own conjugate.
            strength /= float(
                np.sqrt((grid.members[orbits] == 1).sum() + (grid.members[orbits] == 2).sum() / 2)
            )
        coefficients = np.zeros((len(rows), grid.n_orbits), dtype=np.complex128)
        coefficients[:, orbits] = wave_values(grid, orbits, strength, phase)
        waves: Floats = 255 * np.fft.irfft2(
            to_half_plane(grid, coefficients), s=(grid.height, grid.width)
        )
        return waves

    def measure(self, difference: Floats) -> None:
        """Add up the power on the pattern's orbits of what was planted, (b, H, W, C) in 1/255."""
        if not len(self.orbits) or not len(difference):
            return
        grid = self.grid
        spectrum = np.fft.rfft2(difference, axes=(1, 2))[
            :, grid.rows[self.orbits], grid.columns[self.orbits]
        ]
        wave = np.abs(spectrum) * grid.members[self.orbits][:, None] / (grid.height * grid.width)
        if not len(self.power):
            self.power = np.zeros(len(self.orbits))
        self.power += (wave**2).mean(axis=2).sum(axis=0)
        self.n_measured += len(difference)

    def pattern(self) -> Pattern:
        """What the truth says of it."""
        grid, orbits = self.grid, self.orbits
        amplitude = np.sqrt(self.power / max(self.n_measured, 1)) if self.n_measured else np.zeros(0)
        bands = sorted({int(b) + 1 for b in grid.bands()[orbits]})
        return Pattern(
            name=self.name,
            kind=self.planted.kind,
            role=role_of(self.planted, len(self.class_names)),
            classes=self.classes,
            orbits=tuple((int(grid.u[o]), int(grid.v[o])) for o in orbits),
            amplitude=tuple(round(float(a), 4) for a in amplitude),
            bands=tuple(bands),
            phase=getattr(self.planted, "phase", ""),
            share=self.planted.share,
            n_carriers=self.n_carriers,
            carriers=self.carriers,
        )


def _grid_lines(grid: FrequencyGrid, block: int, top: int, left: int) -> Floats:
    """-1 before and +1 behind every border between blocks, along both axes added, (H, W).

    The image's own edge counts as a border: a codec errs at the rim of its blocks there as elsewhere.
    """
    profiles = []
    for length, shift in ((grid.height, top), (grid.width, left)):
        place = (np.arange(length) - shift) % block
        profile = np.where(place == 0, 1.0, np.where(place == block - 1, -1.0, 0.0))
        profiles.append(profile)
    lines: Floats = profiles[0][:, None] + profiles[1][None, :]
    return lines


def _planted(
    plan: Plan,
    entries: Sequence[_Entry],
    carried: Sequence[NDArray[np.bool_]],
    rows: slice,
    images: NDArray[np.uint8],
    split: int,
    labels: NDArray[np.int64],
    tally: _Tally,
) -> NDArray[np.uint8]:
    """A block of images (b, H, W, C) with the patterns that each carries, rounded to 8 bits."""
    plain = images.astype(np.float64) * ((255 - 2 * plan.headroom) / 255) + plan.headroom
    numbers = np.arange(rows.start, rows.stop)
    values = _with_patterns(plain, entries, carried, split, numbers)
    if plan.dither:
        for offset, number in enumerate(numbers.tolist()):
            # Triangular noise: its error has one variance for every value (Lipshitz et al., 1992). That
            # of uniform noise depends on the fraction, 0 in plain images: it would tell the carriers.
            noise = uniform(stream_of(plan.seed, 5, split, number), 2 * values[offset].size)
            values[offset] += noise.reshape(2, *values[offset].shape).sum(axis=0) - 1
    written = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    carrying = np.flatnonzero(np.any(np.stack(carried), axis=0))
    rounded = np.rint(values[carrying])
    beyond = np.count_nonzero((rounded < 0) | (rounded > 255), axis=(1, 2, 3))
    np.add.at(tally.clipped, labels[carrying], beyond)
    for number, entry in enumerate(entries):
        own = carried[number]
        if not own.any() or not len(entry.orbits):
            continue
        # What the others plant, and do to the image itself, is not this one's.
        others = [each & own if other != number else own & False for other, each in enumerate(carried)]
        without = _with_patterns(plain, entries, others, split, numbers)
        entry.measure(written[own] - without[own])
    return written


def _with_patterns(
    plain: Floats,
    entries: Sequence[_Entry],
    carried: Sequence[NDArray[np.bool_]],
    split: int,
    numbers: NDArray[np.int64],
) -> Floats:
    """Images (b, H, W, C), which are `numbers` of a split, with every pattern in those that carry it."""
    values = plain.copy()
    # Contrast is the image's own: it comes first, so that waves keep the strength that the plan states.
    order = sorted(range(len(entries)), key=lambda n: not isinstance(entries[n].planted, Contrast))
    for entry, carries in ((entries[n], carried[n]) for n in order):
        if carries.any():
            changed = values[carries]
            entry.add_to(changed, split, numbers[carries].tolist())
            values[carries] = changed
    return values
