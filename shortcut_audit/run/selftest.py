"""A self-test: plants known patterns, trains models on them, audits them, keeps the truth beside."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from shortcut_audit.data.pixels import AuditImages, collect_images, make_transform
from shortcut_audit.data.plans import Cast, Plan
from shortcut_audit.data.planting import plant
from shortcut_audit.data.sources import ImageSource, open_source
from shortcut_audit.data.writing import ARRAYS_NAME, SetWriter, file_digest
from shortcut_audit.errors import AuditInterruptedError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.fourier.transform import spectrum_of, transplant
from shortcut_audit.models.classifier import borrowed, device_name, pick_device
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.provenance import installed_versions
from shortcut_audit.results.selftest import CaseOutcome, ClassOutcome, Role, SelfTestResult
from shortcut_audit.results.settings import AuditSettings, settings_from
from shortcut_audit.results.store import claim_folder, read_state, write_bytes, write_state
from shortcut_audit.results.truth import Pattern
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest
from shortcut_audit.run.selftest_cases import (
    Amounts,
    Case,
    Images,
    describe,
    full_cases,
    opened_images,
    quick_cases,
    strength_of,
)
from shortcut_audit.training.loop import fit
from shortcut_audit.training.observers import EpochRecord, Step
from shortcut_audit.training.settings import TrainSettings, train_settings_from
from shortcut_audit.training.subject import ModelChoice, Subject, build_subject
from shortcut_audit.version import __version__

__all__ = ["SelfTestRequest", "run_case", "run_selftest", "turned_by_planted"]

WORK = "work"
# Patterns must not be clipped away; the images are squeezed by so much, in 1/255, beforehand.
_HEADROOM, _MAX_CLIPPED = 16.0, 0.05
# Other images that each judgement image of a class gives its planted orbits to.
_RECEIVERS = 2
_BATCH = 256
# Of a case's progress, what training takes.
_PARTS, _TRAINING_PARTS = 100, 45

# progress(stage, done, total), as of an audit.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class SelfTestRequest:
    """What to test on. `data`: images of the user's own to plant into, at `size` (H, W) where it is
    given; None: shapes that the package draws. `model`: one architecture for all cases, as for `train`.
    """

    full: bool = False
    data: str | None = None
    model: str | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    amounts: Amounts = field(default_factory=Amounts)
    command: str = "shortcut_audit.run.selftest.run_selftest(...)"


def run_selftest(
    request: SelfTestRequest,
    out: Path | None = None,
    *,
    progress: Progress | None = None,
    on_case: Callable[[CaseOutcome], None] | None = None,
    most_cases: int | None = None,
) -> SelfTestResult:
    """Run all cases of a self-test.

    With `out`, each finished case is kept in its folder `work`: the same request on the same folder runs
    what is missing. `most_cases`: run the first ones only; the result says that it is not whole.
    Raises AuditError.
    """
    images = opened_images(request.data, request.size, request.seed)
    maker = full_cases if request.full else quick_cases
    cases = maker(
        images.class_names,
        request.seed,
        model=request.model,
        size=images.size,
        channels=images.channels,
    )
    work = _Work.claimed(out, request, images) if out is not None else None
    outcomes: list[CaseOutcome] = []
    chosen = cases[:most_cases]
    for number, case in enumerate(chosen):

        def tell(part: int, number: int = number) -> None:
            if progress is not None:
                progress("self-test", number * _PARTS + part, len(chosen) * _PARTS)

        outcome = work.kept(case) if work is not None else None
        if outcome is None:
            try:
                outcome = run_case(case, images, request.amounts, tell)
            except (KeyboardInterrupt, AuditInterruptedError) as error:
                raise _stopped(number, len(cases), out) from error
            if work is not None:
                work.keep(case, outcome)
        tell(_PARTS)
        outcomes.append(outcome)
        if on_case is not None:
            on_case(outcome)
    return SelfTestResult(
        full=request.full,
        seed=request.seed,
        data=images.spec,
        command=request.command,
        device=device_name(pick_device("auto")),
        versions=installed_versions(),
        n_planned=len(cases),
        cases=tuple(outcomes),
    )


def _stopped(n_done: int, n_cases: int, out: Path | None) -> AuditInterruptedError:
    if out is None:
        return AuditInterruptedError("Stopped; nothing was kept.")
    return AuditInterruptedError(
        f"Stopped with {n_done} of {n_cases} cases done, kept in {out}.",
        "Run the same command again to go on from here.",
    )


# Cases that are done.


@dataclass(frozen=True)
class _Work:
    """Finished cases in a folder, by a key of all that decides them."""

    folder: Path
    amounts: Amounts
    images: Images
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def claimed(cls, out: Path, request: SelfTestRequest, images: Images) -> _Work:
        claim_folder(out, "self-test")
        if read_state(out) is None:
            write_state(out, {"state": "self-test", "of": "self-test", "command": request.command})
        (out / WORK).mkdir(exist_ok=True)
        return cls(out / WORK, request.amounts, images)

    def _file(self, case: Case) -> Path:
        content = [
            case.model_dump(mode="json"),
            self.amounts.model_dump(),
            self.images.spec,
            self._content(case),
            __version__,
        ]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:16]}.json"

    def _content(self, case: Case) -> str:
        """Digest of the images that a case is tested on: others may lie under the same path by now."""
        key = case.model_dump_json()
        if key not in self.digests:
            pixels, labels = self.images.split("test", self.amounts.n_test, case)
            state = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode())
            state.update(np.ascontiguousarray(pixels).tobytes())
            state.update(np.ascontiguousarray(labels).tobytes())
            self.digests[key] = state.hexdigest()
        return self.digests[key]

    def kept(self, case: Case) -> CaseOutcome | None:
        """The outcome of an earlier run; a damaged file counts as missing."""
        try:
            return CaseOutcome.model_validate_json(self._file(case).read_bytes())
        except (OSError, ValidationError):
            return None

    def keep(self, case: Case, outcome: CaseOutcome) -> None:
        write_bytes(self._file(case), outcome.model_dump_json(indent=1).encode())


# One case.


def run_case(case: Case, images: Images, amounts: Amounts, tell: Callable[[int], None]) -> CaseOutcome:
    """Plant, train, audit and measure the truth of one model; `tell(part)` of a hundred parts."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made, patterns = _planted(case, images, amounts, Path(folder))
        subject = _trained(case, open_source(f"{made}::train"), amounts, tell)
        source = open_source(f"{made}::test")
        settings = settings_from({"images_per_class": amounts.n_test, "seed": case.seed, "examples": 0})
        result = _audited(case, subject, source, settings, tell)
        truths = _truths(case, subject, source, settings, patterns)
        digest = file_digest(made)
        n_images = len(open_source(f"{made}::train").labels) + len(source.labels)
    return CaseOutcome(
        name=case.name,
        architecture=subject.architecture,
        height=case.size[0],
        width=case.size[1],
        structure=case.structure,
        accuracy=result.predictions.accuracy,
        n_images=n_images,
        data_digest=digest,
        seconds=round(time.monotonic() - began, 1),
        by_class=tuple(
            _outcome(case, name, patterns, truths.get(name), result) for name in result.class_names
        ),
    )


