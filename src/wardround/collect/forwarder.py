"""The edge's side of forwarding, without a network: what to send next, and what a receipt means.

Alarms go first, then what is measured now, then what outages left, within the pace of the link.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from wardround.clock import Clock, SystemClock
from wardround.collect.inbox import Gap
from wardround.collect.intake import ForwardReceipt
from wardround.collect.lanes import Lane, Priority
from wardround.collect.pace import Pace, Stamp
from wardround.collect.spool import Spool
from wardround.errors import StorageFull
from wardround.malformed import MALFORMED
from wardround.records import Consent, head_of
from wardround.settings import LinkSettings
from wardround.trust.consent import ConsentRecord

log = structlog.get_logger(__name__)

BATCH_ROWS = 4_000  # one commit of the hub's disk is for all of them
BACKLOG_BATCHES = 4  # under way at most, of what an outage left
WINDOW_ROWS = 16_000  # of a lane, sent and not yet receipted
SETTLE_S = 1.0  # how often a full disk is asked again to forget what the hub has
BYTE_CAP, MISSING, CORRUPT, WITHDRAWN = "byte-cap", "missing", "corrupt", "withdrawn"  # why a sequence will never come


@dataclass(frozen=True, slots=True)
class Batch:
    """One request of the stream."""

    boot: str
    first_seq: int
    observations: tuple[bytes, ...] = ()
    gaps: tuple[Gap, ...] = ()
    consents: tuple[ConsentRecord, ...] = field(default=())
    wishes_taken: int = 0  # with consents: the newest wish of the hub that they have taken over


def may_leave(observation: bytes, choose: Callable[[str, str], tuple[Consent, int]]) -> bool:
    """Whether consent lets an encoded observation leave its edge now; what cannot be read stays."""
    try:
        head = head_of(observation)
    except MALFORMED:
        return False
    return choose(head.subject, head.code)[0] is Consent.RAW


class Forwarder:
    """One per edge; `reset` at every new connection, as what was in flight may be lost. Safe to use from several threads."""

    def __init__(
        self,
        spool: Spool,
        consents: Callable[[], tuple[int, Sequence[ConsentRecord]]],
        may_leave: Callable[[bytes], bool],
        *,
        wishes_taken: Callable[[], int] = lambda: 0,
        pace: Pace | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`consents()` is the register's generation and its records; they go before the data they cover.

        `may_leave(observation)` is asked of every row at the moment it is sent: what was spooled under a consent that has
        been withdrawn since is said to be missing, and stays here."""
        self._spool, self._consents, self._may_leave = spool, consents, may_leave
        self._wishes_taken = wishes_taken
        self._pace, self._clock = pace or Pace(LinkSettings()), clock or SystemClock()
        self._under_way: dict[tuple[str, int], Stamp] = {}  # by lane and last sequence
        self._lock = threading.RLock()
        self._sent: dict[str, int] = {}  # by lane
        self._owed: dict[str, int] = {}  # by lane: receipted, and not forgotten yet as the disk is full
        self._owed_asked_s = 0.0
        self._consents_sent = -1

    def reset(self) -> None:
        """Start again from what the hub has acknowledged; what an outage left no longer holds up what is new."""
        with self._lock:
            self._spool.park()
            self._sent.clear()
            self._under_way.clear()
            self._pace.connected()
            self._consents_sent = -1

    def next_batch(self) -> Batch | None:
        """What to send now; None when nothing waits, the windows are full, or the pace of the link says to wait."""
        with self._lock:
            self._settle()
            return self._next_batch()

    def _settle(self) -> None:
        """Forget what a full disk kept, if it now has room; the hub will not say it again."""
        now_s = self._clock.monotonic_s()
        if self._owed and now_s - self._owed_asked_s >= SETTLE_S:
            self._owed_asked_s = now_s
            for boot, seq in list(self._owed.items()):
                self._forget(boot, seq)

    def _next_batch(self) -> Batch | None:
        taken = self._wishes_taken()  # before the records, which then hold at least these
        generation, records = self._consents()
        consents = tuple(records) if generation != self._consents_sent else ()
        self._consents_sent = generation
        lanes = self._spool.lanes()
        if self._pace.ready_s(self._clock.now_us(), self._clock.monotonic_s()) > 0:
            lanes = [lane for lane in lanes if lane.priority is Priority.ALARM]  # they wait for nothing, and are paid for later
        for lane in lanes:
            batch = self._from(lane, consents)
            if batch is not None:
                size = sum(map(len, batch.observations))
                stamp = self._pace.sent(size, self._clock.now_us(), self._clock.monotonic_s())
                self._under_way[batch.boot, batch.first_seq + len(batch.observations) - 1] = stamp
                return replace(batch, wishes_taken=taken)
        return Batch(lanes[0].boot, self._sent_of(lanes[0]) + 1, (), (), consents, taken) if consents else None

    def receipted(self, receipt: ForwardReceipt) -> None:
        """Forget what the hub has."""
        with self._lock:
            done = [key for key in self._under_way if key[0] == receipt.boot and key[1] <= receipt.committed_seq]
            for key in done:
                stamp = self._under_way.pop(key)
                self._pace.receipted(stamp, self._clock.monotonic_s(), idle=not self._under_way)
            lane = next((lane for lane in self._spool.lanes() if lane.boot == receipt.boot), None)
            if lane is not None:
                self._forget(receipt.boot, min(receipt.committed_seq, lane.last))

    def _forget(self, boot: str, seq: int) -> None:
        seq = max(seq, self._owed.get(boot, 0))
        try:
            self._spool.acknowledge(boot, seq)
        except StorageFull as error:
            if boot not in self._owed:
                log.warning("what the hub has is forgotten later", reason=str(error))
            self._owed[boot], self._owed_asked_s = seq, self._clock.monotonic_s()
            return
        self._owed.pop(boot, None)
        left = {lane.boot for lane in self._spool.lanes()}
        self._sent = {boot: seq for boot, seq in self._sent.items() if boot in left}

    def _sent_of(self, lane: Lane) -> int:
        return max(self._sent.get(lane.boot, 0), lane.acknowledged)

    def _from(self, lane: Lane, consents: tuple[ConsentRecord, ...]) -> Batch | None:
        """The next batch of a lane; None when it has nothing to send, or its window is full."""
        sent = self._sent_of(lane)
        if sent >= lane.last or sent - lane.acknowledged >= WINDOW_ROWS:
            return None
        bytes_max = self._pace.live_bytes()
        if not lane.live and lane.priority is not Priority.ALARM:
            bytes_max = self._pace.backlog_bytes()
            if sum(stamp.size for stamp in self._under_way.values()) >= BACKLOG_BATCHES * bytes_max:
                return None  # what is measured now must not wait behind it
        gaps: list[Gap] = []
        observations: list[bytes] = []
        rows = self._spool.read_after(lane.boot, sent, rows_max=BATCH_ROWS, bytes_max=bytes_max)
        first = sent + 1
        for row in rows:
            expected = first + len(observations)
            if row.seq != expected:  # rows are gone
                if observations:
                    break
                gaps += _gone(expected, row.seq - 1, lane)
                first = row.seq
            why_not = self._why_not(row.data)
            if why_not:  # said, not sent
                if observations:
                    break
                gaps.append(Gap(row.seq, row.seq, why_not))
                first = row.seq + 1
                continue
            assert row.data is not None  # noqa: S101 - why_not says so
            observations.append(row.data)
        if not rows:  # the end of the lane is gone
            gaps += _gone(first, lane.last, lane)
            first = lane.last + 1
        self._sent[lane.boot] = first + len(observations) - 1
        return Batch(lane.boot, first, tuple(observations), tuple(gaps), consents)

    def _why_not(self, data: bytes | None) -> str:
        """Why a row may not be sent; empty when it may."""
        if data is None:
            return CORRUPT  # its checksum no longer fits
        return "" if self._may_leave(data) else WITHDRAWN


def _gone(first: int, last: int, lane: Lane) -> list[Gap]:
    """Why these sequences are not here: given up for the byte cap, or lost."""
    shed = [Gap(first, min(last, lane.shed), BYTE_CAP)] if first <= lane.shed else []
    return shed + ([Gap(max(first, lane.shed + 1), last, MISSING)] if last > lane.shed else [])
