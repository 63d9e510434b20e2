"""Groups of a model's outputs: which of them stand for which class of images with shape and texture."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from shortcut_audit.data.label_maps import LabelMap, load_label_map
from shortcut_audit.data.toml_files import read_toml, validated
from shortcut_audit.errors import ModelError, SettingsError
from shortcut_audit.results.cue_conflict import CueGroup

__all__ = [
    "CueGroups",
    "Grouping",
    "OutputNames",
    "grouped_outputs",
    "grouping_of",
    "load_grouping",
]

_PAGE = "docs/cue-conflict.md"
_NO_GROUP = "the grouping has no group for it"
_SHOWN = 16


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) and not isinstance(value, bool) else value


Member = StrictInt | StrictStr
Members = Annotated[tuple[Member, ...], BeforeValidator(_as_tuple)]


class Grouping(BaseModel):
    """Groups as a file says them.

    `groups`: class of the images -> outputs of the model, by name or by number from 0. `n_outputs`: how
    many outputs the model has that the numbers are meant for. `outputs`: their names, in order.
    `dropped`: class of the images -> why no group stands for it. `protocol`: a sentence for the report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Annotated[str, Field(min_length=1)] = (
        "The probability of a class is the mean of the softmax over its outputs; the largest is the"
        " answer."
    )
    n_outputs: Annotated[int | None, Field(ge=2)] = None
    outputs: tuple[str, ...] | None = None
    groups: dict[str, Members]
    dropped: dict[str, Annotated[str, Field(min_length=1)]] = {}

    @field_validator("groups")
    @classmethod
    def _not_empty(cls, groups: dict[str, tuple[int | str, ...]]) -> dict[str, tuple[int | str, ...]]:
        if not groups:
            raise ValueError("there is no group; give at least two")
        for name, members in groups.items():
            if not members:
                raise ValueError(f"group {name!r} is empty; name its outputs, or leave it out")
            twice = next((each for each in members if members.count(each) > 1), None)
            if twice is not None:
                raise ValueError(f"group {name!r} lists output {twice!r} twice")
        return groups

    @model_validator(mode="after")
    def _agrees(self) -> Grouping:
        if self.outputs is not None:
            twice = next((each for each in self.outputs if self.outputs.count(each) > 1), None)
            if twice is not None:
                raise ValueError(f"outputs name {twice!r} twice")
            if self.n_outputs not in (None, len(self.outputs)):
                raise ValueError(
                    f"n_outputs is {self.n_outputs}, and outputs has {len(self.outputs)} names"
                )
        both = [name for name in self.dropped if name in self.groups]
        if both:
            raise ValueError(f"class {both[0]!r} has a group and is dropped")
        return self


@dataclass(frozen=True)
class OutputNames:
    """Names of a model's outputs in order, and who says so."""

    names: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class CueGroups:
    """Groups that fit a model and a set of images.

    `groups`: at least two, in the order of the images' classes. `dropped`: class of the images -> why it
    has none. `absent`: groups of the grouping that no image carries; they take no part in the decision.
    """

    groups: tuple[CueGroup, ...]
    dropped: dict[str, str]
    absent: tuple[str, ...]
    protocol: str
    notes: tuple[str, ...]


