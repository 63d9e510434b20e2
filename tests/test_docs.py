"""What the documentation promises, run as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shortcut_audit.cli.main import COMMANDS
from shortcut_audit.results.tables import TABLES

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_the_readmes_python_example_runs(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert code is not None
    done = subprocess.run(
        [sys.executable, "-c", code.group(1)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "map_reliability" in done.stdout
    assert (tmp_path / "my-run" / "report.html").is_file()


def test_the_readmes_first_commands_are_make_targets() -> None:
    first = (REPOSITORY / "README.md").read_text().split("```")[1]
    targets = re.findall(r"^make ([\w-]+)", first, re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in targets:
        assert f"\n{target}:" in makefile
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:docs|reports|tests|examples|benchmarks|shortcut_audit)/[\w./-]+)`", page.read_text()
    )
    for name in named:
        assert (REPOSITORY / name).exists(), name
    for name in re.findall(
        r"`((?:fourier|data|measures|results|run|report|models)/[\w./]+)`", page.read_text()
    ):
        if "your_name" not in name:
            assert (REPOSITORY / "shortcut_audit" / name).exists(), name


def test_every_command_and_table_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for command in COMMANDS:
        assert f"shortcut-audit {command}" in text
    for table in TABLES:
        assert f"`{table}`" in text


def test_docstring_examples_hold() -> None:
    modules = [
        path for path in (REPOSITORY / "shortcut_audit").rglob("*.py") if ">>> " in path.read_text()
    ]
    assert len(modules) >= 5
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--doctest-modules", *modules],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    ran = {line.split("::")[0] for line in done.stdout.splitlines() if "PASSED" in line}
    assert ran == {str(path.relative_to(REPOSITORY)) for path in modules}
