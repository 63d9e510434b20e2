"""The cases of a self-test, which patterns go into which classes of which model; and the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from shortcut_audit.data.pixels import make_transform
from shortcut_audit.data.plans import (
    BlockGrid,
    Cast,
    Checkerboard,
    Contrast,
    Cosines,
    Planted,
    Shading,
    Texture,
)
from shortcut_audit.data.shapes import SHAPE_CLASSES, make_shapes
from shortcut_audit.data.sources import ImageSource
from shortcut_audit.data.splits import OpenedSplit, open_splits
from shortcut_audit.errors import DataError, SettingsError

__all__ = [
    "ARCHITECTURES",
    "Amounts",
    "Case",
    "Images",
    "describe",
    "full_cases",
    "opened_images",
    "quick_cases",
    "strength_of",
]

Structure = Literal["", "random labels", "random weights"]
Size = tuple[int, int]
# The full form's networks: two of the package's own, and one of timm's at a size it was not made for.
ARCHITECTURES = (
    "shortcut_audit.models.small:small_cnn",
    "shortcut_audit.models.small:medium_cnn",
    "timm:resnet10t",
)
_SQUARE: Size = (32, 32)
_MOST_CLASSES, _FEWEST_TEST_IMAGES = 10, 20
# Odd and oblong; the last one even, as a checkerboard needs it.
_OTHER_SIZES: tuple[Size, ...] = ((30, 37), (37, 30), (36, 28))


class Amounts(BaseModel):
    """Images of each class, epochs, and images of each class that an audit looks at."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    n_train: Annotated[int, Field(ge=1)] = 700
    n_test: Annotated[int, Field(ge=4)] = 200
    epochs: Annotated[int, Field(ge=1)] = 8


