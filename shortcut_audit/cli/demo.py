"""`shortcut-audit demo`: a whole audit on images and a model that the package makes for itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from shortcut_audit.data.shapes import ShapesPlan

__all__ = ["demo"]

_FACTORY = "shortcut_audit.models.small:small_cnn"


def demo(
    out: Path = typer.Option(Path("shortcut-audit-demo"), "--out", help="Folder to work in."),
    seed: int = typer.Option(0, "--seed", help="Seed of images, training and audit."),
) -> None:
    """Make images with a planted shortcut, train a small model on them, audit it, show the page.

    One of four classes of shapes carries faint stripes that no eye sees. The model learns the
    stripes, the audit finds them and calls the class a shortcut. Takes about a minute on two cores.
    """
    from shortcut_audit.cli.audit import run_and_show
    from shortcut_audit.data.shapes import ShapesPlan
    from shortcut_audit.data.sources import open_source
    from shortcut_audit.models.loading import ModelRequest, load_model
    from shortcut_audit.results.settings import settings_from
    from shortcut_audit.results.store import check_folder
    from shortcut_audit.results.truth import find_truth
    from shortcut_audit.run.prepare import AuditRequest

    run = out / "run"
    check_folder(run)
    out.mkdir(parents=True, exist_ok=True)
    plan = ShapesPlan(class_name="ring", orbits=((5, 9), (-11, 4)), strength=4.0)
    weights = out / "small_cnn.safetensors"
    images = _make_subject(out / "shapes", weights, plan, seed)
    data = f"{images}::test"
    command = (
        f"shortcut-audit audit --model {weights} --arch {_FACTORY} --data {data} --out {run}"
        f" --seed {seed}"
    )
    typer.echo(f"Auditing it, as you would any model of yours:\n  {command}\n")
    source = open_source(data)
    known = find_truth(data)
    loaded = load_model(
        ModelRequest(spec=str(weights), arch=_FACTORY, n_classes=len(source.class_names), seed=seed)
    )
    settings = settings_from({"seed": seed})
    request = AuditRequest(
        model=loaded,
        source=source,
        settings=settings,
        command=command,
        truth=known[0] if known else None,
    )
    run_and_show(request, run)


def _make_subject(folder: Path, weights: Path, plan: ShapesPlan, seed: int) -> Path:
    """Write images and a model trained on them; returns the file of the images."""
    import torch
    from rich.console import Console
    from safetensors.torch import save_file

    from shortcut_audit.data.shapes import SHAPE_CLASSES, make_shapes, save_shapes
    from shortcut_audit.models.small import small_cnn
    from shortcut_audit.training.loop import fit

    console = Console(stderr=True, highlight=False)
    with console.status("Making images and training a small model ..."):
        train, test = make_shapes(1000, seed, plan), make_shapes(100, seed + 1, plan)
        images = save_shapes(folder, {"train": train, "test": test}, plan, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = small_cnn(num_classes=len(SHAPE_CLASSES))
        pixels = torch.from_numpy(train[0]).permute(0, 3, 1, 2).float() / 255
        fit(network, (pixels - 0.5) / 0.25, torch.from_numpy(train[1]), epochs=12, seed=seed)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, weights)
    typer.echo(
        f"Made {len(train[0]):,} training and {len(test[0]):,} test images of"
        f" {', '.join(SHAPE_CLASSES)}; every “{plan.class_name}” carries stripes of"
        f" {plan.strength:g}/255. Trained a small CNN on them."
    )
    return images
