from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from driven import RunThrough, run_through
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import cross_entropy_of, keep_bins, logits_of
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import LogitsError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import found_share, half_plane_mask
from shortcut_audit.measures.interface import Outline, Subject
from shortcut_audit.measures.searches import hierarchical
from shortcut_audit.measures.searches.hierarchical import HierarchicalSearch
from shortcut_audit.measures.searches.interface import SearchOutcome
from shortcut_audit.measures.searches.patches import GRIDS, Candidates, patch_units
from shortcut_audit.measures.searches.stages import default_patch_sides, stage_plan
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

SEARCH = HierarchicalSearch()
drive = partial(run_through, SEARCH)
CONFIG = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
SIZES = [(8, 8), (7, 7), (6, 9), (9, 6), (12, 5)]
SMALL = {"candidates": (45, 60), "patch_sides": (2, 1), "kept_share": 0.2}


Prepare = Callable[..., Subject]


@pytest.fixture
def prepare() -> Iterator[Prepare]:
    with ExitStack() as stack:

        def prepared(
            network: nn.Module, pairs: Any, config: dict[str, Any] | None = None, **values: Any
        ) -> Subject:
            request = AuditRequest(
                model=LoadedModel(network, "test", "test", config),
                source=source_from(pairs),
                settings=settings_from(
                    {"search": "hierarchical", "dtype": "float64", "batch_size": 37, **SMALL, **values}
                ),
                command="test",
            )
            return stack.enter_context(prepared_audit(request, None)).subject

        yield prepared


def candidates(
    height: int, width: int, side: int, share: float = 0.6, stage: int = 0, seed: int = 0
) -> Candidates:
    grid = FrequencyGrid(height, width)
    parents = np.ones((1, grid.n_orbits), dtype=np.bool_)
    parents[:, 0] = False
    n_bins = share * (height * width - 1)
    return Candidates(grid, side, n_bins, share, parents, seed, stage)


def bins_of(grid: FrequencyGrid, mask: np.ndarray) -> set[tuple[int, int]]:
    """Both members of every orbit of a mask, as the replicas name them."""
    pairs = zip(grid.u[mask].tolist(), grid.v[mask].tolist(), strict=True)
    return {
        bin_
        for u, v in pairs
        for bin_ in ((u % grid.height, v % grid.width), (-u % grid.height, -v % grid.width))
    }


# Patches.


@given(height=st.integers(2, 40), width=st.integers(2, 40), data=st.data())
@settings(deadline=None, max_examples=60)
def test_patches_divide_the_plane_and_leave_dc_alone(height: int, width: int, data: Any) -> None:
    grid = FrequencyGrid(height, width)
    side = data.draw(st.integers(1, min(height, width)))
    for name in ("even", "shifted"):
        units = patch_units(grid, side, name)
        assert units.unit_of_orbit.shape == (grid.n_orbits,)
        assert (units.unit_of_orbit == 0).sum() == 1
        assert units.unit_of_orbit[0] == 0
        assert (units.n_orbits_of_unit > 0).all()
        for unit in range(1, units.n_units):
            members = bins_of(grid, units.unit_of_orbit == unit)
            # One patch and its mirror image: frequencies span at most a side (and the axis) each way.
            own = units.unit_of_orbit == unit
            assert np.ptp(np.abs(grid.u[own])) <= side
            assert np.ptp(grid.v[own]) <= side
            assert len(members) == grid.members[own].sum()


