"""Every error a user can meet: one root, a slug for machines, a sentence and a next step for people."""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AuditError",
    "AuditInterruptedError",
    "DataError",
    "LogitsError",
    "MissingExtraError",
    "ModelError",
    "ResultError",
    "RunFolderError",
    "SettingsError",
    "printable",
]


class AuditError(Exception):
    """Root of all errors the toolkit raises on purpose.

    `problem` says what is wrong in one sentence, `next_step` what to try; `exit_code` is what the
    command line ends with (2: the input has to change).
    """

    slug: ClassVar[str] = "audit"
    exit_code: ClassVar[int] = 2

    def __init__(self, problem: str, next_step: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.problem} {self.next_step}".rstrip()


class SettingsError(AuditError):
    """A setting is out of range, or two settings contradict each other."""

    slug = "settings"


class ModelError(AuditError):
    """The model cannot be found, loaded or called."""

    slug = "model"


class LogitsError(AuditError):
    """The model answers with something that is not a finite (batch, outputs) tensor."""

    slug = "logits"


class DataError(AuditError):
    """The images cannot be found, opened or split."""

    slug = "data"


class RunFolderError(AuditError):
    """The output folder is not ours, or cannot be written."""

    slug = "run-folder"


class ResultError(AuditError):
    """A saved result is missing, damaged, unfinished or of a newer format."""

    slug = "result"


class MissingExtraError(AuditError):
    """An optional package is needed and not installed."""

    slug = "missing-extra"


class AuditInterruptedError(AuditError):
    """The audit was stopped by the user; what is done stays done."""

    slug = "interrupted"
    exit_code = 130


def printable(text: str) -> str:
    """`text` as valid Unicode: bytes of a file name that are no UTF-8 become escapes like `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode()
