"""Transfer, count by count, against a slow replica; known answers; and what must not change a number."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from elsewhere import NAMES, ReadsTwoWaves, prepared, request_of, wave_images, with_noise
from replicas import (
    conjugate_pairs,
    keep_bins,
    logits_of,
    remove_bins,
    ring_bins,
    transplant_bins,
)
from torch import nn

from shortcut_audit.errors import LogitsError
from shortcut_audit.fourier.masks import matched_ranks
from shortcut_audit.measures import interface
from shortcut_audit.measures.cases import ladder_of
from shortcut_audit.measures.interface import Arrays, Round, Rounds, Shard
from shortcut_audit.measures.transfer import Transfer
from shortcut_audit.measures.transfer_radii import energy_shares, with_its_radii
from shortcut_audit.measures.trials import Trial
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.shortcut_findings import VERDICTS
from shortcut_audit.results.transfer_findings import ClassTransfer, SetTransfer, TransferFinding
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.engines.local import run_local
from shortcut_audit.run.execute import Watch, run_measure
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.prepare import AuditRequest, PreparedAudit

MEAN, STD = (0.45, 0.5, 0.55), (0.3, 0.25, 0.2)
Bins = set[tuple[int, int]]


@dataclass(frozen=True)
class Recorded(Transfer):
    """The same, and what it asks for, round by round."""

    asked: list[Round[Any]] = field(default_factory=list)

    def rounds(self, outline: Any, images: Any, found: Arrays) -> Rounds[tuple[Any, Arrays]]:
        generator = super().rounds(outline, images, found)
        asked = next(generator)
        while True:
            self.asked.append(asked)
            try:
                asked = generator.send((yield asked))
            except StopIteration as end:
                finding: tuple[Any, Arrays] = end.value
                return finding


@dataclass(frozen=True)
class Measured:
    """Transfer alone, on findings made up by hand, with all that it was measured on."""

    ready: PreparedAudit
    found: Arrays
    finding: TransferFinding
    arrays: Arrays
    shards: list[Shard]
    n_passes: int

    @property
    def planned(self) -> int:
        return Transfer().planned_passes(self.ready.subject.outline)


def orbit_numbers(ready: PreparedAudit) -> dict[frozenset[tuple[int, int]], int]:
    """Number of each orbit by its bins, as the replicas name them."""
    grid = ready.subject.grid
    return {
        frozenset(
            {(int(u) % grid.height, int(v) % grid.width), (-int(u) % grid.height, -int(v) % grid.width)}
        ): number
        for number, (u, v) in enumerate(zip(grid.u, grid.v, strict=True))
    }


def bins_of_ring(height: int, width: int, number: int) -> Bins:
    """One of eight rings; from 101 on that many less 100, and the next one."""
    numbers = (number,) if number < 100 else (number - 100, number - 99)
    return {bin_ for each in numbers for bin_ in ring_bins(height, width, each, 8)}


def made_up(ready: PreparedAudit, rings: Mapping[int, int], n_best: int, dc: str) -> Arrays:
    """Random maps and whole ladders; the best rung is a ring in the classes of `rings`, else the first
    `n_best` orbits of the ladder."""
    grid, outline = ready.subject.grid, ready.subject.outline
    n, n_classes = grid.n_orbits, len(outline.searched)
    generator = np.random.default_rng(7)
    order, kept = np.zeros((n_classes, n), dtype=np.int32), np.zeros((n_classes, n), dtype=np.bool_)
    best = np.zeros((n_classes, n), dtype=np.bool_)
    numbers = orbit_numbers(ready)
    for column in range(n_classes):
        ranking = 1 + generator.permutation(n - 1)
        deepest = ladder_of(n - 1)[-1]
        order[column, ranking[:deepest]] = np.arange(1, deepest + 1)
        kept[column, generator.permutation(n - 1)[: n // 3] + (dc != "rank")] = True
        if column in rings:
            bins = bins_of_ring(grid.height, grid.width, rings[column])
            best[column, [k for pair, k in numbers.items() if pair <= bins]] = True
        else:
            best[column, ranking[: min(n_best, deepest)]] = True
    verdicts = np.full(n_classes, VERDICTS.index("shortcut"), dtype=np.int8)
    return {
        "shortcuts/order": order,
        "shortcuts/best": best,
        "shortcuts/verdict": verdicts,
        "dominant_frequencies/kept": kept,
    }


@contextmanager
def measured(
    request: AuditRequest, *, rings: Mapping[int, int] | None = None, n_best: int = 2, dc: str = "keep"
) -> Iterator[Measured]:
    with prepared(request) as ready, tempfile.TemporaryDirectory() as folder:
        found = made_up(ready, rings or {}, n_best, dc)
        counted: list[int] = []
        measure = Recorded()
        watch = Watch(lambda n, reused: counted.append(n), lambda task, reused: None)
        execution = run_measure(
            measure, ready.subject, ready.model, Ledger(Path(folder)), run_local, watch, found
        )
        (finding,) = execution.findings
        assert isinstance(finding, TransferFinding)
        energy, trials = (list(asked.shards) for asked in measure.asked)
        assert sum(shard.n_passes for shard in energy) == 0
        assert sum(counted) == sum(shard.n_passes for shard in trials)
        yield Measured(ready, found, finding, execution.arrays, trials, sum(counted))


# The slow replica -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replica:
    """One image, one mask, one full transform at a time."""

    measured: Measured
    network: nn.Module

    @property
    def settings(self) -> Any:
        return self.measured.ready.subject.settings

    def image(self, row: int) -> np.ndarray:
        pixels = self.measured.ready.subject.images.store.block(row, row + 1)[0].astype(np.float64)
        if self.settings.domain == "normalized":
            pixels = (pixels - self._moments(MEAN, pixels)) / self._moments(STD, pixels)
        return np.asarray(pixels)

    def _moments(self, values: tuple[float, ...], like: np.ndarray) -> np.ndarray:
        return np.array(values[: len(like)])[:, None, None]

    def calls(self, image: np.ndarray) -> int:
        mean, std = self._moments(MEAN, image), self._moments(STD, image)
        normalized = self.settings.domain == "normalized"
        if self.settings.clip:
            low, high = ((0 - mean) / std, (1 - mean) / std) if normalized else (0, 1)
            image = np.clip(image, low, high)
        return int(logits_of(self.network, image if normalized else (image - mean) / std).argmax())

    def bins(self, ranks: np.ndarray, n_orbits: int) -> Bins:
        numbers = orbit_numbers(self.measured.ready)
        return {b for pair, k in numbers.items() if 0 < ranks[k] <= n_orbits for b in pair}

    def shuffled(self, ranks: np.ndarray, output: int, image: int) -> np.ndarray:
        """The image's random ranking: everything but DC, dealt anew among equal radii."""
        grid = self.measured.ready.subject.grid
        whole, after = ranks.copy(), int(ranks.max())
        for orbit in range(1, len(ranks)):
            if whole[orbit] == 0:
                after += 1
                whole[orbit] = after
        seed = [self.settings.seed, output, 1000, image]
        return np.asarray(matched_ranks(grid, whole, 1, np.random.default_rng(seed))[0])

    def outcome(
        self, trial: Trial, ranks: np.ndarray, rows: tuple[int, int, int], output: int, image: int
    ) -> bool:
        """Of `rows`: the image, its receiver and its foreign donor."""
        own, receiver, foreign = (self.image(row) for row in rows)
        grid, dc = self.measured.ready.subject.grid, self.settings.dc
        if "ring" in trial.arm:
            bins = bins_of_ring(grid.height, grid.width, trial.n_orbits)
        elif trial.arm.endswith("random"):
            bins = self.bins(self.shuffled(ranks, output, image), trial.n_orbits)
        else:
            bins = self.bins(ranks, trial.n_orbits)
        if trial.arm in ("transplant", "ring", "transplant random"):
            shown = transplant_bins(receiver, own, bins)
        elif trial.arm in ("transplant foreign", "ring foreign"):
            shown = transplant_bins(receiver, foreign, bins)
        elif trial.arm in ("remove", "remove ring", "remove random"):
            shown = remove_bins(own, bins)
        elif trial.arm in ("erase", "erase ring"):
            shown = remove_bins(receiver, bins)
        else:
            kept = bins | {(0, 0)} if dc == "keep" else bins - {(0, 0)} if dc == "drop" else bins
            shown = keep_bins(receiver if trial.arm == "keep foreign" else own, kept)
        return self.calls(shown) == output


