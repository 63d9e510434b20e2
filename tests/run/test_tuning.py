from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
import torch
from conftest import conv_model
from torch import nn

import shortcut_audit as sa
from shortcut_audit.errors import SettingsError
from shortcut_audit.models.classifier import Classifier, borrowed, is_out_of_memory
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.run import tuning
from shortcut_audit.run.tuning import tune_batch_size

PREPROCESSING = Preprocessing(
    channels=1, height=6, width=6, geometry="as they are", mean=(0.0,), std=(1.0,), source="test"
)
IMAGE = torch.zeros(1, 6, 6)


@pytest.fixture
def classifier() -> Iterator[Classifier]:
    with borrowed(conv_model(2, 1), PREPROCESSING, torch.device("cpu"), "float32", 0) as lent:
        yield lent


def speeds(table: dict[int, float | None], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand-in timings; returns the list of batch sizes that were tried. None: memory runs out."""
    tried: list[int] = []

    def timing(classifier: Classifier, image: torch.Tensor, batch_size: int, seconds: float) -> float:
        tried.append(batch_size)
        speed = table.get(batch_size, 50.0)
        if speed is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return speed

    monkeypatch.setattr(tuning, "measure_batch", timing)
    return tried


def test_the_smallest_of_the_fastest_wins(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds({8: 50, 16: 90, 32: 98, 48: 100, 64: 100.2, 96: 80, 128: 70, 192: 500}, monkeypatch)
    choice = tune_batch_size(classifier, IMAGE, "digest", at_most=10**6)
    assert (choice.batch_size, choice.images_per_second) == (48, 100)


def test_it_stops_where_memory_ends(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = speeds({8: 50, 16: 90, 32: None, 48: 1000}, monkeypatch)
    assert tune_batch_size(classifier, IMAGE, "digest", at_most=10**6).batch_size == 16
    assert max(tried) == 32


def test_a_single_image_is_tried_when_no_batch_fits(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds({8: None, 1: 3.0}, monkeypatch)
    assert tune_batch_size(classifier, IMAGE, "digest", at_most=10**6).batch_size == 1
    speeds({8: None, 1: None}, monkeypatch)
    with pytest.raises(SettingsError, match="single image"):
        tune_batch_size(classifier, IMAGE, "another", at_most=10**6)


def test_a_choice_is_remembered_for_this_model_and_shape_alone(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds({8: 10, 16: 100, 32: 20, 48: 20}, monkeypatch)
    assert tune_batch_size(classifier, IMAGE, "digest", at_most=10**6).batch_size == 16
    tried = speeds({8: 10, 16: 20, 32: 100, 48: 20, 64: 20}, monkeypatch)
    again = tune_batch_size(classifier, IMAGE, "digest", at_most=10**6)
    assert (again.batch_size, again.remembered, tried) == (16, True, [])
    assert tune_batch_size(classifier, IMAGE, "other weights", at_most=10**6).batch_size == 32
    assert tune_batch_size(classifier, torch.zeros(1, 7, 6), "digest", at_most=10**6).batch_size == 32


def test_a_broken_memory_file_only_costs_a_new_measurement(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds({8: 10, 16: 100, 32: 20, 48: 20}, monkeypatch)
    path = tuning._memory_file()
    path.parent.mkdir(parents=True)
    path.write_text("{half")
    assert tune_batch_size(classifier, IMAGE, "digest", at_most=10**6).batch_size == 16
    assert tune_batch_size(classifier, IMAGE, "digest", at_most=10**6).remembered


def test_other_errors_of_the_model_are_not_mistaken_for_memory(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> float:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(tuning, "measure_batch", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        tune_batch_size(classifier, IMAGE, "digest", at_most=10**6)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_auto_really_measures_and_audits() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_model(2, 1)
            self.sizes: deque[int] = deque()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(x))
            return self.inner(x)

    network = Wide()
    pairs = [(torch.rand(1, 6, 6), k) for k in (0, 1) for _ in range(4)]
    result = sa.audit(network, pairs)
    assert result.provenance.batch_size in network.sizes
    assert len(set(network.sizes)) > 2
