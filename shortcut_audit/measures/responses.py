"""Responses: what it is to a classifier that an orbit is gone.

Each is 0 when nothing changes, and larger the more the class depended on the orbit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shortcut_audit.results.settings import Response

__all__ = ["RESPONSE_FUNCTIONS", "all_responses", "cross_entropy", "log_odds"]


def log_odds(logits: Tensor, output: int) -> Tensor:
    """log p/(1-p) of `output`, (B,) nats, from logits (B, K): z_y - logsumexp over j != y of z_j."""
    others = logits.clone()
    others[:, output] = -torch.inf
    return logits[:, output] - torch.logsumexp(others, dim=1)


def cross_entropy(logits: Tensor, output: int) -> Tensor:
    """-log p of `output`, (B,) nats, from logits (B, K)."""
    return torch.logsumexp(logits, dim=1) - logits[:, output]


def log_odds_drop(filtered: Tensor, clean: Tensor, output: int) -> Tensor:
    """Fall of the class's log-odds, (B,) nats. Cross-entropy without its saturation: on images the
    model is sure of, the loss hardly moves whatever is removed, the log-odds do."""
    return log_odds(clean, output) - log_odds(filtered, output)


def loss_increase(filtered: Tensor, clean: Tensor, output: int) -> Tensor:
    """Rise of the cross-entropy, (B,) nats (Wang et al., ICCV 2023)."""
    return cross_entropy(filtered, output) - cross_entropy(clean, output)


def squared_logit_change(filtered: Tensor, clean: Tensor, output: int) -> Tensor:
    """Squared length of the change of the logits, (B,); sensitivity, whatever the class."""
    del output
    return (filtered - clean).square().sum(dim=1)


# In the order of results.settings.RESPONSES.
RESPONSE_FUNCTIONS: dict[Response, Callable[[Tensor, Tensor, int], Tensor]] = {
    "log-odds": log_odds_drop,
    "cross-entropy": loss_increase,
    "squared-logit-change": squared_logit_change,
}


def all_responses(filtered: Tensor, clean: Tensor, images: Tensor, output: int) -> Tensor:
    """Every response of many probes at once, (n_responses, P), in the order of `RESPONSE_FUNCTIONS`.

    `filtered` (P, K) logits; `clean` (n, K) logits of the images as they are; `images` (P,): the
    image of each probe. The cross-entropy is log(1 + e^-x) of the log-odds x, so that one sum over
    the classes serves both.
    """
    odds, clean_odds = log_odds(filtered, output), log_odds(clean, output)
    loss, clean_loss = (torch.logaddexp(-x, torch.zeros_like(x)) for x in (odds, clean_odds))
    change = filtered - clean[images]
    by_response = {
        "log-odds": clean_odds[images] - odds,
        "cross-entropy": loss - clean_loss[images],
        "squared-logit-change": torch.linalg.vecdot(change, change),
    }
    return torch.stack([by_response[response] for response in RESPONSE_FUNCTIONS])
