"""Vital signs by the minute: mean, lowest, highest and how many, for the trend tables.

Windows are aligned to the clock (UTC), so any two computers cut alike, and a window is a pure function of its values:
late data change their own minute and no other. Values that a device marked as invalid are left out; questionable ones
count, as they do on a monitor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wardround.process.transforms.alignment import usable
from wardround.records import Floats, Observation

WINDOW_US = 60_000_000
VITALS: Mapping[str, str] = MappingProxyType(  # code: unit, as in the code table
    {
        "loinc:8867-4": "/min",  # heart rate
        "loinc:8889-8": "/min",  # pulse rate by oximeter
        "loinc:59408-5": "%",  # oxygen saturation by pulse oximetry
        "loinc:2708-6": "%",  # oxygen saturation
        "loinc:9279-1": "/min",  # respiratory rate
        "loinc:8310-5": "Cel",  # body temperature
    }
)


@dataclass(frozen=True, slots=True)
class VitalWindows:
    """One row for each subject, code and window with a value; columns of shape (n,), by subject, code and time."""

    subjects: NDArray[np.str_]
    codes: NDArray[np.str_]
    t_us: NDArray[np.int64]  # start of the window
    mean: Floats  # in the unit of the code
    low: Floats
    high: Floats
    count: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t_us)


def vital_windows(
    observations: Iterable[Observation], *, codes: Iterable[str] = VITALS, window_us: int = WINDOW_US
) -> VitalWindows:
    """Windows of the scalar vital signs among the observations, in whatever order they come.

    Raises:
        ValueError: the window is not positive.
    """
    if window_us <= 0:
        raise ValueError(f"a window of {window_us} us")
    wanted = frozenset(codes)
    values: dict[tuple[str, str], list[tuple[NDArray[np.int64], Floats]]] = {}
    for o in observations:
        if o.code in wanted and usable(o):
            values.setdefault((o.subject, o.code), []).append((o.times_us(), o.samples()))
    rows = [(key, *_windows(parts, window_us)) for key, parts in sorted(values.items())]
    return VitalWindows(
        subjects=np.array([key[0] for key, starts, *_ in rows for _ in starts], np.str_),
        codes=np.array([key[1] for key, starts, *_ in rows for _ in starts], np.str_),
        t_us=np.concatenate([np.empty(0, np.int64), *(row[1] for row in rows)]),
        mean=np.concatenate([np.empty(0), *(row[2] for row in rows)]),
        low=np.concatenate([np.empty(0), *(row[3] for row in rows)]),
        high=np.concatenate([np.empty(0), *(row[4] for row in rows)]),
        count=np.concatenate([np.empty(0, np.int64), *(row[5] for row in rows)]),
    )


def _windows(
    parts: list[tuple[NDArray[np.int64], Floats]], window_us: int
) -> tuple[NDArray[np.int64], Floats, Floats, Floats, NDArray[np.int64]]:
    """Start, mean, lowest, highest and count of each window with a value."""
    times = np.concatenate([t for t, _ in parts])
    values = np.concatenate([v for _, v in parts])
    order = np.lexsort((values, times))  # the sum must not depend on the order of arrival
    windows, values = times[order] // window_us, values[order]
    first = np.flatnonzero(np.diff(windows, prepend=windows[0] - 1))
    count = np.diff(first, append=len(windows))
    mean = np.add.reduceat(values, first) / count
    return windows[first] * window_us, mean, np.minimum.reduceat(values, first), np.maximum.reduceat(values, first), count
