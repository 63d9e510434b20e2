"""Truth that lies beside a set, against what an audit of the data and of a model found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import linear_model, random_images, save_npz

import shortcut_audit as sa
from shortcut_audit.results.truth import GroundTruth, Pattern
from shortcut_audit.run.recovery import with_truth
from shortcut_audit.version import __version__

SIZE = 8


def truth_of(**changes: object) -> GroundTruth:
    pattern = Pattern(
        name="wave", kind="cosines", role="shortcut", classes=("class1",), orbits=((1, 2), (-3, 1)),
        bands=(3, 4),
    )  # fmt: skip
    cast = Pattern(name="cast", kind="cast", role="other", classes=("class0",))
    values: dict[str, object] = {
        "version": __version__,
        "kind": "planted",
        "name": "mine",
        "height": SIZE,
        "width": SIZE,
        "channels": 3,
        "class_names": ("class0", "class1"),
        "files": ("set.npz",),
        "bands": ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)),
        "patterns": (pattern, cast),
    }
    return GroundTruth.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_npz(tmp_path_factory.mktemp("set") / "set.npz", random_images(8, 2, (3, SIZE, SIZE)))


@pytest.fixture(scope="module")
def audited(data: Path) -> sa.AuditResult:
    (data.parent / "truth.json").write_text(truth_of().as_text())
    return sa.audit(linear_model(2, (3, SIZE, SIZE)), str(data), batch_size=64, mean=(0.5,), std=(1,))


def test_a_model_audit_lists_ranks_of_the_planted_orbits(audited: sa.AuditResult) -> None:
    assert audited.truth is not None
    wave, cast = audited.truth.by_pattern
    table = audited.table("orbits")
    own = table[table["class"] == "class1"]
    wanted = sorted(int(own[(own.u == u) & (own.v == v)]["rank"].iloc[0]) for u, v in [(1, 2), (-3, 1)])
    assert wave.ranks == tuple(wanted)
    assert wave.n_in_map == int(own[own["rank"].isin(wanted)]["kept"].sum())
    assert (wave.expected, cast.expected) == (True, False)
    assert cast.ranks is None
    assert audited.truth.false_names is None


def test_the_truth_survives_saving(audited: sa.AuditResult, tmp_path: Path) -> None:
    assert sa.load_result(audited.save(tmp_path / "run")) == audited


def test_a_class_that_was_not_searched_has_no_ranks(data: Path, audited: sa.AuditResult) -> None:
    network = linear_model(2, (3, SIZE, SIZE))
    result = sa.audit(network, str(data), batch_size=64, mean=(0.5,), std=(1,), classes=("class0",))
    assert result.truth is not None
    assert result.truth.by_pattern[0].ranks is None


def test_truth_of_another_size_or_of_other_classes_is_not_compared(audited: sa.AuditResult) -> None:
    for truth, reason in [
        (truth_of(height=16, width=16), "16 x 16 pixels, and the audit saw 8 x 8"),
        (truth_of(class_names=("a", "b"), patterns=()), "are not those of the images"),
    ]:
        plain = audited.model_copy(update={"findings": audited.findings[:-1]}).with_arrays(audited.arrays)
        found = with_truth(plain, truth).truth
        assert found is not None
        assert reason in found.reason
        assert found.by_pattern == ()


def test_nothing_known_adds_nothing(audited: sa.AuditResult) -> None:
    plain = audited.model_copy(update={"findings": audited.findings[:-1]}).with_arrays(audited.arrays)
    assert with_truth(plain, None) is plain
    assert plain.truth is None


def test_a_damaged_truth_is_an_error_and_a_foreign_one_none(data: Path, tmp_path: Path) -> None:
    copied = tmp_path / "other.npz"
    copied.write_bytes(data.read_bytes())
    (tmp_path / "truth.json").write_text(truth_of().as_text())
    network = linear_model(2, (3, SIZE, SIZE))
    result = sa.audit(network, str(copied), batch_size=64, mean=(0.5,), std=(1,))
    # The truth names set.npz, and this file is another.
    assert result.truth is None
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(sa.AuditError, match="is not a truth file of this tool"):
        sa.audit(network, str(copied), batch_size=64, mean=(0.5,), std=(1,))
    assert np.isfinite(result.importance("class0")).all()
