"""The hierarchical search beside its published loop, and beside the bare forward pass.

A candidate is one mask, scored on 500 images of 10 classes (ResNet-20, 32 px), all classes' losses read
from the one pass. Ours: shards as an audit runs them (reading images, FFT, drawing masks, filtering,
losses, sums), at the batch size that `--batch-size auto` picks. Published: `published_hierarchical.py`,
on the same image files, network and masks, with several numbers of loader workers; four, started by
spawn, is its default. Bare: the network alone on ready batches of our size. All with the same allocator
settings. Before anything is timed, both sides must find the same losses.

All sides take turns in one run; figures are medians, ratios medians of each round's ratios. CPU seconds
are those of all processes and threads together: they tell what a candidate costs where the machine is
shared, and do not count that workers run side by side.

    python benchmarks/hierarchical_search.py [--rounds 5] [--candidates 48] [--loops NAME ...] \
        [--output FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from PIL import Image
from published_hierarchical import PUBLISHED_WORKERS, CandidatePass, summed_losses
from torchvision.datasets import ImageFolder

from shortcut_audit.data.datasets import source_from
from shortcut_audit.measures.interface import Round, Shard, Subject
from shortcut_audit.measures.searches.hierarchical import HierarchicalSearch
from shortcut_audit.measures.searches.interface import SearchOutcome
from shortcut_audit.measures.searches.patches import Candidates
from shortcut_audit.models.loading import ModelRequest, load_model
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

EXAMPLES = Path(__file__).parent.parent / "examples"
SIZE, N_CLASSES, N_OWN = 32, 10, 50
SEARCH = HierarchicalSearch()
BARE, OURS = "bare forward", "ours"


def _write_images(folder: Path) -> None:
    """JPEG files of noise whose amplitude falls with frequency; classes differ in brightness."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None, :])
    amplitude = 1 / np.maximum(frequency, 1 / SIZE)
    for label in range(N_CLASSES):
        (folder / f"class{label}").mkdir()
        for number in range(N_OWN):
            noise = np.fft.fft2(generator.standard_normal((3, SIZE, SIZE))) * amplitude
            image = np.fft.ifft2(noise).real
            image = 127 + 12 * label / N_CLASSES + 45 * image / image.std()
            pixels = image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number:03d}.jpg", quality=95)


@dataclass(frozen=True)
class Ours:
    """The first stage of the search on all images, of search and judgement: the loop knows no split."""

    subject: Subject
    shards: tuple[Shard, ...]

    @classmethod
    def of(cls, subject: Subject) -> Ours:
        first: Round[SearchOutcome] = next(SEARCH.rounds(subject.outline))
        images, found = subject.images, {shard.class_index: shard for shard in first.shards}
        return cls(
            subject,
            tuple(
                replace(shard, rows=(images.search_rows[index][0], images.judge_rows[index][1]))
                for index, shard in sorted(found.items())
            ),
        )

    def losses(self, first: int, last: int) -> NDArray[np.float64]:
        """Summed cross-entropy of every class under candidates, (N_CLASSES, last - first)."""
        sums = []
        for shard in self.shards:
            asked = replace(shard, orbits=(first, last))
            total = SEARCH.run(asked, self.subject, self.subject.block(shard.rows), lambda n: None)
            sums.append(total["sums"].sum(axis=0))
        return np.stack(sums)

    def plane(self, number: int) -> NDArray[np.float64]:
        """A candidate's mask over the centred plane, DC kept."""
        grid, work = self.subject.grid, self.shards[0].work
        assert work is not None
        chosen = Candidates.of_work(grid, work).masks(number, number + 1)[0]
        chosen[0] = True
        plane = np.zeros((SIZE, SIZE))
        for sign in (1, -1):
            plane[sign * grid.u[chosen] % SIZE, sign * grid.v[chosen] % SIZE] = 1
        return np.asarray(np.fft.fftshift(plane))


@dataclass(frozen=True)
class Spent:
    """What some candidates took: seconds on the clock, and of all processors together."""

    wall: float
    cpu: float

    def __truediv__(self, n: float) -> Spent:
        return Spent(self.wall / n, self.cpu / n)


