"""The plugin within pytest runs of its own, found by its entry point as an installed package's is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from audited import Made, made_audit
from typer.testing import CliRunner
from workflows import plugin_environment

from shortcut_audit.cli.main import app

PLANTED = Made(turned=(0.6, 0.02, 0.02), verdicts=("shortcut", "no shortcut", "no shortcut"))
HEAVY = ("torch", "pandas", "numpy", "pydantic", "scipy", "typer", "rich", "shortcut_audit.gate.check")

TESTS = """
import os
import sys
from pathlib import Path

import pytest

gate = pytest.mark.shortcut_audit

@gate(run="good")
def test_passes(): ...

@gate("good", "gate.toml", baseline="same", numerics="strict")
def test_passes_with_all(): ...

@gate(run="bad")
def test_fails():
    Path("body-ran").touch()

@gate(run="good")
class TestMany:
    def test_inherited(self): ...

    @gate(run="bad")
    def test_all_markers_count(self): ...

@gate(run="nowhere")
def test_missing_run(): ...

@gate(run="good", policy="none.toml")
def test_missing_policy(): ...

@gate(run="good", baseline="cut")
def test_damaged_baseline(): ...

@gate(run="good", baseline="others")
def test_other_classes(): ...

@gate(run="good", baseline="sub/../good")
def test_own_baseline(): ...

def test_fixture_own_baseline(shortcut_audit_gate):
    from shortcut_audit.results.store import load_result
    good = load_result("good")
    shortcut_audit_gate(good, baseline=good)

def test_fixture_nothing(shortcut_audit_gate):
    shortcut_audit_gate(None)

@gate(run="unjudged")
def test_incomplete(): ...

@gate(policy="gate.toml")
def test_no_run(): ...

@gate(run="good", polcy="gate.toml")
def test_typo(): ...

@gate(run="good", numerics="loose")
def test_numerics(): ...

@pytest.mark.skip
@gate(run="nowhere")
def test_skipped(): ...

def test_fixture(shortcut_audit_gate, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    report = shortcut_audit_gate("good")
    assert report.passed and report.policy == "gate.toml"
    assert shortcut_audit_gate(run=Path("good"), baseline="same").images

def test_fixture_fails(shortcut_audit_gate):
    shortcut_audit_gate("bad")

def test_fixture_missing(shortcut_audit_gate):
    shortcut_audit_gate("nowhere")

def test_fixture_result(shortcut_audit_gate):
    from shortcut_audit.results.store import load_result
    assert shortcut_audit_gate(load_result("good"), baseline=load_result("same")).run == "this audit"
    shortcut_audit_gate(load_result("bad"))

def test_fixture_unsound(shortcut_audit_gate):
    from shortcut_audit.results.store import load_result
    bad = load_result("bad")
    horse = bad.shortcuts.by_class[0].model_copy(update={"verdict": "no shortcut"})
    shortcuts = bad.shortcuts.model_copy(update={"by_class": (horse, *bad.shortcuts.by_class[1:])})
    findings = tuple(shortcuts if f is bad.shortcuts else f for f in bad.findings)
    shortcut_audit_gate(bad.model_copy(update={"findings": findings}))
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    others = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--strict-markers", *others, *arguments],
        cwd=folder, env=plugin_environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """By test: `passed`, `failed`, `error` or `skipped`, and what was said."""
    folder = tmp_path_factory.mktemp("project")
    made = {
        "good": Made(), "same": Made(), "bad": PLANTED, "cut": Made(),
        "others": Made(names=("a", "b", "c")),
        "unjudged": Made(verdicts=("not judged", "no shortcut", "no shortcut")),
    }  # fmt: skip
    (folder / "sub").mkdir()
    for name, each in made.items():
        made_audit(each).save(folder / name)
    arrays = folder / "cut" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    policy = str(folder / "gate.toml")
    assert CliRunner().invoke(app, ["gate", "init", str(folder / "good"), "-o", policy]).exit_code == 0
    (folder / "pytest.ini").write_text("[pytest]\njunit_family = xunit1\n")
    (folder / "test_gates.py").write_text(TESTS)
    done = run_pytest(folder, "-q", "--junitxml=out.xml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert not (folder / "body-ran").exists()
    found = {}
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        outcome, said = "passed", ""
        for child in case:
            if child.tag == "properties":
                said = "".join(each.get("value", "") for each in child)
            else:
                outcome = "failed" if child.tag == "failure" else child.tag
                said = child.get("message", "") + (child.text or "")
        found[case.get("name", "")] = (outcome, said)
    return found


@pytest.mark.parametrize(
    "name", ["test_passes", "test_passes_with_all", "test_inherited", "test_fixture"]
)
def test_a_gate_that_passes_lets_the_test_run(outcomes: dict[str, tuple[str, str]], name: str) -> None:
    assert outcomes[name][0] == "passed", outcomes[name][1]
    if name != "test_fixture":
        assert "Gate passed" in outcomes[name][1]


@pytest.mark.parametrize(
    "name", ["test_fails", "test_all_markers_count", "test_fixture_fails", "test_fixture_result"]
)
def test_a_gate_that_fails_names_class_and_rule(outcomes: dict[str, tuple[str, str]], name: str) -> None:
    outcome, said = outcomes[name]
    assert outcome == "failed"
    assert "Gate failed" in said
    assert "horse, no class becomes a shortcut: a shortcut now, no shortcut before" in said
    assert "pytest_plugin.py" not in said


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("test_missing_run", "nowhere holds no audit"),
        ("test_fixture_missing", "nowhere holds no audit"),
        ("test_missing_policy", "none.toml cannot be read"),
        ("test_damaged_baseline", "cut/arrays.safetensors"),
        ("test_other_classes", "classes are not those"),
        ("test_own_baseline", "is its own baseline"),
        ("test_fixture_own_baseline", "is its own baseline"),
        ("test_fixture_nothing", "names no audit"),
        ("test_incomplete", "Gate incomplete"),
        ("test_no_run", "needs run="),
        ("test_typo", "does not know polcy"),
        ("test_numerics", "It is widen or strict"),
        ("test_fixture_unsound", "does not add up"),
    ],
)
def test_what_cannot_be_held_fails(outcomes: dict[str, tuple[str, str]], name: str, what: str) -> None:
    outcome, said = outcomes[name]
    assert outcome == "failed", said
    assert what in said


def test_every_inner_test_is_looked_at(outcomes: dict[str, tuple[str, str]]) -> None:
    assert outcomes["test_skipped"][0] == "skipped"
    assert len(outcomes) == TESTS.count("def test_") == 22


def test_the_plugin_loads_nothing_until_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_unconfigure(config):\n"
        "    assert 'shortcut_audit.gate.pytest_plugin' in sys.modules\n"
        f"    print('LOADED', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    (tmp_path / "test_one.py").write_text("def test_one(): ...\n")
    done = run_pytest(tmp_path, "-s", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LOADED []" in done.stdout