PARTS = ("own", "map", "restored", "others", "map at home", "wide", "wide of its own")


def outcomes_of(replica: Replica, set_index: int, class_index: int) -> dict[str, dict[Trial, list[bool]]]:
    """Part by part and trial by trial, what the class's images were called, in order of rows."""
    measured = replica.measured
    output = measured.ready.subject.images.outputs[class_index]
    found: dict[str, dict[Trial, list[bool]]] = {part: {} for part in PARTS}
    for shard in measured.shards:
        if shard.work is None or shard.work.kind != "trials" or shard.class_index != class_index:
            continue
        given = shard.work.arrays
        if given["part"][0] != set_index:
            continue
        part = found[PARTS[int(given["part"][1])]]
        for code in given["trials"].tolist():
            trial = Trial.of(code)
            for row in range(*shard.rows):
                place = row - int(given["origin"][0])
                rows = (row, int(given["receivers"][place]), int(given["foreign"][place]))
                said = replica.outcome(trial, given["ranks"], rows, output, place)
                part.setdefault(trial, []).append(said)
    return found


def receivers_of(measured: Measured, set_index: int, class_index: int, part: str) -> list[int]:
    (receivers,) = {
        tuple(shard.work.arrays["receivers"].tolist())
        for shard in measured.shards
        if shard.work is not None
        and shard.work.kind == "trials"
        and shard.class_index == class_index
        and shard.work.arrays["part"].tolist() == [set_index, PARTS.index(part)]
    }
    return list(receivers)


