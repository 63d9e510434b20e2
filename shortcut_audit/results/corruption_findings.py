"""What corruptions do to each class, to its dominant orbits, and how far the one foretells the other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shortcut_audit.results.counts import Frozen, Paired

__all__ = [
    "ENERGIES",
    "ClassShifts",
    "CorruptionsFinding",
    "DropPrediction",
    "PredictedFrom",
    "Predictor",
    "ShiftTried",
    "ShiftedRecall",
    "energy_shares",
    "orbit_shares",
]

# Last axis of `corruptions/energy`.
ENERGIES = (
    "clean",
    "removed",
    "added",
    "difference",
    "removed_by_orbit",
    "added_by_orbit",
    "difference_by_orbit",
)

# What the drop is predicted from; see DropPrediction.
Predictor = Literal["dominant", "all", "both", "severity"]


class ShiftTried(Frozen):
    """A corruption at a severity, with the parameters that it has at the size of the images."""

    corruption: str
    severity: Annotated[int, Field(ge=1, le=5)]
    parameters: dict[str, float]

    def __str__(self) -> str:
        return f"{self.corruption}-{self.severity}"


class ShiftedRecall(Frozen):
    """A class under one shift. `recall`: called by their class as they are (first), corrupted (second).

    `q_value`: of the class losing nothing (exact McNemar test), adjusted over the classes of the shift.
    """

    recall: Paired
    q_value: float


class ClassShifts(Frozen):
    """A class under every shift, in the order of `CorruptionsFinding.shifts`.

    `n_orbits_dominant`: orbits of its map; `n_orbits_shortcut`: orbits that its verdict rests on, 0
    where it has none.
    """

    class_name: str
    n_judge: int
    n_orbits_dominant: int
    n_orbits_shortcut: int
    by_shift: tuple[ShiftedRecall, ...]

    @property
    def mean_drop(self) -> float:
        """Recall lost, on average over the shifts."""
        drops = [each.recall.difference for each in self.by_shift]
        return sum(drops) / len(drops) if drops else 0.0


class PredictedFrom(Frozen):
    """Cross-validated R2 of the drop in recall, predicted from one set of figures.

    1 - (squared error on cells left out) / (squared distance of all drops from their mean): 1 is
    perfect, 0 is no better than the mean drop of all cells, and below 0 is worse than that.
    `r2_new_corruptions`: whole corruptions are left out in turn, all their severities together;
    `r2_new_classes`: whole classes, in at most ten folds; None of fewer than three classes.
    """

    predictor: Predictor
    r2_new_corruptions: float
    r2_new_classes: float | None


class DropPrediction(Frozen):
    """How much of the drop in recall the energy that shifts change predicts, over classes times shifts.

    Predictors: `dominant`, logarithms of the shares that are removed, added and different by orbit on the
    class's dominant orbits; `all`, the same over all orbits but DC; `both` together; `severity` alone.
    `p_value`: chance that `dominant` predicts new corruptions as well where drops are dealt anew among
    the cells of each corruption, from `n_draws` of that. `ceiling`: what no prediction passes on average,
    because recall of so few images has an error of its own. `reason` says why there is nothing, where
    there is nothing.
    """

    n_cells: int
    n_corruptions: int
    n_classes: int
    scores: tuple[PredictedFrom, ...] = ()
    p_value: float | None = None
    n_draws: int = 0
    ceiling: float | None = None
    reason: str = ""

    def score(self, predictor: Predictor) -> PredictedFrom | None:
        """The figures of one predictor; None where nothing was predicted."""
        return next((score for score in self.scores if score.predictor == predictor), None)


class CorruptionsFinding(Frozen):
    """Recall of every searched class under corruptions of its judgement images, beside their energy.

    Array: `corruptions/energy` (n_searched_classes, n_shifts, n_regions, 7), in the order of `by_class`,
    `shifts`, `regions` and `ENERGIES`. The first four: mean over images of the energy, sum of members *
    |F|^2 over the region's orbits and all channels, of pixels in [0,1]: as they are; removed, where an
    image's orbit has less after the shift; added, where it has more; of the difference F' - F. The other
    three: the last three of each orbit as a share of what it holds in clean images of the class, averaged
    over the region's orbits (members counted), each counting alike. Regions: `dominant` (the class's
    map), `shortcut` (the orbits its verdict rests on, else empty), `all` (but DC), `dc`, `band 1` (low)
    .. `band 4`.
    """

    measure: Literal["corruptions"] = "corruptions"
    shifts: tuple[ShiftTried, ...]
    regions: tuple[str, ...]
    by_class: tuple[ClassShifts, ...]
    prediction: DropPrediction

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Kinds of corruption, each once, in the order of `shifts`."""
        return tuple(dict.fromkeys(shift.corruption for shift in self.shifts))

    def accuracy(self, shift: int) -> Paired:
        """All searched classes under a shift, by its number: right as they are, and corrupted."""
        pairs = [item.by_shift[shift].recall for item in self.by_class]
        return Paired(
            n=sum(pair.n for pair in pairs),
            both=sum(pair.both for pair in pairs),
            only_first=sum(pair.only_first for pair in pairs),
            only_second=sum(pair.only_second for pair in pairs),
        )


def energy_shares(energy: NDArray[Any]) -> NDArray[np.float64]:
    """Shares of a region's clean energy that shifts remove, add and change (difference), (..., 3).

    `energy` (..., 7) as `corruptions/energy`; nan where there is no clean energy.
    """
    clean = energy[..., :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(clean > 0, energy[..., 1:4] / clean, np.nan), dtype=np.float64)


def orbit_shares(energy: NDArray[Any]) -> NDArray[np.float64]:
    """The same by orbit, each counting alike, (..., 3): the strongest orbits do not drown the others."""
    return np.asarray(np.where(energy[..., :1] > 0, energy[..., 4:], np.nan), dtype=np.float64)
