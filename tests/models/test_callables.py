"""Plain functions as models: the audit of the module they stand for; a digest of all that is seen."""

from __future__ import annotations

import functools
import logging
import math
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from lending import lend, state_of
from torch import Tensor, nn

import shortcut_audit as sa
from shortcut_audit.errors import AuditError, LogitsError, ModelError
from shortcut_audit.models.callables import CallableNetwork, as_network, function_name
from shortcut_audit.models.classifier import weights_digest, why_no_gradient
from shortcut_audit.models.loading import ModelRequest, load_model

SHAPE = (3, 6, 7)
WEIGHTS = np.random.default_rng(0).normal(size=(3 * 6 * 7, 4))
SCALE = 2.0
MODEL = linear_model(4, SHAPE)


def in_numpy(images: Tensor) -> Any:
    return np.asarray(images).reshape(len(images), -1) @ WEIGHTS


def scaled(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :4] * SCALE


def by_name(images: Tensor) -> Tensor:
    logits: Tensor = MODEL(images)
    return logits


class Service:
    """An object with a model inside, as serving code has it."""

    def __init__(self, network: nn.Module, scale: float = 1.0) -> None:
        self.network, self.scale = network, scale

    def predict(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) * self.scale
        return logits

    def __call__(self, images: Tensor) -> Tensor:
        return self.predict(images)


# Answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numpy", [False, True])
def test_audit_of_a_function_is_that_of_the_module_inside_which_is_left_as_found(numpy: bool) -> None:
    network = conv_model(3, 3).train()
    images = random_images(8, 3, (3, 8, 9), seed=2)

    def function(images: Tensor) -> Any:
        return network(images).numpy() if numpy else network(images)

    expected = sa.audit(conv_model(3, 3), images, batch_size=16)
    before = state_of(network)
    result = sa.audit(function, images, batch_size=16)
    assert state_of(network) == before
    assert set(result.arrays) == set(expected.arrays)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(result.arrays[name], array, err_msg=name)
    assert result.provenance.model.spec.startswith("function (")
    assert result.provenance.model.architecture.endswith("function")
    assert result.provenance.model.n_parameters == expected.provenance.model.n_parameters


def test_answers_in_numpy_are_the_same_numbers_as_a_tensor() -> None:
    images = torch.rand(3, *SHAPE)
    with lend(CallableNetwork(in_numpy)) as classifier:
        answer = classifier(images)
        expected = in_numpy(classifier.normalize(images))
        assert why_no_gradient(classifier, SHAPE) == "it answers through numpy, which keeps no gradient"
    assert answer.dtype == torch.float64
    np.testing.assert_array_equal(answer.numpy(), expected)


def test_arrays_of_every_memory_are_taken_without_a_warning() -> None:
    def frozen(images: Tensor) -> Any:
        answer = np.asarray(images.flatten(1))[:, ::-7].astype(">f4")
        answer.flags.writeable = False
        return answer.astype("<f4")[::-1][::-1]

    with lend(CallableNetwork(frozen)) as classifier:
        assert classifier(torch.rand(2, *SHAPE)).shape == (2, 18)


