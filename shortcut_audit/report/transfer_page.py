"""Other sets as the page shows them: sentences, figures, a row a class, and the protocol."""

from __future__ import annotations

from dataclasses import dataclass

from shortcut_audit.report.embedding import PageMemory, Picture
from shortcut_audit.report.figures import image_uri, png_bytes
from shortcut_audit.report.summary import interval_text, percent
from shortcut_audit.report.transfer_figures import MAX_ROWS, groups_figure, transfer_figure
from shortcut_audit.report.transfer_words import by_effect, set_sentences
from shortcut_audit.report.verdict_words import number_text
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.transfer_findings import ClassTransfer, Effect, SetTransfer

__all__ = ["SetSection", "transfer_sections"]

# How an effect looks: like a verdict of the same weight.
_STYLES: dict[Effect, str] = {
    "illusion": "shortcut",
    "drop": "shortcut",
    "inconclusive": "inconclusive",
    "no effect": "no-shortcut",
}
# Rows of a table that a page has room for.
_MAX_TABLE = 200


@dataclass(frozen=True)
class ClassRow:
    """One class on one set, as words and numbers of a table."""

    name: str
    effect: str
    style: str
    verdict: str
    n_images: str
    home: str
    home_interval: str
    there: str
    there_interval: str
    kept_home: str
    kept: str
    props: str
    lacks: str
    flips: str
    null: str
    q_value: str


@dataclass(frozen=True)
class SetSection:
    """One other set, as the template needs it."""

    number: int
    name: str
    sentences: list[str]
    reasons: list[tuple[str, str, str, str]]
    notes: tuple[str, ...]
    figure: Picture
    groups: Picture
    rows: list[ClassRow]
    n_not_pictured: int
    n_not_listed: int
    protocol: list[tuple[str, str]]
    dropped: list[tuple[str, int, str]]


def transfer_sections(result: AuditResult, memory: PageMemory) -> list[SetSection]:
    """A section for each other set; none where none were given."""
    if result.transfer is None:
        return []
    return [_section(number, item, memory) for number, item in enumerate(result.transfer.by_set, 1)]


def _section(number: int, item: SetTransfer, memory: PageMemory) -> SetSection:
    order = by_effect(item)
    told = [each for each in order if each.effect in ("illusion", "drop") or each.needed]
    return SetSection(
        number=number,
        name=item.set.name,
        sentences=set_sentences(item),
        reasons=[
            (each.effect, _STYLES[each.effect], each.class_name, f"{each.reason} {each.needed}".strip())
            for each in told[:MAX_ROWS]
        ],
        notes=item.set.notes,
        figure=memory.picture(
            f"set-{number}/effects", lambda: image_uri(png_bytes(transfer_figure(item, order)), "png")
        ),
        groups=memory.picture(
            f"set-{number}/groups", lambda: image_uri(png_bytes(groups_figure(item)), "png")
        ),
        rows=[_row(each) for each in order[:_MAX_TABLE]],
        n_not_pictured=max(0, len(order) - MAX_ROWS),
        n_not_listed=max(0, len(order) - _MAX_TABLE),
        protocol=_protocol(item),
        dropped=[(each.class_name, each.n_images, each.reason) for each in item.set.dropped],
    )


def _row(each: ClassTransfer) -> ClassRow:
    null = (each.flips_over_foreign.second.value or 0.0) - (each.flips.second.value or 0.0)
    return ClassRow(
        name=each.class_name,
        effect=each.effect,
        style=_STYLES[each.effect],
        verdict=each.verdict,
        n_images=f"{each.n_images:,}",
        home=percent(each.recall_home.value),
        home_interval=interval_text(each.recall_home),
        there=percent(each.recall.value),
        there_interval=interval_text(each.recall),
        kept_home=percent(each.tpr_kept_home.value),
        kept=percent(each.tpr_kept.value),
        props=percent(each.props),
        lacks=percent(each.lacks),
        flips=percent(each.flips.difference),
        null=percent(null),
        q_value=number_text(each.q_value),
    )


def _protocol(item: SetTransfer) -> list[tuple[str, str]]:
    used = item.set
    left_out = ", ".join(used.left_out) if used.left_out else "none"
    return [
        ("images", f"{used.spec}: {used.n_used:,} of {used.n_available:,} used; {used.pairing}"),
        ("classes", used.protocol),
        ("classes of the audit without an image here", left_out),
        (
            "pixels",
            f"{used.geometry}, {'as' if used.same_geometry else 'other than'} the audit's own; filtered"
            " at that size, then normalised, on both sides",
        ),
        ("digest of the images", used.digest[:16]),
    ]