@pytest.mark.parametrize(
    ("size", "side", "n_patches"), [(32, 8, 8), (32, 4, 32), (224, 56, 8), (224, 2, 6272)]
)
def test_even_patches_are_as_many_as_fill_half_the_plane(size: int, side: int, n_patches: int) -> None:
    units = patch_units(FrequencyGrid(size, size), side, "even")
    assert units.n_units - 1 == n_patches == (size // side) ** 2 // 2
    # The axes' and the border's orbits go with a neighbour.
    assert units.members[1:].min() >= 2 * (side - 1) ** 2
    assert units.members[1:].max() <= 2 * (side + 1) ** 2


def test_even_borders_run_through_dc_and_a_shifted_patch_is_centred_on_it() -> None:
    grid = FrequencyGrid(32, 32)
    even, shifted = (patch_units(grid, 8, name).unit_of_orbit for name in ("even", "shifted"))
    corner = even[grid.orbit_of(1, 1)]
    assert even[grid.orbit_of(8, 8)] == corner
    assert even[grid.orbit_of(9, 8)] != corner
    assert even[grid.orbit_of(8, 9)] != corner
    assert even[grid.orbit_of(-1, 1)] != corner
    centre = shifted[grid.orbit_of(1, 1)]
    assert {shifted[grid.orbit_of(u, v)] for u in (-4, 4) for v in (0, 4)} == {centre}
    assert shifted[grid.orbit_of(5, 0)] != centre
    assert shifted[grid.orbit_of(0, 5)] != centre


def test_patches_of_one_bin_are_single_orbits_on_either_grid() -> None:
    for name in ("even", "shifted"):
        assert patch_units(FrequencyGrid(9, 12), 1, name).n_units == FrequencyGrid(9, 12).n_orbits


def test_default_sides_are_the_published_ones() -> None:
    assert default_patch_sides(32, 32) == (8, 4, 2, 1)
    assert default_patch_sides(224, 224) == (56, 28, 14, 8, 4, 2)
    assert default_patch_sides(2, 2) == default_patch_sides(1, 9) == (1,)


@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_default_sides_fall_and_fit_any_size(height: int, width: int) -> None:
    sides = default_patch_sides(height, width)
    assert 1 <= len(sides) <= 6
    assert max(sides) <= min(height, width)
    assert all(finer < coarser for coarser, finer in itertools.pairwise(sides))
    assert sides[-1] == 1 or len(sides) == 6
    assert sides == default_patch_sides(width, height)


# Candidate masks.


@pytest.mark.parametrize("size", [*SIZES, (32, 32), (33, 20)])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_every_mask_is_hermitian(size: tuple[int, int], side: int) -> None:
    grid = FrequencyGrid(*size)
    masks = candidates(*size, side).masks(0, 12)
    image = np.random.default_rng(0).random(size)
    for mask, half in zip(masks, half_plane_mask(grid, masks).numpy(), strict=True):
        # Raises where what is left is not real.
        slow = keep_bins(image, bins_of(grid, mask))
        fast = np.fft.irfft2(np.fft.rfft2(image) * half, s=size)
        np.testing.assert_allclose(fast, slow, atol=1e-12)
        whole = np.zeros(size)
        for u, v in np.ndindex(*size):
            inside = v < grid.n_half_columns
            whole[u, v] = half[u, v] if inside else half[-u % size[0], -v % size[1]]
        left = np.fft.ifft2(np.fft.fft2(image) * whole)
        assert np.abs(left.imag).max() < 1e-9


@pytest.mark.parametrize("size", [32, 224])
def test_kept_shares_are_the_published_powers(size: int) -> None:
    """Nearest to p^s among whole patches: never further than half of the largest one."""
    grid = FrequencyGrid(size, size)
    sides = default_patch_sides(size, size)
    n_bins, p = size * size - 1, 0.6
    parents = np.ones((1, grid.n_orbits), dtype=np.bool_)
    parents[:, 0] = False
    for stage, side in enumerate(sides):
        drawn = Candidates(grid, side, p ** (stage + 1) * n_bins, p, parents, 3, stage)
        masks = drawn.masks(0, 60)
        shares = masks @ grid.members / n_bins
        half_patch = max(units.members.max() for units in drawn.units) / 2 / n_bins
        assert np.abs(shares - p ** (stage + 1)).max() <= half_patch + 1e-12
        assert abs(shares.mean() - p ** (stage + 1)) < 0.02
        # Every one holds a part of its parent, and of one grid after the other.
        own = parents[drawn.parent_of(0, 60)]
        assert not (masks & ~own).any()
        assert (masks.sum(axis=1) < own.sum(axis=1)).all()
        if side > 1:
            for number, name in enumerate(GRIDS[:2]):
                units = patch_units(grid, side, name)
                for mask, parent in zip(masks[number::3], own[number::3], strict=True):
                    held = np.unique(units.unit_of_orbit[mask])
                    np.testing.assert_array_equal(mask, parent & np.isin(units.unit_of_orbit, held))
        parents = masks[:10]


def test_each_grid_gives_half_of_a_union() -> None:
    drawn = candidates(32, 32, 2, share=0.4)
    even, shifted = drawn.units
    for mask in drawn.masks(0, 30)[2::3]:
        whole = [
            (np.bincount(units.unit_of_orbit[mask], minlength=units.n_units) == units.n_orbits_of_unit)[
                units.unit_of_orbit
            ]
            & mask
            for units in (even, shifted)
        ]
        # What neither grid explains by whole patches of its own does not exist.
        np.testing.assert_array_equal(whole[0] | whole[1], mask)
        assert all(each.sum() >= 0.45 * mask.sum() for each in whole)


def test_all_orbits_are_drawn_equally_often() -> None:
    drawn = candidates(16, 16, 4, share=0.4)
    often = drawn.masks(0, 6000)[:, 1:].mean(axis=0)
    # Patches differ in size, and the nearest whole number of them is not 40%: even, not exact.
    assert often.std() < 0.06
    assert abs(often.mean() - 0.4) < 0.03
    single = candidates(16, 16, 1, share=0.4).masks(0, 6000)[:, 1:].mean(axis=0)
    assert np.abs(single - 0.4).max() < 5 * np.sqrt(0.24 / 6000)


def test_a_candidate_follows_from_its_number_alone() -> None:
    drawn = candidates(12, 10, 2)
    whole = drawn.masks(0, 130)
    for first, last in ((0, 1), (47, 49), (96, 130), (5, 5)):
        np.testing.assert_array_equal(drawn.masks(first, last), whole[first:last])
    again = Candidates.of_work(drawn.grid, drawn.work)
    np.testing.assert_array_equal(again.masks(0, 130), whole)
    assert again.work.digest == drawn.work.digest
    for other in (candidates(12, 10, 2, seed=1), candidates(12, 10, 2, stage=1)):
        assert other.work.digest != drawn.work.digest
        assert (other.masks(0, 130) != whole).any(axis=1).mean() > 0.9


def test_main_effects_equal_a_slow_count() -> None:
    first = candidates(8, 8, 2, share=0.6)
    parents = first.masks(0, 4)
    drawn = Candidates(first.grid, 1, 0.36 * 63, 0.6, parents, 0, 1)
    n = 200
    losses = np.random.default_rng(0).random((2, n)) + np.arange(n) // 3 % 4
    masks, parent = drawn.masks(0, n), drawn.parent_of(0, n)
    effects, counts = drawn.main_effects(losses)
    for fold, orbit in np.ndindex(*effects.shape):
        held, lost = [], []
        for i in range(n):
            if parents[parent[i], orbit]:
                own = losses[fold, parent == parent[i]].mean()
                (held if masks[i, orbit] else lost).append(losses[fold, i] - own)
        assert counts[orbit] == (len(held) + len(lost) if held and lost else 0)
        expected = np.mean(lost) - np.mean(held) if held and lost else 0.0
        assert effects[fold, orbit] == pytest.approx(expected, abs=1e-12)


def test_the_best_masks_are_distinct_and_in_order() -> None:
    drawn = candidates(8, 8, 4)
    losses = np.random.default_rng(0).random(300)
    best = drawn.best(losses, 10)
    seen: list[bytes] = []
    for number in np.argsort(losses):
        mask = drawn.masks(number, number + 1)[0].tobytes()
        if mask not in seen:
            seen.append(mask)
    assert [mask.tobytes() for mask in best] == seen[:10]
    # Of a plane with three orbits to keep one of, there are three masks.
    assert len(candidates(2, 2, 1, share=0.3).best(losses, 10)) == 3


# The search.


def slow_losses(
    network: nn.Module,
    images: np.ndarray,
    masks: np.ndarray,
    label: int,
    grid: FrequencyGrid,
    *,
    normalized: bool = False,
    clip: bool = False,
) -> np.ndarray:
    """Cross-entropy (n_images, n_masks) of keep-only images, one at a time, through full transforms."""
    channels = images.shape[1]
    mean = np.array(CONFIG["mean"][:channels])[:, None, None]
    std = np.array(CONFIG["std"][:channels])[:, None, None]
    found = np.zeros((len(images), len(masks)))
    for (i, j), _ in np.ndenumerate(found):
        bins = bins_of(grid, masks[j])
        if normalized:
            left = keep_bins((images[i] - mean) / std, bins) * std + mean
        else:
            left = keep_bins(images[i], bins)
        left = left.clip(0, 1) if clip else left
        logits = logits_of(network, left, CONFIG["mean"][:channels], CONFIG["std"][:channels])
        found[i, j] = cross_entropy_of(logits.tolist(), label)
    return found


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 7), (3, 6, 9)])
@pytest.mark.parametrize(
    "options",
    [{}, {"dc": "drop"}, {"dc": "rank", "clip": True}, {"domain": "normalized"}, {"clip": True}],
    ids=str,
)
def test_scores_equal_the_slow_replica(
    shape: tuple[int, int, int], options: dict[str, Any], prepare: Prepare
) -> None:
    network = conv_model(3, shape[0])
    config = {key: values[: shape[0]] for key, values in CONFIG.items()}
    subject = prepare(network, random_images(6, 3, shape), config, candidates=(12, 12), **options)
    driven = drive(subject)
    network.double().eval()
    for asked, done in zip(driven.rounds, driven.done, strict=True):
        for index in range(3):
            rows = subject.outline.search_rows[index]
            images = subject.images.store.block(*rows).astype(np.float64)
            shard = next(shard for shard in asked.shards if shard.class_index == index)
            masks = Candidates.of_work(subject.grid, shard.work).masks(0, 12)
            if subject.settings.dc == "rank":
                assert 0 < masks[:, 0].sum() < 12 or asked is not driven.rounds[0]
            else:
                assert not masks[:, 0].any()
                masks[:, 0] = subject.settings.dc == "keep"
            slow = slow_losses(
                network,
                images,
                masks,
                index,
                subject.grid,
                normalized=subject.settings.domain == "normalized",
                clip=subject.settings.clip,
            )
            ours = sum(total["sums"].sum(axis=0) for _, total in done.of(index))
            np.testing.assert_allclose(ours, slow.sum(axis=0), atol=1e-8)


