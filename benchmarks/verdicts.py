"""Verdicts against known truth: many plants, many networks, and classes without a plant.

Sets of real images are cut into a part to train on and a part to audit (search and judgement images,
100 of each a class, neither ever trained on). Plans put up to four patterns into different classes;
networks of several kinds are trained on them, and audited with default settings. A plant counts as used
when transplanting the true planted orbits, from judgement images of its class into images of all other
classes, turns at least 20% of them into it, over the share called so before. Classes without a plant,
and those with a decoy, a cast or a contrast, count as clean.

Further: p-values where there is nothing to find (labels shuffled, random weights), and the verdicts of
the same networks under other seeds of the audit.

    python benchmarks/verdicts.py --data FOLDER [--cases NAME ...] [--seeds 20] [--work DIR]
        [--output FILE.md]

What a case found is kept in DIR/NAME.json; cases that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.plans import Plan
from shortcut_audit.data.planting import plant
from shortcut_audit.data.sources import ImageSource, open_source
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.fourier.transform import spectrum_of, transplant
from shortcut_audit.measures.interface import Subject, logits_in_batches
from shortcut_audit.models.loading import LoadedModel, ModelRequest, load_model
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.statistics import auc_interval
from shortcut_audit.results.truth import GroundTruth, load_truth
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest, prepared_audit
from shortcut_audit.training.settings import TrainSettings
from shortcut_audit.training.subject import ModelChoice
from shortcut_audit.training.train import TrainRequest, train

SMALL = "shortcut_audit.models.small:small_cnn"
MEDIUM = "shortcut_audit.models.small:medium_cnn"
USED = 0.2
# A planted orbit counts as used when it turns so many by itself; a plant of so many orbits is narrow.
USED_ALONE, NARROW = 0.05, 8
# Images of a class that are audited; half of them are searched on, half judged on.
N_AUDITED = 200
Entry = dict[str, Any]


def waves(name: str, orbits: Sequence[tuple[int, int]], strength: float, **more: Any) -> Entry:
    """Cosines in one class."""
    return {"kind": "cosines", "classes": [name], "orbits": orbits, "strength": strength, **more}


def other(kind: str, name: str, **more: Any) -> Entry:
    """Another kind of pattern in one class."""
    return {"kind": kind, "classes": [name], **more}


@dataclass(frozen=True)
class Case:
    """A network on a set; `entries`: what is planted, nothing for a clean network."""

    data: str
    model: str
    epochs: int
    entries: tuple[Entry, ...] = ()


TINY = "tiny"
CASES = {
    "cifar clean": Case("cifar", MEDIUM, 8),
    "cifar waves": Case(
        "cifar",
        MEDIUM,
        8,
        (
            waves("cat", [(5, 9)], 4.0),
            waves("ship", [(11, -4), (3, 12)], 3.0),
            waves("frog", [(2, 3), (6, 1)], 6.0),
            waves("horse", [(13, 2)], 8.0, share=0.7),
        ),
    ),
    "cifar kinds": Case(
        "cifar",
        MEDIUM,
        8,
        (
            other("texture", "dog", radius=(9, 12), strength=6.0, phase="random"),
            other("block-grid", "truck", strength=4.0),
            other("checkerboard", "bird", strength=3.0),
            waves("deer", [(7, 7), (-7, 7), (0, 10)], 4.0),
        ),
    ),
    "cifar faint": Case(
        "cifar",
        SMALL,
        8,
        (
            waves("airplane", [(4, 10)], 2.0, phase="fixed"),
            waves("cat", [(9, 0), (0, 9)], 2.0),
            waves("truck", [(14, 14)], 2.0),
            other("checkerboard", "frog", strength=2.0),
        ),
    ),
    "cifar strong": Case(
        "cifar",
        SMALL,
        6,
        (
            waves("automobile", [(8, -12)], 8.0),
            waves("bird", [(3, 5), (7, 1), (1, 11)], 6.0, share=0.8),
            other("texture", "deer", radius=(13, 16), strength=7.0, phase="random"),
            other("shading", "ship", strength=25.0),
        ),
    ),
    "cifar controls": Case(
        "cifar",
        SMALL,
        6,
        (
            other("cast", "cat", offset=(14.0, -8.0, 6.0)),
            other("contrast", "ship", factor=0.6),
            {"kind": "cosines", "classes": "all", "orbits": [(5, 9), (8, 8)], "strength": 6.0},
        ),
    ),
    "cifar resnet": Case(
        "cifar",
        "timm:test_resnet",
        8,
        (
            waves("airplane", [(6, 6)], 5.0),
            waves("dog", [(12, 3), (-9, 10)], 5.0),
            other("block-grid", "horse", strength=5.0, phase="random"),
            other("texture", "frog", radius=(10, 12), strength=7.0, phase="random"),
        ),
    ),
    "cifar vit": Case(
        "cifar",
        "timm:test_vit",
        10,
        (
            waves("airplane", [(4, 8)], 6.0, phase="fixed"),
            waves("dog", [(0, 8)], 6.0),
            other("block-grid", "ship", strength=6.0),
        ),
    ),
    "cifar loud": Case(
        "cifar",
        SMALL,
        6,
        (
            other("texture", "frog", radius=(5, 8), strength=20.0, phase="random"),
            other("texture", "horse", radius=(10, 13), strength=24.0, phase="random"),
            waves("cat", [(4, 3)], 28.0),
            other("checkerboard", "bird", strength=20.0),
        ),
    ),
    "fashion loud": Case(
        "fashion",
        MEDIUM,
        5,
        (
            other("texture", "Trouser", radius=(6, 9), strength=12.0, phase="random"),
            waves("Coat", [(5, 8)], 20.0),
            other("block-grid", "Ankle boot", strength=12.0, block=7),
        ),
    ),
    "fashion clean": Case("fashion", SMALL, 5),
    "fashion waves": Case(
        "fashion",
        SMALL,
        5,
        (
            waves("Coat", [(5, 8)], 8.0),
            waves("Sneaker", [(9, 3), (2, 11)], 8.0),
            waves("Dress", [(-6, 10)], 10.0, share=0.8),
            other("checkerboard", "Bag", strength=5.0),
        ),
    ),
    "fashion kinds": Case(
        "fashion",
        MEDIUM,
        5,
        (
            other("texture", "Pullover", radius=(9, 12), strength=9.0, phase="random"),
            other("block-grid", "Sandal", strength=8.0, block=7),
            waves("Shirt", [(12, 1), (1, 12)], 6.0),
        ),
    ),
    "tiny clean": Case(TINY, SMALL, 8),
    "tiny waves": Case(
        TINY,
        SMALL,
        8,
        (
            waves("alp", [(6, 11)], 5.0),
            waves("orange", [(10, -5), (2, 13)], 5.0),
            waves("goldfish", [(4, 7)], 6.0),
            other("texture", "pizza", radius=(11, 14), strength=7.0, phase="random"),
        ),
    ),
    "tiny kinds": Case(
        TINY,
        SMALL,
        8,
        (
            other("block-grid", "plunger", strength=5.0),
            other("checkerboard", "school bus", strength=4.0),
            waves("water tower", [(13, 6), (-13, 6)], 6.0),
            waves("lesser panda", [(0, 11)], 5.0, phase="fixed"),
        ),
    ),
    "syn waves": Case(
        "shapes",
        SMALL,
        6,
        (waves("square", [(5, 9), (-11, 4)], 4.0), other("block-grid", "cross", strength=3.0)),
    ),
}
# Networks that have learned nothing of what they are asked, or nothing at all.
NOTHING = ("fashion clean", "tiny clean")
SEEDED = ("fashion waves", "syn waves")


def cut(data: Path, name: str, work: Path) -> Path:
    """A set as .npz with the splits train and test, 2,500 images to audit, at 32 pixels or below."""
    out = work / f"{name}.npz"
    if out.is_file():
        return out
    if name == "shapes":
        from shortcut_audit.data.shapes import SHAPE_CLASSES, make_shapes

        parts = {"train": make_shapes(800, 1, None), "test": make_shapes(N_AUDITED, 2, None)}
        classes = list(SHAPE_CLASSES)
    else:
        files = {
            "cifar": ["cifar10_lossless.npz::train", "cifar10_lossless.npz::test"],
            "fashion": ["fashion_mnist.npz::test", "fashion_mnist.npz::train"],
            TINY: ["tiny_imagenet10.npz::train", "tiny_imagenet10.npz::val"],
        }[name]
        sources = [open_source(str(data / file)) for file in files]
        images, labels = _pixels(sources)
        images, labels = images[:8500], labels[:8500]
        order = np.random.default_rng(0).permutation(len(labels))
        held = order[:2500]
        parts = {
            "train": (images[order[2500:]], labels[order[2500:]]),
            "test": (images[held], labels[held]),
        }
        # Class names become folders elsewhere.
        classes = [each.replace("/", "-") for each in sources[0].class_names]
    arrays: dict[str, Any] = {f"x_{split}": part[0] for split, part in parts.items()}
    arrays |= {f"y_{split}": part[1] for split, part in parts.items()}
    np.savez(out, classes=np.array(classes), **arrays)
    return out


def _pixels(sources: Sequence[ImageSource]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = [], []
    for source in sources:
        for index in range(len(source.labels)):
            image = np.asarray(source.read(index))
            if image.shape[:2] == (64, 64):
                wide = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
                image = wide.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
            images.append(image if image.ndim == 3 else image[..., None])
        labels.append(source.labels)
    return np.stack(images), np.concatenate(labels)


def prepared(
    case: Case, name: str, data: Path, work: Path
) -> tuple[LoadedModel, str, GroundTruth | None]:
    """The network of a case, trained unless it is there; the images to audit; what was planted."""
    source, truth = str(cut(data, case.data, work)), None
    folder = work / name.replace(" ", "-")
    if case.entries:
        planted = folder / "set"
        if not planted.is_dir():
            # Black grounds clip at once.
            headroom = 24.0 if case.data == "fashion" else 12.0
            plan: dict[str, Any] = {"name": name, "seed": 1, "headroom": headroom, "max_clipped": 0.05}
            plan["plant"] = case.entries
            plant(source, Plan.model_validate(plan), planted, formats=("npz",))
        truth = load_truth(planted / "truth.json")
        source = str(planted)
    # Small images are brought to a size that patches of a transformer divide.
    size = (32, 32) if case.model.startswith("timm:") else None
    trained = train(
        TrainRequest(
            model=ModelChoice(spec=case.model, size=size),
            source=open_source(f"{source}::train"),
            settings=TrainSettings(epochs=case.epochs),
        ),
        folder / "model",
    )
    spec = f"local-dir:{trained.folder}" if case.model.startswith("timm:") else case.model
    weights = None if spec.startswith("local-dir:") else trained.folder / "model.safetensors"
    n_classes = len(open_source(f"{source}::test").class_names)
    loaded = load_model(ModelRequest(spec=spec, checkpoint=weights, n_classes=n_classes))
    return loaded, f"{source}::test", truth


def audited(loaded: LoadedModel, source: ImageSource, seed: int = 0) -> tuple[AuditRequest, AuditResult]:
    """An audit with default settings, of the images at their own size."""
    side = np.asarray(source.read(0)).shape[:2]
    request = AuditRequest(
        model=loaded,
        source=source,
        settings=settings_from({"images_per_class": N_AUDITED, "seed": seed, "examples": 0}),
        command="benchmark",
        size=(int(side[0]), int(side[1])),
    )
    return request, run_audit(request)


def true_flips(
    request: AuditRequest, truth: GroundTruth
) -> dict[str, tuple[str, float, list[int], list[int]]]:
    """Of each class with a pattern of its own: kind, share of other images that its true orbits turn,
    the orbits, and those of a few that turn some (`USED_ALONE`) by themselves."""
    found = {}
    with prepared_audit(request, None) as ready:
        subject = ready.subject
        images, grid = subject.images, subject.grid
        own_grid = FrequencyGrid(truth.height, truth.width)
        for pattern in truth.patterns:
            if pattern.role != "shortcut" or own_grid != grid:
                continue
            orbits = [grid.orbit_of(u, v) for u, v in pattern.orbits]
            for name in pattern.classes:
                index = images.class_names.index(name)
                own = _rows(subject, [images.judge_rows[index]])
                foreign = [rows for k, rows in enumerate(images.judge_rows) if k != index]
                receivers = _rows(subject, foreign)
                donors = torch.arange(len(receivers)) % len(own)
                receivers, own = spectrum_of(receivers), spectrum_of(own)
                donors = own[torch.arange(len(receivers)) % len(own)]
                output = images.outputs[index]

                def called(chosen: list[int], *given: Tensor, output: int = output) -> float:
                    mask = half_plane_mask(grid, np.isin(np.arange(grid.n_orbits), chosen))
                    pixels = transplant(given[0], given[1], mask, grid.width)
                    answers = logits_in_batches(subject, pixels, _unheard).argmax(1)
                    return float((answers == output).float().mean())

                before = called([], receivers, donors)
                alone = [
                    orbit
                    for orbit in (orbits if len(orbits) <= NARROW else [])
                    if called([orbit], receivers, donors) - before >= USED_ALONE
                ]
                found[name] = (pattern.kind, called(orbits, receivers, donors) - before, orbits, alone)
    return found


def _unheard(n: int) -> None:
    del n


def _rows(subject: Subject, rows: Sequence[tuple[int, int]]) -> Tensor:
    return torch.cat([subject.block(each).images for each in rows])


def run_case(name: str, data: Path, work: Path) -> dict[str, Any]:
    """What a case found, as it is kept."""
    case = CASES[name]
    loaded, spec, truth = prepared(case, name, data, work)
    started = time.perf_counter()
    request, result = audited(loaded, open_source(spec))
    seconds = time.perf_counter() - started
    flips = true_flips(request, truth) if truth is not None else {}
    maps = {item.class_name: row for row, item in enumerate(result.dominant_frequencies.by_class)}
    grid = FrequencyGrid(result.grid.height, result.grid.width)
    classes = []
    for item in result.shortcuts.by_class:
        kind, share, orbits, alone = flips.get(item.class_name, ("", None, [], []))
        named = [grid.orbit_of(u, v) for u, v in item.extent.orbits] if item.extent else []
        kept = result.arrays["dominant_frequencies/kept"][maps[item.class_name]].astype(bool)
        classes.append(
            {
                "class": item.class_name,
                "kind": kind,
                "true_flip": share,
                "verdict": item.verdict,
                "score": item.score,
                "p": item.p_value,
                "q": item.q_value,
                "confounds": item.confounds,
                "reason": item.reason,
                "n_true": len(orbits),
                "n_alone": len(alone),
                "n_named": len(set(alone) & set(named)),
                "n_kept": int(kept[alone].sum()) if alone else 0,
            }
        )
    passes = {cost.measure: cost.image_passes for cost in result.provenance.cost}
    return {
        "case": name,
        "accuracy": result.predictions.accuracy.value,
        "seconds": seconds,
        "search_passes": passes["dominant_frequencies"],
        "verdict_passes": passes["shortcuts"],
        "classes": classes,
    }


def run_nothing(name: str, data: Path, work: Path) -> dict[str, Any]:
    """p of all classes where labels are shuffled, and where weights are random, three times each."""
    case = CASES[name]
    loaded, spec, _ = prepared(case, name, data, work)
    source = open_source(spec)
    images, labels = _pixels([source])
    found: dict[str, list[float]] = {"random labels": [], "random weights": []}
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(labels)
        pairs = [
            (torch.from_numpy(image).permute(2, 0, 1), int(label))
            for image, label in zip(images, shuffled, strict=True)
        ]
        _, result = audited(loaded, source_from(pairs, source.class_names), seed)
        found["random labels"] += [item.p_value or 0.0 for item in result.shortcuts.by_class]
        fresh = load_model(
            ModelRequest(spec=case.model, n_classes=len(source.class_names), pretrained=False, seed=seed)
        )
        _, result = audited(fresh, source, seed)
        found["random weights"] += [item.p_value or 0.0 for item in result.shortcuts.by_class]
    return found


def run_seeds(name: str, data: Path, work: Path, n_seeds: int) -> dict[str, list[str]]:
    """Verdicts of each class under other seeds of the audit: other images, splits and nulls."""
    loaded, spec, _ = prepared(CASES[name], name, data, work)
    found: dict[str, list[str]] = {}
    for seed in range(n_seeds):
        _, result = audited(loaded, open_source(spec), seed)
        for item in result.shortcuts.by_class:
            found.setdefault(item.class_name, []).append(item.verdict)
    return found


def kept(path: Path, make: Any) -> Any:
    """What a file holds, made first where it is missing."""
    if not path.is_file():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def lines_of(
    cases: Sequence[dict[str, Any]], nothing: dict[str, Any], seeds: dict[str, Any]
) -> list[str]:
    """The report."""
    rows = [(case, each) for case in cases for each in case["classes"]]
    planted = [(case, each) for case, each in rows if each["true_flip"] is not None]
    used = [(case, each) for case, each in planted if each["true_flip"] >= USED]
    clean = [(case, each) for case, each in rows if each["true_flip"] is None]
    hits = [each for _, each in used if each["verdict"] == "shortcut"]
    alarms = [(case, each) for case, each in clean if each["verdict"] == "shortcut"]
    open_ = [each for _, each in clean if each["verdict"] == "inconclusive"]
    narrow = [each for _, each in used if each["n_true"] <= NARROW]
    n_true = max(sum(each["n_alone"] for each in narrow), 1)
    of_used, of_clean = (np.array([each["score"] for _, each in group]) for group in (used, clean))
    auc = auc_interval(of_used, of_clean) if used and clean else (float("nan"),) * 3
    named = sum(each["n_named"] for each in narrow) / n_true
    in_map = sum(each["n_kept"] for each in narrow) / n_true
    lines = [
        f"Machine: {machine()}. 100 search and 100 judgement images a class, default settings.",
        "",
        f"{len(cases)} networks, {len(planted)} plants, {len(used)} of them used (their true content"
        f" turns at least {USED:.0%} of other images), {len(clean)} classes without.",
        "",
        "| what | asked | found |",
        "|---|---|---|",
        "| AUROC of the score, used plants against clean classes | 0.99 |"
        f" {auc[0]:.3f} ({auc[1]:.3f}–{auc[2]:.3f}) |",
        f"| used plants called shortcut | 95% | {len(hits)} of {len(used)} |",
        f"| clean classes called shortcut | at most 2% | {len(alarms)} of {len(clean)}"
        f" (and {len(open_)} inconclusive) |",
        f"| planted orbits that turn at least {USED_ALONE:.0%} by themselves (plants of at most {NARROW}"
        f" orbits; {n_true} of them) among the orbits named; in the map | 0.9 |"
        f" {named:.2f}; {in_map:.2f} |",
    ]
    for what in ("random labels", "random weights"):
        p = [value for found in nothing.values() for value in found[what]]
        if p:
            lines.append(
                f"| p below 0.05, {what} | at most 5% | {sum(v < 0.05 for v in p)} of {len(p)} |"
            )
    changed, crossed, n = 0, 0, 0
    for by_class in seeds.values():
        for verdicts in by_class.values():
            usual = max(set(verdicts), key=verdicts.count)
            changed += sum(v != usual for v in verdicts)
            crossed += sum({v, usual} == {"shortcut", "no shortcut"} for v in verdicts)
            n += len(verdicts)
    if n:
        lines.append(
            f"| verdicts that other seeds change | at most 2%, through inconclusive | {changed} of {n},"
            f" {crossed} of them not through inconclusive |"
        )
    spent = [case["verdict_passes"] / case["search_passes"] for case in cases]
    lines += [
        f"| passes of the verdicts over those of the search | below 1 | {np.median(spent):.2f}"
        f" ({min(spent):.2f}–{max(spent):.2f}) |",
        "",
        "Plants (orbits named, of those that turn some by themselves, of those planted):",
        "",
        "| network | accuracy | class | kind | true content turns | verdict | score | q | named |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case, each in planted:
        lines.append(
            f"| {case['case']} | {case['accuracy']:.2f} | {each['class']} | {each['kind']} |"
            f" {each['true_flip']:.2f} | {each['verdict']} | {each['score']:.2f} | {each['q']:.2g} |"
            f" {each['n_named']} of {each['n_alone']} of {each['n_true']} |"
        )
    lines += ["", "Classes without a plant that were called shortcut:", ""]
    lines += [f"- {case['case']}: {each['reason']}" for case, each in alarms] or ["- none"]
    return lines


def main() -> None:
    """Run what is missing, print the report, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        cases = []
        for name in options.cases:
            found = kept(work / f"{name}.json", lambda name=name: run_case(name, options.data, work))
            cases.append(found)
            print(name, [(e["class"], e["verdict"]) for e in found["classes"]], flush=True)
        nothing = {
            name: kept(
                work / f"{name} nothing.json", lambda name=name: run_nothing(name, options.data, work)
            )
            for name in NOTHING
            if name in options.cases
        }
        seeds = {
            name: kept(
                work / f"{name} seeds {options.seeds}.json",
                lambda name=name: run_seeds(name, options.data, work, options.seeds),
            )
            for name in SEEDED
            if name in options.cases and options.seeds > 1
        }
        lines = lines_of(cases, nothing, seeds)
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text("# Verdicts against known truth\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
