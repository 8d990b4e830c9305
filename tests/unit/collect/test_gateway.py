"""The edge's gate: what comes in, what is set aside with its reason, what may travel, and that nothing else is lost."""

from __future__ import annotations

import json

import pytest

from wardround.collect.gateway import Receipt
from wardround.collect.lanes import Priority
from wardround.collect.spool import read_hours
from wardround.collect.streams import HOUR_US
from wardround.errors import StorageFull
from wardround.records import Consent, Quality, Validity

DAY_S = 86_400.0
BAD = {
    "an unknown code": ({"n": "moon-phase", "u": "1", "v": 1.0}, "unknown-code"),
    "a unit that does not convert": ({"n": "heart-rate", "u": "kg", "v": 60.0}, "unit-does-not-convert"),
    "a time from 1970": ({"n": "heart-rate", "u": "/min", "v": 60.0, "t": 2**28 + 1.0}, "time-before-2000"),
    "a time from next year": ({"n": "heart-rate", "u": "/min", "v": 60.0, "t": 1_700_000_000 + 365 * DAY_S}, "time-in-future"),
}


@pytest.mark.parametrize(("record", "reason"), BAD.values(), ids=BAD)
def test_one_bad_reading_is_set_aside_and_the_others_of_its_message_are_kept(gate, record, reason):
    receipts = gate.send([gate.record(value=61.0), record, gate.record("spo2", "%", 97.0)])
    assert [r.seq for r in receipts] == [1]
    assert gate.reasons() == {reason: 1}
    assert sorted(o.value for o in gate.waiting()) == [61.0, 97.0]
    [row] = gate.quarantine.rows()
    assert row.device == "d1"
    assert record["n"] in row.detail
    assert row.payload  # it can be replayed once the table knows it


def test_a_malformed_message_is_set_aside_and_receipted_and_the_next_is_kept(gate):
    assert gate.send(b"[{", seq=1)[0].seq == 1
    assert gate.send([gate.record()], seq=2)[0].seq == 2
    assert gate.reasons() == {"malformed-senml": 1}
    assert len(gate.waiting()) == 1


def test_a_device_that_is_not_registered_is_set_aside(gate):
    gate.send([gate.record()], device="stranger")
    assert gate.reasons() == {"unknown-device": 1}
    assert gate.waiting() == []


def test_consent_decides_what_is_kept_and_what_may_travel(gate):
    for device in ("d1", "d2", "d3"):  # raw, local, nothing on file
        assert gate.send([gate.record()], device=device)[0].seq == 1
    assert [o.subject for o in gate.waiting()] == ["P1"]
    assert {o.subject for o in gate.local.read(["loinc:8867-4"])} == {"P1", "P2"}
    assert gate.gateway.counts.not_kept == 1


def test_consent_that_is_withdrawn_holds_from_the_next_observation(gate):
    gate.send([gate.record()], seq=1)
    gate.consents["P1"] = Consent.NONE
    gate.send([gate.record()], seq=2)
    assert len(gate.waiting()) == 1


def test_units_are_converted_and_it_is_said(gate):
    gate.send([gate.record("body-temperature", "[degF]", 98.6)])
    [observation] = gate.waiting()
    assert observation.value == pytest.approx(37.0)
    assert observation.unit == "Cel"
    assert observation.flags & Quality.UNIT_CONVERTED


def test_out_of_range_is_flagged_not_refused(gate):
    gate.send([gate.record(value=500.0)])
    [observation] = gate.waiting()
    assert observation.flags & Quality.RANGE
    assert observation.validity == Validity.QUESTIONABLE


def test_a_repeated_message_is_kept_once_and_receipted_again(gate):
    gate.send([gate.record()])
    assert gate.send([gate.record()])[0].seq == 1
    assert len(gate.waiting()) == 1
    gate.open()  # a restart forgets nothing
    assert gate.send([gate.record()])[0].seq == 1
    assert len(gate.waiting()) == 1


def test_messages_out_of_order_are_receipted_up_to_the_hole(gate):
    assert gate.send([gate.record()], seq=2) == []
    assert gate.send([gate.record()], seq=1)[0].seq == 2


def test_before_commit_nothing_is_receipted_and_a_crash_loses_nothing_that_was(gate):
    gate.gateway.receive("d1", "b", 1, b'[{"n":"heart-rate","u":"/min","v":60}]')
    gate.open()
    assert gate.waiting() == []
    assert gate.send([gate.record()])[0].seq == 1
    assert len(gate.waiting()) == 1


def fill(gate):
    """Send until it refuses."""
    for seq in range(1, 100):
        gate.send([gate.record()], seq=seq)


def test_a_full_spool_refuses_rather_than_forgets(small_gate):
    gate = small_gate
    with pytest.raises(StorageFull, match="its cap is 1000") as full:
        fill(gate)
    assert "nothing is lost" in full.value.remedy
    kept = len(gate.waiting())
    assert kept > 0
    with pytest.raises(StorageFull):
        gate.send([gate.record()], seq=kept + 1)
    assert len(gate.waiting()) == kept
    boot = next(lane.boot for lane in gate.spool.lanes() if lane.rows)
    gate.spool.acknowledge(boot, kept)  # the hub has them: there is room again
    assert gate.send([gate.record()], seq=kept + 1)[0].seq == kept + 1


