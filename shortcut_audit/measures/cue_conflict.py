"""What a model calls an image, among groups of its outputs and among all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.results.cue_conflict import CueCounts

__all__ = ["Answers", "answers_of", "count_answers", "group_log_probabilities"]


@dataclass(frozen=True)
class Answers:
    """Answers to n images, as numbers of groups, (n,) int64.

    `among_groups`: the group with the largest probability. `among_all`: the group that holds the largest
    single output; -1 where that is in none.
    """

    among_groups: NDArray[np.int64]
    among_all: NDArray[np.int64]


def group_log_probabilities(logits: Tensor, outputs: Sequence[Sequence[int]]) -> Tensor:
    """Logarithm of the mean probability (B, G) of each group of outputs, from logits (B, K).

    The mean of the softmax over the members, not their sum, so that a group is not likelier for being
    large (Geirhos et al., 2019). In double precision, and in logarithms: where an output of no group is
    far ahead, all probabilities would round to 0.
    """
    logarithms = torch.log_softmax(logits.detach().cpu().double(), dim=1)
    return torch.stack(
        [logarithms[:, list(members)].logsumexp(dim=1) - math.log(len(members)) for members in outputs],
        dim=1,
    )


def answers_of(logits: Tensor, outputs: Sequence[Sequence[int]]) -> Answers:
    """What logits (B, K) answer, by groups of outputs. Among equals the first one is the answer."""
    group_of = torch.full((logits.shape[1],), -1, dtype=torch.int64)
    for number, members in enumerate(outputs):
        group_of[list(members)] = number
    among_groups = group_log_probabilities(logits, outputs).argmax(dim=1)
    among_all = group_of[logits.detach().cpu().double().argmax(dim=1)]
    return Answers(among_groups.numpy(), among_all.numpy())


def count_answers(
    answers: NDArray[np.int64], shape: NDArray[np.int64], texture: NDArray[np.int64]
) -> CueCounts:
    """Images by what they are called; all three (n,) are numbers of groups, -1 an answer of no group."""
    n_shape, n_texture = int((answers == shape).sum()), int((answers == texture).sum())
    return CueCounts(n_shape=n_shape, n_texture=n_texture, n_neither=len(answers) - n_shape - n_texture)
