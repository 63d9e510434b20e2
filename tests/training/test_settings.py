"""Settings of a training: what is filled in, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcut_audit.errors import SettingsError
from shortcut_audit.training.settings import TrainSettings, train_settings_from


@pytest.mark.parametrize(
    ("given_values", "rate", "decay"),
    [
        ({}, 0.1, 5e-4),
        ({"optimizer": "adamw"}, 1e-3, 0.05),
        ({"pretrained": True}, 0.01, 5e-4),
        ({"optimizer": "adamw", "pretrained": True, "weight_decay": 0.0}, 1e-4, 0.0),
        ({"learning_rate": 3.0, "weight_decay": None}, 3.0, 5e-4),
    ],
)
def test_rates_follow_the_optimizer(given_values: dict[str, Any], rate: float, decay: float) -> None:
    settings = train_settings_from(given_values)
    assert settings.learning_rate == pytest.approx(rate)
    assert settings.weight_decay == decay


@given(st.integers(1, 1000))
def test_the_warm_up_is_a_tenth_and_at_most_five_epochs(epochs: int) -> None:
    assert TrainSettings(epochs=epochs).warmup_epochs == pytest.approx(min(epochs / 10, 5))


def test_written_defaults_are_the_ones_filled_in() -> None:
    filled = TrainSettings()
    for name, field in TrainSettings.model_fields.items():
        assert getattr(filled, name) == field.default, name


def test_saved_settings_read_back_as_they_were() -> None:
    settings = train_settings_from({"optimizer": "adamw", "epochs": 7, "flip": True})
    assert TrainSettings(**settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rate": 0}, r"learning_rate \(--learning-rate\) was given as 0"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"epochs": 0}, r"epochs \(--epochs\) was given as 0"),
        ({"epochs": "many"}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup_epochs": 3, "epochs": 2}, "a warm-up of 3 epochs outlasts 2 epochs"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"val_share": 1.0}, "val_share"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"crop": "random"}, "crop"),
        ({"amp": "half"}, "amp"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes"),
        ({"speed": 9}, "speed"),
    ],
)
def test_settings_that_do_not_hold_are_named_in_one_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        train_settings_from(values)
    assert "\n" not in str(caught.value)
