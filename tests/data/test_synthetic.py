"""Synthetic sets: the same bytes everywhere, and spectra that are the recipe's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from replicas import band_power_of, texture_power_of
from scipy import stats

from shortcut_audit.data import synthetic
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.synthetic import Synthesis, SyntheticRecipe, read_synthetic, write_synthetic
from shortcut_audit.errors import DataError, RunFolderError, SettingsError
from shortcut_audit.results.truth import find_truth, load_truth

# Of the small set below: frozen, see the test that reads them.
NPZ_DIGEST = "e4cab392a1c4c801ea9def7c7659e07a4bd341eae8271d0860fecbfb2e586a67"
PNG_DIGEST = "23dc0cd7cde475f2a14c75b327a7b388a9aa60d5057a8d4fa0643a9c970b3eb7"

RECIPES = Path(__file__).parent.parent.parent / "datasets"
SMALL: dict[str, Any] = {
    "kind": "synthetic",
    "name": "small",
    "size": (16, 12),
    "n_by_split": {"train": 6, "test": 3},
    "seed": 5,
    "gains": ({"band": 2, "gain": 2.0},),
    "classes": {
        "a": {"special": ({"band": 2, "n_orbits": 2, "strength": 5.0},)},
        "b": {"gains": ({"band": 3, "angle": (0, 90), "gain": 1.5},)},
        "c": {"special": ({"orbits": ((3, 1), (8, 6)), "strength": 4.0, "phase": "fixed"},)},
    },
}


def recipe_of(**changes: Any) -> SyntheticRecipe:
    return SyntheticRecipe.model_validate({**SMALL, **changes})


def images_of(made: Synthesis, split: str = "train") -> list[np.ndarray]:
    """Pixels (n, H, W, C) in [0,1] of each class."""
    blocks = list(made.blocks(split))
    images = np.concatenate([block[0] for block in blocks])
    labels = np.concatenate([block[1] for block in blocks])
    return [images[labels == label] / 255 for label in range(len(made.recipe.classes))]


def power_of(images: np.ndarray) -> np.ndarray:
    """Mean over images and channels of |X|^2 on the full plane."""
    return (np.abs(np.fft.fft2(images, axes=(1, 2))) ** 2).mean(axis=(0, 3))


# Bytes --------------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_bytes_are_those_of_every_other_machine(tmp_path: Path) -> None:
    """Frozen: a published recipe and seed have to give the set again, on any machine and version."""
    write_synthetic(recipe_of(), tmp_path / "set")
    assert digest(tmp_path / "set" / "images.npz") == (
        "e4cab392a1c4c801ea9def7c7659e07a4bd341eae8271d0860fecbfb2e586a67"
    )
    assert digest(tmp_path / "set" / "train" / "b" / "00001.png") == (
        "23dc0cd7cde475f2a14c75b327a7b388a9aa60d5057a8d4fa0643a9c970b3eb7"
    )


def test_a_rerun_has_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_synthetic(recipe_of(), tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 3 + 3 * 9
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    write_synthetic(recipe_of(), tmp_path / "other", seed=6)
    assert digest(tmp_path / "other" / "images.npz") != digest(tmp_path / "one" / "images.npz")
    assert load_truth(tmp_path / "other" / "truth.json").seed == 6


def test_neither_threads_nor_the_environment_change_a_byte(tmp_path: Path) -> None:
    write_synthetic(recipe_of(), tmp_path / "here", formats=("npz",))
    code = (
        "import sys; from pathlib import Path\n"
        "from shortcut_audit.data.synthetic import SyntheticRecipe, write_synthetic\n"
        "recipe = SyntheticRecipe.model_validate_json(sys.stdin.read())\n"
        "write_synthetic(recipe, Path(sys.argv[1]), formats=('npz',))"
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        input=recipe_of().model_dump_json(),
        text=True,
        env={**os.environ, **threads, "PYTHONHASHSEED": "7", "LC_ALL": "C"},
        check=True,
    )
    assert digest(tmp_path / "here" / "images.npz") == digest(tmp_path / "there" / "images.npz")


def test_files_and_arrays_hold_the_same_images_alone_and_together(tmp_path: Path) -> None:
    for formats in (("png", "npz"), ("npz",), ("png",)):
        write_synthetic(recipe_of(), tmp_path / "-".join(formats), formats=formats)
    both, arrays, files = (tmp_path / name for name in ("png-npz", "npz", "png"))
    assert digest(both / "images.npz") == digest(arrays / "images.npz")
    assert not (files / "images.npz").exists()
    assert not (arrays / "train").exists()
    stored = np.load(arrays / "images.npz")
    for split in ("train", "test"):
        for root in (both, files):
            for path in (root / split).rglob("*.png"):
                number = int(path.stem)
                label = int(stored[f"y_{split}"][number])
                assert path.parent.name == "abc"[label]
                with Image.open(path) as image:
                    np.testing.assert_array_equal(np.asarray(image), stored[f"x_{split}"][number])
        assert np.bincount(stored[f"y_{split}"]).tolist() == [{"train": 6, "test": 3}[split]] * 3


@pytest.mark.parametrize("block", [1, 2])
def test_bytes_do_not_depend_on_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Synthesis(recipe_of(), 5)
    whole = images_of(made)
    monkeypatch.setattr(synthetic, "_BLOCK", block)
    assert sum(1 for _ in made.blocks("train")) > 1
    for one, other in zip(whole, images_of(made), strict=True):
        np.testing.assert_array_equal(one, other)


def test_more_images_or_classes_move_none_of_those_there_were() -> None:
    few = images_of(Synthesis(recipe_of(), 5))
    more = images_of(Synthesis(recipe_of(n_by_split={"train": 9, "test": 3}), 5))
    classes = {**SMALL["classes"], "d": {}}
    wider = images_of(Synthesis(recipe_of(classes=classes), 5))
    for label in range(3):
        np.testing.assert_array_equal(more[label][:6], few[label])
        np.testing.assert_array_equal(wider[label], few[label])


def test_no_two_images_are_alike() -> None:
    made = Synthesis(recipe_of(), 5)
    images = np.concatenate(images_of(made) + images_of(made, "test"))
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images) == 27


# Spectra ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_band_energies_of_the_papers_sets_are_the_recipes_within_2_percent(number: int) -> None:
    recipe = read_synthetic(RECIPES / f"syn{number}.toml")
    made = Synthesis(recipe.model_copy(update={"n_by_split": {"train": 1200}}), recipe.seed)
    expected = made.expected_band_power()
    for name, images in zip(recipe.class_names, images_of(made), strict=True):
        found = band_power_of(power_of(images), recipe.band_edges)
        np.testing.assert_allclose(found, expected[name], rtol=0.02)
    # What is biased to a band has more there than a set without the gain.
    plain = Synthesis(recipe.model_copy(update={"gains": ()}), 0).expected_band_power()["C1"]
    gain = expected["C1"][number - 1] / sum(expected["C1"]) / (plain[number - 1] / sum(plain))
    assert gain > 1.2


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (17, 17), "channels": 1, "slope": 2.0},
        {"size": (24, 15), "slope": 0.0},
        {"size": (9, 16), "bands": ((1.5, 3.0), (3.2, 4.5)), "gains": ({"band": 2, "gain": 3.0},)},
        {"size": (20, 20), "bands": 7, "slope": 0.5, "mean": 0.3, "contrast": 0.05},
        {"size": (32, 8), "bands": 1, "gains": ({"band": 1, "gain": 2.0, "angle": (-90, -30)},)},
    ],
    ids=["odd", "white", "bands apart", "seven", "sector"],
)
def test_band_energies_of_other_recipes_too(changes: dict[str, Any]) -> None:
    given = {"gains": (), "classes": {"a": {}, "b": {}}, "n_by_split": {"train": 2500}, **changes}
    recipe = recipe_of(**given)
    made = Synthesis(recipe, 3)
    edges = recipe.band_edges

    def gain_of(radius: float, angle: float) -> float:
        gain = 1.0
        for each in recipe.gains:
            low, high = edges[each.band - 1]
            last = each.band == len(edges) and high == min(recipe.size) / 2
            reached = each.angle is None or each.angle[0] <= angle < each.angle[1]
            if each.angle is not None and angle == 90:
                reached = each.angle[0] == -90 or each.angle[1] == 90
            if low <= radius and (radius < high or last) and reached:
                gain *= each.gain
        return gain

    height, width = recipe.size
    power = texture_power_of(height, width, recipe.slope, recipe.contrast, gain_of)
    # Rounding to 8 bits is noise of variance 1/12 of a step.
    truth = band_power_of(power + height * width / 12 / 255**2, edges)
    found = np.mean([band_power_of(power_of(images), edges) for images in images_of(made)], axis=0)
    np.testing.assert_allclose(made.expected_band_power()["a"], truth, rtol=1e-9)
    np.testing.assert_allclose(found, truth, rtol=0.02)


def test_every_orbit_has_its_own_power_and_the_law_of_a_gaussian_texture() -> None:
    recipe = recipe_of(classes={"a": {}, "b": {}}, n_by_split={"train": 2000}, gains=(), contrast=0.2)
    made = Synthesis(recipe, 1)
    grid = made.grid
    images = np.concatenate(images_of(made))
    spectrum = np.fft.rfft2(images, axes=(1, 2))[:, grid.rows, grid.columns]
    expected = made.amplitude[0] ** 2 + grid.height * grid.width / 12 / 255**2
    ratio = (np.abs(spectrum) ** 2 / expected[:, None]).mean(axis=(0, 2))[1:]
    # 4,000 images of 3 channels: an exponential law is known to 1 in sqrt(12,000).
    assert ratio == pytest.approx(1, abs=5 * np.sqrt(2 / 12_000))
    wave = grid.orbit_of(2, 3)
    drawn = (np.abs(spectrum[:, wave]) ** 2 / expected[wave]).ravel()
    assert stats.kstest(drawn, "expon").pvalue > 0.01
    turns = (np.angle(spectrum[:, wave]) / (2 * np.pi) % 1).ravel()
    assert stats.kstest(turns, "uniform").pvalue > 0.01
    own = grid.orbit_of(8, 6)
    assert stats.kstest(spectrum[:, own].real.ravel() / np.sqrt(expected[own]), "norm").pvalue > 0.01
    # Channels and orbits are independent.
    size = np.abs(spectrum) ** 2 / expected[:, None]
    assert np.corrcoef(size[:, wave].T)[0, 1:] == pytest.approx(0, abs=0.06)
    assert np.corrcoef(size[:, wave, 0], size[:, wave + 1, 0])[0, 1] == pytest.approx(0, abs=0.06)
    assert images.mean() == pytest.approx(recipe.mean, abs=0.002)
    assert images.std() == pytest.approx(recipe.contrast, rel=0.02)


def test_special_orbits_have_one_amplitude_in_every_image_and_any_phase() -> None:
    made = Synthesis(recipe_of(n_by_split={"train": 300}, contrast=0.08), 5)
    grid = made.grid
    for label, images in enumerate(images_of(made)):
        spectrum = np.fft.rfft2(images, axes=(1, 2))[:, grid.rows, grid.columns]
        for orbits, pattern in made.special[label]:
            wave = np.abs(spectrum[:, orbits]) * grid.members[orbits][:, None] / (16 * 12) * 255
            # Rounding moves each of them by a tenth of a step at most.
            np.testing.assert_allclose(wave, pattern.strength, atol=0.15)
            # All channels wave together: the pattern is grey.
            angle = np.angle(spectrum[:, orbits])
            np.testing.assert_allclose(np.cos(angle - angle[..., :1]), 1, atol=0.01)
            turning = np.abs(np.exp(1j * angle[..., 0]).mean(axis=0))
            if pattern.phase == "fixed":
                np.testing.assert_allclose(turning, 1, atol=0.01)
            else:
                assert (turning < 0.2).all()
        special = np.concatenate([[0], *(orbits for orbits, _ in made.special[label])])
        others = np.abs(spectrum[:, np.setdiff1d(np.arange(grid.n_orbits), special)])
        spread = others.std(axis=(0, 2)) / others.mean(axis=(0, 2))
        # A Rayleigh amplitude varies by half its mean; that of an own conjugate by more.
        assert spread.min() > 0.4


def test_drawn_orbits_lie_in_their_band_and_no_two_classes_share_one() -> None:
    special = {"special": ({"band": 2, "n_orbits": 4, "strength": 3.0},)}
    taken = {"special": ({"orbits": ((2, 1), (-2, 1)), "strength": 3.0},)}
    for seed in range(20):
        made = Synthesis(recipe_of(classes={"a": special, "b": taken, "c": special}), seed)
        numbers = np.concatenate([orbits for of_class in made.special for orbits, _ in of_class])
        assert len(set(numbers.tolist())) == len(numbers) == 10
        assert set(made.band_of_orbit[numbers].tolist()) == {2}
        assert (made.grid.members[numbers] == 2).all()
    assert made.special[0][0][0].tolist() != Synthesis(made.recipe, 99).special[0][0][0].tolist()


def test_two_classes_may_share_orbits_by_name_and_each_keeps_its_strength() -> None:
    shared = {
        name: {"special": ({"orbits": ((3, 2),), "strength": strength},)}
        for name, strength in (("a", 3.0), ("b", 6.0))
    }
    made = Synthesis(recipe_of(classes=shared, n_by_split={"train": 20}), 0)
    for images, strength in zip(images_of(made), (3.0, 6.0), strict=True):
        wave = np.abs(np.fft.fft2(images, axes=(1, 2))[:, 3, 2]) * 2 / (16 * 12) * 255
        np.testing.assert_allclose(wave, strength, atol=0.15)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 21), st.integers(4, 21), st.integers(1, 6), st.integers(0, 2**32))
def test_any_size_and_number_of_bands_gives_images_of_the_stated_mean(
    height: int, width: int, n_bands: int, seed: int
) -> None:
    classes = {"a": {}, "b": {"special": ({"orbits": ((1, 1),), "strength": 5.0},)}}
    recipe = recipe_of(size=(height, width), bands=n_bands, gains=(), classes=classes)
    made = Synthesis(recipe, seed)
    images, labels, clipped = next(made.blocks("train"))
    assert images.shape == (12, height, width, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 1] * 6
    assert clipped <= 0.01 * images.size
    assert images.mean(axis=(1, 2)) == pytest.approx(0.5 * 255, abs=1.0)
    edges = recipe.band_edges
    in_bands = (made.band_of_orbit > 0).sum()
    # From 0 to Nyquist, corners included, every orbit but DC has a band.
    assert in_bands == made.grid.n_orbits - 1
    assert edges[-1][1] == pytest.approx(min(height, width) / 2)


# Truth --------------------------------------------------------------------------------------------


def test_the_truth_lies_beside_the_set_and_says_what_is_in_it(tmp_path: Path) -> None:
    truth = write_synthetic(recipe_of(), tmp_path / "set")
    for spec in ("", "/train", "::test", "/images.npz::test"):
        found = find_truth(f"{tmp_path / 'set'}{spec}")
        assert found is not None
        assert found[0] == truth
    assert truth.class_names == ("a", "b", "c")
    assert truth.n_by_split == {s: dict.fromkeys("abc", n) for s, n in (("train", 6), ("test", 3))}
    assert set(truth.files) == {"train", "test", "images.npz"}
    assert SyntheticRecipe.model_validate(truth.details["recipe"]) == recipe_of()
    a, b, c = truth.patterns
    made = Synthesis(recipe_of(), 5)
    grid = made.grid
    assert (a.kind, a.classes, a.bands, a.amplitude) == ("special orbits", ("a",), (2,), (5.0, 5.0))
    assert [grid.orbit_of(u, v) for u, v in a.orbits] == made.special[0][0][0].tolist()
    assert (b.kind, b.classes, b.bands) == ("gain", ("b",), (3,))
    for u, v in b.orbits:
        assert made.band_of_orbit[grid.orbit_of(u, v)] == 3
        assert grid.angle[grid.orbit_of(u, v)] >= 0
    assert {grid.orbit_of(*o) for o in c.orbits} == {grid.orbit_of(3, 1), grid.orbit_of(8, 6)}
    assert (c.phase, c.role) == ("fixed", "shortcut")
    assert truth.expected_band_power == made.expected_band_power()
    assert truth.clipped_share is not None
    assert 0 < truth.clipped_share < 0.001
    source = open_source(f"{tmp_path / 'set'}::test")
    assert source.class_names == ("a", "b", "c")
    assert len(source.labels) == 9


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bands": ((1, 3), (2, 5))}, "bands 1-3 and 2-5 overlap"),
        ({"bands": ((3, 5), (1, 3))}, "overlap or are out of order"),
        ({"bands": ((1, 7),)}, "band 1-7 leaves the plane: the Nyquist radius is 6"),
        ({"bands": ((3, 3),)}, "band 3-3 is empty"),
        ({"bands": ((-1, 3),)}, "is empty: its radii go from low to high"),
        ({"bands": ((float("nan"), 3),)}, "finite number"),
        ({"bands": 0}, "bands"),
        ({"gains": ({"band": 5, "gain": 2.0},)}, "there is no band 5: the set has 4"),
        ({"gains": ({"band": 1, "gain": 0.0},)}, "greater than 0"),
        ({"gains": ({"band": 1, "gain": 2.0, "angle": (30, -30)},)}, "from a lower to a higher"),
        ({"classes": {"a": {}}}, "at least two classes"),
        ({"classes": {"a": {"special": ({"strength": 1.0},)}, "b": {}}}, "give either orbits"),
        (
            {"classes": {"a": {"special": ({"strength": 1.0, "band": 1},)}, "b": {}}},
            "give either orbits, or band and n_orbits",
        ),
        (
            {
                "classes": {
                    "a": {"special": ({"strength": 1.0, "band": 1, "orbits": ((1, 1),)},)},
                    "b": {},
                }
            },
            "give either orbits",
        ),
        ({"n_by_split": {}}, "at least one split"),
        ({"n_by_split": {"a/b": 1}}, "a plain word, not 'a/b'"),
        ({"size": (2, 32)}, "greater than or equal to 4"),
        ({"channels": 2}, "1 or 3"),
        ({"contrast": float("nan")}, "contrast"),
        ({"colour": "red"}, "[Ee]xtra"),
    ],
)
def test_recipes_that_do_not_hold(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        recipe_of(**changes)


@pytest.mark.parametrize(
    ("special", "says"),
    [
        ({"orbits": ((9, 0),), "strength": 1.0}, "outside the grid of 16 x 12"),
        ({"orbits": ((0, 0),), "strength": 1.0}, "is DC"),
        ({"orbits": ((1, 2), (-1, -2)), "strength": 1.0}, "named twice"),
        ({"band": 1, "n_orbits": 50, "strength": 1.0}, "asks for 50 special orbits of band 1, which has"),
    ],
)
def test_special_orbits_that_the_grid_does_not_hold(
    special: dict[str, Any], says: str, tmp_path: Path
) -> None:
    recipe = recipe_of(classes={"a": {"special": (special,)}, "b": {}})
    with pytest.raises(SettingsError, match=says):
        write_synthetic(recipe, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_two_patterns_of_a_class_cannot_name_one_orbit(tmp_path: Path) -> None:
    """The later one would silently take the place of the first, which the truth still lists."""
    special = tuple({"orbits": (orbit,), "strength": 2.0} for orbit in ((1, 2), (-1, -2)))
    with pytest.raises(SettingsError, match="named twice"):
        write_synthetic(recipe_of(classes={"a": {"special": special}, "b": {}}), tmp_path / "set")


@pytest.mark.parametrize("whose", ["set", "class"])
def test_a_gain_on_a_band_without_orbits_is_refused(whose: str, tmp_path: Path) -> None:
    gain = ({"band": 1, "gain": 2.0},)
    changes: dict[str, Any] = {"bands": ((0.1, 0.5), (1, 6)), "gains": gain if whose == "set" else ()}
    changes["classes"] = {"a": {"gains": gain if whose == "class" else ()}, "b": {}}
    with pytest.raises(SettingsError, match="No orbit of images of 16 x 12 pixels lies in band 1"):
        write_synthetic(recipe_of(**changes), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_too_much_clipping_is_refused_with_the_figure_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'small' would clip \d+\.\d% of pixel values"):
        write_synthetic(recipe_of(contrast=0.4), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    # Half a percent is counted, and borne.
    truth = write_synthetic(recipe_of(contrast=0.17, gains=()), tmp_path / "set")
    stored = np.load(tmp_path / "set" / "images.npz")
    at_the_ends = np.mean([(stored[f"x_{s}"] % 255 == 0).mean() for s in ("train", "test")])
    assert truth.clipped_share is not None
    assert 0 < truth.clipped_share <= at_the_ends < 0.01


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_synthetic(recipe_of(), tmp_path / "set", formats=("npz",))
    with pytest.raises(RunFolderError, match="already holds"):
        write_synthetic(recipe_of(), tmp_path / "set", formats=("npz",), seed=8)
    assert load_truth(tmp_path / "set" / "truth.json").seed == 5
    write_synthetic(recipe_of(), tmp_path / "set", formats=("npz",), seed=8, replace=True)
    assert load_truth(tmp_path / "set" / "truth.json").seed == 8
