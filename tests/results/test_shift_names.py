from __future__ import annotations

from typing import Any

import pytest

from shortcut_audit.data.corruptions import CORRUPTIONS
from shortcut_audit.data.shifts import parse_shifts
from shortcut_audit.errors import SettingsError
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.shift_names import CORRUPTION_NAMES, shift_names, split_shift


def test_the_names_are_those_of_the_corruptions() -> None:
    assert tuple(CORRUPTIONS) == CORRUPTION_NAMES


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ((), []),
        ("jpeg:1-2", ["jpeg-1", "jpeg-2"]),
        ("jpeg", [f"jpeg-{n}" for n in range(1, 6)]),
        (" gaussian-noise:3 , haze:5", ["gaussian_noise-3", "haze-5"]),
        ("jpeg:1,3,haze:2", ["jpeg-1", "jpeg-3", "haze-2"]),
        (["jpeg:3", "jpeg:2-3"], ["jpeg-3", "jpeg-2"]),
        ("jpeg-3", ["jpeg-3"]),
        ("band-noise-1:2", ["band_noise_1-2"]),
        ("band_noise_1-2", ["band_noise_1-2"]),
        ("band-noise-4", [f"band_noise_4-{n}" for n in range(1, 6)]),
        ("all:3", ["all-3"]),
    ],
)
def test_shifts_as_they_are_written(value: Any, names: list[str]) -> None:
    found = settings_from({"shifts": value}).shifts
    assert list(found) == names
    # What comes out goes in again, as settings of a saved result do.
    assert shift_names(found) == found


def test_they_mean_what_they_mean_to_the_shift_command() -> None:
    text = "jpeg:1,3,contrast,band_noise_2:2-4"
    assert [split_shift(name) for name in shift_names(text)] == [
        (shift.name, shift.severity) for shift in parse_shifts(text)
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("jpg", "no corruption 'jpg'; jpeg comes near. Corruptions are: gaussian_noise,"),
        ("gausian-blur:2", "no corruption 'gausian_blur'; gaussian_blur comes near"),
        ("qqq", "no corruption 'qqq'. Corruptions are"),
        ("jpeg:", "'jpeg:' names no severities"),
        ("jpeg:6", "'6' names no severities. Severities are 1 to 5"),
        ("jpeg:4-2", "'4-2' names no severities"),
        ("jpeg-7", "'7' names no severities"),
        ("jpeg:0-2", "asks for severity 0; images as they are"),
        ("jpeg,,haze", "an empty name among the shifts"),
        ("", "an empty name among the shifts"),
        ([3], r"Shifts are names, not \[3\]"),
        (3, "Shifts are names, not 3"),
    ],
)
def test_what_is_wrong_is_said(value: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_from({"shifts": value})
