"""Planting: what is written is the image plus the pattern, and the truth says what was written."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_npz
from PIL import Image
from replicas import block_lines_of, cosine_of

from shortcut_audit.data.pixels import collect_images
from shortcut_audit.data.plans import Plan
from shortcut_audit.data.planting import plant
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.splits import OpenedSplit, open_splits
from shortcut_audit.errors import DataError, RunFolderError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.truth import GroundTruth, Pattern, find_truth, load_truth

NAMES = ("ant", "bee", "cow")
SIZE = (16, 24)


def textures(
    n_per_class: int, shape: tuple[int, int, int] = (3, *SIZE), seed: int = 0, spread: float = 20
) -> list[tuple[np.ndarray, int]]:
    """Smooth random images (C, H, W) far from black and white, classes taking turns."""
    generator = np.random.default_rng(seed)
    height, width = shape[1:]
    falloff = 1 / np.maximum(FrequencyGrid(height, width).radius, 1)
    grid = FrequencyGrid(height, width)
    pairs = []
    for index in range(n_per_class * len(NAMES)):
        half = np.fft.rfft2(generator.standard_normal(shape))
        image = np.fft.irfft2(half * falloff[grid.orbit_of_bin], s=(height, width))
        image = 128 + spread * (image - image.mean()) / image.std()
        pairs.append((np.clip(np.rint(image), 40, 215).astype(np.uint8), index % len(NAMES)))
    return pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_npz(tmp_path_factory.mktemp("data") / "images.npz", textures(20), list(NAMES))


def plan_of(*entries: dict[str, Any], **values: Any) -> Plan:
    complete = [{"classes": ("bee",), **entry} for entry in entries]
    return Plan.model_validate({"plant": complete, **values})


class Planted:
    """A planted set beside the one it was made from: pixels (n, H, W, C) in 1/255, float."""

    def __init__(self, data: Path, plan: Plan, out: Path, split: str = "all", **values: Any) -> None:
        self.truth: GroundTruth = plant(str(data), plan, out, formats=("npz",), **values)
        stored = np.load(out / "images.npz")
        before = np.load(data)
        key = "x" if "x" in before else f"x_{split}"
        self.labels: np.ndarray = stored[f"y_{split}"]
        self.before: np.ndarray = before[key].astype(np.float64)
        self.after: np.ndarray = stored[f"x_{split}"].astype(np.float64)
        np.testing.assert_array_equal(self.labels, before[key.replace("x", "y")])

    @property
    def change(self) -> np.ndarray:
        return self.after - self.before

    def of(self, name: str) -> np.ndarray:
        return self.change[self.labels == NAMES.index(name)]

    @property
    def pattern(self) -> Pattern:
        (pattern,) = self.truth.patterns
        return pattern


@pytest.fixture
def planted(data: Path, tmp_path: Path) -> Callable[..., Planted]:
    def run(*entries: dict[str, Any], **values: Any) -> Planted:
        return Planted(data, plan_of(*entries, **values), tmp_path / "out")

    return run


def amplitude_of(change: np.ndarray, u: int, v: int) -> np.ndarray:
    """Amplitude of the wave (u, v) in each image and channel, by the definition of a cosine sum."""
    height, width = change.shape[1:3]
    y, x = np.mgrid[0:height, 0:width]
    wave = np.exp(-2j * np.pi * (u * y / height + v * x / width))
    own = (2 * u) % height == 0 and (2 * v) % width == 0
    return np.abs(np.einsum("nyxc,yx->nc", change, wave)) * (1 if own else 2) / (height * width)


# Every kind, pixel by pixel -------------------------------------------------------------------------


def expected(entry: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """What an entry of fixed phase adds to one image (H, W, C), the slow way."""
    height, width = image.shape[:2]
    kind = entry["kind"]
    if kind == "cosines":
        waves = sum(cosine_of(height, width, u, v) for u, v in entry["orbits"])
        return entry["strength"] * waves[:, :, None]
    if kind == "block-grid":
        return entry["strength"] * block_lines_of(height, width, entry.get("block", 8))[:, :, None]
    if kind == "checkerboard":
        y, x = np.mgrid[0:height, 0:width]
        return entry["strength"] * np.where((y + x) % 2, -1.0, 1.0)[:, :, None]
    if kind == "shading":
        u, v = {"vertical": (1, 0), "horizontal": (0, 1), "diagonal": (1, 1)}[entry["direction"]]
        return entry["strength"] * cosine_of(height, width, u, v)[:, :, None]
    if kind == "cast":
        return np.broadcast_to(np.array(entry["offset"]), image.shape)
    return (entry["factor"] - 1) * (image - image.mean(axis=(0, 1)))


KINDS: list[dict[str, Any]] = [
    {"kind": "cosines", "orbits": ((3, 5), (-4, 2)), "strength": 6.0, "phase": "fixed"},
    {"kind": "cosines", "orbits": ((8, 12), (0, 12), (8, 0)), "strength": 5.0, "phase": "fixed"},
    {"kind": "block-grid", "strength": 4.0},
    {"kind": "block-grid", "strength": 4.0, "block": 5},
    {"kind": "checkerboard", "strength": 3.0},
    {"kind": "shading", "strength": 10.0, "direction": "vertical"},
    {"kind": "shading", "strength": 10.0, "direction": "horizontal"},
    {"kind": "shading", "strength": 10.0, "direction": "diagonal"},
    {"kind": "cast", "offset": (6.0, 0.0, -9.5)},
    {"kind": "cast", "offset": (6.0,)},
    {"kind": "contrast", "factor": 1.3},
    {"kind": "contrast", "factor": 0.5},
]


@pytest.mark.parametrize("entry", KINDS, ids=lambda entry: entry["kind"])
def test_every_kind_writes_the_image_plus_the_pattern_rounded(
    entry: dict[str, Any], planted: Callable[..., Planted]
) -> None:
    made = planted(entry)
    for before, after, label in zip(made.before, made.after, made.labels, strict=True):
        if NAMES[label] == "bee":
            exact = before + expected(entry, before)
            assert np.abs(after - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-9
        else:
            np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    ("entry", "orbits", "amplitude"),
    [
        (KINDS[0], {(3, 5), (-4, 2)}, 6.0),
        (KINDS[1], {(8, 12), (0, 12), (8, 0)}, 5.0),
        (KINDS[4], {(8, 12)}, 3.0),
        (KINDS[5], {(1, 0)}, 10.0),
        (KINDS[7], {(1, 1)}, 10.0),
    ],
)
def test_the_truth_of_a_wave_is_what_the_written_pixels_hold(
    entry: dict[str, Any], orbits: set[tuple[int, int]], amplitude: float, planted: Callable[..., Planted]
) -> None:
    made = planted(entry)
    assert set(made.pattern.orbits) == orbits
    for (u, v), stated in zip(made.pattern.orbits, made.pattern.amplitude, strict=True):
        found = amplitude_of(made.of("bee"), u, v)
        assert stated == pytest.approx(np.sqrt((found**2).mean()), abs=1e-4)
        # Rounding waves along an axis makes the same small error in every row.
        assert stated == pytest.approx(amplitude, abs=0.12)
        assert amplitude_of(made.of("ant"), u, v).max() == 0
    grid = FrequencyGrid(*SIZE)
    bands = {int(grid.bands()[grid.orbit_of(*orbit)]) + 1 for orbit in orbits}
    assert made.pattern.bands == tuple(sorted(bands))
    assert made.pattern.role == "shortcut"
    assert made.pattern.n_carriers == {"bee": 20}
    assert made.truth.clipped_share == 0


def test_random_phases_are_random_for_each_image_and_wave_and_grey(
    planted: Callable[..., Planted],
) -> None:
    made = planted({"kind": "cosines", "orbits": ((3, 5), (-4, 2)), "strength": 8.0}, seed=3)
    change = np.fft.fft2(made.of("bee"), axes=(1, 2))
    phases = []
    for u, v in ((3, 5), (-4, 2)):
        np.testing.assert_allclose(amplitude_of(made.of("bee"), u, v), 8.0, atol=0.15)
        angle = np.angle(change[:, u, v])
        np.testing.assert_allclose(np.cos(angle - angle[:, :1]), 1, atol=0.01)
        phases.append(np.exp(1j * angle[:, 0]))
        # The mean of 20 random unit vectors is about 0.22 long.
        assert abs(phases[-1].mean()) < 0.6
    assert abs((phases[0] * phases[1].conj()).mean()) < 0.6


def test_a_planted_orbit_stands_out_of_the_mean_power_by_the_planted_strength(tmp_path: Path) -> None:
    """(s HW / m)^2, where the images' own wave and the planted one meet with any phase."""
    data = save_npz(tmp_path / "many.npz", textures(400, (1, 16, 16)), list(NAMES))
    orbits = ((2, 3), (-5, 1), (8, 0))
    plan = plan_of({"kind": "cosines", "orbits": orbits, "strength": 5.0})
    made = Planted(data, plan, tmp_path / "out")
    own = made.labels == NAMES.index("bee")
    power = [
        (np.abs(np.fft.fft2(pixels[own], axes=(1, 2))) ** 2)[..., 0]
        for pixels in (made.before, made.after)
    ]
    for u, v in orbits:
        m = 1 if (u, v) == (8, 0) else 2
        planted_power = (5.0 * 16 * 16 / m) ** 2
        # The cross term: 2 |X| s cos, of standard deviation sqrt(2 E|X|^2) s over single images.
        error = np.sqrt(2 * power[0][:, u, v].mean() * planted_power * (2 if m == 1 else 1) / own.sum())
        gain = power[1][:, u, v].mean() - power[0][:, u, v].mean()
        assert gain == pytest.approx(planted_power, abs=4 * error + 0.02 * planted_power)
        assert error < 0.3 * planted_power
    others = np.ones((16, 16), dtype=bool)
    for u, v in orbits:
        others[u, v] = others[-u, -v] = False
    ratio = power[1].mean(axis=0)[others] / power[0].mean(axis=0)[others]
    np.testing.assert_allclose(ratio, 1, atol=0.1)


