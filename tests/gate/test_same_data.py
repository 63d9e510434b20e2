"""Other data than the baseline's are refused, and other images of the same data are not."""

from __future__ import annotations

import numpy as np
import pytest
from audited import Made, made_audit
from gate_checks import TODAY, checked, frozen, only

from shortcut_audit.errors import ResultError
from shortcut_audit.gate.check import check_gate
from shortcut_audit.gate.freeze import frozen_policy
from shortcut_audit.results.counts import Rate

OTHERS = Made(first=1, available=600)


@pytest.mark.parametrize("baseline", [None, Made(available=600)])
def test_other_data_under_the_same_names_are_refused(baseline: Made | None) -> None:
    """All 600 images were used, and none of them is there now."""
    policy = frozen(Made(available=600))
    with pytest.raises(ResultError, match="not of the baseline's data"):
        checked(policy, OTHERS, baseline)
    allowed = policy.model_copy(update={"data": "any"})
    assert checked(allowed, OTHERS, baseline).exit_code == 0
    # Of so many that samples need not meet, other images are no other data; of another number, they are.
    assert checked(frozen(Made()), Made(first=1)).exit_code == 0
    with pytest.raises(ResultError, match="another number of images"):
        checked(frozen(Made()), Made(first=1, available=9_000_000))


def test_images_that_another_library_decoded_are_told() -> None:
    """Other pixels are other images, whatever the reason; who upgrades the decoder audits anew."""
    with pytest.raises(ResultError, match=r"Pillow 12.0.0 decoded those, 13.0.0 these"):
        checked(frozen(Made(available=600)), OTHERS.but(pillow="13.0.0"))
    assert checked(frozen(Made(available=600)), Made(available=600, pillow="13.0.0")).exit_code == 0


def test_data_that_have_grown_are_the_same() -> None:
    """By one image, of so many that hardly any should be in both."""
    policy = frozen(Made())
    assert checked(policy, Made(available=10_000_001, n=190)).exit_code == 0


def test_too_few_images_to_tell_the_data_are_told() -> None:
    report = checked(frozen(Made()), Made(first=1))
    assert any("may or may not be the same" in note for note in report.notes)


def test_data_of_which_a_part_has_changed_are_told() -> None:
    audit, changed = made_audit(Made(available=600)), made_audit(Made(available=600))
    image = changed.arrays["outcomes/image"].copy()
    image[::2] += np.uint64(1 << 60)
    origin = changed.provenance
    data = origin.data.model_copy(update={"digest": "another"})
    changed = changed.model_copy(
        update={"provenance": origin.model_copy(update={"data": data})}
    ).with_arrays({**changed.arrays, "outcomes/image": image})
    report = check_gate(changed, frozen_policy(audit, TODAY)[0], today=TODAY)
    assert any("Part of the data has changed" in note for note in report.notes)


def test_the_same_audit_twice_is_told() -> None:
    same = "the model is the same one, on the same images"
    assert any(same in note for note in checked(frozen(Made()), Made()).notes)
    assert not any(same in note for note in checked(frozen(Made()), Made(first=1)).notes)


def test_half_of_the_images_do_not_go_unseen() -> None:
    """Every second image is new, and wrong; of the others nothing changed."""
    before, after = made_audit(Made(n=400)), made_audit(Made(n=400))
    image, predicted = (after.arrays[f"outcomes/{name}"].copy() for name in ("image", "predicted"))
    image[::2] += np.uint64(1)
    predicted[::2] = -1
    arrays = {**after.arrays, "outcomes/image": image, "outcomes/predicted": predicted}
    finding = after.predictions
    rates = tuple(Rate(hits=int((predicted[k * 400 :][:400] == k).sum()), n=400) for k in range(3))
    total = Rate(hits=sum(rate.hits for rate in rates), n=1200)
    worse = finding.model_copy(update={"accuracy": total, "accuracy_by_class": rates})
    findings = tuple(worse if each is finding else each for each in after.findings)
    after = after.model_copy(update={"findings": findings}).with_arrays(arrays)
    report = check_gate(after, frozen_policy(before, TODAY)[0], baseline=before, today=TODAY)
    assert report.exit_code == 1
    check = only(report, rule="accuracy of each class")
    assert (check.paired, check.now) == (False, 0.45)


@pytest.mark.parametrize("outcomes", [(True, False), (False, False)])
def test_whole_data_of_another_digest_are_others_whatever_is_kept_of_them(
    outcomes: tuple[bool, bool],
) -> None:
    one, other = (
        Made(first=k, available=600, outcomes=kept) for k, kept in zip((0, 1), outcomes, strict=True)
    )
    for baseline in (None, one):
        with pytest.raises(ResultError, match="their digests differ"):
            checked(frozen(one), other, baseline)
    report = checked(frozen(one.but(available=9000)), other.but(available=9000))
    assert any("is not known" in note for note in report.notes)
