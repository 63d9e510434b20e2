"""Class spectra: mean amplitude per orbit, and ADCS; the data side, before any model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from shortcut_audit.data.pixels import AuditImages
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

__all__ = ["ClassSpectra", "adcs"]


@dataclass(frozen=True)
class ClassSpectra:
    """E_c(o): mean over the images of class c of |X(o)|, averaged over channels; no forward pass."""

    name: str = "class_spectra"
    revision: int = 1

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {"domain": settings.domain}

    def shards(self, outline: Outline, split: Split) -> list[Shard]:
        return image_shards(self.name, outline, split, n_passes_per_image=0)

    def needs(self, found: Arrays) -> Arrays:
        return {}

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        amplitude = orbit_amplitude(block.spectrum, subject.grid).mean(dim=1)
        return {"amplitude": amplitude.cpu().double().sum(dim=0).numpy()}

    def finish(
        self, outline: Outline, images: AuditImages, totals: Iterable[tuple[Shard, Totals]]
    ) -> tuple[ClassSpectraFinding, Arrays]:
        sums = np.zeros((outline.n_classes, outline.grid.n_orbits))
        n_images = np.zeros(outline.n_classes, dtype=np.int64)
        for shard, total in totals:
            sums[shard.class_index] += total["amplitude"]
            n_images[shard.class_index] += shard.n_images
        amplitude = sums / n_images[:, None]
        finding = ClassSpectraFinding(n_images_by_class=tuple(int(n) for n in n_images))
        return finding, {
            "class_spectra/amplitude": amplitude.astype(np.float32),
            "class_spectra/adcs": adcs(amplitude),
        }


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
