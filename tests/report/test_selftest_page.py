"""The page of a self-test: every name survives, figures are the result's, nothing is fetched."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shortcut_audit.report.selftest_page import (
    render_selftest,
    selftest_counts,
    selftest_headline,
    selftest_meaning,
    standing,
    write_selftest,
)
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.selftest import (
    CaseOutcome,
    ClassOutcome,
    SelfTestResult,
    load_selftest,
)

HOSTILE = "<script>alert(1)</script> & \"so\" 'on'"


def made(*, alarms: int = 0, n_planned: int = 2, full: bool = True) -> SelfTestResult:
    turned = Paired(n=100, both=0, only_first=64, only_second=0)
    items = [
        ClassOutcome(
            class_name=HOSTILE,
            role="plant",
            planted="cosines, random phase 4",
            kind="cosines, random phase",
            truth=turned,
            n_planted=2,
            n_named=3,
            n_planted_named=1,
            n_planted_in_map=2,
            verdict="shortcut",
            score=0.731,
            p_value=1e-9,
        ),
        ClassOutcome(
            class_name="cast",
            role="control",
            planted="colour cast 14",
            kind="colour cast",
            truth=turned,
            verdict="no shortcut",
            score=0.02,
            confounds=("colour",),
        ),
        ClassOutcome(class_name="lack", role="clean", truth=turned, verdict="shortcut"),
        *(
            ClassOutcome(
                class_name=f"c{n}", role="clean", verdict="shortcut" if n < alarms else "no shortcut"
            )
            for n in range(3)
        ),
    ]
    cases = [
        CaseOutcome(
            name=f"case {structure}",
            architecture=HOSTILE,
            height=30,
            width=37,
            structure=structure,  # type: ignore[arg-type]
            accuracy=Rate(hits=9, n=10),
            n_images=50,
            data_digest="ab",
            seconds=61,
            by_class=tuple(items if not structure else items[3:]),
        )
        for structure in ("", "random labels")
    ]
    return SelfTestResult(
        full=full,
        seed=3,
        data=HOSTILE,
        command=f"shortcut-audit selftest --data '{HOSTILE}'",
        device="cpu",
        versions={"shortcut-audit": "1.2"},
        n_planned=n_planned,
        cases=tuple(cases),
    )


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


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def test_the_page_is_one_small_file_without_scripts_that_fetches_nothing() -> None:
    page = render_selftest(made())
    reader = read(page)
    assert "script" not in reader.tags
    assert "default-src 'none'" in html.unescape(page)
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert len(page) < 200_000
    assert page == render_selftest(made())


def test_names_survive_and_figures_are_those_of_the_result() -> None:
    result = made()
    text = re.sub(r"\s+", " ", read(render_selftest(result)).text)
    assert text.count(HOSTILE) >= 4
    for what, figure in selftest_counts(result):
        assert what in text
        assert figure in text
    for figure in ("64.0%", "0.73", "1e-09", "1 of 3", "30 × 37", "90.0%", "told by a lack"):
        assert figure in text
    assert selftest_headline(result) in text
    assert selftest_meaning(result) in text


def test_counts_name_every_group() -> None:
    counts = dict(selftest_counts(made(alarms=1)))
    assert counts["used plants called shortcut"].startswith("1 of 1 ")
    assert counts["clean classes called shortcut"].startswith("1 of 4 ")
    assert counts["planted orbits named (narrow used plants)"] == "0.50 on average over 1"
    assert counts["planted orbits in the map (narrow used plants)"] == "1.00 on average over 1"
    assert counts["AUROC of the score, used plants against clean classes"] == "1.000, 1 against 4"
    assert counts["used colour casts named as colour"] == "1 of 1"
    assert counts["classes told by the lack of others' plants"] == "1, 1 of them called shortcut"
    assert counts["models that learnt nothing: p below 0.05"] == "none to count"
    assert counts["models that learnt nothing: classes called shortcut"].startswith("1 of 3 ")


def test_a_pass_says_how_few_cases_it_rests_on() -> None:
    passed = selftest_meaning(made())
    assert "leaves classes without one alone" in passed
    assert "1 used plants and 4 clean classes, which is few" in passed
    assert "calls 1 of 4 classes without one a shortcut too" in selftest_meaning(made(alarms=1))
    failed = selftest_meaning(made(alarms=3))
    assert "3 of 4 clean classes were called shortcuts." in failed
    assert "Do not rely" in failed
    assert selftest_headline(made(alarms=3)).startswith("Not passed")


@pytest.mark.parametrize(("n_planned", "said"), [(2, False), (9, True)])
def test_a_test_that_was_not_run_to_its_end_says_so_first(n_planned: int, said: bool) -> None:
    page = read(render_selftest(made(n_planned=n_planned))).text
    assert ("2 of 9 models are in" in page) is said


def test_standings() -> None:
    items = made().cases[0].by_class
    assert [standing(item) for item in items[:4]] == ["used", "control", "told by a lack", "clean"]
    unused = items[0].model_copy(update={"truth": None})
    assert standing(unused) == "unused"


def test_page_and_numbers_are_written_together(tmp_path: Path) -> None:
    page = write_selftest(made(), tmp_path)
    assert page.read_text(encoding="utf-8") == render_selftest(made())
    assert load_selftest(tmp_path) == made()