def _spent(work: Callable[[], object], device: torch.device) -> Spent:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Spent(time.perf_counter() - wall, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """Of this process and of all its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _bare(subject: Subject) -> Callable[[], None]:
    """The network alone on as many images as a candidate has."""
    n_images = N_CLASSES * N_OWN
    images = torch.randn(n_images, 3, SIZE, SIZE, device=subject.classifier.device)
    batches = [
        batch.contiguous(memory_format=torch.channels_last)
        for batch in torch.split(images, subject.batch_size)
    ]

    def work() -> None:
        for batch in batches:
            subject.classifier.network(batch)

    return work


def _require_same(ours: Ours, theirs: CandidatePass) -> None:
    numbers = range(3)
    found = ours.losses(0, len(numbers))
    with torch.inference_mode(False):
        losses = [theirs.losses(ours.plane(number)) for number in numbers]
    published = np.stack([summed_losses(each, N_OWN, N_CLASSES) for each in losses], axis=1)
    # A mean of 500 losses in single precision, times 500, is good to about 1e-3.
    np.testing.assert_allclose(found, published, atol=5e-3, rtol=1e-5)
    assert np.ptp(published, axis=1).max() > 0.1, "losses too alike to tell the sides apart"


LOOPS: dict[str, dict[str, Any]] = {
    "0 workers": {"workers": 0},
    "2 workers": {"workers": 2},
    "4 workers, its default": {"workers": PUBLISHED_WORKERS},
    "8 workers": {"workers": 8},
    "4 workers, forked": {"workers": PUBLISHED_WORKERS, "start": "fork"},
}


def measure(rounds: int, n_candidates: int, names: Sequence[str]) -> list[str]:
    """The table's rows."""
    model = load_model(ModelRequest(spec=f"{EXAMPLES / 'resnet_cifar.py'}:resnet20", n_classes=N_CLASSES))
    # The loop uses the network in torch's default layout.
    network = copy.deepcopy(model.network).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_images(folder)
        settings = settings_from({"images_per_class": N_OWN, "search": "hierarchical"})
        source = source_from(ImageFolder(str(folder)))
        request = AuditRequest(model=model, source=source, settings=settings, command="benchmark")
        with prepared_audit(request, None) as prepared:
            classifier = prepared.subject.classifier
            mean, std = classifier.mean.tolist(), classifier.std.tolist()
            loop = CandidatePass(
                network.to(classifier.device), folder, SIZE, mean, std, classifier.device
            )
            loops = {each: replace(loop, **LOOPS[each]) for each in names}
            ours = Ours.of(prepared.subject)
            _require_same(ours, replace(loop, workers=0))
            taken = [_round(ours, loops, number * n_candidates, n_candidates) for number in range(rounds)]
            batch = prepared.subject.batch_size
    return [_row(each, [spent[each] for spent in taken], taken, batch) for each in taken[0]]


def _round(
    ours: Ours, loops: Mapping[str, CandidatePass], first: int, n_candidates: int
) -> dict[str, Spent]:
    """One candidate's cost on every side, each side once."""
    device, bare = ours.subject.classifier.device, _bare(ours.subject)
    plane = ours.plane(first)
    spent = {
        BARE: _spent(lambda: [bare() for _ in range(n_candidates)], device) / n_candidates,
        OURS: _spent(lambda: ours.losses(first, first + n_candidates), device) / n_candidates,
    }
    for each, way in loops.items():
        with torch.inference_mode(False), _light_workers():
            spent[each] = _spent(partial(way.losses, plane), device)
    return spent


@contextmanager
def _light_workers() -> Iterator[None]:
    """Spawned workers do not run this script's imports, which are ours and not the loop's.

    What they still import is torch, torchvision and numpy; the published script has timm and
    scikit-learn besides, which is left out in its favour.
    """
    main = vars(sys.modules["__main__"])
    path = main.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            main["__file__"] = path


def _row(each: str, own: Sequence[Spent], taken: Sequence[Mapping[str, Spent]], batch: int) -> str:
    wall, cpu = (statistics.median(getattr(spent, kind) for spent in own) for kind in ("wall", "cpu"))
    ratios = [
        [
            getattr(spent, kind) / getattr(of_round[OURS], kind)
            for spent, of_round in zip(own, taken, strict=True)
        ]
        for kind in ("wall", "cpu")
    ]
    label = f"{each} (batch {batch})" if each in (BARE, OURS) else f"published loop, {each}"
    return (
        f"| {label} | {wall:.3f} | {N_CLASSES * N_OWN / wall:,.0f} | {statistics.median(ratios[0]):.2f} |"
        f" {min(ratios[0]):.2f}–{max(ratios[0]):.2f} | {cpu:.3f} | {statistics.median(ratios[1]):.2f} |"
    )


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=48)
    parser.add_argument("--loops", nargs="*", choices=list(LOOPS), default=list(LOOPS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        f"Machine: {machine()}. Medians of {options.rounds} rounds in one run; ResNet-20, 500 images of"
        " 32 px.",
        "",
        "| side | seconds per candidate | images/s | times ours | range | CPU seconds | times ours |",
        "|---|---|---|---|---|---|---|",
        *measure(options.rounds, options.candidates, options.loops),
    ]
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text(
            "# Hierarchical search against its published loop\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
