"""Matrices of a transfer: how alike the maps of models are, and how far their shortcuts turn images."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shortcut_audit.report.figures import house_style
from shortcut_audit.results.model_transfer import ModelTransferResult

__all__ = ["agreement_figure", "clustering_of", "turned_figure"]

_LONG = 28


def clustering_of(result: ModelTransferResult) -> NDArray[np.float64] | None:
    """Average linkage of the runs on 1 - agreement, as scipy has it, (n_runs - 1, 4).

    None where there is nothing to group: two runs, a pair that could not be compared, or no spread.
    """
    matrix = _array(result.agreement_matrix())
    n = len(matrix)
    apart = 1 - matrix[np.triu_indices(n, 1)]
    if n < 3 or np.isnan(apart).any() or np.ptp(apart) < 1e-12:
        return None
    from scipy.cluster.hierarchy import linkage

    found: NDArray[np.float64] = linkage(np.maximum(apart, 0.0), method="average")
    return found


@house_style()
def agreement_figure(result: ModelTransferResult) -> Figure:
    """Models x models: mean rank correlation of their maps over the ceiling; grouped where it can be."""
    matrix = _array(result.agreement_matrix())
    names = [_short(run.name) for run in result.runs]
    side = max(3.4, 0.95 * len(names) + 1.6)
    words = np.array(_annotations(result))
    told = {
        "annot": words,
        "fmt": "",
        "vmin": min(0.0, float(np.nanmin(matrix, initial=0.0))),
        "vmax": 1.0,
        "cmap": "crest",
        "linewidths": 1.0,
        "xticklabels": names,
        "yticklabels": names,
    }
    tree = clustering_of(result)
    if tree is None:
        figure, axes = plt.subplots(figsize=(side + 1.2, side), layout="constrained")
        sns.heatmap(matrix, ax=axes, square=True, cbar_kws={"label": "rank correlation"}, **told)
        _say_in_gaps(axes, matrix, words)
        axes.tick_params(axis="y", rotation=0)
        return figure
    grid = sns.clustermap(
        matrix,
        row_linkage=tree,
        col_linkage=tree,
        figsize=(side + 1.8, side + 1.2),
        dendrogram_ratio=0.16,
        cbar_pos=(0.03, 0.84, 0.03, 0.11),
        **told,
    )
    grid.ax_cbar.set_title("rank correlation", fontsize="small", loc="left")
    order = np.ix_(grid.dendrogram_row.reordered_ind, grid.dendrogram_col.reordered_ind)
    _say_in_gaps(grid.ax_heatmap, matrix[order], words[order])
    grid.ax_heatmap.tick_params(axis="y", rotation=0)
    made: Figure = grid.figure
    return made


def _annotations(result: ModelTransferResult) -> list[list[str]]:
    """What stands in each cell: a value and its ceiling; on the diagonal, what it is."""
    rows = []
    for one, values in zip(result.runs, result.agreement_matrix(), strict=True):
        row = []
        for other, value in zip(result.runs, values, strict=True):
            pair = result.agreement_of(one.name, other.name)
            under = (
                "reliability" if one is other else f"of {_figure(None if pair is None else pair.ceiling)}"
            )
            row.append(f"{_figure(value)}\n{under}")
        rows.append(row)
    return rows


@house_style()
def turned_figure(result: ModelTransferResult) -> Figure:
    """Runs x models: mean share of other images that the run's shortcuts turn; its own model first."""
    judged = _array(result.turned_matrix())
    own = []
    for run in result.runs:
        here = [item.turned_here for item in result.judged if item.run == run.name]
        own.append(next((value for value in here if value is not None), None))
    matrix = np.column_stack([_array([own])[0], judged])
    names = ["its own model", *(_short(name) for name in result.models)]
    figure, axes = plt.subplots(
        figsize=(1.3 * len(names) + 3.0, 0.55 * len(result.runs) + 1.4), layout="constrained"
    )
    words = np.array([[_percent(value) for value in row] for row in matrix])
    sns.heatmap(
        matrix,
        ax=axes,
        annot=words,
        fmt="",
        vmin=0.0,
        vmax=1.0,
        cmap="flare",
        linewidths=1.0,
        xticklabels=names,
        yticklabels=[_short(run.name) for run in result.runs],
        cbar_kws={"label": "images turned"},
    )
    _say_in_gaps(axes, matrix, words)
    axes.set(xlabel="judged on", ylabel="maps and shortcuts of")
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(axis="x", rotation=0)
    return figure


def _say_in_gaps(axes: Axes, matrix: NDArray[np.float64], words: NDArray[np.str_]) -> None:
    """Write into cells without a value, which seaborn leaves empty."""
    for row, column in np.argwhere(np.isnan(matrix)).tolist():
        text = str(words[row, column])
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color="0.4")


def _array(rows: list[list[float | None]]) -> NDArray[np.float64]:
    return np.array([[np.nan if value is None else value for value in row] for row in rows])


def _short(name: str) -> str:
    # A dollar sign starts mathematics in matplotlib.
    return (name if len(name) <= _LONG else f"{name[: _LONG - 1]}…").replace("$", r"\$")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float) -> str:
    return "no shortcut" if np.isnan(value) else f"{100 * value:.0f}%"
