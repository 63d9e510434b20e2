"""`shortcut-audit report`: render the page of a finished audit again, or its summary as Markdown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shortcut_audit.errors import SettingsError

if TYPE_CHECKING:
    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["report"]


def report(
    run: Path = typer.Argument(..., help="Folder of a finished audit, or its page."),
    output: Path | None = typer.Option(
        None,
        "--output",
        "-o",
        help="Page to write. [default: RUN/report.html, of a page that page; none with --markdown]",
    ),
    markdown: str | None = typer.Option(
        None,
        "--markdown",
        help="Write a summary for pull requests and model cards to this file; - is standard output.",
    ),
    model_card: bool = typer.Option(
        False, "--model-card", help="With --markdown: metadata of a Hugging Face model card on top."
    ),
) -> None:
    """Write the HTML page of a finished audit, or a summary (no model, data or torch needed)."""
    from shortcut_audit.report.embedding import read_run
    from shortcut_audit.report.html import write_again
    from shortcut_audit.results.store import require_no_run_file

    if model_card and markdown is None:
        raise SettingsError("A model card is written in Markdown.", "Give --markdown FILE too.")
    summary = None if markdown in (None, "-") else Path(str(markdown))
    require_no_run_file(output, summary)
    if summary is not None and summary.resolve() in (
        run.resolve(),
        *([output.resolve()] if output else []),
    ):
        raise SettingsError("The summary would be written over the page.", "Name another file.")
    if markdown is not None:
        _write_markdown(read_run(run), markdown, model_card)
    if markdown is None or output is not None:
        # Standard output may hold the summary.
        typer.echo(f"Page: {write_again(run, output or run)}", err=markdown == "-")


def _write_markdown(result: AuditResult, target: str, model_card: bool) -> None:
    from shortcut_audit.report.markdown import markdown_summary
    from shortcut_audit.results.store import write_bytes

    content = markdown_summary(result, model_card=model_card).encode()
    if target == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_bytes(Path(target), content)
    typer.echo(f"Summary: {target}")
