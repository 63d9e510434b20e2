"""CIFAR and MNIST from their published layouts: torchvision's pixels, and no pickle that runs."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import (
    TEN,
    as_python2,
    cifar_images,
    idx,
    write_cifar10,
    write_cifar100,
    write_cifar_binary,
    write_mnist,
)

from shortcut_audit.data.sources import open_source
from shortcut_audit.data.torchvision_sets import FASHION_CLASSES, SETS, read_batch, unpacked_set
from shortcut_audit.errors import DataError


def pixels(spec: str) -> np.ndarray:
    source = open_source(spec)
    return np.stack([np.asarray(source.read(index)) for index in range(len(source.labels))])


def test_cifar10_holds_what_was_put_in_train_being_the_five_batches_in_turn(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, 10)
    train, test = open_source(f"{folder}::train"), open_source(f"{folder}::test")
    assert train.class_names == test.class_names == TEN
    assert train.labels.tolist() == [k % 10 for b in range(5) for k in range(b, b + 10)]
    assert test.labels.tolist() == [k % 10 for k in range(5, 15)]
    np.testing.assert_array_equal(
        pixels(f"{folder}::train"), np.concatenate([cifar_images(10, seed=b) for b in range(5)])
    )
    np.testing.assert_array_equal(pixels(f"{folder}::test"), cifar_images(10, seed=5))
    assert train.name(3) == f"{folder}::train[3]"


def test_cifar10_is_read_exactly_as_torchvision_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    write_cifar10(tmp_path, 10)
    write_cifar100(tmp_path)
    for kind, name in ((CIFAR10, "cifar10"), (CIFAR100, "cifar100")):
        # Its loader insists on the published MD5, which small files of our own cannot have.
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        for train in (True, False):
            theirs = kind(tmp_path, train=train)
            spec = f"torchvision:{name}@{tmp_path}::{'train' if train else 'test'}"
            ours = open_source(spec)
            assert list(ours.class_names) == theirs.classes
            assert ours.labels.tolist() == theirs.targets
            np.testing.assert_array_equal(pixels(spec).transpose(0, 2, 3, 1), theirs.data)


@pytest.mark.parametrize("n_classes", [10, 100])
def test_the_binary_version_holds_the_same(tmp_path: Path, n_classes: int) -> None:
    n = 100
    folder = write_cifar_binary(tmp_path, n_classes, n)
    name = f"cifar{n_classes}"
    assert unpacked_set(folder) == name
    source = open_source(f"torchvision:{name}@{tmp_path}::test")
    assert source.labels.tolist() == [k % n_classes for k in range(n)]
    assert len(source.class_names) == n_classes
    np.testing.assert_array_equal(
        pixels(f"{folder}::test"), cifar_images(n, seed=5 if n_classes == 10 else 1)
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_batches_that_python_3_pickled_are_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    folder = write_cifar10(tmp_path, 10, python2=False, protocol=protocol)
    assert open_source(f"{folder}::test").class_names == TEN
    np.testing.assert_array_equal(pixels(f"{folder}::test"), cifar_images(10, seed=5))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_labels_and_names_may_be_arrays_numpy_numbers_and_bytes(tmp_path: Path, kind: Any) -> None:
    folder = write_cifar10(tmp_path, 10)
    data = cifar_images(10).reshape(10, -1)
    for labels in (np.arange(10).astype(kind), [kind(k) for k in range(10)]):
        batch = {b"data": np.asfortranarray(data), b"labels": labels}
        (folder / "test_batch").write_bytes(pickle.dumps(batch))
        assert open_source(f"{folder}::test").labels.tolist() == list(range(10))
        np.testing.assert_array_equal(pixels(f"{folder}::test"), cifar_images(10))
    meta = {b"label_names": [name.encode() for name in TEN]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    assert open_source(f"{folder}::test").class_names == TEN


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("folder", "name"), [("MNIST", "mnist"), ("FashionMNIST", "fashion_mnist")])
def test_mnists_format_is_read_as_torchvision_reads_it(
    tmp_path: Path, folder: str, name: str, packed: bool
) -> None:
    import torchvision.datasets

    raw = write_mnist(tmp_path, folder, packed=packed)
    source = open_source(f"torchvision:{name}@{tmp_path}::test")
    assert source.class_names == (FASHION_CLASSES if "Fashion" in folder else tuple("0123456789"))
    for spec in (f"{raw}::test", f"{raw.parent}::test"):
        assert open_source(spec).class_names == source.class_names
        np.testing.assert_array_equal(pixels(spec), pixels(f"torchvision:{name}@{tmp_path}::test"))
    if packed:
        for file in raw.glob("*.gz"):
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    theirs = getattr(torchvision.datasets, folder)(tmp_path, train=False)
    assert source.labels.tolist() == theirs.targets.tolist()
    np.testing.assert_array_equal(pixels(f"{raw}::test"), theirs.data.numpy())
    assert pixels(f"{raw}::train").shape == (20, 28, 28)


def test_fashion_names_are_torchvisions_own() -> None:
    from torchvision.datasets import FashionMNIST

    assert list(FASHION_CLASSES) == FashionMNIST.classes


@pytest.mark.parametrize("name", ["cifar10", "CIFAR10", "CIFAR-10", "cifar_10"])
def test_the_root_is_named_in_three_ways(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "data", 10)
    assert len(open_source(f"torchvision:{name}@{tmp_path}/data::test").labels) == 10
    monkeypatch.chdir(tmp_path)
    assert len(open_source(f"torchvision:{name}::test").labels) == 10
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="data has no files of cifar10"):
        open_source(f"torchvision:{name}::test")
    monkeypatch.setenv("SHORTCUT_AUDIT_ROOT", str(tmp_path / "data"))
    assert len(open_source(f"torchvision:{name}::test").labels) == 10


@pytest.mark.parametrize("name", SETS)
def test_missing_files_say_what_to_download_and_where_to_put_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} has no files of {name}") as caught:
        open_source(f"torchvision:{name}@{tmp_path}::test")
    hint = caught.value.next_step
    assert f"shortcut-audit data build {name} --root {tmp_path}" in hint
    assert "https://" in hint or "http://" in hint
    assert "bytes, md5 " in hint
    assert str(tmp_path / SETS[name][0]) in hint
    assert "\n" not in hint


def test_a_missing_or_unknown_split_names_both(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    for spec, message in (
        (str(folder), "has two splits"),
        (f"torchvision:cifar10@{tmp_path}", "has two splits"),
        (f"{folder}::val", "has no split 'val'"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            open_source(spec)
        base = spec.partition("::")[0]
        assert f"{base}::train" in caught.value.next_step
        assert f"{base}::test" in caught.value.next_step


def test_another_set_of_torchvisions_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match="torchvision:SVHN is not among") as caught:
        open_source("torchvision:SVHN::test")
    assert all(name in caught.value.next_step for name in SETS)


def test_the_folder_above_points_to_the_one_below(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    with pytest.raises(DataError, match="holds cifar-10-batches-py") as caught:
        open_source(str(tmp_path))
    assert f"{folder}::test" in caught.value.next_step


class Touch:
    """Pickles to a call of os.system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def malicious(path: Path) -> dict[str, bytes]:
    command = f"touch {path}".encode()
    return {
        "reduce": pickle.dumps({"data": Touch(path)}),
        "old": b"cos\nsystem\n(S'" + command + b"'\ntR.",
        "builtin": b"c__builtin__\neval\n(S'open(\"" + str(path).encode() + b'", "w")\'\ntR.',
        "through a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93(\x8c\x01xtR.",
        "through another module": b"\x80\x04\x8c\x0anumpy.core\x8c\x01x\x93.",
        "object array": pickle.dumps({"data": np.array([Touch(path)], dtype=object)}),
        "instance": b"(S'" + command + b"'\nios\nsystem\n.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pabc\n.",
    }


