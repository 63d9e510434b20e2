"""Slow replicas of published searches, as they go about their work; written anew from what they do.

Wang et al. (ICCV 2023): for each class and each bin of the shifted plane, all images of the set are read
from their files again, in batches of 100 through a torch DataLoader (resize, ToTensor, Normalize). Every
batch that holds an image of the class is transformed as a whole, masked channel by channel and image by
image, transformed back and classified as a whole, in torch's default layout; the logits and labels of
other classes' images are zeroed, not left out. Importance of the bin is the sum over batches of the mean
cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

__all__ = ["PUBLISHED_BATCH_SIZE", "image_loader", "losses_without_bins", "summed_loss"]

PUBLISHED_BATCH_SIZE = 100


def image_loader(
    folder: Path, size: int, mean: Sequence[float], std: Sequence[float]
) -> torch.utils.data.DataLoader[tuple[Tensor, Tensor]]:
    """Batches (pixels, labels) of a folder of image files, read anew whenever it is gone through."""
    preprocessing = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize(list(mean), list(std)),
        ]
    )
    images = ImageFolder(str(folder), transform=preprocessing)
    return torch.utils.data.DataLoader(images, batch_size=PUBLISHED_BATCH_SIZE, shuffle=False)


def losses_without_bins(
    network: nn.Module,
    loader: torch.utils.data.DataLoader[tuple[Tensor, Tensor]],
    label: int,
    bins: Sequence[tuple[int, int]],
    device: torch.device,
) -> list[float]:
    """Published importance of each of `bins` (u, v) for class `label`; one reading of the set each."""
    return [_loss_without(network, loader, label, u, v, device) for u, v in bins]


def _loss_without(
    network: nn.Module,
    loader: torch.utils.data.DataLoader[tuple[Tensor, Tensor]],
    label: int,
    u: int,
    v: int,
    device: torch.device,
) -> float:
    criterion = nn.CrossEntropyLoss()
    total = torch.zeros((), device=device)
    for pixels, labels in loader:
        if not bool((labels == label).any()):
            continue
        spectrum = torch.fft.fftshift(torch.fft.fft2(pixels))
        mask = _mask_without(u, v, spectrum.shape[-2], spectrum.shape[-1])
        for image in range(len(pixels)):
            for channel in range(pixels.shape[1]):
                spectrum[image, channel] = spectrum[image, channel] * mask
        filtered = torch.real(torch.fft.ifft2(torch.fft.ifftshift(spectrum)))
        logits = network(filtered.to(device))
        own = (labels == label).to(device)
        total = total + criterion(own[:, None] * logits, own * labels.to(device))
    return float(total)


def _mask_without(u: int, v: int, height: int, width: int) -> Tensor:
    """Ones (H, W) over the shifted plane, but for (u, v) and, where the plane holds it, (-u, -v)."""
    mask = torch.ones(height, width)
    for row, column in ((height // 2 + u, width // 2 + v), (height // 2 - u, width // 2 - v)):
        if row < height and column < width:
            mask[row, column] = 0
    return mask


def summed_loss(published: float, n_own: int, n_outputs: int) -> float:
    """Sum of the cross-entropy over the class's own `n_own` images, from the published figure.

    For a class whose images lie in one batch. Each image of another class added ln K to its mean.
    """
    return published * PUBLISHED_BATCH_SIZE - (PUBLISHED_BATCH_SIZE - n_own) * math.log(n_outputs)
