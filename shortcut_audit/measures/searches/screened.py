"""The screened search: first order for all orbits at once, then exact probes where it is close.

Four steps a class. Gradients of the logits on all search images give every orbit's first-order importance
(`first_order`). A random sample of orbits is probed exactly, which calibrates the guess and measures how
far the finished map is from an exact one. Orbits not surely in or out of the top share race: more images
for them, round by round (`races`). What was never probed keeps its guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.masks import BoolArray, half_plane_mask
from shortcut_audit.measures.interface import (
    FLOATS_PER_BLOCK,
    PASSES_PER_SHARD,
    Advance,
    Block,
    Done,
    Outline,
    Round,
    Rounds,
    Shard,
    Subject,
    Totals,
    Work,
    logits_in_batches,
    require_finite,
)
from shortcut_audit.measures.probing import probe_groups, probe_pairs
from shortcut_audit.measures.searches.first_order import (
    N_FEATURES,
    first_order,
    first_order_passes,
    n_logits,
)
from shortcut_audit.measures.searches.folds import screened_map
from shortcut_audit.measures.searches.interface import MEASURE, ClassSearch, SearchOutcome
from shortcut_audit.measures.searches.races import (
    Guess,
    Probed,
    calibrated,
    design,
    fidelity_of,
    stratified_sample,
    undecided,
    weighed,
)
from shortcut_audit.results.findings import Fidelity
from shortcut_audit.results.settings import RESPONSES, AuditSettings, SearchName

__all__ = ["Allowance", "ScreenedSearch"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SQUARED = RESPONSES.index("squared-logit-change")
# A class's images are dealt into so many parts, which orbits race over; fewer where maps are large.
_PARTS, _PARTS_OF_LARGE_MAPS, _LARGE_MAP = 16, 8, 8192
# Share of the probes that calibrate, and bounds on how many orbits they go to.
_SAMPLE_SHARE, _FEWEST_SAMPLED, _MOST_SAMPLED = 0.2, 48, 100
# A round spends at most this share of what was left for races at the start; and probes no fewer orbits
# of a part than this, because each visit takes a clean pass too.
_SHARE_OF_A_ROUND, _FEWEST_RACING = 0.2, 8
# Backward passes (of two) take no more than about a sixth of the passes.
_PASSES_PER_LOGIT = 12
_MOST_LOGITS = 10


@dataclass(frozen=True)
class Allowance:
    """What a screened search may spend on an image on average, in image passes.

    `passes`: all of it; `logits`: how many go backward; `for_probes`: what is left for exact probes,
    their clean passes included.
    """

    passes: float
    logits: int

    @property
    def for_probes(self) -> float:
        return self.passes - first_order_passes(self.logits)

    @classmethod
    def of(cls, outline: Outline) -> Allowance:
        """From the budget, or by default a tenth of the exact search and less for fine grids.

        50 passes and one more for each 126 units: a tenth of the exact search at 32 pixels, a
        thirtieth at 64, a hundredth at 224. Raises SettingsError for a budget that does not reach.
        """
        n_units, budget = outline.units.n_units, outline.settings.budget
        exact = n_units + 1
        passes: float = min(exact // 10, 50 + n_units // 126)
        passes = max(passes, first_order_passes(3) + 8)
        if budget is not None and budget.passes is not None:
            n_images = sum(n_search(outline, index) for index in outline.searched)
            passes = min(budget.passes / n_images, exact)
            least = first_order_passes(min(outline.n_outputs, 3)) + 4
            if passes < least:
                raise SettingsError(
                    f"A budget of {budget} is too small to screen {n_images:,} search images:"
                    f" gradients and a few probes take {least * n_images:,}.",
                    "Raise --budget, or give fewer --images-per-class or --classes.",
                )
        allowed = min(max(int(passes) // _PASSES_PER_LOGIT, 3), _MOST_LOGITS)
        return cls(passes, n_logits(outline.n_outputs, allowed))


@dataclass
class _Race:
    """One class on its way: what first order says, what was probed, and how far each orbit has run."""

    class_index: int
    n_images: int
    sample: IntArray
    stands_for: FloatArray
    sample_parts: int
    # Parts that each unit has run over in races, of those that the class has.
    parts_run: IntArray
    spent: int = 0
    left_undecided: int = 0
    probes: list[Done] = field(default_factory=list)


@dataclass(frozen=True)
class ScreenedSearch:
    """First-order screening, calibrated by exact probes, then races over the orbits that are close."""

    name: SearchName = "screened"
    revision: int = 1

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {
            "domain": settings.domain,
            "clip": settings.clip,
            "resolution": "orbits" if settings.resolution == "auto" else settings.resolution,
        }

    def planned_passes(self, outline: Outline) -> int:
        passes = Allowance.of(outline).passes
        return round(passes * sum(n_search(outline, index) for index in outline.searched))

    def rounds(self, outline: Outline) -> Rounds[SearchOutcome]:
        allowance, settings = Allowance.of(outline), outline.settings
        for index in outline.searched:
            if n_search(outline, index) < 2:
                raise SettingsError(
                    "A class has less than two search images, of which nothing can be said.",
                    "Raise --images-per-class or --search-share.",
                )
        planned = self.planned_passes(outline)
        shards = _gradient_shards(outline, allowance)
        n_first = sum(shard.n_passes for shard in shards)
        first = yield Round(shards, n_passes_after=planned - n_first)
        seconds, n_done = first.seconds, first.n_passes
        if settings.budget is not None and settings.budget.seconds is not None:
            passes = n_done / max(seconds, 1e-9) * settings.budget.seconds
            n_images = sum(n_search(outline, index) for index in outline.searched)
            # At least what calibrates: a map that cannot be told from noise would be worth nothing.
            passes_per_image = max(passes / n_images, first_order_passes(allowance.logits) + 4)
            allowance = Allowance(min(passes_per_image, outline.units.n_units + 1), allowance.logits)
        races = [_started(outline, index, allowance, first) for index in outline.searched]
        asked = [shard for race in races for shard in _sample_shards(outline, race)]
        n_done += sum(shard.n_passes for shard in asked)
        sent = yield Round(
            asked,
            n_passes_after=max(planned - n_done, 0),
            so_far=lambda: _outcome(outline, allowance, races, first),
        )
        for race in races:
            race.probes.append(sent)
        guesses = {race.class_index: _ranking_guess(outline, race, first) for race in races}
        while True:
            asked = [
                shard
                for race in races
                for shard in _next_shards(outline, allowance, race, guesses[race.class_index])
            ]
            if not asked:
                return _outcome(outline, allowance, races, first)
            n_done += sum(shard.n_passes for shard in asked)
            sent = yield Round(
                asked,
                n_passes_after=max(planned - n_done, 0),
                so_far=lambda: _outcome(outline, allowance, races, first),
            )
            for race in races:
                race.probes.append(sent)

    def run(self, shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
        assert shard.work is not None
        output = subject.output_of(shard.class_index)
        if shard.work.kind == "first order":
            logits = int(shard.work.arrays["logits"][0])
            features = first_order(subject, block, output, logits, advance)
            return {"features": features.sum(dim=1).float().cpu().numpy()}
        clean = logits_in_batches(subject, block.images, advance)
        require_finite(clean, subject, shard.rows, "")
        units = torch.from_numpy(shard.work.arrays["units"]).to(clean.device)
        n_images = len(block.images)
        images = torch.arange(n_images, device=clean.device).repeat_interleave(len(units))
        pairs = units.repeat(n_images)
        if subject.outline.units.single:
            responses = probe_pairs(subject, block, clean, images, pairs, output, advance)
        else:
            responses = probe_groups(
                subject, block, clean, images, pairs, _bins(subject), output, advance
            )
        responses = responses.reshape(len(RESPONSES), n_images, len(units))
        require_finite(responses.transpose(0, 1), subject, shard.rows, " with waves removed")
        found = responses.double().cpu().numpy()
        return {
            "n_images": np.array([n_images]),
            "sums": found.sum(axis=1),
            "squares": np.square(found).sum(axis=1),
        }


def _bins(subject: Subject) -> Any:
    units, grid, device = subject.outline.units, subject.grid, subject.classifier.device

    def bins_of(chosen: torch.Tensor) -> torch.Tensor:
        return half_plane_mask(grid, units.chosen(chosen.cpu().numpy())).to(device)

    return bins_of


def n_search(outline: Outline, class_index: int) -> int:
    """Search images of a class."""
    start, stop = outline.search_rows[class_index]
    return stop - start


def n_parts(outline: Outline, class_index: int) -> int:
    """Parts that a class's images are dealt into: even, so that halves can be told apart."""
    most = _PARTS if outline.units.n_units <= _LARGE_MAP else _PARTS_OF_LARGE_MAPS
    n_images = n_search(outline, class_index)
    return min(most, n_images - n_images % 2)


