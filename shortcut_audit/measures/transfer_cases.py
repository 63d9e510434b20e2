"""Cases of transfer: what an audit found of a class, as rankings of orbits that trials go by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.measures.cases import ladder_of, ring_numbers, with_choice
from shortcut_audit.measures.interface import Arrays, Outline
from shortcut_audit.measures.searches.interface import MEASURE as MAPS
from shortcut_audit.measures.shortcuts import NAME as SHORTCUTS
from shortcut_audit.measures.transfer_radii import energy_shares, with_its_radii
from shortcut_audit.measures.trials import ARMS_OF_RINGS, PAIRS_FROM, Trial
from shortcut_audit.results.shortcut_findings import VERDICTS, Verdict

__all__ = ["TransferCase", "case_of"]


@dataclass(frozen=True)
class TransferCase:
    """A searched class: its ladder and map as rankings, the best rung, of `n_orbits` or a `ring`, and
    all waves of its radii (`wide`, a ranking too)."""

    column: int
    class_index: int
    verdict: Verdict
    order: NDArray[np.int32]
    kept: NDArray[np.int32]
    best: NDArray[np.bool_]
    wide: NDArray[np.int32]
    n_orbits: int
    ring: int | None
    rungs: tuple[int, ...]
    choice: bool

    def trial(self, what: str) -> Trial:
        """A trial of the best rung, or the one of a ring that stands for it."""
        if self.ring is None:
            return Trial(what, self.n_orbits)  # type: ignore[arg-type]
        return Trial(ARMS_OF_RINGS[what], self.ring)


def case_of(
    outline: Outline,
    found: Arrays,
    column: int,
    energies: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> TransferCase:
    """What the audit found of the searched class `column`; `energies` of its search images (sums over
    those of each class, and how many they are)."""
    order = found[f"{SHORTCUTS}/order"][column].astype(np.int32)
    best = found[f"{SHORTCUTS}/best"][column].astype(np.bool_)
    n_orbits = int(best.sum())
    ring = None
    if not np.array_equal(best, (order > 0) & (order <= n_orbits)):
        of_orbit = ring_numbers(outline.grid)
        first = int(of_orbit[best].min())
        pair = len(np.unique(of_orbit[best])) > 1
        ring = PAIRS_FROM + first if pair else first
    kept = found[f"{MAPS}/kept"][column].astype(np.bool_)
    shares = energy_shares(outline.grid, outline.searched[column], energies)
    whole = int(order.max())
    rungs = ladder_of(outline.grid.n_orbits - 1)
    return TransferCase(
        column=column,
        class_index=outline.searched[column],
        verdict=VERDICTS[int(found[f"{SHORTCUTS}/verdict"][column])],
        order=order,
        kept=_ranking(kept),
        best=best,
        wide=_ranking(with_its_radii(outline.grid, best, order, shares)),
        n_orbits=n_orbits,
        ring=ring,
        rungs=(*(n for n in rungs if n < whole), whole),
        choice=ring is None and with_choice(outline.grid, np.flatnonzero(best)),
    )


def _ranking(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Orbits of which all are meant, in whatever order."""
    ranks = np.zeros(len(chosen), dtype=np.int32)
    ranks[chosen] = np.arange(1, int(chosen.sum()) + 1)
    return ranks
