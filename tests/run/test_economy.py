"""Each image is decoded once and each FFT taken once a round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from conftest import conv_model, random_images
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.datasets import source_from
from shortcut_audit.measures import interface
from shortcut_audit.measures.searches import exact
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.report.html import render
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.engines.local import run_local
from shortcut_audit.run.prepare import AuditRequest


class CountingSet:
    """A data set that counts how often each image is decoded."""

    def __init__(self, n_per_class: int, n_classes: int) -> None:
        self.pairs = random_images(n_per_class, n_classes, (3, 8, 9))
        self.targets = [label for _, label in self.pairs]
        self.n_decoded = np.zeros(len(self.pairs), dtype=int)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.n_decoded[index] += 1
        return self.pairs[index]


@pytest.mark.parametrize("passes_per_shard", [10, 30, 8192])
def test_every_image_is_decoded_once_and_transformed_once_a_round(
    passes_per_shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", passes_per_shard)
    monkeypatch.setattr(exact, "PASSES_PER_SHARD", passes_per_shard)
    rounds: list[list[bytes]] = []
    original = interface.spectrum_of

    def noted(pixels: torch.Tensor) -> torch.Tensor:
        rounds[-1] += [image.numpy().tobytes() for image in pixels]
        return original(pixels)

    def engine(*given: Any) -> None:
        rounds.append([])
        run_local(*given)

    monkeypatch.setattr(interface, "spectrum_of", noted)
    images = CountingSet(12, 3)
    request = AuditRequest(
        model=LoadedModel(conv_model(3, 3), "test", "test", None),
        source=source_from(images, None),
        settings=settings_from({"images_per_class": 8, "batch_size": 32}),
        command="test",
    )
    result = run_audit(request, engine=engine)
    render(result)
    assert sorted(images.n_decoded.tolist()) == [0] * 12 + [1] * 24
    assert result.provenance.data.n_used == 24
    for each in rounds:
        assert len(each) == len(set(each))
    # A round is of one split: half of the images.
    assert max(len(each) for each in rounds) == 12


def test_the_model_is_left_as_it_was_found() -> None:
    network = conv_model(2, 1).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    homes = [parameter.data_ptr() for parameter in network.parameters()]
    random_state = torch.get_rng_state()
    sa.audit(network, random_images(8, 2, (1, 6, 6)), batch_size=8)
    assert [module.training for module in network[:4]] == [True, False, True, True]
    assert [parameter.data_ptr() for parameter in network.parameters()] == homes
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(network.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_progress_runs_from_nothing_to_all_in_each_stage() -> None:
    events: list[tuple[str, int, int]] = []

    def record(*event: Any) -> None:
        events.append(event)

    pairs = random_images(8, 2, (1, 6, 6))
    result = sa.audit(conv_model(2, 1), pairs, progress=record)
    assert list(dict.fromkeys(stage for stage, _, _ in events)) == [
        "reading images",
        "finding the batch size",
        "measuring",
    ]
    for stage, total in [("reading images", 16), ("measuring", result.image_passes)]:
        done = [event[1] for event in events if event[0] == stage]
        assert done == sorted(done)
        assert done[-1] == total


class Viewing(nn.Module):
    """The tutorial kind of network: `view` after a convolution refuses channels-last tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(144, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).view(x.size(0), -1))


def test_a_model_that_cannot_take_channels_last_is_audited_in_the_plain_layout() -> None:
    result = sa.audit(Viewing(), random_images(8, 2, (3, 8, 8)), batch_size=16)
    assert result.predictions.accuracy.n == 16


class Caching(nn.Module):
    """Keeps a tensor and counts its calls, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model(2, 1)
        self.n_calls = 0
        self.cache: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        if "scale" not in self.cache:
            self.cache["scale"] = torch.ones(1, dtype=x.dtype) * self.inner[0].weight.mean()
        return self.inner(x) * self.cache["scale"]


def test_caches_and_counters_of_a_model_are_as_before() -> None:
    network = Caching()
    sa.audit(network, random_images(8, 2, (1, 6, 6)), batch_size=16, dtype="float64")
    assert network.n_calls == 0
    assert network.cache == {}
    network.train()(torch.rand(2, 1, 6, 6)).sum().backward()
    assert network.inner[0].weight.grad is not None


def test_a_model_whose_answers_depend_on_the_batch_is_noted() -> None:
    network = conv_model(2, 1)
    network[1] = nn.BatchNorm2d(6, track_running_stats=False)
    noted = sa.audit(network, random_images(8, 2, (1, 6, 6)), batch_size=16)
    plain = sa.audit(conv_model(2, 1), random_images(8, 2, (1, 6, 6)), batch_size=16)
    assert any("other images in its batch" in note for note in noted.notes)
    assert not any("other images in its batch" in note for note in plain.notes)


def test_a_data_loader_leaves_the_random_state_alone() -> None:
    dataset = torch.utils.data.TensorDataset(torch.rand(16, 1, 6, 6), torch.arange(16) % 2)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    state = torch.get_rng_state()
    sa.audit(conv_model(2, 1), loader, batch_size=16)
    assert torch.equal(torch.get_rng_state(), state)
