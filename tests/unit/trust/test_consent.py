"""What a subject allows: the most exact choice holds, what others write is seen, what is said at the hub holds at once."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.records import Consent, Purpose
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.trust.erasures import digest_of

HEART_RATE = "loinc:8867-4"


@pytest.fixture
def register():
    made = ConsentRegister(":memory:")
    yield made
    made.close()


def test_nothing_on_file_is_no_consent(register):
    assert register.choose("s", HEART_RATE) == (Consent.NONE, 0)
    assert not register.keeps("s")


def test_a_choice_for_one_signal_wins_and_the_newest_version_stays(register):
    register.set("s", "*", Consent.RAW)
    register.set("s", "wr:accel-x", Consent.LOCAL)
    assert register.choose("s", HEART_RATE)[0] is Consent.RAW
    assert register.choose("s", "wr:accel-x")[0] is Consent.LOCAL
    assert register.apply([ConsentRecord("s", "*", Consent.NONE, 1)]) == 0  # old news
    assert register.apply([ConsentRecord("s", "*", Consent.NONE, 9)]) == 1
    assert register.choose("s", HEART_RATE) == (Consent.NONE, 9)
    assert register.keeps("s")  # accelerations still


def test_a_purpose_has_its_own_choice_and_the_carrier_asks_for_the_widest(register):
    register.set("s", "*", Consent.RAW, Purpose.CARE)
    register.set("s", "*", Consent.LOCAL, Purpose.TRAINING)
    assert register.choose("s", HEART_RATE, Purpose.CARE)[0] is Consent.RAW
    assert register.choose("s", HEART_RATE, Purpose.TRAINING)[0] is Consent.LOCAL
    assert register.choose("s", HEART_RATE, Purpose.RESEARCH)[0] is Consent.NONE
    assert register.choose("s", HEART_RATE)[0] is Consent.RAW  # it travels, for care
    assert register.allows("s", [HEART_RATE], Purpose.CARE, Consent.RAW)
    assert not register.allows("s", [HEART_RATE], Purpose.TRAINING, Consent.RAW)


def test_of_a_purpose_and_a_signal_the_stricter_holds_and_both_together_win(register):
    register.set("s", "*", Consent.RAW, Purpose.TRAINING)
    register.set("s", HEART_RATE, Consent.NONE)
    assert register.choose("s", HEART_RATE, Purpose.TRAINING)[0] is Consent.NONE
    register.set("s", HEART_RATE, Consent.LOCAL, Purpose.TRAINING)
    assert register.choose("s", HEART_RATE, Purpose.TRAINING)[0] is Consent.LOCAL


def test_what_another_process_writes_is_seen(tmp_path):
    running, command = (ConsentRegister(tmp_path / "consent.sqlite") for _ in range(2))
    assert not running.refresh()
    before = running.generation
    command.set("s", "*", Consent.RAW)
    assert running.refresh()
    assert running.generation > before
    assert running.choose("s", HEART_RATE) == (Consent.RAW, 1)
    assert running.set("s", "*", Consent.LOCAL) == 2  # and its versions go on
    assert command.refresh()
    assert command.choose("s", HEART_RATE) == (Consent.LOCAL, 2)
    for register in (running, command):
        register.close()


def test_a_register_from_before_there_were_purposes_is_taken_over(tmp_path):
    old = sqlite3.connect(tmp_path / "consent.sqlite")
    old.execute("CREATE TABLE consent (subject TEXT, code TEXT, choice TEXT, version INTEGER, PRIMARY KEY (subject, code))")
    old.execute("INSERT INTO consent VALUES ('s', '*', 'raw', 3)")
    old.commit()
    old.close()
    register = ConsentRegister(tmp_path / "consent.sqlite")
    assert register.choose("s", HEART_RATE) == (Consent.RAW, 3)
    register.close()


def test_a_withdrawal_at_the_hub_holds_at_once_and_a_grant_once_the_edge_has_it(tmp_path):
    hub, edge = ConsentRegister(tmp_path / "hub.sqlite"), ConsentRegister(tmp_path / "edge.sqlite")
    edge.set("s", "*", Consent.RAW)
    edge.set("t", "*", Consent.LOCAL)
    hub.apply(edge.records(), "icu-a")
    assert hub.wish("s", "*", Consent.NONE) == ["icu-a"]
    assert hub.wish("t", "*", Consent.RAW) == ["icu-a"]
    assert hub.wish("nobody", "*", Consent.NONE) == []
    assert hub.choose("s", HEART_RATE, edge="icu-a")[0] is Consent.NONE
    assert hub.choose("t", HEART_RATE, edge="icu-a")[0] is Consent.LOCAL

    wishes = hub.wishes("icu-a")
    assert edge.take(wishes) == 2
    edge.set("s", "*", Consent.LOCAL)  # the patient has said something else since
    assert edge.take(wishes) == 0  # the same wishes again change nothing
    assert edge.choose("s", HEART_RATE)[0] is Consent.LOCAL
    assert edge.choose("t", HEART_RATE)[0] is Consent.RAW

    hub.apply(edge.records(), "icu-a", taken=edge.taken)
    assert hub.wishes("icu-a") == []
    assert hub.choose("s", HEART_RATE, edge="icu-a")[0] is Consent.LOCAL
    assert hub.choose("t", HEART_RATE, edge="icu-a")[0] is Consent.RAW
    for register in (hub, edge):
        register.close()


def test_one_edge_cannot_speak_for_the_subject_of_another(register):
    register.apply([ConsentRecord("s", "*", Consent.LOCAL, 1)], "icu-a")
    register.apply([ConsentRecord("s", "*", Consent.RAW, 99)], "icu-b")
    assert register.choose("s", HEART_RATE, edge="icu-a")[0] is Consent.LOCAL
    assert register.choose("s", HEART_RATE)[0] is Consent.LOCAL  # for whom all edges count, the strictest


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["*", *Purpose]), st.sampled_from(["*", "a", "b"]), st.sampled_from(list(Consent)), st.booleans()
        ),
        max_size=8,
    )
)
def test_no_wish_ever_widens_what_the_hub_may_use(changes):
    hub, edge = ConsentRegister(":memory:"), ConsentRegister(":memory:")
    edge.set("s", "*", Consent.LOCAL)
    hub.apply(edge.records(), "e")
    widths = {Consent.NONE: 0, Consent.LOCAL: 1, Consent.RAW: 2}
    for purpose, code, choice, at_edge in changes:
        if at_edge:
            edge.set("s", code, choice, purpose)
            hub.apply(edge.records(), "e")
        else:
            hub.wish("s", code, choice, purpose)
        for asked in Purpose:
            for signal in ("a", "b"):
                assert widths[hub.choose("s", signal, asked, "e")[0]] <= widths[edge.choose("s", signal, asked)[0]]
    hub.close()
    edge.close()


def test_all_on_file_in_one_pass_is_what_each_edge_has(register):
    register.apply([ConsentRecord("s", "*", Consent.RAW, 1), ConsentRecord("s", HEART_RATE, Consent.LOCAL, 2)], "a")
    register.apply([ConsentRecord("s", "*", Consent.NONE, 3), ConsentRecord("t", "*", Consent.LOCAL, 1)], "b")
    found = register.by_subject()
    for edge in ("a", "b"):
        assert [r for own in sorted(found) for r in found[own].get(edge, [])] == register.records_of(edge)


SUBJECTS, EDGES = ["s1", "s2", "s3"], ["a", "b"]
KINDS = st.sampled_from(list(Consent))
RECORDS = st.builds(
    ConsentRecord,
    subject=st.sampled_from(SUBJECTS),
    code=st.sampled_from(["*", HEART_RATE]),
    choice=KINDS,
    version=st.integers(1, 4),
    purpose=st.sampled_from(["*", Purpose.CARE.value]),
)
ACTS = st.one_of(
    st.tuples(st.just("apply"), st.lists(RECORDS, max_size=4), st.sampled_from(EDGES), st.integers(0, 3)),
    st.tuples(st.just("wish"), st.sampled_from(SUBJECTS), st.just("*"), KINDS),
    st.tuples(st.just("erase"), st.sampled_from(SUBJECTS).map(digest_of)),
    st.tuples(st.just("refresh")),
)


def everything(register):
    asked = [
        (s, code, p, e) for s in SUBJECTS for code in ("*", HEART_RATE) for p in (None, Purpose.CARE) for e in (None, *EDGES)
    ]
    return (
        register.records(),
        [register.records_of(edge) for edge in EDGES],
        [register.wishes(edge) for edge in EDGES],
        [register.edges_of(s) for s in SUBJECTS],
        [register.choose(*question) for question in asked],
        register.tombstones(),
    )


@settings(max_examples=30, deadline=None)
@given(acts=st.lists(st.tuples(st.booleans(), ACTS), max_size=8))
def test_what_a_register_has_taken_in_piece_by_piece_is_what_one_reads_that_opens_it_anew(acts, tmp_path_factory):
    """Written by two processes in turn, and asked after each act, so that no answer of before is given later."""
    path = tmp_path_factory.mktemp("register") / "consent.sqlite"
    pair = [ConsentRegister(path) for _ in range(2)]
    for second, (act, *arguments) in acts:
        getattr(pair[second], act)(*arguments)
        for register in pair:
            register.refresh()
        anew = ConsentRegister(path)
        assert everything(pair[0]) == everything(pair[1]) == everything(anew)
        for register, code in ((r, c) for r in pair for c in ("*", HEART_RATE)):
            counted = Counter(register.choose(s, code)[0] for s in SUBJECTS)
            assert register.tally(SUBJECTS, [code]) == [{choice: counted[choice] for choice in Consent}]
        anew.close()
    for register in pair:
        register.close()


def test_of_two_versions_the_newer_stays_in_whatever_order_and_through_whichever_process_they_come(register, tmp_path_factory):
    newer, older = ConsentRecord("s", "*", Consent.NONE, 2), ConsentRecord("s", "*", Consent.RAW, 1)
    assert register.apply([newer, older], "a") == 1
    assert register.records_of("a") == [newer]
    path = tmp_path_factory.mktemp("register") / "consent.sqlite"
    first, second = ConsentRegister(path), ConsentRegister(path)
    assert first.apply([newer], "a") == 1
    assert second.apply([older], "a") == 0  # it has not read yet what the first has written
    second.refresh()
    assert second.records_of("a") == [newer]
    first.close()
    second.close()


def test_what_an_edge_says_is_taken_in_without_reading_what_others_have_said(register, monkeypatch):
    register.apply([ConsentRecord("s", "*", Consent.RAW, 1)], "a")
    assert register.choose("s", HEART_RATE) == (Consent.RAW, 1)
    before = register.generation
    monkeypatch.setattr(register, "_load", lambda: pytest.fail("everything was read again"))
    assert register.apply([ConsentRecord("s", "*", Consent.LOCAL, 2), ConsentRecord("t", "*", Consent.RAW, 1)], "a") == 2
    assert register.choose("s", HEART_RATE) == (Consent.LOCAL, 2)
    assert register.choose("t", HEART_RATE) == (Consent.RAW, 1)
    assert register.generation > before


def test_many_are_erased_at_once_and_the_file_is_written_anew_once(tmp_path):
    """A restored hub hears of all who were erased since its backup: with a write for each, it stood still for minutes."""
    register = ConsentRegister(tmp_path / "c.sqlite")
    register.apply([ConsentRecord(f"s-{k}", "*", Consent.RAW, 1) for k in range(30)], "icu-a")
    written = []
    register._db.set_trace_callback(lambda said: written.append(said) if said == "VACUUM" else None)
    gone = register.erase(*(digest_of(f"s-{k}") for k in range(10, 40)))
    assert sorted(gone) == [f"s-{k}" for k in range(10, 30)]
    assert written == ["VACUUM"]
    assert [record.subject for record in register.records()] == sorted(f"s-{k}" for k in range(10))
    assert all(register.erased(f"s-{k}") for k in range(10, 40))
    register.close()
