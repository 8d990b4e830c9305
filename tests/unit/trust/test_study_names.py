"""What subjects are called in a study: no name leads to another, edges ask their register, the hub cannot read what it holds."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.clock import ManualClock
from wardround.errors import TrustError
from wardround.records import Consent
from wardround.trust.audit import AuditLog
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import digest_of
from wardround.trust.exports import ExportBook
from wardround.trust.pseudonyms import Pseudonyms, hidden
from wardround.trust.sealing import Opener, seal
from wardround.trust.study_names import (
    ERASED,
    NO_CONSENT,
    PART_SUBJECTS,
    Asking,
    Question,
    by_edge,
    give_names,
    read_answers,
)
from wardround.wire import wardround_pb2 as pb

HEART, ECG = "loinc:8867-4", "mdc:131330"


# -- names


def test_a_study_has_its_own_name_of_a_subject_that_its_edge_alone_can_make():
    one, other = Pseudonyms(b"k" * 32), Pseudonyms(b"l" * 32)
    lake = one.of("P1")
    names = {one.of_study(s).of(lake) for s in ("trial-a", "trial-b")} | {other.of_study("trial-a").of(lake), lake}
    assert len(names) == 4
    assert one.of_study("trial-a").of(lake) == Pseudonyms(b"k" * 32).of_study("trial-a").of(lake)  # the next export says the same
    assert len(one.of_study("trial-a").of(lake)) == len(lake) == 24


def test_a_study_key_is_the_hkdf_that_the_decision_says_and_the_lakes_names_have_not_changed():
    key = b"k" * 32
    study = HKDF(SHA256(), 32, salt=None, info=b"wardround study\0trial-a").derive(key)
    assert Pseudonyms(key).of("P1") == "qnie-gtaj-gcyv-6vtc-okgu"
    assert Pseudonyms(key).of_study("trial-a")._key == study


def test_the_name_of_a_device_cannot_be_guessed_without_the_subjects_secret():
    study = Pseudonyms(b"k" * 32).of_study("trial-a")
    assert hidden(study.secret("s"), "device\0patch-1") == hidden(study.secret("s"), "device\0patch-1")
    assert len({hidden(study.secret(s), f"device\0{d}") for s in ("s", "t") for d in ("patch-1", "patch-2")}) == 4


# -- sealing


def test_what_is_sealed_opens_for_its_owner_and_its_context_alone():
    opener = Opener()
    sealed = seal(opener.public, b"pairs", b"about this")
    assert opener.open(sealed, b"about this") == b"pairs"
    assert seal(opener.public, b"pairs", b"about this") != sealed
    wrong = [(Opener(), sealed, b"about this"), (opener, sealed, b"about that"), (opener, sealed[:-1] + b"?", b"about this")]
    wrong += [(opener, b"short", b"about this"), (opener, bytes(32) + sealed[32:], b"about this")]
    for who, data, context in wrong:
        with pytest.raises(TrustError, match="cannot be opened"):
            who.open(data, context)


@pytest.mark.parametrize("key", [b"", b"short", bytes(32)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(TrustError, match="no key"):
        seal(key, b"pairs", b"")


# -- the edge


@pytest.fixture
def edge(tmp_path):
    consents, names = ConsentRegister(tmp_path / "consent.sqlite"), Pseudonyms(b"k" * 32)
    audit = AuditLog(tmp_path / "audit", ManualClock(), lambda _head: b"signed", lambda: b"")
    yield consents, names, audit
    consents.close()
    audit.close()


def ask(edge, question, request="r1"):
    """One edge's answers to all parts of a question, as the hub would carry them."""
    consents, names, audit = edge
    asking = Asking(request, question)
    for _, message in asking.due({"icu-a"}):
        asked = pb.NamesAsked.FromString(message.names_asked.SerializeToString())
        given = give_names(asked, edge="icu-a", pseudonyms=names, consents=consents, audit=audit)
        asking.answered("icu-a", given.names_given)
    return asking.done(0)


def question(opener, subjects, by=None):
    asked = by or {"icu-a": tuple(subjects)}
    return Question(study="trial-a", key=opener.public, codes=(HEART, ECG), until_us=1_000, subjects=asked)


def test_an_edge_names_those_who_allow_research_with_raw_data_signal_by_signal(edge):
    consents, names, audit = edge
    for subject, choice in (("all", Consent.RAW), ("local", Consent.LOCAL), ("part", Consent.RAW), ("care", Consent.RAW)):
        consents.set(subject, "*", choice)
    consents.set("part", ECG, Consent.NONE, "research")
    consents.set("care", "*", Consent.NONE, "research")
    consents.set("gone", "*", Consent.RAW)
    consents.erase(digest_of("gone"))
    opener = Opener()
    asked = question(opener, ("all", "care", "gone", "local", "nobody", "part"))
    answers = ask(edge, asked)
    assert (answers.away, answers.silent) == ((), ())
    found = {subject: n for (_, subject), n in read_answers("r1", asked, answers, opener).items()}
    assert {s: n.codes for s, n in found.items() if n.name} == {"all": (0, 1), "part": (0,)}
    assert found["all"].name == names.of_study("trial-a").of("all")
    assert {s: n.why for s, n in found.items() if n.why} == {
        "care": NO_CONSENT,
        "gone": ERASED,
        "local": NO_CONSENT,
        "nobody": NO_CONSENT,
    }
    [entry] = audit.entries()
    assert (entry.kind, entry.facts["study"], entry.facts["asked"], entry.facts["named"]) == ("export", "trial-a", 6, 2)
    assert found["all"].name not in audit.path.read_text()


