"""A lake with subjects on a ward: one who gets worse over twelve hours, the others well. Seeded; nobody was measured."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from wardround.process import tables
from wardround.process.tables import day_of, observation_rows
from wardround.records import Consent, Observation, bucket_of
from wardround.trust.consent import ConsentRecord

HOUR_US, DAY_US, MINUTE_US = 3_600_000_000, 86_400_000_000, 60_000_000
WORSE = "q7k4-m2xd-aaaa-bbbb-cccc"
VITALS = {  # code: unit, usual, spread, drift over 12 h of the one who gets worse
    "loinc:9279-1": ("/min", 17.0, 0.8, 8.0),
    "loinc:59408-5": ("%", 96.5, 0.5, -4.5),
    "loinc:8480-6": ("mm[Hg]", 122.0, 3.0, -8.0),
    "loinc:8867-4": ("/min", 76.0, 3.0, 15.0),
    "loinc:8310-5": ("Cel", 36.9, 0.1, 0.9),
}
ALPHABET = "abcdefghjkmnpqrstuvwxyz234567"


def names(n: int, seed: int = 1) -> list[str]:
    """Pseudonyms, the one who gets worse first."""
    rng = np.random.default_rng(seed)
    letters = rng.choice(list(ALPHABET), (n - 1, 5, 4))
    return [WORSE, *("-".join("".join(group) for group in one) for one in letters)]


def _rows(table: str, rows: list[dict]) -> pa.Table:
    for row in rows:
        row |= {"day": day_of(row["t_us"]), "bucket": bucket_of(row["subject"]), "job": "test", "part": "p"}
    return pa.Table.from_pylist(rows, schema=tables.SCHEMAS[table])


def fill(lake, now_us: int, *, subjects: int = 14, seed: int = 1, days: int = 7, year: bool = False) -> list[str]:
    """Put trends, minutes, scores and waveforms into the lake; whose."""
    rng, who = np.random.default_rng(seed), names(subjects, seed)
    hour_us = now_us // HOUR_US * HOUR_US
    trends, minutes, scores = [], [], []
    for subject in who:
        worse = subject == WORSE
        for code, (unit, usual, spread, drift) in VITALS.items():

            def value(t_us, usual=usual, drift=drift, worse=worse):
                into = np.clip(1 - (now_us - t_us) / (12 * HOUR_US), 0, 1) if worse else 0.0
                return usual + drift * float(into)

            widths = [(HOUR_US, (24 * days if worse else 12))] + ([(DAY_US, 300)] if year and worse else [])
            for width, count in widths:
                start = hour_us if width == HOUR_US else now_us // DAY_US * DAY_US
                for k in range(count):
                    t_us, noise = start - k * width, rng.normal(0, spread / 2)
                    mean = value(t_us) + noise
                    share = 0.3 if k == 5 and code == "loinc:59408-5" else 0.97
                    if k == 8 and code == "loinc:8310-5":
                        continue  # a gap
                    trends.append({
                        "subject": subject, "code": code, "unit": unit, "t_us": t_us, "width_us": width, "n": 60, "expected": 60,
                        "completeness": share, "mean": mean, "std": spread, "low": mean - 2 * spread, "p05": mean - spread,
                        "median": mean, "p95": mean + spread, "high": mean + 2 * spread, "slope_per_h": 0.0, "first": mean,
                        "last": mean,
                    })  # fmt: skip
            if code != "loinc:8480-6":
                for k in range(1, 60 if worse else 5):
                    t_us = (now_us // MINUTE_US - k) * MINUTE_US
                    mean = value(t_us) + rng.normal(0, spread / 3)
                    minutes.append({"subject": subject, "code": code, "t_us": t_us, "mean": mean, "low": mean - spread,
                                    "high": mean + spread, "n": 60})  # fmt: skip
        for k in range(12):
            points = {"pulse": 0, "respiratory-rate": 0, "spo2": 0, "systolic": 0, "temperature": 0}
            if worse:
                points |= {"respiratory-rate": 3 if k < 3 else 2 if k < 6 else 0, "spo2": 3 if k < 2 else 2, "pulse": 1}
            else:
                points["spo2"] = int(who.index(subject) % 4 == 1)
            scores.append({"subject": subject, "t_us": hour_us + HOUR_US - 1 - k * HOUR_US, "total": sum(points.values()),
                           "red": 3 in points.values(), "points": json.dumps(points),
                           "missing": "oxygen,consciousness"})  # fmt: skip
    for version, (table, rows) in enumerate(((tables.TREND, trends), (tables.VITALS, minutes), (tables.WARNING, scores))):
        lake.append(table, _rows(table, rows), app=f"test-{table}", version=version)
    lake.append(tables.BRONZE, observation_rows([(o, "b", i, now_us) for i, o in enumerate(waves(now_us))]), app="t", version=0)
    others = [(scalar(subject, now_us), "b", 1000 + i, now_us) for i, subject in enumerate(who)]
    lake.append(tables.BRONZE, observation_rows(others), app="t", version=1)
    return who


def waves(now_us: int) -> list[Observation]:
    """Ten seconds of an ECG lead, and of a photoplethysmogram with a gap; runs of one second."""
    found, hz = [], 250
    for second in range(10):
        t = (np.arange(hz) / hz + second) % 0.66
        ecg = 1.1 * np.exp(-((t - 0.2) ** 2) / 0.0001) + 0.25 * np.exp(-((t - 0.42) ** 2) / 0.002) - 0.05
        start = now_us - (10 - second) * 1_000_000
        made = [("mdc:131330", "mV", ecg)]
        if second not in (6, 7):
            made.append(("mdc:150452", "1", np.sin(2 * np.pi * t / 0.66) + 0.3 * np.sin(4 * np.pi * t / 0.66)))
        for code, unit, values in made:
            counts = np.round(values / 0.001).astype("<i2")
            found.append(Observation(
                subject=WORSE, device="patch-1", edge="resp-1", code=code, unit=unit, t0_us=start, t0_device_us=start, n=hz,
                period_us=1e6 / hz, values=counts.tobytes(), scale=0.001,
            ))  # fmt: skip
    return found


def scalar(subject: str, now_us: int) -> Observation:
    """One heart rate, so that the lake knows whose edge it is."""
    t_us = now_us - 90_000_000
    edge = "resp-1" if subject == WORSE or hash_of(subject) % 2 else "surg-1"
    return Observation(
        subject=subject, device="d", edge=edge, code="loinc:8867-4", unit="/min", t0_us=t_us, t0_device_us=t_us, value=80.0
    )


def hash_of(subject: str) -> int:
    """The same on every run."""
    return sum(map(ord, subject))


def allow(consents, subjects, *, care=Consent.RAW, edges=("resp-1", "surg-1")) -> None:
    """Consents of these subjects at the hub, by the edge of each."""
    for edge, odd in zip(edges, (True, False), strict=True):
        own = [s for s in subjects if (s == WORSE or hash_of(s) % 2 == 1) is odd]
        consents.apply([ConsentRecord(s, "*", care, 1) for s in own], edge)
