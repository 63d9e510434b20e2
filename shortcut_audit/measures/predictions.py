"""What the model says of unfiltered images: accuracy and confusion over both splits, and each answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.measures.interface import (
    Advance,
    Arrays,
    Block,
    Outline,
    Shard,
    Split,
    Subject,
    Totals,
    image_shards,
    logits_in_batches,
    require_finite,
)
from shortcut_audit.measures.outcomes import outcomes_of_images
from shortcut_audit.results.findings import PredictionsFinding, Rate
from shortcut_audit.results.settings import AuditSettings

__all__ = ["Predictions"]


@dataclass(frozen=True)
class Predictions:
    """The predicted output of every image: one forward pass each."""

    name: str = "predictions"
    revision: int = 2

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {}

    def shards(self, outline: Outline, split: Split) -> list[Shard]:
        return image_shards(self.name, outline, split, n_passes_per_image=1)

    def needs(self, found: Arrays) -> Arrays:
        return {}

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        logits = logits_in_batches(subject, block.images, advance)
        require_finite(logits, subject, shard.rows, "")
        return {"predicted": logits.argmax(dim=1).cpu().numpy().astype(np.int32)}

    def finish(
        self, outline: Outline, images: AuditImages, totals: Iterable[tuple[Shard, Totals]]
    ) -> tuple[PredictionsFinding, Arrays]:
        confusion = np.zeros((outline.n_classes, outline.n_outputs), dtype=np.int64)
        predicted = np.zeros(images.n_used, dtype=np.int32)
        for shard, total in totals:
            confusion[shard.class_index] += np.bincount(total["predicted"], minlength=outline.n_outputs)
            predicted[slice(*shard.rows)] = total["predicted"]
        by_class = tuple(
            Rate(hits=int(row[images.outputs[index]]), n=int(row.sum()))
            for index, row in enumerate(confusion)
        )
        finding = PredictionsFinding(
            accuracy=Rate(hits=sum(r.hits for r in by_class), n=sum(r.n for r in by_class)),
            accuracy_by_class=by_class,
        )
        return finding, {
            "predictions/confusion": confusion.astype(np.int32),
            **outcomes_of_images(images, predicted),
        }
