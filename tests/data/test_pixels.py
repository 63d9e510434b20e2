"""Images of an audit: which are chosen, how they are decoded, and which are refused."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from shortcut_audit.data.pixels import AuditImages, choose_images, collect_images, common_shape
from shortcut_audit.data.sources import FilesSource, ImageSource, Picture, UnreadableImageError
from shortcut_audit.errors import DataError, RunFolderError
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import AuditSettings


@dataclass
class Pictures:
    """A source over pictures in memory, which counts how often each is read and looked at."""

    pictures: Sequence[Picture]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    uniform: ClassVar[bool] = False
    spec: str = "pictures"
    reads: Counter[int] = field(default_factory=Counter)

    def name(self, index: int) -> str:
        return f"picture-{index}"

    def read(self, index: int) -> Picture:
        self.reads[index] += 1
        return self.pictures[index]

    def peek(self, index: int) -> Picture:
        return self.pictures[index]


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def source_of(
    counts: Sequence[int], make: Callable[[int], Any] = lambda n: noise(n, 8, 8, 3)
) -> Pictures:
    """`counts[label]` pictures of each class, mixed; `make(number)` makes each."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(1).permutation(labels)
    names = tuple(f"class{label}" for label in range(len(counts)))
    return Pictures([make(number) for number in range(len(labels))], labels.astype(np.int64), names)


def pre(channels: int = 3, height: int = 8, width: int = 8, **more: Any) -> Preprocessing:
    ones = (1.0,) * channels
    shape = {"channels": channels, "height": height, "width": width}
    return Preprocessing(
        **{**shape, "geometry": "as they are", "mean": ones, "std": ones, **more}, source="me"
    )


def collect(source: ImageSource, preprocessing: Preprocessing | None = None, **more: Any) -> AuditImages:
    outputs = range(len(source.class_names))
    return collect_images(source, AuditSettings(**more), preprocessing or pre(), list(outputs))


def png(image: NDArray[Any], *, cut: int | None = None) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG")
    return content.getvalue()[:cut]


def files(contents: Sequence[bytes], labels: Sequence[int]) -> FilesSource:
    """Encoded images as a source, named by number."""
    return FilesSource(
        spec="files",
        class_names=tuple(f"class{label}" for label in range(max(labels) + 1)),
        labels=np.asarray(labels, dtype=np.int64),
        names=[f"image-{number}" for number in range(len(contents))],
        open_bytes=lambda index: contents[index],
    )


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(4, 14), min_size=2, max_size=4),
    seed=st.integers(0, 2**31),
    per_class=st.integers(4, 12),
    share=st.floats(0.01, 0.99),
)
def test_rows_are_classes_in_turn_with_disjoint_search_and_judge_images_of_the_right_class(
    counts: list[int], seed: int, per_class: int, share: float
) -> None:
    source = source_of(counts)
    images = collect(source, seed=seed, images_per_class=per_class, search_share=share)
    assert len(set(images.names)) == len(images.names) == len(images.store)
    end = 0
    for label, (search, judge) in enumerate(zip(images.search_rows, images.judge_rows, strict=True)):
        n_used = min(counts[label], per_class)
        assert (search[0], search[1], judge[1]) == (end, judge[0], end + n_used)
        assert search[1] - search[0] >= 2
        assert judge[1] - judge[0] >= 2
        if 2 <= share * n_used <= n_used - 2:
            assert abs(search[1] - search[0] - share * n_used) <= 0.5
        rows = images.names[search[0] : judge[1]]
        assert all(source.labels[int(name.removeprefix("picture-"))] == label for name in rows)
        end = judge[1]
    assert end == len(images.store)


def test_same_seed_chooses_the_same_images_and_another_seed_others() -> None:
    source = source_of([30, 30])
    first = collect(source, seed=3, images_per_class=6)
    again = collect(source, seed=3, images_per_class=6)
    other = collect(source, seed=4, images_per_class=6)
    assert first.names == again.names
    assert first.digest == again.digest
    np.testing.assert_array_equal(first.store.block(0, 12), again.store.block(0, 12))
    assert set(first.names) != set(other.names)
    assert first.digest != other.digest


def test_another_share_for_the_search_splits_the_same_choice() -> None:
    source = source_of([30, 30])
    halves, thirds = (collect(source, images_per_class=9, search_share=share) for share in (0.5, 0.33))
    assert halves.names == thirds.names
    assert halves.search_rows != thirds.search_rows


