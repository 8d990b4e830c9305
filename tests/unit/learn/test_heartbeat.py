"""What an edge says of its own alerts in a heartbeat: numbers and how urgent, within bounds."""

from __future__ import annotations

from wardround.learn.grpc_wire import ALERTS_MAX, DIGEST_MAX, NAME_MAX, TITLE_MAX, WORD_MAX, beat_of
from wardround.records import OpenAlert
from wardround.wire import wardround_pb2 as pb


def test_open_alerts_come_through_and_an_edge_cannot_say_too_much():
    own = pb.EdgeAlert(id="B-0001", priority="high", category="physiological", state="firing")
    beat = beat_of(pb.Heartbeat(alerts=[own]))
    assert beat.alerts == (OpenAlert("B-0001", "high", "physiological", "firing"),)
    long = pb.EdgeAlert(id="x" * 10_000)
    many = beat_of(pb.Heartbeat(alerts=[long] * (ALERTS_MAX + 1)))
    assert len(many.alerts) == ALERTS_MAX
    assert len(many.alerts[0].alert_id) == WORD_MAX


def test_no_word_of_it_is_longer_than_it_may_be():
    """A heartbeat is kept for as long as the hub runs, and what it says is written down each second."""
    long = "x" * 10_000
    beat = beat_of(pb.Heartbeat(working_on=long, model=long, models=[long], passed_on={long: 2**64 - 1}))
    assert (len(beat.working_on), len(beat.model), len(beat.models[0])) == (TITLE_MAX, DIGEST_MAX, DIGEST_MAX)
    assert beat.passed_on == {"x" * NAME_MAX: 2**64 - 1}


def test_no_field_of_it_could_hold_a_patient():
    assert {f.name for f in pb.EdgeAlert.DESCRIPTOR.fields} == {"id", "priority", "category", "state"}
