"""Every figure of a result as files for papers: PNG, SVG or PDF, and an index that says which is what."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shortcut_audit.errors import RunFolderError, SettingsError
from shortcut_audit.report.figures import house_style
from shortcut_audit.report.plots import Plots
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.store import write_bytes

__all__ = ["FORMATS", "INDEX_FILE", "FigureFormat", "figure_formats", "save_figures"]

FigureFormat = Literal["png", "svg", "pdf"]
FORMATS: tuple[FigureFormat, ...] = get_args(FigureFormat)
INDEX_FILE = "index.csv"
# Dots an inch: of PNG, and of the parts of SVG and PDF that are pictures. What journals ask for.
_DPI = 300
_MAX_SLUG = 40
# Nothing of when, and by which version, so that equal results give equal files.
_METADATA: dict[FigureFormat, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class _Drawing:
    """One figure: the start of its file names, what it is, of which class or set, and how it is drawn."""

    stem: str
    figure: str
    class_name: str
    set_name: str
    draw: Callable[[], Axes]


def figure_formats(text: str) -> tuple[FigureFormat, ...]:
    """Formats as they are written, `png,svg`. Raises SettingsError for one that there is not."""
    asked = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [name for name in asked if name not in FORMATS]
    if unknown or not asked:
        what = f"There is no figure format {unknown[0]!r}." if unknown else "No figure format was named."
        raise SettingsError(what, f"Formats are: {', '.join(FORMATS)}.")
    return tuple(name for name in FORMATS if name in asked)


def save_figures(
    result: AuditResult,
    folder: str | Path,
    formats: Sequence[FigureFormat] = ("png",),
    class_names: Sequence[str] | None = None,
) -> list[Path]:
    """Write all figures of `result`, of all its classes or of `class_names`, into `folder`.

    Returns the files, `index.csv` last. Names are made of the class's number in the data and what is
    plain of its name, so that they are safe and stay the same; equal results give equal bytes. Raises
    ResultError for an unknown class, and RunFolderError where files cannot be written.
    """
    target = Path(folder)
    drawings = list(_drawings(result, class_names))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{target} cannot be a folder of figures: {error.strerror or error}.", "Choose another place."
        ) from error
    written: list[Path] = []
    rows: list[tuple[str, ...]] = []
    for drawing in drawings:
        for kind, content in _contents(drawing.draw, formats):
            path = target / f"{drawing.stem}.{kind}"
            write_bytes(path, content)
            written.append(path)
            rows.append((path.name, drawing.figure, drawing.class_name, drawing.set_name, kind))
    write_bytes(target / INDEX_FILE, _index(rows))
    return [*written, target / INDEX_FILE]


def _index(rows: Sequence[tuple[str, ...]]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([("file", "figure", "class", "set", "format"), *rows])
    # Half a surrogate pair, as odd file names leave it, is no text.
    return stream.getvalue().encode("utf-8", "backslashreplace")


def _drawings(result: AuditResult, class_names: Sequence[str] | None) -> Iterator[_Drawing]:
    # No pyplot: files are written where there is a screen as where there is none.
    plots = Plots(result, Figure)
    if class_names is None:
        yield from _of_all_classes(result, plots)
    numbers = {name: number for number, name in enumerate(result.class_names)}
    for name in dict.fromkeys(numbers if class_names is None else class_names):
        figures = plots.figures_of(name)
        stem = f"class-{numbers[name]:04d}" + (f"-{slug}" if (slug := _slug(name)) else "")
        for figure in figures:
            yield _Drawing(f"{stem}-{figure}", figure, name, "", partial(getattr(plots, figure), name))


def _of_all_classes(result: AuditResult, plots: Plots) -> Iterator[_Drawing]:
    if not result.of_data or result.spectrum_probe.results:
        yield _Drawing("overview", "overview", "", "", plots.overview)
    yield _Drawing("spectra", "spectra", "", "", plots.spectra)
    relative = partial(plots.spectra, relative=True)
    yield _Drawing("spectra-relative", "spectra, relative", "", "", relative)
    if result.corruptions is not None:
        yield _Drawing("corruptions", "corruptions", "", "", plots.corruptions)
    for number, item in enumerate(result.transfer.by_set if result.transfer is not None else ()):
        name = item.set.name
        stem = f"set-{number:02d}" + (f"-{slug}" if (slug := _slug(name)) else "")
        yield _Drawing(f"{stem}-transfer", "transfer", "", name, partial(plots.transfer, name))


def _slug(name: str) -> str:
    """What is plain of a name: small letters a to z, digits, hyphens; empty where nothing is."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_MAX_SLUG].strip("-")


def _contents(
    draw: Callable[[], Axes], formats: Sequence[FigureFormat]
) -> Iterator[tuple[FigureFormat, bytes]]:
    """The figure in each format."""
    with house_style(), warnings.catch_warnings():
        # Letters that the font lacks become boxes.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing")
        figure = draw().figure.get_figure(root=True)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        # Everything has its place now; to look for it again takes longer than the picture.
        figure.set_layout_engine("none")
        for kind in formats:
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, dpi=_DPI, metadata=_METADATA[kind])
            yield kind, stream.getvalue()
