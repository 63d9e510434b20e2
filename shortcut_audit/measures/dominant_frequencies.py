"""Dominant frequencies: how much each class depends on each orbit, and how repeatable that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.masks import found_share, rank_orbits, top_share
from shortcut_audit.measures.interface import (
    PASSES_PER_SHARD,
    Advance,
    Arrays,
    Block,
    Outline,
    Shard,
    Split,
    Subject,
    Totals,
    blocks_of,
)
from shortcut_audit.measures.searches.exact import n_exact_passes, probe_orbits
from shortcut_audit.results.findings import ClassMap, DominantFrequenciesFinding, Reliability
from shortcut_audit.results.settings import RESPONSES, AuditSettings
from shortcut_audit.results.statistics import spearman_brown, split_half_correlation

__all__ = ["DominantFrequencies", "rankable_orbits"]

MAX_FOLDS = 8


@dataclass(frozen=True)
class DominantFrequencies:
    """Importance of orbit o for class c: mean response of the class's search images to its removal.

    All responses are read off the same forward passes, so every map is measured under each of
    them; the setting `response` only says which one ranks. Wang et al., ICCV 2023, section 3.
    """

    name: str = "dominant_frequencies"
    revision: int = 1

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {"domain": settings.domain, "clip": settings.clip, "search": "exact"}

    def shards(self, outline: Outline, split: Split) -> list[Shard]:
        if split != "search":
            return []
        return [
            Shard(
                measure=self.name,
                split=split,
                class_index=class_index,
                rows=rows,
                orbits=orbits,
                n_passes=n_exact_passes(rows[1] - rows[0], orbits[1] - orbits[0]),
            )
            for class_index in outline.searched
            for rows in blocks_of(outline, split, class_index)
            for orbits in _orbit_slices(outline.grid.n_orbits)
        ]

    def needs(self, found: Arrays) -> Arrays:
        return {}

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        responses = probe_orbits(shard, subject, block, advance).cpu().double().numpy()
        start, stop = subject.outline.search_rows[shard.class_index]
        fold = (np.arange(*shard.rows) - start) % n_folds(stop - start)
        present = np.unique(fold)
        sums = np.stack([responses[:, fold == number].sum(axis=1) for number in present])
        return {"fold": present, "n_images": np.bincount(fold)[present], "sums": sums}

    def finish(
        self, outline: Outline, images: AuditImages, totals: Iterable[tuple[Shard, Totals]]
    ) -> tuple[DominantFrequenciesFinding, Arrays]:
        settings, grid = outline.settings, outline.grid
        rankable = rankable_orbits(outline)
        shape = (len(outline.searched), grid.n_orbits)
        importance = {response: np.zeros(shape, dtype=np.float32) for response in RESPONSES}
        rank = np.zeros(shape, dtype=np.int32)
        kept = np.zeros(shape, dtype=np.bool_)
        by_class: list[ClassMap] = []
        for row, (class_index, sums, n_by_fold) in enumerate(_by_class(outline, totals)):
            n_search = int(n_by_fold.sum())
            for number, response in enumerate(RESPONSES):
                importance[response][row] = sums[:, number].sum(axis=0) / n_search
            rank[row] = rank_orbits(importance[settings.response][row], rankable)
            kept[row] = top_share(grid, rank[row], settings.kept_share)
            by_class.append(
                ClassMap(
                    class_name=images.class_names[class_index],
                    n_search=n_search,
                    reliability={
                        response: _reliability(sums[:, number][:, rankable], n_by_fold)
                        for number, response in enumerate(RESPONSES)
                    },
                    n_orbits_kept=int(kept[row].sum()),
                    kept_share=found_share(grid, kept[row], rankable),
                )
            )
        finding = DominantFrequenciesFinding(response=settings.response, by_class=tuple(by_class))
        arrays: Arrays = {f"{self.name}/importance/{r}": values for r, values in importance.items()}
        return finding, {**arrays, f"{self.name}/rank": rank, f"{self.name}/kept": kept}


def n_folds(n_images: int) -> int:
    """Folds that a class's images are dealt into, even and at most eight."""
    return min(MAX_FOLDS, n_images - n_images % 2)


def rankable_orbits(outline: Outline) -> NDArray[np.bool_]:
    """Orbits that take part in the ranking: all but DC, and DC too where the settings say so."""
    rankable = np.ones(outline.grid.n_orbits, dtype=np.bool_)
    rankable[0] = outline.settings.dc == "rank"
    return rankable


def _orbit_slices(n_orbits: int) -> list[tuple[int, int]]:
    """Equal ranges of orbits, each within one shard."""
    n_slices = -(-n_orbits // PASSES_PER_SHARD)
    edges = [round(n_orbits * number / n_slices) for number in range(n_slices + 1)]
    return list(pairwise(edges))


def _by_class(
    outline: Outline, totals: Iterable[tuple[Shard, Totals]]
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
    """Class, sums (n_folds, n_responses, n_orbits) and images per fold; one class in memory at a time."""
    for class_index, group in groupby(totals, key=lambda item: item[0].class_index):
        start, stop = outline.search_rows[class_index]
        folds = n_folds(stop - start)
        sums = np.zeros((folds, len(RESPONSES), outline.grid.n_orbits))
        n_by_fold = np.zeros(folds, dtype=np.int64)
        for shard, total in group:
            first, last = shard.orbits
            # Slices of orbits share the images; those are counted with the first slice.
            if first == 0:
                n_by_fold[total["fold"]] += total["n_images"]
            sums[total["fold"], :, first:last] += total["sums"]
        yield class_index, sums, n_by_fold


def _reliability(fold_sums: NDArray[np.float64], n_by_fold: NDArray[np.int64]) -> Reliability:
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
