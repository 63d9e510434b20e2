"""The digest of a model changes with all that can change an answer, and with nothing else."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import conv_model
from torch import Tensor, nn
from torch.nn import functional

from shortcut_audit.errors import ModelError
from shortcut_audit.models.classifier import weights_digest
from shortcut_audit.models.loading import ModelRequest, load_model

SLOPE = 0.1


def leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, SLOPE)


def steep(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, SLOPE * 5)


class Net(nn.Module):
    """A network of the user's own, with every kind of thing that decides its answer."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=generator))
        self.register_buffer("seen", torch.ones(3))
        self.register_buffer("hidden", torch.ones(3), persistent=False)
        self.act = nn.ReLU()
        self.function: Callable[[Tensor], Tensor] = functional.relu
        self.own = leaky
        self.partial = functools.partial(functional.leaky_relu, negative_slope=0.2)
        self.scale = 2.0
        self.shape = (1, [2, 3])
        self.options = {"a": 1, "b": [True, None]}
        self.table = torch.arange(3.0)
        self.kind = torch.float32

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.act(images.mean((2, 3)) * self.seen + self.hidden) * self.scale
        return self.own(pooled) @ self.weight.T


def set_weight(net: Net) -> None:
    with torch.no_grad():
        net.weight[1, 1] += 1e-6


def set_data(tensor: str) -> Callable[[Net], Any]:
    return lambda net: getattr(net, tensor).data.mul_(2)


def assign(name: str, value: Any) -> Callable[[Net], Any]:
    return lambda net: setattr(net, name, value)


CHANGES: dict[str, Callable[[Net], Any]] = {
    "a weight": set_weight,
    "a buffer": set_data("seen"),
    "a buffer outside the state dict": set_data("hidden"),
    "a tensor that is no buffer": set_data("table"),
    "a precision": lambda net: net.double(),
    "an activation module": assign("act", nn.GELU()),
    "an argument of an activation module": assign("act", nn.ReLU6()),
    "an activation function": assign("function", functional.gelu),
    "a built-in activation function": assign("function", torch.tanh),
    "another function of the user's": assign("own", steep),
    "an argument of a partial": assign(
        "partial", functools.partial(functional.leaky_relu, negative_slope=0.3)
    ),
    "a number": assign("scale", 3.0),
    "a nested number": assign("shape", (1, [2, 4])),
    "a number in a dictionary": assign("options", {"a": 1, "b": [True, 0]}),
    "a dtype": assign("kind", torch.float64),
    "a forward of its own": assign("forward", lambda images: images.mean((2, 3))),
    "a hook": lambda net: net.register_forward_hook(lambda module, args, out: out * 2),
    "one more child": lambda net: net.add_module("more", nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_digest_changes_with(change: str) -> None:
    net = Net()
    CHANGES[change](net)
    assert weights_digest(net) != weights_digest(Net())


def test_digest_changes_with_a_function_that_forward_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights_digest(Net())
    monkeypatch.setitem(globals(), "SLOPE", 0.2)
    other_constant = weights_digest(Net())
    monkeypatch.undo()
    monkeypatch.setattr(leaky, "__code__", steep.__code__)
    other_code = weights_digest(Net())
    assert len({before, other_constant, other_code}) == 3


def test_digest_tells_apart_networks_that_share_all_weights() -> None:
    layers = [nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Flatten()]
    digests = {
        weights_digest(nn.Sequential(*layers)),
        weights_digest(nn.Sequential(layers[1], layers[0], layers[2])),
        weights_digest(nn.Sequential(layers[0], nn.LeakyReLU(), layers[2])),
        weights_digest(nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[2])),
    }
    assert len(digests) == 4


def test_digest_stays_with_mode_gradients_use_and_copies() -> None:
    net = Net()
    before = weights_digest(net)
    for _ in range(200):  # long enough for Python to rewrite the code it runs often
        net(torch.rand(2, 3, 4, 4)).sum().backward()
    net.eval()
    assert weights_digest(net) == before == weights_digest(Net())
    copy = Net()
    copy.load_state_dict(net.state_dict())
    assert weights_digest(copy) == before


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_digest_of_a_timm_model_is_stable_across_two_loads_and_changes_with_its_settings(
    name: str,
) -> None:
    def digest(seed: int, **more: Any) -> str:
        torch.manual_seed(seed)
        return weights_digest(timm.create_model(name, **more))

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)
    assert digest(1, act_layer=nn.ReLU) != digest(1, act_layer=nn.SELU)


FILE = """
import torch
from torch import nn
{constant}
def helper(x):
    {docs}
    return x.flatten(1) * {factor}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 2)
        self.names = {{"x", "y", "z"}}
    def forward(self, x):
        return self.head(helper(x)) {tail}
"""


def digest_of(
    path: Path, constant: str = "A = 1", docs: str = "pass", factor: str = "1", tail: str = ""
) -> str:
    """The digest of a network whose source lies in a file."""
    path.write_text(FILE.format(constant=constant, docs=docs, factor=factor, tail=tail))
    return weights_digest(load_model(ModelRequest(spec=f"{path}:Net", seed=0)).network)


def test_digest_follows_the_code_in_a_factory_file_and_not_its_place_or_comments(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "net.py"
    before = digest_of(path)
    assert digest_of(tmp_path / "elsewhere" / "other.py") == before
    assert digest_of(path, docs="# a comment\n\n    pass") == before
    assert digest_of(path, constant="A = 2") == before  # forward never uses it
    changed = [digest_of(path, tail="* 2"), digest_of(path, factor="2"), digest_of(path, factor="A")]
    changed += [digest_of(path, factor="A", constant="A = 2"), digest_of(path, tail="+ torch.zeros(1)")]
    assert len({before, *changed}) == 6


def test_digest_of_a_factory_is_the_same_in_another_process(tmp_path: Path) -> None:
    here = digest_of(tmp_path / "net.py", factor="(2 if 'x' in {'x', 'y', 'z'} else 3)")
    code = (
        "from shortcut_audit.models.classifier import weights_digest;"
        "from shortcut_audit.models.loading import ModelRequest, load_model;"
        f"print(weights_digest(load_model(ModelRequest(spec={str(tmp_path / 'net.py:Net')!r})).network))"
    )
    # Sets of texts have another order in each process.
    env = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == here


def test_digest_sees_functions_that_trade_places() -> None:
    class Pair(nn.Module):
        def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.functions = functions

    orders = [(leaky, steep, leaky), (leaky, steep, steep), (steep, leaky, leaky), (leaky, leaky, steep)]
    assert len({weights_digest(Pair(*order)) for order in orders}) == 4


def test_digest_of_a_recursive_structure_ends() -> None:
    def loop(x: Tensor) -> Tensor:
        return loop(x) if len(x) > 3 else x

    net = Net()
    net.own = loop
    net.parent = net  # type: ignore[assignment]
    assert weights_digest(net) != weights_digest(Net())


def test_lazy_layers_without_weights_are_refused() -> None:
    with pytest.raises(ModelError, match="lazy layers that were never called") as caught:
        weights_digest(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)))
    assert "call it once" in caught.value.next_step


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(ModelError, match="meta device, and so have no values") as caught:
        weights_digest(nn.Linear(3, 2, device="meta"))
    assert "Load its weights" in caught.value.next_step


def test_digest_differs_between_random_networks() -> None:
    assert len({weights_digest(conv_model(3, 3, seed)) for seed in range(4)}) == 4