def test_more_images_of_one_class_do_not_move_another_classes_choice() -> None:
    few = source_of([8, 12, 9])
    extra = [noise(900 + number, 8, 8, 3) for number in range(7)]
    # In front, so that every image of the other classes gets another number.
    labels = np.concatenate([np.zeros(len(extra), np.int64), few.labels])
    many = Pictures([*extra, *few.pictures], labels, few.class_names)
    before, after = collect(few, images_per_class=5), collect(many, images_per_class=5)
    np.testing.assert_array_equal(before.store.block(5, 15), after.store.block(5, 15))
    assert before.search_rows == after.search_rows


def test_each_chosen_image_is_decoded_once_and_no_other_at_all() -> None:
    source = source_of([20, 7])
    images = collect(source, images_per_class=10)
    assert set(source.reads.values()) == {1}
    assert {f"picture-{index}" for index in source.reads} == set(images.names)
    assert images.n_available == 27


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            [5, 3],
            r"Class 'class1' has 3 images; a split needs at least 4 \(2 to search on, 2 to judge on\)",
        ),
        ([1, 5], "Class 'class0' has 1 image;"),
        ([6], r"pictures has images of one class only \(class0\)"),
        ([0, 6, 0], r"pictures has images of one class only \(class1\)"),
        ([0, 0], "pictures has no images"),
    ],
)
def test_too_few_classes_or_images_are_refused_before_any_is_decoded(
    counts: list[int], message: str
) -> None:
    source = source_of(counts)
    with pytest.raises(DataError, match=message):
        collect(source)
    assert not source.reads


def test_classes_without_images_take_no_rows_and_keep_the_outputs_of_the_others() -> None:
    images = collect_images(source_of([4, 0, 5]), AuditSettings(), pre(), [7, 8, 9])
    assert images.class_names == ("class0", "class2")
    assert images.outputs == (7, 9)
    assert len(images.search_rows) == len(images.judge_rows) == 2


def test_unknown_class_in_the_settings_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="no images of class 'cow'") as caught:
        choose_images(source_of([4, 4]), AuditSettings(classes=("class1", "cow")))
    assert "class0, class1" in caught.value.next_step


