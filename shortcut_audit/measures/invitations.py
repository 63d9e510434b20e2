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
from shortcut_audit.measures.contrasts import ClassContrast, RingWindow
from shortcut_audit.results.findings import Invitation, InvitationsFinding

__all__ = [
    "LEAST_AUC",
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
LEAST_AUC = 0.55
_LEAST_EXCESS_OF_ORBIT = 0.2
_LEAST_EXCESS_OF_RING = 0.15
_AS_CLEAR = 0.6


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
    passes = (
        (contrast.z >= threshold)
        & (contrast.difference >= _LEAST_EXCESS_OF_ORBIT)
        & contrast.added_passes
    )
    for class_index, orbit in zip(*np.nonzero(passes), strict=True):
        yield Named(
            int(class_index),
            "orbits",
            np.array([orbit]),
            None,
            float(contrast.difference[class_index, orbit]),
            float(contrast.added[class_index, orbit]),
            float(contrast.z[class_index, orbit]),
        )


def named_combs(
    combs: dict[int, ClassContrast],
    orbits: dict[int, NDArray[np.int64]],
    by_orbit: ClassContrast,
    threshold: float,
) -> Iterator[Named]:
    """For every class the comb that explains most of what stands out, if one passes."""
    if not combs:
        return
    for class_index in range(len(next(iter(combs.values())).n)):
        passing = [
            (float(each.z[class_index, 0]), block)
            for block, each in combs.items()
            if each.z[class_index, 0] >= threshold
            and each.difference[class_index, 0] >= _LEAST_EXCESS_OF_ORBIT
            and each.added_passes[class_index, 0]
            # A single strong wave that happens to lie on the comb makes no grid.
            and np.median(by_orbit.difference[class_index, orbits[block]]) > 0
        ]
        if passing:
            # Combs share lines; of those that are about as clear, the finest explains most of them.
            clearest = max(passing)[0]
            block, z = max((block, z) for z, block in passing if z >= _AS_CLEAR * clearest)
            contrast = combs[block]
            yield Named(
                class_index,
                "block grid",
                orbits[block],
                None,
                float(contrast.difference[class_index, 0]),
                float(contrast.added[class_index, 0]),
                z,
            )


def named_rings(
    contrast: ClassContrast, windows: list[RingWindow], cells: SpectrumCells, threshold: float
) -> Iterator[Named]:
    """For every class the windows that pass, the clearest first, none overlapping another."""
    passes = (
        (contrast.z >= threshold) & (contrast.difference >= _LEAST_EXCESS_OF_RING) & contrast.added_passes
    )
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
                float(contrast.added[class_index, number]),
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
