"""What is known of a set of images because it was made: which class carries which frequencies.

The file `truth.json` lies in the set's folder, beside its splits, and is read back by the audits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shortcut_audit.errors import ResultError

__all__ = [
    "TRUTH_FILE",
    "TRUTH_FORMAT",
    "GroundTruth",
    "Pattern",
    "PatternRole",
    "find_truth",
    "load_truth",
]

TRUTH_FILE = "truth.json"
TRUTH_FORMAT = 1

PatternRole = Literal["shortcut", "decoy", "other"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pattern(_Frozen):
    """One known pattern, and the classes that carry it.

    `orbits`: (u, v), signed, in cycles per image height and width, v >= 0; empty where the pattern
    touches DC alone or is the same at no orbit. `amplitude`: of the cosine on each orbit, in 1/255,
    root mean square over carriers and channels. `bands`: radial bands it lies in, 1 = lowest.
    """

    name: str
    kind: str
    role: Annotated[
        PatternRole,
        Field(
            description="shortcut: orbits tell the classes; decoy: all classes carry it alike;"
            " other: a shortcut that no orbit is to blame for."
        ),
    ]
    classes: tuple[str, ...]
    orbits: tuple[tuple[int, int], ...] = ()
    amplitude: tuple[float, ...] = ()
    bands: tuple[int, ...] = ()
    phase: str = ""
    share: Annotated[float, Field(gt=0, le=1, description="Share of a class's images carrying it.")] = 1.0
    n_carriers: Annotated[dict[str, int], Field(description="Images that carry it, by class.")] = {}
    carriers: Annotated[
        dict[str, tuple[str, ...]],
        Field(description="Their names, by split; left out where every image of a class carries it."),
    ] = {}


class GroundTruth(_Frozen):
    """All that is known of a set that the toolkit made.

    `files`: what lies beside the truth and is described by it (folders of splits, arrays).
    `bands`: radii [low, high) of the radial bands, in cycles per shorter side; the last one also
    holds the corners where it ends at Nyquist. `expected_band_power`: per class, the sum over the
    orbits of each band of members * E|X|^2, averaged over channels, of pixels in [0,1], where a
    recipe fixes it. `details`: the recipe, plan or mask itself.
    """

    format: Literal[1] = 1
    tool: str = "shortcut-audit"
    version: str
    kind: Literal["synthetic", "planted", "filtered", "shapes"]
    name: str
    seed: int | None = None
    height: int
    width: int
    channels: int
    class_names: tuple[str, ...]
    n_by_split: dict[str, dict[str, int]] = {}
    files: tuple[str, ...] = ()
    bands: tuple[tuple[float, float], ...]
    patterns: tuple[Pattern, ...] = ()
    expected_band_power: dict[str, tuple[float, ...]] = {}
    clipped_share: Annotated[
        float | None, Field(description="Share of pixel values clipped to 0..255 in writing.")
    ] = None
    source: Annotated[str, Field(description="The set it was made from, as it was named.")] = ""
    details: dict[str, Any] = {}

    def shortcuts_of(self, class_name: str) -> tuple[Pattern, ...]:
        """Patterns that tell `class_name` from others by its orbits."""
        return tuple(p for p in self.patterns if p.role == "shortcut" and class_name in p.classes)

    def as_text(self) -> str:
        """JSON, as saved beside the images."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def load_truth(path: Path) -> GroundTruth:
    """Read a truth file.

    Raises ResultError when it is damaged, or newer than this version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format") if isinstance(content, dict) else None
        if isinstance(found, int) and found > TRUTH_FORMAT:
            raise ResultError(
                f"{path} has format {found}; this version reads up to {TRUTH_FORMAT}.",
                "Upgrade shortcut-audit.",
            )
        return GroundTruth.model_validate(content)
    except (OSError, ValueError) as error:
        reason = (
            f"{'.'.join(str(part) for part in error.errors()[0]['loc'])}: {error.errors()[0]['msg']}"
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise ResultError(
            f"{path} is not a truth file of this tool: {reason}.",
            "Make the set again, or move the file away to audit without a known truth.",
        ) from error


def find_truth(spec: str) -> tuple[GroundTruth, Path] | None:
    """The truth that lies beside the images which `spec` names, and its file; None where there is none.

    Looked for in the folder itself, in the folder above (for `SET/test`) and, for arrays, beside
    them; it counts only where it names the folder or file among those it describes.
    """
    where = Path(spec.partition("::")[0])
    if not where.exists():
        return None
    where = where.absolute()
    candidates = [where.parent / TRUTH_FILE] if where.is_file() else [where / TRUTH_FILE]
    candidates += [] if where.is_file() else [where.parent / TRUTH_FILE]
    for path in candidates:
        if not path.is_file():
            continue
        truth = load_truth(path)
        if path.parent == where or where.relative_to(path.parent).parts[0] in truth.files:
            return truth, path
    return None
