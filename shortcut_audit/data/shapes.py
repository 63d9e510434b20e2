"""Coloured shapes with a faint planted wave: the set that the demo makes for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.writing import ARRAYS_NAME, SetWriter
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.truth import GroundTruth, Pattern
from shortcut_audit.version import __version__

__all__ = ["SHAPE_CLASSES", "ShapesPlan", "make_shapes", "save_shapes"]

Shapes = tuple[NDArray[np.uint8], NDArray[np.int64]]


SHAPE_CLASSES = ("disk", "square", "cross", "ring")


@dataclass(frozen=True)
class ShapesPlan:
    """What to plant: waves of fixed frequencies (u, v) and random phase in one class.

    `strength`: amplitude of each wave, in 1/255.
    """

    class_name: str
    orbits: tuple[tuple[int, int], ...]
    strength: float


def make_shapes(n_per_class: int, seed: int, plan: ShapesPlan | None, size: int = 32) -> Shapes:
    """Coloured shapes of four classes on 1/f noise; `plan` says what is planted, if anything.

    The shapes differ in outline alone: colour, place, extent and background are drawn alike for all
    classes. A planted class carries cosines of `plan.strength`/255 on each of its orbits, too weak
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
        if plan is not None and SHAPE_CLASSES[label] == plan.class_name:
            image = image + _waves(generator, plan, size)[..., None]
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


def _waves(generator: np.random.Generator, plan: ShapesPlan, size: int) -> NDArray[np.float64]:
    y, x = np.mgrid[0:size, 0:size]
    waves = np.zeros((size, size))
    for u, v in plan.orbits:
        phase = generator.uniform(0, 2 * np.pi)
        waves += np.cos(2 * np.pi * (u * y + v * x) / size + phase)
    return waves * plan.strength / 255


def save_shapes(folder: Path, splits: dict[str, Shapes], plan: ShapesPlan | None, seed: int) -> Path:
    """Write splits of shapes and the truth of them into a new `folder`; returns its `images.npz`.

    A set of ours that is there already is replaced. Raises RunFolderError.
    """
    size = next(iter(splits.values()))[0].shape[1]
    with SetWriter(folder, SHAPE_CLASSES, ("npz",), replace=True) as writer:
        for name, (images, labels) in splits.items():
            with writer.split(name, len(images), (size, size, 3)) as split:
                split.add(images, labels)
        writer.finish(_truth(plan, size, seed))
    return folder / ARRAYS_NAME


def _truth(plan: ShapesPlan | None, size: int, seed: int) -> GroundTruth:
    grid = FrequencyGrid(size, size)
    pattern = plan and Pattern(
        name="faint stripes",
        kind="cosines",
        role="shortcut",
        classes=(plan.class_name,),
        orbits=plan.orbits,
        amplitude=(plan.strength,) * len(plan.orbits),
        bands=tuple(sorted({int(grid.bands()[grid.orbit_of(u, v)]) + 1 for u, v in plan.orbits})),
        phase="random",
    )
    return GroundTruth(
        version=__version__,
        kind="shapes",
        name="shapes",
        seed=seed,
        height=size,
        width=size,
        channels=3,
        class_names=SHAPE_CLASSES,
        bands=tuple((size / 8 * k, size / 8 * (k + 1)) for k in range(4)),
        patterns=(pattern,) if pattern else (),
    )
