"""The table of classes in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shortcut_audit.report.summary import by_excess, percent
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import Rate

__all__ = ["print_classes"]

MAX_ROWS = 25


def print_classes(console: Console, result: AuditResult) -> None:
    """Print the classes, highest TPR - FPR under their own map first."""
    maps = {item.class_name: item for item in result.dominant_frequencies.by_class}
    accuracy = dict(zip(result.class_names, result.predictions.accuracy_by_class, strict=True))
    response = result.dominant_frequencies.response
    table = Table(
        title="TPR and FPR with only the map kept; 95% intervals; own + other images",
        title_justify="left",
        expand=False,
    )
    for column in ("class", "accuracy", "TPR", "FPR", "reliability", "judged on"):
        table.add_column(column, justify="left" if column == "class" else "right")
    order = by_excess(result)
    for item in order[:MAX_ROWS]:
        reliability = maps[item.class_name].reliability[response].value
        table.add_row(
            Text(item.class_name),
            _short(accuracy[item.class_name]),
            _short(item.tpr_kept),
            _short(item.fpr_kept),
            f"{reliability:.2f}" if reliability is not None else "not measured",
            f"{item.tpr_kept.n} + {item.fpr_kept.n}",
        )
    console.print(table)
    if len(order) > MAX_ROWS:
        console.print(f"... and {len(order) - MAX_ROWS} more classes, on the page and in the export.")


def _short(rate: Rate) -> str:
    return f"{percent(rate.value)} ({100 * rate.low:.0f}-{100 * rate.high:.0f})"
