"""The composite action, the GitLab component and the pre-commit hook: their own scripts, run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from audited import Made, made_audit
from typer.testing import CliRunner
from workflows import REPOSITORY, ActionRun, is_executable, run_action, run_gitlab_job, tools

from shortcut_audit.cli.main import app

ACTION = yaml.safe_load((REPOSITORY / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
HORSE: Any = ("shortcut", "no shortcut", "no shortcut")
# The last one's accuracy fell, by about what chance does.
MADE = {
    "base": Made(), "bad": Made(turned=(0.6, 0.02, 0.02), verdicts=HORSE),
    "doubtful": Made(accuracy=(0.82, 0.9, 0.9)), "others": Made(names=("a", "b", "c")),
    "unjudged": Made(verdicts=("not judged", "no shortcut", "no shortcut")),
}  # fmt: skip

Run = Callable[..., ActionRun]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audits by name, and a policy frozen from `base`."""
    folder = tmp_path_factory.mktemp("stored")
    for name, made in MADE.items():
        made_audit(made).save(folder / name)
    policy = ["gate", "init", str(folder / "base"), "-o", str(folder / "gate.toml")]
    assert CliRunner().invoke(app, policy).exit_code == 0
    return folder


@pytest.fixture
def workspace(stored: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "work space"
    shutil.copytree(stored, folder)
    return folder


@pytest.fixture
def run(workspace: Path, tmp_path: Path) -> Run:
    environment = tools(tmp_path)
    return lambda **inputs: run_action(workspace, environment, **inputs)


def test_the_action_is_put_together_right() -> None:
    text = (REPOSITORY / "action.yml").read_text()
    asked = set(re.findall(r"inputs\.([\w-]+)", text))
    assert asked == set(ACTION["inputs"])
    assert ACTION["inputs"]["run"]["required"] is True
    assert all("default" in each for name, each in ACTION["inputs"].items() if name != "run")
    ids = {step["id"] for step in STEPS if "id" in step}
    assert set(re.findall(r"steps\.([\w-]+)\.", text)) <= ids
    for step in STEPS:
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w/-]+@v\d+", step["uses"])
            continue
        assert step["shell"] == "bash"
        # What a user or a class name says must reach a script as a variable, never as code.
        assert "${{" not in step["run"]
        (script,) = re.findall(r'^bash "\$ACTION_PATH/([\w/.]+)"$', step["run"])
        assert is_executable(REPOSITORY / script)
        used = set(re.findall(r"\$\{?([A-Z_]{2,})", (REPOSITORY / script).read_text()))
        of_runner = {"GITHUB_OUTPUT", "RUNNER_TEMP", "RUNNER_OS", "RUNNER_ARCH"}
        assert used - of_runner <= set(step["env"])
        assert set(step["env"]) - {"ACTION_PATH"} <= used


def test_an_audit_that_passes(run: Run, workspace: Path) -> None:
    shutil.copytree(workspace / "base", workspace / "same")
    done = run(run="base", baseline="same")
    assert done.code == 0, done.log
    assert "::error" not in done.log
    assert (done.outputs["outcome"], done.outputs["exit-code"]) == ("passed", "0")
    assert "Gate passed" in done.summary
    reports = Path(done.outputs["reports"])
    assert json.loads((reports / "gate.json").read_text())["outcome"] == "passed"
    assert json.loads((reports / "badge.json").read_text())["message"].startswith("passed")
    assert ElementTree.parse(reports / "gate.xml").getroot().get("failures") == "0"
    assert (reports / "run" / "result.json").read_bytes() == (workspace / "base/result.json").read_bytes()
    assert done.uses["Reports"] == {
        "name": "shortcut-audit-gate", "path": str(reports), "if-no-files-found": "ignore"
    }  # fmt: skip
    assert done.ran == ["Python", "Inputs", "Packages, cached", "Install", "Gate", "Reports"]


