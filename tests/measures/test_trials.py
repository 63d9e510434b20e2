"""Trials against slow replicas: full complex transforms, one image, one bin at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import linear_model
from hypothesis import given
from hypothesis import strategies as st
from replicas import (
    conjugate_pairs,
    keep_bins,
    light_orbits_of,
    logits_of,
    radius_of,
    remove_bins,
    ring_bins,
    transplant_bins,
)
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.pixels import collect_images
from shortcut_audit.errors import LogitsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.interface import Block, Outline, Subject
from shortcut_audit.measures.trials import (
    ARMS,
    Partners,
    Trial,
    called_in_trials,
    light_order,
    rings_of,
)
from shortcut_audit.models.classifier import borrowed
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import settings_from

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
OUTPUT, N_RINGS, N_CLASSES = 2, 3, 3
SHAPES = [(1, 8, 8), (3, 7, 7), (1, 6, 9), (3, 9, 6)]
Bins = set[tuple[int, int]]


def silent(n: int) -> None:
    del n


@contextmanager
def subject_on(
    network: nn.Module, shape: tuple[int, int, int], batch_size: int = 3, **values: Any
) -> Iterator[tuple[Subject, Block]]:
    """Three classes of five judgement images each; the block of the first class's, output 2."""
    chosen = settings_from({"dtype": "float64", "images_per_class": 9, "search_share": 0.45, **values})
    n_channels = shape[0]
    preprocessing = Preprocessing(
        channels=n_channels,
        height=shape[1],
        width=shape[2],
        geometry="as they are",
        mean=MEAN[:n_channels],
        std=STD[:n_channels],
        source="test",
    )
    generator = np.random.default_rng(0)
    # Many pixels at the ends of the range, so that filtered images leave it.
    pairs = [
        (generator.integers(-80, 335, shape).clip(0, 255).astype(np.uint8), label)
        for label in range(N_CLASSES)
        for _ in range(9)
    ]
    images = collect_images(source_from(pairs), chosen, preprocessing, [OUTPUT, 0, 1])
    outline = Outline(
        settings=chosen,
        grid=FrequencyGrid(*shape[1:]),
        n_channels=n_channels,
        n_outputs=3,
        n_classes=N_CLASSES,
        search_rows=images.search_rows,
        judge_rows=images.judge_rows,
        searched=(0,),
    )
    with borrowed(network, preprocessing, torch.device("cpu"), chosen.dtype, 0) as classifier:
        subject = Subject(classifier, images, outline, batch_size)
        yield subject, subject.block(images.judge_rows[0])


def orbit_bins(grid: FrequencyGrid, orbits: Any) -> Bins:
    """Both members of each orbit."""
    names = [(int(grid.u[orbit]), int(grid.v[orbit])) for orbit in orbits]
    own = {(u % grid.height, v % grid.width) for u, v in names}
    return own | {(-u % grid.height, -v % grid.width) for u, v in names}


def some_ranks(grid: FrequencyGrid, n_orbits: int, seed: int = 0) -> np.ndarray:
    """The first `n_orbits` of a random ranking without DC; 0 behind them."""
    order = np.random.default_rng(seed).permutation(np.arange(1, grid.n_orbits))[:n_orbits]
    ranks = np.zeros(grid.n_orbits, dtype=np.int32)
    ranks[order] = np.arange(1, n_orbits + 1)
    return ranks


