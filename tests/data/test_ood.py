"""Images of other sets: mapped, chosen, paired where they are copies, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conv_model, random_images
from elsewhere import NAMES, Pairs, map_of, prepared, request_of, save_numbered, with_noise
from PIL import Image

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.label_maps import LabelMap
from shortcut_audit.data.npz_sources import from_npz
from shortcut_audit.data.pixels import AuditImages, ShiftedImages
from shortcut_audit.data.sources import ArraySource, ImageSource, UnreadableImageError, open_source
from shortcut_audit.errors import DataError, SettingsError
from shortcut_audit.results.transfer_findings import ShiftedSet

SHAPE = (1, 8, 8)
HOME = random_images(10, 3, SHAPE)


def opened(
    home: Any, ood: Mapping[str, Any], label_maps: Mapping[str, LabelMap] | None = None, **values: Any
) -> AuditImages:
    """The images of an audit and of the other sets."""
    n_outputs = values.pop("n_outputs", 3)
    network = conv_model(n_outputs, values.pop("channels", 1))
    with prepared(request_of(network, home, ood, label_maps, **values)) as ready:
        return ready.subject.images


def only(images: AuditImages) -> tuple[ShiftedImages, ShiftedSet]:
    (there,) = images.shifted
    assert there.record is not None
    return there, there.record


def pixels(images: AuditImages, row: int) -> np.ndarray:
    return np.rint(255 * images.store.block(row, row + 1)[0]).astype(np.uint8)


def check_pairs(images: AuditImages, copy_of: Callable[[np.ndarray], np.ndarray]) -> int:
    """Every image of a set of copies is the copy of the judgement image that it is paired with."""
    there, record = only(images)
    assert record.paired
    assert there.counterparts is not None
    searched = {row for rows in images.search_rows for row in range(*rows)}
    first = there.rows[0][0]
    assert len(there.counterparts) == len(images.store) - first
    for index, rows in enumerate(there.rows):
        for row in range(*rows):
            at_home = int(there.counterparts[row - first])
            assert images.judge_rows[index][0] <= at_home < images.judge_rows[index][1]
            assert at_home not in searched
            np.testing.assert_array_equal(pixels(images, row), copy_of(pixels(images, at_home)))
    assert len(set(there.counterparts.tolist())) == len(there.counterparts)
    return len(there.counterparts)


def darker(image: np.ndarray) -> np.ndarray:
    """A copy that is told from every other by its pixels."""
    return (image // 2).astype(np.uint8)


COPIES = [(darker(image), label) for image, label in HOME]


# Pairing ---------------------------------------------------------------------------------------------


def test_copies_are_paired_by_place() -> None:
    images = opened(HOME, {"dark": COPIES})
    assert check_pairs(images, darker) == 15
    assert only(images)[1].pairing.startswith("copies of the judgement images, by place; the pixels of")


@pytest.mark.parametrize("key", ["i", "index"])
def test_copies_are_paired_by_number_in_whatever_order(key: str, tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(30)
    numbers = 100 + 7 * np.arange(30)
    home = save_numbered(tmp_path / "home.npz", HOME, numbers.tolist(), key=key)
    dark = save_numbered(
        tmp_path / "dark.npz", [COPIES[n] for n in order], numbers[order].tolist(), key=key
    )
    images = opened(open_source(str(home)), {"dark": open_source(str(dark))})
    assert check_pairs(images, darker) == 15
    assert "by number" in only(images)[1].pairing
    straight = save_numbered(tmp_path / "straight.npz", COPIES, numbers.tolist(), key=key)
    again = opened(open_source(str(home)), {"dark": open_source(str(straight))})
    assert again.store.digests == images.store.digests
    assert only(again)[1].digest == only(images)[1].digest


def test_numbers_of_a_split_are_those_of_its_own_images(tmp_path: Path) -> None:
    x = np.stack([image.transpose(1, 2, 0) for image, _ in HOME])
    y = np.array([label for _, label in HOME])
    path = tmp_path / "split.npz"
    np.savez(path, x_test=x, y_test=y, i_test=np.arange(30) + 5, i=np.zeros(30, int), classes=NAMES)
    source = from_npz(f"{path}::test", path, "test")
    assert isinstance(source, ArraySource)
    assert source.identities is not None
    assert source.identities.tolist() == list(range(5, 35))


@pytest.mark.parametrize("numbers", [np.arange(29), np.arange(30) / 2, np.zeros((30, 1), int)])
def test_numbers_that_are_none_of_the_images_are_passed_over(numbers: Any, tmp_path: Path) -> None:
    path = save_numbered(tmp_path / "odd.npz", HOME, numbers)
    source = from_npz(str(path), path, "")
    assert isinstance(source, ArraySource)
    assert source.identities is None


def test_numbers_that_come_twice_are_no_names(tmp_path: Path) -> None:
    home = save_numbered(tmp_path / "home.npz", HOME, [0] * 30)
    dark = save_numbered(tmp_path / "dark.npz", COPIES, [0] * 30)
    images = opened(open_source(str(home)), {"dark": open_source(str(dark))})
    assert "by place" in only(images)[1].pairing


def folder_of(root: Path, pairs: Pairs, names: Any = NAMES, start: int = 0) -> ImageSource:
    """PNG files, numbered through within each class."""
    count = [start] * len(names)
    for image, label in pairs:
        (root / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(root / names[label] / f"{count[label]:03d}.png")
        count[label] += 1
    return open_source(str(root))


def test_copies_are_paired_by_file_name(tmp_path: Path) -> None:
    home = folder_of(tmp_path / "home", HOME)
    dark = folder_of(tmp_path / "dark", COPIES)
    for path in sorted((tmp_path / "dark").glob("*/*.png"))[::3]:
        # An ending is no part of it.
        path.rename(path.with_suffix(".bmp"))
    dark = open_source(str(tmp_path / "dark"))
    images = opened(home, {"dark": dark})
    assert check_pairs(images, darker) == 15
    assert "by file name" in only(images)[1].pairing


def test_copies_are_paired_where_their_classes_are_called_otherwise(tmp_path: Path) -> None:
    home = folder_of(tmp_path / "home", HOME)
    dark = folder_of(tmp_path / "dark", COPIES, ["Ameise", "Biene", "Katze"])
    mapped = map_of({"ant": "Ameise", "bee": "Biene", "cat": "Katze"}, NAMES, dark.class_names)
    assert check_pairs(opened(home, {"dark": dark}, {"dark": mapped}), darker) == 15


def test_files_of_one_name_in_two_folders_of_a_class_are_told_by_their_folders(tmp_path: Path) -> None:
    home = folder_of(tmp_path / "home", HOME)
    names = ["ant", "fly", "bee", "cat"]
    # Flies count as ants, and are called like them.
    pairs = [(image, (0, 2, 3)[label]) for image, label in COPIES]
    pairs += [(darker(image), 1) for image, _ in random_images(10, 1, SHAPE, 8)]
    dark = folder_of(tmp_path / "dark", pairs, names)
    mapped = map_of({"ant": ("ant", "fly"), "bee": "bee", "cat": "cat"}, NAMES, names)
    assert check_pairs(opened(home, {"dark": dark}, {"dark": mapped}), darker) == 15


def test_other_images_of_the_same_names_are_no_copies_and_it_is_said(tmp_path: Path) -> None:
    home = folder_of(tmp_path / "home", HOME)
    generator = np.random.default_rng(0)
    others = [(generator.integers(0, 256, SHAPE).astype(np.uint8), label) for _, label in HOME]
    there, record = only(opened(home, {"others": folder_of(tmp_path / "others", others)}))
    assert not record.paired
    assert there.counterparts is None
    assert record.pairing.startswith("other images: those of the same file name do not show the same")
    assert record.n_used == 30


def test_images_of_one_class_that_only_look_alike_are_no_copies() -> None:
    """All images of a class share a pattern: each is as much like its neighbour as like its namesake."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 200, (3, *SHAPE))

    def taken(seed: int) -> Pairs:
        noise = np.random.default_rng(seed)
        return [
            ((patterns[label] + noise.integers(0, 50, SHAPE)).astype(np.uint8), label)
            for label in range(3)
            for _ in range(10)
        ]

    _, record = only(opened(taken(1), {"again": taken(2)}))
    assert not record.paired
    assert "do not show the same" in record.pairing


