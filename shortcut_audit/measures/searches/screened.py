"""The screened search: first order for all orbits at once, then exact probes where it is close.

Four steps a class. Gradients of the logits on all search images give every orbit's first-order importance
(`first_order`). A random sample of orbits is probed exactly, which calibrates the guess and measures how
far the finished map is from an exact one. Orbits not surely in or out of the top share race: more images
for them, round by round (`races`). What was never probed keeps its guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.masks import BoolArray, half_plane_mask
from shortcut_audit.measures.interface import (
    Advance,
    Block,
    Done,
    Outline,
    Round,
    Rounds,
    Shard,
    Subject,
    Totals,
    logits_in_batches,
    require_finite,
)
from shortcut_audit.measures.probing import probe_groups, probe_pairs
from shortcut_audit.measures.searches.allowance import Allowance, n_search_in_all
from shortcut_audit.measures.searches.first_order import (
    N_FEATURES,
    first_order,
)
from shortcut_audit.measures.searches.folds import screened_map
from shortcut_audit.measures.searches.interface import ClassSearch, SearchOutcome
from shortcut_audit.measures.searches.parts import (
    Probes,
    features_of,
    gradient_shards,
    halves_of_parts,
    n_by_part,
    n_search,
    probe_shards,
    sums_by_part,
)
from shortcut_audit.measures.searches.races import (
    Guess,
    Probed,
    calibrated,
    design,
    fidelity_of,
    followed,
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
# Share of the probes that calibrate, and bounds on how many orbits they go to.
_SAMPLE_SHARE, _FEWEST_SAMPLED, _MOST_SAMPLED = 0.2, 48, 100
# A round spends at most this share of what was left for races at the start; and probes no fewer orbits
# of a part than this, because each visit takes a clean pass too.
_SHARE_OF_A_ROUND, _FEWEST_RACING = 0.2, 8
# Logits that move less, at most and to first order, move by the rounding of single precision alone.
_DUST = 1e-5
# Fewer orbits than this do not calibrate.
_LEAST_SAMPLED = 4
# A map so far is made whenever this much more was probed: it costs as much as hundreds of probes.
_BETWEEN_MAPS = 1.5


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
    probes: Probes = field(default_factory=Probes)


@dataclass(frozen=True)
class ScreenedSearch:
    """First-order screening, calibrated by exact probes, then races over the orbits that are close."""

    name: SearchName = "screened"
    revision: int = 2

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        return {
            "domain": settings.domain,
            "clip": settings.clip,
            "resolution": "orbits" if settings.resolution == "auto" else settings.resolution,
        }

    def planned_passes(self, outline: Outline) -> int:
        return round(Allowance.of(outline).passes * n_search_in_all(outline))

    def rounds(self, outline: Outline) -> Rounds[SearchOutcome]:
        allowance, settings = Allowance.of(outline), outline.settings
        for index in outline.searched:
            if n_search(outline, index) < 2:
                raise SettingsError(
                    "A class has less than two search images, of which nothing can be said.",
                    "Raise --images-per-class or --search-share.",
                )
        planned = self.planned_passes(outline)
        shards = gradient_shards(outline, allowance.logits)
        n_first = sum(shard.n_passes for shard in shards)
        first = yield Round(shards, n_passes_after=planned - n_first)
        if settings.budget is not None and settings.budget.seconds is not None:
            allowance = allowance.at_pace(first.n_passes / max(first.seconds, 1e-9), outline)
            planned = round(allowance.passes * n_search_in_all(outline))
        races = [_started(outline, index, allowance, first) for index in outline.searched]
        guesses: dict[int, _Calibrated] = {}
        asked = [shard for race in races for shard in _sample_shards(outline, race)]
        n_done, n_shown = n_first, 0.0
        while asked:
            show = n_done >= _BETWEEN_MAPS * n_shown
            n_shown = n_done if show else n_shown
            n_done += sum(shard.n_passes for shard in asked)
            sent = yield Round(
                asked,
                n_passes_after=max(planned - n_done, 0),
                so_far=(lambda: _outcome(outline, allowance, races, first)) if show else None,
            )
            for race in races:
                race.probes.add(outline, race.class_index, sent)
                if race.class_index not in guesses:
                    guesses[race.class_index] = _ranking_guess(outline, race, first)
            asked = [
                shard
                for race in races
                for shard in _next_shards(outline, allowance, race, guesses[race.class_index])
            ]
        return _outcome(outline, allowance, races, first)

    def run(self, shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
        assert shard.work is not None
        output = subject.output_of(shard.class_index)
        if shard.work.kind == "first order":
            logits = int(shard.work.arrays["logits"][0])
            features = first_order(subject, block, output, logits, advance)
            parts, _, sums = sums_by_part(subject.outline, shard, features)
            return {"part": parts, "features": sums.astype(np.float32)}
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
        responses = responses.double()
        parts, counts, sums = sums_by_part(subject.outline, shard, responses)
        squares = sums_by_part(subject.outline, shard, responses.square())[2]
        return {"part": parts, "n_images": counts, "sums": sums, "squares": squares}


def _bins(subject: Subject) -> Any:
    units, grid, device = subject.outline.units, subject.grid, subject.classifier.device

    def bins_of(chosen: torch.Tensor) -> torch.Tensor:
        return half_plane_mask(grid, units.chosen(chosen.cpu().numpy())).to(device)

    return bins_of


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
    size = np.sqrt(features_of(outline, class_index, first)[:, _SQUARED].sum(axis=0) / n_images)
    name = f"{outline.settings.seed} screened {class_index}"
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)
    rankable = _rankable(outline)
    probes = _SAMPLE_SHARE * allowance.for_probes * n_images
    n_per_part = n_by_part(outline, class_index)
    n_sampled = int(np.clip(rankable.sum() // 10, _FEWEST_SAMPLED, _MOST_SAMPLED))
    # With a small budget the sample shrinks, down to what two parts of the images pay for.
    n_sampled = min(
        n_sampled, max(_LEAST_SAMPLED, int(probes / max(n_per_part[:2].sum(), 1))), int(rankable.sum())
    )
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
    return probe_shards(outline, race.class_index, (0, race.sample_parts), race.sample)


@dataclass(frozen=True)
class _Calibrated:
    """A class's guess under one response, and what the sample says apart from its own probes."""

    guess: Guess
    apart: FloatArray
    # The latter of the images that the sample was probed on.
    there: FloatArray
    # What carries exact responses of a part's images to all of them, (n_parts, n_units), and how well.
    correction: FloatArray
    slope: float
    open_share: float