class Recorder(nn.Module):
    """A network that keeps what it is shown; a list in an array, because lists are put back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen = np.empty(1, dtype=object)
        self.seen[0] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[0] += list(x.detach().clone().numpy())
        return self.inner(x)


def filtered_by_replica(
    trial: Trial, own: np.ndarray, receiver: np.ndarray, foreign: np.ndarray, bins: Bins, dc: str
) -> np.ndarray:
    """One image (C, H, W) of a trial that does not draw at random."""
    zero = {(0, 0)}
    if trial.arm in ("transplant", "ring"):
        return transplant_bins(receiver, own, bins)
    if trial.arm in ("transplant foreign", "ring foreign"):
        return transplant_bins(receiver, foreign, bins)
    if trial.arm == "colour":
        return transplant_bins(receiver, own, zero)
    if trial.arm == "colour foreign":
        return transplant_bins(receiver, foreign, zero)
    if trial.arm in ("remove", "remove ring", "erase", "erase ring"):
        # DC stays, whatever the policy: what is missing are the orbits alone.
        return remove_bins(receiver if trial.arm.startswith("erase") else own, bins)
    assert trial.arm in ("keep", "keep foreign")
    source = receiver if trial.arm == "keep foreign" else own
    return keep_bins(source, bins | (zero if dc == "keep" else set()))


TRIALS = [
    *(
        Trial(arm, n)  # type: ignore[arg-type]
        for arm in ("transplant", "transplant foreign", "erase", "remove", "keep", "keep foreign")
        for n in (1, 4, 9)
    ),
    *(
        Trial(arm, ring)  # type: ignore[arg-type]
        for arm in ("ring", "ring foreign", "erase ring", "remove ring")
        for ring in range(1, N_RINGS + 2)
    ),
    Trial("colour"),
    Trial("colour foreign"),
]


def bins_of_trial(trial: Trial, grid: FrequencyGrid, ranks: np.ndarray) -> Bins:
    if "ring" in trial.arm:
        return ring_bins(grid.height, grid.width, trial.n_orbits, N_RINGS)
    return orbit_bins(grid, np.flatnonzero((ranks > 0) & (ranks <= trial.n_orbits)))


def domain_pixels(subject: Subject, rows: Any, domain: str) -> np.ndarray:
    """Images as they are filtered, (n, C, H, W) float64."""
    images = np.concatenate([subject.images.store.block(row, row + 1) for row in rows])
    images = images.astype(np.float64)
    n_channels = images.shape[1]
    if domain == "normalized":
        mean, std = (np.array(x[:n_channels])[:, None, None] for x in (MEAN, STD))
        images = (images - mean) / std
    return images


def as_shown(image: np.ndarray, domain: str, clip: bool) -> np.ndarray:
    """What the network is given of a filtered image."""
    mean, std = (np.array(x[: len(image)])[:, None, None] for x in (MEAN, STD))
    if domain == "normalized":
        low, high = (0 - mean) / std, (1 - mean) / std
        return np.clip(image, low, high) if clip else image
    return ((np.clip(image, 0, 1) if clip else image) - mean) / std


def partners_of(subject: Subject, seed: int = 0) -> Partners:
    rows = subject.outline.judge_rows
    return Partners.drawn(rows[0], rows[1:], np.random.default_rng(seed))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("domain", ["pixels", "normalized"])
@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_and_outcomes_of_every_trial_are_those_of_the_slow_replica(
    shape: tuple[int, int, int], dc: str, domain: str, clip: bool
) -> None:
    network = Recorder(linear_model(3, shape, seed=4))
    with subject_on(network, shape, dc=dc, domain=domain, clip=clip) as (subject, block):
        grid = subject.grid
        ranks, partners = some_ranks(grid, 9), partners_of(subject)
        network.seen[0] = []
        counted: list[int] = []
        called = called_in_trials(
            subject,
            block,
            ranks,
            rings_of(grid, N_RINGS),
            TRIALS,
            partners,
            lambda image: pytest.fail("no trial here draws at random"),
            OUTPUT,
            counted.append,
        )
        own, receivers, foreign = (
            domain_pixels(subject, rows, domain)
            for rows in (range(*block.rows), partners.receivers, partners.foreign)
        )
        shown = iter(network.seen[0])
    assert sum(counted) == called.size == len(TRIALS) * len(own)
    plain = network.inner.double().eval()
    outcomes = set()
    for number, trial in enumerate(TRIALS):
        bins = bins_of_trial(trial, grid, ranks)
        for image in range(len(own)):
            expected = filtered_by_replica(trial, own[image], receivers[image], foreign[image], bins, dc)
            expected = as_shown(expected, domain, clip)
            np.testing.assert_allclose(next(shown), expected, atol=1e-5, err_msg=str(trial))
            says = bool(logits_of(plain, expected).argmax() == OUTPUT)
            assert called[number, image] == says, trial
            outcomes.add(says)
    assert outcomes == {False, True}


RANDOM_ARMS = ["transplant random", "remove random", "keep random"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10)])
@pytest.mark.parametrize("arm", RANDOM_ARMS)
def test_random_trials_take_as_many_orbits_of_every_radius_of_the_same_images(
    arm: str, shape: tuple[int, int, int]
) -> None:
    """Which orbits a random trial took is read off the spectrum of what the network was shown."""
    network = Recorder(linear_model(3, shape, seed=4))
    depths = (1, 3, 6)
    with subject_on(network, shape, dc="keep", domain="normalized") as (subject, block):
        grid, partners = subject.grid, partners_of(subject)
        ranks = some_ranks(grid, 6)
        network.seen[0] = []
        called_in_trials(
            subject,
            block,
            ranks,
            rings_of(grid, N_RINGS),
            [Trial(arm, n) for n in depths],  # type: ignore[arg-type]
            partners,
            lambda image: np.random.default_rng([7, image]),
            OUTPUT,
            silent,
        )
        own = domain_pixels(subject, range(*block.rows), "normalized")
        receivers = domain_pixels(subject, partners.receivers, "normalized")
        shown = np.array(network.seen[0]).reshape(len(depths), *own.shape)
    size = (grid.height, grid.width)
    pairs = conjugate_pairs(*size)
    sets: dict[tuple[int, int], Bins] = {}
    for place, n in enumerate(depths):
        theirs = orbit_bins(grid, np.flatnonzero((ranks > 0) & (ranks <= n)))
        for image in range(len(own)):
            spectrum = np.fft.fft2(shown[place, image])
            before = np.fft.fft2(receivers[image] if arm.startswith("transplant") else own[image])
            if arm == "keep random":
                changed = np.abs(spectrum).max(axis=0) > 1e-4
            else:
                changed = np.abs(spectrum - before).max(axis=0) > 1e-4
            found = {(int(u), int(v)) for u, v in np.argwhere(changed)} - {(0, 0)}
            # Orbits are what is counted: one at Nyquist has a single bin, any other has two.
            radii = [
                sorted(round(radius_of(*size, min(pair))) for pair in pairs if pair <= bins)
                for bins in (found, theirs)
            ]
            assert found == set().union(*(pair for pair in pairs if pair <= found))
            assert radii[0] == radii[1]
            if arm == "transplant random":
                expected = transplant_bins(receivers[image], own[image], found)
            elif arm == "remove random":
                expected = remove_bins(own[image], found)
            else:
                expected = keep_bins(own[image], found | {(0, 0)})
            np.testing.assert_allclose(shown[place, image], expected, atol=1e-5)
            sets[n, image] = found
    # Each image draws for itself, and its sets lie within one another.
    assert len({frozenset(sets[6, image]) for image in range(len(own))}) > 1
    for image in range(len(own)):
        assert sets[1, image] < sets[3, image] < sets[6, image]


def outcomes_of(subject: Subject, trials: list[Trial], rows: tuple[int, int], partners: Partners) -> Any:
    start = subject.outline.judge_rows[0][0]
    part = slice(rows[0] - start, rows[1] - start)
    return called_in_trials(
        subject,
        subject.block(rows),
        some_ranks(subject.grid, 9),
        rings_of(subject.grid, N_RINGS),
        trials,
        Partners(partners.receivers[part], partners.foreign[part]),
        lambda image: np.random.default_rng([3, part.start + image]),
        OUTPUT,
        silent,
    )


def test_outcomes_do_not_depend_on_the_batch_nor_on_the_block_an_image_comes_in() -> None:
    trials = [*TRIALS, *(Trial(arm, 4) for arm in RANDOM_ARMS)]  # type: ignore[arg-type]
    whole = None
    for batch_size in (1, 4, 64):
        with subject_on(linear_model(3, (3, 9, 6), seed=4), (3, 9, 6), batch_size) as (subject, block):
            partners, (start, stop) = partners_of(subject), block.rows
            at_once = outcomes_of(subject, trials, (start, stop), partners)
            parts = [
                outcomes_of(subject, trials, rows, partners)
                for rows in ((start, start + 2), (start + 2, stop))
            ]
        whole = at_once if whole is None else whole
        np.testing.assert_array_equal(at_once, whole)
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_an_answer_that_is_no_number_names_the_image_and_what_was_done() -> None:
    class Refusing(nn.Module):
        """Answers NaN to an image whose pixels do not vary over it."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rough = x.std(dim=(1, 2, 3)) < 1e-3
            return torch.zeros(len(x), 3, dtype=x.dtype).masked_fill(rough[:, None], torch.nan)

    with subject_on(Refusing(), (1, 8, 8)) as (subject, block):
        everything = np.zeros(subject.grid.n_orbits, dtype=np.int32)
        everything[1:] = np.arange(1, subject.grid.n_orbits)
        name = subject.images.names[block.rows[0]]
        with pytest.raises(LogitsError, match=r"\(remove\)") as stopped:
            called_in_trials(
                subject,
                block,
                everything,
                rings_of(subject.grid, N_RINGS),
                [Trial("keep", 60), Trial("remove", 60)],
                partners_of(subject),
                lambda image: np.random.default_rng(image),
                OUTPUT,
                silent,
            )
        assert name in str(stopped.value)


