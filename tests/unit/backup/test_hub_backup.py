"""A hub out of its backup: the same data, no key, nothing lost or twice at the seams, and who was erased since stays erased."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time

import pytest
from typer.testing import CliRunner

from wardround.automation import BACKUP
from wardround.backup.archive import verify_archive
from wardround.backup.making import keep_newest
from wardround.backup.service import TOPIC, Backups
from wardround.cli.main import app
from wardround.clock import ManualClock, SystemClock
from wardround.collect.inbox import Inbox
from wardround.collect.intake import LOST, Committer, Intake
from wardround.collect.storage import FolderStorage
from wardround.errors import SettingsError, StudyError, TrustError
from wardround.hub import Hub, create_home
from wardround.learn.blobs import FolderBlobs
from wardround.learn.privacy.accounting import Release
from wardround.learn.privacy.ledger import NAME as LEDGER
from wardround.learn.privacy.ledger import Entry, FileLedger
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent, Observation, encode_observation
from wardround.settings import HubSettings, load_settings, parse_settings
from wardround.store import AlertRecord, Happening, Person, Request, RoundRecord, StudyRecord, open_store
from wardround.trust.audit_files import open_log, verify_log
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import ErasureBook, digest_of
from wardround.trust.passwords import hash_password
from wardround.trust.restored import restored

T_US = 1_772_150_395_000_000
GONE, STAYS = "q7k4-m2xd-aaaa-bbbb-cccc", "z2z2-m2xd-aaaa-bbbb-dddd"
MODEL = bytes(range(256)) * 300


def observation(subject, number):
    facts = {"device": "d", "edge": "icu-a", "code": "loinc:8867-4", "unit": "/min", "t0_device_us": T_US}
    return Observation(subject=subject, t0_us=T_US + number * 1_000_000, value=60.0 + number, device_seq=number, **facts)


class Collecting:
    """Intake, inbox and committer of a home, as a hub has them."""

    def __init__(self, home):
        self.inbox, self.lake = Inbox(FolderStorage(home / "inbox")), Lake(home / "lake")
        self.intake = Intake(
            inbox=self.inbox,
            consent=lambda *_: Consent.RAW,
            clock=ManualClock(),
            on_refused=lambda *_: None,
            on_committed=lambda _rows: None,
        )
        self.committer = Committer(
            inbox=self.inbox,
            lake_version=lambda name: self.lake.transaction_version(BRONZE, name),
            lake_append=self._append,
            rows_max=1_000,
        )

    def _append(self, batches, name, version):
        self.lake.append(BRONZE, observation_rows(r for b in batches for r in b.observations()), app=name, version=version)

    def send(self, numbers, subject=STAYS):
        """Observations of these sequences of one lane; up to where the hub says it has them."""
        return self.intake.receive("icu-a", "lane", numbers[0], [encode_observation(observation(subject, n)) for n in numbers])

    def sequences(self):
        return sorted(self.lake.read(BRONZE, columns=["edge_seq"]).column("edge_seq").to_pylist())


@pytest.fixture
def home(made, tmp_path):
    """A copy of it, and beside it what was kept apart: `safe`."""
    shutil.copytree(made, tmp_path / "hub")
    shutil.copytree(made / "pki", tmp_path / "safe")
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A hub with people, a token, a study with a model, alerts, consents, an audit log, a lake and an inbox."""
    folder = tmp_path_factory.mktemp("made") / "hub"
    text = 'site = "Test"\n[[notify]]\nname = "hook"\nkind = "webhook"\nurl_file = "hook.url"\n'
    store = create_home(folder, text, parse_settings(text, HubSettings, where="hub.toml"))
    store.put_person(Person("dora", "operator", hash_password("a very long passphrase"), None))
    store.put_study(StudyRecord("s", "", "running", "", 0, 0))
    store.put_round(RoundRecord("s", 1, 0, 1.0, "model-1", {"folded": {"icu-a": 1}}))
    store.put_alert(AlertRecord("A-1", "firing", 1, 2, {"x": 1}))
    store.happened(Happening(1, "Something", "was"))
    (folder / "hook.url").write_text("https://hooks.example/T000/secret-of-the-hook")
    (folder / "hook.url").chmod(0o600)
    FolderBlobs(folder / "studies" / "s").write("models/model-1.safetensors", MODEL)
    FolderBlobs(folder / "studies" / "s").write("masks/round", b"shares of a masked round, secret")
    ledger = FileLedger(folder / "studies" / "s" / LEDGER)
    ledger.append(Entry(round=1, attempt=1, t_us=1, release=Release(1.0), clip=1.0, clip_next=1.0))
    ledger.close()
    (folder / "unheard-of").write_text("of a later version")
    consents = ConsentRegister(folder / "consent.sqlite")
    ErasureBook(folder / "erasures.sqlite").close()
    edge = ConsentRegister(":memory:")
    for subject in (GONE, STAYS):
        edge.set(subject, "*", Consent.RAW)
    consents.apply(edge.records(), "icu-a")
    consents.wish(STAYS, "*", Consent.LOCAL)
    log = open_log(folder, SystemClock())
    for number in range(70):  # past a signed checkpoint
        log.add("change", "something", "x", number=number)
    collecting = Collecting(folder)
    for number in range(1, 7):
        collecting.send([number], GONE if number == 3 else STAYS)
        collecting.committer.run_once()
    collecting.send([7, 8])  # they wait in the inbox
    for part in (store, consents, edge, log, collecting.inbox):
        part.close()
    return folder


