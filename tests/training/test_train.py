"""A whole training: from named images to a folder, finished once, resumed rightly, refused clearly."""

from __future__ import annotations

import errno
import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images, save_npz
from PIL import Image

from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import (
    AuditError,
    AuditInterruptedError,
    DataError,
    ModelError,
    RunFolderError,
    SettingsError,
)
from shortcut_audit.models.classifier import borrowed
from shortcut_audit.models.loading import ModelRequest, load_model, preprocessing_of
from shortcut_audit.results import store
from shortcut_audit.training.observers import ClassF1, EpochRecord, Step
from shortcut_audit.training.settings import train_settings_from
from shortcut_audit.training.subject import ModelChoice
from shortcut_audit.training.train import (
    TrainingResult,
    TrainRequest,
    check_training_folder,
    read_training,
    train,
)

FACTORY = "shortcut_audit.models.small:small_cnn"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_npz(tmp_path_factory.mktemp("data") / "images.npz", random_images(20, 3, (3, 8, 8)))


class Watcher:
    """Keeps what it is told; interrupts at a step where asked to."""

    def __init__(self, stop_at: int | None = None, error: BaseException | None = None) -> None:
        self.stop_at = stop_at
        self.error = error or KeyboardInterrupt()
        self.notes: list[str] = []
        self.images: list[tuple[int, int]] = []
        self.start: tuple[int, ...] = ()
        self.steps: list[int] = []
        self.records: list[EpochRecord] = []

    def on_image(self, done: int, total: int) -> None:
        self.images.append((done, total))

    def on_note(self, note: str) -> None:
        self.notes.append(note)

    def on_start(self, *counts: int) -> None:
        self.start = counts

    def on_step(self, step: Step) -> None:
        self.steps.append(step.number)
        if step.number == self.stop_at:
            raise self.error

    def on_epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


def run(data: Path | str, out: Path, *, val: Path | str | None = None, **options: Any) -> TrainingResult:
    fields = {"arch", "checkpoint", "size", "mean", "std"}
    call = {"progress", "observers", "restart"}
    choice = ModelChoice(
        spec=options.pop("model", FACTORY), **{k: v for k, v in options.items() if k in fields}
    )
    values = {k: v for k, v in options.items() if k not in fields | call}
    request = TrainRequest(
        model=choice,
        source=open_source(str(data)),
        settings=train_settings_from({"epochs": 3, "batch_size": 16, **values}),
        val=open_source(str(val)) if val is not None else None,
    )
    return train(request, out, **{k: v for k, v in options.items() if k in call})


def stable(out: Path) -> dict[str, Any]:
    content = json.loads((out / "training.json").read_text())
    content.pop("timing")
    content.pop("audit_command")
    return content


def folder_of_images(root: Path, n: int, size: int, names: tuple[str, ...] = ("ant", "bee")) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(n):
            pixels = np.random.default_rng([number, index]).integers(0, 200, (size, size, 3))
            pixels[..., number] += 55
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.mark.parametrize("train_size", [32, 40])
@pytest.mark.parametrize("model", [FACTORY, "timm:test_resnet"])
def test_the_folder_answers_in_an_audit_as_it_did_in_training(
    model: str, train_size: int, tmp_path: Path
) -> None:
    train_on = folder_of_images(tmp_path / "train", 12, train_size)
    judge_on = folder_of_images(tmp_path / "val", 7, 50)
    out = tmp_path / "model"
    result = run(train_on, out, val=judge_on, model=model, size=(32, 32), epochs=2)
    words = shlex.split(result.audit_command)
    options = dict(zip(words[2::2], words[3::2], strict=True))
    loaded = load_model(
        ModelRequest(
            spec=options["--model"],
            checkpoint=Path(options["--checkpoint"]) if "--checkpoint" in options else None,
            n_classes=2,
        )
    )
    pre = preprocessing_of(loaded, (3, 50, 50), size=(32, 32) if "--size" in options else None)
    source = open_source(options["--data"])
    from shortcut_audit.data.pixels import make_transform

    transform = make_transform(pre)
    pixels = np.stack([transform(source.read(i), source.name(i)) for i in range(14)])
    with borrowed(loaded.network, pre, torch.device("cpu"), "float32", 0) as classifier:
        logits = classifier(torch.from_numpy(pixels).float() / 255).clone()
    labels = torch.from_numpy(source.labels)
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    assert result.history[-1].val_loss == pytest.approx(loss, rel=1e-5)
    assert result.history[-1].val_accuracy is not None
    assert result.history[-1].val_accuracy.hits == int((logits.argmax(1) == labels).sum())
    assert options["--out"] == f"{out}-audit"


