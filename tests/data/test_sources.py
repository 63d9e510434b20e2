"""Sources: what each kind of DATA holds, in which order, and what is said of data that cannot be used."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import random_images, save_npz
from numpy.typing import NDArray
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions

from shortcut_audit.data.readers import is_installed
from shortcut_audit.data.sources import ImageSource, UnreadableImageError, open_source
from shortcut_audit.errors import DataError

SHAPE = (3, 10, 8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """`pixels` (H, W) or (H, W, 3) as the bytes of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def colour(seed: int, size: tuple[int, int] = (10, 8)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write(root: Path, *names: str) -> dict[str, NDArray[np.uint8]]:
    """An image file under every name; returns their pixels."""
    pixels = {name: colour(number) for number, name in enumerate(names)}
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(pixels[name]))
    return pixels


def listed(source: ImageSource) -> list[tuple[str, str]]:
    """(class name, image name) of every image, in order."""
    return [(source.class_names[label], source.name(index)) for index, label in enumerate(source.labels)]


def pack(path: Path, files: list[bytes], **arrays: object) -> str:
    """An `.npz` of packed files."""
    offsets = np.cumsum([0, *map(len, files)])
    blob = np.frombuffer(b"".join(files), dtype=np.uint8)
    np.savez(path, **{"blob": blob, "offsets": offsets, **arrays})  # type: ignore[arg-type]
    return str(path)


def test_folder_has_classes_and_files_in_alphabetical_order_and_finds_nested_files(
    tmp_path: Path,
) -> None:
    pixels = write(tmp_path, "zebra/b.png", "zebra/a.png", "ant/deep/er/c.png", "ant/d.PNG")
    source = open_source(str(tmp_path))
    assert source.class_names == ("ant", "zebra")
    assert listed(source) == [
        ("ant", "ant/d.PNG"),
        ("ant", "ant/deep/er/c.png"),
        ("zebra", "zebra/a.png"),
        ("zebra", "zebra/b.png"),
    ]
    for index in range(4):
        np.testing.assert_array_equal(np.asarray(source.read(index)), pixels[source.name(index)])


