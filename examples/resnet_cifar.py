"""The residual networks for CIFAR of He et al. (2016, section 4.2), as a factory for `--model`.

    shortcut-audit audit --model examples/resnet_cifar.py:resnet20 --checkpoint WEIGHTS.th \
        --data cifar10.npz::test --out runs/resnet20

Shortcuts between stages have no weights: they take every second pixel and pad the missing channels
with zeros (option A of the paper), which is why no network of timm takes such weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# What the published CIFAR-10 checkpoints of these networks were trained with.
PRETRAINED_CFG = {
    "architecture": "resnet_cifar",
    "input_size": (3, 32, 32),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 1.0,
}


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without weights."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride = stride
        self.n_missing = n_out - n_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) to (B, n_out, H/stride, W/stride)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        half = self.n_missing // 2
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.n_missing:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, half, self.n_missing - half))
        return functional.relu(out + shortcut)


class ResNetCIFAR(nn.Module):
    """Three stages of `n` blocks with 16, 32 and 64 channels: 6n + 2 layers."""

    def __init__(self, n: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(n, 16, 16, stride=1)
        self.layer2 = _stage(n, 16, 32, stride=2)
        self.layer3 = _stage(n, 32, 64, stride=2)
        self.linear = nn.Linear(64, num_classes)
        self.pretrained_cfg = {**PRETRAINED_CFG, "architecture": f"resnet{6 * n + 2}"}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images (B, 3, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return torch.as_tensor(self.linear(x.mean(dim=(2, 3))))


def _stage(n: int, n_in: int, n_out: int, stride: int) -> nn.Sequential:
    first = Block(n_in, n_out, stride)
    return nn.Sequential(first, *(Block(n_out, n_out, 1) for _ in range(n - 1)))


def resnet20(num_classes: int = 10) -> nn.Module:
    """20 layers, 0.27 million parameters."""
    return ResNetCIFAR(3, num_classes)


def resnet32(num_classes: int = 10) -> nn.Module:
    """32 layers, 0.46 million parameters."""
    return ResNetCIFAR(5, num_classes)
