"""Groups of outputs: what fits, and one sentence for each thing that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.data import ImageNetInfo

from shortcut_audit.data.cue_groups import (
    Grouping,
    OutputNames,
    grouped_outputs,
    grouping_of,
    load_grouping,
)
from shortcut_audit.data.label_maps import LabelMap
from shortcut_audit.data.recipes import all_recipes
from shortcut_audit.errors import AuditError, DataError, ModelError, SettingsError

CLASSES = ("ant", "bear", "cat")
OUTPUTS = OutputNames(("tabby", "siamese", "grizzly", "emmet", "stone"), "the test")
SIXTEEN = (
    *("airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"),
    *("chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "groups.toml"
    path.write_text(text, encoding="utf-8")
    return path


def resolved(groups: dict[str, Any], n_outputs: int = 5, names: OutputNames | None = OUTPUTS) -> Any:
    return grouped_outputs(grouping_of(groups), CLASSES, CLASSES, n_outputs, names)


def test_names_and_numbers_may_stand_together() -> None:
    found = resolved({"cat": ["tabby", 1], "bear": "grizzly", "ant": 3})
    assert [(group.name, group.outputs) for group in found.groups] == [
        ("ant", (3,)),
        ("bear", (2,)),
        ("cat", (0, 1)),
    ]
    assert found.groups[2].output_names == ("tabby", "siamese")
    assert (found.dropped, found.absent) == ({}, ())


def test_classes_without_a_group_are_dropped_with_a_reason(tmp_path: Path) -> None:
    choice = load_grouping(
        written(tmp_path, "[groups]\ncat = 0\nbear = 2\nwhale = 4\n[dropped]\nant = 'too small'\n")
    )
    found = grouped_outputs(choice, (*CLASSES, "dog"), (*CLASSES, "dog"), 5, None)
    assert found.dropped == {"ant": "too small", "dog": "the grouping has no group for it"}
    assert found.absent == ("whale",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups = ", "is not TOML"),
        ("protocol = 'x'", "groups is missing"),
        ("[groups]", "there is no group; give at least two"),
        ("[groups]\ncat = []", "group 'cat' is empty"),
        ("[groups]\ncat = [0, 0]", "group 'cat' lists output 0 twice"),
        ("[groups]\ncat = [true]", "groups.cat"),
        ("[groups]\ncat = [1.5]", "groups.cat"),
        ("[groups]\ncat = 0\n[dropped]\ncat = 'why'", "class 'cat' has a group and is dropped"),
        ("[group]\ncat = 0", "group is not known"),
        (
            "n_outputs = 3\noutputs = ['a', 'b']\n[groups]\ncat = 0",
            "n_outputs is 3, and outputs has 2 names",
        ),
        ("outputs = ['a', 'a']\n[groups]\ncat = 0", "outputs name 'a' twice"),
    ],
)
def test_files_that_do_not_hold_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_grouping(path)
    assert message in caught.value.problem
    assert str(path) in caught.value.problem


def test_a_missing_file_is_named_and_a_misspelt_shipped_one_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read"):
        load_grouping(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="do you mean 'groups-imagenet1k-to-cue-conflict'") as caught:
        load_grouping("groups-imagenet-to-cue-conflict")
    assert "labels-cifar10-to-cue-conflict" in caught.value.next_step


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"cat": ["tabby"], "bear": ["grizly"]}, "no output of the model (do you mean 'grizzly'?)"),
        ({"cat": ["tabby", 1], "bear": [1]}, "Output 'siamese' stands in 'cat' and in 'bear'"),
        ({"cat": ["tabby", 0], "bear": [2]}, "Output 'tabby' stands twice in 'cat'"),
        ({"cat": [0], "bear": [5]}, "Group 'bear' names output 5, and the model has 5"),
        ({"cat": [0], "bear": [-1]}, "Group 'bear' names output -1"),
        ({"cat": [0], "baer": [2]}, "Group 'baer' is no class of the images (do you mean 'bear'?)"),
        ({"cat": [0]}, "one class of the images alone has a group (cat)"),
        ({"house": [0], "whale": [1]}, "no class has a group"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolved(groups)
    assert message in caught.value.problem
    assert caught.value.next_step


def test_names_need_somebody_to_say_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing says what the model's outputs are called"):
        resolved({"cat": ["tabby"], "bear": [2]}, names=None)
    choice = load_grouping(
        written(tmp_path, "outputs = ['a', 'b', 'c']\n[groups]\ncat = 'b'\nbear = 'c'\n")
    )
    found = grouped_outputs(choice, CLASSES, CLASSES, 3, None)
    assert [group.outputs for group in found.groups] == [(2,), (1,)]
    with pytest.raises(
        ModelError, match=r"4 outputs, and the list of output names has 3 \(the grouping\)"
    ):
        grouped_outputs(choice, CLASSES, CLASSES, 4, None)


def test_a_grouping_for_another_number_of_outputs_is_refused(tmp_path: Path) -> None:
    choice = load_grouping(written(tmp_path, "n_outputs = 1000\n[groups]\ncat = 0\nbear = 2\n"))
    with pytest.raises(ModelError, match="for a model of 1000 outputs, and this one has 5"):
        grouped_outputs(choice, CLASSES, CLASSES, 5, None)


def test_output_names_have_to_be_the_models() -> None:
    with pytest.raises(ModelError, match="has 6 outputs, and the list of output names has 5"):
        resolved({"cat": [0], "bear": [1]}, n_outputs=6)
    with pytest.raises(ModelError, match="'x' is named twice"):
        resolved({"cat": [0], "bear": [1]}, 2, OutputNames(("x", "x"), "the test"))


def test_a_label_map_says_the_same() -> None:
    label_map = load_grouping("labels-cifar10-to-cue-conflict")
    assert isinstance(label_map, LabelMap)
    names = OutputNames(tuple(reversed(label_map.source.classes)), "the test")
    found = grouped_outputs(label_map, SIXTEEN, SIXTEEN, 10, names)
    assert {group.name: group.output_names for group in found.groups} == {
        "airplane": ("airplane",),
        "bird": ("bird",),
        "boat": ("ship",),
        "car": ("automobile",),
        "cat": ("cat",),
        "dog": ("dog",),
        "truck": ("truck",),
    }
    # In the names' order, not in that of the map.
    assert next(group.outputs for group in found.groups if group.name == "truck") == (0,)
    assert found.dropped["knife"] == "CIFAR-10 has no such class"
    assert len(found.dropped) == 9


def test_a_label_map_without_names_is_taken_in_its_order_and_says_so() -> None:
    label_map = load_grouping("labels-pacs-to-cue-conflict")
    found = grouped_outputs(label_map, SIXTEEN, SIXTEEN, 6, None)
    assert [(group.name, group.outputs) for group in found.groups] == [("dog", (0,)), ("elephant", (1,))]
    assert any("Nobody says" in note and "'dog', 'elephant', 'giraffe'" in note for note in found.notes)
    with pytest.raises(ModelError, match="source PACS has 6 classes, and the model 10 outputs"):
        grouped_outputs(label_map, SIXTEEN, SIXTEEN, 10, None)


def test_a_label_map_of_other_classes_is_refused() -> None:
    label_map = load_grouping("labels-cifar10-to-cue-conflict")
    with pytest.raises(DataError, match="does not know class 'ant'"):
        grouped_outputs(label_map, CLASSES, CLASSES, 10, None)
    names = OutputNames(tuple(f"c{n}" for n in range(10)), "the test")
    with pytest.raises(DataError, match="does not know classes 'c0', 'c1'"):
        grouped_outputs(label_map, SIXTEEN, SIXTEEN, 10, names)


def test_several_classes_of_the_images_may_be_one_of_the_models(tmp_path: Path) -> None:
    text = """protocol = "x"
