"""ONNX files as models, run by onnxruntime (extra `onnx`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shortcut_audit.errors import LogitsError, MissingExtraError, ModelError

__all__ = ["OnnxNetwork", "onnx_config"]

_FLOATS = {"tensor(float)", "tensor(float16)", "tensor(double)"}
_FLOAT_TYPES = {1, 10, 11, 16}  # TensorProto's float, float16, double, bfloat16
_CUDA = "CUDAExecutionProvider"


class OnnxNetwork(nn.Module):
    """The graph of an ONNX file as a module: images (B, C, H, W), float32, to logits (B, K).

    Any number of images is taken: a graph with a batch size of its own (`fixed_batch`) gets them in
    portions, the last one filled up. `image_shape` (C, H, W) has None for what the graph leaves
    open. It computes in the precision it was exported with, on as many threads as torch uses, on
    the device of the images. There are no gradients.

    `file_digest`: SHA-256 over the file, and after it the files of weights it refers to, in order of
    their names (as of `cat FILE DATA | sha256sum`). `n_weights`: float numbers in its constants,
    statistics of batch normalisation among them.

    Raises MissingExtraError without onnxruntime, ModelError for graphs that are no such classifier.
    """

    forward_only = "it is an ONNX model, which onnxruntime runs forward only"

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise ModelError(f"ONNX file {path} does not exist.", "Check the path.")
        self.sessions = _Sessions(path)
        session = self.sessions.on(torch.device("cpu"))
        tensors = list(_tensors(_graph(path)))
        self.file_digest = _file_digest(path, tensors)
        self.n_weights: int = sum(math.prod(t.dims) for t in tensors if t.data_type in _FLOAT_TYPES)
        self.input_name, self.fixed_batch, self.image_shape = _input_of(session, path)
        self.output_name = _output_of(session, path)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K), on the device of `images` (B, C, H, W)."""
        self._check(images)
        session = self.sessions.on(images.device)
        pixels = images.detach().to(torch.float32).contiguous()
        size = self.fixed_batch or max(len(pixels), 1)
        answers = [self._answer(session, portion, size) for portion in torch.split(pixels, size)]
        return torch.cat([torch.from_numpy(answer) for answer in answers]).to(images.device)

    def _answer(self, session: Any, portion: Tensor, size: int) -> NDArray[Any]:
        n_images = len(portion)
        if n_images < size:
            portion = torch.cat([portion, portion[-1:].expand(size - n_images, -1, -1, -1)])
        if portion.device.type == "cuda":
            logits = self._run_on_gpu(session, portion)
        else:
            (logits,) = session.run([self.output_name], {self.input_name: portion.numpy()})
        if logits.shape[:1] != (size,):
            raise LogitsError(
                f"The ONNX graph answers with shape {logits.shape} for {size} images.",
                "Export it so that the output has one row an image, with a dynamic batch size.",
            )
        return np.asarray(logits[:n_images])

    def _run_on_gpu(self, session: Any, portion: Tensor) -> NDArray[Any]:
        """Reads the pixels where they lie; the few logits come by way of the host."""
        binding = session.io_binding()
        binding.bind_input(
            name=self.input_name,
            device_type="cuda",
            device_id=_index(portion.device),
            element_type=np.float32,
            shape=tuple(portion.shape),
            buffer_ptr=portion.data_ptr(),
        )
        binding.bind_output(self.output_name)
        # onnxruntime works on a stream of its own, which does not wait for torch's.
        torch.cuda.current_stream(portion.device).synchronize()
        session.run_with_iobinding(binding)
        (logits,) = binding.copy_outputs_to_cpu()
        return np.asarray(logits)

    def _check(self, images: Tensor) -> None:
        if images.dtype == torch.float64:
            raise ModelError(
                "An ONNX graph computes in the precision it was exported with, not in float64.",
                "Leave --dtype out.",
            )
        shape = tuple(images.shape[1:])
        if any(own not in (None, n) for own, n in zip(self.image_shape, shape, strict=True)):
            raise ModelError(
                f"The ONNX graph takes images of {_by(self.image_shape)} (channels, height, width),"
                f" and gets {_by(shape)}.",
                "Leave --size out, or export the graph for another size.",
            )

    def extra_repr(self) -> str:
        """The file."""
        return str(self.sessions.path)


def onnx_config(network: OnnxNetwork) -> dict[str, Any] | None:
    """What a graph says of the images it wants, as a timm record; None where it leaves them open.

    It says nothing of a crop: images of another size are shrunk whole. Nor of a normalisation.
    """
    if None in network.image_shape:
        return None
    return {"input_size": network.image_shape, "crop_pct": 1.0}


