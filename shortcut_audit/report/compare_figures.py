"""Pictures of a comparison: accuracy and the scores of classes over runs, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shortcut_audit.report.compare_runs import ClassState, RunsComparison
from shortcut_audit.report.figures import house_style, plain_label

__all__ = ["accuracy_figure", "scores_figure"]

_BLUE, _ORANGE = "#4878a8", "#c8511b"
# A verdict is told by shape as well as by colour.
_MARKS = {
    "shortcut": ("s", _ORANGE, _ORANGE, "shortcut"),
    "inconclusive": ("D", "white", _ORANGE, "inconclusive"),
    "no shortcut": ("o", _BLUE, _BLUE, "no shortcut"),
    "not judged": ("x", "0.5", "0.5", "not judged"),
}
# A score from which a class may be a shortcut (docs/verdicts.md), in points.
_EFFECT = 10
_COLUMNS = 4


def accuracy_figure(comparison: RunsComparison) -> Figure:
    """Accuracy of every run with its 95% interval, a row a run; the dotted line is the baseline's."""
    runs = comparison.runs
    with house_style():
        figure = Figure(figsize=(7.2, 0.9 + 0.3 * len(runs)), layout="constrained")
        axes = figure.add_subplot()
        for place, run in enumerate(runs):
            value = 100 * (run.accuracy.value or 0.0)
            reach = (value - 100 * run.accuracy.low, 100 * run.accuracy.high - value)
            base = place == comparison.baseline
            axes.errorbar(
                value, place, xerr=[[max(end, 0.0)] for end in reach], fmt="s" if base else "o", ms=5,
                color="black" if base else _BLUE, lw=1.3, capsize=2,
            )  # fmt: skip
        axes.axvline(100 * (comparison.base.accuracy.value or 0.0), color="black", lw=0.8, ls=":")
        labels = [f"{place + 1} {plain_label(run.label, 34)}" for place, run in enumerate(runs)]
        axes.set_yticks(range(len(runs)), labels)
        axes.set_ylim(len(runs) - 0.4, -0.6)
        axes.set_xlabel("images called by their class (%), 95% interval; square: baseline")
        sns.despine(ax=axes)
    return figure


def scores_figure(comparison: RunsComparison, names: Sequence[str]) -> Figure | None:
    """Score of each of some classes over the runs, a panel a class; None where no run has any."""
    states = [
        (name, [next(i for i in run.by_class if i.class_name == name) for run in comparison.runs])
        for name in names
    ]
    drawn = [(name, own) for name, own in states if any(item.score is not None for item in own)]
    if not drawn:
        return None
    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    low = min(100 * (item.low or 0.0) for _, own in drawn for item in own if item.score is not None)
    high = max(100 * (item.high or 0.0) for _, own in drawn for item in own if item.score is not None)
    with house_style():
        figure = Figure(figsize=(max(4.2, 2.4 * columns), 0.5 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        panels: list[Axes] = list(grid.flat)
        for axes, (name, own) in zip(panels, drawn, strict=False):
            _panel(axes, name, own)
            axes.set_ylim(min(low, 0) - 4, max(high, _EFFECT) + 4)
        for axes in panels[len(drawn) :]:
            axes.set_visible(False)
        # Where nothing is drawn below, the panel has the numbers of runs.
        for axes in panels[max(0, len(drawn) - columns) : len(drawn)]:
            axes.tick_params(labelbottom=True)
        for row in grid:
            row[0].set_ylabel("score (points)")
        figure.supxlabel("run, by its number in the table", fontsize="medium")
        _legend(figure, drawn)
    return figure


def _panel(axes: Axes, name: str, own: Sequence[ClassState]) -> None:
    places = [place for place, item in enumerate(own, 1) if item.score is not None]
    values = [100 * item.score for item in own if item.score is not None]
    axes.axhline(_EFFECT, color="0.5", lw=0.7, ls=":")
    axes.axhline(0, color="0.8", lw=0.7)
    axes.plot(places, values, color="0.75", lw=1.0, zorder=1)
    for place, item in enumerate(own, 1):
        if item.score is None or item.low is None or item.high is None:
            continue
        mark, face, edge, _ = _MARKS[item.verdict]
        value = 100 * item.score
        reach = [[max(value - 100 * item.low, 0.0)], [max(100 * item.high - value, 0.0)]]
        axes.errorbar(
            place,
            value,
            yerr=reach,
            fmt=mark,
            ms=4.5,
            mfc=face,
            mec=edge,
            ecolor=edge,
            lw=1.1,
            capsize=1.5,
        )
    axes.set_xlim(0.5, len(own) + 0.5)
    step = 1 if len(own) <= 10 else 3
    axes.set_xticks(range(1, len(own) + 1, step))
    axes.set_title(plain_label(name), fontsize="medium")
    sns.despine(ax=axes)


def _legend(figure: Figure, drawn: Sequence[tuple[str, Sequence[ClassState]]]) -> None:
    from matplotlib.lines import Line2D

    found = {item.verdict for _, own in drawn for item in own if item.score is not None}
    handles = [
        Line2D([], [], marker=mark, color="none", mfc=face, mec=edge, label=label)
        for verdict, (mark, face, edge, label) in _MARKS.items()
        if verdict in found
    ]
    handles.append(Line2D([], [], color="0.5", lw=0.7, ls=":", label="a score of 10"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
