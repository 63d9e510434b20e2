"""Corruptions against closed forms, slow replicas, an independent codec and the stated parameters."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shortcut_audit.data.corruptions import (
    CORRUPTIONS,
    N_NOISE_BANDS,
    SEVERITIES,
    Parameter,
    disk_kernel,
    gaussian_kernel,
    jpeg,
    line_kernel,
    pixelate,
)
from shortcut_audit.data.shift_spectra import SpectrumTotals
from shortcut_audit.data.shifts import corrupt
from shortcut_audit.errors import DataError
from shortcut_audit.fourier.grid import FrequencyGrid

COLOURLESS = tuple(name for name, c in CORRUPTIONS.items() if not c.needs_colour)
BAND_NOISES = tuple(f"band_noise_{band + 1}" for band in range(N_NOISE_BANDS))


def natural(n: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images (n, C, H, W) in [0,1] with the 1/f spectrum of photographs, 8-bit steps."""
    generator = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    noise = np.fft.irfft2(
        np.fft.rfft2(generator.standard_normal((n, channels, height, width))) * falloff, s=(height, width)
    )
    noise *= 0.15 / noise.std()
    return torch.from_numpy(np.rint((noise + 0.5).clip(0, 1) * 255) / 255).float()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small images are faster so, and more so on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def any_generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def values_of(name: str, severity: int, image: Tensor) -> dict[str, float]:
    return CORRUPTIONS[name].values(severity, *image.shape[-2:])


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (3, 17, 40), (1, 45, 19), (3, 64, 33)])
def test_every_corruption_keeps_shape_type_and_range(name: str, shape: tuple[int, int, int]) -> None:
    if CORRUPTIONS[name].needs_colour and shape[0] == 1:
        pytest.skip("refused; tested below")
    images = natural(2, *shape)
    for severity, dtype in itertools.product(SEVERITIES, (torch.float32, torch.float64)):
        done = corrupt(images.to(dtype), name, severity, 0, [0, 1])
        assert done.shape == images.shape
        assert done.dtype == dtype
        assert float(done.min()) >= 0
        assert float(done.max()) <= 1
        assert not torch.equal(done, images.to(dtype))


@pytest.mark.parametrize("name", COLOURLESS)
@pytest.mark.parametrize("size", [32, 96])
def test_every_severity_changes_images_more_than_the_one_before(name: str, size: int) -> None:
    images = natural(6, 3, size, size, seed=3)
    change = [
        float((corrupt(images, name, severity, 0, range(6)) - images).square().mean())
        for severity in SEVERITIES
    ]
    assert all(b > a for a, b in itertools.pairwise(change)), change


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_parameters_are_those_of_the_anchors_and_lie_between_them(name: str) -> None:
    for parameter in CORRUPTIONS[name].parameters:
        for severity in SEVERITIES:
            small, large = parameter.at_32[severity - 1], parameter.at_224[severity - 1]
            assert parameter.value(severity, 32) == pytest.approx(small)
            assert parameter.value(severity, 224) == pytest.approx(large)
            between = [parameter.value(severity, side) for side in (32, 48, 64, 112, 160, 224)]
            steps = np.diff(between) * (1 if large >= small else -1)
            assert steps.min() > -1e-12
    assert list(CORRUPTIONS[name].values(2, 300, 64)) == [p.name for p in CORRUPTIONS[name].parameters]


def test_beyond_the_anchors_lengths_go_with_the_image_and_the_rest_stays() -> None:
    length = Parameter("sigma", (1, 1, 1, 1, 1), (4, 4, 4, 4, 4), is_length=True)
    share = Parameter("share", (0.1,) * 5, (0.3,) * 5)
    assert length.value(1, 448) == pytest.approx(8)
    assert length.value(1, 16) == pytest.approx(0.5)
    assert length.value(1, round(math.sqrt(32 * 224))) == pytest.approx(2, rel=0.01)
    assert share.value(1, 448) == pytest.approx(0.3)
    assert share.value(1, 16) == pytest.approx(0.1)


def test_the_shorter_side_scales_the_parameters() -> None:
    corruption = CORRUPTIONS["gaussian_blur"]
    assert corruption.values(3, 64, 200) == corruption.values(3, 200, 64) == corruption.values(3, 64, 64)


