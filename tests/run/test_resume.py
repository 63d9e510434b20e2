"""Killed equals uninterrupted, and nothing stale is ever reused."""

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
from conftest import conv_model, random_images, save_npz
from torch import nn

import shortcut_audit as sa
from shortcut_audit.errors import AuditInterruptedError, LogitsError, ResultError
from shortcut_audit.measures import interface
from shortcut_audit.results.store import read_state
from shortcut_audit.run.ledger import Ledger

# A model slow enough to be killed in the middle; told by the environment, so that it is no setting.
# Searches go in many rounds where shards are small.
SLOW_MODEL = """
import os, time, torch
from shortcut_audit.measures import interface

interface.PASSES_PER_SHARD = 70

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))

    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return self.inner(x)

def slow():
    torch.manual_seed(0)
    return Slow()
"""


def stable_content(run: Path) -> dict[str, Any]:
    content = json.loads((run / "result.json").read_text())
    content.pop("timing")
    return content


def start(folder: Path, nap: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shortcut_audit", "audit"]
    command += ["--model", "slow.py:slow", "--data", "images.npz", "--out", "run", "--batch-size", "16"]
    command += ["--images-per-class", "12", "--mean", "0.5", "--std", "0.25"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "NAP": nap},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Where the tests run in the background of a shell, Ctrl-C would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def make_input(folder: Path) -> None:
    folder.mkdir()
    (folder / "slow.py").write_text(SLOW_MODEL)
    save_npz(folder / "images.npz", random_images(12, 3, (3, 8, 8)))


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "blow",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_audit_goes_on_and_ends_with_the_same_bytes(
    blow: signal.Signals, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        make_input(folder)
    process = start(whole, "0")
    assert process.wait(60) == 0, process.communicate()
    process.communicate()
    process = start(stopped, "0.05")
    so_far = stopped / "run" / "map-so-far.json"
    wait_for(so_far, process)
    process.send_signal(blow)
    _, message = process.communicate(timeout=240)
    run = stopped / "run"
    assert not (run / "result.json").exists()
    assert not (run / "report.html").exists()
    # What was found so far is there to be looked at, and goes when there is a result.
    assert json.loads(so_far.read_text())["by_class"][0]["n_search"] >= 2
    n_done = len(list((run / "shards").glob("*.safetensors")))
    state = read_state(run)
    assert state is not None
    with pytest.raises(ResultError, match="not finished"):
        sa.load_result(run)
    if blow is not signal.SIGKILL:
        assert process.returncode == 130
        assert state["state"] == "interrupted"
        assert state["shards_done"] == n_done
        assert b"Run the same command again" in message
    process = start(stopped, "0")
    assert process.wait(60) == 0, process.communicate()
    process.communicate()
    assert stable_content(run) == stable_content(whole / "run")
    assert (run / "arrays.safetensors").read_bytes() == (
        whole / "run" / "arrays.safetensors"
    ).read_bytes()
    assert read_state(run)["state"] == "finished"
    assert not list(run.glob("map-so-far*"))
    # A kill may leave a hidden file that was being written aside; it is no shard.
    assert sorted(p.name for p in (run / "shards").glob("*.safetensors")) == sorted(
        p.name for p in (whole / "run" / "shards").glob("*.safetensors")
    )


@pytest.mark.slow
def test_an_audit_killed_while_it_judges_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        make_input(folder)
    process = start(whole, "0")
    assert process.wait(60) == 0, process.communicate()
    process.communicate()
    names = {path.name for path in (whole / "run" / "shards").glob("*.safetensors")}
    run = stopped / "run"
    process = start(stopped, "0.01")
    deadline = time.monotonic() + 120
    # What judges comes last, and is a few shards in each of its rounds.
    while len(list(run.glob("shards/*.safetensors"))) < len(names) - 6:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=240)
    assert not (run / "result.json").exists()
    kept = {path.name for path in (run / "shards").glob("*.safetensors")}
    assert kept < names
    process = start(stopped, "0")
    assert process.wait(60) == 0, process.communicate()
    process.communicate()
    assert stable_content(run) == stable_content(whole / "run")
    assert (run / "arrays.safetensors").read_bytes() == (
        whole / "run" / "arrays.safetensors"
    ).read_bytes()
    assert {path.name for path in (run / "shards").glob("*.safetensors")} == names


class Counted(nn.Module):
    """Counts the images it is shown, outside everything a digest sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.n_seen = np.zeros(1, dtype=int)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_seen[0] += len(x)
        return self.inner(x)


PAIRS = random_images(8, 2, (1, 6, 6))
# Images shown before the audit: grey ones that count the outputs, real ones that look for NaN and for
# answers that change with the batch.
CHECKS = 9


def passes_of(run: Path, network: nn.Module | None = None, pairs: Any = None, **values: Any) -> int:
    """Image passes that a call to `audit` on folder `run` makes."""
    counted = Counted(network or conv_model(2, 1))
    values = {"mean": (0.5,), "std": (0.25,), "batch_size": 16, "examples": 0, **values}
    sa.audit(counted, pairs if pairs is not None else PAIRS, run=run, **values)
    return int(counted.n_seen[0]) - CHECKS


def changed_weight() -> nn.Module:
    network = conv_model(2, 1)
    with torch.no_grad():
        network[0].bias[0] += 1e-6
    return network


def changed_buffer() -> nn.Module:
    network = conv_model(2, 1)
    network[1].running_mean[0] += 1e-6
    return network


def changed_pixel() -> Any:
    pairs = [(image.copy(), label) for image, label in PAIRS]
    for image, _ in pairs:
        image[0, 0, 0] ^= 1
    return pairs


def test_a_finished_audit_is_not_measured_again(tmp_path: Path) -> None:
    assert passes_of(tmp_path / "run") > 0
    assert passes_of(tmp_path / "run") == 0


def test_another_kept_share_or_response_reuses_the_maps(tmp_path: Path) -> None:
    whole = passes_of(tmp_path / "run")
    for change in ({"kept_share": 0.4}, {"response": "cross-entropy"}):
        again = passes_of(tmp_path / "run", **change)
        # Only judgement: 2 maps and 1 clean pass for each of 8 images.
        assert again in (0, 24)
    assert whole > 24


@pytest.mark.parametrize(
    "change",
    [
        {"network": changed_weight()},
        {"network": changed_buffer()},
        {"network": nn.Sequential(*conv_model(2, 1)[:2], nn.GELU(), *conv_model(2, 1)[3:])},
        {"pairs": changed_pixel()},
        {"mean": (0.4,)},
        {"std": (0.3,)},
        {"dtype": "float64"},
        {"size": 7, "pairs": PAIRS},
    ],
    ids=["weight", "buffer", "activation", "pixel", "mean", "std", "dtype", "size"],
)
def test_whatever_changes_a_number_is_measured_anew(change: dict[str, Any], tmp_path: Path) -> None:
    passes_of(tmp_path / "run")
    expected = passes_of(tmp_path / "fresh", **change)
    assert passes_of(tmp_path / "run", **change) == expected > 0


@pytest.mark.parametrize("change", [{"domain": "normalized"}, {"clip": True}])
def test_filter_settings_leave_only_the_unfiltered_predictions(
    change: dict[str, Any], tmp_path: Path
) -> None:
    passes_of(tmp_path / "run")
    expected = passes_of(tmp_path / "fresh", **change)
    assert passes_of(tmp_path / "run", **change) == expected - 16


def test_swapped_labels_are_measured_anew(tmp_path: Path) -> None:
    passes_of(tmp_path / "run")
    swapped = [(image, 1 - label) for image, label in PAIRS]
    expected = passes_of(tmp_path / "fresh", pairs=swapped)
    assert passes_of(tmp_path / "run", pairs=swapped) == expected


def test_another_seed_never_mixes_with_the_first(tmp_path: Path) -> None:
    passes_of(tmp_path / "run")
    sa_after = sa.audit(conv_model(2, 1), PAIRS, run=tmp_path / "run", seed=5, batch_size=16)
    sa_fresh = sa.audit(conv_model(2, 1), PAIRS, run=tmp_path / "fresh", seed=5, batch_size=16)
    for name, array in sa_fresh.arrays.items():
        np.testing.assert_array_equal(sa_after.arrays[name], array)


@pytest.mark.parametrize("how", ["truncate", "flip", "empty"])
def test_a_damaged_shard_is_measured_again(how: str, tmp_path: Path) -> None:
    passes_of(tmp_path / "run")
    before = sa.load_result(tmp_path / "run").arrays
    shard = max((tmp_path / "run" / "shards").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    if how == "flip":
        content[-1] ^= 64
    shard.write_bytes({"truncate": content[: len(content) // 2], "flip": content, "empty": b""}[how])
    assert passes_of(tmp_path / "run") > 0
    after = sa.load_result(tmp_path / "run").arrays
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_model_that_draws_at_random_gives_the_same_after_a_stop(tmp_path: Path) -> None:
    """Dropout left on in eval mode: each shard has its own seed, so order and stops do not matter."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_model(2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.inner(x), 0.3, training=True)

    first = sa.audit(Noisy(), PAIRS, run=tmp_path / "a", batch_size=16)
    for shard in sorted((tmp_path / "a" / "shards").iterdir())[::2]:
        shard.unlink()
    second = sa.audit(Noisy(), PAIRS, run=tmp_path / "a", batch_size=16)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)


