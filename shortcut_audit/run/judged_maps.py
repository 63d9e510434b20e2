"""Maps of a run judged on another model: the tests of an audit, without its search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_audit.data.label_maps import LabelMap, identity_map
from shortcut_audit.data.pixels import AuditImages, choose_images, common_shape
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.measures.interface import Arrays
from shortcut_audit.measures.searches.interface import MEASURE as MAPS
from shortcut_audit.measures.shortcuts import Shortcuts
from shortcut_audit.models.classifier import device_name
from shortcut_audit.models.loading import preprocessing_of
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Rate
from shortcut_audit.results.model_transfer import DroppedClass, Images, JudgedClass, JudgedMaps
from shortcut_audit.results.provenance import (
    DataProvenance,
    MeasureCost,
    Provenance,
    installed_versions,
)
from shortcut_audit.results.settings import AuditSettings, settings_from
from shortcut_audit.results.shortcut_findings import ClassShortcut, ShortcutsFinding
from shortcut_audit.results.store import write_state
from shortcut_audit.run.engines import Engine
from shortcut_audit.run.execute import Watch, run_measure
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.other_models import OtherModel, answerable
from shortcut_audit.run.prepare import (
    AuditRequest,
    PreparedAudit,
    Progress,
    first_image,
    prepared_audit,
)
from shortcut_audit.run.tuning import measure_batch, peak_memory_bytes

__all__ = [
    "Judgement",
    "JudgementEstimate",
    "estimated",
    "judged",
    "planned_judgement",
]

# Settings of a run that say what its maps mean, and which of its images it was judged on.
_OF_THE_RUN = (
    "images_per_class",
    "search_share",
    "kept_share",
    "response",
    "resolution",
    "dc",
    "domain",
    "clip",
    "seed",
    "dtype",
    "skip_unreadable",
)


@dataclass(frozen=True)
class Judgement:
    """A run's maps on their way to a model: everything is checked, and nothing measured.

    `run_class`: of each class of the images whose map is judged, what the run calls it.
    """

    run: str
    result: AuditResult
    other: OtherModel
    request: AuditRequest
    run_class: Mapping[str, str]
    dropped: tuple[DroppedClass, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class JudgementEstimate:
    """What a judgement would take: passes, where every null is worth drawing."""

    run: str
    model: str
    n_classes: int
    n_images: int
    image_passes: int
    images_per_second: float
    batch_size: int
    peak_memory_bytes: int


def planned_judgement(
    run: str,
    result: AuditResult,
    other: OtherModel,
    source: ImageSource,
    label_map: LabelMap | None,
    command: str,
    changes: Mapping[str, Any],
) -> Judgement:
    """The judgement of a run's maps on a model, from classes and sizes alone.

    `changes`: settings that are not the run's (device, dtype, batch_size, images_per_class,
    skip_unreadable). Raises AuditError where no class is left, and for another grid.
    """
    images, unanswered = answerable(source, other)
    run_class, dropped, notes = _classes(run, result, images, unanswered, other, label_map)
    settings = settings_from(
        {
            **result.model_settings.model_dump(include=set(_OF_THE_RUN)),
            # Nothing is searched: whatever search the run had, the model need not be fit for it.
            "search": "exact",
            "examples": 0,
            "classes": tuple(run_class),
            **changes,
        }
    )
    request = AuditRequest(
        model=other.model,
        source=images,
        settings=settings,
        command=command,
        mean=other.mean,
        std=other.std,
        size=other.size,
        output_names=other.output_names,
    )
    _check_grid(run, result, other, request)
    return Judgement(run, result, other, request, run_class, dropped, notes)


def _classes(
    run: str,
    result: AuditResult,
    source: ImageSource,
    unanswered: Sequence[str],
    other: OtherModel,
    label_map: LabelMap | None,
) -> tuple[dict[str, str], tuple[DroppedClass, ...], tuple[str, ...]]:
    """Class of the images -> class of the run for all maps that can be judged; what is dropped; notes."""
    mapped = [item.class_name for item in result.dominant_frequencies.by_class]
    present = tuple(source.class_names[label] for label in np.unique(source.labels))
    spec = source.spec
    if label_map is None:
        every = identity_map(mapped, (*present, *unanswered), source=run, target=spec)
        notes: tuple[str, ...] = (every.protocol,) if "Spelt differently" in every.protocol else ()
    else:
        every = label_map
        every.check_source(result.class_names)
        every.check_target((*present, *unanswered))
        notes = (f"Classes by a label map: {every.protocol}", *every.notes())
    reasons = {
        **{name: f"no class of {spec} stands for it" for name in mapped if name not in every.map},
        **{name: reason for name, reason in every.dropped.source.items() if name in mapped},
    }
    run_class: dict[str, str] = {}
    for name in (name for name in mapped if name in every.map):
        targets = [target for target in every.map[name] if target in (*present, *unanswered)]
        answers = [target for target in targets if target not in unanswered]
        if len(answers) > 1:
            told = ", ".join(repr(target) for target in answers)
            raise SettingsError(
                f"{len(answers)} classes of {spec} stand for {name!r}: {other.name} has an output for"
                f" each of them ({told}), and a map is judged by one output.",
                "Give a label map with one class for each; drop the others there.",
            )
        if not targets:
            reasons[name] = f"{spec} has no images of {every.map[name][0]!r}"
        elif not answers:
            # Under a label map the images may call it something else.
            missing = " or ".join(repr(target) for target in targets)
            of = "of that name" if targets == [name] else missing
            reasons[name] = f"{other.name} has no output {of}"
        else:
            run_class[answers[0]] = name
    if not run_class:
        told = "; ".join(f"{name!r}: {reason}" for name, reason in list(reasons.items())[:3])
        raise DataError(
            f"No map of {run} can be judged on {other.name} with images of {spec} ({told}).",
            "Give images of the run's classes, or a --label-map that says which are the same.",
        )
    dropped = [DroppedClass(side=run, class_name=name, reason=r) for name, r in reasons.items()]
    dropped += [
        DroppedClass(side=spec, class_name=name, reason=f"{other.name} has no output of that name")
        for name in unanswered
    ]
    dropped += [
        DroppedClass(
            side=spec,
            class_name=name,
            reason=f"{run} has no map for it; its images serve as those of another class",
        )
        for name in present
        if name not in run_class
    ]
    return run_class, tuple(dropped), notes


def _check_grid(run: str, result: AuditResult, other: OtherModel, request: AuditRequest) -> None:
    """Raise SettingsError where the model would see images of another size than the maps are of."""
    _, order = choose_images(request.source, request.settings)
    chosen = [int(i) for rows in order for i in rows[: request.settings.images_per_class]]
    made = preprocessing_of(
        other.model,
        common_shape(request.source, chosen),
        mean=other.mean,
        std=other.std,
        size=other.size,
    )
    height, width = result.grid.height, result.grid.width
    if (made.height, made.width) != (height, width):
        raise SettingsError(
            f"{other.name} is given images of {made.height} x {made.width} pixels, and the maps of {run}"
            f" are of {height} x {width}: the same orbit is another wave there.",
            f"Give --size {height}x{width}, or audit that model at {made.height}x{made.width} first.",
        )


def estimated(judgement: Judgement, progress: Progress) -> JudgementEstimate:
    """Passes, time and memory of a judgement, from a short measurement of the model."""
    with prepared_audit(judgement.request, None, progress) as prepared:
        subject = prepared.subject
        image = first_image(subject.classifier, subject.images)
        speed = prepared.batch_speed or measure_batch(
            subject.classifier, image, subject.batch_size, seconds=1.0
        )
        return JudgementEstimate(
            run=judgement.run,
            model=judgement.other.name,
            n_classes=len(subject.outline.searched),
            n_images=len(subject.images.store),
            image_passes=Shortcuts().planned_passes(subject.outline),
            images_per_second=speed,
            batch_size=subject.batch_size,
            peak_memory_bytes=peak_memory_bytes(subject.classifier.device),
        )


def judged(
    judgement: Judgement,
    part: Path | None,
    ledger: Ledger,
    engine: Engine,
    watch: Watch,
    progress: Progress,
    on_checked: Callable[[], None],
) -> tuple[JudgedMaps, float]:
    """Judge; also the seconds that all shards took, whenever they ran.

    `part`: folder that remembers the batch size, so that the same command finds its shards.
    `on_checked` is called before anything is written or measured.
    """
    with prepared_audit(judgement.request, part, progress) as prepared:
        on_checked()
        if part is not None:
            part.mkdir(parents=True, exist_ok=True)
            write_state(
                part,
                {
                    "state": "judging",
                    "command": judgement.request.command,
                    "batch_size": prepared.subject.batch_size,
                    "compiled": prepared.compiled,
                },
            )
        subject = prepared.subject
        found = _maps_for(judgement, subject.images, subject.outline.searched)
        execution = run_measure(Shortcuts(), subject, prepared.model, ledger, engine, watch, found)
        finding = execution.findings[0]
        assert isinstance(finding, ShortcutsFinding)
        provenance = _provenance(judgement.request, prepared, execution.passes_by_measure)
        there = {item.class_name: item for item in finding.by_class}
        here = {item.class_name: item for item in judgement.result.shortcuts.by_class}
        by_class = tuple(
            JudgedClass(
                class_name=name,
                data_class=data_class,
                here=_without_pictures(here[name]),
                there=_without_pictures(there[data_class]),
            )
            for data_class, name in judgement.run_class.items()
        )
        images = _images(judgement, subject.images)
        return JudgedMaps(
            run=judgement.run,
            model=judgement.other.name,
            images=images,
            provenance=provenance,
            by_class=by_class,
            dropped=judgement.dropped,
            notes=(*judgement.notes, *_notes(judgement, prepared, images, by_class)),
        ), execution.measuring_seconds


def _maps_for(judgement: Judgement, images: AuditImages, searched: Sequence[int]) -> Arrays:
    """The run's arrays with a row for each class that is judged, in the order of the images' classes."""
    result = judgement.result
    names = [item.class_name for item in result.dominant_frequencies.by_class]
    rows = [names.index(judgement.run_class[images.class_names[index]]) for index in searched]
    return {
        name: array[rows]
        for name, array in result.arrays.items()
        if name in (f"{MAPS}/kept", f"{MAPS}/rank") or name.startswith(f"{MAPS}/importance/")
    }


def _without_pictures(item: ClassShortcut) -> ClassShortcut:
    """`item` without names of images whose pixels are not kept here."""
    return item.model_copy(
        update={"example": None, "example_predictions": {}, "example_steps": (), "evidence": ()}
    )


def _provenance(request: AuditRequest, prepared: PreparedAudit, passes: Mapping[str, int]) -> Provenance:
    subject, images = prepared.subject, prepared.subject.images
    settings: AuditSettings = subject.settings
    return Provenance(
        versions=installed_versions(),
        command=request.command,
        model=prepared.model,
        data=DataProvenance(
            spec=images.spec,
            digest=images.digest,
            n_available=images.n_available,
            n_used=len(images.store),
            class_names=images.class_names,
            outputs=images.outputs,
            n_search_by_class=tuple(b - a for a, b in images.search_rows),
            n_judge_by_class=tuple(b - a for a, b in images.judge_rows),
        ),
        seed=settings.seed,
        device=device_name(subject.classifier.device),
        dtype=settings.dtype,
        batch_size=subject.batch_size,
        cost=tuple(MeasureCost(measure=name, image_passes=n) for name, n in passes.items()),
    )


def _images(judgement: Judgement, images: AuditImages) -> Images:
    """How the images stand to those of the run: by their pixels, whatever the outputs are numbered."""
    own = judgement.result.provenance.data
    numbered = dict(zip(own.class_names, own.outputs, strict=True))
    names = [judgement.run_class.get(name, name) for name in images.class_names]
    if all(name in numbered for name in names):
        renumbered = replace(
            images, class_names=tuple(names), outputs=tuple(numbered[name] for name in names)
        )
        if renumbered.digest == own.digest:
            return "the same split"
    return "the same set" if images.spec == own.spec else "other images"


def _notes(
    judgement: Judgement, prepared: PreparedAudit, images: Images, by_class: Sequence[JudgedClass]
) -> tuple[str, ...]:
    """What a reader must know before trusting a number."""
    run, other = judgement.run, judgement.other.name
    notes = [_on_images(judgement, images, prepared.subject.images)]
    moments = [
        (made.preprocessing.mean, made.preprocessing.std)
        for made in (judgement.result.model, prepared.model)
    ]
    if moments[0] != moments[1] and prepared.model.digest == judgement.result.model.digest:
        notes.append(
            f"{other} has the weights of {run}, but its images are normalised otherwise"
            f" (mean {_numbers(moments[1][0])}, std {_numbers(moments[1][1])}; {run} had"
            f" {_numbers(moments[0][0])}"
            f" and {_numbers(moments[0][1])}): give --mean and --std as the run had them."
        )
    elif prepared.model.digest == judgement.result.model.digest:
        notes.append(f"{other} has the weights of {run}: this is the run's own model once more.")
    full = [item.there.tpr_full for item in by_class]
    accuracy = Rate(hits=sum(rate.hits for rate in full), n=sum(rate.n for rate in full))
    if accuracy.low <= 1 / prepared.model.n_outputs:
        notes.append(
            f"{other} gets {accuracy.value or 0:.1%} of {accuracy.n} judgement images right, which does"
            " not show it to be better than chance: check that weights, preprocessing and class order"
            " belong together before reading anything into its verdicts."
        )
    ways = [made.preprocessing for made in (judgement.result.model, prepared.model)]
    if len({(w.channels, w.geometry, w.interpolation, w.crop_pct, w.crop_mode) for w in ways}) > 1:
        notes.append(
            f"Images reach {other} by another way than they reached {run} (resized, cropped, or turned"
            " grey in one of them): a wave of the file is not the same orbit in both."
        )
    unjudged = sum(item.here.verdict == "not judged" for item in by_class)
    if unjudged:
        notes.append(
            f"{unjudged} of {len(by_class)} classes of {run} have no verdict of their own (an audit of an"
            " older version): audit again to know whether they had a shortcut that could travel."
        )
    if prepared.batch_matters:
        notes.append(
            f"The answer of {other} for an image changes with the other images in its batch, so that"
            f" every number of it holds for batches of {prepared.subject.batch_size} alone."
        )
    skipped = len(prepared.subject.images.skipped)
    if skipped:
        notes.append(f"{skipped} unreadable images were left out.")
    return tuple(note for note in notes if note)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _on_images(judgement: Judgement, images: Images, used: AuditImages) -> str:
    run, data = judgement.run, judgement.result.provenance.data
    if images == "the same split":
        return ""
    if images == "the same set":
        return (
            f"The images are of the set that {run} was audited on, in another choice or split (a class"
            " was left out, or number or content of images differ): the run's search may have seen some"
            " of those that are judged on."
        )
    return (
        f"The verdicts of {run} are of other images ({data.spec}) than those judged on here"
        f" ({used.spec}): a difference may be for the images and not for the model. Judge the run's own"
        " model on them too (one more --to) to tell."
    )
