"""The edge's durable queue towards the hub: what is receipted to a device is here until the hub has it.

SQLite, WAL, `synchronous=FULL`, one writer. Observations and the marks of which device messages are durable are one
transaction. Rows stand in lanes (lanes.py), each with consecutive sequences from 1 within its own `boot`; an acknowledged row
is deleted, its sequence never used again. At the byte cap or the disk reserve the spool refuses, and a device keeps what was
not receipted; or, where the settings say `shed`, the oldest waveforms are given up, and a gap says so. When others have filled
the disk to its last byte, a ballast file is given up so that receipts can still be noted and rows forgotten.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from wardround.collect import sealed_rows
from wardround.collect.lanes import Lane, Priority, in_order_of_sending, in_order_of_shedding, to_be_parked
from wardround.collect.storage import Storage
from wardround.collect.streams import HOUR_US, Hour
from wardround.errors import StorageFull, Unreadable
from wardround.malformed import MALFORMED
from wardround.records import decode_observation, head_of
from wardround.settings import SpoolSettings
from wardround.trust.at_rest import OVERHEAD, PLAIN, Place, Seal

LOOK_ROWS = 2_000
FORGET_ROWS = 200  # in one transaction, when the disk is full
AHEAD_MAX = 256  # messages of one device that may arrive before an earlier one
PLAIN_MAX = 20_000  # digests of plain devices' messages that are remembered
PARK_ROWS = 500  # a queue as long as that is left behind when a connection begins
PARKED_LANES_MAX = 16
SHED_SHARE = 64  # of the byte cap: so much goes at once, so that a full spool does not shed at every commit
SHED_ROWS = 500  # read at once
HOURS_KEPT = 24 * 14  # of completeness
_KEY = 1 << 40  # a row's key is its lane's number times this, and its sequence


@dataclass(frozen=True, slots=True)
class DeviceMark:
    """Which messages of one life of a device are durable: all up to `contiguous`, and those `ahead` of it."""

    device: str
    boot: str
    contiguous: int = 0
    ahead: frozenset[int] = field(default_factory=frozenset)

    def has(self, seq: int) -> bool:
        """Whether this message is durable already."""
        return seq <= self.contiguous or seq in self.ahead

    def with_seq(self, seq: int) -> DeviceMark:
        """The mark once `seq` is durable too."""
        ahead, contiguous = set(self.ahead) | {seq}, self.contiguous
        while contiguous + 1 in ahead:
            contiguous += 1
            ahead.discard(contiguous)
        return DeviceMark(self.device, self.boot, contiguous, frozenset(s for s in ahead if s > contiguous))

    def going_on_at(self, seq: int) -> DeviceMark:
        """The mark of a device that sends `seq` first, and none of the earlier ones any more."""
        if seq <= self.contiguous + 1:
            return self
        ahead = frozenset(s for s in self.ahead if s >= seq)
        return DeviceMark(self.device, self.boot, seq - 1, ahead)


class SpoolRow(NamedTuple):
    """One observation that waits; `data` is None where its bytes no longer match their checksum, or do not open."""

    seq: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """What waits, and what was given up for the byte cap since this spool was made."""

    observations: int
    bytes: int
    oldest_us: int  # when the oldest that waits was kept; 0: none waits
    dropped: int
    dropped_bytes: int
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Also:
    """What else a commit makes durable."""

    plain: Mapping[tuple[str, str], int]  # how often each message of plain devices has come, by device and digest
    hours: Mapping[tuple[str, str, int], tuple[int, float]]  # samples and seconds covered, by subject, code and hour
    clocks: Mapping[str, int]  # corrections of devices' clocks, microseconds
    digests: Collection[bytes] = ()  # of readings of files: by them the same content is recognised ever after


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was given up of one signal of one subject in one hour."""

    subject: str
    code: str
    hour_us: int
    rows: int
    samples: int
    bytes: int


