from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import random_images, save_npz
from PIL import Image

from shortcut_audit.data.splits import open_splits
from shortcut_audit.errors import DataError

NAMES = ["a", "b"]


def save_files(folder: Path, sizes: list[tuple[int, int]], seed: int = 0) -> None:
    generator = np.random.default_rng(seed)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_a_set_without_splits_is_one_called_all(tmp_path: Path) -> None:
    pairs = random_images(3, 2, (3, 6, 8))
    (split,) = open_splits(str(save_npz(tmp_path / "images.npz", pairs, NAMES)))
    assert (split.name, split.shape, len(split)) == ("all", (6, 8, 3), 6)
    assert split.preprocessing.geometry == "as they are"
    save_files(tmp_path / "files", [(5, 5)] * 2)
    (split,) = open_splits(str(tmp_path / "files"))
    assert (split.name, split.shape, len(split)) == ("all", (5, 5, 3), 4)


def test_folders_arrays_and_packed_files_know_their_splits(tmp_path: Path) -> None:
    for name in ("val", "train"):
        save_files(tmp_path / "files" / name, [(5, 5)])
    assert [split.name for split in open_splits(str(tmp_path / "files"))] == ["train", "val"]
    assert [split.name for split in open_splits(f"{tmp_path / 'files'}::val")] == ["val"]
    images, labels = np.zeros((4, 5, 5, 3), np.uint8), np.array([0, 1, 0, 1])
    arrays = {f"{key}_{s}": v for s in ("dev", "eval") for key, v in (("x", images), ("y", labels))}
    np.savez(tmp_path / "arrays.npz", classes=np.array(NAMES), **arrays)
    assert [split.name for split in open_splits(str(tmp_path / "arrays.npz"))] == ["dev", "eval"]
    assert [split.name for split in open_splits(f"{tmp_path / 'arrays.npz'}::eval")] == ["eval"]
    files = [path.read_bytes() for path in sorted((tmp_path / "files").rglob("*.png"))]
    np.savez(
        tmp_path / "packed.npz",
        blob=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *(len(file) for file in files)]),
        y=labels,
        split=np.array([1, 0, 0, 1]),
        classes=np.array(NAMES),
    )
    packed = open_splits(str(tmp_path / "packed.npz"))
    assert [(split.name, len(split)) for split in packed] == [("train", 2), ("test", 2)]
    assert packed[0].source.labels.tolist() == [1, 0]


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    save_files(tmp_path / "files", [(5, 5)])
    (tmp_path / "files" / "a").rename(tmp_path / "files" / "train")
    (split,) = open_splits(str(tmp_path / "files"))
    assert split.name == "all"
    assert split.source.class_names == ("b", "train")


@pytest.mark.parametrize("most", [1, 4, 256])
def test_blocks_hold_all_images_in_order(most: int, tmp_path: Path) -> None:
    pairs = random_images(5, 2, (3, 6, 8))
    (split,) = open_splits(str(save_npz(tmp_path / "images.npz", pairs, NAMES)))
    blocks = list(split.blocks(most))
    assert [rows.start for rows, _ in blocks] == list(range(0, 10, most))
    pixels = np.concatenate([images for _, images in blocks])
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.stack([image.transpose(1, 2, 0) for image, _ in pairs]))


def test_float_images_are_rounded_to_eight_bits(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 6, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=images, y=np.array([0, 1, 0, 1]), classes=np.array(NAMES))
    (split,) = open_splits(str(tmp_path / "images.npz"))
    ((_, pixels),) = split.blocks()
    np.testing.assert_array_equal(pixels, np.rint(images * 255).astype(np.uint8))


def test_images_of_two_sizes_need_one_and_get_it(tmp_path: Path) -> None:
    save_files(tmp_path / "files", [(5, 5), (9, 12)])
    with pytest.raises(DataError, match="differ in size") as caught:
        open_splits(str(tmp_path / "files"))
    assert "--size N" in caught.value.next_step
    (split,) = open_splits(str(tmp_path / "files"), (8, 8))
    assert split.preprocessing.geometry == "resize and crop"
    assert [images.shape for _, images in split.blocks()] == [(4, 8, 8, 3)]


def test_splits_of_two_sizes_differ_too(tmp_path: Path) -> None:
    save_files(tmp_path / "files" / "train", [(5, 5)])
    save_files(tmp_path / "files" / "test", [(6, 6)])
    with pytest.raises(DataError, match="differ in size"):
        open_splits(str(tmp_path / "files"))
    assert len(open_splits(f"{tmp_path / 'files'}::test")) == 1


def test_the_size_that_images_have_leaves_them_as_they_are(tmp_path: Path) -> None:
    save_files(tmp_path / "files", [(6, 6)] * 2)
    (plain,) = open_splits(str(tmp_path / "files"))
    (same,) = open_splits(str(tmp_path / "files"), (6, 6))
    assert same.preprocessing.geometry == "as they are"
    for (_, one), (_, other) in zip(plain.blocks(), same.blocks(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    save_files(tmp_path / "files" / "train", [(5, 5)])
    save_files(tmp_path / "files" / "test", [(5, 5)])
    (tmp_path / "files" / "test" / "b").rename(tmp_path / "files" / "test" / "c")
    with pytest.raises(DataError, match="do not have the same classes"):
        open_splits(str(tmp_path / "files"))


def test_grey_files_among_colour_are_colour(tmp_path: Path) -> None:
    save_files(tmp_path / "files", [(5, 5)])
    Image.fromarray(np.full((5, 5), 77, np.uint8)).save(tmp_path / "files" / "a" / "grey.png")
    (split,) = open_splits(str(tmp_path / "files"))
    assert split.shape == (5, 5, 3)
    ((_, pixels),) = split.blocks()
    assert any((image == 77).all() for image in pixels)
