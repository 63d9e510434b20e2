from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import conv_model, random_images
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from replicas import adcs_of, band_power_of, mean_amplitude_of

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.class_spectra import adcs, spectral_slope


@given(arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 8)), elements=st.integers(0, 4)))
def test_adcs_is_the_double_sum_of_signs_and_ties_count_nothing(amplitude: np.ndarray) -> None:
    np.testing.assert_array_equal(adcs(amplitude), adcs_of(amplitude))
    assert adcs(amplitude).sum() == 0
    assert np.abs(adcs(amplitude)).max() <= len(amplitude) - 1


def test_mean_amplitudes_equal_the_slow_replica_over_both_splits(run_on: Any) -> None:
    audited = run_on(conv_model(2, 3), random_images(6, 2, (3, 5, 8)))
    amplitude = audited.result.arrays["class_spectra/amplitude"]
    for index in range(2):
        images = np.concatenate([audited.search(index), audited.judge(index)])
        slow = [mean_amplitude_of(images, set(orbit)) for orbit in audited.orbits]
        np.testing.assert_allclose(amplitude[index], slow, rtol=1e-6)
    np.testing.assert_array_equal(audited.result.arrays["class_spectra/adcs"], adcs_of(amplitude))
    assert audited.result.class_spectra.n_images_by_class == (6, 6)


def test_a_class_with_more_energy_everywhere_has_the_highest_adcs(run_on: Any) -> None:
    generator = np.random.default_rng(0)
    pairs = [
        ((0.5 + (0.02 + 0.1 * k) * generator.uniform(-1, 1, (1, 8, 8))).astype(np.float32), k)
        for k in range(3)
        for _ in range(30)
    ]
    found = run_on(conv_model(3, 1), pairs).result.arrays["class_spectra/adcs"][:, 1:]
    assert (found[2] == 2).all()
    assert (found[0] == -2).all()


@pytest.mark.parametrize("slope", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("size", [(32, 32), (17, 33), (64, 48)])
def test_the_slope_of_a_power_law_is_its_exponent(size: tuple[int, int], slope: float) -> None:
    grid = FrequencyGrid(*size)
    amplitude = 7.0 * np.maximum(grid.radius, 1e-9) ** -slope
    found = spectral_slope(grid, amplitude)
    # Rings are a cycle wide, which is much at low radius.
    assert found == pytest.approx(slope, abs=0.06 * slope + 1e-9)
    # DC and the corners beyond Nyquist have no part in it.
    changed = amplitude.copy()
    changed[(grid.radius > min(size) // 2 + 0.5) | (grid.radius == 0)] *= 100
    assert spectral_slope(grid, changed) == pytest.approx(found)


def test_a_spectrum_without_power_or_with_too_few_rings_has_no_slope() -> None:
    grid = FrequencyGrid(16, 16)
    assert spectral_slope(grid, np.zeros(grid.n_orbits)) is None
    amplitude = np.ones(grid.n_orbits)
    amplitude[np.rint(grid.radius) == 3] = 0
    assert spectral_slope(grid, amplitude) is None
    assert spectral_slope(FrequencyGrid(4, 4), np.ones(FrequencyGrid(4, 4).n_orbits)) is None


def test_energies_of_bands_are_sums_over_the_full_plane(run_on: Any) -> None:
    audited = run_on(conv_model(2, 3), random_images(6, 2, (3, 9, 12)))
    energy = audited.result.arrays["class_spectra/band_energy"]
    assert energy.shape == (2, 4)
    width = 9 / 2 / 4
    edges = [(width * k, width * (k + 1)) for k in range(4)]
    for index in range(2):
        images = np.concatenate([audited.search(index), audited.judge(index)])
        power = (np.abs(np.fft.fft2(images)) ** 2).mean(axis=(0, 1))
        # Pixels are float32 on their way.
        np.testing.assert_allclose(energy[index], band_power_of(power, edges), rtol=1e-5)
        # Parseval: all bands together hold all variance.
        variance = images.var(axis=(2, 3)).mean()
        assert energy[index].sum() == pytest.approx(variance * (9 * 12) ** 2, rel=1e-5)


def test_the_slope_of_a_class_is_in_its_table(run_on: Any) -> None:
    audited = run_on(conv_model(2, 3), random_images(6, 2, (3, 12, 12)))
    found = audited.result.class_spectra.slope_by_class
    grid = FrequencyGrid(12, 12)
    for index in range(2):
        amplitude = audited.result.arrays["class_spectra/amplitude"][index]
        assert found[index] == pytest.approx(spectral_slope(grid, amplitude), rel=1e-5)
