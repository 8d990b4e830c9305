"""Heart-rate variability over five minutes: from R peaks to the numbers that cardiology has agreed on.

Source of every number: Task Force of the European Society of Cardiology and NASPE, Heart rate variability, Circulation 93(5),
1996 (bands, five-minute windows); SD1 and SD2: Brennan, Palaniswami, Kamen, IEEE TBME 48(11), 2001. An interval counts when it
is one a heart can make and within 20 % of the median of its neighbours (Malik et al., Eur. Heart J. 10(12), 1989): what lies
outside is an ectopic beat or a missed one, and both intervals around it are left out of the differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing
from numpy.typing import NDArray

from wardround.records import Floats

WINDOW_US = 300_000_000
RR_MS = (300.0, 2_000.0)
NEIGHBOURS = 9
ECTOPIC_SHARE = 0.2
TACHOGRAM_HZ = 4.0
BANDS_HZ = ((0.003, 0.04), (0.04, 0.15), (0.15, 0.4))  # VLF, LF, HF
INTERVALS_MIN = 30  # of a window, for numbers to be given
SPECTRUM_SHARE_MIN = 0.8  # of the window that intervals must cover for its spectrum


@dataclass(frozen=True, slots=True)
class Variability:
    """One window; times in milliseconds, powers in ms2. What cannot be said is NaN."""

    t_us: int
    beats: int  # intervals that count
    normal_share: float  # of all intervals
    covered: float  # share of the window
    heart_rate: float  # /min
    mean_nn: float
    sdnn: float
    rmssd: float
    sdsd: float
    pnn50: float  # %
    sd1: float
    sd2: float
    vlf: float
    lf: float
    hf: float


def normal_intervals(rr_ms: Floats) -> NDArray[np.bool_]:
    """Which intervals count, shape as given, (n,)."""
    possible = (rr_ms >= RR_MS[0]) & (rr_ms <= RR_MS[1])
    if not len(rr_ms):
        return possible
    usual = scipy.ndimage.median_filter(rr_ms, NEIGHBOURS, mode="nearest")
    return np.asarray(possible & (np.abs(rr_ms - usual) <= ECTOPIC_SHARE * usual))


def variability(peaks_us: Floats, *, window_us: int = WINDOW_US) -> list[Variability]:
    """The windows, aligned to the clock, of one stretch of R peaks.

    Args:
        peaks_us: times of the R peaks, rising, shape (n,). An interval belongs to the window in which it ends.
    """
    rr_ms = np.diff(peaks_us) / 1e3
    ends_us = peaks_us[1:]
    normal = normal_intervals(rr_ms)
    windows = (ends_us // window_us).astype(np.int64)
    return [
        _window(int(w), window_us, ends_us[windows == w], rr_ms[windows == w], normal[windows == w]) for w in np.unique(windows)
    ]


def _window(number: int, window_us: int, ends_us: Floats, rr_ms: Floats, normal: NDArray[np.bool_]) -> Variability:
    nn = rr_ms[normal]
    steps = np.diff(rr_ms)[normal[1:] & normal[:-1]]
    covered = float(nn.sum() * 1e3 / window_us)
    nan = float("nan")
    share = float(normal.mean())
    facts: dict[str, Any] = {"t_us": number * window_us, "beats": len(nn), "normal_share": share, "covered": min(1.0, covered)}
    if len(nn) < INTERVALS_MIN or len(steps) < 2:
        empty: dict[str, Any] = dict.fromkeys(("mean_nn", "sdnn", "rmssd", "sdsd", "pnn50", "sd1", "sd2", "vlf", "lf", "hf"), nan)
        rate = 6e4 / float(nn.mean()) if len(nn) else nan
        return Variability(**facts, heart_rate=rate, **empty)
    sdnn, sdsd = float(nn.std(ddof=1)), float(steps.std(ddof=1))
    vlf, lf, hf = _powers(ends_us[normal], nn) if covered >= SPECTRUM_SHARE_MIN else (nan, nan, nan)
    return Variability(
        **facts,
        heart_rate=6e4 / float(nn.mean()),
        mean_nn=float(nn.mean()),
        sdnn=sdnn,
        rmssd=float(np.sqrt(np.square(steps).mean())),
        sdsd=sdsd,
        pnn50=100.0 * float((np.abs(steps) > 50.0).mean()),
        sd1=sdsd / np.sqrt(2.0),
        sd2=float(np.sqrt(max(0.0, 2.0 * sdnn**2 - 0.5 * sdsd**2))),
        vlf=vlf,
        lf=lf,
        hf=hf,
    )


def _powers(ends_us: Floats, nn_ms: Floats) -> tuple[float, float, float]:
    """Power in the three bands: cubic tachogram at 4 Hz, linear trend removed, one Hann window over all of it."""
    seconds = (ends_us - ends_us[0]) / 1e6
    grid = np.arange(0.0, seconds[-1], 1.0 / TACHOGRAM_HZ)
    tachogram = scipy.interpolate.CubicSpline(seconds, nn_ms)(grid)
    frequency, density = scipy.signal.welch(tachogram, fs=TACHOGRAM_HZ, window="hann", nperseg=len(grid), detrend="linear")
    step = frequency[1] - frequency[0]
    vlf, lf, hf = (float(density[(frequency >= a) & (frequency < b)].sum() * step) for a, b in BANDS_HZ)
    return vlf, lf, hf
