"""Agreement of maps: against a slow replica, in every order, with a ceiling, and where it means less."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import conv_model, random_images
from scipy.stats import spearmanr

import shortcut_audit as sa
from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import Reliability
from shortcut_audit.run.map_agreement import agreement_of, check_comparable

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def base() -> AuditResult:
    pairs = random_images(8, 3, (1, 8, 6))
    return sa.audit(
        conv_model(3, 1), pairs, class_names=NAMES, batch_size=64, search="exact", resolution="orbits"
    )


def with_maps(
    base: AuditResult,
    seed: int,
    *,
    names: list[str] = NAMES,
    reliability: float | None = 0.8,
    changes: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    classes: dict[str, Any] | None = None,
    digest: str | None = None,
    model: dict[str, Any] | None = None,
) -> AuditResult:
    """`base` with maps drawn by chance for classes `names`, and other fields changed."""
    generator = np.random.default_rng(seed)
    own = base.dominant_frequencies
    repeat = Reliability(half_correlation=None, value=reliability, n_images=4, n_splits=1)
    values = {"response": own.response, **(changes or {})}
    maps = tuple(
        own.by_class[0].model_copy(
            update={
                "class_name": name,
                "reliability": dict.fromkeys({*own.by_class[0].reliability, values["response"]}, repeat),
                **(classes or {}),
            }
        )
        for name in names
    )
    finding = own.model_copy(update={"by_class": maps, **values})
    shape = (len(names), base.grid.n_orbits)
    arrays = dict(base.arrays)
    for name in [n for n in arrays if n.startswith("dominant_frequencies/importance/")]:
        arrays[name] = generator.normal(size=shape).astype(np.float32)
    if values["response"] == "joint":
        arrays = {n: a for n, a in arrays.items() if not n.startswith("dominant_frequencies/importance")}
        arrays["dominant_frequencies/importance/joint"] = generator.normal(size=shape).astype(np.float32)
    rank = np.zeros(shape, dtype=np.int32)
    rank[:, 1:] = 1 + np.argsort(generator.normal(size=(len(names), shape[1] - 1)), axis=1)
    arrays["dominant_frequencies/rank"] = rank
    provenance = base.provenance.model_copy(
        update={
            "data": base.provenance.data.model_copy(update={"digest": digest or f"data {seed}"}),
            "model": base.model.model_copy(update={"digest": f"weights {seed}", **(model or {})}),
        }
    )
    return base.model_copy(
        update={
            "findings": tuple(finding if found is own else found for found in base.findings),
            "provenance": provenance,
            "settings": base.model_settings.model_copy(update=settings or {}),
        }
    ).with_arrays(arrays)


def replica(one: AuditResult, other: AuditResult, name: str, share: float) -> tuple[float, float, float]:
    """Correlation, overlap and overlap by chance, orbit by orbit, without DC."""
    rows = []
    for result in (one, other):
        names = [item.class_name for item in result.dominant_frequencies.by_class]
        rows.append(result.arrays["dominant_frequencies/importance/log-odds"][names.index(name)])
    correlation = float(spearmanr(rows[0][1:], rows[1][1:]).statistic)
    members = one.arrays["orbits/members"].tolist()
    tops = []
    for row in rows:
        room, chosen = share * sum(members[1:]), set()
        for orbit in sorted(range(1, len(row)), key=lambda o: -float(row[o])):
            room -= members[orbit]
            if room < -1e-9:
                break
            chosen.add(orbit)
        tops.append(chosen)
    mean = (len(tops[0]) + len(tops[1])) / 2
    by_chance = len(tops[0]) * len(tops[1]) / (len(members) - 1) / mean
    return correlation, len(tops[0] & tops[1]) / mean, by_chance


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_agreement_equals_the_slow_replica(base: AuditResult, share: float) -> None:
    one, other = (with_maps(base, seed, settings={"kept_share": share}) for seed in (1, 2))
    found = agreement_of(("x", "y"), (one, other))
    assert [item.class_name for item in found.by_class] == NAMES
    for item in found.by_class:
        correlation, overlap, by_chance = replica(one, other, item.class_name, share)
        assert item.rank_correlation == pytest.approx(correlation, abs=1e-12)
        assert item.overlap == pytest.approx(overlap)
        assert item.overlap_by_chance == pytest.approx(by_chance)
        assert item.score == "log-odds"
    mean = np.mean([item.rank_correlation for item in found.by_class])
    assert found.rank_correlation == pytest.approx(mean)


def test_neither_the_order_of_runs_nor_that_of_classes_matters(base: AuditResult) -> None:
    one = with_maps(base, 1)
    other = with_maps(base, 2)
    order = [2, 0, 1]
    arrays = {
        name: array[order] if name.startswith("dominant_frequencies/") else array
        for name, array in other.arrays.items()
    }
    own = other.dominant_frequencies
    turned = own.model_copy(update={"by_class": tuple(own.by_class[n] for n in order)})
    permuted = other.model_copy(
        update={"findings": tuple(turned if f is own else f for f in other.findings)}
    ).with_arrays(arrays)
    plain = agreement_of(("x", "y"), (one, other))
    assert agreement_of(("x", "y"), (one, permuted)) == plain
    back = agreement_of(("y", "x"), (permuted, one))
    assert {item.class_name: item for item in back.by_class} == {
        item.class_name: item for item in plain.by_class
    }


def test_a_map_agrees_with_itself_wholly(base: AuditResult) -> None:
    one = with_maps(base, 1)
    for item in agreement_of(("x", "y"), (one, one)).by_class:
        assert item.rank_correlation == pytest.approx(1)
        assert item.overlap == 1


@pytest.mark.parametrize(
    ("first", "second", "ceiling", "divided"),
    [
        (0.9, 0.4, 0.6, True),
        (0.3, 0.3, 0.3, True),
        (0.29, 0.3, math.sqrt(0.087), False),
        (-0.2, 0.9, 0.0, False),
        (-0.5, -0.5, 0.0, False),
        (None, 0.9, None, False),
    ],
)
def test_the_ceiling_is_the_root_of_the_product_and_too_low_a_one_divides_nothing(
    base: AuditResult, first: float | None, second: float | None, ceiling: float | None, divided: bool
) -> None:
    pair = (with_maps(base, 1, reliability=first), with_maps(base, 2, reliability=second))
    found = agreement_of(("x", "y"), pair)
    for item in found.by_class:
        assert item.ceiling == (None if ceiling is None else pytest.approx(ceiling))
        assert (item.over_ceiling is not None) is divided
        if divided:
            assert item.over_ceiling == pytest.approx(item.rank_correlation / ceiling)
        assert bool(item.reason) is (ceiling is None)
    assert (found.over_ceiling is not None) is divided


def test_over_the_ceiling_counts_the_classes_that_have_one(base: AuditResult) -> None:
    one, other = with_maps(base, 1), with_maps(base, 2)
    found = agreement_of(("x", "y"), (one, other))
    weak = found.by_class[1].model_copy(update={"ceiling": 0.1})
    mixed = found.model_copy(update={"by_class": (found.by_class[0], weak, found.by_class[2])})
    kept = [found.by_class[0], found.by_class[2]]
    assert mixed.reliable == tuple(kept)
    own = sum(item.rank_correlation for item in kept) / sum(item.ceiling for item in kept)
    assert mixed.over_ceiling == pytest.approx(own)


def test_pooled_maps_are_compared_by_their_ranks_whose_reliability_it_is(base: AuditResult) -> None:
    pooled = {"resolution": "tiles:3x4", "resolution_reason": "neighbours share"}
    one = with_maps(base, 1, classes=pooled)
    other = with_maps(base, 2)
    ranks = one.arrays["dominant_frequencies/rank"]
    values = other.arrays["dominant_frequencies/importance/log-odds"]
    for row, item in enumerate(agreement_of(("x", "y"), (one, other)).by_class):
        expected = spearmanr(-ranks[row, 1:], values[row, 1:]).statistic
        assert item.rank_correlation == pytest.approx(float(expected), abs=1e-12)


def test_dc_takes_part_where_both_rank_it(base: AuditResult) -> None:
    pairs = [with_maps(base, seed, settings={"dc": "rank"}) for seed in (1, 2)]
    rows = [r.arrays["dominant_frequencies/importance/log-odds"][0] for r in pairs]
    found = agreement_of(("x", "y"), (pairs[0], pairs[1])).by_class[0]
    assert found.rank_correlation == pytest.approx(float(spearmanr(*rows).statistic), abs=1e-12)
    other = with_maps(base, 2)
    mixed = agreement_of(("x", "y"), (pairs[0], other))
    without = float(spearmanr(rows[0][1:], rows[1][1:]).statistic)
    assert mixed.by_class[0].rank_correlation == pytest.approx(without, abs=1e-12)
    assert any("DC is ranked in one alone" in note for note in mixed.notes)


def test_a_constant_map_is_not_compared(base: AuditResult) -> None:
    one = with_maps(base, 1)
    arrays = dict(one.arrays)
    name = "dominant_frequencies/importance/log-odds"
    arrays[name] = np.where(np.arange(3)[:, None] == 1, 0, arrays[name]).astype(np.float32)
    found = agreement_of(("x", "y"), (one.with_arrays(arrays), with_maps(base, 2)))
    assert found.by_class[1].rank_correlation is None
    assert "constant" in found.by_class[1].reason
    assert found.rank_correlation is not None


def test_classes_of_one_run_alone_are_told(base: AuditResult) -> None:
    one, other = with_maps(base, 1, names=["a", "b", "c"]), with_maps(base, 2, names=["c", "d"])
    found = agreement_of(("x", "y"), (one, other))
    assert [item.class_name for item in found.by_class] == ["c"]
    told = [(item.side, item.class_name, item.reason) for item in found.dropped]
    assert told == [
        ("x", "a", "y has no map of it"),
        ("x", "b", "y has no map of it"),
        ("y", "d", "x has no map of it"),
    ]


def test_runs_without_a_class_in_common_are_not_compared(base: AuditResult) -> None:
    one, other, third = (with_maps(base, n, names=[name]) for n, name in enumerate("aza"))
    found = agreement_of(("x", "y"), (one, other))
    assert found.by_class == ()
    assert found.rank_correlation is None
    assert "share no class ('a' and 'z')" in found.notes[0]
    with pytest.raises(ResultError, match="share no class"):
        sa.transfer([one, other])
    several = sa.transfer([one, other, third])
    assert [bool(pair.by_class) for pair in several.agreements] == [False, True, False]
    assert several.agreement_matrix()[0][1] is None


def test_maps_of_other_sizes_are_refused(base: AuditResult) -> None:
    larger = base.model_copy(update={"grid": base.grid.model_copy(update={"height": 12, "width": 10})})
    with pytest.raises(ResultError, match=r"8 x 6 pixels and those of y of 12 x 10.*--size 8x6"):
        check_comparable(["x", "y"], [base, larger])
    with pytest.raises(ResultError, match="cannot be compared"):
        agreement_of(("x", "y"), (base, larger))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"digest": "data 1"}, "rest on the same images"),
        ({}, "different draws of images from one set"),
        ({"model": {"digest": "weights 1"}}, "audits of one model"),
        ({"changes": {"response": "cross-entropy"}}, "x ranks orbits by log-odds, y by cross-entropy"),
        ({"changes": {"response": "joint"}}, "no score in common"),
        (
            {"changes": {"search": "screened"}},
            "a search that is exact, those of y by one that is screened",
        ),
        ({"classes": {"resolution": "tiles:3x4"}}, "3 of 3 shared classes are ranked at different"),
        ({"settings": {"kept_share": 0.2}}, "overlap is of the top 5% of both rankings"),
        ({"settings": {"clip": True}}, "clipped in one alone"),
    ],
)
def test_what_makes_maps_less_comparable_is_noted(
    base: AuditResult, changes: dict[str, Any], told: str
) -> None:
    one, other = with_maps(base, 1), with_maps(base, 2, **changes)
    notes = agreement_of(("x", "y"), (one, other)).notes
    assert sum(told in note for note in notes) == 1
    # And nothing that is not so.
    usual = agreement_of(("x", "y"), (one, with_maps(base, 2))).notes
    assert len(usual) == 1
    assert len(notes) == (1 if "digest" in changes or not changes else 2)


def test_of_draws_from_one_set_the_common_part_is_told(base: AuditResult) -> None:
    found = agreement_of(("x", "y"), (with_maps(base, 1), with_maps(base, 2)))
    # Half of all 24 images are searched on.
    assert "about 50% of which are to be expected in both" in found.notes[0]


def test_other_ways_to_the_model_are_noted(base: AuditResult) -> None:
    way = base.model.preprocessing.model_copy(update={"geometry": "resize and crop"})
    other = with_maps(base, 2, model={"preprocessing": way})
    assert any("resized" in note for note in agreement_of(("x", "y"), (with_maps(base, 1), other)).notes)


def test_where_scores_differ_a_common_one_is_taken(base: AuditResult) -> None:
    one, other = with_maps(base, 1), with_maps(base, 2, changes={"response": "cross-entropy"})
    found = agreement_of(("x", "y"), (one, other)).by_class[0]
    assert found.score == "log-odds"
    correlation, _, _ = replica(one, other, "a", 0.05)
    assert found.rank_correlation == pytest.approx(correlation, abs=1e-12)
    assert agreement_of(("y", "x"), (other, one)).by_class[0] == found
    joint = with_maps(base, 3, changes={"response": "joint"})
    found = agreement_of(("x", "y"), (one, joint)).by_class[0]
    assert found.score is None
    rows = (
        one.arrays["dominant_frequencies/importance/log-odds"][0],
        joint.arrays["dominant_frequencies/importance/joint"][0],
    )
    expected = float(spearmanr(rows[0][1:], rows[1][1:]).statistic)
    assert found.rank_correlation == pytest.approx(expected, abs=1e-12)