def back_up(home, out):
    settings, store = load_settings(home / "hub.toml", HubSettings), open_store(home / "hub.sqlite")
    try:
        return Backups(home, settings, lake=Lake(home / "lake"), store=store, clock=SystemClock()).make(out)
    finally:
        store.close()


def wardround(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def restore(archive, home, *more):
    return json.loads(wardround("restore", archive, "--home", home, "--json", *more))


def test_a_hub_comes_back_with_its_data_and_without_a_key(home, tmp_path):
    out = tmp_path / "a.wrb"
    facts = json.loads(wardround("backup", out, "--home", home, "--json"))
    assert facts["files"] == len(verify_archive(out).items)
    left_out = {x["name"] for x in facts["left_out"]}
    assert {"pki/", "passwords", "hook.url", "unheard-of", "studies/s/masks/round"} <= left_out
    new = tmp_path / "new"
    said = restore(out, new, "--ca-key", tmp_path / "safe" / "ca.key")
    assert any("hook.url" in line for line in said["needs"])
    assert not any("join again" in line for line in said["needs"])

    before, after = Lake(home / "lake"), Lake(new / "lake")
    assert after.read(BRONZE).sort_by("edge_seq").to_pylist() == before.read(BRONZE).sort_by("edge_seq").to_pylist()
    assert after.version(BRONZE) == before.version(BRONZE)
    assert (new / "studies" / "s" / "models" / "model-1.safetensors").read_bytes() == MODEL
    stores = [open_store(f / "hub.sqlite") for f in (home, new)]
    for what in ("alerts", "studies", "edges", "happenings"):
        assert getattr(stores[1], what)()[-3:] == getattr(stores[0], what)()[-3:]
    assert stores[0].rounds("s") == stores[1].rounds("s")
    assert [p.name for p in stores[1].people()] == ["dora"]
    assert stores[1].person("dora").password_hash == "!"
    for store in stores:
        store.close()
    verdict = verify_log(new)
    assert verdict.wrong == ()
    assert (verdict.entries, verdict.checkpoints) == (verify_log(home).entries + 1, 1)


def test_no_byte_of_any_key_or_secret_is_in_an_archive(home, tmp_path):
    out = tmp_path / "a.wrb"
    back_up(home, out)
    data = out.read_bytes()
    keys = [p for p in home.rglob("*") if p.is_file() and (p.suffix in (".key", ".url") or b"PRIVATE" in p.read_bytes())]
    assert {"ca.key", "hub.key", "hook.url"} <= {p.name for p in keys}
    for path in keys:
        pieces = [line for line in path.read_bytes().split() if len(line) > 40 or path.suffix != ".key"]
        assert pieces
        assert not [p for p in pieces if p in data and not p.startswith(b"-----")], path
    with sqlite3.connect(home / "hub.sqlite") as db:
        hashes = [h for (h,) in db.execute("SELECT password_hash FROM people")]
    db.close()
    assert hashes
    assert not [h for h in hashes if h.encode() in data]
    assert b"of a later version" not in data
    assert b"shares of a masked round" not in data


def test_without_the_authoritys_key_a_new_one_is_made_and_the_old_audit_log_still_holds(home, tmp_path):
    back_up(home, tmp_path / "a.wrb")
    said = restore(tmp_path / "a.wrb", tmp_path / "new")
    assert "join again" in said["needs"][0]
    assert (tmp_path / "new" / "pki" / "ca.pem").read_bytes() != (home / "pki" / "ca.pem").read_bytes()
    assert verify_log(tmp_path / "new").wrong == ()
    log = tmp_path / "new" / "audit" / "audit.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:20], *lines[21:]]))
    assert verify_log(tmp_path / "new").wrong
    again = back_up(tmp_path / "new", tmp_path / "b.wrb")  # and it can be backed up in its turn
    assert "audit/authorities.pem" in {i.name for i in again.items}


def test_a_key_of_another_authority_is_refused_and_nothing_stays(home, tmp_path):
    back_up(home, tmp_path / "a.wrb")
    other = tmp_path / "other"
    create_home(other, "", parse_settings("", HubSettings, where="x")).close()
    with pytest.raises(TrustError, match="not the key"):
        restore(tmp_path / "a.wrb", tmp_path / "new", "--ca-key", other / "pki" / "ca.key")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".new*"))


