"""Verdicts on counts made by hand: what each one takes, at the borders and on either side of them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.verdicts import (
    EFFECT,
    decided,
    extent_of,
    p_value_of,
    score_of,
    with_scores,
)
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.shortcut_findings import ClassShortcut, Extent, Rung
from shortcut_audit.results.statistics import paired_interval, paired_p_value

RATE = Rate(hits=1, n=2)


def pair(n: int, first: int, second: int = 0, both: int = 0) -> Paired:
    """Of `n` images `first` have the first outcome alone, `second` the second alone."""
    return Paired(n=n, both=both, only_first=first, only_second=second)


def rung(
    flips: Paired, foreign: Paired | None = None, *, n_orbits: int = 1, share: float = 0.002, **more: Any
) -> Rung:
    fields = {"energy_share": 0.01, "radius": (15.0, 15.2), **more}
    return Rung(n_orbits=n_orbits, share=share, flips=flips, flips_over_foreign=foreign, **fields)


def item(*rungs: Rung, name: str = "horse", n_judge: int = 50, **more: Any) -> ClassShortcut:
    return ClassShortcut(
        class_name=name,
        n_judge=n_judge,
        tpr_kept=RATE,
        fpr_kept=RATE,
        tpr_full=RATE,
        fpr_full=RATE,
        ladder=rungs,
        **more,
    )


def judged(*items: ClassShortcut) -> list[ClassShortcut]:
    return decided([with_scores(each) for each in items])


def verdict(*rungs: Rung) -> str:
    return judged(item(*rungs))[0].verdict


def alone(n: int, turned: int) -> Rung:
    """A rung that turns so many of `n` images, where other images' orbits turn none."""
    return rung(pair(n, turned), pair(n, turned))


# Verdicts.


def test_a_large_effect_that_no_chance_explains_is_a_shortcut() -> None:
    (told,) = judged(item(alone(100, 49)))
    assert told.verdict == "shortcut"
    assert told.score == pytest.approx(0.49)
    assert told.p_value == told.q_value == pytest.approx(2**-49)
    assert told.needed == ""


def test_the_smallest_effect_that_is_called_so_is_the_one_that_is_named() -> None:
    assert verdict(alone(1000, 100)) == "shortcut"
    assert verdict(alone(1000, 99)) == "no shortcut"
    assert math.isclose(EFFECT, 0.1)


def test_more_than_a_sliver_has_to_turn_half_as_many_again() -> None:
    def broad(turned: int, share: float) -> Rung:
        return rung(pair(1000, turned), pair(1000, turned), share=share, n_orbits=60)

    assert verdict(broad(100, 0.1)) == "shortcut"
    assert verdict(broad(149, 0.101)) == "no shortcut"
    assert verdict(broad(151, 0.101)) == "shortcut"
    assert score_of(broad(300, 0.2)) == pytest.approx(0.2)
    # Whether chance explains it is another question, and has nothing to do with size.
    assert p_value_of([broad(12, 0.2)]) == p_value_of([broad(12, 0.01)]) == pytest.approx(2**-12)


def test_a_tiny_p_with_a_small_effect_is_no_shortcut() -> None:
    (told,) = judged(item(alone(2000, 120)))
    assert told.q_value is not None
    assert told.q_value < 1e-30
    assert told.verdict == "no shortcut"


def test_a_large_effect_on_few_images_is_inconclusive_and_says_how_many_would_do() -> None:
    (told,) = judged(item(alone(4, 2), n_judge=4))
    assert told.score == 0.5
    assert told.verdict == "inconclusive"
    (enough, here) = (int(number) for number in re.findall(r"\d+", told.needed))
    assert enough > here == 4
    assert "“horse”" in told.needed


