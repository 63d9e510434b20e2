"""The screened search as a whole: against the exact one, within its budget, and honest about itself."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from driven import outline_of_sizes
from scipy import stats
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import AuditInterruptedError, SettingsError
from shortcut_audit.fourier.masks import rank_orbits, top_share
from shortcut_audit.measures.interface import Outline, Round, Shard, Subject, Totals
from shortcut_audit.measures.searches import SEARCHES
from shortcut_audit.measures.searches.first_order import N_FEATURES
from shortcut_audit.measures.searches.folds import rankable_orbits
from shortcut_audit.measures.searches.interface import ClassSearch, SearchOutcome
from shortcut_audit.measures.searches.parts import (
    gradient_shards,
    halves_of_parts,
    n_by_part,
    n_parts,
    part_rows,
    sums_by_part,
)
from shortcut_audit.measures.searches.screened import Allowance, ScreenedSearch
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.settings import RESPONSES, settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

SEARCH = ScreenedSearch()
CONFIG = {"mean": (0.5,), "std": (0.25,)}


@dataclass
class Finished:
    """A round that was run; `seconds` as the test has it."""

    totals: dict[int, list[tuple[Shard, Totals]]]
    n_passes: int
    seconds: float

    def of(self, class_index: int) -> Iterator[tuple[Shard, Totals]]:
        return iter(self.totals.get(class_index, ()))


@dataclass
class Driven:
    """A search that was run to its end; `maps` are what it would have said before some rounds."""

    outcome: SearchOutcome
    rounds: list[Round[SearchOutcome]] = field(default_factory=list)
    maps: list[SearchOutcome] = field(default_factory=list)

    @property
    def n_passes(self) -> int:
        return sum(shard.n_passes for asked in self.rounds for shard in asked.shards)

    @property
    def probes(self) -> list[Shard]:
        return [
            shard
            for asked in self.rounds
            for shard in asked.shards
            if shard.work is not None and shard.work.kind == "probes"
        ]


Answer = Callable[[Shard], Totals]


def drive(outline: Outline, answer: Answer, seconds_per_pass: float = 0.0) -> Driven:
    rounds, maps = [], []
    search = SEARCHES[outline.settings.search].rounds(outline)
    asked = next(search)
    while True:
        rounds.append(asked)
        if asked.so_far is not None:
            maps.append(asked.so_far())
        totals: dict[int, list[tuple[Shard, Totals]]] = {}
        for shard in asked.shards:
            totals.setdefault(shard.class_index, []).append((shard, answer(shard)))
        n_passes = sum(shard.n_passes for shard in asked.shards)
        try:
            asked = search.send(Finished(totals, n_passes, n_passes * seconds_per_pass))
        except StopIteration as stop:
            return Driven(stop.value, rounds, maps)


def searched(subject: Subject, seconds_per_pass: float = 0.0) -> Driven:
    search = SEARCHES[subject.settings.search]

    def answer(shard: Shard) -> Totals:
        reported: list[int] = []
        totals = search.run(shard, subject, subject.block(shard.rows), reported.append)
        assert sum(reported) == shard.n_passes
        return totals

    return drive(subject.outline, answer, seconds_per_pass)


Prepare = Callable[..., Subject]


@pytest.fixture
def prepare() -> Iterator[Prepare]:
    with ExitStack() as stack:

        def prepared(network: nn.Module, pairs: Any, **values: Any) -> Subject:
            channels = len(pairs[0][0]) if isinstance(pairs, list) else 3
            config = {name: value * channels for name, value in CONFIG.items()}
            fixed = {"dtype": "float64", "batch_size": 64, "search": "screened", "device": "cpu"}
            known = values.pop("config", config)
            request = AuditRequest(
                model=LoadedModel(network, "test", "test", known),
                source=source_from(pairs) if isinstance(pairs, list) else pairs,
                settings=settings_from({**fixed, "resolution": "orbits", **values}),
                command="test",
            )
            return stack.enter_context(prepared_audit(request, None)).subject

        yield prepared


def top_of(subject: Subject, found: ClassSearch) -> np.ndarray:
    rank = rank_orbits(found.importance[found.score], rankable_orbits(subject.outline))
    return top_share(subject.grid, rank, subject.settings.kept_share)


def overlap_of(subject: Subject, one: ClassSearch, other: ClassSearch) -> float:
    a, b = top_of(subject, one), top_of(subject, other)
    return float((a & b).sum() / a.sum())


# Planted orbits -----------------------------------------------------------------------------------

PLANTED = {1: (3, 5), 2: (6, -2)}


def planted_images(n_per_class: int, size: int, amplitude: float, seed: int) -> Any:
    """Photographs' spectra, a faint pattern in each class, and in two a wave of random phase."""
    generator = np.random.default_rng(seed)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) * size

    def texture() -> np.ndarray:
        shaped = np.fft.fft2(generator.standard_normal((size, size))) / np.maximum(radius, 1)
        plane = np.fft.ifft2(shaped).real
        return plane / plane.std()

    y, x = np.mgrid[:size, :size]
    pairs = []
    patterns = [texture() for _ in range(3)]
    for label in range(3):
        for _ in range(n_per_class):
            image = 127 + 30 * texture() + 7 * patterns[label]
            if label in PLANTED:
                u, v = PLANTED[label]
                phase = generator.uniform(0, 2 * np.pi)
                image += amplitude * np.cos(2 * np.pi * (u * y + v * x) / size + phase)
            pairs.append((np.clip(np.round(image), 0, 255).astype(np.uint8)[None], label))
    return pairs


