"""Shape and texture as they are read, and which images take part."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from cues import NAMES, all_pairs, picture, save_cues
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shortcut_audit.data.cue_conflict import CueImages, PixelReader, open_cue_conflict, sort_images
from shortcut_audit.data.cue_groups import grouped_outputs, grouping_of
from shortcut_audit.data.datasets import spool
from shortcut_audit.data.sources import UnreadableImageError
from shortcut_audit.errors import DataError
from shortcut_audit.results.provenance import Preprocessing

AS_THEY_ARE = Preprocessing(
    channels=1, height=4, width=4, geometry="as they are", mean=(0.0,), std=(1.0,), source="the test"
)


def save_files(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(0, 0, number)[:, :, 0]).save(root / name)
    return root


def labels_of(images: CueImages) -> list[tuple[str, str, str]]:
    return [
        (
            images.source.name(row).rpartition("/")[2],
            images.class_names[shape],
            images.class_names[texture],
        )
        for row, (shape, texture) in enumerate(zip(images.shape, images.texture, strict=True))
    ]


def test_folders_of_shapes_with_names_of_both(tmp_path: Path) -> None:
    root = save_files(tmp_path, "cat/cat7-elephant3.png", "cat/cat1-cat2.png", "dog/dog2-cat10.png")
    images = open_cue_conflict(str(root))
    # A class may be a texture alone.
    assert images.class_names == ("cat", "dog", "elephant")
    assert labels_of(images) == [
        ("cat1-cat2.png", "cat", "cat"),
        ("cat7-elephant3.png", "cat", "elephant"),
        ("dog2-cat10.png", "dog", "cat"),
    ]


def test_one_folder_of_files_will_do(tmp_path: Path) -> None:
    save_files(tmp_path, "t-shirt1-polar bear2.png", "polar bear3-t-shirt10.png", ".hidden1-x2.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert labels_of(open_cue_conflict(str(tmp_path))) == [
        ("polar bear3-t-shirt10.png", "polar bear", "t-shirt"),
        ("t-shirt1-polar bear2.png", "t-shirt", "polar bear"),
    ]


def test_images_beside_the_folders_and_two_spellings_are_refused(tmp_path: Path) -> None:
    root = save_files(tmp_path / "mixed", "cat/cat1-dog1.png", "dog/dog2-cat3.png", "loose1-cat3.png")
    with pytest.raises(DataError, match=r"has 1 image beside its folders \(loose1-cat3.png\)"):
        open_cue_conflict(str(root))
    root = save_files(tmp_path / "spelt", "Cat1-dog1.png", "dog2-cat3.png")
    with pytest.raises(DataError, match="'Cat' and 'cat' of .* differ in case alone"):
        open_cue_conflict(str(root))


def test_a_split_and_a_tar_are_read_by_their_names(tmp_path: Path) -> None:
    root = save_files(tmp_path / "set", "test/cat/cat1-dog2.png", "test/dog/dog1-cat2.png")
    wanted = [("cat1-dog2.png", "cat", "dog"), ("dog1-cat2.png", "dog", "cat")]
    assert labels_of(open_cue_conflict(f"{root}::test")) == wanted
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for file in sorted((root / "test").rglob("*.png")):
            archive.add(file, file.relative_to(root / "test"))
    assert labels_of(open_cue_conflict(str(tmp_path / "set.tar"))) == wanted


def test_packed_files_are_read_by_their_names(tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        stream = io.BytesIO()
        Image.fromarray(picture(0, 0, number)[:, :, 0]).save(stream, format="PNG")
        contents.append(stream.getvalue())
    np.savez(
        tmp_path / "packed.npz",
        blob=np.frombuffer(b"".join(contents), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, contents)]),
        y=np.array([0, 1]),
        classes=np.array(["cat", "dog"]),
        names=np.array(["stimuli/cat/cat1-dog2.png", "stimuli/dog/dog1-cat2.png"]),
    )
    images = open_cue_conflict(str(tmp_path / "packed.npz"))
    assert [row[1:] for row in labels_of(images)] == [("cat", "dog"), ("dog", "cat")]


def test_the_name_of_a_whole_file_is_no_name_of_an_image(tmp_path: Path) -> None:
    x = np.zeros((2, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "cat1-dog2.npz", x=x, y=[0, 0], classes=["cat", "dog"])
    with pytest.raises(DataError, match="images without file names, and no y_shape"):
        open_cue_conflict(str(tmp_path / "cat1-dog2.npz"))


def test_classes_whose_names_end_in_digits(tmp_path: Path) -> None:
    root = save_files(tmp_path, "class0/class01-class102.png", "class10/class107-class00.png")
    assert [row[1:] for row in labels_of(open_cue_conflict(str(root)))] == [
        ("class0", "class10"),
        ("class10", "class0"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat/0001.png"], "The file name of cat/0001.png does not say shape and texture"),
        (["cat/cat-dog2.png", "dog/dog-2.png"], "The file name of dog/dog-2.png does not say a texture"),
        (["cat/dog1-cat2.png"], "lies in folder 'cat', and its file name says shape 'dog'"),
        (
            ["class1/class11-class12.png", "class12/class121-class11.png", "class/class1-class3.png"],
            "may be 'class' or",
        ),
    ],
)
def test_names_that_do_not_say_it_stop_with_the_file(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_cue_conflict(str(save_files(tmp_path, *names)))
    assert message in caught.value.problem
    assert "cat7-elephant3.png" in caught.value.next_step or ".csv" in caught.value.next_step


def test_an_npz_with_two_labels(tmp_path: Path) -> None:
    images = open_cue_conflict(str(save_cues(tmp_path / "cues.npz", all_pairs())))
    assert images.class_names == NAMES
    assert list(zip(images.shape.tolist(), images.texture.tolist(), strict=True)) == all_pairs()
    assert (images.source.read(6) == picture(1, 2, 6)).all()


def test_a_split_of_an_npz(tmp_path: Path) -> None:
    x = np.zeros((2, 4, 4, 1), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz",
        x_test=x,
        y_shape_test=[0, 1],
        y_texture_test=[1, 0],
        classes=[b"cat", b"dog"],
    )
    images = open_cue_conflict(f"{tmp_path / 'a.npz'}::test")
    assert [row[1:] for row in labels_of(images)] == [("cat", "dog"), ("dog", "cat")]
    with pytest.raises(DataError, match="has no array x"):
        open_cue_conflict(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_texture": None}, "has no array y_texture"),
        ({"y_shape": np.zeros((4, 1), dtype=int)}, "y_shape in .* has shape"),
        ({"y_shape": np.zeros(4)}, "y_shape in .* type float64"),
        ({"y_texture": np.zeros(3, dtype=int)}, "has 4 images, 4 shapes and 3 textures"),
        ({"y_texture": np.array([0, 1, 2, -1])}, "negative labels"),
        ({"y_texture": np.array([0, 1, 2, 9])}, "names 3 classes, and its labels go up to 9"),
        ({"classes": np.array(["cat", "cat", "dog"])}, "names 2 classes 'cat'"),
    ],
)
def test_npz_files_that_do_not_hold_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = {
        "x": np.zeros((4, 4, 4, 1), dtype=np.uint8),
        "y_shape": np.array([0, 1, 2, 0]),
        "y_texture": np.array([1, 2, 0, 0]),
        "classes": np.array(["ant", "bee", "cow"]),
    }
    kept = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    np.savez(tmp_path / "cues.npz", **kept)
    with pytest.raises(DataError, match=message):
        open_cue_conflict(str(tmp_path / "cues.npz"))


def test_a_table_names_files_from_its_own_folder(tmp_path: Path) -> None:
    save_files(tmp_path, "a/1.png", "2.png")
    table = tmp_path / "labels.csv"
    table.write_text("\ufefftexture, file ,shape\ndog,a/1.png,cat\ncat,2.png,dog\n", encoding="utf-8")
    images = open_cue_conflict(str(table))
    assert labels_of(images) == [("1.png", "cat", "dog"), ("2.png", "dog", "cat")]
    assert np.asarray(images.source.read(1)).shape == (4, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,shape\n1.png,cat\n", "has no column 'texture'"),
        ("", "has no column 'file'"),
        ("file,shape,texture\n1.png,cat\n", "Line 2 of .* lacks a texture"),
        ("file,shape,texture\n", "holds no image"),
    ],
)
def test_tables_that_do_not_hold_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_cue_conflict(str(tmp_path / "labels.csv"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none does not exist"):
        open_cue_conflict(str(tmp_path / "none"))


def from_pairs(pairs: list[tuple[int, int]]) -> CueImages:
    shape, texture = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    source = spool([(picture(*pair, n), pair[0]) for n, pair in enumerate(pairs)], spec="test")
    return CueImages(source, NAMES, shape, texture)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=25),
    st.sampled_from([None, 1, 2, 30]),
    st.integers(0, 9),
)
def test_every_image_takes_part_or_is_counted_out(
    pairs: list[tuple[int, int]], limit: int | None, seed: int
) -> None:
    images = from_pairs(pairs)
    # No group for the last class.
    groups = grouping_of({name: row for row, name in enumerate(NAMES[:3])})
    if len({label for pair in pairs for label in pair} & {0, 1, 2}) < 2:
        return
    found = grouped_outputs(groups, NAMES, images.carried, 3, None)
    chosen = sort_images(images, found)
    assert chosen.n_unmapped == sum(3 in pair for pair in pairs)
    assert chosen.n_same == sum(a == b != 3 for a, b in pairs)
    assert int(chosen.used.sum()) + chosen.n_unmapped + chosen.n_same == len(pairs)
    drawn = chosen.drawn(limit, seed)
    assert sorted(row for rows in drawn for row in rows.tolist()) == np.flatnonzero(chosen.used).tolist()
    reader = PixelReader(images, AS_THEY_ARE, drawn, limit, False)
    read = [row for rows, _ in reader.batches(4) for row in rows.tolist()]
    assert len(read) == len(reader) == len(set(read))
    for shape in range(3):
        there = sum(a == shape and b not in (3, shape) for a, b in pairs)
        assert sum(pairs[row][0] == shape for row in read) == min(there, limit or there)


def test_batches_hold_the_pixels_of_their_rows() -> None:
    pairs = all_pairs(3)
    images = from_pairs(pairs)
    reader = PixelReader(images, AS_THEY_ARE, [np.array([5, 1]), np.array([3])], None, False)
    (first, pixels), (second, _) = list(reader.batches(2))
    assert (first.tolist(), second.tolist()) == ([5, 1], [3])
    assert pixels.dtype == np.float32
    assert pixels[0, 0].tolist() == (picture(*pairs[5], 5)[:, :, 0] / np.float32(255)).tolist()


def digest_of(pairs: list[tuple[int, int]], rows: list[int]) -> str:
    reader = PixelReader(from_pairs(pairs), AS_THEY_ARE, [np.array(rows)], None, False)
    for _ in reader.batches(3):
        pass
    return reader.digest


def test_the_digest_is_of_pixels_and_both_labels_in_no_order() -> None:
    pairs = [(0, 1), (1, 2), (2, 0)]
    assert digest_of(pairs, [0, 1, 2]) == digest_of(pairs, [2, 0, 1])
    assert digest_of(pairs, [0, 1]) != digest_of(pairs, [0, 1, 2])
    images = from_pairs(pairs)
    other = CueImages(images.source, images.class_names, images.shape, np.array([1, 2, 1]))
    reader = PixelReader(other, AS_THEY_ARE, [np.array([0, 1, 2])], None, False)
    list(reader.batches(3))
    assert reader.digest != digest_of(pairs, [0, 1, 2])


def test_another_stands_in_for_an_unreadable_image(tmp_path: Path) -> None:
    root = save_files(tmp_path, *(f"cat/cat{n}-dog1.png" for n in range(4)), "dog/dog1-cat1.png")
    (root / "cat" / "cat2-dog1.png").write_bytes(b"no image")
    images = open_cue_conflict(str(root))
    rows = [np.array([2, 0, 3, 1]), np.array([4])]
    with pytest.raises(UnreadableImageError, match="cat2-dog1"):
        list(PixelReader(images, AS_THEY_ARE, rows, 2, False).batches(8))
    reader = PixelReader(images, AS_THEY_ARE, rows, 2, True)
    assert [batch.tolist() for batch, _ in reader.batches(8)] == [[0, 3, 4]]
    assert [item.image for item in reader.skipped] == ["cat/cat2-dog1.png"]


def test_images_of_another_size_are_refused_where_none_is_brought_to_one(tmp_path: Path) -> None:
    root = save_files(tmp_path, "cat1-dog1.png", "dog1-cat1.png")
    Image.fromarray(np.zeros((5, 6), dtype=np.uint8)).save(root / "dog1-cat1.png")
    images = open_cue_conflict(str(root))
    with pytest.raises(DataError, match="dog1-cat1.png has 5 x 6 pixels, and others 4 x 4"):
        list(PixelReader(images, AS_THEY_ARE, [np.array([0, 1])], None, False).batches(8))
