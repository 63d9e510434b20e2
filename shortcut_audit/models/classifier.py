"""Classifier: pixels in [0,1] (B, C, H, W) to logits (B, K), with the model left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from kornia.enhance import Normalize
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shortcut_audit.errors import AuditError, LogitsError, ModelError, SettingsError
from shortcut_audit.models.as_found import MODULE_FIELDS, as_found, shed_inference_tensors
from shortcut_audit.models.callables import CallableNetwork
from shortcut_audit.models.fingerprint import Fingerprint
from shortcut_audit.models.onnx import OnnxNetwork
from shortcut_audit.results.provenance import Preprocessing

__all__ = [
    "Classifier",
    "borrowed",
    "device_name",
    "is_out_of_memory",
    "pick_device",
    "seeded",
    "weights_digest",
    "why_no_gradient",
]

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

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Gradients of logits with respect to pixels can be taken inside, although an audit runs
        under inference mode: `torch.autograd.grad(classifier(x)[:, k].sum(), x)`.

        Autograd takes no tensor that was made under inference mode: clone inside the block what
        comes from outside (`x = pixels.clone().requires_grad_()`). Not every model has gradients
        (`why_no_gradient`).
        """
        with torch.inference_mode(False), torch.enable_grad():
            shed_inference_tensors(self.network)
            yield

    def answer(self, normalized: Tensor) -> Tensor:
        """Logits (B, K) of images that are normalised already."""
        inputs = normalized.contiguous(memory_format=self.layout)
        try:
            if self.autocast is None:
                logits = self.network(inputs)
            else:
                with torch.autocast(self.device.type, self.autocast):
                    logits = self.network(inputs)
        except AuditError:  # of a model of ours, which says what is wrong itself
            raise
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

    Inside, the network is in eval mode, on `device`, in `layout` and under inference mode, and no
    weight of it asks for a gradient (`Classifier.gradients` gives those of the pixels); afterwards
    mode, weights (the very tensors, where they were), their flags and gradients, attributes (caches
    and counters too) and random state are as before, also after an exception. `seed` fixes what a
    model draws by itself.
    """
    half = _HALF.get(dtype)
    if half is torch.float16 and device.type == "cpu":
        raise SettingsError(
            "float16 does not run on a CPU.", "Use `--dtype float32` (or bfloat16) there."
        )
    precision = torch.float64 if dtype == "float64" else torch.float32
    with ExitStack() as stack:
        stack.enter_context(seeded(seed, device))
        stack.enter_context(as_found(network))
        # Whatever mode the caller is in: autograd takes no tensor made under inference mode.
        with torch.inference_mode(False):
            network.eval()
            shed_inference_tensors(network)
            for parameter in network.parameters():
                parameter.data = _settled(parameter.data, device, precision, layout)
            for buffer in network.buffers():
                # Cloned: a model may count its calls in a buffer, in place.
                buffer.data = _settled(buffer.data, device, precision, layout).clone()
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.is_leaf:
                    tensor.requires_grad_(False)
            mean = torch.tensor(preprocessing.mean, device=device, dtype=precision)
            std = torch.tensor(preprocessing.std, device=device, dtype=precision)
            normalize = Normalize(mean, std).to(device)
        stack.enter_context(torch.inference_mode())
        yield Classifier(
            network=network,
            normalize=normalize,
            device=device,
            dtype=precision,
            autocast=half,
            mean=mean,
            std=std,
            layout=layout,
        )


def _settled(
    tensor: Tensor, device: torch.device, precision: torch.dtype, layout: torch.memory_format
) -> Tensor:
    """`tensor` on `device`, floats in `precision`, kernels in `layout`."""
    moved = tensor.to(device, precision) if tensor.is_floating_point() else tensor.to(device)
    return moved.contiguous(memory_format=layout if tensor.ndim == 4 else torch.contiguous_format)


def why_no_gradient(classifier: Classifier, shape: tuple[int, int, int]) -> str:
    """Why no gradient of the logits with respect to the pixels can be taken; "" where it can.

    `shape`: (C, H, W) of the images to come. A real backward pass is made on two images that are
    not constant, in the classifier's precision, through a random mixture of all logits. Gradients
    that are exactly zero everywhere count as none: nothing could be told from them. The answer is
    one plain clause; the model and the random state are left as they are.
    """
    reasons = (getattr(module, "forward_only", None) for module in classifier.network.modules())
    stated = next((reason for reason in reasons if isinstance(reason, str)), None)
    if stated is not None:
        return stated
    with seeded(0, classifier.device), as_found(classifier.network), classifier.gradients():
        for buffer in classifier.network.buffers():
            buffer.data = buffer.data.clone()
        try:
            return _gradient_fault(classifier, shape)
        except Exception as error:  # a user's model may raise anything
            if is_out_of_memory(error):
                return "memory does not hold its backward pass"
            cause = error.__cause__ if isinstance(error, ModelError) and error.__cause__ else error
            if "numpy() on" in str(cause):
                return "it answers through numpy, which keeps no gradient"
            told = str(cause).strip().splitlines()[0].rstrip(".") if str(cause).strip() else ""
            return f"its gradient fails with {type(cause).__name__}" + (f": {told}" if told else "")


def _gradient_fault(classifier: Classifier, shape: tuple[int, int, int]) -> str:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    pixels = noise.to(classifier.device, classifier.dtype).requires_grad_()
    logits = classifier(pixels)
    cut_off = "its answer does not depend on the pixels through differentiable steps: "
    if not logits.requires_grad:
        if _runs_without_autograd(classifier, pixels):
            return "its forward runs without autograd (torch.no_grad or torch.inference_mode)"
        return f"{cut_off}they are cut off by detach, a rounding, an index or another library"
    mixture = torch.rand(logits.shape, generator=generator).to(logits) + 0.5
    (gradient,) = torch.autograd.grad((logits * mixture).sum(), pixels, allow_unused=True)
    if gradient is None:
        return f"{cut_off}they are cut off by detach, a rounding, an index or another library"
    if not bool(torch.isfinite(gradient).all()):
        return "its gradient has NaN or infinite values"
    return "" if bool(gradient.any()) else f"{cut_off}the gradient of every logit is exactly zero"


class _ModesSeen(TorchFunctionMode):
    """Notes whether any function of torch was called with autograd off."""

    def __init__(self) -> None:
        super().__init__()
        self.autograd_was_off = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            self.autograd_was_off = True
        return func(*args, **(kwargs or {}))


def _runs_without_autograd(classifier: Classifier, pixels: Tensor) -> bool:
    modes = _ModesSeen()
    with modes:
        classifier(pixels)
    return modes.autograd_was_off


def weights_digest(network: nn.Module) -> str:
    """Digest of all that decides what a network answers, as far as Python can see it.

    Parameters and buffers (also those outside the state dict), the module tree with its plain
    attributes and forward hooks, and the compiled code of every module class that is neither
    torch's nor timm's (whose versions are part of each shard's key), with the user's own functions
    and constants that this code names. Of an ONNX graph: that of its file; of a function: see
    `CallableNetwork`. Raises ModelError for layers that have no weights yet.
    """
    if isinstance(network, OnnxNetwork):
        return network.file_digest
    fingerprint = Fingerprint()
    taken: set[nn.Module] = set()
    # A module may hold others beside its children, in a list of its own or in a hook.
    while left := [m for m in (network, *fingerprint.modules) if m not in taken]:
        _take(fingerprint, left[0], taken)
    return fingerprint.digest()


def _take(fingerprint: Fingerprint, network: nn.Module, taken: set[nn.Module]) -> None:
    """Add a network with its children to a fingerprint, and to what is taken."""
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
    for name, module in network.named_modules():
        taken.add(module)
        fingerprint.text(f"{name} {module.extra_repr()}")
        if isinstance(module, OnnxNetwork):
            fingerprint.text(module.file_digest)
            continue
        if isinstance(module, CallableNetwork):
            fingerprint.value([module.function, module.nonce])
            continue
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


# What every module has; the weights and children among them are walked by name. And the records
# that timm keeps of a model's origin: the preprocessing taken from them has its own key.
_NO_SETTINGS = {*MODULE_FIELDS, "pretrained_cfg", "default_cfg", "_model_args"}


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, shared ones counted once; of an ONNX graph, the numbers in its weights."""
    graphs = sum(m.n_weights for m in network.modules() if isinstance(m, OnnxNetwork))
    return graphs + sum(parameter.numel() for parameter in network.parameters())


def first_layer_channels(network: nn.Module) -> int | None:
    """Image channels that the first convolution (or ONNX graph) takes; None where nothing says it."""
    for module in network.modules():
        if isinstance(module, OnnxNetwork):
            return module.image_shape[0]
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
