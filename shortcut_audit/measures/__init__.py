"""The measures, one file each, in the order in which their findings appear in a result."""

from __future__ import annotations

from shortcut_audit.measures.class_spectra import ClassSpectra
from shortcut_audit.measures.corruptions import Corruptions
from shortcut_audit.measures.dominant_frequencies import DominantFrequencies
from shortcut_audit.measures.interface import Measure, MeasureInRounds, Outline
from shortcut_audit.measures.predictions import Predictions
from shortcut_audit.measures.shortcuts import Shortcuts
from shortcut_audit.measures.transfer import Transfer

__all__ = ["MEASURES", "measures_of"]

MEASURES: tuple[Measure | MeasureInRounds, ...] = (
    Predictions(),
    ClassSpectra(),
    DominantFrequencies(),
    Shortcuts(),
)


def measures_of(outline: Outline) -> tuple[Measure | MeasureInRounds, ...]:
    """The measures that an audit takes; those of shifted images where there are any."""
    measures = MEASURES
    if outline.settings.shifts:
        measures = (*measures, Corruptions())
    if outline.shifted_rows:
        measures = (*measures, Transfer())
    return measures
