from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from replicas import importance_of
from torch import nn

from shortcut_audit.measures import interface
from shortcut_audit.measures.searches import exact
from shortcut_audit.results.settings import RESPONSES

SHAPES = [(1, 8, 8), (3, 7, 7), (1, 6, 9), (3, 9, 6)]
CONFIG = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_response_equals_the_slow_replica(shape: tuple[int, int, int], run_on: Any) -> None:
    network = conv_model(3, shape[0])
    config = {key: values[: shape[0]] for key, values in CONFIG.items()}
    audited = run_on(network, random_images(6, 3, shape), config)
    replica = network.double().eval()
    for index in range(3):
        for response in RESPONSES:
            slow = importance_of(
                replica, audited.search(index), index, response, config["mean"], config["std"]
            )
            ours = audited.result.arrays[f"dominant_frequencies/importance/{response}"][index]
            assert len(slow) == len(ours)
            np.testing.assert_allclose(ours, [slow[orbit] for orbit in audited.orbits], atol=1e-5)


def test_single_precision_equals_the_slow_replica(run_on: Any) -> None:
    network = conv_model(2, 3)
    audited = run_on(network, random_images(6, 2, (3, 8, 8)), dtype="float32")
    slow = importance_of(network.double().eval(), audited.search(0), 0, "cross-entropy")
    ours = audited.result.arrays["dominant_frequencies/importance/cross-entropy"][0]
    np.testing.assert_allclose(ours, [slow[orbit] for orbit in audited.orbits], atol=1e-5)


def wave_of(images: np.ndarray, bins: frozenset[tuple[int, int]]) -> np.ndarray:
    """The plane wave of a pair of bins in each image, summed bin by bin from its definition."""
    height, width = images.shape[-2:]
    y, x = np.mgrid[0:height, 0:width]
    spectrum = np.fft.fft2(images)
    total = np.zeros(images.shape, dtype=complex)
    for u, v in bins:
        turn = np.exp(2j * np.pi * (u * y / height + v * x / width))
        total += spectrum[..., u, v][..., None, None] * turn / (height * width)
    return total.real


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
def test_a_linear_classifier_has_the_closed_form(shape: tuple[int, int, int], run_on: Any) -> None:
    """Logits W x + b change by exactly -W wave; each response is a known function of that."""
    network = linear_model(2, shape)
    audited = run_on(network, random_images(8, 2, shape))
    weight = network[1].weight.detach().double().numpy()
    bias = network[1].bias.detach().double().numpy()
    for label in (0, 1):
        images = audited.search(label)
        clean = images.reshape(len(images), -1) @ weight.T + bias
        sign = np.array([-1.0, 1.0]) if label == 1 else np.array([1.0, -1.0])
        for orbit, bins in enumerate(audited.orbits):
            change = wave_of(images, bins).reshape(len(images), -1) @ weight.T
            gap, gap_left = clean @ sign, (clean - change) @ sign
            expected = {
                # With two classes the log-odds are the gap between the logits.
                "log-odds": (change @ sign).mean(),
                "cross-entropy": (np.logaddexp(0, -gap_left) - np.logaddexp(0, -gap)).mean(),
                "squared-logit-change": (change**2).sum(axis=1).mean(),
            }
            for response, value in expected.items():
                ours = audited.result.arrays[f"dominant_frequencies/importance/{response}"]
                assert ours[label, orbit] == pytest.approx(value, abs=1e-5, rel=1e-5)


