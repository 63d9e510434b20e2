"""`shortcut-audit data list`, `build` and `verify`: published and synthetic sets, by their recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shortcut_audit.errors import AuditError, DataError, SettingsError

if TYPE_CHECKING:
    from shortcut_audit.data.recipes import ListedRecipe, Recipe

__all__ = ["build", "list_sets", "verify"]

_MOST_SHOWN = 20
_ROOT_HELP = "Folder of the raw files. [default: SHORTCUT_AUDIT_ROOT, else data]"


def list_sets() -> None:
    """List the sets there are recipes for, and whether they are built."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shortcut_audit.data.building import BUILT_FOLDER
    from shortcut_audit.data.recipes import all_recipes

    listed, problems = all_recipes()
    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "classes", "images", "size", "licence", "built"):
        table.add_column(
            column,
            justify="right" if column in {"classes", "images"} else "left",
            no_wrap=column not in {"licence", "built"},
            overflow="fold",
        )
    for each in listed:
        size = each.recipe.size
        table.add_row(
            Text(each.name),
            each.kind.removeprefix("download-"),
            f"{each.n_classes}",
            f"{each.n_images:,}" if each.n_images is not None else "?",
            "x".join(map(str, size)) if size else "differ",
            Text(each.licence),
            Text(_built(each, BUILT_FOLDER / each.name)),
        )
    Console(highlight=False).print(table)
    for problem in problems:
        typer.echo(f"Left out: {problem}", err=True)
    typer.echo("Build one: shortcut-audit data build NAME. Recipes say more: docs/data-sets.md.")


def _built(each: ListedRecipe, folder: Path) -> str:
    from shortcut_audit.data.cards import load_card
    from shortcut_audit.data.writing import CARD_FILE
    from shortcut_audit.results.truth import TRUTH_FILE

    if (folder / CARD_FILE).is_file():
        try:
            limit = load_card(folder).limit
        except AuditError:
            return f"{folder} (its card is damaged)"
        return f"{folder}" + (f" ({limit} a class)" if limit is not None else "")
    return f"{folder}" if (folder / TRUTH_FILE).is_file() else "no"


def build(
    name: str = typer.Argument(..., help="Name of a recipe (`data list`), or a recipe file."),
    root: Path | None = typer.Option(None, "--root", help=_ROOT_HELP),
    out: Path | None = typer.Option(
        None, "--out", help="New folder for the set. [default: datasets/built/NAME]"
    ),
    limit: int | None = typer.Option(
        None, "--limit", min=1, help="Take the first so many images of each class and split."
    ),
    formats: str | None = typer.Option(
        None, "--format", help="png, npz or both. [default: files as they are; arrays as npz]"
    ),
    seed: int | None = typer.Option(
        None, "--seed", min=0, help="Of synthetic sets. [default: the recipe's]"
    ),
    replace: bool = typer.Option(False, "--replace", help="Replace a set that is already there."),
) -> None:
    """Download (or take from --root), check and convert a set into what --data reads, with its card."""
    from shortcut_audit.data.building import BUILT_FOLDER
    from shortcut_audit.data.recipes import Recipe, find_recipe, load_recipe
    from shortcut_audit.data.writing import set_formats

    recipe = load_recipe(find_recipe(name))
    wanted = set_formats(formats) if formats is not None else ()
    target = out if out is not None else BUILT_FOLDER / recipe.name
    if isinstance(recipe, Recipe):
        if seed is not None:
            raise SettingsError(f"{recipe.name} is not made by a seed.", "Leave --seed out.")
        _build_published(recipe, target, root, limit, wanted, replace)
        return
    if limit is not None or root is not None:
        raise SettingsError(
            f"{recipe.name} is made by a program, and takes neither --root nor --limit.",
            "Its recipe says how many images it has (n_by_split).",
        )
    from shortcut_audit.cli.synth import describe
    from shortcut_audit.data.synthetic import write_synthetic
    from shortcut_audit.data.writing import FORMATS

    forms = wanted or FORMATS
    truth = write_synthetic(recipe, target, seed=seed, formats=forms, replace=replace)
    describe(truth, target, forms)


def _build_published(
    recipe: Recipe,
    target: Path,
    root: Path | None,
    limit: int | None,
    formats: tuple[str, ...],
    replace: bool,
) -> None:
    from rich.console import Console

    from shortcut_audit.cli.progress import Bar
    from shortcut_audit.data.building import build_set
    from shortcut_audit.data.torchvision_sets import default_root
    from shortcut_audit.data.writing import CARD_FILE

    with Bar(Console(stderr=True, highlight=False)) as bar:
        card = build_set(
            recipe,
            target,
            root=root if root is not None else default_root(),
            limit=limit,
            formats=formats,
            replace=replace,
            on_progress=bar,
        )
    counts = {name: sum(by_class.values()) for name, by_class in card.n_by_split.items()}
    typer.echo(
        f"{target}: {sum(counts.values()):,} images in {len(card.class_names)} classes; splits"
        f" {', '.join(f'{name} ({count:,})' for name, count in counts.items())}."
    )
    typer.echo(f"Licence: {card.licence.name}.{f' {card.licence.note}' if card.licence.note else ''}")
    typer.echo(f"Cite: {card.citation}.")
    typer.echo(f"Card: {target / CARD_FILE}. Read it with --data {target}::{next(reversed(counts))}")


def verify(
    name: str = typer.Argument(..., help="Name of a recipe, or the folder of a built set."),
    root: Path | None = typer.Option(None, "--root", help=_ROOT_HELP),
) -> None:
    """Compare a set, and the raw files it is made from, with its checksums and counts."""
    from shortcut_audit.data.building import BUILT_FOLDER
    from shortcut_audit.data.cards import differences

    if Path(name).is_dir():
        found, compared = differences(Path(name))
        _conclude(name, found, compared)
        return
    from shortcut_audit.data.building import raw_differences
    from shortcut_audit.data.recipes import Recipe, find_recipe, load_recipe
    from shortcut_audit.data.torchvision_sets import default_root

    recipe = load_recipe(find_recipe(name))
    target = BUILT_FOLDER / recipe.name
    found, parts = [], []
    if isinstance(recipe, Recipe):
        found, n_raw = raw_differences(recipe, root if root is not None else default_root())
        parts += [f"{n_raw} raw file{'' if n_raw == 1 else 's'}"] * (n_raw > 0)
    if target.is_dir():
        of_set, compared = differences(target)
        found += of_set
        parts.append(compared)
    if not parts:
        raise DataError(
            f"{recipe.name} is not built, and none of its raw files is there: nothing to verify.",
            f"Build it: shortcut-audit data build {recipe.name}; or name the folder of a built set.",
        )
    _conclude(recipe.name, found, " and ".join(parts))


def _conclude(what: str, found: list[str], compared: str) -> None:
    if not found:
        typer.echo(f"{what} is as it was made: compared {compared}.")
        return
    for line in found[:_MOST_SHOWN]:
        typer.echo(f"  {line}", err=True)
    if len(found) > _MOST_SHOWN:
        typer.echo(f"  ... and {len(found) - _MOST_SHOWN:,} more", err=True)
    raise DataError(
        f"{what} differs in {len(found):,} point{'' if len(found) == 1 else 's'} from what it should be.",
        "Build it again with --replace, or remove the raw files that differ.",
    )
