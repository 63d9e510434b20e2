"""The page of a cue-conflict test: names survive, figures are the result's, nothing is fetched."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cues import HOSTILE, made

from shortcut_audit.report.cue_conflict_page import (
    by_shape_bias,
    cue_figure,
    cue_headline,
    cue_sentences,
    p_text,
    render_cue_conflict,
    write_cue_page,
)
from shortcut_audit.results.cue_conflict import CueConflictResult, LeftOut


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(result: CueConflictResult) -> _Reader:
    reader = _Reader()
    reader.feed(render_cue_conflict(result))
    return reader


def text_of(result: CueConflictResult) -> str:
    return re.sub(r"\s+", " ", read(result).text)


def test_the_page_is_one_small_file_without_scripts_that_fetches_nothing() -> None:
    result = made((3, 4, 5), (1, 0, 2))
    page, reader = render_cue_conflict(result), read(result)
    assert "script" not in reader.tags
    assert "default-src 'none'" in html.unescape(page)
    assert len(reader.links) == 1
    assert reader.links[0].startswith("data:image/png;base64,")
    assert "http" not in page.replace("http-equiv", "")
    assert len(page) < 200_000
    assert page == render_cue_conflict(result)


def test_names_survive_and_figures_are_those_of_the_result() -> None:
    result = made((30, 4, 5), (11, 0, 2))
    text = text_of(result)
    # Class, group and its class, dropped reason, note, model, data, command.
    assert text.count(HOSTILE) >= 8
    assert text.index(cue_headline(result)) < text.index("Counts")
    for sentence in cue_sentences(result):
        assert sentence in text
    for figure in ("88.2%", "91.1%", "n 45", "5 images", "2 images", "A sentence.", "below 0.0001"):
        assert figure in text


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((23, 77, 9), "net goes by texture: of 100 images that it called by either, 23% by shape"),
        ((77, 23, 9), "net goes by shape: of 100 images that it called by either, 77% by shape"),
        ((252, 248, 9), "net goes by shape and texture alike: of 500 images"),
        ((12, 8, 9), "These images do not tell whether net goes by shape or by texture: of 20 images"),
        ((0, 1, 9), "of 1 image that it called by either, 0% by shape (95% interval 0–98%)."),
        ((0, 0, 9), "Not measured for net: the model called none of the 9 images by its shape"),
        ((0, 0, 0), "Not measured for net: none of the 7 images is left (5 of a class without a group"),
    ],
)
def test_the_first_sentence_says_what_the_model_goes_by(
    counts: tuple[int, int, int], sentence: str
) -> None:
    result = made(counts, name="net")
    assert sentence in cue_headline(result)
    assert cue_headline(result) in text_of(result)


def test_the_interval_of_the_first_sentence_is_the_exact_one() -> None:
    # By hand, from the beta distribution: 23 of 100.
    assert cue_headline(made((23, 77, 0))).endswith("(95% interval 15–32%).")


def test_what_was_left_out_is_said_and_nothing_else() -> None:
    said = " ".join(cue_sentences(made((3, 4, 5), left_out=LeftOut(not_drawn=4, unreadable=1))))
    assert "Left out: 5 of 17 images: 4 beyond the images asked for of each class, 1 unreadable." in said
    assert "Left out" not in " ".join(cue_sentences(made((3, 4, 5), left_out=LeftOut())))


def test_among_all_outputs_there_may_be_no_shape_bias() -> None:
    assert (
        "decided among all 9 outputs, 8 are neither and the shape bias is 0% of 4."
        in cue_sentences(made((3, 4, 5)))[1]
    )
    assert cue_sentences(made((3, 0, 5)))[1].endswith("decided among all 9 outputs, 8 are neither.")


def test_a_result_without_measure_has_no_figure() -> None:
    assert "img" not in read(made((0, 0, 4))).tags
    assert "p " not in cue_sentences(made((0, 0, 4)))[0]


def test_classes_fall_by_shape_bias_and_those_without_one_come_last() -> None:
    result = made((1, 3, 0), (0, 0, 2), (3, 1, 0), (0, 5, 0))
    assert [item.class_name for item in by_shape_bias(result)] == ["class2", HOSTILE, "class3", "class1"]


def test_the_figure_has_a_row_of_all_and_one_of_each_class_with_a_bias() -> None:
    from matplotlib import pyplot as plt

    figure = cue_figure(made((1, 3, 0), (0, 0, 2), (3, 1, 0)))
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "all images (4 : 4)"
    assert labels[1] == "class2 (3 : 1)"
    assert len(labels) == 3
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([0.5, 0.75, 0.25, 0.5, 0.25, 0.75])
    plt.close(figure)


def test_many_classes_are_in_the_table_and_not_all_in_the_figure() -> None:
    result = made(*[(2, 1, 0)] * 70)
    text = text_of(result)
    assert "10 more classes are in the table alone" in text
    assert "class69" in text


def test_p_values_as_people_write_them() -> None:
    assert [p_text(p) for p in (None, 3e-9, 0.00123, 0.5)] == ["–", "below 0.0001", "0.0012", "0.5"]


def test_the_page_is_written_beside_the_numbers(tmp_path: Path) -> None:
    page = write_cue_page(made((3, 4, 5)), tmp_path)
    assert page == tmp_path / "report.html"
    assert page.read_text(encoding="utf-8") == render_cue_conflict(made((3, 4, 5)))


@pytest.mark.slow
def test_the_page_loads_quietly_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        if os.environ.get("SHORTCUT_AUDIT_DATA_REQUIRED") == "1":
            pytest.fail("no browser, and here this test may not be skipped")
        pytest.skip("no browser")
    page = write_cue_page(made((3, 4, 5), (9, 1, 0)), tmp_path)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    # Every host name fails to resolve: what the page would fetch would be told.
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    seen = subprocess.run(
        [browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert [line for line in seen.stderr.splitlines() if "CONSOLE" in line] == []
    assert "<script>" not in seen.stdout
    assert "Shape against texture" in seen.stdout
