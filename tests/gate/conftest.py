from __future__ import annotations

import pytest
from conftest import conv_model, random_images

import shortcut_audit as sa
from shortcut_audit.results.audit_result import AuditResult


@pytest.fixture(scope="session")
def result() -> AuditResult:
    """An audit of a small network on small images."""
    pairs = random_images(12, 3, (3, 8, 6))
    return sa.audit(conv_model(3, 3), pairs, class_names=["a", "b", "c"], batch_size=64, kept_share=0.2)
