"""`shortcut-audit filter`: DFT-masked copies of a set of images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shortcut_audit.errors import SettingsError

if TYPE_CHECKING:
    from shortcut_audit.data.filtered import FilteredSet, FilterSettings

__all__ = ["filter_"]

MAX_CLASSES = 12


def filter_(
    data: str = typer.Option(
        ..., "--data", help="Images, as for audit; without ::split, all splits are copied."
    ),
    keep: str | None = typer.Option(
        None,
        "--keep",
        help="Keep only these frequencies: band:1/4, radius:4-8, angle:30-60, square:0.3,"
        " orbits:(5,9),(-11,4), map:RUN:CLASS, map:RUN:own, map:RUN:CLASS@0.05, file:MASK.npy@centred;"
        " joined by + (or), & (and), ! (not), brackets. In quotes, for the shell.",
    ),
    remove: str | None = typer.Option(None, "--remove", help="Remove these frequencies; named alike."),
    out: Path = typer.Option(..., "--out", help="New folder for the set."),
    dc: str = typer.Option(
        "keep", "--dc", help="The mean colour: keep it, drop it, or do as the mask says (mask)."
    ),
    size: str | None = typer.Option(
        None, "--size", help="Bring images to N or HxW pixels first. [default: all have one size]"
    ),
    formats: str = typer.Option(
        "png",
        "--format",
        help="png (class folders, clipped to 0..255), npz (arrays of floats, not clipped), or both with"
        " a comma.",
    ),
    classes: str | None = typer.Option(
        None, "--classes", help="Filter only these classes, separated by commas. [default: all]"
    ),
    skip_unreadable: bool = typer.Option(
        False, "--skip-unreadable", help="Leave out images that cannot be decoded, and count them."
    ),
    replace: bool = typer.Option(False, "--replace", help="Replace a set that is already there."),
) -> None:
    """Copy a set of images with some of their frequencies kept, or removed; the truth lies beside it."""
    if (keep is None) == (remove is None):
        raise SettingsError(
            "Say either --keep or --remove."
            if keep is None
            else "--keep and --remove exclude each other.",
            "For example: --keep band:1/4, or --remove 'radius:4-8 & angle:30-60'",
        )
    if dc not in {"keep", "drop", "mask"}:
        raise SettingsError(f"--dc {dc!r} is no rule.", "One of: keep, drop, mask.")
    from rich.console import Console

    from shortcut_audit.cli.options import parse_size, refuse_nesting
    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.data.filtered import FilterSettings, filter_set
    from shortcut_audit.data.splits import notes_on_splits
    from shortcut_audit.data.writing import set_formats

    settings = FilterSettings(
        mask=keep if keep is not None else str(remove),
        action="keep" if keep is not None else "remove",
        dc=dc,
        size=parse_size(size),
        classes=_names(classes),
        skip_unreadable=skip_unreadable,
    )
    wanted = set_formats(formats)
    refuse_nesting(data, out)
    with Bar(Console(stderr=True, highlight=False)) as bar:
        found = filter_set(
            data,
            out,
            settings,
            wanted,
            replace=replace,
            on_image=lambda done, total: bar("filtering", done, total),
        )
    _describe(found, settings, wanted)
    for note in notes_on_splits(data):
        typer.echo(f"Note: {note}")


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise SettingsError(f"--classes {text!r} has an empty name.", "For example: --classes cat,dog")
    return names


def _describe(found: FilteredSet, settings: FilterSettings, formats: tuple[str, ...]) -> None:
    """Print what was left of the images, what clipping cost, and what to do with them."""
    from shortcut_audit.data.writing import ARRAYS_NAME

    truth, out = found.truth, found.folder
    splits = ", ".join(f"{name} ({sum(n.values()):,})" for name, n in truth.n_by_split.items())
    typer.echo(
        f"{out}: {found.n_images:,} images of {truth.channels} x {truth.height} x {truth.width} in"
        f" {len(truth.class_names)} classes; splits {splits}."
    )
    if found.n_skipped:
        one = found.n_skipped == 1
        typer.echo(f"  {found.n_skipped:,} unreadable image{' was' if one else 's were'} left out.")
    mean = {"keep": "DC kept", "drop": "DC dropped", "mask": "DC as the mask says"}[settings.dc]
    done = "Kept only" if settings.action == "keep" else "Removed"
    typer.echo(f"  {done} {settings.mask}, in pixels; {mean}. Left: {_left(found)}.")
    if truth.clipped_share is not None:
        worst = sorted(found.clipped_share.items(), key=lambda item: -item[1])[:3]
        most = ", ".join(f"{name} {_percent(share)}" for name, share in worst if share > 0)
        typer.echo(
            f"  {_percent(truth.clipped_share)} of the values in PNG files were clipped to 0..255"
            + (f" (most in {most})." if most else ".")
        )
    if "npz" in formats:
        typer.echo(f"  Values in {ARRAYS_NAME} are floats and not clipped.")
    if "*" not in truth.details["orbits_left"]:
        typer.echo("  Note: classes have masks of their own, which tell them apart by themselves.")
    split = "test" if "test" in truth.n_by_split else next(iter(truth.n_by_split))
    images = f"{out}::{split}" if "png" in formats else f"{out / ARRAYS_NAME}::{split}"
    typer.echo(f"Truth: {out / 'truth.json'}")
    typer.echo(
        f"Judge a model on them: shortcut-audit audit --model MODEL --data {shlex.quote(images)}"
        " --out RUN"
    )


def _left(found: FilteredSet) -> str:
    """Orbits and share of the bins that stayed; class by class where they differ."""
    counts = found.truth.details["n_orbits_left"]
    if len(counts) == 1 and "*" in counts:
        share = next(iter(found.left_share.values()))
        return f"{_orbits(counts['*'])}, {_percent(share)} of the bins (DC aside)"
    shown = [
        f"{name} {_percent(found.left_share[name])} ({_orbits(counts[name])})"
        for name in list(counts)[:MAX_CLASSES]
    ]
    more = f", and {len(counts) - MAX_CLASSES} more classes" if len(counts) > MAX_CLASSES else ""
    return f"{', '.join(shown)}{more}; shares of the bins, DC aside"


def _orbits(n: int) -> str:
    return "1 orbit" if n == 1 else f"{n:,} orbits"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
