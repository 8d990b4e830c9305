"""An erasure leaves no byte of a pseudonym, harms nobody else, refuses what comes back, and its search can find what is left."""

from __future__ import annotations

import sqlite3
import threading
import tomllib
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wardround.clock import ManualClock
from wardround.collect.gateway import Gateway
from wardround.collect.imports import Imports
from wardround.collect.inbox import Inbox
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import DeviceRegistry
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.erasing.edge import EdgeErasing
from wardround.erasing.hub import LOOKS, HubErasing
from wardround.erasing.search import search_home, search_sqlite
from wardround.process.lake import Lake
from wardround.process.search import search_parquet
from wardround.process.tables import BRONZE, DEAD, DEAD_LETTERS, VITAL_WINDOWS, VITALS, day_of, observation_rows
from wardround.records import Consent, Observation, bucket_of, encode_observation
from wardround.settings import SpoolSettings
from wardround.store import Happening, RoundRecord, StudyRecord, open_store
from wardround.trust.at_rest import PLAIN, turn_on
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import ErasureBook, digest_of, mask_of
from wardround.trust.exports import ExportBook
from wardround.trust.pseudonyms import Pseudonyms

GONE, STAYS = "q7k4-m2xd-aaaa-bbbb-cccc", "z2z2-m2xd-aaaa-bbbb-dddd"
T0_US = 1_700_000_000_000_000


def observation(subject, number, **more):
    facts = {"device": f"d-{number}", "edge": "icu-a", "code": "loinc:8867-4", "unit": "/min", "t0_us": T0_US + number * 10**6}
    facts |= {"t0_device_us": T0_US, "value": 60.0 + number, "device_boot": "b", "device_seq": number}
    return Observation(subject=subject, **(facts | more))


def vital(subject, number):
    t_us = T0_US + number * 60_000_000
    facts = {"code": "c", "t_us": t_us, "mean": 1.0, "low": 0.0, "high": 2.0, "n": 1, "job": "vitals", "made": None}
    return {"subject": subject, "part": f"{subject}/{number}", "day": day_of(t_us), "bucket": bucket_of(subject), **facts}


