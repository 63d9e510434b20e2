"""Verdicts wherever a reader looks, also those of hostile and old results."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from judged import INCONCLUSIVE, NOTHING, SHORTCUT, UNJUDGED, with_verdicts
from rich.cells import cell_len
from rich.console import Console
from routes import audit_by

from shortcut_audit.cli.tables import print_classes
from shortcut_audit.measures import cases, verdicts
from shortcut_audit.report.figures import LARGE, picture_uri, png_bytes
from shortcut_audit.report.html import MAX_PICTURED_CLASSES, render
from shortcut_audit.report.verdict_figures import ladder_figure
from shortcut_audit.report.verdict_page import evidence_pixels, flips_text, nulls_text
from shortcut_audit.report.verdict_words import (
    by_verdict,
    number_text,
    reasons,
    shares_text,
    verdict_sentence,
)
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.shortcut_findings import ClassShortcut


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def of(*changes: dict[str, object]) -> AuditResult:
    return with_verdicts(audit_by("exact"), *changes)


def many(n: int, *changes: dict[str, object]) -> AuditResult:
    """A result of `n` classes; the first ones have `changes`, the others no shortcut."""
    small = audit_by("exact")
    names = tuple(f"class {number}" for number in range(n))
    copies = [{**NOTHING, "score": 0.0001 * number} for number in range(n - len(changes))]
    shortcuts = tuple(
        small.shortcuts.by_class[0].model_copy(update={**change, "class_name": name})
        for name, change in zip(names, [*changes, *copies], strict=True)
    )
    maps, accuracies = small.dominant_frequencies, small.predictions
    found = tuple(maps.by_class[0].model_copy(update={"class_name": name}) for name in names)
    replaced = {
        "shortcuts": small.shortcuts.model_copy(update={"by_class": shortcuts}),
        "dominant_frequencies": maps.model_copy(update={"by_class": found}),
        "predictions": accuracies.model_copy(
            update={"accuracy_by_class": accuracies.accuracy_by_class[:1] * n}
        ),
    }
    findings = tuple(replaced.get(finding.measure, finding) for finding in small.findings)
    data = small.provenance.data.model_copy(
        update={
            "class_names": names,
            "n_search_by_class": small.provenance.data.n_search_by_class[:1] * n,
        }
    )
    arrays = {
        name: np.repeat(array[:1], n, axis=0) if not name.startswith("orbits/") else array
        for name, array in small.arrays.items()
        if not name.startswith("shortcuts/")
    }
    shown = tuple(
        item.model_copy(update={"example": None, "evidence": ()})
        for item in replaced["shortcuts"].by_class  # type: ignore[attr-defined]
    )
    findings = tuple(
        f.model_copy(update={"by_class": shown}) if f.measure == "shortcuts" else f for f in findings
    )
    provenance = small.provenance.model_copy(update={"data": data})
    return small.model_copy(update={"findings": findings, "provenance": provenance}).with_arrays(arrays)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            (NOTHING, SHORTCUT, SHORTCUT),
            "2 of 3 classes hang on a frequency shortcut: “bee”, “cow [x]”.",
        ),
        (
            (INCONCLUSIVE, SHORTCUT, NOTHING),
            "1 of 3 classes hangs on a frequency shortcut: “bee”. Inconclusive: 1 more, “ant”.",
        ),
        ((NOTHING, NOTHING, NOTHING), "No class hangs on a frequency shortcut (3 judged)."),
        (
            (NOTHING, INCONCLUSIVE, INCONCLUSIVE),
            "No class is shown to hang on a frequency shortcut, but 2 of 3 classes are inconclusive:"
            " “bee”, “cow [x]”.",
        ),
        (
            (NOTHING, UNJUDGED, NOTHING),
            "No class hangs on a frequency shortcut (2 judged). Not judged: 1, “bee”.",
        ),
        (
            (UNJUDGED, UNJUDGED, UNJUDGED),
            "No class was judged: tests against a null are not part of this audit.",
        ),
    ],
)
def test_the_sentence_counts_and_names(changes: tuple[dict[str, object], ...], sentence: str) -> None:
    assert verdict_sentence(of(*changes)) == sentence


def test_at_most_five_classes_are_named_and_long_names_are_cut() -> None:
    result = many(9, *[SHORTCUT] * 7)
    assert verdict_sentence(result).startswith("7 of 9 classes hang")
    assert "“class 4” and 2 more." in verdict_sentence(result)
    assert "class 5" not in verdict_sentence(result)
    item = result.shortcuts.by_class[0].model_copy(update={"class_name": "x" * 300})
    changed = result.shortcuts.model_copy(update={"by_class": (item,)})
    findings = tuple(changed if f is result.shortcuts else f for f in result.findings)
    assert f"“{'x' * 39}…”" in verdict_sentence(result.model_copy(update={"findings": findings}))


def test_classes_stand_by_verdict_and_then_by_score() -> None:
    weak = {**SHORTCUT, "score": 0.2}
    result = many(6, {**NOTHING, "score": 0.09}, INCONCLUSIVE, weak, {**SHORTCUT, "score": 0.6})
    order = [item.class_name for item in by_verdict(result)]
    assert order == ["class 3", "class 2", "class 1", "class 0", "class 5", "class 4"]
    told, n_more = reasons(result, 2)
    assert [item.class_name for item, _ in told] == ["class 3", "class 2"]
    assert n_more == 1
    ((_, reason),) = [each for each in reasons(result, 9)[0] if each[0].verdict == "inconclusive"]
    assert reason == "Too few images to tell. About 900 judgement images would decide it."


def test_old_results_stand_by_excess_as_they_did() -> None:
    from shortcut_audit.report.summary import by_excess

    result = of(UNJUDGED, UNJUDGED, UNJUDGED)
    assert by_verdict(result) == by_excess(result)
    assert reasons(result, 9) == ([], 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (1.0, "1"), (0.999, "1"), (0.05, "0.05"), (0.00012345, "0.00012"), (1e-9, "<0.0001")],
)
def test_p_and_q_read_as_people_write_them(value: float | None, text: str) -> None:
    assert number_text(value) == text


def test_small_shares_keep_two_digits() -> None:
    texts = [shares_text(share) for share in (None, 0.00391, 0.000012, 0.12, 1.0)]
    assert texts == ["–", "0.39%", "0.0012%", "12%", "100%"]


def test_flips_and_nulls_are_those_of_the_best_rung() -> None:
    first, second, third = of(SHORTCUT, NOTHING, UNJUDGED).shortcuts.by_class
    assert (flips_text(first), nulls_text(first)) == ("55.0%", "5.0%, 2.5%")
    assert (flips_text(second), nulls_text(second)) == ("20.0%", "not drawn")
    assert (flips_text(third), nulls_text(third)) == ("–", "–")


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_has_verdicts_first_and_keeps_to_its_width(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = of(NOTHING, INCONCLUSIVE, SHORTCUT)
    print_classes(Console(width=width), result)
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert max(map(len, lines)) <= width
    places = [said.index(f"\n{verdict}") for verdict in ("shortcut", "inconclusive", "no shortcut")]
    assert places == sorted(places)
    (row,) = [line for line in lines if line.startswith("shortcut")]
    assert "cow" in row
    assert "55%" in row
    assert "5%, 2%" in row
    assert "0.0003" in row
    assert ("(36-69)" in row) == (width >= 100)
    assert row.split()[-1] == str(result.shortcuts.by_class[2].n_judge)


def test_the_terminal_of_an_old_result_has_no_empty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_classes(Console(width=100), of(UNJUDGED, UNJUDGED, UNJUDGED))
    said = capsys.readouterr().out
    assert said.count("not judged") == 3
    assert "turned" not in said
    assert "nulls" not in said


def test_the_figure_draws_counts_nulls_and_rings() -> None:
    item: ClassShortcut = of(SHORTCUT, NOTHING, UNJUDGED).shortcuts.by_class[0]
    figure = ladder_figure(item)
    left, right = figure.axes
    drawn = {
        container.get_label(): [list(map(float, axis)) for axis in container.lines[0].get_data()]
        for container in (*left.containers, *right.containers)
    }
    assert drawn["its orbits"][0] == [0.005, 0.02]
    assert drawn["its orbits"][1] == pytest.approx([8 / 40, 22 / 40])
    assert drawn["same orbits, other images"][1] == pytest.approx([2 / 40])
    assert drawn["random orbits, same radii"][1] == pytest.approx([1 / 40])
    assert drawn["a ring of radii"] == [[0.2], pytest.approx([1 / 20])]
    assert drawn["same ring, other images"][1] == pytest.approx([0.0])
    assert drawn["necessity: removed"][1] == pytest.approx([8 / 40, 18 / 40])
    assert drawn["random ones removed"][1] == pytest.approx([2 / 40])
    assert drawn["sufficiency: J, only these kept"][1] == pytest.approx([26 / 40])
    # Told apart by more than colour.
    styles = {(c.lines[0].get_marker(), c.lines[0].get_linestyle()) for c in left.containers}
    assert len(styles) == len(left.containers) == 5
    low, high = item.ladder[1].flips.interval
    bars = left.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[1][:, 1], [low, high])
    assert left.get_xscale() == "log"
    plt.close(figure)


def test_figures_are_the_same_bytes_and_small_and_need_a_ladder() -> None:
    item = of(SHORTCUT, NOTHING, UNJUDGED).shortcuts.by_class[0]
    first, second = (png_bytes(ladder_figure(item)) for _ in range(2))
    assert first == second
    assert len(first) < 30_000
    with pytest.raises(ValueError, match="no ladder"):
        ladder_figure(item.model_copy(update={"ladder": ()}))


def test_evidence_goes_to_the_classes_that_have_it() -> None:
    result = of(SHORTCUT, NOTHING, SHORTCUT)
    pixels = evidence_pixels(result)
    assert set(pixels) == {"ant", "cow [x]"}
    # Grey levels count the pictures in the order of the array.
    assert [int(picture.max()) for (three,) in pixels.values() for picture in three] == [0, 1, 2, 3, 4, 5]
    assert evidence_pixels(of(NOTHING, NOTHING, NOTHING)) == {}


@pytest.mark.usefixtures("_no_figures")
def test_the_page_leads_with_the_verdict_and_shows_why() -> None:
    result = of(NOTHING, INCONCLUSIVE, SHORTCUT)
    page = render(result)
    text = words(page)
    assert text.index(verdict_sentence(result)) < text.index("images by their class")
    assert [re.search(r"<h3>(.*?) <span", part).group(1) for part in page.split("<article")[1:]] == [  # type: ignore[union-attr]
        "cow [x]",
        "bee",
        "ant",
    ]
    for change in (NOTHING, INCONCLUSIVE, SHORTCUT):
        assert str(change["reason"]) in text
        # A badge says its verdict in words: in the table and in the card.
        name = str(change["verdict"])
        badge = f'<span class="badge {name.replace(" ", "-")}">{name}</span>'
        assert page.count(badge) == 2
    assert "What would decide it: About 900" in text
    assert "called turned <i> (75.0%); cow [x]: 68.8%" in text
    assert "called other <b> (87.5%); cow [x]: 6.2%" in text
    assert "orbits of donor & 2.png put into receiver <1>.png" in text
    assert "what else it could be: default class, colour" in text
    assert "mid band, narrow, one direction, 3.0–4.5 cycles/image, at 30.5°" in text
    for word in (
        "Transplant",
        "Necessity",
        "Sufficiency",
        "Nulls",
        "Strength",
        "Default class",
        "Fragile",
    ):
        assert f"<dt>{word}</dt>" in page
    assert "3 orbits (best)" in text
    assert "ring 4 (9 orbits)" in text


@pytest.mark.usefixtures("_no_figures")
def test_the_page_of_an_old_result_says_that_nothing_was_judged() -> None:
    page = render(of(UNJUDGED, UNJUDGED, UNJUDGED))
    assert page.count(">not judged</span>") == 6
    assert "A high rate alone is no proof of a shortcut." in words(page)
    assert "<dt>Transplant</dt>" not in page
    assert "Transplant, " not in page


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)


@pytest.mark.usefixtures("_no_figures")
def test_hostile_names_reasons_and_files_stay_text(
    hostile: AuditResult, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = "<script>alert(2)</script>[red]"
    evil = {**SHORTCUT, "reason": attack, "needed": attack}
    result = with_verdicts(hostile, evil, evil, evil, evil, evil, evil)
    page = render(result)
    assert {"b", "i"}.isdisjoint(Tags(page).names)
    assert page.count("<script") == 2
    assert attack in words(page)
    print_classes(Console(width=100), result)
    assert max(map(cell_len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.usefixtures("_no_figures")
def test_of_300_classes_only_the_worst_are_pictured() -> None:
    result = many(300, *[NOTHING] * 297, INCONCLUSIVE, SHORTCUT)
    page = render(result)
    assert page.count("<article") == MAX_PICTURED_CLASSES
    heads = re.findall(r"<h3>(.*?) <span", page)
    assert heads[:2] == ["class 298", "class 297"]
    assert f"{300 - MAX_PICTURED_CLASSES} more are in the table" in words(page)
    assert all(f">class {number}</th>" in page for number in range(300))
    assert "The 20 classes that stand worst are pictured" in words(page)


def photo(detail: float) -> np.ndarray:
    """A (3, 224, 224) image whose amplitudes fall with the frequency, as those of photographs do."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.rfftfreq(224)[None])
    frequency[0, 0] = 1.0
    phase = np.exp(2j * np.pi * generator.random(frequency.shape))
    waves = np.fft.irfft2(phase / frequency**detail, s=(224, 224))
    image = np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)
    return np.stack([image] * 3)