@pytest.mark.parametrize(("n_kept", "paired"), [(13, True), (12, True), (11, False), (4, False)])
def test_four_fifths_of_the_judgement_images_make_a_set_of_copies(
    n_kept: int, paired: bool, tmp_path: Path
) -> None:
    home = open_source(str(save_numbered(tmp_path / "home.npz", HOME, list(range(30)))))
    whole = opened(home, {"dark": COPIES})
    judged = [whole.indices[row] for rows in whole.judge_rows for row in range(*rows)]
    # From all classes in turn.
    left = {judged[(5 * k + k // 3) % 15] for k in range(n_kept)}
    assert len(left) == n_kept
    kept = [n for n in range(30) if n in left or n not in judged]
    dark = save_numbered(tmp_path / "dark.npz", [COPIES[n] for n in kept], kept)
    images = opened(home, {"dark": open_source(str(dark))})
    record = only(images)[1]
    assert record.paired == paired
    if paired:
        assert check_pairs(images, darker) == n_kept == record.n_used
    else:
        assert f"by number, {n_kept} of 15 judgement images" in record.pairing
        assert record.n_used == len(kept)


def test_copies_of_a_single_class_are_other_images(tmp_path: Path) -> None:
    """Of 20 and 2 judgement images those of one class are more than four fifths, and no comparison."""
    home_pairs = [*random_images(40, 1, SHAPE, 1), *((im, 1) for im, _ in random_images(4, 1, SHAPE, 2))]
    home = open_source(str(save_numbered(tmp_path / "h.npz", home_pairs, range(44), NAMES[:2])))
    numbers = [*range(40), 90, 91, 92, 93]
    there = save_numbered(tmp_path / "d.npz", with_noise(home_pairs), numbers, NAMES[:2])
    images = opened(home, {"d": open_source(str(there))}, names=NAMES[:2], n_outputs=2)
    assert not only(images)[1].paired
    assert [stop - start for start, stop in only(images)[0].rows] == [40, 4]


class Torn:
    """A source some of whose images cannot be read."""

    uniform = False

    def __init__(self, inner: ImageSource, torn: set[int]) -> None:
        self.inner, self.torn = inner, torn
        self.spec, self.class_names, self.labels = inner.spec, inner.class_names, inner.labels

    def name(self, index: int) -> str:
        return f"there[{index}]"

    def read(self, index: int) -> Any:
        if index in self.torn:
            raise UnreadableImageError(self.name(index), "it is torn")
        return self.inner.read(index)

    peek = read


def test_unreadable_copies_are_left_out_on_both_sides(tmp_path: Path) -> None:
    whole = opened(HOME, {"dark": COPIES})
    judged = [whole.indices[row] for rows in whole.judge_rows for row in range(*rows)]
    torn = {judged[0], judged[6], judged[14]}
    inner = open_source(str(save_numbered(tmp_path / "dark.npz", COPIES)))
    with pytest.raises(UnreadableImageError, match=r"there\[\d+\]"):
        opened(HOME, {"dark": Torn(inner, torn)})
    images = opened(HOME, {"dark": Torn(inner, torn)}, skip_unreadable=True)
    assert check_pairs(images, darker) == 12
    assert {each.image for each in images.skipped} == {f"there[{n}]" for n in torn}
    assert all(each.reason == "it is torn" for each in images.skipped)


def test_of_other_images_a_readable_one_stands_in_for_an_unreadable_one(tmp_path: Path) -> None:
    other = random_images(12, 3, SHAPE, 9)
    inner = open_source(str(save_numbered(tmp_path / "other.npz", other)))
    images = opened(HOME, {"o": Torn(inner, {0, 13, 25})}, skip_unreadable=True, images_per_class=10)
    there, record = only(images)
    assert [stop - start for start, stop in there.rows] == [10, 10, 10]
    assert record.n_used == 30
    assert record.n_available == 36
    with pytest.raises(DataError, match="Fewer than two classes of o have an image that can be read"):
        opened(HOME, {"o": Torn(inner, set(range(24)))}, skip_unreadable=True)


# What is taken ---------------------------------------------------------------------------------------


def test_rows_names_and_pixels_of_two_sets_stand_behind_the_audits_own() -> None:
    other = random_images(4, 3, SHAPE, 5)
    few = [pair for pair in random_images(3, 3, SHAPE, 6) if pair[1] != 0]
    images = opened(HOME, {"other": other, "few": few})
    alone = opened(HOME, {})
    assert images.n_used == alone.n_used == 30
    assert images.digest == alone.digest
    assert images.store.digests[:30] == alone.store.digests
    first, second = images.shifted
    assert first.rows == ((30, 34), (34, 38), (38, 42))
    assert second.rows == ((42, 42), (42, 45), (45, 48))
    assert len(images.names) == len(images.store) == 48
    assert second.record is not None
    assert second.record.left_out == ("ant",)
    wanted = {image.tobytes(): label for image, label in (*other, *few)}
    for shifted in (first, second):
        for label, rows in enumerate(shifted.rows):
            for row in range(*rows):
                assert wanted[pixels(images, row).tobytes()] == label
    # A block may span several stores.
    whole = np.concatenate([images.store.block(row, row + 1) for row in range(25, 48)])
    np.testing.assert_array_equal(images.store.block(25, 48), whole)
    assert images.store.shape == SHAPE


def test_as_many_are_taken_of_a_class_as_of_the_audits_own_by_seed() -> None:
    other = random_images(20, 3, SHAPE, 5)
    taken = [opened(HOME, {"o": other}, images_per_class=6, seed=seed) for seed in (0, 0, 1)]
    assert [only(images)[1].n_used for images in taken] == [18, 18, 18]
    first, same, another = (only(images)[1].digest for images in taken)
    assert first == same != another


def test_copies_of_searched_images_are_noted() -> None:
    images = opened([*HOME], {"o": [*HOME[:4], *random_images(6, 3, SHAPE, 5)]})
    there, record = only(images)
    searched = {d for rows in images.search_rows for d in images.store.digests[slice(*rows)]}
    n_copies = sum(images.store.digests[row] in searched for rows in there.rows for row in range(*rows))
    assert 0 < n_copies <= 4
    assert record.notes == (
        f"{n_copies} of 22 images of o are exact copies of images that were searched on.",
        f"{4 - n_copies} of 22 images of o are exact copies of judgement images, and are compared with"
        " them as other images.",
    )
    twice = [*random_images(6, 3, SHAPE, 5)]
    assert "Only 18 of the 20 images" in only(opened(HOME, {"o": [*twice, *twice[:2]]}))[1].notes[0]
    assert only(opened(HOME, {"o": random_images(6, 3, SHAPE, 5)}))[1].notes == ()


# Label maps ------------------------------------------------------------------------------------------

OTHER = ["wasp", "ant", "bee", "cat"]


def other_pairs() -> Pairs:
    """Four images a class of `OTHER`, each of one grey value: 10 times its class and its number."""
    return [
        (np.full(SHAPE, 50 * label + 10 * n, dtype=np.uint8), label)
        for label in range(4)
        for n in range(4)
    ]


def classes_there(images: AuditImages) -> list[set[int]]:
    """Which classes of `OTHER` the images of each class of the audit are of."""
    there, _ = only(images)
    return [{int(pixels(images, row)[0, 0, 0]) // 50 for row in range(*rows)} for rows in there.rows]


def test_without_a_map_classes_of_the_same_name_are_the_same_and_others_dropped() -> None:
    images = opened_other({})
    _, record = only(images)
    assert classes_there(images) == [{1}, {2}, {3}]
    assert [(d.class_name, d.n_images, d.reason) for d in record.dropped] == [
        ("wasp", 4, "the model has no class of that name")
    ]
    assert record.protocol == "Classes of the same name are taken for the same class."
    assert record.n_used == 12
    assert record.n_available == 16


def opened_other(label_maps: Mapping[str, LabelMap], names_there: Any = OTHER) -> AuditImages:
    return opened(HOME, {"o": source_from(other_pairs(), list(names_there))}, label_maps)


def test_several_classes_may_stand_for_one_and_no_image_of_a_dropped_one_is_taken() -> None:
    mapped = map_of({"bee": ("wasp", "bee"), "cat": "cat"}, NAMES, OTHER)
    images = opened_other({"o": mapped})
    _, record = only(images)
    assert classes_there(images) == [set(), {0, 2}, {3}]
    assert record.left_out == ("ant",)
    assert [(d.class_name, d.n_images, d.reason) for d in record.dropped] == [("ant", 4, "not here")]
    assert record.notes[0] == "2 classes of other stand for 'bee': 'wasp', 'bee'."
    assert "'ant' of other is dropped" not in " ".join(record.notes)
    assert record.protocol == "As a test has it."


def test_a_permuted_map_is_followed_and_noted() -> None:
    mapped = map_of({"ant": "bee", "bee": "cat", "cat": "ant"}, NAMES, OTHER)
    images = opened_other({"o": mapped})
    assert classes_there(images) == [{2}, {3}, {1}]
    assert sum("although home has a class" in note for note in only(images)[1].notes) == 3


def test_a_class_that_the_set_lacks_is_noted() -> None:
    mapped = map_of({"ant": "ant", "bee": "bee", "cat": "cat"}, NAMES, [*OTHER, "hornet"])
    notes = only(opened_other({"o": mapped}))[1].notes
    assert "The label map knows classes that o does not have: hornet." in notes


def test_a_class_without_images_of_the_audit_is_listed_as_dropped() -> None:
    """The model knows wasps, and the audit has no image of one."""
    images = opened(
        HOME,
        {"o": source_from(other_pairs(), OTHER)},
        n_outputs=4,
        request={"output_names": ["cat", "wasp", "bee", "ant"]},
    )
    assert classes_there(images) == [{1}, {2}, {3}]
    (dropped,) = only(images)[1].dropped
    assert (dropped.class_name, dropped.n_images) == ("wasp", 4)
    assert dropped.reason == "the audit has no images of the class that it stands for"


@pytest.mark.parametrize(
    ("mapped", "names_there", "says"),
    [
        (map_of({"ant": "ant"}, NAMES, OTHER), OTHER, "Fewer than two classes of o are classes of the"),
        (
            map_of({"ant": "ant", "bee": "bee", "cut": "cat"}, ["ant", "bee", "cut"], OTHER),
            OTHER,
            r"does not know class 'cat': its source home has 'ant', 'bee', 'cut' \(do you mean 'cut'\?\)",
        ),
        (
            map_of({"ant": "ant", "bee": "bee", "cat": "cat"}, NAMES, ["ant", "bee", "cat"]),
            OTHER,
            "The label map does not know class 'wasp': its target other has 'ant', 'bee', 'cat'",
        ),
        (
            map_of({"ant": "tabby", "bee": "poodle", "cat": "pug"}, NAMES, ["tabby", "poodle", "pug"]),
            OTHER,
            "The label map does not know classes 'wasp', 'ant', 'bee', 'cat'",
        ),
        (
            map_of({"ant": "fly", "bee": "gnat"}, NAMES, [*OTHER, "fly", "gnat"]),
            OTHER,
            "No image of other is left under the label map",
        ),
    ],
    ids=["one class", "typo", "unknown class", "of another set", "nothing left"],
)
def test_maps_that_do_not_fit_are_refused_each_with_its_own_words(
    mapped: LabelMap, names_there: Any, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        opened_other({"o": mapped}, names_there)


def test_sets_without_a_name_in_common_ask_for_a_map() -> None:
    with pytest.raises(DataError, match="No class of the model and o has the same name"):
        opened_other({}, ["w", "x", "y", "z"])


def test_two_sets_of_one_name_are_refused() -> None:
    request = request_of(conv_model(3, 1), HOME, {"o": COPIES})
    twice = [*request.ood, *request.ood]
    with (
        pytest.raises(SettingsError, match="Two sets are named 'o'"),
        prepared(replace(request, ood=twice)),
    ):
        pass


# The same way to the model ---------------------------------------------------------------------------


@pytest.mark.parametrize("config", [None, {"input_size": (1, 8, 8), "crop_pct": 0.875}])
def test_images_of_the_same_size_are_taken_as_they_are(config: Any) -> None:
    _, record = only(opened(HOME, {"o": random_images(5, 3, SHAPE, 3)}, config=config))
    assert record.same_geometry
    assert record.geometry == "8 x 8, as they are"
    assert record.notes == ()


@pytest.mark.parametrize(
    ("config", "crop"), [(None, "1"), ({"input_size": (1, 8, 8), "crop_pct": 0.875}, "0.875")]
)
@pytest.mark.parametrize("size", [(12, 12), (6, 10)])
def test_images_of_another_size_are_brought_to_the_audits_and_it_is_noted(
    size: tuple[int, int], config: Any, crop: str
) -> None:
    images = opened(HOME, {"o": random_images(5, 3, (1, *size), 3)}, config=config)
    _, record = only(images)
    assert images.store.shape == SHAPE
    assert not record.same_geometry
    assert record.geometry == f"resized and cropped to 8 x 8 (bicubic, center crop {crop})"
    (note,) = record.notes
    assert note.startswith("Images of o reach the model another way than the audit's own: resized and")
    assert "against 8 x 8, as they are. What that does to their frequencies is part of" in note


def test_where_all_are_resized_alike_there_is_nothing_to_note() -> None:
    larger = random_images(10, 3, (1, 12, 12))
    images = opened(larger, {"o": random_images(5, 3, (1, 16, 16), 3)}, request={"size": (8, 8)})
    _, record = only(images)
    assert images.store.shape == SHAPE
    assert record.same_geometry
    assert record.notes == ()


@pytest.mark.parametrize(("own", "other"), [(1, 3), (3, 1)])
def test_grey_and_colour_come_to_the_models_channels(own: int, other: int) -> None:
    home = random_images(8, 3, (own, 8, 8))
    there = random_images(5, 3, (other, 8, 8), 3)
    images = opened(home, {"o": there}, channels=own)
    assert images.store.shape == (own, 8, 8)
    _, record = only(images)
    assert record.preprocessing.channels == own
    image = pixels(images, only(images)[0].rows[0][0]).astype(int)
    if own == 3:
        assert (image[0] == image[1]).all()
        assert image[:1].astype(np.uint8).tobytes() in {each.tobytes() for each, _ in there}
    else:
        grey = [np.tensordot([0.299, 0.587, 0.114], each, axes=1) for each, _ in there]
        assert min(np.abs(image[0] - each).max() for each in grey) <= 0.51


def test_floats_of_another_size_are_refused_by_name() -> None:
    other = [(np.random.default_rng(n).random((1, 9, 9)).astype(np.float32), n % 3) for n in range(12)]
    with pytest.raises(DataError, match=r"is of floating point, with 9 x 9 pixels"):
        opened(HOME, {"o": other})


def test_floats_of_the_same_size_stand_beside_whole_numbers() -> None:
    other = [(np.random.default_rng(n).random(SHAPE).astype(np.float32), n % 3) for n in range(12)]
    images = opened(HOME, {"o": other})
    there, _ = only(images)
    block = images.store.block(there.rows[0][0] - 1, there.rows[0][0] + 1)
    assert block.dtype == np.float32
    wanted = {image.tobytes() for image, _ in other}
    assert block[1].tobytes() in wanted
