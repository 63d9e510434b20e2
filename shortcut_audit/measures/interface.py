"""What a measure is: shards of work over blocks of images, totals that add, and a finding.

A measure never sees a run folder, an engine or a progress bar. It lists its shards, runs one when
it is handed one, and turns the totals of all of them, in shard order, into a finding. A measure
that must see totals before it knows what to ask next (a search) lists its shards in rounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.errors import LogitsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.transform import OrbitWaves, spectrum_of
from shortcut_audit.fourier.units import Units
from shortcut_audit.models.classifier import Classifier
from shortcut_audit.results.findings import Finding
from shortcut_audit.results.settings import AuditSettings, SearchName

__all__ = [
    "Advance",
    "Arrays",
    "Block",
    "Done",
    "Measure",
    "MeasureInRounds",
    "Outline",
    "Round",
    "Rounds",
    "Shard",
    "Split",
    "Subject",
    "Totals",
    "Work",
    "blocks_between",
    "blocks_of",
    "require_finite",
]

Split = Literal["search", "judge"]
Arrays = dict[str, NDArray[Any]]
Totals = Mapping[str, NDArray[Any]]
Advance = Callable[[int], None]

# Work between two savings: 2 s of a small network on a CPU core, a minute of a large one.
PASSES_PER_SHARD = 8192
# Pixels that a block may hold in memory at once, as float32: 16 MiB, and as much for its spectrum.
FLOATS_PER_BLOCK = 1 << 22


@dataclass(frozen=True)
class Outline:
    """All that the borders of shards may depend on: sizes and settings, never machines or workers."""

    settings: AuditSettings
    grid: FrequencyGrid
    n_channels: int
    n_outputs: int
    n_classes: int
    search_rows: tuple[tuple[int, int], ...]
    judge_rows: tuple[tuple[int, int], ...]
    searched: tuple[int, ...]
    # Rows of each class in each other set that the audit goes on to, empty where it has none.
    shifted_rows: tuple[tuple[tuple[int, int], ...], ...] = ()
    # Which of these sets hold other copies of the audit's own images.
    shifted_copies: tuple[bool, ...] = ()
    # Which search ranks the orbits, and why this one where the user left it open.
    search: SearchName = "exact"
    search_reason: str = ""

    @cached_property
    def units(self) -> Units:
        """What is removed and ranked: single orbits, or patches or tiles of them."""
        return Units.named(self.settings.resolution, self.grid)

    def rows_of(self, split: Split, class_index: int) -> tuple[int, int]:
        """First and last-plus-one row of a class in a split."""
        return (self.search_rows if split == "search" else self.judge_rows)[class_index]

    def rows_per_block(self, split: Split) -> int:
        """Images that share one reading and one FFT."""
        image = self.n_channels * self.grid.height * self.grid.width
        passes = self.units.n_units if split == "search" else len(self.searched) + 1
        return max(1, min(PASSES_PER_SHARD // passes, FLOATS_PER_BLOCK // image))


@dataclass(frozen=True)
class Work:
    """What a search asks of a shard beyond its images: a kind, and arrays that say the rest.

    Many shards of a round may share one; its digest is part of their keys.
    """

    kind: str
    arrays: Mapping[str, NDArray[Any]]

    @cached_property
    def digest(self) -> str:
        """Digest of kind, names, types, shapes and content."""
        state = hashlib.sha256(self.kind.encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            state.update(f"{name} {array.dtype.str} {array.shape}".encode())
            state.update(array.tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class Shard:
    """A piece of work of one measure: a block of images of one class, and a range of orbits.

    `n_passes`: image passes, a forward pass of one image being 1 and a backward pass 2; `n_backward`
    of the images passes went backward (and count twice in `n_passes`).
    """

    measure: str
    split: Split
    class_index: int
    rows: tuple[int, int]
    orbits: tuple[int, int]
    n_passes: int
    n_backward: int = 0
    work: Work | None = field(default=None, compare=False)

    @property
    def n_images(self) -> int:
        """Images in the block."""
        return self.rows[1] - self.rows[0]


@dataclass(frozen=True)
class Subject:
    """The classifier under audit with its images, on one device."""

    classifier: Classifier
    images: AuditImages
    outline: Outline
    batch_size: int

    @property
    def settings(self) -> AuditSettings:
        """The audit's settings."""
        return self.outline.settings

    @property
    def grid(self) -> FrequencyGrid:
        """Fourier grid of the images."""
        return self.outline.grid

    @cached_property
    def waves(self) -> OrbitWaves:
        """Tables that remove single orbits."""
        return OrbitWaves.build(self.grid, self.classifier.device, self.classifier.dtype)

    def block(self, rows: tuple[int, int]) -> Block:
        """The images `rows`, read once."""
        pixels = torch.from_numpy(self.images.store.block(*rows))
        on_gpu = self.classifier.device.type == "cuda"
        if on_gpu:
            # From pinned memory images are copied while the GPU works on; nobody waits.
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.classifier.device, self.classifier.dtype, non_blocking=on_gpu)
        if self.settings.domain == "normalized":
            pixels = self.classifier.normalize(pixels)
        return Block(rows, pixels)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K), float64 where the device has it, of `images` in the filtering domain."""
        if self.settings.clip:
            images = self._clipped(images)
        answer = (
            self.classifier.answer(images)
            if self.settings.domain == "normalized"
            else self.classifier(images)
        )
        # Responses are small differences of logits; single precision would round them away.
        return answer if answer.device.type == "mps" else answer.double()

    def _clipped(self, images: Tensor) -> Tensor:
        if self.settings.domain == "pixels":
            return images.clamp(0, 1)
        low = (0 - self.classifier.mean) / self.classifier.std
        high = (1 - self.classifier.mean) / self.classifier.std
        return images.clamp(low[:, None, None], high[:, None, None])

    def to_pixels(self, images: Tensor) -> Tensor:
        """Images of the filtering domain as pixels."""
        if self.settings.domain == "pixels":
            return images
        mean, std = self.classifier.mean, self.classifier.std
        return images * std[:, None, None] + mean[:, None, None]

    def output_of(self, class_index: int) -> int:
        """Model output of a class."""
        return self.images.outputs[class_index]


@dataclass(frozen=True)
class Block:
    """Consecutive images of one class in the filtering domain, (n, C, H, W), and their spectrum."""

    rows: tuple[int, int]
    images: Tensor

    @cached_property
    def spectrum(self) -> Tensor:
        """Half-plane spectrum (n, C, H, W//2+1); taken once, shared by all measures."""
        return spectrum_of(self.images)


class _Runs(Protocol):
    """What every measure has. `revision` goes up whenever the numbers it gives change."""

    @property
    def name(self) -> str:
        """Name in results, file names and shard keys."""
        ...

    @property
    def revision(self) -> int:
        """Part of every shard key."""
        ...

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        """Totals of one shard. `advance(n)` reports n image passes."""
        ...


class Done(Protocol):
    """A finished round, as its measure sees it."""

    @property
    def seconds(self) -> float:
        """What the round took when it was measured; the same again when an audit is resumed."""
        ...

    @property
    def n_passes(self) -> int:
        """Image passes of the round."""
        ...

    def of(self, class_index: int) -> Iterator[tuple[Shard, Totals]]:
        """Totals of a class's shards in order, read one at a time, as often as wanted."""
        ...


Found = TypeVar("Found")


@dataclass(frozen=True)
class Round(Generic[Found]):
    """What a measure wants run before it goes on.

    `n_passes_after`: image passes that are expected to follow this round. `so_far`: makes what the
    measure would say if earlier rounds had been all, for those who look while the audit runs; None
    before there is anything to show.
    """

    shards: Sequence[Shard]
    n_passes_after: int = 0
    so_far: Callable[[], Found] | None = None


# Yields rounds, is sent each one when it is done, and returns what it found.
Rounds = Generator[Round[Found], Done, Found]


class Measure(_Runs, Protocol):
    """A measure that knows all its shards beforehand."""

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        """The settings that can change this measure's totals."""
        ...

    def shards(self, outline: Outline, split: Split) -> list[Shard]:
        """The work on one split, in the order in which totals are added."""
        ...

    def needs(self, found: Arrays) -> Arrays:
        """Arrays of earlier findings that the totals depend on."""
        ...

    def finish(
        self, outline: Outline, images: AuditImages, totals: Iterable[tuple[Shard, Totals]]
    ) -> tuple[Finding, Arrays]:
        """The finding, and its arrays, from the totals of all shards in order."""
        ...


@runtime_checkable
class MeasureInRounds(_Runs, Protocol):
    """A measure that sees totals before it knows what to ask next."""

    @property
    def split(self) -> Split:
        """Whose turn it has: that of the search, which comes first, or of the judgement."""
        ...

    def relevant_to(self, outline: Outline) -> dict[str, Any]:
        """The settings that can change the totals of a given shard, whichever round it is in."""
        ...

    def planned_passes(self, outline: Outline) -> int:
        """Image passes that all rounds together are expected to take; the budget where there is one."""
        ...

    def rounds(
        self, outline: Outline, images: AuditImages, found: Arrays
    ) -> Rounds[tuple[Finding, Arrays]]:
        """The work, round by round; returns the finding and its arrays. `found`: earlier ones."""
        ...


def blocks_of(outline: Outline, split: Split, class_index: int) -> list[tuple[int, int]]:
    """Rows of the blocks of one class in a split; the same for every measure, so they can share."""
    return blocks_between(outline, split, outline.rows_of(split, class_index))


def blocks_between(outline: Outline, split: Split, rows: tuple[int, int]) -> list[tuple[int, int]]:
    """`rows` in blocks, as large as those of a split."""
    start, stop = rows
    step = outline.rows_per_block(split)
    return [(row, min(row + step, stop)) for row in range(start, stop, step)]


def image_shards(measure: str, outline: Outline, split: Split, n_passes_per_image: int) -> list[Shard]:
    """One shard per block of images, over all orbits, for every class."""
    return [
        Shard(
            measure=measure,
            split=split,
            class_index=class_index,
            rows=rows,
            orbits=(0, outline.grid.n_orbits),
            n_passes=n_passes_per_image * (rows[1] - rows[0]),
        )
        for class_index in range(outline.n_classes)
        for rows in blocks_of(outline, split, class_index)
    ]


def logits_in_batches(subject: Subject, images: Tensor, advance: Advance) -> Tensor:
    """Logits (n, K) of all `images`, at most a batch at a time."""
    parts = []
    for start in range(0, len(images), subject.batch_size):
        batch = images[start : start + subject.batch_size]
        parts.append(subject.logits(batch))
        advance(len(batch))
    return torch.cat(parts)


def require_finite(values: Tensor, subject: Subject, rows: tuple[int, int], when: str) -> None:
    """Raise LogitsError, naming the first image, when `values` (n_images, ...) is not finite."""
    finite = torch.isfinite(values).reshape(len(values), -1).all(dim=1).cpu().numpy()
    if not finite.all():
        name = subject.images.names[rows[0] + int(np.argmin(finite))]
        raise LogitsError(
            f"The model answers NaN or infinite logits on image {name}{when}.",
            "Check the weights and the preprocessing (mean, std, dtype).",
        )
