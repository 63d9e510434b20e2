"""What a model goes by where shape and texture disagree: counts by class, and the rates that follow."""

from __future__ import annotations

import csv
import io
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, computed_field, model_validator

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import SkippedImage
from shortcut_audit.results.counts import Frozen, Rate
from shortcut_audit.results.cue_settings import CueConflictSettings
from shortcut_audit.results.provenance import ModelProvenance, Timing
from shortcut_audit.results.store import REPORT_FILE, claim_folder, write_bytes, write_state

__all__ = [
    "CUE_CONFLICT_FILE",
    "TABLE_FILE",
    "CueClass",
    "CueConflictResult",
    "CueCounts",
    "CueData",
    "CueGroup",
    "DroppedCueClass",
    "ExactRate",
    "LeftOut",
    "left_out_text",
    "load_cue_conflict",
    "save_cue_conflict",
]

# What its folder is said to hold.
_OF = "cue conflict"
CUE_CONFLICT_FILE = "cue_conflict.json"
TABLE_FILE = "cue_conflict.csv"
_FORMAT: Literal[1] = 1
_LEVEL = 0.05
# An interval within this of one half says that shape and texture weigh about the same.
_NEAR_HALF = 0.1
_DERIVED = {"shape_bias", "accuracy", "p_value"}


class ExactRate(Rate):
    """A share of images with its exact 95% interval (Clopper and Pearson, 1934).

    It belongs to the exact test against one half: both ask the binomial distribution itself.
    """

    @cached_property
    def _interval(self) -> tuple[float, float]:
        if self.n == 0:
            return 0.0, 1.0
        from scipy.stats import binomtest

        interval = binomtest(self.hits, self.n).proportion_ci(confidence_level=0.95, method="exact")
        return float(interval.low), float(interval.high)


class CueCounts(Frozen):
    """Images by what the model called them: their shape's class, their texture's, or neither."""

    n_shape: Annotated[int, Field(ge=0)] = 0
    n_texture: Annotated[int, Field(ge=0)] = 0
    n_neither: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _drop_derived(cls, data: Any) -> Any:
        """Derived numbers are written for readers of the JSON, and derived again on reading."""
        if isinstance(data, dict):
            return {key: data[key] for key in data if key not in _DERIVED}
        return data

    def __add__(self, other: CueCounts) -> CueCounts:
        return CueCounts(
            n_shape=self.n_shape + other.n_shape,
            n_texture=self.n_texture + other.n_texture,
            n_neither=self.n_neither + other.n_neither,
        )

    @property
    def n(self) -> int:
        """All images."""
        return self.n_either + self.n_neither

    @property
    def n_either(self) -> int:
        """Images called by their shape or by their texture."""
        return self.n_shape + self.n_texture

    @computed_field  # type: ignore[prop-decorator]
    @property
    def shape_bias(self) -> ExactRate:
        """n_shape / (n_shape + n_texture) (Geirhos et al., 2019)."""
        return ExactRate(hits=self.n_shape, n=self.n_either)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def accuracy(self) -> ExactRate:
        """Images called by their shape, among all."""
        return ExactRate(hits=self.n_shape, n=self.n)

    @property
    def neither(self) -> ExactRate:
        """Images called by neither, among all."""
        return ExactRate(hits=self.n_neither, n=self.n)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def p_value(self) -> float | None:
        """Of a shape bias of one half: exact binomial test, two-sided; None without such images."""
        if self.n_either == 0:
            return None
        from scipy.stats import binomtest

        return float(binomtest(self.n_shape, self.n_either, 0.5).pvalue)


class CueClass(Frozen):
    """Images whose shape is of one class.

    `among_groups`: the answer is the group with the largest mean probability; `among_all`: it is the
    model's single largest output, which may belong to no group (counted as neither).
    """

    class_name: str
    among_groups: CueCounts
    among_all: CueCounts


class CueGroup(Frozen):
    """Outputs of the model that stand for a class, and what the images call it.

    `outputs` count from 0; `output_names` are empty where nobody says them. `classes`: the classes of the
    images that count as this one, mostly one of its name.
    """

    name: str
    outputs: Annotated[tuple[int, ...], Field(min_length=1)]
    output_names: tuple[str, ...] = ()
    classes: Annotated[tuple[str, ...], Field(min_length=1)]


class DroppedCueClass(Frozen):
    """A class of the images that no group stands for. An image may count as shape and as texture."""

    class_name: str
    reason: str
    n_shape: Annotated[int, Field(ge=0)]
    n_texture: Annotated[int, Field(ge=0)]


class LeftOut(Frozen):
    """Images that were not used, each counted once.

    `unmapped`: shape or texture of no group; `same_class`: both of one; `not_drawn`: beyond
    `images_per_class`; `unreadable`.
    """

    unmapped: Annotated[int, Field(ge=0)] = 0
    same_class: Annotated[int, Field(ge=0)] = 0
    not_drawn: Annotated[int, Field(ge=0)] = 0
    unreadable: Annotated[int, Field(ge=0)] = 0

    @property
    def n(self) -> int:
        """All of them."""
        return self.unmapped + self.same_class + self.not_drawn + self.unreadable


class CueData(Frozen):
    """The images. `digest` covers pixels and both labels of every image used, in no order."""

    spec: str
    digest: str
    n_available: Annotated[int, Field(ge=0)]
    n_used: Annotated[int, Field(ge=0)]


