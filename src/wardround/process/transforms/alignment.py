"""From chunks to series: the runs of one signal joined where they touch, and kept apart where something is missing.

Chunks come in any order and of any length; how a signal was cut makes no difference to what comes out. A gap stays a
gap: no sample is invented, and a later window never spans one. Times follow the device's sampling grid, and move to
the stamped time of a chunk when the two have drifted apart, as cheap clocks do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing
from numpy.typing import NDArray

from wardround.records import Floats, Observation, Quality, Validity

JOIN_TOLERANCE_US = 4_000.0  # clock corrections move a chunk by a few milliseconds
GAP_PERIODS = 2.5  # in a run of irregular samples, a longer pause is a gap
RATE_TOLERANCE = 0.005  # sampling rates this close are the same
RATE_SHARE_MIN = 0.25
RATIO_MAX = 500
UNUSABLE = frozenset({Validity.INVALID, Validity.OVERFLOW, Validity.UNDERFLOW, Validity.NOT_AVAILABLE, Validity.CALIBRATING})


@dataclass(frozen=True, slots=True)
class Series:
    """Samples without a gap, at a steady rate.

    `anchors` holds (index, t_us): from each index on, times count from t_us in steps of the period.
    """

    values: Floats  # (n,)
    period_us: float
    anchors: tuple[tuple[int, float], ...]

    def times_us(self, index: NDArray[np.int64] | None = None) -> Floats:
        """Times of the samples at `index` (all of them by default), same shape, float64 microseconds."""
        index = np.arange(len(self.values)) if index is None else index
        starts = np.array([i for i, _ in self.anchors])
        times = np.array([t for _, t in self.anchors])
        segment = np.maximum(np.searchsorted(starts, index, side="right") - 1, 0)
        return np.asarray(times[segment] + (index - starts[segment]) * self.period_us, np.float64)

    def span_us(self) -> tuple[float, float]:
        """From half a period before the first sample to half a period after the last."""
        last_index, last_t_us = self.anchors[-1]
        end = last_t_us + (len(self.values) - 1 - last_index + 0.5) * self.period_us
        return self.anchors[0][1] - 0.5 * self.period_us, end

    @property
    def rate_hz(self) -> float:
        return 1e6 / self.period_us


@dataclass(frozen=True, slots=True)
class _Piece:
    t0_us: float
    period_us: float
    values: Floats

    def without_start(self, skipped: int) -> _Piece:
        return _Piece(self.t0_us + skipped * self.period_us, self.period_us, self.values[skipped:])


def by_subject(observations: Iterable[Observation]) -> dict[str, dict[str, list[Observation]]]:
    """Observations by subject and code, subjects in order of name."""
    grouped: dict[str, dict[str, list[Observation]]] = {}
    for o in observations:
        grouped.setdefault(o.subject, {}).setdefault(o.code, []).append(o)
    return dict(sorted(grouped.items()))


def join(runs: Iterable[Observation]) -> list[Series]:
    """The contiguous series of one signal of one subject, in order of time.

    Runs that a device marked as invalid, and those taken with the lead off, count as gaps. Samples that overlap what
    is there already are dropped. A run of one sample has no rate of its own and takes that of its neighbours.
    """
    pieces = _with_rate(sorted((p for o in runs if usable(o) for p in _pieces(o)), key=lambda p: (p.t0_us, len(p.values))))
    growing: list[_Growing] = []
    for piece in pieces:
        rest = growing[-1].add(piece) if growing else piece
        if rest is not None:
            growing.append(_Growing(rest))
    return [g.series() for g in growing]


class _Growing:
    """A series that later pieces may continue."""

    def __init__(self, first: _Piece) -> None:
        self._period_us = first.period_us
        self._values = [first.values]
        self._length = len(first.values)
        self._anchors = [(0, first.t0_us)]

    def add(self, piece: _Piece) -> _Piece | None:
        """Take the piece if it goes on where this ends, or adds nothing; else give back what starts a new series."""
        index, anchor_us = self._anchors[-1]
        end_us = anchor_us + (self._length - index) * self._period_us
        tolerance_us = max(0.5 * self._period_us, JOIN_TOLERANCE_US)
        if piece.t0_us < end_us - tolerance_us:
            piece = piece.without_start(int(np.ceil((end_us - piece.t0_us) / piece.period_us - 0.5)))
        if not len(piece.values):
            return None
        ahead_us = piece.t0_us - end_us
        if abs(piece.period_us / self._period_us - 1) >= RATE_TOLERANCE or abs(ahead_us) > tolerance_us:
            return piece
        if abs(ahead_us) > 0.5 * tolerance_us:
            self._anchors.append((self._length, piece.t0_us))
        self._values.append(piece.values)
        self._length += len(piece.values)
        return None

    def series(self) -> Series:
        return Series(np.concatenate(self._values), self._period_us, tuple(self._anchors))


def at_rate(series: Iterable[Series], rate_hz: float) -> list[Series]:
    """The series at another rate: polyphase FIR with its own anti-alias filter (scipy.signal.resample_poly).

    One that was sampled at less than a quarter of the rate cannot show what is looked for, and is left out.
    """
    return [_resampled(s, rate_hz) for s in series if s.rate_hz >= RATE_SHARE_MIN * rate_hz]


def _resampled(series: Series, rate_hz: float) -> Series:
    if abs(series.rate_hz / rate_hz - 1) < RATE_TOLERANCE:
        return series
    ratio = max(Fraction(rate_hz / series.rate_hz).limit_denominator(RATIO_MAX), Fraction(1, RATIO_MAX))
    values = scipy.signal.resample_poly(series.values, ratio.numerator, ratio.denominator, padtype="line")
    anchors = tuple((round(i * float(ratio)), t) for i, t in series.anchors)
    return Series(np.asarray(values, np.float64), series.period_us / float(ratio), anchors)


@dataclass(frozen=True, slots=True)
class Frame:
    """Several signals over one stretch of time, on the grid of the first."""

    t_us: Floats  # (n,)
    values: Floats  # (n_signals, n)


def align(signals: Sequence[Sequence[Series]]) -> list[Frame]:
    """The stretches in which every signal is there; the others are taken at their sample nearest to the first one's."""
    frames: list[Frame] = []
    for start, end, group in _overlaps(signals):
        t_us = group[0].times_us()
        t_us = t_us[(t_us >= start) & (t_us <= end)]
        if len(t_us):
            frames.append(Frame(t_us, np.stack([nearest(s, t_us) for s in group])))
    return frames


