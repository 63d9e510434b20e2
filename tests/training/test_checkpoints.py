"""Checkpoints: a training that goes on ends as one that was never stopped; a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images
from torch import nn

from shortcut_audit.errors import RunFolderError
from shortcut_audit.training.augment import augmentation
from shortcut_audit.training.checkpoints import CHECKPOINT_FILE, restore, save_checkpoint
from shortcut_audit.training.loop import Training
from shortcut_audit.training.observers import Step
from shortcut_audit.training.settings import TrainSettings, train_settings_from

IDENTITY: dict[str, Any] = {"learning_rate": 0.1, "images": "abc", "sizes": (1, 2)}
STEPS_PER_EPOCH, EPOCHS = 4, 3


class Tied(nn.Module):
    """Shared weights, a scalar parameter, a buffer outside the state dict, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model(3, 3)
        self.again = self.inner[-1]
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        logits: torch.Tensor = self.inner(x) * self.scale + 0.01 * (self.calls % 7)
        return logits


class Pixels:
    def __init__(self) -> None:
        pairs = random_images(10, 3, (3, 8, 8))
        self.images = torch.from_numpy(np.stack([image for image, _ in pairs]))
        self.labels = torch.tensor([label for _, label in pairs])

    def read(self, rows: np.ndarray) -> torch.Tensor:
        return self.images[torch.from_numpy(rows)]


class StopError(Exception):
    pass


class Stopper:
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: Step) -> None:
        if step.number == self.at:
            raise StopError

    def on_epoch(self, record: object) -> None:
        del record


def training(seed: int = 0, **options: Any) -> Training:
    settings = train_settings_from(
        {"epochs": EPOCHS, "batch_size": 8, "flip": True, "crop": "shift", "seed": seed, **options}
    )
    return Training(
        Tied(),
        Pixels(),
        settings,
        torch.device("cpu"),
        torch.channels_last,
        val=Pixels(),
        augment=augmentation(settings, 8, 8),
    )


def assert_same(one: Training, other: Training) -> None:
    tensors = dict([*other.network.named_parameters(), *other.network.named_buffers()])
    for name, value in [*one.network.named_parameters(), *one.network.named_buffers()]:
        assert value.detach().numpy().tobytes() == tensors[name].detach().numpy().tobytes(), name
    assert one.history == other.history
    assert len(one.epoch_seconds) == len(other.epoch_seconds)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop_at", [2, 4, 5, 7, 12])
def test_stopped_and_resumed_equals_uninterrupted(stop_at: int, optimizer: str, tmp_path: Path) -> None:
    whole = training(optimizer=optimizer)
    whole.run()
    # A checkpoint falls due after every step.
    stopped = training(optimizer=optimizer, checkpoint_minutes=1e-9)
    keep = lambda: save_checkpoint(stopped, IDENTITY, tmp_path)  # noqa: E731
    with pytest.raises(StopError):
        stopped.run([Stopper(stop_at)], keep)
    assert not stopped.network.training
    resumed = training(optimizer=optimizer)
    with torch.no_grad():
        for parameter in resumed.network.parameters():
            parameter.zero_()
    assert restore(resumed, IDENTITY, tmp_path)
    # The step that was stopped in is lost; nothing before it is.
    assert resumed.step == stop_at - 1
    resumed.run()
    assert_same(whole, resumed)


def test_a_checkpoint_at_an_epochs_end_is_enough(tmp_path: Path) -> None:
    whole = training()
    whole.run()
    stopped = training()
    with pytest.raises(StopError):
        stopped.run([Stopper(6)], lambda: save_checkpoint(stopped, IDENTITY, tmp_path))
    resumed = training()
    assert restore(resumed, IDENTITY, tmp_path)
    assert resumed.step == STEPS_PER_EPOCH
    assert len(resumed.history) == 1
    resumed.run()
    assert_same(whole, resumed)


def test_the_scale_of_reduced_precision_comes_back(tmp_path: Path) -> None:
    first, second = training(), training()
    for each in (first, second):
        each.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=2.0**10)
    first.scaler.scale(torch.zeros(1))
    first.scaler.update(3.0)
    save_checkpoint(first, IDENTITY, tmp_path)
    assert restore(second, IDENTITY, tmp_path)
    second.scaler.scale(torch.zeros(1))
    assert second.scaler.get_scale() == 3.0


def test_no_checkpoint_is_no_fault(tmp_path: Path) -> None:
    fresh = training()
    assert not restore(fresh, IDENTITY, tmp_path)
    assert fresh.step == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 0.2}, "learning_rate is 0.2 now and was 0.1"),
        ({"images": "x" * 100}, 'images is "xxx.*x\\.\\.\\. now and was "abc"'),
        ({"validation images": None, "extra": 1}, "extra is 1 now and was null"),
        (
            {"learning_rate": 1, "images": "", "sizes": [], "a": 1, "b": 2},
            "and 2 more things differ",
        ),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    first = training()
    save_checkpoint(first, IDENTITY, tmp_path)
    assert restore(training(), IDENTITY, tmp_path)
    with pytest.raises(RunFolderError, match=f"another training: .*{said}.*--restart"):
        restore(training(), {**IDENTITY, **changed}, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "pickle", "other network"])
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    first = training()
    if damage == "other network":
        first.network.extra = nn.Linear(1, 1)
        del first.network.scale
        first.network.scale = 1.0
    save_checkpoint(first, IDENTITY, tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "flip":
        content[-50] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        torch.save({"state": 1}, path)
    with pytest.raises(RunFolderError, match=r"cannot be used: .*--restart") as caught:
        restore(training(), IDENTITY, tmp_path)
    assert "\n" not in str(caught.value)


def test_saving_takes_nothing_from_the_training(tmp_path: Path) -> None:
    kept, plain = training(checkpoint_minutes=1e-9), training()
    kept.run((), lambda: save_checkpoint(kept, IDENTITY, tmp_path))
    plain.run()
    assert_same(kept, plain)
    assert kept.settings == TrainSettings(**{**plain.settings.model_dump(), "checkpoint_minutes": 1e-9})
