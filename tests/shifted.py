"""One small audit under corruptions, made once and shared by the tests of what users see of it."""

from __future__ import annotations

from functools import cache

from conftest import linear_model, random_images

import shortcut_audit as sa
from shortcut_audit.results.audit_result import AuditResult

NAMES = ["ant <b>", "bee & co", "cow $x$"]
SHAPE = (3, 9, 8)


@cache
def audit_under(shifts: str) -> AuditResult:
    """An audit of three classes under `shifts`."""
    pairs = random_images(12, len(NAMES), SHAPE)
    network = linear_model(len(NAMES), SHAPE, seed=3, scale=1.0)
    return sa.audit(
        network,
        pairs,
        class_names=NAMES,
        batch_size=64,
        search="exact",
        kept_share=0.2,
        shifts=shifts or (),
    )
