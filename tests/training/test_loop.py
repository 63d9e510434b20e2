"""The loop: it takes the steps it should, and leaves everything else alone."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from hypothesis import given
from hypothesis import strategies as st
from replicas import softmax_descent
from torch import nn

from shortcut_audit.errors import AuditError, DataError, LogitsError, ModelError, SettingsError
from shortcut_audit.models.small import small_cnn
from shortcut_audit.training.loop import Training, fit, learning_rate_at
from shortcut_audit.training.observers import Step
from shortcut_audit.training.settings import TrainSettings


def tensors(
    n_per_class: int = 10, n_classes: int = 3, size: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = random_images(n_per_class, n_classes, (3, size, size))
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).float() / 255
    return (images - 0.5) / 0.25, torch.tensor([label for _, label in pairs])


class Told:
    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_step(self, step: Step) -> None:
        self.rates.append(step.learning_rate)
        self.losses.append(float(step.loss))

    def on_epoch(self, record: object) -> None:
        del record


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_weights_are_those_of_nesterov_descent_in_closed_form(label_smoothing: float) -> None:
    images, labels = tensors()
    network = linear_model(3, (3, 8, 8), scale=0.05)
    start = [parameter.detach().numpy().copy() for parameter in network.parameters()]
    told = Told()
    history = fit(
        network,
        images,
        labels,
        epochs=6,
        warmup_epochs=2,
        batch_size=30,
        learning_rate=0.01,
        weight_decay=0.3,
        label_smoothing=label_smoothing,
        observers=[told],
    )
    rates = [0.005, 0.01, *(0.01 * 0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4))]
    weight, bias, losses = softmax_descent(
        images.flatten(1).numpy(), labels.numpy(), *start, rates, 0.3, label_smoothing
    )
    found_weight, found_bias = (parameter.detach().numpy() for parameter in network.parameters())
    np.testing.assert_allclose(told.rates, rates, rtol=1e-6)
    np.testing.assert_allclose(told.losses, losses, rtol=1e-4)
    np.testing.assert_allclose([record.loss for record in history], losses, rtol=1e-4)
    np.testing.assert_allclose(found_weight, weight, atol=1e-5)
    np.testing.assert_allclose(found_bias, bias, atol=1e-5)
    assert np.abs(found_weight - start[0]).max() > 1e-2


def test_adamw_takes_the_first_step_of_its_definition() -> None:
    images, labels = tensors()
    network = linear_model(3, (3, 8, 8), scale=0.05)
    weight, bias = (parameter.detach().clone() for parameter in network.parameters())
    loss = nn.functional.cross_entropy(network(images), labels)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    options = {"epochs": 1, "warmup_epochs": 0, "batch_size": 30, "learning_rate": 0.01}
    fit(network, images, labels, optimizer="adamw", weight_decay=0.5, **options)
    new_weight, new_bias = network.parameters()
    # With bias correction the first step has length rate in every coordinate; decay stands apart.
    expected = weight * (1 - 0.01 * 0.5) - 0.01 * slopes[0].sign()
    torch.testing.assert_close(new_weight.detach(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(new_bias.detach(), bias - 0.01 * slopes[1].sign(), atol=1e-4, rtol=0)


@given(
    epochs=st.integers(1, 40),
    steps=st.integers(1, 30),
    share=st.floats(0, 1),
    rate=st.floats(1e-6, 10),
)
def test_the_rate_rises_to_its_peak_and_falls_to_zero(
    epochs: int, steps: int, share: float, rate: float
) -> None:
    settings = TrainSettings(epochs=epochs, warmup_epochs=share * epochs, learning_rate=rate)
    rates = [learning_rate_at(step, settings, steps) for step in range(epochs * steps)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(rate)
    assert min(rates) > 0
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))
    assert learning_rate_at(epochs * steps, settings, steps) == pytest.approx(0, abs=1e-9 * rate) or (
        round(settings.warmup_epochs * steps) >= epochs * steps
    )


class Counting:
    """Images that note which rows are asked for."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels
        self.asked: list[list[int]] = []

    def read(self, rows: np.ndarray) -> torch.Tensor:
        self.asked.append(rows.tolist())
        return self.images[torch.from_numpy(rows)]


@pytest.mark.parametrize(("n", "batch_size"), [(30, 8), (30, 7), (29, 28), (30, 30), (5, 64), (3, 1)])
def test_an_epoch_shows_every_image_once_in_batches_of_equal_size(n: int, batch_size: int) -> None:
    images, labels = tensors()
    counting = Counting(images[:n], labels[:n])
    settings = TrainSettings(epochs=2, batch_size=batch_size)
    training = Training(
        linear_model(3, (3, 8, 8)),
        counting,
        settings,
        torch.device("cpu"),
        torch.contiguous_format,
    )
    training.run()
    per_epoch = math.ceil(n / batch_size)
    assert len(counting.asked) == 2 * per_epoch
    epochs = [counting.asked[:per_epoch], counting.asked[per_epoch:]]
    for batches in epochs:
        assert Counter(row for batch in batches for row in batch) == Counter(range(n))
        sizes = {len(batch) for batch in batches}
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
    if n > 5:
        assert epochs[0] != epochs[1]