def test_folder_passes_over_hidden_folders_hidden_files_and_other_files(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png", ".cache/1.png", "__MACOSX/1.png")
    write(tmp_path, "cat/.ipynb_checkpoints/1-checkpoint.png", "cat/._1.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "readme.png").write_bytes(b"a loose file beside class folders")
    (tmp_path / "dog" / "folder.png").mkdir()
    assert listed(open_source(str(tmp_path))) == [("cat", "cat/1.png"), ("dog", "dog/1.png")]


def test_folder_with_a_split_is_the_folder_of_that_name(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/1.png", "test/cat/2.png", "test/dog/3.png")
    assert listed(open_source(f"{tmp_path}::test")) == [("cat", "cat/2.png"), ("dog", "dog/3.png")]
    with pytest.raises(DataError, match="nonsense does not exist"):
        open_source(f"{tmp_path}::nonsense")


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "c/1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="b has no image in it") as caught:
        open_source(str(tmp_path))
    assert "--output-names" in caught.value.next_step


def test_a_file_name_that_is_no_utf8_is_shown_with_escapes(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / os.fsdecode(b"caf\xe9.png"))
    source = open_source(str(tmp_path))
    assert source.name(0) == "a/caf\\udce9.png"
    assert source.read(0) is not None


def test_missing_empty_and_loose_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="has no class folders in it"):
        open_source(str(tmp_path))
    write(tmp_path, "1.png", "2.png")
    with pytest.raises(DataError, match="images but no class folders") as caught:
        open_source(str(tmp_path))
    assert "folder of its own" in caught.value.next_step


def test_class_folders_without_images_say_which_endings_count(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.txt").write_text("no image")
    with pytest.raises(DataError, match="1 class folder and no image") as caught:
        open_source(str(tmp_path))
    assert all(ending in caught.value.next_step for ending in get_img_extensions())


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK")
    for path in (str(tmp_path / "images.zip"), os.devnull):
        with pytest.raises(DataError, match=r"neither a folder, an \.npz nor a \.tar"):
            open_source(path)


def test_file_that_vanished_after_listing_is_an_unreadable_image(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")
    source = open_source(str(tmp_path))
    (tmp_path / "cat" / "1.png").unlink()
    for look in (source.read, source.peek):
        with pytest.raises(UnreadableImageError, match=r"Image cat/1\.png .*No such file"):
            look(0)


def test_packed_files_are_read_by_split_with_their_own_names(tmp_path: Path) -> None:
    pixels = [colour(0), colour(1, (5, 9)), colour(2)[..., 0], colour(3)]
    spec = pack(
        tmp_path / "set.npz",
        [png(image) for image in pixels],
        y=[1, 0, 1, 0],
        classes=["a", "b"],
        split=[0, 1, 1, 0],
        names=["w.png", "x.png", "y.png", "z.png"],
    )
    assert listed(open_source(spec)) == list(
        zip("baba", ["w.png", "x.png", "y.png", "z.png"], strict=True)
    )
    for split, chosen in {"train": [0, 3], "test": [1, 2], "val": [1, 2]}.items():
        source = open_source(f"{spec}::{split}")
        assert source.labels.tolist() == [[1, 0, 1, 0][index] for index in chosen]
        assert [source.name(i) for i in range(2)] == [
            ["w.png", "x.png", "y.png", "z.png"][i] for i in chosen
        ]
        for row, index in enumerate(chosen):
            np.testing.assert_array_equal(np.asarray(source.read(row)), pixels[index])


@pytest.mark.parametrize(
    ("arrays", "split", "message"),
    [
        ({"split": [0, 0]}, "::nonsense", "has no split 'nonsense'"),
        ({}, "::test", "has no split 'test'"),
        ({"split": [0, 0]}, "::test", "no image in split 'test'"),
        ({"split": [0, 1, 1]}, "::test", "2 images and 3 splits"),
        ({"names": ["a"]}, "", "2 images and 1 names"),
        ({"y": [0, 1, 0]}, "", "2 images and 3 labels"),
        ({"offsets": [0, 5, 10**9]}, "", "offsets do not fit"),
        ({"offsets": [0, 50, 5]}, "", "offsets do not fit"),
        ({"offsets": [0.0, 5.0, 9.0]}, "", "offsets do not fit"),
    ],
)
def test_packed_files_that_do_not_fit_together_are_refused(
    tmp_path: Path, arrays: dict[str, object], split: str, message: str
) -> None:
    spec = pack(tmp_path / "set.npz", [png(colour(0)), png(colour(1))], **{"y": [0, 1], **arrays})
    with pytest.raises(DataError, match=message):
        open_source(spec + split)


@pytest.mark.parametrize("missing", ["offsets", "y"])
def test_packed_files_without_offsets_or_labels_say_what_is_missing(tmp_path: Path, missing: str) -> None:
    arrays = {"blob": np.zeros(9, np.uint8), "offsets": [0, 4, 9], "y": [0, 1]}
    del arrays[missing]
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"but no {missing}"):
        open_source(str(tmp_path / "set.npz"))


def test_a_damaged_packed_image_is_called_by_its_own_name(tmp_path: Path) -> None:
    files = [png(colour(0)), png(colour(1))[:60], b"", b"no image at all"]
    spec = pack(tmp_path / "set.npz", files, y=[0, 0, 1, 1], names=["a", "b", "c", "d"])
    source = open_source(spec)
    assert np.asarray(source.read(0)).shape == (10, 8, 3)
    for index, message in {1: "Image b ", 2: "Image c .*zero bytes", 3: "Image d .*not an image"}.items():
        with pytest.raises(UnreadableImageError, match=message):
            source.read(index)


def tar(path: Path, folder: Path) -> str:
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=".")
    return str(path)


def test_tar_is_the_folder_it_was_packed_from_and_leaves_no_index_beside_it(tmp_path: Path) -> None:
    pixels = write(tmp_path / "in", "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "out").mkdir()
    source = open_source(tar(tmp_path / "out" / "set.tar", tmp_path / "in"))
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 1]
    for index, name in enumerate(pixels):
        assert source.name(index).endswith(name)
        np.testing.assert_array_equal(np.asarray(source.read(index)), pixels[name])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["set.tar"]


def test_tar_without_class_folders_without_images_damaged_or_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "loose", "1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="images outside class folders"):
        open_source(tar(tmp_path / "loose.tar", tmp_path / "loose"))
    with pytest.raises(DataError, match="has no image in it"):
        open_source(tar(tmp_path / "empty.tar", tmp_path / "empty"))
    (tmp_path / "bad.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(DataError, match=r"bad\.tar is damaged"):
        open_source(str(tmp_path / "bad.tar"))
    with pytest.raises(DataError, match="has no split 'test'"):
        open_source(f"{tmp_path / 'loose.tar'}::test")


def test_reader_that_fails_or_is_not_installed_ends_in_one_sentence(tmp_path: Path) -> None:
    for spec in ("tfds/mnist", f"wds/{tmp_path}::test"):
        with pytest.raises(DataError) as caught:
            open_source(spec)
        assert spec in caught.value.problem
        assert "\n" not in caught.value.problem
        assert caught.value.next_step


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("n_promised", [4, 5])
def test_webdataset_is_read_once_and_may_not_lose_images(tmp_path: Path, n_promised: int) -> None:
    pytest.importorskip("webdataset")
    images = [colour(seed) for seed in range(4)]
    with tarfile.open(tmp_path / "part-test-0000.tar", "w") as archive:
        for number, image in enumerate(images):
            for name, content in ((f"{number}.png", png(image)), (f"{number}.cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    split = {
        "name": "test",
        "num_samples": n_promised,
        "filenames": ["part-test-0000.tar"],
        "shard_lengths": [n_promised],
    }
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"test": split}}))
    if n_promised == len(images):
        source = open_source(f"wds/{tmp_path}::test")
        assert source.labels.tolist() == [0, 1, 0, 1]
        np.testing.assert_array_equal(np.stack([np.asarray(source.read(i)) for i in range(4)]), images)
    else:
        with pytest.raises(DataError, match="promises 5 images, and timm could read 4"):
            open_source(f"wds/{tmp_path}::test")


