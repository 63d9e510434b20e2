"""`shortcut-audit train` as users call it: killed, resumed, audited, and given bad input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import run_command
from conftest import random_images, save_npz

import shortcut_audit as sa

FACTORY = "shortcut_audit.models.small:small_cnn"
# A network slow enough to be killed in the middle; told by the environment, so that it is no setting.
SLOW_NETWORK = """
import os, time, torch

class Slow(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.inner = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(0.2),
            torch.nn.Flatten(), torch.nn.Linear(144, num_classes))

    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return self.inner(x)

def slow(num_classes=3):
    return Slow(num_classes)
"""


def start(folder: Path, nap: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "shortcut_audit", "train", "--model", "slow.py:slow"]
    words += ["--data", "images.npz", "--out", "model", "--epochs", "8", "--batch-size", "8"]
    return subprocess.Popen(
        [*words, "--val-share", "0.25"],
        cwd=folder,
        env={**os.environ, "NAP": nap, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in its background has them ignore Ctrl-C, and their children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def make_input(folder: Path) -> Path:
    folder.mkdir()
    (folder / "slow.py").write_text(SLOW_NETWORK)
    save_npz(folder / "images.npz", random_images(16, 3, (3, 8, 8)))
    return folder


def state_of(folder: Path) -> dict[str, object]:
    content = json.loads((folder / "model" / "training.json").read_text())
    content.pop("timing")
    return dict(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was never stopped."""
    folder = make_input(tmp_path_factory.mktemp("trainings") / "whole")
    process = start(folder, "0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "shortcut-audit audit --model slow.py:slow --checkpoint model/model.safetensors" in out
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 8
    assert "loss" in lines[0]
    assert "accuracy" in lines[0]
    assert "validation" in lines[0]
    assert "left" in lines[0]
    return folder


@pytest.mark.parametrize(
    "blow",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    blow: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    folder = make_input(tmp_path / "stopped")
    # Long enough that a busy machine hears the signal before the end.
    process = start(folder, "0.1")
    deadline = time.monotonic() + 90
    while not (folder / "model" / "training.json").is_file() or state_of(folder)["epochs_done"] < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(blow)
    _, err = process.communicate(timeout=240)
    state = state_of(folder)
    assert 2 <= state["epochs_done"] < 8
    assert not (folder / "model" / "model.safetensors").exists()
    if blow is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert state["state"] == "running"
    else:
        assert process.returncode == 130
        assert state["state"] == "interrupted"
        assert "Run the same command again" in err
    process = start(folder, "0")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"Going on from the checkpoint: {state['epochs_done']} of 8 epochs" in err
    weights = (folder / "model" / "model.safetensors").read_bytes()
    assert weights == (whole / "model" / "model.safetensors").read_bytes()
    assert state_of(folder) == state_of(whole)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Trainings of these tests are tiny: a second thread would only wait for the first.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "images.npz", random_images(16, 3, (3, 8, 8)), ["ant", "bee", "cow"])


@pytest.mark.parametrize("model", ["timm:test_resnet", pytest.param(FACTORY, marks=pytest.mark.slow)])
def test_the_printed_command_audits_what_was_trained(
    model: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "my model"
    words = ["train", "--model", model, "--data", data, "--out", out, "--epochs", "6", "--size", "8"]
    words += ["--batch-size", "16", "--val", data]
    assert run_command(*words, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    command = next(line for line in printed.splitlines() if line.startswith("  shortcut-audit audit"))
    assert "validation images (95% interval" in printed
    assert run_command(*shlex.split(command)[1:], monkeypatch=monkeypatch) == 0
    result = sa.load_result(Path(f"{out}-audit"))
    history = json.loads((out / "training.json").read_text())["history"]
    assert result.predictions.accuracy.hits == history[-1]["val_accuracy"]["hits"]
    assert result.predictions.accuracy.n == 48
    assert run_command(*words, monkeypatch=monkeypatch) == 0
    assert "Already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "0"], "epochs (--epochs) was given as 0"),
        (["--learning-rate", "0"], "learning_rate (--learning-rate) was given as 0.0"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--learning-rate", "1e38", "--batch-size", "8"], "diverged in epoch 1 of 15"),
        (["--batch-size", "0"], "batch_size"),
        (["--optimizer", "adam"], "optimizer"),
        (["--crop", "yes"], "crop"),
        (["--size", "big"], "--size 'big' is not a size"),
        (["--mean", "grey"], "--mean 'grey' is not a list of numbers"),
        (["--std", "0"], "not positive"),
        (["--device", "tpu9"], "Device 'tpu9' cannot be used"),
        (["--val", "gone.npz"], "gone.npz does not exist"),
        (["--model", "timm:resnet_unheard_of"], "timm has no model"),
        (["--model", f"{FACTORY}y"], "has no function"),
        (["--checkpoint", "gone.pt"], "gone.pt does not exist"),
        (["--pretrained"], "--pretrained goes with a timm name"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    words: list[str],
    said: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "deep" / "model"
    own = [] if "--model" in words else ["--model", FACTORY]
    own += ["--data", str(data), "--out", str(out)]
    assert run_command("train", *own, *words, monkeypatch=monkeypatch) == 2
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if line.startswith("error[")]) == 1
    assert not (tmp_path / "deep").exists()


def test_a_model_is_not_written_among_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    words = ["--data", tmp_path / "photos", "--out", tmp_path / "photos" / "model"]
    assert run_command("train", "--model", FACTORY, *words, monkeypatch=monkeypatch) == 2
    assert "would be taken for a class" in capsys.readouterr().err


def test_warnings_are_said_before_the_first_epoch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", data, "--out", tmp_path / "m", "--epochs", "1", "--flip", "--crop", "resize"]
    assert run_command("train", "--model", FACTORY, *words, monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().err
    assert text.index("Note: Flips mirror frequencies") < text.index("epoch 1 of 1")
    assert "Crops that are resized rescale frequencies" in text


def test_on_a_terminal_there_is_a_bar_with_loss_accuracy_and_time_left(data: Path) -> None:
    from rich.console import Console

    from shortcut_audit.cli.train import _Display
    from shortcut_audit.results.findings import Rate
    from shortcut_audit.training.observers import EpochRecord, Step

    console = Console(force_terminal=True, width=120, record=True, file=open(os.devnull, "w"))  # noqa
    with _Display(console) as display:
        display.on_image(3, 10)
        display.on_start(0, 20, 2, 0)
        record = EpochRecord(
            epoch=1, steps=10, learning_rate=0.1, loss=0.5, accuracy=Rate(hits=1, n=2),
            val_accuracy=Rate(hits=1, n=4),
        )  # fmt: skip
        display.on_epoch(record)
        display.on_step(
            Step(11, 20, 2, 0.1, torch.tensor(1.25), Rate(hits=3, n=5), lambda images: images)
        )
        said = display.bar.tasks[-1]
        assert said.completed == 11
        assert said.description == "epoch 2 of 2"
        assert said.fields["said"].startswith("loss 1.250, accuracy 60.0%, validation 25.0%, about ")
    console.file.close()