@pytest.mark.parametrize("n", [4, 10, 50, 200])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.09, 0.11, 0.13, 0.3])
def test_an_open_case_asks_for_more_images_than_it_had(n: int, share: float) -> None:
    (told,) = judged(item(alone(n, round(share * n)), n_judge=n))
    assert (told.needed == "") == (told.verdict != "inconclusive")
    if told.needed:
        assert int(re.findall(r"\d+", told.needed)[0]) > n


@pytest.mark.parametrize(
    ("n", "turned"),
    [(4, 1), (10, 3), (10, 0), (50, 4), (40, 8), (20, 5)],
)
def test_the_same_effect_on_as_many_images_as_are_asked_for_decides_it(n: int, turned: int) -> None:
    (told,) = judged(item(alone(n, turned), n_judge=n))
    if told.verdict == "inconclusive":
        n = int(re.findall(r"\d+", told.needed)[0])
        (told,) = judged(item(alone(n, round((told.score or 0) * n))))
    assert told.verdict != "inconclusive"


def test_an_effect_that_orbits_of_other_images_have_as_well_is_none() -> None:
    (told,) = judged(item(rung(pair(400, 200), pair(400, 8, 4, 190))))
    assert told.score == pytest.approx(0.01)
    assert told.verdict == "no shortcut"
    # And the other way about: what is turned was turned before.
    assert verdict(rung(pair(400, 8, 4, 190), pair(400, 200))) == "no shortcut"


def test_both_nulls_have_to_fall() -> None:
    weak = pair(20, 3)
    assert p_value_of([rung(pair(20, 15), weak)]) == pytest.approx(2**-3)
    assert p_value_of([rung(weak, pair(20, 15))]) == pytest.approx(2**-3)
    assert verdict(rung(pair(20, 15), weak)) == "inconclusive"


def test_nothing_worth_a_null_is_no_evidence() -> None:
    (told,) = judged(item(rung(pair(200, 4))))
    assert (told.verdict, told.p_value, told.q_value) == ("no shortcut", 1.0, 1.0)
    assert score_of(rung(pair(200, 160))) <= 0.05


def test_the_p_pays_for_every_rung_and_every_look() -> None:
    first, second = alone(50, 7), rung(pair(50, 1))
    assert p_value_of([first]) == pytest.approx(2**-7)
    assert p_value_of([first, second, second]) == pytest.approx(3 * 2**-7)
    assert p_value_of([first, second], looks=3) == pytest.approx(6 * 2**-7)
    assert p_value_of([second] * 40) == 1.0
    assert with_scores(item(first, second), looks=3).p_value == pytest.approx(6 * 2**-7)


def test_a_class_pays_for_the_family_it_was_searched_in() -> None:
    """5 of 10 images: p 0.03 by itself; among ten classes q is 0.31."""
    found, nothing = item(alone(10, 5)), item(rung(pair(400, 0)))
    assert judged(found)[0].verdict == "shortcut"
    told = judged(found, *[nothing] * 9)
    assert told[0].q_value == pytest.approx(10 * 2**-5)
    assert [each.verdict for each in told] == ["inconclusive", *["no shortcut"] * 9]


def test_a_class_without_a_ladder_is_not_judged_and_leaves_the_others_alone() -> None:
    empty, found = item(), item(alone(10, 5))
    told = judged(empty, found)
    assert told[0] == empty
    assert told[0].verdict == "not judged"
    assert told[1].q_value == pytest.approx(2**-5)


counts = st.integers(1, 120).flatmap(
    lambda n: st.tuples(*[st.integers(0, n)] * 3).map(
        lambda cuts: (
            sorted(cuts)[0],
            sorted(cuts)[1] - sorted(cuts)[0],
            sorted(cuts)[2] - sorted(cuts)[1],
            n,
        )
    )
)


