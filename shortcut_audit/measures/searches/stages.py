"""The stages of a hierarchical search: sides of patches, candidates, and what a budget leaves of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shortcut_audit.errors import SettingsError
from shortcut_audit.measures.interface import Done, Outline
from shortcut_audit.results.settings import Budget

__all__ = [
    "FEWEST_CANDIDATES",
    "N_PARENTS",
    "Counts",
    "StagePlan",
    "StageTimer",
    "default_patch_sides",
    "n_search_images",
    "stage_plan",
    "why_less",
    "within_passes",
]

# Published: masks of a stage that the next one draws within, and candidates of the first stage.
N_PARENTS = 10
_FIRST_CANDIDATES = 1000
_MOST_STAGES = 6
# Three grids on each of ten parents; of fewer, the best is luck.
FEWEST_CANDIDATES = 3 * N_PARENTS

# Candidates of each stage.
Counts = tuple[int, ...]


@dataclass(frozen=True)
class StagePlan:
    """Stages of a search: `sides` of their patches in bins, and `candidates`, each per class.

    `step_share`: what a mask keeps of its parent, in (0, 1); after stage s (from 1) step_share ** s of
    the spectrum is left.
    """

    sides: tuple[int, ...]
    candidates: Counts
    step_share: float

    @property
    def n_stages(self) -> int:
        """Number of stages."""
        return len(self.sides)


def default_patch_sides(height: int, width: int) -> tuple[int, ...]:
    """Sides of the patches of each stage, in bins, for images of `height` x `width` pixels.

    A quarter of the shorter side, then halves, odd ones rounded to the nearest power of two, until
    single bins or six stages.

    >>> default_patch_sides(32, 32), default_patch_sides(224, 224)
    ((8, 4, 2, 1), (56, 28, 14, 8, 4, 2))
    """
    sides = [_even(max(1, round(min(height, width) / 4)))]
    while sides[-1] > 1 and len(sides) < _MOST_STAGES:
        sides.append(_even(sides[-1] // 2))
    return tuple(sides)


def _even(side: int) -> int:
    return side if side % 2 == 0 or side == 1 else int(2 ** round(math.log2(side)))


def stage_plan(outline: Outline) -> StagePlan:
    """The stages that the settings ask for.

    Raises SettingsError where they contradict each other or the size of the images.
    """
    settings, grid = outline.settings, outline.grid
    sides = settings.patch_sides or default_patch_sides(grid.height, grid.width)
    candidates = settings.candidates or tuple(_FIRST_CANDIDATES * 2**stage for stage in range(len(sides)))
    shown = ", ".join(map(str, sides))
    if len(candidates) != len(sides):
        raise SettingsError(
            f"There are {len(candidates)} numbers of candidates for {len(sides)} stages (patch sides"
            f" {shown}).",
            "Give as many --candidates as --patch-sides.",
        )
    if max(sides) > min(grid.height, grid.width):
        raise SettingsError(
            f"Patches of {max(sides)} bins do not fit images of {grid.height} x {grid.width} pixels.",
            f"Give --patch-sides from 1 to {min(grid.height, grid.width)}.",
        )
    if list(sides) != sorted(sides, reverse=True):
        raise SettingsError(
            f"Patch sides {shown} grow from one stage to the next.",
            "A search goes from coarse to fine: give --patch-sides in falling order.",
        )
    if settings.kept_share == 1:
        raise SettingsError(
            "A map that keeps the whole spectrum leaves a hierarchical search nothing to look for.",
            "Choose a --kept-share below 1.",
        )
    return StagePlan(sides, candidates, settings.kept_share ** (1 / len(sides)))


def n_search_images(outline: Outline) -> int:
    """Search images of all searched classes."""
    return sum(stop - start for start, stop in (outline.search_rows[i] for i in outline.searched))


def within_passes(outline: Outline, plan: StagePlan) -> Counts:
    """Candidates of each stage that a budget in image passes pays for.

    Raises SettingsError where that is next to none.
    """
    budget = outline.settings.budget
    if budget is None or budget.passes is None:
        return plan.candidates
    n_images = n_search_images(outline)
    share = min(1.0, budget.passes / (sum(plan.candidates) * n_images))
    counts = tuple(math.floor(n * share) for n in plan.candidates)
    if any(n < _fewest(wanted) for n, wanted in zip(counts, plan.candidates, strict=True)):
        worst = max(_fewest(n) / n for n in plan.candidates)
        needed = math.ceil(worst * sum(plan.candidates)) * n_images + n_images
        raise SettingsError(
            f"The budget of {budget} leaves some stage of the hierarchical search less than"
            f" {FEWEST_CANDIDATES} candidates, of which the best would be luck.",
            f"Give a --budget of {needed:,} passes or more, fewer --classes or --images-per-class, or"
            " shorter --patch-sides with --candidates of your own.",
        )
    return counts


def _fewest(wanted: int) -> int:
    return min(wanted, FEWEST_CANDIDATES)


@dataclass
class StageTimer:
    """What rounds have taken, and what a limit of `seconds` still pays for."""

    seconds: float | None
    spent: float = 0.0
    n_passes: int = 0

    def add(self, done: Done) -> None:
        self.spent += done.seconds
        self.n_passes += done.n_passes

    def within(
        self, outline: Outline, plan: StagePlan, counts: Counts, stage: int, n_done: int
    ) -> Counts:
        """Candidates of each stage, `n_done` of `stage` being scored; 0 of stages that are out of reach.

        What is left of the time is shared out in the plan's own proportions.
        """
        if self.seconds is None:
            return counts
        speed = self.n_passes / max(self.spent, 1e-9)
        affordable = max(0.0, self.seconds - self.spent) * speed / n_search_images(outline)
        this, later = plan.candidates[stage], plan.candidates[stage + 1 :]
        # After the trial the stage may grow again; a stage that was run to its end stays as it is.
        open_here = this - n_done if n_done < counts[stage] else 0
        share = min(1.0, affordable / max(open_here + sum(later), 1))
        after = tuple(math.floor(n * share) for n in later)
        if any(n < _fewest(wanted) for n, wanted in zip(after, later, strict=True)):
            after = (0,) * len(later)
        return (*counts[:stage], n_done + math.floor(open_here * share), *after)


def why_less(plan: StagePlan, stage: int, n_scored: int, budget: Budget | None) -> str:
    """What a budget took from the plan; "" where nothing."""
    n_planned = sum(plan.candidates)
    if budget is None or n_scored == n_planned:
        return ""
    told = f"the budget of {budget} paid for {n_scored:,} of {n_planned:,} candidates"
    if stage + 1 == plan.n_stages:
        return told
    return (
        f"{told} and ended it after stage {stage + 1} of {plan.n_stages}, so that maps keep about"
        f" {plan.step_share ** (stage + 1):.0%} of the spectrum, not {plan.step_share**plan.n_stages:.0%}"
    )
