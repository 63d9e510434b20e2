"""`shortcut-audit schema`: the JSON schema of result.json."""

from __future__ import annotations

import typer

__all__ = ["schema"]


def schema() -> None:
    """Print the JSON schema of result.json."""
    import json

    from shortcut_audit.results.store import result_schema

    typer.echo(json.dumps(result_schema(), indent=1))
