"""Figures of a result: what is drawn into an Axes, the page's figures, and PNG bytes that do not change
from run to run.

Every picture is made by a function `draw_...` that takes the Axes to draw into. The page's figures put
several of them side by side, at fixed places: to find places by drawing once takes longer than the
picture. matplotlib's settings, backend and open figures are left as found.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from shortcut_audit.report.summary import importance_words
from shortcut_audit.results.audit_result import AuditResult

__all__ = [
    "LARGE",
    "class_figure",
    "data_class_figure",
    "draw_adcs",
    "draw_map",
    "draw_radius",
    "draw_spectra",
    "draw_z_map",
    "draw_z_over_radius",
    "full_plane",
    "house_style",
    "image_uri",
    "map_bytes",
    "mean_spectra_figure",
    "picture_uri",
    "plain_label",
    "png_bytes",
]

# Pixels of a side from which an image is shown smooth, and not lossless.
LARGE = 128
# A page has six pictures a class: those with much detail are kept with less of it.
_ENOUGH_BYTES = 5_000
# Pixels of the longer side (None: all of them) and quality, the first that is small enough.
_WHOLE = ((None, 80), (None, 60), (None, 40), (None, 30))
_SHRINKING = ((None, 80), (None, 60), (160, 60), (160, 40), (128, 40))

# Blue against red with a pale middle: colour-blind safe, and zero reads as nothing.
_SIGNED = "vlag"
# More dots than this are a picture in SVG and PDF, too.
_MANY_DOTS = 300
_MAX_LABEL = 24
# Inches of the figures of one class: left edges of its three panels, their foot, side and width.
_CLASS_SIZE = (9.6, 2.9)
_LEFT, _FOOT, _SIDE, _WIDTH_OF_LAST = (0.62, 3.95, 7.44), 0.46, 2.12, 2.1
# Cells of a side that a panel of a page shows one by one.
_MAX_CELLS = 75
# Sides of a grid from which single orbits are too small for rings around them.
_FINE = 96


@contextmanager
def house_style() -> Iterator[None]:
    """Draw as all of our pictures are drawn, whatever the user's settings are; these come back after."""
    settings: Any = _house_settings()
    with mpl.rc_context(settings):
        yield


@cache
def _house_settings() -> dict[str, Any]:
    """matplotlib's own settings with seaborn's ticks, for paper."""
    # The backend belongs to the session. Its own font, which comes with it: the same on every machine.
    own = {
        name: value
        for name, value in mpl.rcParamsDefault.items()
        if not name.startswith("backend") and name != "interactive"
    }
    return {
        **own,
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper", font_scale=0.9),
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "svg.fonttype": "none",
        "svg.hashsalt": "shortcut-audit",
        "pdf.fonttype": 42,
    }


def full_plane(result: AuditResult, values: NDArray[Any]) -> NDArray[Any]:
    """Spread values per orbit (n_orbits,) over the centred full plane, (H, W), DC in the middle."""
    height, width = result.grid.height, result.grid.width
    u, v = result.arrays["orbits/u"], result.arrays["orbits/v"]
    plane = np.zeros((height, width), dtype=np.asarray(values).dtype)
    plane[u % height, v % width] = values
    plane[-u % height, -v % width] = values
    return np.fft.fftshift(plane)


def class_figure(result: AuditResult, class_name: str) -> Figure:
    """One class: its map, its place among the class spectra (ADCS), and importance over radius."""
    with house_style():
        figure, axes, bars = _three_panels()
        # On the few dots of a page cells of a fine grid would be noise, to eyes and to PNG.
        blocks = math.ceil(max(result.grid.height, result.grid.width) / _MAX_CELLS)
        draw_map(axes[0], result, class_name, bars[0], blocks)
        draw_adcs(axes[1], result, class_name, bars[1], blocks)
        axes[1].set_ylabel("")
        draw_radius(axes[2], result, class_name)
    return figure


