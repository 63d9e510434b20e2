"""A comparison of runs in sentences, and the order that it puts classes in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shortcut_audit.report.compare_runs import RunAgainst, RunChange, RunsComparison
from shortcut_audit.results.comparison import Quantity

__all__ = [
    "QUANTITY_WORDS",
    "against_sentence",
    "change_text",
    "classes_of_changes",
    "classes_of_matrix",
    "compare_headline",
    "compare_notes",
    "flicker_sentence",
    "interval_words",
    "move_text",
    "short",
    "target_of",
]

QUANTITY_WORDS: dict[Quantity, str] = {
    "verdict": "verdict",
    "score": "score",
    "flip": "images turned",
    "accuracy": "recall",
    "tpr_kept": "TPR under the map",
    "fpr_kept": "FPR under the map",
    "reliability": "reliability of the map",
    "strength": "share that turns half",
    "ood_accuracy": "recall on another set",
}
_MOST_NAMED, _LONGEST = 5, 40
_NOTHING = "nothing changed that exceeds the noise of these audits"
_PAGE = "read from its page, which holds no outcomes of single images"
_NONE_KEPT = "without outcomes of single images, as audits of before result format 6 are"


def short(name: str, most: int = _LONGEST) -> str:
    """A name for a sentence: not empty, not too long."""
    shown = name if name.strip() else "(no name)"
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(f"“{short(name)}”" for name in names[:_MOST_NAMED])
    return told if len(names) <= _MOST_NAMED else f"{told} and {len(names) - _MOST_NAMED} more"


def target_of(comparison: RunsComparison) -> RunAgainst:
    """What the headline is about: the last run, as it compares with the baseline."""
    return comparison.against[-1]


def compare_headline(comparison: RunsComparison) -> str:
    """What got better or worse from the baseline to the last run, in one sentence."""
    return against_sentence(target_of(comparison), brief=True)


def against_sentence(against: RunAgainst, brief: bool = False) -> str:
    """What changed from the baseline to a run beyond the noise, in one sentence.

    `brief`: without what it was that changed of single classes, beside their verdicts.
    """
    head = f"From {short(against.baseline)} to {short(against.label)}: "
    if against.n_tested == 0:
        return f"{head}nothing could be tested, as nothing was measured on both."
    parts = [*_verdict_parts(against), *_overall_parts(against), *_other_parts(against, brief)]
    if not parts:
        parts = [_NOTHING]
    if not any(change.quantity == "score" and change.p_value is not None for change in against.changes):
        parts.append("verdicts could not be compared, as no class has a score in both")
    return f"{head}{'; '.join(parts)}."


def _verdict_parts(against: RunAgainst) -> Iterable[str]:
    sure = [change for change in against.changes if change.quantity == "verdict" and change.sure]
    became = [change.class_name or "" for change in sure if change.outcome == "worse"]
    left = [change for change in sure if change.outcome == "better"]
    if became:
        many = "classes became shortcuts" if len(became) > 1 else "class became a shortcut"
        yield f"{len(became)} {many}: {_listed(became)}"
    if left:
        many = "classes are no shortcuts any more" if len(left) > 1 else "class is none any more"
        yield f"{len(left)} {many}: {_listed([change.class_name or '' for change in left])}" + (
            f" (now inconclusive: {n_open})"
            if (n_open := sum(change.after == "inconclusive" for change in left))
            else ""
        )


def _overall_parts(against: RunAgainst) -> Iterable[str]:
    for change in against.changes:
        if change.class_name is None and change.sure:
            of = "accuracy" if change.quantity == "accuracy" else f"accuracy on “{short(change.set)}”"
            yield f"{of} {_moved(change)}"


def _moved(change: RunChange) -> str:
    """`fell by 3.1 points (95% interval 1.2 to 5.0)`."""
    assert change.difference is not None
    assert change.low is not None
    assert change.high is not None
    fell = change.difference < 0
    low, high = sorted(-end if fell else end for end in (change.low, change.high))
    verb = "fell" if fell else "rose"
    return (
        f"{verb} by {abs(100 * change.difference):.1f} points"
        f" (95% interval {_figure(100 * low, 1)} to {_figure(100 * high, 1)})"
    )


def _other_parts(against: RunAgainst, brief: bool) -> Iterable[str]:
    """Single classes, by what got worse or better of them besides their verdict."""
    told = {
        change.class_name for change in against.changes if change.quantity == "verdict" and change.sure
    }
    rest = [
        change
        for change in against.changes
        if change.sure
        and change.class_name is not None
        and change.quantity != "verdict"
        # What a change of verdict comes with.
        and not (change.class_name in told and change.quantity in ("score", "flip"))
    ]
    told_of: list[str] = []
    for outcome in ("worse", "better"):
        classes = {
            quantity: {
                change.class_name
                for change in rest
                if change.quantity == quantity and change.outcome == outcome
            }
            for quantity in QUANTITY_WORDS
        }
        n = len(set().union(*classes.values()))
        counts = ", ".join(f"{QUANTITY_WORDS[key]} of {len(own)}" for key, own in classes.items() if own)
        if n:
            of = "" if told_of else " class" if n == 1 else " classes"
            told_of.append(f"{n}{of} got {outcome}{'' if brief else f' ({counts})'}")
    if told_of:
        yield f"by other numbers {' and '.join(told_of)}"


def flicker_sentence(against: RunAgainst) -> str:
    """Verdicts that changed to or from a shortcut without a change of score beyond the noise; else ''."""
    changed = [
        change
        for change in against.changes
        if change.quantity == "verdict"
        and change.outcome == "within the noise"
        and (change.before == "shortcut") != (change.after == "shortcut")
    ]
    if not changed:
        return ""
    became = [change.class_name or "" for change in changed if change.after == "shortcut"]
    left = [change.class_name or "" for change in changed if change.before == "shortcut"]
    told = [
        f"{what}: {_listed(names)}"
        for what, names in (("a shortcut now", became), ("none any more", left))
        if names
    ]
    return (
        f"From {short(against.baseline)} to {short(against.label)} verdicts also changed where the score"
        f" did not beyond the noise ({'; '.join(told)}): near the border they flicker."
    )


def compare_notes(comparison: RunsComparison) -> tuple[str, ...]:
    """What a reader must know before trusting a change; the same sentence about several runs is one."""
    base = comparison.base
    by_text: dict[str, list[str]] = {}
    for against in comparison.against:
        for text in _cautions(against):
            by_text.setdefault(text, []).append(against.label)
    notes = [
        f"{_listed(labels)} against “{short(base.label)}”: {text}" for text, labels in by_text.items()
    ]
    for why, of in ((_PAGE, True), (_NONE_KEPT, False)):
        found = [run.label for run in comparison.runs if not run.with_outcomes and run.page is of]
        if found:
            notes.append(
                f"{_listed(found)}: {why}. Compared with it, all images count as different ones, which"
                " sees less than pairs of the same images would."
            )
    unjudged = [run.label for run in comparison.runs if run.n_of("not judged")]
    if unjudged:
        notes.append(f"{_listed(unjudged)}: not every class was judged, so that some have no score.")
    return tuple(notes)


def _said(value: str) -> str:
    """A setting in a sentence: None is how it is stored that nothing was set."""
    return "none" if value == "None" else value


def _cautions(against: RunAgainst) -> Iterable[str]:
    if against.same_numbers:
        yield "the very same numbers; it is the same audit, or a copy of it."
        return
    others = [each for each in against.differences if each.matters and each.what != "images"]
    if others:
        told = ", ".join(
            f"{each.what} {_said(each.second)} instead of {_said(each.first)}" for each in others
        )
        yield f"audited otherwise ({told}). Numbers may differ for that alone."
    kind = against.images.kind
    if kind == "overlapping":
        yield (
            f"other images in part ({against.images}). Where at least half are the same, changes are told"
            " on these, in pairs; elsewhere other images add noise, which the intervals hold."
        )
    elif kind == "disjoint":
        yield (
            "other images of the same classes. The intervals hold their noise, but not a difference"
            " between the two sets."
        )
    elif kind == "unknown":
        yield (
            "the images are not known to be the same: digests of the data differ, and outcomes of single"
            " images are not there on both sides. Another split or set may explain a change."
        )


def _figure(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _in_points(quantity: Quantity) -> bool:
    return quantity != "reliability"


def change_text(change: RunChange) -> str:
    """The difference with its sign, in points of a percentage (reliability: as it is), or a dash."""
    if change.difference is None:
        return "–"
    value = 100 * change.difference if _in_points(change.quantity) else change.difference
    text = _figure(value, 1 if _in_points(change.quantity) else 2)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def interval_words(change: RunChange) -> str:
    """The 95% interval of the difference in the same unit, or ''."""
    if change.low is None or change.high is None:
        return ""
    factor, digits = (100, 1) if _in_points(change.quantity) else (1, 2)
    return f"{_figure(factor * change.low, digits)} to {_figure(factor * change.high, digits)}"


def move_text(change: RunChange) -> str:
    """`52.0% → 64.0%`: before and after; a dash for what was not measured."""

    def one(value: float | str | None) -> str:
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        return f"{_figure(100 * value, 1)}%" if _in_points(change.quantity) else _figure(value, 2)

    return f"{one(change.before)} → {one(change.after)}"


def classes_of_changes(against: RunAgainst) -> list[str]:
    """Classes of a comparison, worst first: new shortcuts, what got worse, what got better, the rest.

    Within, by the smallest q of what made them so; then by how much the score grew.
    """

    def key(item: tuple[str, list[RunChange]]) -> tuple[float, ...]:
        changes = item[1]
        verdict = next((c for c in changes if c.quantity == "verdict"), None)
        worse = [c.q_value or 0.0 for c in changes if c.outcome == "worse"]
        better = [c.q_value or 0.0 for c in changes if c.outcome == "better"]
        score = next((c.difference for c in changes if c.quantity == "score"), None)
        new = verdict is not None and verdict.outcome == "worse"
        group = 0 if new else 1 if worse else 2 if better else 3
        return group, min(worse or better or [1.0]), -(score or 0.0)

    return [name for name, _ in sorted(against.by_class().items(), key=key)]


def classes_of_matrix(comparison: RunsComparison) -> list[str]:
    """Classes over all runs: those whose verdict changed beyond the noise, those whose verdict changed,
    other shortcuts, then the rest; within, by the largest score in any run."""
    sure = {
        change.class_name
        for against in comparison.against
        for change in against.changes
        if change.quantity == "verdict" and change.sure
    }
    verdicts: dict[str, set[str]] = {}
    scores: dict[str, float] = {}
    for run in comparison.runs:
        for item in run.by_class:
            verdicts.setdefault(item.class_name, set()).add(item.verdict)
            # No score is less than any.
            score = -2.0 if item.score is None else item.score
            scores[item.class_name] = max(scores.get(item.class_name, -2.0), score)

    def key(name: str) -> tuple[float, ...]:
        found = verdicts[name]
        changed = len(found) > 1 and "shortcut" in found
        group = 0 if name in sure else 1 if changed else 2 if "shortcut" in found else 3
        return group, -scores[name]

    return sorted(comparison.class_names, key=key)