def bytes_with(folder, text):
    """Files that hold a text in their raw bytes: the plainest search there is."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes())


# -- the search


def test_the_search_sees_into_compressed_pages_that_the_raw_bytes_do_not_show(tmp_path):
    rows = pa.table({"note": [f"{n} {GONE} {n}" for n in range(500)], "nested": [[{"who": GONE}]] * 500})
    pq.write_table(rows, tmp_path / "a.parquet", compression="GZIP", write_statistics=False, store_schema=False)
    assert bytes_with(tmp_path, GONE) == []  # the control: it cannot be seen from outside
    assert search_parquet(tmp_path / "a.parquet", GONE)[0]
    assert not search_parquet(tmp_path / "a.parquet", STAYS)[0]
    assert search_home(tmp_path, GONE, LOOKS).found == ["a.parquet"]


def test_the_search_sees_a_cell_that_is_broken_over_pages_and_a_row_that_was_deleted(tmp_path):
    db = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    db.execute("PRAGMA secure_delete=OFF")
    db.execute("CREATE TABLE t (c TEXT)")
    for before in range(4_040, 4_110):  # wherever the first page of the cell ends, one of these is cut by it
        db.execute("INSERT INTO t VALUES (?)", ("." * before + GONE,))
    assert search_sqlite(tmp_path / "a.sqlite", GONE)[0]
    db.execute("DELETE FROM t")
    db.close()
    assert not search_sqlite(tmp_path / "a.sqlite", GONE)[0]
    assert search_home(tmp_path, GONE, {}).found == ["a.sqlite"]  # on a free page


def test_the_search_names_what_it_could_not_read(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(zlib.compress(GONE.encode()))
    done = search_home(tmp_path, GONE, LOOKS)
    assert not done.found
    assert done.unread[0].startswith("broken.parquet: ")


# -- the lake


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path / "lake")
    for version in range(3):
        rows = [(observation(s, version * 10 + n), "boot", version * 10 + n, T0_US) for s in (GONE, STAYS) for n in range(10)]
        lake.append(BRONZE, observation_rows(rows), app="inbox", version=version)
    made = pa.Table.from_pylist([vital(s, n) for s in (GONE, STAYS) for n in range(5)], schema=VITAL_WINDOWS)
    lake.append(VITALS, made, app="job-vitals", version=0)
    again = pa.Table.from_pylist([vital(GONE, 1)], schema=VITAL_WINDOWS)
    lake.replace(VITALS, again.to_batches, predicate=f"part = '{GONE}/1'", transaction=("job-vitals", 1))
    lake.compact(BRONZE)
    lake.clean_up(BRONZE)  # makes a checkpoint, which has statistics
    return lake


def test_erasing_leaves_no_byte_in_any_version_of_the_lake_and_everything_else(lake, tmp_path):
    assert search_home(tmp_path, GONE, LOOKS).found  # it can be found before
    before = lake.read(BRONZE, subjects=[STAYS]).sort_by("t0_us").to_pylist()
    assert lake.erase(GONE, mask_of(GONE)) == {BRONZE: 30, VITALS: 5}
    assert search_home(tmp_path, GONE, LOOKS).found == []
    for reader in (lake, Lake(tmp_path / "lake")):
        assert reader.read(BRONZE, subjects=[STAYS]).sort_by("t0_us").to_pylist() == before
        assert reader.count(BRONZE) == 30
        assert reader.count(VITALS) == 5
        assert reader.transaction_version(BRONZE, "inbox") == 2  # exactly-once still holds
        assert reader.transaction_version(VITALS, "job-vitals") == 1
    assert any(entry["operation"] == "WRITE" for entry in lake.history(VITALS))  # and the history can be read
    assert not lake.append(BRONZE, observation_rows([(observation(STAYS, 1), "b", 1, T0_US)]), app="inbox", version=2)
    assert lake.append(BRONZE, observation_rows([(observation(STAYS, 99), "b", 99, T0_US)]), app="inbox", version=3)
    assert Lake(tmp_path / "lake").count(BRONZE) == 31
    assert lake.erase(GONE, mask_of(GONE)) == {}


def test_an_erasure_that_was_cut_off_after_the_delete_goes_on(lake, tmp_path):
    lake.replace(BRONZE, list, predicate=f"subject = '{GONE}'")
    assert search_home(tmp_path, GONE, LOOKS).found
    assert lake.erase(GONE, mask_of(GONE)) == {BRONZE: 0, VITALS: 5}
    assert search_home(tmp_path, GONE, LOOKS).found == []


def test_who_shares_files_with_the_erased_can_still_be_found(tmp_path):
    """delta-rs writes what a delete leaves of a file in types that Arrow cannot filter by; an erasure must not."""
    lake = Lake(tmp_path / "lake")
    first, gone, last = sorted([s for s in (f"subject-{n}" for n in range(200)) if bucket_of(s) == 3][:3])
    rows = [(observation(s, n), "boot", n, T0_US) for s in (first, gone, last) for n in range(20)]
    lake.append(BRONZE, observation_rows(rows), app="inbox", version=0)
    assert lake.erase(gone, mask_of(gone)) == {BRONZE: 20}
    for reader in (lake, Lake(tmp_path / "lake")):
        assert [reader.read(BRONZE, subjects=[s], codes=["loinc:8867-4"]).num_rows for s in (first, gone, last)] == [20, 0, 20]


# -- the hub


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_hub_erases_all_of_its_home_and_lists_the_models_that_may_have_learnt(lake, tmp_path, tmp_path_factory, encrypted):
    home, clock = tmp_path, ManualClock()
    seal = turn_on(home, f"file:{tmp_path_factory.mktemp('elsewhere')}/kek" if encrypted else "")
    book, consents = ErasureBook(home / "erasures.sqlite"), ConsentRegister(home / "consent.sqlite")
    inbox, store = Inbox(FolderStorage(home / "inbox"), seal), open_store(home / "hub.sqlite")
    edge = ConsentRegister(":memory:")
    for subject in (GONE, STAYS):
        edge.set(subject, "*", Consent.RAW)
    consents.apply(edge.records(), "icu-a")
    consents.wish(GONE, "*", Consent.LOCAL)
    inbox.put("icu-a", "boot", 1, [encode_observation(observation(s, n)) for n, s in ((1, GONE), (2, STAYS))], after=0, upto=2)
    dead = {"job": "j", "part": GONE, "subject": GONE, "start_us": T0_US, "error": "no", "input_version": 1, "t_us": T0_US}
    dead |= {"day": day_of(T0_US), "bucket": bucket_of(GONE), "made": None}
    lake.append(DEAD, pa.Table.from_pylist([dead], schema=DEAD_LETTERS), app="dead", version=0)
    (home / "staging" / "vitals").mkdir(parents=True)
    (home / "staging" / "vitals" / "plan").write_bytes(f"part of {GONE}".encode())
    store.happened(Happening(T0_US, "A part failed", f"part {GONE}/1"))
    store.save_state("alert-book", f"seen at {GONE}".encode())
    store.put_study(StudyRecord("s", "", "running", "", 0, 0))
    for number, edges in ((1, {"icu-b": 1}), (2, {"icu-a": 1}), (3, {"icu-b": 1})):
        store.put_round(RoundRecord("s", number, 0, 1.0, f"model-{number}", {"folded": edges, "held": [GONE]}))
    assert search_home(home, GONE, LOOKS).found

    exports = ExportBook(home / "exports.sqlite")
    for study, subjects in (("trial-a", [GONE, STAYS]), ("trial-b", [STAYS]), ("", [GONE])):
        exports.add(study, "dora", "fhir", subjects, T0_US)
    number = book.ask(GONE, "dora", "art. 17", clock.now_us())
    forgotten: list[str] = []
    erasing = HubErasing(
        home,
        book=book,
        exports=exports,
        consents=consents,
        inbox=inbox,
        lake=lake,
        store=store,
        clock=clock,
        forget=forgotten.append,
        seal=seal,
    )
    assert [e.number for e in erasing.look()] == [number]
    receipt = book.get(number).receipt
    assert receipt.clean, receipt.found
    assert receipt.known
    assert receipt.files > 20
    assert receipt.bytes_decoded > 0
    assert receipt.removed[f"rows of {BRONZE}"] == 30
    assert receipt.removed["observations in the inbox"] == 1
    assert receipt.removed.get("data keys", 0) == int(encrypted)
    assert ("the data key was destroyed first" in receipt.how) == encrypted
    assert [m["round"] for m in receipt.models] == [2, 3]  # the first that its edge was in, and all that descend from it
    assert [(e["study"], e["export"]) for e in receipt.exports] == [("trial-a", 1), ("", 3)]
    assert forgotten == [GONE]
    assert search_home(home, GONE, LOOKS).found == []  # now with the book itself
    assert bytes_with(home, GONE) == []

    assert consents.choose(STAYS, "x", edge="icu-a")[0] is Consent.RAW
    assert inbox.waiting() == 1
    assert store.happenings()[0].detail == f"part {'x' * len(GONE)}/1"
    consents.apply(edge.records(), "icu-a")  # an edge that has not heard of it yet sends its register again
    assert consents.choose(GONE, "x", edge="icu-a")[0] is Consent.NONE
    assert GONE not in {r.subject for r in consents.records()}
    assert [e.number for e in book.owed("icu-a")] == [number]
    again = book.ask(GONE, "dora", "", clock.now_us())
    erasing.look()
    assert book.get(again).receipt.exports == receipt.exports  # copies are where they were
    for part in (book, exports, consents, inbox, store, edge):
        part.close()


# -- the edge


@pytest.fixture
def home(tmp_path):
    (tmp_path / "edge").mkdir()
    return tmp_path / "edge"


class Edge:
    """The parts of an edge that keep something, in a folder."""

    def __init__(self, home, kek):
        self.seal = turn_on(home, kek)
        self.clock = ManualClock()
        self.registry = DeviceRegistry(home / "devices.toml")
        self.consents = ConsentRegister(home / "consent.sqlite")
        self.pseudonyms = Pseudonyms.open(home / "pseudonym.key")
        self.spool = Spool(FolderStorage(home / "spool"), SpoolSettings(disk_reserve_bytes=0), self.seal)
        self.local = LocalStore(FolderStorage(home / "local"), self.seal)
        patients = {"d1": "P1", "d2": "P2", "d9": "P1"}
        self.quarantine = Quarantine(FolderStorage(home / "spool"), self.seal, lambda d: self.pseudonyms.of(patients[d]))
        self.book, self.imports = ErasureBook(home / "erasures.sqlite"), Imports(FolderStorage(home / "spool"))
        self.gateway = Gateway(
            edge="icu-a",
            registry=self.registry,
            signals=load_signals(),
            consent=self.consents.choose,
            pseudonym=self.pseudonyms.of,
            spool=self.spool,
            local_store=self.local,
            quarantine=self.quarantine,
            clock=self.clock,
            simulated=False,
            keeps=self.consents.keeps,
        )
        self.erasing = EdgeErasing(
            "icu-a",
            home,
            book=self.book,
            consents=self.consents,
            registry=self.registry,
            pseudonym=self.pseudonyms.of,
            spool=self.spool,
            local_store=self.local,
            quarantine=self.quarantine,
            imports=self.imports,
            clock=self.clock,
            seal=self.seal,
        )

    def send(self, device, seq):
        at_s = self.clock.now_us() / 1e6
        for n, payload in enumerate((f'[{{"n":"heart-rate","u":"/min","v":{60 + seq},"t":{at_s}}}]', '[{"n":"odd","v":1}]')):
            self.gateway.receive(device, "b", 2 * seq + n, payload.encode())
        self.gateway.commit()

    def close(self):
        for part in (self.spool, self.local, self.quarantine, self.consents, self.book, self.imports):
            part.close()


@pytest.fixture(params=["plain", "encrypted"])
def edge(home, tmp_path, request):
    edge = Edge(home, f"file:{tmp_path}/kek" if request.param == "encrypted" else "")
    for device, patient in (("d1", "P1"), ("d2", "P2")):
        edge.registry.add(device, patient)
        edge.consents.set(edge.pseudonyms.of(patient), "*", Consent.RAW)
        for seq in range(1, 40):
            edge.send(device, seq)
    yield edge
    edge.close()


def test_an_edge_erases_all_of_its_home_by_digest_and_takes_nothing_more(edge, home):
    gone, stays = edge.pseudonyms.of("P1"), edge.pseudonyms.of("P2")
    assert len(search_home(home, gone, {}).found) > 2
    receipt = edge.erasing.erase(digest_of(gone))
    assert receipt.clean, receipt.found
    assert receipt.known
    assert receipt.removed["observations that waited for the hub"] == 39
    assert receipt.removed["observations kept for training"] == 39
    assert receipt.removed["messages set aside"] == 39
    assert receipt.removed["devices"] == 1
    assert receipt.removed.get("data keys", 0) == int(edge.seal is not PLAIN)
    assert ("the data key was destroyed first" in receipt.how) == (edge.seal is not PLAIN)
    assert bytes_with(home, gone) == []
    devices = tomllib.loads((home / "devices.toml").read_text())
    assert {device: row["patient"] for device, row in devices.items()} == {"d2": "P2"}
    assert edge.local.subjects() == edge.spool.subjects() == {stays}
    assert {row.device for row in edge.quarantine.rows()} == {"d2"}

    edge.registry.add("d9", "P1")  # a replay, from whatever device
    edge.send("d9", 1)
    assert bytes_with(home, gone) == []
    assert edge.erasing.erase(digest_of(gone)).known  # asked again: the same receipt
    unknown = edge.erasing.erase(digest_of("somebody else"))
    assert (unknown.known, unknown.clean) == (False, True)


def test_who_asks_again_while_an_erasure_is_under_way_gets_its_receipt(edge, monkeypatch):
    """As the hub does when its stream broke meanwhile: the thread of the first goes on."""
    gone, receipts = edge.pseudonyms.of("P1"), []
    begun, go_on = threading.Event(), threading.Event()
    real = edge.local.forget

    def slow(subject):
        count = real(subject)
        begun.set()
        assert go_on.wait(60)
        return count

    monkeypatch.setattr(edge.local, "forget", slow)
    first, second = (threading.Thread(target=lambda: receipts.append(edge.erasing.erase(digest_of(gone)))) for _ in range(2))
    first.start()
    assert begun.wait(60)
    second.start()
    second.join(0.3)  # without the wait it would be through by now, or wait where the first does
    go_on.set()
    for thread in (first, second):
        thread.join(60)
    assert [r.removed["observations kept for training"] for r in receipts] == [39, 39]
    assert receipts[0] == receipts[1]
