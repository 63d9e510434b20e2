"""A look at images before any model, from an image source to a saved result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from shortcut_audit.data.pixels import AuditImages, choose_images, collect_images, common_shape
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.data.survey import survey
from shortcut_audit.errors import DataError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.data_side import N_BANDS, look_at_data
from shortcut_audit.results.audit_result import AuditResult, GridShape
from shortcut_audit.results.provenance import (
    DataProvenance,
    MeasureCost,
    Preprocessing,
    Provenance,
    Timing,
    installed_versions,
)
from shortcut_audit.results.settings import AuditSettings, DataAuditSettings
from shortcut_audit.results.store import (
    ARRAYS_FILE,
    REPORT_FILE,
    RESULT_FILE,
    check_folder,
    claim_folder,
    save_result,
    write_state,
)
from shortcut_audit.results.truth import GroundTruth
from shortcut_audit.run.audit import orbit_arrays
from shortcut_audit.run.notes import notes_on_data
from shortcut_audit.run.prepare import Progress, existing_parent, silent
from shortcut_audit.run.recovery import with_truth

__all__ = ["DataRequest", "run_data_audit"]

# Where images differ in size and nobody says what to bring them to: the size most models take.
_USUAL_SIZE = (224, 224)


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Images to look at. `size` (H, W): bring them there; `truth`: what is known of them."""

    source: ImageSource
    settings: DataAuditSettings
    command: str
    size: tuple[int, int] | None = None
    truth: GroundTruth | None = None


def run_data_audit(
    request: DataRequest, run: Path | None = None, *, progress: Progress = silent
) -> AuditResult:
    """Look at the spectra of labelled images, without a model.

    With `run`, the result is saved in that folder. Everything about the input is checked before the
    folder is made. Raises AuditError.
    """
    settings, source = request.settings, request.source
    if run is not None:
        check_folder(run)
    chosen = AuditSettings(
        images_per_class=settings.images_per_class,
        seed=settings.seed,
        skip_unreadable=settings.skip_unreadable,
    )
    _, order = choose_images(source, chosen)
    indices = [int(i) for row in order for i in row[: settings.images_per_class]]
    preprocessing = _preprocessing(request, indices)
    images = collect_images(
        source,
        chosen,
        preprocessing,
        range(len(source.class_names)),
        folder=existing_parent(run),
        on_image=lambda done, total: progress("reading images", done, total),
    )
    began = time.perf_counter()
    result = _result(request, preprocessing, images, progress)
    seconds = time.perf_counter() - began
    result = result.model_copy(
        update={
            "notes": (*notes_on_data(result, images), *survey(source, indices)),
            "timing": Timing(
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
                measuring_seconds=round(seconds, 3),
                images_per_second=round(len(images.store) / max(seconds, 1e-9), 1),
            ),
        }
    )
    if run is not None:
        claim_folder(run)
        for name in (RESULT_FILE, ARRAYS_FILE, REPORT_FILE):
            (run / name).unlink(missing_ok=True)
        write_state(run, {"state": "running", "command": request.command})
        save_result(result, run)
        write_state(run, {"state": "finished", "command": request.command})
    return result


def _preprocessing(request: DataRequest, indices: list[int]) -> Preprocessing:
    shape = common_shape(request.source, indices)
    if shape is None and request.source.uniform:
        raise DataError(f"{request.source.spec} has no readable image.", "Mend the images.")
    height, width = request.size or (shape[1:] if shape else _USUAL_SIZE)
    if min(height, width) < 4:
        raise DataError(
            f"Images of {height} x {width} pixels have no bands to compare.", "Give larger images."
        )
    as_they_are = shape is not None and shape[1:] == (height, width)
    return Preprocessing(
        channels=shape[0] if shape else 3,
        height=height,
        width=width,
        geometry="as they are" if as_they_are else "resize and crop",
        interpolation=None if as_they_are else "bicubic",
        crop_pct=None if as_they_are else 1.0,
        crop_mode=None if as_they_are else "center",
        mean=(0.0,),
        std=(1.0,),
        source="the user" if request.size else ("the images" if shape else "nobody"),
    )


def _result(
    request: DataRequest, preprocessing: Preprocessing, images: AuditImages, progress: Progress
) -> AuditResult:
    settings = request.settings
    grid = FrequencyGrid(preprocessing.height, preprocessing.width)
    done = 0
    total = len(images.store)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        # Images are gone through again where something stands out; the bar does not promise how often.
        progress("taking spectra", min(done, total), total)

    findings, arrays = look_at_data(images, settings, advance)
    n_search = tuple(stop - start for start, stop in images.search_rows)
    n_judge = tuple(stop - start for start, stop in images.judge_rows)
    result = AuditResult(
        provenance=Provenance(
            versions=installed_versions(),
            command=request.command,
            model=None,
            data=DataProvenance(
                spec=images.spec,
                digest=images.digest,
                n_available=images.n_available,
                n_used=len(images.store),
                preprocessing=preprocessing,
                class_names=images.class_names,
                outputs=images.outputs,
                n_search_by_class=tuple(a + b for a, b in zip(n_search, n_judge, strict=True)),
                n_judge_by_class=(0,) * len(n_search),
            ),
            seed=settings.seed,
            device="cpu",
            dtype="float64",
            batch_size=0,
            cost=tuple(MeasureCost(measure=finding.measure, image_passes=0) for finding in findings),
        ),
        settings=settings,
        grid=GridShape(height=grid.height, width=grid.width, n_orbits=grid.n_orbits, n_bands=N_BANDS),
        findings=tuple(findings),
        skipped=images.skipped,
        timing=Timing(finished_at="", measuring_seconds=0.0, images_per_second=0.0),
    )
    complete = {name: np.asarray(array) for name, array in arrays.items()}
    return with_truth(result.with_arrays({**complete, **orbit_arrays(grid, N_BANDS)}), request.truth)
