"""`shortcut-audit export`: tidy tables and figures of a finished audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shortcut_audit.errors import SettingsError

if TYPE_CHECKING:
    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["export"]

_TABLE, _FIGURE_FORMATS = "classes", "png"


def export(
    run: Path = typer.Argument(..., help="Folder of a finished audit."),
    table: str | None = typer.Option(
        None,
        "--table",
        help="classes, ladder, orbits, bands, corruptions or transfer."
        f" [default: {_TABLE}; none with --figures]",
    ),
    format: str = typer.Option("csv", "--format", help="csv, json or parquet."),  # noqa: A002
    output: Path | None = typer.Option(
        None, "--output", "-o", help="File to write. [default: standard output; parquet needs one]"
    ),
    figures: Path | None = typer.Option(
        None, "--figures", help="Folder for all figures, with an index.csv that says which is what."
    ),
    figure_format: str | None = typer.Option(
        None, "--figure-format", help=f"png, svg, pdf, or several: png,pdf. [default: {_FIGURE_FORMATS}]"
    ),
    class_names: list[str] | None = typer.Option(
        None, "--class", help="Class whose figures to write; may be repeated. [default: all figures]"
    ),
) -> None:
    """Export a table: classes (one row a class), orbits (a row a class and orbit), bands, ladder, ...

    With --figures: every figure as a file for papers.
    """
    from shortcut_audit.results.export import EXPORTERS
    from shortcut_audit.results.store import load_result, require_no_run_file

    if figures is None and (figure_format is not None or class_names):
        raise SettingsError("--figure-format and --class are of figures.", "Give --figures DIR.")
    if format not in EXPORTERS:
        raise SettingsError(f"There is no format {format!r}.", f"Formats are: {', '.join(EXPORTERS)}.")
    require_no_run_file(output)
    with_table = figures is None or table is not None or output is not None
    if with_table and format == "parquet" and output is None and sys.stdout.isatty():
        raise SettingsError("Parquet is binary and would garble the terminal.", "Give --output FILE.")
    result = load_result(run)
    if figures is not None:
        _write_figures(result, figures, figure_format or _FIGURE_FORMATS, class_names or None)
    if with_table:
        _write(result, table or _TABLE, format, output)


def _write_figures(
    result: AuditResult, folder: Path, format_names: str, class_names: list[str] | None
) -> None:
    from shortcut_audit.report.figure_files import INDEX_FILE, figure_formats, save_figures

    files = save_figures(result, folder, figure_formats(format_names), class_names)
    n = len(files) - 1
    # A table may go to standard output.
    typer.echo(f"Figures: {n} file{'s' if n != 1 else ''}, listed in {folder / INDEX_FILE}", err=True)


def _write(result: AuditResult, table: str, format_name: str, output: Path | None) -> None:
    from shortcut_audit.results.export import EXPORTERS
    from shortcut_audit.results.store import written_aside

    if output is None:
        EXPORTERS[format_name](result, table, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with written_aside(output) as stream:
        EXPORTERS[format_name](result, table, stream)
    typer.echo(f"Table: {output}", err=True)
