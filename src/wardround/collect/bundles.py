"""FHIR Bundles that bring observations to the hub itself, from a program that has a token: entry by entry, under consent, once.

The hub knows patients by pseudonym alone: an Observation names one (`Patient/PSEUDONYM`, or the identifier's system
`urn:wardround:subject`), and a Patient with anything of a person in it is refused. What every edge that knows the patient lets
travel is taken; the rest is refused, entry by entry. An Observation is taken whole or not at all. It is known again by its first
identifier, else by its content, for as long as the hub lives: a Bundle that is sent again changes nothing, and says so.

A `batch` takes what it can; of a `transaction` nothing is kept when one entry is refused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from wardround.clock import Clock
from wardround.collect.device_clock import ClockReading
from wardround.collect.devices import fhir
from wardround.collect.devices.fhir_export import resource_id
from wardround.collect.devices.reading import Reading, encode_readings
from wardround.collect.inbox import Inbox, Named
from wardround.collect.observing import check_time, judged, observed
from wardround.collect.signals import Signals
from wardround.collect.streams import LATE_US
from wardround.errors import DecodeError, StorageFull
from wardround.records import FROM_FILE, Consent, Observation, Quality, SubjectId, encode_observation

T = TypeVar("T")
SOURCE = "hub.fhir"  # stands where an edge's name stands; no edge can have one with a dot
DEVICE = "fhir"  # of an observation that names none
ENTRIES_MAX, SUBJECTS_MAX, TRIES = 1_000, 100, 10
SUBJECT_SYSTEM, DEVICE_SYSTEM = "urn:wardround:subject", "urn:wardround:device"
OF_NOBODY = {"resourceType", "id", "identifier", "meta", "active"}  # what a Patient may say: nothing of a person
_SUBJECT, _DEVICE = re.compile(r"[a-z2-7-]{1,100}"), re.compile(r"[A-Za-z0-9._-]{1,64}")
_ISSUES = {
    "unknown-code": "code-invalid",
    "unit-not-ucum": "value",
    "unit-does-not-convert": "value",
    "malformed-fhir": "structure",
    "no-consent": "forbidden",
    "another-content": "conflict",
    "resource-type": "not-supported",
    "method": "not-supported",
    "names": "business-rule",
    "too-large": "too-long",
}
_STATUSES = {"no-consent": 403, "another-content": 409, "malformed-fhir": 400, "resource-type": 404, "method": 405}


class Identifier(msgspec.Struct, frozen=True):
    """Identifier."""

    system: str = ""
    value: str = ""


class Referred(fhir.Reference, frozen=True):
    """Reference, by address or by identifier."""

    identifier: Identifier = Identifier()


class SentObservation(fhir.Observation, frozen=True, rename="camel"):
    """An Observation, with what says whose it is and how it is known again."""

    subject: Referred = Referred()
    device: Referred = Referred()
    identifier: tuple[Identifier, ...] = ()


class _Named(msgspec.Struct, frozen=True, rename="camel"):
    resource_type: str = ""
    id: str = ""
    identifier: tuple[Identifier, ...] = ()


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    method: str = ""
    url: str = ""
    if_none_exist: str = ""


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    full_url: str = ""
    resource: msgspec.Raw = msgspec.Raw()
    request: _Request = _Request()


class _Bundle(msgspec.Struct, frozen=True, rename="camel"):
    resource_type: str = ""
    type: str = ""
    implicit_rules: str = ""
    entry: tuple[_Entry, ...] = ()


_bundle, _any = msgspec.json.Decoder(_Bundle), msgspec.json.Decoder(_Named)
_sent = msgspec.json.Decoder(SentObservation)
_fields = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an entry. `code` is FHIR's for an issue; `location` is what was made, or was there before."""

    status: int
    location: str = ""
    code: str = ""
    words: str = ""

    @property
    def taken(self) -> bool:
        """Whether it is here now."""
        return self.status < 300


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a whole Bundle. `kept` is false for a transaction of which nothing was."""

    kind: str
    outcomes: tuple[Outcome, ...]
    kept: bool


@dataclass(slots=True)
class _Draft:
    """An entry that may be taken."""

    place: int
    subject: str
    key: bytes
    content: bytes
    observations: list[Observation]
    note: str = ""


@dataclass(slots=True)
class _Work:
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    drafts: list[_Draft] = field(default_factory=list)


class BundleIntake:
    """One hub's. Safe to use from several threads: one Bundle at a time is kept."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        signals: Signals,
        consent: Callable[[str, str], tuple[Consent, int]],
        clock: Clock,
        record: Callable[[str, str, int], None],
        on_committed: Callable[[Sequence[Observation]], None],
        simulated: bool = False,
    ) -> None:
        """`consent(subject, code)` is the strictest of all edges; `record(who, subject, count)` an entry of the audit log, before
        anything is kept; `on_committed` feeds the alert path and must return at once."""
        self._inbox, self._signals, self._consent, self._clock = inbox, signals, consent, clock
        self._record, self._on_committed = record, on_committed
        self._flags = Quality.SIMULATED if simulated else Quality.NONE
        self._boot = f"fhir-{inbox.inbox_id}"
        self._lock = threading.Lock()

    def take(self, body: bytes, who: str) -> Answer:
        """Take a Bundle: what is said to be taken is durable when this returns.

        Raises:
            DecodeError: it is no Bundle that could be taken.
            StorageFull: the hub's disk is full; nothing was taken.
            WardroundError: it could not be recorded; nothing was taken.
        """
        bundle = _parse(_bundle, body, "the body")
        if bundle.resource_type != "Bundle" or bundle.type not in ("batch", "transaction"):
            raise DecodeError("bundle-type", "the body is no Bundle of type batch or transaction")
        if bundle.implicit_rules:
            raise DecodeError("must-understand", "the Bundle has implicitRules")
        if len(bundle.entry) > ENTRIES_MAX:
            raise DecodeError("too-large", f"the Bundle has {len(bundle.entry)} entries; {ENTRIES_MAX} at once are taken")
        with self._lock:
            for _ in range(TRIES):
                answer = self._once(bundle, who)
                if answer is not None:
                    return answer
        raise StorageFull("the inbox is written from elsewhere", remedy="one hub, one inbox")

    def _once(self, bundle: _Bundle, who: str) -> Answer | None:
        work, names = _Work(), dict(_names(bundle.entry))
        for place, entry in enumerate(bundle.entry):
            try:
                found = self._read(place, entry, names)
            except DecodeError as error:
                found = _refused(error)
            if isinstance(found, Outcome):
                work.outcomes[place] = found
            else:
                work.drafts.append(found)
        if len({draft.subject for draft in work.drafts}) > SUBJECTS_MAX:
            raise DecodeError("too-large", f"the Bundle speaks of more than {SUBJECTS_MAX} patients")
        after = self._inbox.watermark(SOURCE, self._boot)
        new, named = self._new(work, after)
        kept = bundle.type == "batch" or all(outcome.taken for outcome in work.outcomes.values())
        if kept and new:
            for subject in sorted({draft.subject for draft in new}):
                self._record(who, subject, sum(draft.subject == subject for draft in new))
            taken = [observation for draft in new for observation in draft.observations]
            rows, upto = [encode_observation(o) for o in taken], after + len(taken)
            subjects, now_us = [o.subject for o in taken], self._clock.now_us()
            if not self._inbox.put(
                SOURCE, self._boot, after + 1, rows, after=after, upto=upto, now_us=now_us, subjects=subjects, named=named
            ):
                return None
            self._on_committed(taken)
        return Answer(bundle.type, tuple(work.outcomes[place] for place in range(len(bundle.entry))), kept)

    def _new(self, work: _Work, seq: int) -> tuple[list[_Draft], list[Named]]:
        """What was not here before, with what it will be known by; every draft gets its outcome."""
        known = self._inbox.known(draft.key for draft in work.drafts)
        new: list[_Draft] = []
        named: list[Named] = []
        for draft in work.drafts:
            before = known.get(draft.key)
            if before is None:
                t0_us = draft.observations[0].t0_us
                own = Named(draft.key, self._inbox.digest(draft.subject), draft.content, t0_us, seq + 1)
                known[draft.key] = own
                named.append(own)
                new.append(draft)
                seq += len(draft.observations)
                work.outcomes[draft.place] = Outcome(201, self._location(own), "informational" * bool(draft.note), draft.note)
            elif before.content == draft.content:
                work.outcomes[draft.place] = Outcome(200, self._location(before), "informational", "it was here before")
            else:
                error = DecodeError("another-content", "an observation with this identifier is here, with another content")
                work.outcomes[draft.place] = _refused(error)
        return new, named

    def _location(self, named: Named) -> str:
        return f"Observation/{resource_id(named.t0_us, SOURCE, self._boot, named.seq)}"

    def _read(self, place: int, entry: _Entry, names: dict[str, str]) -> _Draft | Outcome:
        """What an entry asks for.

        Raises:
            DecodeError: it cannot be done, and why.
        """
        raw, asked = bytes(entry.resource), entry.request
        if not raw:
            raise DecodeError("method", "an entry brings a resource to create; nothing is read, changed or deleted by a Bundle")
        kind = _parse(_any, raw, "the resource").resource_type
        if kind == "Patient":
            return _of_patient(raw, asked)
        if kind == "Device":
            return Outcome(200, "", "informational", "a device is kept as the name of it on observations")
        if kind != "Observation":
            raise DecodeError("resource-type", f"a {kind[:40] or 'resource without a type'} is not kept here")
        if (asked.method, asked.url) != ("POST", "Observation"):
            raise DecodeError("method", "an Observation is created (POST Observation), and not changed afterwards")
        sent = _parse(_sent, raw, "the Observation")
        known_by = next((i for i in sent.identifier if i.value), Identifier())
        if asked.if_none_exist not in ("", f"identifier={known_by.system}|{known_by.value}"):
            raise DecodeError("method", "ifNoneExist is taken as identifier=SYSTEM|VALUE of the Observation's first identifier")
        subject = _named(sent.subject, SUBJECT_SYSTEM, "Patient/", names)
        if not _SUBJECT.fullmatch(subject):
            raise DecodeError(
                "no-subject", f"the subject is no pseudonym: Patient/PSEUDONYM, or an identifier of {SUBJECT_SYSTEM}"
            )
        device = _named(sent.device, DEVICE_SYSTEM, "Device/", names).rpartition("/")[2]
        device = device if _DEVICE.fullmatch(device) else DEVICE
        decoded = fhir.of_observation(sent, "Observation")
        absent = [error for error in decoded.refused if error.reason == "data-absent"]
        for error in decoded.refused:
            if error not in absent or not decoded.readings:
                raise error
        digest = self._inbox.digest
        content = digest(subject, device, encode_readings([_bare(reading) for reading in decoded.readings]).hex())
        key = digest(subject, "is", known_by.system, known_by.value) if known_by.value else digest("content", content.hex())
        observations = [self._observed(reading, subject, device) for reading in decoded.readings]
        boot = f"{FROM_FILE}fhir-{key.hex()}"
        observations = [
            msgspec.structs.replace(o, device_boot=boot, device_seq=1, device_index=index) for index, o in enumerate(observations)
        ]
        note = f"without {len(absent)} parts that say why they have no value" if absent else ""
        return _Draft(place, subject, key, content, observations, note)

    def _observed(self, reading: Reading, subject: str, device: str) -> Observation:
        """A reading in the code table's terms, where consent lets it be here.

        Raises:
            DecodeError: "no-consent", or as `Signals.canonical` and `check_time`.
        """
        signal, reading = self._signals.canonical(reading)
        now_us = self._clock.now_us()
        check_time(reading, now_us, earliest_us=0)
        choice, version = self._consent(subject, signal.code)
        if choice is not Consent.RAW:
            raise DecodeError("no-consent", f"no consent is on file by which {signal.key} of this patient may be here")
        observation = observed(
            reading,
            signal,
            subject=SubjectId(subject),
            device=device,
            edge=SOURCE,
            clock=ClockReading(0, reading.t_error_us),
            now_us=now_us,
            consent_version=version,
        )
        late = Quality.LATE if now_us - reading.t_us > LATE_US else Quality.NONE
        return judged(observation, reading, signal, self._flags | late)


