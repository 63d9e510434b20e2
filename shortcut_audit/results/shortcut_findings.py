"""What the three tests found of one class, rung by rung of a ladder of shares, and the verdict."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from shortcut_audit.results.counts import Frozen, Paired, Rate

__all__ = [
    "VERDICTS",
    "ClassShortcut",
    "Confound",
    "EvidencePicture",
    "ExamplePrediction",
    "ExampleStep",
    "Extent",
    "Rung",
    "ShortcutsFinding",
    "Verdict",
]

Verdict = Literal["not judged", "shortcut", "no shortcut", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# What else may look like a frequency shortcut.
Confound = Literal["default class", "colour", "fragile"]
Form = Literal["original", "kept", "removed"]


class ExamplePrediction(Frozen):
    """What the model says of one example image in one of its forms."""

    predicted: str
    probability: float
    probability_of_class: float


class ExampleStep(Frozen):
    """What the model says of the example image when only the top of its class's ranking is left of it.

    The leading orbits of the ranking that make up at most `share` of the ranked bins, and at least one:
    `n_orbits` of them, `share_found` of these bins (an always-kept DC not counted).
    """

    share: float
    share_found: float
    n_orbits: Annotated[int, Field(ge=1)]
    prediction: ExamplePrediction


class EvidencePicture(Frozen):
    """An image of another class, before and after the class's orbits were put into it.

    `donor`: the image of the class that they come from; `n_orbits`: how many.
    """

    receiver: str
    donor: str
    n_orbits: int
    before: ExamplePrediction
    after: ExamplePrediction


class Rung(Frozen):
    """The three tests with one set of `n_orbits` orbits, `share` of the spectrum.

    Either the class's most important light orbits, or all of one `ring` of radii (`ring`: its number,
    None for the former; with `n_rings` 2, of it and the next one), where shortcuts lie that no single
    orbit carries. `radius`: from, to, in cycles
    per shorter side. `energy_share`: of the energy of an image, DC not counted, that an exchange of
    these orbits changes, on average.

    Transplant, on images of other classes: called by the class with the orbits of an image of the class
    in place of their own, against as they are (`flips`), against the same orbits of images of yet other
    classes (`flips_over_foreign`), against nothing in their place (`flips_over_erased`), and against
    as many random orbits of the same radii, from the same image of the class (`flips_over_random`).
    Necessity, on images of the class: called by it as they
    are, against without the orbits (`losses`); called by it without random orbits of the same radii,
    against without these (`losses_over_random`). Sufficiency: called by the class when only the orbits
    are left, of its own images (`kept`) and of others (`kept_foreign`); own images with only these
    left, against random ones of the same radii (`kept_over_random`). A null that was not drawn is None:
    there was nothing worth comparing with it. Of rings, sufficiency is not measured.
    """

    n_orbits: Annotated[int, Field(ge=1)]
    share: float
    energy_share: float
    radius: tuple[float, float]
    ring: int | None = None
    n_rings: Annotated[int, Field(ge=1, le=2)] = 1
    flips: Paired
    flips_over_foreign: Paired | None = None
    flips_over_erased: Paired | None = None
    flips_over_random: Paired | None = None
    losses: Paired | None = None
    losses_over_random: Paired | None = None
    kept: Rate | None = None
    kept_foreign: Rate | None = None
    kept_over_random: Paired | None = None

    @property
    def flip_rate(self) -> float:
        """Share of other images called by the class with the orbits, less the share without."""
        return self.flips.difference

    @property
    def necessity_drop(self) -> float | None:
        """Share of the class's images called by it, less the share without the orbits."""
        return None if self.losses is None else self.losses.difference

    @property
    def sufficiency(self) -> float | None:
        """J = TPR - FPR with only the orbits left (Youden)."""
        if self.kept is None or self.kept_foreign is None:
            return None
        return (self.kept.value or 0.0) - (self.kept_foreign.value or 0.0)


class Extent(Frozen):
    """Which part of the spectrum a shortcut takes up.

    `band`: low, mid or high (radii below a quarter, up to three quarters, and above three quarters of
    Nyquist; `all` where no band holds two thirds); `narrow`: a few waves rather than all of a region;
    `direction` in degrees where all waves run the same way, None where they do not. `radius`: from, to,
    in cycles per shorter side. `orbits`: (u, v), the most important first.
    """

    band: Literal["low", "mid", "high", "all"]
    narrow: bool
    direction: float | None
    radius: tuple[float, float]
    orbits: tuple[tuple[int, int], ...]
    n_orbits: int


