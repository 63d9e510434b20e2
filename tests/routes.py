"""One small audit by each search, made once and shared by the tests of what users see of it."""

from __future__ import annotations

from functools import cache
from typing import Any

from conftest import conv_model, random_images

import shortcut_audit as sa
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassMap, Fidelity

# 164 orbits: too many for auto to probe every one.
SHAPE = (1, 18, 18)
NAMES = ["ant", "bee", "cow [x]"]
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {"search": "exact"},
    "screened": {"search": "screened"},
    "hierarchical": {"search": "hierarchical", "patch_sides": (4, 2), "candidates": (40, 40)},
    "learned": {"search": "learned", "steps": 4},
    "tiles": {"search": "exact", "resolution": "tiles:3x4"},
}


@cache
def audit_by(route: str) -> AuditResult:
    """An audit of three classes by one of `OPTIONS`."""
    pairs = random_images(12, len(NAMES), SHAPE)
    return sa.audit(conv_model(len(NAMES), 1), pairs, class_names=NAMES, batch_size=64, **OPTIONS[route])


def with_maps(result: AuditResult, *changes: dict[str, Any], **of_finding: Any) -> AuditResult:
    """`result` with fields of its maps, in order, and of the finding replaced."""
    finding = result.dominant_frequencies
    maps = [
        item.model_copy(update=dict(change))
        for item, change in zip(finding.by_class, changes, strict=False)
    ]
    maps += finding.by_class[len(maps) :]
    changed = finding.model_copy(update={"by_class": tuple(maps), **of_finding})
    findings = tuple(changed if found is finding else found for found in result.findings)
    return result.model_copy(update={"findings": findings}).with_arrays(result.arrays)


def reliable(
    item: ClassMap, value: float | None, score: str, enough: int | None = None
) -> dict[str, Any]:
    """Fields of a map with another reliability."""
    own = item.reliability[score].model_copy(update={"value": value})  # type: ignore[index]
    return {"reliability": {**item.reliability, score: own}, "n_images_enough": enough}


def fidelity(correlation: float | None, overlap: float | None, reason: str = "") -> Fidelity:
    return Fidelity(
        rank_correlation=correlation,
        overlap=overlap,
        loss_mass=overlap,
        n_orbits=50,
        n_images=3,
        reason=reason,
    )
