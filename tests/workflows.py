"""Composite actions and GitLab components run here as their runners run them: the scripts themselves.

Other actions (checkout, caches, uploads) are not run but noted. `python -m pip` is noted too, and does
nothing: everything is installed already.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "REPOSITORY",
    "ActionRun",
    "is_executable",
    "plugin_environment",
    "run_action",
    "run_gitlab_job",
    "tools",
]

REPOSITORY = Path(__file__).parent.parent


@dataclass
class ActionRun:
    """What came of an action: exit code (0, or that of the first step that failed), all that was printed,
    `outputs` and `summary`; names of the steps that ran, `uses` by step with what each was given."""

    code: int = 0
    log: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    ran: list[str] = field(default_factory=list)
    uses: dict[str, dict[str, str]] = field(default_factory=dict)
    installed: str = ""


def tools(folder: Path, audit: str = "") -> dict[str, str]:
    """An environment whose `python -m pip` only takes notes (in `pip.log`), and whose `shortcut-audit` is
    this checkout's; `shortcut-audit audit` runs the shell lines `audit` instead, if there are any."""
    place = folder / "tools"
    place.mkdir(parents=True)
    python = f"""#!/bin/sh
if [ "$1 $2 $3" = "-m pip cache" ]; then echo /cache/pip; exit; fi
if [ "$1 $2" = "-m pip" ]; then echo "$@" >>"{folder}/pip.log"; exit; fi
exec "{sys.executable}" "$@"
"""
    instead = f'if [ "$1" = audit ]; then\n{audit}\nexit\nfi' if audit else ""
    command = f"""#!/bin/sh
{instead}
exec "{sys.executable}" -m shortcut_audit "$@"
"""
    for name, text in (("python", python), ("shortcut-audit", command)):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    gone = ("GITHUB_", "RUNNER_", "CI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(gone)}
    path = os.pathsep.join([str(place), os.environ["PATH"]])
    return {**kept, "PATH": path, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def run_action(folder: Path, environment: dict[str, str], until: str = "", **inputs: str) -> ActionRun:
    """Run action.yml with `folder` as the workspace, `until` a step's name or to its end.

    `_` in names of inputs stands for `-`.
    """
    action = yaml.safe_load((REPOSITORY / "action.yml").read_text())
    given = {name.replace("_", "-"): value for name, value in inputs.items()}
    unknown = set(given) - set(action["inputs"])
    assert not unknown, f"no such inputs: {unknown}"
    values = {name: str(each.get("default", "")) for name, each in action["inputs"].items()} | given
    temporary = folder.parent / f"{folder.name}-runner"
    temporary.mkdir(exist_ok=True)
    known = {f"inputs.{name}": value for name, value in values.items()}
    known |= {"github.action_path": str(REPOSITORY), "github.run_id": "7", "github.run_attempt": "1"}
    run = ActionRun()
    for number, step in enumerate(action["runs"]["steps"]):
        name = step.get("id", step["name"])
        if until and until in run.ran:
            break
        if not _wanted(step.get("if"), known, run.code):
            known[f"steps.{name}.outcome"] = "skipped"
            continue
        run.ran.append(step["name"])
        known[f"steps.{name}.outcome"] = "success"
        if "uses" in step:
            with_ = {key: _filled(str(value), known) for key, value in step.get("with", {}).items()}
            run.uses[step["name"]] = with_
            continue
        files = {
            "GITHUB_OUTPUT": temporary / f"output-{number}",
            "GITHUB_STEP_SUMMARY": temporary / f"summary-{number}",
        }
        for path in files.values():
            path.write_text("")
        own = {key: _filled(value, known) for key, value in step.get("env", {}).items()}
        runner = {"GITHUB_ACTIONS": "true", "RUNNER_TEMP": str(temporary), "RUNNER_OS": "Linux"}
        done = _bash(step["run"], folder, {**environment, **runner, **_texts(files), **own})
        run.log += done.stdout
        run.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        for line in files["GITHUB_OUTPUT"].read_text().splitlines():
            key, _, value = line.partition("=")
            known[f"steps.{name}.outputs.{key}"] = value
        if done.returncode:
            known[f"steps.{name}.outcome"] = "failure"
            run.code = run.code or done.returncode
    run.outputs = {name: _filled(each["value"], known) for name, each in action["outputs"].items()}
    notes = Path(environment["PATH"].split(os.pathsep)[0]).parent / "pip.log"
    run.installed = notes.read_text() if notes.is_file() else ""
    return run


def run_gitlab_job(folder: Path, environment: dict[str, str], **inputs: str) -> tuple[int, str, Any]:
    """Run the only job of the GitLab component: its exit code, what was printed, and the job itself."""
    text = (REPOSITORY / "templates" / "shortcut-audit-gate.yml").read_text()
    head, body = yaml.safe_load_all(text)
    declared = head["spec"]["inputs"]
    unknown = set(inputs) - set(declared)
    assert not unknown, f"no such inputs: {unknown}"
    values = {name: each["default"] for name, each in declared.items() if "default" in each} | inputs
    ((name, job),) = _interpolated(body, values).items()
    assert name == values["job"]
    variables = {}
    for key, each in job["variables"].items():
        value = each["value"] if isinstance(each, dict) else each
        expand = not isinstance(each, dict) or each.get("expand", True)
        variables[key] = _expanded(value, {"CI_PROJECT_DIR": str(folder)}) if expand else value
    done = _bash("\n".join(job["script"]), folder, {**environment, **variables})
    return done.returncode, done.stdout, job


def plugin_environment(folder: Path) -> dict[str, str]:
    """An environment where pytest finds the entry points of pyproject.toml, installed or not; `folder` is
    a place for them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["pytest11"]
    metadata = folder / "packages" / "shortcut_audit_entry-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shortcut-audit-entry\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]) + "\n")
    paths = [str(metadata.parent), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    gone = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _bash(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def _texts(files: dict[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in files.items()}


def _filled(text: str, known: dict[str, str]) -> str:
    """`${{ name }}` replaced; a name that nobody has set is empty, as on GitHub."""
    return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: known.get(found[1], ""), text)


def _wanted(condition: str | None, known: dict[str, str], code: int) -> bool:
    """Whether a step runs: `a != 'b' && always()`, and success where it does not say otherwise."""
    if condition is None:
        return code == 0
    terms = [
        term.strip() for term in condition.strip().removeprefix("${{").removesuffix("}}").split("&&")
    ]
    if "always()" not in terms and code:
        return False
    for term in terms:
        if term == "always()":
            continue
        found = re.fullmatch(r"([\w.-]+) (!=|==) '([^']*)'", term)
        assert found is not None, f"not understood: {term}"
        same = known.get(found[1], "") == found[3]
        if same != (found[2] == "=="):
            return False
    return True


def _expanded(text: str, known: dict[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced, as GitLab does in variables; one it does not know is empty."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], ""), text)


def _interpolated(node: Any, values: dict[str, str]) -> Any:
    """`$[[ inputs.name ]]` replaced in every string."""
    if isinstance(node, dict):
        return {_interpolated(key, values): _interpolated(each, values) for key, each in node.items()}
    if isinstance(node, list):
        return [_interpolated(each, values) for each in node]
    if isinstance(node, str):
        return re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda found: values[found[1]], node)
    return node


def is_executable(path: Path) -> bool:
    """Whether its owner may run it."""
    return bool(path.stat().st_mode & stat.S_IXUSR)
