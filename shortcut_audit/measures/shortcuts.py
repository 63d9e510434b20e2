"""Sufficiency: what is left of the class, and what else becomes it, when only its map is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.fourier.transform import apply_mask
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
from shortcut_audit.results.findings import (
    ClassShortcut,
    ExamplePrediction,
    Rate,
    ShortcutsFinding,
)
from shortcut_audit.results.settings import AuditSettings

__all__ = ["Shortcuts"]

_KEPT = "dominant_frequencies/kept"
_FORMS = ("original", "kept", "removed")


@dataclass(frozen=True)
class Shortcuts:
    """TPR and FPR under each class's map, on judgement images.

    TPR_c: share of class-c images still called c when only the map of c is kept; FPR_c: share of
    the images of all other classes then called c. Wang et al., ICCV 2023, section 3; here on
    images the search never saw.
    """

    name: str = "shortcuts"
    revision: int = 1

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {
            "domain": settings.domain,
            "clip": settings.clip,
            "dc": settings.dc,
            "examples": settings.examples,
        }

    def shards(self, outline: Outline, split: Split) -> list[Shard]:
        if split != "judge":
            return []
        return image_shards(self.name, outline, split, len(outline.searched) + 1)

    def needs(self, found: Arrays) -> Arrays:
        return {_KEPT: found[_KEPT]}

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        kept = found[_KEPT]
        masks = half_plane_mask(subject.grid, with_dc(kept, subject.settings))
        masks = masks.to(block.images.device)
        outputs = torch.tensor(
            [subject.output_of(index) for index in subject.outline.searched],
            device=block.images.device,
        )
        clean = logits_in_batches(subject, block.images, advance)
        require_finite(clean, subject, shard.rows, "")
        called = torch.zeros(len(masks), dtype=torch.int64, device=block.images.device)
        n_probes = shard.n_images * len(masks)
        for start in range(0, n_probes, subject.batch_size):
            probes = torch.arange(
                start, min(start + subject.batch_size, n_probes), device=block.images.device
            )
            images, maps = probes // len(masks), probes % len(masks)
            filtered = apply_mask(block.spectrum[images], masks[maps][:, None], subject.grid.width)
            hits = subject.logits(filtered).argmax(dim=1) == outputs[maps]
            called.index_add_(0, maps, hits.long())
            advance(len(probes))
        full = (clean.argmax(dim=1)[:, None] == outputs).sum(dim=0)
        totals = {"kept_called": called.cpu().numpy(), "full_called": full.cpu().numpy()}
        return {**totals, **self._example(shard, subject, block, found, clean)}

    def _example(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, clean: Tensor
    ) -> dict[str, NDArray[Any]]:
        """The first image the model gets right in the class's first block, in its three forms."""
        outline = subject.outline
        shown = outline.searched[: subject.settings.examples]
        if shard.class_index not in shown or shard.rows[0] != outline.judge_rows[shard.class_index][0]:
            return {}
        kept = found[_KEPT][outline.searched.index(shard.class_index)]
        # Complementary but for DC, which both forms hold or both lack, unless it is ranked.
        pair = with_dc(np.stack([kept, ~kept]), subject.settings)
        masks = half_plane_mask(subject.grid, pair).to(block.images.device)
        right = clean.argmax(dim=1) == subject.output_of(shard.class_index)
        index = int(right.long().argmax())
        filtered = apply_mask(block.spectrum[index], masks[:, None], subject.grid.width)
        forms = torch.cat([block.images[index][None], filtered])
        pixels = subject.to_pixels(forms).clamp(0, 1).mul(255).round().to(torch.uint8)
        return {
            "example": pixels.cpu().numpy(),
            "example_logits": logits_in_batches(subject, forms, lambda n: None).cpu().numpy(),
            # Counted from the start of the class's own split, as shard keys are.
            "example_row": np.array([index]),
        }

    def finish(
        self, outline: Outline, images: AuditImages, totals: Iterable[tuple[Shard, Totals]]
    ) -> tuple[ShortcutsFinding, Arrays]:
        n_searched = len(outline.searched)
        kept_called = np.zeros((outline.n_classes, n_searched), dtype=np.int64)
        full_called = np.zeros((outline.n_classes, n_searched), dtype=np.int64)
        n_judge = np.zeros(outline.n_classes, dtype=np.int64)
        examples: dict[int, Totals] = {}
        for shard, total in totals:
            kept_called[shard.class_index] += total["kept_called"]
            full_called[shard.class_index] += total["full_called"]
            n_judge[shard.class_index] += shard.n_images
            if "example" in total:
                examples[shard.class_index] = total
        by_class = []
        for column, class_index in enumerate(outline.searched):
            foreign = np.arange(outline.n_classes) != class_index
            n_own, n_foreign = int(n_judge[class_index]), int(n_judge[foreign].sum())
            kept, full = kept_called[:, column], full_called[:, column]
            by_class.append(
                ClassShortcut(
                    class_name=images.class_names[class_index],
                    n_judge=n_own,
                    tpr_kept=Rate(hits=int(kept[class_index]), n=n_own),
                    fpr_kept=Rate(hits=int(kept[foreign].sum()), n=n_foreign),
                    tpr_full=Rate(hits=int(full[class_index]), n=n_own),
                    fpr_full=Rate(hits=int(full[foreign].sum()), n=n_foreign),
                    **_example_fields(images, class_index, examples.get(class_index)),
                )
            )
        arrays: Arrays = {}
        if examples:
            order = [index for index in outline.searched if index in examples]
            arrays["shortcuts/examples"] = np.stack([examples[index]["example"] for index in order])
        return ShortcutsFinding(by_class=tuple(by_class)), arrays


def with_dc(kept: NDArray[np.bool_], settings: AuditSettings) -> NDArray[np.bool_]:
    """Maps (n, n_orbits) with DC as the settings have it: kept, dropped, or where its rank put it."""
    masks = kept.astype(np.bool_).copy()
    if settings.dc != "rank":
        masks[:, 0] = settings.dc == "keep"
    return masks


def _example_fields(images: AuditImages, class_index: int, total: Totals | None) -> dict[str, Any]:
    if total is None:
        return {}
    probabilities = torch.softmax(torch.from_numpy(total["example_logits"]).double(), dim=1)
    output = images.outputs[class_index]
    return {
        "example": images.names[images.judge_rows[class_index][0] + int(total["example_row"][0])],
        "example_predictions": {
            form: ExamplePrediction(
                predicted=_output_name(images, int(row.argmax())),
                probability=round(float(row.max()), 6),
                probability_of_class=round(float(row[output]), 6),
            )
            for form, row in zip(_FORMS, probabilities, strict=True)
        },
    }


def _output_name(images: AuditImages, output: int) -> str:
    if output in images.outputs:
        return images.class_names[images.outputs.index(output)]
    return f"output {output}"
