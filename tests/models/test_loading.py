"""Loading: every form of SPEC gives the same network, and every fault one sentence and a next step."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from shortcut_audit.errors import ModelError
from shortcut_audit.models.loading import LoadedModel, ModelRequest, load_model

TINY = "test_vit"
FACTORY = "shortcut_audit.models.small:small_cnn"


def load(spec: str, **more: Any) -> LoadedModel:
    return load_model(ModelRequest(spec=spec, **more))


def tiny(seed: int = 5, n_classes: int = 3) -> nn.Module:
    """A small timm network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(TINY, num_classes=n_classes)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)


def fault(spec: str, **more: Any) -> ModelError:
    """The error that loading ends with, checked to be one sentence with a next step."""
    with pytest.raises(ModelError) as caught:
        load(spec, **more)
    error = caught.value
    assert "\n" not in error.problem
    assert len(error.problem) < 500
    assert error.problem.endswith(".")
    assert error.next_step
    return error


def python_file(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


# timm names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [f"timm:{TINY}", TINY, "timm:test_resnet", "timm:test_vit.r160_in1k"])
def test_timm_name_gives_random_weights_for_the_classes_of_the_data(spec: str) -> None:
    loaded = load(spec, pretrained=False, n_classes=7)
    assert loaded.spec == spec
    assert loaded.network.num_classes == 7
    assert loaded.architecture == spec.removeprefix("timm:").split(".")[0]
    assert loaded.config is not None
    assert loaded.config["input_size"] == (3, 160, 160)


@pytest.mark.parametrize("spec", [f"timm:{TINY}", FACTORY])
def test_random_weights_depend_on_the_seed_alone_and_leave_torchs_random_state(spec: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = load(spec, pretrained=False, seed=3).network
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same_weights(first, load(spec, pretrained=False, seed=3).network)
    assert not same_weights(first, load(spec, pretrained=False, seed=4).network)


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("resnet18x", "No model is named 'resnet18x'. timm has resnet18", "timm:NAME"),
        ("timm:resnet_18", "timm has no model 'resnet_18'. timm has resnet18", "list_models"),
        ("nothing-like-it", "No model is named 'nothing-like-it'.", "module:factory"),
        ("timm:test_resne", "timm has no model 'test_resne'. timm has test_resnet.", ""),
        ("test_resne", "No model is named 'test_resne'. timm has test_resnet.", ""),
        ("timm:test_vit.nonsense", "'test_vit.nonsense' could not be loaded", ""),
    ],
)
def test_unknown_name_is_told_with_names_that_are_near(spec: str, message: str, hint: str) -> None:
    error = fault(spec)
    assert message in error.problem
    assert hint in error.next_step


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("spec", ["hf-hub:timm/no-such-model-here", f"timm:{TINY}"])
def test_published_weights_without_a_network_say_what_else_to_give(spec: str) -> None:
    error = fault(spec)
    assert spec.removeprefix("timm:") in error.problem
    assert "local-dir:" in error.next_step
    assert "--arch" in error.next_step


# Folders that timm saves --------------------------------------------------------------------------


@pytest.mark.parametrize("safe", [True, False])
def test_local_dir_is_the_model_that_timm_saved(tmp_path: Path, safe: bool) -> None:
    network = tiny()
    save_for_hf(network, str(tmp_path), safe_serialization=safe)
    loaded = load(f"local-dir:{tmp_path}", n_classes=99)
    assert same_weights(loaded.network, network)
    assert loaded.architecture == TINY
    assert loaded.config is not None
    assert tuple(loaded.config["input_size"]) == (3, 160, 160)


