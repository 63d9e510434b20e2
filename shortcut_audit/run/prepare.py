"""Everything before the first measurement: the model on its device, the images decoded and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from shortcut_audit.data.ood import OodSet, mapped_labels, with_shifted
from shortcut_audit.data.pixels import AuditImages, choose_images, collect_images, common_shape
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.errors import DataError, LogitsError, ModelError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.units import ORBITS, Units
from shortcut_audit.measures.interface import Outline, Subject
from shortcut_audit.models.allocator import held_buffers
from shortcut_audit.models.classifier import (
    Classifier,
    borrowed,
    count_parameters,
    pick_device,
    require_outputs,
    weights_digest,
    why_no_gradient,
)
from shortcut_audit.models.loading import LoadedModel, preprocessing_of
from shortcut_audit.results.provenance import ModelProvenance, Preprocessing
from shortcut_audit.results.settings import AuditSettings, SearchName
from shortcut_audit.results.store import read_state
from shortcut_audit.results.truth import GroundTruth
from shortcut_audit.run.plan import outline_of, passes_by_measure
from shortcut_audit.run.tuning import compiled_if_it_pays, tune_batch_size

__all__ = [
    "AuditRequest",
    "PreparedAudit",
    "Progress",
    "Stage",
    "existing_parent",
    "first_image",
    "prepared_audit",
    "silent",
]

# Where screening would not save much: its own passes are tens an image.
_FEW_UNITS = 150
# Where it would cost as much, and has too few units to calibrate by.
_FEWEST_SCREENED = 8

T = TypeVar("T", bool, int)

Stage = Literal["reading images", "finding the batch size", "measuring", "taking spectra"]
# progress(stage, done, total): images read, or image passes made.
Progress = Callable[[Stage, int, int], None]


def silent(stage: Stage, done: int, total: int) -> None:
    del stage, done, total


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What to audit. `mean`, `std`, `size` (H, W) overrule the model's own record.

    `output_names`: names of the model's outputs in order, where they are not the data's classes.
    `truth`: what is known of the images, where the toolkit made them. `ood`: other sets that the audit
    goes on to, whose names differ.
    """

    model: LoadedModel
    source: ImageSource
    settings: AuditSettings
    command: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    output_names: Sequence[str] | None = None
    truth: GroundTruth | None = None
    ood: Sequence[OodSet] = ()


@dataclass(frozen=True)
class PreparedAudit:
    """A model on its device with its images decoded, checked and ready to measure.

    `batch_matters`: the answer for an image changes with the other images of its batch. `compiled`:
    full batches run through `torch.compile`.
    """

    subject: Subject
    compiled: bool
    batch_matters: bool
    model: ModelProvenance
    batch_speed: float | None


@contextmanager
def prepared_audit(
    request: AuditRequest, run: Path | None, progress: Progress = silent
) -> Iterator[PreparedAudit]:
    """A model on its device with its images decoded and split, for the length of a `with` block.

    Everything that can be checked before the first measurement is checked here; nothing is written
    but an unnamed temporary file. Raises AuditError.
    """
    settings, source, loaded = request.settings, request.source, request.model
    device = pick_device(settings.device)
    _, order = choose_images(source, settings)
    # Any image of a class may have to stand in for an unreadable one.
    n_looked_at = None if settings.skip_unreadable else settings.images_per_class
    chosen = [int(i) for indices in order for i in indices[:n_looked_at]]
    preprocessing = _way(request, common_shape(source, chosen), request.size)
    if preprocessing.height * preprocessing.width < 2:
        raise DataError(
            "Images of a single pixel have no frequencies.", "Give larger images, or a larger --size."
        )
    digest = weights_digest(loaded.network)
    with (
        held_buffers(device.type),
        _in_working_layout(request, preprocessing, device) as (classifier, n_outputs),
    ):
        images = collect_images(
            source,
            settings,
            preprocessing,
            _outputs(request, n_outputs),
            folder=existing_parent(run),
            on_image=lambda done, total: progress("reading images", done, total),
        )
        if request.ood:
            images = _with_shifted(request, images, preprocessing, run, progress)
        search, why = _search(settings, classifier, images)
        outline = outline_of(settings, images, n_outputs, search, why)
        # Refuses a budget that is too small for anything, before the model is timed.
        largest = max(passes_by_measure(outline).values())
        batch_size, speed = _batch_size(
            classifier, images, outline, largest, digest, request.command, run, progress
        )
        working = compiled_if_it_pays(
            classifier,
            first_image(classifier, images),
            batch_size,
            max(passes_by_measure(outline).values()),
            digest,
            earlier=_earlier(run, request.command, "compiled", bool),
        )
        yield PreparedAudit(
            subject=Subject(working, images, outline, batch_size),
            compiled=working is not classifier,
            batch_matters=_batch_matters(classifier, images),
            model=ModelProvenance(
                spec=loaded.spec,
                architecture=loaded.architecture,
                digest=digest,
                n_parameters=count_parameters(loaded.network),
                n_outputs=n_outputs,
                preprocessing=preprocessing,
            ),
            batch_speed=speed,
        )


