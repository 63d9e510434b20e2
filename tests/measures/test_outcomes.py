"""Outcomes of single images: findings counted again from the arrays, and each outcome done again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conv_model, linear_model, random_images
from phases import SIZE, ReadsWaves, wavy_images
from replicas import keep_bins, logits_of, ring_bins, transplant_bins

import shortcut_audit as sa
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.outcomes import image_numbers
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired, Rate

OUTCOMES = ("image", "class", "split", "predicted", "kept", "kept_judged", "receiver", "donor", "turned")


def outcome(result: AuditResult, name: str) -> np.ndarray:
    return result.arrays[f"outcomes/{name}"]


def counted(hits: np.ndarray) -> Rate:
    return Rate(hits=int(hits.sum()), n=len(hits))


def searched_of(result: AuditResult) -> list[int]:
    return [result.class_names.index(item.class_name) for item in result.shortcuts.by_class]


def under_maps(result: AuditResult) -> tuple[np.ndarray, np.ndarray]:
    """Whether each judgement image was called by each map's class, and whether it was asked."""
    of_class = outcome(result, "class")[outcome(result, "split") == 1]
    kept = np.unpackbits(outcome(result, "kept"), axis=1, count=len(of_class)).astype(bool)
    classes = np.unpackbits(outcome(result, "kept_judged"), axis=1, count=len(result.class_names))
    return kept, classes.astype(bool)[:, of_class]


def require_rates_that_follow(result: AuditResult) -> None:
    """The findings are those that a reader counts from the arrays."""
    of_class, split, predicted = (outcome(result, name) for name in ("class", "split", "predicted"))
    outputs = np.array(result.provenance.data.outputs)
    right = predicted == outputs[of_class]
    assert counted(right) == result.predictions.accuracy
    by_class = tuple(counted(right[of_class == index]) for index in range(len(outputs)))
    assert by_class == result.predictions.accuracy_by_class
    confusion = np.zeros_like(result.arrays["predictions/confusion"])
    np.add.at(confusion, (of_class, predicted), 1)
    np.testing.assert_array_equal(confusion, result.arrays["predictions/confusion"])
    judged, called = of_class[split == 1], predicted[split == 1]
    kept, asked = under_maps(result)
    assert not (kept & ~asked).any()
    donors = of_class[outcome(result, "donor")]
    for column, (index, item) in enumerate(
        zip(searched_of(result), result.shortcuts.by_class, strict=True)
    ):
        own = judged == index
        assert item.tpr_full == counted(called[own] == outputs[index])
        assert item.fpr_full == counted(called[~own] == outputs[index])
        assert item.tpr_kept == counted(kept[column, own & asked[column]])
        assert item.fpr_kept == counted(kept[column, ~own & asked[column]])
        turned = outcome(result, "turned")[donors == index]
        assert len(turned) > 0
        assert item.best is not None
        if item.best.flips.leaning_first is None:
            before, after = turned & 1 > 0, turned & 2 > 0
            assert item.best.flips == Paired(
                n=len(turned),
                both=int((before & after).sum()),
                only_first=int((after & ~before).sum()),
                only_second=int((before & ~after).sum()),
            )


def test_images_are_told_by_their_pixels_and_stand_class_by_class(run_on: Any) -> None:
    network = conv_model(3, 1, seed=5)
    audited = run_on(network, random_images(7, 3, (1, 8, 8)))
    network = network.double().eval()
    found = zip(*(outcome(audited.result, name).tolist() for name in OUTCOMES[:4]), strict=True)
    for index in range(3):
        for split, images in enumerate((audited.search(index), audited.judge(index))):
            for image in images:
                pixels = np.round(image * 255).astype(np.uint8).tobytes()
                own = int.from_bytes(hashlib.sha256(pixels).digest()[:8], "big")
                said = int(logits_of(network, image).argmax())
                assert next(found) == (own, index, split, said)
    assert next(found, None) is None
    types = " ".join(str(outcome(audited.result, name).dtype) for name in OUTCOMES)
    assert types == "uint64 int32 uint8 int32 uint8 uint8 int32 int32 uint8"


def test_numbers_of_images_keep_all_64_bits() -> None:
    numbers = image_numbers(["f" * 32, "0" * 15 + "1" + "f" * 16])
    assert numbers.tolist() == [2**64 - 1, 1]


