"""What became of shortcuts on other models, in sentences, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence

from shortcut_audit.report.verdict_words import nulls_of, number_text
from shortcut_audit.results.model_transfer import (
    LEAST_CEILING,
    Agreement,
    ClassAgreement,
    DroppedClass,
    JudgedClass,
    JudgedMaps,
    ModelTransferResult,
    Outcome,
)
from shortcut_audit.results.shortcut_findings import ClassShortcut

__all__ = [
    "MOST_TOLD",
    "OUTCOMES",
    "agreement_sentence",
    "by_outcome",
    "class_sentence",
    "cost_sentence",
    "dropped_sentences",
    "judged_sentence",
    "over_ceiling_text",
    "transfer_headline",
    "transfer_notes",
]

# In the order in which a reader looks at them.
OUTCOMES: dict[Outcome, str] = {
    "travels": "travels",
    "stays behind": "stays behind",
    "open there": "open there",
    "there alone": "there alone",
    "open there alone": "open, there alone",
    "open here": "open on its own",
    "neither": "neither",
}
_NAMED, _SENTENCES = 5, 4
# Pairs, of runs or of a run and a model, whose notes all stand at the top; those of more stand beside
# each of them.
MOST_TOLD = 2


def transfer_headline(result: ModelTransferResult) -> str:
    """What was found: first what became of shortcuts, then how alike the maps are."""
    told = [judged_sentence(item) for item in result.judged]
    shown = told[:_SENTENCES]
    if len(told) > _SENTENCES:
        shown.append(f"{len(told) - _SENTENCES} more pairs of a run and a model are told below.")
    if result.agreements:
        shown.append(_agreements_sentence(result.agreements))
    return " ".join(shown)


def judged_sentence(judged: JudgedMaps) -> str:
    """How many shortcuts of the run are shortcuts of the model too, and which."""
    run, model = judged.run, judged.model
    of: dict[str, list[JudgedClass]] = {outcome: [] for outcome in OUTCOMES}
    for item in judged.by_class:
        of[item.outcome].append(item)
    n, n_classes = len(judged.shortcuts), len(judged.by_class)
    classes = f"{n_classes} class{'es' if n_classes > 1 else ''}"
    if run == model and n:
        again = f": {_named(of['travels'])}" if of["travels"] else ""
        text = f"On its own model, {len(of['travels'])} of {n} shortcuts of {run} are found again{again}."
    elif run == model:
        text = f"{run} has no shortcut that could be found again on its own model ({classes} judged)."
    elif not n:
        text = f"{run} has no shortcut to take to {model} ({classes} judged)."
    else:
        travelling = of["travels"]
        verb = "is a shortcut" if len(travelling) == 1 else "are shortcuts"
        which = f": {_named(travelling)}" if travelling else ""
        whole = f"{len(travelling)} of {n} shortcut{'s' if n > 1 else ''} of {run}"
        text = f"{whole} {verb} of {model} too{which}."
        if of["stays behind"]:
            text += f" Not of {model}: {_named(of['stays behind'])}."
        if of["open there"]:
            text += f" Too few images to tell: {_named(of['open there'])}."
    if of["there alone"]:
        text += (
            f" With the map that {run} gave it, {_named(of['there alone'])}"
            f" {'hangs' if len(of['there alone']) == 1 else 'hang'} on a shortcut in {model} alone."
        )
    if of["open here"]:
        text += f" Open on {run} itself: {_named(of['open here'])}."
    return text


def class_sentence(judged: JudgedMaps, item: JudgedClass) -> str:
    """What became of one class."""
    name, run, model = f"“{item.class_name}”", judged.run, judged.model
    as_named = "" if item.data_class == item.class_name else f" (there “{item.data_class}”)"
    here, there = _numbers(item.here), _numbers(item.there)
    same = item.same_rung
    at_rung = (
        f"; the {_rung_words(item)} that do most on {run} turn {_percent(same.flip_rate)} on {model}"
        if same is not None and item.there.best != same and item.outcome != "neither"
        else ""
    )
    told = {
        "travels": f"a shortcut of {run} ({here}), and of {model} too ({there})",
        "stays behind": f"a shortcut of {run} ({here}), and none of {model} ({there})",
        "open there": f"a shortcut of {run} ({here}); on {model} too few images to tell ({there})",
        "there alone": f"no shortcut of {run} ({here}), and with its map one of {model} ({there})",
        "open there alone": (
            f"no shortcut of {run} ({here}); on {model} too few images to tell ({there})"
        ),
        "open here": (
            f"{item.here.verdict} on {run} itself ({here}); on {model} {item.there.verdict} ({there})"
        ),
        "neither": f"a shortcut of neither: on {run} {here}; on {model} {there}",
    }[item.outcome]
    return f"{name}{as_named}: {told}{at_rung}."


def _rung_words(item: JudgedClass) -> str:
    best = item.here.best
    assert best is not None
    if best.ring is not None:
        return f"orbits of {best.radius[0]:.0f}–{best.radius[1]:.0f} cycles/image"
    return f"{best.n_orbits} orbit{'s' if best.n_orbits > 1 else ''}"


def _numbers(item: ClassShortcut) -> str:
    """`49% turned, nulls 1%, 3%, q 0.003`."""
    best = item.best
    if best is None:
        return "not judged"
    nulls = ", ".join(_percent(null) for null in nulls_of(item))
    told = f"{_percent(best.flip_rate)} turned"
    told += f", nulls {nulls}" if nulls else ""
    return f"{told}, q {number_text(item.q_value)}"


def by_outcome(judged: JudgedMaps) -> list[JudgedClass]:
    """Classes in the order of `OUTCOMES`, each by falling score there."""
    order = list(OUTCOMES)
    return sorted(
        judged.by_class, key=lambda item: (order.index(item.outcome), -(item.there.score or 0.0))
    )


def _agreements_sentence(agreements: Sequence[Agreement]) -> str:
    if len(agreements) == 1:
        return agreement_sentence(agreements[0])
    known = [item for item in agreements if item.rank_correlation is not None]
    if not known:
        return f"No two of the {len(agreements)} pairs of runs have maps that could be compared."
    if len(known) == 1:
        return f"{agreement_sentence(known[0])} No other pair of runs could be compared."
    order = sorted(known, key=lambda item: -(item.rank_correlation or 0.0))
    most, least = order[0], order[-1]
    return (
        f"Of {len(agreements)} pairs of runs, the maps of {most.first} and {most.second} agree most"
        f" (rank correlation {_figure(most.rank_correlation)}, {over_ceiling_text(most)}), those of"
        f" {least.first} and {least.second} least ({_figure(least.rank_correlation)},"
        f" {over_ceiling_text(least)})."
    )


def agreement_sentence(pair: Agreement) -> str:
    """How far the maps of two runs agree, beside what their reliability allows."""
    n = len(pair.by_class)
    if pair.rank_correlation is None:
        return f"The maps of {pair.first} and {pair.second} could not be compared."
    classes = f"{n} class{'es' if n > 1 else ''}"
    return (
        f"The maps of {pair.first} and {pair.second} have a rank correlation of"
        f" {_figure(pair.rank_correlation)}, on average over {classes}; {over_ceiling_text(pair)}."
        f" Their top {100 * pair.share:g}% share {_percent(pair.overlap)} of the orbits"
        f" ({_percent(pair.overlap_by_chance)} by chance)."
    )


def over_ceiling_text(item: Agreement | ClassAgreement) -> str:
    """An agreement over its ceiling in words, or why there is none."""
    if item.ceiling is None:
        return "not measured against a ceiling: no reliability"
    if item.over_ceiling is None:
        return f"not measured against a ceiling: reliability too low ({_figure(item.ceiling)})"
    if isinstance(item, ClassAgreement):
        return f"{_figure(item.over_ceiling)} of a ceiling of {_figure(item.ceiling)}"
    n, n_all = len(item.reliable), len(item.by_class)
    over = (
        ""
        if n == n_all
        else f" over the {n} of {n_all} classes whose ceiling is at least {LEAST_CEILING:g}"
    )
    return f"{_figure(item.over_ceiling)} of what their reliability allows{over}"


def dropped_sentences(dropped: Sequence[DroppedClass]) -> list[str]:
    """What was left out and why, classes of one side and reason together."""
    together: dict[tuple[str, str], list[str]] = {}
    for item in dropped:
        together.setdefault((item.side, item.reason), []).append(item.class_name)
    return [
        f"{', '.join(f'“{name}”' for name in names)} of {side}: {reason}."
        for (side, reason), names in together.items()
    ]


def transfer_notes(result: ModelTransferResult) -> tuple[str, ...]:
    """What a reader must know before trusting a number, each told once."""
    notes: list[str] = []
    told: tuple[tuple[Sequence[JudgedMaps | Agreement], str, str], ...] = (
        (result.judged, "judgements", "verdicts"),
        (result.agreements, "pairs of runs", "agreement"),
    )
    for items, what, number in told:
        if len(items) <= MOST_TOLD:
            notes += [note for item in items for note in item.notes]
            continue
        noted = sum(bool(item.notes) for item in items)
        if noted:
            notes.append(
                f"{noted} of {len(items)} {what} have notes on what their {number} may be due to beside"
                " the models: they stand with each on the page."
            )
    if len(result.agreements) > MOST_TOLD:
        notes += _on_same_images(result)
    if any(item.outcome == "stays behind" for judged in result.judged for item in judged.by_class):
        notes.append(
            "A shortcut that stays behind says nothing of other orbits: the other model may have"
            " shortcuts of its own there. An audit of it tells."
        )
    return tuple(dict.fromkeys(notes))


def _on_same_images(result: ModelTransferResult) -> list[str]:
    """The one thing that makes agreement look better than it is, told of all pairs together."""
    data = {run.name: run.data for run in result.runs}
    pairs = [(data[pair.first], data[pair.second]) for pair in result.agreements]
    alike = sum(one.digest == other.digest for one, other in pairs)
    drawn = sum(one.spec == other.spec for one, other in pairs) - alike
    if not alike + drawn:
        return []
    return [
        f"{alike} of {len(pairs)} pairs of runs rest on the same images, and {drawn} on draws from one"
        " set, which may overlap. Such maps share the chance of which images they rest on: their"
        " agreement may come near its ceiling, or pass it, for that alone."
    ]


def cost_sentence(result: ModelTransferResult) -> str:
    """What it took, in image passes."""
    if not result.judged:
        return "Maps were compared as they lie in the runs; no model was run."
    return (
        f"{result.image_passes:,} image passes of judgement. The search of an audit was not run: the"
        " orbits are those that the runs found."
    )


def _named(items: Sequence[JudgedClass]) -> str:
    named = ", ".join(f"“{item.class_name}”" for item in items[:_NAMED])
    more = len(items) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%".replace("-0%", "0%")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
