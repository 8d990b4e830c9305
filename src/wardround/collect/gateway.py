"""The edge's gate: a device's message becomes observations that are coded, checked, pseudonymous and consented.

The core does no network: `receive` works a message through, `commit` makes a group of them durable and says which receipts
may go out. Order of durability: the local store (idempotent), then spool and marks in one transaction, then the receipt; a
crash between any two makes the device send again, and the repeat is recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from msgspec.structs import replace

from wardround.clock import Clock
from wardround.collect.device_clock import ClockReading, DeviceClocks
from wardround.collect.devices.decoders import decode
from wardround.collect.devices.gatt import Source
from wardround.collect.devices.reading import Decoded, Reading, Taken, decode_readings, encode_readings
from wardround.collect.lanes import Priority
from wardround.collect.local_store import LocalStore
from wardround.collect.observing import EARLIEST_US, check_time, judged, observed
from wardround.collect.quarantine import NOT_A_NUMBER, REPLAY, WHOLE, Quarantine, SetAside
from wardround.collect.refused_parts import RefusedParts
from wardround.collect.registry import Device
from wardround.collect.signals import Signals
from wardround.collect.spool import AHEAD_MAX, Also, DeviceMark, Spool
from wardround.collect.streams import LATE_US, Streams, covered
from wardround.errors import DecodeError, StorageFull
from wardround.records import FROM_FILE, Consent, Observation, Quality, SubjectId, encode_observation

log = structlog.get_logger(__name__)
FIRST_MAX = 10_000  # lives of devices


class Devices(Protocol):
    """The devices an edge knows."""

    def get(self, device_id: str, /) -> Device | None:
        """A device by its name."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything of this life of the device up to `seq` is on the edge's disk."""

    device: str
    boot: str
    seq: int


@dataclass
class GatewayCounts:
    """Since this process started."""

    messages: int = 0
    observations: int = 0
    samples: int = 0
    duplicates: int = 0
    not_kept: int = 0  # consent `none`
    set_aside: int = 0
    refused: int = 0  # messages for which there was no room


@dataclass
class _Group:
    """What the next commit makes durable."""

    messages: int = 0
    kept: list[Observation] = field(default_factory=list)
    travelling: list[tuple[Priority, bytes]] = field(default_factory=list)
    marks: dict[tuple[str, str], DeviceMark] = field(default_factory=dict)
    plain: dict[tuple[str, str], int] = field(default_factory=dict)  # device, digest: how often it has come
    hours: dict[tuple[str, str, int], tuple[int, float]] = field(default_factory=dict)  # samples and seconds covered
    aside: list[SetAside] = field(default_factory=list)
    replayed: list[SetAside] = field(default_factory=list)
    alarms: list[_Message] = field(default_factory=list)  # messages that hold one
    digests: set[bytes] = field(default_factory=set)  # of the readings of files
    settle: list[Callable[[], None]] = field(default_factory=list)

    def count(self, observation: Observation, interval_s: float) -> None:
        """Towards the completeness of its hours."""
        for hour_us, samples, seconds in covered(observation, interval_s):
            key = (observation.subject, observation.code, hour_us)
            before = self.hours.get(key, (0, 0.0))
            self.hours[key] = (before[0] + samples, before[1] + seconds)

    def __bool__(self) -> bool:
        return bool(self.kept or self.marks or self.plain or self.aside or self.replayed or self.settle)


@dataclass(frozen=True, slots=True)
class _Message:
    """One message's own part of a group."""

    device: str
    boot: str
    seq: int
    digest: str  # of a plain device's
    kept: tuple[Observation, ...]
    travelling: tuple[tuple[Priority, bytes], ...]


