"""Stored audits that were changed after they were written never pass for others."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from audited import Made, made_audit

from shortcut_audit.errors import AuditError, ResultError
from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.freeze import frozen_policy
from shortcut_audit.gate.gate_report import GateReport
from shortcut_audit.gate.policy import Policy
from shortcut_audit.gate.soundness import load_sound, require_sound
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.store import content_digest

TODAY = date(2026, 11, 22)
WORSE = Made(
    turned=(0.6, 0.02, 0.02),
    verdicts=("shortcut", "no shortcut", "no shortcut"),
    accuracy=(0.5, 0.9, 0.9),
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return frozen_policy(made_audit(), TODAY)[0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_audit(WORSE).save(tmp_path / "run")


def outcome(folder: Path, policy: Policy) -> GateReport:
    return check_gate(load_sound(folder), policy, today=TODAY)


def changed(folder: Path, change: Callable[[Any], None], sealed: bool = True) -> None:
    """Change `result.json`, with a digest of what it is then (`sealed`) or that of before."""
    path = folder / "result.json"
    content = json.loads(path.read_text())
    change(content)
    if sealed:
        content["result_sha256"] = content_digest(content)
    path.write_text(json.dumps(content))


def test_audits_as_they_are_saved_are_sound(run: Path, result: AuditResult, tmp_path: Path) -> None:
    assert load_sound(run) == made_audit(WORSE)
    require_sound(result)
    result.save(tmp_path / "real")
    assert load_sound(tmp_path / "real") == result


def finding(content: Any, measure: str) -> Any:
    return next(each for each in content["findings"] if each["measure"] == measure)


def horse(content: Any) -> Any:
    return finding(content, "shortcuts")["by_class"][0]


FAULTS: dict[str, Callable[[Any], Any]] = {
    "a hit more": lambda c: finding(c, "predictions")["accuracy_by_class"][0].update(hits=190),
    "a hit more, with its rate": lambda c: finding(c, "predictions")["accuracy_by_class"][0].update(
        hits=101, value=0.505, low=0.4362703449, high=0.573550
    ),
    "fewer images": lambda c: finding(c, "predictions")["accuracy_by_class"][0].update(n=150),
    "other total": lambda c: finding(c, "predictions")["accuracy"].update(hits=599),
    "TPR": lambda c: horse(c)["tpr_kept"].update(hits=3),
    "score": lambda c: horse(c).update(score=0.01),
    "score and verdict": lambda c: horse(c).update(score=0.01, verdict="no shortcut"),
    "verdict": lambda c: horse(c).update(verdict="no shortcut"),
    "q": lambda c: horse(c).update(q_value=0.9),
    "strength": lambda c: horse(c).update(strength_share=None),
    "strength elsewhere": lambda c: horse(c).update(strength_share=0.5),
    "flips": lambda c: horse(c)["ladder"][0]["flips"].update(only_first=10),
    "null": lambda c: horse(c)["ladder"][0]["flips_over_foreign"].update(only_first=10),
    "rung": lambda c: horse(c).update(rung=4),
    "no rung": lambda c: horse(c).update(rung=None),
    "reliability": lambda c: finding(c, "dominant_frequencies")["by_class"][0]["reliability"][
        "log-odds"
    ].update(half_correlation=0.1),
    "nan": lambda c: horse(c).update(score=float("nan")),
    "infinite": lambda c: finding(c, "dominant_frequencies")["by_class"][0].update(
        kept_share=float("inf")
    ),
    "class twice": lambda c: c["provenance"]["data"].update(class_names=["ship", "ship", "frog"]),
    "newer format": lambda c: c.update(format=99),
    "digest": lambda c: c.update(arrays_sha256="0" * 64),
    "sizes": lambda c: c["provenance"]["data"].update(n_judge_by_class=[90, 100, 100]),
}


# What nothing else follows from: only the digest tells.
UNSEEN: dict[str, Callable[[Any], Any]] = {
    "device": lambda c: c["provenance"].update(device="cpv"),
    "batch": lambda c: c["provenance"].update(batch_size=65),
    "dtype": lambda c: c["provenance"].update(dtype="float31"),
    "torch": lambda c: c["provenance"]["versions"].update(torch="2.15.1"),
    "search images": lambda c: finding(c, "dominant_frequencies")["by_class"][0].update(n_search=900),
    "no verdict": lambda c: horse(c).update(verdict="inconclusive"),
    "q a little": lambda c: horse(c).update(q_value=0.04),
    "no digest": lambda c: c.pop("result_sha256"),
    "empty digest": lambda c: c.update(result_sha256=""),
    "older format": lambda c: c.update(format=6),
}


@pytest.mark.parametrize("fault", [*FAULTS, *UNSEEN])
def test_files_that_are_not_what_was_written_are_refused(run: Path, fault: str) -> None:
    changed(run, {**FAULTS, **UNSEEN}[fault], sealed=False)
    with pytest.raises(ResultError):
        load_sound(run)


def test_a_file_that_is_laid_out_otherwise_is_the_same(run: Path) -> None:
    changed(run, lambda content: content["timing"].update(measuring_seconds=1.0), sealed=False)
    assert load_sound(run).findings == made_audit(WORSE).findings


@pytest.mark.parametrize("fault", FAULTS)
def test_numbers_that_do_not_follow_from_their_counts_are_refused(run: Path, fault: str) -> None:
    changed(run, FAULTS[fault])
    with pytest.raises(ResultError):
        load_sound(run)


def test_files_that_are_gone_or_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    other = made_audit().save(tmp_path / "other")
    for name in ("result.json", "arrays.safetensors"):
        damaged = shutil.copytree(run, tmp_path / f"swapped {name}")
        shutil.copy(other / name, damaged / name)
        with pytest.raises(ResultError):
            load_sound(damaged)
        (damaged / name).unlink()
        with pytest.raises(ResultError):
            load_sound(damaged)
    with pytest.raises(ResultError):
        load_sound(tmp_path / "nowhere")


def test_audits_of_data_alone_are_refused(tmp_path: Path) -> None:
    result = made_audit()
    origin = result.provenance.model_copy(update={"model": None})
    result.model_copy(update={"provenance": origin}).with_arrays(result.arrays).save(tmp_path / "run")
    with pytest.raises(ResultError, match="without a model"):
        load_sound(tmp_path / "run")


def mutated(folder: Path, generator: random.Random) -> None:
    """One file of a run folder, damaged in one way."""
    path = folder / generator.choice(["result.json", "arrays.safetensors"])
    content = bytearray(path.read_bytes())
    kind = generator.choice(["truncate", "flip", "flip", "flip", "delete", "zeros", "swap"])
    place = generator.randrange(len(content))
    if kind == "truncate":
        del content[place:]
    elif kind == "flip":
        content[place] ^= 1 << generator.randrange(8)
    elif kind == "zeros":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif kind == "swap":
        other = generator.randrange(len(content))
        content[place], content[other] = content[other], content[place]
    if kind == "delete":
        path.unlink()
    else:
        path.write_bytes(content)


def test_damage_is_told_or_changes_nothing(run: Path, policy: Policy, tmp_path: Path) -> None:
    """A failing audit, damaged at random: never a pass, and no other failure either."""
    whole = outcome(run, policy)
    assert whole.exit_code == 1
    generator, told = random.Random(0), 0
    for n in range(60):
        damaged = shutil.copytree(run, tmp_path / f"damaged {n}")
        mutated(damaged, generator)
        try:
            found = outcome(damaged, policy)
        except AuditError as error:
            assert error.exit_code == 2
            told += 1
        else:
            assert found.exit_code == 1
            assert found.checks == whole.checks
    assert told > 30
