"""Kept maps: what is left of a class, and what else becomes it, when only its map is kept.

TPR_c: share of class-c images still called c when only the map of c is kept; FPR_c: share of images of
other classes then called c. Wang et al., ICCV 2023, section 3; here on images the search never saw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import BoolArray, found_share, half_plane_mask, top_share
from shortcut_audit.fourier.transform import apply_mask
from shortcut_audit.measures.interface import (
    Advance,
    Block,
    Outline,
    Shard,
    Subject,
    Totals,
    Work,
    blocks_of,
    logits_in_batches,
    require_finite,
)
from shortcut_audit.results.findings import ExamplePrediction, ExampleStep, Rate
from shortcut_audit.results.settings import AuditSettings

__all__ = [
    "EXAMPLE_SHARES",
    "KEPT_MAPS",
    "KeptCounts",
    "example_fields",
    "kept_map_shards",
    "prediction",
    "run_kept_maps",
    "step_sets",
    "with_dc",
]

# The kind of work of these shards.
KEPT_MAPS = "kept maps"
_FORMS = ("original", "kept", "removed")
# Shares of the ranked bins that an example is shown at, growing.
EXAMPLE_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
# Maps of other classes that an image is judged under: with hundreds of classes, every image under every
# map would cost more than the search.
_OTHER_MAPS = 3


def kept_map_shards(
    measure: str, outline: Outline, kept: BoolArray, rank: NDArray[np.integer]
) -> list[Shard]:
    """One shard per block of judgement images. `kept` (n_searched, n_orbits): the maps; `rank` (the same
    shape): the rankings, 0 = not ranked, that examples are taken apart by."""
    plain = Work(KEPT_MAPS, {"kept": kept})
    shown = rank[: outline.settings.examples].astype(np.int32)
    # Blocks without an example do not depend on the order within a map.
    showing = Work(KEPT_MAPS, {"kept": kept, "rank": shown, "shares": np.array(EXAMPLE_SHARES)})
    shards = []
    for class_index in range(outline.n_classes):
        n_maps = len(maps_judged_on(outline, class_index))
        for rows in blocks_of(outline, "judge", class_index):
            n_passes, work = (n_maps + 1) * (rows[1] - rows[0]), plain
            if _shows_example(outline, class_index, rows):
                own = shown[outline.searched.index(class_index)]
                n_passes += len(_FORMS) + len(step_sets(outline.grid, own, EXAMPLE_SHARES))
                work = showing
            shards.append(
                Shard(
                    measure=measure,
                    split="judge",
                    class_index=class_index,
                    rows=rows,
                    orbits=(0, outline.grid.n_orbits),
                    n_passes=n_passes,
                    work=work,
                )
            )
    return shards


def _shows_example(outline: Outline, class_index: int, rows: tuple[int, int]) -> bool:
    """Whether a block is the one that the class's example is taken from."""
    shown = outline.searched[: outline.settings.examples]
    return class_index in shown and rows[0] == outline.judge_rows[class_index][0]


def step_sets(
    grid: FrequencyGrid, rank: NDArray[np.integer], shares: Iterable[float]
) -> list[tuple[float, BoolArray]]:
    """The top of a ranking (n_orbits,) for each of `shares`, bool (n_orbits,); equal sets once, under the
    first share.

    >>> grid = FrequencyGrid(4, 4)
    >>> [(share, int(own.sum())) for share, own in step_sets(grid, np.arange(10), (0.01, 0.02, 0.7))]
    [(0.01, 1), (0.7, 6)]
    """
    steps: list[tuple[float, BoolArray]] = []
    for share in shares:
        chosen = top_share(grid, rank.astype(np.int64), share)
        # Growing shares of one ranking: sets of equal size are equal.
        if not steps or chosen.sum() > steps[-1][1].sum():
            steps.append((share, chosen))
    return steps


