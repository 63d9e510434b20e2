from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from replicas import cosine_of
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import shortcut_audit as sa
from shortcut_audit.measures import drop_prediction
from shortcut_audit.measures.drop_prediction import predict_drop
from shortcut_audit.results.corruption_findings import DropPrediction
from shortcut_audit.results.counts import Paired

KINDS = ("blur", "haze", "jpeg", "noise")
SHIFTS = [(kind, severity) for kind in KINDS for severity in (1, 2, 3)]
N_CLASSES, N = 5, 400


def pairs_of(drops: np.ndarray) -> list[list[Paired]]:
    """All right as they are, and shares `drops` (n_classes, n_shifts) of them lost."""
    return [
        [Paired(n=N, both=N - lost, only_first=lost, only_second=0) for lost in row]
        for row in np.round(N * drops).astype(int)
    ]


def shares(seed: int) -> np.ndarray:
    """Energy shares of every size, (n_classes, n_shifts, 3)."""
    return 10 ** np.random.default_rng(seed).uniform(-3, 1, (N_CLASSES, len(SHIFTS), 3))


def predicted(drops: np.ndarray, dominant: np.ndarray, everywhere: np.ndarray) -> DropPrediction:
    return predict_drop(pairs_of(drops), dominant, everywhere, SHIFTS, seed=0)


def test_drops_that_follow_the_dominant_orbits_are_predicted_and_by_nothing_else() -> None:
    dominant, everywhere = shares(0), shares(1)
    drops = np.clip(0.4 + 0.12 * np.log10(dominant[..., 2]), 0, 1)
    found = predicted(drops, dominant, everywhere)
    r2 = {score.predictor: score.r2_new_corruptions for score in found.scores}
    assert r2["dominant"] > 0.95
    assert r2["both"] > 0.95
    assert max(r2["all"], r2["severity"]) < 0.1
    assert found.score("dominant").r2_new_classes > 0.95
    assert found.p_value == 1 / 1000
    assert (found.n_cells, found.n_corruptions, found.n_classes) == (60, 4, 5)
    assert 0.9 < found.ceiling < 1


def test_drops_that_follow_nothing_are_not_predicted() -> None:
    found = [
        predicted(np.random.default_rng(seed).random((5, 12)), shares(seed), shares(99))
        for seed in range(5)
    ]
    r2 = [each.score("dominant").r2_new_corruptions for each in found]
    assert max(r2) < 0.15
    assert np.mean(r2) < 0
    assert np.median([each.p_value for each in found]) > 0.1


def test_severity_alone_predicts_what_only_grows_with_it() -> None:
    severity = np.array([s for _, s in SHIFTS], dtype=float)
    found = predicted(np.tile(0.1 + 0.2 * severity / 3, (5, 1)), shares(0), shares(1))
    r2 = {score.predictor: score.r2_new_corruptions for score in found.scores}
    assert r2["severity"] > 0.95
    assert r2["dominant"] < 0.2


def test_r2_equals_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    features = generator.normal(size=(40, 3)) * (1, 10, 0) + (0, 5, 1)
    groups = np.repeat(np.arange(5), 8)
    drop = 0.2 * features[:, 0] + generator.normal(size=40) + generator.normal(size=5)[groups]
    predicted = np.zeros(40)
    chosen = set()
    for group in range(5):
        inside = groups != group
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Ridge()),
            {"ridge__alpha": drop_prediction._PENALTIES},
            scoring="neg_mean_squared_error",
            cv=LeaveOneGroupOut(),
        )
        search.fit(features[inside], drop[inside], groups=groups[inside])
        chosen.add(search.best_params_["ridge__alpha"])
        predicted[~inside] = search.predict(features[~inside])
    # The penalty matters, and is not the same everywhere.
    assert len(chosen) > 1
    expected = 1 - ((drop - predicted) ** 2).sum() / ((drop - drop.mean()) ** 2).sum()
    found = drop_prediction._r2(features, drop[:, None], groups)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_of_many_classes_ten_folds_of_whole_ones_are_left_out() -> None:
    """Drops that hang on the class alone: what tells a class from others is not known of a new one."""
    generator = np.random.default_rng(2)
    drops = np.repeat(generator.random((25, 1)), len(SHIFTS), axis=1)
    energy = np.repeat(10 ** generator.uniform(-3, 1, (25, 1, 3)), len(SHIFTS), axis=1)
    found = predict_drop(pairs_of(drops), energy, energy, SHIFTS, seed=0).score("dominant")
    assert found.r2_new_classes < 0.2


def test_many_targets_are_predicted_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    features, drops = generator.normal(size=(20, 3)), generator.normal(size=(20, 4))
    groups = np.repeat(np.arange(4), 5)
    together = drop_prediction._r2(features, drops, groups)
    single = [drop_prediction._r2(features, drops[:, [n]], groups)[0] for n in range(4)]
    np.testing.assert_allclose(together, single, rtol=1e-12)
    whole = predicted(shares(0)[..., 0] / 10, shares(1), shares(2))
    monkeypatch.setattr(drop_prediction, "_AT_ONCE", 60 * 10)
    assert predicted(shares(0)[..., 0] / 10, shares(1), shares(2)).n_draws == whole.n_draws == 999


