"""`shortcut-audit report`: render the page of a finished audit again."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["report"]


def report(
    run: Path = typer.Argument(..., help="Folder of a finished audit."),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="File to write. [default: RUN/report.html]"
    ),
) -> None:
    """Write the HTML page of a finished audit (no model, data or torch needed)."""
    from shortcut_audit.report.html import write_report
    from shortcut_audit.results.store import load_result

    typer.echo(f"Page: {write_report(load_result(run), output or run)}")