def test_a_full_spool_takes_an_alarm_and_the_message_around_it_is_sent_again(small_gate):
    gate = small_gate
    with pytest.raises(StorageFull):
        fill(gate)
    kept = len(gate.waiting())
    gate.gateway.receive("d1", "b", kept + 1, json.dumps([gate.record()]).encode())
    alarm = [{"n": "device-alarm", "vs": "high: asystole"}, gate.record()]
    assert gate.send(alarm, seq=kept + 2) == [Receipt("d1", "b", kept)]  # the one before it is not here yet
    assert gate.gateway.counts.refused >= 1
    assert len(gate.waiting()) == kept + 2
    assert gate.waiting()[0].value_text == "high: asystole"  # it goes first
    boot = next(lane.boot for lane in gate.spool.lanes() if lane.priority is Priority.VITAL)
    gate.spool.acknowledge(boot, kept)
    assert gate.send([gate.record()], seq=kept + 1) == [Receipt("d1", "b", kept + 2)]
    assert gate.send(alarm, seq=kept + 2) == [Receipt("d1", "b", kept + 2)]  # known already
    assert len(gate.waiting()) == 3


def test_a_full_disk_refuses_and_the_device_may_send_again(gate):
    gate.storage.free = 100
    with pytest.raises(StorageFull, match="free on the spool's disk"):
        gate.send([gate.record()])
    gate.storage.free = 10**12
    assert gate.send([gate.record()])[0].seq == 1
    assert len(gate.waiting()) == 1


def plain(gate, records, *, repeated=False):
    gate.gateway.receive("d1", "", 0, json.dumps(records).encode(), repeated=repeated)
    gate.gateway.commit()


def test_a_plain_device_that_measures_the_same_twice_is_kept_twice_and_a_repeat_once(gate):
    plain(gate, [{"n": "heart-rate", "u": "/min", "v": 60}])
    plain(gate, [{"n": "heart-rate", "u": "/min", "v": 60}])
    assert len(gate.waiting()) == len(gate.local.read(["loinc:8867-4"])) == 2
    plain(gate, [{"n": "heart-rate", "u": "/min", "v": 60}], repeated=True)  # MQTT's DUP: the acknowledgement was lost
    gate.open()
    plain(gate, [{"n": "heart-rate", "u": "/min", "v": 60}], repeated=True)  # also after a restart
    assert len(gate.waiting()) == 2
    timed = [gate.record()]
    plain(gate, timed)
    plain(gate, timed)
    gate.open()
    plain(gate, timed)
    assert len(gate.waiting()) == 3


def test_a_plain_message_that_was_never_durable_is_new_whatever_its_sender_says(gate):
    plain(gate, [gate.record()], repeated=True)
    assert len(gate.waiting()) == 1


def test_digests_of_plain_messages_are_bounded(gate, monkeypatch):
    monkeypatch.setattr("wardround.collect.spool.PLAIN_MAX", 10)
    for number in range(30):
        plain(gate, [gate.record(value=60.0 + number)])
    assert gate.storage.connect("spool").execute("SELECT count(*) FROM plain").fetchone() == (10,)


def test_device_time_corrected_time_and_clock_error_are_kept(gate):
    """A device that is 100 s ahead: nothing arrives before it was measured."""
    for seq in range(1, 4):
        gate.send([gate.record(t_s=100.0)], seq=seq)
        gate.clock.advance(1.0)
    for o in gate.waiting():
        assert o.t0_us == o.t_edge_us
        assert o.t0_device_us - o.t0_us == 100_000_000 == -o.clock_offset_us
        assert o.clock_error_us < 1_000
        assert o.flags & Quality.EARLY
    gate.open()  # a restart does not forget the clock
    gate.send([gate.record(t_s=99.0)], seq=4)
    assert gate.waiting()[-1].clock_offset_us == pytest.approx(-100_000_000, abs=10_000)


def test_a_clock_that_cannot_be_told_is_flagged_with_its_error(gate):
    gate.send([gate.record(t_s=-400.0)])
    [o] = gate.waiting()
    assert o.flags & Quality.CLOCK_UNSYNCED
    assert o.t0_us == o.t0_device_us
    assert o.clock_error_us == 400_000_000


def test_completeness_is_counted_once_over_repeats_and_restarts(gate):
    start = gate.clock.now_us()
    for seq in range(1, 31):
        for _ in range(2):
            gate.send([gate.record(), gate.record("body-weight", "kg", 70.0)], seq=seq)
        gate.clock.advance(60.0)
        if seq == 15:
            gate.open()
    hours = {h.code: h for h in read_hours(gate.storage) if h.hour_us == start // HOUR_US * HOUR_US}
    left_s = (HOUR_US - start % HOUR_US) / 1e6
    expected = min(30, -(-left_s // 60))
    assert hours["loinc:8867-4"].samples == expected
    assert hours["loinc:8867-4"].covered_s == 60.0 * expected
    assert hours["loinc:29463-7"].covered_s == 0.0


def test_of_a_subject_who_allows_nothing_no_payload_is_set_aside(gate):
    gate.send(b'[{"n":"secret-signal","u":"/min","v":61.5}]', device="d3")  # P3 has no consent on file
    gate.send(b'[{"n":"secret-signal","u":"/min","v":62.5}]', device="d2")
    kept = {row.device: row for row in gate.quarantine.rows()}
    assert (kept["d3"].payload, kept["d3"].detail, kept["d3"].can_replay) == (b"", "unknown-code", False)
    assert b"62.5" in kept["d2"].payload
