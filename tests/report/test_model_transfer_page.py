"""The page of a transfer and its words: names survive, figures are the result's, nothing is fetched."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import conv_model, random_images
from scipy.cluster.hierarchy import leaves_list
from transferred import EVERY, made

import shortcut_audit as sa
from shortcut_audit.report.model_transfer_figures import agreement_figure, clustering_of, turned_figure
from shortcut_audit.report.model_transfer_page import render_transfer, write_transfer_page
from shortcut_audit.report.model_transfer_words import (
    agreement_sentence,
    by_outcome,
    class_sentence,
    cost_sentence,
    dropped_sentences,
    judged_sentence,
    over_ceiling_text,
    transfer_headline,
    transfer_notes,
)
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.model_transfer import Agreement, ModelTransferResult

HOSTILE = "<script>alert(1)</script> & \"so\" 'on' $x_{"


@pytest.fixture(scope="module")
def result() -> AuditResult:
    return sa.audit(conv_model(2, 1), random_images(8, 2, (1, 8, 6)), batch_size=64, examples=0)


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


def text_of(found: ModelTransferResult) -> str:
    return re.sub(r"\s+", " ", read(render_transfer(found)).text)


def with_agreements(
    found: ModelTransferResult, values: dict[tuple[str, str], float | None]
) -> ModelTransferResult:
    pairs = []
    for (one, other), value in values.items():
        pair = found.agreements[0]
        item = pair.by_class[0].model_copy(update={"rank_correlation": value})
        pairs.append(pair.model_copy(update={"first": one, "second": other, "by_class": (item,)}))
    return found.model_copy(update={"agreements": tuple(pairs)})


def test_the_page_is_one_small_file_without_scripts_that_fetches_nothing(result: AuditResult) -> None:
    found = made(result, EVERY, (HOSTILE, "two", "three"))
    page = render_transfer(found)
    reader = read(page)
    assert "script" not in reader.tags
    assert "default-src 'none'" in html.unescape(page)
    assert len(reader.links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert len(page) < 300_000
    assert page == render_transfer(found)


def test_names_survive_and_figures_are_those_of_the_result(result: AuditResult) -> None:
    found = made(result, EVERY, (HOSTILE, "two"))
    text = text_of(found)
    assert text.count(HOSTILE) >= 6
    (judged,) = found.judged
    parts = [transfer_headline(found), judged_sentence(judged), cost_sentence(found)]
    parts += [class_sentence(judged, item) for item in judged.by_class]
    parts += [agreement_sentence(found.agreements[0]), *transfer_notes(found)]
    parts += dropped_sentences(found.dropped)
    for part in parts:
        assert re.sub(r"\s+", " ", part) in text
    for figure in (
        "55%",
        "0.0003",
        "0.80",
        "25%",
        "not measured: reliability too low",
        "a map is constant",
    ):
        assert figure in text
    assert "there other name" in text


def test_equal_results_have_equal_pages_whenever_they_were_measured(result: AuditResult) -> None:
    found = made(result, EVERY)
    later = found.model_copy(update={"timing": found.timing.model_copy(update={"finished_at": "later"})})
    assert render_transfer(found) == render_transfer(later)


def test_the_first_sentence_counts_and_names(result: AuditResult) -> None:
    verdicts = [("shortcut", "shortcut"), ("shortcut", "shortcut"), ("shortcut", "no shortcut")]
    told = judged_sentence(made(result, verdicts).judged[0])
    assert told == (
        "2 of 3 shortcuts of one are shortcuts of B too: “class 0”, “class 1”. Not of B: “class 2”."
    )
    told = judged_sentence(made(result, [("shortcut", "shortcut")]).judged[0])
    assert told == "1 of 1 shortcut of one is a shortcut of B too: “class 0”."
    told = judged_sentence(
        made(result, [("shortcut", "inconclusive"), ("inconclusive", "shortcut")]).judged[0]
    )
    assert told == (
        "0 of 1 shortcut of one are shortcuts of B too. Too few images to tell: “class 0”. Open on one"
        " itself: “class 1”."
    )
    told = judged_sentence(made(result, [("no shortcut", "shortcut")]).judged[0])
    assert told == (
        "one has no shortcut to take to B (1 class judged). With the map that one gave it, “class 0”"
        " hangs on a shortcut in B alone."
    )


def test_on_its_own_model_shortcuts_are_found_again(result: AuditResult) -> None:
    judged = made(result, [("shortcut", "shortcut"), ("shortcut", "no shortcut")], ("B",)).judged[0]
    assert (
        judged_sentence(judged) == "On its own model, 1 of 2 shortcuts of B are found again: “class 0”."
    )
    none = made(result, [("no shortcut", "no shortcut")], ("B",)).judged[0]
    assert judged_sentence(none).startswith("B has no shortcut that could be found again")


def test_a_class_is_told_with_both_sides_numbers(result: AuditResult) -> None:
    judged = made(result, [("shortcut", "no shortcut")]).judged[0]
    assert class_sentence(judged, judged.by_class[0]) == (
        "“class 0” (there “other name”): a shortcut of one (55% turned, nulls 5%, 2%, q 0.0003), and none"
        " of B (20% turned, q 1); the 3 orbits that do most on one turn 55% on B."
    )
    note = "A shortcut that stays behind says nothing of other orbits"
    assert any(note in each for each in transfer_notes(made(result, [("shortcut", "no shortcut")])))
    assert not any(note in each for each in transfer_notes(made(result, [("shortcut", "shortcut")])))


def test_what_a_reader_looks_for_stands_first(result: AuditResult) -> None:
    order = [item.outcome for item in by_outcome(made(result, EVERY).judged[0])]
    assert order[:3] == ["travels", "stays behind", "open there"]
    assert order[-1] == "neither"


def test_agreement_is_told_beside_its_ceiling(result: AuditResult) -> None:
    pair: Agreement = made(result, EVERY).agreements[0]
    told = agreement_sentence(pair)
    assert "rank correlation of 0.15, on average over 3 classes" in told
    assert "0.12 of what their reliability allows over the 1 of 3 classes" in told
    assert "share 25% of the orbits (5% by chance)" in told
    weak = pair.model_copy(update={"by_class": (pair.by_class[1],)})
    assert over_ceiling_text(weak) == "not measured against a ceiling: reliability too low (0.20)"
    unknown = pair.by_class[0].model_copy(update={"ceiling": None})
    assert "no reliability" in over_ceiling_text(unknown)
    many = transfer_headline(made(result, EVERY, ("one", "two", "three")))
    assert "Of 3 pairs of runs, the maps of two and three agree most" in many


def test_notes_of_many_pairs_stand_with_each(result: AuditResult) -> None:
    note = "They rest on the same images."
    two = made(result, EVERY)
    assert note in transfer_notes(two)
    many = made(result, EVERY, ("one", "two", "three"))
    top = " ".join(transfer_notes(many))
    assert note not in top
    assert "3 of 3 pairs of runs have notes" in top
    assert "3 of 3 pairs of runs rest on the same images" in top
    assert text_of(many).count(note) == 3
    other = many.runs[0].data.model_copy(update={"digest": "another"})
    apart = many.model_copy(
        update={"runs": (many.runs[0].model_copy(update={"data": other}), *many.runs[1:])}
    )
    top = " ".join(transfer_notes(apart))
    assert "1 of 3 pairs of runs rest on the same images, and 2 on draws from one set" in top
    judged = two.model_copy(update={"judged": two.judged * 3})
    assert "B is new." not in transfer_notes(judged)
    assert text_of(judged).count("B is new.") == 3


def test_many_judgements_are_not_all_told_in_the_first_sentence(result: AuditResult) -> None:
    found = made(result, [("shortcut", "shortcut")])
    many = found.model_copy(update={"judged": found.judged * 6})
    assert "2 more pairs of a run and a model are told below." in transfer_headline(many)


def test_runs_are_grouped_by_agreement_and_only_where_there_is_spread(result: AuditResult) -> None:
    names = ("a", "b", "c", "d")
    found = made(result, EVERY, names)
    alike = {("a", "c"), ("b", "d")}
    pairs = [(x, y) for i, x in enumerate(names) for y in names[i + 1 :]]
    others = dict(zip([pair for pair in pairs if pair not in alike], (0.1, 0.2, 0.3, 0.4), strict=True))
    grouped = with_agreements(found, {pair: 0.9 if pair in alike else others[pair] for pair in pairs})
    tree = clustering_of(grouped)
    assert tree is not None
    leaves = [names[n] for n in leaves_list(tree)]
    assert {frozenset(leaves[:2]), frozenset(leaves[2:])} == {frozenset("ac"), frozenset("bd")}
    np.testing.assert_allclose(tree[:, 2], [0.1, 0.1, 0.75])
    assert "average linkage" in text_of(grouped)
    assert clustering_of(with_agreements(found, dict.fromkeys(pairs, 0.5))) is None
    hole = {pair: None if pair == ("a", "b") else 0.1 * n for n, pair in enumerate(pairs)}
    assert clustering_of(with_agreements(found, hole)) is None
    two = made(result, EVERY)
    assert clustering_of(two) is None
    assert "average linkage" not in text_of(two)


@pytest.mark.parametrize("names", [("one", "two"), ("one", "two", "three")])
def test_cells_say_value_and_ceiling(result: AuditResult, names: tuple[str, ...]) -> None:
    figure = agreement_figure(made(result, EVERY, names))
    told = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert "0.70\nreliability" in told
    assert "0.15\nof 0.50" in told
    labels = {label.get_text() for axes in figure.axes for label in axes.get_xticklabels()}
    assert set(names) <= labels
    turned = turned_figure(made(result, [("shortcut", "no shortcut")], names))
    told = {text.get_text() for axes in turned.axes for text in axes.texts}
    assert {"55%", "20%", "no shortcut"} <= told


def test_a_page_without_models_and_one_without_pairs(result: AuditResult, tmp_path: Path) -> None:
    found = made(result, EVERY)
    maps = found.model_copy(update={"judged": (), "models": ()})
    text = text_of(maps)
    assert "no model was run" in text
    assert "judged on" not in text.split("Words")[0]
    alone = found.model_copy(update={"agreements": ()})
    assert "How alike the maps are" not in text_of(alone)
    page = write_transfer_page(alone, tmp_path)
    assert page.read_text(encoding="utf-8") == render_transfer(alone)


def test_maps_are_compared_and_drawn_without_torch(result: AuditResult, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result.save(tmp_path / name)
    script = (
        "import sys, shortcut_audit as sa; from pathlib import Path;"
        "from shortcut_audit.report.model_transfer_page import write_transfer_page;"
        "found = sa.transfer(['one', 'two'], out='out'); write_transfer_page(found, Path('out'));"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"transfer.json", "transfer-maps.csv", "report.html", "run.json"}
