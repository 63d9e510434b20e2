"""Whether a stored audit adds up: what a gate goes by is counted again from what it follows from.

A file that was changed after it was written (a bad disk, a bad merge) is told by its digest, since format
7; here, files of older formats, and what a hand changed together with the digest, are counted again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.findings import ClassMap
from shortcut_audit.results.outcomes import Outcomes, outcomes_of
from shortcut_audit.results.run_numbers import numbers_of
from shortcut_audit.results.shortcut_findings import ClassShortcut, Rung
from shortcut_audit.results.statistics import spearman_brown
from shortcut_audit.results.store import RESULT_FILE, load_result

__all__ = ["load_sound", "require_sound"]

_CLOSE = 1e-9
# As measures/verdicts.py has them; a gate does without torch, which that module needs.
_EFFECT, _SIGNIFICANT, _SLIVER, _BROAD, _WORTH_A_NULL, _HALF = 0.10, 0.05, 0.10, 2 / 3, 0.05, 0.5


def load_sound(folder: str | Path) -> AuditResult:
    """A stored audit of a model, checked. Raises ResultError for whatever is wrong with it."""
    result = load_result(folder)
    if result.of_data:
        raise ResultError(f"{folder} is an audit of data, without a model.", "Name an audit of a model.")
    path = Path(folder) / RESULT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _require(all(_rates_hold(content)), path, "a rate is not that of its counts")
        require_sound(result, path)
        numbers_of(result)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        # Whatever reads these numbers was written for such as the tool writes.
        _require(False, path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return result


def require_sound(result: AuditResult, path: Path | str = "This result") -> None:
    """Raise ResultError, naming what, where a number is not what it follows from."""
    _require(_finite(result.model_dump(exclude={"timing"})), path, "a number is not finite")
    _require_predictions(result, path)
    _require(len(set(result.class_names)) == len(result.class_names), path, "a class is there twice")
    for item in result.shortcuts.by_class:
        for told in _faults_of(item):
            _require(False, path, f"of class {item.class_name!r} {told}")
    for each in result.dominant_frequencies.by_class:
        _require(_reliabilities_hold(each), path, f"the reliability of {each.class_name!r}")
    outcomes = outcomes_of(result)
    if outcomes is not None:
        _require_outcomes(result, outcomes, path)


def _require(holds: bool, path: Path | str, what: str) -> None:
    if not holds:
        raise ResultError(
            f"{path} does not add up: {what}. It was changed, or written by another version.",
            "Run the audit again.",
        )


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_finite(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(each) for each in value)
    return True


def _rates_hold(content: Any) -> Iterator[bool]:
    """Every rate of the file, whose value and interval were written beside its counts."""
    if isinstance(content, dict):
        if content.keys() == {"hits", "n", "value", "low", "high"}:
            rate = Rate(hits=content["hits"], n=content["n"])
            yield all(_close(content[key], getattr(rate, key)) for key in ("value", "low", "high"))
        else:
            for each in content.values():
                yield from _rates_hold(each)
    elif isinstance(content, list):
        for each in content:
            yield from _rates_hold(each)


def _close(one: Any, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return isinstance(one, int | float) and abs(one - other) < _CLOSE


def _require_predictions(result: AuditResult, path: Path | str) -> None:
    finding, data = result.predictions, result.provenance.data
    by_class = finding.accuracy_by_class
    hits, n = sum(rate.hits for rate in by_class), sum(rate.n for rate in by_class)
    whole = (finding.accuracy.hits, finding.accuracy.n) == (hits, n)
    _require(whole and n == data.n_used, path, "the accuracy of all is not that of the classes")
    sizes = zip(data.n_search_by_class, data.n_judge_by_class, strict=True)
    _require(
        [rate.n for rate in by_class] == [search + judge for search, judge in sizes],
        path,
        "the classes have other numbers of images",
    )


def _faults_of(item: ClassShortcut) -> Iterator[str]:
    """What does not follow from the counts of a class's ladder."""
    if item.tpr_kept.n != item.n_judge:
        yield "TPR is of other images"
    if item.rung is None:
        if item.verdict in ("shortcut", "no shortcut"):
            yield "there is a verdict without a best rung"
        return
    if not 0 <= item.rung < len(item.ladder) or item.score is None or item.q_value is None:
        yield "the best rung is not there"
        return
    for rung in item.ladder:
        if not _same_images(rung):
            yield "counts of one rung contradict each other"
    with_nulls = [rung for rung in item.ladder if rung.flips_over_foreign is not None]
    if not _close(item.score, max(_score(rung) for rung in with_nulls or item.ladder)):
        yield "the score is not that of the ladder"
    halves = [rung.share for rung in item.ladder if rung.flip_rate >= _HALF]
    if not _close(item.strength_share, min(halves, default=None)):
        yield "the strength is not that of the ladder"
    convicted = item.score >= _EFFECT and item.q_value <= _SIGNIFICANT
    if (item.verdict == "shortcut" and not convicted) or (
        item.verdict == "no shortcut" and item.score >= _EFFECT
    ):
        yield "the verdict is not that of the score"


def _nulls(rung: Rung) -> list[Paired]:
    nulls = (rung.flips_over_foreign, rung.flips_over_erased, rung.flips_over_random)
    return [pair for pair in nulls if pair is not None]


def _score(rung: Rung) -> float:
    nulls = _nulls(rung)
    if rung.flips_over_foreign is None:
        return min(rung.flips.difference, _WORTH_A_NULL)
    weight = 1.0 if rung.share <= _SLIVER else _BROAD
    return weight * min(pair.difference for pair in (rung.flips, *nulls))


def _same_images(rung: Rung) -> bool:
    """Transplants of the same images are the same ones in every comparison."""
    after = rung.flips.both + rung.flips.only_first
    return all(pair.both + pair.only_first == after for pair in _nulls(rung) if pair.n == rung.flips.n)


def _reliabilities_hold(item: ClassMap) -> bool:
    return all(
        (each.value is None) == (each.half_correlation is None)
        and (each.half_correlation is None or _close(each.value, spearman_brown(each.half_correlation)))
        for each in item.reliability.values()
    )


def _require_outcomes(result: AuditResult, outcomes: Outcomes, path: Path | str) -> None:
    """Counts of the findings are those of the outcomes of single images, whose digest was checked."""
    for index, rate in enumerate(result.predictions.accuracy_by_class):
        own = outcomes.right[outcomes.label == index]
        _require(_counted(own, rate), path, f"the accuracy of {result.class_names[index]!r}")
    for item in result.shortcuts.by_class:
        index = result.class_names.index(item.class_name)
        rows, called = outcomes.kept[item.class_name]
        own_class = outcomes.label[rows] == index
        held = _counted(called[own_class], item.tpr_kept) and _counted(called[~own_class], item.fpr_kept)
        _require(held, path, f"TPR or FPR of {item.class_name!r}")
        if item.best is not None and item.best.flips.leaning_first is None:
            _, before, after = outcomes.flips.get(item.class_name, (None, *_NOTHING))
            pair = item.best.flips
            counted = (len(after), int((after & before).sum()), int((after & ~before).sum()))
            told = (pair.n, pair.both, pair.only_first)
            _require(counted == told, path, f"the flip rate of {item.class_name!r}")


_NOTHING = (np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_))


def _counted(outcome: Any, rate: Rate) -> bool:
    return (int(outcome.sum()), len(outcome)) == (rate.hits, rate.n)
