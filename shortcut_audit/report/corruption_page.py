"""Corruptions as the page shows them: sentences, two figures, and a row a shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shortcut_audit.report.corruption_figures import MAX_ROWS, drop_figure, prediction_figure
from shortcut_audit.report.corruption_words import (
    fall_sentences,
    mean_changes,
    named_corruption,
    prediction_sentences,
    quoted,
    times_text,
)
from shortcut_audit.report.embedding import PageMemory, Picture
from shortcut_audit.report.figures import image_uri, png_bytes
from shortcut_audit.report.summary import percent
from shortcut_audit.report.verdict_page import paired_text
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.corruption_findings import CorruptionsFinding

__all__ = ["CorruptionsSection", "corruptions_section"]


@dataclass(frozen=True)
class ShiftRow:
    """One shift as words and numbers of a table."""

    what: str
    parameters: str
    accuracy: str
    interval: str
    drop: str
    drop_interval: str
    worst: str
    changes: list[str]


@dataclass(frozen=True)
class CorruptionsSection:
    """Everything that the template needs to know of the corruptions of an audit."""

    n_images: int
    clean: str
    falls: list[str]
    prediction: list[str]
    drop_figure: Picture
    prediction_figure: Picture
    regions: list[str]
    rows: list[ShiftRow]
    n_not_pictured: int


def corruptions_section(result: AuditResult, memory: PageMemory) -> CorruptionsSection | None:
    """The section of the page; None where no corruptions were tried."""
    finding = result.corruptions
    if finding is None:
        return None
    regions = [name for name in finding.regions if name != "shortcut"]
    changes = memory.value(
        "corruptions/changes",
        lambda: {name: [float(x) for x in mean_changes(result, finding, name)] for name in regions},
    )
    clean = finding.accuracy(0).first
    return CorruptionsSection(
        n_images=clean.n,
        clean=percent(clean.value),
        falls=memory.value("corruptions/falls", lambda: fall_sentences(result, finding)),
        prediction=prediction_sentences(finding),
        drop_figure=memory.picture(
            "corruptions/drop", lambda: image_uri(png_bytes(drop_figure(finding)), "png")
        ),
        prediction_figure=memory.picture(
            "corruptions/prediction",
            lambda: image_uri(png_bytes(prediction_figure(result, finding)), "png"),
        ),
        regions=["DC" if name == "dc" else name for name in regions],
        rows=[
            _row(finding, n, [times_text(changes[name][n]) for name in regions])
            for n in range(len(finding.shifts))
        ],
        n_not_pictured=max(0, len(finding.by_class) - MAX_ROWS),
    )


def _row(finding: CorruptionsFinding, number: int, changes: list[str]) -> ShiftRow:
    shift, pair = finding.shifts[number], finding.accuracy(number)
    drops = [item.by_shift[number].recall.difference for item in finding.by_class]
    worst = int(np.argmax(drops))
    after = pair.second
    name = finding.by_class[worst].class_name
    return ShiftRow(
        what=f"{named_corruption(shift.corruption)}, {shift.severity}",
        parameters=", ".join(f"{key} {value:.3g}" for key, value in shift.parameters.items()),
        accuracy=percent(after.value),
        interval=f"{100 * after.low:.1f}–{100 * after.high:.1f}",
        drop=f"{100 * pair.difference:.1f}",
        drop_interval=paired_text(pair),
        worst=f"{quoted(name)} ({100 * drops[worst]:.0f})" if drops[worst] > 0 else "–",
        changes=changes,
    )
