"""A policy moved forwards: what an audit does surely better becomes the new baseline, never the reverse.

Tolerances and limits get stricter or stay; debts that are surely paid go, none is added or loosened; a
number of the baseline gives way only to one that is surely better, so that luck does not wind it up.
"""

from __future__ import annotations

from typing import Any

from shortcut_audit.gate.evaluation import require_comparable
from shortcut_audit.gate.freeze import half_width, noise_of, rounded_up
from shortcut_audit.gate.policy import Debt, Policy, Rule
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import Estimate, Proportion, Worsening, holm
from shortcut_audit.results.comparison import (
    Comparison,
    Quantity,
    compared,
    compared_numbers,
    strength_worsening,
)
from shortcut_audit.results.run_numbers import ClassNumbers, RunNumbers, numbers_of, proportion

__all__ = ["ratcheted"]

# Numbers of a class that a quantity is made of. Each moves by its own test: a score falls too where the
# nulls rise, and flips with them.
_FIELDS: dict[Quantity, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "score": ("verdict", "q_value", "band", "limiting", "null_draws", "weight"),
    "flip": ("flips", "draws"),
    "strength": ("strength_share", "curve"),
    "tpr_kept": ("tpr_kept",),
    "fpr_kept": ("fpr_kept",),
    "reliability": ("half_correlation", "n_search"),
}
_KINDS: tuple[Quantity, ...] = (*_FIELDS, "ood_accuracy")


def ratcheted(
    policy: Policy, result: AuditResult, baseline: AuditResult | None = None
) -> tuple[Policy, list[str]]:
    """The stricter policy, and what moved, in sentences.

    `baseline`: an audit that debts are held against, in the place of the policy's own numbers; these move
    only where the policy holds them. Raises ResultError where the audits cannot be compared.
    """
    numbers = numbers_of(result)
    moved: list[str] = []
    better: set[tuple[Quantity, str, str]] = set()
    kept = policy.baseline
    before = kept if baseline is None else numbers_of(baseline)
    if before is not None:
        # Backwards: what is worse before than now.
        comparison = compared_numbers(numbers, before) if baseline is None else compared(result, baseline)
        require_comparable(comparison)
        if comparison.same_numerics:
            better = _surely_better(comparison, policy.significance)
        else:
            moved.append("The baseline stays, and every debt: this audit was computed otherwise.")
        if kept is not None:
            kept = _moved_baseline(kept, numbers, better, moved)
    rules = tuple(_stricter(rule, numbers, moved) for rule in policy.rules)
    debts = tuple(debt for debt in policy.debts if not _paid(debt, policy, numbers, better, moved))
    return policy.with_baseline(kept).model_copy(update={"rules": rules, "debts": debts}), moved


def _surely_better(comparison: Comparison, significance: float) -> set[tuple[Quantity, str, str]]:
    """What is better now, by no fewer images. The comparison runs backwards: worse before than now."""
    now, before = comparison.first.by_name, comparison.second.by_name
    tested: list[tuple[tuple[Quantity, str, str], Worsening]] = []
    for change in comparison.changes:
        name = change.class_name
        if name is None or change.quantity not in _KINDS:
            continue
        worsening = change.worsening
        if change.quantity == "strength":
            worsening = strength_worsening(now[name], before[name], 0.0)
        key = change.quantity, change.set
        if worsening is not None and _n_images(now[name], *key) >= _n_images(before[name], *key):
            tested.append(((change.quantity, name, change.set), worsening))
    adjusted = holm([worsening.p_over(0.0) for _, worsening in tested])
    return {key for (key, _), p_value in zip(tested, adjusted, strict=True) if p_value <= significance}


def _n_images(item: ClassNumbers, quantity: Quantity, place: str) -> float:
    """Images that a number rests on. A number of fewer ones would let through what the old one told."""
    counts = {
        "accuracy": item.accuracy,
        "tpr_kept": item.tpr_kept,
        "fpr_kept": item.fpr_kept,
        "ood_accuracy": item.ood.get(place),
    }.get(quantity)
    if counts is not None:
        return counts[1]
    if quantity == "score":
        return 0 if item.limiting is None else item.limiting[0] / item.null_draws
    if quantity == "flip":
        return 0 if item.flips is None else item.flips[0] / item.draws
    if quantity == "strength":
        return item.curve[-1].flips[0] if item.curve else 0
    return item.n_search


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
            told = "verdict and score" if quantity == "score" else quantity
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
    quantity: Quantity = "score" if rule.kind == "verdict" else rule.kind
    places = [""] if quantity != "ood_accuracy" else list(new.ood)
    gone = all((quantity, debt.class_name, place) in better for place in places)
    if rule.kind in ("verdict", "flip", "strength"):
        gone = gone and new.verdict == "no shortcut"
    if gone:
        moved.append(f"The debt of {debt.class_name!r} under {debt.rule!r} is paid.")
    return gone
