"""An edge's part of an erasure: spool, local store, quarantine, devices, consent, and a search of every byte of its home.

The hub names a subject by digest; the edge finds whose it is among what it holds. The tombstone is on the disk first, so that
nothing new gets in while the old goes; what was under way in another thread meanwhile is caught by a second turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path

from wardround.clock import Clock
from wardround.collect.imports import Imports
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import DeviceRegistry
from wardround.collect.spool import Spool
from wardround.erasing.search import HOW, SHREDDED, remove_until_gone
from wardround.records import SubjectId
from wardround.trust.at_rest import PLAIN, Seal
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import ErasureBook, Receipt, digest_of


class EdgeErasing:
    """One edge's. Who asks while an erasure is under way waits for it: the hub asks again when its stream has broken."""

    def __init__(
        self,
        name: str,
        home: Path,
        *,
        book: ErasureBook,
        consents: ConsentRegister,
        registry: DeviceRegistry,
        pseudonym: Callable[[str], SubjectId],
        spool: Spool,
        local_store: LocalStore,
        quarantine: Quarantine,
        imports: Imports,
        clock: Clock,
        forget: Callable[[str], int] = lambda _subject: 0,
        seal: Seal = PLAIN,
    ) -> None:
        """`forget(subject)` takes the patient out of the bedside watch; how many alerts went."""
        self._name, self._home, self._book, self._clock = name, home, book, clock
        self._consents, self._registry, self._pseudonym = consents, registry, pseudonym
        self._spool, self._local, self._quarantine, self._imports = spool, local_store, quarantine, imports
        self._forget, self._seal = forget, seal
        self._lock = threading.Lock()

    def erase(self, digest: bytes) -> Receipt:
        """Erase the subject of a digest; called again, it goes on where it was cut off, and answers again when it was done."""
        with self._lock:
            return self._erase(digest)

    def _erase(self, digest: bytes) -> Receipt:
        known = [e for e in self._book.all() if e.digest == digest]
        settled = next((e.receipt for e in known if e.receipt is not None), None)
        if settled is not None and settled.clean:
            return settled
        subject = next((e.subject for e in known if e.subject), "") or self._whose(digest)
        self._consents.erase(digest)
        if not subject:
            return Receipt(place=self._name, t_us=self._clock.now_us(), known=False, removed={}, seconds=0.0)
        number = next((e.number for e in known if e.subject), 0) or self._book.ask(subject, "hub", "", self._clock.now_us())
        receipt = self._carry_out(subject)
        self._book.settle(number, receipt)
        return receipt

    def _whose(self, digest: bytes) -> str:
        patients = {str(self._pseudonym(d.patient)) for d in self._registry.all()}
        consented = {r.subject for r in self._consents.records()}
        candidates = patients | consented | self._local.subjects() | self._spool.subjects()
        return next((s for s in candidates if digest_of(s) == digest), "")

    def _carry_out(self, subject: str) -> Receipt:
        removed, seconds, search = remove_until_gone(self._home, subject, lambda: self._remove(subject), {})
        return Receipt(
            place=self._name,
            t_us=self._clock.now_us(),
            known=True,
            removed=removed,
            seconds=seconds,
            files=search.files,
            bytes_searched=search.bytes_searched,
            bytes_decoded=search.bytes_decoded,
            how=f"{HOW}; {SHREDDED}" if self._seal.on else HOW,
            found=(*search.found, *(f"not searched: {u}" for u in search.unread)),
        )

    def _remove(self, subject: str) -> dict[str, int]:
        shredded = {"data keys": self._seal.shred(subject)} if self._seal.on else {}  # first: what is left is unreadable
        devices = self._devices_of(subject)
        removed = shredded | {
            "observations that waited for the hub": self._spool.forget(subject, devices),
            "observations kept for training": self._local.forget(subject),
            "messages set aside": self._quarantine.forget_devices(devices),
            "batches of files": self._imports.forget_devices(devices),
            "devices": len(devices),
            "alerts": self._forget(subject),
        }
        for part in (self._spool, self._local, self._quarantine, self._imports):
            part.compact()
        return removed

    def _devices_of(self, subject: str) -> Collection[str]:
        """Take the patient's devices out of the registry; their names."""
        patients = {d.patient for d in self._registry.all() if self._pseudonym(d.patient) == subject}
        return [device for patient in patients for device in self._registry.remove_patient(patient)]