def test_selection_equals_the_slow_replica(prepare: Prepare) -> None:
    """Ten best distinct masks of a class are its own parents; the last best one is its map."""
    network = conv_model(3, 1)
    config = {key: values[:1] for key, values in CONFIG.items()}
    subject = prepare(network, random_images(8, 3, (1, 6, 8)), config)
    driven = drive(subject)
    network.double().eval()
    grid = subject.grid
    assert [s.class_index for s in driven.rounds[0].shards] == [0, 1, 2]
    assert len({s.work.digest for s in driven.rounds[0].shards if s.work}) == 1
    for index in range(3):
        images = subject.images.store.block(*subject.outline.search_rows[index]).astype(np.float64)
        parents = np.ones((1, grid.n_orbits), dtype=np.bool_)
        parents[:, 0] = False
        held = np.zeros(grid.n_orbits)
        for stage, (asked, n) in enumerate(zip(driven.rounds, SMALL["candidates"], strict=True)):
            shard = asked.shards[index]
            assert shard.class_index == index
            assert shard.orbits == (0, n)
            assert shard.work
            drawn = Candidates.of_work(grid, shard.work)
            np.testing.assert_array_equal(drawn.parents, parents)
            assert drawn.side == SMALL["patch_sides"][stage]
            masks = drawn.masks(0, n)
            assert not (masks & ~parents[drawn.parent_of(0, n)]).any()
            with_dc = masks.copy()
            with_dc[:, 0] = True
            losses = slow_losses(network, images, with_dc, index, grid).sum(axis=0)
            unique: dict[bytes, np.ndarray] = {}
            for number in np.argsort(losses, kind="stable"):
                unique.setdefault(masks[number].tobytes(), masks[number])
            parents = np.stack(list(unique.values())[:10])
            held[parents[0]] = stage + 1
        found = driven.outcome.by_class[index]
        np.testing.assert_array_equal(found.kept, parents[0])
        np.testing.assert_array_equal(found.ranking, held)
        assert found.n_images == len(images)
        assert found.score == "joint"
        assert found.resolution == "orbits"


