"""Many virtual edges in one process, each with its own gate, spool, forwarder and agent of rounds over its own mutual TLS.

A device sends its messages by number, so that what is sent again after a SIGKILL is the same message; beside each edge's spool
stands how many numbers its devices have had receipts for. The training costs nothing.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround import __version__
from wardround.clock import SystemClock
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.forwarder import Forwarder, may_leave
from wardround.collect.gateway import Gateway
from wardround.collect.grpc_link import run_forwarding
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.learn.blobs import FolderBlobs
from wardround.learn.condition import Condition
from wardround.learn.grpc_edge import EdgeLink
from wardround.learn.grpc_relay import HubSource
from wardround.learn.grpc_wire import Beat
from wardround.learn.manifests import Signed
from wardround.learn.messages import Done, Order
from wardround.learn.models import decode_model, encode_model
from wardround.learn.participant import Participant
from wardround.learn.shelf import Shelf
from wardround.records import Consent, SubjectId
from wardround.settings import SpoolSettings
from wardround.trust.channel import HubChannel
from wardround.trust.consent import ConsentRecord
from wardround.trust.signatures import EdgeSigner, check_signature

HEARTBEAT_S = 2.0
STEP_US = 1_000_000  # from a device's message to its next
EXAMPLES = 50


@dataclass(frozen=True)
class Plan:
    """What every process of edges is told."""

    home: Path
    devices: int  # of each edge
    period_s: float  # from a device's message to its next, as they are sent
    start_us: int  # time of the messages before the first
    features: int
    classes: int


def devices_of(edge: str, n: int) -> list[str]:
    """Their names."""
    return [f"{edge}-d{k}" for k in range(n)]


def sent_of(home: Path, edge: str) -> int:
    """How many messages each of an edge's devices has had a receipt for."""
    try:
        return int((home / edge / "sent").read_text())
    except FileNotFoundError:
        return 0


def edges_main(plan: Plan, names: Sequence[str], port: int) -> None:
    """The process, until it is killed."""
    log = os.open(plan.home / f"{names[0]}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    asyncio.run(_edges(plan, names, port))


async def _edges(plan: Plan, names: Sequence[str], port: int) -> None:
    async with asyncio.TaskGroup() as group:
        for k, name in enumerate(names):
            edge = VirtualEdge(plan, name, port)
            group.create_task(edge.measure(k / len(names) * plan.period_s))
            group.create_task(run_forwarding(edge.channel, edge.forwarder, edge.refused))
            group.create_task(edge.link.run())


class VirtualEdge:
    """One edge and its devices."""

    def __init__(self, plan: Plan, name: str, port: int) -> None:
        self._plan, self._name, self._home = plan, name, plan.home / name
        identity = self._home / "identity"
        self._devices = devices_of(name, plan.devices)
        self._spool = Spool(FolderStorage(self._home / "spool"), SpoolSettings(ballast_bytes=0))
        self._gateway = Gateway(
            edge=name,
            registry={d: Device(d, f"P-{d}", "", "") for d in self._devices},
            signals=load_signals(),
            consent=_allows,
            pseudonym=SubjectId,
            spool=self._spool,
            local_store=LocalStore(FolderStorage(self._home / "local")),
            quarantine=Quarantine(FolderStorage(self._home / "spool")),
            clock=SystemClock(),
            simulated=True,
        )
        consents = [ConsentRecord(SubjectId(f"P-{d}"), "*", Consent.RAW, 1) for d in self._devices]
        self.channel, signer = HubChannel(identity, "127.0.0.1", port), EdgeSigner(identity)
        self.forwarder = Forwarder(self._spool, lambda: (0, consents), lambda row: may_leave(row, _allows))
        authority = (identity / "ca.pem").read_bytes()

        def verify(signed: Signed) -> None:
            now_us = SystemClock().now_us()
            check_signature(signed.manifest, signed.signature, signed.certificate, authority, now_us=now_us)

        shelf, hub = Shelf(FolderBlobs(self._home / "models"), verify=verify), HubSource(self.channel)
        self.link = EdgeLink(
            channel=self.channel,
            participant=Participant(FolderBlobs(self._home / "learn")),
            train=self._train,
            beat=lambda: Beat(EXAMPLES, 0, 0, ""),
            heartbeat_s=HEARTBEAT_S,
            version=__version__,
            fetch=lambda order: shelf.get(order.base, [hub]),
            condition=lambda _at_work: Condition(True, None, "wired", None, False, 0.0),
            sign=signer.sign,
        )

    def refused(self, refusal: object) -> None:
        """The hub would not have an observation: nobody here sends what it may refuse."""
        with (self._plan.home / "refused").open("a") as out:
            out.write(f"{self._name} {refusal}\n")

    async def measure(self, wait_s: float) -> None:
        """Every device's next message, made durable together, again and again until it is calm."""
        await asyncio.sleep(wait_s)
        while not (self._plan.home / "calm").exists():
            number = sent_of(self._plan.home, self._name) + 1
            receipts = await asyncio.to_thread(self._take, number)
            if receipts == len(self._devices):
                (self._home / "sent.new").write_text(str(number))
                (self._home / "sent.new").replace(self._home / "sent")
            await asyncio.sleep(self._plan.period_s)
        (self._home / "calm").touch()

    def _take(self, number: int) -> int:
        t_us = self._plan.start_us + number * STEP_US
        for device in self._devices:
            reading = Reading(name="heart-rate", unit="/min", t_us=t_us, value=60.0 + number % 40)
            self._gateway.receive(device, "life", number, encode_pack([reading], base_name=f"urn:dev:{device}:", form="cbor"))
        return len(self._gateway.commit())

    async def _train(self, order: Order, model: bytes, _kept: bytes) -> Done:
        own = np.random.default_rng([zlib.crc32(self._name.encode()), order.round_number])
        if order.task == "statistics":
            ones = np.ones(self._plan.features)
            sums = {"count": EXAMPLES * ones, "sum": 0.0 * ones, "sum_squares": EXAMPLES * ones}
            return Done(encode_model({**sums, "classes": np.full(self._plan.classes, EXAMPLES / self._plan.classes)}), EXAMPLES)
        base = {n: t for n, t in decode_model(model).items() if not n.startswith("scale.")}
        update = {n: (0.1 * (own.normal(size=t.shape) - t)).astype(np.float32) for n, t in base.items()}
        return Done(encode_model(update), EXAMPLES, {"loss": 1.0})


def _allows(_subject: str, _code: str) -> tuple[Consent, int]:
    return Consent.RAW, 1