def _guess(
    outline: Outline,
    race: _Race,
    features: FloatArray,
    response: int,
    parts: IntArray | None = None,
    whole_guess: _Calibrated | None = None,
) -> _Calibrated:
    """The calibrated guess under `response`, from the images of `parts`; all of them by default.

    `whole_guess`: the one of all images, which knows best how responses follow guesses.
    """
    in_part = n_by_part(outline, race.class_index)
    where = np.arange(len(in_part)) if parts is None else parts
    mean = features[where].sum(axis=0) / in_part[where].sum()
    sampled = np.intersect1d(where, np.arange(race.sample_parts))
    there = features[sampled].sum(axis=0) / in_part[sampled].sum()
    rows = [response, _SQUARED, N_FEATURES - 1]
    columns, paired = design(mean[rows]), design(there[rows], like=mean[rows])
    # What errors grow with: the size of the logit change, in the response's own unit.
    size = mean[_SQUARED] if response == _SQUARED else np.sqrt(mean[_SQUARED])
    own = race.probes.together(outline.units.n_units, response, sampled)
    whole = own
    if parts is not None:
        whole = race.probes.together(outline.units.n_units, response, np.arange(race.sample_parts))
    guess, apart, there_too = calibrated(columns, size, race.sample, own, paired, whole)
    by_part = np.stack(
        [design(features[p][rows] / in_part[p], like=mean[rows]) @ guess.fit for p in where]
    )
    if whole_guess is None:
        told = by_part[np.searchsorted(where, sampled)][:, race.sample]
        n_units = outline.units.n_units
        found = [race.probes.together(n_units, response, sampled[k : k + 1]) for k in range(len(sampled))]
        means = np.stack([each.mean[race.sample] for each in found])
        slope, open_share = followed(told, means, guess.spread[race.sample])
    else:
        slope, open_share = whole_guess.slope, whole_guess.open_share
    correction = np.zeros((len(in_part), by_part.shape[1]))
    correction[where] = slope * (np.average(by_part, axis=0, weights=in_part[where]) - by_part)
    guess = replace(guess, spread=guess.spread * np.sqrt(open_share))
    return _Calibrated(guess, apart, there_too, correction, slope, open_share)


def _probed(
    outline: Outline,
    race: _Race,
    told: _Calibrated,
    response: int,
    parts: IntArray | None = None,
    *,
    in_races: bool = False,
) -> Probed:
    """Exact probes of each unit, carried to all images by what first order says of the difference.

    `in_races`: only as far as units ran in races.
    """
    return race.probes.together(
        outline.units.n_units,
        response,
        parts,
        race.parts_run if in_races else None,
        told.correction,
        told.open_share,
    )


def _ranking_guess(outline: Outline, race: _Race, first: Done) -> _Calibrated:
    """The guess under the response that ranks, which races go by."""
    chosen = RESPONSES.index(outline.settings.response)
    features = features_of(outline, race.class_index, first)
    return _guess(outline, race, features, chosen)


