"""How much of the drop in recall under shifts the energy foretells that they change: a regression.

Cells are classes times shifts. The drop, in shares of images, is regressed on logarithms of energy shares
by a ridge, and judged on corruptions, or classes, that it has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.results.corruption_findings import DropPrediction, PredictedFrom, Predictor
from shortcut_audit.results.counts import Paired

__all__ = ["predict_drop"]

N_DRAWS = 999
FEWEST_GROUPS = 3
FEWEST_CELLS = 20
# Less than a tenth of a percent of an energy is as good as nothing: its logarithm must not run away.
_FLOOR = 1e-3
_PENALTIES = np.logspace(-2, 4, 13)
# Values of drops dealt anew that are predicted at a time.
_AT_ONCE = 2_000_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def predict_drop(
    pairs: Sequence[Sequence[Paired]],
    dominant: Floats,
    everywhere: Floats,
    shifts: Sequence[tuple[str, int]],
    seed: int,
) -> DropPrediction:
    """Predict the drop in recall of classes under shifts from energies, on cells left out.

    `pairs`: recall by class and shift, as they are against corrupted. `dominant`, `everywhere`
    (n_classes, n_shifts, 3): shares of an orbit's clean energy removed, added and different, on average
    over the class's dominant orbits and over all but DC; nan where there is none. `shifts`: corruption
    and severity of each. A class whose map has no energy is left out.
    """
    kinds = list(dict.fromkeys(name for name, _ in shifts))
    known = np.isfinite(dominant).all(axis=(1, 2)) & np.isfinite(everywhere).all(axis=(1, 2))
    usable = np.flatnonzero(known).tolist()
    n_classes, n_shifts = len(usable), len(shifts)
    of_shift = np.array([kinds.index(name) for name, _ in shifts])
    corruption = np.tile(of_shift, n_classes)
    by_class = np.repeat(np.arange(n_classes), n_shifts)
    chosen = [pair for index in usable for pair in pairs[index]]
    drop = np.array([pair.difference for pair in chosen])
    sizes = {"n_cells": len(chosen), "n_corruptions": len(kinds), "n_classes": n_classes}
    reason = _why_not(drop, len(kinds))
    if reason:
        return DropPrediction(**sizes, reason=reason)
    severity = np.tile([float(severity) for _, severity in shifts], n_classes)[:, None]
    own, rest = (_features(shares[usable]) for shares in (dominant, everywhere))
    figures: dict[Predictor, Floats] = {
        "dominant": own,
        "all": rest,
        "both": np.concatenate([own, rest], axis=1),
        "severity": severity,
    }
    scores = tuple(
        PredictedFrom(
            predictor=name,
            r2_new_corruptions=_r2(given, drop[:, None], corruption)[0],
            r2_new_classes=_r2(given, drop[:, None], by_class)[0] if n_classes >= FEWEST_GROUPS else None,
        )
        for name, given in figures.items()
    )
    return DropPrediction(
        **sizes,
        scores=scores,
        p_value=_p_value(own, drop, corruption, scores[0].r2_new_corruptions, seed),
        n_draws=N_DRAWS,
        ceiling=_ceiling(chosen, drop),
    )


def _why_not(drop: Floats, n_corruptions: int) -> str:
    """Why nothing can be predicted; empty where it can."""
    if n_corruptions < FEWEST_GROUPS:
        return (
            f"{n_corruptions} corruption{'s' if n_corruptions != 1 else ''} cannot show whether others"
            f" would be foretold; it takes at least {FEWEST_GROUPS}"
        )
    if len(drop) < FEWEST_CELLS:
        return f"{len(drop)} cells of class and shift are too few; it takes at least {FEWEST_CELLS}"
    if np.ptp(drop) == 0:
        return "every class falls alike under every shift"
    return ""


def _features(shares: Floats) -> Floats:
    """Logarithms of energy shares, (n_cells, 3), of (n_classes, n_shifts, 3)."""
    logs: Floats = np.log10(shares.reshape(-1, shares.shape[-1]) + _FLOOR)
    return logs


def _r2(features: Floats, drops: Floats, groups: Ints) -> Floats:
    """Cross-validated R2, (n_targets,), of `drops` (n_cells, n_targets), whole groups left out in turn.

    Features are standardised and the ridge's penalty is chosen (leave-one-out) within the groups that
    are left, for each target by itself.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    error = np.zeros(drops.shape[1])
    for group in np.unique(groups):
        out = groups == group
        model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES, alpha_per_target=True))
        model.fit(features[~out], drops[~out])
        predicted = model.predict(features[out]).reshape(-1, drops.shape[1])
        error += np.square(drops[out] - predicted).sum(axis=0)
    around = np.square(drops - drops.mean(axis=0)).sum(axis=0)
    r2: Floats = 1 - error / around
    return r2


def _p_value(features: Floats, drop: Floats, groups: Ints, found: float, seed: int) -> float:
    """Chance of `found` or better where drops are dealt anew among the cells of the same corruption."""
    generator = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // len(drop))
    n_better = 0
    for start in range(0, N_DRAWS, step):
        dealt = np.tile(drop[:, None], (1, min(step, N_DRAWS - start)))
        for group in np.unique(groups):
            rows = groups == group
            dealt[rows] = generator.permuted(dealt[rows], axis=0)
        n_better += int((_r2(features, dealt, groups) >= found).sum())
    return (1 + n_better) / (1 + N_DRAWS)


def _ceiling(pairs: Sequence[Paired], drop: Floats) -> float:
    """1 - (sampling variance of the drops) / (their variance), at least 0.

    The variance of a paired difference d of n images is (discordant / n - d^2) / n.
    """
    own = [
        ((pair.only_first + pair.only_second) / pair.n - pair.difference**2) / pair.n for pair in pairs
    ]
    return max(0.0, 1 - float(np.mean(own)) / float(np.var(drop)))
