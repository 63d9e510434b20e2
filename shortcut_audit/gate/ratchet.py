"""A policy moved forwards: what an audit does surely better becomes the new baseline, never the reverse.

Tolerances and limits get stricter or stay; debts that are surely paid go, none is added or loosened; a
number of the baseline gives way only to one that is surely better, so that luck does not wind it up.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.evaluation import require_comparable
from shortcut_audit.gate.freeze import half_width, noise_of, rounded_up
from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.policy import Debt, Policy, Rule
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import Estimate, NetShare, Proportion, Worsening, holm
from shortcut_audit.results.comparison import (
    Comparison,
    Quantity,
    compared,
    compared_numbers,
    strength_worsening,
)
from shortcut_audit.results.run_numbers import (
    ClassNumbers,
    RunNumbers,
    numbers_of,
    paired,
    proportion,
)

__all__ = ["ratcheted"]

# Numbers of a class that a quantity is made of. Each moves by its own test: a score falls too where the
# nulls rise, and flips with them.
_FIELDS: dict[Quantity, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "score": ("verdict", "n_judge", "q_value", "band", "limiting", "null_draws", "weight"),
    "flip": ("flips", "draws"),
    "strength": ("strength_share", "curve"),
    "tpr_kept": ("tpr_kept",),
    "fpr_kept": ("fpr_kept",),
    "reliability": ("half_correlation", "n_search"),
}
# Rounds in which moves are undone: each ends one rule or class, and few are at fault.
_ROUNDS = 5
_KINDS: tuple[Quantity, ...] = (*_FIELDS, "ood_accuracy")


def ratcheted(
    policy: Policy, result: AuditResult, today: date, baseline: AuditResult | None = None
) -> tuple[Policy, list[str]]:
    """The stricter policy, and what moved, in sentences.

    The policy's own numbers move only where the audit is surely better than they are. `baseline`: an
    audit that debts are held against in their place. Whatever the audit itself would not pass stays as
    it was. Raises ResultError where the audits cannot be compared.
    """
    stricter, otherwise = policy, False
    for _ in range(_ROUNDS):
        # What moved may make another number surely better: how much a map's noise counts, for one.
        before = stricter
        stricter, otherwise = _once(before, result, today, baseline)
        if stricter == before:
            break
    notes = (
        ["The baseline stays, and every debt: this audit was computed otherwise."] if otherwise else []
    )
    return stricter, [*notes, *_told(policy, stricter)]


def _once(
    policy: Policy, result: AuditResult, today: date, baseline: AuditResult | None
) -> tuple[Policy, bool]:
    """The policy with what moves, and whether the audits were computed otherwise."""
    numbers, own = numbers_of(result), policy.baseline
    better = None if own is None else _better(compared_numbers(numbers, own), policy)
    of_debts = better if baseline is None else _better(compared(result, baseline), policy)
    kept = own if own is None or better is None else _moved_baseline(own, numbers, better)
    paid = _paid_debts(policy, result, today, baseline, of_debts or set())
    stricter = policy.with_baseline(kept).model_copy(
        update={
            "rules": tuple(_stricter(rule, numbers, policy.significance) for rule in policy.rules),
            "debts": tuple(debt for debt in policy.debts if debt not in paid),
        }
    )
    otherwise = (own is not None and better is None) or (baseline is not None and of_debts is None)
    return _that_passes(stricter, policy, result, baseline, today), otherwise


def _reports(
    policy: Policy, result: AuditResult, today: date, baseline: AuditResult | None
) -> list[GateReport]:
    """The audit by the policy, against what it is updated with, and against its own numbers."""
    against = [baseline]
    if baseline is not None and policy.baseline is not None:
        against.append(None)
    return [check_gate(result, policy, baseline=each, today=today) for each in against]


def _better(comparison: Comparison, policy: Policy) -> set[tuple[Quantity, str, str]] | None:
    """What is surely better now, of a comparison that runs backwards (worse before than now); None where
    both were computed otherwise."""
    require_comparable(comparison)
    return _surely_better(comparison, policy.significance) if comparison.same_numerics else None


def _that_passes(
    stricter: Policy, policy: Policy, result: AuditResult, baseline: AuditResult | None, today: date
) -> Policy:
    """`stricter`, but what the audit that made it would not pass is as it was in `policy`."""
    known = [_at_fault(report) for report in _reports(policy, result, today, baseline)]
    for _ in range(_ROUNDS):
        reports = _reports(stricter, result, today, baseline)
        at_fault = [
            check
            for report, before in zip(reports, known, strict=True)
            for key, check in _at_fault(report).items()
            if key not in before
        ]
        if not at_fault:
            return stricter
        rules = {check.rule for check in at_fault}
        classes = {check.class_name for check in at_fault}
        debts = {(check.class_name, check.rule) for check in at_fault}
        stricter = stricter.with_baseline(_put_back(stricter, policy, classes)).model_copy(
            update={
                "rules": tuple(
                    old if old.name in rules else new
                    for old, new in zip(policy.rules, stricter.rules, strict=True)
                ),
                "debts": tuple(
                    debt
                    for debt in policy.debts
                    if debt in stricter.debts or (debt.class_name, debt.rule) in debts
                ),
            }
        )
    return policy


def _at_fault(report: GateReport) -> dict[tuple[str, str | None, str], Check]:
    return {(c.rule, c.class_name, c.set): c for c in report.checks if c.level == "error"}


def _put_back(stricter: Policy, policy: Policy, classes: set[str | None]) -> RunNumbers | None:
    """The baseline with the old numbers of some classes."""
    if stricter.baseline is None or policy.baseline is None:
        return stricter.baseline
    pairs = zip(policy.baseline.classes, stricter.baseline.classes, strict=True)
    items = tuple(old if old.name in classes else new for old, new in pairs)
    return stricter.baseline.model_copy(update={"classes": items})


def _told(policy: Policy, stricter: Policy) -> list[str]:
    """What moved, in sentences."""
    told = []
    if policy.baseline is not None and stricter.baseline is not None:
        for old, new in zip(policy.baseline.classes, stricter.baseline.classes, strict=True):
            for quantity, fields in _FIELDS.items():
                if any(getattr(old, field) != getattr(new, field) for field in fields):
                    what = "verdict and score" if quantity == "score" else quantity
                    told.append(f"The baseline of {old.name!r} moves: {what}.")
            for place in sorted(set(old.ood) & set(new.ood)):
                if old.ood[place] != new.ood[place]:
                    told.append(f"The baseline of {old.name!r} moves: accuracy on {place}.")
    for before, now in zip(policy.rules, stricter.rules, strict=True):
        if before.may_worsen_by != now.may_worsen_by:
            told.append(
                f"{now.name!r} may worsen by {now.may_worsen_by:g}, not {before.may_worsen_by:g}."
            )
        elif before.limit != now.limit:
            side = "at most" if now.at_most is not None else "at least"
            told.append(f"{now.name!r}: {side} {now.limit:g}, not {before.limit:g}.")
    for debt in policy.debts:
        if debt not in stricter.debts:
            told.append(f"The debt of {debt.class_name!r} under {debt.rule!r} is paid.")
    return told


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
            worsening = None
            if _nowhere_more(now[name], before[name]):
                worsening = strength_worsening(now[name], before[name], 0.0)
        key = change.quantity, change.set
        if worsening is not None and _n_images(now[name], *key) >= _n_images(before[name], *key):
            tested.append(((change.quantity, name, change.set), worsening))
    adjusted = holm([worsening.p_over(0.0) for _, worsening in tested])
    return {key for (key, _), p_value in zip(tested, adjusted, strict=True) if p_value <= significance}


def _nowhere_more(new: ClassNumbers, old: ClassNumbers) -> bool:
    """Whether no share of the spectrum turns more images than it did: a curve moves whole."""

    def turned(item: ClassNumbers, share: float) -> float:
        below = [point for point in item.curve if point.share <= share]
        return max((NetShare(paired(point.flips)).value for point in below), default=0.0)

    shares = [point.share for point in (*new.curve, *old.curve)]
    return all(turned(new, share) <= turned(old, share) for share in shares)


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
    baseline: RunNumbers, numbers: RunNumbers, better: set[tuple[Quantity, str, str]]
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
        classes.append(old.model_copy(update=changes))
    return baseline.model_copy(update={"classes": tuple(classes)})


def _stricter(rule: Rule, numbers: RunNumbers, significance: float) -> Rule:
    if not rule.ratchet or rule.may_be is not None:
        return rule
    if rule.may_worsen_by is not None:
        noise = noise_of(rule.kind, numbers)
        if rule.together:
            total = proportion(_total(rule, numbers))
            noise = None if total is None else rounded_up(half_width(total))
        if noise is None or noise >= rule.may_worsen_by:
            return rule
        return rule.model_copy(update={"may_worsen_by": noise})
    return _closer_limit(rule, numbers, significance)


def _total(rule: Rule, numbers: RunNumbers) -> tuple[int, int]:
    counts = [item.accuracy for item in numbers.classes]
    if rule.kind == "ood_accuracy":
        counts = [
            n for item in numbers.classes for place, n in item.ood.items() if rule.is_about_set(place)
        ]
    return sum(hits for hits, _ in counts), sum(n for _, n in counts)


def _closer_limit(rule: Rule, numbers: RunNumbers, significance: float) -> Rule:
    """A limit nearer to the worst class, where that is nearer than before; but twice as far from it as
    its exact interval reaches: what every lucky audit may move must stay where no unlucky one comes."""
    assert rule.limit is not None
    estimates = [] if rule.kind == "strength" else _estimates(rule, numbers)
    if not estimates:
        return rule
    level = significance / len(estimates)
    ends = [_end(rule, estimate, level) for estimate in estimates]
    near = round(max(ends), 2) + 0.01 if rule.at_most is not None else round(min(ends), 2) - 0.01
    near = min(1.0, max(0.0 if rule.kind != "reliability" else -1.0, round(near, 2)))
    closer = near < rule.limit if rule.at_most is not None else near > rule.limit
    if not closer:
        return rule
    side = "at_most" if rule.at_most is not None else "at_least"
    return rule.model_copy(update={side: near})


def _end(rule: Rule, estimate: Estimate, level: float) -> float:
    low, high = estimate.interval(1 - 2 * level, True)
    return 2 * (high if rule.at_most is not None else low) - estimate.value


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


def _paid_debts(
    policy: Policy,
    result: AuditResult,
    today: date,
    baseline: AuditResult | None,
    better: set[tuple[Quantity, str, str]],
) -> list[Debt]:
    """Debts of which what they excuse is surely gone: better, and passed without them."""
    if not policy.debts:
        return []
    without = policy.model_copy(update={"debts": ()})
    reports = _reports(without, result, today, baseline)
    numbers, found = numbers_of(result), []
    for debt in policy.debts:
        rule = next(rule for rule in policy.rules if rule.name == debt.rule)
        new = numbers.of(debt.class_name)
        own = [
            check
            for report in reports
            for check in report.checks
            if (check.rule, check.class_name) == (debt.rule, debt.class_name)
        ]
        if new is None or not own or any(check.outcome != "passed" for check in own):
            continue
        quantity: Quantity = "score" if rule.kind == "verdict" else rule.kind
        if all((quantity, debt.class_name, check.set) in better for check in own) and (
            rule.kind != "verdict" or new.verdict == "no shortcut"
        ):
            found.append(debt)
    return found
