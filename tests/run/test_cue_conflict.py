"""A cue-conflict test against the slow replica, and on models whose answer is known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, linear_model
from cues import NAMES, Reads, all_pairs, one_output_each, picture, save_cues, slow_counts, triples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.sources import open_source
from shortcut_audit.errors import (
    AuditError,
    DataError,
    LogitsError,
    ModelError,
    RunFolderError,
    SettingsError,
)
from shortcut_audit.results.cue_conflict import CueConflictResult, load_cue_conflict
from shortcut_audit.results.store import write_state

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same_but_time(a: CueConflictResult, b: CueConflictResult) -> bool:
    """Whether two results agree on all but the time they took and the size of batches."""
    alike = {"timing": a.timing, "batch_size": a.batch_size, "settings": a.settings}
    return a == b.model_copy(update=alike)


def as_counts(result: CueConflictResult) -> dict[str, dict[str, int]]:
    """What the replica says, from a result."""
    found: dict[str, dict[str, int]] = {
        "": {"unmapped": result.left_out.unmapped, "same": result.left_out.same_class}
    }
    rows = [(item.class_name, item.among_groups, item.among_all) for item in result.by_class]
    for name, groups, outputs in [*rows, ("", result.among_groups, result.among_all)]:
        for prefix, counts in (("", groups), ("all ", outputs)):
            for what in ("shape", "texture", "neither"):
                number = getattr(counts, f"n_{what}")
                if number:
                    found.setdefault(name, {})[prefix + what] = number
    return found


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=20),
    st.lists(st.integers(-1, 3), min_size=7, max_size=7),
    st.integers(0, 99),
    st.integers(1, 9),
)
def test_counts_are_the_slow_replicas(
    pairs: list[tuple[int, int]], owners: list[int], seed: int, batch_size: int
) -> None:
    """A random linear model of 7 outputs; output i belongs to group `owners[i]`, or to none (-1)."""
    model = linear_model(7, (1, 4, 4), seed, scale=1.0)
    groups = {
        name: [number for number, owner in enumerate(owners) if owner == row]
        for row, name in enumerate(NAMES)
        if row in owners
    }
    images = triples(pairs)
    there = {NAMES[label] for pair in pairs for label in pair}
    if len(there & set(groups)) < 2:
        with pytest.raises(SettingsError):
            sa.cue_conflict(model, images, groups=groups or {"ant": []}, class_names=NAMES)
        return
    result = sa.cue_conflict(model, images, groups=groups, class_names=NAMES, batch_size=batch_size)
    assert as_counts(result) == slow_counts(model, images, NAMES, groups)
    assert result.data.n_used + result.left_out.n == result.data.n_available == len(pairs)


def test_a_network_with_batch_normalisation_agrees_with_the_replica_in_any_batches() -> None:
    model = conv_model(6, 1, seed=3)
    images = triples(all_pairs() * 3)
    groups = {"ant": [0, 5], "bee": [1], "cow": [2, 3]}
    found = [
        sa.cue_conflict(model, images, groups=groups, class_names=NAMES, batch_size=size, dtype="float64")
        for size in (1, 7, 64)
    ]
    assert as_counts(found[0]) == slow_counts(model, images, NAMES, groups)
    assert same_but_time(found[1].model_copy(update={"timing": found[0].timing}), found[0])
    assert same_but_time(found[2], found[0])


@QUICK
@given(st.permutations(range(16)))
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    images = triples(all_pairs())
    model = linear_model(4, (1, 4, 4), 5, scale=1.0)
    one = sa.cue_conflict(model, images, class_names=NAMES)
    other = sa.cue_conflict(model, [images[n] for n in order], class_names=NAMES)
    assert same_but_time(one, other)


@pytest.mark.parametrize(("place", "word", "bias"), [(0, "shape", 1.0), (1, "texture", 0.0)])
def test_a_model_that_reads_one_of_the_two_goes_by_it(place: int, word: str, bias: float) -> None:
    result = sa.cue_conflict(
        Reads(place, one_output_each()), triples(all_pairs()), class_names=NAMES, groups=None
    )
    assert result.goes_by == word
    assert result.among_groups.shape_bias.value == bias
    assert result.among_groups.n == result.among_groups.n_either == 12
    assert result.left_out.same_class == 4
    assert all(item.among_groups.shape_bias.value == bias for item in result.by_class)
    assert result.among_all == result.among_groups
    # 12 of 12, by hand.
    assert result.among_groups.p_value == pytest.approx(2 / 2**12)


def test_a_random_model_goes_by_neither_and_is_doubted() -> None:
    generator = np.random.default_rng(0)
    answers = torch.from_numpy(generator.permutation(np.arange(600) % 4))
    images = [(np.full((4, 4, 1), n % 256, dtype=np.uint8), n) for n in range(600)]
    asked = itertools.count()

    class Guesses(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            rows = [next(asked) % 600 for _ in range(len(pixels))]
            return 5 * nn.functional.one_hot(answers[rows], 4).float()

    pairs = [(n % 4, (n % 4 + 1 + n // 4 % 3) % 4) for n in range(600)]
    given_images = [(image, *pairs[n]) for image, n in images]
    result = sa.cue_conflict(Guesses(), given_images, class_names=NAMES)
    assert result.goes_by == "both"
    assert result.among_groups.shape_bias.n > 250
    assert result.among_groups.p_value is not None
    assert result.among_groups.p_value > 0.05
    assert any("no more than guesses among 4 groups would (50%)" in note for note in result.notes)


def test_a_model_that_knows_its_images_is_not_doubted() -> None:
    result = sa.cue_conflict(
        Reads(0, one_output_each()), triples(all_pairs() * 3), class_names=NAMES, output_names=NAMES
    )
    assert result.notes == ()


def test_neither_is_an_output_of_no_group() -> None:
    """Each class has an output that is nearly the largest; the largest of all is in no group."""
    table = [[*row, 9.0] for row in one_output_each()]
    groups = {name: [row] for row, name in enumerate(NAMES)}
    result = sa.cue_conflict(Reads(0, table), triples(all_pairs()), class_names=NAMES, groups=groups)
    assert result.among_groups.shape_bias.value == 1.0
    assert result.among_all.n_neither == 12
    assert result.among_all.shape_bias.value is None


def test_a_class_that_no_image_has_takes_no_part() -> None:
    """The model would call everything a dog; there is no dog in this set."""
    table = [[8.0 * (row == n) for n in range(3)] + [20.0] for row in range(4)]
    images = triples(all_pairs(3))
    groups = {name: [row] for row, name in enumerate(NAMES)}
    result = sa.cue_conflict(Reads(0, table), images, class_names=NAMES, groups=groups)
    assert result.absent == ("dog",)
    assert result.among_groups.shape_bias.value == 1.0
    assert result.among_all.n_neither == 6


def test_several_classes_of_the_images_as_one_group_are_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(
        """protocol = "x"
