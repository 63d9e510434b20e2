"""Searches round by round: plans, the map so far, budgets of time, and the same after any stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conv_model, random_images

from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import AuditInterruptedError, SettingsError
from shortcut_audit.measures import MEASURES, interface
from shortcut_audit.measures.interface import Advance, MeasureInRounds, Shard, Work
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import DominantFrequenciesFinding
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.store import read_arrays, read_state
from shortcut_audit.run.audit import estimate_audit, run_audit
from shortcut_audit.run.engines import OnTask, Worker
from shortcut_audit.run.ledger import Ledger
from shortcut_audit.run.plan import Ground, Task, tasks_of, tasks_of_round
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

MEASURE = "dominant_frequencies"
PAIRS = random_images(40, 2, (1, 6, 6))
# Passes of an exact search on one image of each of two classes, at 6 x 6 pixels.
PER_IMAGE = 2 * 21
SO_FAR = ("map-so-far.json", "map-so-far.safetensors")


def request(pairs: Any = PAIRS, **values: Any) -> AuditRequest:
    n_classes = 1 + max(label for _, label in pairs)
    common = {"batch_size": 16, "examples": 0, "search": "exact", "resolution": "orbits"}
    return AuditRequest(
        model=LoadedModel(conv_model(n_classes, 1), "test", "test", None),
        source=source_from(pairs, None),
        settings=settings_from({**common, **values}),
        command="test",
    )


@dataclass
class Paced:
    """An engine by whose clock every pass takes `1 / pace` seconds; stops when it is told to.

    `before(task)` is called before each task that is run.
    """

    pace: float = 1000.0
    before: Callable[[Task], None] = lambda task: None
    ran: list[Task] = field(default_factory=list)

    def __call__(
        self,
        tasks: Sequence[Task],
        worker: Worker,
        ledger: Ledger,
        advance: Advance,
        on_task: OnTask,
    ) -> None:
        for task in tasks:
            self.before(task)
            ledger.put(task.key, worker(task, advance), task.shard.n_passes / self.pace)
            self.ran.append(task)
            on_task(task)

    @property
    def n_search_passes(self) -> int:
        return sum(task.shard.n_passes for task in self.ran if task.measure.name == MEASURE)


def stop_before(n: int) -> Callable[[Task], None]:
    left = [n]

    def before(task: Task) -> None:
        del task
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return before


@pytest.fixture
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of a class in the first layer, so that 20 take five."""
    monkeypatch.setattr(interface, "PASSES_PER_SHARD", 40)


def same(one: AuditResult, other: AuditResult) -> None:
    assert one.findings == other.findings
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


# Plans ---------------------------------------------------------------------------------------------


PLANS = [{}, {"budget": 7 * PER_IMAGE}, {"resolution": "tiles:2x3"}]


def judged(result: AuditResult) -> int:
    """Image passes that the shortcuts took."""
    (passes,) = [c.image_passes for c in result.provenance.cost if c.measure == "shortcuts"]
    return passes


@pytest.mark.parametrize("values", PLANS)
def test_what_is_planned_at_first_is_what_is_done_where_every_null_is_drawn(
    values: dict[str, Any], small_layers: None, tmp_path: Path
) -> None:
    """Progress knows the whole from its first word but for what depends on verdicts."""
    del small_layers
    events: list[tuple[int, int]] = []
    result = run_audit(
        request(**values),
        tmp_path / "run",
        progress=lambda stage, done, total: (
            events.append((done, total)) if stage == "measuring" else None
        ),
    )
    estimate = estimate_audit(request(**values))
    assert {total for done, total in events if done < result.image_passes - judged(result)} == {
        estimate.image_passes
    }
    assert all(done <= total for done, total in events)
    assert [done for done, _ in events] == sorted(done for done, _ in events)
    assert events[-1][0] == result.image_passes
    planned = dict(estimate.passes_by_measure)
    assert planned.pop("shortcuts") > 0
    assert planned == {
        c.measure: c.image_passes for c in result.provenance.cost if c.measure != "shortcuts"
    }
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state["image_passes_done"] == result.image_passes
    assert state["shards_done"] == state["shards_total"]