def rate(outcomes: list[bool]) -> Rate:
    return Rate(hits=sum(outcomes), n=len(outcomes))


def paired(first: list[bool], second: list[bool]) -> Paired:
    both = only_first = only_second = 0
    for a, b in zip(first, second, strict=True):
        both += a and b
        only_first += a and not b
        only_second += b and not a
    return Paired(n=len(first), both=both, only_first=only_first, only_second=only_second)


def expected_class(replica: Replica, set_index: int, column: int, ring: int | None) -> dict[str, Any]:
    """Every count of a class on a set, from single images."""
    measured = replica.measured
    subject, found = measured.ready.subject, measured.found
    images, outline = subject.images, subject.outline
    index = outline.searched[column]
    output, there = images.outputs[index], images.shifted[set_index]
    n_best = int(found["shortcuts/best"][column].sum())
    n_kept = int(found["dominant_frequencies/kept"][column].sum())

    def said(rows: Any) -> list[bool]:
        return [replica.calls(replica.image(int(row))) == output for row in rows]

    own = said(range(*there.rows[index]))
    home_rows: Any = range(*outline.judge_rows[index])
    if there.counterparts is not None:
        first = there.rows[0][0]
        home_rows = there.counterparts[there.rows[index][0] - first : there.rows[index][1] - first]
    home = said(home_rows)
    others_there = [row for n, rows in enumerate(there.rows) if n != index for row in range(*rows)]
    parts = outcomes_of(replica, set_index, index)
    put, foreign, erased, removed = (
        (
            Trial("ring", ring),
            Trial("ring foreign", ring),
            Trial("erase ring", ring),
            Trial("remove ring", ring),
        )
        if ring is not None
        else (
            Trial("transplant", n_best),
            Trial("transplant foreign", n_best),
            Trial("erase", n_best),
            Trial("remove", n_best),
        )
    )
    before_restored = said(receivers_of(measured, set_index, index, "restored"))
    before_others = said(receivers_of(measured, set_index, index, "others"))
    others, restored = parts["others"], parts["restored"]
    expected = {
        "n_images": len(own),
        "recall": rate(own),
        "recall_home": rate(home),
        "change": paired(own, home) if there.counterparts is not None else None,
        "false_calls": rate(said(others_there)),
        "tpr_kept": rate(parts["map"][Trial("keep", n_kept)]),
        "fpr_kept": rate(parts["map"][Trial("keep foreign", n_kept)][: len(others_there)]),
        "tpr_kept_home": rate(parts["map at home"][Trial("keep", n_kept)]),
        "n_orbits": n_best,
        "replaced": paired(own, parts["own"][foreign]),
        "removed": paired(own, parts["own"][removed]),
        "restored": paired(restored[put], before_restored),
        "restored_over_foreign": paired(restored[put], restored[foreign]),
        "flips": paired(others[put], before_others),
        "flips_over_foreign": paired(others[put], others[foreign]),
        "flips_over_erased": paired(others[put], others[erased]),
    }
    random = Trial("transplant random", n_best)
    expected["flips_over_random"] = paired(others[put], others[random]) if random in others else None
    random = Trial("remove random", n_best)
    expected["removed_over_random"] = (
        paired(parts["own"][random], parts["own"][removed]) if random in parts["own"] else None
    )
    expected |= expected_wide(replica, column, parts, own)
    rungs = ladder_of(outline.grid.n_orbits - 1)
    curve: list[Any] = [(n, None, paired(others[Trial("transplant", n)], before_others)) for n in rungs]
    if ring is not None:
        curve.append((n_best, (ring % 100, 2 if ring > 100 else 1), paired(others[put], before_others)))
    expected["curve"] = curve
    return expected


def expected_wide(
    replica: Replica, column: int, parts: dict[str, dict[Trial, list[bool]]], own: list[bool]
) -> dict[str, Any]:
    """The same of all waves of the shortcut's radii, as far as the energy of search images lets them."""
    measured = replica.measured
    subject, found = measured.ready.subject, measured.found
    grid, outline = subject.grid, subject.outline
    sums = np.zeros((outline.n_classes, grid.n_orbits))
    for index, rows in enumerate(outline.search_rows):
        for row in range(*rows):
            power = (np.abs(np.fft.fft2(replica.image(row))) ** 2).mean(axis=0)
            for pair, k in orbit_numbers(measured.ready).items():
                sums[index, k] += sum(power[b] for b in pair)
    sizes = np.array([stop - start for start, stop in outline.search_rows])
    shares = energy_shares(grid, outline.searched[column], (sums, sizes))
    best, order = (found[f"shortcuts/{name}"][column] for name in ("best", "order"))
    wide = with_its_radii(grid, best, order, shares)
    n_wide = int(wide.sum())
    if not n_wide:
        assert not parts["wide"]
        names = ("wide_orbits", "wide_share", "wide_replaced", "wide_removed", "wide_over_own")
        return dict.fromkeys(names)
    (ranks,) = {
        tuple(shard.work.arrays["ranks"].tolist())
        for shard in measured.shards
        if shard.work is not None
        and shard.work.kind == "trials"
        and shard.class_index == outline.searched[column]
        and shard.work.arrays["part"][1] == PARTS.index("wide")
    }
    assert [rank > 0 for rank in ranks] == wide.tolist()
    exchanged, removed = Trial("transplant foreign", n_wide), Trial("remove", n_wide)
    members = sum(len(pair) for pair, k in orbit_numbers(measured.ready).items() if wide[k])
    return {
        "wide_orbits": n_wide,
        "wide_share": members / (grid.height * grid.width - 1),
        "wide_replaced": paired(own, parts["wide"][exchanged]),
        "wide_removed": paired(own, parts["wide"][removed]),
        "wide_over_own": paired(parts["wide of its own"][exchanged], parts["wide"][exchanged]),
    }


