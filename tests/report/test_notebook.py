from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from conftest import conv_model, random_images
from judged import INCONCLUSIVE, NOTHING, SHORTCUT, with_verdicts
from routes import audit_by

import shortcut_audit as sa
from shortcut_audit.results.audit_result import AuditResult


class Snippet(HTMLParser):
    """Tags, attributes and text; tags have to close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(result: AuditResult) -> Snippet:
    text = result._repr_html_()
    assert len(text.encode()) < 100_000
    return Snippet(text)


@pytest.mark.parametrize("kind", ["hostile", "hostile_data"])
def test_hostile_names_are_inert(kind: str, request: pytest.FixtureRequest) -> None:
    result: AuditResult = request.getfixturevalue(kind)
    snippet = shown(result)
    allowed = {
        "div",
        "p",
        "strong",
        "small",
        "code",
        "bdi",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "img",
    }
    assert {tag for tag, _ in snippet.tags} <= allowed
    for tag, attributes in snippet.tags:
        assert set(attributes) <= {"style", "scope", "src", "alt"}
        assert "url(" not in str(attributes.get("style"))
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,")
    for name in result.class_names:
        assert (name if len(name) < 60 else name[:50]) in snippet.text


def test_the_verdict_comes_first_and_the_worst_classes_stand_on_top() -> None:
    result = with_verdicts(audit_by("exact"), NOTHING, SHORTCUT, INCONCLUSIVE)
    snippet = shown(result)
    assert snippet.text.startswith("1 of 3 classes hangs on a frequency shortcut: “bee”.")
    places = [snippet.text.index(name, 120) for name in ("bee", "cow [x]", "ant")]
    assert places == sorted(places)
    best = result.shortcuts.by_class[1].best
    assert best is not None
    low, high = best.flips.interval
    assert (
        f"{100 * best.flip_rate:.1f}% ({100 * low:.1f} to {100 * high:.1f}, n {best.flips.n})"
        in snippet.text
    )


def test_colours_are_the_notebooks_and_the_picture_has_a_ground_of_its_own(grey: AuditResult) -> None:
    for tag, attributes in shown(grey).tags:
        style = str(attributes.get("style", ""))
        if tag == "img":
            assert "background:#fff" in style
        else:
            # Text on a colour of ours would not be readable in the other theme.
            assert not re.search(r"(^|;)color:|background:(?!none)", style)


def test_many_classes_are_counted_and_the_snippet_stays_small() -> None:
    names = [f"a class with a name of some length, number {number}" for number in range(10)]
    pairs = random_images(4, len(names), (1, 5, 5))
    result = sa.audit(conv_model(len(names), 1), pairs, class_names=names, batch_size=64, examples=0)
    snippet = shown(result)
    assert "2 more" in snippet.text
    assert sum(tag == "tr" for tag, _ in snippet.tags) == 9


def test_equal_results_give_equal_text_and_nothing_is_left_behind(grey: AuditResult) -> None:
    opened = plt.get_fignums()
    first = grey._repr_html_()
    with mpl.rc_context({"font.size": 30}):
        before = dict(mpl.rcParams)
        assert grey._repr_html_() == first
        assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == opened
    picture = re.search(r'base64,([^"]*)"', first)
    assert picture is not None
    assert base64.b64decode(picture[1]).startswith(b"\x89PNG")
