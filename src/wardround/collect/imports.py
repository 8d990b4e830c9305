"""What the command line hands to an edge's gate from files: a durable, bounded queue, worked through once each.

One process writes (`wardround edge import`), one works (the running edge, or the command itself where none runs). A batch is
taken away only after the gate has made its readings durable; the gate knows a reading by its content, so that a batch worked
twice adds nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import astuple, dataclass
from functools import partial

from wardround.collect import sealed_rows
from wardround.collect.devices.reading import Reading, Taken, decode_readings, encode_readings
from wardround.collect.gateway import Gateway
from wardround.collect.storage import Storage
from wardround.errors import DecodeError, Unreadable
from wardround.trust.at_rest import PLAIN, Place, Seal

BATCHES_MAX = 64  # in the queue
BATCH_READINGS, BATCH_BYTES = 100, 500_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY AUTOINCREMENT, ticket TEXT NOT NULL, device TEXT NOT NULL,
    readings BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (ticket TEXT PRIMARY KEY, kept INTEGER NOT NULL, repeated INTEGER NOT NULL,
    not_kept INTEGER NOT NULL, set_aside INTEGER NOT NULL) WITHOUT ROWID;
"""
OUTCOMES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings of one device, of the file that `ticket` stands for."""

    number: int
    ticket: str
    device: str
    readings: list[Reading]


class Imports(sealed_rows.SealableFile):
    """Safe to use from several threads, and from several processes."""

    def __init__(self, storage: Storage, seal: Seal = PLAIN, owner: Callable[[str], str] = lambda _device: "") -> None:
        """`owner(device)` is the subject under whose key its readings are sealed."""
        self._lock, self._seal, self._owner = threading.Lock(), seal, owner
        self._db = storage.connect("imports")
        self._db.executescript(_SCHEMA + sealed_rows.SCHEMA)
        self._plain = not sealed_rows.is_noted(self._db)  # whether batches from before the home was encrypted may be here

    def count(self) -> int:
        """How many batches wait."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM batches").fetchone()[0])

    def put(self, ticket: str, device: str, readings: Sequence[Reading]) -> bool:
        """Queue a batch, on the disk when this returns; False where the queue is full."""
        with self._lock:
            added = self._db.execute(
                "INSERT INTO batches (ticket, device, readings) SELECT ?, ?, ? WHERE (SELECT count(*) FROM batches) < ?",
                (ticket, device, self._sealed(ticket, device, encode_readings(readings)), BATCHES_MAX),
            )
            return added.rowcount == 1

    def waiting(self, limit: int) -> list[Batch]:
        """The oldest batches."""
        with self._lock:
            query = "SELECT number, ticket, device, readings FROM batches ORDER BY number LIMIT ?"
            found = []
            for number, ticket, device, data in self._db.execute(query, (limit,)).fetchall():
                try:
                    opened = self._seal.unseal(_place(ticket, device), data, plain=self._plain)
                except Unreadable as error:
                    sealed_rows.put_apart(self._db, [(f"imports {number}", error, data)])
                    self._db.execute("DELETE FROM batches WHERE number = ?", (number,))
                    continue
                found.append(Batch(number, ticket, device, decode_readings(opened)))
            return found

    def left(self, ticket: str) -> int:
        """How many batches of a file wait."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM batches WHERE ticket = ?", (ticket,)).fetchone()[0])

    def settle(self, batch: Batch, taken: Taken) -> None:
        """A batch is durable in the gate: take it away, and add up what became of it."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("DELETE FROM batches WHERE number = ?", (batch.number,)).rowcount:
                self._db.execute(
                    "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET kept = kept + excluded.kept,"
                    " repeated = repeated + excluded.repeated, not_kept = not_kept + excluded.not_kept,"
                    " set_aside = set_aside + excluded.set_aside",
                    (batch.ticket, *astuple(taken)),
                )
            self._db.execute("COMMIT")

    def outcome(self, ticket: str) -> Taken:
        """What became of a file so far."""
        with self._lock:
            row = self._db.execute(
                "SELECT kept, repeated, not_kept, set_aside FROM outcomes WHERE ticket = ?", (ticket,)
            ).fetchone()
        return Taken(*row) if row else Taken()

    def forget(self, ticket: str) -> None:
        """The outcome of a file was read; those that nobody read go, the oldest first."""
        with self._lock:
            self._db.execute("DELETE FROM outcomes WHERE ticket = ?", (ticket,))
            self._db.execute(
                "DELETE FROM outcomes WHERE ticket IN (SELECT ticket FROM outcomes ORDER BY ticket LIMIT"
                " max(0, (SELECT count(*) FROM outcomes) - ?))",
                (OUTCOMES_MAX,),
            )

    def forget_devices(self, devices: Collection[str]) -> int:
        """Remove what waits of these devices; how many batches."""
        with self._lock:
            return sum(self._db.execute("DELETE FROM batches WHERE device = ?", (device,)).rowcount for device in devices)

    def seal_some(self, after: int) -> int | None:
        """Seal some of the batches from before the home was encrypted; where to go on, None: nowhere."""
        with self._lock:
            query = "SELECT number, ticket, device, readings FROM batches WHERE number > ? ORDER BY number LIMIT ?"
            rows = self._db.execute(query, (after, BATCHES_MAX)).fetchall()
            for number, ticket, device, data in rows:
                if sealed_rows.is_plain(data):
                    sealed = self._sealed(ticket, device, data)
                    self._db.execute("UPDATE batches SET readings = ? WHERE number = ?", (sealed, number))
            return int(rows[-1][0]) if rows else None

    def _sealed(self, ticket: str, device: str, data: bytes) -> bytes:
        return self._seal.seal(self._owner(device), _place(ticket, device), data) if self._seal.on else data


def _place(ticket: str, device: str) -> Place:
    return ("imports", ticket, device)


def take_waiting(gateway: Gateway, imports: Imports, *, limit: int = 8, after: Callable[[], None] = lambda: None) -> int:
    """Hand the oldest batches to the gate; how many. They are taken away, and `after` is called, by its next `commit`."""
    batches = imports.waiting(limit)

    def settle(batch: Batch, taken: Taken) -> None:
        imports.settle(batch, taken)
        if batch is batches[-1]:
            after()

    for batch in batches:
        try:
            gateway.take(batch.device, batch.readings, partial(settle, batch))
        except DecodeError:  # the device was removed since: nobody's observations
            settle(batch, Taken(set_aside=len(batch.readings)))
    return len(batches)
