"""Transfer: what becomes of each class, and of its shortcut, on images of other sets.

Maps, ladders and verdicts are those of the audit; nothing is searched or decided anew. Images of another
set are put on trial as judgement images are, with donors from the audit's own images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.masks import found_share
from shortcut_audit.measures.cases import ladder_of, run_trials
from shortcut_audit.measures.energies import ENERGY, energies_of, run_energy
from shortcut_audit.measures.interface import (
    Advance,
    Arrays,
    Block,
    Done,
    Outline,
    Round,
    Rounds,
    Shard,
    Split,
    Subject,
    Totals,
    Work,
    blocks_between,
    image_shards,
    logits_in_batches,
    require_finite,
)
from shortcut_audit.measures.outcomes import NAME as OUTCOMES
from shortcut_audit.measures.outcomes import image_numbers
from shortcut_audit.measures.transfer_bands import BAND_NAMES, BandSums, run_bands
from shortcut_audit.measures.transfer_cases import TransferCase, case_of
from shortcut_audit.measures.transfer_effects import ClassOutcomes, Parts, set_transfer
from shortcut_audit.measures.trials import Partners, Trial
from shortcut_audit.results.findings import Finding
from shortcut_audit.results.transfer_findings import TransferFinding

__all__ = ["Transfer"]

ANSWERS, TRIALS, BANDS = "answers", "trials", "bands"
# What is tried, and on which images: the class's own there, with orbits of others or without; with the
# map alone; with the orbits of the audit's images; other images there with these; own images at home
# with the map alone; own images there with all waves of the shortcut's radii of others, or without; with
# those of other images of the class.
Part = Literal["own", "map", "restored", "others", "map at home", "wide", "wide of its own"]
_PARTS: tuple[Part, ...] = get_args(Part)
# Random draws of transfer are apart from those of verdicts, and the same in every set: the place of a set
# among others is no part of its numbers, and copies of one set under two names have the same partners.
_DRAW = 1000


@dataclass(frozen=True)
class _Wanted:
    """Trials of a class on one block of donors: `rows` of donors, dealt to `partners` in order."""

    set_index: int
    part: Part
    rows: tuple[int, int]
    partners: Partners
    ranks: NDArray[np.int32]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Transfer:
    """Recall, map and shortcut of every class on every other set, in one round of trials; before it,
    one without a pass, for what is light."""

    name: str = "transfer"
    revision: int = 3
    split: Split = "judge"

    def relevant_to(self, outline: Outline) -> dict[str, Any]:
        settings = outline.settings
        return {
            "domain": settings.domain,
            "clip": settings.clip,
            "dc": settings.dc,
            "seed": settings.seed,
        }

    def planned_passes(self, outline: Outline) -> int:
        """Passes where every class has a whole ladder and every null."""
        n_rungs = len(ladder_of(outline.grid.n_orbits - 1))
        total = sum(stop - start for start, stop in outline.judge_rows)
        for set_index, rows_by_class in enumerate(outline.shifted_rows):
            sizes = [stop - start for start, stop in rows_by_class]
            # Of copies, band by band.
            total += (1 + (len(BAND_NAMES) if outline.shifted_copies[set_index] else 0)) * sum(sizes)
            for index in outline.searched:
                start, stop = outline.judge_rows[index]
                own, donors = sizes[index], stop - start
                if not own:
                    continue
                total += (3 + 2 + 3) * own + 2 * min(own, donors) + donors
                total += (n_rungs + 3) * min(donors, sum(sizes) - own)
        return total

    def rounds(
        self, outline: Outline, images: AuditImages, found: Arrays
    ) -> Rounds[tuple[Finding, Arrays]]:
        energy = image_shards(self.name, outline, "search", 0)
        done = yield Round([replace(shard, work=Work(ENERGY, {})) for shard in energy])
        energies = energies_of(outline, (pair for n in range(outline.n_classes) for pair in done.of(n)))
        cases = [case_of(outline, found, column, energies) for column in range(len(outline.searched))]
        answers, bands = self._answers(outline), self._bands(outline, images)
        trials: list[Shard] = []
        wanted = {
            (set_index, case.column): _wanted_of(outline, images, case, set_index)
            for set_index in range(len(outline.shifted_rows))
            for case in cases
        }
        for (_, column), asked in wanted.items():
            for each in asked:
                trials += self._shards(outline, images, cases[column], each)
        # Each as it is first: an image that breaks the model is to be named, and not its donor.
        shards = [*answers, *sorted([*bands, *trials], key=lambda shard: shard.rows)]
        done = yield Round(shards)
        predicted = _predicted(outline, images, done)
        arrays: Arrays = {}
        by_set = []
        for set_index in range(len(outline.shifted_rows)):
            outcomes = [
                _outcomes(
                    outline, images, case, wanted[set_index, case.column], predicted, done, set_index
                )
                for case in cases
                if wanted[set_index, case.column]
            ]
            sums = _bands_of(outline, images, done, set_index)
            by_set.append(set_transfer(outline, images, set_index, predicted, outcomes, sums))
            arrays |= _outcomes_of_images(images, set_index, predicted)
        return TransferFinding(by_set=tuple(by_set)), arrays

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        assert shard.work is not None
        if shard.work.kind == TRIALS:
            return run_trials(shard, subject, block, advance)
        if shard.work.kind == BANDS:
            return run_bands(shard, subject, block, advance)
        if shard.work.kind == ENERGY:
            return run_energy(subject, block)
        logits = logits_in_batches(subject, block.images, advance)
        require_finite(logits, subject, shard.rows, "")
        return {"predicted": logits.argmax(dim=1).cpu().numpy().astype(np.int32)}

    def _answers(self, outline: Outline) -> list[Shard]:
        """One pass for every judgement image and every image of the other sets."""
        work = Work(ANSWERS, {})
        return [
            self._shard(outline, class_index, rows, 1, work)
            for rows_by_class in (outline.judge_rows, *outline.shifted_rows)
            for class_index, all_rows in enumerate(rows_by_class)
            for rows in blocks_between(outline, "judge", all_rows)
        ]

    def _bands(self, outline: Outline, images: AuditImages) -> list[Shard]:
        """Spectra of judgement images and of the other sets; of copies, each band put back as well."""
        shards = []
        everything = [(-1, outline.judge_rows), *enumerate(outline.shifted_rows)]
        for set_index, rows_by_class in everything:
            copies = images.shifted[set_index].counterparts if set_index >= 0 else None
            first = rows_by_class[0][0]
            for class_index, all_rows in enumerate(rows_by_class):
                for rows in blocks_between(outline, "judge", all_rows):
                    arrays = {"set": np.array([set_index])}
                    if copies is not None:
                        arrays["copies"] = copies[rows[0] - first : rows[1] - first]
                        digests = [images.store.digests[row] for row in arrays["copies"].tolist()]
                        arrays["digests"] = np.array(digests, dtype="S32")
                    n_passes = len(BAND_NAMES) if copies is not None else 0
                    shards.append(self._shard(outline, class_index, rows, n_passes, Work(BANDS, arrays)))
        return shards

    def _shard(
        self, outline: Outline, class_index: int, rows: tuple[int, int], n_passes: int, work: Work
    ) -> Shard:
        return Shard(
            measure=self.name,
            split="judge",
            class_index=class_index,
            rows=rows,
            orbits=(0, outline.grid.n_orbits),
            n_passes=n_passes * (rows[1] - rows[0]),
            work=work,
        )

    def _shards(
        self, outline: Outline, images: AuditImages, case: TransferCase, wanted: _Wanted
    ) -> list[Shard]:
        partners = wanted.partners
        digests = [images.store.digests[row] for row in (*partners.receivers, *partners.foreign)]
        work = Work(
            TRIALS,
            {
                "trials": np.array([trial.code for trial in wanted.trials], dtype=np.int64),
                "ranks": wanted.ranks,
                "receivers": partners.receivers,
                "foreign": partners.foreign,
                "digests": np.array(digests, dtype="S32"),
                "draw": np.array([_DRAW]),
                "origin": np.array([wanted.rows[0]]),
                "part": np.array([wanted.set_index, _PARTS.index(wanted.part)]),
            },
        )
        return [
            self._shard(outline, case.class_index, rows, len(wanted.trials), work)
            for rows in blocks_between(outline, "judge", wanted.rows)
        ]


def _wanted_of(
    outline: Outline, images: AuditImages, case: TransferCase, set_index: int
) -> list[_Wanted]:
    """All trials of a class on one other set; none where the set has no image of it."""
    index = case.class_index
    there, home = outline.shifted_rows[set_index], outline.judge_rows
    own, donors = there[index], home[index]
    others = [rows for k, rows in enumerate(there) if k != index and rows[0] < rows[1]]
    others_home = [rows for k, rows in enumerate(home) if k != index]
    if own[0] == own[1] or not others:
        return []
    generator = np.random.default_rng([outline.settings.seed, images.outputs[index], _DRAW])
    n_own, n_donors = own[1] - own[0], donors[1] - donors[0]
    in_place = np.arange(*own, dtype=np.int64)
    n_restored = min(n_own, n_donors)
    n_turned = min(n_donors, sum(stop - start for start, stop in others))
    removed = [case.trial("transplant foreign"), case.trial("remove")]
    nulls = [case.trial("transplant foreign"), case.trial("erase")]
    if case.choice:
        removed.append(case.trial("remove random"))
        nulls.append(case.trial("transplant random"))
    curve = [Trial("transplant", n) for n in case.rungs]
    if case.trial("transplant") not in curve:
        curve.append(case.trial("transplant"))
    n_kept = int(case.kept.max())

    def from_others(n: int, rows: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        return Partners.drawn((0, n), rows, generator).receivers

    kept = (Trial("keep", n_kept), Trial("keep foreign", n_kept))
    given, filtered = from_others(n_own, others), from_others(n_own, others)
    restored = generator.permutation(in_place)[:n_restored], from_others(n_restored, others_home)
    turned, foreign = from_others(n_turned, others), from_others(n_turned, others_home)
    return [
        _Wanted(set_index, "own", own, Partners(in_place, given), case.order, tuple(removed)),
        _Wanted(set_index, "map", own, Partners(filtered, in_place), case.kept, kept),
        _Wanted(
            set_index,
            "restored",
            (donors[0], donors[0] + n_restored),
            Partners(*restored),
            case.order,
            (case.trial("transplant"), case.trial("transplant foreign")),
        ),
        _Wanted(
            set_index,
            "others",
            (donors[0], donors[0] + n_turned),
            Partners(turned, _not_of_the_same(images, set_index, turned, foreign)),
            case.order,
            tuple(curve + nulls),
        ),
        _Wanted(
            set_index,
            "map at home",
            donors,
            Partners(np.arange(*donors, dtype=np.int64), np.arange(*donors, dtype=np.int64)),
            case.kept,
            kept[:1],
        ),
        *_wanted_of_wide(case, set_index, own, given, generator),
    ]


def _wanted_of_wide(
    case: TransferCase,
    set_index: int,
    own: tuple[int, int],
    given: NDArray[np.int64],
    generator: np.random.Generator,
) -> list[_Wanted]:
    """The same of all waves of the shortcut's radii, and with those of other images of the class; nothing
    where they are no more than the best rung."""
    n_wide = int(case.wide.max())
    if not n_wide:
        return []
    exchanged, removed = Trial("transplant foreign", n_wide), Trial("remove", n_wide)
    in_place = np.arange(*own, dtype=np.int64)
    of_its_own = Partners(in_place, _others_of_the_same(in_place, generator))
    return [
        _Wanted(set_index, "wide", own, Partners(in_place, given), case.wide, (exchanged, removed)),
        _Wanted(set_index, "wide of its own", own, of_its_own, case.wide, (exchanged,)),
    ]


def _others_of_the_same(rows: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """For each of `rows` another one of them, each once; a single one has only itself."""
    order = generator.permutation(len(rows))
    donors = np.empty_like(rows)
    donors[order] = rows[np.roll(order, 1)]
    return donors


def _not_of_the_same(
    images: AuditImages, set_index: int, receivers: NDArray[np.int64], foreign: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`foreign` rows at home, none of which is the image that its receiver is a copy of.

    An image that is given its own orbits back is no null.
    """
    there = images.shifted[set_index]
    if there.counterparts is None:
        return foreign
    copied, foreign = there.counterparts[receivers - there.rows[0][0]], foreign.copy()
    for _ in range(len(foreign)):
        same = np.flatnonzero(copied == foreign)
        if not len(same):
            break
        foreign[same] = np.roll(foreign, 1)[same]
    return foreign


