"""Synthetic images with known frequency truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPE_CLASSES", "ShapesTruth", "make_shapes", "save_shapes"]

SHAPE_CLASSES = ("disk", "square", "cross", "ring")


@dataclass(frozen=True)
class ShapesTruth:
    """What was planted: a wave of fixed frequencies and random phase in one class."""

    class_name: str
    orbits: tuple[tuple[int, int], ...]
    strength: float

    def as_text(self) -> str:
        """JSON, as saved beside the images."""
        content = {
            "class": self.class_name,
            "orbits": [list(orbit) for orbit in self.orbits],
            "strength_in_255": self.strength,
            "phase": "random per image and orbit",
        }
        return json.dumps(content, indent=1) + "\n"


def make_shapes(
    n_per_class: int, seed: int, truth: ShapesTruth | None, size: int = 32
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Coloured shapes of four classes on 1/f noise; `truth` says what is planted, if anything.

    The shapes differ in outline alone: colour, place, extent and background are drawn alike for all
    classes. A planted class carries cosines of `truth.strength`/255 on each of its orbits, too weak
    to see. Returns images (n, size, size, 3) uint8 and labels (n,), shuffled; same seed, same bytes.
    """
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(SHAPE_CLASSES)), n_per_class))
    images = np.empty((len(labels), size, size, 3), dtype=np.uint8)
    for index, label in enumerate(labels):
        image = _background(generator, size)
        outline = _outline(generator, SHAPE_CLASSES[label], size)
        contrast = generator.choice([-1, 1], 3) * generator.uniform(0.12, 0.3, 3)
        image = image + outline[..., None] * contrast
        if truth is not None and SHAPE_CLASSES[label] == truth.class_name:
            image = image + _waves(generator, truth, size)[..., None]
        images[index] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return images, labels.astype(np.int64)


def _background(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Noise with amplitude 1/f, as photographs have it, around a random mean colour."""
    fy, fx = np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size)[None] * size
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1)
    falloff[0, 0] = 0
    noise = generator.standard_normal((3, size, size))
    # Channels of photographs go together; two thirds of the noise is shared by all three.
    noise = 0.8 * noise[:1] + 0.6 * noise
    shaped = np.fft.irfft2(np.fft.rfft2(noise) * falloff, s=(size, size))
    shaped *= 0.08 / shaped.std()
    mean: NDArray[np.float64] = generator.uniform(0.4, 0.6, 3)
    return shaped.transpose(1, 2, 0) + mean


def _outline(generator: np.random.Generator, name: str, size: int) -> NDArray[np.float64]:
    """A shape of random place and extent, with edges one pixel soft, (size, size) in [0,1]."""
    extent = generator.uniform(0.2, 0.3) * size
    y0, x0 = generator.uniform(extent, size - extent, 2)
    y, x = np.mgrid[0:size, 0:size] + 0.5
    dy, dx = np.abs(y - y0), np.abs(x - x0)
    radius = np.hypot(dy, dx)
    distance: NDArray[np.float64] = {
        "disk": radius - extent,
        "square": np.maximum(dy, dx) - 0.88 * extent,
        "cross": np.minimum(
            np.maximum(dy - extent, dx - 0.35 * extent), np.maximum(dx - extent, dy - 0.35 * extent)
        ),
        "ring": np.abs(radius - 0.78 * extent) - 0.26 * extent,
    }[name]
    return np.clip(0.5 - distance, 0, 1)


def _waves(generator: np.random.Generator, truth: ShapesTruth, size: int) -> NDArray[np.float64]:
    y, x = np.mgrid[0:size, 0:size]
    waves = np.zeros((size, size))
    for u, v in truth.orbits:
        phase = generator.uniform(0, 2 * np.pi)
        waves += np.cos(2 * np.pi * (u * y + v * x) / size + phase)
    return waves * truth.strength / 255


def save_shapes(
    path: Path,
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    truth: ShapesTruth | None,
) -> None:
    """Write both splits to an `.npz`, and the truth beside it as `.truth.json`."""
    np.savez_compressed(
        path,
        x_train=train[0],
        y_train=train[1],
        x_test=test[0],
        y_test=test[1],
        classes=np.array(SHAPE_CLASSES),
    )
    if truth is not None:
        path.with_suffix(".truth.json").write_text(truth.as_text(), encoding="utf-8")
