"""The edge's side of forwarding, without a network: what to send next, and what a receipt means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wardround.collect.inbox import Gap
from wardround.collect.intake import ForwardReceipt
from wardround.collect.spool import Spool
from wardround.trust.consent import ConsentRecord

BATCH_ROWS = 500
BATCH_BYTES = 1_000_000
WINDOW_ROWS = 4_000  # sent and not yet receipted


@dataclass(frozen=True, slots=True)
class Batch:
    """One request of the stream."""

    boot: str
    first_seq: int
    observations: tuple[bytes, ...] = ()
    gaps: tuple[Gap, ...] = ()
    consents: tuple[ConsentRecord, ...] = field(default=())


class Forwarder:
    """One per edge; `reset` at every new connection, as what was in flight may be lost."""

    def __init__(self, spool: Spool, consents: Callable[[], tuple[int, Sequence[ConsentRecord]]]) -> None:
        """`consents()` is the register's generation and its records; they go before the data they cover."""
        self._spool, self._consents = spool, consents
        self._sent = spool.facts().acknowledged_seq
        self._consents_sent = -1

    def reset(self) -> None:
        """Start again from what the hub has acknowledged."""
        self._sent = self._spool.facts().acknowledged_seq
        self._consents_sent = -1

    def next_batch(self) -> Batch | None:
        """What to send now; None when nothing waits or the window is full."""
        generation, records = self._consents()
        consents = tuple(records) if generation != self._consents_sent else ()
        self._consents_sent = generation
        rows = []
        if self._sent - self._spool.facts().acknowledged_seq < WINDOW_ROWS:
            rows = self._spool.read_after(self._sent, rows_max=BATCH_ROWS, bytes_max=BATCH_BYTES)
        if not rows:
            return Batch(self._spool.boot, self._sent + 1, consents=consents) if consents else None
        first = rows[0].seq
        missing = [Gap(self._sent + 1, first - 1, "missing")] if first > self._sent + 1 else []
        observations: list[bytes] = []
        for row in rows:
            expected = first + len(observations)
            if row.seq != expected:  # rows are gone from the middle of the spool
                if observations:
                    break
                missing.append(Gap(expected, row.seq - 1, "missing"))
                first = row.seq
            if row.data is None:  # its checksum no longer fits: said, not sent
                if observations:
                    break
                missing.append(Gap(row.seq, row.seq, "corrupt"))
                first = row.seq + 1
                continue
            observations.append(row.data)
        self._sent = first + len(observations) - 1
        return Batch(self._spool.boot, first, tuple(observations), tuple(missing), consents)

    def receipted(self, receipt: ForwardReceipt) -> None:
        """Forget what the hub has."""
        if receipt.boot == self._spool.boot:
            self._spool.acknowledge(min(receipt.committed_seq, self._spool.facts().last_seq))
