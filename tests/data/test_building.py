"""Building and verifying sets: what is downloaded, refused, copied, recorded, and found changed."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from published import TEN, cifar_images, write_cifar10, write_mnist

from shortcut_audit.data.building import build_set, raw_differences
from shortcut_audit.data.cards import Card, differences, load_card
from shortcut_audit.data.downloads import fetch
from shortcut_audit.data.recipes import Download, Recipe
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.synthetic import read_synthetic, write_synthetic
from shortcut_audit.errors import DataError, ResultError, RunFolderError

BASE: dict[str, Any] = {
    "name": "mine",
    "description": "d",
    "kind": "folder",
    "source": "https://example.org",
    "citation": "Me, 2026",
    "n_classes": 2,
    "by_hand": "Put the folders into {root}/mine.",
    "licence": {"name": "CC0", "note": "Free."},
    "preprocessing": {"channels": 3},
    "splits": {"train": {"source": "{root}/mine/train"}, "test": {"source": "{root}/mine/test"}},
}


def recipe(**more: Any) -> Recipe:
    return Recipe.model_validate({**BASE, **more})


def png(seed: int, form: str = "PNG") -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def write_folder(root: Path, splits: tuple[str, ...] = ("train", "test"), n: int = 3) -> dict[str, bytes]:
    """Class folders of JPEG files below `root`; returns the files."""
    files = {
        f"{split}/{name}/{k}.jpg": png(97 * i + 13 * j + k, "JPEG")
        for i, split in enumerate(splits)
        for j, name in enumerate(("ant", "bee"))
        for k in range(n)
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class _Server(http.server.BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}
    short: ClassVar[int] = 0
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path not in self.files:
            self.send_error(404)
            return
        content = self.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - self.short])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Server]]]:
    """A server on this machine: its address, and the files it has."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Server(_Server):
        files: ClassVar[dict[str, bytes]] = {}
        asked: ClassVar[list[str]] = []

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", Server
        running.shutdown()
        thread.join()


def archive(folder: Path, form: str = "tgz") -> bytes:
    content = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(content, "w") as packed:
            for path in sorted(folder.rglob("*")):
                packed.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            tar.add(folder, arcname=folder.name)
    return content.getvalue()


# --- Building ------------------------------------------------------------------------------------


def test_encoded_images_are_copied_byte_by_byte_with_a_card(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "data" / "mine")
    card = build_set(recipe(), tmp_path / "out", root=tmp_path / "data")
    built = contents(tmp_path / "out")
    assert {name: built[name] for name in built if name.endswith(".jpg")} == files
    assert built.keys() - files.keys() == {"card.json", "checksums.sha256"}
    assert load_card(tmp_path / "out") == card
    assert card.n_by_split == {"train": {"ant": 3, "bee": 3}, "test": {"ant": 3, "bee": 3}}
    assert (card.licence.name, card.citation, card.limit) == ("CC0", "Me, 2026", None)
    assert open_source(f"{tmp_path / 'out'}::test").class_names == ("ant", "bee")


def test_the_same_files_build_the_same_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "mine")
    for name in ("a", "b"):
        build_set(recipe(), tmp_path / name, root=tmp_path / "data")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def cifar(**more: Any) -> Recipe:
    return recipe(
        n_classes=10,
        classes=TEN,
        kind="torchvision",
        splits={
            name: {"source": f"torchvision:cifar10@{{root}}::{name}", "n_images": n}
            for name, n in (("train", 50), ("test", 10))
        },
        **more,
    )


