"""The table of classes on other sets, set by set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shortcut_audit.errors import ResultError
from shortcut_audit.results.transfer_findings import ClassTransfer, SetTransfer

if TYPE_CHECKING:
    from shortcut_audit.results.audit_result import AuditResult

__all__ = ["TRANSFER_DTYPES", "transfer_rows"]

# Columns that may hold nothing, and what they are all the same.
TRANSFER_DTYPES = {
    "change_p_value": "float64",
    "removed_over_random": "float64",
    "wide_share": "float64",
    "wide_replaced": "float64",
    "wide_removed": "float64",
    "wide_over_own": "float64",
    "null_random": "float64",
    "p_value": "float64",
    "q_value": "float64",
}


def transfer_rows(result: AuditResult) -> Iterator[dict[str, Any]]:
    """One row a searched class and other set, a set at a time.

    Raises ResultError where no other set was given.
    """
    if result.transfer is None:
        raise ResultError("There is no other set in this audit.", "Run it with one: --ood NAME=DATA")
    for item in result.transfer.by_set:
        rows = [_row(item, each) for each in item.by_class]
        yield {column: [row[column] for row in rows] for column in rows[0]}


def _row(item: SetTransfer, each: ClassTransfer) -> dict[str, Any]:
    before = each.flips.second.value or 0.0
    return {
        "set": item.set.name,
        "class": each.class_name,
        "paired": item.set.paired,
        "n": each.n_images,
        "verdict": each.verdict,
        "effect": each.effect,
        "recall": each.recall.value,
        "recall_low": each.recall.low,
        "recall_high": each.recall.high,
        "recall_home": each.recall_home.value,
        "recall_home_n": each.recall_home.n,
        "change_low": each.change_interval[0],
        "change_high": each.change_interval[1],
        "change_p_value": each.change_p_value,
        "false_calls": each.false_calls.value,
        "false_calls_n": each.false_calls.n,
        "tpr_kept": each.tpr_kept.value,
        "fpr_kept": each.fpr_kept.value,
        "tpr_kept_home": each.tpr_kept_home.value,
        "n_orbits": each.n_orbits,
        "share": each.share,
        "props": each.props,
        "lacks": each.lacks,
        "replaced": each.replaced.difference,
        "removed": each.removed.difference,
        "removed_over_random": each.removed_over_random and each.removed_over_random.difference,
        "wide_share": each.wide_share,
        "wide_replaced": each.wide_replaced and each.wide_replaced.difference,
        "wide_removed": each.wide_removed and each.wide_removed.difference,
        "wide_over_own": each.wide_over_own and each.wide_over_own.difference,
        "restored": each.restored.difference,
        "restored_over_foreign": each.restored_over_foreign.difference,
        "flip": each.flips.difference,
        "null_foreign": (each.flips_over_foreign.second.value or 0.0) - before,
        "null_erased": (each.flips_over_erased.second.value or 0.0) - before,
        "null_random": None
        if each.flips_over_random is None
        else (each.flips_over_random.second.value or 0.0) - before,
        "p_value": each.p_value,
        "q_value": each.q_value,
        "reason": each.reason or None,
        "needed": each.needed or None,
    }