@given(counts, counts)
def test_a_verdict_is_effect_and_significance_together_and_nothing_else(
    flips: tuple[int, int, int, int], foreign: tuple[int, int, int, int]
) -> None:
    tables = (flips, foreign)
    flips_pair, foreign_pair = (
        Paired(n=n, both=both, only_first=first, only_second=second) for both, first, second, n in tables
    )
    (told,) = judged(item(rung(flips_pair, foreign_pair)))
    score = min((first - second) / n for _, first, second, n in tables)
    q_value = max(paired_p_value(first, second) for _, first, second, _ in tables)
    intervals = [paired_interval(*table) for table in tables]
    low, high = min(one[0] for one in intervals), min(one[1] for one in intervals)
    assert told.score == pytest.approx(score)
    assert told.q_value == pytest.approx(q_value)
    if score >= 0.1 and q_value <= 0.05 and low > 0:
        assert told.verdict == "shortcut"
    elif score < 0.1 and high < 0.15:
        assert told.verdict == "no shortcut"
    else:
        assert told.verdict == "inconclusive"
    assert (told.needed != "") == (told.verdict == "inconclusive")


# Which rung, and how strong.


def test_the_rung_is_the_smallest_that_does_most_of_what_the_best_does() -> None:
    ladder = [
        rung(pair(100, turned), pair(100, turned), n_orbits=n, share=n / 500)
        for n, turned in ((1, 10), (2, 41), (5, 50), (11, 49))
    ]
    told = with_scores(item(*ladder))
    assert told.rung == 1
    assert told.best == ladder[1]
    assert told.score == pytest.approx(0.5)
    assert with_scores(item(*ladder[:1], *ladder[2:])).rung == 1
    # One that falls short of four fifths does not do most of it.
    short = rung(pair(100, 39), pair(100, 39), n_orbits=2, share=0.004)
    assert with_scores(item(ladder[0], short, *ladder[2:])).rung == 2


def test_strength_is_the_smallest_share_that_turns_half_of_other_images() -> None:
    ladder = [
        rung(pair(100, turned), n_orbits=n, share=share)
        for n, share, turned in ((1, 0.002, 49), (2, 0.004, 50), (5, 0.01, 90), (8, 0.02, 10))
    ]
    assert with_scores(item(*ladder)).strength_share == 0.004
    # Rings stand behind the ladder, whatever their share.
    ring = rung(pair(100, 60), n_orbits=3, share=0.003, ring=2)
    assert with_scores(item(*ladder, ring)).strength_share == 0.003
    assert with_scores(item(ladder[0], ladder[3])).strength_share is None
    # What was called so before does not count as turned.
    before = rung(pair(100, 49, 0, 30), share=0.001)
    assert with_scores(item(before)).strength_share is None


def test_the_sufficient_share_is_the_smallest_with_half_of_the_way_from_chance() -> None:
    def kept(share: float, own: int, others: int) -> Rung:
        rates = {"kept": Rate(hits=own, n=40), "kept_foreign": Rate(hits=others, n=40)}
        return rung(pair(40, 0), share=share, **rates)

    ladder = [kept(0.002, 40, 21), kept(0.01, 30, 10), kept(0.05, 40, 0), rung(pair(40, 0), share=0.001)]
    assert with_scores(item(*ladder)).sufficient_share == 0.01
    assert with_scores(item(ladder[0], ladder[3])).sufficient_share is None
    assert ladder[1].sufficiency == pytest.approx(0.5)
    assert ladder[3].sufficiency is None


# What else it could be.


def test_a_default_class_is_where_nearly_empty_images_of_others_land() -> None:
    for hits, expected in ((12, ("default class",)), (11, ())):
        emptiest = rung(pair(40, 0), kept_foreign=Rate(hits=hits, n=40), kept=Rate(hits=40, n=40))
        fuller = rung(
            pair(40, 0),
            n_orbits=9,
            share=0.02,
            kept_foreign=Rate(hits=40, n=40),
            kept=Rate(hits=40, n=40),
        )
        (told,) = judged(item(emptiest, fuller))
        assert told.confounds == expected
        assert ("default class" in told.reason) == bool(expected)
        assert ("30%" in told.reason) == bool(expected)


