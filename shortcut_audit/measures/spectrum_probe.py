"""The spectrum-only probe: how much of the task amplitudes solve before any network is trained.

A linear classifier on log amplitudes pooled into cells of radius and direction, cross-validated; phase
never enters. Its gain over chance, per class and band, bounds what a frequency shortcut can earn there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.results.findings import ProbeResult, ProbeScore, Rate, SpectrumProbeFinding

__all__ = ["probe_spectrum"]

Floats = NDArray[np.float64]


def probe_spectrum(
    parts: Sequence[tuple[str, int | None, Floats]],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    n_folds: int,
    seed: int,
) -> SpectrumProbeFinding:
    """Cross-validate a linear classifier on each part of the spectrum.

    `parts`: name, band and features (n, n_features) of each; `labels` (n,) in 0..n_classes-1. Folds are
    stratified and the same for all parts. The classifier is linear discriminant analysis with shrunk
    covariance (Ledoit and Wolf 2004) and equal priors, so that large classes win nothing by size.
    """
    n_folds = min(n_folds, int(np.bincount(labels, minlength=n_classes).min()))
    chance = 1 / n_classes
    if n_folds < 2:
        return SpectrumProbeFinding(
            n_folds=0,
            n_images=len(labels),
            chance=chance,
            results=(),
            reason="a class has a single image, and cross-validation needs two",
        )
    from sklearn.model_selection import StratifiedKFold

    folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed % 2**32).split(labels, labels))
    return SpectrumProbeFinding(
        n_folds=n_folds,
        n_images=len(labels),
        chance=chance,
        results=tuple(
            _result(name, band, features, labels, n_classes, folds) for name, band, features in parts
        ),
    )


def _result(
    name: str,
    band: int | None,
    features: Floats,
    labels: NDArray[np.int64],
    n_classes: int,
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> ProbeResult:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # What is the same in every image tells nothing, and would leave the covariance singular.
    varying = features[:, np.ptp(features, axis=0) > 0]
    predicted = np.full(len(labels), -1)
    if varying.shape[1]:
        for train, test in folds:
            probe = make_pipeline(
                StandardScaler(),
                LinearDiscriminantAnalysis(
                    solver="lsqr", shrinkage="auto", priors=np.full(n_classes, 1 / n_classes)
                ),
            )
            predicted[test] = probe.fit(varying[train], labels[train]).predict(varying[test])
    else:
        # Nothing to go by: one class for all, a blind guess.
        predicted[:] = 0
    scores = tuple(_score(predicted, labels, label) for label in range(n_classes))
    return ProbeResult(
        part=name,
        band=band,
        n_features=int(varying.shape[1]),
        balanced_accuracy=float(np.mean([score.recall.value or 0.0 for score in scores])),
        by_class=scores,
    )


def _score(predicted: NDArray[np.int64], labels: NDArray[np.int64], label: int) -> ProbeScore:
    own = labels == label
    called = predicted == label
    return ProbeScore(
        recall=Rate(hits=int((called & own).sum()), n=int(own.sum())),
        false=Rate(hits=int((called & ~own).sum()), n=int((~own).sum())),
    )
