"""Read models of the Ward: subjects by need, and one record. Values are of past minutes or hours: no alarm is made of them."""

from __future__ import annotations

from dataclasses import dataclass

from wardround.console.model import Priority

PER_PAGE = 50
HOUR_US = 3_600_000_000
SPANS: dict[str, tuple[str, int]] = {  # in the address: words, and how long
    "1h": ("1 h", HOUR_US),
    "4h": ("4 h", 4 * HOUR_US),
    "12h": ("12 h", 12 * HOUR_US),
    "24h": ("24 h", 24 * HOUR_US),
    "7d": ("7 days", 7 * 24 * HOUR_US),
    "30d": ("30 days", 30 * 24 * HOUR_US),
    "1y": ("1 year", 365 * 24 * HOUR_US),
}
DEFAULT_SPAN = "12h"


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """One subject in the list. `news2` is None where nothing can be said; `at_least`: a part of the score is missing."""

    subject: str
    edge: str
    news2: int | None = None
    at_least: bool = False
    red: bool = False
    scores: tuple[int, ...] = ()  # by hour, the newest last
    complete: float | None = None  # of the last hours, 0 to 1
    last_us: int = 0  # the newest vital sign; 0: none lately
    priority: Priority | None = None  # of the most urgent open alert about this subject

    @property
    def rise(self) -> int:
        """Points of NEWS2 above the lowest of these hours; 0 where nothing can be said now."""
        return self.scores[-1] - min(self.scores) if self.news2 is not None and self.scores else 0


@dataclass(frozen=True, slots=True)
class WardList:
    """One page of the subjects that match, those with the most need first."""

    rows: tuple[SubjectRow, ...]
    page: int
    matching: int
    total: int
    edges: tuple[str, ...]  # that have subjects here
    looked_us: int
    newer: int = 0  # subjects that stand elsewhere by now than on this page

    @property
    def pages(self) -> int:
        """How many there are, at least one."""
        return max(1, -(-self.matching // PER_PAGE))


@dataclass(frozen=True, slots=True)
class Point:
    """One window of a trend: mean and reach of its values, in the signal's unit."""

    t_us: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class VitalView:
    """One vital sign: the newest value, its NEWS2 points, and what is usual for this subject."""

    code: str
    title: str
    unit: str
    value: float
    at_us: int
    points: int | None = None
    usual: tuple[float, float] | None = None
    means: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TrendView:
    """One signal over the chosen time: at most a thousand points, and the share that came of each hour or day beneath."""

    code: str
    title: str
    unit: str
    points: tuple[Point, ...]
    width_us: int
    complete: tuple[tuple[int, int, float], ...] = ()  # start, width, share


@dataclass(frozen=True, slots=True)
class WaveView:
    """The newest seconds of a waveform: lowest and highest of each column, None where nothing was measured."""

    code: str
    title: str
    unit: str
    start_us: int
    seconds: float
    columns: tuple[tuple[float, float] | None, ...]


@dataclass(frozen=True, slots=True)
class FindingView:
    """Something that was found about this subject."""

    alert_id: str
    title: str
    detail: str
    priority: Priority
    since_us: int
    open: bool


@dataclass(frozen=True, slots=True)
class RecordView:
    """One subject's record, as of `until_us`, over the time `span`."""

    subject: str
    edge: str
    span: str
    since_us: int
    until_us: int
    live: bool
    consent: tuple[tuple[str, str], ...] = ()  # how many signals may travel, stay, are not kept: word, count
    news2: SubjectRow | None = None
    missing: tuple[str, ...] = ()
    vitals: tuple[VitalView, ...] = ()
    scores: tuple[tuple[int, int, bool], ...] = ()  # end of the hour, points, at least
    trends: tuple[TrendView, ...] = ()
    waves: tuple[WaveView, ...] = ()
    findings: tuple[FindingView, ...] = ()
