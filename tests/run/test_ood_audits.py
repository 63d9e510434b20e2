"""Audits that go on to other sets: what is measured anew, what is reused, and what is said of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images
from elsewhere import (
    NAMES,
    Pairs,
    ReadsTwoWaves,
    map_of,
    request_of,
    save_numbered,
    wave_images,
    with_noise,
)
from torch import nn

import shortcut_audit as sa
from shortcut_audit.errors import AuditInterruptedError, DataError, SettingsError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.store import read_state
from shortcut_audit.run.audit import estimate_audit, run_audit

SHAPE = (1, 6, 6)
HOME = random_images(10, 3, SHAPE)
OTHER = random_images(6, 3, SHAPE, 4)
COPIES = with_noise(HOME)


class Counted(nn.Module):
    """A network that counts images."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.append(len(x))
        if sum(SEEN) > MOST[0]:
            raise KeyboardInterrupt
        return self.inner(x)


# What the model was shown, and after how much somebody stops it; no part of the model itself.
SEEN: list[int] = []
MOST = [10**9]


def audited(run: Path | None, ood: dict[str, Pairs], **values: Any) -> tuple[AuditResult, int]:
    """A result, and the images that the model was shown for it."""
    SEEN.clear()
    request = request_of(Counted(), HOME, ood, **values)
    return run_audit(request, run), sum(SEEN)


def cost_of(result: AuditResult, measure: str) -> int:
    return next(cost.image_passes for cost in result.provenance.cost if cost.measure == measure)


def shards_in(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run / "shards").iterdir()}


# What is measured ------------------------------------------------------------------------------------


def test_another_set_added_to_a_finished_run_is_all_that_is_measured(tmp_path: Path) -> None:
    run = tmp_path / "run"
    alone, _ = audited(run, {})
    before = shards_in(run)
    both, n_seen = audited(run, {"other": OTHER})
    _, n_checks = audited(run, {"other": OTHER})
    assert n_seen - n_checks == cost_of(both, "transfer") > 0
    after = shards_in(run)
    assert before.items() < after.items()
    assert alone.transfer is None
    assert both.transfer is not None
    assert both.shortcuts == alone.shortcuts
    fresh, _ = audited(None, {"other": OTHER})
    assert fresh.findings == both.findings
    # A second set behind the first leaves that as it is.
    more, n_seen = audited(run, {"other": OTHER, "copies": COPIES})
    assert n_seen < cost_of(more, "transfer")
    assert more.transfer is not None
    assert more.transfer.by_set[0] == both.transfer.by_set[0]
    fresh, _ = audited(None, {"other": OTHER, "copies": COPIES})
    assert fresh.findings == more.findings


def test_a_changed_image_of_another_set_is_measured_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    audited(run, {"other": OTHER})
    changed = [(image ^ 1, label) for image, label in OTHER]
    again, _ = audited(run, {"other": changed})
    fresh, _ = audited(None, {"other": changed})
    assert again.findings == fresh.findings


def test_labels_of_another_set_that_are_exchanged_are_measured_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    audited(run, {"other": OTHER})
    turned = [(image, (label + 1) % 3) for image, label in OTHER]
    again, _ = audited(run, {"other": turned})
    fresh, _ = audited(None, {"other": turned})
    assert again.findings == fresh.findings