# -- noise ------------------------------------------------------------------------------------------


def test_gaussian_noise_is_white_with_the_stated_power() -> None:
    images = torch.full((300, 3, 16, 12), 0.5, dtype=torch.float64)
    raw = corrupt(images, "gaussian_noise", 2, 0, range(300), clip=False)
    totals = SpectrumTotals.of(images, raw)
    sigma = values_of("gaussian_noise", 2, images)["sigma"]
    expected = sigma**2 * 16 * 12
    # 900 spectra: a bin's mean power has a relative error of 1/30 (sqrt(2)/30 where it is real).
    relative = totals.difference_power / expected
    assert np.abs(relative - 1).max() < 6 * math.sqrt(2) / 30
    assert abs(float((relative * totals.grid.members).sum() / totals.grid.members.sum()) - 1) < 0.01


def test_shot_noise_has_the_variance_of_counted_photons() -> None:
    levels = torch.tensor([0.0, 0.1, 0.5, 0.9], dtype=torch.float64)
    images = levels[:, None, None, None].expand(4, 1, 128, 128).contiguous()
    raw = corrupt(images, "shot_noise", 3, 0, range(4), clip=False)
    photons = values_of("shot_noise", 3, images)["photons"]
    assert torch.equal(raw[0], images[0])
    for level, image in zip(levels[1:].tolist(), raw[1:], strict=True):
        assert float(image.mean()) == pytest.approx(level, abs=5 * math.sqrt(level / photons / 128**2))
        assert float(image.var()) == pytest.approx(level / photons, rel=0.08)
        # Whole photons.
        assert float((image * photons - (image * photons).round()).abs().max()) < 1e-9


def test_impulse_noise_hits_the_stated_share_half_white_and_every_severity_holds_the_lower_ones() -> None:
    images = torch.full((4, 3, 96, 96), 0.5)
    done = [corrupt(images, "impulse_noise", severity, 0, range(4)) for severity in SEVERITIES]
    for severity, image in zip(SEVERITIES, done, strict=True):
        hit = image != 0.5
        share = values_of("impulse_noise", severity, images)["share"]
        n = images.numel()
        assert abs(int(hit.sum()) - share * n) < 5 * math.sqrt(share * n)
        assert abs(float(image[hit].mean()) - 0.5) < 5 * 0.5 / math.sqrt(share * n)
        assert set(image[hit].unique().tolist()) == {0.0, 1.0}
    for low, high in itertools.pairwise(done):
        assert torch.equal(high[low != 0.5], low[low != 0.5])


@pytest.mark.parametrize("band", range(N_NOISE_BANDS))
@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_band_noise_lies_in_its_band_alone_and_is_as_strong_as_white_noise(
    band: int, shape: tuple[int, int]
) -> None:
    images = torch.full((60, 3, *shape), 0.5, dtype=torch.float64)
    raw = corrupt(images, BAND_NOISES[band], 4, 0, range(60), clip=False)
    totals = SpectrumTotals.of(images, raw)
    inside = totals.grid.bands(N_NOISE_BANDS) == band
    assert totals.difference_power[~inside].max() < 1e-12
    sigma = values_of(BAND_NOISES[band], 4, images)["sigma"]
    assert float((raw - 0.5).square().mean()) == pytest.approx(sigma**2, rel=0.06)
    expected = sigma**2 * (shape[0] * shape[1]) ** 2 / totals.grid.members[inside].sum()
    # 180 spectra.
    assert np.abs(totals.difference_power[inside] / expected - 1).max() < 6.5 * math.sqrt(2 / 180)


def test_band_noise_says_where_a_small_grid_has_no_such_band() -> None:
    with pytest.raises(DataError, match="8 x 8 pixels hold no wave in band 1 of 4"):
        corrupt(torch.full((1, 1, 8, 8), 0.5), "band_noise_1", 1, 0, [0])


# -- blur -------------------------------------------------------------------------------------------


def framed(n: int, size: int, margin: int) -> Tensor:
    """Random images within a grey frame: their borders go on alike, repeated or wrapped around."""
    images = torch.full((n, 3, size, size), 0.5, dtype=torch.float64)
    inner = size - 2 * margin
    generator = torch.Generator().manual_seed(0)
    images[..., margin:-margin, margin:-margin] = torch.rand(
        n, 3, inner, inner, generator=generator, dtype=torch.float64
    )
    return images


