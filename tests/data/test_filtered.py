from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images, save_npz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from replicas import keep_bins, remove_bins

import shortcut_audit as sa
from shortcut_audit.data import filtered
from shortcut_audit.data.filtered import (
    FilterSettings,
    eight_bits,
    filter_set,
    filtered_pixels,
    left_orbits,
    orbits_left_in,
)
from shortcut_audit.data.sources import UnreadableImageError, open_source
from shortcut_audit.errors import AuditError, DataError, RunFolderError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.mask_text import parse_mask
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.results.truth import find_truth, load_truth

sizes = st.tuples(st.integers(2, 9), st.integers(2, 9))
seeds = st.integers(0, 2**32 - 1)


def bins_of(grid: FrequencyGrid, chosen: np.ndarray) -> set[tuple[int, int]]:
    pairs = zip(grid.rows[chosen].tolist(), grid.columns[chosen].tolist(), strict=True)
    return {
        each
        for row, column in pairs
        for each in ((row, column), (-row % grid.height, -column % grid.width))
    }


def drawn(
    size: tuple[int, int], seed: int, n_channels: int
) -> tuple[FrequencyGrid, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    grid = FrequencyGrid(*size)
    return grid, generator.random(grid.n_orbits) < 0.4, generator.random((n_channels, *size))


def kept(grid: FrequencyGrid, left: np.ndarray, image: np.ndarray) -> np.ndarray:
    return filtered_pixels(torch.from_numpy(image), half_plane_mask(grid, left)).numpy()


# The filter itself --------------------------------------------------------------------------------


@given(sizes, seeds, st.sampled_from([1, 3]))
def test_it_is_what_the_full_complex_transform_leaves(
    size: tuple[int, int], seed: int, n_channels: int
) -> None:
    grid, chosen, image = drawn(size, seed, n_channels)
    bins = bins_of(grid, chosen)
    keeps = left_orbits(chosen, keep=True, dc="mask")
    removes = left_orbits(chosen, keep=False, dc="mask")
    np.testing.assert_allclose(kept(grid, keeps, image), keep_bins(image, bins), atol=1e-12)
    np.testing.assert_allclose(kept(grid, removes, image), remove_bins(image, bins), atol=1e-12)


@given(sizes, seeds, st.sampled_from([True, False]))
def test_dc_does_as_it_is_told(size: tuple[int, int], seed: int, keep: bool) -> None:
    grid, chosen, image = drawn(size, seed, 3)
    mean = image.mean(axis=(1, 2))
    for dc, expected in (("keep", mean), ("drop", 0 * mean)):
        left = left_orbits(chosen, keep=keep, dc=dc)  # type: ignore[arg-type]
        np.testing.assert_allclose(kept(grid, left, image).mean(axis=(1, 2)), expected, atol=1e-12)
        np.testing.assert_array_equal(left[1:], chosen[1:] if keep else ~chosen[1:])
    assert left_orbits(chosen, keep=keep, dc="mask")[0] == (chosen[0] if keep else not chosen[0])


@given(sizes, seeds)
def test_twice_is_once_and_keep_and_remove_make_the_original(size: tuple[int, int], seed: int) -> None:
    grid, chosen, image = drawn(size, seed, 3)
    once = kept(grid, chosen, image)
    np.testing.assert_allclose(kept(grid, chosen, once), once, atol=1e-12)
    np.testing.assert_allclose(once + kept(grid, ~chosen, image), image, atol=1e-12)
    with_dc = left_orbits(chosen, keep=True, dc="keep")
    without = left_orbits(chosen, keep=False, dc="drop")
    both = kept(grid, with_dc, image) + kept(grid, without, image)
    np.testing.assert_allclose(both, image, atol=1e-12)


@given(sizes, seeds)
def test_energy_is_that_of_the_bins_that_stay(size: tuple[int, int], seed: int) -> None:
    grid, chosen, image = drawn(size, seed, 1)
    power = np.abs(np.fft.fft2(image[0])) ** 2
    expected = sum(power[each] for each in bins_of(grid, chosen)) / (grid.height * grid.width)
    np.testing.assert_allclose((kept(grid, chosen, image) ** 2).sum(), expected, atol=1e-10)


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (32, 31), (9, 15)])
@pytest.mark.parametrize(
    "text",
    ["band:2/4", "radius:3-", "angle:20-75", "angle:-70--20", "square:0.4", "!orbits:(2,3),(4,-1)"],
)
def test_every_word_gives_a_mask_that_leaves_real_images(size: tuple[int, int], text: str) -> None:
    grid = FrequencyGrid(*size)
    image = np.random.default_rng(0).random((1, *size))
    chosen = parse_mask(text, grid)
    # The replica asserts that the full inverse transform has no imaginary part.
    np.testing.assert_allclose(
        kept(grid, chosen, image), keep_bins(image, bins_of(grid, chosen)), atol=1e-12
    )