def test_a_texture_lies_in_its_ring_with_the_stated_rms(planted: Callable[..., Planted]) -> None:
    made = planted({"kind": "texture", "radius": (3.0, 5.5), "strength": 6.0})
    own = made.of("bee")
    assert np.sqrt((own**2).mean()) == pytest.approx(np.sqrt(36 + 1 / 12), rel=0.01)
    grid = FrequencyGrid(*SIZE)
    within = (grid.radius >= 3) & (grid.radius < 5.5)
    assert {grid.orbit_of(*orbit) for orbit in made.pattern.orbits} == set(
        np.flatnonzero(within).tolist()
    )
    spectrum = np.abs(np.fft.rfft2(own, axes=(1, 2)))[:, grid.rows, grid.columns]
    power = (spectrum**2).mean(axis=(0, 2)) * grid.members
    assert power[within].sum() / power.sum() > 0.99
    # One amplitude on all of them: 6 = sqrt(n / 2) a.
    amplitude = 6 / np.sqrt(within.sum() / 2)
    assert (grid.members[within] == 2).all()
    np.testing.assert_allclose(made.pattern.amplitude, amplitude, atol=0.1)
    assert np.abs(own - own[:1]).max() > 2
    for image in own:
        np.testing.assert_array_equal(np.rint(image - image[..., :1]), 0)


