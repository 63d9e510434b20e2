from __future__ import annotations

from typing import Any

import numpy as np
from conftest import conv_model, random_images
from replicas import logits_of


def test_accuracy_and_confusion_are_those_of_one_image_at_a_time(run_on: Any) -> None:
    network = conv_model(3, 1, seed=5)
    audited = run_on(network, random_images(7, 3, (1, 8, 8)))
    network = network.double().eval()
    confusion = np.zeros((3, 3), dtype=int)
    for index in range(3):
        for image in np.concatenate([audited.search(index), audited.judge(index)]):
            confusion[index, logits_of(network, image).argmax()] += 1
    np.testing.assert_array_equal(audited.result.arrays["predictions/confusion"], confusion)
    accuracy = audited.result.predictions.accuracy
    assert (accuracy.hits, accuracy.n) == (confusion.trace(), 21)
