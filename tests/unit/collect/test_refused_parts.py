"""A device that sends much that cannot be read: its edge's disk has one write for a group of messages, and no thousand copies."""

from __future__ import annotations

import json
import sqlite3

import pytest

from wardround.collect.quarantine import PAYLOAD_MAX, WHOLE
from wardround.collect.refused_parts import ROWS_MIN
from wardround.collect.signals import load_signals
from wardround.errors import StorageFull


def commits(quarantine):
    """Counts transactions from now on."""
    seen = []
    quarantine._db.set_trace_callback(lambda said: seen.append(said) if said.startswith("COMMIT") else None)
    return seen


def pack(gate, n, *, sound=0):
    """A message of n readings nobody knows, and some that can be read."""
    known = [gate.record("heart-rate", value=60.0 + k, t_s=-k) for k in range(sound)]
    return json.dumps(
        [*known, *({"n": f"pulse-{k}", "u": "/min", "v": k, "t": gate.clock.now_us() / 1e6} for k in range(n))]
    ).encode()


def test_what_is_refused_of_a_group_of_messages_is_one_write(gate):
    """Each part had been a write of its own, synced: a device held up its edge, and all others, for minutes with one message."""
    written = commits(gate.quarantine)
    for seq in range(1, 21):
        gate.gateway.receive("d1", "b", seq, b"no message")
        gate.gateway.receive("d2", "b", seq, pack(gate, 5))
    receipts = gate.gateway.commit()
    assert [(r.device, r.seq) for r in receipts] == [("d1", 20), ("d2", 20)]
    assert sum(gate.reasons().values()) == 20 + 100
    assert len(written) == 1
    assert gate.gateway.commit() == []
    assert len(written) == 1


def test_a_message_of_thousands_of_parts_that_are_all_refused_is_set_aside_whole_and_replayed_once(gate):
    payload = pack(gate, 600)
    assert len(payload) < PAYLOAD_MAX
    gate.send(payload)
    [row] = gate.quarantine.rows()
    assert (row.part, row.can_replay) == (WHOLE, True)
    assert "so are 599 other parts" in row.detail
    assert gate.gateway.counts.set_aside == 600
    gate.gateway.use(load_signals().with_names({f"pulse-{k}": "heart-rate" for k in range(600)}))
    for _ in range(2):
        gate.quarantine.ask()
        for asked in gate.quarantine.asked():
            gate.gateway.replay(asked)
        gate.gateway.commit()
    assert len(gate.waiting()) == gate.local.count() == 600
    assert gate.reasons() == {}


def test_of_a_message_that_is_too_large_to_be_replayed_few_rows_are_kept(gate):
    payload = pack(gate, 3_000, sound=3)
    gate.send(payload)
    assert len(gate.waiting()) == 1  # three values of one signal are a run
    assert sum(gate.reasons().values()) == ROWS_MIN
    assert gate.gateway.counts.set_aside == 3_000


def test_a_small_message_keeps_every_part_for_its_replay(gate):
    gate.send(pack(gate, 300, sound=1))
    assert sum(gate.reasons().values()) == 300
    assert all(row.can_replay for row in gate.quarantine.rows())


def test_a_full_disk_refuses_what_would_be_set_aside_and_the_device_sends_it_again(gate):
    """It had ended the collector, and with it the edge: the error was sqlite's own."""
    gate.quarantine._db.execute("PRAGMA query_only = 1")
    gate.gateway.receive("d1", "b", 1, b"no message")
    with pytest.raises(StorageFull):
        gate.gateway.commit()
    assert not gate.spool.mark("d1", "b").has(1)
    gate.quarantine._db.execute("PRAGMA query_only = 0")
    gate.gateway.receive("d1", "b", 1, b"no message")
    assert [(r.device, r.seq) for r in gate.gateway.commit()] == [("d1", 1)]
    assert sum(gate.reasons().values()) == 1


def test_the_collector_goes_on_when_the_disk_refuses(gate):
    gate.quarantine._db.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.OperationalError):
        gate.quarantine._db.execute("DELETE FROM aside")
    with pytest.raises(StorageFull):
        gate.send(b"no message")
    assert len(gate.send([gate.record()], seq=2)) == 0  # the first is missing still
    assert len(gate.waiting()) == 1
