"""The page in a real browser: quiet, without a network, and a map explorer that tells the truth."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judged import SHORTCUT, with_verdicts
from PIL import Image

import shortcut_audit as sa
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.report.compare_page import write_comparison
from shortcut_audit.report.compare_runs import compared_runs, side_of
from shortcut_audit.report.legible import legible
from shortcut_audit.report.verdict_words import by_verdict
from shortcut_audit.results.audit_result import AuditResult

pytestmark = pytest.mark.slow

PAGES = ["hostile", "grey", "hostile_data", "screened", "hierarchical", "fine"]
MODEL_PAGES = [name for name in PAGES if name != "hostile_data"]
REQUIRED = os.environ.get("SHORTCUT_AUDIT_DATA_REQUIRED") == "1"
ROOT = Path(__file__).parents[2]
AXE = ROOT / "build" / "browser" / "node_modules" / "axe-core" / "axe.min.js"


def missing(what: str) -> None:
    """Skip, but where everything has to be there."""
    if REQUIRED:
        pytest.fail(f"no {what}, and here this test may not be skipped")
    pytest.skip(f"no {what}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("browser")
    playwright = pytest.importorskip("playwright.sync_api") if not REQUIRED else None
    if playwright is None:
        import playwright.sync_api as playwright
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visit:
    """A page opened offline, with all that it said and asked for."""

    def __init__(self, chromium: Any, path: Path, **options: Any) -> None:
        self.context = chromium.new_context(
            offline=True, viewport={"width": options.pop("width", 1200), "height": 1000}, **options
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")

    def explorer(self) -> Any:
        """The page, once its explorer is there."""
        self.page.wait_for_selector("#explore:not([hidden])", state="attached")
        return self.page

    def text(self, selector: str) -> str:
        """Text of an element as it stands in the page, not as it is laid out."""
        return str(self.page.text_content(selector))


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    """Every page as a file."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        name: sa.write_report(request.getfixturevalue(name), folder / f"{name}.html") for name in PAGES
    }


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> dict[str, AuditResult]:
    return {name: request.getfixturevalue(name) for name in PAGES}


@pytest.mark.parametrize("which", PAGES)
def test_the_page_is_quiet_asks_for_nothing_and_keeps_every_name(
    which: str, chromium: Any, pages: dict[str, Path], results: dict[str, AuditResult]
) -> None:
    visit = Visit(chromium, pages[which])
    if which in MODEL_PAGES:
        visit.explorer()
    visit.page.wait_for_timeout(300)
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [pages[which].as_uri()]
    text = visit.text("body")
    for name in results[which].class_names:
        assert legible(name) in text
    assert visit.page.locator("article.card").count() == len(results[which].class_names)
    assert visit.page.evaluate("document.querySelectorAll('script:not([type])').length") == (
        1 if which in MODEL_PAGES else 0
    )


def test_the_policy_stops_any_script_but_the_page_s_own(
    chromium: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    text = pages["grey"].read_text(encoding="utf-8")
    tampered = tmp_path / "tampered.html"
    tampered.write_text(text.replace("</main>", "<script>window.ran = true</script></main>"))
    visit = Visit(chromium, tampered)
    assert visit.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in line for line in visit.said)


