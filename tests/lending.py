"""Networks to lend that do all a model should not, and what of them an audit could disturb."""

from __future__ import annotations

from typing import Any

import torch
from conftest import conv_model
from torch import Tensor, nn

from shortcut_audit.models.classifier import borrowed
from shortcut_audit.results.provenance import Preprocessing

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def preprocessing(mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Preprocessing:
    return Preprocessing(
        channels=len(mean), height=6, width=7, geometry="as they are", mean=mean, std=std, source="me"
    )


def lend(network: nn.Module, dtype: str = "float32", seed: int = 0) -> Any:
    return borrowed(network, preprocessing(), CPU, dtype, seed)


class Restless(nn.Module):
    """A network that does all that a model should not: counts, draws, replaces and adds buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_model(4, 3)
        self.frozen = nn.BatchNorm2d(3)
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", None)
        self.register_buffer("offset", torch.randn(3, 1, 1), persistent=False)
        self.fail = False

    def forward(self, images: Tensor) -> Tensor:
        self.n_calls += 1
        self.offset = self.offset + 1
        self.last = images.mean()
        self.register_buffer("surprise", torch.ones(1))
        if self.fail:
            raise ValueError("in the middle of it")
        logits: Tensor = self.body(self.frozen(images) + torch.randn(1))
        return logits


def restless() -> Restless:
    """The network in mixed modes, with some gradients, one frozen and one shared parameter."""
    torch.manual_seed(3)
    network = Restless()
    network.train()
    network.frozen.eval()
    network.body[3].eval()
    network.body[0].bias.requires_grad_(False)
    network.tied = network.body[0]
    network.body(torch.rand(2, 3, 6, 7)).sum().backward()
    return network


def state_of(network: nn.Module) -> dict[str, Any]:
    """Everything of a network that an audit could disturb."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {
        "modes": {name: module.training for name, module in network.named_modules()},
        "names": [name for name, _ in tensors],
        "buffers": {n: list(m._buffers) for n, m in network.named_modules()},
        "objects": [id(tensor) for _, tensor in tensors],
        "places": [tensor.data_ptr() for _, tensor in tensors],
        "strides": [tensor.stride() for _, tensor in tensors],
        "types": [(tensor.dtype, tensor.device, tensor.requires_grad) for _, tensor in tensors],
        "values": [tensor.detach().clone().tolist() for _, tensor in tensors],
        "grads": [None if t.grad is None else (id(t.grad), t.grad.tolist()) for _, t in tensors],
        "hooks": [len(module._forward_hooks) for module in network.modules()],
        "random": torch.random.get_rng_state().tolist(),
        "inference": torch.is_inference_mode_enabled(),
    }
