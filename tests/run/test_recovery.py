"""Known truth, read back by audits of data and of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, save_npz
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.plans import Plan
from shortcut_audit.data.planting import plant
from shortcut_audit.data.sources import open_source
from shortcut_audit.data.synthetic import SyntheticRecipe, write_synthetic
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.findings import TruthFinding
from shortcut_audit.results.settings import data_settings_from
from shortcut_audit.results.truth import GroundTruth, Pattern, find_truth
from shortcut_audit.run.data_audit import DataRequest, run_data_audit
from shortcut_audit.run.recovery import with_truth

NAMES = ("ant", "bee", "cow")
SIZE = 16


def look(spec: str, truth: GroundTruth | None = None, size: tuple[int, int] | None = None) -> AuditResult:
    known = find_truth(spec)
    request = DataRequest(
        source=open_source(spec),
        settings=data_settings_from({}),
        command="test",
        size=size,
        truth=truth or (known[0] if known else None),
    )
    return run_data_audit(request)


def textures(n_per_class: int) -> list[tuple[np.ndarray, int]]:
    generator = np.random.default_rng(0)
    grid = FrequencyGrid(SIZE, SIZE)
    law = 1 / np.maximum(grid.radius, 1)
    half = np.fft.rfft2(generator.standard_normal((3 * n_per_class, 3, SIZE, SIZE)))
    images = np.fft.irfft2(half * law[grid.orbit_of_bin], s=(SIZE, SIZE))
    images = 128 + 20 * (images - images.mean()) / images.std()
    return [(np.clip(np.rint(image), 0, 255).astype(np.uint8), k % 3) for k, image in enumerate(images)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("planted")
    data = save_npz(folder / "images.npz", textures(60), list(NAMES))
    plan = Plan.model_validate(
        {
            "plant": [
                {"kind": "cosines", "orbits": [[5, 3], [2, 1]], "strength": 8.0, "classes": ["bee"]},
                {
                    "kind": "cosines",
                    "orbits": [[1, 7]],
                    "strength": 8.0,
                    "classes": "all",
                    "name": "decoy",
                },
                {"kind": "cast", "offset": [20.0, 0.0, 0.0], "classes": ["cow"]},
            ],
            "headroom": 10,
        }
    )
    plant(str(data), plan, folder / "set", formats=("npz",))
    return f"{folder / 'set' / 'images.npz'}::all"


def truth_of(result: AuditResult) -> TruthFinding:
    assert result.truth is not None
    return result.truth


def test_an_audit_of_data_says_which_planted_bands_it_named(planted: str) -> None:
    result = look(planted)
    truth = truth_of(result)
    assert (truth.name, truth.kind, truth.reason) == ("planted", "planted", "")
    by_pattern = {(each.pattern, each.class_name): each for each in truth.by_pattern}
    assert set(by_pattern) == {
        ("cosines 1", "bee"),
        ("cast 3", "cow"),
        *(("decoy", name) for name in NAMES),
    }
    wanted = by_pattern["cosines 1", "bee"]
    assert (wanted.expected, wanted.bands, wanted.n_orbits) == (True, (2, 3), 2)
    assert set(wanted.bands_found or ()) <= {2, 3}
    assert 3 in (wanted.bands_found or ())
    for name in NAMES:
        assert by_pattern["decoy", name].expected is False
        assert by_pattern["decoy", name].bands_found == ()
    assert (by_pattern["cast 3", "cow"].expected, by_pattern["cast 3", "cow"].bands) == (False, ())
    assert truth.false_names == ()
    assert wanted.ranks is None


def test_bands_of_the_truth_are_counted_as_the_audit_counts_them(tmp_path: Path) -> None:
    """A set of two wide bands: its band 2 is the audit's bands 3 and 4."""
    recipe = SyntheticRecipe.model_validate(
        {
            "kind": "synthetic",
            "name": "two bands",
            "size": (16, 16),
            "bands": 2,
            "n_by_split": {"test": 60},
            "classes": {
                "a": {"special": [{"orbits": [[5, 2]], "strength": 8.0}]},
                "b": {},
                "c": {},
            },
        }
    )
    made = write_synthetic(recipe, tmp_path / "set", formats=("npz",))
    assert made.patterns[0].bands == (2,)
    truth = truth_of(look(f"{tmp_path / 'set' / 'images.npz'}::test"))
    assert truth.by_pattern[0].bands == (3,)
    assert truth.by_pattern[0].bands_found == (3,)
    assert truth.false_names == ()


def test_what_is_named_and_not_known_is_a_false_name(planted: str) -> None:
    known = find_truth(planted)
    assert known is not None
    lie = known[0].model_copy(update={"patterns": known[0].patterns[1:]})
    truth = truth_of(look(planted, lie))
    assert set(truth.false_names or ()) >= {("bee", 3)}
    assert {name for name, _ in truth.false_names or ()} == {"bee"}


