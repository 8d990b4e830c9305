"""Watching a patient: what lasts is told once, what does not is not; the patient's own usual counts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.process.transforms.early_warning import HORIZON_US, Vitals, news2
from wardround.watch.bedside import HOUR_US, MINUTE_US, PATIENTS_MAX, POINTS_MAX, Bedside, Total

HEALTHY = {"pulse": 75.0, "respiratory-rate": 16.0, "spo2": 97.0, "systolic": 125.0, "temperature": 36.8}
SICK = {"pulse": 135.0, "respiratory-rate": 26.0, "spo2": 90.0, "systolic": 88.0, "temperature": 38.6}


def total(_subject, values):
    found = news2(Vitals(**{name.replace("-", "_"): v for name, v in values.items()}))
    return Total(found.total, found.red)


def bedside():
    return Bedside(total, horizon_us=HORIZON_US)


def lived(watch, minutes, values, *, first=0, subject="p", every=1):
    """Feed a value a minute of each vital sign; the episodes, with the minute they were seen in."""
    found = []
    for minute in range(first, first + minutes):
        for name in HEALTHY:
            if minute % every == 0:
                watch.observe(subject, name, minute * MINUTE_US, values(name, minute))
        found += [(minute, e) for e in watch.tick(minute * MINUTE_US)]
    return found


def steady(name, _minute):
    return HEALTHY[name]


def test_a_healthy_patient_is_not_spoken_of():
    chance = random.Random(1)
    spread = {"pulse": 4.0, "respiratory-rate": 1.2, "spo2": 0.6, "systolic": 6.0, "temperature": 0.1}
    assert lived(bedside(), 3 * 1440, lambda n, _: HEALTHY[n] + chance.gauss(0, spread[n])) == []


def test_a_sick_one_is_told_once_with_the_priority_and_is_over_when_it_is():
    watch = bedside()
    lived(watch, 60, steady)
    found = lived(watch, 60, lambda n, _: SICK[n], first=60)
    assert [(e.kind, e.priority, e.over) for _, e in found] == [("news2", "medium", False), ("news2", "high", False)]
    minute, episode = found[-1]
    assert minute - 60 <= 15  # nine minutes for the median to turn, eight of ten votes
    assert episode.score >= 7
    assert episode.values["pulse"] == SICK["pulse"]
    after = lived(watch, 60, steady, first=120)
    assert [(e.kind, e.over) for _, e in after if e.over] == [("news2", True)]
    assert len(after) <= 2  # it may become less urgent on its way


def test_bursts_of_artefact_are_not_told():
    chance = random.Random(2)

    def burst(name, minute):
        return 30.0 if name == "spo2" and minute % 30 < 3 else HEALTHY[name] + chance.gauss(0, 0.05)

    assert lived(bedside(), 1440, burst) == []


def test_a_course_away_from_the_own_usual_is_told_before_the_score_is():
    watch = bedside()
    lived(watch, 26 * 60, steady)
    start = 26 * 60

    def creeping(name, minute):
        return HEALTHY[name] + (SICK[name] - HEALTHY[name]) * min(1.0, (minute - start) / 360)

    found = lived(watch, 360, creeping, first=start)
    kinds = [e.kind for _, e in found if not e.over]
    assert kinds[0] == "own-baseline"
    assert "news2" in kinds
    first = next(e for _, e in found if e.kind == "own-baseline")
    assert len(first.away) >= 2


def test_a_low_pulse_of_an_athlete_is_no_course():
    watch = bedside()
    usual = {**HEALTHY, "pulse": 52.0}
    assert lived(watch, 30 * 60, lambda n, _: usual[n]) == []


def test_readings_by_the_hour_hold_as_long_as_the_chart_allows():
    watch = bedside()
    found = lived(watch, 180, lambda n, _: SICK[n], every=60)
    assert [(e.kind, e.priority) for _, e in found] == [("news2", "high")]
    late = lived(watch, 60, steady, first=15 * 60 + 1, every=10_000)  # nothing has come for twelve hours
    assert [e.over for _, e in late] == [True]


def test_numbers_that_are_none_and_readings_from_the_past_change_nothing():
    watch = bedside()
    watch.observe("p", "pulse", 10 * MINUTE_US, 75.0)
    before = watch.state()
    watch.observe("p", "pulse", 5 * MINUTE_US, 190.0)
    watch.observe("p", "pulse", 11 * MINUTE_US, float("nan"))
    watch.observe("p", "shoe-size", 11 * MINUTE_US, 44.0)
    assert watch.state() == before


def test_memory_is_bounded_and_a_patient_can_be_forgotten():
    watch = bedside()
    for minute in range(3 * POINTS_MAX):
        watch.observe("p", "pulse", minute * MINUTE_US, 75.0)
    one = len(watch.state())
    for minute in range(3 * POINTS_MAX, 9 * POINTS_MAX):
        watch.observe("p", "pulse", minute * MINUTE_US, 75.0)
    assert len(watch.state()) < 1.3 * one
    for number in range(PATIENTS_MAX + 50):
        watch.observe(f"p{number}", "pulse", HOUR_US, 75.0)
    assert b"p549" in watch.state()
    watch.forget("p549")
    assert b"p549" not in watch.state()
    with pytest.raises(ValueError, match="no state"):
        watch.restore(b"\xc1")


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 120))
def test_a_restart_changes_nothing(data, cut):
    plan = data.draw(st.lists(st.floats(20, 200), min_size=120, max_size=120))

    def values(name, minute):
        return plan[minute] if name == "pulse" else (SICK if plan[minute] > 110 else HEALTHY)[name]

    whole = lived(bedside(), 120, values)
    first = bedside()
    found = lived(first, cut, values)
    again = bedside()
    again.restore(first.state())
    assert found + lived(again, 120 - cut, values, first=cut) == whole


def test_a_clock_that_is_set_back_by_a_day_does_not_blind_it():
    watch = bedside()
    lived(watch, 60, steady, first=2000)
    found = lived(watch, 40, lambda n, _: SICK[n], first=500)
    assert [(e.kind, e.priority) for _, e in found] == [("news2", "high")]


def test_a_restart_in_the_middle_of_an_episode_does_not_tell_it_again():
    watch = bedside()
    assert lived(watch, 30, lambda n, _: SICK[n])
    again = bedside()
    again.restore(watch.state())
    for name in HEALTHY:  # what was on the disk already is read once more
        again.observe("p", name, 29 * MINUTE_US, SICK[name])
    assert again.state() == watch.state()
    assert lived(again, 30, lambda n, _: SICK[n], first=30) == []
