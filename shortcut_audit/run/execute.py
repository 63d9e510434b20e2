"""Executes a plan: finds what the ledger lacks, has the engine run it, and adds up totals in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from shortcut_audit.errors import AuditError
from shortcut_audit.measures import MEASURES
from shortcut_audit.measures.interface import Advance, Arrays, Block, Shard, Subject, Totals
from shortcut_audit.models.classifier import is_out_of_memory
from shortcut_audit.results.findings import Finding
from shortcut_audit.results.provenance import ModelProvenance
from shortcut_audit.run.engines import Engine
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.plan import Task, tasks_of

__all__ = ["Execution", "ShardWorker", "execute"]


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


def execute(
    subject: Subject,
    model: ModelProvenance,
    ledger: Ledger,
    engine: Engine,
    *,
    advance: Callable[[int, bool], None],
    on_task: Callable[[Task, bool], None],
) -> Execution:
    """Run what is missing of an audit, split by split, and finish its measures.

    Search comes first; what it finds is there when the judgement split is planned. `advance(n,
    reused)` reports image passes, `on_task(task, reused)` finished tasks.
    """
    outline, images = subject.outline, subject.images
    worker = ShardWorker(subject)
    done: list[Task] = []
    findings: dict[str, Finding] = {}
    arrays: Arrays = {}
    last_split = {
        measure.name: "judge" if measure.shards(outline, "judge") else "search" for measure in MEASURES
    }
    for split in ("search", "judge"):
        tasks = tasks_of(split, outline, images, model, subject.classifier.device.type, arrays)
        missing = [task for task in tasks if not ledger.has(task.key)]
        still = {task.key for task in missing}
        for task in tasks:
            if task.key not in still:
                advance(task.shard.n_passes, True)
                on_task(task, True)
        worker.found = arrays
        engine(
            missing,
            worker,
            ledger,
            lambda n: advance(n, False),
            lambda task: on_task(task, False),
        )
        done += tasks
        for measure in MEASURES:
            if last_split[measure.name] == split:
                own = [task for task in done if task.measure.name == measure.name]
                finding, found = measure.finish(outline, images, _totals(own, ledger))
                findings[measure.name] = finding
                arrays = {**arrays, **found}
    return Execution(
        findings=tuple(findings[measure.name] for measure in MEASURES),
        arrays=arrays,
        measuring_seconds=sum(_seconds(done, ledger)),
    )


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
