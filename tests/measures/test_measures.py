"""What holds for every measure in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from driven import Answered, driven, outline_of_sizes

from shortcut_audit.measures import MEASURES
from shortcut_audit.measures.interface import (
    Measure,
    MeasureInRounds,
    Outline,
    Shard,
    Split,
    Totals,
    blocks_of,
)
from shortcut_audit.measures.trials import Trial
from shortcut_audit.results.shortcut_findings import ShortcutsFinding

PACKAGE = Path(__file__).parents[2] / "shortcut_audit"
SPLITS: tuple[Split, ...] = ("search", "judge")


def outline(size: int = 16, n_search: int = 50) -> Outline:
    plan = outline_of_sizes([n_search] * 3, size, searched=(0, 2), n_judge=40, resolution="orbits")
    return replace(plan, n_channels=3)


def images_of(plan: Outline) -> Any:
    """As much of the images as rounds look at."""
    n = plan.judge_rows[-1][1]
    return SimpleNamespace(
        class_names=("a", "b", "c"),
        outputs=(0, 1, 2),
        judge_rows=plan.judge_rows,
        names=[f"image {row}" for row in range(n)],
        store=SimpleNamespace(digests=[f"{row:032}" for row in range(n)]),
    )


# Whether a trial calls images by the class.
Says = Callable[[Trial], bool]


def answer_to(shard: Shard, plan: Outline, says: Says) -> Totals:
    """Totals of a shard of the judgement of a model that knows every image as it is."""
    n, n_orbits = shard.n_images, plan.grid.n_orbits
    assert shard.work is not None
    if shard.work.kind == "energy":
        # The last orbit holds nearly all, so that any others are a sliver.
        energy = np.where(np.arange(n_orbits) == n_orbits - 1, 1.0, 1e-6)
        return {"energy": n * energy, "n_images": np.array([n])}
    if shard.work.kind == "kept maps":
        columns = np.arange(len(plan.searched))
        return {
            "columns": columns,
            "kept_called": np.zeros((len(columns), n), dtype=np.bool_),
            "predicted": np.full(n, shard.class_index, dtype=np.int32),
        }
    if shard.work.kind == "evidence":
        pictures = np.zeros((3, 3, plan.grid.height, plan.grid.width), dtype=np.uint8)
        rows = np.array([shard.work.arrays["receiver"][0], shard.rows[0]])
        return {"pictures": pictures, "logits": np.zeros((2, 3)), "rows": rows}
    trials = [Trial.of(code) for code in shard.work.arrays["trials"].tolist()]
    return {"called": np.array([[says(trial)] * n for trial in trials])}


def judged(
    measure: MeasureInRounds, plan: Outline, says: Says
) -> tuple[list[list[Shard]], ShortcutsFinding]:
    """The rounds of the judgement of a model that answers as it is told, and what they come to."""
    ranked = np.arange(plan.grid.n_orbits)
    maps = "dominant_frequencies"
    found = {
        f"{maps}/kept": np.stack([ranked < 20] * len(plan.searched)),
        f"{maps}/rank": np.stack([ranked] * len(plan.searched)),
        f"{maps}/importance/log-odds": np.ones((len(plan.searched), plan.grid.n_orbits)),
    }
    rounds = measure.rounds(plan, images_of(plan), found)
    asked = [next(rounds)]
    while True:
        done = [(shard, answer_to(shard, plan, says)) for shard in asked[-1].shards]
        try:
            asked.append(rounds.send(Answered(done, 1.0)))
        except StopIteration as stop:
            return [list(each.shards) for each in asked], stop.value[0]


def turned(trial: Trial) -> bool:
    """Every orbit of the class is a shortcut, and no other one does anything."""
    return trial.arm in ("transplant", "ring", "keep", "remove random", "colour")


def shards_of(measure: Measure | MeasureInRounds, plan: Outline, split: Split) -> list[Shard]:
    """All shards that a measure asks for, whichever round they are in."""
    if not isinstance(measure, MeasureInRounds):
        return measure.shards(plan, split)
    if measure.split == "judge":
        shards = [shard for each in judged(measure, plan, turned)[0] for shard in each]
        return [shard for shard in shards if shard.split == split]
    if split == "judge":
        return []
    _, rounds, _ = driven(measure.rounds(plan, images_of(plan), {}), plan)
    return [shard for each in rounds for shard in each.shards]


def pieces(shards: list[Shard]) -> Iterator[tuple[int, int, int]]:
    return ((row, *shard.orbits) for shard in shards for row in range(*shard.rows))


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_name_file_and_class_share_a_stem(measure: Measure) -> None:
    assert (PACKAGE / "measures" / f"{measure.name}.py").is_file()
    assert type(measure).__name__.lower() == measure.name.replace("_", "")
    assert measure.revision >= 1


def test_only_measures_in_rounds_pass_for_such() -> None:
    in_rounds = {m.name: m.split for m in MEASURES if isinstance(m, MeasureInRounds)}
    assert in_rounds == {"dominant_frequencies": "search", "shortcuts": "judge"}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
@pytest.mark.parametrize("size", [16, 32, 224])
def test_shards_cover_each_image_and_orbit_once(measure: Measure | MeasureInRounds, size: int) -> None:
    plan = outline(size, n_search=50 if size < 224 else 5)
    for split in SPLITS:
        shards = shards_of(measure, plan, split)
        for shard in shards:
            low, high = plan.rows_of(split, shard.class_index)
            assert low <= shard.rows[0] < shard.rows[1] <= high
            assert (shard.measure, shard.split) == (measure.name, split)
        for kind in {shard.work.digest if shard.work else "" for shard in shards}:
            covered = list(pieces([s for s in shards if kind == (s.work.digest if s.work else "")]))
            assert len(covered) == len(set(covered))
        if measure.name == "shortcuts":
            continue
        covered = list(pieces(shards))
        by_row: dict[int, int] = {}
        for row, first, last in covered:
            by_row[row] = by_row.get(row, 0) + last - first
        assert set(by_row.values()) <= {plan.grid.n_orbits}
        if isinstance(measure, MeasureInRounds) and split == "search":
            assert set(by_row) == {row for k in plan.searched for row in range(*plan.search_rows[k])}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
@pytest.mark.parametrize("size", [16, 32])
def test_all_measures_cut_images_into_the_same_blocks(
    measure: Measure | MeasureInRounds, size: int
) -> None:
    plan = outline(size)
    for split in SPLITS:
        blocks = {rows for index in range(3) for rows in blocks_of(plan, split, index)}
        shards = shards_of(measure, plan, split)
        # A picture shows one image, wherever its block begins.
        several = {shard.rows for shard in shards if shard.work is None or shard.work.kind != "evidence"}
        assert several <= blocks


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_no_shard_takes_more_passes_than_are_lost_by_a_kill(measure: Measure | MeasureInRounds) -> None:
    for size in (16, 224):
        plan = outline(size, n_search=300 if size == 16 else 3)
        for split in SPLITS:
            assert max((s.n_passes for s in shards_of(measure, plan, split)), default=0) <= 8192 + 63


SEARCH, SHORTCUTS = (m for m in MEASURES if isinstance(m, MeasureInRounds))


def test_planned_passes_of_the_search_are_those_of_all_rounds() -> None:
    plan = outline(32)
    shards = shards_of(SEARCH, plan, "search")
    assert SEARCH.planned_passes(plan) == sum(shard.n_passes for shard in shards)


def n_passes_of(rounds: list[list[Shard]]) -> int:
    shards = (shard for each in rounds for shard in each)
    return sum(s.n_passes for s in shards if s.work is None or s.work.kind != "evidence")


@pytest.mark.parametrize("size", [16, 32, 224])
@pytest.mark.parametrize("n_judge", [40, 150])
def test_planned_passes_of_the_judgement_are_those_where_every_null_is_drawn(
    n_judge: int, size: int
) -> None:
    plan = outline_of_sizes([5] * 3, size, searched=(0, 2), n_judge=n_judge, resolution="orbits")
    planned = SHORTCUTS.planned_passes(plan)
    with_nulls = n_passes_of(judged(SHORTCUTS, plan, turned)[0])
    without = n_passes_of(judged(SHORTCUTS, plan, lambda trial: trial.arm.startswith("remove"))[0])
    # One ring is too heavy to be tried here.
    assert 0.9 * planned <= with_nulls <= planned
    assert without < 0.8 * planned


def test_what_is_clear_at_first_sight_is_shown_no_more_images() -> None:
    for says, verdict in ((turned, "shortcut"), (lambda trial: trial.arm == "remove", "no shortcut")):
        rounds, finding = judged(SHORTCUTS, outline(32), says)
        # Energies, maps, effects, nulls, pictures.
        assert len(rounds) == 5
        assert [item.verdict for item in finding.by_class] == [verdict] * 2
        assert {item.best.flips.n for item in finding.by_class if item.best} == {40}


def test_further_looks_are_at_other_images_of_other_classes() -> None:
    """Too few images for anything: the class stays open to the end."""
    plan = outline_of_sizes([5] * 3, 16, searched=(0, 2), n_judge=3, resolution="orbits")
    rounds, _ = judged(SHORTCUTS, plan, lambda t: "transplant" in t.arm or "ring" in t.arm)
    drawn: dict[int, dict[int, list[int]]] = {0: {}, 2: {}}
    for shard in (shard for each in rounds for shard in each):
        if shard.work is not None and shard.work.kind == "trials":
            given = shard.work.arrays
            drawn[shard.class_index][int(given["draw"][0])] = given["receivers"].tolist()
    for by_draw in drawn.values():
        assert set(by_draw) == {0, 1, 2, 3}
        assert len({tuple(receivers) for receivers in by_draw.values()}) == 4


def test_a_class_that_the_orbits_of_any_image_turn_hangs_on_none_of_its_own() -> None:
    """Every exchange turns every image, whoever gives: nothing in it is of the class."""
    _, finding = judged(SHORTCUTS, outline(32), lambda t: "transplant" in t.arm or "ring" in t.arm)
    assert [item.verdict for item in finding.by_class] == ["no shortcut"] * 2
