"""Tidy tables of a result, made class by class so that a thousand classes stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from shortcut_audit.errors import ResultError

if TYPE_CHECKING:
    import pandas as pd

    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["TABLES", "table_frames"]

Chunk = dict[str, Any]


def _classes(result: AuditResult) -> Iterator[Chunk]:
    """One row per searched class."""
    names = list(result.class_names)
    response = result.dominant_frequencies.response
    rows: list[Chunk] = []
    for item, found in zip(result.shortcuts.by_class, result.dominant_frequencies.by_class, strict=True):
        accuracy = result.predictions.accuracy_by_class[names.index(item.class_name)]
        reliability = found.reliability[response]
        rows.append(
            {
                "class": item.class_name,
                "n_search": found.n_search,
                "n_judge": item.n_judge,
                "accuracy": accuracy.value,
                "accuracy_low": accuracy.low,
                "accuracy_high": accuracy.high,
                "accuracy_n": accuracy.n,
                "verdict": item.verdict,
                "kept_share": found.kept_share,
                "n_orbits_kept": found.n_orbits_kept,
                "tpr_kept": item.tpr_kept.value,
                "tpr_kept_low": item.tpr_kept.low,
                "tpr_kept_high": item.tpr_kept.high,
                "tpr_n": item.tpr_kept.n,
                "fpr_kept": item.fpr_kept.value,
                "fpr_kept_low": item.fpr_kept.low,
                "fpr_kept_high": item.fpr_kept.high,
                "fpr_n": item.fpr_kept.n,
                "tpr_full": item.tpr_full.value,
                "fpr_full": item.fpr_full.value,
                "map_reliability": reliability.value,
                "map_half_correlation": reliability.half_correlation,
            }
        )
    yield {column: [row[column] for row in rows] for column in rows[0]}


def _orbits(result: AuditResult) -> Iterator[Chunk]:
    """One row per searched class and orbit."""
    arrays = result.arrays
    finding = result.dominant_frequencies
    names = list(result.class_names)
    for index, item in enumerate(finding.by_class):
        of_data = names.index(item.class_name)
        rank = arrays["dominant_frequencies/rank"][index]
        chunk: Chunk = {
            "class": [item.class_name] * result.grid.n_orbits,
            "u": arrays["orbits/u"],
            "v": arrays["orbits/v"],
            "radius": arrays["orbits/radius"],
            "members": arrays["orbits/members"],
            "importance": result.importance(item.class_name),
            "rank": [int(value) or None for value in rank],
            "kept": arrays["dominant_frequencies/kept"][index].astype(bool),
            "amplitude": arrays["class_spectra/amplitude"][of_data],
            "adcs": arrays["class_spectra/adcs"][of_data],
        }
        for response in item.reliability:
            column = f"importance_{response.replace('-', '_')}"
            chunk[column] = arrays[f"dominant_frequencies/importance/{response}"][index]
        yield chunk


def _bands(result: AuditResult) -> Iterator[Chunk]:
    """One row per searched class and radial band; DC belongs to no band."""
    arrays = result.arrays
    names = list(result.class_names)
    band, radius, members = arrays["orbits/band"], arrays["orbits/radius"], arrays["orbits/members"]
    for index, item in enumerate(result.dominant_frequencies.by_class):
        of_data = names.index(item.class_name)
        importance = result.importance(item.class_name)
        kept = arrays["dominant_frequencies/kept"][index].astype(bool)
        amplitude = arrays["class_spectra/amplitude"][of_data]
        adcs = arrays["class_spectra/adcs"][of_data]
        columns: dict[str, list[Any]] = {}
        for number in range(result.grid.n_bands):
            within = band == number
            if not within.any():
                continue
            row = {
                "class": item.class_name,
                "band": number + 1,
                "radius_low": float(radius[within].min()),
                "radius_high": float(radius[within].max()),
                "n_orbits": int(within.sum()),
                "mean_amplitude": float(np.average(amplitude[within], weights=members[within])),
                "mean_adcs": float(np.average(adcs[within], weights=members[within])),
                "mean_importance": float(np.average(importance[within], weights=members[within])),
                "max_importance": float(importance[within].max()),
                "n_orbits_kept": int((within & kept).sum()),
                "kept_share_of_band": float(members[within & kept].sum() / members[within].sum()),
                "share_of_map": float(members[within & kept].sum() / members[kept].sum()),
            }
            for column, value in row.items():
                columns.setdefault(column, []).append(value)
        yield columns


TABLES = {"classes": _classes, "orbits": _orbits, "bands": _bands}


# Columns that may hold missing values: a chunk of nothing else must not change their type.
_DTYPES = {"rank": "Int64", "map_reliability": "float64", "map_half_correlation": "float64"}


def table_frames(result: AuditResult, name: str) -> Iterator[pd.DataFrame]:
    """Table `name` in chunks of whole classes, so that a thousand classes need not fit at once.

    Raises ResultError for an unknown table.
    """
    import pandas as pd

    if name not in TABLES:
        raise ResultError(f"There is no table {name!r}.", f"Tables are: {', '.join(TABLES)}.")
    for chunk in TABLES[name](result):
        frame = pd.DataFrame(chunk)
        yield frame.astype({column: _DTYPES[column] for column in frame if column in _DTYPES})
