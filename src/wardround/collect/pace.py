"""How fast an edge may send to its hub: a token bucket, by the hour if the settings say so. No clock and no I/O of its own.

What is measured now goes at once as long as the bucket lasts; what outages left takes what remains, in batches small enough that
a new alarm never waits behind more than BACKLOG_S of them on the link as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from wardround.errors import SettingsError
from wardround.settings import LinkSettings

BURST_S = 1.0  # of the rate may go at once
BACKLOG_S = 0.25
BATCH_BYTES_MIN, BATCH_BYTES_MAX = 16_000, 1_000_000
MEASURE_S_MIN = 0.001
MEMORY = 0.9  # of the measured speed, at each receipt


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the day in which another cap holds; one that ends before it starts goes over midnight."""

    start_min: int
    end_min: int
    bytes_per_s: int

    def holds(self, minute: int) -> bool:
        """Whether it holds at this minute of the day."""
        if self.start_min <= self.end_min:
            return self.start_min <= minute < self.end_min
        return minute >= self.start_min or minute < self.end_min


def parse_windows(texts: dict[str, int]) -> list[Window]:
    """Windows of the settings: {"22:00-06:00": bytes a second}.

    Raises:
        SettingsError: one of them is not two times of day, or its rate is negative.
    """
    found = []
    for text, rate in texts.items():
        try:
            start, end = (_minute(part) for part in text.split("-"))
        except ValueError as exc:
            raise SettingsError(
                f"link.schedule: {text!r} is not a span of the day", remedy='write it as "22:00-06:00" = bytes a second'
            ) from exc
        if rate < 0:
            raise SettingsError(f"link.schedule: {rate} bytes a second", remedy="0 is without a cap; a cap is more than 0")
        found.append(Window(start, end, rate))
    return found


@dataclass(frozen=True, slots=True)
class Stamp:
    """A request that is under way: its bytes, and what had been delivered, and when, as it went."""

    size: int
    delivered: int
    delivered_s: float


@dataclass
class Pace:
    """One link's. `ready_s` says how long to wait before so many bytes; `sent` takes them from the bucket."""

    settings: LinkSettings
    _windows: list[Window] = field(init=False)
    _zone: ZoneInfo = field(init=False)
    _tokens: float = 0.0  # bytes; below zero: so many are owed
    _at_s: float | None = None
    _rate: int = 0
    _speed: float = 0.0  # bytes a second, as receipts show it
    _delivered: int = 0  # bytes
    _delivered_s: float = 0.0  # when the newest of them were
    _idle: bool = True

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SettingsError: a window or the time zone does not hold.
        """
        self._windows = parse_windows(self.settings.schedule)
        try:
            self._zone = ZoneInfo(self.settings.timezone)
        except (KeyError, ValueError, OSError) as exc:
            raise SettingsError(
                f"link.timezone: {self.settings.timezone!r} is not known", remedy='use an IANA name, such as "Europe/Vienna"'
            ) from exc

    def rate(self, now_us: int) -> int:
        """The cap that holds now, bytes a second; 0: none."""
        local = datetime.fromtimestamp(now_us / 1e6, self._zone)
        minute = local.hour * 60 + local.minute
        return next((w.bytes_per_s for w in self._windows if w.holds(minute)), self.settings.bytes_per_s_max)

    def ready_s(self, now_us: int, monotonic_s: float) -> float:
        """How long until something may be sent; 0: now. A message larger than the bucket goes when the bucket is full."""
        self._fill(now_us, monotonic_s)
        return 0.0 if not self._rate or self._tokens > 0 else -self._tokens / self._rate + 1e-6

    def sent(self, size: int, now_us: int, monotonic_s: float) -> Stamp:
        """So many bytes go now; what `receipted` needs to know of it."""
        self._fill(now_us, monotonic_s)
        if self._rate:
            self._tokens -= size
        return Stamp(size, self._delivered, monotonic_s if self._idle else self._delivered_s)

    def receipted(self, stamp: Stamp, monotonic_s: float, *, idle: bool) -> None:
        """The hub has one request more; `idle`: nothing else is under way.

        The speed is what was delivered while that request was under way (N. Cardwell et al., BBR: congestion-based congestion
        control, ACM Queue 14(5), 2016): it holds too where the link is faster than what it is given.
        """
        self._delivered += stamp.size
        self._delivered_s, self._idle = monotonic_s, idle
        speed = (self._delivered - stamp.delivered) / max(monotonic_s - stamp.delivered_s, MEASURE_S_MIN)
        self._speed = max(speed, MEMORY * self._speed + (1 - MEMORY) * speed)

    def connected(self) -> None:
        """A connection begins: nothing is under way."""
        self._idle = True

    def live_bytes(self) -> int:
        """How large a batch of what is measured now may be."""
        return int(min(BATCH_BYTES_MAX, max(BATCH_BYTES_MIN, BURST_S * self._rate))) if self._rate else BATCH_BYTES_MAX

    def backlog_bytes(self) -> int:
        """How large a batch of what an outage left may be: small until receipts have shown how fast the link is."""
        speed = min(self._speed, self._rate) if self._rate else self._speed
        return int(min(BATCH_BYTES_MAX, max(BATCH_BYTES_MIN, BACKLOG_S * speed)))

    def _fill(self, now_us: int, monotonic_s: float) -> None:
        before, self._rate = self._rate, self.rate(now_us)
        if self._at_s is None or before != self._rate:
            self._tokens = BURST_S * self._rate
        else:
            self._tokens = min(BURST_S * self._rate, self._tokens + (monotonic_s - self._at_s) * self._rate)
        self._at_s = monotonic_s


def _minute(text: str) -> int:
    hour, _, minute = text.strip().partition(":")
    if not (
        hour.isdecimal() and minute.isdecimal() and int(hour) <= 24 and int(minute) < 60 and int(hour) * 60 + int(minute) <= 1440
    ):
        raise ValueError(text)
    return int(hour) * 60 + int(minute)