@pytest.mark.parametrize("kind", sorted(malicious(Path("x"))))
def test_no_pickle_runs_anything(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "touched"
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(malicious(victim)[kind])
    with pytest.raises(DataError, match="nothing of it was run|is no batch of CIFAR") as caught:
        open_source(f"{folder}::test")
    assert not victim.exists()
    assert "\n" not in caught.value.problem
    assert "test_batch" in caught.value.problem


def test_the_pickles_above_would_have_run(tmp_path: Path) -> None:
    """The test before this one can fail: unguarded, they do touch the file."""
    for kind in ("reduce", "old", "object array"):
        pickle.loads(malicious(tmp_path / "touched")[kind])
        assert (tmp_path / "touched").exists()
        (tmp_path / "touched").unlink()


def test_what_a_pickle_may_ask_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": Touch(tmp_path / "x")}))
    with pytest.raises(DataError, match=r"asks for (posix|nt)\.system") as caught:
        read_batch(tmp_path / "batch")
    assert "where it is published" in caught.value.next_step


def test_damaged_batches_are_refused_wherever_they_are_cut_or_changed(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, 10)
    whole = (folder / "test_batch").read_bytes()
    generator = np.random.default_rng(0)
    cuts = [whole[: int(k)] for k in generator.integers(0, len(whole) - 1, 40)] + [b""]
    for content in cuts:
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(DataError):
            open_source(f"{folder}::test")
    for _ in range(300):
        changed = bytearray(whole)
        # Most of a batch is pixels; what steers the reading lies at the ends.
        ends = [*range(400), *range(len(whole) - 400, len(whole))]
        for place in generator.choice(ends, 3):
            changed[place] = generator.integers(0, 256)
        (folder / "test_batch").write_bytes(bytes(changed))
        try:
            open_source(f"{folder}::test")
        except DataError as error:
            assert "\n" not in error.problem


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [0, 1]}, "has no images"),
        ({"data": [1, 2], "labels": [0, 1]}, "has no images"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "do not have a label each"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "do not have a label each"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}, "do not have a label each"),
        ({"data": np.zeros((2, 3072), np.int64), "labels": [0, 1]}, "has no images"),
        ({"data": np.zeros((2, 784), np.uint8), "labels": [0, 1]}, "784 values, not 3072"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "names 10 classes"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, "negative labels"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "no image|label each"),
        ([1, 2], "holds list"),
    ],
)
def test_batches_that_do_not_hold_together_are_refused(tmp_path: Path, batch: Any, message: str) -> None:
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=message):
        open_source(f"{folder}::test")


