from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from driven import outline_of_sizes
from replicas import keep_bins, logits_of, remove_bins
from torch import nn

from shortcut_audit.measures import interface
from shortcut_audit.measures.kept_maps import EXAMPLE_SHARES, kept_map_shards, maps_judged_on
from shortcut_audit.measures.shortcuts import Shortcuts
from shortcut_audit.results.findings import Rate
from shortcut_audit.results.shortcut_findings import ClassShortcut


def kept_bins(audited: Any, row: int, dc: str) -> set[tuple[int, int]]:
    kept = audited.result.arrays["dominant_frequencies/kept"][row]
    bins = {b for orbit, chosen in zip(audited.orbits, kept, strict=True) if chosen for b in orbit}
    return bins | {(0, 0)} if dc == "keep" else bins


@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 6)])
def test_rates_equal_the_slow_replica(shape: tuple[int, int, int], dc: str, run_on: Any) -> None:
    network = conv_model(3, shape[0], seed=3)
    audited = run_on(network, random_images(10, 3, shape), kept_share=0.3, dc=dc)
    network = network.double().eval()
    for column, item in enumerate(audited.result.shortcuts.by_class):
        bins = kept_bins(audited, column, dc)
        kept_called, full_called = {}, {}
        for index in range(3):
            images = audited.judge(index)
            kept_called[index] = sum(
                int(logits_of(network, keep_bins(image, bins)).argmax()) == column for image in images
            )
            full_called[index] = sum(
                int(logits_of(network, image).argmax()) == column for image in images
            )
        others = [index for index in range(3) if index != column]
        assert item.tpr_kept == Rate(hits=kept_called[column], n=5)
        assert item.fpr_kept == Rate(hits=sum(kept_called[k] for k in others), n=10)
        assert item.tpr_full == Rate(hits=full_called[column], n=5)
        assert item.fpr_full == Rate(hits=sum(full_called[k] for k in others), n=10)


def test_of_many_classes_an_image_is_judged_under_its_own_map_and_three_others(run_on: Any) -> None:
    n_classes, shape = 6, (1, 7, 8)
    network = linear_model(n_classes, shape, seed=2)
    audited = run_on(network, random_images(8, n_classes, shape), kept_share=0.4, seed=3)
    network = network.double().eval()
    outline = outline_of_sizes([4] * n_classes, (7, 8), n_judge=4, seed=3)
    judged = [maps_judged_on(outline, index).tolist() for index in range(n_classes)]
    for index, columns in enumerate(judged):
        assert index in columns
        assert len(set(columns)) == 4
    assert len({tuple(columns) for columns in judged}) > 1
    for column, item in enumerate(audited.result.shortcuts.by_class):
        bins = kept_bins(audited, column, "keep")
        called = {
            index: sum(
                int(logits_of(network, keep_bins(image, bins)).argmax()) == column
                for image in audited.judge(index)
            )
            for index in range(n_classes)
            if column in judged[index]
        }
        assert item.tpr_kept == Rate(hits=called.pop(column), n=4)
        assert item.fpr_kept == Rate(hits=sum(called.values()), n=4 * len(called))
        assert item.fpr_full.n == 4 * (n_classes - 1)
    assert any(item.fpr_kept.hits for item in audited.result.shortcuts.by_class)


@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
def test_examples_are_the_image_its_map_and_the_rest(dc: str, run_on: Any) -> None:
    network = conv_model(2, 3)
    audited = run_on(network, random_images(8, 2, (3, 8, 8)), kept_share=0.2, dc=dc)
    original, kept, removed = audited.result.arrays["shortcuts/examples"][1]
    matches = [image for image in audited.judge(1) if np.allclose(image * 255, original, atol=0.51)]
    assert len(matches) == 1
    bins = kept_bins(audited, 1, dc)
    gone = bins - {(0, 0)} if dc == "keep" else bins | {(0, 0)} if dc == "drop" else bins
    for ours, theirs in [(kept, keep_bins(matches[0], bins)), (removed, remove_bins(matches[0], gone))]:
        np.testing.assert_allclose(ours, np.clip(theirs, 0, 1) * 255, atol=0.51)
    network = network.double().eval()
    said = audited.result.shortcuts.by_class[1].example_predictions
    probabilities = torch.from_numpy(logits_of(network, keep_bins(matches[0], bins))).softmax(0)
    assert said["kept"].probability == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert said["kept"].predicted == str(int(probabilities.argmax()))


