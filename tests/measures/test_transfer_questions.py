"""From counts to what a shortcut does on another set: thresholds, nulls, corrections, words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import pair
from transferred import outcome

from shortcut_audit.measures import transfer_questions
from shortcut_audit.measures.transfer_questions import effects_of
from shortcut_audit.results.statistics import (
    adjusted_p_values,
    paired_p_value,
)
from shortcut_audit.results.transfer_findings import ClassTransfer


def told(*items: ClassTransfer) -> list[ClassTransfer]:
    return effects_of(list(items))


ILLUSION: dict[str, Any] = {"exchanged": 6, "without": 8}
DROP: dict[str, Any] = {
    "here": 6,
    "exchanged": 6,
    "without": 6,
    "without_random": 6,
    "restored": 34,
    "restored_foreign": 7,
}


def test_a_class_that_falls_when_its_orbits_are_exchanged_is_an_illusion() -> None:
    (item,) = told(outcome(**ILLUSION))
    assert item.effect == "illusion"
    assert item.props == pytest.approx(28 / 40)
    assert item.lacks == pytest.approx(0.0)
    # The weakest null counts, twice over for two questions.
    assert item.p_value == 2 * paired_p_value(28, 0)
    assert "is recalled in 90% of its images (at home 90%), and in 15% once" in item.reason
    assert item.needed == ""


def test_a_class_that_comes_back_with_its_orbits_is_a_drop() -> None:
    (item,) = told(outcome(**DROP))
    assert item.effect == "drop"
    assert item.lacks == pytest.approx(27 / 40)
    assert item.props == 0.0
    assert "falls from 90% to 15%, and comes back to 85%" in item.reason
    assert "(with those of other classes 18%)" in item.reason


@pytest.mark.parametrize("null", ["exchanged", "without"])
def test_no_null_may_do_as_much_for_an_illusion(null: str) -> None:
    (item,) = told(outcome(**{**ILLUSION, null: 35}))
    assert item.effect != "illusion"
    assert item.props == pytest.approx(1 / 40)


def test_nor_may_random_orbits() -> None:
    (item,) = told(outcome(**ILLUSION, without_random=9))
    assert item.effect != "illusion"
    # Where there are none to draw, the others stand alone.
    (item,) = told(outcome(**ILLUSION, without_random=None))
    assert item.effect == "illusion"


@pytest.mark.parametrize(
    "change",
    [{"home": 7}, {"restored": 8}, {"restored_foreign": 33}],
    ids=["no fall", "no return", "any"],
)
def test_no_null_may_do_as_much_for_a_drop(change: dict[str, Any]) -> None:
    (item,) = told(outcome(**{**DROP, **change}))
    assert item.effect != "drop"


# All waves of the radii ------------------------------------------------------------------------------


def test_a_texture_that_is_left_without_its_best_rung_is_an_illusion_once_all_of_it_goes() -> None:
    (item,) = told(outcome(wide=(6, 2, 34)))
    assert item.effect == "illusion"
    assert item.props == pytest.approx(28 / 40)
    # Three questions were asked.
    assert item.p_value == 3 * paired_p_value(28, 0)
    assert item.reason.endswith(
        "is recalled in 90% of its images (at home 90%), and in 15% once all waves of the shortcut's"
        " radii (10% of the spectrum) are those of other classes (those of its own class's other images:"
        " 85%)."
    )
    # The best rung did nothing by itself.
    assert told(outcome())[0].props == 0.0


@pytest.mark.parametrize("wide", [(35, 2, 36), (6, 35, 34), (6, 2, 7)], ids=["exchanged", "out", "own"])
def test_no_null_of_all_waves_may_do_as_much(wide: tuple[int, int, int]) -> None:
    """The last: where the like of its own class's images costs as much, the exchange does it."""
    (item,) = told(outcome(wide=wide))
    assert item.effect != "illusion"
    assert item.props == pytest.approx(1 / 40)


def test_nothing_is_no_effect_before_all_waves_are_ruled_out_too() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("here", "home", "exchanged", "without", "without_random", "restored", "restored_foreign"), 90
    )
    (item,) = told(outcome(100, **nothing))
    assert item.effect == "no effect"
    (item,) = told(outcome(100, **nothing, wide=(90, 90, 90)))
    assert item.effect == "no effect"
    (item,) = told(outcome(100, **nothing, wide=(81, 50, 90)))
    assert item.effect == "inconclusive"
    assert "would decide it" in item.needed


def test_the_larger_of_the_best_rung_and_all_waves_is_what_is_told() -> None:
    (item,) = told(outcome(**ILLUSION, wide=(20, 2, 36)))
    assert item.effect == "illusion"
    assert item.props == pytest.approx(28 / 40)
    assert "these orbits are those of other classes" in item.reason
    (item,) = told(outcome(**ILLUSION, wide=(2, 2, 36)))
    assert item.effect == "illusion"
    assert item.props == pytest.approx(34 / 40)
    assert "radii" in item.reason


