"""`result.plot`: every figure of a result as matplotlib Axes, for notebooks and papers.

    axes = result.plot.map("horse")
    axes = result.plot.overview(ax=my_axes)

Without `ax` a new pyplot figure is made, in the style of the page; with it, the picture goes into your
Axes and keeps your style. matplotlib's settings stay as they are in both cases.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from shortcut_audit.errors import ResultError
from shortcut_audit.report import corruption_figures, transfer_figures
from shortcut_audit.report.figures import (
    draw_adcs,
    draw_map,
    draw_radius,
    draw_spectra,
    draw_z_map,
    draw_z_over_radius,
    house_style,
    plain_label,
)
from shortcut_audit.report.verdict_figures import draw_ladder, draw_necessity
from shortcut_audit.report.verdict_words import by_verdict, nulls_of
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.corruption_findings import CorruptionsFinding
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.findings import ProbeResult
from shortcut_audit.results.shortcut_findings import VERDICTS, ClassShortcut, Verdict
from shortcut_audit.results.transfer_findings import SetTransfer

__all__ = ["MAX_ROWS", "Plots"]

# Classes that an overview has room for, the worst first.
MAX_ROWS = 40
_MAX_NEAR = 5
_SQUARE, _WIDE = (3.6, 3.1), (5.2, 3.1)
# Colour of seaborn's colour-blind palette, and marker, by verdict.
_VERDICT_STYLES: dict[Verdict, tuple[int, str]] = {
    "shortcut": (3, "D"),
    "inconclusive": (1, "s"),
    "no shortcut": (0, "o"),
    "not judged": (7, "o"),
}


class Plots:
    """The figures of one result; each method returns the Axes that it has drawn into."""

    def __init__(self, result: AuditResult, new_figure: Callable[..., Figure] = plt.figure) -> None:
        """`new_figure` makes figures where no `ax` is given; through pyplot, so that it shows them."""
        self._result = result
        self._new_figure = new_figure

    def __repr__(self) -> str:
        names = [name for name in dir(self) if not name.startswith("_") and name != "figures_of"]
        return f"Figures: {', '.join(f'{name}()' for name in names)}"

    def figures_of(self, class_name: str) -> tuple[str, ...]:
        """Names of the methods that have a figure of the class.

        Raises ResultError for an unknown class.
        """
        self._check(class_name, self._result.class_names)
        if self._result.of_data:
            return ("map", "adcs", "radius")
        if class_name not in _searched(self._result):
            return ("adcs",)
        items = {item.class_name: item for item in self._result.shortcuts.by_class}
        item = items.get(class_name)
        judged = ("ladder", "necessity") if item is not None and item.ladder else ()
        return ("map", "adcs", "radius", *judged)

    def map(self, class_name: str, ax: Axes | None = None) -> Axes:
        """Importance of every orbit for the class, its map marked; of data alone: how orbits stand out.

        Raises ResultError for a class without a map.
        """
        draw = draw_z_map if self._result.of_data else draw_map
        return self._of_class(class_name, ax, draw, _SQUARE)

    def adcs(self, class_name: str, ax: Axes | None = None) -> Axes:
        """The class's amplitudes against those of the other classes (ADCS).

        Raises ResultError for an unknown class.
        """
        self._check(class_name, self._result.class_names)
        with self._axes(ax, _SQUARE) as axes:
            draw_adcs(axes, self._result, class_name)
            _name(axes, class_name)
        return axes

    def radius(self, class_name: str, ax: Axes | None = None) -> Axes:
        """Importance of every orbit over its radius; of data alone: how far orbits stand out.

        Raises ResultError for a class without a map.
        """
        draw = draw_z_over_radius if self._result.of_data else draw_radius
        return self._of_class(class_name, ax, draw, _WIDE)

    def ladder(self, class_name: str, ax: Axes | None = None) -> Axes:
        """What transplants of the class's orbits turn into it, with nulls, over their share of orbits.

        Raises ResultError for a class that was not judged.
        """
        return self._of_ladder(class_name, ax, draw_ladder)

    def necessity(self, class_name: str, ax: Axes | None = None) -> Axes:
        """What the class loses without its orbits, and how well these alone do.

        Raises ResultError for a class that was not judged.
        """
        return self._of_ladder(class_name, ax, draw_necessity)

    def spectra(self, ax: Axes | None = None, relative: bool = False) -> Axes:
        """Mean amplitude of every class over radius; `relative`: over the mean of all classes."""
        with self._axes(ax, (6.0, 3.2)) as axes:
            draw_spectra(axes, self._result, relative, legend=True)
        return axes

    def overview(self, ax: Axes | None = None, most: int = MAX_ROWS) -> Axes:
        """All classes, the worst first, with 95% intervals: verdict, what the class's orbits turn, and
        what their nulls turn; where no class was judged, TPR and FPR under the maps; of data alone, the
        gain over chance of the spectrum-only probe. At most `most` classes.

        Raises ResultError where there is nothing to show.
        """
        if self._result.of_data:
            return self._probed(ax, most)
        order = by_verdict(self._result)
        judged = any(item.best is not None for item in order)
        shown = order[:most]
        with self._axes(ax, (6.4, 1.0 + 0.22 * len(shown))) as axes:
            (_draw_turned if judged else _draw_rates)(axes, shown)
            _rows(axes, [item.class_name for item in shown], len(order))
        return axes

    def transfer(self, set_name: str, ax: Axes | None = None) -> Axes:
        """Recall of the classes at home and on the other set, those that lose most first.

        Raises ResultError where the set, or any other, was not given.
        """
        item = self._set(set_name)
        classes = sorted(item.by_class, key=lambda each: -each.drop)[: transfer_figures.MAX_ROWS]
        with self._axes(ax, (6.0, 1.4 + 0.24 * len(classes))) as axes:
            transfer_figures.draw_recall(axes, classes, item.set.name)
            sns.despine(ax=axes)
        return axes

    def corruptions(self, ax: Axes | None = None) -> Axes:
        """Recall that each class loses under each corruption, those that lose most first.

        Raises ResultError where none were tried.
        """
        finding = self._corruptions()
        height = 1.5 + 0.24 * min(corruption_figures.MAX_ROWS, len(finding.by_class))
        with self._axes(ax, (9.6, height)) as axes:
            corruption_figures.draw_drops(axes, finding)
        return axes

    def _of_class(
        self,
        class_name: str,
        ax: Axes | None,
        draw: Callable[[Axes, AuditResult, str], None],
        size: tuple[float, float],
    ) -> Axes:
        result = self._result
        searched = result.class_names if result.of_data else _searched(result)
        self._check(class_name, searched)
        with self._axes(ax, size) as axes:
            draw(axes, result, class_name)
            _name(axes, class_name)
        return axes

    def _of_ladder(
        self, class_name: str, ax: Axes | None, draw: Callable[[Axes, ClassShortcut], None]
    ) -> Axes:
        items = {item.class_name: item for item in self._result.shortcuts.by_class}
        self._check(class_name, tuple(items))
        item = items[class_name]
        if not item.ladder:
            raise ResultError(f"Class {class_name!r} was not judged: {item.reason}.")
        with self._axes(ax, _WIDE) as axes:
            draw(axes, item)
            _name(axes, class_name)
        return axes

    def _check(self, class_name: str, known: tuple[str, ...]) -> None:
        """Raise ResultError, with names that are near, unless `class_name` is among `known`."""
        if class_name in known:
            return
        if class_name in self._result.class_names:
            raise ResultError(
                f"Class {class_name!r} was not searched.", f"Searched were: {_listed(known)}."
            )
        raise ResultError(f"There is no class {class_name!r}.", _near(class_name, known))

    def _set(self, name: str) -> SetTransfer:
        finding = self._result.transfer
        if finding is None:
            raise ResultError(
                "No other set was part of this audit.", "Give one with `shortcut-audit audit --ood`."
            )
        sets = {item.set.name: item for item in finding.by_set}
        if name not in sets:
            raise ResultError(f"There is no other set {name!r}.", _near(name, tuple(sets)))
        return sets[name]

    def _corruptions(self) -> CorruptionsFinding:
        finding = self._result.corruptions
        if finding is None:
            raise ResultError(
                "No corruptions were tried in this audit.",
                "Ask for some with `shortcut-audit audit --shift`.",
            )
        return finding

    def _probed(self, ax: Axes | None, most: int) -> Axes:
        probe = self._result.spectrum_probe
        if not probe.results:
            raise ResultError(f"The spectrum-only probe has no results: {probe.reason}.")
        whole: ProbeResult = probe.results[0]
        scores = zip(self._result.class_names, whole.by_class, strict=True)
        shown = sorted(scores, key=lambda pair: -pair[1].over_chance)[:most]
        with self._axes(ax, (6.4, 1.0 + 0.22 * len(shown))) as axes:
            colour = sns.color_palette("colorblind")[0]
            for row, (_, score) in enumerate(shown):
                _dot(axes, row, score.over_chance, (score.low, score.high), colour, "o")
            axes.set_xlabel("gain over chance of a linear classifier of amplitudes alone")
            _rows(axes, [name for name, _ in shown], len(whole.by_class))
        return axes

    @contextmanager
    def _axes(self, ax: Axes | None, size: tuple[float, float]) -> Iterator[Axes]:
        """The Axes to draw into: the caller's, in their style, or one of a new figure in ours."""
        if ax is not None:
            yield ax
            return
        with house_style():
            figure = self._new_figure(figsize=size, layout="constrained")
            try:
                axes = figure.add_subplot()
                _fix_ticks(axes)
                yield axes
            except BaseException:
                plt.close(figure)
                raise