def _with_shifted(
    request: AuditRequest,
    images: AuditImages,
    preprocessing: Preprocessing,
    run: Path | None,
    progress: Progress,
) -> AuditImages:
    """`images` with those of the other sets, brought to the model in the same way."""
    names = [ood.name for ood in request.ood]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"Two sets are named {twice!r}.", "Give each --ood a name of its own.")
    answers = request.output_names or request.source.class_names
    home_size = (preprocessing.height, preprocessing.width)

    def way(ood: OodSet) -> Preprocessing:
        chosen = np.flatnonzero(mapped_labels(ood, answers)[1].kept).tolist()
        shape = common_shape(ood.source, chosen)
        # Whether images have to be resized is a matter of their own size; how, of the model alone, and
        # where that states no size, of the audit's own images.
        try:
            found = _way(request, shape, request.size)
        except ModelError:
            found = None
        if found is None or (found.height, found.width) != home_size:
            found = _way(request, shape, home_size)
        return found.model_copy(update={"channels": preprocessing.channels})

    return with_shifted(
        images,
        request.source,
        request.ood,
        answers,
        request.settings,
        way,
        preprocessing,
        folder=existing_parent(run),
        on_image=lambda done, total: progress("reading images", done, total),
    )


def _way(
    request: AuditRequest, shape: tuple[int, int, int] | None, size: tuple[int, int] | None
) -> Preprocessing:
    return preprocessing_of(request.model, shape, mean=request.mean, std=request.std, size=size)


def _search(
    settings: AuditSettings, classifier: Classifier, images: AuditImages
) -> tuple[SearchName, str]:
    """Which search to run, and why where the settings leave it open.

    Raises SettingsError where the model lacks what the chosen one needs, and for a resolution that
    the images do not have.
    """
    choice, shape = settings.search, images.store.shape
    units = Units.named(settings.resolution, FrequencyGrid(*shape[1:]))
    joint = choice in ("hierarchical", "learned")
    if joint and settings.resolution not in ("auto", ORBITS):
        raise SettingsError(
            f"A {choice} search has patches or masks of its own; --resolution {settings.resolution} does"
            " not go with it.",
            "Leave --resolution out, or take --search exact or screened.",
        )
    if choice in ("exact", "hierarchical"):
        return choice, ""
    if choice == "auto" and units.n_units <= _FEW_UNITS:
        return "exact", f"{units.n_units} {units.kind} are few enough to probe every one"
    if choice == "screened" and units.n_units < _FEWEST_SCREENED:
        raise SettingsError(
            f"There are {units.n_units} {units.kind} to rank; screening costs as much as probing all.",
            "Take --search exact, or a finer --resolution.",
        )
    missing = why_no_gradient(classifier, shape)
    if choice == "auto":
        return (
            ("exact", f"the model has no gradient to screen by: {missing}")
            if missing
            else ("screened", "")
        )
    if missing:
        raise SettingsError(
            f"A {choice} search needs the gradient of the model's answer, and there is none: {missing}.",
            "Take --search exact or --search hierarchical, which need forward passes only.",
        )
    return choice, ""


