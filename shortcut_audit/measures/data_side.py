"""A look at images before any model: spectra, the probe, and the bands that invite a shortcut.

The images are gone through once for the sums of every class, once more where single waves stand out
(rings are then looked at without them), and once for the images' own excess in what is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.cells import Neighbours, SpectrumCells
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.transform import orbit_amplitude, spectrum_of
from shortcut_audit.measures.class_spectra import class_spectra_of
from shortcut_audit.measures.contrasts import (
    ClassContrast,
    ContrastSums,
    contrast_of_combs,
    contrast_of_orbits,
    power_floor,
)
from shortcut_audit.measures.interface import Arrays
from shortcut_audit.measures.invitations import (
    LEAST_AUC,
    LEAST_EXCESS,
    Named,
    invitations,
    named_combs,
    named_orbits,
    named_rings,
    threshold_of,
)
from shortcut_audit.measures.ring_contrasts import contrast_of_rings, ring_windows
from shortcut_audit.measures.spectrum_probe import probe_spectrum, score_among
from shortcut_audit.results.findings import (
    ClassSpectraFinding,
    Finding,
    Invitation,
    InvitationsFinding,
    ProbeScore,
    SpectrumProbeFinding,
)
from shortcut_audit.results.settings import DataAuditSettings
from shortcut_audit.results.statistics import auc_interval

__all__ = ["look_at_data"]

Floats = NDArray[np.float64]
Advance = Callable[[int], None]

N_BANDS = 4
_N_RINGS = 32
# Cells of the probe: two rings a band, directions in steps of 22.5 degrees.
_PROBE_RINGS, _PROBE_SECTORS = 2 * N_BANDS, 8
# A band tells a class, and no other band does: then it is no trait of a thing, which is in all of them.
_LEAST_GAIN_OF_BAND = 0.3
# Pixels in memory at once, as in audits of a model.
_FLOATS_PER_BLOCK = 1 << 22
# A ring lies in every band that holds this share of it.
_SHARE_OF_RING = 0.25


def look_at_data(
    images: AuditImages, settings: DataAuditSettings, advance: Advance | None = None
) -> tuple[list[Finding], Arrays]:
    """Findings and arrays of an audit of data alone. `advance(n)` reports n images gone through."""
    look = _Look(images, settings, advance or (lambda n: None))
    spectra, arrays = look.class_spectra()
    named = look.invitations()
    return [spectra, look.probe, named], {**arrays, "invitations/z": look.z}


@dataclass
class _Look:
    """Everything that is computed once and shared."""

    images: AuditImages
    settings: DataAuditSettings
    advance: Advance
    amplitude: list[Floats] = field(default_factory=list)
    power: list[Floats] = field(default_factory=list)
    cells_by_image: list[Floats] = field(default_factory=list)
    colour: list[Floats] = field(default_factory=list)

    @cached_property
    def grid(self) -> FrequencyGrid:
        return FrequencyGrid(*self.images.store.shape[1:])

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(self.grid)

    @cached_property
    def probe_cells(self) -> SpectrumCells:
        return SpectrumCells(self.grid, _PROBE_RINGS, _PROBE_SECTORS)

    @cached_property
    def ring_cells(self) -> SpectrumCells:
        n_rings = max(1, min(_N_RINGS, min(self.grid.height, self.grid.width) // 2))
        return SpectrumCells(self.grid, n_rings, 1)

    @property
    def rows_by_class(self) -> list[tuple[int, int]]:
        both = zip(self.images.search_rows, self.images.judge_rows, strict=True)
        return [(search[0], judge[1]) for search, judge in both]

    def blocks(self, rows: tuple[int, int]) -> Iterator[tuple[NDArray[np.float32], torch.Tensor]]:
        """Pixels (b, C, H, W) of some of the images, and the amplitudes |X| of their orbits."""
        step = max(1, _FLOATS_PER_BLOCK // int(np.prod(self.images.store.shape)))
        for start in range(rows[0], rows[1], step):
            pixels = self.images.store.block(start, min(start + step, rows[1]))
            spectrum = spectrum_of(torch.from_numpy(pixels).double())
            yield pixels, orbit_amplitude(spectrum, self.grid)
            self.advance(len(pixels))

    def powers(self, rows: tuple[int, int]) -> Iterator[Floats]:
        """Squared wave amplitudes (b, n_orbits), in (1/255)^2, averaged over channels."""
        for _, amplitude in self.blocks(rows):
            yield self._wave_power(amplitude)

    def _wave_power(self, amplitude: torch.Tensor) -> Floats:
        scale = 255 * self.grid.members / (self.grid.height * self.grid.width)
        power: Floats = (amplitude**2).mean(dim=1).numpy() * scale**2
        return power

    @cached_property
    def sums(self) -> list[ContrastSums]:
        """Sums of every class, from the first pass; fills the other lists on its way."""
        floor = power_floor(self.grid)
        found = []
        for rows in self.rows_by_class:
            sums = ContrastSums(self.grid, self.neighbours)
            amplitudes, powers = np.zeros(self.grid.n_orbits), np.zeros(self.grid.n_orbits)
            cells, colour = [], []
            for pixels, amplitude in self.blocks(rows):
                wave_power = self._wave_power(amplitude)
                sums.add(wave_power)
                amplitudes += amplitude.mean(dim=1).sum(dim=0).numpy()
                powers += (amplitude**2).mean(dim=1).sum(dim=0).numpy()
                cells.append(self.probe_cells.pool(0.5 * np.log(wave_power + floor)))
                flat = pixels.reshape(*pixels.shape[:2], -1)
                colour.append(np.concatenate([flat.mean(axis=2), flat.std(axis=2)], axis=1))
            self.amplitude.append(amplitudes / sums.n)
            self.power.append(powers / sums.n)
            self.cells_by_image.append(np.concatenate(cells))
            self.colour.append(np.concatenate(colour).astype(np.float64))
            found.append(sums)
        return found

    def class_spectra(self) -> tuple[ClassSpectraFinding, Arrays]:
        n_images = [sums.n for sums in self.sums]
        return class_spectra_of(self.grid, np.stack(self.amplitude), np.stack(self.power), n_images)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.sums)), [sums.n for sums in self.sums])

    @property
    def probe(self) -> SpectrumProbeFinding:
        return self._probed[0]

    @cached_property
    def _band_of_cell(self) -> NDArray[np.int64]:
        edges = min(self.grid.height, self.grid.width) / 2 / N_BANDS
        band: NDArray[np.int64] = np.minimum(
            (self.probe_cells.radius_of_cell / edges).astype(np.int64), N_BANDS - 1
        )
        return band + 1

    @cached_property
    def _probed(self) -> tuple[SpectrumProbeFinding, NDArray[np.int64]]:
        labels = self.labels
        cells = np.concatenate(self.cells_by_image)
        band = self._band_of_cell
        parts: list[tuple[str, int | None, Floats]] = [("all", None, cells)]
        for number in range(1, N_BANDS + 1):
            if (band == number).any():
                parts.append((f"band {number}", number, cells[:, band == number]))
        parts.append(("mean and contrast", None, np.concatenate(self.colour)))
        return probe_spectrum(
            parts,
            labels,
            len(self.sums),
            n_folds=self.settings.folds,
            seed=self.settings.seed,
        )

    @cached_property
    def by_orbit(self) -> ClassContrast:
        return contrast_of_orbits(self.sums)

    @property
    def z(self) -> NDArray[np.float32]:
        z: NDArray[np.float32] = np.where(self.neighbours.comparable, self.by_orbit.z, 0).astype(
            np.float32
        )
        return z

    def invitations(self) -> InvitationsFinding:
        combs = contrast_of_combs(self.sums, self.by_orbit)
        n_orbit_tests = int(self.neighbours.comparable.sum()) * len(self.sums)
        n_tests = n_orbit_tests + len(combs) * len(self.sums)
        # Rings are counted before it is known whether orbits are taken out of them.
        n_tests += len(ring_windows(self.ring_cells, np.zeros(self.grid.n_orbits, bool))) * len(self.sums)
        threshold = threshold_of(n_tests, self.settings.significance)
        grids = list(named_combs(combs, self.sums[0].combs, self.by_orbit, threshold))
        lines = {(g.class_index, int(o)) for g in grids for o in g.orbits}
        orbits = [
            one
            for one in named_orbits(self._beside(grids), threshold)
            if (one.class_index, int(one.orbits[0])) not in lines
        ]
        peaks = np.zeros(self.grid.n_orbits, dtype=np.bool_)
        for one in (*orbits, *grids):
            peaks[one.orbits] = True
        rings = self._named_rings(peaks, threshold)
        items = self._items([*orbits, *grids, *rings], n_tests)
        named = {(item.class_name, item.band) for item in items}
        items += self._by_probe(named)
        return invitations(items, n_tests, threshold)

    def _beside(self, grids: list[Named]) -> ClassContrast:
        """Contrasts of single orbits, without the lines of named grids for neighbours.

        On an axis every other neighbour may be one: of few classes the others stand out between them.
        """
        if not grids:
            return self.by_orbit
        lines = np.zeros(self.grid.n_orbits, dtype=np.bool_)
        lines[np.concatenate([one.orbits for one in grids])] = True
        return contrast_of_orbits(self.sums, lines)

    def _named_rings(self, peaks: NDArray[np.bool_], threshold: float) -> list[Named]:
        windows = ring_windows(self.ring_cells, peaks)
        if not windows:
            return []
        floor = power_floor(self.grid)
        logs, powers = [], []
        for rows in self.rows_by_class:
            of_class = [
                (
                    self.ring_cells.pool_rings(np.log(power + floor), peaks),
                    self.ring_cells.pool_rings(power, peaks),
                )
                for power in self.powers(rows)
            ]
            logs.append(np.concatenate([each[0] for each in of_class]))
            powers.append(np.concatenate([each[1] for each in of_class]))
        contrast = contrast_of_rings(windows, logs, powers, float(floor.max()))
        found = list(named_rings(contrast, windows, self.ring_cells, threshold))
        return [
            Named(
                each.class_index,
                each.evidence,
                each.orbits[~peaks[each.orbits]],
                each.window,
                each.difference,
                each.added,
                each.z,
            )
            for each in found
        ]

    def _by_band(self, named: Named) -> Iterator[tuple[int, Named]]:
        """The bands that a unit lies in, and what of it is asked about there."""
        band = self.grid.bands(N_BANDS)[named.orbits] + 1
        weights = self.grid.members[named.orbits]
        for number in np.unique(band[band > 0]).tolist():
            within = band == number
            if named.evidence == "ring":
                if weights[within].sum() > _SHARE_OF_RING * weights.sum():
                    yield number, named
                continue
            orbits = named.orbits[within]
            # Some lines of a grid are fainter than others.
            if self.by_orbit.difference[named.class_index, orbits].mean() >= LEAST_EXCESS:
                yield number, replace(named, orbits=orbits)

    def _items(self, named: list[Named], n_tests: int) -> list[Invitation]:
        """Named units as items: waves of a class and band together, a grid or ring once for each band."""
        groups: dict[tuple[int, int, str, int], list[Named]] = {}
        for number, one in enumerate(named):
            for band, part in self._by_band(one):
                unit = 0 if one.evidence == "orbits" else number
                groups.setdefault((one.class_index, band, one.evidence, unit), []).append(part)
        excess = self._excess_of_images(list(groups.values()))
        items = [
            self._item(class_index, band, group, values, n_tests)
            for ((class_index, band, _, _), group), values in zip(groups.items(), excess, strict=True)
        ]
        return [item for item in items if item.auc_low is not None and item.auc_low >= LEAST_AUC]

    def _item(
        self, class_index: int, band: int, group: list[Named], values: Floats, n_tests: int
    ) -> Invitation:
        first = max(group, key=lambda one: one.z)
        orbits = np.concatenate([one.orbits for one in sorted(group, key=lambda one: -one.z)])
        own = self.labels == class_index
        auc, low, high = auc_interval(values[own], values[~own])
        added = float(np.mean([one.added for one in group]))
        radius = self.grid.radius[orbits]
        return Invitation(
            class_name=self.images.class_names[class_index],
            band=band,
            evidence=first.evidence,
            orbits=()
            if first.evidence == "ring"
            else tuple((int(self.grid.u[o]), int(self.grid.v[o])) for o in orbits),
            n_orbits=len(orbits),
            radius=(float(radius.min()), float(radius.max())),
            excess=float(np.mean([one.difference for one in group])),
            amplitude=float(np.sqrt(max(added, 0.0))),
            auc=auc,
            auc_low=low,
            auc_high=high,
            z=first.z,
            p_value=float(min(1.0, n_tests * norm.sf(first.z))),
        )

    def _excess_of_images(self, groups: list[list[Named]]) -> list[Floats]:
        """Excess of every image in each group of named units, (n_images,) each."""
        if not groups:
            return []
        floor = power_floor(self.grid)
        parts: list[list[Floats]] = [[] for _ in groups]
        for rows in self.rows_by_class:
            for power in self.powers(rows):
                log_power = np.log(power + floor)
                contrast = log_power - self.neighbours.mean(log_power)
                for group, found in zip(groups, parts, strict=True):
                    window = group[0].window
                    if window is None:
                        found.append(contrast[:, np.concatenate([o.orbits for o in group])].mean(axis=1))
                        continue
                    rings = np.nan_to_num(self.ring_cells.pool_rings(log_power))
                    found.append(rings @ (window.inside - window.around))
        return [np.concatenate(found) for found in parts]

    def _by_probe(self, named: set[tuple[str, int]]) -> list[Invitation]:
        """Bands whose amplitudes tell a class when those of no other band do, beyond what is `named`.

        Who is told from a class that is named already is not asked: all others are, by its pattern.
        """
        names = self.images.class_names
        parts = [row for row, part in enumerate(self.probe.results) if part.band is not None]
        found = []
        for row in parts if len(parts) > 1 else ():
            band = self.probe.results[row].band
            assert band is not None
            left = [k for k, name in enumerate(names) if (name, band) not in named]
            while (best := self._told_best(row, parts, left)) is not None:
                class_index, score = best
                left.remove(class_index)
                within = self.grid.bands(N_BANDS) == band - 1
                radius = self.grid.radius[within]
                found.append(
                    Invitation(
                        class_name=names[class_index],
                        band=band,
                        evidence="probe",
                        n_orbits=int(within.sum()),
                        radius=(float(radius.min()), float(radius.max())),
                        over_chance=score.over_chance,
                    )
                )
        return found

    def _told_best(self, row: int, parts: list[int], left: list[int]) -> tuple[int, ProbeScore] | None:
        """Of the classes `left`, the one that this band alone tells best from the others; None if none.

        Two classes tell each other: of them it is the one with more power in the band.
        """
        confusions = self._probed[1]
        told: list[tuple[float, int, ProbeScore]] = []
        for class_index in left if len(left) > 1 else ():
            others = [k for k in left if k != class_index]
            own = score_among(confusions[row], class_index, others)
            elsewhere = max(
                score_among(confusions[part], class_index, others).high for part in parts if part != row
            )
            gain = own.low - max(elsewhere, 0.0)
            if gain >= _LEAST_GAIN_OF_BAND:
                told.append((gain, class_index, own))
        if not told:
            return None
        if len(left) == 2:
            band = self._band_of_cell == self.probe.results[row].band
            power = [self.cells_by_image[k][:, band].mean() for k in left]
            told = [each for each in told if each[1] == left[int(np.argmax(power))]]
            if not told:
                return None
        _, class_index, own = max(told, key=lambda each: each[:2])
        return class_index, own
