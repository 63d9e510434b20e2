"""`export --figures` and `report --markdown`, as they are called."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import yaml
from commands import run_command
from judged import INCONCLUSIVE, NOTHING, SHORTCUT, with_verdicts
from routes import audit_by

from shortcut_audit.report.markdown import markdown_summary
from shortcut_audit.report.plots import Plots
from shortcut_audit.results.store import load_result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return with_verdicts(audit_by("exact"), NOTHING, SHORTCUT, INCONCLUSIVE).save(folder)


@pytest.fixture
def _radius_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plots, "figures_of", lambda self, class_name: ("radius",))


@pytest.mark.usefixtures("_radius_alone")
def test_figures_of_named_classes_in_several_formats_and_no_table(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    words = ["export", str(finished), "--figures", str(tmp_path), "--figure-format", "svg,png"]
    done = run_command(*words, "--class", "bee", "--class", "cow [x]", monkeypatch=monkeypatch)
    assert done == 0
    said = capfdbinary.readouterr()
    assert said.out == b""
    assert b"4 files" in said.err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "index.csv").read_text())))
    assert [(row["class"], row["format"]) for row in rows] == [
        (name, kind) for name in ("bee", "cow [x]") for kind in ("png", "svg")
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"index.csv", *(row["file"] for row in rows)}
    assert (tmp_path / rows[1]["file"]).read_bytes().lstrip().startswith(b"<?xml")


@pytest.mark.usefixtures("_radius_alone")
@pytest.mark.parametrize("words", [["--table", "ladder"], ["--output", "t.csv"]])
def test_a_table_that_is_asked_for_is_written_beside_figures(
    words: list[str],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["export", str(finished), "--figures", "figures", "--class", "ant", *words]
    assert run_command(*asked, monkeypatch=monkeypatch) == 0
    printed = capfdbinary.readouterr().out or (tmp_path / "t.csv").read_bytes()
    assert printed.startswith(b"class,")
    assert (tmp_path / "figures" / "class-0000-ant-radius.png").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--class", "bee"], "Give --figures DIR"),
        (["--figure-format", "svg"], "Give --figures DIR"),
        (["--figures", "f", "--figure-format", "gif"], "no figure format 'gif'"),
        (["--figures", "f", "--class", "be"], "Near it: 'bee'"),
        (["--figures", "/dev/null/f", "--class", "bee"], "cannot be a folder of figures"),
    ],
)
def test_figures_that_cannot_be_are_refused_with_a_sentence(
    words: list[str],
    says: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command("export", str(finished), *words, monkeypatch=monkeypatch) == 2
    assert says in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_summary_goes_to_a_file_or_to_standard_output_and_no_page_is_written(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    target = tmp_path / "summary.md"
    assert run_command("report", str(finished), "--markdown", str(target), monkeypatch=monkeypatch) == 0
    capfdbinary.readouterr()
    assert run_command("report", str(finished), "--markdown", "-", monkeypatch=monkeypatch) == 0
    assert capfdbinary.readouterr().out == target.read_bytes()
    assert target.read_text(encoding="utf-8") == markdown_summary(load_result(finished))
    assert not (finished / "report.html").exists()


def test_a_model_card_has_metadata_on_top(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(finished), "--markdown", "-", "--model-card"]
    assert run_command(*words, monkeypatch=monkeypatch) == 0
    empty, metadata, body = capfd.readouterr().out.split("---\n", 2)
    assert empty == ""
    assert yaml.safe_load(metadata)["pipeline_tag"] == "image-classification"
    assert body.lstrip().startswith("## Frequency shortcuts of")


def test_a_summary_and_a_page_can_be_written_together(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(
        "shortcut_audit.report.html.write_again", lambda run, path: written.append(path) or path
    )
    page = tmp_path / "page.html"
    words = ["report", str(finished), "--markdown", "-", "--output", str(page)]
    assert run_command(*words, monkeypatch=monkeypatch) == 0
    said = capfd.readouterr()
    assert written == [page]
    assert "Page:" in said.err
    assert "Page:" not in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model-card"], "Give --markdown FILE"),
        (["--markdown", "/nowhere/at/all.md"], "cannot be written"),
    ],
)
def test_summaries_that_cannot_be_are_refused_with_a_sentence(
    words: list[str],
    says: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run_command("report", str(finished), *words, monkeypatch=monkeypatch) == 2
    assert says in capfd.readouterr().err
