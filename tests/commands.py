"""The command line as `main` runs it, in this process."""

from __future__ import annotations

import sys

import pytest

from shortcut_audit.cli import main as command_line

__all__ = ["run_command"]


def run_command(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of `shortcut-audit WORDS`, errors included."""
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", *map(str, words)])
    try:
        command_line.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
