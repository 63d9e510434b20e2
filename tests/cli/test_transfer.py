from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import random_images, save_npz

from shortcut_audit.cli.main import main
from shortcut_audit.data.sources import open_source
from shortcut_audit.models.loading import ModelRequest, load_model
from shortcut_audit.results.model_transfer import load_transfer
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest

MODELS = """
import torch
from torch import nn

def net(seed, n_outputs=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, n_outputs))

def first(): return net(0)
def second(): return net(1)
def third(): return net(2)
def two(): return net(3, 2)
"""
NAMES = ["ant [x]", "bee", "cat"]
QUICK = ["--batch-size", "64", "--mean", "0.5", "--std", "0.25"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, images, and audits of two of the models."""
    home = tmp_path_factory.mktemp("transfer")
    (home / "nets.py").write_text(MODELS)
    save_npz(home / "images.npz", random_images(12, 3, (1, 8, 8)), NAMES)
    save_npz(home / "large.npz", random_images(8, 3, (1, 10, 10)), NAMES)
    for name in ("first", "second"):
        audit(home, name, home / name)
        # The page of an audit takes longer than the audit.
        (home / name / "report.html").write_text("a page")
    return home


def audit(home: Path, name: str, out: Path, **settings: Any) -> None:
    request = AuditRequest(
        model=load_model(ModelRequest(spec=f"{home}/nets.py:{name}")),
        source=open_source(str(home / "images.npz")),
        settings=settings_from({"search": "exact", "batch_size": 64, **settings}),
        command="audit",
        mean=(0.5,),
        std=(0.25,),
    )
    run_audit(request, out)


def run(*words: str) -> int:
    before = sys.argv
    sys.argv = ["shortcut-audit", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def transfer(folder: Path, out: Path, *words: str, runs: tuple[str, ...] = ("first",)) -> int:
    given = [str(folder / name) for name in runs]
    return run("transfer", *given, "--out", str(out), *words)


def judging(folder: Path, *models: str, data: str = "images.npz") -> list[str]:
    named = [word for name in models for word in ("--to", f"{folder}/nets.py:{name}")]
    return [*named, "--data", str(folder / data), *QUICK]


def test_maps_are_judged_compared_and_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out = tmp_path / "out"
    words = judging(folder, "second", "third")
    assert transfer(folder, out, *words, runs=("first", "second")) == 0
    said = capsys.readouterr().out
    first = said.splitlines()[0]
    assert first.startswith("first has no shortcut to take to second")
    for part in ("ant [x]", "Rank correlation of maps", "The search of an audit was not run", "Note: "):
        assert part in said
    found = load_transfer(out)
    assert found.models == ("second", "third")
    assert len(found.judged) == 4
    itself = found.judged_of("second", "second")
    assert itself is not None
    assert [item.here for item in itself.by_class] == [item.there for item in itself.by_class]
    names = {path.name for path in out.iterdir()}
    assert {"transfer.json", "transfer-classes.csv", "transfer-maps.csv", "report.html"} <= names
    assert f"Page: {out / 'report.html'}" in said
    before = {name: (out / name).read_bytes() for name in names if name not in ("shards", "parts")}
    assert transfer(folder, out, *words, runs=("first", "second")) == 0
    after = {name: (out / name).read_bytes() for name in before}
    for name in ("transfer.json",):
        for files in (before, after):
            content: dict[str, Any] = json.loads(files[name])
            content.pop("timing")
            files[name] = json.dumps(content).encode()
    assert after == before


def test_runs_alone_are_compared_without_a_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert transfer(folder, tmp_path / "out", runs=("first", "second")) == 0
    said = capsys.readouterr().out
    assert said.startswith("The maps of first and second have a rank correlation of ")
    assert "no model was run" in said


def test_a_dry_run_counts_passes_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert transfer(folder, out, *judging(folder, "second"), "--dry-run") == 0
    said = capsys.readouterr().out
    assert "the search of an audit is not run" in said
    assert "image passes (3 classes, 36 images)" in said
    assert not out.exists()
    assert transfer(folder, out, "--dry-run", runs=("first", "second")) == 0
    assert "no image passes" in capsys.readouterr().out


LABELS = """
protocol = "One class under another name."
source = { name = "run", classes = ["ant [x]", "bee", "cat"] }
target = { name = "images", classes = ["Ameise", "bee", "cat"] }
map = { "ant [x]" = "Ameise", bee = "bee" }
[dropped]
source = { cat = "not wanted" }
target = { cat = "not wanted either" }
"""


def test_a_label_map_is_taken(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_npz(tmp_path / "named.npz", random_images(8, 3, (1, 8, 8)), ["Ameise", "bee", "cat"])
    (tmp_path / "map.toml").write_text(LABELS)
    words = ["--to", f"{folder}/nets.py:second", "--data", str(tmp_path / "named.npz"), *QUICK]
    assert transfer(folder, tmp_path / "out", *words, "--label-map", str(tmp_path / "map.toml")) == 0
    said = capsys.readouterr().out
    assert "Left out: “cat” of first: not wanted." in said
    assert "One class under another name." in said
    judged = load_transfer(tmp_path / "out").judged[0]
    assert [(i.class_name, i.data_class) for i in judged.by_class] == [
        ("ant [x]", "Ameise"),
        ("bee", "bee"),
    ]


@pytest.mark.parametrize(
    ("models", "more", "told"),
    [
        ((), (), "One run alone has nothing to be compared with"),
        ((), ("--data", "images.npz"), "one is given without the other"),
        (("second",), ("--checkpoint", "a", "--checkpoint", "b"), "given 2 times and --to 1 times"),
        (("second", "second"), (), "has the weights of a model that is named before it"),
        (("two",), (), "2 outputs"),
        (("second",), ("--size", "10"), "Give --size 8x8"),
        ((), ("--label-map", "x.toml"), "--label-map is for images to judge on"),
        (("second",), ("--batch-size", "many"), "neither a number nor auto"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    models: tuple[str, ...],
    more: tuple[str, ...],
    told: str,
) -> None:
    out = tmp_path / "out"
    words = judging(folder, *models) if models else []
    assert transfer(folder, out, *words, *more) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith("error[")
    assert not out.exists()


def test_images_of_another_size_are_refused_with_the_size_to_give(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = judging(folder, "second", data="large.npz")
    assert transfer(folder, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert "images of 10 x 10 pixels, and the maps of first are of 8 x 8" in said
    assert "Give --size 8x8" in said


def test_a_run_is_not_overwritten(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (folder / "second" / "report.html").read_bytes()
    assert transfer(folder, folder / "second", *judging(folder, "second")) == 2
    assert "holds an audit, and would be overwritten by a transfer" in capsys.readouterr().err
    assert (folder / "second" / "report.html").read_bytes() == page
    assert transfer(folder, tmp_path / "out", runs=("first", "nowhere")) == 2
    assert "holds no audit" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_folders(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "again"
    audit(folder, "first", other, seed=1)
    assert transfer(folder, tmp_path / "out", runs=("first", str(other))) == 0
    found = load_transfer(tmp_path / "out")
    assert [each.name for each in found.runs] == ["first (first)", "first (again)"]
    notes = " ".join(found.agreements[0].notes)
    assert "audits of one model" in notes
    assert "different draws of images from one set" in notes
