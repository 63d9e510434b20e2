"""Several audits against one of them: what every page, sentence and file of a comparison is made from.

`results/comparison.py` compares two audits; here each run is compared with the baseline, p-values become
two-sided (better is told as well as worse) and are adjusted over all that was tested between two runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shortcut_audit.errors import ResultError, SettingsError, printable
from shortcut_audit.report.embedding import read_run
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import Apart, SameImages, SameReceivers, Worsening
from shortcut_audit.results.comparison import (
    Change,
    Comparison,
    Difference,
    ImageOverlap,
    Quantity,
    compared_numbers,
)
from shortcut_audit.results.counts import Frozen, Paired, Rate
from shortcut_audit.results.outcomes import Outcomes, outcomes_of
from shortcut_audit.results.provenance import Provenance
from shortcut_audit.results.run_numbers import RunNumbers, numbers_of
from shortcut_audit.results.shortcut_findings import Verdict
from shortcut_audit.results.statistics import adjusted_p_values
from shortcut_audit.results.store import REPORT_FILE
from shortcut_audit.version import __version__

__all__ = [
    "MOST_RUNS",
    "SIGNIFICANT",
    "ClassState",
    "Outcome",
    "RunAgainst",
    "RunChange",
    "RunSide",
    "RunState",
    "RunsComparison",
    "compared_runs",
    "labels_of",
    "read_side",
    "side_of",
    "two_sided_p",
]

MOST_RUNS = 20
SIGNIFICANT = 0.05
Outcome = Literal["worse", "better", "within the noise", "not measured", "not tested"]


class ClassState(Frozen):
    """A class in one run; `score` with its 95% interval, None where it has none."""

    class_name: str
    verdict: Verdict
    searched: bool
    score: float | None
    low: float | None
    high: float | None
    recall: Rate


class RunState(Frozen):
    """One of the runs. `page`: read from its page, which holds no outcomes of single images."""

    label: str
    path: str
    page: bool
    finished_at: str
    architecture: str
    n_parameters: int
    with_outcomes: bool
    provenance: Provenance
    image_passes: int
    accuracy: Rate
    by_class: tuple[ClassState, ...]

    def n_of(self, verdict: Verdict) -> int:
        """How many searched classes came to a verdict."""
        return sum(item.searched and item.verdict == verdict for item in self.by_class)

    @property
    def n_searched(self) -> int:
        """Classes with a map."""
        return sum(item.searched for item in self.by_class)

    @property
    def worst(self) -> ClassState | None:
        """The class of the largest score, where any has one."""
        scored = [item for item in self.by_class if item.score is not None]
        return max(scored, key=lambda item: item.score or 0.0, default=None)


class RunChange(Frozen):
    """A change from the baseline to a run, of a class or (None) of all classes together.

    `difference`: run - baseline, with its 95% interval. `p_value` two-sided; `q_value` adjusted over all
    that was tested between the two. A verdict is tested by its score, and counts once with it.
    """

    class_name: str | None
    quantity: Quantity
    set: str = ""
    before: float | str | None
    after: float | str | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    n: int = 0
    paired: bool = False
    outcome: Outcome
    note: str = ""

    @property
    def sure(self) -> bool:
        """Whether it exceeds the noise."""
        return self.outcome in ("worse", "better")


class RunAgainst(Frozen):
    """A run against the baseline."""

    label: str
    baseline: str
    images: ImageOverlap
    differences: tuple[Difference, ...]
    same_numbers: bool
    n_tested: int
    changes: tuple[RunChange, ...]

    def of(self, quantity: Quantity, class_name: str | None, name: str = "") -> RunChange | None:
        """The change of a quantity of a class."""
        wanted = (quantity, class_name, name)
        return next((c for c in self.changes if (c.quantity, c.class_name, c.set) == wanted), None)

    def by_class(self) -> dict[str, list[RunChange]]:
        """Changes of single classes, by class in the order of the baseline."""
        found: dict[str, list[RunChange]] = {}
        for change in self.changes:
            if change.class_name is not None:
                found.setdefault(change.class_name, []).append(change)
        return found


class RunsComparison(Frozen):
    """Runs in the order given, and each but the baseline against it."""

    format: Literal[1] = 1
    tool: str
    command: str
    baseline: int
    significance: float
    runs: tuple[RunState, ...]
    against: tuple[RunAgainst, ...]

    @property
    def base(self) -> RunState:
        """The run that the others are compared with."""
        return self.runs[self.baseline]

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the baseline has them."""
        return tuple(item.class_name for item in self.base.by_class)

    @property
    def digest(self) -> str:
        """Of the data of all runs: their own where they share one."""
        digests = sorted({run.provenance.data.digest for run in self.runs})
        return (
            digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        )


