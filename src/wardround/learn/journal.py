"""The hub's memory of a study: what is on disk before it is said.

SQLite (`synchronous=FULL`) for facts, files for tensors. An accepted update is a synced file and a committed row before its
receipt goes out; a round is committed when its model is a synced file and one transaction has moved the study to it. Opening
the journal after a kill gives exactly the state of the last transaction.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from wardround.records import EdgeId, ModelDigest

PAST_NORMS = 20
COUNT_MAX = 2**63 - 1  # SQLite's largest
REFUSALS_MAX, REFUSALS_EDGE_MAX = 10_000, 1_000  # the newest are kept, and no edge takes the place of all others
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted (round INTEGER, edge TEXT, sha256 TEXT NOT NULL, examples INTEGER NOT NULL,
    norm REAL NOT NULL, metrics TEXT NOT NULL, based_on INTEGER NOT NULL, PRIMARY KEY (round, edge)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS accepted_once ON accepted (edge, based_on);
CREATE TABLE IF NOT EXISTS signatures (edge TEXT, based_on INTEGER, announcement BLOB NOT NULL, signature BLOB NOT NULL,
    serial TEXT NOT NULL, t_us INTEGER NOT NULL, PRIMARY KEY (edge, based_on)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS row_counts (round INTEGER, edge TEXT, counts BLOB NOT NULL, PRIMARY KEY (round, edge)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS certificates (serial TEXT PRIMARY KEY, pem BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judged (round INTEGER, edge TEXT, reason TEXT NOT NULL, detail TEXT NOT NULL, score REAL NOT NULL,
    threshold REAL NOT NULL, PRIMARY KEY (round, edge)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (number INTEGER PRIMARY KEY, t_us INTEGER NOT NULL, round INTEGER NOT NULL,
    edge TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, sha256 TEXT NOT NULL,
    examples INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS committed (round INTEGER PRIMARY KEY, model TEXT NOT NULL, base TEXT NOT NULL, t_us INTEGER NOT NULL,
    seconds REAL NOT NULL, folded TEXT NOT NULL, aside TEXT NOT NULL, staleness TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replays (edge TEXT, based_on INTEGER, from_round INTEGER NOT NULL, into_round INTEGER NOT NULL,
    examples INTEGER NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL, request TEXT NOT NULL, t_us INTEGER NOT NULL,
    PRIMARY KEY (edge, based_on)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine (edge TEXT PRIMARY KEY, until_round INTEGER NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollbacks (round INTEGER PRIMARY KEY, to_round INTEGER NOT NULL, to_model TEXT NOT NULL,
    request TEXT NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS screen (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), state BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class OpenRound:
    """The round in progress. `base` is empty for the statistics round."""

    number: int
    attempt: int
    task: str
    base: str
    participants: tuple[EdgeId, ...]
    quorum: int
    wanted: int
    opened_us: int
    owed: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # edge: round and base of the older order it works on


@dataclass(frozen=True, slots=True)
class Accepted:
    """An update that is on disk."""

    edge: EdgeId
    sha256: str
    examples: int
    norm: float
    metrics: Mapping[str, float]
    based_on: int  # the round of its order: the one it counts in, or an earlier one in a buffered study


@dataclass(frozen=True, slots=True)
class SignedAnnouncement:
    """An edge's name under the update it sent: the announcement it signed (announcements.py), its signature (DER), the
    certificate (PEM) of the key and that certificate's serial, and when the hub took it."""

    announcement: bytes
    signature: bytes
    serial: str
    certificate: bytes
    t_us: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of an accepted update when its round was committed. `reason` is a constant, empty when it is in the fold;
    score and threshold are the screen's, 0 where it said nothing."""

    reason: str
    detail: str = ""
    score: float = 0.0
    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An order that brought no update: `verdict` is refused, late, failed or sat-out; `examples` as claimed."""

    t_us: int
    round_number: int
    edge: EdgeId
    verdict: str
    reason: str
    detail: str
    sha256: str = ""
    examples: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """An update that was set aside in `from_round` and counts, late, in `into_round`; -1 while it waits for that round's end."""

    edge: EdgeId
    based_on: int
    from_round: int
    into_round: int
    examples: int
    who: str
    reason: str
    request: str
    t_us: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Everything the journal has of an accepted update."""

    round_number: int
    update: Accepted
    signed: SignedAnnouncement | None
    judged: Judged | None
    replay: Replay | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A round that is over: the model it made, and who is in it."""

    number: int
    model: ModelDigest
    base: str
    t_us: int
    seconds: float
    folded: Mapping[str, int]
    aside: tuple[str, ...]
    staleness: Mapping[str, int] = field(default_factory=dict)  # of those folded whose base was not this round's
    replayed: tuple[Replay, ...] = ()  # folded as well, in this order after the others: they had been set aside before