def _planted(
    case: Case, images: Images, amounts: Amounts, folder: Path
) -> tuple[Path, tuple[Pattern, ...]]:
    """The file of the case's images, `train` and `test`, and what is planted in them."""
    with SetWriter(folder / "plain", images.class_names, ("npz",)) as writer:
        for name, n in (("train", amounts.n_train), ("test", amounts.n_test)):
            pixels, labels = images.split(name, n, case)
            with writer.split(name, len(pixels), pixels.shape[1:]) as split:
                split.add(pixels, labels)
        writer.finish()
    plain = folder / "plain" / ARRAYS_NAME
    if not case.planted:
        return plain, ()
    plan = Plan(seed=case.seed, headroom=_HEADROOM, max_clipped=_MAX_CLIPPED, plant=case.planted)
    truth = plant(str(plain), plan, folder / "planted", formats=("npz",))
    return folder / "planted" / ARRAYS_NAME, truth.patterns


def _trained(case: Case, source: ImageSource, amounts: Amounts, tell: Callable[[int], None]) -> Subject:
    """The case's network, trained on all images of `source`; untrained where the case says so."""
    settings = _train_settings(case, amounts)
    shape = source.peek(0).shape  # type: ignore[union-attr]
    device = pick_device(settings.device)
    choice = ModelChoice(spec=case.model, size=case.size)
    n_classes = len(source.class_names)
    subject = build_subject(choice, settings, n_classes, (shape[2], *shape[:2]), device)
    if case.structure == "random weights":
        return subject
    pre, labels = subject.preprocessing, source.labels
    if case.structure == "random labels":
        labels = np.random.default_rng(case.seed).permutation(labels)
    transform = make_transform(pre)
    stacked = np.stack([transform(source.read(row), source.name(row)) for row in range(len(labels))])
    pixels = torch.from_numpy(stacked).float() / (255 if stacked.dtype == np.uint8 else 1)
    mean, std = (torch.tensor(each).reshape(-1, 1, 1) for each in (pre.mean, pre.std))
    chosen = settings.model_copy(update={"channels_last": subject.layout is torch.channels_last})
    fit(
        subject.network,
        pixels.sub_(mean).div_(std),
        torch.from_numpy(labels.copy()),
        observers=[_Epochs(settings.epochs, tell)],
        **chosen.model_dump(),
    )
    return subject


