from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.data.waves import (
    orbit_numbers,
    stream_of,
    to_half_plane,
    uniform,
    wave_coefficient,
    wave_values,
)
from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid

sizes = st.tuples(st.integers(2, 9), st.integers(2, 9))


def cosine(grid: FrequencyGrid, orbit: int, strength: float, phase: float) -> np.ndarray:
    y, x = np.mgrid[0 : grid.height, 0 : grid.width]
    turns = grid.u[orbit] * y / grid.height + grid.v[orbit] * x / grid.width
    return strength / 255 * np.cos(2 * np.pi * turns + phase)


@given(sizes, st.integers(0, 2**32 - 1), st.floats(0.1, 255))
def test_a_coefficient_is_the_cosine_it_says(size: tuple[int, int], seed: int, strength: float) -> None:
    grid = FrequencyGrid(*size)
    generator = np.random.default_rng(seed)
    orbit = int(generator.integers(1, grid.n_orbits))
    phase = generator.uniform(0, 2 * np.pi)
    coefficients = np.zeros(grid.n_orbits, dtype=np.complex128)
    coefficients[orbit] = wave_values(grid, np.array([orbit]), strength, np.array([phase]))[0]
    made = np.fft.irfft2(to_half_plane(grid, coefficients), s=size)
    if grid.members[orbit] == 1:
        # It has two phases only, whatever is asked for.
        phase = 0 if np.cos(phase) >= 0 else np.pi
    np.testing.assert_allclose(made, cosine(grid, orbit, strength, phase), atol=1e-12)
    spectrum = np.abs(np.fft.fft2(made))
    assert spectrum.max() == pytest.approx(wave_coefficient(grid, np.array([orbit]), strength)[0])


@given(sizes, st.integers(0, 2**32 - 1))
def test_the_half_plane_of_any_coefficients_is_that_of_a_real_image(
    size: tuple[int, int], seed: int
) -> None:
    grid = FrequencyGrid(*size)
    image = np.random.default_rng(seed).random(size)
    half = np.fft.rfft2(image)
    np.testing.assert_allclose(to_half_plane(grid, half[grid.rows, grid.columns]), half, atol=1e-12)


def test_either_member_names_an_orbit() -> None:
    grid = FrequencyGrid(8, 6)
    numbers = orbit_numbers(grid, ((3, 2), (-1, -3), (4, 0)), "it")
    for number, (u, v) in zip(numbers, ((3, 2), (-1, -3), (4, 0)), strict=True):
        assert number == grid.orbit_of(u, v) == grid.orbit_of(-u, -v)


@pytest.mark.parametrize(
    ("orbits", "says"),
    [
        (((5, 0),), r"Orbit \(5, 0\) of it lies outside the grid of 8 x 7"),
        (((0, 4),), "lies outside"),
        (((0, -4),), "lies outside"),
        (((0, 0),), "is DC"),
        (((1, 2), (1, 2)), "named twice"),
        (((1, 2), (-1, -2)), r"Orbit \(-1, -2\) of it is named twice"),
        # On an even side +Nyquist and -Nyquist are one.
        (((4, 1), (-4, 1)), "named twice"),
    ],
)
def test_orbits_that_cannot_be_planted(orbits: tuple[tuple[int, int], ...], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        orbit_numbers(FrequencyGrid(8, 7), orbits, "it")


def test_random_numbers_are_the_same_on_every_machine() -> None:
    """Frozen: sets made years ago have to come out again."""
    drawn = uniform(stream_of(1, 2, 3), 1000)
    assert hashlib.sha256(drawn.astype("<f8").tobytes()).hexdigest() == (
        "78e1d880f3b009df7de2d71fd185c74bc46686519ea99a8e5136296be758c62d"
    )
    assert uniform(stream_of(1, 2, 4), 5).tolist() != drawn[:5].tolist()


def test_random_numbers_are_uniform_and_never_one() -> None:
    drawn = uniform(stream_of(0), 200_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx([20_000] * 10, rel=0.03)
    # In two parts as in one.
    stream = stream_of(0)
    assert np.concatenate([uniform(stream, 7), uniform(stream, 13)]).tolist() == drawn[:20].tolist()
