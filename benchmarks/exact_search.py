"""The exact search beside the bare forward pass, which it cannot beat, and beside the published loop.

Bare: the network alone on a ready, normalised batch, at its best batch size, under inference mode, in
channels-last layout, with the same allocator settings. Exact: shards of the exact search as an audit runs
them (reading images, FFT, waves, responses, sums), at the batch size that `--batch-size auto` picks; a
shard is cut to at most 1,024 orbits, so that rounds at 224 pixels stay short.

Published: the loop of Wang et al. (`published_loops.py`), on the same image files, network and waves,
with the same allocator settings; passes are counted for the images of the searched class alone. Before
anything is timed, both sides must find the same losses.

Both sides take turns in one run; the figure is the median of the ratios.

    python benchmarks/exact_search.py [--cases NAME ...] [--rounds 7] [--seconds 3] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from machine import machine
from numpy.typing import NDArray
from PIL import Image
from published_loops import image_loader, losses_without_bins, summed_loss
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.measures.interface import Shard, Subject, blocks_of, logits_in_batches
from shortcut_audit.measures.probing import probe_pairs
from shortcut_audit.measures.searches.exact import ExactSearch, n_exact_passes
from shortcut_audit.models.loading import LoadedModel, ModelRequest, load_model
from shortcut_audit.results.settings import RESPONSES, settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

EXAMPLES = Path(__file__).parent.parent / "examples"
ORBITS_PER_SHARD = 1024
BATCHES = {"cpu": (8, 16, 32, 48, 64, 96, 128, 256), "cuda": (64, 128, 256, 512, 1024, 2048)}
N_CLASSES = 10
# The audit of ImageNet that the projection is for: 50 images of each of 1,000 classes.
AUDIT_CLASSES, AUDIT_IMAGES = 1000, 50


@dataclass(frozen=True)
class Case:
    """A network at an image size. Speed does not depend on what the weights are."""

    name: str
    size: int
    build: Callable[[], LoadedModel]
    dtype: str = "float32"
    # Class images in the comparison with the published loop; None: with the bare forward pass.
    n_per_class: int | None = None


def _resnet20() -> LoadedModel:
    return load_model(ModelRequest(spec=f"{EXAMPLES / 'resnet_cifar.py'}:resnet20", n_classes=10))


def _timm(name: str, n_outputs: int = N_CLASSES) -> Callable[[], LoadedModel]:
    def build() -> LoadedModel:
        network = timm.create_model(name, pretrained=False, num_classes=n_outputs)
        return LoadedModel(network, f"timm:{name}", name, dict(network.pretrained_cfg))

    return build


CASES = {
    "bare-32": Case("ResNet-20, 32 px", 32, _resnet20),
    "bare-224": Case("ResNet-18, 224 px", 224, _timm("resnet18")),
    "published-32-50": Case("ResNet-20, 32 px", 32, _resnet20, n_per_class=50),
    "published-32-10": Case("ResNet-20, 32 px", 32, _resnet20, n_per_class=10),
    "published-224-50": Case("ResNet-18, 224 px", 224, _timm("resnet18"), n_per_class=50),
    "published-224-10": Case("ResNet-18, 224 px", 224, _timm("resnet18"), n_per_class=10),
}
GPU_CASES = {
    "resnet18-bf16": Case("ResNet-18, 224 px, bf16", 224, _timm("resnet18", 1000), "bfloat16"),
    "resnet50-bf16": Case("ResNet-50, 224 px, bf16", 224, _timm("resnet50", 1000), "bfloat16"),
    "vit-s-bf16": Case("ViT-S/16, 224 px, bf16", 224, _timm("vit_small_patch16_224", 1000), "bfloat16"),
}


def _images_per_second(work: Callable[[], int], seconds: float, device: torch.device) -> float:
    n_images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        n_images += work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return n_images / (time.perf_counter() - started)


@contextmanager
def _subject(case: Case, source: ImageSource, model: LoadedModel, **values: Any) -> Iterator[Subject]:
    settings = settings_from({"dtype": case.dtype, "search": "exact", "resolution": "orbits", **values})
    request = AuditRequest(model=model, source=source, settings=settings, command="benchmark")
    with prepared_audit(request, None) as prepared:
        yield prepared.subject


def _bare(subject: Subject, batch: torch.Tensor) -> Callable[[], int]:
    classifier = subject.classifier
    half = classifier.autocast

    def work() -> int:
        with torch.autocast(classifier.device.type, half) if half is not None else nullcontext():
            classifier.network(batch)
        return len(batch)

    return work


def _best_bare(subject: Subject, seconds: float) -> tuple[int, Callable[[], int]]:
    device = subject.classifier.device
    shape = subject.images.store.shape
    works: dict[int, Callable[[], int]] = {}
    for size in BATCHES[device.type]:
        batch = torch.randn(size, *shape, device=device).contiguous(memory_format=torch.channels_last)
        works[size] = _bare(subject, batch)
        works[size]()
    speeds: dict[int, list[float]] = {size: [] for size in works}
    for _ in range(3):
        for size, work in works.items():
            speeds[size].append(_images_per_second(work, seconds / 4, device))
    best = max(speeds, key=lambda size: statistics.median(speeds[size]))
    return best, works[best]


def _shards(subject: Subject) -> list[Shard]:
    outline = subject.outline
    return [
        Shard(
            measure="dominant_frequencies",
            split="search",
            class_index=index,
            rows=rows,
            orbits=(first, min(first + ORBITS_PER_SHARD, outline.grid.n_orbits)),
            n_passes=0,
        )
        for index in outline.searched
        for rows in blocks_of(outline, "search", index)
        for first in range(0, outline.grid.n_orbits, ORBITS_PER_SHARD)
    ]


def against_bare(case: Case, rounds: int, seconds: float) -> str:
    """One row of the first table."""
    generator = np.random.default_rng(0)
    shape = (3, case.size, case.size)
    n_per_class = 40 if case.size < 100 else 4
    pairs = [
        (generator.integers(0, 256, shape, dtype=np.uint8), label)
        for label in range(N_CLASSES)
        for _ in range(n_per_class)
    ]
    with _subject(case, source_from(pairs), case.build()) as subject:
        device, search = subject.classifier.device, ExactSearch()
        turn = cycle(_shards(subject))

        def exact() -> int:
            shard = next(turn)
            # A block of its own each time: reading and FFT belong to the cost.
            search.run(shard, subject, subject.block(shard.rows), lambda n: None)
            return n_exact_passes(shard.n_images, shard.orbits[1] - shard.orbits[0])

        best, bare = _best_bare(subject, seconds)
        exact()
        found = []
        for number in range(rounds):
            sides = [bare, exact] if number % 2 else [exact, bare]
            speeds = {side: _images_per_second(side, seconds, device) for side in sides}
            found.append((speeds[bare], speeds[exact]))
        exact_batch, n_orbits = subject.batch_size, subject.grid.n_orbits
    ratios = [exact_speed / bare_speed for bare_speed, exact_speed in found]
    bare_speed, exact_speed = (statistics.median(column) for column in zip(*found, strict=True))
    hours = n_exact_passes(AUDIT_CLASSES * AUDIT_IMAGES, n_orbits) / exact_speed / 3600
    return (
        f"| {case.name} | {bare_speed:,.0f} (batch {best}) |"
        f" {exact_speed:,.0f} (batch {exact_batch}) | {statistics.median(ratios):.3f} |"
        f" {min(ratios):.3f}–{max(ratios):.3f} | {hours:,.0f} h |"
    )


def _write_images(folder: Path, case: Case) -> None:
    """JPEG files, as ImageNet's are, of noise whose amplitude falls with frequency."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(case.size)[:, None], np.fft.fftfreq(case.size)[None, :])
    amplitude = 1 / np.maximum(frequency, 1 / case.size)
    for label in range(N_CLASSES):
        (folder / f"class{label}").mkdir()
        for number in range(case.n_per_class or 0):
            noise = np.fft.fft2(generator.standard_normal((3, case.size, case.size))) * amplitude
            image = np.fft.ifft2(noise).real
            image = 127 + 12 * label / N_CLASSES + 45 * image / image.std()
            pixels = image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number:03d}.jpg", quality=95)


