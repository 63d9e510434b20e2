"""ONNX files: the logits of their torch twins, any batch, and a sentence for what is no classifier."""

from __future__ import annotations

import copy
import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import random_images
from lending import CPU, lend
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import LogitsError, MissingExtraError, ModelError
from shortcut_audit.models.classifier import weights_digest, why_no_gradient
from shortcut_audit.models.loading import LoadedModel, ModelRequest, load_model, preprocessing_of
from shortcut_audit.models.onnx import OnnxNetwork
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest

FLOAT, DYNAMIC = TensorProto.FLOAT, ("batch", 3, "height", "width")


def twin(seed: int = 0) -> nn.Module:
    """What `save_twin` writes, in torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
        network(torch.rand(9, 3, 8, 8))
        return network.eval()


def save_twin(
    path: Path,
    shape: tuple[Any, ...] = DYNAMIC,
    *,
    seed: int = 0,
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    more: list[Any] | None = None,
    **saving: Any,
) -> Path:
    """The graph of `twin`, built by hand. `inputs`, `outputs`, `more` nodes overrule the plain ones."""
    conv, norm, _, _, _, head = twin(seed)
    weights = {
        "conv.w": conv.weight,
        "conv.b": conv.bias,
        "norm.w": norm.weight,
        "norm.b": norm.bias,
        "norm.m": norm.running_mean,
        "norm.v": norm.running_var,
        "head.w": head.weight,
        "head.b": head.bias,
    }
    nodes = [
        helper.make_node("Conv", ["images", "conv.w", "conv.b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "norm.w", "norm.b", "norm.m", "norm.v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head.w", "head.b"], ["logits"], transB=1),
        *(more or []),
    ]
    graph = helper.make_graph(
        nodes,
        "twin",
        inputs or [value("images", shape)],
        outputs or [value("logits", (shape[0], 3))],
        [numpy_helper.from_array(w.detach().numpy(), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path), **saving)
    return path


def value(name: str, shape: tuple[Any, ...] | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def one_node(path: Path, op: str, images: Any, logits: Any, **attributes: Any) -> Path:
    node = helper.make_node(op, ["images"], ["logits"], **attributes)
    graph = helper.make_graph([node], "one", [images], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


# Answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_images", [1, 3, 4, 9])
@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_logits_are_those_of_the_torch_twin_for_any_number_of_images(
    tmp_path: Path, batch: Any, n_images: int
) -> None:
    network = OnnxNetwork(save_twin(tmp_path / "net.onnx", (batch, 3, 6, 7)))
    assert network.fixed_batch == (batch if isinstance(batch, int) else None)
    assert network.image_shape == (3, 6, 7)
    images = torch.rand(n_images, 3, 6, 7)
    with lend(network) as classifier, lend(twin()) as torch_twin:
        answer = classifier(images)
        torch.testing.assert_close(answer, torch_twin(images))
        with classifier.gradients():
            torch.testing.assert_close(classifier(images.requires_grad_()), answer)
        reason = "it is an ONNX model, which onnxruntime runs forward only"
        assert why_no_gradient(classifier, (3, 6, 7)) == reason


def test_images_of_any_size_where_the_graph_leaves_it_open(tmp_path: Path) -> None:
    network = OnnxNetwork(save_twin(tmp_path / "net.onnx"))
    assert network.image_shape == (3, None, None)
    with lend(network) as classifier, lend(twin()) as torch_twin:
        for shape in [(6, 7), (11, 5)]:
            images = torch.rand(2, 3, *shape)
            torch.testing.assert_close(classifier(images), torch_twin(images))


def test_half_precision_leaves_the_graph_in_its_own_and_double_is_refused(tmp_path: Path) -> None:
    network, images = OnnxNetwork(save_twin(tmp_path / "net.onnx")), torch.rand(2, 3, 6, 7)
    with lend(network) as classifier:
        exact = classifier(images)
    with lend(network, "bfloat16") as classifier:
        assert torch.equal(classifier(images), exact)
    with lend(network, "float64") as classifier, pytest.raises(ModelError, match="not in float64"):
        classifier(images.double())


def test_copies_open_a_session_of_their_own_and_threads_are_torchs(tmp_path: Path) -> None:
    network, images = OnnxNetwork(save_twin(tmp_path / "net.onnx")), torch.rand(2, 3, 6, 7)
    expected = network(images)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert not other.sessions.made
        assert torch.equal(other(images), expected)
    threads = torch.get_num_threads()
    session = network.sessions.on(CPU)
    assert session.get_session_options().intra_op_num_threads == threads
    assert network.sessions.on(CPU) is session
    try:
        torch.set_num_threads(threads + 1)
        other = network.sessions.on(CPU)
    finally:
        torch.set_num_threads(threads)
    assert other.get_session_options().intra_op_num_threads == threads + 1


def test_the_one_output_with_a_row_an_image_is_taken(tmp_path: Path) -> None:
    outputs = [
        value("p", ("batch", 6, 1, 1)),
        value("logits", ("batch", 3)),
        value("best", ("batch",), 7),
    ]
    more = [helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0)]
    network = OnnxNetwork(save_twin(tmp_path / "net.onnx", outputs=outputs, more=more))
    assert network.output_name == "logits"
    assert network(torch.rand(2, 3, 6, 7)).shape == (2, 3)


# Audits -------------------------------------------------------------------------------------------


def audited(loaded: LoadedModel) -> Any:
    images = source_from(random_images(6, 3, (3, 8, 9), seed=4), ["a", "b", "c"])
    # Small and odd batches: neither divides a portion of the graph.
    settings = settings_from({"batch_size": 7, "kept_share": 0.2, "device": "cpu"})
    return run_audit(AuditRequest(model=loaded, source=images, settings=settings, command="test"))


@pytest.mark.parametrize("shape", [("batch", 3, 8, 9), (4, 3, 8, 9)])
def test_an_audit_finds_what_it_finds_in_the_torch_twin(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    path = save_twin(tmp_path / "net.onnx", shape)
    result = audited(load_model(ModelRequest(spec=str(path))))
    expected = audited(LoadedModel(twin(), "twin", "twin", None))
    importance = [name for name in expected.arrays if "importance" in name]
    assert importance
    for name in importance:
        np.testing.assert_allclose(result.arrays[name], expected.arrays[name], atol=1e-4, err_msg=name)
    model = result.provenance.model
    assert model.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (model.architecture, model.n_outputs) == ("net", 3)
    # Running mean and variance are constants of the graph like any other.
    assert model.n_parameters == expected.provenance.model.n_parameters + 2 * 6


# Loading ------------------------------------------------------------------------------------------


def test_size_of_the_graph_is_that_of_the_images_and_normalisation_the_users(tmp_path: Path) -> None:
    loaded = load_model(ModelRequest(spec=str(save_twin(tmp_path / "net.onnx", ("n", 3, 32, 48)))))
    pre = preprocessing_of(loaded, (3, 64, 64))
    assert (pre.channels, pre.height, pre.width) == (3, 32, 48)
    assert (pre.geometry, pre.crop_pct) == ("resize and crop", 1.0)
    assert (pre.mean, pre.std) == ((0.0,) * 3, (1.0,) * 3)
    assert "own record of its size; else nobody: pixels in [0,1], not normalised" in pre.source
    assert preprocessing_of(loaded, (3, 32, 48), mean=(0.5,)).mean == (0.5,) * 3


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), ("n", 1, None, None)])
def test_a_graph_that_leaves_the_size_open_takes_that_of_the_images(
    tmp_path: Path, shape: tuple[Any, ...]
) -> None:
    path = one_node(tmp_path / "net.onnx", "Flatten", value("images", shape), value("logits", ("n", "k")))
    loaded = load_model(ModelRequest(spec=str(path)))
    assert loaded.config is None
    pre = preprocessing_of(loaded, (3, 20, 24))
    assert (pre.channels, pre.height, pre.width) == (shape[1], 20, 24)
    with pytest.raises(ModelError, match="does not say which size it takes"):
        preprocessing_of(loaded, None)


def test_digest_is_that_of_the_file_and_of_its_files_of_weights(tmp_path: Path) -> None:
    plain = save_twin(tmp_path / "net.onnx")
    assert weights_digest(OnnxNetwork(plain)) == hashlib.sha256(plain.read_bytes()).hexdigest()
    other = weights_digest(OnnxNetwork(save_twin(tmp_path / "other.onnx", seed=1)))
    path = save_twin(
        tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    data = tmp_path / "weights.bin"
    network = OnnxNetwork(path)
    expected = hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()
    assert weights_digest(network) == expected
    assert weights_digest(nn.Sequential(network)) != weights_digest(nn.Sequential(OnnxNetwork(plain)))
    images = torch.rand(2, 3, 6, 7)
    torch.testing.assert_close(network(images), OnnxNetwork(plain)(images))
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    assert (
        len({weights_digest(OnnxNetwork(path)), expected, other, weights_digest(OnnxNetwork(plain))}) == 4
    )


def test_digest_sees_the_files_that_a_branch_refers_to(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones(2, dtype=np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, location="inner.bin")
    weight.ClearField("raw_data")
    constant = helper.make_node("Constant", [], ["y"], value=weight)
    branch = helper.make_graph([constant], "inner", [], [value("y", (2,))])
    node = helper.make_node("If", ["c"], ["logits"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node], "outer", [value("c", (), TensorProto.BOOL)], [value("logits", (2,))]
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    (tmp_path / "inner.bin").write_bytes(b"12345678")
    from shortcut_audit.models.onnx import _file_digest, _graph, _tensors

    tensors = list(_tensors(_graph(path)))
    assert _file_digest(path, tensors) == hashlib.sha256(path.read_bytes() + b"12345678").hexdigest()


IMAGES, LOGITS = value("images", ("n", 3, 8, 8)), value("logits", ("n", 192))
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no floats": ({"images": value("images", ("n", 3, 8, 8), 2)}, r"takes tensor\(uint8\), not float32"),
    "doubles": ({"images": value("images", ("n", 3, 8, 8), 11)}, r"takes tensor\(double\), not float32"),
    "channels last": (
        {"images": value("images", ("n", 8, 8, 3))},
        "'n', 8, 8, 3], with the channels last",
    ),
    "no images": ({"images": value("images", ("n", 192))}, r"of shape \['n', 192\], not \(batch, ch"),
    "no row": (
        {"op": "Relu", "logits": value("logits", ("n", 3, 8, 8))},
        "has no outputs .* 'logits' tens",
    ),
    "classes": (
        {"op": "Shape", "logits": value("logits", (4,), 7)},
        r"has no outputs .*tensor\(int64\) \[4\]",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_graph_that_is_no_classifier_of_images_is_told(tmp_path: Path, name: str) -> None:
    changes, message = FAULTS[name]
    parts = {"op": "Flatten", "images": IMAGES, "logits": LOGITS, **changes}
    if parts["images"].type.tensor_type.elem_type != FLOAT:
        parts["logits"] = value("logits", ("n", 192), parts["images"].type.tensor_type.elem_type)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelRequest(spec=str(one_node(tmp_path / "net.onnx", **parts))))
    assert "\n" not in caught.value.problem
    assert "Export the graph" in caught.value.next_step


def test_two_inputs_or_two_rows_of_floats_are_told_by_name(tmp_path: Path) -> None:
    inputs = [value("images", DYNAMIC), value("age", ("batch", 1))]
    with pytest.raises(ModelError, match=r"has 2 inputs \('images', 'age'\), not images alone"):
        OnnxNetwork(save_twin(tmp_path / "net.onnx", inputs=inputs))
    outputs = [value("logits", ("batch", 3)), value("f", ("batch", 6))]
    with pytest.raises(ModelError, match=r"has 2 outputs that could be logits .*'logits'.*'f' tensor"):
        OnnxNetwork(save_twin(tmp_path / "net.onnx", outputs=outputs))


def test_images_that_the_graph_does_not_take_and_rows_that_are_none(tmp_path: Path) -> None:
    path = save_twin(tmp_path / "net.onnx", ("n", 3, 8, 8))
    with (
        lend(OnnxNetwork(path)) as classifier,
        pytest.raises(ModelError, match=r"takes images of 3 x 8 x 8 .*, and gets 3 x 9 x 8"),
    ):
        classifier(torch.rand(2, 3, 9, 8))
    images, logits = value("images", ("n", 3, "h", "w")), value("logits", ("m", "k"))
    path = one_node(tmp_path / "flat.onnx", "Flatten", images, logits, axis=2)
    with (
        lend(OnnxNetwork(path)) as classifier,
        pytest.raises(LogitsError, match=r"answers with shape \(6, 42\) for 2 images"),
    ):
        classifier(torch.rand(2, 3, 6, 7))


def test_files_that_cannot_be_opened_and_options_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"onnxruntime cannot open .*net.onnx: ") as caught:
        load_model(ModelRequest(spec=str(path)))
    assert "\n" not in caught.value.problem
    assert "ONNXRuntimeError" not in caught.value.problem
    with pytest.raises(ModelError, match="missing.onnx does not exist"):
        load_model(ModelRequest(spec=str(tmp_path / "missing.onnx")))
    for option in ({"arch": "resnet18"}, {"checkpoint": path}):
        with pytest.raises(ModelError, match="is none"):
            load_model(ModelRequest(spec=str(path), **option))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_packages_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    path = save_twin(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"and {package} is not installed") as caught:
        load_model(ModelRequest(spec=str(path)))
    assert "pip install 'shortcut-audit[onnx]'" in caught.value.next_step


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_device_that_onnxruntime_does_not_serve_is_told(tmp_path: Path) -> None:
    network = OnnxNetwork(save_twin(tmp_path / "net.onnx"))
    with pytest.raises(ModelError, match="ONNX models do not run on mps here") as caught:
        network.sessions.on(torch.device("mps"))
    assert "--device cpu" in caught.value.next_step
    with pytest.raises(ModelError, match="onnxruntime cannot use the GPU"):
        network.sessions.on(torch.device("cuda:0"))


def test_a_graph_inside_a_module_of_the_users(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph = OnnxNetwork(save_twin(tmp_path / "net.onnx"))

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.graph(images) * 2
            return logits

    with lend(Scaled()) as classifier:
        assert "onnxruntime runs forward only" in why_no_gradient(classifier, (3, 6, 7))
        assert classifier(torch.rand(2, 3, 6, 7)).shape == (2, 3)