def test_only_the_classes_asked_for_are_searched_and_all_others_serve_as_foreign(run_on: Any) -> None:
    network, pairs = conv_model(3, 1), random_images(10, 3, (1, 8, 8))
    names = ["a", "b", "c"]
    whole = run_on(network, pairs, class_names=names).result
    part = run_on(network, pairs, class_names=names, classes=("c",)).result
    assert [item.class_name for item in part.shortcuts.by_class] == ["c"]
    assert part.shortcuts.by_class[0] == whole.shortcuts.by_class[2]
    assert part.predictions == whole.predictions
    np.testing.assert_array_equal(
        part.arrays["dominant_frequencies/rank"][0], whole.arrays["dominant_frequencies/rank"][2]
    )
    assert list(part.table("classes")["class"]) == ["c"]


def test_a_larger_share_keeps_more_of_the_same_ranking(run_on: Any) -> None:
    network, pairs = conv_model(2, 1), random_images(8, 2, (1, 8, 8))
    few = run_on(network, pairs, kept_share=0.1).result
    many = run_on(network, pairs, kept_share=0.5).result
    small, large = (r.arrays["dominant_frequencies/kept"] for r in (few, many))
    assert (small <= large).all()
    assert small.sum() < large.sum()
    assert few.dominant_frequencies.by_class[0].kept_share == pytest.approx(6 / 63)


def test_keeping_everything_gives_the_unfiltered_rates(run_on: Any) -> None:
    result = run_on(conv_model(3, 3), random_images(8, 3, (3, 7, 8)), kept_share=1.0).result
    for item in result.shortcuts.by_class:
        assert item.tpr_kept == item.tpr_full
        assert item.fpr_kept == item.fpr_full


# Steps of the example ------------------------------------------------------------------------------


def prefix(result: Any, row: int, share: float) -> list[int]:
    """The longest run of leading orbits within a share of the ranked bins, orbit by orbit."""
    rank = result.arrays["dominant_frequencies/rank"][row].tolist()
    members = result.arrays["orbits/members"].tolist()
    order = sorted((place, orbit) for orbit, place in enumerate(rank) if place)
    whole, taken, held = sum(members[orbit] for _, orbit in order), [], 0
    for _, orbit in order:
        held += members[orbit]
        if held > share * whole + 1e-9:
            break
        taken.append(orbit)
    return taken or [order[0][1]]


@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
@pytest.mark.parametrize("resolution", ["orbits", "patches:3"])
def test_steps_are_what_the_model_says_of_the_top_of_the_ranking(
    dc: str, resolution: str, run_on: Any
) -> None:
    network, names = conv_model(3, 1, seed=3), ["a", "b", "c"]
    audited = run_on(
        network, random_images(8, 3, (1, 16, 14)), class_names=names, dc=dc, resolution=resolution
    )
    plain = network.double().eval()
    result, filenames = audited.result, list(audited.images.names)
    for row, item in enumerate(result.shortcuts.by_class):
        place = filenames.index(item.example)
        image = audited.images.store.block(place, place + 1)[0].astype(np.float64)
        wanted: dict[tuple[int, ...], float] = {}
        for share in EXAMPLE_SHARES:
            wanted.setdefault(tuple(prefix(result, row, share)), share)
        assert [step.share for step in item.example_steps] == list(wanted.values())
        whole = result.arrays["orbits/members"][result.arrays["dominant_frequencies/rank"][row] > 0].sum()
        for step, orbits in zip(item.example_steps, wanted, strict=True):
            bins = {b for orbit in orbits for b in audited.orbits[orbit]}
            assert step.n_orbits == len(orbits)
            assert step.share_found == pytest.approx(len(bins) / whole)
            bins |= {(0, 0)} if dc == "keep" else set()
            chance = torch.from_numpy(logits_of(plain, keep_bins(image, bins))).softmax(0)
            assert step.prediction.predicted == names[int(chance.argmax())]
            assert step.prediction.probability == pytest.approx(float(chance.max()), abs=2e-6)
            assert step.prediction.probability_of_class == pytest.approx(float(chance[row]), abs=2e-6)


