"""What a hub writes down: the audit log, denials told once a minute, and the list of what happened."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import msgspec
import structlog

from wardround.clock import Clock
from wardround.errors import WardroundError
from wardround.store import Happening, Store
from wardround.trust.audit import Head
from wardround.trust.audit_files import HEADS_STATE, KeptHead, open_log, verify_log
from wardround.trust.erasures import Receipt

log = structlog.get_logger(__name__)
DENIAL_S, DENIALS_MAX = 60.0, 30  # of one kind within that time: whoever knocks may think of a new name each time
HEADS_S = 30.0  # between two looks at what one edge keeps: it gets a new head no sooner, and each look reads the whole log
DETAIL_MAX = 500


class Recorder:
    """The hub's one writer of its audit log."""

    def __init__(self, home: Path, store: Store, clock: Clock) -> None:
        """Open the log of a home."""
        self._home = home
        self._store = store
        self._clock = clock
        self.audit = open_log(home, clock)
        self._denials_s: dict[tuple[str, str], float] = {}  # what, and of whom: when it was last written down
        self._lock = threading.Lock()
        self._kept: dict[str, Head] = {}  # by edge: said, and not looked at yet
        self._looked_s: dict[str, float] = {}  # by edge

    def record(self, kind: str, what: str, who: str, **facts: object) -> None:
        """An entry of the audit log.

        Raises:
            StorageFull, AuditBroken: it could not be recorded; what was to be recorded must not be done.
        """
        self.audit.add(kind, what, who, **facts)

    def denial(self, what: str, who: str, **facts: object) -> None:
        """Record that somebody was denied something; the same again within a minute is one entry, and of one kind a few are
        entries, and that there were more."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._denials_s = {key: at_s for key, at_s in self._denials_s.items() if now_s - at_s < DENIAL_S}
            of_kind = sum(kind == what for kind, _ in self._denials_s)
            if of_kind >= DENIALS_MAX:
                who, facts = "", {"more": f"than {DENIALS_MAX} a minute"}
            key = (what, f"{who} {facts.get('reason', '')}")
            if key in self._denials_s:
                return
            self._denials_s[key] = now_s
        try:
            self.record("denied", what, who, **facts)
        except WardroundError as error:  # it stays denied all the same
            log.error("a denial could not be recorded", error=str(error))

    def for_desk(self, kind: str, what: str, who: str, **facts: object) -> None:
        """What a desk says of a person or a program: an entry, or a denial.

        Raises:
            StorageFull, AuditBroken: as `record`; a denial raises nothing.
        """
        (self.denial if kind == "denied" else partial(self.record, kind))(what, who, **facts)

    def happened(self, title: str, detail: str = "") -> None:
        """A line in "what happened"."""
        self._store.happened(Happening(self._clock.now_us(), title, detail))
        try:
            self.record("system", "happened", "hub", title=title)
        except WardroundError as error:  # it has happened all the same
            log.error("what happened could not be recorded", error=str(error))

    def head_kept(self, edge: str, head: Head) -> None:
        """An edge has attached and says which head of the audit log it keeps: `look_at_heads` does what follows from it."""
        with self._lock:
            self._kept[edge] = head

    def look_at_heads(self) -> None:
        """Note what edges have said that they keep, and hold the log beside all of it at once: after a hub's start thousands say
        so within a minute, and each look reads the whole log. Call it about once a second, in a thread."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            due = [edge for edge in self._kept if now_s - self._looked_s.get(edge, -HEADS_S) >= HEADS_S]
            kept = {edge: self._kept.pop(edge) for edge in due}
            self._looked_s.update(dict.fromkeys(due, now_s))
        if not kept:
            return
        heads = msgspec.json.decode(self._store.load_state(HEADS_STATE) or b"{}", type=dict[str, KeptHead])
        now_us = self._clock.now_us()
        heads |= {edge: KeptHead(head.entries, head.hash.hex(), now_us) for edge, head in kept.items()}
        self._store.save_state(HEADS_STATE, msgspec.json.encode(heads))
        try:
            if not verify_log(self._home, list(kept.values())).wrong:
                return
            for edge, head in kept.items():  # whose is it?
                if wrong := verify_log(self._home, [head]).wrong:
                    log.critical("the audit log does not hold", edge_id=edge, found=wrong)
                    self.happened("The audit log does not hold", f"against the head that {edge} keeps: {wrong[0]}")
        except (WardroundError, OSError) as error:
            log.error("the audit log could not be verified", error=str(error))

    def erased(self, number: int, receipt: Receipt) -> None:
        """A place says that a subject is gone from it."""
        if receipt.known:
            found = "nothing of it is left" if receipt.clean else f"it is still in {', '.join(receipt.found)}"
            self.happened(f"Erasure {number} carried out at {receipt.place}", found[:DETAIL_MAX])
            self.record("delete", "erasure carried out", receipt.place, number=number, clean=receipt.clean)

    def close(self) -> None:
        """Close the log."""
        self.audit.close()
