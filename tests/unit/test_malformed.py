"""Bytes that are no text, inside an otherwise sound message: refused by name at every door, like whatever else does not hold."""

from __future__ import annotations

import json

import msgspec
import pytest

from fuzz_seeds import built
from wardround.clock import ManualClock
from wardround.collect.devices import decoders
from wardround.collect.devices.gatt import Source
from wardround.collect.devices.reading import decode_readings
from wardround.collect.files import formats
from wardround.collect.files.opened import Known, in_memory
from wardround.collect.forwarder import may_leave
from wardround.collect.inbox import Inbox
from wardround.collect.intake import Intake
from wardround.collect.storage import MemoryStorage
from wardround.errors import DecodeError, LearnError
from wardround.learn.manifests import read_manifest
from wardround.learn.study import decode_training
from wardround.learn.survey import decode_survey
from wardround.records import Consent, Observation, encode_observation

NO_TEXT = b"\xde\xd3"
OBSERVATION = encode_observation(
    Observation(subject="QQQQ", code="loinc:8867-4", device="d", edge="e", t0_us=1, t0_device_us=1, unit="/min", value=70.0)
)
BROKEN = OBSERVATION.replace(b"QQQQ", NO_TEXT * 2)


def test_notifications_of_a_device():
    (message,) = [m for m in built("gatt") if b"2A9D" in m and m.startswith(b"{")]
    broken = message.replace(b"00a83e", b"00a8" + NO_TEXT)
    with pytest.raises(DecodeError, match="JSON"):
        decoders.decode("gatt", broken, Source(0))
    with pytest.raises(DecodeError, match="JSON"):
        list(formats.read(in_memory(broken), Known(0)))
    assert json.loads(message)["characteristic"] == "2A9D"


def test_readings_of_a_file():
    (kept,) = built("readings")
    with pytest.raises(DecodeError, match="readings of a file"):
        decode_readings(kept.replace(b"heart-rate", b"heart-ra" + NO_TEXT))


def test_an_observation_at_the_hub_and_on_its_way():
    inbox = Inbox(MemoryStorage())
    refused = []
    intake = Intake(
        inbox=inbox,
        consent=lambda *_: Consent.RAW,
        clock=ManualClock(),
        on_refused=lambda *facts: refused.append(facts),
        on_committed=lambda _: None,
    )
    receipt = intake.receive("e", "boot", 1, [OBSERVATION, BROKEN])
    assert receipt.committed_seq == 2
    assert [(r.seq, r.reason) for r in receipt.refusals] == [(2, "not-an-observation")]
    assert not may_leave(BROKEN, lambda _subject, _code: (Consent.RAW, 1))


def packed(name):
    """A message whose first field is this one, and its value no text."""
    return msgspec.msgpack.encode({name: "QQQQ"}).replace(b"QQQQ", NO_TEXT * 2)


def test_what_hub_and_edges_tell_each_other_about_learning():
    for read, name in ((decode_training, "task"), (decode_survey, "task"), (lambda data: read_manifest(data, "0" * 64), "study")):
        with pytest.raises(LearnError, match="read"):
            read(packed(name))


def test_the_bytes_above_would_otherwise_raise_what_nobody_expects():
    with pytest.raises(UnicodeDecodeError):
        msgspec.msgpack.decode(packed("task"))
