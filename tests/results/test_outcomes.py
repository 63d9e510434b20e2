"""Images of two audits are found in each other, however many questions are asked of them."""

from __future__ import annotations

import numpy as np
from audited import Made, made_audit
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortcut_audit.results.outcomes import Matcher, Outcomes, outcomes_of, pair_of, pair_of_rows

Rows = list[int]


def outcomes(image: list[int]) -> Outcomes:
    empty = np.zeros(len(image), dtype=bool)
    return Outcomes(
        np.array(image, np.uint64), np.zeros(len(image), np.int32), empty, kept={}, flips={}, shifted={}
    )


images = st.lists(st.integers(0, 12), min_size=1, max_size=20)


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[int], list[int], list[tuple[Rows, Rows]]]:
    one, other = draw(images), draw(images)
    rows = [st.lists(st.integers(0, len(each) - 1), max_size=12) for each in (one, other)]
    return one, other, draw(st.lists(st.tuples(*rows), min_size=1, max_size=4))


def as_rows(rows: Rows) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


@settings(max_examples=200, deadline=None)
@given(questions())
def test_a_table_finds_what_sorting_finds(
    asked: tuple[list[int], list[int], list[tuple[Rows, Rows]]],
) -> None:
    """Of images that stand there twice the first, and no question leaves anything for the next."""
    one, other, every = asked
    matcher = Matcher(outcomes(one), outcomes(other))
    for first, second in every:
        mine, theirs = matcher.shared(as_rows(first), as_rows(second))
        known, places, others = np.intersect1d(
            np.array(one)[as_rows(first)], np.array(other)[as_rows(second)], return_indices=True
        )
        order = np.argsort(places)
        assert mine.tolist() == places[order].tolist()
        assert theirs.tolist() == others[order].tolist()
        assert len(known) == len(mine)


def test_rows_are_compared_as_identities_are() -> None:
    old, new = (
        outcomes_of(made_audit(Made(accuracy=shares))) for shares in ((0.9,) * 3, (0.8, 0.9, 0.7))
    )
    assert old is not None
    assert new is not None
    matcher = Matcher(old, new)
    for rows in old.rows_by_class(3):
        assert (old.label[rows] == old.label[rows[0]]).all()
        assert len(rows) == 200
        by_rows = pair_of_rows(matcher, (rows, old.right[rows]), (rows, new.right[rows]), worse_is=False)
        sides = ((each.image[rows], each.right[rows]) for each in (old, new))
        assert by_rows == pair_of(*sides, worse_is=False)


def test_what_was_derived_of_a_result_is_not_that_of_a_changed_one() -> None:
    result = made_audit(Made())
    found = outcomes_of(result)
    assert outcomes_of(result) is found
    without = {name: each for name, each in result.arrays.items() if not name.startswith("outcomes/")}
    assert outcomes_of(result.with_arrays(without)) is None
    assert outcomes_of(result) is found
    origin = result.provenance
    data = origin.data.model_copy(update={"outputs": (1, 2, 0)})
    renumbered = result.model_copy(update={"provenance": origin.model_copy(update={"data": data})})
    now = outcomes_of(renumbered)
    assert now is not None
    assert found is not None
    assert not (now.right == found.right).all()