def _rows_of_class(subject: Subject, index: int) -> tuple[int, int]:
    """Search and judgement images together: the loop knows no such split."""
    images = subject.images
    return images.search_rows[index][0], images.judge_rows[index][1]


def _exact_losses(subject: Subject, label: int, orbits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rise of the summed cross-entropy of a class's images without each of `orbits`, (n_orbits,)."""
    rows = _rows_of_class(subject, label)
    block, output = subject.block(rows), subject.output_of(label)
    n_images, device = rows[1] - rows[0], subject.classifier.device
    clean = logits_in_batches(subject, block.images, lambda n: None)
    images = torch.arange(n_images, device=device).repeat_interleave(len(orbits))
    chosen = torch.from_numpy(orbits).to(device).repeat(n_images)
    responses = probe_pairs(subject, block, clean, images, chosen, output, lambda n: None)
    loss = responses[RESPONSES.index("cross-entropy")].reshape(n_images, len(orbits)).sum(dim=0)
    return np.asarray(loss.cpu().double())


def _require_same(
    subject: Subject,
    network: nn.Module,
    loader: DataLoader[tuple[torch.Tensor, torch.Tensor]],
    orbits: NDArray[np.int64],
    n_own: int,
) -> None:
    """Both sides find the same summed losses; on the strongest waves, where they differ most."""
    label, grid = 1, subject.grid
    bins = [(int(grid.u[orbit]), int(grid.v[orbit])) for orbit in orbits]
    with torch.inference_mode(False):
        losses = losses_without_bins(network, loader, label, bins, subject.classifier.device)
    theirs = np.diff([summed_loss(loss, n_own, N_CLASSES) for loss in losses])
    ours = np.diff(_exact_losses(subject, label, orbits))
    # A mean of 100 losses in single precision, times 100, is good to about 1e-4.
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert np.abs(theirs).max() > 2e-3, "losses too alike to tell the sides apart"


def against_published(case: Case, rounds: int, seconds: float) -> str:
    """One row of the second table."""
    assert case.n_per_class is not None
    n_own, n_masks = case.n_per_class, 512 // case.n_per_class if case.size > 100 else 200
    model = case.build()
    # The loop uses the network in torch's default layout, and without inference mode.
    network = copy.deepcopy(model.network).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_images(folder, case)
        source = source_from(ImageFolder(str(folder)))
        with _subject(case, source, model, domain="normalized") as subject:
            device, grid = subject.classifier.device, subject.grid
            network.to(device)
            mean, std = subject.classifier.mean.tolist(), subject.classifier.std.tolist()
            loader = image_loader(folder, case.size, mean, std)
            half = case.size // 2
            inner = np.flatnonzero((np.abs(grid.u) < half) & (grid.v < half) & (grid.radius > 0))
            orbits = np.random.default_rng(1).permutation(inner)[:n_masks]
            turn = cycle(orbits.tolist())
            labels = cycle(range(N_CLASSES))

            def bins(orbit: int) -> tuple[int, int]:
                return int(grid.u[orbit]), int(grid.v[orbit])

            def loop() -> int:
                with torch.inference_mode(False):
                    losses_without_bins(network, loader, next(labels), [bins(next(turn))], device)
                return n_own

            def exact() -> int:
                _exact_losses(subject, next(labels), orbits)
                return n_exact_passes(n_own, len(orbits))

            _require_same(subject, network, loader, inner[np.argsort(grid.radius[inner])][:3], n_own)
            found = []
            for number in range(rounds):
                sides = [loop, exact] if number % 2 else [exact, loop]
                speeds = {side: _images_per_second(side, seconds, device) for side in sides}
                found.append((speeds[loop], speeds[exact]))
    ratios = [exact_speed / loop_speed for loop_speed, exact_speed in found]
    loop_speed, exact_speed = (statistics.median(column) for column in zip(*found, strict=True))
    return (
        f"| {case.name} | {n_own} | {loop_speed:,.1f} | {exact_speed:,.0f} |"
        f" {statistics.median(ratios):.1f} | {min(ratios):.1f}–{max(ratios):.1f} |"
    )


def tables(names: list[str], rounds: int, seconds: float) -> list[str]:
    """The page: a table for each kind of case that was asked for."""
    cases = [{**CASES, **GPU_CASES}[name] for name in names]
    bare = [case for case in cases if case.n_per_class is None]
    published = [case for case in cases if case.n_per_class is not None]
    lines = [f"Machine: {machine()}. Medians of {rounds} rounds in one run."]
    if bare:
        lines += [
            "",
            "| network | bare, images/s | exact search, passes/s | ratio | range |"
            " 1,000 classes, 50 images each |",
            "|---|---|---|---|---|---|",
            *(against_bare(case, rounds, seconds) for case in bare),
        ]
    if published:
        lines += [
            "",
            "| network | images a class | published loop, passes/s | exact search, passes/s | ratio |"
            " range |",
            "|---|---|---|---|---|---|",
            *(against_published(case, rounds, seconds) for case in published),
        ]
    return lines


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    default = [*CASES, *(GPU_CASES if torch.cuda.is_available() else ())]
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *GPU_CASES], default=default)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = tables(options.cases, options.rounds, options.seconds)
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text(
            "# Exact search against the bare forward pass and the published loop\n\n"
            + "\n".join(lines)
            + "\n"
        )


if __name__ == "__main__":
    main()