def test_a_restored_hub_starts(home, tmp_path):
    (home / "hub.toml").write_text('site = "Test"\n')
    back_up(home, tmp_path / "a.wrb")
    restore(tmp_path / "a.wrb", tmp_path / "new")
    hub = Hub(tmp_path / "new")
    assert hub.automation.rows() == ()
    hub.close()


# -- the seams


def test_what_an_edge_sends_after_a_restore_is_neither_lost_nor_twice(home, tmp_path):
    back_up(home, tmp_path / "a.wrb")
    lost = Collecting(home)
    lost.committer.run_once()
    for number in range(9, 30):  # acknowledged by the hub that is lost: 22 batches more in its lake
        assert lost.send([number]).committed_seq == number
        lost.committer.run_once()
    lost.inbox.close()
    restore(tmp_path / "a.wrb", tmp_path / "new")
    hub = Collecting(tmp_path / "new")
    hub.committer.run_once()
    assert hub.sequences() == list(range(1, 9))  # with those that waited in the inbox
    assert hub.send([30, 31]).committed_seq == 31  # the edge goes on after its newest receipt
    hub.committer.run_once()
    assert hub.sequences() == [*range(1, 9), 30, 31]
    [(edge, boot, gap)] = hub.inbox.gaps()
    assert (edge, boot, gap.first_seq, gap.last_seq, gap.reason) == ("icu-a", "lane", 9, 29, LOST)
    assert hub.send([33]).committed_seq == 31  # a hole is a hole from now on
    assert hub.send([31, 32]).committed_seq == 32
    hub.committer.run_once()
    assert hub.sequences() == [*range(1, 9), 30, 31, 32]
    hub.inbox.close()


def test_a_hole_is_refused_where_nothing_was_restored(home):
    hub = Collecting(home)
    assert hub.send([30]).committed_seq == 8
    hub.inbox.close()


