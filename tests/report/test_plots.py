from __future__ import annotations

import re
from functools import cache

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import conv_model, random_images
from elsewhere import request_of, with_noise
from judged import INCONCLUSIVE, NOTHING, SHORTCUT, UNJUDGED, with_verdicts
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from routes import audit_by
from shifted import audit_under

import shortcut_audit as sa
from shortcut_audit.errors import ResultError
from shortcut_audit.report.figures import class_figure, png_bytes
from shortcut_audit.report.plots import Plots
from shortcut_audit.report.verdict_figures import ladder_figure
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.run.audit import run_audit


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> None:
    plt.close("all")


@cache
def judged() -> AuditResult:
    """Three classes, one of each verdict."""
    return with_verdicts(audit_by("exact"), NOTHING, SHORTCUT, INCONCLUSIVE)


@cache
def with_sets() -> AuditResult:
    """An audit that went on to another set."""
    home = random_images(10, 3, (1, 6, 6))
    return run_audit(request_of(conv_model(3, 1), home, {"copies <b>": with_noise(home)}))


OF_CLASS = ("map", "adcs", "radius", "ladder", "necessity")


def drawn(axes: Axes) -> list[object]:
    """What an Axes shows, in numbers."""
    shown: list[object] = [image.get_array().tolist() for image in axes.images]
    shown += [dots.get_offsets().tolist() for dots in axes.collections]
    shown += [line.get_xydata().tolist() for line in axes.lines]
    return shown


@pytest.mark.parametrize("name", OF_CLASS)
def test_the_page_shows_what_plots_draw(name: str) -> None:
    result = judged()
    axes = getattr(result.plot, name)("bee")
    item = next(item for item in result.shortcuts.by_class if item.class_name == "bee")
    of_page = [*class_figure(result, "bee").axes[:3], *ladder_figure(item).axes]
    assert drawn(axes) == drawn(of_page[OF_CLASS.index(name)])
    assert "bee" in axes.get_title()


@pytest.mark.parametrize("name", OF_CLASS)
def test_own_axes_are_drawn_into_and_keep_their_style(name: str) -> None:
    with mpl.rc_context({"font.size": 23, "axes.facecolor": "black"}):
        mine = Figure().add_subplot()
        before = dict(mpl.rcParams)
        assert getattr(judged().plot, name)("ant", ax=mine) is mine
        assert mpl.colors.to_hex(mine.get_facecolor()) == "#000000"
        assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_a_new_figure_is_pyplots_and_in_the_style_of_the_page() -> None:
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "black", "xtick.labelsize": 30}):
        before = dict(mpl.rcParams)
        axes = judged().plot.radius("ant")
        assert dict(mpl.rcParams) == before
        axes.figure.canvas.draw()
        assert mpl.colors.to_hex(axes.get_facecolor()) == "#ffffff"
        assert {round(label.get_fontsize(), 6) for label in axes.get_xticklabels()} == {7.92}
    assert [plt.figure(number) for number in plt.get_fignums()] == [axes.figure]


def test_the_overview_shows_each_class_with_its_interval_and_strongest_null() -> None:
    result = judged()
    axes = result.plot.overview()
    assert [label.get_text().strip() for label in axes.get_yticklabels()] == ["bee", "cow [x]", "ant"]
    lines = {
        round(float(line.get_ydata()[0])): line.get_xdata()
        for line in axes.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1]
    }
    by_name = {item.class_name: item for item in result.shortcuts.by_class}
    for row, name in enumerate(("bee", "cow [x]", "ant")):
        best = by_name[name].best
        assert best is not None
        assert tuple(lines[row]) == best.flips.interval
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {"shortcut", "inconclusive", "no shortcut", "strongest null"}


def test_the_overview_of_what_was_not_judged_shows_rates_under_the_maps() -> None:
    result = with_verdicts(audit_by("exact"), UNJUDGED, UNJUDGED, UNJUDGED)
    axes = result.plot.overview()
    points = {round(float(x), 6) for dots in axes.collections for x, _ in dots.get_offsets()}
    for item in result.shortcuts.by_class:
        assert {round(rate.value or 0, 6) for rate in (item.tpr_kept, item.fpr_kept)} <= points


def test_an_overview_of_many_classes_names_how_many_it_shows() -> None:
    axes = judged().plot.overview(most=2)
    assert axes.get_title().startswith("The worst 2 of 3 classes")
    assert len(axes.get_yticks()) == 2


