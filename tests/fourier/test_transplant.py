"""Orbits of one image in another: what is taken over, what stays, and that nothing becomes complex."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import transplant_bins

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.fourier.transform import spectrum_of, transplant

sizes = st.tuples(st.integers(1, 11), st.integers(1, 11))


def bins_of(grid: FrequencyGrid, chosen: np.ndarray) -> set[tuple[int, int]]:
    """Both members of every chosen orbit, on the full plane."""
    names = list(zip(grid.u[chosen].tolist(), grid.v[chosen].tolist(), strict=True))
    own = {(u % grid.height, v % grid.width) for u, v in names}
    return own | {(-u % grid.height, -v % grid.width) for u, v in names}


def exchanged(
    grid: FrequencyGrid, receivers: np.ndarray, donors: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    one, other = (spectrum_of(torch.from_numpy(images)) for images in (receivers, donors))
    pixels = transplant(one, other, half_plane_mask(grid, chosen), grid.width)
    assert not pixels.is_complex()
    return pixels.numpy()


@settings(deadline=None)
@given(sizes, st.sampled_from([1, 3]), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_result_has_the_donors_coefficients_where_chosen_and_its_own_elsewhere(
    size: tuple[int, int], channels: int, seed: int, share: float
) -> None:
    grid, generator = FrequencyGrid(*size), np.random.default_rng(seed)
    receivers, donors = generator.random((2, 2, channels, *size))
    chosen = generator.random(grid.n_orbits) < share
    ours = exchanged(grid, receivers, donors, chosen)
    bins = bins_of(grid, chosen)
    for image in range(2):
        expected = transplant_bins(receivers[image], donors[image], bins)
        np.testing.assert_allclose(ours[image], expected, atol=1e-12)
    full = np.zeros(size, dtype=bool)
    for u, v in bins:
        full[u, v] = True
    found, own, given_ = (np.fft.fft2(images) for images in (ours, receivers, donors))
    np.testing.assert_allclose(found, np.where(full, given_, own), atol=1e-10)


@settings(deadline=None)
@given(sizes, st.integers(0, 2**32 - 1))
def test_what_is_exchanged_back_and_forth_is_the_image_again(size: tuple[int, int], seed: int) -> None:
    grid, generator = FrequencyGrid(*size), np.random.default_rng(seed)
    receivers, donors = generator.random((2, 1, 2, *size))
    chosen = generator.random(grid.n_orbits) < 0.5
    there = exchanged(grid, receivers, donors, chosen)
    np.testing.assert_allclose(exchanged(grid, there, receivers, chosen), receivers, atol=1e-12)
    # Both together hold what both held before: what one takes over, the other gives up.
    other = exchanged(grid, donors, receivers, chosen)
    np.testing.assert_allclose(there + other, receivers + donors, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (1, 6)])
def test_dc_stays_where_it_is_not_chosen_and_alone_moves_the_mean_alone(size: tuple[int, int]) -> None:
    grid, generator = FrequencyGrid(*size), np.random.default_rng(size[0])
    receivers, donors = generator.random((2, 3, 3, *size))
    all_but_dc = np.arange(grid.n_orbits) > 0
    ours = exchanged(grid, receivers, donors, all_but_dc)
    np.testing.assert_allclose(ours.mean(axis=(2, 3)), receivers.mean(axis=(2, 3)), atol=1e-12)
    shift = donors.mean(axis=(2, 3), keepdims=True) - receivers.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(
        exchanged(grid, receivers, donors, ~all_but_dc), receivers + shift, atol=1e-12
    )


def test_every_pair_of_a_batch_has_its_own_mask() -> None:
    grid, generator = FrequencyGrid(6, 7), np.random.default_rng(0)
    receivers, donors = generator.random((2, 4, 2, 6, 7))
    chosen = generator.random((4, grid.n_orbits)) < 0.4
    one, other = (spectrum_of(torch.from_numpy(images)) for images in (receivers, donors))
    mixed = transplant(one, other, half_plane_mask(grid, chosen)[:, None], grid.width).numpy()
    for image in range(4):
        alone = exchanged(grid, receivers[image], donors[image], chosen[image])
        np.testing.assert_allclose(mixed[image], alone, atol=1e-12)
