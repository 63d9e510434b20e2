"""`shortcut-audit gate` as a process: exit codes, files, and what it does not load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from audited import Made, made_audit
from typer.testing import CliRunner

from shortcut_audit.cli.main import app
from shortcut_audit.errors import AuditError

WORSE = Made(turned=(0.6, 0.02, 0.02), verdicts=("shortcut", "no shortcut", "no shortcut"), model="tuned")
BETTER = Made(accuracy=(0.99, 0.99, 0.99))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two audits, `before` and `worse`."""
    monkeypatch.chdir(tmp_path)
    made_audit().save(tmp_path / "before")
    made_audit(WORSE).save(tmp_path / "worse")
    return tmp_path


def gate(*arguments: object) -> tuple[int, str]:
    """Exit code and what was printed, as `main` would have it."""
    try:
        done = CliRunner().invoke(app, ["gate", *map(str, arguments)], catch_exceptions=False)
    except AuditError as error:
        return error.exit_code, str(error)
    return done.exit_code, done.output


def frozen(run: str = "before") -> None:
    assert gate("init", run, "-o", "gate.toml", "--date", "2026-11-22")[0] == 0


def test_init_check_update_end_to_end(here: Path) -> None:
    frozen()
    text = (here / "gate.toml").read_text()
    assert gate("check", "before")[0] == 0
    code, told = gate("check", "worse", "--baseline", "before")
    assert code == 1
    assert told.startswith("Gate failed")
    assert "horse" in told
    code, told = gate("update", "worse")
    assert code == 1
    assert "Nothing was changed" in told
    assert (here / "gate.toml").read_text() == text
    made_audit(BETTER).save(here / "better")
    code, told = gate("update", "better", "--dry-run")
    assert code == 0
    assert "'horse' moves: accuracy" in told
    assert (here / "gate.toml").read_text() == text
    head = Path("gate.toml").read_text().split("\n\n")[0]
    assert "Frozen from an audit" in head
    assert gate("update", "better")[0] == 0
    assert Path("gate.toml").read_text().split("\n\n")[0] == head
    assert "accuracy = [198, 200]" in (here / "gate.toml").read_text()
    assert gate("check", "better")[0] == 0
    assert "Nothing to tighten" in gate("update", "better")[1]


def test_init_writes_the_same_file_twice_and_overwrites_nothing(here: Path) -> None:
    frozen()
    once = (here / "gate.toml").read_bytes()
    code, told = gate("init", "before", "-o", "gate.toml")
    assert code == 2
    assert "--force" in told
    assert gate("init", "before", "-o", "gate.toml", "--force", "--date", "2026-11-22")[0] == 0
    assert (here / "gate.toml").read_bytes() == once


def test_files_for_others_are_written_whatever_comes_out(here: Path) -> None:
    frozen()
    code, _ = gate("check", "worse", "--junit", "j.xml", "--markdown", "m.md", "--json", "r.json")
    assert code == 1
    assert json.loads((here / "r.json").read_text())["exit_code"] == 1
    assert int(ElementTree.parse(here / "j.xml").getroot().attrib["failures"]) >= 1
    assert (here / "m.md").read_text().startswith("## ❌ Gate failed")
    code, told = gate("check", "worse", "--junit", "nowhere/j.xml")
    assert code == 2
    assert "nowhere" in told


def test_an_earlier_check_s_files_do_not_outlive_one_that_could_not_be_made(here: Path) -> None:
    frozen()
    files = ["j.xml", "m.md", "r.json"]
    options = ["--junit", "j.xml", "--markdown", "m.md", "--json", "r.json"]
    assert gate("check", "before", *options)[0] == 0
    assert all((here / name).exists() for name in files)
    (here / "worse" / "arrays.safetensors").unlink()
    assert gate("check", "worse", *options)[0] == 2
    assert not any((here / name).exists() for name in files)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "before", "--json", "before/result.json"],
        ["check", "before", "--badge", "gate.toml"],
        ["check", "before", "--markdown", "gate.toml"],
        ["check", "before", "--junit", "x", "--markdown", "x"],
        ["check", "before", "--json", "pyproject.toml"],
        ["check", "worse", "--baseline", "before", "--json", "before/arrays.safetensors"],
        ["init", "before", "-o", "before/result.json", "--force"],
        ["update", "before", "-o", "before/result.json"],
    ],
)
def test_nothing_is_written_over_what_is_read(here: Path, arguments: list[str]) -> None:
    frozen()
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert gate(*arguments)[0] == 2
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_an_audit_is_no_baseline_of_its_own(here: Path) -> None:
    frozen()
    assert gate("check", "before", "--baseline", here / "before")[0] == 2


