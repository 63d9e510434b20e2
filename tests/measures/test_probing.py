from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import logits_of, remove_bins, response_of
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.pixels import collect_images
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.measures import probing
from shortcut_audit.measures.interface import Block, Outline, Subject, logits_in_batches
from shortcut_audit.measures.probing import probe_pairs, probe_units
from shortcut_audit.measures.responses import RESPONSE_FUNCTIONS, all_responses
from shortcut_audit.models.classifier import borrowed
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import RESPONSES, settings_from

SHAPES = [(1, 8, 8), (3, 7, 7), (1, 6, 9), (3, 9, 6)]
LAYOUTS = [torch.channels_last, torch.contiguous_format]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
OUTPUT, LEVELS = 1, (0, 80, 160, 255)


def silent(n: int) -> None:
    del n


@contextmanager
def subject_on(
    network: nn.Module,
    shape: tuple[int, int, int],
    layout: torch.memory_format = torch.channels_last,
    batch_size: int = 7,
    **values: Any,
) -> Iterator[tuple[Subject, Block]]:
    """Four images of one class, and a classifier over `network` with a mean and std of its own."""
    chosen = settings_from({"dtype": "float64", **values})
    preprocessing = Preprocessing(
        channels=shape[0],
        height=shape[1],
        width=shape[2],
        geometry="as they are",
        mean=MEAN[: shape[0]],
        std=STD[: shape[0]],
        source="test",
    )
    generator = np.random.default_rng(0)
    # Half of the pixels at the ends of the range, so that filtered images leave it.
    pairs = [
        (generator.choice(LEVELS, shape).astype(np.uint8), label) for label in (0, 1) for _ in range(8)
    ]
    images = collect_images(source_from(pairs), chosen, preprocessing, [OUTPUT, 0])
    outline = Outline(
        settings=chosen,
        grid=FrequencyGrid(*shape[1:]),
        n_channels=shape[0],
        n_outputs=3,
        n_classes=2,
        search_rows=images.search_rows,
        judge_rows=images.judge_rows,
        searched=(0,),
    )
    device = torch.device("cpu")
    with borrowed(network, preprocessing, device, chosen.dtype, 0, layout) as classifier:
        subject = Subject(classifier, images, outline, batch_size)
        yield subject, subject.block(images.search_rows[0])


