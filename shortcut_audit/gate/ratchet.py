"""A policy moved forwards: what an audit does surely better becomes the new baseline, never the reverse.

Tolerances and limits get stricter or stay; debts that are surely paid go, none is added or loosened; a
number of the baseline gives way only to one that is surely better, so that luck does not wind it up.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from shortcut_audit.gate.evaluation import require_comparable
from shortcut_audit.gate.freeze import half_width, noise_of, rounded_up
from shortcut_audit.gate.policy import Debt, Policy, Rule
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import Estimate, Proportion, Worsening, holm
from shortcut_audit.results.comparison import (
    Change,
    Comparison,
    Quantity,
    compared_numbers,
)
from shortcut_audit.results.run_numbers import ClassNumbers, RunNumbers, numbers_of, proportion

__all__ = ["ratcheted"]

# Numbers of a class that move together with a quantity.
_FIELDS: dict[Quantity, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "score": (
        "verdict",
        "q_value",
        "band",
        "flips",
        "draws",
        "limiting",
        "null_draws",
        "weight",
        "strength_share",
        "curve",
    ),
    "tpr_kept": ("tpr_kept",),
    "fpr_kept": ("fpr_kept",),
    "reliability": ("half_correlation", "n_search"),
}
_KINDS: tuple[Quantity, ...] = (*_FIELDS, "ood_accuracy")


def ratcheted(policy: Policy, result: AuditResult, today: date) -> tuple[Policy, list[str]]:
    """The stricter policy, and what moved, in sentences.

    Raises ResultError where the audit cannot be compared with the baseline.
    """
    numbers = numbers_of(result)
    moved: list[str] = []
    better: set[tuple[Quantity, str, str]] = set()
    baseline = policy.baseline
    if baseline is not None:
        comparison = compared_numbers(numbers, baseline)
        require_comparable(comparison)
        if comparison.same_numerics:
            better = _surely_better(comparison, policy.significance)
            baseline = _moved_baseline(baseline, numbers, better, moved)
        else:
            moved.append("The baseline stays: this audit was computed otherwise.")
    rules = tuple(_stricter(rule, numbers, moved) for rule in policy.rules)
    debts = tuple(debt for debt in policy.debts if not _paid(debt, policy, numbers, better, moved))
    return policy.model_copy(update={"rules": rules, "debts": debts, "baseline": baseline}), moved


def _surely_better(comparison: Comparison, significance: float) -> set[tuple[Quantity, str, str]]:
    """What is better now. The comparison runs backwards: worse before than now."""
    tested = [
        change
        for change in comparison.changes
        if change.class_name is not None and change.quantity in _KINDS and change.worsening is not None
    ]
    adjusted = holm([_p_value(change) for change in tested])
    return {
        (change.quantity, str(change.class_name), change.set)
        for change, p_value in zip(tested, adjusted, strict=True)
        if p_value <= significance
    }


def _p_value(change: Change) -> float:
    worsening: Worsening | None = change.worsening
    return 1.0 if worsening is None else worsening.p_over(0.0)


def _moved_baseline(
    baseline: RunNumbers,
    numbers: RunNumbers,
    better: set[tuple[Quantity, str, str]],
    moved: list[str],
) -> RunNumbers:
    classes = []
    here = numbers.by_name
    for old in baseline.classes:
        new = here[old.name]
        changes: dict[str, Any] = {}
        for quantity, name, place in sorted(better):
            if name != old.name:
                continue
            if quantity == "ood_accuracy":
                changes["ood"] = {**changes.get("ood", old.ood), place: new.ood[place]}
            else:
                changes |= {field: getattr(new, field) for field in _FIELDS[quantity]}
            told = "verdict and flips" if quantity == "score" else quantity
            moved.append(f"The baseline of {name!r} moves: {told}{f' on {place}' if place else ''}.")
        classes.append(old.model_copy(update=changes))
    return baseline.model_copy(update={"classes": tuple(classes)})


def _stricter(rule: Rule, numbers: RunNumbers, moved: list[str]) -> Rule:
    if not rule.ratchet or rule.may_be is not None:
        return rule
    if rule.may_worsen_by is not None:
        noise = noise_of(rule.kind, numbers)
        if rule.together:
            total = proportion(_total(rule, numbers))
            noise = None if total is None else rounded_up(half_width(total))
        if noise is None or noise >= rule.may_worsen_by:
            return rule
        moved.append(f"{rule.name!r} may worsen by {noise:g}, not {rule.may_worsen_by:g}.")
        return rule.model_copy(update={"may_worsen_by": noise})
    return _closer_limit(rule, numbers, moved)


def _total(rule: Rule, numbers: RunNumbers) -> tuple[int, int]:
    counts = [item.accuracy for item in numbers.classes]
    if rule.kind == "ood_accuracy":
        counts = [
            n for item in numbers.classes for place, n in item.ood.items() if rule.is_about_set(place)
        ]
    return sum(hits for hits, _ in counts), sum(n for _, n in counts)


def _closer_limit(rule: Rule, numbers: RunNumbers, moved: list[str]) -> Rule:
    """A limit as near to the worst class as its interval allows, where that is nearer than before."""
    assert rule.limit is not None
    if rule.kind == "strength":
        return rule
    ends = [_end(rule, estimate) for estimate in _estimates(rule, numbers)]
    if not ends:
        return rule
    near = round(max(ends), 2) + 0.01 if rule.at_most is not None else round(min(ends), 2) - 0.01
    near = min(1.0, max(0.0 if rule.kind != "reliability" else -1.0, round(near, 2)))
    closer = near < rule.limit if rule.at_most is not None else near > rule.limit
    if not closer:
        return rule
    side = "at_most" if rule.at_most is not None else "at_least"
    moved.append(f"{rule.name!r}: {side.replace('_', ' ')} {near:g}, not {rule.limit:g}.")
    return rule.model_copy(update={side: near})


def _end(rule: Rule, estimate: Estimate) -> float:
    low, high = estimate.interval(0.95)
    return high if rule.at_most is not None else low


def _estimates(rule: Rule, numbers: RunNumbers) -> list[Estimate]:
    if rule.together:
        total = proportion(_total(rule, numbers))
        return [] if total is None else [total]
    found: list[Estimate | None] = []
    for item in numbers.classes:
        if not rule.is_about(item.name):
            continue
        if rule.kind == "ood_accuracy":
            found += [proportion(n) for place, n in item.ood.items() if rule.is_about_set(place)]
        else:
            found.append(_estimate(rule, item))
    return [each for each in found if each is not None]


def _estimate(rule: Rule, item: ClassNumbers) -> Estimate | None:
    if rule.kind == "flip":
        return item.net_flips
    if rule.kind == "reliability":
        return item.reliability
    counts = {"accuracy": item.accuracy, "tpr_kept": item.tpr_kept, "fpr_kept": item.fpr_kept}
    found: Proportion | None = proportion(counts.get(rule.kind))
    return found


def _paid(
    debt: Debt,
    policy: Policy,
    numbers: RunNumbers,
    better: set[tuple[Quantity, str, str]],
    moved: list[str],
) -> bool:
    """Whether what the debt excuses is surely gone."""
    rule = next(rule for rule in policy.rules if rule.name == debt.rule)
    new = numbers.of(debt.class_name)
    if new is None:
        return False
    quantity: Quantity = "score" if rule.kind in ("verdict", "flip", "strength") else rule.kind
    places = [""] if quantity != "ood_accuracy" else list(new.ood)
    gone = all((quantity, debt.class_name, place) in better for place in places)
    if rule.kind in ("verdict", "flip", "strength"):
        gone = gone and new.verdict == "no shortcut"
    if gone:
        moved.append(f"The debt of {debt.class_name!r} under {debt.rule!r} is paid.")
    return gone
