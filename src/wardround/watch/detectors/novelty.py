"""Novelty of one stream of numbers: how far beyond everything it has seen, at several scales of time; one setting for all.

For each of several features of the stream (the value, its change, mean and standard deviation over 5 to 144 points, the rest
after the usual value of the hour) the range seen so far is kept; a value beyond it is evidence s / (s + 0.3), where s is the
excess in units of the range, and the range then takes up 70 % of the excess. The score is the weighted sum, less while little
was seen, and only a score above all of the last `quiet` points speaks. Pure, bounded memory, a few microseconds a point.

Measured on the streams of the Numenta Anomaly Benchmark (Lavin and Ahmad 2015, arXiv:1510.03336): bench/nab.py. What carries
it is few features and smooth evidence; more of either fitted the labels and lost on streams it was not chosen on. A stream
that goes flat within its usual range is nothing new to it: sensors.py sees that.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import msgspec

from wardround.malformed import MALFORMED

SATURATION = 0.3  # evidence is a half at an excess of this share of the range
TAKEN_UP = 0.7  # share of an excess that the range takes up
SEEN_MIN = 20  # points before a range says anything
HOUR_MIN, HOUR_MEMORY = 6, 200  # points of an hour before its usual value says anything, and over which it is kept
WINDOWS = ((5, 0.25), (10, 0.25), (30, 0.5), (60, 0.5), (144, 0.5))  # points, weight of its mean and of its deviation
VALUE, CHANGE, HOUR = 2.0, 0.5, 1.0  # weights
HOUR_US = 3_600_000_000
SETTLE = 1_000  # points after which a window's sums are made anew


class _Range:
    """The range of one feature."""

    __slots__ = ("high", "low", "seen")

    def __init__(self) -> None:
        self.low = self.high = math.nan
        self.seen = 0

    def __call__(self, value: float) -> float:
        self.seen += 1
        low, high = self.low, self.high
        if low <= value <= high:
            return 0.0
        if self.seen == 1:
            self.low = self.high = value
            return 0.0
        excess = value - high if value > high else low - value
        if value > high:
            self.high = high + excess * TAKEN_UP
        else:
            self.low = low - excess * TAKEN_UP
        if self.seen <= SEEN_MIN:
            return 0.0
        beyond = excess / (high - low) if high > low else 1.0
        return beyond / (beyond + SATURATION)


class _Window:
    """Mean and standard deviation of the last points, and the ranges of both."""

    __slots__ = ("anchor", "deviation", "left", "mean", "points", "squares", "sum")

    def __init__(self, size: int) -> None:
        self.points: deque[float] = deque(maxlen=size)
        self.sum = self.squares = 0.0
        self.anchor = 0.0  # taken off every value: a sum of squares far from zero loses its digits
        self.left = 1  # points until the sums are made anew, around where the stream is then
        self.mean, self.deviation = _Range(), _Range()

    def __call__(self, value: float) -> float:
        points = self.points
        self.left -= 1
        if self.left == 0:
            self._settle(value)
        value -= self.anchor
        if len(points) == points.maxlen:
            old = points[0]
            self.sum -= old
            self.squares -= old * old
        points.append(value)
        self.sum += value
        self.squares += value * value
        n = len(points)
        mean = self.sum / n
        variance = self.squares / n - mean * mean
        return self.mean(mean + self.anchor) + self.deviation(math.sqrt(variance) if variance > 0.0 else 0.0)

    def _settle(self, value: float) -> None:
        """Measure from `value` on, and drop what rounding has left in the sums."""
        moved = self.anchor - value
        kept = [point + moved for point in self.points]
        self.points.clear()
        self.points.extend(kept)
        self.sum, self.squares = math.fsum(kept), math.fsum(k * k for k in kept)
        self.anchor, self.left = value, SETTLE


class _State(msgspec.Struct):
    ranges: list[tuple[float | None, float | None, int]]
    windows: list[tuple[list[float], float, float, float, int]]
    hours: list[tuple[float, int]]
    last: float | None
    seen: int
    peaks: list[tuple[int, float]]


class Novelty:
    """One stream's detector."""

    def __init__(self, *, warm_up: int, quiet: int) -> None:
        """`warm_up` points score nothing; of any `quiet` points in a row only a new highest score speaks.

        Raises:
            ValueError: one of them is no positive number.
        """
        if warm_up < 1 or quiet < 1:
            raise ValueError("warm_up and quiet are counts of points, at least 1")
        self._warm_up, self._quiet = warm_up, quiet
        self._value, self._change, self._rest = _Range(), _Range(), _Range()
        self._windows = [(_Window(size), weight) for size, weight in WINDOWS]
        self._usual, self._hours = [0.0] * 24, [0] * 24
        self._last: float | None = None
        self._seen = 0
        self._peaks: deque[tuple[int, float]] = deque()  # falling scores of the last `quiet` points

    def update(self, t_us: int, value: float) -> float:
        """The score of the next point, 0.0 for nothing new; a value that is not a number is no point."""
        if not math.isfinite(value):
            return 0.0
        last, self._last = self._last, value
        evidence = VALUE * self._value(value) + CHANGE * self._change(0.0 if last is None else value - last)
        for window, weight in self._windows:
            evidence += weight * window(value)
        hour = (t_us // HOUR_US) % 24
        usual, count = self._usual[hour], self._hours[hour]
        evidence += HOUR * self._rest(value - usual if count >= HOUR_MIN else 0.0)
        self._hours[hour] = count = count + 1
        self._usual[hour] = usual + (value - usual) / min(count, HOUR_MEMORY)
        self._seen = seen = self._seen + 1
        if seen <= self._warm_up:
            return 0.0
        return self._spoken(seen, evidence * (1.0 - 0.5 * self._warm_up / seen))

    def _spoken(self, seen: int, score: float) -> float:
        peaks = self._peaks
        while peaks and peaks[0][0] < seen - self._quiet:
            peaks.popleft()
        new = not peaks or score > peaks[0][1]
        while peaks and peaks[-1][1] <= score:
            peaks.pop()
        peaks.append((seen, score))
        return score if new else 0.0

    def state(self) -> bytes:
        """Everything seen, to be kept across a restart."""
        ranges = [self._value, self._change, self._rest]
        ranges += [r for w, _ in self._windows for r in (w.mean, w.deviation)]
        return msgspec.json.encode(
            _State(
                ranges=[(_out(r.low), _out(r.high), r.seen) for r in ranges],
                windows=[(list(w.points), w.sum, w.squares, w.anchor, w.left) for w, _ in self._windows],
                hours=list(zip(self._usual, self._hours, strict=True)),
                last=self._last,
                seen=self._seen,
                peaks=list(self._peaks),
            )
        )

    def restore(self, state: bytes) -> None:
        """Take up a kept state.

        Raises:
            ValueError: it is none.
        """
        try:
            kept = msgspec.json.decode(state, type=_State)
        except MALFORMED as error:
            raise ValueError(f"this is no state of a novelty detector: {error}") from error
        ranges = [self._value, self._change, self._rest]
        ranges += [r for w, _ in self._windows for r in (w.mean, w.deviation)]
        for own, (low, high, seen) in zip(ranges, kept.ranges, strict=True):
            own.low, own.high, own.seen = _in(low), _in(high), seen
        for (window, _), (points, total, squares, anchor, left) in zip(self._windows, kept.windows, strict=True):
            window.points.clear()
            window.points.extend(points)
            window.sum, window.squares, window.anchor, window.left = total, squares, anchor, left
        self._usual, self._hours = [u for u, _ in kept.hours], [n for _, n in kept.hours]
        self._last, self._seen = kept.last, kept.seen
        self._peaks = deque(kept.peaks)


def _out(value: float) -> Any:
    return None if math.isnan(value) else value


def _in(value: float | None) -> float:
    return math.nan if value is None else value