class CueConflictResult(Frozen):
    """Shape against texture, by class of the shape, with everything that was left out."""

    tool: Literal["shortcut-audit cue-conflict"] = "shortcut-audit cue-conflict"
    format: Literal[1] = _FORMAT
    model: ModelProvenance
    data: CueData
    settings: CueConflictSettings
    protocol: str
    groups: tuple[CueGroup, ...]
    absent: Annotated[tuple[str, ...], Field(description="Groups that no image carries.")] = ()
    by_class: tuple[CueClass, ...]
    dropped: tuple[DroppedCueClass, ...] = ()
    left_out: LeftOut = LeftOut()
    skipped: tuple[SkippedImage, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, str]
    command: str
    device: str
    batch_size: int
    timing: Timing

    @model_validator(mode="after")
    def _adds_up(self) -> CueConflictResult:
        if self.data.n_used + self.left_out.n != self.data.n_available:
            raise ValueError(
                f"{self.data.n_used} used and {self.left_out.n} left out of {self.data.n_available}"
            )
        for counts in (self.among_groups, self.among_all):
            if counts.n != self.data.n_used:
                raise ValueError(f"{counts.n} images counted of {self.data.n_used} used")
        return self

    @cached_property
    def among_groups(self) -> CueCounts:
        """All images, decided among the groups."""
        return sum((item.among_groups for item in self.by_class), CueCounts())

    @cached_property
    def among_all(self) -> CueCounts:
        """All images, decided among all outputs of the model."""
        return sum((item.among_all for item in self.by_class), CueCounts())

    @property
    def goes_by(self) -> Literal["shape", "texture", "both", "undecided", "not measured"]:
        """What the model goes by.

        Where one half is not excluded at the 5% level, `both` if the interval lies near it, else
        `undecided`: that nothing was shown is no proof that there is nothing.
        """
        counts = self.among_groups
        if counts.p_value is None:
            return "not measured"
        if counts.p_value >= _LEVEL:
            bias = counts.shape_bias
            near = bias.low >= 0.5 - _NEAR_HALF and bias.high <= 0.5 + _NEAR_HALF
            return "both" if near else "undecided"
        return "shape" if 2 * counts.n_shape > counts.n_either else "texture"

    @property
    def why_not_measured(self) -> str:
        """One clause on why there is no shape bias; "" where there is one."""
        if self.among_groups.n_either:
            return ""
        if self.data.n_used:
            return (
                f"the model called none of the {self.data.n_used} images by its shape or by its texture"
            )
        return f"none of the {self.data.n_available} images is left ({left_out_text(self.left_out)})"

    def as_text(self) -> str:
        """JSON, as saved."""
        content = self.model_dump(mode="json")
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def as_csv(self) -> str:
        """A row a class, and one for all: counts among the groups, rates, counts among all outputs."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        rows = [(item.class_name, item.among_groups, item.among_all) for item in self.by_class]
        for kind, (name, groups, outputs) in [
            *(("class", row) for row in rows),
            ("all", ("", self.among_groups, self.among_all)),
        ]:
            bias = groups.shape_bias
            figures = [bias.value, bias.low, bias.high, groups.accuracy.value, groups.p_value]
            writer.writerow(
                [kind, name, groups.n, groups.n_shape, groups.n_texture, groups.n_neither]
                + ["" if figure is None else repr(figure) for figure in figures]
                + [outputs.n_shape, outputs.n_texture, outputs.n_neither]
            )
        return stream.getvalue()


_COLUMNS = (
    "rows",
    "class",
    "n",
    "n_shape",
    "n_texture",
    "n_neither",
    "shape_bias",
    "shape_bias_low",
    "shape_bias_high",
    "accuracy",
    "p_value",
    "n_shape_among_all_outputs",
    "n_texture_among_all_outputs",
    "n_neither_among_all_outputs",
)


def left_out_text(left_out: LeftOut) -> str:
    """`9 of a class without a group, 3 with shape and texture of one class`; "none" of none."""
    words = (
        (left_out.unmapped, "of a class without a group"),
        (left_out.same_class, "with shape and texture of one class"),
        (left_out.not_drawn, "beyond the images asked for of each class"),
        (left_out.unreadable, "unreadable"),
    )
    return ", ".join(f"{count} {what}" for count, what in words if count) or "none"


def save_cue_conflict(result: CueConflictResult, folder: Path) -> None:
    """Write `cue_conflict.json` and `cue_conflict.csv` into `folder`, which becomes ours.

    An older page is removed first, so that it never stands beside other numbers. Raises RunFolderError.
    """
    claim_folder(folder, _OF)
    (folder / REPORT_FILE).unlink(missing_ok=True)
    write_state(folder, {"state": "finished", "of": _OF, "command": result.command})
    write_bytes(folder / TABLE_FILE, result.as_csv().encode())
    write_bytes(folder / CUE_CONFLICT_FILE, result.as_text().encode())


def load_cue_conflict(path: Path) -> CueConflictResult:
    """Read a saved cue-conflict test, by its file or its folder.

    Raises ResultError where there is none, it is damaged, or of a newer format.
    """
    file = path / CUE_CONFLICT_FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(
            f"{file} cannot be read: {error.strerror or error}.",
            "Name a folder that `shortcut-audit cue-conflict --out` has written.",
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ResultError(f"{file} is damaged: {error}.", "Run the test again.") from error
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > _FORMAT:
        raise ResultError(
            f"{file} has format {found}; this version reads up to {_FORMAT}.", "Upgrade shortcut-audit."
        )
    try:
        return CueConflictResult.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "as a whole"
        raise ResultError(
            f"{file} is not a cue-conflict test of this tool: {where}: {first['msg']}.",
            "Run the test again.",
        ) from error
