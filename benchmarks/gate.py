"""The gate against known truth: false failures, planted shortcuts, damaged files, and its time.

False failures: audits of the same clean network are drawn from real ones. Each network is audited with
five seeds; a replica takes one of these audits at random (with its own images, split, maps and best
rungs) and draws its images again, with replacement, class by class: answers on unfiltered images and
under the maps from the outcomes of single images, the transplants of every rung from their fourfold
tables, each null given what the transplant did. Verdicts are decided anew from these counts. Each of 200
replicas is held against a policy frozen from a real audit, and from another replica. Whether that is
honest is told by how far real audits with other seeds lie apart, beside replicas; these are gated too.

Planted shortcuts: the clean network is fine-tuned where one class carries a plant, and held against the
policy frozen from itself as it was before, both audited on the same images, which carry the plant: 30
cases. Further, networks of `verdicts.py` that were trained with plants from the start, against the clean
one of their set. With the policy alone, and image by image (`--baseline`).

Damage: files of a failing audit are cut, flipped, swapped or deleted.

    python benchmarks/gate.py --data FOLDER --work DIR [--output FILE.md]

DIR keeps sets, networks, audits and what replicas came to; what is there is not made again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gate_audits import (
    CASES,
    N_SEEDS,
    RESNET,
    SETS,
    TRAINED,
    clean_audit,
    planted_audits,
    trained_audits,
    trained_used,
    used_share,
)
from gate_replicas import replica_of
from machine import machine
from verdicts import USED, kept

from shortcut_audit.errors import AuditError
from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.freeze import VERDICT_RULE, frozen_policy
from shortcut_audit.gate.gate_report import GateReport
from shortcut_audit.gate.policy import Policy
from shortcut_audit.gate.policy_file import read_policy
from shortcut_audit.gate.policy_text import policy_text
from shortcut_audit.gate.soundness import load_sound
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.run_numbers import ClassNumbers, numbers_of

TODAY = date(2026, 1, 1)
N_REPLICAS, N_DAMAGED, N_TIMED = 200, 500, 7
NETWORKS = (*SETS, RESNET)


def frozen(result: AuditResult) -> Policy:
    """The policy of an audit."""
    return frozen_policy(result, TODAY)[0]


def failures(report: GateReport) -> list[tuple[str, str | None]]:
    """Rules and classes that failed, or could not be held."""
    return [(check.rule, check.class_name) for check in report.checks if check.level == "error"]


def false_failures(pool: Sequence[AuditResult]) -> dict[str, Any]:
    """Replicas of one network against a policy from its first audit, and from replicas."""
    found: dict[str, Any] = {"fixed": [], "fresh": [], "inconclusive": 0, "checks": 0}
    policy = frozen(pool[0])
    for n in range(N_REPLICAS):
        generator = np.random.default_rng([17, n])
        run, other = (replica_of(pool[int(generator.integers(len(pool)))], generator) for _ in range(2))
        report = check_gate(run, policy, today=TODAY)
        found["fixed"].append(failures(report))
        found["inconclusive"] += sum(check.outcome == "inconclusive" for check in report.checks)
        found["checks"] += len(report.checks)
        found["fresh"].append(failures(check_gate(run, frozen(other), today=TODAY)))
    return found


def real_failures(pool: Sequence[AuditResult]) -> list[list[tuple[str, str | None]]]:
    """Every real audit against every other of the same network, image by image where they share any."""
    return [
        failures(check_gate(run, frozen(other), baseline=other, today=TODAY))
        for other in pool
        for run in pool
        if run is not other
    ]


def spreads(pool: Sequence[AuditResult]) -> dict[str, tuple[float, float]]:
    """Standard deviation of a class's number over audits, real ones and replicas: median over classes."""
    generator = np.random.default_rng(3)
    made = [replica_of(pool[k % len(pool)], generator) for k in range(10 * len(pool))]
    real, replicas = (
        {name: float(np.median(np.std(values, axis=0, ddof=1))) for name, values in _values(each).items()}
        for each in (pool, made)
    )
    return {name: (real[name], replicas[name]) for name in real}


def _values(results: Sequence[AuditResult]) -> dict[str, np.ndarray[Any, Any]]:
    """Numbers (audits, classes) by name."""
    every = [numbers_of(result).classes for result in results]
    numbers = np.array([[_four(item) for item in classes] for classes in every])
    names = ("accuracy", "TPR under the map", "FPR under the map", "flip rate")
    return {name: numbers[..., k] for k, name in enumerate(names)}


def _four(item: ClassNumbers) -> list[float]:
    shares = [hits[0] / hits[1] for hits in (item.accuracy, item.tpr_kept, item.fpr_kept) if hits]
    return [*shares, 0.0 if item.net_flips is None else item.net_flips.value]


