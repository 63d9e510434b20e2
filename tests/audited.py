"""Audits made by hand from outcomes of single images, for tests of comparisons and gates.

Every number of the result follows from the outcomes, as it does in a real audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.results.audit_result import AuditResult, GridShape
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.findings import (
    ClassMap,
    DominantFrequenciesFinding,
    PredictionsFinding,
    Reliability,
)
from shortcut_audit.results.provenance import (
    DataProvenance,
    ModelProvenance,
    Preprocessing,
    Provenance,
    Timing,
)
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.shortcut_findings import (
    ClassShortcut,
    Extent,
    Rung,
    ShortcutsFinding,
    Verdict,
)
from shortcut_audit.results.statistics import spearman_brown
from shortcut_audit.results.transfer_findings import (
    ClassTransfer,
    SetTransfer,
    ShiftedSet,
    TransferFinding,
)

__all__ = ["Made", "made_audit"]

NAMES = ("horse", "ship", "frog")
_SHAPE = Preprocessing(
    channels=3, height=32, width=32, geometry="as they are", mean=(0, 0, 0), std=(1, 1, 1), source="test"
)


@dataclass(frozen=True)
class Made:
    """What an audit is made of; rates are shares of images, the first ones of each class.

    `n` images a class, half of them to judge on; `first` numbers the images of the first class, so that
    another `first` takes other images, of `available` ones. By class: `accuracy`, `kept` (TPR),
    `kept_foreign` (FPR), `turned` (flip rate), `reliability` (of halves), `verdicts`.
    """

    names: tuple[str, ...] = NAMES
    n: int = 200
    first: int = 0
    accuracy: Sequence[float] = (0.9, 0.9, 0.9)
    kept: Sequence[float] = (0.5, 0.5, 0.5)
    kept_foreign: Sequence[float] = (0.1, 0.1, 0.1)
    turned: Sequence[float] = (0.02, 0.02, 0.02)
    half: Sequence[float] = (0.9, 0.9, 0.9)
    verdicts: Sequence[Verdict] = ("no shortcut", "no shortcut", "no shortcut")
    band: str = "mid"
    ood: dict[str, Sequence[float | None]] = field(default_factory=dict)
    device: str = "cpu"
    torch: str = "2.15.0"
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = "one"
    available: int = 10_000_000
    pillow: str = "12.0.0"
    outcomes: bool = True

    def but(self, **changes: Any) -> Made:
        """The same with some changes."""
        return replace(self, **changes)


def _first(share: float, n: int) -> NDArray[np.bool_]:
    return np.arange(n) < round(share * n)


def made_audit(made: Made = Made()) -> AuditResult:
    """The audit of `made`."""
    names, n, k = made.names, made.n, len(made.names)
    judge = n // 2
    # Identities differ in their upper bytes, as those of real images do.
    image = (np.arange(n * k, dtype=np.uint64) + np.uint64(made.first * n * k)) << np.uint64(32)
    label = np.repeat(np.arange(k, dtype=np.int32), n)
    right = np.concatenate([_first(share, n) for share in made.accuracy])
    predicted = np.where(right, label, (label + 1) % k).astype(np.int32)
    split = np.tile(np.repeat(np.arange(2, dtype=np.uint8), [n - judge, judge]), k)
    rows = np.flatnonzero(split)
    kept = np.zeros((k, len(rows)), dtype=np.bool_)
    receivers, donors, turned = [], [], []
    items, maps = [], []
    for c, name in enumerate(names):
        own = label[rows] == c
        kept[c, own] = _first(made.kept[c], judge)
        kept[c, ~own] = _first(made.kept_foreign[c], int((~own).sum()))
        after = _first(made.turned[c], judge)
        receivers.append(rows[~own][:judge])
        donors.append(rows[own])
        turned.append(after.astype(np.uint8) << 1)
        items.append(_item(made, c, kept[c, own], kept[c, ~own], after))
        maps.append(
            ClassMap(
                class_name=name,
                n_search=n - judge,
                reliability={
                    "log-odds": Reliability(
                        half_correlation=made.half[c],
                        value=spearman_brown(made.half[c]),
                        n_images=n - judge,
                        n_splits=35,
                    )
                },
                n_orbits_kept=10,
                kept_share=0.05,
            )
        )
    arrays: dict[str, NDArray[Any]] = {"orbits/u": np.arange(3)}
    if made.outcomes:
        arrays |= {
            "outcomes/image": image,
            "outcomes/class": label,
            "outcomes/split": split,
            "outcomes/predicted": predicted,
            "outcomes/kept": np.packbits(kept, axis=1),
            "outcomes/receiver": np.concatenate(receivers).astype(np.int32),
            "outcomes/donor": np.concatenate(donors).astype(np.int32),
            "outcomes/turned": np.concatenate(turned),
        }
    rates = tuple(Rate(hits=int(right[label == c].sum()), n=n) for c in range(k))
    findings: list[Any] = [
        PredictionsFinding(accuracy=Rate(hits=int(right.sum()), n=n * k), accuracy_by_class=rates),
        DominantFrequenciesFinding(response="log-odds", by_class=tuple(maps)),
        ShortcutsFinding(by_class=tuple(items)),
    ]
    if made.ood:
        findings.append(TransferFinding(by_set=tuple(_set(made, name) for name in made.ood)))
    return AuditResult(
        provenance=_provenance(made),
        settings=settings_from({"images_per_class": n, **made.settings}),
        grid=GridShape(height=32, width=32, n_orbits=3, n_bands=4),
        findings=tuple(findings),
        timing=Timing(finished_at="2026-01-01T00:00:00", measuring_seconds=1.0, images_per_second=1.0),
    ).with_arrays(arrays)


def _item(
    made: Made,
    c: int,
    own: NDArray[np.bool_],
    others: NDArray[np.bool_],
    after: NDArray[np.bool_],
) -> ClassShortcut:
    hits, n = int(after.sum()), len(after)
    flips = Paired(n=n, both=0, only_first=hits, only_second=0)
    rung = Rung(
        n_orbits=3,
        share=0.02,
        energy_share=0.01,
        radius=(3.0, 4.0),
        flips=flips,
        flips_over_foreign=flips,
        flips_over_erased=flips,
    )
    verdict = made.verdicts[c]
    p_value = min(1.0, flips.p_value)
    return ClassShortcut(
        class_name=made.names[c],
        n_judge=n,
        tpr_kept=Rate(hits=int(own.sum()), n=len(own)),
        fpr_kept=Rate(hits=int(others.sum()), n=len(others)),
        tpr_full=Rate(hits=round(made.accuracy[c] * n), n=n),
        fpr_full=Rate(hits=0, n=len(others)),
        verdict=verdict,
        reason="as it was made",
        p_value=p_value,
        q_value=p_value,
        score=flips.difference,
        rung=0,
        strength_share=0.02 if hits / n >= 0.5 else None,
        extent=Extent(
            band=made.band, narrow=True, direction=None, radius=(3.0, 4.0), orbits=((1, 2),), n_orbits=3
        )
        if verdict != "no shortcut"
        else None,
        ladder=(rung,),
    )


def _set(made: Made, name: str) -> SetTransfer:
    by_class = []
    none = Paired(n=0, both=0, only_first=0, only_second=0)
    for c, share in enumerate(made.ood[name]):
        if share is None:
            # The set has no images of the class.
            continue
        rate = Rate(hits=round(share * made.n), n=made.n)
        by_class.append(
            ClassTransfer(
                class_name=made.names[c],
                verdict=made.verdicts[c],
                n_images=made.n,
                recall=rate,
                recall_home=rate,
                false_calls=rate,
                tpr_kept=rate,
                fpr_kept=rate,
                tpr_kept_home=rate,
                n_orbits=3,
                share=0.02,
                replaced=none,
                removed=none,
                restored=none,
                restored_over_foreign=none,
                flips=none,
                flips_over_foreign=none,
                flips_over_erased=none,
            )
        )
    total = Rate(hits=sum(item.recall.hits for item in by_class), n=made.n * len(by_class))
    told = ShiftedSet(
        name=name, spec=name, digest="d", n_available=total.n, n_used=total.n, protocol="same names",
        preprocessing=_SHAPE, geometry="as they are", same_geometry=True, paired=False, pairing="other",
    )  # fmt: skip
    return SetTransfer(set=told, accuracy=total, accuracy_home=total, by_class=tuple(by_class))


def _provenance(made: Made) -> Provenance:
    k, judge = len(made.names), made.n // 2
    return Provenance(
        versions={"torch": made.torch, "pillow": made.pillow, "shortcut-audit": "0.1.0"},
        command="audit",
        model=ModelProvenance(
            spec=made.model, architecture="cnn", digest=made.model, n_parameters=1, n_outputs=k,
            preprocessing=_SHAPE,
        ),
        data=DataProvenance(
            spec="images", digest=f"images {made.first} {made.n} {made.names}",
            n_available=made.available, n_used=made.n * k,
            class_names=made.names, outputs=tuple(range(k)),
            n_search_by_class=(made.n - judge,) * k, n_judge_by_class=(judge,) * k,
        ),
        seed=0,
        device=made.device,
        dtype="float32",
        batch_size=64,
        cost=(),
    )  # fmt: skip
