"""Images whose classes differ in the phase of one weak wave, and a network that reads it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

__all__ = ["SIZE", "ReadsWaves", "wavy_images"]

SIZE = 28


def wave_of(label: int) -> np.ndarray:
    """The wave (2, 3) in a class's own phase, thirds of a turn apart."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.cos(2 * np.pi * ((2 * y + 3 * x) / SIZE + label / 3))


def wavy_images(sizes: tuple[int, ...], seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """Noise, with a weak wave in the phase of the class."""
    generator = np.random.default_rng(seed)
    pairs = []
    for label, n in enumerate(sizes):
        for _ in range(n):
            noise = 40 * generator.standard_normal((1, SIZE, SIZE))
            pairs.append(((127 + noise + 5 * wave_of(label)).clip(0, 255).astype(np.uint8), label))
    return pairs


class ReadsWaves(nn.Module):
    """Each class by the wave of its own phase."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        waves = [wave_of(label) for label in range(n_classes)]
        self.register_buffer("waves", torch.from_numpy(np.stack(waves).reshape(n_classes, -1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.waves.to(x.dtype).T
