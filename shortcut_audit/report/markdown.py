"""A result as Markdown: for pull requests, and for model cards with their metadata.

GitHub's dialect. Names and paths are the user's: nothing in them becomes a link, a mention, a
reference, a formula, HTML or part of a table.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from shortcut_audit.errors import printable
from shortcut_audit.report.next_steps import next_steps
from shortcut_audit.report.summary import (
    data_headline,
    duration,
    interval_text,
    invitation_sentence,
    measured_sentences,
    percent,
)
from shortcut_audit.report.unmeasured import unmeasured
from shortcut_audit.report.verdict_words import (
    by_verdict,
    nulls_of,
    number_text,
    reasons,
    verdict_sentence,
)
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.shortcut_findings import ClassShortcut

__all__ = ["card_metadata", "code", "escaped", "markdown_summary"]

# Classes of the table, and reasons and invitations below it: a summary is read to its end.
_MAX_ROWS, _MAX_REASONS, _MAX_INVITATIONS = 10, 5, 10
# Of a name in a table.
_MAX_NAME = 60
# Breaks what GitHub would take for a mention, a reference, a link or an emoji; nobody sees it.
_BREAK = "\u200b"
# What is found in the finished text, escaped or not: @name, #123, GH-123, http://, www. and :emoji:. The
# hash of an entity is none.
_FOUND = re.compile(
    r"(@|(?<!&)#|\bGH-|\bwww(?=\.)|\b(?:mailto|xmpp):|:(?=//)|:(?=[\w+-]+:))(?=\S)", re.IGNORECASE
)
# At the start of a line these would begin a list, a heading or a line across.
_OPENING = re.compile(r"^(?:(\d+)([.)])(?=\s|$)|()([-+=]))")
_MARKS = {
    **{letter: f"&#{ord(letter)};" for letter in "|\\`$"},
    **{letter: f"\\{letter}" for letter in "*_~[]#"},
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}
# Joiners belong to letters and emoji; other characters without a width steer the text around them.
_JOINERS = "\u200c\u200d"


def markdown_summary(result: AuditResult, model_card: bool = False) -> str:
    """The audit in a page of Markdown: the verdict first, then the worst classes, what was not measured,
    next steps and provenance; equal results give equal text.

    `model_card`: with the metadata of a Hugging Face model card on top. Raises ResultError for that of
    an audit of data alone.
    """
    head = _front_matter(card_metadata(result)) if model_card else []
    body = _of_data(result) if result.of_data else _of_model(result)
    return "\n".join([*head, *body]) + "\n"


def escaped(text: str) -> str:
    """`text` as Markdown that shows it as it is, in one line."""
    return _OPENING.sub(r"\1\3\\\2\4", _inside(_one_line(text)))


def _inside(text: str) -> str:
    """The same for a part of a line."""
    return _FOUND.sub(rf"\1{_BREAK}", "".join(_MARKS.get(letter, letter) for letter in text))


def code(text: str) -> str:
    """`text` in backticks, however many it has itself, in one line; not for tables."""
    text = _one_line(text)
    if not text:
        return "` `"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    padded = f" {text} " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else text
    return f"{fence}{padded}{fence}"


def _one_line(text: str) -> str:
    """`text` with line breaks as spaces, and with what steers other text around it spelt out."""
    return _visible(text).strip()


def _visible(text: str) -> str:
    return "".join(
        " " if letter.isspace() else _spelt(letter) if _steers(letter) else letter
        for letter in printable(text)
    )


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf") and letter not in _JOINERS


def _spelt(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _with_code(text: str) -> str:
    """A sentence of ours, escaped but for the commands that stand in it in `backticks`."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        # A name has a backtick: which of them are ours cannot be told.
        return escaped(text)
    told = [code(part) if place % 2 else _inside(_visible(part)) for place, part in enumerate(parts)]
    return "".join(told).strip()


