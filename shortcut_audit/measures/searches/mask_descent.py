"""Steps of gradient descent on the masks of many classes at once, through a classifier.

Batches mix images of all classes of a shard, each under a mask of its own class. What a class draws
(images, noise) follows from the seed, its output and the step alone, so that neither the grouping of
classes nor the batch size has a say in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.errors import LogitsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.transform import apply_mask, spectrum_of
from shortcut_audit.measures.interface import (
    FLOATS_PER_BLOCK,
    Advance,
    Outline,
    Subject,
    Totals,
)
from shortcut_audit.measures.searches.descent import (
    Descent,
    Schedule,
    Stage,
    logistic_noise,
    logits_gradient,
    soft_masks,
)
from shortcut_audit.measures.searches.folds import rankable_orbits

__all__ = [
    "BRANCHES",
    "Branch",
    "HalfPlane",
    "MaskState",
    "counted_members",
    "descend",
    "keep_only_gradients",
    "n_drawn",
]


@dataclass(frozen=True)
class Branch:
    """One mask of a class. It sees every `stride`-th image from `first` on, `n_per_step` in each step."""

    name: str
    first: int
    stride: int
    n_per_step: int

    def n_images(self, n: int) -> int:
        """Images of its own, of `n` of the class."""
        return len(range(self.first, n, self.stride))


# The map's own, and two that each see every other image, to tell how far it would come out again.
BRANCHES = (Branch("all", 0, 1, 24), Branch("even", 0, 2, 12), Branch("odd", 1, 2, 12))


def n_drawn(rows: tuple[int, int]) -> list[int]:
    """Images that go into one step of each mask of a class with search images `rows`."""
    n = rows[1] - rows[0]
    return [min(branch.n_per_step, branch.n_images(n)) for branch in BRANCHES]


def counted_members(outline: Outline) -> Tensor:
    """Bins of each orbit, (n_orbits,) float64; 0 where the orbit is not chosen but set: DC, mostly."""
    counted: Tensor = torch.from_numpy(
        (outline.grid.members * rankable_orbits(outline)).astype(np.float64)
    )
    return counted


@dataclass(frozen=True)
class MaskState:
    """All that goes on from one shard to the next of one class: (n_branches, n_orbits) float64 each."""

    logits: NDArray[np.float64]
    momentum: NDArray[np.float64]
    square: NDArray[np.float64]

    @classmethod
    def start(cls, n_orbits: int) -> MaskState:
        """Masks that hold every orbit alike."""
        return cls(*(np.zeros((len(BRANCHES), n_orbits)) for _ in range(3)))

    @property
    def n_bytes(self) -> int:
        """What it takes on disk."""
        return self.logits.nbytes + self.momentum.nbytes + self.square.nbytes

    @staticmethod
    def stacked(states: Sequence[MaskState]) -> dict[str, NDArray[np.float64]]:
        """States of many classes as arrays (n_classes, n_branches, n_orbits)."""
        return {
            name: np.stack([getattr(state, name) for state in states])
            for name in ("logits", "momentum", "square")
        }

    @classmethod
    def unstacked(cls, arrays: Mapping[str, NDArray[Any]]) -> list[MaskState]:
        """The other way round."""
        by_class = zip(arrays["logits"], arrays["momentum"], arrays["square"], strict=True)
        return [cls(*state) for state in by_class]


@dataclass(frozen=True)
class HalfPlane:
    """Where the orbits lie in a flat half plane, and back.

    `orbit_of_bin` (n_bins,); `bins_of_orbit` (n_orbits, 2), the second n_bins where there is none;
    `weight` (n_bins,): bins of the full plane that a bin stands for.
    """

    orbit_of_bin: Tensor
    bins_of_orbit: Tensor
    weight: Tensor

    @classmethod
    def of(cls, grid: FrequencyGrid, device: torch.device) -> HalfPlane:
        orbit_of_bin = grid.orbit_of_bin.ravel()
        n_bins = len(orbit_of_bin)
        first = grid.rows * grid.n_half_columns + grid.columns
        second = np.full(grid.n_orbits, n_bins)
        others = np.setdiff1d(np.arange(n_bins), first)
        second[orbit_of_bin[others]] = others
        n_own = np.bincount(orbit_of_bin, minlength=grid.n_orbits)
        weight = (grid.members / n_own)[orbit_of_bin] / (grid.height * grid.width)
        return cls(
            orbit_of_bin=torch.from_numpy(orbit_of_bin).to(device),
            bins_of_orbit=torch.from_numpy(np.stack([first, second], axis=1)).to(device),
            weight=torch.from_numpy(weight).to(device, _exact(device)),
        )

    def per_orbit(self, by_bin: Tensor) -> Tensor:
        """Sums over the bins of each orbit, (B, n_bins) to (B, n_orbits); in one order anywhere."""
        padded = torch.nn.functional.pad(by_bin, (0, 1))
        return padded[:, self.bins_of_orbit[:, 0]] + padded[:, self.bins_of_orbit[:, 1]]


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def keep_only_gradients(
    subject: Subject, plane: HalfPlane, spectra: Tensor, masks: Tensor, outputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses (B,) when only what `masks` let through is left, and their gradients (B, n_orbits).

    `spectra` (B, C, H, W//2+1); `masks` (B, n_orbits) real; `outputs` (B,) integers. With x =
    irfft2(m X), d loss / d m_o = sum over the bins k of orbit o, and channels, of Re(conj(G_k) X_k) /
    (H W), G the transform of d loss / d x.
    """
    grid = subject.grid
    planes = masks[:, plane.orbit_of_bin].to(spectra.real.dtype)
    planes = planes.reshape(-1, 1, grid.height, grid.n_half_columns)
    with subject.classifier.gradients():
        kept = apply_mask(spectra, planes, grid.width).requires_grad_()
        logits = subject.logits(kept)
        # Autograd takes no tensor that was made under inference mode.
        losses = torch.nn.functional.cross_entropy(logits, outputs.clone(), reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), kept)
    # Real and imaginary parts apart: the sum over channels is taken in double precision.
    ours, theirs = spectrum_of(gradient), spectra
    by_bin = (ours.real * theirs.real + ours.imag * theirs.imag).to(plane.weight.dtype).sum(dim=1)
    return losses.detach(), plane.per_orbit(by_bin.flatten(1) * plane.weight)