def test_a_colour_cue_is_one_that_moves_with_dc_alone() -> None:
    still = rung(pair(40, 0))
    (told,) = judged(item(still, colour=pair(100, 12)))
    assert told.confounds == ("colour",)
    assert "12%" in told.reason
    for colour in (None, pair(100, 9), pair(20, 4, 1), pair(100, 5, 40)):
        assert judged(item(still, colour=colour))[0].confounds == ()


def test_a_fragile_class_is_one_that_random_orbits_cost_as_much() -> None:
    def with_losses(lost: int, lost_at_random: int) -> Rung:
        """Of 50 images all were right; removing the orbits loses so many, or so many."""
        losses = pair(50, lost, 0, 50 - lost)
        # Without random orbits, against without these.
        right, right_at_random = 50 - lost, 50 - lost_at_random
        both = min(right, right_at_random)
        over = pair(50, right_at_random - both, right - both, both)
        return rung(pair(50, 0), losses=losses, losses_over_random=over)

    assert judged(item(with_losses(30, 25)))[0].confounds == ("fragile",)
    assert "fragile" in judged(item(with_losses(30, 25)))[0].reason
    # Its own orbits cost far more; or random ones cost little.
    assert judged(item(with_losses(30, 10)))[0].confounds == ()
    assert judged(item(with_losses(9, 9)))[0].confounds == ()


# Reasons.


def test_the_reason_of_a_shortcut_holds_the_numbers_of_the_finding() -> None:
    found = rung(
        pair(100, 49, 0, 2),
        pair(100, 50, 0, 1),
        n_orbits=3,
        share=0.006,
        flips_over_random=pair(100, 46, 0, 5),
        losses=pair(100, 31, 0, 60),
    )
    (told,) = judged(item(found))
    assert told.reason == (
        "3 orbits near 15 cycles/image, 0.6% of the spectrum, turn 49% of other images into “horse” (the"
        " same of other images 0%, random ones of the same radii 3%); removing them costs “horse” 31"
        " points."
    )


def test_the_reason_of_one_orbit_is_in_the_singular() -> None:
    found = rung(pair(100, 49), pair(100, 49), radius=(3.0, 3.0), losses=pair(100, 0, 0, 90))
    reason = judged(item(found))[0].reason
    assert reason.startswith("1 orbit near 3 cycles/image, 0.2% of the spectrum, turns 49% of")
    assert "“horse” does not fall when they are removed" in reason


def test_the_reason_against_a_shortcut_says_what_cannot_be_excluded() -> None:
    (told,) = judged(item(rung(pair(400, 20), pair(400, 12))))
    assert told.verdict == "no shortcut"
    high = min(pair(400, 20).interval[1], pair(400, 12).interval[1])
    assert "at most 3% over" in told.reason
    assert f"up to {100 * high:.0f}%" in told.reason


def test_the_reason_of_an_open_case_gives_the_interval_and_q() -> None:
    (told,) = judged(item(alone(20, 3)))
    assert told.verdict == "inconclusive"
    low, high = pair(20, 3).interval
    assert "turns 15% of other images" in told.reason
    assert f"{100 * low:.0f}% to {100 * high:.0f}% over the nulls, q 0.12" in told.reason


# Where in the spectrum.

GRID = FrequencyGrid(32, 32)


def extent(
    *places: list[tuple[int, int]],
    turned: tuple[int, ...] = (),
    importance: dict[tuple[int, int], float] | None = None,
    grid: FrequencyGrid = GRID,
    **more: Any,
) -> Extent:
    """Extent of rungs with orbits at `places`, the last of which does the most by default."""
    ladder = [
        rung(
            pair(100, count),
            pair(100, count),
            n_orbits=len(each),
            share=grid.members[[grid.orbit_of(*p) for p in each]].sum() / 1023,
            **more,
        )
        for each, count in zip(places, turned or range(20, 20 + 30 * len(places), 30), strict=True)
    ]
    matters = np.zeros(grid.n_orbits)
    for place in {p for each in places for p in each}:
        matters[grid.orbit_of(*place)] = (importance or {}).get(place, 1.0)
    orbits = [np.array([grid.orbit_of(*place) for place in each]) for each in places]
    return extent_of(ladder, orbits, matters, grid)


