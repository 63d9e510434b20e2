"""The settings of a training: one frozen model for the command line, the library and `training.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shortcut_audit.errors import SettingsError

__all__ = ["Crop", "TrainSettings", "train_settings_from"]

Crop = Literal["none", "shift", "resize"]

# Peak learning rate and weight decay of each optimizer, for weights drawn at random.
_DEFAULTS = {"sgd": (0.1, 5e-4), "adamw": (1e-3, 0.05)}
_WARMUP_SHARE, _MOST_WARMUP_EPOCHS = 0.1, 5.0


class TrainSettings(BaseModel):
    """Everything a user may choose about a training; validated before an image is read.

    `learning_rate`, `weight_decay` and `warmup_epochs` are filled in where they are not given: by
    optimizer (a tenth of the rate with `pretrained`), and a tenth of the epochs, at most 5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    optimizer: Annotated[
        Literal["sgd", "adamw"],
        Field(description="sgd has Nesterov momentum 0.9; adamw suits transformers."),
    ] = "sgd"
    learning_rate: Annotated[
        float,
        Field(
            gt=0,
            description="Highest learning rate, after the warm-up; it then falls along a cosine to 0."
            " [default: 0.1 for sgd, 0.001 for adamw; a tenth with --pretrained]",
        ),
    ] = _DEFAULTS["sgd"][0]
    weight_decay: Annotated[
        float,
        Field(
            ge=0,
            description="Weight decay of kernels; norms and biases have none."
            " [default: 0.0005 for sgd, 0.05 for adamw]",
        ),
    ] = _DEFAULTS["sgd"][1]
    epochs: Annotated[int, Field(ge=1, description="Times that each image is seen.")] = 15
    batch_size: Annotated[
        int, Field(ge=1, description="Images per step, at most; an epoch is cut into equal batches.")
    ] = 64
    warmup_epochs: Annotated[
        float,
        Field(
            ge=0,
            description="Epochs (or a part of one) in which the rate rises from 0."
            " [default: a tenth of all, at most 5]",
        ),
    ] = 1.5
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="Share of each label spread over all classes.")
    ] = 0.0
    pretrained: Annotated[
        bool, Field(description="Start from the published weights of a timm name, with a new head.")
    ] = False
    images_per_class: Annotated[
        int | None,
        Field(ge=1, description="Use this many images of each class, chosen by seed. [default: all]"),
    ] = None
    val_share: Annotated[
        float, Field(ge=0, lt=1, description="Share of each class kept out for validation.")
    ] = 0.0
    flip: Annotated[
        bool, Field(description="Mirror images left to right at random; moves (u, v) to (u, -v).")
    ] = False
    crop: Annotated[
        Crop,
        Field(
            description="Random crops: none, shift (moves phases) or resize (rescales frequencies too)."
        ),
    ] = "none"
    seed: Annotated[
        int, Field(ge=0, lt=2**63, description="Seed of weights, order, choice of images and crops.")
    ] = 0
    device: Annotated[
        str, Field(description="auto (a CUDA GPU where there is one, else the CPU), cpu, cuda, ...")
    ] = "auto"
    amp: Annotated[
        Literal["auto", "off", "bfloat16", "float16"],
        Field(description="Mixed precision; auto: on a GPU in the type it takes best, off on a CPU."),
    ] = "auto"
    channels_last: Annotated[
        bool, Field(description="Memory layout with channels last, where the model bears it.")
    ] = True
    skip_unreadable: Annotated[
        bool, Field(description="Leave unreadable images out, and say so, instead of stopping.")
    ] = False
    checkpoint_minutes: Annotated[
        float, Field(gt=0, description="Minutes between checkpoints within a long epoch.")
    ] = 5.0

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Defaults that hang on other settings; saved settings then say what was used."""
        if not isinstance(values, dict):
            return values
        filled = {name: value for name, value in values.items() if value is not None}
        if filled.get("optimizer", "sgd") in _DEFAULTS:
            rate, decay = _DEFAULTS[filled.get("optimizer", "sgd")]
            filled.setdefault("learning_rate", rate / 10 if filled.get("pretrained") else rate)
            filled.setdefault("weight_decay", decay)
        epochs = filled.get("epochs", cls.model_fields["epochs"].default)
        if isinstance(epochs, int | float):
            warmup = min(round(_WARMUP_SHARE * epochs, 6), _MOST_WARMUP_EPOCHS)
            filled.setdefault("warmup_epochs", max(0.0, warmup))
        return filled

    @model_validator(mode="after")
    def _warm_up_ends(self) -> TrainSettings:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"a warm-up of {self.warmup_epochs:g} epochs outlasts {self.epochs} epochs")
        return self


def train_settings_from(values: dict[str, Any]) -> TrainSettings:
    """Validate `values` into settings; None takes the default.

    Raises SettingsError with one sentence naming each setting that is wrong.
    """
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        faults = [_fault(fault["loc"], fault["input"], fault["msg"]) for fault in error.errors()]
        raise SettingsError(
            f"These settings do not hold: {'; '.join(faults)}.",
            "See `shortcut-audit train --help` for what each one takes.",
        ) from error


def _fault(where: tuple[int | str, ...], given: Any, message: str) -> str:
    said = message.removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    if not where:
        return said
    name = str(where[0])
    option = f" (--{name.replace('_', '-')})" if name in TrainSettings.model_fields else ""
    return f"{name}{option} was given as {given!r}: {said}"