def test_the_ceiling_is_what_the_truth_itself_reaches() -> None:
    """Drops drawn with few images: the true rates explain about as much as the ceiling says."""
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 0.8, (40, len(SHIFTS)))
    drawn = generator.binomial(20, truth)
    pairs = [[Paired(n=20, both=20 - k, only_first=k, only_second=0) for k in row] for row in drawn]
    dominant = np.broadcast_to((10 ** (3 * truth))[..., None], (40, len(SHIFTS), 3))
    found = predict_drop(pairs, dominant, dominant, SHIFTS, seed=0)
    explained = 1 - np.mean((drawn / 20 - truth) ** 2) / np.var(drawn / 20)
    assert found.ceiling == pytest.approx(explained, abs=0.02)
    assert found.score("dominant").r2_new_corruptions == pytest.approx(found.ceiling, abs=0.03)


@pytest.mark.parametrize(
    ("drops", "shifts", "reason"),
    [
        (np.full((5, 6), 0.2), SHIFTS[:6], "2 corruptions cannot show"),
        (np.full((5, 3), 0.2), SHIFTS[:3], "1 corruption cannot show"),
        (np.full((1, 12), 0.2), SHIFTS, "12 cells of class and shift are too few; it takes at least 20"),
        (np.full((5, 12), 0.2), SHIFTS, "every class falls alike"),
    ],
)
def test_what_cannot_be_predicted_says_why(
    drops: np.ndarray, shifts: list[tuple[str, int]], reason: str
) -> None:
    energy = shares(0)[: len(drops), : len(shifts)]
    found = predict_drop(pairs_of(drops), energy, energy, shifts, seed=0)
    assert found.reason.startswith(reason)
    assert found.scores == ()
    assert found.p_value is None
    assert found.score("dominant") is None


def test_of_two_classes_none_is_left_out_and_a_class_without_energy_is_no_cell() -> None:
    drops = np.random.default_rng(0).random((3, 12))
    energy = shares(0)[:3]
    energy[1] = np.nan
    found = predicted(drops, energy, energy)
    assert (found.n_classes, found.n_cells) == (2, 24)
    assert all(score.r2_new_classes is None for score in found.scores)


class Matched(nn.Module):
    """Calls the class whose one wave has just the strength it should: its dominant orbit is known."""

    def __init__(self, waves: np.ndarray, strength: float) -> None:
        super().__init__()
        self.register_buffer("waves", torch.from_numpy(2 * waves / waves[0].size).float().flatten(1))
        self.strength = strength

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -((x.flatten(1) @ self.waves.T / self.strength - 1) ** 2)


def test_a_model_that_hangs_on_single_orbits_falls_as_these_are_hit() -> None:
    """Four classes, a wave each, one a band; noise in a band hits one of them and leaves the others."""
    size, orbits = 16, [(1, 1), (3, 1), (4, 3), (6, 4)]
    waves = np.stack([cosine_of(size, size, u, v) for u, v in orbits])
    generator = np.random.default_rng(0)
    pairs = [
        (
            (0.5 + 0.01 * wave + 0.01 * generator.normal(size=(size, size)))[None].astype("f"),
            label,
        )
        for label, wave in enumerate(waves)
        for _ in range(60)
    ]
    shifts = "band-noise-1,band-noise-2,band-noise-3,band-noise-4,gaussian_noise"
    result = sa.audit(
        Matched(waves, 0.01),
        pairs,
        shifts=shifts,
        batch_size=64,
        kept_share=2 / size**2,
        search="exact",
    )
    u, v = result.arrays["orbits/u"], result.arrays["orbits/v"]
    for (own_u, own_v), kept in zip(orbits, result.arrays["dominant_frequencies/kept"], strict=True):
        assert [(int(u[n]), int(v[n])) for n in np.flatnonzero(kept)] == [(own_u, own_v)]
    finding = result.corruptions
    assert finding is not None
    names = [str(shift) for shift in finding.shifts]
    for number, item in enumerate(finding.by_class):
        own = item.by_shift[names.index(f"band_noise_{number + 1}-5")].recall.difference
        others = [
            item.by_shift[names.index(f"band_noise_{band}-5")].recall.difference
            for band in range(1, 5)
            if band != number + 1
        ]
        assert own > 0.25
        assert own > max(others)
    r2 = {score.predictor: score.r2_new_corruptions for score in finding.prediction.scores}
    assert math.isclose(finding.prediction.p_value, 1 / 1000)
    assert r2["dominant"] > 0.7
    assert max(r2["all"], r2["severity"]) < 0.2
