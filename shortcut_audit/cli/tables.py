"""The table of classes in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shortcut_audit.report.verdict_words import by_verdict, nulls_of, number_text
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.findings import ClassMap
from shortcut_audit.results.shortcut_findings import ClassShortcut, Verdict

__all__ = ["print_classes"]

MAX_ROWS = 25
_WIDE = 100
_STYLES: dict[Verdict, str] = {"shortcut": "bold red", "inconclusive": "bold yellow"}


def print_classes(console: Console, result: AuditResult) -> None:
    """Print the classes, shortcuts first, then what is open, then the rest, each by falling score."""
    screened = result.dominant_frequencies.search == "screened"
    maps = {item.class_name: item for item in result.dominant_frequencies.by_class}
    accuracy = dict(zip(result.class_names, result.predictions.accuracy_by_class, strict=True))
    order = by_verdict(result)
    judged = any(item.ladder for item in order)
    wide = console.width >= _WIDE
    table = Table(
        title=_title(judged, screened),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0) if wide else 0,
        pad_edge=False,
        show_edge=False,
        expand=False,
    )
    for column in _columns(judged, screened):
        if column == "class":
            # A name gives way to numbers: it is told again below, and on the page.
            table.add_column(column, overflow="fold", max_width=24)
        else:
            left = column == "verdict"
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for item in order[:MAX_ROWS]:
        found = maps[item.class_name]
        reliability = _reliability(found, result.dominant_frequencies.response, screened)
        table.add_row(
            Text(item.verdict, style=_STYLES.get(item.verdict, "")),
            Text(item.class_name),
            _with_interval(accuracy[item.class_name].value, accuracy[item.class_name], wide),
            *(_tests(item, wide) if judged else ()),
            f"{_whole(item.tpr_kept.value).rstrip('%')} / {_whole(item.fpr_kept.value)}",
            reliability,
            f"{item.n_judge}",
        )
    console.print(table)
    if len(order) > MAX_ROWS:
        console.print(f"... and {len(order) - MAX_ROWS} more classes, on the page and in the export.")


def _title(judged: bool, screened: bool) -> str:
    lines = ["TPR / FPR: own and other images called by the class when only its map is kept"]
    if judged:
        lines.insert(0, "nulls: the same orbits of other images, random orbits of the same radii")
        lines.insert(0, "turned: other images called by the class once given its orbits, over before")
    if screened:
        lines.append("fidelity: share found of the exact top share; n: judgement images of the class")
    else:
        lines.append("n: judgement images of the class")
    return "\n".join(lines)


def _columns(judged: bool, screened: bool) -> list[str]:
    tests = ["turned", "nulls", "q"] if judged else []
    reliability = "reliability\n/ fidelity" if screened else "reliability"
    return ["verdict", "class", "accuracy", *tests, "TPR / FPR", reliability, "n"]


def _tests(item: ClassShortcut, wide: bool) -> tuple[str, str, str]:
    """What the best rung turns, what the nulls turn, and q."""
    best = item.best
    if best is None:
        return ("–", "–", "–")
    nulls = ", ".join(_whole(null) for null in nulls_of(item)) or "–"
    return (_with_interval(best.flip_rate, best.flips, wide), nulls, number_text(item.q_value))


def _reliability(found: ClassMap, response: str, screened: bool) -> str:
    value = found.reliability[response].value  # type: ignore[index]
    text = f"{value:.2f}" if value is not None else "–"
    if not screened:
        return text
    fidelity = found.fidelity
    known = fidelity is not None and fidelity.overlap is not None
    return f"{text} / {fidelity.overlap:.2f}" if fidelity and known else f"{text} / –"


def _whole(value: float | None) -> str:
    """A share in whole percent, or a dash."""
    return "–" if value is None else f"{100 * value:.0f}%".replace("-0%", "0%")


def _with_interval(value: float | None, of: Rate | Paired, wide: bool) -> str:
    """A share with its 95% interval where there is room for it."""
    if not wide:
        return _whole(value)
    low, high = of.interval if isinstance(of, Paired) else (of.low, of.high)
    return f"{_whole(value)} ({100 * low:.0f}-{100 * high:.0f})"
