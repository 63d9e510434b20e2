"""What a user may choose about a cue-conflict test; without numpy, for the command line's sake."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shortcut_audit.errors import SettingsError

__all__ = ["CueConflictSettings", "cue_settings_from"]


class CueConflictSettings(BaseModel):
    """Everything a user may choose about a cue-conflict test, beside model, images and groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_class: Annotated[
        int | None, Field(ge=1, description="Most images used of each shape class; null takes all.")
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of the choice of images.")] = 0
    device: Annotated[
        str, Field(description="auto (a CUDA GPU where there is one, else the CPU), cpu, cuda, ...")
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"],
        Field(description="Arithmetic of the forward pass; the half types run under autocast."),
    ] = "float32"
    batch_size: Annotated[
        int | None, Field(ge=1, description="Images per forward pass; null takes a usual size that fits.")
    ] = None
    skip_unreadable: Annotated[
        bool, Field(description="Leave unreadable images out, and say so, instead of stopping.")
    ] = False


def cue_settings_from(values: dict[str, Any]) -> CueConflictSettings:
    """Validate `values`. Raises SettingsError with one sentence naming each setting that is wrong."""
    try:
        return CueConflictSettings(**values)
    except ValidationError as error:
        faults = [
            f"{name} (--{name.replace('_', '-')}) was given as {fault['input']!r}:"
            f" {fault['msg'][:1].lower()}{fault['msg'][1:]}"
            for fault in error.errors()
            for name in [str(fault["loc"][0])]
        ]
        raise SettingsError(
            f"These settings do not hold: {'; '.join(faults)}.",
            "See `shortcut-audit cue-conflict --help` for what each one takes.",
        ) from error
