"""Which settings only some searches look at, so that none is passed over in silence."""

from __future__ import annotations

from shortcut_audit.results.settings import AuditSettings, SearchName

__all__ = ["USED_BY", "idle_sentence", "idle_settings"]

# Settings that are not here are used by every search.
USED_BY: dict[str, tuple[SearchName, ...]] = {
    "response": ("exact", "screened"),
    "resolution": ("exact", "screened"),
    "confidence": ("screened",),
    "patch_sides": ("hierarchical",),
    "candidates": ("hierarchical",),
    "steps": ("learned",),
}


def idle_settings(settings: AuditSettings, *searches: SearchName) -> tuple[str, ...]:
    """Names of settings that were changed and that none of `searches` looks at.

    >>> idle_settings(AuditSettings(search="exact", steps=50), "exact")
    ('steps',)
    """
    return tuple(
        name
        for name, users in USED_BY.items()
        if getattr(settings, name) != AuditSettings.model_fields[name].default
        and not set(users) & set(searches)
    )


def idle_sentence(settings: AuditSettings, search: SearchName) -> str:
    """What was set and is not used by `search`, with the searches that would; "" where nothing is."""
    idle = idle_settings(settings, search)
    if not idle:
        return ""
    named = [f"--{name.replace('_', '-')} (of {' and '.join(USED_BY[name])})" for name in idle]
    return f"Not used by the {search} search: {', '.join(named)}."
