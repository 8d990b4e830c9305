"""An export's question through the hub: carried, settled and forgotten; and the export itself over such a hub."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

from wardround.cli.process import app
from wardround.clock import ManualClock, SystemClock
from wardround.errors import ProcessError, SettingsError
from wardround.naming import TOPIC, Naming, ask_names
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.processing import only_one
from wardround.records import Consent, Observation
from wardround.store import Request, open_store
from wardround.trust.audit import AuditLog
from wardround.trust.audit_files import open_log
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import digest_of
from wardround.trust.exports import ExportBook
from wardround.trust.pseudonyms import Pseudonyms
from wardround.trust.study_names import give_names

T_US = 1_772_150_395_000_000
HEART, TEMPERATURE = "loinc:8867-4", "loinc:8310-5"
NAMES = Pseudonyms(b"k" * 32)


class RunningHub:
    """What of a hub carries questions, over edges that are registers in this process."""

    def __init__(self, home, edges):
        self.home, self.edges = home, edges
        self.stop = threading.Event()
        self.up = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        store = open_store(self.home / "hub.sqlite")
        naming = Naming(store, SystemClock())
        with only_one(self.home):
            self.up.set()
            while not self.stop.wait(0.02):
                for edge, message in naming.due(set(self.edges)):
                    consents, audit = self.edges[edge]
                    given = give_names(message.names_asked, edge=edge, pseudonyms=NAMES, consents=consents, audit=audit)
                    naming.answered(edge, given.names_given)
        store.close()

    def __enter__(self):
        self.thread.start()
        assert self.up.wait(60)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(60)


def observation(subject, number, **more):
    facts = {
        "device": f"patch-of-{subject}",
        "edge": "icu-a",
        "code": HEART,
        "unit": "/min",
        "device_boot": "b",
        "t0_device_us": 0,
    }
    facts |= {"t0_us": T_US + number, "value": 60.0 + number, "consent_version": 3}
    return Observation(subject=subject, **(facts | more))


@pytest.fixture
def home(tmp_path):
    """A hub's home with five subjects in its lake, four of icu-a and one of icu-b."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "hub.toml").write_text('site = "Test"\n')
    authority, key = Authority.create(folder / "pki", "hub"), new_key()
    write_private(folder / "pki" / "hub.key", key_pem(key))
    write_private(folder / "pki" / "hub.pem", authority.issue_hub("hub", key.public_key(), ["localhost"], 24.0))
    open_store(folder / "hub.sqlite").close()
    observations = [observation(s, n) for s in ("s-raw", "s-part", "s-care", "s-unsaid") for n in range(2)]
    observations += [observation("s-raw", 7, edge="icu-b", device="other"), observation("s-away", 7, edge="icu-b")]
    observations += [observation("s-part", 9, code=TEMPERATURE, unit="Cel")]
    rows = observation_rows([(o, "b", i + 1, T_US) for i, o in enumerate(observations)])
    Lake(folder / "lake").append(BRONZE, rows, app="test", version=1)
    return folder


@pytest.fixture
def edge(home, tmp_path):
    """icu-a's register and log; the hub's own copy of its register is in the home."""
    consents = ConsentRegister(tmp_path / "edge.sqlite")
    for subject in ("s-raw", "s-part", "s-care"):
        consents.set(subject, "*", Consent.RAW)
    consents.set("s-part", HEART, Consent.LOCAL, "research")
    hub = ConsentRegister(home / "consent.sqlite")
    hub.apply(consents.records(), "icu-a")
    hub.apply([r for r in consents.records() if r.subject == "s-raw"], "icu-b")
    everyone = ConsentRegister(":memory:")
    everyone.set("s-away", "*", Consent.RAW)
    hub.apply(everyone.records(), "icu-b")
    consents.set("s-care", "*", Consent.NONE, "research")  # the hub has not heard of it
    audit = AuditLog(tmp_path / "edge-audit", ManualClock(), lambda _head: b"signed", lambda: b"")
    yield consents, audit
    for part in (consents, hub, everyone, audit):
        part.close()


