"""One frozen model per finding: counts and sums first, rates derived from them.

Arrays are kept beside the findings under the name of their measure (`AuditResult.arrays`); each
finding says in its docstring which ones are its own. A number that was not measured is `None`,
and a reason stands next to it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from shortcut_audit.results.settings import Response
from shortcut_audit.results.statistics import proportion_interval

__all__ = [
    "ClassMap",
    "ClassShortcut",
    "ClassSpectraFinding",
    "DominantFrequenciesFinding",
    "ExamplePrediction",
    "Finding",
    "PredictionsFinding",
    "Rate",
    "Reliability",
    "ShortcutsFinding",
    "Verdict",
]

Verdict = Literal["not judged", "shortcut", "no shortcut", "inconclusive"]


class Frozen(BaseModel):
    """Base of all findings: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(Frozen):
    """A share of images, as the counts it is made of."""

    hits: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=0)]

    @model_validator(mode="before")
    @classmethod
    def _drop_derived(cls, data: Any) -> Any:
        """Derived numbers are written for readers of the JSON, and derived again on reading."""
        if isinstance(data, dict):
            return {key: data[key] for key in data if key not in {"value", "low", "high"}}
        return data

    @model_validator(mode="after")
    def _hits_within_n(self) -> Rate:
        if self.hits > self.n:
            raise ValueError(f"{self.hits} hits among {self.n}")
        return self

    @cached_property
    def _interval(self) -> tuple[float, float]:
        return proportion_interval(self.hits, self.n)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def value(self) -> float | None:
        """hits / n, or None when n is 0."""
        return self.hits / self.n if self.n else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def low(self) -> float:
        """Lower end of the 95% Wilson interval."""
        return self._interval[0]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def high(self) -> float:
        """Upper end of the 95% Wilson interval."""
        return self._interval[1]


class Reliability(Frozen):
    """How much of a map would come out again on other images of the same class.

    `half_correlation`: mean Spearman correlation over orbits between halves of the images, over
    `n_splits` halvings; `value`: the same, carried to the full number of images (Spearman-Brown).
    Both None, with a `reason`, where it could not be measured.
    """

    half_correlation: float | None
    value: float | None
    n_images: int
    n_splits: int
    reason: str = ""


class PredictionsFinding(Frozen):
    """What the model says of the unfiltered images, search and judgement split together.

    Arrays: `predictions/confusion` (n_classes, n_outputs) image counts.
    """

    measure: Literal["predictions"] = "predictions"
    accuracy: Rate
    accuracy_by_class: tuple[Rate, ...]


class ClassSpectraFinding(Frozen):
    """Mean amplitude spectra of the classes, before any model (both splits).

    Arrays, both (n_classes, n_orbits): `class_spectra/amplitude` mean |F|, averaged over channels;
    `class_spectra/adcs` in [1-C, C-1].
    """

    measure: Literal["class_spectra"] = "class_spectra"
    n_images_by_class: tuple[int, ...]


class ClassMap(Frozen):
    """The dominant-frequency map of one class."""

    class_name: str
    n_search: int
    reliability: dict[Response, Reliability]
    n_orbits_kept: int
    kept_share: Annotated[float, Field(description="As found, members counted; not as asked for.")]


class DominantFrequenciesFinding(Frozen):
    """Importance of every orbit for every searched class, and the top share of each map.

    Arrays, all (n_searched_classes, n_orbits) in the order of `by_class`:
    `dominant_frequencies/importance/<response>`, `dominant_frequencies/rank` (1 = most important,
    0 = not ranked) and `dominant_frequencies/kept` (the map; always-kept DC not counted).
    """

    measure: Literal["dominant_frequencies"] = "dominant_frequencies"
    search: Literal["exact"] = "exact"
    response: Response
    by_class: tuple[ClassMap, ...]


class ExamplePrediction(Frozen):
    """What the model says of one example image in one of its three forms."""

    predicted: str
    probability: float
    probability_of_class: float


class ClassShortcut(Frozen):
    """What the top share of one class's map does to judgement images.

    `tpr_kept`: class images still called by their class when only the map is left;
    `fpr_kept`: images of other classes then called this class;
    `tpr_full`, `fpr_full`: the same on unfiltered images.
    """

    class_name: str
    n_judge: int
    tpr_kept: Rate
    fpr_kept: Rate
    tpr_full: Rate
    fpr_full: Rate
    verdict: Verdict = "not judged"
    reason: str = "tests against a null are not part of this audit"
    example: str | None = None
    example_predictions: dict[Literal["original", "kept", "removed"], ExamplePrediction] = {}


class ShortcutsFinding(Frozen):
    """True and false positive rates under each class's own map, on images the search never saw.

    Arrays: `shortcuts/examples` (n_examples, 3, C, H, W) pixels in [0,1] of the classes that name an
    `example`, in order: original, only the map kept, the map removed.
    """

    measure: Literal["shortcuts"] = "shortcuts"
    by_class: tuple[ClassShortcut, ...]


Finding = Annotated[
    PredictionsFinding | ClassSpectraFinding | DominantFrequenciesFinding | ShortcutsFinding,
    Field(discriminator="measure"),
]