def test_eight_bits_are_rounded_and_what_they_clip_is_counted() -> None:
    values = (
        np.array([[-0.5, -0.49, 0, 127.4, 127.6, 255.49, 255.51, 300], [1, 2, 3, 4, 5, 6, 7, 8]]) / 255
    )
    pixels, n_clipped = eight_bits(values)
    assert pixels.tolist() == [[0, 0, 0, 127, 128, 255, 255, 255], [1, 2, 3, 4, 5, 6, 7, 8]]
    assert n_clipped.tolist() == [2, 0]


# Whole sets ---------------------------------------------------------------------------------------

NAMES = ("ant", "bee", "cow")


def save_folder(
    root: Path, shapes: list[tuple[int, ...]] | None = None, n: int = 4, seed: int = 0
) -> Path:
    """Class folders of PNG files; sizes and channels as `shapes` in turn."""
    generator = np.random.default_rng(seed)
    shapes = shapes or [(12, 10, 3)]
    for label, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for number in range(n):
            shape = shapes[(label * n + number) % len(shapes)]
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{number}.png")
    return root


def run(data: Path | str, out: Path, text: str, formats: tuple[str, ...] = ("png",), **more: Any) -> Any:
    options = {key: more.pop(key) for key in ("replace", "on_image") if key in more}
    settings = FilterSettings(**{"action": "keep", "mask": text, **more})
    return filter_set(str(data), out, settings, formats, **options)


def pixels_in(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.rglob("*.png"))
    return {str(p.relative_to(folder)): np.asarray(Image.open(p)) for p in files}


