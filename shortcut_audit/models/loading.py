"""Loads classifiers: timm names, the Hugging Face hub, folders, weights and ONNX files, own factories."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import nn

from shortcut_audit.errors import ModelError, SettingsError
from shortcut_audit.models.callables import CallableNetwork, as_network
from shortcut_audit.models.classifier import first_layer_channels, seeded
from shortcut_audit.models.onnx import OnnxNetwork, onnx_config
from shortcut_audit.results.provenance import Preprocessing

__all__ = ["LoadedModel", "ModelRequest", "load_model", "preprocessing_of"]

_WEIGHTS = {".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt"}
_HUB_PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:")


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """Which model, as the user named it.

    `spec`: see `load_model`. `arch`: architecture of a bare weights file. `checkpoint`: weights for
    a factory. `pretrained`: whether a timm name comes with its published weights. `n_classes`:
    outputs to build where the architecture is built here. `seed`: of weights drawn at random.
    """

    spec: str
    arch: str | None = None
    checkpoint: Path | None = None
    pretrained: bool = True
    n_classes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class LoadedModel:
    """A network and the record it carries of the images it wants (timm's `pretrained_cfg`)."""

    network: nn.Module
    spec: str
    architecture: str
    config: Mapping[str, Any] | None


def load_model(request: ModelRequest) -> LoadedModel:
    """Load the model that `request.spec` names.

    - `timm:NAME` or `NAME`: a timm architecture, with its published weights unless
      `pretrained=False`.
    - `hf-hub:ORG/NAME`, `local-dir:DIR`: a timm model on the hub, or in a folder of that layout.
    - `FILE.safetensors|.pt|.pth|.th`: weights of `request.arch` (a timm name or a factory), read
      with `weights_only`; a pickle that would run code is refused, without a second try.
    - `package.module:factory` or `path/to/file.py:factory`: a function that returns a
      `torch.nn.Module`, with `request.checkpoint` for its weights; or that returns a function from
      images to logits (see `CallableNetwork`).
    - `FILE.onnx`: a graph that onnxruntime runs (see `OnnxNetwork`).

    Raises ModelError, in one sentence, for everything that can go wrong.
    """
    spec = request.spec
    is_timm = spec.startswith(("timm:", *_HUB_PREFIXES))
    is_weights = not is_timm and Path(spec).suffix in _WEIGHTS
    is_onnx = not is_timm and Path(spec).suffix == ".onnx"
    is_factory = not (is_timm or is_weights or is_onnx) and ":" in spec
    _refuse_idle_options(request, is_weights, is_factory=is_factory)
    if is_timm:
        return _from_timm(spec.removeprefix("timm:"), request, pretrained=request.pretrained)
    if is_weights:
        return _from_weights_file(Path(spec), request)
    if is_onnx:
        network = OnnxNetwork(Path(spec))
        return LoadedModel(network, spec, Path(spec).stem, onnx_config(network))
    if is_factory:
        loaded = _from_factory(spec, request)
        if request.checkpoint is not None:
            if isinstance(loaded.network, CallableNetwork):
                raise ModelError(
                    f"{spec} returns a function, which takes no weights from --checkpoint.",
                    "Load them in the factory, or return a torch.nn.Module.",
                )
            load_weights(loaded.network, request.checkpoint)
        return loaded
    if timm.is_model(spec.split(".")[0]):
        return _from_timm(spec, request, pretrained=request.pretrained)
    raise ModelError(
        f"No model is named {spec!r}.{_similar(spec)}",
        "Name one as timm:NAME, hf-hub:ORG/NAME, local-dir:DIR, a weights file with --arch, FILE.onnx,"
        " or package.module:factory.",
    )


def _refuse_idle_options(request: ModelRequest, is_weights: bool, *, is_factory: bool) -> None:
    """Raise ModelError for weights or an architecture that would be passed over in silence."""
    if request.checkpoint is not None and not is_factory:
        raise ModelError(
            f"--checkpoint goes with a package.module:factory, and {request.spec!r} is none.",
            f"Give the weights as the model: --model {request.checkpoint} --arch NAME.",
        )
    if request.arch is not None and not is_weights:
        raise ModelError(
            f"--arch goes with a weights file, and {request.spec!r} is none.",
            f"Leave --arch out; weights files end in {', '.join(sorted(_WEIGHTS))}.",
        )


def _similar(name: str) -> str:
    stem = name.split(".")[0]
    if not stem:
        return ""
    found = timm.list_models(f"*{stem}*")[:3] or get_close_matches(stem, timm.list_models(), 3)
    return f" timm has {', '.join(found)}." if found else ""


def _from_timm(name: str, request: ModelRequest, *, pretrained: bool) -> LoadedModel:
    if name.startswith("local-dir:") and not Path(name.removeprefix("local-dir:")).is_dir():
        raise ModelError(
            f"{name.removeprefix('local-dir:')} is not a folder.",
            "local-dir: takes a folder with config.json and weights, as timm saves them for the hub.",
        )
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise ModelError(
            f"timm has no model {name!r}.{_similar(name)}",
            "List the names with `python -c 'import timm; print(timm.list_models())'`.",
        )
    # Published weights come with the head they were trained with; a new head would be noise.
    options = {} if pretrained or request.n_classes is None else {"num_classes": request.n_classes}
    try:
        with seeded(request.seed):
            network = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # the hub, the disk and timm each raise their own kinds
        if _wanted_globals(error) is not None:
            raise _refused_pickle(name, error) from error
        raise ModelError(
            f"Model {name!r} could not be loaded: {_one_line(error)}",
            "Save it again with timm.models.save_for_hf(model, DIR), or give its weights file with"
            " --arch NAME."
            if name.startswith("local-dir:")
            else "Without a network, give a weights file with --arch NAME, or a local-dir: folder;"
            " --no-pretrained takes random weights.",
        ) from error
    config = dict(getattr(network, "pretrained_cfg", None) or {})
    architecture = str(config.get("architecture") or name)
    return LoadedModel(network, request.spec, architecture, config or None)


def _from_weights_file(path: Path, request: ModelRequest) -> LoadedModel:
    if not path.is_file():
        raise ModelError(f"Weights file {path} does not exist.", "Check the path.")
    if request.arch is None:
        raise ModelError(
            f"{path} holds weights, not an architecture.",
            "Say which with --arch, a timm name or package.module:factory.",
        )
    built = load_model(
        ModelRequest(spec=request.arch, pretrained=False, n_classes=request.n_classes, seed=request.seed)
    )
    load_weights(built.network, path)
    return LoadedModel(built.network, request.spec, built.architecture, built.config)


def _from_factory(spec: str, request: ModelRequest) -> LoadedModel:
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise ModelError(
            f"{spec!r} does not name both a module and a function.", "Give package.module:factory."
        )
    factory = getattr(_import(where), name, None)
    if not callable(factory):
        raise ModelError(f"{where} has no function {name!r}.", "Name a function that returns the model.")
    options: dict[str, Any] = {}
    if request.n_classes is not None and "num_classes" in _parameters(factory):
        options["num_classes"] = request.n_classes
    try:
        with seeded(request.seed):
            made = factory(**options)
    except (Exception, SystemExit) as error:  # anything may go wrong in a user's own code
        raise ModelError(
            f"{spec} failed: {type(error).__name__}: {_one_line(error)}",
            "The factory must work without arguments (or with num_classes), and return the model.",
        ) from error
    network = as_network(made, f"{spec} returns")
    config = getattr(network, "pretrained_cfg", None)
    return LoadedModel(network, spec, name, dict(config) if config else None)


def _parameters(factory: Callable[..., Any]) -> Collection[str]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # built-ins may have none to show
        return ()


def _import(where: str) -> Any:
    try:
        if where.endswith(".py"):
            return _import_file(Path(where).resolve(), where)
        if str(Path.cwd()) not in sys.path:
            # A console script does not see the folder it is called from; `python -m` does.
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # anything may go wrong in a user's own code
        raise ModelError(
            f"{where} cannot be imported: {type(error).__name__}: {_one_line(error)}",
            "Name a module on the Python path, or path/to/file.py:factory.",
        ) from error


def _import_file(path: Path, where: str) -> Any:
    # A name of its own: two files may share a stem, with each other or with an installed module.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None or not path.is_file():
        raise ModelError(f"{where} does not exist.", "Check the path of the factory.")
    if str(path.parent) not in sys.path:
        # As for a script, the files beside it can be imported; behind all else, to hide nothing.
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(found)
    # Registered, so that dataclasses inside it find their own module.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a weights file into `network`, every key exactly.

    Raises ModelError naming the keys that are missing, unknown or of another shape, and for files
    that are damaged or want to run code.
    """
    weights = _read_weights(path)
    own = network.state_dict()
    misshapen = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    fitting = {k: w for k, w in weights.items() if k not in own or own[k].shape == w.shape}
    # torch itself says what is missing: it knows keys that files of older versions never had.
    outcome = network.load_state_dict(fitting, strict=False)
    shapes = {entry.split(" ")[0] for entry in misshapen}
    faults = [
        _keys("missing from the file", [key for key in outcome.missing_keys if key not in shapes]),
        _keys("unknown to the architecture", list(outcome.unexpected_keys)),
        _keys("of another shape", misshapen),
    ]
    faults = [fault for fault in faults if fault]
    if faults:
        raise ModelError(
            f"{path} does not fit the architecture: {'; '.join(faults)}.",
            "Check --arch, and that the data has as many classes as the model was trained for; where it"
            " has fewer, name the model's outputs with --output-names FILE.",
        )


def _keys(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {what} ({shown})"


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelError(f"Weights file {path} does not exist.", "Check the path.")
    try:
        with warnings.catch_warnings():
            # torch warns of pickles that it goes on to refuse.
            warnings.simplefilter("ignore", UserWarning)
            weights = load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    except AttributeError:  # timm takes whatever is in the file for a dictionary
        weights = None
    except Exception as error:  # safetensors, zipfile, pickle and torch each raise their own kinds
        if _wanted_globals(error) is not None:
            raise _refused_pickle(str(path), error) from error
        told = isinstance(error, SafetensorError | RuntimeError | OSError) and not _is_refusal(error)
        plain = told and not str(error).startswith("[enforce fail")
        reason = _one_line(error) if plain else "torch cannot read it."
        raise ModelError(
            f"{path} is damaged or not a weights file: {reason}",
            "Copy it again, or save it with safetensors.torch.save_file(model.state_dict(), FILE).",
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, torch.Tensor) for w in weights.values()):
        raise ModelError(
            f"{path} holds no state dict of tensors.",
            "Save the weights alone: safetensors.torch.save_file(model.state_dict(), FILE).",
        )
    return weights


def _is_refusal(error: BaseException) -> bool:
    """Whether torch refused a pickle, which it does for code and for nonsense alike."""
    return "weights_only" in str(error) or isinstance(error, pickle.UnpicklingError)


def _wanted_globals(error: BaseException) -> str | None:
    """The functions or classes that a refused pickle asks for; None for any other error."""
    text = f"{error} {error.__cause__ or ''}"
    if not _is_refusal(error):
        return None
    if "TorchScript" in text:
        return "a TorchScript program"
    found = re.search(r"Unsupported globals: (.+?)\. |GLOBAL ([\w.]+)", text)
    return (found[1] or found[2]) if found else None


def _refused_pickle(what: str, error: BaseException) -> ModelError:
    return ModelError(
        f"{what} holds more than tensors ({_wanted_globals(error)}) and could run code when read, so it"
        " was not loaded.",
        "Save the weights alone: safetensors.torch.save_file(model.state_dict(), FILE).",
    )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1]}"
    sentence = re.split(r"(?<=\.)\s", text)[0]
    short = sentence if len(sentence) <= 300 else f"{sentence[:300]} ..."
    return short if short.endswith(".") else f"{short}."


def preprocessing_of(
    loaded: LoadedModel,
    image_shape: tuple[int, int, int] | None,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    size: tuple[int, int] | None = None,
) -> Preprocessing:
    """How images reach this model.

    `image_shape` (C, H, W) is the one shape that all images have, or None when they differ.
    Images that already have the size the model wants (or any one size, for a model that states
    none) are taken as they are; all others go through timm's evaluation transform for the model.
    `mean`, `std`, `size` are the user's own and win over the model's record.

    Raises ModelError when images differ in size and nobody says which size the model takes.
    """
    stated: dict[str, Any] = dict(loaded.config or {})
    resolved = resolve_model_data_config(nn.Identity(), pretrained_cfg=stated) if stated else {}
    wanted = size or (tuple(resolved["input_size"][1:]) if stated.get("input_size") else None)
    recorded = resolved["input_size"][0] if stated.get("input_size") else None
    channels = _channels(loaded.network, recorded, image_shape)
    if wanted is not None and min(wanted) < 1:
        raise SettingsError(f"A size of {wanted[0]} x {wanted[1]} pixels is none.", "Give --size 224.")
    if wanted is None and image_shape is None:
        raise ModelError(
            "The images differ in size, and the model does not say which size it takes.",
            "Give --size, for example --size 224.",
        )
    height, width = wanted if wanted is not None else (image_shape or (0, 0, 0))[1:]
    as_they_are = image_shape is not None and image_shape[1:] == (height, width)
    crop = {} if as_they_are else _geometry(resolved, own_size=size is not None)
    return Preprocessing(
        channels=channels,
        height=int(height),
        width=int(width),
        geometry="as they are" if as_they_are else "resize and crop",
        mean=_per_channel("mean", mean or _record(stated, resolved, "mean", 0.0), channels),
        std=_per_channel("std", std or _record(stated, resolved, "std", 1.0), channels),
        source=_source(stated, own=mean is not None or std is not None or size is not None),
        **crop,
    )


def _channels(network: nn.Module, recorded: int | None, image_shape: tuple[int, int, int] | None) -> int:
    """Image channels: of the first convolution where it takes grey or colour images (timm's record
    stays at 3 for a model made with in_chans=1), else of the record, else of the images."""
    first = first_layer_channels(network)
    if first in {1, 3}:
        return int(first)
    return int(recorded or (image_shape[0] if image_shape else 3))


def _geometry(resolved: Mapping[str, Any], *, own_size: bool) -> dict[str, Any]:
    return {
        "interpolation": str(resolved.get("interpolation", "bicubic")),
        # A size the user names is the size of the images: nothing is cropped off a square one.
        "crop_pct": 1.0 if own_size else float(resolved.get("crop_pct", 1.0)),
        "crop_mode": str(resolved.get("crop_mode", "center")),
    }


def _record(
    stated: Mapping[str, Any], resolved: Mapping[str, Any], key: str, neutral: float
) -> tuple[float, ...]:
    return tuple(resolved[key]) if stated.get(key) else (neutral,)


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in {1, channels}:
        takes = "grey images" if channels == 1 else f"images of {channels} channels"
        raise ModelError(
            f"{name} has {len(values)} values, and the model takes {takes}.",
            f"Give --{name} with 1 value{'' if channels == 1 else f' or {channels}, with commas'}.",
        )
    numbers = tuple(float(value) for value in values)
    if not all(math.isfinite(value) and (name != "std" or value > 0) for value in numbers):
        kind = "positive" if name == "std" else "finite"
        raise SettingsError(f"{name} {numbers} has a value that is not {kind}.", f"Check --{name}.")
    return numbers * channels if len(numbers) == 1 else numbers


def _source(stated: Mapping[str, Any], *, own: bool) -> str:
    nothing = "pixels in [0,1], not normalised"
    size_alone = f"the model's own record of its size; else nobody: {nothing}"
    record = (
        ("the model's own record" if stated.get("mean") else size_alone)
        if stated
        else f"nobody: {nothing}"
    )
    return f"the user, and else {record}" if own else record
