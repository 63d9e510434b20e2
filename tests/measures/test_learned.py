from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import conv_model, linear_model, random_images
from driven import run_through
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import LogitsError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import found_share, rank_orbits, top_share
from shortcut_audit.measures.interface import Subject
from shortcut_audit.measures.searches import learned
from shortcut_audit.measures.searches.descent import Schedule, Stage, logits_gradient, soft_masks
from shortcut_audit.measures.searches.folds import rankable_orbits
from shortcut_audit.measures.searches.learned import LearnedSearch
from shortcut_audit.measures.searches.mask_descent import (
    HalfPlane,
    counted_members,
    keep_only_gradients,
)
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.models.small import small_cnn
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

SEARCH = LearnedSearch()
drive = partial(run_through, SEARCH)
CONFIG = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


Prepare = Callable[..., Subject]


@pytest.fixture
def prepare() -> Iterator[Prepare]:
    with ExitStack() as stack:

        def prepared(
            network: nn.Module, pairs: Any, config: dict[str, Any] | None = None, **values: Any
        ) -> Subject:
            fixed = {"dtype": "float64", "batch_size": 37, "search": "learned", "device": "cpu"}
            request = AuditRequest(
                model=LoadedModel(network, "test", "test", config),
                source=source_from(pairs),
                settings=settings_from({**fixed, "steps": 12, **values}),
                command="test",
            )
            return stack.enter_context(prepared_audit(request, None)).subject

        yield prepared


def map_of(subject: Subject, importance: np.ndarray) -> np.ndarray:
    rank = rank_orbits(importance, rankable_orbits(subject.outline))
    return top_share(subject.grid, rank, subject.settings.kept_share)


# Masks under a budget.


@given(
    share=st.floats(0.01, 0.99),
    temperature=st.floats(0.05, 2),
    scale=st.floats(0, 300),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=80)
def test_soft_masks_hold_just_their_share(
    share: float, temperature: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, 40, generator=generator, dtype=torch.float64)
    members = torch.randint(0, 3, (40,), generator=generator).double()
    members[0] = 2
    masks = soft_masks(logits, members, Stage(share, temperature, 0.1))
    assert torch.allclose(masks @ members, share * members.sum(), rtol=1e-7)
    assert bool(((masks >= 0) & (masks <= 1)).all())
    # The larger a logit, the more of the unit passes.
    ordered = masks.gather(1, logits.argsort(dim=1))
    assert bool((ordered.diff(dim=1) >= -1e-12).all())


def test_schedule_ends_at_the_kept_share_and_never_rises() -> None:
    stages = [Schedule(50, 0.05).at(step) for step in range(50)]
    assert stages[-1].share == pytest.approx(0.05)
    for name in ("share", "temperature", "rate"):
        values = np.array([getattr(stage, name) for stage in stages])
        assert (np.diff(values) <= 1e-12).all()
        assert values[0] > values[-1]
    # One step, and a budget that is nearly everything, are no special cases.
    assert Schedule(1, 1.0).at(0).share < 1


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (9, 6)])
def test_half_plane_is_hermitian_and_adds_up_each_orbit(size: tuple[int, int]) -> None:
    grid = FrequencyGrid(*size)
    plane = HalfPlane.of(grid, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1, grid.n_orbits, generator=generator, dtype=torch.float64)
    pixels = torch.rand(*size, generator=generator, dtype=torch.float64)
    half = mask[:, plane.orbit_of_bin].reshape(grid.height, grid.n_half_columns)
    kept = torch.fft.irfft2(torch.fft.rfft2(pixels) * half, s=size)
    # Slowly: both members of every orbit, over the whole plane.
    whole = torch.zeros(size, dtype=torch.float64)
    for orbit in range(grid.n_orbits):
        u, v = int(grid.u[orbit]), int(grid.v[orbit])
        whole[u, v % grid.width] = whole[-u, -v % grid.width] = mask[0, orbit]
    slow = torch.fft.ifft2(torch.fft.fft2(pixels) * whole)
    assert slow.imag.abs().max() < 1e-14
    assert torch.allclose(kept, slow.real, atol=1e-14)
    counted = plane.per_orbit(plane.weight[None])[0] * grid.height * grid.width
    assert counted.tolist() == pytest.approx(grid.members.tolist())


