"""Cards of built sets: where a set came from, and whether its files are still those that were built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from shortcut_audit.data.arrays import NpzArrays
from shortcut_audit.data.downloads import RawFile
from shortcut_audit.data.recipes import Licence, PixelFacts
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.writing import ARRAYS_NAME, CARD_FILE, CHECKSUMS_FILE, file_digest
from shortcut_audit.errors import AuditError, DataError, ResultError
from shortcut_audit.results.truth import TRUTH_FILE, load_truth

__all__ = ["Card", "differences", "load_card"]

_FORMAT = 1
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class Card(BaseModel):
    """What a built set is. `raw_files`: what it was read from, with the checksums that were found.

    `limit`: images taken of each class and split, where not all were. `n_by_split`: images by split
    and class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    tool: str = "shortcut-audit"
    version: str
    name: str
    kind: str
    description: str
    source: str
    citation: str
    licence: Licence
    preprocessing: PixelFacts
    class_names: tuple[str, ...]
    n_by_split: dict[str, dict[str, int]]
    limit: int | None = None
    raw_files: tuple[RawFile, ...] = ()

    def as_text(self) -> str:
        """JSON, as saved with the set."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def load_card(folder: Path) -> Card:
    """Read the card of a built set. Raises ResultError when it is damaged or of a newer format."""
    path = folder / CARD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format") if isinstance(content, dict) else None
        if isinstance(found, int) and found > _FORMAT:
            raise ResultError(
                f"{path} has format {found}; this version reads up to {_FORMAT}.",
                "Upgrade shortcut-audit.",
            )
        return Card.model_validate(content)
    except (OSError, ValueError) as error:
        fault = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" if fault else str(error)
        raise ResultError(
            f"{path} is not a card of this tool: {reason}.", "Build the set again."
        ) from error


def differences(folder: Path) -> tuple[list[str], str]:
    """What differs between a set and what was recorded when it was made; and what was compared.

    Checksums of all files in `folder`, and images by split and class. Raises DataError for a folder
    without any record.
    """
    has_sums = (folder / CHECKSUMS_FILE).is_file()
    counts = _recorded_counts(folder)
    if counts is None and not has_sums:
        raise DataError(
            f"{folder} has no {CARD_FILE}, {TRUTH_FILE} or {CHECKSUMS_FILE}: nothing to compare it with.",
            "Only sets that this tool made can be verified.",
        )
    found: list[str] = []
    compared: list[str] = []
    if has_sums:
        sums = _read_sums(folder / CHECKSUMS_FILE)
        found += _changed_files(folder, sums)
        compared.append(f"{len(sums):,} checksums")
    if counts is not None:
        found += _changed_counts(folder, counts)
        n_images = sum(sum(by_class.values()) for by_class in counts.values())
        compared.append(f"the number of images by split and class ({n_images:,})")
    return found, " and ".join(compared)


def _recorded_counts(folder: Path) -> dict[str, dict[str, int]] | None:
    if (folder / CARD_FILE).is_file():
        return load_card(folder).n_by_split
    return load_truth(folder / TRUTH_FILE).n_by_split if (folder / TRUTH_FILE).is_file() else None


def _read_sums(path: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} cannot be read: {error}.", "Build the set again.") from error
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or ".." in Path(match[2]).parts or match[2].startswith("/"):
            raise ResultError(f"{path} is damaged in line {number}.", "Build the set again.")
        sums[match[2]] = match[1]
    return sums


def _changed_files(folder: Path, sums: dict[str, str]) -> Iterator[str]:
    files = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    # Hidden files are editors' and systems' own; no set has any.
    there = {p.as_posix() for p in files if not any(part.startswith(".") for part in p.parts)}
    for name in sorted(sums):
        if name not in there:
            yield f"{name} is missing"
        elif _digest_or_none(folder / name) != sums[name]:
            yield f"{name} has changed"
    for name in sorted(there - set(sums) - {CHECKSUMS_FILE}):
        yield f"{name} is new"


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def _changed_counts(folder: Path, counts: dict[str, dict[str, int]]) -> Iterator[str]:
    for split, expected in counts.items():
        for form in _forms(folder, split):
            try:
                source = open_source(form)
            except AuditError as error:
                yield f"split {split} cannot be opened: {error.problem}"
                continue
            numbers = np.bincount(source.labels, minlength=len(source.class_names)).tolist()
            found = dict(zip(source.class_names, numbers, strict=True))
            for name in sorted({*found, *expected}):
                have, want = found.get(name, 0), expected.get(name, 0)
                if have != want:
                    yield f"class {name} of {form} has {have:,} images, and had {want:,}"


def _forms(folder: Path, split: str) -> list[str]:
    """Every form that a split is there in: as a folder, and as arrays."""
    forms = [f"{folder}::{split}"] if (folder / split).is_dir() else []
    arrays = folder / ARRAYS_NAME
    try:
        if arrays.is_file() and f"x_{split}" in NpzArrays(arrays):
            forms.append(f"{arrays}::{split}")
    except AuditError:
        forms.append(f"{arrays}::{split}")
    return forms or [f"{folder}::{split}"]
