"""Probes: what a classifier answers when a wave, or a group of waves, is gone from an image.

The engine of every search that asks the model itself. A block is normalised and laid out in memory
once; since the transform is linear, each probe then is a copy of an image less a wave divided by the
channels' standard deviations, and goes into the network as it lies. Nothing in the loop waits for a
GPU: batches are made there while earlier ones run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shortcut_audit.fourier.transform import OrbitWaves, apply_mask
from shortcut_audit.measures.interface import Advance, Block, Subject
from shortcut_audit.measures.responses import all_responses
from shortcut_audit.models.classifier import Classifier

__all__ = ["NetworkImages", "probe_groups", "probe_pairs", "probe_units", "probe_waves"]

# Logits whose responses are taken together, as float64: 8 MiB, whatever the number of outputs.
_LOGITS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class NetworkImages:
    """Images as the network takes them: normalised, in its layout, one flat row each.

    `rows` (n, C*H*W); `shape` (C, H, W); `low`, `high` (C*H*W,) where filtered images are clipped to
    what pixels in [0,1] become; `per_pixel` (C,): what one unit of the filtering domain becomes.
    """

    classifier: Classifier
    shape: tuple[int, int, int]
    rows: Tensor
    per_pixel: Tensor
    low: Tensor | None
    high: Tensor | None

    @classmethod
    def of(cls, classifier: Classifier, images: Tensor, *, normalized: bool, clip: bool) -> NetworkImages:
        """`images` (n, C, H, W) of the filtering domain: `normalized`, or pixels in [0,1].

        Normalising is linear and rises with the pixel, so that clipping may follow it.
        """
        mean, std = classifier.mean, classifier.std
        layout, shape = classifier.layout, images.shape[1:]
        bounds = [
            _as_rows((((bound - mean) / std)[:, None, None].expand(1, *shape)), layout)[0]
            for bound in ((0, 1) if clip else ())
        ]
        return cls(
            classifier=classifier,
            shape=(shape[0], shape[1], shape[2]),
            rows=_as_rows(images if normalized else classifier.normalize(images), layout),
            per_pixel=torch.ones_like(std) if normalized else 1 / std,
            low=bounds[0] if clip else None,
            high=bounds[1] if clip else None,
        )

    def images_of(self, rows: Tensor) -> Tensor:
        """`rows` (B, C*H*W) seen as images (B, C, H, W) in the network's layout; the same memory."""
        channels, height, width = self.shape
        if self.classifier.layout is torch.channels_last:
            return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return rows.view(-1, channels, height, width)

    def answer(self, rows: Tensor) -> Tensor:
        """Logits (B, K) of filtered `rows`, which are clipped in place where that is asked for."""
        if self.low is not None:
            rows.clamp_(self.low, self.high)
        return self.classifier.answer(self.images_of(rows))


def _as_rows(images: Tensor, layout: torch.memory_format) -> Tensor:
    ordered = images.permute(0, 2, 3, 1) if layout is torch.channels_last else images
    return ordered.reshape(len(images), -1).contiguous()


def probe_pairs(
    subject: Subject,
    block: Block,
    clean: Tensor,
    images: Tensor,
    orbits: Tensor,
    output: int,
    advance: Advance,
) -> Tensor:
    """Responses (n_responses, P) to removing orbit `orbits[p]` from image `images[p]`.

    `clean` (n, K): logits of the block's images as they are; `images` (P,) integers, rows within the
    block; `orbits` (P,) integers; both on the classifier's device, in any order. `output` is the
    model output of the class. The rows of the result are in the order of `RESPONSE_FUNCTIONS`.
    """
    prepared = _prepared(subject, block)
    return probe_waves(
        prepared,
        subject.waves,
        block.spectrum,
        clean,
        images,
        orbits,
        output,
        subject.batch_size,
        advance,
    )


def probe_waves(
    prepared: NetworkImages,
    waves: OrbitWaves,
    spectrum: Tensor,
    clean: Tensor,
    images: Tensor,
    orbits: Tensor,
    output: int,
    batch_size: int,
    advance: Advance,
) -> Tensor:
    """`probe_pairs` on images that are prepared already."""
    coefficients = waves.coefficients(spectrum, images, orbits) * prepared.per_pixel

    def remove(rows: Tensor, start: int, stop: int) -> None:
        pixels = prepared.images_of(rows)
        waves.subtract_(pixels, coefficients[start:stop], orbits[start:stop])

    return _responses(prepared, remove, clean, images, output, batch_size, advance)


def probe_units(
    subject: Subject,
    block: Block,
    clean: Tensor,
    images: Tensor,
    units: Tensor,
    unit_masks: Tensor,
    output: int,
    advance: Advance,
) -> Tensor:
    """Responses (n_responses, P) to removing the group of orbits `units[p]` from image `images[p]`.

    `unit_masks` (n_units, H, W//2+1) bool: the bins of each group on the half plane; `units` (P,)
    integers; the rest as for `probe_pairs`.
    """
    return probe_groups(
        subject, block, clean, images, units, lambda chosen: unit_masks[chosen], output, advance
    )


def probe_groups(
    subject: Subject,
    block: Block,
    clean: Tensor,
    images: Tensor,
    units: Tensor,
    bins_of: Callable[[Tensor], Tensor],
    output: int,
    advance: Advance,
) -> Tensor:
    """`probe_units` where masks are made when they are needed: `bins_of(units)` (B, H, W//2+1)."""
    prepared = _prepared(subject, block)
    per_pixel = prepared.per_pixel[:, None, None]

    def remove(rows: Tensor, start: int, stop: int) -> None:
        masks = bins_of(units[start:stop])[:, None]
        gone = apply_mask(block.spectrum[images[start:stop]], masks, subject.grid.width)
        prepared.images_of(rows).addcmul_(gone, per_pixel, value=-1)

    return _responses(prepared, remove, clean, images, output, subject.batch_size, advance)


def _prepared(subject: Subject, block: Block) -> NetworkImages:
    settings = subject.settings
    return NetworkImages.of(
        subject.classifier,
        block.images,
        normalized=settings.domain == "normalized",
        clip=settings.clip,
    )


def _responses(
    prepared: NetworkImages,
    remove: Callable[[Tensor, int, int], None],
    clean: Tensor,
    images: Tensor,
    output: int,
    batch_size: int,
    advance: Advance,
) -> Tensor:
    """Responses of probes in full batches. `remove(rows, start, stop)` filters the rows in place."""
    n_probes, n_outputs = len(images), clean.shape[1]
    # Answers are gathered over many batches: taking responses costs a dozen small operations.
    n_at_once = max(1, _LOGITS_AT_ONCE // n_outputs // batch_size) * batch_size
    rows = prepared.rows.new_empty(min(batch_size, n_probes), prepared.rows.shape[1])
    parts = []
    for first in range(0, n_probes, n_at_once):
        last = min(first + n_at_once, n_probes)
        logits = clean.new_empty(last - first, n_outputs)
        for start in range(first, last, batch_size):
            stop = min(start + batch_size, last)
            batch = rows[: stop - start]
            torch.index_select(prepared.rows, 0, images[start:stop], out=batch)
            remove(batch, start, stop)
            logits[start - first : stop - first] = prepared.answer(batch)
            advance(stop - start)
        parts.append(all_responses(logits, clean, images[first:last], output))
    return torch.cat(parts, dim=1) if parts else all_responses(clean[:0], clean, images, output)
