"""What images hold: the energy of every orbit, summed over the search images of each class."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.measures.interface import Block, Outline, Shard, Subject, Totals

__all__ = ["ENERGY", "energies_of", "run_energy"]

# The kind of work of these shards.
ENERGY = "energy"


def run_energy(subject: Subject, block: Block) -> Totals:
    """Sum over the block's images of each orbit's energy, averaged over channels."""
    grid = subject.grid
    rows, columns = (torch.from_numpy(part).to(block.images.device) for part in (grid.rows, grid.columns))
    power = block.spectrum.abs().square().mean(dim=1)[:, rows, columns].cpu().double().sum(dim=0)
    return {"energy": power.numpy() * grid.members, "n_images": np.array([len(block.images)])}


def energies_of(
    outline: Outline, totals: Iterable[tuple[Shard, Totals]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Energy of each orbit summed over the search images of each class, and how many they are."""
    sums = np.zeros((outline.n_classes, outline.grid.n_orbits))
    n_images = np.zeros(outline.n_classes, dtype=np.int64)
    for shard, total in totals:
        sums[shard.class_index] += total["energy"]
        n_images[shard.class_index] += int(total["n_images"][0])
    return sums, n_images
