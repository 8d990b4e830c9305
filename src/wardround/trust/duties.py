"""What a hub asks of its edges beside rounds: take over wishes, erase a subject, keep a head of the audit log.

`Duties` is the hub's side, without a network: what to say to an edge now, and what its answers mean. The rest is how it stands on
the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from wardround.clock import Clock
from wardround.malformed import MALFORMED
from wardround.records import Consent
from wardround.trust.audit import AuditLog, Head
from wardround.trust.consent import ConsentRecord, ConsentRegister, Wish
from wardround.trust.erasures import Erasure, ErasureBook, Receipt
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
HEAD_S = 30.0  # between two heads of a log that grows
RECORDS_MAX, DIGESTS_MAX = 4_000, 10_000  # of one message
RECEIPT_BYTES_MAX = 1_000_000
KNOWN_MAX = 100_000  # records: an edge that has more keeps what it has of the rest


@dataclass
class _Told:
    """What an attached edge has been told: up to which wish, erasure (as far as it owes them) and head."""

    wish: int = 0
    erasure: int = 0
    head: int = 0


class Duties:
    """Safe to use from one thread at a time, but for `attached`, which may be called from any."""

    def __init__(
        self,
        *,
        consents: ConsentRegister,
        erasures: ErasureBook,
        audit: AuditLog,
        certificate: Callable[[], bytes],
        clock: Clock,
        on_erased: Callable[[int, Receipt], None],
        on_head: Callable[[str, Head], None],
    ) -> None:
        """`on_erased(number, receipt)` gets an edge's receipt; `on_head(edge, head)` the newest head that an edge keeps."""
        self._consents, self._erasures, self._audit, self._certificate = consents, erasures, audit, certificate
        self._clock, self._on_erased, self._on_head = clock, on_erased, on_head
        self._told: dict[str, _Told] = {}
        self._head, self._certified = Head(0, b""), b""
        self._head_s = float("-inf")

    def attached(self, edge: str) -> None:
        """An edge is there, anew: it is told everything again."""
        self._told.pop(edge, None)

    def due(self, attached: Collection[str]) -> list[tuple[str, pb.HubMessage]]:
        """What to say now, to whom."""
        self._consents.refresh()
        if attached and self._clock.monotonic_s() - self._head_s >= HEAD_S:
            self._head, self._head_s = self._audit.head(), self._clock.monotonic_s()
            self._certified = self._certificate()
        for gone in set(self._told) - set(attached):
            self._told.pop(gone, None)
        newest = self._erasures.newest()
        return [(edge, message) for edge in sorted(attached) for message in self._for(edge, newest)]

    def _for(self, edge: str, newest: int) -> list[pb.HubMessage]:
        """Asked of every edge every second: of one that owes nothing it reads nothing from the disk. `newest` is the newest
        erasure's number."""
        new = edge not in self._told and self._erasures.has_joined(edge)
        told = self._told.setdefault(edge, _Told())
        wishes = [w for w in self._consents.wishes(edge) if w.number > told.wish]
        owed = [e for e in self._erasures.owed(edge) if e.number > told.erasure] if newest > told.erasure else []
        messages = known_to_wire(self._consents.records_of(edge)) if new else []
        messages += [wishes_to_wire(wishes)] if wishes else []
        messages += [erasure_to_wire(e) for e in owed]
        if self._head.entries > told.head:
            messages.append(pb.HubMessage(audit_head=head_to_wire(self._head, self._certified)))
        # In place: of an edge that attaches anew meanwhile it is dropped, and everything is said again.
        told.wish = max([told.wish, *(w.number for w in wishes)])
        told.erasure = max([newest, told.erasure, *(e.number for e in owed)])
        told.head = self._head.entries
        return messages

    def answered(self, edge: str, message: pb.EdgeMessage) -> None:
        """An edge's answer."""
        if message.WhichOneof("kind") == "kept_head":
            self._on_head(edge, head_of(message.kept_head))
            return
        number, said = message.erased.number, message.erased.receipt
        if number not in {erasure.number for erasure in self._erasures.owed(edge)}:
            return  # it has said so before, or was not asked: each answer is written down in three places
        try:
            receipt = msgspec.json.decode(said[:RECEIPT_BYTES_MAX], type=Receipt)
        except MALFORMED:
            log.warning("an edge's receipt cannot be read", edge_id=edge)
            return
        receipt = msgspec.structs.replace(receipt, place=edge)  # whatever it says: it answers for itself alone
        self._erasures.answer(number, edge, receipt, self._clock.now_us())
        self._on_erased(number, receipt)


def wishes_to_wire(wishes: Sequence[Wish]) -> pb.HubMessage:
    """What subjects have said at the hub."""
    told = [pb.Wish(number=w.number, subject=w.subject, purpose=w.purpose, code=w.code, choice=w.choice.value) for w in wishes]
    return pb.HubMessage(wishes=pb.Wishes(wishes=told))


def wishes_of(message: pb.Wishes) -> list[Wish]:
    """The inverse of wishes_to_wire."""
    return [Wish(w.number, w.subject, w.purpose, w.code, Consent(w.choice)) for w in message.wishes]


def known_to_wire(records: Sequence[ConsentRecord]) -> list[pb.HubMessage]:
    """The hub's copy of an edge's register, in messages of RECORDS_MAX records."""
    wire = [
        pb.ConsentRecord(subject=r.subject, code=r.code, choice=r.choice.value, version=r.version, purpose=r.purpose)
        for r in records[:KNOWN_MAX]
    ]
    parts = [wire[i : i + RECORDS_MAX] for i in range(0, len(wire), RECORDS_MAX)]
    return [pb.HubMessage(known_consents=pb.KnownConsents(records=part)) for part in parts]


def known_of(message: pb.KnownConsents) -> list[ConsentRecord]:
    """The inverse of known_to_wire, of one message."""
    return [ConsentRecord(r.subject, r.code, Consent(r.choice), r.version, r.purpose) for r in message.records]


def erased_here(digests: Sequence[bytes]) -> list[pb.EdgeMessage]:
    """Whom an edge knows to be erased."""
    parts = [digests[i : i + DIGESTS_MAX] for i in range(0, len(digests), DIGESTS_MAX)]
    return [pb.EdgeMessage(erased_here=pb.ErasedHere(digests=part)) for part in parts]


def erasure_to_wire(erasure: Erasure) -> pb.HubMessage:
    """A subject to be erased, by digest."""
    return pb.HubMessage(erasure=pb.Erasure(number=erasure.number, digest=erasure.digest))


def erased_to_wire(number: int, receipt: Receipt) -> pb.EdgeMessage:
    """An edge's receipt."""
    return pb.EdgeMessage(erased=pb.Erased(number=number, receipt=msgspec.json.encode(receipt)))


def head_to_wire(head: Head, certificate: bytes = b"") -> pb.AuditHead:
    """A head of the hub's audit log."""
    return pb.AuditHead(entries=head.entries, head=head.hash, signature=head.signature, certificate=certificate)


def head_of(message: pb.AuditHead) -> Head:
    """The inverse of head_to_wire."""
    return Head(message.entries, message.head, message.signature)
