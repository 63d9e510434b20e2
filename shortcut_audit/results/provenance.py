"""Where a result comes from: model, data, versions, machine and cost."""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shortcut_audit.version import __version__

__all__ = [
    "DataProvenance",
    "MeasureCost",
    "ModelProvenance",
    "Preprocessing",
    "Provenance",
    "Timing",
    "installed_versions",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Frozen):
    """What happens to an image file before the model sees it.

    `channels`, `height`, `width`: the shape the model takes. `geometry`: how images get there:
    `as they are` or `resize and crop` (timm's evaluation transform with the values below).
    `mean`, `std`: per channel, applied to pixels in [0,1] as the model's first layer.
    """

    channels: int
    height: int
    width: int
    geometry: str
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Annotated[str, Field(description="Who says so: the model's own record, the user, ...")]


class ModelProvenance(_Frozen):
    """The audited model. `digest` covers weights, buffers, structure and the user's own code."""

    spec: str
    architecture: str
    digest: str
    n_parameters: int
    n_outputs: int
    preprocessing: Preprocessing


class DataProvenance(_Frozen):
    """The audited images. `digest` covers the content, labels and splits of every image used."""

    spec: str
    digest: str
    n_available: int
    n_used: int
    preprocessing: Annotated[Preprocessing | None, Field(description="Where no model states it.")] = None
    class_names: tuple[str, ...]
    outputs: Annotated[tuple[int, ...], Field(description="Model output of each class.")]
    n_search_by_class: tuple[int, ...]
    n_judge_by_class: tuple[int, ...]


class MeasureCost(_Frozen):
    """Image passes of one measure: a forward pass of one image is 1."""

    measure: str
    image_passes: int


class Provenance(_Frozen):
    """Everything needed to say what was measured, on what, by what."""

    tool: str = "shortcut-audit"
    versions: dict[str, str]
    command: str
    model: Annotated[ModelProvenance | None, Field(description="None: the data alone were audited.")]
    data: DataProvenance
    seed: int
    device: str
    dtype: str
    batch_size: int
    cost: tuple[MeasureCost, ...]


class Timing(_Frozen):
    """The only part of a result that two equal audits do not share."""

    finished_at: str
    measuring_seconds: Annotated[float, Field(description="Summed over all shards, whenever they ran.")]
    images_per_second: float


def installed_versions() -> dict[str, str]:
    """Versions of Python, this package and every package that can change a number.

    Packages that only ONNX models need are named where they are installed.
    """
    packages = ("torch", "torchvision", "timm", "kornia", "numpy", "scipy", "scikit-learn", "pillow")
    versions = {"python": platform.python_version(), "shortcut-audit": __version__}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    for package in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
