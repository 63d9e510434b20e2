from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conv_model, random_images
from PIL import Image

import shortcut_audit as sa
from shortcut_audit.data.mask_files import read_masks
from shortcut_audit.errors import AuditError, ResultError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import band_mask, orbit_mask, top_share

GRID = FrequencyGrid(8, 6)
NAMES = ("cat", "dog: big", "own goal@0.5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of images as large as GRID."""
    pairs = random_images(8, 3, (3, GRID.height, GRID.width))
    result = sa.audit(conv_model(3, 3), pairs, class_names=NAMES, batch_size=64, kept_share=0.2)
    return result.save(tmp_path_factory.mktemp("runs") / "run: a")


def chosen(text: str, grid: FrequencyGrid = GRID, names: tuple[str, ...] = NAMES) -> np.ndarray:
    masks = read_masks(text, grid, names)
    assert masks.chosen.shape == (len(names), grid.n_orbits)
    return masks.chosen


# Maps of a run ------------------------------------------------------------------------------------


def test_a_map_is_the_kept_share_of_the_run_or_the_share_asked_for(run: Path) -> None:
    arrays = sa.load_result(run).arrays
    for row, name in enumerate(NAMES):
        kept = arrays["dominant_frequencies/kept"][row].astype(bool)
        assert kept.any()
        masks = read_masks(f"map:{run}:{name}", GRID, NAMES)
        assert not masks.per_class
        for own in masks.chosen:
            np.testing.assert_array_equal(own, kept)
        rank = arrays["dominant_frequencies/rank"][row]
        np.testing.assert_array_equal(chosen(f"map:{run}:{name}@0.5")[0], top_share(GRID, rank, 0.5))


@pytest.mark.parametrize("own", ["own", "*"])
def test_every_class_can_have_its_own_map(run: Path, own: str) -> None:
    kept = sa.load_result(run).arrays["dominant_frequencies/kept"].astype(bool)
    masks = read_masks(f"map:{run}:{own} + orbits:(4,3)", GRID, (NAMES[2], NAMES[0]))
    assert masks.per_class
    np.testing.assert_array_equal(masks.chosen, kept[[2, 0]] | orbit_mask(GRID, [(4, 3)]))
    rank = sa.load_result(run).arrays["dominant_frequencies/rank"]
    np.testing.assert_array_equal(chosen(f"map:{run}:{own}@0.4")[1], top_share(GRID, rank[1], 0.4))


@pytest.mark.parametrize(
    ("tail", "names", "message"),
    [
        (":bird", NAMES, "no map of class 'bird'. It has maps of: cat, dog: big"),
        (":own", ("cat", "bird"), "no map of class 'bird'"),
        (":cat@0", NAMES, "share '0' is not above 0"),
        (":cat@1.5", NAMES, "share '1.5' is not above 0"),
        (":cat@much", NAMES, "share 'much' is not above 0"),
        (":cat@nan", NAMES, "share 'nan' is not above 0"),
    ],
)
def test_classes_and_shares_that_are_not_there_are_told(
    run: Path, tail: str, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        read_masks(f"map:{run}{tail}", GRID, names)


def test_a_run_of_another_size_or_none_at_all_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="are of 8 x 6 images, and these have 6 x 8 .*--size 8x6"):
        read_masks(f"map:{run}:cat", FrequencyGrid(6, 8), NAMES)
    with pytest.raises(ResultError, match="holds no audit"):
        read_masks(f"map:{tmp_path}:cat", GRID, NAMES)
    with pytest.raises(ResultError, match="nowhere holds no audit"):
        read_masks("map:nowhere:cat", GRID, NAMES)
    with pytest.raises(SettingsError, match="names no class of a run"):
        read_masks("map:nowhere", GRID, NAMES)


# Planes of bins -----------------------------------------------------------------------------------


def save_npy(path: Path, plane: np.ndarray) -> None:
    np.save(path, plane)


def save_npz(path: Path, plane: np.ndarray) -> None:
    np.savez(path, mask=plane, more=np.zeros(3))


def save_png(path: Path, plane: np.ndarray) -> None:
    Image.fromarray((plane * 255).astype(np.uint8)).save(path)


SAVERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "npy": save_npy,
    "npz": save_npz,
    "png": save_png,
}


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (5, 7)])
def test_a_plane_means_the_same_centred_or_not(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    grid = FrequencyGrid(*size)
    expected = np.random.default_rng(1).random(grid.n_orbits) < 0.4
    plane = np.zeros(size, dtype=bool)
    for u, v in zip(grid.u[expected], grid.v[expected], strict=True):
        plane[u, v] = plane[-u, -v] = True
    SAVERS[kind](tmp_path / f"plain.{kind}", plane)
    SAVERS[kind](tmp_path / f"shifted.{kind}", np.fft.fftshift(plane))
    np.testing.assert_array_equal(chosen(f"file:{tmp_path}/plain.{kind}@uncentred", grid)[0], expected)
    np.testing.assert_array_equal(chosen(f"file:{tmp_path}/shifted.{kind}@centred", grid)[0], expected)
    np.testing.assert_array_equal(
        chosen(f"!file:{tmp_path}/shifted.{kind}@centered & band:1/1", grid)[0],
        ~expected & band_mask(grid, 1, 1),
    )


def test_a_plane_that_is_not_hermitian_is_refused_with_a_cure(tmp_path: Path) -> None:
    plane = np.zeros((8, 6))
    plane[2, 1] = 1
    np.save(tmp_path / "m.npy", plane)
    with pytest.raises(SettingsError, match=r"m.npy is not Hermitian.*1 pair .*\(2, 1\) and \(-2, -1\)"):
        read_masks(f"file:{tmp_path}/m.npy@uncentred", GRID, NAMES)
    with pytest.raises(SettingsError, match="Symmetrise it: m = np.fft.ifftshift"):
        read_masks(f"file:{tmp_path}/m.npy@centred", GRID, NAMES)
    plane[-2, -1] = 1
    np.save(tmp_path / "m.npy", plane)
    assert chosen(f"file:{tmp_path}/m.npy@uncentred").sum() == len(NAMES)


def test_a_plane_read_the_wrong_way_round_is_told_so(tmp_path: Path) -> None:
    grid = FrequencyGrid(7, 5)
    plane = np.zeros((7, 5), dtype=bool)
    plane[2, 1] = plane[-2, -1] = True
    np.save(tmp_path / "m.npy", plane)
    np.save(tmp_path / "c.npy", np.fft.fftshift(plane))
    with pytest.raises(SettingsError, match="Read as @uncentred it is Hermitian"):
        read_masks(f"file:{tmp_path}/m.npy@centred", grid, NAMES)
    with pytest.raises(SettingsError, match="Read as @centred it is Hermitian"):
        read_masks(f"file:{tmp_path}/c.npy@uncentred", grid, NAMES)


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (np.ones((8, 4)), "npy", "has 8 x 4 bins, half a plane, and the images have 8 x 6 pixels"),
        (np.ones((6, 8)), "npy", "has 6 x 8 bins, and the images"),
        (np.ones((8, 6)) * 0.5, "npy", "holds 1 values, from 0.5"),
        (np.linspace(0, 1, 48).reshape(8, 6), "npy", "holds 48 values"),
        (np.full((8, 6), np.nan), "npy", "holds 1 values"),
        (np.ones((1, 8, 6)), "npy", "shape \\(1, 8, 6\\)"),
        (np.ones((8, 6), dtype=complex), "npy", "type complex128"),
        (np.array([["a"]]), "npy", "array of type"),
        (np.zeros((8, 6)), "npy", "holds no orbit"),
        (b"\x93NUMPY", "npy", "cannot be read"),
        (b"", "npy", "cannot be read"),
        (b"PK\x03\x04 broken", "npz", "cannot be read"),
        (b"no image", "png", "cannot be read"),
        (b"text", "txt", "of no known kind"),
    ],
)
def test_what_is_no_plane_is_told(tmp_path: Path, content: Any, suffix: str, message: str) -> None:
    path = tmp_path / f"m.{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(SettingsError, match=message):
        read_masks(f"file:{path}@uncentred", GRID, NAMES)


