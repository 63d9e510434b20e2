"""`shortcut-audit selftest`: does the audit find planted shortcuts on this machine, and nothing else?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shortcut_audit.cli.options import parse_size, refuse_nesting
from shortcut_audit.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from shortcut_audit.results.selftest import CaseOutcome, SelfTestResult

__all__ = ["selftest"]

_REPORTS = Path("reports/selftest")
# Columns of the table of a case, and their least widths, so that tables line up.
_COLUMNS = {
    "class": 8,
    "planted": 10,
    "counts as": 9,
    "turned": 6,
    "verdict": 8,
    "score": 5,
    "orbits": 10,
}


def selftest(
    full: bool = typer.Option(
        False,
        "--full",
        help="Every kind of plant at three strengths on three networks, at several sizes, and models that"
        " learnt nothing; tens of minutes. Writes a page.",
    ),
    out: Path | None = typer.Option(
        None,
        "--out",
        help="Folder for the page and the numbers; the same command resumes in it. [default:"
        " reports/selftest with --full, else none is written]",
    ),
    data: str | None = typer.Option(
        None,
        "--data",
        help="Plant into these images, named as for audit, instead of shapes that the package draws.",
    ),
    model: str | None = typer.Option(
        None, "--model", help="Train this architecture in every case: timm:NAME or module:factory."
    ),
    size: str | None = typer.Option(
        None,
        "--size",
        help="Bring images to N or HxW pixels. [default: their own; shapes: 32 and others]",
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of images, plants, training and audits."),
) -> None:
    """Plant known shortcuts, train models on them, audit the models, and count hits and false alarms.

    Needs no download and no data. A plant counts only where the model demonstrably uses it. Ends with
    exit code 1 where a used plant is missed, or clean classes are called shortcuts.
    """
    from rich.console import Console

    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.report.selftest_page import write_selftest
    from shortcut_audit.run.selftest import SelfTestRequest, run_selftest

    folder = out or (_REPORTS if full else None)
    if data is not None and folder is not None:
        refuse_nesting(data, folder)
    request = SelfTestRequest(
        full=full,
        data=data,
        model=model,
        size=parse_size(size),
        seed=seed,
        command=printable(shlex.join(["shortcut-audit", *sys.argv[1:]])),
    )
    errors = Console(stderr=True, highlight=False)
    with Bar(errors) as bar:
        result = run_selftest(
            request,
            folder,
            progress=bar,
            on_case=lambda case: errors.print(_line(case), markup=False, soft_wrap=True),
        )
    _show(Console(highlight=False), result)
    if folder is not None:
        typer.echo(f"\nPage: {write_selftest(result, folder)}")
    if not result.passed:
        raise typer.Exit(1)


def _line(case: CaseOutcome) -> str:
    """A case in a line, as it is finished."""
    from shortcut_audit.report.summary import duration

    called = [item.class_name for item in case.by_class if item.verdict == "shortcut"]
    told = f"shortcut: {', '.join(called)}" if called else "no class is called shortcut"
    return f"{_name(case)} ({duration(case.seconds)}): {told}"


def _name(case: CaseOutcome) -> str:
    return f"{case.name}, {case.architecture}, {case.height} x {case.width}"


def _show(console: Console, result: SelfTestResult) -> None:
    """A table of each case, the counts, and what they mean."""
    from rich.table import Table
    from rich.text import Text

    from shortcut_audit.report.selftest_page import (
        selftest_counts,
        selftest_headline,
        selftest_meaning,
        standing,
    )
    from shortcut_audit.report.summary import percent

    console.print(
        "Turned: other images that exactly the planted orbits turn into the class. Orbits: planted ones"
        " that are named, that are in the map, of all."
    )
    for case in result.cases:
        table = Table(title=Text(f"\n{_name(case)}"), title_justify="left", title_style="bold")
        for column, width in _COLUMNS.items():
            right = column in ("turned", "score", "orbits")
            table.add_column(column, justify="right" if right else "left", min_width=width)
        for item in case.by_class:
            table.add_row(
                Text(item.class_name),
                item.planted or "–",
                "learnt nothing" if case.structure else standing(item),
                percent(item.turned),
                item.verdict,
                "–" if item.score is None else f"{item.score:.2f}",
                f"{item.n_planted_named}, {item.n_planted_in_map} of {item.n_planted}"
                if item.n_planted
                else "–",
            )
        console.print(table)
    console.print()
    for what, figure in selftest_counts(result):
        console.print(f"  {what}: {figure}", markup=False)
    console.print(f"\n{selftest_headline(result)}\n{selftest_meaning(result)}", markup=False)
