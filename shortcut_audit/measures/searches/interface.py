"""What a search is: rounds of shards that rank the orbits of each class, given classifier and images.

All routes give the same: a `ClassSearch` per class, in a `SearchOutcome`. They differ only in how they
come to it, and say what it cost through their shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.fourier.masks import BoolArray
from shortcut_audit.measures.interface import (
    Advance,
    Block,
    Outline,
    Rounds,
    Shard,
    Subject,
    Totals,
)
from shortcut_audit.results.findings import Fidelity, Reliability
from shortcut_audit.results.settings import AuditSettings, MapScore, SearchName

__all__ = ["MEASURE", "ClassSearch", "Search", "SearchOutcome"]

# The measure on whose behalf shards of searches run.
MEASURE = "dominant_frequencies"


@dataclass(frozen=True)
class ClassSearch:
    """What a search found of one class.

    `importance`: (n_orbits,) float32 of every score that was measured; `score` is the one that ranks.
    `kept`: (n_orbits,) a joint search's own map; None: the top share of the ranking. `ranking`:
    (n_orbits,) what ranks where it is coarser than `importance`, which then orders within. `n_images`:
    search images that the map rests on. `resolution`: what is ranked (`Units.name`). `n_probed`:
    (n_orbits,) images that an orbit was really probed on, where importances are partly estimates.
    """

    class_index: int
    n_images: int
    score: MapScore
    importance: Mapping[MapScore, NDArray[np.float32]]
    reliability: Mapping[MapScore, Reliability]
    kept: BoolArray | None = None
    ranking: NDArray[np.float64] | None = None
    resolution: str = "orbits"
    resolution_reason: str = ""
    fidelity: Fidelity | None = None
    n_probed: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found: classes in the order of `Outline.searched`, and how it went.

    `settings`: what the route was set to, as found (budgets resolved, stages counted). `stopped`: what
    cut it short, "" where nothing did.
    """

    by_class: Sequence[ClassSearch]
    settings: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""


class Search(Protocol):
    """One route. `revision` goes up whenever the numbers it gives change."""

    @property
    def name(self) -> SearchName:
        """Name in settings and results."""
        ...

    @property
    def revision(self) -> int:
        """Part of every shard key."""
        ...

    def relevant(self, settings: AuditSettings) -> dict[str, Any]:
        """The settings that can change the totals of a given shard."""
        ...

    def planned_passes(self, outline: Outline) -> int:
        """Image passes that all rounds are expected to take together.

        Raises SettingsError for a budget that pays for too little to say anything.
        """
        ...

    def rounds(self, outline: Outline) -> Rounds[SearchOutcome]:
        """The work, round by round; each round is planned from the totals of those before."""
        ...

    def run(self, shard: Shard, subject: Subject, block: Block, advance: Advance) -> Totals:
        """Totals of one shard."""
        ...
