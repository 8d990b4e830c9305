"""A hub's live drills over memory links: the real coordinator, watch, worker and edge's part, and no network between."""

from __future__ import annotations

import asyncio
import collections
import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wardround.clock import ManualClock, SystemClock
from wardround.errors import TrustError
from wardround.hub.telling import Telling
from wardround.learn.drills import ABILITY, DrillPart
from wardround.learn.messages import Order, new_upload
from wardround.learn.trainer import TrainingFailed, Worker
from wardround.live_drills.desk import LiveDrills
from wardround.live_drills.plan import SHOWN, TOPIC, Shown
from wardround.records import EdgeId
from wardround.settings import HubSettings
from wardround.simulation.toy import signed
from wardround.store import Request, open_store
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.signatures import HubSigner, check_drill_signature
from wardround.watch.watcher import Watch

TURN_S = 0.05  # of the clock
EDGES = tuple(f"icu-{i}" for i in range(9))


def hub_signer(folder: Path) -> tuple[HubSigner, bytes]:
    """A hub's signer, and the authority that its edges know."""
    authority, key = Authority.create(folder, "test"), new_key()
    write_private(folder / "hub.key", key_pem(key))
    write_private(folder / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 24.0))
    return HubSigner(folder), authority.pem


@dataclass
class Edges:
    """The link, and every edge behind it; an edge works on its order when it is asked to."""

    authority: bytes
    allow: frozenset[str] = frozenset(EDGES)
    names: tuple[str, ...] = EDGES

    def __post_init__(self):
        self.attached = {EdgeId(name) for name in self.names}
        self.orders = collections.deque()
        self.log, self.worker = [], Worker()
        self.clock = ManualClock(SystemClock().now_us())
        self.parts = {name: self.part(name) for name in self.names}

    def part(self, name: str) -> DrillPart:
        def check(own):
            now_us = self.clock.now_us()
            check_drill_signature(own.charter, own.signature, own.certificate, self.authority, now_us=now_us)

        return DrillPart(
            name,
            allowed=name in self.allow,
            check=check,
            now_us=self.clock.now_us,
            note=lambda what, **facts: self.log.append((name, what, facts)),
        )

    def abilities(self, edge):
        return {ABILITY} if edge in self.allow else set()

    def send(self, edge, message, study):
        if isinstance(message, Order):
            self.orders.append((edge, message))

    async def run(self, work):
        return self.worker.run(work)

    def answer(self, edge, order, coordinator):
        """What this edge does with an order, as grpc_edge.py has it."""
        part = self.parts[edge]
        if reason := part.why_not(order):
            coordinator.fail(edge, order.round_number, reason, declined=True)
            return
        try:
            done = asyncio.run(part.train(order, order.model, home="/nowhere", run=self.run))
        except TrainingFailed as error:
            coordinator.fail(edge, order.round_number, str(error))
            return
        upload = signed(edge, new_upload(order, done.data, done.examples, done.metrics, done.rows))
        coordinator.append(edge, upload, 0, done.data)
        coordinator.finish(edge, upload)


@dataclass
class LiveHub:
    """A hub's store, watch and live drills, asked as the command asks them."""

    home: Path
    edges: Edges
    signer: HubSigner
    log: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    asked: int = 0

    def __post_init__(self):
        self.clock = self.edges.clock
        self.store = open_store(self.home / "hub.sqlite")
        self.start()

    def start(self):
        """Or again, after a kill."""
        saved = self.store.load_state("alert-book") or b""
        self.watch = Watch(clock=self.clock, heartbeat_s=2.0, signal_title=str, on_change=self.changed, saved=saved)
        self.telling = Telling(self.home, HubSettings(), store=self.store, clock=self.clock, watch=self.watch, recorder=self)
        self.out = []
        self.telling.outbox.put = self.out.append
        self.drills = LiveDrills(
            self.home,
            store=self.store,
            clock=self.clock,
            watch=self.watch,
            link=lambda: self.edges,
            sign=lambda charter: (self.signer.sign_drill(charter), self.signer.certificate),
            held=lambda _edge: "",
            told=self.telling.drills,
            record=self.record,
            happened=self.happened,
        )

    def changed(self, alert):
        if hasattr(self, "telling"):
            self.telling.changed(alert)

    def record(self, kind, what, who, **facts):
        self.log.append((what, who, facts))

    def happened(self, title, detail=""):
        self.lines.append(title)

    def ask(self, act, body=None) -> Request:
        """What the hub answers."""
        self.asked += 1
        name = f"r{self.asked}"
        self.store.put_request(Request(name, TOPIC, act, body or {}, "kim", self.clock.now_us()))
        self.drills.look()
        return self.store.request(name)

    def shown(self) -> Shown:
        return msgspec.json.decode(self.store.load_state(SHOWN), type=Shown)

    def play(self, rounds=10_000):
        """Let edges work and rounds come to their ends until the drill is over, or so many orders were answered."""
        for _ in range(rounds):
            taking = list(self.drills.taking.values())
            if not taking:
                break
            self.clock.advance(TURN_S)
            taking[0].tick()
            while self.edges.orders:
                edge, order = self.edges.orders.popleft()
                self.edges.answer(edge, order, taking[0])
            self.drills.turn()
        self.drills.look()

    def close(self):
        self.drills.close()
        self.telling.outbox.close()
        self.store.close()


class Asked:
    """A hub as wardround.drill.live.LiveCourse asks one."""

    def __init__(self, hub: LiveHub):
        self.hub = hub

    def edges(self):
        return json.loads(self.hub.ask("edges").answer)

    def start(self, plan):
        answered = self.hub.ask("start", msgspec.to_builtins(plan))
        if answered.state != "done":
            raise TrustError(answered.answer, remedy="")
        return answered.answer

    def wait(self, study):
        self.hub.play()
        return self.hub.shown()

    def stop(self):
        self.hub.ask("stop")
