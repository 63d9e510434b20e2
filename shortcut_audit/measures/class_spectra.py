"""Class spectra: mean amplitude per orbit, slope, band energies and ADCS; before any model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.transform import orbit_amplitude
from shortcut_audit.measures.interface import (
    Advance,
    Arrays,
    Block,
    Outline,
    Shard,
    Split,
    Subject,
    Totals,
    image_shards,
)
from shortcut_audit.results.findings import ClassSpectraFinding
from shortcut_audit.results.settings import AuditSettings

__all__ = ["ClassSpectra", "adcs", "class_spectra_of", "spectral_slope"]


@dataclass(frozen=True)
class ClassSpectra:
    """E_c(o): mean over the images of class c of |X(o)|, averaged over channels; no forward pass."""

    name: str = "class_spectra"
    revision: int = 2

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {"domain": settings.domain}

    def shards(self, outline: Outline, split: Split) -> list[Shard]:
        return image_shards(self.name, outline, split, n_passes_per_image=0)

    def needs(self, found: Arrays) -> Arrays:
        return {}

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        amplitude = orbit_amplitude(block.spectrum, subject.grid)
        return {
            "amplitude": amplitude.mean(dim=1).cpu().double().sum(dim=0).numpy(),
            "power": (amplitude**2).mean(dim=1).cpu().double().sum(dim=0).numpy(),
        }

    def finish(
        self, outline: Outline, images: AuditImages, totals: Iterable[tuple[Shard, Totals]]
    ) -> tuple[ClassSpectraFinding, Arrays]:
        amplitude, power = (np.zeros((outline.n_classes, outline.grid.n_orbits)) for _ in range(2))
        n_images = np.zeros(outline.n_classes, dtype=np.int64)
        for shard, total in totals:
            amplitude[shard.class_index] += total["amplitude"]
            power[shard.class_index] += total["power"]
            n_images[shard.class_index] += shard.n_images
        n = n_images[:, None]
        return class_spectra_of(outline.grid, amplitude / n, power / n, n_images.tolist())


def class_spectra_of(
    grid: FrequencyGrid,
    amplitude: NDArray[np.float64],
    power: NDArray[np.float64],
    n_images: Sequence[int],
    n_bands: int = 4,
) -> tuple[ClassSpectraFinding, Arrays]:
    """The finding from mean |X| and mean |X|^2 of each class, both (C, n_orbits)."""
    band = grid.bands(n_bands)
    energy = np.stack(
        [(power * grid.members)[:, band == number].sum(axis=1) for number in range(n_bands)], axis=1
    )
    finding = ClassSpectraFinding(
        n_images_by_class=tuple(int(n) for n in n_images),
        slope_by_class=tuple(spectral_slope(grid, each) for each in amplitude),
    )
    return finding, {
        "class_spectra/amplitude": amplitude.astype(np.float32),
        "class_spectra/adcs": adcs(amplitude),
        "class_spectra/band_energy": energy,
    }


def spectral_slope(grid: FrequencyGrid, amplitude: NDArray[np.floating]) -> float | None:
    """-d log amplitude / d log radius of a mean spectrum (n_orbits,), from radius 1 to Nyquist.

    Amplitudes are averaged in rings one cycle wide first, so that the many orbits of high radius do
    not outweigh the few of low radius. About 1 for photographs (Field 1987). None where a ring is empty
    of power, or there are fewer than three.
    """
    radius = np.rint(grid.radius).astype(np.int64)
    rings = range(1, min(grid.height, grid.width) // 2 + 1)
    mean = np.array([amplitude[radius == ring].mean() for ring in rings])
    if len(mean) < 3 or not (mean > 0).all():
        return None
    # Rings are wide at low radius: the first holds waves of radius 1 and 1.41.
    log_radius = [np.log(grid.radius[radius == ring]).mean() for ring in rings]
    return float(-np.polyfit(log_radius, np.log(mean), 1)[0])


def adcs(amplitude: NDArray[np.floating]) -> NDArray[np.int32]:
    """Accumulative difference of class-wise spectra, (C, n_orbits), in [1-C, C-1].

    `amplitude` (C, n_orbits): mean |X| per class. ADCS_c = sum over j != c of sign(E_c - E_j)
    (Wang et al., ICCV 2023), which is twice the mid-rank of c minus (C + 1): one sort along the
    class axis in place of C^2 comparisons; ties count 0.

    >>> adcs(np.array([[1.0], [2.0], [2.0]])).ravel().tolist()
    [-2, 1, 1]
    """
    ranks: NDArray[np.float64] = rankdata(amplitude, method="average", axis=0)
    return np.rint(2 * ranks - (len(amplitude) + 1)).astype(np.int32)
