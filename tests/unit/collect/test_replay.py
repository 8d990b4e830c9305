"""What was set aside is read again once it can be, and never twice."""

from __future__ import annotations

import json

import pytest

from wardround.collect.quarantine import PAYLOAD_MAX, WHOLE
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.errors import StorageFull
from wardround.records import Consent


def replay(gate, **which):
    asked = gate.quarantine.ask(**which)
    for row in gate.quarantine.asked():
        gate.gateway.replay(row)
    gate.gateway.commit()
    return asked


def waiting(gate):
    return [(o.code, o.value, o.device_seq, o.device_index) for o in gate.waiting()]


def test_a_reading_goes_through_once_its_name_is_mapped(gate):
    gate.send([gate.record(), gate.record(name="hr", value=61.0)])
    assert gate.reasons() == {"unknown-code": 1}
    replay(gate)
    assert gate.reasons() == {"unknown-code": 1}, "nothing has changed: it is refused again"
    gate.gateway.use(load_signals().with_names({"hr": "heart-rate"}))
    replay(gate)
    assert waiting(gate) == [("loinc:8867-4", 60.0, 1, 0), ("loinc:8867-4", 61.0, 1, 1)]
    assert gate.reasons() == {}


def test_a_row_that_nobody_asked_for_stays(gate):
    gate.send([gate.record(name="hr")])
    gate.send([gate.record(unit="[stone_av]")], seq=2)
    gate.gateway.use(load_signals().with_names({"hr": "heart-rate"}))
    assert replay(gate, reason="unknown-code") == 1
    assert gate.reasons() == {"unit-does-not-convert": 1}


def test_a_message_of_a_device_that_is_registered_later(gate):
    gate.send([gate.record()], device="new")
    gate.gateway._registry["new"] = Device("new", "P1", "", "")
    replay(gate)
    replay(gate)
    assert waiting(gate) == [("loinc:8867-4", 60.0, 1, 0)]


def test_a_crash_between_the_commit_and_the_end_of_a_replay_doubles_nothing(gate):
    gate.send([gate.record(name="hr")])
    table = load_signals().with_names({"hr": "heart-rate"})
    gate.gateway.use(table)
    gate.quarantine.ask()
    [row] = gate.quarantine.asked()
    settle, gate.quarantine.settle = gate.quarantine.settle, lambda _row: None
    gate.gateway.replay(row)
    gate.gateway.commit()
    gate.quarantine.settle = settle
    gate.open()
    gate.gateway.use(table)
    replay(gate)
    assert len(gate.waiting()) == 1
    assert gate.reasons() == {}


def test_a_full_disk_leaves_the_row(small_gate):
    gate = small_gate
    gate.send([gate.record(name="hr")])
    while True:
        try:
            gate.send([gate.record()], seq=gate.spool.mark("d1", "b").contiguous + 1)
        except StorageFull:
            break
    gate.gateway.use(load_signals().with_names({"hr": "heart-rate"}))
    with pytest.raises(StorageFull):
        replay(gate)
    assert gate.reasons() == {"unknown-code": 1}
    for lane in gate.spool.lanes():
        gate.spool.acknowledge(lane.boot, lane.last)
    replay(gate)
    assert [o.device_seq for o in gate.waiting()] == [1]


def test_consent_is_asked_again(gate):
    gate.send([gate.record(name="hr")])
    gate.consents["P1"] = Consent.NONE
    gate.gateway.use(load_signals().with_names({"hr": "heart-rate"}))
    replay(gate)
    assert gate.waiting() == []
    assert gate.reasons() == {}


def test_a_message_that_was_cut_is_not_read_again(gate):
    pad = {"n": "x", "vs": "y" * 190}
    gate.send([gate.record(name="hr")] + [pad] * (PAYLOAD_MAX // 190), device="unknown")
    [row] = gate.quarantine.rows()
    assert row.part == WHOLE
    assert not row.can_replay
    assert gate.quarantine.ask() == 0


def test_other_formats_come_through_the_same_gate(gate):
    gate.gateway._registry["d1"] = Device("d1", "P1", "", "", format="gatt")
    gate.gateway.receive("d1", "b", 1, json.dumps([{"characteristic": "2A37", "value": "0048"}]).encode())
    gate.gateway.receive("d1", "b", 2, json.dumps({"characteristic": "2A37", "value": "0400"}).encode())
    gate.gateway.receive("d1", "b", 3, b"{}")
    assert gate.gateway.commit()[0].seq == 3
    assert [(o.code, o.value) for o in gate.waiting()] == [("loinc:8867-4", 72.0)]
    assert gate.reasons() == {"no-contact": 1, "malformed-gatt": 1}
    assert gate.quarantine.ask() == 1, "no contact is no number, whatever is mapped"