@pytest.mark.parametrize("formats", [(), ("npz",), ("png",), ("png", "npz")])
def test_arrays_are_written_as_asked_and_open_as_the_same_set(
    tmp_path: Path, formats: tuple[str, ...]
) -> None:
    write_cifar10(tmp_path / "data", 10)
    card = build_set(cifar(), tmp_path / "out", root=tmp_path / "data", formats=formats)
    assert card.class_names == TEN
    assert (tmp_path / "out" / "images.npz").exists() == ("npz" in (formats or ("npz",)))
    assert (tmp_path / "out" / "test").exists() == ("png" in formats)
    source = open_source(f"{tmp_path / 'out'}::test")
    order = np.argsort(source.labels, kind="stable")
    expected = cifar_images(10, seed=5).transpose(0, 2, 3, 1)
    labels = [k % 10 for k in range(5, 15)]
    if "png" in formats:
        expected, labels = expected[np.argsort(labels)], sorted(labels)
    assert source.labels.tolist() == labels
    for index in order:
        np.testing.assert_array_equal(np.asarray(source.read(int(index))), expected[index])
    assert differences(tmp_path / "out")[0] == []


def test_grey_arrays_keep_their_one_channel_and_take_the_recipes_names(tmp_path: Path) -> None:
    write_mnist(tmp_path / "data")
    names = [f"digit {k}" for k in range(10)]
    made = recipe(
        n_classes=10, classes=names, splits={"test": {"source": "torchvision:mnist@{root}::test"}}
    )
    build_set(made, tmp_path / "out", root=tmp_path / "data")
    arrays = np.load(tmp_path / "out" / "images.npz")
    assert arrays["x_test"].shape == (20, 28, 28, 1)
    assert arrays["classes"].tolist() == names


def test_floating_point_arrays_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    images = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "data" / "x.npz", x=images, y=[0, 1, 1, 0], classes=["ant", "bee"])
    made = recipe(kind="arrays", splits={"all": {"source": "{root}/x.npz"}})
    build_set(made, tmp_path / "out", root=tmp_path / "data")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "images.npz")["x_all"], images)
    with pytest.raises(DataError, match="these images are float32"):
        build_set(made, tmp_path / "png", root=tmp_path / "data", formats=("png",))
    assert not (tmp_path / "png").exists()


def test_a_limit_takes_the_first_of_each_class_and_says_so(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "data" / "mine", n=5)
    splits = {name: {"source": f"{{root}}/mine/{name}", "n_images": 10} for name in ("train", "test")}
    card = build_set(recipe(splits=splits), tmp_path / "out", root=tmp_path / "data", limit=2)
    assert card.limit == 2
    built = {name for name in contents(tmp_path / "out") if name.endswith(".jpg")}
    assert built == {name for name in files if name.endswith(("/0.jpg", "/1.jpg"))}
    assert differences(tmp_path / "out")[0] == []


def test_chosen_classes_keep_the_order_of_their_folders_and_gain_their_names(tmp_path: Path) -> None:
    for name in ("n03", "n01", "n02", "n04"):
        (tmp_path / "data" / "in" / name).mkdir(parents=True)
        (tmp_path / "data" / "in" / name / "x.JPEG").write_bytes(png(int(name[1:]), "JPEG"))
    made = recipe(
        classes=["zebra", "ant"], class_folders=["n03", "n01"], splits={"val": {"source": "{root}/in"}}
    )
    card = build_set(made, tmp_path / "out", root=tmp_path / "data")
    assert card.class_names == ("n01-ant", "n03-zebra")
    source = open_source(f"{tmp_path / 'out'}::val")
    assert source.class_names == card.class_names
    assert (tmp_path / "out" / "val" / "n01-ant" / "x.JPEG").read_bytes() == png(1, "JPEG")
    shutil.rmtree(tmp_path / "data" / "in" / "n03")
    with pytest.raises(DataError, match="has no class n03"):
        build_set(made, tmp_path / "again", root=tmp_path / "data")


