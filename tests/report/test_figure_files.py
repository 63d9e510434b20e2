from __future__ import annotations

import csv
import io
import re
import time
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from conftest import conv_model, random_images
from judged import NOTHING, SHORTCUT, UNJUDGED, with_verdicts
from PIL import Image
from routes import audit_by

import shortcut_audit as sa
from shortcut_audit.errors import ResultError, RunFolderError, SettingsError
from shortcut_audit.report.figure_files import FORMATS, INDEX_FILE, figure_formats, save_figures
from shortcut_audit.report.plots import Plots
from shortcut_audit.results.audit_result import AuditResult


@cache
def judged() -> AuditResult:
    return with_verdicts(audit_by("exact"), UNJUDGED, SHORTCUT, NOTHING)


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without figures: what is drawn is another test's matter."""
    monkeypatch.setattr(
        "shortcut_audit.report.figure_files._contents",
        lambda draw, formats: [(kind, b"drawn") for kind in formats],
    )


@pytest.fixture
def _radius_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plots, "figures_of", lambda self, class_name: ("radius",))


def index_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / INDEX_FILE).read_text(encoding="utf-8"))))


@pytest.mark.usefixtures("_undrawn")
def test_the_index_lists_every_file_with_class_and_figure(tmp_path: Path) -> None:
    files = save_figures(judged(), tmp_path / "new" / "figures", class_names=["bee", "ant"])
    folder = tmp_path / "new" / "figures"
    assert files[-1] == folder / INDEX_FILE
    assert {path.name for path in folder.iterdir()} == {path.name for path in files}
    told = [(row["class"], row["figure"]) for row in index_of(folder)]
    of_ant = ["map", "adcs", "radius"]
    assert told == [
        *(("bee", figure) for figure in [*of_ant, "ladder", "necessity"]),
        *(("ant", figure) for figure in of_ant),
    ]
    assert [row["file"] for row in index_of(folder)] == [path.name for path in files[:-1]]


@pytest.mark.usefixtures("_radius_alone")
def test_pictures_have_the_dots_that_journals_ask_for(tmp_path: Path) -> None:
    save_figures(judged(), tmp_path, class_names=["bee"])
    with Image.open(tmp_path / "class-0001-bee-radius.png") as picture:
        assert picture.size == (1560, 930)
        assert round(picture.info["dpi"][0]) == 300
    assert plt.get_fignums() == []


@pytest.mark.usefixtures("_radius_alone")
def test_equal_results_give_equal_bytes_without_dates(tmp_path: Path) -> None:
    first = save_figures(judged(), tmp_path / "a", FORMATS, ["bee"])
    # Dates in files are whole seconds.
    time.sleep(1.05)
    second = save_figures(judged(), tmp_path / "b", FORMATS, ["bee"])
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.usefixtures("_radius_alone")
def test_text_stays_text_and_dense_parts_are_pictures(tmp_path: Path) -> None:
    save_figures(judged(), tmp_path, ("svg", "pdf"), ["bee"])
    drawing = ElementTree.parse(tmp_path / "class-0001-bee-radius.svg")
    texts = {"".join(each.itertext()) for each in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert "radius (cycles/image)" in texts
    assert list(drawing.iter("{http://www.w3.org/2000/svg}image"))
    content = (tmp_path / "class-0001-bee-radius.pdf").read_bytes()
    # Type 42: whole letters that can be searched and edited, and no outlines (type 3).
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content
    assert b"/Subtype /Image" in content


@pytest.mark.usefixtures("_undrawn")
def test_names_of_files_are_safe_short_and_apart(hostile: AuditResult, tmp_path: Path) -> None:
    files = save_figures(hostile, tmp_path)
    names = [path.name for path in files]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9.-]{1,80}", name) for name in names)
    assert all(path.parent == tmp_path for path in files)
    assert {row["class"] for row in index_of(tmp_path)} == {*hostile.class_names, ""}
    stems = {row["class"]: row["file"] for row in index_of(tmp_path) if row["figure"] == "map"}
    assert stems["<script>alert(1)</script>"] == "class-0000-script-alert-1-script-map.png"
    assert stems[""] == f"class-{len(hostile.class_names) - 1:04d}-map.png"


@pytest.mark.usefixtures("_undrawn")
def test_classes_of_one_spelling_do_not_overwrite_each_other(tmp_path: Path) -> None:
    names = ["../a b", "A-B", "á_b"]
    result = sa.audit(
        conv_model(3, 1), random_images(4, 3, (1, 5, 5)), class_names=names, batch_size=64, examples=0
    )
    save_figures(result, tmp_path, class_names=names)
    files = [row["file"] for row in index_of(tmp_path) if row["figure"] == "adcs"]
    assert files == [f"class-{number:04d}-a-b-adcs.png" for number in range(3)]


@pytest.mark.usefixtures("_undrawn")
def test_data_alone_have_files_too(hostile_data: AuditResult, tmp_path: Path) -> None:
    save_figures(hostile_data, tmp_path, class_names=[hostile_data.class_names[1]])
    assert [row["figure"] for row in index_of(tmp_path)] == ["map", "adcs", "radius"]
    names = [drawing["file"] for drawing in index_of(tmp_path)]
    assert names[0] == "class-0001-quoted-so-map.png"


def test_formats_are_read_as_they_are_written() -> None:
    assert figure_formats("pdf, PNG") == ("png", "pdf")
    for wrong, says in (("png,bmp", "no figure format 'bmp'"), (",", "No figure format")):
        with pytest.raises(SettingsError, match=says):
            figure_formats(wrong)


def test_unknown_classes_and_places_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="Near it: 'bee'"):
        save_figures(judged(), tmp_path / "figures", class_names=["bees"])
    assert not (tmp_path / "figures").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="cannot be a folder"):
        save_figures(judged(), tmp_path / "file", class_names=["bee"])
