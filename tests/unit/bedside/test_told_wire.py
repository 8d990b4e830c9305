"""What an edge says in a heartbeat of whom its alerts are, and its alarm load: as it was said, within bounds."""

from __future__ import annotations

import pytest

from wardround.console.words import full_clock
from wardround.learn.grpc_wire import LOADS_MAX, TITLE_MAX, WORD_MAX, about_to_wire, alerts_to_wire, beat_of, loads_to_wire
from wardround.records import AlertAbout, EdgeLoad, OpenAlert
from wardround.wire import wardround_pb2 as pb


def test_no_number_of_the_load_is_of_anybody():
    assert {f.name for f in pb.EdgeLoad.DESCRIPTOR.fields if f.type == f.TYPE_STRING} == {"category"}


def test_of_whom_and_the_load_come_back_as_they_were_said():
    about = AlertAbout("p1", "news2", "NEWS2 7 or more lasts", 1_764_000_000_000_000, 8, "nurse")
    alerts = (OpenAlert("B-0001", "high", "physiological", "acknowledged", about), OpenAlert("B-2", "low", "technical", "firing"))
    loads = (EdgeLoad("physiological", 9, 2.5, 4, 61.0, 3, 1), EdgeLoad("technical", 2, 2.5, 0, None, 0, 0))
    wire = pb.Heartbeat(alerts=alerts_to_wire(alerts), about=about_to_wire(alerts), load=loads_to_wire(loads), acknowledges=True)
    beat = beat_of(pb.Heartbeat.FromString(wire.SerializeToString()))
    assert (beat.alerts, beat.load, beat.acknowledges) == (alerts, loads, True)
    assert beat_of(pb.Heartbeat()).acknowledges is False  # an edge of the version before


def test_an_edge_cannot_say_too_much_of_a_patient_or_figures_that_are_none():
    long = pb.AlertAbout(
        alert="B-1", subject="x" * 10_000, title="x" * 10_000, kind="x" * 10_000, acknowledged_by="x" * 10_000, news2=10**6
    )
    (told,) = beat_of(pb.Heartbeat(alerts=[pb.EdgeAlert(id="B-1")], about=[long] * 999)).alerts
    assert max(len(told.about.subject), len(told.about.title), len(told.about.kind), len(told.about.acknowledged_by)) <= TITLE_MAX
    assert told.about.news2 == 20
    figures = {"patient_days": float("nan"), "acknowledged": 9, "answer_s": -1.0, "judged": 9, "actionable": 99}
    wrong = pb.EdgeLoad(category="x" * 99, alerts=2, **figures)
    found = beat_of(pb.Heartbeat(load=[wrong] * 99)).load
    assert len(found) == LOADS_MAX
    assert found[0] == EdgeLoad("x" * WORD_MAX, 2, 0.0, 2, None, 2, 2)


@pytest.mark.parametrize("since_us", [-(2**63), -1, 2**62, 253_402_300_799_999_999])
def test_a_time_that_no_calendar_holds_does_not_reach_a_page_that_shows_all_edges(since_us):
    said = pb.AlertAbout(alert="B-1", subject="p1", since_us=since_us)
    (told,) = beat_of(pb.Heartbeat(alerts=[pb.EdgeAlert(id="B-1")], about=[said])).alerts
    assert told.about.since_us == 0
    assert full_clock(told.about.since_us)
