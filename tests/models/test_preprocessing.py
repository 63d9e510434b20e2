"""How images reach a model: its own record, the user's word, and what is refused where neither says."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from shortcut_audit.errors import AuditError
from shortcut_audit.models.loading import LoadedModel, preprocessing_of
from shortcut_audit.results.provenance import Preprocessing


def loaded(network: nn.Module, config: dict[str, Any] | None = None) -> LoadedModel:
    return LoadedModel(network, "spec", "net", config)


def convolution(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


RECORD = {
    "input_size": (3, 16, 12),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "crop_mode": "border",
}


def geometry(found: Preprocessing) -> tuple[Any, ...]:
    return found.geometry, found.interpolation, found.crop_pct, found.crop_mode


def test_images_of_the_models_size_are_taken_as_they_are() -> None:
    found = preprocessing_of(loaded(convolution(3), RECORD), (3, 16, 12))
    assert (found.channels, found.height, found.width) == (3, 16, 12)
    assert geometry(found) == ("as they are", None, None, None)
    assert found.mean == RECORD["mean"]
    assert found.std == RECORD["std"]
    assert found.source == "the model's own record"


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 12, 16), (1, 224, 224), None])
def test_all_other_images_resize_and_crop_as_the_model_says(shape: Any) -> None:
    found = preprocessing_of(loaded(convolution(3), RECORD), shape)
    assert (found.channels, found.height, found.width) == (3, 16, 12)
    assert geometry(found) == ("resize and crop", "bilinear", 0.875, "border")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_a_timm_model_is_prepared_for_as_timm_itself_would(name: str) -> None:
    network = timm.create_model(name)
    found = preprocessing_of(loaded(network, network.pretrained_cfg), (3, 300, 200))
    timms = resolve_model_data_config(network)
    assert (found.channels, found.height, found.width) == timms["input_size"]
    assert found.mean == timms["mean"]
    assert found.std == timms["std"]
    wanted = ("resize and crop", timms["interpolation"], timms["crop_pct"], timms["crop_mode"])
    assert geometry(found) == wanted


def test_the_users_mean_std_and_size_win() -> None:
    model = loaded(convolution(3), RECORD)
    found = preprocessing_of(model, (3, 16, 12), mean=(0.1, 0.2, 0.3), std=(0.9,), size=(8, 9))
    assert (found.height, found.width) == (8, 9)
    assert found.mean == (0.1, 0.2, 0.3)
    assert found.std == (0.9, 0.9, 0.9)
    # Nothing is cropped off images that the user sizes.
    assert geometry(found) == ("resize and crop", "bilinear", 1.0, "border")
    assert found.source == "the user, and else the model's own record"
    same = preprocessing_of(model, (3, 8, 9), size=(8, 9))
    assert same.geometry == "as they are"
    assert same.mean == RECORD["mean"]


def test_a_model_without_a_record_takes_images_as_they_are_and_not_normalised() -> None:
    found = preprocessing_of(loaded(convolution(3)), (3, 9, 7))
    assert (found.channels, found.height, found.width) == (3, 9, 7)
    assert found.geometry == "as they are"
    assert found.mean == (0.0,) * 3
    assert found.std == (1.0,) * 3
    assert found.source.startswith("nobody")


@pytest.mark.parametrize(
    ("network", "config", "image_channels", "channels"),
    [
        (convolution(1), None, 3, 1),
        (convolution(3), None, 1, 3),
        (convolution(12), None, 3, 3),
        (linear(), None, 1, 1),
        (linear(), {"input_size": (3, 8, 8)}, 1, 3),
        # timm's record stays at 3 for a network made with in_chans=1.
        (convolution(1), {"input_size": (3, 8, 8)}, 1, 1),
        (convolution(1), {"input_size": (3, 8, 8)}, 3, 1),
        (convolution(12), {"input_size": (3, 8, 8)}, 3, 3),
    ],
)
def test_channels_are_those_of_the_first_convolution_else_the_record_else_the_images(
    network: nn.Module, config: dict[str, Any] | None, image_channels: int, channels: int
) -> None:
    found = preprocessing_of(loaded(network, config), (image_channels, 8, 8))
    assert found.channels == len(found.mean) == len(found.std) == channels


def test_a_timm_model_for_grey_images_takes_grey_images() -> None:
    network = timm.create_model("test_resnet", in_chans=1)
    found = preprocessing_of(
        loaded(network, network.pretrained_cfg), (1, 64, 64), mean=(0.5,), std=(0.25,), size=(64, 64)
    )
    assert (found.channels, found.mean, found.std) == (1, (0.5,), (0.25,))
    assert network(torch.zeros(1, found.channels, found.height, found.width)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("shape", "more", "message"),
    [
        (None, {}, "The images differ in size, and the model does not say which size it takes."),
        ((3, 8, 8), {"mean": (0.1, 0.2)}, "mean has 2 values, and the model takes images of 3 channels."),
        ((3, 8, 8), {"std": (0.1,) * 4}, "std has 4 values, and the model takes images of 3 channels."),
        ((3, 8, 8), {"std": (0.1, 0.0, 0.2)}, "std (0.1, 0.0, 0.2) has a value that is not positive."),
        ((3, 8, 8), {"std": (float("nan"),)}, "std (nan,) has a value that is not positive."),
        ((3, 8, 8), {"mean": (float("inf"),)}, "mean (inf,) has a value that is not finite."),
        ((3, 8, 8), {"size": (0, 8)}, "A size of 0 x 8 pixels is none."),
    ],
)
def test_what_cannot_be_prepared_is_refused_with_the_option_to_give(
    shape: Any, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(AuditError) as caught:
        preprocessing_of(loaded(convolution(3)), shape, **more)
    assert caught.value.problem == message
    assert "--" in caught.value.next_step


def test_three_moments_for_a_grey_model_are_refused_in_plain_words() -> None:
    with pytest.raises(AuditError, match="mean has 3 values, and the model takes grey images") as caught:
        preprocessing_of(loaded(convolution(1), RECORD), (1, 16, 12))
    assert caught.value.next_step == "Give --mean with 1 value."
