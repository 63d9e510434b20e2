"""docs/ci.md put together as a repository by its own words, and run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from audited import Made, made_audit
from typer.testing import CliRunner
from workflows import REPOSITORY, plugin_environment, run_action, run_gitlab_job, tools

from shortcut_audit.cli.main import app
from shortcut_audit.gate.policy_file import read_policy

PAGE = (REPOSITORY / "docs" / "ci.md").read_text()
# As the page's policy has it: a frog's shortcut is known.
FROG: Any = ("no shortcut", "no shortcut", "shortcut")
HORSE: Any = ("shortcut", "no shortcut", "no shortcut")
BOTH: Any = ("shortcut", "no shortcut", "shortcut")
ACCEPTED = Made(turned=(0.02, 0.02, 0.6), verdicts=FROG)
WORSE = Made(turned=(0.6, 0.02, 0.6), verdicts=BOTH)
BAD = Made(turned=(0.6, 0.02, 0.02), verdicts=HORSE)
DAY = "2026-11-22"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the file that the line before it names, if any."""

    language: str
    text: str
    file: str


def blocks() -> Iterator[Block]:
    name = r"(?:^`([.\w][\w./-]*)`[^\n]*:\n\n)?"
    fence = re.compile(rf"{name}^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for found in fence.finditer(PAGE):
        yield Block(found[2], found[3], found[1] or "")


BLOCKS = list(blocks())
FILES = {block.file: block.text for block in BLOCKS if block.file}
TEXTS = [block.text for block in BLOCKS if block.language == "text" and not block.file]
COMMANDS = [
    line
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The page's files, an accepted audit, and one that is as good."""
    folder = tmp_path / "repository"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, made in (("audits/baseline", ACCEPTED), ("runs/candidate", ACCEPTED), ("worse", WORSE)):
        made_audit(made).save(folder / name)
    return folder


def checked(folder: Path, run: str, monkeypatch: pytest.MonkeyPatch, day: str = DAY) -> tuple[int, str]:
    """Code and output of the page's check, on a day on which its debt lives."""
    monkeypatch.chdir(folder)
    shutil.copytree(folder / run, folder / "runs" / "candidate", dirs_exist_ok=True)
    arguments = "gate check runs/candidate --policy gate.toml --baseline audits/baseline --date"
    done = CliRunner().invoke(app, [*arguments.split(), day])
    return done.exit_code, done.stdout


def test_every_block_is_looked_at() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert set(FILES) == {
        ".gitignore", "gate.toml", ".github/workflows/gate.yml", ".gitlab-ci.yml",
        "checks/test_shortcuts.py", ".pre-commit-config.yaml",
    }  # fmt: skip
    layout, sample, badge = TEXTS
    for line in layout.splitlines():
        name = line.split()[0]
        assert name in FILES or name == "audits/baseline/"
    assert "Gate failed" in sample
    assert badge.startswith("![")
    assert {block.language for block in BLOCKS if not block.file} == {"sh", "text"}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_there_with_their_options(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program in ("shortcut-audit", "cp", "mkdir", "git")
    if program == "shortcut-audit":
        done = CliRunner().invoke(app, [*arguments, "--help"])
        assert done.exit_code == 0, done.output


def test_the_policy_holds_and_is_kept(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = read_policy(repository / "gate.toml")
    assert (len(policy.rules), len(policy.debts)) == (3, 1)
    code, told = checked(repository, "audits/baseline", monkeypatch)
    assert (code, "1 known and 6 passed of 7 checks" in told) == (0, True), told


def test_a_red_check_looks_as_it_is_shown(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = checked(repository, "worse", monkeypatch)
    assert code == 1
    assert TEXTS[1] in told


def test_debts_end_as_the_page_says(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = checked(repository, "audits/baseline", monkeypatch, "2027-05-01")
    assert code == 0
    code, told = checked(repository, "audits/baseline", monkeypatch, "2027-05-02")
    assert code == 1
    assert "expired on 2027-05-01" in told


def test_the_workflow_is_put_together_right() -> None:
    workflow = yaml.safe_load(FILES[".github/workflows/gate.yml"])
    # YAML reads `on` as true.
    assert set(workflow[True]) == {"pull_request", "push"}
    assert workflow["permissions"] == {"contents": "read"}
    checkout, gate = workflow["jobs"]["gate"]["steps"]
    assert re.fullmatch(r"actions/checkout@v\d+", checkout["uses"])
    assert gate["uses"].startswith("OWNER/shortcut-audit@v")


@pytest.mark.parametrize(("made", "code", "outcome"), [(Made(), 0, "passed"), (BAD, 1, "failed")])
def test_the_workflow_runs_the_action(
    repository: Path, tmp_path: Path, made: Made, code: int, outcome: str
) -> None:
    inputs = yaml.safe_load(FILES[".github/workflows/gate.yml"])["jobs"]["gate"]["steps"][1]["with"]
    # The debt of the page expires some day; what is audited here owes nothing.
    made_audit(Made()).save(repository / "audits" / "baseline")
    made_audit(made).save(tmp_path / "made")
    audit = f'echo "$@"; mkdir -p runs; cp -r "{tmp_path}/made/." runs/candidate/'
    done = run_action(repository, tools(tmp_path, audit), **inputs)
    assert done.code == code, done.log
    assert "audit --model classifier.py:classifier --checkpoint weights.safetensors" in done.log
    assert done.outputs["outcome"] == outcome


def test_the_gitlab_pipeline_runs_the_component(repository: Path, tmp_path: Path) -> None:
    (include,) = yaml.safe_load(FILES[".gitlab-ci.yml"])["include"]
    name = include["component"].rpartition("/")[2].partition("@")[0]
    assert (REPOSITORY / "templates" / f"{name}.yml").is_file()
    made_audit(Made()).save(repository / "audits" / "baseline")
    audit = "mkdir -p runs/candidate && cp audits/baseline/* runs/candidate/"
    code, log, _ = run_gitlab_job(repository, tools(tmp_path, audit), **include["inputs"])
    assert code == 0, log
    assert "Gate passed" in log


@pytest.mark.parametrize(("made", "code", "told"), [(Made(), 0, "2 passed"), (BAD, 1, "2 failed")])
def test_the_tests_run(repository: Path, tmp_path: Path, made: Made, code: int, told: str) -> None:
    # As it would be once the debt is paid, or has expired.
    (repository / "gate.toml").write_text(FILES["gate.toml"].partition("[[debt]]")[0])
    made_audit(Made()).save(repository / "audits" / "baseline")
    made_audit(made).save(repository / "runs" / "candidate")
    plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist", "--rootdir=."]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plain, "checks"], cwd=repository,
        env=plugin_environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert told in done.stdout


def test_the_hook_is_there() -> None:
    (entry,) = yaml.safe_load(FILES[".pre-commit-config.yaml"])["repos"]
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    assert {hook["id"] for hook in entry["hooks"]} == {hook["id"] for hook in hooks}
    assert re.fullmatch(r"v\d+\.\d+\.\d+", entry["rev"])


def test_inputs_and_outputs_are_listed() -> None:
    action = yaml.safe_load((REPOSITORY / "action.yml").read_text())
    rows = "".join(re.findall(r"^\| `.*", PAGE, re.MULTILINE))
    for name in action["inputs"]:
        assert f"`{name}`" in rows
    (sentence,) = re.findall(r"^Outputs: .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    for name in action["outputs"]:
        assert f"`{name}`" in sentence
    assert f"| `python-version` | {action['inputs']['python-version']['default']} |" in PAGE