@pytest.mark.parametrize("after", [200, 500])
def test_stopped_on_its_way_through_other_sets_an_audit_goes_on_where_it_was(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ood = tmp_path / "run", {"other": OTHER, "copies": COPIES}
    audited(run, {})
    n_before = len(shards_in(run))
    fresh, _ = audited(None, ood)
    # Put back before the audit is gone on with.
    with monkeypatch.context() as stopping:
        stopping.setattr(sys.modules[__name__], "MOST", [after])
        with pytest.raises(AuditInterruptedError):
            audited(run, ood)
    assert len(shards_in(run)) > n_before
    resumed, n_seen = audited(run, ood)
    assert n_seen < cost_of(resumed, "transfer") + 100
    assert resumed.findings == fresh.findings


@pytest.mark.parametrize("ood", [{"other": OTHER}, {"copies": COPIES, "other": OTHER}])
def test_the_estimate_is_no_less_than_what_it_takes(ood: dict[str, Pairs]) -> None:
    request = request_of(conv_model(3, 1), HOME, ood)
    estimate = estimate_audit(request)
    result = run_audit(request)
    planned, made = estimate.passes_by_measure["transfer"], cost_of(result, "transfer")
    assert made <= planned <= 1.5 * made
    assert estimate.n_images == 30
    assert "transfer" not in estimate_audit(request_of(conv_model(3, 1), HOME, {})).passes_by_measure


def test_classes_that_are_not_searched_serve_as_others_alone() -> None:
    result = run_audit(request_of(conv_model(3, 1), HOME, {"copies": COPIES}, classes=("bee",)))
    assert result.transfer is not None
    (of_set,) = result.transfer.by_set
    assert [item.class_name for item in of_set.by_class] == ["bee"]
    assert of_set.by_class[0].false_calls.n == 10
    assert of_set.accuracy.n == of_set.set.n_used == 15
    whole = run_audit(request_of(conv_model(3, 1), HOME, {"copies": COPIES}))
    assert whole.transfer is not None
    assert whole.transfer.by_set[0].bands == of_set.bands
    assert whole.transfer.by_set[0].by_class[1].recall == of_set.by_class[0].recall


# Killed and resumed ----------------------------------------------------------------------------------

SLOW_MODEL = """
import os, time, torch

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3))

    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return self.inner(x)

def slow():
    torch.manual_seed(0)
    return Slow()
"""


def start(folder: Path, nap: str, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shortcut_audit", "audit", "--search", "exact", "--batch-size", "16"]
    command += ["--model", "slow.py:slow", "--data", "images.npz", "--out", "run"]
    command += ["--mean", "0.5", "--std", "0.25", *more]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "NAP": nap},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def finished(folder: Path, *more: str) -> Path:
    process = start(folder, "0", *more)
    said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return folder / "run"


@pytest.mark.slow
def test_killed_on_its_way_through_other_sets_an_audit_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
        (folder / "slow.py").write_text(SLOW_MODEL)
        save_numbered(folder / "images.npz", HOME, range(30))
        save_numbered(folder / "copies.npz", COPIES, range(30))
        save_numbered(folder / "other.npz", OTHER)
    sets = ("--ood", "copies=copies.npz", "--ood", "other=other.npz")
    expected = finished(whole, *sets)
    finished(stopped)
    n_before = len(shards_in(stopped / "run"))
    process = start(stopped, "0.02", *sets)
    deadline = time.monotonic() + 60
    while len(shards_in(stopped / "run")) < n_before + 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=240)
    assert not (stopped / "run" / "result.json").exists()
    n_killed = len(list((stopped / "run" / "shards").glob("*.safetensors")))
    assert n_before < n_killed < len(list((expected / "shards").glob("*.safetensors")))
    run = finished(stopped, *sets)
    contents = [json.loads((folder / "result.json").read_text()) for folder in (run, expected)]
    for content in contents:
        content.pop("timing")
    assert contents[0] == contents[1]
    assert (run / "arrays.safetensors").read_bytes() == (expected / "arrays.safetensors").read_bytes()
    assert read_state(run)["state"] == "finished"
    assert sorted(path.name for path in (run / "shards").glob("*.safetensors")) == sorted(
        path.name for path in (expected / "shards").glob("*.safetensors")
    )


# From the library ------------------------------------------------------------------------------------

MAP = """
protocol = "Hymenoptera and a cat."
[source]
name = "home"
classes = ["ant", "bee", "cat"]
[target]
name = "away"
classes = ["x", "y", "z"]
[map]
ant = "y"
bee = ["x", "z"]
[dropped.source]
cat = "none there"
"""


