"""Evidence pictures: what is shown is what was done, to the images that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phases import SIZE, ReadsWaves, wavy_images
from replicas import logits_of, ring_bins, transplant_bins

import shortcut_audit as sa
from shortcut_audit.fourier.grid import FrequencyGrid


def test_pictures_are_receiver_donor_and_the_one_with_the_others_orbits(run_on: Any) -> None:
    network = ReadsWaves(3)
    audited = run_on(network, wavy_images((40, 40, 40)), class_names=["a", "b", "c"])
    plain = network.double().eval()
    grid = FrequencyGrid(SIZE, SIZE)
    names = list(audited.images.names)
    every = [audited.images.store.block(row, row + 1)[0].astype(np.float64) for row in range(len(names))]
    shown = [item for item in audited.result.shortcuts.by_class if item.evidence]
    pictures = audited.result.arrays["shortcuts/evidence"]
    assert len(shown) == len(pictures) > 0
    rank = audited.result.arrays["dominant_frequencies/rank"]
    for item, (receiver, donor, after) in zip(shown, pictures, strict=True):
        (said,) = item.evidence
        own = ["a", "b", "c"].index(item.class_name)
        rows = names.index(said.receiver), names.index(said.donor)
        judged = range(*audited.images.judge_rows[own])
        assert rows[1] in judged
        assert rows[0] not in judged
        assert any(rows[0] in range(*r) for r in audited.images.judge_rows)
        for picture, row in zip((receiver, donor), rows, strict=True):
            np.testing.assert_allclose(picture, every[row] * 255, atol=0.51)
        best = item.best
        assert best is not None
        assert said.n_orbits == best.n_orbits
        if best.ring is not None:
            bins = ring_bins(SIZE, SIZE, best.ring, 8)
        else:
            # The ladder takes light orbits in the ranking's order; here the first are light.
            first = [int(o) for o in np.argsort(np.where(rank[own] > 0, rank[own], 10**9))]
            chosen = first[: best.n_orbits]
            own_bins = {(int(grid.u[o]), int(grid.v[o])) for o in chosen}
            bins = own_bins | {(-u, -v) for u, v in own_bins}
            radii = grid.radius[chosen]
            assert best.radius == pytest.approx((radii.min(), radii.max()))
        expected = transplant_bins(every[rows[0]], every[rows[1]], bins)
        np.testing.assert_allclose(after, expected.clip(0, 1) * 255, atol=0.51)
        for image, prediction in ((every[rows[0]], said.before), (expected, said.after)):
            chance = torch.from_numpy(logits_of(plain, image)).softmax(0)
            assert prediction.probability_of_class == pytest.approx(float(chance[own]), abs=1e-5)
            assert prediction.predicted == ["a", "b", "c"][int(chance.argmax())]
        # What is shown is one that was turned.
        assert said.after.predicted == item.class_name


@pytest.mark.parametrize("examples", [0, 1, 2])
def test_the_worst_classes_alone_are_shown(examples: int, run_on: Any) -> None:
    result = run_on(ReadsWaves(3), wavy_images((30, 30, 30)), examples=examples).result
    items = result.shortcuts.by_class
    shown = [item for item in items if item.evidence]
    assert len(shown) == examples
    assert ("shortcuts/evidence" in result.arrays) == bool(examples)
    hidden = [item.score or 0.0 for item in items if not item.evidence]
    assert all((item.score or 0.0) >= max(hidden, default=0.0) for item in shown)


def test_a_picture_names_its_donor_when_images_of_other_classes_come_and_go(tmp_path: Path) -> None:
    """Rows move when a class before has fewer images; what an earlier audit kept must not mislead."""
    network, names = ReadsWaves(3), ["a", "b", "c"]
    options: dict[str, Any] = {
        "class_names": names,
        "classes": ("c",),
        "batch_size": 64,
        "search": "exact",
        "resolution": "orbits",
    }
    many = wavy_images((20, 20, 20))
    runs = tmp_path / "run"
    sa.audit(network, many, run=runs, **options)
    reused = 0
    for n_left in (18, 16, 14, 12, 10, 8):
        few = [*many[:20], *many[20 : 20 + n_left], *many[40:]]
        again = sa.audit(network, few, run=runs, **options)
        fresh = sa.audit(network, few, **options)
        assert again.shortcuts == fresh.shortcuts
        reused += len(fresh.shortcuts.by_class[0].evidence)
    assert reused > 0
