from __future__ import annotations

import pytest
from judged import NOTHING, SHORTCUT, UNJUDGED, with_verdicts

from shortcut_audit.report.summary import by_excess, class_sentence, duration, headline, percent
from shortcut_audit.report.verdict_words import verdict_sentence
from shortcut_audit.results.audit_result import AuditResult


def test_without_verdicts_the_headline_names_the_class_with_the_largest_excess(grey: AuditResult) -> None:
    old = with_verdicts(grey, UNJUDGED, UNJUDGED)
    order = by_excess(old)
    excess = [(i.tpr_kept.value or 0) - (i.fpr_kept.value or 0) for i in order]
    assert excess == sorted(excess, reverse=True)
    assert headline(old).startswith("No class was judged")
    assert class_sentence(old, order[0]) in headline(old)
    assert percent(grey.predictions.accuracy.value) in headline(old)
    assert percent(order[0].fpr_kept.value) in class_sentence(old, order[0])


def test_with_verdicts_they_come_first_and_no_single_map_is_told(grey: AuditResult) -> None:
    result = with_verdicts(grey, NOTHING, SHORTCUT)
    told = headline(result)
    assert told.startswith(verdict_sentence(result))
    assert percent(grey.predictions.accuracy.value) in told
    assert not any(class_sentence(result, item) in told for item in result.shortcuts.by_class)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (120, "2 min"), (7200, "2.0 h"), (864000, "10.0 days")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_was_not_measured_is_a_dash() -> None:
    assert percent(None) == "–"