@pytest.mark.parametrize("values", PLANS)
def test_in_the_end_what_is_planned_is_what_was_done(
    values: dict[str, Any], small_layers: None, tmp_path: Path
) -> None:
    del small_layers
    events: list[tuple[int, int]] = []
    result = run_audit(
        request(**values),
        tmp_path / "run",
        progress=lambda stage, done, total: (
            events.append((done, total)) if stage == "measuring" else None
        ),
    )
    assert events[-1] == (result.image_passes, result.image_passes)
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state["image_passes_done"] == state["image_passes_total"] == result.image_passes


def test_a_budget_of_time_brings_the_total_down_to_what_is_done(tmp_path: Path) -> None:
    events: list[tuple[int, int]] = []
    result = run_audit(
        request(budget="0.4s"),
        tmp_path / "run",
        engine=Paced(),
        progress=lambda stage, done, total: (
            events.append((done, total)) if stage == "measuring" else None
        ),
    )
    assert all(done <= total for done, total in events)
    assert events[0][1] > events[-1][1] == events[-1][0] == result.image_passes


# Keys ----------------------------------------------------------------------------------------------


def the_search() -> MeasureInRounds:
    (measure,) = [m for m in MEASURES if isinstance(m, MeasureInRounds) and m.split == "search"]
    return measure


def keys_of(shards: Callable[[Ground], list[Shard]], **values: Any) -> list[str]:
    asked = request(**values)
    with prepared_audit(asked, None) as prepared:
        subject = prepared.subject
        ground = Ground(subject.outline, subject.images, prepared.model, "cpu")
        tasks = tasks_of_round(the_search(), shards(ground), ground)
        maps = {f"{MEASURE}/kept": np.zeros((2, ground.outline.grid.n_orbits), dtype=bool)}
        others = [task for split in ("search", "judge") for task in tasks_of(split, ground, maps)]
        keys = [task.key for task in (*tasks, *others)]
        assert len(set(keys)) == len(keys)
        return [task.key for task in tasks]


def first_round(ground: Ground) -> list[Shard]:
    return list(next(the_search().rounds(ground.outline, ground.images, {})).shards)


def test_keys_know_what_changes_a_number_and_nothing_else(small_layers: None) -> None:
    del small_layers
    plain = keys_of(first_round)
    for same_numbers in (
        {"budget": 10 * PER_IMAGE},
        {"kept_share": 0.3},
        {"response": "cross-entropy"},
        {"confidence": 0.8},
        {"classes": ("0", "1")},
        {"resolution": "auto"},
    ):
        assert keys_of(first_round, **same_numbers) == plain, same_numbers
    for others in ({"resolution": "tiles:2x3"}, {"resolution": "patches:1"}, {"clip": True}, {"seed": 1}):
        assert not set(keys_of(first_round, **others)) & set(plain), others

    def exact_shards(ground: Ground) -> list[Shard]:
        return first_round(replace(ground, outline=replace(ground.outline, search="exact")))

    assert not set(keys_of(exact_shards, search="screened")) & set(plain)


