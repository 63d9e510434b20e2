"""Figures of a result, as matplotlib figures and as PNG bytes that do not change from run to run."""

from __future__ import annotations

import base64
import io
import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg", force=False)

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from shortcut_audit.report.summary import importance_words
from shortcut_audit.results.audit_result import AuditResult

__all__ = [
    "LARGE",
    "class_figure",
    "data_class_figure",
    "full_plane",
    "image_uri",
    "map_bytes",
    "mean_spectra_figure",
    "picture_uri",
    "png_bytes",
]

# Pixels of a side from which an image is shown smooth, and not lossless.
LARGE = 128
# A page has six pictures a class: those with much detail are kept with less of it.
_QUALITIES, _ENOUGH_BYTES = (80, 60, 40), 8_000

# Blue against red with a pale middle: colour-blind safe, and zero reads as nothing.
_SIGNED = "vlag"


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
    sns.set_theme(style="ticks", context="paper", font_scale=0.9)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.9), layout="constrained")
    names = [item.class_name for item in result.dominant_frequencies.by_class]
    row = names.index(class_name)
    of_data = list(result.class_names).index(class_name)
    kept = result.arrays["dominant_frequencies/kept"][row].astype(bool)
    importance = result.importance(class_name)
    shared = result.dominant_frequencies.by_class[row].resolution.partition(":")[0]
    _draw_map(axes[0], result, importance, kept, "" if shared == "orbits" else f", by {shared}")
    _draw_adcs(axes[1], result, result.arrays["class_spectra/adcs"][of_data])
    _draw_radius(axes[2], result, importance, kept)
    return figure


def _extent(result: AuditResult) -> tuple[float, float, float, float]:
    height, width = result.grid.height, result.grid.width
    left, top = -(width // 2) - 0.5, -(height // 2) - 0.5
    return (left, left + width, top + height, top)


def _draw_map(
    axes: Axes,
    result: AuditResult,
    importance: NDArray[np.float32],
    kept: NDArray[np.bool_],
    shared: str,
) -> None:
    shown = importance.astype(float).copy()
    # DC is another thing altogether (the mean colour) and would drown all waves.
    shown[0] = np.nan
    limit = float(np.nanpercentile(np.abs(shown), 99.5)) or 1.0
    image = axes.imshow(
        full_plane(result, shown),
        extent=_extent(result),
        cmap=_SIGNED,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
        aspect="auto" if result.grid.height != result.grid.width else "equal",
    )
    u, v = result.arrays["orbits/u"][kept], result.arrays["orbits/v"][kept]
    both = np.concatenate([np.stack([v, u]), np.stack([-v, -u])], axis=1)
    # The Nyquist line is drawn once, on the negative side, as fftshift puts it.
    shape = np.array([[result.grid.width], [result.grid.height]])
    both = (both + shape // 2) % shape - shape // 2
    # Rings on a coarse grid; on a fine one they would hide the map, so each orbit gets a speck.
    coarse = max(result.grid.height, result.grid.width) <= 96
    axes.scatter(
        both[0],
        both[1],
        s=500 / max(result.grid.height, result.grid.width) if coarse else 0.5,
        facecolors="none" if coarse else "black",
        edgecolors="black" if coarse else "none",
        linewidths=0.6 if coarse else 0,
        alpha=1.0 if coarse else 0.5,
    )
    axes.set(
        title=f"Importance ({'rings' if coarse else 'dots'}: the map{shared})",
        xlabel="v (cycles/width)",
        ylabel="u (cycles/height)",
    )
    _colour_bar(axes, image, importance_words(result))


def _draw_adcs(axes: Axes, result: AuditResult, adcs: NDArray[np.int32]) -> None:
    limit = max(1, len(result.class_names) - 1)
    image = axes.imshow(
        full_plane(result, adcs.astype(float)),
        extent=_extent(result),
        cmap=_SIGNED,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
        aspect="auto" if result.grid.height != result.grid.width else "equal",
    )
    axes.set(title="Data: amplitude against other classes", xlabel="v (cycles/width)")
    _colour_bar(axes, image, "ADCS")


def _colour_bar(axes: Axes, image: Any, label: str) -> None:
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.85)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _draw_radius(
    axes: Axes, result: AuditResult, importance: NDArray[np.float32], kept: NDArray[np.bool_]
) -> None:
    radius = result.arrays["orbits/radius"]
    waves = radius > 0
    colours = sns.color_palette("colorblind")
    axes.scatter(
        radius[waves & ~kept],
        importance[waves & ~kept],
        s=4,
        color="0.6",
        linewidths=0,
        label="other orbits",
        rasterized=True,
    )
    shown = waves & kept
    axes.scatter(radius[shown], importance[shown], s=10, color=colours[3], linewidths=0, label="the map")
    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.set(
        title="Importance over radius",
        xlabel="radius (cycles/image)",
        ylabel=importance_words(result),
    )
    axes.legend(frameon=False, fontsize=7, loc="best")
    sns.despine(ax=axes)


def mean_spectra_figure(result: AuditResult) -> Figure:
    """Mean amplitude of every class over radius, and each class's against the mean of all."""
    sns.set_theme(style="ticks", context="paper", font_scale=0.9)
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained")
    radius = np.rint(result.arrays["orbits/radius"]).astype(int)
    rings = np.arange(1, radius.max() + 1)
    amplitude = result.arrays["class_spectra/amplitude"].astype(float)
    mean = np.stack([amplitude[:, radius == ring].mean(axis=1) for ring in rings], axis=1)
    named = {item.class_name for item in result.invitations.items}
    colours = iter(sns.color_palette("colorblind"))
    reference = np.exp(np.log(np.maximum(mean, 1e-12)).mean(axis=0))
    for index, name in enumerate(result.class_names):
        few = len(result.class_names) <= 10
        colour = next(colours, None) if few or name in named else None
        style = {"color": colour, "linewidth": 1.4} if colour else {"color": "0.75", "linewidth": 0.7}
        label = _plain(name) if colour else None
        axes[0].loglog(rings, np.maximum(mean[index], 1e-12), label=label, **style)
        axes[1].plot(rings, np.maximum(mean[index], 1e-12) / reference, label=label, **style)
    axes[0].set(title="Mean amplitude", xlabel="radius (cycles/image)", ylabel="|F|")
    axes[1].set(
        title="Against the geometric mean of all classes", xlabel="radius (cycles/image)", ylabel="ratio"
    )
    axes[1].axhline(1, color="0.3", linewidth=0.6)
    _log_where_wide(axes[1], np.maximum(mean, 1e-12) / reference)
    for each in axes:
        sns.despine(ax=each)
    if axes[1].get_legend_handles_labels()[0]:
        axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _plain(name: str) -> str:
    """A class name as a label: no formula, no hidden entry of a legend, and not too long."""
    text = name if len(name) <= 24 else f"{name[:23]}…"
    # matplotlib takes $...$ for a formula, and leaves out what begins with an underscore.
    return f" {text}".replace("$", r"\$")


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
    sns.set_theme(style="ticks", context="paper", font_scale=0.9)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.9), layout="constrained")
    index = list(result.class_names).index(class_name)
    z = result.arrays["invitations/z"][index].astype(float)
    limit = 2 * result.invitations.threshold
    image = axes[0].imshow(
        full_plane(result, z),
        extent=_extent(result),
        cmap=_SIGNED,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
        aspect="auto" if result.grid.height != result.grid.width else "equal",
    )
    axes[0].set(
        title="Standing out from surroundings", xlabel="v (cycles/width)", ylabel="u (cycles/height)"
    )
    _colour_bar(axes[0], image, "z")
    _draw_adcs(axes[1], result, result.arrays["class_spectra/adcs"][index])
    _draw_z(axes[2], result, z)
    return figure


