"""The self-test: its truth against a model that is known to flip, its cases, and a run that is killed."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shortcut_audit.data.plans import Plan
from shortcut_audit.data.planting import plant
from shortcut_audit.errors import AuditInterruptedError, DataError, RunFolderError, SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import half_plane_mask
from shortcut_audit.results.counts import Rate
from shortcut_audit.results.selftest import CaseOutcome
from shortcut_audit.run import selftest as module
from shortcut_audit.run.selftest import SelfTestRequest, run_selftest, turned_by_planted
from shortcut_audit.run.selftest_cases import (
    ARCHITECTURES,
    Amounts,
    Case,
    Shapes,
    describe,
    full_cases,
    opened_images,
    quick_cases,
)

NAMES = ("a", "b", "c", "d", "e")
TINY = Amounts(n_train=24, n_test=16, epochs=1)


def tiny(**more: object) -> SelfTestRequest:
    return SelfTestRequest(size=(12, 12), amounts=TINY, **more)  # type: ignore[arg-type]


# The truth.


def wave_detector(height: int, width: int, u: int, v: int) -> torch.nn.Module:
    """Answers 1 where the wave (u, v) has an amplitude above 4/255 in the first channel, else 0."""

    class Detector(torch.nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            coefficient = torch.fft.fft2(pixels[:, 0])[:, u % height, v % width]
            amplitude = 2 * coefficient.abs() / (height * width) * 255
            return torch.stack([4 - amplitude, amplitude - 4], dim=1)

    return Detector()


@pytest.mark.parametrize(("height", "width"), [(12, 12), (11, 14)])
def test_truth_is_what_a_model_that_reads_one_wave_does(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    grid = FrequencyGrid(height, width)
    y, x = np.mgrid[0:height, 0:width]
    plain = 0.5 + 0.001 * generator.standard_normal((300, 1, height, width))
    wave = 8 / 255 * np.cos(2 * np.pi * (3 * y / height + 2 * x / width))
    receivers = torch.from_numpy(plain).float()
    donors = torch.from_numpy(plain[::-1] + wave).float()
    detector = wave_detector(height, width, 3, 2)
    # A tenth of the receivers carry the wave themselves: they are called so before.
    receivers[:30] += torch.from_numpy(wave).float()
    orbits = np.arange(grid.n_orbits)

    def turned(*chosen: int) -> tuple[float, int]:
        mask = half_plane_mask(grid, np.isin(orbits, chosen))
        found = turned_by_planted(detector, donors, receivers, mask, 1)
        return found.difference, found.both

    assert turned(grid.orbit_of(3, 2)) == (pytest.approx(0.9), 30)
    assert turned(grid.orbit_of(2, 3)) == (0.0, 30)
    assert turned(*orbits) == (pytest.approx(0.9), 30)
    # The other way round, it is the lack of the wave that tells.
    mask = half_plane_mask(grid, orbits == grid.orbit_of(3, 2))
    lack = turned_by_planted(detector, receivers[30:], donors[30:], mask, 0)
    assert lack.difference == 1.0


# The cases.


def test_quick_cases_have_plants_a_neighbourhood_a_clean_model_and_controls() -> None:
    cases = quick_cases(NAMES, 7, model=None, size=None)
    assert [len(case.planted) for case in cases] == [4, 1, 0, 3]
    # Only where nothing but plants is to be learnt is it learnt sooner.
    assert [case.effort for case in cases] == [1.5, 1.5, 1.0, 1.0]
    assert quick_cases(NAMES[:4], 7, model=None, size=None)[0].effort < 1
    assert len({case.seed for case in cases}) == 4
    carriers = [entry.classes for entry in cases[0].planted]
    assert len(set(carriers)) == 4
    assert {entry.kind for entry in cases[3].planted} == {"cosines", "cast", "contrast"}


def test_full_cases_hold_every_kind_at_three_strengths_on_every_architecture() -> None:
    cases = full_cases(NAMES[:4], 0, model=None, size=None)
    strengths: dict[str, set[float]] = {}
    for case in cases:
        for entry in case.planted:
            if entry.kind not in ("cast", "contrast") and entry.classes != "all":
                strengths.setdefault(describe(entry), set()).add(entry.strength)
    kinds = ("cosines, random phase", "cosines, fixed phase", "texture, random phase", "block grid")
    assert all(len(strengths[kind]) == 3 for kind in (*kinds, "checkerboard", "shading"))
    assert {case.model for case in cases} == set(ARCHITECTURES)
    assert {case.structure for case in cases} == {"", "random labels", "random weights"}
    assert any(case.size[0] % 2 and case.size[0] != case.size[1] for case in cases)
    planted = [name for case in cases for entry in case.planted for name in entry.classes]
    assert set(NAMES[:4]) <= set(planted)
    assert len({(case.name, case.model, case.size, case.seed) for case in cases}) == len(cases)


@pytest.mark.parametrize("size", [(32, 32), (12, 12), (13, 29), (28, 28), (64, 48)])
@pytest.mark.parametrize("form", [quick_cases, full_cases])
def test_every_plan_fits_every_size(form: object, size: tuple[int, int], tmp_path: Path) -> None:
    images = opened_images(None, size, 0)
    planted = []
    for case in form(images.class_names, 0, model="m", size=size):  # type: ignore[operator]
        if case.planted and case.planted not in planted:
            planted.append(case.planted)
            module._planted(case, images, Amounts(n_train=2, n_test=4, epochs=1), tmp_path)
            for each in ("plain", "planted"):
                (tmp_path / each).rename(tmp_path / f"{each}-{len(planted)}")
    assert planted


def test_two_classes_are_too_few() -> None:
    with pytest.raises(SettingsError, match="too few"):
        quick_cases(("a", "b"), 0, model=None, size=None)


# Images.


def save(path: Path, n: int, splits: tuple[str, ...], n_classes: int = 12, size: int = 10) -> str:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(n_classes), n)
    arrays = {}
    for split in splits:
        # The first pixel says which image it is.
        images = generator.integers(0, 256, (len(labels), size, size, 3)).astype(np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, np.tile(np.arange(n), n_classes)
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    names = np.array([f"class {number}" for number in range(n_classes)])
    np.savez(path, classes=names, **arrays)
    return str(path)


def test_own_images_keep_their_size_labels_and_splits(tmp_path: Path) -> None:
    data = save(tmp_path / "own.npz", 40, ("train", "test"))
    images = opened_images(data, None, 3)
    assert images.size == (10, 10)
    assert len(images.class_names) == 10
    case = Case(name="", model="", size=(10, 10), seed=1)
    for split, n in (("train", 7), ("test", 50)):
        pixels, labels = images.split(split, n, case)
        assert np.bincount(labels).tolist() == [min(n, 40)] * 10
        told = [images.class_names[label] for label in labels]
        assert told == [f"class {number}" for number in pixels[:, 0, 0, 0]]


def test_a_set_without_splits_is_divided(tmp_path: Path) -> None:
    images = opened_images(save(tmp_path / "own.npz", 70, ("all",), 4), None, 0)
    case = Case(name="", model="", size=(10, 10), seed=1)
    seen = {}
    for split in ("train", "test"):
        pixels, _ = images.split(split, 500, case)
        seen[split] = {tuple(pixel) for pixel in pixels[:, 0, 0, :2].tolist()}
    assert (len(seen["train"]), len(seen["test"])) == (49 * 4, 21 * 4)
    assert not seen["train"] & seen["test"]


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 20"):
        opened_images(save(tmp_path / "own.npz", 19, ("train", "test")), None, 0)


# From end to end.


def test_a_tiny_run_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_case, ran = module.run_case, []

    def dies_at_second(case: Case, *rest: object) -> CaseOutcome:
        ran.append(case.name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run_case(case, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "run_case", dies_at_second)
    out = tmp_path / "out"
    with pytest.raises(AuditInterruptedError, match="1 of 4 cases done"):
        run_selftest(tiny(), out)
    parts: list[int] = []
    result = run_selftest(
        tiny(), out, progress=lambda stage, done, total: parts.append(done), most_cases=2
    )
    assert len(ran) == 3
    assert ran[2] == ran[1] != ran[0]
    assert parts == sorted(parts)
    assert parts[-1] == 200
    assert not result.complete
    roles = [[item.role for item in case.by_class] for case in result.cases]
    assert roles == [["plant"] * 4, ["clean"] * 3 + ["plant"]]
    # Eight judgement images of a class, each into two others.
    assert {item.truth.n for case in result.cases for item in case.by_class if item.truth} == {16}
    assert all(item.truth is not None for case in result.cases for item in case.by_class)
    assert all(item.verdict != "not judged" for case in result.cases for item in case.by_class)


class _Exchanged(Shapes):
    """Shapes of which one pixel is another."""

    def split(self, name: str, n: int, case: Case) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = super().split(name, n, case)
        pixels[0, 0, 0, 0] ^= 1
        return pixels, labels


def test_a_case_is_kept_under_all_that_decides_it(tmp_path: Path) -> None:
    cases = quick_cases(NAMES, 0, model=None, size=(12, 12))
    shapes = opened_images(None, (12, 12), 0)
    work = module._Work.claimed(tmp_path, tiny(), shapes)
    outcome = CaseOutcome(
        name="kept",
        architecture="net",
        height=12,
        width=12,
        accuracy=Rate(hits=1, n=2),
        n_images=2,
        data_digest="00",
        seconds=1,
        by_class=(),
    )
    work.keep(cases[0], outcome)
    assert work.kept(cases[0]) == outcome
    assert work.kept(cases[0].model_copy(update={"seed": 9})) is None
    assert work.kept(cases[1]) is None
    other = tiny(data="set.npz")
    elsewhere = dataclasses.replace(shapes, spec="set.npz")
    assert module._Work.claimed(tmp_path, other, elsewhere).kept(cases[0]) is None
    # Other images under the same name.
    exchanged = _Exchanged(**dataclasses.asdict(shapes))
    assert module._Work.claimed(tmp_path, tiny(), exchanged).kept(cases[0]) is None
    more = SelfTestRequest(amounts=Amounts(n_train=25, n_test=16, epochs=1))
    assert module._Work.claimed(tmp_path, more, shapes).kept(cases[0]) is None
    # A damaged file counts as missing.
    next((tmp_path / "work").iterdir()).write_text("{")
    assert work.kept(cases[0]) is None


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError):
        run_selftest(tiny(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_case_comes_out_the_same_again() -> None:
    cases = quick_cases(("disk", "square", "cross", "ring"), 0, model=None, size=(12, 12))
    images = opened_images(None, (12, 12), 0)
    first, second = (
        module.run_case(cases[3], images, TINY, lambda part: None).model_dump(exclude={"seconds"})
        for _ in range(2)
    )
    assert first == second
    by_name = {item["class_name"]: item for item in first["by_class"]}
    assert by_name["disk"]["kind"] == "colour cast"
    assert by_name["disk"]["truth"] is not None
    assert by_name["cross"]["kind"] == "contrast"
    assert by_name["cross"]["truth"] is None
    assert {item["role"] for item in first["by_class"]} == {"control"}


def test_random_labels_teach_nothing_and_a_timm_network_takes_odd_sizes() -> None:
    images = opened_images(None, None, 0)
    case = Case(name="r", model="timm:resnet10t", size=(9, 14), structure="random weights", seed=0)
    found = module.run_case(case, images, Amounts(n_train=4, n_test=8, epochs=1), lambda part: None)
    assert (found.height, found.width) == (9, 14)
    assert found.structure == "random weights"
    assert [item.role for item in found.by_class] == ["clean"] * 4


@pytest.mark.slow
def test_the_quick_form_passes_within_three_minutes() -> None:
    began = time.process_time()
    result = run_selftest(SelfTestRequest())
    assert result.complete
    assert result.passed, result.failures
    assert result.hits.n >= 3
    assert result.false_alarms.n >= 8
    # Of processor time, as other jobs may run beside: half of what two cores have.
    assert time.process_time() - began < 180


def test_the_plan_of_a_case_is_one_that_plant_takes(tmp_path: Path) -> None:
    data = save(tmp_path / "own.npz", 6, ("train", "test"), n_classes=4, size=32)
    names = tuple(f"class {number}" for number in range(4))
    case = quick_cases(names, 0, model=None, size=(32, 32))[0]
    truth = plant(data, Plan(plant=case.planted, max_clipped=1), tmp_path / "out", formats=("npz",))
    assert [pattern.role for pattern in truth.patterns] == ["shortcut"] * 4
