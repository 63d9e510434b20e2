"""Small convolutional networks: test subjects that train in seconds or a minute."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["medium_cnn", "small_cnn"]


class SmallCNN(nn.Module):
    """Four convolutions with batch normalisation, pooled to a linear head; 60,000 weights at width 16."""

    def __init__(self, num_classes: int, in_chans: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_stage(in_chans, width, stride=1),
            *_stage(width, 2 * width, stride=2),
            *_stage(2 * width, 4 * width, stride=2),
            *_stage(4 * width, 4 * width, stride=1),
        )
        self.head = nn.Linear(4 * width, num_classes)
        self.pretrained_cfg = {
            "architecture": "small_cnn",
            "input_size": (in_chans, 32, 32),
            "mean": (0.5,) * in_chans,
            "std": (0.25,) * in_chans,
            "crop_pct": 1.0,
        }

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images (B, in_chans, H, W)."""
        pooled: Tensor = self.features(images).mean(dim=(2, 3))
        logits: Tensor = self.head(pooled)
        return logits


def _stage(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


def small_cnn(num_classes: int = 4, in_chans: int = 3, width: int = 16) -> nn.Module:
    """A small CNN for images of any size; as SPEC: `shortcut_audit.models.small:small_cnn`."""
    return SmallCNN(num_classes, in_chans, width)


def medium_cnn(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """`small_cnn` at twice the width (240,000 parameters): for photographs rather than shapes."""
    return SmallCNN(num_classes, in_chans, width=32)
