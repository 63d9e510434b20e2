"""Corruptions: what shifts of judgement images cost each class, beside what they do to its orbits.

Corrupted copies are made where they are judged and never kept. Energies are summed within a handful of
regions of the spectrum, not by orbit, so that memory does not grow with orbits times shifts: what each
orbit holds in clean images of the class is measured first, and what a shift does to it becomes a share of
that on the spot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.corruptions import CORRUPTIONS
from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.data.shifts import Shift, corrupt, one_thread
from shortcut_audit.errors import DataError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.transform import spectrum_of
from shortcut_audit.measures.drop_prediction import predict_drop
from shortcut_audit.measures.interface import (
    Advance,
    Arrays,
    Block,
    Outline,
    Round,
    Rounds,
    Shard,
    Split,
    Subject,
    Totals,
    Work,
    blocks_of,
    require_finite,
)
from shortcut_audit.measures.searches.interface import MEASURE as MAPS
from shortcut_audit.measures.shortcuts import NAME as SHORTCUTS
from shortcut_audit.results.corruption_findings import (
    ENERGIES,
    ClassShifts,
    CorruptionsFinding,
    ShiftedRecall,
    ShiftTried,
    orbit_shares,
)
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.findings import Finding
from shortcut_audit.results.provenance import installed_versions
from shortcut_audit.results.shift_names import ALL, split_shift
from shortcut_audit.results.statistics import adjusted_p_values

__all__ = ["NAME", "Corruptions", "shifts_of"]

NAME = "corruptions"
_CLEAN = "clean"
_CORRUPTED = "corrupted"
N_BANDS = 4
REGIONS = ("dominant", "shortcut", "all", "dc", *(f"band {n + 1}" for n in range(N_BANDS)))
# Who draws noise, codes JPEG, filters and moves pixels.
_MAKERS = ("numpy", "pillow", "kornia")
# Values of a stack of images whose spectra stay in a processor's cache.
_CACHED_VALUES = 2**16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Corruptions:
    """Recall under corruptions, the energy that they remove and add, and how far that foretells the drop.

    Every image is judged as it is and under each shift, so that counts are paired. First come the images
    as they are, with the mean energy of every orbit; then a shard is a block of images of one class under
    one corruption at all its severities.
    Images are pixels in [0,1] throughout, whatever domain the search filtered in, and corrupted copies
    are rounded to 8 bits as files are.
    """

    name: str = NAME
    revision: int = 1
    split: Split = "judge"

    def relevant_to(self, outline: Outline) -> dict[str, Any]:
        versions = installed_versions()
        return {"seed": outline.settings.seed, "made by": {name: versions[name] for name in _MAKERS}}

    def planned_passes(self, outline: Outline) -> int:
        """One pass an image as it is and one a shift. Raises DataError for a shift that the images cannot
        have done to them."""
        shifts = shifts_of(outline)
        _require_possible(shifts, (outline.n_channels, outline.grid.height, outline.grid.width))
        rows = (outline.rows_of("judge", index) for index in outline.searched)
        return (1 + len(shifts)) * sum(stop - start for start, stop in rows)

    def rounds(
        self, outline: Outline, images: AuditImages, found: Arrays
    ) -> Rounds[tuple[Finding, Arrays]]:
        shifts = shifts_of(outline)
        maps = _maps(outline, found)
        clean = [
            shard
            for index in outline.searched
            for shard in _shards(self.name, outline, index, [(Work(_CLEAN, {}), 1)])
        ]
        left = self.planned_passes(outline) - sum(shard.n_passes for shard in clean)
        done = yield Round(clean, n_passes_after=left)
        sums = [_ClassSums.of(outline.grid, done.of(index)) for index in outline.searched]
        shards = [
            shard
            for index, own, before in zip(outline.searched, maps, sums, strict=True)
            for shard in _shards(
                self.name, outline, index, _works(outline.grid, shifts, own, before.spectrum)
            )
        ]
        # Shards of one block stand together: it is read once.
        shards.sort(key=lambda shard: shard.rows)
        done = yield Round(shards)
        for index, before in zip(outline.searched, sums, strict=True):
            before.take_in(done.of(index))
        return _finding(outline, images, shifts, maps, sums)

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        assert shard.work is not None
        # Straight from the store: the block may be normalised, and lies on the model's device.
        clean = torch.from_numpy(subject.images.store.block(*shard.rows)).clamp(0, 1)
        output = subject.output_of(shard.class_index)
        if shard.work.kind == _CLEAN:
            logits = _logits(subject, clean, advance)
            require_finite(logits, subject, shard.rows, "")
            return {
                "called": (logits.argmax(dim=1) == output).cpu().numpy(),
                "spectrum": _spectrum(clean, subject.grid),
            }
        return _run_corrupted(shard, subject, clean, output, advance)


def shifts_of(outline: Outline) -> tuple[Shift, ...]:
    """The shifts asked for, severities of one corruption together; `all` leaves out what cannot be done
    to the images: they may lack colour, or a wave in the lowest band."""
    shape = (outline.n_channels, outline.grid.height, outline.grid.width)
    asked: dict[str, set[int]] = {}
    for name, severity in map(split_shift, outline.settings.shifts):
        names = [name]
        if name == ALL:
            names = [each for each in CORRUPTIONS if _fault(Shift(each, severity), shape) is None]
        for each in names:
            asked.setdefault(each, set()).add(severity)
    return tuple(Shift(name, severity) for name in asked for severity in sorted(asked[name]))


def _require_possible(shifts: Sequence[Shift], shape: tuple[int, int, int]) -> None:
    for shift in shifts:
        fault = _fault(shift, shape)
        if fault is not None:
            next_step = f"Leave {shift} out of --shift. {fault.next_step}"
            raise DataError(fault.problem, next_step.removesuffix(" Leave it out.")) from fault


def _fault(shift: Shift, shape: tuple[int, int, int]) -> DataError | None:
    """Why images of `shape` (C, H, W) cannot be corrupted so; None where they can."""
    try:
        corrupt(torch.zeros(1, *shape), shift.name, shift.severity, 0, [0])
    except DataError as error:
        return error
    return None


def _maps(outline: Outline, found: Arrays) -> NDArray[np.bool_]:
    """The class's map, and what its verdict rests on, (n_searched, 2, n_orbits)."""
    pair = [found[f"{MAPS}/kept"], found[f"{SHORTCUTS}/best"]]
    return np.stack(pair, axis=1).astype(np.bool_)


