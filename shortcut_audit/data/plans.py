"""Plans of what to plant into a set of images (TOML), one model for each kind of pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shortcut_audit.data.toml_files import read_toml
from shortcut_audit.results.truth import PatternRole

__all__ = [
    "BlockGrid",
    "Cast",
    "Checkerboard",
    "Contrast",
    "Cosines",
    "Plan",
    "Planted",
    "Shading",
    "Texture",
    "read_plan",
]

Strength = Annotated[float, Field(gt=0, le=255, description="In 1/255.")]
Phase = Literal["random", "fixed"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Entry(_Part):
    """What every kind of pattern has in common.

    `classes`: names, or "all" for a decoy that every class carries. `share`: of the images of each
    class that carry it, chosen by the plan's seed.
    """

    name: str = ""
    classes: tuple[str, ...] | Literal["all"]
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _names_classes(self) -> _Entry:
        if not self.classes or (len(set(self.classes)) < len(self.classes) and self.classes != "all"):
            raise ValueError('classes names at least one class, each once, or is "all"')
        return self


class Cosines(_Entry):
    """A cosine of amplitude `strength` on each of `orbits` (u, v)."""

    kind: Literal["cosines"]
    orbits: Annotated[tuple[tuple[int, int], ...], Field(min_length=1)]
    strength: Strength
    phase: Phase = "random"


class Texture(_Entry):
    """All orbits with `radius` in [low, high), of equal amplitude and random phase; `strength`: RMS.

    `phase` random: another texture in every image; fixed: the same one.
    """

    kind: Literal["texture"]
    radius: tuple[float, float]
    strength: Strength
    phase: Phase = "random"

    @model_validator(mode="after")
    def _in_order(self) -> Texture:
        if not 0 <= self.radius[0] < self.radius[1]:
            raise ValueError("radius goes from a lower to a higher one")
        return self


class BlockGrid(_Entry):
    """Steps of height 2 * `strength` across the borders of blocks of `block` pixels, as JPEG leaves them.

    The pixel before a border is darker, the one behind it brighter by `strength`. `phase` fixed: the
    grid starts at the image's corner, as in a compressed file; random: anywhere, as in its crops.
    """

    kind: Literal["block-grid"]
    strength: Strength
    block: Annotated[int, Field(ge=3)] = 8
    phase: Phase = "fixed"


class Checkerboard(_Entry):
    """Pixels brighter and darker by `strength` in turn: the Nyquist orbit (H/2, W/2)."""

    kind: Literal["checkerboard"]
    strength: Strength
    phase: Phase = "fixed"


class Shading(_Entry):
    """A smooth wave of brightness of amplitude `strength`, one cycle an image, in `direction`."""

    kind: Literal["shading"]
    strength: Strength
    direction: Literal["vertical", "horizontal", "diagonal"] = "vertical"
    phase: Phase = "fixed"


class Cast(_Entry):
    """`offset` (in 1/255, one value or one a channel) on every pixel: DC alone, no wave."""

    kind: Literal["cast"]
    offset: Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


class Contrast(_Entry):
    """Contrast times `factor` about the image's own mean: every orbit alike, and so none."""

    kind: Literal["contrast"]
    factor: Annotated[float, Field(gt=0, le=4)]


Planted = Annotated[
    Cosines | Texture | BlockGrid | Checkerboard | Shading | Cast | Contrast,
    Field(discriminator="kind"),
]


class Plan(_Part):
    """A plan. `headroom`: all images of all classes are first squeezed into
    [headroom, 255 - headroom], so that patterns do not clip. `dither`: triangular noise of two steps on
    all images before rounding, which carries patterns weaker than a step. `max_clipped`: share of the
    pixel values of a class's carriers that may be clipped.
    """

    name: str = "planted"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    headroom: Annotated[float, Field(ge=0, lt=127)] = 0.0
    dither: bool = False
    max_clipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    plant: Annotated[tuple[Planted, ...], Field(min_length=1)]


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises SettingsError, naming every fault."""
    return read_toml(path, Plan, "plan", "docs/known-truth.md")


def role_of(entry: Planted, n_classes: int) -> PatternRole:
    """Whether orbits tell the classes that carry the pattern."""
    if entry.classes == "all" or len(entry.classes) == n_classes:
        return "decoy"
    return "other" if isinstance(entry, Cast | Contrast) else "shortcut"