[source]
name = "model"
classes = ["vehicle", "beast"]
[target]
name = "images"
classes = ["car", "bus", "cat"]
[map]
vehicle = ["car", "bus"]
beast = "cat"
"""
    found = grouped_outputs(
        load_grouping(written(tmp_path, text)), CLASSES, ("car", "bus", "cat"), 2, None
    )
    assert [(group.name, group.classes) for group in found.groups] == [
        ("vehicle", ("car", "bus")),
        ("cat", ("cat",)),
    ]


def test_without_a_grouping_outputs_stand_for_classes_of_their_name() -> None:
    names = OutputNames(("Cat", "dog", "ANT"), "the test")
    found = grouped_outputs(None, CLASSES, CLASSES, 3, names)
    assert [(group.name, group.outputs) for group in found.groups] == [("ant", (2,)), ("cat", (0,))]
    assert found.dropped == {"bear": "no output of the model has its name"}
    with pytest.raises(SettingsError, match="'Cat' has the name of two classes, 'cat' and 'CAT'"):
        grouped_outputs(None, ("cat", "CAT", "ant"), ("cat", "CAT", "ant"), 3, names)


def test_without_grouping_and_names_the_order_is_taken_and_said() -> None:
    found = grouped_outputs(None, CLASSES, CLASSES[1:], 3, None)
    assert [group.outputs for group in found.groups] == [(1,), (2,)]
    assert "Nobody says" in found.notes[0]
    with pytest.raises(ModelError, match="1000 outputs and the images 3 classes") as caught:
        grouped_outputs(None, CLASSES, CLASSES, 1000, None)
    assert "groups-imagenet1k-to-cue-conflict" in caught.value.next_step


@given(st.lists(st.integers(-1, 3), min_size=2, max_size=12), st.randoms())
def test_any_partition_comes_out_as_it_went_in(owners: list[int], shuffle: Any) -> None:
    """Output i belongs to group `owners[i]`, or to none (-1)."""
    wanted = {
        name: [number for number, owner in enumerate(owners) if owner == row]
        for row, name in enumerate(("ant", "bee", "cow", "dog"))
    }
    groups = [(name, members) for name, members in wanted.items() if members]
    shuffle.shuffle(groups)
    choice = Grouping(groups=dict(groups)) if groups else None
    carried = ("ant", "bee", "cow", "dog")
    if choice is None or len(groups) < 2:
        if choice is not None:
            with pytest.raises(AuditError):
                grouped_outputs(choice, carried, carried, len(owners), None)
        return
    found = grouped_outputs(choice, carried, carried, len(owners), None)
    assert {group.name: list(group.outputs) for group in found.groups} == dict(groups)
    assert set(found.dropped) == {name for name, members in wanted.items() if not members}


def test_the_shipped_grouping_of_imagenet_is_made_of_classes_that_fit_their_words() -> None:
    choice = load_grouping("groups-imagenet1k-to-cue-conflict")
    assert isinstance(choice, Grouping)
    found = grouped_outputs(choice, SIXTEEN, SIXTEEN, 1000, None)
    assert [group.name for group in found.groups] == list(SIXTEEN)
    outputs = {group.name: group.outputs for group in found.groups}
    assert sum(map(len, outputs.values())) == 207
    # As many of each as Geirhos et al. list.
    assert {name: len(outputs[name]) for name in ("bird", "dog", "cat", "bottle", "truck")} == {
        "bird": 49,
        "dog": 109,
        "cat": 6,
        "bottle": 7,
        "truck": 8,
    }
    # timm has its own list of what each output is.
    info = ImageNetInfo("imagenet-1k")
    words = {
        name: [info.index_to_description(number).lower() for number in members]
        for name, members in outputs.items()
    }
    for name in ("bear", "clock", "elephant", "keyboard"):
        assert all(name in description for description in words[name]), name
    assert words["airplane"] == ["airliner"]
    assert words["knife"] == ["cleaver, meat cleaver, chopper"]
    assert words["oven"] == ["rotisserie"]
    assert [each.split(",")[0] for each in words["boat"]] == [
        "canoe",
        "fireboat",
        "lifeboat",
        "speedboat",
        "yawl",
    ]
    ids = {
        name: [info.index_to_label_name(number) for number in members]
        for name, members in outputs.items()
    }
    # WordNet numbers its dogs in one run, its birds in another.
    assert all("n02085" <= each < "n02114" for each in ids["dog"])
    assert all("n01514" <= each < "n02057" for each in ids["bird"])


def test_shipped_groupings_are_no_recipes_of_sets() -> None:
    listed, problems = all_recipes()
    assert problems == []
    assert not any(each.name.startswith("groups-") for each in listed)
