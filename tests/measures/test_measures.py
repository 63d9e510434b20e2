"""What holds for every measure in the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driven import driven, outline_of_sizes

from shortcut_audit.measures import MEASURES
from shortcut_audit.measures.interface import Measure, MeasureInRounds, Outline, Shard, Split, blocks_of

PACKAGE = Path(__file__).parents[2] / "shortcut_audit"
SPLITS: tuple[Split, ...] = ("search", "judge")


def outline(size: int = 16, n_search: int = 50) -> Outline:
    plan = outline_of_sizes([n_search] * 3, size, searched=(0, 2), n_judge=40, resolution="orbits")
    return replace(plan, n_channels=3)


def shards_of(measure: Measure | MeasureInRounds, plan: Outline, split: Split) -> list[Shard]:
    """All shards that a measure asks for, whichever round they are in."""
    if not isinstance(measure, MeasureInRounds):
        return measure.shards(plan, split)
    if split == "judge":
        return []
    images: Any = SimpleNamespace(class_names=("a", "b", "c"))
    _, rounds, _ = driven(measure.rounds(plan, images), plan)
    return [shard for each in rounds for shard in each.shards]


def pieces(shards: list[Shard]) -> Iterator[tuple[int, int, int]]:
    return ((row, *shard.orbits) for shard in shards for row in range(*shard.rows))


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_name_file_and_class_share_a_stem(measure: Measure) -> None:
    assert (PACKAGE / "measures" / f"{measure.name}.py").is_file()
    assert type(measure).__name__.lower() == measure.name.replace("_", "")
    assert measure.revision >= 1


def test_only_measures_in_rounds_pass_for_such() -> None:
    assert [m.name for m in MEASURES if isinstance(m, MeasureInRounds)] == ["dominant_frequencies"]


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
        covered = list(pieces(shards))
        assert len(covered) == len(set(covered))
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
        assert {shard.rows for shard in shards_of(measure, plan, split)} <= blocks


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_no_shard_takes_more_passes_than_are_lost_by_a_kill(measure: Measure | MeasureInRounds) -> None:
    for size in (16, 224):
        plan = outline(size, n_search=300 if size == 16 else 3)
        for split in SPLITS:
            assert max((s.n_passes for s in shards_of(measure, plan, split)), default=0) <= 8192 + 63


@pytest.mark.parametrize("measure", [m for m in MEASURES if isinstance(m, MeasureInRounds)])
def test_planned_passes_are_those_of_all_rounds(measure: MeasureInRounds) -> None:
    plan = outline(32)
    shards = shards_of(measure, plan, "search")
    assert measure.planned_passes(plan) == sum(shard.n_passes for shard in shards)
