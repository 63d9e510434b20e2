from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model, random_images
from driven import outline_of_sizes
from replicas import logits_of
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.shifts import corrupt
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.measures import corruptions, interface, measures_of
from shortcut_audit.measures.corruptions import Corruptions, shifts_of
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.statistics import adjusted_p_values, paired_p_value

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SHIFTS = ("jpeg:2,5", "gaussian-noise:4", "gaussian_blur:5", "elastic:3")
NAMES = ["jpeg-2", "jpeg-5", "gaussian_noise-4", "gaussian_blur-5", "elastic-3"]


def copy_of(audited: Any, row: int, image: np.ndarray, name: str, severity: int) -> np.ndarray:
    """One image corrupted by itself."""
    key = audited.images.store.digests[row]
    pixels = torch.from_numpy(image).float()[None]
    return corrupt(pixels, name, severity, 0, [key], eight_bit=True)[0].double().numpy()


def slow_energy(
    images: list[np.ndarray], copies: list[np.ndarray], bins: set[tuple[int, int]]
) -> np.ndarray:
    """Seven energies of a region, bin by bin of the full plane."""
    before = np.stack([np.fft.fft2(image) for image in images])
    after = np.stack([np.fft.fft2(image) for image in copies])
    energy = np.zeros(7)
    for u, v in bins:
        clean = (np.abs(before[:, :, u, v]) ** 2).sum(axis=1)
        shifted = (np.abs(after[:, :, u, v]) ** 2).sum(axis=1)
        difference = (np.abs(after[:, :, u, v] - before[:, :, u, v]) ** 2).sum(axis=1)
        changes = [
            np.mean([max(a - b, 0) for a, b in zip(clean, shifted, strict=True)]),
            np.mean([max(b - a, 0) for a, b in zip(clean, shifted, strict=True)]),
            difference.mean(),
        ]
        rounding = images[0].size / (12 * 255**2)
        energy[:4] += [clean.mean(), *changes]
        energy[4:] += np.array(changes) / max(clean.mean(), rounding) / len(bins)
    return energy


@pytest.mark.parametrize("domain", ["pixels", "normalized"])
def test_counts_and_energies_equal_the_slow_replica(domain: str, run_on: Any) -> None:
    # An odd width, where no column of the half plane stands for itself but the first.
    shape, network = (3, 8, 7), linear_model(3, (3, 8, 7), seed=3, scale=1.0)
    audited = run_on(
        network,
        random_images(9, 3, shape),
        config={"mean": MEAN, "std": STD},
        kept_share=0.3,
        shifts=SHIFTS,
        domain=domain,
        classes=("0", "2"),
    )
    network = network.double().eval()
    result, finding = audited.result, audited.result.corruptions
    assert finding is not None
    assert [str(shift) for shift in finding.shifts] == NAMES
    assert [item.class_name for item in finding.by_class] == ["0", "2"]
    energy = result.arrays["corruptions/energy"]
    kept = result.arrays["dominant_frequencies/kept"]
    best = result.arrays["shortcuts/best"]
    bands = result.arrays["orbits/band"]
    n_changed = 0
    for column, index in enumerate((0, 2)):
        start, _ = audited.images.judge_rows[index]
        images = list(audited.judge(index))
        clean = [int(logits_of(network, image, MEAN, STD).argmax()) == index for image in images]
        for number, shift in enumerate(finding.shifts):
            copies = [
                copy_of(audited, start + place, image, shift.corruption, shift.severity)
                for place, image in enumerate(images)
            ]
            called = [int(logits_of(network, image, MEAN, STD).argmax()) == index for image in copies]
            pair = finding.by_class[column].by_shift[number].recall
            assert pair.n == len(images)
            assert pair.both == sum(a and b for a, b in zip(clean, called, strict=True))
            assert pair.only_first == sum(a and not b for a, b in zip(clean, called, strict=True))
            n_changed += pair.only_first + pair.only_second
            assert pair.only_second == sum(b and not a for a, b in zip(clean, called, strict=True))
            chosen = [kept[column], best[column], np.arange(len(bands)) > 0, np.arange(len(bands)) == 0]
            chosen += [bands == band for band in range(4)]
            for place, own in enumerate(chosen):
                bins = {
                    b for orbit, inside in zip(audited.orbits, own, strict=True) if inside for b in orbit
                }
                expected = slow_energy(images, copies, bins)
                np.testing.assert_allclose(energy[column, number, place], expected, rtol=1e-5, atol=1e-9)
    assert n_changed > 3
    assert finding.by_class[0].n_orbits_dominant == kept[0].sum() > 0


