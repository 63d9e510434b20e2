"""The page of a cue-conflict test, and what it comes to in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from shortcut_audit.report.environment import rendered
from shortcut_audit.report.figures import house_style, image_uri, png_bytes
from shortcut_audit.report.summary import percent
from shortcut_audit.results.audit_result import SkippedImage
from shortcut_audit.results.cue_conflict import (
    CueClass,
    CueConflictResult,
    CueCounts,
    CueData,
    left_out_text,
)
from shortcut_audit.results.store import REPORT_FILE, write_bytes

__all__ = [
    "by_shape_bias",
    "cue_figure",
    "cue_headline",
    "cue_sentences",
    "interval_words",
    "p_text",
    "percent_words",
    "render_cue_conflict",
    "write_cue_page",
]

# As in the figures of verdicts: blue and orange are told apart by nearly every eye.
_SHAPE, _TEXTURE = "#4878a8", "#c8511b"
# More rows would be a page of their own; the table has every class.
_MOST_ROWS = 60
_LONGEST_NAME = 28


@dataclass(frozen=True)
class _Provenance:
    versions: dict[str, str]
    command: str
    seed: int
    data: CueData


@dataclass(frozen=True)
class _View:
    """What the page's frame asks of a result."""

    provenance: _Provenance
    notes: tuple[str, ...]
    skipped: tuple[SkippedImage, ...]


def cue_headline(result: CueConflictResult) -> str:
    """What the model goes by, in one sentence."""
    name, counts = result.model.architecture, result.among_groups
    if counts.n_either == 0:
        return f"Not measured for {name}: {result.why_not_measured}."
    verdict = {
        "undecided": f"These images do not tell whether {name} goes by shape or by texture",
        "both": f"{name} goes by shape and texture alike",
        "shape": f"{name} goes by shape",
        "texture": f"{name} goes by texture",
    }[result.goes_by]
    images = "image" if counts.n_either == 1 else "images"
    return (
        f"{verdict}: of {counts.n_either} {images} that it called by either,"
        f" {percent_words(counts.shape_bias.value)} by shape ({interval_words(counts)})."
    )


def percent_words(value: float | None) -> str:
    """A share in whole percent."""
    return "–" if value is None else f"{100 * value:.0f}%"


def interval_words(counts: CueCounts) -> str:
    """The interval of the shape bias: `95% interval 19–27%`."""
    bias = counts.shape_bias
    return f"95% interval {100 * bias.low:.0f}–{100 * bias.high:.0f}%"


def p_text(p: float | None) -> str:
    """A p-value as people write it."""
    if p is None:
        return "–"
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}"


def cue_sentences(result: CueConflictResult) -> list[str]:
    """What else there is to say: the test against one half, answers of neither, what is left out."""
    counts, left_out = result.among_groups, result.left_out
    sentences = []
    if counts.n_either:
        sentences.append(f"A shape bias of one half: p {p_text(counts.p_value)} (exact, two-sided).")
    if counts.n:
        free = result.among_all
        share = f"{percent_words(free.shape_bias.value)} of {free.n_either}"
        bias = f" and the shape bias is {share}" if free.n_either else ""
        sentences.append(
            f"It called {counts.n_neither} of {counts.n} images by neither, and {counts.n_shape} by their"
            f" shape (accuracy {percent_words(counts.accuracy.value)}); decided among all"
            f" {result.model.n_outputs:,} outputs, {free.n_neither} are neither{bias}."
        )
    if left_out.n:
        sentences.append(
            f"Left out: {left_out.n} of {result.data.n_available} images: {left_out_text(left_out)}."
        )
    if result.dropped:
        names = ", ".join(item.class_name for item in result.dropped[:_MOST_ROWS])
        sentences.append(f"Classes without a group: {names}.")
    if result.absent:
        sentences.append(f"Groups that no image carries take no part: {', '.join(result.absent)}.")
    return sentences


def by_shape_bias(result: CueConflictResult) -> list[CueClass]:
    """Classes from the largest shape bias to the smallest; those without one come last."""

    def key(item: CueClass) -> tuple[float, str]:
        value = item.among_groups.shape_bias.value
        return (2.0 if value is None else -value, item.class_name)

    return sorted(result.by_class, key=key)


@house_style()
def cue_figure(result: CueConflictResult) -> Figure:
    """Shape against texture, a row a class and one of all images, with exact 95% intervals."""
    shown = [item for item in by_shape_bias(result) if item.among_groups.n_either][:_MOST_ROWS]
    rows = [("all images", result.among_groups)]
    rows += [(item.class_name, item.among_groups) for item in shown]
    figure, axes = plt.subplots(figsize=(7.2, 1.1 + 0.27 * len(rows)), layout="constrained")
    places = np.array([0.0, *(np.arange(len(shown)) + 1.4)])
    bias = np.array([counts.shape_bias.value or 0.0 for _, counts in rows])
    axes.barh(places, bias, height=0.62, color=_SHAPE, alpha=0.55, linewidth=0, label="shape")
    axes.barh(
        places, 1 - bias, left=bias, height=0.62, color=_TEXTURE, alpha=0.55, linewidth=0, label="texture"
    )
    reach = np.array(
        [
            (value - counts.shape_bias.low, counts.shape_bias.high - value)
            for value, (_, counts) in zip(bias, rows, strict=True)
        ]
    )
    axes.errorbar(bias, places, xerr=reach.T.clip(0), fmt="o", ms=4, color="black", lw=1, capsize=2)
    axes.axvline(0.5, color="black", lw=0.7, ls=":")
    axes.axvline(bias[0], color=_SHAPE, lw=1.2)
    labels = [f"{_short(name)} ({counts.n_shape} : {counts.n_texture})" for name, counts in rows]
    axes.set_yticks(places, labels, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(places[-1] + 0.6, -0.6))
    axes.set_xlabel(
        "share called by their shape, of those called by either (in brackets: shape : texture)"
    )
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    sns.despine(figure)
    return figure


def _short(name: str) -> str:
    plain = " ".join(name.split())
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}…"


def render_cue_conflict(result: CueConflictResult) -> str:
    """The page as text; equal results give equal bytes."""
    measured = result.among_groups.n_either > 0
    n_with_bias = sum(item.among_groups.n_either > 0 for item in result.by_class)
    return rendered(
        "cue_conflict.html.j2",
        {"p_text": p_text, "whole": percent_words},
        result=_View(
            _Provenance(result.versions, result.command, result.settings.seed, result.data),
            result.notes,
            result.skipped,
        ),
        test=result,
        truth_sentences=[],
        headline=cue_headline(result),
        sentences=cue_sentences(result),
        classes=by_shape_bias(result),
        n_not_drawn=max(0, n_with_bias - _MOST_ROWS),
        figure_uri=image_uri(png_bytes(cue_figure(result)), "png") if measured else None,
        share=percent,
    )


def write_cue_page(result: CueConflictResult, folder: Path) -> Path:
    """Write the page into the folder of a test; returns the page. Raises RunFolderError."""
    page = folder / REPORT_FILE
    write_bytes(page, render_cue_conflict(result).encode())
    return page
