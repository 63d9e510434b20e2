"""Corruptions in the terminal and on the page."""

from __future__ import annotations

import html
import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from shifted import NAMES, audit_under

from shortcut_audit.report.corruption_figures import MAX_ROWS, drop_figure, prediction_figure
from shortcut_audit.report.corruption_page import corruptions_section
from shortcut_audit.report.corruption_words import (
    corruption_sentences,
    fall_sentences,
    prediction_sentences,
    times_text,
)
from shortcut_audit.report.embedding import PageMemory
from shortcut_audit.report.figures import png_bytes
from shortcut_audit.report.html import render
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.corruption_findings import CorruptionsFinding, orbit_shares

SHIFTS = "jpeg:3,5,gaussian_noise:5,haze,contrast:5"


@pytest.fixture
def _no_other_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortcut_audit.report.model_page.map_bytes", lambda result, name: b"")
    monkeypatch.setattr("shortcut_audit.report.verdict_page.ladder_figure", lambda item: None)
    monkeypatch.setattr("shortcut_audit.report.verdict_page.png_bytes", lambda *_, **__: b"")


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def found(result: AuditResult) -> CorruptionsFinding:
    assert result.corruptions is not None
    return result.corruptions


def changed(result: AuditResult, **values: Any) -> AuditResult:
    """`result` with fields of its corruptions replaced."""
    finding = found(result).model_copy(update=values)
    findings = [finding if each.measure == "corruptions" else each for each in result.findings]
    return result.model_copy(update={"findings": tuple(findings)}).with_arrays(result.arrays)


def predicted(result: AuditResult, **values: Any) -> list[str]:
    prediction = found(result).prediction.model_copy(update=values)
    return prediction_sentences(found(result).model_copy(update={"prediction": prediction}))


def scores(*r2: float, classes: float | None = 0.3) -> Any:
    first = found(audit_under(SHIFTS)).prediction.scores
    return tuple(
        score.model_copy(update={"r2_new_corruptions": value, "r2_new_classes": classes})
        for score, value in zip(first, r2, strict=True)
    )


def test_each_corruption_has_a_sentence_with_its_accuracies() -> None:
    result = audit_under(SHIFTS)
    finding, said = found(result), corruption_sentences(result)
    clean = finding.accuracy(0).first
    assert said[0].startswith(f"{100 * clean.value:.1f}% of 18 judgement images")
    assert [sentence.split(":")[0].rpartition(" ")[0] for sentence in said[1:5]] == [
        "JPEG 3 and",
        "Gaussian noise",
        "Haze",
        "Contrast",
    ]
    rates = [f"{100 * finding.accuracy(n).second.value:.1f}%" for n in (0, 1)]
    assert said[1].startswith(
        f"JPEG 3 and 5: {rates[0]}, {rates[1]}. At 5 the energy of an orbit changes by"
    )
    assert said[3].startswith("Haze 1-5: ")
    shares = orbit_shares(result.arrays["corruptions/energy"])[:, 1, :, 2].mean(axis=0)
    place = dict(zip(finding.regions, shares, strict=True))
    most = max((name for name in place if name.startswith("band")), key=lambda name: place[name])
    assert f"{times_text(place['dominant'])} on average over the dominant orbits" in said[1]
    assert f"{times_text(place['all'])} over all, most in {most} ({times_text(place[most])})" in said[1]


def test_the_classes_that_fall_most_come_first_with_their_worst_shift() -> None:
    result = audit_under(SHIFTS)
    finding = found(result)
    worst = max(finding.by_class, key=lambda item: item.mean_drop)
    drops = [each.recall.difference for each in worst.by_shift]
    said = fall_sentences(result, finding)
    assert worst.mean_drop == pytest.approx(np.mean(drops))
    assert said[0].startswith(
        f"Most is lost by “{worst.class_name}” ({100 * worst.mean_drop:.0f} points on average,"
        f" {100 * max(drops):.0f} points under {finding.shifts[int(np.argmax(drops))]}; q ≤ 0.05 in "
    )
    assert f"Of “{worst.class_name}” the energy" in said[1]
    nothing = tuple(
        item.model_copy(
            update={
                "by_shift": tuple(
                    each.model_copy(
                        update={
                            "recall": each.recall.model_copy(update={"only_first": 0, "only_second": 0})
                        }
                    )
                    for each in item.by_shift
                )
            }
        )
        for item in finding.by_class
    )
    spared = finding.model_copy(update={"by_class": nothing})
    assert fall_sentences(result, spared) == ["No class loses recall on average over these shifts."]


