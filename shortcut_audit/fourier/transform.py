"""Transforms of pixel batches in and out of the Fourier plane; tensors in, tensors out.

Unnormalised forward transform, as `torch.fft.rfft2`: X(u, v) = sum_yx x(y, x) exp(-2 pi i (uy/H + vx/W)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shortcut_audit.fourier.grid import FrequencyGrid

__all__ = ["OrbitWaves", "apply_mask", "orbit_amplitude", "spectrum_of"]


def spectrum_of(pixels: Tensor) -> Tensor:
    """Half-plane spectrum (..., H, W//2+1), complex, of real `pixels` (..., H, W)."""
    spectrum: Tensor = torch.fft.rfft2(pixels)
    return spectrum


def apply_mask(spectrum: Tensor, mask: Tensor, width: int) -> Tensor:
    """Pixels that are left when only the bins under `mask` stay.

    `spectrum` (..., H, W//2+1) complex, `mask` broadcastable to it (bool or real), `width` the
    image width W (odd and even widths share a half plane). Returns real (..., H, W).
    """
    pixels: Tensor = torch.fft.irfft2(spectrum * mask, s=(spectrum.shape[-2], width))
    return pixels


def orbit_amplitude(spectrum: Tensor, grid: FrequencyGrid) -> Tensor:
    """|X| of every orbit, (..., n_orbits), from a half-plane spectrum (..., H, W//2+1)."""
    rows = torch.from_numpy(grid.rows).to(spectrum.device)
    columns = torch.from_numpy(grid.columns).to(spectrum.device)
    return spectrum[..., rows, columns].abs()


@dataclass(frozen=True)
class OrbitWaves:
    """Removes single orbits from images by subtracting their plane wave, without an inverse FFT.

    The wave of orbit (u, v) in an image with spectrum X is m/(HW) * Re(X(u, v) e^{i t}) with
    t = 2 pi (uy/H + vx/W) and m the number of members. e^{it} is a product of a factor of y and
    a factor of x, so two small tables serve every orbit of any image size.

    `rows_table` (H, H) complex: e^{2 pi i u y / H}; `cos_table`, `sin_table` (W//2+1, W) real.
    """

    grid: FrequencyGrid
    row_of: Tensor
    column_of: Tensor
    scale: Tensor
    rows_table: Tensor
    cos_table: Tensor
    sin_table: Tensor

    @classmethod
    def build(cls, grid: FrequencyGrid, device: torch.device, dtype: torch.dtype) -> OrbitWaves:
        """Tables for `grid` on `device`; phases are taken exactly, in integers modulo the size."""
        height, width = grid.height, grid.width
        y_phase = np.outer(np.arange(height), np.arange(height)) % height * (2 * math.pi / height)
        x_cycles = np.outer(np.arange(grid.n_half_columns), np.arange(width)) % width
        x_phase = x_cycles * (2 * math.pi / width)
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        return cls(
            grid=grid,
            row_of=torch.from_numpy(grid.rows).to(device),
            column_of=torch.from_numpy(grid.columns).to(device),
            scale=torch.from_numpy(grid.members / (height * width)).to(device, dtype),
            rows_table=torch.from_numpy(np.exp(1j * y_phase)).to(device, complex_dtype),
            cos_table=torch.from_numpy(np.cos(x_phase)).to(device, dtype),
            sin_table=torch.from_numpy(np.sin(x_phase)).to(device, dtype),
        )

    def coefficients(self, spectrum: Tensor) -> Tensor:
        """Wave coefficients m/(HW) X, (n, n_orbits, C), of spectra (n, C, H, W//2+1).

        Channels come last so that the coefficients of one probe lie together.
        """
        by_orbit = spectrum[..., self.row_of, self.column_of] * self.scale
        return by_orbit.transpose(1, 2).contiguous()

    def remove(self, pixels: Tensor, coefficients: Tensor, images: Tensor, orbits: Tensor) -> Tensor:
        """One image per probe, with that probe's orbit removed.

        `pixels` (n, C, H, W); `coefficients` (n, n_orbits, C) of the same images; `images`,
        `orbits` (B,) integers: image and orbit of each probe. Returns a fresh (B, C, H, W).
        """
        wave = coefficients[images, orbits][:, :, None] * self.rows_table[self.row_of[orbits]][:, None]
        columns = self.column_of[orbits]
        left = pixels[images]
        left.addcmul_(wave.real[..., None], self.cos_table[columns][:, None, None, :], value=-1)
        left.addcmul_(wave.imag[..., None], self.sin_table[columns][:, None, None, :])
        return left
