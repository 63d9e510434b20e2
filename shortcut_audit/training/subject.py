"""The network to be trained, built for the images; and the folder that an audit loads it from."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from shortcut_audit.errors import AuditError, ModelError, SettingsError
from shortcut_audit.models.classifier import borrowed, count_parameters, seeded, weights_digest
from shortcut_audit.models.loading import LoadedModel, ModelRequest, load_model, preprocessing_of
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.store import write_bytes
from shortcut_audit.training.settings import TrainSettings

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "ModelChoice", "Subject", "build_subject", "write_subject"]

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_WITH_WEIGHTS = ("hf-hub:", "hf_hub:", "local-dir:")
# What timm needs of a model's record to build it again; the rest says where old weights came from.
_KEPT_RECORD = ("interpolation", "crop_mode", "fixed_input_size", "first_conv", "classifier")


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model to train, as the user named it: `spec`, `arch` and `checkpoint` as in `load_model`.

    `size` (H, W), `mean`, `std` overrule the model's own record.
    """

    spec: str
    arch: str | None = None
    checkpoint: Path | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def builder(self) -> str:
        """What builds the network: a timm name or a factory."""
        return self.arch or self.spec

    @property
    def is_factory(self) -> bool:
        """Whether the user's own function builds it."""
        return ":" in self.builder and not self.builder.startswith(("timm:", *_WITH_WEIGHTS))


@dataclass(frozen=True)
class Subject:
    """A network with as many outputs as there are classes, and how images reach it.

    `digest` of the weights and code before training; `layout` that the network bears.
    """

    choice: ModelChoice
    network: nn.Module
    architecture: str
    record: Mapping[str, Any]
    preprocessing: Preprocessing
    digest: str
    layout: torch.memory_format

    @property
    def n_parameters(self) -> int:
        """Parameters, shared ones counted once."""
        return count_parameters(self.network)

    def preprocessing_for(self, image_shape: tuple[int, int, int] | None) -> Preprocessing:
        """How other images of `image_shape` (None: they differ) reach the network: as in an audit."""
        choice, pre = self.choice, self.preprocessing
        loaded = LoadedModel(self.network, choice.spec, self.architecture, self.record)
        size = choice.size if choice.is_factory else (pre.height, pre.width)
        return preprocessing_of(loaded, image_shape, mean=choice.mean, std=choice.std, size=size)

    def audit_command(self, folder: Path, data: str) -> str:
        """The command that audits the trained model on `data`."""
        words = ["shortcut-audit", "audit"]
        if self.choice.is_factory:
            words += ["--model", self.choice.builder, "--checkpoint", str(folder / WEIGHTS_FILE)]
            if self.choice.size is not None:
                words += ["--size", "x".join(str(side) for side in self.choice.size)]
            for name, values in (("--mean", self.choice.mean), ("--std", self.choice.std)):
                words += [name, ",".join(f"{value!r}" for value in values)] if values else []
        else:
            words += ["--model", f"local-dir:{folder}"]
        words += ["--data", data, "--out", f"{folder}-audit"]
        return shlex.join(words)


def build_subject(
    choice: ModelChoice,
    settings: TrainSettings,
    n_classes: int,
    image_shape: tuple[int, int, int] | None,
    device: torch.device,
) -> Subject:
    """Build the network for `n_classes` and for images of `image_shape` (C, H, W; None: they differ).

    A timm architecture with random weights takes the size that all images share, where nobody names
    another; one with weights, and a factory, keep the size of their own record. Raises ModelError.
    """
    loaded = _load(choice, settings, n_classes)
    size = choice.size
    record = dict(loaded.config or {})
    own = tuple(record.get("input_size") or (3, 224, 224))[1:]
    if size is None and not choice.is_factory:
        # Always named: the saved record says the same size, and that nothing is cropped off.
        untrained = _is_name(choice) and not settings.pretrained
        size = image_shape[1:] if untrained and image_shape is not None else own
    preprocessing = preprocessing_of(loaded, image_shape, mean=choice.mean, std=choice.std, size=size)
    subject = Subject(
        choice=choice,
        network=loaded.network,
        architecture=loaded.architecture,
        record=record,
        preprocessing=preprocessing,
        digest="",
        layout=torch.contiguous_format,
    )
    if not choice.is_factory and record.get("fixed_input_size") and size != own:
        subject = replace(subject, network=_for_size(subject, settings, n_classes, own))
    return replace(
        subject,
        digest=weights_digest(subject.network),
        layout=_layout(subject.network, preprocessing, settings, device, n_classes),
    )


def _is_name(choice: ModelChoice) -> bool:
    """Whether the model is a plain timm name, without weights of the user's."""
    return not choice.is_factory and choice.arch is None and not choice.spec.startswith(_WITH_WEIGHTS)


def _load(choice: ModelChoice, settings: TrainSettings, n_classes: int) -> LoadedModel:
    if settings.pretrained and not (_is_name(choice) or choice.spec.startswith(_WITH_WEIGHTS)):
        raise SettingsError(
            f"--pretrained goes with a timm name, and {choice.spec!r} is none.",
            "Give weights of your own with --checkpoint FILE (of a factory), or as --model FILE --arch"
            " NAME.",
        )
    loaded = load_model(
        ModelRequest(
            spec=choice.spec,
            arch=choice.arch,
            checkpoint=choice.checkpoint,
            pretrained=settings.pretrained or choice.spec.startswith(_WITH_WEIGHTS),
            n_classes=n_classes,
            seed=settings.seed,
        )
    )
    network = loaded.network
    new_head = (_is_name(choice) and settings.pretrained) or (
        choice.spec.startswith(_WITH_WEIGHTS) and getattr(network, "num_classes", None) != n_classes
    )
    if new_head:
        with seeded(settings.seed):
            network.reset_classifier(n_classes)  # type: ignore[operator]
    return loaded