@pytest.mark.parametrize("verdict", ["inconclusive", "no shortcut"])
def test_all_waves_convict_nobody_that_is_not_convicted_at_home(verdict: str) -> None:
    (item,) = told(outcome(wide=(6, 2, 34), verdict=verdict))
    assert item.effect == ("no effect" if verdict == "no shortcut" else "inconclusive")
    assert "radii" not in item.reason


# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["not judged", "inconclusive", "no shortcut"])
@pytest.mark.parametrize("counts", [ILLUSION, DROP])
def test_only_a_shortcut_can_be_one(verdict: str, counts: dict[str, Any]) -> None:
    (item,) = told(outcome(**counts, verdict=verdict))
    assert item.effect == ("no effect" if verdict == "no shortcut" else "inconclusive")
    assert item.needed == ""
    if verdict == "no shortcut":
        assert item.p_value is None
        assert item.reason == "On its own images “ant” hangs on no shortcut, so that none travels."
    else:
        assert "is open on its own images; so is what it does here" in item.reason


def test_an_open_class_whose_orbits_do_nothing_here_is_not_called_open_here() -> None:
    (item,) = told(
        outcome(
            200,
            here=180,
            home=180,
            exchanged=180,
            without=180,
            without_random=180,
            restored=180,
            restored_foreign=180,
            verdict="inconclusive",
        )
    )
    assert item.effect == "no effect"
    assert "open" not in item.reason
    assert "little here" in item.reason


def test_the_larger_of_both_effects_is_the_one_told() -> None:
    both: dict[str, Any] = {"here": 20, "home": 40, "restored": 38, "restored_foreign": 20}
    (item,) = told(outcome(**both, exchanged=0, without=0, without_random=20))
    assert (item.effect, item.props, item.lacks) == ("illusion", 0.5, 0.45)
    (item,) = told(outcome(**both, exchanged=4, without=4, without_random=20))
    assert (item.effect, item.props, item.lacks) == ("drop", 0.4, 0.45)


@pytest.mark.parametrize(("lost", "effect"), [(19, "no effect"), (20, "illusion")])
def test_an_effect_is_a_tenth_of_the_images_and_no_less(lost: int, effect: str) -> None:
    kept = 190 - lost
    (item,) = told(
        outcome(
            200,
            here=190,
            home=190,
            exchanged=kept,
            without=kept,
            without_random=190,
            restored=190,
            restored_foreign=190,
        )
    )
    assert item.effect == effect


def test_nothing_is_no_effect_once_what_matters_is_ruled_out() -> None:
    nothing: dict[str, Any] = {
        "here": 9,
        "home": 9,
        "exchanged": 9,
        "without": 9,
        "without_random": 9,
        "restored": 9,
        "restored_foreign": 9,
    }
    (few,) = told(outcome(10, **nothing))
    assert few.effect == "inconclusive"
    (many,) = told(outcome(100, **{name: 10 * value for name, value in nothing.items()}))
    assert many.effect == "no effect"
    assert many.p_value == 1.0


def test_q_is_adjusted_over_tested_classes_alone() -> None:
    weak: dict[str, Any] = {"exchanged": 30, "without": 30}
    items = [outcome(**ILLUSION, name="a"), outcome(**weak, name="b")]
    others = [outcome(**weak, name=f"n{n}", verdict="no shortcut") for n in range(30)]
    alone, beside = told(*items), told(*others[:15], *items, *others[15:])
    assert [item.q_value for item in alone] == adjusted_p_values([item.p_value for item in alone])
    assert beside[15:17] == alone
    assert all(item.q_value is None for item in (*beside[:15], *beside[17:]))
    # 2 * 0.5 ** 6 is small by itself, and not among twenty.
    assert alone[1].effect == "illusion"
    crowd = [outcome(verdict="shortcut", name=f"s{n}") for n in range(20)]
    assert told(items[1], *crowd)[0].effect == "inconclusive"


counts_of_40 = st.integers(0, 40)


@st.composite
def outcomes(draw: st.DrawFn) -> ClassTransfer:
    names = ("here", "home", "exchanged", "without", "without_random", "restored", "restored_foreign")
    wide = draw(st.none() | st.tuples(counts_of_40, counts_of_40, counts_of_40))
    counted: dict[str, Any] = {name: draw(counts_of_40) for name in names}
    return outcome(40, **counted, wide=wide)


