"""Probabilities of groups and answers, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.measures.cue_conflict import answers_of, count_answers, group_log_probabilities


def test_a_group_is_the_mean_of_its_members_and_not_their_sum() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    groups = [[0], [1, 2, 3]]
    assert group_log_probabilities(logits, groups).exp()[0].tolist() == pytest.approx([0.4, 0.2])
    # The three together hold 0.6, and yet the one is the answer.
    assert answers_of(logits, groups).among_groups.tolist() == [0]


def test_the_single_largest_output_may_be_of_another_group_or_of_none() -> None:
    logits = torch.log(torch.tensor([[0.35, 0.05, 0.3, 0.3], [0.3, 0.3, 0.0, 0.4]]).clamp(1e-9))
    answers = answers_of(logits, [[0, 1], [2]])
    assert answers.among_groups.tolist() == [1, 0]
    assert answers.among_all.tolist() == [0, -1]


def test_logits_far_apart_are_no_trouble() -> None:
    probabilities = group_log_probabilities(torch.tensor([[1e4, -1e4, 0.0]]), [[0, 1], [2]]).exp()
    assert probabilities[0].tolist() == [0.5, 0.0]


@given(
    st.lists(
        st.tuples(st.integers(-1, 4), st.integers(0, 4), st.integers(0, 4)).filter(
            lambda each: each[1] != each[2]
        ),
        max_size=30,
    )
)
def test_every_answer_is_counted_once(rows: list[tuple[int, int, int]]) -> None:
    answers, shape, texture = (
        np.array([row[side] for row in rows], dtype=np.int64) for side in (0, 1, 2)
    )
    counts = count_answers(answers, shape, texture)
    assert counts.n == len(rows)
    assert counts.n_shape == sum(a == s for a, s, _ in rows)
    assert counts.n_texture == sum(a == t for a, _, t in rows)


def test_an_output_of_no_group_that_is_far_ahead_hides_no_answer() -> None:
    for ahead in (5.0, 1000.0):
        answers = answers_of(torch.tensor([[0.0, 1.0, ahead]]), [[0], [1]])
        assert answers.among_groups.tolist() == [1]
        assert answers.among_all.tolist() == [-1]