def _of_model(result: AuditResult) -> list[str]:
    order = by_verdict(result)
    told, n_more = reasons(result, _MAX_REASONS)
    lines = [
        f"## Frequency shortcuts of {escaped(result.model.architecture)}",
        "",
        f"**{escaped(verdict_sentence(result))}**",
        "",
        escaped(measured_sentences(result)),
        "",
        *_table_of_classes(result, order),
    ]
    if told:
        lines += ["### Why", ""]
        lines += [f"- {escaped(_named(item))}: {escaped(reason)}" for item, reason in told]
        lines += [f"- {n_more} more in the report."] if n_more else []
        lines += [""]
    lines += ["### Not measured", ""]
    lines += [f"- {escaped(what)}: {_with_code(why)}" for what, why in unmeasured(result)]
    return [*lines, "", *_end(result)]


def _named(item: ClassShortcut) -> str:
    return f"“{_shortened(item.class_name)}” ({item.verdict})"


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _table_of_classes(result: AuditResult, order: Sequence[ClassShortcut]) -> Iterator[str]:
    accuracy = dict(zip(result.class_names, result.predictions.accuracy_by_class, strict=True))
    yield "| class | verdict | score | turned | by nulls | q | accuracy |"
    yield "| --- | --- | ---: | --- | ---: | ---: | --- |"
    for item in order[:_MAX_ROWS]:
        own = accuracy[item.class_name]
        cells = (
            escaped(_shortened(item.class_name)),
            f"**{item.verdict}**" if item.verdict == "shortcut" else item.verdict,
            percent(item.score),
            "–" if item.best is None else _share(item.best.flip_rate, item.best.flips),
            ", ".join(percent(null) for null in nulls_of(item)) or "–",
            escaped(number_text(item.q_value)),
            f"{percent(own.value)} ({interval_text(own)})",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    n_more = len(order) - _MAX_ROWS
    if n_more > 0:
        yield f"{n_more} more classes stand no worse."
        yield ""
    yield (
        "turned: share of other images called by the class once they hold its orbits, over before, with"
        " 95% interval and n; by nulls: the same orbits of other images, random orbits of the same radii."
    )
    yield ""


def _share(value: float, pair: Paired) -> str:
    low, high = pair.interval
    return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f}, n {pair.n})"


def _of_data(result: AuditResult) -> list[str]:
    items = result.invitations.items
    lines = [
        "## Frequency shortcuts that the images invite",
        "",
        f"**{escaped(data_headline(result))}**",
        "",
    ]
    lines += [f"- {escaped(invitation_sentence(item))}" for item in items[:_MAX_INVITATIONS]]
    if len(items) > _MAX_INVITATIONS:
        lines.append(f"- {len(items) - _MAX_INVITATIONS} more in the report.")
    lines += [""] if items else []
    lines += [*_table_of_probe(result), "### Not measured", ""]
    if result.spectrum_probe.reason:
        lines.append(f"- The spectrum-only probe: {escaped(result.spectrum_probe.reason)}")
    lines.append("- Any model: whether one takes what stands out for a class is another audit.")
    return [*lines, "", *_end(result)]


def _table_of_probe(result: AuditResult) -> Iterator[str]:
    if not result.spectrum_probe.results:
        return
    whole = result.spectrum_probe.results[0]
    pairs = sorted(
        zip(result.class_names, whole.by_class, strict=True), key=lambda pair: -pair[1].over_chance
    )
    yield "| class | told by amplitudes alone | of other images | over chance |"
    yield "| --- | --- | --- | ---: |"
    for name, score in pairs[:_MAX_ROWS]:
        own, false = (
            f"{percent(rate.value)} ({interval_text(rate)})" for rate in (score.recall, score.false)
        )
        yield f"| {escaped(_shortened(name))} | {own} | {false} | {100 * score.over_chance:.0f} points |"
    yield ""
    if len(pairs) > _MAX_ROWS:
        yield f"{len(pairs) - _MAX_ROWS} more classes are told no better."
        yield ""


