"""What a notebook shows of a result: the verdict, the classes that stand worst, one small picture.

A piece of HTML on its own: no scripts, no style sheet that reaches the rest of the notebook, nothing
fetched. Colours are the notebook's, so that it reads in light and in dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from shortcut_audit.errors import ResultError, printable
from shortcut_audit.report.figures import house_style, image_uri, png_bytes
from shortcut_audit.report.plots import Plots
from shortcut_audit.report.summary import data_headline, interval_text, percent
from shortcut_audit.report.verdict_page import paired_text
from shortcut_audit.report.verdict_words import by_verdict, number_text, verdict_sentence
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.shortcut_findings import ClassShortcut

__all__ = ["snippet"]

_MAX_ROWS, _MAX_NAME = 8, 60
# Classes of the picture; it stays within some tens of kilobytes.
_MAX_PICTURED = 12
_DPI = 90
_CELL = "padding:2px 10px 2px 0;text-align:left;border-bottom:1px solid rgba(128,128,128,.4)"
_Row = tuple[str, ...]


def snippet(result: AuditResult) -> str:
    """HTML for notebooks, under 100 KB, all of it escaped; equal results give equal text."""
    sentence = data_headline(result) if result.of_data else verdict_sentence(result)
    head, rows, n_all = _probed(result) if result.of_data else _judged(result)
    more = n_all - len(rows)
    below = [f"{more} more: <code>result.table(&quot;classes&quot;)</code>. "] if more > 0 else []
    below.append("Figures: <code>result.plot</code>; the page: <code>write_report(result, path)</code>.")
    return (
        '<div style="max-width:60em">'
        f"<p><strong>{_text(sentence)}</strong></p>"
        f"{_table(head, rows)}{_picture(result)}"
        f'<p style="opacity:.75"><small>{"".join(below)}</small></p></div>'
    )


def _text(text: str) -> str:
    return escape(printable(text), quote=True)


def _name(name: str) -> str:
    shown = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
    # Names that run from right to left leave their neighbours alone.
    return f"<bdi>{_text(shown)}</bdi>"


def _judged(result: AuditResult) -> tuple[_Row, list[_Row], int]:
    order = by_verdict(result)
    accuracy = dict(zip(result.class_names, result.predictions.accuracy_by_class, strict=True))
    head = ("class", "verdict", "turned (95% interval)", "q", "TPR / FPR of the map", "accuracy")
    rows: list[_Row] = [
        (
            _name(item.class_name),
            item.verdict,
            _turned(item),
            _text(number_text(item.q_value)),
            f"{percent(item.tpr_kept.value)} / {percent(item.fpr_kept.value)}",
            f"{percent(accuracy[item.class_name].value)} ({interval_text(accuracy[item.class_name])})",
        )
        for item in order[:_MAX_ROWS]
    ]
    return head, rows, len(order)


def _turned(item: ClassShortcut) -> str:
    if item.best is None:
        return "–"
    return f"{percent(item.best.flip_rate)} ({paired_text(item.best.flips)})"


def _probed(result: AuditResult) -> tuple[_Row, list[_Row], int]:
    head = ("class", "told by amplitudes alone", "of other images")
    if not result.spectrum_probe.results:
        return head, [], 0
    scores = result.spectrum_probe.results[0].by_class
    order = sorted(zip(result.class_names, scores, strict=True), key=lambda pair: -pair[1].over_chance)
    rows = [
        (
            _name(name),
            *(f"{percent(rate.value)} ({interval_text(rate)})" for rate in (score.recall, score.false)),
        )
        for name, score in order[:_MAX_ROWS]
    ]
    return head, rows, len(order)


def _table(head: _Row, rows: Sequence[_Row]) -> str:
    if not rows:
        return ""
    told = "".join(f'<th scope="col" style="{_CELL}">{_text(name)}</th>' for name in head)
    lines = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows
    )
    return (
        '<table style="border-collapse:collapse;background:none;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{told}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _picture(result: AuditResult) -> str:
    """The overview; on a white ground of its own, as dark letters need it."""
    try:
        with house_style():
            axes = Plots(result, Figure).overview(most=_MAX_PICTURED)
    except ResultError:
        return ""
    content = png_bytes(axes.figure.get_figure(root=True), dpi=_DPI, n_colours=64)
    return (
        f'<img src="{image_uri(content, "png")}" alt="Overview of the classes, as in the table"'
        ' style="background:#fff;padding:6px;border-radius:6px;max-width:100%;margin-top:8px">'
    )
