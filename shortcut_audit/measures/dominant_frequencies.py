"""Dominant frequencies: how much each class depends on each orbit, and how repeatable that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.masks import found_share, rank_orbits, top_share
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
)
from shortcut_audit.measures.searches import SEARCHES
from shortcut_audit.measures.searches.folds import rankable_orbits
from shortcut_audit.measures.searches.interface import MEASURE, Search, SearchOutcome
from shortcut_audit.results.findings import ClassMap, DominantFrequenciesFinding, Finding
from shortcut_audit.results.statistics import images_for_reliability

__all__ = ["RELIABLE", "DominantFrequencies"]

# A map that repeats this well on other images is worth reading orbit by orbit.
RELIABLE = 0.8


@dataclass(frozen=True)
class DominantFrequencies:
    """Importance of orbit o for class c, by the search that the settings name.

    Exact: mean response of the class's search images to the orbit's removal (Wang et al., ICCV 2023,
    section 3). All responses are read off the same passes, so every map is measured under each of
    them; the setting `response` only says which one ranks.
    """

    name: str = MEASURE
    revision: int = 2
    split: Split = "search"

    def relevant_to(self, outline: Outline) -> dict[str, Any]:
        search = SEARCHES[outline.search]
        return {"search": [search.name, search.revision], **search.relevant(outline.settings)}

    def planned_passes(self, outline: Outline) -> int:
        return SEARCHES[outline.search].planned_passes(outline)

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        return SEARCHES[subject.outline.search].run(shard, subject, block, advance)

    def rounds(
        self, outline: Outline, images: AuditImages, found: Arrays
    ) -> Rounds[tuple[Finding, Arrays]]:
        search = SEARCHES[outline.search]
        inner = search.rounds(outline)
        n_passes = n_backward = 0

        def told(outcome: SearchOutcome) -> tuple[Finding, Arrays]:
            return _finding(search, outline, images, outcome, (n_passes, n_backward))

        asked = next(inner)
        while True:
            so_far = asked.so_far
            done = yield Round(
                shards=asked.shards,
                n_passes_after=asked.n_passes_after,
                so_far=None if so_far is None else (lambda make=so_far: told(make())),  # type: ignore[misc]
            )
            n_passes += sum(shard.n_passes for shard in asked.shards)
            n_backward += sum(shard.n_backward for shard in asked.shards)
            try:
                asked = inner.send(done)
            except StopIteration as stop:
                return told(stop.value)


def _finding(
    search: Search,
    outline: Outline,
    images: AuditImages,
    outcome: SearchOutcome,
    n_passes: tuple[int, int],
) -> tuple[DominantFrequenciesFinding, Arrays]:
    settings, grid = outline.settings, outline.grid
    rankable = rankable_orbits(outline)
    shape = (len(outcome.by_class), grid.n_orbits)
    scores = list(outcome.by_class[0].importance)
    importance = {score: np.zeros(shape, dtype=np.float32) for score in scores}
    rank = np.zeros(shape, dtype=np.int32)
    kept = np.zeros(shape, dtype=np.bool_)
    by_class: list[ClassMap] = []
    for row, found in enumerate(outcome.by_class):
        for score in scores:
            importance[score][row] = found.importance[score]
        rank[row] = rank_orbits(found.importance[found.score], rankable, found.ranking)
        own = top_share(grid, rank[row], settings.kept_share) if found.kept is None else found.kept
        kept[row] = own & rankable
        reliability = found.reliability[found.score]
        by_class.append(
            ClassMap(
                class_name=images.class_names[found.class_index],
                n_search=found.n_images,
                reliability=dict(found.reliability),
                n_orbits_kept=int(kept[row].sum()),
                kept_share=found_share(grid, kept[row], rankable),
                resolution=found.resolution,
                resolution_reason=found.resolution_reason,
                n_images_enough=images_for_reliability(reliability.value, reliability.n_images, RELIABLE),
                fidelity=found.fidelity,
            )
        )
    finding = DominantFrequenciesFinding(
        search=search.name,
        search_reason=outline.search_reason,
        search_settings=outcome.settings,
        stopped=outcome.stopped,
        image_passes=n_passes[0],
        backward_images=n_passes[1],
        response=outcome.by_class[0].score,
        by_class=tuple(by_class),
    )
    arrays: Arrays = {f"{MEASURE}/importance/{score}": values for score, values in importance.items()}
    arrays |= {f"{MEASURE}/rank": rank, f"{MEASURE}/kept": kept}
    probed = [found.n_probed for found in outcome.by_class if found.n_probed is not None]
    if len(probed) == len(outcome.by_class):
        arrays[f"{MEASURE}/n_probed"] = np.stack(probed)
    return finding, arrays
