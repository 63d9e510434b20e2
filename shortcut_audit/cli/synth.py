"""`shortcut-audit synth`: a synthetic set with known frequency truth, from a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from shortcut_audit.results.truth import GroundTruth

__all__ = ["describe", "synth"]


def synth(
    recipe: str = typer.Argument(
        ..., help="A recipe (TOML file), or the name of one that comes along: syn1, syn2, syn3, syn4."
    ),
    out: Path = typer.Option(..., "--out", help="New folder for the set."),
    seed: int | None = typer.Option(None, "--seed", min=0, help="[default: the recipe's own]"),
    formats: str = typer.Option(
        "png,npz", "--format", help="png (class folders), npz (arrays), or both with a comma."
    ),
    replace: bool = typer.Option(False, "--replace", help="Replace a set that is already there."),
) -> None:
    """Make a synthetic set biased to frequency bands, with special orbits per class, and its truth."""
    from shortcut_audit.data.recipes import find_recipe
    from shortcut_audit.data.synthetic import read_synthetic, write_synthetic
    from shortcut_audit.data.writing import set_formats

    wanted = set_formats(formats)
    made = read_synthetic(find_recipe(recipe))
    truth = write_synthetic(made, out, seed=seed, formats=wanted, replace=replace)
    describe(truth, out, wanted)


def describe(truth: GroundTruth, out: Path, formats: tuple[str, ...]) -> None:
    """Print what a set holds, its patterns, and what to do with it."""
    from shortcut_audit.data.writing import ARRAYS_NAME

    n_images = sum(sum(counts.values()) for counts in truth.n_by_split.values())
    typer.echo(
        f"{out}: {n_images:,} images of {truth.height} x {truth.width} pixels in"
        f" {len(truth.class_names)} classes; splits"
        f" {', '.join(f'{name} ({sum(c.values()):,})' for name, c in truth.n_by_split.items())}."
    )
    for pattern in truth.patterns:
        typer.echo(f"  {_sentence(pattern, len(truth.class_names))}")
    if truth.clipped_share:
        typer.echo(f"  {100 * truth.clipped_share:.2g}% of pixel values were clipped to 0..255.")
    split = "test" if "test" in truth.n_by_split else next(iter(truth.n_by_split))
    images = f"{out}::{split}" if "png" in formats else f"{out / ARRAYS_NAME}::{split}"
    typer.echo(f"Truth: {out / 'truth.json'}")
    typer.echo(f"Look at it without a model: shortcut-audit data {shlex.quote(images)} --out RUN")


def _sentence(pattern: object, n_classes: int) -> str:
    from shortcut_audit.results.truth import Pattern

    assert isinstance(pattern, Pattern)
    who = "all classes" if pattern.role == "decoy" else ", ".join(pattern.classes)
    where = ""
    if pattern.orbits:
        shown = ", ".join(f"({u}, {v})" for u, v in pattern.orbits[:6])
        more = f" and {len(pattern.orbits) - 6} more" if len(pattern.orbits) > 6 else ""
        bands = ", ".join(str(band) for band in pattern.bands)
        where = f" on orbits {shown}{more}{f' (band {bands})' if bands else ''}"
    strength = ""
    if pattern.amplitude:
        strength = f", amplitude {sum(pattern.amplitude) / len(pattern.amplitude):.2f}/255"
    share = f", in {100 * pattern.share:g}% of its images" if pattern.share < 1 else ""
    kind = {
        "decoy": "; a decoy, no shortcut",
        "other": "; a shortcut that no orbit is to blame for",
        "shortcut": "",
    }[pattern.role]
    return f"{who}: {pattern.name}{where}{strength}{share}{kind}"
