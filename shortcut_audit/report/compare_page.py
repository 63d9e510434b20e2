"""The page of a comparison: many runs, each against the baseline, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shortcut_audit.report.compare_figures import accuracy_figure, scores_figure
from shortcut_audit.report.compare_runs import (
    ClassState,
    RunAgainst,
    RunChange,
    RunsComparison,
    RunState,
)
from shortcut_audit.report.compare_words import (
    QUANTITY_WORDS,
    against_sentence,
    change_text,
    classes_of_changes,
    classes_of_matrix,
    compare_headline,
    compare_notes,
    flicker_sentence,
    interval_words,
    move_text,
    target_of,
)
from shortcut_audit.report.embedding import Picture
from shortcut_audit.report.environment import FrameData, FrameProvenance, FrameView, rendered
from shortcut_audit.report.figures import image_uri, png_bytes
from shortcut_audit.report.verdict_words import number_text
from shortcut_audit.results.comparison import Quantity
from shortcut_audit.results.store import write_bytes

__all__ = ["comparison_json", "render_comparison", "write_comparison"]

_MOST_IN_MATRIX, _MOST_IN_PICTURE, _MOST_SETS = 60, 12, 6
_COLUMNS: tuple[Quantity, ...] = (
    "verdict", "score", "flip", "accuracy", "tpr_kept", "fpr_kept", "reliability", "strength",
)  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """A class or all of them, and its changes by column; None where there is none."""

    name: str | None
    cells: tuple[RunChange | None, ...]


@dataclass(frozen=True)
class _Section:
    """A run against the baseline, as the page shows it; `hidden` classes are counted alone."""

    against: RunAgainst
    sentence: str
    flicker: str
    columns: tuple[str, ...]
    rows: tuple[_Row, ...]
    n_hidden: int
    n_hidden_worse: int
    n_hidden_better: int
    n_sets_hidden: int


@dataclass(frozen=True)
class _Differing:
    """Something that runs do not share: a value a run, '' where it is that of the baseline."""

    what: str
    matters: bool
    values: tuple[str, ...]


def render_comparison(comparison: RunsComparison) -> str:
    """The page as text; equal comparisons give equal bytes."""
    order = classes_of_matrix(comparison)
    scores = scores_figure(comparison, order[:_MOST_IN_PICTURE])
    target = target_of(comparison)
    return rendered(
        "compare.html.j2",
        {
            "number": number_text,
            "change": change_text,
            "range": interval_words,
            "move": move_text,
            "points": _points,
            "day": _day,
        },
        result=FrameView(_provenance(comparison), compare_notes(comparison)),
        comparison=comparison,
        truth_sentences=[],
        headline=compare_headline(comparison),
        flicker=flicker_sentence(target),
        others=[against_sentence(each, brief=True) for each in comparison.against[:-1]],
        sections=_sections(comparison),
        differing=_differing(comparison),
        matrix=_matrix(comparison, order[:_MOST_IN_MATRIX]),
        n_not_in_matrix=max(0, len(order) - _MOST_IN_MATRIX),
        n_not_drawn=max(0, len(order) - _MOST_IN_PICTURE),
        accuracy=Picture("accuracy", image_uri(png_bytes(accuracy_figure(comparison)), "png")),
        scores=None if scores is None else Picture("scores", image_uri(png_bytes(scores), "png")),
    )


def _points(value: float | None) -> str:
    """A share in points of a percentage."""
    return "–" if value is None else f"{100 * value:.1f}".replace("-", "−")


def _day(moment: str) -> str:
    """`2026-11-22 10:30` of a moment in ISO 8601."""
    return moment[:16].replace("T", " ")


def _provenance(comparison: RunsComparison) -> FrameProvenance:
    used = {run.provenance.data.digest: run.provenance.data for run in comparison.runs}
    return FrameProvenance(
        versions={"shortcut-audit": comparison.tool},
        command=comparison.command,
        seed=comparison.base.provenance.seed,
        data=FrameData(
            spec=", ".join(dict.fromkeys(data.spec for data in used.values())),
            n_used=sum(data.n_used for data in used.values()),
            n_available=sum({data.spec: data.n_available for data in used.values()}.values()),
            digest=comparison.digest,
        ),
    )


def _matrix(
    comparison: RunsComparison, names: Sequence[str]
) -> list[tuple[str, list[tuple[RunState, ClassState]]]]:
    by_run = [{item.class_name: item for item in run.by_class} for run in comparison.runs]
    return [
        (name, [(run, own[name]) for run, own in zip(comparison.runs, by_run, strict=True)])
        for name in names
    ]


def _differing(comparison: RunsComparison) -> list[_Differing]:
    """Rows of what any run does not share with the baseline; what matters comes first."""
    found: dict[tuple[bool, str], dict[str, tuple[str, str]]] = {}
    for against in comparison.against:
        for each in against.differences:
            own = found.setdefault((each.matters, each.what), {})
            own[against.label] = (each.first, each.second)
    rows = []
    for matters, what in sorted(found, key=lambda key: (not key[0], key[1])):
        told = found[matters, what]
        first = next(iter(told.values()))[0]
        values = tuple(
            first if k == comparison.baseline else told.get(run.label, ("", ""))[1]
            for k, run in enumerate(comparison.runs)
        )
        rows.append(_Differing(what, matters, values))
    return rows


def _sections(comparison: RunsComparison) -> list[_Section]:
    n = len(comparison.against)
    most = 40 if n <= 3 else 20 if n <= 9 else 12
    return [_section(each, most) for each in comparison.against]


def _section(against: RunAgainst, most: int) -> _Section:
    sets = list(dict.fromkeys(change.set for change in against.changes if change.set))
    by_class = against.by_class()
    keys: list[tuple[Quantity, str]] = [
        (quantity, "")
        for quantity in _COLUMNS
        if any(c.quantity == quantity for own in by_class.values() for c in own)
    ]
    keys += [("ood_accuracy", place) for place in sets[:_MOST_SETS]]
    columns = [f"recall on “{place}”" if place else QUANTITY_WORDS[key] for key, place in keys]
    order = classes_of_changes(against)
    overall = [change for change in against.changes if change.class_name is None]
    rows = [_row(None, overall, keys), *(_row(name, by_class[name], keys) for name in order[:most])]
    hidden = [by_class[name] for name in order[most:]]
    return _Section(
        against=against,
        sentence=against_sentence(against),
        flicker=flicker_sentence(against),
        columns=tuple(columns),
        rows=tuple(rows),
        n_hidden=len(hidden),
        n_hidden_worse=sum(any(c.outcome == "worse" for c in own) for own in hidden),
        n_hidden_better=sum(any(c.outcome == "better" for c in own) for own in hidden),
        n_sets_hidden=max(0, len(sets) - _MOST_SETS),
    )


def _row(name: str | None, changes: Sequence[RunChange], keys: Sequence[tuple[Quantity, str]]) -> _Row:
    found = {(change.quantity, change.set): change for change in changes}
    return _Row(name, tuple(found.get(key) for key in keys))


def comparison_json(comparison: RunsComparison) -> str:
    """The comparison as JSON, whole; `RunsComparison` reads it back."""
    return comparison.model_dump_json(indent=1) + "\n"


def write_comparison(comparison: RunsComparison, page: Path) -> Path:
    """Write the page; returns it. Raises RunFolderError where it cannot be written."""
    write_bytes(page, render_comparison(comparison).encode())
    return page
