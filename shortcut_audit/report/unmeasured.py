"""What an audit did not measure, and why: an empty place in a report is easily taken for an all-clear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from shortcut_audit.results.audit_result import AuditResult

__all__ = ["unmeasured"]


def unmeasured(result: AuditResult) -> list[tuple[str, str]]:
    """Pairs of what was not measured and why (or what would measure it); of an audit of a model."""
    return [*_classes(result), *_maps(result), *_elsewhere(result), *_by_nature(result)]


def _classes(result: AuditResult) -> Iterator[tuple[str, str]]:
    searched = {item.class_name for item in result.dominant_frequencies.by_class}
    n_left = len(result.class_names) - len(searched)
    if n_left:
        yield (
            f"Maps and verdicts of {n_left} of {len(result.class_names)} classes",
            "only some classes were searched (`--classes`); their images serve as other images",
        )
    unjudged = [item for item in result.shortcuts.by_class if item.verdict == "not judged"]
    for reason, n_classes in Counter(item.reason for item in unjudged).most_common(5):
        yield f"Verdicts of {n_classes} class{'es' if n_classes > 1 else ''}", reason
    shown = sum(item.example is not None for item in result.shortcuts.by_class)
    n_without = len(searched) - shown
    if n_without:
        yield (
            f"Example pictures of {n_without} class{'es' if n_without > 1 else ''}",
            f"examples of {shown} were asked for (`--examples`)",
        )


def _maps(result: AuditResult) -> Iterator[tuple[str, str]]:
    finding = result.dominant_frequencies
    reasons = Counter(
        own.reason
        for item in finding.by_class
        for own in [item.reliability[finding.response]]
        if own.reason
    )
    for reason, n_maps in reasons.most_common(3):
        yield f"Reliability of {n_maps} map{'s' if n_maps > 1 else ''}", reason
    if finding.search == "screened":
        unsure = Counter(
            item.fidelity.reason if item.fidelity is not None else "nothing was probed"
            for item in finding.by_class
            if item.fidelity is None or item.fidelity.overlap is None
        )
        for reason, n_maps in unsure.most_common(3):
            told = reason or "nothing was probed"
            yield (
                f"How near {n_maps} screened map{'s come' if n_maps > 1 else ' comes'} to exact ones",
                told,
            )
    if finding.stopped:
        yield "The rest of the search", finding.stopped


def _elsewhere(result: AuditResult) -> Iterator[tuple[str, str]]:
    if result.transfer is None:
        yield "Other sets of images", "none were given (`--ood NAME=DATA`)"
    else:
        for item in result.transfer.by_set:
            if item.set.dropped:
                n_dropped = len(item.set.dropped)
                what = f"{n_dropped} class{'es' if n_dropped > 1 else ''} of {item.set.name}"
                yield what, "the label map has no class of the audit for them; listed with the set"
    if result.corruptions is None:
        yield "Corruptions", "none were asked for (`--shift jpeg:1-5`)"


def _by_nature(result: AuditResult) -> Iterator[tuple[str, str]]:
    if any(item.ladder for item in result.shortcuts.by_class):
        yield (
            "Shortcuts on strong, low orbits",
            "only orbits that hold little of an image's energy are exchanged; giving away strong ones"
            " gives away shapes. A shading can be missed",
        )
    yield (
        "Shortcuts of other kinds",
        "backgrounds, places, colours and objects that go along with a class are no frequencies",
    )
