"""HFSS's groups of classes on another set, against the words of the paper."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transferred import outcome

from shortcut_audit.measures.transfer_groups import groups_of
from shortcut_audit.results.counts import Rate
from shortcut_audit.results.transfer_findings import ClassTransfer


def slow_groups(items: list[ClassTransfer]) -> list[dict[str, Any]]:
    """HFSS's curves, by the words of the paper."""

    def mean(values: list[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return sum(present) / len(present) if present else None

    curve = []
    for tenth in range(1, 10):
        above = [i for i in items if i.tpr_kept_home.hits * 10 > tenth * i.tpr_kept_home.n]
        below = [i for i in items if i not in above]
        curve.append(
            {
                "threshold": tenth / 10,
                "n_above": len(above),
                "n_below": len(below),
                "full_above": mean([i.recall.value for i in above]),
                "full_below": mean([i.recall.value for i in below]),
                "kept_above": mean([i.tpr_kept.value for i in above]),
                "kept_below": mean([i.tpr_kept.value for i in below]),
            }
        )
    return curve


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8
    )
)
def test_groups_are_those_of_the_slow_replica(rates: list[tuple[int, int, int]]) -> None:
    items = [
        outcome(
            20, here=here, home=20, exchanged=here, without=here, without_random=here, restored=here,
            restored_foreign=here, name=f"class{n}", tpr_kept_home=Rate(hits=kept_home, n=20),
            tpr_kept=Rate(hits=kept, n=20),
        )
        for n, (here, kept, kept_home) in enumerate(rates)
    ]  # fmt: skip
    for point, slow in zip(groups_of(items), slow_groups(items), strict=True):
        assert point.model_dump() == pytest.approx(slow)
        assert point.n_above + point.n_below == len(items)


def test_a_class_right_on_a_threshold_is_below_it() -> None:
    item = outcome(20, here=10, home=20, exchanged=10, without=10, without_random=10, restored=10,
                   restored_foreign=10, tpr_kept_home=Rate(hits=6, n=20))  # fmt: skip
    points = groups_of([item])
    assert [point.n_above for point in points] == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert points[2].full_above is None
    assert points[2].full_below == 0.5
