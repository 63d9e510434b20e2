"""A page read back: the same page again, and the same findings; and whatever else a file may be."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judged import SHORTCUT, with_verdicts
from routes import audit_by
from shifted import audit_under
from typer.testing import CliRunner

import shortcut_audit as sa
from shortcut_audit.errors import ResultError
from shortcut_audit.report.embedding import PageMemory, packed, read_page, read_run
from shortcut_audit.report.html import render, write_again
from shortcut_audit.report.verdict_words import verdict_sentence
from shortcut_audit.results.audit_result import FILE_DIGESTS, AuditResult

PAGES = ["hostile", "grey", "hostile_data", "screened", "hierarchical", "fine"]


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("which", PAGES)
def test_a_page_makes_itself_again_byte_for_byte(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    result: AuditResult = request.getfixturevalue(which)
    page = sa.write_report(result, tmp_path / "report.html")
    again = write_again(page, tmp_path / "again.html")
    assert again.read_bytes() == page.read_bytes()
    # Whole findings, to the last digit.
    back = read_run(page)
    digests = set(FILE_DIGESTS)
    assert back.model_dump(exclude=digests) == result.model_dump(exclude=digests)


def test_pictures_are_read_back_and_not_drawn(
    grey: AuditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = sa.write_report(grey, tmp_path / "report.html")

    def drawn(*_: object, **__: object) -> bytes:
        raise AssertionError("drawn again")

    monkeypatch.setattr("shortcut_audit.report.model_page.map_bytes", drawn)
    monkeypatch.setattr("shortcut_audit.report.verdict_page.png_bytes", drawn)
    assert write_again(page, tmp_path).read_bytes() == page.read_bytes()


@pytest.mark.usefixtures("_no_figures")
def test_a_page_of_corruptions_keeps_the_numbers_that_rest_on_large_arrays(tmp_path: Path) -> None:
    result = audit_under("jpeg:3,haze")
    page = sa.write_report(result, tmp_path / "report.html")
    assert write_again(page, tmp_path / "b.html").read_bytes() == page.read_bytes()


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("which", ["grey", "screened", "hierarchical"])
def test_a_coarse_grid_s_maps_come_back_as_they_were(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    result: AuditResult = request.getfixturevalue(which)
    back = read_run(sa.write_report(result, tmp_path / "report.html"))
    for name in ("orbits/u", "orbits/v", "orbits/members", "orbits/radius"):
        assert np.array_equal(back.arrays[name], result.arrays[name])
    for name in ("dominant_frequencies/rank", "dominant_frequencies/kept", "class_spectra/adcs"):
        assert np.array_equal(back.arrays[name], result.arrays[name]), name
    for item in result.shortcuts.by_class:
        own, again = result.importance(item.class_name), back.importance(item.class_name)
        ranked = back.arrays["dominant_frequencies/rank"][0] > 0
        assert np.allclose(own[ranked], again[ranked], rtol=2e-3)


@pytest.mark.usefixtures("_no_figures")
def test_a_fine_grid_keeps_the_first_ranks_and_the_others_roughly(
    fine: AuditResult, tmp_path: Path
) -> None:
    back = read_run(sa.write_report(fine, tmp_path / "report.html"))
    rank = fine.arrays["dominant_frequencies/rank"]
    again = back.arrays["dominant_frequencies/rank"]
    first = (rank > 0) & (rank <= 216)
    assert np.array_equal(again[first], rank[first])
    width = (rank.max() - 512) / 32
    assert np.abs(again - rank)[rank > 0].max() <= width
    assert np.array_equal(again > 0, rank > 0)
    kept = fine.arrays["dominant_frequencies/kept"]
    assert np.array_equal(back.arrays["dominant_frequencies/kept"], kept)


def test_the_block_is_small_on_a_fine_grid(fine: AuditResult) -> None:
    from shortcut_audit.report.explorer import explored

    arrays = explored(fine, fine.shortcuts.by_class)
    n_bytes = len(zlib.compress(b"".join(a.tobytes() for a in arrays.values()), 9))
    # A float and a rank for each orbit and class would take 8 bytes.
    assert n_bytes < 3 * fine.grid.n_orbits * len(fine.class_names)


def block_of(text: str) -> str:
    return re.search(r'id="audit-result">([^<]*)<', text)[1]  # type: ignore[index]


@pytest.fixture(scope="module")
def text() -> str:
    result = audit_by("exact")
    return f'<html><script id="audit-result">{packed(result, PageMemory())}</script></html>'


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "<html>a page of another kind</html>",
        lambda text: text.replace(block_of(text), "not base64!"),
        lambda text: text.replace(block_of(text), block_of(text)[:400]),
        lambda text: text.replace(block_of(text), base64.b64encode(b"not deflated").decode()),
        lambda text: text.replace(block_of(text), base64.b64encode(zlib.compress(b"{}")).decode()),
        lambda text: text.replace(block_of(text), ""),
    ],
)
def test_what_is_no_page_says_so(damage: object, text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(damage(text))  # type: ignore[operator]
    with pytest.raises(ResultError, match="is not the page of an audit, or is damaged"):
        read_page(page)


def test_a_page_of_a_newer_format_is_refused_by_its_number(text: str, tmp_path: Path) -> None:
    content = zlib.decompress(base64.b64decode(block_of(text)))
    newer = re.sub(rb'"format":\d', b'"format":9', content, count=1)
    page = tmp_path / "page.html"
    page.write_text(text.replace(block_of(text), base64.b64encode(zlib.compress(newer)).decode()))
    with pytest.raises(ResultError, match="has format 9"):
        read_page(page)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), letter=st.sampled_from("A/+z=<"))
def test_a_letter_changed_is_an_error_or_changes_nothing(
    place: int, letter: str, text: str, tmp_path: Path
) -> None:
    block = block_of(text)
    place %= len(block)
    page = tmp_path / "page.html"
    page.write_text(text.replace(block, block[:place] + letter + block[place + 1 :]))
    try:
        found, _ = read_page(page)
    except ResultError:
        return
    assert found.model_dump() == audit_by("exact").model_dump()


@pytest.mark.usefixtures("_no_figures")
def test_nobody_pictures_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    result = with_verdicts(audit_by("exact"), SHORTCUT, SHORTCUT, SHORTCUT)
    whole = render(result)
    assert whole.count("<article") == 3
    monkeypatch.setattr("shortcut_audit.report.html.MAX_BYTES", int(0.9 * len(whole.encode())))
    smaller = render(result)
    assert smaller.count("<article") == 2
    assert "1 more are in the table above" in smaller


@pytest.mark.usefixtures("_no_figures")
def test_the_command_reads_folders_and_pages(grey: AuditResult, tmp_path: Path) -> None:
    from shortcut_audit.cli.main import app

    run = grey.save(tmp_path / "run")
    runner = CliRunner()
    first = runner.invoke(app, ["report", str(run)])
    assert first.exit_code == 0, first.output
    page = run / "report.html"
    whole = page.read_bytes()
    again = runner.invoke(app, ["report", str(page), "-o", str(tmp_path / "b.html")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "b.html").read_bytes() == whole
    said = runner.invoke(app, ["report", str(page), "--markdown", "-"])
    assert said.exit_code == 0, said.output
    assert verdict_sentence(grey) in said.output


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize(
    "changed", [{"bands": []}, {"top orbits": "zz"}, {"extents": [-1]}, {"extents": {}}]
)
def test_a_page_whose_numbers_were_changed_is_refused_in_a_sentence(
    changed: dict[str, object], grey: AuditResult, tmp_path: Path
) -> None:
    page = sa.write_report(grey, tmp_path / "page.html")
    result, memory = read_page(page)
    memory.values |= changed
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(block_of(text), packed(result, memory)), encoding="utf-8")
    with pytest.raises(ResultError):
        write_again(page, tmp_path / "again.html")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "{run}", "-o", "{run}/result.json"],
        ["report", "{run}", "--markdown", "{run}/arrays.safetensors"],
        ["report", "{page}", "--markdown", "{page}"],
        ["export", "{run}", "-o", "{run}/result.json"],
        ["compare", "{run}", "{other}", "-o", "{other}/result.json"],
        ["compare", "{run}", "{other}", "-o", "c.html", "--json", "{run}/arrays.safetensors"],
    ],
)
def test_no_command_writes_over_a_run(arguments: list[str], grey: AuditResult, tmp_path: Path) -> None:
    from shortcut_audit.cli.main import app
    from shortcut_audit.errors import AuditError

    run, other = grey.save(tmp_path / "run"), grey.save(tmp_path / "other")
    page = tmp_path / "page.html"
    page.write_text("a page")
    places = {"run": run, "other": other, "page": page}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = [word.format(**places) for word in arguments]
    done = CliRunner().invoke(app, given)
    assert isinstance(done.exception, AuditError), done.output
    assert {path: path.read_bytes() for path in before} == before