@dataclass(frozen=True)
class RunSide:
    """What is kept of a run while others are read: its numbers, without maps and pictures."""

    state: RunState
    numbers: RunNumbers
    outcomes: Outcomes | None


def read_side(path: Path, label: str) -> RunSide:
    """A finished audit of a model, from its folder or page. Raises ResultError, naming the path."""
    try:
        return side_of(read_run(path), label, str(path), path.is_file())
    except ResultError as error:
        if str(path) in error.problem:
            raise
        raise ResultError(f"{path}: {error.problem}", error.next_step) from error


def side_of(result: AuditResult, label: str, path: str = "", page: bool = False) -> RunSide:
    """What is kept of a result. Raises ResultError for audits of data alone."""
    numbers, outcomes = numbers_of(result), outcomes_of(result)
    state = RunState(
        label=label,
        path=printable(path),
        page=page,
        finished_at=result.timing.finished_at,
        architecture=result.model.architecture,
        n_parameters=result.model.n_parameters,
        with_outcomes=outcomes is not None,
        provenance=result.provenance,
        image_passes=result.image_passes,
        accuracy=result.predictions.accuracy,
        by_class=tuple(_class_states(numbers)),
    )
    return RunSide(state, numbers, outcomes)


def _class_states(numbers: RunNumbers) -> Iterable[ClassState]:
    for item in numbers.classes:
        score = item.score
        low, high = (None, None) if score is None else score.interval(0.95)
        yield ClassState(
            class_name=item.name,
            verdict=item.verdict,
            searched=item.searched,
            score=None if score is None else score.value,
            low=low,
            high=high,
            recall=Rate(hits=item.accuracy[0], n=item.accuracy[1]),
        )


def labels_of(paths: Sequence[Path]) -> list[str]:
    """A name for each run: as much of the end of its path as tells it from the others.

    >>> labels_of([Path("a/run"), Path("b/run"), Path("c")])
    ['a/run', 'b/run', 'c']
    """
    parts = []
    for path in paths:
        whole = path.absolute()
        # A page in its run folder goes by the folder.
        parts.append((whole.parent if whole.name == REPORT_FILE else whole).parts)
    lengths = [1] * len(parts)
    while True:
        labels = [Path(*own[-n:]).as_posix() for own, n in zip(parts, lengths, strict=True)]
        alike = [
            k
            for k, own in enumerate(parts)
            if lengths[k] < len(own)
            and any(labels[j] == labels[k] and other != own for j, other in enumerate(parts))
        ]
        if not alike:
            break
        for k in alike:
            lengths[k] += 1
    # A folder and the page in it.
    return [
        label if labels.count(label) == 1 else f"{label} ({labels[: k + 1].count(label)})"
        for k, label in enumerate(labels)
    ]


def compared_runs(sides: Sequence[RunSide], baseline: int = 0, command: str = "") -> RunsComparison:
    """Every run against the one at `baseline`. Raises SettingsError for fewer than two runs or too many,
    and ResultError where classes are not the same."""
    if not 2 <= len(sides) <= MOST_RUNS:
        raise SettingsError(
            f"{len(sides)} run{'s' if len(sides) != 1 else ''} cannot be compared on one page.",
            f"Name 2 to {MOST_RUNS} runs.",
        )
    base = sides[baseline]
    for side in sides:
        _require_same_classes(base, side)
    return RunsComparison(
        tool=__version__,
        command=command,
        baseline=baseline,
        significance=SIGNIFICANT,
        runs=tuple(side.state for side in sides),
        against=tuple(_against(base, side) for k, side in enumerate(sides) if k != baseline),
    )


