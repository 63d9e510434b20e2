"""The exact search: one forward pass for every (image, orbit)."""

from __future__ import annotations

import torch
from torch import Tensor

from shortcut_audit.measures.interface import (
    Advance,
    Block,
    Shard,
    Subject,
    logits_in_batches,
    require_finite,
)
from shortcut_audit.measures.responses import RESPONSE_FUNCTIONS

__all__ = ["n_exact_passes", "probe_orbits"]


def n_exact_passes(n_images: int, n_orbits: int) -> int:
    """Forward passes for `n_orbits` probes on each of `n_images` images, and the clean ones."""
    return n_images * (n_orbits + 1)


def probe_orbits(shard: Shard, subject: Subject, block: Block, advance: Advance) -> Tensor:
    """Responses (n_responses, n_images, n_orbits of the shard) to removing each orbit alone.

    Probes are numbered image by image and cut into full batches across images, whatever the
    number of orbits. The FFT of the block was taken once; a probe costs a subtraction.
    """
    output = subject.output_of(shard.class_index)
    clean = logits_in_batches(subject, block.images, advance)
    require_finite(clean, subject, shard.rows, "")
    first, last = shard.orbits
    n_orbits = last - first
    coefficients = subject.waves.coefficients(block.spectrum)
    device = block.images.device
    n_probes = shard.n_images * n_orbits
    responses = clean.new_empty(len(RESPONSE_FUNCTIONS), n_probes)
    for start in range(0, n_probes, subject.batch_size):
        stop = min(start + subject.batch_size, n_probes)
        probes = torch.arange(start, stop, device=device)
        images, orbits = probes // n_orbits, first + probes % n_orbits
        filtered = subject.waves.remove(block.images, coefficients, images, orbits)
        logits = subject.logits(filtered)
        for row, response in enumerate(RESPONSE_FUNCTIONS.values()):
            responses[row, start:stop] = response(logits, clean[images], output)
        advance(stop - start)
    responses = responses.reshape(len(RESPONSE_FUNCTIONS), shard.n_images, n_orbits)
    # Checked once a shard: looking at every batch would make a GPU wait for the CPU.
    require_finite(responses.transpose(0, 1), subject, shard.rows, " with an orbit removed")
    return responses