def _draw_z(axes: Axes, result: AuditResult, z: NDArray[np.float64]) -> None:
    radius = result.arrays["orbits/radius"]
    colours = sns.color_palette("colorblind")
    beyond = z >= result.invitations.threshold
    axes.scatter(radius[~beyond], z[~beyond], s=4, color="0.6", linewidths=0, rasterized=True)
    axes.scatter(radius[beyond], z[beyond], s=10, color=colours[3], linewidths=0)
    axes.axhline(result.invitations.threshold, color=colours[3], linewidth=0.8, linestyle="--")
    # A strong plant is a hundred standard errors high; the rest should stay visible below it.
    threshold = result.invitations.threshold
    axes.set_yscale("symlog", linthresh=threshold)
    ticks = [-30, -10, -threshold / 2, 0, threshold / 2, 10, 30, 100, 300]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_ylim(min(-threshold, z.min() * 1.1), max(2 * threshold, z.max() * 1.2))
    axes.set(title="Orbits; dashed: named above", xlabel="radius (cycles/image)", ylabel="z")
    sns.despine(ax=axes)


def image_uri(content: bytes, kind: str) -> str:
    """An image file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(image: NDArray[np.uint8]) -> str:
    """A (C, H, W) image as a data URI: lossless where it is small, WebP where that saves room."""
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    stream = io.BytesIO()
    if image.shape[-1] < LARGE:
        picture.save(stream, format="PNG", optimize=True)
        return image_uri(stream.getvalue(), "png")
    for quality in _QUALITIES:
        stream = io.BytesIO()
        picture.save(stream, format="WEBP", quality=quality, method=4)
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
    stream, small = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font lacks become boxes; the page's own text has them.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing")
        figure.savefig(stream, format="png", dpi=dpi)
    plt.close(figure)
    with Image.open(stream) as picture:
        # A third of the size, for colours that differ less than an eye can tell.
        few = picture.convert("RGB").quantize(n_colours, dither=Image.Dither.NONE)
    few.save(small, format="png", optimize=True)
    return small.getvalue()
