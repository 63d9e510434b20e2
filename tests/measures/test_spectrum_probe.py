from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold

from shortcut_audit.measures.spectrum_probe import probe_spectrum, score_among
from shortcut_audit.results.findings import ProbeScore, Rate

LABELS = np.repeat(np.arange(3), [40, 30, 20])


def noise(n_features: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(LABELS), n_features))


def probe(features: np.ndarray, labels: np.ndarray = LABELS, n_folds: int = 5, seed: int = 0):
    n_classes = int(labels.max()) + 1
    return probe_spectrum([("all", None, features)], labels, n_classes, n_folds=n_folds, seed=seed)


def test_classes_that_amplitudes_separate_are_told_perfectly() -> None:
    features = noise() + 10 * np.eye(3)[LABELS] @ np.ones((3, 12)) * np.arange(12)
    features[:, 0] += 20 * LABELS
    finding, confusion = probe(features)
    (result,) = finding.results
    assert result.balanced_accuracy == 1.0
    assert [score.over_chance for score in result.by_class] == [1.0] * 3
    np.testing.assert_array_equal(confusion[0], np.diag([40, 30, 20]))
    assert finding.chance == pytest.approx(1 / 3)
    assert (finding.n_folds, finding.n_images) == (5, 90)


def test_labels_without_meaning_give_chance() -> None:
    """With as many features as images: a probe asked about images it has seen would be right."""
    accuracies, gains = [], []
    for seed in range(12):
        labels = np.random.default_rng(seed).permutation(LABELS)
        (result,) = probe(noise(90, seed), labels, seed=seed)[0].results
        accuracies.append(result.balanced_accuracy)
        gains += [score.over_chance for score in result.by_class]
    assert np.mean(accuracies) == pytest.approx(1 / 3, abs=0.03)
    assert np.mean(gains) == pytest.approx(0, abs=0.04)


def test_it_is_the_classifier_it_says_and_answers_only_images_it_has_not_seen() -> None:
    """Linear discriminants with shrunk covariance, fold by fold, by hand."""
    features = noise() + 0.8 * LABELS[:, None]
    _, confusion = probe(features, seed=3)
    expected = np.zeros((3, 3), dtype=int)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=3).split(features, LABELS):
        mean, std = features[train].mean(axis=0), features[train].std(axis=0)
        model = LinearDiscriminantAnalysis("lsqr", shrinkage="auto", priors=[1 / 3] * 3)
        model.fit((features[train] - mean) / std, LABELS[train])
        for label, answer in zip(LABELS[test], model.predict((features[test] - mean) / std), strict=True):
            expected[label, answer] += 1
    np.testing.assert_array_equal(confusion[0], expected)
    assert not np.array_equal(probe(features, seed=4)[1][0], expected)


def test_large_classes_win_nothing_by_size() -> None:
    labels = np.repeat([0, 1], [300, 30])
    features = np.random.default_rng(0).standard_normal((330, 5)) + 1.0 * labels[:, None] * np.eye(5)[0]
    (result,) = probe(features, labels)[0].results
    large, small = result.by_class
    assert large.recall.value == pytest.approx(small.recall.value or 0, abs=0.2)
    assert large.over_chance == pytest.approx(small.over_chance)


def test_a_score_is_counts_and_its_ends_are_those_of_both_rates() -> None:
    score = ProbeScore(recall=Rate(hits=30, n=40), false=Rate(hits=10, n=50))
    assert score.over_chance == pytest.approx(0.75 - 0.2)
    assert score.low == pytest.approx(score.recall.low - score.false.high)
    assert score.high == pytest.approx(score.recall.high - score.false.low)
    assert score.low < score.over_chance < score.high
    assert ProbeScore.model_validate(score.model_dump()) == score
    assert ProbeScore(recall=Rate(hits=0, n=0), false=Rate(hits=0, n=0)).over_chance == 0


def test_scores_among_some_classes_leave_the_rest_out() -> None:
    confusion = np.array([[10, 0, 0], [0, 6, 4], [0, 5, 5]])
    whole = score_among(confusion, 1, [0, 2])
    assert (whole.recall, whole.false) == (Rate(hits=6, n=10), Rate(hits=5, n=20))
    alone = score_among(confusion, 1, [2])
    assert alone.over_chance == pytest.approx(0.6 - 0.5)


def test_features_that_never_vary_are_no_trouble_and_none_at_all_a_blind_guess() -> None:
    features = noise() + 3.0 * LABELS[:, None]
    constant = np.concatenate([features, np.ones((90, 3))], axis=1)
    assert probe(constant)[0].results[0].n_features == 12
    np.testing.assert_array_equal(probe(constant)[1], probe(features)[1])
    (blind,) = probe(np.ones((90, 4)))[0].results
    assert blind.n_features == 0
    assert blind.balanced_accuracy == pytest.approx(1 / 3)
    assert [score.over_chance for score in blind.by_class] == [0.0] * 3


def test_folds_are_no_more_than_the_smallest_class_has_images() -> None:
    labels = np.repeat([0, 1], [20, 3])
    features = np.random.default_rng(0).standard_normal((23, 4))
    assert probe(features, labels)[0].n_folds == 3
    finding, confusion = probe(features[:21], labels[:21])
    assert (finding.n_folds, finding.results) == (0, ())
    assert "single image" in finding.reason
    assert confusion.shape == (0, 2, 2)