def test_a_folder_of_images_takes_its_classes_from_a_file(tmp_path: Path) -> None:
    images = tmp_path / "data" / "val" / "images"
    images.mkdir(parents=True)
    for number in range(4):
        (images / f"val_{number}.JPEG").write_bytes(png(number, "JPEG"))
    lines = [f"val_{number}.JPEG\t{('n2', 'n1')[number % 2]}\t0\t32\t44\t62\n" for number in range(4)]
    (tmp_path / "data" / "val" / "notes.txt").write_text("".join(lines))
    split = {"source": "{root}/val/images", "labels_file": "{root}/val/notes.txt"}
    build_set(recipe(splits={"val": split}), tmp_path / "out", root=tmp_path / "data")
    assert (tmp_path / "out" / "val" / "n1" / "val_3.JPEG").read_bytes() == png(3, "JPEG")
    assert open_source(f"{tmp_path / 'out'}::val").labels.tolist() == [0, 0, 1, 1]
    for text in ("", "only-a-name\n"):
        (tmp_path / "data" / "val" / "notes.txt").write_text(text)
        with pytest.raises(DataError, match="does not name an image and its class"):
            build_set(recipe(splits={"val": split}), tmp_path / "x", root=tmp_path / "data")
    (tmp_path / "data" / "val" / "notes.txt").unlink()
    with pytest.raises(DataError, match=r"notes\.txt cannot be read: No such file"):
        build_set(recipe(splits={"val": split}), tmp_path / "x", root=tmp_path / "data")


def test_files_of_one_name_in_nested_folders_all_find_a_place(tmp_path: Path) -> None:
    for number, path in enumerate(
        ("ant/a/1.jpg", "ant/b/1.jpg", "ant/b/1-2.jpg", "ant/B/1.JPG", "bee/1.jpg")
    ):
        target = tmp_path / "data" / "mine" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png(number, "JPEG"))
    made = recipe(splits={"all": {"source": "{root}/mine"}})
    card = build_set(made, tmp_path / "out", root=tmp_path / "data")
    assert card.n_by_split == {"all": {"ant": 4, "bee": 1}}
    found = {name: content for name, content in contents(tmp_path / "out").items() if "all/" in name}
    assert len(found) == 5
    assert set(found.values()) == {png(number, "JPEG") for number in range(5)}
    assert len({name.casefold() for name in found}) == 5


def test_packed_images_without_names_get_the_ending_of_their_format(tmp_path: Path) -> None:
    files = [png(0), png(1, "JPEG"), png(2), png(3, "WEBP")]
    (tmp_path / "data").mkdir()
    np.savez(
        tmp_path / "data" / "p.npz",
        blob=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        y=[0, 0, 1, 1],
        classes=["ant", "bee"],
        names=["ant/first", "ant/second?", "..", "bee/é:x"],
    )
    build_set(
        recipe(splits={"all": {"source": "{root}/p.npz"}}), tmp_path / "out", root=tmp_path / "data"
    )
    found = {name: content for name, content in contents(tmp_path / "out").items() if "all/" in name}
    assert found == {
        "all/ant/first.png": files[0],
        "all/ant/second_.jpg": files[1],
        "all/bee/00002.png": files[2],
        "all/bee/é_x.webp": files[3],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["ant", "cow"]}, "has a class 'bee', which the recipe does not name"),
        ({"n_classes": 3}, "has 2 classes, and the recipe says 3"),
        (
            {"splits": {"train": {"source": "{root}/mine/train", "n_images": 7}}},
            "has 6 images in .*, and the recipe says 7",
        ),
        ({"splits": {"val": {"source": "{root}/mine/val"}}}, "has no split val in .*val does not exist"),
        ({"files": [{"path": "mine/notes.txt"}]}, r"notes\.txt cannot be read: No such file"),
        (
            {"files": [{"path": "mine/train/ant/0.jpg", "md5": "0" * 32}]},
            r"0\.jpg has the md5 [0-9a-f]{32}, and what is published 0{32}",
        ),
    ],
)
def test_files_that_are_not_those_of_the_recipe_are_refused_and_nothing_is_built(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path / "data" / "mine")
    with pytest.raises(DataError, match=message) as caught:
        build_set(recipe(**change), tmp_path / "out", root=tmp_path / "data")
    assert "\n" not in caught.value.problem
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_files_that_are_not_there_say_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mine has no split train in") as caught:
        build_set(recipe(), tmp_path / "out", root=tmp_path / "data")
    assert caught.value.next_step == f"Put the folders into {tmp_path / 'data'}/mine."


