"""`shortcut-audit shift`: corrupted copies of a set, and the spectrum of each corruption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from shortcut_audit.data.shift_spectra import ShiftRecord

__all__ = ["shift"]

MAX_ROWS = 40


def shift(
    data: str = typer.Option(
        ..., "--data", help="Images, as for audit; without ::split, all splits are copied."
    ),
    corruption: str = typer.Option(
        ...,
        "--corruption",
        help="Names with commas, or all; a name may bring its own severities: jpeg:1-5,contrast:3."
        " An unknown name lists them.",
    ),
    severity: str = typer.Option(
        "1-5", "--severity", help="Severities 1 to 5 (3, 1-5 or 1,3,5), and 0 for the image as it is."
    ),
    out: Path = typer.Option(..., "--out", help="New folder for the set; each shift is a split of it."),
    formats: str = typer.Option(
        "png", "--format", help="png (class folders), npz (arrays), or both with a comma."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of noise, directions, haze and shifts."),
    size: str | None = typer.Option(
        None, "--size", help="Bring images to N or HxW pixels first. [default: all have one size]"
    ),
) -> None:
    """Write corrupted copies of a set, and measure what each corruption does to which frequencies."""
    from rich.console import Console

    from shortcut_audit.cli.options import parse_size, refuse_nesting
    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.data.shifts import write_shifts
    from shortcut_audit.data.splits import notes_on_splits
    from shortcut_audit.data.writing import set_formats

    wanted, pixels = set_formats(formats), parse_size(size)
    refuse_nesting(data, out)
    with Bar(Console(stderr=True, highlight=False)) as bar:
        record = write_shifts(
            data,
            out,
            corruption,
            severity,
            seed=seed,
            size=pixels,
            formats=wanted,
            on_progress=bar,
        )
    _print_shifts(Console(highlight=False), record)
    _print_paths(record, out, wanted)
    for note in notes_on_splits(data):
        typer.echo(f"Note: {note}")


def _print_shifts(console: Any, record: ShiftRecord) -> None:
    """One row a shift: how much power it adds, passes on and clips."""
    from rich.table import Table
    from rich.text import Text

    bands = [band.band for band in record.shifts[0].bands if band.band != "dc"]
    table = Table(
        title=f"Power after / before by band (cycles per shorter side), {record.n_images:,} images",
        title_justify="left",
        expand=False,
    )
    table.add_column("shift")
    for name in (*bands, "of pixels clipped"):
        table.add_column(name, justify="right")
    for each in record.shifts[:MAX_ROWS]:
        ratios = [
            "-" if band.power_ratio is None else f"{band.power_ratio:.3g}"
            for band in each.bands
            if band.band != "dc"
        ]
        clipped = "-" if each.clipped_share is None else f"{100 * each.clipped_share:.2g}%"
        table.add_row(Text(each.split), *ratios, clipped)
    console.print(table)
    if len(record.shifts) > MAX_ROWS:
        console.print(f"... and {len(record.shifts) - MAX_ROWS} more shifts, in the files below.")


def _print_paths(record: ShiftRecord, out: Path, formats: tuple[str, ...]) -> None:
    from shortcut_audit.data.shifts import SPECTRA_ARRAYS, SPECTRA_FILE
    from shortcut_audit.data.writing import ARRAYS_NAME

    split = record.shifts[0].split
    images = f"{out}::{split}" if "png" in formats else f"{out / ARRAYS_NAME}::{split}"
    typer.echo(f"Spectra: {out / SPECTRA_FILE}; by orbit: {out / SPECTRA_ARRAYS}")
    typer.echo(f"Audit on one of the {len(record.shifts)} shifts with: --data {images}")
