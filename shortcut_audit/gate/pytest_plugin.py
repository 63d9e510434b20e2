"""The gate within a test suite: pytest loads this module in every run, so it loads nothing itself.

    @pytest.mark.shortcut_audit(run="runs/candidate", policy="gate.toml", baseline="audits/baseline")
    def test_no_class_becomes_a_shortcut(): ...

    def test_a_model(shortcut_audit_gate, tmp_path):
        shortcut_audit_gate(shortcut_audit.audit(model, images), policy="gate.toml")

Both fail where the gate does not pass: also where anything is missing, unreadable or not comparable.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shortcut_audit.gate.gate_report import GateReport
    from shortcut_audit.gate.policy import Policy
    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["shortcut_audit_gate"]

_MARKER = "shortcut_audit"
_ARGUMENTS = ("run", "policy", "baseline", "numerics")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for --strict-markers and --markers."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(run, policy=None, baseline=None, numerics='widen'): fail unless the audit in the"
        " folder `run` passes the policy (paths from pytest's root folder).",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Hold the gates of a test's markers before its own body runs."""
    for marker in item.iter_markers(_MARKER):
        report = _held(item.config.rootpath, _arguments(marker))
        item.user_properties.append(("shortcut_audit_gate", report.headline))


@pytest.fixture
def shortcut_audit_gate(request: pytest.FixtureRequest) -> Callable[..., GateReport]:
    """A function `(run, policy=None, baseline=None, numerics="widen")` that returns the gate's report,
    and fails the test where it did not pass.

    `run` and `baseline`: folders, or results as `shortcut_audit.audit` returns them; `policy`: a file,
    [default: gate.toml of pytest's root folder, else that of its pyproject.toml].
    """

    def gate(
        run: str | os.PathLike[str] | AuditResult,
        policy: str | os.PathLike[str] | None = None,
        baseline: str | os.PathLike[str] | AuditResult | None = None,
        numerics: str = "widen",
    ) -> GateReport:
        __tracebackhide__ = True
        arguments = {"run": run, "policy": policy, "baseline": baseline, "numerics": numerics}
        return _held(request.config.rootpath, arguments)

    return gate


def _arguments(marker: pytest.Mark) -> dict[str, Any]:
    given: dict[str, Any] = {**dict(zip(_ARGUMENTS, marker.args, strict=False)), **marker.kwargs}
    unknown = sorted(set(given) - set(_ARGUMENTS))
    if unknown or "run" not in given or len(marker.args) > len(_ARGUMENTS):
        what = f"does not know {', '.join(unknown)}" if unknown else "needs run="
        pytest.fail(f"The marker {_MARKER} {what}; it takes {', '.join(_ARGUMENTS)}.", pytrace=False)
    return given


def _held(root: Path, arguments: dict[str, Any]) -> GateReport:
    """The report of a gate that passed; every other outcome fails the test."""
    __tracebackhide__ = True
    from shortcut_audit.errors import AuditError
    from shortcut_audit.gate.outputs import as_terminal

    try:
        report = _report(root, **arguments)
    except AuditError as error:
        pytest.fail(f"The gate could not be held ({error.slug}): {error}", pytrace=False)
    if not report.passed:
        pytest.fail(as_terminal(report), pytrace=False)
    return report


def _report(
    root: Path,
    run: str | os.PathLike[str] | AuditResult,
    policy: str | os.PathLike[str] | None = None,
    baseline: str | os.PathLike[str] | AuditResult | None = None,
    numerics: str = "widen",
) -> GateReport:
    from datetime import date

    from shortcut_audit.errors import SettingsError
    from shortcut_audit.gate.check import check_gate
    from shortcut_audit.gate.policy_file import find_policy

    if numerics not in ("widen", "strict"):
        raise SettingsError(f"numerics was given as {numerics!r}.", "It is widen or strict.")
    if run is None or run is baseline or _is_one_folder(root, run, baseline):
        what = "names no audit" if run is None else "is its own baseline"
        raise SettingsError(f"The run {what}.", "Name an audit, and the one it is to be held against.")
    path = find_policy(root) if policy is None else root / policy
    return check_gate(
        _sound(root, run),
        _policy(path),
        baseline=None if baseline is None else _sound(root, baseline),
        today=date.today(),
        strict_numerics=numerics == "strict",
        names=(_name(run), str(policy or path.name), "" if baseline is None else _name(baseline)),
    )


def _is_one_folder(root: Path, run: object, baseline: object) -> bool:
    if not (isinstance(run, str | os.PathLike) and isinstance(baseline, str | os.PathLike)):
        return False
    return os.path.realpath(root / run) == os.path.realpath(root / baseline)


def _policy(path: Path) -> Policy:
    from shortcut_audit.gate.policy_file import read_policy

    return read_policy(path)


def _sound(root: Path, run: str | os.PathLike[str] | AuditResult) -> AuditResult:
    """The audit, checked as one in a folder is."""
    from shortcut_audit.gate.soundness import load_sound, require_sound

    if isinstance(run, str | os.PathLike):
        return load_sound(root / run)
    require_sound(run)
    return run


def _name(run: str | os.PathLike[str] | AuditResult) -> str:
    return str(run) if isinstance(run, str | os.PathLike) else "this audit"
