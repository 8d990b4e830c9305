"""From what was received to what can be used: one clean, aligned series a signal, its gaps and artefacts flagged.

Fast signals (1 Hz and more) come out on a grid that counts from 1970 at the signal's nominal rate, so signals of one rate share
their sample times; values between samples are by cubic splines (Unser, Splines: a perfect fit for signal and image processing,
IEEE Signal Processing Magazine 16(6), 1999). Slow ones keep their own times: a temperature taken at nine was taken at nine.
Nothing is invented: where no sample is near, there is NaN. Values outside the plausible range stay, and are flagged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing
from numpy.typing import NDArray

from wardround.process.transforms.alignment import Series, join, usable
from wardround.process.transforms.artefacts import artefacts
from wardround.records import Floats, Observation

FAST_HZ = 1.0
CHUNK_FAST_US = 60_000_000
CHUNK_SLOW_US = 3_600_000_000
NOMINAL_TOLERANCE = 0.005  # a rate this close to a whole number of hertz is that number
SLOW_WIDTH_MAX_US = 600_000_000  # what one slow value stands for at most, when completeness is counted

Flags = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Clean:
    """One signal of one subject over one chunk of the clock: a minute of a fast one, an hour of a slow one."""

    subject: str
    code: str
    unit: str
    t0_us: int
    period_us: float  # 0.0: irregular, see times_us
    times_us: NDArray[np.int64]  # (n,)
    values: NDArray[np.float32]  # (n,), in `unit`; NaN where nothing was measured
    flags: Flags  # (n,), bits of Quality
    expected: int  # samples of a whole chunk
    clock_error_us: int

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which samples are there and not flagged, shape (n,)."""
        return np.asarray(np.isfinite(self.values) & (self.flags == 0), np.bool_)


def clean(
    runs: Sequence[Observation], start_us: int, end_us: int, *, ranges: Mapping[str, tuple[float | None, float | None]]
) -> Iterator[Clean]:
    """Every signal of one subject between two times, by code and chunk.

    Args:
        runs: the subject's observations, of any signals, in any order; words are left out.
        ranges: plausible, by code, in the code's unit.
    """
    numeric = [o for o in runs if o.value_text is None and usable(o)]
    for code, group in itertools.groupby(sorted(numeric, key=lambda o: o.code), key=lambda o: o.code):
        own = list(group)
        low, high = ranges.get(code, (None, None))
        error_us = max((o.clock_error_us for o in own), default=0)
        series = join(own)
        fast = [s for s in series if s.rate_hz >= FAST_HZ and len(s.values) > 1]
        if fast:
            rate_hz = nominal_rate(fast)
            chunks = _fast_chunks(fast, rate_hz, start_us, end_us)
        else:
            rate_hz = 0.0
            chunks = _slow_chunks(own, start_us, end_us)
        for t_us, values, expected in chunks:
            yield Clean(
                subject=own[0].subject,
                code=code,
                unit=own[0].unit,
                t0_us=int(t_us[0]),
                period_us=1e6 / rate_hz if rate_hz else 0.0,
                times_us=t_us,
                values=values.astype(np.float32),
                flags=artefacts(values, rate_hz, low=low, high=high),
                expected=expected,
                clock_error_us=error_us,
            )


def nominal_rate(series: Iterable[Series]) -> float:
    """The usual rate of series, in Hz: the longest decides, and a rate very near a whole number is that number."""
    longest = max(series, key=lambda s: len(s.values))
    whole = round(longest.rate_hz)
    return float(whole) if whole and abs(longest.rate_hz / whole - 1) < NOMINAL_TOLERANCE else longest.rate_hz


def on_grid(series: Series, rate_hz: float) -> tuple[int, Floats]:
    """A series at the times k / rate_hz: the first k, and the values, shape (n,)."""
    first_us, last_us = series.anchors[0][1], series.span_us()[1] - 0.5 * series.period_us
    k0, k1 = int(np.ceil(first_us * rate_hz / 1e6 - 1e-6)), int(np.floor(last_us * rate_hz / 1e6 + 1e-6))
    if k1 < k0:
        return k0, np.empty(0)
    t_us = np.arange(k0, k1 + 1) * (1e6 / rate_hz)
    starts = np.array([t for _, t in series.anchors])
    index = np.array([i for i, _ in series.anchors], np.float64)
    segment = np.maximum(np.searchsorted(starts, t_us + 1e-3, side="right") - 1, 0)
    position = index[segment] + (t_us - starts[segment]) / series.period_us
    limits = np.append(index[1:], len(series.values) - 1.0)
    values = scipy.ndimage.map_coordinates(series.values, [np.minimum(position, limits[segment])], order=3, mode="nearest")
    return k0, np.asarray(values, np.float64)


def _fast_chunks(
    fast: Sequence[Series], rate_hz: float, start_us: int, end_us: int
) -> Iterator[tuple[NDArray[np.int64], Floats, int]]:
    """Times, values and expected count of each minute that has a sample."""
    k_start, k_end = _first_k(start_us, rate_hz), _first_k(end_us, rate_hz)
    line = np.full(k_end - k_start, np.nan)
    for s in fast:
        k0, values = on_grid(s, rate_hz)
        a, b = max(k0, k_start), min(k0 + len(values), k_end)
        if a < b:
            line[a - k_start : b - k_start] = values[a - k0 : b - k0]
    for t_us in range(start_us - start_us % CHUNK_FAST_US, end_us, CHUNK_FAST_US):
        a, b = (min(max(_first_k(t, rate_hz), k_start), k_end) for t in (t_us, t_us + CHUNK_FAST_US))
        values = line[a - k_start : b - k_start]
        if np.isfinite(values).any():
            times = np.round(np.arange(a, b) * (1e6 / rate_hz)).astype(np.int64)
            yield times, values, _first_k(t_us + CHUNK_FAST_US, rate_hz) - _first_k(t_us, rate_hz)


def _slow_chunks(runs: Sequence[Observation], start_us: int, end_us: int) -> Iterator[tuple[NDArray[np.int64], Floats, int]]:
    """The same for a slow signal, by the hour; of two values for one time the one received last stays."""
    in_order = sorted(runs, key=lambda o: (o.t_edge_us, o.t0_us, o.device_seq, o.device_index))
    times = np.concatenate([o.times_us() for o in in_order])
    values = np.concatenate([o.samples() for o in in_order])
    order = np.lexsort((np.arange(len(times)), times))
    last = np.append(np.diff(times[order]) > 0, True) if len(times) else np.empty(0, bool)
    times, values = times[order][last], values[order][last]
    width_us = min(float(np.median(np.diff(times))), SLOW_WIDTH_MAX_US) if len(times) > 1 else float(CHUNK_SLOW_US)
    here = (times >= start_us) & (times < end_us)
    times, values = times[here], values[here]
    hours = times // CHUNK_SLOW_US
    for hour in np.unique(hours):
        chunk = hours == hour
        yield times[chunk], values[chunk], max(1, round(CHUNK_SLOW_US / width_us))


def _first_k(t_us: int, rate_hz: float) -> int:
    return int(np.ceil(t_us * rate_hz / 1e6 - 1e-6))
