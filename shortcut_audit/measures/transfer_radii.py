"""All waves as fine as a shortcut's: its best rung, the rest of its ring, and the rings next to that.

The best rung is the fewest waves that do most. Putting them into other images is enough for these to
turn; taking them out of the class's own may cost nothing, because a texture has many waves of one
fineness, and the rest of them are still there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.cases import ring_numbers
from shortcut_audit.measures.trials import without_lines

__all__ = ["energy_shares", "with_its_radii"]

# Energy of an image that they may hold together: as much as the largest rungs of a verdict, pairs of
# rings (`measures/cases.py`).
_LIGHT = 0.16


def energy_shares(
    grid: FrequencyGrid,
    class_index: int,
    energies: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> NDArray[np.float64]:
    """What exchanging each orbit changes of an image, by the rule of a verdict: energy of the class's
    images and of the others, lines left out, over that of the others; (n_orbits,), DC infinite.

    `energies`: sums over the images of each class (n_classes, n_orbits), and how many they are.
    """
    sums, n_images = energies
    others = np.arange(len(n_images)) != class_index
    foreign = sums[others].sum(axis=0) / n_images[others].sum()
    own = sums[class_index] / n_images[class_index]
    shares = without_lines(grid, own) + without_lines(grid, foreign)
    shares = shares / max(foreign[1:].sum(), 1e-300)
    shares[0] = np.inf
    return np.asarray(shares)


def with_its_radii(
    grid: FrequencyGrid, best: NDArray[np.bool_], order: NDArray[np.int32], shares: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """`best` with all waves of its radii, (n_orbits,).

    The ring that holds the most orbits of `best` (the lowest among equals), the two rings next to it, the
    one with more of them first, and the other orbits of `best`, by their place in the ladder (`order`);
    each as far as all together hold no more than `_LIGHT` (`shares`). None at all where that adds no
    orbit to `best`.
    """
    ring = ring_numbers(grid)
    held = np.bincount(ring[best], minlength=int(ring.max()) + 1)
    # DC is ring 0.
    main = 1 + int(np.argmax(held[1:]))
    near = [n for n in (main - 1, main + 1) if 1 <= n < len(held)]
    wide = np.zeros(len(best), dtype=np.bool_)
    for number in (main, *sorted(near, key=lambda n: -held[n])):
        taken = wide | (ring == number)
        if shares[taken].sum() <= _LIGHT:
            wide = taken
    left = float(_LIGHT - shares[wide].sum())
    rest = np.flatnonzero(best & ~wide)
    for orbit in rest[np.argsort(order[rest], kind="stable")].tolist():
        if shares[orbit] <= left:
            wide[orbit] = True
            left -= float(shares[orbit])
    return wide if (wide & ~best).any() else np.zeros_like(wide)