def planted(data: Path, work: Path) -> list[dict[str, Any]]:
    """Networks with plants against the policies of their clean baselines; of trained ones, one row a
    plant."""
    found = []
    for case in CASES:
        row = _row(*planted_audits(case, data, work), case.class_name)
        used = used_share(case, data, work)
        found.append(
            {"case": f"{case.data}, fine-tuned", "kind": case.entry["kind"], "used": used, **row}
        )
    for name in TRAINED:
        before, result = trained_audits(name, data, work)
        for class_name, (kind, used) in trained_used(name, data, work).items():
            row = _row(before, result, class_name)
            found.append({"case": f"{name}, trained", "kind": kind, "used": used, **row})
    return found


def _row(before: AuditResult, result: AuditResult, class_name: str) -> dict[str, Any]:
    """What the gate made of a planted class."""
    policy = frozen(before)
    report = check_gate(result, policy, today=TODAY)
    paired = check_gate(result, policy, baseline=before, today=TODAY)
    own = {rule for rule, name in failures(report) if name == class_name}
    doubts = [c.rule for c in report.checks if c.outcome == "inconclusive" and c.class_name == class_name]
    item = next(i for i in result.shortcuts.by_class if i.class_name == class_name)
    return {
        "class": class_name,
        "verdict": item.verdict,
        "score": item.score,
        "named": bool(own),
        "rules": sorted(own),
        "named_paired": class_name in {name for _, name in failures(paired)},
        "by_verdict": VERDICT_RULE in own,
        "warned": VERDICT_RULE in doubts,
    }


def damaged(stored: Sequence[Path], policy: Policy) -> Counter[str]:
    """What became of damaged copies of a failing audit, or of its baseline."""
    outcomes: Counter[str] = Counter()
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / each.name for each in stored]

        def checked() -> GateReport:
            run, before = (load_sound(copy) for copy in copies)
            return check_gate(run, policy, baseline=before, today=TODAY)

        for number in range(N_DAMAGED + 1):
            for source, copy in zip(stored, copies, strict=True):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(source, copy)
            if number == 0:
                whole = checked()
                assert whole.exit_code == 1
                continue
            _damage(generator.choice(copies), generator)
            outcomes[_became(checked, whole)] += 1
    return outcomes


def cut_short(run: Path, policy: Policy) -> Counter[str]:
    """What became of policies that end too early, at any line."""
    result, whole = load_sound(run), policy_text(policy)
    report = check_gate(result, policy, today=TODAY)
    outcomes: Counter[str] = Counter()
    lines = whole.splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.toml"

        def checked() -> GateReport:
            return check_gate(result, read_policy(path), today=TODAY)

        for n in range(len(lines)):
            path.write_text("".join(lines[:n]))
            outcomes[_became(checked, report)] += 1
    return outcomes


def _became(checked: Callable[[], GateReport], whole: GateReport) -> str:
    try:
        report = checked()
    except AuditError as error:
        return f"exit {error.exit_code}"
    except Exception as error:
        return f"exit 3 ({type(error).__name__})"
    if report.checks == whole.checks:
        return "equal result"
    return "PASSED" if report.passed else "other failure"


def _damage(folder: Path, generator: random.Random) -> None:
    path = folder / generator.choice(["result.json", "result.json", "arrays.safetensors"])
    content = bytearray(path.read_bytes())
    kind = generator.choice(["truncate", "flip", "flip", "flip", "digit", "digit", "swap", "delete"])
    place = generator.randrange(len(content))
    if kind == "delete":
        path.unlink()
        return
    if kind == "truncate":
        del content[place:]
    elif kind == "flip":
        content[place] ^= 1 << generator.randrange(8)
    elif kind == "digit" and path.suffix == ".json":
        # Still valid JSON: the hardest to tell.
        digits = [k for k in range(place, len(content)) if 48 <= content[k] <= 57]
        content[digits[0] if digits else place] = generator.choice(b"0123456789")
    else:
        other = generator.randrange(len(content))
        content[place], content[other] = content[other], content[place]
    path.write_bytes(content)