@pytest.mark.parametrize("arm", ARMS)
def test_trials_come_back_from_their_codes(arm: Any) -> None:
    assert Trial.of(list(Trial(arm, 7).code)) == Trial(arm, 7)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (12, 5)])
@pytest.mark.parametrize("n_rings", [1, 3, 8])
def test_rings_are_those_of_the_replica(size: tuple[int, int], n_rings: int) -> None:
    grid = FrequencyGrid(*size)
    rings = rings_of(grid, n_rings)
    assert rings[0] == 0
    for number in range(1, n_rings + 2):
        assert orbit_bins(grid, np.flatnonzero(rings == number)) == ring_bins(*size, number, n_rings)


# Light orbits.


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float, int]:
    """A ranking of some orbits, energies that add up to anything, a limit and a number."""
    n = draw(st.integers(1, 25))
    ranked = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    order = draw(st.permutations([place for place in range(n) if ranked[place]]))
    rank = np.zeros(n, dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    energy = [draw(st.floats(1e-6, 0.2)) for _ in range(n)]
    return rank, np.array(energy), draw(st.floats(0.001, 0.3)), draw(st.integers(1, 20))


@given(rankings())
def test_light_orbits_hold_no_more_than_their_share_and_keep_the_order(
    case: tuple[np.ndarray, np.ndarray, float, int],
) -> None:
    rank, energy, together, at_most = case
    ours = light_order(rank, energy, together=together, at_most=at_most)
    assert 1 <= len(ours) <= at_most
    assert (rank[ours] > 0).all()
    assert (np.diff(rank[ours]) > 0).all()
    if len(ours) > 1 or energy[ours[0]] <= together / 2:
        assert energy[ours].sum() <= together * (1 + 1e-9)
    ranked = [int(orbit) for orbit in np.argsort(rank) if rank[orbit] > 0]
    slow = light_orbits_of(ranked, energy.tolist(), together, at_most)
    assert ours.tolist() == slow


def test_one_heavy_orbit_at_the_top_leaves_room_for_light_ones() -> None:
    rank = np.array([0, 1, 2, 3, 4, 5])
    energy = np.array([9.0, 0.031, 0.03, 0.01, 0.5, 0.001])
    # The first is more than half of 0.06; the second is half of it; then 0.03 is left.
    assert light_order(rank, energy, together=0.06, at_most=9).tolist() == [2, 3, 5]
    assert light_order(rank, energy, together=0.06, at_most=2).tolist() == [2, 3]
    # None is light: the lightest of those that are ranked.
    assert light_order(rank, energy, together=1e-4, at_most=9).tolist() == [5]


# Partners.

# A split leaves every class at least two images to judge by.
class_sizes = st.lists(st.integers(2, 9), min_size=1, max_size=5)


@given(st.integers(2, 14), class_sizes, st.integers(0, 2**32 - 1))
def test_receivers_are_of_all_other_classes_evenly_and_never_of_the_class(
    n: int, sizes: list[int], seed: int
) -> None:
    borders = np.cumsum([0, n, *sizes])
    own, *others = itertools.pairwise(borders.tolist())
    drawn = Partners.drawn(own, others, np.random.default_rng(seed))
    assert len(drawn.receivers) == len(drawn.foreign) == n
    for rows in (drawn.receivers, drawn.foreign):
        assert ((rows >= own[1]) & (rows < borders[-1])).all()
    assert (drawn.receivers != drawn.foreign).all()
    # None twice before all have been used.
    times = np.bincount(drawn.receivers, minlength=borders[-1])[own[1] :]
    assert times.max() - times.min() <= 1
    if n <= sum(sizes):
        # Classes give in turn: none lags behind another but for want of images.
        by_class = [int(((drawn.receivers >= a) & (drawn.receivers < b)).sum()) for a, b in others]
        for count, size in zip(by_class, sizes, strict=True):
            assert count == size or count >= max(by_class) - 1


@pytest.mark.parametrize("seed", range(40))
def test_with_two_classes_and_two_images_nobody_gives_to_itself(seed: int) -> None:
    drawn = Partners.drawn((0, 5), [(5, 7)], np.random.default_rng(seed))
    assert (drawn.receivers != drawn.foreign).all()
    assert set(drawn.receivers.tolist()) == {5, 6}


def test_partners_are_others_with_another_seed_and_the_same_with_the_same() -> None:
    one, same, other = (
        Partners.drawn((0, 10), [(10, 30), (30, 50)], np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.receivers, same.receivers)
    np.testing.assert_array_equal(one.foreign, same.foreign)
    assert (one.receivers != other.receivers).any()
