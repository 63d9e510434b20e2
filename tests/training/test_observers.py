"""Observers: what they see is right, and what they do changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.results.findings import Rate
from shortcut_audit.training.loop import fit
from shortcut_audit.training.observers import ClassF1, EpochRecord, Step


def tensors(n_per_class: int = 10, n_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = random_images(n_per_class, n_classes, (3, 8, 8))
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).float() / 255
    return images - 0.5, torch.tensor([label for _, label in pairs])


class Meddler:
    """Draws random numbers, asks the network, and keeps what it is told."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images
        self.steps: list[Step] = []
        self.records: list[EpochRecord] = []
        self.answers: list[torch.Tensor] = []

    def on_step(self, step: Step) -> None:
        torch.rand(7)
        self.steps.append(step)
        self.answers.append(step.answer(self.images))

    def on_epoch(self, record: EpochRecord) -> None:
        torch.manual_seed(5)
        self.records.append(record)


def test_watching_changes_nothing_about_a_training() -> None:
    images, labels = tensors()
    alone, watched = conv_model(3, 3), conv_model(3, 3)
    fit(alone, images, labels, epochs=3, batch_size=8)
    meddler = Meddler(images)
    fit(watched, images, labels, epochs=3, batch_size=8, observers=[meddler, ClassF1(images, labels, 1)])
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert [step.number for step in meddler.steps] == list(range(1, 13))
    assert {step.n_steps for step in meddler.steps} == {12}
    assert [step.epoch for step in meddler.steps] == [1] * 4 + [2] * 4 + [3] * 4
    assert [record.epoch for record in meddler.records] == [1, 2, 3]
    assert [step.accuracy.n for step in meddler.steps[:5]] == [8, 16, 23, 30, 8]
    assert [step.accuracy for step in meddler.steps[3::4]] == [r.accuracy for r in meddler.records]


def test_answers_are_those_of_the_network_in_eval_mode() -> None:
    images, labels = tensors()
    network = conv_model(3, 3)
    meddler = Meddler(images)
    fit(network, images, labels, epochs=2, batch_size=8, observers=[meddler])
    with torch.no_grad():
        torch.testing.assert_close(meddler.answers[-1], network(images))


@given(st.data())
def test_f1_is_that_of_scikit_learn(data: st.DataObject) -> None:
    n_classes = data.draw(st.integers(2, 5))
    lists = st.lists(st.integers(0, n_classes - 1), min_size=1, max_size=30)
    labels = torch.tensor(data.draw(lists))
    called = torch.tensor(
        data.draw(st.lists(st.integers(0, n_classes - 1), min_size=len(labels), max_size=len(labels)))
    )
    observer = ClassF1(torch.zeros(len(labels), 1), labels, every=2)
    logits = torch.nn.functional.one_hot(called, n_classes).float()
    for number in range(1, 6):
        observer.on_step(
            Step(number, 5, 1, 0.1, torch.zeros(()), Rate(hits=0, n=1), lambda images: logits)
        )
    assert observer.steps.tolist() == [2, 4]
    expected = f1_score(labels, called, labels=range(n_classes), average=None, zero_division=np.nan)
    np.testing.assert_allclose(observer.f1, np.stack([expected] * 2))


def test_the_first_step_of_a_level_and_the_last_step_looked_at() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    observer = ClassF1(torch.zeros(4, 1), labels, every=5, until=12)
    answers = {5: [0, 0, 0, 0], 10: [0, 0, 1, 0], 15: [0, 0, 1, 1]}
    for number in range(1, 16):
        logits = torch.nn.functional.one_hot(torch.tensor(answers.get(number, [0] * 4)), 3).float()
        observer.on_step(
            Step(number, 15, 1, 0.1, torch.zeros(()), Rate(hits=0, n=1), lambda images, lo=logits: lo)
        )
    assert observer.steps.tolist() == [5, 10]
    # Class 0: 2 TP, 2 FP, then 2 TP, 1 FP; class 1: nothing, then 1 TP, 1 FN; class 2 is not there.
    np.testing.assert_allclose(observer.f1, [[2 / 3, 0, np.nan], [4 / 5, 2 / 3, np.nan]])
    assert observer.first_step(0.66) == [5, 10, None]
    assert observer.first_step(0.9) == [None, None, None]


def test_a_class_that_is_easier_is_seen_to_be_learned_first() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randn(120, 3, 8, 8, generator=generator)
    images[labels == 2, 0] += 3
    images[labels == 1, 1] += 0.25
    observer = ClassF1(images, labels, every=1)
    fit(conv_model(3, 3), images, labels, epochs=15, batch_size=30, observers=[observer])
    first = observer.first_step(0.8)
    assert first[2] is not None
    assert all(step is None or step > first[2] for step in first[:2])


def test_what_cannot_be_observed_is_refused() -> None:
    with pytest.raises(SettingsError, match="every 0 steps"):
        ClassF1(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), every=0)
    with pytest.raises(DataError, match="2 images and 1 labels"):
        ClassF1(torch.zeros(2, 1), torch.zeros(1, dtype=torch.int64))