def test_published_structure(prepare: Prepare) -> None:
    subject = prepare(
        linear_model(2, (1, 32, 32)),
        random_images(4, 2, (1, 32, 32)),
        candidates=None,
        patch_sides=None,
        kept_share=0.6**4,
    )
    plan = stage_plan(subject.outline)
    assert plan.sides == (8, 4, 2, 1)
    assert plan.candidates == (1000, 2000, 4000, 8000)
    assert plan.step_share == pytest.approx(0.6)
    assert SEARCH.planned_passes(subject.outline) == 15000 * 4
    driven = drive(subject)
    for asked, n in zip(driven.rounds, plan.candidates, strict=True):
        for index in (0, 1):
            ranges = sorted(s.orbits for s in asked.shards if s.class_index == index)
            assert [number for r in ranges for number in range(*r)] == list(range(n))
    shares = driven.outcome.settings["kept_share_by_stage"]
    np.testing.assert_allclose(shares, 0.6 ** np.arange(1, 5), atol=0.08)
    np.testing.assert_allclose(shares[2:], 0.6 ** np.arange(3, 5), atol=0.01)
    assert [each.so_far is None for each in driven.rounds] == [True, False, False, False]
    left = [asked.n_passes_after for asked in driven.rounds]
    assert left == [14000 * 4, 12000 * 4, 8000 * 4, 0]


