"""From sums over folds to a map: what it claims of itself, and how coarse it is of few images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import linear_model
from driven import outline_of_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.masks import rank_orbits
from shortcut_audit.fourier.units import Units
from shortcut_audit.measures.interface import Outline, Shard
from shortcut_audit.measures.searches.folds import (
    FoldSums,
    map_of,
    n_folds,
    rankable_orbits,
    totals_by_fold,
)
from shortcut_audit.measures.searches.interface import ClassSearch
from shortcut_audit.results.settings import RESPONSES
from shortcut_audit.results.statistics import images_for_reliability, spearman


def shard_of(rows: tuple[int, int], units: tuple[int, int]) -> Shard:
    return Shard("dominant_frequencies", "search", 0, rows, units, 0)


def held_of(responses: np.ndarray, cuts: Sequence[int] = (), slices: Sequence[int] = ()) -> FoldSums:
    """Responses (n_scores, n_images, n_units), handed over in blocks of images and slices of units."""
    _, n_images, n_units = responses.shape
    rows, units = [0, *cuts, n_images], [0, *slices, n_units]
    shards = [
        (
            shard_of((7 + a, 7 + b), (first, last)),
            totals_by_fold(responses[:, a:b, first:last], (7 + a, 7 + b), (7, 7 + n_images)),
        )
        for a, b in pairwise(rows)
        for first, last in pairwise(units)
    ]
    return FoldSums.of(shards, n_folds(n_images), n_units)


def map_from(own: np.ndarray, plan: Outline) -> ClassSearch:
    """The map of responses (n_images, n_orbits), the same for every score."""
    return map_of(plan, 0, held_of(np.stack([own] * len(RESPONSES))))


@settings(deadline=None)
@given(
    st.integers(2, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n - 1), max_size=4))
    ),
    st.sets(st.integers(1, 8), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_however_the_work_is_cut_sums_are_those_of_every_eighth_image(
    images: tuple[int, set[int]], slices: set[int], seed: int
) -> None:
    n_images, cuts = images
    responses = np.random.default_rng(seed).standard_normal((3, n_images, 9))
    held = held_of(responses, sorted(cuts), sorted(slices))
    folds = n_folds(n_images)
    assert folds % 2 == 0
    assert folds == min(8, n_images - n_images % 2)
    for fold in range(folds):
        own = responses[:, fold::folds]
        assert held.n_by_fold[fold] == own.shape[1]
        np.testing.assert_allclose(held.sums[fold], own.sum(axis=1), atol=1e-12)
    assert held.n_images == n_images
    np.testing.assert_allclose(held.mean, responses.mean(axis=1), atol=1e-12)
    error = stats.sem(responses, axis=1)
    np.testing.assert_allclose(held.standard_error, error, atol=1e-9)


def test_less_than_two_images_are_no_map() -> None:
    plan = outline_of_sizes([8], 6)
    held = FoldSums.of(iter(()), 8, plan.units.n_units)
    with pytest.raises(SettingsError, match="less than two images a class"):
        map_of(plan, 0, held)


# Resolution ---------------------------------------------------------------------------------------

SIZE = 16
PLAN = outline_of_sizes([24], SIZE)
N_ORBITS = PLAN.grid.n_orbits


def smooth_signal(tiles: str = "tiles:4x6") -> np.ndarray:
    """The same importance for all orbits of a tile."""
    units = Units.named(tiles, PLAN.grid)
    return np.random.default_rng(3).standard_normal(units.n_units)[units.unit_of_orbit]


def test_a_reliable_map_stays_one_of_orbits() -> None:
    generator = np.random.default_rng(0)
    signal = generator.standard_normal(N_ORBITS)
    found = map_from(signal + 0.5 * generator.standard_normal((24, N_ORBITS)), PLAN)
    assert (found.resolution, found.resolution_reason, found.ranking) == ("orbits", "", None)
    assert found.reliability["log-odds"].value > 0.9


def test_where_neighbours_matter_alike_a_noisy_map_becomes_one_of_tiles_and_says_so() -> None:
    generator = np.random.default_rng(1)
    signal = smooth_signal()
    noise = 12 * generator.standard_normal((24, N_ORBITS))
    found = map_from(signal + noise, PLAN)
    single = map_from(signal + noise, outline_of_sizes([24], SIZE, resolution="orbits"))
    assert single.resolution == "orbits"
    assert single.ranking is None
    before, after = (m.reliability["log-odds"].value for m in (single, found))
    assert before < 0.5 <= after
    assert found.resolution.startswith("tiles:")
    assert found.resolution_reason == (
        f"a map of single orbits from 24 images has reliability {before:.2f}, so neighbours share their"
        f" mean importance, which has {after:.2f}"
    )
    # Other scores are reported as they are, and importance stays that of single orbits.
    assert found.reliability["cross-entropy"] == single.reliability["cross-entropy"]
    np.testing.assert_array_equal(found.importance["log-odds"], single.importance["log-odds"])
    # Ranked by the mean of each tile, which is nearer to the truth than orbits by themselves.
    units, ranking = Units.named(found.resolution, PLAN.grid), found.ranking
    assert ranking is not None
    importance = found.importance["log-odds"].astype(float)
    for unit in range(1, units.n_units):
        own = units.unit_of_orbit == unit
        np.testing.assert_allclose(ranking[own], importance[own].mean(), atol=1e-6)
    truth = [spearman(signal[1:], values[1:]) for values in (ranking, importance)]
    assert truth[0] > truth[1] + 0.1


def test_a_map_of_noise_becomes_tiles_or_stays_and_never_claims_much() -> None:
    """Pure noise: what is picked among resolutions must not pass for a map."""
    generator = np.random.default_rng(2)
    values, tiled = [], 0
    for _ in range(20):
        found = map_from(generator.standard_normal((24, N_ORBITS)), PLAN)
        values.append(found.reliability["log-odds"].value)
        tiled += found.resolution != "orbits"
        assert ("neighbours share" in found.resolution_reason) == (found.resolution != "orbits")
    assert tiled >= 15
    assert np.median(values) < 0.5
    assert np.mean(np.array(values) >= 0.8) <= 0.05


def test_one_planted_orbit_among_noise_stays_alone_and_ranks_first() -> None:
    generator = np.random.default_rng(4)
    for _ in range(10):
        responses = generator.standard_normal((24, N_ORBITS))
        planted = PLAN.grid.orbit_of(3, 5)
        responses[:, planted] += 4
        found = map_from(responses, PLAN)
        assert found.resolution.startswith("tiles:")
        assert found.resolution_reason.startswith("1 orbit stands out and is ranked by itself; ")
        assert found.ranking is not None
        rank = rank_orbits(found.importance["log-odds"], rankable_orbits(PLAN), found.ranking)
        assert rank[planted] == 1
        # Its neighbours gain nothing by it.
        units = Units.named(found.resolution, PLAN.grid)
        others = (units.unit_of_orbit == units.unit_of_orbit[planted]) & (np.arange(N_ORBITS) != planted)
        expected = responses[:, others].mean()
        np.testing.assert_allclose(found.ranking[others], expected, atol=1e-6)


@pytest.mark.parametrize("n_images", [3, 6, 24])
def test_of_noise_nothing_stands_out_however_few_the_images(n_images: int) -> None:
    """One map in a hundred may have such an orbit; by the normal law most maps of 3 images would."""
    generator = np.random.default_rng(5)
    plan = outline_of_sizes([n_images], SIZE)
    maps = [map_from(generator.standard_normal((n_images, N_ORBITS)), plan) for _ in range(20)]
    assert sum("ranked by" in found.resolution_reason for found in maps) <= 1


def test_dc_is_part_of_no_tile_unless_it_is_ranked() -> None:
    responses = np.random.default_rng(6).standard_normal((24, N_ORBITS))
    responses[:, 0] += 100
    found = map_from(responses, PLAN)
    assert "ranked by" not in found.resolution_reason
    ranked = map_from(responses, outline_of_sizes([24], SIZE, dc="rank"))
    assert ranked.resolution_reason.startswith("1 orbit stands out")


# How many images would be enough -------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0.01, 0.79), st.integers(2, 5000))
def test_the_number_that_is_enough_is_spearman_browns_formula_turned_round(found: float, n: int) -> None:
    enough = images_for_reliability(found, n, 0.8)
    assert enough is not None
    assert enough > n
    stretched = enough / n
    assert stretched * found / (1 + (stretched - 1) * found) >= 0.8 - 1e-9
    # Rounded up to two digits, no further.
    fewer = enough / 1.1 / n - 1 / n
    assert fewer * found / (1 + (fewer - 1) * found) < 0.8
    assert len(str(enough).rstrip("0")) <= 2


@pytest.mark.parametrize("found", [None, 0.0, -0.2, 0.8, 0.95, 1.0])
def test_where_it_is_enough_or_nothing_can_be_said_no_number_is_given(found: float | None) -> None:
    assert images_for_reliability(found, 50, 0.8) is None


def test_so_many_images_do_carry_a_map_that_far(run_on: Any) -> None:
    """A linear classifier on a pattern with noise of known size: predicted from 24, seen with as many."""
    generator = np.random.default_rng(7)
    network, shape = linear_model(2, (1, 10, 10)), (1, 10, 10)
    patterns = 0.5 + 0.05 * generator.standard_normal((2, *shape))

    def pairs(n: int) -> list[tuple[np.ndarray, int]]:
        noise = 0.12 * generator.standard_normal((2 * n, *shape))
        images = np.clip(patterns[np.arange(2 * n) % 2] + noise, 0, 1).astype(np.float32)
        return [(image, row % 2) for row, image in enumerate(images)]

    few = [run_on(network, pairs(24), dtype="float32").result.dominant_frequencies for _ in range(4)]
    predicted = [own.n_images_enough for each in few for own in each.by_class]
    assert all(n is not None for n in predicted)
    middle = int(np.median([n for n in predicted if n is not None]))
    assert 12 < middle < 400
    enough = run_on(
        network, pairs(2 * middle), dtype="float32", images_per_class=2 * middle, batch_size=512
    )
    found = [own.reliability["log-odds"].value for own in enough.result.dominant_frequencies.by_class]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)