def _fix_ticks(axes: Axes) -> None:
    """Ticks as they are set now: they are made when the figure is drawn, under other settings."""
    now: Any = mpl.rcParams
    for way in ("x", "y"):
        axes.tick_params(
            axis=way,
            length=now[f"{way}tick.major.size"],
            width=now[f"{way}tick.major.width"],
            labelsize=now[f"{way}tick.labelsize"],
            color=now[f"{way}tick.color"],
            labelcolor=now["text.color"],
            labelfontfamily=now["font.sans-serif"][0],
        )


def _searched(result: AuditResult) -> tuple[str, ...]:
    return tuple(item.class_name for item in result.dominant_frequencies.by_class)


def _near(name: str, known: tuple[str, ...]) -> str:
    """Names like `name`, or the first few where none is."""
    near = difflib.get_close_matches(name, known, n=_MAX_NEAR, cutoff=0.5)
    return f"Near it: {_listed(tuple(near))}." if near else f"There are: {_listed(known)}."


def _listed(names: tuple[str, ...]) -> str:
    named = ", ".join(repr(name) for name in names[:_MAX_NEAR])
    more = len(names) - _MAX_NEAR
    return f"{named} and {more} more" if more > 0 else named


def _name(axes: Axes, class_name: str) -> None:
    """Put the class in front of a title that does not say whose picture it is."""
    # Two lines: long names and long titles do not fit beside each other.
    axes.set_title(f"“{plain_label(class_name)}”\n{axes.get_title()}", y=1.0)


