"""Finds the fastest batch size that fits, on the real model, device and kind of work.

The choice is remembered per machine, model and image shape: tuning is a measurement, and two runs
of one command should make the same batches (whose sums differ in the last bits) and not measure
twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shortcut_audit.errors import SettingsError
from shortcut_audit.measures.responses import RESPONSE_FUNCTIONS
from shortcut_audit.models.classifier import Classifier, device_name, is_out_of_memory

__all__ = [
    "BatchChoice",
    "measure_batch",
    "peak_memory_bytes",
    "tune_batch_size",
]

_CANDIDATES = {
    "cpu": (8, 16, 32, 48, 64, 96, 128, 192, 256),
    "cuda": (32, 64, 128, 256, 512, 1024, 2048, 4096),
}
# Among sizes as good as equal the smallest wins: it takes the least memory.
_AS_GOOD = 0.99
# A size this much behind the best says that the best has been passed.
_BEHIND = 0.97
_SECONDS_PER_TIMING, _TIMINGS = 0.12, 3


@dataclass(frozen=True)
class BatchChoice:
    """A batch size, and the images per second measured with it (None when remembered)."""

    batch_size: int
    images_per_second: float | None
    remembered: bool = False


def measure_batch(classifier: Classifier, image: Tensor, batch_size: int, seconds: float) -> float:
    """Images per second of probes (pass and responses) of copies of `image` (C, H, W) in one batch."""
    batch = image.expand(batch_size, *image.shape).contiguous()
    _probe(classifier, batch)
    _wait(classifier)
    n_images, started, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds:
        _probe(classifier, batch)
        _wait(classifier)
        n_images += batch_size
        elapsed = time.perf_counter() - started
    return n_images / elapsed


def _probe(classifier: Classifier, batch: Tensor) -> None:
    # Each batch costs the same handful of small operations; small batches pay for them more often.
    answer = classifier(batch)
    logits = answer if answer.device.type == "mps" else answer.double()
    for response in RESPONSE_FUNCTIONS.values():
        response(logits, logits, 0)


def _wait(classifier: Classifier) -> None:
    if classifier.device.type == "cuda":
        torch.cuda.synchronize(classifier.device)


def tune_batch_size(
    classifier: Classifier, image: Tensor, weights_digest: str, at_most: int
) -> BatchChoice:
    """The smallest batch size that is as fast as any, not above `at_most` images.

    Sizes are tried upwards until memory runs out or two in a row fall behind. Raises
    SettingsError when not even one image fits.
    """
    key = _machine_key(classifier, image, weights_digest, at_most)
    remembered = _recall(key)
    if remembered is not None:
        return BatchChoice(remembered, None, remembered=True)
    candidates = _CANDIDATES.get(classifier.device.type, _CANDIDATES["cpu"])
    speeds: dict[int, float] = {}
    for batch_size in [size for size in candidates if size <= at_most] or [at_most]:
        speed = _best_speed(classifier, image, batch_size)
        if speed is None:
            break
        speeds[batch_size] = speed
        behind = [speeds[size] < _BEHIND * max(speeds.values()) for size in list(speeds)[-2:]]
        if behind == [True, True]:
            break
    if not speeds:
        speeds = {1: _measure_single(classifier, image)}
    best = next(size for size in speeds if speeds[size] >= _AS_GOOD * max(speeds.values()))
    _remember(key, best)
    return BatchChoice(best, speeds[best])


def _best_speed(classifier: Classifier, image: Tensor, batch_size: int) -> float | None:
    """Images per second, the best of a few short timings; None when memory runs out."""
    try:
        return max(
            measure_batch(classifier, image, batch_size, _SECONDS_PER_TIMING) for _ in range(_TIMINGS)
        )
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


def _machine_key(classifier: Classifier, image: Tensor, weights_digest: str, at_most: int) -> str:
    parts: list[Any] = [
        platform.node(),
        platform.machine(),
        device_name(classifier.device),
        torch.get_num_threads(),
        torch.__version__,
        str(classifier.dtype),
        str(classifier.autocast),
        tuple(image.shape),
        weights_digest,
        at_most,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _memory_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "shortcut-audit" / "batch_sizes.json"


def _recall(key: str) -> int | None:
    try:
        known = json.loads(_memory_file().read_text(encoding="utf-8"))
        size = known.get(key)
    except (OSError, ValueError, AttributeError):
        return None
    return size if isinstance(size, int) and size >= 1 else None


def _remember(key: str, batch_size: int) -> None:
    path = _memory_file()
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    known[key] = batch_size
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        aside.replace(path)
    except OSError:
        # A read-only home only costs the next run its tuning.
        return
