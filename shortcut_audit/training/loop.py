"""The training loop: one state that moves on step by step, and that a checkpoint can hold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from shortcut_audit.errors import AuditError, DataError, LogitsError, ModelError, SettingsError
from shortcut_audit.models.allocator import held_buffers
from shortcut_audit.models.classifier import is_out_of_memory, pick_device, seeded
from shortcut_audit.results.findings import Rate
from shortcut_audit.training.observers import EpochRecord, Observer, Step
from shortcut_audit.training.settings import TrainSettings, train_settings_from

__all__ = ["Images", "Totals", "Training", "fit", "learning_rate_at"]

_AMP_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# On a GPU each look at the loss waits for it; a loss that is no number is noticed this much later.
_STEPS_BETWEEN_LOOKS = 20


class Images(Protocol):
    """Labelled images in any order: uint8 or float tensors (B, C, H, W) by row number."""

    @property
    def labels(self) -> Tensor: ...

    def read(self, rows: NDArray[np.int64]) -> Tensor: ...


@dataclass(frozen=True)
class _TensorImages:
    images: Tensor
    labels: Tensor

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        return self.images[torch.from_numpy(rows)]


def learning_rate_at(step: int, settings: TrainSettings, steps_per_epoch: int) -> float:
    """Learning rate of step number `step`, counted from 0.

    Rises in a straight line over the warm-up, and falls along half a cosine to 0 behind the last
    step (Loshchilov & Hutter, 1608.03983, without restarts).
    """
    n_steps = settings.epochs * steps_per_epoch
    n_warm = min(round(settings.warmup_epochs * steps_per_epoch), n_steps)
    if step < n_warm:
        return settings.learning_rate * (step + 1) / n_warm
    done = (step - n_warm) / max(n_steps - n_warm, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class Totals:
    """Sums over the part of an epoch that is done."""

    n_images: int = 0
    n_right: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0


@dataclass
class Training:
    """A network in training: everything that a step changes, and the steps.

    `images` are trained on; `val` are judged after each epoch. `prepare` stands before the network
    (normalisation), `augment` before that, in training only; both take float pixels.
    """

    network: nn.Module
    images: Images
    settings: TrainSettings
    device: torch.device
    layout: torch.memory_format
    val: Images | None = None
    prepare: nn.Module = field(default_factory=nn.Identity)
    augment: nn.Module | None = None
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    history: list[EpochRecord] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    # Torch's random state in the middle of an epoch, from a checkpoint: of the CPU, and of the GPU.
    random_state: tuple[Tensor, Tensor | None] | None = None

    def __post_init__(self) -> None:
        if len(self.images.labels) == 0:
            raise DataError("There is no image to train on.", "Give labelled images.")
        self.amp = _amp_type(self.settings.amp, self.device)
        self.prepare = self.prepare.to(self.device)
        self.network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.network, self.settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)
        self._pending: list[tuple[int, Tensor]] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches that an epoch is cut into: as few as hold all images, and of equal size (to one
        image), so that no last batch is too small for batch statistics."""
        return -(-len(self.images.labels) // self.settings.batch_size)

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def is_finished(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.n_steps

    def run(
        self,
        observers: Sequence[Observer] = (),
        keep: Callable[[], None] | None = None,
    ) -> None:
        """Take all steps that are left.

        `keep()` is called when a checkpoint is due: after each epoch, and every
        `checkpoint_minutes` within. Torch's random state is left as it was; the network ends in
        eval mode. Raises ModelError when the network fails, and SettingsError when the loss is no
        number any more.
        """
        try:
            with self._running():
                while not self.is_finished:
                    self._epoch(observers, keep)
        finally:
            self.network.eval()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(seeded(self.settings.seed, self.device))
            stack.enter_context(held_buffers(self.device.type))
            if self.device.type == "cuda":
                # The fastest kernels of some layers add up in any order.
                flags = {"enabled": True, "benchmark": False, "deterministic": True}
                stack.enter_context(torch.backends.cudnn.flags(**flags))
            yield

    def _epoch(self, observers: Sequence[Observer], keep: Callable[[], None] | None) -> None:
        epoch, within = divmod(self.step, self.steps_per_epoch)
        # Order and random state follow from seed and epoch alone, so that a training can go on at any
        # epoch's start; within one, torch's state comes from the checkpoint.
        generator = np.random.default_rng([self.settings.seed, epoch])
        order = np.array_split(generator.permutation(len(self.images.labels)), self.steps_per_epoch)
        torch.manual_seed(int(generator.integers(2**63)))
        if within and self.random_state is not None:
            self._set_random_state(*self.random_state)
        if not within:
            self.totals = Totals()
        self.network.train()
        mark = time.monotonic()
        kept_at = mark
        for rows in order[within:]:
            loss = self._take_step(rows, epoch)
            self._tell_step(observers, loss, epoch)
            now = time.monotonic()
            self.totals.seconds += now - mark
            mark = now
            if keep is not None and now - kept_at > self.settings.checkpoint_minutes * 60:
                self._look(epoch)
                if self.step % self.steps_per_epoch:
                    keep()
                kept_at = mark = time.monotonic()
        self._end_epoch(epoch, observers)
        if keep is not None:
            keep()

    def _take_step(self, rows: NDArray[np.int64], epoch: int) -> Tensor:
        rate = learning_rate_at(self.step, self.settings, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = self.images.labels[torch.from_numpy(rows)].to(self.device)
        with _explained(len(rows), self.device):
            inputs = self._inputs(self.images.read(rows), self.augment)
            with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                logits = _require_logits(self.network(inputs), len(rows))
                loss = functional.cross_entropy(
                    logits.float(), labels, label_smoothing=self.settings.label_smoothing
                )
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step += 1
        with torch.no_grad():
            n_right = (logits.argmax(dim=1) == labels).sum()
            loss_sum = loss.detach().double() * len(rows)
            self._pending.append((len(rows), torch.stack([loss_sum, n_right.double()])))
        if self.device.type == "cpu" or len(self._pending) >= _STEPS_BETWEEN_LOOKS:
            self._look(epoch)
        return loss.detach()

    def _look(self, epoch: int) -> None:
        """Add what was not yet looked at to the totals; stop where it is no number."""
        if not self._pending:
            return
        sizes = [size for size, _ in self._pending]
        sums = torch.stack([both for _, both in self._pending]).tolist()
        for size, (loss_sum, n_right) in zip(sizes, sums, strict=True):
            if not math.isfinite(loss_sum):
                raise self._diverged(epoch, "the loss is no number any more")
            self.totals.n_images += size
            self.totals.loss_sum += loss_sum
            self.totals.n_right += round(n_right)
        self._pending.clear()

    def _diverged(self, epoch: int, what: str) -> SettingsError:
        rate = self.settings.learning_rate
        return SettingsError(
            f"The training diverged in epoch {epoch + 1} of {self.settings.epochs}: {what}.",
            f"Try a lower --learning-rate than {rate:g}, such as {rate / 10:g}"
            + (", or --amp off." if self.amp is not None else ", or a longer --warmup-epochs."),
        )

    def _inputs(self, images: Tensor, augment: nn.Module | None) -> Tensor:
        moved = images.to(self.device)
        pixels = moved.float() / 255 if moved.dtype == torch.uint8 else moved
        if augment is not None:
            with torch.no_grad():
                pixels = augment(pixels)
        inputs: Tensor = self.prepare(pixels)
        return inputs.contiguous(memory_format=self.layout)

    def _end_epoch(self, epoch: int, observers: Sequence[Observer]) -> None:
        started = time.monotonic()
        self._look(epoch)
        tensors = [*self.network.parameters(), *self.network.buffers()]
        if not all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point()):
            raise self._diverged(epoch, "weights are no numbers any more")
        val_loss, val_accuracy = (None, None) if self.val is None else self._judge(self.val)
        record = EpochRecord(
            epoch=epoch + 1,
            steps=self.step,
            learning_rate=learning_rate_at(self.step - 1, self.settings, self.steps_per_epoch),
            loss=self.totals.loss_sum / self.totals.n_images,
            accuracy=Rate(hits=self.totals.n_right, n=self.totals.n_images),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
        )
        self.history.append(record)
        self.epoch_seconds.append(self.totals.seconds + time.monotonic() - started)
        with seeded(0, self.device):
            for observer in observers:
                observer.on_epoch(record)

    def _tell_step(self, observers: Sequence[Observer], loss: Tensor, epoch: int) -> None:
        if not observers:
            return
        rate = self.optimizer.param_groups[0]["lr"]
        accuracy = Rate(hits=self.totals.n_right, n=self.totals.n_images)
        step = Step(self.step, self.n_steps, epoch + 1, rate, loss, accuracy, self.answer)
        with seeded(0, self.device):
            for observer in observers:
                observer.on_step(step)

    def _judge(self, images: Images) -> tuple[float, Rate]:
        """Mean loss (no smoothing) and accuracy in eval mode."""
        n_images, n_right, loss_sum = len(images.labels), 0, 0.0
        for start in range(0, n_images, self._eval_batch):
            rows = np.arange(start, min(start + self._eval_batch, n_images))
            labels = images.labels[rows]
            logits = self.answer(images.read(rows))
            loss_sum += float(functional.cross_entropy(logits.double(), labels, reduction="sum"))
            n_right += int((logits.argmax(dim=1) == labels).sum())
        return loss_sum / n_images, Rate(hits=n_right, n=n_images)

    @property
    def _eval_batch(self) -> int:
        return max(self.settings.batch_size, 64)

    def answer(self, images: Tensor) -> Tensor:
        """Logits (B, K) on the CPU, float32, of images as the training was given them; eval mode, no
        gradients, and every module's mode as it was afterwards."""
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        try:
            with torch.no_grad(), _explained(len(images), self.device):
                with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                    parts = [
                        _require_logits(self.network(self._inputs(part, None)), len(part))
                        for part in torch.split(images, self._eval_batch)
                    ]
                return torch.cat([part.float().cpu() for part in parts])
        finally:
            for module, training in modes:
                module.training = training

    def current_random_state(self) -> tuple[Tensor, Tensor | None]:
        """Torch's random state now, for a checkpoint within an epoch."""
        gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return torch.get_rng_state(), gpu

    def _set_random_state(self, cpu: Tensor, gpu: Tensor | None) -> None:
        torch.set_rng_state(cpu)
        if gpu is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(gpu, self.device)


def _amp_type(amp: str, device: torch.device) -> torch.dtype | None:
    """The type to run in under autocast; None for full precision."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if amp == "float16" and device.type == "cpu":
        raise SettingsError("float16 does not run on a CPU.", "Use --amp off (or bfloat16) there.")
    return _AMP_TYPES.get(amp)


def _optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError(
            "The model has no parameter to train.", "Give a torch.nn.Module with trainable weights."
        )
    # Decay pulls norms and biases away from what they should be, and buys nothing there.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)


def _require_logits(answer: Any, n_images: int) -> Tensor:
    if isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) == n_images:
        return answer
    kind = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    raise LogitsError(
        f"In training the model returns {kind}, not logits of shape ({n_images}, classes).",
        "Give a model whose forward returns one (batch, classes) tensor in training too.",
    )


@contextmanager
def _explained(n_images: int, device: torch.device) -> Iterator[None]:
    """What the network, or torch inside it, raises becomes one sentence."""
    try:
        yield
    except AuditError:
        raise
    except Exception as error:  # a user's model may raise anything
        if is_out_of_memory(error):
            raise SettingsError(
                f"Memory ran out while training on {n_images} images at once on {device}.",
                "Try a smaller --batch-size.",
            ) from error
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ModelError(
            f"The model fails on {n_images} image{'' if n_images == 1 else 's'} at once on"
            f" {device}: {reason}.",
            "Check that model and data belong together, and --size and --batch-size.",
        ) from error


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    observers: Sequence[Observer] = (),
    val: tuple[Tensor, Tensor] | None = None,
    **settings: Any,
) -> list[EpochRecord]:
    """Train `network` in place on images in memory, without a file being written.

    `images` (n, C, H, W) float, as the network takes them; `labels` (n,); `val` more of both, judged
    after each epoch. Everything else is a setting (`TrainSettings`): epochs, learning_rate, seed, ...
    Flips and crops stay out unless the settings ask for them. The network is left on the training's
    device in eval mode; torch's global random state is untouched. Returns the record of each epoch.

    Raises SettingsError, DataError and ModelError.
    """
    chosen = train_settings_from(settings)
    for some_images, some_labels in [(images, labels), *([val] if val is not None else [])]:
        if len(some_images) != len(some_labels):
            raise DataError(
                f"There are {len(some_images)} images and {len(some_labels)} labels.",
                "Give one label an image.",
            )
    augment = None
    if chosen.flip or chosen.crop != "none":
        from shortcut_audit.training.augment import augmentation

        augment = augmentation(chosen, images.shape[2], images.shape[3])
    training = Training(
        network=network,
        images=_TensorImages(images, labels),
        settings=chosen,
        device=pick_device(chosen.device),
        layout=torch.channels_last if chosen.channels_last else torch.contiguous_format,
        val=_TensorImages(*val) if val is not None else None,
        augment=augment,
    )
    training.run(observers)
    return training.history
