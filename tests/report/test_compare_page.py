"""The page of a comparison, on audits made by hand where the change is known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from audited import NAMES, Made, made_audit
from judged import with_verdicts

from shortcut_audit.report.compare_figures import accuracy_figure, scores_figure
from shortcut_audit.report.compare_page import comparison_json, render_comparison, write_comparison
from shortcut_audit.report.compare_runs import RunsComparison, compared_runs, side_of
from shortcut_audit.report.compare_words import (
    against_sentence,
    change_text,
    classes_of_changes,
    classes_of_matrix,
    compare_headline,
    compare_notes,
    flicker_sentence,
    interval_words,
    move_text,
)
from shortcut_audit.results.audit_result import AuditResult

HORSE: Any = ("shortcut", "no shortcut", "no shortcut")
FROG: Any = ("no shortcut", "no shortcut", "shortcut")
PLAIN = Made()
# Horses hang on a shortcut; frogs do, and ships are called by their class less often.
PLANTED = Made(turned=(0.6, 0.02, 0.02), verdicts=HORSE)
OTHER = Made(turned=(0.02, 0.02, 0.6), verdicts=FROG, accuracy=(0.9, 0.7, 0.9))


def comparison_of(*made: Made, baseline: int = 0, labels: tuple[str, ...] = ()) -> RunsComparison:
    names = labels or tuple(f"run {k}" for k in range(len(made)))
    sides = [side_of(made_audit(each), name, name) for each, name in zip(made, names, strict=True)]
    return compared_runs(sides, baseline, "shortcut-audit compare a b")


def text_of(page: str) -> str:
    """What a reader sees, without tags and pictures."""
    body = page.partition("</head>")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have tests of their own, and take most of a page's time."""
    monkeypatch.setattr("shortcut_audit.report.compare_page.png_bytes", lambda *_, **__: b"drawn")
    for name in ("accuracy_figure", "scores_figure"):
        monkeypatch.setattr(f"shortcut_audit.report.compare_page.{name}", lambda *_, **__: object())


def test_a_run_against_itself_shows_nothing_changed() -> None:
    found = comparison_of(PLANTED, PLANTED)
    assert compare_headline(found) == (
        "From run 0 to run 1: nothing changed that exceeds the noise of these audits."
    )
    assert flicker_sentence(found.against[0]) == ""
    assert any("the very same numbers" in note for note in compare_notes(found))
    assert not any(change.sure for change in found.against[0].changes)


def test_the_headline_says_what_became_a_shortcut_and_what_is_none_any_more() -> None:
    assert compare_headline(comparison_of(PLAIN, PLANTED)) == (
        "From run 0 to run 1: 1 class became a shortcut: “horse”."
    )
    sentence = compare_headline(comparison_of(PLANTED, OTHER))
    assert "1 class became a shortcut: “frog”; 1 class is none any more: “horse”" in sentence
    # 40 of 600 images that were right are wrong now.
    assert "accuracy fell by 6.7 points (95% interval " in sentence
    assert sentence.endswith("; by other numbers 1 class got worse.")
    assert against_sentence(comparison_of(PLANTED, OTHER).against[0]).endswith("worse (recall of 1).")


def test_swapping_two_runs_swaps_better_and_worse() -> None:
    there, back = comparison_of(PLANTED, OTHER).against[0], comparison_of(OTHER, PLANTED).against[0]
    turned = {"worse": "better", "better": "worse"}
    assert any(change.sure for change in there.changes)
    for change in there.changes:
        other = back.of(change.quantity, change.class_name, change.set)
        assert other is not None
        assert other.outcome == turned.get(change.outcome, change.outcome)
        assert other.p_value == change.p_value
        if change.difference is not None and change.quantity != "verdict":
            assert other.difference == pytest.approx(-change.difference)
    sentence = against_sentence(back, brief=True)
    assert "1 class became a shortcut: “horse”; 1 class is none any more: “frog”" in sentence
    assert "accuracy rose by 6.7 points" in sentence


