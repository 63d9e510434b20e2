"""First order against the slow replica where it is exact, and against finite differences elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import conv_model, linear_model, random_images
from replicas import conjugate_pairs, logits_of, remove_bins, response_of
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import LogitsError
from shortcut_audit.measures.interface import Subject
from shortcut_audit.measures.searches.first_order import (
    N_FEATURES,
    first_order,
    first_order_passes,
    n_logits,
)
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.settings import RESPONSES, settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

Prepare = Callable[..., Subject]


@pytest.fixture
def prepare() -> Iterator[Prepare]:
    with ExitStack() as stack:

        def prepared(network: nn.Module, pairs: Any, n_channels: int = 1, **values: Any) -> Subject:
            config = {"mean": (0.4, 0.5, 0.6)[:n_channels], "std": (0.2, 0.25, 0.3)[:n_channels]}
            fixed = {"dtype": "float64", "batch_size": 5, "search": "screened", "device": "cpu"}
            request = AuditRequest(
                model=LoadedModel(network, "test", "test", config),
                source=source_from(pairs),
                settings=settings_from({**fixed, "resolution": "orbits", **values}),
                command="test",
            )
            return stack.enter_context(prepared_audit(request, None)).subject

        yield prepared


def features_of(subject: Subject, index: int, logits: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (N_FEATURES, n, n_units) of a class's search images, and the images."""
    rows = subject.outline.search_rows[index]
    reported: list[int] = []
    block = subject.block(rows)
    found = first_order(subject, block, index, logits, reported.append)
    n = rows[1] - rows[0]
    assert found.shape == (N_FEATURES, n, subject.outline.units.n_units)
    assert sum(reported) == n * first_order_passes(logits) == n * (1 + 2 * logits)
    return found.numpy(), subject.images.store.block(*rows).astype(np.float64)


def bins_by_unit(subject: Subject) -> list[set[tuple[int, int]]]:
    """Bins of the full plane in each unit."""
    grid, units = subject.grid, subject.outline.units
    bins: list[set[tuple[int, int]]] = [set() for _ in range(units.n_units)]
    height, width = grid.height, grid.width
    pair_of = {b: frozenset(pair) for pair in conjugate_pairs(height, width) for b in pair}
    for orbit, unit in enumerate(units.unit_of_orbit):
        bins[unit] |= pair_of[int(grid.u[orbit]) % height, int(grid.v[orbit]) % width]
    return bins


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ((1, 6, 6), {}),
        ((3, 7, 5), {}),
        ((3, 6, 7), {"domain": "normalized"}),
        ((1, 5, 8), {"domain": "normalized"}),
        ((1, 8, 8), {"resolution": "tiles:3x4"}),
        ((3, 8, 7), {"resolution": "patches:2"}),
    ],
    ids=str,
)
def test_on_a_linear_classifier_first_order_is_removal_itself(
    shape: tuple[int, int, int], values: dict[str, Any], prepare: Prepare
) -> None:
    network = linear_model(3, shape, scale=0.5)
    subject = prepare(network, random_images(8, 3, shape), shape[0], **values)
    classifier = subject.classifier
    mean, std = (np.asarray(x.cpu()) for x in (classifier.mean, classifier.std))
    found, images = features_of(subject, 1, 3)
    if subject.settings.domain == "normalized":
        images = (images - mean[:, None, None]) / std[:, None, None]
        mean, std = np.zeros_like(mean), np.ones_like(std)
    for unit, bins in enumerate(bins_by_unit(subject)):
        for number, image in enumerate(images):
            clean = logits_of(network, image, mean, std)
            gone = remove_bins(image, bins)
            filtered = logits_of(network, gone, mean, std)
            expected = [response_of(name, filtered, clean, 1) for name in RESPONSES]
            # By Parseval, what is taken away holds as much energy in pixels as in its bins.
            expected.append(float(np.square(image - gone).sum()))
            np.testing.assert_allclose(found[:, number, unit], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[-1].sum(axis=1), np.square(images).sum(axis=(1, 2, 3)))


def tiny_vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3,
        num_classes=3,
    )  # fmt: skip


def tiny_convnext() -> nn.Module:
    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=3)


def convolutions() -> nn.Module:
    network = conv_model(3, 3)
    with torch.no_grad():
        network[1].running_mean.uniform_(-0.2, 0.2)
        network[1].running_var.uniform_(0.5, 2)
    # Smooth, so that differences are gradients.
    return nn.Sequential(*network[:2], nn.GELU(), *network[3:])


