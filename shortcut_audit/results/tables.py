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
                "images_enough": found.n_images_enough,
                "search": result.dominant_frequencies.search,
                "resolution": found.resolution,
                "fidelity_rank_correlation": found.fidelity and found.fidelity.rank_correlation,
                "fidelity_overlap": found.fidelity and found.fidelity.overlap,
                "fidelity_loss_mass": found.fidelity and found.fidelity.loss_mass,
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
        probed = arrays.get("dominant_frequencies/n_probed")
        chunk: Chunk = {
            "class": [item.class_name] * result.grid.n_orbits,
            "u": arrays["orbits/u"],
            "v": arrays["orbits/v"],
            "radius": arrays["orbits/radius"],
            "members": arrays["orbits/members"],
            "importance": result.importance(item.class_name),
            "rank": [int(value) or None for value in rank],
            "kept": arrays["dominant_frequencies/kept"][index].astype(bool),
            # None where nothing is estimated.
            "n_probed": [None] * result.grid.n_orbits if probed is None else probed[index],
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


def _data_classes(result: AuditResult) -> Iterator[Chunk]:
    """One row per class: images, slope, what the probe makes of it, and the bands that are named."""
    probe = {each.part: each.by_class for each in result.spectrum_probe.results}
    rows: list[Chunk] = []
    for index, name in enumerate(result.class_names):
        own = [item for item in result.invitations.items if item.class_name == name]
        row = {
            "class": name,
            "n_images": result.class_spectra.n_images_by_class[index],
            "slope": result.class_spectra.slope_by_class[index],
            "bands_named": ",".join(str(band) for band in sorted({item.band for item in own})),
        }
        for part, column in (("all", "probe"), ("mean and contrast", "mean_and_contrast")):
            score = probe[part][index] if part in probe else None
            row[f"{column}_recall"] = score and score.recall.value
            row[f"{column}_recall_low"] = score and score.recall.low
            row[f"{column}_recall_high"] = score and score.recall.high
            row[f"{column}_false"] = score and score.false.value
            row[f"{column}_over_chance"] = score and score.over_chance
        rows.append(row)
    yield {column: [row[column] for row in rows] for column in rows[0]}


def _data_orbits(result: AuditResult) -> Iterator[Chunk]:
    """One row per class and orbit."""
    arrays = result.arrays
    for index, name in enumerate(result.class_names):
        yield {
            "class": [name] * result.grid.n_orbits,
            "u": arrays["orbits/u"],
            "v": arrays["orbits/v"],
            "radius": arrays["orbits/radius"],
            "members": arrays["orbits/members"],
            "amplitude": arrays["class_spectra/amplitude"][index],
            "adcs": arrays["class_spectra/adcs"][index],
            "z": arrays["invitations/z"][index],
        }


def _data_bands(result: AuditResult) -> Iterator[Chunk]:
    """One row per class and radial band; DC belongs to no band."""
    arrays = result.arrays
    band, radius, members = arrays["orbits/band"], arrays["orbits/radius"], arrays["orbits/members"]
    probe = {each.band: each.by_class for each in result.spectrum_probe.results if each.band}
    energy = arrays["class_spectra/band_energy"]
    for index, name in enumerate(result.class_names):
        rows: list[Chunk] = []
        for number in range(result.grid.n_bands):
            within = band == number
            if not within.any():
                continue
            named = [
                item
                for item in result.invitations.items
                if item.class_name == name and item.band == number + 1
            ]
            score = probe[number + 1][index] if number + 1 in probe else None
            rows.append(
                {
                    "class": name,
                    "band": number + 1,
                    "radius_low": float(radius[within].min()),
                    "radius_high": float(radius[within].max()),
                    "n_orbits": int(within.sum()),
                    "energy": float(energy[index, number]),
                    "energy_share": float(energy[index, number] / max(energy[index].sum(), 1e-300)),
                    "mean_adcs": float(
                        np.average(arrays["class_spectra/adcs"][index][within], weights=members[within])
                    ),
                    "probe_recall": score and score.recall.value,
                    "probe_false": score and score.false.value,
                    "probe_over_chance": score and score.over_chance,
                    "probe_over_chance_low": score and score.low,
                    "probe_over_chance_high": score and score.high,
                    "named": bool(named),
                    "evidence": ",".join(sorted({item.evidence for item in named})),
                    "auc": max((item.auc for item in named if item.auc is not None), default=None),
                    "z": max((item.z for item in named if item.z is not None), default=None),
                }
            )
        yield {column: [row[column] for row in rows] for column in rows[0]}


TABLES = {"classes": _classes, "orbits": _orbits, "bands": _bands}
# The same names where the data alone were audited.
_DATA_TABLES = {"classes": _data_classes, "orbits": _data_orbits, "bands": _data_bands}


# Columns that may hold missing values: a chunk of nothing else must not change their type.
_DTYPES = {
    "rank": "Int64",
    "n_probed": "Int64",
    "images_enough": "Int64",
    "fidelity_rank_correlation": "float64",
    "fidelity_overlap": "float64",
    "fidelity_loss_mass": "float64",
    "map_reliability": "float64",
    "map_half_correlation": "float64",
    "slope": "float64",
    "auc": "float64",
    "z": "float64",
    "probe_recall": "float64",
    "probe_false": "float64",
    "probe_over_chance": "float64",
}


def table_frames(result: AuditResult, name: str) -> Iterator[pd.DataFrame]:
    """Table `name` in chunks of whole classes, so that a thousand classes need not fit at once.

    Raises ResultError for an unknown table.
    """
    import pandas as pd

    if name not in TABLES:
        raise ResultError(f"There is no table {name!r}.", f"Tables are: {', '.join(TABLES)}.")
    for chunk in (_DATA_TABLES if result.of_data else TABLES)[name](result):
        frame = pd.DataFrame(chunk)
        yield frame.astype({column: _DTYPES[column] for column in frame if column in _DTYPES})
