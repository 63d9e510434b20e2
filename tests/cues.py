"""Images whose pixels say shape and texture, models that read one, the slow replica, made-up results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shortcut_audit.results.cue_conflict import (
    CueClass,
    CueConflictResult,
    CueCounts,
    CueData,
    CueGroup,
    DroppedCueClass,
    LeftOut,
)
from shortcut_audit.results.cue_settings import CueConflictSettings
from shortcut_audit.results.provenance import ModelProvenance, Preprocessing, Timing

STEP = 20
HOSTILE = "<script>alert(1)</script> & \"so\" 'on', $x$"
NAMES = ("ant", "bee", "cow", "dog")


def picture(shape: int, texture: int, noise: int = 0) -> np.ndarray:
    """(4, 4, 1) uint8: the first pixel is the shape, the second the texture, the rest noise."""
    pixels = np.random.default_rng(noise).integers(0, 256, (4, 4, 1), dtype=np.uint8)
    pixels[0, 0, 0], pixels[0, 1, 0] = STEP * shape, STEP * texture
    return pixels


def triples(pairs: Sequence[tuple[int, int]]) -> list[tuple[np.ndarray, int, int]]:
    return [
        (picture(shape, texture, noise), shape, texture) for noise, (shape, texture) in enumerate(pairs)
    ]


def all_pairs(n: int = len(NAMES)) -> list[tuple[int, int]]:
    return [(shape, texture) for shape in range(n) for texture in range(n)]


def save_cues(path: Path, pairs: Sequence[tuple[int, int]], names: Sequence[str] = NAMES) -> Path:
    images = np.stack([image for image, _, _ in triples(pairs)])
    shape, texture = (np.array([pair[side] for pair in pairs], dtype=np.int16) for side in (0, 1))
    np.savez(path, x=images, y_shape=shape, y_texture=texture, classes=np.array(names))
    return path


class Reads(nn.Module):
    """Answers row `table[label]` (n_classes, K), the label read from one pixel: 0 shape, 1 texture."""

    def __init__(self, place: int, table: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.place = place
        self.table = nn.Parameter(torch.tensor(table, dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        labels = (images[:, 0, 0, self.place] * 255 / STEP).round().long()
        return self.table[labels.clamp(0, len(self.table) - 1)]


def one_output_each(n: int = len(NAMES)) -> list[list[float]]:
    return (8 * torch.eye(n)).tolist()


def slow_counts(
    model: nn.Module,
    images: Sequence[tuple[np.ndarray, int, int]],
    names: Sequence[str],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, dict[str, int]]:
    """One image at a time, with dictionaries and floats; groups of classes that no image has are out.

    Counts of all images by "shape", "texture", "neither" (among groups), "all shape", "all texture",
    "all neither" (the largest single output), and by class of the shape; "unmapped", "same".
    """
    there = {names[label] for _, *labels in images for label in labels}
    alive = {name: outputs for name, outputs in groups.items() if name in there}
    counts: dict[str, dict[str, int]] = {"": {"unmapped": 0, "same": 0}}
    for image, *labels in images:
        shape, texture = (names[label] for label in labels)
        if shape not in alive or texture not in alive:
            counts[""]["unmapped"] += 1
            continue
        if shape == texture:
            counts[""]["same"] += 1
            continue
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        with torch.no_grad():
            logits = [float(value) for value in model.eval()(pixels)[0]]
        total = sum(math.exp(value) for value in logits)
        means = {
            name: sum(math.exp(logits[output]) / total for output in outputs) / len(outputs)
            for name, outputs in alive.items()
        }
        answer = max(means, key=lambda name: means[name])
        top = logits.index(max(logits))
        single = next((name for name, outputs in alive.items() if top in outputs), None)
        for prefix, said in (("", answer), ("all ", single)):
            what = "shape" if said == shape else "texture" if said == texture else "neither"
            for row in ("", shape):
                counts.setdefault(row, {})
                counts[row][prefix + what] = counts[row].get(prefix + what, 0) + 1
    return counts


def made(
    *counts: tuple[int, int, int], left_out: LeftOut | None = None, name: str = "small_cnn"
) -> CueConflictResult:
    """A result with a class of each (n_shape, n_texture, n_neither); the first has a hostile name."""
    left = left_out or LeftOut(unmapped=5, same_class=2, not_drawn=0, unreadable=0)
    names = [HOSTILE, *(f"class{n}" for n in range(1, len(counts)))]
    by_class = tuple(
        CueClass(
            class_name=each,
            among_groups=CueCounts(n_shape=a, n_texture=b, n_neither=c),
            among_all=CueCounts(n_shape=0, n_texture=b, n_neither=a + c),
        )
        for each, (a, b, c) in zip(names, counts, strict=True)
    )
    n_used = sum(map(sum, counts))
    pre = Preprocessing(
        channels=1, height=4, width=4, geometry="as they are", mean=(0.0,), std=(1.0,), source="the user"
    )
    return CueConflictResult(
        model=ModelProvenance(
            spec=HOSTILE, architecture=name, digest="ab", n_parameters=7, n_outputs=9, preprocessing=pre
        ),
        data=CueData(spec=HOSTILE, digest="cd" * 20, n_available=n_used + left.n, n_used=n_used),
        settings=CueConflictSettings(),
        protocol="A sentence.",
        groups=tuple(
            CueGroup(name=each, outputs=(row,), classes=(each,)) for row, each in enumerate(names)
        ),
        by_class=by_class,
        dropped=(DroppedCueClass(class_name="cow", reason=HOSTILE, n_shape=3, n_texture=2),),
        left_out=left,
        notes=(HOSTILE,),
        versions={"shortcut-audit": "1.2"},
        command=f"shortcut-audit cue-conflict '{HOSTILE}'",
        device="cpu",
        batch_size=32,
        timing=Timing(finished_at="", measuring_seconds=1.0, images_per_second=2.0),
    )
