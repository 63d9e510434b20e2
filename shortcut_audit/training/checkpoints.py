"""Checkpoints: all that a training needs to go on, in one file that holds no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shortcut_audit.errors import RunFolderError
from shortcut_audit.results.store import write_bytes
from shortcut_audit.training.loop import Totals, Training
from shortcut_audit.training.observers import EpochRecord

__all__ = ["CHECKPOINT_FILE", "restore", "save_checkpoint"]

# Not in the folder itself, where timm could take it for the model's weights.
CHECKPOINT_FILE = "checkpoint/state.safetensors"
_FORMAT = 1


def save_checkpoint(training: Training, identity: Mapping[str, Any], folder: Path) -> None:
    """Write the state of `training` into `folder`, whole or not at all.

    `identity`: what the training is of; only a training of the same goes on from here. Raises
    RunFolderError when the disk does not take it.
    """
    cpu, gpu = training.current_random_state()
    tensors = {f"network/{name}": tensor for name, tensor in _network_tensors(training)}
    tensors |= {
        f"optimizer/{name}/{key}": value
        for name, state in _optimizer_states(training)
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    tensors |= {"random/cpu": cpu} | ({"random/gpu": gpu} if gpu is not None else {})
    tensors = {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()
    }
    state = {
        "format": _FORMAT,
        "identity": dict(identity),
        "step": training.step,
        "totals": asdict(training.totals),
        "history": [record.model_dump(mode="json") for record in training.history],
        "epoch_seconds": training.epoch_seconds,
        "scaler": training.scaler.state_dict(),
        "digest": _digest(tensors),
    }
    path = folder / CHECKPOINT_FILE
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{path.parent} cannot be made: {error.strerror or error}.", "Choose another --out folder."
        ) from error
    write_bytes(path, save(tensors, {"state": json.dumps(state)}))


def _copied(tensor: Tensor) -> Tensor:
    # Parts of one tensor may not share memory in a file.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def restore(training: Training, identity: Mapping[str, Any], folder: Path) -> bool:
    """Bring `training` to where the checkpoint in `folder` stands; False where there is none.

    Raises RunFolderError when the checkpoint is damaged, or is of other settings, images or another
    model than `identity` says.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return False
    tensors, state = _read(path)
    require_same(state["identity"], identity, folder)
    try:
        with torch.no_grad():
            for name, own in _network_tensors(training):
                own.copy_(tensors[f"network/{name}"])
        for name, parameter in _trained(training):
            prefix = f"optimizer/{name}/"
            saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if saved:
                training.optimizer.state[parameter] = {
                    key: value if key == "step" else _beside(value, parameter)
                    for key, value in saved.items()
                }
        training.scaler.load_state_dict(state["scaler"])
        training.totals = Totals(**state["totals"])
        training.history = [EpochRecord.model_validate(record) for record in state["history"]]
        training.epoch_seconds = list(state["epoch_seconds"])
        training.random_state = (tensors["random/cpu"], tensors.get("random/gpu"))
        training.step = int(state["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return True


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raise RunFolderError, naming what differs, unless both identities are the same."""
    # As JSON gives it back: tuples are lists there.
    wanted = json.loads(json.dumps(wanted))
    differing = [
        f"{name} is {_short(wanted.get(name))} now and was {_short(found.get(name))}"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        more = f", and {len(differing) - 3} more things differ" if len(differing) > 3 else ""
        raise RunFolderError(
            f"{folder} holds another training: {'; '.join(differing[:3])}{more}.",
            "Choose another --out folder, or start over in this one with --restart.",
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _network_tensors(training: Training) -> Iterator[tuple[str, Tensor]]:
    # Buffers outside the state dict too: what a forward pass changes has to come back.
    yield from training.network.named_parameters()
    yield from training.network.named_buffers()


def _trained(training: Training) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, parameter in training.network.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def _optimizer_states(training: Training) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, parameter in _trained(training):
        yield name, training.optimizer.state.get(parameter, {})


def _beside(value: Tensor, parameter: Tensor) -> Tensor:
    """A part of the optimizer's state on its parameter's device and in its layout, so that sums are
    taken in the same order; the count of steps stays on the CPU, where optimizers keep it."""
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads((file.metadata() or {})["state"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, f"{error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise _damaged(path, f"its format is {found}, not {_FORMAT}")
    if state.get("digest") != _digest(tensors):
        raise _damaged(path, "its digest differs")
    return tensors, state


def _damaged(path: Path, reason: str) -> RunFolderError:
    return RunFolderError(
        f"The checkpoint {path} cannot be used: {reason.rstrip('.')}.",
        "Start over with --restart, or choose another --out folder.",
    )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes, whatever the type: numpy has no bfloat16.
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()
