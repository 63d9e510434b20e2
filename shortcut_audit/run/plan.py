"""From settings to ordered shards with content keys.

A key hashes everything that can change a shard's number. Equal keys mean equal totals, so a shard
that is on disk is never run again, and a changed model, image or setting never finds an old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures import measures_of
from shortcut_audit.measures.interface import (
    Arrays,
    Measure,
    MeasureInRounds,
    Outline,
    Shard,
    Split,
)
from shortcut_audit.results.provenance import ModelProvenance, installed_versions
from shortcut_audit.results.settings import AuditSettings, SearchName

__all__ = ["SPLITS", "Ground", "Task", "outline_of", "passes_by_measure", "tasks_of", "tasks_of_round"]


SPLITS: tuple[Split, ...] = ("search", "judge")


@dataclass(frozen=True)
class Task:
    """A shard, the measure that runs it, and its content key."""

    measure: Measure | MeasureInRounds
    shard: Shard
    key: str


@dataclass(frozen=True)
class Ground:
    """What all shards of an audit stand on: sizes and settings, images, model and device."""

    outline: Outline
    images: AuditImages
    model: ModelProvenance
    device_type: str


def outline_of(
    settings: AuditSettings,
    images: AuditImages,
    n_outputs: int,
    search: SearchName = "exact",
    search_reason: str = "",
) -> Outline:
    """Sizes and settings of an audit."""
    channels, height, width = images.store.shape
    chosen = settings.classes
    return Outline(
        settings=settings,
        grid=FrequencyGrid(height, width),
        n_channels=channels,
        n_outputs=n_outputs,
        n_classes=len(images.class_names),
        search_rows=images.search_rows,
        judge_rows=images.judge_rows,
        searched=tuple(
            index for index, name in enumerate(images.class_names) if chosen is None or name in chosen
        ),
        shifted_rows=tuple(each.rows for each in images.shifted),
        shifted_copies=tuple(each.counterparts is not None for each in images.shifted),
        search=search,
        search_reason=search_reason,
    )


def passes_by_measure(outline: Outline) -> dict[str, int]:
    """Image passes that each measure takes in all, as far as they are known beforehand."""
    return {measure.name: _planned_passes(measure, outline) for measure in measures_of(outline)}


def _planned_passes(measure: Measure | MeasureInRounds, outline: Outline) -> int:
    if isinstance(measure, MeasureInRounds):
        return measure.planned_passes(outline)
    return sum(shard.n_passes for split in SPLITS for shard in measure.shards(outline, split))


def tasks_of(split: Split, ground: Ground, found: Arrays) -> list[Task]:
    """The work on one split of all measures that know theirs, block by block.

    Shards that share a block of images stand together, so that the block is read and transformed
    once for all of them.
    """
    common = _common(ground)
    tasks = [
        Task(
            measure,
            shard,
            _key(
                measure,
                shard,
                ground,
                common,
                measure.relevant(ground.outline.settings),
                measure.needs(found),
            ),
        )
        for measure in measures_of(ground.outline)
        if not isinstance(measure, MeasureInRounds)
        for shard in measure.shards(ground.outline, split)
    ]
    return sorted(tasks, key=lambda task: task.shard.rows)


def tasks_of_round(measure: MeasureInRounds, shards: Sequence[Shard], ground: Ground) -> list[Task]:
    """The work of one round, in the measure's own order."""
    common, relevant = _common(ground), measure.relevant_to(ground.outline)
    return [Task(measure, shard, _key(measure, shard, ground, common, relevant, {})) for shard in shards]


def _common(ground: Ground) -> dict[str, Any]:
    """What every shard of an audit has in common."""
    outline, model = ground.outline, ground.model
    return {
        "weights": model.digest,
        "preprocessing": model.preprocessing.model_dump(mode="json"),
        "n_outputs": model.n_outputs,
        "grid": [outline.n_channels, outline.grid.height, outline.grid.width],
        "dtype": outline.settings.dtype,
        "device": ground.device_type,
        "torch": torch.__version__,
        **_runtime_of(model),
    }


def _runtime_of(model: ModelProvenance) -> dict[str, str]:
    """Who computes an ONNX graph; for other models torch says it all."""
    if not (model.spec.endswith(".onnx") or model.architecture == "OnnxNetwork"):
        return {}
    versions = installed_versions()
    return {name: versions[name] for name in versions if name.startswith("onnxruntime")}


def _key(
    measure: Measure | MeasureInRounds,
    shard: Shard,
    ground: Ground,
    common: dict[str, Any],
    relevant: dict[str, Any],
    needs: Arrays,
) -> str:
    outline, images = ground.outline, ground.images
    start, stop = outline.rows_of(shard.split, shard.class_index)
    content = {
        **common,
        "measure": [measure.name, measure.revision],
        "settings": relevant,
        "split": shard.split,
        "output": images.outputs[shard.class_index],
        # Rows count from the start of the class's own split: images of other classes may come and
        # go. How many there are decides how they are dealt into folds.
        "rows": [shard.rows[0] - start, shard.rows[1] - start, stop - start],
        "orbits": shard.orbits,
        "images": images.store.digests[slice(*shard.rows)],
        "work": shard.work.digest if shard.work is not None else "",
        "needs": {name: _array_digest(array) for name, array in needs.items()},
        # Judgement totals have a column for each mapped class.
        "searched": [images.outputs[index] for index in outline.searched]
        if shard.split == "judge"
        else [],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _array_digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
