"""R peaks on annotated records: sensitivity and positive predictivity, beside wfdb's XQRS and neurokit2's default, same run.

    python bench/rpeaks.py --data DIR [--json]

DIR holds NNN_ecg.parquet and NNN_beats.parquet (the layout of mitbih_subset), or WFDB records with .atr annotations. A peak
counts when it lies within 150 ms of a beat, each used once (ANSI/AAMI EC57:2012, section 4.3). Speed is signal time over CPU
time of one core. A rival that is not installed is named and left out: pip install neurokit2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wardround.process.transforms.alignment import Series, at_rate
from wardround.process.transforms.ecg import RATE_HZ, r_peaks

TOLERANCE_S = 0.150
LIMITS = {"sensitivity": 0.995, "predictivity": 0.995, "record": 0.98, "speed": 50.0}
BEATS = set("NLRBAaJSVrFejnE/fQ?")
Seconds = NDArray[np.float64]
Detector = Callable[[NDArray[np.float64], float], Seconds]


@dataclass(frozen=True, slots=True)
class Record:
    """One lead and its reference beats."""

    name: str
    rate_hz: float
    ecg_mv: NDArray[np.float64]
    beats_s: Seconds


def records(folder: Path) -> Iterator[Record]:
    """Every annotated record of a folder, in either layout."""
    for path in sorted(folder.glob("*_ecg.parquet")):
        beats = pq.read_table(path.with_name(path.name.replace("_ecg", "_beats")))["sample"].to_numpy()
        yield Record(path.stem.removesuffix("_ecg"), 360.0, pq.read_table(path)["ecg"].to_numpy() / 200.0, beats / 360.0)
    for path in sorted(folder.glob("*.atr")):
        import wfdb

        record = wfdb.rdrecord(str(path.with_suffix("")), channels=[0])
        notes = wfdb.rdann(str(path.with_suffix("")), "atr")
        beats = np.array([s for s, symbol in zip(notes.sample, notes.symbol, strict=True) if symbol in BEATS])
        yield Record(path.stem, float(record.fs), np.nan_to_num(record.p_signal[:, 0]), beats / record.fs)


def ours(ecg_mv: NDArray[np.float64], rate_hz: float) -> Seconds:
    """The product's detector, resampling included."""
    found = [s.times_us(r_peaks(s.values)) / 1e6 for s in at_rate([Series(ecg_mv, 1e6 / rate_hz, ((0, 0.0),))], RATE_HZ)]
    return np.concatenate(found) if found else np.empty(0)


def rivals() -> dict[str, Detector]:
    """Those that are installed."""
    found: dict[str, Detector] = {}
    try:
        from wfdb import processing

        def xqrs(ecg_mv: NDArray[np.float64], rate_hz: float) -> Seconds:
            detector = processing.XQRS(sig=ecg_mv, fs=rate_hz)
            detector.detect(verbose=False)
            return np.asarray(detector.qrs_inds) / rate_hz

        found["wfdb XQRS"] = xqrs
    except ImportError:
        print("wfdb is not installed: left out", file=sys.stderr)
    try:
        import neurokit2  # type: ignore[import-not-found]  # a rival, installed by hand

        def neurokit(ecg_mv: NDArray[np.float64], rate_hz: float) -> Seconds:
            cleaned = neurokit2.ecg_clean(ecg_mv, sampling_rate=int(rate_hz))
            _, info = neurokit2.ecg_peaks(cleaned, sampling_rate=int(rate_hz))
            return np.asarray(info["ECG_R_Peaks"]) / rate_hz

        found["neurokit2"] = neurokit
    except ImportError:
        print("neurokit2 is not installed: left out (pip install neurokit2)", file=sys.stderr)
    return found


def matched(found_s: Seconds, beats_s: Seconds) -> int:
    """How many pair off, both in order of time, each used once."""
    hits = i = j = 0
    while i < len(found_s) and j < len(beats_s):
        if abs(found_s[i] - beats_s[j]) <= TOLERANCE_S:
            hits, i, j = hits + 1, i + 1, j + 1
        elif found_s[i] < beats_s[j]:
            i += 1
        else:
            j += 1
    return hits


def measure(folder: Path) -> dict[str, Any]:
    """Each detector on each record, and pooled."""
    warnings.simplefilter("ignore")
    detectors: dict[str, Detector] = {"wardround": ours, **rivals()}
    totals = {name: np.zeros(5) for name in detectors}  # hits, beats, found, signal s, CPU s
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    for record in records(folder):
        rows[record.name] = {}
        for name, detect in detectors.items():
            began = time.process_time()
            found = detect(record.ecg_mv, record.rate_hz)
            cpu_s = time.process_time() - began
            hits = matched(found, record.beats_s)
            length_s = len(record.ecg_mv) / record.rate_hz
            totals[name] += (hits, len(record.beats_s), len(found), length_s, cpu_s)
            rows[record.name][name] = (hits / len(record.beats_s), hits / max(1, len(found)))
    if not rows:
        raise SystemExit(f"{folder} holds no annotated records: NNN_ecg.parquet with NNN_beats.parquet, or WFDB with .atr")
    pooled = {
        name: {"sensitivity": t[0] / t[1], "predictivity": t[0] / t[2], "times_real_time": t[3] / max(t[4], 1e-9)}
        for name, t in totals.items()
    }
    return {"records": rows, "pooled": pooled}


def kept(facts: dict[str, Any]) -> dict[str, bool]:
    """Each promise, and whether it is kept."""
    mine = facts["pooled"]["wardround"]
    others = [p for name, p in facts["pooled"].items() if name != "wardround"]
    worst = min(min(r["wardround"]) for r in facts["records"].values())
    return {
        f"pooled sensitivity at least {LIMITS['sensitivity']}": mine["sensitivity"] >= LIMITS["sensitivity"],
        f"pooled predictivity at least {LIMITS['predictivity']}": mine["predictivity"] >= LIMITS["predictivity"],
        f"no record under {LIMITS['record']}": worst >= LIMITS["record"],
        f"{LIMITS['speed']:.0f} times real time": mine["times_real_time"] >= LIMITS["speed"],
        "ahead of the others (F1)": all(_f1(mine) > _f1(other) for other in others),
    }


def _f1(pooled: dict[str, float]) -> float:
    return 2 * pooled["sensitivity"] * pooled["predictivity"] / (pooled["sensitivity"] + pooled["predictivity"])


def main() -> int:
    """Measure and print; 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WARDROUND_DATA", "../shared/data")) / "mitbih_subset")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    facts = measure(given.data)
    promises = kept(facts)
    if given.json:
        print(json.dumps({**facts, "promises": promises}))
        return 0 if all(promises.values()) else 1
    names = list(facts["pooled"])
    print(f"{'record':<10}" + "".join(f"{name:>22}" for name in names))
    print(f"{'':<10}" + f"{'Se     +P':>22}" * len(names))
    for record, row in facts["records"].items():
        print(f"{record:<10}" + "".join(f"{row[n][0]:>14.4f} {row[n][1]:.4f} " for n in names))
    print(f"{'pooled':<10}" + "".join(f"{p['sensitivity']:>14.4f} {p['predictivity']:.4f} " for p in facts["pooled"].values()))
    print(f"{'speed':<10}" + "".join(f"{p['times_real_time']:>16,.0f} x    " for p in facts["pooled"].values()))
    for promise, holds in promises.items():
        print(f"  {'kept' if holds else 'NOT KEPT'}: {promise}")
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
