"""When an edge may be asked to train: windows of the day, and what the edge must be in a state to do. Pure functions.

One table, `[schedule]`, stands in study.toml, where the hub asks by it, and in edge.toml, where the edge itself refuses by it.
Source of the conditions (charging, unmetered, idle): Bonawitz et al., Towards Federated Learning at Scale, MLSys 2019,
arXiv:1902.01046, sections 2.1 and 3.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from wardround.errors import StudyError
from wardround.learn.condition import Condition
from wardround.settings import ScheduleSettings

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = "|".join(DAYS)
_WINDOW = re.compile(rf"(?:(?P<days>(?:{_DAY})(?:[-,](?:{_DAY}))*) +)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)")
MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the day, on some days of the week; one that ends before it begins goes on into the next day."""

    days: frozenset[int]  # of its beginning; Monday is 0
    start: int
    end: int


def parse_window(text: str) -> Window:
    """`22:00-06:00`, `mon-fri 18:00-07:00`, `sat,sun 00:00-24:00`.

    Raises:
        StudyError: it is none.
    """
    found = _WINDOW.fullmatch(text.strip().lower())
    remedy = 'write it like "22:00-06:00" or "sat,sun 00:00-24:00"'
    if found is None:
        raise StudyError(f"schedule.windows: `{text}` is no window", remedy=remedy)
    start, end = _minutes(found["start"]), _minutes(found["end"])
    if start >= MINUTES or end > MINUTES or start == end:
        raise StudyError(f"schedule.windows: `{text}` is no window", remedy=remedy)
    return Window(_days(found["days"]), start, end)


def _minutes(text: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    return hours * 60 + minutes if minutes < 60 else 2 * MINUTES


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        ends = [DAYS.index(day) for day in part.split("-")]
        first, last = ends[0], ends[-1]
        days |= {(first + i) % 7 for i in range((last - first) % 7 + 1)}
    return frozenset(days)


def check_schedule(schedule: ScheduleSettings) -> None:
    """Whether a schedule can be kept.

    Raises:
        StudyError: the first thing that does not hold.
    """
    for window in schedule.windows:
        parse_window(window)
    try:
        ZoneInfo(schedule.timezone)
    except (KeyError, ValueError, OSError) as exc:
        raise StudyError(
            f"schedule.timezone is `{schedule.timezone}`, which this machine does not know",
            remedy='use a name of the IANA database, such as "Europe/Berlin"; on Debian the package is tzdata',
        ) from exc
    for key, value, low, high in (
        ("battery_min", schedule.battery_min, 0.0, 100.0),
        ("signal_dbm_min", schedule.signal_dbm_min, -120.0, 0.0),
        ("load_max", schedule.load_max, 0.0, 1.0),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            raise StudyError(f"schedule.{key} is {value:g}", remedy=f"choose a value from {low:g} to {high:g}")


def is_open(schedule: ScheduleSettings, now_us: int) -> bool:
    """Whether a window is open now, by the clocks on the wall of its time zone; without windows it always is."""
    if not schedule.windows:
        return True
    local = dt.datetime.fromtimestamp(now_us / 1e6, ZoneInfo(schedule.timezone))
    minute = local.hour * 60 + local.minute
    today, yesterday = local.weekday(), (local.weekday() - 1) % 7
    for window in map(parse_window, schedule.windows):
        if window.start < window.end:
            if today in window.days and window.start <= minute < window.end:
                return True
        elif (today in window.days and minute >= window.start) or (yesterday in window.days and minute < window.end):
            return True
    return False


def opens_us(schedule: ScheduleSettings, now_us: int) -> int:
    """When the next window opens; now, when one is open."""
    if is_open(schedule, now_us):
        return now_us
    zone = ZoneInfo(schedule.timezone)
    today = dt.datetime.fromtimestamp(now_us / 1e6, zone).date()
    found: list[int] = []
    for window in map(parse_window, schedule.windows):
        for days in range(9):
            date = today + dt.timedelta(days=days)
            start = dt.time(window.start // 60, window.start % 60)
            at_us = round(dt.datetime.combine(date, start, zone).timestamp() * 1e6)
            if date.weekday() in window.days and at_us > now_us:
                found.append(at_us)
    return min(found)


def lacks(schedule: ScheduleSettings, condition: Condition | None, now_us: int, *, at_work: bool = False) -> str:
    """Why an edge in this condition may not train now, as a constant; empty: it may.

    `at_work`: it trains already, so its load is the training's own and no reason to stop.
    """
    if not is_open(schedule, now_us):
        return "window-closed"
    asks_network = not schedule.metered or schedule.signal_dbm_min < 0
    if not (schedule.charging or schedule.battery_min > 0 or asks_network or schedule.load_max > 0):
        return ""
    if condition is None:
        return "condition-unknown"
    weak = condition.signal_dbm is None or condition.signal_dbm < schedule.signal_dbm_min
    found = {
        "not-charging": schedule.charging and not condition.charging,
        "battery-low": condition.battery is not None and condition.battery < schedule.battery_min,
        "network-unknown": asks_network and not condition.network,
        "network-metered": condition.metered and not schedule.metered,
        "signal-weak": schedule.signal_dbm_min < 0 and condition.network == "wifi" and weak,
        "load-high": 0 < schedule.load_max < condition.load and not at_work,
    }
    return next((reason for reason, holds in found.items() if holds), "")