def test_what_a_search_asks_of_the_images_is_part_of_the_key() -> None:
    def with_work(*works: Work | None) -> Callable[[Ground], list[Shard]]:
        return lambda ground: [replace(first_round(ground)[0], work=work) for work in works]

    units = np.arange(5)
    works = (
        None,
        Work("probes", {"units": units}),
        Work("probes", {"units": units + 1}),
        Work("probes", {"units": units.astype(np.int32)}),
        Work("probes", {"units": units.reshape(1, 5)}),
        Work("probes", {"orbits": units}),
        Work("masks", {"units": units}),
    )
    assert len(keys_of(with_work(*works))) == len(works)

    def slices(ground: Ground) -> list[Shard]:
        return [replace(first_round(ground)[0], orbits=orbits) for orbits in ((0, 20), (0, 7), (7, 20))]

    assert len(keys_of(slices)) == 3
    again = Work("probes", {"units": np.arange(10)[::2] // 2})
    assert keys_of(with_work(again)) == keys_of(with_work(works[1]))


# The map so far ------------------------------------------------------------------------------------


def test_a_map_so_far_lies_in_the_folder_while_the_search_runs(
    small_layers: None, tmp_path: Path
) -> None:
    """After each layer it is the map that a budget of just these images would give."""
    del small_layers
    run, seen = tmp_path / "run", {}

    def look(task: Task) -> None:
        there = [(run / name).is_file() for name in SO_FAR]
        assert len(set(there)) == 1
        if there[0] and task.measure.name == MEASURE:
            finding = DominantFrequenciesFinding.model_validate_json((run / SO_FAR[0]).read_text())
            seen[finding.by_class[0].n_search] = finding, read_arrays(run / SO_FAR[1])[0]
        elif task.measure.name not in (MEASURE, "shortcuts") and task.shard.split == "search":
            assert not there[0]

    result = run_audit(request(), run, engine=Paced(before=look))
    assert list(seen) == [2, 4, 8, 16]
    assert not [name for name in SO_FAR if (run / name).exists()]
    for n, (finding, arrays) in seen.items():
        assert finding.image_passes == n * PER_IMAGE
        enough = run_audit(request(budget=n * PER_IMAGE))
        expected = enough.dominant_frequencies
        assert finding.by_class == expected.by_class
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, enough.arrays[name])
    assert result.dominant_frequencies.by_class[0].n_search == 20


def test_an_interrupted_run_keeps_its_map_and_the_next_one_does_not_find_it_too_early(
    small_layers: None, tmp_path: Path
) -> None:
    del small_layers
    run = tmp_path / "run"

    def stop_in_second_layer(task: Task) -> None:
        del task
        if (run / SO_FAR[0]).exists():
            raise KeyboardInterrupt

    with pytest.raises(AuditInterruptedError):
        run_audit(request(), run, engine=Paced(before=stop_in_second_layer))
    kept = json.loads((run / SO_FAR[0]).read_text())
    assert kept["by_class"][0]["n_search"] == 2
    assert read_arrays(run / SO_FAR[1])[0][f"{MEASURE}/rank"].shape == (2, 20)
    assert not (run / "result.json").exists()
    state = read_state(run)
    assert state is not None
    assert state["state"] == "interrupted"
    # Another audit in the same folder must not be taken for the one that left this map.
    found: list[bool] = []
    changed = request(clip=True)
    run_audit(changed, run, engine=Paced(before=lambda task: found.append((run / SO_FAR[0]).exists())))
    assert found[0] is False
    assert not (run / SO_FAR[0]).exists()


# Stopped and resumed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, {"budget": 9 * PER_IMAGE}, {"budget": "0.4s"}], ids=str)
def test_stopped_anywhere_it_ends_as_if_it_had_never_been(
    values: dict[str, Any], small_layers: None, tmp_path: Path
) -> None:
    del small_layers
    whole_engine = Paced()
    whole = run_audit(request(**values), tmp_path / "whole", engine=whole_engine)
    n_tasks = len(whole_engine.ran)
    for n in range(5, n_tasks, n_tasks // 2):
        run, engine = tmp_path / f"after {n}", Paced(before=stop_before(n))
        with pytest.raises(AuditInterruptedError):
            run_audit(request(**values), run, engine=engine)
        rest = Paced()
        same(run_audit(request(**values), run, engine=rest), whole)
        assert [task.key for task in (*engine.ran, *rest.ran)] == [task.key for task in whole_engine.ran]


# Every third shard of those that judge, and the last.
def judgement_stops(ran: Sequence[Task]) -> list[int]:
    places = [place for place, task in enumerate(ran) if task.measure.name == "shortcuts"]
    return sorted({*places[::3], places[-1]})


def test_stopped_while_images_are_judged_it_ends_as_if_it_had_never_been(tmp_path: Path) -> None:
    pairs = random_images(12, 3, (1, 6, 6))
    asked = {"pairs": pairs, "examples": 3}
    whole_engine = Paced()
    whole = run_audit(request(**asked), tmp_path / "whole", engine=whole_engine)
    written = (tmp_path / "whole" / "arrays.safetensors").read_bytes()
    stops = judgement_stops(whole_engine.ran)
    # Energies and maps, effects, nulls, more images of open classes: all are stopped in.
    assert len(stops) >= 4
    kinds = {t.shard.work.kind for t in whole_engine.ran if t.shard.work is not None}
    assert {"energy", "kept maps", "trials"} <= kinds
    for n in stops:
        run, engine = tmp_path / f"after {n}", Paced(before=stop_before(n))
        with pytest.raises(AuditInterruptedError):
            run_audit(request(**asked), run, engine=engine)
        assert not (run / "result.json").exists()
        rest = Paced()
        same(run_audit(request(**asked), run, engine=rest), whole)
        assert [task.key for task in (*engine.ran, *rest.ran)] == [task.key for task in whole_engine.ran]
        assert (run / "arrays.safetensors").read_bytes() == written


def test_a_resumed_search_goes_by_the_pace_that_was_recorded(tmp_path: Path) -> None:
    """The first machine made 1,000 passes a second: 0.4 s are 9 images, however fast the second is."""
    asked, run = request(budget="0.4s"), tmp_path / "run"
    first = run_audit(asked, run, engine=Paced(pace=1000))
    assert [own.n_search for own in first.dominant_frequencies.by_class] == [9, 9]
    assert first.dominant_frequencies.stopped == (
        f"the budget of 0.4 s ended it after {9 * PER_IMAGE} of {20 * PER_IMAGE} image passes"
    )
    again = Paced(pace=1e6)
    same(run_audit(asked, run, engine=again), first)
    assert again.ran == []
    fast = run_audit(asked, engine=Paced(pace=1e6))
    assert [own.n_search for own in fast.dominant_frequencies.by_class] == [20, 20]
    assert fast.dominant_frequencies.stopped == ""


@pytest.mark.parametrize("order", ["passes", "time"])
def test_a_larger_budget_goes_on_from_the_smaller_one(
    order: str, small_layers: None, tmp_path: Path
) -> None:
    del small_layers
    few, many = ("0.2s", "0.8s") if order == "time" else (4 * PER_IMAGE, 16 * PER_IMAGE)
    engine = Paced()
    run_audit(request(budget=few), tmp_path / "run", engine=engine)
    spent = engine.n_search_passes
    more = Paced()
    grown = run_audit(request(budget=many), tmp_path / "run", engine=more)
    fresh = Paced()
    same(run_audit(request(budget=many), engine=fresh), grown)
    assert spent > 0
    assert more.n_search_passes == fresh.n_search_passes - spent


def test_a_budget_that_is_too_small_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    asked = request(budget=2 * PER_IMAGE - 1)
    for act in (
        lambda: run_audit(asked, tmp_path / "run", engine=Paced(before=stop_before(0))),
        lambda: estimate_audit(asked),
    ):
        with pytest.raises(SettingsError, match="less than two images a class") as caught:
            act()
        assert f"--budget {2 * PER_IMAGE} or more" in caught.value.next_step
    assert not (tmp_path / "run").exists()
    found = run_audit(request(budget=2 * PER_IMAGE)).dominant_frequencies
    assert (found.image_passes, [own.n_search for own in found.by_class]) == (2 * PER_IMAGE, [2, 2])


def test_time_that_is_too_short_is_refused_with_what_is_done_kept(tmp_path: Path) -> None:
    run, engine = tmp_path / "run", Paced(pace=100)
    with pytest.raises(SettingsError, match="less than two images a class"):
        run_audit(request(budget="0.1s"), run, engine=engine)
    assert engine.n_search_passes == PER_IMAGE
    state = read_state(run)
    assert state is not None
    assert (state["state"], "two images" in state["reason"]) == ("failed", True)
    rest = Paced(pace=100)
    run_audit(request(budget="1h"), run, engine=rest)
    assert rest.n_search_passes == 19 * PER_IMAGE
