from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import conv_model
from torch import nn

import shortcut_audit as sa
from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.models.classifier import Classifier, borrowed, is_out_of_memory
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.run import tuning
from shortcut_audit.run.tuning import compiled_if_it_pays, tune_batch_size

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


def test_a_lucky_first_timing_does_not_decide(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: set[int] = set()
    turns: list[int] = []

    def timing(classifier: Classifier, image: torch.Tensor, batch_size: int, seconds: float) -> float:
        true = {16: 100.0, 32: 90.0}.get(batch_size, 40.0)
        if batch_size in first:
            turns.append(batch_size)
            # The machine grows busier; sizes in turn suffer alike.
            return true * 0.97 ** (len(turns) // 2)
        first.add(batch_size)
        return {16: 97.0, 32: 103.0}.get(batch_size, true)

    monkeypatch.setattr(tuning, "measure_batch", timing)
    assert tune_batch_size(classifier, IMAGE, "digest", at_most=10**6).batch_size == 16
    assert turns == [16, 32] * (len(turns) // 2)
    assert len(turns) >= 6


def test_a_timing_runs_the_probes_of_a_search(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(1, 6, 7)
    seen: list[torch.Tensor] = []
    classifier.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    speed = tuning.measure_batch(classifier, image, 5, seconds=0.01)
    assert speed > 0
    assert {len(batch) for batch in seen} == {1, 5}
    # Each image lacks a wave of its own: the next orbit in the grid's order.
    gone = torch.fft.rfft2(image - next(batch for batch in seen if len(batch) == 5)).abs() > 1e-4
    orbit_of_bin = torch.from_numpy(FrequencyGrid(6, 7).orbit_of_bin)
    for orbit, bins in enumerate(gone[:, 0]):
        assert torch.equal(bins, orbit_of_bin == orbit)


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


class Doubling(nn.Module):
    """Stands in for a compiled network."""

    def __init__(self, network: nn.Module, offset: float = 0.0) -> None:
        super().__init__()
        self.inner, self.offset = network, offset
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return self.inner(x) + self.offset


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in compiler: `gain` is how much faster its networks are, `offset` how wrong."""
    how: dict[str, Any] = {"gain": 1.3, "offset": 0.0, "made": [], "error": None}

    def compile_(network: nn.Module, dynamic: bool) -> nn.Module:
        assert dynamic is False
        if how["error"] is not None:
            raise how["error"]
        how["made"].append(Doubling(network, how["offset"]))
        return how["made"][-1]

    def timing(classifier: Classifier, image: torch.Tensor, batch_size: int, seconds: float) -> float:
        return 100.0 * (how["gain"] if hasattr(classifier.network, "compiled") else 1)

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(tuning, "measure_batch", timing)
    return how


LONG = 10**6


def test_full_batches_are_compiled_where_it_pays(
    classifier: Classifier, compiling: dict[str, Any]
) -> None:
    faster = compiled_if_it_pays(classifier, IMAGE, 4, LONG, "digest")
    (made,) = compiling["made"]
    for n_images in (4, 3, 4, 1):
        images = torch.rand(n_images, 1, 6, 6)
        torch.testing.assert_close(faster(images), classifier(images))
    assert made.sizes == [4, 4, 4]
    with torch.inference_mode(False):
        faster.answer(torch.rand(4, 1, 6, 6))
    assert made.sizes == [4, 4, 4]


def test_compiling_is_not_tried_on_work_too_short_to_win_it_back(
    classifier: Classifier, compiling: dict[str, Any]
) -> None:
    assert compiled_if_it_pays(classifier, IMAGE, 4, 10_000, "digest") is classifier
    assert compiling["made"] == []


def test_an_audit_of_few_passes_is_not_even_timed(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model must not be shown thousands of images to save some of a hundred."""

    def timed(*unused: object) -> float:
        raise AssertionError("the model was timed")

    monkeypatch.setattr(tuning, "measure_batch", timed)
    assert compiled_if_it_pays(classifier, IMAGE, 4, 3000, "digest") is classifier
    with pytest.raises(AssertionError, match="was timed"):
        compiled_if_it_pays(classifier, IMAGE, 4, 10**6, "digest")


@pytest.mark.parametrize(
    "trouble",
    [{"gain": 1.02}, {"offset": 1.0}, {"offset": float("nan")}, {"error": RuntimeError("no g++")}],
)
def test_a_compiler_that_is_no_faster_wrong_or_broken_leaves_all_as_it_is(
    trouble: dict[str, Any], classifier: Classifier, compiling: dict[str, Any]
) -> None:
    compiling.update(trouble)
    assert compiled_if_it_pays(classifier, IMAGE, 4, LONG, "digest") is classifier


@pytest.mark.parametrize(("gain", "kept"), [(1.3, True), (0.9, False)])
def test_the_choice_to_compile_is_remembered(
    gain: float, kept: bool, classifier: Classifier, compiling: dict[str, Any]
) -> None:
    compiling["gain"] = gain
    first = compiled_if_it_pays(classifier, IMAGE, 4, LONG, "digest")
    assert (first is not classifier) == kept
    # A machine that is busy when a run goes on must not change how it computes.
    compiling["gain"] = 1 / gain
    again = compiled_if_it_pays(classifier, IMAGE, 4, LONG, "digest")
    assert (again is not classifier) == kept
    assert len(compiling["made"]) == 1 + kept
    other = compiled_if_it_pays(classifier, IMAGE, 4, LONG, "other weights")
    assert (other is not classifier) != kept
    # What the run itself did comes first, wherever it goes on.
    recorded = compiled_if_it_pays(classifier, IMAGE, 4, LONG, "digest", earlier=not kept)
    assert (recorded is not classifier) != kept


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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_the_real_compiler_gives_the_same_answers(classifier: Classifier) -> None:
    compiled = tuning._compiled(classifier, IMAGE, 4)
    assert compiled is not None
    for n_images in (4, 3):
        images = torch.rand(n_images, 1, 6, 6)
        torch.testing.assert_close(compiled(images), classifier(images), atol=1e-5, rtol=1e-5)
