"""The page of a self-test, and what it comes to in sentences."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from shortcut_audit.report.environment import FrameData, FrameProvenance, FrameView, rendered
from shortcut_audit.report.figures import house_style, image_uri, png_bytes
from shortcut_audit.results.counts import Rate
from shortcut_audit.results.selftest import (
    NARROW,
    SELFTEST_FILE,
    USED,
    ClassOutcome,
    SelfTestResult,
)
from shortcut_audit.results.store import REPORT_FILE, write_bytes

__all__ = [
    "render_selftest",
    "selftest_counts",
    "selftest_headline",
    "selftest_meaning",
    "standing",
    "write_selftest",
]

# Fewer used plants, or clean classes, and one more error would move the shares by points.
_FEW = 30


def standing(item: ClassOutcome) -> str:
    """What a class counts as, in a word or two."""
    if item.role == "plant":
        return "used" if item.used else "unused"
    if item.told_by_lack:
        return "told by a lack"
    return item.role


def selftest_headline(result: SelfTestResult) -> str:
    """One sentence: hits, false alarms, recall."""
    hits, alarms = result.hits, result.false_alarms
    word = "Passed" if result.passed else "Not passed"
    return (
        f"{word}: {hits.hits} of {hits.n} used plants were called shortcuts, and {alarms.hits} of"
        f" {alarms.n} clean classes were."
    )


def selftest_counts(result: SelfTestResult) -> list[tuple[str, str]]:
    """What is counted, and the figure, in order."""
    open_used, open_clean = result.n_inconclusive
    unused = len(result.plants) - len(result.used)
    lines = [
        ("used plants called shortcut", _share(result.hits)),
        ("clean classes called shortcut", _share(result.false_alarms)),
        (
            "inconclusive",
            f"{open_used} of {result.hits.n} used plants,"
            f" {open_clean} of {result.false_alarms.n} clean classes",
        ),
        ("plants that the models did not use", f"{unused} of {len(result.plants)}"),
    ]
    if result.told_by_lack:
        n_called = sum(item.verdict == "shortcut" for item in result.told_by_lack)
        lines.append(
            (
                "classes told by the lack of others' plants",
                f"{len(result.told_by_lack)}, {n_called} of them called shortcut",
            )
        )
    lines += [
        ("planted orbits named (narrow used plants)", _recall(result, in_map=False)),
        ("planted orbits in the map (narrow used plants)", _recall(result, in_map=True)),
    ]
    lines.append(("AUROC of the score, used plants against clean classes", _auc(result)))
    if result.structure_free:
        lines += [
            ("models that learnt nothing: p below 0.05", _share(result.small_p)),
            (
                "models that learnt nothing: classes called shortcut",
                _share(result.false_alarms_without_structure),
            ),
        ]
    casts = [c for c in result.clean if c.kind == "colour cast" and (c.turned or 0.0) >= USED]
    if casts:
        n_named = sum("colour" in item.confounds for item in casts)
        lines.append(("used colour casts named as colour", f"{n_named} of {len(casts)}"))
    return lines


def _auc(result: SelfTestResult) -> str:
    found = result.auc
    if found is None:
        return "none to count"
    auc, low, high = found
    # Where all pairs are in order the interval has no width, however few they are.
    interval = f" ({low:.2f}–{high:.2f})" if auc < 1 else ""
    return f"{auc:.3f}{interval}, {result.hits.n} against {result.false_alarms.n}"


def _share(rate: Rate) -> str:
    if not rate.n:
        return "none to count"
    return f"{rate.hits} of {rate.n} ({100 * rate.low:.0f}–{100 * rate.high:.0f}%)"


def _recall(result: SelfTestResult, *, in_map: bool) -> str:
    found = result.recall(in_map=in_map)
    return f"{found[0]:.2f} on average over {found[1]}" if found else "none to count"


def selftest_meaning(result: SelfTestResult) -> str:
    """What that means for this machine, and how far it carries, in plain words."""
    hits, alarms = result.hits, result.false_alarms
    if result.passed:
        text = (
            "On this machine, with these versions, the audit finds the shortcuts that were planted"
            " for it"
            + (
                f", and calls {alarms.hits} of {alarms.n} classes without one a shortcut too, which is"
                " let pass."
                if alarms.hits
                else " and leaves classes without one alone."
            )
        )
    else:
        text = (
            f"{' '.join(result.failures)} Do not rely on verdicts made here before that is understood:"
            " look at the rows concerned, and run again with another --seed."
        )
    if min(hits.n, alarms.n) < _FEW:
        text += (
            f" That rests on {hits.n} used plants and {alarms.n} clean classes, which is few: as much"
            f" would be seen where only {100 * hits.low:.0f}% of shortcuts are found, or where"
            f" {100 * alarms.high:.0f}% of clean classes are called one."
        )
    if not result.complete:
        text += f" {len(result.cases)} of {result.n_planned} models are in; the rest was not run."
    return text


@house_style()
def selftest_figure(result: SelfTestResult) -> Figure:
    """Score of every class, by what the class is."""
    groups = {
        "used plants": result.used,
        "unused plants": tuple(item for item in result.plants if not item.used),
        "told by a lack": result.told_by_lack,
        "clean and controls": result.clean,
        "learnt nothing": result.structure_free,
    }
    figure, axes = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
    generator = np.random.default_rng(0)
    colours = {"shortcut": "#c8511b", "inconclusive": "#d9a400"}
    for place, items in enumerate(groups.values()):
        height = place + generator.uniform(-0.25, 0.25, len(items))
        axes.scatter(
            [item.score or 0.0 for item in items],
            height,
            s=14,
            c=[colours.get(item.verdict, "#4878a8") for item in items],
            linewidths=0,
        )
    axes.set_yticks(range(len(groups)), [f"{name} ({len(each)})" for name, each in groups.items()])
    axes.set(
        xlabel="score (orange: shortcut, yellow: inconclusive, blue: no shortcut)", xlim=(-0.2, 1.02)
    )
    axes.set_ylim(len(groups) - 0.5, -0.5)
    sns.despine(figure)
    return figure


def render_selftest(result: SelfTestResult) -> str:
    """The page as text; equal results give equal bytes."""
    return rendered(
        "selftest.html.j2",
        {},
        result=FrameView(_provenance(result), _notes(result)),
        test=result,
        truth_sentences=[],
        headline=selftest_headline(result),
        meaning=selftest_meaning(result),
        counts=selftest_counts(result),
        figure_uri=image_uri(png_bytes(selftest_figure(result)), "png"),
        standing=standing,
        used=USED,
        narrow=NARROW,
    )


def _notes(result: SelfTestResult) -> tuple[str, ...]:
    notes = []
    if not result.complete:
        notes.append(
            f"This test was not run to its end: {len(result.cases)} of {result.n_planned} models are in."
        )
    if not result.full:
        notes.append("This is the quick form: few cases, one network, shapes or images of one size.")
    return tuple(notes)


def _provenance(result: SelfTestResult) -> FrameProvenance:
    digests = "\n".join(case.data_digest for case in result.cases)
    n_images = sum(case.n_images for case in result.cases)
    return FrameProvenance(
        versions=result.versions,
        command=result.command,
        seed=result.seed,
        data=FrameData(
            spec=result.data,
            n_used=n_images,
            n_available=n_images,
            digest=hashlib.sha256(digests.encode()).hexdigest(),
        ),
    )


def write_selftest(result: SelfTestResult, folder: Path) -> Path:
    """Write `selftest.json` and the page into `folder`; returns the page. Raises RunFolderError."""
    write_bytes(folder / SELFTEST_FILE, result.as_text().encode())
    page = folder / REPORT_FILE
    write_bytes(page, render_selftest(result).encode())
    return page
