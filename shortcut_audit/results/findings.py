"""One frozen model per finding: counts and sums first, rates derived from them.

Arrays are kept beside the findings under the name of their measure (`AuditResult.arrays`); each
finding says in its docstring which ones are its own. A number that was not measured is `None`,
and a reason stands next to it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from shortcut_audit.results.corruption_findings import CorruptionsFinding
from shortcut_audit.results.counts import Frozen, Paired, Rate
from shortcut_audit.results.settings import MapScore, SearchName
from shortcut_audit.results.shortcut_findings import (
    ClassShortcut,
    Confound,
    EvidencePicture,
    ExamplePrediction,
    ExampleStep,
    Extent,
    Rung,
    ShortcutsFinding,
    Verdict,
)
from shortcut_audit.results.transfer_findings import TransferFinding

__all__ = [
    "ClassMap",
    "ClassShortcut",
    "ClassSpectraFinding",
    "Confound",
    "CorruptionsFinding",
    "DominantFrequenciesFinding",
    "EvidencePicture",
    "ExamplePrediction",
    "ExampleStep",
    "Extent",
    "Fidelity",
    "Finding",
    "Invitation",
    "InvitationsFinding",
    "Paired",
    "PatternRecovery",
    "PredictionsFinding",
    "ProbeResult",
    "ProbeScore",
    "Rate",
    "Reliability",
    "Rung",
    "ShortcutsFinding",
    "SpectrumProbeFinding",
    "TransferFinding",
    "TruthFinding",
    "Verdict",
]


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

    Arrays: `predictions/confusion` (n_classes, n_outputs) image counts. Of every image used, class by
    class, search images before judgement images (not in audits of formats below 6): `outcomes/image`
    (n,) uint64, the first 8 bytes of the digest of its pixels; `outcomes/class` (n,) int32;
    `outcomes/split` (n,) uint8, 0 search, 1 judgement; `outcomes/predicted` (n,) int32, outputs.
    """

    measure: Literal["predictions"] = "predictions"
    accuracy: Rate
    accuracy_by_class: tuple[Rate, ...]


class ClassSpectraFinding(Frozen):
    """Mean spectra of the classes, before any model (both splits).

    `slope_by_class`: -d log amplitude / d log radius of the mean spectrum, up to the Nyquist radius;
    photographs have about 1. None where the spectrum is empty. Arrays: `class_spectra/amplitude`
    (n_classes, n_orbits) mean |F|, averaged over channels; `class_spectra/adcs` (n_classes, n_orbits)
    in [1-C, C-1]; `class_spectra/band_energy` (n_classes, n_bands) mean over images of the sum of
    members * |F|^2, averaged over channels (not in audits of format 1).
    """

    measure: Literal["class_spectra"] = "class_spectra"
    n_images_by_class: tuple[int, ...]
    slope_by_class: tuple[float | None, ...] = ()


class ProbeScore(Frozen):
    """How well a linear classifier recognises one class from amplitudes alone, on images held out.

    `recall`: of the class's images; `false`: share of all other images that it calls the class. Blind
    guessing makes the two equal, whatever it favours, so their difference is the gain over chance.
    """

    recall: Rate
    false: Rate

    @property
    def over_chance(self) -> float:
        """recall - false, in [-1, 1]."""
        return (self.recall.value or 0.0) - (self.false.value or 0.0)

    @property
    def low(self) -> float:
        """A cautious lower end of `over_chance`: the ends of both intervals."""
        return self.recall.low - self.false.high

    @property
    def high(self) -> float:
        """A cautious upper end of `over_chance`."""
        return self.recall.high - self.false.low


class ProbeResult(Frozen):
    """The probe on one part of the spectrum.

    `part`: `all` orbits, one radial band (`band 1` ..), or `mean and contrast`: no frequency, but the
    mean and the standard deviation of each channel, for comparison.
    """

    part: str
    band: int | None = None
    n_features: int
    balanced_accuracy: Annotated[float, Field(description="Mean recall over classes.")]
    by_class: tuple[ProbeScore, ...]


class SpectrumProbeFinding(Frozen):
    """How much of the task the amplitude spectrum solves before any network is trained.

    A linear classifier (linear discriminant analysis) on log amplitudes pooled into cells of radius
    and direction, cross-validated in `n_folds`; phase never enters. Blind guessing has a balanced
    accuracy of `chance`. `reason` says why there are no results, where there are none.
    """

    measure: Literal["spectrum_probe"] = "spectrum_probe"
    n_folds: int
    n_images: int
    chance: float
    results: tuple[ProbeResult, ...]
    reason: str = ""


class Invitation(Frozen):
    """A band in which one class stands out so that a model may take it for the class.

    `evidence`: `orbits` (single waves stronger than their surroundings), `ring` (all directions within
    `radius`), `block grid` (lines between blocks of pixels) or `probe` (amplitudes of this band, and
    of no other, tell the class). `excess`: log power over that of the surroundings, less the same in
    the other classes (nats). `amplitude`: of an added wave that would explain it, in 1/255, per orbit.
    `auc`: how well the excess of a single image tells the class from the others, with `auc_low` and
    `auc_high`. `z`: in units of sampling error and of the natural differences between classes at that
    radius together; `p_value` adjusted for all `n_tests` of the audit. Numbers that a kind of evidence
    does not have are None.
    """

    class_name: str
    band: Annotated[int, Field(ge=1)]
    evidence: Literal["orbits", "ring", "block grid", "probe"]
    orbits: tuple[tuple[int, int], ...] = ()
    n_orbits: int
    radius: tuple[float, float]
    excess: float | None = None
    amplitude: float | None = None
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    z: float | None = None
    p_value: float | None = None
    over_chance: float | None = None


