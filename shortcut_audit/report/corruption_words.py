"""Corruptions in sentences: the same words in the terminal and on the page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.report.summary import percent
from shortcut_audit.report.verdict_words import number_text
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.corruption_findings import (
    ClassShifts,
    CorruptionsFinding,
    Predictor,
    orbit_shares,
)

__all__ = [
    "corruption_sentences",
    "fall_sentences",
    "kind_sentences",
    "mean_changes",
    "named_corruption",
    "orbit_changes",
    "prediction_sentences",
    "quoted",
    "times_text",
]

# Classes that are named for falling most.
_MAX_NAMED = 3
_SIGNIFICANT = 0.05
_MAX_NAME = 40
# An R2 below this is worse than knowing the mean alone, not just as bad.
_NOTHING = -0.05
_PREDICTED_FROM: dict[Predictor, str] = {
    "dominant": "the classes' dominant orbits",
    "all": "all orbits alike",
    "both": "both together",
    "severity": "severity alone",
}


def corruption_sentences(result: AuditResult) -> list[str]:
    """Accuracy by corruption, the classes that fall most, the prediction; none without corruptions."""
    finding = result.corruptions
    if finding is None:
        return []
    return [
        *kind_sentences(result, finding),
        *fall_sentences(result, finding),
        *prediction_sentences(finding),
    ]


def named_corruption(name: str) -> str:
    """`gaussian_noise` as people say it."""
    return "JPEG" if name == "jpeg" else name.replace("_", " ")


def orbit_changes(result: AuditResult, finding: CorruptionsFinding, region: str) -> NDArray[np.float64]:
    """Energy of the difference as a share of what an orbit holds, averaged over the orbits of a region,
    (n_classes, n_shifts); nan where a class has none."""
    energy = result.arrays["corruptions/energy"][:, :, finding.regions.index(region)]
    changes: NDArray[np.float64] = orbit_shares(energy)[..., 2]
    return changes


def mean_changes(result: AuditResult, finding: CorruptionsFinding, region: str) -> NDArray[np.float64]:
    """The same, averaged over the classes that have any orbit there, (n_shifts,)."""
    return _mean(orbit_changes(result, finding, region))


def kind_sentences(result: AuditResult, finding: CorruptionsFinding) -> list[str]:
    """One sentence a corruption: accuracy by severity, and what the strongest does to orbits."""
    clean = finding.accuracy(0).first
    sentences = [
        f"{percent(clean.value)} of {clean.n:,} judgement images are called by their class as they are;"
        " under corruptions, by severity:"
    ]
    regions = ("dominant", "all", *(name for name in finding.regions if name.startswith("band ")))
    changes = {region: mean_changes(result, finding, region) for region in regions}
    for name in finding.corruptions:
        places = [n for n, shift in enumerate(finding.shifts) if shift.corruption == name]
        pairs = [finding.accuracy(n) for n in places]
        severities = _listed([str(finding.shifts[n].severity) for n in places])
        rates = ", ".join(percent(pair.second.value) for pair in pairs)
        last = places[-1]
        bands = {region: changes[region][last] for region in regions if region.startswith("band ")}
        most = max(bands, key=lambda region: np.nan_to_num(bands[region]))
        sentences.append(
            f"{_capitalised(named_corruption(name))} {severities}: {rates}. At"
            f" {finding.shifts[last].severity} the energy of an orbit changes by"
            f" {times_text(changes['dominant'][last])} on average over the dominant orbits, by"
            f" {times_text(changes['all'][last])} over all, most in {most} ({times_text(bands[most])})."
        )
    return sentences


def fall_sentences(result: AuditResult, finding: CorruptionsFinding) -> list[str]:
    """Which classes fall most, under what, and how much of the shifts hits their dominant orbits."""
    order = sorted(finding.by_class, key=lambda item: -item.mean_drop)
    falling = [item for item in order[:_MAX_NAMED] if item.mean_drop > 0]
    if not falling:
        return ["No class loses recall on average over these shifts."]
    sentences = [f"Most is lost by {_listed([_fall(finding, item) for item in falling])}."]
    own = _mean(orbit_changes(result, finding, "dominant").T)
    rest = _mean(orbit_changes(result, finding, "all").T)
    worst = finding.by_class.index(falling[0])
    if np.isfinite(own[worst]):
        sentences.append(
            f"Of {quoted(falling[0].class_name)} the energy of an orbit changes by"
            f" {times_text(own[worst])} over its dominant orbits, by {times_text(rest[worst])} over all,"
            f" on average over the shifts; its map lies {_where(result, falling[0].class_name)}."
        )
    return sentences


def _fall(finding: CorruptionsFinding, item: ClassShifts) -> str:
    """A class, its mean fall, its worst shift, and how many shifts it surely falls under."""
    worst = max(range(len(item.by_shift)), key=lambda n: item.by_shift[n].recall.difference)
    sure = sum(each.q_value <= _SIGNIFICANT for each in item.by_shift)
    return (
        f"{quoted(item.class_name)} ({_points(item.mean_drop)} on average,"
        f" {_points(item.by_shift[worst].recall.difference)} under {finding.shifts[worst]};"
        f" q ≤ {_SIGNIFICANT:g} in {sure} of {len(item.by_shift)} shifts, n {item.n_judge})"
    )


def _where(result: AuditResult, class_name: str) -> str:
    """Bands that hold most of a class's map."""
    names = [item.class_name for item in result.dominant_frequencies.by_class]
    kept = result.arrays["dominant_frequencies/kept"][names.index(class_name)].astype(bool)
    band, members = result.arrays["orbits/band"], result.arrays["orbits/members"]
    shares = [float(members[kept & (band == n)].sum()) for n in range(result.grid.n_bands)]
    total = float(members[kept].sum())
    most = int(np.argmax(shares))
    return f"mostly in band {most + 1} of {result.grid.n_bands} ({percent(shares[most] / total)} of it)"


