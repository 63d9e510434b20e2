"""From settings to ordered shards with content keys.

A key hashes everything that can change a shard's number. Equal keys mean equal totals, so a shard
that is on disk is never run again, and a changed model, image or setting never finds an old one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures import MEASURES
from shortcut_audit.measures.interface import Arrays, Measure, Outline, Shard, Split
from shortcut_audit.results.provenance import ModelProvenance
from shortcut_audit.results.settings import AuditSettings

__all__ = ["Task", "outline_of", "passes_by_measure", "tasks_of"]


@dataclass(frozen=True)
class Task:
    """A shard, the measure that runs it, and its content key."""

    measure: Measure
    shard: Shard
    key: str


def outline_of(settings: AuditSettings, images: AuditImages, n_outputs: int) -> Outline:
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
    )


def passes_by_measure(outline: Outline) -> dict[str, int]:
    """Image passes that each measure takes in all."""
    return {
        measure.name: sum(
            shard.n_passes for split in ("search", "judge") for shard in measure.shards(outline, split)
        )
        for measure in MEASURES
    }


def tasks_of(
    split: Split,
    outline: Outline,
    images: AuditImages,
    model: ModelProvenance,
    device_type: str,
    found: Arrays,
) -> list[Task]:
    """The work of all measures on one split, block by block.

    Shards that share a block of images stand together, so that the block is read and transformed
    once for all of them.
    """
    ground = _ground(outline, model, device_type)
    tasks = [
        Task(measure, shard, _key(measure, shard, outline, images, ground, found))
        for measure in MEASURES
        for shard in measure.shards(outline, split)
    ]
    return sorted(tasks, key=lambda task: task.shard.rows)


def _ground(outline: Outline, model: ModelProvenance, device_type: str) -> dict[str, Any]:
    """What every shard of an audit has in common."""
    return {
        "weights": model.digest,
        "preprocessing": model.preprocessing.model_dump(mode="json"),
        "n_outputs": model.n_outputs,
        "grid": [outline.n_channels, outline.grid.height, outline.grid.width],
        "dtype": outline.settings.dtype,
        "device": device_type,
        "torch": torch.__version__,
    }


def _key(
    measure: Measure,
    shard: Shard,
    outline: Outline,
    images: AuditImages,
    ground: dict[str, Any],
    found: Arrays,
) -> str:
    start, stop = outline.rows_of(shard.split, shard.class_index)
    content = {
        **ground,
        "measure": [measure.name, measure.revision],
        "settings": measure.relevant(outline.settings),
        "split": shard.split,
        "output": images.outputs[shard.class_index],
        # Rows count from the start of the class's own split: images of other classes may come and
        # go. How many there are decides how they are dealt into folds.
        "rows": [shard.rows[0] - start, shard.rows[1] - start, stop - start],
        "orbits": shard.orbits,
        "images": images.store.digests[slice(*shard.rows)],
        "needs": {name: _array_digest(array) for name, array in measure.needs(found).items()},
        # Judgement totals have a column for each mapped class.
        "searched": [images.outputs[index] for index in outline.searched]
        if shard.split == "judge"
        else [],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _array_digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