class _Spectra:
    """Half-plane spectra of single images by row; all of them at hand where they are few."""

    def __init__(self, subject: Subject, rows_by_class: Sequence[tuple[int, int]]) -> None:
        self._subject = subject
        n_images = sum(stop - start for start, stop in rows_by_class)
        few = n_images * int(np.prod(subject.images.store.shape)) <= FLOATS_PER_BLOCK
        self._held = (
            {
                row: spectrum
                for rows in rows_by_class
                for row, spectrum in zip(range(*rows), subject.block(rows).spectrum, strict=True)
            }
            if few
            else None
        )

    def of(self, rows: Sequence[int]) -> Tensor:
        """(B, C, H, W//2+1)."""
        if self._held is not None:
            return torch.stack([self._held[row] for row in rows])
        return torch.cat([self._subject.block((row, row + 1)).spectrum for row in rows])


@dataclass(frozen=True)
class _Draw:
    """What one step takes for one mask: rows of images, and noise (n, n_orbits)."""

    rows: list[int]
    noise: Tensor


def _seed_of(*parts: object) -> int:
    return int(hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:15], 16)


@lru_cache(maxsize=64)
def _shuffled(seed: int, n: int) -> list[int]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()


def _drawn(
    seed: int, output: int, branch: Branch, rows: tuple[int, int], step: int, n_orbits: int
) -> _Draw:
    """Images go round in an order that is shuffled anew each time; noise is another in every step."""
    own = range(rows[0] + branch.first, rows[1], branch.stride)
    n = min(branch.n_per_step, len(own))
    chosen = []
    for place in range(step * n, step * n + n):
        turn, number = divmod(place, len(own))
        order = _shuffled(_seed_of("order", seed, output, branch.name, turn), len(own))
        chosen.append(own[order[number]])
    noise = logistic_noise((n, n_orbits), _seed_of("noise", seed, output, branch.name, step))
    return _Draw(chosen, noise)


