from __future__ import annotations

from typing import Any

import numpy as np
from conftest import conv_model, random_images
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from replicas import adcs_of, mean_amplitude_of

from shortcut_audit.measures.class_spectra import adcs


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
