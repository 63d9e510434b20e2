"""The hierarchical search: which patches of the spectrum, kept together, serve a class best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import BoolArray, found_share, half_plane_mask
from shortcut_audit.fourier.transform import apply_mask
from shortcut_audit.measures.interface import (
    FLOATS_PER_BLOCK,
    PASSES_PER_SHARD,
    Advance,
    Block,
    Done,
    Outline,
    Round,
    Rounds,
    Shard,
    Subject,
    Totals,
    require_finite,
)
from shortcut_audit.measures.kept_maps import with_dc
from shortcut_audit.measures.probing import NetworkImages
from shortcut_audit.measures.responses import cross_entropy
from shortcut_audit.measures.searches.folds import (
    n_folds,
    rankable_orbits,
    reliability_of,
    sums_by_fold,
)
from shortcut_audit.measures.searches.interface import MEASURE, ClassSearch, SearchOutcome
from shortcut_audit.measures.searches.patches import DRAWN_TOGETHER, Candidates
from shortcut_audit.measures.searches.stages import (
    FEWEST_CANDIDATES,
    N_PARENTS,
    StagePlan,
    StageTimer,
    n_search_images,
    stage_plan,
    why_less,
    within_passes,
)
from shortcut_audit.results.settings import AuditSettings, SearchName

__all__ = ["HierarchicalSearch", "keep_only_losses"]

# Images that share one reading, one FFT and one drawing of masks.
_IMAGES_PER_BLOCK = 128


@dataclass(frozen=True)
class HierarchicalSearch:
    """Keep-only masks of random patches, ever finer; the best of the last stage is the class's map.

    In every stage candidate masks are scored by the mean cross-entropy of the class's own images when
    only the mask's orbits are left; candidates of later stages keep a part of one of the ten best masks
    of the stage before. HFSS: Wang et al., CVPR 2025, arXiv 2503.03519.

    As published: patch sides 8, 4, 2, 1 with 1000, 2000, 4000, 8000 candidates at 32 pixels and 56, 28,
    14, 8, 4, 2 at 224, a third of the candidates each on an even grid, on one shifted by half a patch and
    on both together; ten parents; the class's loss as the score. Ours: the rule that gives these sides
    at any size, and doubling candidates for any number of stages. Parents are of the same class, and
    distinct; masks are Hermitian and drawn by the seed; patches are drawn among those that the
    parent holds, to one and the same share of the spectrum for all candidates of a stage (the published
    masks are drawn over the whole plane and multiplied, so that the larger ones win). And the share of a
    step follows from `kept_share`, which so means for this search what it means for any other: p =
    kept_share ** (1 / stages). The default of 5% gives 0.607 with the six stages of 224 pixels, where
    the paper has 0.6; at 32 pixels the paper's 0.6 is `kept_share` 0.13.

    Candidates of the first stage are the same for all classes; images are only ever passed through
    with masks of their own class, at the same number of passes as published.
    """

    name: SearchName = "hierarchical"
    revision: int = 1

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        # Sides, shares, seed and parents are part of each shard's recipe.
        return {"domain": settings.domain, "clip": settings.clip, "dc": settings.dc}

    def planned_passes(self, outline: Outline) -> int:
        return sum(within_passes(outline, stage_plan(outline))) * n_search_images(outline)

    def rounds(self, outline: Outline) -> Rounds[SearchOutcome]:
        plan, budget = stage_plan(outline), outline.settings.budget
        counts = within_passes(outline, plan)
        found = {index: _ClassStages.start(outline, index) for index in outline.searched}
        timer = StageTimer(budget.seconds if budget is not None else None)
        n_scored = 0
        for stage in range(plan.n_stages):
            draws = {index: found[index].draws(outline, plan, stage) for index in outline.searched}
            done: list[Done] = []
            first = 0
            while first < counts[stage]:
                # With a limit in time, a few candidates first tell how fast this goes.
                trial = timer.seconds is not None and stage == first == 0
                last = min(FEWEST_CANDIDATES, counts[0]) if trial else counts[stage]
                sent = yield Round(
                    shards=_shards(outline, draws, (first, last)),
                    n_passes_after=(sum(counts[stage:]) - last) * n_search_images(outline),
                    so_far=partial(_outcome, outline, plan, counts, dict(found)) if stage > 0 else None,
                )
                done.append(sent)
                timer.add(sent)
                first = last
                counts = timer.within(outline, plan, counts, stage, last)
            n_scored += first
            for index in outline.searched:
                sums, n_by_fold = _sums_by_fold(outline, index, done, first)
                # Popped: what a class has drawn on is not kept while the others are counted.
                found[index] = found[index].after(draws.pop(index), sums, n_by_fold)
            if stage + 1 < plan.n_stages and counts[stage + 1] == 0:
                break
        return _outcome(outline, plan, counts, found, why_less(plan, stage, n_scored, budget))

    def run(self, shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
        assert shard.work is not None
        # A shard's range counts candidates here.
        masks = Candidates.of_work(subject.grid, shard.work).masks(*shard.orbits)
        output = subject.output_of(shard.class_index)
        losses = keep_only_losses(subject, block, with_dc(masks, subject.settings), output, advance)
        require_finite(losses, subject, shard.rows, " with parts of its spectrum")
        return sums_by_fold(
            losses.cpu().numpy(), shard.rows, subject.outline.search_rows[shard.class_index]
        )


def keep_only_losses(
    subject: Subject, block: Block, masks: BoolArray, output: int, advance: Advance
) -> Tensor:
    """Cross-entropy of every image of `block` when only one mask's orbits are kept, (n_images, n_masks).

    `masks` (n_masks, n_orbits) bool, DC as it is to be. Pairs of image and mask are cut into full
    batches across images; each costs a product and an inverse FFT. Filtering is linear and commutes
    with normalisation but for the mean, which is taken off at the end.
    """
    settings, grid = subject.settings, subject.grid
    prepared = NetworkImages.of(
        subject.classifier,
        block.images,
        normalized=settings.domain == "normalized",
        clip=settings.clip,
    )
    scale = prepared.per_pixel[:, None, None]
    in_pixels = settings.domain == "pixels"
    zero = subject.classifier.mean[:, None, None] * scale if in_pixels else torch.zeros_like(scale)
    spectrum = block.spectrum * scale
    planes = half_plane_mask(grid, masks).to(block.images.device)
    n_pairs = len(block.images) * len(masks)
    rows = prepared.rows.new_empty(min(subject.batch_size, n_pairs), prepared.rows.shape[1])
    losses: list[Tensor] = []
    for start in range(0, n_pairs, subject.batch_size):
        pairs = torch.arange(start, min(start + subject.batch_size, n_pairs), device=planes.device)
        batch = rows[: len(pairs)]
        kept = apply_mask(spectrum[pairs // len(masks)], planes[pairs % len(masks)][:, None], grid.width)
        # Also brings them into the network's own layout.
        torch.sub(kept, zero, out=prepared.images_of(batch))
        logits = prepared.answer(batch)
        losses.append(cross_entropy(logits if logits.device.type == "mps" else logits.double(), output))
        advance(len(pairs))
    return torch.cat(losses).reshape(len(block.images), len(masks))


def _shards(
    outline: Outline, draws: Mapping[int, Candidates], candidates: tuple[int, int]
) -> list[Shard]:
    """Blocks of images by slices of candidates, for every class; about `PASSES_PER_SHARD` each."""
    image = outline.n_channels * outline.grid.height * outline.grid.width
    most = max(1, min(_IMAGES_PER_BLOCK, FLOATS_PER_BLOCK // image))
    shards = []
    for index in outline.searched:
        start, stop = outline.search_rows[index]
        n_blocks = -(-(stop - start) // most)
        edges = [start + round((stop - start) * number / n_blocks) for number in range(n_blocks + 1)]
        width = PASSES_PER_SHARD // -(-(stop - start) // n_blocks)
        # Candidates are drawn a whole number of chunks at a time.
        width = max(width - width % DRAWN_TOGETHER, DRAWN_TOGETHER)
        first, last = candidates
        shards += [
            Shard(
                measure=MEASURE,
                split="search",
                class_index=index,
                rows=(top, bottom),
                orbits=(number, min(number + width, last)),
                n_passes=(bottom - top) * (min(number + width, last) - number),
                work=draws[index].work,
            )
            for top, bottom in pairwise(edges)
            for number in range(first, last, width)
        ]
    return shards


def _sums_by_fold(
    outline: Outline, index: int, done: Iterable[Done], n_candidates: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Losses of one stage's candidates, (n_folds, n_candidates), and images, (n_folds,), of a class."""
    start, stop = outline.search_rows[index]
    folds = n_folds(stop - start)
    sums, n_by_fold = np.zeros((folds, n_candidates)), np.zeros(folds, dtype=np.int64)
    for each in done:
        for shard, total in each.of(index):
            first, last = shard.orbits
            sums[total["fold"], first:last] += total["sums"]
            if first == 0:
                n_by_fold[total["fold"]] += total["n_images"]
    return sums, n_by_fold


