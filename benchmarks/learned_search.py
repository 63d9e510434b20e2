"""The learned search beside the hierarchical one: how good are their maps, and what do they cost?

Both search the same images of every class, and keep the same share of the spectrum. The judge is the
class's mean cross-entropy on images that neither search saw, of which only the map, and DC, is kept.
For scale: the lowest frequencies, and random orbits (mean of five draws), of the same share.

    python benchmarks/learned_search.py --data cifar10.npz::train --checkpoint resnet20.th \
        [--kept-share 0.05] [--steps 200] [--candidates 1000 2000 4000 8000] [--classes cat dog] \
        [--output FILE.md]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from driving import driven
from machine import machine
from numpy.typing import NDArray

from shortcut_audit.data.sources import open_source
from shortcut_audit.fourier.masks import (
    BoolArray,
    found_share,
    half_plane_mask,
    rank_orbits,
    top_share,
)
from shortcut_audit.fourier.transform import apply_mask
from shortcut_audit.measures.interface import Subject
from shortcut_audit.measures.responses import cross_entropy
from shortcut_audit.measures.searches.folds import rankable_orbits
from shortcut_audit.measures.searches.interface import ClassSearch
from shortcut_audit.models.loading import ModelRequest, load_model
from shortcut_audit.results.settings import SearchName, settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

EXAMPLES = Path(__file__).parent.parent / "examples"
N_RANDOM = 5
NAMES: tuple[SearchName, ...] = ("learned", "hierarchical")
SETTINGS = ("kept_share", "steps", "candidates", "classes", "batch_size", "seed")


def map_of(subject: Subject, found: ClassSearch) -> BoolArray:
    """The orbits that a search keeps of a class."""
    if found.kept is not None:
        return found.kept
    rank = rank_orbits(found.importance[found.score], rankable_orbits(subject.outline), found.ranking)
    return top_share(subject.grid, rank, subject.settings.kept_share)


def judged(subject: Subject, index: int, kept: BoolArray) -> tuple[float, float]:
    """Mean cross-entropy (nats) and recall on judgement images of which `kept` and DC are left."""
    chosen = kept.copy()
    chosen[0] = True
    plane = half_plane_mask(subject.grid, chosen).to(subject.classifier.device)
    output = subject.output_of(index)
    losses, hits = [], []
    start, stop = subject.outline.judge_rows[index]
    for row in range(start, stop, subject.batch_size):
        block = subject.block((row, min(row + subject.batch_size, stop)))
        logits = subject.logits(apply_mask(block.spectrum, plane, subject.grid.width))
        losses.append(cross_entropy(logits, output))
        hits.append(logits.argmax(dim=1) == output)
    return torch.cat(losses).mean().item(), torch.cat(hits).double().mean().item()


def random_map(subject: Subject, draw: int) -> BoolArray:
    """Orbits drawn blindly, as many bins as a map keeps."""
    drawn: NDArray[np.float64] = np.random.default_rng(draw).random(subject.grid.n_orbits)
    return top_share(
        subject.grid, rank_orbits(drawn, rankable_orbits(subject.outline)), subject.settings.kept_share
    )


@dataclass(frozen=True)
class Side:
    """What one search came to: maps and figures by class, and its cost."""

    kept: dict[int, BoolArray]
    figures: dict[int, tuple[float, float]]
    reliability: list[float]
    n_passes: int
    seconds: float
    kept_share: float

    @classmethod
    def of(cls, subject: Subject, name: SearchName) -> Side:
        """Search, and judge."""
        run = driven(subject, name)
        outcome, n_passes, seconds = run.outcome, run.n_passes, run.seconds
        kept = {found.class_index: map_of(subject, found) for found in outcome.by_class}
        rankable = rankable_orbits(subject.outline)
        return cls(
            kept=kept,
            figures={index: judged(subject, index, mask) for index, mask in kept.items()},
            reliability=[found.reliability["joint"].value or 0.0 for found in outcome.by_class],
            n_passes=n_passes,
            seconds=seconds,
            kept_share=float(np.mean([found_share(subject.grid, m, rankable) for m in kept.values()])),
        )

    def told(self, name: str) -> str:
        """Its cost, in a sentence."""
        low, high = min(self.reliability), max(self.reliability)
        return (
            f"{name.capitalize()}: {self.n_passes:,} image passes, {self.seconds:,.0f} s, kept share"
            f" {self.kept_share:.4f}, reliability {low:.2f} to {high:.2f}."
        )


def compared(options: argparse.Namespace) -> list[str]:
    """Lines of the table."""
    loaded = load_model(ModelRequest(spec=options.model, checkpoint=options.checkpoint))
    source = open_source(options.data)
    n_images = options.search_images + options.judge_images
    values: dict[str, Any] = {
        "images_per_class": n_images,
        "search_share": options.search_images / n_images,
        **{name: getattr(options, name) for name in SETTINGS},
    }
    sides: dict[SearchName, Side] = {}
    for name in NAMES:
        settings = settings_from({**values, "search": name})
        request = AuditRequest(model=loaded, source=source, settings=settings, command="benchmark")
        with prepared_audit(request, None) as prepared:
            subject = prepared.subject
            sides[name] = Side.of(subject, name)
            chosen = subject.outline.searched
            blind = {index: _blindly(subject, index) for index in chosen}
            low = top_share(subject.grid, _lowest_first(subject), options.kept_share)
            lowest = {index: judged(subject, index, low) for index in chosen}
            class_names = subject.images.class_names
    figures = [*(sides[name].figures for name in NAMES), lowest, blind]
    n_better = sum(figures[0][index][0] <= figures[1][index][0] for index in chosen)
    ratio = sides["hierarchical"].n_passes / sides["learned"].n_passes
    heads = " | ".join(f"{column}: nats (recall)" for column in (*NAMES, "lowest", "random"))
    rows = [
        " | ".join([class_names[index], *(f"{f[index][0]:.2f} ({f[index][1]:.2f})" for f in figures)])
        for index in chosen
    ]
    return [
        f"| class | {heads} |",
        "|---" * (len(figures) + 1) + "|",
        *(f"| {row} |" for row in rows),
        "",
        f"Learned no worse for {n_better} of {len(chosen)} classes, at 1/{ratio:.1f} of the passes.",
        *(sides[name].told(name) for name in NAMES),
    ]


def _lowest_first(subject: Subject) -> NDArray[np.int64]:
    return rank_orbits(-subject.grid.radius, rankable_orbits(subject.outline))


def _blindly(subject: Subject, index: int) -> tuple[float, float]:
    drawn = [judged(subject, index, random_map(subject, number)) for number in range(N_RANDOM)]
    losses, recalls = zip(*drawn, strict=True)
    return float(np.mean(losses)), float(np.mean(recalls))


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default=f"{EXAMPLES / 'resnet_cifar.py'}:resnet20")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--search-images", type=int, default=50)
    parser.add_argument("--judge-images", type=int, default=200)
    parser.add_argument("--kept-share", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--candidates", type=int, nargs="+")
    parser.add_argument("--classes", nargs="+")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        "# The learned search beside the hierarchical one",
        "",
        f"Machine: {machine()}. {options.search_images} search and {options.judge_images} judgement"
        " images a class.",
        "",
        *compared(options),
    ]
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
