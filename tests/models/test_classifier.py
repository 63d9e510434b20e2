"""Classifier: the model is left as found, sees normalised pixels, answers with logits or is told off."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import conv_model
from lending import CPU, MEAN, STD, lend, restless, state_of
from torch import Tensor, nn

from shortcut_audit.errors import LogitsError, ModelError, SettingsError
from shortcut_audit.models.classifier import Classifier, pick_device, require_outputs


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_network_is_left_as_found(dtype: str) -> None:
    network = restless()
    before = state_of(network)
    with lend(network, dtype) as classifier:
        assert not any(module.training for module in network.modules())
        classifier(torch.rand(5, 3, 6, 7, dtype=classifier.dtype))
    assert state_of(network) == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_network_is_left_as_found_after_a_failure(dtype: str) -> None:
    network = restless()
    network.fail = True
    before = state_of(network)
    with pytest.raises(ModelError, match="in the middle"), lend(network, dtype) as classifier:
        classifier(torch.rand(5, 3, 6, 7, dtype=classifier.dtype))
    assert state_of(network) == before


def test_network_is_left_as_found_after_being_interrupted_or_refused() -> None:
    network = restless()
    before = state_of(network)
    with pytest.raises(KeyboardInterrupt), lend(network):
        raise KeyboardInterrupt
    with pytest.raises(SettingsError, match="float16 does not run on a CPU"), lend(network, "float16"):
        pass
    assert state_of(network) == before


def test_network_trains_on_as_if_never_lent() -> None:
    def step(lent: bool) -> list[Any]:
        network = restless()
        optimizer = torch.optim.SGD(network.body.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            if lent:
                with lend(network) as classifier:
                    classifier(torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0)))
            optimizer.zero_grad()
            network.body(torch.rand(2, 3, 6, 7)).square().sum().backward()
            optimizer.step()
        return [parameter.tolist() for parameter in network.body.parameters()]

    assert step(lent=True) == step(lent=False)


def test_what_a_model_draws_by_itself_depends_on_the_seed_alone() -> None:
    network, images = restless(), torch.rand(4, 3, 6, 7)

    def logits(seed: int) -> Tensor:
        torch.rand(3)
        with lend(network, seed=seed) as classifier:
            return classifier(images).clone()

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


@pytest.mark.parametrize(("dtype", "precision"), [("float32", torch.float32), ("float64", torch.float64)])
def test_logits_are_those_of_the_network_on_normalised_pixels(dtype: str, precision: torch.dtype) -> None:
    network = conv_model(4, 3)
    images = torch.rand(5, 3, 6, 7, dtype=precision)
    channels = [(images[:, c] - MEAN[c]) / STD[c] for c in range(3)]
    expected = copy.deepcopy(network).to(precision).eval()(torch.stack(channels, dim=1))
    with lend(network, dtype) as classifier:
        assert classifier.dtype == precision
        torch.testing.assert_close(classifier(images), expected)
        torch.testing.assert_close(classifier.normalize(images), torch.stack(channels, dim=1))
        torch.testing.assert_close(classifier.answer(classifier.normalize(images)), expected)


def test_half_precision_runs_under_autocast_and_stays_near() -> None:
    network, images = conv_model(4, 3), torch.rand(5, 3, 6, 7)
    with lend(network) as classifier:
        exact = classifier(images)
    with lend(network, "bfloat16") as classifier:
        near = classifier(images)
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), exact, atol=0.03, rtol=0.03)


class Answering(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: (x.flatten(1), x), "returns a tuple, not a tensor"),
        (lambda x: {"logits": x.flatten(1)}, "returns a dict, not a tensor"),
        (lambda x: None, "returns a NoneType, not a tensor"),
        (lambda x: x, r"returns shape \(2, 3, 6, 7\) for 2 images, not \(2, outputs\)"),
        (lambda x: x.flatten(1).sum(1), r"returns shape \(2,\) for 2 images"),
        (lambda x: x.flatten(1)[:1], r"returns shape \(1, 126\) for 2 images"),
        (lambda x: x.sum(), r"returns shape \(\) for 2 images"),
        (lambda x: x.flatten(1).argmax(1, keepdim=True), "returns values of type torch.int64, not float"),
        (lambda x: x.flatten(1) + 0j, "returns values of type torch.complex64, not float"),
    ],
)
def test_an_answer_that_is_no_row_of_logits_an_image_is_refused(answer: Any, message: str) -> None:
    with lend(Answering(answer)) as classifier, pytest.raises(LogitsError, match=message) as caught:
        classifier(torch.rand(2, 3, 6, 7))
    assert caught.value.next_step


def test_wrong_number_of_outputs_is_refused_with_both_numbers() -> None:
    with pytest.raises(ModelError, match=r"10 outputs and the data 3 classes \(pets\)") as caught:
        require_outputs(10, 3, "pets")
    assert "--output-names" in caught.value.next_step
    require_outputs(3, 3, "pets")


@pytest.mark.parametrize("name", ["cuda:77", "nonsense", "tpu", "meta", ""])
def test_a_device_that_cannot_be_used_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(SettingsError, match=f"Device {name!r} cannot be used") as caught:
        pick_device(name)
    assert "\n" not in caught.value.problem
    assert "--device auto" in caught.value.next_step


def test_auto_is_a_gpu_where_there_is_one_else_the_cpu() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == CPU


@contextmanager
def _without_torch_warnings() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_scripted_model_is_lent_and_given_back_too() -> None:
    with _without_torch_warnings():
        scripted = torch.jit.script(conv_model(4, 3).train())
    before = {name: tensor.tolist() for name, tensor in scripted.state_dict().items()}
    images = torch.rand(2, 3, 6, 7)
    with lend(scripted) as classifier, lend(conv_model(4, 3)) as plain:
        assert isinstance(classifier, Classifier)
        torch.testing.assert_close(classifier(images), plain(images))
    assert {name: tensor.tolist() for name, tensor in scripted.state_dict().items()} == before
    assert scripted.training