def chance_of(hits: list[int], sizes: list[int]) -> float:
    """Of the first having no fewer of all hits, if they fall to anyone alike (Fisher)."""
    total, ways = sum(hits), math.comb(sum(sizes), sum(hits))
    most = min(sizes[0], total)
    return (
        sum(math.comb(sizes[0], k) * math.comb(sizes[1], total - k) for k in range(hits[0], most + 1))
        / ways
    )


def check_change(item: ClassTransfer) -> None:
    """The chance of such a fall, and an interval that is one of recall there less that at home."""
    if item.change is not None:
        lost, gained = item.change.only_second, item.change.only_first
        chance = sum(math.comb(lost + gained, k) for k in range(lost, lost + gained + 1))
        expected = chance / 2 ** (lost + gained)
        assert item.change_interval == item.change.interval
    else:
        hits, sizes = (
            [getattr(r, name) for r in (item.recall_home, item.recall)] for name in ("hits", "n")
        )
        expected = chance_of(hits, sizes)
        low, high = item.change_interval
        assert -1 <= low <= -item.drop <= high <= 1
    assert item.change_p_value == pytest.approx(expected, rel=1e-9)


def check_class(item: ClassTransfer, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        found: Any = getattr(item, name)
        if name == "curve":
            found = [
                (p.n_orbits, None if p.ring is None else (p.ring, p.n_rings), p.flips) for p in found
            ]
        assert found == value, name


def band_of(height: int, width: int, bin_: tuple[int, int]) -> str:
    u, v = min(bin_[0], height - bin_[0]) / height, min(bin_[1], width - bin_[1]) / width
    share = 2 * float(np.hypot(u, v))
    return "low" if share < 0.25 else "mid" if share < 0.75 else "high"


def check_bands(replica: Replica, set_index: int, finding: SetTransfer) -> None:
    """Energies and bands put back, class by class and over all of them."""
    subject = replica.measured.ready.subject
    images, grid = subject.images, subject.grid
    there, first = images.shifted[set_index], images.shifted[set_index].rows[0][0]
    n_put_back: dict[str, list[tuple[bool, bool]]] = {"low": [], "mid": [], "high": []}
    for item in finding.by_class:
        index = images.class_names.index(item.class_name)
        output, rows = images.outputs[index], range(*there.rows[index])
        copies: Any = range(*subject.outline.judge_rows[index])
        if there.counterparts is not None:
            copies = there.counterparts[rows.start - first : rows.stop - first].tolist()
        for change in item.bands:
            bins = {
                b
                for pair in conjugate_pairs(grid.height, grid.width)
                for b in pair
                if b != (0, 0) and band_of(grid.height, grid.width, b) == change.band
            }

            def energy(image: np.ndarray, bins: Bins = bins) -> float:
                power = np.abs(np.fft.fft2(image)) ** 2
                return float(sum(power[:, u, v].mean() for u, v in bins))

            at_home = np.mean([energy(replica.image(row)) for row in copies])
            power = np.mean([energy(replica.image(row)) for row in rows]) / at_home
            assert change.power == pytest.approx(power, rel=1e-9)
            if there.counterparts is None:
                assert change.moved is None
                assert change.restored is None
                continue
            pairs = [
                (replica.image(row), replica.image(copy)) for row, copy in zip(rows, copies, strict=True)
            ]
            moved = np.mean([energy(a - b) for a, b in pairs]) / at_home
            assert change.moved == pytest.approx(moved, rel=1e-9)
            after = [replica.calls(transplant_bins(a, b, bins)) == output for a, b in pairs]
            before = [replica.calls(a) == output for a, _ in pairs]
            assert change.restored == paired(after, before)
            n_put_back[change.band] += list(zip(after, before, strict=True))
    if there.counterparts is not None:
        for change in finding.bands:
            both = n_put_back[change.band]
            assert change.restored == paired([a for a, _ in both], [b for _, b in both])


def some_sets(shape: tuple[int, int, int], home: Any) -> dict[str, Any]:
    """Copies of everything; other images, more of one class; and few, without one class."""
    other = random_images(7, 3, shape, seed=0)[:16]
    few = [pair for pair in random_images(3, 3, shape, seed=5) if pair[1] != 1]
    return {"copies": with_noise(home, spread=60), "other": with_noise(other, 3, 40), "few": few}


@pytest.mark.parametrize(
    ("shape", "dc", "domain", "clip", "rings"),
    [
        ((1, 8, 8), "keep", "pixels", False, {}),
        ((3, 7, 6), "drop", "normalized", False, {0: 4, 2: 8, 1: 105}),
        ((1, 9, 7), "rank", "pixels", True, {1: 5}),
        ((3, 8, 9), "keep", "normalized", True, {0: 9}),
    ],
    ids=["grey", "odd", "ranked dc", "clipped"],
)
def test_every_count_equals_that_of_the_slow_replica(
    shape: tuple[int, int, int], dc: str, domain: str, clip: bool, rings: dict[int, int]
) -> None:
    network = linear_model(3, shape, seed=4, scale=0.6)
    home = random_images(10, 3, shape)
    request = request_of(
        network,
        home,
        some_sets(shape, home),
        dc=dc,
        domain=domain,
        clip=clip,
        request={"mean": MEAN[: shape[0]], "std": STD[: shape[0]]},
    )
    with measured(request, rings=rings, dc=dc) as found:
        replica = Replica(found, network.double().eval())
        calls = set()
        for set_index, of_set in enumerate(found.finding.by_set):
            names = [item.class_name for item in of_set.by_class]
            assert names == [name for name in NAMES if of_set.set.name != "few" or name != "bee"]
            for item in of_set.by_class:
                column = NAMES.index(item.class_name)
                expected = expected_class(replica, set_index, column, rings.get(column))
                check_class(item, expected)
                check_change(item)
                calls |= {item.recall.value, item.replaced.second.value, item.flips.first.value}
            check_bands(replica, set_index, of_set)
            hits = sum(item.recall.hits for item in of_set.by_class)
            assert of_set.accuracy == Rate(hits=hits, n=of_set.set.n_used)
            at_home = [item.recall_home for item in of_set.by_class]
            assert of_set.accuracy_home == Rate(
                hits=sum(r.hits for r in at_home), n=sum(r.n for r in at_home)
            )
        # Something was called right, and something was not.
        assert len(calls) > 3
        assert found.finding.by_set[0].set.paired
        assert not found.finding.by_set[1].set.paired


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_counts_equal_the_slow_replica_whatever_the_draw(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = (int(n) for n in generator.integers(6, 13, 2))
    shape = (int(generator.choice([1, 3])), height, width)
    dc, domain = str(generator.choice(["keep", "drop", "rank"])), "pixels" if seed % 2 else "normalized"
    # Small grids lack some of the rings.
    whole = [n for n in range(3, 9) if bins_of_ring(height, width, n)]
    pairs = [100 + n for n in whole if n + 1 in whole]
    rings = {0: whole[seed % len(whole)], 2: pairs[seed % len(pairs)]} if seed % 3 else {}
    network, home = linear_model(3, shape, seed, scale=0.6), random_images(9, 3, shape, seed)
    moments = {"mean": MEAN[: shape[0]], "std": STD[: shape[0]]}
    request = request_of(
        network, home, some_sets(shape, home), dc=dc, domain=domain, seed=seed, request=moments
    )
    with measured(request, rings=rings, n_best=1 + seed % 3, dc=dc) as found:
        replica = Replica(found, network.double().eval())
        for set_index, of_set in enumerate(found.finding.by_set):
            for item in of_set.by_class:
                column = NAMES.index(item.class_name)
                check_class(item, expected_class(replica, set_index, column, rings.get(column)))
                check_change(item)
            check_bands(replica, set_index, of_set)


# Partners -------------------------------------------------------------------------------------------


def given_of(found: Measured, set_index: int, class_index: int, part: str) -> tuple[Shard, Any]:
    for shard in found.shards:
        work = shard.work
        if work is None or work.kind != "trials" or shard.class_index != class_index:
            continue
        if work.arrays["part"].tolist() == [set_index, PARTS.index(part)]:
            return shard, work.arrays
    raise AssertionError(f"no shard of {part}")


@pytest.mark.parametrize("seed", range(6))
def test_partners_come_from_where_they_should_and_nobody_is_given_its_own_orbits(seed: int) -> None:
    shape = (1, 6, 6)
    home = random_images(8, 3, shape)
    request = request_of(conv_model(3, 1), home, some_sets(shape, home), seed=seed)
    with measured(request) as found:
        images, outline = found.ready.subject.images, found.ready.subject.outline
        searched = {row for rows in outline.search_rows for row in range(*rows)}
        for set_index, there in enumerate(images.shifted):
            for index, own in enumerate(there.rows):
                if own[0] == own[1]:
                    continue
                own_rows = set(range(*own))
                all_there = {row for rows in there.rows for row in range(*rows)}
                home_rows = set(range(*outline.judge_rows[index]))
                others_home = {
                    row for n, rows in enumerate(outline.judge_rows) if n != index for row in range(*rows)
                }
                sides = {
                    "own": (own_rows, own_rows, all_there - own_rows),
                    "map": (own_rows, all_there - own_rows, own_rows),
                    "restored": (home_rows, own_rows, others_home),
                    "others": (home_rows, all_there - own_rows, others_home),
                    "map at home": (home_rows, home_rows, home_rows),
                }
                for part, (rows, receivers, foreign) in sides.items():
                    shard, given = given_of(found, set_index, index, part)
                    assert set(range(*shard.rows)) <= rows
                    assert set(given["receivers"].tolist()) <= receivers
                    assert set(given["foreign"].tolist()) <= foreign
                    assert not searched & set(given["receivers"].tolist())
                    if part in ("own", "restored", "others", "map at home"):
                        assert len(set(given["receivers"].tolist())) == len(given["receivers"])
                if there.counterparts is not None:
                    _, given = given_of(found, set_index, index, "others")
                    first = there.rows[0][0]
                    assert (there.counterparts[given["receivers"] - first] != given["foreign"]).all()


def test_where_own_images_are_many_the_others_are_counted_once() -> None:
    shape = (1, 6, 6)
    other = [*random_images(14, 1, shape, 3), *((image, 1) for image, _ in random_images(3, 1, shape, 4))]
    request = request_of(conv_model(3, 1), random_images(8, 3, shape), {"uneven": other})
    with measured(request) as found:
        ant, bee = found.finding.by_set[0].by_class
        assert (ant.n_images, ant.tpr_kept.n, ant.fpr_kept.n, ant.false_calls.n) == (14, 14, 3, 3)
        assert (bee.n_images, bee.tpr_kept.n, bee.fpr_kept.n) == (3, 3, 3)
        # As many donors as there are images that can take from them.
        assert (ant.restored.n, ant.flips.n) == (4, 3)
        assert (bee.restored.n, bee.flips.n) == (3, 4)


# Passes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [None, ("ant", "cat")])
def test_planned_passes_are_those_made_of_copies_with_whole_ladders_and_every_null(
    classes: tuple[str, ...] | None,
) -> None:
    shape = (1, 8, 8)
    home = random_images(8, 3, shape)
    sets = {"copies": with_noise(home), "again": with_noise(home, 4)}
    request = request_of(conv_model(3, 1), home, sets, classes=classes)
    with measured(request, n_best=1) as found:
        assert all(of_set.set.paired for of_set in found.finding.by_set)
        assert all(
            item.flips_over_random is not None
            for of_set in found.finding.by_set
            for item in of_set.by_class
        )
        assert len(found.finding.by_set[0].by_class) == len(classes or NAMES)
        # Where rings are too heavy, there is no wide exchange.
        n_missing = [
            item.n_images
            for of_set in found.finding.by_set
            for item in of_set.by_class
            if item.wide_orbits is None
        ]
        assert found.planned == found.n_passes + 3 * sum(n_missing)
        assert len(n_missing) < 2 * len(classes or NAMES)


@pytest.mark.parametrize("rings", [{}, {0: 5, 1: 3}])
def test_planned_passes_are_never_fewer_than_those_made(rings: dict[int, int]) -> None:
    shape = (1, 8, 8)
    home = random_images(9, 3, shape)
    request = request_of(conv_model(3, 1), home, some_sets(shape, home))
    with measured(request, rings=rings, n_best=3) as found:
        # A few nulls are missing; bands of sets that are no copies are not even planned.
        assert 0 <= found.planned - found.n_passes <= 100


# Outcomes of single images --------------------------------------------------------------------------


def test_recalls_are_what_the_stored_outcomes_count() -> None:
    shape = (3, 8, 8)
    home = random_images(10, 3, shape)
    sets = some_sets(shape, home)
    result = run_audit(request_of(linear_model(3, shape, 4, scale=0.6), home, sets))
    assert result.transfer is not None
    stored = result.arrays
    assert {name for name in stored if name.startswith("outcomes/shifted/")} == {
        f"outcomes/shifted/{n}/{what}" for n in range(3) for what in ("image", "class", "predicted")
    }
    called = set()
    for number, of_set in enumerate(result.transfer.by_set):
        image, index, predicted = (
            stored[f"outcomes/shifted/{number}/{what}"] for what in ("image", "class", "predicted")
        )
        assert [str(each.dtype) for each in (image, index, predicted)] == ["uint64", "int32", "int32"]
        assert len(image) == len(index) == len(predicted) == of_set.set.n_used
        for item in of_set.by_class:
            own = index == NAMES.index(item.class_name)
            right = predicted == NAMES.index(item.class_name)
            assert item.recall == rate((right & own)[own].tolist())
            assert item.false_calls == rate(right[~own].tolist())
            called.add(item.recall.value)
        # Images of no class that is judged are in no array.
        assert set(index.tolist()) == {NAMES.index(item.class_name) for item in of_set.by_class}
    assert len(called) > 2


def test_an_image_has_the_same_number_in_whatever_set_it_comes() -> None:
    """That of the content of its pixels, as at home."""
    shape = (3, 8, 8)
    home = random_images(12, 3, shape)
    result = run_audit(
        request_of(conv_model(3, 3), home, {"same": home, "other": with_noise(home, 3, 40)})
    )
    stored = result.arrays
    judged = stored["outcomes/image"][stored["outcomes/split"] == 1]
    assert set(stored["outcomes/shifted/0/image"].tolist()) == set(judged.tolist())
    assert not set(stored["outcomes/shifted/1/image"].tolist()) & set(judged.tolist())


# What must not change a number ----------------------------------------------------------------------


def content(result: AuditResult) -> dict[str, Any]:
    assert result.transfer is not None
    return {each.set.name: each for each in result.transfer.by_set}


@pytest.fixture(scope="module")
def usual() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    shape = (1, 6, 6)
    home = random_images(8, 3, shape)
    sets = some_sets(shape, home)
    return home, sets, content(run_audit(request_of(linear_model(3, shape, 5), home, sets)))


@pytest.mark.parametrize("order", [("few", "other", "copies"), ("other",), ("few", "copies")])
def test_neither_order_nor_company_of_sets_changes_a_sets_numbers(order: Any, usual: Any) -> None:
    home, sets, expected = usual
    network = linear_model(3, (1, 6, 6), 5)
    found = content(run_audit(request_of(network, home, {name: sets[name] for name in order})))
    assert list(found) == list(order)
    for name in order:
        assert found[name] == expected[name]
    assert len({each.accuracy for each in expected.values()}) > 1


def test_one_set_under_two_names_gives_the_same_numbers(usual: Any) -> None:
    home, sets, expected = usual
    again = {"first": sets["other"], "second": sets["other"]}
    found = content(run_audit(request_of(linear_model(3, (1, 6, 6), 5), home, again)))
    for name in again:
        assert found[name].by_class == expected["other"].by_class


@pytest.mark.parametrize("batch_size", [1, 500])
def test_the_batch_size_changes_no_number(batch_size: int, usual: Any) -> None:
    home, sets, expected = usual
    network = linear_model(3, (1, 6, 6), 5)
    assert content(run_audit(request_of(network, home, sets, batch_size=batch_size))) == expected


def test_the_blocks_that_images_come_in_change_no_number(
    usual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, sets, expected = usual
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 12)
    found = content(run_audit(request_of(linear_model(3, (1, 6, 6), 5), home, sets)))
    for name, of_set in expected.items():
        for one, other in zip(of_set.by_class, found[name].by_class, strict=True):
            # Sums of energies may differ in the last digit.
            assert one.model_copy(update={"bands": ()}) == other.model_copy(update={"bands": ()})
            for a, b in zip(one.bands, other.bands, strict=True):
                assert a.restored == b.restored
                assert a.power == pytest.approx(b.power, rel=1e-9)


def test_rates_at_home_are_those_of_the_audit() -> None:
    """The audit's own set as another one: copies of the very same pixels."""
    shape = (3, 8, 8)
    home = random_images(12, 3, shape)
    result = run_audit(request_of(conv_model(3, 3), home, {"same": home}, clip=True))
    assert result.transfer is not None
    (same,) = result.transfer.by_set
    assert same.set.paired
    (note,) = same.set.notes
    assert "the audit's own judgement images, pixel by pixel" in note
    assert same.accuracy == same.accuracy_home
    for item, own in zip(same.by_class, result.shortcuts.by_class, strict=True):
        assert item.recall == item.recall_home == own.tpr_full
        assert item.false_calls == own.fpr_full
        assert item.tpr_kept == item.tpr_kept_home == own.tpr_kept
        assert item.change is not None
        assert (item.change.only_first, item.change.only_second) == (0, 0)
        assert item.change_p_value == 1.0
        assert item.verdict == own.verdict
        for change in item.bands:
            assert change.power == 1.0
            assert change.moved == 0.0
            assert change.restored is not None
            assert change.restored.difference == 0.0


# Known answers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waves() -> AuditResult:
    """A class that is told by one wave, on sets where the wave is and where it is not."""
    sets = {
        "with": wave_images(50, 1),
        "without": wave_images(50, 2, carried=0),
        "half": wave_images(50, 3, carried=0.5),
        "small": wave_images(3, 4),
        "by other means": wave_images(50, 5, other=True),
    }
    request = request_of(ReadsTwoWaves(), wave_images(60), sets, images_per_class=120)
    result = run_audit(request)
    assert [item.verdict for item in result.shortcuts.by_class] == [
        "shortcut",
        "no shortcut",
        "no shortcut",
    ]
    return result


def on(result: AuditResult, name: str) -> SetTransfer:
    assert result.transfer is not None
    return next(each for each in result.transfer.by_set if each.set.name == name)


def test_where_the_wave_is_too_it_is_an_illusion(waves: AuditResult) -> None:
    ant = on(waves, "with").by_class[0]
    assert ant.effect == "illusion"
    assert ant.recall.value is not None
    assert ant.recall.value > 0.9
    assert ant.replaced.second.value is not None
    assert ant.replaced.second.value < 0.1
    assert ant.removed_over_random is not None
    assert ant.removed_over_random.first.value is not None
    assert ant.removed_over_random.first.value > 0.8
    assert ant.props > 0.8
    assert abs(ant.lacks) < 0.1
    assert ant.needed == ""
    assert "holds the score up: “ant” is recalled in" in ant.reason


def test_where_the_wave_is_missing_the_class_drops_and_the_wave_brings_it_back(
    waves: AuditResult,
) -> None:
    ant = on(waves, "without").by_class[0]
    assert ant.effect == "drop"
    assert ant.drop > 0.8
    assert ant.restored.difference > 0.8
    assert ant.restored_over_foreign.difference > 0.8
    assert ant.lacks > 0.8
    assert abs(ant.props) < 0.1
    assert ant.change_p_value is not None
    assert ant.change_p_value < 1e-6
    assert "The shortcut is missing here" in ant.reason


def test_classes_without_a_shortcut_have_none_that_travels(waves: AuditResult) -> None:
    for name in ("with", "without", "half", "small", "by other means"):
        for item in on(waves, name).by_class[1:]:
            assert item.effect == "no effect"
            assert item.p_value is None
            assert item.q_value is None
            assert "hangs on no shortcut" in item.reason
        # Of one tested class there is nothing to adjust.
        ant = on(waves, name).by_class[0]
        assert ant.q_value == ant.p_value


def test_a_shortcut_that_half_of_the_images_carry_holds_up_half_and_lacks_half(
    waves: AuditResult,
) -> None:
    ant = on(waves, "half").by_class[0]
    assert ant.props == pytest.approx(0.5, abs=0.15)
    assert ant.lacks == pytest.approx(0.5, abs=0.15)
    assert ant.effect == ("illusion" if ant.props > ant.lacks else "drop")


def test_a_class_that_is_told_by_something_else_there_is_no_effect(waves: AuditResult) -> None:
    ant = on(waves, "by other means").by_class[0]
    assert ant.effect == "no effect"
    assert ant.recall.value == 1.0
    assert ant.props == 0.0
    assert ant.reason.startswith("The shortcut does little here: recall is 100%")


def test_of_three_images_nothing_is_sure_and_what_would_do_is_said(waves: AuditResult) -> None:
    ant = on(waves, "small").by_class[0]
    assert ant.effect == "inconclusive"
    assert ant.props == 1.0
    # Twice 0.5 ** 6 is below 0.05.
    assert ant.needed == "About 6 images of “ant” here would decide it (there were 3)."
    request = request_of(
        ReadsTwoWaves(), wave_images(60), {"six": wave_images(6, 6)}, images_per_class=120
    )
    assert on(run_audit(request), "six").by_class[0].effect == "illusion"


def test_orbits_put_into_images_of_other_classes_turn_them_rung_by_rung(waves: AuditResult) -> None:
    ant = on(waves, "without").by_class[0]
    assert ant.n_orbits == 1
    assert ant.share == pytest.approx(2 / 255)
    assert ant.flips.difference > 0.7
    assert ant.curve[0].flips == ant.flips
    shares = [point.share for point in ant.curve]
    assert shares == sorted(shares)
    assert all(point.flips.difference > 0.7 for point in ant.curve)


def test_noise_put_into_one_band_is_told_from_the_others() -> None:
    """Copies whose high frequencies alone were changed."""
    home = wave_images(20)
    generator = np.random.default_rng(0)
    u, v = (np.fft.fftfreq(16)[:, None], np.fft.fftfreq(16)[None])
    high = np.hypot(u, v) > 0.4
    changed = []
    for image, label in home:
        noise = np.fft.ifft2(np.fft.fft2(generator.normal(0, 20, image.shape)) * high).real
        changed.append(((image + noise).clip(0, 255).astype(np.uint8), label))
    (of_set,) = content(run_audit(request_of(ReadsTwoWaves(), home, {"noisy": changed}))).values()
    low, mid, high_band = of_set.bands
    assert (low.band, mid.band, high_band.band) == ("low", "mid", "high")
    assert low.moved < 0.02
    assert mid.moved < 0.02
    assert high_band.moved > 0.1
    assert high_band.power > 1.1
    assert low.power == pytest.approx(1, abs=0.1)


def test_a_model_that_goes_wrong_on_another_set_names_the_image() -> None:
    class BreaksOnWhite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_model(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            broken = (x.flatten(1).amin(dim=1) > 0.99)[:, None]
            return torch.where(broken, torch.nan, self.inner(x))

    other = random_images(4, 3, (1, 8, 8), 4)
    other[2] = (np.full((1, 8, 8), 255, dtype=np.uint8), 0)
    request = request_of(BreaksOnWhite(), random_images(8, 3, (1, 8, 8)), {"white": other})
    with pytest.raises(LogitsError, match=r"NaN or infinite logits on image list\[2\]\."):
        run_audit(request)
