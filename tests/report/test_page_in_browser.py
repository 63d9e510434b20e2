"""The page in a real browser: it loads without a network, without errors, and shows its pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import shortcut_audit as sa
from shortcut_audit.results.audit_result import AuditResult

pytestmark = pytest.mark.slow

# No background traffic of the browser's own; every host name fails to resolve.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


def browse(page: Path, scratch: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    browser = (
        shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    if browser is None:
        if os.environ.get("SHORTCUT_AUDIT_DATA_REQUIRED") == "1":
            pytest.fail("no browser, and here this test may not be skipped")
        pytest.skip("no browser")
    return subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={scratch / 'profile'}", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize("which", ["hostile", "grey", "hostile_data", "screened", "hierarchical"])
def test_the_page_loads_quietly_and_keeps_every_name(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    result: AuditResult = request.getfixturevalue(which)
    page = sa.write_report(result, tmp_path / "report.html")
    seen = browse(page, tmp_path, "--dump-dom")
    console = [line for line in seen.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    assert "<script>" not in seen.stdout
    assert seen.stdout.count("<article") == len(result.class_names)


@pytest.mark.parametrize("which", ["grey", "hostile_data"])
@pytest.mark.parametrize("width", [320, 1200])
def test_a_screenshot_is_no_blank_sheet(
    width: int, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page = sa.write_report(request.getfixturevalue(which), tmp_path / "report.html")
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--screenshot={shot}", f"--window-size={width},1600")
    with Image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 500
