"""`shortcut-audit train`: a test subject for audits, from named images and a named architecture."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer

from shortcut_audit.cli.options import parse_size, refuse_nesting
from shortcut_audit.errors import SettingsError, printable
from shortcut_audit.training.settings import TrainSettings, train_settings_from

if TYPE_CHECKING:
    from shortcut_audit.training.observers import EpochRecord, Step
    from shortcut_audit.training.train import TrainingResult

__all__ = ["train"]

_SECONDS_BETWEEN_LOOKS = 0.2


def _setting(field: str, *flags: str, filled_in: bool = False) -> Any:
    """An option whose default and help are those of the setting itself; `filled_in` by the settings."""
    info = TrainSettings.model_fields[field]
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    suffix = f" One of: {', '.join(choices)}." if choices else ""
    default = None if filled_in else info.default
    return typer.Option(default, *flags, help=f"{info.description}{suffix}")


def train(
    model: str = typer.Option(
        ...,
        "--model",
        help="timm:NAME (random weights unless --pretrained), package.module:factory"
        " (path/to/file.py:factory), local-dir:DIR, hf-hub:ORG/NAME, or a weights file with --arch.",
    ),
    data: str = typer.Option(
        ...,
        "--data",
        help="A folder of class folders, FILE.npz (FILE.npz::train), FILE.tar, or a timm reader"
        " (hfds/NAME, tfds/NAME, wds/DIR; NAME::split).",
    ),
    out: Path = typer.Option(
        ..., "--out", help="Folder of the trained model; the same command resumes in it."
    ),
    val: str | None = typer.Option(
        None, "--val", help="Images to validate on after each epoch, as --data; classes go by name."
    ),
    val_share: float = _setting("val_share", "--val-share"),
    images_per_class: int | None = _setting("images_per_class", "--images-per-class"),
    epochs: int = _setting("epochs", "--epochs"),
    batch_size: int = _setting("batch_size", "--batch-size"),
    optimizer: str = _setting("optimizer", "--optimizer"),
    learning_rate: float | None = _setting("learning_rate", "--learning-rate", filled_in=True),
    weight_decay: float | None = _setting("weight_decay", "--weight-decay", filled_in=True),
    warmup_epochs: float | None = _setting("warmup_epochs", "--warmup-epochs", filled_in=True),
    label_smoothing: float = _setting("label_smoothing", "--label-smoothing"),
    pretrained: bool = _setting("pretrained", "--pretrained/--no-pretrained"),
    arch: str | None = typer.Option(
        None, "--arch", help="Architecture of a weights file: a timm name or module:factory."
    ),
    checkpoint: Path | None = typer.Option(
        None, "--checkpoint", help="Weights to start a module:factory from."
    ),
    size: str | None = typer.Option(
        None,
        "--size",
        help="Bring images to N or HxW pixels. [default: their own size for a timm name with random"
        " weights, else the model's]",
    ),
    mean: str | None = typer.Option(
        None,
        "--mean",
        help="Normalisation mean, 1 or C values with commas. [default: the model's own]",
    ),
    std: str | None = typer.Option(
        None, "--std", help="Normalisation standard deviation. [default: the model's own]"
    ),
    flip: bool = _setting("flip", "--flip/--no-flip"),
    crop: str = _setting("crop", "--crop"),
    device: str = _setting("device", "--device"),
    amp: str = _setting("amp", "--amp"),
    channels_last: bool = _setting("channels_last", "--channels-last/--no-channels-last"),
    seed: int = _setting("seed", "--seed"),
    skip_unreadable: bool = _setting("skip_unreadable", "--skip-unreadable"),
    checkpoint_minutes: float = _setting("checkpoint_minutes", "--checkpoint-minutes"),
    restart: bool = typer.Option(
        False, "--restart", help="Give up what an earlier training left in --out."
    ),
) -> None:
    """Train a classifier to audit: a small network, or any timm architecture, on labelled images.

    Flips and crops are off by default, because they break what is known of an image's frequencies.
    """
    settings = train_settings_from(
        {
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "epochs": epochs,
            "batch_size": batch_size,
            "warmup_epochs": warmup_epochs,
            "label_smoothing": label_smoothing,
            "pretrained": pretrained,
            "images_per_class": images_per_class,
            "val_share": val_share,
            "flip": flip,
            "crop": crop,
            "seed": seed,
            "device": device,
            "amp": amp,
            "channels_last": channels_last,
            "skip_unreadable": skip_unreadable,
            "checkpoint_minutes": checkpoint_minutes,
        }
    )
    moments = {"mean": _numbers("mean", mean), "std": _numbers("std", std)}
    pixels = parse_size(size)
    for folder in (data, val):
        if folder is not None:
            refuse_nesting(folder, out)
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("Opening the images and the model ..."):
        from shortcut_audit.data.sources import open_source
        from shortcut_audit.training.subject import ModelChoice
        from shortcut_audit.training.train import TrainRequest, check_training_folder
        from shortcut_audit.training.train import train as train_model

        check_training_folder(out)
        request = TrainRequest(
            model=ModelChoice(spec=model, arch=arch, checkpoint=checkpoint, size=pixels, **moments),
            source=open_source(data),
            val=open_source(val) if val is not None else None,
            settings=settings,
            command=printable(shlex.join(["shortcut-audit", *sys.argv[1:]])),
        )
    with _Display(console) as display:
        result = train_model(request, out, progress=display, restart=restart)
    _say(result)


def _say(result: TrainingResult) -> None:
    from shortcut_audit.report.summary import percent

    last = result.history[-1]
    if result.already_finished:
        typer.echo(f"Already finished: {result.folder} holds the trained model.")
    text = f"After {last.epoch} epochs: loss {last.loss:.3f}, {percent(last.accuracy.value)} of"
    text += f" {last.accuracy.n:,} training images right"
    if last.val_accuracy is not None:
        rate = last.val_accuracy
        text += f", {percent(rate.value)} of {rate.n:,} validation images"
        text += f" (95% interval {100 * rate.low:.1f}–{100 * rate.high:.1f}%)"
    typer.echo(f"{text}.\n\nThe model is in {result.folder}. Audit it:\n  {result.audit_command}")


def _numbers(name: Literal["mean", "std"], text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(
            f"--{name} {text!r} is not a list of numbers.",
            f"For example: --{name} 0.485,0.456,0.406",
        ) from None


class _Display:
    """A bar with loss, accuracy and time left on a terminal; elsewhere a line an epoch."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.reading: Any = None
        self.training: Any = None
        self.epochs = 0
        self.loss: float | None = None
        self.val_said = ""
        self.began = (time.monotonic(), 0)
        self.looked_at = float("-inf")

    def __enter__(self) -> _Display:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def on_image(self, done: int, total: int) -> None:
        if self.reading is None:
            self.reading = self.bar.add_task("reading images", total=total, said="")
        self.bar.update(self.reading, completed=done, said=f"{done:,} of {total:,}")

    def on_note(self, note: str) -> None:
        self.console.print(f"Note: {note}", markup=False, soft_wrap=True)

    def on_start(self, steps_done: int, n_steps: int, epochs: int, epochs_done: int) -> None:
        self.epochs = epochs
        self.began = (time.monotonic(), steps_done)
        self.training = self.bar.add_task("training", total=n_steps, completed=steps_done, said="")
        if steps_done:
            self.on_note(
                f"Going on from the checkpoint: {epochs_done} of {epochs} epochs, {steps_done:,} of"
                f" {n_steps:,} steps are done."
            )

    def on_step(self, step: Step) -> None:
        from shortcut_audit.report.summary import percent

        now = time.monotonic()
        if not self.console.is_terminal or now - self.looked_at < _SECONDS_BETWEEN_LOOKS:
            return
        self.looked_at = now
        value = float(step.loss)
        self.loss = value if self.loss is None else 0.9 * self.loss + 0.1 * value
        said = f"loss {self.loss:.3f}, accuracy {percent(step.accuracy.value)}{self.val_said}"
        self.bar.update(
            self.training,
            completed=step.number,
            description=f"epoch {step.epoch} of {self.epochs}",
            said=f"{said}{self._left(step.number, step.n_steps)}",
        )

    def on_epoch(self, record: EpochRecord) -> None:
        from shortcut_audit.report.summary import percent

        said = f"loss {record.loss:.3f}, accuracy {percent(record.accuracy.value)}"
        if record.val_accuracy is not None:
            self.val_said = f", validation {percent(record.val_accuracy.value)}"
        if not self.console.is_terminal:
            n_steps = round(record.steps / record.epoch * self.epochs)
            left = self._left(record.steps, n_steps)
            line = f"epoch {record.epoch} of {self.epochs}: {said}{self.val_said}{left}"
            self.console.print(line, markup=False, soft_wrap=True)

    def _left(self, step: int, n_steps: int) -> str:
        from shortcut_audit.report.summary import duration

        began, offset = self.began
        if step in (n_steps, offset):
            return ""
        seconds = (time.monotonic() - began) * (n_steps - step) / (step - offset)
        return f", about {duration(seconds)} left"