class Gateway:
    """One edge's gate. Not safe to use from several threads at once: one consumer calls it, `replay` and `use` too."""

    def __init__(
        self,
        *,
        edge: str,
        registry: Devices,
        signals: Signals,
        consent: Callable[[str, str], tuple[Consent, int]],
        pseudonym: Callable[[str], SubjectId],
        spool: Spool,
        local_store: LocalStore,
        quarantine: Quarantine,
        clock: Clock,
        simulated: bool,
        keeps: Callable[[str], bool] = lambda _subject: True,
        on_kept: Callable[[Sequence[Observation]], None] = lambda _observations: None,
    ) -> None:
        """`keeps(subject)` says whether anything of a subject may be kept: of one with `none` no payload is set aside.

        `on_kept` gets what is on the disk now, whatever consent says of travelling, in the consumer's thread.
        """
        self._edge, self._registry, self._signals = edge, registry, signals
        self._consent, self._pseudonym = consent, pseudonym
        self._keeps, self._on_kept = keeps, on_kept
        self._spool, self._local, self._quarantine = spool, local_store, quarantine
        self._clock = clock
        self._base_flags = Quality.SIMULATED if simulated else Quality.NONE
        self._group = _Group()
        self._first: dict[tuple[str, str], tuple[DeviceMark, int, set[int]]] = {}  # of lives of devices, in a restored edge
        self._clocks = DeviceClocks(spool.clocks())
        self._streams = Streams()
        self.counts = GatewayCounts()

    @property
    def pending(self) -> int:
        """Observations that wait for `commit`."""
        return len(self._group.kept)

    def receive(self, device: str, boot: str, seq: int, payload: bytes, *, repeated: bool = False) -> None:
        """Work one message through. `seq` 0 is a plain device: its messages are told apart by their bytes.

        The same bytes again are the same message where the sender says so (`repeated`, MQTT's DUP) or where every reading in
        them has a time of its own; else a device has measured the same value twice.

        Nothing is durable before `commit`. A message that cannot be read is set aside with its reason, and receipted like any
        other: the device need not send it again.
        """
        self.counts.messages += 1
        now_us = self._clock.now_us()
        group = self._group
        if seq == 0:
            digest = _digest(payload)
            before = group.plain.get((device, digest)) or self._spool.plain_count(device, digest)
            if before and (repeated or self._is_timed(device, payload)):
                self._repeated(device)
                return
            group.plain[device, digest] = before + 1
            boot = f"plain-{digest}" + (f"-{before}" if before else "")
        else:
            mark, late = self._going_on(self._mark(device, boot), seq)
            if not late and mark.has(seq):
                self._repeated(device)
                group.marks[device, boot] = mark  # so that the receipt is given again
                return
            if seq > mark.contiguous + AHEAD_MAX:
                return  # too far ahead to remember: no receipt, the device sends it again after the earlier ones
            group.marks[device, boot] = mark if late else mark.with_seq(seq)
        kept, travelling = len(group.kept), len(group.travelling)
        group.messages += 1
        self._work(device, boot, seq, payload, now_us)
        if any(priority is Priority.ALARM for priority, _ in group.travelling[travelling:]):
            own = (tuple(group.kept[kept:]), tuple(group.travelling[travelling:]))
            group.alarms.append(_Message(device, boot, seq, "" if seq else _digest(payload), *own))

    def _repeated(self, device: str) -> None:
        self.counts.duplicates += 1
        self._streams.repeated(device)

    def has(self, device: str, boot: str, seq: int, payload: bytes) -> bool:
        """Whether a message is durable."""
        return self._spool.mark(device, boot).has(seq) if seq else self._spool.plain_count(device, _digest(payload)) > 0

    def commit(self) -> list[Receipt]:
        """Make what was received durable; the receipts that may go out now.

        Where there is no room for all of it, the messages that hold a device's alarm are kept alone, in what is reserved
        for them; the others are forgotten here, and their devices send them again.

        Raises:
            StorageFull: nothing was kept.
        """
        group, self._group = self._group, _Group()
        if not group:
            return []
        try:
            return self._keep(group)
        except StorageFull:
            self.counts.refused += group.messages - len(group.alarms)
            if not group.alarms:
                raise
            receipts = [r for message in group.alarms for r in self._keep(self._alone(message))]
            log.warning("no room but for alarms", alarms=len(group.alarms), refused=group.messages - len(group.alarms))
            return receipts

    def _keep(self, group: _Group) -> list[Receipt]:
        """A group, on the disk when this returns."""
        self._quarantine.put(group.aside)
        self._local.keep(group.kept)
        marks = group.marks.values()
        self._spool.commit(
            group.travelling,
            list(marks),
            Also(group.plain, group.hours, self._clocks.moved(), group.digests),
            now_us=self._clock.now_us(),
        )
        for row in group.replayed:
            self._quarantine.settle(row)
        for settle in group.settle:
            settle()
        self.counts.observations += len(group.kept)
        self.counts.samples += sum(o.n for o in group.kept)
        self._on_kept(group.kept)
        return [Receipt(m.device, m.boot, m.contiguous) for m in marks if m.contiguous and not m.boot.startswith(REPLAY)]

    def _alone(self, message: _Message) -> _Group:
        """A group of one message, all of it as urgent as the alarm in it: its parts are kept or refused together."""
        travelling = [(Priority.ALARM, data) for _, data in message.travelling]
        group = _Group(1, list(message.kept), travelling)
        if message.seq:
            mark = self._spool.mark(message.device, message.boot)
            group.marks[message.device, message.boot] = mark.with_seq(message.seq)
        for observation in message.kept:
            known = self._registry.get(observation.device)
            group.count(observation, self._signals.interval_s(observation.code, known.every_s if known else 0.0))
        if not message.seq:
            key = (message.device, message.digest)
            group.plain[key] = self._spool.plain_count(*key) + 1
        return group

    def _is_timed(self, device: str, payload: bytes) -> bool:
        """Whether every reading of a message has a time of its own, whenever it is read."""
        known = self._registry.get(device)
        if known is None:
            return True
        times = []
        for now_us in (EARLIEST_US, EARLIEST_US + 1_000_000):
            try:
                decoded = decode(known.format, payload, Source(now_us, known.zone(), known.user))
            except DecodeError:
                return True  # it was set aside once, which is enough
            times.append([reading.t_us for reading in decoded.readings])
        return times[0] == times[1]

    def _clock_of(self, device: str, readings: Sequence[Reading], now_us: int) -> ClockReading | None:
        """What a message shows of its device's clock; None when none of its times can be."""
        newest = None
        for reading in readings:
            if reading.t_error_us:
                continue
            try:
                last_us = check_time(reading, now_us)
            except DecodeError:
                continue
            newest = last_us if newest is None else max(newest, last_us)
        return None if newest is None else self._clocks.observe(device, newest, now_us)

    def _going_on(self, mark: DeviceMark, seq: int) -> tuple[DeviceMark, bool]:
        """The mark by which a message is judged, and whether it is one that the mark has and that is new all the same.

        In an edge that was restored from a backup a device goes on after its newest receipt, beyond what is known here: what is
        between was receipted by the edge that is lost. A device sends its oldest message first when it connects, so what comes
        first tells where it goes on; one from between that comes later (over HTTPS they may) is kept, once.
        """
        if not self._spool.restored:
            return mark, False
        key = (mark.device, mark.boot)
        if key not in self._first:
            if len(self._first) >= FIRST_MAX:
                self._first.pop(next(iter(self._first)))
            self._first[key] = (mark, seq, set())
            if seq > mark.contiguous + 1:
                log.warning("messages went with the edge that is lost", device=mark.device, count=seq - 1 - mark.contiguous)
        known, first, came_late = self._first[key]
        late = seq < first and not known.has(seq) and seq not in came_late
        came_late |= {seq} if late else set()
        return mark.going_on_at(first), late

    def _mark(self, device: str, boot: str) -> DeviceMark:
        return self._group.marks.get((device, boot)) or self._spool.mark(device, boot)

    def replay(self, row: SetAside) -> None:
        """Work a part that was set aside through again; a part that went through once never does a second time.

        The next `commit` makes it durable and takes the row away; what is refused again stays set aside.
        """
        mark = self._mark(row.device, row.mark)
        if not mark.has(1) and self._work(row.device, row.boot, row.seq, row.payload, row.t_us, only=row.part, live=False):
            self._group.marks[row.device, row.mark] = mark.with_seq(1)
        self._group.replayed.append(row)

    def take(self, device: str, readings: Sequence[Reading], settle: Callable[[Taken], None]) -> None:
        """Work readings of a file through. What was kept before, by its content, adds nothing.

        `settle` is called with what became of them, once the next `commit` has made it durable.

        Raises:
            DecodeError: "unknown-device".
        """
        known = self._known(device)
        now_us = self._clock.now_us()
        taken = Taken()
        for reading in readings:
            digest = _content_digest(device, reading)
            if digest in self._group.digests or self._spool.has_taken(digest):
                taken += Taken(repeated=1)
                continue
            boot = FROM_FILE + digest.hex()
            try:
                choice = self._keep_reading(reading, known, boot, 1, 0, now_us, None)
            except DecodeError as error:
                self.counts.set_aside += 1
                payload = encode_readings([reading])
                keeps = self._keeps(self._pseudonym(known.patient))
                words, kept = (str(error), payload) if keeps else (error.reason, b"")
                self._group.aside.append(SetAside(now_us, device, boot, 1, 0, error.reason, words, kept, size=len(payload)))
                taken += Taken(set_aside=1)
                continue
            if choice is Consent.NONE:
                taken += Taken(not_kept=1)
                continue
            self._group.digests.add(digest)
            taken += Taken(kept=1)
        self._group.settle.append(lambda: settle(taken))

    def use(self, signals: Signals) -> None:
        """Take another code table from the next message on."""
        self._signals = signals

    def _work(
        self, device: str, boot: str, seq: int, payload: bytes, now_us: int, *, only: int = WHOLE, live: bool = True
    ) -> bool:
        """Observations of a message, or of one part of it, for the next commit; whether that part is dealt with."""
        parts = RefusedParts(now_us, device, boot, seq, payload)
        dealt_with = self._work_through(parts, only=only, live=live)
        self.counts.set_aside += len(parts.refused)
        self._group.aside += parts.rows()
        return dealt_with

    def _work_through(self, parts: RefusedParts, *, only: int, live: bool) -> bool:
        device, boot, payload, now_us = parts.device, parts.boot, parts.payload, parts.t_us
        try:
            known = self._known(device)
        except DecodeError as error:
            parts.add(error, only)
            return False
        parts.keeps = self._keeps(self._pseudonym(known.patient))
        from_file = boot.startswith(FROM_FILE)
        if from_file and self._spool.has_taken(digest := bytes.fromhex(boot.removeprefix(FROM_FILE))):
            return True  # imported again, since it was set aside
        try:
            if from_file:
                decoded = Decoded(tuple(decode_readings(payload)))
            else:
                decoded = decode(known.format, payload, Source(now_us, known.zone(), known.user))
        except DecodeError as error:
            parts.add(error, only)
            return False
        if only == WHOLE:
            for refused in decoded.refused:
                parts.add(refused, NOT_A_NUMBER)
        clock = self._clock_of(device, decoded.readings, now_us) if live and not from_file else None
        for index, reading in enumerate(decoded.readings):
            if only not in (WHOLE, index):
                continue
            try:
                self._keep_reading(reading, known, boot, parts.seq, index, now_us, clock)
            except DecodeError as error:
                parts.add(error, index)
                continue
            parts.taken = True
            if from_file:
                self._group.digests.add(digest)
        return parts.taken or only == WHOLE

    def _known(self, device: str) -> Device:
        """A device by its name.

        Raises:
            DecodeError: "unknown-device".
        """
        known = self._registry.get(device)
        if known is None:
            raise DecodeError("unknown-device", f"device {device!r} is not registered at this edge")
        return known

    def _keep_reading(
        self, reading: Reading, known: Device, boot: str, seq: int, index: int, now_us: int, clock: ClockReading | None
    ) -> Consent:
        """An observation of a reading for the next commit, as consent allows; what it allows.

        Raises:
            DecodeError: as _observe.
        """
        subject = self._pseudonym(known.patient)
        found = self._observe(reading, subject, known.device_id, now_us, clock, from_file=boot.startswith(FROM_FILE))
        if found is None:
            self.counts.not_kept += 1
            return Consent.NONE
        choice, alarm, observation = found
        observation = replace(observation, device_boot=boot, device_seq=seq, device_index=index)
        self._group.kept.append(observation)
        if not observation.imported:  # a recording says nothing of how completely a device reports
            self._group.count(observation, self._signals.interval_s(observation.code, known.every_s))
        if choice is Consent.RAW:
            self._group.travelling.append((Priority.of(observation, alarm=alarm), encode_observation(observation)))
        return choice

    def _observe(
        self, reading: Reading, subject: SubjectId, device: str, now_us: int, clock: ClockReading | None, *, from_file: bool
    ) -> tuple[Consent, bool, Observation] | None:
        """An observation with its consent, and whether it is an alarm; None where consent says not to keep it.

        Raises:
            DecodeError: an unknown code, a unit that does not convert, a time that cannot be.
        """
        signal, reading = self._signals.canonical(reading)
        check_time(reading, now_us, earliest_us=0 if from_file else EARLIEST_US)  # a recording may be old
        choice, version = self._consent(subject, signal.code)
        if choice is Consent.NONE:
            return None
        if clock is None or reading.t_error_us:  # a time that leaves hours open is not corrected by seconds
            clock = ClockReading(0, reading.t_error_us)
        flags = self._base_flags
        if not clock.synced:
            flags |= Quality.CLOCK_UNSYNCED
        observation = observed(
            reading,
            signal,
            subject=subject,
            device=device,
            edge=self._edge,
            clock=clock,
            now_us=now_us,
            consent_version=version,
        )
        if not from_file:
            flags |= self._streams.flags(observation, now_us)
        elif now_us - reading.t_us > LATE_US:
            flags |= Quality.LATE
        return choice, signal.alarm, judged(observation, reading, signal, flags)


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:24]


def _content_digest(device: str, reading: Reading) -> bytes:
    """Names the content of a reading of a file for ever: when, what and how much, not how well it was understood."""
    plain = replace(reading, also=(), t_error_us=0, validity=0, flags=0)
    return hashlib.sha256(device.encode() + b"\0" + encode_readings([plain])).digest()[:16]
