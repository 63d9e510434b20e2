"""Band-biased synthetic images with known truth, after the Syn_1..Syn_4 of Wang et al., ICCV 2023.

The published sets came without their generator. Here every image is a Gaussian texture: orbit o of
each channel has the coefficient A(o) z with z complex standard normal, so a Rayleigh amplitude and a
uniform phase, where A falls as 1/radius^slope and carries the gains of bands and classes. On the
special orbits of a class, z gives way to a cosine of the same amplitude in every image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shortcut_audit.data.toml_files import read_toml
from shortcut_audit.data.waves import (
    orbit_numbers,
    stream_of,
    to_half_plane,
    uniform,
    wave_coefficient,
    wave_values,
)
from shortcut_audit.data.writing import FORMATS, SetWriter
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.truth import GroundTruth, Pattern
from shortcut_audit.version import __version__

__all__ = [
    "BandGain",
    "ClassRecipe",
    "SpecialOrbits",
    "Synthesis",
    "SyntheticRecipe",
    "read_synthetic",
    "write_synthetic",
]

# Most pixel values that may be clipped to 0..255: beyond, the spectrum is no longer the recipe's.
MAX_CLIPPED = 0.01
# Share of a band's power that 8 bits may add or take, beyond the white noise of rounding.
MAX_DISTORTION = 0.02
_BLOCK = 512
Floats = NDArray[np.float64]
Gain = Annotated[float, Field(gt=0, le=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BandGain(_Part):
    """A gain of amplitude on a band, or on a sector of it; `angle` in degrees within [-90, 90]."""

    band: Annotated[int, Field(ge=1)]
    gain: Gain
    angle: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _angles_in_order(self) -> BandGain:
        if self.angle is not None and not -90 <= self.angle[0] < self.angle[1] <= 90:
            raise ValueError("angle goes from a lower to a higher one within -90..90 degrees")
        return self


class SpecialOrbits(_Part):
    """Orbits with constant amplitude in every image of a class.

    Either `orbits` by (u, v), or `n_orbits` of `band`, drawn by the seed. `strength`: amplitude of
    each cosine, in 1/255. `phase`: drawn anew for every image, or once for all.
    """

    strength: Annotated[float, Field(gt=0, le=255)]
    orbits: tuple[tuple[int, int], ...] = ()
    band: Annotated[int, Field(ge=1)] | None = None
    n_orbits: Annotated[int, Field(ge=1)] | None = None
    phase: Literal["random", "fixed"] = "random"

    @model_validator(mode="after")
    def _either_or(self) -> SpecialOrbits:
        if bool(self.orbits) == (self.band is not None and self.n_orbits is not None) or (
            self.orbits and (self.band is not None or self.n_orbits is not None)
        ):
            raise ValueError("give either orbits, or band and n_orbits")
        return self


class ClassRecipe(_Part):
    """What sets one class apart."""

    gains: tuple[BandGain, ...] = ()
    special: tuple[SpecialOrbits, ...] = ()


class SyntheticRecipe(_Part):
    """A whole set. `size`: (H, W). `contrast`: standard deviation of pixels without any gain of a
    class or special orbit, in [0,1]. `bands`: a number of equal rings up to Nyquist, or their radii
    as [low, high) pairs; the last ring takes the corners where it ends at Nyquist."""

    kind: Literal["synthetic"]
    name: str
    description: str = ""
    size: tuple[Annotated[int, Field(ge=4, le=4096)], Annotated[int, Field(ge=4, le=4096)]] = (32, 32)
    channels: Literal[1, 3] = 3
    mean: Annotated[float, Field(gt=0, lt=1)] = 0.5
    contrast: Annotated[float, Field(gt=0, lt=0.5)] = 0.12
    slope: Annotated[float, Field(ge=0, le=4)] = 1.0
    bands: Annotated[int, Field(ge=1)] | tuple[tuple[float, float], ...] = 4
    gains: tuple[BandGain, ...] = ()
    n_by_split: dict[str, Annotated[int, Field(ge=1)]] = {"train": 500, "test": 250}
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    licence: str = "none needed: made by a program"
    classes: dict[str, ClassRecipe]

    @model_validator(mode="after")
    def _fits(self) -> SyntheticRecipe:
        if len(self.classes) < 2:
            raise ValueError("a set has at least two classes")
        bad = [s for s in self.n_by_split if not s.isidentifier()]
        if not self.n_by_split:
            raise ValueError("a set has at least one split")
        if bad:
            raise ValueError(f"a split is called by a plain word, not {bad[0]!r}")
        edges = self.band_edges
        nyquist = min(self.size) / 2
        for (low, high), following in zip(edges, (*edges[1:], None), strict=True):
            if not 0 <= low < high:
                raise ValueError(f"band {low:g}-{high:g} is empty: its radii go from low to high")
            if following is not None and following[0] < high:
                raise ValueError(
                    f"bands {low:g}-{high:g} and {following[0]:g}-{following[1]:g} overlap or are out"
                    " of order"
                )
            if high > nyquist:
                raise ValueError(
                    f"band {low:g}-{high:g} leaves the plane: the Nyquist radius is {nyquist:g}"
                )
        numbers = [g.band for g in self.gains]
        numbers += [g.band for c in self.classes.values() for g in c.gains]
        numbers += [s.band for c in self.classes.values() for s in c.special if s.band is not None]
        beyond = [number for number in numbers if number > len(edges)]
        if beyond:
            raise ValueError(f"there is no band {beyond[0]}: the set has {len(edges)}")
        return self

    @property
    def band_edges(self) -> tuple[tuple[float, float], ...]:
        """Radii of every band."""
        if isinstance(self.bands, int):
            width = min(self.size) / 2 / self.bands
            return tuple((width * k, width * (k + 1)) for k in range(self.bands))
        return self.bands

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order."""
        return tuple(self.classes)