def test_splits_must_agree_in_their_classes_and_their_kind(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "mine")
    (tmp_path / "data" / "mine" / "test" / "bee").rename(tmp_path / "data" / "mine" / "test" / "wasp")
    with pytest.raises(DataError, match="differ in their classes"):
        build_set(recipe(), tmp_path / "out", root=tmp_path / "data")
    np.savez(
        tmp_path / "data" / "x.npz", x=np.zeros((2, 4, 4, 3), np.uint8), y=[0, 1], classes=["ant", "bee"]
    )
    splits = {"train": {"source": "{root}/mine/train"}, "test": {"source": "{root}/x.npz"}}
    with pytest.raises(DataError, match="splits of files and splits of arrays"):
        build_set(recipe(splits=splits), tmp_path / "out", root=tmp_path / "data")
    with pytest.raises(DataError, match="copied as they are"):
        build_set(
            recipe(splits={"train": splits["train"]}),
            tmp_path / "out",
            root=tmp_path / "data",
            formats=("npz",),
        )


def test_a_place_that_is_taken_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "mine")
    build_set(recipe(), tmp_path / "out", root=tmp_path / "data")
    old = contents(tmp_path / "out")
    missing = recipe(downloads=[{"url": "http://127.0.0.1:9/a.tgz", "path": "a.tgz", "gives": "a"}])
    with pytest.raises(RunFolderError, match="already holds a set"):
        build_set(missing, tmp_path / "out", root=tmp_path / "data")
    build_set(recipe(), tmp_path / "out", root=tmp_path / "data", limit=1, replace=True)
    assert contents(tmp_path / "out") != old


# --- Downloads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tgz", "zip"])
def test_an_archive_is_downloaded_checked_unpacked_and_recorded(
    tmp_path: Path, server: tuple[str, type[_Server]], form: str
) -> None:
    files = write_folder(tmp_path / "publisher" / "mine")
    packed = archive(tmp_path / "publisher" / "mine", form)
    address, handler = server
    handler.files = {f"/mine.{form}": packed}
    made = recipe(
        downloads=[
            {
                "url": f"{address}/mine.{form}",
                "path": f"mine.{form}",
                "md5": hashlib.md5(packed).hexdigest(),
                "gives": "mine",
                "n_bytes": len(packed),
            }
        ]
    )
    steps: list[tuple[str, int, int]] = []
    card = build_set(
        made, tmp_path / "out", root=tmp_path / "data", on_progress=lambda *step: steps.append(step)
    )
    built = contents(tmp_path / "out")
    assert {name: built[name] for name in built if name.endswith(".jpg")} == files
    (raw,) = card.raw_files
    assert (raw.path, raw.n_bytes, raw.sha256) == (
        f"mine.{form}",
        len(packed),
        hashlib.sha256(packed).hexdigest(),
    )
    assert raw.checked == "md5 as published"
    assert (f"Downloading mine.{form}", len(packed), len(packed)) in steps
    assert ("Writing test", 6, 6) in steps
    assert sorted(entry.name for entry in (tmp_path / "data").iterdir()) == ["mine", f"mine.{form}"]
    # What is there is not downloaded again.
    build_set(made, tmp_path / "again", root=tmp_path / "data")
    assert handler.asked == [f"/mine.{form}"]
    shutil.rmtree(tmp_path / "data" / "mine")
    build_set(made, tmp_path / "unpacked", root=tmp_path / "data")
    assert handler.asked == [f"/mine.{form}"]


def test_a_file_without_a_published_checksum_is_recorded_as_such(
    tmp_path: Path, server: tuple[str, type[_Server]]
) -> None:
    write_folder(tmp_path / "publisher" / "mine")
    packed = archive(tmp_path / "publisher" / "mine")
    address, handler = server
    handler.files = {"/a.tgz": packed}
    made = recipe(downloads=[{"url": f"{address}/a.tgz", "path": "a.tgz", "gives": "mine"}])
    (raw,) = build_set(made, tmp_path / "out", root=tmp_path / "data").raw_files
    assert raw.checked == "no checksum is published"
    assert raw.sha256 == hashlib.sha256(packed).hexdigest()


def download(url: str, **more: Any) -> Download:
    return Download(url=url, path="sub/file.bin", **more)