@dataclass
class _Sessions:
    """The one session in use: made when first needed on a device, left behind when copied."""

    path: Path
    made: dict[tuple[str, int], Any] = field(default_factory=dict)

    def on(self, device: torch.device) -> Any:
        key = (f"{device.type}:{_index(device)}", torch.get_num_threads())
        if key not in self.made:
            self.made = {key: _open(self.path, device)}
        return self.made[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "made": {}}


def _open(path: Path, device: torch.device) -> Any:
    runtime, _ = _packages()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: they are raised as well
    # Threads that wait actively would take the processor from torch, whose turn comes in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(str(path), options, providers=_providers(runtime, device))
    except ModelError:
        raise
    except Exception as error:  # onnxruntime has an error class for each of its status codes
        raise ModelError(
            f"onnxruntime cannot open {path}: {_plain(error)}.",
            "Check that the file is complete, with its files of external weights beside it.",
        ) from error
    if device.type == "cuda" and _CUDA not in session.get_providers():
        raise _without_cuda()
    return session


def _providers(runtime: Any, device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if device.type != "cuda":
        raise ModelError(f"ONNX models do not run on {device.type} here.", "Give --device cpu.")
    if _CUDA not in runtime.get_available_providers():
        raise _without_cuda()
    return [(_CUDA, {"device_id": _index(device)}), "CPUExecutionProvider"]


def _without_cuda() -> ModelError:
    return ModelError(
        "The installed onnxruntime cannot use the GPU.",
        "Install onnxruntime-gpu in its place, or give --device cpu.",
    )


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"ONNX models need onnx and onnxruntime, and {error.name or 'one of them'} is not installed.",
            "Install them with: pip install 'shortcut-audit[onnx]'",
        ) from error
    return onnxruntime, onnx


def _input_of(session: Any, path: Path) -> tuple[str, int | None, tuple[int | None, ...]]:
    """Name, batch size and image shape of the one input; None for what is open."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(repr(entry.name) for entry in inputs) or "none"
        raise ModelError(
            f"{path} has {len(inputs)} inputs ({names}), not images alone.",
            "Export the graph with the images as its only input.",
        )
    (entry,) = inputs
    if entry.type != "tensor(float)":
        raise ModelError(
            f"{path} takes {entry.type}, not float32 images (tensor(float)).",
            "Export the graph from where it has float images, without the conversion before it.",
        )
    shape = [n if isinstance(n, int) and n > 0 else None for n in entry.shape]
    if len(shape) != 4:
        raise ModelError(
            f"{path} takes an input of shape {list(entry.shape)}, not (batch, channels, height, width).",
            "Export the graph with images as its input.",
        )
    if shape[3] in {1, 3, 4} and shape[1] not in {1, 3, 4}:
        raise ModelError(
            f"{path} takes images of shape {list(entry.shape)}, with the channels last.",
            "Export the graph with the channels first: (batch, channels, height, width).",
        )
    return str(entry.name), shape[0], tuple(shape[1:])


def _output_of(session: Any, path: Path) -> str:
    """Name of the one output of floats that has, or may have, one row an image."""
    outputs = session.get_outputs()
    # A graph whose shapes are not known says so with an empty shape.
    rows = [o for o in outputs if o.type in _FLOATS and len(o.shape) == 2]
    rows = rows or [o for o in outputs if o.type in _FLOATS and not o.shape and len(outputs) == 1]
    if len(rows) != 1:
        shown = "; ".join(f"{o.name!r} {o.type} {list(o.shape)}" for o in outputs)
        raise ModelError(
            f"{path} has {len(rows) or 'no'} outputs that could be logits (floats of shape (batch,"
            f" outputs)); it has {shown}.",
            "Export the graph with the logits as its only output.",
        )
    return str(rows[0].name)


def _graph(path: Path) -> Any:
    _, onnx = _packages()
    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf has error classes of its own
        raise ModelError(f"{path} is no ONNX file: {_plain(error)}.", "Export it again.") from error


def _file_digest(path: Path, tensors: list[Any]) -> str:
    places = {e.value for tensor in tensors for e in tensor.external_data if e.key == "location"}
    digest = hashlib.sha256()
    for file in [path, *(path.parent / place for place in sorted(places))]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _tensors(graph: Any) -> Iterator[Any]:
    """The constants of a graph and of the graphs inside it (branches, loops)."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from _tensors(inner)


def _index(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return torch.cuda.current_device() if device.index is None else device.index


def _by(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if n is None else str(n) for n in shape)


def _plain(error: BaseException) -> str:
    """The first line of an error, without onnxruntime's own preface."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].rpartition("[ONNXRuntimeError] : ")[2]
    return text.rstrip(". ")[:300]
