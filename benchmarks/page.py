"""How large a page is, how long it takes to make and to read back, and when a browser first paints it.

Ten classes at 224 pixels, every one of them a shortcut with its evidence, which is the heaviest a page of
ten classes gets; then a hundred and a thousand classes made of these. The model is linear, its classes
are faint waves over noise like that of photographs. First paint: the browser's own figure (first
contentful paint), offline, median of five openings, each in a context of its own.

    python benchmarks/page.py [--browser /usr/bin/chromium] [--images 40] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from torch import nn

import shortcut_audit as sa
from shortcut_audit.report.html import render, render_again
from shortcut_audit.results.audit_result import AuditResult

SIZE, N_CLASSES = 224, 10
OPENINGS = 5


def waves() -> NDArray[np.float64]:
    """A wave for each class, (N_CLASSES, SIZE, SIZE), of amplitude 1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    generator = np.random.default_rng(7)
    orbits = generator.integers(12, 60, size=(N_CLASSES, 2))
    planes: NDArray[np.float64] = np.stack([np.cos(2 * np.pi * (u * y + v * x)) for u, v in orbits])
    return planes


def noise(generator: np.random.Generator) -> NDArray[np.float64]:
    """An image whose amplitudes fall as those of photographs do, 3 x SIZE x SIZE in 0..255."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    frequency[0, 0] = 1
    white = np.fft.fft2(generator.normal(size=(3, SIZE, SIZE)))
    pink: NDArray[np.float64] = np.fft.ifft2(white / frequency).real
    made: NDArray[np.float64] = 128 + 40 * (pink - pink.mean()) / pink.std()
    return made


def audited(n_images: int) -> AuditResult:
    """An audit of ten classes, each of which hangs on its wave."""
    patterns = waves()
    generator = np.random.default_rng(0)
    pairs = [
        ((noise(generator) + 6 * patterns[label]).clip(0, 255).astype(np.uint8), label)
        for label in range(N_CLASSES)
        for _ in range(n_images)
    ]
    layer = nn.Linear(3 * SIZE * SIZE, N_CLASSES, bias=False)
    with torch.no_grad():
        layer.weight.copy_(
            torch.from_numpy(np.repeat(patterns[:, None], 3, axis=1)).float().flatten(1) / 50
        )
    names = [f"class {number}" for number in range(N_CLASSES)]
    return sa.audit(nn.Sequential(nn.Flatten(), layer), pairs, class_names=names, search="screened")


def repeated(result: AuditResult, n_classes: int) -> AuditResult:
    """The same findings for `n_classes` classes."""
    names = tuple(f"class {number}" for number in range(n_classes))
    times = n_classes // len(result.class_names)

    def again(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            item.model_copy(update={"class_name": name})
            for item, name in zip(items * times, names, strict=True)
        )

    replaced: dict[str, Any] = {
        "shortcuts": result.shortcuts.model_copy(update={"by_class": again(result.shortcuts.by_class)}),
        "dominant_frequencies": result.dominant_frequencies.model_copy(
            update={"by_class": again(result.dominant_frequencies.by_class)}
        ),
        "predictions": result.predictions.model_copy(
            update={"accuracy_by_class": result.predictions.accuracy_by_class * times}
        ),
        "class_spectra": result.class_spectra.model_copy(
            update={
                "n_images_by_class": result.class_spectra.n_images_by_class * times,
                "slope_by_class": result.class_spectra.slope_by_class * times,
            }
        ),
    }
    data = result.provenance.data
    data = data.model_copy(
        update={
            "class_names": names,
            "outputs": tuple(range(n_classes)),
            "n_search_by_class": data.n_search_by_class * times,
            "n_judge_by_class": data.n_judge_by_class * times,
        }
    )
    arrays = {
        name: np.concatenate([array] * times) if array.shape[:1] == (N_CLASSES,) else array
        for name, array in result.arrays.items()
        if name != "shortcuts/evidence"
    }
    arrays["shortcuts/evidence"] = np.concatenate([result.arrays["shortcuts/evidence"]] * times)
    return result.model_copy(
        update={
            "findings": tuple(replaced.get(found.measure, found) for found in result.findings),
            "provenance": result.provenance.model_copy(update={"data": data}),
        }
    ).with_arrays(arrays)


def first_paints(page: Path, browser: str) -> list[float]:
    """Milliseconds to the first contentful paint, one an opening."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(OPENINGS):
            context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 1000})
            opened = context.new_page()
            opened.goto(page.as_uri())
            opened.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
            found.append(
                opened.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            context.close()
        chromium.close()
    return found


def row(result: AuditResult, folder: Path, browser: str | None) -> str:
    """One line of the table."""
    from shortcut_audit.report.embedding import read_page

    page = folder / "page.html"
    start = time.perf_counter()
    text = render(result)
    made = time.perf_counter() - start
    page.write_text(text, encoding="utf-8")
    start = time.perf_counter()
    again = render_again(*read_page(page))
    read = time.perf_counter() - start
    same = "the same bytes" if again == text else "OTHER BYTES"
    paints = [] if browser is None else first_paints(page, browser)
    paint = (
        f"{statistics.median(paints):.0f} ms ({min(paints):.0f}-{max(paints):.0f})"
        if paints
        else "no browser"
    )
    n_evidence = sum(len(item.evidence) for item in result.shortcuts.by_class)
    return (
        f"| {len(result.class_names):,} | {n_evidence} | {text.count('<article')} |"
        f" {len(text.encode()) / 1e6:.2f} MB | {made:.1f} s | {read:.1f} s, {same} | {paint} |"
    )


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = audited(options.images)
    lines = [
        "# The page: size, time, first paint",
        "",
        f"Machine: {machine()}. {SIZE} px, screened maps.",
        "",
        "| classes | with evidence | pictured | size | made in | made again from itself | first paint |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for n_classes in (N_CLASSES, 100, 1000):
            lines.append(row(repeated(result, n_classes), Path(folder), options.browser))
            print(lines[-1], flush=True)
    lines += [
        "",
        "Asked: under 1.5 MB for 10 classes, under 5 MB for 100, never over 10 MB; first paint of 10"
        " classes within a second.",
        "",
    ]
    if options.output is not None:
        options.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
