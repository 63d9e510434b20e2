"""Verdicts made by hand, and results that hold them, for tests of what users see."""

from __future__ import annotations

from typing import Any

import numpy as np

from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.shortcut_findings import (
    ClassShortcut,
    EvidencePicture,
    ExamplePrediction,
    Extent,
    Rung,
)

__all__ = ["EVIDENCE", "INCONCLUSIVE", "NOTHING", "SHORTCUT", "UNJUDGED", "pair", "with_verdicts"]


def pair(n: int, first: int, second: int, both: int = 0) -> Paired:
    """`n` images, of which `first` have the first outcome and `second` the second, `both` both."""
    return Paired(n=n, both=both, only_first=first - both, only_second=second - both)


def rung(n_orbits: int, share: float, flips: Paired, **more: Any) -> Rung:
    values: dict[str, Any] = {"energy_share": share / 2, "radius": (3.0, 4.5), **more}
    return Rung(n_orbits=n_orbits, share=share, flips=flips, **values)


_LADDER = (
    rung(1, 0.005, pair(40, 9, 1), losses=pair(40, 38, 30, 30), kept=Rate(hits=8, n=40)),
    rung(
        3,
        0.02,
        # Of 40: 24 after, 2 before; 4 with the orbits of other images, 3 with random ones.
        pair(40, 24, 2, 2),
        flips_over_foreign=pair(40, 24, 4, 3),
        flips_over_random=pair(40, 24, 3, 3),
        losses=pair(40, 38, 20, 20),
        losses_over_random=pair(40, 36, 20, 20),
        kept=Rate(hits=30, n=40),
        kept_foreign=Rate(hits=4, n=40),
        kept_over_random=pair(40, 30, 12, 10),
    ),
    rung(9, 0.2, pair(20, 2, 1), ring=4, flips_over_foreign=pair(40, 4, 2)),
)
EVIDENCE = EvidencePicture(
    receiver="receiver <1>.png",
    donor="donor & 2.png",
    n_orbits=3,
    before=ExamplePrediction(predicted="other <b>", probability=0.875, probability_of_class=0.0625),
    after=ExamplePrediction(predicted="turned <i>", probability=0.75, probability_of_class=0.6875),
)
SHORTCUT: dict[str, Any] = {
    "verdict": "shortcut",
    "reason": "3 orbits <i>turn</i> them.",
    "needed": "",
    "p_value": 0.0001,
    "q_value": 0.0003,
    "score": 0.5,
    "rung": 1,
    "strength_share": 0.02,
    "sufficient_share": None,
    "extent": Extent(
        band="mid", narrow=True, direction=30.5, radius=(3.0, 4.5), orbits=((1, 2), (-3, 4)), n_orbits=3
    ),
    "confounds": ("default class", "colour"),
    "ladder": _LADDER,
    "evidence": (EVIDENCE,),
}
INCONCLUSIVE: dict[str, Any] = {
    **SHORTCUT,
    "verdict": "inconclusive",
    "reason": "Too few images to tell.",
    "needed": "About 900 judgement images would decide it.",
    "q_value": 0.2,
    "score": 0.12,
    "confounds": (),
    "evidence": (),
}
NOTHING: dict[str, Any] = {
    **INCONCLUSIVE,
    "verdict": "no shortcut",
    "reason": "No sliver turns other images.",
    "needed": "",
    "q_value": 1.0,
    "score": 0.01,
    "rung": 0,
    "strength_share": None,
    "extent": None,
}
# As results of before verdicts have it.
UNJUDGED: dict[str, Any] = {
    name: ClassShortcut.model_fields[name].get_default(call_default_factory=True) for name in SHORTCUT
}


def with_verdicts(result: AuditResult, *changes: dict[str, Any]) -> AuditResult:
    """`result` with fields of its classes' verdicts, in order, replaced; evidence is grey pictures."""
    finding = result.shortcuts
    items = tuple(
        item.model_copy(update={**UNJUDGED, **change})
        for item, change in zip(finding.by_class, changes, strict=True)
    )
    changed = finding.model_copy(update={"by_class": items})
    findings = tuple(changed if found is finding else found for found in result.findings)
    arrays = {name: array for name, array in result.arrays.items() if name != "shortcuts/evidence"}
    n = sum(len(item.evidence) for item in items)
    if n:
        shape = result.arrays["shortcuts/examples"].shape[1:]
        levels = np.arange(3 * n, dtype=np.uint8).reshape(n, 3, 1, 1, 1)
        arrays["shortcuts/evidence"] = np.broadcast_to(levels, (n, *shape)).copy()
    return result.model_copy(update={"findings": findings}).with_arrays(arrays)
