"""What became of each class, and of its shortcut, on images of other sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shortcut_audit.results.counts import Frozen, Paired, Rate
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.shortcut_findings import Verdict

__all__ = [
    "BandChange",
    "ClassTransfer",
    "CurvePoint",
    "DroppedClassRecord",
    "Effect",
    "GroupPoint",
    "SetTransfer",
    "ShiftedSet",
    "TransferFinding",
]

# What a class's shortcut does on another set.
Effect = Literal["illusion", "drop", "no effect", "inconclusive"]


class DroppedClassRecord(Frozen):
    """A class of the other set that was left out: how many of its images, and why."""

    class_name: str
    n_images: Annotated[int, Field(ge=0)]
    reason: str


class ShiftedSet(Frozen):
    """Another set of images, and how its classes and pixels came to those of the audit.

    `digest` covers content and labels of every image used. `protocol`: what the label map says is
    compared. `geometry`: how pixels reach the model on both sides, in words; `same_geometry` where that
    is one way. `paired`: its images are other copies of the audit's judgement images (`pairing` says how
    that was told, or why not). `left_out`: classes of the audit without an image here. `notes`: what a
    reader of its numbers must know.
    """

    name: str
    spec: str
    digest: str
    n_available: int
    n_used: int
    protocol: str
    preprocessing: Preprocessing
    geometry: str
    same_geometry: bool
    paired: bool
    pairing: str
    dropped: tuple[DroppedClassRecord, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class BandChange(Frozen):
    """A band of radii on both sides: `low` below a quarter of Nyquist, `mid` up to three quarters, `high`
    above (`radius`: from, to, in cycles per shorter side).

    `power`: mean energy there over that at home, DC not counted. Of copies also `moved`: energy of the
    difference of both copies over that at home, and `restored`: called by their class once this band is
    the one of the audit's own copy, against as they are.
    """

    band: Literal["low", "mid", "high"]
    radius: tuple[float, float]
    power: float | None
    moved: float | None = None
    restored: Paired | None = None


class CurvePoint(Frozen):
    """Images of other classes of the set, once they hold so many orbits of the audit's images.

    `n_orbits` orbits, `share` of the spectrum; `ring`: all orbits of that ring (with
    `n_rings` 2: and of the next one), None where they are the
    first of the class's ladder. `flips`: called by the class with the orbits, against as they are.
    """

    n_orbits: int
    share: float
    ring: int | None = None
    n_rings: int = 1
    flips: Paired


class ClassTransfer(Frozen):
    """One class on another set.

    `n_images` of the class there. `recall`, `recall_home`: called by it, unfiltered, there and on the
    audit's judgement images; `change` where both are copies of the same images: called by it there
    (first) against at home, and `change_p_value` of recall being no lower there (exact McNemar where
    paired, Fisher's exact test where not), `change_interval` of the difference there - home (Newcombe).
    `false_calls`: images of other classes there that are called by it. `tpr_kept`, `fpr_kept`: when only
    the class's map is left, own images and others; `tpr_kept_home` at home.

    With the orbits of the best rung of the class's verdict, on images of the class there: `replaced`:
    called by it as they are, against with these orbits of images of other classes there; `removed`: as
    they are, against without them; `removed_over_random`: without random orbits of the same radii,
    against without these. `restored`: with these orbits of the audit's images of the class, against as
    they are; `restored_over_foreign`: the same, against those of the audit's images of other classes.
    `bands`: how the spectrum changed, and of copies which band the fall comes from.
    On images of other classes there: `flips` with these orbits of the audit's images of the class,
    against as they are, and against the nulls of a verdict. `curve`: flips over the ladder.

    `props`: share of recall that the orbits hold up there, over every null, the larger of the best rung's
    and of that with all waves of its radii; `lacks`: share that they
    would bring back. `effect`: see docs/transfer.md; `p_value` of neither, `q_value` adjusted over the
    classes of the set; `reason` in one sentence, `needed`: what would decide an open case.
    """

    class_name: str
    verdict: Verdict
    n_images: int
    recall: Rate
    recall_home: Rate
    change: Paired | None = None
    change_p_value: float | None = None
    change_interval: tuple[float, float] = (-1.0, 1.0)
    false_calls: Rate
    tpr_kept: Rate
    fpr_kept: Rate
    tpr_kept_home: Rate
    n_orbits: int
    share: float
    replaced: Paired
    removed: Paired
    removed_over_random: Paired | None = None
    wide_orbits: int | None = None
    wide_share: float | None = None
    wide_replaced: Paired | None = None
    wide_removed: Paired | None = None
    wide_over_own: Paired | None = None
    restored: Paired
    restored_over_foreign: Paired
    flips: Paired
    flips_over_foreign: Paired
    flips_over_erased: Paired
    flips_over_random: Paired | None = None
    curve: tuple[CurvePoint, ...] = ()
    bands: tuple[BandChange, ...] = ()
    props: float = 0.0
    lacks: float = 0.0
    effect: Effect = "inconclusive"
    p_value: float | None = None
    q_value: float | None = None
    reason: str = ""
    needed: str = ""

    @property
    def drop(self) -> float:
        """Recall at home less recall there, in [-1, 1]; 0 where one side has no image."""
        there, home = self.recall, self.recall_home
        # Of whole numbers: of rates, 0.6 less 0.5 would be a hair below a tenth.
        return (home.hits * there.n - there.hits * home.n) / max(1, there.n * home.n)


class GroupPoint(Frozen):
    """HFSS's curve at one threshold: classes whose TPR under their own map, at home, passes
    `threshold`, and the others; mean recall there of both groups on full images, and when only the
    class's map is left. None of an empty group.
    """

    threshold: float
    n_above: int
    n_below: int
    full_above: float | None
    full_below: float | None
    kept_above: float | None
    kept_below: float | None


class SetTransfer(Frozen):
    """All classes on one other set: shares of all its images called by their class, there and at home
    (of the same classes), class by class, `bands` over all of them, and in HFSS's groups (Wang et al.,
    CVPR 2025, section 4.3)."""

    set: ShiftedSet
    accuracy: Rate
    accuracy_home: Rate
    by_class: tuple[ClassTransfer, ...]
    bands: tuple[BandChange, ...] = ()
    groups: tuple[GroupPoint, ...] = ()


class TransferFinding(Frozen):
    """The classes and their shortcuts on other sets, in the order in which they were given."""

    measure: Literal["transfer"] = "transfer"
    by_set: tuple[SetTransfer, ...]
