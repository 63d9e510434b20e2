"""A training loop that is enough to make test subjects."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["fit"]


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 64,
    peak_rate: float = 0.1,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train `network` in place with Nesterov SGD under a one-cycle rate; no augmentation.

    `images` (n, C, H, W) as the network takes them, `labels` (n,). Flips and crops are left out
    because they move planted frequencies. `on_epoch(epoch, accuracy)` reports training accuracy.
    The network is left in eval mode; torch's global random state is untouched.
    """
    generator = torch.Generator().manual_seed(seed)
    n_steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=peak_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=n_steps)
    network.to(memory_format=torch.channels_last).train()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        n_right = 0
        for step in range(len(images) // batch_size):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            batch = images[chosen].contiguous(memory_format=torch.channels_last)
            logits = network(batch)
            loss = functional.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            n_right += int((logits.argmax(dim=1) == labels[chosen]).sum())
        if on_epoch is not None:
            on_epoch(epoch, n_right / (len(images) // batch_size * batch_size))
    network.eval()
