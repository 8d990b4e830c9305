"""Governance over real books: consent counted, erasures by place, the chain verified, by role; recorded first."""

from __future__ import annotations

import json

import pytest

from wardround.clock import ManualClock
from wardround.desks.governance import CHAIN_S, Governance, newest_entries
from wardround.errors import NotAllowed, SettingsError
from wardround.records import Consent
from wardround.store import EdgeRecord, open_store
from wardround.trust.audit_files import open_log
from wardround.trust.certificates import Authority, new_key, write_private
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.trust.erasures import ErasureBook, Receipt
from wardround.trust.exports import ExportBook

SUBJECT, OTHER = "q7k4-m2xd-aaaa-bbbb-cccc", "b3vn-8tqa-aaaa-bbbb-cccc"


class World:
    def __init__(self, home):
        self.clock, self.home = ManualClock(), home
        (home / "hub.toml").write_text("")
        authority, key = Authority.create(home / "pki", "hub"), new_key()
        from wardround.trust.certificates import key_pem

        write_private(home / "pki" / "hub.key", key_pem(key))
        write_private(home / "pki" / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 24.0), 0o644)
        self.store = open_store(home / "hub.sqlite")
        for name in ("resp-1", "home-s"):
            self.store.put_edge(EdgeRecord(name, 0, "1", 10**18, None))
        self.consents = ConsentRegister(home / "consent.sqlite")
        self.consents.apply(
            [ConsentRecord(SUBJECT, "*", Consent.RAW, 3), ConsentRecord(SUBJECT, "mdc:131330", Consent.LOCAL, 3)], "resp-1"
        )
        self.consents.apply([ConsentRecord(OTHER, "*", Consent.LOCAL, 1)], "home-s")
        self.erasures, self.exports = ErasureBook(home / "erasures.sqlite"), ExportBook(home / "exports.sqlite")
        self.log = open_log(home, self.clock)
        self.roles = {"dora": "data-officer", "ada": "admin", "olga": "operator", "cleo": "clinician", "vi": "viewer"}
        self.desk = Governance(
            home, consents=self.consents, erasures=self.erasures, exports=self.exports, store=self.store, clock=self.clock,
            title=lambda code: {"mdc:131330": "ECG lead II"}.get(code, code), role=lambda who: self.roles.get(who, ""),
            record=self.log.add,
        )  # fmt: skip

    def close(self):
        for part in (self.store, self.consents, self.erasures, self.exports, self.log):
            part.close()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def test_consent_is_counted_by_signal_and_said_by_subject(world):
    view = world.desk.view("dora")
    by_title = {s.title: (s.raw, s.local, s.none) for s in view.signals}
    assert by_title["Heart rate"] == (1, 1, 0)
    assert by_title["ECG, lead II"] == (0, 2, 0)
    assert [(r.subject, r.version, r.says) for r in view.register] == [
        (SUBJECT, 3, "all raw, ECG lead II local"),
        (OTHER, 1, "all local"),
    ]
    assert [r.subject for r in world.desk.view("ada", find="b3vn").register] == [OTHER]


@pytest.mark.parametrize("who", ["olga", "cleo", "vi", "nobody"])
def test_nobody_else_sees_it_or_erases(world, who):
    with pytest.raises(NotAllowed):
        world.desk.view(who)
    with pytest.raises(NotAllowed):
        world.desk.erase(who, SUBJECT, SUBJECT, "asked")
    with pytest.raises(NotAllowed):
        world.desk.audit_lines(who)
    with pytest.raises(NotAllowed):
        world.desk.receipt(who, 1)
    assert world.erasures.all() == []


@pytest.mark.parametrize(
    ("subject", "again", "reason", "words"),
    [
        ("nobody-of-that-name", "nobody-of-that-name", "asked", "no such subject"),
        (SUBJECT, OTHER, "asked", "differ"),
        (SUBJECT, SUBJECT, " ", "reason"),
    ],
)
def test_a_slip_erases_nobody(world, subject, again, reason, words):
    with pytest.raises(SettingsError, match=words):
        world.desk.erase("dora", subject, again, reason)
    assert world.erasures.all() == []


def test_an_erasure_is_followed_place_by_place(world):
    number = world.desk.erase("dora", SUBJECT, f" {SUBJECT} ", "the subject asked")
    [entry] = [e for e in newest_entries(world.home, 5) if e.kind == "delete"]
    assert SUBJECT not in json.dumps(entry.facts)
    states = lambda: [s.state for s in world.desk.view("dora", number=number).chosen.steps]  # noqa: E731
    assert states() == ["done", "waiting", "waiting", "waiting"]
    done = Receipt(place="hub", t_us=1, known=True, removed={"bronze": 41_206}, seconds=1.4, files=12, models=({"study": "s"},))
    world.erasures.settle(number, done)
    world.erasures.answer(number, "resp-1", Receipt(place="resp-1", t_us=2, known=True, removed={}, seconds=0.1), 2)
    view = world.desk.view("dora", number=number).chosen
    assert [s.state for s in view.steps] == ["done", "done", "waiting", "done", "said"]
    assert "41,206 bronze removed in 1.4 s; 12 files searched, nothing left" in view.steps[1].detail
    assert (view.answered, view.places, view.complete) == (2, 3, False)
    left = Receipt(place="home-s", t_us=3, known=True, removed={}, seconds=0.1, found=("spool/1.sqlite",))
    world.erasures.answer(number, "home-s", left, 3)
    view = world.desk.view("dora", number=number).chosen
    assert [s.state for s in view.steps if s.title.startswith("home-s")] == ["found"]
    assert not view.complete  # everybody has answered, and something is still there
    assert world.desk.receipt("dora", number)["edges"]["home-s"]["found"] == ("spool/1.sqlite",)
    assert world.desk.receipt("dora", 99) is None


def test_a_changed_log_is_seen(world):
    for _ in range(3):
        world.log.add("view", "looked", "dora")
    view = world.desk.view("dora")
    assert view.chain.wrong == ()
    assert view.chain.entries == 3
    assert [e.number for e in view.audit] == [2, 1, 0]
    path = world.home / "audit" / "audit.log"
    path.write_bytes(path.read_bytes().replace(b"dora", b"dona", 1))
    world.clock.advance(CHAIN_S)
    assert world.desk.view("dora").chain.wrong


def test_the_newest_entries_come_from_the_end_of_a_long_log(world):
    for i in range(400):
        world.log.add("view", "looked", "dora", why="x" * 300, n_th=i)
    found = newest_entries(world.home, 5)
    assert [e.facts["n_th"] for e in found] == [399, 398, 397, 396, 395]


def test_a_downloaded_log_is_the_log_and_is_recorded(world):
    world.log.add("view", "looked", "dora")
    given = b"".join(world.desk.audit_lines("dora"))
    assert given == (world.home / "audit" / "audit.log").read_bytes()
    assert b"audit log downloaded" in given


def test_consent_is_read_again_when_it_has_changed_and_only_then(world, monkeypatch):
    reads = []
    real = world.consents.by_subject
    monkeypatch.setattr(world.consents, "by_subject", lambda: reads.append(1) or real())
    assert world.desk.view("dora").subjects == 2
    world.clock.advance(3_600)
    assert world.desk.view("dora").subjects == 2
    assert len(reads) == 1
    world.consents.apply([ConsentRecord("new-subject", "*", Consent.RAW, 1)], "home-s")
    world.clock.advance(3_600)
    assert world.desk.view("dora").subjects == 3
    world.store.revoke_edge("home-s", 1)
    world.clock.advance(3_600)
    assert [r.subject for r in world.desk.view("dora").register] == [SUBJECT]
