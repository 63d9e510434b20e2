"""A training from named images and a named model to a folder that an audit loads."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from kornia.enhance import Normalize
from numpy.typing import NDArray

from shortcut_audit.data.pixels import common_shape
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.data.survey import survey
from shortcut_audit.errors import AuditInterruptedError, ResultError, RunFolderError, SettingsError
from shortcut_audit.models.classifier import device_name, pick_device
from shortcut_audit.results.provenance import Preprocessing, installed_versions
from shortcut_audit.results.store import remove_folder, sweep_asides, write_bytes
from shortcut_audit.training.augment import augmentation, augmentation_warnings
from shortcut_audit.training.checkpoints import CHECKPOINT_FILE, require_same, restore, save_checkpoint
from shortcut_audit.training.images import StoredImages, choose_rows, labels_by_name, store_images
from shortcut_audit.training.loop import Training
from shortcut_audit.training.observers import EpochRecord, Observer, Step
from shortcut_audit.training.settings import TrainSettings
from shortcut_audit.training.subject import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelChoice,
    Subject,
    build_subject,
    write_subject,
)

__all__ = ["TRAINING_FILE", "Progress", "TrainRequest", "TrainingResult", "read_training", "train"]

TRAINING_FILE = "training.json"
_KIND, _FORMAT = "shortcut-audit training", 1
# Settings that change no weight: a training may go on under others.
_IDLE_SETTINGS = {"device", "checkpoint_minutes", "skip_unreadable"}


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What to train on what. `val`: images judged after each epoch, classes matched by name."""

    model: ModelChoice
    source: ImageSource
    settings: TrainSettings
    val: ImageSource | None = None
    command: str = "shortcut_audit.training.train.train(...)"


@dataclass(frozen=True)
class TrainingResult:
    """A finished training. `history` holds one record an epoch; `already_finished`: nothing was done
    now, the folder held it all."""

    folder: Path
    history: tuple[EpochRecord, ...]
    notes: tuple[str, ...]
    audit_command: str
    already_finished: bool = False


class Progress(Observer, Protocol):
    """Is told how far a training has come; an observer too."""

    def on_image(self, done: int, total: int) -> None:
        """Images are being read."""
        ...

    def on_note(self, note: str) -> None:
        """Something the user should know before it begins."""
        ...

    def on_start(self, steps_done: int, n_steps: int, epochs: int, epochs_done: int) -> None:
        """The steps begin, at `steps_done` where an earlier run was stopped."""
        ...


class _Silent:
    def on_image(self, done: int, total: int) -> None: ...

    def on_note(self, note: str) -> None: ...

    def on_start(self, steps_done: int, n_steps: int, epochs: int, epochs_done: int) -> None: ...

    def on_step(self, step: Step) -> None: ...

    def on_epoch(self, record: EpochRecord) -> None: ...


def train(
    request: TrainRequest,
    folder: Path,
    *,
    observers: Sequence[Observer] = (),
    progress: Progress | None = None,
    restart: bool = False,
) -> TrainingResult:
    """Train a model and leave it in `folder`, as an audit loads it, with `training.json` beside it.

    The same request on the same folder goes on where it was stopped, and ends with the same weights
    as if it had not been (on a CPU, and the same number of threads). Everything about the input is
    checked before the folder is made. `restart` gives up what an earlier training left there.

    Raises AuditError.
    """
    report: Progress = progress or _Silent()
    check_training_folder(folder)
    prepared = _prepare(request, folder, report)
    state = _State(folder, request, prepared)
    if restart:
        _clear(folder)
    finished = read_training(folder)
    if finished is not None and finished.get("state") == "finished":
        require_same(finished.get("identity", {}), prepared.identity, folder)
        _require_weights(finished, folder)
        return prepared.result(folder, tuple(_history_of(finished, folder)), already_finished=True)
    training = prepared.training
    restore(training, prepared.identity, folder)
    for note in prepared.notes:
        report.on_note(note)
    report.on_start(training.step, training.n_steps, training.settings.epochs, len(training.history))
    with state:
        training.run([report, *observers], keep=state.keep)
        state.finish()
    return prepared.result(folder, tuple(training.history))


@dataclass(frozen=True)
class _Part:
    """Images to train on, or to validate on: rows of a source, labels of each, and their way in."""

    source: ImageSource
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class _Prepared:
    """All that is known before the first step."""

    subject: Subject
    images: StoredImages
    val: StoredImages | None
    training: Training
    identity: dict[str, Any]
    notes: tuple[str, ...]
    audit_data: str

    def result(
        self, folder: Path, history: tuple[EpochRecord, ...], already_finished: bool = False
    ) -> TrainingResult:
        command = self.subject.audit_command(folder, self.audit_data)
        return TrainingResult(folder, history, self.notes, command, already_finished)


