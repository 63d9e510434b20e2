from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from shortcut_audit.fourier.cells import Neighbours, comb_orbits
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.contrasts import (
    AddedPower,
    ClassContrast,
    ContrastSums,
    contrast_of_combs,
    contrast_of_orbits,
    leave_one_out_median,
    power_floor,
    power_moments,
)

GRID = FrequencyGrid(16, 16)
NEIGHBOURS = Neighbours(GRID)


def textures(n: int, seed: int, level: float = 10.0, slope: float = 1.0) -> np.ndarray:
    """Squared wave amplitudes (n, n_orbits), in (1/255)^2, of Gaussian textures of three channels."""
    generator = np.random.default_rng(seed)
    law = (level / np.maximum(GRID.radius, 1) ** slope) ** 2
    return law * generator.exponential(size=(3, n, GRID.n_orbits)).mean(axis=0)


def sums_of(*classes: np.ndarray) -> list[ContrastSums]:
    found = []
    for power in classes:
        sums = ContrastSums(GRID, NEIGHBOURS)
        for start in range(0, len(power), 7):
            sums.add(power[start : start + 7])
        found.append(sums)
    return found


@given(arrays(np.float64, st.tuples(st.integers(2, 7), st.integers(1, 5)), elements=st.integers(0, 4)))
def test_the_median_of_the_others_leaves_each_class_out(values: np.ndarray) -> None:
    found = leave_one_out_median(values)
    for row in range(len(values)):
        np.testing.assert_allclose(found[row], np.median(np.delete(values, row, axis=0), axis=0))
    found = leave_one_out_median(values, low=True)
    for row in range(len(values)):
        others = np.sort(np.delete(values, row, axis=0), axis=0)
        np.testing.assert_array_equal(found[row], others[(len(others) - 1) // 2])


@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_the_floor_is_the_power_of_rounding(size: tuple[int, int]) -> None:
    grid = FrequencyGrid(*size)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, *size))
    spectrum = np.fft.rfft2(noise)[:, grid.rows, grid.columns]
    power = (np.abs(spectrum) * grid.members / (size[0] * size[1])) ** 2
    np.testing.assert_allclose(power.mean(axis=0), power_floor(grid), rtol=0.15)


def test_sums_over_blocks_are_the_sums_over_images_one_by_one() -> None:
    power = textures(20, 0)
    (sums,) = sums_of(power)
    floor = power_floor(GRID)
    logs = np.log(power + floor)
    contrast = np.array([log - NEIGHBOURS.mean(log) for log in logs])
    assert sums.n == 20
    np.testing.assert_allclose(sums.log_power, logs.sum(axis=0))
    np.testing.assert_allclose(sums.contrast, contrast.sum(axis=0), atol=1e-9)
    np.testing.assert_allclose(sums.contrast_square, (contrast**2).sum(axis=0))
    orbit = GRID.orbit_of(5, 3)
    around = NEIGHBOURS.mean(power)[:, orbit]
    w = 1 / (around + floor[orbit])
    p = power[:, orbit]
    expected = [w, w * p, w * around, w**2, w**2 * p, w**2 * around]
    expected += [w**2 * p**2, w**2 * p * around, w**2 * around**2]
    np.testing.assert_allclose(sums.moments[:, orbit], [each.sum() for each in expected])


def added_of(power: np.ndarray, around: np.ndarray) -> AddedPower:
    """One column; (C, n) powers of classes, and what surrounds them."""
    moments = [power_moments(p[:, None], a[:, None], 0.1) for p, a in zip(power, around, strict=True)]
    return AddedPower(np.stack(moments), np.ones((len(power), 1)))


def test_power_beyond_the_usual_and_its_error_are_weighted_means() -> None:
    generator = np.random.default_rng(1)
    around = generator.uniform(1, 3, (3, 400))
    power = 2 * around * generator.exponential(size=(3, 400))
    power[0] += 5
    added = added_of(power, around)
    mean, error = added.unusual
    w = 1 / (around + 0.1)
    usual = [(w[k] * power[k]).sum() / (w[k] * around[k]).sum() for k in range(3)]
    share = (usual[1] + usual[2]) / 2
    expected = (w[0] * (power[0] - share * around[0])).sum() / w[0].sum()
    assert mean[0, 0] == pytest.approx(expected)
    assert mean[0, 0] == pytest.approx(5, abs=4 * error[0, 0])
    # The error is that of repetitions.
    found = []
    for seed in range(300):
        again = np.random.default_rng(seed + 10)
        around = again.uniform(1, 3, (3, 400))
        power = 2 * around * again.exponential(size=(3, 400))
        power[0] += 5
        found.append(added_of(power, around).unusual[0][0, 0])
    assert np.std(found) == pytest.approx(error[0, 0], rel=0.35)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_power_that_all_classes_gain_alike_is_no_class_own(n_classes: int) -> None:
    generator = np.random.default_rng(2)
    level = np.array([1.0] + [8.0] * (n_classes - 1))[:, None]
    around = level * generator.uniform(0.8, 1.2, (n_classes, 500))
    power = around * generator.exponential(size=around.shape)
    # A decoy makes much the larger contrast in the class that has little of its own.
    assert not added_of(power + 6, around).passes.any()
    power[0] += 6
    assert added_of(power, around).passes.ravel().tolist() == [True] + [False] * (n_classes - 1)


