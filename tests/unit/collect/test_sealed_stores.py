"""Encrypted spool, local store, quarantine, imports and inbox: nothing plain on the disk, nothing lost but what was erased."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import tempfile
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect import sealed_batches, sealed_rows
from wardround.collect.devices.reading import Reading
from wardround.collect.forwarder import CORRUPT, WITHDRAWN, Forwarder
from wardround.collect.imports import Imports
from wardround.collect.inbox import Inbox, InboxBatch
from wardround.collect.lanes import Priority
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import WHOLE, Quarantine, SetAside
from wardround.collect.sealed_rows import look_into, seal_all
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.errors import KeyRefused, StorageFull, Unreadable
from wardround.records import Observation, decode_observation, encode_observation
from wardround.settings import SpoolSettings
from wardround.trust import data_keys
from wardround.trust.at_rest import KEYS, MARK, PLAIN, turn_on
from wardround.trust.data_keys import DataKeys
from wardround.trust.kek import KekSource

ANNA, BERT = "q7k4-m2xd-aaaa-bbbb-cccc", "z2z2-m2xd-aaaa-bbbb-dddd"
OWNERS = {"d-anna": ANNA, "d-bert": BERT}
CODE = "loinc:8867-4"
SECRET = "a word that no disk may show"
T0_US = 1_700_000_000_000_000


def observation(subject, seq, text=SECRET):
    facts = {
        "edge": "icu-a",
        "code": CODE,
        "unit": "",
        "t0_us": T0_US + seq,
        "t0_device_us": T0_US,
        "value_text": f"{text} {seq}",
    }
    return Observation(subject=subject, device=f"d-{subject[:4]}", device_boot="b", device_seq=seq, **facts)


class Site:
    """The stores of an edge and of a hub in one home."""

    def __init__(self, folder, *, sealed=True):
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(exist_ok=True)
        self.open(sealed=sealed)

    def open(self, *, sealed=True):
        """As after a kill: whatever was not committed is gone."""
        self.seal = turn_on(self.home, f"file:{self.folder}/site.kek") if sealed else PLAIN
        storage = FolderStorage(self.home / "stores")
        self.spool = Spool(storage, SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0), self.seal)
        self.local = LocalStore(storage, self.seal)
        self.quarantine = Quarantine(storage, self.seal, lambda device: OWNERS.get(device, ""))
        self.imports = Imports(storage, self.seal, lambda device: OWNERS.get(device, ""))
        self.inbox = Inbox(storage, self.seal)
        self.stores = (self.spool, self.local, self.quarantine, self.imports, self.inbox)

    def close(self):
        for store in self.stores:
            store.close()
        if self.seal.on:
            self.seal.keys.close()

    def again(self, *, sealed=True):
        self.close()
        self.open(sealed=sealed)

    def put(self, subject, seqs):
        """The same observations into everything."""
        rows = [observation(subject, seq) for seq in seqs]
        self.spool.commit([(Priority.VITAL, encode_observation(o)) for o in rows], [])
        self.local.keep(rows)
        device = next(d for d, s in OWNERS.items() if s == subject)
        for seq in seqs:
            payload = f"{SECRET} {seq}".encode()
            self.quarantine.put([SetAside(T0_US, device, "b", seq, WHOLE, "malformed", f"not JSON: {SECRET}", payload)])
        self.imports.put("ticket", device, [Reading(name="heart-rate", unit="", t_us=T0_US, text=f"{SECRET} {seqs[0]}")])
        boot = subject[:4]
        after = self.inbox.watermark("icu-a", boot)
        data = [encode_observation(o) for o in rows]
        assert self.inbox.put("icu-a", boot, after + 1, data, after=after, upto=after + len(rows), subjects=[subject] * len(rows))

    def read(self):
        """What each store still has, as (subject, sequence); each row is checked to be what was put."""
        lanes = self.spool.lanes()
        spooled = [row.data for lane in lanes for row in self.spool.read_after(lane.boot, 0, rows_max=10_000) if row.data]
        inbox = [o for batch in self.inbox.pending(10**6) for o, *_ in batch.observations()]
        found = {"spool": list(map(decode_observation, spooled)), "local": self.local.read([CODE]), "inbox": inbox}
        assert all(o == observation(o.subject, o.device_seq) for rows in found.values() for o in rows)
        aside = [row for row in self.quarantine.rows() if row.payload]
        assert all(row.payload.decode() == f"{SECRET} {row.seq}" and SECRET in row.detail for row in aside)
        return {name: sorted((o.subject, o.device_seq) for o in rows) for name, rows in found.items()} | {
            "aside": sorted((OWNERS[row.device], row.seq) for row in aside)
        }

    def shows(self, words=SECRET):
        """Files that hold the words as they are."""
        return sorted(p.name for p in self.home.rglob("*") if p.is_file() and words.encode() in p.read_bytes())

    def edit(self, name, query, *values):
        """Another hand at a closed file."""
        db = sqlite3.connect(self.home / "stores" / f"{name}.sqlite")
        with db:
            rows = db.execute(query, values).fetchall()
        db.close()
        return rows


@pytest.fixture
def folder(tmp_path):
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="wardround-") as name:
        yield Path(name)


@pytest.fixture
def site(folder):
    site = Site(folder)
    yield site
    site.close()


ALL = [(s, n) for s in (ANNA, BERT) for n in (1, 2, 3)]
EVERYWHERE = {"spool": ALL, "local": ALL, "inbox": ALL, "aside": ALL}


def fill(site):
    for subject in (ANNA, BERT):
        site.put(subject, [1, 2, 3])


def test_no_value_is_on_the_disk_and_every_value_comes_back(site):
    fill(site)
    assert site.shows() == []
    assert site.read() == EVERYWHERE
    assert len(site.imports.waiting(10)) == 2
    site.again()
    assert site.read() == EVERYWHERE


def test_without_encryption_every_file_shows_them(folder):
    site = Site(folder, sealed=False)
    fill(site)
    shown = {name.partition(".")[0] for name in site.shows()}
    assert shown == {"spool", "local", "set-aside", "imports", "inbox"}  # the control
    site.close()


class Crowded:
    """A store whose disk is full the first two times."""

    def __init__(self):
        self.calls, self.whole = [], False

    def seal_some(self, after):
        self.calls.append(after)
        if len(self.calls) == 1:
            raise StorageFull("no room")
        if len(self.calls) == 2:
            raise sqlite3.OperationalError("database or disk is full")
        return 500 if after == 0 else None

    def is_sealed(self):
        return self.whole

    def compact(self):
        return True

    def note_sealed(self):
        self.whole = True


def test_a_running_program_goes_on_encrypting_once_there_is_room(site, monkeypatch):
    monkeypatch.setattr(sealed_rows, "AGAIN_S", 0.0)
    monkeypatch.setattr(sealed_rows, "PAUSE_S", 0.0)
    store = Crowded()

    async def main():
        running = asyncio.create_task(sealed_rows.run_sealing((store,), site.seal))
        async with asyncio.timeout(60):
            while not store.whole:  # noqa: ASYNC110 - another thread says so
                await asyncio.sleep(0.001)
        assert not running.done()  # it is one of a program's parts, which all stay
        running.cancel()

    asyncio.run(main())
    assert store.calls == [0, 0, 0, 500]


def test_a_full_disk_leaves_what_is_plain_as_it_is(folder):
    site = Site(folder, sealed=False)
    fill(site)
    site.again()

    class Full:
        """Refuses to write, as a disk without room does."""

        def __init__(self, real):
            self.real = real

        def execute(self, query, *rest):
            if query.startswith("UPDATE"):
                raise sqlite3.OperationalError("database or disk is full")
            return self.real.execute(query, *rest)

        def __getattr__(self, name):
            return getattr(self.real, name)

    for store in (site.spool, site.local, site.inbox):
        real, store._db = store._db, Full(store._db)
        with pytest.raises(StorageFull):
            store.seal_some(0)
        store._db = real
        assert not store.is_sealed()
    facts = site.spool.facts()
    assert site.read() == EVERYWHERE
    site.again()
    assert site.spool.facts() == facts
    seal_all(site.stores)
    assert site.read() == EVERYWHERE
    site.close()


@pytest.mark.parametrize("cut", [None, 0, 1, 2, 3, 4, 6])
def test_a_plain_home_is_encrypted_in_place_wherever_it_is_cut_off(folder, cut):
    site = Site(folder, sealed=False)
    fill(site)
    site.again()
    assert site.read() == EVERYWHERE  # what is plain is still read
    steps = 0

    class Cut(Exception):
        pass

    def pause():
        nonlocal steps
        steps += 1
        if steps == cut:
            raise Cut

    try:
        seal_all(site.stores, pause)
        assert cut in (None, 0)
    except Cut:
        site.again()
        assert site.read() == EVERYWHERE
        seal_all(site.stores)
    assert site.shows() == []
    assert site.read() == EVERYWHERE
    facts = site.spool.facts()
    site.again()
    assert site.spool.facts() == facts  # sizes were kept in step with the rows
    assert seal_all(site.stores) == 0
    assert all(look_into(p) == (True, 0) for p in (site.home / "stores").glob("*.sqlite"))
    site.close()


def test_an_encrypted_home_is_not_opened_without_its_keys(site):
    fill(site)
    site.close()
    with pytest.raises(KeyRefused, match="no key"):
        site.open(sealed=False)
    shutil.move(site.home / "keys", site.folder / "kept")
    (site.folder / "site.kek").rename(site.folder / "old.kek")  # and the file was lost too: new ones are made
    with pytest.raises(KeyRefused, match=r"under keys that keys/keys\.sqlite does not have"):
        site.open()
    shutil.rmtree(site.home / "keys")
    shutil.move(site.folder / "kept", site.home / "keys")
    (site.folder / "old.kek").rename(site.folder / "site.kek")
    site.open()
    assert site.read() == EVERYWHERE


def swap(site, name, table, key, where="1"):
    """Exchange the blobs of the first two rows."""
    column = {"kept": "data", "waiting": "data", "batches": "data", "aside": "payload"}[table]
    (a, one), (b, two) = site.edit(name, f"SELECT {key}, {column} FROM {table} WHERE {where} ORDER BY {key} LIMIT 2")
    for number, blob in ((a, two), (b, one)):
        crc = f", crc = {zlib.crc32(blob)}" if table == "waiting" else ""
        site.edit(name, f"UPDATE {table} SET {column} = ?{crc} WHERE {key} = ?", blob, number)


def test_rows_that_were_exchanged_do_not_open_and_stay(site):
    fill(site)
    site.put(ANNA, [4])  # a second batch
    site.close()
    for name, table, key in (("spool", "waiting", "key"), ("local", "kept", "number"), ("set-aside", "aside", "number")):
        swap(site, name, table, key)
    swap(site, "inbox", "batches", "number")
    before = {t: site.edit("local", f"SELECT data FROM {t}") for t in ("kept",)}
    site.open()
    left = [row for row in [*ALL, (ANNA, 4)] if row not in ((ANNA, 1), (ANNA, 2))]
    read = site.read()
    assert read["spool"] == read["local"] == read["aside"] == sorted(left)
    assert read["inbox"] == [(ANNA, 4)]  # the batches of Anna's first three and of Bert were exchanged
    site.close()
    assert {t: site.edit("local", f"SELECT data FROM {t}") for t in ("kept",)} == before
    assert look_into(site.home / "stores" / "spool.sqlite") == (False, 2)
    assert [r for (r,) in site.edit("inbox", "SELECT reason FROM unreadable")] == ["damaged", "damaged"]
    site.open()


def test_a_plain_row_put_among_encrypted_ones_is_not_believed(site):
    fill(site)
    seal_all(site.stores)
    site.close()
    forged = encode_observation(observation(ANNA, 1, "forged"))
    for name, table, key in (("spool", "waiting", "key"), ("local", "kept", "number")):
        crc = f", crc = {zlib.crc32(forged)}" if name == "spool" else ""
        first = f"(SELECT min({key}) FROM {table})"
        site.edit(name, f"UPDATE {table} SET data = ?{crc} WHERE {key} = {first}", forged)
    site.edit(
        "inbox", "UPDATE batches SET n_rows = 1, sizes = ?, data = ? WHERE number = 1", len(forged).to_bytes(4, "little"), forged
    )
    site.edit("set-aside", "UPDATE aside SET payload = ? WHERE number = 1", msgspec.msgpack.encode(("forged", b"forged")))
    site.open()
    read = site.read()
    assert read["spool"] == read["local"] == read["aside"] == ALL[1:]
    assert read["inbox"] == ALL[3:]


def test_a_row_that_was_cut_is_said_to_the_hub_and_kept_apart(site):
    fill(site)
    site.close()
    [(key, blob)] = site.edit("spool", "SELECT key, data FROM waiting ORDER BY key LIMIT 1 OFFSET 2")
    site.edit("spool", "UPDATE waiting SET data = ?, crc = ? WHERE key = ?", blob[:-3], zlib.crc32(blob[:-3]), key)
    site.open()
    forwarder = Forwarder(site.spool, lambda: (0, []), lambda _row: True)
    first, second = forwarder.next_batch(), forwarder.next_batch()
    assert len(first.observations) == 2
    assert [gap.reason for gap in second.gaps] == [CORRUPT]
    assert len(second.observations) == 3
    assert site.edit("spool", "SELECT reason, data FROM unreadable") == [("damaged", blob[:-3])]


def test_a_batch_of_several_patients_is_one_blob_each_and_loses_the_erased_alone(site):
    rows = [encode_observation(observation(s, n)) for n, s in enumerate((ANNA, BERT, ANNA, BERT, BERT), 1)]
    assert site.inbox.put("icu-a", "boot", 1, [rows[0], rows[1], b"", *rows[2:]], after=0, upto=6)
    assert site.seal.shred(ANNA) == 1
    [batch] = site.inbox.pending(100)
    assert [(r.seq, decode_observation(r.data).subject) for r in batch.rows()] == [(2, BERT), (5, BERT), (6, BERT)]
    assert site.inbox.waiting() == 3
    site.again()
    assert site.inbox.forget(ANNA) == 0
    assert [seq for _, _, seq, _ in site.inbox.pending(100)[0].observations()] == [2, 5, 6]


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-5],
        lambda data: data[:1],
        lambda data: data[:40] + bytes(9) + data[49:],
        lambda data: b"\x92" + data[1:],
        lambda data: data[:1] + msgspec.msgpack.encode([(b"abc", b"x")]),
        lambda data: data[:1] + msgspec.msgpack.encode([(b"\xff\xff\xff\xff", b"x")]),
    ],
)
def test_a_damaged_batch_does_not_hold_up_the_ones_behind_it(site, harm):
    fill(site)
    seal_all(site.stores)
    site.close()
    [(data,)] = site.edit("inbox", "SELECT data FROM batches ORDER BY number LIMIT 1")
    site.edit("inbox", "UPDATE batches SET data = ? WHERE number = (SELECT min(number) FROM batches)", harm(data))
    site.open()
    assert site.read()["inbox"] == [(BERT, n) for n in (1, 2, 3)]
    assert site.inbox.waiting() == 3
    assert site.edit("inbox", "SELECT reason FROM unreadable") == [("damaged",)]


def test_rows_under_keys_that_are_not_here_stop_what_would_pass_over_them_and_stay(site):
    site.put(ANNA, [1])
    site.close()
    shutil.copytree(site.home / "keys", site.folder / "older")
    site.open()
    site.put(BERT, [2])
    site.put(ANNA, [3])
    site.close()
    (site.home / "keys").rename(site.folder / "newer")
    (site.folder / "older").rename(site.home / "keys")
    site.open()  # the oldest row opens, and the newest
    boot = next(lane.boot for lane in site.spool.lanes() if lane.rows)
    for read in (lambda: site.spool.read_after(boot, 0), lambda: site.inbox.pending(9)):
        with pytest.raises(KeyRefused, match="does not have"):
            read()
    assert [o.device_seq for o in site.local.read([CODE])] == [1, 3]
    site.close()
    shutil.rmtree(site.home / "keys")
    (site.folder / "newer").rename(site.home / "keys")
    site.open()
    all_ = [(ANNA, 1), (ANNA, 3), (BERT, 2)]
    assert site.read() == {"spool": all_, "local": all_, "inbox": all_, "aside": all_}


def test_erased_rows_are_said_to_be_withdrawn_and_their_queue_goes_on(site):
    fill(site)
    assert site.seal.shred(ANNA) == 1
    forwarder = Forwarder(site.spool, lambda: (0, []), lambda row: decode_observation(row).subject == BERT if row else False)
    batch = forwarder.next_batch()
    assert [gap.reason for gap in batch.gaps] == [WITHDRAWN] * 3
    assert [decode_observation(row).subject for row in batch.observations] == [BERT] * 3
    assert site.spool.forget(ANNA, ["d-anna"]) == 3
    assert look_into(site.home / "stores" / "spool.sqlite")[1] == 0  # what is erased is not kept apart


def test_what_was_set_aside_is_replayed_from_its_encrypted_row(site):
    fill(site)
    assert site.quarantine.ask() == 6
    site.again()
    asked = site.quarantine.asked()
    assert [row.payload.decode() for row in asked] == [f"{SECRET} {n}" for _, n in ALL]
    again = SetAside(T0_US, "d-anna", "b", 1, WHOLE, "malformed", f"not JSON: {SECRET}", f"{SECRET} 1".encode())
    site.quarantine.put([again])  # the same one again is there once, and no longer waits
    assert sum(site.quarantine.counts().values()) == 6
    assert len(site.quarantine.asked()) == 5
    site.quarantine.put([SetAside(T0_US, "d-anna", "b", 9, WHOLE, "malformed", "long", bytes(65_536), size=65_600)])
    assert not next(row for row in site.quarantine.rows() if row.seq == 9).can_replay
    assert site.quarantine.ask(number=7) == 0  # cut: what is there is not all of it
    site.quarantine.put([SetAside(T0_US, "nobody's", "b", 1, WHOLE, "unknown-device", "who?", b"payload")])
    assert site.quarantine.rows(1)[0].payload == b"payload"


def test_a_row_of_quarantine_that_does_not_open_is_not_replayed_and_not_deleted(site):
    fill(site)
    site.quarantine.ask()
    site.close()
    site.edit("set-aside", "UPDATE aside SET payload = substr(payload, 1, 50) WHERE number = 1")
    site.open()
    assert len(site.quarantine.asked()) == 5
    row = site.quarantine.get(1)
    assert (row.payload, row.can_replay, row.asked) == (b"", False, False)
    site.quarantine.settle(row)
    assert site.quarantine.get(1) is not None


# -- whatever bytes are there


@pytest.fixture(scope="module")
def one_sealer(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return turn_on(home, f"file:{tmp_path_factory.mktemp('elsewhere')}/kek")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), sizes=st.binary(max_size=64), cut=st.integers(0, 400), flip=st.integers(0, 10**6))
def test_any_bytes_open_or_are_unreadable_and_nothing_else(one_sealer, data, sizes, cut, flip):
    whole = one_sealer.seal(ANNA, ("t", 1), data)
    rows = [encode_observation(observation(s, n)) for n, s in enumerate((ANNA, BERT), 1)]
    batch = sealed_batches.seal(one_sealer, ("e", "b", 1), rows, None)
    for blob, is_batch in ((whole, False), (MARK + data, False), (batch, True), (MARK + data, True)):
        harmed = bytearray(blob[: cut or len(blob)])
        if harmed[1:]:
            harmed[1 + flip % (len(harmed) - 1)] ^= 1 + flip % 255
        if not is_batch:
            with contextlib.suppress(Unreadable):
                one_sealer.unseal(("t", 1), bytes(harmed))
                pytest.fail("it opened, and was changed")
            continue
        own = np.fromiter(map(len, rows), "<u4", 2).tobytes() if blob is batch else sizes[: len(sizes) // 4 * 4]
        there = InboxBatch(1, "e", "b", 1, 0, 2, own, bytes(harmed))
        sealed_batches.places(there, there.data)
        found, _, shut = sealed_batches.unseal(one_sealer, there, there.data)
        assert len(found) == len(own) // 4
        assert all(not row or row in rows for row in found)
        assert shut or blob is not batch  # one byte is another: something of it does not open


# -- whatever happens, in whatever order

STEPS = ("put", "put", "drain", "erase", "rotate", "half", "crash")


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=25), seed=st.integers(0, 2**32))
def test_rows_are_readable_exactly_for_those_who_were_not_erased(steps, seed):
    chance = random.Random(seed)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="wardround-") as name, pytest.MonkeyPatch.context() as patched:
        patched.setattr(data_keys, "STEP_KEYS", 1)
        site = Site(Path(name))
        expected = {store: set() for store in EVERYWHERE}
        newest = 0
        for step in steps:
            subject = chance.choice((ANNA, BERT))
            if step == "put":
                seqs = list(range(newest + 1, newest + 1 + chance.randint(1, 3)))
                newest = seqs[-1]
                site.put(subject, seqs)
                for rows in expected.values():
                    rows |= {(subject, seq) for seq in seqs}
            elif step == "drain":
                for lane in site.spool.lanes():
                    site.spool.acknowledge(lane.boot, lane.last)
                site.inbox.retire(10**9)
                expected["spool"], expected["inbox"] = set(), set()
            elif step == "erase":  # and the power goes before any row is removed
                site.seal.shred(subject)
                for rows in expected.values():
                    rows -= {row for row in rows if row[0] == subject}
                if chance.random() < 0.5:
                    site.spool.forget(subject, [])
                    site.local.forget(subject)
                    site.inbox.forget(subject)
            elif step == "rotate":
                rotate(site)
            elif step == "half":
                rotate(site, stop_after=chance.randint(0, 1))
            else:
                site.again()
            assert {store: set(rows) for store, rows in site.read().items()} == expected
        site.again()
        assert {store: set(rows) for store, rows in site.read().items()} == expected
        assert site.shows() == []
        site.close()


def rotate(site, stop_after=99):
    """As another process does it, perhaps killed on the way."""
    keys = DataKeys(site.home / KEYS, KekSource.parse(f"file:{site.folder}/site.kek", site.home))

    class Killed(Exception):
        pass

    calls = 0

    def step(_left):
        nonlocal calls
        calls += 1
        if calls > stop_after:
            raise Killed

    try:
        keys.rotate(step)
    except Killed:
        pass
    finally:
        keys.close()