[source]
name = "model"
classes = ["insect", "beast"]
[target]
name = "images"
classes = ["ant", "bee", "cow", "dog"]
[map]
insect = ["ant", "bee"]
beast = "cow"
[dropped.target]
dog = "why not"
"""
    )
    table = [[5.0, 0.0], [5.0, 0.0], [0.0, 5.0], [0.0, 0.0]]
    result = sa.cue_conflict(
        Reads(0, table), triples(all_pairs()), class_names=NAMES, groups=tmp_path / "map.toml"
    )
    # ant-bee, bee-ant, and each with itself.
    assert result.left_out.same_class == 5
    assert result.left_out.unmapped == 7
    assert [(item.class_name, item.among_groups.n_shape) for item in result.by_class] == [
        ("insect", 2),
        ("cow", 2),
    ]
    assert (result.dropped[0].reason, result.dropped[0].n_shape, result.dropped[0].n_texture) == (
        "why not",
        4,
        4,
    )


def test_nothing_left_is_not_measured_and_says_why() -> None:
    images = triples([(0, 0), (1, 1), (2, 3)])
    result = sa.cue_conflict(
        Reads(0, one_output_each()), images, class_names=NAMES, groups={"ant": 0, "bee": 1}
    )
    assert result.goes_by == "not measured"
    assert result.data.n_used == 0
    assert "none of the 3 images is left" in result.why_not_measured


def test_images_per_class_are_drawn_by_seed_and_the_rest_is_counted() -> None:
    images = triples(all_pairs() * 5)
    model = linear_model(4, (1, 4, 4), 5, scale=1.0)
    found = [
        sa.cue_conflict(model, images, class_names=NAMES, images_per_class=6, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert same_but_time(found[0], found[1])
    assert found[0].data.digest != found[2].data.digest
    for result in found:
        assert [item.among_groups.n for item in result.by_class] == [6] * 4
        assert result.left_out.not_drawn == 60 - 24


def test_unreadable_images_are_counted_out(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("ant1-bee1", "ant2-bee1", "bee1-ant1", "bee2-ant1"):
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "bee2-ant1.png").write_bytes(b"cut")
    model = linear_model(2, (1, 4, 4))
    with pytest.raises(AuditError, match="bee2-ant1"):
        sa.cue_conflict(model, tmp_path)
    result = sa.cue_conflict(model, tmp_path, skip_unreadable=True)
    assert result.left_out.unreadable == 1
    assert [item.image for item in result.skipped] == ["bee2-ant1.png"]
    assert result.data.n_used == 3


def test_what_is_odd_about_the_files_is_noted(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("ant1-bee1", "bee1-ant1"):
        Image.fromarray(np.zeros((4, 4, 4), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    result = sa.cue_conflict(linear_model(2, (3, 4, 4)), tmp_path, output_names=["ant", "bee"])
    assert any("transparency" in note for note in result.notes)


def test_the_model_is_left_as_it_was() -> None:
    model = conv_model(4, 1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    sa.cue_conflict(model, triples(all_pairs()), class_names=NAMES)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_image_is_asked_about_once() -> None:
    asked: list[int] = []

    class Counts(Reads):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            asked.append(len(images))
            return super().forward(images)

    sa.cue_conflict(Counts(0, one_output_each()), triples(all_pairs()), class_names=NAMES, batch_size=5)
    # Two grey images tell how many outputs there are.
    assert asked == [2, 5, 5, 2]


def test_a_batch_that_memory_does_not_hold_is_halved() -> None:
    refused: list[int] = []

    class Small(Reads):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 3:
                refused.append(len(images))
                raise RuntimeError("CUDA out of memory")
            return super().forward(images)

    model, images = Small(0, one_output_each()), triples(all_pairs() * 4)
    result = sa.cue_conflict(model, images, class_names=NAMES)
    assert result.batch_size == 2
    # Once, and not again for every batch.
    assert refused == [32, 16, 8, 4]
    assert result.among_groups.n_shape == 48
    with pytest.raises(SettingsError, match="Memory does not hold 16 images"):
        sa.cue_conflict(model, images, class_names=NAMES, batch_size=16)


def test_answers_that_are_no_numbers_name_the_image() -> None:
    table = one_output_each()
    table[2][0] = float("nan")
    with pytest.raises(LogitsError, match=r"infinite logits on image list\[8\]"):
        sa.cue_conflict(Reads(0, table), triples(all_pairs()), class_names=NAMES, batch_size=3)


def test_a_function_will_do() -> None:
    def reads_shape(images: torch.Tensor) -> Any:
        labels = (images[:, 0, 0, 0] * 255 / 20).round().long().clamp(max=3)
        return nn.functional.one_hot(labels, 4).numpy() * 1.0

    result = sa.cue_conflict(reads_shape, triples(all_pairs()), class_names=NAMES)
    assert result.among_groups.shape_bias.value == 1.0


def test_names_of_the_models_own_record_are_taken() -> None:
    class Recorded(Reads):
        pretrained_cfg = {"label_names": ("dog", "cow", "bee", "ant")}  # noqa: RUF012

    table = [row[::-1] for row in one_output_each()]
    result = sa.cue_conflict(Recorded(0, table), triples(all_pairs()), class_names=NAMES)
    assert result.among_groups.shape_bias.value == 1.0
    assert result.groups[0].output_names == ("ant",)
    assert result.notes == ()
    # The user's own win.
    other = sa.cue_conflict(
        Recorded(0, one_output_each()), triples(all_pairs()), class_names=NAMES, output_names=NAMES
    )
    assert other.among_groups.shape_bias.value == 1.0


def test_much_smaller_images_are_noted(tmp_path: Path) -> None:
    images = [(np.zeros((12, 12, 1), dtype=np.uint8), a, 1 - a) for a in (0, 1)]
    model = linear_model(2, (1, 4, 4))
    notes = sa.cue_conflict(
        model, images, class_names=["a", "b"], output_names=["a", "b"], size=(4, 4)
    ).notes
    assert any("12 x 12 to 4 x 4 pixels" in note for note in notes)
    model = linear_model(2, (1, 10, 10))
    assert not sa.cue_conflict(
        model, images, class_names=["a", "b"], output_names=["a", "b"], size=(10, 10)
    ).notes


def test_the_result_is_kept_and_names_what_it_rests_on(tmp_path: Path) -> None:
    data = save_cues(tmp_path / "cues.npz", all_pairs())
    model = Reads(0, one_output_each())
    result = sa.cue_conflict(model, data, out=tmp_path / "out", mean=[0.0], std=[1.0])
    assert load_cue_conflict(tmp_path / "out") == result
    assert result.data.spec == str(data)
    assert result.model.n_outputs == 4
    assert len(result.model.digest) == 64
    assert {"torch", "shortcut-audit", "scipy"} <= set(result.versions)
    with torch.no_grad():
        model.table[0, 0] += 1
    assert sa.cue_conflict(model, data).model.digest != result.model.digest


def test_a_folder_of_another_is_left_alone(tmp_path: Path) -> None:
    model, images = Reads(0, one_output_each()), triples(all_pairs())
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="was not made by shortcut-audit"):
        sa.cue_conflict(model, images, class_names=NAMES, out=tmp_path)
    audit = tmp_path / "audit"
    audit.mkdir()
    write_state(audit, {"state": "finished"})
    (audit / "result.json").write_text("{}")
    with pytest.raises(RunFolderError, match="holds an audit"):
        sa.cue_conflict(model, images, class_names=NAMES, out=audit)
    sa.cue_conflict(model, images, class_names=NAMES, out=tmp_path / "new")
    again = sa.cue_conflict(model, images, class_names=NAMES, out=tmp_path / "new", seed=3)
    assert load_cue_conflict(tmp_path / "new") == again


@pytest.mark.parametrize(
    ("images", "names", "message"),
    [
        ([(picture(0, 1), 0)], NAMES, "not .image, shape label, texture label"),
        ([(picture(0, 1), 0, "bee")], NAMES, "cannot be read beyond image 0"),
        ([(picture(0, 1), 0, 7)], NAMES, "names 4 classes, and its labels go up to 7"),
        ([(picture(0, 1), 0, -1)], NAMES, "negative labels"),
        ([], NAMES, "holds no image"),
    ],
)
def test_images_that_are_no_triples_are_refused(images: Any, names: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sa.cue_conflict(Reads(0, one_output_each()), images, class_names=names)


def test_names_of_classes_do_not_go_with_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class_names go with an iterable"):
        sa.cue_conflict(
            Reads(0, one_output_each()), save_cues(tmp_path / "c.npz", all_pairs()), class_names=NAMES
        )


def test_resnet20_on_real_cue_conflict_images_agrees_with_the_replica(
    shared_data: Path, resnet20: nn.Module
) -> None:
    data = shared_data / "cue_conflict112.npz"
    result = sa.cue_conflict(resnet20, data, groups="labels-cifar10-to-cue-conflict", mean=None)
    assert (result.data.n_available, result.data.n_used) == (660, 115)
    assert (result.left_out.unmapped, result.left_out.same_class) == (526, 19)
    # The arrays say so without any of our code.
    with np.load(data) as arrays:
        seven = [list(arrays["classes"]).index(group.name) for group in result.groups]
        shape, texture = arrays["y_shape"], arrays["y_texture"]
        mapped = np.isin(shape, seven) & np.isin(texture, seven)
        names = [str(name).rpartition("/")[2].rpartition(".")[0] for name in arrays["names"]]
        classes = [str(name) for name in arrays["classes"]]
    assert int((mapped & (shape != texture)).sum()) == 115
    said = [tuple(part.rstrip("0123456789") for part in name.split("-")) for name in names]
    assert said == [(classes[a], classes[b]) for a, b in zip(shape, texture, strict=True)]
    images = [
        (image, int(a), int(b)) for image, a, b in _at_32(data, np.flatnonzero(mapped), shape, texture)
    ]
    normalised = nn.Sequential(_Normalise(), resnet20)
    groups = {group.name: group.outputs for group in result.groups}
    slow = slow_counts(normalised, images, classes, groups)
    slow[""]["unmapped"] = 526
    assert as_counts(result) == slow
    # Told by shape at 32 pixels, where most texture is gone; the note says so.
    assert result.goes_by == "shape"
    assert any("112 x 112 to 32 x 32" in note for note in result.notes)


class _Normalise(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, std = (
            torch.tensor(values)[None, :, None, None]
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        return (pixels - mean) / std


def _at_32(data: Path, rows: np.ndarray, shape: np.ndarray, texture: np.ndarray) -> Any:
    from PIL import Image

    source = np.load(data)["x"]
    for row in rows:
        small = Image.fromarray(source[row]).resize((32, 32), Image.Resampling.BICUBIC)
        yield np.asarray(small), shape[row], texture[row]


def test_the_real_set_is_read_by_its_own_labels(shared_data: Path) -> None:
    """`open_source` refuses it, because it has no `y`; this command takes it."""
    data = shared_data / "cue_conflict112.npz"
    with pytest.raises(DataError, match="no arrays x and y"):
        open_source(str(data))
    with pytest.raises(ModelError, match="2 outputs and the images 16 classes"):
        sa.cue_conflict(conv_model(2, 3), data)