def test_all_forms_of_the_same_images_hold_the_same_pixels_and_labels(tmp_path: Path) -> None:
    pairs = random_images(3, 2, SHAPE)
    plain = open_source(str(save_npz(tmp_path / "plain.npz", pairs, ["class0", "class1"])))
    files = [png(np.ascontiguousarray(image.transpose(1, 2, 0))) for image, _ in pairs]
    labels = [label for _, label in pairs]
    packed = open_source(pack(tmp_path / "p.npz", files, y=labels, classes=["class0", "class1"]))
    for number, (content, label) in enumerate(zip(files, labels, strict=True)):
        (tmp_path / "f" / f"class{label}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / f"class{label}" / f"{number}.png").write_bytes(content)
    folder, archive = (
        open_source(str(tmp_path / "f")),
        open_source(tar(tmp_path / "f.tar", tmp_path / "f")),
    )
    for source in (plain, packed, folder, archive):
        assert source.class_names == ("class0", "class1")
        assert source.labels.tolist() == labels
        for index, (image, _) in enumerate(pairs):
            np.testing.assert_array_equal(np.asarray(source.read(index)), image.transpose(1, 2, 0))


@pytest.mark.parametrize(
    "names", [("train", "test"), ("train",), ("Train", "Val"), ("val", "test", "train")]
)
def test_folders_of_splits_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path, f"{name}/cat/1.png", f"{name}/dog/1.png")
    (tmp_path / "README.md").write_text("a set")
    (tmp_path / names[0] / ".DS_Store").write_bytes(b"")
    with pytest.raises(DataError, match=f"{tmp_path} holds (a split|splits) and no classes") as caught:
        open_source(str(tmp_path))
    assert all(f"{tmp_path}::{name}" in caught.value.next_step for name in names)
    for name in names:
        assert open_source(f"{tmp_path}::{name}").class_names == ("cat", "dog")


def test_classes_called_like_splits_stay_classes_where_they_hold_images(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "test/1.png")
    assert open_source(str(tmp_path)).class_names == ("test", "train")
    write(tmp_path, "train/more/2.png")
    assert open_source(str(tmp_path)).class_names == ("test", "train")
    write(tmp_path, "bus/1.png")
    assert open_source(str(tmp_path)).class_names == ("bus", "test", "train")


