"""Other sets drawn: recall at home and there, bands put back, and HFSS's groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from shortcut_audit.report.figures import house_style, plain_label
from shortcut_audit.results.counts import Rate
from shortcut_audit.results.transfer_findings import ClassTransfer, SetTransfer

__all__ = ["MAX_ROWS", "draw_recall", "groups_figure", "transfer_figure"]

# Classes that a figure has room for.
MAX_ROWS = 25
_COLOURS = {"illusion": 3, "drop": 1, "inconclusive": 8, "no effect": 7}


def transfer_figure(item: SetTransfer, classes: Sequence[ClassTransfer]) -> Figure:
    """Recall of `classes` at home and there, and what bands of the audit's copies bring back, or how much
    energy bands hold where the images are no copies."""
    height = 1.4 + 0.24 * min(len(classes), MAX_ROWS)
    with house_style():
        figure = Figure(figsize=(9.6, height), layout="constrained")
        axes = figure.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
        draw_recall(axes[0], classes[:MAX_ROWS], item.set.name)
        _draw_bands(axes[1], item)
        sns.despine(figure)
    return figure


def draw_recall(axes: Axes, classes: Sequence[ClassTransfer], name: str) -> None:
    """Recall of each class at home and on the set `name`, with 95% intervals, a row a class."""
    palette = sns.color_palette("colorblind")
    for row, each in enumerate(classes):
        home, there = each.recall_home.value or 0.0, each.recall.value or 0.0
        axes.plot([home, there], [row, row], color="0.75", linewidth=1.2, zorder=1)
        _dot(axes, each.recall_home, row - 0.12, "0.35", "o", "at home" if row == 0 else None)
        _dot(axes, each.recall, row + 0.12, palette[_COLOURS[each.effect]], "D", None)
    for effect, number in _COLOURS.items():
        if any(each.effect == effect for each in classes):
            axes.scatter([], [], color=palette[number], marker="D", s=22, label=f"there: {effect}")
    axes.set_yticks(range(len(classes)), [plain_label(each.class_name) for each in classes])
    axes.invert_yaxis()
    axes.set(
        title=f"Recall at home and on {plain_label(name)}",
        xlabel="of the class's images",
        xlim=(-0.02, 1.02),
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize="small", loc="best")


def _dot(axes: Axes, rate: Rate, row: float, colour: object, marker: str, label: str | None) -> None:
    axes.plot([rate.low, rate.high], [row, row], color=colour, linewidth=0.9, alpha=0.7, zorder=2)
    axes.scatter([rate.value or 0.0], [row], color=[colour], marker=marker, s=22, zorder=3, label=label)


def _draw_bands(axes: Axes, item: SetTransfer) -> None:
    colour = sns.color_palette("colorblind")[0]
    places = np.arange(len(item.bands))
    names = [f"{band.band}\n{band.radius[0]:.0f}–{band.radius[1]:.0f}" for band in item.bands]
    if item.set.paired:
        values = [band.restored.difference if band.restored else 0.0 for band in item.bands]
        ends = [band.restored.interval if band.restored else (0.0, 0.0) for band in item.bands]
        axes.bar(places, values, color=colour, width=0.6)
        for place, (low, high) in zip(places, ends, strict=True):
            axes.plot([place, place], [low, high], color="0.2", linewidth=1)
        fall = (item.accuracy_home.value or 0.0) - (item.accuracy.value or 0.0)
        axes.axhline(fall, color="0.4", linestyle="--", linewidth=1)
        axes.annotate("whole fall", (len(places) - 0.5, fall), ha="right", va="bottom", fontsize="small")
        axes.set(title="Accuracy that a band of the\naudit's own copies brings back")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.bar(places, [band.power or 0.0 for band in item.bands], color=colour, width=0.6)
        axes.axhline(1.0, color="0.4", linestyle="--", linewidth=1)
        axes.set(title="Energy of a band there\nover that at home")
    axes.set_xticks(places, names)
    axes.set_xlabel("band, cycles/image")


def groups_figure(item: SetTransfer) -> Figure:
    """HFSS's curves: classes that their map alone recalls at home, and the others, over the threshold."""
    with house_style():
        figure = Figure(figsize=(9.6, 2.6), layout="constrained")
        _draw_groups(figure, item)
    return figure


def _draw_groups(figure: Figure, item: SetTransfer) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    palette = sns.color_palette("colorblind")
    thresholds = [point.threshold for point in item.groups]
    series = {
        "Full images": ("full_above", "full_below"),
        "Only the class's map kept": ("kept_above", "kept_below"),
    }
    for axis, (title, fields) in zip(axes, series.items(), strict=True):
        for field, colour, label in zip(
            fields, palette[:2], ("TPR at home above t", "the others"), strict=True
        ):
            values = [getattr(point, field) for point in item.groups]
            axis.plot(
                thresholds,
                [np.nan if value is None else value for value in values],
                color=colour,
                marker="o",
                markersize=4,
                label=label,
            )
        axis.set(title=title, xlabel="threshold t of TPR under the map, at home", ylim=(-0.03, 1.03))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    for point in item.groups:
        axes[0].annotate(
            f"{point.n_above}/{point.n_below}",
            (point.threshold, -0.01),
            ha="center",
            va="bottom",
            fontsize="x-small",
            color="0.35",
        )
    axes[0].set_ylabel("mean recall there")
    axes[1].legend(frameon=False, fontsize="small")
    sns.despine(figure)
