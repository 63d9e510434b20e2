"""How every page is made from its template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from shortcut_audit.report.summary import duration, interval_text, percent

__all__ = ["FrameData", "FrameProvenance", "FrameView", "rendered"]


@dataclass(frozen=True)
class FrameView:
    """What the page's frame asks of a result."""

    provenance: object
    notes: tuple[str, ...]
    skipped: tuple[object, ...] = ()


@dataclass(frozen=True)
class FrameProvenance:
    """Where the result of a page comes from, as the frame shows it."""

    versions: dict[str, str]
    command: str
    seed: int
    data: object


@dataclass(frozen=True)
class FrameData:
    """The images of a page's result, as the frame shows them."""

    spec: str
    n_used: int
    n_available: int
    digest: str


def rendered(template: str, filters: dict[str, Callable[..., Any]], **content: Any) -> str:
    """The page of a template with `content`, all of it escaped; equal content gives equal bytes.

    `filters` come on top of those that every page has.
    """
    environment = Environment(
        loader=PackageLoader("shortcut_audit.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, interval=interval_text, duration=duration, **filters)
    return environment.get_template(template).render(**content)