def _prepare(request: TrainRequest, folder: Path, report: Progress) -> _Prepared:
    settings, source = request.settings, request.source
    if request.val is not None and settings.val_share > 0:
        raise SettingsError("--val and --val-share both name images to validate on.", "Give one of them.")
    device = pick_device(settings.device)
    class_names = source.class_names
    rows, val_rows = choose_rows(
        source,
        images_per_class=settings.images_per_class,
        val_share=settings.val_share,
        seed=settings.seed,
    )
    val_labels = labels_by_name(request.val, class_names) if request.val is not None else None
    shape = common_shape(source, np.concatenate([rows, val_rows]).tolist())
    subject = build_subject(request.model, settings, len(class_names), shape, device)
    parts = [_Part(source, rows, source.labels[rows], subject.preprocessing)]
    if request.val is not None and val_labels is not None:
        all_rows = np.arange(len(val_labels))
        wanted = subject.preprocessing_for(common_shape(request.val, all_rows.tolist()))
        parts.append(_Part(request.val, all_rows, val_labels, wanted))
    elif len(val_rows):
        parts.append(_Part(source, val_rows, source.labels[val_rows], subject.preprocessing))
    images, val = _stored(parts, class_names, settings, folder, report)
    pre = subject.preprocessing
    training = Training(
        network=subject.network,
        images=images,
        settings=settings,
        device=device,
        layout=subject.layout,
        val=val,
        prepare=Normalize(torch.tensor(pre.mean), torch.tensor(pre.std)),
        augment=augmentation(settings, pre.height, pre.width),
    )
    if val is not None:
        # Images of another size may not fit; better said now than after an epoch.
        training.answer(val.read(np.arange(1)))
    return _Prepared(
        subject=subject,
        images=images,
        val=val,
        training=training,
        identity=_identity(request, subject, images, val),
        notes=(*_notes(request, images, val), *_notes_on_images(parts)),
        audit_data=request.val.spec if request.val is not None else source.spec,
    )


def _stored(
    parts: list[_Part],
    class_names: tuple[str, ...],
    settings: TrainSettings,
    folder: Path,
    report: Progress,
) -> tuple[StoredImages, StoredImages | None]:
    """Decoded images to train on, and to validate on where there is a second part."""
    total = sum(len(part.rows) for part in parts)
    stored: list[StoredImages] = []
    for part in parts:
        before = len(parts[0].rows) if stored else 0

        def on_image(done: int, _: int, before: int = before) -> None:
            report.on_image(before + done, total)

        stored.append(
            store_images(
                part.source,
                part.rows,
                part.labels,
                class_names,
                part.preprocessing,
                skip_unreadable=settings.skip_unreadable,
                folder=_existing_parent(folder),
                on_image=on_image,
            )
        )
    return stored[0], stored[1] if len(stored) > 1 else None


def _existing_parent(folder: Path) -> Path | None:
    """Where a large set's pixels can lie: on the disk meant to take data; /tmp is often memory."""
    return next((each for each in (folder, *folder.absolute().parents) if each.is_dir()), None)


def _identity(
    request: TrainRequest, subject: Subject, images: StoredImages, val: StoredImages | None
) -> dict[str, Any]:
    """All that decides the weights; a training goes on only from a checkpoint of the same."""
    return {
        **request.settings.model_dump(mode="json", exclude=_IDLE_SETTINGS),
        "model": subject.choice.builder,
        "preprocessing": subject.preprocessing.model_dump(mode="json", exclude={"source"}),
        "images": images.digest,
        "validation images": val.digest if val is not None else None,
        "weights before training": subject.digest,
    }


def _notes(request: TrainRequest, images: StoredImages, val: StoredImages | None) -> list[str]:
    settings = request.settings
    notes = augmentation_warnings(settings, request.source.spec)
    empty = [name for name, n in zip(images.class_names, images.n_by_class, strict=True) if n == 0]
    if empty:
        notes.append(
            f"{len(empty)} of {len(images.class_names)} classes have no image to train on"
            f" ({', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}); the model will not know them."
        )
    n_skipped = len(images.skipped) + (len(val.skipped) if val is not None else 0)
    if n_skipped:
        first = [*images.skipped, *(val.skipped if val is not None else ())][0]
        notes.append(f"{n_skipped} unreadable left out, among them {first.image}: {first.reason}.")
    if settings.batch_size > len(images):
        notes.append(
            f"A batch of {settings.batch_size} is more than the {len(images)} images:"
            " each epoch is one step."
        )
    return notes


def _notes_on_images(parts: list[_Part]) -> list[str]:
    """What is out of the ordinary about the files: transparency, rotations, mixed sizes, ..."""
    found = dict.fromkeys(note for part in parts for note in survey(part.source, part.rows.tolist()))
    # Unreadable files are named elsewhere, by those that stumbled over them.
    return [f"{note[:1].upper()}{note[1:]}." for note in found if "cannot be read" not in note]