def seconds(run: Path, policy: Policy) -> tuple[float, float]:
    """`gate check` as a whole process: wall and processor seconds, the median over some."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.toml"
        path.write_text(policy_text(policy))
        command = [
            sys.executable,
            "-m",
            "shortcut_audit",
            "gate",
            "check",
            str(run),
            "--policy",
            str(path),
        ]
        measured = []
        for _ in range(N_TIMED):
            before, started = _children(), time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            measured.append((time.perf_counter() - started, _children() - before))
    wall, processor = zip(*measured, strict=True)
    return statistics.median(wall), statistics.median(processor)


def _children() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def lines_of(found: dict[str, Any]) -> list[str]:
    """The report."""
    lines = [
        "# Gate",
        "",
        f"`python benchmarks/gate.py`, {machine()}.",
        "",
        *(__doc__ or "").split("\n\n    python")[0].split("\n")[2:],
    ]
    lines += ["", "| network | audits | failed, policy of a real audit | failed, policies of replicas |"]
    lines[-1] += " inconclusive checks | real audits against each other: failed |"
    lines += ["|---|---|---|---|---|---|"]
    for name, each in found["false"].items():
        real = found["real"][name]
        lines.append(
            f"| {name} | {len(each['fixed'])} | {_failed(each['fixed'])} | {_failed(each['fresh'])} |"
            f" {each['inconclusive']} of {each['checks']} | {_failed(real)} of {len(real)} |"
        )
    lines += ["", "Standard deviation over audits of a class's number (median over classes), real with"]
    lines += [
        "other seeds / replicas:",
        "",
        "| network | number | real | replicas |",
        "|---|---|---|---|",
    ]
    for name, numbers in found["spreads"].items():
        lines += [f"| {name} | {what} | {a:.3f} | {b:.3f} |" for what, (a, b) in numbers.items()]
    lines += _lines_of_planted(found["planted"])
    lines += ["", "## Damaged files", ""]
    kinds = {
        f"Of {N_DAMAGED} damaged copies of an audit that fails, or of its baseline": "damaged",
        "Of its policy, cut short at every line": "cut short",
    }
    for what, key in kinds.items():
        lines += [f"{what}: {', '.join(f'{n} {each}' for each, n in sorted(found[key].items()))}.", ""]
    wall, processor = found["seconds"]
    lines += [
        "## Time",
        "",
        f"`gate check` of a run of ten classes, as a whole process: {processor:.2f} s of",
    ]
    lines += [f"processor time, {wall:.2f} s on the clock with what else the machine did.", ""]
    return lines


def _lines_of_planted(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["", "## Planted shortcuts", ""]
    used = [row for row in rows if row["used"] >= USED]
    unused = [row for row in rows if row["used"] < USED]
    lines.append(
        f"A plant is used when its true orbits turn at least {USED:.0%} of other images. The gate fails"
        " with the class named:"
    )
    for what in ("fine-tuned", "trained"):
        own = [row for row in used if row["case"].endswith(what)]
        missed = [row for row in own if not row["named"]]
        lines.append(
            f"- networks that were {what} with plants, of {len(own)} used ones"
            f" {len(own) - len(missed)} ({sum(row['named_paired'] for row in own)} image by image),"
            f" {sum(row['by_verdict'] for row in own)} by the rule about verdicts; of the other"
            f" {len(missed)}, {sum(row['warned'] for row in missed)} are inconclusive there, with a"
            " warning;"
        )
    lines.append(
        f"- of {len(unused)} plants that the network does not use, {sum(row['named'] for row in unused)}"
        " (it is another network all the same)."
    )
    lines += [
        "",
        "| case | class | plant | used | verdict | score | fails | by its verdict | image by image"
        " | rules |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["used"]):
        told = ["yes" if row[key] else "no" for key in ("named", "by_verdict", "named_paired")]
        told[1] = "inconclusive" if row["warned"] else told[1]
        lines.append(
            f"| {row['case']} | {row['class']} | {row['kind']} | {row['used']:.2f} | {row['verdict']} |"
            f" {row['score']:.2f} | {' | '.join(told)} | {', '.join(row['rules'])} |"
        )
    return lines


def _failed(reports: Sequence[Sequence[Any]]) -> int:
    return sum(bool(each) for each in reports)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    pools = {
        name: [clean_audit(name, seed, given.data, given.work)[1] for seed in range(N_SEEDS)]
        for name in NETWORKS
    }
    work: Path = given.work
    found: dict[str, Any] = {
        "false": {
            n: kept(work / f"false {n}.json", partial(false_failures, p)) for n, p in pools.items()
        },
        "real": {n: kept(work / f"real {n}.json", partial(real_failures, p)) for n, p in pools.items()},
        "spreads": {name: spreads(pool) for name, pool in pools.items()},
        "planted": planted(given.data, work),
    }
    for name in pools:
        for key in ("fixed", "fresh"):
            print(name, key, [each for each in found["false"][name][key] if each])
        print(name, "real", [each for each in found["real"][name] if each])
    with tempfile.TemporaryDirectory() as folder:
        # Written anew: files of this version, whoever made the audits.
        before, result = planted_audits(CASES[0], given.data, given.work)
        stored = [each.save(Path(folder) / name) for name, each in (("run", result), ("before", before))]
        policy = frozen(before)
        found["damaged"] = damaged(stored, policy)
        found["cut short"] = cut_short(stored[0], policy)
        found["seconds"] = seconds(stored[0], policy)
    text = "\n".join(lines_of(found))
    print(text)
    if given.output is not None:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
