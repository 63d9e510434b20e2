"""Finds what is fastest on the real model, device and kind of work: the batch size, and compiling.

Choices are remembered per machine, model and image shape: tuning is a measurement, and two runs
of one command should make the same batches (whose sums differ in the last bits) and not measure
twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.transform import OrbitWaves, spectrum_of
from shortcut_audit.measures.probing import NetworkImages, probe_waves
from shortcut_audit.models.classifier import Classifier, device_name, is_out_of_memory

__all__ = [
    "BatchChoice",
    "compiled_if_it_pays",
    "measure_batch",
    "peak_memory_bytes",
    "tune_batch_size",
]

# Goes up when choices are made in another way, so that old ones are forgotten.
_REVISION = 2
_CANDIDATES = {
    "cpu": (8, 16, 32, 48, 64, 96, 128, 192, 256),
    "cuda": (32, 64, 128, 256, 512, 1024, 2048, 4096),
}
# Among sizes as good as equal the smallest wins: it takes the least memory.
_AS_GOOD = 0.995
# Two sizes in a row this much behind the best say that the best has been passed.
_BEHIND = 0.93
# A first timing this near the best may be noise: such sizes are timed again, in turns.
_NEAR = 0.93
_SECONDS_PER_TIMING = 0.12
_SECONDS_OF_TURNS, _LEAST_TURNS, _MOST_TURNS = 4.0, 3, 9
# Compiling takes a minute or two of a CPU; planned work much shorter than that cannot win it back.
_SECONDS_WORTH_COMPILING = 900.0
# Nor can fewer passes of any model that is audited: it is not even timed, and sees no image more.
_FEWEST_WORTH_TIMING = 4000
_FASTER_COMPILED = 1.05
# Largest change of a logit by compiling, as a share of the largest logit.
_SAME_LOGITS = {torch.float64: 1e-9, torch.float32: 1e-4}
_SAME_HALF_LOGITS = 3e-2


@dataclass(frozen=True)
class BatchChoice:
    """A batch size, and the images per second measured with it (None when remembered)."""

    batch_size: int
    images_per_second: float | None
    remembered: bool = False


def measure_batch(classifier: Classifier, image: Tensor, batch_size: int, seconds: float) -> float:
    """Probes per second (waves removed, pass, responses) on `image` (C, H, W), pixels in [0,1].

    After a batch to warm up, full batches for about `seconds`, and at least one.
    """
    probe = _probe_of(classifier, image)
    probe(batch_size)
    once = _seconds_of(classifier, lambda: probe(batch_size))
    if once >= seconds:
        return batch_size / once
    n_probes = batch_size * math.ceil(seconds / once)
    return n_probes / _seconds_of(classifier, lambda: probe(n_probes, batch_size))


def _probe_of(classifier: Classifier, image: Tensor) -> Callable[..., Tensor]:
    """probe(n_probes, batch_size): removes wave after wave of `image` as the exact search does."""
    grid = FrequencyGrid(*image.shape[1:])
    waves = OrbitWaves.build(grid, classifier.device, classifier.dtype)
    spectrum = spectrum_of(image[None])
    prepared = NetworkImages.of(classifier, image[None], normalized=False, clip=False)
    answer = classifier(image[None])
    clean = answer if answer.device.type == "mps" else answer.double()

    def probe(n_probes: int, batch_size: int | None = None) -> Tensor:
        orbits = torch.arange(n_probes, device=classifier.device) % grid.n_orbits
        images = torch.zeros_like(orbits)
        size = batch_size or n_probes
        return probe_waves(prepared, waves, spectrum, clean, images, orbits, 0, size, lambda n: None)

    return probe


def _seconds_of(classifier: Classifier, work: Callable[[], object]) -> float:
    _wait(classifier)
    started = time.perf_counter()
    work()
    _wait(classifier)
    return max(time.perf_counter() - started, 1e-9)


def _wait(classifier: Classifier) -> None:
    if classifier.device.type == "cuda":
        torch.cuda.synchronize(classifier.device)


def tune_batch_size(
    classifier: Classifier, image: Tensor, weights_digest: str, at_most: int
) -> BatchChoice:
    """The smallest batch size that is as fast as any, not above `at_most` images.

    Sizes are tried upwards until memory runs out or two in a row fall behind; those near the best
    are then timed in turns, so that a machine that is busy for a while slows all of them alike.
    Raises SettingsError when not even one image fits.
    """
    key = _machine_key(classifier, image, weights_digest, at_most)
    remembered = _recall(key)
    if isinstance(remembered, int) and remembered >= 1:
        return BatchChoice(remembered, None, remembered=True)
    candidates = _CANDIDATES.get(classifier.device.type, _CANDIDATES["cpu"])
    speeds: dict[int, float] = {}
    for batch_size in [size for size in candidates if size <= at_most] or [at_most]:
        speed = _speed(classifier, image, batch_size)
        if speed is None:
            break
        speeds[batch_size] = speed
        behind = [speeds[size] < _BEHIND * max(speeds.values()) for size in list(speeds)[-2:]]
        if behind == [True, True]:
            break
    if not speeds:
        speeds = {1: _measure_single(classifier, image)}
    near = [size for size, speed in speeds.items() if speed >= _NEAR * max(speeds.values())]
    if len(near) > 1:
        speeds = _in_turns(classifier, image, near) or speeds
    best = next(size for size in speeds if speeds[size] >= _AS_GOOD * max(speeds.values()))
    _remember(key, best)
    return BatchChoice(best, speeds[best])


def _in_turns(classifier: Classifier, image: Tensor, sizes: list[int]) -> dict[int, float]:
    """Median images per second of each size that fits, over turns of all."""
    timings: dict[int, list[float]] = {size: [] for size in sizes}
    started = time.perf_counter()
    for turn in range(_MOST_TURNS):
        if turn >= _LEAST_TURNS and time.perf_counter() - started > _SECONDS_OF_TURNS:
            break
        for size in list(timings):
            speed = _speed(classifier, image, size)
            if speed is None:
                del timings[size]
            else:
                timings[size].append(speed)
    return {size: statistics.median(speeds) for size, speeds in timings.items()}


def _speed(classifier: Classifier, image: Tensor, batch_size: int) -> float | None:
    """Images per second; None when memory runs out."""
    try:
        return measure_batch(classifier, image, batch_size, _SECONDS_PER_TIMING)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _forget_memory(classifier)
        return None


def _measure_single(classifier: Classifier, image: Tensor) -> float:
    try:
        return measure_batch(classifier, image, 1, _SECONDS_PER_TIMING)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SettingsError(
            "Memory does not hold a single image's forward pass.",
            "Free memory, or use a smaller --size, a half-precision --dtype or another --device.",
        ) from error


def _forget_memory(classifier: Classifier) -> None:
    if classifier.device.type == "cuda":
        torch.cuda.empty_cache()


class _CompiledForFullBatches(nn.Module):
    """A network that is compiled for images of one shape in batches of one size.

    Other batches, and passes that gradients are taken of, go through the network as it is: each
    would have to be compiled by itself.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.shape = shape
        self.compiled = torch.compile(network, dynamic=False)

    def forward(self, images: Tensor) -> Any:
        """What the network answers to `images` (B, C, H, W)."""
        full = tuple(images.shape) == self.shape and torch.is_inference_mode_enabled()
        return self.compiled(images) if full else self.network(images)