def _works(
    grid: FrequencyGrid, shifts: Sequence[Shift], maps: NDArray[np.bool_], spectrum: Floats
) -> list[tuple[Work, int]]:
    """What is asked of every block of a class, one work a corruption, with passes an image.

    `maps` (2, n_orbits) of the class; `spectrum` (n_orbits,) its mean clean energy.
    """
    works = []
    # Single precision says enough of it, and every class has one.
    held = {"maps": maps, "spectrum": spectrum.astype(np.float32)}
    for name in dict.fromkeys(shift.name for shift in shifts):
        severities = [shift.severity for shift in shifts if shift.name == name]
        values = [CORRUPTIONS[name].values(each, grid.height, grid.width) for each in severities]
        arrays: Arrays = {
            **held,
            "corruption": np.array([name], dtype="S"),
            "severities": np.array(severities, dtype=np.int64),
            "parameters": np.array([list(each.values()) for each in values], dtype=np.float64),
        }
        works.append((Work(_CORRUPTED, arrays), len(severities)))
    return works


def _shards(
    measure: str, outline: Outline, class_index: int, works: Sequence[tuple[Work, int]]
) -> Iterator[Shard]:
    """One shard a block of the class and work."""
    for rows in blocks_of(outline, "judge", class_index):
        for work, n_passes in works:
            yield Shard(
                measure=measure,
                split="judge",
                class_index=class_index,
                rows=rows,
                orbits=(0, outline.grid.n_orbits),
                n_passes=n_passes * (rows[1] - rows[0]),
                work=work,
            )


