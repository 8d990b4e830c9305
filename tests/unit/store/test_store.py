"""What the hub's records promise, over a SQLite file and over a real PostgreSQL alike."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from wardround import store as stores
from wardround.records import ApiTokenRecord, NodeRecord, TokenRecord
from wardround.store import (
    AlertRecord,
    CertificateRecord,
    EdgeRecord,
    Happening,
    JobRequest,
    JobRunRecord,
    ModelRecord,
    Person,
    Quarantined,
    Request,
    RoundRecord,
    Store,
    StudyRecord,
    StudyRequest,
    open_store,
)

DAY_US = 86_400_000_000
STUDY = StudyRecord("beats", "name = 'beats'", "requested", "", 1, 1)


@pytest.fixture
def store(place):
    opened = open_store(place)
    yield opened
    opened.close()


def at_once(*calls) -> list[object]:
    """Run calls in as many threads; what each gave."""
    given: dict[int, object] = {}
    go = threading.Barrier(len(calls))

    def call(i: int) -> None:
        go.wait(30)
        try:
            given[i] = calls[i]()
        except Exception as error:
            given[i] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    return [given.get(i, TimeoutError()) for i in range(len(calls))]


def test_everything_is_there_after_reopening(place: Path) -> None:
    store = open_store(place)
    edge = EdgeRecord("icu-a", 1, "ab", 2, None)
    person = Person("oncall", "operator", "hash", None)
    round_ = RoundRecord("beats", 1, 5, 0.2, "d" * 64, {"participants": ["icu-a"], "score": 0.9, "deep": {"none": None}})
    alert = AlertRecord("A-0001", "firing", 3, 3, {"title": "t"})
    model = ModelRecord("beats", 1, "d" * 64, "", "current", 1, 5, 5, {"why": "first"})
    node = NodeRecord("node-1", "unix:///run/podman.sock", 4, 3_000_000_000, 1.5, "", True, 9)
    run = JobRunRecord("r1", "signals", "done", 4, 5, 6, 6, 0, 5_000_000_000, {"inputs": [1, 2]})
    store.put_edge(edge)
    store.put_person(person)
    store.put_study(STUDY)
    store.put_round(round_)
    store.put_round(round_)
    store.put_alert(alert)
    store.put_models([model])
    store.put_models([])
    store.put_node(node)
    store.put_job_run(run)
    store.happened(Happening(9, "Round 1", "committed"))
    store.set_aside(Quarantined(9, "icu-a", "update", "not-finite", "layer0"))
    store.save_state("book", b"\x00\x01")
    store.close()
    store = open_store(place)
    assert (store.edges(), store.person("oncall"), store.studies()) == ([edge], person, [STUDY])
    assert (store.rounds("beats"), store.rounds_committed(["beats", "other"]), store.alerts()) == (
        [round_],
        {"beats": 1},
        [alert],
    )
    assert (store.models("beats"), store.nodes(), store.job_runs()) == ([model], [node], [run])
    assert store.happenings() == [Happening(9, "Round 1", "committed")]
    assert (store.quarantined()[0].reason, store.quarantine_count()) == ("not-finite", 1)
    assert (store.load_state("book"), store.load_state("nothing")) == (b"\x00\x01", None)
    store.close()


def test_a_changed_record_replaces_the_old_one(store: Store) -> None:
    store.put_alert(AlertRecord("A-0001", "firing", 3, 3, {}))
    store.put_alert(AlertRecord("A-0001", "resolved", 3, 8, {}))
    store.put_study(STUDY)
    store.put_study(replace(STUDY, state="running"))
    store.save_state("k", b"1")
    store.save_state("k", b"2")
    store.put_person(Person("a", "operator", "h", None))
    store.seen("a", 12)
    assert [a.state for a in store.alerts()] == ["resolved"]
    assert [s.state for s in store.studies()] == ["running"]
    assert (store.load_state("k"), store.people()) == (b"2", [Person("a", "operator", "h", 12)])
    assert store.person("nobody") is None


def test_names_are_sorted_by_their_characters_whatever_language_the_database_speaks(store: Store) -> None:
    names = ["b", "a-b", "ab", "a-c", "a1"]
    for name in names:
        store.put_edge(EdgeRecord(name, 1, name, 2, None))
        store.put_person(Person(name, "operator", "", None))
        store.put_node(NodeRecord(name, "", 1, 1, 1.0, "", False, 1))
    assert [e.name for e in store.edges()] == sorted(names)
    assert [p.name for p in store.people()] == sorted(names)
    assert [n.name for n in store.nodes()] == sorted(names)


def test_one_of_many_keys_burns_a_token_and_may_ask_again(store: Store) -> None:
    store.add(TokenRecord("t", "icu-a", b"s", 10**18))
    won = at_once(*(lambda i=i: store.burn("t", bytes([i])) for i in range(12)))
    winners = [i for i, result in enumerate(won) if result is True]
    assert sorted(map(str, won)) == ["False"] * 11 + ["True"]
    assert store.burn("t", bytes([winners[0]]))
    assert not store.burn("unknown", b"x")
    assert store.get("t") == TokenRecord("t", "icu-a", b"s", 10**18, bytes([winners[0]]))
    assert store.get("unknown") is None


def test_an_edge_joins_renews_and_is_revoked(store: Store) -> None:
    store.joined(CertificateRecord("s1", "icu-a", 1, 10 * DAY_US))
    assert store.renewed(CertificateRecord("s2", "icu-a", 2, 11 * DAY_US))
    assert not store.renewed(CertificateRecord("s3", "icu-z", 2, 11 * DAY_US))
    assert store.edges() == [EdgeRecord("icu-a", 1, "s2", 11 * DAY_US, None)]
    assert store.certificate_ends() == {"icu-a": (2, 11 * DAY_US)}
    assert store.revoke_certificate("s1", 5) == "icu-a"
    assert store.revoke_certificate("none", 5) == ""
    assert store.denied(6) == (frozenset(), frozenset({"s1"}))
    assert store.revoke_edge("icu-a", 7)
    assert not store.revoke_edge("icu-z", 7)
    assert store.denied(8) == (frozenset({"icu-a"}), frozenset({"s1", "s2"}))
    assert not store.renewed(CertificateRecord("s4", "icu-a", 9, 12 * DAY_US))
    store.joined(CertificateRecord("s5", "icu-a", 10, 12 * DAY_US))
    assert store.denied(11) == (frozenset(), frozenset({"s1", "s2"}))
    assert [c.serial for c in store.certificates("icu-a")] == ["s1", "s2", "s5"]
    assert store.certificates() == store.certificates("icu-a")


def test_an_edge_that_joins_twice_at_once_has_joined(store: Store) -> None:
    certificates = [CertificateRecord(f"s{i}", "icu-a", i, 10 * DAY_US) for i in range(6)]
    store.joined(CertificateRecord("before", "icu-a", 0, 10 * DAY_US))
    assert at_once(*(lambda c=c: store.joined(c) for c in certificates)) == [None] * 6
    assert len(store.edges()) == 1
    assert len(store.certificates("icu-a")) == 7


def test_an_edge_has_so_many_certificates_and_no_more(store: Store) -> None:
    store.joined(CertificateRecord("first", "icu-a", 1, DAY_US))
    renewed = [store.renewed(CertificateRecord(f"s{i}", "icu-a", 2, DAY_US)) for i in range(stores.LIVE_CERTIFICATES_MAX + 3)]
    assert sum(renewed) == stores.LIVE_CERTIFICATES_MAX - 1
    assert store.edges()[0].serial == f"s{stores.LIVE_CERTIFICATES_MAX - 2}", "what was refused left nothing behind"


def test_tokens_of_the_api_are_used_revoked_and_forgotten(store: Store) -> None:
    token = ApiTokenRecord("a", "oncall", "n", "read", b"s", 1, 2)
    store.put_api_token(token)
    store.api_token_used("a", 5)
    assert store.api_token("a") == replace(token, used_us=5)
    assert store.revoke_api_token("a", 6)
    assert not store.revoke_api_token("a", 7)
    assert not store.revoke_api_token("b", 7)
    store.put_api_token(ApiTokenRecord("b", "oncall", "n", "read", b"s", stores.KEEP_EXPIRED_US + 3, 10**18))
    assert [t.token_id for t in store.api_tokens()] == ["b"]
    assert store.api_token("a") is None


def test_what_is_asked_is_answered_once_and_kept_for_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "REQUESTS_MAX", 3)
    monkeypatch.setattr(stores, "STUDY_REQUESTS_MAX", 3)
    for i in range(6):
        store.put_request(Request(f"q{i}", "alerts", "ack", {"alert": i}, "oncall", i))
        store.put_study_request(StudyRequest(f"q{i}", "beats", "pause", -1, "oncall", "", i))
    assert [r.body["alert"] for r in store.requests("alerts")] == list(range(6))
    assert store.requests("backup") == []
    for i in range(5):
        store.put_request(replace(store.request(f"q{i}"), state="done"))
        store.put_study_request(replace(store.study_request(f"q{i}"), state="done", answer="yes"))
    assert [r.request_id for r in store.requests("alerts")] == ["q5"]
    assert store.request("q0") is None
    assert store.request("q4").state == "done"
    assert [r.request_id for r in store.study_requests()] == ["q5"]
    assert [r.request_id for r in store.study_requests(asked=False)] == ["q3", "q4", "q5"]
    assert store.study_request("q0") is None


def test_jobs_are_asked_for_taken_once_and_their_runs_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "JOB_RUNS_MAX", 3)
    store.ask_job(JobRequest("b", "run", "signals", 2))
    store.ask_job(JobRequest("a", "stop", "", 1))
    assert [r.request_id for r in store.job_requests()] == ["a", "b"]
    taken = at_once(*(lambda: store.take_job_request("a") for _ in range(8)))
    assert sorted(map(str, taken)) == ["False"] * 7 + ["True"]
    for i in range(6):
        store.put_job_run(JobRunRecord(f"r{i}", "signals", "done", i, i, 1, 1, 0, 1, {}))
    assert [r.run_id for r in store.job_runs()] == ["r5", "r4", "r3"]
    assert store.remove_node("x") is False


def test_of_two_who_start_a_study_of_one_name_one_does(store: Store) -> None:
    asked = [replace(STUDY, toml=f"# {k}") for k in range(8)]
    added = at_once(*((lambda one=one: store.add_study(one)) for one in asked))
    assert sorted(map(str, added)) == ["False"] * 7 + ["True"]
    assert store.studies() == [asked[added.index(True)]]


def test_models_in_use_are_named_by_study(store: Store) -> None:
    rows = [("a", 1, "current"), ("a", 2, "candidate"), ("b", 1, "canary"), ("c", 1, "expired")]
    store.put_models([ModelRecord(study, n, "m", "", stage, n, 1, 1, {}) for study, n, stage in rows])
    assert store.studies_in_use() == {"a", "b"}
    assert [m.number for m in store.models("a")] == [1, 2]
    assert [m.number for m in store.models("a", 5, before=2)] == [1]
    assert [m.number for m in store.models("a", 1)] == [2]


def test_only_the_newest_happenings_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "HAPPENINGS_MAX", 20)
    for i in range(200):
        store.happened(Happening(i, f"h{i}", ""))
    assert [h.t_us for h in store.happenings(limit=500)] == list(range(199, 179, -1))


def test_a_text_that_no_database_could_hold_is_kept_as_far_as_it_can_be(store: Store) -> None:
    store.happened(Happening(1, "a\x00b", "\ud800 \N{SNOWMAN}"))
    store.put_alert(AlertRecord("A", "firing", 1, 1, {"t": "a\x00b"}))
    assert store.happenings() == [Happening(1, "a\N{REPLACEMENT CHARACTER}b", "? \N{SNOWMAN}")]
    assert store.alerts()[0].body == {"t": "a\x00b"}


def test_numbers_that_are_none_do_not_stop_a_round_from_being_noted(store: Store) -> None:
    store.put_round(RoundRecord("beats", 1, 5, 0.2, "d", {"scores": [float("nan"), {"x": float("inf")}, 0.5]}))
    scores = store.rounds("beats")[0].facts["scores"]
    assert scores[2] == 0.5
    assert scores[0] is None or scores[0] != scores[0]


def test_a_pseudonym_is_written_over_wherever_it_stands(store: Store, place: Path) -> None:
    who, mask = "p-0123456789abcdef", "x-0000000000000000"
    store.put_alert(AlertRecord("A", "firing", 1, 1, {"subject": who, "other": 'it"s'}))
    store.happened(Happening(1, f"about {who}", ""))
    store.save_state("book", b"\x93" + who.encode())
    assert store.holding(who) == ["alerts", "happenings", "state"]
    assert store.mask(who, mask) == 3
    assert (store.holding(who), store.mask(who, mask)) == ([], 0)
    assert store.alerts()[0].body == {"subject": mask, "other": 'it"s'}
    assert store.load_state("book") == b"\x93" + mask.encode()
    with pytest.raises(ValueError, match="as long"):
        store.mask(who, "short")


def test_several_processes_worth_of_connections_write_at_once(place: Path) -> None:
    opened = at_once(*(lambda: open_store(place) for _ in range(4)))
    assert all(isinstance(store, Store) for store in opened), opened
    wrote = at_once(*(lambda s=s, i=i: [s.happened(Happening(i, str(n), "")) for n in range(10)] for i, s in enumerate(opened)))
    assert [r for r in wrote if isinstance(r, Exception)] == []
    assert len(opened[0].happenings(limit=100)) == 40
    for store in opened:
        store.close()
