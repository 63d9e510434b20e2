"""A policy frozen from an audit: what it found becomes the baseline, its noise the tolerances, its
shortcuts known debts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from statistics import median

from shortcut_audit.errors import ResultError
from shortcut_audit.gate.evaluation import images_needed, trials_of
from shortcut_audit.gate.policy import Debt, Kind, Policy, Rule
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import Estimate, effective_share
from shortcut_audit.results.comparison import compared_numbers
from shortcut_audit.results.run_numbers import ClassNumbers, RunNumbers, numbers_of, proportion

__all__ = ["VERDICT_RULE", "frozen_policy", "half_width", "noise_of", "rounded_up"]

VERDICT_RULE = "no class becomes a shortcut"
_CONFIDENCE = 0.95
# Above, a rule could only ever fail by accident: it is left out, and the file says so.
_USELESS = 0.5
# Verdicts and numbers share the significance.
_FAMILIES = 2
# Of maps that turn nothing, there is nothing to measure how far strength moves.
_LEAST_STRENGTH = 0.02
_NAMES: dict[Kind, str] = {
    "verdict": VERDICT_RULE,
    "flip": "orbits turn no more images",
    "strength": "no smaller share is enough",
    "accuracy": "accuracy of each class",
    "tpr_kept": "recall under the map alone",
    "fpr_kept": "false calls under the map alone",
    "reliability": "maps repeat as well",
    "ood_accuracy": "accuracy on other sets",
}


def frozen_policy(result: AuditResult, today: date) -> tuple[Policy, list[str]]:
    """The policy, and what a reader of the file must know, as notes for its head."""
    numbers = numbers_of(result)
    rules, notes = [], _notes(numbers)
    searched = [item for item in numbers.classes if item.searched]
    for kind in _NAMES:
        if kind == "ood_accuracy" and not numbers.sets:
            continue
        tolerance = noise_of(kind, numbers)
        if tolerance is None or tolerance >= _USELESS:
            notes.append(_left_out(kind, tolerance))
            continue
        rules.append(
            Rule(kind=kind, name=_NAMES[kind], may_worsen_by=tolerance, comment=_COMMENTS.get(kind, ""))
        )
    overall = proportion(_sum(numbers.classes))
    if overall is not None:
        rules.append(
            Rule(
                kind="accuracy",
                name="accuracy over all classes",
                together=True,
                may_worsen_by=rounded_up(half_width(overall)),
            )
        )
    debts = tuple(
        Debt(
            class_name=item.name,
            rule=VERDICT_RULE,
            reason=_reason(item),
            since=today,
        )
        for item in searched
        if item.verdict == "shortcut" and any(rule.name == VERDICT_RULE for rule in rules)
    )
    policy = Policy(rules=tuple(rules), debts=debts).with_baseline(numbers)
    return _without_blind_rules(policy, numbers, notes)


def _without_blind_rules(
    policy: Policy, numbers: RunNumbers, notes: list[str]
) -> tuple[Policy, list[str]]:
    """Rules that most classes could never break, with so few images, are left out, with a note."""
    comparison = compared_numbers(numbers, numbers)
    trials = {rule.name: list(trials_of(rule, numbers, comparison)) for rule in policy.rules}
    level = policy.significance / _FAMILIES / max(sum(map(len, trials.values())), 1)
    kept = []
    for rule in policy.rules:
        of_rule = trials[rule.name]
        blind = [trial for trial in of_rule if trial.blind(level)]
        if 2 * len(blind) > len(of_rule):
            told = f"{len(blind)} of {len(of_rule)} classes: {images_needed(blind[0], level)}"
            notes.append(f"No rule about {rule.kind}: {told}")
        else:
            kept.append(rule)
    if not kept:
        raise ResultError(
            "This audit is too small for any rule to ever fail.",
            "Audit more images (--images-per-class).",
        )
    debts = tuple(debt for debt in policy.debts if any(rule.name == debt.rule for rule in kept))
    return policy.model_copy(update={"rules": tuple(kept), "debts": debts}), notes


_COMMENTS: dict[Kind, str] = {
    "verdict": "the tolerance is of the score: images turned over every null",
    "tpr_kept": "maps that repeat badly make it inconclusive rather than failed",
    "fpr_kept": "maps that repeat badly make it inconclusive rather than failed",
    "strength": "of the spectrum",
}


def _notes(numbers: RunNumbers) -> list[str]:
    sizes = sorted({item.accuracy[1] for item in numbers.classes})
    told = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return [
        f"Frozen from an audit of {numbers.model}: {len(numbers.classes)} classes of {told} images.",
        f"Computed on {numbers.numerics}; elsewhere, tolerances are widened and a note says so.",
        "Tolerances are what this very audit cannot tell: half the width of a 95% interval of its counts,"
        " the median over classes.",
    ]


def _left_out(kind: Kind, tolerance: float | None) -> str:
    if tolerance is None:
        return f"No rule about {kind}: this audit does not hold it."
    return f"No rule about {kind}: this audit knows it only to within {tolerance:g}; use more images."


def _reason(item: ClassNumbers) -> str:
    score = item.score
    by = "" if score is None else f": its orbits turn {100 * score.value:.0f}% of other images"
    return f"there when the policy was frozen{by}"


def noise_of(kind: Kind, numbers: RunNumbers) -> float | None:
    """What an audit leaves unknown of a quantity, as a tolerance: half the width of a 95% interval of
    its counts, the median over classes, rounded up. None where it was not measured."""
    if kind == "strength":
        return _strength_noise(numbers)
    widths = [
        half_width(found)
        for item in numbers.classes
        for found in _estimates(kind, item)
        if found is not None
    ]
    return rounded_up(median(widths)) if widths else None


def _estimates(kind: Kind, item: ClassNumbers) -> Sequence[Estimate | None]:
    if kind == "accuracy":
        return [proportion(item.accuracy)]
    if kind == "ood_accuracy":
        return [proportion(counts) for counts in item.ood.values()]
    if kind == "verdict":
        return [item.score]
    if kind == "flip":
        return [item.net_flips]
    if kind == "reliability":
        return [item.reliability]
    hits = item.tpr_kept if kind == "tpr_kept" else item.fpr_kept
    found = item.reliability
    worth = 1.0 if hits is None else effective_share(hits[1], None if found is None else found.value)
    return [proportion(hits, worth)]


def half_width(estimate: Estimate) -> float:
    """Half the width of the 95% interval of an estimate."""
    low, high = estimate.interval(_CONFIDENCE)
    return (high - low) / 2


def rounded_up(width: float) -> float:
    """`width` rounded up to whole points."""
    return math.ceil(100 * width - 1e-9) / 100


def _strength_noise(numbers: RunNumbers) -> float | None:
    """How far up the spectrum it takes until half of other images are surely turned."""
    reaches = []
    for item in numbers.classes:
        if not item.searched:
            continue
        if not item.curve:
            return None
        if item.strength_share is not None:
            sure = [point.share for point in item.curve if point.share > item.strength_share]
            reaches.append(sure[0] - item.strength_share if sure else 0.0)
    return max(_LEAST_STRENGTH, rounded_up(median(reaches))) if reaches else _LEAST_STRENGTH


def _sum(items: Sequence[ClassNumbers]) -> tuple[int, int]:
    return sum(item.accuracy[0] for item in items), sum(item.accuracy[1] for item in items)