def nearest(series: Series, t_us: Floats) -> Floats:
    """The samples nearest to the times, shape (n,)."""
    position = np.interp(t_us, series.times_us(), np.arange(len(series.values)))
    return np.asarray(series.values[np.floor(position + 0.5).astype(np.int64).clip(0, len(series.values) - 1)])


def _overlaps(signals: Sequence[Sequence[Series]]) -> list[tuple[float, float, tuple[Series, ...]]]:
    """Every choice of one series of each signal that share some time, with that time, in order: one sweep a signal."""
    spans: list[tuple[float, float, tuple[Series, ...]]] = [(*s.span_us(), (s,)) for s in signals[0]]
    for others in signals[1:]:
        shared: list[tuple[float, float, tuple[Series, ...]]] = []
        i = j = 0
        while i < len(spans) and j < len(others):
            start, end, group = spans[i]
            other_start, other_end = others[j].span_us()
            if min(end, other_end) > max(start, other_start):
                shared.append((max(start, other_start), min(end, other_end), (*group, others[j])))
            if end < other_end:
                i += 1
            else:
                j += 1
        spans = shared
    return spans


def usable(o: Observation) -> bool:
    """Whether the samples may be used, and are what the observation says they are."""
    if o.value_text is not None or o.validity in UNUSABLE or o.flags & Quality.LEAD_OFF:
        return False
    if o.period_us is not None and not (np.isfinite(o.period_us) and o.period_us > 0):
        return False
    size = 0 if o.values is None else len(o.values)
    whole = size % int(o.values_type[1]) == 0 and (o.offsets_us is None or len(o.offsets_us) == 4 * o.n)
    return whole and len(o.samples()) == o.n and bool(np.isfinite(o.samples()).all())


def _pieces(o: Observation) -> Iterator[_Piece]:
    """The regular pieces of a run; an irregular one is put on the grid of its median step, and cut at its pauses."""
    values = o.samples()
    if o.offsets_us is None or len(values) < 2:
        if len(values):
            yield _Piece(float(o.t0_us), o.period_us or 0.0, values)
        return
    order = np.argsort(o.times_us(), kind="stable")
    times, values = o.times_us()[order].astype(np.float64), values[order]
    steps = np.diff(times)
    if not (steps > 0).any():
        return
    period = float(np.median(steps[steps > 0]))
    for part in np.split(np.arange(len(times)), np.flatnonzero(steps > GAP_PERIODS * period) + 1):
        n = round((times[part[-1]] - times[part[0]]) / period) + 1
        exact = (times[part[-1]] - times[part[0]]) / (n - 1) if n > 1 else period
        grid = times[part[0]] + np.arange(n) * exact
        yield _Piece(float(times[part[0]]), exact, np.interp(grid, times[part], values[part]))


def _with_rate(pieces: list[_Piece]) -> list[_Piece]:
    """Give the pieces without a rate (one sample each) the median step between them, or the rate of the others."""
    known = [p.period_us for p in pieces if p.period_us > 0]
    if len(known) == len(pieces):
        return pieces
    steps = np.diff([p.t0_us for p in pieces if p.period_us <= 0])
    period = float(np.median(known)) if known else float(np.median(steps[steps > 0])) if (steps > 0).any() else 1e6
    return [p if p.period_us > 0 else _Piece(p.t0_us, period, p.values) for p in pieces]
