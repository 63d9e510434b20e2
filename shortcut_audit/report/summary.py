"""A result in sentences: the same words in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassShortcut, Invitation, PatternRecovery, Rate

__all__ = [
    "by_excess",
    "class_sentence",
    "data_headline",
    "duration",
    "headline",
    "interval_text",
    "invitation_sentence",
    "percent",
    "truth_sentences",
]


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash where it was not measured."""
    return "–" if value is None else f"{100 * value:.1f}%"


def interval_text(rate: Rate) -> str:
    """The interval of a rate and its n: `78.0–98.1, n 29`."""
    if rate.n == 0:
        return "not measured, n 0"
    return f"{100 * rate.low:.1f}–{100 * rate.high:.1f}, n {rate.n}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def by_excess(result: AuditResult) -> list[ClassShortcut]:
    """Classes by falling J = TPR - FPR under their own map; what deserves a look comes first."""
    return sorted(
        result.shortcuts.by_class,
        key=lambda item: (item.fpr_kept.value or 0) - (item.tpr_kept.value or 0),
    )


def headline(result: AuditResult) -> str:
    """What was measured and what stands out, in two or three sentences."""
    accuracy = result.predictions.accuracy
    model, data = result.model, result.provenance.data
    n_maps = len(result.shortcuts.by_class)
    return (
        f"{model.architecture} calls {percent(accuracy.value)} of {accuracy.n} images by their class"
        f" (95% interval {100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}%)."
        f" {n_maps} of {len(data.class_names)} classes were searched, each over all"
        f" {result.grid.n_orbits:,} orbits. {class_sentence(result, by_excess(result)[0])}"
    )


def class_sentence(result: AuditResult, item: ClassShortcut) -> str:
    """What keeping only a class's map does, with the caution it needs."""
    found = next(m for m in result.dominant_frequencies.by_class if m.class_name == item.class_name)
    reliability = found.reliability[result.dominant_frequencies.response].value
    text = (
        f"With only the {percent(found.kept_share)} of the spectrum that matters most to"
        f" “{item.class_name}”, {percent(item.tpr_kept.value)} of its own images are still called"
        f" “{item.class_name}”, and so are {percent(item.fpr_kept.value)} of all others."
    )
    own, foreign = item.tpr_kept.value or 0, item.fpr_kept.value or 0
    if foreign > 0.1 and foreign >= own / 2:
        text += " With so many other images called the same, this says little about the class itself."
    if reliability is None:
        return f"{text} How repeatable the map is could not be measured."
    return f"{text} The map's reliability is {reliability:.2f}."


def data_headline(result: AuditResult) -> str:
    """What the images alone say, in two or three sentences."""
    items, probe = result.invitations.items, result.spectrum_probe
    n_classes = len(result.class_names)
    text = f"{result.provenance.data.n_used:,} images of {n_classes} classes."
    if probe.results:
        whole = probe.results[0]
        text += (
            f" Amplitudes alone, without any phase, tell a linear classifier the class of"
            f" {percent(whole.balanced_accuracy)} of images it has not seen (blind guessing:"
            f" {percent(probe.chance)})."
        )
    pairs = {(item.class_name, item.band) for item in items}
    if not pairs:
        return f"{text} No band stands out in any class: nothing in the spectra invites a shortcut."
    classes = {name for name, _ in pairs}
    return (
        f"{text} {len(pairs)} class-band pair{'s' if len(pairs) > 1 else ''} in"
        f" {len(classes)} class{'es' if len(classes) > 1 else ''} invite{'' if len(pairs) > 1 else 's'} a"
        " shortcut:"
    )


def invitation_sentence(item: Invitation) -> str:
    """One invitation, with what a reader needs to judge it."""
    low, high = item.radius
    radius = f"radius {low:.1f}" if high - low < 0.05 else f"radius {low:.1f}–{high:.1f}"
    if item.evidence == "probe":
        return (
            f"“{item.class_name}”, band {item.band} ({radius} cycles): its amplitudes tell the class"
            f" ({100 * (item.over_chance or 0):.0f} points over chance), and those of no other band do."
        )
    shown = ", ".join(f"({u}, {v})" for u, v in item.orbits[:4])
    more = f" and {item.n_orbits - 4} more" if item.n_orbits > 4 else ""
    where = {
        "orbits": f"wave{'s' if item.n_orbits > 1 else ''} {shown}{more}",
        "block grid": f"lines of a block grid, {shown}{more}",
        "ring": f"all directions, {item.n_orbits} orbits",
    }[item.evidence]
    return (
        f"“{item.class_name}”, band {item.band} ({radius} cycles): {where}; as if a pattern of"
        f" {item.amplitude:.1f}/255 an orbit had been added; tells a single image from other classes with"
        f" AUC {item.auc:.2f} ({item.auc_low:.2f}–{item.auc_high:.2f}); z {item.z:.1f}."
    )


def truth_sentences(result: AuditResult) -> list[str]:
    """What is known of the set, and whether the audit found it; nothing where nothing is known."""
    truth = result.truth
    if truth is None:
        return []
    if truth.reason:
        return [f"The truth of this set ({truth.name}) was not compared: {truth.reason}."]
    sentences = [_recovery(each) for each in truth.by_pattern if each.expected]
    sentences += _not_to_blame(truth.by_pattern, len(result.class_names))
    if truth.false_names:
        named = ", ".join(f"“{name}” band {band}" for name, band in truth.false_names)
        sentences.append(f"Named, and not planted: {named}.")
    elif truth.false_names is not None:
        sentences.append("Nothing was named that was not planted.")
    return sentences


def _not_to_blame(patterns: Sequence[PatternRecovery], n_classes: int) -> list[str]:
    """Decoys and casts, one sentence a pattern, whatever the number of classes."""
    by_name: dict[str, list[str]] = {}
    for each in patterns:
        if not each.expected:
            by_name.setdefault(each.pattern, []).append(f"“{each.class_name}”")
    sentences = []
    for pattern, names in by_name.items():
        who = "all classes" if len(names) == n_classes else ", ".join(names)
        sentences.append(f"Planted in {who}: {pattern}; no orbit tells a class by it.")
    return sentences


def _recovery(each: PatternRecovery) -> str:
    what = f"Planted in “{each.class_name}”: {each.pattern}"
    if each.bands_found is not None:
        bands = ", ".join(str(band) for band in each.bands)
        found = ", ".join(str(band) for band in each.bands_found) or "none"
        return f"{what}, band {bands}; named: {found}."
    if each.ranks is None:
        return f"{what}; the class was not searched."
    ranks = ", ".join(str(rank) for rank in each.ranks[:6]) + (", ..." if len(each.ranks) > 6 else "")
    return (
        f"{what}; {each.n_in_map} of its {each.n_orbits} orbits are in the class's map"
        f" (rank{'s' if len(each.ranks) > 1 else ''} {ranks})."
    )
