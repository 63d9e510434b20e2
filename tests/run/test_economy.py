"""Each image is decoded once and each FFT taken once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images

import shortcut_audit as sa
from shortcut_audit.measures import interface
from shortcut_audit.report.html import render


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


@pytest.mark.parametrize("passes_per_shard", [30, 8192])
def test_every_image_used_is_decoded_once_and_transformed_once(
    passes_per_shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", passes_per_shard)
    monkeypatch.setattr("shortcut_audit.measures.dominant_frequencies.PASSES_PER_SHARD", passes_per_shard)
    n_transformed = 0
    original = interface.spectrum_of

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal n_transformed
        n_transformed += len(pixels)
        return original(pixels)

    monkeypatch.setattr(interface, "spectrum_of", counted)
    images = CountingSet(12, 3)
    result = sa.audit(conv_model(3, 3), images, images_per_class=8, batch_size=32)
    render(result)
    assert sorted(images.n_decoded.tolist()) == [0] * 12 + [1] * 24
    assert n_transformed == result.provenance.data.n_used == 24


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
