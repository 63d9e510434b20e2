"""The page of an audit of data, without a model: what its template needs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortcut_audit.report.embedding import PageMemory, Picture
from shortcut_audit.report.extents import Extents
from shortcut_audit.report.figures import (
    data_class_figure,
    image_uri,
    mean_spectra_figure,
    png_bytes,
)
from shortcut_audit.report.next_steps import next_steps
from shortcut_audit.report.summary import data_headline, invitation_sentence
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ProbeScore

__all__ = ["bands_by_class", "data_page"]

_MAX_PICTURED_CLASSES = 20
_MAX_SENTENCES = 100


@dataclass(frozen=True)
class _Row:
    """One class in the table of the probe."""

    name: str
    n: int
    scores: list[ProbeScore]
    bands: str


@dataclass(frozen=True)
class _Section:
    """One class with its pictures."""

    name: str
    sentence: str
    figure: Picture
    bands: list[dict[Hashable, Any]]


def data_page(result: AuditResult, memory: PageMemory, extents: Extents) -> dict[str, Any]:
    """Values for `data.html.j2`."""
    named = {item.class_name for item in result.invitations.items}
    order = sorted(result.class_names, key=lambda name: name not in named)
    pictured = order[: min(_MAX_PICTURED_CLASSES, extents.n_pictured)]
    places = {name: index for index, name in enumerate(result.class_names)}
    # In the order of the data, unless only some have room.
    listed = order[: extents.n_listed] if len(order) > extents.n_listed else result.class_names
    return {
        "headline": data_headline(result),
        "next_steps": next_steps(result),
        "sentences": [invitation_sentence(item) for item in result.invitations.items[:_MAX_SENTENCES]],
        "n_more_sentences": max(0, len(result.invitations.items) - _MAX_SENTENCES),
        "probe": result.spectrum_probe,
        "rows": [_row(result, places[name], name) for name in listed],
        "n_not_listed": len(order) - len(listed),
        "spectra": memory.picture(
            "spectra", lambda: image_uri(png_bytes(mean_spectra_figure(result)), "png")
        ),
        "sections": _sections(result, memory, pictured),
        "n_not_pictured": len(order) - len(pictured),
    }


def _row(result: AuditResult, index: int, name: str) -> _Row:
    bands = sorted({item.band for item in result.invitations.items if item.class_name == name})
    return _Row(
        name=name,
        n=result.class_spectra.n_images_by_class[index],
        scores=[part.by_class[index] for part in result.spectrum_probe.results],
        bands=", ".join(str(band) for band in bands),
    )


def _sections(result: AuditResult, memory: PageMemory, names: list[str]) -> list[_Section]:
    bands = memory.value("bands", lambda: bands_by_class(result, names))
    return [
        _Section(
            name=name,
            sentence=_sentence(result, name),
            figure=memory.picture(
                f"class-{number}/map",
                lambda name=name: image_uri(png_bytes(data_class_figure(result, name)), "png"),  # type: ignore[misc]
            ),
            bands=bands[number - 1],
        )
        for number, name in enumerate(names, start=1)
    ]


def _sentence(result: AuditResult, name: str) -> str:
    own = [item for item in result.invitations.items if item.class_name == name]
    slope = result.class_spectra.slope_by_class[list(result.class_names).index(name)]
    falls = f"Its amplitudes fall as 1/radius^{slope:.2f}." if slope is not None else ""
    if not own:
        return f"No band stands out. {falls}".rstrip()
    return " ".join([*(invitation_sentence(item) for item in own), falls]).rstrip()


def bands_by_class(result: AuditResult, names: list[str]) -> list[list[dict[Hashable, Any]]]:
    """Rows of each class's table of bands, in the order of `names`."""
    rows: dict[str, list[dict[Hashable, Any]]] = {}
    for row in result.table("bands").to_dict("records"):
        # Only numbers of Python's own survive in a page as they are.
        plain = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()
        }
        rows.setdefault(str(row["class"]), []).append(plain)
    return [rows[name] for name in names]