BROKEN = {
    "zero bytes": (b"", "zero bytes"),
    "no image": (b"this is text, not an image", "not an image"),
    "cut": (png(noise(0, 16, 16, 3), cut=200), "truncated|Truncated"),
    "corrupt": (png(noise(0, 16, 16, 3))[:60] + b"\0" * 400, ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_unreadable_image_is_named_with_the_reason(kind: str) -> None:
    content, reason = BROKEN[kind]
    contents = [content if number == 5 else png(noise(number, 8, 8, 3)) for number in range(8)]
    with pytest.raises(
        UnreadableImageError, match=f"Image image-5 cannot be read: .*({reason})"
    ) as caught:
        collect(files(contents, [0, 0, 0, 0, 1, 1, 1, 1]))
    assert "--skip-unreadable" in caught.value.next_step
    assert "\n" not in caught.value.problem


def test_skipping_takes_the_next_image_of_the_class_counts_and_moves_nothing_else() -> None:
    good = [png(noise(number, 8, 8, 3)) for number in range(40)]
    labels = [0] * 20 + [1] * 20
    clean = collect(files(good, labels), images_per_class=6)
    victim = int(clean.names[2].removeprefix("image-"))
    damaged = [b"" if number == victim else content for number, content in enumerate(good)]
    skipping = collect(files(damaged, labels), images_per_class=6, skip_unreadable=True)
    assert [(item.image, item.reason) for item in skipping.skipped] == [
        (f"image-{victim}", "it has zero bytes")
    ]
    # The next in the shuffled order stands in, at the end of its class; the other class stays.
    assert skipping.names[:5] == [*clean.names[:2], *clean.names[3:6]]
    assert skipping.names[5] not in clean.names
    assert skipping.names[6:] == clean.names[6:]
    assert len(skipping.store) == len(clean.store)


def test_skipping_below_four_images_of_a_class_is_refused() -> None:
    contents = [png(noise(number, 8, 8, 3)) if number else b"" for number in range(8)]
    with pytest.raises(DataError, match="Class 'class0' has 3 readable images; a split needs at least 4"):
        collect(files(contents, [0, 0, 0, 0, 1, 1, 1, 1]), skip_unreadable=True)


def only(source: Pictures, preprocessing: Preprocessing) -> dict[str, NDArray[np.float32]]:
    """Pixels (C, H, W) as the audit holds them, by image name."""
    images = collect(source, preprocessing)
    return {name: images.store.block(row, row + 1)[0] for row, name in enumerate(images.names)}


def test_block_returns_any_range_of_rows_as_stored() -> None:
    source = source_of([6, 5], lambda n: noise(n, 8, 9, 3))
    images = collect(source, pre(3, 8, 9))
    whole = images.store.block(0, 11)
    assert whole.dtype == np.float32
    for row, name in enumerate(images.names):
        expected = source.pictures[int(name.split("-")[1])].transpose(2, 0, 1).astype(np.float32) / 255
        np.testing.assert_allclose(whole[row], expected, atol=1e-7)
    for start, stop in [(0, 1), (3, 7), (10, 11), (4, 4)]:
        np.testing.assert_array_equal(images.store.block(start, stop), whole[start:stop])


@pytest.mark.parametrize("kind", ["array", "image"])
def test_grey_becomes_three_equal_channels_and_colour_its_luma(kind: str) -> None:
    wrap = Image.fromarray if kind == "image" else np.asarray
    grey = source_of([4, 4], lambda n: wrap(noise(n, 8, 8)))
    for name, pixels in only(grey, pre(3)).items():
        np.testing.assert_allclose(pixels * 255, np.stack([noise(int(name[8:]), 8, 8)] * 3), atol=1e-4)
    colour = source_of([4, 4], lambda n: wrap(noise(n, 8, 8, 3)))
    for name, pixels in only(colour, pre(1)).items():
        luma = noise(int(name[8:]), 8, 8, 3) @ np.array([0.299, 0.587, 0.114])
        assert pixels.shape == (1, 8, 8)
        np.testing.assert_allclose(pixels[0] * 255, luma, atol=0.51)


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_of_8_bit_images_are_read_as_their_colours(mode: str) -> None:
    def picture(number: int) -> Image.Image:
        image = Image.new("RGB", (8, 8), (255, 255, 255) if number % 2 else (0, 0, 0))
        converted = image.convert(mode)
        if mode == "P":
            converted.info["transparency"] = b"\0\xff"
        return converted

    for name, pixels in only(source_of([4, 4], picture), pre(3)).items():
        assert np.unique(pixels).tolist() == [float(int(name[8:]) % 2)]


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_timms_evaluation_transform_for_files_and_arrays(channels: int) -> None:
    crop = {"interpolation": "bilinear", "crop_pct": 0.8, "crop_mode": "center"}
    wanted = pre(channels, 12, 12, geometry="resize and crop", **crop)
    shape = (20, 24, 3)[: 2 if channels == 1 else 3]
    transform = create_transform((channels, 12, 12), is_training=False, use_prefetcher=True, **crop)
    of_arrays = only(source_of([4, 4], lambda n: noise(n, *shape)), wanted)
    of_images = only(source_of([4, 4], lambda n: Image.fromarray(noise(n, *shape))), wanted)
    for name, pixels in of_images.items():
        expected = np.asarray(transform(Image.fromarray(noise(int(name[8:]), *shape))))
        assert expected.shape == (channels, 12, 12)
        np.testing.assert_allclose(pixels * 255, expected, atol=1e-4)
        np.testing.assert_array_equal(pixels, of_arrays[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: noise(n, 8, 8).astype(np.uint16), "Image picture-[0-9]+ is an array of type uint16"),
        (lambda n: noise(n, 8, 8).astype(np.int64), "type int64"),
        (lambda n: noise(n, 8, 8) > 9, "type bool"),
        (lambda n: noise(n, 8, 8) / 100, r"\[0,1\]; picture-[0-9]+ goes from .* to 2\.5"),
        (lambda n: np.full((8, 8), -0.5), "goes from -0.5 to -0.5"),
        (lambda n: np.full((8, 8), np.nan), "goes from nan to nan"),
        (lambda n: noise(n, 8, 8, 4), r"picture-[0-9]+ is an array of shape \(8, 8, 4\)"),
        (lambda n: noise(n, 64), r"picture-[0-9]+ is an array of shape \(64,\)"),
        (lambda n: noise(n, 0, 8, 3), r"picture-[0-9]+ is an array of shape \(0, 8, 3\)"),
        (lambda n: Image.fromarray(noise(n, 8, 8).astype(np.uint16)), "8 bits .*mode is I;16"),
        (lambda n: Image.fromarray(noise(n, 8, 8).astype(np.float32)), "8 bits .*mode is F"),
        (lambda n: noise(n, 9, 8, 3), "picture-[0-9]+ has 9 x 8 pixels, and others 8 x 8"),
    ],
)
def test_pixels_without_a_known_range_or_shape_are_refused_by_name(
    make: Callable[[int], Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        collect(source_of([4, 4], make))
    assert caught.value.next_step


def test_floats_are_kept_as_they_are_and_not_resized_or_mixed_with_bytes() -> None:
    floats = source_of([4, 4], lambda n: np.random.default_rng(n).random((3, 8, 8)))
    for name, pixels in only(floats, pre(3)).items():
        np.testing.assert_array_equal(pixels, floats.pictures[int(name[8:])].astype(np.float32))
    with pytest.raises(DataError, match="picture-[0-9]+ is of floating point, with 8 x 8 pixels"):
        collect(floats, pre(3, 16, 16, geometry="resize and crop", crop_pct=1.0))
    mixed = source_of([4, 4], lambda n: noise(n, 8, 8, 3) / (255 if n == 2 else 1.0))
    mixed.pictures = [p if p.max() <= 1 else p.astype(np.uint8) for p in mixed.pictures]
    with pytest.raises(DataError, match="Store all images alike"):
        collect(mixed)


def test_common_shape_needs_one_size_and_lets_grey_and_colour_mix() -> None:
    sizes = [(8, 9), (8, 9, 3), (8, 9)]
    source = source_of([3], lambda n: Image.fromarray(noise(n, *sizes[n])))
    assert common_shape(source, [0, 1, 2]) == (3, 8, 9)
    assert common_shape(source, [0, 2]) == (1, 8, 9)
    assert not source.reads
    other = source_of([2], lambda n: noise(n, 8 + n, 8, 3))
    assert common_shape(other, [0, 1]) is None
    broken = files([b"", png(noise(0, 8, 9, 3))], [0, 0])
    assert common_shape(broken, [0, 1]) == (3, 8, 9)
    assert common_shape(broken, [0]) is None


def with_pictures(source: Pictures, changes: dict[int, NDArray[np.uint8]]) -> Pictures:
    pictures = [changes.get(number, picture) for number, picture in enumerate(source.pictures)]
    return Pictures(pictures, source.labels, source.class_names)


def test_digest_changes_with_content_labels_outputs_names_and_split() -> None:
    source = source_of([6, 6])
    changed = source.pictures[3].copy()
    changed[0, 0, 0] ^= 1
    swapped = source.labels.copy()
    swapped[:2] = 1 - swapped[:2]
    digests = [
        collect(source).digest,
        collect(with_pictures(source, {3: changed})).digest,
        collect(Pictures(source.pictures, swapped, source.class_names)).digest,
        collect(Pictures(source.pictures, source.labels, ("class0", "other"))).digest,
        collect_images(source, AuditSettings(), pre(), [1, 0]).digest,
        collect(source, search_share=0.34).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert collect(source_of([6, 6])).digest == digests[0]


def test_copies_of_search_images_among_the_judgement_images_are_counted() -> None:
    source = source_of([8, 8])
    images = collect(source)
    assert images.n_leaked == 0
    numbers = [int(name.removeprefix("picture-")) for name in images.names]
    searched, judged = numbers[0], [numbers[5], numbers[6], numbers[13]]
    copies = dict.fromkeys(judged, source.pictures[searched])
    assert collect(with_pictures(source, copies)).n_leaked == 3
    # Copies within one split leak nothing.
    assert collect(with_pictures(source, {numbers[1]: source.pictures[searched]})).n_leaked == 0


def test_decoded_pixels_leave_no_file_behind_and_report_each_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    images = collect_images(
        source_of([9, 5]),
        AuditSettings(images_per_class=6),
        pre(),
        [0, 1],
        folder=tmp_path,
        on_image=lambda done, total: calls.append((done, total)),
    )
    assert len(images.store) == 11
    assert calls == [(done, 11) for done in range(1, 12)]
    assert list(tmp_path.iterdir()) == []


def test_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="gone does not take the decoded images") as caught:
        collect_images(source_of([4, 4]), AuditSettings(), pre(), [0, 1], folder=tmp_path / "gone")
    assert "--out" in caught.value.next_step
