"""Whether an audit and its baseline drew their images from the same data."""

from __future__ import annotations

from shortcut_audit.errors import ResultError
from shortcut_audit.results.comparison import Comparison
from shortcut_audit.results.run_numbers import RunNumbers
from shortcut_audit.results.sketches import common_by_chance, expected_share, shared_of

__all__ = ["require_same_data"]

# Two samples of the same data miss each other with a probability below this...
_NEVER = 1e-6
# ...and data are others when less than this share of what should be in common is.
_LEAST_COMMON = 0.1
# Of the expected share; below, a part of the data must have changed.
_MOSTLY = 0.8


def require_same_data(comparison: Comparison) -> str:
    """What a reader must know of the data, "" where there is nothing.

    Raises ResultError where the images of both audits cannot come from the same data: so few are in both
    samples as chance never has it, or, where samples are too small to tell, another number of images to
    draw from.
    """
    one, other = comparison.first, comparison.second
    n_available = max(one.n_available, other.n_available)
    if one.data_digest == other.data_digest or not n_available:
        return ""
    found, told = _shared(comparison)
    share = expected_share(_n_images(one), _n_images(other), n_available)
    if told and common_by_chance(found, told, share) < _NEVER:
        common = f"{found} of {told} images are in both, of {share:.0%} expected"
        if found / told < _LEAST_COMMON * share:
            raise _others(one, other, common)
        if found / told < _MOSTLY * share:
            return f"Part of the data has changed: {common}."
    if found:
        # No two images have the same identity: these were drawn from the same data.
        return ""
    if one.n_available != other.n_available:
        raise _others(one, other, "they are drawn from another number of images")
    if not told:
        whole = all(_n_images(each) == each.n_available for each in (one, other))
        if whole:
            raise _others(one, other, "both audits used all images, and their digests differ")
        return "Whether the data are the baseline's is not known: one audit names no single images."
    if told:
        return (
            f"No image is in both audits, and so few ({share:.1%}) would be that their data may or"
            " may not be the same."
        )
    return ""


def _shared(comparison: Comparison) -> tuple[int, int]:
    images = comparison.images
    if images.n_shared is not None:
        return images.n_shared, images.n_first + images.n_second - images.n_shared
    return shared_of(comparison.first.sketch, comparison.second.sketch)


def _n_images(numbers: RunNumbers) -> int:
    return sum(item.accuracy[1] for item in numbers.classes)


def _others(one: RunNumbers, other: RunNumbers, why: str) -> ResultError:
    told = f"there of {one.n_available:,}, here of {other.n_available:,}"
    if one.pillow != other.pillow:
        # Another decoder gives other pixels, and no image is known again.
        told += f"; Pillow {one.pillow} decoded those, {other.pillow} these"
    return ResultError(
        f"The images are not of the baseline's data: {why} ({told}).",
        "Audit the baseline's data, as the baseline was, freeze a new policy with `gate init`, or write"
        ' data = "any" into the policy where other data are meant.',
    )
