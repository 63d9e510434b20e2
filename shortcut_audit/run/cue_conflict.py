"""A cue-conflict test, from a model and images with shape and texture to a saved result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shortcut_audit.data.cue_conflict import (
    CueImages,
    PixelReader,
    SortedImages,
    open_cue_conflict,
    sort_images,
)
from shortcut_audit.data.cue_groups import (
    CueGroups,
    Grouping,
    OutputNames,
    grouped_outputs,
    grouping_of,
    load_grouping,
)
from shortcut_audit.data.datasets import spool
from shortcut_audit.data.label_maps import LabelMap
from shortcut_audit.data.pixels import common_shape
from shortcut_audit.data.sources import named_classes
from shortcut_audit.data.survey import survey
from shortcut_audit.errors import DataError, LogitsError, RunFolderError, SettingsError
from shortcut_audit.measures.cue_conflict import answers_of, count_answers
from shortcut_audit.models.callables import as_network, function_name
from shortcut_audit.models.classifier import (
    Classifier,
    borrowed,
    count_parameters,
    device_name,
    is_out_of_memory,
    pick_device,
    weights_digest,
)
from shortcut_audit.models.loading import LoadedModel, preprocessing_of
from shortcut_audit.results.cue_conflict import (
    CueClass,
    CueConflictResult,
    CueData,
    DroppedCueClass,
    LeftOut,
    save_cue_conflict,
)
from shortcut_audit.results.cue_settings import CueConflictSettings, cue_settings_from
from shortcut_audit.results.provenance import ModelProvenance, Preprocessing, Timing, installed_versions
from shortcut_audit.results.store import RESULT_FILE, check_folder
from shortcut_audit.run.prepare import Progress, silent

__all__ = ["CueConflictRequest", "check_cue_folder", "cue_conflict", "run_cue_conflict"]

# One pass over a few thousand images is over before a search for a faster size would be.
_USUAL_BATCH = {"cpu": 32, "cuda": 256}
_LEVEL = 0.05
# From 256 to 224 pixels, as evaluation is mostly done, texture stays what it was.
_MUCH_LARGER = 1.5


@dataclass(frozen=True, kw_only=True)
class CueConflictRequest:
    """What to test on what. `mean`, `std`, `size` (H, W) overrule the model's own record.

    `groups`: which outputs stand for which class; None: those of its name. `output_names`: names of the
    model's outputs in order, where its own record does not have them.
    """

    model: LoadedModel
    images: CueImages
    groups: Grouping | LabelMap | None
    settings: CueConflictSettings
    command: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    output_names: Sequence[str] | None = None


@dataclass(frozen=True)
class _Seen:
    """Rows that were answered, and by which groups, among groups and among all outputs."""

    rows: NDArray[np.int64]
    among_groups: NDArray[np.int64]
    among_all: NDArray[np.int64]
    batch_size: int


def check_cue_folder(folder: Path) -> None:
    """Raise RunFolderError unless `folder` is absent, empty, or holds an earlier test of this kind."""
    check_folder(folder, "cue conflict")
    if (folder / RESULT_FILE).exists():
        raise RunFolderError(
            f"{folder} holds an audit, whose page would be overwritten.", "Choose another --out folder."
        )


def run_cue_conflict(
    request: CueConflictRequest, out: Path | None = None, *, progress: Progress = silent
) -> CueConflictResult:
    """Ask the model about images whose shape and texture are of different classes, each once.

    With `out`, `cue_conflict.json` and `cue_conflict.csv` are written there, when all is done. Raises
    AuditError.
    """
    if out is not None:
        check_cue_folder(out)
    settings, images = request.settings, request.images
    device = pick_device(settings.device)
    # The size of all images of the set: no choice among them changes how they reach the model.
    image_shape = common_shape(images.source, range(len(images.shape)))
    preprocessing = preprocessing_of(
        request.model, image_shape, mean=request.mean, std=request.std, size=request.size
    )
    digest = weights_digest(request.model.network)
    began = time.perf_counter()
    with borrowed(
        request.model.network,
        preprocessing,
        device,
        settings.dtype,
        settings.seed,
        # One pass wins too little from channels last to try which layout the model bears.
        torch.contiguous_format,
    ) as classifier:
        n_outputs = _count_outputs(classifier, preprocessing)
        names = _output_names(request, n_outputs)
        groups = grouped_outputs(request.groups, images.class_names, images.carried, n_outputs, names)
        chosen = sort_images(images, groups)
        reader = PixelReader(
            images,
            preprocessing,
            chosen.drawn(settings.images_per_class, settings.seed),
            settings.images_per_class,
            settings.skip_unreadable,
        )
        seen = _answers(classifier, reader, groups, settings.batch_size, progress)
    seconds = time.perf_counter() - began
    model = ModelProvenance(
        spec=request.model.spec,
        architecture=request.model.architecture,
        digest=digest,
        n_parameters=count_parameters(request.model.network),
        n_outputs=n_outputs,
        preprocessing=preprocessing,
    )
    result = _result(request, model, groups, chosen, reader, seen, device_name(device), seconds)
    notes = (
        *result.notes,
        *_coarser(image_shape, preprocessing),
        *survey(images.source, seen.rows.tolist()),
    )
    result = result.model_copy(update={"notes": notes})
    if out is not None:
        save_cue_conflict(result, out)
    return result


def _result(
    request: CueConflictRequest,
    model: ModelProvenance,
    groups: CueGroups,
    chosen: SortedImages,
    reader: PixelReader,
    seen: _Seen,
    device: str,
    seconds: float,
) -> CueConflictResult:
    by_class = _by_class(groups, chosen, seen)
    return CueConflictResult(
        model=model,
        data=CueData(
            spec=request.images.source.spec,
            digest=reader.digest,
            n_available=len(request.images.shape),
            n_used=len(seen.rows),
        ),
        settings=request.settings,
        protocol=groups.protocol,
        groups=groups.groups,
        absent=groups.absent,
        by_class=by_class,
        dropped=_dropped(request.images, groups),
        left_out=_left_out(chosen, seen, reader),
        skipped=tuple(reader.skipped),
        notes=(*groups.notes, *_doubts(by_class, len(groups.groups))),
        versions=installed_versions(),
        command=request.command,
        device=device,
        batch_size=seen.batch_size,
        timing=Timing(
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            measuring_seconds=round(seconds, 3),
            images_per_second=round(len(seen.rows) / max(seconds, 1e-9), 1),
        ),
    )


def _count_outputs(classifier: Classifier, preprocessing: Preprocessing) -> int:
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    grey = torch.full((2, *shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    return classifier(grey).shape[1]


def _output_names(request: CueConflictRequest, n_outputs: int) -> OutputNames | None:
    """Names of the outputs: the user's, else those in the model's own record where they fit it."""
    if request.output_names is not None:
        return OutputNames(tuple(request.output_names), "the list of output names")
    if isinstance(request.groups, Grouping) and request.groups.outputs is not None:
        return None
    recorded = (request.model.config or {}).get("label_names")
    if isinstance(recorded, list | tuple) and len(set(recorded)) == len(recorded) == n_outputs:
        return OutputNames(tuple(str(name) for name in recorded), "the model's own record")
    return None


def _answers(
    classifier: Classifier,
    reader: PixelReader,
    groups: CueGroups,
    batch_size: int | None,
    progress: Progress,
) -> _Seen:
    """Answers to all images of `reader`, each asked about once."""
    outputs = [group.outputs for group in groups.groups]
    size = batch_size or _USUAL_BATCH.get(classifier.device.type, 32)
    rows: list[NDArray[np.int64]] = []
    among_groups: list[NDArray[np.int64]] = []
    among_all: list[NDArray[np.int64]] = []
    done, total = 0, len(reader)
    for batch_rows, pixels in reader.batches(size):
        logits, size = _logits(classifier, pixels, size, halve=batch_size is None)
        wrong = np.flatnonzero(~torch.isfinite(logits).all(dim=1).numpy())
        if len(wrong):
            name = reader.images.source.name(int(batch_rows[wrong[0]]))
            raise LogitsError(
                f"The model answers NaN or infinite logits on image {name}.",
                "Check the weights and the preprocessing (mean, std, dtype).",
            )
        answers = answers_of(logits, outputs)
        rows.append(batch_rows)
        among_groups.append(answers.among_groups)
        among_all.append(answers.among_all)
        done += len(batch_rows)
        progress("measuring", min(done, total), total)
    return _Seen(_joined(rows), _joined(among_groups), _joined(among_all), size)


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _logits(
    classifier: Classifier, pixels: NDArray[np.float32], size: int, *, halve: bool
) -> tuple[Tensor, int]:
    """Logits (B, K) of a batch, and the batch size that fitted; out of memory, half of it is tried."""
    while True:
        try:
            parts = [
                classifier(
                    torch.from_numpy(pixels[start : start + size]).to(classifier.device, classifier.dtype)
                )
                .cpu()
                .double()
                for start in range(0, len(pixels), size)
            ]
            return torch.cat(parts), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not halve or size == 1:
                raise SettingsError(
                    f"Memory does not hold {size} images of this model.",
                    "Give a smaller --batch-size." if size > 1 else "Take a device with more memory.",
                ) from error
            size //= 2


def _by_class(groups: CueGroups, images: SortedImages, seen: _Seen) -> tuple[CueClass, ...]:
    """Counts by class of the shape; one that no used image has is listed with none."""
    shape, texture = images.shape[seen.rows], images.texture[seen.rows]
    found = []
    for number, group in enumerate(groups.groups):
        own = shape == number
        found.append(
            CueClass(
                class_name=group.name,
                among_groups=count_answers(seen.among_groups[own], shape[own], texture[own]),
                among_all=count_answers(seen.among_all[own], shape[own], texture[own]),
            )
        )
    return tuple(found)


def _dropped(images: CueImages, groups: CueGroups) -> tuple[DroppedCueClass, ...]:
    number = {name: label for label, name in enumerate(images.class_names)}
    return tuple(
        DroppedCueClass(
            class_name=name,
            reason=reason,
            n_shape=int((images.shape == number[name]).sum()),
            n_texture=int((images.texture == number[name]).sum()),
        )
        for name, reason in groups.dropped.items()
    )


def _left_out(images: SortedImages, seen: _Seen, reader: PixelReader) -> LeftOut:
    n_unreadable = len(reader.skipped)
    return LeftOut(
        unmapped=images.n_unmapped,
        same_class=images.n_same,
        not_drawn=int(images.used.sum()) - len(seen.rows) - n_unreadable,
        unreadable=n_unreadable,
    )


def _doubts(by_class: tuple[CueClass, ...], n_groups: int) -> list[str]:
    """A note where the model hits shape or texture no more often than guesses would.

    Two of `n_groups` answers count, so that with two groups every answer is one of them.
    """
    n = sum(item.among_groups.n for item in by_class)
    n_either = sum(item.among_groups.n_either for item in by_class)
    if n == 0 or n_groups <= 2:
        return []
    from scipy.stats import binomtest

    chance = 2 / n_groups
    if binomtest(n_either, n, chance, alternative="greater").pvalue < _LEVEL:
        return []
    return [
        f"The model calls {n_either} of {n} images by their shape or their texture, no more than guesses"
        f" among {n_groups} groups would ({100 * chance:.0f}%): it may not know these images at all, or"
        " the order of its outputs, the grouping or the preprocessing is not what it was trained with."
    ]


def _coarser(shape: tuple[int, int, int] | None, preprocessing: Preprocessing) -> list[str]:
    """A note where images of `shape` are made so much smaller that part of their texture is gone."""
    if shape is None or min(shape[1:]) < _MUCH_LARGER * min(preprocessing.height, preprocessing.width):
        return []
    return [
        f"Images are brought from {shape[1]} x {shape[2]} to {preprocessing.height} x"
        f" {preprocessing.width} pixels, which takes fine texture away and leaves shapes: the shape bias"
        " is that of the model at this size, not to be compared with one at another."
    ]


def cue_conflict(
    model: nn.Module | Callable[[Tensor], Any],
    images: Any,
    *,
    groups: Mapping[str, Any] | str | Path | None = None,
    class_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> CueConflictResult:
    """Test whether `model` goes by shape or by texture on images in which the two disagree.

    `model`: any `torch.nn.Module` from (B, C, H, W) to logits (B, K), left as it was found, or a plain
    function. `images`: what the command line takes (a folder, an .npz or .csv file; see
    `data/cue_conflict.py`), or an iterable of (image, shape label, texture label), with `class_names` in
    label order. `groups`: class of the images -> names or numbers of outputs, or a TOML file (a grouping
    or a label map), or the name of one that is shipped; None: the outputs of the classes' names. `mean`,
    `std`, `size`, `output_names`: as for `audit`. `out`: a folder for the numbers. Everything else is a
    setting (`results/cue_settings.py`).

    Returns a `CueConflictResult`. Raises `AuditError` with one sentence and a next step.

    >>> import torch, shortcut_audit as sa
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> triples = [(torch.rand(1, 8, 8), label % 2, 1 - label % 2) for label in range(16)]
    >>> result = sa.cue_conflict(model, triples, class_names=["cat", "dog"])
    >>> result.among_groups.n
    16
    """
    network = as_network(model, "The model is")
    name = function_name(network)
    checked = cue_settings_from(settings)
    found = open_cue_conflict(str(images)) if isinstance(images, str | Path) else None
    if found is not None and class_names is not None:
        raise DataError(
            "class_names go with an iterable; files name their own classes.", "Leave them out."
        )
    record = getattr(model, "pretrained_cfg", None)
    request = CueConflictRequest(
        model=LoadedModel(
            network=network,
            spec=f"torch.nn.Module ({type(model).__qualname__})"
            if name is None
            else f"function ({name})",
            architecture=name or type(model).__qualname__,
            config=dict(record) if isinstance(record, dict) and record else None,
        ),
        images=found or _from_triples(images, class_names),
        groups=(
            grouping_of(groups)
            if isinstance(groups, Mapping)
            else None
            if groups is None
            else load_grouping(groups)
        ),
        settings=checked,
        command="shortcut_audit.cue_conflict(...)",
        mean=tuple(mean) if mean is not None else None,
        std=tuple(std) if std is not None else None,
        size=size,
        output_names=output_names,
    )
    return run_cue_conflict(request, Path(out) if out is not None else None, progress=progress)


def _from_triples(images: Any, class_names: Sequence[str] | None) -> CueImages:
    """Images of an iterable of (image, shape, texture), read once."""
    textures: list[int] = []
    spec = type(images).__name__

    def pairs() -> Any:
        for item in images:
            if not isinstance(item, tuple | list) or len(item) != 3:
                raise DataError(
                    f"{spec} yields {type(item).__name__}, not (image, shape label, texture label).",
                    "Yield triples of an image and its two labels.",
                )
            image, shape, texture = item
            textures.append(int(texture))
            yield image, shape

    # Names of labels that only textures have are checked below, together with the shapes'.
    source = spool(pairs(), spec=spec)
    texture = np.array(textures, dtype=np.int64)
    names = named_classes(class_names, np.concatenate([source.labels, texture]), spec)
    return CueImages(source, names, source.labels, texture)