_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (key INTEGER PRIMARY KEY, crc INTEGER NOT NULL, t_us INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS lanes (number INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL UNIQUE,
    priority INTEGER NOT NULL, live INTEGER NOT NULL, last INTEGER NOT NULL, acknowledged INTEGER NOT NULL,
    shed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS marks (device TEXT, boot TEXT, contiguous INTEGER NOT NULL, ahead TEXT NOT NULL,
    PRIMARY KEY (device, boot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plain (number INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL, digest TEXT NOT NULL,
    count INTEGER NOT NULL, UNIQUE (device, digest));
CREATE TABLE IF NOT EXISTS hours (subject TEXT, code TEXT, hour_us INTEGER, samples INTEGER NOT NULL, covered_s REAL NOT NULL,
    PRIMARY KEY (subject, code, hour_us)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clocks (device TEXT PRIMARY KEY, offset_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (subject TEXT, code TEXT, hour_us INTEGER, rows INTEGER NOT NULL, samples INTEGER NOT NULL,
    bytes INTEGER NOT NULL, PRIMARY KEY (subject, code, hour_us)) WITHOUT ROWID;
"""
_PLAIN = "INSERT OR REPLACE INTO plain (device, digest, count) VALUES (?, ?, ?)"
_HOURS = """
INSERT INTO hours VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    samples = samples + excluded.samples, covered_s = covered_s + excluded.covered_s
"""
_DROP = """
INSERT INTO dropped VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET
    rows = rows + 1, samples = samples + excluded.samples, bytes = bytes + excluded.bytes
"""
_FIRST_SCHEMA_TO_LANES = """
ALTER TABLE waiting RENAME TO waiting_before;
{schema}
INSERT INTO lanes (boot, priority, live, last, acknowledged, shed) SELECT b.value, 1, 0, l.value, a.value, 0
    FROM facts b, facts l, facts a WHERE b.key = 'boot' AND l.key = 'last_seq' AND a.key = 'acknowledged_seq';
INSERT INTO waiting SELECT {key} + seq, crc, 0, data FROM waiting_before;
DROP TABLE waiting_before;
DROP TABLE facts;
"""


class Spool(sealed_rows.SealableFile):
    """Safe to use from several threads; each call is one transaction."""

    def __init__(self, storage: Storage, settings: SpoolSettings, seal: Seal = PLAIN) -> None:
        self._storage, self._settings, self._seal = storage, settings, seal
        self._lock = threading.RLock()
        storage.ballast(settings.ballast_bytes)
        self._db = storage.connect("spool")
        self._create()
        self.restored = bool(self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'restored'").fetchone())  # from a backup
        self._lanes = _read_lanes(self._db)
        self._marks = {
            (device, boot): DeviceMark(device, boot, contiguous, frozenset(map(int, ahead.split(","))) if ahead else frozenset())
            for device, boot, contiguous, ahead in self._db.execute("SELECT device, boot, contiguous, ahead FROM marks")
        }
        self._pruned = 0
        with self._lock:
            self._forget_drained()

    def mark(self, device: str, boot: str) -> DeviceMark:
        """What is durable of one life of a device."""
        return self._marks.get((device, boot)) or DeviceMark(device, boot)

    def lanes(self) -> list[Lane]:
        """Every lane, in the order in which they are to be sent."""
        with self._lock:
            return in_order_of_sending(self._lanes.values())

    def plain_count(self, device: str, digest: str) -> int:
        """How often a message of a plain device is durable, as far as is remembered."""
        with self._lock:
            row = self._db.execute("SELECT count FROM plain WHERE device = ? AND digest = ?", (device, digest)).fetchone()
        return int(row[0]) if row else 0

    def has_taken(self, digest: bytes) -> bool:
        """Whether a reading of a file, by the digest of its content, was kept before."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM taken WHERE digest = ?", (digest,)).fetchone() is not None

    def commit(
        self,
        rows: Sequence[tuple[Priority, bytes]],
        marks: Sequence[DeviceMark],
        also: Also | None = None,
        *,
        now_us: int = 0,
    ) -> None:
        """Keep observations and move marks, in one transaction, on the disk when this returns.

        Alarms alone may use the alarm reserve beyond the byte cap, and the disk reserve.

        Raises:
            StorageFull: the byte cap, the disk reserve or the disk is reached; nothing of it was kept.
        """
        size = sum(len(data) for _, data in rows) + (OVERHEAD * len(rows) if self._seal.on else 0)
        with self._lock:
            self._make_room(size, alarms=bool(rows) and all(p is Priority.ALARM for p, _ in rows))
            try:
                self._db.execute("BEGIN IMMEDIATE")
                lanes = {p: self._live(p) for p in sorted({p for p, _ in rows})}
                keyed = []
                for priority, lane in lanes.items():
                    first_key = lane.number * _KEY + lane.last + 1
                    own = [self._sealed(key, data) for key, data in enumerate((d for p, d in rows if p is priority), first_key)]
                    keyed += [(key, zlib.crc32(data), now_us, data) for key, data in enumerate(own, first_key)]
                    lanes[priority] = replace(
                        lane,
                        last=lane.last + len(own),
                        rows=lane.rows + len(own),
                        bytes=lane.bytes + sum(map(len, own)),
                        oldest_us=lane.oldest_us if lane.rows else now_us,
                    )
                self._db.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?)", keyed)
                self._db.executemany("UPDATE lanes SET last = ? WHERE number = ?", [(v.last, v.number) for v in lanes.values()])
                self._db.executemany(
                    "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)",
                    [(m.device, m.boot, m.contiguous, ",".join(map(str, sorted(m.ahead)))) for m in marks],
                )
                if also is not None:
                    self._note(also, now_us)
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                self._roll_back()
                raise _full(f"the spool's disk refused {size} bytes: {exc}") from exc
            self._lanes.update({lane.boot: lane for lane in lanes.values()})
            self._marks.update({(m.device, m.boot): m for m in marks})

    def read_after(self, boot: str, seq: int, *, rows_max: int = 500, bytes_max: int = 1_000_000) -> list[SpoolRow]:
        """The next rows of a lane after `seq`, in order, up to either limit, but at least one if one waits.

        Raises:
            KeyRefused: one is sealed under a key that was never here.
        """
        rows: list[SpoolRow] = []
        size = 0
        shut: list[tuple[str, Unreadable, bytes]] = []
        with self._lock:
            if (lane := self._lanes.get(boot)) is None:
                return []
            first = lane.number * _KEY
            query = "SELECT key, crc, data FROM waiting WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
            for key, crc, data in self._db.execute(query, (first + seq, first + _KEY, rows_max)):
                size += len(data)
                if rows and size > bytes_max:
                    break
                opened = data if zlib.crc32(data) == crc else None
                if opened and self._seal.on:
                    try:
                        opened = self._seal.unseal(_place(key), data, plain=self._plain)
                    except Unreadable as error:  # an erased subject's is as good as emptied
                        opened = b"" if error.reason == sealed_rows.DESTROYED else None
                        shut.append((f"spool {key}", error, data))
                rows.append(SpoolRow(key - first, opened))
            if shut:
                sealed_rows.put_apart(self._db, shut)
        return rows

    def drop(self, unwanted: Callable[[bytes], bool]) -> int:
        """Empty the rows that may no longer leave; how many. The hub is told so when their turn comes.

        Raises:
            StorageFull: the disk has no room even for that; some of them may be empty.
        """
        dropped, after = 0, 0
        while True:
            with self._lock:
                query = "SELECT key, data FROM waiting WHERE key > ? AND length(data) > 0 ORDER BY key LIMIT ?"
                rows = self._db.execute(query, (after, LOOK_ROWS)).fetchall()
                gone = [(key,) for key, data in rows if self._is(unwanted, key, data)]
                if gone:
                    self._empty(gone)
            dropped += len(gone)
            if len(rows) < LOOK_ROWS:
                return dropped
            after = rows[-1][0]

    def _is(self, unwanted: Callable[[bytes], bool], key: int, data: bytes) -> bool:
        try:
            return unwanted(self._seal.unseal(_place(key), data, plain=self._plain))
        except Unreadable as error:
            return error.reason == sealed_rows.DESTROYED  # what is damaged is put apart when its turn comes

    def _sealed(self, key: int, data: bytes) -> bytes:
        return self._seal.seal(head_of(data).subject, _place(key), data) if self._seal.on and data else data

    def seal_some(self, after: int) -> int | None:
        """Seal some of the rows from before the home was encrypted, in one transaction; where to go on, None: nowhere.

        Raises:
            StorageFull: the disk has no room for that; they stay as they are.
        """
        with self._lock:
            query = "SELECT key, data FROM waiting WHERE key > ? ORDER BY key LIMIT ?"
            rows = self._db.execute(query, (after, sealed_rows.STEP_ROWS)).fetchall()
            if not rows:
                return None
            try:
                self._db.execute("BEGIN IMMEDIATE")
                for key, data in rows:
                    if sealed_rows.is_plain(data):
                        sealed = self._sealed_if_sound(key, data)
                        self._db.execute("UPDATE waiting SET crc = ?, data = ? WHERE key = ?", (zlib.crc32(sealed), sealed, key))
                        lane = next(lane for lane in self._lanes.values() if lane.number == key // _KEY)
                        self._lanes[lane.boot] = replace(lane, bytes=lane.bytes + len(sealed) - len(data))
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                self._roll_back()
                self._lanes = _read_lanes(self._db)
                raise _full(f"the spool's disk has no room to encrypt what waits: {exc}") from exc
            return int(rows[-1][0])

    def _sealed_if_sound(self, key: int, data: bytes) -> bytes:
        """A row that names no subject is sealed under nobody's key."""
        try:
            return self._sealed(key, data)
        except MALFORMED:
            return self._seal.seal("", _place(key), data)

    def _empty(self, keys: list[tuple[int]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("UPDATE waiting SET data = X'', crc = 0 WHERE key = ?", keys)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as exc:
            self._roll_back()
            raise _full(f"the spool's disk has no room to empty what may no longer leave: {exc}") from exc
        self._lanes = _read_lanes(self._db)

    def subjects(self) -> set[str]:
        """Whose observations wait."""
        found: set[str] = set()

        def note(data: bytes) -> bool:
            with contextlib.suppress(msgspec.MsgspecError):
                found.add(head_of(data).subject)
            return False

        self.drop(note)
        return found

    def forget(self, subject: str, devices: Collection[str]) -> int:
        """Empty the rows of a subject, and forget what is known of it and of its devices; how many rows."""
        count = self.drop(lambda data: subject.encode() in data)  # also where the rest of it cannot be read
        with self._lock:
            for table in ("dropped", "hours"):
                self._db.execute(f"DELETE FROM {table} WHERE subject = ?", (subject,))  # noqa: S608 - our own names
            for table in ("marks", "plain", "clocks"):
                self._db.executemany(f"DELETE FROM {table} WHERE device = ?", [(device,) for device in devices])  # noqa: S608
            self._marks = {key: mark for key, mark in self._marks.items() if key[0] not in devices}
        return count

    def acknowledge(self, boot: str, seq: int) -> None:
        """The hub has everything of a lane up to `seq`: forget it. An older acknowledgement changes nothing.

        Raises:
            StorageFull: the disk has no room even for that; what is not forgotten yet can be acknowledged again.
            ValueError: nothing with that sequence was ever here.
        """
        with self._lock:
            lane = self._lanes.get(boot)
            if lane is None or seq <= lane.acknowledged:
                return
            if seq > lane.last:
                raise ValueError(f"acknowledged {seq}, but the last sequence of {boot} is {lane.last}")
            try:
                self._forget(lane, seq)
            except sqlite3.OperationalError:  # even to delete takes room: give up the ballast, and go in small steps
                self._roll_back()
                self._storage.ballast(0)
                try:
                    while (lane := self._lanes[boot]).acknowledged < seq:
                        self._forget(lane, min(seq, lane.acknowledged + FORGET_ROWS))
                        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                except sqlite3.OperationalError as exc:  # whoever fills the disk was faster, and has the ballast's room too
                    self._roll_back()
                    raise _full(f"the spool's disk has no room to forget what the hub has: {exc}") from exc
            self._forget_drained()
            if not any(lane.rows for lane in self._lanes.values()):
                self._shrink()
                self._storage.ballast(self._settings.ballast_bytes)

    def park(self) -> None:
        """A connection begins: leave long queues behind in lanes of their own, so that new rows do not wait for them."""
        with self._lock:
            behind = to_be_parked(list(self._lanes.values()), rows_min=PARK_ROWS, lanes_max=PARKED_LANES_MAX)
            if not behind:
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("UPDATE lanes SET live = 0 WHERE number = ?", [(lane.number,) for lane in behind])
                for lane in behind:
                    self._db.execute(_NEW_LANE, (secrets.token_hex(8), lane.priority))
                self._db.execute("COMMIT")
            except sqlite3.OperationalError:  # the disk is full: they stay as they are, in one queue
                self._roll_back()
                return
            self._lanes = _read_lanes(self._db)

    def facts(self) -> SpoolFacts:
        """What waits, and what was given up."""
        with self._lock:
            return _facts(self._db, self.lanes())

    def dropped(self) -> list[Dropped]:
        """What was given up for the byte cap."""
        with self._lock:
            return [Dropped(*row) for row in self._db.execute("SELECT * FROM dropped ORDER BY subject, code, hour_us")]

    def clocks(self) -> dict[str, int]:
        """The corrections of devices' clocks that were in force, microseconds."""
        with self._lock:
            return dict(self._db.execute("SELECT device, offset_us FROM clocks"))

    def _note(self, also: Also, now_us: int) -> None:
        """Within the transaction of a commit."""
        self._db.executemany("INSERT OR IGNORE INTO taken VALUES (?)", [(digest,) for digest in also.digests])
        if also.plain:
            self._db.executemany(_PLAIN, [(device, digest, n) for (device, digest), n in also.plain.items()])
            self._db.execute("DELETE FROM plain WHERE number <= (SELECT max(number) FROM plain) - ?", (PLAIN_MAX,))
        if also.hours:
            self._db.executemany(_HOURS, [(*key, *found) for key, found in also.hours.items()])
            if now_us // HOUR_US != self._pruned:
                self._db.execute("DELETE FROM hours WHERE hour_us < ?", (now_us - HOURS_KEPT * HOUR_US,))
                self._db.execute("DELETE FROM dropped WHERE hour_us < ?", (now_us - HOURS_KEPT * HOUR_US,))
                self._pruned = now_us // HOUR_US
        if also.clocks:
            self._db.executemany("INSERT OR REPLACE INTO clocks VALUES (?, ?)", list(also.clocks.items()))

    def _create(self) -> None:
        """Tables and the live lanes; a spool of the first schema, which had one lane, is taken over."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(waiting)")}
        if "seq" in columns:
            self._db.executescript("BEGIN;" + _FIRST_SCHEMA_TO_LANES.format(schema=_SCHEMA, key=_KEY) + "COMMIT;")
        self._db.executescript(_SCHEMA + sealed_rows.SCHEMA)
        self._plain = not sealed_rows.is_noted(self._db)  # whether rows from before the home was encrypted may be here
        ends = "SELECT * FROM (SELECT key, data FROM waiting WHERE length(data) > 0 ORDER BY key {} LIMIT 1)"
        rows = self._db.execute(f"{ends.format('')} UNION {ends.format('DESC')}").fetchall()
        sealed_rows.check_first(self._seal, [(_place(key), data) for key, data in rows], "the spool")
        for priority in Priority:
            missing = "SELECT ?, ?, 1, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM lanes WHERE live AND priority = ?)"
            self._db.execute(_INTO_LANES + missing, (secrets.token_hex(8), priority, priority))

    def _live(self, priority: Priority) -> Lane:
        return next(lane for lane in self._lanes.values() if lane.live and lane.priority is priority)

    def _forget(self, lane: Lane, seq: int) -> None:
        """The rows of a lane up to `seq`, in one transaction."""
        first = lane.number * _KEY
        self._db.execute("BEGIN IMMEDIATE")
        count, size = self._db.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0) FROM waiting WHERE key > ? AND key <= ?", (first, first + seq)
        ).fetchone()
        self._db.execute("DELETE FROM waiting WHERE key > ? AND key <= ?", (first, first + seq))
        self._db.execute("UPDATE lanes SET acknowledged = ? WHERE number = ?", (seq, lane.number))
        self._db.execute("COMMIT")
        oldest_us = _oldest_us(self._db, lane.number)
        self._lanes[lane.boot] = replace(
            lane, acknowledged=seq, rows=lane.rows - count, bytes=lane.bytes - size, oldest_us=oldest_us
        )

    def _forget_drained(self) -> None:
        """Lanes that outages left, and that the hub has all of."""
        for lane in [lane for lane in self._lanes.values() if not lane.live and lane.drained]:
            try:
                self._db.execute("DELETE FROM lanes WHERE number = ?", (lane.number,))
            except sqlite3.OperationalError:  # the disk is full: the next time will do
                return
            del self._lanes[lane.boot]

    def _make_room(self, size: int, *, alarms: bool) -> None:
        """See that `size` bytes fit, shedding where the settings allow it.

        Raises:
            StorageFull: they do not.
        """
        excess, why = self._excess(size, alarms=alarms)
        if excess > 0 and self._settings.when_full == "shed":
            self._shed(max(excess, self._settings.bytes_max // SHED_SHARE))
            excess, why = self._excess(size, alarms=alarms)
        if excess > 0:
            raise _full(why)

    def _excess(self, size: int, *, alarms: bool) -> tuple[int, str]:
        """How many bytes too many these are, and by which limit."""
        waiting = sum(lane.bytes for lane in self._lanes.values())
        cap = self._settings.bytes_max + (self._settings.alarm_reserve_bytes if alarms else 0)
        reserve = 0 if alarms else self._settings.disk_reserve_bytes
        over_cap = waiting + size - cap
        if over_cap > 0:
            return over_cap, f"the spool holds {waiting} bytes, its cap is {cap}"
        short = reserve + size - self._storage.free_bytes()
        if short > 0:  # pages that rows have left are room too
            pages, page = (self._db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("freelist_count", "page_size"))
            short -= pages * page
        return short, f"less than {reserve} bytes are free on the spool's disk"

    def _shed(self, size: int) -> None:
        """Give up the oldest waveforms, then the oldest vital signs, until `size` bytes are free, and keep count of what went."""
        for lane in in_order_of_shedding(self._lanes.values()):
            while size > 0 and (lane := self._lanes[lane.boot]).rows:
                size -= self._shed_some(lane, size)

    def _shed_some(self, lane: Lane, size: int) -> int:
        """One transaction; how many bytes it freed."""
        first, freed, upto, count = lane.number * _KEY, 0, 0, 0
        gone: list[tuple[str, str, int, int, int]] = []
        query = "SELECT key, data FROM waiting WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
        for key, data in self._db.execute(query, (first, first + _KEY, SHED_ROWS)):
            freed, upto, count = freed + len(data), key - first, count + 1
            gone.append(self._described(key, data))
            if freed >= size:
                break
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_DROP, gone)
            self._db.execute("DELETE FROM waiting WHERE key > ? AND key <= ?", (first, first + upto))
            self._db.execute("UPDATE lanes SET shed = ? WHERE number = ?", (upto, lane.number))
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as exc:
            self._roll_back()
            raise _full(f"the spool's disk refused to give up rows: {exc}") from exc
        self._lanes[lane.boot] = replace(
            lane, shed=upto, rows=lane.rows - count, bytes=lane.bytes - freed, oldest_us=_oldest_us(self._db, lane.number)
        )
        return freed

    def _described(self, key: int, data: bytes) -> tuple[str, str, int, int, int]:
        """Subject, code, hour, samples and size of a row that is given up."""
        try:
            o = decode_observation(self._seal.unseal(_place(key), data, plain=self._plain))
        except (*MALFORMED, Unreadable):
            return "", "", 0, 0, len(data)
        return o.subject, o.code, o.t0_us // HOUR_US * HOUR_US, o.n, len(data)

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _shrink(self) -> None:
        """Give the disk back after an outage: an empty file that has grown is written anew."""
        pages, page = (self._db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("page_count", "page_size"))
        if pages * page > self._settings.file_bytes_max:
            with contextlib.suppress(sqlite3.OperationalError):  # no room to write it anew: the next time will do
                self._db.execute("VACUUM")


_INTO_LANES = "INSERT INTO lanes (boot, priority, live, last, acknowledged, shed) "
_NEW_LANE = _INTO_LANES + "VALUES (?, ?, 1, 0, 0, 0)"


def read_facts(storage: Storage) -> SpoolFacts:
    """What waits in a spool that another process may be using; an empty one where there is none yet."""
    db = storage.connect("spool")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lanes'").fetchone():
            return SpoolFacts(0, 0, 0, 0, 0, ())
        return _facts(db, in_order_of_sending(_read_lanes(db).values()))
    finally:
        db.close()


def read_hours(storage: Storage) -> list[Hour]:
    """How complete the hours are, in a spool that another process may be using."""
    query = """
        SELECT h.subject, h.code, h.hour_us, h.samples, h.covered_s, coalesce(d.samples, 0) FROM hours h
        LEFT JOIN dropped d USING (subject, code, hour_us) ORDER BY 1, 2, 3
    """
    db = storage.connect("spool")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'hours'").fetchone():
            return []
        return [Hour(s, c, t, n, covered, dropped=d) for s, c, t, n, covered, d in db.execute(query)]
    finally:
        db.close()


def _facts(db: sqlite3.Connection, lanes: Iterable[Lane]) -> SpoolFacts:
    dropped, dropped_bytes = db.execute("SELECT coalesce(sum(rows), 0), coalesce(sum(bytes), 0) FROM dropped").fetchone()
    known = tuple(lanes)
    oldest_us = min((lane.oldest_us for lane in known if lane.rows), default=0)
    return SpoolFacts(
        sum(lane.rows for lane in known), sum(lane.bytes for lane in known), oldest_us, int(dropped), int(dropped_bytes), known
    )


def _read_lanes(db: sqlite3.Connection) -> dict[str, Lane]:
    found = {}
    for number, boot, priority, live, last, acknowledged, shed in db.execute(
        "SELECT number, boot, priority, live, last, acknowledged, shed FROM lanes"
    ).fetchall():
        first = number * _KEY
        rows, size = db.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0) FROM waiting WHERE key > ? AND key < ?", (first, first + _KEY)
        ).fetchone()
        found[boot] = Lane(
            number, boot, Priority(priority), bool(live), last, acknowledged, shed, rows, size, _oldest_us(db, number)
        )
    return found


def _oldest_us(db: sqlite3.Connection, number: int) -> int:
    query = "SELECT t_us FROM waiting WHERE key > ? AND key < ? ORDER BY key LIMIT 1"
    row = db.execute(query, (number * _KEY, (number + 1) * _KEY)).fetchone()
    return int(row[0]) if row else 0


def _place(key: int) -> Place:
    return ("spool", key)


def _full(message: str) -> StorageFull:
    return StorageFull(message, remedy="reconnect the hub or free the disk; devices keep what was not receipted, nothing is lost")
