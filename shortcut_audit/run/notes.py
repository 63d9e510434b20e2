"""What a reader must know before trusting a number; every note says what was seen and what to do."""

from __future__ import annotations

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.results.audit_result import AuditResult

__all__ = ["notes_on", "notes_on_data"]

_RELIABLE = 0.5
# Below, a plant of 3/255 in 60% of the images of a class of photographs is not told from chance.
_FEW_FOR_SPECTRA = 100


def notes_on(result: AuditResult, images: AuditImages, *, batch_matters: bool) -> tuple[str, ...]:
    """Notes on a result, the most serious first."""
    notes = [
        _on_accuracy(result),
        _on_batches(result) if batch_matters else "",
        _on_normalisation(result),
        _on_reliability(result),
        _on_copies(images),
        _on_skipped(result),
    ]
    return tuple(note for note in notes if note)


def notes_on_data(result: AuditResult, images: AuditImages) -> tuple[str, ...]:
    """What a reader must know before trusting a number of a look at data."""
    return tuple(note for note in (_on_sizes(result), _on_few(result), _on_skipped(result)) if note)


def _on_sizes(result: AuditResult) -> str:
    made = result.provenance.data.preprocessing
    if made is None or made.geometry == "as they are":
        return ""
    why = "The images differ in size, and were" if made.source == "nobody" else "The images were"
    return (
        f"{why} resized and cropped to {made.height} x {made.width} pixels: resizing moves frequencies,"
        " so that a pattern of a file's own pixels is found elsewhere, or blurred away. --size says where"
        " to."
    )


def _on_few(result: AuditResult) -> str:
    fewest = min(result.class_spectra.n_images_by_class)
    if fewest >= _FEW_FOR_SPECTRA:
        return ""
    return (
        f"A class has {fewest} images. Patterns that are weaker than the images' own waves, or that only"
        " some images carry, take hundreds of them to be seen; that no band is named says little here."
    )


def _on_accuracy(result: AuditResult) -> str:
    accuracy = result.predictions.accuracy
    chance = 1 / result.model.n_outputs
    if accuracy.low > chance:
        return ""
    return (
        f"The model gets {accuracy.value:.1%} of {accuracy.n} images right, which does not show it to be"
        f" better than chance ({chance:.1%}): check that weights, preprocessing and class order belong"
        " together before reading anything into its maps."
    )


def _on_batches(result: AuditResult) -> str:
    return (
        "The model's answer for an image changes with the other images in its batch, or by chance, so"
        f" that every number here holds for batches of {result.provenance.batch_size} alone: look for"
        " normalisation by batch statistics, or dropout, in eval mode."
    )


def _on_normalisation(result: AuditResult) -> str:
    if "nobody" not in result.model.preprocessing.source:
        return ""
    return (
        "Nobody said how the model's inputs are normalised, so it was given plain pixels in [0,1]."
        " If it was trained on normalised images, give --mean and --std."
    )


def _on_reliability(result: AuditResult) -> str:
    finding = result.dominant_frequencies
    weak = [
        item
        for item in finding.by_class
        if (value := item.reliability[finding.response].value) is None or value < _RELIABLE
    ]
    if not weak:
        return ""
    names = ", ".join(item.class_name for item in weak[:5]) + (", ..." if len(weak) > 5 else "")
    return (
        f"{len(weak)} of {len(finding.by_class)} maps have a reliability below {_RELIABLE}: on other"
        f" images of the class much of the map would come out differently ({names}). Give more"
        " images with --images-per-class."
    )


def _on_copies(images: AuditImages) -> str:
    n_leaked = images.n_leaked
    if n_leaked == 0:
        return ""
    return (
        f"{n_leaked} judgement images are exact copies of search images, so that rates lean a little"
        " towards what the search has seen. Remove duplicates from the data."
    )


def _on_skipped(result: AuditResult) -> str:
    if not result.skipped:
        return ""
    return f"{len(result.skipped)} unreadable images were left out (listed under skipped)."
