"""Names for runs and models that are told beside each other."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["distinct_names"]


def distinct_names(wanted: Sequence[tuple[str, str]], taken: Sequence[str] = ()) -> list[str]:
    """A name for each of `wanted` (name, what tells it from others of that name), none twice.

    >>> distinct_names([("net", "first"), ("net", "second"), ("other", "x")])
    ['net (first)', 'net (second)', 'other']
    """
    plain = [name for name, _ in wanted]
    names: list[str] = []
    for name, more in wanted:
        alike = plain.count(name) > 1 or name in taken
        told = f"{name} ({more})" if alike and more else name
        number, found = 1, told
        while found in names or found in taken:
            number += 1
            found = f"{told} #{number}"
        names.append(found)
    return names