def test_the_same_seed_gives_the_same_weights_and_leaves_random_numbers_alone() -> None:
    images, labels = tensors()
    networks = [conv_model(3, 3) for _ in range(3)]
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    before = torch.get_rng_state()
    for network, seed in zip(networks, (4, 4, 5), strict=True):
        fit(network, images, labels, epochs=2, batch_size=8, seed=seed, flip=True, crop="shift")
    assert torch.equal(before, torch.get_rng_state())
    first, second, third = ([*network.state_dict().values()] for network in networks)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


def test_a_small_network_learns_and_its_history_adds_up() -> None:
    images, labels = tensors(n_per_class=20)
    other = tensors(n_per_class=20)[0].flip(0), labels.flip(0)
    network = small_cnn(3)
    history = fit(network, images, labels, epochs=6, batch_size=16, val=other)
    assert [record.accuracy.n for record in history] == [60] * 6
    assert history[-1].accuracy.value == 1
    assert history[-1].loss < 0.2 < history[0].loss
    with torch.no_grad():
        logits = network(other[0])
    assert history[-1].val_accuracy is not None
    assert history[-1].val_accuracy.hits == int((logits.argmax(1) == other[1]).sum())
    expected = nn.functional.cross_entropy(logits, other[1])
    assert history[-1].val_loss == pytest.approx(float(expected), rel=1e-4)
    assert not network.training


def test_frozen_weights_stay() -> None:
    images, labels = tensors()
    network = conv_model(3, 3)
    network[0].weight.requires_grad_(False)
    frozen, free = network[0].weight.clone(), network[-1].weight.clone()
    fit(network, images, labels, epochs=1, batch_size=8)
    assert torch.equal(network[0].weight, frozen)
    assert not torch.equal(network[-1].weight, free)


def test_reduced_precision_trains_too_and_is_not_full_precision() -> None:
    images, labels = tensors()
    networks = [small_cnn(3) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, amp in zip(networks, ("off", "bfloat16"), strict=True):
        last = fit(network, images, labels, epochs=6, batch_size=8, amp=amp)[-1]
        assert last.accuracy.value == 1
    head, half = networks[0].head.weight, networks[1].head.weight
    assert half.dtype == torch.float32
    assert not torch.equal(head, half)
    with pytest.raises(SettingsError, match="float16 does not run on a CPU"):
        fit(networks[0], images, labels, epochs=1, amp="float16")


@pytest.mark.parametrize(
    ("steps", "what"), [(30, "the loss is no number"), (1, "weights are no numbers")]
)
def test_a_training_that_diverges_stops_and_says_in_which_epoch(steps: int, what: str) -> None:
    images, labels = tensors()
    options = {"epochs": 3, "batch_size": -(-30 // steps), "warmup_epochs": 0, "learning_rate": 3e38}
    with pytest.raises(SettingsError, match=f"epoch 1 of 3: {what}.*lower --learning-rate"):
        fit(linear_model(3, (3, 8, 8)), images * 1e3, labels, **options)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = linear_model(3, (3, 8, 8))

    def forward(self, x: torch.Tensor) -> object:
        return (self.inner(x), x) if self.training else self.inner(x)


class Greedy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 PiB.\nmore lines")


@pytest.mark.parametrize(
    ("network", "options", "kind", "said"),
    [
        (Pair(), {}, LogitsError, "In training the model returns a tuple"),
        (nn.Flatten(), {}, ModelError, "no parameter to train"),
        (Greedy(), {}, SettingsError, "Memory ran out.*smaller --batch-size"),
        (linear_model(2, (3, 8, 8)), {}, ModelError, "fails on 8 images at once on cpu"),
        (linear_model(3, (3, 9, 9)), {}, ModelError, "fails on 8 images"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.BatchNorm1d(3)),
            {"batch_size": 1},
            ModelError,
            "fails on 1 image at once on cpu: Expected more than 1 value",
        ),
        (linear_model(3, (3, 8, 8)), {"device": "cuda:77"}, SettingsError, "cannot be used"),
        (linear_model(3, (3, 8, 8)), {"epochs": 0}, SettingsError, "epochs"),
    ],
)
def test_what_cannot_be_trained_ends_in_one_sentence(
    network: nn.Module, options: dict[str, object], kind: type[AuditError], said: str
) -> None:
    images, labels = tensors()
    with pytest.raises(kind, match=said) as caught:
        fit(network, images, labels, **{"epochs": 1, "batch_size": 8, **options})
    assert "\n" not in str(caught.value)


def test_images_and_labels_must_go_together() -> None:
    images, labels = tensors()
    with pytest.raises(DataError, match="30 images and 29 labels"):
        fit(linear_model(3, (3, 8, 8)), images, labels[1:])
    with pytest.raises(DataError, match="no image to train on"):
        fit(linear_model(3, (3, 8, 8)), images[:0], labels[:0])