def test_a_missing_batch_or_meta_file_is_named(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 cannot be read: No such file"):
        open_source(f"{folder}::train")
    (folder / "batches.meta").unlink()
    with pytest.raises(DataError, match=r"batches\.meta cannot be read: No such file"):
        open_source(f"{folder}::test")
    (folder / "batches.meta").write_bytes(as_python2({"names": []}))
    with pytest.raises(DataError, match="has no label_names"):
        open_source(f"{folder}::test")


def test_binary_files_of_another_length_are_refused(tmp_path: Path) -> None:
    folder = write_cifar_binary(tmp_path, 10)
    for content in (b"", (folder / "test_batch.bin").read_bytes()[:-1]):
        (folder / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataError, match="no rows of 3,073"):
            open_source(f"{folder}::test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(idx(np.zeros((3, 28, 28), np.uint8)))[:-20], "cannot be read"),
        (
            gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))[:-1]),
            "2,352 values that its header promises",
        ),
        (
            gzip.compress(idx(np.zeros((3, 28, 28), np.uint8)) + b"x"),
            "2,352 values that its header promises",
        ),
        (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "that its header promises"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01abcd"), "does not begin as such files do"),
        (gzip.compress(b"\0\0"), "cannot be read"),
        (b"no gzip at all", "cannot be read"),
        (gzip.compress(idx(np.zeros(3, np.uint8))), "holds no images"),
        (gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))), "do not have a label each"),
    ],
    # Packed bytes hold the time; as names they would differ between the processes of one test run.
    ids=["cut", "short", "long", "no values", "other type", "stub", "unpacked", "labels", "images"],
)
def test_damaged_files_of_mnists_format_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_mnist(tmp_path)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_source(f"{folder}::test")
    assert "\n" not in caught.value.problem


def test_a_folder_of_images_is_no_such_set(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "meta").write_text("my notes")
    assert unpacked_set(tmp_path) is None
    shutil.rmtree(tmp_path)
    assert unpacked_set(tmp_path) is None
