"""The page: one HTML file, offline, without scripts."""

from __future__ import annotations

import io
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray
from PIL import Image

from shortcut_audit.report.data_page import data_page
from shortcut_audit.report.figures import class_figure, image_uri, png_bytes
from shortcut_audit.report.summary import (
    by_excess,
    class_sentence,
    duration,
    fidelity_text,
    headline,
    importance_words,
    interval_text,
    percent,
    search_sentences,
    truth_sentences,
)
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassMap, ClassShortcut, ExamplePrediction
from shortcut_audit.results.store import REPORT_FILE, write_bytes

__all__ = ["render", "write_report"]

# Beyond this the page would grow heavy; the remaining classes stay in its table.
MAX_PICTURED_CLASSES = 20
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
    environment = Environment(
        loader=PackageLoader("shortcut_audit.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, interval=interval_text, duration=duration, fidelity=fidelity_text
    )
    content = data_page(result) if result.of_data else _model_page(result)
    return environment.get_template("data.html.j2" if result.of_data else "model.html.j2").render(
        result=result, truth_sentences=truth_sentences(result), **content
    )


def _model_page(result: AuditResult) -> dict[str, Any]:
    """What the template needs of an audit of a model."""
    order = by_excess(result)
    maps = {item.class_name: item for item in result.dominant_frequencies.by_class}
    return {
        "headline": headline(result),
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
    examples = _example_pixels(result)
    return [
        _ClassSection(
            number=number,
            shortcut=item,
            found=maps[item.class_name],
            sentence=class_sentence(result, item),
            figure_uri=image_uri(png_bytes(class_figure(result, item.class_name)), "png"),
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
            uri=_image_uri(image),
            prediction=item.example_predictions[form],  # type: ignore[index]
            pixelated=image.shape[-1] < 128,
        )
        for (form, caption), image in zip(_FORMS, pixels, strict=True)
    ]


def _image_uri(image: NDArray[np.uint8]) -> str:
    """A (C, H, W) image as a data URI: lossless where it is small, WebP where that saves room."""
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    stream = io.BytesIO()
    if image.shape[-1] < 128:
        picture.save(stream, format="PNG", optimize=True)
        return image_uri(stream.getvalue(), "png")
    picture.save(stream, format="WEBP", quality=90, method=4)
    return image_uri(stream.getvalue(), "webp")
