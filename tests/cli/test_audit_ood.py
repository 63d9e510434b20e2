"""`audit --ood NAME=DATA --label-map NAME=FILE`, from the command line to the folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import random_images
from elsewhere import NAMES, save_numbered, with_noise

import shortcut_audit as sa
from shortcut_audit.cli.main import main
from shortcut_audit.cli.options import parse_named
from shortcut_audit.errors import SettingsError

MODELS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
"""
THERE = ["Ameise", "Biene", "Katze", "Pizza"]
MAP = """
protocol = "The same animals in German."
[source]
name = "home"
classes = ["ant", "bee", "cat"]
[target]
name = "away"
classes = ["Ameise", "Biene", "Katze", "Pizza"]
[map]
ant = "Ameise"
bee = "Biene"
cat = "Katze"
[dropped.target]
Pizza = "no animal"
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("inputs")
    (here / "nets.py").write_text(MODELS)
    home = random_images(10, 3, (1, 8, 8))
    save_numbered(here / "home.npz", home, range(30))
    save_numbered(here / "copies.npz", with_noise(home), range(30))
    save_numbered(here / "away.npz", random_images(6, 4, (1, 8, 8), 5), names=THERE)
    save_numbered(here / "one.npz", random_images(6, 1, (1, 8, 8), 5), names=["ant"])
    maps = {
        "right": MAP,
        "typo": MAP.replace('"Biene"\ncat', '"Bine"\ncat'),
        "twice": MAP.replace('cat = "Katze"', 'cat = "Biene"'),
        "partial": MAP.replace('cat = "Katze"\n', ""),
        "unsaid": MAP.replace('Pizza = "no animal"\n', ""),
        "of another model": MAP.replace('"cat"]', '"dog"]').replace('cat = "Katze"', 'dog = "Katze"'),
        "of another set": MAP.replace("Biene", "Hummel"),
        "one left": MAP.replace('bee = "Biene"\ncat = "Katze"\n', "").replace(
            "[dropped.target]",
            '[dropped.source]\nbee = "-"\ncat = "-"\n[dropped.target]\nBiene = "-"\nKatze = "-"',
        ),
        "torn": MAP[:40],
    }
    for name, text in maps.items():
        (here / f"{name}.toml").write_text(text, encoding="utf-8")
    return here


def run(inputs: Path, out: Path, *words: str) -> int:
    given = [
        "shortcut-audit",
        "audit",
        "--model",
        f"{inputs}/nets.py:net",
        "--data",
        f"{inputs}/home.npz",
    ]
    given += [
        "--out",
        str(out),
        "--search",
        "exact",
        "--batch-size",
        "64",
        "--mean",
        "0.5",
        "--std",
        "0.3",
    ]
    before = sys.argv
    sys.argv = [*given, *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def test_sets_and_maps_by_name(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["--ood", f"copies={inputs}/copies.npz", "--ood", f"away={inputs}/away.npz"]
    assert run(inputs, out, *words, "--label-map", f"away={inputs}/right.toml") == 0
    capsys.readouterr()
    found = sa.load_result(out).transfer
    assert found is not None
    copies, away = found.by_set
    assert copies.set.name == "copies"
    assert copies.set.paired
    assert copies.set.spec == f"{inputs}/copies.npz"
    assert "by number" in copies.set.pairing
    assert not away.set.paired
    assert away.set.protocol == "The same animals in German."
    assert [(d.class_name, d.n_images, d.reason) for d in away.set.dropped] == [("Pizza", 6, "no animal")]
    assert [item.class_name for item in away.by_class] == NAMES
    assert [item.n_images for item in away.by_class] == [6, 6, 6]
    assert away.set.n_used == away.accuracy.n == 18


def test_a_dry_run_counts_other_sets_and_writes_nothing(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(inputs, out, "--ood", f"copies={inputs}/copies.npz", "--dry-run") == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.strip().startswith("transfer ")]
    assert int(line.split()[1].replace(",", "")) > 15
    assert not out.exists()
    assert run(inputs, out, "--dry-run") == 0
    assert "transfer" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label_map", "says"),
    [
        ("typo", "'Bine' is no class of the target away (do you mean 'Biene'?)"),
        ("twice", "target class 'Biene' stands for 'bee' and 'cat'; a class can stand for one only"),
        ("partial", "source class 'cat' of home is neither mapped nor dropped"),
        ("unsaid", "target class 'Pizza' of away is neither mapped nor dropped"),
        ("of another model", "The label map does not know class 'cat': its source home has"),
        ("of another set", "The label map does not know class 'Biene': its target away has"),
        ("one left", "Fewer than two classes of away are classes of the audit."),
        ("torn", "torn.toml"),
        ("missing", "missing.toml"),
    ],
)
def test_wrong_maps_are_refused_each_with_its_own_words(
    label_map: str, says: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--ood", f"away={inputs}/away.npz", "--label-map", f"away={inputs}/{label_map}.toml"]
    assert run(inputs, out, *words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ood", "HERE/away.npz"], "is not NAME=VALUE."),
        (["--ood", "=HERE/away.npz"], "is not NAME=VALUE."),
        (["--ood", "away="], "--ood 'away=' is not NAME=VALUE."),
        (["--ood", "a=HERE/copies.npz", "--ood", "a=HERE/away.npz"], "--ood names 'a' twice."),
        (
            ["--ood", "a=HERE/copies.npz", "--label-map", "b=HERE/right.toml"],
            "belongs to no --ood; there are: a.",
        ),
        (["--label-map", "b=HERE/right.toml"], "belongs to no --ood."),
        (["--ood", "a=HERE/nowhere.npz"], "nowhere.npz"),
        (["--ood", "a=HERE/away.npz"], "No class of the model and a has the same name"),
        (["--ood", "a=HERE/one.npz"], "Fewer than two classes of a are classes of the audit."),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    words: list[str], says: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(inputs, out, *(word.replace("HERE", str(inputs)) for word in words)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "Traceback" not in said
    assert not out.exists()


def test_a_name_ends_at_the_first_sign_and_the_rest_is_the_value() -> None:
    assert parse_named("ood", ["a = x=1.npz", "b=c d"]) == {"a": "x=1.npz", "b": "c d"}
    assert parse_named("ood", []) == {}
    with pytest.raises(SettingsError):
        parse_named("ood", ["a"])
