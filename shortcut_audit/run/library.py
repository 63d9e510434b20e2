"""The library call: audit any torch module or function on any labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.label_maps import LabelMap, load_label_map
from shortcut_audit.data.ood import OodSet
from shortcut_audit.data.sources import ImageSource, open_source
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.models.callables import as_network, function_name
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.truth import find_truth
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest, Progress

__all__ = ["audit"]


def audit(
    model: nn.Module | Callable[[Tensor], Any],
    images: Any,
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    normalized: bool = False,
    size: int | tuple[int, int] | None = None,
    output_names: Sequence[str] | None = None,
    ood: Mapping[str, Any] | None = None,
    label_maps: Mapping[str, str | Path | LabelMap] | None = None,
    run: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit `model` for frequency shortcuts on labelled `images`.

    `model`: any `torch.nn.Module` from (B, C, H, W) to logits (B, K), left as it was found; or a
    plain function of such a tensor that answers with a tensor or a numpy array (`CallableNetwork`
    says what of it is part of a kept run's keys).
    `images`: a Dataset, a DataLoader, any iterable of (image, label) or of batches of them, or what
    the command line takes (a folder, an .npz file). Pixels are uint8, or floats in [0,1].

    `mean`, `std`: per channel, what the model's inputs are normalised with; by default the model's
    own record (timm's `pretrained_cfg`), else none. With `normalized=True` the images come
    normalised with this `mean` and `std`, and are brought back to pixels first.
    `class_names`: in label order. `size`: resize and crop to this. `output_names`: names of the
    model's outputs in order, where they are not the classes of the data. `ood`: other sets by name, each
    as `images` is (with the same class names unless it names its own); `label_maps`: by name of such a
    set, which of its classes are which of the model's (a LabelMap, or its file). `run`: a folder that
    keeps finished parts, so that a stopped audit goes on. `progress(stage, done, total)` reports.
    Everything else is a setting (`AuditSettings`): images_per_class, kept_share, response, seed,
    device, batch_size, ...

    Returns an `AuditResult`. Raises `AuditError` with one sentence and a next step.

    >>> import torch, shortcut_audit as sa
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> pairs = [(torch.rand(1, 8, 8), label % 2) for label in range(16)]
    >>> result = sa.audit(model, pairs, batch_size=32)
    >>> list(result.table("classes")["class"])
    ['0', '1']
    """
    network = as_network(model, "The model is")
    name = function_name(network)
    checked = settings_from(settings)
    means, stds = _moments(mean), _moments(std)
    # Iterating a DataLoader draws from torch's random state.
    with torch.random.fork_rng(devices=[]):
        source = _source(images, class_names, means, stds, normalized)
    others = _others(ood or {}, label_maps or {}, class_names, undo_with=(means, stds, normalized))
    known = find_truth(str(images)) if isinstance(images, str | Path) else None
    record = getattr(model, "pretrained_cfg", None)
    loaded = LoadedModel(
        network=network,
        spec=f"torch.nn.Module ({type(model).__qualname__})" if name is None else f"function ({name})",
        architecture=name or type(model).__qualname__,
        config=dict(record) if isinstance(record, dict) and record else None,
    )
    request = AuditRequest(
        model=loaded,
        source=source,
        settings=checked,
        command="shortcut_audit.audit(...)",
        mean=means,
        std=stds,
        size=_pixels(size),
        output_names=output_names,
        truth=known[0] if known else None,
        ood=others,
    )
    return run_audit(request, Path(run) if run is not None else None, progress=progress)


def _others(
    ood: Mapping[str, Any],
    label_maps: Mapping[str, str | Path | LabelMap],
    class_names: Sequence[str] | None,
    undo_with: tuple[tuple[float, ...] | None, tuple[float, ...] | None, bool],
) -> list[OodSet]:
    unknown = [name for name in label_maps if name not in ood]
    if unknown:
        raise SettingsError(
            f"The label map of {unknown[0]!r} belongs to no set of ood.", "Give the set under that name."
        )
    found = []
    for name, images in ood.items():
        given = None if isinstance(images, str | Path) else class_names
        normalized = undo_with[2] and not isinstance(images, str | Path)
        with torch.random.fork_rng(devices=[]):
            source = _source(images, given, undo_with[0], undo_with[1], normalized)
        chosen = label_maps.get(name)
        label_map = (
            chosen if chosen is None or isinstance(chosen, LabelMap) else load_label_map(Path(chosen))
        )
        found.append(OodSet(name, source, label_map))
    return found


def _moments(values: Sequence[float] | float | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        numbers = [values] if isinstance(values, int | float) else list(values)
        return tuple(float(value) for value in numbers)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"mean and std take numbers, one a channel, not {values!r}.", "For example: mean=[0.5]"
        ) from error


def _pixels(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    pair = (size, size) if isinstance(size, int) else size
    if pair is None:
        return None
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(n, int) for n in pair)):
        raise SettingsError(f"size takes pixels, not {size!r}.", "For example: size=224 or (192, 256)")
    return pair[0], pair[1]


def _source(
    images: Any,
    class_names: Sequence[str] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    normalized: bool,
) -> ImageSource:
    if normalized and (mean is None or std is None):
        raise DataError(
            "normalized=True needs the mean and std that the images were normalised with.",
            "Give mean=... and std=...",
        )
    if isinstance(images, str | Path):
        if class_names is not None or normalized:
            raise DataError(
                "class_names and normalized go with data sets; files name their own classes and hold"
                " plain pixels.",
                "Leave them out for a folder or an .npz.",
            )
        return open_source(str(images))
    undo = (tuple(mean or ()), tuple(std or ())) if normalized else None
    return source_from(images, class_names, normalized_with=undo)
