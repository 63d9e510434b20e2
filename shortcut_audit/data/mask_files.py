"""Masks that come from files: planes of bins, lists of orbits, and the maps of a finished audit."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.mask_text import parse_mask
from shortcut_audit.fourier.masks import BoolArray, orbit_mask, require_hermitian, top_share
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.store import load_result

__all__ = ["ClassMasks", "read_masks"]

_LAYOUTS = {"centred": True, "centered": True, "uncentred": False, "uncentered": False}
# What a class is called that stands for the class of each image.
_OWN = ("own", "*")


@dataclass(frozen=True)
class ClassMasks:
    """What a mask text means for images of one size.

    `chosen` (n_classes, n_orbits) bool; `per_class`: classes have masks of their own (`map:RUN:own`).
    """

    text: str
    grid: FrequencyGrid
    class_names: tuple[str, ...]
    chosen: BoolArray
    per_class: bool


def read_masks(text: str, grid: FrequencyGrid, class_names: tuple[str, ...]) -> ClassMasks:
    """The orbits that `text` names for images of each class.

    On top of `parse_mask`: `file:PATH@centred` or `@uncentred` (a mask over the full plane, `.npy`,
    `.npz` or `.png`), `orbits:PATH`, `map:RUN:CLASS` with an optional share, `map:RUN:CLASS@0.05`, and
    `map:RUN:own` for the map of each image's own class.
    Raises SettingsError and ResultError, in one sentence.
    """
    words = _FileWords(class_names[0])
    first = words.parse(text, grid)
    if not words.asked_for_own:
        shared = np.broadcast_to(first, (len(class_names), grid.n_orbits))
        return ClassMasks(text, grid, class_names, shared, per_class=False)
    chosen = [first]
    for name in class_names[1:]:
        words.own_class = name
        chosen.append(words.parse(text, grid))
    return ClassMasks(text, grid, class_names, np.stack(chosen), per_class=True)


@dataclass
class _FileWords:
    """The words of a mask that need files, read for images of `own_class`."""

    own_class: str
    asked_for_own: bool = False
    results: dict[Path, AuditResult] = field(default_factory=dict)

    def parse(self, text: str, grid: FrequencyGrid) -> BoolArray:
        loaders = {"file": _plane_mask, "orbits": _listed_orbits, "map": self._map}
        return parse_mask(text, grid, loaders)

    def _map(self, argument: str, grid: FrequencyGrid) -> BoolArray:
        run, wanted = _run_and_class(argument)
        if run not in self.results:
            self.results[run] = load_result(run)
        result = self.results[run]
        if (result.grid.height, result.grid.width) != (grid.height, grid.width):
            raise SettingsError(
                f"The maps in {run} are of {result.grid.height} x {result.grid.width} images, and these"
                f" have {grid.height} x {grid.width} pixels.",
                f"Bring them to that size: --size {result.grid.height}x{result.grid.width}",
            )
        names = [one.class_name for one in result.dominant_frequencies.by_class]
        name, share = _class_and_share(wanted, names)
        if name in _OWN and name not in names:
            self.asked_for_own = True
            name = self.own_class
        if name not in names:
            raise SettingsError(
                f"The audit in {run} has no map of class {name!r}.",
                f"It has maps of: {', '.join(sorted(names)[:20])}.",
            )
        row = names.index(name)
        if share is None:
            return np.asarray(result.arrays["dominant_frequencies/kept"][row], dtype=np.bool_)
        return top_share(grid, result.arrays["dominant_frequencies/rank"][row], share)


def _run_and_class(argument: str) -> tuple[Path, str]:
    """`RUN:CLASS` at the first colon behind which a folder ends: both sides may hold colons."""
    borders = [found.start() for found in re.finditer(":", argument)]
    if not borders:
        raise SettingsError(
            f"map:{argument} names no class of a run.", "For example: map:RUN:cat, or map:RUN:own"
        )
    border = next((at for at in borders if Path(argument[:at]).is_dir()), borders[0])
    return Path(argument[:border]), argument[border + 1 :]


def _class_and_share(wanted: str, names: list[str]) -> tuple[str, float | None]:
    name, sign, tail = wanted.rpartition("@")
    if wanted in names or not sign:
        return wanted, None
    try:
        share = float(tail)
    except ValueError:
        share = np.nan
    if not 0 < share <= 1:
        raise SettingsError(
            f"A map's share {tail!r} is not above 0 and up to 1.", f"For example: map:RUN:{name}@0.05"
        )
    return name, share


def _plane_mask(argument: str, grid: FrequencyGrid) -> BoolArray:
    """The orbits of a mask over the full plane, from a file.

    Where zero frequency lies has to be said: of even sizes, a Hermitian plane is one in either reading.
    """
    where, _, layout = argument.rpartition("@")
    if layout.lower() not in _LAYOUTS:
        raise SettingsError(
            f"file:{argument} does not say where zero frequency lies in the mask.",
            "Add @centred (in the middle, as np.fft.fftshift leaves it) or @uncentred (first row and"
            " column, as np.fft.fft2 gives it).",
        )
    path, centred = Path(where), _LAYOUTS[layout.lower()]
    plane = _two_valued(_plane_in(path), path)
    if plane.shape != (grid.height, grid.width):
        half = plane.shape == (grid.height, grid.n_half_columns)
        raise SettingsError(
            f"The mask in {path} has {plane.shape[0]} x {plane.shape[1]} bins"
            f"{', half a plane' if half else ''}, and the images have {grid.height} x {grid.width}"
            " pixels.",
            "Save the full plane, one bin a pixel, so that both members of every pair are there.",
        )
    try:
        uncentred = require_hermitian(plane, centred=centred, what=f"The mask in {path}")
    except SettingsError as error:
        if _fits(plane, centred=not centred):
            other = "uncentred" if centred else "centred"
            raise SettingsError(
                error.problem, f"Read as @{other} it is Hermitian; is that what it is? {error.next_step}"
            ) from None
        raise
    return np.asarray(uncentred[grid.rows, grid.columns], dtype=np.bool_)


def _fits(plane: BoolArray, *, centred: bool) -> bool:
    try:
        require_hermitian(plane, centred=centred)
    except SettingsError:
        return False
    return True


def _plane_in(path: Path) -> NDArray[Any]:
    """The one plane of numbers in a file."""
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as image:
                return np.asarray(image.convert("L"))
        if path.suffix.lower() in {".npy", ".npz"}:
            with path.open("rb") as stream:
                return _array_in(np.load(stream, allow_pickle=False), path)
    except (
        OSError,
        ValueError,
        EOFError,
        SyntaxError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    ) as error:
        raise _unreadable(path, error) from error
    raise SettingsError(f"The mask in {path} is of no known kind.", "Save it as .npy, .npz or .png.")


def _array_in(loaded: Any, path: Path) -> NDArray[Any]:
    """The array of an `.npy`; that named `mask`, or the only one, of an `.npz`."""
    if isinstance(loaded, np.ndarray):
        return loaded
    names = list(loaded)
    name = "mask" if "mask" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise SettingsError(
            f"{path} holds {len(names)} arrays, and none is named mask.",
            "Save one: np.savez(path, mask=mask)",
        )
    return np.asarray(loaded[name])


def _two_valued(plane: NDArray[Any], path: Path) -> BoolArray:
    if plane.ndim != 2 or plane.dtype.kind not in "biuf":
        raise SettingsError(
            f"The mask in {path} is an array of type {plane.dtype} and shape {plane.shape}.",
            "A mask is one plane of zeros and ones, (H, W).",
        )
    values = np.unique(plane)
    if len(values) > 2 or not set(values.tolist()) <= {0, 1, 255}:
        raise SettingsError(
            f"The mask in {path} holds {len(values)} values, from {values[0]:g} to {values[-1]:g}.",
            "Say which bins it holds: mask > threshold",
        )
    kept: BoolArray = plane > 0
    return kept


def _listed_orbits(argument: str, grid: FrequencyGrid) -> BoolArray:
    """Orbits from a file: JSON pairs, a truth file, a table with columns u and v, or pairs a line."""
    path = Path(argument)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        pairs = _pairs_in_json(text) if text.lstrip()[:1] in {"[", "{"} else _pairs_in_table(text)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise SettingsError(
            f"{path} is no list of orbits ({reason}).",
            "Write two whole numbers a line, u and v, or JSON: [[5, 9], [-11, 4]]",
        ) from error
    return orbit_mask(grid, pairs)


def _pairs_in_json(text: str) -> list[tuple[int, int]]:
    content = json.loads(text)
    if isinstance(content, dict):
        patterns = content.get("patterns", [content])
        content = [pair for pattern in patterns for pair in pattern["orbits"]]
    return [_pair(pair) for pair in content]


def _pairs_in_table(text: str) -> list[tuple[int, int]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    header = next(csv.reader(lines[:1]), [])
    if {"u", "v"} <= set(header):
        return [_pair((row["u"], row["v"])) for row in csv.DictReader(io.StringIO("\n".join(lines)))]
    return [_pair(re.split(r"[\s,;]+", line.strip(" ()\t"))) for line in lines]


def _pair(values: Any) -> tuple[int, int]:
    u, v = (float(value) for value in values)
    if not (u.is_integer() and v.is_integer()):
        raise ValueError(f"({u:g}, {v:g}) are no whole numbers")
    return int(u), int(v)


def _unreadable(path: Path, error: Exception) -> SettingsError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(".")
    return SettingsError(f"{path} cannot be read: {reason}.", "Check the name and the file.")
