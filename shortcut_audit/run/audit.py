"""An audit from a loaded model and an image source to a saved result."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from shortcut_audit.data.pixels import AuditImages, choose_images, collect_images, common_shape
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.errors import AuditInterruptedError, DataError, LogitsError, ModelError
from shortcut_audit.measures import MEASURES
from shortcut_audit.measures.interface import Arrays, Outline, Subject
from shortcut_audit.models.classifier import (
    Classifier,
    borrowed,
    count_parameters,
    device_name,
    pick_device,
    require_outputs,
    weights_digest,
)
from shortcut_audit.models.loading import LoadedModel, preprocessing_of
from shortcut_audit.results.audit_result import AuditResult, GridShape
from shortcut_audit.results.provenance import (
    DataProvenance,
    MeasureCost,
    ModelProvenance,
    Preprocessing,
    Provenance,
    Timing,
    installed_versions,
)
from shortcut_audit.results.settings import AuditSettings
from shortcut_audit.results.store import (
    check_folder,
    claim_folder,
    read_state,
    remove_folder,
    save_result,
    write_state,
)
from shortcut_audit.run.allocator import held_buffers
from shortcut_audit.run.engines import Engine
from shortcut_audit.run.engines.local import run_local
from shortcut_audit.run.execute import Execution, execute
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.notes import notes_on
from shortcut_audit.run.plan import Task, outline_of, passes_by_measure
from shortcut_audit.run.tuning import measure_batch, peak_memory_bytes, tune_batch_size

__all__ = [
    "AuditRequest",
    "Estimate",
    "PreparedAudit",
    "Progress",
    "estimate_audit",
    "prepared_audit",
    "run_audit",
]

N_BANDS = 4
_SECONDS_BETWEEN_STATES = 2.0

Stage = Literal["reading images", "finding the batch size", "measuring"]
# progress(stage, done, total): images read, or image passes made.
Progress = Callable[[Stage, int, int], None]


def _silent(stage: Stage, done: int, total: int) -> None:
    del stage, done, total


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What to audit. `mean`, `std`, `size` (H, W) overrule the model's own record.

    `output_names`: names of the model's outputs in order, where they are not the data's classes.
    """

    model: LoadedModel
    source: ImageSource
    settings: AuditSettings
    command: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    output_names: Sequence[str] | None = None


@dataclass(frozen=True)
class Estimate:
    """What an audit would take on this machine; nothing was written."""

    passes_by_measure: dict[str, int]
    images_per_second: float
    batch_size: int
    peak_memory_bytes: int
    n_images: int
    n_orbits: int
    preprocessing: Preprocessing

    @property
    def image_passes(self) -> int:
        """Image passes in all."""
        return sum(self.passes_by_measure.values())

    @property
    def seconds(self) -> float:
        """Expected duration."""
        return self.image_passes / self.images_per_second


@dataclass(frozen=True)
class PreparedAudit:
    """A model on its device with its images decoded, checked and ready to measure."""

    subject: Subject
    model: ModelProvenance
    batch_speed: float | None


def estimate_audit(request: AuditRequest, progress: Progress | None = None) -> Estimate:
    """Passes, time and memory that an audit would take, from a short measurement of the model."""
    with prepared_audit(request, None, progress or _silent) as prepared:
        subject = prepared.subject
        image = _first_image(subject.classifier, subject.images)
        speed = prepared.batch_speed or measure_batch(
            subject.classifier, image, subject.batch_size, seconds=1.0
        )
        return Estimate(
            passes_by_measure=passes_by_measure(subject.outline),
            images_per_second=speed,
            batch_size=subject.batch_size,
            peak_memory_bytes=peak_memory_bytes(subject.classifier.device),
            n_images=len(subject.images.store),
            n_orbits=subject.grid.n_orbits,
            preprocessing=prepared.model.preprocessing,
        )


