"""Plain functions as models: anything from images to logits."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shortcut_audit.errors import LogitsError, ModelError
from shortcut_audit.models.fingerprint import Fingerprint

__all__ = ["CallableNetwork", "as_network", "function_name"]


class CallableNetwork(nn.Module):
    """A function from images (B, C, H, W) to logits (B, K), a tensor or a numpy array, as a module.

    Torch modules that the function holds or names (in its closure, its globals, its object) become
    children: an audit lends them as it does any model, in eval mode and on its device, and gives
    them back. What else the function changes is its own affair.

    The digest covers the function's code, what it holds, and the user's own functions, classes and
    constants that its code names. It does not see what the function reads when it is called (files,
    the network, modules that it imports only then), nor compiled code beyond its name. Where an
    object hides its state in compiled code (an inference session, say), `nonce` is a number drawn
    anew for every wrapping, and part of the digest: no earlier part of a run is taken for this
    function's own.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        seen = Fingerprint()
        seen.value(function)
        self.function = function
        self.held = nn.ModuleList(seen.modules)
        self.nonce = uuid.uuid4().hex if seen.opaque else ""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K), on the device of `images` (B, C, H, W)."""
        answer = self.function(images)
        if isinstance(answer, np.ndarray | np.generic):
            if answer.dtype.kind not in "fiub":
                raise LogitsError(
                    f"The function returns an array of {answer.dtype} values, not of logits.",
                    "Return one row of numbers an image, of shape (batch, outputs).",
                )
            return torch.tensor(answer, device=images.device)
        if not isinstance(answer, Tensor):
            raise LogitsError(
                f"The function returns a {type(answer).__name__}, not a tensor or an array of logits.",
                "Return one torch tensor or numpy array of shape (batch, outputs).",
            )
        return answer.to(images.device)


def as_network(model: Any, what: str) -> nn.Module:
    """A module as it is, a function wrapped as one (`CallableNetwork`).

    `what`: how the sentence begins that tells of anything else, like "The model is". Raises
    ModelError.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type):
        raise ModelError(
            f"{what} the class {model.__name__}, not a model made of it.", "Give an instance of it."
        )
    if not callable(model):
        raise ModelError(
            f"{what} a value of type {type(model).__name__}, not a torch.nn.Module or a function from"
            " images to logits.",
            "Give the model itself.",
        )
    return CallableNetwork(model)


def function_name(network: nn.Module) -> str | None:
    """What to call the function in a `CallableNetwork`; None for any other module."""
    if not isinstance(network, CallableNetwork):
        return None
    function: Any = network.function
    function = getattr(function, "func", function)  # of a partial
    return str(getattr(function, "__qualname__", type(function).__qualname__))
