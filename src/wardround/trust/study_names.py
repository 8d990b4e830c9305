"""What subjects are called in a study: asked of the edges that know them, for one export, and known to who writes it alone.

The hub carries the question and the answers; an answer is sealed to a key that lives as long as the command that writes the
export, so that no pair of names is ever on the hub's disk (docs/decisions/0008). The edge gives a name where the subject's
choices allow `research` as `raw`, for the signals that they allow.

`Asking` is the hub's side of one question, without a network and without a clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from wardround.errors import TrustError
from wardround.malformed import MALFORMED
from wardround.records import Consent, Purpose
from wardround.trust.audit import AuditLog
from wardround.trust.consent import ConsentRegister
from wardround.trust.names import check_name
from wardround.trust.pseudonyms import Pseudonyms
from wardround.trust.sealing import Opener, seal
from wardround.wire import wardround_pb2 as pb

PART_SUBJECTS = 1_000  # of one message
CODES_MAX = 1_000
NO_CONSENT, ERASED = "no-consent", "erased"


class Named(msgspec.Struct, frozen=True, array_like=True):
    """An edge's word on one subject. `why` is empty, or why there is no name: NO_CONSENT or ERASED."""

    subject: str  # as the lake calls it
    name: str = ""  # as the study does
    secret: bytes = b""  # for the names of its devices: pseudonyms.hidden
    codes: tuple[int, ...] = ()  # which of the signals that were asked for may go
    why: str = ""


def give_names(
    message: pb.NamesAsked, *, edge: str, pseudonyms: Pseudonyms, consents: ConsentRegister, audit: AuditLog
) -> pb.EdgeMessage:
    """At the edge: the answer, with its entry in the audit log first.

    Raises:
        TrustError: the question does not hold, or cannot be recorded.
    """
    study = check_name(message.study, what="study")
    if len(message.subjects) > PART_SUBJECTS or len(message.codes) > CODES_MAX:
        raise TrustError("more is asked for than one question may", remedy="bring hub and edges to the same version")
    consents.refresh()
    names = pseudonyms.of_study(study)
    codes = tuple(message.codes)
    given: list[Named] = []
    for subject in message.subjects:
        may = tuple(i for i, c in enumerate(codes) if consents.choose(subject, c, Purpose.RESEARCH)[0] is Consent.RAW)
        if may:
            given.append(Named(subject, names.of(subject), names.secret(subject), may))
        else:
            given.append(Named(subject, why=ERASED if consents.erased(subject) else NO_CONSENT))
    facts = {"study": study, "asked": len(given), "named": sum(not n.why for n in given), "request": message.request[:60]}
    audit.add("export", "names given for a study", "hub", **facts)
    sealed = seal(message.key, msgspec.msgpack.encode(given), _context(message.request, study, edge, message.part))
    return pb.EdgeMessage(names_given=pb.NamesGiven(request=message.request, part=message.part, sealed=sealed))


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What an export asks of the edges, as it lies in the hub's store until it is answered."""

    study: str
    key: bytes
    codes: tuple[str, ...]
    subjects: dict[str, tuple[str, ...]]  # by edge
    until_us: int

    def parts(self, edge: str) -> list[tuple[str, ...]]:
        """The subjects of an edge, message by message."""
        mine = self.subjects[edge]
        return [mine[i : i + PART_SUBJECTS] for i in range(0, len(mine), PART_SUBJECTS)]


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a question: sealed parts by edge, and who was never there, or there and silent."""

    sealed: dict[str, dict[int, bytes]]
    away: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


class Asking:
    """One question under way. One thread at a time."""

    def __init__(self, request: str, question: Question) -> None:
        self._request, self._question = request, question
        self._owed = {(edge, part) for edge in question.subjects for part in range(len(question.parts(edge)))}
        self._told: set[str] = set()
        self._seen: set[str] = set()
        self._sealed: dict[str, dict[int, bytes]] = {}

    def again(self, edge: str) -> None:
        """An edge has attached anew: what it was asked before it may not have had."""
        self._told.discard(edge)

    def due(self, attached: Collection[str]) -> list[tuple[str, pb.HubMessage]]:
        """What to ask now, of whom."""
        self._told &= set(attached)
        new = [e for e in sorted(self._question.subjects) if e in attached and e not in self._told]
        self._told |= set(new)
        self._seen |= set(new)
        return [(edge, self._message(edge, part)) for edge in new for part in self._parts_owed(edge)]

    def answered(self, edge: str, message: pb.NamesGiven) -> None:
        """An edge's answer; one that nobody asked for is none."""
        if (edge, message.part) in self._owed:
            self._owed.discard((edge, message.part))
            self._sealed.setdefault(edge, {})[message.part] = message.sealed

    def done(self, now_us: int) -> Answers | None:
        """Everything that came, once all of it has or the time is over."""
        if self._owed and now_us < self._question.until_us:
            return None
        missing = sorted({edge for edge, _ in self._owed})
        away = tuple(e for e in missing if e not in self._seen)
        return Answers(sealed=self._sealed, away=away, silent=tuple(e for e in missing if e in self._seen))

    def _parts_owed(self, edge: str) -> list[int]:
        return sorted(part for e, part in self._owed if e == edge)

    def _message(self, edge: str, part: int) -> pb.HubMessage:
        q = self._question
        subjects = q.parts(edge)[part]
        asked = pb.NamesAsked(request=self._request, part=part, study=q.study, key=q.key, subjects=subjects, codes=q.codes)
        return pb.HubMessage(names_asked=asked)


def read_answers(request: str, question: Question, answers: Answers, opener: Opener) -> dict[tuple[str, str], Named]:
    """By edge and subject, what the edges said; an edge speaks of the subjects it was asked about alone.

    Raises:
        TrustError: an answer cannot be opened or read.
    """
    found: dict[tuple[str, str], Named] = {}
    for edge, parts in answers.sealed.items():
        asked = set(question.subjects.get(edge, ()))
        for part, sealed in parts.items():
            data = opener.open(sealed, _context(request, question.study, edge, part))
            found |= {(edge, n.subject): n for n in _decode(data, edge) if n.subject in asked}
    return found


def by_edge(pairs: Iterable[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    """(subject, edge) to subjects by edge, each once and in order."""
    found: dict[str, set[str]] = {}
    for subject, edge in pairs:
        found.setdefault(edge, set()).add(subject)
    return {edge: tuple(sorted(subjects)) for edge, subjects in sorted(found.items())}


def _decode(data: bytes, edge: str) -> Sequence[Named]:
    try:
        return msgspec.msgpack.decode(data, type=list[Named])
    except MALFORMED as exc:
        raise TrustError(f"what {edge} answered cannot be read", remedy="bring hub and edges to the same version") from exc


def _context(request: str, study: str, edge: str, part: int) -> bytes:
    return msgspec.msgpack.encode(("wardround study names v1", request, study, edge, part))