@pytest.mark.parametrize("make", [convolutions, tiny_vit, tiny_convnext])
def test_on_networks_it_is_the_derivative_along_each_wave(
    make: Callable[[], nn.Module], prepare: Prepare
) -> None:
    size = 32 if make is tiny_convnext else 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = make()
    for parameter in network.parameters():
        parameter.data = parameter.data.double()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    subject = prepare(network, random_images(4, 3, (3, size, size)), 3)
    found, images = features_of(subject, 0, 3)
    assert not any(module.training for module in network.modules())
    outside = [parameter.grad for parameter in network.parameters()]
    assert outside == [None] * len(outside)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], check_dtype=False, msg=name)
    pairs = bins_by_unit(subject)
    mean, std = (np.asarray(x.cpu()) for x in (subject.classifier.mean, subject.classifier.std))
    step = 1e-4
    for unit in (0, 1, len(pairs) // 2, len(pairs) - 1):
        for number, image in enumerate(images):
            wave = image - remove_bins(image, pairs[unit])
            clean = logits_of(network, image, mean, std)
            slope = (
                logits_of(network, image - step * wave, mean, std)
                - logits_of(network, image + step * wave, mean, std)
            ) / (2 * step)
            expected = [response_of(name, clean + slope, clean, 0) for name in RESPONSES]
            np.testing.assert_allclose(found[:3, number, unit], expected, rtol=1e-4, atol=1e-8)


def test_the_network_is_as_it_was_after_the_audit() -> None:
    network = conv_model(2, 1).train()
    network[0].weight.grad = torch.ones_like(network[0].weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    settings = settings_from({"search": "screened", "batch_size": 4, "device": "cpu"})
    source = source_from(random_images(4, 2, (1, 6, 6)))
    model = LoadedModel(network, "test", "test", None)
    request = AuditRequest(model=model, source=source, settings=settings, command="test")
    with prepared_audit(request, None) as prepared:
        features_of(prepared.subject, 0, 2)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network[0].weight.grad, torch.ones_like(network[0].weight))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


class Caching(nn.Module):
    """Keeps a tensor of its first call, which under inference mode is one that autograd refuses."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.full((1, 1, 1, 1), 0.5, dtype=x.dtype)
        return self.inner(x * self.scale)


def test_a_tensor_that_a_model_kept_from_an_earlier_call_does_not_stop_the_gradient(
    prepare: Prepare,
) -> None:
    pairs = random_images(4, 2, (1, 6, 6))
    halved = linear_model(2, (1, 6, 6))
    plain, _ = features_of(prepare(halved, pairs), 0, 2)
    caching, _ = features_of(prepare(Caching(linear_model(2, (1, 6, 6))), pairs), 0, 2)
    # A linear model at half the input moves half as far.
    np.testing.assert_allclose(caching[2], plain[2] / 4, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_change_nothing(batch_size: int, prepare: Prepare) -> None:
    pairs = random_images(20, 2, (1, 8, 8))
    one, other = (
        features_of(prepare(conv_model(2, 1), pairs, batch_size=size), 1, 2)[0]
        for size in (7, batch_size)
    )
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


# Many classes -------------------------------------------------------------------------------------


def test_logits_that_go_backward_are_all_or_at_least_three() -> None:
    assert [n_logits(k, 5) for k in (2, 5, 6, 1000)] == [2, 5, 5, 5]
    assert [n_logits(k, 1) for k in (2, 3, 4)] == [2, 3, 3]


class Nudged(nn.Module):
    """Many logits of which those but the first move together, as the rest is taken to."""

    def __init__(self, n_outputs: int, n_pixels: int, own: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shared, alone = torch.randn(2, n_pixels, generator=generator)
        weight = shared.repeat(n_outputs, 1)
        weight[own] = alone
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.randn(n_outputs, generator=generator) * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


@pytest.mark.parametrize("kept", [3, 4, 9])
def test_the_rest_as_one_logit_leaves_the_odds_as_they_are(kept: int, prepare: Prepare) -> None:
    network = Nudged(12, 25, own=1)
    subject = prepare(network, random_images(4, 12, (1, 5, 5)))
    lumped, _ = features_of(subject, 1, kept)
    whole, _ = features_of(subject, 1, 12)
    for name in ("log-odds", "cross-entropy"):
        row = RESPONSES.index(name)
        np.testing.assert_allclose(lumped[row], whole[row], rtol=1e-9, atol=1e-12)
    assert (lumped[RESPONSES.index("squared-logit-change")] > 0).any()


def test_rivals_are_those_of_each_image(prepare: Prepare) -> None:
    """With the strongest rival alone and the rest far below, lumping loses nothing."""
    network = linear_model(9, (1, 6, 6), scale=1)
    with torch.no_grad():
        network[1].bias[4:] -= 200
    subject = prepare(network, random_images(4, 9, (1, 6, 6)))
    lumped, _ = features_of(subject, 2, 5)
    whole, _ = features_of(subject, 2, 9)
    np.testing.assert_allclose(lumped[:2], whole[:2], rtol=1e-6, atol=1e-6)


class Steep(nn.Module):
    """Finite answers with a gradient that is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        root = (x.flatten(1)[:, :1] * 0).abs().sqrt()
        return torch.cat([x.flatten(1).sum(dim=1, keepdim=True), root], dim=1)


def test_a_gradient_that_is_not_finite_is_named(prepare: Prepare) -> None:
    subject = prepare(conv_model(2, 1), random_images(4, 2, (1, 6, 6)))
    object.__setattr__(subject.classifier, "network", Steep())
    with pytest.raises(LogitsError, match="or gradients"):
        features_of(subject, 0, 2)
