"""The learned search: a soft mask of the spectrum for each class, by gradient descent on its loss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.errors import SettingsError
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
    Work,
    logits_in_batches,
    require_finite,
)
from shortcut_audit.measures.responses import cross_entropy
from shortcut_audit.measures.searches.descent import Schedule, soft_masks
from shortcut_audit.measures.searches.interface import MEASURE, ClassSearch, SearchOutcome
from shortcut_audit.measures.searches.mask_descent import (
    BRANCHES,
    MaskState,
    counted_members,
    descend,
    n_drawn,
)
from shortcut_audit.results.findings import Reliability
from shortcut_audit.results.settings import AuditSettings, SearchName
from shortcut_audit.results.statistics import spearman, spearman_brown

__all__ = ["LearnedSearch"]

_SURVEY, _DESCENT = "learned: survey", "learned: descent"
# Forward 1, backward 2.
_PASSES_PER_IMAGE = 3
# Classes that share their batches: enough images for a GPU, few enough classes for many workers.
_IMAGES_PER_STEP = 256
# States of all masks are saved after every round: seldom where there are many and large ones.
_FEWEST_ROUNDS, _MOST_ROUNDS, _BYTES_OF_ALL_ROUNDS = 4, 20, 1 << 31


@dataclass(frozen=True)
class LearnedSearch:
    """A soft Hermitian mask per class, learned jointly over all orbits by gradient descent.

    What is minimised is the mean cross-entropy of the class over its search images when only what the
    mask lets through is left, while the mask holds a given share of the spectrum that falls to
    `kept_share`; `descent` says how. The map is the top share of the mask's logits, which rank beyond
    it too. After Karantzas et al., 2022, with a budget in place of a penalty.

    Two more masks learn from one half of the class's images each (dealt in turn), and only serve to say
    how far the map would come out again; the three together cost twice the map alone.
    """

    name: SearchName = "learned"
    revision: int = 1

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        # Steps are part of each shard's work.
        return {
            "domain": settings.domain,
            "clip": settings.clip,
            "dc": settings.dc,
            "kept_share": settings.kept_share,
            "seed": settings.seed,
        }

    def planned_passes(self, outline: Outline) -> int:
        return _n_images(outline) + _affordable(outline) * _passes_per_step(outline, outline.searched)

    def rounds(self, outline: Outline) -> Rounds[SearchOutcome]:
        budget = outline.settings.budget
        per_step = _passes_per_step(outline, outline.searched)
        n_steps = _affordable(outline)
        sent = yield Round(_survey_shards(outline), n_passes_after=n_steps * per_step)
        seconds, known = sent.seconds, _Known.of(outline, sent)
        timer = _Timer(None if budget is None else budget.seconds, seconds, sent.n_passes)
        n_steps = timer.affordable(0, n_steps, per_step)
        groups = _groups(outline)
        width = _steps_per_round(outline, groups, n_steps)
        states = {index: MaskState.start(outline.grid.n_orbits) for index in outline.searched}
        first = 0
        while first < n_steps:
            last = min(first + width, n_steps)
            sent = yield Round(
                shards=[
                    _descent_shard(outline, known, states, group, (first, last), n_steps)
                    for group in groups
                ],
                n_passes_after=(n_steps - last) * per_step,
                so_far=partial(_outcome, outline, dict(states), first, n_steps) if first > 0 else None,
            )
            states = _states_after(sent, groups)
            first = last
            timer = timer.after(sent)
            n_steps = timer.affordable(first, n_steps, per_step)
        stopped = (
            f"the budget of {budget} paid for {n_steps:,} of {outline.settings.steps:,} steps"
            if n_steps < outline.settings.steps
            else ""
        )
        return _outcome(outline, states, n_steps, n_steps, stopped)

    def run(self, shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
        assert shard.work is not None
        if shard.work.kind == _SURVEY:
            return _surveyed(shard, subject, block, advance)
        # A shard's range counts steps here.
        return descend(subject, shard.work.arrays, shard.orbits, advance)


@dataclass(frozen=True)
class _Known:
    """What the survey found of each class: model output, and a digest of its search images.

    The digest goes into the keys of all later shards, which read images of many classes.
    """

    outputs: Mapping[int, int]
    digests: Mapping[int, NDArray[np.uint8]]

    @classmethod
    def of(cls, outline: Outline, done: Done) -> _Known:
        outputs: dict[int, int] = {}
        digests: dict[int, NDArray[np.uint8]] = {}
        for index in outline.searched:
            state = hashlib.sha256()
            for _, totals in done.of(index):
                outputs[index] = int(totals["output"][0])
                state.update(totals["digest"].tobytes())
            digests[index] = np.frombuffer(state.digest(), dtype=np.uint8)
        return cls(outputs, digests)


@dataclass(frozen=True)
class _Timer:
    """What rounds have taken, and how many steps a limit of `seconds` still pays for."""

    limit: float | None
    seconds: float
    n_passes: int

    def after(self, done: Done) -> _Timer:
        return replace(self, seconds=self.seconds + done.seconds, n_passes=self.n_passes + done.n_passes)

    def affordable(self, n_done: int, most: int, per_step: int) -> int:
        """Steps in all, of which `n_done` are made; no more than `most`, and one at least."""
        if self.limit is None:
            return most
        left = max(0.0, self.limit - self.seconds) * self.n_passes / max(self.seconds, 1e-9)
        return min(most, max(1, n_done + int(left / per_step)))


def _n_images(outline: Outline) -> int:
    return sum(stop - start for start, stop in (outline.search_rows[i] for i in outline.searched))


def _passes_per_step(outline: Outline, classes: Sequence[int]) -> int:
    return _PASSES_PER_IMAGE * sum(sum(n_drawn(outline.search_rows[index])) for index in classes)


def _affordable(outline: Outline) -> int:
    """Steps that a budget in image passes pays for. Raises SettingsError where that is none."""
    settings = outline.settings
    if settings.budget is None or settings.budget.passes is None:
        return settings.steps
    per_step, survey = _passes_per_step(outline, outline.searched), _n_images(outline)
    n_steps = min(settings.steps, (settings.budget.passes - survey) // per_step)
    if n_steps < 1:
        raise SettingsError(
            f"The budget of {settings.budget} does not pay for one step of the learned search, which"
            f" takes {survey + per_step:,} with these classes.",
            "Raise --budget, or choose fewer --classes.",
        )
    return n_steps


def _survey_shards(outline: Outline) -> list[Shard]:
    """Every search image once, as it is."""
    image = outline.n_channels * outline.grid.height * outline.grid.width
    width = max(1, min(PASSES_PER_SHARD, FLOATS_PER_BLOCK // image))
    return [
        Shard(
            measure=MEASURE,
            split="search",
            class_index=index,
            rows=(row, min(row + width, outline.search_rows[index][1])),
            orbits=(0, 0),
            n_passes=min(row + width, outline.search_rows[index][1]) - row,
            work=Work(_SURVEY, {}),
        )
        for index in outline.searched
        for row in range(*outline.search_rows[index], width)
    ]


def _surveyed(shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
    """Digest of the images, and the class's output. A model that fails on them fails here, by name."""
    logits = logits_in_batches(subject, block.images, advance)
    require_finite(logits, subject, shard.rows, "")
    output = subject.output_of(shard.class_index)
    digests = "\n".join(subject.images.store.digests[slice(*shard.rows)])
    return {
        "output": np.array([output]),
        "loss": cross_entropy(logits, output).cpu().numpy(),
        "digest": np.frombuffer(hashlib.sha256(digests.encode()).digest(), dtype=np.uint8),
    }


