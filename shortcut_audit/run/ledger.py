"""The ledger: totals of finished shards, one file each, under their content keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.errors import ResultError
from shortcut_audit.results.store import read_arrays, write_arrays

__all__ = ["Entry", "Ledger"]


@dataclass(frozen=True)
class Entry:
    """Totals of a shard, and the seconds they took when they were measured."""

    totals: Mapping[str, NDArray[Any]]
    seconds: float


@dataclass(frozen=True)
class Ledger:
    """A folder of shard files. A file is there whole or not at all; a damaged one counts as missing."""

    folder: Path

    def path(self, key: str) -> Path:
        """File of a shard."""
        return self.folder / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether a shard is done, and its file sound."""
        return self.get(key) is not None

    def get(self, key: str) -> Entry | None:
        """Totals of a shard; None when it is still to be run."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            totals, metadata = read_arrays(path)
            if metadata.get("key") != key or metadata.get("digest") != _digest(totals):
                return None
            return Entry(totals, float(metadata["seconds"]))
        except (ResultError, KeyError, ValueError):
            return None

    def put(self, key: str, totals: Mapping[str, NDArray[Any]], seconds: float) -> None:
        """Keep the totals of a shard, durably."""
        self.folder.mkdir(parents=True, exist_ok=True)
        metadata = {"key": key, "digest": _digest(totals), "seconds": f"{seconds:.6f}"}
        write_arrays(self.path(key), totals, metadata)


def _digest(totals: Mapping[str, NDArray[Any]]) -> str:
    state = hashlib.sha256()
    for name in sorted(totals):
        array = np.ascontiguousarray(totals[name])
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