@pytest.mark.parametrize("which", ["screened", "fine", "grey"])
def test_keys_walk_the_map_and_tell_what_the_result_says(
    which: str, chromium: Any, pages: dict[str, Path], results: dict[str, AuditResult]
) -> None:
    result = results[which]
    first = by_verdict(result)[0].class_name
    row = [item.class_name for item in result.dominant_frequencies.by_class].index(first)
    rank = result.arrays["dominant_frequencies/rank"][row]
    page = Visit(chromium, pages[which]).explorer()
    page.locator("#explore .map").first.focus()
    page.keyboard.press("Home")
    for place in (1, 2, 3):
        orbit = int(np.flatnonzero(rank == place)[0])
        said = page.text_content("#explore-said")
        u, v = (str(int(result.arrays[f"orbits/{axis}"][orbit])).replace("-", "−") for axis in "uv")
        assert f"Wave u {u}, v {v}:" in said
        assert f"rank {place} of" in said
        told = float(re.search(r"importance (−?[\d.e−+]+)", said)[1].replace("−", "-"))  # type: ignore[index]
        assert told == pytest.approx(float(result.importance(first)[orbit]), rel=0.01)
        page.keyboard.press("PageDown")
    page.keyboard.press("Home")
    before = page.text_content("#explore-told")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#explore-told") != before
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#explore-told") == before
    # A pointer does what keys do: the middle of the map is DC.
    page.locator("#explore .map").first.scroll_into_view_if_needed()
    box = page.locator("#explore .map").first.bounding_box()
    grid = result.grid
    x = box["x"] + box["width"] * (grid.width // 2 + 0.5) / grid.width
    y = box["y"] + box["height"] * (grid.height // 2 + 0.5) / grid.height
    page.mouse.move(x, y)
    page.wait_for_function("document.getElementById('explore-told').textContent.startsWith('DC')")


@pytest.mark.parametrize("which", ["screened", "grey", "hostile"])
def test_the_slider_filters_the_example_as_the_audit_does(
    which: str, chromium: Any, pages: dict[str, Path], results: dict[str, AuditResult]
) -> None:
    result = results[which]
    page = Visit(chromium, pages[which]).explorer()
    shown = next(item for item in by_verdict(result) if item.example is not None)
    place = by_verdict(result).index(shown)
    page.select_option("#explore-class", str(place))
    pictures = {}
    for value in (60, 180):
        page.locator("#explore-share").fill(str(value))
        page.wait_for_timeout(400)
        told = page.text_content("#explore-share-told")
        n_kept = int(re.match(r"([\d,]+) orbit", told)[1].replace(",", ""))  # type: ignore[index]
        picture = canvas_pixels(page, "explore-example")
        expected = filtered(result, shown.class_name, n_kept)
        assert np.abs(picture.astype(float) - expected).max() <= 1.5
        pictures[n_kept] = picture
    one, other = pictures.values()
    assert not np.array_equal(one, other)
    if shown.example_steps:
        assert "Measured at" in page.text_content("#explore-example-told")


def canvas_pixels(page: Any, name: str) -> np.ndarray:
    """RGB of a canvas, (H, W, 3)."""
    uri = page.evaluate(f"document.getElementById('{name}').toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.array(picture.convert("RGB"))


def filtered(result: AuditResult, class_name: str, n_kept: int) -> np.ndarray:
    """The class's example with its first `n_kept` orbits and DC, clipped, (H, W, 3) in 0..255."""
    named = [item.class_name for item in result.shortcuts.by_class if item.example is not None]
    pixels = result.arrays["shortcuts/examples"][named.index(class_name)][0].astype(float)
    row = [item.class_name for item in result.dominant_frequencies.by_class].index(class_name)
    rank = result.arrays["dominant_frequencies/rank"][row]
    grid = FrequencyGrid(result.grid.height, result.grid.width)
    plane = np.zeros((grid.height, grid.width))
    for orbit in [0, *np.flatnonzero((rank > 0) & (rank <= n_kept))]:
        plane[grid.u[orbit] % grid.height, grid.v[orbit] % grid.width] = 1
        plane[-grid.u[orbit] % grid.height, -grid.v[orbit] % grid.width] = 1
    left = np.fft.ifft2(np.fft.fft2(pixels) * plane).real.clip(0, 255)
    colours: np.ndarray = np.broadcast_to(left, (3, *left.shape[1:])).transpose(1, 2, 0)
    return colours


def test_two_classes_stand_side_by_side(
    chromium: Any, pages: dict[str, Path], results: dict[str, AuditResult]
) -> None:
    page = Visit(chromium, pages["screened"]).explorer()
    before = canvas_pixels(page, "explore-other")
    page.select_option("#explore-beside", "1")
    other = by_verdict(results["screened"])[1].class_name
    assert f"“{other}”: importance" in page.text_content("#explore-told")
    assert not np.array_equal(canvas_pixels(page, "explore-other"), before)
    page.check("#explore-only")
    assert not np.array_equal(canvas_pixels(page, "explore-other"), before)


@pytest.mark.parametrize("which", PAGES)
def test_without_scripts_every_map_has_a_picture_and_a_table(
    which: str, chromium: Any, pages: dict[str, Path]
) -> None:
    page = Visit(chromium, pages[which], java_script_enabled=False).page
    if which in MODEL_PAGES:
        assert not page.locator("#explore").is_visible()
        assert not page.locator("a[data-explore]").first.is_visible()
    for card in page.locator("article.card").all():
        picture = card.locator("img.wide").last
        assert picture.get_attribute("alt")
        assert picture.bounding_box()["width"] > 200
        assert card.locator("table").count() >= 1


@pytest.mark.parametrize("which", PAGES)
def test_it_prints_with_everything_unfolded(
    which: str, chromium: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    page = Visit(chromium, pages[which]).page
    page.emulate_media(media="print")
    for table in page.locator("article details table").all():
        assert table.bounding_box()["height"] > 0
    printed = page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2


@pytest.mark.parametrize(
    ("width", "dark"), [(1200, False), (320, True)], ids=["wide-light", "phone-dark"]
)
@pytest.mark.parametrize("which", PAGES)
def test_axe_finds_nothing_and_nothing_hangs_over(
    which: str, width: int, dark: bool, chromium: Any, pages: dict[str, Path]
) -> None:
    if not AXE.is_file():
        missing("axe-core in build/browser (npm install --prefix build/browser axe-core)")
    scheme = "dark" if dark else "light"
    visit = Visit(chromium, pages[which], width=width, color_scheme=scheme)
    page = visit.explorer() if which in MODEL_PAGES else visit.page
    no_barriers(page, width)
    shots = ROOT / "build" / "screenshots"
    shots.mkdir(parents=True, exist_ok=True)
    shot = shots / f"{which}-{width}-{scheme}.png"
    page.screenshot(path=shot, full_page=True)
    with Image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 20)
        corner = picture.convert("L").getpixel((0, 0))
    assert colours is None or len(colours) > 500
    assert (corner < 128) == dark


@pytest.mark.parametrize("width", [320, 1200])
def test_a_comparison_is_as_quiet_and_open(
    width: int, chromium: Any, results: dict[str, AuditResult], tmp_path: Path
) -> None:
    if not AXE.is_file():
        missing("axe-core in build/browser (npm install --prefix build/browser axe-core)")
    first = results["hostile"]
    worse = [{**SHORTCUT, "evidence": ()} for _ in first.shortcuts.by_class]
    sides = [side_of(first, "before"), side_of(with_verdicts(first, *worse), "<b>after</b>")]
    path = write_comparison(compared_runs(sides), tmp_path / "compare.html")
    visit = Visit(chromium, path, width=width)
    no_barriers(visit.page, width)
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [path.as_uri()]
    assert "<b>after</b>" in visit.text("body")


def no_barriers(page: Any, width: int) -> None:
    """axe-core has nothing to say, and the page is no wider than its window."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    told = [
        (each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found["violations"]
    ]
    assert told == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
