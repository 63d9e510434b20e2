"""The verdict of one class as the page shows it: facts, rungs in numbers, evidence pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.report.embedding import PageMemory
from shortcut_audit.report.embedding import Picture as NamedPicture
from shortcut_audit.report.figures import LARGE, image_uri, picture_uri, png_bytes
from shortcut_audit.report.summary import percent
from shortcut_audit.report.verdict_figures import ladder_figure
from shortcut_audit.report.verdict_words import nulls_of, number_text, shares_text
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.shortcut_findings import (
    ClassShortcut,
    EvidencePicture,
    ExamplePrediction,
    Rung,
)
from shortcut_audit.results.tables import null_share

__all__ = [
    "VerdictSection",
    "evidence_pixels",
    "flips_text",
    "nulls_text",
    "paired_text",
    "verdict_section",
]


# A ladder has few colours; more would be shades of the edges of its letters.
_LADDER_COLOURS = 64


@dataclass(frozen=True)
class Picture:
    """One evidence picture, ready for the template."""

    caption: str
    picture: NamedPicture
    prediction: ExamplePrediction | None
    pixelated: bool


@dataclass(frozen=True)
class Evidence:
    """A transplant in three pictures: receiver, donor, result."""

    receiver: str
    donor: str
    pictures: list[Picture]


@dataclass(frozen=True)
class RungRow:
    """One rung as words and numbers of a table."""

    what: str
    share: str
    radius: str
    energy: str
    flips: str
    interval: str
    foreign: str
    random: str
    drop: str
    sufficiency: str
    best: bool


@dataclass(frozen=True)
class VerdictSection:
    """Everything that the template needs to know of a class's verdict; no figure without a ladder."""

    facts: list[tuple[str, str]]
    figure: NamedPicture | None
    rungs: list[RungRow]
    evidence: list[Evidence]


def verdict_section(
    item: ClassShortcut, number: int, memory: PageMemory, pixels: list[NDArray[np.uint8]]
) -> VerdictSection:
    """The verdict of `item`, the page's class of that number; `pixels`: for each of its evidence pictures
    (3, C, H, W) uint8, none where `memory` has them."""
    figure = None
    if item.ladder:
        figure = memory.picture(
            f"class-{number}/ladder",
            lambda: image_uri(png_bytes(ladder_figure(item), n_colours=32), "png"),
        )
    return VerdictSection(
        facts=_facts(item),
        figure=figure,
        rungs=[_row(rung, place == item.rung) for place, rung in enumerate(item.ladder)],
        evidence=_all_evidence(item, number, memory, pixels),
    )


def evidence_pixels(result: AuditResult) -> dict[str, list[NDArray[np.uint8]]]:
    """Pixels of the evidence pictures of each class that has any, in the order of its `evidence`."""
    stored = result.arrays.get("shortcuts/evidence")
    if stored is None:
        return {}
    rows = iter(stored)
    return {
        item.class_name: [row for _, row in zip(item.evidence, rows, strict=False)]
        for item in result.shortcuts.by_class
        if item.evidence
    }


def flips_text(item: ClassShortcut) -> str:
    """What the best rung turns: `54.0%`, or a dash where nothing was judged."""
    return "–" if item.best is None else percent(item.best.flip_rate)


def nulls_text(item: ClassShortcut) -> str:
    """What the nulls of the best rung turn, the same orbits of other images first: `1.0%, 0.0%`."""
    if item.best is None:
        return "–"
    return ", ".join(percent(null) for null in nulls_of(item)) or "not drawn"


def _facts(item: ClassShortcut) -> list[tuple[str, str]]:
    """What a reader may want to quote, as pairs of a name and a value."""
    if not item.ladder:
        return []
    none = "none of the ladder"
    strength, enough = item.strength_share, item.sufficient_share
    facts = [
        ("score", percent(item.score)),
        ("q", number_text(item.q_value)),
        ("p", number_text(item.p_value)),
        ("turns half of other images", none if strength is None else shares_text(strength)),
        ("J of 0.5 when only it is kept", none if enough is None else shares_text(enough)),
    ]
    extent = item.extent
    if extent is not None:
        low, high = extent.radius
        where = f"{item.kind}, {low:.1f}–{high:.1f} cycles/image"
        if extent.direction is not None:
            where += f", at {extent.direction:g}°"
        named = ", ".join(f"({u}, {v})" for u, v in extent.orbits)
        more = extent.n_orbits - len(extent.orbits)
        facts.append(("kind", where))
        # All orbits of a ring are told by its radii.
        if extent.narrow:
            facts.append(("orbits (u, v)", f"{named} and {more} more" if more > 0 else named))
    if item.confounds:
        facts.append(("what else it could be", ", ".join(item.confounds)))
    return facts


def _rings(rung: Rung) -> str:
    assert rung.ring is not None
    return f"ring {rung.ring}" if rung.n_rings == 1 else f"rings {rung.ring} and {rung.ring + 1}"


def _row(rung: Rung, best: bool) -> RungRow:
    low, high = rung.radius
    return RungRow(
        what=f"{rung.n_orbits:,} orbit{'s' if rung.n_orbits > 1 else ''}"
        if rung.ring is None
        else f"{_rings(rung)} ({rung.n_orbits:,} orbits)",
        share=shares_text(rung.share),
        radius=f"{low:.1f}–{high:.1f}",
        energy=shares_text(rung.energy_share),
        flips=percent(rung.flip_rate),
        interval=paired_text(rung.flips),
        foreign=percent(null_share(rung, rung.flips_over_foreign)),
        random=percent(null_share(rung, rung.flips_over_random)),
        drop=percent(rung.necessity_drop),
        sufficiency="–" if rung.sufficiency is None else f"{rung.sufficiency:.2f}",
        best=best,
    )


def paired_text(pair: Paired) -> str:
    """The interval of a difference and its n: `38.0 to 65.2, n 50`."""
    low, high = pair.interval
    return f"{100 * low:.1f} to {100 * high:.1f}, n {pair.n}"


def _all_evidence(
    item: ClassShortcut, number: int, memory: PageMemory, pixels: list[NDArray[np.uint8]]
) -> list[Evidence]:
    found = []
    for place, picture in enumerate(item.evidence):
        name = f"class-{number}/evidence-{place + 1}"
        if place < len(pixels) or f"{name}-1" in memory.pictures:
            own = pixels[place] if place < len(pixels) else None
            found.append(_evidence(item, picture, name, memory, own))
    return found


def _evidence(
    item: ClassShortcut,
    picture: EvidencePicture,
    name: str,
    memory: PageMemory,
    pixels: NDArray[np.uint8] | None,
) -> Evidence:
    best = item.best
    orbits = f"{picture.n_orbits:,} orbit{'s' if picture.n_orbits > 1 else ''}"
    share = f", {shares_text(best.share)} of the spectrum" if best is not None else ""
    told = (
        ("of another class, as it is", picture.before),
        ("the donor, of this class", None),
        (f"the first with {orbits} of the donor{share}", picture.after),
    )
    side = memory.value("evidence width", lambda: pixels.shape[-1])  # type: ignore[union-attr]
    return Evidence(
        receiver=picture.receiver,
        donor=picture.donor,
        pictures=[
            Picture(
                caption,
                memory.picture(f"{name}-{place + 1}", lambda place=place: picture_uri(pixels[place])),  # type: ignore[index,misc]
                prediction,
                side < LARGE,
            )
            for place, (caption, prediction) in enumerate(told)
        ],
    )
