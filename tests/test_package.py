"""The house itself: what importing costs, what is public, what the files promise."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import shortcut_audit

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("torch", "timm", "kornia", "matplotlib", "seaborn", "scipy", "pandas", "numpy")


def loaded_by(code: str) -> set[str]:
    code += f"\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import shortcut_audit") == set()


def test_the_command_line_starts_without_anything_heavy() -> None:
    assert loaded_by("import shortcut_audit.cli.main") == set()


def test_public_names_are_there_and_others_are_not() -> None:
    for name in shortcut_audit.__all__:
        assert getattr(shortcut_audit, name) is not None
    assert dir(shortcut_audit) == sorted(shortcut_audit.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = shortcut_audit.nothing


def test_version_is_one_place() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert shortcut_audit.__version__ in (REPOSITORY / "CHANGELOG.md").read_text()


def test_every_dependency_has_a_tested_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {entry.split(">")[0].split("[")[0].lower() for entry in wanted} - {"shortcut-audit"}
    assert names <= pinned


def test_no_module_outgrows_its_room() -> None:
    for path in (REPOSITORY / "shortcut_audit").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path
