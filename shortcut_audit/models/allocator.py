"""Keeps big buffers with the process while a model runs on a CPU.

By default glibc maps every large buffer afresh and gives it back after use, so that each batch pays
for its pages again: up to half of the speed at larger batches. With mapping off and trimming
deferred the same pages serve batch after batch.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held_buffers"]

# Parameters of mallopt(3), with glibc's defaults.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_DEFAULTS = {_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 128 * 1024, _M_MMAP_THRESHOLD: 128 * 1024}
_HELD = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1}


@contextmanager
def held_buffers(device_type: str) -> Iterator[None]:
    """Hold freed memory for the length of a `with` block, on a CPU under glibc; else do nothing.

    Afterwards the defaults are back and free memory is returned to the system.
    """
    libc = _glibc() if device_type == "cpu" else None
    if libc is None:
        yield
        return
    for parameter, value in _HELD.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
