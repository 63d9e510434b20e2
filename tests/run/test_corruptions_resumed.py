"""An audit under corruptions that is killed goes on, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images, save_npz
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import AuditInterruptedError
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.models.small import small_cnn
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.store import read_state
from shortcut_audit.run.audit import estimate_audit, run_audit
from shortcut_audit.run.prepare import AuditRequest

# Slow enough to be killed in the middle; told by the environment, so that it is no setting.
SLOW_MODEL = """
import os, time, torch

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))

    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return self.inner(x)

def slow():
    torch.manual_seed(0)
    return Slow()
"""


def stable_content(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    content.pop("timing")
    return content


def start(folder: Path, nap: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shortcut_audit", "audit"]
    command += ["--model", "slow.py:slow", "--data", "images.npz", "--out", "run", "--batch-size", "16"]
    command += ["--images-per-class", "8", "--mean", "0.5", "--std", "0.25", "--search", "hierarchical"]
    command += ["--patch-sides", "4", "--candidates", "4", "--shift", "jpeg:4-5,gaussian-noise:2"]
    command += ["--shift", "haze:3"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "NAP": nap},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def make_input(folder: Path) -> None:
    folder.mkdir()
    (folder / "slow.py").write_text(SLOW_MODEL)
    save_npz(folder / "images.npz", random_images(12, 3, (3, 8, 8)))


def finish(process: subprocess.Popen[bytes]) -> None:
    output = process.communicate(timeout=120)
    assert process.returncode == 0, output


@pytest.mark.slow
def test_killed_while_images_are_corrupted_it_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        make_input(folder)
    finish(start(whole, "0"))
    names = {path.name for path in (whole / "run" / "shards").glob("*.safetensors")}
    run = stopped / "run"
    process = start(stopped, "0.03")
    deadline = time.monotonic() + 120
    # Of three classes under three corruptions, some are done.
    while len(list(run.glob("shards/*.safetensors"))) < len(names) - 6:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=240)
    assert not (run / "result.json").exists()
    assert {path.name for path in (run / "shards").glob("*.safetensors")} < names
    finish(start(stopped, "0"))
    assert stable_content(run) == stable_content(whole / "run")
    arrays = [folder / "run" / "arrays.safetensors" for folder in (stopped, whole)]
    assert arrays[0].read_bytes() == arrays[1].read_bytes()
    finding = sa.load_result(run).corruptions
    assert finding is not None
    assert [str(shift) for shift in finding.shifts] == ["jpeg-4", "jpeg-5", "gaussian_noise-2", "haze-3"]


class Stopping(nn.Module):
    """Works for a number of images, and is then interrupted; the number is no part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model(2, 1)
        self.n_seen = np.zeros(1, dtype=int)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_seen[0] += len(x)
        if self.n_seen[0] > int(os.environ.get("STOP_AFTER", "1000000")):
            raise KeyboardInterrupt
        return self.inner(x)


def test_stopped_while_images_are_corrupted_it_does_the_rest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = random_images(10, 2, (1, 6, 6))
    options: dict[str, Any] = {"shifts": "jpeg:1-3,contrast:2,haze:5", "batch_size": 4, "examples": 0}
    before = sa.audit(Stopping(), pairs, batch_size=4, examples=0, run=tmp_path / "run")
    n_before = sum(cost.image_passes for cost in before.provenance.cost)
    fresh = sa.audit(Stopping(), pairs, **options)
    # 9 images look at the model, 10 are as they are; of the 50 corrupted ones the first are done.
    monkeypatch.setenv("STOP_AFTER", str(9 + 10 + 23))
    with pytest.raises(AuditInterruptedError):
        sa.audit(Stopping(), pairs, run=tmp_path / "run", **options)
    state = read_state(tmp_path / "run")
    assert state is not None
    assert n_before + 10 < state["image_passes_done"] < n_before + 60
    monkeypatch.delenv("STOP_AFTER")
    model = Stopping()
    result = sa.audit(model, pairs, run=tmp_path / "run", **options)
    assert 0 < int(model.n_seen[0]) - 9 < 50
    assert result.findings == fresh.findings
    for name, array in fresh.arrays.items():
        np.testing.assert_array_equal(result.arrays[name], array)


@pytest.mark.parametrize("shifts", [(), "jpeg:1-3,elastic:2", "all:1"])
def test_what_is_planned_is_what_is_done(shifts: Any) -> None:
    def request() -> AuditRequest:
        return AuditRequest(
            model=LoadedModel(small_cnn(2, 1), "test", "test", None),
            source=source_from(random_images(8, 2, (1, 8, 8)), None),
            settings=settings_from({"batch_size": 16, "search": "exact", "shifts": shifts}),
            command="test",
        )

    # No colour to saturate, and at 8 pixels no wave in the lowest band.
    n_shifts = {(): -1, "all:1": 15}.get(shifts, 4)
    planned = estimate_audit(request()).passes_by_measure
    made = {each.measure: each.image_passes for each in run_audit(request()).provenance.cost}
    assert planned.get("corruptions", 0) == made.get("corruptions", 0) == 8 * (n_shifts + 1)