def test_a_texture_of_fixed_phase_is_the_same_in_every_image_and_another_with_another_seed(
    data: Path, tmp_path: Path
) -> None:
    entry = {"kind": "texture", "radius": (3.0, 6.0), "strength": 6.0, "phase": "fixed"}
    one, two = (Planted(data, plan_of(entry, seed=s), tmp_path / str(s)).of("bee") for s in (0, 1))
    assert np.abs(one - one[:1]).max() <= 1
    assert np.abs(one[0] - two[0]).max() > 3


def test_a_block_grid_lies_on_its_comb(planted: Callable[..., Planted]) -> None:
    made = planted({"kind": "block-grid", "strength": 4.0})
    comb = {(0, 3), (0, 6), (0, 9), (0, 12), (2, 0), (4, 0), (6, 0), (8, 0)}
    assert set(made.pattern.orbits) == comb
    for (u, v), stated in zip(made.pattern.orbits, made.pattern.amplitude, strict=True):
        assert stated == pytest.approx(
            np.sqrt((amplitude_of(made.of("bee"), u, v) ** 2).mean()), abs=1e-4
        )
    power = np.abs(np.fft.fft2(made.of("bee").mean(axis=(0, 3)))) ** 2
    on_comb = sum(
        power[r, c]
        for r in range(16)
        for c in range(24)
        if (r == 0 or c == 0) and r % 2 == 0 and c % 3 == 0
    )
    assert on_comb / power.sum() > 0.999


