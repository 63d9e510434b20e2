"""From sums over folds of images to the map of a class, its reliability and its resolution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.masks import BoolArray
from shortcut_audit.fourier.units import Units
from shortcut_audit.measures.interface import Outline, Shard, Totals
from shortcut_audit.measures.searches.interface import ClassSearch
from shortcut_audit.results.findings import Fidelity, Reliability
from shortcut_audit.results.settings import RESPONSES, MapScore
from shortcut_audit.results.statistics import spearman_brown, split_half_correlation

__all__ = ["FoldSums", "map_of", "n_folds", "rankable_orbits", "reliability_of"]

MAX_FOLDS = 8
# Below, at most a third of the ranking's order would come out again: orbits are too fine.
_BEARABLE = 0.5
# Coarser and coarser; a plane of 32 pixels has 15, 9 and 5 orbits in a tile of the first three.
_TILES = ((16, 24), (12, 16), (8, 12), (6, 8), (4, 6), (3, 4))
# Chance that any orbit of a map of noise alone would be taken to stand out.
_STANDING_OUT = 0.01


def n_folds(n_images: int) -> int:
    """Folds that a class's images are dealt into, even and at most eight."""
    return min(MAX_FOLDS, n_images - n_images % 2)


def rankable_orbits(outline: Outline) -> BoolArray:
    """Orbits that take part in the ranking: all but DC, and DC too where the settings say so."""
    rankable = np.ones(outline.grid.n_orbits, dtype=np.bool_)
    rankable[0] = outline.settings.dc == "rank"
    return rankable


@dataclass
class FoldSums:
    """Sums over the images of each fold, `sums` (n_folds, n_scores, n_units), and of their squares.

    `squares` (n_scores, n_units) over all images; `n_by_fold` (n_folds,) images.
    """

    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    n_by_fold: NDArray[np.int64]

    @classmethod
    def of(cls, shards: Iterable[tuple[Shard, Totals]], folds: int, n_units: int) -> FoldSums:
        """Totals of one class's shards, added up; slices of units share their images."""
        n_scores = len(RESPONSES)
        held = cls(
            np.zeros((folds, n_scores, n_units)), np.zeros((n_scores, n_units)), np.zeros(folds, np.int64)
        )
        for shard, total in shards:
            first, last = shard.orbits
            if first == 0:
                held.n_by_fold[total["fold"]] += total["n_images"]
            held.sums[total["fold"], :, first:last] += total["sums"]
            held.squares[:, first:last] += total["squares"]
        return held

    @property
    def n_images(self) -> int:
        """Images in all folds."""
        return int(self.n_by_fold.sum())

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over images, (n_scores, n_units)."""
        mean: NDArray[np.float64] = self.sums.sum(axis=0) / self.n_images
        return mean

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Of the mean, (n_scores, n_units)."""
        n = self.n_images
        variance = np.maximum(self.squares / n - self.mean**2, 0) * n / max(n - 1, 1)
        error: NDArray[np.float64] = np.sqrt(variance / n)
        return error