def test_p_is_adjusted_over_the_classes_of_a_shift(run_on: Any) -> None:
    audited = run_on(
        conv_model(3, 1, seed=1), random_images(12, 3, (1, 8, 8)), shifts="contrast:5,haze:5"
    )
    finding = audited.result.corruptions
    for number in range(2):
        pairs = [item.by_shift[number].recall for item in finding.by_class]
        p = [paired_p_value(pair.only_first, pair.only_second) for pair in pairs]
        assert [item.by_shift[number].q_value for item in finding.by_class] == adjusted_p_values(p)
    whole = finding.accuracy(1)
    assert whole.n == 18
    assert whole.second.hits == sum(item.by_shift[1].recall.second.hits for item in finding.by_class)


def content_of(result: AuditResult) -> list[tuple[Any, ...]]:
    finding = result.corruptions
    assert finding is not None
    return [(item.class_name, [each.recall for each in item.by_shift]) for item in finding.by_class]


def test_neither_batches_nor_blocks_nor_the_domain_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, options = random_images(10, 2, (3, 8, 8)), {"shifts": ["impulse_noise:3", "elastic:5"]}
    options |= {"mean": MEAN, "std": STD, "dtype": "float64", "search": "exact", "resolution": "orbits"}
    network = conv_model(2, 3, seed=2)
    whole = sa.audit(network, pairs, batch_size=64, **options)
    single = sa.audit(network, pairs, batch_size=1, **options)
    assert single.corruptions == whole.corruptions
    np.testing.assert_array_equal(single.arrays["corruptions/energy"], whole.arrays["corruptions/energy"])
    normalized = sa.audit(network, pairs, batch_size=64, domain="normalized", **options)
    assert content_of(normalized) == content_of(whole)
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 7)
    blocks = sa.audit(network, pairs, batch_size=64, **options)
    assert content_of(blocks) == content_of(whole)
    np.testing.assert_allclose(
        blocks.arrays["corruptions/energy"], whole.arrays["corruptions/energy"], rtol=1e-10
    )


def test_what_an_image_is_decides_its_noise_and_not_where_it_stands() -> None:
    """A class keeps its numbers when images of another one come before it."""
    pairs, options = random_images(8, 3, (1, 8, 8)), {"shifts": ["gaussian_noise:5"], "batch_size": 16}
    network = conv_model(3, 1)
    some = [(image, label) for image, label in pairs if label != 0] + pairs[:4]
    few, many = (
        sa.audit(network, images, class_names=["a", "b", "c"], **options) for images in (some, pairs)
    )
    assert content_of(few)[1:] == content_of(many)[1:]
    whole = corruptions.REGIONS.index("all")
    np.testing.assert_array_equal(
        *(each.arrays["corruptions/energy"][1:, :, whole] for each in (few, many))
    )


@pytest.mark.parametrize("values", [np.uint8, np.float32])
def test_images_of_any_type_are_judged_as_eight_bit_copies(values: type) -> None:
    pairs = random_images(6, 2, (1, 8, 8))
    given = [(image if values is np.uint8 else image.astype(np.float32) / 255, y) for image, y in pairs]
    seen: list[torch.Tensor] = []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.clone())
        return images.flatten(1)[:, :2]

    sa.audit(model, given, shifts="contrast:5", batch_size=16, search="exact", resolution="orbits")
    # The last batches are those of the only shift.
    for batch in seen[-2:]:
        steps = batch * 255
        torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_all_leaves_out_what_needs_colour_where_there_is_none(n_channels: int) -> None:
    plan = outline_of_sizes([4, 4], shifts="all:2,jpeg:1,all:2")
    plan = type(plan)(**{**plan.__dict__, "n_channels": n_channels})
    found = shifts_of(plan)
    assert len(found) == len(set(found)) == (18 if n_channels == 3 else 17)
    assert ("saturate-2" in map(str, found)) == (n_channels == 3)
    # Severities of one corruption stand together.
    assert [str(each) for each in found if each.name == "jpeg"] == ["jpeg-1", "jpeg-2"]


