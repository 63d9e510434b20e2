"""Synthetic shapes: reproducible bytes, and a planted wave of known amplitude in one class alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortcut_audit.data.shapes import SHAPE_CLASSES, ShapesPlan, make_shapes, save_shapes
from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import RunFolderError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.truth import find_truth, load_truth

SIZE = 16
ORBITS = ((3, 5), (-4, 2))
PLAN = ShapesPlan(class_name="ring", orbits=ORBITS, strength=6.0)
RING = SHAPE_CLASSES.index("ring")


def spectrum(images: NDArray[np.uint8]) -> NDArray[np.complex128]:
    """Fourier coefficients (n, size, size, 3) of pixels in [0,1]."""
    return np.fft.fft2(images / 255, axes=(1, 2))


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (make_shapes(5, seed, PLAN, SIZE) for seed in (4, 4, 5))
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tolist() == again[1].tolist()
    assert first[0].tobytes() != other[0].tobytes()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**31), st.sampled_from([8, 13, 16]), st.booleans())
def test_images_have_the_stated_shape_and_every_class_the_stated_number(
    n_per_class: int, seed: int, size: int, planted: bool
) -> None:
    images, labels = make_shapes(n_per_class, seed, PLAN if planted else None, size)
    assert images.shape == (4 * n_per_class, size, size, 3)
    assert images.dtype == np.uint8
    assert np.bincount(labels, minlength=4).tolist() == [n_per_class] * 4


def test_planted_class_gains_the_wave_and_nothing_else_changes() -> None:
    # A wave of strength 0 draws the same random numbers: what differs is the wave.
    plain, labels = make_shapes(20, 1, ShapesPlan("ring", ORBITS, 0.0), SIZE)
    planted, same = make_shapes(20, 1, PLAN, SIZE)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_array_equal(planted[labels != RING], plain[labels != RING])
    gain = spectrum(planted[labels == RING]) - spectrum(plain[labels == RING])
    wanted = PLAN.strength * SIZE**2 / 2 / 255
    # Rounding to 255 levels adds noise of about 0.03 to every coefficient.
    for u, v in ORBITS:
        for sign in (1, -1):
            np.testing.assert_allclose(np.abs(gain[:, sign * u, sign * v]), wanted, rtol=0.1)
            gain[:, sign * u, sign * v] = 0
    assert np.abs(gain).max() < 0.1 * wanted


def test_phase_of_the_wave_is_random_per_image_and_orbit() -> None:
    plain, labels = make_shapes(60, 1, ShapesPlan("ring", ORBITS, 0.0), SIZE)
    planted, _ = make_shapes(60, 1, PLAN, SIZE)
    gain = spectrum(planted[labels == RING]) - spectrum(plain[labels == RING])
    phases = [np.exp(1j * np.angle(gain[:, u, v, 0])) for u, v in ORBITS]
    # The mean of 60 random unit vectors is about 0.13 long.
    assert np.abs(phases[0].mean()) < 0.4
    assert np.abs((phases[0] * phases[1].conj()).mean()) < 0.4


@pytest.mark.parametrize("planted", [True, False])
def test_power_on_the_planted_orbits_stands_out_in_the_planted_class_alone(planted: bool) -> None:
    images, labels = make_shapes(150, 2, PLAN if planted else None, SIZE)
    power = np.abs(spectrum(images)) ** 2
    for u, v in ORBITS:
        by_class = [power[labels == label, u, v].mean() for label in range(4)]
        others = np.mean([by_class[label] for label in range(4) if label != RING])
        gain = by_class[RING] - others
        wanted = (PLAN.strength * SIZE**2 / 2 / 255) ** 2
        assert gain == pytest.approx(wanted if planted else 0, abs=0.35 * wanted)
        assert max(by_class[label] for label in range(4) if label != RING) < 0.35 * wanted + others


def test_saved_shapes_are_a_source_with_both_splits_and_the_truth_beside_it(tmp_path: Path) -> None:
    train, test = make_shapes(3, 0, PLAN, SIZE), make_shapes(2, 1, PLAN, SIZE)
    splits = {"train": train, "test": test}
    images_file = save_shapes(tmp_path / "shapes", splits, PLAN, seed=7)
    assert {entry.name for entry in (tmp_path / "shapes").iterdir()} == {"images.npz", "truth.json"}
    for split, (images, labels) in splits.items():
        source = open_source(f"{images_file}::{split}")
        assert source.class_names == SHAPE_CLASSES
        np.testing.assert_array_equal(source.labels, labels)
        np.testing.assert_array_equal(source.read(1), images[1])
    truth = load_truth(tmp_path / "shapes" / "truth.json")
    assert (truth.kind, truth.seed, truth.height, truth.width) == ("shapes", 7, SIZE, SIZE)
    assert truth.n_by_split == {
        "train": dict.fromkeys(SHAPE_CLASSES, 3),
        "test": dict.fromkeys(SHAPE_CLASSES, 2),
    }
    (pattern,) = truth.patterns
    assert (pattern.role, pattern.classes, pattern.orbits) == ("shortcut", ("ring",), ORBITS)
    assert pattern.amplitude == (6.0, 6.0)
    grid = FrequencyGrid(SIZE, SIZE)
    assert pattern.bands == tuple(sorted({int(grid.bands()[grid.orbit_of(*o)]) + 1 for o in ORBITS}))
    found = find_truth(f"{images_file}::test")
    assert found is not None
    assert found[0] == truth


def test_shapes_without_a_plan_have_a_truth_without_patterns(tmp_path: Path) -> None:
    shapes = make_shapes(1, 0, None, SIZE)
    save_shapes(tmp_path / "shapes", {"train": shapes}, None, seed=0)
    assert load_truth(tmp_path / "shapes" / "truth.json").patterns == ()


def test_a_set_of_shapes_is_replaced_and_a_folder_of_others_is_not(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_shapes(tmp_path / "shapes", {"train": make_shapes(1, seed, None, SIZE)}, None, seed)
    assert load_truth(tmp_path / "shapes" / "truth.json").seed == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="holds no set"):
        save_shapes(tmp_path / "mine", {"train": make_shapes(1, 0, None, SIZE)}, None, 0)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
