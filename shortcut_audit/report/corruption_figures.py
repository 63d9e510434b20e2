"""Corruptions, drawn: what each class loses under each shift, and the drop over the energy changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from shortcut_audit.report.corruption_words import named_corruption, orbit_changes
from shortcut_audit.report.figures import house_style, plain_label
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.corruption_findings import CorruptionsFinding

__all__ = ["MAX_ROWS", "draw_drops", "drop_figure", "prediction_figure"]

# Classes of the picture; the table of the export has every one.
MAX_ROWS = 30
# Cells so few that their points can be written into them.
_MAX_WRITTEN = 20
# Smallest change of energy that is drawn.
_FLOOR = 1e-3


def drop_figure(finding: CorruptionsFinding) -> Figure:
    """Heat map of the recall that each class loses under each shift, those that lose most on top."""
    n_rows = min(MAX_ROWS, len(finding.by_class))
    with house_style():
        figure = Figure(figsize=(9.6, 1.5 + 0.24 * n_rows), layout="constrained")
        draw_drops(figure.add_subplot(), finding)
    return figure


def draw_drops(axes: Axes, finding: CorruptionsFinding) -> None:
    """Heat map of the recall that each class loses under each shift, those that lose most on top."""
    order = sorted(finding.by_class, key=lambda item: -item.mean_drop)[:MAX_ROWS]
    drops = np.array([[100 * each.recall.difference for each in item.by_shift] for item in order])
    reach = max(float(np.abs(drops).max()), 10.0)
    sns.heatmap(
        drops,
        ax=axes,
        cmap="vlag",
        vmin=-reach,
        vmax=reach,
        annot=len(finding.shifts) <= _MAX_WRITTEN,
        fmt=".0f",
        annot_kws={"fontsize": 7},
        yticklabels=[plain_label(item.class_name) for item in order],
        xticklabels=[str(shift.severity) for shift in finding.shifts],
        cbar_kws={"label": "recall lost, points", "pad": 0.01},
        rasterized=True,
    )
    _name_kinds(axes, finding)
    axes.tick_params(axis="both", length=0, labelsize=7)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="severity, by corruption", ylabel="")


def _name_kinds(axes: Axes, finding: CorruptionsFinding) -> None:
    """Names of corruptions above their columns, with a line between them."""
    kinds = [shift.corruption for shift in finding.shifts]
    for name in finding.corruptions:
        first, n = kinds.index(name), kinds.count(name)
        if first:
            axes.axvline(first, color="white", linewidth=2)
        axes.text(
            first + n / 2,
            -0.15,
            named_corruption(name),
            ha="left" if len(finding.corruptions) > 4 else "center",
            va="bottom",
            rotation=35 if len(finding.corruptions) > 4 else 0,
            fontsize=7,
        )


def prediction_figure(result: AuditResult, finding: CorruptionsFinding) -> Figure:
    """The drop of each class under each shift over how much the shift changes an orbit: of the class's
    dominant ones, and of all."""
    with house_style():
        size = (9.6, max(3.2, 0.21 * len(finding.corruptions)))
        figure = Figure(figsize=size, layout="constrained")
        _draw_prediction(figure, result, finding)
    return figure


def _draw_prediction(figure: Figure, result: AuditResult, finding: CorruptionsFinding) -> None:
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    regions = (("dominant", "the class's dominant orbits"), ("all", "all orbits but DC"))
    for place, (region, title) in enumerate(regions):
        cells = _cells(finding, orbit_changes(result, finding, region))
        sns.scatterplot(
            cells,
            x="change",
            y="drop",
            hue="corruption",
            style="corruption",
            size="severity",
            sizes=(8, 45),
            palette=sns.color_palette("husl", len(finding.corruptions)),
            alpha=0.7,
            linewidth=0,
            ax=axes[place],
            legend="full" if place else False,
        )
        axes[place].set_xscale("log")
        axes[place].axhline(0, color="0.3", linewidth=0.6)
        axes[place].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[place].set(
            title=title, xlabel="energy changed, as a share of an orbit's", ylabel="recall lost"
        )
    handles, labels = axes[1].get_legend_handles_labels()
    # Headings and sizes are left out: the larger a mark, the more severe.
    named = [
        (handle, label)
        for handle, label in zip(handles, labels, strict=True)
        if label in {named_corruption(name) for name in finding.corruptions}
    ]
    axes[1].legend(
        *zip(*named, strict=True),
        title="larger: more severe",
        title_fontsize=7,
        fontsize=7,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    sns.despine(figure)


def _cells(finding: CorruptionsFinding, changes: NDArray[np.float64]) -> pd.DataFrame:
    """A row a class and shift: corruption, severity, drop and change of energy."""
    rows = [
        {
            "corruption": named_corruption(shift.corruption),
            "severity": shift.severity,
            "drop": each.recall.difference,
            "change": max(change, _FLOOR),
        }
        for item, own in zip(finding.by_class, changes, strict=True)
        for shift, each, change in zip(finding.shifts, item.by_shift, own, strict=True)
    ]
    return pd.DataFrame(rows)