@pytest.mark.parametrize("share", [0.05, 0.4])
@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
def test_the_step_at_the_share_of_the_map_says_what_the_map_says(
    dc: str, share: float, run_on: Any
) -> None:
    result = run_on(conv_model(3, 1), random_images(8, 3, (1, 16, 14)), kept_share=share, dc=dc).result
    for item, found in zip(result.shortcuts.by_class, result.dominant_frequencies.by_class, strict=True):
        (step,) = [step for step in item.example_steps if step.share == share]
        assert (step.n_orbits, step.share_found) == (found.n_orbits_kept, found.kept_share)
        said = item.example_predictions["kept"]
        assert step.prediction.predicted == said.predicted
        assert step.prediction.probability == pytest.approx(said.probability, abs=2e-6)
        assert step.prediction.probability_of_class == pytest.approx(said.probability_of_class, abs=2e-6)


def test_equal_sets_of_orbits_are_asked_for_once(run_on: Any) -> None:
    """Of 27 ranked bins, the first three shares are all a single orbit."""
    result = run_on(conv_model(2, 1), random_images(8, 2, (1, 7, 4))).result
    for item in result.shortcuts.by_class:
        sizes = [step.n_orbits for step in item.example_steps]
        assert sizes == sorted(set(sizes))
        assert item.example_steps[0].share == EXAMPLE_SHARES[0]
        assert len(sizes) < len(EXAMPLE_SHARES)