def planar(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in [0,1], double."""
    return np.atleast_3d(image).transpose(2, 0, 1) / 255


@pytest.mark.parametrize("shape", [(12, 10, 3), (9, 11), (8, 8, 3), (7, 7)])
@pytest.mark.parametrize("action", ["keep", "remove"])
def test_files_are_the_rounded_filtered_originals(
    tmp_path: Path, shape: tuple[int, ...], action: str
) -> None:
    data = save_folder(tmp_path / "data", [shape])
    found = run(data, tmp_path / "out", "radius:-2.5", action=action)
    grid = FrequencyGrid(*shape[:2])
    bins = bins_of(grid, parse_mask("radius:-2.5", grid)) - {(0, 0)}
    replica = keep_bins if action == "keep" else remove_bins
    files, originals = pixels_in(tmp_path / "out" / "all"), pixels_in(data)
    assert files.keys() == originals.keys()
    n_clipped = dict.fromkeys(NAMES, 0)
    for name, original in originals.items():
        left = replica(planar(original), bins | {(0, 0)} if action == "keep" else bins)
        exact = 255 * left.transpose(1, 2, 0).reshape(original.shape)
        np.testing.assert_allclose(files[name], np.clip(exact, 0, 255), atol=0.5001)
        n_clipped[Path(name).parent.name] += int(((exact < -0.5) | (exact > 255.5)).sum())
    assert found.truth.details["clipped_values"] == n_clipped
    assert action == "keep" or sum(n_clipped.values()) > 0
    n_values = 12 * int(np.prod(shape))
    assert found.truth.clipped_share == pytest.approx(sum(n_clipped.values()) / n_values)
    assert found.clipped_share == {name: n / (n_values / 3) for name, n in n_clipped.items()}


def test_arrays_are_not_clipped_and_add_up(tmp_path: Path) -> None:
    data = save_npz(tmp_path / "images.npz", random_images(5, 3, (3, 10, 12)), list(NAMES))
    original = np.load(data)
    low = run(data, tmp_path / "low", "band:1/4", ("npz",), dc="keep")
    run(data, tmp_path / "high", "band:1/4", ("npz",), action="remove", dc="drop")
    arrays = [np.load(tmp_path / name / "images.npz") for name in ("low", "high")]
    for each in arrays:
        assert each["x_all"].dtype == np.float32
        assert each["y_all"].tolist() == original["y"].tolist()
        assert each["classes"].tolist() == list(NAMES)
        assert each["unclipped"].tolist() == [1]
    assert arrays[1]["x_all"].min() < 0
    np.testing.assert_allclose(arrays[0]["x_all"] + arrays[1]["x_all"], original["x"] / 255, atol=2e-6)
    assert low.truth.clipped_share is None
    assert low.clipped_share == {}
    grid = FrequencyGrid(10, 12)
    left = half_plane_mask(grid, orbits_left_in(low.truth, "ant"))
    again = torch.from_numpy(arrays[0]["x_all"]).permute(0, 3, 1, 2)
    np.testing.assert_allclose(filtered_pixels(again, left), again, atol=2e-6)


def test_files_and_arrays_of_one_set_are_the_same_images(tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data")
    both = run(data, tmp_path / "both", "band:1/4", ("png", "npz"), action="remove")
    alone = run(data, tmp_path / "alone", "band:1/4", ("png",), action="remove")
    assert both.truth.clipped_share == alone.truth.clipped_share
    run(data, tmp_path / "floats", "band:1/4", ("npz",), action="remove")
    arrays = np.load(tmp_path / "both" / "images.npz")
    assert arrays["x_all"].min() < 0
    np.testing.assert_array_equal(arrays["x_all"], np.load(tmp_path / "floats" / "images.npz")["x_all"])
    files = pixels_in(tmp_path / "both" / "all")
    assert {k: v.tolist() for k, v in files.items()} == {
        k: v.tolist() for k, v in pixels_in(tmp_path / "alone" / "all").items()
    }
    for floats, label, file in zip(arrays["x_all"], arrays["y_all"], files.items(), strict=True):
        assert NAMES[label] == Path(file[0]).parent.name
        np.testing.assert_array_equal(np.clip(np.rint(floats * 255), 0, 255), file[1])


def test_the_truth_says_what_was_done_and_is_found_again(tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data")
    found = run(data, tmp_path / "out", "angle:0-45 + dc", dc="mask", action="remove")
    truth = load_truth(tmp_path / "out" / "truth.json")
    assert truth == found.truth
    assert find_truth(f"{tmp_path}/out/all") == (truth, tmp_path / "out" / "truth.json")
    assert (truth.kind, truth.name, truth.source) == ("filtered", "out", str(data))
    assert (truth.channels, truth.height, truth.width) == (3, 12, 10)
    assert truth.n_by_split == {"all": {"ant": 4, "bee": 4, "cow": 4}}
    assert truth.patterns == ()
    details = truth.details
    assert (details["mask"], details["action"], details["dc"]) == ("angle:0-45 + dc", "remove", "mask")
    assert details["domain"] == "pixels"
    grid = FrequencyGrid(12, 10)
    left = ~parse_mask("angle:0-45 + dc", grid)
    np.testing.assert_array_equal(orbits_left_in(truth, "bee"), left)
    share = grid.members[left].sum() / (grid.members.sum() - 1)
    assert details["left_share"] == {"*": pytest.approx(share)}
    assert found.left_share == dict.fromkeys(NAMES, pytest.approx(share))


def test_memory_is_cut_into_blocks_that_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = save_folder(tmp_path / "data", n=5)
    seen: list[tuple[int, int]] = []
    run(data, tmp_path / "whole", "band:1/4", ("png", "npz"))
    monkeypatch.setattr(filtered, "_BLOCK_BYTES", 4 * 12 * 10 * 3 * 4)
    run(
        data,
        tmp_path / "blocks",
        "band:1/4",
        ("png", "npz"),
        on_image=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]
    for name in ("images.npz", "all/cow/cow_4.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes()


def test_splits_are_copied_each_and_classes_chosen(tmp_path: Path) -> None:
    train, test = random_images(6, 3, (1, 8, 8)), random_images(3, 3, (1, 8, 8), seed=1)
    arrays = {
        f"{kind}_{split}": np.stack([pair[number] for pair in pairs])
        for split, pairs in (("train", train), ("test", test))
        for number, kind in enumerate("xy")
    }
    np.savez(tmp_path / "set.npz", **arrays, classes=np.array(NAMES))
    found = run(tmp_path / "set.npz", tmp_path / "out", "band:1/2", classes=("cow", "ant"))
    counts = {"train": {"ant": 6, "cow": 6}, "test": {"ant": 3, "cow": 3}}
    assert found.truth.n_by_split == counts
    assert found.truth.class_names == ("ant", "cow")
    again = open_source(f"{tmp_path}/out::test")
    assert again.class_names == ("ant", "cow")
    assert np.bincount(again.labels).tolist() == [3, 3]
    for folder, label in (("ant", 0), ("cow", 2)):
        files = pixels_in(tmp_path / "out" / "test" / folder)
        rows = np.flatnonzero(arrays["y_test"] == label)
        assert list(files) == [f"{row:05d}.png" for row in rows]
        for row, file in zip(rows, files.values(), strict=True):
            grid = FrequencyGrid(8, 8)
            bins = bins_of(grid, parse_mask("band:1/2 + dc", grid))
            exact = keep_bins(arrays["x_test"][row] / 255, bins)[0]
            np.testing.assert_allclose(file, np.clip(255 * exact, 0, 255), atol=0.5001)


def test_each_class_can_be_left_its_own_map(tmp_path: Path) -> None:
    pairs = random_images(8, 3, (3, 8, 6))
    result = sa.audit(conv_model(3, 3), pairs, class_names=NAMES, batch_size=64, kept_share=0.2)
    result.save(tmp_path / "run")
    data = save_npz(tmp_path / "images.npz", pairs, list(NAMES))
    found = run(data, tmp_path / "out", f"map:{tmp_path}/run:own", ("npz",))
    maps = result.arrays["dominant_frequencies/kept"].astype(bool)
    grid = FrequencyGrid(8, 6)
    arrays = np.load(tmp_path / "out" / "images.npz")
    for (image, label), floats in zip(pairs, arrays["x_all"], strict=True):
        expected = keep_bins(image / 255, bins_of(grid, maps[label]) | {(0, 0)})
        np.testing.assert_allclose(floats.transpose(2, 0, 1), expected, atol=2e-6)
    for label, name in enumerate(NAMES):
        np.testing.assert_array_equal(orbits_left_in(found.truth, name)[1:], maps[label][1:])
    assert len(set(found.left_share.values())) >= 1
    assert set(found.truth.details["orbits_left"]) == set(NAMES)


def test_files_keep_their_names_where_these_are_fit(tmp_path: Path) -> None:
    data = save_folder(tmp_path / "nested", n=1)
    (data / "ant" / "deep").mkdir()
    (data / "ant" / "ant_0.png").rename(data / "ant" / "deep" / "one.png")
    run(data, tmp_path / "one", "band:1/4")
    assert (tmp_path / "one" / "all" / "ant" / "deep__one.png").is_file()
    # Two names that would collide once both are PNG: all files are numbered.
    Image.open(data / "bee" / "bee_0.png").save(data / "bee" / "bee_0.bmp")
    run(data, tmp_path / "two", "band:1/4")
    assert sorted(pixels_in(tmp_path / "two" / "all")) == [
        "ant/00000.png",
        "bee/00001.png",
        "bee/00002.png",
        "cow/00003.png",
    ]


# Input that cannot be used ------------------------------------------------------------------------


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data", [(12, 10, 3), (16, 14, 3), (12, 10)])
    with pytest.raises(DataError, match="differ in size.*--size"):
        run(data, tmp_path / "out", "band:1/4")
    assert not (tmp_path / "out").exists()
    found = run(data, tmp_path / "out", "band:1/2", size=(8, 8))
    assert {image.shape for image in pixels_in(tmp_path / "out" / "all").values()} == {(8, 8, 3)}
    assert found.truth.details["size"] == [8, 8]


def test_a_damaged_image_stops_it_or_is_left_out(tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data")
    (data / "bee" / "bee_2.png").write_bytes((data / "bee" / "bee_2.png").read_bytes()[:-60])
    with pytest.raises(UnreadableImageError, match="bee_2.png"):
        run(data, tmp_path / "out", "band:1/4")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data"]
    found = run(data, tmp_path / "out", "band:1/4", skip_unreadable=True)
    assert (found.n_images, found.n_skipped) == (11, 1)
    assert found.truth.n_by_split["all"] == {"ant": 4, "bee": 3, "cow": 4}
    assert "bee/bee_2.png" not in pixels_in(tmp_path / "out" / "all")


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"mask": "band:9/4"}, SettingsError, "no band 9 of 4"),
        ({"mask": "map:nowhere:own"}, AuditError, "holds no audit"),
        ({"mask": "all", "action": "remove", "dc": "drop"}, SettingsError, "Nothing is left"),
        ({"mask": "dc", "dc": "drop"}, SettingsError, "Nothing is left"),
        ({"classes": ("ant", "dog")}, DataError, "has no class 'dog'. Its classes are: ant, bee, cow"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_written(
    tmp_path: Path, more: dict[str, Any], kind: type[AuditError], message: str
) -> None:
    data = save_folder(tmp_path / "data")
    with pytest.raises(kind, match=message):
        run(data, tmp_path / "out", **{"text": more.pop("mask", "band:1/4"), **more})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data"]


def test_somebody_elses_folder_is_left_alone_and_ours_replaced_when_asked(tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(RunFolderError, match="holds no set of shortcut-audit"):
        run(data, tmp_path / "out", "band:1/4", replace=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"
    run(data, tmp_path / "ours", "band:1/4")
    with pytest.raises(RunFolderError, match="already holds a set"):
        run(data, tmp_path / "ours", "band:2/4")
    run(data, tmp_path / "ours", "band:2/4", replace=True)
    assert load_truth(tmp_path / "ours" / "truth.json").details["mask"] == "band:2/4"


def test_real_photographs_keep_their_low_frequencies(shared_data: Path, tmp_path: Path) -> None:
    data = f"{shared_data / 'cifar10_lossless.npz'}::test"
    found = run(data, tmp_path / "low", "radius:-8", ("npz",))
    images = np.load(tmp_path / "low" / "images.npz")["x_test"]
    source = open_source(data)
    originals = np.stack([np.asarray(source.read(row)) for row in range(0, 500, 50)])
    originals = originals if originals.shape[-1] == 3 else originals.transpose(0, 2, 3, 1)
    grid = FrequencyGrid(32, 32)
    bins = bins_of(grid, parse_mask("radius:-8", grid))
    for image, original in zip(images[::50], originals, strict=True):
        expected = keep_bins(original.transpose(2, 0, 1) / 255, bins).transpose(1, 2, 0)
        np.testing.assert_allclose(image, expected, atol=2e-6)
    assert found.left_share["cat"] == pytest.approx(0.188, abs=0.001)