@given(outcomes())
@settings(max_examples=60)
def test_what_is_told_follows_from_what_is_counted(item: ClassTransfer) -> None:
    (found,) = told(item)
    best = min(found.replaced.difference, found.removed.difference)
    if found.wide_replaced is None:
        assert found.props <= best
    else:
        assert found.wide_removed is not None
        assert found.wide_over_own is not None
        pairs = (found.wide_replaced, found.wide_removed, found.wide_over_own)
        assert found.props <= max(best, min(pair.difference for pair in pairs))
    assert found.lacks <= min(found.drop + 1e-12, found.restored.difference)
    assert 0 <= (found.p_value or 0.0) <= (found.q_value or 0.0) <= 1
    if found.effect == "illusion":
        assert found.props >= 0.1
        assert found.props >= found.lacks or found.lacks < 0.1 or (found.p_value or 1) <= 0.05
    if found.effect == "drop":
        assert found.lacks >= 0.1
        assert found.recall.hits < found.recall_home.hits
    is_open = found.effect == "inconclusive" and "carries the cue" not in found.reason
    assert (found.needed != "") == is_open


@given(outcomes())
@settings(max_examples=60)
def test_a_stronger_fall_is_never_less_of_an_illusion(item: ClassTransfer) -> None:
    lost = item.replaced.second.hits, item.removed.second.hits
    less = [max(0, hits - 5) for hits in lost]
    assert item.removed_over_random is not None
    stronger = outcome(
        40,
        here=item.recall.hits,
        home=item.recall_home.hits,
        exchanged=less[0],
        without=less[1],
        without_random=item.removed_over_random.first.hits,
        restored=item.restored.first.hits,
        restored_foreign=item.restored_over_foreign.second.hits,
        wide=None
        if item.wide_replaced is None or item.wide_removed is None or item.wide_over_own is None
        else (
            item.wide_replaced.second.hits,
            item.wide_removed.second.hits,
            item.wide_over_own.first.hits,
        ),
    )
    (before,), (after,) = told(item), told(stronger)
    assert after.props >= before.props
    assert after.lacks == before.lacks
    if before.effect == "illusion":
        assert after.effect == "illusion"


@pytest.mark.parametrize(
    "counts",
    [
        {"n": 3, "here": 3, "home": 3, "exchanged": 0, "without": 0, "without_random": 3,
         "restored": 3, "restored_foreign": 3},
        {"n": 10, "here": 9, "home": 9, "exchanged": 9, "without": 9, "without_random": 9,
         "restored": 9, "restored_foreign": 9},
        {"n": 20, "here": 15, "home": 18, "exchanged": 12, "without": 12, "without_random": 15,
         "restored": 16, "restored_foreign": 15},
        {"n": 4, "here": 0, "home": 4, "exchanged": 0, "without": 0, "without_random": 0,
         "restored": 4, "restored_foreign": 0},
    ],
    ids=["three", "none", "some", "four"],
)  # fmt: skip
def test_what_would_decide_it_does(counts: dict[str, Any]) -> None:
    """As many images as `needed` says, at the same rates."""
    (item,) = told(outcome(**counts))
    assert item.effect == "inconclusive"
    named = re.match(r"About (\d+) images of “ant” here.* would decide it", item.needed)
    assert named is not None, item.needed
    n = int(named[1])
    assert n > counts["n"]
    factor = n / counts["n"]
    more: dict[str, Any] = {name: round(value * factor) for name, value in counts.items()}
    # Rates that do not come out even are rounded; a tenth more images take care of that.
    more = {name: round(value * 1.1) if name != "n" else round(n * 1.1) for name, value in more.items()}
    assert told(outcome(**more))[0].effect != "inconclusive"


def test_where_no_number_of_images_would_decide_it_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_questions, "_FACTORS", (1.25,))
    (item,) = told(
        outcome(
            3, here=3, home=3, exchanged=0, without=0, without_random=3, restored=3, restored_foreign=3
        )
    )
    assert item.effect == "inconclusive"
    assert item.needed == (
        "Even 1.25 times as many images might not decide it: what it does is borderline."
    )


@pytest.mark.parametrize(("here", "home"), [(100, 120), (10, 30), (140, 160), (40, 60), (180, 200)])
def test_a_fall_of_a_tenth_is_a_tenth(here: int, home: int) -> None:
    """Rates would make it a hair less: 0.6 - 0.5 is 0.09999999999999998."""
    (item,) = told(
        outcome(
            200,
            here=here,
            home=home,
            exchanged=here,
            without=here,
            without_random=here,
            restored=home,
            restored_foreign=0,
            change=pair(200, here, home, here),
            change_p_value=paired_p_value(home - here, 0),
            change_interval=pair(200, here, home, here).interval,
        )
    )
    assert item.lacks == 0.1
    assert item.effect == "drop"
