"""The edge's side of a round, without a network: what to do with an order, and what is kept until the hub's receipt.

An update is on the edge's disk before its upload begins. After a restart an order for the same round finds it there: it is
uploaded from where the hub stopped, and nothing is trained twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from wardround.clock import Clock, SystemClock
from wardround.learn.blobs import Blobs
from wardround.learn.messages import Done, Order, Upload, UploadReceipt, new_upload
from wardround.learn.receipts import Receipts
from wardround.malformed import MALFORMED


class _Kept(msgspec.Struct, frozen=True):
    """What stands beside a kept update."""

    study: str
    round_number: int
    task: str
    base: str
    examples: int
    metrics: dict[str, float]
    sha256: str
    rows: bytes = b""
    masks: str = ""  # digest of Order.masks: a masked update is for one session alone


@dataclass(frozen=True, slots=True)
class Ready:
    """An update to upload."""

    upload: Upload
    data: bytes


class Participant:
    """One edge's memory of its rounds: at most one kept update a study."""

    def __init__(self, blobs: Blobs, clock: Clock | None = None) -> None:
        """`clock` stamps the receipts; the machine's own if left out."""
        self._blobs = blobs
        self.receipts = Receipts(blobs, (clock or SystemClock()).now_us)

    def ready(self, order: Order) -> Ready | None:
        """The kept update that answers this order; None when it has to be trained."""
        try:
            kept = msgspec.json.decode(self._blobs.read(f"{order.study}.json"), type=_Kept)
            data = self._blobs.read(f"{order.study}.safetensors")
        except (FileNotFoundError, *MALFORMED):
            return None
        asked = (order.round_number, order.task, order.base, _masks(order))
        same = (kept.round_number, kept.task, kept.base, kept.masks) == asked
        return Ready(new_upload(order, data, kept.examples, kept.metrics, kept.rows), data) if same else None

    def kept(self, study: str, since: int = 0) -> bytes:
        """What the edge keeps for a study from its newest update that the hub counts; empty at first.

        What is from round `since` or before has lost its other half in a rollback, and is not given.
        """
        if since and int(self._read(f"{study}.kept.round") or b"0") <= since:
            return b""
        return self._read(f"{study}.kept.safetensors")

    def unsettled(self, study: str) -> Upload | None:
        """The kept update whose receipt never came, if it would change what the edge keeps: ask the hub whether it counts."""
        if self._blobs.size(f"{study}.next.safetensors") == 0:
            return None
        try:
            kept = msgspec.json.decode(self._blobs.read(f"{study}.json"), type=_Kept)
        except (FileNotFoundError, *MALFORMED):
            return None
        return Upload(study, kept.round_number, kept.task, kept.base, 0, kept.sha256, kept.examples)

    def settle(self, study: str, *, counts: bool) -> None:
        """The hub has said whether the kept update counts: only then does what the edge keeps move on."""
        if counts and (following := self._read(f"{study}.next.safetensors")):
            # The number first: a kill in between leaves `next` in place, and this is done again before anything is trained.
            self._blobs.write(f"{study}.kept.round", str(self._round_number(study)).encode())
            self._blobs.write(f"{study}.kept.safetensors", following)
        self._blobs.delete(f"{study}.next.safetensors")
        if not counts:  # it would be refused again in the next attempt at the same round
            self._blobs.delete(f"{study}.json")

    def answered(self, order: Order, receipt: UploadReceipt) -> None:
        """The hub's answer to the update of an order: what the edge keeps follows it, and a person can see it."""
        self.settle(order.study, counts=receipt.accepted)
        verdict = "accepted" if receipt.accepted else "refused"
        self.receipts.note(order.study, order.round_number, verdict, receipt.reason, receipt.detail)

    def keep(self, order: Order, done: Done) -> Ready:
        """Keep a finished update; durable when this returns. The facts follow the data, so half a write is no update."""
        self._blobs.delete(f"{order.study}.json")
        self._blobs.delete(f"{order.study}.next.safetensors")
        self._blobs.write(f"{order.study}.safetensors", done.data)
        if done.kept:
            self._blobs.write(f"{order.study}.next.safetensors", done.kept)
        upload = new_upload(order, done.data, done.examples, done.metrics, done.rows)
        facts = (order.study, order.round_number, order.task, order.base, done.examples, dict(done.metrics), upload.sha256)
        kept = _Kept(*facts, done.rows, _masks(order))
        self._blobs.write(f"{order.study}.json", msgspec.json.encode(kept))
        return Ready(upload, done.data)

    def _round_number(self, study: str) -> int:
        """The round of the update on disk."""
        try:
            return msgspec.json.decode(self._read(f"{study}.json"), type=_Kept).round_number
        except MALFORMED:
            return 0

    def _read(self, name: str) -> bytes:
        try:
            return self._blobs.read(name)
        except FileNotFoundError:
            return b""


def _masks(order: Order) -> str:
    return hashlib.sha256(order.masks).hexdigest() if order.masks else ""