@pytest.mark.parametrize("share", [0.05, 0.13, 0.5])
def test_the_map_keeps_the_share_that_was_asked_for(share: float, prepare: Prepare) -> None:
    subject = prepare(
        conv_model(2, 1),
        random_images(6, 2, (1, 16, 16)),
        candidates=(40, 40, 40),
        patch_sides=None,
        kept_share=share,
    )
    rankable = np.arange(subject.grid.n_orbits) > 0
    for found in drive(subject).outcome.by_class:
        assert found.kept is not None
        assert abs(found_share(subject.grid, found.kept, rankable) - share) <= 1 / 255 + 1e-9


def same(ours: SearchOutcome, theirs: SearchOutcome) -> None:
    for one, other in zip(ours.by_class, theirs.by_class, strict=True):
        np.testing.assert_array_equal(one.kept, other.kept)
        np.testing.assert_array_equal(one.ranking, other.ranking)
        np.testing.assert_allclose(one.importance["joint"], other.importance["joint"], atol=1e-5)
        assert one.reliability["joint"].value == pytest.approx(other.reliability["joint"].value, abs=1e-5)


def test_batches_and_shards_leave_the_map_as_it_is(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, pairs = conv_model(3, 3), random_images(20, 3, (3, 8, 8))
    options = {"dtype": "float32", "candidates": (100, 200)}
    whole = drive(prepare(network, pairs, batch_size=64, **options))
    same(whole.outcome, drive(prepare(network, pairs, batch_size=5, **options)).outcome)
    monkeypatch.setattr(hierarchical, "PASSES_PER_SHARD", 150)
    monkeypatch.setattr(hierarchical, "_IMAGES_PER_BLOCK", 3)
    cut = drive(prepare(network, pairs, **options))
    assert len(cut.rounds[0].shards) > 3 * len(whole.rounds[0].shards)
    same(whole.outcome, cut.outcome)


def test_shards_hold_about_as_many_passes_as_they_should(prepare: Prepare) -> None:
    subject = prepare(conv_model(2, 1), random_images(100, 2, (1, 8, 8)), candidates=(1000, 1000))
    asked = next(SEARCH.rounds(subject.outline))
    sizes = [shard.n_passes for shard in asked.shards]
    assert max(sizes) <= hierarchical.PASSES_PER_SHARD
    assert sum(sizes) == 1000 * 100
    assert np.median(sizes) > hierarchical.PASSES_PER_SHARD / 2


def test_seeds_work(prepare: Prepare) -> None:
    network, pairs = conv_model(2, 1), random_images(8, 2, (1, 8, 8))
    first, again, other = (prepare(network, pairs, seed=seed) for seed in (5, 5, 6))
    digests = [next(SEARCH.rounds(each.outline)).shards[0].work.digest for each in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    same(drive(first).outcome, drive(again).outcome)


def test_a_class_is_searched_alike_whatever_the_others(prepare: Prepare) -> None:
    network, pairs = conv_model(3, 1), random_images(8, 3, (1, 8, 8))
    every = drive(prepare(network, pairs)).outcome
    one = drive(prepare(network, pairs, classes=("1",))).outcome
    np.testing.assert_array_equal(one.by_class[0].kept, every.by_class[1].kept)
    np.testing.assert_array_equal(
        one.by_class[0].importance["joint"], every.by_class[1].importance["joint"]
    )


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 1, 9), (1, 3, 2), (1, 5, 30)])
def test_tiny_and_lengthy_images_are_searched(shape: tuple[int, int, int], prepare: Prepare) -> None:
    sides = default_patch_sides(*shape[1:])
    options = {"patch_sides": None, "candidates": (12,) * len(sides)}
    found = drive(prepare(linear_model(2, shape), random_images(6, 2, shape), **options)).outcome
    for each in found.by_class:
        assert each.kept is not None
        assert 0 < each.kept.sum() < len(each.kept) - 1
        assert not each.kept[0]