def _bands_of(outline: Outline, images: AuditImages, done: Done, set_index: int) -> dict[int, BandSums]:
    """Band by band, what the images of each class hold at home and there."""
    found = {}
    copied = images.shifted[set_index].counterparts is not None
    for index, rows in enumerate(outline.shifted_rows[set_index]):
        if rows[0] == rows[1]:
            continue
        sums = BandSums.empty(len(BAND_NAMES), rows[1] - rows[0], rows[0])
        for shard, total in done.of(index):
            if shard.work is None or shard.work.kind != BANDS:
                continue
            of_set = int(shard.work.arrays["set"][0])
            if of_set == set_index:
                sums.take(shard.rows, total)
            elif of_set == -1 and not copied:
                sums.take_home(shard.rows, total)
        found[index] = sums
    return found


def _predicted(outline: Outline, images: AuditImages, done: Done) -> NDArray[np.int32]:
    """The output that each image is called by, by row; -1 of search images."""
    predicted = np.full(len(images.store), -1, dtype=np.int32)
    for index in range(outline.n_classes):
        for shard, total in done.of(index):
            if shard.work is not None and shard.work.kind == ANSWERS:
                predicted[slice(*shard.rows)] = total["predicted"]
    return predicted


def _outcomes_of_images(images: AuditImages, set_index: int, predicted: NDArray[np.int32]) -> Arrays:
    """Every image of a set used, class by class, with what it is called."""
    rows = images.shifted[set_index].rows
    start, stop = rows[0][0], rows[-1][1]
    sizes = [last - first for first, last in rows]
    name = f"{OUTCOMES}/shifted/{set_index}"
    return {
        f"{name}/image": image_numbers(images.store.digests[start:stop]),
        f"{name}/class": np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        f"{name}/predicted": predicted[start:stop],
    }