class Counting(nn.Module):
    """Remembers every image it is shown."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.network = conv_model(n_outputs, 1)
        # A deque: plain lists on a model are put back as they were after an audit.
        self.seen: deque[torch.Tensor] = deque()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().clone())
        return self.network(x)


def test_every_orbit_of_every_search_image_is_probed_once(run_on: Any) -> None:
    network = Counting(2)
    audited = run_on(network, random_images(8, 2, (1, 6, 5)))
    n_orbits = audited.result.grid.n_orbits
    seen = torch.cat(list(network.seen)).numpy()[:, 0]
    for index in range(2):
        for image in audited.search(index)[:, 0]:
            spectrum = np.fft.fft2(image)
            gone = np.abs(np.fft.fft2(image - seen) - 0) > 1e-9
            # A probe differs from its image in one pair of bins, where the image has its own value.
            probes = [
                frozenset(zip(*np.nonzero(mask), strict=True))
                for mask, left in zip(gone, seen, strict=True)
                if mask.sum() in (1, 2)
                and np.allclose((np.fft.fft2(left))[mask], 0, atol=1e-9)
                and np.abs(spectrum[mask]).min() > 1e-9
            ]
            assert sorted(map(sorted, probes)) == sorted(map(sorted, audited.orbits))
    cost = {c.measure: c.image_passes for c in audited.result.provenance.cost}
    assert cost["dominant_frequencies"] == 2 * 4 * (n_orbits + 1)


def test_the_cost_on_record_is_the_number_of_images_the_model_saw(run_on: Any) -> None:
    network = Counting(3)
    audited = run_on(network, random_images(6, 3, (1, 6, 6)), examples=0)
    # Grey images that count the outputs, and real ones that look for NaN and for answers that
    # change with the batch, come before the audit.
    assert sum(len(batch) for batch in network.seen) == audited.result.image_passes + 9


def test_batch_size_and_shard_borders_change_nothing(
    run_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, pairs = conv_model(2, 1), random_images(12, 2, (1, 8, 8))
    whole = run_on(network, pairs, batch_size=500).result
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 40)
    monkeypatch.setattr(exact, "PASSES_PER_SHARD", 13)
    cut = run_on(network, pairs, batch_size=3).result
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(cut.arrays[name], array, atol=1e-6, err_msg=name)
    assert cut.shortcuts.by_class[0].tpr_kept == whole.shortcuts.by_class[0].tpr_kept
    ours = cut.dominant_frequencies.by_class[0].reliability["log-odds"]
    theirs = whole.dominant_frequencies.by_class[0].reliability["log-odds"]
    assert ours.value == pytest.approx(theirs.value, abs=1e-6)


def test_reliability_is_high_where_every_image_says_the_same_and_low_on_noise(run_on: Any) -> None:
    generator = np.random.default_rng(0)
    pattern = generator.random((2, 1, 8, 8))
    alike = [
        ((0.9 * pattern[k] + 0.1 * generator.random((1, 8, 8))).astype(np.float32), k)
        for k in (0, 1)
        for _ in range(20)
    ]
    noise = [(generator.random((1, 8, 8)).astype(np.float32), k) for k in (0, 1) for _ in range(20)]
    network = linear_model(2, (1, 8, 8))
    high = run_on(network, alike).result.dominant_frequencies.by_class[0]
    low = run_on(network, noise).result.dominant_frequencies.by_class[0]
    assert high.reliability["log-odds"].value > 0.9
    assert low.reliability["log-odds"].value < 0.6
    assert high.reliability["log-odds"].n_splits == 35


def test_a_model_that_ignores_its_input_has_a_map_without_reliability_and_a_reason(run_on: Any) -> None:
    network = linear_model(2, (1, 6, 6), scale=0.0)
    found = run_on(network, random_images(8, 2, (1, 6, 6))).result.dominant_frequencies.by_class[0]
    assert found.reliability["log-odds"].value is None
    assert "constant" in found.reliability["log-odds"].reason


def test_a_planted_orbit_comes_first(run_on: Any) -> None:
    """A detector of one wave, on images of which one class carries it in random phase."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[0:12, 0:12]

    def wave(phase: float) -> np.ndarray:
        return 0.1 * np.cos(2 * np.pi * (3 * y - 4 * x) / 12 + phase)

    pairs = []
    for label in (0, 1):
        for _ in range(10):
            image = 0.5 + 0.02 * generator.standard_normal((12, 12))
            image += label * wave(generator.uniform(0, 2 * np.pi))
            pairs.append((image[None].astype(np.float32), label))

    class Detector(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            energy = torch.fft.fft2(images)[:, 0, 3, -4].abs()
            return torch.stack([torch.full_like(energy, 3.0), energy], dim=1)

    table = run_on(Detector(), pairs).result.table("orbits")
    first = table[(table["class"] == "1") & (table["rank"] == 1)].iloc[0]
    assert (abs(first.u), abs(first.v), first.u * first.v) == (3, 4, -12)


@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
def test_dc_takes_part_in_the_ranking_only_when_asked(dc: str, run_on: Any) -> None:
    result = run_on(conv_model(2, 1), random_images(8, 2, (1, 8, 8)), dc=dc).result
    ranks = result.arrays["dominant_frequencies/rank"]
    n_ranked = result.grid.n_orbits - (dc != "rank")
    assert sorted(ranks[0][ranks[0] > 0].tolist()) == list(range(1, n_ranked + 1))
    assert (ranks[:, 0] > 0).all() == (dc == "rank")


def test_in_the_normalised_domain_dc_is_what_the_model_sees(run_on: Any) -> None:
    """Removing DC of a constant image after normalisation leaves grey, before it leaves black."""
    network, config = linear_model(2, (1, 4, 4)), {"mean": (0.3,), "std": (0.5,)}
    pairs = random_images(8, 2, (1, 4, 4))
    by_domain = {}
    for domain in ("pixels", "normalized"):
        audited = run_on(network, pairs, config, domain=domain)
        by_domain[domain] = audited.result.arrays["dominant_frequencies/importance/log-odds"]
        images = audited.search(0)
        if domain == "normalized":
            images = (images - 0.3) / 0.5
            slow = importance_of(network.double(), images, 0, "log-odds")
        else:
            slow = importance_of(network.double(), images, 0, "log-odds", 0.3, 0.5)
        np.testing.assert_allclose(
            by_domain[domain][0], [slow[orbit] for orbit in audited.orbits], atol=1e-5
        )
    waves = np.abs(by_domain["pixels"][:, 1:] - by_domain["normalized"][:, 1:])
    assert waves.max() < 1e-5
    assert np.abs(by_domain["pixels"][:, 0] - by_domain["normalized"][:, 0]).min() > 1e-3


def test_clipping_is_done_when_asked_for(run_on: Any) -> None:
    """Images of 0 and 1 leave [0,1] at every probe; the model must never see that when clipped."""
    generator = np.random.default_rng(0)
    pairs = [
        (generator.integers(0, 2, (1, 6, 6)).astype(np.float32), k) for k in (0, 1) for _ in range(6)
    ]
    for clip, domain in [(False, "pixels"), (True, "pixels"), (True, "normalized")]:
        network = Counting(2)
        run_on(network, pairs, {"mean": (0.5,), "std": (0.25,)}, clip=clip, domain=domain)
        seen = torch.cat(list(network.seen)) * 0.25 + 0.5
        outside = float((seen - seen.clamp(0, 1)).abs().max())
        assert (outside < 1e-6) == clip