@pytest.mark.parametrize("classes", [None, ("b", "d")])
def test_kept_maps_call_these_very_images(classes: tuple[str, ...] | None, run_on: Any) -> None:
    """Six classes, so that an image is not judged under every map."""
    n_classes, shape, names = 6, (1, 7, 8), list("abcdef")
    network = linear_model(n_classes, shape, seed=2)
    audited = run_on(
        network,
        random_images(9, n_classes, shape),
        class_names=names,
        kept_share=0.4,
        seed=3,
        classes=classes,
    )
    require_rates_that_follow(audited.result)
    network = network.double().eval()
    kept, asked = under_maps(audited.result)
    assert kept.any()
    assert asked.all() == (classes is not None)
    every = np.concatenate([audited.judge(index) for index in range(n_classes)])
    for column, index in enumerate(searched_of(audited.result)):
        chosen = audited.result.arrays["dominant_frequencies/kept"][column]
        bins = {b for orbit, own in zip(audited.orbits, chosen, strict=True) if own for b in orbit}
        for place in np.flatnonzero(asked[column]).tolist():
            filtered = keep_bins(every[place], bins | {(0, 0)})
            assert kept[column, place] == (logits_of(network, filtered).argmax() == index)


def test_transplants_turn_these_very_pairs(run_on: Any) -> None:
    network = ReadsWaves(3)
    audited = run_on(network, wavy_images((24, 20, 22)), class_names=["a", "b", "c"])
    result = audited.result
    require_rates_that_follow(result)
    receivers, donors, turned = (outcome(result, name) for name in ("receiver", "donor", "turned"))
    assert {0, 2} <= set(turned.tolist())
    of_class, split = outcome(result, "class"), outcome(result, "split")
    assert (split[receivers] == 1).all()
    assert (split[donors] == 1).all()
    assert (of_class[receivers] != of_class[donors]).all()
    assert len(set(donors.tolist())) == len(donors)
    plain, grid = network.double().eval(), FrequencyGrid(SIZE, SIZE)
    every = [audited.images.store.block(row, row + 1)[0].astype(float) for row in range(len(split))]
    rank = result.arrays["dominant_frequencies/rank"]
    for receiver, donor, bits in zip(receivers, donors, turned, strict=True):
        index = of_class[donor]
        best = result.shortcuts.by_class[index].best
        assert best is not None
        if best.ring is not None:
            bins = ring_bins(SIZE, SIZE, best.ring, 8)
        else:
            first = np.argsort(np.where(rank[index] > 0, rank[index], 10**9))[: best.n_orbits]
            pairs = {(int(grid.u[o]), int(grid.v[o])) for o in first}
            bins = pairs | {(-u, -v) for u, v in pairs}
        changed = transplant_bins(every[receiver], every[donor], bins)
        before, after = (
            logits_of(plain, image).argmax() == index for image in (every[receiver], changed)
        )
        assert bits == before + 2 * after


def test_further_draws_are_left_out(run_on: Any) -> None:
    """A class that stays open was tried on more receivers; the pairs are those of the first draw."""
    result = run_on(conv_model(3, 1, seed=3), random_images(9, 3, (1, 8, 8)), seed=2).result
    rungs = [item.best for item in result.shortcuts.by_class if item.best]
    donors = outcome(result, "donor")
    assert any(rung.flips.leaning_first is not None for rung in rungs)
    assert len(donors) == len(set(donors.tolist())) < sum(rung.flips.n for rung in rungs)


def test_any_batch_size_gives_the_same_outcomes(run_on: Any) -> None:
    pairs = random_images(9, 3, (1, 8, 8))
    one, other = (
        run_on(conv_model(3, 1, seed=3), pairs, batch_size=size).result.arrays for size in (5, 64)
    )
    for name in OUTCOMES:
        np.testing.assert_array_equal(one[f"outcomes/{name}"], other[f"outcomes/{name}"])


def test_an_audit_that_lost_half_of_its_parts_ends_with_the_same_outcomes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 16, "search": "exact", "run": tmp_path / "run"}
    pairs = random_images(9, 3, (1, 8, 8))
    whole = sa.audit(conv_model(3, 1), pairs, **options)
    for path in sorted((tmp_path / "run" / "shards").glob("*.safetensors"))[::2]:
        path.unlink()
    resumed = sa.audit(conv_model(3, 1), pairs, **options)
    assert resumed.findings == whole.findings
    for result in (resumed, sa.load_result(tmp_path / "run")):
        assert result.arrays.keys() == whole.arrays.keys()
        for name in OUTCOMES:
            np.testing.assert_array_equal(outcome(result, name), outcome(whole, name))


def test_outcomes_take_a_few_bytes_an_image_and_a_bit_under_each_map(run_on: Any) -> None:
    n_classes, n_images = 12, 8
    result = run_on(
        linear_model(n_classes, (1, 6, 6)), random_images(n_images, n_classes, (1, 6, 6)), examples=0
    ).result
    sizes = {name: outcome(result, name).nbytes for name in OUTCOMES}
    n, n_judge = n_classes * n_images, n_classes * n_images // 2
    assert sum(sizes[name] for name in OUTCOMES[:4]) == 17 * n
    assert sizes["kept"] == n_classes * n_judge // 8
    assert sizes["kept_judged"] == n_classes * 2
    assert sum(sizes[name] for name in OUTCOMES[6:]) <= 9 * n_judge