def test_spectra_that_differ_in_level_alone_add_nothing() -> None:
    generator = np.random.default_rng(3)
    around = np.array([1.0, 5.0, 25.0, 60.0])[:, None] * generator.uniform(0.8, 1.2, (4, 500))
    power = 1.7 * around * generator.exponential(size=around.shape)
    assert not added_of(power, around).passes.any()


def test_what_another_class_has_in_the_surroundings_adds_nothing_to_this_one() -> None:
    """Of two classes, one has waves around the orbit: the other does not stand out for that."""
    generator = np.random.default_rng(4)
    around = generator.uniform(0.8, 1.2, (2, 500))
    power = around * generator.exponential(size=around.shape)
    around[0] += 10
    assert not added_of(power, around).passes.any()


def test_a_planted_wave_stands_out_by_its_closed_form() -> None:
    """Exponential power of mean N with a constant wave S: E log(N E + S) is known by an integral."""
    orbit, strength = GRID.orbit_of(4, 5), 3.0
    classes = [textures(400, seed) for seed in range(4)]
    classes[2] = classes[2].copy()
    noise = classes[2][:, orbit].mean()
    classes[2][:, orbit] += strength**2
    contrast = contrast_of_orbits(sums_of(*classes))
    # The mean of three exponentials is a gamma variable.
    law, floor = stats.gamma(3, scale=noise / 3), power_floor(GRID)[orbit]
    expected = law.expect(lambda p: np.log((p + strength**2 + floor) / (p + floor)))
    error = contrast.error[2, orbit]
    assert contrast.difference[2, orbit] == pytest.approx(expected, abs=4 * error)
    assert contrast.passes[2, orbit]
    assert contrast.z[2, orbit] > 10
    assert contrast.added.unusual[0][2, orbit] == pytest.approx(strength**2, rel=0.1)
    others = np.delete(np.abs(contrast.z[:, NEIGHBOURS.comparable]).ravel(), 0)
    assert np.sort(others)[-2] < 6


def test_without_a_plant_z_is_a_standard_normal_variable() -> None:
    found = []
    for seed in range(8):
        classes = [textures(60, 10 * seed + k, level=3.0 + 4 * k, slope=0.8 + 0.1 * k) for k in range(5)]
        found.append(contrast_of_orbits(sums_of(*classes)).z[:, NEIGHBOURS.comparable].ravel())
    z = np.concatenate(found)
    assert z.mean() == pytest.approx(0, abs=0.05)
    # Never larger than it should be; the yardstick errs on the safe side.
    assert 0.7 < z.std() <= 1.05
    assert np.abs(z).max() < 5


def test_a_few_carriers_are_judged_by_what_images_vary_without_them() -> None:
    """Else what tells carriers from the rest, the pattern itself, would hide them all."""
    classes = [textures(60, seed) for seed in range(3)]
    orbit = GRID.orbit_of(6, 6)
    plain = contrast_of_orbits(sums_of(*classes)).error[0, orbit]
    classes[0] = classes[0].copy()
    classes[0][:30, orbit] += 100.0
    contrast = contrast_of_orbits(sums_of(*classes))
    assert contrast.variance[0, orbit] > 4 * np.median(contrast.variance)
    assert contrast.error[0, orbit] == pytest.approx(plain, rel=0.2)


def contrast_with(difference: np.ndarray, n: int, sampling: float, **values: object) -> ClassContrast:
    n_classes, columns = difference.shape
    return ClassContrast(
        n=np.full(n_classes, n),
        difference=difference,
        variance=np.full(difference.shape, sampling),
        added=AddedPower(np.ones((n_classes, 9, columns)), np.ones(difference.shape)),
        place=np.zeros(columns, dtype=np.int64),
        **values,  # type: ignore[arg-type]
    )


def test_the_yardstick_is_the_spread_of_natural_differences() -> None:
    generator = np.random.default_rng(5)
    difference = 0.3 * generator.standard_normal((10, 2000))
    contrast = contrast_with(difference, n=10_000, sampling=1.0)
    np.testing.assert_allclose(contrast.spread, 0.3, rtol=0.05)
    assert contrast.z.std() == pytest.approx(1, rel=0.05)
    # One class that is wild all over widens its own yardstick, and nobody else's.
    difference[3] *= 5
    own = contrast_with(difference, n=10_000, sampling=1.0, own_yardstick=True)
    assert own.spread[3] == pytest.approx(1.5, rel=0.1)
    assert own.spread[4] == pytest.approx(0.32, rel=0.15)


def test_a_comb_stands_out_as_one_and_its_own_lines_tell_the_size_of_the_block() -> None:
    classes = [textures(150, seed) for seed in range(4)]
    lines = comb_orbits(GRID, 4)
    classes[1] = classes[1].copy()
    classes[1][:, lines] += 1.0
    found = contrast_of_combs(sums_of(*classes), contrast_of_orbits(sums_of(*classes)))
    assert set(found) == {4, 8}
    whole, own = found[4]
    assert whole.z[1, 0] > 6
    assert own.z[1, 0] > 3
    assert whole.passes[1, 0]
    assert not whole.passes[[0, 2, 3], 0].any()
    # A grid of blocks of 8 shares its lines, but the lines of its own do not stand out.
    assert found[8][0].z[1, 0] > 3
    assert found[8][1].z[1, 0] < 3