def prediction_sentences(finding: CorruptionsFinding) -> list[str]:
    """How much of the drop the energy foretells, and whether the dominant orbits say more than all."""
    found = finding.prediction
    dominant = found.score("dominant")
    if dominant is None:
        return [f"How much of the drop the changed energy predicts was not measured: {found.reason}."]
    r2 = dominant.r2_new_corruptions
    sizes = (
        f"cross-validated R2 {r2:.2f} over {found.n_cells} cells, {found.n_corruptions} corruptions,"
        f" {found.n_classes} classes, whole corruptions left out"
    )
    what = "The energy that the shifts change on the classes' dominant orbits"
    if r2 > 0:
        start = f"{what} predicts {100 * r2:.0f}% of the variance of the drop in recall ({sizes};"
    else:
        than = "worse than" if r2 < _NOTHING else "no better than"
        start = (
            f"{what} does not predict the drop in recall under a new corruption: it is {than} the mean"
            f" drop of all cells ({sizes};"
        )
    others = "; ".join(
        f"{_PREDICTED_FROM[score.predictor]}: {score.r2_new_corruptions:.2f}"
        for score in found.scores
        if score.predictor != "dominant"
    )
    sentences = [
        f"{start} {others}; p {number_text(found.p_value)} over {found.n_draws} permutations within"
        " corruptions)."
    ]
    if found.ceiling is not None:
        sentences.append(
            "Recall of so many images has an error of its own: no prediction can be expected to pass an"
            f" R2 of {found.ceiling:.2f}."
        )
    if dominant.r2_new_classes is not None:
        by_class = ", ".join(
            f"{_PREDICTED_FROM[score.predictor]} {score.r2_new_classes:.2f}" for score in found.scores
        )
        sentences.append(f"R2 for classes left out, their corruptions known: {by_class}.")
    return [*sentences, _conclusion(finding)]


def _conclusion(finding: CorruptionsFinding) -> str:
    """Whether the dominant orbits add anything to all orbits."""
    scores = {score.predictor: score.r2_new_corruptions for score in finding.prediction.scores}
    gain = scores["both"] - max(scores["all"], 0.0)
    if gain >= 0.02:
        return f"What is special to the dominant orbits adds {gain:.2f} to what all orbits alike predict."
    return "The dominant orbits add nothing to what all orbits alike predict."


def _mean(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis, of what is there; nan where nothing is."""
    known = np.isfinite(changes)
    total = np.where(known, changes, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def times_text(share: float) -> str:
    """A share that may be far above one, or nan: `12%`, `3.4 times`, a dash."""
    if not np.isfinite(share):
        return "–"
    return f"{share:.1f} times" if share >= 2 else f"{100 * share:.0f}%"


def quoted(name: str) -> str:
    """A class's name, cut where it is too long for a sentence."""
    return f"“{name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + '…'}”"


def _points(share: float) -> str:
    return f"{100 * share:.0f} points"


def _listed(parts: list[str]) -> str:
    """Numbers in a run as 1-5; else with commas, and an `and` before the last."""
    if all(part.isdigit() for part in parts):
        numbers = [int(part) for part in parts]
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{numbers[0]}-{numbers[-1]}"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
