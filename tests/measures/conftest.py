"""An audit with the images it used at hand, so that replicas can measure the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from torch import nn

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.pixels import AuditImages, collect_images
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest


@dataclass(frozen=True)
class Audited:
    """A result and the very pixels it was measured on, (n, C, H, W) float64 in [0,1] by class."""

    result: AuditResult
    images: AuditImages

    def search(self, index: int) -> np.ndarray:
        return self.images.store.block(*self.images.search_rows[index]).astype(np.float64)

    def judge(self, index: int) -> np.ndarray:
        return self.images.store.block(*self.images.judge_rows[index]).astype(np.float64)

    @property
    def orbits(self) -> list[frozenset[tuple[int, int]]]:
        """The bins of every orbit, as the replicas name them."""
        height, width = self.result.grid.height, self.result.grid.width
        u, v = self.result.arrays["orbits/u"].tolist(), self.result.arrays["orbits/v"].tolist()
        return [
            frozenset({(a % height, b % width), (-a % height, -b % width)})
            for a, b in zip(u, v, strict=True)
        ]


Run = Callable[..., Audited]


@pytest.fixture
def run_on() -> Run:
    def run(
        network: nn.Module,
        pairs: Any,
        config: dict[str, Any] | None = None,
        class_names: list[str] | None = None,
        **values: Any,
    ) -> Audited:
        settings = settings_from(
            {"dtype": "float64", "batch_size": 37, "search": "exact", "resolution": "orbits", **values}
        )
        source = source_from(pairs, class_names)
        request = AuditRequest(
            model=LoadedModel(network, "test", "test", config),
            source=source,
            settings=settings,
            command="test",
        )
        result = run_audit(request)
        preprocessing = result.provenance.model.preprocessing
        outputs = range(len(source.class_names))
        return Audited(result, collect_images(source, settings, preprocessing, outputs))

    return run
