from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from shortcut_audit.report.figures import class_figure, full_plane, map_bytes, png_bytes
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