def _run_corrupted(
    shard: Shard, subject: Subject, clean: Tensor, output: int, advance: Advance
) -> Totals:
    """`called` (n_severities, n) by their own class; `energy` (n_severities, n_regions, 7), summed."""
    assert shard.work is not None
    given = shard.work.arrays
    name = given["corruption"][0].decode()
    # What an image is, and not where it stands, decides what is drawn for it.
    keys = subject.images.store.digests[slice(*shard.rows)]
    weights = _weights(subject, given["maps"], given["spectrum"])
    called, energy = [], []
    for severity in given["severities"].tolist():
        with one_thread():
            copies = corrupt(clean, name, severity, subject.settings.seed, keys, eight_bit=True)
            energy.append(_energies(clean, copies, weights))
        logits = _logits(subject, copies, advance)
        require_finite(logits, subject, shard.rows, f" under {Shift(name, severity)}")
        called.append((logits.argmax(dim=1) == output).cpu().numpy())
    return {"called": np.stack(called), "energy": np.stack(energy)}


def _logits(subject: Subject, pixels: Tensor, advance: Advance) -> Tensor:
    """Logits (n, K) of `pixels` on the CPU, a batch at a time."""
    classifier, parts = subject.classifier, []
    for start in range(0, len(pixels), subject.batch_size):
        batch = pixels[start : start + subject.batch_size]
        parts.append(classifier(batch.to(classifier.device, classifier.dtype)))
        advance(len(batch))
    return torch.cat(parts)


