from __future__ import annotations

import numpy as np
import pytest

from shortcut_audit.fourier.cells import SpectrumCells
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.contrasts import ClassContrast
from shortcut_audit.measures.ring_contrasts import RingWindow, contrast_of_rings, ring_windows

GRID = FrequencyGrid(32, 32)
CELLS = SpectrumCells(GRID, 16, 1)
NOTHING = np.zeros(GRID.n_orbits, dtype=bool)


def classes_of(
    n_classes: int, n: int = 120, slope: float = 1.0, curvature: float = 0.0, seed: int = 0
) -> list[np.ndarray]:
    """Powers (n, n_orbits) of textures whose classes differ in level, slope and curvature by nature."""
    found = []
    for label in range(n_classes):
        generator = np.random.default_rng([seed, label])
        log_radius = np.log(np.maximum(GRID.radius, 1))
        own = 5 + label - 2 * (slope + 0.1 * label) * log_radius - curvature * label * log_radius**2
        found.append(np.exp(own) * generator.exponential(size=(3, n, GRID.n_orbits)).mean(axis=0))
    return found


def contrast_of(classes: list[np.ndarray]) -> tuple[ClassContrast, list[RingWindow]]:
    windows = ring_windows(CELLS, NOTHING)
    logs = [CELLS.pool_rings(np.log(power + 1e-3)) for power in classes]
    powers = [CELLS.pool_rings(power) for power in classes]
    return contrast_of_rings(windows, logs, powers, 1e-3), windows


def raise_ring(power: np.ndarray, low: float, high: float, times: float) -> None:
    within = (GRID.radius >= low) & (GRID.radius < high)
    power[:, within] *= times


def test_windows_lie_between_flanks_and_span_an_octave_at_most() -> None:
    windows = ring_windows(CELLS, NOTHING)
    assert len(windows) > 20
    rings = np.arange(int(CELLS.ring_of_orbit.max()) + 1)
    for window in windows:
        inside = (rings >= window.first) & (rings < window.last)
        assert 2 <= window.first < window.last <= 16
        assert window.last <= 2 * window.first + 1
        for part in (window.inside, window.near, window.far):
            assert part.sum() == pytest.approx(1)
            assert (part >= 0).all()
        assert (window.inside[~inside] == 0).all()
        assert (window.inside[inside] > 0).all()
        assert (window.near[inside] == 0).all()
        assert (window.far[inside] == 0).all()
        # A bin counts as a bin, in whichever ring it lies.
        weights = np.where(inside, CELLS.n_in_ring, 0)
        np.testing.assert_allclose(window.inside, weights / weights.sum())
        assert window.share_near > 0
        near, far = (rings[part > 0] for part in (window.near, window.far))
        assert near.max() == window.first - 1 or near.min() == window.last
        if window.first > 2 and window.last < 15:
            # Between both; elsewhere the plane ends, and the far one lies behind the near one.
            assert far.min() == window.last
            assert window.share_near < 1
        assert np.abs(far - near.mean()).min() > 0.5
    assert {w.last - w.first for w in windows} == {1, 2, 3, 4, 6}


def test_orbits_that_are_left_out_weigh_nothing() -> None:
    without = (GRID.radius >= 6) & (GRID.radius < 8)
    assert not [w for w in ring_windows(CELLS, without) if (w.first, w.last) in {(6, 7), (7, 8), (6, 8)}]
    for window in ring_windows(CELLS, without):
        for part in (window.inside, window.near, window.far):
            assert part[6:8].sum() == 0


def test_flanks_give_the_level_inside_of_a_power_law() -> None:
    """On either side or both, so that classes that differ in slope do not differ in contrast."""
    windows = ring_windows(CELLS, NOTHING)
    rings = CELLS.pool_rings(np.log(np.maximum(GRID.radius, 1e-9))[None])[0]
    one_sided = 0
    for window in windows:
        found = np.nan_to_num(rings) @ (window.inside - window.around)
        # Rings are wide, and a logarithm is curved, at low radius.
        assert found == pytest.approx(0, abs=0.5 / window.first)
        one_sided += not 0 <= window.share_near <= 1
    assert one_sided > 2


@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("ring", [(5.0, 7.0), (9.0, 13.0), (13.0, 99.0)])
def test_a_raised_ring_is_its_class_own_and_nobody_elses(
    ring: tuple[float, float], n_classes: int
) -> None:
    """Above all not of the class that lacks it, in the rings beside it."""
    classes = classes_of(n_classes)
    raise_ring(classes[1], *ring, times=3.0)
    contrast, windows = contrast_of(classes)
    passing = (contrast.z >= 6) & (contrast.difference >= 0.15) & contrast.passes
    assert set(np.flatnonzero(passing.any(axis=1)).tolist()) == {1}
    best = windows[int(np.argmax(np.where(passing[1], contrast.z[1], 0)))]
    overlap = min(best.last, ring[1]) - max(best.first, ring[0])
    assert overlap >= 0.5 * (best.last - best.first)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("curvature", [0.0, 0.05])
def test_level_slope_and_curvature_are_natural(n_classes: int, curvature: float) -> None:
    for seed in range(4):
        contrast, _ = contrast_of(classes_of(n_classes, curvature=curvature, seed=seed))
        assert not ((contrast.z >= 6) & (contrast.difference >= 0.15) & contrast.passes).any()


@pytest.mark.parametrize("n_classes", [3, 6])
def test_a_ring_that_all_classes_gain_alike_is_no_class_own(n_classes: int) -> None:
    classes = classes_of(n_classes)
    within = (GRID.radius >= 9) & (GRID.radius < 12)
    for power in classes:
        power[:, within] += 1.0
    contrast, _ = contrast_of(classes)
    # It stands out more in the classes that have little of their own.
    assert ((contrast.z >= 6) & (contrast.difference >= 0.15))[0].any()
    assert not ((contrast.z >= 6) & (contrast.difference >= 0.15) & contrast.passes).any()
