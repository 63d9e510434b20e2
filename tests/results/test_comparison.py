"""Two audits side by side, against counts made by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from audited import Made, made_audit

from shortcut_audit.errors import ResultError
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.changes import SameImages, effective_share
from shortcut_audit.results.comparison import (
    QUANTITIES,
    Change,
    Comparison,
    Quantity,
    compared,
    strength_worsening,
)
from shortcut_audit.results.counts import Paired
from shortcut_audit.results.outcomes import pair_of
from shortcut_audit.results.run_numbers import RunNumbers, numbers_of
from shortcut_audit.results.statistics import paired_interval, paired_p_value, unpaired_interval


def change(found: Comparison, quantity: Quantity, name: str | None, place: str = "") -> Change:
    result = found.of(quantity, name, place)
    assert result is not None
    return result


def test_an_audit_compared_with_itself_has_not_changed() -> None:
    result = made_audit(Made(ood={"there": (0.5, 0.6, 0.7)}))
    found = compared(result, result)
    assert found.images.kind == "equal"
    assert found.images.n_shared == 600
    assert found.differences == ()
    assert found.same_numerics
    assert found.same_classes
    assert {each.quantity for each in found.changes} == set(QUANTITIES)
    for each in found.changes:
        assert each.first == each.second
        assert each.difference in (0, None)
        assert each.p_value in (1.0, None)


def test_the_same_images_are_compared_in_pairs() -> None:
    found = compared(made_audit(), made_audit(Made(accuracy=(0.8, 0.9, 0.95))))
    horse = change(found, "accuracy", "horse")
    assert horse.paired
    assert horse.n == 200
    assert (horse.first, horse.second) == (pytest.approx(0.9), pytest.approx(0.8))
    assert horse.difference == pytest.approx(-0.1)
    # Of 200: 20 wrong on both sides, 20 more now.
    low, high = paired_interval(20, 20, 0, 200)
    assert horse.interval == pytest.approx((-high, -low))
    assert horse.p_value is not None
    assert horse.p_value >= paired_p_value(20, 0)
    assert horse.p_value < 1e-5
    frog = change(found, "accuracy", "frog")
    assert frog.difference == pytest.approx(0.05)
    assert frog.p_value == 1.0
    overall = change(found, "accuracy", None)
    assert overall.n == 600
    assert overall.difference == pytest.approx(-10 / 600)


def test_other_images_are_compared_unpaired() -> None:
    found = compared(made_audit(), made_audit(Made(first=1, accuracy=(0.8, 0.9, 0.9))))
    assert found.images.kind == "disjoint"
    horse = change(found, "accuracy", "horse")
    assert not horse.paired
    low, high = unpaired_interval(180, 200, 160, 200)
    assert horse.interval == pytest.approx((-high, -low))
    assert [each.what for each in found.differences] == ["images"]


def test_images_of_which_nearly_all_are_shared_are_paired() -> None:
    one, other = made_audit(), made_audit(Made(accuracy=(0.5, 0.9, 0.9)))
    arrays = dict(other.arrays)
    moved = arrays["outcomes/image"].copy()
    moved[:2] += np.uint64(1)
    found = compared(one, other.with_arrays({**arrays, "outcomes/image": moved}))
    assert found.images.kind == "overlapping"
    assert found.images.n_shared == 598
    horse = change(found, "accuracy", "horse")
    assert (horse.paired, horse.n) == (True, 198)
    # Of the 198 others, 178 were right and 98 are.
    assert horse.first == pytest.approx(178 / 198)
    assert horse.second == pytest.approx(98 / 198)
    moved[2:4] += np.uint64(1)
    found = compared(one, other.with_arrays({**arrays, "outcomes/image": moved}))
    assert not change(found, "accuracy", "horse").paired


@pytest.mark.parametrize("digest_differs", [True, False])
def test_formats_without_outcomes_are_compared_unpaired_and_say_so(digest_differs: bool) -> None:
    other = Made(outcomes=False, accuracy=(0.8, 0.9, 0.9), first=int(digest_differs))
    found = compared(made_audit(Made(outcomes=False)), made_audit(other))
    assert found.images.kind == ("unknown" if digest_differs else "equal")
    horse = change(found, "accuracy", "horse")
    assert not horse.paired
    assert "not kept" in horse.note
    assert horse.n == 200


def test_rates_under_maps_that_may_come_out_otherwise_are_worth_less() -> None:
    sure = compared(made_audit(), made_audit(Made(kept=(0.9, 0.5, 0.5))))
    doubtful = compared(made_audit(Made(half=(0.2, 0.9, 0.9))), made_audit(Made(kept=(0.9, 0.5, 0.5))))
    pair = Paired(n=100, both=50, only_first=40, only_second=0)
    for found, reliability in ((sure, 2 * 0.9 / 1.9), (doubtful, 0.4 / 1.2)):
        horse = change(found, "tpr_kept", "horse")
        assert horse.paired
        expected = SameImages(pair, effective_share(100, reliability))
        assert horse.interval == pytest.approx(expected.interval())
    surely, doubted = (change(found, "tpr_kept", "horse").p_value for found in (sure, doubtful))
    assert surely is not None
    assert doubted is not None
    assert surely < 0.005 < doubted


def test_false_calls_are_of_the_images_that_were_judged() -> None:
    one = made_audit()
    arrays = dict(one.arrays)
    other = made_audit(Made(kept_foreign=(0.3, 0.1, 0.1)))
    # Frogs were not judged under the map of horses.
    arrays["outcomes/kept_judged"] = np.packbits(np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]]), axis=1)
    both = [each.with_arrays({**each.arrays, **arrays}) for each in (one, other)]
    horse = change(compared(both[0], other), "fpr_kept", "horse")
    assert not horse.paired
    arrays["outcomes/kept"] = other.arrays["outcomes/kept"]
    found = compared(both[0], other.with_arrays({**other.arrays, **arrays}))
    horse = change(found, "fpr_kept", "horse")
    assert (horse.paired, horse.n) == (True, 100)


def test_flips_are_paired_by_receiver() -> None:
    found = compared(made_audit(), made_audit(Made(turned=(0.6, 0.02, 0.02))))
    horse = change(found, "flip", "horse")
    assert horse.paired
    assert horse.n == 100
    assert horse.difference == pytest.approx(0.58)
    assert horse.p_value is not None
    assert horse.p_value < 1e-6
    unpaired = compared(made_audit(), made_audit(Made(turned=(0.6, 0.02, 0.02), first=1)))
    apart = change(unpaired, "flip", "horse")
    assert not apart.paired
    assert apart.difference == pytest.approx(0.58)


def test_a_verdict_is_tested_by_its_score() -> None:
    worse = Made(turned=(0.6, 0.02, 0.02), verdicts=("shortcut", "no shortcut", "no shortcut"))
    found = compared(made_audit(), made_audit(worse))
    horse, ship = change(found, "verdict", "horse"), change(found, "verdict", "ship")
    assert (horse.first, horse.second) == ("no shortcut", "shortcut")
    assert horse.became_shortcut
    assert not ship.became_shortcut
    assert horse.p_value is not None
    assert horse.p_value < 1e-6
    assert horse.difference == pytest.approx(0.58)


def test_strength_is_tested_by_what_the_same_share_turned_before() -> None:
    old, new = (
        numbers_of(made_audit(Made(turned=(share, 0.02, 0.02)))).of("horse") for share in (0.02, 0.6)
    )
    assert old is not None
    assert new is not None
    found = compared(made_audit(), made_audit(Made(turned=(0.6, 0.02, 0.02))))
    horse = change(found, "strength", "horse")
    assert (horse.first, horse.second) == (1.0, 0.02)
    assert horse.difference == pytest.approx(-0.98)
    worsening = strength_worsening(old, new, 0.05)
    assert worsening is not None
    assert worsening.value == pytest.approx(0.58)
    assert strength_worsening(new, old, 0.05) is None


@pytest.mark.parametrize(
    ("other", "what", "matters"),
    [
        (Made(device="cuda"), "device", True),
        (Made(torch="2.14.0"), "torch", True),
        (Made(settings={"kept_share": 0.1}), "kept share", True),
        (Made(settings={"seed": 3}), "seed", False),
        (Made(model="two"), "model", False),
        (Made(names=("horse", "ship", "toad")), "classes", True),
        (Made(ood={"there": (0.1, 0.2, 0.3)}), "other sets", False),
    ],
)
def test_what_two_audits_do_not_share_is_named(other: Made, what: str, matters: bool) -> None:
    found = compared(made_audit(), made_audit(other))
    told = {each.what: each for each in found.differences}
    assert told[what].matters is matters
    assert found.same_numerics is (what not in {"device", "torch"})
    assert found.same_classes is (what != "classes")


def test_numbers_survive_json() -> None:
    numbers = numbers_of(made_audit(Made(ood={"there": (0.1, 0.2, 0.3)})))
    assert RunNumbers.model_validate_json(numbers.model_dump_json()) == numbers


def test_recall_elsewhere_is_compared_by_set() -> None:
    sets = {"there": (0.5, 0.6, 0.7), "far": (0.9, 0.9, 0.9)}
    found = compared(made_audit(Made(ood=sets)), made_audit(Made(ood={**sets, "far": (0.4, 0.9, 0.9)})))
    assert change(found, "ood_accuracy", "horse", "there").difference == 0
    far = change(found, "ood_accuracy", "horse", "far")
    assert far.difference == pytest.approx(-0.5)
    assert change(found, "ood_accuracy", None, "far").n == 600


def test_outcomes_that_contradict_each_other_are_refused() -> None:
    result = made_audit()
    for name, array in {
        "outcomes/predicted": np.zeros(3, dtype=np.int32),
        "outcomes/donor": np.full(300, 10**6, dtype=np.int32),
        "outcomes/receiver": np.full(300, -1, dtype=np.int32),
        "outcomes/kept": np.zeros((1, 38), dtype=np.uint8),
    }.items():
        damaged = result.with_arrays({**result.arrays, name: array})
        with pytest.raises(ResultError, match="hold together"):
            compared(damaged, result)


def test_audits_of_data_alone_are_refused(result: AuditResult) -> None:
    origin = result.provenance.model_copy(update={"model": None})
    with pytest.raises(ResultError, match="without a model"):
        numbers_of(result.model_copy(update={"provenance": origin}))


def test_a_real_audit_agrees_with_its_own_outcomes(result: AuditResult) -> None:
    """Values counted from outcomes are those of the findings."""
    found = compared(result, result)
    for item, rate in zip(result.shortcuts.by_class, result.predictions.accuracy_by_class, strict=True):
        assert change(found, "accuracy", item.class_name).second == pytest.approx(rate.value)
        for quantity, own in (("tpr_kept", item.tpr_kept), ("fpr_kept", item.fpr_kept)):
            each = change(found, quantity, item.class_name)  # type: ignore[arg-type]
            assert each.second == pytest.approx(own.value)
            assert each.paired
        assert change(found, "flip", item.class_name).paired


def test_comparing_loads_nothing_heavy() -> None:
    code = (
        "import shortcut_audit.results.comparison, sys;"
        "print([m for m in ('torch', 'scipy', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_that_only_the_larger_audit_has_do_not_go_unseen() -> None:
    """All right on the few images that both have, and wrong on most of the others."""
    few = np.arange(100, dtype=np.uint64)
    many = np.arange(400, dtype=np.uint64)
    assert pair_of((few, np.ones(100, dtype=bool)), (many, many < 100), worse_is=False) is None
    some = np.arange(101, dtype=np.uint64)
    assert pair_of((few, np.ones(100, dtype=bool)), (some, some < 100), worse_is=False) is not None
