"""How every page is made from its template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from shortcut_audit.report.summary import duration, interval_text, percent

__all__ = ["rendered"]


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
