"""From sums over folds of images to the map of a class, its reliability and its resolution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.masks import BoolArray
from shortcut_audit.fourier.units import Units
from shortcut_audit.measures.interface import Outline, Shard, Totals
from shortcut_audit.measures.searches.interface import ClassSearch
from shortcut_audit.results.findings import Fidelity, Reliability
from shortcut_audit.results.settings import RESPONSES, MapScore
from shortcut_audit.results.statistics import (
    halvings,
    spearman,
    spearman_brown,
    split_half_correlation,
)

__all__ = [
    "FoldSums",
    "map_of",
    "n_folds",
    "rankable_orbits",
    "reliability_of",
    "screened_map",
    "sums_by_fold",
    "totals_by_fold",
]

MAX_FOLDS = 8
# Below, at most a third of the ranking's order would come out again: orbits are too fine.
_BEARABLE = 0.5
# Tiles are chosen by the figure that is then told of them; they have to pass by a margin.
_BEARABLE_TILES = 0.6
# Below, a map says nothing orbit by orbit.
_FAINT = 0.25
# Coarser and coarser; a plane of 32 pixels has about 3, 11 and 43 orbits in a tile.
_TILES = ((12, 16), (6, 8), (3, 4))
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


def sums_by_fold(
    values: NDArray[np.float64], rows: tuple[int, int], class_rows: tuple[int, int]
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Folds that the images `rows` of a class lie in, images of each, and sums of `values`
    (..., n_images, n) over them."""
    start, stop = class_rows
    fold = (np.arange(*rows) - start) % n_folds(stop - start)
    present = np.unique(fold)
    return {
        "fold": present,
        "n_images": np.bincount(fold)[present],
        "sums": np.stack([values[..., fold == number, :].sum(axis=-2) for number in present]),
    }


