"""`shortcut-audit cue-conflict`: does a model go by shape or by texture where the two disagree?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer

from shortcut_audit.cli.options import (
    parse_batch_size,
    parse_numbers,
    parse_size,
    read_names,
    refuse_nesting,
)
from shortcut_audit.cli.terminal import plain, say
from shortcut_audit.errors import printable
from shortcut_audit.results.cue_settings import CueConflictSettings, cue_settings_from

if TYPE_CHECKING:
    from rich.console import Console

    from shortcut_audit.data.cue_groups import Grouping
    from shortcut_audit.data.label_maps import LabelMap
    from shortcut_audit.results.cue_conflict import CueConflictResult

__all__ = ["cue_conflict"]

MAX_ROWS = 40


def _setting(field: str, *flags: str) -> Any:
    """An option whose default and help are those of the setting itself."""
    info = CueConflictSettings.model_fields[field]
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    suffix = f" One of: {', '.join(choices)}." if choices else ""
    return typer.Option(info.default, *flags, help=f"{info.description}{suffix}")


def cue_conflict(
    model: str = typer.Argument(
        ..., help="As for audit: timm:NAME, hf-hub:ORG/NAME, local-dir:DIR, a weights file, ..."
    ),
    data: str = typer.Option(
        ...,
        "--data",
        help="Images with two labels: files named like cat7-elephant3.png (in folders of shapes or in"
        " one), an .npz with x, y_shape, y_texture, classes, or a .csv with file, shape, texture.",
    ),
    out: Path = typer.Option(..., "--out", help="Folder for the numbers, the table and the page."),
    groups: str | None = typer.Option(
        None,
        "--groups",
        help="Which outputs stand for which class: a grouping or a label map (TOML), or the name of one"
        " that is shipped, as groups-imagenet1k-to-cue-conflict. [default: outputs of the same names]",
    ),
    arch: str | None = typer.Option(
        None, "--arch", help="Architecture of a weights file: a timm name or module:factory."
    ),
    checkpoint: Path | None = typer.Option(
        None, "--checkpoint", help="Weights for a model made by module:factory."
    ),
    pretrained: bool = typer.Option(
        True, "--pretrained/--no-pretrained", help="Published or random weights of a timm name."
    ),
    output_names: Path | None = typer.Option(
        None, "--output-names", help="Text file: names of the model's outputs in order, one a line."
    ),
    mean: str | None = typer.Option(
        None,
        "--mean",
        help="Normalisation mean, 1 or C values with commas. [default: the model's own]",
    ),
    std: str | None = typer.Option(
        None, "--std", help="Normalisation standard deviation. [default: the model's own]"
    ),
    size: str | None = typer.Option(
        None, "--size", help="Bring images to N or HxW pixels. [default: the model's own]"
    ),
    device: str = _setting("device", "--device"),
    dtype: str = _setting("dtype", "--dtype"),
    batch_size: str = typer.Option(
        "auto", "--batch-size", help="Images per forward pass; auto takes a usual size that fits."
    ),
    images_per_class: int | None = typer.Option(
        None, "--images-per-class", help="Most images used of each shape class. [default: all]"
    ),
    seed: int = _setting("seed", "--seed"),
    skip_unreadable: bool = _setting("skip_unreadable", "--skip-unreadable"),
) -> None:
    """Shape or texture: what does a model call images whose shape and texture are of two classes?"""
    settings = cue_settings_from(
        {
            "images_per_class": images_per_class,
            "seed": seed,
            "device": device,
            "dtype": dtype,
            "batch_size": parse_batch_size(batch_size),
            "skip_unreadable": skip_unreadable,
        }
    )
    moments = {"mean": parse_numbers("mean", mean), "std": parse_numbers("std", std)}
    pixels = parse_size(size)
    names = read_names(output_names)
    refuse_nesting(data, out)
    from shortcut_audit.run.cue_conflict import (
        CueConflictRequest,
        check_cue_folder,
        run_cue_conflict,
    )

    check_cue_folder(out)
    from rich.console import Console

    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.report.cue_conflict_page import write_cue_page

    console = Console(highlight=False)
    with console.status("Opening the images and the model ..."):
        from shortcut_audit.data.cue_conflict import open_cue_conflict
        from shortcut_audit.data.cue_groups import load_grouping
        from shortcut_audit.models.loading import ModelRequest, load_model

        # Before the model: what is wrong with small files should be said first.
        grouping = load_grouping(groups) if groups is not None else None
        images = open_cue_conflict(data)
        loaded = load_model(
            ModelRequest(
                spec=model,
                arch=arch,
                checkpoint=checkpoint,
                pretrained=pretrained,
                n_classes=len(names) if names is not None else _n_outputs(grouping, images.class_names),
                seed=seed,
            )
        )
    request = CueConflictRequest(
        model=loaded,
        images=images,
        groups=grouping,
        settings=settings,
        command=printable(shlex.join(["shortcut-audit", *sys.argv[1:]])),
        size=pixels,
        output_names=names,
        **moments,
    )
    with Bar(Console(stderr=True, highlight=False)) as bar:
        result = run_cue_conflict(request, out, progress=bar)
    page = write_cue_page(result, out)
    _show(console, result)
    say(f"\nNumbers: {out / 'cue_conflict.json'}, {out / 'cue_conflict.csv'}")
    say(f"Page: {page}")


def _n_outputs(grouping: Grouping | LabelMap | None, class_names: tuple[str, ...]) -> int | None:
    """Outputs of a model that is built here: as many as the grouping is meant for."""
    from shortcut_audit.data.label_maps import LabelMap

    if isinstance(grouping, LabelMap):
        return len(grouping.source.classes)
    if grouping is None:
        return len(class_names)
    return grouping.n_outputs or (len(grouping.outputs) if grouping.outputs else None)


def _show(console: Console, result: CueConflictResult) -> None:
    """The verdict, a table of classes, and what was left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from shortcut_audit.report.cue_conflict_page import by_shape_bias, cue_headline, cue_sentences
    from shortcut_audit.report.summary import percent

    say(cue_headline(result))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("class of the shape", overflow="fold", max_width=24)
    for column in ("n", "shape", "texture", "neither", "shape bias", "95%", "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    for item in by_shape_bias(result)[:MAX_ROWS]:
        counts = item.among_groups
        bias = counts.shape_bias
        table.add_row(
            Text(plain(item.class_name)),
            *(str(count) for count in (counts.n, counts.n_shape, counts.n_texture, counts.n_neither)),
            percent(bias.value),
            f"{100 * bias.low:.0f}–{100 * bias.high:.0f}" if bias.n else "–",
            percent(counts.accuracy.value),
        )
    console.print(table)
    if len(result.by_class) > MAX_ROWS:
        say(f"... and {len(result.by_class) - MAX_ROWS} more classes, on the page and in the table.")
    for sentence in cue_sentences(result):
        say(sentence)
    for note in result.notes:
        say(f"Note: {note}")
