"""Label maps: which classes of one set are which classes of another, and what is left out, and why.

The *source* is the set whose classes a model answers with, the *target* the set that it is tried on.
Several target classes may stand for one source class (sports car and limousine for automobile).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from shortcut_audit.data.toml_files import read_toml
from shortcut_audit.errors import DataError, SettingsError

__all__ = [
    "ClassSet",
    "DroppedClass",
    "LabelMap",
    "MappedLabels",
    "identity_map",
    "load_label_map",
]

Side: TypeAlias = Literal["source", "target"]
_SHOWN = 12


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Targets = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassSet(_Frozen):
    """A set of images, by name, and all its classes; their order carries no meaning."""

    name: Annotated[str, Field(min_length=1)]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        for name, count in Counter(classes).items():
            if count > 1:
                raise ValueError(f"class {name!r} is listed {count} times")
        return classes


class Drops(_Frozen):
    """Classes left out on purpose, and the reason for each."""

    source: dict[str, Annotated[str, Field(min_length=1)]] = {}
    target: dict[str, Annotated[str, Field(min_length=1)]] = {}


class LabelMap(_Frozen):
    """What the classes of `target` are called in `source`; every class of both is mapped or dropped.

    `map`: source class -> the target class or classes that stand for it. `protocol`: a sentence on what
    is compared, for the report. `dropped`: class -> reason, for each side.
    """

    protocol: Annotated[str, Field(min_length=1)]
    source: ClassSet
    target: ClassSet
    map: Annotated[dict[str, Targets], Field(min_length=1)]
    dropped: Drops = Drops()

    @model_validator(mode="after")
    def _complete(self) -> LabelMap:
        for source, targets in self.map.items():
            if not targets:
                raise ValueError(f"source class {source!r} is mapped to nothing; drop it instead")
        mapped = Counter(target for targets in self.map.values() for target in targets)
        for target, count in mapped.items():
            if count > 1:
                owners = [source for source, targets in self.map.items() if target in targets]
                named = " and ".join(repr(owner) for owner in owners)
                raise ValueError(
                    f"target class {target!r} stands for {named}; a class can stand for one only"
                    if len(owners) > 1
                    else f"target class {target!r} is listed twice for {named}"
                )
        self._check_side("source", self.source, tuple(self.map), self.dropped.source)
        self._check_side("target", self.target, tuple(mapped), self.dropped.target)
        return self

    def _check_side(
        self, side: Side, classes: ClassSet, mapped: tuple[str, ...], dropped: dict[str, str]
    ) -> None:
        for name in (*mapped, *dropped):
            if name not in classes.classes:
                raise ValueError(
                    f"{name!r} is no class of the {side} {classes.name}{_nearest(name, classes.classes)}"
                )
        both = [name for name in mapped if name in dropped]
        if both:
            raise ValueError(f"{side} class {both[0]!r} is both mapped and dropped")
        left = [name for name in classes.classes if name not in mapped and name not in dropped]
        if left:
            raise ValueError(
                f"{side} class{'es' if len(left) > 1 else ''} {_listed(left)} of {classes.name}"
                f" {'are' if len(left) > 1 else 'is'} neither mapped nor dropped"
            )

    @property
    def source_of(self) -> dict[str, str]:
        """Target class -> the source class that it stands for."""
        return {target: source for source, targets in self.map.items() for target in targets}

    def notes(self) -> tuple[str, ...]:
        """What a reader of results under this map should know: merges, losses, and odd pairs."""
        notes = [
            f"{len(targets)} classes of {self.target.name} stand for {source!r}: {_listed(targets)}."
            for source, targets in self.map.items()
            if len(targets) > 1
        ]
        sides = ((self.source, self.dropped.source), (self.target, self.dropped.target))
        for classes, dropped in sides:
            if dropped:
                notes.append(
                    f"{len(dropped)} of {len(classes.classes)} classes of {classes.name} are dropped:"
                    f" {_listed(tuple(dropped))}."
                )
        for crossed in self._crossed():
            notes.append(crossed)
        return tuple(notes)

    def _crossed(self) -> list[str]:
        """Target classes whose name belongs to another source class: a permuted map looks like this."""
        by_name = {name.casefold(): name for name in self.source.classes}
        source_of = self.source_of
        found = []
        for target in self.target.classes:
            same = by_name.get(target.casefold())
            if same is not None and source_of.get(target, same) != same:
                found.append(
                    f"{target!r} of {self.target.name} stands for {source_of[target]!r}, although"
                    f" {self.source.name} has a class {same!r}."
                )
            elif same is not None and target in self.dropped.target and same not in self.dropped.source:
                found.append(
                    f"{target!r} of {self.target.name} is dropped, although {self.source.name} has a"
                    f" class {same!r}."
                )
        return found

    def check_source(self, names: Sequence[str]) -> None:
        """Raise DataError unless `names`, the classes that the model answers with, are the source's."""
        self._check_names("source", self.source, names)
        absent = [name for name in self.source.classes if name not in set(names)]
        if absent:
            raise DataError(
                f"The label map's source {self.source.name} has class{'es' if len(absent) > 1 else ''}"
                f" {_listed(absent)}, which the model does not answer with"
                f"{_nearest(absent[0], names)}.",
                "Take the label map made for the model's own classes.",
            )

    def check_target(self, names: Sequence[str]) -> tuple[str, ...]:
        """Target classes of the map that a set with classes `names` does not have.

        Raises DataError for a class that the map does not know.
        """
        self._check_names("target", self.target, names)
        return tuple(name for name in self.target.classes if name not in set(names))

    def _check_names(self, side: Side, classes: ClassSet, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in classes.classes]
        if unknown:
            raise DataError(
                f"The label map does not know class{'es' if len(unknown) > 1 else ''} {_listed(unknown)}:"
                f" its {side} {classes.name} has {_listed(classes.classes)}"
                f"{_nearest(unknown[0], classes.classes)}.",
                f"Add every class of the {side} to the map, or drop it there with a reason.",
            )

    def apply(
        self, labels: NDArray[np.integer], target_names: Sequence[str], source_names: Sequence[str]
    ) -> MappedLabels:
        """Labels of the target set as labels of the source.

        `labels` (n,) count in `target_names`; the answer counts in `source_names` (the model's classes,
        in its own order). Raises DataError when either names do not fit the map, or nothing is left.
        """
        self.check_source(source_names)
        absent = self.check_target(target_names)
        numbers = np.asarray(labels)
        if not np.isin(numbers, np.arange(len(target_names))).all():
            raise DataError(
                f"Labels of {self.target.name} go from {numbers.min()} to {numbers.max()}, and it has"
                f" {len(target_names)} classes.",
                "Name every class of the set.",
            )
        source_of, number = self.source_of, {name: n for n, name in enumerate(source_names)}
        table = np.array([number[source_of[n]] if n in source_of else -1 for n in target_names])
        mapped = table[numbers].astype(np.int64)
        if not (mapped >= 0).any():
            raise DataError(
                f"No image of {self.target.name} is left under the label map: all its images are of"
                " classes that it drops.",
                "Take another set, or map some of its classes.",
            )
        counts = np.bincount(numbers, minlength=len(target_names))
        dropped = tuple(
            DroppedClass(name, int(counts[n]), self.dropped.target[name])
            for n, name in enumerate(target_names)
            if table[n] < 0
        )
        return MappedLabels(mapped, mapped >= 0, dropped, absent)

    def reversed(self) -> LabelMap:
        """The same map from target to source.

        Raises SettingsError where several target classes stand for one source class.
        """
        many = [source for source, targets in self.map.items() if len(targets) > 1]
        if many:
            raise SettingsError(
                f"{len(self.map[many[0]])} classes of {self.target.name} stand for {many[0]!r}, so that"
                " the map has no way back.",
                "Write a map of its own for that direction.",
            )
        return LabelMap(
            protocol=self.protocol,
            source=self.target,
            target=self.source,
            map={targets[0]: (source,) for source, targets in self.map.items()},
            dropped=Drops(source=self.dropped.target, target=self.dropped.source),
        )


