"""Random flips and crops, off by default: each breaks what is known of an image's frequencies."""

from __future__ import annotations

from kornia.augmentation import RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from torch import nn

from shortcut_audit.errors import ResultError
from shortcut_audit.results.truth import find_truth
from shortcut_audit.training.settings import TrainSettings

__all__ = ["augmentation", "augmentation_warnings", "has_truth"]

_SHIFT_SHARE = 8
_HARM = {
    "flip": "Flips mirror frequencies: (u, v) becomes (u, -v)",
    "shift": "Shifted crops move the phase of every frequency, and reflect the border",
    "resize": "Crops that are resized rescale frequencies: a pattern of 8 cycles becomes one of 4 to 8",
}


def augmentation(settings: TrainSettings, height: int, width: int) -> nn.Module | None:
    """A module that augments pixels (B, C, H, W) in [0,1], drawing from torch's random state.

    `shift` pads by an eighth of each side, reflecting, and crops back; `resize` takes 25 to 100% of
    the area. None where nothing is asked for.
    """
    parts: list[nn.Module] = []
    if settings.flip:
        parts.append(RandomHorizontalFlip(p=0.5))
    if settings.crop == "shift":
        # kornia names left and right before top and bottom.
        padding = (-(-width // _SHIFT_SHARE), -(-height // _SHIFT_SHARE))
        parts.append(RandomCrop((height, width), padding=padding, padding_mode="reflect"))
    if settings.crop == "resize":
        parts.append(RandomResizedCrop((height, width), scale=(0.25, 1.0)))
    return nn.Sequential(*parts) if parts else None


def augmentation_warnings(settings: TrainSettings, spec: str) -> list[str]:
    """What flips and crops that are on do to frequencies, in a sentence each; stronger where the truth
    of the set `spec` is known."""
    used = (["flip"] if settings.flip else []) + ([settings.crop] if settings.crop != "none" else [])
    if not used:
        return []
    end = (
        f"{spec} has a known truth, which does not hold for the images this model is trained on:"
        " scores against that truth mean nothing."
        if has_truth(spec)
        else "A frequency shortcut may be learned elsewhere than where the images show it."
    )
    return [*(f"{_HARM[name]}." for name in used), end]


def has_truth(spec: str) -> bool:
    """Whether a truth file lies beside the images that `spec` names."""
    try:
        return find_truth(spec) is not None
    except ResultError:
        # A damaged one is there all the same.
        return True
