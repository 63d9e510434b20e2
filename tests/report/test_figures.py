from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from judged import SHORTCUT
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from routes import audit_by

from shortcut_audit.report.figures import (
    class_figure,
    data_class_figure,
    full_plane,
    house_style,
    map_bytes,
    mean_spectra_figure,
    plain_label,
    png_bytes,
)
from shortcut_audit.report.verdict_figures import ladder_figure
from shortcut_audit.results.audit_result import AuditResult


def test_the_plane_is_centred_and_even(grey: AuditResult, hostile: AuditResult) -> None:
    for result in (grey, hostile):
        height, width = result.grid.height, result.grid.width
        values = np.arange(result.grid.n_orbits) + 1.0
        plane = full_plane(result, values)
        assert plane.shape == (height, width)
        assert plane[height // 2, width // 2] == values[0]
        unshifted = np.fft.ifftshift(plane)
        np.testing.assert_array_equal(unshifted, np.roll(np.flip(unshifted), (1, 1), axis=(0, 1)))
        for u, v, value in zip(result.arrays["orbits/u"], result.arrays["orbits/v"], values, strict=True):
            assert unshifted[u % height, v % width] == value


def test_rings_mark_the_map_and_lie_inside_the_plane(hostile: AuditResult) -> None:
    name = hostile.class_names[0]
    figure = class_figure(hostile, name)
    axes = figure.axes[0]
    marked = {(round(x), round(y)) for x, y in axes.collections[0].get_offsets()}
    kept = hostile.arrays["dominant_frequencies/kept"][0]
    height, width = hostile.grid.height, hostile.grid.width
    orbits = zip(hostile.arrays["orbits/u"][kept], hostile.arrays["orbits/v"][kept], strict=True)
    expected = set()
    for u, v in orbits:
        for a, b in ((u, v), (-u, -v)):
            shifted = (a + height // 2) % height - height // 2, (b + width // 2) % width - width // 2
            expected.add((int(shifted[1]), int(shifted[0])))
    assert marked == expected
    left, right, bottom, top = axes.images[0].get_extent()
    assert all(left < x < right and top < y < bottom for x, y in marked)
    plt.close(figure)


def test_pictures_are_the_same_bytes_each_time_and_figures_are_closed(grey: AuditResult) -> None:
    first, second = (png_bytes(class_figure(grey, grey.class_names[0])) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_maps_of_fine_grids_are_drawn_with_fewer_dots(
    grey: AuditResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = map_bytes(grey, grey.class_names[0])
    monkeypatch.setattr("shortcut_audit.report.figures.LARGE", 9)
    fine = map_bytes(grey, grey.class_names[0])
    widths = [Image.open(io.BytesIO(content)).width for content in (whole, fine)]
    assert widths == [1056, 768]
    assert plt.get_fignums() == []


def settings() -> dict[str, object]:
    return dict(mpl.rcParams)


def scaled(result: AuditResult, factor: float) -> AuditResult:
    """The result with all importances times `factor`."""
    arrays = {
        name: array * np.float32(factor) if "importance" in name else array
        for name, array in result.arrays.items()
    }
    return result.with_arrays(arrays)


def wide(result: AuditResult) -> AuditResult:
    """The result as if of a grid with numbers of three digits, at which labels are widest."""
    grid = result.grid.model_copy(update={"height": 224, "width": 224})
    return result.model_copy(update={"grid": grid}).with_arrays(result.arrays)


FIGURES: dict[str, Callable[[AuditResult, AuditResult], Figure]] = {
    "class": lambda model, _: class_figure(model, model.class_names[0]),
    "class, tiny numbers": lambda model, _: class_figure(scaled(model, -1.2e-6), model.class_names[0]),
    "class, huge numbers": lambda model, _: class_figure(scaled(model, 3.4e6), model.class_names[0]),
    "class, fine grid": lambda model, _: class_figure(wide(model), model.class_names[0]),
    "class, long unit": lambda *_: class_figure(audit_by("tiles"), "bee"),
    "data class": lambda _, data: data_class_figure(data, data.class_names[0]),
    "spectra": lambda _, data: mean_spectra_figure(data),
    "ladder": lambda model, _: ladder_figure(model.shortcuts.by_class[0].model_copy(update=SHORTCUT)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_word_lies_within_its_figure_and_on_no_other(
    name: str, hostile: AuditResult, hostile_data: AuditResult
) -> None:
    figure = FIGURES[name](hostile, hostile_data)
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing")
        png_bytes(figure)
        boxes = {
            text: text.get_window_extent()
            for text in set(figure.findobj(Text)) - unseen(figure)
            if text.get_visible() and text.get_text().strip()
        }
    assert len(boxes) > 10
    inside = figure.bbox
    for text, box in boxes.items():
        assert min(box.x0, box.y0, inside.x1 - box.x1, inside.y1 - box.y1) >= 0, text.get_text()
        for other, another in boxes.items():
            # A hair of overlap is the space around letters.
            over_x = min(box.x1, another.x1) - max(box.x0, another.x0)
            over_y = min(box.y1, another.y1) - max(box.y0, another.y0)
            assert other is text or over_x <= 2 or over_y <= 2, (text.get_text(), other.get_text())


def unseen(figure: Figure) -> set[Text]:
    """Labels of ticks beyond the ends of an axis, which nobody sees."""
    labels = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.majorTicks, *axis.minorTicks]:
            if not low <= tick.get_loc() <= high:
                labels |= {tick.label1, tick.label2}
    return labels


def test_settings_backend_and_open_figures_are_left_as_found(grey: AuditResult) -> None:
    mine = plt.figure()
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "black", "xtick.labelsize": 3}):
        before, backend = settings(), mpl.get_backend()
        content = map_bytes(grey, grey.class_names[0])
        assert settings() == before
        assert mpl.get_backend() == backend
        assert plt.get_fignums() == [mine.number]
    plt.close(mine)
    # Nor do the user's settings change what is drawn.
    assert content == map_bytes(grey, grey.class_names[0])


def test_what_is_dense_is_rasterised(grey: AuditResult, hostile: AuditResult) -> None:
    rest, shown = class_figure(grey, grey.class_names[0]).axes[2].collections
    assert rest.get_rasterized()
    assert not shown.get_rasterized()
    arrays = {**hostile.arrays}
    arrays["dominant_frequencies/kept"] = np.ones_like(arrays["dominant_frequencies/kept"])
    n = arrays["dominant_frequencies/kept"].shape[1]
    assert 2 * n < 300
    many = {
        name: np.concatenate([array] * 8, axis=-1)
        if array.shape[-1:] == (n,) and not name.startswith("shortcuts/")
        else array
        for name, array in arrays.items()
    }
    figure = class_figure(hostile.with_arrays(many), hostile.class_names[0])
    assert figure.axes[0].collections[0].get_rasterized()
    assert figure.axes[2].collections[1].get_rasterized()


def test_labels_are_one_short_line_without_formulas() -> None:
    assert plain_label("_hidden") == "_hidden"
    assert plain_label("$x$") == r"\$x\$"
    assert plain_label("a\nb\u202ec") == "a b c"
    assert len(plain_label("x" * 300)) == 24
