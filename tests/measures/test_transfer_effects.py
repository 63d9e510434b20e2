"""From counts to what a shortcut does on another set: thresholds, nulls, corrections, words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import pair

from shortcut_audit.measures import transfer_effects
from shortcut_audit.measures.transfer_effects import effects_of
from shortcut_audit.measures.transfer_groups import groups_of
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.statistics import (
    adjusted_p_values,
    paired_p_value,
    unpaired_interval,
    unpaired_p_value,
)
from shortcut_audit.results.transfer_findings import ClassTransfer


def outcome(
    n: int = 40,
    *,
    here: int = 36,
    home: int = 36,
    exchanged: int = 36,
    without: int = 36,
    without_random: int | None = 36,
    restored: int = 36,
    restored_foreign: int = 36,
    name: str = "ant",
    **more: Any,
) -> ClassTransfer:
    """`n` images on both sides; of each, how many were called by the class."""

    def against(first: int, second: int) -> Paired:
        return pair(n, first, second, min(first, second))

    values: dict[str, Any] = {
        "class_name": name,
        "verdict": "shortcut",
        "n_images": n,
        "recall": Rate(hits=here, n=n),
        "recall_home": Rate(hits=home, n=n),
        "change_p_value": unpaired_p_value(home, n, here, n),
        "change_interval": unpaired_interval(here, n, home, n),
        "false_calls": Rate(hits=0, n=n),
        "tpr_kept": Rate(hits=20, n=n) if n >= 20 else Rate(hits=0, n=n),
        "fpr_kept": Rate(hits=0, n=n),
        "tpr_kept_home": Rate(hits=20, n=n) if n >= 20 else Rate(hits=0, n=n),
        "n_orbits": 2,
        "share": 0.01,
        "replaced": against(here, exchanged),
        "removed": against(here, without),
        "removed_over_random": None if without_random is None else against(without_random, without),
        "restored": against(restored, here),
        "restored_over_foreign": against(restored, restored_foreign),
        "flips": against(n // 2, 0),
        "flips_over_foreign": against(n // 2, 0),
        "flips_over_erased": against(n // 2, 0),
        **more,
    }
    return ClassTransfer(**values)


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
    nothing = {
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
    weak = {"exchanged": 30, "without": 30}
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
    return outcome(40, **{name: draw(counts_of_40) for name in names})


@given(outcomes())
@settings(max_examples=60)
def test_what_is_told_follows_from_what_is_counted(item: ClassTransfer) -> None:
    (found,) = told(item)
    assert found.props <= min(found.replaced.difference, found.removed.difference)
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
def test_what_would_decide_it_does(counts: dict[str, int]) -> None:
    """As many images as `needed` says, at the same rates."""
    (item,) = told(outcome(**counts))
    assert item.effect == "inconclusive"
    named = re.match(r"About (\d+) images of “ant” here.* would decide it", item.needed)
    assert named is not None, item.needed
    n = int(named[1])
    assert n > counts["n"]
    factor = n / counts["n"]
    more = {name: round(value * factor) for name, value in counts.items()}
    # Rates that do not come out even are rounded; a tenth more images take care of that.
    more = {name: round(value * 1.1) if name != "n" else round(n * 1.1) for name, value in more.items()}
    assert told(outcome(**more))[0].effect != "inconclusive"


def test_where_no_number_of_images_would_decide_it_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_effects, "_FACTORS", (1.25,))
    (item,) = told(
        outcome(
            3, here=3, home=3, exchanged=0, without=0, without_random=3, restored=3, restored_foreign=3
        )
    )
    assert item.effect == "inconclusive"
    assert item.needed == (
        "Even 1.25 times as many images might not decide it: what it does is borderline."
    )


# Groups ---------------------------------------------------------------------------------------------


def slow_groups(items: list[ClassTransfer]) -> list[dict[str, Any]]:
    """HFSS's curves, by the words of the paper."""

    def mean(values: list[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return sum(present) / len(present) if present else None

    curve = []
    for tenth in range(1, 10):
        above = [i for i in items if i.tpr_kept_home.hits * 10 > tenth * i.tpr_kept_home.n]
        below = [i for i in items if i not in above]
        curve.append(
            {
                "threshold": tenth / 10,
                "n_above": len(above),
                "n_below": len(below),
                "full_above": mean([i.recall.value for i in above]),
                "full_below": mean([i.recall.value for i in below]),
                "kept_above": mean([i.tpr_kept.value for i in above]),
                "kept_below": mean([i.tpr_kept.value for i in below]),
            }
        )
    return curve


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8
    )
)
def test_groups_are_those_of_the_slow_replica(rates: list[tuple[int, int, int]]) -> None:
    items = [
        outcome(
            20, here=here, home=20, exchanged=here, without=here, without_random=here, restored=here,
            restored_foreign=here, name=f"class{n}", tpr_kept_home=Rate(hits=kept_home, n=20),
            tpr_kept=Rate(hits=kept, n=20),
        )
        for n, (here, kept, kept_home) in enumerate(rates)
    ]  # fmt: skip
    for point, slow in zip(groups_of(items), slow_groups(items), strict=True):
        assert point.model_dump() == pytest.approx(slow)
        assert point.n_above + point.n_below == len(items)


def test_a_class_right_on_a_threshold_is_below_it() -> None:
    item = outcome(20, here=10, home=20, exchanged=10, without=10, without_random=10, restored=10,
                   restored_foreign=10, tpr_kept_home=Rate(hits=6, n=20))  # fmt: skip
    points = groups_of([item])
    assert [point.n_above for point in points] == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert points[2].full_above is None
    assert points[2].full_below == 0.5


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
