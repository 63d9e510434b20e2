"""The table of classes under corruptions, class by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from shortcut_audit.errors import ResultError
from shortcut_audit.results.corruption_findings import (
    ClassShifts,
    CorruptionsFinding,
    energy_shares,
    orbit_shares,
)

if TYPE_CHECKING:
    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["CORRUPTION_DTYPES", "corruption_rows"]

_WHAT = ("removed", "added", "changed")
# Regions whose orbits are also told one by one.
_BY_ORBIT = ("dominant", "shortcut", "all")


def corruption_rows(result: AuditResult) -> Iterator[dict[str, Any]]:
    """One row a searched class and shift, a class at a time.

    Raises ResultError where no corruptions were tried.
    """
    finding = result.corruptions
    if finding is None:
        raise ResultError(
            "There are no corruptions in this audit.", "Run it with some: --shift jpeg:1-5,haze"
        )
    energy = result.arrays["corruptions/energy"]
    for item, own in zip(finding.by_class, energy, strict=True):
        yield _recall_columns(finding, item) | _energy_columns(finding.regions, own)


def _recall_columns(finding: CorruptionsFinding, item: ClassShifts) -> dict[str, Any]:
    pairs = [each.recall for each in item.by_shift]
    return {
        "class": [item.class_name] * len(pairs),
        "corruption": [shift.corruption for shift in finding.shifts],
        "severity": [shift.severity for shift in finding.shifts],
        "parameters": [
            ",".join(f"{name}={value:g}" for name, value in shift.parameters.items()) or None
            for shift in finding.shifts
        ],
        "n": [pair.n for pair in pairs],
        "called_clean": [pair.first.hits for pair in pairs],
        "called_shifted": [pair.second.hits for pair in pairs],
        "recall_clean": [pair.first.value for pair in pairs],
        "recall_shifted": [pair.second.value for pair in pairs],
        "drop": [pair.difference for pair in pairs],
        "drop_low": [pair.interval[0] for pair in pairs],
        "drop_high": [pair.interval[1] for pair in pairs],
        "p_value": [pair.p_value for pair in pairs],
        "q_value": [each.q_value for each in item.by_shift],
        "n_orbits_dominant": [item.n_orbits_dominant] * len(pairs),
        "n_orbits_shortcut": [item.n_orbits_shortcut] * len(pairs),
    }


def _energy_columns(regions: tuple[str, ...], energy: NDArray[Any]) -> dict[str, Any]:
    """Shares by region of `energy` (n_shifts, n_regions, 7)."""
    columns = {}
    kinds = (("", energy_shares(energy)), ("_by_orbit", orbit_shares(energy)))
    for place, region in enumerate(regions):
        for suffix, shares in kinds:
            if suffix and region not in _BY_ORBIT:
                continue
            for number, what in enumerate(_WHAT):
                columns[f"{region.replace(' ', '_')}_{what}{suffix}"] = shares[:, place, number]
    return columns


# Columns that may hold missing values: a chunk of nothing else must not change their type.
CORRUPTION_DTYPES = {
    "parameters": "string",
    "recall_clean": "float64",
    "recall_shifted": "float64",
}
