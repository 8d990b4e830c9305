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
from numpy.typing import NDArray
from scipy import signal

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
    error_us: float


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
    pieces = sorted((p for o in runs if usable(o) for p in _pieces(o)), key=lambda p: (p.t0_us, len(p.values)))
    pieces = _with_rate(pieces)
    joined: list[Series] = []
    current: list[_Piece] = []
    anchors: list[tuple[int, float]] = []
    length = 0
    for piece in pieces:
        if current:
            index, anchor = anchors[-1]
            period = current[0].period_us
            ahead_us = piece.t0_us - (anchor + (length - index) * period)
            tolerance_us = max(0.5 * period, JOIN_TOLERANCE_US, piece.error_us)
            same_rate = abs(piece.period_us / period - 1) < RATE_TOLERANCE
            if ahead_us < -tolerance_us:
                piece = _without_start(piece, int(np.ceil((-ahead_us - 0.5 * period) / piece.period_us)))  # noqa: PLW2901
                if not len(piece.values):
                    continue
                ahead_us = piece.t0_us - (anchor + (length - index) * period)
            if same_rate and abs(ahead_us) <= tolerance_us:
                if abs(ahead_us) > 0.5 * tolerance_us:
                    anchors.append((length, piece.t0_us))
                current.append(piece)
                length += len(piece.values)
                continue
            joined.append(_series(current, anchors))
        current, anchors, length = [piece], [(0, piece.t0_us)], len(piece.values)
    if current:
        joined.append(_series(current, anchors))
    return joined


def at_rate(series: Iterable[Series], rate_hz: float) -> list[Series]:
    """The series at another rate: polyphase FIR with its own anti-alias filter (scipy.signal.resample_poly).

    One that was sampled at less than a quarter of the rate cannot show what is looked for, and is left out.
    """
    return [_resampled(s, rate_hz) for s in series if s.rate_hz >= RATE_SHARE_MIN * rate_hz]


def _resampled(series: Series, rate_hz: float) -> Series:
    if abs(series.rate_hz / rate_hz - 1) < RATE_TOLERANCE:
        return series
    ratio = max(Fraction(rate_hz / series.rate_hz).limit_denominator(RATIO_MAX), Fraction(1, RATIO_MAX))
    values = signal.resample_poly(series.values, ratio.numerator, ratio.denominator, padtype="line")
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
            yield _Piece(float(o.t0_us), o.period_us or 0.0, values, float(o.clock_error_us))
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
        yield _Piece(float(times[part[0]]), exact, np.interp(grid, times[part], values[part]), float(o.clock_error_us))


def _with_rate(pieces: list[_Piece]) -> list[_Piece]:
    """Give the pieces without a rate (one sample each) the median step between them, or the rate of the others."""
    known = [p.period_us for p in pieces if p.period_us > 0]
    if len(known) == len(pieces):
        return pieces
    steps = np.diff([p.t0_us for p in pieces if p.period_us <= 0])
    period = float(np.median(known)) if known else float(np.median(steps[steps > 0])) if (steps > 0).any() else 1e6
    return [p if p.period_us > 0 else _Piece(p.t0_us, period, p.values, p.error_us) for p in pieces]


def _without_start(piece: _Piece, skipped: int) -> _Piece:
    return _Piece(piece.t0_us + skipped * piece.period_us, piece.period_us, piece.values[skipped:], piece.error_us)


def _series(pieces: list[_Piece], anchors: list[tuple[int, float]]) -> Series:
    return Series(np.concatenate([p.values for p in pieces]), pieces[0].period_us, tuple(anchors))
