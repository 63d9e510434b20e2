"""Shortcuts on other sets, against known truth: where the plant is there too, and where it is not.

The networks are those of `verdicts.py`, trained on sets with plants. Each is audited on its own planted
images with two further sets: the audited images without the plant, brighter by a step and so no copies,
and the same with the plant put in. A used plant (its true content turns at least 20% of other images)
should be an illusion where it is there and a drop where it is missing; every class without a plant has
no effect in either. CIFAR-10 networks are tried on photographs of another set (Tiny-ImageNet) as well.

    python benchmarks/transfer.py --data FOLDER --work DIR [--cases NAME ...] [--output FILE.md]

DIR is that of `verdicts.py`, whose networks are taken where they are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from verdicts import CASES, N_AUDITED, USED, cut, kept, prepared, true_flips

from shortcut_audit.data.ood import OodSet
from shortcut_audit.data.plans import Plan
from shortcut_audit.data.planting import plant
from shortcut_audit.data.shifts import corrupt
from shortcut_audit.data.sources import open_source
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest

EXPECTED = {"with": "illusion", "without": "drop"}


def brighter(source: Path, work: Path, name: str) -> Path:
    """The audited images, corrupted mildly."""
    out = work / f"{name}-brighter.npz"
    if not out.is_file():
        with np.load(source) as arrays:
            images, labels, classes = arrays["x_test"], arrays["y_test"], arrays["classes"]
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        changed = corrupt(pixels, "brightness", 2, 0, range(len(pixels)))
        written = (changed * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        # Another order: by place, nobody is to take them for copies.
        order = np.random.default_rng(1).permutation(len(written))
        np.savez(out, x=written[order], y=labels[order], classes=classes)
    return out


def others(case_name: str, data: Path, work: Path) -> list[tuple[str, str, OodSet]]:
    """(kind, base, set): with and without the plant."""
    case = CASES[case_name]
    bases = {"brighter": brighter(cut(data, case.data, work), work, case.data)}
    if case.data == "cifar":
        bases["photographs"] = data / "cifar10_ood_tiny32.npz"
    found = []
    for base, path in bases.items():
        classes = open_source(str(path)).class_names
        present = {classes[n] for n in np.unique(open_source(str(path)).labels)}
        entries = [
            {**entry, "classes": sorted(present)} if entry["classes"] == "all" else entry
            for entry in case.entries
            if entry["classes"] == "all" or set(entry["classes"]) <= present
        ]
        found.append(("without", base, OodSet(f"{base} without", open_source(str(path)))))
        if not entries:
            continue
        folder = work / "transfer" / f"{case_name} {base}".replace(" ", "-")
        if not (folder / "truth.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            headroom = 24.0 if case.data == "fashion" else 12.0
            plan = {"name": case_name, "seed": 5, "headroom": headroom, "max_clipped": 0.2}
            plant(str(path), Plan.model_validate({**plan, "plant": entries}), folder, formats=("npz",))
        found.append(("with", base, OodSet(f"{base} with", open_source(f"{folder}::all"))))
    return found


def run_case(name: str, data: Path, work: Path) -> list[dict[str, Any]]:
    """What became of each class of a network on each set."""
    loaded, spec, truth = prepared(CASES[name], name, data, work)
    source = open_source(spec)
    sets = others(name, data, work)
    side = np.asarray(source.read(0)).shape[:2]
    request = AuditRequest(
        model=loaded,
        source=source,
        settings=settings_from({"images_per_class": N_AUDITED, "examples": 0}),
        command="benchmark",
        size=(int(side[0]), int(side[1])),
        ood=[each for _, _, each in sets],
    )
    result = run_audit(request)
    plain = AuditRequest(
        model=loaded, source=source, settings=request.settings, command="benchmark", size=request.size
    )
    flips = true_flips(plain, truth) if truth is not None else {}
    passes = {cost.measure: cost.image_passes for cost in result.provenance.cost}
    n_home = result.provenance.data.n_used
    assert result.transfer is not None
    n_there = sum(item.set.n_used for item in result.transfer.by_set)
    share = passes["transfer"] / n_there / (sum(passes.values()) - passes["transfer"]) * n_home
    rows = []
    for (kind, base, _), item in zip(sets, result.transfer.by_set, strict=True):
        for of_class in item.by_class:
            planted = flips.get(of_class.class_name)
            rows.append(
                {
                    "case": name,
                    "base": base,
                    "kind": kind,
                    "class": of_class.class_name,
                    "plant": planted[0] if planted else "",
                    "true_flip": planted[1] if planted else None,
                    "verdict": of_class.verdict,
                    "recall": of_class.recall.value,
                    "home": of_class.recall_home.value,
                    "props": of_class.props,
                    "lacks": of_class.lacks,
                    "effect": of_class.effect,
                    "share": share,
                }
            )
    return rows


def right_of(rows: Sequence[dict[str, Any]]) -> str:
    """Used plants with the effect that they have."""
    right = [row for row in rows if row["effect"] == EXPECTED[row["kind"]]]
    open_ = [row for row in rows if row["effect"] == "inconclusive"]
    n_wrong = len(rows) - len(right) - len(open_)
    text = f"{len(right)} of {len(rows)}"
    return f"{text} ({len(open_)} inconclusive, {n_wrong} wrong)" if len(right) < len(rows) else text


def lines_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The report."""
    used = [row for row in rows if row["true_flip"] is not None and row["true_flip"] >= USED]
    clean = [row for row in rows if row["true_flip"] is None]
    convicted = [row for row in used if row["verdict"] == "shortcut"]
    quiet = [row for row in clean if row["effect"] == "no effect"]
    open_ = [row for row in clean if row["effect"] == "inconclusive"]
    shares = [row["share"] for row in rows]
    lines = [
        f"Machine: {machine()}. Up to {N_AUDITED} images a class on either side, default settings.",
        "",
        "| what | asked | found |",
        "|---|---|---|",
        f"| used plants: illusion where it is there, drop where it is missing | 95% | {right_of(used)} |",
        f"| the same, of classes that the audit convicts at home | - | {right_of(convicted)} |",
        f"| classes without a plant, decoys among them: no effect | 95% | {len(quiet)} of {len(clean)}"
        f" ({len(open_)} inconclusive) |",
        f"| passes of a set over its share of those of the audit | 1.5 | {np.median(shares):.2f}"
        f" ({min(shares):.2f}–{max(shares):.2f}) |",
        "",
        "| used plants of kind | where it is: illusion | where it is missing: drop |",
        "|---|---|---|",
        *(
            f"| {kind} |"
            + "|".join(
                f" {right_of([row for row in used if (row['plant'], row['kind']) == (kind, there)])} "
                for there in EXPECTED
            )
            + "|"
            for kind in sorted({row["plant"] for row in used})
        ),
        "",
        "| network | set | class | plant | true content turns | verdict at home | recall at home |"
        " there | holds up | would bring back | effect |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    shown = [row for row in rows if row["true_flip"] is not None or row["effect"] != "no effect"]
    for row in shown:
        turned = "-" if row["true_flip"] is None else f"{row['true_flip']:.2f}"
        lines.append(
            f"| {row['case']} | {row['base']}, {row['kind']} | {row['class']} | {row['plant'] or '-'} |"
            f" {turned} | {row['verdict']} | {row['home']:.2f} | {row['recall']:.2f} |"
            f" {row['props']:.2f} | {row['lacks']:.2f} | {row['effect']} |"
        )
    return lines


def main() -> None:
    """Run the cases that are not there yet, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    planted = [name for name, case in CASES.items() if case.entries]
    parser.add_argument("--cases", nargs="+", choices=planted, default=planted)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    (options.work / "transfer").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in options.cases:
        path = options.work / "transfer" / f"{name}.json"
        found = kept(path, lambda name=name: run_case(name, options.data, options.work))
        print(json.dumps([row for row in found if row["true_flip"] is not None]), flush=True)
        rows += found
    text = "\n".join(["# Shortcuts on other sets, against known truth", "", *lines_of(rows), ""])
    print(text)
    if options.output is not None:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
