"""What a shortcut does on another set, from counts: holds the score up, is missed, or neither.

Two questions, each against nulls. Does the shortcut hold recall up there? Then the class falls when its
orbits give way to those of other classes, and falls more than without random ones. Is it missing there?
Then recall is lower than at home, and comes back once images hold the orbits of the audit's own images
of the class, and not those of other classes.

The first is asked twice: of the best rung, and of that with all waves of its radii. A few waves of a
texture are enough to bring it, but have to go all together to take it away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shortcut_audit.measures.verdicts import EFFECT, RULED_OUT, SIGNIFICANT
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.statistics import (
    adjusted_p_values,
    paired_p_value,
    unpaired_interval,
    unpaired_p_value,
)
from shortcut_audit.results.transfer_findings import ClassTransfer, Effect

__all__ = ["effects_of"]

# Multiples of the images there were that are looked at for what would decide an open case.
_FACTORS = (1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
# What the questions go by.
_PAIRS = (
    "change",
    "replaced",
    "removed",
    "removed_over_random",
    "wide_replaced",
    "wide_removed",
    "wide_over_own",
    "restored",
    "restored_over_foreign",
)


@dataclass(frozen=True)
class _Question:
    """Its size over every null, whether it is sure, and what cannot be excluded; the effect that it
    stands for, and whether it is asked of all waves of the radii."""

    effect: Effect
    size: float
    p_value: float
    low: float
    high: float
    wide: bool = False


def _question(effect: Effect, pairs: Sequence[Paired], *, wide: bool = False) -> _Question:
    return _Question(
        effect=effect,
        size=min(pair.difference for pair in pairs),
        p_value=max(pair.p_value for pair in pairs),
        low=min(pair.interval[0] for pair in pairs),
        high=min(pair.interval[1] for pair in pairs),
        wide=wide,
    )


def _props(item: ClassTransfer) -> _Question:
    """Does the shortcut hold recall up there?"""
    pairs = [item.replaced, item.removed, item.removed_over_random]
    return _question("illusion", [pair for pair in pairs if pair is not None])


def _props_wide(item: ClassTransfer) -> _Question | None:
    """The same of all waves of its radii; no question where these are no more.

    So wide an exchange costs by itself: what counts is what it costs beyond one with other images of the
    class. Random orbits of the same radii there are none.
    """
    pairs = (item.wide_replaced, item.wide_removed, item.wide_over_own)
    asked = [pair for pair in pairs if pair is not None]
    return _question("illusion", asked, wide=True) if asked else None


def _taken_out(item: ClassTransfer) -> _Question:
    """Does recall hang on the orbits there, whoever else has the like of them?"""
    pairs = [item.removed, item.removed_over_random]
    return _question("illusion", [pair for pair in pairs if pair is not None])


def _is_everywhere(item: ClassTransfer) -> bool:
    """Whether the class hangs on the orbits there, and images of other classes serve as well."""
    taken = _taken_out(item)
    return (
        taken.low > 0
        and taken.size >= EFFECT
        and item.replaced.difference < taken.size / 2
        and (item.false_calls.value or 0.0) >= EFFECT
    )


def _lacks(item: ClassTransfer) -> _Question:
    """Is it missing there, so that the class falls?

    Of the best rung alone: it does most of what any would, once it is put in.
    """
    pairs = _question("drop", [item.restored, item.restored_over_foreign])
    # The interval is of recall there less that at home.
    fall_low, fall_high = -item.change_interval[1], -item.change_interval[0]
    p_value = item.change_p_value if item.change_p_value is not None else 1.0
    return _Question(
        effect="drop",
        size=min(item.drop, pairs.size),
        p_value=max(p_value, pairs.p_value),
        low=min(fall_low, pairs.low),
        high=min(fall_high, pairs.high),
    )


def _questions(item: ClassTransfer) -> list[_Question]:
    """What is asked of a class."""
    asked = (_props(item), _props_wide(item), _lacks(item))
    return [question for question in asked if question is not None]


def _p_value(questions: Sequence[_Question]) -> float:
    """Of none of the questions being answered yes (Bonferroni)."""
    return min(1.0, len(questions) * min(question.p_value for question in questions))


def effects_of(items: Sequence[ClassTransfer]) -> list[ClassTransfer]:
    """`items` with both effects, p, q over the classes of the set, and what the shortcut does there."""
    questions = [_questions(item) for item in items]
    # A class without a shortcut of its own has none that could travel, and is no comparison.
    p_values = [
        _p_value(asked) if item.verdict != "no shortcut" else None
        for item, asked in zip(items, questions, strict=True)
    ]
    q_values = adjusted_p_values(p_values)
    told = []
    for item, asked, p_value, q_value in zip(items, questions, p_values, q_values, strict=True):
        sure = _decisive(item, asked, q_value)
        effect = _effect(item, asked, sure)
        found = item.model_copy(
            update={
                "props": max(each.size for each in asked if each.effect == "illusion"),
                "lacks": max(each.size for each in asked if each.effect == "drop"),
                "effect": effect,
                "p_value": p_value,
                "q_value": q_value,
                "reason": _reason(item, effect, sure),
            }
        )
        # Where other classes carry the cue too, more images would tell no more.
        is_open = effect == "inconclusive" and item.verdict == "shortcut" and not _is_everywhere(item)
        told.append(found.model_copy(update={"needed": _needed(found)}) if is_open else found)
    return told


def _decisive(item: ClassTransfer, asked: Sequence[_Question], q_value: float | None) -> _Question | None:
    """The question whose answer is sure, the one of the largest effect where several are."""
    sure = [
        question
        for question in asked
        if question.size >= EFFECT
        and question.low > 0
        and q_value is not None
        and q_value <= SIGNIFICANT
        and len(asked) * question.p_value <= SIGNIFICANT
    ]
    return max(sure, key=lambda each: each.size) if sure and item.verdict == "shortcut" else None


def _effect(item: ClassTransfer, asked: Sequence[_Question], sure: _Question | None) -> Effect:
    if item.verdict == "no shortcut":
        return "no effect"
    if sure is not None:
        return sure.effect
    every = (*asked, _taken_out(item)) if item.verdict == "shortcut" else asked
    none = all(question.size < EFFECT and question.high < RULED_OUT for question in every)
    return "no effect" if none else "inconclusive"


def _percent(value: float | None) -> str:
    return f"{100 * (value or 0.0):.0f}%"


def _points(value: float) -> str:
    points = round(100 * value)
    return f"{points} point{'s' if abs(points) != 1 else ''}"


def _reason(item: ClassTransfer, effect: Effect, sure: _Question | None) -> str:
    name = f"“{item.class_name}”"
    if item.verdict == "no shortcut":
        return f"On its own images {name} hangs on no shortcut, so that none travels."
    if item.verdict != "shortcut" and effect != "no effect":
        return f"Whether {name} hangs on a shortcut is open on its own images; so is what it does here."
    recall, home = _percent(item.recall.value), _percent(item.recall_home.value)
    if (
        sure is not None
        and sure.wide
        and item.wide_replaced is not None
        and item.wide_over_own is not None
    ):
        return (
            f"The shortcut is here too and holds the score up: {name} is recalled in {recall} of its"
            f" images (at home {home}), and in {_percent(item.wide_replaced.second.value)} once all waves"
            f" of the shortcut's radii ({_percent(item.wide_share)} of the spectrum) are those of other"
            f" classes (those of its own class's other images:"
            f" {_percent(item.wide_over_own.first.value)})."
        )
    if effect == "illusion":
        return (
            f"The shortcut is here too and holds the score up: {name} is recalled in {recall} of its"
            f" images (at home {home}), and in {_percent(item.replaced.second.value)} once these orbits"
            " are those of other classes."
        )
    if effect == "drop":
        return (
            f"The shortcut is missing here: {name} falls from {home} to {recall}, and comes back to"
            f" {_percent(item.restored.first.value)} with these orbits of the audit's own images (with"
            f" those of other classes {_percent(item.restored_over_foreign.second.value)})."
        )
    if effect == "no effect":
        return (
            f"The shortcut does little here: recall is {recall} (at home {home}), exchanging its orbits"
            f" costs {_points(item.replaced.difference)}, and those of the audit's own images bring back"
            f" {_points(item.restored.difference)}."
        )
    if _is_everywhere(item):
        return (
            f"Recall is {recall} (at home {home}) and hangs on the shortcut's orbits: without them"
            f" it falls by {_points(item.removed.difference)}. But those of other classes here do as"
            f" well, and {_percent(item.false_calls.value)} of their images are called {name}: more than"
            " one class here carries the cue, and recall says little."
        )
    return (
        f"Not clear: recall is {recall} (at home {home}); exchanging the shortcut's orbits costs"
        f" {_points(item.replaced.difference)}, and those of the audit's own images bring back"
        f" {_points(item.restored.difference)}."
    )


def _needed(item: ClassTransfer) -> str:
    """Images at which the same rates would be sure, or rule out what matters."""
    # What the adjustment has made of p so far it will make of it then.
    made = (item.q_value or 1.0) / item.p_value if item.p_value else 1.0
    for factor in _FACTORS:
        larger = _larger(item, factor)
        asked = _questions(larger)
        sure = _decisive(larger, asked, min(1.0, made * _p_value(asked)))
        if _effect(larger, asked, sure) != "inconclusive":
            break
    else:
        return (
            f"Even {_FACTORS[-1]} times as many images might not decide it: what it does is borderline."
        )
    wanted = item.n_images * factor
    step = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    enough = math.ceil(wanted / step) * step
    if enough <= item.recall_home.n:
        what, there_were = "", f"{item.n_images}"
    else:
        what, there_were = (
            ", and as many to judge by at home,",
            f"{item.n_images} and {item.recall_home.n}",
        )
    return (
        f"About {enough} images of “{item.class_name}” here{what} would decide it (there were"
        f" {there_were})."
    )


def _larger(item: ClassTransfer, factor: float) -> ClassTransfer:
    """The same rates of `factor` times as many images, and at home of no fewer than there."""
    pairs = {name: _scaled(pair, factor) for name in _PAIRS if (pair := getattr(item, name)) is not None}
    own, home = item.recall, item.recall_home
    at_home = max(1.0, factor * own.n / home.n)
    counts = _times(own, factor), _times(home, at_home)
    change = pairs.get("change")
    return item.model_copy(
        update={
            **pairs,
            "change_p_value": unpaired_p_value(*counts[1], *counts[0])
            if change is None
            else paired_p_value(change.only_second, change.only_first),
            "change_interval": unpaired_interval(*counts[0], *counts[1])
            if change is None
            else change.interval,
        }
    )


def _times(rate: Rate, factor: float) -> tuple[int, int]:
    return math.floor(rate.hits * factor), math.ceil(rate.n * factor)


def _scaled(pair: Paired, factor: float) -> Paired:
    both, first, second = (
        math.floor(count * factor) for count in (pair.both, pair.only_first, pair.only_second)
    )
    return Paired(n=math.ceil(pair.n * factor), both=both, only_first=first, only_second=second)
