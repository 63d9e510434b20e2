"""`shortcut-audit plant`: known shortcuts in real images, by a plan."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["plant"]


def plant(
    data: str = typer.Option(
        ..., "--data", help="Images, as for audit; without ::split, all splits are copied."
    ),
    plan: Path = typer.Option(..., "--plan", help="What to plant where (TOML; docs/known-truth.md)."),
    out: Path = typer.Option(..., "--out", help="New folder for the set."),
    size: str | None = typer.Option(
        None, "--size", help="Bring images to N or HxW pixels first. [default: all have one size]"
    ),
    formats: str = typer.Option(
        "png,npz", "--format", help="png (class folders), npz (arrays), or both with a comma."
    ),
    replace: bool = typer.Option(False, "--replace", help="Replace a set that is already there."),
) -> None:
    """Copy a set of images with known patterns planted into chosen classes; the truth lies beside it."""
    from shortcut_audit.cli.options import parse_size, refuse_nesting
    from shortcut_audit.cli.synth import describe
    from shortcut_audit.data.plans import read_plan
    from shortcut_audit.data.planting import plant as plant_into
    from shortcut_audit.data.splits import notes_on_splits
    from shortcut_audit.data.writing import set_formats

    wanted, pixels = set_formats(formats), parse_size(size)
    refuse_nesting(data, out)
    truth = plant_into(data, read_plan(plan), out, size=pixels, formats=wanted, replace=replace)
    describe(truth, out, wanted)
    for note in notes_on_splits(data):
        typer.echo(f"Note: {note}")