def test_what_images_cannot_have_done_to_them_is_said_before_anything_is_run(tmp_path: Path) -> None:
    grey = random_images(6, 2, (1, 8, 8))
    with pytest.raises(DataError, match="does nothing to grey images.*Leave saturate-3 out of --shift"):
        sa.audit(conv_model(2, 1), grey, shifts="jpeg,saturate:3", batch_size=8, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingsError, match="no corruption 'jpgg'; jpeg comes near"):
        sa.audit(conv_model(2, 1), grey, shifts="jpgg")


def test_no_shifts_no_measure() -> None:
    plan = outline_of_sizes([4, 4])
    assert not any(isinstance(measure, Corruptions) for measure in measures_of(plan))
    result = sa.audit(conv_model(2, 1), random_images(6, 2, (1, 8, 8)), batch_size=8)
    assert result.corruptions is None
    assert "corruptions/energy" not in result.arrays


class Counted(nn.Module):
    """Counts the images it is shown, outside everything a digest sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.n_seen = np.zeros(1, dtype=int)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_seen[0] += len(x)
        return self.inner(x)


def test_shifts_rerun_nothing_else_and_more_shifts_only_themselves(tmp_path: Path) -> None:
    """10 judgement images; checks of the model before an audit show it 9 images."""
    pairs = random_images(10, 2, (1, 6, 6))
    made = []
    for shifts in ((), "jpeg:1-2", "jpeg:1-2", "jpeg:1-2,contrast:4", "contrast:4", ()):
        network = Counted(conv_model(2, 1))
        result = sa.audit(network, pairs, shifts=shifts, batch_size=16, examples=0, run=tmp_path / "run")
        made.append(int(network.n_seen[0]) - 9)
        fresh = sa.audit(conv_model(2, 1), pairs, shifts=shifts, batch_size=16, examples=0)
        assert result.findings == fresh.findings
        assert {c.measure: c.image_passes for c in result.provenance.cost} == {
            c.measure: c.image_passes for c in fresh.provenance.cost
        }
    assert made[0] > 30
    assert made[1:] == [30, 0, 10, 0, 0]


def test_passes_planned_are_passes_made() -> None:
    pairs = random_images(8, 3, (3, 6, 6))
    result = sa.audit(
        conv_model(3, 3), pairs, shifts="jpeg:1-3,haze", classes=("0", "1"), class_names=["0", "1", "2"]
    )
    plan = outline_of_sizes([4] * 3, 6, (0, 1), n_judge=4, shifts="jpeg:1-3,haze")
    plan = type(plan)(**{**plan.__dict__, "n_channels": 3})
    (made,) = [c.image_passes for c in result.provenance.cost if c.measure == "corruptions"]
    assert made == Corruptions().planned_passes(plan) == 9 * 8


def test_another_seed_draws_other_noise() -> None:
    pairs = [(image, label) for image, label in random_images(4, 2, (1, 8, 8))]
    energies = []
    for seed in (0, 1):
        result = sa.audit(
            linear_model(2, (1, 8, 8)), pairs, shifts="gaussian_noise:5", seed=seed, images_per_class=4
        )
        energies.append(result.arrays["corruptions/energy"][:, :, corruptions.REGIONS.index("all"), 2:])
    assert not np.allclose(energies[0], energies[1], rtol=1e-3)
    first, second = (Corruptions().relevant_to(outline_of_sizes([4, 4], seed=seed)) for seed in (0, 1))
    assert first != second
