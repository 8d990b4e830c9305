"""The edge's side of a round, without a network: what to do with an order, and what is kept until the hub's receipt.

An update is on the edge's disk before its upload begins. After a restart an order for the same round finds it there: it is
uploaded from where the hub stopped, and nothing is trained twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from wardround.learn.blobs import Blobs
from wardround.learn.coordinator import Order, Upload, new_upload


class _Kept(msgspec.Struct, frozen=True):
    """What stands beside a kept update."""

    study: str
    round_number: int
    task: str
    base: str
    examples: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Ready:
    """An update to upload."""

    upload: Upload
    data: bytes


class Participant:
    """One edge's memory of its rounds: at most one kept update a study."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def ready(self, order: Order) -> Ready | None:
        """The kept update that answers this order; None when it has to be trained."""
        try:
            kept = msgspec.json.decode(self._blobs.read(f"{order.study}.json"), type=_Kept)
            data = self._blobs.read(f"{order.study}.safetensors")
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        same = (kept.round_number, kept.task, kept.base) == (order.round_number, order.task, order.base)
        return Ready(new_upload(order, data, kept.examples, kept.metrics), data) if same else None

    def forget(self, study: str) -> None:
        """Drop the kept update: the hub has refused it, and would refuse it again in the next attempt at the same round."""
        self._blobs.delete(f"{study}.json")

    def keep(self, order: Order, data: bytes, examples: int, metrics: dict[str, float]) -> Ready:
        """Keep a finished update; durable when this returns. The facts follow the data, so half a write is no update."""
        self._blobs.delete(f"{order.study}.json")
        self._blobs.write(f"{order.study}.safetensors", data)
        kept = _Kept(order.study, order.round_number, order.task, order.base, examples, metrics)
        self._blobs.write(f"{order.study}.json", msgspec.json.encode(kept))
        return Ready(new_upload(order, data, examples, metrics), data)
