"""The measured power spectrum of a shift: what it adds to every orbit, and what it passes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.transform import spectrum_of

__all__ = ["BandSpectrum", "ShiftRecord", "ShiftSpectrum", "SpectrumTotals"]

FloatArray = NDArray[np.float64]

_CACHED_VALUES = 2**16


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BandSpectrum(_Frozen):
    """One radial band of a shift's spectrum; powers are mean squares of pixels in [0,1].

    Powers of all bands add up to the mean square of a pixel value (Parseval).
    """

    band: Annotated[str, Field(description="dc, or the radii it runs over in cycles per shorter side.")]
    n_orbits: int
    clean_power: float
    corrupted_power: float
    difference_power: Annotated[float, Field(description="Of what the shift adds: corrupted - clean.")]
    power_ratio: Annotated[float | None, Field(description="corrupted_power / clean_power.")]
    transfer: Annotated[
        float | None,
        Field(description="Share of the clean amplitude passed on, in phase: real part of Y X* / |X|^2."),
    ]
    coherence: Annotated[
        float | None,
        Field(
            description="Share of the corrupted power that is the clean image, each orbit filtered alike"
            " in all images; 0..1, and by chance about 1 in (images times channels)."
        ),
    ]


class ShiftSpectrum(_Frozen):
    """The spectrum of one corruption at one severity, band by band, and how much was clipped."""

    split: Annotated[str, Field(description="Folder, or end of the arrays' names, of the images.")]
    corruption: str
    severity: int
    parameters: dict[str, float]
    n_images: int
    clipped_share: Annotated[
        float | None,
        Field(
            description="Share of pixel values beyond [0,1] by over half a step of 1/255, all clipped."
        ),
    ]
    bands: tuple[BandSpectrum, ...]


@dataclass(frozen=True)
class SpectrumTotals:
    """Sums over images of a shift's spectra, per orbit; sums of disjoint images add with `+`.

    With X the spectrum of a clean image and Y of its corrupted copy (unnormalised transforms), per bin
    and summed over images and channels: `clean` |X|^2, `corrupted` |Y|^2, `difference` |Y - X|^2,
    `cross` Y X* (complex); each (n_orbits,). `n_channels_seen`: images times channels. `n_clipped`:
    values that clipping moved by more than half a step of 1/255, of `n_values`.
    """

    grid: FrequencyGrid
    n_images: int
    n_channels_seen: int
    clean: FloatArray
    corrupted: FloatArray
    difference: FloatArray
    cross: NDArray[np.complex128]
    n_clipped: int
    n_values: int

    @classmethod
    def of(cls, clean: Tensor, corrupted: Tensor, unclipped: Tensor | None = None) -> SpectrumTotals:
        """Totals of `clean` and `corrupted` (B, C, H, W), pixels in [0,1]; sums in double precision.

        `unclipped`: the corrupted images before clipping, which the clipped share is counted on.
        """
        grid = FrequencyGrid(*clean.shape[-2:])
        raw = corrupted if unclipped is None else unclipped
        sums = np.zeros((4, grid.height, grid.n_half_columns), dtype=np.complex128)
        # As many images at a time as stay in a processor's cache.
        step = max(1, _CACHED_VALUES // max(1, clean[:1].numel()))
        for start in range(0, len(clean), step):
            rows = slice(start, start + step)
            before, after = _spectra(clean[rows]), _spectra(corrupted[rows])
            for row, (a, b) in enumerate(
                ((before, before), (after, after), (after - before, after - before), (after, before))
            ):
                sums[row] += (a * b.conj()).sum(dim=0).numpy()
        by_orbit = sums[:, grid.rows, grid.columns]
        return cls(
            grid=grid,
            n_images=len(clean),
            n_channels_seen=len(clean) * clean.shape[1],
            clean=by_orbit[0].real,
            corrupted=by_orbit[1].real,
            difference=by_orbit[2].real,
            cross=by_orbit[3],
            n_clipped=int(((raw < -0.5 / 255) | (raw > 1 + 0.5 / 255)).sum()),
            n_values=raw.numel(),
        )

    def __add__(self, other: SpectrumTotals) -> SpectrumTotals:
        if self.grid != other.grid:
            raise ValueError(f"spectra of {self.grid} and {other.grid} do not add")
        return SpectrumTotals(
            grid=self.grid,
            n_images=self.n_images + other.n_images,
            n_channels_seen=self.n_channels_seen + other.n_channels_seen,
            clean=self.clean + other.clean,
            corrupted=self.corrupted + other.corrupted,
            difference=self.difference + other.difference,
            cross=self.cross + other.cross,
            n_clipped=self.n_clipped + other.n_clipped,
            n_values=self.n_values + other.n_values,
        )

    @property
    def clean_power(self) -> FloatArray:
        """Mean |X|^2 of a bin of every orbit, (n_orbits,); white noise has sigma^2 HW everywhere."""
        return self.clean / max(self.n_channels_seen, 1)

    @property
    def corrupted_power(self) -> FloatArray:
        """Mean |Y|^2 of a bin of every orbit, (n_orbits,)."""
        return self.corrupted / max(self.n_channels_seen, 1)

    @property
    def difference_power(self) -> FloatArray:
        """Mean |Y - X|^2 of a bin of every orbit, (n_orbits,)."""
        return self.difference / max(self.n_channels_seen, 1)

    @property
    def transfer(self) -> NDArray[np.complex128]:
        """The linear filter that best explains the shift, sum Y X* / sum |X|^2, (n_orbits,).

        nan where the clean images have no power. A blur gives the transform of its kernel.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.clean > 0, self.cross / self.clean, np.nan)

    @property
    def coherence(self) -> FloatArray:
        """|sum Y X*|^2 / (sum |X|^2 sum |Y|^2), (n_orbits,), 0..1; nan where either has no power.

        Of the power that an orbit has after the shift, the share that is the clean image filtered;
        the rest was put there.
        """
        both = self.clean * self.corrupted
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(both > 0, np.abs(self.cross) ** 2 / both, np.nan)

    @property
    def clipped_share(self) -> float | None:
        """Share of values that clipping moved by more than half a step of 1/255."""
        return self.n_clipped / self.n_values if self.n_values else None

    def bands(self, n_bands: int = 4) -> tuple[BandSpectrum, ...]:
        """DC, then `n_bands` radial bands from low to high as `FrequencyGrid.bands` cuts them."""
        number = self.grid.bands(n_bands)
        width = min(self.grid.height, self.grid.width) / 2 / n_bands
        names = ["dc", *(f"{b * width:g}-{(b + 1) * width:g}" for b in range(n_bands - 1))]
        names.append(f"{(n_bands - 1) * width:g}-")
        return tuple(
            self._band(name, number == band)
            for name, band in zip(names, range(-1, n_bands), strict=True)
            if (number == band).any()
        )

    def _band(self, name: str, chosen: NDArray[np.bool_]) -> BandSpectrum:
        members = self.grid.members[chosen]
        # Parseval: sum over bins of |X|^2 / (HW)^2 is the mean square of the image.
        scale = max(self.n_channels_seen, 1) * (self.grid.height * self.grid.width) ** 2

        def total(sums: NDArray[Any]) -> Any:
            return (members * sums[chosen]).sum() / scale

        clean, corrupted = float(total(self.clean)), float(total(self.corrupted))
        explained = float(total(np.abs(self.cross) ** 2 / np.where(self.clean > 0, self.clean, np.inf)))
        return BandSpectrum(
            band=name,
            n_orbits=int(chosen.sum()),
            clean_power=clean,
            corrupted_power=corrupted,
            difference_power=float(total(self.difference)),
            power_ratio=corrupted / clean if clean > 0 else None,
            transfer=float(total(self.cross.real)) / clean if clean > 0 else None,
            coherence=min(explained / corrupted, 1.0) if corrupted > 0 else None,
        )


class ShiftRecord(_Frozen):
    """All that was measured while a set was shifted: `spectra.json`."""

    format: Literal[1] = 1
    tool: str = "shortcut-audit"
    version: str
    source: Annotated[str, Field(description="The set that was corrupted, as it was named.")]
    seed: int
    channels: int
    height: int
    width: int
    n_images: int
    shifts: tuple[ShiftSpectrum, ...]

    def as_text(self) -> str:
        """JSON, as saved beside the images."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def _spectra(pixels: Tensor) -> Tensor:
    """Half-plane spectra (B * C, H, W//2+1), complex double, of pixels (B, C, H, W)."""
    return spectrum_of(pixels.detach().cpu().double()).flatten(0, 1)
