"""Leaves a network as it was found: mode, tensors, flags, attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODULE_FIELDS", "as_found", "shed_inference_tensors"]

# What every module has: weights, children and hooks, which are looked after by name.
MODULE_FIELDS = frozenset(vars(nn.Module()))


@contextmanager
def as_found(network: nn.Module) -> Iterator[None]:
    """Whatever happens to `network` in a `with` block, it is as before afterwards.

    That is: modes, weights and buffers (the very tensors, where they were, with the `requires_grad`
    they had), and plain attributes (caches and counters too), also after an exception. Values that
    change in place inside a weight or buffer are the block's own affair: give it copies.
    """
    modes = {m: m.training for m in network.modules() if hasattr(m, "training")}
    attributes = [_Attributes.of(module) for module in network.modules()]
    everything = [*network.parameters(), *network.buffers()]
    # What was made under inference mode is replaced for the while, and never written to.
    tensors = [tensor for tensor in everything if not tensor.is_inference()]
    homes = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors]
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table))
        for module in network.modules()
        for table in (module._parameters, module._buffers)
        # A scripted module shows its tensors through a view of torch's own, and swaps none of them.
        if isinstance(table, dict)
    ]
    try:
        yield
    finally:
        for table, held in tables:
            table.clear()
            table.update(held)
        with torch.inference_mode(False):
            for tensor, home, flag in homes:
                tensor.data = home
                if tensor.is_leaf and tensor.requires_grad != flag:
                    tensor.requires_grad_(flag)
        for module, training in modes.items():
            module.training = training
        for kept in attributes:
            kept.restore()


def shed_inference_tensors(network: nn.Module) -> None:
    """Replace weights, buffers and attributes that were made under inference mode by copies.

    Autograd takes no such tensor; and models cache positions, masks and the like for a size of
    image, under whatever mode there is. Call it outside of inference mode.
    """
    copies: dict[int, Tensor] = {}  # shared weights stay shared

    def normal(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_inference():
            return value
        if id(value) not in copies:
            copy = value.clone()
            is_weight = isinstance(value, nn.Parameter)
            copies[id(value)] = nn.Parameter(copy, value.requires_grad) if is_weight else copy
        return copies[id(value)]

    for module in network.modules():
        for fields in (vars(module), *vars(module).values()):
            if type(fields) is dict:
                fields.update({key: normal(value) for key, value in fields.items()})
            elif type(fields) is list:
                fields[:] = map(normal, fields)


@dataclass(frozen=True)
class _Attributes:
    """The plain attributes of a module: models keep caches and counters there, also in eval mode."""

    module: nn.Module
    held: dict[str, Any]
    content: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> _Attributes:
        plain = {k: v for k, v in vars(module).items() if k not in MODULE_FIELDS}
        # Containers change in place; their content is held beside the reference.
        content = {k: v.copy() for k, v in plain.items() if type(v) in (dict, list, set)}
        return cls(module, plain, content)

    def restore(self) -> None:
        now = vars(self.module)
        for name in [k for k in now if k not in self.held and k not in MODULE_FIELDS]:
            del now[name]
        for name, value in self.held.items():
            if name in self.content:
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(self.content[name])
            now[name] = value