def library(**values: Any) -> AuditResult:
    given = {"class_names": NAMES, "batch_size": 64, "search": "exact", **values}
    return sa.audit(conv_model(3, 1), HOME, **given)


def test_sets_are_given_by_name_as_pairs_or_files_with_maps_as_objects_or_files(tmp_path: Path) -> None:
    away = save_numbered(tmp_path / "away.npz", OTHER, names=["x", "y", "z"])
    (tmp_path / "map.toml").write_text(MAP)
    sets: dict[str, Any] = {"copies": COPIES, "file": away, "text": str(away)}
    mapped = map_of({"ant": "y", "bee": ("x", "z")}, NAMES, ["x", "y", "z"])
    result = library(ood=sets, label_maps={"file": tmp_path / "map.toml", "text": mapped})
    assert result.transfer is not None
    copies, of_file, of_text = result.transfer.by_set
    assert [each.set.name for each in result.transfer.by_set] == ["copies", "file", "text"]
    assert copies.set.paired
    assert of_file.set.protocol == "Hymenoptera and a cat."
    assert [item.n_images for item in of_file.by_class] == [6, 12]
    assert of_file.set.left_out == ("cat",)
    assert of_file.by_class == of_text.by_class
    assert of_file.set.digest == of_text.set.digest
    assert copies.set.digest != of_file.set.digest


def test_sets_come_normalised_as_the_audits_own_does() -> None:
    def normalised(pairs: Pairs) -> list[tuple[np.ndarray, int]]:
        return [((image / 255 - 0.5).astype(np.float32) / 0.25, label) for image, label in pairs]

    moments = {"mean": 0.5, "std": 0.25, "dtype": "float64"}
    plain = library(ood={"o": OTHER}, **moments)
    given = {"class_names": NAMES, "batch_size": 64, "search": "exact", **moments}
    other = sa.audit(
        conv_model(3, 1), normalised(HOME), normalized=True, ood={"o": normalised(OTHER)}, **given
    )
    assert plain.transfer is not None
    assert other.transfer is not None
    for one, two in zip(plain.transfer.by_set, other.transfer.by_set, strict=True):
        assert one.accuracy == two.accuracy
        assert [item.recall for item in one.by_class] == [item.recall for item in two.by_class]


def test_a_map_of_no_set_is_refused() -> None:
    with pytest.raises(SettingsError, match="The label map of 'oher' belongs to no set of ood"):
        library(ood={"other": OTHER}, label_maps={"oher": "map.toml"})


def test_a_wrong_set_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        library(ood={"o": [pair for pair in OTHER if pair[1] == 0]}, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# A map that may be wrong -----------------------------------------------------------------------------


def test_a_permuted_map_whose_names_say_nothing_is_asked_about() -> None:
    home, there = wave_images(30), wave_images(20, 3)
    right = map_of({"ant": "x", "bee": "y", "cat": "z"}, NAMES, ["x", "y", "z"])
    wrong = map_of({"ant": "x", "bee": "z", "cat": "y"}, NAMES, ["x", "y", "z"])
    result = run_audit(
        request_of(
            ReadsTwoWaves(),
            home,
            {"right": there, "wrong": there},
            {"right": right, "wrong": wrong},
            names_there=["x", "y", "z"],
        )
    )
    assert result.transfer is not None
    of_right, of_wrong = result.transfer.by_set
    assert of_right.set.notes == ()
    assert of_wrong.set.notes == (
        "100% of the images that stand for “bee” in wrong are called “cat”, and 0% by their class: is the"
        " label map right?",
        "100% of the images that stand for “cat” in wrong are called “bee”, and 0% by their class: is the"
        " label map right?",
    )


def test_a_class_that_is_not_known_at_home_either_says_nothing_of_the_map() -> None:
    """A model that calls everything the same would have every map asked about."""

    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.1, 0.9, 0.2]], dtype=x.dtype).expand(len(x), 3)

    result = run_audit(request_of(Constant(), HOME, {"o": OTHER}))
    assert result.transfer is not None
    assert result.transfer.by_set[0].set.notes == ()