def _weights(subject: Subject, maps: NDArray[np.bool_], spectrum: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """What each bin of the half plane counts in each region, (H * (W//2+1), n_regions), twice: for sums
    of energy, and for means of shares of what its orbit holds in clean images."""
    grid = subject.grid
    bands = grid.bands(N_BANDS)
    chosen = [*maps, np.arange(grid.n_orbits) > 0, np.arange(grid.n_orbits) == 0]
    chosen += [bands == band for band in range(N_BANDS)]
    by_bin = (np.stack(chosen)[:, grid.orbit_of_bin] * _counted(grid)).reshape(len(chosen), -1)
    # An orbit with less than rounding to 8 bits puts into it is as good as empty.
    rounding = subject.outline.n_channels * grid.height * grid.width / (12 * 255**2)
    held = np.maximum(spectrum.astype(np.float64), rounding)[grid.orbit_of_bin].reshape(-1)
    shares = by_bin / held / np.maximum(by_bin.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(by_bin.T.copy()), torch.from_numpy(shares.T.copy())


@lru_cache(maxsize=4)
def _counted(grid: FrequencyGrid) -> Floats:
    """Bins of the full plane that each of the half plane stands for, (H, W//2+1): its orbit's members,
    shared where both of them are in the half plane."""
    here = np.bincount(grid.orbit_of_bin.ravel(), minlength=grid.n_orbits)
    shared: Floats = (grid.members / here)[grid.orbit_of_bin]
    return shared


def _spectrum(clean: Tensor, grid: FrequencyGrid) -> Floats:
    """|F|^2 of a bin of every orbit over all channels, (n_orbits,), summed over `clean` (n, C, H, W)."""
    total = np.zeros((grid.height, grid.n_half_columns))
    with one_thread():
        for rows in _in_cache(clean):
            total += _power(spectrum_of(clean[rows].double())).sum(dim=0).numpy()
    spectrum: Floats = total[grid.rows, grid.columns]
    return spectrum


def _energies(clean: Tensor, copies: Tensor, weights: tuple[Tensor, Tensor]) -> Floats:
    """`ENERGIES` summed over images, (n_regions, 7), in double precision.

    `clean`, `copies` (n, C, H, W); an orbit's energy is taken over all channels of one image before it
    is said to have risen or fallen.
    """
    total = np.zeros((weights[0].shape[1], len(ENERGIES)))
    for rows in _in_cache(clean):
        before, after = spectrum_of(clean[rows].double()), spectrum_of(copies[rows].double())
        power, difference = _power(before), _power(after - before)
        rise = _power(after) - power
        changes = ((-rise).clamp(min=0), rise.clamp(min=0), difference)
        parts = torch.stack([part.sum(dim=0).reshape(-1) for part in (power, *changes)])
        energies, shares = parts @ weights[0], parts[1:] @ weights[1]
        total += torch.cat([energies, shares]).T.numpy()
    return total


def _in_cache(images: Tensor) -> Iterator[slice]:
    """As many images at a time as stay in a processor's cache."""
    step = max(1, _CACHED_VALUES // max(1, images[:1].numel()))
    yield from (slice(start, start + step) for start in range(0, len(images), step))


def _power(spectrum: Tensor) -> Tensor:
    """|F|^2 summed over channels, (n, H, W//2+1)."""
    return (spectrum.real.square() + spectrum.imag.square()).sum(dim=1)


@dataclass
class _ClassSums:
    """A class over its blocks. `clean`: whether each image is called by it, (n,); `spectrum` (n_orbits,)
    mean |F|^2; `corrupted` (n_severities, n) and `energy` (n_severities, n_regions, 7), summed, by
    corruption."""

    clean: NDArray[np.bool_]
    spectrum: Floats
    corrupted: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    energy: dict[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, grid: FrequencyGrid, totals: Iterator[tuple[Shard, Totals]]) -> _ClassSums:
        called, spectrum = [], np.zeros(grid.n_orbits)
        for _, total in totals:
            called.append(total["called"])
            spectrum += total["spectrum"]
        clean = np.concatenate(called)
        return cls(clean, spectrum / len(clean))

    def take_in(self, totals: Iterator[tuple[Shard, Totals]]) -> None:
        for shard, total in totals:
            assert shard.work is not None
            name = shard.work.arrays["corruption"][0].decode()
            before = self.corrupted.get(name)
            called = total["called"]
            self.corrupted[name] = called if before is None else np.concatenate([before, called], axis=1)
            self.energy[name] = self.energy.get(name, 0) + total["energy"]

    @property
    def pairs(self) -> list[Paired]:
        """Recall as they are against recall under each shift."""
        return [
            Paired(
                n=len(self.clean),
                both=int((self.clean & own).sum()),
                only_first=int((self.clean & ~own).sum()),
                only_second=int((~self.clean & own).sum()),
            )
            for own in np.concatenate(list(self.corrupted.values()))
        ]

    @property
    def mean_energy(self) -> Floats:
        """`ENERGIES` by shift and region, (n_shifts, n_regions, 7), a mean image."""
        energy: Floats = np.concatenate(list(self.energy.values())) / len(self.clean)
        return energy


def _finding(
    outline: Outline,
    images: AuditImages,
    shifts: Sequence[Shift],
    maps: NDArray[np.bool_],
    sums: Sequence[_ClassSums],
) -> tuple[CorruptionsFinding, Arrays]:
    pairs = [each.pairs for each in sums]
    adjusted = [adjusted_p_values([own[n].p_value for own in pairs]) for n in range(len(shifts))]
    by_class = tuple(
        ClassShifts(
            class_name=images.class_names[index],
            n_judge=len(sums[column].clean),
            n_orbits_dominant=int(maps[column, 0].sum()),
            n_orbits_shortcut=int(maps[column, 1].sum()),
            by_shift=tuple(
                ShiftedRecall(recall=pair, q_value=adjusted[n][column])
                for n, pair in enumerate(pairs[column])
            ),
        )
        for column, index in enumerate(outline.searched)
    )
    energy = np.stack([each.mean_energy for each in sums])
    shares = orbit_shares(energy)
    finding = CorruptionsFinding(
        shifts=tuple(_tried(shift, outline.grid) for shift in shifts),
        regions=REGIONS,
        by_class=by_class,
        prediction=predict_drop(
            pairs,
            shares[:, :, REGIONS.index("dominant")],
            shares[:, :, REGIONS.index("all")],
            [(shift.name, shift.severity) for shift in shifts],
            outline.settings.seed,
        ),
    )
    return finding, {f"{NAME}/energy": energy}


def _tried(shift: Shift, grid: FrequencyGrid) -> ShiftTried:
    values = CORRUPTIONS[shift.name].values(shift.severity, grid.height, grid.width)
    return ShiftTried(corruption=shift.name, severity=shift.severity, parameters=values)
