"""What a reader must know before trusting a number; every note says what was seen and what to do."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from statistics import median

from shortcut_audit.data.pixels import AuditImages
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.units import Units
from shortcut_audit.measures.dominant_frequencies import RELIABLE
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import ClassMap, Fidelity
from shortcut_audit.results.search_options import idle_sentence

__all__ = ["notes_on", "notes_on_data"]

# Below, most of a map's order would not come out again.
_UNRELIABLE = 0.5
# Below either of them a screened map is a rough sketch of the exact one.
_FAITHFUL_OVERLAP, _FAITHFUL_CORRELATION = 0.7, 0.5
_FEW_NAMES = 5
# Below, a plant of 3/255 in 60% of the images of a class of photographs is not told from chance.
_FEW_FOR_SPECTRA = 100


def notes_on(result: AuditResult, images: AuditImages, *, batch_matters: bool) -> tuple[str, ...]:
    """Notes on a result, the most serious first."""
    notes = [
        _on_accuracy(result),
        _on_batches(result) if batch_matters else "",
        _on_normalisation(result),
        _on_reliability(result),
        _on_fidelity(result),
        _on_stopped(result),
        idle_sentence(result.model_settings, result.dominant_frequencies.search),
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
    made = result.model.preprocessing
    # The user may have given mean and std, and nobody the rest.
    if "nobody" not in made.source or any(made.mean) or any(value != 1 for value in made.std):
        return ""
    return (
        "Nobody said how the model's inputs are normalised, so it was given plain pixels in [0,1]."
        " If it was trained on normalised images, give --mean and --std."
    )


def _on_reliability(result: AuditResult) -> str:
    finding = result.dominant_frequencies
    values = {item.class_name: item.reliability[finding.response].value for item in finding.by_class}
    weak = [item for item in finding.by_class if (values[item.class_name] or 0) < _UNRELIABLE]
    short = [item for item in finding.by_class if (values[item.class_name] or 0) < RELIABLE]
    if not short:
        return ""
    told, below, part = (weak, _UNRELIABLE, "much") if weak else (short, RELIABLE, "part")
    return (
        f"{len(told)} of {len(finding.by_class)} maps have a reliability below {below}: on other"
        f" images of the class {part} of the map would come out differently ({_names(told)})."
        f" {_enough(result, short)}"
    )


def _enough(result: AuditResult, short: Sequence[ClassMap]) -> str:
    """How many images would be enough for maps that fall short, and how to come by them."""
    known = [item.n_images_enough for item in short if item.n_images_enough is not None]
    if not known:
        return "How many images would be enough cannot be told; give more with --images-per-class."
    most, middle = max(known), round(median(known))
    half = f" ({middle:,} for half of them)" if middle < most else ""
    unknown = " where it can be told" if len(known) < len(short) else ""
    coarse = " as they are ranked now" if any(item.resolution != "orbits" for item in short) else ""
    return (
        f"About {most:,} search images of a class{half} would be enough for {RELIABLE}{unknown}{coarse}:"
        f" {_where_from(result, most)}."
    )


def _where_from(result: AuditResult, n_search: int) -> str:
    """How to come by `n_search` search images of a class."""
    settings, data = result.model_settings, result.provenance.data
    if n_search <= min(data.n_search_by_class):
        return "a larger --budget pays for them"
    per_class = math.ceil(n_search / settings.search_share)
    held = data.n_available // len(data.class_names)
    if per_class <= held:
        return f"give --images-per-class {per_class}"
    joint = result.dominant_frequencies.response == "joint"
    less = "" if joint else ", or ask for less with a coarser --resolution (tiles:6x8)"
    return f"more than the {held:,} a class that the data hold; give more images{less}"


def _on_fidelity(result: AuditResult) -> str:
    """A screened map that is far from the exact one must not pass for it."""
    finding = result.dominant_frequencies
    if finding.search != "screened":
        return ""
    rough = [
        item
        for item in finding.by_class
        if item.reliability[finding.response].value is not None and not _is_faithful(item.fidelity)
    ]
    if not rough:
        return ""
    grid = FrequencyGrid(result.grid.height, result.grid.width)
    n_units = Units.named(result.model_settings.resolution, grid).n_units
    n_search = dict(zip(result.class_names, result.provenance.data.n_search_by_class, strict=True))
    exact = sum(n_search[item.class_name] for item in rough) * (n_units + 1)
    whose = _names(rough) if len(rough) == 1 else f"{_names(rough)}; of {rough[0].class_name}"
    return (
        f"{len(rough)} of {len(finding.by_class)} screened maps are rough sketches of the exact ones, by"
        f" the tool's own sample of exact probes ({whose}: {_measured(rough[0].fidelity)}). Do not read"
        f" them orbit by orbit. The exact search of these classes takes about {exact:,} image passes"
        f" ({_exact_options(rough)})."
    )


def _is_faithful(fidelity: Fidelity | None) -> bool:
    return (
        fidelity is not None
        and (fidelity.overlap or 0) >= _FAITHFUL_OVERLAP
        and (fidelity.rank_correlation or 0) >= _FAITHFUL_CORRELATION
    )


def _measured(fidelity: Fidelity | None) -> str:
    if fidelity is None or fidelity.overlap is None or fidelity.rank_correlation is None:
        return "not measured"
    return (
        f"rank correlation {fidelity.rank_correlation:.2f}, {fidelity.overlap:.2f} of the exact top share"
        " found"
    )


def _exact_options(maps: Sequence[ClassMap]) -> str:
    names = [item.class_name for item in maps]
    if len(names) > _FEW_NAMES or any("," in name or name != name.strip() for name in names):
        return "--search exact"
    return f"--search exact --classes {shlex.quote(','.join(names))}"


def _names(maps: Sequence[ClassMap]) -> str:
    named = ", ".join(item.class_name for item in maps[:_FEW_NAMES])
    return f"{named}, ..." if len(maps) > _FEW_NAMES else named


def _on_stopped(result: AuditResult) -> str:
    stopped = result.dominant_frequencies.stopped
    if not stopped:
        return ""
    return (
        f"The search was cut short: {stopped}. Maps rest on less than they could; give a larger --budget,"
        " or none."
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
