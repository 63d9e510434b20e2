"""Data sets of the user's own: every way to hand over images holds the same pixels and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.pixels import choose_images, collect_images, common_shape
from shortcut_audit.data.sources import ImageSource, UnreadableImageError
from shortcut_audit.errors import DataError
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import AuditSettings

SHAPE = (3, 8, 10)
PAIRS = random_images(6, 3, SHAPE)
LABELS = [label for _, label in PAIRS]
PIXELS = np.stack([image for image, _ in PAIRS])
PREPROCESSING = Preprocessing(
    channels=3,
    height=8,
    width=10,
    geometry="as they are",
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    source="me",
)


class Counting(Dataset[tuple[Any, int]]):
    """A map-style data set that counts how often each image is decoded."""

    def __init__(self, make: Callable[[NDArray[np.uint8]], Any] = lambda image: image) -> None:
        self.make = make
        self.decoded: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(PAIRS)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.decoded[index] += 1
        return self.make(PIXELS[index]), LABELS[index]


class WithTargets(Counting):
    targets = LABELS
    classes = ("ant", "bee", "cow")


class WithLabels(Counting):
    labels = torch.tensor(LABELS)


def channels_first(picture: Any) -> NDArray[Any]:
    array = np.asarray(picture)
    return array if array.shape == SHAPE else array.transpose(2, 0, 1)


def same_images(source: ImageSource, order: list[int] | None = None) -> bool:
    """Whether pixels and labels of all images are those of the pairs, in `order`."""
    order = list(range(len(PAIRS))) if order is None else order
    if source.labels.tolist() != [LABELS[index] for index in order]:
        return False
    arrays = [channels_first(source.read(row)) for row in range(len(order))]
    return all(
        np.allclose(array * 255, PIXELS[index], rtol=0, atol=2e-3)
        if array.dtype.kind == "f"
        else np.array_equal(array, PIXELS[index])
        for array, index in zip(arrays, order, strict=True)
    )


def picture(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))


def floats(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image).float() / 255


@pytest.mark.parametrize("kind", [Counting, WithTargets, WithLabels])
@pytest.mark.parametrize("make", [lambda image: image, picture, floats, torch.from_numpy])
def test_map_style_data_set_holds_its_images_and_labels(
    kind: type[Counting], make: Callable[[NDArray[np.uint8]], Any]
) -> None:
    assert same_images(source_from(kind(make)))


def batches(size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    for start in range(0, len(PAIRS), size):
        yield torch.from_numpy(PIXELS[start : start + size]), LABELS[start : start + size]


OTHER_FORMS: dict[str, Callable[[], Any]] = {
    "list of pairs": lambda: PAIRS,
    "generator of pairs": lambda: ((image, label) for image, label in PAIRS),
    "generator of PIL pairs": lambda: ((picture(image), label) for image, label in PAIRS),
    "pairs with tensor labels": lambda: ((floats(i), torch.tensor(label)) for i, label in PAIRS),
    "generator of batches": lambda: batches(4),
    "one batch": lambda: batches(100),
    "zip of arrays": lambda: zip(PIXELS, LABELS, strict=True),
    "TensorDataset": lambda: TensorDataset(torch.from_numpy(PIXELS), torch.tensor(LABELS)),
    "DataLoader": lambda: DataLoader(Counting(torch.from_numpy), batch_size=5),
    "DataLoader of single images": lambda: DataLoader(Counting(torch.from_numpy), batch_size=None),
    "DataLoader with weights": lambda: ((x, y, torch.ones(len(x))) for x, y in DataLoader(Counting())),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_other_forms_hold_the_same_images_and_labels_in_their_order(form: str) -> None:
    source = source_from(OTHER_FORMS[form]())
    assert source.class_names == ("0", "1", "2")
    assert same_images(source)


def test_subset_has_the_classes_and_targets_of_the_whole_without_decoding() -> None:
    whole = WithTargets()
    nested = Subset(Subset(whole, [17, 3, 5, 0, 9]), [4, 0, 2])
    source = source_from(nested)
    assert source.labels.tolist() == [LABELS[index] for index in (9, 17, 5)]
    assert not whole.decoded
    assert same_images(source, [9, 17, 5])
    first = source_from(Subset(whole, [0, 17]))
    assert first.class_names == ("ant", "bee", "cow")


def test_subset_of_a_set_without_targets_is_gone_through_for_its_labels() -> None:
    assert same_images(source_from(Subset(Counting(), [8, 1, 16])), [8, 1, 16])


@pytest.mark.parametrize("kind", [WithTargets, WithLabels])
def test_a_set_with_targets_decodes_each_image_used_once_and_no_other(kind: type[Counting]) -> None:
    dataset = kind(picture)
    source = source_from(dataset)
    assert not dataset.decoded
    settings = AuditSettings(images_per_class=4)
    _, order = choose_images(source, settings)
    assert common_shape(source, [int(order[0][0])]) == SHAPE
    images = collect_images(source, settings, PREPROCESSING, [0, 1, 2])
    assert len(images.store) == 12
    assert dict(dataset.decoded) == {int(i): 1 for chosen in order for i in chosen[:4]}


def test_target_transform_of_a_torchvision_style_set_changes_the_labels() -> None:
    dataset = WithTargets()
    dataset.target_transform = lambda label: 2 - label  # type: ignore[attr-defined]
    assert source_from(dataset).labels.tolist() == [2 - label for label in LABELS]


def test_class_names_come_from_the_caller_else_the_set_else_are_numbers() -> None:
    assert source_from(WithTargets(), ["x", "y", "z"]).class_names == ("x", "y", "z")
    assert source_from(WithTargets()).class_names == ("ant", "bee", "cow")
    assert source_from(DataLoader(WithTargets())).class_names == ("ant", "bee", "cow")
    assert source_from(Counting()).class_names == ("0", "1", "2")
    assert source_from(iter(PAIRS), ["x", "y", "z", "unseen"]).class_names == ("x", "y", "z", "unseen")


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def normalised(image: NDArray[np.uint8]) -> torch.Tensor:
    return (floats(image) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.mark.parametrize("lazily", [True, False])
def test_normalised_images_are_brought_back_to_pixels(lazily: bool) -> None:
    dataset: Any = WithTargets(normalised) if lazily else ((normalised(i), y) for i, y in PAIRS)
    source = source_from(dataset, normalized_with=(MEAN, STD))
    assert same_images(source)
    images = collect_images(source, AuditSettings(), PREPROCESSING, [0, 1, 2])
    assert images.store.block(0, 18).min() >= -1e-4


def test_normalised_images_that_nobody_announced_are_refused() -> None:
    with pytest.raises(DataError, match=r"must lie in \[0,1\]") as caught:
        collect_images(source_from(WithTargets(normalised)), AuditSettings(), PREPROCESSING, [0, 1, 2])
    assert "normalized=True" in caught.value.next_step


@pytest.mark.parametrize("moments", [(MEAN[:2], STD), (MEAN, STD[:2])])
def test_moments_for_another_number_of_channels_are_refused(moments: Any) -> None:
    with pytest.raises(DataError, match=r"shape \(3, 8, 10\), the mean . and the std . values"):
        source_from(WithTargets(normalised), normalized_with=moments).read(0)


def of_two_sizes() -> list[tuple[NDArray[np.uint8], int]]:
    return [(image[:, : 8 - (n == 7), :], label) for n, (image, label) in enumerate(PAIRS)]


def test_images_of_differing_size_are_refused_by_number() -> None:
    with pytest.raises(DataError, match=r"Image 7 of generator is uint8 \(3, 7, 10\)") as caught:
        source_from(pair for pair in of_two_sizes())
    assert "one shape" in caught.value.next_step
    with pytest.raises(DataError, match=r"Image list\[7\] has 7 x 10 pixels, and others 8 x 10"):
        collect_images(source_from(of_two_sizes()), AuditSettings(), PREPROCESSING, [0, 1, 2])


def failing() -> Iterator[Any]:
    yield PAIRS[0]
    raise KeyError("the user's own fault")


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "number": (lambda: 3, "type int cannot be iterated"),
    "nothing": (list, "list holds no image"),
    "nothing, streamed": (lambda: iter([]), "holds no image"),
    "images alone": (lambda: iter([3, 4]), r"yields int, not \(image, label\)"),
    "dictionaries": (lambda: [{"image": PIXELS[0], "label": 0}], r"yields dict, not \(image, label\)"),
    "two arrays": (lambda: (PIXELS, LABELS), "label that is no whole number"),
    "one-hot labels": (lambda: [(PIXELS[0], [0, 1])], "label that is no whole number"),
    "half labels": (lambda: iter([(PIXELS[0], 0.5)]), "label that is no whole number: 0.5"),
    "names for labels": (lambda: [(PIXELS[0], "ant")], "label that is no whole number: 'ant'"),
    "no labels": (lambda: [(PIXELS[0], None)], "label that is no whole number: None"),
    "negative labels": (lambda: [(PIXELS[0], -1)], "negative labels"),
    "uneven batch": (lambda: iter([(PIXELS[:3], [0, 1])]), "batch of 3 images and 2 labels"),
    "failing iterable": (failing, "beyond image 1: KeyError"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_labelled_images_is_refused_in_one_sentence(kind: str) -> None:
    make, message = BAD[kind]
    with pytest.raises(DataError, match=message) as caught:
        source_from(make())
    assert "\n" not in caught.value.problem
    assert caught.value.next_step


def test_too_few_class_names_are_refused() -> None:
    with pytest.raises(DataError, match="Counting names 2 classes, and its labels go up to 2"):
        source_from(Counting(), ["a", "b"])


def test_an_image_that_the_set_cannot_decode_is_named_and_can_be_skipped() -> None:
    def decode(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if np.array_equal(image, PIXELS[2]):
            raise OSError("broken data stream")
        return image

    source = source_from(WithTargets(decode))
    with pytest.raises(UnreadableImageError, match=r"WithTargets\[2\] .*OSError: broken data stream"):
        collect_images(source, AuditSettings(), PREPROCESSING, [0, 1, 2])
    skipping = AuditSettings(skip_unreadable=True)
    images = collect_images(source, skipping, PREPROCESSING, [0, 1, 2])
    assert [item.image for item in images.skipped] == ["WithTargets[2]"]
    assert len(images.store) == 17


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "HSV"])
def test_streamed_pictures_of_other_modes_are_stored_as_their_colours(mode: str) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)
    source = source_from((red, label % 2) for label in range(4))
    np.testing.assert_array_equal(
        np.unique(np.asarray(source.read(0)).reshape(-1, 3), axis=0), [[255, 0, 0]]
    )


def test_half_precision_tensors_are_read() -> None:
    pairs = [(floats(image).bfloat16(), label) for image, label in PAIRS]
    array = np.asarray(source_from(pairs).read(0))
    assert array.dtype == np.float32
    np.testing.assert_allclose(array * 255, PIXELS[0], atol=1)
