"""When an edge may train."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from zoneinfo import ZoneInfo

import msgspec
import pytest

from wardround.errors import StudyError
from wardround.learn.condition import Condition
from wardround.learn.schedule import check_schedule, is_open, lacks, opens_us
from wardround.settings import ScheduleSettings

GOOD = Condition(charging=True, battery=80.0, network="wifi", signal_dbm=-55.0, metered=False, load=0.1)


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1e6)


def windows(*texts: str, zone: str = "UTC") -> ScheduleSettings:
    return ScheduleSettings(windows=texts, timezone=zone)


@pytest.mark.parametrize(
    ("text", "when", "open_"),
    [
        ("22:00-06:00", "2026-11-25T21:59", False),
        ("22:00-06:00", "2026-11-25T22:00", True),
        ("22:00-06:00", "2026-11-26T05:59", True),
        ("22:00-06:00", "2026-11-26T06:00", False),
        ("00:00-24:00", "2026-11-26T23:59", True),
        ("sat,sun 10:00-12:00", "2026-11-28T11:00", True),  # a Saturday
        ("sat,sun 10:00-12:00", "2026-11-27T11:00", False),
        ("fri 22:00-06:00", "2026-11-28T05:00", True),  # it began on Friday
        ("fri 22:00-06:00", "2026-11-29T05:00", False),
        ("fri-mon 10:00-12:00", "2026-11-30T11:00", True),
        ("fri-mon 10:00-12:00", "2026-12-01T11:00", False),
    ],
)
def test_windows(text, when, open_):
    assert is_open(windows(text), at(when)) is open_


def test_windows_follow_the_clocks_on_the_wall():
    night = windows("22:00-06:00", zone="Europe/Berlin")
    assert is_open(night, at("2026-07-01T20:30"))  # summer: UTC+2
    assert not is_open(night, at("2026-12-01T20:30"))
    early = windows("02:00-03:00", zone="Europe/Berlin")
    again = [is_open(early, at("2026-10-25T02:30", "Europe/Berlin", fold)) for fold in (0, 1)]
    assert again == [True, True]  # the hour comes twice, and both count


@pytest.mark.parametrize(
    ("texts", "now", "opens"),
    [
        (["22:00-06:00"], "2026-11-25T12:00", "2026-11-25T22:00"),
        (["22:00-06:00"], "2026-11-25T23:00", "2026-11-25T23:00"),
        (["sat 10:00-12:00", "mon 08:00-09:00"], "2026-11-28T12:00", "2026-11-30T08:00"),
        (["wed 10:00-12:00"], "2026-11-25T12:00", "2026-12-02T10:00"),
    ],
)
def test_when_the_next_window_opens(texts, now, opens):
    assert opens_us(windows(*texts), at(now)) == at(opens)


@pytest.mark.parametrize(
    "text", ["", "22:00", "22:00-25:00", "24:00-06:00", "08:60-09:00", "08:00-08:00", "xyz 08:00-09:00", "8-9"]
)
def test_what_is_no_window_is_refused(text):
    with pytest.raises(StudyError, match="no window"):
        check_schedule(windows(text))


@pytest.mark.parametrize(
    "changes",
    [{"timezone": "Mars/Base"}, {"timezone": "../x"}, {"battery_min": 101.0}, {"signal_dbm_min": 5.0}, {"load_max": 2.0}],
)
def test_what_cannot_be_kept_is_refused(changes):
    with pytest.raises(StudyError, match=next(iter(changes))):
        check_schedule(ScheduleSettings(**changes))


ASKS = ScheduleSettings(charging=True, battery_min=50.0, metered=False, signal_dbm_min=-67.0, load_max=0.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"charging": False}, "not-charging"),
        ({"battery": 49.0}, "battery-low"),
        ({"battery": None}, ""),
        ({"metered": True}, "network-metered"),
        ({"network": ""}, "network-unknown"),
        ({"signal_dbm": -80.0}, "signal-weak"),
        ({"signal_dbm": None}, "signal-weak"),
        ({"signal_dbm": None, "network": "wired"}, ""),
        ({"load": 0.9}, "load-high"),
    ],
)
def test_conditions(changes, reason):
    condition = replace(GOOD, **changes)
    assert lacks(ASKS, condition, 0) == reason
    assert lacks(ScheduleSettings(), condition, 0) == ""


def test_the_load_of_a_training_does_not_stop_it():
    assert lacks(ASKS, replace(GOOD, load=0.9), 0, at_work=True) == ""
    assert lacks(ASKS, replace(GOOD, load=0.9, charging=False), 0, at_work=True) == "not-charging"


def test_an_edge_that_has_said_nothing_is_not_asked_where_something_is_asked_for():
    assert lacks(ASKS, None, 0) == "condition-unknown"
    assert lacks(windows("00:00-24:00"), None, 0) == ""
    assert lacks(msgspec.structs.replace(ASKS, windows=("10:00-11:00",)), None, 0) == "window-closed"
