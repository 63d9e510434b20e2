"""The settings of an audit: one frozen model for the command line, the library and the schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shortcut_audit.errors import SettingsError

__all__ = [
    "RESPONSES",
    "AuditSettings",
    "DataAuditSettings",
    "DataDomain",
    "DcPolicy",
    "Response",
    "data_settings_from",
    "settings_from",
]

S = TypeVar("S", bound=BaseModel)

Response = Literal["log-odds", "cross-entropy", "squared-logit-change"]
RESPONSES: tuple[Response, ...] = ("log-odds", "cross-entropy", "squared-logit-change")
DcPolicy = Literal["keep", "drop", "rank"]
DataDomain = Literal["pixels", "normalized"]


class AuditSettings(BaseModel):
    """Everything a user may choose about an audit; validated before the first forward pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_class: Annotated[
        int, Field(ge=4, description="Images used per class, search and judgement together.")
    ] = 100
    search_share: Annotated[
        float, Field(gt=0, lt=1, description="Share of a class's images that the search sees.")
    ] = 0.5
    kept_share: Annotated[
        float, Field(gt=0, le=1, description="Share of the spectrum a class's map keeps.")
    ] = 0.05
    response: Annotated[
        Response,
        Field(description="What removing an orbit is measured by, and orbits are ranked by."),
    ] = "log-odds"
    dc: Annotated[
        DcPolicy,
        Field(description="DC in filtered images: always kept, always dropped, or ranked."),
    ] = "keep"
    domain: Annotated[
        DataDomain,
        Field(description="Filter pixels in [0,1], or what the model sees after normalisation."),
    ] = "pixels"
    clip: Annotated[bool, Field(description="Clip filtered pixels back to [0,1].")] = False
    classes: Annotated[
        tuple[str, ...] | None,
        Field(description="Classes to search; all of them by default. Others still serve as foreign."),
    ] = None
    seed: Annotated[
        int, Field(ge=0, lt=2**63, description="Seed of the choice of images and splits.")
    ] = 0
    device: Annotated[
        str, Field(description="auto (a CUDA GPU where there is one, else the CPU), cpu, cuda, ...")
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"],
        Field(description="Arithmetic of the forward pass; the half types run under autocast."),
    ] = "float32"
    batch_size: Annotated[
        int | None, Field(ge=1, description="Images per forward pass; null finds the fastest.")
    ] = None
    examples: Annotated[
        int, Field(ge=0, description="Classes whose example images go into the result.")
    ] = 20
    skip_unreadable: Annotated[
        bool, Field(description="Leave unreadable images out, and say so, instead of stopping.")
    ] = False


class DataAuditSettings(BaseModel):
    """Everything a user may choose about a look at the data alone, without a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_class: Annotated[int, Field(ge=4, description="Most images used of each class.")] = 1000
    folds: Annotated[
        int, Field(ge=2, le=50, description="Folds of the cross-validation of the spectrum-only probe.")
    ] = 5
    significance: Annotated[
        float,
        Field(gt=0, lt=0.5, description="Chance of naming any band at all where none is special."),
    ] = 0.01
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of the choice of images and folds.")] = 0
    skip_unreadable: Annotated[
        bool, Field(description="Leave unreadable images out, and say so, instead of stopping.")
    ] = False


def _named(where: tuple[int | str, ...]) -> str:
    """A setting as both the library and the command line call it."""
    name = str(where[0]) if where else "settings"
    known = {*AuditSettings.model_fields, *DataAuditSettings.model_fields}
    return f"{name} (--{name.replace('_', '-')})" if name in known else name


def settings_from(values: dict[str, Any]) -> AuditSettings:
    """Validate `values` into settings of an audit.

    Raises SettingsError with one sentence naming each setting that is wrong.
    """
    return _validated(AuditSettings, values, "audit")


def data_settings_from(values: dict[str, Any]) -> DataAuditSettings:
    """Validate `values` into settings of a look at the data. Raises SettingsError likewise."""
    return _validated(DataAuditSettings, values, "data")


def _validated(kind: type[S], values: dict[str, Any], command: str) -> S:
    try:
        return kind(**values)
    except ValidationError as error:
        faults = [
            f"{_named(fault['loc'])} was given as {fault['input']!r}: {fault['msg'].lower()}"
            for fault in error.errors()
        ]
        raise SettingsError(
            f"These settings do not hold: {'; '.join(faults)}.",
            f"See `shortcut-audit {command} --help` for what each one takes.",
        ) from error
