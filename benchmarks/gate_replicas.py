"""Audits of the same model on other images, drawn from the outcomes of a real one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.measures.verdicts import decided, with_scores
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired, Rate
from shortcut_audit.results.outcomes import outcomes_of
from shortcut_audit.results.shortcut_findings import ClassShortcut, Rung

__all__ = ["replica_of"]

Generator = np.random.Generator


def replica_of(result: AuditResult, generator: Generator) -> AuditResult:
    """`result`, with the images of each class and split drawn again, with replacement.

    Reliability stays that of the audit: importances of single images are not kept.
    """
    outcomes = outcomes_of(result)
    assert outcomes is not None
    split = result.arrays["outcomes/split"]
    drawn = np.concatenate(
        [
            generator.choice(rows, len(rows))
            for label in range(len(result.class_names))
            for part in (0, 1)
            for rows in [np.flatnonzero((outcomes.label == label) & (split == part))]
        ]
    )
    right = outcomes.right[drawn]
    by_class = tuple(
        _rate(right[outcomes.label[drawn] == label]) for label in range(len(result.class_names))
    )
    predictions = result.predictions.model_copy(
        update={"accuracy": _rate(right), "accuracy_by_class": by_class}
    )
    times = np.bincount(drawn, minlength=len(outcomes.label))
    items = []
    for item in result.shortcuts.by_class:
        rows, called = outcomes.kept[item.class_name]
        own = outcomes.label[rows] == result.class_names.index(item.class_name)
        kept = {
            "tpr_kept": _times(called, own, times[rows]),
            "fpr_kept": _times(called, ~own, times[rows]),
        }
        items.append(_tried_again(item.model_copy(update=kept), generator))
    shortcuts = result.shortcuts.model_copy(update={"by_class": tuple(decided(items))})
    findings = tuple(
        {"predictions": predictions, "shortcuts": shortcuts}.get(found.measure, found)
        for found in result.findings
    )
    origin = result.provenance
    # Other images, of which no single outcomes are known: compared as such.
    data = origin.data.model_copy(update={"digest": str(generator.integers(2**62))})
    arrays = {name: each for name, each in result.arrays.items() if not name.startswith("outcomes/")}
    return result.model_copy(
        update={"findings": findings, "provenance": origin.model_copy(update={"data": data})}
    ).with_arrays(arrays)


def _rate(hits: NDArray[np.bool_]) -> Rate:
    return Rate(hits=int(hits.sum()), n=len(hits))


def _times(called: NDArray[np.bool_], own: NDArray[np.bool_], times: NDArray[Any]) -> Rate:
    return Rate(hits=int(times[own & called].sum()), n=int(times[own].sum()))


def _tried_again(item: ClassShortcut, generator: Generator) -> ClassShortcut:
    ladder = tuple(_rung_again(rung, generator) for rung in item.ladder)
    if not ladder:
        return item
    looks = 1 + any(rung.flips.leaning_first is not None for rung in item.ladder)
    return with_scores(item.model_copy(update={"ladder": ladder}), looks)


def _rung_again(rung: Rung, generator: Generator) -> Rung:
    """Transplants drawn again; each null given what the transplants did."""
    flips = _drawn(rung.flips, generator)
    after = flips.both + flips.only_first
    changes: dict[str, Any] = {"flips": flips}
    for name in ("flips_over_foreign", "flips_over_erased", "flips_over_random"):
        null = getattr(rung, name)
        if null is not None:
            share = after / flips.n if null.n != flips.n else None
            changes[name] = _null_again(null, after, share, generator)
    return rung.model_copy(update=changes)


def _drawn(pair: Paired, generator: Generator) -> Paired:
    cells = [pair.both, pair.only_first, pair.only_second]
    cells.append(pair.n - sum(cells))
    both, first, second, _ = generator.multinomial(pair.n, np.array(cells) / pair.n).tolist()
    return Paired(
        n=pair.n, both=both, only_first=first, only_second=second, **_leaning(pair, first, second)
    )


def _leaning(pair: Paired, first: int, second: int) -> dict[str, int]:
    """Donors that lean one way, in the proportion in which they did."""
    if pair.leaning_first is None or pair.leaning_second is None:
        return {}
    ratio = (pair.leaning_first + pair.leaning_second) / max(pair.only_first + pair.only_second, 1)
    return {"leaning_first": round(ratio * first), "leaning_second": round(ratio * second)}


def _null_again(null: Paired, after: int, share: float | None, generator: Generator) -> Paired:
    """The null drawn given how many images the transplants turned (`share` of them, of other draws)."""
    n_after = after if share is None else int(generator.binomial(null.n, share))
    turned, left = null.both + null.only_first, null.n - null.both - null.only_first
    both = int(generator.binomial(n_after, null.both / turned)) if turned else 0
    second = int(generator.binomial(null.n - n_after, null.only_second / left)) if left else 0
    first = n_after - both
    return Paired(
        n=null.n, both=both, only_first=first, only_second=second, **_leaning(null, first, second)
    )
