"""Fixtures: real data where it lies beside the checkout; small models and images where it does not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

REPOSITORY = Path(__file__).parent.parent

# Test processes share the machine's cores; each one's threads on top would only be in the way. Those
# that tests start themselves follow suit.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remembered batch sizes of this machine neither help nor disturb a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and checkpoints; tests that need it skip without it, unless they may not."""
    folder = Path(os.environ.get("SHORTCUT_AUDIT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "cifar10_lossless.npz").is_file():
        if os.environ.get("SHORTCUT_AUDIT_DATA_REQUIRED") == "1":
            pytest.fail(f"{folder} holds no real images, and here this test may not be skipped")
        pytest.skip(f"no real images in {folder} (set SHORTCUT_AUDIT_DATA)")
    return folder


@pytest.fixture(scope="session")
def resnet20(shared_data: Path) -> nn.Module:
    """The trained CIFAR-10 network, from the example factory."""
    from shortcut_audit.models.loading import ModelRequest, load_model

    request = ModelRequest(
        spec=f"{REPOSITORY / 'examples' / 'resnet_cifar.py'}:resnet20",
        checkpoint=shared_data / "checkpoints" / "resnet20-12fca82f.th",
    )
    return load_model(request).network


def linear_model(
    n_outputs: int, shape: tuple[int, int, int], seed: int = 0, scale: float = 0.3
) -> nn.Module:
    """A linear classifier with random weights: its importance has a closed form."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(int(np.prod(shape)), n_outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * scale)
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
    return nn.Sequential(nn.Flatten(), layer)


def conv_model(n_outputs: int, n_channels: int, seed: int = 0) -> nn.Module:
    """A small network with batch normalisation and dropout, random weights, any image size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(n_channels, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, n_outputs),
        )


def random_images(
    n_per_class: int, n_classes: int, shape: tuple[int, int, int], seed: int = 0
) -> list[tuple[np.ndarray, int]]:
    """(image, label) pairs: uint8 (C, H, W), with a pattern of its own in each class."""
    generator = np.random.default_rng(seed)
    patterns = generator.integers(0, 120, (n_classes, *shape))
    return [
        ((patterns[label] + generator.integers(0, 130, shape)).astype(np.uint8), label)
        for label in range(n_classes)
        for _ in range(n_per_class)
    ]


def save_npz(path: Path, pairs: list[tuple[np.ndarray, int]], names: list[str] | None = None) -> Path:
    """Pairs as `x` (N, H, W, C), `y`, `classes` in an .npz."""
    images = np.stack([image.transpose(1, 2, 0) for image, _ in pairs])
    labels = np.array([label for _, label in pairs])
    names = names or [f"class{label}" for label in range(labels.max() + 1)]
    np.savez(path, x=images, y=labels, classes=np.array(names))
    return path
