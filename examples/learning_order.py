"""Which class is learned first: Wang et al. (ICCV 2023), section 3, on this project's Syn_1..Syn_4.

    python examples/learning_order.py --out reports/learning-order

On each set one class, C0, carries a special pattern: a few waves of the same amplitude in every image,
in the band the set is biased to. The others differ in directions of varying amplitude. A small network
is trained with the paper's settings (SGD 0.01, Nesterov momentum 0.9, weight decay 1e-4, batches of
64) and F1 of every class on held-out images is taken every few steps. Prints a table and writes a figure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.data.recipes import find_recipe
from shortcut_audit.data.synthetic import Synthesis, read_synthetic
from shortcut_audit.models.small import small_cnn
from shortcut_audit.training.loop import fit
from shortcut_audit.training.observers import ClassF1

mpl.use("Agg")
import matplotlib.pyplot as plt

SETS = ("syn1", "syn2", "syn3", "syn4")
N_HELD_OUT = 400
EVERY = 5


def f1_by_step(name: str, n_steps: int, seeds: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps (m,), and F1 (seeds, m, n_classes) of trainings that differ in their seed alone."""
    made = Synthesis(recipe := read_synthetic(find_recipe(name)), recipe.seed)
    train, test = (_tensors(made, split) for split in ("train", "test"))
    steps_per_epoch = -(-len(train[0]) // 64)
    curves = []
    for seed in range(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = small_cnn(num_classes=len(recipe.classes))
        watch = ClassF1(
            test[0][:N_HELD_OUT], test[1][:N_HELD_OUT], every=EVERY, n_classes=4, until=n_steps
        )
        fit(
            network,
            *train,
            observers=[watch],
            epochs=-(-n_steps // steps_per_epoch),
            learning_rate=0.01,
            weight_decay=1e-4,
            batch_size=64,
            warmup_epochs=0,
            seed=seed,
        )
        curves.append(np.nan_to_num(np.asarray(watch.f1)))
    return np.asarray(watch.steps), np.stack(curves)


def _tensors(made: Synthesis, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A split as the network takes it: images (n, C, H, W) with mean 0.5 and std 0.25 taken out."""
    blocks = list(made.blocks(split))
    pixels = torch.from_numpy(np.concatenate([images for images, _, _ in blocks]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels, _ in blocks]))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25, labels


def steps_to(curve: NDArray[np.float64], steps: NDArray[np.int64], level: float) -> int | None:
    """First step from which F1 (m,) stays at or above `level` for three looks."""
    enough = curve >= level
    for index in range(len(curve) - 2):
        if enough[index : index + 3].all():
            return int(steps[index])
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("reports/learning-order"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(SETS), figsize=(12, 2.8), sharey=True, layout="constrained")
    lines = [
        "| set | C0 (special pattern) | C1 | C2 | C3 | seeds in which C0 has the highest mean F1 |",
        "|---|---|---|---|---|---|",
    ]
    for axis, name in zip(axes, SETS, strict=True):
        steps, curves = f1_by_step(name, arguments.steps, arguments.seeds)
        mean = curves.mean(axis=1)
        firsts = [[steps_to(curve[:, label], steps, 0.8) for curve in curves] for label in range(4)]
        cells = [f"{mean[:, label].mean():.2f}; step {_median(firsts[label])}" for label in range(4)]
        n_first = int((mean.argmax(axis=1) == 0).sum())
        lines.append(f"| {name} | {' | '.join(cells)} | {n_first} of {len(curves)} |")
        for label in range(4):
            axis.plot(steps, curves[:, :, label].mean(axis=0), label=f"C{label}")
            axis.fill_between(
                steps, curves[:, :, label].min(axis=0), curves[:, :, label].max(axis=0), alpha=0.15
            )
        axis.set(title=name, xlabel="step")
        print(lines[-1], flush=True)
    axes[0].set(ylabel="F1, held-out images")
    axes[-1].legend(frameon=False, title="mean, and range over seeds", fontsize=8, title_fontsize=8)
    figure.savefig(arguments.out / "f1.png", dpi=110, metadata={"Software": None})
    print(*lines, sep="\n")


def _median(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"not reached in {len(values) - len(known)} of {len(values)}"
    return f"{np.median(known):.0f}"


if __name__ == "__main__":
    main()
