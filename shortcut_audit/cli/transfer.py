"""`shortcut-audit transfer`: maps of audits compared with each other, and judged on other models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shortcut_audit.cli.options import (
    parse_batch_size,
    parse_numbers,
    parse_size,
    read_names,
    refuse_nesting,
)
from shortcut_audit.cli.terminal import console, say
from shortcut_audit.errors import SettingsError, printable

if TYPE_CHECKING:
    from shortcut_audit.data.sources import ImageSource
    from shortcut_audit.results.model_transfer import JudgedMaps, ModelTransferResult
    from shortcut_audit.results.shortcut_findings import ClassShortcut
    from shortcut_audit.run.judged_maps import JudgementEstimate
    from shortcut_audit.run.model_transfer import NamedRun, TransferRequest
    from shortcut_audit.run.other_models import OtherModel

__all__ = ["transfer"]

_NONE = "-"
_MAX_ROWS, _MAX_SENTENCES = 40, 10


def transfer(
    runs: list[Path] = typer.Argument(..., metavar="RUN...", help="Folders of finished audits."),
    to: list[str] | None = typer.Option(
        None, "--to", help="A model to judge the runs' maps on, named as for audit --model; repeatable."
    ),
    data: str | None = typer.Option(
        None, "--data", help="Images to judge on, named as for audit; best those of the runs."
    ),
    out: Path = typer.Option(
        ..., "--out", help="Folder for numbers and page; the same command resumes in it."
    ),
    arch: list[str] | None = typer.Option(
        None, "--arch", help="As for audit; once for each --to, - where it takes none."
    ),
    checkpoint: list[str] | None = typer.Option(
        None, "--checkpoint", help="As for audit; once for each --to, - where it takes none."
    ),
    pretrained: bool = typer.Option(
        True, "--pretrained/--no-pretrained", help="Published or random weights of timm names."
    ),
    output_names: Path | None = typer.Option(
        None, "--output-names", help="Names of the models' outputs, as for audit."
    ),
    label_map: Path | None = typer.Option(
        None,
        "--label-map",
        help="TOML file: which class of the images stands for which of the runs, where names differ.",
    ),
    mean: str | None = typer.Option(None, "--mean", help="As for audit; for every --to."),
    std: str | None = typer.Option(None, "--std", help="As for audit; for every --to."),
    size: str | None = typer.Option(
        None, "--size", help="Bring images to N or HxW pixels, which have to be those of the runs."
    ),
    device: str = typer.Option("auto", "--device", help="As for audit."),
    dtype: str | None = typer.Option(None, "--dtype", help="As for audit. [default: the run's]"),
    batch_size: str = typer.Option("auto", "--batch-size", help="As for audit."),
    images_per_class: int | None = typer.Option(
        None, "--images-per-class", help="As for audit. [default: the run's, for the same split]"
    ),
    skip_unreadable: bool = typer.Option(
        False, "--skip-unreadable", help="Leave unreadable images out, and say so."
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Say what it would take (passes, time, memory); write nothing."
    ),
) -> None:
    """Are the shortcuts of audited models shortcuts of other models too, and how alike are their maps?"""
    from shortcut_audit.run.model_transfer import TransferRequest, check_transfer_folder, load_runs

    given = list(to or [])
    weights = _one_each("checkpoint", checkpoint, given)
    architectures = _one_each("arch", arch, given)
    if bool(given) != (data is not None):
        raise SettingsError(
            "--to names models to judge on, --data the images for it: one is given without the other.",
            "Give both, or neither to compare maps alone.",
        )
    moments = {"mean": parse_numbers("mean", mean), "std": parse_numbers("std", std)}
    pixels, names = parse_size(size), read_names(output_names)
    changes: dict[str, object] = {"device": device, "batch_size": parse_batch_size(batch_size)}
    changes |= {"dtype": dtype} if dtype is not None else {}
    changes |= {"images_per_class": images_per_class} if images_per_class is not None else {}
    changes |= {"skip_unreadable": True} if skip_unreadable else {}
    with console().status("Reading the runs ..."):
        named = load_runs(runs)
        check_transfer_folder(out, named)
    source, others, mapped = None, [], None
    if data is not None:
        refuse_nesting(data, out)
        with console().status("Opening the images and the models ..."):
            from shortcut_audit.data.label_maps import load_label_map
            from shortcut_audit.data.sources import open_source

            mapped = None if label_map is None else load_label_map(label_map)
            source = open_source(data)
            others = _models(
                given,
                architectures,
                weights,
                named,
                source,
                pretrained=pretrained,
                size=pixels,
                output_names=names,
                **moments,
            )
    elif label_map is not None:
        raise SettingsError(
            "--label-map is for images to judge on; maps of runs are compared by the names of classes.",
            "Leave it out.",
        )
    request = TransferRequest(
        runs=named,
        command=printable(shlex.join(["shortcut-audit", *sys.argv[1:]])),
        others=others,
        source=source,
        label_map=mapped,
        changes=changes,
    )
    if dry_run:
        _show_estimates(request)
    else:
        _run_and_show(request, out)


def _one_each(option: str, values: list[str] | None, models: Sequence[str]) -> list[str | None]:
    """A value for each model, None for `-`. Raises SettingsError where their numbers differ."""
    if not values:
        return [None] * len(models)
    if len(values) != len(models):
        raise SettingsError(
            f"--{option} is given {len(values)} times and --to {len(models)} times.",
            f"Give --{option} once for each --to, in the same order; - where a model takes none.",
        )
    return [None if value == _NONE else value for value in values]


def _models(
    specs: Sequence[str],
    architectures: Sequence[str | None],
    weights: Sequence[str | None],
    runs: Sequence[NamedRun],
    source: ImageSource,
    *,
    pretrained: bool,
    output_names: list[str] | None,
    **images: Any,
) -> list[OtherModel]:
    from shortcut_audit.models.loading import ModelRequest, load_model
    from shortcut_audit.run.other_models import OtherModel, names_of_models

    n_classes = len(output_names) if output_names is not None else len(source.class_names)
    loaded = [
        load_model(
            ModelRequest(
                spec=spec,
                arch=arch,
                checkpoint=None if file is None else Path(file),
                pretrained=pretrained,
                n_classes=n_classes,
            )
        )
        for spec, arch, file in zip(specs, architectures, weights, strict=True)
    ]
    told = [Path(file or spec.rpartition(":")[2]).name for spec, file in zip(specs, weights, strict=True)]
    names = names_of_models(loaded, told, {run.name: run.result for run in runs})
    return [
        OtherModel(name=name, model=model, output_names=output_names, **images)
        for name, model in zip(names, loaded, strict=True)
    ]


def _show_estimates(request: TransferRequest) -> None:
    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.run.model_transfer import estimate_transfer

    with Bar(console(stderr=True)) as bar:
        estimates = estimate_transfer(request, progress=bar)
    for line in estimate_lines(estimates):
        say(line)


def estimate_lines(estimates: Sequence[JudgementEstimate]) -> list[str]:
    """What `--dry-run` says, line by line."""
    from shortcut_audit.report.summary import duration

    if not estimates:
        return ["Maps are compared as they lie in the runs: no image passes. Nothing was written."]
    lines = ["Judgement only; the search of an audit is not run. Nothing was written."]
    for each in estimates:
        lines.append(
            f"  {each.run} on {each.model}: {each.image_passes:,} image passes ({each.n_classes} classes,"
            f" {each.n_images:,} images), about {duration(each.image_passes / each.images_per_second)} at"
            f" {each.images_per_second:,.0f} images a second in batches of {each.batch_size}."
        )
    total = sum(each.image_passes for each in estimates)
    seconds = sum(each.image_passes / each.images_per_second for each in estimates)
    memory = max(each.peak_memory_bytes for each in estimates)
    lines.append(f"Together {total:,} image passes, about {duration(seconds)}.")
    lines.append(
        "That is with every null drawn; classes without an effect take less, open ones more."
        f" Memory: about {memory / 2**30:.1f} GiB."
    )
    return lines


def _run_and_show(request: TransferRequest, out: Path) -> None:
    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.report.model_transfer_page import write_transfer_page
    from shortcut_audit.run.model_transfer import run_transfer

    screen = console()
    with Bar(console(stderr=True)) as bar:
        result = run_transfer(request, out, progress=bar)
    with screen.status("Writing the page ..."):
        page = write_transfer_page(result, out)
    _show(result)
    say(f"Numbers: {out / 'transfer.json'} and the .csv files beside it")
    say(f"Page: {page}")


def _show(result: ModelTransferResult) -> None:
    """Sentence first, then tables, then what a reader must know."""
    from shortcut_audit.report.model_transfer_words import (
        by_outcome,
        class_sentence,
        cost_sentence,
        dropped_sentences,
        transfer_headline,
        transfer_notes,
    )
    from shortcut_audit.report.summary import duration

    say(transfer_headline(result))
    for judged in result.judged:
        _print_classes(judged)
        told = [item for item in by_outcome(judged) if item.outcome != "neither"]
        for item in told[:_MAX_SENTENCES]:
            say(class_sentence(judged, item))
        if len(told) > _MAX_SENTENCES:
            say(f"... and {len(told) - _MAX_SENTENCES} more, on the page.")
    if result.agreements:
        _print_matrix(result)
    for note in transfer_notes(result):
        say(f"Note: {note}")
    for sentence in dropped_sentences(result.dropped):
        say(f"Left out: {sentence}")
    say(f"\n{cost_sentence(result)}")
    if result.judged:
        say(f"{duration(result.timing.measuring_seconds)} of measuring.")


def _print_classes(judged: JudgedMaps) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from shortcut_audit.report.model_transfer_words import OUTCOMES, by_outcome
    from shortcut_audit.report.verdict_words import nulls_of, number_text

    say(
        f"\n{judged.run} judged on {judged.model}, each pair of numbers of its own model / there. Turned:"
        " other images called by the class once given its orbits; null: the most that other orbits did;"
        " called: the class's own images."
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("class", overflow="fold", min_width=10, max_width=24)
    table.add_column("outcome", no_wrap=True)
    for column in ("turned", "null", "q", "called"):
        table.add_column(column, justify="right", no_wrap=True)

    def both(one: str, other: str) -> str:
        return f"{one} / {other}"

    def turned(item: ClassShortcut) -> str:
        return "–" if item.best is None else _whole(item.best.flip_rate)

    def nulls(item: ClassShortcut) -> str:
        return _whole(max(nulls_of(item), default=None))

    order = by_outcome(judged)
    for item in order[:_MAX_ROWS]:
        here, there = item.here, item.there
        table.add_row(
            Text(item.class_name),
            OUTCOMES[item.outcome],
            both(turned(here), turned(there)),
            both(nulls(here), nulls(there)),
            both(number_text(here.q_value), number_text(there.q_value)),
            both(_whole(here.tpr_full.value), _whole(there.tpr_full.value)),
        )
    console().print(table)
    if len(order) > _MAX_ROWS:
        say(f"... and {len(order) - _MAX_ROWS} more classes, on the page and in the .csv.")


def _print_matrix(result: ModelTransferResult) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    say("\nRank correlation of maps / its ceiling; on the diagonal the reliability of a run's own maps:")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    for run in result.runs:
        table.add_column(Text(run.name), justify="right")
    for run, values in zip(result.runs, result.agreement_matrix(), strict=True):
        cells = []
        for other, value in zip(result.runs, values, strict=True):
            pair = result.agreement_of(run.name, other.name)
            ceiling = "" if pair is None or run is other else f" / {_figure(pair.ceiling)}"
            cells.append(f"{_figure(value)}{ceiling}")
        table.add_row(Text(run.name), *cells)
    console().print(table)


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%".replace("-0%", "0%")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
