"""The set writer: whole or not at all, the same bytes everywhere, and names that hold on any disk."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from shortcut_audit.data import writing
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.writing import SetWriter, png_bytes, set_formats
from shortcut_audit.errors import AuditError, DataError, RunFolderError, SettingsError
from shortcut_audit.results.truth import TRUTH_FILE, GroundTruth, load_truth

CLASSES = ("ant", "bee")


def noise(n: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def truth(**more: Any) -> GroundTruth:
    values: dict[str, Any] = {
        "version": "0",
        "kind": "planted",
        "name": "set",
        "height": 6,
        "width": 5,
        "channels": 3,
        "class_names": CLASSES,
        "bands": ((0, 1.25), (1.25, 2.5)),
    }
    return GroundTruth(**{**values, **more})


def write(folder: Path, *, seed: int = 0, finish: bool = True, **more: Any) -> Path:
    """Two splits of random images; returns the folder."""
    with SetWriter(folder, CLASSES, **more) as writer:
        for name, n in (("train", 5), ("test", 3)):
            with writer.split(name, n, (6, 5, 3)) as split:
                split.add(noise(n, 6, 5, 3, seed=seed), np.arange(n) % 2)
        if finish:
            writer.finish(truth())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_both_forms_hold_the_pixels_labels_and_counts_that_were_added(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    assert sorted(entry.name for entry in folder.iterdir()) == ["images.npz", "test", "train", TRUTH_FILE]
    for name, n in (("train", 5), ("test", 3)):
        images, labels = noise(n, 6, 5, 3), np.arange(n) % 2
        arrays = np.load(folder / "images.npz")
        np.testing.assert_array_equal(arrays[f"x_{name}"], images)
        np.testing.assert_array_equal(arrays[f"y_{name}"], labels)
        assert arrays["classes"].tolist() == list(CLASSES)
        for index in range(n):
            path = folder / name / CLASSES[labels[index]] / f"{index:05d}.png"
            np.testing.assert_array_equal(np.asarray(Image.open(path)), images[index])
        assert len(list((folder / name).rglob("*.png"))) == n
    saved = load_truth(folder / TRUTH_FILE)
    assert saved.n_by_split == {"train": {"ant": 3, "bee": 2}, "test": {"ant": 2, "bee": 1}}
    assert saved.files == ("train", "test", "images.npz")


@pytest.mark.parametrize(
    ("formats", "there"), [(("png",), {"train", "test"}), (("npz",), {"images.npz"})]
)
def test_one_form_alone_is_what_the_truth_names(
    tmp_path: Path, formats: tuple[str, ...], there: set[str]
) -> None:
    folder = write(tmp_path / "set", formats=formats)
    assert {entry.name for entry in folder.iterdir()} == {*there, TRUTH_FILE}
    assert set(load_truth(folder / TRUTH_FILE).files) == there


def test_both_forms_open_as_the_same_set(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    files, arrays = open_source(f"{folder}::test"), open_source(f"{folder / 'images.npz'}::test")
    assert files.class_names == arrays.class_names == CLASSES
    # A folder lists its images class by class.
    order = np.argsort(arrays.labels, kind="stable")
    assert arrays.labels[order].tolist() == files.labels.tolist()
    for row, index in enumerate(order):
        np.testing.assert_array_equal(np.asarray(files.read(row)), arrays.read(int(index)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    channels=st.sampled_from([1, 3]),
    compress=st.booleans(),
    seed=st.integers(0, 99),
)
def test_png_bytes_are_read_back_by_pillow_exactly(
    height: int, width: int, channels: int, compress: bool, seed: int
) -> None:
    image = noise(1, height, width, channels, seed=seed)[0]
    content = png_bytes(image, compress=compress)
    opened = Image.open(io.BytesIO(content))
    assert (opened.format, opened.mode) == ("PNG", "L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)
    # Pillow reads past the image's end in silence; `verify` walks all chunks and their checksums.
    Image.open(io.BytesIO(content)).verify()


def test_a_png_longer_than_one_stored_block_is_a_valid_stream() -> None:
    image = noise(1, 300, 300, 3)[0]
    assert image.nbytes > 3 * 65535
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(image)))), image)


def test_the_same_images_give_the_same_bytes_and_other_images_others(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert contents(first) == contents(second)
    other = contents(write(tmp_path / "c", seed=1))
    assert other.keys() == contents(first).keys()
    assert other["images.npz"] != contents(first)["images.npz"]


def test_bytes_do_not_hang_on_the_time_of_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = contents(write(tmp_path / "a"))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    assert contents(write(tmp_path / "b")) == first


def test_checksums_are_those_of_every_file_and_hold_for_sha256sum(tmp_path: Path) -> None:
    with SetWriter(tmp_path / "set", CLASSES) as writer:
        with writer.split("test", 4, (6, 5, 3)) as split:
            split.add(noise(4, 6, 5, 3), np.arange(4) % 2)
        writer.add_file("card.json", "{}")
        writer.finish(truth(), checksums=True)
    lines = (tmp_path / "set" / "checksums.sha256").read_text().splitlines()
    there = {name for name in contents(tmp_path / "set") if name != "checksums.sha256"}
    assert {line.split("  ")[1] for line in lines} == there
    assert len(there) == 7
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "checksums.sha256"], cwd=tmp_path / "set", capture_output=True
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), RuntimeError("x")])
def test_whatever_goes_wrong_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    def interrupted() -> None:
        with (
            SetWriter(tmp_path / "set", CLASSES) as writer,
            writer.split("test", 4, (6, 5, 3)) as split,
        ):
            split.add(noise(2, 6, 5, 3), np.array([0, 1]))
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_without_finish_nothing_is_left_and_an_old_set_stays(tmp_path: Path) -> None:
    write(tmp_path / "new", finish=False)
    assert list(tmp_path.iterdir()) == []
    old = contents(write(tmp_path / "set"))
    write(tmp_path / "set", seed=1, finish=False, replace=True)
    assert contents(tmp_path / "set") == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_split_that_is_short_of_images_is_a_fault_and_no_set(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="given 2 of 4"),
        SetWriter(tmp_path / "set", CLASSES) as writer,
        writer.split("test", 4, (6, 5, 3)) as split,
    ):
        split.add(noise(2, 6, 5, 3), np.array([0, 1]))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
import numpy as np
from pathlib import Path
from shortcut_audit.data.writing import SetWriter
with SetWriter(Path(sys.argv[1]), ["ant", "bee"], replace=True) as writer:
    with writer.split("test", 400, (6, 5, 3)) as split:
        split.add(np.zeros((200, 6, 5, 3), np.uint8), np.arange(200) % 2)
        print("half", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("before", [False, True])
def test_a_kill_in_the_middle_leaves_nothing_under_the_name_or_the_old_set(
    tmp_path: Path, before: bool
) -> None:
    folder = tmp_path / "set"
    old = contents(write(folder)) if before else {}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        # It is half written somewhere, and not under its name.
        assert any(path.suffix == ".png" for path in tmp_path.rglob(".set.*/test/*/*"))
        process.send_signal(signal.SIGKILL)
    assert (contents(folder) if folder.exists() else {}) == old
    # What the killed one left aside is in nobody's way.
    assert contents(write(folder, replace=True)).keys() >= {TRUTH_FILE}


def test_a_set_is_replaced_only_when_asked_and_only_where_it_is_ours(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    old = contents(folder)
    with pytest.raises(RunFolderError, match="already holds a set") as caught:
        write(folder, seed=1)
    assert "--replace" in caught.value.next_step
    assert contents(folder) == old
    new = contents(write(folder, seed=1, replace=True))
    assert new.keys() == old.keys()
    assert new["images.npz"] != old["images.npz"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "1.jpg").write_bytes(b"mine")
    for replace in (False, True):
        with pytest.raises(RunFolderError, match="holds no set of shortcut-audit"):
            write(foreign, replace=replace)
    assert contents(foreign) == {"1.jpg": b"mine"}
    with pytest.raises(RunFolderError, match="is a file"):
        write(foreign / "1.jpg", replace=True)


def test_an_empty_folder_is_taken_and_an_old_set_comes_back_when_the_swap_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    old = contents(write(tmp_path / "set"))
    rename, done = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "set" and not done:
            done.append(1)
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RunFolderError, match="Invalid cross-device link"):
        write(tmp_path / "set", seed=1, replace=True)
    assert done
    assert contents(tmp_path / "set") == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_set_has_the_rights_of_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    folder = write(tmp_path / "set")
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 256 KiB, where this machine lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("formats", [("png",), ("npz",), ("png", "npz")])
def test_a_full_disk_ends_in_one_sentence_and_leaves_nothing(
    small_disk: Path, formats: tuple[str, ...]
) -> None:
    def overflow() -> None:
        with (
            SetWriter(small_disk / "set", CLASSES, formats) as writer,
            writer.split("test", 400, (32, 32, 3)) as split,
        ):
            for start in range(0, 400, 40):
                split.add(noise(40, 32, 32, 3, seed=start), np.arange(40) % 2)

    with pytest.raises(RunFolderError, match="set cannot be written: No space left on dev") as caught:
        overflow()
    assert "\n" not in caught.value.problem
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_at_the_very_end_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write(tmp_path / "set", formats=("npz",))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_rights_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the answer of the system is put on stage.
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(writing.tempfile, "mkdtemp", denied)
    with pytest.raises(RunFolderError, match="set cannot be written: Permission denied"):
        write(tmp_path / "set")


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", ".hidden", "__x", "a/b", "a\\b", "a:b", "a\nb", "x?"]
)
def test_class_names_that_are_no_folders_are_refused_for_png_and_kept_in_arrays(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(DataError, match="cannot be the name of a folder") as caught:
        SetWriter(tmp_path / "set", ["ant", name], ["png"])
    assert "--format npz" in caught.value.next_step
    with SetWriter(tmp_path / "set", ["ant", name], ["npz"]) as writer:
        with writer.split("test", 2, (6, 5, 3)) as split:
            split.add(noise(2, 6, 5, 3), np.array([0, 1]))
        writer.finish()
    assert np.load(tmp_path / "set" / "images.npz")["classes"].tolist() == ["ant", name]


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("STRASSE", "straße")])
def test_classes_that_differ_in_case_alone_are_refused(tmp_path: Path, pair: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=f"'{pair[0]}' and '{pair[1]}' differ in case alone"):
        SetWriter(tmp_path / "set", pair)
    assert list(tmp_path.iterdir()) == []


def named(folder: Path, names: list[str], labels: list[int]) -> Path:
    with SetWriter(folder, CLASSES, ["png"]) as writer:
        with writer.split("test", len(names), (6, 5, 3)) as split:
            split.add(noise(len(names), 6, 5, 3), np.array(labels), names)
        writer.finish(truth())
    return folder


def test_images_take_the_names_they_are_given(tmp_path: Path) -> None:
    folder = named(tmp_path / "set", ["x y", "z.1", "x y"], [0, 0, 1])
    assert {name for name in contents(folder) if name.endswith(".png")} == {
        "test/ant/x y.png",
        "test/ant/z.1.png",
        "test/bee/x y.png",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x", "X"], "Two images of class 'ant'"),
        (["x", "x"], "Two images of class 'ant'"),
        (["x", "../../escaped"], "cannot be written as"),
        (["x", ".hidden"], "cannot be written as"),
        (["x", "a/b"], "cannot be written as"),
    ],
)
def test_image_names_that_collide_or_leave_their_folder_are_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        named(tmp_path / "set", names, [0, 0])
    assert list(tmp_path.iterdir()) == []


def test_encoded_images_are_copied_byte_by_byte(tmp_path: Path) -> None:
    content = png_bytes(noise(1, 6, 5, 3)[0], compress=True)
    with SetWriter(tmp_path / "set", CLASSES, ["png"]) as writer:
        writer.add_encoded("val", "bee", "one.jpg", content)
        writer.add_encoded("val", "ant", "one.jpg", content)
        writer.finish(truth())
    assert (tmp_path / "set" / "val" / "bee" / "one.jpg").read_bytes() == content
    saved = load_truth(tmp_path / "set" / TRUTH_FILE)
    assert saved.files == ("val",)
    assert saved.n_by_split == {"val": {"ant": 1, "bee": 1}}


def test_an_encoded_image_never_takes_the_place_of_another(tmp_path: Path) -> None:
    with SetWriter(tmp_path / "set", CLASSES) as writer:
        writer.add_encoded("val", "bee", "one.jpg", b"1")
        with pytest.raises(AuditError, match="File exists"):
            writer.add_encoded("val", "bee", "one.jpg", b"2")
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_shape_or_type_are_a_fault(tmp_path: Path) -> None:
    with SetWriter(tmp_path / "set", CLASSES) as writer:
        with (
            pytest.raises(DataError, match="hold whole values from 0 to 255") as caught,
            writer.split("test", 2, (6, 5, 3), np.float32),
        ):
            pass
        assert "--format npz" in caught.value.next_step
    for images in (noise(2, 5, 5, 3), noise(2, 6, 5, 3).astype(np.float32)):
        with (
            pytest.raises(ValueError, match="images"),
            SetWriter(tmp_path / "set", CLASSES) as writer,
            writer.split("test", 2, (6, 5, 3)) as split,
        ):
            split.add(images, np.array([0, 1]))


def test_more_arrays_lie_beside_the_images(tmp_path: Path) -> None:
    with SetWriter(tmp_path / "set", CLASSES, ["npz"]) as writer:
        writer.add_array("extra", np.arange(3.0))
        with writer.split("test", 2, (6, 5, 1), np.float32) as split:
            split.add(np.ones((2, 6, 5, 1), np.float32), np.array([0, 1]))
        writer.finish(truth())
    arrays = np.load(tmp_path / "set" / "images.npz")
    assert arrays["extra"].tolist() == [0, 1, 2]
    assert arrays["x_test"].dtype == np.float32


def test_formats_are_a_list_without_doubles() -> None:
    assert set_formats("png") == ("png",)
    assert set_formats(" npz , png,npz") == ("npz", "png")
    for text in ("", "jpg", "png,", "PNG"):
        with pytest.raises(SettingsError, match="is not a format"):
            set_formats(text)
