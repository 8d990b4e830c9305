"""Governance as the console shows it: consent, erasures, audit and exports of one hub, for who may see each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from wardround.clock import Clock
from wardround.console.governance_model import (
    PER_PAGE,
    AuditRow,
    ChainView,
    ErasureView,
    ExportView,
    GovernanceView,
    RegisterRow,
    SignalConsent,
    Step,
)
from wardround.errors import SettingsError, WardroundError
from wardround.records import Consent
from wardround.store import Store
from wardround.trust.audit import Entry, Head, subject_ref
from wardround.trust.audit_files import FOLDER, HEADS_STATE, KeptHead, verify_log
from wardround.trust.consent import ANY, ConsentRecord, ConsentRegister
from wardround.trust.erasures import Erasure, ErasureBook, Receipt
from wardround.trust.exports import ExportBook
from wardround.trust.roles import Act, check_act

log = structlog.get_logger(__name__)
CONSENT_S, CHAIN_S = 15.0, 60.0  # between two looks
SUBJECT_CHARS_MIN, REASON_MAX = 8, 300
AUDIT_SHOWN, EXPORTS_SHOWN, ERASURES_SHOWN = 12, 8, 8
TAIL_BYTES = 64_000
SIGNALS = (
    ("Heart rate", "loinc:8867-4"),
    ("Oxygen saturation", "loinc:59408-5"),
    ("Respiratory rate", "loinc:9279-1"),
    ("ECG, lead II", "mdc:131330"),
    ("Photoplethysmogram", "mdc:150452"),
    ("Acceleration", "wr:accel-x"),
    ("Steps", "loinc:55423-8"),
)
WORDS = {Consent.RAW: "raw", Consent.LOCAL: "local", Consent.NONE: "none"}


class Governance:
    """The governance of one hub. May be called from any thread."""

    def __init__(
        self,
        home: Path,
        *,
        consents: ConsentRegister,
        erasures: ErasureBook,
        exports: ExportBook,
        store: Store,
        clock: Clock,
        title: Callable[[str], str],
        role: Callable[[str], str],
        record: Callable[..., None],
    ) -> None:
        """`title(code)` is a signal's name; `role(who)` is asked at every look."""
        self._home, self._consents, self._erasures, self._exports = home, consents, erasures, exports
        self._store, self._clock, self._title, self._role, self._record = store, clock, title, role, record
        self._lock = threading.Lock()
        self._consent: tuple[tuple[SignalConsent, ...], tuple[RegisterRow, ...]] = ((), ())
        self._consent_s = self._chain_s = float("-inf")
        self._consent_of: tuple[int, tuple[str, ...]] | None = None
        self._chain: ChainView | None = None

    def view(self, who: str, *, find: str = "", page: int = 1, number: int | None = None) -> GovernanceView:
        """Everything that the screen shows.

        Args:
            find: subjects whose pseudonym begins so.
            page: of the register.
            number: the erasure that is shown whole; the newest otherwise.

        Raises:
            NotAllowed: their role does not cover it.
        """
        for act in (Act.AUDIT, Act.CONSENT, Act.ERASE, Act.EXPORT):
            check_act(who, self._role(who), act)
        self._look()
        signals, register = self._consent
        matching = [row for row in register if row.subject.startswith(find.lower())]
        page = min(max(1, page), max(1, -(-len(matching) // PER_PAGE)))
        edges = [e.name for e in self._store.edges() if e.revoked_us is None]
        asked = self._erasures.all()[::-1]
        chosen = next((e for e in asked if e.number == number), None) if number is not None else next(iter(asked), None)
        return GovernanceView(
            subjects=len(register),
            signals=signals,
            register=tuple(matching[(page - 1) * PER_PAGE : page * PER_PAGE]),
            page=page,
            matching=len(matching),
            erasures=tuple(self._erasure(e, edges) for e in asked[:ERASURES_SHOWN]),
            chosen=self._erasure(chosen, edges) if chosen is not None else None,
            audit=tuple(AuditRow(e.n, e.t_us, e.kind, e.what, e.who, e.facts) for e in newest_entries(self._home, AUDIT_SHOWN)),
            chain=self._chain,
            exports=tuple(
                ExportView(e.number, e.t_us, e.who, e.study, e.format, e.subjects)
                for e in self._exports.all()[: -EXPORTS_SHOWN - 1 : -1]
            ),
        )

    def erase(self, who: str, subject: str, again: str, reason: str) -> int:
        """Ask for an erasure, which the hub carries out by itself; its number.

        Raises:
            NotAllowed: their role does not cover it.
            SettingsError: it is no pseudonym that is known here, was not typed twice alike, or has no reason.
        """
        check_act(who, self._role(who), Act.ERASE)
        subject = subject.strip()
        if len(subject) < SUBJECT_CHARS_MIN or not self._consents.edges_of(subject):
            raise SettingsError("no such subject is known here", remedy="type the whole pseudonym, as the register has it")
        if again.strip() != subject:
            raise SettingsError("the two pseudonyms differ", remedy="type the same pseudonym into both fields")
        if not reason.strip():
            raise SettingsError("a reason is wanted", remedy="say who asked for it; it is kept")
        self._record("delete", "erasure asked for at the console", who, subject=subject_ref(subject))
        return self._erasures.ask(subject, who, reason.strip()[:REASON_MAX], self._clock.now_us())

    def audit_lines(self, who: str) -> Iterator[bytes]:
        """The whole log, line by line, as it is on the disk: what `wardround audit verify` reads.

        Raises:
            NotAllowed: their role does not cover it. WardroundError: it cannot be recorded.
        """
        check_act(who, self._role(who), Act.AUDIT)
        self._record("export", "audit log downloaded", who)
        return _lines(self._home / FOLDER / "audit.log")

    def receipt(self, who: str, number: int) -> dict[str, Any] | None:
        """An erasure with every receipt; None: there is none of this number.

        Raises:
            NotAllowed: their role does not cover it.
        """
        check_act(who, self._role(who), Act.ERASE)
        found = self._erasures.get(number)
        if found is None:
            return None
        answers = {edge: msgspec.to_builtins(receipt) for edge, receipt in self._erasures.answers(number).items()}
        facts = {"number": number, "asked_us": found.asked_us, "who": found.who, "reason": found.reason}
        return facts | {"hub": msgspec.to_builtins(found.receipt), "edges": answers}

    # -- parts

    def _look(self) -> None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s - self._consent_s >= CONSENT_S:
                self._consent_s = now_s
                self._take_consent()
            if now_s - self._chain_s >= CHAIN_S:
                self._chain_s = now_s
                self._chain = self._verify()

    def _take_consent(self) -> None:
        """Read again what has changed: ten thousand subjects cost a good part of a second."""
        made_of = (self._consents.generation, tuple(e.name for e in self._store.edges() if e.revoked_us is None))
        if made_of != self._consent_of:
            self._consent, self._consent_of = self._read_consent(), made_of

    def _read_consent(self) -> tuple[tuple[SignalConsent, ...], tuple[RegisterRow, ...]]:
        edges = {e.name for e in self._store.edges() if e.revoked_us is None}
        register, subjects = [], set()
        for subject, owners in self._consents.by_subject().items():
            for edge, choices in owners.items():
                if edge in edges:
                    subjects.add(subject)
                    register.append(RegisterRow(subject, edge, max(r.version for r in choices), self._says(choices)))
        counted = self._consents.tally(subjects, [code for _, code in SIGNALS])
        signals = [
            SignalConsent(title, counts[Consent.RAW], counts[Consent.LOCAL], counts[Consent.NONE])
            for (title, _), counts in zip(SIGNALS, counted, strict=True)
        ]
        return tuple(signals), tuple(sorted(register, key=lambda r: (-r.version, r.subject)))

    def _says(self, choices: Sequence[ConsentRecord]) -> str:
        """All raw; ECG local for training."""
        found = []
        for r in sorted(choices, key=lambda r: (r.code != ANY, r.purpose != ANY, r.code))[:4]:
            what = "all" if r.code == ANY else self._title(r.code)
            found.append(f"{what} {WORDS[r.choice]}" + ("" if r.purpose == ANY else f" for {r.purpose}"))
        return ", ".join(found) + (f" and {len(choices) - 4} more" if len(choices) > 4 else "")

    def _erasure(self, erasure: Erasure, edges: Sequence[str]) -> ErasureView:
        answers = self._erasures.answers(erasure.number)
        steps = [Step("Tombstone at intake", "consent is none from now on; new data are refused", "done", erasure.asked_us)]
        if erasure.receipt is None:
            steps.append(Step("hub", "waits for the job that runs to come to its end", "waiting"))
        else:
            steps.append(_step("hub: lake, inbox and records", erasure.receipt))
        places = sorted({*edges, *answers})
        steps += [
            _step(f"{edge}: spool and local store", answers[edge])
            if edge in answers
            else Step(f"{edge}: spool and local store", "is away; erases before anything else when it is back", "waiting")
            for edge in places
        ]
        if erasure.receipt is not None and erasure.receipt.models:
            models = erasure.receipt.models
            steps.append(
                Step("Models cannot forget", f"{len(models)} may have learnt from this subject; named in the receipt", "said")
            )
        if erasure.receipt is not None and erasure.receipt.exports:
            exports = erasure.receipt.exports
            steps.append(Step("Copies that left", f"{len(exports)} exports hold this subject; ask whoever has them", "said"))
        answered = (erasure.receipt is not None) + len(answers)
        return ErasureView(erasure.number, erasure.asked_us, erasure.who, erasure.reason, tuple(steps), 1 + len(places), answered)

    def _verify(self) -> ChainView | None:
        kept = msgspec.json.decode(self._store.load_state(HEADS_STATE) or b"{}", type=dict[str, KeptHead])
        anchors = [Head(h.entries, bytes.fromhex(h.hash)) for h in kept.values()]
        try:
            found = verify_log(self._home, anchors)
        except WardroundError as error:
            log.error("the audit log could not be verified", error=str(error))
            return None
        return ChainView(found.entries, self._clock.now_us(), len(anchors), found.head.hex(), found.wrong)


def newest_entries(home: Path, limit: int) -> list[Entry]:
    """The newest entries of a home's audit log, the newest first, out of its end alone."""
    path = home / FOLDER / "audit.log"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    found: list[Entry] = []
    for line in reversed(lines if size <= TAIL_BYTES else lines[1:]):
        try:
            entry = msgspec.json.decode(line.partition(b" ")[2], type=Entry)
        except msgspec.DecodeError:  # the end of a line that is being written
            continue
        if entry.what != "checkpoint":
            found.append(entry)
        if len(found) == limit:
            break
    return found


def _step(title: str, receipt: Receipt) -> Step:
    if not receipt.known:
        return Step(title, "has never heard of this subject, and takes nothing of it", "done", receipt.t_us)
    if not receipt.clean:
        return Step(title, f"still there: {', '.join(receipt.found[:3])}", "found", receipt.t_us)
    what = ", ".join(f"{count:,} {part}" for part, count in receipt.removed.items() if count) or "nothing"
    detail = f"{what} removed in {receipt.seconds:.1f} s; {receipt.files:,} files searched, nothing left"
    return Step(title, detail, "done", receipt.t_us)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
