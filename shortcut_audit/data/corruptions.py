"""Corruptions of five severities: what each does to one image, and with which parameters.

Parameters have two anchors: those of CIFAR-10-C at 32 pixels and those of ImageNet-C at 224 (Hendrycks &
Dietterich, ICLR 2019), wherever these sets have the corruption; between the anchors they go over
geometrically with the shorter side. The corruptions themselves are our own, over kornia's filters, so
that a score here is not a score on those two sets.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import kornia.color
import kornia.enhance
import kornia.filters
import kornia.geometry
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shortcut_audit.errors import DataError
from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = [
    "CORRUPTIONS",
    "N_NOISE_BANDS",
    "SEVERITIES",
    "Corruption",
    "Parameter",
    "disk_kernel",
    "gaussian_kernel",
    "line_kernel",
]

SEVERITIES = (1, 2, 3, 4, 5)
N_NOISE_BANDS = 4

Five = tuple[float, float, float, float, float]
FloatArray = NDArray[np.float64]

_SMALL, _LARGE = 32, 224
_HD = "Hendrycks & Dietterich 2019"


@dataclass(frozen=True)
class Parameter:
    """One number of a corruption, for each severity at both anchor sizes.

    `is_length`: in pixels; beyond the anchors it grows and shrinks with the image, where others stay.
    """

    name: str
    at_32: Five
    at_224: Five
    is_length: bool = False

    def value(self, severity: int, shorter_side: int) -> float:
        """The number at `severity` 1..5 for images of `shorter_side` pixels."""
        small, large = self.at_32[severity - 1], self.at_224[severity - 1]
        way = math.log(shorter_side / _SMALL) / math.log(_LARGE / _SMALL)
        held = min(max(way, 0.0), 1.0)
        # Where one anchor is nought there is no geometric way between them.
        value = (1 - held) * small + held * large
        if small > 0 and large > 0:
            value = small ** (1 - held) * large**held
        if self.is_length:
            value *= (_LARGE / _SMALL) ** (way - held)
        return value


@dataclass(frozen=True)
class Corruption:
    """A corruption: `apply(image, generator, **values)` on one image (1, C, H, W) in [0,1].

    What it returns may leave [0,1]. `source`: where function and parameters come from. `is_random`:
    whether it draws random numbers. `needs_colour`: whether it does nothing to grey images.
    """

    apply: Callable[..., Tensor]
    parameters: tuple[Parameter, ...]
    source: str
    is_random: bool = False
    needs_colour: bool = False

    def values(self, severity: int, height: int, width: int) -> dict[str, float]:
        """Parameters by name at `severity` 1..5 for images of `height` x `width` pixels."""
        side = min(height, width)
        return {each.name: each.value(severity, side) for each in self.parameters}


def gaussian_noise(image: Tensor, generator: np.random.Generator, sigma: float) -> Tensor:
    """White Gaussian noise of standard deviation `sigma`: power sigma^2 HW in every bin."""
    return image + sigma * _as_tensor(generator.standard_normal(image.shape), image)


def shot_noise(image: Tensor, generator: np.random.Generator, photons: float) -> Tensor:
    """Poisson noise of `photons` a channel where the pixel is 1: variance pixel / photons."""
    counts = generator.poisson(image.double().numpy() * photons)
    return _as_tensor(counts / photons, image)


def impulse_noise(image: Tensor, generator: np.random.Generator, share: float) -> Tensor:
    """Salt and pepper: `share` of all values become 0 or 1, half each.

    The values hit at one severity are hit at every higher one too, and alike.
    """
    drawn = _as_tensor(generator.random(image.shape), image)
    salt = _as_tensor(generator.random(image.shape) < 0.5, image)
    return torch.where(drawn < share, salt, image)


def band_noise(image: Tensor, generator: np.random.Generator, sigma: float, band: int) -> Tensor:
    """Gaussian noise of standard deviation `sigma`, all of it in one radial band, 0 (low) .. 3 (high).

    Each channel has its own noise. Raises DataError when the grid holds no wave in that band.
    """
    height, width = image.shape[-2:]
    mask, n_bins = _band(height, width, band)
    if n_bins == 0:
        raise DataError(
            f"Images of {height} x {width} pixels hold no wave in band {band + 1} of {N_NOISE_BANDS}.",
            "Take larger images, or noise in a higher band.",
        )
    spectrum = np.fft.rfft2(generator.standard_normal(image.shape)) * mask
    noise = np.fft.irfft2(spectrum, s=(height, width)) * math.sqrt(height * width / n_bins)
    return image + sigma * _as_tensor(noise, image)


def gaussian_blur(image: Tensor, generator: np.random.Generator, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` pixels; the border goes on as it ends."""
    kernel = _as_tensor(gaussian_kernel(sigma), image)[None]
    blurred: Tensor = kornia.filters.filter2d_separable(image, kernel, kernel, border_type="replicate")
    return blurred


