"""Corruptions: what shifts of judgement images cost each class, beside what they do to its orbits.

Corrupted copies are made where they are judged and never kept. Energies are summed within a handful of
regions of the spectrum, not by orbit, so that memory does not grow with the number of shifts.
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
    energy_shares,
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

    Every image is judged as it is and under each shift, so that counts are paired. A shard is a block of
    images of one class under one corruption at all its severities; another one has them as they are.
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
        shards = [
            shard
            for column, index in enumerate(outline.searched)
            for shard in _shards(self.name, outline, shifts, index, maps[column])
        ]
        # Shards of one block stand together: it is read once.
        shards.sort(key=lambda shard: shard.rows)
        done = yield Round(shards)
        sums = [_ClassSums.of(shifts, done.of(index)) for index in outline.searched]
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
            return {"called": (logits.argmax(dim=1) == output).cpu().numpy()}
        return _run_corrupted(shard, subject, clean, output, advance)


def shifts_of(outline: Outline) -> tuple[Shift, ...]:
    """The shifts asked for, severities of one corruption together; `all` leaves out what needs colour
    where the images have none."""
    asked: dict[str, set[int]] = {}
    for name, severity in map(split_shift, outline.settings.shifts):
        names = [name]
        if name == ALL:
            colour = outline.n_channels == 3
            names = [each for each, made in CORRUPTIONS.items() if colour or not made.needs_colour]
        for each in names:
            asked.setdefault(each, set()).add(severity)
    return tuple(Shift(name, severity) for name in asked for severity in sorted(asked[name]))


def _require_possible(shifts: Sequence[Shift], shape: tuple[int, int, int]) -> None:
    for shift in shifts:
        try:
            corrupt(torch.zeros(1, *shape), shift.name, shift.severity, 0, [0])
        except DataError as error:
            raise DataError(error.problem, f"Leave {shift} out of --shift. {error.next_step}") from error


def _maps(outline: Outline, found: Arrays) -> NDArray[np.bool_]:
    """The class's map, and what its verdict rests on, (n_searched, 2, n_orbits)."""
    pair = [found[f"{MAPS}/kept"], found[f"{SHORTCUTS}/best"]]
    return np.stack(pair, axis=1).astype(np.bool_)


def _shards(
    measure: str, outline: Outline, shifts: Sequence[Shift], class_index: int, maps: NDArray[np.bool_]
) -> Iterator[Shard]:
    """One shard a block and corruption, and one for the block as it is."""
    works = [(Work(_CLEAN, {}), 1)]
    for name in dict.fromkeys(shift.name for shift in shifts):
        severities = [shift.severity for shift in shifts if shift.name == name]
        values = [
            CORRUPTIONS[name].values(severity, outline.grid.height, outline.grid.width)
            for severity in severities
        ]
        arrays = {
            "corruption": np.array([name], dtype="S"),
            "severities": np.array(severities, dtype=np.int64),
            "parameters": np.array([list(each.values()) for each in values], dtype=np.float64),
            "maps": maps,
        }
        works.append((Work(_CORRUPTED, arrays), len(severities)))
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
    """`called` (n_severities, n) by their own class; `energy` (n_severities, n_regions, 4), summed."""
    assert shard.work is not None
    given = shard.work.arrays
    name = given["corruption"][0].decode()
    # What an image is, and not where it stands, decides what is drawn for it.
    keys = subject.images.store.digests[slice(*shard.rows)]
    weights = _weights(subject.grid, given["maps"])
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


def _weights(grid: FrequencyGrid, maps: NDArray[np.bool_]) -> Tensor:
    """What each bin of the half plane counts in each region, (H * (W//2+1), n_regions)."""
    bands = grid.bands(N_BANDS)
    chosen = [*maps, np.arange(grid.n_orbits) > 0, np.arange(grid.n_orbits) == 0]
    chosen += [bands == band for band in range(N_BANDS)]
    by_bin = np.stack(chosen)[:, grid.orbit_of_bin] * _counted(grid)
    return torch.from_numpy(by_bin.reshape(len(chosen), -1).T.copy())


@lru_cache(maxsize=4)
def _counted(grid: FrequencyGrid) -> Floats:
    """Bins of the full plane that each of the half plane stands for, (H, W//2+1): its orbit's members,
    shared where both of them are in the half plane."""
    here = np.bincount(grid.orbit_of_bin.ravel(), minlength=grid.n_orbits)
    shared: Floats = (grid.members / here)[grid.orbit_of_bin]
    return shared


