"""What a hub says to its edges beside rounds: once, again after each attachment, and until it is done."""

from __future__ import annotations

import pytest

from wardround.clock import ManualClock
from wardround.records import Consent
from wardround.trust.audit import AuditLog, Head
from wardround.trust.audit_files import KeptHeads
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.trust.duties import HEAD_S, Duties, erased_here, erased_to_wire, head_of, head_to_wire, known_of, wishes_of
from wardround.trust.erasures import ErasureBook, Receipt, digest_of
from wardround.wire import wardround_pb2 as pb


class Hub:
    def __init__(self, folder):
        self.clock = ManualClock()
        self.consents, self.erasures = ConsentRegister(folder / "consent.sqlite"), ErasureBook(folder / "erasures.sqlite")
        self.audit = AuditLog(folder / "audit", self.clock, lambda _head: b"signed", lambda: b"")
        self.erased, self.heads = [], []
        self.duties = Duties(
            consents=self.consents,
            erasures=self.erasures,
            audit=self.audit,
            certificate=lambda: b"pem",
            clock=self.clock,
            on_erased=lambda number, receipt: self.erased.append((number, receipt)),
            on_head=lambda edge, head: self.heads.append((edge, head)),
        )

    def says(self, *edges):
        return [(edge, message.WhichOneof("kind")) for edge, message in self.duties.due(edges)]


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path)
    hub.consents.apply([ConsentRecord("s", "*", Consent.RAW, 1)], "a")
    yield hub
    for part in (hub.consents, hub.erasures, hub.audit):
        part.close()


def test_a_wish_goes_to_the_edge_that_knows_the_subject_until_its_register_has_it(hub):
    hub.consents.wish("s", "*", Consent.NONE)
    [(edge, message)] = hub.duties.due({"a", "b"})
    assert edge == "a"
    assert [(w.subject, w.choice) for w in wishes_of(message.wishes)] == [("s", Consent.NONE)]
    assert hub.says("a", "b") == []  # once
    hub.duties.attached("a")
    assert hub.says("a", "b") == [("a", "wishes")]  # it may not have had it
    hub.consents.apply([ConsentRecord("s", "*", Consent.NONE, 2)], "a", taken=1)
    hub.duties.attached("a")
    assert hub.says("a", "b") == []


def test_an_erasure_goes_to_every_edge_without_the_pseudonym_until_each_has_answered(hub):
    number = hub.erasures.ask("secret-subject", "dora", "", 0)
    said = hub.duties.due({"a", "b"})
    assert [(edge, m.erasure.digest) for edge, m in said] == [(e, digest_of("secret-subject")) for e in ("a", "b")]
    assert not any(b"secret-subject" in m.SerializeToString() for _, m in said)
    receipt = Receipt(place="a", t_us=0, known=True, removed={}, seconds=0.1)
    hub.duties.answered("a", erased_to_wire(number, receipt))
    hub.duties.answered("a", erased_to_wire(99, receipt))  # nobody asked for that one
    hub.duties.answered("b", pb.EdgeMessage(erased=pb.Erased(number=number, receipt=b"{")))
    assert hub.erased == [(number, receipt)]
    for edge in ("a", "b", "c"):
        hub.duties.attached(edge)
    assert hub.says("a", "b", "c") == [("b", "erasure"), ("c", "erasure")]


def test_of_edges_that_owe_nothing_nothing_is_read(hub, monkeypatch):
    number = hub.erasures.ask("secret-subject", "dora", "", 0)
    assert hub.says("a", "b") == [("a", "erasure"), ("b", "erasure")]
    monkeypatch.setattr(hub.erasures, "owed", lambda edge: pytest.fail(f"what {edge} owes was read again"))
    assert hub.says("a", "b") == []
    monkeypatch.undo()
    hub.duties.answered("a", erased_to_wire(number, Receipt(place="a", t_us=0, known=True, removed={}, seconds=0.1)))
    hub.duties.attached("a")
    hub.erasures.ask("another-subject", "dora", "", 0)
    assert hub.says("a", "b") == [("a", "erasure"), ("b", "erasure")]  # each the newer one alone


