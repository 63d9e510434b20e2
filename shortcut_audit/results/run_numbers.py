"""The numbers of an audit that two audits are compared by: counts, class by class, small enough to keep.

A gate's policy holds them for the audit it was made from, so that later audits are compared with it
without its arrays. Tuples of counts are (hits, n), or (n, both, only_first, only_second) of pairs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import MapReliability, NetShare, Proportion
from shortcut_audit.results.counts import Frozen, Paired
from shortcut_audit.results.findings import ClassMap
from shortcut_audit.results.shortcut_findings import ClassShortcut, Rung, Verdict
from shortcut_audit.results.sketches import sketch_of

__all__ = ["ClassNumbers", "CurvePoint", "Numerics", "RunNumbers", "numbers_of", "paired", "proportion"]

Count = Annotated[int, Field(ge=0)]
Hits = tuple[Count, Count]
Pair = tuple[Count, Count, Count, Count]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
# A rung of more than a tenth of the spectrum counts two thirds (measures/verdicts.py, docs/verdicts.md).
_SLIVER, _BROAD = 0.10, 2 / 3
# Settings that change numbers; arithmetic is told by `Numerics`.
_SETTINGS = (
    "images_per_class",
    "search_share",
    "kept_share",
    "response",
    "budget",
    "resolution",
    "confidence",
    "patch_sides",
    "candidates",
    "steps",
    "dc",
    "domain",
    "clip",
    "seed",
)


class Numerics(Frozen):
    """What can change the last bits of a number, and with them the class of an image on the border."""

    device: str
    dtype: str
    torch: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.device}, {self.dtype}, torch {self.torch}, batches of {self.batch_size}"


class CurvePoint(Frozen):
    """A rung: `share` of the spectrum, and called by the class with its orbits (first), as they are."""

    share: Share
    flips: Pair


class ClassNumbers(Frozen):
    """One class. What was not measured is None; `searched`: whether it has a map and a verdict.

    `accuracy` of all its images; `tpr_kept`, `fpr_kept` under its map; `flips` at the best rung, whose
    images stand in `draws` pairs each; `limiting` (of `null_draws`): the comparison with a null that
    limits the score, and `weight`: what it counts. `n_judge` images that it was judged on.
    `half_correlation` of halves of the map's `n_search` images. `band` of the verdict's orbits.
    `curve`: rungs that no smaller one outdoes. `ood`: recall by other set.
    """

    name: str
    searched: bool
    verdict: Verdict = "not judged"
    q_value: Share | None = None
    band: Literal["low", "mid", "high", "all", ""] = ""
    accuracy: Hits
    tpr_kept: Hits | None = None
    fpr_kept: Hits | None = None
    flips: Pair | None = None
    limiting: Pair | None = None
    weight: Share = 1.0
    draws: Annotated[int, Field(ge=1)] = 1
    null_draws: Annotated[int, Field(ge=1)] = 1
    strength_share: Share | None = None
    curve: tuple[CurvePoint, ...] = ()
    n_search: Count = 0
    n_judge: Count = 0
    half_correlation: Annotated[float | None, Field(ge=-1, le=1, allow_inf_nan=False)] = None
    ood: dict[str, Hits] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _counts_hold(self) -> ClassNumbers:
        for hits, n in filter(None, (self.accuracy, self.tpr_kept, self.fpr_kept, *self.ood.values())):
            if hits > n:
                raise ValueError(f"{hits} hits among {n}")
        for pair in filter(None, (self.flips, self.limiting, *(point.flips for point in self.curve))):
            paired(pair)
        return self

    @property
    def reliability(self) -> MapReliability | None:
        """Of the map, under the response that ranks."""
        if self.half_correlation is None:
            return None
        return MapReliability(self.half_correlation, self.n_search)

    @property
    def net_flips(self) -> NetShare | None:
        """Images of other classes turned into the class at the best rung."""
        if self.flips is None or self.flips[0] == 0:
            return None
        return NetShare(paired(self.flips), draws=self.draws)

    @property
    def score(self) -> NetShare | None:
        """The same over the null that it beats least."""
        if self.limiting is None or self.limiting[0] == 0:
            return None
        return NetShare(paired(self.limiting), self.weight, self.null_draws)


class RunNumbers(Frozen):
    """An audit in numbers; `settings`: those that change numbers, in words, by name.

    Of its data: `n_available` images to draw from (0: not known), the `pillow` that decoded them, and
    `sketch`, the lowest identities of the images used, by which two samples of the same data are known
    (`results/sketches.py`).
    """

    model: str
    model_digest: str
    data_digest: str
    n_available: Count = 0
    pillow: str = "unknown"
    sketch: str = ""
    format: int
    tool: str
    numerics: Numerics
    settings: dict[str, str]
    sets: tuple[str, ...] = ()
    classes: tuple[ClassNumbers, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, in the order of the data."""
        return tuple(item.name for item in self.classes)

    def of(self, class_name: str) -> ClassNumbers | None:
        """The numbers of a class."""
        return next((item for item in self.classes if item.name == class_name), None)

    @property
    def by_name(self) -> dict[str, ClassNumbers]:
        """All classes by name, for those who ask for many."""
        # Not kept: a copy with other classes would keep it too.
        return {item.name: item for item in self.classes}


