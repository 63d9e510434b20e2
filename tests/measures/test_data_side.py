"""A look at the data against planted truth: who is named, where, and that nobody else is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replicas import block_lines_of, cosine_of

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.pixels import AuditImages, collect_images
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.measures.data_side import look_at_data
from shortcut_audit.measures.invitations import LEAST_AUC, threshold_of
from shortcut_audit.results.findings import (
    ClassSpectraFinding,
    Invitation,
    InvitationsFinding,
    SpectrumProbeFinding,
)
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import AuditSettings, DataAuditSettings

Pixels = np.ndarray
SIZE = 24


def textures(
    n_classes: int, n: int, seed: int = 0, size: int = SIZE, n_channels: int = 3
) -> list[Pixels]:
    """Images (n, C, H, W) in 1/255 of each class; by nature classes differ in level and slope."""
    grid, size = FrequencyGrid(SIZE, SIZE), SIZE
    found = []
    for label in range(n_classes):
        generator = np.random.default_rng([seed, label])
        law = 1 / np.maximum(grid.radius, 1) ** (1 + 0.08 * label)
        half = np.fft.rfft2(generator.standard_normal((n, n_channels, size, size)))
        image = np.fft.irfft2(half * law[grid.orbit_of_bin], s=(size, size))
        image -= image.mean(axis=(2, 3), keepdims=True)
        contrast = (24 - 2 * label) * np.exp(0.3 * generator.standard_normal((n, 1, 1, 1)))
        found.append(128 + contrast * image / image.std())
    return found


def eight_bits(classes: Sequence[Pixels]) -> list[Pixels]:
    return [np.clip(np.rint(images), 0, 255).astype(np.uint8) for images in classes]


def collected(classes: Sequence[Pixels]) -> AuditImages:
    pairs = [(image, label) for label, images in enumerate(eight_bits(classes)) for image in images]
    channels, height, width = pairs[0][0].shape
    made = Preprocessing(
        channels=channels,
        height=height,
        width=width,
        geometry="as they are",
        mean=(0.0,),
        std=(1.0,),
        source="test",
    )
    names = [f"c{label}" for label in range(len(classes))]
    most = max(len(images) for images in classes)
    settings = AuditSettings(images_per_class=max(4, most))
    return collect_images(source_from(pairs, names), settings, made, range(len(names)))


class Look:
    """All that a look at the data found."""

    def __init__(self, classes: Sequence[Pixels], **settings: Any) -> None:
        self.images = collected(classes)
        # Two folds are enough where the probe is not what is looked at.
        chosen = DataAuditSettings(**{"folds": 2, **settings})
        findings, self.arrays = look_at_data(self.images, chosen)
        self.spectra, self.probe, self.invitations = findings
        assert isinstance(self.spectra, ClassSpectraFinding)
        assert isinstance(self.probe, SpectrumProbeFinding)
        assert isinstance(self.invitations, InvitationsFinding)

    @property
    def items(self) -> tuple[Invitation, ...]:
        return self.invitations.items

    @property
    def named(self) -> set[tuple[str, int]]:
        return {(item.class_name, item.band) for item in self.items}


def wave(u: int, v: int, n: int, seed: int = 1) -> Pixels:
    """A cosine of amplitude 1 and of a phase of its own in each of n grey images."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, n)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    turns = 2 * np.pi * (u * y + v * x) / SIZE
    return np.cos(turns + phases[:, None, None])[:, None]


# Plants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize(("orbit", "band"), [((2, 4), 2), ((7, -3), 3), ((8, 9), 4), ((0, 10), 4)])
def test_a_planted_wave_is_named_in_its_class_and_band_and_nothing_else(
    orbit: tuple[int, int], band: int, n_classes: int
) -> None:
    classes = textures(n_classes, 60)
    classes[1] = classes[1] + 6.0 * wave(*orbit, 60)
    look = Look(classes)
    assert look.named == {("c1", band)}
    (item,) = look.items
    grid = FrequencyGrid(SIZE, SIZE)
    number = grid.orbit_of(*orbit)
    assert item.evidence == "orbits"
    assert [grid.orbit_of(u, v) for u, v in item.orbits] == [number]
    assert item.radius == pytest.approx((grid.radius[number],) * 2)
    assert item.amplitude == pytest.approx(6.0, rel=0.15)
    assert item.auc is not None
    assert item.auc > 0.8
    assert item.z is not None
    assert item.z == pytest.approx(look.arrays["invitations/z"][1, number], rel=1e-5)
    assert item.p_value is not None
    assert item.p_value < 1e-4


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_share_of_the_images_suffices(share: float) -> None:
    classes = textures(4, 100)
    n = round(100 * share)
    classes[2][:n] += 6.0 * wave(6, 5, n)
    assert Look(classes).named == {("c2", 3)}


