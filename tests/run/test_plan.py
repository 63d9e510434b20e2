"""Keys of shards: who computes an ONNX graph is part of them; and what a stopped search leaves to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import conv_model, random_images

from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import AuditInterruptedError
from shortcut_audit.measures import interface
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.engines.local import run_local
from shortcut_audit.run.plan import Ground, tasks_of
from shortcut_audit.run.prepare import AuditRequest, prepared_audit


def request(spec: str, architecture: str) -> AuditRequest:
    return AuditRequest(
        model=LoadedModel(conv_model(2, 1), spec, architecture, None),
        source=source_from(random_images(12, 2, (1, 6, 6)), None),
        settings=settings_from({"batch_size": 16, "examples": 0, "search": "exact"}),
        command="test",
    )


def keys(spec: str, architecture: str, version: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    versions = {"torch": "1", "onnxruntime": version}
    monkeypatch.setattr("shortcut_audit.run.plan.installed_versions", lambda: versions)
    with prepared_audit(request(spec, architecture), None) as prepared:
        subject = prepared.subject
        ground = Ground(subject.outline, subject.images, prepared.model, "cpu")
        return [task.key for task in tasks_of("search", ground, {})]


@pytest.mark.parametrize(
    ("spec", "architecture", "counts"),
    [
        ("nets/a.onnx", "a", True),
        ("torch.nn.Module (OnnxNetwork)", "OnnxNetwork", True),
        ("timm:resnet18", "resnet18", False),
        ("a.onnx.pt", "small", False),
    ],
)
def test_another_onnxruntime_reuses_nothing_of_an_onnx_model_and_all_of_others(
    spec: str, architecture: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = keys(spec, architecture, "1.20", monkeypatch)
    assert old == keys(spec, architecture, "1.20", monkeypatch)
    new = keys(spec, architecture, "1.21", monkeypatch)
    assert (set(old) & set(new) == set()) == counts
    assert counts or old == new


@pytest.mark.parametrize("late", [True, False])
def test_a_stopped_search_names_the_maps_so_far_where_there_are_any(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 40)
    run = tmp_path / "run"

    def engine(tasks: Any, *rest: Any) -> None:
        if not late or (run / "map-so-far.json").is_file():
            raise KeyboardInterrupt
        run_local(tasks, *rest)

    with pytest.raises(AuditInterruptedError) as stopped:
        run_audit(request("test", "test"), run, engine=engine)
    assert ("map-so-far.json" in stopped.value.next_step) == late
    assert "Run the same command again" in stopped.value.next_step
