"""Gradient descent on soft masks that hold a given share of the spectrum; no model and no image here.

A mask is a vector of logits over orbits. In every step each image gets a noisy soft mask of its own,

    m = sigmoid((logits + temperature * noise + shift) / temperature),  noise logistic,

where `shift` is the one number that makes the mask hold just the share that is due. Noise lets orbits
that are in doubt come and go, so that none is relied on because of one image; as the temperature
falls, masks turn binary. The share falls to what is to be kept.
Relaxation: Maddison et al., ICLR 2017, arXiv 1611.00712. Steps: Adam, Kingma & Ba, ICLR 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Descent", "Schedule", "Stage", "logistic_noise", "logits_gradient", "soft_masks"]

_FIRST_TEMPERATURE, _LAST_TEMPERATURE = 1.0, 0.4
# Measured: masks that begin with all of the spectrum end in poorer places.
_FIRST_SHARE = 0.15
# Most of the way down happens with as much of the spectrum as will be kept.
_SHARE_REACHED_AT = 0.6
# A mask of everything has no gradient.
_LARGEST_SHARE = 0.999
_FIRST_RATE, _LAST_RATE = 0.5, 0.05
_MOMENTUM, _SQUARE_MEMORY = 0.9, 0.99
_TINY, _HAIR = 1e-12, 1e-9
_N_HALVINGS, _N_NEWTON = 4, 20


@dataclass(frozen=True)
class Stage:
    """What one step is made with: share of the spectrum that masks hold, temperature, and rate."""

    share: float
    temperature: float
    rate: float


@dataclass(frozen=True)
class Schedule:
    """`n_steps` steps, down to masks that hold `kept_share` of the spectrum."""

    n_steps: int
    kept_share: float

    def at(self, step: int) -> Stage:
        """Stage of a step, counted from 0."""
        done = step / max(self.n_steps - 1, 1)
        ahead = max(0.0, 1 - done / _SHARE_REACHED_AT)
        first = max(_FIRST_SHARE, self.kept_share)
        return Stage(
            share=min(self.kept_share * (first / self.kept_share) ** ahead, _LARGEST_SHARE),
            temperature=_FIRST_TEMPERATURE * (_LAST_TEMPERATURE / _FIRST_TEMPERATURE) ** done,
            rate=_FIRST_RATE + (_LAST_RATE - _FIRST_RATE) * done,
        )

    @property
    def told(self) -> dict[str, float]:
        """Constants of the descent, for the record."""
        return {
            "first_temperature": _FIRST_TEMPERATURE,
            "last_temperature": _LAST_TEMPERATURE,
            "first_learning_rate": _FIRST_RATE,
            "last_learning_rate": _LAST_RATE,
            "first_share": max(_FIRST_SHARE, self.kept_share),
            "share_reached_at": _SHARE_REACHED_AT,
        }


@dataclass
class Descent:
    """Logits of masks with the optimiser's memory of them, each (n_masks, n_orbits)."""

    logits: Tensor
    momentum: Tensor
    square: Tensor

    def step(self, gradient: Tensor, number: int, rate: float) -> None:
        """One step of Adam, `number` counted from 0, along `gradient` (n_masks, n_orbits)."""
        self.momentum = _MOMENTUM * self.momentum + (1 - _MOMENTUM) * gradient
        self.square = _SQUARE_MEMORY * self.square + (1 - _SQUARE_MEMORY) * gradient.square()
        momentum = self.momentum / (1 - _MOMENTUM ** (number + 1))
        square = self.square / (1 - _SQUARE_MEMORY ** (number + 1))
        self.logits = self.logits - rate * momentum / (square.sqrt() + _TINY)


def logistic_noise(shape: tuple[int, int], seed: int) -> Tensor:
    """Numbers of the standard logistic distribution, float64 on the CPU, the same for a seed anywhere."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.logit(uniform, eps=1e-12)


def soft_masks(noisy: Tensor, members: Tensor, stage: Stage) -> Tensor:
    """Masks (B, n_orbits) in (0, 1) from `noisy` logits, each with `stage.share` of the spectrum.

    `members` (n_orbits,): bins of each orbit that count; 0 for one that is not chosen, whose value
    means nothing. sum(members * mask) = share * sum(members), to rounding.
    """
    scaled = noisy / stage.temperature
    target = stage.share * members.sum()
    return torch.sigmoid(scaled + _shift(scaled, members, target))


def _shift(scaled: Tensor, members: Tensor, target: Tensor) -> Tensor:
    """What to add to `scaled` (B, n_orbits) for each row's masks to hold `target` bins, (B, 1).

    Newton's steps within an interval that is known to hold the answer; where one would leave it, the
    interval is halved. The sum of sigmoids rises in the shift, so that there is one answer.
    """
    counted = scaled[:, members > 0]
    weights = members[members > 0]
    share = target / weights.sum()
    # With every logit at the largest (smallest) one, this shift holds just the share.
    even = torch.logit(share)
    low = even - counted.amax(dim=1, keepdim=True)
    high = even - counted.amin(dim=1, keepdim=True)
    shift = (low + high) / 2
    for number in range(_N_HALVINGS + _N_NEWTON):
        masks = torch.sigmoid(counted + shift)
        excess = masks @ weights[:, None] - target
        low = torch.where(excess < 0, shift, low)
        high = torch.where(excess < 0, high, shift)
        middle = (low + high) / 2
        if number < _N_HALVINGS:
            shift = middle
            continue
        slope = (masks * (1 - masks)) @ weights[:, None]
        newton = shift - excess / slope.clamp_min(_TINY)
        # Near the answer rounding may put it a hair outside.
        inside = (newton > low - _HAIR) & (newton < high + _HAIR)
        shift = torch.where(inside, newton, middle)
    return shift


def logits_gradient(masks: Tensor, gradient: Tensor, members: Tensor, stage: Stage) -> Tensor:
    """Gradient (B, n_orbits) of a loss with respect to the logits, from that with respect to `masks`.

    The shift moves with the logits so that the share stays: d mask_i / d logit_j = s_i (delta_ij -
    members_j s_j / sum(members * s)), s = mask (1 - mask) / temperature. The result sums to 0.
    """
    slope = torch.where(members > 0, masks * (1 - masks) / stage.temperature, 0)
    pull = slope * gradient
    held = (members * slope).sum(dim=1, keepdim=True).clamp_min(_TINY)
    return pull - members * slope * pull.sum(dim=1, keepdim=True) / held