def test_waves_of_one_band_are_one_item_and_of_two_bands_two() -> None:
    classes = textures(4, 80)
    for orbit in ((7, -3), (2, 8), (8, 9)):
        classes[0] = classes[0] + 6.0 * wave(*orbit, 80, seed=sum(orbit))
    look = Look(classes)
    assert look.named == {("c0", 3), ("c0", 4)}
    by_band = {item.band: item for item in look.items}
    assert len(look.items) == 2
    assert {(abs(u), abs(v)) for u, v in by_band[3].orbits} == {(7, 3), (2, 8)}
    assert by_band[3].n_orbits == 2
    assert by_band[4].orbits == ((8, 9),)
    # The clearest comes first.
    z = [item.z or 0 for item in look.items]
    assert z == sorted(z, reverse=True)


@pytest.mark.parametrize("n_carrying", [2, 3])
def test_up_to_half_of_the_classes_may_carry_the_same_wave(n_carrying: int) -> None:
    classes = textures(6, 80)
    for label in range(n_carrying):
        classes[label] = classes[label] + 6.0 * wave(7, -3, 80, seed=label)
    assert Look(classes).named == {(f"c{label}", 3) for label in range(n_carrying)}


def ring(low: float, high: float, n: int, rms: float, seed: int = 1) -> Pixels:
    grid = FrequencyGrid(SIZE, SIZE)
    within = (grid.radius >= low) & (grid.radius < high)
    half = np.fft.rfft2(np.random.default_rng(seed).standard_normal((n, 1, SIZE, SIZE)))
    image = np.fft.irfft2(half * within[grid.orbit_of_bin], s=(SIZE, SIZE))
    return rms * image / image.std()


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize(("low", "high", "bands"), [(6.0, 9.0, {3}), (9.0, 99.0, {4})])
def test_a_texture_is_named_in_its_ring_and_not_beside_it(
    low: float, high: float, bands: set[int], n_classes: int
) -> None:
    classes = textures(n_classes, 100)
    classes[0] = classes[0] + ring(low, high, 100, rms=10.0)
    look = Look(classes)
    assert look.named == {("c0", band) for band in bands}
    assert {item.evidence for item in look.items} <= {"ring", "probe"}
    assert "ring" in {item.evidence for item in look.items}


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("block", [4, 8])
def test_a_block_grid_is_a_grid_of_that_size(block: int, n_classes: int) -> None:
    classes = textures(n_classes, 100)
    classes[1] = classes[1] + 10.0 * block_lines_of(SIZE, SIZE, block)
    # By nature, another class has more power along the axes.
    grid = FrequencyGrid(SIZE, SIZE)
    half = np.fft.rfft2(classes[0])
    half[..., (((grid.u == 0) | (grid.v == 0)) & (grid.radius > 0))[grid.orbit_of_bin]] *= 2.0
    classes[0] = np.fft.irfft2(half, s=(SIZE, SIZE))
    look = Look(classes)
    assert {item.class_name for item in look.items} == {"c1"}
    grids = [item for item in look.items if item.evidence == "block grid"]
    assert len(grids) >= 2
    step = SIZE // block
    for item in grids:
        assert all((u == 0 or v == 0) and u % step == 0 and v % step == 0 for u, v in item.orbits)
    assert look.named <= {("c1", band) for band in range(1 if block == 8 else 2, 5)}