def test_pickles_unnamed_layouts_and_missing_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([[print]]), allow_pickle=True)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_masks(f"file:{tmp_path}/object.npy@centred", GRID, NAMES)
    for text in (f"file:{tmp_path}/object.npy", f"file:{tmp_path}/object.npy@middle"):
        with pytest.raises(SettingsError, match="does not say where zero frequency lies"):
            read_masks(text, GRID, NAMES)
    with pytest.raises(SettingsError, match="nothing.npy cannot be read: No such file"):
        read_masks(f"file:{tmp_path}/nothing.npy@centred", GRID, NAMES)
    np.savez(tmp_path / "two.npz", a=np.ones((8, 6)), b=np.ones((8, 6)))
    with pytest.raises(SettingsError, match="holds 2 arrays, and none is named mask"):
        read_masks(f"file:{tmp_path}/two.npz@centred", GRID, NAMES)


# Lists of orbits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n-3,1\n",
        "# mine\n(1, 2)\n\n(-3, 1)",
        "u,v,importance\n1,2,0.5\n-3,1,0.4\n",
        "class,rank,v,u\ncat,1,2.0,1.0\ncat,2,1.0,-3.0\n",
        "[[1, 2], [-3, 1]]",
        '{"class": "ring", "orbits": [[1, 2], [-3, 1]]}',
        json.dumps({"patterns": [{"orbits": [[1, 2]]}, {"orbits": []}, {"orbits": [[-3, 1]]}]}),
    ],
)
def test_a_list_of_orbits_in_many_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list (1), mine"
    path.write_text(text)
    expected = orbit_mask(GRID, [(1, 2), (-3, 1)])
    np.testing.assert_array_equal(chosen(f"orbits:{path}")[0], expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "no list of orbits"),
        ("one two", "no list of orbits"),
        ("1.5 2", "no whole numbers"),
        ("[[1, 2], 3]", "no list of orbits"),
        ('{"orbit": 1}', "no list of orbits"),
        ("[[1, 2]", "no list of orbits"),
        ("[" * 100_000, "no list of orbits"),
        ("1e400 2", "no list of orbits"),
        ("u,v\n1\n", "no list of orbits"),
        ("", "holds no orbit"),
        ("5 1", r"Orbit \(5, 1\) lies outside"),
    ],
)
def test_what_is_no_list_of_orbits_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(AuditError, match=message):
        read_masks(f"orbits:{tmp_path}/list", GRID, NAMES)