def test_local_dir_that_is_missing_empty_or_unfitting_is_refused(tmp_path: Path) -> None:
    assert "nowhere is not a folder" in fault(f"local-dir:{tmp_path / 'nowhere'}").problem
    assert "config.json" in fault(f"local-dir:{tmp_path}").problem
    save_for_hf(tiny(), str(tmp_path), safe_serialization=True)
    save_file({"wrong.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    error = fault(f"local-dir:{tmp_path}")
    assert "cls_token" in error.problem
    assert "save_for_hf" in error.next_step


# Weights files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pt", ".pth", ".th", ".safetensors"])
@pytest.mark.parametrize("shape", ["plain", "nested", "module."])
def test_weights_file_with_arch_is_the_model_that_was_saved(
    tmp_path: Path, ending: str, shape: str
) -> None:
    network = tiny()
    weights = network.state_dict()
    if shape == "module.":
        weights = {f"module.{key}": value for key, value in weights.items()}
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if shape == "nested" else weights, path)
    for arch in (TINY, f"timm:{TINY}"):
        loaded = load(str(path), arch=arch, n_classes=3)
        assert same_weights(loaded.network, network)
        assert loaded.spec == str(path)
        assert loaded.config is not None


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_weights_that_do_not_fit_name_the_keys_and_shapes(tmp_path: Path, ending: str) -> None:
    weights = tiny().state_dict()
    weights["head.extra"] = weights.pop("head.bias")
    path = tmp_path / f"weights{ending}"
    (save_file if ending == ".safetensors" else torch.save)(weights, path)
    error = fault(str(path), arch=TINY, n_classes=5)
    assert "1 key missing from the file (head.bias)" in error.problem
    assert "1 key unknown to the architecture (head.extra)" in error.problem
    assert "1 key of another shape (head.weight (3, 64) for (5, 64))" in error.problem
    assert "as many classes" in error.next_step


def test_weights_of_quite_another_network_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    save_file({f"layer{number}": torch.zeros(1) for number in range(9)}, tmp_path / "w.safetensors")
    problem = fault(str(tmp_path / "w.safetensors"), arch=TINY).problem
    assert "9 keys unknown to the architecture (layer0, layer1, layer2, layer3 and 5 more)" in problem


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"hello, this is no weights file\n" * 9),
    "noise": lambda path: path.write_bytes(bytes(range(23, 256)) * 4),
}


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_file_is_called_damaged(tmp_path: Path, ending: str, damage: str) -> None:
    path = tmp_path / f"weights{ending}"
    (save_file if ending == ".safetensors" else torch.save)(tiny().state_dict(), path)
    DAMAGES[damage](path)
    error = fault(str(path), arch=TINY)
    assert f"{path} is damaged or not a weights file" in error.problem
    assert "could run code" not in error.problem


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"net": {"a": torch.zeros(2)}}, {"a": 1}])
def test_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert "holds no state dict of tensors" in fault(str(tmp_path / "weights.pt"), arch=TINY).problem


class Touch:
    """A pickle of it wants to run `os.system`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("use", ["model", "checkpoint", "local-dir"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(
    tmp_path: Path, as_zip: bool, use: str
) -> None:
    content = {"state_dict": tiny().state_dict(), "extra": Touch(tmp_path / "ran")}
    save_for_hf(tiny(), str(tmp_path), safe_serialization=False)
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    if use == "model":
        error = fault(str(path), arch=TINY)
    elif use == "checkpoint":
        error = fault(FACTORY, checkpoint=path)
    else:
        error = fault(f"local-dir:{tmp_path}")
    assert not (tmp_path / "ran").exists()
    assert f"holds more than tensors ({os.name}.system) and could run code" in error.problem
    assert "safetensors" in error.next_step
    assert "weights_only" not in str(error)


def test_a_whole_pickled_model_is_refused_with_the_cure(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    error = fault(str(tmp_path / "model.pt"), arch=TINY)
    assert "torch.nn.modules.linear.Linear" in error.problem
    assert "state_dict()" in error.next_step


def test_options_that_would_be_passed_over_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    assert "holds weights, not an architecture" in fault(weights).problem
    assert "gone.pt does not exist" in fault(str(tmp_path / "gone.pt"), arch=TINY).problem
    assert "gone.pt does not exist" in fault(str(tmp_path / "gone.pt")).problem
    assert "--checkpoint goes with" in fault(f"timm:{TINY}", checkpoint=tmp_path / "w.pt").problem
    assert "--checkpoint goes with" in fault(weights, arch=TINY, checkpoint=tmp_path / "w.pt").problem
    assert "--arch goes with" in fault(f"timm:{TINY}", arch=TINY).problem
    assert "--arch goes with" in fault(FACTORY, arch=TINY).problem


# Factories ----------------------------------------------------------------------------------------

NET = """
    from __future__ import annotations
    from dataclasses import dataclass
    import torch
    from torch import nn
    SCALE = {scale}

    @dataclass
    class Config:
        width: int = 2

    class Net(nn.Module):
        def __init__(self, num_classes=4):
            super().__init__()
            self.config = Config()
            self.head = nn.Linear(12, num_classes)
        def forward(self, x):
            return SCALE * self.head(x.flatten(1))

    def make(num_classes=4):
        return Net(num_classes)

    def fixed():
        return Net(6)

    class Empty:
        pass

    def fails(): raise RuntimeError("first line\\nsecond line")
    def number(): return 3
    def picky(size): return Net(size)
    not_callable = 3
    def stops(): raise SystemExit("usage: net.py")
