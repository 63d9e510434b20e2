"""Maps of one model judged on another: equal to an audit where they should be, refused where not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.datasets import source_from
from shortcut_audit.data.label_maps import ClassSet, Drops, LabelMap
from shortcut_audit.errors import (
    AuditError,
    AuditInterruptedError,
    DataError,
    ResultError,
    RunFolderError,
    SettingsError,
)
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.model_transfer import JudgedMaps, ModelTransferResult, load_transfer
from shortcut_audit.run.engines.local import run_local
from shortcut_audit.run.judged_maps import planned_judgement
from shortcut_audit.run.model_transfer import (
    TransferRequest,
    estimate_transfer,
    load_runs,
    named_runs,
    run_transfer,
)
from shortcut_audit.run.other_models import OtherModel

NAMES = ["wavy", "rippled", "plain"]
SIZE, WAVES, AMPLITUDE = 16, ((3, 4), (5, -2)), 10 / 255
Pairs = list[tuple[np.ndarray, int]]


def wave(number: int, phase: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    u, v = WAVES[number]
    return np.cos(2 * np.pi * (u * y + v * x) / SIZE + phase)


class Reads(nn.Module):
    """Outputs 0 and 1 where their waves are strong, or output 1 by brightness; else output 2."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.both = both
        waves = np.stack([wave(0), wave(1)]).reshape(2, -1)
        self.register_buffer("waves", torch.from_numpy(waves))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(1)
        strength = pixels @ self.waves.to(x.dtype).T - AMPLITUDE * SIZE * SIZE / 4
        second = strength[:, 1] if self.both else 10 * (pixels.mean(dim=1) - 137 / 255)
        return torch.stack([strength[:, 0], second, torch.zeros_like(second)], dim=1)


def planted(n_per_class: int, seed: int = 0, labels: Sequence[int] = (0, 1, 2)) -> Pairs:
    """Noise; classes 0 and 1 with a wave each, class 1 brighter too."""
    generator = np.random.default_rng(seed)
    pairs = []
    for label in labels:
        for _ in range(n_per_class):
            image = 127 + 30 * generator.standard_normal((1, SIZE, SIZE)) + 20 * (label == 1)
            if label < 2:
                image = image + 255 * AMPLITUDE * wave(label)
            pairs.append((image.clip(0, 255).astype(np.uint8), label))
    return pairs


def audited(network: nn.Module, pairs: Pairs, names: list[str] = NAMES, **more: Any) -> AuditResult:
    settings = {"dtype": "float64", "batch_size": 64, "search": "exact", "resolution": "orbits"}
    return sa.audit(network, pairs, class_names=names, **{**settings, **more})


def other(network: nn.Module, name: str = "other", **more: Any) -> OtherModel:
    return OtherModel(name=name, model=LoadedModel(network, "spec", "net", None), **more)


def request(
    result: AuditResult, network: nn.Module, pairs: Pairs, names: list[str] = NAMES, **more: Any
) -> TransferRequest:
    changes = {"batch_size": 64, **more.pop("changes", {})}
    model = other(network, **{k: more.pop(k) for k in ("size", "output_names", "mean") if k in more})
    return TransferRequest(
        runs=named_runs([("here", result)]),
        command="test",
        others=[model],
        source=source_from(pairs, names),
        changes=changes,
        **more,
    )


def judged(*given: Any, **more: Any) -> JudgedMaps:
    return run_transfer(request(*given, **more)).judged[0]


@pytest.fixture(scope="module")
def both() -> AuditResult:
    """The audit of the model that reads both waves."""
    return audited(Reads(both=True), planted(60))


def test_a_shortcut_of_both_travels_and_one_of_the_first_alone_stays_behind(both: AuditResult) -> None:
    assert [item.verdict for item in both.shortcuts.by_class] == ["shortcut", "shortcut", "no shortcut"]
    found = judged(both, Reads(both=False), planted(60))
    assert [item.outcome for item in found.by_class] == ["travels", "stays behind", "neither"]
    wavy, rippled, _ = found.by_class
    assert wavy.there.extent is not None
    assert wavy.there.extent.orbits == (WAVES[0],)
    assert wavy.same_rung is not None
    assert wavy.same_rung.flip_rate > 0.5
    assert rippled.same_rung is not None
    assert abs(rippled.same_rung.flip_rate) < 0.1
    assert (found.n_travelling, len(found.shortcuts)) == (1, 2)
    turned = [item.there.best.flip_rate for item in (wavy, rippled) if item.there.best]
    assert found.turned == pytest.approx(np.mean(turned))
    assert found.images == "the same split"
    assert found.notes == ()


