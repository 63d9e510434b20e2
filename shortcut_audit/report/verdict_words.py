"""Verdicts in sentences, and the order that they put classes in."""

from __future__ import annotations

from collections.abc import Sequence

from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.shortcut_findings import ClassShortcut, Verdict
from shortcut_audit.results.tables import null_share

__all__ = [
    "UNJUDGED",
    "by_verdict",
    "nulls_of",
    "number_text",
    "reasons",
    "shares_text",
    "verdict_sentence",
]

# What a reader has to look at comes first.
_ORDER: tuple[Verdict, ...] = ("shortcut", "inconclusive", "no shortcut", "not judged")
_MAX_NAMED, _MAX_NAME = 5, 40
UNJUDGED = (
    "Rates under a map are measured here, with intervals; whether they exceed what chance maps would give"
    " is not part of this audit. A high rate alone is no proof of a shortcut."
)


def by_verdict(result: AuditResult) -> list[ClassShortcut]:
    """Shortcuts first, then what is open, then the rest, each by falling score.

    Classes without a score, and equal ones, go by J = TPR - FPR under their own map.
    """
    return sorted(
        result.shortcuts.by_class,
        key=lambda item: (
            _ORDER.index(item.verdict),
            -(item.score or 0.0),
            (item.fpr_kept.value or 0) - (item.tpr_kept.value or 0),
        ),
    )


def verdict_sentence(result: AuditResult) -> str:
    """How many classes hang on a frequency shortcut and which, how many are open and which."""
    order = by_verdict(result)
    of = {verdict: [item for item in order if item.verdict == verdict] for verdict in _ORDER}
    shortcuts, still_open, unjudged = of["shortcut"], of["inconclusive"], of["not judged"]
    if len(unjudged) == len(order):
        return "No class was judged: tests against a null are not part of this audit."
    n_judged = len(order) - len(unjudged)
    classes = f"{n_judged} class{'es' if n_judged > 1 else ''}"
    if shortcuts:
        verb = "hangs" if len(shortcuts) == 1 else "hang"
        text = f"{len(shortcuts)} of {classes} {verb} on a frequency shortcut: {_named(shortcuts)}."
        if still_open:
            text += f" Inconclusive: {len(still_open)} more, {_named(still_open)}."
    elif still_open:
        verb = "is" if len(still_open) == 1 else "are"
        text = (
            "No class is shown to hang on a frequency shortcut, but"
            f" {len(still_open)} of {classes} {verb} inconclusive: {_named(still_open)}."
        )
    else:
        text = f"No class hangs on a frequency shortcut ({n_judged} judged)."
    return f"{text} Not judged: {len(unjudged)}, {_named(unjudged)}." if unjudged else text


def reasons(result: AuditResult, most: int) -> tuple[list[tuple[ClassShortcut, str]], int]:
    """The worst `most` of the classes that are a shortcut or open, each with its reason and what would
    decide it; and how many more there are."""
    told = [item for item in by_verdict(result) if item.verdict in ("shortcut", "inconclusive")]
    return [(item, _reason(item)) for item in told[:most]], max(0, len(told) - most)


def _reason(item: ClassShortcut) -> str:
    return f"{item.reason} {item.needed}".strip()


def _named(items: Sequence[ClassShortcut]) -> str:
    """The first names, short enough for a sentence."""
    named = ", ".join(f"“{_short(item.class_name)}”" for item in items[:_MAX_NAMED])
    more = len(items) - _MAX_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def nulls_of(item: ClassShortcut) -> list[float]:
    """What the nulls of the best rung turned, of those that were drawn: foreign donors, random orbits."""
    best = item.best
    if best is None:
        return []
    nulls = (null_share(best, null) for null in (best.flips_over_foreign, best.flips_over_random))
    return [null for null in nulls if null is not None]


def number_text(value: float | None) -> str:
    """A p or q as people read it, or a dash where there is none."""
    if value is None:
        return "–"
    if value < 1e-4:
        return "<0.0001"
    return f"{value:.2g}" if value < 0.995 else "1"


def shares_text(value: float | None) -> str:
    """A share of the spectrum: two digits, however small."""
    if value is None:
        return "–"
    return f"{100 * value:.2g}%" if value < 0.1 else f"{100 * value:.0f}%"
