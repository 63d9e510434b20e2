"""shortcut_audit: which classes of an image classifier hang on which spatial frequencies.

    import shortcut_audit as sa
    result = sa.audit(model, images)
    result.table("classes")
    result.save("my-run")

Importing this package loads neither torch nor any plotting library; the names below load what they
need when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shortcut_audit.version import __version__

if TYPE_CHECKING:
    from shortcut_audit.data.frequency_mask import FrequencyMask
    from shortcut_audit.errors import AuditError
    from shortcut_audit.report.html import write_report
    from shortcut_audit.results.audit_result import AuditResult
    from shortcut_audit.results.settings import AuditSettings
    from shortcut_audit.results.store import load_result
    from shortcut_audit.run.cue_conflict import cue_conflict
    from shortcut_audit.run.library import audit
    from shortcut_audit.run.model_transfer import transfer

__all__ = [
    "AuditError",
    "AuditResult",
    "AuditSettings",
    "FrequencyMask",
    "__version__",
    "audit",
    "cue_conflict",
    "load_result",
    "transfer",
    "write_report",
]

_HOMES = {
    "AuditError": "shortcut_audit.errors",
    "AuditResult": "shortcut_audit.results.audit_result",
    "AuditSettings": "shortcut_audit.results.settings",
    "FrequencyMask": "shortcut_audit.data.frequency_mask",
    "audit": "shortcut_audit.run.library",
    "cue_conflict": "shortcut_audit.run.cue_conflict",
    "load_result": "shortcut_audit.results.store",
    "transfer": "shortcut_audit.run.model_transfer",
    "write_report": "shortcut_audit.report.html",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
