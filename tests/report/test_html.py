from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import shortcut_audit as sa
from shortcut_audit.report.embedding import BLOCK_TYPE
from shortcut_audit.report.html import MAX_PICTURED_CLASSES, render
from shortcut_audit.report.legible import legible
from shortcut_audit.results.audit_result import AuditResult

VOID = {"meta", "img", "br", "link", "input", "hr"}

pytestmark = pytest.mark.usefixtures("_no_figures")


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

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
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def test_hostile_names_are_inert_and_all_shown(hostile: AuditResult) -> None:
    page = Page(render(hostile))
    names = {tag for tag, _ in page.tags}
    # Its data, and its own script.
    types = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert types == [BLOCK_TYPE, None]
    assert {"iframe", "object", "form", "link"}.isdisjoint(names)
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
    for name in hostile.class_names:
        assert legible(name) in page.text
    assert not set("\u202a\u202b\u202d\u202e") & set(page.text)


def test_nothing_is_fetched_and_the_policy_forbids_it(hostile: AuditResult) -> None:
    text = render(hostile)
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert str(attributes[name]).startswith(("data:image/", "#"))
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]*", "", text))
    assert not any("style" in attributes for _, attributes in page.tags)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in str(policy)
    assert "unsafe" not in str(policy)


def test_equal_results_give_equal_bytes(grey: AuditResult, tmp_path: Path) -> None:
    first = sa.write_report(grey, tmp_path / "a.html").read_bytes()
    grey.save(tmp_path / "run")
    again = sa.write_report(sa.load_result(tmp_path / "run"), tmp_path / "run")
    assert again == tmp_path / "run" / "report.html"
    assert again.read_bytes() == first


def test_every_rate_stands_with_its_interval_and_n(grey: AuditResult) -> None:
    text = Page(render(grey)).text
    for item in grey.shortcuts.by_class:
        for rate in (item.tpr_kept, item.fpr_kept):
            assert f"{100 * rate.low:.1f}–{100 * rate.high:.1f}, n {rate.n}" in text
    for item in grey.shortcuts.by_class:
        assert item.verdict in text
    for note in grey.notes:
        assert note in text


def test_every_picture_has_words(hostile: AuditResult) -> None:
    pictures = [attributes for tag, attributes in Page(render(hostile)).tags if tag == "img"]
    # A map, a ladder and a triplet for each class, and a triplet for each transplant.
    n_transplants = sum(len(item.evidence) for item in hostile.shortcuts.by_class)
    assert len(pictures) == 5 * len(hostile.class_names) + 3 * n_transplants
    assert all(attributes.get("alt") for attributes in pictures)


def test_classes_without_an_example_still_have_a_map(grey: AuditResult) -> None:
    pictures = [attributes for tag, attributes in Page(render(grey)).tags if tag == "img"]
    n_transplants = sum(len(item.evidence) for item in grey.shortcuts.by_class)
    assert len(pictures) == 2 * 2 + 3 + 3 * n_transplants


def test_rendering_needs_no_torch(grey: AuditResult, tmp_path: Path) -> None:
    grey.save(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; import shortcut_audit as sa;"
        f"sa.write_report(sa.load_result(Path({str(tmp_path / 'run')!r})), {str(tmp_path / 'p.html')!r});"
        "print([m for m in ('torch', 'timm', 'kornia') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("n_classes", [MAX_PICTURED_CLASSES + 3])
def test_many_classes_are_all_in_the_table_and_the_first_are_pictured(
    n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import conv_model, random_images

    pairs = random_images(4, n_classes, (1, 6, 6))
    result = sa.audit(conv_model(n_classes, 1), pairs, batch_size=64, examples=2)
    page = Page(render(result))
    assert sum(tag == "article" for tag, _ in page.tags) == MAX_PICTURED_CLASSES
    assert "3 more are in the table" in page.text
    assert sum(a.get("class", "").startswith("badge ") for _, a in page.tags) >= n_classes