def trained(pairs: Any, seed: int, steps: int = 150) -> nn.Module:
    """A small network that has learned the planted waves, by hand: a second."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 12, 5, padding=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 3),
        )  # fmt: skip
        images = torch.from_numpy(np.stack([image for image, _ in pairs])).float()
        images = (images / 255 - 0.5) / 0.25
        labels = torch.tensor([label for _, label in pairs])
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(len(images), (64,))
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def planted() -> list[tuple[Any, nn.Module]]:
    made = []
    for seed in range(2):
        pairs = planted_images(60, 20, 12, seed)
        made.append((pairs, trained(pairs, seed)))
    return made


def planted_orbit(subject: Subject, label: int) -> int:
    u, v = PLANTED[label]
    size = subject.grid.height
    u, v = (u, v) if v >= 0 else (-u, -v)
    return int(subject.grid.orbit_of_bin[u % size, v])


def test_planted_orbits_are_found_as_the_exact_search_finds_them(
    planted: list[tuple[Any, nn.Module]], prepare: Prepare
) -> None:
    overlaps, told = [], []
    for pairs, network in planted:
        values = {"images_per_class": 60, "dtype": "float32"}
        subject = prepare(network, pairs, **values)
        screened = searched(subject)
        exact = searched(prepare(network, pairs, search="exact", **values))
        assert screened.n_passes <= screened.outcome.settings["passes_per_image"] * 90
        for one, other in zip(screened.outcome.by_class, exact.outcome.by_class, strict=True):
            if one.class_index in PLANTED:
                orbit = planted_orbit(subject, one.class_index)
                importance = one.importance["log-odds"][1:]
                n_before = int((importance > one.importance["log-odds"][orbit]).sum())
                assert n_before < max(1, 0.01 * len(importance))
                # What leads is known by probes, not by reaching beyond them.
                assert one.n_probed is not None
                assert one.n_probed[orbit] > 0
            overlaps.append(overlap_of(subject, other, one))
            assert one.fidelity is not None
            if one.fidelity.overlap is None:
                assert one.fidelity.reason
            else:
                told.append(one.fidelity.overlap)
    assert np.mean(overlaps) >= 0.7
    # No class is told to be much nearer than maps on the whole are.
    assert np.mean(told) <= np.mean(overlaps) + 0.1


# Against the exact search ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ((1, 18, 18), {}),
        ((3, 17, 19), {"dc": "rank"}),
        ((1, 19, 17), {"dc": "drop", "domain": "normalized", "response": "cross-entropy"}),
        ((1, 18, 17), {"response": "squared-logit-change"}),
        ((1, 20, 20), {"kept_share": 0.004}),
        ((1, 18, 18), {"kept_share": 0.5}),
        ((1, 18, 18), {"kept_share": 1.0}),
        ((1, 24, 24), {"resolution": "tiles:10x16"}),
    ],
    ids=str,
)
def test_on_a_linear_model_the_map_is_the_exact_one(
    shape: tuple[int, int, int], values: dict[str, Any], prepare: Prepare
) -> None:
    network, pairs = linear_model(3, shape, scale=0.05), random_images(24, 3, shape)
    subject = prepare(network, pairs, **values)
    screened = searched(subject)
    exact = searched(prepare(network, pairs, search="exact", **values))
    for one, other in zip(screened.outcome.by_class, exact.outcome.by_class, strict=True):
        rankable = rankable_orbits(subject.outline)
        a, b = (found.importance[found.score][rankable] for found in (one, other))
        assert one.n_probed is not None
        n_probed = one.n_probed[rankable]
        # First order is exact: where no probes of a few images interfere, and where all are probed.
        guessed = n_probed == 0
        if guessed.sum() > 10:
            assert stats.spearmanr(a[guessed], b[guessed]).statistic > 0.99
        np.testing.assert_allclose(a[n_probed == 12], b[n_probed == 12], rtol=1e-5, atol=1e-8)
        assert stats.spearmanr(a, b).statistic > 0.9
        assert one.n_images == other.n_images == 12


def test_with_the_exact_search_s_passes_and_no_doubt_allowed_the_top_share_is_the_exact_one(
    planted: list[tuple[Any, nn.Module]], prepare: Prepare
) -> None:
    pairs, network = planted[0]
    subject = prepare(network, pairs, images_per_class=32, budget=202 * 16 * 3, confidence=0.9999)
    screened = searched(subject)
    exact = searched(prepare(network, pairs, images_per_class=32, search="exact"))
    assert screened.n_passes <= exact.n_passes
    for one, other in zip(screened.outcome.by_class, exact.outcome.by_class, strict=True):
        assert (top_of(subject, one) == top_of(subject, other)).all()
        probed = one.n_probed == 16
        for response in RESPONSES:
            np.testing.assert_allclose(
                one.importance[response][probed], other.importance[response][probed], rtol=1e-5, atol=1e-7
            )
        assert one.fidelity is not None
        assert one.fidelity.rank_correlation is not None
        assert one.fidelity.rank_correlation > 0.5


@pytest.mark.parametrize("clip", [False, True])
def test_probes_that_the_model_saw_are_counted(clip: bool, prepare: Prepare) -> None:
    pairs = random_images(24, 2, (1, 18, 18))
    subject = prepare(conv_model(2, 1), pairs, clip=clip)
    found = searched(subject)
    n_units = subject.outline.units.n_units
    for one in found.outcome.by_class:
        count = np.zeros(n_units, dtype=int)
        images: dict[int, set[int]] = {}
        for shard in found.probes:
            if shard.class_index == one.class_index and shard.work is not None:
                for unit in shard.work.arrays["units"]:
                    rows = set(range(*shard.rows))
                    # No image is asked twice about the same orbit.
                    assert not rows & images.setdefault(int(unit), set())
                    images[int(unit)] |= rows
                    count[unit] += shard.n_images
        np.testing.assert_array_equal(one.n_probed, count)
        assert (count > 0).sum() > 4
        assert count.max() <= one.n_images


# Budgets --------------------------------------------------------------------------------------------


def noise(shard: Shard, outline: Outline) -> Totals:
    """Totals of a model that answers noise; planning needs no model."""
    generator = np.random.default_rng([shard.class_index, *shard.rows])
    assert shard.work is not None
    n_units = outline.units.n_units
    if shard.work.kind == "first order":
        values = np.abs(generator.standard_normal((N_FEATURES, shard.n_images, n_units)))
        parts, _, sums = sums_by_part(outline, shard, torch.from_numpy(values))
        return {"part": parts, "features": sums}
    values = generator.standard_normal((len(RESPONSES), shard.n_images, len(shard.work.arrays["units"])))
    parts, n_images, sums = sums_by_part(outline, shard, torch.from_numpy(values))
    squares = sums_by_part(outline, shard, torch.from_numpy(values**2))[2]
    return {"part": parts, "n_images": n_images, "sums": sums, "squares": squares}


def with_outputs(outline: Outline, n_outputs: int) -> Outline:
    from dataclasses import replace

    return replace(outline, n_outputs=n_outputs)


@pytest.mark.parametrize("n_outputs", [2, 10, 1000])
@pytest.mark.parametrize(("size", "share"), [(18, 10), (32, 10), (64, 30), (224, 100)])
def test_by_default_a_small_share_of_the_exact_passes_is_spent(
    size: int, share: int, n_outputs: int
) -> None:
    sizes = [16] if size == 224 else [50, 21]
    plan = with_outputs(outline_of_sizes(sizes, size, search="screened"), n_outputs)
    exact = SEARCHES["exact"].planned_passes(plan)
    assert SEARCH.planned_passes(plan) <= exact / share
    if size == 224 and n_outputs != 1000:
        return
    found = drive(plan, lambda shard: noise_of_few(shard, plan))
    assert found.n_passes <= exact / share
    # And what is paid for is used, where nothing is decided.
    assert found.n_passes >= 0.9 * SEARCH.planned_passes(plan)


@pytest.mark.parametrize("sizes", [[2], [3], [5, 2], [4, 33, 16], [17], [100]], ids=str)
@pytest.mark.parametrize("per_image", [12, 15, 40, 133.3, 1000])
def test_a_budget_is_never_exceeded(sizes: list[int], per_image: float) -> None:
    budget = int(per_image * sum(sizes))
    plan = with_outputs(outline_of_sizes(sizes, 17, search="screened", budget=budget), 7)
    found = drive(plan, lambda shard: noise(shard, plan))
    assert found.n_passes <= budget
    for asked, spent in zip(
        found.rounds, np.cumsum([sum(s.n_passes for s in r.shards) for r in found.rounds]), strict=True
    ):
        assert spent + asked.n_passes_after <= budget
    n_most = 146 * sum(sizes)
    assert found.n_passes >= min(0.6 * budget, 0.5 * n_most)
    stopped = found.outcome.stopped
    assert ("undecided" in stopped) == any(found.outcome.settings["undecided_units_by_class"])


def test_a_budget_that_is_too_small_is_refused_before_anything_runs() -> None:
    plan = with_outputs(outline_of_sizes([10, 10], 17, search="screened", budget=239), 7)
    for ask in (lambda: SEARCH.planned_passes(plan), lambda: next(SEARCH.rounds(plan))):
        with pytest.raises(SettingsError, match=r"239 image passes is too small to screen 20.*take 240"):
            ask()
    enough = with_outputs(outline_of_sizes([10, 10], 17, search="screened", budget=240), 7)
    assert drive(enough, lambda shard: noise(shard, enough)).n_passes <= 240


def test_a_class_of_one_image_is_refused() -> None:
    plan = outline_of_sizes([10, 1], 17, search="screened")
    with pytest.raises(SettingsError, match="less than two search images"):
        next(SEARCH.rounds(plan))


def test_a_budget_of_seconds_is_kept_at_the_pace_of_the_gradients() -> None:
    plan = outline_of_sizes([32, 32], 18, search="screened", budget="2s")
    found = drive(plan, lambda shard: noise(shard, plan), seconds_per_pass=1e-3)
    assert 0.9 * 2000 <= found.n_passes <= 2000
    # The rest of the time is foretold at the pace that was found.
    assert 0 < found.rounds[1].n_passes_after <= 2000
    short = outline_of_sizes([32, 32], 18, search="screened", budget="0.001s")
    least = drive(short, lambda shard: noise(shard, short), seconds_per_pass=1e-3)
    assert least.n_passes <= (5 + 5) * 64


def test_what_was_decided_is_not_paid_for() -> None:
    """A model that answers what first order said, without noise: nothing is left to race for."""
    plan = outline_of_sizes([32], 32, search="screened", confidence=0.9)
    size = np.exp(np.linspace(4, -4, plan.units.n_units))

    def answer(shard: Shard) -> Totals:
        assert shard.work is not None
        units = shard.work.arrays.get("units", np.arange(len(size)))
        rows = [size, size, size**2, size] if shard.work.kind == "first order" else [size, size, size**2]
        values = torch.from_numpy(np.stack(rows)[:, None, units]).repeat(1, shard.n_images, 1)
        parts, n_images, sums = sums_by_part(plan, shard, values)
        if shard.work.kind == "first order":
            return {"part": parts, "features": sums}
        squares = sums_by_part(plan, shard, values**2)[2]
        return {"part": parts, "n_images": n_images, "sums": sums, "squares": squares}

    found = drive(plan, answer)
    assert found.n_passes < 0.9 * SEARCH.planned_passes(plan)
    assert found.outcome.settings["undecided_units_by_class"] == [0]
    importance = found.outcome.by_class[0].importance["log-odds"]
    assert (np.argsort(-importance[1:])[:25] == np.arange(25)).all()


# The same again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_seed_fixes_the_map_whatever_the_batch(dtype: str, prepare: Prepare) -> None:
    pairs, network = random_images(40, 2, (1, 18, 18)), conv_model(2, 1)
    one, other = (
        searched(prepare(network, pairs, batch_size=size, dtype=dtype, images_per_class=40))
        for size in (3, 64)
    )
    for a, b in zip(one.outcome.by_class, other.outcome.by_class, strict=True):
        np.testing.assert_array_equal(a.n_probed, b.n_probed)
        for response in RESPONSES:
            scale = np.abs(a.importance[response]).max()
            np.testing.assert_allclose(
                a.importance[response], b.importance[response], rtol=1e-5, atol=1e-5 * scale
            )


def test_another_seed_samples_other_orbits_and_classes_differ() -> None:
    samples = []
    for seed in (0, 1):
        plan = outline_of_sizes([20, 20], 20, search="screened", seed=seed)

        def answer(shard: Shard, plan: Outline = plan) -> Totals:
            return noise(shard, plan)

        found = drive(plan, answer)
        for shard in found.rounds[1].shards:
            assert shard.work is not None
            samples.append(tuple(shard.work.arrays["units"].tolist()))
    assert len(set(samples)) == 4


def test_a_killed_search_ends_with_the_same_bytes(tmp_path: Path) -> None:
    pairs, values = random_images(32, 2, (1, 18, 18)), {"search": "screened", "batch_size": 16}

    class Killed(nn.Module):
        left = 10**9

        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_model(2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Killed.left -= 1
            if Killed.left == 0:
                raise KeyboardInterrupt
            return self.inner(x)

    whole = sa.audit(Killed(), pairs, run=tmp_path / "whole", **values)
    for left in (12, 30, 60):
        Killed.left = left
        with pytest.raises(AuditInterruptedError):
            sa.audit(Killed(), pairs, run=tmp_path / "stopped", **values)
    Killed.left = 10**9
    again = sa.audit(Killed(), pairs, run=tmp_path / "stopped", **values)
    assert again.model_dump(exclude={"timing"}) == whole.model_dump(exclude={"timing"})
    assert (tmp_path / "stopped" / "arrays.safetensors").read_bytes() == (
        tmp_path / "whole" / "arrays.safetensors"
    ).read_bytes()
    finding = again.dominant_frequencies
    assert finding.search == "screened"
    assert finding.backward_images == 2 * 16 * 2
    assert again.arrays["dominant_frequencies/n_probed"].shape == (2, again.grid.n_orbits)


def test_maps_so_far_come_early_and_get_better() -> None:
    plan = outline_of_sizes([64], 32, search="screened")
    found = drive(plan, lambda shard: noise(shard, plan))
    assert len(found.maps) >= 3
    first, last = found.maps[0].by_class[0], found.maps[-1].by_class[0]
    assert first.fidelity is None
    assert first.n_probed is not None
    assert first.n_probed.sum() == 0
    assert last.fidelity is not None
    assert last.n_probed is not None
    assert last.n_probed.sum() > 0
    # Each costs as much as many probes; a round may be short.
    assert len(found.maps) <= 8


# Odd cases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_search", [2, 3, 5])
def test_classes_of_few_images_have_a_map(n_search: int, prepare: Prepare) -> None:
    pairs = random_images(2 * n_search, 2, (1, 18, 18))
    subject = prepare(conv_model(2, 1), pairs, images_per_class=2 * n_search)
    for one in searched(subject).outcome.by_class:
        assert one.n_images == n_search
        assert np.isfinite(one.importance["log-odds"]).all()
        assert one.reliability["log-odds"].n_images == n_search
        assert one.fidelity is not None
        assert one.fidelity.n_images >= 2


class Deaf(nn.Module):
    """Answers the same whatever it sees on dark images, and looks at bright ones."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.inner = linear_model(n_outputs, (1, 18, 18), scale=0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x.mean(dim=(1, 2, 3)) > 0).to(x.dtype).detach()
        return self.inner(x) * bright[:, None]