class InvitationsFinding(Frozen):
    """The class-band pairs that invite a shortcut.

    `n_tests`: comparisons made; `threshold`: z that one has to pass. Array: `invitations/z`
    (n_classes, n_orbits), 0 where an orbit cannot be compared with its surroundings.
    """

    measure: Literal["invitations"] = "invitations"
    items: tuple[Invitation, ...]
    n_tests: int
    threshold: float
    reason: str = ""


class PatternRecovery(Frozen):
    """What an audit made of one planted pattern, for one class that carries it.

    `expected`: whether orbits of this class should be named (a decoy or a cast should not).
    `bands_found`: of `bands`, those named for the class (audit of the data). `ranks`: of the planted
    orbits in the class's map, 1 = most important, and `n_in_map` those in its kept share (audit of a
    model). None where the audit says nothing of it.
    """

    pattern: str
    class_name: str
    expected: bool
    bands: tuple[int, ...]
    n_orbits: int
    bands_found: tuple[int, ...] | None = None
    n_in_map: int | None = None
    ranks: tuple[int, ...] | None = None


class TruthFinding(Frozen):
    """The audit against the known truth of a set that the toolkit made.

    `reason` says why it was not compared, where it was not. `false_names`: class and band pairs that
    the audit of the data names and the truth does not know.
    """

    measure: Literal["truth"] = "truth"
    name: str
    kind: str
    by_pattern: tuple[PatternRecovery, ...] = ()
    false_names: tuple[tuple[str, int], ...] | None = None
    reason: str = ""


class Fidelity(Frozen):
    """How near a screened map comes to the exact one, by exact probes of a random sample of orbits.

    The sample is probed on `n_images` of the class's search images; what the map says of an orbit of
    it is compared without that orbit's own probes. `rank_correlation`: Spearman of first order,
    calibrated, and probes on the same images, over the sample weighted to stand for all orbits.
    `overlap`: of the orbits whose exact importance passes the border of the map's top share, the share
    that the map holds; `loss_mass`: importance that the map's top share holds, over that of those
    orbits. None, with a `reason`, where it could not be measured.
    """

    rank_correlation: float | None
    overlap: float | None
    loss_mass: float | None
    n_orbits: int
    n_images: int
    reason: str = ""


class ClassMap(Frozen):
    """The dominant-frequency map of one class.

    `n_search`: images that the map rests on. `resolution`: what is ranked, `orbits`, `patches:SIDE` or
    `tiles:RINGSxSECTORS`, and why where the tool chose. `n_images_enough`: search images a class that a
    reliability of `reliable` would take, where this map has less and it can be said.
    """

    class_name: str
    n_search: int
    reliability: dict[MapScore, Reliability]
    n_orbits_kept: int
    kept_share: Annotated[float, Field(description="As found, members counted; not as asked for.")]
    resolution: str = "orbits"
    resolution_reason: str = ""
    n_images_enough: int | None = None
    fidelity: Annotated[Fidelity | None, Field(description="Of screened maps; exact ones need none.")] = (
        None
    )


class DominantFrequenciesFinding(Frozen):
    """Importance of every orbit for every searched class, and the top share of each map.

    `search`: the route that found it, with what it was set to (`search_settings`), why it was taken
    where the user left it open (`search_reason`), and what cut it short (`stopped`). Its cost in image
    passes: a forward pass of an image is 1, a backward pass 2 (`image_passes`; `backward_images` of
    them went backward). `response`: what ranks; `joint` for searches that rank all orbits together.

    Arrays, all (n_searched_classes, n_orbits) in the order of `by_class`:
    `dominant_frequencies/importance/<response>`, `dominant_frequencies/rank` (1 = most important,
    0 = not ranked) and `dominant_frequencies/kept` (the map; always-kept DC not counted). Of screened
    maps also `dominant_frequencies/n_probed`: images that an orbit was really probed on; importances
    are estimates where that is less than `n_search`.
    """

    measure: Literal["dominant_frequencies"] = "dominant_frequencies"
    search: SearchName = "exact"
    search_reason: str = ""
    search_settings: dict[str, Any] = Field(default_factory=dict)
    stopped: str = ""
    image_passes: int | None = None
    backward_images: int = 0
    response: MapScore
    by_class: tuple[ClassMap, ...]


Finding = Annotated[
    PredictionsFinding
    | ClassSpectraFinding
    | SpectrumProbeFinding
    | InvitationsFinding
    | DominantFrequenciesFinding
    | ShortcutsFinding
    | CorruptionsFinding
    | TransferFinding
    | TruthFinding,
    Field(discriminator="measure"),
]
