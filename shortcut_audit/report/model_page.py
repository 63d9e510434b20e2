"""The page of an audit of a model: what its template needs, the worst classes first."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.report.corruption_page import corruptions_section
from shortcut_audit.report.data_page import bands_by_class
from shortcut_audit.report.embedding import PageMemory, Picture
from shortcut_audit.report.explorer import explored
from shortcut_audit.report.extents import Extents
from shortcut_audit.report.figures import LARGE, image_uri, map_bytes, picture_uri
from shortcut_audit.report.next_steps import next_steps
from shortcut_audit.report.summary import (
    class_sentence,
    importance_words,
    measured_sentences,
    search_sentences,
)
from shortcut_audit.report.transfer_page import transfer_sections
from shortcut_audit.report.unmeasured import unmeasured
from shortcut_audit.report.verdict_page import VerdictSection, evidence_pixels, verdict_section
from shortcut_audit.report.verdict_words import UNJUDGED, by_verdict, reasons, verdict_sentence
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassMap, ClassShortcut, ExamplePrediction

__all__ = ["model_page"]

# Reasons at the top, and cards with the evidence there; every pictured class has its own card.
_MAX_REASONS, _MAX_WORST = 5, 3
_N_TOP = 10
# Maps that repeat so well need no more images.
_RELIABLE = 0.8
_FORMS = (
    ("original", "as the model sees it"),
    ("kept", "only the map kept"),
    ("removed", "without the map"),
)


@dataclass(frozen=True)
class Example:
    """One picture of an example triplet, ready for the template."""

    caption: str
    picture: Picture
    prediction: ExamplePrediction
    pixelated: bool


@dataclass(frozen=True)
class ClassSection:
    """Everything the template needs to know of one class."""

    number: int
    shortcut: ClassShortcut
    found: ClassMap
    sentence: str
    verdict: VerdictSection
    figure: Picture
    examples: list[Example]
    top: list[dict[str, Any]]
    bands: list[dict[Hashable, Any]]


def model_page(result: AuditResult, memory: PageMemory, extents: Extents) -> dict[str, Any]:
    """Values for `model.html.j2`; what `memory` has of its pictures and numbers is taken from there."""
    order = by_verdict(result)
    told, n_more = reasons(result, _MAX_REASONS)
    maps = {item.class_name: item for item in result.dominant_frequencies.by_class}
    sections = _sections(result, memory, order[: extents.n_pictured], maps)
    n_worst = min(_MAX_WORST, len(told), len(sections))
    if memory.explorer is None and sections:
        memory.explorer = explored(result, order[: extents.n_pictured])
    return {
        "verdict_sentence": verdict_sentence(result),
        "measured": measured_sentences(result),
        "reasons": told,
        "n_more_reasons": n_more,
        "judged": any(item.verdict != "not judged" for item in order),
        "unjudged": UNJUDGED,
        "next_steps": next_steps(result),
        "unmeasured": unmeasured(result),
        "order": order,
        "n_listed": extents.n_listed,
        "maps": maps,
        "accuracy": dict(zip(result.class_names, result.predictions.accuracy_by_class, strict=True)),
        "response": result.dominant_frequencies.response,
        "search": result.dominant_frequencies,
        "search_sentences": search_sentences(result),
        "importance_words": importance_words(result),
        "importance_meaning": _importance_meaning(result),
        "reliable": _RELIABLE,
        "worst": sections[:n_worst],
        "others": sections[n_worst:],
        "explorer": memory.explorer is not None,
        "corruptions": corruptions_section(result, memory),
        "transfers": transfer_sections(result, memory),
        "n_not_pictured": max(0, len(order) - len(sections)),
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
    result: AuditResult, memory: PageMemory, order: list[ClassShortcut], maps: dict[str, ClassMap]
) -> list[ClassSection]:
    examples, evidence = _example_pixels(result), evidence_pixels(result)
    bands = memory.value("bands", lambda: bands_by_class(result, [item.class_name for item in order]))
    tops = memory.value("top orbits", lambda: [_top_orbits(result, item.class_name) for item in order])
    return [
        ClassSection(
            number=number,
            shortcut=item,
            found=maps[item.class_name],
            sentence=class_sentence(result, item),
            verdict=verdict_section(item, number, memory, evidence.get(item.class_name, [])),
            figure=memory.picture(
                f"class-{number}/map",
                lambda item=item: image_uri(map_bytes(result, item.class_name), "png"),  # type: ignore[misc]
            ),
            examples=_examples(item, number, memory, examples.get(item.class_name)),
            top=tops[number - 1],
            bands=bands[number - 1],
        )
        for number, item in enumerate(order, start=1)
    ]


def _top_orbits(result: AuditResult, class_name: str) -> list[dict[str, Any]]:
    """The most important orbits of a class, as rows of a table."""
    row = [item.class_name for item in result.dominant_frequencies.by_class].index(class_name)
    rank = result.arrays["dominant_frequencies/rank"][row]
    importance = result.importance(class_name)
    adcs = result.arrays["class_spectra/adcs"][list(result.class_names).index(class_name)]
    height, width = result.grid.height, result.grid.width
    ranked = np.flatnonzero(rank > 0)
    first = ranked[np.argsort(rank[ranked], kind="stable")][:_N_TOP]
    u, v = result.arrays["orbits/u"], result.arrays["orbits/v"]
    return [
        {
            "rank": int(rank[orbit]),
            "u": int(u[orbit]),
            "v": int(v[orbit]),
            "radius": float(result.arrays["orbits/radius"][orbit]),
            "direction": float(np.degrees(np.arctan2(u[orbit] / height, v[orbit] / width))),
            "importance": float(importance[orbit]),
            "adcs": int(adcs[orbit]),
        }
        for orbit in first
    ]


def _example_pixels(result: AuditResult) -> dict[str, NDArray[np.uint8]]:
    stored = result.arrays.get("shortcuts/examples")
    if stored is None:
        return {}
    named = [item.class_name for item in result.shortcuts.by_class if item.example is not None]
    return dict(zip(named, stored, strict=True))


def _examples(
    item: ClassShortcut, number: int, memory: PageMemory, pixels: NDArray[np.uint8] | None
) -> list[Example]:
    if item.example is None:
        return []
    names = [f"class-{number}/example-{form}" for form, _ in _FORMS]
    if pixels is None and not all(name in memory.pictures for name in names):
        return []
    side = memory.value("example width", lambda: 0 if pixels is None else pixels.shape[-1])

    def uri(place: int) -> str:
        assert pixels is not None
        # The explorer filters the original: it needs all of its pixels.
        return picture_uri(pixels[place], shrink=place > 0)

    return [
        Example(
            caption=caption,
            picture=memory.picture(name, partial(uri, place)),
            prediction=item.example_predictions[form],  # type: ignore[index]
            pixelated=side < LARGE,
        )
        for place, ((form, caption), name) in enumerate(zip(_FORMS, names, strict=True))
    ]