def _outcomes(
    outline: Outline,
    images: AuditImages,
    case: TransferCase,
    wanted: Sequence[_Wanted],
    predicted: NDArray[np.int32],
    done: Done,
    set_index: int,
) -> ClassOutcomes:
    """Whether each image was called by the class, trial by trial, and by which images it went."""
    parts: dict[Part, dict[Trial, list[NDArray[np.bool_]]]] = {each.part: {} for each in wanted}
    for shard, total in done.of(case.class_index):
        assert shard.work is not None
        if shard.work.kind != TRIALS or int(shard.work.arrays["part"][0]) != set_index:
            continue
        part = parts[_PARTS[int(shard.work.arrays["part"][1])]]
        trials = [Trial.of(code) for code in shard.work.arrays["trials"].tolist()]
        for trial, outcome in zip(trials, total["called"].astype(np.bool_), strict=True):
            part.setdefault(trial, []).append(outcome)
    found = {
        part: {trial: np.concatenate(outcome) for trial, outcome in of_part.items()}
        for part, of_part in parts.items()
    }
    output = images.outputs[case.class_index]
    receivers = {each.part: each.partners.receivers for each in wanted}
    grid = outline.grid
    everywhere = np.arange(grid.n_orbits) > 0

    def share(ranks: NDArray[np.int32], n: int) -> float:
        return found_share(grid, (ranks > 0) & (ranks <= n), everywhere)

    rungs: tuple[tuple[int, float, int | None], ...] = tuple(
        (n, share(case.order, n), None) for n in case.rungs
    )
    best_share = found_share(grid, case.best, everywhere)
    if case.ring is not None:
        rungs = (*rungs, (case.n_orbits, best_share, case.ring))
    return ClassOutcomes(
        class_index=case.class_index,
        verdict=case.verdict,
        n_orbits=case.n_orbits,
        share=best_share,
        trial=case.trial,
        with_random=case.choice,
        n_kept=int(case.kept.max()),
        n_wide=int(case.wide.max()),
        wide_share=share(case.wide, int(case.wide.max())),
        rungs=rungs,
        parts=Parts(
            own=found["own"],
            map=found["map"],
            restored=found["restored"],
            others=found["others"],
            home=found["map at home"],
            wide=found.get("wide", {}),
            wide_of_its_own=found.get("wide of its own", {}),
        ),
        before_restored=predicted[receivers["restored"]] == output,
        before_others=predicted[receivers["others"]] == output,
    )
