"""Real recordings, replayed through the same device links: WFDB records, and two layouts of public data.

Nothing is resampled or filtered: what the recorder stored is what the device sends, in the recorder's unit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wardround.demo.recording import Events, Recording, Track
from wardround.errors import WardroundError

Layout = Literal["wfdb", "mitbih", "har"]
HAR_HZ = 50.0
HAR_ACCEL_PER_COUNT = 1e-4  # g
HAR_GYRO_PER_COUNT = 1e-4  # rad/s
HAR_GAP_S = 60.0  # between the two experiments of a subject
MITBIH_HZ = 360.0
MITBIH_MV_PER_COUNT = 1 / 200
_VENTRICULAR = {"V", "E"}
_BEATS = set("NLRBAaJSVrFejnE/fQ?")
_LEADS = {"I": "ecg-i", "II": "ecg-ii", "MLII": "ecg-ii", "III": "ecg-iii"} | {f"V{i}": f"ecg-v{i}" for i in (1, 2, 4, 5)}
_MITBIH_LEADS = {"102": "ecg-v5", "114": "ecg-v5"}


@dataclass(frozen=True, slots=True)
class Found:
    """One recording that can be opened, and what it is called in its collection."""

    name: str
    open: Callable[[], Recording]


def find_recordings(folder: Path) -> tuple[Layout, list[Found]]:
    """What a folder holds.

    Raises:
        WardroundError: it holds none of the layouts that are known.
    """
    if not folder.is_dir():
        raise WardroundError(f"{folder} is not a folder", remedy="give a folder of recordings to --records")
    if har := sorted(folder.glob("subject[0-9]*.parquet")):
        return "har", [Found(f"{int(p.stem[7:]):02d}", _opener(open_har, p)) for p in har]
    if mitbih := sorted(folder.glob("*_ecg.parquet")):
        return "mitbih", [Found(p.stem.removesuffix("_ecg"), _opener(open_mitbih, p)) for p in mitbih]
    if headers := sorted(p for p in folder.glob("*.hea") if _signals_in(p)):
        return "wfdb", [Found(p.stem, _opener(open_wfdb, p)) for p in headers]
    raise WardroundError(
        f"{folder} holds no recordings that can be replayed",
        remedy="looked for subjectNN.parquet (activity), NNN_ecg.parquet with NNN_beats.parquet, and WFDB .hea files with an ECG",
    )


def _opener(function: Callable[[Path], Recording], path: Path) -> Callable[[], Recording]:
    return lambda: function(path)


def open_har(path: Path) -> Recording:
    """One subject of the smartphone activity data (Reyes-Ortiz et al., Neurocomputing 171, 2016): g and rad/s at 50 Hz."""
    columns = _parquet(path)
    name = f"{int(path.stem[7:]):02d}"
    experiment = columns["exp"].astype(int)
    labels = columns["label"].astype(np.int32)
    scales = {"a": ("accel-", "[g]", HAR_ACCEL_PER_COUNT), "g": ("gyro-", "rad/s", HAR_GYRO_PER_COUNT)}
    tracks: list[Track] = []
    start_s = 0.0
    for number in np.unique(experiment):
        here = experiment == number
        for kind, (key, unit, scale) in scales.items():
            for axis in "xyz":
                counts = np.round(columns[kind + axis][here].astype(np.float64) / scale).astype(np.int32)
                tracks.append(Track(key + axis, unit, 1 / HAR_HZ, counts, scale, start_s=start_s))
        tracks.append(Track("activity-label", "1", 1 / HAR_HZ, labels[here], start_s=start_s))
        duration_s = start_s + int(here.sum()) / HAR_HZ
        start_s = duration_s + HAR_GAP_S
    return Recording(
        patient=f"har-{name}",
        device=f"waist-{name}",
        duration_s=duration_s,
        simulated=False,
        source="UCI dataset 341, Reyes-Ortiz et al. 2016",
        tracks=tuple(tracks),
    )


def open_mitbih(path: Path) -> Recording:
    """One record of the MIT-BIH Arrhythmia Database (Moody and Mark, IEEE EMB 20(3), 2001), first lead, with its beats."""
    name = path.stem.removesuffix("_ecg")
    counts = _parquet(path)["ecg"].astype(np.int32)
    beats = _parquet(path.with_name(f"{name}_beats.parquet"))
    return Recording(
        patient=f"mitbih-{name}",
        device=f"holter-{name}",
        duration_s=len(counts) / MITBIH_HZ,
        simulated=False,
        source="MIT-BIH Arrhythmia Database, ODC-By 1.0",
        tracks=(Track(_MITBIH_LEADS.get(name, "ecg-ii"), "mV", 1 / MITBIH_HZ, counts, MITBIH_MV_PER_COUNT),),
        events=(Events("beat-label", beats["sample"] / MITBIH_HZ, beats["pvc"].astype(np.int32)),),
    )


def open_wfdb(path: Path) -> Recording:
    """One WFDB record, its first ECG lead, and its reference beats when there is an .atr file.

    Raises:
        WardroundError: the record cannot be read.
    """
    import wfdb  # noqa: PLC0415 - a second of import that only WFDB pays

    name = str(path.with_suffix(""))
    try:
        record = wfdb.rdrecord(name, physical=False)
    except (OSError, ValueError, IndexError, TypeError) as exc:
        raise WardroundError(f"{path} cannot be read as WFDB: {exc}", remedy="check that its .dat file is beside it") from exc
    lead = next(i for i, n in enumerate(record.sig_name) if n.upper() in _LEADS)
    counts = record.d_signal[:, lead].astype(np.int32) - int(record.baseline[lead])
    events: tuple[Events, ...] = ()
    if path.with_suffix(".atr").exists():
        notes = wfdb.rdann(name, "atr")
        beats = [(s, sym) for s, sym in zip(notes.sample, notes.symbol, strict=True) if sym in _BEATS]
        times = np.array([s for s, _ in beats]) / record.fs
        events = (Events("beat-label", times, np.array([s in _VENTRICULAR for _, s in beats], np.int32)),)
    return Recording(
        patient=f"wfdb-{path.stem}",
        device=_device_name(f"holter-{path.stem}"),
        duration_s=len(counts) / record.fs,
        simulated=False,
        source=f"WFDB record {path.stem}",
        tracks=(
            Track(
                _LEADS[record.sig_name[lead].upper()],
                record.units[lead],
                1 / record.fs,
                counts,
                1 / record.adc_gain[lead],
            ),
        ),
        events=events,
    )


def _signals_in(header: Path) -> bool:
    """Whether a header names an ECG lead that is known, in a single-segment record with its data beside it."""
    lines = [line for line in header.read_text(errors="replace").splitlines() if line and not line.startswith("#")]
    if not lines or "/" in lines[0].split()[0]:
        return False
    leads = [line.split()[-1].upper() for line in lines[1:] if len(line.split()) > 2]
    files = [line.split()[0] for line in lines[1:] if len(line.split()) > 2]
    return any(lead in _LEADS for lead in leads) and all((header.parent / f).exists() for f in files)


def _device_name(text: str) -> str:
    return re.sub(r"[^a-z0-9-]", "-", text.lower())[:40].strip("-")


def _parquet(path: Path) -> dict[str, NDArray[Any]]:
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pq.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}
