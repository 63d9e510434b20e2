"""What becomes of a model's shortcuts on other models: maps of runs compared, and judged elsewhere."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from shortcut_audit.errors import ResultError
from shortcut_audit.results.counts import Frozen
from shortcut_audit.results.provenance import DataProvenance, ModelProvenance, Provenance, Timing
from shortcut_audit.results.settings import AuditSettings, MapScore, SearchName
from shortcut_audit.results.shortcut_findings import ClassShortcut, Rung, Verdict
from shortcut_audit.results.store import write_bytes
from shortcut_audit.results.tables import null_share

__all__ = [
    "FORMAT",
    "LEAST_CEILING",
    "TRANSFER_FILE",
    "TRANSFER_FILES",
    "Agreement",
    "ClassAgreement",
    "DroppedClass",
    "JudgedClass",
    "JudgedMaps",
    "ModelTransferResult",
    "Outcome",
    "TransferredRun",
    "agreement_rows",
    "class_rows",
    "load_transfer",
    "save_transfer",
]

TRANSFER_FILE = "transfer.json"
_CLASSES_FILE, _MAPS_FILE = "transfer-classes.csv", "transfer-maps.csv"
TRANSFER_FILES = (TRANSFER_FILE, _CLASSES_FILE, _MAPS_FILE)
FORMAT = 1
# Below, an agreement over its ceiling would be one small and unsure number over another.
LEAST_CEILING = 0.3

# What became of a class: from the verdict on its own model, and that with the same map on the other.
Outcome = Literal[
    "travels", "stays behind", "open there", "there alone", "open there alone", "open here", "neither"
]
# How the images of a judgement stand to those that the run's search saw.
Images = Literal["the same split", "the same set", "other images"]


_OF_SHORTCUTS: dict[Verdict, Outcome] = {
    "shortcut": "travels",
    "no shortcut": "stays behind",
    "inconclusive": "open there",
    "not judged": "open there",
}
_OF_OTHERS: dict[Verdict, Outcome] = {
    "shortcut": "there alone",
    "no shortcut": "neither",
    "inconclusive": "open there alone",
    "not judged": "open there alone",
}


class DroppedClass(Frozen):
    """A class that was not compared, of which side (a run, a model or a set), and why."""

    side: str
    class_name: str
    reason: str


class TransferredRun(Frozen):
    """An audit whose maps are compared and judged; `name` stands for it everywhere else.

    `reliability`: of each map, in the order of the run's classes, by the score that ranks.
    """

    name: str
    folder: str
    model: ModelProvenance
    data: DataProvenance
    settings: AuditSettings
    search: SearchName
    response: MapScore
    class_names: tuple[str, ...]
    reliability: tuple[float | None, ...]

    @property
    def mean_reliability(self) -> float | None:
        """Over the maps whose reliability was measured."""
        return _mean(self.reliability)


class JudgedClass(Frozen):
    """One class's map: the verdict on the model that it was found on, and that on another.

    `class_name` in the run; `data_class` in the images judged on, where that differs. `here`: as the
    run has it; `there`: the same tests with the run's map on the other model. Pictures are left out.
    """

    class_name: str
    data_class: str
    here: ClassShortcut
    there: ClassShortcut

    @property
    def outcome(self) -> Outcome:
        """What became of the class. A class that was not judged on its own model counts as open."""
        here, there = self.here.verdict, self.there.verdict
        if here == "shortcut":
            return _OF_SHORTCUTS[there]
        return _OF_OTHERS[there] if here == "no shortcut" else "open here"

    @property
    def same_rung(self) -> Rung | None:
        """The rung there of as many orbits, or of the ring, that were the best here; None without."""
        best = self.here.best
        if best is None:
            return None
        return next(
            (r for r in self.there.ladder if (r.n_orbits, r.ring) == (best.n_orbits, best.ring)), None
        )


class JudgedMaps(Frozen):
    """The maps of a run (`run`) judged on a model (`model`), on images of `provenance.data`.

    `images`: `the same split` as the run's (none that its search saw is judged on), `the same set` in
    another split, or `other images`. Costs count the judgement alone: nothing was searched.
    """

    run: str
    model: str
    images: Images
    provenance: Provenance
    by_class: tuple[JudgedClass, ...]
    dropped: tuple[DroppedClass, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shortcuts(self) -> tuple[JudgedClass, ...]:
        """Classes that are shortcuts of the run's own model."""
        return tuple(item for item in self.by_class if item.here.verdict == "shortcut")

    @property
    def n_travelling(self) -> int:
        """Shortcuts of the run's own model that are shortcuts here too."""
        return sum(item.outcome == "travels" for item in self.by_class)

    @property
    def turned(self) -> float | None:
        """Mean share of other images turned, at each class's best rung there, over the run's shortcuts.

        None where the run has none among the classes judged.
        """
        return _mean([_turned(item.there) for item in self.shortcuts])

    @property
    def turned_here(self) -> float | None:
        """The same shortcuts on the run's own model."""
        return _mean([_turned(item.here) for item in self.shortcuts])

    @property
    def image_passes(self) -> int:
        """Forward passes of single images."""
        return sum(cost.image_passes for cost in self.provenance.cost)


