"""What a page's map explorer shows, in as few bytes as do: maps of classes, and the data beside them.

Of each class every orbit of the map is held by rank: `explorer/top` numbers the first orbits in order,
`explorer/top_importance` what they matter. On a fine grid the others go by bins of equal size
(`explorer/bins`: 1 is the next best, the last the least; 0 where an orbit is among the first, or not
ranked), each with its mean importance (`explorer/bin_importance`): of ranks that far down nobody needs
the last digit, and ten classes at 224 pixels have a quarter of a million of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.report.legible import legible
from shortcut_audit.report.summary import importance_words
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassShortcut

__all__ = ["arrays_shown", "explored"]

# Up to so many orbits (64 x 64 pixels has 2,050) each has its own rank on the page.
_MAX_EXACT = 4096
_N_BINS, _MIN_TOP = 32, 512


def explored(result: AuditResult, items: Sequence[ClassShortcut]) -> dict[str, NDArray[Any]]:
    """Arrays of the explorer for `items`, in that order; `explorer/about.json` says the rest in words."""
    names = [item.class_name for item in result.dominant_frequencies.by_class]
    rows = [names.index(item.class_name) for item in items]
    rank = result.arrays["dominant_frequencies/rank"][rows].astype(np.int64)
    importance = np.stack([result.importance(item.class_name) for item in items]).astype(np.float32)
    n_top = _n_top(result, rows, rank)
    orders = [np.argsort(np.where(own > 0, own, np.iinfo(np.int64).max), kind="stable") for own in rank]
    top = np.stack([order[:n_top] for order in orders])
    arrays = {
        "explorer/top": top.astype(_orbit_type(result)),
        "explorer/top_importance": _short(np.take_along_axis(importance, top, axis=1)),
        "explorer/adcs": _adcs(result, items),
        "explorer/about.json": _about(result, items),
    }
    if n_top < int((rank > 0).sum(axis=1).max()):
        bins, means = _binned(rank, importance, orders, n_top)
        arrays |= {"explorer/bins": bins, "explorer/bin_importance": _short(means)}
    return arrays


def _orbit_type(result: AuditResult) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if result.grid.n_orbits <= 1 << 16 else np.uint32


def _n_top(result: AuditResult, rows: Sequence[int], rank: NDArray[np.int64]) -> int:
    """How many orbits have a rank of their own: all on a coarse grid, else at least the map."""
    n_ranked = int((rank > 0).sum(axis=1).min())
    if result.grid.n_orbits <= _MAX_EXACT:
        return n_ranked
    n_kept = int(result.arrays["dominant_frequencies/kept"][rows].sum(axis=1).max())
    return min(n_ranked, max(n_kept, _MIN_TOP))


def _short(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same to three digits: the bytes that are cleared deflate to nothing."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFFF000)).view(np.float32)


def _binned(
    rank: NDArray[np.int64],
    importance: NDArray[np.float32],
    orders: Sequence[NDArray[np.int64]],
    n_top: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Bins (n, n_orbits) of the orbits after the first, and mean importances (n, n_bins) of them."""
    bins = np.zeros(rank.shape, dtype=np.uint8)
    means = np.zeros((len(rank), _N_BINS), dtype=np.float32)
    for row, order in enumerate(orders):
        rest = order[n_top : int((rank[row] > 0).sum())]
        number = np.arange(len(rest)) * _N_BINS // max(1, len(rest))
        bins[row, rest] = number + 1
        sums = np.bincount(number, weights=importance[row, rest], minlength=_N_BINS)
        means[row] = sums / np.maximum(1, np.bincount(number, minlength=_N_BINS))
    return bins, means


def _adcs(result: AuditResult, items: Sequence[ClassShortcut]) -> NDArray[np.signedinteger[Any]]:
    adcs = result.arrays["class_spectra/adcs"]
    names = list(result.class_names)
    own = adcs[[names.index(item.class_name) for item in items]]
    return own.astype(np.int8 if len(names) <= 128 else np.int16)


