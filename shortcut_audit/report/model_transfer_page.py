"""The page of a transfer: runs compared with each other, and judged on other models."""

from __future__ import annotations

import hashlib
from pathlib import Path

from shortcut_audit.report.environment import FrameData, FrameProvenance, FrameView, rendered
from shortcut_audit.report.figures import image_uri, png_bytes
from shortcut_audit.report.model_transfer_figures import (
    agreement_figure,
    clustering_of,
    turned_figure,
)
from shortcut_audit.report.model_transfer_words import (
    MOST_TOLD,
    OUTCOMES,
    agreement_sentence,
    by_outcome,
    class_sentence,
    cost_sentence,
    dropped_sentences,
    judged_sentence,
    over_ceiling_text,
    transfer_headline,
    transfer_notes,
)
from shortcut_audit.report.verdict_words import nulls_of, number_text, shares_text
from shortcut_audit.results.model_transfer import LEAST_CEILING, ModelTransferResult
from shortcut_audit.results.provenance import DataProvenance
from shortcut_audit.results.store import REPORT_FILE, write_bytes

__all__ = ["render_transfer", "write_transfer_page"]


def render_transfer(result: ModelTransferResult) -> str:
    """The page as text; equal results give equal bytes, whenever they were measured."""
    agreement = image_uri(png_bytes(agreement_figure(result)), "png") if result.agreements else None
    turned = (
        image_uri(png_bytes(turned_figure(result)), "png")
        if any(item.turned is not None for item in result.judged)
        else None
    )
    return rendered(
        "model_transfer.html.j2",
        {"number": number_text, "share": shares_text},
        result=FrameView(_provenance(result), transfer_notes(result)),
        transfer=result,
        truth_sentences=[],
        headline=transfer_headline(result),
        cost=cost_sentence(result),
        agreement_uri=agreement,
        turned_uri=turned,
        grouped=bool(result.agreements) and clustering_of(result) is not None,
        dropped=dropped_sentences(result.dropped),
        outcomes=OUTCOMES,
        judged_sentence=judged_sentence,
        class_sentence=class_sentence,
        by_outcome=by_outcome,
        agreement_sentence=agreement_sentence,
        over_ceiling=over_ceiling_text,
        nulls_of=nulls_of,
        least_ceiling=LEAST_CEILING,
        most_told=MOST_TOLD,
    )


def _provenance(result: ModelTransferResult) -> FrameProvenance:
    """What was judged on; where nothing was, the images of the runs."""
    used: list[DataProvenance] = [item.provenance.data for item in result.judged] or [
        run.data for run in result.runs
    ]
    by_digest = {data.digest: data for data in used}
    digest = (
        next(iter(by_digest))
        if len(by_digest) == 1
        else hashlib.sha256("\n".join(sorted(by_digest)).encode()).hexdigest()
    )
    return FrameProvenance(
        versions=result.versions,
        command=result.command,
        seed=result.judged[0].provenance.seed if result.judged else result.runs[0].settings.seed,
        data=FrameData(
            spec=", ".join(dict.fromkeys(data.spec for data in used)),
            n_used=sum(data.n_used for data in by_digest.values()),
            n_available=sum({data.spec: data.n_available for data in used}.values()),
            digest=digest,
        ),
    )


def write_transfer_page(result: ModelTransferResult, folder: Path) -> Path:
    """Write the page into `folder`; returns it. Raises RunFolderError."""
    page = folder / REPORT_FILE
    write_bytes(page, render_transfer(result).encode())
    return page
