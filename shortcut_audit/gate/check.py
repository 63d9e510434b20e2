"""A stored audit held against a policy: every rule, adjusted together, decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from difflib import get_close_matches
from typing import Literal

from shortcut_audit.errors import ResultError, SettingsError
from shortcut_audit.gate.evaluation import Trial, images_needed, require_comparable, trials_of
from shortcut_audit.gate.gate_report import OUTCOMES, Check, GateReport, Outcome
from shortcut_audit.gate.policy import OnInconclusive, Policy, Rule, is_named
from shortcut_audit.gate.same_data import require_same_data
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import holm
from shortcut_audit.results.comparison import Comparison, compared, compared_numbers, worse_when
from shortcut_audit.results.run_numbers import RunNumbers, numbers_of

__all__ = ["check_gate"]

_BLIND = "with so few images no change could be told from chance"
_NOT_HELD = "with so few images it could hardly have failed, which is no pass"
# Of the audit that a policy was frozen from, at most half of a rule's checks are blind (`freeze.py`).
_MOST_BLIND = 0.75
_NO_DEBT = ", and no debt accepts it"


def check_gate(
    run: AuditResult,
    policy: Policy,
    *,
    baseline: AuditResult | None = None,
    today: date,
    strict_numerics: bool = False,
    names: Sequence[str] = ("run", "policy", ""),
) -> GateReport:
    """Hold an audit against a policy, and against `baseline` where its own numbers are not to do.

    `names`: of run, policy and baseline. Raises ResultError where audits cannot be compared, and
    SettingsError where the policy has nothing to say of them.
    """
    numbers = numbers_of(run)
    comparison = _comparison(run, numbers, policy, baseline)
    notes = []
    if comparison is not None:
        require_comparable(comparison)
        if policy.data == "same":
            notes.append(require_same_data(comparison))
        if strict_numerics and not comparison.same_numerics:
            raise ResultError(
                f"The baseline was computed otherwise: {comparison.first.numerics} there,"
                f" {comparison.second.numerics} here.",
                "Audit as the baseline was, or leave --numerics strict out to widen tolerances.",
            )
    live = [rule for rule in policy.rules if rule.expires is None or today <= rule.expires]
    trials = _trials(live, numbers, comparison)
    return GateReport(
        run=names[0],
        policy=names[1],
        baseline=_baseline_name(names[2], comparison),
        model=numbers.model,
        significance=policy.significance,
        images="" if comparison is None else str(comparison.images),
        differences=() if comparison is None else comparison.differences,
        notes=tuple(
            each for each in (*notes, *_notes(policy, live, comparison, baseline, numbers)) if each
        ),
        checks=_decided(trials, policy, today),
    )


def _comparison(
    run: AuditResult, numbers: RunNumbers, policy: Policy, baseline: AuditResult | None
) -> Comparison | None:
    if baseline is not None:
        return compared(baseline, run)
    if policy.baseline is not None:
        return compared_numbers(policy.baseline, numbers)
    if any(rule.relative for rule in policy.rules):
        raise SettingsError(
            "Rules with may_worsen_by need a baseline, and this policy holds none.",
            "Name an audit with --baseline, or freeze one with `shortcut-audit gate init RUN`.",
        )
    return None


def _baseline_name(name: str, comparison: Comparison | None) -> str:
    if comparison is None:
        return "none"
    return name or "the policy's own numbers"


def _trials(rules: Sequence[Rule], numbers: RunNumbers, comparison: Comparison | None) -> list[Trial]:
    """Every rule against everything it is about; a rule about nothing is an error, never a pass."""
    if not rules:
        raise SettingsError(
            "Every rule of the policy has expired.", "Renew them, or freeze a new policy."
        )
    trials = []
    for rule in rules:
        _require_matches(rule, numbers, comparison)
        found = list(trials_of(rule, numbers, comparison))
        if not found:
            about = f"set {', '.join(rule.sets)}" if rule.kind == "ood_accuracy" else "class"
            raise SettingsError(
                f"The rule {rule.name!r} is about nothing: no {about} of this audit matches"
                f" {', '.join(rule.classes)}.",
                f"Classes are: {', '.join(numbers.class_names[:20])}. Mend the rule, or remove it.",
            )
        trials += found
    return trials


def _require_matches(rule: Rule, numbers: RunNumbers, comparison: Comparison | None) -> None:
    """Every name of a rule is one of something: else a class would go unwatched for a slip of the pen."""
    sets = set(numbers.sets) | set(() if comparison is None else comparison.first.sets)
    for what, patterns, names in (
        ("class", rule.classes, list(numbers.class_names)),
        ("set", rule.sets if rule.kind == "ood_accuracy" else (), sorted(sets)),
    ):
        for pattern in patterns:
            if not any(is_named(name, pattern) for name in names):
                near = get_close_matches(pattern, names, 1)
                told = f"did you mean {near[0]}? " if near else ""
                raise SettingsError(
                    f"The rule {rule.name!r} is about nothing where it names {pattern!r}: no {what} of"
                    f" this audit matches.",
                    f"{told}There are: {', '.join(names[:20]) or 'none'}. Mend the rule, or remove it.",
                )


def _decided(trials: Sequence[Trial], policy: Policy, today: date) -> tuple[Check, ...]:
    """Checks, worst first; p adjusted over all that were tested (Holm).

    What a live debt excuses is no failure whatever comes of it, and does not count among them. New
    verdicts and worse numbers are two families that share the significance, so that many rules about
    numbers do not hide a shortcut.
    """
    excused = [_excused(trial, policy, today) for trial in trials]
    families = [
        tested
        for of_verdicts in (True, False)
        if (
            tested := [
                k
                for k, trial in enumerate(trials)
                if (trial.rule.kind == "verdict") is of_verdicts
                and trial.worsening is not None
                and not excused[k]
            ]
        )
    ]
    adjusted: dict[int, float] = {}
    levels: dict[int, float] = {}
    for tested in families:
        for k, p_value in zip(tested, holm([trials[k].p_value for k in tested]), strict=True):
            adjusted[k] = min(1.0, len(families) * p_value)
            levels[k] = policy.significance / len(families) / len(tested)
    checks = [
        _check(trial, policy, adjusted.get(k), levels.get(k, policy.significance), excused[k], today)
        for k, trial in enumerate(trials)
    ]
    checks = _without_blind_passes(checks, trials, policy)
    order = {"error": 0, "warning": 1, "note": 2}
    places = sorted(
        range(len(checks)),
        key=lambda k: (
            order[checks[k].level],
            OUTCOMES.index(checks[k].outcome),
            1.0 if checks[k].p_adjusted is None else checks[k].p_adjusted,
            -trials[k].excess,
            k,
        ),
    )
    return tuple(checks[k] for k in places)


def _without_blind_passes(checks: list[Check], trials: Sequence[Trial], policy: Policy) -> list[Check]:
    """Where a check could not have failed, however bad the model, nothing was held.

    What was asked for is missing then: where that is so of hardly less than the whole policy; of a class
    of which the baseline had more than twice the images; of a rule with a limit that is out of reach. But
    of rules that only warn, and those that pass what is inconclusive.
    """
    nothing_held = _mostly(check.blind for check in checks)
    by_rule: dict[str, list[bool]] = {}
    for check in checks:
        by_rule.setdefault(check.rule, []).append(check.blind)
    found = []
    for check, trial in zip(checks, trials, strict=True):
        ought = trial.rule.severity == "fail" and _wanted(trial.rule, policy) != "pass"
        out_of_reach = trial.rule.limit is not None and _mostly(by_rule[check.rule])
        missing = check.blind and (nothing_held or out_of_reach)
        missing |= trial.shrunk and check.outcome == "inconclusive"
        if ought and missing:
            changes = {"outcome": "missing", "level": "error", "reason": _NOT_HELD}
            check = check.model_copy(update=changes)
        found.append(check)
    return found


def _wanted(rule: Rule, policy: Policy) -> OnInconclusive:
    return rule.on_inconclusive or policy.on_inconclusive


def _mostly(blind: Iterable[bool]) -> bool:
    each = list(blind)
    return sum(each) > _MOST_BLIND * len(each)


def _excused(trial: Trial, policy: Policy, today: date) -> bool:
    debt = policy.debt_of(trial.class_name, trial.rule.name)
    return debt is not None and (debt.expires is None or today <= debt.expires)


def _check(
    trial: Trial, policy: Policy, adjusted: float | None, level: float, excused: bool, today: date
) -> Check:
    outcome, reason = _outcome(trial, policy.significance, adjusted, level)
    debt = policy.debt_of(trial.class_name, trial.rule.name)
    if excused and outcome in ("failed", "inconclusive"):
        assert debt is not None
        reason = reason.removesuffix(_NO_DEBT)
        outcome, reason = "known", f"{reason}; accepted since {debt.since}: {debt.reason}"
    elif excused and outcome == "passed":
        reason = f"{reason}; its debt seems paid, see `gate update`"
    elif debt is not None and outcome == "failed":
        reason = f"{reason}; its debt expired on {debt.expires}"
    interval = None if trial.worsening is None else trial.worsening.interval(0.95)
    sign = _sign(trial)
    ends = (
        None if interval is None or trial.rule.kind == "strength" else sorted(sign * e for e in interval)
    )
    change = None
    if trial.worse_by is not None and trial.before is not None:
        change = -trial.worse_by
    elif trial.worsening is not None and trial.rule.relative:
        change = sign * trial.worsening.value
    # A verdict whose score did not rise is no question of images.
    open_question = outcome == "inconclusive" and (trial.excess > 0 or reason == _BLIND)
    needed = images_needed(trial, level) if open_question else ""
    return Check(
        rule=trial.rule.name,
        kind=trial.rule.kind,
        class_name=trial.class_name,
        set=trial.set,
        outcome=outcome,
        level=_level(outcome, trial.rule, policy),
        before=trial.before,
        now=trial.now,
        change=change,
        low=ends[0] if ends and trial.rule.relative else None,
        high=ends[1] if ends and trial.rule.relative else None,
        tolerance=trial.tolerance if trial.rule.relative and outcome != "missing" else None,
        limit=trial.rule.limit,
        p_value=None if adjusted is None else trial.p_value,
        p_adjusted=adjusted,
        n=0 if trial.worsening is None else trial.worsening.n,
        paired=trial.paired,
        blind=outcome == "inconclusive" and trial.blind(level),
        reason=reason,
        needed=needed,
        comment=trial.rule.comment,
    )


def _sign(trial: Trial) -> int:
    return 1 if worse_when(trial.rule.kind) == "higher" else -1


def _level(outcome: Outcome, rule: Rule, policy: Policy) -> Literal["error", "warning", "note"]:
    if outcome == "missing":
        return "error"
    if outcome == "failed":
        return "error" if rule.severity == "fail" else "warning"
    if outcome == "inconclusive":
        wanted = _wanted(rule, policy)
        if wanted == "fail":
            return "error" if rule.severity == "fail" else "warning"
        return "warning" if wanted == "warn" else "note"
    return "note"


def _outcome(
    trial: Trial, significance: float, adjusted: float | None, level: float
) -> tuple[Outcome, str]:
    """What came of a trial, as if there were no debts."""
    if trial.settled:
        return trial.settled, trial.reason  # type: ignore[return-value]
    if trial.rule.kind == "verdict":
        return _verdict_outcome(trial, significance, adjusted, level)
    if trial.excess <= 0:
        if trial.blind(level):
            return "inconclusive", _BLIND
        return "passed", ""
    told = _told(trial)
    p_value = trial.p_value if adjusted is None else adjusted
    if p_value <= significance:
        return "failed", f"{told}, surely so (p {p_value:.1g})"
    return "inconclusive", f"{told}, which may be chance (p {p_value:.2g})"


def _told(trial: Trial) -> str:
    if trial.rule.limit is not None:
        return f"{_number(trial.now)}, beyond the limit of {trial.rule.limit:g}"
    more = "" if trial.tolerance == trial.rule.may_worsen_by else " (widened)"
    return (
        f"{_number(trial.before)} before, {_number(trial.now)} now: worse by more than"
        f" {trial.tolerance:.3g}{more}"
    )


def _number(value: float | str | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _verdict_outcome(
    trial: Trial, significance: float, adjusted: float | None, level: float
) -> tuple[Outcome, str]:
    """A class that became a shortcut: by its own verdict, and by a change of its score that is sure.

    Verdicts near the border flicker from one sample of images to the next; the change of the score
    does not.
    """
    assert trial.worsening is not None
    if trial.now == "not judged":
        return "missing", "this audit holds no verdict of it"
    by = trial.worsening.value
    if trial.now == "inconclusive" and trial.excess > 0:
        return "inconclusive", f"its verdict is open now, and its score changed by {100 * by:+.0f} points"
    if trial.now != "shortcut":
        return ("inconclusive", _BLIND) if trial.blind(level) else ("passed", "")
    if trial.before == "shortcut":
        return "failed", f"a shortcut, as in the baseline{_NO_DEBT}"
    told = f"a shortcut now, {trial.before} before: its score changed by {100 * by:+.0f} points"
    if trial.excess <= 0:
        return "inconclusive", f"{told}, within the tolerance of {100 * trial.tolerance:.3g}"
    p_value = trial.p_value if adjusted is None else adjusted
    if p_value <= significance:
        return "failed", f"{told}, more than {100 * trial.tolerance:.3g}, surely so (p {p_value:.1g})"
    return "inconclusive", f"{told}, which may be chance (p {p_value:.2g})"


def _notes(
    policy: Policy,
    live: Sequence[Rule],
    comparison: Comparison | None,
    baseline: AuditResult | None,
    numbers: RunNumbers,
) -> list[str]:
    notes = []
    if comparison is not None and _same_numbers(comparison):
        notes.append("Every number is the baseline's: the model is the same one, on the same images.")
    if comparison is not None and not comparison.same_numerics:
        notes.append(
            f"The baseline was computed otherwise ({comparison.first.numerics}; here"
            f" {comparison.second.numerics}): tolerances are widened by 0.01, or 0.03 where the dtype"
            " differs, and by at least one image of a class."
        )
    if comparison is not None and comparison.images.kind != "equal":
        notes.append(f"Compared with the baseline: {comparison.images}.")
    if comparison is not None and baseline is None:
        notes.append(
            "Compared with the numbers in the policy, as with those of different images; name the audit"
            " itself with --baseline to compare image by image."
        )
    told = {
        *("search", "images per class", "search share", "budget"),
        *("confidence", "patch sides", "candidates", "steps"),
    }
    for each in comparison.differences if comparison is not None else ():
        if each.what in told:
            notes.append(f"Another {each.what}: {each.first} in the baseline, {each.second} here.")
    if len(live) < len(policy.rules):
        gone = [rule.name for rule in policy.rules if rule not in live]
        notes.append(f"Expired, and no longer held: {', '.join(gone)}.")
    for debt in policy.debts:
        if numbers.of(debt.class_name) is None:
            notes.append(f"The debt of {debt.class_name!r} is of no class of this audit.")
    return notes


def _same_numbers(comparison: Comparison) -> bool:
    one, other = comparison.first, comparison.second
    same = (one.model_digest, one.data_digest) == (other.model_digest, other.data_digest)
    return same and one.classes == other.classes