def part_rows(outline: Outline, class_index: int, part: int) -> tuple[int, int]:
    """Rows of one part; images were drawn in random order, so that consecutive ones are a sample."""
    start, stop = outline.search_rows[class_index]
    n = n_parts(outline, class_index)
    first, last = (start + (stop - start) * k // n for k in (part, part + 1))
    return first, last


def _cut(rows: tuple[int, int], most: int) -> Iterator[tuple[int, int]]:
    for row in range(rows[0], rows[1], most):
        yield row, min(row + most, rows[1])


def _gradient_shards(outline: Outline, allowance: Allowance) -> list[Shard]:
    """First order on every image; a shard lies within one part, which its totals belong to."""
    image = outline.n_channels * outline.grid.height * outline.grid.width
    per_image = first_order_passes(allowance.logits)
    most = max(1, min(FLOATS_PER_BLOCK // image, PASSES_PER_SHARD // per_image))
    work = Work("first order", {"logits": np.array([allowance.logits])})
    return [
        Shard(
            measure=MEASURE,
            split="search",
            class_index=index,
            rows=rows,
            orbits=(0, outline.units.n_units),
            n_passes=per_image * (rows[1] - rows[0]),
            n_backward=allowance.logits * (rows[1] - rows[0]),
            work=work,
        )
        for index in outline.searched
        for part in range(n_parts(outline, index))
        for rows in _cut(part_rows(outline, index, part), most)
    ]


def _probe_shards(outline: Outline, class_index: int, part: int, units: IntArray) -> list[Shard]:
    image = outline.n_channels * outline.grid.height * outline.grid.width
    most = max(1, min(FLOATS_PER_BLOCK // image, PASSES_PER_SHARD // len(units)))
    work = Work("probes", {"units": np.sort(units)})
    return [
        Shard(
            measure=MEASURE,
            split="search",
            class_index=class_index,
            rows=rows,
            orbits=(0, outline.units.n_units),
            n_passes=(len(units) + 1) * (rows[1] - rows[0]),
            work=work,
        )
        for rows in _cut(part_rows(outline, class_index, part), most)
    ]


def _features(outline: Outline, class_index: int, first: Done) -> FloatArray:
    """Sums of first-order features over each part, (n_parts, N_FEATURES, n_units)."""
    n = n_parts(outline, class_index)
    sums = np.zeros((n, N_FEATURES, outline.units.n_units))
    for shard, total in first.of(class_index):
        sums[_part_of(outline, class_index, shard)] += total["features"]
    return sums


def _part_of(outline: Outline, class_index: int, shard: Shard) -> int:
    n = n_parts(outline, class_index)
    stops = [part_rows(outline, class_index, part)[1] for part in range(n)]
    return int(np.searchsorted(stops, shard.rows[0], side="right"))


def _n_by_part(outline: Outline, class_index: int) -> IntArray:
    rows = [part_rows(outline, class_index, p) for p in range(n_parts(outline, class_index))]
    return np.array([stop - start for start, stop in rows])


def _n_top(outline: Outline) -> int:
    """Units of the top share, as if all were equal in size."""
    n_rankable = int(_rankable(outline).sum())
    return max(1, int(outline.settings.kept_share * n_rankable))


def _rankable(outline: Outline) -> BoolArray:
    rankable = np.ones(outline.units.n_units, dtype=np.bool_)
    rankable[0] = outline.settings.dc == "rank"
    return rankable


def _started(outline: Outline, class_index: int, allowance: Allowance, first: Done) -> _Race:
    """A class with its sample drawn; the seed is the audit's, and the class's own."""
    n_images = n_search(outline, class_index)
    size = np.sqrt(_features(outline, class_index, first)[:, _SQUARED].sum(axis=0) / n_images)
    name = f"{outline.settings.seed} screened {class_index}"
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)
    rankable = _rankable(outline)
    probes = _SAMPLE_SHARE * allowance.for_probes * n_images
    n_per_part = _n_by_part(outline, class_index)
    n_sampled = int(np.clip(rankable.sum() // 10, _FEWEST_SAMPLED, _MOST_SAMPLED))
    # With a small budget the sample shrinks, down to what two parts of the images pay for.
    n_sampled = min(n_sampled, max(4, int(probes / max(n_per_part[:2].sum(), 1))), int(rankable.sum()))
    sample, stands_for = stratified_sample(
        _per_unit(outline, size), rankable, _n_top(outline), n_sampled, np.random.default_rng(seed)
    )
    parts = int(np.count_nonzero(np.cumsum(n_per_part) * len(sample) <= probes))
    parts = min(max(parts, min(2, len(n_per_part))), len(n_per_part))
    return _Race(
        class_index=class_index,
        n_images=n_images,
        sample=sample,
        stands_for=stands_for,
        sample_parts=parts,
        parts_run=np.zeros(outline.units.n_units, dtype=np.int64),
        spent=int(n_per_part[:parts].sum()) * (len(sample) + 1),
    )


def _per_unit(outline: Outline, values: FloatArray) -> FloatArray:
    """What units are compared by: per orbit, so that a large one does not win by its size."""
    compared: FloatArray = values / outline.units.n_orbits_of_unit
    return compared


def _sample_shards(outline: Outline, race: _Race) -> list[Shard]:
    return [
        shard
        for part in range(race.sample_parts)
        for shard in _probe_shards(outline, race.class_index, part, race.sample)
    ]


def _probed(outline: Outline, race: _Race, response: int, *, blind: bool) -> list[Probed]:
    """Probes of every unit, part by part, as sums (Probed holds a part's own n, mean and scatter).

    `blind`: as if sampled units had been probed only where they ran.
    """
    n = n_parts(outline, race.class_index)
    shape = (n, outline.units.n_units)
    count, sums, squares = (np.zeros(shape) for _ in range(3))
    for done in race.probes:
        for shard, total in done.of(race.class_index):
            assert shard.work is not None
            part, units = _part_of(outline, race.class_index, shard), shard.work.arrays["units"]
            count[part, units] += total["n_images"][0]
            sums[part, units] += total["sums"][response]
            squares[part, units] += total["squares"][response]
    if blind:
        ran = np.arange(n)[:, None] < race.parts_run
        count, sums, squares = (np.where(ran, each, 0.0) for each in (count, sums, squares))
    return [Probed.of_sums(*each) for each in zip(count, sums, squares, strict=True)]


def _together(parts: Sequence[Probed]) -> Probed:
    """Probes of several parts as one."""
    n = np.sum([part.n for part in parts], axis=0)
    sums = np.sum([part.n * part.mean for part in parts], axis=0)
    squares = np.sum([part.scatter + part.n * part.mean**2 for part in parts], axis=0)
    return Probed.of_sums(n, sums, squares)


@dataclass(frozen=True)
class _Calibrated:
    """A class's guess under one response, and what the sample says apart from its own probes."""

    guess: Guess
    apart: FloatArray


def _guess(
    outline: Outline,
    race: _Race,
    features: FloatArray,
    by_part: Sequence[Probed],
    response: int,
    parts: IntArray | None = None,
) -> _Calibrated:
    """The calibrated guess under `response`, from the images of `parts`; all of them by default."""
    n_by_part = _n_by_part(outline, race.class_index)
    where = np.arange(len(n_by_part)) if parts is None else parts
    mean = features[where].sum(axis=0) / n_by_part[where].sum()
    columns = design(mean[[response, _SQUARED, N_FEATURES - 1]])
    # What errors grow with: the size of the logit change, in the response's own unit.
    size = mean[_SQUARED] if response == _SQUARED else np.sqrt(mean[_SQUARED])
    guess, apart = calibrated(columns, size, race.sample, _together(by_part[: race.sample_parts]))
    return _Calibrated(guess, apart)


def _ranking_guess(outline: Outline, race: _Race, first: Done) -> _Calibrated:
    """The guess under the response that ranks, which races go by."""
    chosen = RESPONSES.index(outline.settings.response)
    features = _features(outline, race.class_index, first)
    return _guess(outline, race, features, _probed(outline, race, chosen, blind=False), chosen)


def _next_shards(
    outline: Outline, allowance: Allowance, race: _Race, calibrated_guess: _Calibrated
) -> list[Shard]:
    """Another part of the images for the units still racing, as far as the budget goes."""
    chosen = RESPONSES.index(outline.settings.response)
    probed = _together(_probed(outline, race, chosen, blind=True))
    mean, deviation = weighed(calibrated_guess.guess, probed, race.n_images)
    running = undecided(
        _per_unit(outline, mean),
        _per_unit(outline, deviation),
        _rankable(outline),
        _n_top(outline),
        outline.settings.confidence,
    )
    race.left_undecided = len(running)
    n_by_part = _n_by_part(outline, race.class_index)
    total = allowance.for_probes * race.n_images
    left = total - race.spent
    most = max(_SHARE_OF_A_ROUND * total, float(_FEWEST_RACING * n_by_part.max()))
    by_part: dict[int, list[int]] = {}
    known, cost, known_parts = set(race.sample.tolist()), 0, race.sample_parts
    for unit in running.tolist():
        part = int(race.parts_run[unit])
        # The sample was probed there already; running over it again costs nothing.
        while unit in known and part < known_parts:
            part += 1
        if part >= len(n_by_part):
            race.parts_run[unit] = part
            continue
        extra = int(n_by_part[part]) * (1 if part in by_part else 2)
        if cost + extra > min(left, most):
            break
        cost += extra
        by_part.setdefault(part, []).append(unit)
        race.parts_run[unit] = part + 1
    race.spent += cost
    return [
        shard
        for part, units in sorted(by_part.items())
        for shard in _probe_shards(outline, race.class_index, part, np.array(units))
    ]


def _outcome(
    outline: Outline, allowance: Allowance, races: Sequence[_Race], first: Done
) -> SearchOutcome:
    budget = outline.settings.budget
    n_undecided = sum(race.left_undecided for race in races)
    return SearchOutcome(
        by_class=[_class_map(outline, race, first) for race in races],
        settings={
            "passes_per_image": round(allowance.passes, 1),
            "logits": allowance.logits,
            "confidence": outline.settings.confidence,
            "sampled_units_by_class": [len(race.sample) for race in races],
            "undecided_units_by_class": [race.left_undecided for race in races],
        },
        stopped=(
            f"the budget of {budget} ended it with {n_undecided:,} {outline.units.kind} undecided"
            if budget is not None and n_undecided
            else ""
        ),
    )


def _class_map(outline: Outline, race: _Race, first: Done) -> ClassSearch:
    """What is known of a class now; before its sample is probed, plain first order."""
    features = _features(outline, race.class_index, first)
    n_by_part = _n_by_part(outline, race.class_index)
    halves = list(_halves(len(n_by_part)))
    mean = np.zeros((len(RESPONSES), outline.units.n_units))
    split = np.zeros((len(RESPONSES), len(halves), 2, outline.units.n_units))
    deviation = np.zeros_like(mean)
    fidelity: Fidelity | None = None
    probed_on = np.zeros(outline.units.n_units)
    for response in range(len(RESPONSES)):
        if not race.probes:
            mean[response] = features[:, response].sum(axis=0) / race.n_images
            for number, half in enumerate(halves):
                for side, parts in enumerate(half):
                    split[response, number, side] = (
                        features[parts, response].sum(axis=0) / n_by_part[parts].sum()
                    )
            continue
        by_part = _probed(outline, race, response, blind=False)
        told = _guess(outline, race, features, by_part, response)
        together = _together(by_part)
        probed_on = together.n
        mean[response], deviation[response] = weighed(told.guess, together, race.n_images)
        for number, half in enumerate(halves):
            for side, parts in enumerate(half):
                guess = _guess(outline, race, features, by_part, response, parts).guess
                own = _together([by_part[part] for part in parts])
                split[response, number, side] = weighed(guess, own, int(n_by_part[parts].sum()))[0]
        if RESPONSES[response] == outline.settings.response:
            fidelity = _fidelity(outline, race, told, by_part)
    return screened_map(
        outline, race.class_index, mean, deviation, split, race.n_images, fidelity, probed_on
    )


def _halves(n: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Ways of halving the parts in which neighbours part, so that short races count on both sides."""
    parts = np.arange(n)
    for shift in (np.zeros_like(parts), parts // 2, parts // 4, parts // 2 + parts // 4):
        left = (parts + shift) % 2 == 0
        if 2 * left.sum() == n:
            yield parts[left], parts[~left]


def _fidelity(outline: Outline, race: _Race, told: _Calibrated, by_part: Sequence[Probed]) -> Fidelity:
    """The sample's exact importance, against what the search makes of it without those probes."""
    exact = _together(by_part[: race.sample_parts])
    chosen = RESPONSES.index(outline.settings.response)
    blind = _together(_probed(outline, race, chosen, blind=True))
    guess = Guess(told.guess.mean.copy(), told.guess.deviation, told.guess.spread)
    guess.mean[race.sample] = told.apart
    mean = _per_unit(outline, weighed(guess, blind, race.n_images)[0])
    rankable = _rankable(outline)
    ranked = np.sort(mean[rankable])[::-1]
    border = ranked[_n_top(outline) - 1]
    return fidelity_of(
        told=mean[race.sample],
        exact=_per_unit(outline, exact.mean)[race.sample],
        stands_for=race.stands_for,
        in_map=mean[race.sample] >= border,
        share=_n_top(outline) / int(rankable.sum()),
        n_images=int(exact.n[race.sample].max()),
    )