@dataclass(frozen=True, eq=False)
class _ClassStages:
    """What is known of one class after some stages.

    `parents` (n, n_orbits): what the next stage draws within. `best`: the best mask of each stage so
    far. `effects` (n_folds, n_orbits): main effects of the stages, times the candidates that tell,
    summed; `weight` (n_orbits,): those candidates. `n_by_fold` (n_folds,) images.
    """

    index: int
    parents: BoolArray
    best: tuple[BoolArray, ...]
    effects: NDArray[np.float32]
    weight: NDArray[np.float64]
    n_by_fold: NDArray[np.int64]

    @classmethod
    def start(cls, outline: Outline, index: int) -> _ClassStages:
        start, stop = outline.search_rows[index]
        folds, n_orbits = n_folds(stop - start), outline.grid.n_orbits
        return cls(
            index=index,
            parents=rankable_orbits(outline)[None],
            best=(),
            effects=np.zeros((folds, n_orbits), dtype=np.float32),
            weight=np.zeros(n_orbits),
            n_by_fold=np.zeros(folds, dtype=np.int64),
        )

    def draws(self, outline: Outline, plan: StagePlan, stage: int) -> Candidates:
        """The candidates of the next stage."""
        n_bins = int(outline.grid.members[rankable_orbits(outline)].sum())
        return Candidates(
            grid=outline.grid,
            side=plan.sides[stage],
            n_bins=plan.step_share ** (stage + 1) * n_bins,
            step_share=plan.step_share,
            parents=self.parents,
            seed=outline.settings.seed,
            stage=stage,
        )

    def after(
        self, draws: Candidates, sums: NDArray[np.float64], n_by_fold: NDArray[np.int64]
    ) -> _ClassStages:
        """With one more stage: `sums` (n_folds, n_candidates) of the losses of its candidates."""
        parents = draws.best(sums.sum(axis=0), N_PARENTS)
        effects, n_telling = draws.main_effects(sums)
        return _ClassStages(
            index=self.index,
            parents=parents,
            best=(*self.best, parents[0]),
            effects=(self.effects + effects * n_telling).astype(np.float32),
            weight=self.weight + n_telling,
            n_by_fold=n_by_fold,
        )

    def told(self, outline: Outline) -> ClassSearch:
        """The class's map. Importance is the mean main effect of keeping an orbit over all candidates
        that tell; it ranks within, the last stage whose best mask holds the orbit ranks first.

        Reliability is over images under these masks: those of later stages were chosen by all images,
        and other seeds draw other masks; both make a map vary more than it says.
        """
        last_held = np.zeros(outline.grid.n_orbits)
        for stage, mask in enumerate(self.best, start=1):
            last_held[mask] = stage
        rankable = rankable_orbits(outline)
        sums = self.effects / np.maximum(self.weight, 1)
        n_images = int(self.n_by_fold.sum())
        side = stage_plan(outline).sides[len(self.best) - 1]
        return ClassSearch(
            class_index=self.index,
            n_images=n_images,
            score="joint",
            importance={"joint": (sums.sum(axis=0) / n_images).astype(np.float32)},
            reliability={"joint": reliability_of(sums[:, rankable], self.n_by_fold)},
            kept=self.best[-1],
            ranking=last_held,
            resolution="orbits" if side == 1 else f"patches:{side}",
            resolution_reason="" if side == 1 else f"the last stage drew patches of {side} bins a side",
        )


def _outcome(
    outline: Outline,
    plan: StagePlan,
    counts: Sequence[int],
    found: Mapping[int, _ClassStages],
    stopped: str = "",
) -> SearchOutcome:
    n_done = len(next(iter(found.values())).best)
    return SearchOutcome(
        by_class=[found[index].told(outline) for index in outline.searched],
        settings={
            "patch_sides": list(plan.sides[:n_done]),
            "candidates": list(counts[:n_done]),
            "step_share": plan.step_share,
            "kept_share_by_stage": _shares_found(outline.grid, rankable_orbits(outline), found),
            "grids": ["even" if side == 1 else "even, shifted, union" for side in plan.sides[:n_done]],
            "n_parents": N_PARENTS,
            "seed": outline.settings.seed,
        },
        stopped=stopped,
    )


def _shares_found(
    grid: FrequencyGrid, rankable: BoolArray, found: Mapping[int, _ClassStages]
) -> list[float]:
    """Share of the spectrum that the best mask of each stage holds, mean over classes."""
    by_stage = zip(*(each.best for each in found.values()), strict=True)
    return [float(np.mean([found_share(grid, mask, rankable) for mask in masks])) for masks in by_stage]
