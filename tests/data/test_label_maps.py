"""Label maps: every class mapped or dropped, every fault named, and the maps that come along."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shortcut_audit.data.label_maps import (
    ClassSet,
    Drops,
    LabelMap,
    identity_map,
    load_label_map,
)
from shortcut_audit.errors import DataError, SettingsError

DATASETS = Path(__file__).parents[2] / "datasets"
SHIPPED = sorted(DATASETS.glob("labels-*.toml"))

GOOD = """
protocol = "Kinds of cats and dogs count as cat and dog."
[source]
name = "pets"
classes = ["cat", "dog", "hen"]
[target]
name = "breeds"
classes = ["tabby", "Persian", "poodle", "pizza"]
[map]
cat = ["tabby", "Persian"]
dog = "poodle"
[dropped.source]
hen = "no hen among the breeds"
[dropped.target]
pizza = "no animal"
"""


def loaded(tmp_path: Path, text: str) -> LabelMap:
    path = tmp_path / "map.toml"
    path.write_text(text, encoding="utf-8")
    return load_label_map(path)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_labels_come_out_in_the_models_order_with_what_was_dropped(tmp_path: Path) -> None:
    label_map = loaded(tmp_path, GOOD)
    # Neither side counts its classes in the order of the map.
    labels = np.array([0, 1, 2, 3, 3, 0, 2], dtype=np.uint8)
    names = ["pizza", "poodle", "Persian", "tabby"]
    mapped = label_map.apply(labels, names, ["hen", "dog", "cat"])
    assert mapped.labels.tolist() == [-1, 1, 2, 2, 2, -1, 2]
    assert mapped.kept.tolist() == [False, True, True, True, True, False, True]
    assert mapped.n_dropped == 2
    assert [(d.name, d.n_images, d.reason) for d in mapped.dropped] == [("pizza", 2, "no animal")]
    assert mapped.absent == ()
    assert label_map.source_of == {"tabby": "cat", "Persian": "cat", "poodle": "dog"}


def test_a_set_may_lack_classes_and_says_which(tmp_path: Path) -> None:
    mapped = loaded(tmp_path, GOOD).apply(np.array([0, 1]), ["poodle", "tabby"], ["cat", "dog", "hen"])
    assert mapped.labels.tolist() == [1, 0]
    assert mapped.absent == ("Persian", "pizza")
    assert mapped.dropped == ()


def test_notes_name_merges_and_losses(tmp_path: Path) -> None:
    notes = loaded(tmp_path, GOOD).notes()
    assert notes == (
        "2 classes of breeds stand for 'cat': 'tabby', 'Persian'.",
        "1 of 3 classes of pets are dropped: 'hen'.",
        "1 of 4 classes of breeds are dropped: 'pizza'.",
    )


def test_a_permuted_map_is_noted() -> None:
    names = ("cat", "dog", "hen")
    crossed = LabelMap(
        protocol="p",
        source=ClassSet(name="A", classes=names),
        target=ClassSet(name="B", classes=("Cat", "dog", "hen")),
        map={"cat": ("dog",), "dog": ("Cat",), "hen": ("hen",)},
    )
    assert crossed.notes() == (
        "'Cat' of B stands for 'dog', although A has a class 'cat'.",
        "'dog' of B stands for 'cat', although A has a class 'dog'.",
    )
    forgotten = LabelMap(
        protocol="p",
        source=ClassSet(name="A", classes=("cat", "dog")),
        target=ClassSet(name="B", classes=("cat", "dog", "tabby")),
        map={"cat": ("tabby",), "dog": ("dog",)},
        dropped=Drops(target={"cat": "drawn, not photographed"}),
    )
    assert forgotten.notes()[-1] == "'cat' of B is dropped, although A has a class 'cat'."


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'hen = "no hen among the breeds"',
            "",
            "source class 'hen' of pets is neither mapped nor dropped",
        ),
        ('pizza = "no animal"', "", "target class 'pizza' of breeds is neither mapped nor dropped"),
        (
            'dog = "poodle"',
            'dog = "puddle"',
            "'puddle' is no class of the target breeds (do you mean 'poodle'?)",
        ),
        ('dog = "poodle"', 'dgo = "poodle"', "'dgo' is no class of the source pets (do you mean 'dog'?)"),
        ('dog = "poodle"', 'dog = ["poodle", "tabby"]', "'tabby' stands for 'cat' and 'dog'"),
        (
            'cat = ["tabby", "Persian"]',
            'cat = ["tabby", "Persian", "tabby"]',
            "'tabby' is listed twice for 'cat'",
        ),
        ('dog = "poodle"', "dog = []", "source class 'dog' is mapped to nothing"),
        (
            'pizza = "no animal"',
            'pizza = "no"\npoodle = "no"',
            "target class 'poodle' is both mapped and dropped",
        ),
        (
            'hen = "no hen among the breeds"',
            'hen = "n"\ncat = "n"',
            "source class 'cat' is both mapped and dropped",
        ),
        ('pizza = "no animal"', 'pizza = ""', "dropped.target.pizza"),
        (
            'classes = ["cat", "dog", "hen"]',
            'classes = ["cat", "dog", "hen", "cat"]',
            "class 'cat' is listed 2 times",
        ),
        ('classes = ["cat", "dog", "hen"]', "classes = []", "source.classes"),
        ('protocol = "Kinds of cats and dogs count as cat and dog."', "", "protocol is missing"),
        ('protocol = "Kinds of cats and dogs count as cat and dog."', 'protocol = ""', "protocol"),
        ('dog = "poodle"', "dog = 3", "map.dog"),
        ('dog = "poodle"', 'dog = "poodle"\ndog = "tabby"', "is not TOML"),
        ('protocol = "Kinds', 'colour = 1\nprotocol = "Kinds', "colour is not known"),
    ],
)
def test_every_fault_of_a_file_has_its_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, changed(old, new))
    assert says in caught.value.problem
    assert "map.toml" in caught.value.problem
    assert "\n" not in caught.value.problem
    assert caught.value.next_step


def test_an_empty_map_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="map: .*at least 1"):
        loaded(tmp_path, changed('cat = ["tabby", "Persian"]', "").replace('dog = "poodle"', ""))
    with pytest.raises(SettingsError, match="cannot be read"):
        load_label_map(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("names", "outputs", "labels", "says"),
    [
        (["tabby", "Persain"], ["cat", "dog", "hen"], [0], "does not know class 'Persain'"),
        (["tabby", "Persain"], ["cat", "dog", "hen"], [0], "do you mean 'Persian'"),
        (["tabby", "sphynx", "beagle"], ["cat", "dog", "hen"], [0], "classes 'sphynx', 'beagle'"),
        (["tabby"], ["cat", "dog", "hen", "cow"], [0], "does not know class 'cow'"),
        (["tabby"], ["cat", "dog"], [0], "class 'hen', which the model does not answer with"),
        (["TABBY"], ["cat", "dog", "hen"], [0], "does not know class 'TABBY'"),
        (["tabby", "pizza"], ["cat", "dog", "hen"], [1, 1], "No image of breeds is left"),
        (["tabby", "pizza"], ["cat", "dog", "hen"], [], "No image of breeds is left"),
        (["tabby"], ["cat", "dog", "hen"], [0, 1], "go from 0 to 1, and it has 1 classes"),
        (["tabby"], ["cat", "dog", "hen"], [0, -1], "go from -1 to 0"),
    ],
)
def test_sets_that_do_not_fit_the_map_are_refused(
    tmp_path: Path, names: list[str], outputs: list[str], labels: list[int], says: str
) -> None:
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, GOOD).apply(np.array(labels, dtype=np.int64), names, outputs)
    assert says in caught.value.problem
    assert caught.value.next_step


def test_a_map_without_merges_has_a_way_back(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="2 classes of breeds stand for 'cat'"):
        loaded(tmp_path, GOOD).reversed()
    there = load_label_map(DATASETS / "labels-cifar10-to-pacs.toml")
    back = there.reversed()
    assert back.source == there.target
    assert back.source_of == {"dog": "dog", "horse": "horse"}
    assert back.dropped.target == there.dropped.source
    assert back.reversed() == there


def test_the_identity_map_says_how_it_read_names_and_what_it_dropped() -> None:
    found = identity_map(["Cat", "dog", "hen"], ["DOG", "cat", "pizza"], source="A", target="B")
    assert found.map == {"Cat": ("cat",), "dog": ("DOG",)}
    assert "'Cat' is 'cat', 'dog' is 'DOG'" in found.protocol
    assert found.dropped.source == {"hen": "B has no class of that name"}
    assert found.dropped.target == {"pizza": "A has no class of that name"}
    assert "Spelt" not in identity_map(["a", "b"], ["b", "a"]).protocol


def test_the_identity_map_does_not_guess() -> None:
    with pytest.raises(DataError, match="No class of A and B has the same name"):
        identity_map(["cat"], ["tabby"], source="A", target="B")
    with pytest.raises(DataError, match="'Cat' and 'cat' of source differ in case alone"):
        identity_map(["Cat", "cat"], ["cat"])
    with pytest.raises(DataError, match="'cat' and 'CAT' of target differ in case alone"):
        identity_map(["cat"], ["cat", "CAT"])


@st.composite
def maps(draw: st.DrawFn) -> dict[str, Any]:
    """A complete map: each target class stands for a source class or is dropped; so for sources."""
    n_source, n_target = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    owners = draw(st.lists(st.integers(-1, n_source - 1), min_size=n_target, max_size=n_target))
    assume(max(owners) >= 0)
    used = sorted(set(owners) - {-1})
    return {
        "protocol": "drawn",
        "source": {"name": "S", "classes": [f"s{n}" for n in range(n_source)]},
        "target": {"name": "T", "classes": [f"t{n}" for n in range(n_target)]},
        "map": {f"s{n}": [f"t{t}" for t, owner in enumerate(owners) if owner == n] for n in used},
        "dropped": {
            "source": {f"s{n}": "unused" for n in range(n_source) if n not in used},
            "target": {f"t{t}": "unused" for t, owner in enumerate(owners) if owner < 0},
        },
    }


@settings(max_examples=100, deadline=None)
@given(maps(), st.data())
def test_every_image_is_mapped_as_its_class_is_and_none_is_lost(
    content: dict[str, Any], data: st.DataObject
) -> None:
    label_map = LabelMap.model_validate(content)
    targets = data.draw(st.permutations(content["target"]["classes"]))
    sources = data.draw(st.permutations(content["source"]["classes"]))
    labels = np.array(data.draw(st.lists(st.integers(0, len(targets) - 1), min_size=1, max_size=30)))
    owner = {t: s for s, ts in content["map"].items() for t in ts}
    expected = [sources.index(owner[targets[n]]) if targets[n] in owner else -1 for n in labels]
    if max(expected) < 0:
        with pytest.raises(DataError, match="No image"):
            label_map.apply(labels, targets, sources)
        return
    mapped = label_map.apply(labels, targets, sources)
    assert mapped.labels.tolist() == expected
    assert {d.name: d.n_images for d in mapped.dropped if d.n_images} == Counter(
        targets[n] for n in labels if targets[n] not in owner
    )
    assert mapped.n_dropped + int(mapped.kept.sum()) == len(labels)


@settings(max_examples=60, deadline=None)
@given(maps(), st.data())
def test_a_map_that_forgets_a_class_never_passes(content: dict[str, Any], data: st.DataObject) -> None:
    side = data.draw(st.sampled_from(("source", "target")))
    content[side]["classes"].append("forgotten")
    with pytest.raises(ValidationError, match="'forgotten' of . is neither mapped nor dropped"):
        LabelMap.model_validate(content)


# -- the maps that come along -------------------------------------------------------------------------


def test_maps_come_along() -> None:
    assert len(SHIPPED) >= 7


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_map_holds_and_states_its_protocol(path: Path) -> None:
    label_map = load_label_map(path)
    assert label_map.protocol.endswith(".")
    assert not [note for note in label_map.notes() if "although" in note]


def test_imagenet_sct_pairs_are_those_of_the_paper() -> None:
    label_map = load_label_map(DATASETS / "labels-imagenet10-to-imagenet-sct.toml")
    assert label_map.map == {
        "airliner": ("military aircraft",),
        "wagon": ("car",),
        "humming bird": ("lorikeet",),
        "siamese cat": ("tabby",),
        "ox": ("holstein",),
        "golden retriever": ("labrador",),
        "tailed frog": ("tree frog",),
        "zebra": ("horse",),
        "container ship": ("fishing vessel",),
        "trailer truck": ("fire truck",),
    }
    assert label_map.notes() == ()


@pytest.mark.parametrize(
    ("name", "source", "target", "labels"),
    [
        ("cifar10-to-cifar10-ood-tiny32", "cifar10_lossless", "cifar10_ood_tiny32", "y"),
        ("cifar10-to-pacs", "cifar10_lossless", "pacs_photo", "y"),
        ("cifar10-to-pacs", "cifar10_lossless", "pacs_cartoon", "y"),
        ("cifar10-to-cue-conflict", "cifar10_lossless", "cue_conflict112", "y_shape"),
        ("cifar10-to-cue-conflict", "cifar10_lossless", "cue_conflict112", "y_texture"),
        ("cifar10-to-imagenette", "cifar10_lossless", "imagenette224", "y"),
        ("pacs-to-cue-conflict", "pacs_photo", "cue_conflict112", "y_shape"),
    ],
)
def test_shipped_maps_fit_the_class_names_of_real_sets(
    shared_data: Path, name: str, source: str, target: str, labels: str
) -> None:
    label_map = load_label_map(DATASETS / f"labels-{name}.toml")
    with np.load(shared_data / f"{source}.npz") as arrays:
        outputs = arrays["classes"].tolist()
    with np.load(shared_data / f"{target}.npz") as arrays:
        names, numbers = arrays["classes"].tolist(), arrays[labels]
    mapped = label_map.apply(numbers, names, outputs)
    for number, row in zip(numbers[:50], mapped.labels[:50], strict=True):
        owner = label_map.source_of.get(names[number])
        assert (owner is None) == (row < 0)
        assert owner is None or outputs[row] == owner
    assert 0 < mapped.kept.sum() <= len(numbers)


def test_tiny_imagenet_classes_map_as_the_set_itself_labels_them(shared_data: Path) -> None:
    label_map = load_label_map(DATASETS / "labels-cifar10-to-tiny-imagenet21.toml")
    with np.load(shared_data / "cifar10_ood_tiny32.npz") as arrays:
        mapped = label_map.apply(
            arrays["fine"], arrays["fine_names"].tolist(), arrays["classes"].tolist()
        )
        np.testing.assert_array_equal(mapped.labels, arrays["y"])
    assert mapped.kept.all()
    assert mapped.absent == ()


def test_sets_that_share_no_class_are_not_forced_together(shared_data: Path) -> None:
    with np.load(shared_data / "cifar10_lossless.npz") as arrays:
        outputs = arrays["classes"].tolist()
    with np.load(shared_data / "tiny_imagenet10.npz") as arrays:
        names = arrays["classes"].tolist()
    with pytest.raises(DataError, match="same name"):
        identity_map(outputs, names)
