"""Signals that come with holes: against the patient's own usual, one finding an edge and signal, and nobody is named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from wardround.clock import ManualClock
from wardround.hours import IDLE_S, HoursBoard
from wardround.process.lake import Lake
from wardround.process.tables import TREND, TRENDS, day_of
from wardround.records import bucket_of
from wardround.watch.alerts import State
from wardround.watch.delivery.messages import message
from wardround.watch.detectors.completeness import GRACE_US, HOUR_US, HourShare, incomplete
from wardround.watch.watcher import Watch

NOW = 1_000 * HOUR_US + GRACE_US
ECG = "mdc:131330"


def hours(shares, subject="p1", edge="icu-a", code=ECG):
    """Hours that end with the newest one that is over, an hour's share each."""
    first = 1_000 - len(shares)
    return [HourShare(edge, code, subject, (first + i) * HOUR_US, share) for i, share in enumerate(shares)]


def test_two_hours_with_holes_are_found_and_one_is_not():
    assert incomplete(hours([0.95] * 20 + [0.4]), NOW) == []
    (found,) = incomplete(hours([0.95] * 20 + [0.4, 0.3]), NOW)
    assert (found.edge, found.code, found.patients, found.low) == ("icu-a", ECG, 1, 1)
    assert (found.share, found.usual, found.since_us) == (0.3, 0.95, 998 * HOUR_US)
    assert found.hours[-1] == (999 * HOUR_US, 0.3)
    assert len(found.hours) == 22


@pytest.mark.parametrize(
    "shares",
    [
        [0.95] * 20 + [0.0, 0.0],  # silent: another alert's
        [0.95] * 5 + [0.3, 0.3],  # too little is known
        [0.2] * 20 + [0.05, 0.05],  # never was much
        [0.5] * 20 + [0.35, 0.35],  # as usual, nearly
    ],
)
def test_what_is_no_hole(shares):
    assert incomplete(hours(shares), NOW) == []


def test_an_hour_that_may_still_be_filled_does_not_count():
    late = hours([0.95] * 20 + [0.3, 0.3])
    assert incomplete(late, NOW - 1) == []
    assert incomplete(late, NOW)


def test_patients_of_one_edge_and_signal_are_one_finding():
    well, ill = [0.9] * 22, [0.9] * 20 + [0.2, 0.3]
    rows = hours(well, "p1") + hours(ill, "p2") + hours(ill, "p3") + hours(ill, "p4", edge="icu-b") + hours(ill, "p5", code="x")
    found = {(f.edge, f.code): (f.low, f.patients) for f in incomplete(rows, NOW)}
    assert found == {("icu-a", ECG): (2, 3), ("icu-b", ECG): (1, 1), ("icu-a", "x"): (1, 1)}


def test_by_chance_it_is_rare():
    """Shares as ragged as a wearable's, of 200 patients over 30 days: how often a patient is found."""
    rng, found = np.random.default_rng(0), 0
    for patient in range(200):
        own = np.clip(rng.beta(12, 2, size=720), 0.01, 1.0).tolist()
        for end in range(30, 720, 24):
            found += len(incomplete(hours(own[end - 28 : end], str(patient)), NOW))
    assert found <= 6  # of 5,800 looks


def test_from_the_lake_to_an_alert_that_names_nobody_and_is_over_when_it_is(tmp_path):
    clock, lake = ManualClock(NOW), Lake(tmp_path / "lake")
    watch = Watch(clock=clock, heartbeat_s=1.0, signal_title=lambda _: "ECG lead II", on_change=lambda _: None)
    looks = HoursBoard(lake, clock, str, lambda _subject: "icu-a", watch.incomplete)
    write(lake, [0.95] * 20 + [0.4, 0.3], 1)
    looks.look()
    assert watch.open_alerts() == []  # a hub that has just started waits
    clock.advance(IDLE_S)
    looks.look()
    (alert,) = watch.open_alerts()
    assert alert.finding.title == "ECG lead II of a patient at icu-a comes with holes"
    assert "30% of the last hour came, usually 95%" in alert.finding.detail
    assert "pseudonym-1" not in repr(alert)
    assert "pseudonym-1" not in repr(message(alert))
    clock.advance(3_600.0)
    write(lake, [0.9], 2, first=1_000)
    looks.look()
    assert watch.alert(alert.alert_id).state is State.RESOLVED


def write(lake, shares, version, first=None):
    """Rows of trends, as the job makes them."""
    first = 1_000 - len(shares) if first is None else first
    rows = []
    for i, share in enumerate(shares):
        t_us = (first + i) * HOUR_US
        row = {"subject": "pseudonym-1", "code": ECG, "unit": "mV", "t_us": t_us, "width_us": HOUR_US, "n": 9, "expected": 9}
        row |= {"completeness": share, "day": day_of(t_us), "bucket": bucket_of("pseudonym-1"), "part": str(i)}
        rows.append(row)
    lake.append(TREND, pa.Table.from_pylist(rows, schema=TRENDS), app="test", version=version)
