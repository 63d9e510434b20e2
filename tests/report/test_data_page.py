"""The page of an audit of data: every name survives, numbers are the result's, nothing is fetched."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shortcut_audit as sa
from shortcut_audit.data.datasets import source_from
from shortcut_audit.report.data_page import data_page
from shortcut_audit.report.embedding import BLOCK_TYPE, PageMemory
from shortcut_audit.report.extents import Extents
from shortcut_audit.report.html import render
from shortcut_audit.report.legible import legible
from shortcut_audit.report.summary import data_headline, invitation_sentence, truth_sentences
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.settings import DataAuditSettings
from shortcut_audit.results.truth import GroundTruth, Pattern
from shortcut_audit.run.data_audit import DataRequest, run_data_audit

HOSTILE = ["<script>alert(1)</script>", "\"quoted\" & 'so'", "x" * 300, "\u202eright to left", "🦓", "c"]
SIZE = 16


def images_of(n_classes: int, n: int = 30, n_channels: int = 3, planted: int | None = 0) -> list:
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    pairs = []
    for label in range(n_classes):
        for _ in range(n):
            image = 128 + 12 * generator.standard_normal((n_channels, SIZE, SIZE))
            if label == planted:
                turn = generator.uniform(0, 2 * np.pi)
                image += 12 * np.cos(2 * np.pi * (3 * y + 4 * x) / SIZE + turn)
            pairs.append((np.clip(np.rint(image), 0, 255).astype(np.uint8), label))
    return pairs


def looked(names: list[str], planted: int | None = 0, n: int = 30, n_channels: int = 3) -> AuditResult:
    truth = GroundTruth(
        version="1",
        kind="planted",
        name="known <b>",
        height=SIZE,
        width=SIZE,
        channels=n_channels,
        class_names=tuple(names),
        bands=((0.0, 8.0),),
        patterns=(
            Pattern(name="a & b", kind="cosines", role="shortcut", classes=(names[0],), orbits=((3, 4),)),
        ),
    )
    request = DataRequest(
        source=source_from(images_of(len(names), n, n_channels, planted), names),
        settings=DataAuditSettings(),
        command='shortcut-audit data "a <b>"',
        truth=truth if planted is not None else None,
    )
    return run_data_audit(request)


@pytest.fixture(scope="module")
def hostile() -> AuditResult:
    return looked(HOSTILE)


@pytest.fixture(scope="module")
def clean() -> AuditResult:
    return looked(["grey", "dull"], planted=None, n_channels=1)


@pytest.fixture(scope="module")
def page(hostile: AuditResult) -> str:
    return render(hostile)


@pytest.fixture(scope="module")
def content(hostile: AuditResult) -> dict[str, Any]:
    return data_page(hostile, PageMemory(), Extents(20, 1000))


class Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def test_names_are_shown_as_they_are_and_run_nothing(page: str) -> None:
    reader = Reader(page)
    (script,) = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert script["type"] == BLOCK_TYPE
    for name in HOSTILE:
        assert " ".join(legible(name).split()) in reader.words
    assert "known <b>" in reader.words or "a & b" in reader.words
    assert not any(key.startswith("on") for _, attributes in reader.tags for key in attributes)


def test_the_page_needs_no_network(page: str) -> None:
    for tag, attributes in Reader(page).tags:
        for key in ("src", "href", "srcset", "action"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, value)


def test_it_says_what_the_summary_says_and_shows_every_number_of_the_probe(
    hostile: AuditResult, page: str, content: dict[str, Any]
) -> None:
    reader = Reader(page)
    for sentence in (
        data_headline(hostile),
        *(invitation_sentence(item) for item in hostile.invitations.items),
        *truth_sentences(hostile),
    ):
        assert " ".join(legible(sentence).split()) in reader.words
    rows = content["rows"]
    assert [row.name for row in rows] == HOSTILE
    assert [row.bands for row in rows] == ["3", "", "", "", "", ""]
    assert all(len(row.scores) == len(hostile.spectrum_probe.results) for row in rows)
    for row in rows:
        for score in row.scores:
            assert f"{100 * score.over_chance:.0f}" in reader.words
    assert "nothing is there" not in reader.words


def test_classes_with_names_come_first_and_each_has_its_picture(
    page: str, content: dict[str, Any]
) -> None:
    assert content["sections"][0].name == HOSTILE[0]
    assert page.count("<article") == len(HOSTILE)
    pictures = [a for tag, a in Reader(page).tags if tag == "img"]
    assert len(pictures) == 1 + len(HOSTILE)
    assert all(a["src"] and a["src"].startswith("data:image/png;base64,") and a["alt"] for a in pictures)


def test_where_nothing_stands_out_the_page_says_so_and_what_it_could_have_missed(
    clean: AuditResult,
) -> None:
    assert clean.invitations.items == ()
    reader = Reader(render(clean))
    assert "No band stands out in any class" in reader.words
    assert "is no proof that nothing is there" in reader.words
    assert "take the temptation away" not in reader.words
    assert truth_sentences(clean) == []


def test_many_classes_are_tabled_and_some_pictured(
    hostile: AuditResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortcut_audit.report.data_page._MAX_PICTURED_CLASSES", 2)
    text = render(hostile)
    assert text.count("<article") == 2
    words = Reader(text).words
    assert "2 classes are pictured, those with bands named first; 4 more are in the table" in words
    for name in HOSTILE:
        assert " ".join(legible(name).split()) in words


def test_equal_results_give_equal_bytes_and_numbers_of_the_words_are_the_results(
    hostile: AuditResult, page: str, tmp_path: Path
) -> None:
    assert render(sa.load_result(hostile.save(tmp_path / "run"))) == page
    assert f"{hostile.invitations.n_tests:,} comparisons" in html.unescape(page)
    assert re.search(r"named where the 95% interval lies above 0\.6", page)


def test_a_probe_that_could_not_be_run_says_why(clean: AuditResult) -> None:
    probe = clean.spectrum_probe.model_copy(update={"results": (), "reason": "too few images"})
    findings = tuple(probe if f is clean.spectrum_probe else f for f in clean.findings)
    result = clean.model_copy(update={"findings": findings}).with_arrays(clean.arrays)
    assert "Not measured: too few images." in Reader(render(result)).words
