"""A result in sentences: the same words in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from shortcut_audit.report.verdict_words import verdict_sentence
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import (
    ClassMap,
    ClassShortcut,
    DominantFrequenciesFinding,
    Fidelity,
    Invitation,
    PatternRecovery,
    Rate,
)

__all__ = [
    "by_excess",
    "class_sentence",
    "data_headline",
    "duration",
    "fidelity_text",
    "headline",
    "importance_words",
    "interval_text",
    "invitation_sentence",
    "measured_sentences",
    "percent",
    "search_sentences",
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
    """What was found and what was measured: verdicts, accuracy, how many classes were searched."""
    return f"{verdict_sentence(result)} {measured_sentences(result)}"


def measured_sentences(result: AuditResult) -> str:
    """Accuracy and how many classes were searched; the class that stands out where none was judged."""
    accuracy = result.predictions.accuracy
    model, data = result.model, result.provenance.data
    items = result.shortcuts.by_class
    text = (
        f"{model.architecture} calls {percent(accuracy.value)} of {accuracy.n} images by their class"
        f" (95% interval {100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}%)."
        f" {len(items)} of {len(data.class_names)} classes were searched, each over all"
        f" {result.grid.n_orbits:,} orbits."
    )
    if any(item.verdict != "not judged" for item in items):
        return text
    return f"{text} {class_sentence(result, by_excess(result)[0])}"


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
    text += (
        " How repeatable the map is could not be measured."
        if reliability is None
        else f" The map's reliability is {reliability:.2f}."
    )
    if result.dominant_frequencies.search == "screened":
        text += f" It is a screened estimate: {fidelity_text(found.fidelity)}."
    return text


def fidelity_text(fidelity: Fidelity | None) -> str:
    """How near a screened map comes to the exact one, as was measured."""
    if fidelity is None or fidelity.rank_correlation is None or fidelity.overlap is None:
        reason = fidelity.reason if fidelity is not None and fidelity.reason else "nothing was probed"
        return f"how near it comes to the exact map was not measured ({reason})"
    return (
        f"in a random sample of {fidelity.n_orbits} orbits, probed exactly on {fidelity.n_images} images,"
        f" rank correlation {fidelity.rank_correlation:.2f}, {fidelity.overlap:.2f} of the exact top"
        " share found"
    )


def importance_words(result: AuditResult) -> str:
    """What importance means in this audit: the response to a removal, or what a joint search makes."""
    finding = result.dominant_frequencies
    if finding.response == "joint":
        return {
            "hierarchical": "gain when kept (nats)",
            "learned": "mask logit",
        }.get(finding.search, "joint score")
    response = {
        "log-odds": "log-odds drop",
        "cross-entropy": "loss increase",
        "squared-logit-change": "squared logit change",
    }[finding.response]
    kind = result.model_settings.resolution.partition(":")[0]
    # Patches and tiles that were asked for are removed whole, and share what they matter for.
    shared = f" per orbit of {kind}" if kind in ("patches", "tiles") else ""
    estimated = "estimated " if finding.search == "screened" else ""
    unit = "" if finding.response == "squared-logit-change" else " (nats)"
    return f"{estimated}{response}{shared}{unit}"


_ROUTES = {
    "exact": "Exact search: every {what} was removed from every search image, one at a time",
    "screened": "Screened search: a first-order estimate for every {what}, then exact probes where it is"
    " close",
    "hierarchical": "Hierarchical search: random masks of patches, ever finer; the best one is the map,"
    " and orbits are ranked together, not one by one",
    "learned": "Learned search: a mask by gradient descent; orbits are ranked together, not one by one",
}


def search_sentences(result: AuditResult) -> list[str]:
    """How the maps were found: route and cost, fidelity, resolution."""
    finding = result.dominant_frequencies
    resolution = result.model_settings.resolution
    unit = {"patches": "patch", "tiles": "tile"}.get(resolution.partition(":")[0])
    what = "orbit" if unit is None else f"{unit} ({resolution})"
    text = _ROUTES[finding.search].format(what=what)
    if finding.image_passes is not None:
        text += f". {finding.image_passes:,} image passes{_against_exact(result, finding)}"
    sentences = [f"{text}."]
    if finding.search_reason:
        sentences[0] += f" Taken because {finding.search_reason}."
    if finding.search == "hierarchical":
        sentences.append(
            "Reliability is over images alone: other seeds draw other masks, and those of later stages"
            " were chosen by all images, so that maps vary more than it says."
        )
    if finding.search == "screened":
        sentences.append(_fidelity_sentence(finding.by_class))
    return [*sentences, *_resolution_sentences(finding.by_class)]


def _against_exact(result: AuditResult, finding: DominantFrequenciesFinding) -> str:
    """What the exact search of all search images takes, where that is another number."""
    if result.model_settings.resolution not in ("auto", "orbits"):
        return ""
    n_search = dict(zip(result.class_names, result.provenance.data.n_search_by_class, strict=True))
    # Each image once with each orbit removed, and once as it is.
    n_images = sum(n_search[item.class_name] for item in finding.by_class)
    exact = n_images * (result.grid.n_orbits + 1)
    spent = finding.image_passes
    if not spent or finding.search == "exact":
        return ""
    times = exact / spent
    if times < 1:
        return f"; the exact search would take fewer, about {exact:,}"
    return f"; the exact search takes about {exact:,} ({times:.1f} times as many)"


def _fidelity_sentence(maps: Sequence[ClassMap]) -> str:
    measured = [
        (item, item.fidelity)
        for item in maps
        if item.fidelity is not None
        and item.fidelity.rank_correlation is not None
        and item.fidelity.overlap is not None
    ]
    if not measured:
        return f"Screened maps are estimates; {fidelity_text(maps[0].fidelity)}."
    if len(maps) == 1:
        return f"The screened map is an estimate: {fidelity_text(measured[0][1])}."
    correlation = _spread(measured, lambda own: own.rank_correlation or 0.0)
    overlap = _spread(measured, lambda own: own.overlap or 0.0)
    text = (
        "Screened maps are estimates: in random samples of orbits, probed exactly, rank correlation"
        f" {correlation}; share of the exact top share found {overlap}"
    )
    n_without = len(maps) - len(measured)
    return f"{text}; not measured for {n_without} of {len(maps)} classes." if n_without else f"{text}."


def _spread(measured: Sequence[tuple[ClassMap, Fidelity]], value: Callable[[Fidelity], float]) -> str:
    """The median over classes, and where it is lowest."""
    lowest = min(measured, key=lambda pair: value(pair[1]))
    middle = median(value(fidelity) for _, fidelity in measured)
    return f"{middle:.2f} (median; {value(lowest[1]):.2f} for “{lowest[0].class_name}”)"


def _resolution_sentences(maps: Sequence[ClassMap]) -> list[str]:
    """One sentence for each resolution but single orbits, with the reason of its first class."""
    by_name: dict[str, list[ClassMap]] = {}
    for item in maps:
        if item.resolution != "orbits":
            by_name.setdefault(item.resolution, []).append(item)
    sentences = []
    for name, items in by_name.items():
        who = "All maps are" if len(items) == len(maps) > 1 else _whose(items, len(maps))
        reasons = [item.resolution_reason or "as was asked for" for item in items]
        # A reason with numbers of its own is told of one class; the page has every other.
        example = f"“{items[0].class_name}”: " if len(set(reasons)) > 1 else ""
        mark = ":" if items[0].resolution_reason else ","
        sentences.append(f"{who} ranked by {name}{mark} {example}{reasons[0]}.")
    return sentences


def _whose(items: Sequence[ClassMap], n_maps: int) -> str:
    if len(items) == 1:
        return f"The map of “{items[0].class_name}” is"
    return f"{len(items)} of {n_maps} maps are"


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