class Contrasted(nn.Module):
    """Random weights, and a liking of output 1 for pixels out of their range, as filtering makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model(3, 1, seed=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.inner(x)
        outside = (x - x.clamp(0, 1)).abs().mean(dim=(1, 2, 3))
        return answer + torch.stack([torch.zeros_like(outside), 9 * outside, 0 * outside], dim=1)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"dc": "rank", "response": "cross-entropy"},
        {"domain": "normalized", "dc": "drop", "clip": True, "seed": 5, "search_share": 0.4},
        {"images_per_class": 12, "resolution": "patches:2", "kept_share": 0.3},
    ],
)
def test_on_its_own_model_and_images_a_run_gets_its_own_counts(more: dict[str, Any]) -> None:
    network, pairs = Contrasted(), random_images(16, 3, (1, 8, 7))
    result = audited(network, pairs, **more)
    found = judged(result, network, pairs)
    assert found.images == "the same split"
    assert any("the run's own model once more" in note for note in found.notes)
    names = [item.class_name for item in found.by_class]
    assert names == [item.class_name for item in result.shortcuts.by_class]
    left_out = {"example", "example_predictions", "example_steps", "evidence"}
    for item, own in zip(found.by_class, result.shortcuts.by_class, strict=True):
        assert own.ladder
        assert item.there.model_dump(exclude=left_out) == own.model_dump(exclude=left_out)
        assert item.here.model_dump(exclude=left_out) == own.model_dump(exclude=left_out)
        assert item.here.example is None


def test_settings_that_say_what_maps_mean_are_the_runs(both: AuditResult) -> None:
    unusual = {
        "images_per_class": 20,
        "search_share": 0.4,
        "kept_share": 0.3,
        "response": "cross-entropy",
        "resolution": "patches:2",
        "dc": "rank",
        "domain": "normalized",
        "clip": True,
        "seed": 5,
        "dtype": "float64",
        "skip_unreadable": True,
    }
    own = both.model_settings.model_copy(update={**unusual, "search": "learned", "examples": 7})
    result = both.model_copy(update={"settings": own})
    source = source_from(planted(20), NAMES)
    network = other(Reads(both=False))
    taken = planned_judgement("here", result, network, source, None, "test", {}).request.settings
    assert taken.model_dump(include=set(unusual)) == unusual
    # What is not judged by is not taken.
    assert (taken.search, taken.budget, taken.examples) == ("exact", None, 0)
    changed = {"dtype": "float32", "images_per_class": 12, "batch_size": 9, "device": "cpu"}
    taken = planned_judgement("here", result, network, source, None, "test", changed).request.settings
    assert taken.model_dump(include=set(changed)) == changed


def test_only_the_judgement_is_paid_for(both: AuditResult) -> None:
    asked = request(both, Reads(both=False), planted(60))
    (estimate,) = estimate_transfer(asked)
    found = run_transfer(asked).judged[0]
    assert [cost.measure for cost in found.provenance.cost] == ["shortcuts"]
    assert found.image_passes <= estimate.image_passes
    own = {cost.measure: cost.image_passes for cost in both.provenance.cost}
    assert found.image_passes < own["dominant_frequencies"]
    assert (estimate.n_classes, estimate.n_images) == (3, 180)


def test_classes_go_by_name_whatever_their_order(both: AuditResult) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Reads(both=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.inner(x)[:, [2, 0, 1]]
            return answer

    pairs = [(image, (label + 1) % 3) for image, label in planted(60)]
    found = judged(both, Turned(), pairs, ["plain", "wavy", "rippled"])
    by_name = {item.class_name: item.outcome for item in found.by_class}
    assert by_name == {"wavy": "travels", "rippled": "stays behind", "plain": "neither"}
    # Labels number the draws: these are other halves of the same images.
    assert found.images == "the same set"
    assert any("may have seen" in note for note in found.notes)


def test_classes_that_the_images_lack_are_dropped_and_others_serve_as_foreign(both: AuditResult) -> None:
    pairs = [(image, {0: 0, 2: 1}[label]) for image, label in planted(30, 5, (0, 2))]
    network = nn.Sequential(Reads(both=False), Columns([0, 2]))
    found = judged(both, network, pairs, ["wavy", "new"])
    assert [(item.class_name, item.outcome) for item in found.by_class] == [("wavy", "travels")]
    told = {(item.side, item.class_name): item.reason for item in found.dropped}
    assert "no class" in told["Reads", "rippled"]
    assert ("Reads", "plain") in told
    assert "serve as those of another class" in told["list", "new"]


class Columns(nn.Module):
    def __init__(self, columns: list[int]) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.columns]


def test_classes_without_an_output_are_left_out_with_their_images(both: AuditResult) -> None:
    network = nn.Sequential(Reads(both=False), Columns([2, 0]))
    found = judged(both, network, planted(60), output_names=["plain", "wavy"])
    assert {item.class_name: item.outcome for item in found.by_class} == {
        "wavy": "travels",
        "plain": "neither",
    }
    assert found.provenance.data.n_used == 120
    told = {(item.side, item.class_name): item.reason for item in found.dropped}
    assert told["Reads", "rippled"] == told["list", "rippled"] == "other has no output of that name"
    # The images that are left are in the split of the run.
    assert found.images == "the same set"


def test_a_label_map_says_which_classes_are_the_same(both: AuditResult) -> None:
    classes = LabelMap(
        protocol="By hand.",
        source=ClassSet(name="run", classes=tuple(NAMES)),
        target=ClassSet(name="images", classes=("W", "R", "P")),
        map={"wavy": ("W",), "plain": ("P",)},
        dropped=Drops(source={"rippled": "not wanted"}, target={"R": "nor this"}),
    )
    found = judged(both, Reads(both=False), planted(60), ["W", "R", "P"], label_map=classes)
    assert [(i.class_name, i.data_class, i.outcome) for i in found.by_class] == [
        ("wavy", "W", "travels"),
        ("plain", "P", "neither"),
    ]
    told = {(item.side, item.class_name): item.reason for item in found.dropped}
    assert told["Reads", "rippled"] == "not wanted"
    assert any("By hand." in note for note in found.notes)


def test_names_that_differ_in_case_are_told(both: AuditResult) -> None:
    found = judged(both, Reads(both=False), planted(60), ["Wavy", "rippled", "plain"])
    assert found.by_class[0].data_class == "Wavy"
    assert found.images == "the same split"
    assert any("'wavy' is 'Wavy'" in note for note in found.notes)


def test_other_images_are_noted_and_judged(both: AuditResult) -> None:
    asked = request(both, Reads(both=False), planted(30, seed=9))
    source = source_from(planted(30, seed=9), NAMES, spec="elsewhere")
    found = run_transfer(
        TransferRequest(
            runs=asked.runs, command="test", others=asked.others, source=source, changes=asked.changes
        )
    ).judged[0]
    assert found.images == "other images"
    assert any("a difference may be for the images" in note for note in found.notes)
    assert found.by_class[0].outcome == "travels"


def test_a_model_no_better_than_chance_is_noted(both: AuditResult) -> None:
    found = judged(both, conv_model(3, 1), planted(30))
    assert any("does not show it to be better than chance" in note for note in found.notes)


def many_to_one() -> LabelMap:
    return LabelMap(
        protocol="Two for one.",
        source=ClassSet(name="run", classes=tuple(NAMES)),
        target=ClassSet(name="images", classes=tuple(NAMES)),
        map={"wavy": ("wavy", "rippled"), "plain": ("plain",)},
        dropped=Drops(source={"rippled": "none"}),
    )


def test_of_two_classes_for_one_the_model_may_answer_with_one_only(both: AuditResult) -> None:
    network = nn.Sequential(Reads(both=False), Columns([0, 2]))
    found = judged(both, network, planted(60), output_names=["wavy", "plain"], label_map=many_to_one())
    assert {item.class_name: item.outcome for item in found.by_class} == {
        "wavy": "travels",
        "plain": "neither",
    }
    told = {(item.side, item.class_name): item.reason for item in found.dropped}
    assert told["list", "rippled"] == "other has no output of that name"


def test_an_output_that_is_missing_under_another_name_is_named(both: AuditResult) -> None:
    crossed = many_to_one().model_copy(
        update={"map": {"wavy": ("rippled",), "rippled": ("wavy",), "plain": ("plain",)}}
    )
    network = nn.Sequential(Reads(both=False), Columns([2, 0]))
    found = judged(both, network, planted(60), output_names=["plain", "wavy"], label_map=crossed)
    assert {item.class_name for item in found.by_class} == {"plain", "rippled"}
    told = {(item.side, item.class_name): item.reason for item in found.dropped}
    assert told["Reads", "wavy"] == "other has no output 'rippled'"


@pytest.mark.parametrize(
    ("more", "error", "told"),
    [
        ({"pairs": random_images(8, 3, (1, 12, 16))}, SettingsError, r"12 x 16 pixels.*--size 16x16"),
        ({"names": ["x", "y", "z"]}, DataError, "has the same name.*label map"),
        (
            {"label_map": many_to_one()},
            SettingsError,
            "2 classes of list stand for 'wavy': .* output for each of them \\('wavy', 'rippled'\\)",
        ),
        ({"names": ["wavy", "rippled", "q"], "label_map": many_to_one()}, DataError, "does not know"),
        ({"output_names": ["q", "r", "s"]}, DataError, "no output for any class"),
        ({"output_names": ["wavy", "rippled"]}, AuditError, "the list of output names has 2"),
        ({"changes": {"images_per_class": 2}}, SettingsError, "images_per_class"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    both: AuditResult, more: dict[str, Any], error: type[AuditError], told: str, tmp_path: Path
) -> None:
    more = dict(more)
    pairs, names = more.pop("pairs", planted(20)), more.pop("names", NAMES)
    out = tmp_path / "out"
    with pytest.raises(error, match=f"(?s){told}"):
        run_transfer(request(both, Reads(both=False), pairs, names, **more), out)
    assert not out.exists()


def test_what_there_is_nothing_to_compare_with_is_refused(both: AuditResult, tmp_path: Path) -> None:
    runs = named_runs([("here", both)])
    with pytest.raises(SettingsError, match="One run alone"):
        run_transfer(TransferRequest(runs=runs, command="test"))
    with pytest.raises(SettingsError, match="none are given"):
        run_transfer(TransferRequest(runs=runs, command="test", others=[other(Reads(both=True))]))
    images = source_from(planted(4), NAMES)
    with pytest.raises(SettingsError, match="no model to judge on"):
        run_transfer(TransferRequest(runs=runs, command="test", source=images))
    with pytest.raises(SettingsError, match="search is no setting of a transfer"):
        sa.transfer([both, both], search="exact")
    both.save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds an audit"):
        run_transfer(request(both, Reads(both=False), planted(20)), tmp_path / "run")
    with pytest.raises(ResultError, match="named twice"):
        load_runs([tmp_path / "run", tmp_path / "." / "run"])
    with pytest.raises(ResultError, match="holds no audit"):
        load_runs([tmp_path])


def test_an_audit_of_data_alone_and_a_transfer_are_no_runs(both: AuditResult, tmp_path: Path) -> None:
    data = both.model_copy(update={"provenance": both.provenance.model_copy(update={"model": None})})
    with pytest.raises(ResultError, match="audit of data alone"):
        named_runs([("x", data)])
    run_transfer(request(both, Reads(both=False), planted(20)), tmp_path)
    with pytest.raises(ResultError, match="holds what a transfer found"):
        load_runs([tmp_path])


# Killed equals uninterrupted --------------------------------------------------------------------------


def content(folder: Path) -> tuple[dict[str, Any], bytes]:
    numbers = json.loads((folder / "transfer.json").read_text())
    numbers.pop("timing")
    return numbers, (folder / "transfer-classes.csv").read_bytes()


def test_stopped_and_resumed_gives_the_same_bytes(both: AuditResult, tmp_path: Path) -> None:
    asked = request(both, Reads(both=False), planted(60))
    run_transfer(asked, tmp_path / "whole")
    ran: list[str] = []

    def stopping(tasks: Any, worker: Any, ledger: Any, advance: Any, on_task: Any) -> None:
        for task in tasks:
            if len(ran) == 4:
                raise KeyboardInterrupt
            ran.append(task.key)
            run_local([task], worker, ledger, advance, on_task)

    out = tmp_path / "out"
    with pytest.raises(AuditInterruptedError, match="4 parts done"):
        run_transfer(asked, out, engine=stopping)
    assert json.loads((out / "run.json").read_text())["state"] == "interrupted"
    assert not (out / "transfer.json").exists()
    again: list[str] = []

    def counting(tasks: Any, worker: Any, ledger: Any, advance: Any, on_task: Any) -> None:
        again.extend(task.key for task in tasks)
        run_local(tasks, worker, ledger, advance, on_task)

    run_transfer(asked, out, engine=counting)
    assert content(out) == content(tmp_path / "whole")
    assert again
    assert not set(again) & set(ran)
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
    again.clear()
    run_transfer(asked, out, engine=counting)
    assert again == []


def test_stopped_before_anything_is_done_leaves_nothing(both: AuditResult, tmp_path: Path) -> None:
    def stopping(*given: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "deep" / "out"
    with pytest.raises(AuditInterruptedError, match="nothing was kept"):
        run_transfer(request(both, Reads(both=False), planted(20)), out, engine=stopping)
    assert not (tmp_path / "deep").exists()


KILLED = """
import os, shortcut_audit as sa
from shortcut_audit.run import ledger
from test_judged_maps import NAMES, Reads, planted

keep, n_kept = ledger.Ledger.put, 0

def put(self, *given):
    global n_kept
    keep(self, *given)
    n_kept += 1
    if n_kept == 3:
        os._exit(9)

ledger.Ledger.put = put
models = dict(other=Reads(both=False))
sa.transfer(["run"], models, planted(20), class_names=NAMES, out="out", batch_size=64)
"""


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    audited(Reads(both=True), planted(20)).save("run")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert killed.returncode == 9
    assert len(list(Path("out", "shards").glob("*.safetensors"))) == 3
    for out in ("out", "whole"):
        models = {"other": Reads(both=False)}
        sa.transfer(["run"], models, planted(20), class_names=NAMES, out=out, batch_size=64)
    assert content(Path("out")) == content(Path("whole"))


# The library's call, and several at once ------------------------------------------------------------


def test_runs_and_models_make_two_matrices(both: AuditResult, tmp_path: Path) -> None:
    single = audited(Reads(both=False), planted(60))
    found = sa.transfer(
        [both, single],
        {"two": Reads(both=True), "one": Reads(both=False)},
        planted(60),
        class_names=NAMES,
        out=tmp_path / "out",
        batch_size=64,
    )
    assert [(item.run, item.model) for item in found.judged] == [
        (run.name, model) for run in found.runs for model in ("two", "one")
    ]
    assert [run.name for run in found.runs] == ["Reads (run 1)", "Reads (run 2)"]
    turned = found.turned_matrix()
    assert turned[0][0] == pytest.approx(found.judged[0].turned_here)
    assert turned[0][1] < turned[0][0]
    assert turned[1][1] == pytest.approx(found.judged[3].turned_here)
    matrix = found.agreement_matrix()
    assert matrix[0][1] == matrix[1][0] == found.agreements[0].rank_correlation
    assert matrix[0][0] == pytest.approx(np.mean(found.runs[0].reliability))
    back: ModelTransferResult = load_transfer(tmp_path / "out")
    assert back == found
    turned_round = sa.transfer([single, both])
    assert turned_round.agreement_matrix()[0][1] == matrix[0][1]


class Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) / 0.25


@pytest.mark.slow
def test_among_trained_networks_the_plant_that_both_use_travels() -> None:
    """Two small networks: both learnt the first wave, only one of them the second."""
    from shortcut_audit.models.small import small_cnn

    def trained(seed: int, *, second: str) -> nn.Module:
        torch.manual_seed(seed)
        network = nn.Sequential(Centred(), small_cnn(3, 1, width=8))
        pairs = planted(150, seed=seed + 50)
        # What the network is to learn class 1 by is all that this class has.
        images = np.stack([image for image, _ in pairs]).astype(np.float32) / 255
        labels = torch.tensor([label for _, label in pairs])
        own = labels.numpy() == 1
        images[own] -= 20 / 255 if second == "wave" else (AMPLITUDE * wave(1)).astype(np.float32)
        pixels = torch.from_numpy(images)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(12):
            for rows in torch.randperm(len(pixels)).split(32):
                optimizer.zero_grad()
                answer = network(pixels[rows])
                nn.functional.cross_entropy(answer, labels[rows]).backward()
                optimizer.step()
        return network.eval()

    first, second = trained(0, second="wave"), trained(1, second="brightness")
    pairs = planted(120, seed=7)
    result = audited(first, pairs, images_per_class=120, dtype="float32")
    assert [item.verdict for item in result.shortcuts.by_class[:2]] == ["shortcut", "shortcut"]
    found = judged(result, second, pairs)
    assert {item.class_name: item.outcome for item in found.by_class[:2]} == {
        "wavy": "travels",
        "rippled": "stays behind",
    }