def existing_parent(run: Path | None) -> Path | None:
    """Where decoded pixels can lie: beside the run, whose disk is meant to take data; /tmp is often
    memory. The file there has no name and vanishes with the process."""
    if run is None:
        return None
    return next((folder for folder in (run, *run.absolute().parents) if folder.is_dir()), None)


@contextmanager
def _in_working_layout(
    request: AuditRequest, preprocessing: Preprocessing, device: torch.device
) -> Iterator[tuple[Classifier, int]]:
    """The classifier and its number of outputs, in channels-last layout where the model bears it.

    That layout is the faster one for convolutions; a forward with `view` in it needs the plain one.
    """
    network, settings = request.model.network, request.settings
    layout = torch.channels_last
    try:
        with borrowed(network, preprocessing, device, settings.dtype, settings.seed) as trial:
            _count_outputs(trial, preprocessing)
    except ModelError:
        layout = torch.contiguous_format
    with borrowed(network, preprocessing, device, settings.dtype, settings.seed, layout) as classifier:
        yield classifier, _count_outputs(classifier, preprocessing)


def _count_outputs(classifier: Classifier, preprocessing: Preprocessing) -> int:
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    grey = torch.full((2, *shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    return classifier(grey).shape[1]


def _outputs(request: AuditRequest, n_outputs: int) -> list[int]:
    """Model output of every label of the source."""
    classes, names = request.source.class_names, request.output_names
    if names is None:
        require_outputs(n_outputs, len(classes), request.source.spec)
        return list(range(len(classes)))
    if len(names) != n_outputs or len(set(names)) != len(names):
        twice = next((name for name in names if list(names).count(name) > 1), None)
        raise ModelError(
            f"Output {twice!r} is named twice."
            if twice is not None
            else f"The model has {n_outputs} outputs, and the list of output names has {len(names)}.",
            "Name every output once, one a line, in the model's order.",
        )
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ModelError(
            f"No output of the model is named {unknown[0]!r}"
            + (f" ({len(unknown)} classes of the data have none)." if len(unknown) > 1 else "."),
            "Use the same names in --output-names as for the class folders.",
        )
    return [list(names).index(name) for name in classes]


def _batch_matters(classifier: Classifier, images: AuditImages) -> bool:
    """Whether an image is answered otherwise beside another image than beside itself."""
    ends = [images.store.block(row, row + 1) for row in (0, len(images.store) - 1)]
    first, last = (torch.from_numpy(end).to(classifier.device, classifier.dtype) for end in ends)
    alone, beside = (classifier(torch.cat([first, other]))[0] for other in (first, last))
    return not torch.allclose(alone, beside, rtol=1e-2, atol=1e-3)


def first_image(classifier: Classifier, images: AuditImages) -> torch.Tensor:
    pixels = torch.from_numpy(images.store.block(0, 1))[0]
    return pixels.to(classifier.device, classifier.dtype)


def _batch_size(
    classifier: Classifier,
    images: AuditImages,
    outline: Outline,
    largest: int,
    digest: str,
    command: str,
    run: Path | None,
    progress: Progress,
) -> tuple[int, float | None]:
    """The user's batch size; else that of the same command's earlier run here; else the fastest."""
    image = first_image(classifier, images)
    if not bool(torch.isfinite(classifier(image[None])).all()):
        raise LogitsError(
            f"The model answers NaN or infinite logits on image {images.names[0]}.",
            "Check the weights and the preprocessing (mean, std, dtype).",
        )
    if outline.settings.batch_size is not None:
        return outline.settings.batch_size, None
    earlier = _earlier(run, command, "batch_size", int)
    if earlier is not None:
        return earlier, None
    progress("finding the batch size", 0, 1)
    choice = tune_batch_size(classifier, image, digest, at_most=largest)
    progress("finding the batch size", 1, 1)
    return choice.batch_size, choice.images_per_second


def _earlier(run: Path | None, command: str, key: str, kind: type[T]) -> T | None:
    """What the same command's earlier run in this folder chose, so that its numbers come out again."""
    state = (read_state(run) or {}) if run is not None else {}
    value = state.get(key)
    return value if state.get("command") == command and type(value) is kind else None
