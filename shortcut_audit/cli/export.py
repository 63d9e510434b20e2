"""`shortcut-audit export`: tidy tables of a finished audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shortcut_audit.errors import SettingsError

if TYPE_CHECKING:
    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["export"]


def export(
    run: Path = typer.Argument(..., help="Folder of a finished audit."),
    table: str = typer.Option(
        "classes", "--table", help="classes, ladder, orbits, bands, corruptions or transfer."
    ),
    format: str = typer.Option("csv", "--format", help="csv, json or parquet."),  # noqa: A002
    output: Path | None = typer.Option(
        None, "--output", "-o", help="File to write. [default: standard output; parquet needs one]"
    ),
) -> None:
    """Export a table: classes (one row a class), orbits (a row a class and orbit), bands, ladder, ..."""
    from shortcut_audit.results.export import EXPORTERS
    from shortcut_audit.results.store import load_result

    if format not in EXPORTERS:
        raise SettingsError(f"There is no format {format!r}.", f"Formats are: {', '.join(EXPORTERS)}.")
    if format == "parquet" and output is None and sys.stdout.isatty():
        raise SettingsError("Parquet is binary and would garble the terminal.", "Give --output FILE.")
    _write(load_result(run), table, format, output)


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
