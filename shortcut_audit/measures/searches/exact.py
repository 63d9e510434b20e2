"""The exact search: one forward pass for every (image, orbit)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from shortcut_audit.errors import SettingsError
from shortcut_audit.measures.interface import (
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
    logits_in_batches,
    require_finite,
)
from shortcut_audit.measures.probing import probe_groups, probe_pairs
from shortcut_audit.measures.searches.folds import FoldSums, map_of, n_folds, totals_by_fold
from shortcut_audit.measures.searches.interface import MEASURE, SearchOutcome
from shortcut_audit.results.settings import AuditSettings, SearchName

__all__ = ["ExactSearch", "n_exact_passes", "probe_orbits"]

# Of one image a map has no reliability, and nothing tells it from noise.
_FEWEST_IMAGES = 2


@dataclass(frozen=True)
class ExactSearch:
    """Every unit of every search image of a class is removed once; importance is the mean response.

    Images come in layers, each as large as all before it, so that there is a map early, and a better
    one whenever the images have doubled. Wang et al., ICCV 2023, section 3.
    """

    name: SearchName = "exact"
    revision: int = 1

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {
            "domain": settings.domain,
            "clip": settings.clip,
            "resolution": "orbits" if settings.resolution == "auto" else settings.resolution,
        }

    def planned_passes(self, outline: Outline) -> int:
        limit = _limit(outline)
        if limit < _FEWEST_IMAGES:
            raise _too_little(outline)
        return _passes_up_to(outline, limit)

    def rounds(self, outline: Outline) -> Rounds[SearchOutcome]:
        budget, planned = outline.settings.budget, self.planned_passes(outline)
        all_images, limit = _affordable(outline, None), _limit(outline)
        done: list[Done] = []
        start, classes = 0, outline.searched
        width = max(_FEWEST_IMAGES, outline.rows_per_block("search"))
        if budget is not None and budget.seconds is not None:
            # One class tells the pace, and whether the time is enough, before all are begun.
            width, first = _FEWEST_IMAGES, _layer(outline, classes[:1], 0, _FEWEST_IMAGES)
            n_passes = sum(shard.n_passes for shard in first)
            done.append((yield Round(shards=first, n_passes_after=planned - n_passes)))
            limit, classes = _limit(outline, done), classes[1:]
            if limit < _FEWEST_IMAGES:
                raise _too_little(outline, done)
        while start < limit:
            stop = min(start + width, limit)
            sent = yield Round(
                shards=_layer(outline, classes, start, stop),
                n_passes_after=_passes_up_to(outline, limit) - _passes_up_to(outline, stop),
                so_far=(lambda: _outcome(outline, done)) if start > 0 else None,
            )
            done.append(sent)
            start = width = stop
            limit, classes = _limit(outline, done), outline.searched
        n_all, n_used = _passes_up_to(outline, all_images), _passes_up_to(outline, start)
        stopped = (
            f"the budget of {budget} ended it after {n_used:,} of {n_all:,} image passes"
            if start < all_images and budget is not None
            else ""
        )
        return _outcome(outline, done, stopped)

    def run(self, shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
        responses = probe_orbits(shard, subject, block, advance).cpu().double().numpy()
        return totals_by_fold(responses, shard.rows, subject.outline.search_rows[shard.class_index])


def _outcome(outline: Outline, done: Sequence[Done], stopped: str = "") -> SearchOutcome:
    by_class = []
    for index in outline.searched:
        start, stop = outline.search_rows[index]
        shards = (item for each in done for item in each.of(index))
        held = FoldSums.of(shards, n_folds(stop - start), outline.units.n_units)
        by_class.append(map_of(outline, index, held))
    return SearchOutcome(by_class=by_class, stopped=stopped)


def _layer(outline: Outline, classes: Sequence[int], start: int, stop: int) -> list[Shard]:
    """Shards over the images `start` to `stop` of each of `classes`, as far as it has them."""
    step = outline.rows_per_block("search")
    shards = []
    for index in classes:
        first, last = outline.search_rows[index]
        end = min(first + stop, last)
        for row in range(first + start, end, step):
            rows = (row, min(row + step, end))
            shards += [
                Shard(
                    measure=MEASURE,
                    split="search",
                    class_index=index,
                    rows=rows,
                    orbits=units,
                    n_passes=n_exact_passes(rows[1] - rows[0], units[1] - units[0]),
                )
                for units in _slices(outline.units.n_units)
            ]
    return shards


def _limit(outline: Outline, done: Sequence[Done] = ()) -> int:
    """Images of every class that the budget pays for; one of time by the pace of what is `done`."""
    budget = outline.settings.budget
    if budget is None or (budget.passes is None and not done):
        return _affordable(outline, None)
    if budget.seconds is None:
        return _affordable(outline, budget.passes)
    return _affordable(outline, int(_pace(done) * budget.seconds))


def _pace(done: Sequence[Done]) -> float:
    """Image passes a second."""
    return sum(each.n_passes for each in done) / max(sum(each.seconds for each in done), 1e-9)


def _too_little(outline: Outline, done: Sequence[Done] = ()) -> SettingsError:
    needed, n_classes = _passes_up_to(outline, _FEWEST_IMAGES), len(outline.searched)
    enough, pace = str(needed), ""
    if done:
        enough = f"{math.ceil(needed / _pace(done))}s"
        pace = f", which at {_pace(done):,.0f} a second is {enough}"
    whose = f"each of {n_classes:,} classes" if n_classes > 1 else "the class"
    return SettingsError(
        f"A budget of {outline.settings.budget} pays for less than two images a class, of which nothing"
        f" can be said: two images of {whose} take {needed:,} image passes{pace}.",
        f"Give --budget {enough} or more, fewer --classes, or a coarser --resolution (tiles:4x6).",
    )


def _affordable(outline: Outline, passes: int | None) -> int:
    """Images of every class, as far as it has them, that `passes` pay for; None pays for all."""
    sizes = [stop - start for start, stop in (outline.search_rows[i] for i in outline.searched)]
    most = max(sizes)
    if passes is None:
        return most
    per_image = _passes_per_image(outline)
    # Cheap to count, and right where classes differ in size.
    affordable = (n for n in range(most, 0, -1) if sum(min(n, s) for s in sizes) * per_image <= passes)
    return next(affordable, 0)


def _passes_up_to(outline: Outline, n_images: int) -> int:
    sizes = [stop - start for start, stop in (outline.search_rows[i] for i in outline.searched)]
    return sum(min(n_images, size) for size in sizes) * _passes_per_image(outline)


def _passes_per_image(outline: Outline) -> int:
    """Probes of all units, and a clean pass for each slice of them."""
    return outline.units.n_units + len(_slices(outline.units.n_units))


def _slices(n_units: int) -> list[tuple[int, int]]:
    """Equal ranges of units, each within one shard."""
    n_slices = -(-n_units // PASSES_PER_SHARD)
    edges = [round(n_units * number / n_slices) for number in range(n_slices + 1)]
    return list(pairwise(edges))


def n_exact_passes(n_images: int, n_orbits: int) -> int:
    """Forward passes for `n_orbits` probes on each of `n_images` images, and the clean ones."""
    return n_images * (n_orbits + 1)


def probe_orbits(shard: Shard, subject: Subject, block: Block, advance: Advance) -> Tensor:
    """Responses (n_responses, n_images, n_units of the shard) to removing each unit alone.

    Probes are numbered image by image and cut into full batches across images, whatever the
    number of units. The FFT of the block was taken once; to remove an orbit costs a subtraction.
    """
    output = subject.output_of(shard.class_index)
    clean = logits_in_batches(subject, block.images, advance)
    require_finite(clean, subject, shard.rows, "")
    first, last = shard.orbits
    device = block.images.device
    images = torch.arange(shard.n_images, device=device).repeat_interleave(last - first)
    units = torch.arange(first, last, device=device).repeat(shard.n_images)
    partition = subject.outline.units
    if partition.single:
        responses = probe_pairs(subject, block, clean, images, units, output, advance)
    else:
        unit_of_orbit = torch.from_numpy(partition.unit_of_orbit).to(device)
        unit_of_bin = unit_of_orbit[torch.from_numpy(subject.grid.orbit_of_bin).to(device)]

        def bins_of(chosen: Tensor) -> Tensor:
            return unit_of_bin == chosen[:, None, None]

        responses = probe_groups(subject, block, clean, images, units, bins_of, output, advance)
    responses = responses.reshape(len(responses), shard.n_images, last - first)
    # Checked once a shard: looking at every batch would make a GPU wait for the CPU.
    require_finite(responses.transpose(0, 1), subject, shard.rows, " with waves removed")
    return responses
