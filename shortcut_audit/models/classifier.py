"""Classifier: pixels in [0,1] (B, C, H, W) to logits (B, K), with the model left as it was found."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from kornia.enhance import Normalize
from torch import Tensor, nn

from shortcut_audit.errors import LogitsError, ModelError, SettingsError
from shortcut_audit.results.provenance import Preprocessing

__all__ = ["Classifier", "borrowed", "device_name", "pick_device", "weights_digest"]

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device a setting names; `auto` takes a CUDA GPU where there is one, else the CPU.

    Raises SettingsError when torch cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"Device {name!r} cannot be used: {str(error).splitlines()[0].rstrip('.')}.",
            "Try `--device auto` or `--device cpu`.",
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """A name for provenance: the GPU's own, or the plain device type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass(frozen=True)
class Classifier:
    """A network on a device, with the normalisation that stands before it.

    Made by `borrowed`, and good only inside it. `n_outputs` is what the network answered on real
    images. `dtype` is that of the pixels; half precision runs under autocast (`autocast`).
    """

    network: nn.Module
    normalize: nn.Module
    device: torch.device
    dtype: torch.dtype
    autocast: torch.dtype | None
    mean: Tensor
    std: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) of `pixels` (B, C, H, W) in [0,1], on the classifier's device.

        Raises LogitsError when the answer is not a tensor of shape (B, K).
        """
        return self.answer(self.normalize(pixels))

    def answer(self, normalized: Tensor) -> Tensor:
        """Logits (B, K) of images that are normalised already."""
        inputs = normalized.contiguous(memory_format=torch.channels_last)
        if self.autocast is None:
            logits = self.network(inputs)
        else:
            with torch.autocast(self.device.type, self.autocast):
                logits = self.network(inputs)
        return _checked(logits, len(inputs))


def _checked(logits: Any, n_images: int) -> Tensor:
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise LogitsError(
            f"The model returns a {kind}, not a tensor of logits.",
            "Give a model (or a `module:factory`) whose forward returns one (batch, outputs) tensor.",
        )
    if logits.ndim != 2 or len(logits) != n_images:
        raise LogitsError(
            f"The model returns shape {tuple(logits.shape)} for {n_images} images,"
            f" not ({n_images}, outputs).",
            "Give a classifier with its head, or wrap the model so that it pools to one row an image.",
        )
    return logits


@contextmanager
def borrowed(
    network: nn.Module, preprocessing: Preprocessing, device: torch.device, dtype: str, seed: int
) -> Iterator[Classifier]:
    """A classifier over `network` for the length of a `with` block.

    Inside, the network is in eval mode, on `device`, in channels-last layout and under inference
    mode; afterwards mode, weights (the very tensors, where they were), gradients and random state
    are as before, also after an exception. `seed` fixes what a model draws by itself.
    """
    half = _HALF.get(dtype)
    if half is torch.float16 and device.type == "cpu":
        raise SettingsError(
            "float16 does not run on a CPU.", "Use `--dtype float32` (or bfloat16) there."
        )
    precision = torch.float64 if dtype == "float64" else torch.float32
    modes = {module: module.training for module in network.modules()}
    tensors = [*network.parameters(), *network.buffers()]
    homes = [tensor.data for tensor in tensors]
    buffers = [(module, dict(module._buffers)) for module in network.modules()]
    gpus = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.callback(_give_back, modes, tensors, homes, buffers)
        torch.manual_seed(seed)
        network.eval()
        for parameter in network.parameters():
            parameter.data = _settled(parameter.data, device, precision)
        for buffer in network.buffers():
            # Cloned: a model may count its calls in a buffer, in place.
            buffer.data = _settled(buffer.data, device, precision).clone()
        mean = torch.tensor(preprocessing.mean, device=device, dtype=precision)
        std = torch.tensor(preprocessing.std, device=device, dtype=precision)
        stack.enter_context(torch.inference_mode())
        yield Classifier(
            network=network,
            normalize=Normalize(mean, std).to(device),
            device=device,
            dtype=precision,
            autocast=half,
            mean=mean,
            std=std,
        )


def _settled(tensor: Tensor, device: torch.device, precision: torch.dtype) -> Tensor:
    """`tensor` on `device`, floats in `precision`, kernels in channels-last layout."""
    moved = tensor.to(device, precision) if tensor.is_floating_point() else tensor.to(device)
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return moved.contiguous(memory_format=layout)


def _give_back(
    modes: dict[nn.Module, bool],
    tensors: list[Tensor],
    homes: list[Tensor],
    buffers: list[tuple[nn.Module, dict[str, Tensor | None]]],
) -> None:
    for module, held in buffers:
        module._buffers.update(held)
    for tensor, home in zip(tensors, homes, strict=True):
        tensor.data = home
    for module, training in modes.items():
        module.training = training


@dataclass
class _Hasher:
    state: Any = field(default_factory=hashlib.sha256)

    def text(self, value: str) -> None:
        self.state.update(value.encode())
        self.state.update(b"\0")

    def tensor(self, name: str, value: Tensor) -> None:
        self.text(f"{name} {value.dtype} {tuple(value.shape)}")
        flat = value.detach().cpu().contiguous().reshape(-1)
        self.state.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")


def weights_digest(network: nn.Module) -> str:
    """Digest of all that decides what a network answers, as far as Python can see it.

    Parameters and buffers (also those outside the state dict), the module tree with its plain
    settings, and the source of every module class that is neither torch's nor timm's (whose
    versions are part of each shard's key).
    """
    hasher = _Hasher()
    for name, module in network.named_modules():
        kind = type(module)
        hasher.text(f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}")
        for key, value in sorted(vars(module).items()):
            if key != "training" and isinstance(value, bool | int | float | str | tuple | type(None)):
                hasher.text(f"{key}={value!r}")
    for kind in sorted({type(module) for module in network.modules()}, key=lambda k: k.__qualname__):
        if kind.__module__.split(".")[0] not in {"torch", "timm", "torchvision"}:
            try:
                hasher.text(inspect.getsource(kind))
            except (OSError, TypeError):
                hasher.text("no source")
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        hasher.tensor(name, tensor)
    return str(hasher.state.hexdigest())


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


def first_layer_channels(network: nn.Module) -> int | None:
    """Image channels that the first convolution takes; None without a convolution."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return int(module.in_channels)
    return None


def require_outputs(n_outputs: int, n_classes: int, spec: str) -> None:
    """Raise ModelError when a model with `n_outputs` cannot name `n_classes` classes one to one."""
    if n_outputs != n_classes:
        raise ModelError(
            f"The model has {n_outputs} outputs and the data {n_classes} classes ({spec}).",
            "Give images of every class, or name the model's outputs in order, one a line, with"
            " --output-names FILE.",
        )