@dataclass(frozen=True)
class DroppedClass:
    """A target class that was left out: how many images, and why."""

    name: str
    n_images: int
    reason: str


@dataclass(frozen=True)
class MappedLabels:
    """Labels after a map.

    `labels` (n,) int64: source class, -1 where dropped; `kept` (n,) bool; `dropped`: target classes
    left out, with their images; `absent`: target classes that the map knows and this set does not have.
    """

    labels: NDArray[np.int64]
    kept: NDArray[np.bool_]
    dropped: tuple[DroppedClass, ...]
    absent: tuple[str, ...]

    @property
    def n_dropped(self) -> int:
        """Images left out."""
        return int((~self.kept).sum())


def load_label_map(path: Path) -> LabelMap:
    """Read a label map (TOML).

    Raises SettingsError, in one sentence, for what is missing, unknown, ambiguous or left out.
    """
    return read_toml(path, LabelMap, "label map", "docs/shifts.md")


def identity_map(
    source_names: Sequence[str],
    target_names: Sequence[str],
    *,
    source: str = "source",
    target: str = "target",
) -> LabelMap:
    """The map of classes whose names agree, case aside; all others are dropped, and say so.

    Raises DataError when no name agrees, and where names differ in case alone within one set.
    """
    own = _folded(source_names, source)
    other = _folded(target_names, target)
    agreed = {own[key]: (other[key],) for key in own if key in other}
    if not agreed:
        raise DataError(
            f"No class of {source} and {target} has the same name ({_listed(tuple(source_names))} and"
            f" {_listed(tuple(target_names))}).",
            "Write a label map that says which classes are the same.",
        )
    respelt = [f"{a!r} is {b[0]!r}" for a, b in agreed.items() if a != b[0]]
    return LabelMap(
        protocol="Classes of the same name are taken for the same class."
        + (f" Spelt differently: {', '.join(respelt)}." if respelt else ""),
        source=ClassSet(name=source, classes=tuple(source_names)),
        target=ClassSet(name=target, classes=tuple(target_names)),
        map=agreed,
        dropped=Drops(
            source={own[k]: f"{target} has no class of that name" for k in own if k not in other},
            target={other[k]: f"{source} has no class of that name" for k in other if k not in own},
        ),
    )


def _folded(names: Sequence[str], what: str) -> dict[str, str]:
    folded: dict[str, str] = {}
    for name in names:
        if name.casefold() in folded:
            raise DataError(
                f"Classes {folded[name.casefold()]!r} and {name!r} of {what} differ in case alone.",
                "Write a label map that says which one is meant.",
            )
        folded[name.casefold()] = name
    return folded


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _nearest(name: str, known: Sequence[str]) -> str:
    """` (do you mean 'cat'?)`, or nothing."""
    by_fold = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), list(by_fold), n=1, cutoff=0.6)
    return f" (do you mean {by_fold[close[0]]!r}?)" if close else ""
