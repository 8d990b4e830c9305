"""Batches stay batches in the inbox: nothing of them is lost, doubled or changed, and one bad row harms no other."""

from __future__ import annotations

import sqlite3
import threading

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.clock import ManualClock
from wardround.collect import inbox as inbox_module
from wardround.collect.inbox import Gap, Inbox
from wardround.collect.intake import Committer, Intake
from wardround.collect.storage import FolderStorage, MemoryStorage
from wardround.errors import StorageFull
from wardround.process.tables import observation_rows
from wardround.records import YEAR_9999_US, Consent, Observation, encode_observation

GONE = "subject-gone"


def observation(seq=1, subject="s", code="loinc:8867-4", **fields):
    facts = {"t0_us": 1_700_000_000_000_000 + seq, "t0_device_us": 0, "value": float(seq), "device_seq": seq} | fields
    return Observation(subject=subject, device="d", edge="e", code=code, unit="/min", **facts)


def wave(seq=1, n=4, **fields):
    return observation(seq, **({"n": n, "value": None, "period_us": 4_000.0, "values": bytes(2 * n)} | fields))


class Hub:
    """Intake, inbox, committer, and a lake of lists."""

    def __init__(self, storage=None, consent=lambda *_: Consent.RAW, rows_max=50_000):
        self.inbox = Inbox(storage or MemoryStorage())
        self.refused, self.seen, self.rows, self.version = [], [], [], -1
        self.intake = Intake(
            inbox=self.inbox,
            consent=consent,
            clock=ManualClock(),
            on_refused=lambda edge, reason, detail: self.refused.append((reason, detail)),
            on_committed=self.seen.extend,
        )
        self.committer = Committer(
            inbox=self.inbox, lake_version=lambda _app: self.version, lake_append=self.append, rows_max=rows_max
        )

    def append(self, batches, _app, version):
        self.rows += observation_rows(row for batch in batches for row in batch.observations()).to_pylist()
        self.version = version

    def send(self, first_seq, rows, gaps=()):
        return self.intake.receive("e", "boot", first_seq, rows, gaps)

    def commit(self):
        while self.committer.run_once():
            pass
        return {row["edge_seq"]: row["value"] for row in self.rows}


def encoded(*seqs, **fields):
    return [encode_observation(observation(seq, **fields)) for seq in seqs]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 12)), max_size=20), st.integers(1, 9))
def test_whatever_is_sent_again_and_in_whatever_batches_each_sequence_is_there_once(sent, rows_max):
    hub = Hub(rows_max=rows_max)
    had = 0
    for first, n in sent:
        if first <= had + 1:
            had = max(had, first + n - 1)
        assert hub.send(first, encoded(*range(first, first + n))).committed_seq == had
    assert hub.inbox.waiting() == had
    assert hub.commit() == {seq: float(seq) for seq in range(1, had + 1)}
    assert len(hub.rows) == len(hub.seen) == had
    assert hub.inbox.waiting() == 0


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(0, 9),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5)), max_size=4),
    st.integers(0, 8),
)
def test_gaps_are_stepped_over_wherever_they_lie(first, n, spans, known):
    """Beside the same thing said sequence by sequence."""
    gaps = [Gap(start, start + length, "missing") for start, length in spans]
    hub = Hub()
    hub.send(1, encoded(*range(1, known + 1)))
    upto, there = known, set(range(1, known + 1))
    while True:
        over = [gap.last_seq for gap in sorted(gaps, key=lambda g: g.first_seq) if gap.first_seq <= upto + 1 <= gap.last_seq]
        if over:
            upto = over[0]
        elif first <= upto + 1 < first + n:
            upto += 1
            there.add(upto)
        else:
            break
    assert hub.send(first, encoded(*range(first, first + n)), gaps).committed_seq == upto
    assert set(hub.commit()) == there
    covered = {seq for _, _, gap in hub.inbox.gaps() for seq in range(gap.first_seq, gap.last_seq + 1)}
    assert covered == set(range(1, upto + 1)) - there


OUT_OF_RANGE = {
    "a time no calendar has": {"t0_us": YEAR_9999_US + 1},
    "a time no column has": {"t0_us": 2**63 + 1},
    "a device's time no column has": {"t0_device_us": 2**63},
    "more samples than a column counts": {"n": 2**31},
    "fewer than none": {"n": -1},
    "flags no column has": {"flags": 2**31},
    "a validity no column has": {"validity": 200},
    "a message number no column has": {"device_seq": 2**63},
    "samples that are not there": {"n": 3, "values": b"12"},
    "times that are not there": {"n": 3, "values": b"123456", "offsets_us": b"1234567"},
    "a period that is no number": {"n": 3, "values": b"123456", "period_us": float("nan")},
    "a run without an end": {"n": 3, "values": b"123456", "period_us": float("inf")},
    "a run beyond the calendar": {"n": 3, "values": b"123456", "period_us": 1e18},
    "a run that goes backwards": {"n": 3, "values": b"123456", "period_us": -4.0},
}