class Failing(nn.Module):
    """Works for a number of images, then does what it is told."""

    def __init__(self, after: int, error: BaseException | None) -> None:
        super().__init__()
        self.inner = conv_model(2, 1)
        # Arrays: plain lists on a model are put back as they were after an audit.
        self.left = np.array([after])
        self.error = [error]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left[0] -= len(x)
        if self.left[0] < 0:
            if self.error[0] is not None:
                raise self.error[0]
            return self.inner(x) * torch.nan
        return self.inner(x)


def test_nan_before_anything_is_done_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LogitsError, match="NaN"):
        sa.audit(Failing(4, None), PAIRS, run=tmp_path / "run", batch_size=4)
    assert not (tmp_path / "run").exists()
    with pytest.raises(LogitsError, match="NaN"):
        sa.audit(Failing(CHECKS, None), PAIRS, run=tmp_path / "run", batch_size=4)
    assert not (tmp_path / "run").exists()


def test_nan_later_keeps_what_is_done_and_says_why_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(LogitsError, match="with waves removed"):
        sa.audit(Failing(30, None), PAIRS, run=tmp_path / "run", batch_size=4)
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state["state"] == "failed"
    assert "NaN" in state["reason"]
    assert not (tmp_path / "run" / "result.json").exists()


def test_ctrl_c_without_a_folder_keeps_nothing_and_says_so() -> None:
    with pytest.raises(AuditInterruptedError, match="nothing was kept"):
        sa.audit(Failing(30, KeyboardInterrupt()), PAIRS, batch_size=4)