def _for_size(
    subject: Subject, settings: TrainSettings, n_classes: int, own: tuple[int, ...]
) -> nn.Module:
    """The network of a timm architecture that takes one size only, made for another one.

    It is built from the record that will be saved, just as the audit will build it; weights that it
    starts from are adapted by timm, where that gives the same network.
    """
    pre, old = subject.preprocessing, subject.network
    size = (pre.height, pre.width)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(_config(subject, [str(label) for label in range(n_classes)]))
            (Path(folder) / CONFIG_FILE).write_text(text, encoding="utf-8")
            new = load_model(
                ModelRequest(
                    spec=f"local-dir:{folder}", pretrained=False, n_classes=n_classes, seed=settings.seed
                )
            ).network
        if not (_is_name(subject.choice) and not settings.pretrained):
            old.set_input_size(img_size=size)  # type: ignore[operator]
            new.load_state_dict(old.state_dict())
            _require_equal(old, new, (pre.channels, *size))
    except Exception as error:  # timm's models each have their own ways to say no
        raise ModelError(
            f"{subject.choice.spec} takes images of {own[0]} x {own[1]}, and cannot be made for"
            f" {size[0]} x {size[1]}: {_first_line(error)}.",
            f"Give --size {own[0]}, or a convolutional network (timm:resnet18).",
        ) from error
    return new


def _require_equal(old: nn.Module, new: nn.Module, shape: tuple[int, int, int]) -> None:
    images = torch.linspace(-1, 1, math.prod(shape)).reshape(1, *shape)
    with torch.no_grad():
        if not torch.allclose(old.eval()(images), new.eval()(images), atol=1e-4):
            raise ValueError("with these weights it would not be the same network")


def _first_line(error: Exception) -> str:
    text = error.problem if isinstance(error, AuditError) else str(error)
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _layout(
    network: nn.Module,
    preprocessing: Preprocessing,
    settings: TrainSettings,
    device: torch.device,
    n_classes: int,
) -> torch.memory_format:
    """The layout the network is trained in: channels last if asked for and borne, else the plain one.

    Raises ModelError for a network that cannot take the images, or answers for other classes.
    """
    if settings.channels_last:
        try:
            n_outputs = _count_outputs(network, preprocessing, settings, device, torch.channels_last)
            return _checked(torch.channels_last, n_outputs, n_classes)
        except ModelError:
            # A forward with `view` in it needs the plain layout; other faults show again there.
            pass
    n_outputs = _count_outputs(network, preprocessing, settings, device, torch.contiguous_format)
    return _checked(torch.contiguous_format, n_outputs, n_classes)


def _checked(layout: torch.memory_format, n_outputs: int, n_classes: int) -> torch.memory_format:
    if n_outputs != n_classes:
        raise ModelError(
            f"The model has {n_outputs} outputs and the images {n_classes} classes.",
            "Let the factory take num_classes, or give images of as many classes.",
        )
    return layout


def _count_outputs(
    network: nn.Module,
    preprocessing: Preprocessing,
    settings: TrainSettings,
    device: torch.device,
    layout: torch.memory_format,
) -> int:
    with borrowed(network, preprocessing, device, "float32", settings.seed, layout) as classifier:
        shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
        return classifier(torch.full((2, *shape), 0.5, device=device)).shape[1]


def write_subject(subject: Subject, class_names: Sequence[str], folder: Path) -> str:
    """Write the trained network into `folder` so that an audit loads it; returns the weights' sha256.

    Weights are `model.safetensors`; for a timm architecture `config.json` says how to build it and
    how images reach it, as timm's `local-dir:` reads it. Raises RunFolderError and ModelError.
    """
    weights = {}
    for name, value in subject.network.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"The model keeps something other than a tensor in its state dict ({name}).",
                "Keep such things in attributes, or in a buffer.",
            )
        # Cloned: tied weights are two names of one tensor, which safetensors does not write.
        weights[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if not subject.choice.is_factory:
        text = json.dumps(_config(subject, class_names), indent=1, ensure_ascii=False)
        write_bytes(folder / CONFIG_FILE, (text + "\n").encode())
    content = save(weights, {"format": "pt"})
    write_bytes(folder / WEIGHTS_FILE, content)
    return hashlib.sha256(content).hexdigest()


def _config(subject: Subject, class_names: Sequence[str]) -> dict[str, Any]:
    pre, record = subject.preprocessing, subject.record
    kept = {name: record[name] for name in _KEPT_RECORD if record.get(name) is not None}
    config: dict[str, Any] = {
        "architecture": subject.architecture,
        "num_classes": len(class_names),
        "num_features": getattr(subject.network, "num_features", None),
        "label_names": list(class_names),
        "pretrained_cfg": {
            **kept,
            "input_size": [pre.channels, pre.height, pre.width],
            "crop_pct": 1.0,
            "mean": list(pre.mean),
            "std": list(pre.std),
            "num_classes": len(class_names),
            "pool_size": None,
            "custom_load": False,
        },
    }
    arguments = _model_arguments(subject)
    return {**config, "model_args": arguments} if arguments else config


def _model_arguments(subject: Subject) -> dict[str, Any]:
    """Arguments that the folder which the training started from built its network with."""
    if not subject.choice.spec.startswith("local-dir:"):
        found = getattr(subject.network, "pretrained_model_args", None) or {}
        return dict(found)
    path = Path(subject.choice.spec.removeprefix("local-dir:")) / CONFIG_FILE
    found = json.loads(path.read_text(encoding="utf-8")).get("model_args") or {}
    return {name: value for name, value in found.items() if name not in {"num_classes", "img_size"}}