# Gradients.


@pytest.mark.parametrize("domain", ["pixels", "normalized"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("dc", ["keep", "rank"])
def test_gradient_of_the_logits_equals_finite_differences(
    prepare: Prepare, domain: str, clip: bool, dc: str
) -> None:
    pairs = random_images(6, 2, (3, 6, 7))
    model = nn.Sequential(linear_model(9, (3, 6, 7)), nn.Tanh(), linear_model(2, (9, 1, 1), scale=1.0))
    subject = prepare(model, pairs, CONFIG, domain=domain, clip=clip, dc=dc, images_per_class=6)
    members = counted_members(subject.outline)
    plane = HalfPlane.of(subject.grid, torch.device("cpu"))
    spectra = subject.block(subject.outline.search_rows[1]).spectrum
    generator = torch.Generator().manual_seed(1)
    shape = (len(spectra), subject.grid.n_orbits)
    noisy = torch.randn(shape, generator=generator, dtype=torch.float64)
    stage, outputs = Stage(0.4, 0.7, 0.1), torch.ones(len(spectra), dtype=torch.long)

    def evaluate(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        soft = soft_masks(logits, members, stage)
        masks = soft.clone()
        if dc == "keep":
            masks[:, 0] = 1
        return (*keep_only_gradients(subject, plane, spectra, masks, outputs), soft)

    _, by_mask, soft = evaluate(noisy)
    found = logits_gradient(soft, by_mask, members, stage)
    step = 1e-5
    for unit in range(subject.grid.n_orbits):
        shift = torch.zeros(shape, dtype=torch.float64)
        shift[:, unit] = step
        slope = (evaluate(noisy + shift)[0] - evaluate(noisy - shift)[0]) / (2 * step)
        assert torch.allclose(found[:, unit], slope, atol=2e-7), unit
    assert float(found.abs().max()) > 1e-3
    assert torch.allclose(found.sum(dim=1), torch.zeros(len(found), dtype=torch.float64), atol=1e-12)


# What is found.


def _loss_of(subject: Subject, masks: np.ndarray, rows: tuple[int, int], output: int) -> np.ndarray:
    """Mean cross-entropy when only each of `masks` (n, n_orbits), and DC, is kept."""
    images = subject.block(rows).images
    full = np.zeros((len(masks), subject.grid.height, subject.grid.width))
    for orbit in range(subject.grid.n_orbits):
        u, v = int(subject.grid.u[orbit]), int(subject.grid.v[orbit])
        full[:, u, v % subject.grid.width] = full[:, -u, -v % subject.grid.width] = masks[:, orbit]
    full[:, 0, 0] = 1
    losses = []
    for mask in torch.from_numpy(full):
        kept = torch.fft.ifft2(torch.fft.fft2(images) * mask).real
        logits = subject.logits(kept)
        losses.append((torch.logsumexp(logits, dim=1) - logits[:, output]).mean().item())
    return np.array(losses)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learned_comes_close_to_the_best_of_all_masks(prepare: Prepare, seed: int) -> None:
    pairs = random_images(24, 2, (1, 6, 6), seed)
    subject = prepare(
        linear_model(2, (1, 6, 6), seed, scale=1.0),
        pairs,
        images_per_class=24,
        steps=150,
        kept_share=0.18,
    )
    driven = drive(subject)
    grid, rows = subject.grid, subject.outline.search_rows
    for number in range(2):
        kept = map_of(subject, driven.importance(number))
        n_bins = int(grid.members[kept].sum())
        choices = [
            choice
            for size in (3, 4, 5)
            for choice in itertools.combinations(range(1, grid.n_orbits), size)
            if grid.members[list(choice)].sum() == n_bins
        ]
        masks = np.zeros((len(choices), grid.n_orbits))
        for mask, choice in zip(masks, choices, strict=True):
            mask[list(choice)] = 1
        every = _loss_of(subject, masks, rows[number], number)
        own = _loss_of(subject, kept[None].astype(float), rows[number], number)[0]
        assert len(every) > 300
        # Better than 99 of 100 masks, and most of the way from the middle one to the very best.
        assert (every < own).mean() < 0.01
        assert own <= every.min() + 0.1 * (np.median(every) - every.min())


def _planted(size: int, orbit: tuple[int, int]) -> list[tuple[np.ndarray, int]]:
    """Noise of two kinds; class 0 has a cosine of random phase."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    pairs = []
    for number in range(240):
        image = generator.normal(128, 30, (1, size, size))
        if number % 2 == 0:
            phase = generator.uniform(0, 2 * np.pi)
            image += 14 * np.cos(2 * np.pi * (orbit[0] * y + orbit[1] * x) / size + phase)
        pairs.append((image.clip(0, 255).astype(np.uint8), number % 2))
    return pairs


def test_planted_orbit_ranks_first(prepare: Prepare) -> None:
    size, orbit = 24, (5, 3)
    pairs = _planted(size, orbit)
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).float() / 255
    labels = torch.tensor([label for _, label in pairs])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = small_cnn(2, 1, width=8)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(12):
            for batch in torch.randperm(len(images)).split(40):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network((images[batch] - 0.5) / 0.25), labels[batch])
                loss.backward()
                optimizer.step()
    assert loss.item() < 0.3
    subject = prepare(
        network, pairs, network.pretrained_cfg, dtype="float32", images_per_class=60, steps=60
    )
    driven = drive(subject)
    rank = rank_orbits(driven.importance(0), rankable_orbits(subject.outline))
    assert rank[subject.grid.orbit_of(*orbit)] <= 0.01 * subject.grid.n_orbits
    # The other class has none: what stands for it is that the wave is gone.
    other = rank_orbits(driven.importance(1), rankable_orbits(subject.outline))
    assert other[subject.grid.orbit_of(*orbit)] > 0.05 * subject.grid.n_orbits


# What must not matter, and what must.


@pytest.fixture
def subject(prepare: Prepare) -> Subject:
    return prepare(conv_model(4, 3), random_images(20, 4, (3, 8, 9)), CONFIG, images_per_class=20)


def test_neither_batch_size_nor_grouping_matters(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drive(subject)
    assert len(whole.rounds[1].shards) == 1
    for size in (1, 11, 512):
        other = drive(replace(subject, batch_size=size))
        for number in range(4):
            assert np.abs(other.importance(number) - whole.importance(number)).max() < 1e-6
    monkeypatch.setattr(learned, "_IMAGES_PER_STEP", 50)
    apart = drive(subject)
    assert len(apart.rounds[1].shards) == 2
    for number in range(4):
        assert np.abs(apart.importance(number) - whole.importance(number)).max() < 1e-6


def test_single_precision_gives_the_same_map_at_any_batch_size(prepare: Prepare) -> None:
    pairs = random_images(20, 2, (3, 16, 16))
    subject = prepare(conv_model(2, 3), pairs, CONFIG, dtype="float32", images_per_class=20, steps=40)
    first = drive(subject)
    for size in (7, 64):
        other = drive(replace(subject, batch_size=size))
        for number in range(2):
            assert np.abs(other.importance(number) - first.importance(number)).max() < 1e-3
            ours, theirs = (map_of(subject, each.importance(number)) for each in (first, other))
            assert (ours == theirs).all()


def test_a_class_alone_is_searched_as_among_others(prepare: Prepare) -> None:
    pairs = random_images(20, 4, (3, 8, 9))
    every = drive(prepare(conv_model(4, 3), pairs, CONFIG, images_per_class=20))
    alone = drive(prepare(conv_model(4, 3), pairs, CONFIG, images_per_class=20, classes=("2",)))
    assert [each.class_index for each in alone.outcome.by_class] == [2]
    assert np.abs(alone.importance(0) - every.importance(2)).max() < 1e-6


def test_chunks_of_steps_make_no_difference(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drive(subject)
    monkeypatch.setattr(learned, "PASSES_PER_SHARD", 1)
    chunked = drive(subject)
    assert len(whole.rounds) == 2
    assert len(chunked.rounds) == 13
    for number in range(4):
        assert chunked.importance(number).tobytes() == whole.importance(number).tobytes()
    assert sum(s.n_passes for s in whole.ran) == sum(s.n_passes for s in chunked.ran)


def test_large_states_are_saved_seldom(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "PASSES_PER_SHARD", 1)
    monkeypatch.setattr(learned, "_BYTES_OF_ALL_ROUNDS", 1)
    assert len(drive(subject).rounds) == 1 + 4


class KilledError(Exception):
    pass


class Mortal(dict[Any, Any]):
    """A ledger whose process dies while it saves the `last` entry but one."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def __setitem__(self, key: Any, value: Any) -> None:
        if len(self) == self.last:
            raise KilledError
        super().__setitem__(key, value)


def test_a_killed_search_goes_on_where_it_was(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "PASSES_PER_SHARD", 500)
    whole = drive(subject)
    ledger = Mortal(last=6)
    with pytest.raises(KilledError):
        drive(subject, ledger=ledger)
    again = drive(subject, ledger=dict(ledger))
    assert len(again.ran) == len(whole.ran) - 6
    for number in range(4):
        assert again.importance(number).tobytes() == whole.importance(number).tobytes()


def test_seeds_decide(prepare: Prepare) -> None:
    pairs = random_images(8, 2, (3, 8, 8))

    def importance(seed: int) -> np.ndarray:
        # Every image is used, in whichever split; only the halves change with the seed.
        return drive(prepare(conv_model(2, 3), pairs, images_per_class=8, seed=seed)).importance()

    assert importance(3).tobytes() == importance(3).tobytes()
    assert np.abs(importance(3) - importance(4)).max() > 1e-3


def test_other_images_give_other_keys(prepare: Prepare) -> None:
    """Shards of a group read images of all its classes, not only of the one that stands for it."""

    def digests(seed: int) -> list[str]:
        changed = random_images(8, 2, (3, 8, 8), seed)
        pairs = [pair for pair in random_images(8, 2, (3, 8, 8)) if pair[1] == 0]
        subject = prepare(
            conv_model(2, 3), [*pairs, *(p for p in changed if p[1] == 1)], images_per_class=8
        )
        return [s.work.digest for s in drive(subject).rounds[1].shards if s.work is not None]

    assert digests(0) == digests(0)
    assert digests(0) != digests(1)


# Costs, budgets and records.


def test_passes_are_those_planned(subject: Subject) -> None:
    driven = drive(subject)
    n_passes = sum(shard.n_passes for shard in driven.ran)
    assert n_passes == SEARCH.planned_passes(subject.outline)
    # 10 search images a class: 10 for the map, 5 + 5 for its reliability, in each of 12 steps.
    assert n_passes == 40 + 12 * 4 * 20 * 3
    assert sum(shard.n_backward for shard in driven.ran) == 12 * 4 * 20
    asked = driven.rounds[0]
    assert asked.n_passes_after == n_passes - 40
    assert driven.outcome.settings["steps"] == 12
    assert driven.outcome.settings["soft_share"] == pytest.approx(0.05)
    assert driven.outcome.stopped == ""


def test_maps_so_far_come_before_the_end(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "PASSES_PER_SHARD", 1000)
    driven = drive(subject)
    told = [asked.so_far for asked in driven.rounds]
    assert told[0] is None
    assert told[1] is None
    assert told[2] is not None
    early = told[2]()
    assert early.settings["steps"] < 12
    assert [each.class_index for each in early.by_class] == [0, 1, 2, 3]
    assert early.by_class[0].importance["joint"].shape == (subject.grid.n_orbits,)


def test_budget_in_passes_buys_fewer_steps(subject: Subject) -> None:
    cut = replace(subject.outline, settings=settings_from({**_values(subject), "budget": "1500"}))
    driven = drive(replace(subject, outline=cut))
    assert driven.outcome.settings["steps"] == (1500 - 40) // 240
    assert sum(shard.n_passes for shard in driven.ran) == SEARCH.planned_passes(cut) <= 1500
    assert driven.outcome.stopped == "the budget of 1,500 image passes paid for 6 of 12 steps"
    # A short descent comes to its end all the same.
    assert driven.outcome.settings["soft_share"] == pytest.approx(0.05)


def test_budget_in_seconds_goes_by_the_measured_speed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "PASSES_PER_SHARD", 500)
    cut = replace(subject.outline, settings=settings_from({**_values(subject), "budget": "2s"}))
    driven = drive(replace(subject, outline=cut), seconds_per_pass=1e-3)
    assert driven.outcome.settings["steps"] == (2000 - 40) // 240
    assert driven.outcome.stopped == "the budget of 2 s paid for 8 of 12 steps"
    ample = drive(replace(subject, outline=cut), seconds_per_pass=1e-6)
    assert ample.outcome.stopped == ""


def test_budget_that_pays_for_nothing_is_refused(subject: Subject) -> None:
    cut = replace(subject.outline, settings=settings_from({**_values(subject), "budget": "200"}))
    with pytest.raises(SettingsError, match="does not pay for one step"):
        SEARCH.planned_passes(cut)


def _values(subject: Subject) -> dict[str, Any]:
    return subject.settings.model_dump(exclude_unset=True)


def test_reliability_is_high_where_images_agree_and_low_where_they_do_not(prepare: Prepare) -> None:
    pairs = random_images(24, 2, (1, 8, 8))
    copies = [(pairs[label][0] if label == 0 else pairs[-1][0], label) for _, label in pairs]
    same, other = (
        drive(prepare(linear_model(2, (1, 8, 8), scale=1.0), each, images_per_class=24, steps=80))
        for each in (copies, pairs)
    )
    agreeing, differing = (each.outcome.by_class[0].reliability["joint"] for each in (same, other))
    assert agreeing.half_correlation is not None
    assert differing.half_correlation is not None
    assert agreeing.half_correlation > differing.half_correlation + 0.1
    assert agreeing.value == pytest.approx(
        2 * agreeing.half_correlation / (1 + agreeing.half_correlation)
    )
    assert agreeing.n_images == 12


# Settings and models.


@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
def test_dc_is_learned_only_where_it_is_ranked(prepare: Prepare, dc: str) -> None:
    pairs = random_images(8, 2, (3, 8, 8))
    subject = prepare(conv_model(2, 3), pairs, images_per_class=8, dc=dc, kept_share=0.2)
    found = drive(subject).importance()
    assert (found[0] != 0) == (dc == "rank")
    kept = map_of(subject, found)
    share = found_share(subject.grid, kept, rankable_orbits(subject.outline))
    assert 0.2 - 2 / 63 < share <= 0.2 + 1e-9


def test_masks_that_never_move_have_no_reliability(subject: Subject) -> None:
    found = learned._told(subject.outline, 1, np.zeros((3, subject.grid.n_orbits)))
    assert found.reliability["joint"].value is None
    assert found.reliability["joint"].reason != ""


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_modern_networks_run_and_are_left_as_they_were(prepare: Prepare, name: str) -> None:
    options: dict[str, Any] = {"depth": 2} if name.startswith("vit") else {"depths": (1, 1, 1, 1)}
    size = {"img_size": 32} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=2, drop_rate=0.3, **options, **size)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pairs = random_images(8, 2, (3, 32, 32))
    subject = prepare(network, pairs, CONFIG, dtype="float32", images_per_class=8, steps=3)
    driven = drive(subject)
    assert np.isfinite(driven.importance()).all()
    assert np.ptp(driven.importance()) > 0
    for key, value in network.state_dict().items():
        assert torch.equal(before[key], value)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_gradient_that_is_not_finite_is_told(prepare: Prepare) -> None:
    class Rooted(nn.Module):
        """Infinite slope at 0, but only on images that have lost their contrast."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = images.flatten(1)[:, :2]
            return logits + (0 * logits).abs().sqrt() if images.std() < 0.15 else logits

    pairs = random_images(8, 2, (1, 8, 8))
    subject = prepare(Rooted(), pairs, images_per_class=8)
    with pytest.raises(LogitsError, match="gradient"):
        drive(subject)