def test_a_policy_that_is_a_link_to_nowhere_is_not_passed_over(here: Path) -> None:
    lax = "[[tool.shortcut_audit.gate.rule]]\nkind = 'accuracy'\nat_least = 0.01\n"
    (here / "pyproject.toml").write_text(lax)
    assert gate("check", "worse")[0] == 0
    (here / "gate.toml").symlink_to(here / "nowhere.toml")
    assert gate("check", "worse")[0] == 2


def test_a_slip_in_one_name_of_a_rule_is_told_and_no_pass(here: Path) -> None:
    rule = "[[rule]]\nkind = 'flip'\nat_most = 0.1\nclass = ['{}', 'ship']\n"
    (here / "gate.toml").write_text(rule.format("horse"))
    assert gate("check", "worse")[0] == 1
    (here / "gate.toml").write_text(rule.format("hrose"))
    code, told = gate("check", "worse")
    assert code == 2
    assert "'hrose'" in told


def test_an_old_green_badge_does_not_outlive_a_check_that_breaks(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen()
    assert gate("check", "before", "--badge", "badge.json")[0] == 0
    green = (here / "badge.json").read_text()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("shortcut_audit.cli.gate._checked", broken)
    with pytest.raises(ZeroDivisionError):
        gate("check", "before", "--badge", "badge.json")
    assert (here / "badge.json").read_text() != green


def test_the_schema_is_printed(here: Path) -> None:
    code, told = gate("schema")
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(told))


def _remove(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _write(name: str, content: str) -> Any:
    return lambda folder: (folder / name).write_text(content)


def _newer(folder: Path) -> None:
    path = folder / "result.json"
    path.write_text(path.read_text().replace('"format": 7', '"format": 8', 1))


def _swap(folder: Path) -> None:
    shutil.copy(folder.parent / "worse" / "arrays.safetensors", folder / "arrays.safetensors")


DAMAGE: dict[str, Any] = {
    "no result": _remove("result.json"),
    "no arrays": _remove("arrays.safetensors"),
    "no folder": lambda folder: shutil.rmtree(folder),
    "empty result": _write("result.json", ""),
    "empty object": _write("result.json", "{}"),
    "no object": _write("result.json", "[]"),
    "empty arrays": _write("arrays.safetensors", ""),
    "newer": _newer,
    "swapped": _swap,
    "data of others": lambda folder: made_audit(Made(names=("x", "ship", "frog"))).save(folder),
    "other settings": lambda folder: made_audit(Made(settings={"kept_share": 0.2})).save(folder),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("side", ["run", "baseline"])
def test_the_gate_fails_closed(here: Path, damage: str, side: str) -> None:
    frozen()
    made_audit(Made(first=1)).save(here / "other")
    DAMAGE[damage](here / "other")
    arguments = ["other"] if side == "run" else ["before", "--baseline", "other"]
    assert gate("check", *arguments)[0] == 2


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("", "rule is missing"),
        ("rule = [", "not TOML"),
        ("[[rule]]\nkind = 'accuracy'\nmay_worsen_by = nan\n", "finite"),
        ("[[rule]]\nkind = 'accuracy'\nmay_worsen_by = 0.1\n", "need a baseline"),
        ("[[rule]]\nkind = 'accuracy'\nat_least = 0.1\nclass = 'hrose'\n", "about nothing"),
        ("[[rule]]\nkind = 'accuracy'\nat_least = 0.1\nexpires = 2020-01-01\n", "has expired"),
        ("[[rule]]\nkind = 'accuracy'\nat_lest = 0.1\n", "did you mean at_least?"),
    ],
)
def test_policies_that_say_nothing_never_pass(here: Path, policy: str, told: str) -> None:
    (here / "gate.toml").write_text(policy)
    code, text = gate("check", "before")
    assert code == 2
    assert told in text


def test_usage_errors_end_with_2(here: Path) -> None:
    assert gate("check", "before")[0] == 2
    frozen()
    assert gate("check", "before", "--numerics", "ignore")[0] == 2
    assert gate("check", "before", "--tolerance", "1")[0] == 2
    assert gate("check")[0] == 2
    assert gate("check", "before", "--date", "yesterday")[0] == 2