def some_pairs(grid: FrequencyGrid, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    images, orbits = generator.integers(0, 4, n), generator.integers(0, grid.n_orbits, n)
    return torch.from_numpy(images), torch.from_numpy(orbits)


def clean_of(subject: Subject, block: Block) -> torch.Tensor:
    return logits_in_batches(subject, block.images, silent)


def probe(subject: Subject, block: Block, images: torch.Tensor, orbits: torch.Tensor) -> np.ndarray:
    clean = clean_of(subject, block)
    return probe_pairs(subject, block, clean, images, orbits, OUTPUT, silent).numpy()


class Replica:
    """One image, one set of bins and one pass at a time, by the definitions."""

    def __init__(self, network: nn.Module, subject: Subject) -> None:
        self.network = network
        self.settings = subject.settings
        self.grid = subject.grid
        n = len(subject.classifier.mean)
        self.mean, self.std = np.array(MEAN[:n]), np.array(STD[:n])
        rows = subject.images.search_rows[0]
        self.pixels = subject.images.store.block(*rows).astype(np.float64)

    def bins(self, orbit: int) -> set[tuple[int, int]]:
        u, v = int(self.grid.u[orbit]), int(self.grid.v[orbit])
        return {(u, v), (-u, -v)}

    def logits(self, image: int, gone: list[int]) -> np.ndarray:
        pixels, mean, std = self.pixels[image], self.mean[:, None, None], self.std[:, None, None]
        normalized = self.settings.domain == "normalized"
        left = (pixels - mean) / std if normalized else pixels
        for orbit in gone:
            left = remove_bins(left, self.bins(orbit))
        if normalized:
            left = left * std + mean
        if self.settings.clip:
            left = left.clip(0, 1)
        return logits_of(self.network.double().eval(), left, self.mean, self.std)

    def responses(self, image: int, gone: list[int]) -> list[float]:
        filtered, clean = self.logits(image, gone), self.logits(image, [])
        return [response_of(response, filtered, clean, OUTPUT) for response in RESPONSES]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("domain", ["pixels", "normalized"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_list_of_pairs_equals_the_slow_replica(
    shape: tuple[int, int, int], domain: str, clip: bool, layout: torch.memory_format, dtype: str
) -> None:
    network = conv_model(3, shape[0])
    with subject_on(network, shape, layout, domain=domain, clip=clip, dtype=dtype) as (subject, block):
        images, orbits = some_pairs(subject.grid, 23)
        ours = probe(subject, block, images, orbits)
        replica = Replica(network, subject)
    expected = [
        replica.responses(image, [orbit])
        for image, orbit in zip(images.tolist(), orbits.tolist(), strict=True)
    ]
    atol = 1e-5 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(ours.T, expected, atol=atol, rtol=atol)


@settings(deadline=None, max_examples=30)
@given(
    n_pairs=st.integers(0, 40),
    batch_size=st.integers(1, 45),
    seed=st.integers(0, 2**31),
    at_once=st.integers(1, 60),
)
def test_neither_batches_nor_company_nor_order_change_a_pair(
    n_pairs: int, batch_size: int, seed: int, at_once: int
) -> None:
    network = conv_model(3, 3)
    with (
        pytest.MonkeyPatch.context() as patch,
        subject_on(network, (3, 7, 6), batch_size=batch_size) as (subject, block),
    ):
        images, orbits = some_pairs(subject.grid, n_pairs, seed)
        whole = probe(subject, block, images, orbits)
        assert whole.shape == (len(RESPONSES), n_pairs)
        patch.setattr(probing, "_LOGITS_AT_ONCE", at_once)
        backward = probe(subject, block, images.flip(0), orbits.flip(0))[:, ::-1]
        np.testing.assert_allclose(backward, whole, atol=1e-10)
        for p in range(min(n_pairs, 3)):
            alone = probe(subject, block, images[p : p + 1], orbits[p : p + 1])
            np.testing.assert_allclose(alone[:, 0], whole[:, p], atol=1e-10)


def test_single_precision_is_the_same_in_every_batch_size() -> None:
    found = []
    for batch_size in (1, 6, 64):
        network = conv_model(3, 3)
        with subject_on(network, (3, 8, 9), batch_size=batch_size, dtype="float32") as (subject, block):
            found.append(probe(subject, block, *some_pairs(subject.grid, 50)))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("domain", ["pixels", "normalized"])
@pytest.mark.parametrize("shape", SHAPES)
def test_removing_a_group_equals_removing_its_orbits_one_after_another(
    shape: tuple[int, int, int], domain: str, clip: bool, layout: torch.memory_format
) -> None:
    network = conv_model(3, shape[0])
    with subject_on(network, shape, layout, domain=domain, clip=clip) as (subject, block):
        grid = subject.grid
        chosen = np.random.default_rng(0).random((4, grid.n_orbits)) < 0.3
        images, units = (
            torch.tensor([3, 0, 0, 2, 1, 3, 2, 1, 1]),
            torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0]),
        )
        ours = probe_units(
            subject,
            block,
            clean_of(subject, block),
            images,
            units,
            half_plane_mask(grid, chosen),
            OUTPUT,
            silent,
        ).numpy()
        replica = Replica(network, subject)
    for p, (image, unit) in enumerate(zip(images.tolist(), units.tolist(), strict=True)):
        expected = replica.responses(image, np.flatnonzero(chosen[unit]).tolist())
        np.testing.assert_allclose(ours[:, p], expected, atol=1e-9)


class Looking(nn.Module):
    """Remembers how the images it is shown lie in memory, and in which."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model(3, 3)
        self.seen: deque[tuple[int, int, bool, bool]] = deque()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nhwc = x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((len(x), x.data_ptr(), nhwc, x.is_contiguous()))
        return self.inner(x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_are_full_made_in_the_network_s_layout_and_reuse_one_buffer(
    layout: torch.memory_format,
) -> None:
    network = Looking()
    advanced: list[int] = []
    with subject_on(network, (3, 8, 9), layout, batch_size=8) as (subject, block):
        clean = clean_of(subject, block)
        network.seen.clear()
        pairs = some_pairs(subject.grid, 29)
        probe_pairs(subject, block, clean, *pairs, OUTPUT, advanced.append)
        seen = list(network.seen)
    assert [n for n, *_ in seen] == advanced == [8, 8, 8, 5]
    assert len({address for _, address, *_ in seen}) == 1
    assert {(nhwc, nchw) for *_, nhwc, nchw in seen} == {
        (layout is torch.channels_last, layout is torch.contiguous_format)
    }


def test_a_model_that_answers_with_a_view_of_its_input_is_read_before_the_next_batch() -> None:
    with subject_on(nn.Flatten(), (1, 5, 6), batch_size=2) as (subject, block):
        images, orbits = some_pairs(subject.grid, 9)
        ours = probe(subject, block, images, orbits)
        replica = Replica(nn.Flatten(), subject)
    for p in range(9):
        np.testing.assert_allclose(
            ours[:, p], replica.responses(int(images[p]), [int(orbits[p])]), atol=1e-9
        )


def test_the_block_is_left_as_it_was() -> None:
    with subject_on(conv_model(3, 3), (3, 8, 8), clip=True) as (subject, block):
        before, spectrum = block.images.clone(), block.spectrum.clone()
        probe(subject, block, *some_pairs(subject.grid, 20))
        assert torch.equal(block.images, before)
        assert torch.equal(block.spectrum, spectrum)


@pytest.mark.parametrize("scale", [0.1, 5.0, 200.0])
def test_all_responses_at_once_equal_each_by_its_definition(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = scale * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    images = torch.tensor([2, 0, 0, 1, 2, 1])
    filtered = clean[images] + torch.randn(6, 5, generator=generator, dtype=torch.float64)
    ours = all_responses(filtered, clean, images, 3)
    for row, (name, response) in enumerate(RESPONSE_FUNCTIONS.items()):
        torch.testing.assert_close(
            ours[row], response(filtered, clean[images], 3), atol=1e-10, rtol=1e-10
        )
        for p, image in enumerate(images.tolist()):
            slow = response_of(name, filtered[p].numpy(), clean[image].numpy(), 3)
            assert float(ours[row, p]) == pytest.approx(slow, abs=1e-9)
