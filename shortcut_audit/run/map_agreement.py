"""How far the maps of two runs agree, class by class, beside what their reliability allows.

Results in, findings out; no model is needed, and torch is not loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.model_transfer import Agreement, ClassAgreement, DroppedClass
from shortcut_audit.results.settings import RESPONSES, MapScore
from shortcut_audit.results.statistics import spearman

__all__ = ["agreement_of", "check_comparable"]

_MAPS = "dominant_frequencies"
_NAMED = 5


@dataclass(frozen=True)
class _Ranking:
    """What ranks the orbits of a class: `values` (n_orbits,), the larger the more important, and how
    repeatable that is."""

    values: NDArray[np.float64]
    reliability: float | None


def check_comparable(names: Sequence[str], results: Sequence[AuditResult]) -> None:
    """Raise ResultError where maps lie on different grids: their orbits are different waves."""
    first = results[0]
    for name, result in zip(names[1:], results[1:], strict=True):
        shapes = [(r.grid.height, r.grid.width) for r in (first, result)]
        if shapes[0] != shapes[1]:
            (h1, w1), (h2, w2) = shapes
            raise ResultError(
                f"The maps of {names[0]} are of images of {h1} x {w1} pixels and those of {name} of"
                f" {h2} x {w2}: their orbits are different waves, and cannot be compared.",
                f"Audit both at one size, for example with --size {h1}x{w1}.",
            )


def agreement_of(names: tuple[str, str], results: tuple[AuditResult, AuditResult]) -> Agreement:
    """Agreement of two runs' maps over the classes that both have maps of, in the first one's order.

    Without such a class there is nothing but a note. Raises ResultError for different grids.
    """
    check_comparable(names, results)
    classes = [[item.class_name for item in r.dominant_frequencies.by_class] for r in results]
    shared = [name for name in classes[0] if name in classes[1]]
    score = _common_score(*results)
    share = min(result.model_settings.kept_share for result in results)
    dropped = tuple(
        DroppedClass(side=names[n], class_name=name, reason=f"{names[1 - n]} has no map of it")
        for n in (0, 1)
        for name in classes[n]
        if name not in shared
    )
    return Agreement(
        first=names[0],
        second=names[1],
        share=share,
        by_class=tuple(_of_class(name, results, score, share) for name in shared),
        dropped=dropped,
        notes=_notes(names, results, shared, score)
        if shared
        else (
            f"The maps of {names[0]} and {names[1]} share no class ({_listed(classes[0])} and"
            f" {_listed(classes[1])}), and are not compared: names have to be equal.",
        ),
    )


def _common_score(first: AuditResult, second: AuditResult) -> tuple[MapScore, MapScore]:
    """What to compare each run's orbits by: the score that ranked where it is the same one, else a
    response that both measured, else each run's own."""
    own = tuple(result.dominant_frequencies.response for result in (first, second))
    if own[0] != own[1]:
        # Those that rank come first; in an order of their own, whichever run is named first.
        for response in sorted(RESPONSES, key=lambda each: each not in own):
            if all(f"{_MAPS}/importance/{response}" in r.arrays for r in (first, second)):
                return response, response
    return own[0], own[1]


def _of_class(
    name: str,
    results: tuple[AuditResult, AuditResult],
    scores: tuple[MapScore, MapScore],
    share: float,
) -> ClassAgreement:
    one, other = (_ranking(r, name, score) for r, score in zip(results, scores, strict=True))
    own = scores[0] if scores[0] == scores[1] else None
    members = results[0].arrays["orbits/members"]
    # DC is the mean colour; it takes part where both rankings have it.
    both = np.ones(len(members), dtype=np.bool_)
    both[0] = all(r.model_settings.dc == "rank" for r in results)
    correlation = spearman(one.values[both], other.values[both])
    if correlation is None:
        return ClassAgreement(
            class_name=name, score=own, reason="a map is constant: removing any orbit changes nothing"
        )
    tops = [_top(ranking.values, both, members, share) for ranking in (one, other)]
    sizes = [int(top.sum()) for top in tops]
    ceiling = _ceiling(one.reliability, other.reliability)
    return ClassAgreement(
        class_name=name,
        score=own,
        rank_correlation=correlation,
        ceiling=ceiling,
        overlap=2 * int((tops[0] & tops[1]).sum()) / sum(sizes),
        overlap_by_chance=2 * sizes[0] * sizes[1] / (sum(sizes) * int(both.sum())),
        reason="" if ceiling is not None else "the reliability of a map was not measured",
    )


def _ranking(result: AuditResult, class_name: str, score: MapScore) -> _Ranking:
    finding = result.dominant_frequencies
    row = [item.class_name for item in finding.by_class].index(class_name)
    found = finding.by_class[row]
    known = found.reliability.get(score)
    reliability = None if known is None else known.value
    if score == finding.response and found.resolution_reason:
        # Neighbours share their importance here, and that is what repeats so well: the single
        # importances that are kept beside it do not.
        rank = result.arrays[f"{_MAPS}/rank"][row].astype(np.float64)
        return _Ranking(np.where(rank > 0, -rank, -np.inf), reliability)
    values = result.arrays[f"{_MAPS}/importance/{score}"][row].astype(np.float64)
    return _Ranking(values, reliability)


def _ceiling(first: float | None, second: float | None) -> float | None:
    """sqrt(r1 r2), Spearman's correction for attenuation (1904) turned round; 0 without reliability."""
    if first is None or second is None:
        return None
    return math.sqrt(max(first, 0.0) * max(second, 0.0))