@pytest.mark.parametrize("examples", [0, 1, 3])
def test_each_pass_for_an_example_is_counted(examples: int, run_on: Any) -> None:
    n_seen = [0]

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_model(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n_seen[0] += len(x)
            return self.inner(x)

    result = run_on(Counted(), random_images(8, 3, (1, 16, 14)), examples=examples).result
    shown = [item for item in result.shortcuts.by_class if item.example_steps]
    assert [item.example is not None for item in shown] == [True] * examples
    # 9: grey images that count the outputs, and a look for answers that change with the batch.
    assert n_seen[0] == result.image_passes + 9


def test_an_example_is_planned_with_its_three_forms_and_seven_steps() -> None:
    planned = [
        Shortcuts().planned_passes(outline_of_sizes([4] * 3, (16, 14), n_judge=4, examples=n))
        for n in range(5)
    ]
    assert [n - planned[0] for n in planned] == [0, 10, 20, 30, 30]


def test_another_ranking_within_the_same_map_asks_only_blocks_with_an_example_again() -> None:
    plan = outline_of_sizes([4] * 3, (16, 14), n_judge=4, examples=1)
    rank = np.tile(np.arange(plan.grid.n_orbits), (3, 1))
    other = rank.copy()
    other[:, [1, 2]] = other[:, [2, 1]]
    keys = [
        [shard.work.digest for shard in kept_map_shards("shortcuts", plan, rank > 20, each) if shard.work]
        for each in (rank, other)
    ]
    assert [a == b for a, b in zip(*keys, strict=True)] == [False, True, True]


# Known answers -------------------------------------------------------------------------------------

SIZE, ORBIT = 24, (4, 5)


def wave_of(phase: float = 0.0) -> np.ndarray:
    """The planted orbit's wave, (SIZE, SIZE)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.cos(2 * np.pi * (ORBIT[0] * y + ORBIT[1] * x) / SIZE + phase)


class ReadsOneOrbit(nn.Module):
    """Output 0 where one wave is strong, in its phase or in any; outputs 1 and 2 by brightness."""

    def __init__(self, *, any_phase: bool) -> None:
        super().__init__()
        self.any_phase = any_phase
        waves = np.stack([wave_of(), wave_of(np.pi / 2)]).reshape(2, -1)
        self.register_buffer("waves", torch.from_numpy(waves))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(1)
        parts = pixels @ self.waves.to(x.dtype).T
        strength = parts.square().sum(dim=1).sqrt() if self.any_phase else parts[:, 0]
        bright = 100 * (pixels.mean(dim=1) - 0.5)
        return torch.stack([8 * (strength - THRESHOLD), bright, -bright], dim=1)


AMPLITUDE = 8 / 255
THRESHOLD = AMPLITUDE * SIZE * SIZE / 4


def planted_images(
    n_per_class: int, *, any_phase: bool, seed: int = 0, strength: float = 1.0
) -> list[tuple[np.ndarray, int]]:
    """Noise; in class 0 with the wave, a fiftieth of the energy; class 1 bright, class 2 dark."""
    generator = np.random.default_rng(seed)
    pairs = []
    for label in range(3):
        for _ in range(n_per_class):
            noise = 40 * generator.standard_normal((1, SIZE, SIZE))
            phase = generator.uniform(0, 2 * np.pi) if any_phase else 0.0
            planted = strength * AMPLITUDE * 255 * wave_of(phase) * (label == 0)
            level = (127, 147, 107)[label]
            pairs.append(((noise + planted + level).clip(0, 255).astype(np.uint8), label))
    return pairs


@pytest.mark.parametrize("any_phase", [False, True], ids=["linear", "any phase"])
def test_a_class_that_reads_a_single_orbit_hangs_on_it_and_the_others_on_none(
    any_phase: bool, run_on: Any
) -> None:
    pairs = planted_images(60, any_phase=any_phase)
    names = ["wavy", "bright", "dark"]
    result = run_on(ReadsOneOrbit(any_phase=any_phase), pairs, class_names=names).result
    wavy, bright, dark = result.shortcuts.by_class
    assert wavy.verdict == "shortcut"
    assert wavy.extent is not None
    assert wavy.extent.orbits == (ORBIT,)
    assert wavy.kind == "mid band, narrow, one direction"
    assert wavy.best is not None
    assert wavy.best.n_orbits == 1
    assert wavy.strength_share == pytest.approx(2 / (SIZE * SIZE - 1))
    assert wavy.best.flip_rate > 0.6
    # Nothing of the class is left without it, and all of it where nothing else is.
    assert wavy.best.necessity_drop is not None
    assert wavy.best.necessity_drop > 0.6
    assert wavy.sufficient_share == wavy.strength_share
    assert "“wavy”" in wavy.reason
    assert f"{100 * wavy.best.flip_rate:.0f}% of other images" in wavy.reason
    assert "1 orbit near 6 cycles/image" in wavy.reason
    (picture,) = wavy.evidence
    assert (picture.n_orbits, picture.after.predicted) == (1, "wavy")
    for other in (bright, dark):
        assert other.verdict == "no shortcut"
        assert other.evidence == ()
        # What they are told by is their mean, and no orbit.
        assert "colour" in other.confounds
    assert "colour" not in wavy.confounds


def test_a_strong_wave_is_no_less_a_shortcut_than_a_weak_one(run_on: Any) -> None:
    """An amplitude of 16/255 in noise of 40/255: the only thing that the class is told by."""
    pairs = planted_images(60, any_phase=False, strength=2.0)
    wavy = run_on(ReadsOneOrbit(any_phase=False), pairs).result.shortcuts.by_class[0]
    assert wavy.tpr_full.value == 1.0
    assert wavy.verdict == "shortcut"


def test_a_model_that_ignores_images_hangs_on_nothing(run_on: Any) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.1, 0.9, 0.2]], dtype=x.dtype).expand(len(x), 3)

    result = run_on(Constant(), random_images(40, 3, (1, 8, 8))).result
    for item in result.shortcuts.by_class:
        assert item.verdict == "no shortcut"
        assert item.p_value == item.q_value == 1.0
        assert item.score == 0.0
        assert item.strength_share is None
        assert item.kind == ""
    # Whatever is left of an image lands in the class that everything lands in.
    assert [item.confounds for item in result.shortcuts.by_class] == [(), ("default class",), ()]


def test_a_class_of_nearly_empty_images_is_a_default_class_and_no_shortcut(run_on: Any) -> None:
    """Class 0 is called where contrast is low, as it is when nearly all of an image is removed."""

    class Contrast(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            low = 50 * (0.1 - x.flatten(1).std(dim=1))
            bright = 50 * (x.flatten(1).mean(dim=1) - 0.5)
            return torch.stack([low, bright, -bright], dim=1)

    generator = np.random.default_rng(0)
    pairs = [
        ((level + spread * generator.standard_normal((1, 16, 16))).clip(0, 255).astype(np.uint8), label)
        for label, (level, spread) in enumerate(((127, 15), (147, 45), (107, 45)))
        for _ in range(60)
    ]
    names = ["flat", "bright", "dark"]
    flat = run_on(Contrast(), pairs, class_names=names).result.shortcuts.by_class[0]
    assert flat.tpr_full.value == 1.0
    assert flat.fpr_full.value == 0.0
    assert flat.verdict == "no shortcut"
    assert "default class" in flat.confounds
    assert "default class" in flat.reason
    # The published test alone would have called it one by its true positives.
    assert flat.ladder[0].kept is not None
    assert flat.ladder[0].kept.value == 1.0


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_models_without_structure_seldom_have_a_small_p(kind: str, run_on: Any) -> None:
    """Random weights on noise with random labels: no class has an orbit of its own."""
    p_values, verdicts = [], []
    n_models, n_classes, shape = 9, 8, (1, 6, 6)
    for seed in range(n_models):
        generator = np.random.default_rng(seed)
        pairs = [
            (generator.integers(0, 256, shape).astype(np.uint8), number % n_classes)
            for number in range(40 * n_classes)
        ]
        network = (
            linear_model(n_classes, shape, seed)
            if kind == "linear"
            else conv_model(n_classes, shape[0], seed)
        )
        result = run_on(network, pairs, batch_size=256, examples=0, seed=seed).result
        p_values += [item.p_value for item in result.shortcuts.by_class]
        verdicts += [item.verdict for item in result.shortcuts.by_class]
    assert len(p_values) == n_models * n_classes
    small = sum(p <= 0.05 for p in p_values)
    # 5% of 72 are 3.6; more than 8 in one of a hundred runs.
    assert small <= 8
    assert verdicts.count("shortcut") <= 3


# The same again --------------------------------------------------------------------------------------


def without_names(item: ClassShortcut) -> dict[str, Any]:
    """What is found of a class but for what its family decides."""
    content = item.model_dump(mode="json")
    for family in ("verdict", "reason", "q_value", "needed", "extent", "evidence"):
        content.pop(family)
    return content


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_the_batch_size_changes_no_verdict(batch_size: int, run_on: Any) -> None:
    pairs, network = random_images(24, 3, (3, 8, 7)), linear_model(3, (3, 8, 7), 1)
    usual = run_on(network, pairs, batch_size=37).result.shortcuts
    assert any(rung.flips_over_foreign is not None for item in usual.by_class for rung in item.ladder)
    assert run_on(network, pairs, batch_size=batch_size).result.shortcuts == usual


def test_the_blocks_that_images_come_in_change_no_ladder(
    run_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image keeps its partners and its random orbits, whichever shard it is part of."""
    pairs, network = random_images(24, 3, (1, 14, 14)), linear_model(3, (1, 14, 14), 3)
    at_once = run_on(network, pairs).result.shortcuts
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 20)
    in_parts = run_on(network, pairs).result.shortcuts
    random_ones = [r.flips_over_random for item in at_once.by_class for r in item.ladder]
    assert any(pair is not None for pair in random_ones)
    for one, other in zip(at_once.by_class, in_parts.by_class, strict=True):
        assert [r.flips for r in one.ladder] == [r.flips for r in other.ladder]
        for one_rung, other_rung in zip(one.ladder, other.ladder, strict=True):
            assert one_rung.flips_over_random == other_rung.flips_over_random
            assert one_rung.losses_over_random == other_rung.losses_over_random
            assert one_rung.kept_over_random == other_rung.kept_over_random


