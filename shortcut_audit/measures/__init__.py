"""The measures, one file each, in the order in which their findings appear in a result."""

from __future__ import annotations

from shortcut_audit.measures.class_spectra import ClassSpectra
from shortcut_audit.measures.dominant_frequencies import DominantFrequencies
from shortcut_audit.measures.interface import Measure, MeasureInRounds
from shortcut_audit.measures.predictions import Predictions
from shortcut_audit.measures.shortcuts import Shortcuts

__all__ = ["MEASURES"]

MEASURES: tuple[Measure | MeasureInRounds, ...] = (
    Predictions(),
    ClassSpectra(),
    DominantFrequencies(),
    Shortcuts(),
)