def test_an_audit_that_fails_names_the_class(run: Run) -> None:
    done = run(run="bad", baseline="base", policy="gate.toml")
    assert done.code == 1
    (title,) = re.findall(
        r"^::error title=(horse%3A no class becomes a shortcut)::", done.log, re.MULTILINE
    )
    assert title
    assert "ship" not in "".join(re.findall(r"^::error.*", done.log, re.MULTILINE))
    assert "| ❌ failed | horse | no class becomes a shortcut |" in done.summary
    assert done.outputs["outcome"] == "failed"
    assert done.ran[-1] == "Reports"


@pytest.mark.parametrize(
    ("fail_on", "name", "code", "outcome"),
    [
        ("never", "bad", 0, "failed"),
        ("never", "nowhere", 2, "unusable"),
        ("never", "others", 2, "unusable"),
        ("never", "unjudged", 3, "incomplete"),
        ("failure", "doubtful", 0, "passed"),
        ("warning", "doubtful", 1, "passed"),
        ("warning", "base", 0, "passed"),
    ],
)
def test_what_fails_is_a_choice_but_for_what_could_not_be_checked(
    run: Run, fail_on: str, name: str, code: int, outcome: str
) -> None:
    done = run(run=name, fail_on=fail_on)
    assert (done.code, done.outputs["outcome"]) == (code, outcome), done.log
    assert (int(done.outputs["warnings"]) > 0) == (name == "doubtful")
    assert ("fail-on is warning" in done.log) == (fail_on == "warning" and code == 1)


def test_damaged_files_never_pass(run: Run, workspace: Path) -> None:
    arrays = workspace / "bad" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-64])
    done = run(run="base", baseline="bad", fail_on="never")
    assert (done.code, done.outputs["outcome"]) == (2, "unusable")
    assert "Gate not held" in done.summary
    assert (
        json.loads((Path(done.outputs["reports"]) / "badge.json").read_text())["message"] == "not checked"
    )


def test_a_command_that_crashes_with_the_code_of_a_failure_is_no_failure(
    workspace: Path, tmp_path: Path
) -> None:
    environment = tools(tmp_path)
    for code in (0, 1, 3):
        (tmp_path / "tools" / "shortcut-audit").write_text(f"#!/bin/sh\nexit {code}\n")
        done = run_action(workspace, environment, run="base", fail_on="never")
        assert (done.code, done.outputs["outcome"]) == (3, "unusable")


def test_the_command_makes_the_audit(run: Run, workspace: Path) -> None:
    (workspace / "new" / "shards").mkdir(parents=True)
    (workspace / "new" / "shards" / "part").write_text("kept")
    command = "test -f new/shards/part && cp base/*.* new/ && echo made '$HOME' | grep -v root"
    done = run(run="new", command=command)
    assert done.code == 0, done.log
    assert "made $HOME" in done.log
    assert "Finished parts, from the cache" in done.ran
    loaded, saved = (
        done.uses["Finished parts, from the cache"],
        done.uses["Finished parts, into the cache"],
    )
    assert saved["path"].split() == ["new/run.json", "new/shards"] == loaded["path"].split()
    assert saved["key"] == loaded["key"]
    assert saved["key"].startswith(loaded["restore-keys"])
    other = run(run="new", command=f"{command} ")
    assert other.uses["Finished parts, into the cache"]["key"] != saved["key"]


def test_an_earlier_audit_never_stands_for_one_that_was_not_made(run: Run, workspace: Path) -> None:
    for command, code in (("true", 2), ("false || exit 7", 7), ("cp nowhere base/ | cat", 1)):
        shutil.copytree(workspace / "base", workspace / "new", dirs_exist_ok=True)
        done = run(run="new", command=command)
        assert done.code == code, done.log
        assert done.outputs["outcome"] == ""
        assert "Gate" not in done.ran
        assert done.ran[-1] == "Finished parts, into the cache"