def _parse(decoder: msgspec.json.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise DecodeError("malformed-fhir", f"{what} is not FHIR JSON: {str(exc)[:160]}") from exc


def _refused(error: DecodeError) -> Outcome:
    return Outcome(_STATUSES.get(error.reason, 422), "", _ISSUES.get(error.reason, "processing"), str(error))


def _bare(reading: Reading) -> Reading:
    return msgspec.structs.replace(reading, also=(), validity=0, flags=0)


def _of_patient(raw: bytes, asked: _Request) -> Outcome:
    """A Patient says how the Bundle calls a pseudonym, and nothing else: nothing of it is kept."""
    if asked.method not in ("POST", "PUT"):
        raise DecodeError("method", "a Patient may travel along (POST or PUT); nothing of it is kept")
    fields: dict[str, Any] = _parse(_fields, raw, "the Patient")
    if fields.keys() - OF_NOBODY:
        raise DecodeError("names", "the hub knows patients by pseudonym: send an identifier of " + SUBJECT_SYSTEM + " alone")
    return Outcome(200, "", "informational", "a patient is known by pseudonym: nothing of it is kept")


def _names(entries: Sequence[_Entry]) -> Iterator[tuple[str, str]]:
    """What the Bundle's own addresses stand for: pseudonyms, and names of devices."""
    for entry in entries:
        try:
            found = _any.decode(bytes(entry.resource)) if entry.full_url and bytes(entry.resource) else _Named()
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue  # it gets its own outcome
        system = {"Patient": SUBJECT_SYSTEM, "Device": DEVICE_SYSTEM}.get(found.resource_type)
        if system is not None:
            known = next((i.value for i in found.identifier if i.system == system), found.id)
            yield entry.full_url, known


def _named(referred: Referred, system: str, start: str, names: dict[str, str]) -> str:
    """The name that a reference gives; empty for none."""
    if referred.identifier.system == system:
        return referred.identifier.value
    return names.get(referred.reference) or (
        referred.reference.removeprefix(start) if referred.reference.startswith(start) else ""
    )
