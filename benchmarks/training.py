"""How far a small network gets on 6,000 images of CIFAR-10, and what holding buffers gives.

python benchmarks/training.py --data cifar10_lossless.npz
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from machine import machine

from shortcut_audit.data.sources import ImageSource, open_source
from shortcut_audit.models.allocator import held_buffers
from shortcut_audit.models.classifier import borrowed
from shortcut_audit.models.loading import ModelRequest, load_model, preprocessing_of
from shortcut_audit.models.small import medium_cnn
from shortcut_audit.results.findings import Rate
from shortcut_audit.training.images import choose_rows
from shortcut_audit.training.loop import fit
from shortcut_audit.training.settings import TrainSettings
from shortcut_audit.training.subject import ModelChoice
from shortcut_audit.training.train import TrainRequest, train

FACTORY = "shortcut_audit.models.small:medium_cnn"
PER_CLASS = 600


def pixels_of(source: ImageSource, rows: np.ndarray) -> torch.Tensor:
    """Pixels (n, C, H, W) in [0,1] of arrays (H, W, C)."""
    images = np.stack([np.asarray(source.read(int(row))) for row in rows])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def judge(weights: Path, parts: list[tuple[ImageSource, np.ndarray]]) -> Rate:
    """Accuracy of the trained model, loaded as an audit loads it, on images it never saw."""
    loaded = load_model(ModelRequest(spec=FACTORY, checkpoint=weights, n_classes=10))
    hits = n = 0
    with borrowed(
        loaded.network, preprocessing_of(loaded, (3, 32, 32)), torch.device("cpu"), "float32", 0
    ) as classifier:
        for source, rows in parts:
            labels = torch.from_numpy(source.labels[rows])
            logits = torch.cat([classifier(part) for part in torch.split(pixels_of(source, rows), 256)])
            hits += int((logits.argmax(dim=1) == labels).sum())
            n += len(rows)
    return Rate(hits=hits, n=n)


def one_seed(data: str, seed: int) -> str:
    """A row of the table: accuracies on unseen images, seconds."""
    source, test = open_source(f"{data}::train"), open_source(f"{data}::test")
    settings = TrainSettings(seed=seed, images_per_class=PER_CLASS)
    chosen, _ = choose_rows(source, images_per_class=PER_CLASS, val_share=0, seed=seed)
    rest = np.setdiff1d(np.arange(len(source.labels)), chosen)
    with tempfile.TemporaryDirectory() as folder:
        request = TrainRequest(
            model=ModelChoice(spec=FACTORY), source=source, settings=settings, val=test
        )
        wall, cpu = time.perf_counter(), time.process_time()
        with held_buffers("cpu"):
            result = train(request, Path(folder) / "model")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        unseen = judge(
            Path(folder) / "model" / "model.safetensors",
            [(test, np.arange(len(test.labels))), (source, rest)],
        )
    last = result.history[-1]
    assert last.val_accuracy is not None
    tested = last.val_accuracy
    return (
        f"| {seed} | {last.accuracy.n:,} | {100 * (tested.value or 0):.1f}% of {tested.n}"
        f" | {100 * (unseen.value or 0):.1f}% ({100 * unseen.low:.1f}–{100 * unseen.high:.1f}) of"
        f" {unseen.n:,} | {wall:.0f} | {cpu:.0f} |"
    )


def images_per_second(held: bool, batch_size: int) -> float:
    """Training speed on random images, buffers held or not."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size * 8, 3, 32, 32, generator=generator)
    labels = torch.arange(len(images)) % 10
    with held_buffers("cpu") if held else nullcontext():
        network = medium_cnn()
        fit(network, images[:batch_size], labels[:batch_size], epochs=3, batch_size=batch_size)
        started = time.perf_counter()
        fit(network, images, labels, epochs=3, batch_size=batch_size)
    return 3 * len(images) / (time.perf_counter() - started)


def main() -> None:
    """Print both, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/cifar10_lossless.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines = [
        "| seed | trained on | `::test` | all unseen images (95% interval) | seconds | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for seed in range(arguments.seeds):
        lines.append(one_seed(arguments.data, seed))
        print(lines[-1], flush=True)
    lines += ["", "Images a second while training, without and with freed buffers held:", ""]
    for batch_size in (64, 128):
        # By turns, so that a busy moment of the machine weighs on both.
        speeds = [[images_per_second(held, batch_size) for held in (False, True)] for _ in range(3)]
        plain, held = (sorted(column)[1] for column in zip(*speeds, strict=True))
        lines.append(
            f"- batches of {batch_size}: {plain:,.0f} and {held:,.0f} (ratio {held / plain:.2f})"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(f"# Training on a CPU\n\nMachine: {machine()}.\n\n{text}")


if __name__ == "__main__":
    main()
