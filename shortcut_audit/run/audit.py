"""An audit from a loaded model and an image source to a saved result."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_audit.errors import AuditInterruptedError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.interface import Arrays, Outline
from shortcut_audit.measures.searches import SEARCHES
from shortcut_audit.measures.searches.interface import MEASURE
from shortcut_audit.models.classifier import (
    device_name,
)
from shortcut_audit.results.audit_result import AuditResult, GridShape
from shortcut_audit.results.provenance import (
    DataProvenance,
    MeasureCost,
    Preprocessing,
    Provenance,
    Timing,
    installed_versions,
)
from shortcut_audit.results.settings import SearchName
from shortcut_audit.results.store import (
    ARRAYS_FILE,
    MAP_SO_FAR_FILE,
    REPORT_FILE,
    RESULT_FILE,
    check_folder,
    claim_folder,
    forget_map_so_far,
    remove_folder,
    save_map_so_far,
    save_result,
    sweep_asides,
    write_state,
)
from shortcut_audit.run.engines import Engine
from shortcut_audit.run.engines.local import run_local
from shortcut_audit.run.execute import Execution, Watch, execute
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.notes import notes_on
from shortcut_audit.run.plan import Task, passes_by_measure
from shortcut_audit.run.prepare import (
    AuditRequest,
    PreparedAudit,
    Progress,
    first_image,
    prepared_audit,
    silent,
)
from shortcut_audit.run.recovery import with_truth
from shortcut_audit.run.tuning import measure_batch, peak_memory_bytes

__all__ = [
    "Estimate",
    "estimate_audit",
    "orbit_arrays",
    "run_audit",
]

N_BANDS = 4
_SECONDS_BETWEEN_STATES = 2.0


@dataclass(frozen=True)
class Estimate:
    """What an audit would take on this machine; nothing was written.

    `search`: the one that would run, with the reason where the settings leave it open.
    `n_exact_passes`: what the exact search of the same images would take, without a budget.
    """

    passes_by_measure: dict[str, int]
    search: SearchName
    search_reason: str
    n_exact_passes: int
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


def estimate_audit(request: AuditRequest, progress: Progress | None = None) -> Estimate:
    """Passes, time and memory that an audit would take, from a short measurement of the model."""
    with prepared_audit(request, None, progress or silent) as prepared:
        subject = prepared.subject
        image = first_image(subject.classifier, subject.images)
        speed = prepared.batch_speed or measure_batch(
            subject.classifier, image, subject.batch_size, seconds=1.0
        )
        outline = subject.outline
        unlimited = outline.settings.model_copy(update={"budget": None})
        n_exact = SEARCHES["exact"].planned_passes(replace(outline, settings=unlimited))
        return Estimate(
            passes_by_measure=_within_time(outline, passes_by_measure(outline), n_exact, speed),
            search=outline.search,
            search_reason=outline.search_reason,
            n_exact_passes=n_exact,
            images_per_second=speed,
            batch_size=subject.batch_size,
            peak_memory_bytes=peak_memory_bytes(subject.classifier.device),
            n_images=subject.images.n_used,
            n_orbits=subject.grid.n_orbits,
            preprocessing=prepared.model.preprocessing,
        )


def _within_time(
    outline: Outline, planned: dict[str, int], n_exact: int, images_per_second: float
) -> dict[str, int]:
    """`planned` passes, the search's as its budget in time pays for."""
    budget = outline.settings.budget
    if budget is None or budget.seconds is None:
        return planned
    # With time left a screened search goes on probing, until it has probed everything.
    most = n_exact if outline.search == "screened" else planned[MEASURE]
    return {**planned, MEASURE: min(most, round(budget.seconds * images_per_second))}


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
    report = progress or silent
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
            forget_map_so_far(run)
            state.write("finished")
        return result


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

    def open(self, passes_total: int) -> None:
        """Make the folder ours, now that the input is known to be good."""
        self.passes_total = passes_total
        self.made = claim_folder(self.folder)
        sweep_asides(self.folder, self.folder / "shards")
        # What an earlier audit found here must not pass for the result of this one.
        for name in (RESULT_FILE, ARRAYS_FILE, REPORT_FILE):
            (self.folder / name).unlink(missing_ok=True)
        forget_map_so_far(self.folder)
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
                "compiled": self.prepared.compiled,
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
            so_far = state.folder / f"{MAP_SO_FAR_FILE}.json"
            raise AuditInterruptedError(
                f"Stopped with {state.shards_done} of {state.shards_total} parts done,"
                f" kept in {state.folder}.",
                "Run the same command again to go on from here."
                + (f" The maps so far: {so_far}." if so_far.is_file() else ""),
            ) from error
        if state.made is not None and state.shards_done == 0:
            remove_folder(state.made)
        else:
            state.write("failed", reason=str(error))

    def execute(
        self, prepared: PreparedAudit, ledger: Ledger, engine: Engine, progress: Progress
    ) -> Execution:
        state = self.state
        total = sum(passes_by_measure(prepared.subject.outline).values())
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

        def on_plan(n_shards: int, n_passes: int) -> None:
            nonlocal total
            total = n_passes
            if state is not None:
                state.shards_total, state.passes_total = n_shards, n_passes
            progress("measuring", done, total)

        if state is not None:
            state.open(total)
        watch = Watch(
            advance=advance,
            on_task=on_task,
            on_plan=on_plan,
            on_map=None if state is None else partial(save_map_so_far, state.folder),
        )
        return execute(prepared.subject, prepared.model, ledger, engine, watch)


def _result(request: AuditRequest, prepared: PreparedAudit, execution: Execution) -> AuditResult:
    subject = prepared.subject
    outline, images = subject.outline, subject.images
    settings = outline.settings
    passes = execution.passes_by_measure
    provenance = Provenance(
        versions=installed_versions(),
        command=request.command,
        model=prepared.model,
        data=DataProvenance(
            spec=images.spec,
            digest=images.digest,
            n_available=images.n_available,
            n_used=images.n_used,
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
    ).with_arrays({**execution.arrays, **orbit_arrays(outline.grid, N_BANDS)})
    result = result.model_copy(
        update={"notes": notes_on(result, images, batch_matters=prepared.batch_matters)}
    )
    return with_truth(result, request.truth)


def orbit_arrays(grid: FrequencyGrid, n_bands: int) -> Arrays:
    """What tables and figures need to know of every orbit."""
    return {
        "orbits/u": grid.u.astype(np.int32),
        "orbits/v": grid.v.astype(np.int32),
        "orbits/members": grid.members.astype(np.int8),
        "orbits/radius": grid.radius.astype(np.float64),
        "orbits/band": grid.bands(n_bands).astype(np.int8),
    }
