"""Which band a change comes from: energies band by band, and bands of copies put back one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.fourier.transform import spectrum_of, transplant
from shortcut_audit.measures.interface import Advance, Block, Shard, Subject, Totals, require_finite
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.transfer_findings import BandChange

__all__ = ["BAND_NAMES", "BandSums", "band_changes", "bands_of_orbits", "run_bands"]

BandName = Literal["low", "mid", "high"]
BAND_NAMES: tuple[BandName, ...] = ("low", "mid", "high")
# Borders, as shares of Nyquist: those of the extent of a verdict.
_BORDERS = (0.25, 0.75)


def bands_of_orbits(grid: FrequencyGrid) -> NDArray[np.int8]:
    """Place in `BAND_NAMES` of each orbit (n_orbits,), -1 of DC; the corners count as high.

    A radius right on a border belongs to the band above it.
    """
    nyquist = min(grid.height, grid.width) / 2
    band = np.digitize(grid.radius / nyquist, _BORDERS).astype(np.int8)
    band[0] = -1
    return band


def run_bands(shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
    """Energy of the block's images in each band, summed over images and averaged over channels.

    Where the work names `copies` (rows of the audit's own copies, one an image): their energy, that of
    the difference, and the outputs of the images with each band of their copy, (n_bands, n_images).
    """
    assert shard.work is not None
    grid, device = subject.grid, block.images.device
    band = bands_of_orbits(grid)
    masks = torch.stack([half_plane_mask(grid, band == n) for n in range(len(BAND_NAMES))]).to(device)
    weights = _bin_weights(grid).to(device)
    totals: dict[str, NDArray[Any]] = {"power": _energies(block.spectrum, masks, weights)}
    if "copies" not in shard.work.arrays:
        return totals
    rows = shard.work.arrays["copies"].tolist()
    copies = spectrum_of(torch.cat([subject.block((row, row + 1)).images for row in rows]))
    totals["home"] = _energies(copies, masks, weights)
    totals["moved"] = _energies(block.spectrum - copies, masks, weights)
    predicted = np.zeros((len(BAND_NAMES), len(rows)), dtype=np.int32)
    for number, mask in enumerate(masks):
        for start in range(0, len(rows), subject.batch_size):
            chosen = slice(start, min(start + subject.batch_size, len(rows)))
            put = transplant(block.spectrum[chosen], copies[chosen], mask, grid.width)
            logits = subject.logits(put)
            require_finite(logits, subject, (shard.rows[0] + start, shard.rows[1]), " (a band put back)")
            predicted[number, chosen] = logits.argmax(dim=1).cpu().numpy()
            advance(len(logits))
    totals["predicted"] = predicted
    return totals


def _bin_weights(grid: FrequencyGrid) -> torch.Tensor:
    """How often each bin of the half plane stands in the whole plane, (H, W//2+1)."""
    columns = torch.full((grid.width // 2 + 1,), 2.0, dtype=torch.float64)
    columns[0] = 1.0
    if grid.width % 2 == 0:
        columns[-1] = 1.0
    return columns.expand(grid.height, -1)


def _energies(spectrum: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor) -> NDArray[np.float64]:
    power = spectrum.abs().double().square().mean(dim=1).sum(dim=0) * weights
    found: NDArray[np.float64] = (masks.double() * power).sum(dim=(1, 2)).cpu().numpy()
    return found


@dataclass
class BandSums:
    """What the images of a class hold, band by band: energies (n_bands,) there and at home, of how many
    images, and outputs once a band was put back, (n_bands, n_images)."""

    power: NDArray[np.float64]
    home: NDArray[np.float64]
    moved: NDArray[np.float64] | None
    predicted: NDArray[np.int32] | None
    n_images: int
    n_home: int
    first: int

    @classmethod
    def empty(cls, n_bands: int, n_images: int, first: int) -> BandSums:
        """Nothing yet, of images whose rows begin at `first`."""
        return cls(np.zeros(n_bands), np.zeros(n_bands), None, None, n_images, 0, first)

    def take(self, rows: tuple[int, int], total: Totals) -> None:
        """Images of the other set."""
        self.power += total["power"]
        if "predicted" not in total:
            return
        if self.moved is None or self.predicted is None:
            self.moved = np.zeros_like(self.power)
            self.predicted = np.zeros((len(self.power), self.n_images), dtype=np.int32)
        self.home += total["home"]
        self.n_home += rows[1] - rows[0]
        self.moved += total["moved"]
        self.predicted[:, rows[0] - self.first : rows[1] - self.first] = total["predicted"]

    def take_home(self, rows: tuple[int, int], total: Totals) -> None:
        """Judgement images of the audit."""
        self.home += total["power"]
        self.n_home += rows[1] - rows[0]

    def __add__(self, other: BandSums) -> BandSums:
        """Both together, energies alone."""
        moved = self.moved + other.moved if self.moved is not None and other.moved is not None else None
        return BandSums(
            self.power + other.power,
            self.home + other.home,
            moved,
            None,
            self.n_images + other.n_images,
            self.n_home + other.n_home,
            self.first,
        )


def band_changes(
    grid: FrequencyGrid, sums: BandSums, restored: tuple[Paired, ...] | None
) -> tuple[BandChange, ...]:
    """The bands that the grid has; `restored`: one a band, where copies were put back."""
    band, changes = bands_of_orbits(grid), []
    for number, name in enumerate(BAND_NAMES):
        radii = grid.radius[band == number]
        if not len(radii):
            continue
        home = float(sums.home[number]) / max(sums.n_home, 1)
        there = float(sums.power[number]) / max(sums.n_images, 1)
        changes.append(
            BandChange(
                band=name,
                radius=(float(radii.min()), float(radii.max())),
                power=there / home if home > 0 else None,
                moved=float(sums.moved[number]) / sums.n_images / home
                if sums.moved is not None and home > 0
                else None,
                restored=restored[number] if restored is not None else None,
            )
        )
    return tuple(changes)
