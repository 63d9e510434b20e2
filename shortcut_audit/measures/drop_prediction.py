"""How much of the drop in recall under shifts the energy foretells that they change: a regression.

Cells are classes times shifts. The drop, in shares of images, is regressed on logarithms of energy shares
by a ridge, and judged on corruptions, or classes, that it has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.results.corruption_findings import DropPrediction, PredictedFrom, Predictor
from shortcut_audit.results.counts import Paired

__all__ = ["predict_drop"]

N_DRAWS = 999
FEWEST_GROUPS = 3
FEWEST_CELLS = 20
# Classes are left out one by one, or where there are more, in as many folds of whole classes.
MOST_FOLDS = 10
# Less than a tenth of a percent of an energy is as good as nothing: its logarithm must not run away.
_FLOOR = 1e-3
_PENALTIES = np.logspace(-2, 6, 17)
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
    by_class = np.repeat(np.arange(n_classes) % MOST_FOLDS, n_shifts)
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

    Ridge regression on standardised features. Its penalty is the one that predicts best the groups that
    are left, each left out in turn as well, for each target by itself: what tells cells of one group from
    each other need not hold for another one. Everything follows from sums by group, so that thousands of
    targets cost little more than one.
    """
    # Centred, so that differences of sums keep their digits.
    sums = [
        _Sums.of(features[groups == g] - features.mean(axis=0), drops[groups == g] - drops.mean(axis=0))
        for g in np.unique(groups)
    ]
    whole = _added(sums)
    error = np.zeros(drops.shape[1])
    for out in sums:
        rest = [each for each in sums if each is not out]
        left = whole - out
        inner = np.zeros((len(_PENALTIES), drops.shape[1]))
        for validated in rest:
            inner += _errors(left - validated, validated)
        best = inner.argmin(axis=0)
        error += _errors(left, out)[best, np.arange(drops.shape[1])]
    r2: Floats = 1 - error / whole.yy
    return r2


@dataclass(frozen=True)
class _Sums:
    """Sums over cells: how many, x (p,), y (n_targets,), and products: all that a ridge needs to know."""

    n: int
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats

    @classmethod
    def of(cls, x: Floats, y: Floats) -> _Sums:
        return cls(len(x), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y, np.square(y).sum(axis=0))

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.n - other.n,
            self.x - other.x,
            self.y - other.y,
            self.xx - other.xx,
            self.xy - other.xy,
            self.yy - other.yy,
        )

    def around(self, x: Floats, y: Floats, scale: Floats) -> tuple[Floats, Floats, Floats]:
        """Sums of zz', zv' and v^2 of z = (x - `x`) / `scale` and v = y - `y`."""
        zz = self.xx - np.outer(x, self.x) - np.outer(self.x, x) + self.n * np.outer(x, x)
        zv = self.xy - np.outer(x, self.y) - np.outer(self.x, y) + self.n * np.outer(x, y)
        return (
            zz / np.outer(scale, scale),
            zv / scale[:, None],
            self.yy - 2 * y * self.y + self.n * np.square(y),
        )


def _added(sums: Sequence[_Sums]) -> _Sums:
    values = [
        np.sum([getattr(each, name) for each in sums], axis=0) for name in ("x", "y", "xx", "xy", "yy")
    ]
    return _Sums(sum(each.n for each in sums), *values)


def _errors(fitted: _Sums, judged: _Sums) -> Floats:
    """Squared error on the cells of `judged` of ridges fitted to those of `fitted`, (n_penalties,
    n_targets)."""
    x, y = fitted.x / fitted.n, fitted.y / fitted.n
    variance = np.diag(fitted.xx) / fitted.n - np.square(x)
    # What does not vary tells nothing, and must not be divided by nothing.
    scale = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
    zz, zv, _ = fitted.around(x, y, scale)
    other_zz, other_zv, other_vv = judged.around(x, y, scale)
    errors = []
    for penalty in _PENALTIES:
        weights = np.linalg.solve(zz + penalty * np.eye(len(x)), zv)
        errors.append(
            other_vv - 2 * (weights * other_zv).sum(axis=0) + (weights * (other_zz @ weights)).sum(axis=0)
        )
    return np.array(errors)


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
