"""What every command writes to the terminal with."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "plain", "say"]


def say(text: str) -> None:
    """Print plain text: names of the user's are no markup, and steer no terminal."""
    typer.echo("\n".join(plain(line) for line in text.split("\n")))


def plain(text: str) -> str:
    """`text` of one line with its control characters spelt out."""
    return "".join(c if unicodedata.category(c) != "Cc" else repr(c)[1:-1] for c in text)


def console(stderr: bool = False) -> Console:
    """A rich console, for tables and progress."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