def _three_panels() -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure of two square panels, each with an Axes for its colour bar, and a third panel."""
    figure = Figure(figsize=_CLASS_SIZE)
    width, height = _CLASS_SIZE
    wide = (_SIDE, _SIDE, _WIDTH_OF_LAST)
    axes = [
        figure.add_axes((left / width, _FOOT / height, across / width, _SIDE / height))
        for left, across in zip(_LEFT, wide, strict=True)
    ]
    # As high as the panel would look heavy beside it.
    low, tall = _FOOT + 0.08 * _SIDE, 0.84 * _SIDE
    bars = [
        figure.add_axes(((left + _SIDE + 0.09) / width, low / height, 0.09 / width, tall / height))
        for left in _LEFT[:2]
    ]
    return figure, axes, bars


def _entitle(axes: Axes, title: str) -> None:
    # At its own height: a title that looks for room has every label of the panel measured first.
    axes.set_title(title, y=1.0)


def _plane(
    axes: Axes,
    result: AuditResult,
    values: NDArray[Any],
    limit: float | None,
    label: str,
    bar: Axes | None,
    blocks: int,
) -> None:
    """Signed values of orbits (n_orbits,) over the plane, with a colour bar in or beside its Axes.

    `limit`: value of the full colour, None for the largest but 0.5%; `blocks`: cells of a side whose
    mean is shown as one.
    """
    height, width = result.grid.height, result.grid.width
    left, top = -(width // 2) - 0.5, -(height // 2) - 0.5
    plane = full_plane(result, values)
    if blocks > 1:
        plane = _means_of(plane, blocks)
    if limit is None:
        limit = float(np.nanpercentile(np.abs(plane), 99.5)) or 1.0
    image = axes.imshow(
        plane,
        extent=(left, left + blocks * plane.shape[1], top + blocks * plane.shape[0], top),
        cmap=_SIGNED,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
        aspect="auto" if height != width else "equal",
    )
    axes.set(xlabel="v (cycles/width)", ylabel="u (cycles/height)")
    drawn = (
        axes.figure.colorbar(image, ax=axes, shrink=0.85)
        if bar is None
        else axes.figure.colorbar(image, cax=bar)
    )
    drawn.set_label(label)
    drawn.outline.set_visible(False)
    # Small numbers share their power of ten: labels of any length would not fit.
    bar_formatter: Any = drawn.formatter
    bar_formatter.set_powerlimits((-1, 3))


def _means_of(plane: NDArray[Any], side: int) -> NDArray[Any]:
    """Means of blocks of `side` x `side` cells, of those at the far edges as many as there are."""
    rows, columns = (-n % side for n in plane.shape)
    padded = np.pad(plane.astype(float), ((0, rows), (0, columns)), constant_values=np.nan)
    shape = (padded.shape[0] // side, side, padded.shape[1] // side, side)
    means: NDArray[Any] = np.nanmean(padded.reshape(shape), axis=(1, 3))
    return means


def _map_of(result: AuditResult, class_name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_], str]:
    """Importance and kept orbits of a class's map, both (n_orbits,), and what shares a value."""
    importance = result.importance(class_name)
    finding = result.dominant_frequencies
    row = [item.class_name for item in finding.by_class].index(class_name)
    kept = result.arrays["dominant_frequencies/kept"][row].astype(bool)
    return importance, kept, finding.by_class[row].resolution.partition(":")[0]


def draw_map(
    axes: Axes, result: AuditResult, class_name: str, bar: Axes | None = None, blocks: int = 1
) -> None:
    """Importance of every orbit for the class, with its map marked; `bar`: Axes of the colour bar,
    `blocks`: cells of a side that are shown as one."""
    importance, kept, shared = _map_of(result, class_name)
    shown = importance.astype(float).copy()
    # DC is another thing altogether (the mean colour) and would drown all waves.
    shown[0] = np.nan
    _plane(axes, result, shown, None, importance_words(result), bar, blocks)
    u, v = result.arrays["orbits/u"][kept], result.arrays["orbits/v"][kept]
    both = np.concatenate([np.stack([v, u]), np.stack([-v, -u])], axis=1)
    # The Nyquist line is drawn once, on the negative side, as fftshift puts it.
    shape = np.array([[result.grid.width], [result.grid.height]])
    both = (both + shape // 2) % shape - shape // 2
    # Rings on a coarse grid; on a fine one they would hide the map, so each orbit gets a speck.
    side = max(result.grid.height, result.grid.width)
    coarse = side <= _FINE
    axes.scatter(
        both[0],
        both[1],
        s=500 / side if coarse else 0.5,
        facecolors="none" if coarse else "black",
        edgecolors="black" if coarse else "none",
        linewidths=0.6 if coarse else 0,
        alpha=1.0 if coarse else 0.5,
        rasterized=both.shape[1] > _MANY_DOTS,
    )
    by = "" if shared == "orbits" else f", by {shared}"
    _entitle(axes, f"Importance ({'rings' if coarse else 'dots'}: the map{by})")


def draw_adcs(
    axes: Axes, result: AuditResult, class_name: str, bar: Axes | None = None, blocks: int = 1
) -> None:
    """How many classes have less amplitude than the class at each orbit, less those with more (ADCS)."""
    adcs = result.arrays["class_spectra/adcs"][list(result.class_names).index(class_name)]
    limit = max(1, len(result.class_names) - 1)
    _plane(axes, result, adcs.astype(float), limit, "ADCS", bar, blocks)
    _entitle(axes, "Data: amplitude against other classes")


def draw_radius(axes: Axes, result: AuditResult, class_name: str) -> None:
    """Importance of every orbit but DC over its radius, the class's map in colour."""
    importance, kept, _ = _map_of(result, class_name)
    radius = result.arrays["orbits/radius"]
    rest, shown = (radius > 0) & ~kept, (radius > 0) & kept
    colours = sns.color_palette("colorblind")
    axes.scatter(
        radius[rest],
        importance[rest],
        s=4,
        color="0.6",
        linewidths=0,
        label="other orbits",
        rasterized=True,
    )
    axes.scatter(
        radius[shown],
        importance[shown],
        s=10,
        color=colours[3],
        linewidths=0,
        label="the map",
        rasterized=int(shown.sum()) > _MANY_DOTS,
    )
    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.set(xlabel="radius (cycles/image)", ylabel=importance_words(result))
    _entitle(axes, "Importance over radius")
    axes.ticklabel_format(axis="y", scilimits=(-2, 4))
    # Waves that matter are low ones and stand high: nothing but dots near zero is up on the right.
    axes.legend(frameon=False, fontsize=7, loc="upper right")
    sns.despine(ax=axes)


def mean_spectra_figure(result: AuditResult) -> Figure:
    """Mean amplitude of every class over radius, and each class's against the mean of all."""
    with house_style():
        figure = Figure(figsize=(9.6, 3.2))
        left = figure.add_axes((0.09, 0.15, 0.31, 0.75))
        right = figure.add_axes((0.475, 0.15, 0.295, 0.75))
        draw_spectra(left, result)
        draw_spectra(right, result, relative=True, legend=True)
    return figure


def draw_spectra(axes: Axes, result: AuditResult, relative: bool = False, legend: bool = False) -> None:
    """Mean amplitude of every class over radius; `relative`: over the geometric mean of all classes.

    Of more than ten classes those that invite a shortcut are in colour, the others grey.
    """
    radius = np.rint(result.arrays["orbits/radius"]).astype(int)
    rings = np.arange(1, radius.max() + 1)
    amplitude = result.arrays["class_spectra/amplitude"].astype(float)
    mean = np.stack([amplitude[:, radius == ring].mean(axis=1) for ring in rings], axis=1)
    mean = np.maximum(mean, 1e-12)
    if relative:
        mean = mean / np.exp(np.log(mean).mean(axis=0))
    named = {item.class_name for item in result.invitations.items} if result.of_data else set()
    few = len(result.class_names) <= 10
    colours = iter(sns.color_palette("colorblind"))
    for name, values in zip(result.class_names, mean, strict=True):
        colour = next(colours, None) if few or name in named else None
        style = {"color": colour, "linewidth": 1.4} if colour else {"color": "0.75", "linewidth": 0.7}
        # Legends leave out what begins with an underscore.
        label = f" {plain_label(name)}" if colour else None
        axes.plot(rings, values, label=label, **style)
    axes.set_xlabel("radius (cycles/image)")
    if relative:
        axes.axhline(1, color="0.3", linewidth=0.6)
        _log_where_wide(axes, mean)
        axes.set_ylabel("ratio")
    else:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylabel("|F|")
    _entitle(axes, "Against the geometric mean of all classes" if relative else "Mean amplitude")
    sns.despine(ax=axes)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def plain_label(name: str, most: int = _MAX_LABEL) -> str:
    """A class name as a label: no formula, no line breaks, and not too long."""
    text = name if len(name) <= most else f"{name[: most - 1]}…"
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    # matplotlib takes $...$ for a formula.
    return text.replace("$", r"\$")


def _log_where_wide(axes: Axes, ratio: NDArray[np.float64]) -> None:
    """A log axis with plain numbers, where ratios go further than a linear one can show."""
    if ratio.max() < 3 and ratio.min() > 0.3:
        return
    axes.set_yscale("log")
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if ratio.min() <= t <= ratio.max()]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def data_class_figure(result: AuditResult, class_name: str) -> Figure:
    """One class before any model: how far orbits stand out, over the plane and over radius, and ADCS."""
    with house_style():
        figure, axes, bars = _three_panels()
        draw_z_map(axes[0], result, class_name, bars[0])
        draw_adcs(axes[1], result, class_name, bars[1])
        axes[1].set_ylabel("")
        draw_z_over_radius(axes[2], result, class_name)
    return figure


