"""The page: one HTML file, offline; it reads without scripts, and explores maps with one of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from shortcut_audit.errors import ResultError
from shortcut_audit.report.data_page import data_page
from shortcut_audit.report.embedding import BLOCK_ID, BLOCK_TYPE, PageMemory, packed, read_page
from shortcut_audit.report.environment import rendered
from shortcut_audit.report.extents import Extents
from shortcut_audit.report.model_page import model_page
from shortcut_audit.report.summary import fidelity_text, truth_sentences
from shortcut_audit.report.verdict_page import flips_text, nulls_text, paired_text
from shortcut_audit.report.verdict_words import number_text
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.store import REPORT_FILE, load_result, write_bytes

__all__ = [
    "MAX_BYTES",
    "MAX_PICTURED_CLASSES",
    "render",
    "render_again",
    "write_again",
    "write_report",
]

# Beyond this the page would grow heavy; the remaining classes stay in its table.
MAX_PICTURED_CLASSES = 20
# No page is larger; one that would be shows fewer classes, then fewer rows.
MAX_BYTES = 5_000_000
_EXTENTS = (
    Extents(MAX_PICTURED_CLASSES, 1000),
    Extents(10, 500),
    Extents(5, 200),
    Extents(2, 100),
    Extents(0, 50),
)
_FILTERS: dict[str, Callable[..., Any]] = {
    "fidelity": fidelity_text,
    "number": number_text,
    "flips": flips_text,
    "nulls": nulls_text,
    "paired": paired_text,
}


def write_report(result: AuditResult, path: str | Path) -> Path:
    """Write the page of `result` to `path` (a file, or a folder for its `report.html`)."""
    return _write(render(result), path)


def write_again(run: str | Path, path: str | Path) -> Path:
    """Write the page of a finished audit, from its run folder or from an earlier page of it.

    Raises ResultError where `run` is neither.
    """
    run = Path(run)
    text = render_again(*read_page(run)) if run.is_file() else render(load_result(run))
    return _write(text, path)


def _write(text: str, path: str | Path) -> Path:
    target = Path(path)
    if target.is_dir():
        target = target / REPORT_FILE
    write_bytes(target, text.encode())
    return target


def render(result: AuditResult) -> str:
    """The page as text; equal results give equal bytes."""
    text = ""
    pictures: dict[str, str] = {}
    for extents in _EXTENTS:
        # A smaller page has the same pictures, only fewer of them.
        memory = PageMemory(pictures)
        text, pictures = _page(result, memory, extents), memory.pictures
        if len(text.encode()) <= MAX_BYTES:
            return text
    return text


def render_again(result: AuditResult, memory: PageMemory) -> str:
    """The page of a result that was read from a page: the same bytes, unless the page's form changed.

    Raises ResultError where the page lacks what this version shows.
    """
    try:
        n_pictured, n_listed = (int(each) for each in memory.values["extents"])
        return _page(result, memory, Extents(max(0, n_pictured), max(0, n_listed)))
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise ResultError(
            f"The page lacks something that this version shows ({error}).",
            "Write the page from its run folder, or with the version that made it.",
        ) from error


def _page(result: AuditResult, memory: PageMemory, extents: Extents) -> str:
    memory.values["extents"] = [extents.n_pictured, extents.n_listed]
    content = (
        data_page(result, memory, extents) if result.of_data else model_page(result, memory, extents)
    )
    return rendered(
        "data.html.j2" if result.of_data else "model.html.j2",
        _FILTERS,
        script=None if memory.explorer is None else "explorer.js",
        result=result,
        truth_sentences=truth_sentences(result),
        block=packed(result, memory),
        block_id=BLOCK_ID,
        block_type=BLOCK_TYPE,
        **content,
    )
