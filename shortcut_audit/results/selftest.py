"""What a self-test found: audits of models with known shortcuts, scored against the truth."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from shortcut_audit.errors import ResultError
from shortcut_audit.results.counts import Frozen, Paired, Rate
from shortcut_audit.results.shortcut_findings import Confound, Verdict
from shortcut_audit.results.statistics import auc_interval

__all__ = [
    "NARROW",
    "SELFTEST_FILE",
    "USED",
    "CaseOutcome",
    "ClassOutcome",
    "SelfTestResult",
    "load_selftest",
]

SELFTEST_FILE = "selftest.json"
# Share of other images that the true planted orbits have to turn before a plant counts as used.
USED = 0.20
# A plant on so many orbits can be named orbit by orbit.
NARROW = 8
# False alarms that are let pass: this share of the classes, and one in any case.
_LET_PASS = 0.02
_SIGNIFICANT = 0.05

Role = Literal["plant", "control", "clean"]


class ClassOutcome(Frozen):
    """One class: what is true of it, and what the audit said.

    `role`: `plant` carries a pattern that orbits tell; `control` a decoy that all classes carry, a
    colour cast or a contrast, which no orbit is to blame for; `clean` nothing. `planted`: the pattern in
    words, of `strength` in 1/255 (of a contrast: its factor). `truth`: images of other classes called by
    the class with exactly the planted orbits of its judgement images in place of their own, against as
    they are; of a cast, DC; None where there is no such orbit.

    `n_planted` orbits; of these the audit names `n_planted_named` among the `n_named` that it gives by
    name (at most eight), and `n_planted_in_map` lie in the class's map. `found`: the kind in words.
    """

    class_name: str
    role: Role
    planted: str = ""
    kind: str = ""
    strength: float | None = None
    truth: Paired | None = None
    n_planted: Annotated[int, Field(ge=0)] = 0
    n_named: Annotated[int, Field(ge=0)] = 0
    n_planted_named: Annotated[int, Field(ge=0)] = 0
    n_planted_in_map: Annotated[int, Field(ge=0)] = 0
    verdict: Verdict
    score: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    found: str = ""
    confounds: tuple[Confound, ...] = ()

    @property
    def turned(self) -> float | None:
        """Share of other images that the true orbits turn into the class."""
        return None if self.truth is None else self.truth.difference

    @property
    def used(self) -> bool:
        """Whether this is a plant, and the model demonstrably uses it."""
        return self.role == "plant" and (self.turned or 0.0) >= USED

    @property
    def told_by_lack(self) -> bool:
        """Whether a class without a plant is demonstrably recognised by the lack of the others'."""
        return self.role == "clean" and (self.turned or 0.0) >= USED

    @property
    def narrow(self) -> bool:
        """Whether the plant lies on few enough orbits to be named one by one."""
        return 0 < self.n_planted <= NARROW

    @property
    def recall_named(self) -> float | None:
        """Share of the planted orbits that the audit names; None where nothing was planted."""
        return self.n_planted_named / self.n_planted if self.n_planted else None

    @property
    def recall_in_map(self) -> float | None:
        """Share of the planted orbits that lie in the class's map."""
        return self.n_planted_in_map / self.n_planted if self.n_planted else None

    @property
    def named_rightly(self) -> float | None:
        """Share of the named orbits that are planted ones; None where none is named."""
        return self.n_planted_named / self.n_named if self.n_named else None


class CaseOutcome(Frozen):
    """One model: trained on images with known patterns, and audited.

    `structure`: what it was denied, so that no class can hang on anything: `random labels` in training,
    or training itself (`random weights`). `accuracy` on its test images. `data_digest`: of the images.
    """

    name: str
    architecture: str
    height: int
    width: int
    structure: Literal["", "random labels", "random weights"] = ""
    accuracy: Rate
    n_images: int
    data_digest: str
    seconds: float
    by_class: tuple[ClassOutcome, ...]