@pytest.mark.slow
def test_a_real_audit_goes_on_from_what_the_cache_kept(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    np.savez(repository / "x.npz", x=images, y=np.arange(60) % 2, classes=["cat", "dog"])
    (repository / "model.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))\n"
    )
    command = (
        "shortcut-audit audit --model model.py:make --data x.npz --out runs/now --size 8"
        " --mean 0.5 --std 0.5 --batch-size 60"
    )
    policy = '[[rule]]\nkind = "accuracy"\nat_least = 0.2\ntogether = true\n'
    (repository / "gate.toml").write_text(policy)
    environment = tools(tmp_path)
    first = run_action(repository, environment, run="runs/now", command=command)
    assert first.code == 0, first.log
    findings = [json.loads((repository / "runs/now/result.json").read_text())["findings"]]
    # Another machine, with what the cache holds.
    kept = first.uses["Finished parts, into the cache"]["path"].split()
    for name in kept:
        (tmp_path / "cached" / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).rename(tmp_path / "cached" / name)
    shutil.rmtree(repository / "runs")
    shutil.copytree(tmp_path / "cached", repository, dirs_exist_ok=True)
    parts = {path: path.stat().st_mtime_ns for path in (repository / kept[1]).rglob("*.*")}
    assert parts
    second = run_action(repository, environment, run="runs/now", command=command)
    assert second.code == 0, second.log
    findings.append(json.loads((repository / "runs/now/result.json").read_text())["findings"])
    assert findings[0] == findings[1]
    assert {path: path.stat().st_mtime_ns for path in (repository / kept[1]).rglob("*.*")} == parts


def test_too_many_parts_are_dropped(run: Run, workspace: Path, tmp_path: Path) -> None:
    (workspace / "new" / "shards").mkdir(parents=True)
    du = tmp_path / "tools" / "du"
    du.write_text('#!/bin/sh\nprintf "1001\\t%s\\n" "$3"\n')
    du.chmod(0o755)
    done = run(run="new", command="test ! -e new/shards && cp base/*.* new/")
    assert done.code == 0, done.log


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ({"run": ""}, "run is empty"),
        ({"run": "base", "fail_on": "nothing"}, "fail-on is"),
        ({"run": "./bad/../base", "baseline": "base"}, "same folder"),
    ],
)
def test_inputs_that_make_no_sense_end_at_once(run: Run, inputs: dict[str, str], what: str) -> None:
    done = run(**inputs)
    assert done.code == 2
    assert what in done.log
    assert done.ran == ["Python", "Inputs"]
    assert done.installed == ""


EVIL = "a\"$(touch pwned)`touch pwned`;touch pwned #' -x"


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"run": EVIL}, 0),
        ({"run": f"-{EVIL}"}, 2),
        ({"run": "base", "policy": EVIL}, 2),
        ({"run": "base", "baseline": f"--{EVIL}"}, 2),
        ({"run": "base", "install": EVIL}, 0),
    ],
)
def test_inputs_are_text_and_never_code(
    run: Run, workspace: Path, inputs: dict[str, str], code: int
) -> None:
    shutil.copytree(workspace / "base", workspace / EVIL)
    done = run(**inputs)
    assert done.code == code, done.log
    assert not (workspace / "pwned").exists()