def descend(
    subject: Subject, arrays: Mapping[str, NDArray[Any]], steps: tuple[int, int], advance: Advance
) -> Totals:
    """The state of all masks of a shard after `steps` (first, last-plus-one), from that before.

    `arrays`: `n_steps` of the whole descent; `rows` (n_classes, 2) and `outputs` (n_classes,) of the
    classes; `logits`, `momentum`, `square` (n_classes, n_branches, n_orbits). Gives the last three
    again, and `loss` (n_classes, n_branches), the mean over the last step's images in nats.
    """
    outline, device = subject.outline, subject.classifier.device
    exact = _exact(device)
    rows = [(int(start), int(stop)) for start, stop in arrays["rows"]]
    outputs = [int(output) for output in arrays["outputs"]]
    schedule = Schedule(int(arrays["n_steps"][0]), subject.settings.kept_share)
    shape = arrays["logits"].shape
    state = Descent(
        *(
            torch.from_numpy(arrays[name].reshape(-1, shape[-1]).copy()).to(device, exact)
            for name in ("logits", "momentum", "square")
        )
    )
    engine = _Engine(
        subject=subject,
        plane=HalfPlane.of(subject.grid, device),
        members=counted_members(outline).to(device, exact),
        spectra=_Spectra(subject, rows),
    )
    losses = torch.zeros(len(state.logits), dtype=exact, device=device)
    masks = [
        (own, output, branch) for own, output in zip(rows, outputs, strict=True) for branch in BRANCHES
    ]
    for number in range(*steps):
        stage = schedule.at(number)
        draws = [
            _drawn(subject.settings.seed, output, branch, own, number, shape[-1])
            for own, output, branch in masks
        ]
        targets = [output for _, output, _ in masks]
        gradient, losses = engine.gradient(state.logits, draws, targets, stage, advance)
        state.step(gradient, number, stage.rate)
    if not bool(torch.isfinite(state.logits).all()):
        raise LogitsError(
            "The gradient of the model's loss is NaN or infinite on images of which parts of the spectrum"
            " are left.",
            "Try --dtype float32 where half precision is in use, or --search exact.",
        )
    return {
        "loss": losses.cpu().numpy().reshape(shape[:2]),
        **{
            name: getattr(state, name).cpu().double().numpy().reshape(shape)
            for name in ("logits", "momentum", "square")
        },
    }


@dataclass(frozen=True)
class _Engine:
    """What the steps of a shard share."""

    subject: Subject
    plane: HalfPlane
    members: Tensor
    spectra: _Spectra

    def gradient(
        self,
        logits: Tensor,
        draws: Sequence[_Draw],
        targets: Sequence[int],
        stage: Stage,
        advance: Advance,
    ) -> tuple[Tensor, Tensor]:
        """Mean gradient (n_masks, n_orbits) over each mask's images, and mean loss (n_masks,).

        `targets`: model output of each mask. Images are numbered mask by mask and cut into full batches.
        """
        device, exact = logits.device, logits.dtype
        counts = [len(draw.rows) for draw in draws]
        owner = torch.repeat_interleave(torch.tensor(counts))
        rows = [row for draw in draws for row in draw.rows]
        noise = torch.cat([draw.noise for draw in draws])
        outputs = torch.tensor(targets)[owner]
        sums = torch.zeros_like(logits)
        losses = torch.zeros(len(logits), dtype=exact, device=device)
        for batch in _batches(len(rows), self.subject.batch_size):
            own = owner[batch].to(device)
            noisy = logits[own] + stage.temperature * noise[batch].to(device, exact)
            soft = soft_masks(noisy, self.members, stage)
            loss, by_orbit = keep_only_gradients(
                self.subject,
                self.plane,
                self.spectra.of(rows[batch]),
                self._with_dc(soft),
                outputs[batch].to(device),
            )
            found = logits_gradient(soft, by_orbit, self.members, stage)
            # A product, not a scattered sum: its order is the same on any device.
            taken = (own == torch.arange(len(logits), device=device)[:, None]).to(exact)
            sums += taken @ found
            losses += taken @ loss.to(exact)
            advance(3 * len(own))
        share = 1 / torch.tensor(counts, dtype=exact, device=device).clamp_min(1)
        return sums * share[:, None], losses * share

    def _with_dc(self, soft: Tensor) -> Tensor:
        """Masks (B, n_orbits) with DC as the settings have it."""
        dc = self.subject.settings.dc
        if dc == "rank":
            return soft
        masks = soft.clone()
        masks[:, 0] = float(dc == "keep")
        return masks


def _batches(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