def _top(
    values: NDArray[np.float64],
    ranked: NDArray[np.bool_],
    members: NDArray[np.integer],
    share: float,
) -> NDArray[np.bool_]:
    """The most important of the `ranked` orbits that hold `share` of their bins; at least one."""
    order = np.argsort(-values, kind="stable")
    order = order[ranked[order]]
    within = np.cumsum(members[order]) <= share * members[ranked].sum() + 1e-9
    chosen = np.zeros(len(values), dtype=np.bool_)
    chosen[order[: max(1, int(within.sum()))]] = True
    return chosen


# What a reader must know of two runs that were not made alike.


def _notes(
    names: tuple[str, str],
    results: tuple[AuditResult, AuditResult],
    shared: Sequence[str],
    scores: tuple[MapScore, MapScore],
) -> tuple[str, ...]:
    pair = f"{names[0]} and {names[1]}"
    notes = [
        _on_models(pair, results),
        _on_images(pair, results),
        _on_scores(names, results, scores),
        _on_searches(names, results),
        _on_resolutions(pair, results, shared),
        _on_shares(names, results),
        _on_handling(pair, results),
    ]
    return tuple(note for note in notes if note)


def _on_models(pair: str, results: tuple[AuditResult, AuditResult]) -> str:
    if results[0].model.digest != results[1].model.digest:
        return ""
    return (
        f"{pair} are audits of one model: their agreement says how well its maps repeat, and nothing of"
        " other models."
    )


def _on_images(pair: str, results: tuple[AuditResult, AuditResult]) -> str:
    one, other = (result.provenance.data for result in results)
    if one.digest == other.digest:
        return (
            f"The maps of {pair} rest on the same images, so that they share the chance of which ones"
            " these are: their agreement may come near its ceiling, or pass it, for that alone. Audits"
            " with another --seed would tell."
        )
    if one.spec == other.spec:
        # By chance, of images drawn twice from one set.
        common = min(sum(data.n_search_by_class) for data in (one, other)) / max(one.n_available, 1)
        return (
            f"The maps of {pair} rest on different draws of images from one set ({one.spec}), about"
            f" {common:.0%} of which are to be expected in both: what they have in common lifts their"
            " agreement, even past its ceiling."
        )
    return (
        f"The maps of {pair} rest on different images ({one.spec} and {other.spec}): where they disagree,"
        " it may be for the images and not for the models."
    )


def _on_scores(
    names: tuple[str, str],
    results: tuple[AuditResult, AuditResult],
    scores: tuple[MapScore, MapScore],
) -> str:
    own = [result.dominant_frequencies.response for result in results]
    if own[0] == own[1]:
        return ""
    told = f"{names[0]} ranks orbits by {own[0]}, {names[1]} by {own[1]}"
    if scores[0] == scores[1]:
        return f"{told}; both measured {scores[0]} too, and are compared by that."
    return (
        f"{told}, and they have no score in common: disagreement may lie in what was asked, and not in"
        " the models."
    )


def _on_searches(names: tuple[str, str], results: tuple[AuditResult, AuditResult]) -> str:
    searches = [result.dominant_frequencies.search for result in results]
    if searches[0] == searches[1]:
        return ""
    told = f"The maps of {names[0]} were found by a search that is {searches[0]}, those of {names[1]}"
    return (
        f"{told} by one that is {searches[1]}: a reliability says how well a search repeats itself, not"
        " how near it comes to another, so that the ceiling is too high."
    )


def _on_resolutions(pair: str, results: tuple[AuditResult, AuditResult], shared: Sequence[str]) -> str:
    maps = [{m.class_name: m.resolution for m in r.dominant_frequencies.by_class} for r in results]
    other = [name for name in shared if maps[0][name] != maps[1][name]]
    if not other:
        return ""
    one = other[0]
    return (
        f"{len(other)} of {len(shared)} shared classes are ranked at different resolutions by {pair}"
        f" ({_listed(other)}; {one}: {maps[0][one]} and {maps[1][one]}): fine detail that only one of two"
        " maps has lowers their agreement."
    )


def _on_shares(names: tuple[str, str], results: tuple[AuditResult, AuditResult]) -> str:
    shares = [result.model_settings.kept_share for result in results]
    if shares[0] == shares[1]:
        return ""
    return (
        f"The maps of {names[0]} keep {100 * shares[0]:g}% of the spectrum and those of {names[1]}"
        f" {100 * shares[1]:g}%: overlap is of the top {100 * min(shares):g}% of both rankings."
    )


def _on_handling(pair: str, results: tuple[AuditResult, AuditResult]) -> str:
    """Settings and ways of images to the model that change what a removed orbit is."""
    one, other = (result.model_settings for result in results)
    ways = [result.model.preprocessing for result in results]
    found = []
    if one.clip != other.clip or (one.clip and one.domain != other.domain):
        found.append("filtered images are clipped in one alone, or elsewhere")
    if one.dc != other.dc and "rank" in (one.dc, other.dc):
        found.append("DC is ranked in one alone, and left out of the comparison")
    if len({(w.channels, w.geometry, w.interpolation, w.crop_pct, w.crop_mode) for w in ways}) > 1:
        found.append("images are resized, cropped or turned grey in different ways")
    return f"The runs {pair} were made differently: {'; '.join(found)}." if found else ""


def _listed(names: Sequence[str]) -> str:
    named = ", ".join(repr(name) for name in names[:_NAMED])
    return f"{named} and {len(names) - _NAMED} more" if len(names) > _NAMED else named
