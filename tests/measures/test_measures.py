"""What holds for every measure in the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures import MEASURES
from shortcut_audit.measures.interface import Measure, Outline, blocks_of
from shortcut_audit.results.settings import AuditSettings

PACKAGE = Path(__file__).parents[2] / "shortcut_audit"


def outline(size: int = 16, n_search: int = 50) -> Outline:
    rows = [(100 * k, 100 * k + n_search) for k in range(3)]
    return Outline(
        settings=AuditSettings(),
        grid=FrequencyGrid(size, size),
        n_channels=3,
        n_outputs=3,
        n_classes=3,
        search_rows=tuple(rows),
        judge_rows=tuple((stop, stop + 40) for _, stop in rows),
        searched=(0, 2),
    )


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_name_file_and_class_share_a_stem(measure: Measure) -> None:
    assert (PACKAGE / "measures" / f"{measure.name}.py").is_file()
    assert type(measure).__name__.lower() == measure.name.replace("_", "")
    assert measure.revision >= 1


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
@pytest.mark.parametrize("size", [16, 224])
def test_shards_cover_each_image_and_orbit_once(measure: Measure, size: int) -> None:
    plan = outline(size)
    for split in ("search", "judge"):
        covered: set[tuple[int, int, int]] = set()
        for shard in measure.shards(plan, split):
            low, high = plan.rows_of(split, shard.class_index)
            assert low <= shard.rows[0] < shard.rows[1] <= high
            for row in range(*shard.rows):
                piece = (row, *shard.orbits)
                assert piece not in covered
                covered.add(piece)
        by_row: dict[int, int] = {}
        for row, first, last in covered:
            by_row[row] = by_row.get(row, 0) + last - first
        assert set(by_row.values()) <= {plan.grid.n_orbits}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_all_measures_cut_images_into_the_same_blocks(measure: Measure) -> None:
    plan = outline()
    for split in ("search", "judge"):
        blocks = {rows for index in range(3) for rows in blocks_of(plan, split, index)}
        assert {shard.rows for shard in measure.shards(plan, split)} <= blocks
