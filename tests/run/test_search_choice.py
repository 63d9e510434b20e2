"""Which search runs, why, and what is refused before an image is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.datasets import source_from
from shortcut_audit.errors import SettingsError
from shortcut_audit.measures.searches import SEARCHES
from shortcut_audit.models.loading import LoadedModel
from shortcut_audit.results.settings import settings_from
from shortcut_audit.run.prepare import AuditRequest, prepared_audit

# 20 orbits, few enough for the exact search; and 162, which are not.
SMALL = random_images(6, 2, (1, 6, 6))
LARGE = random_images(6, 2, (1, 18, 18))


class Detached(nn.Module):
    """Answers well, and lets no gradient through."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.detach())


def through_numpy(x: torch.Tensor) -> np.ndarray:
    """A plain function of another library's kind: all arithmetic is numpy's."""
    rows = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    weight = np.random.default_rng(0).standard_normal((rows.shape[1], 2))
    return rows @ weight


def outline_for(network: nn.Module, pairs: Any, **values: Any) -> Any:
    request = AuditRequest(
        model=LoadedModel(network, "test", "test", None),
        source=source_from(pairs, None),
        settings=settings_from({"batch_size": 16, **values}),
        command="test",
    )
    with prepared_audit(request, None) as prepared:
        return prepared.subject.outline


def test_every_choice_but_auto_is_a_search_of_its_name() -> None:
    for name in SEARCHES:
        assert SEARCHES[name].name == name
        assert outline_for(conv_model(2, 1), SMALL, search=name).search == name


def test_few_orbits_are_all_probed_and_that_is_said() -> None:
    plan = outline_for(conv_model(2, 1), SMALL)
    assert (plan.search, plan.search_reason) == ("exact", "20 orbits are few enough to probe every one")
    tiles = outline_for(conv_model(2, 1), LARGE, resolution="tiles:3x4")
    assert tiles.search == "exact"
    assert tiles.search_reason == f"{tiles.units.n_units} tiles are few enough to probe every one"
    # A choice of the user's own needs no reason.
    assert outline_for(conv_model(2, 1), SMALL, search="exact").search_reason == ""


def test_many_orbits_are_screened_where_there_is_a_gradient() -> None:
    assert outline_for(conv_model(2, 1), LARGE).search == "screened"


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Detached, "they are cut off by detach"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(324, 2), nn.Threshold(1e9, 0.0)), "exactly zero"),
    ],
    ids=["detached", "flat"],
)
def test_a_model_without_gradient_is_searched_exactly_by_default(
    network: Callable[[], nn.Module], why: str
) -> None:
    plan = outline_for(network(), LARGE)
    assert plan.search == "exact"
    assert plan.search_reason.startswith("the model has no gradient to screen by: ")
    assert why in plan.search_reason


@pytest.mark.parametrize("search", ["screened", "learned"])
def test_searches_that_need_a_gradient_are_refused_in_a_sentence(search: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"A {search} search needs the gradient") as caught:
        sa.audit(Detached(), SMALL, search=search, run=tmp_path / "run", batch_size=16)
    assert "cut off by detach" in caught.value.problem
    assert "--search exact or --search hierarchical" in caught.value.next_step
    assert not (tmp_path / "run").exists()


def test_a_plain_function_through_numpy_is_audited_and_says_why_exactly() -> None:
    result = sa.audit(through_numpy, LARGE, batch_size=64, images_per_class=4)
    found = result.dominant_frequencies
    assert found.search == "exact"
    assert found.search_reason == (
        "the model has no gradient to screen by: it answers through numpy, which keeps no gradient"
    )
    with pytest.raises(SettingsError, match="A learned search needs the gradient .* through numpy"):
        sa.audit(through_numpy, SMALL, search="learned", batch_size=16)


@pytest.mark.parametrize("search", ["hierarchical", "learned"])
@pytest.mark.parametrize("resolution", ["patches:2", "tiles:2x3"])
def test_joint_searches_take_no_resolution(search: str, resolution: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"--resolution {resolution} does not go with it") as caught:
        sa.audit(conv_model(2, 1), SMALL, search=search, resolution=resolution, run=tmp_path / "run")
    assert "--search exact or screened" in caught.value.next_step
    assert not (tmp_path / "run").exists()
    for own in ("auto", "orbits"):
        assert outline_for(conv_model(2, 1), SMALL, search=search, resolution=own).search == search


@pytest.mark.parametrize("search", ["auto", "exact", "screened", "hierarchical", "learned"])
@pytest.mark.parametrize(
    ("resolution", "says"),
    [
        ("patches:7", "Patches of 7 bins do not fit images of 6 x 6"),
        ("tiles:4x4", "Tiles of 4 rings and 4 sectors do not fit"),
        ("squares", "Resolution 'squares' is not known"),
    ],
)
def test_a_resolution_that_the_images_do_not_have_is_refused_by_every_search(
    search: str, resolution: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=says):
        sa.audit(
            conv_model(2, 1),
            SMALL,
            search=search,
            resolution=resolution,
            run=tmp_path / "run",
            batch_size=16,
        )
    assert not (tmp_path / "run").exists()


def test_the_result_says_which_search_and_what_it_cost() -> None:
    result = sa.audit(conv_model(2, 1), SMALL, batch_size=16)
    found = result.dominant_frequencies
    cost = {each.measure: each.image_passes for each in result.provenance.cost}
    assert (found.search, found.backward_images) == ("exact", 0)
    assert found.image_passes == cost["dominant_frequencies"] == 6 * 21
    screened = sa.audit(conv_model(2, 1), LARGE, batch_size=16)
    found = screened.dominant_frequencies
    cost = {each.measure: each.image_passes for each in screened.provenance.cost}
    assert found.search == "screened"
    assert found.backward_images > 0
    assert found.image_passes == cost["dominant_frequencies"]
    assert all(own.fidelity is not None for own in found.by_class)