def defocus_blur(image: Tensor, generator: np.random.Generator, radius: float) -> Tensor:
    """A lens out of focus: every point becomes a disk of `radius` pixels."""
    return _filter(image, disk_kernel(radius))


def motion_blur(image: Tensor, generator: np.random.Generator, length: float) -> Tensor:
    """Movement along a line of `length` pixels, in a direction drawn for each image."""
    return _filter(image, line_kernel(length, generator.uniform(0, math.pi)))


def jpeg(image: Tensor, generator: np.random.Generator, quality: float) -> Tensor:
    """JPEG at `quality` 1..100, chroma halved, written and read by Pillow's libjpeg.

    A real codec, as files on disk have gone through one: kornia's differentiable one puts a smooth
    curve in the place of rounding, and all that JPEG does to a spectrum comes from that rounding.
    """
    pixels = (image[0] * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    picture.save(file, "JPEG", quality=round(quality), subsampling="4:2:0")
    decoded = np.asarray(Image.open(file), dtype=np.float64).reshape(pixels.shape)
    return _as_tensor(decoded.transpose(2, 0, 1)[None] / 255, image)


def contrast(image: Tensor, generator: np.random.Generator, factor: float) -> Tensor:
    """Every channel drawn towards its mean: all waves shrink to `factor`, DC stays."""
    # kornia's contrast pivots on one grey mean, which moves the DC of coloured channels. The mean is
    # taken in double precision, where the number of threads that add it up leaves no trace.
    mean = image.mean((-2, -1), keepdim=True, dtype=torch.float64).to(image.dtype)
    return torch.lerp(mean, image, factor)


def brightness(image: Tensor, generator: np.random.Generator, amount: float) -> Tensor:
    """`amount` added to every value: DC alone, where nothing is clipped."""
    brighter: Tensor = kornia.enhance.adjust_brightness(image, amount, clip_output=False)
    return brighter


def saturate(image: Tensor, generator: np.random.Generator, factor: float, offset: float) -> Tensor:
    """Saturation s of HSV becomes factor * s + offset, within [0,1]; first paler, then gaudy."""
    hue, saturation, value = kornia.color.rgb_to_hsv(image).split(1, dim=1)
    changed = torch.cat([hue, (saturation * factor + offset).clamp(0, 1), value], dim=1)
    colours: Tensor = kornia.color.hsv_to_rgb(changed)
    return colours


def pixelate(image: Tensor, generator: np.random.Generator, scale: float) -> Tensor:
    """Brought down to `scale` of its size by area means, and back up in blocks.

    A pixel that two blocks share is divided between them, both ways.
    """
    # Resizing to the nearest pixel moves blocks by up to a pixel: at scales near 1 that changes images
    # more than blocks twice as coarse do; kornia's area resize blurs at some scales and not at others.
    height, width = image.shape[-2:]
    rows, columns = max(int(height * scale), 1), max(int(width * scale), 1)
    blocks = image.double().numpy()
    for axis, lengths in ((-2, (rows, height)), (-1, (columns, width))):
        for length in lengths:
            blocks = _area_means(blocks, length, axis)
    return _as_tensor(blocks, image)


def haze(image: Tensor, generator: np.random.Generator, density: float) -> Tensor:
    """White haze: x + density * f * (1 - x), f in [0,1] a smooth field of its own for each image.

    f is noise of amplitude 1/r^1.5 stretched to [0,1]; nothing leaves [0,1].
    """
    height, width = image.shape[-2:]
    field = _noise_field(generator, (height, width), _power_law(height, width))
    field = (field - field.min()) / (field.max() - field.min())
    veil = density * _as_tensor(field, image)
    return image + veil * (1 - image)


def elastic(image: Tensor, generator: np.random.Generator, shift: float) -> Tensor:
    """Pixels move by a smooth random field of `shift` pixels root mean square a direction.

    The field holds waves longer than about a sixth of the shorter side.
    """
    height, width = image.shape[-2:]
    field = _noise_field(generator, (2, height, width), _gaussian_low_pass(height, width))
    field *= shift / np.sqrt(np.square(field).mean(axis=(-2, -1), keepdims=True))
    rows, columns = np.mgrid[0:height, 0:width]
    moved: Tensor = kornia.geometry.remap(
        image,
        _as_tensor(columns + field[1], image)[None],
        _as_tensor(rows + field[0], image)[None],
        padding_mode="border",
        align_corners=True,
    )
    return moved


@lru_cache(maxsize=64)
def gaussian_kernel(sigma: float) -> FloatArray:
    """Samples of a Gaussian of `sigma` pixels out to four sigma, (n,), n odd, summing to 1."""
    reach = max(math.ceil(4 * sigma), 1)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    return _normal(weights)


@lru_cache(maxsize=64)
def disk_kernel(radius: float) -> FloatArray:
    """A disk of `radius` pixels around the middle one, summing to 1, (n, n), n odd.

    Its points, 16 x 16 a pixel, share themselves out to the four pixels around them, so that a disk
    smaller than a pixel blurs, too.
    """
    reach = math.ceil(radius)
    points = (np.arange(-16 * reach, 16 * reach) + 0.5) / 16
    inside = np.hypot(points[:, None], points[None]) <= radius
    shares = np.clip(1 - np.abs(np.arange(-reach, reach + 1)[:, None] - points[None]), 0, None)
    return _normal(shares @ inside @ shares.T)


def line_kernel(length: float, direction: float) -> FloatArray:
    """A line of `length` pixels through the middle at `direction` (radians from the width), summing to 1.

    Points along the line share themselves out to the four pixels around them, so that any length
    and direction has its own kernel; kornia's motion kernel knows odd whole lengths alone.
    """
    along = np.linspace(-length / 2, length / 2, 16 * math.ceil(length) + 1)
    y, x = along * math.sin(direction), along * math.cos(direction)
    # As small a kernel as the direction allows: its area is what filtering costs.
    reach_y, reach_x = math.ceil(np.abs(y).max()), math.ceil(np.abs(x).max())
    # A border to the far side takes points that lie on the last pixel, with weight nought.
    kernel = np.zeros((2 * reach_y + 2, 2 * reach_x + 2))
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.abs(1 - down - (y - row)) * np.abs(1 - right - (x - column))
        np.add.at(kernel, (row + reach_y + down, column + reach_x + right), weight)
    return _normal(kernel[:-1, :-1])


def _area_means(pixels: FloatArray, n_stretches: int, axis: int) -> FloatArray:
    """Means over equal stretches of an axis, more or fewer than it has pixels.

    Taken from running sums that are read between pixels.
    """
    lines = np.moveaxis(pixels, axis, -1)
    length = lines.shape[-1]
    sums = np.concatenate([np.zeros((*lines.shape[:-1], 1)), lines.cumsum(axis=-1)], axis=-1)
    borders = np.arange(n_stretches + 1) * (length / n_stretches)
    before = np.minimum(borders.astype(int), length - 1)
    at_borders = sums[..., before] + (borders - before) * lines[..., before]
    return np.moveaxis(np.diff(at_borders) * (n_stretches / length), -1, axis)


def _normal(weights: FloatArray) -> FloatArray:
    normal: FloatArray = weights / weights.sum()
    normal.flags.writeable = False
    return normal


def _filter(image: Tensor, kernel: FloatArray) -> Tensor:
    weights = _as_tensor(kernel, image)[None]
    filtered: Tensor = kornia.filters.filter2d(image, weights, border_type="replicate")
    return filtered


def _as_tensor(array: NDArray[np.generic], like: Tensor) -> Tensor:
    # Drawn and computed in double precision, whatever the images are: one field for every dtype.
    return torch.tensor(array, dtype=like.dtype)


def _noise_field(
    generator: np.random.Generator, shape: tuple[int, ...], amplitude: FloatArray
) -> FloatArray:
    """Noise (..., H, W) whose half-plane spectrum has been shaped by `amplitude`; periodic."""
    spectrum = np.fft.rfft2(generator.standard_normal(shape)) * amplitude
    field: FloatArray = np.fft.irfft2(spectrum, s=shape[-2:])
    return field


@lru_cache(maxsize=8)
def _radius(height: int, width: int) -> FloatArray:
    """Radius of every bin of the half plane, in cycles per shorter side."""
    grid = FrequencyGrid(height, width)
    radius: FloatArray = grid.radius[grid.orbit_of_bin]
    return radius


@lru_cache(maxsize=8)
def _power_law(height: int, width: int) -> FloatArray:
    falloff: FloatArray = np.maximum(_radius(height, width), 1e-9) ** -1.5
    falloff[0, 0] = 0
    return falloff


@lru_cache(maxsize=8)
def _gaussian_low_pass(height: int, width: int) -> FloatArray:
    # sigma of a sixteenth of the shorter side, as its transfer; radius / side is cycles per pixel.
    passed: FloatArray = np.exp(-2 * np.square(np.pi * _radius(height, width) / 16))
    # Moving the whole image is no deformation.
    passed[0, 0] = 0
    return passed


@lru_cache(maxsize=8 * N_NOISE_BANDS)
def _band(height: int, width: int, band: int) -> tuple[NDArray[np.bool_], int]:
    """Half-plane mask of a radial band, and its number of bins in the full plane."""
    grid = FrequencyGrid(height, width)
    chosen = grid.bands(N_NOISE_BANDS) == band
    return chosen[grid.orbit_of_bin], int(grid.members[chosen].sum())


_SIGMA = Parameter("sigma", (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))


def _noise_in(band: int) -> Corruption:
    return Corruption(
        partial(band_noise, band=band),
        (_SIGMA,),
        "ours; as strong as gaussian_noise, in one of the four bands of Wang et al. 2023",
        is_random=True,
    )


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (_SIGMA,), _HD, is_random=True),
    "shot_noise": Corruption(
        shot_noise,
        (Parameter("photons", (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),),
        _HD,
        is_random=True,
    ),
    "impulse_noise": Corruption(
        impulse_noise,
        (Parameter("share", (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),),
        _HD,
        is_random=True,
    ),
    "gaussian_blur": Corruption(
        gaussian_blur,
        (Parameter("sigma", (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6), is_length=True),),
        _HD,
    ),
    "defocus_blur": Corruption(
        defocus_blur,
        (Parameter("radius", (0.38, 0.59, 0.85, 1.02, 1.42), (3, 4, 6, 8, 10), is_length=True),),
        f"{_HD}; at 32 pixels, disks as wide (standard deviation) as the kernels of CIFAR-10-C",
    ),
    "motion_blur": Corruption(
        motion_blur,
        (Parameter("length", (2, 3, 4, 4.6, 5.2), (6, 10, 16, 24, 30), is_length=True),),
        f"{_HD}; lines as wide (standard deviation) as its one-sided Gaussian trails, in any direction",
        is_random=True,
    ),
    "jpeg": Corruption(
        jpeg,
        (Parameter("quality", (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),),
        _HD,
    ),
    "contrast": Corruption(
        contrast,
        (Parameter("factor", (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),),
        _HD,
    ),
    "brightness": Corruption(
        brightness,
        (Parameter("amount", (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),),
        f"{_HD}; added to the pixels, not to V of HSV",
    ),
    "saturate": Corruption(
        saturate,
        (
            Parameter("factor", (0.3, 0.1, 1.5, 2, 2.5), (0.3, 0.1, 2, 5, 20)),
            Parameter("offset", (0, 0, 0, 0.1, 0.2), (0, 0, 0, 0.1, 0.2)),
        ),
        _HD,
        needs_colour=True,
    ),
    "pixelate": Corruption(
        pixelate,
        (Parameter("scale", (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),),
        _HD,
    ),
    "haze": Corruption(
        haze,
        (Parameter("density", (0.17, 0.33, 0.43, 0.5, 0.6), (0.4, 0.55, 0.7, 0.8, 0.9)),),
        f"ours, in the place of fog; at 32 pixels as dense as that of {_HD}",
        is_random=True,
    ),
    "elastic": Corruption(
        elastic,
        (Parameter("shift", (0.3, 0.45, 0.6, 0.8, 1), (2, 3, 4, 5.5, 7), is_length=True),),
        "ours; a smooth field of random shifts",
        is_random=True,
    ),
    "band_noise_1": _noise_in(0),
    "band_noise_2": _noise_in(1),
    "band_noise_3": _noise_in(2),
    "band_noise_4": _noise_in(3),
}
