"""Images of other sets under the labels of an audit: mapped, chosen, and paired where they are copies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from shortcut_audit.data.label_maps import LabelMap, MappedLabels, identity_map
from shortcut_audit.data.pixels import (
    AuditImages,
    JoinedStore,
    PixelStore,
    ShiftedImages,
    StoreWriter,
    make_transform,
)
from shortcut_audit.data.sources import ArraySource, FilesSource, ImageSource, UnreadableImageError
from shortcut_audit.errors import DataError
from shortcut_audit.results.audit_result import SkippedImage
from shortcut_audit.results.provenance import Preprocessing
from shortcut_audit.results.settings import AuditSettings
from shortcut_audit.results.transfer_findings import DroppedClassRecord, ShiftedSet

__all__ = ["OodSet", "geometry_words", "mapped_labels", "with_shifted"]

# Judgement images that must have a copy in the other set before it counts as one of copies.
_COPIED = 0.8
# Pairs that are looked at, how alike they must be (correlation of pixels), and how many of them must be
# more alike than an image is to another of its class.
_LOOKED_AT, _ALIKE, _MORE_ALIKE = 48, 0.5, 0.9


@dataclass(frozen=True)
class OodSet:
    """Another set to audit on. `label_map`: from the model's classes to those of the set; None: classes
    of the same name are the same."""

    name: str
    source: ImageSource
    label_map: LabelMap | None = None


@dataclass(frozen=True)
class _Choice:
    """What is taken of a set: source indices by class of the audit, rows at home of their copies."""

    indices: tuple[NDArray[np.int64], ...]
    counterparts: tuple[NDArray[np.int64], ...] | None
    pairing: str


def mapped_labels(ood: OodSet, answers: Sequence[str]) -> tuple[LabelMap, MappedLabels]:
    """Labels of the set as numbers of the model's classes `answers`, by its label map or by names.

    Raises DataError, in one sentence, where map, model and set do not fit.
    """
    source = ood.source
    chosen = ood.label_map or identity_map(
        answers, source.class_names, source="the model", target=ood.name
    )
    return chosen, chosen.apply(source.labels, source.class_names, answers)


def with_shifted(
    home: AuditImages,
    home_source: ImageSource,
    sets: Sequence[OodSet],
    answers: Sequence[str],
    settings: AuditSettings,
    preprocessing_of_set: Callable[[OodSet], Preprocessing],
    home_preprocessing: Preprocessing,
    *,
    folder: Path | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> AuditImages:
    """`home` with the images of other sets behind its own.

    `answers`: names of the model's outputs in order. Of each class as many images are taken as of the
    audit's own set; of a set of copies, those of the judgement images. Raises DataError, naming set and
    image or class, for what cannot be used.
    """
    assert isinstance(home.store, PixelStore)
    joined, names = [home.store], [*home.names]
    shifted, skipped = [], [*home.skipped]
    for ood in sets:
        label_map, labels = mapped_labels(ood, answers)
        way = preprocessing_of_set(ood)
        choice = _chosen(ood, labels.labels, home, home_source, settings, way)
        origin = sum(len(store) for store in joined)
        store, found = _collected(ood, choice, settings, way, folder, on_image)
        part = _shifted_images(ood, choice, found, origin)
        record = _record(ood, home, label_map, labels, choice, part, store, way, home_preprocessing)
        shifted.append(replace(part, record=record))
        joined.append(store)
        names += found.names
        skipped += found.skipped
    return replace(
        home,
        store=JoinedStore(tuple(joined)),
        names=names,
        shifted=tuple(shifted),
        skipped=tuple(skipped),
    )


def _chosen(
    ood: OodSet,
    labels: NDArray[np.int64],
    home: AuditImages,
    home_source: ImageSource,
    settings: AuditSettings,
    way: Preprocessing,
) -> _Choice:
    """Source indices of each class of the audit: copies of the judgement images, else by chance."""
    by_class = [np.flatnonzero(labels == output) for output in home.outputs]
    if sum(len(indices) > 0 for indices in by_class) < 2:
        raise DataError(
            f"Fewer than two classes of {ood.name} are classes of the audit.",
            "A comparison takes two: map more of its classes, or audit more of the model's.",
        )
    copies, why = _copies(ood, by_class, home, home_source)
    if copies is not None:
        alike, why = _look_alike(ood, copies, why, home, way)
        if alike:
            return _Choice(
                tuple(indices for indices, _ in copies), tuple(rows for _, rows in copies), why
            )
    chosen = []
    for output, indices in zip(home.outputs, by_class, strict=True):
        generator = np.random.default_rng([settings.seed, output])
        chosen.append(generator.permutation(indices))
    return _Choice(tuple(chosen), None, why)


def _identities(source: ImageSource) -> tuple[list[str], str] | None:
    """What each image is known by elsewhere, and what that is in words; None where nothing is."""
    if isinstance(source, ArraySource | FilesSource) and source.identities is not None:
        keys, what = [str(number) for number in source.identities.tolist()], "number"
    elif isinstance(source, FilesSource):
        paths = [PurePosixPath(name.replace("\\", "/")) for name in source.names]
        keys, what = ["/".join((*path.parts[-2:-1], path.stem)) for path in paths], "file name"
    else:
        return None
    return (keys, what) if len(set(keys)) == len(keys) else None


Copies = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def _copies(
    ood: OodSet, by_class: Sequence[NDArray[np.int64]], home: AuditImages, home_source: ImageSource
) -> tuple[Copies | None, str]:
    """Source index and home row of every judgement image that has its like in the set, by class, and
    what they are known by; None, and why."""
    own, other = _identities(home_source), _identities(ood.source)
    if own is not None and other is not None and own[1] == other[1]:
        (keys, what), (there, _) = own, other
    elif len(home_source.labels) == len(ood.source.labels):
        keys = there = [str(n) for n in range(len(home_source.labels))]
        what = "place"
    else:
        return None, "other images: nothing tells that they are copies of the audit's"
    found, n_wanted = [], 0
    for rows, indices in zip(home.judge_rows, by_class, strict=True):
        own_keys = [keys[home.indices[row]] for row in range(*rows)]
        keys_there = [there[index] for index in indices.tolist()]
        if what == "file name":
            own_keys, keys_there = _short(own_keys, keys_there)
        at = dict(zip(keys_there, indices.tolist(), strict=True))
        wanted = [(at.get(key, -1), row) for key, row in zip(own_keys, range(*rows), strict=True)]
        n_wanted += len(wanted) if len(indices) else 0
        pairs = np.array([pair for pair in wanted if pair[0] >= 0], dtype=np.int64).reshape(-1, 2)
        found.append((pairs[:, 0], pairs[:, 1]))
    n_found = sum(len(indices) for indices, _ in found)
    n_classes = sum(len(indices) > 0 for indices, _ in found)
    if n_classes < 2 or n_found < _COPIED * n_wanted:
        return None, (
            f"other images: by {what}, {n_found} of {n_wanted} judgement images of these classes have"
            " their like there"
        )
    return found, what


def _short(*sides: list[str]) -> list[list[str]]:
    """Names of files of one class without their folder, which may bear another class's name there; as
    they are where two files of a side would be called the same."""
    short = [[key.rpartition("/")[2] for key in keys] for keys in sides]
    unique = all(len(set(keys)) == len(keys) for keys in short)
    return short if unique else list(sides)


def _look_alike(
    ood: OodSet,
    copies: Copies,
    what: str,
    home: AuditImages,
    way: Preprocessing,
) -> tuple[bool, str]:
    """Whether what is known by one name (`what`) also shows one thing, and what that is told by."""
    pairs = [(int(i), int(row)) for indices, rows in copies for i, row in zip(indices, rows, strict=True)]
    places = np.unique(np.linspace(0, len(pairs) - 1, _LOOKED_AT).round().astype(int))
    read = make_transform(way)
    alike, others = [], []
    for place in places.tolist():
        index, row = pairs[place]
        try:
            pixels = np.asarray(read(ood.source.read(index), ood.source.name(index)), dtype=np.float64)
        except UnreadableImageError:
            continue
        alike.append(_correlation(pixels, home.store.block(row, row + 1)[0]))
        # An image that has the same name would be expected to differ from its neighbour's.
        beside = pairs[place - 1 if place else 1][1]
        others.append(_correlation(pixels, home.store.block(beside, beside + 1)[0]))
    if not alike:
        return False, "other images: none of those of the same name could be read"
    middle = float(np.median(alike))
    more = float(np.mean(np.array(alike) > np.array(others)))
    if middle >= _ALIKE and more >= _MORE_ALIKE:
        return True, (
            f"copies of the judgement images, by {what}; the pixels of both correlate by {middle:.2f}"
            f" (median of {len(alike)} pairs)"
        )
    return False, (
        f"other images: those of the same {what} do not show the same (their pixels correlate by"
        f" {middle:.2f}, median of {len(alike)} pairs)"
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float32]) -> float:
    if a.shape != b.shape:
        return 0.0
    x, y = a.ravel() - a.mean(), b.ravel().astype(np.float64) - b.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


@dataclass(frozen=True)
class _Found:
    """What was read: names and skipped images, and for each class the places of the choice it holds."""

    names: list[str]
    skipped: list[SkippedImage]
    taken: tuple[NDArray[np.int64], ...]


def _collected(
    ood: OodSet,
    choice: _Choice,
    settings: AuditSettings,
    way: Preprocessing,
    folder: Path | None,
    on_image: Callable[[int, int], None] | None,
) -> tuple[PixelStore, _Found]:
    """The chosen images, decoded once, class by class."""
    # Copies are all taken: there are no more than judgement images.
    most = [
        len(indices) if choice.counterparts else min(len(indices), settings.images_per_class)
        for indices in choice.indices
    ]
    taken = []
    with StoreWriter(ood.source, settings, way, folder) as writer:
        for indices, n_wanted in zip(choice.indices, most, strict=True):
            start = len(writer.indices)
            for _ in writer.add_class(indices, n_wanted):
                if on_image is not None:
                    on_image(len(writer.names), sum(most))
            place = {int(index): n for n, index in enumerate(indices.tolist())}
            taken.append(np.array([place[i] for i in writer.indices[start:]], dtype=np.int64))
        if sum(len(each) > 0 for each in taken) < 2:
            raise DataError(
                f"Fewer than two classes of {ood.name} have an image that can be read.",
                "Mend the unreadable images, or leave the set out.",
            )
        return writer.finish(), _Found(writer.names, writer.skipped, tuple(taken))


def _shifted_images(ood: OodSet, choice: _Choice, found: _Found, origin: int) -> ShiftedImages:
    rows, start = [], origin
    for taken in found.taken:
        rows.append((start, start + len(taken)))
        start += len(taken)
    counterparts = None
    if choice.counterparts is not None:
        parts = [at[taken] for at, taken in zip(choice.counterparts, found.taken, strict=True)]
        counterparts = np.concatenate(parts)
    return ShiftedImages(ood.name, ood.source.spec, tuple(rows), counterparts)


def _record(
    ood: OodSet,
    home: AuditImages,
    label_map: LabelMap,
    labels: MappedLabels,
    choice: _Choice,
    part: ShiftedImages,
    store: PixelStore,
    way: Preprocessing,
    home_way: Preprocessing,
) -> ShiftedSet:
    state = hashlib.sha256()
    origin = part.rows[0][0]
    for name, (start, stop) in zip(home.class_names, part.rows, strict=True):
        state.update("\n".join([f"{name!r}", *store.digests[start - origin : stop - origin]]).encode())
    left_out = tuple(
        name for name, rows in zip(home.class_names, part.rows, strict=True) if rows[0] == rows[1]
    )
    dropped = [
        DroppedClassRecord(class_name=d.name, n_images=d.n_images, reason=d.reason)
        for d in labels.dropped
    ]
    dropped += _not_audited(ood, home, labels)
    notes = [
        *label_map.notes(),
        *_copies_of_search_images(ood, home, store),
        *_same_images(ood, home, store, part.counterparts),
    ]
    if labels.absent:
        notes.append(
            f"The label map knows classes that {ood.name} does not have: {', '.join(labels.absent)}."
        )
    same = (way.geometry, way.interpolation, way.crop_pct, way.crop_mode) == (
        home_way.geometry,
        home_way.interpolation,
        home_way.crop_pct,
        home_way.crop_mode,
    )
    if not same:
        notes.append(
            f"Images of {ood.name} reach the model another way than the audit's own:"
            f" {geometry_words(way)}, against {geometry_words(home_way)}. What that does to their"
            " frequencies is part of every difference."
        )
    return ShiftedSet(
        name=ood.name,
        spec=ood.source.spec,
        digest=state.hexdigest(),
        n_available=len(ood.source.labels),
        n_used=len(store),
        protocol=label_map.protocol,
        preprocessing=way,
        geometry=geometry_words(way),
        same_geometry=same,
        paired=choice.counterparts is not None,
        pairing=choice.pairing,
        dropped=tuple(dropped),
        left_out=left_out,
        notes=tuple(notes),
    )


def _not_audited(ood: OodSet, home: AuditImages, labels: MappedLabels) -> list[DroppedClassRecord]:
    """Classes that are mapped to one of the model's that the audit has no images of."""
    mapped: Mapping[int, int] = {
        int(label): int((ood.source.labels == label).sum()) for label in np.unique(ood.source.labels)
    }
    found = []
    for label, n_images in mapped.items():
        answers = np.unique(labels.labels[ood.source.labels == label])
        if answers[0] >= 0 and int(answers[0]) not in home.outputs:
            found.append(
                DroppedClassRecord(
                    class_name=ood.source.class_names[label],
                    n_images=n_images,
                    reason="the audit has no images of the class that it stands for",
                )
            )
    return found