def totals_by_fold(
    responses: NDArray[np.float64], rows: tuple[int, int], class_rows: tuple[int, int]
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Totals of a shard from responses (n_scores, n_images, n_units) to `rows` of a class's own."""
    squares = np.square(responses).sum(axis=1)
    return {**sums_by_fold(responses, rows, class_rows), "squares": squares}


def map_of(outline: Outline, class_index: int, held: FoldSums) -> ClassSearch:
    """The map of a class from sums over its images, at the resolution that the settings ask for.

    Raises SettingsError where fewer than two images were measured.
    """
    if held.n_images < 2:
        raise SettingsError(
            "The budget pays for less than two images a class, of which nothing can be said.",
            "Raise --budget, choose fewer --classes or a coarser --resolution, or --search screened.",
        )
    rankable = rankable_orbits(outline)
    units, chosen = outline.units, RESPONSES.index(outline.settings.response)
    reliability: dict[MapScore, Reliability] = {
        response: reliability_of(units.per_orbit(held.sums[:, number])[:, rankable], held.n_by_fold)
        for number, response in enumerate(RESPONSES)
    }
    found = ClassSearch(
        class_index=class_index,
        n_images=held.n_images,
        score=outline.settings.response,
        importance=_by_response(units.per_orbit(held.mean)),
        reliability=reliability,
        resolution=units.name,
    )
    pairs = _fold_halves(units.per_orbit(held.sums[:, chosen]), held.n_by_fold)
    return _at_borne_resolution(outline, found, held.mean[chosen], held.standard_error[chosen], pairs)


def screened_map(
    outline: Outline,
    class_index: int,
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    halves: NDArray[np.float64],
    n_images: int,
    fidelity: Fidelity | None,
    n_probed: NDArray[np.float64],
) -> ClassSearch:
    """The map of a class from estimates: `mean`, `deviation` (n_scores, n_units), and the same maps
    from halves of the images, `halves` (n_scores, n_splits, 2, n_units).

    `n_probed` (n_units,): images that each unit was probed on, rather than estimated.
    """
    rankable, units = rankable_orbits(outline), outline.units
    chosen = RESPONSES.index(outline.settings.response)
    by_orbit = units.per_orbit(halves)
    reliability: dict[MapScore, Reliability] = {
        response: _reliability_of_pairs(by_orbit[number][..., rankable], n_images)
        for number, response in enumerate(RESPONSES)
    }
    found = ClassSearch(
        class_index=class_index,
        n_images=n_images,
        score=outline.settings.response,
        importance=_by_response(units.per_orbit(mean)),
        reliability=reliability,
        resolution=units.name,
        fidelity=fidelity,
        n_probed=n_probed[units.unit_of_orbit].astype(np.int32),
    )
    return _at_borne_resolution(outline, found, mean[chosen], deviation[chosen], list(by_orbit[chosen]))


def _by_response(by_orbit: NDArray[np.float64]) -> dict[MapScore, NDArray[np.float32]]:
    return {r: by_orbit[number].astype(np.float32) for number, r in enumerate(RESPONSES)}


def _fold_halves(
    fold_sums: NDArray[np.float64], n_by_fold: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    """Maps (2, n) of both sides of every halving of the folds that has images on both."""
    pairs = []
    for left, right in halvings(len(n_by_fold)):
        n = n_by_fold[left].sum(), n_by_fold[right].sum()
        if min(n) > 0:
            sides = (fold_sums[side].sum(axis=0) / m for side, m in zip((left, right), n, strict=True))
            pairs.append(np.stack(list(sides)))
    return pairs


def _at_borne_resolution(
    outline: Outline,
    found: ClassSearch,
    mean: NDArray[np.float64],
    error: NDArray[np.float64],
    pairs: Sequence[NDArray[np.float64]],
) -> ClassSearch:
    """`found` at the finest resolution at which it repeats, where the settings leave that open.

    `mean`, `error` (n_units,) of the ranking score; `pairs`: its maps (2, n_orbits) from halves.
    Orbits that stand out of their own noise stay single, whatever the rest is worth.
    """
    single = found.reliability[found.score]
    if outline.settings.resolution != "auto" or single.value is None or single.value >= _BEARABLE:
        return found
    from scipy.stats import t as student

    rankable, grid = rankable_orbits(outline), outline.grid
    t = np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    # Of few images the error itself is uncertain; by the normal law most maps of noise would have some.
    alone = rankable & (t > student.isf(_STANDING_OUT / max(rankable.sum(), 1), found.n_images - 1))
    best: tuple[str, Reliability] | None = None
    for rings, sectors in _TILES:
        if rings * 2 > min(grid.height, grid.width):
            continue
        tiles = Units.named(f"tiles:{rings}x{sectors}", grid)
        pooled = [_pooled(pair, tiles, alone | ~rankable)[:, rankable] for pair in pairs]
        reliability = _reliability_of_pairs(pooled, single.n_images)
        # The finest that passes, else the coarsest; not the best, whose figure would be luck in part.
        best = tiles.name, reliability
        if reliability.value is not None and reliability.value >= _BEARABLE_TILES:
            break
    if best is None or best[1].value is None:
        return found
    # A map that repeats a little and loses by pooling has its signal in single orbits.
    if best[1].value <= single.value >= _FAINT:
        return found
    name, reliability = best
    n_alone = int(alone.sum())
    standing = (
        f"{n_alone} orbits stand out and are ranked by themselves; "
        if n_alone > 1
        else "1 orbit stands out and is ranked by itself; " * n_alone
    )
    return replace(
        found,
        reliability={**found.reliability, found.score: reliability},
        ranking=_pooled(mean[None], Units.named(name, grid), alone | ~rankable)[0],
        resolution=name,
        resolution_reason=(
            f"{standing}a map of single orbits from {found.n_images} images has reliability"
            f" {single.value:.2f}, so neighbours share their mean importance, which has"
            f" {reliability.value:.2f}"
        ),
    )


def _pooled(maps: NDArray[np.float64], tiles: Units, alone: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Maps (n, n_orbits) averaged over each tile's orbits, but for those that stand alone."""
    others = np.where(alone, 0.0, maps)
    n_others = tiles.sums((~alone).astype(np.float64))
    mean = np.divide(
        tiles.sums(others), n_others, out=np.zeros((len(maps), tiles.n_units)), where=n_others > 0
    )
    return np.where(alone, maps, mean[:, tiles.unit_of_orbit])


def _reliability_of_pairs(
    pairs: Sequence[NDArray[np.float64]] | NDArray[np.float64], n_images: int
) -> Reliability:
    """Reliability from maps (2, n) of halves, averaged over the ways of halving."""
    correlations = [spearman(*pair) for pair in pairs]
    counted = [value for value in correlations if value is not None]
    if not counted:
        return _constant(n_images)
    half = float(np.mean(counted))
    return Reliability(
        half_correlation=half, value=spearman_brown(half), n_images=n_images, n_splits=len(counted)
    )


def _constant(n_images: int) -> Reliability:
    return Reliability(
        half_correlation=None,
        value=None,
        n_images=n_images,
        n_splits=0,
        reason="the map is constant: removing any orbit changes nothing",
    )


def reliability_of(fold_sums: NDArray[np.float64], n_by_fold: NDArray[np.int64]) -> Reliability:
    """Reliability of a map (n,) from its sums over folds (n_folds, n)."""
    correlation, n_splits = split_half_correlation(fold_sums, n_by_fold)
    if correlation is None:
        return _constant(int(n_by_fold.sum()))
    return Reliability(
        half_correlation=correlation,
        value=spearman_brown(correlation),
        n_images=int(n_by_fold.sum()),
        n_splits=n_splits,
    )
