"""Slow replica of the published hierarchical search, as it goes about its work.

Wang et al. (CVPR 2025), written anew from what it does: every candidate mask becomes the last step of the
data set's preprocessing, and a new DataLoader goes through all images: four worker processes by default,
started afresh for every candidate by torch's `spawn`, each of which imports everything again; batches of
4,000. A worker reads an image file, resizes, converts and normalises it, and filters it alone: full
complex transform, the mask in double precision channel by channel, transform back. The network runs in
torch's default layout; then class by class the logits and labels of all other classes' images are
zeroed, not left out, and the mean cross-entropy is taken over the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

__all__ = ["PUBLISHED_BATCH_SIZE", "PUBLISHED_WORKERS", "CandidatePass", "summed_losses"]

PUBLISHED_BATCH_SIZE = 4000
PUBLISHED_WORKERS = 4


@dataclass(frozen=True)
class _Keep:
    """The step of the preprocessing that filters one normalised image (C, H, W)."""

    mask: NDArray[np.float64]

    def __call__(self, image: Tensor) -> Tensor:
        spectrum = torch.fft.fftshift(torch.fft.fft2(image))
        for channel in range(len(image)):
            spectrum[channel] = spectrum[channel] * torch.from_numpy(self.mask)
        return torch.real(torch.fft.ifft2(torch.fft.ifftshift(spectrum))).float()


@dataclass(frozen=True)
class CandidatePass:
    """Scores candidates on the image files of `folder`, one pass over all of them for each.

    `start`: how workers start; `spawn` is the published way.
    """

    network: nn.Module
    folder: Path
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    workers: int = PUBLISHED_WORKERS
    start: Literal["spawn", "fork"] = "spawn"

    def losses(self, mask: NDArray[np.float64]) -> list[float]:
        """Published loss of every class for one `mask` (H, W) over the centred plane."""
        images = ImageFolder(str(self.folder))
        images.transform = transforms.Compose(
            [
                transforms.Resize((self.size, self.size)),
                transforms.ToTensor(),
                transforms.Normalize(list(self.mean), list(self.std)),
                _Keep(mask),
            ]
        )
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            images,
            batch_size=PUBLISHED_BATCH_SIZE,
            shuffle=False,
            num_workers=self.workers,
            multiprocessing_context=self.start if self.workers else None,
        )
        return self._classwise(loader, len(images.classes))

    def _classwise(self, loader: DataLoader[tuple[Tensor, Tensor]], n_classes: int) -> list[float]:
        criterion = nn.CrossEntropyLoss()
        total = [torch.zeros((), device=self.device) for _ in range(n_classes)]
        with torch.no_grad():
            for images, labels in loader:
                target = labels.to(self.device)
                logits = self.network(images.to(self.device))
                for label in range(n_classes):
                    own = target == torch.full((len(target),), label, device=self.device)
                    column = own[:, None]
                    spread = torch.cat([column] * logits.shape[1], dim=1)
                    total[label] = total[label] + criterion(spread * logits, own * target)
        return [float(each) for each in total]


def summed_losses(published: Sequence[float], n_own: int, n_outputs: int) -> NDArray[np.float64]:
    """Sum of the cross-entropy over each class's own `n_own` images, from the published figures.

    For images that fit in one batch. Each image of another class added ln K to the mean.
    """
    n_images = n_own * len(published)
    foreign = (n_images - n_own) * math.log(n_outputs)
    return np.asarray(published) * n_images - foreign