@pytest.mark.parametrize("fields", OUT_OF_RANGE.values(), ids=lambda f: next(k for k, v in OUT_OF_RANGE.items() if v == f))
def test_what_an_edge_makes_up_is_refused_and_never_holds_up_the_lake(fields):
    hub = Hub()
    bad = encode_observation(observation(2, **fields))
    receipt = hub.send(1, [*encoded(1), bad, b"", b"\xc1", *encoded(5)])
    assert [(r.seq, r.reason) for r in receipt.refusals] == [(seq, "not-an-observation") for seq in (2, 3, 4)]
    assert receipt.committed_seq == 5
    assert hub.commit() == {1: 1.0, 5: 5.0}


def test_the_extremes_of_what_is_taken_are_kept_as_they_are():
    edge = [
        observation(1, t0_us=-62_135_596_800_000_000, t0_device_us=-(2**63), validity=127, flags=2**31 - 1),
        observation(2, t0_us=YEAR_9999_US, device_seq=2**63 - 1, consent_version=2**63 - 1, device_index=2**31 - 1),
        wave(3, t0_us=YEAR_9999_US, period_us=0.0),
        wave(4, n=2, period_us=None, offsets_us=bytes(8)),
        observation(5, n=0, value=None),
    ]
    hub = Hub()
    assert not hub.send(1, [encode_observation(o) for o in edge]).refusals
    hub.commit()
    assert {row["edge_seq"]: (row["t0_us"], row["device_seq"]) for row in hub.rows} == {
        k: (o.t0_us, o.device_seq) for k, o in enumerate(edge, 1)
    }


def test_consent_is_that_of_each_row():
    allowed = {("a", "wr:1"), ("b", "wr:2")}
    hub = Hub(consent=lambda edge, s, c: Consent.RAW if edge == "e" and (s, c) in allowed else Consent.LOCAL)
    rows = [(s, c) for _ in range(3) for s in "ab" for c in ("wr:1", "wr:2")]
    receipt = hub.send(1, [encode_observation(observation(k, s, c)) for k, (s, c) in enumerate(rows, 1)])
    assert [(r.seq, r.reason) for r in receipt.refusals] == [
        (k, "no-consent") for k, row in enumerate(rows, 1) if row not in allowed
    ]
    assert set(hub.commit()) == {k for k, row in enumerate(rows, 1) if row in allowed}
    foreign = msgspec.structs.replace(observation(13, "a", "wr:1"), edge="another")
    assert [r.reason for r in hub.send(13, [encode_observation(foreign)]).refusals] == ["another-edge"]
    assert len(hub.seen) == 6


