"""`shortcut-audit data`: a look at images before any model, and the sets there are recipes for."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from shortcut_audit.cli.data_sets import build, list_sets, verify
from shortcut_audit.cli.options import parse_size, refuse_nesting
from shortcut_audit.errors import printable
from shortcut_audit.results.settings import DataAuditSettings, data_settings_from

if TYPE_CHECKING:
    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["data", "look"]


class _LookByDefault(TyperGroup):
    """`data DATA --out RUN` is short for `data look DATA --out RUN`."""

    # The type of `ctx` depends on the version of typer: its own click, or click itself.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = ["look", *args]
        return super().parse_args(ctx, args)


data = typer.Typer(
    cls=_LookByDefault,
    no_args_is_help=True,
    help="Look at images before any model: data DATA --out RUN. Or list, build and verify data sets"
    " (for a folder of such a name, write ./list).",
    rich_markup_mode=None,
)


def _setting(field: str, flag: str) -> Any:
    info = DataAuditSettings.model_fields[field]
    return typer.Option(info.default, flag, help=info.description)


def look(
    images: str = typer.Argument(
        ..., metavar="DATA", help="Images, as for audit: a folder of class folders, FILE.npz::test, ..."
    ),
    out: Path = typer.Option(..., "--out", help="Folder of the run."),
    size: str | None = typer.Option(
        None,
        "--size",
        help="Bring images to N or HxW pixels. [default: as they are, or 224 where they differ in size]",
    ),
    images_per_class: int = _setting("images_per_class", "--images-per-class"),
    folds: int = _setting("folds", "--folds"),
    significance: float = _setting("significance", "--significance"),
    seed: int = _setting("seed", "--seed"),
    skip_unreadable: bool = _setting("skip_unreadable", "--skip-unreadable"),
) -> None:
    """Look at the spectra of labelled images, and name the bands that invite a shortcut. No model."""
    settings = data_settings_from(
        {
            "images_per_class": images_per_class,
            "folds": folds,
            "significance": significance,
            "seed": seed,
            "skip_unreadable": skip_unreadable,
        }
    )
    pixels = parse_size(size)
    from shortcut_audit.results.store import check_folder

    check_folder(out)
    refuse_nesting(images, out)
    from rich.console import Console

    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.data.sources import open_source
    from shortcut_audit.report.html import write_report
    from shortcut_audit.results.truth import find_truth
    from shortcut_audit.run.data_audit import DataRequest, run_data_audit

    source = open_source(images)
    known = find_truth(images)
    request = DataRequest(
        source=source,
        settings=settings,
        command=printable(shlex.join(["shortcut-audit", *sys.argv[1:]])),
        size=pixels,
        truth=known[0] if known else None,
    )
    with Bar(Console(stderr=True, highlight=False)) as bar:
        result = run_data_audit(request, out, progress=bar)
    page = write_report(result, out)
    _show(result, out, page)


def _show(result: AuditResult, out: Path, page: Path) -> None:
    from shortcut_audit.report.summary import data_headline, invitation_sentence, truth_sentences

    typer.echo(data_headline(result))
    for item in result.invitations.items:
        typer.echo(f"  {invitation_sentence(item)}")
    for sentence in truth_sentences(result):
        typer.echo(sentence)
    for note in result.notes:
        typer.echo(f"Note: {note}")
    typer.echo(f"\nNumbers: {out / 'result.json'}, {out / 'arrays.safetensors'}")
    typer.echo(f"Page: {page}")


data.command("look")(look)
data.command("list")(list_sets)
data.command("build")(build)
data.command("verify")(verify)
