"""The alarm load, against alerts that are counted by hand."""

from __future__ import annotations

import pytest

from wardround.watch.alarm_load import alarm_load
from wardround.watch.alerts import COOL_DOWN_US, AlertBook, Finding

S = 1_000_000


def finding(kind, subject="", category="physiological"):
    facts = {"title": kind, "priority": "medium", "since_us": 0, "detected_us": 0, "edge": "icu-a"}
    return Finding(kind=kind, category=category, subject=subject, **facts)


@pytest.fixture
def book():
    """Three of one kind and one device: one answered after 60 s, one after its end, one not at all."""
    made = AlertBook(prefix="B")
    one, two, three = (made.raise_(finding("news2", f"p{n}"), n * S) for n in (1, 2, 3))
    made.acknowledge(one.alert_id, "nurse", 61 * S)
    made.clear(two.finding.fingerprint, 30 * S)
    made.judge(one.alert_id, actionable=True, who="nurse", now_us=70 * S)
    made.judge(two.alert_id, actionable=False, who="nurse", now_us=70 * S)
    made.raise_(finding("device-silent", category="technical"), 5 * S)
    assert three.alert_id == "B-0003"
    return made


def test_shares_are_of_what_was_told_and_of_what_was_judged(book):
    loads = {(x.category, x.kind): x for x in alarm_load(book.alerts(), since_us=0, until_us=100 * S, patient_days=2.0)}
    assert list(loads) == [("physiological", ""), ("physiological", "news2"), ("technical", ""), ("technical", "device-silent")]
    news2 = loads["physiological", "news2"]
    assert (news2.alerts, news2.per_patient_day, news2.acknowledged) == (3, 1.5, pytest.approx(1 / 3))
    assert (news2.answer_s, news2.judged, news2.actionable) == (60.0, 2, 0.5)
    assert loads["technical", ""].actionable is None


def test_what_fired_before_the_span_does_not_count_and_what_fires_again_does(book):
    one = book.get("B-0001")
    book.clear(one.finding.fingerprint, 80 * S)
    assert book.raise_(one.finding, 80 * S + COOL_DOWN_US - 1).alert_id == "B-0001"
    (whole, _) = alarm_load(book.alerts(), since_us=50 * S, until_us=10**12, patient_days=0.0)
    assert (whole.alerts, whole.per_patient_day, whole.acknowledged) == (1, None, 0.0)
    both = alarm_load(book.alerts(), since_us=0, until_us=10**12, patient_days=1.0)[0]
    assert both.alerts == 4


def test_a_pending_one_was_not_told():
    assert alarm_load([], since_us=0, until_us=1, patient_days=1.0) == []
