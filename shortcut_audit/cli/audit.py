"""`shortcut-audit audit`: a trained classifier and images in, an audit out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer

from shortcut_audit.cli.options import (
    parse_batch_size,
    parse_counts,
    parse_named,
    parse_names,
    parse_numbers,
    parse_resolution,
    parse_size,
    read_names,
    refuse_nesting,
)
from shortcut_audit.cli.terminal import console, say
from shortcut_audit.errors import SettingsError, printable
from shortcut_audit.results.search_options import USED_BY, idle_sentence, idle_settings
from shortcut_audit.results.settings import AuditSettings, SearchName, settings_from

if TYPE_CHECKING:
    from shortcut_audit.run.audit import Estimate
    from shortcut_audit.run.prepare import AuditRequest

__all__ = ["audit", "run_and_show"]

# Reasons in the terminal; the page has every other.
_MAX_REASONS = 10


def _setting(field: str, *flags: str) -> Any:
    """An option whose default and help are those of the setting itself."""
    info = AuditSettings.model_fields[field]
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    suffix = f" One of: {', '.join(choices)}." if choices else ""
    return typer.Option(info.default, *flags, help=f"{info.description}{suffix}")


def audit(
    model: str = typer.Option(
        ...,
        "--model",
        help="timm:NAME, hf-hub:ORG/NAME, local-dir:DIR, a weights file (.safetensors, .pt, .pth,"
        " .th; with --arch), FILE.onnx, or package.module:factory (path/to/file.py:factory).",
    ),
    data: str = typer.Option(
        ...,
        "--data",
        help="A folder of class folders, FILE.npz (FILE.npz::test), FILE.tar, or a timm reader"
        " (hfds/NAME, tfds/NAME, wds/DIR; NAME::split).",
    ),
    out: Path = typer.Option(..., "--out", help="Folder of the run; the same command resumes in it."),
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
        None,
        "--output-names",
        help="Text file: names of the model's outputs in order, one a line, where the data has"
        " only some of the classes or another order.",
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
        "auto", "--batch-size", help="Images per forward pass; auto finds the fastest that fits."
    ),
    images_per_class: int = _setting("images_per_class", "--images-per-class"),
    search_share: float = _setting("search_share", "--search-share"),
    kept_share: float = _setting("kept_share", "--kept-share"),
    response: str = _setting("response", "--response"),
    search: str = _setting("search", "--search"),
    budget: str | None = _setting("budget", "--budget"),
    resolution: str = _setting("resolution", "--resolution"),
    confidence: float = _setting("confidence", "--confidence"),
    patch_sides: str | None = _setting("patch_sides", "--patch-sides"),
    candidates: str | None = _setting("candidates", "--candidates"),
    steps: int = _setting("steps", "--steps"),
    classes: str | None = typer.Option(
        None, "--classes", help="Search only these classes, separated by commas. [default: all]"
    ),
    shift: list[str] = typer.Option(
        [], "--shift", help=f"{AuditSettings.model_fields['shifts'].description} May be repeated."
    ),
    ood: list[str] = typer.Option(
        [],
        "--ood",
        help="NAME=DATA: another set to judge the classes on, as --data takes it. May be repeated.",
    ),
    label_map: list[str] = typer.Option(
        [],
        "--label-map",
        help="NAME=FILE.toml: which classes of that set are which of the model's. [default: those of"
        " the same name]",
    ),
    dc: str = _setting("dc", "--dc"),
    domain: str = _setting("domain", "--domain"),
    clip: bool = _setting("clip", "--clip/--no-clip"),
    examples: int = _setting("examples", "--examples"),
    seed: int = _setting("seed", "--seed"),
    skip_unreadable: bool = _setting("skip_unreadable", "--skip-unreadable"),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Say what it would take (passes, time, memory); write nothing."
    ),
) -> None:
    """Audit a trained classifier: importance of every frequency for every class, and what it means."""
    settings = settings_from(
        {
            "images_per_class": images_per_class,
            "search_share": search_share,
            "kept_share": kept_share,
            "response": response,
            "search": search,
            "budget": budget,
            "resolution": parse_resolution(resolution),
            "confidence": confidence,
            "patch_sides": parse_counts("patch-sides", patch_sides, "8,4,2,1"),
            "candidates": parse_counts("candidates", candidates, "1000,2000,4000,8000"),
            "steps": steps,
            "shifts": shift,
            "dc": dc,
            "domain": domain,
            "clip": clip,
            "classes": parse_names(classes),
            "seed": seed,
            "device": device,
            "dtype": dtype,
            "batch_size": parse_batch_size(batch_size),
            "examples": examples,
            "skip_unreadable": skip_unreadable,
        }
    )
    _refuse_idle(settings)
    moments: dict[str, Any] = {"mean": parse_numbers("mean", mean), "std": parse_numbers("std", std)}
    pixels = parse_size(size)
    others, maps = parse_named("ood", ood), parse_named("label-map", label_map)
    _refuse_unmatched(others, maps)
    names = read_names(output_names)
    from shortcut_audit.results.store import check_folder
    from shortcut_audit.results.truth import find_truth

    check_folder(out)
    refuse_nesting(data, out)
    for further in others.values():
        refuse_nesting(further, out, "ood")
    with console().status("Opening the images and the model ..."):
        from shortcut_audit.data.label_maps import load_label_map
        from shortcut_audit.data.ood import OodSet, mapped_labels
        from shortcut_audit.data.pixels import choose_images
        from shortcut_audit.data.sources import open_source
        from shortcut_audit.models.loading import ModelRequest, load_model
        from shortcut_audit.run.prepare import AuditRequest

        source = open_source(data)
        known = find_truth(data)
        sets = [
            OodSet(name, open_source(spec), load_label_map(Path(maps[name])) if name in maps else None)
            for name, spec in others.items()
        ]
        # Before a model is built for these classes: what is wrong with the images should be said first.
        choose_images(source, settings)
        for other in sets:
            mapped_labels(other, names or source.class_names)
        loaded = load_model(
            ModelRequest(
                spec=model,
                arch=arch,
                checkpoint=checkpoint,
                pretrained=pretrained,
                n_classes=len(names) if names is not None else len(source.class_names),
                seed=seed,
            )
        )
    request = AuditRequest(
        model=loaded,
        source=source,
        settings=settings,
        command=printable(shlex.join(["shortcut-audit", *sys.argv[1:]])),
        size=pixels,
        output_names=names,
        truth=known[0] if known else None,
        ood=sets,
        **moments,
    )
    if dry_run:
        _show_estimate(request)
    else:
        run_and_show(request, out)


def run_and_show(
    request: AuditRequest,
    out: Path,
) -> None:
    """Run an audit with a progress bar, write its page, and print what was found."""
    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.cli.tables import print_classes
    from shortcut_audit.report.corruption_words import corruption_sentences
    from shortcut_audit.report.html import write_report
    from shortcut_audit.report.summary import (
        duration,
        headline,
        search_sentences,
        truth_sentences,
    )
    from shortcut_audit.report.transfer_words import transfer_sentences
    from shortcut_audit.report.verdict_words import reasons
    from shortcut_audit.results.store import ARRAYS_FILE, RESULT_FILE
    from shortcut_audit.run.audit import run_audit

    screen = console()
    with Bar(console(stderr=True)) as bar:
        result = run_audit(request, out, progress=bar)
    with screen.status("Writing the page ..."):
        page = write_report(result, out)
    pre = result.model.preprocessing
    say(
        f"Images are {pre.channels} x {pre.height} x {pre.width}, {pre.geometry}; mean"
        f" {', '.join(f'{m:g}' for m in pre.mean)}, std {', '.join(f'{s:g}' for s in pre.std)}"
        f" (says {pre.source})."
    )
    say("")
    say(headline(result))
    for sentence in search_sentences(result):
        say(sentence)
    print_classes(screen, result)
    told, n_more = reasons(result, _MAX_REASONS)
    for item, reason in told:
        say(f"{item.verdict.capitalize()}: {reason}")
    if n_more:
        say(f"... and {n_more} more, on the page.")
    for sentence in (*transfer_sentences(result), *corruption_sentences(result)):
        say(sentence)
    for note in result.notes:
        say(f"Note: {note}")
    for sentence in truth_sentences(result):
        say(sentence)
    say(
        f"\n{result.image_passes:,} image passes in {duration(result.timing.measuring_seconds)}"
        f" of measuring. Numbers: {out / RESULT_FILE}, {out / ARRAYS_FILE}"
    )
    say(f"Page: {page}")


def _refuse_unmatched(others: dict[str, str], maps: dict[str, str]) -> None:
    """Raise SettingsError for a label map of a set that is not there."""
    unknown = [name for name in maps if name not in others]
    if unknown:
        raise SettingsError(
            f"--label-map {unknown[0]}={maps[unknown[0]]} belongs to no --ood"
            + (f"; there are: {', '.join(others)}." if others else "."),
            f"Give the set too: --ood {unknown[0]}=DATA",
        )


def _refuse_idle(settings: AuditSettings) -> None:
    """Raise SettingsError for an option that the chosen search would pass over in silence.

    What `auto` may use is let through; a note says so where it turns out that it was not used.
    """
    possible: tuple[SearchName, ...] = (
        ("exact", "screened") if settings.search == "auto" else (settings.search,)
    )
    idle = idle_settings(settings, *possible)
    if not idle:
        return
    option, users = f"--{idle[0].replace('_', '-')}", USED_BY[idle[0]]
    chosen = "which auto never takes" if settings.search == "auto" else f"not with {settings.search}"
    raise SettingsError(
        f"{option} goes with --search {' or '.join(users)}, {chosen}.",
        f"Leave {option} out, or give --search {users[0]}.",
    )


def _show_estimate(request: AuditRequest) -> None:
    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.run.audit import estimate_audit

    with Bar(console(stderr=True)) as bar:
        estimate = estimate_audit(request, progress=bar)
    for line in estimate_lines(estimate, request.settings):
        say(line)


def estimate_lines(estimate: Estimate, settings: AuditSettings) -> list[str]:
    """What `--dry-run` says, line by line."""
    from shortcut_audit.report.summary import duration

    passes = estimate.passes_by_measure
    exact = estimate.n_exact_passes
    lines = [
        f"{estimate.n_images:,} images, {estimate.n_orbits:,} orbits; nothing was written.",
        f"Search: {estimate.search}{_why(estimate, settings)}.",
        *(f"  {name.replace('_', ' '):<22}{n:>16,} image passes" for name, n in passes.items()),
        f"  {'together':<22}{estimate.image_passes:>16,} image passes",
    ]
    if settings.budget is not None and settings.budget.seconds is not None:
        lines.append(
            f"The budget of {settings.budget} is for the search alone; its passes are those that this"
            " time pays for at the speed below."
        )
    if exact != passes["dominant_frequencies"]:
        times = exact / max(passes["dominant_frequencies"], 1)
        lines.append(
            f"The {'whole ' if estimate.search == 'exact' else ''}exact search would take {exact:,} image"
            f" passes{f', {times:.1f} times as many' if times > 1 else ', which is fewer'}: about"
            f" {duration(exact / estimate.images_per_second)}."
        )
    lines += [
        f"Time: about {duration(estimate.seconds)}, at {estimate.images_per_second:,.0f} images a"
        f" second in batches of {estimate.batch_size}.",
        f"Memory: about {estimate.peak_memory_bytes / 2**30:.1f} GiB.",
    ]
    idle = idle_sentence(settings, estimate.search)
    return [*lines, f"Note: {idle}"] if idle else lines


def _why(estimate: Estimate, settings: AuditSettings) -> str:
    """Why this search, where the user left it open."""
    if settings.search != "auto":
        return ""
    reason = estimate.search_reason or "the model has a gradient, and there is much to probe"
    return f" (taken by auto: {reason})"
