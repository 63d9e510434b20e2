"""Every search on the page: its name and cost, what is an estimate, what importance means."""

from __future__ import annotations

import html
import re

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import random_images
from routes import OPTIONS, audit_by, fidelity, with_maps

import shortcut_audit as sa
from shortcut_audit.cli.tables import print_classes
from shortcut_audit.report.figures import class_figure
from shortcut_audit.report.html import render
from shortcut_audit.report.summary import (
    class_sentence,
    fidelity_text,
    importance_words,
    search_sentences,
)
from shortcut_audit.results.audit_result import AuditResult

IMPORTANCE = {
    "exact": "log-odds drop (nats)",
    "screened": "estimated log-odds drop (nats)",
    "hierarchical": "gain when kept (nats)",
    "learned": "mask logit",
    "tiles": "log-odds drop per orbit of tiles (nats)",
}


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.fixture(autouse=True)
def _words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have tests of their own, and take most of a page's time."""
    monkeypatch.setattr("shortcut_audit.report.model_page.map_bytes", lambda result, name: b"")
    monkeypatch.setattr("shortcut_audit.report.verdict_page.ladder_figure", lambda item: None)
    monkeypatch.setattr("shortcut_audit.report.verdict_page.png_bytes", lambda *_, **__: b"")


@pytest.fixture(params=OPTIONS)
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_page_names_the_search_its_cost_and_what_importance_means(route: str) -> None:
    result = audit_by(route)
    finding = result.dominant_frequencies
    page = words(render(result))
    assert f"this audit's is {finding.search}" in page
    assert f"{finding.image_passes:,} image passes" in page
    for sentence in search_sentences(result):
        assert " ".join(sentence.split()) in page
    assert importance_words(result) == IMPORTANCE[route]
    assert IMPORTANCE[route] in page
    for word in ("Exact", "Screened", "Hierarchical", "Learned", "Resolution", "Budget", "Image pass"):
        assert word in page


def test_only_screened_maps_are_tagged_as_estimates_each_with_its_fidelity(route: str) -> None:
    result = audit_by(route)
    page = render(result)
    screened = route == "screened"
    assert page.count('class="tag"') == (len(result.class_names) if screened else 0)
    assert ("Fidelity" in words(page)) == screened
    for item in result.shortcuts.by_class:
        assert ("screened estimate" in class_sentence(result, item)) == screened
    for found in result.dominant_frequencies.by_class:
        assert (found.fidelity is not None) == screened
        if screened:
            assert fidelity_text(found.fidelity) in words(page)


def test_figures_name_what_they_show(route: str) -> None:
    result = audit_by(route)
    figure = class_figure(result, result.class_names[0])
    plane, radius = figure.axes[0], figure.axes[2]
    assert radius.get_ylabel() == IMPORTANCE[route]
    kind = result.dominant_frequencies.by_class[0].resolution.partition(":")[0]
    assert plane.get_title() == f"Importance (rings: the map{'' if kind == 'orbits' else f', by {kind}'})"
    plt.close(figure)


def test_the_cost_stands_beside_that_of_the_exact_search() -> None:
    exact = audit_by("exact").dominant_frequencies.image_passes
    assert exact is not None
    spent = audit_by("learned").dominant_frequencies.image_passes
    assert spent is not None
    (first, *_) = search_sentences(audit_by("learned"))
    assert f"{spent:,} image passes; the exact search takes about {exact:,}" in first
    assert f"({exact / spent:.1f} times as many)" in first
    (dear, *_) = search_sentences(with_maps(audit_by("learned"), image_passes=2 * exact))
    assert f"would take fewer, about {exact:,}" in dear
    (own, *_) = search_sentences(audit_by("exact"))
    assert "the exact search" not in own


def test_fidelity_is_told_by_its_middle_and_its_lowest() -> None:
    result = with_maps(
        audit_by("screened"),
        {"fidelity": fidelity(0.9, 0.5)},
        {"fidelity": fidelity(0.3, 0.8)},
        {"fidelity": fidelity(0.7, 0.9)},
    )
    told = search_sentences(result)[1]
    assert "rank correlation 0.70 (median; 0.30 for “bee”)" in told
    assert "top share found 0.80 (median; 0.50 for “ant”)" in told
    partly = search_sentences(with_maps(result, {"fidelity": fidelity(None, None, "too few")}))[1]
    assert "not measured for 1 of 3 classes" in partly


def test_fidelity_that_was_not_measured_gives_its_reason_everywhere() -> None:
    none = {"fidelity": fidelity(None, None, "the sample is constant")}
    result = with_maps(audit_by("screened"), none, none, none)
    for text in (*search_sentences(result)[1:2], words(render(result))):
        assert "was not measured (the sample is constant)" in text
    assert "not measured: the sample is constant" in words(render(result))


def test_resolution_is_told_class_by_class_with_its_reason() -> None:
    tiles = {"resolution": "tiles:8x12", "resolution_reason": "few images, 7 of them"}
    result = with_maps(audit_by("exact"), tiles, {**tiles, "resolution_reason": "few images, 9"})
    told = search_sentences(result)[-1]
    assert told == "2 of 3 maps are ranked by tiles:8x12: “ant”: few images, 7 of them."
    page = words(render(result))
    assert "Ranked by tiles:8x12: few images, 9." in page
    (asked,) = [text for text in search_sentences(audit_by("tiles")) if "ranked" in text]
    assert asked == "All maps are ranked by tiles:3x4, as was asked for."


def test_images_that_would_be_enough_stand_with_the_map() -> None:
    page = words(render(with_maps(audit_by("exact"), {"n_images_enough": 1234})))
    assert "About 1,234 search images would be enough for a reliability of 0.8." in page
    assert "0.8 with 1,234" in page


def test_a_budget_that_was_set_is_on_the_page() -> None:
    result = audit_by("exact")
    settings = type(result.model_settings)(search="exact", budget="90s")
    changed = result.model_copy(update={"settings": settings}).with_arrays(result.arrays)
    assert "in image passes or time; here 90 s" in words(render(changed))
    assert "in image passes or time; none was set" in words(render(result))


def test_a_result_of_before_searches_still_has_its_page() -> None:
    result = with_maps(audit_by("exact"), image_passes=None)
    assert search_sentences(result)[0].endswith("one at a time.")
    assert "this audit's is exact" in words(render(result))


def test_the_terminal_shows_fidelity_of_screened_maps_alone(
    route: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    result = audit_by(route)
    print_classes(Console(width=80), result)
    said = capsys.readouterr().out
    assert ("fidelity" in said) == (route == "screened")
    assert "reliability" in said
    assert "cow [x]" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.fixture(scope="module")
def plain() -> AuditResult:
    weight = torch.randn(36, 2, generator=torch.Generator().manual_seed(0)) / 6

    def plain_function(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ weight

    return sa.audit(plain_function, random_images(8, 2, (1, 6, 6)), batch_size=16)


def test_a_function_without_parameters_is_not_said_to_have_none(plain: AuditResult) -> None:
    assert plain.model.n_parameters == 0
    assert "parameters" not in words(render(plain))
    with_weights = words(render(audit_by("exact")))
    n_parameters = audit_by("exact").model.n_parameters
    assert f"{n_parameters:,} parameters" in with_weights