class ClassShortcut(Frozen):
    """Three tests of one class's map on judgement images, and what they come to.

    `tpr_kept`: class images still called by their class when only the map is left;
    `fpr_kept`: images of other classes then called this class;
    `tpr_full`, `fpr_full`: the same on unfiltered images. `ladder`: the tests over growing shares, the
    rungs of the ranking first, then the rings.

    `colour`: called by the class with DC of an image of the class in place of their own, against DC of
    other images. `p_value`: of the class's orbits doing no more than the same orbits of other images,
    at the best rung, corrected for the number of rungs; `q_value`: adjusted over classes. `score`: the
    share of other images that the orbits turn, over all nulls that apply, at the best rung; `rung`: place
    in `ladder` of the smallest one that does most of that. `strength_share`: smallest share of the
    spectrum that turns half of other images into the class, None where none of the ladder does;
    `sufficient_share`: the same for J of at least 0.5. `extent`: of the orbits that do it. `confounds`:
    what else may be at work. `reason`: one sentence; `needed`: what would decide an open case.
    `example`: an image of the class, with what the model says of it in its forms, and in `example_steps`
    over growing shares of the ranking (equal sets of orbits once, under the smallest share).
    """

    class_name: str
    n_judge: int
    tpr_kept: Rate
    fpr_kept: Rate
    tpr_full: Rate
    fpr_full: Rate
    verdict: Verdict = "not judged"
    reason: str = "tests against a null are not part of this audit"
    needed: str = ""
    p_value: float | None = None
    q_value: float | None = None
    score: float | None = None
    rung: int | None = None
    strength_share: float | None = None
    sufficient_share: float | None = None
    extent: Extent | None = None
    confounds: tuple[Confound, ...] = ()
    colour: Paired | None = None
    ladder: tuple[Rung, ...] = ()
    example: str | None = None
    example_predictions: dict[Form, ExamplePrediction] = Field(default_factory=dict)
    example_steps: tuple[ExampleStep, ...] = ()
    evidence: tuple[EvidencePicture, ...] = ()

    @property
    def best(self) -> Rung | None:
        """The rung that the score is of."""
        return None if self.rung is None else self.ladder[self.rung]

    @property
    def kind(self) -> str:
        """Where in the spectrum, in a few words: `mid band, narrow, one direction`."""
        if self.extent is None:
            return ""
        band = "all bands" if self.extent.band == "all" else f"{self.extent.band} band"
        width = "narrow" if self.extent.narrow else "broad"
        way = "all directions" if self.extent.direction is None else "one direction"
        return f"{band}, {width}, {way}"


class ShortcutsFinding(Frozen):
    """What each class's own map does to images that the search never saw, and the verdicts.

    Arrays, in the order of `by_class`: `shortcuts/order` (n_searched_classes, n_orbits) int32, the place
    of each light orbit in the ladder (1 = first, 0 = not tried one by one); `shortcuts/best` (the same
    shape) bool, the orbits of the best rung; `shortcuts/verdict` (n_searched_classes,) int8, places in
    `VERDICTS`. `shortcuts/examples` (n_examples, 3, C, H, W) pixels in
    [0,1] of the classes that name an `example`, in order: original, only the map kept, the map removed.
    `shortcuts/evidence` (n, 3, C, H, W) of the classes' `evidence` pictures, in order: receiver as it is,
    donor, receiver with the donor's orbits.

    Of single images (not in audits of formats below 6), bits packed as `numpy.packbits` does:
    `outcomes/kept` (n_searched_classes, n_bytes), a bit a judgement image, called by the class when only
    its map is left; `outcomes/kept_judged` (n_searched_classes, n_bytes), a bit a class of the data,
    whether its images were judged under the map. `outcomes/receiver`, `outcomes/donor` (k,) int32, pairs
    that the best rung of the donor's class was tried on, first draw, as rows of `outcomes/image`;
    `outcomes/turned` (k,) uint8, the receiver called by that class, bit 0: as it is, bit 1: with the
    donor's orbits.
    """

    measure: Literal["shortcuts"] = "shortcuts"
    by_class: tuple[ClassShortcut, ...]