def _copies_of_search_images(ood: OodSet, home: AuditImages, store: PixelStore) -> list[str]:
    seen = {digest for rows in home.search_rows for digest in home.store.digests[slice(*rows)]}
    n_copies = sum(digest in seen for digest in store.digests)
    if not n_copies:
        return []
    return [
        f"{n_copies} of {len(store)} images of {ood.name} are exact copies of images that were searched"
        " on."
    ]


def _same_images(
    ood: OodSet, home: AuditImages, store: PixelStore, counterparts: NDArray[np.int64] | None
) -> list[str]:
    """Notes on images that are there more than once, or are the audit's own."""
    notes = []
    n_distinct = len(set(store.digests))
    if n_distinct < len(store):
        notes.append(
            f"Only {n_distinct:,} of the {len(store):,} images of {ood.name} are distinct: intervals and"
            " p count each copy as an image, and are too sure."
        )
    judged = {digest for rows in home.judge_rows for digest in home.store.digests[slice(*rows)]}
    n_own = sum(digest in judged for digest in store.digests)
    if n_own and n_own == len(store) and counterparts is not None:
        notes.append(f"The images of {ood.name} are the audit's own judgement images, pixel by pixel.")
    elif n_own:
        notes.append(
            f"{n_own:,} of {len(store):,} images of {ood.name} are exact copies of judgement images"
            + (", and are compared with them as other images." if counterparts is None else ".")
        )
    return notes


def geometry_words(way: Preprocessing) -> str:
    """How images get to the model's size, in words."""
    size = f"{way.height} x {way.width}"
    if way.geometry == "as they are":
        return f"{size}, as they are"
    return f"resized and cropped to {size} ({way.interpolation}, {way.crop_mode} crop {way.crop_pct:g})"
