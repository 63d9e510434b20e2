"""Notes: what has to be said is said, with numbers that hold, and nothing where all is well."""

from __future__ import annotations

from typing import Any

import pytest
from routes import audit_by, fidelity, reliable, with_maps

from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.dominant_frequencies import RELIABLE
from shortcut_audit.measures.searches import SEARCHES
from shortcut_audit.report.model_page import _RELIABLE
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.statistics import images_for_reliability
from shortcut_audit.run.notes import (
    _on_fidelity,
    _on_normalisation,
    _on_reliability,
    _on_stopped,
    notes_on,
)


def with_data(result: AuditResult, **changes: Any) -> AuditResult:
    data = result.provenance.data.model_copy(update=changes)
    provenance = result.provenance.model_copy(update={"data": data})
    return result.model_copy(update={"provenance": provenance}).with_arrays(result.arrays)


def with_reliability(result: AuditResult, *values: float | None) -> AuditResult:
    """Every map with a reliability, and the number of images that the formula then asks for."""
    finding = result.dominant_frequencies
    changes = [
        reliable(item, value, finding.response, images_for_reliability(value, item.n_search, RELIABLE))
        for item, value in zip(finding.by_class, values, strict=True)
    ]
    return with_maps(result, *changes)


def test_the_page_and_the_measure_mean_the_same_by_reliable() -> None:
    assert _RELIABLE == RELIABLE


def test_reliable_maps_need_no_note_and_others_say_how_many_images_are_enough() -> None:
    result = with_data(audit_by("exact"), n_available=3000)
    assert _on_reliability(with_reliability(result, 0.8, 0.9, 1.0)) == ""
    note = _on_reliability(with_reliability(result, 0.5, 0.6, 0.9))
    assert note.startswith("2 of 3 maps have a reliability below 0.8")
    assert "(ant, bee)" in note
    # 6 search images: 6 * 4 * (1 - r) / r is 24 and 16; half of a class's images are searched.
    assert "About 24 search images of a class (20 for half of them) would be enough for 0.8:" in note
    assert "--images-per-class 48." in note


def test_maps_that_hardly_repeat_are_called_so_and_those_alone_are_named() -> None:
    note = _on_reliability(with_reliability(audit_by("exact"), 0.2, 0.6, None))
    assert note.startswith("2 of 3 maps have a reliability below 0.5")
    assert "much of the map" in note
    assert "(ant, cow [x])" in note
    assert "would be enough for 0.8 where it can be told" in note


def test_nothing_is_promised_where_nothing_can_be_told() -> None:
    note = _on_reliability(with_reliability(audit_by("exact"), None, -0.2, 0.0))
    assert "cannot be told" in note
    assert "About" not in note


@pytest.mark.parametrize(("route", "coarser"), [("exact", True), ("learned", False)])
def test_more_than_the_data_hold_is_not_asked_for_by_option(route: str, coarser: bool) -> None:
    note = _on_reliability(with_reliability(audit_by(route), 0.3, 0.9, 0.9))
    assert "more than the 12 a class that the data hold" in note
    assert "--images-per-class" not in note
    assert ("--resolution" in note) == coarser


def test_images_that_a_budget_left_out_are_not_asked_for_again() -> None:
    finding = audit_by("exact").dominant_frequencies
    cut = with_maps(
        audit_by("exact"),
        *({**reliable(item, 0.7, "log-odds", 5), "n_search": 3} for item in finding.by_class),
    )
    assert "a larger --budget pays for them" in _on_reliability(cut)


@pytest.mark.parametrize(
    ("correlation", "overlap", "rough"),
    [(0.5, 0.7, False), (0.49, 0.7, True), (0.9, 0.69, True), (None, None, True), (0.9, None, True)],
)
def test_a_rough_screened_map_is_named_with_what_the_exact_search_would_take(
    correlation: float | None, overlap: float | None, rough: bool
) -> None:
    good, own = fidelity(0.9, 0.9), fidelity(correlation, overlap, "too few")
    result = with_maps(audit_by("screened"), {"fidelity": own}, {"fidelity": good}, {"fidelity": good})
    note = _on_fidelity(result)
    assert bool(note) == rough
    if rough:
        assert note.startswith("1 of 3 screened maps")
        assert "(ant: " in note
        assert "--search exact --classes ant)" in note
        assert f"about {6 * (FrequencyGrid(18, 18).n_orbits + 1):,} image passes" in note


def test_the_cost_of_the_exact_search_is_what_it_would_plan() -> None:
    from driven import outline_of_sizes

    planned = SEARCHES["exact"].planned_passes(outline_of_sizes([6, 6, 6], 18))
    bad = {"fidelity": fidelity(0.1, 0.1)}
    note = _on_fidelity(with_maps(audit_by("screened"), bad, bad, bad))
    assert f"about {planned:,} image passes" in note
    assert planned == audit_by("exact").dominant_frequencies.image_passes


def test_names_that_no_option_could_carry_are_not_put_into_one() -> None:
    result = audit_by("screened")
    comma = with_data(result, class_names=("a,b", *result.class_names[1:]))
    good = {"fidelity": fidelity(0.9, 0.9)}
    bad = {"class_name": "a,b", "fidelity": fidelity(0.1, 0.1)}
    assert "(--search exact)." in _on_fidelity(with_maps(comma, bad, good, good))
    spaced = {"fidelity": fidelity(0.1, 0.1)}
    note = _on_fidelity(with_maps(result, good, spaced, spaced))
    assert "(--search exact --classes 'bee,cow [x]')." in note


@pytest.mark.parametrize("route", ["exact", "hierarchical", "learned", "tiles"])
def test_maps_that_are_no_estimates_have_no_note_on_fidelity(route: str) -> None:
    assert _on_fidelity(audit_by(route)) == ""


def test_what_cut_a_search_short_is_said() -> None:
    assert _on_stopped(audit_by("exact")) == ""
    note = _on_stopped(with_maps(audit_by("exact"), stopped="the budget of 90 s ended it"))
    assert "cut short: the budget of 90 s ended it." in note


def test_a_setting_that_auto_had_no_use_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = audit_by("exact")
    settings = result.model_settings.model_copy(update={"search": "auto", "confidence": 0.99})
    changed = result.model_copy(update={"settings": settings}).with_arrays(result.arrays)

    class Images:
        n_leaked = 0

    notes = notes_on(changed, Images(), batch_matters=False)  # type: ignore[arg-type]
    assert "Not used by the exact search: --confidence (of screened)." in notes
    assert not any("Not used" in note for note in notes_on(result, Images(), batch_matters=False))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "mean", "std", "told"),
    [
        ("nobody: pixels in [0,1], not normalised", 0.0, 1.0, True),
        ("the user, and else the model's own record of its size; else nobody: ...", 0.0, 1.0, True),
        ("the user, and else the model's own record of its size; else nobody: ...", 0.5, 0.25, False),
        ("the model's own record", 0.0, 1.0, False),
    ],
)
def test_plain_pixels_are_noted_where_nobody_asked_for_them(
    source: str, mean: float, std: float, told: bool
) -> None:
    result = audit_by("exact")
    changes = {"source": source, "mean": (mean,), "std": (std,)}
    made = result.model.preprocessing.model_copy(update=changes)
    model = result.model.model_copy(update={"preprocessing": made})
    provenance = result.provenance.model_copy(update={"model": model})
    changed = result.model_copy(update={"provenance": provenance}).with_arrays(result.arrays)
    assert bool(_on_normalisation(changed)) == told
