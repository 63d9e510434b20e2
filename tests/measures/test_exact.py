"""The exact search: layers of images, budgets of passes and of time, and units larger than an orbit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from conftest import conv_model, random_images
from driven import Answer, driven, nothing, outline_of_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import importance_of, patch_of, response_to_removing, tile_of

from shortcut_audit.errors import SettingsError
from shortcut_audit.measures import interface
from shortcut_audit.measures.interface import Outline, Round, Shard
from shortcut_audit.measures.searches import exact
from shortcut_audit.measures.searches.exact import ExactSearch
from shortcut_audit.measures.searches.interface import SearchOutcome
from shortcut_audit.results.settings import RESPONSES

MEASURE = "dominant_frequencies"


def searched(plan: Outline, answer: Answer = nothing) -> tuple[SearchOutcome, list[Round[Any]]]:
    outcome, rounds, _ = driven(ExactSearch().rounds(plan), plan, answer)
    return outcome, rounds


def images_by_class(plan: Outline, rounds: Sequence[Round[Any]]) -> dict[int, set[int]]:
    """Images that were probed, counted from the start of their class."""
    found: dict[int, set[int]] = {index: set() for index in plan.searched}
    for each in rounds:
        for shard in each.shards:
            start = plan.search_rows[shard.class_index][0]
            found[shard.class_index] |= {row - start for row in range(*shard.rows)}
    return found


def passes_of(rounds: Sequence[Round[Any]]) -> int:
    return sum(shard.n_passes for each in rounds for shard in each.shards)


def noise_of(plan: Outline, spread: float = 1.0) -> Answer:
    """Responses of its own for each image and unit, the same whichever shard asks for them."""
    n_rows = plan.judge_rows[-1][1]
    generator = np.random.default_rng(0)
    signal = generator.standard_normal((len(RESPONSES), 1, plan.units.n_units))
    responses = signal + spread * generator.standard_normal((len(RESPONSES), n_rows, plan.units.n_units))

    def answer(shard: Shard) -> np.ndarray:
        return responses[:, slice(*shard.rows), slice(*shard.orbits)]

    return answer


# Layers ------------------------------------------------------------------------------------------


def test_every_layer_is_as_large_as_all_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = outline_of_sizes([50, 50, 7], resolution="orbits")
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 3 * plan.grid.n_orbits)
    _, rounds = searched(plan)
    sizes = [[len(images_by_class(plan, [each])[index]) for index in range(3)] for each in rounds]
    assert sizes == [[3, 3, 3], [3, 3, 3], [6, 6, 1], [12, 12, 0], [24, 24, 0], [2, 2, 0]]


def test_the_passes_that_follow_a_layer_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = outline_of_sizes([20, 9], resolution="orbits")
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 0)
    _, rounds = searched(plan)
    whole = ExactSearch().planned_passes(plan)
    for number, each in enumerate(rounds):
        assert passes_of(rounds[: number + 1]) + each.n_passes_after == whole


def test_what_is_known_so_far_is_the_map_of_the_images_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 0)
    plan = outline_of_sizes([13, 13], size=8, resolution="orbits")
    answer = noise_of(plan)
    _, _, so_far = driven(ExactSearch().rounds(plan), plan, answer)
    assert so_far[0] is None
    assert [known.by_class[0].n_images for known in so_far[1:]] == [2, 4, 8]
    for known in so_far[1:]:
        for index, own in enumerate(known.by_class):
            start = plan.search_rows[index][0]
            rows = start, start + own.n_images
            whole = answer(Shard(MEASURE, "search", index, rows, (0, plan.units.n_units), 0))
            for number, response in enumerate(RESPONSES):
                expected = whole[number].mean(axis=0)
                np.testing.assert_allclose(own.importance[response], expected, atol=1e-6)


def test_many_layers_give_the_map_of_one(run_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, pairs = conv_model(2, 1), random_images(18, 2, (1, 8, 8))
    whole = run_on(network, pairs).result
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 70)
    monkeypatch.setattr(exact, "PASSES_PER_SHARD", 20)
    layered = run_on(network, pairs).result
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(layered.arrays[name], array, rtol=1e-6, atol=1e-9, err_msg=name)
    for ours, theirs in zip(
        layered.dominant_frequencies.by_class, whole.dominant_frequencies.by_class, strict=True
    ):
        for response in RESPONSES:
            assert ours.reliability[response].value == pytest.approx(theirs.reliability[response].value)
            assert ours.reliability[response].n_splits == 35
    assert layered.dominant_frequencies.stopped == whole.dominant_frequencies.stopped == ""


# Budgets of passes -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(2, 25), min_size=1, max_size=4),
    st.sampled_from([4, (3, 6), 6]),
    st.floats(0, 1.2),
    st.integers(1, 200),
)
def test_a_budget_is_spent_on_equally_many_images_a_class_and_never_exceeded(
    sizes: list[int], size: Any, share: float, passes_per_shard: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interface, "PASSES_PER_SHARD", passes_per_shard)
        patch.setattr(exact, "PASSES_PER_SHARD", passes_per_shard)
        free = outline_of_sizes(sizes, size, resolution="orbits")
        whole = ExactSearch().planned_passes(free)
        least = sum(
            shard.n_passes for shard in searched(outline_of_sizes([2] * len(sizes), size))[1][0].shards
        )
        budget = least + round(share * (whole - least))
        plan = outline_of_sizes(sizes, size, resolution="orbits", budget=budget)
        outcome, rounds = searched(plan)
        assert passes_of(rounds) == ExactSearch().planned_passes(plan) <= budget
        seen = images_by_class(plan, rounds)
        n = max(len(rows) for rows in seen.values())
        for index, rows in seen.items():
            assert rows == set(range(min(n, sizes[index])))
            assert outcome.by_class[index].n_images == len(rows)
        if n < max(sizes):
            # One image more of each would have been too much.
            per_image = whole // sum(sizes)
            assert per_image * sum(min(n + 1, own) for own in sizes) > budget
            assert outcome.stopped == (
                f"the budget of {budget:,} image passes ended it after {passes_of(rounds):,} of {whole:,}"
                " image passes"
            )
        else:
            assert outcome.stopped == ""
            assert passes_of(rounds) == whole


def test_a_budget_below_two_images_a_class_says_what_would_do() -> None:
    sizes, n_orbits = [9, 9, 4], outline_of_sizes([2]).grid.n_orbits
    enough = 3 * 2 * (n_orbits + 1)
    for budget in (1, enough - 1):
        plan = outline_of_sizes(sizes, resolution="orbits", budget=budget)
        for act in (ExactSearch().planned_passes, lambda plan: next(ExactSearch().rounds(plan))):
            with pytest.raises(SettingsError, match="less than two images a class") as caught:
                act(plan)
            assert f"{enough:,} image passes" in caught.value.problem
            assert f"--budget {enough} or more" in caught.value.next_step
    outcome, _ = searched(outline_of_sizes(sizes, resolution="orbits", budget=enough))
    assert [own.n_images for own in outcome.by_class] == [2, 2, 2]
    one = outline_of_sizes(sizes, searched=[1], resolution="orbits", budget=1)
    with pytest.raises(SettingsError, match="two images of the class take"):
        ExactSearch().planned_passes(one)


def test_a_coarser_resolution_makes_a_budget_go_further() -> None:
    counts = []
    for resolution in ("orbits", "tiles:2x3"):
        plan = outline_of_sizes([40, 40], resolution=resolution, budget=1000)
        counts.append(searched(plan)[0].by_class[0].n_images)
    assert counts == [3, 40]


def test_a_budgeted_map_is_the_slow_replica_of_the_first_images(run_on: Any) -> None:
    network = conv_model(2, 1)
    audited = run_on(network, random_images(12, 2, (1, 6, 6)), budget=150)
    result, finding = audited.result, audited.result.dominant_frequencies
    cost = {each.measure: each.image_passes for each in result.provenance.cost}
    assert cost[MEASURE] == finding.image_passes == 2 * 3 * 21
    assert [own.n_search for own in finding.by_class] == [3, 3]
    assert finding.stopped == "the budget of 150 image passes ended it after 126 of 252 image passes"
    for index in (0, 1):
        slow = importance_of(network.double().eval(), audited.search(index)[:3], index, "log-odds")
        ours = result.arrays[f"{MEASURE}/importance/log-odds"][index]
        np.testing.assert_allclose(ours, [slow[orbit] for orbit in audited.orbits], atol=1e-5)


# Budgets of time ---------------------------------------------------------------------------------


def test_time_is_spent_by_the_pace_that_was_measured() -> None:
    """At 1,000 passes a second, 10 s pay for what 10,000 passes pay for."""
    by_time, rounds = searched(outline_of_sizes([60, 60], resolution="orbits", budget="10s"))
    by_passes, _ = searched(outline_of_sizes([60, 60], resolution="orbits", budget=10_000))
    assert by_time.by_class[0].n_images == by_passes.by_class[0].n_images == 38
    assert passes_of(rounds) <= 10_000
    assert by_time.stopped.startswith("the budget of 10 s ended it after ")
    plan = outline_of_sizes([60, 60], resolution="orbits", budget="1h")
    all_of_it, rounds = searched(plan)
    assert (all_of_it.by_class[0].n_images, all_of_it.stopped) == (60, "")
    covered = [(row, *shard.orbits) for r in rounds for shard in r.shards for row in range(*shard.rows)]
    assert len(covered) == len(set(covered)) == 120


def test_the_pace_is_measured_on_one_class_before_all_are_begun() -> None:
    plan = outline_of_sizes([60] * 50, resolution="orbits", budget="10s")
    rounds = ExactSearch().rounds(plan)
    first = next(rounds)
    assert {shard.class_index for shard in first.shards} == {0}
    assert images_by_class(plan, [first])[0] == {0, 1}
    assert passes_of([first]) + first.n_passes_after == ExactSearch().planned_passes(plan)


def test_time_that_would_not_do_is_refused_after_one_class_with_the_time_that_would() -> None:
    plan = outline_of_sizes([60] * 50, resolution="orbits", budget="10s")
    needed = 50 * 2 * (plan.grid.n_orbits + 1)
    with pytest.raises(SettingsError, match="less than two images a class") as caught:
        searched(plan)
    assert "A budget of 10 s" in caught.value.problem
    assert f"{needed:,} image passes, which at 1,000 a second is 14s" in caught.value.problem
    assert "--budget 14s or more" in caught.value.next_step
    enough, _ = searched(outline_of_sizes([60] * 50, resolution="orbits", budget="14s"))
    assert {own.n_images for own in enough.by_class} == {2}


def test_a_search_that_slows_down_ends_with_what_it_has() -> None:
    """The pace falls to a tenth once all classes are begun: no error, and equal images a class."""
    plan = outline_of_sizes([60, 60, 60], resolution="orbits", budget="2s")
    outcome, rounds, _ = driven(
        ExactSearch().rounds(plan),
        plan,
        seconds=lambda number, n_passes: n_passes * (1e-2 if number else 1e-3),
    )
    assert [own.n_images for own in outcome.by_class] == [2, 2, 2]
    assert len(rounds) == 2
    assert outcome.stopped


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.floats(0.1, 3), st.integers(1, 400))
def test_at_a_steady_pace_time_is_never_exceeded(
    sizes: list[int], seconds: float, passes_per_shard: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interface, "PASSES_PER_SHARD", passes_per_shard)
        plan = outline_of_sizes(sizes, 6, resolution="orbits", budget=f"{seconds:.3f}s")
        try:
            outcome, rounds = searched(plan)
        except SettingsError:
            assert 1e-3 * len(sizes) * 2 * (plan.grid.n_orbits + 1) > round(seconds, 3) - 1e-3
            return
        assert passes_of(rounds) * 1e-3 <= round(seconds, 3) + 1e-9
        seen = images_by_class(plan, rounds)
        n = max(map(len, seen.values()))
        assert all(rows == set(range(min(n, sizes[index]))) for index, rows in seen.items())
        assert [own.n_images for own in outcome.by_class] == [min(n, own) for own in sizes]


# Units larger than an orbit -----------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["pixels", "normalized"])
@pytest.mark.parametrize(
    ("shape", "resolution"),
    [
        ((1, 8, 8), "patches:3"),
        ((3, 7, 6), "patches:2"),
        ((1, 6, 9), "tiles:3x4"),
        ((1, 8, 8), "tiles:2x3"),
    ],
)
def test_a_unit_is_removed_as_a_whole(
    shape: tuple[int, int, int], resolution: str, domain: str, run_on: Any
) -> None:
    """All bins of a tile go at once, and its response is shared evenly by its orbits."""
    network, config = conv_model(2, shape[0]), {"mean": (0.4,) * shape[0], "std": (0.2,) * shape[0]}
    audited = run_on(network, random_images(4, 2, shape), config, resolution=resolution, domain=domain)
    network, size = network.double().eval(), shape[1:]
    numbers = [int(text) for text in resolution.partition(":")[2].split("x")]
    name_of = patch_of if len(numbers) == 1 else tile_of
    groups: dict[Any, set[tuple[int, int]]] = {}
    for bin_ in np.ndindex(*size):
        name = "DC" if bin_ == (0, 0) else name_of(*size, *numbers, bin_)
        groups.setdefault(name, set()).add(bin_)
    for index in (0, 1):
        images, mean, std = audited.search(index), 0.4, 0.2
        if domain == "normalized":
            images, mean, std = (images - 0.4) / 0.2, 0.0, 1.0
        for response in RESPONSES:
            ours = audited.result.arrays[f"{MEASURE}/importance/{response}"][index]
            for bins in groups.values():
                slow = response_to_removing(bins, network, images, index, response, mean, std)
                own = [number for number, orbit in enumerate(audited.orbits) if orbit <= bins]
                np.testing.assert_allclose(ours[own], slow / len(own), atol=1e-5)
    finding = audited.result.dominant_frequencies
    assert finding.image_passes == 2 * 2 * (len(groups) + 1)
    assert {own.resolution for own in finding.by_class} == {resolution}


def test_a_unit_of_one_orbit_is_the_orbit(run_on: Any) -> None:
    network, pairs = conv_model(2, 1), random_images(6, 2, (1, 7, 6))
    single = run_on(network, pairs).result.arrays
    grouped = run_on(network, pairs, resolution="patches:1").result.arrays
    for name, array in single.items():
        np.testing.assert_allclose(grouped[name], array, atol=1e-6, err_msg=name)
