"""Flips and crops: what they do to frequencies, and that it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_images, save_npz

from shortcut_audit.results.truth import GroundTruth
from shortcut_audit.training.augment import augmentation, augmentation_warnings, has_truth
from shortcut_audit.training.settings import TrainSettings


def wave(u: int, v: int, height: int = 16, width: int = 24) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cosine = 0.5 + 0.4 * torch.cos(2 * torch.pi * (u * y / height + v * x / width) + 0.3)
    return cosine.expand(64, 1, height, width).float()


def peaks(images: torch.Tensor) -> list[tuple[int, int]]:
    """The orbit of most energy in each image, DC aside, as (u, v) with v >= 0."""
    found = []
    for image in images[:, 0].numpy():
        amplitude = np.abs(np.fft.rfft2(image))
        amplitude[0, 0] = 0
        u, v = np.unravel_index(amplitude.argmax(), amplitude.shape)
        found.append((int(u - image.shape[0]) if u > image.shape[0] // 2 else int(u), int(v)))
    return found


def augmented(images: torch.Tensor, **options: object) -> torch.Tensor:
    module = augmentation(TrainSettings(**options), *images.shape[2:])
    assert module is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result: torch.Tensor = module(images)
    assert result.shape == images.shape
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    return result


def test_a_flip_moves_a_wave_to_its_mirror_image() -> None:
    found = peaks(augmented(wave(3, 5), flip=True))
    assert set(found) == {(3, 5), (-3, 5)}
    assert 16 < found.count((3, 5)) < 48


def test_a_shift_keeps_the_frequency_and_moves_its_phase() -> None:
    images = wave(4, 6)
    shifted = augmented(images, crop="shift")
    assert peaks(shifted).count((4, 6)) > 55
    phases = np.angle(np.fft.rfft2(shifted[:, 0].numpy())[:, 4, 6])
    assert np.ptp(phases) > 3


def test_a_shift_is_at_most_an_eighth_of_each_side() -> None:
    texture = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0)).expand(64, 1, 16, 24)
    middle = texture[0, 0, 4:12, 5:19].numpy()
    offsets = set()
    for image in augmented(texture, crop="shift")[:, 0].numpy():
        windows = np.lib.stride_tricks.sliding_window_view(image, middle.shape)
        [(y, x)] = np.argwhere(np.isclose(windows, middle, atol=1e-4).all(axis=(2, 3)))
        offsets.add((int(y) - 4, int(x) - 5))
    assert {y for y, _ in offsets} == set(range(-2, 3))
    assert {x for _, x in offsets} == set(range(-3, 4))


def test_a_resized_crop_moves_a_wave_to_lower_frequencies() -> None:
    rows = [abs(u) for u, _ in peaks(augmented(wave(6, 0), crop="resize"))]
    assert min(rows) < 5
    assert max(rows) <= 6


def test_nothing_is_done_and_nothing_said_by_default() -> None:
    assert augmentation(TrainSettings(), 8, 8) is None
    assert augmentation_warnings(TrainSettings(), "anything") == []


@pytest.fixture
def truth() -> GroundTruth:
    return GroundTruth(
        version="0", kind="planted", name="set", height=8, width=8, channels=3,
        class_names=("class0", "class1"), files=("test", "images.npz"), bands=((0.5, 4.0),),
    )  # fmt: skip


def test_truth_is_found_where_the_toolkit_writes_it(tmp_path: Path, truth: GroundTruth) -> None:
    made, other = tmp_path / "made", tmp_path / "other"
    for folder in (made, other):
        (folder / "test" / "class0").mkdir(parents=True)
        save_npz(folder / "images.npz", random_images(2, 2, (3, 8, 8)))
    (made / "truth.json").write_text(truth.as_text())
    for spec in (f"{made}/test", f"{made}/images.npz", f"{made}/images.npz::test"):
        assert has_truth(spec), spec
    for spec in (f"{other}/test", f"{other}/images.npz", "hfds/somebody/set", "nowhere"):
        assert not has_truth(spec), spec
    (made / "truth.json").write_text("{")
    assert has_truth(f"{made}/test")


@pytest.mark.parametrize("options", [{"flip": True}, {"crop": "shift"}, {"crop": "resize"}])
def test_what_is_on_is_warned_of_and_more_so_where_the_truth_is_known(
    options: dict[str, object], tmp_path: Path, truth: GroundTruth
) -> None:
    save_npz(tmp_path / "images.npz", random_images(2, 2, (3, 8, 8)))
    spec = f"{tmp_path}/images.npz"
    plain = augmentation_warnings(TrainSettings(**options), spec)
    (tmp_path / "truth.json").write_text(truth.as_text())
    strong = augmentation_warnings(TrainSettings(**options), spec)
    assert plain[0] == strong[0]
    assert len(plain) == len(strong) == 2
    assert "known truth" in strong[1]
    assert "known truth" not in plain[1]
