"""The page: one HTML file, offline, without scripts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.report.corruption_page import corruptions_section
from shortcut_audit.report.data_page import data_page
from shortcut_audit.report.environment import rendered
from shortcut_audit.report.figures import LARGE, image_uri, map_bytes, picture_uri
from shortcut_audit.report.summary import (
    class_sentence,
    fidelity_text,
    importance_words,
    measured_sentences,
    search_sentences,
    truth_sentences,
)
from shortcut_audit.report.transfer_page import transfer_sections
from shortcut_audit.report.verdict_page import (
    VerdictSection,
    evidence_pixels,
    flips_text,
    nulls_text,
    paired_text,
    verdict_section,
)
from shortcut_audit.report.verdict_words import (
    UNJUDGED,
    by_verdict,
    number_text,
    reasons,
    verdict_sentence,
)
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassMap, ClassShortcut, ExamplePrediction
from shortcut_audit.results.store import REPORT_FILE, write_bytes

__all__ = ["render", "write_report"]

# Beyond this the page would grow heavy; the remaining classes stay in its table.
MAX_PICTURED_CLASSES = 20
# Reasons at the top; every pictured class has its own below.
_MAX_REASONS = 5
# Maps that repeat so well need no more images.
_RELIABLE = 0.8
_FORMS = (
    ("original", "as the model sees it"),
    ("kept", "only the map kept"),
    ("removed", "without the map"),
)


@dataclass(frozen=True)
class _Example:
    """One picture of an example triplet, ready for the template."""

    caption: str
    uri: str
    prediction: ExamplePrediction
    pixelated: bool


@dataclass(frozen=True)
class _ClassSection:
    """Everything the template needs to know of one class."""

    number: int
    shortcut: ClassShortcut
    found: ClassMap
    sentence: str
    verdict: VerdictSection
    figure_uri: str
    examples: list[_Example]
    bands: list[dict[Hashable, Any]]


def write_report(result: AuditResult, path: str | Path) -> Path:
    """Write the page of `result` to `path` (a file, or a folder for its `report.html`)."""
    target = Path(path)
    if target.is_dir():
        target = target / REPORT_FILE
    write_bytes(target, render(result).encode())
    return target


def render(result: AuditResult) -> str:
    """The page as text; equal results give equal bytes."""
    content = data_page(result) if result.of_data else _model_page(result)
    filters: dict[str, Callable[..., Any]] = {
        "fidelity": fidelity_text,
        "number": number_text,
        "flips": flips_text,
        "nulls": nulls_text,
        "paired": paired_text,
    }
    return rendered(
        "data.html.j2" if result.of_data else "model.html.j2",
        filters,
        result=result,
        truth_sentences=truth_sentences(result),
        **content,
    )


def _model_page(result: AuditResult) -> dict[str, Any]:
    """What the template needs of an audit of a model."""
    order = by_verdict(result)
    told, n_more = reasons(result, _MAX_REASONS)
    maps = {item.class_name: item for item in result.dominant_frequencies.by_class}
    return {
        "verdict_sentence": verdict_sentence(result),
        "measured": measured_sentences(result),
        "reasons": told,
        "n_more_reasons": n_more,
        "judged": any(item.verdict != "not judged" for item in order),
        "unjudged": UNJUDGED,
        "order": order,
        "maps": maps,
        "accuracy": dict(zip(result.class_names, result.predictions.accuracy_by_class, strict=True)),
        "response": result.dominant_frequencies.response,
        "search": result.dominant_frequencies,
        "search_sentences": search_sentences(result),
        "importance_words": importance_words(result),
        "importance_meaning": _importance_meaning(result),
        "reliable": _RELIABLE,
        "sections": _sections(result, order, maps),
        "corruptions": corruptions_section(result),
        "transfers": transfer_sections(result),
        "n_not_pictured": max(0, len(order) - MAX_PICTURED_CLASSES),
    }


def _importance_meaning(result: AuditResult) -> str:
    """Importance in a sentence, for the words at the end of the page."""
    finding = result.dominant_frequencies
    if finding.search == "hierarchical":
        return (
            "How much lower the class's loss is, on average, under masks of the search that keep an orbit"
            " than under those that do not (nats). Orbits that the best mask of the last stage keeps rank"
            " first, then those of the stage before, and by importance among themselves."
        )
    if finding.search == "learned":
        return (
            "The logit of the class's learned mask at an orbit: the higher, the longer the orbit is kept"
            " while the share of the spectrum shrinks. It has no unit, and says nothing of an orbit"
            " removed alone."
        )
    what = {
        "log-odds": "the fall of its log-odds",
        "cross-entropy": "the rise of its cross-entropy",
        "squared-logit-change": "the squared change of all logits",
    }.get(finding.response, "as the search scores it")
    single = result.model_settings.resolution in ("auto", "orbits")
    removed = "one orbit is" if single else "a whole patch or tile is"
    shared = "" if single else ", shared evenly by its orbits"
    text = (
        f"How much the class suffers, on average over its search images, when {removed} removed: {what}"
        f"{shared}."
    )
    if finding.search != "screened":
        return text
    return (
        f"{text} Measured where an orbit was probed; elsewhere a first-order estimate that probes of"
        " other orbits calibrate (export's n_probed says on how many images)."
    )


def _sections(
    result: AuditResult, order: list[ClassShortcut], maps: dict[str, ClassMap]
) -> list[_ClassSection]:
    bands = result.table("bands")
    examples, evidence = _example_pixels(result), evidence_pixels(result)
    return [
        _ClassSection(
            number=number,
            shortcut=item,
            found=maps[item.class_name],
            sentence=class_sentence(result, item),
            verdict=verdict_section(item, evidence.get(item.class_name, [])),
            figure_uri=image_uri(map_bytes(result, item.class_name), "png"),
            examples=_examples(item, examples.get(item.class_name)),
            bands=bands[bands["class"] == item.class_name].to_dict("records"),
        )
        for number, item in enumerate(order[:MAX_PICTURED_CLASSES], start=1)
    ]


def _example_pixels(result: AuditResult) -> dict[str, NDArray[np.uint8]]:
    stored = result.arrays.get("shortcuts/examples")
    if stored is None:
        return {}
    named = [item.class_name for item in result.shortcuts.by_class if item.example is not None]
    return dict(zip(named, stored, strict=True))


def _examples(item: ClassShortcut, pixels: NDArray[np.uint8] | None) -> list[_Example]:
    if pixels is None:
        return []
    return [
        _Example(
            caption=caption,
            uri=picture_uri(image),
            prediction=item.example_predictions[form],  # type: ignore[index]
            pixelated=image.shape[-1] < LARGE,
        )
        for (form, caption), image in zip(_FORMS, pixels, strict=True)
    ]