@dataclass
class _State:
    """Keeps `training.json` and the checkpoint up to date, however the training ends."""

    folder: Path
    request: TrainRequest
    prepared: _Prepared
    made: Path | None = None
    has_kept: bool = field(default=False)

    def __enter__(self) -> _State:
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.made = missing[-1] if missing else None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"{self.folder} cannot be made: {error.strerror or error}.",
                "Choose another --out folder.",
            ) from error
        checkpoint = self.folder / CHECKPOINT_FILE
        self.has_kept = checkpoint.is_file()
        sweep_asides(self.folder, checkpoint.parent)
        try:
            self.write("running")
        except RunFolderError:
            if self.made is not None:
                remove_folder(self.made)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is None:
            return
        training = self.prepared.training
        if isinstance(error, KeyboardInterrupt):
            self.write("interrupted")
            epochs = training.settings.epochs
            where = f"Stopped in epoch {min(len(training.history) + 1, epochs)} of {epochs}"
            if not self.has_kept:
                raise AuditInterruptedError(f"{where}; nothing is kept yet.") from error
            raise AuditInterruptedError(
                f"{where}; the last checkpoint is kept in {self.folder}.",
                "Run the same command again to go on from there.",
            ) from error
        if not self.has_kept and self.made is not None:
            remove_folder(self.made)
            return
        try:
            self.write("failed", reason=str(error))
        except RunFolderError:
            # The disk may be what failed; the first error says so.
            return

    def keep(self) -> None:
        """Write a checkpoint, then what it stands for."""
        save_checkpoint(self.prepared.training, self.prepared.identity, self.folder)
        self.has_kept = True
        self.write("running")

    def finish(self) -> None:
        """Write the model, and only then that there is one; the checkpoint has served its time."""
        sha256 = write_subject(self.prepared.subject, self.prepared.images.class_names, self.folder)
        self.write("finished", sha256=sha256)
        shutil.rmtree((self.folder / CHECKPOINT_FILE).parent, ignore_errors=True)

    def write(self, state: str, reason: str = "", sha256: str | None = None) -> None:
        prepared, training = self.prepared, self.prepared.training
        subject = prepared.subject
        content = {
            "kind": _KIND,
            "format": _FORMAT,
            "state": state,
            **({"reason": reason} if reason else {}),
            "epochs_done": len(training.history),
            "epochs_total": training.settings.epochs,
            "command": self.request.command,
            "audit_command": subject.audit_command(self.folder, prepared.audit_data),
            "model": {
                "spec": subject.choice.spec,
                "arch": subject.choice.arch,
                "architecture": subject.architecture,
                "n_parameters": subject.n_parameters,
                "preprocessing": subject.preprocessing.model_dump(mode="json"),
                "weights_sha256": sha256,
            },
            "data": _described(prepared.images),
            "val": _described(prepared.val) if prepared.val is not None else None,
            "class_names": prepared.images.class_names,
            "settings": training.settings.model_dump(mode="json"),
            "device": device_name(training.device),
            "amp": str(training.amp).removeprefix("torch.") if training.amp is not None else "off",
            "versions": installed_versions(),
            "notes": prepared.notes,
            "identity": prepared.identity,
            "history": [record.model_dump(mode="json") for record in training.history],
            "timing": {
                "epoch_seconds": [round(seconds, 3) for seconds in training.epoch_seconds],
                "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_bytes(self.folder / TRAINING_FILE, (text + "\n").encode())


def _described(images: StoredImages) -> dict[str, Any]:
    return {
        "spec": images.spec,
        "digest": images.digest,
        "n_images": len(images),
        "n_by_class": images.n_by_class,
        "skipped": [skipped.model_dump(mode="json") for skipped in images.skipped],
    }


def read_training(folder: Path) -> dict[str, Any] | None:
    """What `training.json` says; None where the folder holds no training of ours."""
    try:
        content = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("kind") == _KIND else None


def _require_weights(finished: dict[str, Any], folder: Path) -> None:
    """Raise RunFolderError unless the weights are there that a finished training wrote."""
    path = folder / WEIGHTS_FILE
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    if found is None or found != finished.get("model", {}).get("weights_sha256"):
        what = "is missing" if found is None else "was changed since"
        raise RunFolderError(
            f"The training in {folder} is finished, and its {WEIGHTS_FILE} {what}.",
            "Put the file back, or train again with --restart.",
        )


def _history_of(content: dict[str, Any], folder: Path) -> list[EpochRecord]:
    try:
        return [EpochRecord.model_validate(record) for record in content["history"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(
            f"{folder / TRAINING_FILE} is damaged: its history cannot be read.",
            "Train again with --restart.",
        ) from error


def check_training_folder(folder: Path) -> None:
    """Raise RunFolderError unless `folder` is absent, empty or a training of ours."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file, not a folder.", "Choose another --out folder.")
    if not folder.is_dir() or read_training(folder) is not None:
        return
    # A process killed at its very first write leaves a file aside, and nothing else.
    if any(not entry.name.startswith(f".{TRAINING_FILE}.") for entry in folder.iterdir()):
        raise RunFolderError(
            f"{folder} is not empty and holds no training of shortcut-audit.",
            "Choose another --out folder; nothing in this one was touched.",
        )


def _clear(folder: Path) -> None:
    """Remove what a training left in its folder, and nothing else."""
    if read_training(folder) is None:
        return
    shutil.rmtree((folder / CHECKPOINT_FILE).parent, ignore_errors=True)
    for name in (TRAINING_FILE, WEIGHTS_FILE, CONFIG_FILE):
        (folder / name).unlink(missing_ok=True)