def test_the_baseline_may_be_any_run_and_the_headline_is_about_the_last_other_one() -> None:
    found = comparison_of(PLAIN, PLANTED, OTHER, baseline=2)
    assert [(each.baseline, each.label) for each in found.against] == [
        ("run 2", "run 0"),
        ("run 2", "run 1"),
    ]
    assert compare_headline(found).startswith("From run 2 to run 1: 1 class became a shortcut: “horse”")


def test_a_verdict_that_changes_within_the_noise_is_told_apart() -> None:
    near = Made(turned=(0.09, 0.02, 0.02))
    over = Made(turned=(0.11, 0.02, 0.02), verdicts=HORSE)
    found = comparison_of(near, over)
    assert "nothing changed" in compare_headline(found)
    told = flicker_sentence(found.against[0])
    assert "a shortcut now: “horse”" in told
    assert "flicker" in told
    assert told in render_comparison(found)
    assert "none any more: “horse”" in flicker_sentence(comparison_of(over, near).against[0])


def test_what_was_not_judged_did_not_become_a_shortcut() -> None:
    unjudged: Any = ("not judged",) * 3
    found = comparison_of(Made(turned=(0.0,) * 3, verdicts=unjudged), PLANTED)
    change = found.against[0].of("verdict", "horse")
    assert change is not None
    assert change.outcome == "not measured"
    assert "became" not in compare_headline(found)
    assert any("not every class was judged" in note for note in compare_notes(found))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Made(settings={"kept_share": 0.1}), "audited otherwise (kept share 0.1 instead of 0.05)"),
        (Made(torch="2.14.0"), "torch 2.14.0 instead of 2.15.0"),
        (Made(first=1), "other images of the same classes"),
        (Made(outcomes=False), "without outcomes of single images"),
        (Made(outcomes=False, first=1), "not known to be the same"),
    ],
)
@pytest.mark.usefixtures("_no_pictures")
def test_what_makes_a_comparison_doubtful_is_said_on_the_page(other: Made, says: str) -> None:
    found = comparison_of(PLAIN, other)
    assert any(says in note for note in compare_notes(found))
    assert says in text_of(render_comparison(found))


def test_one_caution_about_several_runs_is_one_note() -> None:
    other = Made(settings={"kept_share": 0.1})
    notes = compare_notes(comparison_of(PLAIN, other, other.but(model="two")))
    assert len(notes) == 1
    assert notes[0].startswith("“run 1”, “run 2” against “run 0”: audited otherwise")


@pytest.mark.usefixtures("_no_pictures")
def test_the_page_shows_runs_changes_and_what_differs() -> None:
    page = render_comparison(comparison_of(PLAIN, PLANTED.but(model="two"), OTHER))
    text = text_of(page)
    assert text.startswith("What changed from run to run From run 0 to run 2:")
    for name in ("1, baseline run 0", "2 run 1", "3 run 2", "run 1 against run 0", "run 2 against run 0"):
        assert name in text
    assert "worse no shortcut → shortcut" in text
    assert "+58.0" in text
    assert "2.0% → 60.0%" in text
    assert "n 100, paired" in text
    assert "model no one two" in text
    assert "<script" not in page
    assert "http" not in page.partition("</head>")[2]
    # Everything that scrolls can be reached by keyboard.
    assert page.count('class="scroll"') == page.count('class="scroll" tabindex="0"') >= 4


def test_equal_comparisons_give_equal_bytes_and_a_file(tmp_path: Path) -> None:
    one, other = (comparison_of(PLAIN, PLANTED) for _ in range(2))
    page = render_comparison(one)
    assert page == render_comparison(other)
    written = write_comparison(one, tmp_path / "page.html")
    assert written.read_text(encoding="utf-8") == page
    assert page.count("data:image/png;base64,") == 2


def test_the_json_holds_the_whole_comparison() -> None:
    found = comparison_of(PLANTED, OTHER.but(ood={"there": (0.1, 0.2, 0.3)}))
    read = RunsComparison.model_validate_json(comparison_json(found))
    assert read == found
    assert len(read.against[0].changes) == len(found.against[0].changes) > 20