def export(home, out, *more):
    result = CliRunner().invoke(app, ["export", *more, "--home", str(home), "--out", str(out), "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_an_export_has_the_names_of_its_study_and_says_who_is_not_in_it(home, edge, tmp_path):
    with RunningHub(home, {"icu-a": edge}):
        facts = export(home, tmp_path / "a", "--study", "trial-a", "--wait-s", "4")
        second = export(home, tmp_path / "b", "s-part", "--study", "trial-b")
    assert (facts["subjects"], facts["observations"], facts["export"]) == (2, 3, 1)
    assert {(x["subject"], x["edge"]): x["why"] for x in facts["subjects_left_out"]} == {
        ("s-away", "icu-b"): "the edge is away",
        ("s-raw", "icu-b"): "the edge is away",
        ("s-care", "icu-a"): "no consent for research with raw data",
        ("s-unsaid", "icu-a"): "no consent for research with raw data",
    }
    name = {s: {t: NAMES.of_study(t).of(s) for t in ("trial-a", "trial-b")} for s in ("s-raw", "s-part")}
    assert {p.name for p in (tmp_path / "a").iterdir()} == {name["s-raw"]["trial-a"], name["s-part"]["trial-a"]}
    assert {p.name for p in (tmp_path / "b").iterdir()} == {name["s-part"]["trial-b"]}
    written = {n: [p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()] for n in ("a", "b")}
    for data in (d for found in written.values() for d in found):
        assert not any(word in data for word in (b"s-raw", b"s-part", b"patch-of"))
    devices = [{e["resource"]["device"]["identifier"]["value"] for d in written[n] for e in json.loads(d)["entry"]} for n in "ab"]
    assert len(devices[0]) == 2
    assert not devices[0] & devices[1]  # nor does the device lead from one export to the other
    codes = {e["resource"]["code"]["coding"][0]["code"] for d in written["a"] for e in json.loads(d)["entry"]}
    assert codes == {"8867-4", "8310-5"}  # of s-part the temperature alone
    assert second["subjects_left_out"] == []

    book = ExportBook(home / "exports.sqlite")
    assert [e.study for e in book.of(digest_of("s-raw"))] == ["trial-a"]
    assert [e.study for e in book.of(digest_of("s-part"))] == ["trial-a", "trial-b"]
    assert book.of(digest_of("s-care")) == []
    book.close()
    log = open_log(home, SystemClock())
    [first, _] = [e for e in log.entries() if e.what == "observations exported"]
    log.close()
    assert (first.kind, first.facts["study"], first.facts["subjects"], first.facts["left_out"]) == ("export", "trial-a", 2, 4)


def test_no_pair_of_names_stays_at_the_hub_and_no_question_either(home, edge, tmp_path):
    with RunningHub(home, {"icu-a": edge}):
        export(home, tmp_path / "out", "s-part", "--study", "trial-a")
    name = NAMES.of_study("trial-a").of("s-part").encode()
    assert any(name.decode() in str(p) for p in (tmp_path / "out").iterdir())
    kept = [p for p in home.rglob("*") if p.is_file()]
    assert len(kept) > 5
    assert not [p for p in kept if name in p.read_bytes()]
    store = open_store(home / "hub.sqlite")
    assert store.requests(TOPIC) == []
    store.close()


def test_a_withdrawal_that_the_hub_alone_knows_counts_too(home, edge, tmp_path):
    hub = ConsentRegister(home / "consent.sqlite")
    hub.wish("s-raw", "*", Consent.NONE, "research")
    hub.close()
    with RunningHub(home, {"icu-a": edge}), pytest.raises(ProcessError, match="s-raw at icu-a: no consent"):
        export(home, tmp_path / "out", "s-raw", "--study", "trial-a")
    assert not (tmp_path / "out").exists()


def test_who_was_erased_or_never_known_is_named(home, edge, tmp_path):
    hub = ConsentRegister(home / "consent.sqlite")
    hub.erase(digest_of("s-gone"))
    hub.close()
    with RunningHub(home, {"icu-a": edge}):
        facts = export(home, tmp_path / "out", "s-gone", "s-never", "s-part", "--study", "trial-a")
    assert {x["subject"]: x["why"] for x in facts["subjects_left_out"]} == {
        "s-gone": "erased",
        "s-never": "the hub holds nothing of it that was asked for",
    }


def test_without_a_hub_and_without_a_name_nothing_is_written(home, edge, tmp_path):
    assert edge
    with pytest.raises(ProcessError, match="no hub runs"):
        export(home, tmp_path / "out", "--study", "trial-a")
    for wrong in (
        [],
        ["s-raw"],
        ["s-raw", "--study", "trial-a", "--lake-names"],
        ["--lake-names"],
        ["s-raw", "s-care", "--lake-names"],
    ):
        with pytest.raises(SettingsError):
            export(home, tmp_path / "out", *wrong)
    assert not (tmp_path / "out").exists()


def test_a_question_that_cannot_be_read_is_refused_and_others_wait_their_turn(home):
    store, clock = open_store(home / "hub.sqlite"), ManualClock()
    naming = Naming(store, clock)
    store.put_request(Request("bad", TOPIC, "ask", {"study": 1}, "x", 0))
    body = {"study": "t", "key": "AAAA", "codes": [], "subjects": {"icu-a": ["s"]}, "until_us": clock.now_us() + 1_000_000}
    for n in range(6):
        store.put_request(Request(f"q{n}", TOPIC, "ask", body, "x", n))
    assert len(naming.due({"icu-a"})) == 4
    assert store.request("bad").state == "refused"
    clock.advance(2.0)
    assert naming.due({"icu-a"}) == []
    assert [store.request(f"q{n}").state for n in range(6)] == ["done"] * 4 + ["asked"] * 2
    naming.due({"icu-a"})
    naming.due({"icu-a"})
    assert store.requests(TOPIC) == []
    store.close()


def test_a_question_is_not_left_behind_by_who_gives_up(home, monkeypatch):
    monkeypatch.setattr("wardround.naming.GRACE_S", 0.1)
    with only_one(home), pytest.raises(ProcessError, match="did not answer"):
        ask_names(home, "trial-a", {"icu-a": ("s-raw",)}, (HEART,), "dora", 0.1)
    store = open_store(home / "hub.sqlite")
    assert store.requests(TOPIC) == []
    store.close()
