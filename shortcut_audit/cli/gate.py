"""`shortcut-audit gate`: a policy frozen, checked and tightened; for CI, without torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shortcut_audit.cli.terminal import plain, say
from shortcut_audit.errors import AuditError, ResultError, RunFolderError, SettingsError

if TYPE_CHECKING:
    from shortcut_audit.gate.gate_report import GateReport
    from shortcut_audit.gate.policy import Policy

__all__ = ["gate"]

gate = typer.Typer(
    help="Robustness checks for CI: freeze an audit as a policy, and hold later audits against it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_DAY = ["%Y-%m-%d"]
_POLICY = typer.Option(
    None, "--policy", help="The policy. [default: gate.toml here, else that of pyproject.toml]"
)
_DATE = typer.Option(None, "--date", formats=_DAY, help="The day it is. [default: today]")


@gate.command("init")
def init(
    run: Path = typer.Argument(..., metavar="RUN", help="Folder of a finished audit."),
    out: Path = typer.Option(Path("gate.toml"), "-o", "--out", help="Where the policy goes."),
    force: bool = typer.Option(False, "--force", help="Overwrite a policy that is there."),
    day: datetime | None = _DATE,
) -> None:
    """Freeze an audit: its noise becomes tolerances, its shortcuts known debts."""
    from shortcut_audit.gate.freeze import frozen_policy
    from shortcut_audit.gate.policy_text import policy_text
    from shortcut_audit.gate.soundness import load_sound

    if out.name == "pyproject.toml":
        raise SettingsError(
            "A policy of its own is no pyproject.toml.", "Choose -o gate.toml; rules may be moved later."
        )
    _require_new(out, force)
    _require_free((run,), out)
    policy, notes = frozen_policy(load_sound(run), _day(day))
    _write(out, policy_text(policy, notes))
    debts = f", {_counted(len(policy.debts), 'known debt')}" if policy.debts else ""
    rules = _counted(len(policy.rules), "rule")
    say(f"{out}: {rules}{debts}. Check audits with `shortcut-audit gate check RUN`.")


@gate.command("check")
def check(
    run: Path = typer.Argument(..., metavar="RUN", help="Folder of a finished audit."),
    policy: Path | None = _POLICY,
    baseline: Path | None = typer.Option(
        None, "--baseline", help="Audit to compare with, image by image. [default: the policy's numbers]"
    ),
    junit: Path | None = typer.Option(None, "--junit", help="Write JUnit XML here."),
    markdown: Path | None = typer.Option(None, "--markdown", help="Write Markdown here."),
    json_file: Path | None = typer.Option(None, "--json", help="Write JSON here."),
    badge: Path | None = typer.Option(None, "--badge", help="Write JSON for a shields.io badge here."),
    github: bool = typer.Option(
        False, "--github", help="In GitHub Actions: annotations, and a summary of the step."
    ),
    numerics: str = typer.Option(
        "widen",
        "--numerics",
        help="Where the baseline was computed otherwise (device, dtype, torch, batch): widen tolerances"
        " and say so, or strict, to end with 2.",
    ),
    day: datetime | None = _DATE,
) -> None:
    """Hold an audit against a policy: 0 passed, 1 failed, 2 not usable, 3 incomplete."""
    from shortcut_audit.gate.outputs import OUTPUTS, as_terminal
    from shortcut_audit.gate.outputs.badge import error_badge

    if numerics not in ("widen", "strict"):
        raise SettingsError(f"--numerics was given as {numerics!r}.", "It is widen or strict.")
    policies = (Path("gate.toml"), Path("pyproject.toml")) if policy is None else (policy,)
    _require_free((run, baseline, *policies), junit, markdown, json_file, badge)
    _require_other(run, baseline)
    if badge is not None:
        _write(badge, error_badge())
    for path in (junit, markdown, json_file):
        if path is not None:
            # What an earlier check wrote says nothing of this one, which may end before it writes.
            with suppress(OSError):
                path.unlink()
    try:
        report = _checked(run, policy, baseline, _day(day), numerics == "strict")
    except AuditError as error:
        _tell_unusable(error, badge, github)
        raise
    for name, path in (("junit", junit), ("markdown", markdown), ("json", json_file), ("badge", badge)):
        if path is not None:
            _write(path, OUTPUTS[name](report))
    _print(_for_github(report) if github else as_terminal(report))
    raise typer.Exit(report.exit_code)


@gate.command("update")
def update(
    run: Path = typer.Argument(..., metavar="RUN", help="Folder of a finished audit."),
    policy: Path | None = _POLICY,
    baseline: Path | None = typer.Option(
        None, "--baseline", help="Audit to compare with, as for check. [default: the policy's numbers]"
    ),
    out: Path | None = typer.Option(
        None, "-o", "--out", help="Where the stricter policy goes. [default: in place]"
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite another file that is there."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would change; write nothing."),
    day: datetime | None = _DATE,
) -> None:
    """Move the ratchet forwards: stricter where the audit is surely better, never looser."""
    from shortcut_audit.gate.check import check_gate
    from shortcut_audit.gate.outputs import as_terminal
    from shortcut_audit.gate.policy_text import head_notes, policy_text
    from shortcut_audit.gate.ratchet import ratcheted
    from shortcut_audit.gate.soundness import load_sound

    path, known = _policy(policy)
    target = path if out is None else out
    _require_free((run, baseline), target)
    _require_other(run, baseline)
    if _place(target) != _place(path):
        _require_new(target, force)
    if target.name == "pyproject.toml" and not dry_run:
        raise SettingsError(
            "A policy within pyproject.toml is not rewritten.",
            "Name a file of its own with -o gate.toml, and remove the table.",
        )
    result, other = load_sound(run), None if baseline is None else load_sound(baseline)
    names = (str(run), str(path), "" if baseline is None else str(baseline))
    report = check_gate(result, known, baseline=other, today=_day(day), names=names)
    if report.exit_code != 0:
        say(as_terminal(report).rstrip("\n"))
        say("Nothing was changed: only an audit that passes moves the policy.")
        raise typer.Exit(report.exit_code)
    stricter, moved = ratcheted(known, result, _day(day), other)
    for sentence in moved:
        say(sentence)
    if stricter == known:
        say("Nothing to tighten.")
    elif dry_run:
        say("Nothing was written.")
    else:
        notes = [] if path.name == "pyproject.toml" else head_notes(path.read_text(encoding="utf-8"))
        _write(target, policy_text(stricter, notes))
        say(f"Tightened: {target}")


@gate.command("validate")
def validate(
    policies: list[Path] = typer.Argument(
        ..., metavar="POLICY...", help="Policies: gate.toml, or a pyproject.toml that holds one."
    ),
    day: datetime | None = _DATE,
) -> None:
    """Read policies, without any audit: 0 all hold, 2 one does not. For pre-commit."""
    from shortcut_audit.gate.policy_file import read_policy

    faulty = False
    for path in policies:
        try:
            known = read_policy(path)
        except SettingsError as error:
            faulty = True
            typer.echo("\n  ".join(plain(each) for each in (error.problem, error.next_step)), err=True)
            continue
        say(f"{path}: {_counted(len(known.rules), 'rule')}, {_counted(len(known.debts), 'known debt')}.")
        for debt in known.debts:
            if debt.expires is not None and debt.expires < _day(day):
                say(f"  The debt of {debt.class_name} under {debt.rule!r} expired on {debt.expires}.")
    if faulty:
        raise typer.Exit(2)


@gate.command("schema")
def schema() -> None:
    """Print the JSON schema of a policy."""
    from shortcut_audit.gate.policy import policy_schema

    typer.echo(json.dumps(policy_schema(), indent=1))


def _print(text: str) -> None:
    """Print what the gate found; it stands, too, where nobody reads it."""
    try:
        say(text.rstrip("\n"))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        raise RunFolderError(
            f"What was found cannot be printed: {error.strerror or error}.",
            "Free some space where the output goes.",
        ) from error


def _discard_output() -> None:
    # What is left in the buffer would raise again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place(path: Path) -> str:
    """Where a path leads, through links; pathlib raises where these go in circles."""
    return os.path.realpath(path)


def _for_github(report: GateReport) -> str:
    """What the runner reads; the summary goes to its file."""
    from shortcut_audit.gate.outputs import as_markdown, as_terminal
    from shortcut_audit.gate.outputs.github import as_annotations, harmless, write_summary

    write_summary(as_markdown(report), os.environ)
    return harmless(as_terminal(report)) + as_annotations(report)


def _require_free(read: Sequence[Path | None], *outputs: Path | None) -> None:
    """Refuse outputs that would be written over an audit, over what is `read`, or over each other."""
    from shortcut_audit.results.store import require_no_run_file

    require_no_run_file(*outputs)
    taken = {_place(path) for path in read if path is not None}
    for output in outputs:
        if output is None:
            continue
        if _place(output) in taken:
            raise SettingsError(f"{output} would be written twice, or over what is read.", "Name others.")
        taken.add(_place(output))


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _require_new(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise SettingsError(
            f"{out} is there already.", "Choose another -o, or overwrite it with --force."
        )


def _require_other(run: Path, baseline: Path | None) -> None:
    if baseline is not None and _place(baseline) == _place(run):
        raise SettingsError(
            "The baseline is the audit itself.", "Name the audit that it is to be held against."
        )


def _tell_unusable(error: AuditError, badge: Path | None, github: bool) -> None:
    """No earlier badge stays green; on GitHub the error is told once, as an annotation."""
    from shortcut_audit.gate.outputs.badge import error_badge
    from shortcut_audit.gate.outputs.github import error_annotation, error_summary, write_summary

    if badge is not None:
        _write(badge, error_badge())
    if github:
        say(error_annotation(error).rstrip("\n"))
        write_summary(error_summary(error), os.environ)
        raise typer.Exit(error.exit_code) from error


def _day(day: datetime | None) -> date:
    return date.today() if day is None else day.date()


def _policy(path: Path | None) -> tuple[Path, Policy]:
    from shortcut_audit.gate.policy_file import find_policy, read_policy

    found = find_policy(Path()) if path is None else path
    return found, read_policy(found)


def _checked(
    run: Path, policy: Path | None, baseline: Path | None, today: date, strict: bool
) -> GateReport:
    from shortcut_audit.gate.check import check_gate
    from shortcut_audit.gate.soundness import load_sound

    path, known = _policy(policy)
    return check_gate(
        load_sound(run),
        known,
        baseline=None if baseline is None else load_sound(baseline),
        today=today,
        strict_numerics=strict,
        names=(str(run), str(path), "" if baseline is None else str(baseline)),
    )


def _write(path: Path, text: str) -> None:
    from shortcut_audit.results.store import write_bytes

    if not path.parent.is_dir():
        raise ResultError(f"{path} cannot be written: its folder is not there.", "Make the folder first.")
    write_bytes(path, text.encode("utf-8"))