def test_functions_of_torch_have_gradients() -> None:
    for function in (scaled, by_name, functools.partial(scaled), Service(MODEL), Service(MODEL).predict):
        with lend(CallableNetwork(function)) as classifier:
            assert why_no_gradient(classifier, SHAPE) == ""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.flatten(1).tolist(), "The function returns a list, not a tensor or an array"),
        (lambda x: (x.flatten(1), x), "The function returns a tuple, not a tensor or an array"),
        (lambda x: None, "The function returns a NoneType, not"),
        (lambda x: np.array([["cat"]] * len(x)), "returns an array of <U3 values, not of logits"),
        (lambda x: np.array([[object()]] * len(x)), "returns an array of object values"),
        (lambda x: np.zeros((len(x), 2), dtype=complex), "returns an array of complex128 values"),
        (lambda x: np.zeros(len(x)), r"returns shape \(2,\) for 2 images"),
        (lambda x: np.float64(1), r"returns shape \(\) for 2 images"),
        (
            lambda x: np.zeros((len(x), 3), dtype=np.int64),
            "returns values of type torch.int64, not float",
        ),
    ],
)
def test_an_answer_that_is_no_row_of_logits_an_image_is_refused(answer: Any, message: str) -> None:
    with lend(CallableNetwork(answer)) as classifier, pytest.raises(LogitsError, match=message) as caught:
        classifier(torch.rand(2, *SHAPE))
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "The model is a value of type int, not a torch.nn.Module or a function from images"),
        ("resnet18", "The model is a value of type str, not"),
        (nn.Linear, "The model is the class Linear, not a model made of it."),
    ],
)
def test_what_is_no_model_is_refused_in_one_sentence(model: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        sa.audit(model, random_images(4, 2, (1, 8, 8)))
    assert caught.value.next_step


def test_a_module_goes_through_as_it_is() -> None:
    assert as_network(MODEL, "It is") is MODEL
    assert function_name(MODEL) is None
    assert function_name(CallableNetwork(functools.partial(scaled))) == "scaled"
    assert function_name(CallableNetwork(Service(MODEL))) == "Service"
    assert function_name(CallableNetwork(Service(MODEL).predict)) == "Service.predict"


# Modules inside -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: lambda images: network(images),
        lambda network: functools.partial(torch.nn.Module.__call__, network),
        lambda network: network.forward,
        lambda network: Service(network),
        lambda network: Service(network).predict,
        lambda network: Service(nn.Sequential(network)),
        lambda network: lambda images, models=(network,): models[0](images),
        lambda network: torch.no_grad()(lambda images: network(images)),
    ],
)
def test_modules_inside_a_function_are_lent_with_it(wrap: Callable[[nn.Module], Any]) -> None:
    network = conv_model(4, 3).train()
    wrapped = CallableNetwork(wrap(network))
    before = state_of(network)
    with lend(wrapped, "float64") as classifier:
        assert not any(module.training for module in network.modules())
        assert all(parameter.dtype == torch.float64 for parameter in network.parameters())
        assert classifier(torch.rand(2, *SHAPE, dtype=torch.float64)).dtype == torch.float64
    assert state_of(network) == before


# Digests ------------------------------------------------------------------------------------------


def digest(function: Any) -> str:
    return weights_digest(CallableNetwork(function))


def with_closure(value: Any) -> Callable[[Tensor], Any]:
    return lambda images: (images, value)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