def dft_of(kernel: NDArray[np.float64], grid: FrequencyGrid) -> NDArray[np.complex128]:
    """Transform of a kernel around pixel (0, 0), by orbit."""
    plane = np.zeros((grid.height, grid.width))
    for (row, column), weight in np.ndenumerate(kernel):
        plane[row - kernel.shape[0] // 2, column - kernel.shape[1] // 2] += weight
    return np.fft.fft2(plane)[grid.rows, grid.columns]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur"])
def test_the_measured_transfer_of_a_blur_is_the_transform_of_its_kernel(name: str, severity: int) -> None:
    images = framed(4, 40, 10)
    totals = SpectrumTotals.of(images, corrupt(images, name, severity, 0, range(4), clip=False))
    (value,) = values_of(name, severity, images).values()
    if name == "gaussian_blur":
        line = np.exp(-0.5 * (np.arange(-9, 10) / value) ** 2)
        kernel = np.outer(line, line) / line.sum() ** 2
        # Cut off at four sigma, where a Gaussian is down to 3e-4.
        tolerance = 2e-4
    else:
        kernel, tolerance = disk_kernel(value), 1e-9
    assert np.abs(totals.transfer - dft_of(kernel, totals.grid)).max() < tolerance
    # A blur puts nothing there that was not there.
    assert np.nanmin(totals.coherence[np.abs(totals.transfer) > 1e-3]) > 1 - 1e-9


def test_motion_blur_is_the_transform_of_a_line_in_the_drawn_direction() -> None:
    images = framed(1, 48, 12)
    generator, again = any_generator(5), any_generator(5)
    done = CORRUPTIONS["motion_blur"].apply(images, generator, length=7.5)
    kernel = line_kernel(7.5, again.uniform(0, math.pi))
    totals = SpectrumTotals.of(images, done)
    # kornia correlates; a line is its own mirror image.
    assert np.abs(totals.transfer - dft_of(kernel, totals.grid)).max() < 1e-9


def test_blur_repeats_the_border() -> None:
    image = torch.rand(1, 1, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    done = CORRUPTIONS["gaussian_blur"].apply(image, any_generator(), sigma=0.9)[0, 0]
    line = gaussian_kernel(0.9)
    reach = len(line) // 2
    for y, x in itertools.product(range(6), range(5)):
        total = 0.0
        for dy, dx in itertools.product(range(-reach, reach + 1), repeat=2):
            inside = image[0, 0, min(max(y + dy, 0), 5), min(max(x + dx, 0), 4)]
            total += float(inside) * line[dy + reach] * line[dx + reach]
        assert float(done[y, x]) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("radius", [0.1, 0.38, 0.85, 1.42, 2.6, 7])
def test_disk_kernel_is_a_disk_whose_points_go_to_the_pixels_around_them(radius: float) -> None:
    reach = math.ceil(radius)
    slow = np.zeros((2 * reach + 1, 2 * reach + 1))
    for y, x in itertools.product((np.arange(-32 * reach, 32 * reach) + 0.5) / 32, repeat=2):
        if math.hypot(y, x) <= radius:
            for row, column in itertools.product(
                (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
            ):
                slow[row + reach, column + reach] += (1 - abs(y - row)) * (1 - abs(x - column))
    kernel = disk_kernel(radius)
    assert kernel.sum() == pytest.approx(1)
    # The replica counts four times as many points.
    np.testing.assert_allclose(kernel, slow / slow.sum(), atol=0.05 / radius)
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
    if radius > 2:
        place = np.arange(-reach, reach + 1)
        # Variance of a disk along a diameter, and of the sharing out.
        assert (kernel.sum(axis=0) * place**2).sum() == pytest.approx(radius**2 / 4 + 1 / 6, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 25), st.floats(0, math.pi))
def test_line_kernel_is_a_line_of_its_length_and_direction(length: float, direction: float) -> None:
    kernel = line_kernel(length, direction)
    assert kernel.sum() == pytest.approx(1)
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    y = np.arange(kernel.shape[0])[:, None] - kernel.shape[0] // 2
    x = np.arange(kernel.shape[1])[None] - kernel.shape[1] // 2
    spread = np.array([[(kernel * a * b).sum() for b in (y, x)] for a in (y, x)])
    toward = np.array([math.sin(direction), math.cos(direction)])
    # Sharing points out between pixels widens the line by at most a quarter of a pixel squared.
    extra = spread - np.outer(toward, toward) * length**2 / 12
    n_points = 16 * math.ceil(length) + 1
    ends = length**2 / 12 * 2 / (n_points - 1) * 1.01
    assert -1e-9 <= extra[0, 0] <= 0.25 + ends
    assert -1e-9 <= extra[1, 1] <= 0.25 + ends
    assert abs(extra[0, 1]) <= 0.1 + ends


# -- JPEG, tone and blocks --------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_writes_and_reads(channels: int) -> None:
    images = natural(3, channels, 37, 50, seed=1)
    done = corrupt(images, "jpeg", 4, 0, range(3))
    quality = round(values_of("jpeg", 4, images)["quality"])
    for image, found in zip(images, done, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).reshape(pixels.shape)
        np.testing.assert_array_equal((found * 255).round().permute(1, 2, 0).numpy(), expected)


def test_jpeg_agrees_with_copies_of_real_images_that_others_compressed(shared_data: Path) -> None:
    with np.load(shared_data / "cifar10_lossless.npz") as arrays:
        images, numbers = arrays["x_test"][:150], arrays["i_test"][:150]
    with np.load(shared_data / "cifar10_jpeg_test.npz") as arrays:
        packed = {name: arrays[name] for name in ("index", "blob", "offsets")}
    place = {int(index): n for n, index in enumerate(packed["index"])}
    differences, losses = [], []
    for row, index in zip(images, numbers, strict=True):
        start, stop = packed["offsets"][place[int(index)] : place[int(index)] + 2]
        other = np.asarray(Image.open(io.BytesIO(packed["blob"][start:stop].tobytes()))) / 255
        image = torch.from_numpy(row / 255).permute(2, 0, 1)[None]
        ours = jpeg(image, any_generator(), quality=75)[0].permute(1, 2, 0).numpy()
        differences.append(np.abs(ours - other).mean())
        losses.append(np.abs(ours - row / 255).mean())
    # Another libjpeg rounds otherwise; both lose the same.
    assert np.mean(differences) < 0.25 * np.mean(losses)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_scales_all_waves_alike_and_leaves_dc(severity: int) -> None:
    images = natural(3, 3, 20, 27).double()
    totals = SpectrumTotals.of(images, corrupt(images, "contrast", severity, 0, range(3), clip=False))
    factor = values_of("contrast", severity, images)["factor"]
    np.testing.assert_allclose(totals.transfer[1:], factor, atol=1e-9)
    assert totals.transfer[0] == pytest.approx(1)
    assert totals.difference_power[0] == pytest.approx(0, abs=1e-18)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_touches_dc_alone_until_it_clips(severity: int) -> None:
    images = natural(3, 3, 20, 27).double()
    raw = corrupt(images, "brightness", severity, 0, range(3), clip=False)
    totals = SpectrumTotals.of(images, raw)
    amount = values_of("brightness", severity, images)["amount"]
    assert totals.difference_power[0] == pytest.approx((amount * 20 * 27) ** 2)
    assert totals.difference_power[1:].max() < 1e-18
    clipped = SpectrumTotals.of(images, raw.clamp(0, 1))
    assert severity < 4 or clipped.difference_power[1:].max() > 1e-3


def test_saturate_keeps_value_and_hue_and_scales_saturation() -> None:
    image = natural(1, 3, 24, 24).double() * 0.8 + 0.1
    for severity in SEVERITIES:
        done = corrupt(image, "saturate", severity, 0, [0], clip=False)
        values = values_of("saturate", severity, image)
        value, low = image.amax(dim=1), image.amin(dim=1)
        saturation = ((value - low) / value * values["factor"] + values["offset"]).clamp(0, 1)
        assert torch.allclose(done.amax(dim=1), value, atol=1e-6)
        assert torch.allclose(done.amin(dim=1), value * (1 - saturation), atol=1e-5)
        coloured = (value - low)[0] > 0.02
        assert torch.equal(done.argmax(dim=1)[0][coloured], image.argmax(dim=1)[0][coloured])


def test_saturate_is_refused_for_grey_images() -> None:
    with pytest.raises(DataError, match="saturate does nothing to grey images"):
        corrupt(torch.rand(1, 1, 16, 16), "saturate", 1, 0, [0])


def block_mean(image: NDArray[np.float64], n_rows: int, n_columns: int) -> NDArray[np.float64]:
    """Means over blocks, larger or smaller than pixels, by the area of each pixel that lies in each."""
    height, width = image.shape
    blocks = np.zeros((n_rows, n_columns))
    for i, j in itertools.product(range(n_rows), range(n_columns)):
        top, bottom = i * height / n_rows, (i + 1) * height / n_rows
        left, right = j * width / n_columns, (j + 1) * width / n_columns
        for y, x in itertools.product(range(height), range(width)):
            inside = max(0, min(bottom, y + 1) - max(top, y)) * max(0, min(right, x + 1) - max(left, x))
            blocks[i, j] += image[y, x] * inside / ((bottom - top) * (right - left))
    return blocks


@pytest.mark.parametrize("scale", [0.95, 0.65, 0.5, 0.25, 0.01, 1.0])
def test_pixelate_shows_the_mean_of_each_block(scale: float) -> None:
    image = natural(1, 1, 14, 19).double()
    small = block_mean(image[0, 0].numpy(), max(int(14 * scale), 1), max(int(19 * scale), 1))
    expected = block_mean(small, 14, 19)
    done = pixelate(image, any_generator(), scale=scale)[0, 0]
    np.testing.assert_allclose(done.numpy(), expected, atol=1e-12)


# -- haze and shifts --------------------------------------------------------------------------------


def test_haze_is_a_smooth_veil_of_white() -> None:
    images = torch.zeros(40, 3, 64, 64, dtype=torch.float64)
    raw = corrupt(images, "haze", 5, 0, range(40), clip=False)
    density = values_of("haze", 5, images)["density"]
    field = raw / density
    # On black the veil itself is seen: the same in all channels, from nothing to the full density.
    assert torch.equal(field[:, 0], field[:, 2])
    assert torch.allclose(field.amin(dim=(1, 2, 3)), torch.zeros(40, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(field.amax(dim=(1, 2, 3)), torch.ones(40, dtype=torch.float64))
    # Amplitude 1/r^1.5 is power 1/r^3, after each field's own stretching.
    totals = SpectrumTotals.of(images, raw)
    near = (totals.grid.radius > 1.5) & (totals.grid.radius < 25)
    slope = np.polyfit(np.log(totals.grid.radius[near]), np.log(totals.difference_power[near]), 1)[0]
    assert slope == pytest.approx(-3, abs=0.1)
    white = torch.ones(1, 3, 64, 64)
    assert torch.equal(corrupt(white, "haze", 5, 0, [0], clip=False), white)
    grey = corrupt(torch.full_like(images, 0.4), "haze", 5, 0, range(40), clip=False)
    assert torch.allclose(grey, 0.4 + raw * 0.6)


def test_elastic_moves_pixels_by_a_smooth_field_of_the_stated_size() -> None:
    size, n = 128, 12
    ramp = torch.arange(size, dtype=torch.float64) / (size - 1)
    found = {}
    for axis, image in (("x", ramp.expand(size, size)), ("y", ramp[:, None].expand(size, size))):
        images = image.expand(n, 1, size, size).contiguous()
        moved = corrupt(images, "elastic", 3, 0, range(n), clip=False)
        # On a ramp a pixel's new value tells where it came from; away from the border, that is.
        found[axis] = ((moved - images) * (size - 1))[:, 0, 16:-16, 16:-16]
        shift = values_of("elastic", 3, images)["shift"]
        assert float(found[axis].square().mean().sqrt()) == pytest.approx(shift, rel=0.1)
    # Down and across go their own ways.
    both = float((found["x"] * found["y"]).mean()) / float(found["x"].square().mean())
    assert abs(both) < 0.25
    # Smooth: a step to the next pixel changes the field little.
    assert float(found["x"].diff(dim=-1).square().mean().sqrt()) < 0.15 * shift
