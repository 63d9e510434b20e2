from __future__ import annotations

from typing import Any, get_args

import pytest

from shortcut_audit.results.search_options import USED_BY, idle_sentence, idle_settings
from shortcut_audit.results.settings import AuditSettings, SearchName

CHANGED: dict[str, Any] = {
    "response": "cross-entropy",
    "resolution": "tiles:2x2",
    "confidence": 0.8,
    "patch_sides": (4, 2),
    "candidates": (50, 50),
    "steps": 7,
}


@pytest.mark.parametrize("search", get_args(SearchName))
@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_setting_is_idle_for_all_searches_but_its_own(name: str, search: SearchName) -> None:
    assert CHANGED.keys() == USED_BY.keys()
    settings = AuditSettings(**{name: CHANGED[name]})
    idle = search not in USED_BY[name]
    assert idle_settings(settings, search) == ((name,) if idle else ())
    told = idle_sentence(settings, search)
    assert bool(told) == idle
    if idle:
        assert f"--{name.replace('_', '-')} (of {USED_BY[name][0]}" in told


def test_defaults_are_never_idle_and_one_user_is_enough() -> None:
    assert all(idle_settings(AuditSettings(), search) == () for search in get_args(SearchName))
    assert idle_settings(AuditSettings(confidence=0.8), "exact", "screened") == ()
