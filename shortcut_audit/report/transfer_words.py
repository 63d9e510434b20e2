"""Other sets in sentences: how far a model falls, in which classes and band, and what shortcuts do."""

from __future__ import annotations

from collections.abc import Sequence

from shortcut_audit.report.summary import interval_text, percent
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.transfer_findings import (
    BandChange,
    ClassTransfer,
    Effect,
    SetTransfer,
)

__all__ = ["by_effect", "points_text", "set_sentences", "transfer_sentences"]

# What a reader has to look at comes first.
_ORDER: tuple[Effect, ...] = ("illusion", "drop", "inconclusive", "no effect")
_MEANING = {
    "illusion": "The shortcut is there too, and holds the score up",
    "drop": "The shortcut is missing there, and the class falls with it",
}
_MAX_NAMED = 5
# Points of accuracy below which nobody asks where they went; and of a class.
_FALL, _CLASS_FALL = 0.02, 0.05
# A band that holds so much less or more is worth a word.
_OTHER_POWER = 0.1


def by_effect(item: SetTransfer) -> list[ClassTransfer]:
    """Classes whose shortcut does something first, then those that fall furthest."""
    return sorted(item.by_class, key=lambda each: (_ORDER.index(each.effect), -each.drop))


def points_text(value: float) -> str:
    """A difference of shares in points: `12 points`."""
    points = round(100 * value)
    return f"{points} point{'' if abs(points) == 1 else 's'}"


def set_sentences(item: SetTransfer) -> list[str]:
    """What became of the model on one other set, the answer first."""
    return [
        _headline(item),
        *_effects(item),
        *_fallen(item),
        *_bands(item),
    ]


def transfer_sentences(result: AuditResult) -> list[str]:
    """All other sets, one after the other, with what a reader must know of each."""
    if result.transfer is None:
        return []
    told = []
    for item in result.transfer.by_set:
        told += set_sentences(item)
        told += [
            f"{each.effect.capitalize()}, “{each.class_name}”: {each.reason} {each.needed}".strip()
            for each in by_effect(item)[:_MAX_NAMED]
            if each.effect in _MEANING or each.needed
        ]
        told += [f"Note on {item.set.name}: {note}" for note in item.set.notes]
    return told


def _headline(item: SetTransfer) -> str:
    there, home = item.accuracy, item.accuracy_home
    same = (
        "the audit's own copies of the same images"
        if item.set.paired
        else f"{home.n:,} of the audit's own judgement images of the same classes"
    )
    return (
        f"{item.set.name}: {percent(there.value)} of {there.n:,} images are called by their class (95%"
        f" interval {interval_text(there)}); of {same}, {percent(home.value)}."
    )


def _effects(item: SetTransfer) -> list[str]:
    told = []
    for effect in ("illusion", "drop"):
        found = [each for each in item.by_class if each.effect == effect]
        if found:
            told.append(f"{_MEANING[effect]} ({effect}): {_named(found)}.")
    open_ = [each for each in item.by_class if each.effect == "inconclusive"]
    if open_:
        told.append(f"Inconclusive: {_named(open_)}.")
    quiet = [each for each in item.by_class if each.effect == "no effect"]
    if len(quiet) == len(item.by_class):
        told.append(
            "No shortcut travels: none was found in these classes at home."
            if all(each.verdict == "no shortcut" for each in quiet)
            else "No shortcut does anything there."
        )
    return told


def _fallen(item: SetTransfer) -> list[str]:
    """Classes that lost most recall, where the loss is sure."""
    lost = sorted(item.by_class, key=lambda each: -each.drop)
    sure = [each for each in lost if each.drop >= _CLASS_FALL and each.change_interval[1] < 0]
    if not sure:
        return []
    told = ", ".join(
        f"“{each.class_name}” {percent(each.recall_home.value)} to {percent(each.recall.value)}"
        for each in sure[:_MAX_NAMED]
    )
    more = f", and {len(sure) - _MAX_NAMED} more" if len(sure) > _MAX_NAMED else ""
    return [f"Recall falls most (intervals of the difference below 0): {told}{more}."]


def _bands(item: SetTransfer) -> list[str]:
    fall = (item.accuracy_home.value or 0.0) - (item.accuracy.value or 0.0)
    if item.set.paired and fall >= _FALL:
        return [_restored(item.bands, fall)]
    other = [
        band for band in item.bands if band.power is not None and abs(band.power - 1) >= _OTHER_POWER
    ]
    if not other:
        return []
    told = ", ".join(f"{band.power:.2f} of that in the {_band(band)}" for band in other)
    return [f"Beside the audit's own images, these hold {told} (energy, DC not counted)."]


def _restored(bands: Sequence[BandChange], fall: float) -> str:
    """Which band of copies the fall comes from."""
    put = [(band, band.restored) for band in bands if band.restored is not None]
    most = max(put, key=lambda pair: pair[1].difference)
    told = ", ".join(f"the {_band(band)} {100 * pair.difference:.1f}" for band, pair in put)
    text = (
        f"Where the {100 * fall:.1f} points went: with one band of the audit's own copies put back,"
        f" so many return: {told}."
    )
    low, high = most[1].interval
    if most[1].difference >= fall / 2 and low > 0:
        moved = (
            f", where the copies differ by {percent(most[0].moved)} of its energy"
            if most[0].moved
            else ""
        )
        text += f" Most of the fall lies in the {most[0].band} band{moved}."
    elif high < fall / 2:
        text += " No band alone explains half of it."
    return text


def _band(band: BandChange) -> str:
    low, high = band.radius
    return f"{band.band} band ({low:.0f}–{high:.0f} cycles/image)"


def _named(items: Sequence[ClassTransfer]) -> str:
    ordered = sorted(items, key=lambda each: -max(each.props, each.lacks))
    shown = ", ".join(f"“{each.class_name}”" for each in ordered[:_MAX_NAMED])
    return shown + (f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else "")