def draw_z_map(axes: Axes, result: AuditResult, class_name: str, bar: Axes | None = None) -> None:
    """How far each orbit of the class stands out from its surroundings, against other classes (z)."""
    z = _z_of(result, class_name)
    _plane(axes, result, z, 2 * result.invitations.threshold, "z", bar, 1)
    _entitle(axes, "Standing out from surroundings")


def _z_of(result: AuditResult, class_name: str) -> NDArray[np.float64]:
    z: NDArray[np.float64] = result.arrays["invitations/z"][
        list(result.class_names).index(class_name)
    ].astype(float)
    return z


def draw_z_over_radius(axes: Axes, result: AuditResult, class_name: str) -> None:
    """The same over radius; the dashed line is what an orbit has to pass to be named."""
    z = _z_of(result, class_name)
    radius = result.arrays["orbits/radius"]
    colours = sns.color_palette("colorblind")
    threshold = result.invitations.threshold
    beyond = z >= threshold
    axes.scatter(radius[~beyond], z[~beyond], s=4, color="0.6", linewidths=0, rasterized=True)
    axes.scatter(radius[beyond], z[beyond], s=10, color=colours[3], linewidths=0)
    axes.axhline(threshold, color=colours[3], linewidth=0.8, linestyle="--")
    # A strong plant is a hundred standard errors high; the rest should stay visible below it.
    axes.set_yscale("symlog", linthresh=threshold)
    ticks = [-30, -10, -threshold / 2, 0, threshold / 2, 10, 30, 100, 300]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_ylim(min(-threshold, z.min() * 1.1), max(2 * threshold, z.max() * 1.2))
    axes.set(xlabel="radius (cycles/image)", ylabel="z")
    _entitle(axes, "Orbits; dashed: named above")
    sns.despine(ax=axes)


def image_uri(content: bytes, kind: str) -> str:
    """An image file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(image: NDArray[np.uint8], shrink: bool = True) -> str:
    """A (C, H, W) image as a data URI: lossless where it is small, else WebP of a few kilobytes.

    `shrink`: what is still heavy at lower quality may have fewer pixels, as many as a page shows.
    """
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    stream = io.BytesIO()
    if image.shape[-1] < LARGE:
        picture.save(stream, format="PNG", optimize=True)
        return image_uri(stream.getvalue(), "png")
    for side, quality in _SHRINKING if shrink else _WHOLE:
        scale = min(1.0, (side or max(picture.size)) / max(picture.size))
        width, height = (max(1, round(scale * pixels)) for pixels in picture.size)
        stream = io.BytesIO()
        smaller = picture if scale == 1 else picture.resize((width, height), Image.Resampling.LANCZOS)
        smaller.save(stream, format="WEBP", quality=quality, method=4)
        if stream.tell() <= _ENOUGH_BYTES:
            break
    return image_uri(stream.getvalue(), "webp")


def map_bytes(result: AuditResult, class_name: str) -> bytes:
    """The class's figure as PNG; a fine grid is noise to PNG, and gets fewer dots and colours."""
    figure = class_figure(result, class_name)
    if max(result.grid.height, result.grid.width) < LARGE:
        return png_bytes(figure)
    return png_bytes(figure, dpi=80, n_colours=64)


def png_bytes(figure: Figure, dpi: int = 110, n_colours: int = 256) -> bytes:
    """The figure as PNG of few colours, without a date or version in it; the figure is closed."""
    small = io.BytesIO()
    with house_style(), warnings.catch_warnings():
        # Letters that the font lacks become boxes; the page's own text has them.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing")
        # Drawn straight to pixels: savefig would draw twice, and make a PNG to be read again.
        figure.set_dpi(dpi)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    # A third of the size, for colours that differ less than an eye can tell.
    few = Image.fromarray(pixels).quantize(n_colours, dither=Image.Dither.NONE)
    few.save(small, format="PNG", optimize=True)
    return small.getvalue()