class Case(BaseModel):
    """One model of a self-test. `model`: as for `train`; `size` (H, W); `seed` of everything in it.

    `effort`: epochs, in multiples of the test's. Plants in every class are learnt at once; shapes beside
    a plant take longer than without, because the plant is learnt first and slows down the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    model: str
    size: Size
    planted: tuple[Planted, ...] = ()
    structure: Structure = ""
    effort: float = 1.0
    seed: int = 0


def _waves(size: Size, *shares: tuple[float, float]) -> tuple[tuple[int, int], ...]:
    """Orbits (u, v) at shares of the height and of the width."""
    return tuple((round(size[0] * down), round(size[1] * along)) for down, along in shares)


# What is planted, loudest first: three strengths of each kind, as a function of size, class and step.
_Maker = Callable[[Size, str, int], Planted]


def _cosines(size: Size, name: str, step: int) -> Planted:
    orbits = _waves(size, (0.16, 0.28), (-0.34, 0.12))
    return Cosines(kind="cosines", classes=(name,), orbits=orbits, strength=(8, 4, 2)[step])


def _fixed_cosines(size: Size, name: str, step: int) -> Planted:
    orbits = _waves(size, (0.12, 0.09), (-0.25, 0.41))
    return Cosines(
        kind="cosines", classes=(name,), orbits=orbits, strength=(8, 4, 2)[step], phase="fixed"
    )


def _texture(size: Size, name: str, step: int) -> Planted:
    side = min(size)
    ring = (0.28 * side, 0.36 * side)
    return Texture(kind="texture", classes=(name,), radius=ring, strength=(10, 6, 3)[step])


def _block_grid(size: Size, name: str, step: int) -> Planted:
    block = max(3, min(8, min(size) // 2))
    return BlockGrid(kind="block-grid", classes=(name,), block=block, strength=(8, 4, 2)[step])


def _checkerboard(size: Size, name: str, step: int) -> Planted:
    if size[0] % 2 or size[1] % 2:
        # There is no such orbit; the finest wave along both axes stands in for it.
        orbit = ((size[0] // 2, size[1] // 2),)
        return Cosines(kind="cosines", classes=(name,), orbits=orbit, strength=(8, 4, 2)[step])
    return Checkerboard(kind="checkerboard", classes=(name,), strength=(8, 4, 2)[step])


def _shading(size: Size, name: str, step: int) -> Planted:
    del size
    return Shading(kind="shading", classes=(name,), strength=(24, 12, 6)[step], direction="diagonal")


# Where every class carries a plant of its own, none can be told by the lack of one.
_FOUR: tuple[_Maker, ...] = (_cosines, _texture, _block_grid, _fixed_cosines)
_ALONE: tuple[_Maker, ...] = (_checkerboard, _shading)


def _four(size: Size, names: Sequence[str], step: int) -> tuple[Planted, ...]:
    """One kind each in four classes, spread over all (in three, where there are no more)."""
    count = min(len(_FOUR), len(names))
    places = [number * len(names) // count for number in range(count)]
    return tuple(make(size, names[place], step) for make, place in zip(_FOUR, places, strict=False))


def _controls(size: Size, names: Sequence[str], channels: int) -> tuple[Planted, ...]:
    """A wave that every class carries; a colour cast in one class, another contrast in another one."""
    offset = (14.0, -14.0, 14.0)[:channels]
    return (
        Cosines(kind="cosines", classes="all", orbits=_waves(size, (0.16, 0.28)), strength=6),
        Cast(kind="cast", classes=(names[0],), offset=offset),
        Contrast(kind="contrast", classes=(names[len(names) // 2],), factor=0.7),
    )


def _effort(planted: Sequence[Planted], n_classes: int) -> float:
    n_plants = sum(not isinstance(each, Cast | Contrast) and each.classes != "all" for each in planted)
    if n_plants == n_classes:
        return 0.6
    return 1.5 if n_plants else 1.0


def quick_cases(
    names: Sequence[str], seed: int, *, model: str | None, size: Size | None, channels: int = 3
) -> list[Case]:
    """Four models: one with four plants, one with a single one, a clean one, one with controls alone."""
    _require_classes(names)
    shape = size or _SQUARE
    plants = (
        _four(shape, names, 1),
        (_checkerboard(shape, names[-1], 1),),
        (),
        _controls(shape, names, channels),
    )
    return [
        Case(
            name=_name(planted),
            model=model or ARCHITECTURES[0],
            size=shape,
            planted=planted,
            effort=_effort(planted, len(names)),
            seed=seed + number,
        )
        for number, planted in enumerate(plants)
    ]


def full_cases(
    names: Sequence[str], seed: int, *, model: str | None, size: Size | None, channels: int = 3
) -> list[Case]:
    """Every kind of plant at three strengths on every architecture, and as many models without.

    The middle strength at odd and oblong sizes, where the images have none of their own. The first cases
    touch every kind and every architecture, so that a part of the test says something too.
    """
    _require_classes(names)
    specs = ARCHITECTURES if model is None else (model,)
    cases: list[Case] = []

    def add(spec: str, planted: tuple[Planted, ...], shape: Size, structure: Structure = "") -> None:
        cases.append(
            Case(
                name=structure or _name(planted),
                model=spec,
                size=shape,
                planted=planted,
                structure=structure,
                effort=_effort(planted, len(names)),
                seed=seed + len(cases),
            )
        )

    for step in (1, 0, 2):
        shapes = [size or (other if step == 1 else _SQUARE) for other in _OTHER_SIZES]
        for number, spec in enumerate(specs):
            # No kind of plant stays with one class.
            turned = [*names[number + step :], *names[: number + step]]
            add(spec, _four(shapes[0], turned, step), shapes[0])
            alone = _ALONE[(number + step) % 2]
            add(spec, (alone(shapes[2], turned[0], step),), shapes[2])
            add(spec, (), shapes[1])
            if step == 1:
                square = size or _SQUARE
                add(spec, _controls(square, turned, channels), square)
                add(spec, (), square, "random labels")
                add(spec, (), square, "random weights")
    return cases


def _require_classes(names: Sequence[str]) -> None:
    if len(names) < 3:
        raise SettingsError(
            f"The images have {len(names)} classes, too few to plant into some and not into others.",
            "Give images of three classes or more.",
        )


def describe(entry: Planted) -> str:
    """A pattern in words: `cosines, random phase`."""
    if isinstance(entry, Cast | Contrast):
        return {"cast": "colour cast", "contrast": "contrast"}[entry.kind]
    words = entry.kind.replace("-", " ")
    what = "decoy" if entry.classes == "all" else words
    varied = isinstance(entry, Cosines | Texture)
    return f"{what}, {entry.phase} phase" if varied and entry.classes != "all" else what


def strength_of(entry: Planted) -> float:
    """How strong: in 1/255, of a cast the largest offset; of a contrast its factor."""
    if isinstance(entry, Cast):
        return max(abs(each) for each in entry.offset)
    return entry.factor if isinstance(entry, Contrast) else entry.strength


def _name(planted: Sequence[Planted]) -> str:
    return " + ".join(f"{describe(entry)} {strength_of(entry):g}" for entry in planted) or "clean"


# Images before anything is planted.


class Images(Protocol):
    """Images to plant into. `size`: their own (H, W), None where they are drawn at any."""

    @property
    def spec(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> Size | None: ...

    @property
    def channels(self) -> int: ...

    def split(self, name: str, n: int, case: Case) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Up to `n` images of each class, (m, H, W, C), of split `train` or `test`, and labels."""
        ...


