"""The table of classes in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shortcut_audit.report.summary import by_excess, percent
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import Fidelity, Rate

__all__ = ["print_classes"]

MAX_ROWS = 25


def print_classes(console: Console, result: AuditResult) -> None:
    """Print the classes, highest TPR - FPR under their own map first."""
    screened = result.dominant_frequencies.search == "screened"
    maps = {item.class_name: item for item in result.dominant_frequencies.by_class}
    accuracy = dict(zip(result.class_names, result.predictions.accuracy_by_class, strict=True))
    response = result.dominant_frequencies.response
    table = Table(
        title="TPR and FPR with only the map kept; 95% intervals; own + other images"
        + ("\nfidelity: rank correlation / share found of the exact top share" if screened else ""),
        title_justify="left",
        expand=False,
    )
    columns = ["class", "accuracy", "TPR", "FPR", "reliability", "judged on"]
    if screened:
        columns.insert(5, "fidelity")
    for column in columns:
        table.add_column(column, justify="left" if column == "class" else "right", min_width=len(column))
    order = by_excess(result)
    for item in order[:MAX_ROWS]:
        reliability = maps[item.class_name].reliability[response].value
        cells = [
            _short(accuracy[item.class_name]),
            _short(item.tpr_kept),
            _short(item.fpr_kept),
            f"{reliability:.2f}" if reliability is not None else "not measured",
            f"{item.tpr_kept.n} + {item.fpr_kept.n}",
        ]
        if screened:
            cells.insert(4, _fidelity(maps[item.class_name].fidelity))
        table.add_row(Text(item.class_name), *cells)
    console.print(table)
    if len(order) > MAX_ROWS:
        console.print(f"... and {len(order) - MAX_ROWS} more classes, on the page and in the export.")


def _fidelity(fidelity: Fidelity | None) -> str:
    if fidelity is None or fidelity.rank_correlation is None or fidelity.overlap is None:
        return "not measured"
    return f"{fidelity.rank_correlation:.2f} / {fidelity.overlap:.2f}"


def _short(rate: Rate) -> str:
    return f"{percent(rate.value)} ({100 * rate.low:.0f}-{100 * rate.high:.0f})"