def _rows(axes: Axes, names: list[str], n_all: int) -> None:
    """One row a class, the first on top; shares as percentages."""
    axes.set_yticks(range(len(names)), [plain_label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvline(0, color="0.3", linewidth=0.6)
    which = "All classes" if len(names) == n_all else f"The worst {len(names)} of {n_all:,} classes"
    axes.set_title(f"{which}, with 95% intervals")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=axes, left=True)


def _dot(
    axes: Axes,
    row: float,
    value: float,
    interval: tuple[float, float],
    colour: Any,
    marker: str,
    filled: bool = True,
) -> None:
    axes.plot(interval, [row, row], color=colour, linewidth=1.1, zorder=2)
    axes.scatter(
        [value],
        [row],
        marker=marker,
        s=22,
        facecolors=[colour if filled else "white"],
        edgecolors=[colour],
        linewidths=0.9,
        zorder=3,
    )


def _draw_turned(axes: Axes, items: list[ClassShortcut]) -> None:
    """What the best rung of each class turns, by verdict, and the strongest of its nulls."""
    colours = sns.color_palette("colorblind")
    for row, item in enumerate(items):
        if item.best is None:
            continue
        number, marker = _VERDICT_STYLES[item.verdict]
        pair: Paired = item.best.flips
        _dot(axes, row, item.best.flip_rate, pair.interval, colours[number], marker)
        nulls = nulls_of(item)
        if nulls:
            axes.scatter([max(nulls)], [row], marker="|", s=60, color="0.2", linewidths=1.2, zorder=4)
    for verdict in VERDICTS:
        number, marker = _VERDICT_STYLES[verdict]
        if any(item.verdict == verdict and item.best is not None for item in items):
            axes.scatter([], [], marker=marker, s=22, color=[colours[number]], label=verdict)
    if any(nulls_of(item) for item in items):
        axes.scatter([], [], marker="|", s=60, color="0.2", label="strongest null")
    axes.set_xlabel("other images turned into the class, best rung")


def _draw_rates(axes: Axes, items: list[ClassShortcut]) -> None:
    """Own and other images called by the class when only its map is kept."""
    colours = sns.color_palette("colorblind")
    told: list[tuple[str, Callable[[ClassShortcut], Rate], int, float]] = [
        ("of the class's images (TPR)", lambda item: item.tpr_kept, 0, -0.14),
        ("of other images (FPR)", lambda item: item.fpr_kept, 1, 0.14),
    ]
    for label, rate_of, number, aside in told:
        marker = "s" if number else "o"
        for row, item in enumerate(items):
            rate = rate_of(item)
            if rate.value is not None:
                ends = (rate.low, rate.high)
                _dot(axes, row + aside, rate.value, ends, colours[number], marker, filled=not number)
        axes.scatter(
            [],
            [],
            marker=marker,
            s=22,
            facecolors="white" if number else [colours[number]],
            edgecolors=[colours[number]],
            label=label,
        )
    axes.set_xlabel("called by the class when only its map is kept")