def _require_same_classes(base: RunSide, side: RunSide) -> None:
    ours, theirs = set(base.numbers.class_names), set(side.numbers.class_names)
    if ours == theirs:
        return
    gone, new = sorted(ours - theirs), sorted(theirs - ours)
    raise ResultError(
        f"{_place(side)} is of other classes than {_place(base)}: {_told(gone, new)}.",
        "Compare runs on the same classes, with the same names.",
    )


def _place(side: RunSide) -> str:
    return side.state.path or side.state.label


def _told(gone: list[str], new: list[str]) -> str:
    def some(names: list[str]) -> str:
        shown = ", ".join(repr(name) for name in names[:3])
        return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"

    told = [f"{verb} {some(names)}" for verb, names in (("it lacks", gone), ("it adds", new)) if names]
    return ", ".join(told)


def _against(base: RunSide, side: RunSide) -> RunAgainst:
    found = compared_numbers(base.numbers, side.numbers, base.outcomes, side.outcomes)
    p_values = [
        None if each.quantity == "verdict" or each.worsening is None else two_sided_p(each.worsening)
        for each in found.changes
    ]
    adjusted = adjusted_p_values(p_values)
    tested = dict(
        zip(
            ((c.quantity, c.class_name, c.set) for c in found.changes),
            zip(p_values, adjusted, strict=True),
            strict=True,
        )
    )
    changes = []
    for change in found.changes:
        by: Quantity = "score" if change.quantity == "verdict" else change.quantity
        changes.append(_tested(change, *tested[by, change.class_name, change.set]))
    return RunAgainst(
        label=side.state.label,
        baseline=base.state.label,
        images=found.images,
        differences=found.differences,
        same_numbers=_same_numbers(found),
        n_tested=sum(p is not None for p in p_values),
        changes=tuple(changes),
    )


def _same_numbers(found: Comparison) -> bool:
    # A page holds no outcomes of single images, and so no sketch of them.
    one, other = (
        each.model_copy(update={"sketch": "", "format": 0}) for each in (found.first, found.second)
    )
    return one == other


def _tested(change: Change, p_value: float | None, q_value: float | None) -> RunChange:
    low, high = (None, None) if change.interval is None else change.interval
    return RunChange(
        class_name=change.class_name,
        quantity=change.quantity,
        set=change.set,
        before=change.first,
        after=change.second,
        difference=change.difference,
        low=low,
        high=high,
        p_value=p_value,
        q_value=q_value,
        n=change.n,
        paired=change.paired,
        outcome=_outcome(change, q_value),
        note=change.note,
    )


def _outcome(change: Change, q_value: float | None) -> Outcome:
    if change.quantity == "verdict" and "not judged" in (change.first, change.second):
        return "not measured"
    if q_value is None or change.worsening is None:
        both = change.first is not None and change.second is not None
        return "not tested" if both else "not measured"
    worsening = change.worsening.value
    if q_value > SIGNIFICANT or worsening == 0:
        return "within the noise"
    if change.quantity == "verdict":
        # Only what becomes a shortcut, or stops being one, changes for better or worse.
        became, left = change.became_shortcut, change.first == "shortcut" != change.second
        if not (became and worsening > 0) and not (left and worsening < 0):
            return "within the noise"
    return "worse" if worsening > 0 else "better"


def two_sided_p(worsening: Worsening) -> float:
    """p of no change at all: twice the smaller of the two one-sided ones, 1 at most."""
    turned = worsening if worsening.value > 0 else _turned(worsening)
    return min(1.0, 2 * turned.p_over(0.0))


def _turned(worsening: Worsening) -> Worsening:
    """The same with the two audits swapped."""
    if isinstance(worsening, Apart):
        return Apart(worsening.better, worsening.worse)
    if isinstance(worsening, SameImages):
        return replace(worsening, pair=_swapped(worsening.pair))
    if isinstance(worsening, SameReceivers):
        after, before = _swapped(worsening.after), _swapped(worsening.before)
        return SameReceivers(after, before, worsening.falls, worsening.rises)
    raise TypeError(f"{type(worsening).__name__} is of one audit")


def _swapped(pair: Paired) -> Paired:
    return Paired(n=pair.n, both=pair.both, only_first=pair.only_second, only_second=pair.only_first)
