"""Annotations and summaries as the runner of GitHub Actions reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from audited import Made, made_audit
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from shortcut_audit.cli.main import app
from shortcut_audit.errors import ResultError, RunFolderError
from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.outputs import as_markdown
from shortcut_audit.gate.outputs.github import (
    MOST_ANNOTATIONS,
    MOST_SUMMARY_BYTES,
    as_annotations,
    error_annotation,
    error_summary,
    harmless,
    write_summary,
)

HOSTILE = [
    "::error::a", "##[add-mask]a", "a\n::stop-commands::x", "a\r\n::set-output name=x::y",
    "100%25 %0A::x", "a,title=b", "a:b::c",
    "\u202eevil", "\x1b[31mred", "\udce9", "", " ", "::", "x" * 5000,
]  # fmt: skip


def check(name: str | None = "horse", **more: Any) -> Check:
    values = {"rule": "accuracy", "kind": "accuracy", "outcome": "failed", "level": "error"}
    return Check(**{**values, "class_name": name, "reason": "0.9 before, 0.5 now", **more})


def report_of(*checks: Check, **more: Any) -> GateReport:
    values = {"run": "run", "policy": "gate.toml", "baseline": "base", "model": "m", "images": "equal"}
    return GateReport(**{**values, "significance": 0.005, "checks": checks, **more})


def read_by_runner(log: str) -> list[tuple[str, dict[str, str], str]]:
    """The commands in a log, as the runner takes them: `::name key=value,...::message` at the start of a
    line, `##[name key=value;...]message` anywhere in it, and neither while stopped by a token."""
    commands, token = [], ""
    for line in re.split(r"\r\n|\r|\n", log):
        found = re.match(r"\s*::([\w-]+)(?: ([^\n]*?))?::(.*)$", line)
        if token:
            if line.strip() == f"::{token}::":
                token = ""
            continue
        if found is None:
            old = re.search(r"##\[([\w-]+)([^\]]*)\](.*)$", line)
            if old is not None:
                commands.append((old[1], {}, old[3]))
            continue
        if found[1] == "stop-commands":
            token = found[3]
            continue
        pairs = (pair.partition("=") for pair in found[2].split(",")) if found[2] else ()
        commands.append((found[1], {key: plain(value) for key, _, value in pairs}, plain(found[3])))
    return commands


def plain(text: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_what_fails_and_warns_is_annotated_worst_first() -> None:
    report = report_of(
        check("horse", needed="need 400 images", comment="see docs"),
        check("frog", outcome="missing"),
        check(None, rule="together", outcome="inconclusive", level="warning"),
        check("ship", outcome="known", level="note"),
        check("cat", outcome="passed", level="note"),
    )
    assert read_by_runner(as_annotations(report)) == [
        (
            "error",
            {"title": "horse: accuracy"},
            "failed: horse, accuracy: 0.9 before, 0.5 now. need 400 images. see docs",
        ),
        ("error", {"title": "frog: accuracy"}, "missing: frog, accuracy: 0.9 before, 0.5 now"),
        (
            "warning",
            {"title": "all classes: together"},
            "inconclusive: all classes, together: 0.9 before, 0.5 now",
        ),
    ]
    assert as_annotations(report_of(check(outcome="passed", level="note"))) == ""


@pytest.mark.parametrize(("fail", "warn"), [(9, 0), (10, 0), (12, 5), (3, 20), (0, 11)])
def test_at_most_nine_and_the_count_of_the_rest(fail: int, warn: int) -> None:
    checks = [check(f"c{k}") for k in range(fail)]
    checks += [check(f"w{k}", level="warning") for k in range(warn)]
    told = read_by_runner(as_annotations(report_of(*checks)))
    assert [message.split(",")[0].split()[-1] for _, _, message in told[:MOST_ANNOTATIONS]] == [
        each.class_name for each in checks[:MOST_ANNOTATIONS]
    ]
    left = fail + warn - MOST_ANNOTATIONS
    assert len(told) == MOST_ANNOTATIONS + (left > 0)
    if left:
        kind, _, message = told[-1]
        failing = max(fail - MOST_ANNOTATIONS, 0)
        assert message.startswith(f"... and {left} more: {failing} fail, {left - failing} warn.")
        assert kind == ("error" if failing else "warning")


def test_a_report_without_checks_is_told_as_an_error() -> None:
    assert [kind for kind, _, _ in read_by_runner(as_annotations(report_of()))] == ["error"]


@given(name=st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60)))
def test_names_steer_neither_the_runner_nor_the_annotation(name: str) -> None:
    each = check(name, rule=name or "-", reason=name, comment=name)
    log = as_annotations(report_of(each, check("after")))
    first, second = read_by_runner(log)
    assert (first[0], set(first[1]), second[2].split(",")[0]) == ("error", {"title"}, "failed: after")
    assert log.count("\n") == 2
    assert len(first[2]) <= 2000
    if name.isprintable() and len(name) < 60:
        assert first[1]["title"] == f"{name}: {name or '-'}"
        assert first[2].startswith(f"failed: {name}, {name or '-'}")
    assert read_by_runner(harmless(f"{name}\n::error::{name}\n##[error]{name}") + "::debug::x\n") == [
        ("debug", {}, "x")
    ]


def test_text_is_printed_between_a_token_that_nobody_can_guess() -> None:
    first, second = (harmless("text\n").splitlines() for _ in range(2))
    assert first[1] == "text"
    assert first[0] == f"::stop-commands::{first[2].strip(':')}"
    assert first[0] != second[0]


def test_summaries_add_up_below_one_mebibyte(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    environment = {"GITHUB_STEP_SUMMARY": str(file)}
    notes = ("n" * 100,)
    many = [check("é" * 300 + str(k), reason="r" * 900, needed="n" * 900) for k in range(2000)]
    big = as_markdown(report_of(*many, notes=notes))
    assert 900_000 < len(big.encode()) < MOST_SUMMARY_BYTES
    assert "more checks, none worse" in big
    assert write_summary("first\n", environment)
    assert write_summary(big, environment)
    assert file.read_text(encoding="utf-8") == f"first\n{big}"
    assert write_summary(big, environment)
    assert file.read_text(encoding="utf-8").count("does not fit") == 1
    assert file.read_text(encoding="utf-8").count("## ❌ Gate failed") == 2
    while write_summary("more " * 5000 + "\n", environment):
        assert file.stat().st_size < MOST_SUMMARY_BYTES
    assert not write_summary(big, environment) or file.stat().st_size < MOST_SUMMARY_BYTES


def test_without_a_summary_file_there_is_none(tmp_path: Path) -> None:
    assert not write_summary("text\n", {})
    with pytest.raises(RunFolderError, match="GITHUB_STEP_SUMMARY"):
        write_summary("text\n", {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "folder")})


def test_an_error_is_told_as_plain_text() -> None:
    error = ResultError("a`b\n::error::<b>", "Try 100%.")
    ((kind, properties, message),) = read_by_runner(error_annotation(error))
    assert (kind, properties) == ("error", {"title": "shortcut-audit gate: result"})
    assert message == "a`b\\n::error::<b> Try 100%."
    assert error_summary(error).splitlines()[-1] == "`a'b\\n::error::<b> Try 100%.`"


def test_the_command_tells_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("##[error]horse", "::error::ship", "fr\nog,a:b")
    turned = {"turned": (0.6, 0.02, 0.02), "verdicts": ("shortcut", "no shortcut", "no shortcut")}
    made_audit(Made(names=names)).save(tmp_path / "base")
    made_audit(Made(names=names, **turned)).save(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    runner = CliRunner()
    assert runner.invoke(app, ["gate", "init", "base"]).exit_code == 0
    done = runner.invoke(app, ["gate", "check", "run", "--github", "--badge", "badge.json"])
    assert done.exit_code == 1
    told = read_by_runner(done.stdout)
    assert {kind for kind, _, _ in told} == {"error"}
    assert all(each["title"].startswith("##[error]horse: ") for _, each, _ in told)
    assert "Gate failed" in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "badge.json").read_text())["message"] == "failed, 1 class"


def test_the_command_tells_github_what_it_could_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, badge = tmp_path / "summary.md", tmp_path / "badge.json"
    badge.write_text('{"message": "passed"}')
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    arguments = ["gate", "check", str(tmp_path / "none"), "--github", "--badge", str(badge)]
    done = CliRunner().invoke(app, [*arguments, "--policy", str(tmp_path / "gate.toml")])
    assert done.exit_code == 2
    ((kind, properties, message),) = read_by_runner(done.stdout)
    assert (kind, properties["title"]) == ("error", "shortcut-audit gate: settings")
    assert "cannot be read" in message
    assert "Gate not held" in summary.read_text()
    assert json.loads(badge.read_text())["message"] == "not checked"
