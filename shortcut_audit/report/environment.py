"""How every page is made from its template."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from shortcut_audit.report.legible import legible
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


def rendered(
    template: str,
    filters: dict[str, Callable[..., Any]],
    *,
    script: str | None = None,
    **content: Any,
) -> str:
    """The page of a template with `content`, all of it escaped; equal content gives equal bytes.

    `filters` come on top of those that every page has; `script`: the asset that the page runs. The
    page's policy allows its own style and script by their hashes, pictures inside the page, and nothing
    else.
    """
    environment = Environment(
        loader=PackageLoader("shortcut_audit.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_legible,
    )
    environment.filters.update(
        percent=percent,
        interval=interval_text,
        duration=duration,
        coded=_coded,
        named=_named,
        **filters,
    )
    style = _asset("page.css")
    running = "" if script is None else _asset(script)
    return environment.get_template(template).render(
        page_style=Markup(style),
        page_script=Markup(running),
        page_policy=_policy(style, running),
        **content,
    )


def _legible(value: Any) -> Any:
    """Strings that the template shows, but what is markup already."""
    return legible(value) if type(value) is str else value


def _asset(name: str) -> str:
    return (resources.files("shortcut_audit.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    parts = ["default-src 'none'", "img-src data:", f"style-src {_hash(style)}"]
    if script:
        parts.append(f"script-src {_hash(script)}")
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _named(name: str) -> str:
    """A name for a heading: a class may have an empty one, a heading may not."""
    return name if name.strip() else "(no name)"


def _coded(text: str) -> Markup:
    """`text`, escaped, with what stands in `backticks` as code."""
    parts = re.split(r"`([^`]*)`", legible(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )
