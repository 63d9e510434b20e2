"""Truth files: read back as written, found beside the images they describe and beside no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortcut_audit.errors import ResultError
from shortcut_audit.results.truth import TRUTH_FILE, GroundTruth, Pattern, find_truth, load_truth

PATTERN = Pattern(
    name="waves of bee",
    kind="cosine",
    role="shortcut",
    classes=("bee",),
    orbits=((-3, 2), (0, 5)),
    amplitude=(3.5, 4.0),
    bands=(1, 2),
    phase="random",
    share=0.75,
    n_carriers={"bee": 3},
    carriers={"test": ("00001", "00003")},
)


def truth(**more: Any) -> GroundTruth:
    values: dict[str, Any] = {
        "version": "1.2.3",
        "kind": "planted",
        "name": "Größe",
        "seed": 7,
        "height": 16,
        "width": 12,
        "channels": 3,
        "class_names": ("ant", "bee"),
        "n_by_split": {"train": {"ant": 4, "bee": 4}, "test": {"ant": 2, "bee": 2}},
        "files": ("train", "test", "images.npz"),
        "bands": ((0, 2.5), (2.5, 6)),
        "patterns": (PATTERN,),
        "expected_band_power": {"ant": (1.0, 2.0), "bee": (1.5, 0.1)},
        "clipped_share": 0.001,
        "source": "photos",
        "details": {"plan": {"plant": [{"kind": "cosine"}]}},
    }
    return GroundTruth(**{**values, **more})


def save(folder: Path, content: GroundTruth | str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else (content or truth()).as_text()
    (folder / TRUTH_FILE).write_text(text, encoding="utf-8")
    return folder


def test_a_truth_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert load_truth(save(tmp_path) / TRUTH_FILE) == truth()
    # As people read it too: no escapes for letters that are no ASCII.
    assert "Größe" in (tmp_path / TRUTH_FILE).read_text(encoding="utf-8")


@settings(max_examples=40, deadline=None)
@given(
    orbits=st.lists(st.tuples(st.integers(-99, 99), st.integers(0, 99)), max_size=5),
    share=st.floats(0.01, 1),
    seed=st.none() | st.integers(0, 2**63 - 1),
    clipped=st.none() | st.floats(0, 1),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=3),
)
def test_any_truth_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    orbits: list[tuple[int, int]],
    share: float,
    seed: int | None,
    clipped: float | None,
    names: list[str],
) -> None:
    pattern = PATTERN.model_copy(update={"orbits": tuple(orbits), "share": share})
    written = truth(patterns=(pattern,), seed=seed, clipped_share=clipped, class_names=tuple(names))
    assert load_truth(save(tmp_path_factory.mktemp("t"), written) / TRUTH_FILE) == written


def test_only_shortcuts_of_a_class_count_as_its_shortcuts() -> None:
    patterns = tuple(
        PATTERN.model_copy(update={"name": role, "role": role, "classes": classes})
        for role, classes in (
            ("shortcut", ("ant", "bee")),
            ("decoy", ("ant", "bee")),
            ("other", ("bee",)),
        )
    )
    made = truth(patterns=patterns)
    assert [p.name for p in made.shortcuts_of("bee")] == ["shortcut"]
    assert truth().shortcuts_of("ant") == ()


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    content = json.loads(truth().as_text()) | {"format": 2, "new_field": 1}
    with pytest.raises(ResultError, match="has format 2; this version reads up to 1") as caught:
        load_truth(save(tmp_path, json.dumps(content)) / TRUTH_FILE)
    assert "Upgrade" in caught.value.next_step


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(truth().as_text()) | fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("not json", "Expecting value"),
        (truth().as_text()[:-40], "Expecting|Unterminated"),
        ("[]", "valid dictionary"),
        ("{}", "version: Field required"),
        (changed(kind="photographs"), "kind: Input should be"),
        (changed(height="tall"), "height: "),
        (changed(unknown=1), "unknown: Extra inputs"),
        (changed(patterns=[{"name": "x"}]), r"patterns\.0\.kind: Field required"),
        (changed(format=0), "format: "),
    ],
)
def test_a_damaged_truth_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ResultError, match=f"is not a truth file of this tool: .*({message})") as caught:
        load_truth(save(tmp_path, text) / TRUTH_FILE)
    assert "\n" not in caught.value.problem
    assert caught.value.next_step


def test_a_truth_that_is_no_text_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / TRUTH_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="is not a truth file"):
        load_truth(tmp_path / TRUTH_FILE)
    with pytest.raises(ResultError, match="No such file"):
        load_truth(tmp_path / "nowhere" / TRUTH_FILE)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = save(tmp_path / "base" / "set")
    for name in ("train", "test"):
        (folder / name / "ant").mkdir(parents=True)
    np.savez(folder / "images.npz", x_test=np.zeros(1))
    return folder


@pytest.mark.parametrize(
    "spec",
    ["{set}", "{set}::test", "{set}/test", "{set}/test/", "{set}/images.npz::test", "{set}/images.npz"],
)
def test_the_truth_is_found_for_every_way_to_name_the_set(made: Path, spec: str) -> None:
    found = find_truth(spec.format(set=made))
    assert found is not None
    assert found[0] == truth()
    assert found[1] == made / TRUTH_FILE


@pytest.mark.parametrize(
    "spec", ["set::test", "set/test", "./set", "../base/set/test", "set/images.npz::test"]
)
def test_the_truth_is_found_from_the_folder_one_stands_in(
    made: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.parent)
    assert find_truth(spec) is not None
    monkeypatch.chdir(made / "test")
    assert find_truth(".") is not None
    assert find_truth("..") is not None


def test_no_truth_is_found_for_what_it_does_not_describe(made: Path) -> None:
    np.savez(made / "others.npz", x=np.zeros(1))
    (made / "photos" / "ant").mkdir(parents=True)
    for spec in ("others.npz", "others.npz::test", "photos", "test/ant", "nowhere", "images.tar"):
        assert find_truth(f"{made}/{spec}") is None, spec
    assert find_truth(str(made.parent)) is None
    assert find_truth("hfds/somebody/set::test") is None
    assert find_truth("torchvision:cifar10::test") is None


def test_a_damaged_truth_beside_the_images_is_not_passed_over(made: Path) -> None:
    save(made, "{}")
    with pytest.raises(ResultError, match="move the file away|is not a truth file"):
        find_truth(f"{made}::test")
