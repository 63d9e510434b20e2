"""Shortcuts: sufficiency, necessity and transplant on images the search never saw, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.measures.cases import (
    FURTHER,
    Case,
    at_best,
    case_of,
    effects,
    importance_of,
    ladder_of,
    n_own,
    n_side,
    n_trials,
    nulls,
    orbits_of,
    pair_of,
    partners_of,
    run_trials,
    rungs_tried,
    take_in,
    trial_of,
    trials_work,
)
from shortcut_audit.measures.energies import ENERGY, energies_of, run_energy
from shortcut_audit.measures.evidence import EVIDENCE, evidence_fields, evidence_work, run_evidence
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
    blocks_of,
    image_shards,
)
from shortcut_audit.measures.kept_maps import (
    KEPT_MAPS,
    KeptCounts,
    example_fields,
    kept_map_shards,
    run_kept_maps,
)
from shortcut_audit.measures.outcomes import outcomes_of_transplants, outcomes_under_maps
from shortcut_audit.measures.searches.interface import MEASURE as MAPS
from shortcut_audit.measures.trials import Trial
from shortcut_audit.measures.verdicts import decided, extent_of, with_scores
from shortcut_audit.results.findings import Finding
from shortcut_audit.results.shortcut_findings import VERDICTS, ClassShortcut, ShortcutsFinding

__all__ = ["NAME", "Shortcuts"]

NAME = "shortcuts"


@dataclass(frozen=True)
class Shortcuts:
    """Is what the search found a shortcut? Three tests a class over a ladder of shares, with nulls.

    The ladder climbs the class's ranking, over orbits that hold little of an image's energy: whole
    shapes are made of few strong orbits, and exchanging those is no sliver. Rings of radii stand beside
    it, for textures that no single orbit carries. Trials come in rounds: all effects first, then nulls
    where there is an effect, then more images where the verdict is open.
    """

    name: str = NAME
    revision: int = 4
    split: Split = "judge"

    def relevant_to(self, outline: Outline) -> dict[str, Any]:
        settings = outline.settings
        return {
            "domain": settings.domain,
            "clip": settings.clip,
            "dc": settings.dc,
            "examples": settings.examples,
            "seed": settings.seed,
        }

    def planned_passes(self, outline: Outline) -> int:
        """Passes where every null is worth drawing; further images of open classes come on top."""
        n_orbits = outline.grid.n_orbits - 1
        # As many passes as with any other ranking.
        rank = np.tile(np.arange(n_orbits + 1, dtype=np.int32), (len(outline.searched), 1))
        kept = kept_map_shards(self.name, outline, rank > 0, rank)
        n_rungs = len(ladder_of(n_orbits))
        n_all, n_side_trials = n_trials(n_rungs)
        total = sum(shard.n_passes for shard in kept)
        for index in outline.searched:
            start, stop = outline.rows_of("judge", index)
            total += n_all * (stop - start) + n_side_trials * n_side(stop - start)
        return total

    def rounds(
        self, outline: Outline, images: AuditImages, found: Arrays
    ) -> Rounds[tuple[Finding, Arrays]]:
        planned, spent = self.planned_passes(outline), 0

        def asked(shards: list[Shard]) -> Round[tuple[Finding, Arrays]]:
            nonlocal spent
            # Shards of one block stand together: it is read once.
            shards.sort(key=lambda shard: shard.rows)
            spent += sum(shard.n_passes for shard in shards)
            return Round(shards, n_passes_after=max(0, planned - spent))

        maps = found[f"{MAPS}/kept"].astype(np.bool_)
        energy = image_shards(self.name, outline, "search", 0)
        energy = [replace(shard, work=Work(ENERGY, {})) for shard in energy]
        done = yield asked(energy)
        energies = energies_of(outline, _all_of(outline, done))
        rank = found[f"{MAPS}/rank"]
        done = yield asked(kept_map_shards(self.name, outline, maps, rank))
        counts = KeptCounts.of(outline, _all_of(outline, done))
        cases = [
            case_of(outline, column, rank[column], energies) for column in range(len(outline.searched))
        ]
        for wanted_of in (effects, nulls):
            shards = []
            for case in cases:
                for trials, n_images in wanted_of(outline, images, case, counts):
                    shards += self._shards(outline, images, case, trials, n_images, 0)
            done = yield asked(shards)
            take_in(cases, 0, done.of)
        draw = 0
        for further in FURTHER:
            items = self._items(outline, images, cases, counts, found)
            open_cases = [
                case for case, item in zip(cases, items, strict=True) if item.verdict == "inconclusive"
            ]
            if not open_cases:
                break
            for case in open_cases:
                case.looks += 1
            for _ in range(further):
                draw += 1
                shards = []
                for case in open_cases:
                    trials = at_best(items[case.column])
                    shards += self._shards(outline, images, case, trials, n_own(outline, case), draw)
                done = yield asked(shards)
                take_in(open_cases, draw, done.of)
        items = self._items(outline, images, cases, counts, found)
        shards = self._evidence(outline, images, cases, items)
        done = yield Round(shards)
        pictures = {s.class_index: pair for s in shards for pair in done.of(s.class_index)}
        return _finding(outline, images, cases, items, counts, pictures)

    def run(
        self, shard: Shard, subject: Subject, block: Block, found: Arrays, advance: Advance
    ) -> Totals:
        assert shard.work is not None
        kind = shard.work.kind
        if kind == KEPT_MAPS:
            return run_kept_maps(shard, subject, block, advance)
        if kind == ENERGY:
            return run_energy(subject, block)
        if kind == EVIDENCE:
            return run_evidence(shard, subject, block, advance)
        return run_trials(shard, subject, block, advance)

    def _shards(
        self,
        outline: Outline,
        images: AuditImages,
        case: Case,
        trials: Sequence[Trial],
        n_images: int,
        draw: int,
    ) -> list[Shard]:
        """Some trials of a class on the first `n_images` of its judgement images, block by block."""
        if not trials:
            return []
        # A class may be open again that was decided when others first took more images.
        while len(case.partners) <= draw:
            case.partners.append(partners_of(outline, images, case.class_index, len(case.partners)))
        work = trials_work(outline, images, case, trials, draw)
        end = outline.judge_rows[case.class_index][0] + n_images
        return [
            Shard(
                measure=self.name,
                split="judge",
                class_index=case.class_index,
                rows=(start, min(stop, end)),
                orbits=(0, outline.grid.n_orbits),
                n_passes=len(trials) * (min(stop, end) - start),
                work=work,
            )
            for start, stop in blocks_of(outline, "judge", case.class_index)
            if start < end
        ]

    def _items(
        self,
        outline: Outline,
        images: AuditImages,
        cases: Sequence[Case],
        counts: KeptCounts,
        found: Arrays,
    ) -> list[ClassShortcut]:
        """What is known of every class so far, with its verdict."""
        items = []
        for case in cases:
            index = case.class_index
            ladder, orbits = rungs_tried(outline, images, case, counts)
            item = ClassShortcut(
                class_name=images.class_names[index],
                n_judge=len(counts.predicted[index]),
                **counts.rates(outline, images, case.column),
                ladder=ladder,
                colour=pair_of(case, 0, Trial("colour"), Trial("colour foreign")),
                **example_fields(images, index, counts.examples.get(index)),
            )
            scored = with_scores(item, case.looks)
            importance = importance_of(outline, found, case.column)
            extent = extent_of(ladder, orbits, importance, outline.grid)
            items.append(scored.model_copy(update={"extent": extent}))
        return decided(items)

    def _evidence(
        self,
        outline: Outline,
        images: AuditImages,
        cases: Sequence[Case],
        items: Sequence[ClassShortcut],
    ) -> list[Shard]:
        """One picture of each of the classes that stand worst: an image that the orbits turned."""
        worst = sorted(range(len(items)), key=lambda n: -(items[n].score or 0.0))
        shards = []
        for place in worst[: outline.settings.examples]:
            item, case = items[place], cases[place]
            if item.best is None or item.verdict == "no shortcut":
                continue
            trial = trial_of("transplant", item.best)
            after = case.outcome(0, trial)
            if after is None or not after.any():
                continue
            image = int(np.argmax(after))
            start, _ = outline.judge_rows[case.class_index]
            orbits = orbits_of(case, item.best, outline.grid)
            row = start + image
            shards.append(
                Shard(
                    measure=self.name,
                    split="judge",
                    class_index=case.class_index,
                    rows=(row, row + 1),
                    orbits=(0, outline.grid.n_orbits),
                    n_passes=2,
                    work=evidence_work(images, int(case.partners[0].receivers[image]), orbits),
                )
            )
        return shards


def _all_of(outline: Outline, done: Done) -> Iterator[tuple[Shard, Totals]]:
    """Totals of all classes, one in memory at a time."""
    for index in range(outline.n_classes):
        yield from done.of(index)


def _finding(
    outline: Outline,
    images: AuditImages,
    cases: Sequence[Case],
    items: Sequence[ClassShortcut],
    counts: KeptCounts,
    pictures: dict[int, tuple[Shard, Totals]],
) -> tuple[ShortcutsFinding, Arrays]:
    by_class = tuple(
        item.model_copy(update=evidence_fields(images, item, pictures.get(case.class_index)))
        for case, item in zip(cases, items, strict=True)
    )
    arrays: Arrays = {
        f"{NAME}/order": np.zeros((len(cases), outline.grid.n_orbits), dtype=np.int32),
        f"{NAME}/best": np.zeros((len(cases), outline.grid.n_orbits), dtype=np.bool_),
        f"{NAME}/verdict": np.array([VERDICTS.index(item.verdict) for item in items], dtype=np.int8),
    }
    for row, (case, item) in enumerate(zip(cases, items, strict=True)):
        arrays[f"{NAME}/order"][row, case.order] = np.arange(1, len(case.order) + 1)
        if item.best is not None:
            arrays[f"{NAME}/best"][row, orbits_of(case, item.best, outline.grid)] = True
    arrays |= outcomes_under_maps(outline, counts)
    arrays |= outcomes_of_transplants(outline, images, cases, items, counts)
    examples = [counts.examples[i]["example"] for i in outline.searched if i in counts.examples]
    if examples:
        arrays[f"{NAME}/examples"] = np.stack(examples)
    shown = [pictures[case.class_index][1]["pictures"] for case in cases if case.class_index in pictures]
    if shown:
        arrays[f"{NAME}/evidence"] = np.stack(shown)
    return ShortcutsFinding(by_class=by_class), arrays