def test_the_folder_tells_its_story(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "model"
    watcher = Watcher()
    result = run(data, out, val_share=0.2, progress=watcher, seed=3)
    story = json.loads((out / "training.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "training.json"]
    assert story["state"] == "finished"
    assert story["settings"]["seed"] == 3
    assert story["settings"]["learning_rate"] == 0.1
    assert story["data"]["n_by_class"] == [16, 16, 16]
    assert story["val"]["n_by_class"] == [4, 4, 4]
    assert story["class_names"] == ["class0", "class1", "class2"]
    assert story["versions"]["torch"] == torch.__version__.partition("+")[0] or story["versions"]["torch"]
    assert [EpochRecord.model_validate(record) for record in story["history"]] == watcher.records
    assert list(result.history) == watcher.records
    assert len(story["timing"]["epoch_seconds"]) == 3
    assert watcher.start == (0, 9, 3, 0)
    assert watcher.steps == list(range(1, 10))
    assert watcher.images[-1] == (60, 60)
    assert watcher.images == sorted(watcher.images)


def test_a_finished_training_is_not_done_again(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "model")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "model").iterdir()}
    watcher = Watcher()
    again = run(data, tmp_path / "model", progress=watcher)
    assert again.already_finished
    assert not first.already_finished
    assert again.history == first.history
    assert watcher.steps == []
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "model").iterdir()} == before


@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_interrupted_and_resumed_equals_uninterrupted(stop_at: int, data: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options: dict[str, Any] = {"val_share": 0.2, "crop": "shift"}
    run(data, whole, **options)
    with pytest.raises(AuditInterruptedError, match=f"epoch {(stop_at - 1) // 3 + 1} of 3") as caught:
        run(data, stopped, progress=Watcher(stop_at), **options)
    state = read_training(stopped)
    assert state is not None
    assert state["state"] == "interrupted"
    assert state["epochs_done"] == (stop_at - 1) // 3
    assert not (stopped / "model.safetensors").exists()
    if stop_at > 3:
        assert "Run the same command again" in str(caught.value)
    watcher = Watcher()
    run(data, stopped, progress=watcher, **options)
    assert watcher.steps[0] == (stop_at - 1) // 3 * 3 + 1
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert stable(stopped) == stable(whole)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 0.05}, "learning_rate is 0.05 now and was 0.1"),
        ({"epochs": 4}, "epochs is 4 now and was 3"),
        ({"images_per_class": 19}, "images is"),
        ({"model": "shortcut_audit.models.small:medium_cnn"}, "model is"),
        ({"size": (12, 12)}, "preprocessing is"),
        ({"val_share": 0.1}, "val_share is 0.1 now and was 0.0"),
    ],
)
def test_another_training_never_goes_on_in_the_folder(
    changed: dict[str, Any], said: str, finished: bool, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    if finished:
        run(data, out)
    else:
        with pytest.raises(AuditInterruptedError):
            run(data, out, progress=Watcher(6))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match=f"another training.*{said}.*--restart"):
        run(data, out, **changed)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_idle_settings_may_change(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AuditInterruptedError):
        run(data, tmp_path, progress=Watcher(6))
    watcher = Watcher()
    run(data, tmp_path, progress=watcher, checkpoint_minutes=1, device="cpu", skip_unreadable=True)
    assert watcher.steps[0] == 5