def test_hostile_class_names_and_labels_are_inert(hostile: AuditResult) -> None:
    names = hostile.class_names
    k = len(names)
    made = Made(
        names=names, accuracy=(0.9,) * k, kept=(0.5,) * k, kept_foreign=(0.1,) * k, half=(0.9,) * k,
        turned=(0.6,) + (0.02,) * (k - 1), verdicts=("shortcut",) + ("no shortcut",) * (k - 1),
        model="<img src=x onerror=alert(1)>", n=40,
    )  # fmt: skip
    calm = made.but(turned=(0.02,) * k, verdicts=("no shortcut",) * k, model="$x$ {{ 7 * 7 }}")
    page = render_comparison(
        comparison_of(calm, made, labels=("<b>one</b>\"'", "$two_${{x}}" + "y" * 300))
    )
    for raw in ("<script", "<img src=x", "<b>one", "onerror=alert(1)>"):
        assert raw not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "(no name)" in page
    # A long name is whole where lines break, and short in links and columns, where they do not.
    assert "y" * 300 in page.partition("<footer>")[2]
    assert all(
        "y" * 41 not in part for part in re.findall(r"<nav.*?</nav>|<thead>.*?</thead>", page, re.S)
    )


@pytest.mark.usefixtures("_no_pictures")
def test_of_many_classes_the_worst_are_shown_and_the_rest_counted() -> None:
    k = 90
    names = tuple(f"class {number}" for number in range(k))
    calm = Made(
        names=names, n=20, accuracy=(0.9,) * k, kept=(0.5,) * k, kept_foreign=(0.1,) * k,
        half=(0.9,) * k, turned=(0.0,) * k, verdicts=("no shortcut",) * k,
    )  # fmt: skip
    worse = calm.but(
        turned=(0.0,) * (k - 1) + (1.0,), verdicts=("no shortcut",) * (k - 1) + ("shortcut",)
    )
    found = comparison_of(calm, worse)
    assert classes_of_changes(found.against[0])[0] == "class 89"
    assert classes_of_matrix(found)[0] == "class 89"
    text = text_of(render_comparison(found))
    assert "30 more classes, whose verdicts changed less" in text
    assert "50 more classes are not shown: of these 0 got worse in something and 0 better" in text
    assert "78 more are not drawn" in text


def test_figures_show_every_run_with_its_interval() -> None:
    found = comparison_of(PLAIN, PLANTED, OTHER, labels=("a", "b $x$", "c"))
    figure = accuracy_figure(found)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["1 a", r"2 b \$x\$", "3 c"]
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() in ("o", "s")]
    assert marks == pytest.approx([90, 90, 100 * (180 + 140 + 180) / 600])
    drawn = scores_figure(found, NAMES)
    assert drawn is not None
    assert [axes.get_title().strip() for axes in drawn.axes if axes.get_visible()] == list(NAMES)
    scores = [
        line.get_ydata()[0] for line in drawn.axes[0].lines if line.get_marker() in ("o", "s", "D", "x")
    ]
    assert scores == pytest.approx([2, 60, 2])


def test_without_a_score_there_is_no_picture_and_no_verdict() -> None:
    audits = [made_audit(made) for made in (PLAIN, OTHER)]
    found = compared_runs(
        [side_of(with_verdicts(each, {}, {}, {}), f"{k}") for k, each in enumerate(audits)]
    )
    assert scores_figure(found, NAMES) is None
    assert compare_headline(found).endswith("no class has a score in both.")
    assert "Score of each class" not in render_comparison(found)


def test_numbers_are_written_with_signs_units_and_dashes() -> None:
    changes = comparison_of(PLANTED, OTHER).against[0]
    recall = changes.of("accuracy", "ship")
    assert recall is not None
    assert (change_text(recall), move_text(recall)) == ("−20.0", "90.0% → 70.0%")
    assert re.fullmatch(r"−\d\d\.\d to −\d\d\.\d", interval_words(recall))
    same = changes.of("reliability", "ship")
    assert same is not None
    assert (change_text(same), move_text(same)) == ("0.00", "0.95 → 0.95")
    nothing = recall.model_copy(update={"difference": None, "low": None, "high": None, "before": None})
    assert (change_text(nothing), interval_words(nothing)) == ("–", "")
    assert move_text(nothing) == "– → 70.0%"