def _energies(clean: Tensor, copies: Tensor, weights: Tensor) -> Floats:
    """Energy as `ENERGIES`, summed over images, (n_regions, 4), in double precision.

    `clean`, `copies` (n, C, H, W); an orbit's energy is taken over all channels of one image before it
    is said to have risen or fallen.
    """
    total = np.zeros((weights.shape[1], len(ENERGIES)))
    step = max(1, _CACHED_VALUES // max(1, clean[:1].numel()))
    for start in range(0, len(clean), step):
        rows = slice(start, start + step)
        before, after = spectrum_of(clean[rows].double()), spectrum_of(copies[rows].double())
        power, shifted = _power(before), _power(after)
        rise = shifted - power
        parts = (power, (-rise).clamp(min=0), rise.clamp(min=0), _power(after - before))
        for place, part in enumerate(parts):
            total[:, place] += (part.sum(dim=0).reshape(-1) @ weights).numpy()
    return total


def _power(spectrum: Tensor) -> Tensor:
    """|F|^2 summed over channels, (n, H, W//2+1)."""
    return (spectrum.real.square() + spectrum.imag.square()).sum(dim=1)


@dataclass
class _ClassSums:
    """A class over its blocks: whether each image is called by it, (n,) as it is and (n_shifts, n)
    corrupted; `energy` (n_shifts, n_regions, 4), summed."""

    clean: list[NDArray[np.bool_]] = field(default_factory=list)
    by_corruption: dict[str, list[NDArray[np.bool_]]] = field(default_factory=dict)
    energy: dict[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, shifts: Sequence[Shift], totals: Iterator[tuple[Shard, Totals]]) -> _ClassSums:
        sums = cls()
        for shard, total in totals:
            assert shard.work is not None
            if shard.work.kind == _CLEAN:
                sums.clean.append(total["called"])
                continue
            name = shard.work.arrays["corruption"][0].decode()
            sums.by_corruption.setdefault(name, []).append(total["called"])
            sums.energy[name] = sums.energy.get(name, 0) + total["energy"]
        return sums

    def called(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Clean (n,) and corrupted (n_shifts, n)."""
        corrupted = [np.concatenate(blocks, axis=1) for blocks in self.by_corruption.values()]
        return np.concatenate(self.clean), np.concatenate(corrupted)


def _finding(
    outline: Outline,
    images: AuditImages,
    shifts: Sequence[Shift],
    maps: NDArray[np.bool_],
    sums: Sequence[_ClassSums],
) -> tuple[CorruptionsFinding, Arrays]:
    pairs = [_pairs(*each.called()) for each in sums]
    adjusted = [adjusted_p_values([own[n].p_value for own in pairs]) for n in range(len(shifts))]
    by_class, energies = [], []
    for column, index in enumerate(outline.searched):
        recalls = tuple(
            ShiftedRecall(recall=pair, q_value=adjusted[n][column])
            for n, pair in enumerate(pairs[column])
        )
        n_judge = len(sums[column].called()[0])
        by_class.append(
            ClassShifts(
                class_name=images.class_names[index],
                n_judge=n_judge,
                n_orbits_dominant=int(maps[column, 0].sum()),
                n_orbits_shortcut=int(maps[column, 1].sum()),
                by_shift=recalls,
            )
        )
        energies.append(np.concatenate(list(sums[column].energy.values())) / n_judge)
    energy = np.stack(energies)
    shares = energy_shares(energy)
    finding = CorruptionsFinding(
        shifts=tuple(_tried(shift, outline.grid) for shift in shifts),
        regions=REGIONS,
        by_class=tuple(by_class),
        prediction=predict_drop(
            pairs,
            shares[:, :, REGIONS.index("dominant")],
            shares[:, :, REGIONS.index("all")],
            [(shift.name, shift.severity) for shift in shifts],
            outline.settings.seed,
        ),
    )
    return finding, {f"{NAME}/energy": energy}


def _pairs(clean: NDArray[np.bool_], corrupted: NDArray[np.bool_]) -> list[Paired]:
    """Recall as they are against recall under each shift."""
    return [
        Paired(
            n=len(clean),
            both=int((clean & own).sum()),
            only_first=int((clean & ~own).sum()),
            only_second=int((~clean & own).sum()),
        )
        for own in corrupted
    ]


def _tried(shift: Shift, grid: FrequencyGrid) -> ShiftTried:
    values = CORRUPTIONS[shift.name].values(shift.severity, grid.height, grid.width)
    return ShiftTried(corruption=shift.name, severity=shift.severity, parameters=values)