def test_a_download_with_another_checksum_leaves_nothing(
    tmp_path: Path, server: tuple[str, type[_Server]]
) -> None:
    address, handler = server
    handler.files = {"/f": b"something else"}
    with pytest.raises(DataError, match=r"sub/file\.bin has the sha256 [0-9a-f]{64}") as caught:
        fetch(download(f"{address}/f", sha256="0" * 64), tmp_path)
    assert ".file.bin." not in caught.value.problem
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("case", ["404", "short", "wrong length", "refused", "no such host", "no http"])
def test_a_download_that_fails_says_what_to_get_and_where_to_put_it(
    tmp_path: Path, server: tuple[str, type[_Server]], case: str
) -> None:
    address, handler = server
    handler.files = {"/f": b"x" * 100_000}
    handler.short = 10 if case == "short" else 0
    url = {
        "404": f"{address}/missing",
        "refused": "http://127.0.0.1:9/f",
        "no such host": "http://nowhere.invalid/f",
        "no http": "http://127.0.0.1:9x/f",
    }.get(case, f"{address}/f")
    with pytest.raises(DataError, match="cannot be downloaded: .|has the md5") as caught:
        fetch(download(url, md5="0" * 32, n_bytes=5), tmp_path)
    if case != "wrong length":
        assert "(5 bytes, md5 " in caught.value.next_step
        assert str(tmp_path / "sub" / "file.bin") in caught.value.next_step
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {}


def test_a_file_that_is_there_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="has the md5") as caught:
        fetch(download("http://127.0.0.1:9/f", md5="0" * 32), tmp_path)
    assert "remove it" in caught.value.next_step
    assert contents(tmp_path) == {"sub/file.bin": b"mine"}


def evil_tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        member = tarfile.TarInfo("mine/../../escaped.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    return content.getvalue()


def evil_link() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        link = tarfile.TarInfo("mine")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive at all", "cannot be unpacked"),
        (evil_tar(), "cannot be unpacked"),
        (evil_link(), "cannot be unpacked"),
        (b"\x1f\x8b" + b"\0" * 40, "cannot be unpacked"),
    ],
)
def test_archives_that_are_damaged_or_lead_out_of_the_root_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    root = tmp_path / "deep" / "data"
    root.mkdir(parents=True)
    (root / "a.tgz").write_bytes(content)
    made = recipe(downloads=[{"url": "http://127.0.0.1:9/a", "path": "a.tgz", "gives": "mine"}])
    with pytest.raises(DataError, match=message) as caught:
        build_set(made, tmp_path / "out", root=root)
    assert "\n" not in caught.value.problem
    assert set(contents(tmp_path)) == {"deep/data/a.tgz"}


