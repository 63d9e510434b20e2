"""`shortcut-audit audit --shift`: what it takes, what it refuses, and what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import random_images, save_npz

import shortcut_audit as sa
from shortcut_audit.cli.main import main
from shortcut_audit.report.corruption_words import corruption_sentences

FACTORY = "shortcut_audit.models.small:small_cnn"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_npz(tmp_path_factory.mktemp("data") / "images.npz", random_images(8, 2, (3, 8, 8)))


def command(
    data: Path,
    out: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    cli: pytest.CaptureFixture[str],
) -> tuple[int, str]:
    fixed = ["--model", FACTORY, "--data", str(data), "--out", str(out), "--batch-size", "16"]
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", "audit", *fixed, "--device", "cpu", *words])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = cli.readouterr()
    return code, said.out + said.err


def test_it_says_what_it_found_and_keeps_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--shift", "jpeg:1-2,gaussian-noise:3", "--shift", "haze:5"]
    code, said = command(data, tmp_path / "run", words, monkeypatch, capfd)
    assert code == 0, said
    result = sa.load_result(tmp_path / "run")
    assert result.settings.shifts == ("jpeg-1", "jpeg-2", "gaussian_noise-3", "haze-5")
    sentences = corruption_sentences(result)
    assert len(sentences) >= 6
    for sentence in sentences:
        assert sentence in said
    assert "was not measured: 8 cells of class and shift are too few" in said
    assert "Under corruptions" in (tmp_path / "run" / "report.html").read_text()
    monkeypatch.setattr(
        sys, "argv", ["shortcut-audit", "export", str(tmp_path / "run"), "--table", "corruptions"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert len(capfd.readouterr().out.splitlines()) == 1 + 2 * 4


def test_a_dry_run_counts_the_passes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--shift", "all", "--dry-run"]
    code, said = command(data, tmp_path / "run", words, monkeypatch, capfd)
    assert code == 0, said
    (line,) = [line.split() for line in said.splitlines() if line.strip().startswith("corruptions")]
    assert line[1] == str(8 * (1 + 85))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ("jepg:3", "There is no corruption 'jepg'; jpeg comes near."),
        ("jpeg:9", "'9' names no severities."),
        ("jpeg:0", "asks for severity 0"),
        ("", "an empty name among the shifts"),
    ],
)
def test_bad_shifts_are_refused_before_anything_is_opened(
    shift: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    nowhere = tmp_path / "no-such-file.npz"
    code, said = command(nowhere, tmp_path / "run", ["--shift", shift], monkeypatch, capfd)
    assert code == 2
    assert message in " ".join(said.split())
    assert not (tmp_path / "run").exists()
