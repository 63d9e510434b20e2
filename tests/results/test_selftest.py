"""The score of a self-test against outcomes made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shortcut_audit.errors import ResultError
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.selftest import (
    SELFTEST_FILE,
    CaseOutcome,
    ClassOutcome,
    SelfTestResult,
    load_selftest,
)


def turning(n: int, of: int = 100) -> Paired:
    return Paired(n=of, both=3, only_first=n + 2, only_second=2)


def outcome(
    name: str = "a", role: str = "clean", verdict: str = "no shortcut", **more: Any
) -> ClassOutcome:
    return ClassOutcome(class_name=name, role=role, verdict=verdict, **more)  # type: ignore[arg-type]


def plant(turned: int, verdict: str = "shortcut", **more: Any) -> ClassOutcome:
    more = {"n_planted": 2, "n_named": 4, "n_planted_named": 2, "n_planted_in_map": 2, **more}
    return outcome("p", "plant", verdict, truth=turning(turned), planted="cosines 4", **more)


def case(*items: ClassOutcome, structure: str = "") -> CaseOutcome:
    return CaseOutcome(
        name="case",
        architecture="net",
        height=8,
        width=9,
        structure=structure,  # type: ignore[arg-type]
        accuracy=Rate(hits=3, n=4),
        n_images=10,
        data_digest="00",
        seconds=1.5,
        by_class=items,
    )


def result(*cases: CaseOutcome, n_planned: int | None = None) -> SelfTestResult:
    return SelfTestResult(
        full=False,
        seed=0,
        data="shapes",
        command="shortcut-audit selftest",
        device="cpu",
        versions={"shortcut-audit": "1"},
        n_planned=len(cases) if n_planned is None else n_planned,
        cases=cases,
    )


def test_a_plant_counts_from_twenty_in_a_hundred_turned() -> None:
    assert plant(20).used
    assert not plant(19).used
    assert not outcome(role="control", truth=turning(50)).used
    assert not outcome(role="plant").used


def test_unused_plants_are_neither_hits_nor_misses() -> None:
    found = result(
        case(plant(60), plant(30, "inconclusive"), plant(5, "no shortcut"), plant(5), outcome())
    )
    assert found.hits == Rate(hits=1, n=2)
    assert len(found.plants) == 4
    assert found.false_alarms == Rate(hits=0, n=1)
    assert found.n_inconclusive == (1, 0)
    assert found.failures == ("1 of 2 used plants were not called shortcuts.",)


def test_controls_are_clean_and_what_a_lack_tells_is_set_apart() -> None:
    found = result(
        case(
            plant(60),
            outcome(role="control", verdict="shortcut"),
            outcome(truth=turning(19), verdict="inconclusive"),
            outcome(truth=turning(20), verdict="shortcut"),
        )
    )
    assert found.false_alarms == Rate(hits=1, n=2)
    assert len(found.told_by_lack) == 1
    assert found.n_inconclusive == (0, 1)


@pytest.mark.parametrize(
    ("n_clean", "n_alarms", "passes"),
    [(10, 0, True), (10, 1, True), (10, 2, False), (100, 2, True), (99, 2, False), (150, 3, True)],
)
def test_one_false_alarm_or_two_in_a_hundred_are_let_pass(
    n_clean: int, n_alarms: int, passes: bool
) -> None:
    alarms = [outcome(verdict="shortcut")] * n_alarms
    found = result(case(plant(60), *alarms, *[outcome()] * (n_clean - n_alarms)))
    assert found.passed is passes


def test_nothing_used_proves_nothing() -> None:
    found = result(case(plant(3, "no shortcut"), outcome()))
    assert not found.passed
    assert "No model used" in found.failures[0]
    assert found.auc is None
    assert found.recall(in_map=True) is None


def test_recall_is_over_used_narrow_plants_and_counts_those_without_names() -> None:
    found = result(
        case(
            plant(60, n_planted=4, n_planted_named=2, n_planted_in_map=3),
            plant(60, "no shortcut", n_named=0, n_planted_named=0, n_planted_in_map=1),
            plant(60, n_planted=90, n_planted_named=8),
            plant(2),
        )
    )
    assert found.recall(in_map=False) == (0.25, 2)
    assert found.recall(in_map=True) == (0.625, 2)
    assert found.plants[0].named_rightly == 0.5
    assert found.plants[1].named_rightly is None


def test_models_without_structure_are_counted_apart() -> None:
    p_values = [0.01, 0.04, 0.05, None, 0.9]
    random = [outcome(p_value=p, verdict="shortcut" if p == 0.01 else "no shortcut") for p in p_values]
    found = result(case(plant(60), outcome(score=0.1)), case(*random, structure="random labels"))
    assert found.small_p == Rate(hits=2, n=4)
    assert found.false_alarms == Rate(hits=0, n=1)
    assert found.false_alarms_without_structure == Rate(hits=1, n=5)
    assert found.passed


def test_auroc_is_that_of_used_plants_against_clean_classes() -> None:
    found = result(
        case(
            plant(60, score=0.9),
            plant(60, score=0.2),
            plant(1, score=0.0),
            outcome(score=0.1),
            outcome(score=0.3),
            outcome(),
        )
    )
    assert found.auc is not None
    assert found.auc[0] == pytest.approx(5 / 6)


def test_it_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    found = result(case(plant(60), outcome("<b>")), n_planned=3)
    assert not found.complete
    (tmp_path / SELFTEST_FILE).write_text(found.as_text(), encoding="utf-8")
    assert load_selftest(tmp_path) == found
    json.loads(found.as_text())


def test_what_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        load_selftest(tmp_path / "nothing")
    (tmp_path / SELFTEST_FILE).write_text('{"tool": "other"}')
    with pytest.raises(ResultError, match="no self-test"):
        load_selftest(tmp_path)