def test_restart_gives_up_what_was_there_and_nothing_else(data: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "model", tmp_path / "fresh"
    run(data, out, model="timm:test_resnet", epochs=1)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError):
        run(data, out, restart=True, val=save_one_class(tmp_path), epochs=2)
    assert (out / "model.safetensors").is_file()
    run(data, out, restart=True, epochs=2)
    run(data, fresh, epochs=2)
    assert (out / "model.safetensors").read_bytes() == (fresh / "model.safetensors").read_bytes()
    assert not (out / "config.json").exists()
    assert (out / "notes.txt").read_text() == "mine"


def save_one_class(folder: Path) -> Path:
    return save_npz(folder / "other.npz", random_images(4, 1, (3, 8, 8)), ["zebra"])


def test_weights_that_were_changed_are_noticed(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path)
    with (tmp_path / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(RunFolderError, match=r"model\.safetensors was changed since"):
        run(data, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"model\.safetensors is missing"):
        run(data, tmp_path)


def test_folders_of_others_are_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "training.json").write_text("{}")
    (tmp_path / "file").write_text("x")
    for name, said in (("theirs", "holds no training of shortcut-audit"), ("file", "is a file")):
        for restart in (False, True):
            with pytest.raises(RunFolderError, match=said):
                run(data, tmp_path / name, restart=restart)
    assert (tmp_path / "theirs" / "training.json").read_text() == "{}"
    # What a process leaves that was killed in its first write is no stranger's.
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / ".training.json.x1").write_text("")
    check_training_folder(tmp_path / "ours")


def test_validation_classes_go_by_name(tmp_path: Path) -> None:
    pairs = random_images(20, 3, (3, 8, 8))
    data = save_npz(tmp_path / "a.npz", pairs, ["ant", "bee", "cow"])
    turned = [(image, (label + 1) % 3) for image, label in pairs]
    val = save_npz(tmp_path / "b.npz", turned, ["cow", "ant", "bee"])
    last = run(data, tmp_path / "model", val=val, epochs=6).history[-1]
    assert last.accuracy.value == 1
    assert last.val_accuracy is not None
    assert last.val_accuracy.hits > 48
    with pytest.raises(DataError, match="'zebra', which the training images do not have"):
        run(data, tmp_path / "other", val=save_one_class(tmp_path))
    with pytest.raises(SettingsError, match="--val and --val-share"):
        run(data, tmp_path / "other", val=val, val_share=0.5)
    assert not (tmp_path / "other").exists()


def test_an_observer_sees_pixels_as_the_training_does(data: Path, tmp_path: Path) -> None:
    source = open_source(str(data))
    images = torch.from_numpy(np.stack([source.read(i).transpose(2, 0, 1) for i in range(60)]))
    labels = torch.from_numpy(source.labels)
    observers = [ClassF1(images, labels, 4), ClassF1(images.float() / 255, labels, 4)]
    last = run(data, tmp_path, val=data, epochs=6, observers=observers).history[-1]
    assert observers[0].steps.tolist() == [4, 8, 12, 16, 20, 24]
    np.testing.assert_array_equal(observers[0].f1, observers[1].f1)
    assert last.val_accuracy is not None
    assert (observers[0].f1[-1].min() == 1) == (last.val_accuracy.value == 1)


