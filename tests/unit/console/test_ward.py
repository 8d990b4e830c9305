"""The Ward from frozen read models: by need, calm, honest about what is missing; names made safe."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from wardround.console import ward_charts as charts
from wardround.console.looking import Looking
from wardround.console.model import Overview
from wardround.console.ward import refused, sections
from wardround.console.ward_model import Point, RecordView, SubjectRow, TrendView, VitalView, WardList, WaveView
from wardround.console.ward_pages import FRESH_US, WardPages, at_of
from wardround.console.words import number

NOW = 1_764_000_000_000_000
HOUR = 3_600_000_000
VIEW = Overview(NOW, "hub-1", "1.0", "Northmoor", simulated=True, subjects=2)
HIGH = SubjectRow("q7k4-m2xd", "resp-1", 8, red=True, scores=(4, 5, 8), complete=0.97, last_us=NOW, priority="high")
LOW = SubjectRow("<b>x", "resp-1", None, last_us=NOW - HOUR)
LIST = WardList((HIGH, LOW), 1, 2, 2, ("resp-1",), NOW)
RECORD = RecordView(
    "q7k4-m2xd", "resp-1", "12h", NOW - 12 * HOUR, NOW, live=True, news2=HIGH,
    vitals=(VitalView("loinc:8867-4", "Heart rate (ECG)", "/min", 91.26, NOW - 10 * 60_000_000, 1, (70.0, 82.0), (80.0, 91.0)),),
)  # fmt: skip


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html)))


def test_the_answer_is_one_sentence_and_never_an_alarm():
    def answer(subjects, record=None, chosen=""):
        return text(sections(VIEW, subjects, record, chosen=chosen)["answer"])

    assert "1 subject on this page scores NEWS2 7 or more." in answer(LIST)
    assert "q7k4-m2xd scores NEWS2 8, up from 4." in answer(LIST, RECORD, "q7k4-m2xd")
    assert "asks for emergency assessment" in answer(LIST, RECORD, "q7k4-m2xd")
    assert "One moment" in answer(None)
    assert "There is no such subject" in answer(LIST, None, "gone")
    for said in (answer(LIST), answer(LIST, RECORD, "q7k4-m2xd"), answer(None)):
        assert "do not rely on Wardround for primary alarms" in said


def test_names_are_safe_and_a_lost_subject_looks_lost():
    shown = sections(VIEW, LIST, None)["ward-list"]
    assert "<b>x" not in shown
    assert "&lt;b&gt;x" in shown
    assert "lost 15:00" in text(shown)
    assert "no score" in text(shown)


def test_a_value_that_is_old_is_grey_and_says_its_time():
    shown = sections(VIEW, LIST, RECORD, chosen="q7k4-m2xd")["record"]
    assert '<div class="vt stale"' in shown
    assert "15:50 UTC, 9 min old" in text(shown)
    assert "usual 70 to 82" in text(shown)


def test_who_may_not_see_is_told_who_may():
    parts = refused(Looking("olga", "operator"))
    assert "clinician or admin" in text(parts["ward-list"])
    assert parts["record"] == ""


def test_a_trend_breaks_where_nothing_came():
    points = tuple(Point(NOW - k * HOUR, 80.0 + k, 78.0 + k, 83.0 + k) for k in (9, 8, 7, 3, 2, 1))
    view = TrendView("c", "Pulse", "/min", points, HOUR, ((NOW - HOUR, HOUR, 0.3), (NOW - 2 * HOUR, HOUR, 1.0)))
    drawn = charts.trend(view, NOW - 12 * HOUR, NOW)
    assert drawn.count("<polyline") == 2
    assert drawn.count('fill="url(#poor)"') == 1
    assert "Pulse: newest 81 /min, between 79 and 92" in drawn
    assert "nothing came" in charts.trend(TrendView("c", "Pulse", "/min", (), HOUR), NOW - HOUR, NOW)


def test_scores_are_one_line_where_hours_follow_on_each_other():
    found = [(NOW - k * HOUR, 3 + (k < 2), True) for k in (5, 4, 1, 0)]
    drawn = charts.scores(found, NOW - 12 * HOUR, NOW)
    [path] = re.findall(r'class="mean" d="([^"]+)"', drawn)
    assert path.count("M") == 2
    assert "newest 4, highest 4" in drawn


def test_a_gap_in_a_waveform_is_a_box_and_never_a_line():
    columns = tuple(None if 200 <= i < 300 else (0.0, 1.0) for i in range(640))
    drawn = charts.wave(WaveView("c", "ECG", "mV", NOW, 8.0, columns))
    assert drawn.count('class="gap"') == 1
    assert "1 gaps" not in drawn
    [path] = re.findall(r'class="ink-line" d="([^"]+)"', drawn)
    assert path.count("M") == 2


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("2026-11-24T03:12Z", 1_795_489_920_000_000),
        ("1795489920000000", 1_795_489_920_000_000),
        ("", None),
        ("now", None),
        ("9" * 30, None),
    ],
)
def test_a_moment_in_an_address(given, found):
    assert at_of(given) == found


def test_numbers_have_as_many_digits_as_are_sure():
    assert [number(v) for v in (1204.4, 114, 37.84, 0.638, 8.0, -3.25)] == ["1,204", "114", "37.8", "0.64", "8", "-3.25"]


def test_of_a_thousand_edges_one_types_the_name():
    many = replace(LIST, edges=tuple(f"edge-{k:04}" for k in range(1_000)))
    shown = sections(VIEW, many, None, edge="edge-0007")["ward-list"]
    assert "<option" not in shown
    assert 'name="edge" value="edge-0007"' in shown


def test_a_page_keeps_its_order_from_the_first_list_that_is_read_while_it_is_looked_at():
    class Listing:
        def __init__(self):
            self.now, self.kept = replace(LIST, looked_us=NOW - 2 * FRESH_US), []

        def subjects(self, who, *, edge="", find="", page=1, kept=None):
            self.kept.append(kept)
            return self.now

    desk, cleo = Listing(), Looking("cleo", "clinician", address="/ward")
    screen = WardPages(desk, lambda: VIEW).screens()[0]
    screen.sections(cleo)  # a list from before anybody looked
    desk.now = replace(LIST, rows=LIST.rows[::-1], looked_us=NOW)
    screen.sections(cleo)
    screen.sections(cleo)
    assert desk.kept == [None, None, tuple(r.subject for r in LIST.rows[::-1])]
