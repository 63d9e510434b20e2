"""Tidy tables of a result, made class by class so that a thousand classes stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from shortcut_audit.errors import ResultError
from shortcut_audit.results.corruption_tables import CORRUPTION_DTYPES, corruption_rows
from shortcut_audit.results.transfer_tables import TRANSFER_DTYPES, transfer_rows

if TYPE_CHECKING:
    import pandas as pd

    from shortcut_audit.results.audit_result import AuditResult
    from shortcut_audit.results.counts import Paired, Rate
    from shortcut_audit.results.shortcut_findings import ClassShortcut, Rung

__all__ = ["SHIFT_TABLES", "TABLES", "null_share", "table_frames"]

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
                **_verdict(item),
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


def null_share(rung: Rung, null: Paired | None) -> float | None:
    """Share of other images that a null turned: called by the class under it, less as they are.

    `null`: `rung.flips_over_foreign` or another null; None where it was not drawn.
    """
    if null is None or not null.n:
        return None
    return (null.second.value or 0.0) - (rung.flips.second.value or 0.0)


def _verdict(item: ClassShortcut) -> Chunk:
    """The verdict in columns; of the best rung what belongs to one rung."""
    best = item.best
    return {
        "verdict": item.verdict,
        "q_value": item.q_value,
        "p_value": item.p_value,
        "score": item.score,
        "strength_share": item.strength_share,
        "sufficient_share": item.sufficient_share,
        "transplant_flip": best and best.flip_rate,
        "transplant_null_foreign": best and null_share(best, best.flips_over_foreign),
        "transplant_null_erased": best and null_share(best, best.flips_over_erased),
        "transplant_null_random": best and null_share(best, best.flips_over_random),
        "necessity_drop": best and best.necessity_drop,
        "n_orbits_best": best and best.n_orbits,
        "share_best": best and best.share,
        # Missing rather than empty: CSV cannot tell these apart.
        "kind": item.kind or None,
        "confounds": ",".join(item.confounds) or None,
        "reason": item.reason or None,
        "needed": item.needed or None,
    }


# Of each pair of outcomes of a rung, what the first and the second are.
_PAIRS = {
    "flips": ("after", "before"),
    "flips_over_foreign": ("own", "null"),
    "flips_over_erased": ("own", "null"),
    "flips_over_random": ("own", "null"),
    "losses": ("before", "after"),
    "losses_over_random": ("null", "own"),
    "kept_over_random": ("own", "null"),
}
_RATES = ("kept", "kept_foreign")


def _ladder(result: AuditResult) -> Iterator[Chunk]:
    """One row per searched class and rung, in the order of the ladder; none where nothing was judged."""
    empty = True
    for item in result.shortcuts.by_class:
        rows = [
            {"class": item.class_name, "rung": place, "best": place == item.rung, **_rung(rung)}
            for place, rung in enumerate(item.ladder)
        ]
        if rows:
            empty = False
            yield {column: [row[column] for row in rows] for column in rows[0]}
    if empty:
        yield {column: [] for column in ("class", "rung", "best", *_LADDER_DTYPES)}


def _rung(rung: Rung) -> Chunk:
    """What was counted on one rung, and the rates of it; None where it was not measured."""
    row = {
        "n_orbits": rung.n_orbits,
        "share": rung.share,
        "energy_share": rung.energy_share,
        "ring": rung.ring,
        "n_rings": None if rung.ring is None else rung.n_rings,
        "radius_low": rung.radius[0],
        "radius_high": rung.radius[1],
    }
    for name, outcomes in _PAIRS.items():
        row |= _pair(name, outcomes, getattr(rung, name))
    for name in _RATES:
        row |= _rate(name, getattr(rung, name))
    return {
        **row,
        "sufficiency": rung.sufficiency,
        "transplant_null_foreign": null_share(rung, rung.flips_over_foreign),
        "transplant_null_erased": null_share(rung, rung.flips_over_erased),
        "transplant_null_random": null_share(rung, rung.flips_over_random),
    }


def _pair(name: str, outcomes: tuple[str, str], pair: Paired | None) -> Chunk:
    """Counts of two outcomes on the same images, and their difference with its interval and p."""
    columns = ("n", *outcomes, "difference", "low", "high", "p_value")
    values: tuple[float | None, ...] = (None,) * len(columns)
    if pair is not None:
        counts = (pair.n, pair.first.hits, pair.second.hits)
        values = (*counts, pair.difference, *pair.interval, pair.p_value)
    return {f"{name}_{column}": value for column, value in zip(columns, values, strict=True)}


def _rate(name: str, rate: Rate | None) -> Chunk:
    """A rate with its counts and interval."""
    columns = ("n", "hits", "rate", "low", "high")
    values: tuple[float | None, ...] = (None,) * len(columns)
    if rate is not None:
        values = (rate.n, rate.hits, rate.value, rate.low, rate.high)
    return {f"{name}_{column}": value for column, value in zip(columns, values, strict=True)}


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


TABLES = {"classes": _classes, "orbits": _orbits, "bands": _bands, "ladder": _ladder}
# Of audits that were asked for them.
SHIFT_TABLES = {"corruptions": corruption_rows, "transfer": transfer_rows}
# The same names where the data alone were audited.
_DATA_TABLES = {"classes": _data_classes, "orbits": _data_orbits, "bands": _data_bands}


_VERDICT_NUMBERS = (
    "q_value",
    "p_value",
    "score",
    "strength_share",
    "sufficient_share",
    "transplant_flip",
    "transplant_null_foreign",
    "transplant_null_erased",
    "transplant_null_random",
    "necessity_drop",
    "share_best",
)
_LADDER_DTYPES = {
    "n_orbits": "Int64",
    "share": "float64",
    "energy_share": "float64",
    "ring": "Int64",
    "n_rings": "Int64",
    "radius_low": "float64",
    "radius_high": "float64",
    **{
        f"{name}_{column}": "Int64" if column in ("n", *outcomes) else "float64"
        for name, outcomes in _PAIRS.items()
        for column in ("n", *outcomes, "difference", "low", "high", "p_value")
    },
    **{
        f"{name}_{column}": "Int64" if column in ("n", "hits") else "float64"
        for name in _RATES
        for column in ("n", "hits", "rate", "low", "high")
    },
    "sufficiency": "float64",
    "transplant_null_foreign": "float64",
    "transplant_null_erased": "float64",
    "transplant_null_random": "float64",
}
# Columns that may hold missing values: a chunk of nothing else must not change their type.
_DTYPES = {
    **dict.fromkeys(_VERDICT_NUMBERS, "float64"),
    "n_orbits_best": "Int64",
    **dict.fromkeys(("kind", "confounds", "reason", "needed"), "string"),
    **_LADDER_DTYPES,
    **CORRUPTION_DTYPES,
    **TRANSFER_DTYPES,
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

    Raises ResultError for an unknown table, for `ladder` where there is no model, and for those of
    shifted images where there are none.
    """
    import pandas as pd

    of_models = {**TABLES, **SHIFT_TABLES}
    tables = _DATA_TABLES if result.of_data else of_models
    if name not in tables:
        what = "no table" if name not in of_models else "in an audit of data alone no table"
        raise ResultError(f"There is {what} {name!r}.", f"Tables are: {', '.join(tables)}.")
    for chunk in tables[name](result):
        frame = pd.DataFrame(chunk)
        yield frame.astype({column: _DTYPES[column] for column in frame if column in _DTYPES})
