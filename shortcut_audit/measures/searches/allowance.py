"""What a screened search may spend, and how it divides that between gradients and probes."""

from __future__ import annotations

from dataclasses import dataclass

from shortcut_audit.errors import SettingsError
from shortcut_audit.measures.interface import Outline
from shortcut_audit.measures.searches.first_order import first_order_passes, n_logits
from shortcut_audit.measures.searches.parts import n_search

__all__ = ["Allowance", "n_search_in_all"]

# Backward passes (of two) take no more than about a sixth of the passes.
_PASSES_PER_LOGIT = 12
_MOST_LOGITS = 10
# Passes an image that calibrate at the least: four orbits and a clean pass.
_LEAST_FOR_PROBES = 5


@dataclass(frozen=True)
class Allowance:
    """What a screened search may spend on an image on average, in image passes.

    `passes`: all of it; `logits`: how many go backward; `for_probes`: what is left for exact probes,
    their clean passes included.
    """

    passes: float
    logits: int

    @property
    def for_probes(self) -> float:
        return self.passes - first_order_passes(self.logits)

    @classmethod
    def of(cls, outline: Outline) -> Allowance:
        """From the budget, or by default a tenth of the exact search and less for fine grids.

        50 passes and one more for each 126 units: a tenth of the exact search at 32 pixels, a
        thirtieth at 64, a hundredth at 224. Raises SettingsError for a budget that does not reach.
        """
        n_units, budget = outline.units.n_units, outline.settings.budget
        exact = n_units + 1
        passes: float = min(exact // 10, 50 + n_units // 126)
        passes = max(passes, first_order_passes(3) + 8)
        if budget is not None and budget.passes is not None:
            n_images = n_search_in_all(outline)
            passes = min(budget.passes / n_images, exact + first_order_passes(_MOST_LOGITS))
            least = first_order_passes(n_logits(outline.n_outputs, 3)) + _LEAST_FOR_PROBES
            if budget.passes < least * n_images:
                raise SettingsError(
                    f"A budget of {budget} is too small to screen {n_images:,} search images:"
                    f" gradients and a few probes take {least * n_images:,}.",
                    "Raise --budget, or give fewer --images-per-class or --classes.",
                )
        allowed = min(max(int(passes) // _PASSES_PER_LOGIT, 3), _MOST_LOGITS)
        return cls(passes, n_logits(outline.n_outputs, allowed))

    def at_pace(self, passes_per_second: float, outline: Outline) -> Allowance:
        """What a budget of seconds comes to at the pace of the gradients."""
        budget = outline.settings.budget
        assert budget is not None
        assert budget.seconds is not None
        passes = passes_per_second * budget.seconds / n_search_in_all(outline)
        # At least what calibrates: a map that cannot be told from noise would be worth nothing.
        passes = max(passes, first_order_passes(self.logits) + _LEAST_FOR_PROBES)
        most = outline.units.n_units + 1 + first_order_passes(self.logits)
        return Allowance(min(passes, most), self.logits)


def n_search_in_all(outline: Outline) -> int:
    """Search images of all classes."""
    return sum(n_search(outline, index) for index in outline.searched)
