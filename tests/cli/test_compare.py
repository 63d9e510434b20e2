"""`shortcut-audit compare`, run as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited import Made, made_audit
from commands import run_command

from shortcut_audit.report.compare_runs import RunsComparison

PLANTED = Made(turned=(0.6, 0.02, 0.02), verdicts=("shortcut", "no shortcut", "no shortcut"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with run folders `a/run`, `b/run`, `again/run` (as `a`), `toad` (of other classes)."""
    made_audit().save(tmp_path / "a" / "run")
    made_audit().save(tmp_path / "again" / "run")
    made_audit(PLANTED).save(tmp_path / "b" / "run")
    made_audit(Made(names=("horse", "ship", "toad"))).save(tmp_path / "toad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    return run_command("compare", *words, monkeypatch=monkeypatch)


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortcut_audit.report.compare_page.png_bytes", lambda *_, **__: b"drawn")
    for name in ("accuracy_figure", "scores_figure"):
        monkeypatch.setattr(f"shortcut_audit.report.compare_page.{name}", lambda *_, **__: object())


@pytest.mark.usefixtures("_no_pictures")
def test_two_runs_become_a_page_and_a_sentence(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(monkeypatch, "a/run", "b/run") == 0
    said = capfd.readouterr()
    assert said.out == "From a/run to b/run: 1 class became a shortcut: “horse”.\nPage: compare.html\n"
    assert said.err == ""
    page = (runs / "compare.html").read_text(encoding="utf-8")
    assert "<code>shortcut-audit compare a/run b/run</code>" in page


@pytest.mark.usefixtures("_no_pictures")
def test_labels_baseline_and_json_are_as_asked_and_bytes_do_not_depend_on_the_file(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["a/run", "b/run", "--label", "old", "--label", "<new>"]
    for baseline, name in (("2", "one"), ("<new>", "two"), ("./b/run", "three")):
        asked = [*words, "--baseline", baseline, "-o", f"{name}.html", "--json", f"{name}.json"]
        assert compare(monkeypatch, *asked) == 0
        found = RunsComparison.model_validate_json((runs / f"{name}.json").read_text())
        assert [run.label for run in found.runs] == ["old", "<new>"]
        assert (found.baseline, found.against[0].label) == (1, "old")
    assert compare(monkeypatch, *words, "--baseline", "2", "-o", "again.html") == 0
    assert (runs / "again.html").read_bytes() == (runs / "one.html").read_bytes()


@pytest.mark.usefixtures("_no_pictures")
def test_doubts_are_told_on_standard_error(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made_audit(Made(settings={"kept_share": 0.1}, first=1)).save(runs / "c")
    assert compare(monkeypatch, "a/run", "again/run", "c") == 0
    said = capfd.readouterr()
    assert said.out.startswith("From a/run to c: nothing changed that exceeds the noise")
    lines = said.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("warning: “again/run” against “a/run”: the very same numbers")
    assert "kept share 0.1 instead of 0.05" in lines[1]
    assert "other images of the same classes" in lines[2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a/run"], "1 run cannot be compared"),
        (["a/run"] * 21, "21 runs cannot be compared"),
        (["a/run", "./a/run/"], "The run a/run is named twice"),
        (["a/run", "a/../a/run"], "is named twice, as a/run too"),
        (["a/run", "toad"], "toad is of other classes than a/run: it lacks 'frog', it adds 'toad'"),
        (["a/run", "nowhere"], "nowhere holds no audit"),
        (["a/run", "half"], "is not finished"),
        (["a/run", "damaged"], "damaged/arrays.safetensors"),
        (["a/run", "some.html"], "some.html is not the page of an audit"),
        (["a/run", "b/run", "--label", "one"], "2 runs and 1 labels"),
        (["a/run", "b/run", "--label", "one", "--label", "one"], "not told apart"),
        (["a/run", "b/run", "--label", "one", "--label", " "], "Labels are empty"),
        (["a/run", "b/run", "--baseline", "3"], "The baseline '3' is none of the runs"),
        (["a/run", "b/run", "--baseline", "0"], "Name a number from 1 to 2"),
        (["a/run", "b/run", "-o", "none/page.html"], "folder of none/page.html is not there"),
        (["a/run", "b/run", "-o", "a"], "a is a folder"),
        (["a/run", "some.html", "-o", "some.html"], "some.html is a run, and would be overwritten"),
        (["a/run", "b/run", "-o", "x", "--json", "./x"], "the same file"),
    ],
)
def test_what_cannot_be_compared_ends_with_2_and_a_sentence(
    words: list[str],
    says: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (runs / "half").mkdir()
    (runs / "half" / "run.json").write_text(
        '{"kind": "shortcut-audit run", "status": "interrupted", "done": 1, "total": 2}'
    )
    made_audit().save(runs / "damaged")
    (runs / "damaged" / "arrays.safetensors").write_bytes(b"nothing")
    (runs / "some.html").write_text("<p>hello</p>")
    assert compare(monkeypatch, *words) == 2
    said = capfd.readouterr()
    assert says in said.err
    assert said.out == ""
    assert not (runs / "compare.html").exists()
    assert (runs / "some.html").read_text() == "<p>hello</p>"
