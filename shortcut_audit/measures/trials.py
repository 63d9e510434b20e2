"""Trials: what a classifier calls an image once orbits are put into it, taken out, or all that is left.

A trial is an arm (what is done) and a depth (with how many of a class's orbits). All trials of an image
share its spectrum; batches mix images and trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask, matched_ranks
from shortcut_audit.fourier.transform import apply_mask, spectrum_of, transplant
from shortcut_audit.measures.interface import Advance, Block, Subject, require_finite

__all__ = [
    "ARMS",
    "ARMS_OF_RINGS",
    "PAIRS_FROM",
    "Arm",
    "Partners",
    "Trial",
    "called_in_trials",
    "light_order",
    "ring_members",
    "rings_of",
    "trial_images",
    "without_lines",
]

Arm = Literal[
    # Into an image of another class: orbits of an image of the class; the same orbits of an image of
    # yet another class; random orbits of the same radii, of the image of the class.
    "transplant",
    "transplant foreign",
    "transplant random",
    # Out of an image of another class, with nothing in their place: the orbits; a ring.
    "erase",
    "erase ring",
    # Out of an image of the class: its orbits; random ones of the same radii.
    "remove",
    "remove random",
    # All that is left: of an image of the class its orbits, or random ones; of another class's.
    "keep",
    "keep random",
    "keep foreign",
    # Into an image of another class, all orbits of one ring: of an image of the class; of another.
    "ring",
    "ring foreign",
    # An image of the class without the ring.
    "remove ring",
    # The same with DC alone.
    "colour",
    "colour foreign",
]
ARMS: tuple[Arm, ...] = get_args(Arm)
# What is done with a class's orbits, done with all orbits of a ring.
ARMS_OF_RINGS: dict[str, Arm] = {
    "transplant": "ring",
    "transplant foreign": "ring foreign",
    "erase": "erase ring",
    "remove": "remove ring",
}
# Pairs of neighbouring rings are numbered behind all rings: this, and the number of the first.
PAIRS_FROM = 100


@dataclass(frozen=True)
class Trial:
    """What is done, and with how many orbits; for a ring or a pair of rings, which one."""

    arm: Arm
    n_orbits: int = 0

    @property
    def code(self) -> tuple[int, int]:
        """As numbers, for keys and files."""
        return ARMS.index(self.arm), self.n_orbits

    @classmethod
    def of(cls, code: Sequence[int]) -> Trial:
        """The trial of a code."""
        return cls(ARMS[int(code[0])], int(code[1]))


@dataclass(frozen=True)
class Partners:
    """For each image of a class, an image of another class that takes its orbits (`receivers`), and
    one of yet another that gives its own instead (`foreign`): rows, both (n,)."""

    receivers: NDArray[np.int64]
    foreign: NDArray[np.int64]

    @classmethod
    def drawn(
        cls,
        own: tuple[int, int],
        others: Sequence[tuple[int, int]],
        generator: np.random.Generator,
    ) -> Partners:
        """Partners of the images `own` (start, stop) among those of `others`, by chance.

        Receivers come evenly from all other classes, and none twice before all have been used. A
        foreign donor is another image than the receiver.
        """
        n = own[1] - own[0]
        receivers = _evenly(n, others, generator)
        foreign = _evenly(n, others, generator)
        # An image cannot give to itself: where both are one, the donor is exchanged for the next.
        for _ in range(n):
            same = np.flatnonzero(receivers == foreign)
            if not len(same):
                break
            foreign[same] = np.roll(foreign, 1)[same]
        return cls(receivers, foreign)


def _evenly(
    n: int, classes: Sequence[tuple[int, int]], generator: np.random.Generator
) -> NDArray[np.int64]:
    """`n` rows, from the classes (start, stop) in turn, each class in an order of its own."""
    orders: dict[int, NDArray[np.int64]] = {}
    dealt: list[int] = []
    for turn in range(max(stop - start for start, stop in classes)):
        for number in generator.permutation(len(classes)).tolist():
            if number not in orders:
                orders[number] = generator.permutation(np.arange(*classes[number]))
            if turn < len(orders[number]):
                dealt.append(int(orders[number][turn]))
            # With a thousand classes, most are never come to.
            if len(dealt) == n:
                return np.array(dealt, dtype=np.int64)
    return np.resize(np.array(dealt, dtype=np.int64), n)


def light_order(
    rank: NDArray[np.integer], energy_share: NDArray[np.float64], *, together: float, at_most: int
) -> NDArray[np.int64]:
    """The first orbits of a ranking that are light: numbers of at most `at_most` orbits, in its order.

    `rank` (n_orbits,), 0 = not ranked; `energy_share` (n_orbits,) of an image that each orbit holds.
    Those taken hold no more than `together`, and none takes more than half of what those before it have
    left of that, so that a heavy one leaves room for many light ones. Where none is light enough, the
    lightest of the ranked ones is taken.
    """
    order = np.argsort(rank, kind="stable")[np.count_nonzero(rank == 0) :]
    chosen, left = [], together
    for orbit in order.tolist():
        share = float(energy_share[orbit])
        if share <= left / 2:
            chosen.append(orbit)
            left -= share
            if len(chosen) == at_most:
                break
    if not chosen:
        chosen = [int(order[np.argmin(energy_share[order])])]
    return np.array(chosen, dtype=np.int64)


def without_lines(grid: FrequencyGrid, energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Energy of each orbit, but no more than the strongest of its neighbours in the plane holds, next to
    it and one further away."""
    plane = energy[grid.orbit_of_bin] / grid.members[grid.orbit_of_bin]
    # The other half of the plane is its mirror image, and both wrap around.
    full = np.concatenate(
        [plane, np.roll(plane[::-1], 1, axis=0)[:, 1 : (grid.width + 1) // 2][:, ::-1]], axis=1
    )
    near = range(-2, 3)
    shifts = [(a, b) for a in near for b in near if (a, b) != (0, 0)]
    # DC is no neighbour: it holds more than all else.
    full[0, 0] = 0.0
    # A line that lies between two bins, and two lines side by side, have each other next to them.
    strongest = np.min(
        [
            np.max([np.roll(full, at, axis=(0, 1)) for at in shifts if max(map(abs, at)) == away], axis=0)
            for away in (1, 2)
        ],
        axis=0,
    )
    capped: NDArray[np.float64] = np.minimum(energy, strongest[grid.rows, grid.columns] * grid.members)
    return capped


def rings_of(grid: FrequencyGrid, n_rings: int) -> NDArray[np.int32]:
    """Ring of each orbit (n_orbits,), 1 the lowest: `n_rings` of equal width up to Nyquist, one more for
    the corners beyond it; 0 for DC alone."""
    ring = (grid.bands(n_rings) + 1).astype(np.int32)
    # A hair of tolerance: a radius right on the border may pass it in floating point.
    ring[grid.radius > min(grid.height, grid.width) / 2 + 1e-9] = n_rings + 1
    return ring


def ring_members(ring: NDArray[np.int32], number: int) -> NDArray[np.bool_]:
    """Which orbits are in ring `number`, or in it and the next one: `PAIRS_FROM` + its number."""
    first = number % PAIRS_FROM
    members: NDArray[np.bool_] = np.isin(ring, [first, first + 1] if number > PAIRS_FROM else [first])
    return members


@dataclass(frozen=True)
class _Images:
    """Images of a block with their partners, as spectra (n, C, H, W//2+1)."""

    subject: Subject
    block: Block
    ranks: NDArray[np.int32]
    shuffled: NDArray[np.int32] | None
    ring: NDArray[np.int32]
    partners: Partners

    @cached_property
    def receivers(self) -> Tensor:
        return self._spectra(self.partners.receivers)

    @cached_property
    def foreign(self) -> Tensor:
        return self._spectra(self.partners.foreign)

    def _spectra(self, rows: NDArray[np.int64]) -> Tensor:
        read = self.subject.block
        return spectrum_of(torch.cat([read((row, row + 1)).images for row in rows.tolist()]))

    def masks(self, n_orbits: int, images: Tensor, *, shuffled: bool) -> Tensor:
        """The first `n_orbits` of each image's ranking over the half plane, (b, 1, H, W//2+1)."""
        grid, device = self.subject.grid, self.block.images.device
        if shuffled:
            assert self.shuffled is not None
            ranks = self.shuffled[images.cpu().numpy()]
        else:
            ranks = self.ranks[None]
        chosen = (ranks > 0) & (ranks <= n_orbits)
        plane = torch.from_numpy(np.ascontiguousarray(chosen[..., grid.orbit_of_bin])).to(device)
        return plane[:, None]

    def ring_mask(self, number: int) -> Tensor:
        """Orbits of a ring over the half plane, (H, W//2+1)."""
        chosen = half_plane_mask(self.subject.grid, ring_members(self.ring, number))
        return chosen.to(self.block.images.device)

    def with_dc(self, masks: Tensor, kept: bool) -> Tensor:
        """`masks` with DC in or out; where it is ranked, as the ranking has it."""
        if self.subject.settings.dc != "rank":
            masks = masks.clone()
            masks[..., 0, 0] = kept
        return masks


def trial_images(given: _Images, trial: Trial, images: Tensor) -> Tensor:
    """Images (b, C, H, W) of a trial on those of the block that `images` (b,) numbers."""
    arm, n_orbits = trial.arm, trial.n_orbits
    width = given.subject.grid.width
    own = given.block.spectrum
    if arm in ("colour", "colour foreign", "ring", "ring foreign"):
        donors = given.foreign if arm.endswith("foreign") else own
        mask = given.ring_mask(0 if arm.startswith("colour") else n_orbits)
        return transplant(given.receivers[images], donors[images], mask, width)
    dc_stays = given.subject.settings.dc == "keep"
    if arm in ("remove ring", "erase ring"):
        source = given.receivers if arm == "erase ring" else own
        return apply_mask(source[images], ~given.ring_mask(n_orbits), width)
    shuffled = arm.endswith("random")
    masks = given.masks(n_orbits, images, shuffled=shuffled)
    if arm.startswith("transplant"):
        donors = given.foreign if arm == "transplant foreign" else own
        return transplant(given.receivers[images], donors[images], masks, width)
    if arm.startswith("remove") or arm == "erase":
        source = given.receivers if arm == "erase" else own
        # What is missing are the orbits alone: DC stays, as it does in a transplant.
        return apply_mask(source[images], ~masks, width)
    source = given.receivers if arm == "keep foreign" else own
    return apply_mask(source[images], given.with_dc(masks, dc_stays), width)


def called_in_trials(
    subject: Subject,
    block: Block,
    ranks: NDArray[np.int32],
    ring: NDArray[np.int32],
    trials: Sequence[Trial],
    partners: Partners,
    generators: Callable[[int], np.random.Generator],
    output: int,
    advance: Advance,
) -> NDArray[np.bool_]:
    """Whether each image of the block is called by `output` in each trial, bool (n_trials, n_images).

    `ranks` (n_orbits,) of the class's orbits, 0 behind the deepest; `ring` (n_orbits,) the number of
    each orbit's ring, 0 for DC alone; `partners` of the block's images.
    `generators(i)`: the random numbers of image i of the block, which shuffle its ranking among orbits
    of equal radius. Raises LogitsError, naming the image, where an answer is no number.
    """
    n_images, device = len(block.images), block.images.device
    shuffled = None
    if any(trial.arm.endswith("random") for trial in trials):
        # Every orbit may stand in for one of its ring, whether it is among the first or not.
        whole = _whole_ranking(ranks)
        rows = [matched_ranks(subject.grid, whole, 1, generators(image)) for image in range(n_images)]
        shuffled = np.concatenate(rows)
    given = _Images(subject, block, ranks, shuffled, ring, partners)
    called = np.zeros((len(trials), n_images), dtype=np.bool_)
    for number, trial in enumerate(trials):
        for start in range(0, n_images, subject.batch_size):
            images = torch.arange(start, min(start + subject.batch_size, n_images), device=device)
            logits = subject.logits(trial_images(given, trial, images))
            require_finite(logits, subject, (block.rows[0] + start, block.rows[1]), f" ({trial.arm})")
            called[number, start : start + len(images)] = (logits.argmax(dim=1) == output).cpu().numpy()
            advance(len(images))
    return called


def _whole_ranking(ranks: NDArray[np.int32]) -> NDArray[np.int32]:
    """`ranks` with all orbits behind the ranked ones but DC, in the order of the grid."""
    whole = ranks.copy()
    rest = np.flatnonzero(whole == 0)
    rest = rest[rest > 0]
    whole[rest] = ranks.max() + 1 + np.arange(len(rest))
    return whole
