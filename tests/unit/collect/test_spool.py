"""The spool and the forwarder: in order, once, and what is damaged is said."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.clock import ManualClock
from wardround.collect.forwarder import Forwarder, may_leave
from wardround.collect.inbox import Gap, Inbox
from wardround.collect.intake import ForwardReceipt, Intake
from wardround.collect.lanes import Priority
from wardround.collect.spool import PARK_ROWS, PARKED_LANES_MAX, DeviceMark, Spool
from wardround.collect.storage import FolderStorage, MemoryStorage
from wardround.errors import StorageFull
from wardround.records import Consent, Observation, decode_observation, encode_observation
from wardround.settings import SpoolSettings


@pytest.fixture(params=["memory", "folder"])
def storage(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else FolderStorage(tmp_path)


VITALS = [(Priority.VITAL, data) for data in (b"one", b"two", b"three")]


def lane_of(spool, priority=Priority.VITAL):
    return next(lane for lane in spool.lanes() if lane.live and lane.priority is priority)


def sent(forwarder):
    """Everything that is to be sent now."""
    batches = []
    while batch := forwarder.next_batch():
        batches.append(batch)
    return batches


def test_what_is_committed_is_there_after_a_restart_in_order(storage):
    spool = Spool(storage, SpoolSettings(disk_reserve_bytes=0))
    spool.commit(VITALS[:2], [DeviceMark("d", "x", 2)])
    boot = lane_of(spool).boot
    spool.close()
    again = Spool(storage, SpoolSettings(disk_reserve_bytes=0))
    assert lane_of(again).boot == boot
    assert [(r.seq, r.data) for r in again.read_after(boot, 0)] == [(1, b"one"), (2, b"two")]
    assert again.mark("d", "x") == DeviceMark("d", "x", 2)
    again.acknowledge(boot, 1)
    assert [r.seq for r in again.read_after(boot, 0)] == [2]
    again.commit(VITALS[2:], [])
    assert [r.seq for r in again.read_after(boot, 0)] == [2, 3]  # a number is never used again


def test_an_acknowledgement_beyond_what_was_sent_is_our_own_mistake(storage):
    spool = Spool(storage, SpoolSettings(disk_reserve_bytes=0))
    with pytest.raises(ValueError, match="acknowledged 5"):
        spool.acknowledge(lane_of(spool).boot, 5)


def test_a_damaged_row_is_a_gap_with_its_reason_and_the_rest_goes_on():
    storage = MemoryStorage()
    spool = Spool(storage, SpoolSettings())
    spool.commit(VITALS, [])
    storage.connect("spool").execute("UPDATE waiting SET data = X'00' WHERE key % 256 = 2")
    first, second = sent(Forwarder(spool, lambda: (0, []), lambda _row: True))
    assert first.observations == (b"one",)
    assert second.observations == (b"three",)
    assert [(g.first_seq, g.last_seq, g.reason) for g in second.gaps] == [(2, 2, "corrupt")]


def test_after_a_new_connection_everything_unacknowledged_is_sent_again():
    spool = Spool(MemoryStorage(), SpoolSettings())
    spool.commit(VITALS[:2], [])
    forwarder = Forwarder(spool, lambda: (0, []), lambda _row: True)
    assert forwarder.next_batch().observations == (b"one", b"two")
    assert forwarder.next_batch() is None
    forwarder.reset()
    assert forwarder.next_batch().observations == (b"one", b"two")
    forwarder.receipted(ForwardReceipt(lane_of(spool).boot, 2))
    forwarder.receipted(ForwardReceipt("another life", 99))  # says nothing about this one
    assert spool.facts().observations == 0


def test_alarms_go_first_then_what_is_measured_now_then_what_an_outage_left():
    spool = Spool(MemoryStorage(), SpoolSettings())
    spool.commit([(Priority.WAVEFORM, b"old wave")] * PARK_ROWS + [(Priority.VITAL, b"old vital")] * PARK_ROWS, [], now_us=1)
    forwarder = Forwarder(spool, lambda: (0, []), lambda _row: True)
    forwarder.reset()  # the link is back
    spool.commit([(Priority.WAVEFORM, b"wave"), (Priority.VITAL, b"vital"), (Priority.ALARM, b"alarm")], [], now_us=2)
    batches = sent(forwarder)
    assert [set(b.observations) for b in batches] == [{b"alarm"}, {b"vital"}, {b"wave"}, {b"old vital"}, {b"old wave"}]
    assert spool.facts().oldest_us == 1
    for batch in batches:
        forwarder.receipted(ForwardReceipt(batch.boot, batch.first_seq + len(batch.observations) - 1))
    assert spool.facts().observations == 0
    assert [lane.live for lane in spool.lanes()] == [True, True, True]  # what the outage left is gone


def test_lanes_of_outages_survive_a_restart_and_are_bounded():
    storage = MemoryStorage()
    spool = Spool(storage, SpoolSettings())
    for _ in range(PARKED_LANES_MAX + 5):
        spool.commit([(Priority.VITAL, b"x")] * PARK_ROWS, [])
        spool.park()
    again = Spool(storage, SpoolSettings())
    assert [lane.boot for lane in again.lanes()] == [lane.boot for lane in spool.lanes()]
    assert len(again.lanes()) == PARKED_LANES_MAX + 3
    assert again.facts().observations == (PARKED_LANES_MAX + 5) * PARK_ROWS


def observation(code, size):
    return encode_observation(
        Observation(
            subject="S", device="d", edge="e", code=code, unit="1", t0_us=0, t0_device_us=0, n=size // 2, values=bytes(size)
        )
    )


def test_where_shedding_is_allowed_the_oldest_waveforms_go_first_alarms_never_and_a_gap_says_so():
    settings = SpoolSettings(bytes_max=64_000, when_full="shed", alarm_reserve_bytes=0)
    storage = MemoryStorage()
    spool = Spool(storage, settings)
    wave, vital, alarm = observation("wr:wave", 1_000), observation("wr:vital", 100), observation("wr:alarm", 100)
    for _ in range(100):
        spool.commit([(Priority.WAVEFORM, wave), (Priority.VITAL, vital)], [])
        spool.commit([(Priority.ALARM, alarm)], [])
    facts = spool.facts()
    assert facts.bytes <= 64_000
    kept = {lane.priority: lane.rows for lane in facts.lanes}
    assert kept[Priority.ALARM] == kept[Priority.VITAL] == 100
    gone = 100 - kept[Priority.WAVEFORM]
    assert gone == facts.dropped > 30
    [dropped] = spool.dropped()
    assert (dropped.code, dropped.rows, dropped.samples) == ("wr:wave", gone, 500 * gone)
    batches = sent(Forwarder(Spool(storage, settings), lambda: (0, []), lambda _row: True))  # also after a restart
    assert sum(len(b.observations) for b in batches) == 300 - gone
    assert [(g.first_seq, g.last_seq, g.reason) for b in batches for g in b.gaps] == [(1, gone, "byte-cap")]


def test_vital_signs_go_only_when_there_is_no_waveform_left_and_then_it_refuses():
    spool = Spool(MemoryStorage(), SpoolSettings(bytes_max=10_000, when_full="shed", alarm_reserve_bytes=500))
    for _ in range(30):
        spool.commit([(Priority.WAVEFORM, bytes(300)), (Priority.VITAL, bytes(300))], [])
    assert [(lane.priority, lane.rows) for lane in spool.lanes()] == [(0, 0), (1, 30), (2, 3)]
    spool.commit([(Priority.VITAL, bytes(300))] * 20, [])
    assert [(lane.priority, lane.rows) for lane in spool.lanes()] == [(0, 0), (1, 33), (2, 0)]
    with pytest.raises(StorageFull):
        spool.commit([(Priority.VITAL, bytes(20_000))], [])
    spool.commit([(Priority.ALARM, bytes(300))] * 34, [])
    with pytest.raises(StorageFull, match="its cap is 10500"):
        spool.commit([(Priority.ALARM, bytes(301))], [])
    assert [(lane.priority, lane.rows) for lane in spool.lanes()] == [(0, 34), (1, 0), (2, 0)]


def test_what_the_hub_had_before_it_was_given_up_is_no_gap():
    """The receipt was on its way when the row went."""
    inbox, refused = Inbox(MemoryStorage()), []
    intake = Intake(
        inbox=inbox,
        consent=lambda *_: Consent.RAW,
        clock=ManualClock(),
        on_refused=lambda *facts: refused.append(facts),
        on_committed=lambda _: None,
    )
    spool = Spool(MemoryStorage(), SpoolSettings(bytes_max=10_000, when_full="shed"))
    wave = observation("wr:wave", 1_000)
    forwarder = Forwarder(spool, lambda: (0, []), lambda _row: True)
    spool.commit([(Priority.WAVEFORM, wave)] * 2, [])
    batch = forwarder.next_batch()
    intake.receive("e", batch.boot, batch.first_seq, batch.observations, batch.gaps)
    for _ in range(12):
        spool.commit([(Priority.WAVEFORM, wave)], [])
    shed = lane_of(spool, Priority.WAVEFORM).shed
    assert shed > 2
    forwarder.reset()
    batch = forwarder.next_batch()
    receipt = intake.receive("e", batch.boot, batch.first_seq, batch.observations, batch.gaps)
    assert receipt.committed_seq == 14
    assert inbox.gaps() == [("e", batch.boot, Gap(3, shed, "byte-cap"))]
    assert inbox.waiting() == 14 - (shed - 2)


def test_pages_that_rows_have_left_are_room_on_a_full_disk(tmp_path):
    storage = FolderStorage(tmp_path)
    storage.free_bytes = lambda: 1_000_000
    spool = Spool(storage, SpoolSettings(disk_reserve_bytes=500_000, ballast_bytes=0))
    spool.commit([(Priority.VITAL, bytes(400_000))], [])
    storage.free_bytes = lambda: 600_000
    with pytest.raises(StorageFull, match="500000 bytes are free"):
        spool.commit([(Priority.VITAL, bytes(300_000))], [])
    spool.acknowledge(lane_of(spool).boot, 1)
    spool.commit([(Priority.VITAL, bytes(300_000))], [])


def test_a_spool_of_the_first_schema_is_taken_over():
    storage = MemoryStorage()
    storage.connect("spool").executescript(
        "CREATE TABLE waiting (seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL);"
        "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
        "INSERT INTO facts VALUES ('boot', 'b0'), ('last_seq', '9'), ('acknowledged_seq', '7');"
        f"INSERT INTO waiting VALUES (8, {zlib.crc32(b'a')}, X'61'), (9, {zlib.crc32(b'b')}, X'62');"
    )
    [batch] = sent(Forwarder(Spool(storage, SpoolSettings()), lambda: (0, []), lambda _row: True))
    assert (batch.boot, batch.first_seq, batch.observations, batch.gaps) == ("b0", 8, (b"a", b"b"), ())


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(1, 30)))
def test_a_mark_is_what_has_come_without_a_hole(order):
    mark, had = DeviceMark("d", "b"), set()
    for seq in order:
        mark = mark.with_seq(seq)
        had.add(seq)
        hole = next(n for n in range(1, 32) if n not in had)
        assert mark.contiguous == hole - 1
        assert all(mark.has(n) == (n in had) for n in range(1, 31))


def test_the_inbox_remembers_what_it_has_had_after_the_rows_are_gone():
    storage = MemoryStorage()
    inbox = Inbox(storage)
    inbox.put("e", "b", 1, [b"a", b"b"], after=0, upto=2)
    inbox.retire(inbox.pending(10)[-1].number)
    assert inbox.waiting() == 0
    assert Inbox(storage).watermark("e", "b") == 2


def test_what_was_spooled_under_a_consent_that_is_withdrawn_does_not_leave(gate):
    for seq, device in enumerate(("d1", "d2", "d1"), 1):
        gate.send([gate.record(value=60.0 + seq)], device=device, seq=seq)
    gate.consents["P2"] = Consent.RAW
    gate.send([gate.record(value=99.0)], device="d2", seq=4)
    choose = lambda subject, _code: (gate.consents[subject], 1)  # noqa: E731
    leaves = lambda row: may_leave(row, choose)  # noqa: E731
    gate.consents["P1"] = Consent.LOCAL  # after the spool took it, before it is sent
    [batch] = sent(Forwarder(gate.spool, lambda: (0, []), leaves))
    assert [decode_observation(row).subject for row in batch.observations] == ["P2"]
    assert [(g.first_seq, g.last_seq, g.reason) for g in batch.gaps] == [(1, 1, "withdrawn"), (2, 2, "withdrawn")]
    assert gate.spool.drop(lambda row: not leaves(row)) == 2
    assert gate.spool.drop(lambda row: not leaves(row)) == 0
    assert [batch] == sent(Forwarder(gate.spool, lambda: (0, []), leaves))  # the hub is told the same as before


def test_what_cannot_be_read_does_not_leave():
    assert not may_leave(b"\xc1", lambda _subject, _code: (Consent.RAW, 1))
