"""Several audits against one: adjusted tests in both directions, and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audited import Made, made_audit

import shortcut_audit as sa
from shortcut_audit.errors import ResultError, SettingsError
from shortcut_audit.report.compare_runs import (
    SIGNIFICANT,
    RunSide,
    compared_runs,
    labels_of,
    read_side,
    side_of,
    two_sided_p,
)
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import Apart, Exceeds, Proportion, SameImages
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.statistics import adjusted_p_values, paired_p_value

PLAIN, WORSE = Made(), Made(accuracy=(0.9, 0.7, 0.9))


def side(made: Made, label: str = "a") -> RunSide:
    return side_of(made_audit(made), label)


@pytest.mark.parametrize(("up", "down"), [(12, 2), (2, 12), (5, 5), (0, 0)])
def test_p_is_twice_the_smaller_one_sided_p(up: int, down: int) -> None:
    change = SameImages(Paired(n=100, both=30, only_first=up, only_second=down))
    exact = min(1.0, 2 * paired_p_value(max(up, down), min(up, down)))
    assert exact <= two_sided_p(change) <= 1
    swapped = SameImages(Paired(n=100, both=30, only_first=down, only_second=up))
    assert two_sided_p(swapped) == two_sided_p(change)
    one, other = Proportion(50 + up, 100), Proportion(50 + down, 100)
    assert two_sided_p(Apart(one, other)) == two_sided_p(Apart(other, one))
    with pytest.raises(TypeError, match="of one audit"):
        two_sided_p(Exceeds(one, 0.9))


def test_q_is_adjusted_over_all_that_was_tested_and_a_verdict_counts_once() -> None:
    found = compared_runs([side(PLAIN), side(WORSE, "b")]).against[0]
    tested = [c for c in found.changes if c.p_value is not None and c.quantity != "verdict"]
    assert found.n_tested == len(tested) == 1 + 3 * 6
    expected = adjusted_p_values([c.p_value for c in tested])
    assert [c.q_value for c in tested] == pytest.approx(expected)
    ship, verdict, score = (found.of(key, "ship") for key in ("accuracy", "verdict", "score"))
    assert ship is not None
    assert verdict is not None
    assert score is not None
    assert ship.outcome == "worse"
    assert ship.q_value is not None
    assert ship.q_value <= SIGNIFICANT
    assert (verdict.p_value, verdict.q_value) == (score.p_value, score.q_value)
    strength = found.of("strength", "ship")
    assert strength is not None
    assert strength.outcome == "not tested"


def test_noise_alone_seldom_passes_for_a_change() -> None:
    """Audits of the same truth on other images: most comparisons find nothing."""
    random = np.random.default_rng(1)
    n_found = 0
    for number in range(40):
        made = [
            Made(
                first=2 * number + side,
                accuracy=random.binomial(200, 0.8, 3) / 200,
                kept=random.binomial(100, 0.5, 3) / 100,
                turned=random.binomial(100, 0.2, 3) / 100,
            )
            for side in range(2)
        ]
        against = compared_runs([side(each) for each in made]).against[0]
        n_found += any(change.sure for change in against.changes)
    assert n_found <= 6


def test_runs_of_other_classes_of_data_alone_or_too_few_are_refused(grey: AuditResult) -> None:
    other = side(Made(names=("horse", "ship", "toad")), "b")
    with pytest.raises(
        ResultError, match="b is of other classes than a: it lacks 'frog', it adds 'toad'"
    ):
        compared_runs([side(PLAIN), other])
    with pytest.raises(SettingsError, match="1 run cannot"):
        compared_runs([side(PLAIN)])
    with pytest.raises(SettingsError, match="21 runs cannot"):
        compared_runs([side(PLAIN)] * 21)
    origin = grey.provenance.model_copy(update={"model": None})
    with pytest.raises(ResultError, match="without a model"):
        side_of(grey.model_copy(update={"provenance": origin}), "data")


def test_classes_in_another_order_are_compared_by_name() -> None:
    turned = Made(names=("frog", "ship", "horse"), accuracy=(0.9, 0.9, 0.5), first=1)
    found = compared_runs([side(PLAIN), side(turned, "b")]).against[0]
    horse, frog = found.of("accuracy", "horse"), found.of("accuracy", "frog")
    assert horse is not None
    assert frog is not None
    assert (horse.before, horse.after) == (0.9, 0.5)
    assert frog.difference == 0


def test_labels_are_as_much_of_a_path_as_tells_runs_apart() -> None:
    paths = [Path(name) for name in ("/a/x/run", "/a/y/run", "/b/y/run", "/c", "/d/report.html")]
    assert labels_of(paths) == ["x/run", "a/y/run", "b/y/run", "c", "d"]
    assert labels_of([Path("/d"), Path("/d/report.html")]) == ["d (1)", "d (2)"]
    assert labels_of([Path("/d/old.html"), Path("/d/new.html")]) == ["old.html", "new.html"]


def test_a_page_is_read_as_a_run_without_outcomes(grey: AuditResult, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    grey.save(folder)
    page = sa.write_report(grey, tmp_path / "page.html")
    one, other = read_side(folder, "folder"), read_side(page, "page")
    assert one.outcomes is not None
    assert other.outcomes is None
    assert (one.state.page, other.state.page) == (False, True)
    found = compared_runs([one, other]).against[0]
    assert found.same_numbers
    assert not any(change.paired or change.sure for change in found.changes)


def test_outcomes_that_contradict_each_other_name_their_run(tmp_path: Path) -> None:
    made = made_audit()
    made.with_arrays({**made.arrays, "outcomes/predicted": np.zeros(3, dtype=np.int32)}).save(
        tmp_path / "r"
    )
    with pytest.raises(ResultError, match=r"/r: .*hold together"):
        read_side(tmp_path / "r", "r")