def _groups(outline: Outline) -> list[tuple[int, ...]]:
    """Classes that share shards, in order; the same whatever the machine."""
    groups: list[list[int]] = []
    n_images = _IMAGES_PER_STEP
    for index in outline.searched:
        drawn = sum(n_drawn(outline.search_rows[index]))
        n_images += drawn
        if n_images > min(_IMAGES_PER_STEP, FLOATS_PER_BLOCK // outline.grid.n_orbits):
            groups.append([])
            n_images = drawn
        groups[-1].append(index)
    return [tuple(group) for group in groups]


def _steps_per_round(outline: Outline, groups: Sequence[Sequence[int]], n_steps: int) -> int:
    largest = max(_passes_per_step(outline, group) for group in groups)
    n_bytes = MaskState.start(outline.grid.n_orbits).n_bytes * len(outline.searched)
    most = min(max(_BYTES_OF_ALL_ROUNDS // n_bytes, _FEWEST_ROUNDS), _MOST_ROUNDS)
    return max(1, PASSES_PER_SHARD // largest, -(-n_steps // most))


def _descent_shard(
    outline: Outline,
    known: _Known,
    states: Mapping[int, MaskState],
    group: Sequence[int],
    steps: tuple[int, int],
    n_steps: int,
) -> Shard:
    """Some steps of all masks of a group of classes, the first of which stands for it.

    Images are read as the steps draw them, so that the shard's own block is a single image.
    """
    row = outline.search_rows[group[0]][0]
    n_passes = (steps[1] - steps[0]) * _passes_per_step(outline, group)
    held = [states[index] for index in group]
    arrays: dict[str, NDArray[Any]] = {
        "n_steps": np.array([n_steps]),
        "rows": np.array([outline.search_rows[index] for index in group]),
        "outputs": np.array([known.outputs[index] for index in group]),
        "digests": np.stack([known.digests[index] for index in group]),
        **MaskState.stacked(held),
    }
    return Shard(
        measure=MEASURE,
        split="search",
        class_index=group[0],
        rows=(row, row + 1),
        orbits=steps,
        n_passes=n_passes,
        n_backward=n_passes // _PASSES_PER_IMAGE,
        work=Work(_DESCENT, arrays),
    )


def _states_after(done: Done, groups: Iterable[Sequence[int]]) -> dict[int, MaskState]:
    states: dict[int, MaskState] = {}
    for group in groups:
        for _, totals in done.of(group[0]):
            states.update(zip(group, MaskState.unstacked(totals), strict=True))
    return states


def _outcome(
    outline: Outline, states: Mapping[int, MaskState], n_done: int, n_steps: int, stopped: str = ""
) -> SearchOutcome:
    """Maps after `n_done` of `n_steps` steps."""
    schedule = Schedule(n_steps, outline.settings.kept_share)
    last = schedule.at(n_done - 1)
    members = counted_members(outline)
    by_class, soft_shares = [], []
    # Of the largest class; smaller ones may have fewer images than a step would take.
    drawn = np.max([n_drawn(outline.search_rows[index]) for index in outline.searched], axis=0).tolist()
    for index in outline.searched:
        logits = torch.from_numpy(states[index].logits)
        by_class.append(_told(outline, index, logits.numpy()))
        held = soft_masks(logits[:1], members, last)
        soft_shares.append(float((held @ members / members.sum()).item()))
    return SearchOutcome(
        by_class=by_class,
        settings={
            "steps": n_done,
            "images_per_step": {branch.name: n for branch, n in zip(BRANCHES, drawn, strict=True)},
            **schedule.told,
            "soft_share": round(float(np.mean(soft_shares)), 6),
            "seed": outline.settings.seed,
        },
        stopped=stopped,
    )


def _told(outline: Outline, index: int, logits: NDArray[np.float64]) -> ClassSearch:
    """The map of a class from the logits (n_branches, n_orbits) of its masks."""
    start, stop = outline.search_rows[index]
    return ClassSearch(
        class_index=index,
        n_images=stop - start,
        score="joint",
        importance={"joint": logits[0].astype(np.float32)},
        reliability={"joint": _reliability(outline, logits, stop - start)},
    )


def _reliability(outline: Outline, logits: NDArray[np.float64], n_images: int) -> Reliability:
    """From the masks that each learned from one half of the images."""
    counted = counted_members(outline).numpy() > 0
    correlation = spearman(logits[1][counted], logits[2][counted])
    if correlation is None:
        return Reliability(
            half_correlation=None,
            value=None,
            n_images=n_images,
            n_splits=0,
            reason="a mask learned from one half of the images is constant",
        )
    return Reliability(
        half_correlation=correlation,
        value=spearman_brown(correlation),
        n_images=n_images,
        n_splits=1,
    )
