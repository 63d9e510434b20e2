"""Settings: budgets as they are written, and errors that name the option."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortcut_audit.errors import SettingsError
from shortcut_audit.results.settings import AuditSettings, Budget, settings_from


def budget_of(value: object) -> Budget:
    found = settings_from({"budget": value}).budget
    assert found is not None
    return found


amounts = st.integers(1, 10**9)


@settings(deadline=None)
@given(amounts, st.sampled_from([("", 1), ("k", 1000), ("M", 10**6)]), st.sampled_from(["", " "]))
def test_image_passes_are_read_as_they_are_written(amount: int, unit: tuple[str, int], gap: str) -> None:
    name, scale = unit
    for text in (f"{amount}{gap}{name}", f" {amount:_}{name} ", f"{amount}.0{name}"):
        assert budget_of(text) == Budget(passes=amount * scale)
    assert budget_of(amount) == Budget(passes=amount)


@settings(deadline=None)
@given(
    st.integers(1, 10**6),
    st.sampled_from([("s", 1), ("sec", 1), ("min", 60), ("h", 3600)]),
    st.booleans(),
)
def test_time_is_read_as_it_is_written(tenths: int, unit: tuple[str, int], gap: bool) -> None:
    name, scale = unit
    found = budget_of(f"{tenths / 10}{' ' * gap}{name}")
    assert found.passes is None
    assert found.seconds == pytest.approx(tenths / 10 * scale)


@settings(deadline=None)
@given(st.one_of(amounts.map(lambda n: Budget(passes=n)), amounts.map(lambda n: Budget(seconds=n / 7))))
def test_a_saved_budget_comes_back(budget: Budget) -> None:
    saved = AuditSettings(budget=budget)
    assert AuditSettings.model_validate(saved.model_dump(mode="json")) == saved
    assert AuditSettings.model_validate_json(saved.model_dump_json()).budget == budget


def test_exponents_are_numbers_too() -> None:
    assert budget_of("2e5") == budget_of(2e5) == budget_of("200k") == Budget(passes=200_000)
    assert settings_from({}).budget is None
    assert settings_from({"budget": None}).budget is None


def test_a_budget_is_said_in_words() -> None:
    assert str(budget_of("200k")) == "200,000 image passes"
    assert str(budget_of("1.5min")) == "90 s"


BAD = ["", "x", "10 parsecs", "2m", "2K", "-5", "0", "0s", "1_", "1__0", "1e9999", "9" * 400, "1e308M"]


@pytest.mark.parametrize("value", [*BAD, True, math.nan, math.inf, [5], 0, -3])
def test_what_is_no_budget_is_refused_by_its_option_with_examples_that_work(value: object) -> None:
    with pytest.raises(SettingsError, match=r"budget \(--budget\) was given as ") as caught:
        settings_from({"budget": value})
    said = caught.value.problem
    assert "\n" not in said
    for example in ("200000", "200k", "2M", "90s", "10min", "2h"):
        assert example in said
        budget_of(example)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"passes": 5, "seconds": 5},
        {"passes": 0},
        {"seconds": -1},
        {"seconds": math.inf},
        {"images": 5},
    ],
)
def test_a_saved_budget_of_nothing_or_of_both_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"budget \(--budget\) was given as "):
        settings_from({"budget": value})


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_a_budget_or_a_settings_error(text: str) -> None:
    try:
        found = budget_of(text)
    except SettingsError as error:
        assert "--budget" in error.problem
    else:
        assert (found.passes or 0) >= 1 or (found.seconds or 0) > 0


def test_letters_that_mean_something_keep_their_case() -> None:
    """2M image passes are not 2m."""
    with pytest.raises(SettingsError) as caught:
        settings_from({"budget": "lots", "kept_share": 2})
    assert "2M) or time" in caught.value.problem
    assert "input should be less than or equal to 1" in caught.value.problem


@pytest.mark.parametrize("name", ["patch_sides", "candidates"])
@pytest.mark.parametrize("value", [(), (4, 0), (-1,)])
def test_lists_of_stages_hold_numbers_above_0(name: str, value: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=rf"--{name.replace('_', '-')}\) .*above 0"):
        settings_from({name: value})


def test_defaults_leave_search_and_resolution_to_the_tool() -> None:
    found = settings_from({})
    assert (found.search, found.resolution, found.budget) == ("auto", "auto", None)