def test_what_is_missing_ends_with_3(here: Path) -> None:
    made_audit(Made(ood={"there": (0.5, 0.5, 0.5)})).save(here / "elsewhere")
    frozen("elsewhere")
    code, told = gate("check", "before")
    assert code == 3
    assert told.startswith("Gate incomplete")


def test_strict_numerics_end_with_2(here: Path) -> None:
    frozen()
    made_audit(Made(device="cuda")).save(here / "cuda")
    code, told = gate("check", "cuda")
    assert code == 0
    assert "widened" in told
    assert gate("check", "cuda", "--numerics", "strict")[0] == 2


def test_a_policy_in_a_project_is_found_and_not_rewritten(here: Path) -> None:
    (here / "pyproject.toml").write_text(
        "[[tool.shortcut_audit.gate.rule]]\nkind = 'accuracy'\nat_least = 0.5\n"
    )
    assert gate("check", "before")[0] == 0
    code, told = gate("update", "before")
    assert code == 2
    assert "not rewritten" in told
    assert gate("update", "before", "-o", "gate.toml")[0] == 0
    assert "at_least = 0.74" in (here / "gate.toml").read_text()


def test_a_check_is_quick_and_loads_nothing_heavy(here: Path) -> None:
    """As a whole process, in processor time: other work on the machine is not its fault."""
    frozen()
    code = (
        "import sys, time\n"
        "sys.argv = ['shortcut-audit', 'gate', 'check', 'worse', '--baseline', 'before']\n"
        "from shortcut_audit.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = ('torch', 'pandas', 'matplotlib', 'scipy', 'rich.table', 'sklearn')\n"
        "print(code, time.process_time(), [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ended, seconds, heavy = done.stdout.splitlines()[-1].split(" ", 2)
    assert ended == "1"
    assert heavy == "[]"
    assert float(seconds) < 3


def test_a_reader_that_goes_away_does_not_change_the_outcome(here: Path) -> None:
    frozen()
    command = [sys.executable, "-m", "shortcut_audit", "gate", "check", "worse"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize(("output", "code"), [("> /dev/full", 2), (">&-", 1)])
def test_an_output_that_cannot_be_written_is_no_fault_of_ours(here: Path, output: str, code: int) -> None:
    frozen()
    command = f"{sys.executable} -m shortcut_audit gate check worse {output}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_links_in_circles_end_with_2(here: Path) -> None:
    frozen()
    (here / "loop").symlink_to(here / "loop")
    assert gate("check", "loop")[0] == 2
    assert gate("check", "before", "--policy", "loop")[0] == 2
    assert gate("check", "before", "--baseline", "loop")[0] == 2


def test_update_overwrites_no_other_file(here: Path) -> None:
    frozen()
    made_audit(BETTER).save(here / "better")
    (here / "other.toml").write_text("mine")
    assert gate("update", "better", "-o", "other.toml")[0] == 2
    assert (here / "other.toml").read_text() == "mine"
    assert gate("update", "better", "-o", "other.toml", "--force")[0] == 0
    assert (here / "other.toml").read_text() != "mine"


def test_update_takes_a_baseline_where_the_policy_holds_none(here: Path) -> None:
    rules = "[[rule]]\nkind = 'verdict'\nmay_worsen_by = 0.3\n"
    debt = "[[debt]]\nclass = 'horse'\nrule = 'verdict'\nreason = 'old'\ndate = 2026-11-01\n"
    (here / "gate.toml").write_text(rules + debt)
    assert gate("update", "before")[0] == 2
    code, told = gate("update", "before", "--baseline", "worse")
    assert code == 0
    assert "The debt of 'horse' under 'verdict' is paid." in told
    assert "debt]]" not in (here / "gate.toml").read_text()
    assert gate("update", "before", "--baseline", "before")[0] == 2


def test_an_interrupted_check_ends_with_130(here: Path) -> None:
    frozen()
    code = (
        "import sys; sys.argv = ['shortcut-audit', 'gate', 'check', 'before'];"
        "import shortcut_audit.gate.soundness as s\n"
        "def stop(folder): raise KeyboardInterrupt\n"
        "s.load_sound = stop\n"
        "from shortcut_audit.cli.main import main; main()"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 130, (done.stderr, time.monotonic() - started)
