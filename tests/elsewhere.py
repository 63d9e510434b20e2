"""Audits that go on to other sets: small ones with all that was read at hand, for tests of transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.label_maps import ClassSet, Drops, LabelMap
from shortcut_audit.data.ood import OodSet
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.prepare import AuditRequest, PreparedAudit, prepared_audit

__all__ = [
    "NAMES",
    "WAVE_SIZE",
    "Pairs",
    "ReadsTwoWaves",
    "map_of",
    "prepared",
    "request_of",
    "save_numbered",
    "wave_images",
    "with_noise",
]

Pairs = list[tuple[np.ndarray, int]]
NAMES = ["ant", "bee", "cat"]


def with_noise(pairs: Pairs, seed: int = 1, spread: int = 6) -> Pairs:
    """Copies of images (uint8) that differ by a little noise."""
    generator = np.random.default_rng(seed)
    return [
        ((image + generator.normal(0, spread, image.shape)).clip(0, 255).astype(np.uint8), label)
        for image, label in pairs
    ]


def save_numbered(
    path: Path,
    pairs: Pairs,
    numbers: Sequence[int] | None = None,
    names: Sequence[str] = NAMES,
    key: str = "i",
) -> Path:
    """Pairs as `x` (N, H, W, C), `y`, `classes` and, under `key`, the number of each image."""
    arrays: dict[str, Any] = {
        "x": np.stack([image.transpose(1, 2, 0) for image, _ in pairs]),
        "y": np.array([label for _, label in pairs]),
        "classes": np.array(names),
    }
    if numbers is not None:
        arrays[key] = np.array(numbers)
    np.savez(path, **arrays)
    return path


def map_of(
    pairs: Mapping[str, str | tuple[str, ...]],
    source: Sequence[str],
    target: Sequence[str],
    name: str = "other",
) -> LabelMap:
    """A label map; classes of both sides that are not in `pairs` are dropped."""
    targets = {key: (own,) if isinstance(own, str) else own for key, own in pairs.items()}
    used = {each for own in targets.values() for each in own}
    return LabelMap(
        protocol="As a test has it.",
        source=ClassSet(name="home", classes=tuple(source)),
        target=ClassSet(name=name, classes=tuple(target)),
        map=targets,
        dropped=Drops(
            source={each: "not there" for each in source if each not in targets},
            target={each: "not here" for each in target if each not in used},
        ),
    )


def request_of(
    network: nn.Module,
    home: Pairs | ImageSource,
    ood: Mapping[str, Pairs | ImageSource],
    label_maps: Mapping[str, LabelMap] | None = None,
    *,
    names: Sequence[str] = NAMES,
    names_there: Sequence[str] | None = None,
    config: dict[str, Any] | None = None,
    request: Mapping[str, Any] | None = None,
    **values: Any,
) -> AuditRequest:
    """An audit in double precision by an exact search; `request`: what else is asked for."""

    def source(images: Pairs | ImageSource, classes: Sequence[str]) -> ImageSource:
        return source_from(images, list(classes)) if isinstance(images, list) else images

    maps = label_maps or {}
    sets = [
        OodSet(name, source(images, names_there or names), maps.get(name)) for name, images in ood.items()
    ]
    given = {"dtype": "float64", "batch_size": 37, "search": "exact", "resolution": "orbits", **values}
    return AuditRequest(
        model=LoadedModel(network, "test", "test", config),
        source=source(home, names),
        settings=settings_from(given),
        command="test",
        ood=sets,
        **(request or {}),
    )


@contextmanager
def prepared(request: AuditRequest) -> Iterator[PreparedAudit]:
    """Images read and checked, the model on its device, nothing measured."""
    with prepared_audit(request, None) as ready:
        yield ready


# A class that is told by one wave -------------------------------------------------------------------

WAVE_SIZE, WAVE, OTHER_WAVE = 16, (3, 4), (1, 0)
_AMPLITUDE = 14 / 255
_STRENGTH = _AMPLITUDE * WAVE_SIZE**2 / 2


def wave_of(place: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[:WAVE_SIZE, :WAVE_SIZE]
    return np.asarray(np.cos(2 * np.pi * (place[0] * y + place[1] * x) / WAVE_SIZE))


class ReadsTwoWaves(nn.Module):
    """Output 0 where either of two waves is strong; outputs 1 and 2 by brightness."""

    waves: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        waves = np.stack([wave_of(WAVE), wave_of(OTHER_WAVE) / 3]).reshape(2, -1)
        self.register_buffer("waves", torch.from_numpy(waves))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(1)
        strongest = (pixels @ self.waves.to(x.dtype).T).amax(dim=1)
        bright = 100 * (pixels.mean(dim=1) - 0.5)
        return torch.stack([8 * (strongest - _STRENGTH / 2), bright, -bright], dim=1)


def wave_images(
    n_per_class: int,
    seed: int = 0,
    *,
    carried: float = 1.0,
    other: bool = False,
) -> Pairs:
    """Noise; class 0 with the wave in a share `carried` of its images, or with the other wave; class 1
    bright, class 2 dark."""
    generator = np.random.default_rng(seed)
    pairs = []
    for label in range(3):
        for number in range(n_per_class):
            image = 40 * generator.standard_normal((1, WAVE_SIZE, WAVE_SIZE)) + (127, 147, 107)[label]
            if label == 0 and other:
                image += 3 * 255 * _AMPLITUDE * wave_of(OTHER_WAVE)
            elif label == 0 and number < carried * n_per_class:
                image += 255 * _AMPLITUDE * wave_of(WAVE)
            pairs.append((image.clip(0, 255).astype(np.uint8), label))
    return pairs