def _about(result: AuditResult, items: Sequence[ClassShortcut]) -> NDArray[np.uint8]:
    """Words and single numbers, as JSON."""
    maps = {item.class_name: item for item in result.dominant_frequencies.by_class}
    about = {
        "height": result.grid.height,
        "width": result.grid.width,
        "orbits": result.grid.n_orbits,
        "importance": importance_words(result),
        "dc": result.model_settings.dc,
        "dataClasses": len(result.class_names),
        "fill": _fill(result),
        "classes": [
            {
                "class": item.class_name,
                "name": legible(item.class_name),
                "verdict": item.verdict,
                "ranked": int((result.arrays["dominant_frequencies/rank"][row] > 0).sum()),
                "kept": maps[item.class_name].n_orbits_kept,
                "picture": f"class-{number}/example-original" if item.example is not None else None,
                "steps": [
                    {
                        "share": step.share_found,
                        "orbits": step.n_orbits,
                        "predicted": legible(step.prediction.predicted),
                        "probability": step.prediction.probability,
                        "ofClass": step.prediction.probability_of_class,
                    }
                    for step in item.example_steps
                ],
            }
            for number, (item, row) in enumerate(
                ((each, list(maps).index(each.class_name)) for each in items), start=1
            )
        ],
    }
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _fill(result: AuditResult) -> list[float]:
    """What is left of each channel where DC is removed: black, or the mean that normalising subtracts."""
    if result.model_settings.domain == "pixels":
        return [0.0]
    return list(result.model.preprocessing.mean)


def arrays_shown(result: AuditResult, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays of a result, under their own names, as far as a page's explorer holds them.

    The grid, and of audits all of whose maps are there: importance under the ranking response, rank,
    map and ADCS. On fine grids ranks beyond the first are those of the middle of a bin.
    """
    shown = _grid(result)
    if "explorer/about.json" not in arrays:
        return shown
    about = json.loads(arrays["explorer/about.json"].tobytes())
    names = [item["class"] for item in about["classes"]]
    searched = [item.class_name for item in result.dominant_frequencies.by_class]
    if sorted(names) != sorted(searched):
        return shown
    finding, n_orbits = result.dominant_frequencies, result.grid.n_orbits
    importance = np.zeros((len(names), n_orbits), dtype=np.float32)
    rank = np.zeros((len(names), n_orbits), dtype=np.int32)
    kept = np.zeros((len(names), n_orbits), dtype=bool)
    for row, item in enumerate(finding.by_class):
        own = names.index(item.class_name)
        top = arrays["explorer/top"][own].astype(np.int64)
        if "explorer/bins" in arrays:
            bins = arrays["explorer/bins"][own].astype(np.int64)
            n_rest = about["classes"][own]["ranked"] - len(top)
            rank[row] = np.where(bins > 0, len(top) + np.rint((bins - 0.5) * n_rest / _N_BINS), 0)
            means = arrays["explorer/bin_importance"][own]
            importance[row] = np.where(bins > 0, means[np.maximum(bins, 1) - 1], 0)
        rank[row, top] = np.arange(1, len(top) + 1)
        importance[row, top] = arrays["explorer/top_importance"][own]
        kept[row, top[: item.n_orbits_kept]] = True
    shown |= {
        f"dominant_frequencies/importance/{finding.response}": importance,
        "dominant_frequencies/rank": rank,
        "dominant_frequencies/kept": kept,
    }
    if sorted(names) == sorted(result.class_names):
        order = [names.index(name) for name in result.class_names]
        shown["class_spectra/adcs"] = arrays["explorer/adcs"][order].astype(np.int32)
    return shown


def _grid(result: AuditResult) -> dict[str, NDArray[Any]]:
    """Orbits in the order of the grid: the first of both members in the half plane, row by row."""
    height, width = result.grid.height, result.grid.width
    rows, columns = np.mgrid[0:height, 0 : width // 2 + 1]
    mirrored = (-rows % height) * width + (-columns % width)
    own = rows * width + columns
    first = ((-columns % width) > width // 2) | (own <= mirrored)
    u, v = rows[first], columns[first]
    signed = np.where(u > height // 2, u - height, u)
    single = ((2 * u) % height == 0) & ((2 * v) % width == 0)
    return {
        "orbits/u": signed.astype(np.int32),
        "orbits/v": v.astype(np.int32),
        "orbits/members": np.where(single, 1, 2).astype(np.int8),
        "orbits/radius": np.hypot(signed / height, v / width) * min(height, width),
    }