@dataclass(frozen=True, slots=True)
class Rollback:
    """A committed row that no updates made: the study went back to an older round's model."""

    number: int  # of its committed row
    to_round: int
    to_model: str
    request: str  # what it was asked with; empty: not by a request
    who: str
    reason: str


NOBODY: Mapping[EdgeId, Judged] = MappingProxyType({})


class Journal:
    """One study's journal. Safe to use from several threads."""

    def __init__(self, connect: Callable[[str], sqlite3.Connection]) -> None:
        self._lock = threading.RLock()
        self._db = connect("journal")
        self._db.executescript(_SCHEMA)

    # -- the round in progress

    def open_round(self, round_: OpenRound) -> None:
        """A round begins, or begins again as another attempt."""
        value = json.dumps([getattr(round_, f) for f in OpenRound.__slots__])
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('open', ?)", (value,))

    def current(self) -> OpenRound | None:
        """The round in progress."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE key = 'open'").fetchone()
        if row is None:
            return None
        fields = dict(zip(OpenRound.__slots__, json.loads(row[0]), strict=True))
        owed = {edge: (number, base) for edge, (number, base) in fields["owed"].items()}
        return OpenRound(**{**fields, "participants": tuple(EdgeId(e) for e in fields["participants"]), "owed": owed})

    def owed(self) -> dict[str, tuple[int, str]]:
        """Edges that were at work when the last round ended, with the round and the base of their order."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE key = 'owed'").fetchone()
        return {edge: (number, base) for edge, (number, base) in json.loads(row[0]).items()} if row else {}

    def note(self, key: str, value: str) -> None:
        """Keep a fact of the study under a name of its own."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def noted(self, key: str) -> str:
        """A fact of the study; empty when there is none."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def accept(
        self,
        round_number: int,
        updates: Sequence[tuple[Accepted, SignedAnnouncement]],
        rows: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Record updates whose files are synced, in the round they count in. The first one of an edge for an order stands.

        `rows`: counts of their rows by edge (row_counts.py), kept until the next round is committed.
        """
        with self._transaction():
            for update, signed in updates:
                metrics = json.dumps(dict(update.metrics))
                row = (round_number, update.edge, update.sha256, update.examples, update.norm, metrics, update.based_on)
                name = (update.edge, update.based_on, signed.announcement, signed.signature, signed.serial, signed.t_us)
                self._db.execute("INSERT OR IGNORE INTO accepted VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                self._db.execute("INSERT OR IGNORE INTO signatures VALUES (?, ?, ?, ?, ?, ?)", name)
                self._db.execute("INSERT OR IGNORE INTO certificates VALUES (?, ?)", (signed.serial, signed.certificate))
                if counts := rows.get(update.edge):
                    self._db.execute("INSERT OR IGNORE INTO row_counts VALUES (?, ?, ?)", (round_number, update.edge, counts))

    def forget_accepted(self, round_number: int) -> None:
        """Masked updates of an attempt that came to nothing: nobody can read them any more."""
        with self._transaction():
            query = "DELETE FROM signatures WHERE (edge, based_on) IN (SELECT edge, based_on FROM accepted WHERE round = ?)"
            self._db.execute(query, (round_number,))
            self._db.execute("DELETE FROM accepted WHERE round = ?", (round_number,))

    def accepted(self, round_number: int) -> dict[EdgeId, Accepted]:
        """The updates of a round, by edge."""
        query = "SELECT edge, sha256, examples, norm, metrics, based_on FROM accepted WHERE round = ? ORDER BY edge"
        with self._lock:
            rows = self._db.execute(query, (round_number,)).fetchall()
        return {EdgeId(e): Accepted(EdgeId(e), sha, n, norm, json.loads(m), based) for e, sha, n, norm, m, based in rows}

    def said(self, round_number: int) -> dict[str, tuple[int, bytes]]:
        """When each update of a round was taken, and the counts of rows that came with it; by edge."""
        query = """SELECT a.edge, s.t_us, c.counts FROM accepted a
            JOIN signatures s ON s.edge = a.edge AND s.based_on = a.based_on
            LEFT JOIN row_counts c ON c.round = a.round AND c.edge = a.edge WHERE a.round = ?"""
        with self._lock:
            return {edge: (t_us, counts or b"") for edge, t_us, counts in self._db.execute(query, (round_number,))}

    def has(self, edge: EdgeId, based_on: int) -> bool:
        """Whether an update of this edge for its order of that round is accepted, in whichever round it counts."""
        with self._lock:
            return bool(self._db.execute("SELECT 1 FROM accepted WHERE edge = ? AND based_on = ?", (edge, based_on)).fetchone())

    def kept(self, round_number: int | None = None, edge: str = "", limit: int = -1) -> list[Kept]:
        """Accepted updates, newest round first: of one round, of one edge, at most `limit`."""
        query = """SELECT a.round, a.edge, a.sha256, a.examples, a.norm, a.metrics, a.based_on,
                s.announcement, s.signature, s.serial, c.pem, s.t_us, j.reason, j.detail, j.score, j.threshold,
                r.edge, r.based_on, r.from_round, r.into_round, r.examples, r.who, r.reason, r.request, r.t_us
            FROM accepted a LEFT JOIN signatures s ON s.edge = a.edge AND s.based_on = a.based_on
            LEFT JOIN certificates c USING (serial) LEFT JOIN judged j ON j.round = a.round AND j.edge = a.edge
            LEFT JOIN replays r ON r.edge = a.edge AND r.based_on = a.based_on
            WHERE (?1 IS NULL OR a.round = ?1) AND (?2 = '' OR a.edge = ?2) ORDER BY a.round DESC, a.edge LIMIT ?3"""
        with self._lock:
            rows = self._db.execute(query, (round_number, edge, limit)).fetchall()
        return [
            Kept(
                row[0],
                Accepted(EdgeId(row[1]), row[2], row[3], row[4], json.loads(row[5]), row[6]),
                SignedAnnouncement(*row[7:12]) if row[7] is not None and row[10] is not None else None,
                Judged(*row[12:16]) if row[12] is not None else None,
                Replay(*row[16:25]) if row[16] is not None else None,
            )
            for row in rows
        ]

    def asides(self, since: int) -> list[tuple[int, EdgeId]]:
        """Round and edge of every update that was set aside from round `since` on and could be replayed, the newest first."""
        query = """SELECT round, edge FROM judged WHERE round >= ? AND reason NOT IN ('', 'rolled-back')
            ORDER BY round DESC, edge"""
        with self._lock:
            return [(n, EdgeId(e)) for n, e in self._db.execute(query, (since,))]

    def replay(self, replay: Replay) -> bool:
        """Let an update that was set aside count in the round that ends next; False when it has been replayed before."""
        row = tuple(getattr(replay, name) for name in Replay.__slots__)
        with self._lock:
            query = "INSERT OR IGNORE INTO replays VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            return self._db.execute(query, row).rowcount > 0

    def replays(self, *, waiting: bool = False) -> list[Replay]:
        """Every replay, in order; or those that wait for a round's end."""
        query = "SELECT * FROM replays WHERE NOT ?1 OR into_round < 0 ORDER BY into_round, from_round, edge"
        with self._lock:
            return [Replay(*row) for row in self._db.execute(query, (waiting,))]

    def refuse(self, refusal: Refusal) -> None:
        """Record an order that brought no update; of these the newest are kept."""
        row = [getattr(refusal, name) for name in Refusal.__slots__]
        row[-1] = min(refusal.examples, COUNT_MAX)  # what is claimed may be any number
        drop = "DELETE FROM refusals WHERE number <= (SELECT number FROM refusals {} ORDER BY number DESC LIMIT 1 OFFSET ?) {}"
        with self._transaction():
            self._db.execute("INSERT INTO refusals VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._db.execute(drop.format("WHERE edge = ?", "AND edge = ?"), (refusal.edge, REFUSALS_EDGE_MAX, refusal.edge))
            self._db.execute(drop.format("", ""), (REFUSALS_MAX,))

    def refusals(self, round_number: int | None = None, edge: str = "", limit: int = -1) -> list[Refusal]:
        """Orders that brought no update, the newest first: of one round, of one edge, at most `limit`."""
        query = """SELECT t_us, round, edge, verdict, reason, detail, sha256, examples FROM refusals
            WHERE (?1 IS NULL OR round = ?1) AND (?2 = '' OR edge = ?2) ORDER BY number DESC LIMIT ?3"""
        with self._lock:
            return [Refusal(*row) for row in self._db.execute(query, (round_number, edge, limit))]

    def experiences(self, since: int) -> list[tuple[int, str, str]]:
        """Round, edge and verdict of what edges answered in rounds that are over, from round `since` on, and of every refusal.

        What was set aside only because its edge was in quarantine or on trial, or by a rollback, is left out.
        """
        query = """SELECT a.round, a.edge, CASE WHEN COALESCE(j.reason, '') = '' OR EXISTS
                (SELECT 1 FROM replays r WHERE r.edge = a.edge AND r.based_on = a.based_on) THEN 'accepted' ELSE 'aside' END
            FROM accepted a JOIN committed c ON c.round = a.round LEFT JOIN judged j ON j.round = a.round AND j.edge = a.edge
            WHERE a.round >= ?1 AND COALESCE(j.reason, '') NOT IN ('quarantined', 'rolled-back', 'on-trial')
            UNION SELECT round, edge, verdict FROM refusals WHERE round >= ?1"""
        with self._lock:
            return list(self._db.execute(query, (since,)))

    def fleet(self) -> int:
        """Edges that have ever had an update accepted."""
        with self._lock:
            return int(self._db.execute("SELECT COUNT(DISTINCT edge) FROM accepted").fetchone()[0])

    # -- what is over

    def commit_round(
        self,
        done: Committed,
        screen_state: bytes,
        owed: Mapping[str, tuple[int, str]] | None = None,
        rollback: Rollback | None = None,
        judged: Mapping[EdgeId, Judged] = NOBODY,
    ) -> None:
        """The round is over: its result, what became of each update, the screen's history, who is still at work, and the end
        of the open round, in one.

        With `rollback` it has ended without a fold, and the study goes back.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO committed VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    done.number,
                    done.model,
                    done.base,
                    done.t_us,
                    done.seconds,
                    json.dumps(dict(done.folded)),
                    json.dumps(done.aside),
                    json.dumps(dict(done.staleness)),
                ),
            )
            if rollback is not None:
                values = [getattr(rollback, name) for name in Rollback.__slots__]
                self._db.execute("INSERT INTO rollbacks VALUES (?, ?, ?, ?, ?, ?)", values)
                self._db.execute("DELETE FROM replays WHERE into_round < 0")  # their bases are what the study goes back from
            into = [(done.number, r.edge, r.based_on) for r in done.replayed]
            self._db.executemany("UPDATE replays SET into_round = ? WHERE edge = ? AND based_on = ?", into)
            verdicts = [(done.number, e, j.reason, j.detail, j.score, j.threshold) for e, j in judged.items()]
            self._db.executemany("INSERT INTO judged VALUES (?, ?, ?, ?, ?, ?)", verdicts)
            self._db.execute("INSERT OR REPLACE INTO screen VALUES (1, ?)", (screen_state,))
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('owed', ?)", (json.dumps(dict(owed or {})),))
            self._db.execute("DELETE FROM facts WHERE key = 'open'")
            self._db.execute("DELETE FROM row_counts WHERE round < ?", (done.number,))

    def committed(self) -> list[Committed]:
        """Every round that is over, in order."""
        return self._committed("ORDER BY round")

    def last(self) -> Committed | None:
        """The newest round that is over; asked at every tick, so it does not read the others."""
        return next(iter(self._committed("ORDER BY round DESC LIMIT 1")), None)

    def committed_at(self, number: int) -> list[Committed]:
        """The round of this number, if it is over."""
        return self._committed("WHERE round = ?", number)

    def rollbacks(self) -> list[Rollback]:
        """Every time the study went back, in order."""
        query = "SELECT round, to_round, to_model, request, who, reason FROM rollbacks ORDER BY round"
        with self._lock:
            return [Rollback(*row) for row in self._db.execute(query)]

    def _committed(self, order: str, *values: int) -> list[Committed]:
        query = f"SELECT round, model, base, t_us, seconds, folded, aside, staleness FROM committed {order}"  # noqa: S608 - our own words
        with self._lock:
            rows = self._db.execute(query, values).fetchall()
            late: dict[int, list[Replay]] = {}
            for replay in self.replays():
                late.setdefault(replay.into_round, []).append(replay)
        return [
            Committed(
                n,
                ModelDigest(m),
                b,
                t,
                s,
                json.loads(folded),
                tuple(json.loads(aside)),
                json.loads(stale),
                tuple(late.get(n, ())),
            )
            for n, m, b, t, s, folded, aside, stale in rows
        ]

    # -- each edge's own past

    def registered(self, edge: EdgeId) -> int | None:
        """The examples of its newest accepted update."""
        query = "SELECT examples FROM accepted WHERE edge = ? ORDER BY round DESC LIMIT 1"
        with self._lock:
            row = self._db.execute(query, (edge,)).fetchone()
        return int(row[0]) if row else None

    def weigh(self, round_number: int, most: int) -> list[EdgeId]:
        """Let no update of a round count for more than so many examples; the edges that claimed more."""
        with self._transaction():
            query = "SELECT edge FROM accepted WHERE round = ? AND examples > ? ORDER BY edge"
            found = [EdgeId(e) for (e,) in self._db.execute(query, (round_number, most))]
            self._db.execute("UPDATE accepted SET examples = ? WHERE round = ? AND examples > ?", (most, round_number, most))
        return found

    def past_norms(self, edge: EdgeId, before: int) -> list[float]:
        """The norms of its newest accepted updates of train rounds."""
        query = "SELECT norm FROM accepted WHERE edge = ? AND round > 0 AND round < ? ORDER BY round DESC LIMIT ?"
        with self._lock:
            return [float(n) for (n,) in self._db.execute(query, (edge, before, PAST_NORMS))]

    def quarantine(self, edge: EdgeId, until_round: int, reason: str) -> None:
        """Set an edge's updates aside up to and including a round."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", (edge, until_round, reason))

    def release(self, edge: EdgeId) -> bool:
        """Let an edge count again; False when it was not set aside."""
        with self._lock:
            return self._db.execute("DELETE FROM quarantine WHERE edge = ?", (edge,)).rowcount > 0

    def quarantined(self, round_number: int) -> dict[EdgeId, str]:
        """Who is set aside in a round, and why."""
        query = "SELECT edge, reason FROM quarantine WHERE until_round >= ?"
        with self._lock:
            return {EdgeId(e): reason for e, reason in self._db.execute(query, (round_number,))}

    def set_aside(self) -> list[tuple[str, int, str]]:
        """Every edge that was set aside and not released: the last round for which it is, and why."""
        with self._lock:
            return list(self._db.execute("SELECT edge, until_round, reason FROM quarantine ORDER BY edge"))

    def keep_screen(self, state: bytes) -> None:
        """The screen's history, between two commits."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO screen VALUES (1, ?)", (state,))

    def screen_state(self) -> bytes:
        """The screen's history as of the newest commit; empty at the start."""
        with self._lock:
            row = self._db.execute("SELECT state FROM screen").fetchone()
        return bytes(row[0]) if row else b""

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it is on disk, or nothing."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the database; what is not committed is gone."""
        with self._lock:
            self._db.close()


def update_name(round_number: int, edge: str) -> str:
    """The file of an accepted update."""
    return f"updates/{round_number}/{edge}.safetensors"


def partial_name(round_number: int, edge: str, sha256: str) -> str:
    """The file of an upload in progress."""
    return f"partial/{round_number}/{edge}-{sha256[:16]}"


def model_name(digest: str) -> str:
    """The file of a model."""
    return f"models/{digest}.safetensors"


def memory_name(model: str) -> str:
    """The file of what the strategy remembers beside a model."""
    return f"memory/{model}.safetensors"