def test_one_folder_that_is_no_split_makes_all_of_them_classes(tmp_path: Path) -> None:
    write(tmp_path, "train/steam/1.png", "bus/red/1.png")
    assert open_source(str(tmp_path)).class_names == ("bus", "train")


@pytest.mark.parametrize("record", ["truth.json", "card.json"])
def test_folders_of_a_set_of_ours_are_splits_whatever_they_are_called(
    tmp_path: Path, record: str
) -> None:
    write(tmp_path, "photo/cat/1.png", "sketch/cat/1.png")
    assert open_source(str(tmp_path)).class_names == ("photo", "sketch")
    (tmp_path / record).write_text("{}")
    with pytest.raises(DataError, match="holds splits and no classes: photo, sketch") as caught:
        open_source(str(tmp_path))
    assert f"{tmp_path}::sketch" in caught.value.next_step


def test_a_set_of_arrays_alone_is_opened_by_its_folder_and_split(tmp_path: Path) -> None:
    pairs = random_images(2, 2, SHAPE)
    images = np.stack([image.transpose(1, 2, 0) for image, _ in pairs])
    labels = [label for _, label in pairs]
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[:2], y_test=[0, 1])
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(DataError, match="holds splits and no classes: train, test") as caught:
        open_source(str(tmp_path))
    assert f"{tmp_path}::test" in caught.value.next_step
    assert open_source(f"{tmp_path}::test").labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="has no arrays x_val"):
        open_source(f"{tmp_path}::val")


def test_endings_are_those_of_timm_and_torchvision_together(tmp_path: Path) -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    endings = {*get_img_extensions(), *IMG_EXTENSIONS}
    for ending in endings:
        write(tmp_path, f"cat/image{ending}", f"dog/image{ending.upper()}")
    write(tmp_path, "cat/image.gif", "dog/image.xyz")
    source = open_source(str(tmp_path))
    assert [source.name(i) for i in np.flatnonzero(source.labels == 0)] == sorted(
        f"cat/image{ending}" for ending in endings
    )


def test_a_dangling_link_is_an_unreadable_image_and_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    source = open_source(str(tmp_path))
    assert source.name(1) == "cat/2.png"
    with pytest.raises(UnreadableImageError, match="No such file"):
        source.read(1)


def test_a_folder_called_datasets_is_not_the_package_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_installed("datasets"):
        pytest.skip("the package is installed")
    (tmp_path / "datasets").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="hfds/org/set needs the package datasets, which is not inst"):
        open_source("hfds/org/set")


def test_a_hub_that_cannot_be_reached_says_how_to_get_the_set_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'org/set' on the Hub")

    monkeypatch.setattr("shortcut_audit.data.readers.is_installed", lambda _: True)
    monkeypatch.setattr("timm.data.readers.create_reader", unreachable)
    with pytest.raises(DataError, match="timm cannot open hfds/org/set::test: .Couldn't reach") as caught:
        open_source("hfds/org/set::test")
    assert "hf download --repo-type dataset org/set" in caught.value.next_step
    assert "hfds/FOLDER" in caught.value.next_step


def test_a_folder_in_the_layout_of_hugging_face_is_read_through_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_installed("datasets"):
        pytest.skip("datasets is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pixels = write(tmp_path / "set", "test/ant/1.png", "test/bee/1.png", "train/ant/1.png")
    source = open_source(f"hfds/{tmp_path / 'set'}::test")
    assert source.class_names == ("ant", "bee")
    assert source.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(np.asarray(source.read(1)), pixels["test/bee/1.png"])


def test_labels_that_a_reader_yields_with_open_files_leave_none_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[io.BytesIO] = []

    class Reader:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
            opened.append(io.BytesIO(png(colour(index))))
            return opened[-1], index % 2

        def filenames(self) -> list[str]:
            return ["a", "b", "c"]

    monkeypatch.setattr("shortcut_audit.data.readers.is_installed", lambda _: True)
    monkeypatch.setattr("timm.data.readers.create_reader", lambda *_, **__: Reader())
    source = open_source("hfds/org/set::test")
    assert source.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(np.asarray(source.read(2)), colour(2))
    assert len(opened) == 4
    assert all(stream.closed for stream in opened)
