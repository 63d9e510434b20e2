"""What to do after an audit: a few steps that fit what was found, with the commands that take them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from shortcut_audit.report.verdict_words import by_verdict
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.shortcut_findings import ClassShortcut, Extent

__all__ = ["next_steps"]

_MAX_NAMED = 3
_RELIABLE = 0.5


def next_steps(result: AuditResult) -> list[str]:
    """Steps in the order in which they are worth taking; commands stand in `backticks`."""
    if result.of_data:
        return list(_after_data(result))
    order = by_verdict(result)
    shortcuts = [item for item in order if item.verdict == "shortcut"]
    still_open = [item for item in order if item.verdict == "inconclusive"]
    steps = [*_after_shortcuts(result, shortcuts), *_after_open(result, still_open)]
    steps += _after_maps(result)
    if not shortcuts:
        steps += _elsewhere(result)
    return [*steps, _keep_watch(bool(shortcuts))]


def _after_shortcuts(result: AuditResult, items: Sequence[ClassShortcut]) -> Iterator[str]:
    if not items:
        return
    worst = items[0]
    data = _data(result)
    yield (
        f"Look at where the images of {_named(items)} come from: a camera, a compression, a resizing, a"
        " watermark or a background texture that other classes lack is what leaves such a cue."
        f" `shortcut-audit data {data} --out LOOK` says which bands stand out before any model."
    )
    if result.transfer is None:
        yield (
            "Ask whether it travels: images of the same classes from another source show whether the"
            " shortcut props the score up there, or fails. Add `--ood NAME=DATA` to the audit."
        )
    if worst.extent is not None:
        mask = shlex.quote(_mask(worst.extent))
        yield (
            f"Train without the cue, and look again. Copies without the frequencies of"
            f" “{_plain(worst.class_name)}”:"
            f" `shortcut-audit filter --data {data} --remove {mask} --out COPIES`."
            " Copies of the class alone would leave a cue of another kind: filter all classes. Then"
            " `shortcut-audit compare RUN NEW-RUN -o compare.html` says what got better, and what worse."
        )


def _mask(extent: Extent) -> str:
    """The mask that takes a shortcut away, as `shortcut-audit filter` reads it."""
    if extent.narrow and extent.n_orbits <= len(extent.orbits):
        return "orbits:" + ",".join(f"({u},{v})" for u, v in extent.orbits)
    low, high = extent.radius
    # A hair on both sides: masks of radii leave the upper end out, and a ring has some width.
    return f"radius:{max(0.0, low - 0.5):g}-{high + 0.5:g}"


def _after_open(result: AuditResult, items: Sequence[ClassShortcut]) -> Iterator[str]:
    if not items:
        return
    needed = next((item.needed for item in items if item.needed), "")
    told = (
        f" “{_plain(items[0].class_name)}”: {_plain(needed)}"
        if items[0].needed
        else f" {_plain(needed)}"
        if needed
        else ""
    )
    verb = "is" if len(items) == 1 else "are"
    yield f"{_named(items)} {verb} inconclusive, which is no all-clear: give more images.{told}"
    if any("colour" in item.confounds for item in items):
        yield (
            "Mean colour alone turns images into some of these classes. That is a cue too, though none of"
            " frequency: see the class's card."
        )


def _after_maps(result: AuditResult) -> Iterator[str]:
    finding = result.dominant_frequencies
    values = [item.reliability[finding.response].value for item in finding.by_class]
    low = [value for value in values if value is not None and value < _RELIABLE]
    if low:
        enough = [item.n_images_enough for item in finding.by_class if item.n_images_enough is not None]
        more = f" About {max(enough):,} search images a class would be enough." if enough else ""
        yield (
            f"Do not read single orbits off {len(low)} of {len(values)} maps: they repeat poorly on other"
            f" images (reliability below {_RELIABLE}).{more} Verdicts rest on tests of their own."
        )


def _elsewhere(result: AuditResult) -> Iterator[str]:
    missing = []
    if result.transfer is None:
        missing.append("`--ood NAME=DATA` (other images of the same classes)")
    if result.corruptions is None:
        missing.append("`--shift jpeg:1-5` (corrupted copies)")
    if missing:
        yield (
            "No shortcut found here is no proof that there is none: what hardly turns other images of"
            f" this set may still fail on others. Add {' and '.join(missing)} to the audit."
        )


def _keep_watch(debts: bool) -> str:
    known = ", with what is known today as debts" if debts else ""
    return (
        "Keep watch: `shortcut-audit gate init RUN -o gate.toml` freezes these findings into a"
        f" policy{known}; `shortcut-audit gate check RUN` fails where a later model is worse."
    )


def _after_data(result: AuditResult) -> Iterator[str]:
    data = _data(result)
    yield (
        "Ask a model whether it takes what stands out for the class:"
        f" `shortcut-audit audit --model MODEL --data {data} --out RUN`."
    )
    if result.invitations.items:
        yield (
            "To take the temptation away, look where the images of the class come from (camera,"
            " compression, resizing, watermark), or train on copies without the band:"
            " `shortcut-audit filter`."
        )


def _data(result: AuditResult) -> str:
    """The images as a command takes them, with all of their splits: a model is not trained on what it is
    judged by. DATA where they were not named on a command line, or cannot stand in a sentence."""
    spec = result.provenance.data.spec.partition("::")[0]
    named = result.provenance.command.startswith("shortcut-audit")
    return shlex.quote(spec) if named and spec.isprintable() and "`" not in spec else "DATA"


def _plain(text: str) -> str:
    """A name in a sentence in which backticks mark commands."""
    return text.replace("`", "’")


def _named(items: Sequence[ClassShortcut]) -> str:
    names = [f"“{_plain(item.class_name)}”" for item in items[:_MAX_NAMED]]
    more = len(items) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