class SelfTestResult(Frozen):
    """All cases of a self-test, and the counts that follow from them.

    `n_planned`: cases that the whole test has; fewer in `cases` where it was stopped.
    """

    tool: Literal["shortcut-audit selftest"] = "shortcut-audit selftest"
    format: Literal[1] = 1
    full: bool
    seed: int
    data: str
    command: str
    device: str
    versions: dict[str, str]
    n_planned: int
    cases: tuple[CaseOutcome, ...]

    @property
    def complete(self) -> bool:
        """Whether every case of the test is in."""
        return len(self.cases) == self.n_planned

    @property
    def seconds(self) -> float:
        """Time that all cases took together."""
        return sum(case.seconds for case in self.cases)

    @cached_property
    def plants(self) -> tuple[ClassOutcome, ...]:
        """Classes that carry a plant, whether the model uses it or not."""
        return tuple(c for case in self.cases for c in case.by_class if c.role == "plant")

    @property
    def used(self) -> tuple[ClassOutcome, ...]:
        """Plants that the model demonstrably uses; the others are neither hits nor misses."""
        return tuple(item for item in self.plants if item.used)

    @cached_property
    def clean(self) -> tuple[ClassOutcome, ...]:
        """Classes without a plant, controls among them, of models that could learn something.

        Those that the model tells by the lack of their neighbours' plants are left out (`told_by_lack`).
        """
        return tuple(
            c
            for case in self.cases
            if not case.structure
            for c in case.by_class
            if c.role != "plant" and not c.told_by_lack
        )

    @cached_property
    def told_by_lack(self) -> tuple[ClassOutcome, ...]:
        """Classes that planted orbits of others tell by their lack: neither clean nor planted."""
        return tuple(c for case in self.cases for c in case.by_class if c.told_by_lack)

    @cached_property
    def structure_free(self) -> tuple[ClassOutcome, ...]:
        """Classes of models that learnt nothing."""
        return tuple(c for case in self.cases if case.structure for c in case.by_class)

    @property
    def hits(self) -> Rate:
        """Used plants that are called shortcuts."""
        return _called(self.used)

    @property
    def false_alarms(self) -> Rate:
        """Clean classes that are called shortcuts."""
        return _called(self.clean)

    @property
    def false_alarms_without_structure(self) -> Rate:
        """Classes of models that learnt nothing and are called shortcuts."""
        return _called(self.structure_free)

    @property
    def n_inconclusive(self) -> tuple[int, int]:
        """Inconclusive verdicts among used plants, and among clean classes."""
        return tuple(  # type: ignore[return-value]
            sum(item.verdict == "inconclusive" for item in group) for group in (self.used, self.clean)
        )

    @property
    def small_p(self) -> Rate:
        """Classes of models that learnt nothing with p below 0.05, of those with a p."""
        p_values = [item.p_value for item in self.structure_free if item.p_value is not None]
        return Rate(hits=sum(p < _SIGNIFICANT for p in p_values), n=len(p_values))

    def recall(self, *, in_map: bool) -> tuple[float, int] | None:
        """Mean recall of the planted orbits over used narrow plants, and their number.

        Among the orbits that the audit names, or `in_map`. A plant of which nothing is named counts as
        0. None without such plants.
        """
        found = [item.recall_in_map if in_map else item.recall_named for item in self.used if item.narrow]
        values = [value for value in found if value is not None]
        return (float(np.mean(values)), len(values)) if values else None

    @property
    def auc(self) -> tuple[float, float, float] | None:
        """How well the score tells used plants from clean classes: AUROC with 95% interval."""
        own, others = (
            np.array([item.score or 0.0 for item in group]) for group in (self.used, self.clean)
        )
        return auc_interval(own, others) if len(own) and len(others) else None

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the self-test does not pass, in sentences; none where it does."""
        found = []
        if not self.used:
            found.append("No model used its plant, so nothing was there to be found.")
        n_missed = self.hits.n - self.hits.hits
        if n_missed:
            found.append(f"{n_missed} of {self.hits.n} used plants were not called shortcuts.")
        alarms = (
            (self.false_alarms, "clean classes"),
            (self.false_alarms_without_structure, "classes of models that learnt nothing"),
        )
        found += [
            f"{rate.hits} of {rate.n} {what} were called shortcuts."
            for rate, what in alarms
            if rate.hits > max(1.0, _LET_PASS * rate.n)
        ]
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether every used plant was found, with hardly a false alarm."""
        return not self.failures

    def as_text(self) -> str:
        """JSON, as saved."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def _called(items: tuple[ClassOutcome, ...]) -> Rate:
    return Rate(hits=sum(item.verdict == "shortcut" for item in items), n=len(items))


def load_selftest(path: Path) -> SelfTestResult:
    """Read a saved self-test, by its file or its folder. Raises ResultError."""
    file = path / SELFTEST_FILE if path.is_dir() else path
    try:
        return SelfTestResult.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ResultError(
            f"{file} cannot be read: {error.strerror or error}.",
            "Name a folder that `shortcut-audit selftest --out` has written.",
        ) from error
    except ValidationError as error:
        raise ResultError(
            f"{file} holds no self-test of this version ({error.error_count()} faults).",
            "Run `shortcut-audit selftest` again.",
        ) from error
