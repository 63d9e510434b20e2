from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from shortcut_audit.cli.main import main
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.selftest import CaseOutcome, ClassOutcome, SelfTestResult, load_selftest
from shortcut_audit.run import selftest as module


def made(verdict: str = "shortcut") -> SelfTestResult:
    used = ClassOutcome(
        class_name="ant [x]",
        role="plant",
        planted="texture, random phase 6",
        truth=Paired(n=100, both=0, only_first=64, only_second=0),
        n_planted=2,
        n_named=3,
        n_planted_named=1,
        n_planted_in_map=2,
        verdict=verdict,  # type: ignore[arg-type]
        score=0.73,
    )
    clean = ClassOutcome(class_name="bee", role="clean", verdict="no shortcut", score=0.01)
    case = CaseOutcome(
        name="texture, random phase 6",
        architecture="small_cnn",
        height=32,
        width=32,
        accuracy=Rate(hits=9, n=10),
        n_images=50,
        data_digest="ab",
        seconds=3,
        by_class=(used, clean),
    )
    return SelfTestResult(
        full=False,
        seed=0,
        data="shapes",
        command="shortcut-audit selftest",
        device="cpu",
        versions={"shortcut-audit": "1"},
        n_planned=1,
        cases=(case,),
    )


def run(monkeypatch: pytest.MonkeyPatch, result: SelfTestResult, *words: object) -> tuple[int, list[Any]]:
    asked: list[Any] = []

    def stand_in(request: Any, out: Path | None, *, progress: Any, on_case: Any) -> SelfTestResult:
        asked.extend([request, out])
        if out is not None:
            out.mkdir(parents=True)
        on_case(result.cases[0])
        return result

    monkeypatch.setattr(module, "run_selftest", stand_in)
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", "selftest", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "140")
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0), asked
    return 0, asked


def test_a_pass_ends_with_0_and_prints_table_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, asked = run(monkeypatch, made())
    said = capsys.readouterr()
    assert code == 0
    assert asked[1] is None
    for part in ("ant [x]", "64.0%", "0.73", "1, 2 of 2", "1 of 1", "which is few", "Passed"):
        assert part in said.out
    assert "shortcut: ant [x]" in said.err


@pytest.mark.parametrize("verdict", ["no shortcut", "inconclusive"])
def test_a_missed_plant_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    code, _ = run(monkeypatch, made(verdict))
    assert code == 1
    assert "Not passed" in capsys.readouterr().out


def test_the_full_form_writes_a_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, asked = run(monkeypatch, made(), "--full", "--size", "36x28", "--model", "timm:resnet18")
    assert code == 0
    assert (asked[0].full, asked[0].size, asked[0].model) == (True, (36, 28), "timm:resnet18")
    assert load_selftest(Path("reports/selftest")) == made()
    assert Path("reports/selftest/report.html").is_file()
    assert "reports/selftest/report.html" in capsys.readouterr().out.replace("\n", "")


def test_the_page_goes_where_out_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, asked = run(monkeypatch, made(), "--out", tmp_path / "there", "--seed", 4)
    assert code == 0
    assert asked[0].seed == 4
    assert (tmp_path / "there" / "report.html").is_file()


def test_bad_input_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", "selftest", "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "error[data]" in capsys.readouterr().err