@pytest.mark.parametrize("held", [True, False])
def test_inbox_and_lake_are_of_one_moment_while_the_committer_works(home, tmp_path, held):
    """Without the lock, what waits in the copy of the inbox may be in the copy of the lake too: even then nothing is twice."""
    settings, store = load_settings(home / "hub.toml", HubSettings), open_store(home / "hub.sqlite")
    lake, collecting, moved = Lake(home / "lake"), Collecting(home), []
    snapshot = lake.snapshot

    def committer_comes(table):
        worker = threading.Thread(target=lambda: moved.append(collecting.committer.run_once()))
        if table == BRONZE:
            worker.start()
            worker.join(1.0 if held else 60.0)
            assert moved == ([] if held else [2])
        return snapshot(table)

    lake.snapshot = committer_comes
    still = collecting.committer.still if held else None
    manifest = Backups(home, settings, lake=lake, store=store, clock=SystemClock(), still=still).make(tmp_path / "a.wrb")
    assert manifest.inbox_number == (6 if held else 7)
    until = time.monotonic() + 60
    while not moved and time.monotonic() < until:
        time.sleep(0.01)
    assert moved == [2]
    store.close()
    collecting.inbox.close()
    restore(tmp_path / "a.wrb", tmp_path / "new")
    hub = Collecting(tmp_path / "new")
    assert hub.sequences() == list(range(1, 7 if held else 9))
    hub.committer.run_once()
    assert hub.sequences() == list(range(1, 9))
    hub.send([9])
    hub.committer.run_once()
    assert hub.sequences() == list(range(1, 10))
    hub.inbox.close()


def test_a_privacy_budget_does_not_come_back(home, tmp_path):
    """What was released after the backup is not in its ledger."""
    back_up(home, tmp_path / "a.wrb")
    said = restore(tmp_path / "a.wrb", tmp_path / "new")
    assert any("privacy budgets of s" in line for line in said["needs"])
    with pytest.raises(StudyError, match="not known"):
        FileLedger(tmp_path / "new" / "studies" / "s" / LEDGER)
    said = restore(tmp_path / "a.wrb", tmp_path / "moved", "--nothing-since")
    assert not any("privacy budgets" in line for line in said["needs"])
    ledger = FileLedger(tmp_path / "moved" / "studies" / "s" / LEDGER)
    assert len(ledger.entries) == 1
    ledger.close()


# -- who was erased, what was withdrawn


def test_nothing_of_a_restored_hubs_subjects_is_used_before_their_edge_has_spoken(home, tmp_path):
    back_up(home, tmp_path / "a.wrb")
    restore(tmp_path / "a.wrb", tmp_path / "new")
    consents, old = ConsentRegister(tmp_path / "new" / "consent.sqlite"), ConsentRegister(home / "consent.sqlite")
    assert old.choose(STAYS, "x", edge="icu-a")[0] is Consent.LOCAL
    assert consents.choose(STAYS, "x", edge="icu-a")[0] is Consent.NONE
    edge = ConsentRegister(":memory:")
    edge.set(STAYS, "*", Consent.RAW)
    consents.apply(edge.records(), "icu-a")
    [told] = consents.wishes("icu-a")  # what was said at the hub before the backup still goes to the edge
    assert consents.choose(STAYS, "x", edge="icu-a")[0] is Consent.LOCAL
    consents.wish(STAYS, "*", Consent.NONE)
    assert (
        consents.wishes("icu-a")[-1].number > told.number + 1_000_000
    )  # the edge may have taken later ones of the hub that is lost
    for part in (consents, old, edge):
        part.close()


def test_who_was_erased_after_the_backup_is_erased_again_when_an_edge_says_so(home, tmp_path):
    back_up(home, tmp_path / "a.wrb")
    new = tmp_path / "new"
    restore(tmp_path / "a.wrb", new)
    assert restored(new) is not None
    shutil.copy(home / "hook.url", new)
    hub = Hub(new)
    assert GONE in hub.lake.read(BRONZE, columns=["subject"]).column("subject").to_pylist()
    assert hub.erasing.again("icu-a", [digest_of(GONE), digest_of("somebody else"), b"short"]) == 1
    assert hub.consents.erased(GONE)
    assert hub.consents.erased("somebody else")
    [erasure] = hub.erasing.look()
    receipt = hub.erasures.get(erasure.number).receipt
    assert receipt.clean, receipt.found
    assert set(hub.lake.read(BRONZE, columns=["subject"]).column("subject").to_pylist()) == {STAYS}
    assert erasure.number > 1_000  # numbers that the lost hub gave are not given again
    assert hub.erasing.again("icu-a", [digest_of(GONE)]) == 0
    hub.close()