def test_the_prediction_is_said_with_its_n_and_a_negative_r2_plainly() -> None:
    result = audit_under(SHIFTS)
    good = predicted(result, scores=scores(0.62, 0.48, 0.7, 0.1), p_value=0.001, ceiling=0.9)
    assert good[0] == (
        "The energy that the shifts change on the classes' dominant orbits predicts 62% of the variance"
        " of the drop in recall (cross-validated R2 0.62 over 27 cells, 4 corruptions, 3 classes, whole"
        " corruptions left out; all orbits alike: 0.48; both together: 0.70; severity alone: 0.10; p"
        " 0.001 over 999 permutations within corruptions)."
    )
    assert "to pass an R2 of 0.90" in good[1]
    assert "R2 for classes left out" in good[2]
    assert good[3] == "What is special to the dominant orbits adds 0.22 to what all orbits alike predict."
    bad = predicted(result, scores=scores(-0.3, -0.5, -0.2, 0.1, classes=None), p_value=0.8)
    assert (
        "does not predict the drop in recall under a new corruption: it is worse than the mean" in bad[0]
    )
    assert "it is no better than the mean" in predicted(result, scores=scores(-0.01, 0, 0, 0))[0]
    assert "R2 -0.30" in bad[0]
    assert not any("classes left out" in sentence for sentence in bad)
    assert bad[-1] == "The dominant orbits add nothing to what all orbits alike predict."
    none = predicted(result, scores=(), reason="2 corruptions cannot show it")
    assert none == [
        "How much of the drop the changed energy predicts was not measured: 2 corruptions cannot show it."
    ]


@pytest.mark.parametrize(
    ("share", "text"), [(0.123, "12%"), (1.94, "194%"), (3.44, "3.4 times"), (np.nan, "–"), (0, "0%")]
)
def test_shares_that_may_be_far_above_one(share: float, text: str) -> None:
    assert times_text(share) == text


@pytest.mark.usefixtures("_no_other_figures")
def test_the_page_has_the_section_and_escapes_names() -> None:
    result = audit_under(SHIFTS)
    page = render(result)
    assert page == render(result)
    text = words(page)
    assert "Under corruptions" in text
    for sentence in (*fall_sentences(result, found(result)), *prediction_sentences(found(result))):
        assert " ".join(sentence.split()) in text
    assert "<b>" not in page.replace("<body>", "")
    section = page[
        page.index('id="corruptions"') : page.index("</section>", page.index('id="corruptions"'))
    ]
    assert section.count("<tr>") == 1 + 9
    assert section.count("data:image/png;base64,") == 2
    assert "contrast, 5" in section
    assert "factor 0.15" in section


@pytest.mark.usefixtures("_no_other_figures")
def test_without_corruptions_there_is_nothing_of_them() -> None:
    plain = audit_under("")
    assert corruption_sentences(plain) == []
    assert corruptions_section(plain, PageMemory()) is None
    assert "Under corruptions" not in render(plain)


def test_a_class_without_dominant_energy_is_left_out_of_means_and_drawn_nowhere() -> None:
    result = audit_under(SHIFTS)
    energy = result.arrays["corruptions/energy"].copy()
    energy[:, :, 0] = 0
    empty = result.with_arrays({**result.arrays, "corruptions/energy": energy})
    said = corruption_sentences(empty)
    assert "changes by – on average over the dominant orbits" in said[1]
    section = corruptions_section(empty, PageMemory())
    assert section is not None
    assert section.rows[0].changes[0] == "–"


@pytest.mark.parametrize("shifts", [SHIFTS, "contrast:5"])
def test_figures_show_every_class_and_cell(shifts: str) -> None:
    result = audit_under(shifts)
    finding = found(result)
    figure = drop_figure(finding)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    order = sorted(finding.by_class, key=lambda item: -item.mean_drop)
    assert [label.replace(r"\$", "$") for label in labels] == [item.class_name for item in order]
    drawn = figure.axes[0].collections[0].get_array()
    expected = [[100 * each.recall.difference for each in item.by_shift] for item in order]
    np.testing.assert_allclose(np.asarray(drawn).reshape(len(order), -1), expected)
    figure = prediction_figure(result, finding)
    for place, region in enumerate(("dominant", "all")):
        points = np.concatenate(
            [np.asarray(each.get_offsets()) for each in figure.axes[place].collections]
        )
        changes = orbit_shares(result.arrays["corruptions/energy"])[
            :, :, finding.regions.index(region), 2
        ]
        np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(np.maximum(changes, 1e-3).ravel()))
    plt.close("all")


def test_of_many_classes_the_worst_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortcut_audit.report.corruption_page.fall_sentences", lambda *given: [])
    result = audit_under(SHIFTS)
    finding = found(result)
    many = tuple(
        finding.by_class[n % 3].model_copy(update={"class_name": f"class {n} " + "x" * 60})
        for n in range(MAX_ROWS + 5)
    )
    figure = drop_figure(finding.model_copy(update={"by_class": many}))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == MAX_ROWS
    assert max(map(len, labels)) == 24
    assert len(png_bytes(figure)) > 1000
    energy = np.repeat(result.arrays["corruptions/energy"], 12, axis=0)[: len(many)]
    section = corruptions_section(
        changed(result, by_class=many).with_arrays({**result.arrays, "corruptions/energy": energy}),
        PageMemory(),
    )
    assert section is not None
    assert section.n_not_pictured == 5


def test_names_are_those_of_the_shared_result() -> None:
    assert [item.class_name for item in found(audit_under(SHIFTS)).by_class] == NAMES