"""


def test_factory_by_module_path_takes_the_number_of_classes_where_it_can() -> None:
    loaded = load(FACTORY, n_classes=6)
    assert loaded.network(torch.zeros(1, 3, 8, 8)).shape == (1, 6)
    assert loaded.architecture == "small_cnn"
    assert load(FACTORY).network(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_factory_by_file_path_takes_the_number_of_classes_where_it_can(tmp_path: Path) -> None:
    path = python_file(tmp_path / "net.py", NET.format(scale=1))
    images = torch.zeros(1, 3, 2, 2)
    for name, n_outputs in {"make": 9, "Net": 9, "fixed": 6}.items():
        loaded = load(f"{path}:{name}", n_classes=9)
        assert loaded.network(images).shape == (1, n_outputs)
        assert loaded.architecture == name


def test_factory_files_of_one_name_do_not_mix_and_hide_no_module(tmp_path: Path) -> None:
    images, networks = torch.ones(1, 3, 2, 2), []
    for scale in (1, 2):
        (tmp_path / str(scale)).mkdir()
        path = python_file(tmp_path / str(scale) / "json.py", NET.format(scale=scale))
        networks.append(load(f"{path}:make", seed=0).network)
    torch.testing.assert_close(2 * networks[0](images), networks[1](images))
    import json

    assert json.loads("[1]") == [1]


def test_factory_file_can_import_a_file_beside_it(tmp_path: Path) -> None:
    python_file(tmp_path / "layers_of_a_test.py", "from torch import nn\nHead = nn.Linear")
    text = "from layers_of_a_test import Head\ndef make():\n    return Head(4, 2)"
    assert isinstance(load(f"{python_file(tmp_path / 'net.py', text)}:make").network, nn.Linear)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_checkpoint_gives_a_factory_its_weights(tmp_path: Path, ending: str) -> None:
    saved = load(FACTORY, seed=8).network
    path = tmp_path / f"weights{ending}"
    (save_file if ending == ".safetensors" else torch.save)(saved.state_dict(), path)
    assert not same_weights(load(FACTORY).network, saved)
    assert same_weights(load(FACTORY, checkpoint=path).network, saved)
    assert same_weights(load(str(path), arch=FACTORY).network, saved)
    problem = fault(FACTORY, checkpoint=path, n_classes=5).problem
    assert "head.weight (4, 64) for (5, 64)" in problem
    assert "does not exist" in fault(FACTORY, checkpoint=tmp_path / "gone.pt").problem


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "fails failed: RuntimeError: first line."),
        ("number", "number returns a value of type int, not a torch.nn.Module or a function from"),
        ("Empty", "Empty returns a value of type Empty, not a torch.nn.Module or a function from"),
        ("picky", "picky failed: TypeError"),
        ("stops", "stops failed: SystemExit: usage: net.py."),
        ("not_callable", "has no function 'not_callable'"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_factory_that_fails_or_returns_no_module_is_told(tmp_path: Path, name: str, message: str) -> None:
    path = python_file(tmp_path / "net.py", NET.format(scale=1))
    assert message in fault(f"{path}:{name}").problem


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no.such.module:make", "no.such.module cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:make", "nowhere.py does not exist"),
        (":make", "':make' does not name both a module and a function"),
        ("net.py:", "'net.py:' does not name both a module and a function"),
        ("builtins:dict", "builtins:dict returns a value of type dict, not a torch.nn.Module"),
    ],
)
def test_factory_that_cannot_be_imported_is_told(spec: str, message: str) -> None:
    assert message in fault(spec).problem


def test_factory_file_with_a_fault_of_its_own_is_told(tmp_path: Path) -> None:
    path = python_file(tmp_path / "net.py", "def make(:\n")
    assert "cannot be imported: SyntaxError" in fault(f"{path}:make").problem


def test_forward_of_a_loaded_factory_is_the_users_own(tmp_path: Path) -> None:
    network = load(f"{python_file(tmp_path / 'net.py', NET.format(scale=3))}:make").network
    images = torch.rand(2, 3, 2, 2)
    expected: Tensor = 3 * nn.functional.linear(images.flatten(1), network.head.weight, network.head.bias)
    torch.testing.assert_close(network(images), expected)
