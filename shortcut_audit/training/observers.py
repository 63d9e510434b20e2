"""Observers: what may watch a training without touching it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.results.findings import Rate

__all__ = ["ClassF1", "EpochRecord", "Observer", "Step"]


@dataclass(frozen=True)
class Step:
    """One step of the optimizer, just taken.

    `number` counts from 1 over the whole training of `n_steps`; `epoch` counts from 1. `loss` is
    the mean over the step's batch before the step, in nats, on the training's device; `accuracy` of
    the epoch so far, a few steps behind on a GPU. `answer`
    gives the network's logits (B, K), in eval mode and without gradients, for images as the training
    was given them, on the CPU; the network goes on as if it had not been asked.
    """

    number: int
    n_steps: int
    epoch: int
    learning_rate: float
    loss: Tensor
    accuracy: Rate
    answer: Callable[[Tensor], Tensor]


class EpochRecord(BaseModel):
    """What one epoch came to. `loss` in nats, smoothed labels included; both of the images as they
    were trained on, while the weights changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: Annotated[int, Field(description="Counted from 1.")]
    steps: Annotated[int, Field(description="Steps from the start of the training to its end.")]
    learning_rate: Annotated[float, Field(description="Of its last step.")]
    loss: float
    accuracy: Rate
    val_loss: float | None = None
    val_accuracy: Rate | None = None


class Observer(Protocol):
    """Watches a training. Its random draws and questions to the network change nothing about it."""

    def on_step(self, step: Step) -> None:
        """Called after each step of the optimizer."""
        ...

    def on_epoch(self, record: EpochRecord) -> None:
        """Called after each epoch, its validation included."""
        ...


@dataclass
class ClassF1:
    """F1 of each class on fixed held-out images, every `every` steps (Wang23's order of learning).

    `images` (n, C, H, W) as the training is given its own (pixels in [0,1] or uint8 in a training by
    `train`, the network's own inputs in `fit`), `labels` (n,) below `n_classes`. `until`: the last
    step that is looked at; all of them by default. After the training, `steps` (m,) and `f1`
    (m, n_classes): F1 = 2 TP / (2 TP + FP + FN), NaN for a class with neither images nor calls. A
    training that is resumed shows only the steps of this process. Raises DataError and SettingsError.
    """

    images: Tensor
    labels: Tensor
    every: int = 10
    n_classes: int | None = None
    until: int | None = None
    _steps: list[int] = field(default_factory=list, init=False)
    _f1: list[NDArray[np.float64]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SettingsError(f"ClassF1 cannot look every {self.every} steps.", "Give every=10.")
        if len(self.images) != len(self.labels) or len(self.labels) == 0:
            raise DataError(
                f"ClassF1 has {len(self.images)} images and {len(self.labels)} labels.",
                "Give one label an image, and at least one image.",
            )

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps that were looked at, (m,)."""
        return np.array(self._steps, dtype=np.int64)

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 by class at each of them, (m, n_classes)."""
        return np.stack(self._f1) if self._f1 else np.empty((0, self.n_classes or 0))

    def first_step(self, level: float) -> list[int | None]:
        """The first step looked at where each class has an F1 of `level`; None where none has."""
        reached = self.f1 >= level
        return [
            int(self.steps[reached[:, c].argmax()]) if reached[:, c].any() else None
            for c in range(reached.shape[1])
        ]

    def on_step(self, step: Step) -> None:
        if step.number % self.every or (self.until is not None and step.number > self.until):
            return
        logits = step.answer(self.images)
        called = logits.argmax(dim=1).cpu().numpy()
        self._steps.append(step.number)
        self._f1.append(_f1(self.labels.numpy(), called, self.n_classes or logits.shape[1]))

    def on_epoch(self, record: EpochRecord) -> None:
        del record


def _f1(labels: NDArray[Any], called: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    hits = np.bincount(labels[labels == called], minlength=n_classes)[:n_classes]
    # TP + FN and TP + FP.
    own = np.bincount(labels, minlength=n_classes)[:n_classes]
    calls = np.bincount(called, minlength=n_classes)[:n_classes]
    both = (own + calls).astype(np.float64)
    f1: NDArray[np.float64] = np.full(n_classes, np.nan)
    np.divide(2.0 * hits, both, out=f1, where=both > 0)
    return f1
