"""How much of the bare forward pass does the exact search reach?

Bare: the network alone on a ready, normalised batch, at its best batch size, under inference mode, in
channels-last layout, with the same allocator settings. Exact: search shards as an audit runs them
(reading images, FFT, waves, normalisation, responses, sums), at the batch size that `--batch-size auto`
picks; a shard is cut to at most 1,024 orbits, so that rounds at 224 pixels stay short. Both take turns in
one run; the figure is the median of the ratios.

    python benchmarks/exact_search.py [--rounds 7] [--seconds 3] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from machine import machine
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.measures.interface import Subject
from shortcut_audit.measures.searches.exact import n_exact_passes
from shortcut_audit.models.loading import LoadedModel, ModelRequest, load_model
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.execute import ShardWorker
from shortcut_audit.run.plan import tasks_of
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

EXAMPLES = Path(__file__).parent.parent / "examples"
ORBITS_PER_SHARD = 1024
BATCHES = {"cpu": (8, 16, 32, 48, 64, 96, 128, 256), "cuda": (64, 128, 256, 512, 1024, 2048)}


@dataclass(frozen=True)
class Case:
    """A network at an image size. Speed does not depend on what the weights are."""

    name: str
    size: int
    build: Callable[[], LoadedModel]


def _resnet20() -> LoadedModel:
    return load_model(ModelRequest(spec=f"{EXAMPLES / 'resnet_cifar.py'}:resnet20", n_classes=10))


def _resnet18() -> LoadedModel:
    network = timm.create_model("resnet18", pretrained=False, num_classes=10)
    return LoadedModel(network, "timm:resnet18", "resnet18", dict(network.pretrained_cfg))


CASES = (Case("ResNet-20", 32, _resnet20), Case("ResNet-18", 224, _resnet18))


def _images_per_second(work: Callable[[], int], seconds: float, device: torch.device) -> float:
    n_images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        n_images += work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return n_images / (time.perf_counter() - started)


def _bare(network: nn.Module, batch: torch.Tensor) -> Callable[[], int]:
    def work() -> int:
        network(batch)
        return len(batch)

    return work


def _best_bare(subject: Subject, seconds: float) -> tuple[int, Callable[[], int]]:
    device = subject.classifier.device
    shape = subject.images.store.shape
    speeds: dict[int, float] = {}
    for size in BATCHES[device.type]:
        batch = torch.randn(size, *shape, device=device).contiguous(memory_format=torch.channels_last)
        work = _bare(subject.classifier.network, batch)
        work()
        speeds[size] = max(_images_per_second(work, seconds / 4, device) for _ in range(3))
    best = max(speeds, key=lambda size: speeds[size])
    batch = torch.randn(best, *shape, device=device).contiguous(memory_format=torch.channels_last)
    return best, _bare(subject.classifier.network, batch)


def measure(case: Case, rounds: int, seconds: float) -> str:
    """One row of the table."""
    generator = np.random.default_rng(0)
    pairs = [
        (generator.integers(0, 256, (3, case.size, case.size), dtype=np.uint8), label)
        for label in range(10)
        for _ in range(40 if case.size < 100 else 4)
    ]
    request = AuditRequest(
        model=case.build(), source=source_from(pairs), settings=settings_from({}), command="benchmark"
    )
    with prepared_audit(request, None) as prepared:
        subject = prepared.subject
        device = subject.classifier.device
        tasks = tasks_of("search", subject.outline, subject.images, prepared.model, device.type, {})
        tasks = [task for task in tasks if task.measure.name == "dominant_frequencies"]
        turn = iter(tasks * 1000)

        def exact() -> int:
            task = next(turn)
            first, last = task.shard.orbits
            short = replace(task.shard, orbits=(first, min(last, first + ORBITS_PER_SHARD)))
            # A block of its own each time: reading and FFT belong to the cost.
            ShardWorker(subject)(replace(task, shard=short), lambda n: None)
            return n_exact_passes(short.n_images, short.orbits[1] - short.orbits[0])

        best, bare = _best_bare(subject, seconds)
        found = [
            (_images_per_second(bare, seconds, device), _images_per_second(exact, seconds, device))
            for _ in range(rounds)
        ]
        exact_batch = subject.batch_size
    ratios = [exact_speed / bare_speed for bare_speed, exact_speed in found]
    bare_speed, exact_speed = (statistics.median(column) for column in zip(*found, strict=True))
    return (
        f"| {case.name}, {case.size} px | {bare_speed:,.0f} (batch {best}) |"
        f" {exact_speed:,.0f} (batch {exact_batch}) | {statistics.median(ratios):.3f} |"
        f" {min(ratios):.3f}–{max(ratios):.3f} |"
    )


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        f"Machine: {machine()}. Medians of {options.rounds} rounds in one run.",
        "",
        "| network | bare, images/s | exact search, passes/s | ratio | range |",
        "|---|---|---|---|---|",
        *(measure(case, options.rounds, options.seconds) for case in CASES),
    ]
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text(
            "# Exact search against the bare forward pass\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
