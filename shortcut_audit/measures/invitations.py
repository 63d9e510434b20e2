"""Class-band pairs that invite a shortcut: where one class's spectrum stands out, before any model.

A pattern that was added to a class raises its power on some orbits above what the surroundings of
those orbits, and the other classes, let expect. Natural classes differ too, but smoothly: in level, in
slope, in direction. So every orbit and every ring is compared with its surroundings within the class,
and that contrast with the same contrast in the other classes; and the yardstick is not the sampling
error alone but also how much such contrasts differ between classes elsewhere at that radius (an
empirical null, Efron 2004). Amplitudes alone are used, never phases.

A pattern that all classes carry makes a larger contrast where a class has less power of its own; it
adds the same power to all of them, though. So what is named must also exceed, in added power, what the
other classes have there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from shortcut_audit.fourier.cells import SpectrumCells
from shortcut_audit.measures.contrasts import ClassContrast, Comb
from shortcut_audit.measures.ring_contrasts import RingWindow
from shortcut_audit.results.findings import Invitation, InvitationsFinding

__all__ = [
    "LEAST_AUC",
    "LEAST_EXCESS",
    "Named",
    "invitations",
    "named_combs",
    "named_orbits",
    "named_rings",
    "threshold_of",
]

# Below six standard errors nothing is named, however few the comparisons: the spread of natural
# differences is that of their bulk, and their tails are heavier than a normal law.
LEAST_Z = 6.0
# Smaller excesses than these tell no single image from another, however many images prove them; nor
# does one whose images are told from others less often than this.
LEAST_AUC = 0.6
LEAST_EXCESS = 0.2
# One comparison, once the comb as a whole has passed.
_LEAST_Z_OF_OWN_LINES = 3.0


@dataclass(frozen=True)
class Named:
    """A unit that is named, before single images have been asked about it."""

    class_index: int
    evidence: Literal["orbits", "block grid", "ring"]
    orbits: NDArray[np.int64]
    window: RingWindow | None
    difference: float
    added: float
    z: float


def named_orbits(contrast: ClassContrast, threshold: float) -> Iterator[Named]:
    """Orbits that pass, one by one."""
    passes = (contrast.z >= threshold) & (contrast.difference >= LEAST_EXCESS) & contrast.passes
    for class_index, orbit in zip(*np.nonzero(passes), strict=True):
        yield Named(
            int(class_index),
            "orbits",
            np.array([orbit]),
            None,
            float(contrast.difference[class_index, orbit]),
            float(contrast.added.unusual[0][class_index, orbit]),
            float(contrast.z[class_index, orbit]),
        )


def named_combs(
    contrasts: dict[int, tuple[ClassContrast, ClassContrast]],
    combs: dict[int, Comb],
    by_orbit: ClassContrast,
    threshold: float,
) -> Iterator[Named]:
    """For every class the largest block whose comb passes, and whose own lines stand out as well."""
    for class_index in range(len(by_orbit.n)):
        for block in sorted(contrasts, reverse=True):
            whole, own = contrasts[block]
            if (
                whole.z[class_index, 0] >= threshold
                and whole.difference[class_index, 0] >= LEAST_EXCESS
                and whole.passes[class_index, 0]
                # The lines of a grid are among those of one twice as large.
                and own.z[class_index, 0] >= _LEAST_Z_OF_OWN_LINES
                and own.difference[class_index, 0] >= LEAST_EXCESS
                # A single strong wave that happens to lie on the comb makes no grid.
                and np.median(by_orbit.difference[class_index, combs[block].lines]) > 0
            ):
                yield Named(
                    class_index,
                    "block grid",
                    combs[block].lines,
                    None,
                    float(whole.difference[class_index, 0]),
                    float(whole.added.unusual[0][class_index, 0]),
                    float(whole.z[class_index, 0]),
                )
                break


def named_rings(
    contrast: ClassContrast, windows: list[RingWindow], cells: SpectrumCells, threshold: float
) -> Iterator[Named]:
    """For every class the windows that pass, the clearest first, none overlapping another."""
    passes = (contrast.z >= threshold) & (contrast.difference >= LEAST_EXCESS) & contrast.passes
    for class_index in range(len(contrast.n)):
        taken: set[int] = set()
        for number in np.argsort(-contrast.z[class_index], kind="stable"):
            window = windows[number]
            # The flanks of a raised window are lowered in comparison, and those of a lowered one raised.
            rings = set(range(window.first - 1, window.last + 1))
            if not passes[class_index, number] or rings & taken:
                continue
            taken |= rings
            inside = (cells.ring_of_orbit >= window.first) & (cells.ring_of_orbit < window.last)
            yield Named(
                class_index,
                "ring",
                np.flatnonzero(inside),
                window,
                float(contrast.difference[class_index, number]),
                float(contrast.added.unusual[0][class_index, number]),
                float(contrast.z[class_index, number]),
            )


def threshold_of(n_tests: int, significance: float) -> float:
    """z that one comparison has to pass, so that among `n_tests` none does by chance (Bonferroni)."""
    return max(LEAST_Z, float(norm.isf(significance / max(n_tests, 1))))


def invitations(
    items: Iterable[Invitation], n_tests: int, threshold: float, reason: str = ""
) -> InvitationsFinding:
    """The finding, the clearest first."""
    order = sorted(items, key=lambda item: (-(item.z or 0), item.class_name, item.band))
    return InvitationsFinding(items=tuple(order), n_tests=n_tests, threshold=threshold, reason=reason)