def test_two_connections_of_one_edge_bring_each_sequence_once(tmp_path):
    hub = Hub(FolderStorage(tmp_path))
    rows = encoded(*range(1, 401))
    gate = threading.Barrier(4)

    def bring():
        gate.wait()
        for first in range(1, 401, 20):
            hub.send(first, rows[first - 1 : first + 19])

    threads = [threading.Thread(target=bring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.inbox.watermark("e", "boot") == 400
    hub.commit()
    assert sorted(row["edge_seq"] for row in hub.rows) == list(range(1, 401))


def test_a_watermark_that_never_holds_still_is_refused_in_the_end(monkeypatch):
    hub = Hub()
    monkeypatch.setattr(hub.inbox, "put", lambda *_, **__: False)
    with pytest.raises(StorageFull, match="several connections"):
        hub.send(1, encoded(1))


def test_the_lake_is_given_so_many_rows_or_bytes_at_once_and_at_least_a_batch():
    inbox = Inbox(MemoryStorage())
    for k in range(5):
        inbox.put("e", "b", 10 * k + 1, [bytes(100)] * 10, after=10 * k, upto=10 * k + 10)
    assert [len(inbox.pending(rows)) for rows in (1, 10, 19, 20, 49, 1_000)] == [1, 1, 1, 2, 4, 5]
    assert [len(inbox.pending(1_000, size)) for size in (1, 1_000, 2_500, 5_000)] == [1, 1, 2, 5]


def test_what_comes_one_by_one_goes_to_the_lake_in_one_commit():
    hub = Hub()
    for seq in range(1, 3_001):
        hub.send(seq, encoded(seq))
    assert hub.committer.run_once() == 3_000
    assert [row["edge_seq"] for row in sorted(hub.rows, key=lambda row: row["edge_seq"])] == list(range(1, 3_001))
    assert all(row["value"] == row["edge_seq"] for row in hub.rows)


def test_rows_are_the_same_one_by_one_and_all_at_once(monkeypatch):
    monkeypatch.setattr(inbox_module, "DECODE_ROWS", 3)
    hub = Hub(consent=lambda _edge, _subject, code: Consent.NONE if code == "wr:none" else Consent.RAW)
    codes = ["wr:none", "wr:a", "wr:a", "wr:none", "wr:b", "wr:a", "wr:a", "wr:none"]
    hub.send(1, [encode_observation(observation(k, code=code)) for k, code in enumerate(codes, 1)])
    [batch] = hub.inbox.pending(10)
    assert batch.n_rows == 5
    assert [(row.seq, row.data) for row in batch.rows()] == [
        (k, encode_observation(observation(k, code=code))) for k, code in enumerate(codes, 1) if code != "wr:none"
    ]
    assert [(o, boot, seq, t) for o, boot, seq, t in batch.observations()] == [
        (observation(row.seq, code=codes[row.seq - 1]), row.boot, row.seq, row.t_hub_us) for row in batch.rows()
    ]


def test_a_subject_that_is_erased_leaves_no_byte_and_the_others_keep_their_sequences(tmp_path):
    storage = FolderStorage(tmp_path)
    hub = Hub(storage)
    who = [GONE, "s", "s", GONE, "s", GONE]
    hub.send(1, [encode_observation(observation(k, s)) for k, s in enumerate(who, 1)])
    hub.send(7, [encode_observation(observation(k, GONE)) for k in (7, 8)])
    hub.send(9, encoded(9))
    assert hub.inbox.forget(GONE) == 5
    assert hub.inbox.forget(GONE) == 0
    assert hub.inbox.compact()
    assert not [f for f in tmp_path.iterdir() if GONE.encode() in f.read_bytes()]
    assert hub.inbox.waiting() == 4
    assert hub.commit() == {2: 2.0, 3: 3.0, 5: 5.0, 9: 9.0}
    assert not hub.send(1, encoded(1)).refusals  # a repeat, and not taken
    assert hub.inbox.waiting() == 0


# -- an inbox of the first form: an observation a row

FIRST_FORM = """
CREATE TABLE arrived (number INTEGER PRIMARY KEY AUTOINCREMENT, edge TEXT NOT NULL, boot TEXT NOT NULL,
    seq INTEGER NOT NULL, t_hub_us INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (edge, boot, seq));
CREATE TABLE watermarks (edge TEXT, boot TEXT, seq INTEGER NOT NULL, PRIMARY KEY (edge, boot)) WITHOUT ROWID;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO facts VALUES ('inbox_id', 'abc');
"""


def first_form(folder, upto, retired):
    """As it was left with sequences 1 to `upto` taken, of which those to `retired` are in the lake."""
    db = FolderStorage(folder).connect("inbox")
    db.executescript(FIRST_FORM)
    for seq in range(1, upto + 1):
        row = ("e", "boot", seq, 5, encode_observation(observation(seq)))
        db.execute("INSERT INTO arrived (edge, boot, seq, t_hub_us, data) VALUES (?, ?, ?, ?, ?)", row)
    db.execute("DELETE FROM arrived WHERE number <= ?", (retired,))
    db.execute("INSERT INTO watermarks VALUES ('e', 'boot', ?)", (upto,))
    db.close()


@pytest.mark.parametrize(("retired", "in_the_lake"), [(0, 0), (0, 4), (4, 4), (4, 9), (9, 9)])
def test_an_inbox_of_the_first_form_is_taken_over_and_its_numbers_go_on(tmp_path, retired, in_the_lake):
    """Also when it is empty: were numbers to begin again, the lake would think that it has had what is new."""
    first_form(tmp_path, 9, retired)
    for _ in range(2):  # and again: nothing is taken over twice
        hub = Hub(FolderStorage(tmp_path))
        assert hub.inbox.inbox_id == "abc"
        assert hub.inbox.waiting() == 9 - retired
    hub.version = in_the_lake or -1
    assert hub.send(8, encoded(8, 9, 10, 11)).committed_seq == 11
    assert hub.commit() == {seq: float(seq) for seq in range(in_the_lake + 1, 12)}
    assert hub.version > 9
    [(left,)] = sqlite3.connect(tmp_path / "inbox.sqlite").execute("SELECT count(*) FROM sqlite_master WHERE name = 'arrived'")
    assert left == 0


def test_what_is_left_of_the_first_form_can_be_erased(tmp_path):
    first_form(tmp_path, 3, 0)
    hub = Hub(FolderStorage(tmp_path))
    assert hub.inbox.forget("s") == 3
    assert hub.inbox.compact()
    assert not [f for f in tmp_path.iterdir() if encode_observation(observation(1)) in f.read_bytes()]


def test_counts_of_a_wave_are_what_was_sent():
    hub = Hub()
    sent = replace_values(wave(1, n=5), np.array([1, -2, 3, -4, 32_767]))
    hub.send(1, [encode_observation(sent)])
    hub.commit()
    assert np.frombuffer(hub.rows[0]["values"], "<i2").tolist() == [1, -2, 3, -4, 32_767]
    assert hub.rows[0]["t1_us"] == sent.t0_us + 16_000


def replace_values(o, counts):
    return msgspec.structs.replace(o, values=counts.astype("<i2").tobytes())
