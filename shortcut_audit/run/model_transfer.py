"""From audits to what becomes of their shortcuts: maps compared with each other, and judged on models.

Torch is loaded where a model is judged, and not for a comparison of maps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortcut_audit.errors import AuditInterruptedError, ResultError, RunFolderError, SettingsError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.model_transfer import (
    TRANSFER_FILE,
    TRANSFER_FILES,
    JudgedMaps,
    ModelTransferResult,
    TransferredRun,
    save_transfer,
)
from shortcut_audit.results.provenance import Timing, installed_versions
from shortcut_audit.results.store import (
    REPORT_FILE,
    RESULT_FILE,
    check_folder,
    claim_folder,
    load_result,
    remove_folder,
    sweep_asides,
    write_state,
)
from shortcut_audit.run.map_agreement import agreement_of, check_comparable
from shortcut_audit.run.transfer_names import distinct_names

if TYPE_CHECKING:
    from shortcut_audit.data.label_maps import LabelMap
    from shortcut_audit.data.sources import ImageSource
    from shortcut_audit.run.engines import Engine
    from shortcut_audit.run.judged_maps import Judgement, JudgementEstimate
    from shortcut_audit.run.other_models import OtherModel
    from shortcut_audit.run.plan import Task
    from shortcut_audit.run.prepare import Progress

__all__ = [
    "NamedRun",
    "TransferRequest",
    "check_transfer_folder",
    "estimate_transfer",
    "load_runs",
    "named_runs",
    "run_transfer",
    "transfer",
]


@dataclass(frozen=True)
class NamedRun:
    """An audit, where it lies, and what it is called here."""

    name: str
    folder: str
    result: AuditResult


@dataclass(frozen=True, kw_only=True)
class TransferRequest:
    """Runs whose maps are compared; with `others` and `source`, models to judge them on.

    `changes`: settings of the judgement that are not the runs' own: device, dtype, batch_size,
    images_per_class, skip_unreadable. `label_map`: from the runs' classes to those of the images.
    """

    runs: Sequence[NamedRun]
    command: str
    others: Sequence[OtherModel] = ()
    source: ImageSource | None = None
    label_map: LabelMap | None = None
    changes: dict[str, object] = field(default_factory=dict)


def load_runs(folders: Sequence[Path]) -> list[NamedRun]:
    """Finished audits of models, named by their architectures, and folders where these are alike.

    Raises ResultError for what is no such audit, and where a folder is named twice.
    """
    found: list[tuple[str, AuditResult]] = []
    for folder in folders:
        if (folder / TRANSFER_FILE).is_file():
            raise ResultError(
                f"{folder} holds what a transfer found, and no audit.",
                "Name folders that `shortcut-audit audit --out` has written.",
            )
        found.append((str(folder), load_result(folder)))
    resolved = [folder.resolve() for folder in folders]
    twice = next((f for f, r in zip(folders, resolved, strict=True) if resolved.count(r) > 1), None)
    if twice is not None:
        raise ResultError(f"{twice} is named twice.", "Name every run once.")
    return named_runs(found)


def named_runs(found: Sequence[tuple[str, AuditResult]]) -> list[NamedRun]:
    """Results with their folders (or other words for where they come from), named.

    Raises ResultError for an audit of data alone, which has no maps.
    """
    for folder, result in found:
        if result.of_data:
            raise ResultError(
                f"{folder} is an audit of data alone: it has no maps to compare or to judge.",
                "Run `shortcut-audit audit` with a model.",
            )
    names = distinct_names(
        [(result.model.architecture, Path(folder).name or folder) for folder, result in found]
    )
    return [NamedRun(name, folder, result) for name, (folder, result) in zip(names, found, strict=True)]


def check_transfer_folder(out: Path, runs: Sequence[NamedRun] = ()) -> None:
    """Raise RunFolderError where `out` is not ours to write, or holds an audit."""
    check_folder(out, "transfer")
    if (out / RESULT_FILE).is_file() or any(
        out.resolve() == Path(run.folder).resolve() for run in runs if run.folder
    ):
        raise RunFolderError(
            f"{out} holds an audit, which a transfer would overwrite.", "Choose another --out folder."
        )


def _check(request: TransferRequest) -> None:
    """Raise AuditError where there is nothing to compare, or not all that it takes."""
    if not request.runs:
        raise SettingsError("No run is named.", "Name folders that `shortcut-audit audit` has written.")
    if request.others and request.source is None:
        raise SettingsError(
            "Maps are judged on images, and none are given.", "Give --data, named as for audit."
        )
    if request.source is not None and not request.others:
        raise SettingsError("There are images, and no model to judge on.", "Give --to, or no --data.")
    if len(request.runs) < 2 and not request.others:
        raise SettingsError(
            "One run alone has nothing to be compared with.",
            "Name a second run, or a model with --to and images with --data.",
        )


def _planned(request: TransferRequest) -> list[Judgement]:
    """All judgements, run by run, checked before the first is measured."""
    if request.source is None:
        return []
    from shortcut_audit.run.judged_maps import planned_judgement

    return [
        planned_judgement(
            run.name,
            run.result,
            other,
            request.source,
            request.label_map,
            request.command,
            request.changes,
        )
        for run in request.runs
        for other in request.others
    ]


def estimate_transfer(
    request: TransferRequest, progress: Progress | None = None
) -> list[JudgementEstimate]:
    """What each judgement would take; nothing is written. Empty where maps are only compared."""
    _check(request)
    check_comparable([run.name for run in request.runs], [run.result for run in request.runs])
    planned = _planned(request)
    if not planned:
        return []
    from shortcut_audit.run.judged_maps import estimated
    from shortcut_audit.run.prepare import silent

    return [estimated(judgement, progress or silent) for judgement in planned]


def run_transfer(
    request: TransferRequest,
    out: Path | None = None,
    *,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> ModelTransferResult:
    """Compare the maps of all runs with each other, and judge each run's maps on every model.

    With `out`, numbers and finished parts of the judgements are kept in that folder: the same request
    runs only what is missing, and gives the same result as if it had never been stopped. Everything
    about the input is checked before the folder is made. Raises AuditError.
    """
    _check(request)
    if out is not None:
        check_transfer_folder(out, request.runs)
    agreements = tuple(
        agreement_of((one.name, other.name), (one.result, other.result))
        for one, other in combinations(request.runs, 2)
    )
    if not request.others and not any(pair.by_class for pair in agreements):
        raise ResultError(
            agreements[0].notes[0], "Compare runs of the same classes, or judge their maps with --to."
        )
    planned = _planned(request)
    state = _State(out, request.command)
    with state:
        judged, seconds = _judged(planned, state, progress, engine)
        passes = sum(item.image_passes for item in judged)
        result = ModelTransferResult(
            command=request.command,
            versions=installed_versions(),
            runs=tuple(_told(run) for run in request.runs),
            models=tuple(other.name for other in request.others),
            judged=judged,
            agreements=agreements,
            timing=Timing(
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
                measuring_seconds=round(seconds, 3),
                images_per_second=round(passes / seconds, 1) if seconds else 0.0,
            ),
        )
        if out is not None:
            state.open()
            save_transfer(result, out)
            state.write("finished")
    return result


# Settings of the judgement that a caller may choose; all others are the run's.
_CHANGES = ("device", "dtype", "batch_size", "images_per_class", "skip_unreadable")


def transfer(
    runs: Sequence[AuditResult | str | Path],
    models: Mapping[str, Any] | None = None,
    images: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    label_map: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> ModelTransferResult:
    """Compare the maps of audits with each other, and judge them on other models.

    `runs`: results of `audit`, or folders of finished audits. `models`: torch modules or functions by
    name; `images` to judge on, with `class_names`, as for `audit`, in pixels (`mean`, `std`: what the
    models' inputs are normalised with, by default each model's own record). `label_map`: a TOML file.
    `out`: a folder that keeps finished parts and the numbers. Of the settings, `device`, `dtype`,
    `batch_size`, `images_per_class` and `skip_unreadable` may be given; the rest is each run's own.

    Returns a `ModelTransferResult`. Raises `AuditError` with one sentence and a next step.
    """
    unknown = next((name for name in changes if name not in _CHANGES), None)
    if unknown is not None:
        raise SettingsError(
            f"{unknown} is no setting of a transfer: what is not {', '.join(_CHANGES)} is the run's own.",
            "Leave it out.",
        )
    named = named_runs(
        [
            (f"run {number}", run) if isinstance(run, AuditResult) else (str(run), load_result(Path(run)))
            for number, run in enumerate(runs, start=1)
        ]
    )
    source, others, mapped = None, [], None
    if models:
        from shortcut_audit.data.label_maps import load_label_map
        from shortcut_audit.run.other_models import given_images, given_models

        source = given_images(images, class_names)
        others = given_models(models, mean=mean, std=std, size=size, output_names=output_names)
        mapped = None if label_map is None else load_label_map(Path(label_map))
    request = TransferRequest(
        runs=named,
        command="shortcut_audit.transfer(...)",
        others=others,
        source=source,
        label_map=mapped,
        changes=changes,
    )
    return run_transfer(request, None if out is None else Path(out), progress=progress)


def _told(run: NamedRun) -> TransferredRun:
    result = run.result
    finding = result.dominant_frequencies
    return TransferredRun(
        name=run.name,
        folder=run.folder,
        model=result.model,
        data=result.provenance.data,
        settings=result.model_settings,
        search=finding.search,
        response=finding.response,
        class_names=tuple(item.class_name for item in finding.by_class),
        reliability=tuple(item.reliability[finding.response].value for item in finding.by_class),
    )


def _judged(
    planned: Sequence[Judgement], state: _State, progress: Progress | None, engine: Engine | None
) -> tuple[tuple[JudgedMaps, ...], float]:
    """All judgements in order, and the seconds they took."""
    if not planned:
        return (), 0.0
    from shortcut_audit.run.engines.local import run_local
    from shortcut_audit.run.execute import Watch
    from shortcut_audit.run.judged_maps import judged
    from shortcut_audit.run.ledger import Ledger
    from shortcut_audit.run.prepare import silent

    report = progress or silent
    found, total = [], 0.0
    with ExitStack() as stack:
        shards = (
            Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if state.folder is None
            else state.folder / "shards"
        )
        for number, judgement in enumerate(planned):
            steps = _Steps(report, state)
            watch = Watch(advance=steps.advance, on_task=steps.on_task, on_plan=steps.on_plan)
            part = None if state.folder is None else state.folder / "parts" / str(number + 1)
            maps, seconds = judged(
                judgement,
                part,
                Ledger(shards),
                run_local if engine is None else engine,
                watch,
                report,
                state.open,
            )
            found.append(maps)
            total += seconds
    return tuple(found), total


@dataclass
class _Steps:
    """Tells the bar and the state how far a judgement has come."""

    report: Progress
    state: _State
    done: int = 0
    total: int = 1

    def advance(self, n: int, reused: bool) -> None:
        del reused
        self.done += n
        self.report("measuring", self.done, self.total)

    def on_task(self, task: Task, reused: bool) -> None:
        del task, reused
        self.state.n_done += 1

    def on_plan(self, n_shards: int, n_passes: int) -> None:
        del n_shards
        self.total = n_passes
        self.report("measuring", self.done, self.total)


@dataclass
class _State:
    """Makes the folder once something is to be kept, and leaves a readable state behind."""

    folder: Path | None
    command: str
    n_done: int = 0
    opened: bool = False
    made: Path | None = None

    def open(self) -> None:
        """Make the folder ours, now that the input is known to be good."""
        if self.folder is None or self.opened:
            return
        self.opened = True
        self.made = claim_folder(self.folder, "transfer")
        sweep_asides(self.folder, self.folder / "shards")
        # What an earlier transfer found here must not pass for the result of this one.
        for name in (*TRANSFER_FILES, REPORT_FILE):
            (self.folder / name).unlink(missing_ok=True)
        self.write("running")

    def write(self, state: str, reason: str = "") -> None:
        if self.folder is None:
            return
        content = {"state": state, "of": "transfer", "shards_done": self.n_done, "command": self.command}
        write_state(self.folder, {**content, **({"reason": reason} if reason else {})})

    def __enter__(self) -> _State:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if error is None:
            return
        stopped = isinstance(error, KeyboardInterrupt)
        if self.opened and self.folder is not None:
            if self.made is not None and self.n_done == 0:
                remove_folder(self.made)
            else:
                self.write("interrupted" if stopped else "failed", "" if stopped else str(error))
                if stopped:
                    raise AuditInterruptedError(
                        f"Stopped with {self.n_done} parts done, kept in {self.folder}.",
                        "Run the same command again to go on from here.",
                    ) from error
        if stopped:
            raise AuditInterruptedError("Stopped; nothing was kept.") from error
