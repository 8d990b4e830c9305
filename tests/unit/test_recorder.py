"""What a hub writes down: the heads of its audit log that edges keep are held beside the log, many at once."""

from __future__ import annotations

import msgspec
import pytest

from wardround.clock import ManualClock
from wardround.hub import recorder as module
from wardround.hub.recorder import Recorder
from wardround.store import open_store
from wardround.trust.audit import Head
from wardround.trust.audit_files import HEADS_STATE, KeptHead
from wardround.trust.certificates import Authority, key_pem, new_key, write_private


@pytest.fixture
def made(tmp_path):
    (tmp_path / "hub.toml").write_text("")
    authority, key = Authority.create(tmp_path / "pki", "hub"), new_key()
    write_private(tmp_path / "pki" / "hub.key", key_pem(key))
    write_private(tmp_path / "pki" / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 24.0), 0o644)
    store = open_store(tmp_path / "hub.sqlite")
    recorder = Recorder(tmp_path, store, ManualClock())
    for number in range(3):
        recorder.record("change", "something", "x", number=number)
    yield recorder, store
    recorder.close()
    store.close()


def kept(store):
    return msgspec.json.decode(store.load_state(HEADS_STATE) or b"{}", type=dict[str, KeptHead])


def happened(store):
    return [(h.title, h.detail) for h in store.happenings()]


def test_heads_of_many_edges_are_noted_and_held_beside_the_log_in_one_go(made, monkeypatch):
    recorder, store = made
    looks, verify = [], module.verify_log
    monkeypatch.setattr(module, "verify_log", lambda home, heads: looks.append(len(heads)) or verify(home, heads))
    head = recorder.audit.head()
    for number in range(20):
        recorder.head_kept(f"edge-{number}", head)
    recorder.look_at_heads()
    recorder.look_at_heads()  # there is nothing new
    assert looks == [20]
    assert {(h.entries, h.hash) for h in kept(store).values()} == {(3, head.hash.hex())}
    assert len(kept(store)) == 20
    assert happened(store) == []


def test_the_edge_is_named_whose_head_the_log_does_not_reach(made):
    recorder, store = made
    head = recorder.audit.head()
    recorder.head_kept("sound-a", head)
    recorder.head_kept("robbed", Head(7, bytes(32)))
    recorder.head_kept("deceived", Head(head.entries, bytes(32)))
    recorder.head_kept("sound-b", head)
    recorder.look_at_heads()
    found = {detail.partition(":")[0]: title for title, detail in happened(store)}
    assert found == dict.fromkeys(
        ["against the head that robbed keeps", "against the head that deceived keeps"], "The audit log does not hold"
    )
    assert set(kept(store)) == {"sound-a", "sound-b", "robbed", "deceived"}


def test_a_log_that_cannot_be_read_does_not_end_the_hub(made):
    recorder, store = made
    recorder.head_kept("a", recorder.audit.head())
    recorder.audit.path.unlink()
    recorder.look_at_heads()
    assert set(kept(store)) == {"a"}


def test_an_edge_that_says_what_it_keeps_without_end_has_the_log_read_no_more_often(made, monkeypatch):
    recorder, store = made
    clock, looks, verify = recorder._clock, [], module.verify_log
    monkeypatch.setattr(module, "verify_log", lambda home, heads: looks.append(len(heads)) or verify(home, heads))
    for entries in range(50, 60):  # each another head, none of which the log has
        recorder.head_kept("a", Head(entries, bytes(32)))
        recorder.look_at_heads()
    assert looks == [1, 1]  # and once more to say whose it is
    assert len(happened(store)) == 1
    recorder.head_kept("b", recorder.audit.head())  # nobody else waits for that
    recorder.look_at_heads()
    assert set(kept(store)) == {"a", "b"}
    clock.advance(module.HEADS_S)
    recorder.look_at_heads()  # what it said last is not forgotten
    assert kept(store)["a"].entries == 59
    assert len(happened(store)) == 2


def denied(recorder):
    return [(e.what, e.who, e.facts) for e in recorder.audit.entries() if e.kind == "denied"]


def test_who_knocks_under_ever_new_names_does_not_write_the_log_full(made):
    """Nobody ever shortens it, each entry is synced, and to be denied something nobody need be known here."""
    recorder, _ = made
    for number in range(500):
        recorder.for_desk("denied", "sign-in refused", f"name-{number}", reason="name and password do not fit")
    written = denied(recorder)
    assert len(written) == module.DENIALS_MAX + 1
    assert written[-1] == ("sign-in refused", "", {"more": f"than {module.DENIALS_MAX} a minute"})
    recorder.denial("edge denied", "icu-a", serial="1")  # it hides no denial of another kind
    assert denied(recorder)[-1][:2] == ("edge denied", "icu-a")
    recorder._clock.advance(module.DENIAL_S)
    recorder.denial("sign-in refused", "ada", reason="name and password do not fit")
    assert denied(recorder)[-1][:2] == ("sign-in refused", "ada")