def test_an_edge_that_attaches_while_it_is_looked_at_is_told_again(hub, monkeypatch):
    hub.consents.wish("s", "*", Consent.NONE)
    assert hub.says("a") == [("a", "wishes")]
    wishes = hub.consents.wishes

    def attaches_meanwhile(edge):
        hub.duties.attached(edge)
        return wishes(edge)

    monkeypatch.setattr(hub.consents, "wishes", attaches_meanwhile)
    assert hub.says("a") == []
    monkeypatch.undo()
    assert hub.says("a") == [("a", "wishes")]


def test_a_head_goes_out_when_the_log_has_grown_and_not_too_often(hub):
    hub.audit.add("change", "something", "x")
    hub.clock.advance(HEAD_S)
    [(_, message)] = hub.duties.due({"a"})
    assert (message.audit_head.entries, message.audit_head.certificate) == (1, b"pem")
    hub.audit.add("change", "something", "x")
    assert hub.says("a") == []
    hub.clock.advance(HEAD_S)
    assert hub.says("a") == [("a", "audit_head")]
    hub.clock.advance(HEAD_S)
    assert hub.says("a") == []  # it has not grown
    hub.duties.answered("a", pb.EdgeMessage(kept_head=head_to_wire(Head(2, b"h"))))
    assert hub.heads == [("a", Head(2, b"h"))]


def test_an_edge_keeps_heads_and_sees_a_shorter_or_another_log(tmp_path):
    heads = KeptHeads(tmp_path / "heads.json")
    assert heads.keep(Head(5, b"five"), 1) == ""
    assert heads.keep(Head(5, b"five"), 2) == ""
    assert "has changed" in heads.keep(Head(5, b"other"), 3)
    assert "had 5 entries and has 4" in heads.keep(Head(4, b"four"), 4)
    assert heads.keep(Head(9, b"nine"), 5) == ""
    assert [(h.entries, bytes.fromhex(h.hash)) for h in KeptHeads(tmp_path / "heads.json").all()] == [(5, b"five"), (9, b"nine")]
    assert head_of(head_to_wire(Head(1, b"h", b"s"))) == Head(1, b"h", b"s")


def test_an_edge_that_has_joined_is_told_what_the_hub_knows_of_its_register_at_each_attachment(hub):
    assert hub.says("a", "b") == []
    hub.erasures.joined("a", 1)
    hub.erasures.joined("b", 1)
    for edge in ("a", "b"):
        hub.duties.attached(edge)
    [(edge, message)] = hub.duties.due({"a", "b"})
    assert edge == "a"  # of b nothing is known
    assert known_of(message.known_consents) == [ConsentRecord("s", "*", Consent.RAW, 1)]
    assert hub.says("a", "b") == []


def test_whom_an_edge_knows_to_be_erased_is_said_in_messages_of_some_size():
    digests = [bytes([n % 256, n // 256]) * 16 for n in range(25_000)]
    assert [d for m in erased_here(digests) for d in m.erased_here.digests] == digests
    assert max(len(m.SerializeToString()) for m in erased_here(digests)) < 1_000_000
    assert erased_here([]) == []


def test_an_edge_answers_for_itself_alone_and_once(hub):
    """Each answer is an entry of the audit log, which nobody ever shortens, and a line of what happened."""
    number = hub.erasures.ask("secret-subject", "dora", "", 0)
    for t_us in range(50):
        receipt = Receipt(place="hub", t_us=t_us, known=True, removed={}, seconds=0.1)
        hub.duties.answered("a", erased_to_wire(number, receipt))
    assert [(n, r.place, r.t_us) for n, r in hub.erased] == [(number, "a", 0)]
    assert hub.erasures.answers(number) == {"a": hub.erased[0][1]}
    hub.erasures.joined("a", hub.clock.now_us() + 1)  # with a backup: it is asked again
    hub.clock.advance(1.0)
    hub.duties.answered("a", erased_to_wire(number, receipt))
    assert [r.t_us for _, r in hub.erased] == [0, 49]
    hub.duties.answered("b", pb.EdgeMessage(erased=pb.Erased(number=2**64 - 1, receipt=b"{}")))
    assert len(hub.erased) == 2
