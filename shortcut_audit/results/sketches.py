"""Whether two samples of images come from the same data, told by a few of their identities.

A sketch holds the lowest identities of a sample. Identities are digests of content, so that the lowest
ones of two samples' union are images drawn by chance from it: the share of them that is in both samples
estimates what both have in common, of all that they have (Broder, 1997, bottom-k).
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["common_by_chance", "expected_share", "shared_of", "sketch_of"]

_MOST = 512
# The upper five bytes of an identity: of so few images, no two are alike by accident.
_BYTES = 5


def sketch_of(images: NDArray[Any] | None) -> str:
    """The sketch of identities (n,) uint64, in base64; "" where there are none."""
    if images is None:
        return ""
    lowest = np.unique(images.astype(np.uint64) >> np.uint64(8 * (8 - _BYTES)))[:_MOST]
    return base64.b64encode(b"".join(int(each).to_bytes(_BYTES, "big") for each in lowest)).decode()


def shared_of(one: str, other: str) -> tuple[int, int]:
    """How many images are in both of two samples, among how many of their union that the sketches tell
    of; none where one sample has no sketch.

    >>> images = np.arange(12, dtype=np.uint64) << np.uint64(32)
    >>> shared_of(sketch_of(images[:9]), sketch_of(images[3:]))
    (6, 12)
    """
    first, second = (_identities(each) for each in (one, other))
    if not first or not second:
        return 0, 0
    union = sorted(first | second)
    # Beyond the end of a full sketch, what is missing in it may still be in its sample.
    ends = [max(each) for each in (first, second) if len(each) == _MOST]
    told = [each for each in union if not ends or each <= min(ends)]
    return sum(each in first and each in second for each in told), len(told)


def _identities(sketch: str) -> set[int]:
    try:
        content = base64.b64decode(sketch, validate=True)
    except binascii.Error:
        return set()
    return {int.from_bytes(content[k : k + _BYTES], "big") for k in range(0, len(content), _BYTES)}


def expected_share(n: int, other_n: int, n_available: int) -> float:
    """Share of the union of two samples of the same `n_available` images that is in both, as expected.

    >>> expected_share(100, 100, 100)
    1.0
    """
    both = n * other_n / n_available
    return min(1.0, both / max(n + other_n - both, 1e-9))


def common_by_chance(found: int, n: int, share: float) -> float:
    """Probability of at most `found` of `n` images in common where `share` of them are expected."""
    if share >= 1.0:
        return 1.0 if found >= n else 0.0
    terms = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(max(share, 1e-300))
        + (n - k) * math.log1p(-share)
        for k in range(found + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))
