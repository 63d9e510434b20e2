"""Cosines of known frequency, strength and phase, and random numbers that are the same everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = ["orbit_numbers", "stream_of", "to_half_plane", "uniform", "wave_coefficient", "wave_values"]

Floats = NDArray[np.float64]


def to_half_plane(grid: FrequencyGrid, by_orbit: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Coefficients by orbit (..., n_orbits) on the half plane (..., H, W//2+1), conjugates in place."""
    half = by_orbit[..., grid.orbit_of_bin]
    rows, columns = np.indices(grid.orbit_of_bin.shape)
    named = (rows == grid.rows[grid.orbit_of_bin]) & (columns == grid.columns[grid.orbit_of_bin])
    half[..., ~named] = half[..., ~named].conj()
    return half


def wave_values(
    grid: FrequencyGrid, orbits: NDArray[np.int64], strength: float, phase: Floats
) -> NDArray[np.complex128]:
    """Coefficients, of pixels in [0,1], of cosines of `strength`/255 with `phase` (..., n_orbits).

    An orbit that is its own conjugate has two phases only: the sign of cos(phase).
    """
    value = np.exp(1j * phase) * wave_coefficient(grid, orbits, strength)
    own = grid.members[orbits] == 1
    sign = np.where(np.cos(phase) < 0, -1.0, 1.0)
    return np.where(own, sign * wave_coefficient(grid, orbits, strength), value)


def wave_coefficient(grid: FrequencyGrid, orbits: NDArray[np.int64], strength: float) -> Floats:
    """|X| of a cosine of `strength`/255: it is shared by the members of its orbit."""
    coefficient: Floats = strength / 255 * grid.height * grid.width / grid.members[orbits]
    return coefficient


def orbit_numbers(
    grid: FrequencyGrid, orbits: tuple[tuple[int, int], ...], who: str
) -> NDArray[np.int64]:
    """Numbers of the orbits (u, v); `who` asks for them, in messages.

    Raises SettingsError for orbits outside the grid, DC, and one that is named twice.
    """
    numbers: list[int] = []
    for u, v in orbits:
        if 2 * abs(u) > grid.height or 2 * abs(v) > grid.width:
            raise SettingsError(
                f"Orbit ({u}, {v}) of {who} lies outside the grid of {grid.height} x {grid.width}"
                " pixels.",
                f"u goes from {-(grid.height // 2)} to {grid.height // 2}, v to {grid.width // 2}.",
            )
        numbers.append(grid.orbit_of(u, v))
        if numbers[-1] == 0:
            raise SettingsError(
                f"Orbit (0, 0) of {who} is DC: the mean, not a wave.", "Name another orbit."
            )
        if numbers[-1] in numbers[:-1]:
            raise SettingsError(
                f"Orbit ({u}, {v}) of {who} is named twice: (u, v) and (-u, -v) are one wave.",
                "Name it once.",
            )
    return np.asarray(numbers, dtype=np.int64)


def stream_of(*key: int) -> np.random.Generator:
    """A stream of random numbers of its own for every key, the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def uniform(stream: np.random.Generator, n: int) -> Floats:
    """`n` numbers in [0, 1), from raw bits: numpy promises the bits of PCG64, not its distributions."""
    bits = stream.bit_generator.random_raw(n)
    values: Floats = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return values
