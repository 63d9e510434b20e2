"""Classifier: pixels in [0,1] (B, C, H, W) to logits (B, K), with the model left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from kornia.enhance import Normalize
from torch import Tensor, nn

from shortcut_audit.errors import LogitsError, ModelError, SettingsError
from shortcut_audit.models.fingerprint import Fingerprint
from shortcut_audit.results.provenance import Preprocessing

__all__ = [
    "Classifier",
    "borrowed",
    "device_name",
    "is_out_of_memory",
    "pick_device",
    "seeded",
    "weights_digest",
]

# What every module has: weights, children and hooks, which are looked after by name.
_MODULE_FIELDS = frozenset(vars(nn.Module()))
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device a setting names; `auto` takes a CUDA GPU where there is one, else the CPU.

    Raises SettingsError when torch cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        unknown = str(error).startswith(("Expected one of", "Invalid device string"))
        told = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        reason = "torch knows no such device" if unknown else told
        raise SettingsError(
            f"Device {name!r} cannot be used: {reason}.",
            "Try `--device auto` or `--device cpu`.",
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """A name for provenance: the GPU's own, or the plain device type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


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
    layout: torch.memory_format

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) of `pixels` (B, C, H, W) in [0,1], on the classifier's device.

        Raises LogitsError when the answer is not a tensor of shape (B, K).
        """
        return self.answer(self.normalize(pixels))

    def answer(self, normalized: Tensor) -> Tensor:
        """Logits (B, K) of images that are normalised already."""
        inputs = normalized.contiguous(memory_format=self.layout)
        try:
            if self.autocast is None:
                logits = self.network(inputs)
            else:
                with torch.autocast(self.device.type, self.autocast):
                    logits = self.network(inputs)
        except Exception as error:  # a user's model may raise anything
            if is_out_of_memory(error):
                raise
            n_images, channels, height, width = inputs.shape
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise ModelError(
                f"The model cannot take {n_images} images of {channels} channels and"
                f" {height} x {width} pixels on {self.device}: {reason}.",
                "Check that model and data belong together, and --size, --device and --batch-size.",
            ) from error
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
    if not logits.is_floating_point():
        raise LogitsError(
            f"The model returns values of type {logits.dtype}, not floating-point logits.",
            "Give a model that answers with scores, not with the class it decides on.",
        )
    return logits


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers of torch start from `seed` inside, and go on as before afterwards.

    On the CPU and on every GPU that is in use already, or is about to be (`device`): seeding torch
    seeds them all.
    """
    in_use = torch.cuda.is_initialized() or (  # type: ignore[no-untyped-call]
        device is not None and device.type == "cuda"
    )
    gpus = list(range(torch.cuda.device_count())) if in_use else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield


@contextmanager
def borrowed(
    network: nn.Module,
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: str,
    seed: int,
    layout: torch.memory_format = torch.channels_last,
) -> Iterator[Classifier]:
    """A classifier over `network` for the length of a `with` block.

    Inside, the network is in eval mode, on `device`, in `layout` and under inference mode;
    afterwards mode, weights (the very tensors, where they were), attributes (caches and counters
    too), gradients and random state are as before, also after an exception. `seed` fixes what a
    model draws by itself.
    """
    half = _HALF.get(dtype)
    if half is torch.float16 and device.type == "cpu":
        raise SettingsError(
            "float16 does not run on a CPU.", "Use `--dtype float32` (or bfloat16) there."
        )
    precision = torch.float64 if dtype == "float64" else torch.float32
    modes = {m: m.training for m in network.modules() if hasattr(m, "training")}
    attributes = [_Attributes.of(module) for module in network.modules()]
    tensors = [*network.parameters(), *network.buffers()]
    homes = [tensor.data for tensor in tensors]
    # A scripted module shows its buffers through a view of torch's own, and swaps none of them.
    buffers = [(m, dict(m._buffers)) for m in network.modules() if isinstance(m._buffers, dict)]
    with ExitStack() as stack:
        stack.enter_context(seeded(seed, device))
        for held in attributes:
            stack.callback(held.restore)
        stack.callback(_give_back, modes, tensors, homes, buffers)
        network.eval()
        for parameter in network.parameters():
            parameter.data = _settled(parameter.data, device, precision, layout)
        for buffer in network.buffers():
            # Cloned: a model may count its calls in a buffer, in place.
            buffer.data = _settled(buffer.data, device, precision, layout).clone()
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
            layout=layout,
        )


@dataclass(frozen=True)
class _Attributes:
    """The plain attributes of a module: models keep caches and counters there, also in eval mode."""

    module: nn.Module
    held: dict[str, Any]
    content: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> _Attributes:
        plain = {k: v for k, v in vars(module).items() if k not in _MODULE_FIELDS}
        # Containers change in place; their content is held beside the reference.
        content = {k: v.copy() for k, v in plain.items() if type(v) in (dict, list, set)}
        return cls(module, plain, content)

    def restore(self) -> None:
        now = vars(self.module)
        for name in [k for k in now if k not in self.held and k not in _MODULE_FIELDS]:
            del now[name]
        for name, value in self.held.items():
            if name in self.content:
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(self.content[name])
            now[name] = value


def _settled(
    tensor: Tensor, device: torch.device, precision: torch.dtype, layout: torch.memory_format
) -> Tensor:
    """`tensor` on `device`, floats in `precision`, kernels in `layout`."""
    moved = tensor.to(device, precision) if tensor.is_floating_point() else tensor.to(device)
    return moved.contiguous(memory_format=layout if tensor.ndim == 4 else torch.contiguous_format)


def _give_back(
    modes: dict[nn.Module, bool],
    tensors: list[Tensor],
    homes: list[Tensor],
    buffers: list[tuple[nn.Module, dict[str, Tensor | None]]],
) -> None:
    for module, held in buffers:
        for name in set(module._buffers) - set(held):
            del module._buffers[name]
        module._buffers.update(held)
    for tensor, home in zip(tensors, homes, strict=True):
        tensor.data = home
    for module, training in modes.items():
        module.training = training


def weights_digest(network: nn.Module) -> str:
    """Digest of all that decides what a network answers, as far as Python can see it.

    Parameters and buffers (also those outside the state dict), the module tree with its plain
    attributes and forward hooks, and the compiled code of every module class that is neither
    torch's nor timm's (whose versions are part of each shard's key), with the user's own functions
    and constants that this code names. Raises ModelError for layers that have no weights yet.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise ModelError(
            "The model's weights lie on torch's meta device, and so have no values.",
            "Load its weights before the audit.",
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise ModelError(
            "The model has lazy layers that were never called, and so no weights yet.",
            "Load its weights, or call it once on a batch of the right shape.",
        )
    fingerprint = Fingerprint()
    for name, module in network.named_modules():
        fingerprint.text(f"{name} {module.extra_repr()}")
        fingerprint.value(type(module), "class")
        for key, value in sorted(vars(module).items()):
            if key not in _NO_SETTINGS:
                fingerprint.value(value, key)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            fingerprint.value(list(hooks.values()), "hooks")
        if isinstance(module, torch.jit.ScriptModule):
            fingerprint.text(str(module.code))
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        fingerprint.value(tensor, name)
    return fingerprint.digest()


# What every module has; the weights and children among them are walked by name. And the records
# that timm keeps of a model's origin: the preprocessing taken from them has its own key.
_NO_SETTINGS = {*_MODULE_FIELDS, "pretrained_cfg", "default_cfg", "_model_args"}


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
