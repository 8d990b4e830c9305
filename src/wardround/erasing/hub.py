"""The hub's part of an erasure: inbox, lake, staged parts, records, consent, and a search of every byte of its home.

The tombstone is on the disk first: from then on edges' copies are refused. What was under way in another thread meanwhile is
caught by a second turn. Models are not changed: those that were, or may have been, trained on the subject are listed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from wardround.clock import Clock
from wardround.collect.inbox import Inbox
from wardround.erasing.search import HOW, SHREDDED, Look, remove_until_gone
from wardround.process.lake import Lake
from wardround.process.search import search_parquet
from wardround.store import Store
from wardround.store.opening import RECORDS
from wardround.trust.at_rest import PLAIN, Seal
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import Erasure, ErasureBook, Receipt, digest_of, mask_of
from wardround.trust.exports import Export, ExportBook

log = structlog.get_logger(__name__)
DIGEST_BYTES = 32
LOOKS: dict[str, Look] = {".parquet": search_parquet}
HOW_HUB = f"{HOW}; every page of every Parquet file unpacked, and every byte of its columns of text"


class HubErasing:
    """One hub's. Call it from one thread at a time, while no job runs."""

    def __init__(
        self,
        home: Path,
        *,
        book: ErasureBook,
        exports: ExportBook,
        consents: ConsentRegister,
        inbox: Inbox,
        lake: Lake,
        store: Store,
        clock: Clock,
        forget: Callable[[str], None] = lambda _subject: None,
        seal: Seal = PLAIN,
    ) -> None:
        """`forget(subject)` makes a running hub forget what it has in memory."""
        self._home, self._book, self._consents, self._clock = home, book, consents, clock
        self._inbox, self._lake, self._store, self._forget = inbox, lake, store, forget
        self._exports = exports
        self._seal = seal

    def look(self) -> list[Erasure]:
        """Carry out what is asked for; those that are done now."""
        pending = [e for e in self._book.all() if e.receipt is None]
        for erasure in pending:
            self._book.settle(erasure.number, self._carry_out(erasure))
        return pending

    def again(self, edge: str, digests: Sequence[bytes]) -> int:
        """A hub that was restored from a backup hears from an edge who was erased since: they are erased once more; how many.

        What is here of them goes with the next `look`; the tombstone stands for the others as well.
        """
        known = {e.digest for e in self._book.all()} | self._consents.tombstones()
        new = {d for d in digests if len(d) == DIGEST_BYTES} - known
        there = {s for table in self._lake.tables() for s in self._subjects(table)} if new else set()
        back = [s for s in sorted(there) if digest_of(s) in new]
        for subject in back:  # before the tombstones: after a kill they are looked for again
            self._book.ask(subject, edge, "erased before: the hub was restored from a backup", self._clock.now_us())
        if new:
            self._consents.erase(*new)
        return len(back)

    def _subjects(self, table: str) -> set[str]:
        return set(self._lake.read(table, columns=["subject"]).column("subject").unique().to_pylist())

    def _carry_out(self, erasure: Erasure) -> Receipt:
        subject = erasure.subject
        edges = self._consents.edges_of(subject) or self._edges_in_lake(subject)
        self._consents.erase(erasure.digest)
        self._forget(subject)
        removed, seconds, search = remove_until_gone(self._home, subject, lambda: self._remove(subject), LOOKS)
        kept = [f"records: {table}" for table in self._store.holding(subject)]
        apart = "" if (self._home / RECORDS).exists() else f"; every cell of the records at {self._store.where}"
        return Receipt(
            place="hub",
            t_us=self._clock.now_us(),
            known=bool(edges) or any(removed.values()),
            removed=removed,
            seconds=seconds,
            files=search.files,
            bytes_searched=search.bytes_searched,
            bytes_decoded=search.bytes_decoded,
            how=HOW_HUB + apart + (f"; {SHREDDED} (the inbox alone is encrypted here)" if self._seal.on else ""),
            found=(*search.found, *kept, *(f"not searched: {u}" for u in search.unread)),
            exports=tuple(_facts(e) for e in self._exports.of(erasure.digest)),
            models=tuple(self._models(set(edges))),
        )

    def _edges_in_lake(self, subject: str) -> list[str]:
        rows = self._lake.read("bronze_observations", columns=["edge"], subjects=[subject])
        return sorted(set(rows.column("edge").to_pylist()))

    def _remove(self, subject: str) -> dict[str, int]:
        removed = {"data keys": self._seal.shred(subject)} if self._seal.on else {}  # first: what is left is unreadable
        removed["observations in the inbox"] = self._inbox.forget(subject)
        self._inbox.compact()
        staging = self._home / "staging"
        staged = [p for p in staging.rglob("*") if p.is_file()] if staging.is_dir() else []
        if any(subject.encode() in p.read_bytes() for p in staged):  # of a job that was cut off: it is done anew
            shutil.rmtree(staging)
            removed["staged files"] = len(staged)
        removed |= {f"rows of {table}": rows for table, rows in self._lake.erase(subject, mask_of(subject)).items()}
        removed["records written over"] = self._store.mask(subject, mask_of(subject))
        return removed

    def _models(self, edges: set[str]) -> list[dict[str, str | int]]:
        """Models that an update of one of the subject's edges went into, and every model that comes after one."""
        listed: list[dict[str, str | int]] = []
        for study in self._store.studies():
            stages = {m.number: m.stage for m in self._store.models(study.name)}
            touched = False
            for record in self._store.rounds(study.name):
                touched = touched or bool(edges & set(record.facts.get("folded", {})))
                if touched:
                    facts: dict[str, str | int] = {"study": study.name, "round": record.number, "model": record.model}
                    listed.append(facts | {"stage": stages.get(record.number, "")})
        return listed


def _facts(export: Export) -> dict[str, str | int]:
    return {"study": export.study, "export": export.number, "t_us": export.t_us, "who": export.who, "format": export.format}
