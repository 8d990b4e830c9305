"""Alerts a patient and day, and hours from them to a death: the bedside watch beside the bare score, on intensive care stays.

    python bench/bedside.py --data DIR [--stays 400] [--json]

DIR has icu_vitals/ (PhysioNet/CinC Challenge 2012: 48 hours of charted values, about one an hour). Every rule sees the same
values in the same order. The bare score speaks whenever a new value brings it to its threshold, and is then quiet for an hour,
as a monitor would. Sedated and ventilated patients score high all day: intensive care is not where the score was made for, so
figures here compare rules with each other. Deaths have a day, not an hour: the lead is to the end of that day, and many are weeks
after the two days on record. So deaths by the third day, of which the record sees most of the way, stand apart.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from wardround.process.transforms.early_warning import HORIZON_US, Vitals, news2
from wardround.watch.bedside import MINUTE_US, Bedside, Total
from wardround.watch.trend_novelty import TrendNovelty

PARAMETERS = {  # of the files; a cuff's value stands in where there is no line
    "HR": "pulse",
    "RespRate": "respiratory-rate",
    "SaO2": "spo2",
    "SysABP": "systolic",
    "NISysABP": "systolic",
    "Temp": "temperature",
}
RANGES = {
    "pulse": (20.0, 250.0),
    "respiratory-rate": (3.0, 70.0),
    "spo2": (50.0, 100.0),
    "systolic": (30.0, 280.0),
    "temperature": (30.0, 43.0),
}
MUTE = 60  # minutes
SOON = 3  # days
DAY = 1_440
Event = tuple[int, str, float]


def total(values: Mapping[str, float]) -> Total:
    """The score of what is there; nobody charts consciousness or oxygen as the score asks for them."""
    found = news2(
        Vitals(
            respiratory_rate=values.get("respiratory-rate"),
            spo2=values.get("spo2"),
            systolic=values.get("systolic"),
            pulse=values.get("pulse"),
            temperature=values.get("temperature"),
        )
    )
    return Total(found.total, found.red)


def bare(events: Sequence[Event], *, urgent: bool) -> list[int]:
    """Minutes at which the newest values score 7, or (not `urgent`) 5 or a single 3; after each, an hour of quiet."""
    newest: dict[str, tuple[int, float]] = {}
    alerts: list[int] = []
    for minute, name, value in events:
        newest[name] = (minute, value)
        fresh = {n: v for n, (at, v) in newest.items() if (minute - at) * MINUTE_US <= HORIZON_US[n]}
        score = total(fresh)
        speaks = score.total >= 7 if urgent else score.total >= 5 or score.red
        if speaks and (not alerts or minute - alerts[-1] >= MUTE):
            alerts.append(minute)
    return alerts


def watched(events: Sequence[Event], minutes: int) -> dict[str, list[int]]:
    """Minutes at which the bedside watch speaks, by what it says."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    trends, now = TrendNovelty(), 0

    def hour(*own: Any) -> None:
        if trends.hour(*own) is not None:
            found["trend"].append(now)

    watch = Bedside(lambda _, values: total(values), horizon_us=HORIZON_US, on_hour=hour)
    waiting = collections.deque(events)
    for minute in range(minutes + 1):
        now = minute
        while waiting and waiting[0][0] <= minute:
            at, name, value = waiting.popleft()
            watch.observe("p", name, at * MINUTE_US, value)
        for episode in watch.tick(minute * MINUTE_US + 1):
            if not episode.over:
                found[episode.kind if episode.kind == "own-baseline" else f"news2 {episode.priority}"].append(minute)
    return found