def test_what_the_user_should_know_is_said(data: Path, tmp_path: Path) -> None:
    pairs = [(image, 2 * label) for image, label in random_images(4, 2, (3, 8, 8))]
    hollow = save_npz(tmp_path / "hollow.npz", pairs, ["ant", "bee", "cow", "doe"])
    watcher = Watcher()
    result = run(hollow, tmp_path / "model", progress=watcher, epochs=1, flip=True)
    assert list(result.notes) == watcher.notes
    text = "\n".join(watcher.notes)
    assert "2 of 4 classes have no image to train on (bee, doe)" in text
    assert "more than the 8 images" in text
    assert "Flips mirror frequencies" in text
    photos = folder_of_images(tmp_path / "photos", 3, 8)
    Image.new("RGBA", (8, 8)).save(photos / "ant" / "clear.png")
    (photos / "bee" / "empty.png").write_bytes(b"")
    watcher = Watcher()
    run(photos, tmp_path / "odd", progress=watcher, epochs=1, skip_unreadable=True)
    text = "\n".join(watcher.notes)
    assert "1 image has transparency" in text
    assert "1 unreadable left out, among them bee/empty.png: it has zero bytes." in text
    assert text.count("empty.png") == 1
    assert "cannot be read" not in text
    watcher = Watcher()
    run(data, tmp_path / "quiet", progress=watcher, epochs=1)
    assert watcher.notes == []


def test_a_training_that_fails_leaves_nothing_it_cannot_go_on_from(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    with pytest.raises(SettingsError, match="diverged in epoch 1 of 3"):
        run(data, out, learning_rate=1e38)
    assert not (tmp_path / "deep").exists()
    with pytest.raises(ModelError, match="broken"):
        run(data, out, progress=Watcher(6, ModelError("broken.")))
    state = read_training(out)
    assert state is not None
    assert state["state"] == "failed"
    assert state["reason"] == "broken."
    run(data, out)
    assert read_training(out)["state"] == "finished"


@pytest.mark.parametrize("n_written", [0, 3])
def test_a_full_disk_ends_in_one_sentence(
    n_written: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    writes = iter(range(100))

    def full(*_: object) -> None:
        if next(writes) >= n_written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(RunFolderError, match="cannot be written: No space left on device") as caught:
        run(data, out)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    if n_written == 0:
        assert not out.exists()
        return
    # Nothing half-written stays, and the training goes on from what was whole.
    assert sorted(path.name for path in out.rglob("*")) == [
        "checkpoint", "state.safetensors", "training.json",
    ]  # fmt: skip
    watcher = Watcher()
    run(data, out, progress=watcher)
    assert watcher.steps[0] == 5


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"device": "cuda:99"}, SettingsError, "cannot be used"),
        ({"amp": "float16"}, SettingsError, "float16 does not run on a CPU"),
        ({"model": "timm:nothing_like_it"}, ModelError, "timm has no model"),
        ({"data": "one.npz"}, DataError, "images of one class only"),
        ({"data": "gone"}, DataError, "does not exist"),
        ({"data": "broken"}, DataError, r"1\.png cannot be read"),
        ({"val_share": 0.001}, DataError, "no image to validate on"),
        ({"val": "broken"}, DataError, r"1\.png cannot be read"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    change: dict[str, Any], kind: type[AuditError], said: str, data: Path, tmp_path: Path
) -> None:
    save_npz(tmp_path / "one.npz", random_images(4, 1, (3, 8, 8)))
    folder_of_images(tmp_path / "broken", 3, 8, ("class0", "class1"))
    (tmp_path / "broken" / "class1" / "1.png").write_bytes(b"")
    options = {k: str(tmp_path / v) if k in {"data", "val"} else v for k, v in change.items()}
    with pytest.raises(kind, match=said) as caught:
        run(options.pop("data", data), tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_validation_images_that_do_not_fit_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def flat(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))\n"
    )
    small, large = (folder_of_images(tmp_path / str(size), 4, size) for size in (8, 12))
    model = f"{tmp_path}/net.py:flat"
    with pytest.raises(ModelError, match="fails on 1 image at once"):
        run(small, tmp_path / "model", val=large, model=model)
    assert not (tmp_path / "model").exists()
    run(small, tmp_path / "model", val=large, model=model, size=(8, 8))