def test_what_is_installed(workspace: Path, tmp_path: Path) -> None:
    def installed(**inputs: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        done = run_action(workspace, tools(folder), until="Install", run="base", **inputs)
        own = inputs.get("install") == "none"
        assert ("Python" in done.ran, "Packages, cached" in done.ran) == (not own, not own)
        quiet = "-m pip install --quiet --disable-pip-version-check "
        return done.installed.replace(quiet, "").splitlines()

    others, package = installed()
    assert package == f"--no-deps {REPOSITORY}"
    assert re.findall(r"([\w-]+)>=", others) == ["numpy", "typer", "pydantic", "safetensors"]
    assert installed(command="make audit") == [str(REPOSITORY)]
    assert installed(install="-r my.txt 'x'") == ["-r my.txt 'x'"]
    assert installed(install="none") == []


def test_what_is_installed_is_enough_for_a_gate(workspace: Path) -> None:
    """`gate check` with every package out of reach but those that the action installs, and theirs."""
    blocked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", each)[0].replace("-", "_") for each in blocked}  # type: ignore[index]
    names = {{"scikit_learn": "sklearn", "pillow": "PIL"}.get(name, name) for name in names}
    names -= {"numpy", "typer", "pydantic", "safetensors", "rich"}
    assert {"torch", "pandas", "scipy"} < names
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(names)}))\n"
        "from shortcut_audit.cli.main import main; main()"
    )
    for arguments, expected in ((["bad", "--baseline", "base", "--github"], 1), (["base"], 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, "gate", "check", *arguments, "--junit", "g.xml"],
            cwd=workspace, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == expected, done.stderr


def test_the_gitlab_job(workspace: Path, tmp_path: Path) -> None:
    (workspace / "shortcut-audit-gate").mkdir()
    (workspace / "shortcut-audit-gate" / "old.xml").write_text("")
    inputs = {"run": "bad", "baseline": "base", "policy": "gate.toml"}
    code, log, job = run_gitlab_job(workspace, tools(tmp_path), **inputs)
    assert code == 1, log
    assert "horse, no class becomes a shortcut" in log
    root = ElementTree.parse(workspace / job["artifacts"]["reports"]["junit"]).getroot()
    assert root.get("failures") == "3"
    assert not (workspace / "shortcut-audit-gate" / "old.xml").exists()
    assert (
        (tmp_path / "pip.log").read_text().strip().endswith("--disable-pip-version-check shortcut-audit")
    )


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"run": "new", "command": "cp -r base/ new; test '$HOME' = \\$HOME"}, 0),
        # An earlier result is no result of a command that makes none.
        ({"run": "bad", "command": "true"}, 2),
        ({"run": "base", "command": "false"}, 1),
        ({"run": "base", "baseline": "base"}, 1),
        ({"run": "bad;touch pwned"}, 2),
    ],
)
def test_the_gitlab_job_fails_closed(
    workspace: Path, tmp_path: Path, inputs: dict[str, str], code: int
) -> None:
    found, log, _ = run_gitlab_job(workspace, tools(tmp_path), **inputs)
    assert found == code, log
    assert not (workspace / "pwned").exists()
    assert (workspace / "shortcut-audit-gate" / "gate.xml").exists() == (code == 0)


def test_the_pre_commit_hook(workspace: Path, tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    assert hook["language"] == "system"
    for name, taken in (("gate.toml", True), ("a/gate.toml", True), ("delegate.toml", False)):
        assert (re.search(hook["files"], name) is not None) == taken
    environment = tools(tmp_path)

    def commit(*files: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*hook["entry"].split(), *files], cwd=workspace, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    done = commit("gate.toml")
    assert done.returncode == 0, done.stderr
    assert "7 rules, 0 known debts" in done.stdout
    text = (workspace / "gate.toml").read_text()
    (workspace / "typo.toml").write_text(text.replace("may_worsen_by", "may_worsen", 1))
    (workspace / "not.toml").write_text("[[rule")
    debt = 'class = "horse"\nrule = "accuracy of each class"\nreason = "r"\ndate = 2020-01-01'
    debt += "\nexpires = 2020-02-01"
    (workspace / "late.toml").write_text(text.replace("[baseline]", f"[[debt]]\n{debt}\n[baseline]"))
    done = commit("typo.toml", "gate.toml", "not.toml", "late.toml")
    assert done.returncode == 2
    assert "did you mean may_worsen_by?" in done.stderr
    assert "not.toml is not TOML" in done.stderr
    assert "gate.toml: 7 rules" in done.stdout
    assert "The debt of horse under 'accuracy of each class' expired on 2020-02-01." in done.stdout
