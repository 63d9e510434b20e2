"""Plain arrays in an `.npz`: read row by row as stored, refused unread where they could run code."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import DataError


def colour(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (10, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["HWC", "CHW"])
def test_npz_rows_come_back_as_stored(tmp_path: Path, layout: tuple[int, ...]) -> None:
    x = np.stack([colour(seed) for seed in range(5)]).transpose(layout)
    np.savez(tmp_path / "set.npz", x=np.ascontiguousarray(x), y=[0, 1, 2, 1, 0], classes=["p", "q", "r"])
    source = open_source(str(tmp_path / "set.npz"))
    assert source.class_names == ("p", "q", "r")
    assert source.labels.tolist() == [0, 1, 2, 1, 0]
    for index in range(5):
        np.testing.assert_array_equal(source.read(index), x[index])
        np.testing.assert_array_equal(source.peek(index), x[index])


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f8", "<f2"])
@pytest.mark.parametrize("compressed", [False, True])
def test_npz_of_grey_images_of_any_type_comes_back_as_stored(
    tmp_path: Path, dtype: str, compressed: bool
) -> None:
    x = np.random.default_rng(0).integers(0, 2, (3, 9, 7)).astype(dtype)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "set.npz", x=x, y=[0, 1, 1])
    source = open_source(str(tmp_path / "set.npz"))
    assert source.class_names == ("0", "1")
    np.testing.assert_array_equal(np.stack([np.asarray(source.read(i)) for i in range(3)]), x)


def test_npz_split_picks_its_own_arrays_and_a_missing_one_lists_the_choices(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    x = np.stack([colour(seed) for seed in range(4)])
    np.savez(path, x_test=x[:2], y_test=[1, 0], x_train=x[2:], y_train=[0, 0], classes=["a", "b"])
    source = open_source(f"{path}::test")
    assert source.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(source.read(1), x[1])
    assert open_source(f"{path}::train").labels.tolist() == [0, 0]
    for spec in (str(path), f"{path}::val"):
        with pytest.raises(DataError, match="has no arrays x") as caught:
            open_source(spec)
        assert f"{path}::test, {path}::train" in caught.value.next_step


@pytest.mark.parametrize("name", ["x", "y", "classes"])
def test_npz_with_python_objects_is_refused_unread(tmp_path: Path, name: str) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    arrays: dict[str, object] = {"x": np.zeros((2, 8, 8), np.uint8), "y": [0, 1], "classes": ["a", "b"]}
    arrays[name] = np.array([Touch(), Touch()], dtype=object)
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"Array {name} in .*holds Python objects") as caught:
        open_source(str(tmp_path / "set.npz"))
    assert "damaged" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_npz_in_fortran_order_is_refused_with_the_cure(tmp_path: Path) -> None:
    x = np.asfortranarray(np.stack([colour(seed) for seed in range(4)]))
    np.savez(tmp_path / "set.npz", x=x, y=[0, 1, 0, 1])
    with pytest.raises(DataError, match=r"Array x in .* is in Fortran order") as caught:
        open_source(str(tmp_path / "set.npz"))
    assert "ascontiguousarray" in caught.value.next_step


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_npz_is_refused_in_one_sentence_and_never_crashes(
    tmp_path: Path, data: st.DataObject
) -> None:
    content = io.BytesIO()
    np.savez_compressed(
        content, x=np.stack([colour(i) for i in range(3)]), y=[0, 1, 0], classes=["a", "b"]
    )
    damaged = bytearray(content.getvalue())
    if data.draw(st.booleans(), label="cut"):
        del damaged[data.draw(st.integers(0, len(damaged) - 1), label="length") :]
    else:
        for _ in range(data.draw(st.integers(1, 6), label="bytes")):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "set.npz"
    path.write_bytes(damaged)
    problem = _problem_with(path)
    assert problem == "" or (str(path) in problem and "\n" not in problem)


def _problem_with(path: Path) -> str:
    """What is said on reading all images; nothing where they can be read."""
    try:
        source = open_source(str(path))
        for index in range(len(source.labels)):
            source.read(index)
    except DataError as error:
        return error.problem
    return ""


def test_npz_that_is_no_zip_or_whose_rows_are_cut_off_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"set\.npz is damaged"):
        open_source(str(path))
    x = io.BytesIO()
    np.save(x, np.zeros((4, 8, 8), np.uint8))
    y = io.BytesIO()
    np.save(y, np.array([0, 0, 1, 1]))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", x.getvalue()[:-10])
        archive.writestr("y.npy", y.getvalue())
    with pytest.raises(DataError, match="damaged: array x ends before its last row"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": [0, 1, 1]}, "4 images and 3 labels"),
        ({"y": [0, 1, -1, 1]}, "negative labels"),
        ({"y": [0.0, 1.0, 1.0, 0.0]}, "y in .* has shape .* and type float64"),
        ({"y": [[0], [1], [1], [0]]}, r"y in .* has shape \(4, 1\)"),
        ({"y": [0, 1, 2, 1], "classes": ["a", "b"]}, "names 2 classes, and its labels go up to 2"),
        ({"y": [0, 1, 1, 0], "classes": ["a", "a"]}, "names 2 classes 'a'"),
        ({"y": [0, 1, 1, 0], "classes": [["a"], ["b"]]}, "classes in .* has shape"),
        ({"y": [0, 1, 10**12, 1]}, "labels up to 1,000,000,000,000"),
        ({"y": np.zeros(0, int), "x": np.zeros((0, 8, 8), np.uint8)}, "holds no image"),
    ],
)
def test_labels_and_classes_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, object], message: str
) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **{"x": np.zeros((4, 8, 8), np.uint8), **arrays})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        open_source(str(path))


def test_class_names_stored_as_bytes_are_text(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "s.npz", x=np.zeros((2, 8, 8), np.uint8), y=[0, 1], classes=np.array([b"cat", b"dog"])
    )
    assert open_source(str(tmp_path / "s.npz")).class_names == ("cat", "dog")