def load_grouping(name: str | Path) -> Grouping | LabelMap:
    """Read a grouping or a label map (TOML), by its path or, of those that are shipped, by its name.

    A label map says the same: its source are the model's classes, its target those of the images.
    Raises SettingsError, in one sentence, for what is missing, unknown or ambiguous.
    """
    path = _found(name)
    content: dict[str, Any] = {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Said again below, in a sentence.
        read_toml(path, Grouping, "grouping", _PAGE)
    if "map" in content or "source" in content:
        return load_label_map(path)
    return validated(content, Grouping, f"The grouping {path}", _PAGE)


def _found(name: str | Path) -> Path:
    path = Path(name)
    if path.exists() or path.suffix == ".toml" or len(path.parts) != 1:
        return path
    package = Path(__file__).parent.parent
    shipped = [package / "datasets"]
    # Beside an installed package, `datasets` would be some other package.
    if (package.parent / "pyproject.toml").is_file():
        shipped.insert(0, package.parent / "datasets")
    known = {
        file.stem: file
        for folder in shipped
        for pattern in ("groups-*.toml", "labels-*-to-cue-conflict.toml")
        for file in sorted(folder.glob(pattern))
    }
    if str(name) not in known:
        raise SettingsError(
            f"There is no grouping {str(name)!r}{nearest(str(name), list(known))}.",
            f"Name a TOML file, or one that is shipped: {', '.join(known)}.",
        )
    return known[str(name)]


def grouped_outputs(
    choice: Grouping | LabelMap | None,
    class_names: Sequence[str],
    carried: Sequence[str],
    n_outputs: int,
    names: OutputNames | None,
) -> CueGroups:
    """Groups for images of classes `class_names`, of which `carried` are there, and a model's outputs.

    `names`: of the outputs, where they are known. Without a grouping, an output stands for the class of
    its name; where no names are known, a model with as many outputs as there are classes answers in
    their order. Raises SettingsError or ModelError for what does not fit, each with its own sentence.
    """
    if names is not None:
        _check_names(names, n_outputs)
    if isinstance(choice, LabelMap):
        found = _from_label_map(choice, carried, n_outputs, names)
    elif choice is not None:
        found = _from_grouping(choice, carried, n_outputs, names)
    else:
        found = _by_name(class_names, carried, n_outputs, names)
    if len(found.groups) < 2:
        alone = [f"one class of the images alone has a group ({group.name})" for group in found.groups]
        raise SettingsError(
            f"There is nothing to choose between: {(alone or ['no class has a group'])[0]}.",
            f"The images' classes are {listed(carried)}; give at least two of them a group.",
        )
    return found


def _check_names(names: OutputNames, n_outputs: int) -> None:
    twice = next((name for name in names.names if names.names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(
            f"Output {twice!r} is named twice ({names.source}).", "Name every output once, one a line."
        )
    if len(names.names) != n_outputs:
        raise ModelError(
            f"The model has {n_outputs} outputs, and the list of output names has {len(names.names)}"
            f" ({names.source}).",
            "Name every output once, one a line, in the model's order.",
        )


def _from_grouping(
    grouping: Grouping, carried: Sequence[str], n_outputs: int, names: OutputNames | None
) -> CueGroups:
    if grouping.n_outputs is not None and grouping.n_outputs != n_outputs:
        raise ModelError(
            f"The grouping is for a model of {grouping.n_outputs} outputs, and this one has {n_outputs}.",
            "Take a grouping made for the model's own outputs.",
        )
    if names is None and grouping.outputs is not None:
        names = OutputNames(grouping.outputs, "the grouping")
        _check_names(names, n_outputs)
    _check_classes(grouping, carried)
    members = {
        name: tuple(_number(each, name, n_outputs, names) for each in each_members)
        for name, each_members in grouping.groups.items()
    }
    owner: dict[int, str] = {}
    for name, numbers in members.items():
        for number in numbers:
            if number in owner:
                called = repr(names.names[number]) if names is not None else str(number)
                where = "twice in" if owner[number] == name else f"in {owner[number]!r} and in"
                raise SettingsError(
                    f"Output {called} stands {where} {name!r}.", "An output counts for one group, once."
                )
            owner[number] = name
    return CueGroups(
        groups=tuple(_group(name, members[name], (name,), names) for name in carried if name in members),
        dropped={name: grouping.dropped.get(name, _NO_GROUP) for name in carried if name not in members},
        absent=tuple(name for name in members if name not in carried),
        protocol=grouping.protocol,
        notes=(),
    )


def _check_classes(grouping: Grouping, carried: Sequence[str]) -> None:
    """Raise SettingsError for a group whose name looks like a class of the images, misspelt."""
    free = [name for name in carried if name not in grouping.groups]
    for name in (*grouping.groups, *grouping.dropped):
        if name not in carried and (hint := nearest(name, free)):
            raise SettingsError(
                f"Group {name!r} is no class of the images{hint}.",
                f"The images' classes are {listed(carried)}.",
            )


def _number(member: int | str, group: str, n_outputs: int, names: OutputNames | None) -> int:
    """Number of an output that a group names."""
    if isinstance(member, int):
        if not 0 <= member < n_outputs:
            raise SettingsError(
                f"Group {group!r} names output {member}, and the model has {n_outputs}, counted from 0.",
                "Take a grouping made for the model's own outputs.",
            )
        return member
    if names is None:
        raise SettingsError(
            f"Group {group!r} names output {member!r}, and nothing says what the model's outputs are"
            " called.",
            "Name them in order with --output-names FILE, or give numbers in the grouping.",
        )
    if member not in names.names:
        raise SettingsError(
            f"Group {group!r} names {member!r}, which is no output of the model"
            f"{nearest(member, names.names)}.",
            f"Its outputs are {listed(names.names)} ({names.source}).",
        )
    return names.names.index(member)


def _from_label_map(
    label_map: LabelMap, carried: Sequence[str], n_outputs: int, names: OutputNames | None
) -> CueGroups:
    notes = list(label_map.notes())
    classes = label_map.source.classes
    if names is None:
        if len(classes) != n_outputs:
            raise ModelError(
                f"The label map's source {label_map.source.name} has {len(classes)} classes, and the"
                f" model {n_outputs} outputs.",
                "Take the label map made for the model's own classes, or name its outputs with"
                " --output-names FILE.",
            )
        names = OutputNames(classes, "the label map")
        notes.append(
            "Nobody says what the model's outputs are called: they are taken in the order in which the"
            f" label map lists the classes of {label_map.source.name} ({listed(classes)})."
        )
    label_map.check_source(names.names)
    label_map.check_target(carried)
    groups = []
    for source, targets in label_map.map.items():
        present = tuple(name for name in carried if name in targets)
        if present:
            name = present[0] if len(targets) == 1 else source
            output = names.names.index(source)
            groups.append(_group(name, (output,), present, names))
    order = {name: row for row, name in enumerate(carried)}
    return CueGroups(
        groups=tuple(sorted(groups, key=lambda group: order[group.classes[0]])),
        dropped={
            name: label_map.dropped.target[name] for name in carried if name in label_map.dropped.target
        },
        absent=tuple(
            source for source, targets in label_map.map.items() if not set(targets) & set(carried)
        ),
        protocol=label_map.protocol,
        notes=tuple(notes),
    )


def _by_name(
    class_names: Sequence[str], carried: Sequence[str], n_outputs: int, names: OutputNames | None
) -> CueGroups:
    if names is None:
        if len(class_names) != n_outputs:
            raise ModelError(
                f"The model has {n_outputs} outputs and the images {len(class_names)} classes, and"
                " nothing says which output stands for which class.",
                "Give --groups FILE, or --output-names FILE. For ImageNet's 1,000 classes and the 16 of"
                " Geirhos et al.: --groups groups-imagenet1k-to-cue-conflict",
            )
        notes: tuple[str, ...] = (
            "Nobody says what the model's outputs are called: they are taken in the order of the images'"
            f" classes ({listed(class_names)}).",
        )
        output_of = {name: number for number, name in enumerate(class_names)}
    else:
        notes = ()
        output_of = _same_name(class_names, names)
    return CueGroups(
        groups=tuple(
            _group(name, (output_of[name],), (name,), names) for name in carried if name in output_of
        ),
        dropped={
            name: "no output of the model has its name" for name in carried if name not in output_of
        },
        absent=(),
        protocol="Each class is the model's output of its name; the most probable of them is the answer.",
        notes=notes,
    )


def _group(
    name: str, outputs: tuple[int, ...], classes: tuple[str, ...], names: OutputNames | None
) -> CueGroup:
    called = tuple(names.names[number] for number in outputs) if names is not None else ()
    return CueGroup(name=name, outputs=outputs, output_names=called, classes=classes)


def _same_name(class_names: Sequence[str], names: OutputNames) -> dict[str, int]:
    """Class of the images -> output of its name, case aside where there is none of its very name."""
    exact = {name: number for number, name in enumerate(names.names)}
    folded = {name.casefold(): number for number, name in enumerate(names.names)}
    found: dict[str, int] = {}
    for name in class_names:
        number = exact.get(name, folded.get(name.casefold()))
        if number is None:
            continue
        other = next((each for each, taken in found.items() if taken == number), None)
        if other is not None:
            raise SettingsError(
                f"Output {names.names[number]!r} has the name of two classes, {other!r} and {name!r}.",
                "Say in --groups which outputs stand for which class.",
            )
        found[name] = number
    return found


def grouping_of(groups: Mapping[str, Any]) -> Grouping:
    """A grouping from a plain mapping: class of the images -> output names or numbers.

    Raises SettingsError.
    """
    return validated({"groups": dict(groups)}, Grouping, "The grouping", _PAGE)


def listed(names: Sequence[str]) -> str:
    """Names with commas between, the first few of many."""
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def nearest(name: str, known: Sequence[str]) -> str:
    """` (do you mean 'cat'?)`, or nothing."""
    by_fold = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), list(by_fold), n=1, cutoff=0.6)
    return f" (do you mean {by_fold[close[0]]!r}?)" if close else ""