def test_when_memory_runs_out_the_batch_is_halved_and_the_numbers_stay(tmp_path: Path) -> None:
    class Cramped(nn.Module):
        """Holds five images at most."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_model(2, 1)
            self.largest = np.zeros(1, dtype=int)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory (a stand-in)")
            self.largest[0] = max(self.largest[0], len(x))
            return self.inner(x)

    events: list[tuple[str, int, int]] = []
    network = Cramped()
    cramped = sa.audit(
        network,
        PAIRS,
        batch_size=32,
        progress=lambda stage, done, total: events.append((stage, done, total)),
    )
    roomy = sa.audit(conv_model(2, 1), PAIRS, batch_size=32)
    assert network.largest[0] == 4
    for name, array in roomy.arrays.items():
        np.testing.assert_allclose(cramped.arrays[name], array, atol=1e-5)
    # Passes of a batch that was too large were reported, and taken back.
    assert [e for e in events if e[0] == "measuring"][-1][1] == cramped.image_passes


def test_the_ledger_gives_back_what_was_put_and_nothing_else(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "shards")
    totals = {"a": np.arange(6).reshape(2, 3), "b": np.array([1.5])}
    ledger.put("k" * 64, totals, 0.25)
    entry = ledger.get("k" * 64)
    assert entry is not None
    assert entry.seconds == 0.25
    for name, array in totals.items():
        np.testing.assert_array_equal(entry.totals[name], array)
    assert ledger.get("x" * 64) is None


def test_memory_holds_one_block_whatever_the_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 60)
    largest = []
    for n in (8, 40):
        sizes: list[int] = []
        original = interface.Subject.block

        def block(self: Any, rows: tuple[int, int], sizes: Any = sizes, original: Any = original) -> Any:
            sizes.append(rows[1] - rows[0])
            return original(self, rows)

        monkeypatch.setattr(interface.Subject, "block", block)
        sa.audit(conv_model(2, 1), random_images(n, 2, (1, 6, 6)), batch_size=16)
        monkeypatch.setattr(interface.Subject, "block", original)
        largest.append(max(sizes[:-1]))
    assert largest[0] >= 2
    assert largest[1] <= 20


def test_a_shard_under_another_ones_name_is_measured_again(tmp_path: Path) -> None:
    passes_of(tmp_path / "run")
    before = sa.load_result(tmp_path / "run").arrays
    by_size: dict[int, list[Path]] = {}
    for shard in (tmp_path / "run" / "shards").iterdir():
        by_size.setdefault(shard.stat().st_size, []).append(shard)
    first, second = max(by_size.items(), key=lambda item: (len(item[1]) > 1, item[0]))[1][:2]
    second.write_bytes(first.read_bytes())
    assert passes_of(tmp_path / "run") > 0
    after = sa.load_result(tmp_path / "run").arrays
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_an_example_keeps_its_name_when_images_of_other_classes_go(tmp_path: Path) -> None:
    names = ["a", "b"]
    many = [*PAIRS[:8], *PAIRS[8:]]
    few = [*PAIRS[:4], *PAIRS[8:]]
    options = {"class_names": names, "classes": ("b",), "batch_size": 16}
    sa.audit(conv_model(2, 1), many, run=tmp_path / "run", **options)
    reused = sa.audit(conv_model(2, 1), few, run=tmp_path / "run", **options)
    fresh = sa.audit(conv_model(2, 1), few, **options)
    assert reused.shortcuts == fresh.shortcuts


class Record:
    """A settings object of the user's own."""

    def __init__(self, scale: float) -> None:
        self.scale = scale


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = conv_model(2, 1)
        self.record = Record(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.sin(x * self.record.scale))


def test_a_setting_inside_an_object_of_the_users_own_is_part_of_the_key(tmp_path: Path) -> None:
    first = sa.audit(Scaled(1.0), PAIRS, run=tmp_path / "run", batch_size=16)
    second = sa.audit(Scaled(5.0), PAIRS, run=tmp_path / "run", batch_size=16)
    fresh = sa.audit(Scaled(5.0), PAIRS, batch_size=16)
    assert first.provenance.model.digest != second.provenance.model.digest
    assert second.findings == fresh.findings


def test_an_interrupted_new_audit_does_not_leave_the_old_result_in_its_place(tmp_path: Path) -> None:
    passes_of(tmp_path / "run")
    with pytest.raises(AuditInterruptedError):
        sa.audit(Failing(30, KeyboardInterrupt()), PAIRS, run=tmp_path / "run", batch_size=4)
    with pytest.raises(ResultError, match="not finished"):
        sa.load_result(tmp_path / "run")