def _train_settings(case: Case, amounts: Amounts) -> TrainSettings:
    own = case.model.startswith("shortcut_audit.models.small:")
    # Networks of all kinds learn with adamw; the package's small ones faster with sgd.
    epochs = max(1, round(case.effort * amounts.epochs))
    optimizer = "sgd" if own else "adamw"
    return train_settings_from({"epochs": epochs, "seed": case.seed, "optimizer": optimizer})


@dataclass(frozen=True)
class _Epochs:
    """Tells how far the training of a case has come."""

    n_epochs: int
    tell: Callable[[int], None]

    def on_step(self, step: Step) -> None: ...

    def on_epoch(self, record: EpochRecord) -> None:
        self.tell(_TRAINING_PARTS * record.epoch // self.n_epochs)


def _audited(
    case: Case,
    subject: Subject,
    source: ImageSource,
    settings: AuditSettings,
    tell: Callable[[int], None],
) -> AuditResult:
    def on_pass(stage: str, done: int, total: int) -> None:
        if stage == "measuring":
            rest = _PARTS - _TRAINING_PARTS - 1
            tell(_TRAINING_PARTS + rest * min(done, total) // max(total, 1))

    pre = subject.preprocessing
    request = AuditRequest(
        model=LoadedModel(subject.network, case.model, subject.architecture, subject.record),
        source=source,
        settings=settings,
        command="shortcut-audit selftest",
        mean=pre.mean,
        std=pre.std,
        size=case.size,
    )
    return run_audit(request, progress=on_pass)


# The truth.


def turned_by_planted(
    answer: Callable[[Tensor], Tensor],
    donors: Tensor,
    receivers: Tensor,
    mask: Tensor,
    output: int,
) -> Paired:
    """Images called by `output` with what `donors` have under `mask`, against as they are.

    `answer`: pixels (b, C, H, W) in [0,1] to logits; `donors`, `receivers` (n, C, H, W); `mask`
    (H, W//2+1) bool, Hermitian.
    """
    counts = np.zeros(3, dtype=np.int64)
    for start in range(0, len(donors), _BATCH):
        given, taking = donors[start : start + _BATCH], receivers[start : start + _BATCH]
        mixed = transplant(spectrum_of(taking), spectrum_of(given), mask, taking.shape[-1])
        after, before = (answer(each).argmax(dim=1) == output for each in (mixed, taking))
        pairs = (after & before, after & ~before, ~after & before)
        counts += [int(each.sum()) for each in pairs]
    both, only_first, only_second = counts.tolist()
    return Paired(n=len(donors), both=both, only_first=only_first, only_second=only_second)


def _truths(
    case: Case,
    subject: Subject,
    source: ImageSource,
    settings: AuditSettings,
    patterns: Sequence[Pattern],
) -> dict[str, Paired]:
    """What exactly the planted orbits do to the model, by class, on the audit's judgement images."""
    n_classes = len(source.class_names)
    images = collect_images(source, settings, subject.preprocessing, range(n_classes))
    grid, device = FrequencyGrid(*case.size), pick_device(settings.device)
    found = {}
    with borrowed(
        subject.network, subject.preprocessing, device, "float32", case.seed, subject.layout
    ) as classifier:
        for name, chosen in _orbits_at_work(case, images.class_names, patterns, grid).items():
            place = images.class_names.index(name)
            donors, receivers = (each.to(device) for each in _pairs(images, place, case.seed))
            mask = half_plane_mask(grid, chosen).to(device)
            found[name] = turned_by_planted(classifier, donors, receivers, mask, images.outputs[place])
    return found


def _orbits_at_work(
    case: Case, names: Sequence[str], patterns: Sequence[Pattern], grid: FrequencyGrid
) -> dict[str, NDArray[np.bool_]]:
    """Orbits (n_orbits,) that would tell each class: of its plant; DC of a cast; of a class without,
    those of all plants, which it lacks. Classes that no orbit could tell are left out."""
    found = {}
    lacked = np.zeros(grid.n_orbits, dtype=np.bool_)
    for entry, pattern in zip(case.planted, patterns, strict=True):
        chosen = np.zeros(grid.n_orbits, dtype=np.bool_)
        if isinstance(entry, Cast):
            chosen[0] = True
        elif pattern.role == "shortcut":
            chosen[[grid.orbit_of(u, v) for u, v in pattern.orbits]] = True
            lacked |= chosen
        if chosen.any():
            found.update(dict.fromkeys(pattern.classes, chosen))
    if lacked.any():
        carriers = {name for pattern in patterns for name in pattern.classes}
        found.update(dict.fromkeys((name for name in names if name not in carriers), lacked))
    return found


def _pairs(images: AuditImages, place: int, seed: int) -> tuple[Tensor, Tensor]:
    """Judgement images of a class, each `_RECEIVERS` times, and as many of all other classes."""
    start, stop = images.judge_rows[place]
    others = [
        row for other, rows in enumerate(images.judge_rows) if other != place for row in range(*rows)
    ]
    n = _RECEIVERS * (stop - start)
    order = np.random.default_rng([seed, place]).permutation(others)
    read = images.store.block
    own = torch.from_numpy(read(start, stop)).repeat(_RECEIVERS, 1, 1, 1)
    taking = np.concatenate([read(row, row + 1) for row in np.resize(order, n).tolist()])
    return own, torch.from_numpy(taking)


# What the audit made of it.


def _outcome(
    case: Case,
    name: str,
    patterns: Sequence[Pattern],
    truth: Paired | None,
    result: AuditResult,
) -> ClassOutcome:
    """One class of the audit beside what is true of it."""
    carried = [
        (entry, pattern)
        for entry, pattern in zip(case.planted, patterns, strict=True)
        if name in pattern.classes
    ]
    # What sets the class apart comes before what all classes carry.
    carried.sort(key=lambda pair: pair[0].classes == "all")
    entry, pattern = carried[0] if carried else (None, None)
    role: Role = "clean"
    if pattern is not None:
        role = "plant" if pattern.role == "shortcut" else "control"
    item = next(each for each in result.shortcuts.by_class if each.class_name == name)
    grid = FrequencyGrid(*case.size)
    planted = {grid.orbit_of(u, v) for u, v in pattern.orbits} if role == "plant" and pattern else set()
    named = {grid.orbit_of(u, v) for u, v in item.extent.orbits} if item.extent else set()
    maps = [each.class_name for each in result.dominant_frequencies.by_class]
    kept = result.arrays["dominant_frequencies/kept"][maps.index(name)].astype(bool)
    return ClassOutcome(
        class_name=name,
        role=role,
        planted="" if entry is None else f"{describe(entry)} {strength_of(entry):g}",
        kind="" if entry is None else describe(entry),
        strength=None if entry is None else strength_of(entry),
        truth=truth,
        n_planted=len(planted),
        n_named=len(named),
        n_planted_named=len(planted & named),
        n_planted_in_map=int(kept[sorted(planted)].sum()),
        verdict=item.verdict,
        score=item.score,
        p_value=item.p_value,
        q_value=item.q_value,
        found=item.kind,
        confounds=item.confounds,
    )
