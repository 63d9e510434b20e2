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

__all__ = ["OrbitWaves", "apply_mask", "orbit_amplitude", "spectrum_of", "transplant"]


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


def transplant(receivers: Tensor, donors: Tensor, mask: Tensor, width: int) -> Tensor:
    """Pixels of `receivers` with what `donors` have under `mask` in place of their own.

    `receivers`, `donors` (..., H, W//2+1) complex spectra; `mask` bool, broadcastable to them and
    Hermitian, which keeps the result real; `width` the image width W. Returns real (..., H, W).
    """
    mixed = torch.where(mask, donors, receivers)
    pixels: Tensor = torch.fft.irfft2(mixed, s=(mixed.shape[-2], width))
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

    `row_phase` (H, H) complex: e^{2 pi i u y / H}; `column_phase` (W//2+1, W): e^{2 pi i v x / W}.
    """

    grid: FrequencyGrid
    row_of: Tensor
    column_of: Tensor
    scale: Tensor
    row_phase: Tensor
    column_phase: Tensor

    @classmethod
    def build(cls, grid: FrequencyGrid, device: torch.device, dtype: torch.dtype) -> OrbitWaves:
        """Tables for `grid` on `device`; phases are taken exactly, in integers modulo the size."""
        height, width = grid.height, grid.width
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        return cls(
            grid=grid,
            row_of=torch.from_numpy(grid.rows).to(device),
            column_of=torch.from_numpy(grid.columns).to(device),
            scale=torch.from_numpy(grid.members / (height * width)).to(device, dtype),
            row_phase=_phase_table(height, height).to(device, complex_dtype),
            column_phase=_phase_table(grid.n_half_columns, width).to(device, complex_dtype),
        )

    def coefficients(self, spectrum: Tensor, images: Tensor, orbits: Tensor) -> Tensor:
        """Wave coefficients m/(HW) X of each probe, (P, C) complex.

        `spectrum` (n, C, H, W//2+1); `images`, `orbits` (P,) integers: image and orbit of each probe.
        """
        found = spectrum[images, :, self.row_of[orbits], self.column_of[orbits]]
        return found * self.scale[orbits][:, None]

    def subtract_(self, pixels: Tensor, coefficients: Tensor, orbits: Tensor) -> None:
        """Subtract from each of `pixels` (B, C, H, W) its own wave, in place.

        `coefficients` (B, C) as from `coefficients`, `orbits` (B,). The memory of `pixels` is dense,
        in torch's contiguous or channels-last order.
        """
        y_phase = self.row_phase[self.row_of[orbits]]
        x_phase = self.column_phase[self.column_of[orbits]]
        if pixels.is_contiguous(memory_format=torch.channels_last):
            # Columns and channels lie side by side: one long vector for every row of the image.
            n_images, channels, height, width = pixels.shape
            rows = pixels.permute(0, 2, 3, 1).view(n_images, height, width * channels)
            wave = _parts(x_phase[:, :, None] * coefficients[:, None, :]).view(n_images, 2, 1, -1)
            rows.addcmul_(y_phase.real[:, :, None], wave[:, 0], value=-1)
            rows.addcmul_(y_phase.imag[:, :, None], wave[:, 1])
        else:
            wave = coefficients[:, :, None] * y_phase[:, None, :]
            columns = _parts(x_phase)
            pixels.addcmul_(wave.real[..., None], columns[:, 0, None, None], value=-1)
            pixels.addcmul_(wave.imag[..., None], columns[:, 1, None, None])


def _phase_table(n_frequencies: int, size: int) -> Tensor:
    cycles = np.outer(np.arange(n_frequencies), np.arange(size)) % size
    return torch.from_numpy(np.exp(1j * cycles * (2 * math.pi / size)))


def _parts(values: Tensor) -> Tensor:
    """Real and imaginary parts (B, 2, ...) of `values` (B, ...), each dense, for fast arithmetic."""
    return torch.stack([values.real, values.imag], dim=1)