@pytest.mark.parametrize(
    ("place", "band"),
    [
        ((3, 0), "low"),
        ((0, 4), "mid"),
        ((8, 0), "mid"),
        ((0, 11), "mid"),
        ((0, 12), "high"),
        ((9, 9), "high"),
    ],
)
def test_bands_are_quarters_of_nyquist(place: tuple[int, int], band: str) -> None:
    assert extent([place]).band == band


def test_where_no_band_holds_two_thirds_it_is_all_of_them() -> None:
    low, mid, high = [(1, 0), (0, 1)], [(7, 2), (2, 7)], [(14, 0), (0, 14)]
    assert extent([*low, *mid, *high]).band == "all"
    assert extent([*mid, mid[0], low[0]]).band == "mid"


@pytest.mark.parametrize(
    ("places", "direction"),
    [
        ([(0, 5)], 0.0),
        ([(5, 0)], 90.0),
        ([(5, 5)], 45.0),
        ([(-5, 5)], -45.0),
        ([(0, 5), (0, 9), (1, 12)], 2.4),
        ([(0, 5), (5, 0)], None),
        ([(5, 5), (-5, 5)], None),
        # Either side of the vertical is one way.
        ([(9, 1), (-9, 1)], 90.0),
    ],
)
def test_direction_is_that_of_waves_that_run_the_same_way(
    places: list[tuple[int, int]], direction: float | None
) -> None:
    found = extent(places).direction
    if direction is None:
        assert found is None
    else:
        assert found is not None
        # Directions turn round at 90 degrees.
        assert abs((found - direction + 90) % 180 - 90) < 1.0


def test_a_few_waves_are_narrow_and_a_ring_is_not() -> None:
    assert extent([(3, 11)]).narrow
    assert extent([(3, 11), (1, 12)]).narrow
    assert not extent([(3, 11), (1, 12)], ring=4).narrow
    many = [(12, v) for v in range(9)]
    assert not extent(many).narrow
    assert len(extent(many).orbits) == 8
    assert extent(many).n_orbits == 9


def test_waves_that_any_others_of_their_radius_could_stand_for_are_not_narrow() -> None:
    assert not extent([(3, 11)], flips_over_random=pair(100, 9)).narrow
    assert extent([(3, 11)], flips_over_random=pair(100, 11)).narrow


def test_the_extent_is_of_the_smallest_rung_that_does_most_and_of_orbits_that_matter_as_much() -> None:
    ladder = [[(0, 9)], [(0, 9), (0, 10)], [(0, 9), (0, 10), (3, 3), (1, 1)]]
    weak = {(0, 9): 1.0, (0, 10): 0.9, (3, 3): 0.26, (1, 1): 0.24}
    found = extent(*ladder, turned=(5, 50, 55), importance=weak)
    assert found.orbits == ((0, 9), (0, 10), (3, 3))
    assert found.n_orbits == 3
    assert found.radius == (pytest.approx(math.hypot(3, 3)), 10.0)
    assert extent(*ladder, turned=(50, 50, 55), importance=weak).orbits[0] == (0, 9)


def test_the_kind_says_it_in_words_and_a_clear_class_has_none() -> None:
    found = extent([(0, 12)])
    told = decided(
        [
            with_scores(item(alone(100, 49), extent=found)),
            with_scores(item(rung(pair(400, 0)), extent=found)),
        ]
    )
    assert told[0].kind == "high band, narrow, one direction"
    assert told[1].extent is None
    assert told[1].kind == ""
