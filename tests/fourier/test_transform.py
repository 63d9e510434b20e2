from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import keep_bins, remove_bins

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.fourier.transform import OrbitWaves, apply_mask, orbit_amplitude, spectrum_of

SIZES = [(8, 8), (7, 7), (7, 8), (8, 7), (5, 12), (1, 6), (2, 2)]
CPU = torch.device("cpu")


def some_images(size: tuple[int, int], n: int = 2, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size[0] * 100 + size[1])
    return torch.rand(n, channels, *size, generator=generator, dtype=torch.float64)


def without(
    waves: OrbitWaves,
    pixels: torch.Tensor,
    images: torch.Tensor,
    orbits: torch.Tensor,
    layout: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Each of `images` of `pixels` without its orbit."""
    left = pixels[images].contiguous(memory_format=layout)
    waves.subtract_(left, waves.coefficients(spectrum_of(pixels), images, orbits), orbits)
    assert left.is_contiguous(memory_format=layout)
    return left


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_removing_an_orbit_by_its_wave_equals_the_full_complex_transform(
    size: tuple[int, int], channels: int, layout: torch.memory_format
) -> None:
    grid, pixels = FrequencyGrid(*size), some_images(size, channels=channels)
    waves = OrbitWaves.build(grid, CPU, torch.float64)
    for image in range(len(pixels)):
        for orbit in range(grid.n_orbits):
            ours = without(waves, pixels, torch.tensor([image]), torch.tensor([orbit]), layout)
            bins = {(int(grid.u[orbit]), int(grid.v[orbit])), (-int(grid.u[orbit]), -int(grid.v[orbit]))}
            np.testing.assert_allclose(
                ours[0].numpy(), remove_bins(pixels[image].numpy(), bins), atol=1e-12
            )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_single_precision_waves_stay_within_rounding(layout: torch.memory_format) -> None:
    grid, pixels = FrequencyGrid(31, 40), some_images((31, 40))
    orbits = torch.arange(grid.n_orbits)
    images = torch.zeros_like(orbits)
    exact = OrbitWaves.build(grid, CPU, torch.float64)
    fast = OrbitWaves.build(grid, CPU, torch.float32)
    ours = without(fast, pixels.float(), images, orbits, layout)
    theirs = without(exact, pixels, images, orbits, layout)
    assert (ours - theirs).abs().max() < 1e-5


def test_probes_of_several_images_and_orbits_mix_in_one_batch() -> None:
    grid, pixels = FrequencyGrid(6, 9), some_images((6, 9), n=3)
    waves = OrbitWaves.build(grid, CPU, torch.float64)
    images, orbits = torch.tensor([2, 0, 1, 2]), torch.tensor([5, 0, 7, 3])
    mixed = without(waves, pixels, images, orbits)
    for row, (image, orbit) in enumerate(zip(images, orbits, strict=True)):
        alone = without(waves, pixels, image[None], orbit[None])[0]
        torch.testing.assert_close(mixed[row], alone)


@pytest.mark.parametrize("size", SIZES)
def test_removing_all_orbits_but_dc_leaves_dc(size: tuple[int, int]) -> None:
    grid, pixels = FrequencyGrid(*size), some_images(size, n=1)
    waves = OrbitWaves.build(grid, CPU, torch.float64)
    left = pixels
    for orbit in range(1, grid.n_orbits):
        left = without(waves, left, torch.tensor([0]), torch.tensor([orbit]))
    torch.testing.assert_close(left, pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels))


@settings(deadline=None)
@given(st.tuples(st.integers(1, 11), st.integers(1, 11)), st.integers(0, 2**31))
def test_keeping_and_removing_a_choice_add_up_and_filtering_twice_changes_nothing(
    size: tuple[int, int], seed: int
) -> None:
    grid, pixels = FrequencyGrid(*size), some_images(size)
    chosen = np.random.default_rng(seed).random(grid.n_orbits) < 0.5
    spectrum = spectrum_of(pixels)
    kept = apply_mask(spectrum, half_plane_mask(grid, chosen), grid.width)
    removed = apply_mask(spectrum, half_plane_mask(grid, ~chosen), grid.width)
    torch.testing.assert_close(kept + removed, pixels, atol=1e-10, rtol=0)
    again = apply_mask(spectrum_of(kept), half_plane_mask(grid, chosen), grid.width)
    torch.testing.assert_close(again, kept, atol=1e-10, rtol=0)
    bins = {(int(u), int(v)) for u, v in zip(grid.u[chosen], grid.v[chosen], strict=True)}
    bins |= {(-u, -v) for u, v in bins}
    np.testing.assert_allclose(kept[0].numpy(), keep_bins(pixels[0].numpy(), bins), atol=1e-10)


def test_amplitude_is_that_of_the_full_transform() -> None:
    grid, pixels = FrequencyGrid(9, 6), some_images((9, 6))
    full = np.abs(np.fft.fft2(pixels.numpy()))
    ours = orbit_amplitude(spectrum_of(pixels), grid).numpy()
    np.testing.assert_allclose(ours, full[..., grid.u % 9, grid.v % 6], atol=1e-10)