class ClassAgreement(Frozen):
    """How far two runs' maps of one class agree.

    `rank_correlation`: Spearman over orbits, in [-1, 1]; `ceiling`: sqrt of the product of both maps'
    reliabilities, what two maps with that much noise would reach if they were one underneath.
    `overlap`: orbits in the top `share` of both rankings, over the mean number there (Dice);
    `overlap_by_chance`: of two unrelated rankings. None, with a `reason`, where it was not measured.
    """

    class_name: str
    score: MapScore | None = None
    rank_correlation: float | None = None
    ceiling: float | None = None
    overlap: float | None = None
    overlap_by_chance: float | None = None
    reason: str = ""

    @property
    def over_ceiling(self) -> float | None:
        """`rank_correlation` / `ceiling`; None where the ceiling is below `LEAST_CEILING`.

        Above 1 where both maps share their noise, as maps from the same images do.
        """
        if self.rank_correlation is None or self.ceiling is None or self.ceiling < LEAST_CEILING:
            return None
        return self.rank_correlation / self.ceiling


class Agreement(Frozen):
    """How far the maps of two runs agree, over the classes that both have."""

    first: str
    second: str
    share: float
    by_class: tuple[ClassAgreement, ...]
    dropped: tuple[DroppedClass, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rank_correlation(self) -> float | None:
        """Mean over classes."""
        return _mean([item.rank_correlation for item in self.by_class])

    @property
    def ceiling(self) -> float | None:
        """Mean over classes."""
        return _mean([item.ceiling for item in self.by_class])

    @property
    def overlap(self) -> float | None:
        """Mean over classes."""
        return _mean([item.overlap for item in self.by_class])

    @property
    def overlap_by_chance(self) -> float | None:
        """Mean over classes."""
        return _mean([item.overlap_by_chance for item in self.by_class])

    @property
    def reliable(self) -> tuple[ClassAgreement, ...]:
        """Classes whose ceiling is high enough to divide by."""
        return tuple(item for item in self.by_class if item.over_ceiling is not None)

    @property
    def over_ceiling(self) -> float | None:
        """Mean correlation over mean ceiling of the `reliable` classes; None without any."""
        own = _mean([item.rank_correlation for item in self.reliable])
        ceiling = _mean([item.ceiling for item in self.reliable])
        return None if own is None or ceiling is None else own / ceiling


class ModelTransferResult(Frozen):
    """All that a comparison of runs and models found; `transfer.json`.

    `runs` and `models` in the order given. `judged`: one for each run and model, in that order;
    `agreements`: one for each pair of runs. `timing` is the only part that two equal ones do not share.
    """

    kind: Literal["shortcut-audit transfer"] = "shortcut-audit transfer"
    format: Literal[1] = 1
    command: str
    versions: dict[str, str]
    runs: Annotated[tuple[TransferredRun, ...], Field(min_length=1)]
    models: tuple[str, ...] = ()
    judged: tuple[JudgedMaps, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()
    timing: Timing

    def agreement_of(self, first: str, second: str) -> Agreement | None:
        """The comparison of two runs, whichever is named first."""
        pair = {first, second}
        return next((item for item in self.agreements if {item.first, item.second} == pair), None)

    def judged_of(self, run: str, model: str) -> JudgedMaps | None:
        """The judgement of a run's maps on a model."""
        return next((item for item in self.judged if (item.run, item.model) == (run, model)), None)

    @property
    def dropped(self) -> tuple[DroppedClass, ...]:
        """Classes left out of a judgement or a comparison."""
        found = [item for judged in self.judged for item in judged.dropped]
        return (*found, *(item for pair in self.agreements for item in pair.dropped))

    def agreement_matrix(self) -> list[list[float | None]]:
        """Mean rank correlation of each two runs; on the diagonal each run's own mean reliability."""
        matrix: list[list[float | None]] = []
        for one in self.runs:
            row: list[float | None] = []
            for other in self.runs:
                pair = self.agreement_of(one.name, other.name)
                if one is other:
                    row.append(one.mean_reliability)
                else:
                    row.append(None if pair is None else pair.rank_correlation)
            matrix.append(row)
        return matrix

    def turned_matrix(self) -> list[list[float | None]]:
        """Runs x models: mean share of other images that the run's shortcuts turn (`JudgedMaps`)."""
        found = {(item.run, item.model): item.turned for item in self.judged}
        return [[found.get((run.name, model)) for model in self.models] for run in self.runs]

    @property
    def image_passes(self) -> int:
        """Forward passes of single images, over all judgements."""
        return sum(item.image_passes for item in self.judged)

    def as_text(self) -> str:
        """JSON, as saved."""
        content = self.model_dump(mode="json")
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _turned(item: ClassShortcut) -> float | None:
    """Share of other images turned at the best rung."""
    return None if item.best is None else item.best.flip_rate


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def load_transfer(path: Path) -> ModelTransferResult:
    """Read a saved comparison, by its file or its folder.

    Raises ResultError where there is none, and where it is damaged or of a newer format.
    """
    file = path / TRANSFER_FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(
            f"{file} cannot be read: {error.strerror or error}.",
            "Name a folder that `shortcut-audit transfer --out` has written.",
        ) from error
    except ValueError as error:
        raise ResultError(f"{file} is damaged: {error}.", "Run the same command again.") from error
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is int and found > FORMAT:
        raise ResultError(
            f"{file} has format {found}; this version reads up to {FORMAT}.", "Upgrade shortcut-audit."
        )
    try:
        return ModelTransferResult.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultError(
            f"{file} is no transfer of this tool: {where}: {first['msg']}.", "Run the same command again."
        ) from error


# Tables, one row a dictionary.


def class_rows(result: ModelTransferResult) -> Iterator[dict[str, Any]]:
    """One row per run, model and class: both verdicts with their numbers side by side."""
    for judged in result.judged:
        for item in judged.by_class:
            same = item.same_rung
            yield {
                "run": judged.run,
                "model": judged.model,
                "class": item.class_name,
                "data_class": item.data_class,
                "outcome": item.outcome,
                **_verdict("here", item.here),
                **_verdict("there", item.there),
                "there_turned_at_rung_of_here": same and same.flip_rate,
            }


def _verdict(side: str, item: ClassShortcut) -> dict[str, Any]:
    best = item.best
    verdict: Verdict = item.verdict
    row = {
        "verdict": verdict,
        "n_judge": item.n_judge,
        "turned": best and best.flip_rate,
        "null_foreign": best and null_share(best, best.flips_over_foreign),
        "null_erased": best and null_share(best, best.flips_over_erased),
        "null_random": best and null_share(best, best.flips_over_random),
        "score": item.score,
        "p_value": item.p_value,
        "q_value": item.q_value,
        "n_orbits": best and best.n_orbits,
        "share": best and best.share,
        "ring": best and best.ring,
        "necessity_drop": best and best.necessity_drop,
        "sufficiency": best and best.sufficiency,
        "strength_share": item.strength_share,
        "tpr_kept": item.tpr_kept.value,
        "fpr_kept": item.fpr_kept.value,
        "tpr_full": item.tpr_full.value,
        "fpr_full": item.fpr_full.value,
    }
    return {f"{side}_{name}": value for name, value in row.items()}


def agreement_rows(result: ModelTransferResult) -> Iterator[dict[str, Any]]:
    """One row per pair of runs and class."""
    for pair in result.agreements:
        for item in pair.by_class:
            yield {
                "first": pair.first,
                "second": pair.second,
                "class": item.class_name,
                "score": item.score,
                "rank_correlation": item.rank_correlation,
                "ceiling": item.ceiling,
                "over_ceiling": item.over_ceiling,
                "share": pair.share,
                "overlap": item.overlap,
                "overlap_by_chance": item.overlap_by_chance,
                "reason": item.reason or None,
            }


def save_transfer(result: ModelTransferResult, folder: Path) -> None:
    """Write `transfer.json`, and `transfer-classes.csv` and `transfer-maps.csv` where there is anything
    to put there, into `folder`. Raises RunFolderError."""
    for name, rows in ((_CLASSES_FILE, class_rows(result)), (_MAPS_FILE, agreement_rows(result))):
        content = _as_csv(rows)
        if content:
            write_bytes(folder / name, content.encode())
    write_bytes(folder / TRANSFER_FILE, result.as_text().encode())


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Rows under their names, an empty field where nothing was measured; "" without rows."""
    listed = list(rows)
    if not listed:
        return ""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(listed[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return stream.getvalue()
