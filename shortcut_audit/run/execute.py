"""Executes a plan: finds what the ledger lacks, has the engine run it, and adds up totals in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from shortcut_audit.errors import AuditError
from shortcut_audit.measures import measures_of
from shortcut_audit.measures.interface import (
    Advance,
    Arrays,
    Block,
    MeasureInRounds,
    Round,
    Shard,
    Subject,
    Totals,
)
from shortcut_audit.models.classifier import is_out_of_memory
from shortcut_audit.results.findings import Finding
from shortcut_audit.results.provenance import ModelProvenance
from shortcut_audit.run.engines import Engine
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.plan import SPLITS, Ground, Task, passes_by_measure, tasks_of, tasks_of_round

__all__ = ["Execution", "ShardWorker", "Watch", "execute", "run_measure"]


@dataclass
class ShardWorker:
    """Runs tasks on one subject; holds the block of images that consecutive tasks share.

    When memory runs out the batch is halved, for this task and those after it.
    """

    subject: Subject
    found: Arrays = field(default_factory=dict)
    _block: Block | None = None

    def __call__(self, task: Task, advance: Advance) -> Totals:
        reported = 0

        def counted(n: int) -> None:
            nonlocal reported
            reported += n
            advance(n)

        while True:
            # What a model draws by itself must not depend on which tasks ran before.
            torch.manual_seed(int(hashlib.sha256(task.key.encode()).hexdigest()[:15], 16))
            try:
                block = self._block_of(task.shard)
                return task.measure.run(task.shard, self.subject, block, self.found, counted)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.subject.batch_size == 1:
                    raise
            advance(-reported)
            reported = 0
            self.subject = replace(self.subject, batch_size=self.subject.batch_size // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _block_of(self, shard: Shard) -> Block:
        if self._block is None or self._block.rows != shard.rows:
            self._block = self.subject.block(shard.rows)
        return self._block


@dataclass(frozen=True)
class Execution:
    """What a finished plan gives."""

    findings: tuple[Finding, ...]
    arrays: Arrays
    measuring_seconds: float
    passes_by_measure: dict[str, int]


@dataclass(frozen=True)
class Watch:
    """Who hears how it goes on.

    `advance(n, reused)`: image passes; `on_task(task, reused)`: a finished task; `on_plan(n_shards,
    n_passes)`: how many of both there will be in all, as far as is known now; `on_map(finding,
    arrays)`: what a search would say if it ended here; None where nobody looks.
    """

    advance: Callable[[int, bool], None]
    on_task: Callable[[Task, bool], None]
    on_plan: Callable[[int, int], None] = lambda n_shards, n_passes: None
    on_map: Callable[[Finding, Arrays], None] | None = None


@dataclass
class _Run:
    """Tasks so far, on their way into the ledger."""

    ground: Ground
    ledger: Ledger
    engine: Engine
    worker: ShardWorker
    watch: Watch
    done: list[Task] = field(default_factory=list)

    def tasks(
        self, tasks: list[Task], n_passes_after: int, so_far: Callable[[], None] | None = None
    ) -> None:
        """Run what is missing of `tasks`; before that, tell what is known `so_far`."""
        missing = [task for task in tasks if not self.ledger.has(task.key)]
        # Of rounds that an earlier run finished, nobody waits for a map.
        if missing and so_far is not None:
            so_far()
        still = {task.key for task in missing}
        planned = self.done + tasks
        n_passes = sum(task.shard.n_passes for task in planned) + n_passes_after
        self.watch.on_plan(len(planned), n_passes)
        for task in tasks:
            if task.key not in still:
                self.watch.advance(task.shard.n_passes, True)
                self.watch.on_task(task, True)
        self.engine(
            missing,
            self.worker,
            self.ledger,
            lambda n: self.watch.advance(n, False),
            lambda task: self.watch.on_task(task, False),
        )
        self.done += tasks


@dataclass(frozen=True)
class _RoundDone:
    """A finished round; totals stay in the ledger until they are asked for."""

    by_class: Mapping[int, Sequence[Task]]
    ledger: Ledger
    n_passes: int

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task], ledger: Ledger) -> _RoundDone:
        by_class: dict[int, list[Task]] = {}
        for task in tasks:
            by_class.setdefault(task.shard.class_index, []).append(task)
        return cls(by_class, ledger, sum(task.shard.n_passes for task in tasks))

    @cached_property
    def seconds(self) -> float:
        return sum(_seconds([task for tasks in self.by_class.values() for task in tasks], self.ledger))

    def of(self, class_index: int) -> Iterator[tuple[Shard, Totals]]:
        return _totals(self.by_class.get(class_index, ()), self.ledger)


def execute(
    subject: Subject, model: ModelProvenance, ledger: Ledger, engine: Engine, watch: Watch
) -> Execution:
    """Run what is missing of an audit, split by split, and finish its measures.

    Search comes first, in rounds; what it finds is there when the judgement split is planned.
    """
    outline, images = subject.outline, subject.images
    ground = Ground(outline, images, model, subject.classifier.device.type)
    run = _Run(ground, ledger, engine, ShardWorker(subject), watch)
    found: dict[str, tuple[Finding, Arrays]] = {}
    planned = passes_by_measure(outline)
    measures = measures_of(outline)
    known = {m.name: m for m in measures if not isinstance(m, MeasureInRounds)}
    for split in SPLITS:
        tasks = tasks_of(split, ground, run.worker.found)
        run.tasks(tasks, _passes_left(planned, run, tasks))
        for measure in measures:
            if isinstance(measure, MeasureInRounds) and measure.split == split:
                left = _passes_left({**planned, measure.name: 0}, run, [])
                found[measure.name] = _in_rounds(measure, run, left)
                # Whatever it was expected to take, it is done.
                planned[measure.name] = 0
                run.worker.found = {**run.worker.found, **found[measure.name][1]}
    for name, measure in known.items():
        own = [task for task in run.done if task.measure.name == name]
        found[name] = measure.finish(outline, images, _totals(own, ledger))
    ordered = [found[measure.name] for measure in measures]
    return Execution(
        findings=tuple(finding for finding, _ in ordered),
        arrays={name: array for _, own in ordered for name, array in own.items()},
        measuring_seconds=sum(_seconds(run.done, ledger)),
        passes_by_measure={
            measure.name: sum(t.shard.n_passes for t in run.done if t.measure.name == measure.name)
            for measure in measures
        },
    )


def run_measure(
    measure: MeasureInRounds,
    subject: Subject,
    model: ModelProvenance,
    ledger: Ledger,
    engine: Engine,
    watch: Watch,
    found: Arrays,
) -> Execution:
    """Run what is missing of one measure alone, as if `found` had been found before it."""
    ground = Ground(subject.outline, subject.images, model, subject.classifier.device.type)
    run = _Run(ground, ledger, engine, ShardWorker(subject, dict(found)), watch)
    finding, arrays = _in_rounds(measure, run, 0)
    return Execution(
        findings=(finding,),
        arrays=arrays,
        measuring_seconds=sum(_seconds(run.done, ledger)),
        passes_by_measure={measure.name: sum(task.shard.n_passes for task in run.done)},
    )


def _passes_left(planned: Mapping[str, int], run: _Run, tasks: Sequence[Task]) -> int:
    """Passes that are expected of all measures, less those of tasks that are done or asked for."""
    left = dict(planned)
    for task in (*run.done, *tasks):
        left[task.measure.name] = left.get(task.measure.name, 0) - task.shard.n_passes
    return sum(max(0, n_passes) for n_passes in left.values())


def _in_rounds(measure: MeasureInRounds, run: _Run, n_passes_after: int) -> tuple[Finding, Arrays]:
    rounds = measure.rounds(run.ground.outline, run.ground.images, run.worker.found)
    asked = next(rounds)
    while True:
        tasks = tasks_of_round(measure, asked.shards, run.ground)
        run.tasks(tasks, asked.n_passes_after + n_passes_after, _map_so_far(run.watch, asked))
        try:
            asked = rounds.send(_RoundDone.of_tasks(tasks, run.ledger))
        except StopIteration as stop:
            finding: tuple[Finding, Arrays] = stop.value
            return finding


def _map_so_far(watch: Watch, asked: Round[tuple[Finding, Arrays]]) -> Callable[[], None] | None:
    tell, make = watch.on_map, asked.so_far
    if tell is None or make is None:
        return None
    return lambda: tell(*make())


def _totals(tasks: Sequence[Task], ledger: Ledger) -> Iterator[tuple[Shard, Totals]]:
    """Totals in shard order, one file in memory at a time."""
    for task in tasks:
        entry = ledger.get(task.key)
        if entry is None:
            raise AuditError(
                f"A finished part of the audit vanished ({ledger.path(task.key).name}).",
                "Run the same command again; only that part is measured anew.",
            )
        yield task.shard, entry.totals


def _seconds(tasks: Sequence[Task], ledger: Ledger) -> Iterable[float]:
    entries = (ledger.get(task.key) for task in tasks)
    return (entry.seconds for entry in entries if entry is not None)
