"""A result in sentences: the same words in the terminal and on the page."""

from __future__ import annotations

from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassShortcut, Rate

__all__ = ["by_excess", "class_sentence", "duration", "headline", "interval_text", "percent"]


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
