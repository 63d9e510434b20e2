from __future__ import annotations

import pytest

from shortcut_audit.report.summary import by_excess, class_sentence, duration, headline, percent
from shortcut_audit.results.audit_result import AuditResult


def test_the_headline_names_the_class_with_the_largest_excess(grey: AuditResult) -> None:
    order = by_excess(grey)
    excess = [(i.tpr_kept.value or 0) - (i.fpr_kept.value or 0) for i in order]
    assert excess == sorted(excess, reverse=True)
    assert f"“{order[0].class_name}”" in headline(grey)
    assert percent(grey.predictions.accuracy.value) in headline(grey)
    assert percent(order[0].fpr_kept.value) in class_sentence(grey, order[0])


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (120, "2 min"), (7200, "2.0 h"), (864000, "10.0 days")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_was_not_measured_is_a_dash() -> None:
    assert percent(None) == "–"
