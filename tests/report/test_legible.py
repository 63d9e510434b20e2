"""Names that run the other way, or steer what follows them, leave the words around them alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.report.legible import legible

STEERING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@given(st.text())
def test_plain_text_stays_and_nothing_steers(text: str) -> None:
    shown = legible(text)
    if not any(unicodedata.bidirectional(c) in ("R", "AL") or c in STEERING for c in text):
        assert shown == text
    depth = 0
    for letter in shown:
        assert letter not in STEERING[:-2]
        depth += {"\u2068": 1, "\u2069": -1}.get(letter, 0)
        assert depth in (0, 1)
    assert depth == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u202eright to left", "\\u202eright to left"),
        ("זברה", "\u2068זברה\u2069"),
        (
            "“זברה” falls, “horse” not (36.7%)",
            "“\u2068זברה\u2069” falls, “\u2068horse\u2069” not (36.7%)",
        ),
        ("“horse” falls", "“horse” falls"),
    ],
)
def test_names_are_set_apart(text: str, shown: str) -> None:
    assert legible(text) == shown