SEEN: dict[str, tuple[Any, Any]] = {
    "a number": (1.0, 2.0),
    "an array": (np.zeros(3), np.ones(3)),
    "an array of objects": (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
    "a tensor": (torch.zeros(3), torch.ones(3)),
    "a nested value": ({"a": [1, {2}]}, {"a": [1, {3}]}),
    "a queue": (deque([1, 2]), deque([1, 3])),
    "a default dictionary": (functools.partial(dict, a=1), functools.partial(dict, a=2)),
    "bytes": (bytearray(b"a"), bytearray(b"b")),
    "a random generator": (np.random.default_rng(1), np.random.default_rng(2)),
    "an object": (Service(nn.ReLU(), 1.0), Service(nn.ReLU(), 2.0)),
    "an object with slots": (Slotted([1]), Slotted([2])),
    "a method": (Service(nn.ReLU(), 1.0).predict, Service(nn.ReLU(), 2.0).predict),
    "a built-in method": ([1].index, [2].index),
    "a built-in function": (math.sqrt, math.exp),
    "a cached function": (functools.lru_cache(lambda x: x), functools.lru_cache(lambda x: x + 1)),
    "weights": (linear_model(4, SHAPE, 0), linear_model(4, SHAPE, 1)),
    "weights in an object": (Service(linear_model(4, SHAPE, 0)), Service(linear_model(4, SHAPE, 1))),
    "a regular expression": (__import__("re").compile("a"), __import__("re").compile("b")),
}


@pytest.mark.parametrize("name", SEEN)
def test_digest_follows_what_a_function_holds(name: str) -> None:
    one, other = SEEN[name]
    assert digest(with_closure(one)) == digest(with_closure(one))
    assert digest(with_closure(one)) != digest(with_closure(other))
    assert CallableNetwork(with_closure(one)).nonce == ""


def test_digest_follows_code_and_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [digest(scaled), digest(in_numpy), digest(by_name)]
    assert [digest(scaled), digest(in_numpy), digest(by_name)] == before
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    monkeypatch.setitem(globals(), "WEIGHTS", WEIGHTS + 1)
    monkeypatch.setitem(globals(), "MODEL", linear_model(4, SHAPE, seed=9))
    after = [digest(scaled), digest(in_numpy), digest(by_name)]
    assert len({*before, *after}) == 6
    with torch.no_grad():
        MODEL[1].weight[0, 0] += 1
    assert digest(by_name) not in {*before, *after}


@pytest.mark.parametrize(
    "hidden",
    [
        lambda: (i for i in [1]),
        lambda: memoryview(b"abc"),
        lambda: Slotted(threading.local()),
        lambda: {"session": memoryview(b"abc")},
    ],
)
def test_an_object_that_hides_its_state_is_never_taken_for_an_earlier_one(
    hidden: Callable[[], Any],
) -> None:
    value = hidden()
    wrapped = CallableNetwork(with_closure(value))
    assert weights_digest(wrapped) == weights_digest(wrapped)
    assert digest(with_closure(value)) != digest(with_closure(value))


def test_loggers_and_locks_decide_no_answer() -> None:
    logger, lock = logging.getLogger("test"), threading.RLock()
    before = digest(with_closure([logger, lock]))
    logger.setLevel(logging.ERROR)
    assert digest(with_closure([logger, threading.RLock()])) == before


FILE = """
import numpy as np
import torch
import own_model.deep
class Predictor:
    names = {{"x", "y", "z"}}
    def __init__(self, weights):
        self.weights = weights
        self.network = torch.nn.Conv2d(3, 3, 1)
    def __call__(self, images):
        return self.network(images).mean((2, 3)).numpy() @ self.weights * own_model.deep.scale({scale})
def factory():
    return Predictor(np.full((3, 4), 0.5))
def plain():
    return lambda images: images.mean((2, 3))
"""
IN_ANOTHER_PROCESS = """
from shortcut_audit.models.classifier import weights_digest
from shortcut_audit.models.loading import ModelRequest, load_model
print(weights_digest(load_model(ModelRequest(spec={spec!r})).network))
"""


def test_digest_of_a_factorys_function_is_that_of_its_files_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_model").mkdir()
    (tmp_path / "own_model" / "__init__.py").write_text("")
    (tmp_path / "own_model" / "deep.py").write_text("def scale(x):\n    return x * 2\n")
    path = tmp_path / "net.py"
    spec = f"{path}:factory"

    def here(scale: int) -> str:
        path.write_text(FILE.format(scale=scale))
        return weights_digest(load_model(ModelRequest(spec=spec)).network)

    changed, before = here(2), here(1)
    code = IN_ANOTHER_PROCESS.format(spec=spec)
    env = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == before
    monkeypatch.setattr(sys.modules["own_model.deep"], "scale", lambda x: x * 3)
    assert len({before, changed, here(1)}) == 3


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "kept"), [(1.0, True), (memoryview(b"abc"), False)])
def test_a_kept_run_is_reused_where_the_function_is_known_to_be_the_same(
    tmp_path: Path, value: Any, kept: bool
) -> None:
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(48, 2))).float()

    def function(images: Tensor) -> Tensor:
        assert value
        return images.flatten(1) @ weights

    def parts() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run" / "shards").iterdir()}

    images = random_images(6, 2, (3, 4, 4))
    first = sa.audit(function, images, batch_size=8, run=tmp_path / "run")
    before = parts()
    second = sa.audit(function, images, batch_size=8, run=tmp_path / "run")
    assert (first.provenance.model.digest == second.provenance.model.digest) == kept
    assert before.items() <= parts().items()
    assert (parts() == before) == kept


def test_a_factory_may_return_a_function(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(FILE.replace("import own_model.deep", "").format(scale=1))
    loaded = load_model(ModelRequest(spec=f"{path}:plain"))
    assert isinstance(loaded.network, CallableNetwork)
    assert loaded.architecture == "plain"
    with lend(loaded.network) as classifier:
        assert classifier(torch.rand(2, *SHAPE)).shape == (2, 3)
    with pytest.raises(AuditError, match=r"plain returns a function, which takes no weights from"):
        load_model(ModelRequest(spec=f"{path}:plain", checkpoint=tmp_path / "weights.pt"))