@dataclass(frozen=True)
class Shapes:
    size: Size | None
    spec: str = "shapes on noise, drawn by the package"
    class_names: tuple[str, ...] = SHAPE_CLASSES
    channels: int = 3

    def split(self, name: str, n: int, case: Case) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        height, width = case.size
        seed = int(np.random.SeedSequence([case.seed, name == "test"]).generate_state(1)[0])
        images, labels = make_shapes(n, seed, None, size=max(case.size))
        top, left = (max(case.size) - height) // 2, (max(case.size) - width) // 2
        return images[:, top : top + height, left : left + width], labels


@dataclass(frozen=True)
class OwnImages:
    """Images of the user's: at most ten classes, chosen by seed."""

    spec: str
    train: OpenedSplit
    test: OpenedSplit
    labels: tuple[int, ...]

    @classmethod
    def opened(cls, data: str, size: Size | None, seed: int) -> OwnImages:
        splits = {each.name: each for each in open_splits(data, size)}
        train = splits.get("train") or next(iter(splits.values()))
        others = [each for each in splits.values() if each is not train]
        test = splits.get("test") or (others[-1] if others else train)
        counts = np.bincount(test.source.labels, minlength=len(test.source.class_names))
        present = np.flatnonzero(counts)
        if train is test:
            counts = counts * 3 // 10
        few = [label for label in present if counts[label] < _FEWEST_TEST_IMAGES]
        if few:
            raise DataError(
                f"Class {test.source.class_names[few[0]]!r} has {counts[few[0]]} images to test on; a"
                f" self-test takes at least {_FEWEST_TEST_IMAGES} of each class"
                + (" (three in ten of a set without splits)." if train is test else "."),
                "Add images, or leave --data out: the package draws its own.",
            )
        generator = np.random.default_rng(seed)
        chosen = np.sort(generator.permutation(present)[:_MOST_CLASSES])
        return cls(data, train, test, tuple(int(label) for label in chosen))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.test.source.class_names[label] for label in self.labels)

    @property
    def size(self) -> Size:
        return self.test.shape[:2]

    @property
    def channels(self) -> int:
        return self.test.shape[2]

    def split(self, name: str, n: int, case: Case) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        opened = self.train if name == "train" else self.test
        transform = make_transform(opened.preprocessing)
        images, labels = [], []
        for place, label in enumerate(self.labels):
            for row in self._rows(name, opened.source, label, n, case):
                pixels = transform(opened.source.read(row), opened.source.name(row))
                if pixels.dtype != np.uint8:
                    pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
                images.append(pixels.transpose(1, 2, 0))
                labels.append(place)
        return np.stack(images), np.array(labels, dtype=np.int64)

    def _rows(self, name: str, source: ImageSource, label: int, n: int, case: Case) -> NDArray[np.int64]:
        rows = np.random.default_rng([case.seed, label]).permutation(
            np.flatnonzero(source.labels == label)
        )
        if self.train is self.test:
            n_test = len(rows) * 3 // 10
            rows = rows[:n_test] if name == "test" else rows[n_test:]
        return rows[:n]


def opened_images(data: str | None, size: Size | None, seed: int) -> Images:
    """Images of the user's own (`data`), or shapes that the package draws. Raises DataError."""
    return OwnImages.opened(data, size, seed) if data is not None else Shapes(size)
