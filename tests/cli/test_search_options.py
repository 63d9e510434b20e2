"""Options of the searches: what they take, what is refused, and what a dry run says of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import conv_model, random_images, save_npz
from driven import outline_of_sizes

import shortcut_audit as sa
from shortcut_audit.cli.audit import estimate_lines
from shortcut_audit.cli.main import main
from shortcut_audit.cli.options import parse_counts, parse_resolution
from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import SettingsError
from shortcut_audit.measures.searches import SEARCHES
from shortcut_audit.measures.searches.stages import default_patch_sides
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.report.summary import search_sentences
from shortcut_audit.results.search_options import USED_BY
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.audit import Estimate, estimate_audit
from shortcut_audit.run.notes import _FAITHFUL_CORRELATION, _FAITHFUL_OVERLAP
from shortcut_audit.run.prepare import _FEW_UNITS, AuditRequest, prepared_audit

FACTORY = "shortcut_audit.models.small:small_cnn"
# 18 x 18: 164 orbits, too many for auto to probe every one.
PAIRS = random_images(8, 3, (3, 18, 18))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_npz(tmp_path_factory.mktemp("data") / "images.npz", PAIRS, ["ant", "bee", "cow"])


def run_audit_command(
    data: Path, out: Path, *words: str, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> tuple[int, str]:
    fixed = ["--model", FACTORY, "--data", str(data), "--out", str(out), "--size", "18"]
    options = ["--batch-size", "64", "--device", "cpu", *words]
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", "audit", *fixed, *options])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = cli.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--search", "screened", "--confidence", "0.8"], {"search": "screened", "confidence": 0.8}),
        (
            ["--search", "hierarchical", "--patch-sides", "4, 2", "--candidates", "40,40"],
            {"search": "hierarchical", "patch_sides": (4, 2), "candidates": (40, 40)},
        ),
        (["--search", "learned", "--steps", "3"], {"search": "learned", "steps": 3}),
        (["--search", "exact", "--resolution", "tiles:3x4"], {"resolution": "tiles:3x4"}),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_options_reach_the_search_and_the_summary_tells_of_it(
    words: list[str],
    expected: dict[str, Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, said = run_audit_command(data, tmp_path / "run", *words, monkeypatch=monkeypatch, cli=capfd)
    assert code == 0, said
    result = sa.load_result(tmp_path / "run")
    for name, value in expected.items():
        assert getattr(result.settings, name) == value
    assert result.dominant_frequencies.search == words[1]
    for sentence in search_sentences(result):
        assert sentence in said
    assert ("Screened maps are estimates" in said) == (words[1] == "screened")


def test_a_budget_is_kept_and_the_summary_says_what_it_cut_short(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # 165 passes an image; three classes with four search images each.
    words = ["--search", "exact", "--budget", "1k"]
    code, said = run_audit_command(data, tmp_path / "run", *words, monkeypatch=monkeypatch, cli=capfd)
    assert code == 0, said
    finding = sa.load_result(tmp_path / "run").dominant_frequencies
    assert finding.image_passes == 2 * 3 * 165 <= 1000
    assert f"Note: The search was cut short: {finding.stopped}." in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--search", "exact", "--candidates", "40"], "--candidates goes with --search hierarchical"),
        (["--search", "screened", "--steps", "4"], "--steps goes with --search learned, not with"),
        (["--steps", "4"], "--steps goes with --search learned, which auto never takes"),
        (["--patch-sides", "4,2"], "--patch-sides goes with --search hierarchical, which auto never"),
        (["--search", "learned", "--confidence", "0.8"], "--confidence goes with --search screened"),
        (
            ["--search", "hierarchical", "--response", "cross-entropy"],
            "--response goes with --search exact or screened, not with hierarchical",
        ),
        (["--candidates", "40,,40"], "For example: --candidates 1000,2000,4000,8000"),
        (["--patch-sides", "8,0"], "For example: --patch-sides 8,4,2,1"),
        (["--resolution", "tiles:4"], "--resolution tiles:8x12"),
    ],
)
def test_an_option_without_effect_or_sense_is_refused_before_anything_is_opened(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    nowhere = tmp_path / "nowhere.npz"
    code, said = run_audit_command(nowhere, tmp_path / "run", *words, monkeypatch=monkeypatch, cli=capfd)
    assert code == 2
    assert said.startswith("error[settings]: ")
    assert says in said
    assert not (tmp_path / "run").exists()


def test_lists_and_resolutions_are_read_as_they_are_written() -> None:
    assert parse_counts("candidates", " 8, 4 ,2,1", "") == (8, 4, 2, 1)
    assert parse_counts("candidates", None, "") is None
    for text in ("", "4,", "-4", "4.5", "x", "١"):
        with pytest.raises(SettingsError, match="--candidates"):
            parse_counts("candidates", text, "1,2")
    for text in ("auto", "orbits", "patches:4", "tiles:8x12"):
        assert parse_resolution(text) == text
    for text in ("", "patches", "tiles:8", "orbit", "patches:4x4"):
        with pytest.raises(SettingsError, match="--resolution"):
            parse_resolution(text)


def estimate_of(**values: Any) -> tuple[Estimate, str, int]:
    """The estimate, what a dry run says of it, and what the exact search plans by itself."""
    settings = settings_from({"batch_size": 64, **values})

    def request(**changes: Any) -> AuditRequest:
        return AuditRequest(
            model=LoadedModel(conv_model(3, 3), "test", "test", None),
            source=source_from(PAIRS, None),
            settings=settings.model_copy(update=changes),
            command="test",
        )

    with prepared_audit(request(search="exact", budget=None), None) as prepared:
        exact = SEARCHES["exact"].planned_passes(prepared.subject.outline)
    estimate = estimate_audit(request())
    return estimate, "\n".join(estimate_lines(estimate, settings)), exact


def test_a_dry_run_says_what_auto_takes_why_and_what_exact_would_take() -> None:
    estimate, said, exact = estimate_of()
    assert "Search: screened (taken by auto: the model has a gradient" in said
    passes = estimate.passes_by_measure["dominant_frequencies"]
    assert f"{passes:>16,} image passes" in said
    assert exact == 12 * 165
    assert f"The exact search would take {exact:,} image passes, {exact / passes:.1f} times" in said
    assert f"at {estimate.images_per_second:,.0f} images a second" in said
    coarse, said, exact = estimate_of(resolution="tiles:3x4", confidence=0.8)
    assert coarse.search == "exact"
    assert f"Search: exact (taken by auto: {coarse.search_reason})." in said
    assert "Note: Not used by the exact search: --confidence (of screened)." in said
    assert "would take" not in said
    assert coarse.passes_by_measure["dominant_frequencies"] == exact


def test_a_dry_run_counts_the_budget_in() -> None:
    estimate, said, exact = estimate_of(search="exact", budget="1k")
    assert estimate.passes_by_measure["dominant_frequencies"] == 2 * 3 * 165
    assert f"The whole exact search would take {exact:,} image passes, 2.0 times as many" in said
    timed, said, exact = estimate_of(search="screened", budget="2h")
    assert timed.passes_by_measure["dominant_frequencies"] == exact
    assert "The budget of 7200 s is for the search alone" in said
    short, said, _ = estimate_of(search="exact", budget="0.01s")
    assert short.passes_by_measure["dominant_frequencies"] == min(
        exact, round(0.01 * short.images_per_second)
    )
    dear, said, exact = estimate_of(search="learned", steps=400)
    assert dear.passes_by_measure["dominant_frequencies"] > exact
    assert f"The exact search would take {exact:,} image passes, which is fewer" in said


def test_the_page_on_searches_names_every_search_and_option_and_todays_numbers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "searches.md").read_text()
    text = " ".join(page.split())
    defaults = settings_from({})
    for name in SEARCHES:
        assert f"| `{name}` |" in text
        assert f"## {name.capitalize()}" in text
    for option in USED_BY:
        assert f"--{option.replace('_', '-')}" in text
    assert f"where {_FEW_UNITS} or fewer orbits" in text
    assert f"(`--confidence`, {defaults.confidence:g})" in text
    assert f"`--steps` ({defaults.steps})" in text
    low = f"the overlap is below {_FAITHFUL_OVERLAP} or the correlation below {_FAITHFUL_CORRELATION}"
    assert low in text
    for size, sides in ((32, "8, 4, 2, 1"), (224, "56, 28, 14, 8, 4, 2")):
        assert ", ".join(map(str, default_patch_sides(size, size))) == sides
        assert f"{sides} at {size}" in text
    for size in (32, 224):
        outline = outline_of_sizes([10], size)
        for search in ("exact", "hierarchical"):
            assert f"{SEARCHES[search].planned_passes(outline) // 10:,} at {size}" in text
