"""One small audit under corruptions, made once and shared by the tests of what users see of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

import shortcut_audit as sa
from shortcut_audit.results.audit_result import AuditResult

NAMES = ["ant <b>", "bee & co", "cow $x$"]
SHAPE = (3, 9, 8)


@cache
def audit_under(shifts: str) -> AuditResult:
    """An audit under `shifts` of three classes of faint patterns, and a linear model that knows these."""
    generator = np.random.default_rng(0)
    # In steps of 1/255: what a corruption takes away is soon all of it.
    patterns = generator.normal(scale=4, size=(len(NAMES), *SHAPE))
    patterns -= patterns.mean(axis=(1, 2, 3), keepdims=True)
    pairs = [
        (np.clip(128 + pattern + generator.normal(scale=6, size=SHAPE), 0, 255).astype(np.uint8), label)
        for label, pattern in enumerate(patterns)
        for _ in range(12)
    ]
    layer = nn.Linear(patterns[0].size, len(NAMES), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(patterns).float().flatten(1))
    return sa.audit(
        nn.Sequential(nn.Flatten(), layer),
        pairs,
        class_names=NAMES,
        batch_size=64,
        search="exact",
        kept_share=0.2,
        shifts=shifts or (),
    )