def totals_by_fold(
    responses: NDArray[np.float64], rows: tuple[int, int], class_rows: tuple[int, int]
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Totals of a shard from responses (n_scores, n_images, n_units) to `rows` of a class's own."""
    start, stop = class_rows
    fold = (np.arange(*rows) - start) % n_folds(stop - start)
    present = np.unique(fold)
    return {
        "fold": present,
        "n_images": np.bincount(fold)[present],
        "sums": np.stack([responses[:, fold == number].sum(axis=1) for number in present]),
        "squares": np.square(responses).sum(axis=1),
    }


def map_of(
    outline: Outline, class_index: int, held: FoldSums, fidelity: Fidelity | None = None
) -> ClassSearch:
    """The map of a class from sums over its images, at the resolution that the settings ask for.

    Raises SettingsError where fewer than two images were measured.
    """
    if held.n_images < 2:
        raise SettingsError(
            "The budget pays for less than two images a class, of which nothing can be said.",
            "Raise --budget, choose fewer --classes or a coarser --resolution, or --search screened.",
        )
    settings, units = outline.settings, outline.units
    rankable = rankable_orbits(outline)
    by_orbit = units.per_orbit(held.mean)
    chosen = RESPONSES.index(settings.response)
    reliability: dict[MapScore, Reliability] = {
        response: reliability_of(units.per_orbit(held.sums[:, number])[:, rankable], held.n_by_fold)
        for number, response in enumerate(RESPONSES)
    }
    resolution, reason, ranking = units.name, "", None
    if settings.resolution == "auto":
        resolution, reason, ranking, own = _borne(
            held, chosen, units, rankable, reliability[settings.response]
        )
        reliability[settings.response] = own
    return ClassSearch(
        class_index=class_index,
        n_images=held.n_images,
        score=settings.response,
        importance={r: by_orbit[number].astype(np.float32) for number, r in enumerate(RESPONSES)},
        reliability=reliability,
        ranking=ranking,
        resolution=resolution,
        resolution_reason=reason,
        fidelity=fidelity,
    )


def _borne(
    held: FoldSums, chosen: int, units: Units, rankable: BoolArray, single: Reliability
) -> tuple[str, str, NDArray[np.float64] | None, Reliability]:
    """The finest resolution at which the map repeats: name, why, values to rank by, reliability.

    Orbits that stand out of their own noise stay single, whatever the rest is worth.
    """
    if single.value is None or single.value >= _BEARABLE:
        return "orbits", "", None, single
    from scipy.stats import t as student

    sums = held.sums[:, chosen]
    error = held.standard_error[chosen]
    z = np.divide(held.mean[chosen], error, out=np.zeros_like(error), where=error > 0)
    # Of few images the error itself is uncertain; by the normal law many orbits would stand out.
    alone = rankable & (z > student.isf(_STANDING_OUT / max(rankable.sum(), 1), held.n_images - 1))
    best: tuple[str, NDArray[np.float64], Reliability] | None = None
    for rings, sectors in _TILES:
        if rings * 2 > min(units.grid.height, units.grid.width):
            continue
        name = f"tiles:{rings}x{sectors}"
        tiles = Units.named(name, units.grid)
        pooled = _pooled(sums, tiles, alone | ~rankable)
        found = reliability_of(pooled[:, rankable], held.n_by_fold)
        if best is None or (found.value or -1) > (best[2].value or -1):
            best = name, pooled.sum(axis=0) / held.n_images, found
        if found.value is not None and found.value >= _BEARABLE:
            break
    if best is None or (best[2].value or -1) <= (single.value or -1):
        return "orbits", "", None, single
    name, ranking, found = best
    standing = (
        f" {int(alone.sum())} orbits stand out by themselves and are ranked alone;" if alone.any() else ""
    )
    reason = (
        f"{standing} a map of single orbits from {held.n_images} images has reliability"
        f" {single.value:.2f}, so neighbours share their mean importance, which has {found.value:.2f}"
    )
    return name, reason.strip(), ranking, found


def _pooled(sums: NDArray[np.float64], tiles: Units, alone: BoolArray) -> NDArray[np.float64]:
    """Sums (n_folds, n_orbits) averaged over each tile's orbits, but for those that stand alone."""
    others = np.where(alone, 0.0, sums)
    n_others = tiles.sums((~alone).astype(np.float64))
    mean = np.divide(
        tiles.sums(others), n_others, out=np.zeros((len(sums), tiles.n_units)), where=n_others > 0
    )
    return np.where(alone, sums, mean[:, tiles.unit_of_orbit])


def reliability_of(fold_sums: NDArray[np.float64], n_by_fold: NDArray[np.int64]) -> Reliability:
    """Reliability of a map (n,) from its sums over folds (n_folds, n)."""
    correlation, n_splits = split_half_correlation(fold_sums, n_by_fold)
    if correlation is None:
        return Reliability(
            half_correlation=None,
            value=None,
            n_images=int(n_by_fold.sum()),
            n_splits=0,
            reason="the map is constant: removing any orbit changes nothing",
        )
    return Reliability(
        half_correlation=correlation,
        value=spearman_brown(correlation),
        n_images=int(n_by_fold.sum()),
        n_splits=n_splits,
    )
