"""What was never seen of a vital sign, hour by hour: nothing while it learns, once when it is new, the same after a restart."""

from __future__ import annotations

import math

import pytest

from wardround.watch.trend_novelty import HOUR_US, LEARNING, OVER_HOURS, PATIENTS_MAX, VITALS_MAX, TrendNovelty


def pulse(hour):
    return 75.0 + math.sin(hour)


def lived(hours, watch=None, subject="p1"):
    watch = watch or TrendNovelty()
    return watch, [found for hour in range(hours) if (found := watch.hour(subject, "pulse", hour, pulse(hour))) is not None]


def test_an_hour_that_was_never_so_is_said_once_and_becomes_usual():
    watch, found = lived(40)
    assert found == []
    new = watch.hour("p1", "pulse", 40, 110.0)
    assert (new.subject, new.vital, new.value, new.t_us) == ("p1", "pulse", 110.0, 40 * HOUR_US)
    assert new.score > new.threshold
    assert new.evidence[-1] == (40.0 * HOUR_US, 110.0)
    assert watch.hour("p1", "pulse", 41, 110.0) is None  # nothing higher within a day
    assert watch.standing(42 * HOUR_US) == {("p1", "pulse")}
    assert watch.standing((42 + OVER_HOURS) * HOUR_US) == set()


def test_it_says_nothing_of_a_patient_whom_it_does_not_know():
    watch, _ = lived(LEARNING.learnt - 1)
    assert watch.hour("p1", "pulse", LEARNING.learnt - 1, 180.0) is None
    assert watch.hour("p2", "pulse", LEARNING.learnt, 180.0) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_hour_that_is_none_and_one_that_is_told_again_change_nothing(value):
    watch, _ = lived(40)
    before = watch.changed()["p1"]
    assert watch.hour("p1", "pulse", 40, value) is None
    assert watch.hour("p1", "pulse", 39, 180.0) is None
    assert watch.changed()["p1"] == before


def test_a_restart_in_the_middle_is_not_seen():
    one, _ = lived(50)
    half, _ = lived(25)
    other = TrendNovelty()
    for subject, state in half.changed().items():
        other.restore(subject, state)
    for hour in range(25, 50):
        other.hour("p1", "pulse", hour, pulse(hour))
    assert other.hour("p1", "pulse", 50, 110.0) == one.hour("p1", "pulse", 50, 110.0) is not None
    with pytest.raises(ValueError, match="no state"):
        other.restore("p1", b"\xc1")


def test_only_what_is_new_is_to_be_kept_and_who_has_gone_is_gone():
    watch, _ = lived(30)
    lived(30, watch, "p2")
    assert set(watch.changed()) == {"p1", "p2"}
    watch.settled()
    watch.hour("p2", "pulse", 30, 75.0)
    assert set(watch.changed()) == {"p2"}
    assert watch.forget("p1")
    assert watch.changed()["p1"] == b""
    assert watch.subjects() == ["p2"]


def test_memory_is_bounded():
    watch = TrendNovelty()
    for number in range(PATIENTS_MAX + 20):
        watch.hour(f"p{number}", "pulse", 1, 75.0)
    assert len(watch.subjects()) == PATIENTS_MAX
    assert watch.changed()["p0"] == b""
    for number in range(VITALS_MAX + 5):
        watch.hour("p100", f"vital-{number}", 2, 1.0)
    for hour in range(3, 400):
        watch.hour("p100", "pulse", hour, pulse(hour))
    assert len(watch.changed()["p100"]) < 60_000
    assert len(watch.hour("p100", "pulse", 400, 150.0).evidence) == LEARNING.evidence_max
