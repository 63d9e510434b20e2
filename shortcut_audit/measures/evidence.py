"""Evidence pictures: an image of another class, before and after it was given a class's orbits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.fourier.transform import spectrum_of, transplant
from shortcut_audit.measures.interface import (
    Advance,
    Block,
    Shard,
    Subject,
    Totals,
    Work,
    logits_in_batches,
)
from shortcut_audit.measures.kept_maps import prediction
from shortcut_audit.results.shortcut_findings import ClassShortcut, EvidencePicture

__all__ = ["EVIDENCE", "evidence_fields", "evidence_work", "run_evidence"]

# The kind of work of these shards.
EVIDENCE = "evidence"


def evidence_work(images: AuditImages, receiver: int, orbits: NDArray[np.int64]) -> Work:
    """Give the image in row `receiver` the `orbits` (n,) of the shard's own image."""
    return Work(
        EVIDENCE,
        {
            "receiver": np.array([receiver]),
            "orbits": orbits,
            "digest": np.array([images.store.digests[receiver]], dtype="S32"),
        },
    )


def run_evidence(shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
    """Receiver, donor and receiver with the donor's orbits, uint8 (3, C, H, W), and logits of the
    first and the last, (2, K)."""
    assert shard.work is not None
    given, grid = shard.work.arrays, subject.grid
    row = int(given["receiver"][0])
    receiver = subject.block((row, row + 1)).images
    chosen = np.zeros(grid.n_orbits, dtype=np.bool_)
    chosen[given["orbits"]] = True
    mask = half_plane_mask(grid, chosen).to(receiver.device)
    after = transplant(spectrum_of(receiver), block.spectrum, mask, grid.width)
    logits = logits_in_batches(subject, torch.cat([receiver, after]), advance)
    forms = torch.cat([receiver, block.images, after])
    pixels = subject.to_pixels(forms).clamp(0, 1).mul(255).round().to(torch.uint8)
    return {
        "pictures": pixels.cpu().numpy(),
        "logits": logits.cpu().numpy(),
    }


def evidence_fields(
    images: AuditImages, item: ClassShortcut, picture: tuple[Shard, Totals] | None
) -> dict[str, Any]:
    """What the finding says of a class's picture; nothing where there is none."""
    if picture is None or item.best is None:
        return {}
    shard, total = picture
    assert shard.work is not None
    output = images.outputs[shard.class_index]
    # Where the images lie is the shard's to say: totals may come from an audit of other classes too.
    rows = (int(shard.work.arrays["receiver"][0]), shard.rows[0])
    receiver, donor = (images.names[row] for row in rows)
    before, after = (prediction(images, logits, output) for logits in total["logits"])
    shown = EvidencePicture(
        receiver=receiver, donor=donor, n_orbits=item.best.n_orbits, before=before, after=after
    )
    return {"evidence": (shown,)}
