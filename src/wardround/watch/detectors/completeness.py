"""Signals that come with holes: an hour of which less came than is usual for the same patient, though something comes.

What has stopped altogether is sensors.py's matter; this is a loose electrode, a device at the edge of its reach, a battery that
fades. Each patient's signal is held against its own usual share of an hour, in two hours in a row; what shows at one edge in one
signal is one finding, which counts patients and names none. Pure, and without a state: the hours of a day are looked at anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

HOUR_US = 3_600_000_000
GRACE_US = HOUR_US // 2  # after an hour's end: what waits in a spool still comes
LOW = 0.6  # of the usual share
HOURS = 2  # in a row
USUAL_MIN, KNOWN_MIN, KNOWN_MAX = 0.3, 6, 24  # the least share that can fall; hours before there is a usual one, and of which


@dataclass(frozen=True, slots=True)
class HourShare:
    """What share of one signal of one subject came in one hour, 0 to 1."""

    edge: str
    code: str
    subject: str
    hour_us: int
    share: float


@dataclass(frozen=True, slots=True)
class Incomplete:
    """One signal at one edge: of `patients` with it `low` have holes. `share`, `usual` and `hours` are means over those."""

    edge: str
    code: str
    patients: int
    low: int
    share: float
    usual: float
    since_us: int
    hours: tuple[tuple[float, float], ...]


def incomplete(hours: Iterable[HourShare], now_us: int) -> list[Incomplete]:
    """What comes with holes now; hours that may still be filled do not count."""
    series: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for one in hours:
        if one.hour_us + HOUR_US + GRACE_US <= now_us:
            series.setdefault((one.edge, one.code), {}).setdefault(one.subject, {})[one.hour_us] = one.share
    newest_us = (now_us - GRACE_US) // HOUR_US * HOUR_US - HOUR_US
    found = []
    for (edge, code), subjects in sorted(series.items()):
        low = {s: usual for s, own in subjects.items() if (usual := _usual_of_low(own, newest_us)) is not None}
        if not low:
            continue
        patients = sum(own.get(newest_us, 0.0) > 0.0 for own in subjects.values())
        times = sorted({t for s in low for t in subjects[s]})[-KNOWN_MAX:]
        means = tuple((float(t), round(statistics.mean(subjects[s].get(t, 0.0) for s in low), 3)) for t in times)
        share = statistics.mean(subjects[s][newest_us] for s in low)
        since_us = newest_us - (HOURS - 1) * HOUR_US
        found.append(Incomplete(edge, code, patients, len(low), share, statistics.mean(low.values()), since_us, means))
    return found


def _usual_of_low(own: Mapping[int, float], newest_us: int) -> float | None:
    """The usual share of a signal whose newest hours have holes; None: they have none, nothing comes, or too little is known."""
    newest = [own.get(newest_us - k * HOUR_US, 0.0) for k in range(HOURS)]
    before = [v for t, v in sorted(own.items()) if t <= newest_us - HOURS * HOUR_US and v > 0.0][-KNOWN_MAX:]
    if len(before) < KNOWN_MIN or (usual := statistics.median(before)) < USUAL_MIN:
        return None
    return usual if all(0.0 < share < LOW * usual for share in newest) else None