def test_another_seed_draws_other_partners(run_on: Any) -> None:
    pairs, network = random_images(24, 3, (1, 8, 8)), linear_model(3, (1, 8, 8), 1)
    ladders = [
        [item.ladder for item in run_on(network, pairs, seed=seed).result.shortcuts.by_class]
        for seed in (0, 0, 1)
    ]
    assert ladders[0] == ladders[1]
    assert ladders[0] != ladders[2]


@pytest.mark.parametrize("name", ["wavy", "bright"])
def test_a_class_searched_alone_has_the_ladder_it_has_among_all(name: str, run_on: Any) -> None:
    pairs = planted_images(24, any_phase=False)
    names = ["wavy", "bright", "dark"]
    network = ReadsOneOrbit(any_phase=False)
    whole = run_on(network, pairs, class_names=names).result.shortcuts.by_class[names.index(name)]
    (alone,) = run_on(network, pairs, class_names=names, classes=(name,)).result.shortcuts.by_class
    assert without_names(alone) == without_names(whole)
    assert alone.verdict == whole.verdict


def test_the_smaller_the_family_the_smaller_q(run_on: Any) -> None:
    pairs = planted_images(40, any_phase=False)
    network = ReadsOneOrbit(any_phase=False)
    whole = run_on(network, pairs).result.shortcuts.by_class
    (alone,) = run_on(network, pairs, classes=("0",)).result.shortcuts.by_class
    assert alone.q_value == alone.p_value == whole[0].p_value
    # The other two have nothing: theirs are 1.
    assert [item.p_value for item in whole[1:]] == [1.0, 1.0]
    assert whole[0].q_value == pytest.approx(3 * whole[0].p_value)
