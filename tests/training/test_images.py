"""The images of a training: which are chosen, and that each comes back as it was."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_images, save_npz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shortcut_audit.data.sources import FilesSource, ImageSource, open_source
from shortcut_audit.errors import DataError, RunFolderError
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.training import images as training_images
from shortcut_audit.training.images import StoredImages, choose_rows, labels_by_name, store_images


def png(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def source_of(labels: list[int], contents: list[bytes] | None = None, n_classes: int = 3) -> ImageSource:
    files = contents or [png(index) for index in range(len(labels))]
    return FilesSource(
        spec="files",
        class_names=tuple(f"class{label}" for label in range(n_classes)),
        labels=np.array(labels, dtype=np.int64),
        names=[f"{index}.png" for index in range(len(labels))],
        open_bytes=files.__getitem__,
    )


def preprocessing(height: int = 8, width: int = 8) -> Preprocessing:
    return Preprocessing(
        channels=3, height=height, width=width, geometry="as they are", mean=(0.0,), std=(1.0,), source=""
    )


def stored(source: ImageSource, rows: np.ndarray | None = None, **options: Any) -> StoredImages:
    chosen = np.arange(len(source.labels)) if rows is None else rows
    return store_images(
        source, chosen, source.labels[chosen], source.class_names, preprocessing(), **options
    )


@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=60).filter(lambda found: len(set(found)) > 1),
    images_per_class=st.none() | st.integers(1, 12),
    val_share=st.sampled_from([0.0, 0.3, 0.6]),
    seed=st.integers(0, 3),
)
def test_the_choice_is_seeded_stratified_and_disjoint(
    labels: list[int], images_per_class: int | None, val_share: float, seed: int
) -> None:
    source = source_of(labels, [b""] * len(labels), 4)
    options = {"images_per_class": images_per_class, "val_share": val_share, "seed": seed}
    try:
        train, val = choose_rows(source, **options)
    except DataError:
        counts = np.bincount(labels)
        kept = np.minimum(counts, images_per_class or 99)
        assert val_share > 0
        assert all(min(round(val_share * n), n - 1) <= 0 for n in kept[kept > 0])
        return
    again = choose_rows(source, **options)
    assert np.array_equal(train, again[0])
    assert np.array_equal(val, again[1])
    assert not set(train) & set(val)
    for label in set(labels):
        n_all = min(labels.count(label), images_per_class or 99)
        n_val = sum(labels[row] == label for row in val)
        assert n_val == min(round(val_share * n_all), n_all - 1)
        assert sum(labels[row] == label for row in train) == n_all - n_val


def test_images_of_one_class_never_move_anothers_choice() -> None:
    few, more = source_of([0] * 9 + [1] * 9), source_of([0] * 9 + [1] * 9 + [2] * 9)
    options = {"images_per_class": 4, "val_share": 0.0, "seed": 3}
    assert choose_rows(few, **options)[0].tolist() == choose_rows(more, **options)[0][:8].tolist()
    # Nor are the same places of each class taken.
    chosen = choose_rows(few, **options)[0]
    assert chosen[:4].tolist() != (chosen[4:] - 9).tolist()
    other = choose_rows(few, images_per_class=4, val_share=0.0, seed=4)[0].tolist()
    assert other != choose_rows(few, **options)[0].tolist()


@pytest.mark.parametrize("labels", [[1, 1, 1, 1]])
def test_a_single_class_is_no_training_set(labels: list[int]) -> None:
    with pytest.raises(DataError, match=r"images of one class only \(class1\)"):
        choose_rows(source_of(labels), images_per_class=None, val_share=0, seed=0)


def test_classes_are_matched_by_name() -> None:
    source = source_of([0, 2, 2])
    assert labels_by_name(source, ("class2", "other", "class0")).tolist() == [2, 0, 0]
    with pytest.raises(DataError, match="'class2', which the training images do not have"):
        labels_by_name(source, ("class0", "class1"))


@pytest.mark.parametrize("most_bytes", [0, 1 << 30])
def test_images_come_back_as_they_were_in_any_order(
    most_bytes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training_images, "MOST_BYTES_IN_MEMORY", most_bytes)
    labels = [0, 1, 2] * 4
    found = stored(source_of(labels), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    order = np.random.default_rng(0).permutation(12)
    pixels = found.read(order).numpy()
    assert pixels.dtype == np.uint8
    for place, row in enumerate(order):
        expected = np.asarray(Image.open(io.BytesIO(png(row)))).transpose(2, 0, 1)
        assert np.array_equal(pixels[place], expected)
    assert found.labels.tolist() == labels
    assert found.n_by_class == (4, 4, 4)


def test_where_images_lie_is_not_part_of_their_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = stored(source_of([0, 1, 2]))
    monkeypatch.setattr(training_images, "MOST_BYTES_IN_MEMORY", 0)
    assert stored(source_of([0, 1, 2])).digest == in_memory.digest


def test_the_digest_sees_pixels_labels_order_and_names() -> None:
    contents = [png(0), png(1), png(2)]
    base = source_of([0, 1, 2], contents)
    others = [
        source_of([0, 1, 2], [png(0), png(1), png(3)]),
        source_of([0, 1, 1], contents),
        source_of([0, 1, 2], contents[::-1]),
        source_of([0, 1, 2], contents, 4),
    ]
    digests = {stored(source).digest for source in [base, *others]}
    assert len(digests) == 5
    assert stored(base).digest in digests


def test_float_images_stay_floats(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((4, 8, 8, 3), dtype=np.float32)
    np.savez(tmp_path / "floats.npz", x=pixels, y=np.array([0, 1, 0, 1]))
    source = open_source(str(tmp_path / "floats.npz"))
    found = stored(source).read(np.array([2]))
    assert np.array_equal(found[0].numpy(), pixels[2].transpose(2, 0, 1))


def test_unreadable_images_stop_or_are_left_out() -> None:
    source = source_of([0, 1, 2, 0], [png(0), b"", png(2), png(3)])
    with pytest.raises(DataError, match=r"1\.png cannot be read: it has zero bytes"):
        stored(source)
    found = stored(source, skip_unreadable=True)
    assert [skipped.image for skipped in found.skipped] == ["1.png"]
    assert found.labels.tolist() == [0, 2, 0]
    expected = np.asarray(Image.open(io.BytesIO(png(3)))).transpose(2, 0, 1)
    assert np.array_equal(found.read(np.array([2]))[0].numpy(), expected)
    with pytest.raises(DataError, match="no readable image"):
        stored(source_of([0, 1], [b"", b""]), skip_unreadable=True)


def test_images_of_another_size_are_named() -> None:
    with pytest.raises(DataError, match=r"Image 1\.png has 9 x 8 pixels, and others 8 x 8"):
        stored(source_of([0, 1], [png(0), png(1, (9, 8))]))


def test_a_full_disk_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training_images, "MOST_BYTES_IN_MEMORY", 0)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(training_images.os, "pwrite", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        stored(source_of([0, 1, 2]), folder=tmp_path)


def test_each_image_is_decoded_once_and_counted(tmp_path: Path) -> None:
    source = open_source(str(save_npz(tmp_path / "x.npz", random_images(3, 2, (3, 8, 8)))))
    told: list[tuple[int, int]] = []
    stored(source, rows=np.array([1, 4]), on_image=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