def test_an_edge_that_joins_again_is_told_of_every_erasure_again(tmp_path):
    book = ErasureBook(tmp_path / "erasures.sqlite")
    number = book.ask(GONE, "dora", "", 5)
    book.settle(number, _receipt("hub"))
    book.answer(number, "icu-a", _receipt("icu-a"), 10)
    assert book.owed("icu-a") == []
    book.joined("icu-a", 20)
    assert [e.number for e in book.owed("icu-a")] == [number]
    assert "icu-a" in book.answers(number)  # the first receipt stands
    book.answer(number, "icu-a", _receipt("icu-a"), 30)
    assert book.owed("icu-a") == []
    book.close()


def _receipt(place):
    from wardround.trust.erasures import Receipt

    return Receipt(place=place, t_us=0, known=True, removed={}, seconds=0.0)


# -- by the clock, on request, and where it may lie


def test_backups_by_the_clock_are_kept_in_number_and_are_late_when_they_fail(home, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    (home / "hub.toml").write_text(f'[backup]\nfolder = "{folder}"\nevery_h = 1\nkeep = 2\n')
    hub = Hub(home)
    clock = hub.automation._clock = hub.backups._clock = ManualClock(hub.clock.now_us())
    (folder / "hub-hub-of-mine.wrb").write_text("not ours")
    for _ in range(4):
        clock.advance(3_700)
        hub.automation.back_up()
        hub.automation.back_up()  # it is not due again
    assert len([p for p in folder.iterdir() if p.name.startswith("hub-hub-2")]) == 2
    assert (folder / "hub-hub-of-mine.wrb").exists()
    hub.automation.look()
    row = next(r for r in hub.automation.rows() if r.name == BACKUP)
    assert (row.outcome, row.late_s, row.schedule) == ("ok", 0.0, "every 1 h, 2 kept")
    assert "1 old removed" in row.last.detail
    shutil.rmtree(folder)
    clock.advance(2 * 3_700)
    with pytest.raises(SettingsError, match="no folder"):
        hub.automation.back_up()
    hub.automation.look()
    row = next(r for r in hub.automation.rows() if r.name == BACKUP)
    assert row.outcome == "failed"
    assert row.late_s > 0
    hub.close()


def test_a_running_hub_makes_a_backup_that_is_asked_for(home, tmp_path):
    hub = Hub(home)
    for name, out in (("good", tmp_path / "a.wrb"), ("bad", home / "a.wrb")):
        hub.store.put_request(Request(name, TOPIC, "make", {"out": str(out)}, "dora", 1))
    hub.jobs.back_up()
    assert (hub.store.request("good").state, hub.store.request("bad").state) == ("done", "refused")
    assert "in the home itself" in hub.store.request("bad").answer
    hub.close()
    assert verify_archive(tmp_path / "a.wrb").role == "hub"
    assert not (home / "a.wrb").exists()
    with pytest.raises(SettingsError, match="there already"):
        back_up(home, tmp_path / "a.wrb")


def test_a_backup_that_was_killed_leaves_nothing_that_stops_the_next(home, tmp_path):
    (tmp_path / ".a.wrb.stage").mkdir()
    (tmp_path / ".a.wrb.stage" / "hub.sqlite").write_text("half")
    (tmp_path / ".a.wrb.partial").write_text("half")
    back_up(home, tmp_path / "a.wrb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wrb", "hub", "safe"]


def test_only_backups_of_this_home_are_removed(tmp_path):
    names = ["hub-a-20260101T000000Z.wrb", "hub-a-20260102T000000Z.wrb", "hub-a-b-20250101T000000Z.wrb", "hub-a.wrb"]
    for name in names:
        (tmp_path / name).write_text("x")
    assert keep_newest(tmp_path, "hub", "a", 1) == names[:1]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])