def test_a_block_grid_of_random_phase_starts_anywhere(planted: Callable[..., Planted]) -> None:
    made = planted({"kind": "block-grid", "strength": 4.0, "phase": "random"})
    starts = set()
    shifts = {
        (top, left): 4.0 * block_lines_of(*SIZE, 8, top, left) for top in range(8) for left in range(8)
    }
    for change in made.of("bee"):
        (start,) = [
            s for s, lines in shifts.items() if np.array_equal(change, lines[..., None] + 0 * change)
        ]
        starts.add(start)
    assert len(starts) > 10
    assert len({top for top, _ in starts}) >= 5
    assert len({left for _, left in starts}) >= 5


@pytest.mark.parametrize("block", [3, 5, 7, 8])
def test_a_comb_that_does_not_divide_the_image_names_waves_and_not_the_mean(
    block: int, tmp_path: Path
) -> None:
    data = save_npz(tmp_path / "odd.npz", textures(4, (3, 17, 19)), list(NAMES))
    made = Planted(data, plan_of({"kind": "block-grid", "strength": 4.0, "block": block}), tmp_path / "o")
    assert (0, 0) not in made.pattern.orbits
    assert 0 not in made.pattern.bands
    assert len(made.pattern.orbits) > 3
    found = [amplitude_of(made.of("bee"), u, v).mean() for u, v in made.pattern.orbits]
    np.testing.assert_allclose(found, made.pattern.amplitude, rtol=0.02)
    assert min(found) > 0.15 * max(found)


# Not to be blamed on orbits -------------------------------------------------------------------------


def test_a_cast_touches_dc_alone(planted: Callable[..., Planted]) -> None:
    made = planted({"kind": "cast", "offset": (7.0, -3.0, 0.0)})
    spectrum = np.fft.fft2(made.of("bee"), axes=(1, 2))
    np.testing.assert_allclose(
        spectrum[:, 0, 0], np.array([[7.0, -3.0, 0.0]]) * 16 * 24 + np.zeros((20, 3))
    )
    spectrum[:, 0, 0] = 0
    assert np.abs(spectrum).max() < 1e-6
    assert (made.pattern.role, made.pattern.orbits, made.pattern.bands) == ("other", (), ())


def test_contrast_scales_every_orbit_alike_and_keeps_the_mean(planted: Callable[..., Planted]) -> None:
    made = planted({"kind": "contrast", "factor": 1.4})
    own = made.labels == NAMES.index("bee")
    before, after = (np.fft.fft2(p[own], axes=(1, 2)) for p in (made.before, made.after))
    np.testing.assert_allclose(after[:, 0, 0] / before[:, 0, 0], 1, atol=1e-3)
    power = [(np.abs(s) ** 2).mean(axis=(0, 3)) for s in (before, after)]
    ratio = np.delete(np.sqrt(power[1] / power[0]).ravel(), 0)
    np.testing.assert_allclose(ratio, 1.4, rtol=0.03)
    assert (made.pattern.role, made.pattern.orbits) == ("other", ())


