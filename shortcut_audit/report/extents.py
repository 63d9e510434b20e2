"""How much of an audit a page shows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Extents"]


@dataclass(frozen=True)
class Extents:
    """Classes with pictures, and rows of a table or list, the worst first; the rest is counted."""

    n_pictured: int
    n_listed: int
