"""Transfers made by hand, for tests of what users see."""

from __future__ import annotations

from typing import Any, cast

from judged import INCONCLUSIVE, NOTHING, SHORTCUT, UNJUDGED, pair

from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.model_transfer import (
    Agreement,
    ClassAgreement,
    DroppedClass,
    JudgedClass,
    JudgedMaps,
    ModelTransferResult,
    TransferredRun,
)
from shortcut_audit.results.provenance import Timing
from shortcut_audit.results.settings import AuditSettings
from shortcut_audit.results.shortcut_findings import ClassShortcut
from shortcut_audit.results.statistics import unpaired_interval, unpaired_p_value
from shortcut_audit.results.transfer_findings import ClassTransfer

__all__ = ["EVERY", "VERDICTS", "made", "outcome"]

VERDICTS: dict[str, dict[str, Any]] = {
    "shortcut": SHORTCUT,
    "inconclusive": INCONCLUSIVE,
    "no shortcut": NOTHING,
    "not judged": UNJUDGED,
}
# Every verdict of a run's own model, with every one on another.
EVERY = [(here, there) for here in VERDICTS for there in VERDICTS]


def made(
    result: AuditResult, verdicts: list[tuple[str, str]], names: tuple[str, ...] = ("one", "two")
) -> ModelTransferResult:
    """Runs `names` with classes of these verdicts (own, there), judged on one model and compared."""
    plain = result.shortcuts.by_class[0]

    def item(class_name: str, verdict: str) -> ClassShortcut:
        return plain.model_copy(
            update={**VERDICTS[verdict], "class_name": class_name, "example": None, "evidence": ()}
        )

    classes = tuple(
        JudgedClass(
            class_name=f"class {n}",
            data_class=f"class {n}" if n else "other name",
            here=item(f"class {n}", here),
            there=item(f"class {n}", there),
        )
        for n, (here, there) in enumerate(verdicts)
    )
    run = TransferredRun(
        name=names[0],
        folder="runs/one",
        model=result.model,
        data=result.provenance.data,
        settings=cast(AuditSettings, result.settings),
        search="exact",
        response="log-odds",
        class_names=tuple(item.class_name for item in classes),
        reliability=(0.6, None, 0.8),
    )
    dropped = DroppedClass(side=names[0], class_name="gone", reason="there are no images of it")
    agreements = tuple(
        Agreement(
            first=names[i],
            second=names[j],
            share=0.05,
            by_class=(
                ClassAgreement(
                    class_name="class 0", score="log-odds", rank_correlation=0.1 * (i + j), ceiling=0.8,
                    overlap=0.25, overlap_by_chance=0.05,
                ),
                ClassAgreement(class_name="class 1", rank_correlation=0.2, ceiling=0.2),
                ClassAgreement(class_name="class 2", reason="a map is constant"),
            ),
            notes=("They rest on the same images.",),
        )
        for j in range(len(names))
        for i in range(j)
    )  # fmt: skip
    return ModelTransferResult(
        command="shortcut-audit transfer",
        versions={"shortcut-audit": "1"},
        runs=tuple(run.model_copy(update={"name": name}) for name in names),
        models=("B",),
        judged=(
            JudgedMaps(
                run=names[0],
                model="B",
                images="the same split",
                provenance=result.provenance,
                by_class=classes,
                dropped=(dropped,),
                notes=("B is new.",),
            ),
        ),
        agreements=agreements,
        timing=Timing(finished_at="now", measuring_seconds=1, images_per_second=2),
    )


def outcome(
    n: int = 40,
    *,
    here: int = 36,
    home: int = 36,
    exchanged: int = 36,
    without: int = 36,
    without_random: int | None = 36,
    restored: int = 36,
    restored_foreign: int = 36,
    wide: tuple[int, int, int] | None = None,
    name: str = "ant",
    **more: Any,
) -> ClassTransfer:
    """`n` images on both sides; of each, how many were called by the class. `wide`: with all waves of the
    shortcut's radii of other classes, without them, and with those of the class's other images."""

    def against(first: int, second: int) -> Paired:
        return pair(n, first, second, min(first, second))

    values: dict[str, Any] = {
        "class_name": name,
        "verdict": "shortcut",
        "n_images": n,
        "recall": Rate(hits=here, n=n),
        "recall_home": Rate(hits=home, n=n),
        "change_p_value": unpaired_p_value(home, n, here, n),
        "change_interval": unpaired_interval(here, n, home, n),
        "false_calls": Rate(hits=0, n=n),
        "tpr_kept": Rate(hits=20, n=n) if n >= 20 else Rate(hits=0, n=n),
        "fpr_kept": Rate(hits=0, n=n),
        "tpr_kept_home": Rate(hits=20, n=n) if n >= 20 else Rate(hits=0, n=n),
        "n_orbits": 2,
        "share": 0.01,
        "replaced": against(here, exchanged),
        "removed": against(here, without),
        "removed_over_random": None if without_random is None else against(without_random, without),
        **(
            {}
            if wide is None
            else {
                "wide_orbits": 20,
                "wide_share": 0.1,
                "wide_replaced": against(here, wide[0]),
                "wide_removed": against(here, wide[1]),
                "wide_over_own": against(wide[2], wide[0]),
            }
        ),
        "restored": against(restored, here),
        "restored_over_foreign": against(restored, restored_foreign),
        "flips": against(n // 2, 0),
        "flips_over_foreign": against(n // 2, 0),
        "flips_over_erased": against(n // 2, 0),
        **more,
    }
    return ClassTransfer(**values)