class _RecipeFile(_Part):
    """The file: one table `set`, so that one folder can hold recipes of several kinds."""

    set: SyntheticRecipe


def read_synthetic(path: Path) -> SyntheticRecipe:
    """Read a recipe of a synthetic set. Raises SettingsError."""
    return read_toml(path, _RecipeFile, "recipe", "docs/known-truth.md").set


@dataclass(frozen=True)
class Synthesis:
    """A recipe with its special orbits drawn, ready to make images."""

    recipe: SyntheticRecipe
    seed: int

    @cached_property
    def grid(self) -> FrequencyGrid:
        """Fourier grid of the images."""
        return FrequencyGrid(*self.recipe.size)

    @cached_property
    def band_of_orbit(self) -> NDArray[np.int64]:
        """Band of every orbit, 1-based; 0 for DC and between bands."""
        grid, edges = self.grid, self.recipe.band_edges
        band = np.zeros(grid.n_orbits, dtype=np.int64)
        for number, (low, high) in enumerate(edges, start=1):
            corners = number == len(edges) and high == min(self.recipe.size) / 2
            within = (grid.radius >= low) & ((grid.radius < high) | corners)
            band[within] = number
        band[0] = 0
        return band

    @cached_property
    def special(self) -> tuple[tuple[tuple[NDArray[np.int64], SpecialOrbits], ...], ...]:
        """Orbit numbers of every special pattern of every class; what is drawn keeps off all others.

        Raises SettingsError for orbits outside the grid, named twice in a class, and for more than a
        band holds.
        """
        taken: set[int] = set()
        for name, of_class in self.recipe.classes.items():
            named = tuple(orbit for pattern in of_class.special for orbit in pattern.orbits)
            taken.update(orbit_numbers(self.grid, named, f"class {name!r}").tolist())
        found = []
        for label, (name, of_class) in enumerate(self.recipe.classes.items()):
            patterns = []
            for number, pattern in enumerate(of_class.special):
                orbits = np.sort(orbit_numbers(self.grid, pattern.orbits, f"class {name!r}"))
                if not pattern.orbits:
                    orbits = self._drawn(name, label, number, pattern, taken)
                    taken.update(orbits.tolist())
                patterns.append((orbits, pattern))
            found.append(tuple(patterns))
        return tuple(found)

    def _drawn(
        self, name: str, label: int, number: int, pattern: SpecialOrbits, taken: set[int]
    ) -> NDArray[np.int64]:
        grid = self.grid
        free = np.flatnonzero((self.band_of_orbit == pattern.band) & (grid.members == 2))
        free = free[~np.isin(free, list(taken))]
        assert pattern.n_orbits is not None
        if pattern.n_orbits > len(free):
            raise SettingsError(
                f"Class {name!r} asks for {pattern.n_orbits} special orbits of band {pattern.band},"
                f" which has {len(free)} left.",
                "Ask for fewer, or for a wider band.",
            )
        order = np.argsort(uniform(stream_of(self.seed, 1, label, number), len(free)), kind="stable")
        return np.sort(free[order[: pattern.n_orbits]])

    @cached_property
    def amplitude(self) -> Floats:
        """Root mean square of |X| over images, (n_classes, n_orbits), without the special orbits.

        Raises SettingsError for a gain on a band, or a sector of one, that holds no orbit.
        """
        recipe, grid = self.recipe, self.grid
        height, width = recipe.size
        base = np.zeros(grid.n_orbits)
        base[1:] = grid.radius[1:] ** -recipe.slope
        for gain in recipe.gains:
            base[self._reached(gain)] *= gain.gain
        # Parseval: sum of members |X|^2 is HW times the sum of squares, so (HW)^2 times the variance.
        base *= recipe.contrast * height * width / np.sqrt((grid.members * base**2).sum())
        amplitude = np.tile(base, (len(recipe.classes), 1))
        for label, name in enumerate(recipe.class_names):
            for gain in recipe.classes[name].gains:
                amplitude[label, self._reached(gain)] *= gain.gain
        return amplitude

    def _reached(self, gain: BandGain) -> NDArray[np.bool_]:
        within: NDArray[np.bool_] = self.band_of_orbit == gain.band
        if gain.angle is not None:
            low, high = gain.angle
            angle = self.grid.angle
            # Waves along the height stand at 90 degrees, and -90 is the same direction.
            within = within & (angle >= low) & ((angle < high) | (angle == high) & (high == 90))
        if not within.any():
            height, width = self.recipe.size
            sector = f" between {gain.angle[0]:g} and {gain.angle[1]:g} degrees" if gain.angle else ""
            raise SettingsError(
                f"No orbit of images of {height} x {width} pixels lies in band {gain.band}{sector}, and"
                " none can be given a gain.",
                "Widen it, or leave that gain out.",
            )
        return within

    def expected_band_power(self) -> dict[str, tuple[float, ...]]:
        """Sum of members * E|X|^2 over the orbits of each band, by class, rounding to 8 bits included."""
        grid = self.grid
        # Rounding adds white noise of variance 1/12 of a step.
        rounding = grid.height * grid.width / 12 / 255**2
        power = {}
        for label, name in enumerate(self.recipe.class_names):
            of_orbit = self.amplitude[label] ** 2
            for orbits, pattern in self.special[label]:
                of_orbit[orbits] = wave_coefficient(grid, orbits, pattern.strength) ** 2
            power[name] = tuple(
                float((grid.members * (of_orbit + rounding))[self.band_of_orbit == number].sum())
                for number in range(1, len(self.recipe.band_edges) + 1)
            )
        return power

    def require_faithful(self) -> None:
        """Raise DataError where 8 bits cannot hold the spectrum that the recipe states.

        Clipping and coarse rounding add power of their own; a few images of each class show how much.
        """
        grid, recipe = self.grid, self.recipe
        n = max(8, min(64, (1 << 20) // (grid.height * grid.width * recipe.channels)))
        rounding = grid.height * grid.width / 12 / 255**2
        for label, name in enumerate(recipe.class_names):
            fixed = self._fixed_phases(label)
            values = self._values(label, n, stream_of(self.seed, 4, label), fixed)
            rounded = np.rint(values)
            written = np.clip(rounded, 0, 255)
            _refuse_clipping(recipe, float((written != rounded).mean()))
            power = [
                (np.abs(np.fft.rfft2(each / 255)) ** 2).mean(axis=(0, 1)) for each in (written, values)
            ]
            added = (power[0] - power[1])[grid.rows, grid.columns] - rounding
            for number, expected in enumerate(self.expected_band_power()[name], start=1):
                within = self.band_of_orbit == number
                share = float((grid.members * added)[within].sum()) / expected
                # Where rounding is no small part of the power, the few images leave an error too.
                noise = rounding * float(grid.members[within].sum()) / expected
                error = 2 * np.sqrt(noise / (n * recipe.channels * within.sum()))
                if abs(share) > MAX_DISTORTION + 4 * error:
                    raise self._unfaithful(name, number, share)

    def _unfaithful(self, name: str, band: int, share: float) -> DataError:
        return DataError(
            f"In 8 bits, the power of band {band} of class {name!r} would be {100 * share:+.0f}% off what"
            f" the recipe {self.recipe.name!r} states.",
            "Raise contrast where waves are fainter than a step of 1/255; lower contrast, gains or"
            " strength where pixels are clipped.",
        )

    def _is_shared(self, orbits: NDArray[np.int64], pattern: SpecialOrbits) -> bool:
        """Whether every class has the same special orbits, of the same strength: then they tell none."""
        return all(
            any(
                np.array_equal(orbits, others) and pattern.strength == other.strength
                for others, other in of_class
            )
            for of_class in self.special
        )

    def patterns(self) -> tuple[Pattern, ...]:
        """What tells the classes apart, for the truth file."""
        grid, found = self.grid, []
        for label, name in enumerate(self.recipe.class_names):
            for orbits, pattern in self.special[label]:
                found.append(
                    Pattern(
                        name=f"special orbits of {name}",
                        kind="special orbits",
                        role="decoy" if self._is_shared(orbits, pattern) else "shortcut",
                        classes=(name,),
                        orbits=tuple((int(grid.u[o]), int(grid.v[o])) for o in orbits),
                        amplitude=(pattern.strength,) * len(orbits),
                        bands=tuple(sorted({int(self.band_of_orbit[o]) for o in orbits} - {0})),
                        phase=pattern.phase,
                    )
                )
            for gain in self.recipe.classes[name].gains:
                reached = np.flatnonzero(self._reached(gain))
                found.append(
                    Pattern(
                        name=f"gain {gain.gain:g} of {name}",
                        kind="gain",
                        role="shortcut",
                        classes=(name,),
                        orbits=tuple((int(grid.u[o]), int(grid.v[o])) for o in reached),
                        bands=(gain.band,),
                        phase="random",
                    )
                )
        return tuple(found)

    def blocks(self, split: str) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], int]]:
        """Images (b, H, W, C), labels (b,) and clipped values of a split, classes taking turns.

        Every class and split has its own stream of random numbers, drawn in the order of its images:
        how many other classes there are, and how many images follow, moves none.
        """
        n_classes, n_images = len(self.recipe.classes), self.recipe.n_by_split[split]
        number = list(self.recipe.n_by_split).index(split)
        streams = [stream_of(self.seed, 2, number, label) for label in range(n_classes)]
        fixed = [self._fixed_phases(label) for label in range(n_classes)]
        step = max(1, _BLOCK * 1024 // (self.recipe.size[0] * self.recipe.size[1]) // n_classes)
        for start in range(0, n_images, step):
            n = min(step, n_images - start)
            images = np.empty((n, n_classes, *self.recipe.size, self.recipe.channels), dtype=np.uint8)
            clipped = 0
            for label in range(n_classes):
                values = self._values(label, n, streams[label], fixed[label])
                np.rint(values, out=values)
                clipped += int(np.count_nonzero((values < 0) | (values > 255)))
                images[:, label] = np.clip(values, 0, 255).transpose(0, 2, 3, 1)
            labels = np.tile(np.arange(n_classes), n)
            yield images.reshape(n * n_classes, *images.shape[2:]), labels, clipped

    def _fixed_phases(self, label: int) -> list[Floats]:
        return [
            uniform(stream_of(self.seed, 3, label, number), len(orbits)) * 2 * np.pi
            for number, (orbits, _) in enumerate(self.special[label])
        ]

    def _values(self, label: int, n: int, stream: np.random.Generator, fixed: list[Floats]) -> Floats:
        """Unrounded values (n, C, H, W), in 0..255, of the next images of a class."""
        recipe, grid = self.recipe, self.grid
        n_special = sum(len(orbits) for orbits, _ in self.special[label])
        n_waves = recipe.channels * grid.n_orbits
        drawn = uniform(stream, n * (2 * n_waves + n_special)).reshape(n, -1)
        radial = drawn[:, :n_waves].reshape(n, recipe.channels, grid.n_orbits)
        phase = drawn[:, n_waves : 2 * n_waves].reshape(radial.shape) * (2 * np.pi)
        # -log(1 - U) is the squared Rayleigh amplitude with mean 1; U never reaches 1.
        size = np.sqrt(-np.log1p(-radial)) * self.amplitude[label]
        half = np.empty(radial.shape, dtype=np.complex128)
        half.real, half.imag = size * np.cos(phase), size * np.sin(phase)
        # Where an orbit is its own conjugate the coefficient is real, of the same variance.
        own = grid.members == 1
        half[:, :, own] = half[:, :, own].real * np.sqrt(2)
        start = 2 * n_waves
        for (orbits, pattern), phases in zip(self.special[label], fixed, strict=True):
            own_phases = drawn[:, start : start + len(orbits)] * (2 * np.pi)
            start += len(orbits)
            angle = own_phases if pattern.phase == "random" else np.broadcast_to(phases, own_phases.shape)
            half[:, :, orbits] = wave_values(grid, orbits, pattern.strength, angle)[:, None]
        half[:, :, 0] = recipe.mean * grid.height * grid.width
        pixels: Floats = np.fft.irfft2(to_half_plane(grid, half), s=recipe.size)
        pixels *= 255
        return pixels


def write_synthetic(
    recipe: SyntheticRecipe,
    out: Path,
    *,
    seed: int | None = None,
    formats: tuple[str, ...] = FORMATS,
    replace: bool = False,
) -> GroundTruth:
    """Make the set of `recipe` in the folder `out`; the same seed gives the same bytes everywhere.

    `seed` overrules the recipe's own. Returns the truth, as saved with the set. Raises SettingsError
    for what the grid cannot hold, DataError where more than 1% of pixel values would be clipped.
    """
    made = Synthesis(recipe, recipe.seed if seed is None else seed)
    height, width = recipe.size
    # Worked out, and so checked, before anything is written.
    patterns, expected = made.patterns(), made.expected_band_power()
    made.require_faithful()
    clipped = total = 0
    with SetWriter(out, recipe.class_names, formats, replace=replace) as writer:
        for split, n_per_class in recipe.n_by_split.items():
            shape = (height, width, recipe.channels)
            with writer.split(split, n_per_class * len(recipe.classes), shape) as sink:
                for images, labels, n_clipped in made.blocks(split):
                    sink.add(images, labels)
                    clipped, total = clipped + n_clipped, total + images.size
                    _refuse_clipping(recipe, clipped / total)
        truth = GroundTruth(
            version=__version__,
            kind="synthetic",
            name=recipe.name,
            seed=made.seed,
            height=height,
            width=width,
            channels=recipe.channels,
            class_names=recipe.class_names,
            n_by_split=writer.n_by_split,
            files=writer.files,
            bands=recipe.band_edges,
            patterns=patterns,
            expected_band_power=expected,
            clipped_share=clipped / total,
            details={"recipe": recipe.model_dump(mode="json")},
        )
        writer.finish(truth, checksums=True)
    return truth


def _refuse_clipping(recipe: SyntheticRecipe, share: float) -> None:
    if share > MAX_CLIPPED:
        raise DataError(
            f"The recipe {recipe.name!r} would clip {100 * share:.1f}% of pixel values to 0..255, and its"
            " spectrum would no longer be the one it states.",
            "Lower contrast, gains or strength, or bring mean nearer to 0.5.",
        )
