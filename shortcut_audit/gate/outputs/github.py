"""The report where GitHub Actions shows it: annotations on the check, and the summary of the step."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from shortcut_audit.errors import AuditError, RunFolderError, printable
from shortcut_audit.gate.gate_report import Check, GateReport
from shortcut_audit.gate.outputs.words import plain_text, shortened

__all__ = [
    "MOST_ANNOTATIONS",
    "MOST_SUMMARY_BYTES",
    "as_annotations",
    "error_annotation",
    "error_summary",
    "harmless",
    "write_summary",
]

# Of each kind GitHub shows ten a step and drops the others without a word; the tenth counts the rest.
MOST_ANNOTATIONS = 9
# A summary over 1 MiB is dropped whole.
MOST_SUMMARY_BYTES = 1024 * 1024
_TITLE, _MESSAGE = 120, 2000
_GATE = "shortcut-audit gate"


def as_annotations(report: GateReport) -> str:
    """Workflow commands, one a line: what fails and what warns, worst first, then how many more."""
    told = report.of("error", "warning")
    lines = [_annotation(check) for check in told[:MOST_ANNOTATIONS]]
    rest = told[MOST_ANNOTATIONS:]
    if rest:
        fail = sum(check.level == "error" for check in rest)
        more = f"... and {len(rest)} more: {fail} fail, {len(rest) - fail} warn. The summary has them."
        lines.append(_command(rest[0].level, _GATE, more))
    if not report.checks:
        lines.append(_command("error", _GATE, report.headline))
    return "".join(f"{line}\n" for line in lines)


def error_annotation(error: AuditError) -> str:
    """The workflow command of a gate that could not be held at all."""
    return _command("error", f"{_GATE}: {error.slug}", plain_text(str(error))) + "\n"


def error_summary(error: AuditError) -> str:
    """Markdown of a gate that could not be held at all; what it says is code, and no markup."""
    text = shortened(plain_text(str(error)), _MESSAGE).replace("`", "'")
    return f"## ❔ Gate not held: nothing was compared\n\n`{text}`\n"


def harmless(text: str) -> str:
    """`text` such that the runner takes no line of it for a command of ours.

    It reads `::error::` at the start of any line, and `##[error]` anywhere in it: names of classes could
    be either.
    """
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text.rstrip()}\n::{token}::\n"


def write_summary(text: str, environment: Mapping[str, str]) -> bool:
    """Append Markdown to the step's summary; returns whether there was one, with room for it.

    Of a text that does not fit any more, after others of the step, the headline is kept. Raises
    RunFolderError where the file cannot be written.
    """
    name = environment.get("GITHUB_STEP_SUMMARY", "")
    if not name:
        return False
    short = f"{text.splitlines()[0]}\n\nThe table does not fit below other summaries of this step.\n"
    try:
        with Path(name).open("ab") as stream:
            room = MOST_SUMMARY_BYTES - 1 - stream.tell()
            for content in (printable(each).encode("utf-8") for each in (text, short)):
                if len(content) <= room:
                    stream.write(content)
                    return True
    except OSError as error:
        raise RunFolderError(
            f"The summary {name} cannot be written: {error.strerror or error}.",
            "GITHUB_STEP_SUMMARY names it; GitHub Actions sets that.",
        ) from error
    return False


def _annotation(check: Check) -> str:
    title = ": ".join(shortened(plain_text(each), _TITLE) for each in (check.about, check.rule))
    told = ". ".join(filter(None, (check.reason, check.needed, check.comment)))
    message = f"{check.outcome}: {check.about}, {check.rule}: {told}"
    return _command(check.level, title, plain_text(message))


def _command(name: str, title: str, message: str) -> str:
    return f"::{name} title={_property(title)}::{_data(shortened(message, _MESSAGE))}"


def _data(text: str) -> str:
    """What the runner turns back into the text; the percent sign first, as it stands in the others."""
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
