"""First order for all orbits at once: what the logits would do if they were linear in the pixels.

One backward pass for a logit gives its gradient J in pixels; taking orbit o away then changes that
logit by about -<J, wave_o>, an inner product that in Fourier space is one multiplication an orbit. The
linearised logits go through the true response, which bends where the network's answer saturates; the
gradient of the response itself would not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shortcut_audit.fourier.transform import spectrum_of
from shortcut_audit.measures.interface import Advance, Block, Subject, require_finite
from shortcut_audit.measures.responses import all_responses

__all__ = ["N_FEATURES", "first_order", "first_order_passes", "n_logits"]

# The responses of the linearised logits, and the energy of the wave that goes.
N_FEATURES = 4
# Pixels of a batch that goes backward: all layers' outputs are kept until it has, about a hundred times
# as much; 13 images of 224 pixels.
_FLOATS_GOING_BACK = 1 << 21
# Linearised logits in memory at once, as float64: 32 MiB.
_LOGITS_AT_ONCE = 1 << 22


def n_logits(n_outputs: int, allowed: int) -> int:
    """Logits that go backward: all where `allowed` suffices, else class, rivals and the rest as one."""
    return min(n_outputs, max(allowed, 3))


def first_order_passes(logits: int) -> int:
    """Image passes of an image: forward once, backward (which counts double) for every logit."""
    return 1 + 2 * logits


def first_order(subject: Subject, block: Block, output: int, logits: int, advance: Advance) -> Tensor:
    """What each unit's removal would do, to first order: (N_FEATURES, n_images, n_units) float64.

    Rows: the responses in their order (of linearised logits), then the energy of the unit's wave, sum
    over its bins and channels of |X|^2 / (HW). `logits`: as `n_logits` counts them. Raises LogitsError
    where a gradient is not finite.
    """
    parts = []
    image = block.images[0].numel()
    step = min(subject.batch_size, max(1, _FLOATS_GOING_BACK // image))
    for start in range(0, len(block.images), step):
        stop = min(start + step, len(block.images))
        clean, slopes = _slopes(subject, block.images[start:stop], output, logits)
        advance(first_order_passes(logits) * (stop - start))
        parts.append(_features(subject, block.images[start:stop], clean, slopes))
    found = torch.cat(parts, dim=1)
    require_finite(found.transpose(0, 1), subject, block.rows, " or gradients")
    return found


def _slopes(subject: Subject, images: Tensor, output: int, logits: int) -> tuple[Tensor, Tensor]:
    """Logits (n, L), the class's own first, and their gradients (L, n, C, H, W) in `images`."""
    with subject.classifier.gradients():
        pixels = images.clone().requires_grad_()
        chosen = _own_first(subject.logits(pixels), output, logits)
        slopes = [
            torch.autograd.grad(chosen[:, k].sum(), pixels, retain_graph=k + 1 < chosen.shape[1])[0]
            for k in range(chosen.shape[1])
        ]
        return chosen.detach(), torch.stack(slopes)


def _own_first(logits: Tensor, output: int, n_kept: int) -> Tensor:
    """(n, K) to (n, L): the class, then its rivals; if not all fit, the strongest and the rest as one.

    The rest enter as their log-sum-exp, so that log-odds and cross-entropy of the class come out the
    same as over all K.
    """
    others = torch.cat([logits[:, :output], logits[:, output + 1 :]], dim=1)
    own = logits[:, output : output + 1]
    if logits.shape[1] <= n_kept:
        return torch.cat([own, others], dim=1)
    ordered = others.sort(dim=1, descending=True).values
    rivals, rest = ordered[:, : n_kept - 2], ordered[:, n_kept - 2 :]
    return torch.cat([own, rivals, rest.logsumexp(dim=1, keepdim=True)], dim=1)


def _features(subject: Subject, images: Tensor, clean: Tensor, slopes: Tensor) -> Tensor:
    grid, units = subject.grid, subject.outline.units
    device = images.device
    rows, columns = (torch.from_numpy(part).to(device) for part in (grid.rows, grid.columns))
    weight = torch.from_numpy(grid.members / (grid.height * grid.width)).to(device, torch.float64)
    unit_of_orbit = torch.from_numpy(units.unit_of_orbit).to(device)
    n_images, n_kept = clean.shape
    features = clean.new_zeros(N_FEATURES, n_images, units.n_units)
    step = max(1, _LOGITS_AT_ONCE // (grid.n_orbits * (n_kept + 1)))
    for start in range(0, n_images, step):
        part = slice(start, min(start + step, n_images))
        own = spectrum_of(images[part])[..., rows, columns]
        steep = spectrum_of(slopes[:, part])[..., rows, columns]
        # Sum over channels; (L, n, n_orbits).
        change = -weight * (own * steep.conj()).real.sum(dim=2).double()
        energy = weight * own.abs().square().sum(dim=1).double()
        if not units.single:
            change = _summed(change, unit_of_orbit, units.n_units)
            energy = _summed(energy, unit_of_orbit, units.n_units)
        left = clean[part, None, :] + change.permute(1, 2, 0)
        image = torch.arange(part.stop - part.start, device=device).repeat_interleave(units.n_units)
        responses = all_responses(left.reshape(-1, n_kept), clean[part], image, 0)
        features[:-1, part] = responses.reshape(-1, part.stop - part.start, units.n_units)
        features[-1, part] = energy
    return features


def _summed(values: Tensor, unit_of_orbit: Tensor, n_units: int) -> Tensor:
    """Sum over the orbits of each unit, (..., n_orbits) to (..., n_units)."""
    total = values.new_zeros(*values.shape[:-1], n_units)
    return total.index_add_(-1, unit_of_orbit, values)