def test_data_alone_have_figures_too(hostile_data: AuditResult) -> None:
    plots = hostile_data.plot
    name = hostile_data.class_names[0]
    assert plots.map(name).get_title().endswith("Standing out from surroundings")
    assert plots.radius(name).get_ylabel() == "z"
    probe = hostile_data.spectrum_probe.results[0]
    shown = [dots.get_offsets()[0][0] for dots in plots.overview().collections]
    assert np.allclose(shown, sorted((s.over_chance for s in probe.by_class), reverse=True))
    with pytest.raises(ResultError, match="ShortcutsFinding"):
        plots.ladder(name)


def test_spectra_have_a_line_a_class() -> None:
    axes = judged().plot.spectra()
    assert [text.get_text().strip() for text in axes.get_legend().get_texts()] == [
        "ant",
        "bee",
        "cow [x]",
    ]
    assert axes.get_yscale() == "log"
    relative = judged().plot.spectra(relative=True)
    values = np.array([line.get_ydata() for line in relative.lines[:3]])
    assert np.allclose(np.log(values).mean(axis=0), 0)


def test_another_set_is_drawn_with_a_row_a_class() -> None:
    assert len(with_sets().plot.transfer("copies <b>").get_yticks()) == 3


def test_corruptions_are_drawn_with_those_that_lose_most_on_top() -> None:
    result = audit_under("haze,jpeg:1-2")
    assert result.corruptions is not None
    cells = result.plot.corruptions().collections[0].get_array()
    order = sorted(result.corruptions.by_class, key=lambda item: -item.mean_drop)
    drops = [[100 * each.recall.difference for each in item.by_shift] for item in order]
    assert np.allclose(cells, drops)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: judged().plot.map("be"), "no class 'be'.*Near it: 'bee'"),
        (lambda: judged().plot.adcs("zebra"), "no class 'zebra'.*There are: 'ant', 'bee', 'cow"),
        (lambda: judged().plot.ladder("cow"), "Near it: 'cow"),
        (lambda: with_sets().plot.transfer("copes"), "no other set 'copes'.*Near it: 'copies <b>'"),
        (lambda: judged().plot.transfer("copies"), "No other set.*--ood"),
        (lambda: judged().plot.corruptions(), "No corruptions.*--shift"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(call: object, says: str) -> None:
    with pytest.raises(ResultError, match=says):
        call()  # type: ignore[operator]
    assert plt.get_fignums() == []


def test_a_class_that_was_not_searched_or_judged_is_refused() -> None:
    result = sa.audit(
        conv_model(3, 1), random_images(8, 3, (1, 6, 6)), batch_size=64, classes=["1"], examples=0
    )
    with pytest.raises(ResultError, match="'0' was not searched.*Searched were: '1'"):
        result.plot.map("0")
    assert result.plot.figures_of("0") == ("adcs",)
    assert result.plot.adcs("0").images
    unjudged = with_verdicts(audit_by("exact"), NOTHING, UNJUDGED, NOTHING)
    with pytest.raises(ResultError, match="'bee' was not judged: tests against a null"):
        unjudged.plot.ladder("bee")
    assert unjudged.plot.figures_of("bee") == ("map", "adcs", "radius")
    assert unjudged.plot.figures_of("ant") == OF_CLASS


def test_a_figure_that_cannot_be_drawn_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("halfway")

    monkeypatch.setattr("shortcut_audit.report.plots.draw_adcs", fail)
    with pytest.raises(RuntimeError, match="halfway"):
        judged().plot.adcs("ant")
    assert plt.get_fignums() == []


def test_one_class_and_hostile_names_are_drawn(hostile: AuditResult) -> None:
    for name in hostile.class_names:
        for figure in hostile.plot.figures_of(name):
            axes = getattr(Plots(hostile, Figure), figure)(name)
        assert len(axes.get_title().splitlines()) == 2
    assert len(png_bytes(hostile.plot.overview().figure)) > 2000


def test_a_result_prints_in_one_line_and_names_its_figures(hostile_data: AuditResult) -> None:
    assert str(judged()) == repr(judged())
    said = repr(judged())
    assert re.fullmatch(r"AuditResult\('.*' on '.*', 3 classes: .*\)", said)
    assert "1 inconclusive, 1 no shortcut, 1 shortcut" in said
    odd = judged().provenance.data.model_copy(update={"spec": "a\n\u202eb" + "x" * 300})
    provenance = judged().provenance.model_copy(update={"data": odd})
    said = repr(judged().model_copy(update={"provenance": provenance}))
    assert said.isprintable()
    assert len(said) < 200
    assert repr(hostile_data).startswith("AuditResult(data ")
    assert repr(judged().model_copy(update={"findings": ()}))
    for name in (*OF_CLASS, "spectra", "overview", "transfer", "corruptions"):
        assert f"{name}()" in repr(judged().plot)
