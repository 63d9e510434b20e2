"""Candidate masks of a hierarchical search: patches of the plane, drawn at random within a parent.

A mask is a choice of orbits, so a patch always goes together with its mirror image, and every mask is
Hermitian. Candidates are numbered; each follows from seed, stage, number and parents alone, whatever
the shard that scores it, so that only this recipe has to travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import BoolArray
from shortcut_audit.fourier.units import Units
from shortcut_audit.measures.interface import Work

__all__ = ["DRAWN_TOGETHER", "GRIDS", "Candidates", "GridName", "patch_units"]

GridName = Literal["even", "shifted", "union"]
# In the order in which candidates take them: number 0 is even, 1 shifted, 2 union, 3 even, ...
GRIDS: tuple[GridName, ...] = ("even", "shifted", "union")

_KIND = "patch masks"
# Candidates whose random numbers are drawn together; a whole number of rounds through the grids.
DRAWN_TOGETHER = 48
# Candidates among which the best distinct masks are looked for.
_LOOKED_AT = 256


@lru_cache(maxsize=16)
def patch_units(grid: FrequencyGrid, side: int, name: Literal["even", "shifted"]) -> Units:
    """The patches of `side` x `side` bins that divide the centred plane, each with its mirror image.

    `even`: borders run through DC, patches hold the frequencies 1..side, side+1..2*side, ...;
    `shifted`: by half a patch, so that one patch is centred on DC. Both are symmetric about DC, which
    is a unit of its own (unit 0); at the plane's border patches are cut. On 32 x 32 pixels a side of 8
    gives 8 even patches, and each with its mirror image holds about 64 orbits. Patches of side 1 are
    single orbits on either grid.
    Raises SettingsError for a side beyond the plane.
    """
    shifted = Units.named(f"patches:{side}", grid)
    if name == "shifted" or side == 1:
        return shifted
    # Zero has no sign: the axes go with the side on which orbits are named.
    row = np.ceil(np.abs(grid.u) / side).clip(1) * np.where(grid.u < 0, -1, 1)
    column = np.ceil(grid.v / side).clip(1)
    label = ((row + grid.height) * (grid.width + 1) + column).astype(np.int64)
    _, number = np.unique(label[1:], return_inverse=True)
    return Units(grid, f"even:{side}", np.concatenate([[0], number + 1]).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Candidates:
    """The masks of one stage, for one class.

    `side` of the patches in bins; `n_bins` of the plane that a mask is to hold, and `step_share` of its
    parent's; `parents` (n_parents, n_orbits) bool: the best masks of the stage before, in the first
    stage one that holds all that is rankable; `seed`, `stage` (from 0).

    Candidate i draws on grid i mod 3 within parent (i div 3) mod n_parents: patches in random order, as
    many as bring it nearest to `n_bins`; at least one. Of a union, each grid gives half of the bins.
    Single bins have one grid only.
    """

    grid: FrequencyGrid
    side: int
    n_bins: float
    step_share: float
    parents: BoolArray
    seed: int
    stage: int

    @classmethod
    def of_work(cls, grid: FrequencyGrid, work: Work) -> Candidates:
        """Candidates from their recipe."""
        seed, stage, side = work.arrays["numbers"].tolist()
        n_bins, step_share = work.arrays["shares"].tolist()
        packed = np.asarray(work.arrays["parents"])
        parents = np.unpackbits(packed, axis=1, count=grid.n_orbits).astype(np.bool_)
        return cls(grid, side, n_bins, step_share, parents, seed, stage)

    @cached_property
    def work(self) -> Work:
        """The recipe: a few numbers, and the parents in packed bits."""
        return Work(
            _KIND,
            {
                "numbers": np.array([self.seed, self.stage, self.side], dtype=np.int64),
                "shares": np.array([self.n_bins, self.step_share]),
                "parents": np.packbits(self.parents, axis=1),
            },
        )

    @property
    def grids(self) -> tuple[GridName, ...]:
        """Grids that candidates draw on, in turn."""
        return GRIDS if self.side > 1 else GRIDS[:1]

    @cached_property
    def units(self) -> tuple[Units, Units]:
        """The even and the shifted patches."""
        return patch_units(self.grid, self.side, "even"), patch_units(self.grid, self.side, "shifted")

    @cached_property
    def orbits_per_patch(self) -> NDArray[np.float64]:
        """Orbits of each orbit's patch, mean of the grids, (n_orbits,)."""
        sizes = [units.n_orbits_of_unit[units.unit_of_orbit] for units in self.units[: len(self.grids)]]
        mean: NDArray[np.float64] = np.mean(sizes, axis=0)
        return mean

    def parent_of(self, first: int, last: int) -> NDArray[np.int64]:
        """Number of the parent of candidates `first` to `last`."""
        return np.arange(first, last) // len(GRIDS) % len(self.parents)

    def masks(self, first: int, last: int) -> BoolArray:
        """Masks of candidates `first` to `last`, (last - first, n_orbits) bool, without a DC policy."""
        chunks = range(first // DRAWN_TOGETHER, -(-last // DRAWN_TOGETHER))
        if not chunks:
            return np.zeros((0, self.grid.n_orbits), dtype=np.bool_)
        start = chunks.start * DRAWN_TOGETHER
        return np.concatenate([self._chunk(number) for number in chunks])[first - start : last - start]

    def best(self, losses: NDArray[np.float64], n_best: int) -> BoolArray:
        """The `n_best` distinct masks of lowest `losses` (n_candidates,), best first, (n, n_orbits) bool.

        Fewer where the first 256 hold no more: large patches make few masks, each many times.
        """
        found: dict[bytes, BoolArray] = {}
        for number in np.argsort(losses, kind="stable")[:_LOOKED_AT].tolist():
            mask = self.masks(number, number + 1)[0]
            found.setdefault(mask.tobytes(), mask)
            if len(found) == n_best:
                break
        return np.stack(list(found.values()))

    def main_effects(self, sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What keeping each orbit takes off the loss, and the number of candidates that tell.

        `sums` (n_folds, n_candidates): losses summed over the images of each fold. Mean of the
        candidates of one parent that lack the orbit minus mean of those that hold it, shared evenly by
        the orbits of its patch. Losses count from their parent's mean, so that what a good parent has
        done is not laid at its orbits' door; an orbit outside a parent is not judged by its children.

        Returns effects (n_folds, n_orbits), and counts (n_orbits,), 0 where an orbit never varied.
        """
        n_candidates = sums.shape[1]
        parent = self.parent_of(0, n_candidates)
        n_of_parent = np.bincount(parent, minlength=len(self.parents)).astype(np.float64)
        centred = sums.copy()
        for number in np.flatnonzero(n_of_parent):
            # From the first of them, so that equal losses differ by exactly nothing.
            own = sums[:, parent == number] - sums[:, parent == number][:, :1]
            centred[:, parent == number] = own - own.mean(axis=1, keepdims=True)
        kept_sums = np.zeros((len(sums), self.grid.n_orbits))
        n_kept = np.zeros(self.grid.n_orbits)
        for first in range(0, n_candidates, DRAWN_TOGETHER):
            last = min(first + DRAWN_TOGETHER, n_candidates)
            masks = self.masks(first, last).astype(np.float64)
            kept_sums += centred[:, first:last] @ masks
            n_kept += masks.sum(axis=0)
        n_varied = n_of_parent @ self.parents
        n_lost = n_varied - n_kept
        tells = (n_kept > 0) & (n_lost > 0)
        # Centred losses add up to 0 over a parent's children: those that lack it sum to minus the rest.
        per_loss = np.where(tells, 1 / np.maximum(n_kept, 1) + 1 / np.maximum(n_lost, 1), 0)
        effects: NDArray[np.float64] = -kept_sums * per_loss / self.orbits_per_patch
        return effects, np.where(tells, n_varied, 0)

    def _chunk(self, number: int) -> BoolArray:
        generator = np.random.default_rng([self.seed, self.stage, number])
        even, shifted = self.units
        # Drawn for all, used or not, so that no candidate's numbers depend on another's grid.
        orders = [generator.random((DRAWN_TOGETHER, units.n_units)) for units in self.units]
        first = number * DRAWN_TOGETHER
        of_parent = self.parent_of(first, first + DRAWN_TOGETHER)
        chosen = np.zeros((DRAWN_TOGETHER, self.grid.n_orbits), dtype=np.bool_)
        for index, name in enumerate(self.grids):
            own = slice(index, None, len(self.grids))
            number_of = of_parent[own]
            parents, goal = self.parents[number_of], self._bins_to_keep[number_of]
            if name == "shifted":
                sizes = self._sizes[1][number_of]
                chosen[own] = _drawn(shifted, sizes, orders[1][own], goal) & parents
                continue
            sizes = self._sizes[0][number_of]
            wanted = goal if name == "even" else goal / 2
            chosen[own] = _drawn(even, sizes, orders[0][own], wanted) & parents
            if name == "union":
                left = parents & ~chosen[own]
                sizes = shifted.sums(left * self._members)
                held = even.sums(chosen[own] * self._members).sum(axis=1)
                chosen[own] |= _drawn(shifted, sizes, orders[1][own], goal - held) & left
        return chosen

    @cached_property
    def _members(self) -> NDArray[np.float64]:
        return self.grid.members.astype(np.float64)

    @cached_property
    def _sizes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bins of every parent in each even and each shifted patch, (n_parents, n_units)."""
        bins = self.parents * self._members
        return self.units[0].sums(bins), self.units[1].sums(bins)

    @cached_property
    def _bins_to_keep(self) -> NDArray[np.float64]:
        """Bins that a child of each parent is to hold, (n_parents,)."""
        of_parent = self._sizes[0].sum(axis=1)
        # A parent that came out smaller than meant still has to lose something.
        return np.where(self.n_bins < of_parent, self.n_bins, self.step_share * of_parent)


def _drawn(
    units: Units, sizes: NDArray[np.float64], order: NDArray[np.float64], bins: NDArray[np.float64]
) -> BoolArray:
    """Patches taken by rising `order` (n, n_units), as many as come nearest to `bins` (n,); at least one.

    `sizes` (n, n_units): what each patch would add. Returns their orbits, (n, n_orbits).
    """
    # Patches that would add nothing come last.
    sequence = np.argsort(np.where(sizes > 0, order, np.inf), axis=1)
    held = np.cumsum(np.take_along_axis(sizes, sequence, axis=1), axis=1)
    n_patches = np.argmin(np.abs(held - bins[:, None]), axis=1) + 1
    taken = np.zeros(order.shape, dtype=np.bool_)
    np.put_along_axis(taken, sequence, np.arange(units.n_units) < n_patches[:, None], axis=1)
    orbits: BoolArray = taken[:, units.unit_of_orbit]
    return orbits