def _next_shards(
    outline: Outline, allowance: Allowance, race: _Race, calibrated_guess: _Calibrated
) -> list[Shard]:
    """Another part of the images for the units still racing, as far as the budget goes."""
    chosen = RESPONSES.index(outline.settings.response)
    probed = _probed(outline, race, calibrated_guess, chosen, in_races=True)
    mean, deviation = weighed(calibrated_guess.guess, probed, race.n_images)
    running = undecided(
        _per_unit(outline, mean),
        _per_unit(outline, deviation),
        _rankable(outline),
        _n_top(outline),
        outline.settings.confidence,
    )
    race.left_undecided = len(running)
    in_part = n_by_part(outline, race.class_index)
    total = allowance.for_probes * race.n_images
    left = total - race.spent
    most = max(_SHARE_OF_A_ROUND * total, float(_FEWEST_RACING * in_part.max()))
    asked: dict[tuple[int, int], list[int]] = {}
    known, cost = set(race.sample.tolist()), 0
    for unit in running.tolist():
        first = int(race.parts_run[unit])
        # The sample was probed there already; running over it again costs nothing.
        if unit in known:
            first = max(first, race.sample_parts)
        if first >= len(in_part):
            race.parts_run[unit] = first
            continue
        # The longer the race so far, the longer the next stretch: few rounds, of large batches.
        whole = min(first + max(1, first // 2), len(in_part))
        for last in dict.fromkeys((whole, first + 1)):
            extra = int(in_part[first:last].sum()) * (1 if (first, last) in asked else 2)
            if cost + extra <= min(left, most):
                break
        else:
            break
        cost += extra
        asked.setdefault((first, last), []).append(unit)
        race.parts_run[unit] = last
    race.spent += cost
    return [
        shard
        for parts, units in sorted(asked.items())
        for shard in probe_shards(outline, race.class_index, parts, np.array(units))
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
    features = features_of(outline, race.class_index, first)
    in_part = n_by_part(outline, race.class_index)
    halves = list(halves_of_parts(len(in_part)))
    mean = np.zeros((len(RESPONSES), outline.units.n_units))
    split = np.zeros((len(RESPONSES), len(halves), 2, outline.units.n_units))
    deviation = np.zeros_like(mean)
    fidelity: Fidelity | None = None
    probed_on = np.zeros(outline.units.n_units)
    rankable = _rankable(outline)
    moved = features[:, _SQUARED].sum(axis=0)[rankable].max(initial=0.0) / race.n_images
    for response in range(len(RESPONSES)):
        if np.sqrt(moved) < _DUST:
            # Constant images, or a network that looks at none of their waves: rounding is no map.
            fidelity = _not_measured("removing any orbit changes nothing", race)
            continue
        if not race.probes.of_parts:
            mean[response] = features[:, response].sum(axis=0) / race.n_images
            for number, half in enumerate(halves):
                for side, parts in enumerate(half):
                    split[response, number, side] = (
                        features[parts, response].sum(axis=0) / in_part[parts].sum()
                    )
            continue
        told = _guess(outline, race, features, response)
        together = _probed(outline, race, told, response)
        probed_on = together.n
        mean[response], deviation[response] = weighed(told.guess, together, race.n_images)
        if not rankable[0]:
            # DC is probed only where it ranks; calibrated on waves, its guess would be far off.
            mean[response, 0] = features[:, response, 0].sum() / race.n_images
        for number, half in enumerate(halves):
            for side, parts in enumerate(half):
                half_told = _guess(outline, race, features, response, parts, told)
                own = _probed(outline, race, half_told, response, parts)
                n_own = int(in_part[parts].sum())
                split[response, number, side] = weighed(half_told.guess, own, n_own)[0]
        if RESPONSES[response] == outline.settings.response:
            fidelity = _fidelity(outline, race, told)
    return screened_map(
        outline, race.class_index, mean, deviation, split, race.n_images, fidelity, probed_on
    )


def _not_measured(reason: str, race: _Race) -> Fidelity:
    return Fidelity(
        rank_correlation=None,
        overlap=None,
        loss_mass=None,
        n_orbits=len(race.sample),
        n_images=race.n_images,
        reason=reason,
    )


def _fidelity(outline: Outline, race: _Race, told: _Calibrated) -> Fidelity:
    """The sample's exact importance, against what the search makes of it without those probes.

    Leaders, which stand for themselves alone, are always probed: the map may have what it has of them.
    """
    n_units, sample = outline.units.n_units, race.sample
    chosen = RESPONSES.index(outline.settings.response)
    sampled = np.arange(race.sample_parts)
    there = race.probes.together(n_units, chosen, sampled)
    exact = _probed(outline, race, told, chosen, sampled)
    blind = _probed(outline, race, told, chosen, in_races=True)
    guess = replace(told.guess, mean=told.guess.mean.copy())
    guess.mean[sample] = told.apart
    mean = weighed(guess, blind, race.n_images)[0]
    leaders = sample[race.stands_for == 1]
    mean[leaders] = weighed(told.guess, _probed(outline, race, told, chosen), race.n_images)[0][leaders]
    mean = _per_unit(outline, mean)
    rankable = _rankable(outline)
    border = np.sort(mean[rankable])[::-1][_n_top(outline) - 1]
    return fidelity_of(
        told=mean[sample],
        told_there=told.there / outline.units.n_orbits_of_unit[sample],
        exact_there=_per_unit(outline, there.mean)[sample],
        exact=_per_unit(outline, exact.mean)[sample],
        stands_for=race.stands_for,
        border=float(border),
        n_images=int(n_by_part(outline, race.class_index)[: race.sample_parts].sum()),
    )