def test_a_gain_that_lowers_is_expected_and_not_found_is_said(tmp_path: Path) -> None:
    recipe = SyntheticRecipe.model_validate(
        {
            "kind": "synthetic",
            "name": "faint",
            "size": (16, 16),
            "n_by_split": {"test": 30},
            "classes": {"a": {"gains": [{"band": 3, "gain": 1.02}]}, "b": {}, "c": {}},
        }
    )
    write_synthetic(recipe, tmp_path / "set", formats=("npz",))
    truth = truth_of(look(f"{tmp_path / 'set' / 'images.npz'}::test"))
    (gain,) = truth.by_pattern
    assert (gain.expected, gain.bands, gain.bands_found) == (True, (3,), ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": 32}, "of 32 x 16 pixels, and the audit saw 16 x 16"),
        ({"class_names": ("x", "y"), "patterns": ()}, "the classes of the truth are not those"),
        ({"class_names": ("ant", "cow")}, "the classes of the truth are not those"),
    ],
)
def test_a_truth_of_other_images_is_not_compared(change: dict[str, Any], says: str, planted: str) -> None:
    known = find_truth(planted)
    assert known is not None
    truth = truth_of(look(planted, known[0].model_copy(update=change)))
    assert says in truth.reason
    assert (truth.by_pattern, truth.false_names) == ((), None)


def test_frequencies_that_were_moved_are_not_compared(planted: str) -> None:
    known = find_truth(planted)
    assert known is not None
    smaller = look(planted, size=(12, 12))
    assert "and the audit saw 12 x 12" in truth_of(smaller).reason
    # Also where the size is the truth's in the end.
    plain = smaller.model_copy(update={"findings": smaller.findings[:-1]})
    finding = with_truth(
        plain.with_arrays(smaller.arrays), known[0].model_copy(update={"height": 12, "width": 12})
    ).findings[-1]
    assert isinstance(finding, TruthFinding)
    assert "resized and cropped" in finding.reason


def test_images_without_a_truth_have_no_finding_of_it(tmp_path: Path) -> None:
    data = save_npz(tmp_path / "images.npz", textures(20), list(NAMES))
    assert look(str(data)).truth is None
    assert sa.audit(conv_model(3, 3), str(data), batch_size=64).truth is None


class WaveDetector(nn.Module):
    """Calls an image `bee` by the amplitude of the two planted waves, and `ant` else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(x.mean(dim=1))
        amplitude = spectrum[:, 5, 3].abs() + 0.5 * spectrum[:, 2, 1].abs()
        bee = 3 * (amplitude - 3.0)
        return torch.stack([torch.zeros_like(bee), bee, torch.full_like(bee, -2.0)], dim=1)


def test_an_audit_of_a_model_lists_the_ranks_of_planted_orbits(planted: str) -> None:
    result = sa.audit(WaveDetector(), planted, batch_size=64, images_per_class=20, kept_share=0.1)
    truth = truth_of(result)
    by_pattern = {(each.pattern, each.class_name): each for each in truth.by_pattern}
    wanted = by_pattern["cosines 1", "bee"]
    assert wanted.ranks == (1, 2)
    assert wanted.n_in_map == 2
    assert wanted.bands_found is None
    assert truth.false_names is None
    table = result.table("orbits")
    grid = FrequencyGrid(SIZE, SIZE)
    own = table[table["class"] == "bee"].reset_index(drop=True)
    assert own.loc[[grid.orbit_of(5, 3), grid.orbit_of(2, 1)], "rank"].tolist() == [1, 2]
    # A cast has no orbits, and so no ranks.
    assert by_pattern["cast 3", "cow"].ranks is None
    decoy = by_pattern["decoy", "bee"]
    assert decoy.ranks == (int(own.loc[grid.orbit_of(1, 7), "rank"]),)
    # A class that was not searched has none either.
    some = sa.audit(WaveDetector(), planted, batch_size=64, images_per_class=20, classes=("ant",))
    ranks = {each.class_name: each.ranks for each in truth_of(some).by_pattern if each.pattern == "decoy"}
    assert ranks["bee"] is None
    assert ranks["ant"] is not None


def test_a_pattern_of_a_class_that_was_not_audited_is_passed_over(planted: str) -> None:
    known = find_truth(planted)
    assert known is not None
    result = look(planted)
    ghost = Pattern(
        name="ghost", kind="cosines", role="shortcut", classes=("dodo",), orbits=((1, 1),), bands=(1,)
    )
    more = known[0].model_copy(
        update={"patterns": (ghost,), "class_names": (*known[0].class_names, "dodo")}
    )
    plain = result.model_copy(update={"findings": result.findings[:-1]})
    finding = with_truth(plain.with_arrays(result.arrays), more).findings[-1]
    assert isinstance(finding, TruthFinding)
    assert (finding.reason, finding.by_pattern) == ("", ())
