from __future__ import annotations

import pytest
from conftest import conv_model, random_images
from routes import audit_by

import shortcut_audit as sa
from shortcut_audit.data.datasets import source_from
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.settings import DataAuditSettings
from shortcut_audit.run.data_audit import DataRequest, run_data_audit

HOSTILE = ["<script>alert(1)</script>", "\"quoted\" & 'so'", "x" * 300, "\u202eright to left", "🦓", ""]


@pytest.fixture(scope="session")
def hostile() -> AuditResult:
    """A result whose class names try to break the page."""
    pairs = random_images(8, len(HOSTILE), (3, 8, 10))
    return sa.audit(conv_model(len(HOSTILE), 3), pairs, class_names=HOSTILE, batch_size=64)


@pytest.fixture(scope="session")
def grey() -> AuditResult:
    """Two classes of grey images of odd size."""
    return sa.audit(conv_model(2, 1), random_images(8, 2, (1, 9, 7), seed=3), batch_size=64, examples=1)


@pytest.fixture(scope="session")
def hostile_data() -> AuditResult:
    """A look at data, without a model, whose class names try to break the page."""
    source = source_from(random_images(8, len(HOSTILE), (3, 8, 10)), HOSTILE)
    return run_data_audit(DataRequest(source=source, settings=DataAuditSettings(), command='data "<b>"'))


@pytest.fixture(scope="session")
def screened() -> AuditResult:
    """Maps that are estimates."""
    return audit_by("screened")


@pytest.fixture(scope="session")
def hierarchical() -> AuditResult:
    """Maps of orbits that were ranked together."""
    return audit_by("hierarchical")


@pytest.fixture(scope="session")
def fine() -> AuditResult:
    """A grid too fine for a page to hold each rank."""
    pairs = random_images(6, 2, (3, 94, 92), seed=5)
    return sa.audit(conv_model(2, 3), pairs, batch_size=64, examples=1)


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have tests of their own, and take most of a page's time."""
    for module in ("model_page", "data_page", "verdict_page", "corruption_page", "transfer_page"):
        for drawing in ("map_bytes", "png_bytes"):
            name = f"shortcut_audit.report.{module}.{drawing}"
            monkeypatch.setattr(name, lambda *_, **__: b"drawn", raising=False)
    for name in (
        "verdict_page.ladder_figure",
        "data_page.data_class_figure",
        "data_page.mean_spectra_figure",
        "corruption_page.drop_figure",
        "corruption_page.prediction_figure",
        "transfer_page.transfer_figure",
        "transfer_page.groups_figure",
    ):
        monkeypatch.setattr(f"shortcut_audit.report.{name}", lambda *_, **__: None)
