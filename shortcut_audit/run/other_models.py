"""Models that maps of a run are judged on: named, made of what a caller has, and what they can answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.sources import ImageSource, Picture, open_source
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.models.callables import as_network, function_name
from shortcut_audit.models.classifier import weights_digest
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.run.transfer_names import distinct_names

__all__ = ["OtherModel", "answerable", "given_images", "given_models", "names_of_models"]


@dataclass(frozen=True, kw_only=True)
class OtherModel:
    """A model to judge maps on; `mean`, `std`, `size` (H, W), `output_names` as in `AuditRequest`."""

    name: str
    model: LoadedModel
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    output_names: Sequence[str] | None = None


def names_of_models(
    models: Sequence[LoadedModel], told: Sequence[str], runs: Mapping[str, AuditResult]
) -> list[str]:
    """A name for each model: the run's, where it is the run's own model, else its architecture, with
    what it is `told` apart by where others are called so.

    Raises SettingsError for a model named twice.
    """
    digests = [weights_digest(model.network) for model in models]
    twice = next((n for n, digest in enumerate(digests) if digest in digests[:n]), None)
    if twice is not None:
        raise SettingsError(
            f"{models[twice].spec} has the weights of a model that is named before it.",
            "Name every model once.",
        )
    own = {result.model.digest: name for name, result in runs.items()}
    others = [n for n, digest in enumerate(digests) if digest not in own]
    names = distinct_names([(models[n].architecture, told[n]) for n in others], list(runs))
    named = dict(zip(others, names, strict=True))
    return [named[n] if n in named else own[digest] for n, digest in enumerate(digests)]


def given_images(images: Any, class_names: Sequence[str] | None) -> ImageSource | None:
    """Images of a library call: a folder or file by name, or a data set of the user's own."""
    if images is None or isinstance(images, str | Path):
        return None if images is None else open_source(str(images))
    # Iterating a DataLoader draws from torch's random state.
    with torch.random.fork_rng(devices=[]):
        return source_from(images, class_names)


def given_models(
    models: Mapping[str, Any],
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: tuple[int, int] | None,
    output_names: Sequence[str] | None,
) -> list[OtherModel]:
    """Modules and functions of a library call, by the names that they are given there."""
    found = []
    for name, model in models.items():
        network = as_network(model, f"The model {name} is")
        function, record = function_name(network), getattr(model, "pretrained_cfg", None)
        kind = type(model).__qualname__
        loaded = LoadedModel(
            network=network,
            spec=f"torch.nn.Module ({kind})" if function is None else f"function ({function})",
            architecture=function or kind,
            config=dict(record) if isinstance(record, dict) and record else None,
        )
        found.append(
            OtherModel(
                name=name,
                model=loaded,
                mean=None if mean is None else tuple(mean),
                std=None if std is None else tuple(std),
                size=size,
                output_names=output_names,
            )
        )
    return found


@dataclass(frozen=True)
class _Answerable:
    """The images of classes that a model has an output for.

    Labels keep their numbers, by which images are drawn and split: the same images are judged on,
    whatever is left out. A class without images goes by a name that the model knows; nobody meets it.
    """

    uniform: ClassVar[bool] = False
    inner: ImageSource
    rows: NDArray[np.int64]
    class_names: tuple[str, ...]

    @property
    def spec(self) -> str:
        return self.inner.spec

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.inner.labels[self.rows]

    def read(self, index: int) -> Picture:
        return self.inner.read(int(self.rows[index]))

    def peek(self, index: int) -> Picture:
        return self.inner.peek(int(self.rows[index]))

    def name(self, index: int) -> str:
        return self.inner.name(int(self.rows[index]))


def answerable(source: ImageSource, other: OtherModel) -> tuple[ImageSource, tuple[str, ...]]:
    """The images of classes that the model can answer with, and the classes that it cannot.

    Raises DataError where it can answer with none.
    """
    names = other.output_names
    unanswered = tuple(name for name in source.class_names if names is not None and name not in names)
    if names is None or not unanswered:
        return source, ()
    kept = tuple(name if name in names else names[0] for name in source.class_names)
    can = np.array([name not in unanswered for name in source.class_names])
    rows = np.flatnonzero(can[source.labels]).astype(np.int64)
    if not len(rows):
        raise DataError(
            f"{other.name} has no output for any class of {source.spec}.",
            "Use the same names in --output-names as for the classes of the data.",
        )
    return _Answerable(source, rows, kept), unanswered
