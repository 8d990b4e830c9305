"""From a broker's messages to the gateway: group commit, acknowledgements after it, and back-pressure when there is no room.

A message whose acknowledgement the broker holds back (QoS 1 and 2) is kept here until it is on the disk, however long that
takes; one without (QoS 0) is forgotten when there is no room, and a device that numbers its messages sends it again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from wardround.collect.gateway import Gateway, Receipt
from wardround.errors import StorageFull

log = structlog.get_logger(__name__)
BYTES_MAX = 64_000_000  # of messages that are not durable yet: a queue of large ones would fill the memory
RETRY_S = 1.0  # how soon what found no room is tried again
TOPIC_PARTS = 6  # wr/dev/{device}/up/{boot}/{seq}


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message of a device; `seq` 0 for a plain device. `repeated`: its sender says it may have sent it before."""

    device: str
    boot: str
    seq: int
    payload: bytes
    repeated: bool = False
    acknowledge: Callable[[], None] | None = None  # called in the loop once it is durable


Work = Message | Callable[[], None]
SendReceipt = Callable[[str, bytes], Awaitable[None]]


def parse_topic(topic: str) -> tuple[str, str, int] | None:
    """Device, boot and sequence of an upward topic; None when it is not one."""
    parts = topic.split("/")
    if len(parts) < 4 or parts[:2] != ["wr", "dev"] or parts[3] != "up" or not parts[2]:
        return None
    if len(parts) == 4:
        return parts[2], "", 0
    if len(parts) != TOPIC_PARTS or not parts[4] or len(parts[4]) > 40 or not parts[5].isdecimal() or len(parts[5]) > 15:
        return None
    seq = int(parts[5])
    return (parts[2], parts[4], seq) if seq else None


class Collector:
    """One edge's. Everything here runs in one asyncio loop; the gateway's work in a thread, one group at a time."""

    def __init__(self, gateway: Gateway, *, queue_max: int, commit_interval_s: float, commit_observations_max: int) -> None:
        self._gateway = gateway
        self._interval_s, self._group_max = commit_interval_s, commit_observations_max
        self._queue: asyncio.Queue[Work] = asyncio.Queue(queue_max)
        self._bytes = 0  # of all that was offered and is not dealt with
        self._less = asyncio.Event()
        self._held: list[Message] = []  # there was no room for them, and their acknowledgement waits
        self._dropped = 0

    async def run(self, send: SendReceipt) -> None:
        """Collect until cancelled; `send(topic, body)` gives a device its receipt."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._batch(loop)
            refused = self._gateway.counts.refused
            try:
                receipts = await asyncio.to_thread(self._work, batch)
            except StorageFull as error:
                receipts = []
                log.error("gateway refuses", reason=str(error), messages=len(batch))
            await self._answer(batch, receipts, send)
            self._dealt_with(batch)
            if self._gateway.counts.refused != refused:
                await asyncio.sleep(RETRY_S)  # a full disk is not filled faster by asking often

    async def offer(self, message: Message) -> None:
        """Hand over a message; waits while the queue is full, unless nobody waits for its acknowledgement."""
        if message.acknowledge is None:
            self.offer_now(message)
            return
        while not self._has_room(message):
            await self._less.wait()
        self._bytes += len(message.payload)
        await self._queue.put(message)

    def offer_now(self, message: Message) -> None:
        """Hand over a message, or drop it when the queue is full."""
        if self._has_room(message) and not self._queue.full():
            self._bytes += len(message.payload)
            self._queue.put_nowait(message)
            return
        self._dropped += 1  # no receipt: the device sends it again
        if self._dropped % 1_000 == 1:
            log.warning("collector queue is full", dropped=self._dropped)

    def _has_room(self, message: Message) -> bool:
        return not self._bytes or self._bytes + len(message.payload) <= BYTES_MAX

    def _dealt_with(self, batch: Sequence[Work]) -> None:
        """What is held stays in memory."""
        gone = sum(len(work.payload) for work in batch if isinstance(work, Message))
        self._bytes -= gone - sum(len(message.payload) for message in self._held)
        self._less.set()
        self._less = asyncio.Event()

    async def ask(self, work: Callable[[], None]) -> None:
        """Have something done with the gateway, between two messages."""
        await self._queue.put(work)

    async def _batch(self, loop: asyncio.AbstractEventLoop) -> list[Work]:
        """What found no room before, and what comes until the interval or the size of a group is reached."""
        batch: list[Work] = list(self._held)
        if not batch:
            batch.append(await self._queue.get())
        until = loop.time() + self._interval_s
        while len(batch) < self._group_max + len(self._held):
            while not self._queue.empty() and len(batch) < self._group_max + len(self._held):
                batch.append(self._queue.get_nowait())
            if (left := until - loop.time()) <= 0 or len(self._held) >= self._queue.maxsize:
                break
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), left))
            except TimeoutError:
                break
        return batch

    def _work(self, batch: Sequence[Work]) -> list[Receipt]:
        for work in batch:
            if isinstance(work, Message):
                self._gateway.receive(work.device, work.boot, work.seq, work.payload, repeated=work.repeated)
            else:
                work()
        return self._gateway.commit()

    async def _answer(self, batch: Sequence[Work], receipts: Sequence[Receipt], send: SendReceipt) -> None:
        """Acknowledge what is durable, hold what is not, and give the receipts."""
        asked = [work for work in batch if isinstance(work, Message) and work.acknowledge is not None]
        self._held = [m for m in asked if not self._gateway.has(m.device, m.boot, m.seq, m.payload)]
        held = {id(message) for message in self._held}
        for message in asked:
            if id(message) not in held and message.acknowledge is not None:
                message.acknowledge()
        for receipt in receipts:
            await send(f"wr/dev/{receipt.device}/down/receipt", json.dumps({"boot": receipt.boot, "seq": receipt.seq}).encode())
