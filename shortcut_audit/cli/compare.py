"""`shortcut-audit compare`: many models, checkpoints or dates on one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import typer

from shortcut_audit.cli.terminal import plain, say
from shortcut_audit.errors import SettingsError, printable

__all__ = ["compare"]


def compare(
    runs: list[Path] = typer.Argument(
        ..., metavar="RUN RUN...", help="Folders or pages of finished audits, the oldest first."
    ),
    output: Path = typer.Option(Path("compare.html"), "--output", "-o", help="Page to write."),
    json_file: Path | None = typer.Option(
        None, "--json", help="Write the whole comparison here, every class and quantity."
    ),
    labels: list[str] | None = typer.Option(
        None, "--label", help="Name of a run, in their order; once for each. [default: from their paths]"
    ),
    baseline: str | None = typer.Option(
        None,
        "--baseline",
        help="What the others are compared with: the number of a run (1 is the first), its path or label."
        " [default: the first]",
    ),
) -> None:
    """Compare finished audits: what got better or worse, with intervals (no model, data or torch)."""
    from shortcut_audit.report.compare_runs import compared_runs, labels_of, read_side

    _require_runs(runs)
    _require_targets(runs, output, json_file)
    names = _labels(labels, labels_of(runs))
    place = _baseline(baseline, runs, names)
    command = ["shortcut-audit", "compare", *map(str, runs)]
    command += [word for label in labels or () for word in ("--label", label)]
    command += [] if baseline is None else ["--baseline", baseline]
    # One after the other: only numbers are kept of each.
    sides = [read_side(path, name) for path, name in zip(runs, names, strict=True)]
    comparison = compared_runs(sides, place, printable(shlex.join(command)))
    # Pictures are loaded once there is something to draw.
    from shortcut_audit.report.compare_page import comparison_json, write_comparison
    from shortcut_audit.report.compare_words import (
        compare_headline,
        compare_notes,
        flicker_sentence,
        target_of,
    )
    from shortcut_audit.results.store import write_bytes

    for note in compare_notes(comparison):
        typer.echo(plain(f"warning: {note}"), err=True)
    if json_file is not None:
        write_bytes(json_file, comparison_json(comparison).encode())
    write_comparison(comparison, output)
    say(plain(compare_headline(comparison)))
    flicker = flicker_sentence(target_of(comparison))
    if flicker:
        say(plain(flicker))
    say(f"Page: {output}")


def _require_runs(runs: Sequence[Path]) -> None:
    from shortcut_audit.report.compare_runs import MOST_RUNS

    if not 2 <= len(runs) <= MOST_RUNS:
        raise SettingsError(
            f"{len(runs)} run{'s' if len(runs) != 1 else ''} cannot be compared on one page.",
            f"Name 2 to {MOST_RUNS} runs.",
        )
    places: dict[Path, Path] = {}
    for run in runs:
        other = places.setdefault(run.resolve(), run)
        if other is not run:
            raise SettingsError(
                f"The run {run} is named twice{'' if str(run) == str(other) else f', as {other} too'}.",
                "Name each run once.",
            )


def _require_targets(runs: Sequence[Path], output: Path, json_file: Path | None) -> None:
    """Refuse what cannot be written before runs are read."""
    from shortcut_audit.results.store import require_no_run_file

    require_no_run_file(output, json_file)
    given = {run.resolve() for run in runs}
    for target in filter(None, (output, json_file)):
        if target.resolve() in given:
            raise SettingsError(f"{target} is a run, and would be overwritten.", "Choose another file.")
        if target.is_dir():
            raise SettingsError(f"{target} is a folder.", "Name a file in it.")
        if not target.parent.is_dir():
            raise SettingsError(f"The folder of {target} is not there.", "Make the folder first.")
    if json_file is not None and json_file.resolve() == output.resolve():
        raise SettingsError("The page and the JSON file are the same file.", "Name two files.")


def _labels(given: Sequence[str] | None, found: list[str]) -> list[str]:
    if not given:
        return [printable(name) for name in found]
    if len(given) != len(found):
        raise SettingsError(
            f"There are {len(found)} runs and {len(given)} labels.",
            "Give --label once for each run, in their order, or not at all.",
        )
    labels = [printable(label) for label in given]
    if len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
        raise SettingsError("Labels are empty, or not told apart.", "Give each run a name of its own.")
    return labels


def _baseline(asked: str | None, runs: Sequence[Path], labels: Sequence[str]) -> int:
    if asked is None:
        return 0
    if asked in labels:
        return labels.index(asked)
    for place, run in enumerate(runs):
        if Path(asked).resolve() == run.resolve():
            return place
    if asked.isdecimal() and 1 <= int(asked) <= len(runs):
        return int(asked) - 1
    raise SettingsError(
        f"The baseline {asked!r} is none of the runs.",
        f"Name a number from 1 to {len(runs)}, or a path or label of a run: {', '.join(labels)}.",
    )
