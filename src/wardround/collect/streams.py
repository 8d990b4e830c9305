"""What one run of samples is to those before it: out of order, after a gap, after a repeat. And how complete an hour is.

Late, early, repeated and out-of-order data are normal: they are kept, and flagged. A gap is never filled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from wardround.records import Observation, Quality, Validity

STREAMS_MAX = 50_000
GAP_PERIODS = 1.5
GAP_US_MIN = 4_000  # clocks move by as much
EARLY_US = 1_000_000
LATE_US = 900_000_000
HOUR_US = 3_600_000_000
USABLE = frozenset({Validity.VALID, Validity.VALIDATED, Validity.ONGOING, Validity.QUESTIONABLE})


@dataclass(slots=True)
class _Stream:
    newest_us: int  # first sample of the newest run
    end_us: float  # of the newest run


class Streams:
    """The newest run of every (device, signal), in the device's own time; those unheard longest are forgotten first."""

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[str, str], _Stream] = OrderedDict()
        self._repeated: set[str] = set()

    def repeated(self, device: str) -> None:
        """A message of this device has come again, and was suppressed."""
        if len(self._repeated) < STREAMS_MAX:
            self._repeated.add(device)

    def flags(self, o: Observation, now_us: int) -> Quality:
        """The flags of a new run."""
        flags = Quality.NONE
        span_us = o.period_us * o.n if o.period_us is not None else 0.0
        last_us = o.t0_device_us + span_us
        if now_us - (o.t0_us + span_us) > LATE_US:
            flags |= Quality.LATE
        if last_us - now_us > EARLY_US:
            flags |= Quality.EARLY
        if o.device in self._repeated:
            self._repeated.discard(o.device)
            flags |= Quality.DUPLICATE_SUPPRESSED
        key = (o.device, o.code)
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= STREAMS_MAX:
                self._streams.popitem(last=False)
            self._streams[key] = _Stream(o.t0_device_us, last_us)
            return flags
        self._streams.move_to_end(key)
        if o.t0_device_us < stream.newest_us:
            return flags | Quality.OUT_OF_ORDER
        if o.period_us is not None and o.n > 1 and o.t0_device_us - stream.end_us > max(GAP_US_MIN, GAP_PERIODS * o.period_us):
            flags |= Quality.GAP_BEFORE
        stream.newest_us, stream.end_us = o.t0_device_us, max(stream.end_us, last_us)
        return flags


@dataclass(frozen=True, slots=True)
class Hour:
    """What has come of one signal of one subject in one hour. `expected_s` 0: nothing is declared for this signal."""

    subject: str
    code: str
    hour_us: int
    samples: int
    covered_s: float
    expected_s: float = 3600.0
    dropped: int = 0  # samples that were given up for want of room

    @property
    def complete(self) -> float | None:
        """The share of what was to be expected, 0 to 1; None where nothing was."""
        return min(1.0, self.covered_s / self.expected_s) if self.expected_s else None


def covered(o: Observation, interval_s: float) -> Iterator[tuple[int, int, float]]:
    """Hour, samples and seconds covered by a run, split where hours change; a lone value stands for `interval_s`."""
    if o.validity not in USABLE:
        return
    if o.n == 1 or o.period_us is None:
        for time_us in o.times_us().tolist():
            yield time_us // HOUR_US * HOUR_US, 1, interval_s
        return
    at, left = float(o.t0_us), o.n
    while left:
        hour = int(at) // HOUR_US * HOUR_US
        fits = min(left, max(1, -int(-(hour + HOUR_US - at) // o.period_us)))
        yield hour, fits, fits * o.period_us / 1e6
        at, left = at + fits * o.period_us, left - fits


def with_gaps(hours: Iterable[Hour], now_us: int) -> list[Hour]:
    """Every hour from a stream's first to the present one, those without a sample too; the present one as far as it is.

    A signal for which nothing is declared has only the hours in which something came.
    """
    streams: dict[tuple[str, str], dict[int, Hour]] = {}
    for hour in hours:
        streams.setdefault((hour.subject, hour.code), {})[hour.hour_us] = hour
    present = now_us // HOUR_US * HOUR_US
    found: list[Hour] = []
    for (subject, code), known in sorted(streams.items()):
        declared = any(h.covered_s for h in known.values())
        until = max(present, *known) if declared else max(known)
        for start in range(min(known), until + 1, HOUR_US):
            if start not in known and not declared:
                continue
            hour = known.get(start, Hour(subject, code, start, 0, 0.0))
            elapsed_s = min(HOUR_US, max(0, now_us - start)) / 1e6 if start == present else 3600.0
            found.append(replace(hour, expected_s=elapsed_s if declared else 0.0))
    return found