def test_a_class_that_the_model_does_not_look_at_has_an_empty_map(prepare: Prepare) -> None:
    drawn = random_images(16, 2, (1, 18, 18))
    pairs = [(np.where(label, 160, 20) + image // 3, label) for image, label in drawn]
    subject = prepare(Deaf(2), [(image.astype(np.uint8), label) for image, label in pairs])
    dark, bright = searched(subject).outcome.by_class
    for response in RESPONSES:
        np.testing.assert_allclose(dark.importance[response][1:], 0, atol=1e-9)
        assert np.abs(bright.importance[response]).max() > 0.01
    assert dark.fidelity is not None
    assert dark.fidelity.loss_mass is None


def test_constant_images_have_a_map_without_waves(prepare: Prepare) -> None:
    pairs = random_images(8, 1, (1, 18, 18)) + [
        (np.full((1, 18, 18), 30 + 10 * k, np.uint8), 1) for k in range(8)
    ]
    subject = prepare(linear_model(2, (1, 18, 18), scale=0.05), pairs)
    flat = searched(subject).outcome.by_class[1]
    np.testing.assert_allclose(flat.importance["log-odds"][1:], 0, atol=1e-9)
    ranked = prepare(linear_model(2, (1, 18, 18), scale=0.05), pairs, dc="rank")
    found = searched(ranked).outcome.by_class[1]
    assert abs(found.importance["squared-logit-change"][0]) > 1e-6


def test_parts_hold_every_image_once_and_halves_part_neighbours() -> None:
    for n in (2, 3, 5, 16, 17, 50):
        plan = outline_of_sizes([7, n], 18, search="screened")
        start, stop = plan.search_rows[1]
        count = n_parts(plan, 1)
        assert count % 2 == 0
        rows = [row for part in range(count) for row in range(*part_rows(plan, 1, part))]
        assert rows == list(range(start, stop))
        assert n_by_part(plan, 1).sum() == n
        covered = [row for s in gradient_shards(plan, 2) if s.class_index == 1 for row in range(*s.rows)]
        assert covered == rows
        ways = [tuple(left.tolist()) for left, _ in halves_of_parts(count)]
        assert len(ways) == len(set(ways)) >= 1
        for left, right in halves_of_parts(count):
            assert sorted([*left, *right]) == list(range(count))
            assert len(left) == len(right)
            # The first two parts are what every sample has: one on each side.
            assert (0 in left) != (1 in left)


def test_an_allowance_buys_logits_for_a_sixth_of_it() -> None:
    for budget, logits in ((500, 3), (1000, 4), (1200, 5), (10**6, 10)):
        plan = with_outputs(outline_of_sizes([20], 32, search="screened", budget=budget), 50)
        assert Allowance.of(plan).logits == logits


def test_memory_is_flat_in_images() -> None:
    peaks = []
    for n in (64, 256):
        plan = outline_of_sizes([n], 24, search="screened", budget=n * 20)
        tracemalloc.start()
        drive(plan, lambda shard, plan=plan: noise_of_few(shard, plan))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        largest = max(s.n_images for s in gradient_shards(plan, 2))
        assert largest * 24 * 24 <= 1 << 22
    assert peaks[1] < 1.7 * peaks[0]


def noise_of_few(shard: Shard, outline: Outline) -> Totals:
    """Totals as large as a model's, whose making holds no images."""
    assert shard.work is not None
    generator = np.random.default_rng([shard.class_index, *shard.rows])
    known = torch.zeros(1, shard.n_images, 1)
    parts, n_images, _ = sums_by_part(outline, shard, known)
    if shard.work.kind == "first order":
        shape = (len(parts), N_FEATURES, outline.units.n_units)
        return {"part": parts, "features": np.abs(generator.standard_normal(shape))}
    shape = (len(parts), len(RESPONSES), len(shard.work.arrays["units"]))
    sums = generator.standard_normal(shape) * n_images[:, None, None]
    squares = sums**2 / n_images[:, None, None] + n_images[:, None, None]
    return {"part": parts, "n_images": n_images, "sums": sums, "squares": squares}


# Real images ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_resnet20_the_screened_top_share_is_mostly_the_exact_one(
    shared_data: Path, resnet20: nn.Module, prepare: Prepare
) -> None:
    source = open_source(f"{shared_data / 'cifar10_lossless.npz'}::train")
    config = resnet20.pretrained_cfg
    values = {
        "images_per_class": 240,
        "dtype": "float32",
        "classes": tuple(source.class_names[index] for index in (3, 8)),
        "config": config,
    }
    subject = prepare(resnet20, source, **values)
    screened = searched(subject)
    exact = searched(prepare(resnet20, source, search="exact", **values))
    assert screened.n_passes <= exact.n_passes / 10
    overlaps = [
        overlap_of(subject, other, one)
        for one, other in zip(screened.outcome.by_class, exact.outcome.by_class, strict=True)
    ]
    assert np.mean(overlaps) >= 0.75, overlaps