def run_audit(
    request: AuditRequest,
    run: Path | None = None,
    *,
    progress: Progress | None = None,
    engine: Engine = run_local,
) -> AuditResult:
    """Audit a model.

    With `run`, shards and the result are kept in that folder: the same request on the same folder
    runs only what is missing, and gives the same result as if it had never been stopped. Without,
    nothing outlives the call but the result.

    Everything about the input is checked before the folder is made. Raises AuditError.
    """
    report = progress or _silent
    if run is not None:
        check_folder(run)
    with ExitStack() as stack:
        prepared = stack.enter_context(prepared_audit(request, run, report))
        if run is None:
            ledger_folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            state: _RunState | None = None
        else:
            ledger_folder = run / "shards"
            state = _RunState(run, request, prepared)
        execution = stack.enter_context(_Watched(state)).execute(
            prepared, Ledger(ledger_folder), engine, report
        )
        result = _result(request, prepared, execution)
        if run is not None and state is not None:
            save_result(result, run)
            state.write("finished")
        return result


@contextmanager
def prepared_audit(
    request: AuditRequest, run: Path | None, progress: Progress = _silent
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
    preprocessing = preprocessing_of(
        loaded, common_shape(source, chosen), mean=request.mean, std=request.std, size=request.size
    )
    if preprocessing.height * preprocessing.width < 2:
        raise DataError(
            "Images of a single pixel have no frequencies.", "Give larger images, or a larger --size."
        )
    digest = weights_digest(loaded.network)
    with (
        held_buffers(device.type),
        borrowed(loaded.network, preprocessing, device, settings.dtype, settings.seed) as classifier,
    ):
        n_outputs = _count_outputs(classifier, preprocessing)
        images = collect_images(
            source,
            settings,
            preprocessing,
            _outputs(request, n_outputs),
            folder=_existing_parent(run),
            on_image=lambda done, total: progress("reading images", done, total),
        )
        outline = outline_of(settings, images, n_outputs)
        batch_size, speed = _batch_size(
            classifier, images, outline, digest, request.command, run, progress
        )
        yield PreparedAudit(
            subject=Subject(classifier, images, outline, batch_size),
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


def _existing_parent(run: Path | None) -> Path | None:
    """Where decoded pixels can lie: beside the run, whose disk is meant to take data; /tmp is often
    memory. The file there has no name and vanishes with the process."""
    if run is None:
        return None
    return next((folder for folder in (run, *run.absolute().parents) if folder.is_dir()), None)


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


def _first_image(classifier: Classifier, images: AuditImages) -> torch.Tensor:
    pixels = torch.from_numpy(images.store.block(0, 1))[0]
    return pixels.to(classifier.device, classifier.dtype)


def _batch_size(
    classifier: Classifier,
    images: AuditImages,
    outline: Outline,
    digest: str,
    command: str,
    run: Path | None,
    progress: Progress,
) -> tuple[int, float | None]:
    """The user's batch size; else that of the same command's earlier run here; else the fastest."""
    image = _first_image(classifier, images)
    if not bool(torch.isfinite(classifier(image[None])).all()):
        raise LogitsError(
            f"The model answers NaN or infinite logits on image {images.names[0]}.",
            "Check the weights and the preprocessing (mean, std, dtype).",
        )
    if outline.settings.batch_size is not None:
        return outline.settings.batch_size, None
    earlier = (read_state(run) or {}) if run is not None else {}
    if earlier.get("command") == command and isinstance(earlier.get("batch_size"), int):
        return int(earlier["batch_size"]), None
    progress("finding the batch size", 0, 1)
    largest = max(passes_by_measure(outline).values())
    choice = tune_batch_size(classifier, image, digest, at_most=largest)
    progress("finding the batch size", 1, 1)
    return choice.batch_size, choice.images_per_second


@dataclass
class _RunState:
    """Keeps `run.json` up to date: what a person or a script finds after an interruption."""

    folder: Path
    request: AuditRequest
    prepared: PreparedAudit
    shards_done: int = 0
    shards_total: int = 0
    passes_done: int = 0
    passes_total: int = 0
    made: Path | None = None
    written_at: float = field(default=float("-inf"))

    def open(self, shards_total: int, passes_total: int) -> None:
        """Make the folder ours, now that the input is known to be good."""
        self.shards_total, self.passes_total = shards_total, passes_total
        self.made = claim_folder(self.folder)
        self.write("running")

    def task_done(self) -> None:
        self.shards_done += 1
        if time.monotonic() - self.written_at > _SECONDS_BETWEEN_STATES:
            self.write("running")

    def write(self, state: str, reason: str = "") -> None:
        self.written_at = time.monotonic()
        write_state(
            self.folder,
            {
                "state": state,
                **({"reason": reason} if reason else {}),
                "shards_done": self.shards_done,
                "shards_total": self.shards_total,
                "image_passes_done": self.passes_done,
                "image_passes_total": self.passes_total,
                "command": self.request.command,
                "batch_size": self.prepared.subject.batch_size,
            },
        )


@dataclass
class _Watched:
    """Runs the plan and leaves a readable state behind, however it ends."""

    state: _RunState | None

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        state = self.state
        if state is None or error is None or not state.folder.exists():
            if isinstance(error, KeyboardInterrupt):
                raise AuditInterruptedError("Stopped; nothing was kept.") from error
            return
        if isinstance(error, KeyboardInterrupt):
            state.write("interrupted")
            raise AuditInterruptedError(
                f"Stopped with {state.shards_done} of {state.shards_total} parts done,"
                f" kept in {state.folder}.",
                "Run the same command again to go on from here.",
            ) from error
        if state.made is not None and state.shards_done == 0:
            remove_folder(state.made)
        else:
            state.write("failed", reason=str(error))

    def execute(
        self, prepared: PreparedAudit, ledger: Ledger, engine: Engine, progress: Progress
    ) -> Execution:
        outline, state = prepared.subject.outline, self.state
        total = sum(passes_by_measure(outline).values())
        done = 0

        def advance(n: int, reused: bool) -> None:
            del reused
            nonlocal done
            done += n
            if state is not None:
                state.passes_done = done
            progress("measuring", done, total)

        def on_task(task: Task, reused: bool) -> None:
            del task, reused
            if state is not None:
                state.task_done()

        if state is not None:
            state.open(_count_shards(outline), total)
        return execute(prepared.subject, prepared.model, ledger, engine, advance=advance, on_task=on_task)


def _count_shards(outline: Outline) -> int:
    return sum(
        len(measure.shards(outline, "search")) + len(measure.shards(outline, "judge"))
        for measure in MEASURES
    )


def _result(request: AuditRequest, prepared: PreparedAudit, execution: Execution) -> AuditResult:
    subject = prepared.subject
    outline, images = subject.outline, subject.images
    settings = outline.settings
    passes = passes_by_measure(outline)
    provenance = Provenance(
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
    seconds = execution.measuring_seconds
    result = AuditResult(
        provenance=provenance,
        settings=settings,
        grid=GridShape(
            height=outline.grid.height,
            width=outline.grid.width,
            n_orbits=outline.grid.n_orbits,
            n_bands=N_BANDS,
        ),
        findings=execution.findings,
        skipped=images.skipped,
        timing=Timing(
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            measuring_seconds=round(seconds, 3),
            images_per_second=round(sum(passes.values()) / max(seconds, 1e-9), 1),
        ),
    ).with_arrays({**execution.arrays, **_orbit_arrays(outline)})
    return result.model_copy(update={"notes": notes_on(result, images)})


def _orbit_arrays(outline: Outline) -> Arrays:
    grid = outline.grid
    return {
        "orbits/u": grid.u.astype(np.int32),
        "orbits/v": grid.v.astype(np.int32),
        "orbits/members": grid.members.astype(np.int8),
        "orbits/radius": grid.radius.astype(np.float64),
        "orbits/band": grid.bands(N_BANDS).astype(np.int8),
    }
