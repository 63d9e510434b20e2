"""The spectrum-only probe: how much of the task amplitudes solve before any network is trained.

A linear classifier on log amplitudes pooled into cells of radius and direction, cross-validated; phase
never enters. Its gain over chance, per class and band, bounds what a frequency shortcut can earn there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.results.findings import ProbeResult, ProbeScore, Rate, SpectrumProbeFinding

__all__ = ["probe_spectrum", "score_among"]

Floats = NDArray[np.float64]


def probe_spectrum(
    parts: Sequence[tuple[str, int | None, Floats]],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    n_folds: int,
    seed: int,
) -> tuple[SpectrumProbeFinding, NDArray[np.int64]]:
    """Cross-validate a linear classifier on each part of the spectrum.

    `parts`: name, band and features (n, n_features) of each; `labels` (n,) in 0..n_classes-1. Folds are
    stratified and the same for all parts. The classifier is linear discriminant analysis with shrunk
    covariance (Ledoit and Wolf 2004) and equal priors, so that large classes win nothing by size.
    Returns the finding, and counts (n_parts, n_classes, n_classes) of images by class and answer.
    """
    n_folds = min(n_folds, int(np.bincount(labels, minlength=n_classes).min()))
    chance = 1 / n_classes
    if n_folds < 2:
        finding = SpectrumProbeFinding(
            n_folds=0,
            n_images=len(labels),
            chance=chance,
            results=(),
            reason="a class has a single image, and cross-validation needs two",
        )
        return finding, np.zeros((0, n_classes, n_classes), dtype=np.int64)
    from sklearn.model_selection import StratifiedKFold

    folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed % 2**32).split(labels, labels))
    results, confusions = [], []
    for name, band, features in parts:
        # What is the same in every image tells nothing, and would leave the covariance singular.
        varying = features[:, np.ptp(features, axis=0) > 0]
        confusion = _confusion(varying, labels, n_classes, folds)
        scores = tuple(_score(confusion, label) for label in range(n_classes))
        confusions.append(confusion)
        results.append(
            ProbeResult(
                part=name,
                band=band,
                n_features=int(varying.shape[1]),
                balanced_accuracy=float(np.mean([score.recall.value or 0.0 for score in scores])),
                by_class=scores,
            )
        )
    finding = SpectrumProbeFinding(
        n_folds=n_folds, n_images=len(labels), chance=chance, results=tuple(results)
    )
    return finding, np.stack(confusions)


def _confusion(
    features: Floats,
    labels: NDArray[np.int64],
    n_classes: int,
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> NDArray[np.int64]:
    """Images by class and answer, each answered by a classifier that has not seen it."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Without anything to go by: one class for all, a blind guess.
    predicted = np.zeros(len(labels), dtype=np.int64)
    for train, test in folds if features.shape[1] else ():
        probe = make_pipeline(
            StandardScaler(),
            LinearDiscriminantAnalysis(
                solver="lsqr", shrinkage="auto", priors=np.full(n_classes, 1 / n_classes)
            ),
        )
        predicted[test] = probe.fit(features[train], labels[train]).predict(features[test])
    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


def _score(confusion: NDArray[np.int64], label: int) -> ProbeScore:
    """Of one class, from the counts of all."""
    own, called = int(confusion[label].sum()), int(confusion[:, label].sum())
    hits = int(confusion[label, label])
    return ProbeScore(
        recall=Rate(hits=hits, n=own), false=Rate(hits=called - hits, n=int(confusion.sum()) - own)
    )


def score_among(confusion: NDArray[np.int64], label: int, others: Sequence[int]) -> ProbeScore:
    """How well `label` is told from the classes `others` alone; the rest is left out."""
    return ProbeScore(
        recall=Rate(hits=int(confusion[label, label]), n=int(confusion[label].sum())),
        false=Rate(hits=int(confusion[list(others), label].sum()), n=int(confusion[list(others)].sum())),
    )