def test_a_checkerboard_is_the_nyquist_orbit() -> None:
    classes = textures(3, 60)
    classes[1] = classes[1] + 3.0 * cosine_of(SIZE, SIZE, SIZE // 2, SIZE // 2)
    (item,) = Look(classes).items
    assert (item.class_name, item.band, item.orbits) == ("c1", 4, ((12, 12),))
    assert item.amplitude == pytest.approx(3.0, rel=0.1)


# Nothing to name ------------------------------------------------------------------------------------


def nothing(classes: list[Pixels]) -> list[Pixels]:
    return classes


def decoy_wave(classes: list[Pixels]) -> list[Pixels]:
    return [images + 8.0 * wave(7, -3, len(images), seed=k) for k, images in enumerate(classes)]


def decoy_texture(classes: list[Pixels]) -> list[Pixels]:
    return [images + ring(6, 9, len(images), 8.0, seed=k) for k, images in enumerate(classes)]


def decoy_grid(classes: list[Pixels]) -> list[Pixels]:
    return [images + 6.0 * block_lines_of(SIZE, SIZE, 8) for images in classes]


def cast(classes: list[Pixels]) -> list[Pixels]:
    classes[1] = classes[1] + np.array([25.0, -10.0, 0.0])[:, None, None]
    return classes


def contrast(classes: list[Pixels]) -> list[Pixels]:
    classes[1] = 128 + 1.5 * (classes[1] - 128)
    return classes


def mirrored(classes: list[Pixels]) -> list[Pixels]:
    classes[1] = classes[1][..., ::-1]
    return classes


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(
    "change", [nothing, decoy_wave, decoy_texture, decoy_grid, cast, contrast, mirrored]
)
def test_controls_decoys_casts_and_contrast_are_not_named(
    change: Callable[[list[Pixels]], list[Pixels]], n_classes: int
) -> None:
    assert Look(change(textures(n_classes, 50))).items == ()


@pytest.mark.parametrize("how", ["white noise", "flat", "black and white", "one image"])
def test_images_without_a_spectrum_to_speak_of_name_nothing(how: str) -> None:
    generator = np.random.default_rng(0)
    shape = (30, 1, 12, 12)
    classes = {
        "white noise": [generator.integers(0, 256, shape) for _ in range(3)],
        "flat": [np.full(shape, level) for level in (10, 128, 255)],
        "black and white": [np.repeat(generator.integers(0, 2, (30, 1, 1, 1)) * 255, 144).reshape(shape)]
        * 3,
        "one image": [np.repeat(generator.integers(0, 256, (1, 1, 12, 12)), 30, axis=0)] * 3,
    }[how]
    look = Look([np.asarray(images, dtype=float) for images in classes])
    assert look.items == ()
    assert np.isfinite(look.arrays["invitations/z"]).all()


@pytest.mark.parametrize("size", [2, 4, 5, 7])
def test_tiny_images_are_looked_at(size: int) -> None:
    generator = np.random.default_rng(0)
    look = Look([generator.integers(0, 256, (8, 1, size, size)).astype(float) for _ in range(2)])
    assert look.items == ()
    assert look.arrays["class_spectra/band_energy"].shape == (2, 4)


def test_four_images_a_class_name_nothing_by_chance() -> None:
    for seed in range(5):
        assert Look(textures(3, 4, seed)).items == ()


# What it rests on -----------------------------------------------------------------------------------


def test_phases_are_never_used() -> None:
    """The same amplitudes with other phases give the same names, the same probe, the same z."""
    classes = textures(3, 40, n_channels=1)
    classes[1] = classes[1] + 6.0 * wave(7, -3, 40)
    generator = np.random.default_rng(9)
    scrambled = []
    for images in eight_bits(classes):
        spectrum = np.fft.rfft2(images / 255)
        noise = np.fft.rfft2(generator.standard_normal(images.shape))
        spectrum = np.abs(spectrum) * noise / np.abs(noise)
        spectrum[..., 0, 0] = np.fft.rfft2(images / 255)[..., 0, 0]
        scrambled.append(np.fft.irfft2(spectrum, s=images.shape[2:]))
    one, other = _looked(eight_bits(classes), 1 / 255), _looked(scrambled, 1.0)
    assert one.items == ()
    np.testing.assert_allclose(one.arrays["z"], other.arrays["z"], atol=1e-3)


def _looked(classes: Sequence[Pixels], scale: float) -> Any:
    """A look at float pixels, which need not lie within [0,1]."""
    import torch

    from shortcut_audit.fourier.cells import Neighbours
    from shortcut_audit.fourier.transform import orbit_amplitude, spectrum_of
    from shortcut_audit.measures.contrasts import ContrastSums, contrast_of_orbits

    grid = FrequencyGrid(SIZE, SIZE)
    sums = []
    for images in classes:
        each = ContrastSums(grid, Neighbours(grid))
        amplitude = orbit_amplitude(spectrum_of(torch.from_numpy(images * scale).double()), grid)
        each.add(((amplitude * torch.from_numpy(255 * grid.members / SIZE**2)) ** 2).mean(dim=1).numpy())
        sums.append(each)

    class Result:
        items = ()
        arrays = {"z": contrast_of_orbits(sums).z}  # noqa: RUF012

    return Result()


def test_the_same_images_in_another_order_name_the_same() -> None:
    classes = textures(3, 60)
    classes[1] = classes[1] + 6.0 * wave(7, -3, 60)
    one = Look(classes)
    order = np.random.default_rng(0).permutation(60)
    other = Look([images[order] for images in classes])
    assert one.named == other.named == {("c1", 3)}
    np.testing.assert_allclose(one.arrays["invitations/z"], other.arrays["invitations/z"], atol=1e-3)


def test_spectra_and_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = textures(3, 20)
    whole = Look(classes)
    assert isinstance(whole.spectra, ClassSpectraFinding)
    assert whole.spectra.n_images_by_class == (20, 20, 20)
    monkeypatch.setattr("shortcut_audit.measures.data_side._FLOATS_PER_BLOCK", 3 * SIZE**2 * 7)
    parts = Look(classes)
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(array, parts.arrays[name], rtol=1e-5, atol=1e-5)
    images = np.stack([image.astype(float) / 255 for image in eight_bits(classes)[1]])
    spectrum = np.abs(np.fft.fft2(images))
    grid = FrequencyGrid(SIZE, SIZE)
    np.testing.assert_allclose(
        whole.arrays["class_spectra/amplitude"][1],
        spectrum[:, :, grid.rows, grid.columns].mean(axis=(0, 1)),
        rtol=1e-5,
    )


def test_the_threshold_is_bonferronis_and_never_below_six() -> None:
    from scipy.stats import norm

    assert threshold_of(10, 0.01) == 6.0
    n = 10**9
    assert norm.sf(threshold_of(n, 0.01)) * n == pytest.approx(0.01)
    look = Look(textures(2, 10))
    grid = FrequencyGrid(SIZE, SIZE)
    assert look.invitations.n_tests > 2 * (grid.n_orbits - 1)
    assert look.invitations.threshold == 6.0
    assert all((item.auc_low or 1) >= LEAST_AUC for item in look.items)


# The probe ------------------------------------------------------------------------------------------


def test_the_probe_tells_the_band_that_tells_the_class() -> None:
    # Of equal level and slope, but for the texture.
    classes = [textures(1, 120, seed)[0] for seed in range(3)]
    classes[1] = classes[1] + ring(6, 9, 120, 25.0)
    look = Look(classes, folds=5)
    by_part = {result.part: result for result in look.probe.results}
    assert list(by_part) == ["all", "band 1", "band 2", "band 3", "band 4", "mean and contrast"]
    assert [r.band for r in look.probe.results] == [None, 1, 2, 3, 4, None]
    assert by_part["band 3"].by_class[1].over_chance > 0.9
    for part in ("band 1", "band 2", "band 4"):
        assert by_part[part].by_class[1].over_chance < 0.35
    assert by_part["band 3"].balanced_accuracy == pytest.approx(2 / 3, abs=0.1)
    assert look.probe.chance == pytest.approx(1 / 3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_who_is_told_from_a_named_class_alone_is_not_named(n_classes: int) -> None:
    """Of two classes one carries a pattern: its lack tells the other, which carries none."""
    classes = [textures(1, 100, seed)[0] for seed in range(n_classes)]
    classes[0] = classes[0] + 8.0 * cosine_of(SIZE, SIZE, SIZE // 2, SIZE // 2)
    look = Look(classes, folds=5)
    by_part = {result.part: result for result in look.probe.results}
    assert by_part["band 4"].by_class[0].over_chance > 0.4
    assert look.named == {("c0", 4)}


def test_a_lack_of_waves_in_one_direction_is_found_by_the_probe_alone() -> None:
    """No orbit or ring stands out; the amplitudes of one band tell the class all the same."""
    classes = [textures(1, 150, seed)[0] for seed in range(4)]
    grid = FrequencyGrid(SIZE, SIZE)
    sector = (grid.radius >= 6) & (grid.radius < 9) & (np.abs(grid.angle) < 25)
    half = np.fft.rfft2(classes[2])
    half[..., sector[grid.orbit_of_bin]] *= 0.2
    classes[2] = np.fft.irfft2(half, s=(SIZE, SIZE))
    look = Look(classes, folds=5)
    assert look.named == {("c2", 3)}
    (item,) = look.items
    assert item.evidence == "probe"
    assert (item.z, item.auc, item.amplitude) == (None, None, None)
    assert item.over_chance is not None
    assert item.over_chance > 0.3


@pytest.mark.slow
def test_nobody_is_named_in_real_images_and_planted_waves_are(shared_data: Path) -> None:
    arrays = np.load(shared_data / "cifar10_lossless.npz")
    images, labels = arrays["x_train"].transpose(0, 3, 1, 2), arrays["y_train"]
    generator = np.random.default_rng(0)
    found = planted = 0
    for n, n_classes, runs in ((50, 10, 4), (50, 3, 8), (50, 2, 8), (200, 4, 6), (700, 10, 1)):
        for _ in range(runs):
            chosen = generator.choice(10, n_classes, replace=False)
            rows = [generator.permutation(np.flatnonzero(labels == c))[:n] for c in chosen]
            classes = [images[each].astype(float) for each in rows]
            assert Look(classes).items == ()
            u, v = generator.integers(-15, 16), generator.integers(8, 16)
            y, x = np.mgrid[0:32, 0:32]
            phase = generator.uniform(0, 2 * np.pi, (n, 1, 1, 1))
            squeezed = [16 + each * 223 / 255 for each in classes]
            squeezed[0] += 6 * np.cos(2 * np.pi * (u * y + v * x) / 32 + phase)
            grid = FrequencyGrid(32, 32)
            band = int(grid.bands()[grid.orbit_of(int(u), int(v))]) + 1
            named = Look(squeezed).named
            assert named <= {("c0", band)}
            found, planted = found + bool(named), planted + 1
    assert found >= 0.9 * planted
