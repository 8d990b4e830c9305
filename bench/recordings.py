"""Recordings of the shared data as observations, cut into the chunks a device would send.

Used by the benches alone: the product receives the same observations over its links.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wardround.records import Observation

START_US = 1_700_000_000_000_000
CHUNK_S = 10.0
STANDARD_GRAVITY = 9.80665
BETWEEN_EXPERIMENTS_US = 600_000_000


def activity_subject(path: Path) -> list[Observation]:
    """One file of the layout of har_smartphone: 50 Hz, acceleration in g, rotation in rad/s."""
    table = pq.read_table(path)
    column = {name: table[name].to_numpy() for name in table.column_names}
    observations: list[Observation] = []
    t0_us = START_US
    for experiment in np.unique(column["exp"]):
        rows = column["exp"] == experiment
        for axis in "xyz":
            acceleration = column[f"a{axis}"][rows].astype(np.float64) * STANDARD_GRAVITY
            rotation = np.rad2deg(column[f"g{axis}"][rows].astype(np.float64))
            observations += _chunks(path.stem, f"wr:accel-{axis}", "m/s2", acceleration, 0.003, t0_us, 50.0)
            observations += _chunks(path.stem, f"wr:gyro-{axis}", "deg/s", rotation, 0.02, t0_us, 50.0)
        observations += _chunks(path.stem, "wr:activity-label", "1", column["label"][rows], 1.0, t0_us, 50.0)
        t0_us += int(rows.sum()) * 20_000 + BETWEEN_EXPERIMENTS_US
    return observations


def ecg_record(path: Path) -> list[Observation]:
    """One pair of files of the layout of mitbih_subset (NNN_ecg, NNN_beats): 360 Hz, 200 counts a millivolt."""
    record = path.stem.partition("_")[0]
    counts = pq.read_table(path)["ecg"].to_numpy()
    beats = pq.read_table(path.with_name(f"{record}_beats.parquet"))
    position, ventricular = beats["sample"].to_numpy(), beats["pvc"].to_numpy(zero_copy_only=False)
    observations = _chunks(record, "mdc:131330", "mV", counts / 200.0, 1 / 200.0, START_US, 360.0)
    for first in range(0, len(position), 15):
        t_us = START_US + np.round(position[first : first + 15] / 360.0 * 1e6).astype(np.int64)
        marks = ventricular[first : first + 15].astype("<i2")
        offsets = (t_us - t_us[0]).astype("<i4").tobytes()
        observations.append(
            Observation(
                subject=record,
                device=record,
                edge="bench",
                code="wr:beat-label",
                unit="1",
                t0_us=int(t_us[0]),
                t0_device_us=int(t_us[0]),
                n=len(marks),
                offsets_us=offsets,
                values=marks.tobytes(),
            )
        )
    return observations


def _chunks(
    subject: str, code: str, unit: str, values: NDArray[np.float64], scale: float, t0_us: int, rate_hz: float
) -> list[Observation]:
    counts = np.round(values / scale).astype("<i2")
    size = round(CHUNK_S * rate_hz)
    return [
        Observation(
            subject=subject,
            device=subject,
            edge="bench",
            code=code,
            unit=unit,
            t0_us=t0_us + round(first / rate_hz * 1e6),
            t0_device_us=t0_us + round(first / rate_hz * 1e6),
            n=len(counts[first : first + size]),
            period_us=1e6 / rate_hz,
            values=counts[first : first + size].tobytes(),
            scale=scale,
        )
        for first in range(0, len(counts), size)
    ]
