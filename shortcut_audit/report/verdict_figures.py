"""The tests of a class over its ladder, drawn: transplants with their nulls, necessity, sufficiency."""

from __future__ import annotations

from collections.abc import Sequence

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from shortcut_audit.report.figures import house_style
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.shortcut_findings import ClassShortcut, Rung
from shortcut_audit.results.tables import null_share

__all__ = ["draw_ladder", "draw_necessity", "ladder_figure"]

# What is drawn of a rung: share of the spectrum, value, lower and upper end of its 95% interval.
_Point = tuple[float, float, float, float]
# Factor on the share of the spectrum, by marker.
_ASIDE = {"s": 1.06, "P": 1.06, "^": 0.94}


def ladder_figure(item: ClassShortcut) -> Figure:
    """Transplants with their nulls over the share of the spectrum, and necessity and sufficiency.

    Raises ValueError for a class without a ladder.
    """
    with house_style():
        figure = Figure(figsize=(9.6, 2.9))
        # Fixed places, with room for the legends: see `shortcut_audit.report.figures`.
        draw_ladder(figure.add_axes((0.068, 0.155, 0.235, 0.745)), item)
        draw_necessity(figure.add_axes((0.573, 0.155, 0.215, 0.745)), item)
    return figure


def draw_ladder(axes: Axes, item: ClassShortcut) -> None:
    """Share of other images that transplants turn into the class, with nulls, over the share of the
    spectrum.

    Raises ValueError for a class without a ladder.
    """
    _check(item)
    colours = sns.color_palette("colorblind")
    for rings in (False, True):
        rungs = [rung for rung in item.ladder if (rung.ring is not None) == rings]
        what = "a ring of radii" if rings else "its orbits"
        of_own = [(r.share, r.flip_rate, *r.flips.interval) for r in rungs]
        _draw(axes, of_own, what, colours[0], "D" if rings else "o", "none" if rings else "-")
        foreign = _nulls(rungs, [rung.flips_over_foreign for rung in rungs])
        what = "same ring, other images" if rings else "same orbits, other images"
        _draw(axes, foreign, what, colours[1], "P" if rings else "s", "none" if rings else "--")
        random = _nulls(rungs, [rung.flips_over_random for rung in rungs])
        _draw(axes, random, "random orbits, same radii", colours[2], "^", ":")
    best = item.best
    if best is not None:
        axes.scatter(
            [best.share],
            [best.flip_rate],
            s=110,
            facecolors="none",
            edgecolors="0.2",
            linewidths=0.9,
            label="best rung",
        )
    axes.set_title("Transplant: other images turned into the class", y=1.0)
    axes.set_ylabel("of other images")
    _dress(axes, item.ladder)


def _check(item: ClassShortcut) -> None:
    if not item.ladder:
        raise ValueError(f"{item.class_name!r} has no ladder")


def _nulls(rungs: Sequence[Rung], nulls: Sequence[Paired | None]) -> list[_Point]:
    """What nulls turned: called under the null, less as they are; the latter taken as given."""
    points = []
    for rung, null in zip(rungs, nulls, strict=True):
        share = null_share(rung, null)
        if null is not None and share is not None:
            before = rung.flips.second.value or 0.0
            points.append((rung.share, share, null.second.low - before, null.second.high - before))
    return points


def draw_necessity(axes: Axes, item: ClassShortcut) -> None:
    """Fall of the class's accuracy without the orbits, and J with nothing else, over the share.

    Raises ValueError for a class without a ladder.
    """
    _check(item)
    colours = sns.color_palette("colorblind")
    for rings in (False, True):
        rungs = [rung for rung in item.ladder if (rung.ring is not None) == rings]
        lost = [(r.share, r.losses.difference, *r.losses.interval) for r in rungs if r.losses is not None]
        what = "necessity: a ring removed" if rings else "necessity: removed"
        _draw(axes, lost, what, colours[3], "D" if rings else "o", "none" if rings else "-")
    _draw(axes, _random_losses(item), "random ones removed", colours[2], "^", ":")
    # J is a difference of two samples; its interval is not part of the result.
    kept = [(r.share, j, j, j) for r in item.ladder if (j := r.sufficiency) is not None]
    _draw(axes, kept, "sufficiency: J, only these kept", colours[4], "s", "--")
    axes.set_title("Without them, and with nothing else", y=1.0)
    axes.set_ylabel("fall of accuracy; J")
    _dress(axes, item.ladder)


def _random_losses(item: ClassShortcut) -> list[_Point]:
    points = []
    for rung in item.ladder:
        if rung.losses is not None and rung.losses_over_random is not None:
            clean = rung.losses.first.value or 0.0
            left = rung.losses_over_random.first
            points.append((rung.share, clean - (left.value or 0.0), clean - left.high, clean - left.low))
    return points


def _draw(
    axes: Axes, points: Sequence[_Point], label: str, colour: object, marker: str, line: str
) -> None:
    """One series with its intervals; told by marker and line as well as by colour."""
    if not points:
        return
    shares, value, low, high = zip(*sorted(points), strict=True)
    # Beside each other rather than on top, where they are of the same rung.
    share = [each * _ASIDE.get(marker, 1.0) for each in shares]
    below = [max(v - end, 0.0) for v, end in zip(value, low, strict=True)]
    above = [max(end - v, 0.0) for v, end in zip(value, high, strict=True)]
    axes.errorbar(
        share,
        value,
        yerr=[below, above] if any(below) or any(above) else None,
        label=label,
        color=colour,
        marker=marker,
        markersize=4.5,
        markerfacecolor="none" if marker in "DP" else colour,
        linestyle=line,
        linewidth=1.2,
        elinewidth=0.7,
        capsize=2,
    )


def _dress(axes: Axes, ladder: Sequence[Rung]) -> None:
    shares = [rung.share for rung in ladder]
    axes.set_xscale("log")
    axes.set_xlim(min(shares) / 1.5, max(shares) * 1.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axhline(0, color="0.3", linewidth=0.6)
    # Nothing much should look like nothing much.
    low, high = axes.get_ylim()
    axes.set_ylim(max(min(low, -0.05), -1.05), min(max(high, 0.25), 1.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("share of the spectrum")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=axes)