def maps_judged_on(outline: Outline, class_index: int) -> NDArray[np.int64]:
    """Places in `Outline.searched` of the maps that images of a class are judged under.

    All of them where there are few; else the class's own and some others, dealt in turn, so that every
    map is judged on images of as many other classes.
    """
    searched = np.array(outline.searched)
    own = np.flatnonzero(searched == class_index)
    others = np.flatnonzero(searched != class_index)
    if len(others) > _OTHER_MAPS:
        generator = np.random.default_rng(outline.settings.seed)
        steps = 1 + generator.permutation(len(searched) - 1)[:_OTHER_MAPS]
        place = int(own[0]) if len(own) else class_index
        others = (place + steps) % len(searched)
    return np.sort(np.concatenate([own, others])).astype(np.int64)


def run_kept_maps(shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
    """Predictions of the block's images, which of them each map calls its class, and an example."""
    assert shard.work is not None
    kept = shard.work.arrays["kept"]
    columns = maps_judged_on(subject.outline, shard.class_index)
    device = block.images.device
    masks = half_plane_mask(subject.grid, with_dc(kept[columns], subject.settings)).to(device)
    outputs = torch.tensor(
        [subject.output_of(subject.outline.searched[column]) for column in columns], device=device
    )
    clean = logits_in_batches(subject, block.images, advance)
    require_finite(clean, subject, shard.rows, "")
    called = torch.zeros((len(masks), shard.n_images), dtype=torch.bool, device=device)
    n_probes = shard.n_images * len(masks)
    for start in range(0, n_probes, subject.batch_size):
        probes = torch.arange(start, min(start + subject.batch_size, n_probes), device=device)
        images, maps = probes // len(masks), probes % len(masks)
        filtered = apply_mask(block.spectrum[images], masks[maps][:, None], subject.grid.width)
        called[maps, images] = subject.logits(filtered).argmax(dim=1) == outputs[maps]
        advance(len(probes))
    totals = {
        "columns": columns,
        "kept_called": called.cpu().numpy(),
        "predicted": clean.argmax(dim=1).cpu().numpy().astype(np.int32),
    }
    return {**totals, **_example(shard, subject, block, clean, advance)}


def _example(
    shard: Shard, subject: Subject, block: Block, clean: Tensor, advance: Advance
) -> dict[str, NDArray[Any]]:
    """The first image the model gets right in the class's first block, in its three forms, and what the
    model says of it step by step."""
    outline = subject.outline
    if not _shows_example(outline, shard.class_index, shard.rows):
        return {}
    assert shard.work is not None
    given, column = shard.work.arrays, outline.searched.index(shard.class_index)
    kept = given["kept"][column].astype(np.bool_)
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
        "example_logits": logits_in_batches(subject, forms, advance).cpu().numpy(),
        # Counted from the start of the class's own split, as shard keys are.
        "example_row": np.array([index]),
        **_steps(subject, block.spectrum[index], given["rank"][column], given["shares"], advance),
    }


def _steps(
    subject: Subject,
    spectrum: Tensor,
    rank: NDArray[np.int32],
    shares: NDArray[np.float64],
    advance: Advance,
) -> dict[str, NDArray[Any]]:
    """Logits (n_steps, K) of an image (its `spectrum`) with only the top of a ranking left, and for each
    step the share asked for, the share found and the number of orbits (n_steps, 3)."""
    grid = subject.grid
    steps = step_sets(grid, rank, shares.tolist())
    sets = np.stack([chosen for _, chosen in steps])
    masks = half_plane_mask(grid, with_dc(sets, subject.settings)).to(spectrum.device)
    filtered = apply_mask(spectrum, masks[:, None], grid.width)
    return {
        "step_logits": logits_in_batches(subject, filtered, advance).cpu().numpy(),
        "step_sizes": np.array(
            [[share, found_share(grid, own, rank > 0), own.sum()] for share, own in steps]
        ),
    }