def test_large_pictures_are_small_files() -> None:
    """Ten classes at 224 pixels have six pictures each, and have to stay well under 1.5 MB."""
    assert photo(1.0).shape[-1] >= LARGE
    plain, detailed = (picture_uri(photo(detail)) for detail in (1.5, 1.0))
    assert plain.startswith("data:image/webp;base64,")
    assert len(plain) < 7_000
    assert len(detailed) < 10_000
    # What the explorer filters keeps every pixel.
    assert len(detailed) < len(picture_uri(photo(1.0), shrink=False)) < 18_000
    assert picture_uri(photo(1.0)) == detailed


def test_the_thresholds_that_readers_are_told_are_those_that_decide() -> None:
    page = words(render_words())
    docs = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text()
    effect, ruled_out = f"{verdicts.EFFECT:.0%}", f"{verdicts.RULED_OUT:.0%}"
    for text in (page, docs):
        assert f"at least {effect}" in text
        assert f"{ruled_out} or more is excluded" in " ".join(text.split())
        assert f"q at most {verdicts.SIGNIFICANT:g}" in " ".join(text.split())
        assert f"at least {verdicts.WORTH_A_NULL:.0%}" in text
    for share in (cases._LIGHT, cases._LIGHT_RING):
        assert f"{share:.0%}" in docs


def render_words() -> str:
    """The glossary of the page."""
    from shortcut_audit.report import html as module

    templates = Path(module.__file__).parent / "templates"
    return (templates / "model.html.j2").read_text()