def stays(folder: Path, most: int) -> list[tuple[list[Event], bool, float]]:
    """Of every stay its events, whether the patient died in hospital, and the minute at which that day ended."""
    found: list[tuple[list[Event], bool, float]] = []
    for name in ("set_a", "set_b1"):
        if not (folder / f"{name}_events.parquet").exists():
            continue
        patients = {r["RecordID"]: r for r in pl.read_parquet(folder / f"{name}_patients.parquet").iter_rows(named=True)}
        table = pl.read_parquet(folder / f"{name}_events.parquet").filter(pl.col("parameter").is_in(list(PARAMETERS)))
        for (record,), rows in table.sort("RecordID", "minute").group_by("RecordID", maintain_order=True):
            if len(found) >= most:
                return found
            events = []
            for minute, parameter, value in rows.select("minute", "parameter", "value").iter_rows():
                low, high = RANGES[PARAMETERS[parameter]]
                if low <= value <= high:
                    events.append((int(minute), PARAMETERS[parameter], float(value)))
            patient = patients.get(record)
            if events and patient is not None:
                died = bool(patient["In-hospital_death"])
                days = patient["Survival"] if died and (patient["Survival"] or -1) >= 0 else patient["Length_of_stay"]
                found.append((events, died, max(DAY * (float(days or 2) + 1), events[-1][0])))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stays", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    own = parser.parse_args()
    found = stays(own.data / "icu_vitals", own.stays)
    if not found:
        raise SystemExit(f"no stays in {own.data}: give the folder that has icu_vitals/")
    rules: dict[str, list[tuple[list[int], bool, float]]] = collections.defaultdict(list)
    days, minutes, seconds = 0.0, 0, 0.0
    for events, died, end in found:
        last = events[-1][0]
        days += last / DAY
        minutes += last
        rules["score of new values: 5, or a 3"].append((bare(events, urgent=False), died, end))
        rules["score of new values: 7"].append((bare(events, urgent=True), died, end))
        began = time.process_time()
        said = watched(events, last)
        seconds += time.process_time() - began
        rules["watch: 5 or a 3, lasting"].append((said["news2 medium"] + said["news2 high"], died, end))
        rules["watch: 7, lasting"].append((said["news2 high"], died, end))
        rules["watch: away from the own usual"].append((said["own-baseline"], died, end))
        rules["trend: an hour never seen"].append((said["trend"], died, end))
    table = []
    for rule, outcomes in rules.items():
        lost = [(alerts, end) for alerts, died, end in outcomes if died]
        leads = [(end - min(alerts)) / 60 for alerts, end in lost if alerts]
        soon = [(alerts, end) for alerts, end in lost if end <= (SOON + 1) * DAY]
        soon_leads = [(end - min(alerts)) / 60 for alerts, end in soon if alerts]
        survivors = [bool(alerts) for alerts, died, _ in outcomes if not died]
        table.append(
            {
                "rule": rule,
                "alerts_per_patient_day": sum(len(alerts) for alerts, _, _ in outcomes) / days,
                "deaths_alerted": sum(1 for alerts, _ in lost if alerts) / max(1, len(lost)),
                "survivors_alerted": sum(survivors) / max(1, len(survivors)),
                "lead_hours_median": statistics.median(leads) if leads else None,
                "deaths_soon_alerted": sum(1 for alerts, _ in soon if alerts) / len(soon) if soon else None,
                "lead_hours_median_soon": statistics.median(soon_leads) if soon_leads else None,
            }
        )
    dead = sum(died for _, died, _ in found)
    dead_soon = sum(died and end <= (SOON + 1) * DAY for _, died, end in found)
    if own.json:
        print(
            json.dumps(
                {"stays": len(found), "deaths": dead, "deaths_soon": dead_soon, "patient_days": days, "rules": table}, indent=2
            )
        )
        return
    cost = 1e6 * seconds / minutes
    print(f"{len(found)} stays, {dead} deaths in hospital, {days:,.0f} patient days; watch: {cost:.0f} us a patient and minute")
    print(f"deaths by the third day: {dead_soon}; hours are medians from the first alert")
    print(f"{'rule':32} {'alerts/patient day':>18} {'survivors':>9} {'deaths':>7} {'hours':>6} {'by day 3':>9} {'hours':>6}")
    for row in table:
        lead, soon_lead = (
            f"{row[key]:.0f}" if row[key] is not None else "-" for key in ("lead_hours_median", "lead_hours_median_soon")
        )
        rate, deaths, alive = row["alerts_per_patient_day"], row["deaths_alerted"], row["survivors_alerted"]
        line = f"{row['rule']:32} {rate:18.2f} {alive:9.0%} {deaths:7.0%} {lead:>6}"
        share = f"{row['deaths_soon_alerted']:.0%}" if dead_soon else "-"
        print(f"{line} {share:>9} {soon_lead:>6}")


if __name__ == "__main__":
    main()