def compiled_if_it_pays(
    classifier: Classifier,
    image: Tensor,
    batch_size: int,
    n_passes: int,
    weights_digest: str,
    *,
    earlier: bool | None = None,
) -> Classifier:
    """`classifier`, or one whose full batches run through `torch.compile` where that is faster.

    Compiling is tried only where `n_passes` would take long enough to win back its time; it is kept
    where the answers are the same to rounding and come faster by a margin. Any failure of the
    compiler leaves the classifier as it is. The choice is remembered, so that a run that goes on
    after an interruption makes the same; `earlier` is the run's own record of it, where it has one.
    """
    key = _machine_key(classifier, image, weights_digest, n_passes, "compiled", batch_size)
    known = _recall(key) if earlier is None else earlier
    if known is False:
        return classifier
    if known is None:
        if n_passes < _FEWEST_WORTH_TIMING:
            return classifier
        speed = measure_batch(classifier, image, batch_size, _SECONDS_PER_TIMING)
        if n_passes / speed < _SECONDS_WORTH_COMPILING:
            return classifier
    compiled = _compiled(classifier, image, batch_size)
    pays = compiled is not None and (known is True or _is_faster(compiled, classifier, image, batch_size))
    if known is None:
        _remember(key, pays)
    return compiled if compiled is not None and pays else classifier


def _compiled(classifier: Classifier, image: Tensor, batch_size: int) -> Classifier | None:
    """A compiled classifier that gives the same answers; None where there is no such."""
    shape = (batch_size, *image.shape)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    # Different images: a compiled model must not have taken the first one's path for all.
    images = (image + 0.1 * (noise.to(image.device, image.dtype) - 0.5)).clamp(0, 1)
    try:
        with _quiet():
            compiled = replace(classifier, network=_CompiledForFullBatches(classifier.network, shape))
            ours = compiled(images).cpu().double()
    except Exception:  # a compiler may raise anything, and is not needed
        return None
    theirs = classifier(images).cpu().double()
    share = _SAME_LOGITS[classifier.dtype] if classifier.autocast is None else _SAME_HALF_LOGITS
    largest = float(theirs.abs().max())
    same = ours.shape == theirs.shape and bool(((ours - theirs).abs() <= share * largest).all())
    return compiled if same else None


def _is_faster(compiled: Classifier, classifier: Classifier, image: Tensor, batch_size: int) -> bool:
    """Whether median probes per second of `compiled` beat those of `classifier` by the margin."""
    ratios = [
        measure_batch(compiled, image, batch_size, _SECONDS_PER_TIMING)
        / measure_batch(classifier, image, batch_size, _SECONDS_PER_TIMING)
        for _ in range(_MOST_TURNS)
    ]
    return statistics.median(ratios) >= _FASTER_COMPILED


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of the compiler inside: whether it works is for the caller to see."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def peak_memory_bytes(device: torch.device) -> int:
    """Highest memory use so far: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _machine_key(
    classifier: Classifier, image: Tensor, weights_digest: str, n_passes: int, *more: str | int
) -> str:
    parts: list[Any] = [
        _REVISION,
        platform.node(),
        platform.machine(),
        device_name(classifier.device),
        torch.get_num_threads(),
        torch.__version__,
        str(classifier.dtype),
        str(classifier.autocast),
        tuple(image.shape),
        weights_digest,
        n_passes,
        str(classifier.layout),
        *more,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _memory_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "shortcut-audit" / "batch_sizes.json"


def _recall(key: str) -> int | bool | None:
    try:
        known = json.loads(_memory_file().read_text(encoding="utf-8"))
        choice = known.get(key)
    except (OSError, ValueError, AttributeError):
        return None
    return choice if isinstance(choice, int) else None


def _remember(key: str, choice: int | bool) -> None:
    path = _memory_file()
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    known[key] = choice
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        aside.replace(path)
    except OSError:
        # A read-only home only costs the next run its tuning.
        return