@pytest.mark.parametrize("wrong", [{"study": "Not A Name"}, {"subjects": ["s"] * (PART_SUBJECTS + 1)}, {"key": b"short"}])
def test_a_question_that_does_not_hold_gets_no_name(edge, wrong):
    consents, names, audit = edge
    asked = pb.NamesAsked(**({"request": "r", "study": "trial-a", "key": Opener().public, "subjects": ["s"]} | wrong))
    with pytest.raises(TrustError):
        give_names(asked, edge="icu-a", pseudonyms=names, consents=consents, audit=audit)


# -- the hub


def test_many_subjects_are_asked_in_parts_and_each_comes_back_once(edge):
    subjects = tuple(f"s{n:05d}" for n in range(2 * PART_SUBJECTS + 1))
    for subject in (subjects[0], subjects[-1]):
        edge[0].set(subject, "*", Consent.RAW)
    opener = Opener()
    asked = question(opener, subjects)
    answers = ask(edge, asked)
    assert sorted(answers.sealed["icu-a"]) == [0, 1, 2]
    found = read_answers("r1", asked, answers, opener)
    assert sorted(s for _, s in found) == sorted(subjects)
    assert [s for (_, s), n in found.items() if n.name] == [subjects[0], subjects[-1]]


def test_who_is_away_is_waited_for_until_the_deadline_and_who_comes_back_is_asked_again():
    asking = Asking("r", question(Opener(), (), by=dict.fromkeys(("away", "back", "silent", "there"), ("s",))))
    assert [e for e, _ in asking.due({"back", "silent", "there", "other"})] == ["back", "silent", "there"]
    assert asking.due({"back", "silent", "there"}) == []  # once
    asking.answered("there", pb.NamesGiven(request="r", part=0, sealed=b"1"))
    asking.answered("there", pb.NamesGiven(request="r", part=7, sealed=b"2"))  # nobody asked for that one
    asking.answered("other", pb.NamesGiven(request="r", part=0, sealed=b"3"))
    asking.due({"silent", "there"})
    assert [e for e, _ in asking.due({"back", "silent", "there"})] == ["back"]  # it was gone
    asking.again("silent")  # so quickly that nobody saw it go
    assert [e for e, _ in asking.due({"back", "silent", "there"})] == ["silent"]
    asking.answered("back", pb.NamesGiven(request="r", part=0, sealed=b"4"))
    assert asking.done(999) is None
    answers = asking.done(1_000)
    assert answers.sealed == {"there": {0: b"1"}, "back": {0: b"4"}}
    assert (answers.away, answers.silent) == (("away",), ("silent",))


def test_an_edge_speaks_of_its_own_subjects_alone(edge):
    edge[0].set("mine", "*", Consent.RAW)
    edge[0].set("not-asked", "*", Consent.RAW)
    opener = Opener()
    answers = ask(edge, question(opener, ("mine", "not-asked")))
    assert set(read_answers("r1", question(opener, ("mine",)), answers, opener)) == {("icu-a", "mine")}
    with pytest.raises(TrustError, match="cannot be opened"):  # an answer to another question
        read_answers("r2", question(opener, ("mine",)), answers, opener)
    sealed = seal(opener.public, b"\xc1", msgspec.msgpack.encode(("wardround study names v1", "r1", "trial-a", "icu-a", 0)))
    broken = msgspec.structs.replace(answers, sealed={"icu-a": {0: sealed}})
    with pytest.raises(TrustError, match="cannot be read"):
        read_answers("r1", question(opener, ("mine",)), broken, opener)


def test_subjects_by_edge():
    assert by_edge([("b", "y"), ("a", "y"), ("a", "x"), ("a", "y")]) == {"x": ("a",), "y": ("a", "b")}


# -- the book


def test_the_book_of_exports_knows_who_was_in_which_and_holds_no_name(tmp_path):
    book = ExportBook(tmp_path / "exports.sqlite")
    assert book.add("trial-a", "dora", "fhir", ["subject-one", "subject-two"], 5) == 1
    assert book.add("", "dora", "wfdb", ["subject-one"], 6) == 2
    assert [(e.number, e.study, e.subjects) for e in book.all()] == [(1, "trial-a", 2), (2, "", 1)]
    assert [e.number for e in book.of(digest_of("subject-one"))] == [1, 2]
    assert [e.number for e in book.of(digest_of("subject-two"))] == [1]
    assert book.of(digest_of("nobody")) == []
    book.close()
    assert not any(b"subject-" in p.read_bytes() for p in tmp_path.iterdir())
