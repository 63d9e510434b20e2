"""AuditResult: the only thing reports and gates see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from shortcut_audit.errors import ResultError
from shortcut_audit.results.findings import (
    ClassSpectraFinding,
    CorruptionsFinding,
    DominantFrequenciesFinding,
    Finding,
    InvitationsFinding,
    PredictionsFinding,
    ShortcutsFinding,
    SpectrumProbeFinding,
    TransferFinding,
    TruthFinding,
)
from shortcut_audit.results.provenance import ModelProvenance, Provenance, Timing
from shortcut_audit.results.settings import AuditSettings, DataAuditSettings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FILE_DIGESTS", "FORMAT", "AuditResult", "GridShape", "SkippedImage"]

FORMAT = 7
# What is said of saved files, and is no part of what was found.
FILE_DIGESTS = ("arrays_sha256", "result_sha256")

D = TypeVar("D")
F = TypeVar("F", bound=BaseModel)
_NO_MODEL = "This is an audit of data, without a model."


class GridShape(BaseModel):
    """Size of the Fourier grid; orbits are described by the arrays `orbits/*`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    height: int
    width: int
    n_orbits: int
    n_bands: int


class SkippedImage(BaseModel):
    """An image that was left out, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image: str
    reason: str


class AuditResult(BaseModel):
    """All that an audit found.

    Numbers and names are fields; arrays (`arrays`, read-only views) are kept by name:
    `orbits/u`, `orbits/v`, `orbits/members`, `orbits/radius`, `orbits/band` of shape (n_orbits,), and
    those that each finding lists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[Literal[7], Field(description="Format number of this file.")] = 7
    provenance: Provenance
    settings: AuditSettings | DataAuditSettings
    grid: GridShape
    findings: tuple[Finding, ...]
    notes: Annotated[
        tuple[str, ...], Field(description="What a reader must know before trusting a number.")
    ] = ()
    skipped: tuple[SkippedImage, ...] = ()
    arrays_sha256: Annotated[str, Field(description="Digest of arrays.safetensors.")] = ""
    result_sha256: Annotated[str, Field(description="Digest of all else in this file but timing.")] = ""
    timing: Timing

    _arrays: dict[str, NDArray[Any]] = PrivateAttr(default_factory=dict)
    _format_found: int = PrivateAttr(default=FORMAT)
    # What others derived from all of it, by name.
    _derived: dict[str, Any] = PrivateAttr(default_factory=dict)

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> AuditResult:
        """The same result, holding `arrays`, which become read-only."""
        result = self.model_copy()
        result._arrays = {}
        for name in sorted(arrays):
            view = arrays[name].view()
            view.flags.writeable = False
            result._arrays[name] = view
        return result

    def of_format(self, found: int) -> AuditResult:
        """The same result, read from a file of format `found`."""
        result = self.model_copy()
        result._format_found = found
        return result

    def derived(self, name: str, derive: Callable[[], D]) -> D:
        """What `derive` makes of this result, made once; neither fields nor arrays ever change."""
        if name not in self._derived:
            self._derived[name] = derive()
        found: D = self._derived[name]
        return found

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> AuditResult:
        """As pydantic's; what was derived is derived anew."""
        copied = super().model_copy(update=update, deep=deep)
        copied._derived = {}
        return copied

    @property
    def format_found(self) -> int:
        """Format of the file that it was read from; this version's, where it was not read."""
        return self._format_found

    def __eq__(self, other: object) -> bool:
        """Equal numbers, names and arrays; digests of saved files are not part of the result."""
        if not isinstance(other, AuditResult):
            return NotImplemented
        ours, theirs = (r.model_dump(exclude=set(FILE_DIGESTS)) for r in (self, other))
        return (
            ours == theirs
            and self._arrays.keys() == other._arrays.keys()
            and all(np.array_equal(self._arrays[k], other._arrays[k]) for k in self._arrays)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """One line: what was audited, on what, and how many classes came to which verdict."""
        # Both texts are the user's; repr spells out line breaks and other control characters.
        n = len(self.class_names)
        on = f"{_shortened(self.provenance.data.spec)!r}, {n} class{'es' if n != 1 else ''}"
        if self.provenance.model is None:
            return f"AuditResult(data {on}, format {self.format})"
        found = self._found(ShortcutsFinding)
        verdicts = Counter(item.verdict for item in found.by_class) if found else Counter()
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        model = _shortened(self.provenance.model.architecture)
        return f"AuditResult({model!r} on {on}: {counts}, format {self.format})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """What notebooks show: the verdict, the classes that stand worst, one picture."""
        # By its name: a result draws nothing itself, and does not depend on what draws it.
        text: str = import_module("shortcut_audit.report.notebook").snippet(self)
        return text

    @property
    def plot(self) -> Any:
        """Figures as matplotlib Axes: `result.plot.map("horse")`; see `shortcut_audit.report.plots`."""
        # By its name, as above; plotting is loaded with the first figure.
        return import_module("shortcut_audit.report.plots").Plots(self)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Arrays by name."""
        return self._arrays

    @property
    def of_data(self) -> bool:
        """Whether the data alone were audited, without a model."""
        return self.provenance.model is None

    @property
    def model(self) -> ModelProvenance:
        """The audited model. Raises ResultError where the data alone were audited."""
        if self.provenance.model is None:
            raise ResultError(_NO_MODEL, "Run `shortcut-audit audit` with a model.")
        return self.provenance.model

    @property
    def model_settings(self) -> AuditSettings:
        """Settings of the audit of a model. Raises ResultError where the data alone were audited."""
        if not isinstance(self.settings, AuditSettings):
            raise ResultError(_NO_MODEL, "Run `shortcut-audit audit` with a model.")
        return self.settings

    def _found(self, kind: type[F]) -> F | None:
        return next((finding for finding in self.findings if isinstance(finding, kind)), None)

    def _finding(self, kind: type[F]) -> F:
        finding = self._found(kind)
        if finding is not None:
            return finding
        raise ResultError(
            f"This result holds no {kind.__name__}.", "Run the audit again with this version."
        )

    @property
    def predictions(self) -> PredictionsFinding:
        """Accuracy and confusion on unfiltered images."""
        return self._finding(PredictionsFinding)

    @property
    def class_spectra(self) -> ClassSpectraFinding:
        """Mean spectra and ADCS."""
        return self._finding(ClassSpectraFinding)

    @property
    def dominant_frequencies(self) -> DominantFrequenciesFinding:
        """Importance of every orbit per class."""
        return self._finding(DominantFrequenciesFinding)

    @property
    def shortcuts(self) -> ShortcutsFinding:
        """TPR and FPR under the maps."""
        return self._finding(ShortcutsFinding)

    @property
    def spectrum_probe(self) -> SpectrumProbeFinding:
        """What amplitudes alone tell, before any model."""
        return self._finding(SpectrumProbeFinding)

    @property
    def invitations(self) -> InvitationsFinding:
        """Class-band pairs that invite a shortcut, before any model."""
        return self._finding(InvitationsFinding)

    @property
    def corruptions(self) -> CorruptionsFinding | None:
        """Classes under corruptions; None where none were tried."""
        return self._found(CorruptionsFinding)

    @property
    def transfer(self) -> TransferFinding | None:
        """Classes and their shortcuts on other sets; None where none were given."""
        return self._found(TransferFinding)

    @property
    def truth(self) -> TruthFinding | None:
        """The audit against the known truth of the set; None where nothing is known."""
        return self._found(TruthFinding)

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes of the data, in the order of the per-class findings."""
        return self.provenance.data.class_names

    @property
    def image_passes(self) -> int:
        """Forward passes of single images, over all measures."""
        return sum(cost.image_passes for cost in self.provenance.cost)

    def importance(self, class_name: str) -> NDArray[np.float32]:
        """Importance of each orbit for `class_name` under the chosen response, (n_orbits,)."""
        finding = self.dominant_frequencies
        names = [item.class_name for item in finding.by_class]
        if class_name not in names:
            raise ResultError(
                f"There is no map of class {class_name!r}.", f"Maps are of: {', '.join(names)}."
            )
        maps: NDArray[np.float32] = self.arrays[f"dominant_frequencies/importance/{finding.response}"]
        own: NDArray[np.float32] = maps[names.index(class_name)]
        return own

    def table(self, name: str) -> pd.DataFrame:
        """A tidy table, `classes`, `orbits` or `bands`, as a pandas DataFrame.

        Raises ResultError for an unknown table.
        """
        import pandas as pd

        from shortcut_audit.results.tables import table_frames

        return pd.concat(table_frames(self, name), ignore_index=True)

    def save(self, folder: str | Path) -> Path:
        """Write `result.json` and `arrays.safetensors` into `folder`; returns the folder."""
        from shortcut_audit.results.store import save_result

        return save_result(self, Path(folder))


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
