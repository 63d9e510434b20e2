from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images
from replicas import keep_bins, logits_of, remove_bins

from shortcut_audit.results.findings import Rate


def kept_bins(audited: Any, row: int, dc: str) -> set[tuple[int, int]]:
    kept = audited.result.arrays["dominant_frequencies/kept"][row]
    bins = {b for orbit, chosen in zip(audited.orbits, kept, strict=True) if chosen for b in orbit}
    return bins | {(0, 0)} if dc == "keep" else bins


@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 6)])
def test_rates_equal_the_slow_replica(shape: tuple[int, int, int], dc: str, run_on: Any) -> None:
    network = conv_model(3, shape[0], seed=3)
    audited = run_on(network, random_images(10, 3, shape), kept_share=0.3, dc=dc)
    network = network.double().eval()
    for column, item in enumerate(audited.result.shortcuts.by_class):
        bins = kept_bins(audited, column, dc)
        kept_called, full_called = {}, {}
        for index in range(3):
            images = audited.judge(index)
            kept_called[index] = sum(
                int(logits_of(network, keep_bins(image, bins)).argmax()) == column for image in images
            )
            full_called[index] = sum(
                int(logits_of(network, image).argmax()) == column for image in images
            )
        others = [index for index in range(3) if index != column]
        assert item.tpr_kept == Rate(hits=kept_called[column], n=5)
        assert item.fpr_kept == Rate(hits=sum(kept_called[k] for k in others), n=10)
        assert item.tpr_full == Rate(hits=full_called[column], n=5)
        assert item.fpr_full == Rate(hits=sum(full_called[k] for k in others), n=10)


@pytest.mark.parametrize("dc", ["keep", "drop", "rank"])
def test_examples_are_the_image_its_map_and_the_rest(dc: str, run_on: Any) -> None:
    network = conv_model(2, 3)
    audited = run_on(network, random_images(8, 2, (3, 8, 8)), kept_share=0.2, dc=dc)
    original, kept, removed = audited.result.arrays["shortcuts/examples"][1]
    matches = [image for image in audited.judge(1) if np.allclose(image * 255, original, atol=0.51)]
    assert len(matches) == 1
    bins = kept_bins(audited, 1, dc)
    gone = bins - {(0, 0)} if dc == "keep" else bins | {(0, 0)} if dc == "drop" else bins
    for ours, theirs in [(kept, keep_bins(matches[0], bins)), (removed, remove_bins(matches[0], gone))]:
        np.testing.assert_allclose(ours, np.clip(theirs, 0, 1) * 255, atol=0.51)
    network = network.double().eval()
    said = audited.result.shortcuts.by_class[1].example_predictions
    probabilities = torch.from_numpy(logits_of(network, keep_bins(matches[0], bins))).softmax(0)
    assert said["kept"].probability == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert said["kept"].predicted == str(int(probabilities.argmax()))


def test_only_the_classes_asked_for_are_searched_and_all_others_serve_as_foreign(run_on: Any) -> None:
    network, pairs = conv_model(3, 1), random_images(10, 3, (1, 8, 8))
    names = ["a", "b", "c"]
    whole = run_on(network, pairs, class_names=names).result
    part = run_on(network, pairs, class_names=names, classes=("c",)).result
    assert [item.class_name for item in part.shortcuts.by_class] == ["c"]
    assert part.shortcuts.by_class[0] == whole.shortcuts.by_class[2]
    assert part.predictions == whole.predictions
    np.testing.assert_array_equal(
        part.arrays["dominant_frequencies/rank"][0], whole.arrays["dominant_frequencies/rank"][2]
    )
    assert list(part.table("classes")["class"]) == ["c"]


def test_a_larger_share_keeps_more_of_the_same_ranking(run_on: Any) -> None:
    network, pairs = conv_model(2, 1), random_images(8, 2, (1, 8, 8))
    few = run_on(network, pairs, kept_share=0.1).result
    many = run_on(network, pairs, kept_share=0.5).result
    small, large = (r.arrays["dominant_frequencies/kept"] for r in (few, many))
    assert (small <= large).all()
    assert small.sum() < large.sum()
    assert few.dominant_frequencies.by_class[0].kept_share == pytest.approx(6 / 63)


def test_keeping_everything_gives_the_unfiltered_rates(run_on: Any) -> None:
    result = run_on(conv_model(3, 3), random_images(8, 3, (3, 7, 8)), kept_share=1.0).result
    for item in result.shortcuts.by_class:
        assert item.tpr_kept == item.tpr_full
        assert item.fpr_kept == item.fpr_full