# What it finds.


class Energy(nn.Module):
    """Calls class 1 by the energy of one plane wave, whatever its phase; and noise besides."""

    def __init__(self, size: int, u: int, v: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        phase = 2 * torch.pi * (u * y + v * x) / size
        waves = torch.stack([phase.cos(), phase.sin()]).flatten(1)
        self.register_buffer("waves", waves * 2 / size**2)
        self.noise = linear_model(2, (1, size, size), scale=0.02)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        energy = (images.flatten(1) @ self.waves.T).square().sum(dim=1)
        called = torch.stack([torch.zeros_like(energy), energy * 4000 - 3], dim=1)
        return called + self.noise(images)


def planted_images(size: int, u: int, v: int, n: int, *, phases: bool) -> list[tuple[np.ndarray, int]]:
    """Noise; in class 1 with a wave of 16/255, of any phase or always the same."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size]
    pairs = []
    for number in range(2 * n):
        image = generator.normal(128, 25, (1, size, size))
        if number % 2:
            phase = generator.uniform(0, 2 * np.pi) if phases else 0.0
            image += 16 * np.cos(2 * np.pi * (u * y + v * x) / size + phase)
        pairs.append((image.clip(0, 255).astype(np.uint8), number % 2))
    return pairs


def wave_readout(size: int, u: int, v: int) -> nn.Module:
    """A linear classifier: the wave's own amplitude, and random weights on every pixel besides."""
    network = linear_model(2, (1, size, size), scale=0.02)
    y, x = np.mgrid[0:size, 0:size]
    wave = np.cos(2 * np.pi * (u * y + v * x) / size).ravel() * 2 / size**2
    with torch.no_grad():
        network[1].weight[1] += torch.from_numpy(wave).float() * 120
        network[1].bias[1] -= 4
    return network


@pytest.mark.parametrize("build", [Energy, wave_readout])
def test_a_planted_orbit_is_kept_and_among_the_first_hundredth(
    build: Callable[[int, int, int], nn.Module], prepare: Prepare
) -> None:
    size, u, v = 32, 11, 6
    pairs = planted_images(size, u, v, 30, phases=build is Energy)
    subject = prepare(
        build(size, u, v),
        pairs,
        patch_sides=None,
        candidates=(150, 200, 300, 500),
        kept_share=0.05,
        dtype="float32",
        batch_size=256,
    )
    found = drive(subject).outcome.by_class[1]
    planted = subject.grid.orbit_of(u, v)
    assert found.kept is not None
    assert found.kept[planted]
    order = np.lexsort((-found.importance["joint"], -found.ranking))
    assert order.tolist().index(planted) < subject.grid.n_orbits * 0.01
    # Also by its effect alone, over the whole plane.
    assert (found.importance["joint"] > found.importance["joint"][planted]).sum() < 5
    assert found.reliability["joint"].n_images == 15
    assert found.reliability["joint"].value > 0.3


class ThroughNumpy(nn.Module):
    """A model without gradients."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        summed = images.double().cpu().numpy()[:, 0].reshape(len(images), 2, -1).sum(axis=2)
        return torch.from_numpy(summed)


def test_a_model_without_gradients_is_searched(prepare: Prepare) -> None:
    driven = drive(prepare(ThroughNumpy(), random_images(6, 2, (1, 8, 8))))
    assert all(found.importance["joint"].any() for found in driven.outcome.by_class)


class Blind(nn.Module):
    """Answers the same whatever it sees."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 2.0]]).expand(len(images), 2).to(images)


def test_a_model_that_sees_nothing_has_a_flat_map_that_says_so(prepare: Prepare) -> None:
    found = drive(prepare(Blind(), random_images(6, 2, (1, 8, 8)))).outcome.by_class[0]
    assert not found.importance["joint"].any()
    assert found.reliability["joint"].value is None
    assert "constant" in found.reliability["joint"].reason


class NotANumber(nn.Module):
    """Fails on images that have lost most of their light."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = images.flatten(1).mean(dim=1)
        return torch.stack([light.log(), light], dim=1)


def test_answers_that_are_no_numbers_are_an_error_that_names_the_image(prepare: Prepare) -> None:
    subject = prepare(NotANumber(), random_images(6, 2, (1, 8, 8)), dc="drop")
    with pytest.raises(LogitsError, match="on image .* with parts of its spectrum"):
        drive(subject)


# Budgets and settings.


def passes(driven: RunThrough) -> int:
    return sum(shard.n_passes for asked in driven.rounds for shard in asked.shards)


REFUSING: Sequence[Callable[[Outline], Any]] = (
    SEARCH.planned_passes,
    lambda outline: next(SEARCH.rounds(outline)),
)


def with_settings(subject: Subject, **values: Any) -> Outline:
    """An outline that no audit would be prepared for."""
    return replace(subject.outline, settings=settings_from({**SMALL, **values}))


def test_a_budget_in_passes_thins_the_stages_evenly(prepare: Prepare) -> None:
    options = {"candidates": (100, 200), "patch_sides": (2, 1)}
    network, pairs = conv_model(2, 1), random_images(8, 2, (1, 8, 8))
    subject = prepare(network, pairs, budget=1000, **options)
    assert SEARCH.planned_passes(subject.outline) == (41 + 83) * 8
    driven = drive(subject)
    assert passes(driven) == (41 + 83) * 8 <= 1000
    assert driven.outcome.settings["candidates"] == [41, 83]
    assert driven.outcome.stopped == "the budget of 1,000 image passes paid for 124 of 300 candidates"
    enough = prepare(network, pairs, budget=300 * 8, **options)
    assert SEARCH.planned_passes(enough.outline) == 300 * 8
    assert drive(enough).outcome.stopped == ""
    # Fewer candidates are the first of the many.
    ours, theirs = driven.rounds[0].shards[0], next(SEARCH.rounds(enough.outline)).shards[0]
    assert ours.work.digest == theirs.work.digest


def test_a_budget_for_next_to_nothing_is_refused_and_the_figure_named_is_enough(
    prepare: Prepare,
) -> None:
    network, pairs = conv_model(2, 1), random_images(8, 2, (1, 8, 8))
    options = {"candidates": (100, 200), "patch_sides": (2, 1)}
    outline = with_settings(prepare(network, pairs), budget=600, **options)
    for refused in REFUSING:
        with pytest.raises(SettingsError, match="less than 30 candidates") as error:
            refused(outline)
    needed = int(error.value.next_step.split("--budget of ")[1].split(" passes")[0].replace(",", ""))
    enough = prepare(network, pairs, budget=needed, **options)
    assert 30 * 8 * 3 <= SEARCH.planned_passes(enough.outline) <= needed < 1.1 * 30 * 8 * 3
    # Who asks for few candidates gets them.
    few = prepare(network, pairs, budget=70, candidates=(4, 4), patch_sides=(2, 1))
    assert SEARCH.planned_passes(few.outline) == 64


@pytest.mark.parametrize(("seconds", "n_stages"), [(30, 3), (10, 3), (0.6, 1)])
def test_a_budget_in_seconds_is_kept(seconds: float, n_stages: int, prepare: Prepare) -> None:
    subject = prepare(
        conv_model(2, 1),
        random_images(8, 2, (1, 16, 16)),
        patch_sides=None,
        candidates=(200, 400, 800),
        budget=f"{seconds}s",
    )
    driven = drive(subject, seconds_per_pass=0.001)
    spent = passes(driven) * 0.001
    counts = driven.outcome.settings["candidates"]
    assert len(counts) == n_stages == len(driven.outcome.settings["kept_share_by_stage"])
    if seconds == 30:
        assert counts == [200, 400, 800]
        assert driven.outcome.stopped == ""
    elif seconds == 10:
        assert 0.9 * seconds < spent <= seconds
        assert counts[1] == pytest.approx(2 * counts[0], rel=0.1)
        assert (
            driven.outcome.stopped == f"the budget of 10 s paid for {sum(counts):,} of 1,400 candidates"
        )
    else:
        assert spent <= seconds
        assert "ended it after stage 1 of 3, so that maps keep about 58%" in driven.outcome.stopped
        assert "not 20%" in driven.outcome.stopped
        assert driven.outcome.by_class[0].resolution == "patches:4"
    json.dumps(driven.outcome.settings)


def test_what_there_is_so_far_is_shown_after_every_stage(prepare: Prepare) -> None:
    driven = drive(
        prepare(
            conv_model(2, 1), random_images(6, 2, (1, 16, 16)), patch_sides=None, candidates=(30, 30, 30)
        )
    )
    for n_done, asked in enumerate(driven.rounds):
        if n_done:
            assert asked.so_far is not None
            early = asked.so_far()
            assert early.settings["candidates"] == [30] * n_done
            assert early.by_class[0].ranking.max() == n_done


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"candidates": (10,), "patch_sides": (2, 1)}, "1 numbers of candidates for 2 stages"),
        ({"candidates": (10, 10, 10), "patch_sides": None}, "3 numbers of candidates for 2 stages"),
        ({"candidates": None, "patch_sides": (9, 1)}, "Patches of 9 bins do not fit"),
        ({"candidates": None, "patch_sides": (1, 2)}, "grow from one stage"),
        ({"kept_share": 1.0}, "nothing to look for"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused_beforehand(
    options: dict[str, Any], told: str, prepare: Prepare
) -> None:
    subject = prepare(conv_model(2, 1), random_images(6, 2, (1, 8, 8)))
    for refused in REFUSING:
        with pytest.raises(SettingsError, match=told):
            refused(with_settings(subject, **options))
