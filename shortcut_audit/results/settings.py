"""The settings of an audit: one frozen model for the command line, the library and the schema."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from shortcut_audit.errors import SettingsError
from shortcut_audit.results.shift_names import shift_names

__all__ = [
    "RESPONSES",
    "AuditSettings",
    "Budget",
    "DataAuditSettings",
    "DataDomain",
    "DcPolicy",
    "MapScore",
    "Response",
    "SearchChoice",
    "SearchName",
    "data_settings_from",
    "settings_from",
]

S = TypeVar("S", bound=BaseModel)

Response = Literal["log-odds", "cross-entropy", "squared-logit-change"]
RESPONSES: tuple[Response, ...] = ("log-odds", "cross-entropy", "squared-logit-change")
# What a map ranks by: a response to removing single orbits, or what a joint search makes of them.
MapScore = Literal["log-odds", "cross-entropy", "squared-logit-change", "joint"]
SearchName = Literal["exact", "screened", "hierarchical", "learned"]
SearchChoice = Literal["auto", "exact", "screened", "hierarchical", "learned"]
DcPolicy = Literal["keep", "drop", "rank"]
DataDomain = Literal["pixels", "normalized"]

_BUDGET = re.compile(r"(?P<number>\d+(?:_\d+)*(?:\.\d+)?(?:e\d+)?)\s*(?P<unit>k|M|s|sec|min|h)?")
_PASSES: dict[str | None, float] = {None: 1, "k": 1e3, "M": 1e6}
_UNITS = {**_PASSES, "s": 1, "sec": 1, "min": 60, "h": 3600}


class Budget(BaseModel):
    """What a search may spend: image passes, or seconds of measuring; one of the two is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    passes: Annotated[int | None, Field(gt=0)] = None
    seconds: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Budget:
        if (self.passes is None) == (self.seconds is None):
            raise ValueError("a budget is either image passes or seconds")
        return self

    def __str__(self) -> str:
        return f"{self.passes:,} image passes" if self.passes is not None else f"{self.seconds:g} s"


def _budget_of(value: Any) -> Any:
    """A budget as it is written: 200000, 200k or 2M image passes; 90s, 10min or 2h."""
    if value is None or isinstance(value, dict | Budget):
        return value
    match = _BUDGET.fullmatch(str(value).strip())
    unit = match["unit"] if match else None
    amount = float(match["number"].replace("_", "")) * _UNITS[unit] if match else 0.0
    if not 0 < amount < math.inf:
        raise ValueError("a budget is image passes (200000, 200k, 2M) or time (90s, 10min, 2h)")
    return {"passes": max(1, round(amount))} if unit in _PASSES else {"seconds": amount}


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
        float,
        Field(
            gt=0,
            le=1,
            description="Share of the spectrum a class's map keeps; hierarchical: in the end.",
        ),
    ] = 0.05
    response: Annotated[
        Response,
        Field(description="What removing an orbit is measured by, and orbits are ranked by."),
    ] = "log-odds"
    search: Annotated[
        SearchChoice,
        Field(
            description="How orbits are ranked: every one probed (exact), first order and then races"
            " (screened), masks of patches (hierarchical), a mask by gradient descent (learned); auto"
            " takes exact where it is cheap or the model has no gradient, else screened."
        ),
    ] = "auto"
    budget: Annotated[
        Budget | None,
        BeforeValidator(_budget_of),
        Field(description="Most a search may spend: image passes (200000, 2M) or time (90s, 10min)."),
    ] = None
    resolution: Annotated[
        str,
        Field(
            description="What is ranked: orbits, patches:SIDE, tiles:RINGSxSECTORS; auto takes orbits,"
            " and tiles where a map of orbits would not repeat."
        ),
    ] = "auto"
    confidence: Annotated[
        float,
        Field(
            gt=0.5,
            lt=1,
            description="Races of a screened search end once every orbit is in or out so surely.",
        ),
    ] = 0.9
    patch_sides: Annotated[
        tuple[int, ...] | None,
        Field(description="Hierarchical: side of the patches of each stage, in bins. [default: by size]"),
    ] = None
    candidates: Annotated[
        tuple[int, ...] | None,
        Field(description="Hierarchical: masks tried in each stage. [default: 1000, doubling]"),
    ] = None
    steps: Annotated[int, Field(ge=1, description="Learned: steps of gradient descent.")] = 200
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

    shifts: Annotated[
        tuple[str, ...],
        BeforeValidator(shift_names),
        Field(
            description="Corruptions to judge classes under, NAME:SEVERITIES as in jpeg:1-5,haze; a name"
            " alone has all five severities; all takes every corruption."
        ),
    ] = ()

    @field_validator("patch_sides", "candidates")
    @classmethod
    def _positive(cls, values: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if values is not None and (not values or min(values) < 1):
            raise ValueError("a list of numbers above 0, one a stage")
        return values


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
            f"{_named(fault['loc'])} was given as {fault['input']!r}: {_uncapitalised(fault['msg'])}"
            for fault in error.errors()
        ]
        raise SettingsError(
            f"These settings do not hold: {'; '.join(faults)}.",
            f"See `shortcut-audit {command} --help` for what each one takes.",
        ) from error


def _uncapitalised(message: str) -> str:
    # Only the first letter: 2M image passes are not 2m.
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