def paired(pair: Pair) -> Paired:
    """Counts as they are kept, as counts that can be asked."""
    n, both, first, second = pair
    return Paired(n=n, both=both, only_first=first, only_second=second)


def proportion(hits: Hits | None, worth: float = 1.0) -> Proportion | None:
    """A share of images; None of none."""
    return None if hits is None or hits[1] == 0 else Proportion(hits[0], hits[1], worth)


def numbers_of(result: AuditResult) -> RunNumbers:
    """The numbers of an audit of a model. Raises ResultError for one of data alone."""
    if result.of_data:
        raise ResultError(
            "This is an audit of data, without a model.", "Compare and gate audits of models."
        )
    return result.derived("numbers", lambda: _numbers(result))


def _numbers(result: AuditResult) -> RunNumbers:
    origin = result.provenance
    finding = result.dominant_frequencies
    maps = {item.class_name: item for item in finding.by_class}
    judged = {item.class_name: item for item in result.shortcuts.by_class}
    transfer = () if result.transfer is None else result.transfer.by_set
    there = {item.set.name: {each.class_name: each.recall for each in item.by_class} for item in transfer}
    accuracy = result.predictions.accuracy_by_class
    if len(accuracy) != len(result.class_names) or len(set(result.class_names)) != len(accuracy):
        raise ResultError("The classes of this result do not add up.", "Run the audit again.")
    return RunNumbers(
        model=result.model.spec,
        model_digest=result.model.digest,
        data_digest=origin.data.digest,
        n_available=origin.data.n_available,
        pillow=origin.versions.get("pillow", "unknown"),
        sketch=sketch_of(result.arrays.get("outcomes/image")),
        format=result.format_found,
        tool=origin.versions.get("shortcut-audit", "unknown"),
        numerics=Numerics(
            device=origin.device,
            dtype=origin.dtype,
            torch=origin.versions.get("torch", "unknown"),
            batch_size=origin.batch_size,
        ),
        settings=_settings(result),
        sets=tuple(there),
        classes=tuple(
            ClassNumbers(
                name=name,
                searched=name in judged,
                accuracy=(rate.hits, rate.n),
                ood={
                    place: (recalls[name].hits, recalls[name].n)
                    for place, recalls in there.items()
                    if name in recalls
                },
                **(_verdict_numbers(judged[name]) if name in judged else {}),
                **(_map_numbers(maps[name], finding.response) if name in maps else {}),
            )
            for name, rate in zip(result.class_names, accuracy, strict=True)
        ),
    )


def _settings(result: AuditResult) -> dict[str, str]:
    """What was asked for that changes numbers, in words, by name."""
    settings = result.model_settings
    told = {name: str(getattr(settings, name)) for name in _SETTINGS}
    told["search"] = result.dominant_frequencies.search
    shape = result.model.preprocessing
    told["image size"] = f"{shape.channels} x {shape.height} x {shape.width}"
    told["geometry"] = shape.geometry
    return told


def _verdict_numbers(item: ClassShortcut) -> dict[str, object]:
    best = item.best
    numbers: dict[str, object] = {
        "verdict": item.verdict,
        "n_judge": item.n_judge,
        "q_value": item.q_value,
        "band": "" if item.extent is None else item.extent.band,
        "tpr_kept": (item.tpr_kept.hits, item.tpr_kept.n),
        "fpr_kept": (item.fpr_kept.hits, item.fpr_kept.n),
        "strength_share": item.strength_share,
        "curve": _curve(item.ladder),
    }
    if best is not None:
        beaten = [
            pair
            for pair in (
                best.flips,
                best.flips_over_foreign,
                best.flips_over_erased,
                best.flips_over_random,
            )
            if pair is not None
        ]
        limiting = min(beaten, key=lambda pair: (pair.difference, pair.n))
        numbers |= {
            "flips": _counts(best.flips),
            "draws": _draws(item, best.flips),
            "limiting": _counts(limiting),
            "null_draws": _draws(item, limiting),
            "weight": 1.0 if best.share <= _SLIVER else _BROAD,
        }
    return numbers


def _draws(item: ClassShortcut, pair: Paired) -> int:
    """In how many pairs each image stands: further draws of partners show the same images again."""
    if pair.leaning_first is None:
        return 1
    single = [rung.flips.n for rung in item.ladder if rung.flips.leaning_first is None]
    return max(1, round(pair.n / max(max(single, default=item.n_judge), 1)))


def _counts(pair: Paired) -> Pair:
    return pair.n, pair.both, pair.only_first, pair.only_second


def _curve(rungs: tuple[Rung, ...]) -> tuple[CurvePoint, ...]:
    """Rungs in the order of their shares, without those that a smaller one outdoes."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda each: each.share):
        if not kept or rung.flip_rate > kept[-1].flip_rate:
            kept.append(rung)
    return tuple(CurvePoint(share=rung.share, flips=_counts(rung.flips)) for rung in kept)


def _map_numbers(item: ClassMap, response: str) -> dict[str, object]:
    found = item.reliability.get(response)  # type: ignore[call-overload]
    return {
        "n_search": item.n_search,
        "half_correlation": None if found is None else found.half_correlation,
    }