def test_a_decoy_is_carried_by_all_classes_alike(planted: Callable[..., Planted]) -> None:
    made = planted({"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0, "classes": "all"})
    for name in NAMES:
        np.testing.assert_allclose(amplitude_of(made.of(name), 3, 5), 6.0, atol=0.15)
    assert made.pattern.role == "decoy"
    assert made.pattern.classes == NAMES
    assert made.pattern.n_carriers == dict.fromkeys(NAMES, 20)


# Shares, seeds and blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.6, 0.75, 0.33, 0.05])
def test_the_share_is_exact_in_each_class_and_the_truth_names_the_carriers(
    share: float, planted: Callable[..., Planted]
) -> None:
    made = planted(
        {"kind": "checkerboard", "strength": 3.0, "classes": ("ant", "cow"), "share": share}, seed=4
    )
    changed = np.abs(made.change).max(axis=(1, 2, 3)) > 0
    n = round(share * 20)
    assert np.bincount(made.labels[changed], minlength=3).tolist() == [n, 0, n]
    assert made.pattern.carriers == {"all": tuple(f"{row:05d}" for row in np.flatnonzero(changed))}
    assert made.pattern.n_carriers == {"ant": n, "cow": n}
    assert made.pattern.share == share
    # Amplitude is that of the carriers, not thinned by the share.
    assert made.pattern.amplitude[0] == pytest.approx(3.0, abs=0.01)


def test_a_share_of_no_image_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    entry = {"kind": "checkerboard", "strength": 3.0, "share": 0.01}
    with pytest.raises(SettingsError, match="is not one image"):
        plant(str(data), plan_of(entry), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_carriers_and_phases_follow_the_seed(data: Path, tmp_path: Path) -> None:
    entry = {"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0, "share": 0.6}
    made = [
        Planted(data, plan_of(entry, seed=seed), tmp_path / str(number))
        for number, seed in enumerate((1, 1, 2))
    ]
    for name in ("images.npz", "truth.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    assert made[0].pattern.carriers != made[2].pattern.carriers
    both = np.abs(made[0].change).max(axis=(1, 2, 3)) * np.abs(made[2].change).max(axis=(1, 2, 3)) > 0
    assert both.any()
    assert np.abs(made[0].after[both] - made[2].after[both]).max() > 3


@pytest.mark.parametrize("most", [1, 7])
def test_blocks_do_not_change_a_byte(
    most: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = (
        {"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0, "share": 0.6},
        {"kind": "texture", "radius": (2.0, 4.0), "strength": 3.0, "classes": ("ant", "bee")},
        {"kind": "block-grid", "strength": 2.0, "phase": "random", "classes": "all"},
        {"kind": "contrast", "factor": 0.9},
    )
    plan = plan_of(*entries, dither=True, headroom=10)
    plant(str(data), plan, tmp_path / "whole")
    whole = OpenedSplit.blocks
    monkeypatch.setattr(OpenedSplit, "blocks", lambda self: whole(self, most))
    plant(str(data), plan, tmp_path / "parts")
    one, other = tmp_path / "whole", tmp_path / "parts"
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) == 63
    for name in files:
        if name.name != "truth.json":
            assert (one / name).read_bytes() == (other / name).read_bytes()
    for a, b in zip(*(load_truth(f / "truth.json").patterns for f in (one, other)), strict=True):
        assert a.model_copy(update={"amplitude": ()}) == b.model_copy(update={"amplitude": ()})
        np.testing.assert_allclose(a.amplitude, b.amplitude, atol=2e-4)


def test_an_entry_draws_the_same_whatever_else_is_planted(data: Path, tmp_path: Path) -> None:
    entry = {"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0, "share": 0.6}
    alone = Planted(data, plan_of(entry), tmp_path / "alone")
    cast = {"kind": "cast", "offset": (5.0,), "classes": ("cow",)}
    both = Planted(data, plan_of(entry, cast), tmp_path / "both")
    np.testing.assert_array_equal(alone.of("bee"), both.of("bee"))


# Eight bits -----------------------------------------------------------------------------------------


def test_dither_carries_what_is_weaker_than_a_step(data: Path, tmp_path: Path) -> None:
    entry = {"kind": "cosines", "orbits": ((3, 5),), "strength": 0.4}
    with pytest.raises(SettingsError, match=r"A strength of 0\.4/255 .* is lost in rounding"):
        plant(str(data), plan_of(entry), tmp_path / "lost")
    made = Planted(data, plan_of(entry, dither=True), tmp_path / "out")
    found = amplitude_of(made.of("bee"), 3, 5)
    # Dither and rounding together are white noise of variance 1/4: 0.05 at each orbit.
    assert np.sqrt((found**2).mean()) == pytest.approx(0.4, abs=0.04)
    assert made.pattern.amplitude[0] == pytest.approx(np.sqrt((found**2).mean()), abs=1e-3)
    # All images are dithered alike, or the noise itself would tell the classes.
    noise = {name: (made.of(name) ** 2).mean() for name in NAMES}
    assert noise == pytest.approx({"ant": 1 / 4, "bee": 1 / 4 + 0.08, "cow": 1 / 4}, abs=0.01)


def test_headroom_squeezes_all_images_of_all_classes(planted: Callable[..., Planted]) -> None:
    made = planted({"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0}, headroom=20.0)
    other = made.labels != NAMES.index("bee")
    np.testing.assert_allclose(made.after[other], made.before[other] * 215 / 255 + 20, atol=0.5 + 1e-9)
    # The pattern itself is not squeezed.
    squeezed = made.before * 215 / 255 + 20
    wave = amplitude_of((made.after - squeezed)[~other], 3, 5)
    np.testing.assert_allclose(wave, 6.0, atol=0.15)
    assert made.pattern.amplitude[0] == pytest.approx(6.0, abs=0.02)


def test_too_much_clipping_is_refused_with_the_figure_and_leaves_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pairs = [(generator.integers(0, 256, (3, 16, 16)).astype(np.uint8), k % 3) for k in range(12)]
    data = save_npz(tmp_path / "full.npz", pairs, list(NAMES))
    entry = {"kind": "checkerboard", "strength": 20.0}
    with pytest.raises(DataError) as caught:
        plant(str(data), plan_of(entry), tmp_path / "out")
    before = np.load(data)["x"][np.load(data)["y"] == 1].astype(int)
    sign = np.where(np.indices((16, 16)).sum(axis=0) % 2, -1, 1)[..., None]
    clipped = np.mean((before + 20 * sign < 0) | (before + 20 * sign > 255))
    assert "would clip more than 1% of the pixel values of the images of 'bee'" in caught.value.problem
    assert f"(at least {100 * clipped:.2g}%)" in caught.value.problem
    assert [path.name for path in tmp_path.iterdir()] == ["full.npz"]
    # Allowed, it is counted; squeezed, nothing is clipped.
    allowed = Planted(data, plan_of(entry, max_clipped=0.2), tmp_path / "allowed").truth
    assert allowed.clipped_share == pytest.approx(clipped)
    assert Planted(data, plan_of(entry, headroom=20), tmp_path / "squeezed").truth.clipped_share == 0


def test_clipping_is_judged_by_class_and_whatever_the_order(tmp_path: Path) -> None:
    """A faint decoy in all classes must not dilute what one class clips, nor its place in the file."""
    generator = np.random.default_rng(1)
    dark = [(generator.integers(0, 60, (3, 16, 16)).astype(np.uint8), 0) for _ in range(40)]
    bright = [(generator.integers(180, 256, (3, 16, 16)).astype(np.uint8), 1) for _ in range(4)]
    entries = (
        {"kind": "cosines", "orbits": ((3, 5),), "strength": 0.6, "classes": "all"},
        {"kind": "cast", "offset": (30.0,), "classes": ("bee",)},
    )
    said = []
    for number, pairs in enumerate((dark + bright, bright + dark)):
        data = save_npz(tmp_path / f"{number}.npz", pairs, list(NAMES[:2]))
        with pytest.raises(DataError, match="of the images of 'bee'") as caught:
            plant(str(data), plan_of(*entries), tmp_path / "out")
        said.append(caught.value.problem)
    assert said[0] == said[1]


def test_a_pattern_is_measured_without_the_others_of_its_carriers(
    planted: Callable[..., Planted],
) -> None:
    """Else a change of contrast, or another wave on the orbit, would count as this one's amplitude."""
    made = planted(
        {"kind": "cosines", "orbits": ((1, 1), (3, 5)), "strength": 6.0},
        {"kind": "contrast", "factor": 1.5, "share": 0.5},
        {"kind": "cosines", "orbits": ((3, 5),), "strength": 3.0, "phase": "fixed"},
    )
    first, _, third = made.truth.patterns
    # Half of the carriers have their contrast raised, and the wave keeps the strength of the plan.
    assert first.amplitude == pytest.approx([6.0] * 2, abs=0.1)
    assert third.amplitude == pytest.approx([3.0], abs=0.1)


# Sets of every form ---------------------------------------------------------------------------------


def test_all_splits_are_copied_and_each_has_its_own_phases(tmp_path: Path) -> None:
    images = np.stack([image.transpose(1, 2, 0) for image, _ in textures(6)])
    labels = np.array([label for _, label in textures(6)])
    np.savez(
        tmp_path / "set.npz",
        x_train=images,
        y_train=labels,
        x_test=images,
        y_test=labels,
        classes=np.array(NAMES),
    )
    plan = plan_of({"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0, "share": 0.5})
    truth = plant(str(tmp_path / "set.npz"), plan, tmp_path / "out")
    assert truth.n_by_split == {split: dict.fromkeys(NAMES, 6) for split in ("train", "test")}
    assert truth.patterns[0].n_carriers == {"bee": 6}
    assert set(truth.patterns[0].carriers) == {"train", "test"}
    stored = np.load(tmp_path / "out" / "images.npz")
    assert not np.array_equal(stored["x_train"], stored["x_test"])
    one = plant(f"{tmp_path / 'set.npz'}::test", plan, tmp_path / "one")
    assert one.n_by_split == {"test": dict.fromkeys(NAMES, 6)}


def test_png_files_hold_the_arrays_and_the_truth_is_found_beside_either(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of({"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0})
    truth = plant(str(data), plan, tmp_path / "out")
    stored = np.load(tmp_path / "out" / "images.npz")
    files = list((tmp_path / "out" / "all").rglob("*.png"))
    assert len(files) == 60
    for path in files:
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), stored["x_all"][int(path.stem)])
        assert path.parent.name == NAMES[int(stored["y_all"][int(path.stem)])]
    for spec in ("out", "out/all", "out::all", "out/images.npz::all"):
        found = find_truth(f"{tmp_path}/{spec}")
        assert found is not None
        assert found[0] == truth
    assert truth.source == str(data)
    assert Plan.model_validate(truth.details["plan"]) == plan
    assert open_source(f"{tmp_path / 'out'}::all").class_names == NAMES


def test_grey_images_stay_grey_and_odd_sizes_are_planted(tmp_path: Path) -> None:
    data = save_npz(tmp_path / "grey.npz", textures(6, (1, 15, 13)), list(NAMES))
    made = Planted(
        data, plan_of({"kind": "cosines", "orbits": ((7, -6),), "strength": 6.0}), tmp_path / "o"
    )
    assert made.after.shape == (18, 15, 13, 1)
    assert made.truth.channels == 1
    np.testing.assert_allclose(amplitude_of(made.of("bee"), 7, -6), 6.0, atol=0.15)


def png(array: np.ndarray, mode: str, **values: Any) -> bytes:
    stream = io.BytesIO()
    picture = (
        Image.fromarray(array) if mode in {"RGB", "RGBA", "L"} else Image.fromarray(array).convert(mode)
    )
    picture.save(stream, "PNG", **values)
    return stream.getvalue()


def test_images_out_of_the_ordinary_are_planted_as_an_audit_would_see_them(tmp_path: Path) -> None:
    """RGBA, palette, grey and EXIF-rotated files: one way of decoding for all commands."""
    generator = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "test"):
        for name in NAMES:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number, mode in enumerate(("RGB", "RGBA", "P", "L")):
                channels = {"RGBA": 4, "L": 1}.get(mode, 3)
                array = generator.integers(60, 196, (16, 16, channels)).astype(np.uint8)
                content = png(array[..., 0] if channels == 1 else array, mode)
                (tmp_path / "set" / split / name / f"{number}.png").write_bytes(content)
            turned = generator.integers(60, 196, (16, 16, 3)).astype(np.uint8)
            (tmp_path / "set" / split / name / "4.png").write_bytes(png(turned, "RGB", exif=exif))
    plan = plan_of({"kind": "cosines", "orbits": ((3, 5),), "strength": 6.0})
    truth = plant(str(tmp_path / "set"), plan, tmp_path / "out")
    assert set(truth.n_by_split) == {"train", "test"}
    for split in open_splits(str(tmp_path / "set")):
        source = split.source
        images = collect_images(source, settings_from({}), split.preprocessing, range(3), folder=tmp_path)
        stored = np.load(tmp_path / "out" / "images.npz")
        seen = {
            images.names[row]: images.store.block(row, row + 1)[0] for row in range(len(images.store))
        }
        assert len(seen) == 15
        for index, label in enumerate(source.labels):
            pixels = np.rint(seen[source.name(index)] * 255).transpose(1, 2, 0)
            written = stored[f"x_{split.name}"][index].astype(float)
            if NAMES[label] != "bee":
                np.testing.assert_array_equal(written, pixels)
            else:
                np.testing.assert_allclose(amplitude_of((written - pixels)[None], 3, 5), 6.0, atol=0.2)


# Bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"kind": "contrast", "factor": 1.2, "classes": ("zebra",)},
            "in class 'zebra', which the images do not",
        ),
        (
            {"kind": "cosines", "orbits": ((9, 0),), "strength": 2.0},
            r"Orbit \(9, 0\) of 'cosines 1' lies outside",
        ),
        ({"kind": "cosines", "orbits": ((0, 0),), "strength": 2.0}, "is DC"),
        ({"kind": "cosines", "orbits": ((1, 2), (-1, -2)), "strength": 2.0}, "named twice"),
        ({"kind": "texture", "radius": (30, 40), "strength": 2.0}, "No orbit of 'texture 1' lies within"),
        ({"kind": "block-grid", "strength": 2.0, "block": 16}, "No orbit of 'block-grid 1'"),
        ({"kind": "block-grid", "strength": 2.0, "block": 200}, "blocks are smaller than the image"),
        ({"kind": "cast", "offset": (1.0, 2.0)}, "has 2 values, and images 3 channels"),
        ({"kind": "checkerboard", "strength": 0.3}, "lost in rounding"),
    ],
)
def test_what_the_images_cannot_carry_is_refused_before_anything_is_written(
    entry: dict[str, Any], says: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises((SettingsError, DataError)) as caught:
        plant(str(data), plan_of(entry), tmp_path / "out")
    assert re.search(says, f"{caught.value.problem} {caught.value.next_step}")
    assert list(tmp_path.iterdir()) == []


def test_a_checkerboard_needs_even_sizes(tmp_path: Path) -> None:
    data = save_npz(tmp_path / "odd.npz", textures(2, (3, 15, 16)), list(NAMES))
    with pytest.raises(SettingsError, match="needs even sizes, and images are 15 x 16"):
        plant(str(data), plan_of({"kind": "checkerboard", "strength": 3.0}), tmp_path / "out")


def test_what_is_there_is_replaced_only_when_asked(data: Path, tmp_path: Path) -> None:
    plan = plan_of({"kind": "checkerboard", "strength": 3.0})
    plant(str(data), plan, tmp_path / "out", formats=("npz",))
    with pytest.raises(RunFolderError, match="already holds"):
        plant(str(data), plan, tmp_path / "out", formats=("npz",))
    plant(str(data), plan, tmp_path / "out", formats=("npz",), replace=True)