@dataclass
class KeptCounts:
    """Outcomes of the shards: `kept_called` images called by each map's class, `n` judged, both of shape
    (n_classes of the data, n_searched). By class of the data, of its judgement images in order: outputs
    `predicted`, the `columns` of the maps that they were judged under, and whether they were `kept`
    in the class of each (n_columns, n_images). `examples` by class."""

    kept_called: NDArray[np.int64]
    n: NDArray[np.int64]
    predicted: dict[int, NDArray[np.int32]]
    columns: dict[int, NDArray[np.int64]]
    kept: dict[int, NDArray[np.bool_]]
    examples: dict[int, Totals]

    @classmethod
    def of(cls, outline: Outline, totals: Iterable[tuple[Shard, Totals]]) -> KeptCounts:
        """Add up."""
        shape = (outline.n_classes, len(outline.searched))
        held = cls(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64), {}, {}, {}, {})
        for shard, total in totals:
            index, columns = shard.class_index, total["columns"]
            kept = total["kept_called"].astype(np.bool_)
            held.kept_called[index, columns] += kept.sum(axis=1)
            held.n[index, columns] += shard.n_images
            before = held.predicted.get(index, np.zeros(0, dtype=np.int32))
            held.predicted[index] = np.concatenate([before, total["predicted"]])
            held.columns[index] = columns
            held.kept[index] = np.concatenate([held.kept.get(index, kept[:, :0]), kept], axis=1)
            if "example" in total:
                held.examples[index] = total
        return held

    def called(self, outline: Outline, output: int) -> NDArray[np.bool_]:
        """Whether each image, by row, is called by an output as it is; search images count as not."""
        called = np.zeros(max(stop for _, stop in outline.judge_rows), dtype=np.bool_)
        for index, rows in enumerate(outline.judge_rows):
            called[slice(*rows)] = self.predicted[index] == output
        return called

    def rates(self, outline: Outline, images: AuditImages, column: int) -> dict[str, Rate]:
        """TPR and FPR of a map, kept and full."""
        own = outline.searched[column]
        foreign = [index for index in range(outline.n_classes) if index != own]
        output = images.outputs[own]
        called = {k: int((self.predicted[k] == output).sum()) for k in range(outline.n_classes)}
        n_foreign = sum(len(self.predicted[index]) for index in foreign)
        return {
            "tpr_kept": Rate(hits=int(self.kept_called[own, column]), n=int(self.n[own, column])),
            "fpr_kept": Rate(
                hits=int(self.kept_called[foreign, column].sum()), n=int(self.n[foreign, column].sum())
            ),
            "tpr_full": Rate(hits=called[own], n=len(self.predicted[own])),
            "fpr_full": Rate(hits=sum(called[index] for index in foreign), n=n_foreign),
        }


def with_dc(kept: NDArray[np.bool_], settings: AuditSettings) -> NDArray[np.bool_]:
    """Maps (n, n_orbits) with DC as the settings have it: kept, dropped, or where its rank put it."""
    masks = kept.astype(np.bool_).copy()
    if settings.dc != "rank":
        masks[:, 0] = settings.dc == "keep"
    return masks


def example_fields(images: AuditImages, class_index: int, total: Totals | None) -> dict[str, Any]:
    if total is None:
        return {}
    output = images.outputs[class_index]
    return {
        "example": images.names[images.judge_rows[class_index][0] + int(total["example_row"][0])],
        "example_predictions": {
            form: prediction(images, row, output)
            for form, row in zip(_FORMS, total["example_logits"], strict=True)
        },
        "example_steps": tuple(
            ExampleStep(
                share=share,
                share_found=found,
                n_orbits=int(n_orbits),
                prediction=prediction(images, row, output),
            )
            for (share, found, n_orbits), row in zip(
                total["step_sizes"].tolist(), total["step_logits"], strict=True
            )
        ),
    }


def prediction(images: AuditImages, logits: NDArray[Any], output: int) -> ExamplePrediction:
    """What logits (K,) say, and how probable they make `output`."""
    probabilities = torch.softmax(torch.from_numpy(logits).double(), dim=0)
    return ExamplePrediction(
        predicted=_output_name(images, int(probabilities.argmax())),
        probability=round(float(probabilities.max()), 6),
        probability_of_class=round(float(probabilities[output]), 6),
    )


def _output_name(images: AuditImages, output: int) -> str:
    if output in images.outputs:
        return images.class_names[images.outputs.index(output)]
    return f"output {output}"