def test_a_truncated_archive_and_one_of_another_set_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "publisher" / "mine")
    packed = archive(tmp_path / "publisher" / "mine")
    root = tmp_path / "data"
    root.mkdir()
    made = recipe(downloads=[{"url": "http://127.0.0.1:9/a", "path": "a.tgz", "gives": "mine"}])
    (root / "a.tgz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        build_set(made, tmp_path / "out", root=root)
    other = recipe(downloads=[{"url": "http://127.0.0.1:9/a", "path": "a.tgz", "gives": "theirs"}])
    (root / "a.tgz").write_bytes(packed)
    with pytest.raises(DataError, match="has no theirs in it"):
        build_set(other, tmp_path / "out", root=root)
    assert sorted(entry.name for entry in root.iterdir()) == ["a.tgz"]


def test_unpacked_files_of_a_gz_make_its_download_needless(tmp_path: Path) -> None:
    write_mnist(tmp_path / "data", packed=False)
    names = [
        f"MNIST/raw/{p}-{k}-ubyte.gz" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1")
    ]
    made = recipe(
        n_classes=10,
        downloads=[{"url": f"http://127.0.0.1:9/{name}", "path": name} for name in names],
        splits={"test": {"source": "torchvision:mnist@{root}::test", "n_images": 20}},
    )
    assert build_set(made, tmp_path / "out", root=tmp_path / "data").raw_files == ()


# --- Verifying -----------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data" / "mine")
    build_set(recipe(), tmp_path / "out", root=tmp_path / "data")
    return tmp_path / "out"


def test_an_untouched_set_has_no_differences(built: Path) -> None:
    assert differences(built) == ([], "13 checksums and the number of images by split and class (12)")
    (built / ".DS_Store").write_bytes(b"a system's own")
    assert differences(built)[0] == []


def test_every_kind_of_change_is_named(built: Path) -> None:
    (built / "train" / "ant" / "0.jpg").write_bytes(png(1, "JPEG"))
    (built / "train" / "bee" / "1.jpg").unlink()
    (built / "test" / "bee" / "new.png").write_bytes(png(2))
    assert differences(built)[0] == [
        "train/ant/0.jpg has changed",
        "train/bee/1.jpg is missing",
        "test/bee/new.png is new",
        f"class bee of {built}::train has 2 images, and had 3",
        f"class bee of {built}::test has 4 images, and had 3",
    ]


def test_a_changed_card_and_a_lost_class_are_named(built: Path) -> None:
    card = json.loads((built / "card.json").read_text())
    (built / "card.json").write_text(json.dumps({**card, "licence": {"name": "other"}}))
    shutil.rmtree(built / "train" / "bee")
    found = differences(built)[0]
    assert "card.json has changed" in found
    assert f"class bee of {built}::train has 0 images, and had 3" in found
    shutil.rmtree(built / "test")
    assert any("split test cannot be opened" in line for line in differences(built)[0])


def test_a_single_bit_of_an_array_is_noticed(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data", 10)
    build_set(cifar(), tmp_path / "out", root=tmp_path / "data")
    path = tmp_path / "out" / "images.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert "images.npz has changed" in differences(tmp_path / "out")[0]


def test_a_folder_without_a_record_and_damaged_records_are_refused(tmp_path: Path, built: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(DataError, match="nothing to compare it with"):
        differences(tmp_path / "plain")
    (built / "checksums.sha256").write_text("nonsense\n")
    with pytest.raises(ResultError, match="damaged in line 1"):
        differences(built)
    (built / "checksums.sha256").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(ResultError, match="damaged in line 1"):
        differences(built)
    (built / "checksums.sha256").unlink()
    for text, message in (
        ("{", "is not a card"),
        ("{}", "version: Field required"),
        ('{"format": 9}', "has format 9"),
    ):
        (built / "card.json").write_text(text)
        with pytest.raises(ResultError, match=message):
            differences(built)


def test_a_synthetic_set_is_verified_by_its_truth(tmp_path: Path) -> None:
    made = read_synthetic(REPOSITORY / "datasets" / "syn1.toml")
    small = made.model_copy(update={"n_by_split": {"test": 3}})
    write_synthetic(small, tmp_path / "syn")
    found, compared = differences(tmp_path / "syn")
    assert found == []
    assert "(12)" in compared
    (tmp_path / "syn" / "test" / "C2" / "00002.png").unlink()
    assert any("class C2 of" in line for line in differences(tmp_path / "syn")[0])


def test_raw_files_are_compared_with_the_recipe(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, 10)
    files = [
        {"path": f"{folder.name}/{name}", "md5": hashlib.md5((folder / name).read_bytes()).hexdigest()}
        for name in ("data_batch_1", "test_batch")
    ]
    assert raw_differences(cifar(files=files), tmp_path) == ([], 2)
    (folder / "test_batch").write_bytes(b"changed")
    found, n = raw_differences(cifar(files=files), tmp_path)
    assert n == 2
    assert len(found) == 1
    assert "test_batch has the md5" in found[0]
    (folder / "test_batch").unlink()
    assert raw_differences(cifar(files=files), tmp_path) == ([f"{folder / 'test_batch'} is missing"], 1)
    assert raw_differences(cifar(files=files), tmp_path / "nowhere") == ([], 0)


def test_a_card_is_read_back_as_it_was_written(built: Path) -> None:
    card = load_card(built)
    assert Card.model_validate_json(card.as_text()) == card