def _end(result: AuditResult) -> Iterator[str]:
    """Notes, next steps and provenance."""
    if result.notes or result.skipped:
        yield from ("### Before trusting a number", "")
        yield from (f"- {escaped(note)}" for note in result.notes)
        n = len(result.skipped)
        if n:
            yield f"- {n} image{'s were' if n > 1 else ' was'} left out as unreadable."
        yield ""
    yield from ("### Next steps", "")
    yield from (
        f"{number}. {_with_code(step)}" for number, step in enumerate(next_steps(result), start=1)
    )
    yield from ("", "### Provenance", "")
    data, model = result.provenance.data, result.provenance.model
    if model is not None:
        yield f"- model: {code(model.spec)}, digest {code(model.digest[:16])}"
    yield (
        f"- data: {code(data.spec)}, {data.n_used:,} of {data.n_available:,} images,"
        f" {len(data.class_names)} classes, digest {code(data.digest[:16])}"
    )
    version = result.provenance.versions.get("shortcut-audit", "of unknown version")
    yield (
        f"- shortcut-audit {code(version)}, seed {result.provenance.seed},"
        f" {result.image_passes:,} image passes,"
        f" {duration(result.timing.measuring_seconds)} of measuring"
    )
    yield f"- command: {code(result.provenance.command)}"


def card_metadata(result: AuditResult) -> dict[str, Any]:
    """Metadata of a Hugging Face model card: tags, library, and `model-index` with what was measured.

    Raises ResultError for an audit of data alone.
    """
    model = result.model
    items = result.shortcuts.by_class
    turned = [item.best.flip_rate for item in items if item.best is not None]
    metrics = [_metric("accuracy", "Accuracy", result.predictions.accuracy.value)]
    judged = [item for item in items if item.verdict != "not judged"]
    if judged:
        counts = {verdict: sum(i.verdict == verdict for i in judged) for verdict in _COUNTED}
        metrics += [_metric(kind, name, counts[v]) for v, (kind, name) in _COUNTED.items()]
        metrics.append(_metric("judged_classes", "Classes judged", len(judged)))
    if turned:
        told = "Worst flip rate (other images turned into a class by its orbits)"
        metrics.append(_metric("worst_flip_rate", told, round(max(turned), 6)))
    results = [_card_result(result.provenance.data.spec, "", [m for m in metrics if m is not None])]
    for each in result.transfer.by_set if result.transfer is not None else ():
        there = _metric("accuracy", "Accuracy", each.accuracy.value)
        if there is not None:
            results.append(_card_result(each.set.spec, each.set.name, [there]))
    return {
        "library_name": _library(model.spec),
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "frequency-shortcuts", "shortcut-learning", "shortcut-audit"],
        "model-index": [{"name": _one_line(model.architecture) or "model", "results": results}],
    }


_COUNTED = {
    "shortcut": ("shortcut_classes", "Classes that hang on a frequency shortcut"),
    "inconclusive": ("inconclusive_classes", "Classes with an open verdict"),
}


def _metric(kind: str, name: str, value: float | None) -> dict[str, Any] | None:
    return None if value is None else {"type": kind, "name": name, "value": value}


def _card_result(spec: str, name: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    # Paths say where a file lay on one machine; its name says what it is.
    plain = name or re.split(r"[/\\]", spec.partition("::")[0].rstrip("/\\"))[-1]
    kind = re.sub(r"[^a-z0-9._-]+", "-", plain.lower()).strip("-.") or "images"
    return {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"name": _one_line(plain) or "images", "type": kind},
        "metrics": metrics,
    }


def _library(spec: str) -> str:
    """What loads the model: as far as its name says."""
    if spec.startswith(("timm:", "hf-hub:", "hf_hub:", "local-dir:")):
        return "timm"
    return "onnx" if spec.lower().endswith(".onnx") else "pytorch"


def _front_matter(metadata: dict[str, Any]) -> list[str]:
    return ["---", *_yaml(metadata), "---", ""]


def _yaml(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A mapping as YAML; texts are quoted, whatever they are."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{key}:"
            yield from _yaml(item, f"{indent}  ")
        elif isinstance(item, list):
            yield f"{indent}{key}:"
            for each in item:
                lines = list(_yaml(each, "")) if isinstance(each, dict) else [_scalar(each)]
                yield f"{indent}  - {lines[0]}"
                yield from (f"{indent}    {line}" for line in lines[1:])
        else:
            yield f"{indent}{key}: {_scalar(item)}"


def _scalar(value: Any) -> str:
    """A text in double quotes, or a number: JSON, but with letters as they are, and others YAML's way."""
    # JSON writes what lies beyond 16 bits in halves, which YAML does not put together again.
    written = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in written)
