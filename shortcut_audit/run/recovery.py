"""An audit against the known truth of a set that the toolkit made itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import PatternRecovery, TruthFinding
from shortcut_audit.results.truth import GroundTruth, Pattern

__all__ = ["with_truth"]


def with_truth(result: AuditResult, truth: GroundTruth | None) -> AuditResult:
    """`result` with a finding that compares it with `truth`; as it is where nothing is known."""
    if truth is None:
        return result
    reason = _why_not(result, truth)
    finding = TruthFinding(name=truth.name, kind=truth.kind, reason=reason)
    if not reason:
        recovered = _of_data(result, truth) if result.of_data else _of_model(result, truth)
        finding = finding.model_copy(update=recovered)
    return result.model_copy(update={"findings": (*result.findings, finding)})


def _why_not(result: AuditResult, truth: GroundTruth) -> str:
    if (result.grid.height, result.grid.width) != (truth.height, truth.width):
        return (
            f"the set's frequencies are those of {truth.height} x {truth.width} pixels, and the audit"
            f" saw {result.grid.height} x {result.grid.width}"
        )
    made = result.provenance.data.preprocessing if result.of_data else result.model.preprocessing
    if made is not None and made.geometry != "as they are":
        return "the images were resized and cropped on their way, which moves frequencies"
    missing = [
        name for pattern in truth.patterns for name in pattern.classes if name not in truth.class_names
    ]
    if missing or not set(result.class_names) & set(truth.class_names):
        return "the classes of the truth are not those of the images"
    return ""


def _pairs(result: AuditResult, truth: GroundTruth) -> list[tuple[Pattern, str]]:
    return [
        (pattern, name)
        for pattern in truth.patterns
        for name in pattern.classes
        if name in result.class_names
    ]


def _bands(result: AuditResult) -> Callable[[Pattern], tuple[int, ...]]:
    """In which of the audit's radial bands a pattern lies; the set may count bands of its own."""
    grid = FrequencyGrid(result.grid.height, result.grid.width)
    band_of_orbit = grid.bands(result.grid.n_bands)

    def bands(pattern: Pattern) -> tuple[int, ...]:
        of_pattern = {int(band_of_orbit[grid.orbit_of(u, v)]) + 1 for u, v in pattern.orbits}
        return tuple(sorted(of_pattern - {0}))

    return bands


def _of_data(result: AuditResult, truth: GroundTruth) -> dict[str, object]:
    named = {(item.class_name, item.band) for item in result.invitations.items}
    bands = _bands(result)
    known = {
        (name, band)
        for pattern, name in _pairs(result, truth)
        if pattern.role == "shortcut"
        for band in bands(pattern)
    }
    return {
        "by_pattern": tuple(
            PatternRecovery(
                pattern=pattern.name,
                class_name=name,
                expected=pattern.role == "shortcut",
                bands=bands(pattern),
                n_orbits=len(pattern.orbits),
                bands_found=tuple(band for band in bands(pattern) if (name, band) in named),
            )
            for pattern, name in _pairs(result, truth)
        ),
        "false_names": tuple(sorted(named - known)),
    }


def _of_model(result: AuditResult, truth: GroundTruth) -> dict[str, object]:
    grid = FrequencyGrid(result.grid.height, result.grid.width)
    finding, bands = result.dominant_frequencies, _bands(result)
    rows = {item.class_name: row for row, item in enumerate(finding.by_class)}
    found = []
    for pattern, name in _pairs(result, truth):
        orbits = np.array([grid.orbit_of(u, v) for u, v in pattern.orbits], dtype=np.int64)
        searched = name in rows and len(orbits) > 0
        ranks = result.arrays["dominant_frequencies/rank"][rows[name]][orbits] if searched else None
        kept = result.arrays["dominant_frequencies/kept"][rows[name]][orbits] if searched else None
        found.append(
            PatternRecovery(
                pattern=pattern.name,
                class_name=name,
                expected=pattern.role == "shortcut",
                bands=bands(pattern),
                n_orbits=len(pattern.orbits),
                n_in_map=None if kept is None else int(kept.astype(bool).sum()),
                ranks=None if ranks is None else tuple(sorted(int(rank) for rank in ranks)),
            )
        )
    return {"by_pattern": tuple(found)}
